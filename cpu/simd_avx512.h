/* cpu/simd_avx512.h - simd.h with one 512-bit register. Private to cpu/. */
#include <immintrin.h>

/* Register tiles: 32 registers. */
#define MM_ROWS   6 /* matmul: rows x 16-lane columns */
#define MM_COLS   4
#define QK_COLS   2 /* attention: 16-lane columns of 32 entries, and of the head */
#define PV_COLS   2
#define PV_WIDE   4  /* of few queries */
#define AT_TILE   12 /* queries */
#define DIST_ROWS 8  /* distances: rows x 16-lane columns */
#define DIST_COLS 2

typedef __m512 vf;

INLINE __mmask16 v_first(uint32_t n)
{
    return (__mmask16)((1u << n) - 1u);
}
INLINE vf v_zero(void)
{
    return _mm512_setzero_ps();
}
INLINE vf v_set1(float x)
{
    return _mm512_set1_ps(x);
}
INLINE vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE vf v_loadn(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(v_first(n), p);
}
INLINE void v_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}
INLINE void v_storen(float *p, vf x, uint32_t n)
{
    _mm512_mask_storeu_ps(p, v_first(n), x);
}
INLINE vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
INLINE vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
INLINE vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
INLINE vf v_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
INLINE vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
INLINE vf v_keep(vf x, uint32_t lo, uint32_t hi, vf other)
{
    return _mm512_mask_mov_ps(other, (__mmask16)(v_first(hi) & ~v_first(lo)), x);
}
INLINE bool v_any_above(vf a, vf b, vf limit)
{
    return (_mm512_cmp_ps_mask(a, limit, _CMP_GT_OQ) | _mm512_cmp_ps_mask(b, limit, _CMP_GT_OQ)) !=
           0;
}
/* 0 where x < limit, else y. */
INLINE vf v_zero_below(vf x, vf limit, vf y)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
}
/* 2^n from n in the low bits of t, -126..127. */
INLINE vf v_pow2_low_bits(vf t)
{
    __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3f800000)));
}
INLINE vf v_low(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
INLINE vf v_high(const uint16_t *p)
{
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xffff0000u)));
}
/* Pairs a and b of a line of an I8 page, as bf16. */
#if defined(__AVX512VBMI__)
#define V_POWER(i)                                                                                 \
    ((i) >= 64 ? 6 : (i) >= 32 ? 5 : (i) >= 16 ? 4 : (i) >= 8 ? 3 : (i) >= 4 ? 2 : (i) >= 2 ? 1 : 0)
#define V_BF16(i)     ((i) == 0 ? 0 : (((127 + V_POWER(i)) << 7) | (((i) << (7 - V_POWER(i))) & 127)))
#define V_FOUR(f, i)  f(i), f((i) + 1), f((i) + 2), f((i) + 3)
#define V_LINE(f, i)  V_QUART(f, i), V_QUART(f, (i) + 16), V_QUART(f, (i) + 32), V_QUART(f, (i) + 48)
#define V_QUART(f, i) V_FOUR(f, i), V_FOUR(f, (i) + 4), V_FOUR(f, (i) + 8), V_FOUR(f, (i) + 12)
#define V_LOW(i)      (V_BF16(i) & 255)
#define V_HIGH(i)     (V_BF16(i) >> 8)
/* Low and high bytes of 0 .. 127. */
static const uint8_t v_bytes[4][64] __attribute__((aligned(64))) = {
    {V_LINE(V_LOW, 0)}, {V_LINE(V_LOW, 64)}, {V_LINE(V_HIGH, 0)}, {V_LINE(V_HIGH, 64)}};

