/* cpu/packed_impl.h - packed weights back to bf16, included by kernels_avx2.c, kernels_avx512.c
 * and kernels_avx512pack.c. Private to cpu/; the format is in packed.h.
 *
 * A look-up for each of the two bytes of a weight gives its part of the exponent, one logic
 * operation puts sign or mantissa beside it, and the bytes are interleaved: five instructions for
 * 64 weights, besides the loads and stores. */

/* Into which cache memory brings what lies ahead. */
#ifndef PACKED_HINT
#define PACKED_HINT _MM_HINT_T0
#endif

#if defined(SC_SIMD_AVX512)
struct tables {
    __m512i low, high;
};

INLINE struct tables tables_of(const uint8_t exponents[16])
{
    const __m512i e = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)exponents));
    return (struct tables){
        .low = _mm512_slli_epi16(_mm512_and_si512(e, _mm512_set1_epi8(1)), 7),
        .high = _mm512_and_si512(_mm512_srli_epi16(e, 1), _mm512_set1_epi8(0x7f)),
    };
}

/* 64 weights of a row: w[0] the first 32, w[1] the last. */
INLINE void unpack_half(const struct tables *t, const uint8_t *from, __m512i codes, const int half,
                        __m512i *w)
{
    const __m512i x = _mm512_loadu_si512(from + 64 * half);
    const __m512i code =
        _mm512_and_si512(half == 0 ? codes : _mm512_srli_epi16(codes, 4), _mm512_set1_epi8(0x0f));
    /* (x & mask) | what was looked up */
    const __m512i lo = _mm512_ternarylogic_epi32(x, _mm512_set1_epi8(0x7f),
                                                 _mm512_shuffle_epi8(t->low, code), 0xea);
    const __m512i hi = _mm512_ternarylogic_epi32(x, _mm512_set1_epi8((char)0x80),
                                                 _mm512_shuffle_epi8(t->high, code), 0xea);
    w[0] = _mm512_unpacklo_epi8(lo, hi);
    w[1] = _mm512_unpackhi_epi8(lo, hi);
}

/* Of a row the weights of `halves` halves from half0 on; asks for what lies ahead of them. */
INLINE void unpack_row(const int halves, const int half0, const struct tables *t,
                       const uint8_t *from, __m512i *w)
{
    const uint8_t *ahead = from + SC_CPU_PACKED_AHEAD;
    const __m512i codes = _mm512_loadu_si512(from + 128);
    _mm_prefetch(ahead + 64 * half0, PACKED_HINT);
    if (halves == 2)
        _mm_prefetch(ahead + 64, PACKED_HINT);
    if (half0 == 0)
        _mm_prefetch(ahead + 128, PACKED_HINT);
#pragma GCC unroll 2
    for (int h = 0; h < halves; h++)
        unpack_half(t, from, codes, half0 + h, w + 2 * h);
}

INLINE void unpack(const uint8_t *from, const uint8_t exponents[16], uint32_t n_rows, uint16_t *to)
{
    const struct tables t = tables_of(exponents);
    for (uint32_t row = 0; row < n_rows; row++, from += SC_CPU_PACKED_ROW, to += SC_CPU_ROW) {
        __m512i w[4];
        unpack_row(2, 0, &t, from, w);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            _mm512_storeu_si512(to + 32 * i, w[i]);
    }
}
#else
INLINE void unpack(const uint8_t *from, const uint8_t exponents[16], uint32_t n_rows, uint16_t *to)
{
    const __m128i e = _mm_loadu_si128((const __m128i *)(const void *)exponents);
    const __m256i all = _mm256_broadcastsi128_si256(e);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(all, 1), _mm256_set1_epi8(0x7f));
    const __m256i low = _mm256_slli_epi16(_mm256_and_si256(all, _mm256_set1_epi8(1)), 7);
    const __m256i mantissa = _mm256_set1_epi8(0x7f), sign = _mm256_set1_epi8((char)0x80);
    const __m256i nibble = _mm256_set1_epi8(0x0f);

    for (uint32_t row = 0; row < n_rows; row++, from += SC_CPU_PACKED_ROW, to += 128) {
#pragma GCC unroll 3
        for (uint32_t line = 0; line < SC_CPU_PACKED_ROW; line += 64)
            _mm_prefetch(from + SC_CPU_PACKED_AHEAD + line, PACKED_HINT);
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            const int half = part / 2, at = part % 2 * 32; /* bytes, of 64 */
            const __m256i x =
                _mm256_loadu_si256((const __m256i *)(const void *)(from + 64 * half + at));
            __m256i code = _mm256_loadu_si256((const __m256i *)(const void *)(from + 128 + at));
            code = _mm256_and_si256(half == 0 ? code : _mm256_srli_epi16(code, 4), nibble);
            const __m256i lo =
                _mm256_or_si256(_mm256_and_si256(x, mantissa), _mm256_shuffle_epi8(low, code));
            const __m256i hi =
                _mm256_or_si256(_mm256_and_si256(x, sign), _mm256_shuffle_epi8(high, code));
            _mm256_storeu_si256((__m256i *)(void *)(to + 64 * half + at / 2),
                                _mm256_unpacklo_epi8(lo, hi));
            _mm256_storeu_si256((__m256i *)(void *)(to + 64 * half + 32 + at / 2),
                                _mm256_unpackhi_epi8(lo, hi));
        }
    }
}
#endif
