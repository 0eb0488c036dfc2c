/* cpu/bf16_impl.h - activations as bf16 tiles, for the kernels that multiply bf16 by bf16. Private
 * to cpu/.
 *
 * A tile is 16 rows x 32 columns, row-major, 1 KiB; a block of 16 rows is its tiles from left to
 * right, zeros behind the last column. Included after simd.h.
 */
#define TILE_ROWS  16u
#define TILE_COLS  32u
#define TILE_WORDS 256u /* of 32 bits: pairs */

static uint32_t round_words(uint32_t n_in)
{
    return (n_in + TILE_COLS - 1) / TILE_COLS * TILE_WORDS;
}

/* Rows that do not exist are not written: no kernel uses what it multiplies them to. */
static void round_rows(const float *x, size_t x_stride, uint32_t n_rows, uint32_t n_in,
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

static void widen_i8(const int8_t *from, size_t n, uint16_t *to)
{
    for (size_t i = 0; i < n; i += 32) {
        __m512i a =
            _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(from + i)));
        __m512i b =
            _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(from + i + 16)));
        _mm512_storeu_si512(
            to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(b), _mm512_cvtepi32_ps(a)));
    }
}
