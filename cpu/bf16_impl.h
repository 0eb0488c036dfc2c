/* cpu/bf16_impl.h - activations as bf16 tiles, for the kernels that multiply bf16 by bf16. Private
 * to cpu/.
 *
 * A tile is 16 rows x 32 columns, row-major, 1 KiB; a block of 16 rows is its tiles from left to
 * right, zeros behind the last column. Included after simd.h.
 */
#define TILE_ROWS  16u
#define TILE_COLS  32u
#define TILE_WORDS 256u /* of 32 bits: pairs */

/* Attention: what is brought nearer while one page is used. */
struct ahead {
    const uint8_t *near; /* of the next call, to the first-level cache, or NULL */
    const uint8_t *far;  /* as many bytes that are used later, to the second-level one, or NULL */
};

INLINE uint32_t round_words(uint32_t n_in)
{
    return (n_in + TILE_COLS - 1) / TILE_COLS * TILE_WORDS;
}

/* Rows that do not exist are not written: no kernel uses what it multiplies them to. */
INLINE void round_rows(const float *x, size_t x_stride, uint32_t n_rows, uint32_t n_in,
                       uint32_t *rounded)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *from = x + r * x_stride;
        uint32_t *to = rounded + r * 16;
        for (uint32_t i = 0; i < n_in; i += TILE_COLS, to += TILE_WORDS) {
            uint32_t n = n_in - i;
            vf a = n >= 16 ? v_load(from + i) : v_loadn(from + i, n);
            vf b = n >= 32  ? v_load(from + i + 16)
                   : n > 16 ? v_loadn(from + i + 16, n - 16)
                            : v_zero();
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(b, a));
        }
    }
}

INLINE __m512i widened(const int8_t *from)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)from);
    return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x)));
}

/* The low halves of f32 that are small whole numbers are zero: a pair is one shift and one or. */
INLINE void widen_i8(const int8_t *from, size_t n, uint16_t *to)
{
    for (size_t i = 0; i < n; i += 2 * SC_CPU_PANEL) {
#pragma GCC unroll 4
        for (uint32_t c = 0; c < SC_CPU_PANEL; c += 16) {
            __m512i even = widened(from + i + c), odd = widened(from + i + SC_CPU_PANEL + c);
            _mm512_storeu_si512(to + i + 2 * c, _mm512_or_si512(_mm512_srli_epi32(even, 16), odd));
        }
    }
}