INLINE void v_widen_pairs(const uint8_t *p, __m512i *a, __m512i *b)
{
    __m512i x = _mm512_loadu_si512(p);
    __m512i low =
        _mm512_permutex2var_epi8(_mm512_load_si512(v_bytes[0]), x, _mm512_load_si512(v_bytes[1]));
    __m512i high =
        _mm512_permutex2var_epi8(_mm512_load_si512(v_bytes[2]), x, _mm512_load_si512(v_bytes[3]));
    high = _mm512_ternarylogic_epi32(high, x, _mm512_set1_epi8((char)0x80), 0xf8); /* sign */
    *a = _mm512_unpacklo_epi8(low, high);
    *b = _mm512_unpackhi_epi8(low, high);
}
#else
INLINE __m512i v_widen16(__m512i w)
{
    const __m512i low = _mm512_set1_epi32(127);
    __m512 even = _mm512_cvtepi32_ps(_mm512_and_si512(w, low));
    __m512 odd = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(w, 16), low));
    __m512i both =
        _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even), 16), _mm512_castps_si512(odd));
    return _mm512_ternarylogic_epi32(both, _mm512_slli_epi32(w, 8),
                                     _mm512_set1_epi16((short)0x8000), 0xf8);
}
INLINE void v_widen_pairs(const uint8_t *p, __m512i *a, __m512i *b)
{
    __m512i x = _mm512_loadu_si512(p);
    *a = v_widen16(_mm512_unpacklo_epi8(x, _mm512_setzero_si512()));
    *b = v_widen16(_mm512_unpackhi_epi8(x, _mm512_setzero_si512()));
}
#endif
INLINE void v_widen(const uint8_t *p, uint16_t *q)
{
    __m512i a, b;
    v_widen_pairs(p, &a, &b);
    _mm512_storeu_si512(q, a);
    _mm512_storeu_si512(q + 32, b);
}
INLINE float v_sum(vf x)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE float v_top(vf x)
{
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE __m512i v_quantised(vf x, int32_t cap)
{
    __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_set1_ps((float)cap), _CMP_LT_OQ);
    __m512i n = _mm512_mask_cvtps_epi32(_mm512_set1_epi32(cap), below, x);
    return _mm512_max_epi32(n, _mm512_setzero_si512());
}
INLINE void v_quantise(vf x, int32_t cap, int32_t *p)
{
    _mm512_storeu_si512(p, v_quantised(x, cap));
}
INLINE void v_add_quantised(vf x, int32_t cap, int32_t *p, uint32_t n)
{
    __m512i sum = _mm512_add_epi32(v_quantised(x, cap), _mm512_maskz_loadu_epi32(v_first(n), p));
    _mm512_mask_storeu_epi32(p, v_first(n), sum);
}
INLINE void v_transpose(vf x[16])
{
    __m512d pair[16];
    vf four[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(x[i], x[i + 1]));
        __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(x[i], x[i + 1]));
        __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(x[i + 2], x[i + 3]));
        __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(x[i + 2], x[i + 3]));
        pair[i] = _mm512_unpacklo_pd(a, c);
        pair[i + 1] = _mm512_unpackhi_pd(a, c);
        pair[i + 2] = _mm512_unpacklo_pd(b, d);
        pair[i + 3] = _mm512_unpackhi_pd(b, d);
    }
    /* pair[4 g + k]: lanes 4 l + k of rows 4 g .. 4 g + 3, l = 0 .. 3 */
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        vf p0 = _mm512_castpd_ps(pair[k]), p1 = _mm512_castpd_ps(pair[4 + k]);
        vf p2 = _mm512_castpd_ps(pair[8 + k]), p3 = _mm512_castpd_ps(pair[12 + k]);
        four[k] = _mm512_shuffle_f32x4(p0, p1, 0x88);
        four[4 + k] = _mm512_shuffle_f32x4(p0, p1, 0xdd);
        four[8 + k] = _mm512_shuffle_f32x4(p2, p3, 0x88);
        four[12 + k] = _mm512_shuffle_f32x4(p2, p3, 0xdd);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        x[k] = _mm512_shuffle_f32x4(four[k], four[8 + k], 0x88);
        x[4 + k] = _mm512_shuffle_f32x4(four[4 + k], four[12 + k], 0x88);
        x[8 + k] = _mm512_shuffle_f32x4(four[k], four[8 + k], 0xdd);
        x[12 + k] = _mm512_shuffle_f32x4(four[4 + k], four[12 + k], 0xdd);
    }
}
INLINE void v_unpair(vf x, vf *a, vf *b)
{
    __m512i pairs = _mm512_castps_si512(x);
    __m512i lo = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(pairs));
    __m512i hi = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(pairs, 1));
    *a = _mm512_castsi512_ps(_mm512_slli_epi32(lo, 16));
    *b = _mm512_castsi512_ps(_mm512_slli_epi32(hi, 16));
}
