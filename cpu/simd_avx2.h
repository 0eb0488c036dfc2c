/* cpu/simd_avx2.h - simd.h with two 256-bit registers. Private to cpu/. */
#include <immintrin.h>

/* Register tiles: 16 registers, two to a vf. */
#define MM_ROWS   6
#define MM_COLS   1
#define QK_COLS   1
#define PV_COLS   1
#define PV_WIDE   2 /* of few queries */
#define AT_TILE   6
#define DIST_ROWS 4 /* distances: rows x 16-lane columns */
#define DIST_COLS 1

typedef struct {
    __m256 a, b;
} vf;

INLINE __m256i v_mask8(int32_t lo, int32_t hi)
{
    __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_and_si256(_mm256_cmpgt_epi32(i, _mm256_set1_epi32(lo - 1)),
                            _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), i));
}
INLINE vf v_zero(void)
{
    return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
INLINE vf v_set1(float x)
{
    return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
INLINE vf v_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE vf v_loadn(const float *p, uint32_t n)
{
    int32_t k = (int32_t)n;
    vf x = {_mm256_maskload_ps(p, v_mask8(0, k)), _mm256_setzero_ps()};
    if (k > 8)
        x.b = _mm256_maskload_ps(p + 8, v_mask8(0, k - 8));
    return x;
}
INLINE void v_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
INLINE void v_storen(float *p, vf x, uint32_t n)
{
    int32_t k = (int32_t)n;
    _mm256_maskstore_ps(p, v_mask8(0, k), x.a);
    if (k > 8)
        _mm256_maskstore_ps(p + 8, v_mask8(0, k - 8), x.b);
}
INLINE vf v_add(vf x, vf y)
{
    return (vf){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
INLINE vf v_sub(vf x, vf y)
{
    return (vf){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
INLINE vf v_mul(vf x, vf y)
{
    return (vf){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
INLINE vf v_div(vf x, vf y)
{
    return (vf){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
INLINE vf v_sqrt(vf x)
{
    return (vf){_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)};
}
INLINE vf v_fma(vf x, vf y, vf z)
{
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
INLINE vf v_max(vf x, vf y)
{
    return (vf){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
INLINE vf v_min(vf x, vf y)
{
    return (vf){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
INLINE vf v_keep(vf x, uint32_t lo, uint32_t hi, vf other)
{
    int32_t l = (int32_t)lo, h = (int32_t)hi;
    return (vf){_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(v_mask8(l, h))),
                _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(v_mask8(l - 8, h - 8)))};
}
INLINE bool v_any_above(vf x, vf y, vf limit)
{
    __m256 u = _mm256_or_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_GT_OQ),
                            _mm256_cmp_ps(x.b, limit.b, _CMP_GT_OQ));
    __m256 w = _mm256_or_ps(_mm256_cmp_ps(y.a, limit.a, _CMP_GT_OQ),
                            _mm256_cmp_ps(y.b, limit.b, _CMP_GT_OQ));
    return _mm256_movemask_ps(_mm256_or_ps(u, w)) != 0;
}
INLINE vf v_zero_below(vf x, vf limit, vf y)
{
    return (vf){_mm256_and_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_NLT_UQ), y.a),
                _mm256_and_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_NLT_UQ), y.b)};
}
INLINE __m256 v_pow2_8(__m256 t)
{
    __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(0x3f800000)));
}
INLINE vf v_pow2_low_bits(vf t)
{
    return (vf){v_pow2_8(t.a), v_pow2_8(t.b)};
}
INLINE __m256i v_load8(const uint16_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
INLINE vf v_low(const uint16_t *p)
{
    return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(v_load8(p), 16)),
                _mm256_castsi256_ps(_mm256_slli_epi32(v_load8(p + 16), 16))};
}
INLINE vf v_high(const uint16_t *p)
{
    __m256i mask = _mm256_set1_epi32((int)0xffff0000u);
    return (vf){_mm256_castsi256_ps(_mm256_and_si256(v_load8(p), mask)),
                _mm256_castsi256_ps(_mm256_and_si256(v_load8(p + 16), mask))};
}
/* Pairs of bytes, each in 16 bits, to pairs of bf16. */
INLINE __m256i v_widen8(__m256i w)
{
    const __m256i low = _mm256_set1_epi32(127);
    __m256 even = _mm256_cvtepi32_ps(_mm256_and_si256(w, low));
    __m256 odd = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(w, 16), low));
    __m256i sign = _mm256_and_si256(_mm256_slli_epi32(w, 8), _mm256_set1_epi16((short)0x8000));
    __m256i both =
        _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(even), 16), _mm256_castps_si256(odd));
    return _mm256_or_si256(both, sign);
}
INLINE void v_widen(const uint8_t *p, uint16_t *q)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)p);
    __m256i y = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32));
    __m256i *to = (__m256i *)(void *)q;
    _mm256_storeu_si256(to, v_widen8(_mm256_unpacklo_epi8(x, zero)));
    _mm256_storeu_si256(to + 1, v_widen8(_mm256_unpacklo_epi8(y, zero)));
    _mm256_storeu_si256(to + 2, v_widen8(_mm256_unpackhi_epi8(x, zero)));
    _mm256_storeu_si256(to + 3, v_widen8(_mm256_unpackhi_epi8(y, zero)));
}
INLINE float v_sum(vf x)
{
    __m256 a = _mm256_add_ps(x.a, x.b);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE float v_top(vf x)
{
    __m256 a = _mm256_max_ps(x.a, x.b);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE __m256i v_quantised8(__m256 x, int32_t cap)
{
    __m256 below = _mm256_cmp_ps(x, _mm256_set1_ps((float)cap), _CMP_LT_OQ);
    __m256i n = _mm256_blendv_epi8(_mm256_set1_epi32(cap), _mm256_cvtps_epi32(x),
                                   _mm256_castps_si256(below));
    return _mm256_max_epi32(n, _mm256_setzero_si256());
}
INLINE void v_quantise(vf x, int32_t cap, int32_t *p)
{
    _mm256_storeu_si256((__m256i *)(void *)p, v_quantised8(x.a, cap));
    _mm256_storeu_si256((__m256i *)(void *)(p + 8), v_quantised8(x.b, cap));
}
INLINE void v_add_quantised8(__m256 x, int32_t cap, int32_t *p, int32_t n)
{
    __m256i q = v_quantised8(x, cap);
    if (n >= 8) {
        __m256i *to = (__m256i *)(void *)p;
        _mm256_storeu_si256(to, _mm256_add_epi32(q, _mm256_loadu_si256(to)));
    } else if (n > 0) {
        __m256i mask = v_mask8(0, n);
        _mm256_maskstore_epi32(p, mask, _mm256_add_epi32(q, _mm256_maskload_epi32(p, mask)));
    }
}
INLINE void v_add_quantised(vf x, int32_t cap, int32_t *p, uint32_t n)
{
    v_add_quantised8(x.a, cap, p, (int32_t)n);
    v_add_quantised8(x.b, cap, p + 8, (int32_t)n - 8);
}
/* Eight rows of eight lanes. */
INLINE void v_transpose8(__m256 x[8])
{
    __m256d pair[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(x[i], x[i + 1]));
        __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(x[i], x[i + 1]));
        __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(x[i + 2], x[i + 3]));
        __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(x[i + 2], x[i + 3]));
        pair[i] = _mm256_unpacklo_pd(a, c);
        pair[i + 1] = _mm256_unpackhi_pd(a, c);
        pair[i + 2] = _mm256_unpacklo_pd(b, d);
        pair[i + 3] = _mm256_unpackhi_pd(b, d);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        __m256 p0 = _mm256_castpd_ps(pair[k]), p1 = _mm256_castpd_ps(pair[4 + k]);
        x[k] = _mm256_permute2f128_ps(p0, p1, 0x20);
        x[4 + k] = _mm256_permute2f128_ps(p0, p1, 0x31);
    }
}
INLINE void v_transpose(vf x[16])
{
    __m256 q[4][8]; /* upper left, upper right, lower left, lower right */
    for (int i = 0; i < 8; i++) {
        q[0][i] = x[i].a;
        q[1][i] = x[i].b;
        q[2][i] = x[i + 8].a;
        q[3][i] = x[i + 8].b;
    }
    for (int k = 0; k < 4; k++)
        v_transpose8(q[k]);
    for (int i = 0; i < 8; i++) {
        x[i] = (vf){q[0][i], q[2][i]};
        x[i + 8] = (vf){q[1][i], q[3][i]};
    }
}
INLINE vf v_unpair8(__m256 x)
{
    __m256i pairs = _mm256_castps_si256(x);
    __m256i lo = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(pairs));
    __m256i hi = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(pairs, 1));
    return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
INLINE void v_unpair(vf x, vf *a, vf *b)
{
    *a = v_unpair8(x.a);
    *b = v_unpair8(x.b);
}
