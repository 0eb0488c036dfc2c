/* cpu/simd_plain.h - simd.h in plain C: four vectors of four lanes, for any machine. Private to
 * cpu/. */

/* Register tiles: assume 16 registers, four to a vf. */
#define MM_ROWS   2
#define MM_COLS   1
#define QK_COLS   1
#define PV_COLS   1
#define PV_WIDE   1 /* of few queries */
#define AT_TILE   2
#define DIST_ROWS 2 /* distances: rows x 16-lane columns */
#define DIST_COLS 1

typedef float v4 __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));
typedef struct {
    v4 q[4];
} vf;

#define V_EACH(expr)                                                                               \
    vf ret;                                                                                        \
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) ret.q[i] = (expr);                         \
    return ret

INLINE v4 v4_pick(v4i mask, v4 yes, v4 no)
{
    return (v4)((mask & (v4i)yes) | (~mask & (v4i)no));
}
INLINE vf v_set1(float x)
{
    V_EACH(((v4){x, x, x, x}));
}
INLINE vf v_zero(void)
{
    return v_set1(0.0f);
}
INLINE vf v_load(const float *p)
{
    vf x;
    memcpy(&x, p, sizeof(x));
    return x;
}
INLINE vf v_loadn(const float *p, uint32_t n)
{
    vf x = v_zero();
    memcpy(&x, p, n * sizeof(float));
    return x;
}
INLINE void v_store(float *p, vf x)
{
    memcpy(p, &x, sizeof(x));
}
INLINE void v_storen(float *p, vf x, uint32_t n)
{
    memcpy(p, &x, n * sizeof(float));
}
INLINE vf v_add(vf a, vf b)
{
    V_EACH(a.q[i] + b.q[i]);
}
INLINE vf v_sub(vf a, vf b)
{
    V_EACH(a.q[i] - b.q[i]);
}
INLINE vf v_mul(vf a, vf b)
{
    V_EACH(a.q[i] * b.q[i]);
}
INLINE vf v_div(vf a, vf b)
{
    V_EACH(a.q[i] / b.q[i]);
}
INLINE vf v_fma(vf a, vf b, vf c)
{
    V_EACH(a.q[i] * b.q[i] + c.q[i]);
}
INLINE vf v_max(vf a, vf b)
{
    V_EACH(v4_pick(a.q[i] > b.q[i], a.q[i], b.q[i]));
}
INLINE vf v_min(vf a, vf b)
{
    V_EACH(v4_pick(a.q[i] < b.q[i], a.q[i], b.q[i]));
}
INLINE vf v_sqrt(vf x)
{
    float f[16];
    v_store(f, x);
    for (int i = 0; i < 16; i++)
        f[i] = sqrtf(f[i]);
    return v_load(f);
}
INLINE vf v_keep(vf x, uint32_t lo, uint32_t hi, vf other)
{
    float f[16], g[16];
    v_store(f, x);
    v_store(g, other);
    for (uint32_t i = 0; i < 16; i++)
        g[i] = i >= lo && i < hi ? f[i] : g[i];
    return v_load(g);
}
INLINE bool v_any_above(vf a, vf b, vf limit)
{
    v4i any = {0, 0, 0, 0};
    for (int i = 0; i < 4; i++)
        any |= (a.q[i] > limit.q[i]) | (b.q[i] > limit.q[i]);
    return (any[0] | any[1] | any[2] | any[3]) != 0;
}
INLINE vf v_zero_below(vf x, vf limit, vf y)
{
    V_EACH(v4_pick(x.q[i] < limit.q[i], (v4){0, 0, 0, 0}, y.q[i]));
}
INLINE vf v_pow2_low_bits(vf t)
{
    typedef uint32_t v4u __attribute__((vector_size(16)));
    const v4u one = {0x3f800000u, 0x3f800000u, 0x3f800000u, 0x3f800000u};
    V_EACH((v4)(((v4u)t.q[i] << 23) + one));
}
INLINE vf v_low(const uint16_t *p)
{
    uint32_t u[16];
    memcpy(u, p, sizeof(u));
    for (int i = 0; i < 16; i++)
        u[i] <<= 16;
    return v_load((const float *)(const void *)u);
}
INLINE vf v_high(const uint16_t *p)
{
    uint32_t u[16];
    memcpy(u, p, sizeof(u));
    for (int i = 0; i < 16; i++)
        u[i] &= 0xffff0000u;
    return v_load((const float *)(const void *)u);
}
INLINE void v_widen(const uint8_t *p, uint16_t *q)
{
    for (int i = 0; i < 64; i++) {
        uint8_t byte = p[i % 32 / 8 * 16 + i / 32 * 8 + i % 8];
        float magnitude = (float)(byte & 127);
        uint32_t u;
        memcpy(&u, &magnitude, sizeof(u));
        q[i] = (uint16_t)(u >> 16 | (byte & 128u) << 8);
    }
}
INLINE float v_sum(vf x)
{
    v4 a = (x.q[0] + x.q[2]) + (x.q[1] + x.q[3]);
    return (a[0] + a[2]) + (a[1] + a[3]);
}
INLINE float v_top(vf x)
{
    float f[16];
    v_store(f, x);
    for (int n = 8; n > 0; n /= 2) {
        for (int i = 0; i < n; i++)
            f[i] = f[i] > f[i + n] ? f[i] : f[i + n];
    }
    return f[0];
}
INLINE void v_quantise(vf x, int32_t cap, int32_t *p)
{
    float f[16];
    v_store(f, x);
    for (int i = 0; i < 16; i++) {
        p[i] = f[i] < (float)cap ? (int32_t)lrintf(f[i] > 0.0f ? f[i] : 0.0f) : cap;
    }
}
INLINE void v_add_quantised(vf x, int32_t cap, int32_t *p, uint32_t n)
{
    int32_t q[16];
    v_quantise(x, cap, q);
    for (uint32_t i = 0; i < n; i++)
        p[i] += q[i];
}
INLINE void v_transpose(vf x[16])
{
    uint32_t from[16][16], to[16];
    memcpy(from, x, sizeof(from));
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 16; j++)
            to[j] = from[j][i];
        memcpy(&x[i], to, sizeof(to));
    }
}
INLINE void v_unpair(vf x, vf *a, vf *b)
{
    uint32_t pairs[16], numbers[32];
    memcpy(pairs, &x, sizeof(pairs));
    for (int i = 0; i < 16; i++) {
        numbers[2 * i] = pairs[i] << 16;
        numbers[2 * i + 1] = pairs[i] & 0xffff0000u;
    }
    memcpy(a, numbers, sizeof(*a));
    memcpy(b, numbers + 16, sizeof(*b));
}
