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

static uint64_t every_lane(uint64_t bits, size_t lane_bytes)
{
    return bits * (lane_bytes == 2 ? 0x0001000100010001u : 0x0000000100000001u);
}

/* An exponent of ones, and no other, carries into the sign's place when its lowest bit is added:
 * so that a word of two or four elements takes three operations, in any instruction set. */
size_t sc_dtype_count_finite(const void *data, enum sc_dtype dtype, size_t n)
{
    enum { BLOCK_BYTES = 256 };
    const size_t bytes = sc_dtype_bytes(dtype), block = BLOCK_BYTES / bytes;
    const uint64_t ones = dtype == SC_DTYPE_F32    ? 0x7f800000u
                          : dtype == SC_DTYPE_BF16 ? 0x7f80u
                                                   : 0x7c00u;
    const uint64_t exponent = every_lane(ones, bytes), lowest = every_lane(ones & -ones, bytes);
    const uint64_t sign = every_lane((uint64_t)1 << (8 * bytes - 1), bytes);
    const unsigned char *p = data;
    size_t i = 0;

    for (; n - i >= block; i += block) {
        uint64_t any = 0;
        for (size_t at = 0; at < BLOCK_BYTES; at += sizeof(any)) {
            uint64_t word;
            memcpy(&word, p + i * bytes + at, sizeof(word));
            any |= (word & exponent) + lowest;
        }
        if ((any & sign) != 0)
            break;
    }
    for (; i < n; i++) {
        uint32_t element = 0; /* little-endian, as safetensors is */
        memcpy(&element, p + i * bytes, bytes);
        if ((element & ones) == ones)
            break;
    }
    return i;
}
