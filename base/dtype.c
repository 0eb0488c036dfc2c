#include "base/dtype.h"

const char *sc_dtype_name(enum sc_dtype dtype)
{
    static const char *const names[SC_DTYPE_COUNT] = {"f32", "bf16", "int8", "f16", "i32"};
    return (unsigned)dtype < SC_DTYPE_COUNT ? names[dtype] : "unknown";
}

float sc_f16_to_f32(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000u) << 16, exp = (v >> 10) & 0x1fu, man = v & 0x3ffu, u;
    float f;
    if (exp == 0x1fu) {
        u = sign | 0x7f800000u | (man << 13);
    } else if (exp != 0) {
        u = sign | ((exp + 112u) << 23) | (man << 13);
    } else { /* zero or subnormal: man * 2^-24 is exact in f32 */
        f = (float)man * 0x1p-24f;
        memcpy(&u, &f, sizeof(u));
        u |= sign;
    }
    memcpy(&f, &u, sizeof(f));
    return f;
}
