/* cpu/kernels.h - the table of inner loops that each instruction set fills. Private to cpu/.
 *
 * Written once in matmul_impl.h, int8_c_impl.h, attention_impl.h, rows_impl.h, draw_impl.h and
 * distance_impl.h over the sixteen logical lanes of simd.h, and compiled once per instruction set.
 * Kernels check nothing.
 */
#ifndef SC_CPU_KERNELS_H
#define SC_CPU_KERNELS_H

#include "base/draw.h"
#include "cpu/cpu.h"
#include "cpu/kv.h"

#define SC_CPU_PANEL      64u /* outputs per packed panel of a matrix */
#define SC_CPU_ROUND_ROWS 16u
/* Inputs of one slice: a slice of a panel stays in the second-level cache. A multiple of 32, which
 * is what the widest kernel takes at once. */
#define SC_CPU_SLICE_IN 1024u
#define SC_CPU_PANELS   4u /* whose slices stay there together, see matmul_panels */

/* Attention works on blocks of this many queries (tokens x heads of a group), so that a page stays
 * in the first-level cache while all of them use it. */
#define SC_CPU_QUERIES  128u
#define SC_CPU_TILE_MAX 12u /* queries in registers */

/* Entries are read in spans, and within a span by the bf16 kernels in stretches; both begin at
 * multiples of their length, counted from the first core or from position 0. Spans are what threads
 * share: each starts from nothing, and the results are combined in order. */
#define SC_CPU_SPAN_PAGES    32u
#define SC_CPU_STRETCH_PAGES 8u
#define SC_CPU_STRETCH       (SC_CPU_STRETCH_PAGES * SC_PAGE_ENTRIES)

#define SC_CPU_BF16_TILE 32u /* queries that the bf16 kernels take at once */

/* What a block of queries has gathered: weights are relative to e^top (2^top in the bf16 kernels).
 */
struct sc_cpu_attn_state {
    float o[SC_CPU_QUERIES * (SC_CPU_HEAD_DIM_MAX + 16)]; /* unnormalised output */
    float sum[SC_CPU_QUERIES * 16];                       /* lanes of the weights' sum */
    float top[SC_CPU_QUERIES];                            /* -inf: nothing seen yet */
};

/* Scratch of one thread. A call uses one member of the union. */
struct sc_cpu_scratch {
    union {
        struct {
            struct sc_cpu_attn_state span, total;
            union {
                struct {
                    float q[SC_CPU_QUERIES * (SC_CPU_HEAD_DIM_MAX + 16)]; /* scaled */
                    float p[SC_CPU_TILE_MAX * SC_PAGE_ENTRIES];           /* scores, then weights */
                    uint16_t page[2 * SC_PAGE_ENTRIES * SC_CPU_HEAD_DIM_MAX]; /* I8, widened */
                };
                struct {
                    /* Tiles of 16 queries x 32 dimensions: [tile][head_dim up to 32s / 32][16][32].
                     */
                    _Alignas(64) uint16_t q16[SC_CPU_QUERIES * SC_CPU_HEAD_DIM_MAX];
                    float scores[SC_CPU_BF16_TILE * SC_CPU_STRETCH];
                    /* Tiles of 16 queries x 32 entries: [tile][page][16][32]. */
                    uint16_t p16[SC_CPU_BF16_TILE * SC_CPU_STRETCH];
                    float bias[SC_CPU_STRETCH];
                    union {
                        uint16_t v[2][SC_PAGE_ENTRIES * SC_CPU_HEAD_DIM_MAX]; /* unseen: zero */
                        /* I8: blocks of one head, widened */
                        uint16_t pages[SC_CPU_STRETCH_PAGES]
                                      [2 * SC_PAGE_ENTRIES * SC_CPU_HEAD_DIM_MAX];
                    };
                };
            };
        } attn;
        /* int8 or packed weights as bf16, a slice a panel */
        _Alignas(64) uint16_t weights[SC_CPU_PANELS][SC_CPU_SLICE_IN * SC_CPU_PANEL];
        struct {
            float xt[SC_CPU_HEAD_DIM_MAX * SC_CHUNK_MAX]; /* keys of a chunk, [d][token] */
            float norm2[SC_CHUNK_MAX];
        } dist;
        struct {
            float k[SC_CHUNK_MAX * SC_CPU_HEAD_DIM_MAX]; /* of the chunk, [token][d] */
            float v[SC_CHUNK_MAX * SC_CPU_HEAD_DIM_MAX];
            float core_k[SC_CHUNK_MAX * SC_CPU_HEAD_DIM_MAX]; /* [cluster][d] */
            float core_v[SC_CHUNK_MAX * SC_CPU_HEAD_DIM_MAX];
            uint32_t members[SC_CHUNK_MAX];
        } merge;
    };
    _Alignas(64) char pad[64];
};

/* Of a packed panel, a weight whose exponent is none of the panel's 16: element `at` is `bits`.
 * Behind a panel's last there is one at UINT32_MAX. */
struct sc_cpu_rare {
    uint32_t at;
    uint16_t bits;
};

/* rows x 64 outputs over k inputs: y (+)= x W^T. */
struct sc_cpu_mm {
    /* f32: [k][64]; bf16: pairs, [k / 2 rounded up][64][2]; int8: [k / 2 rounded up][2][64], and
     * for matmul_i8 as int8_impl.h says */
    const void *panel;
    /* f32 from input k0 on, at x_stride; or what round_rows or i8_round_rows made of the rows from
     * this one on (a multiple of SC_CPU_ROUND_ROWS), x_stride words a block of SC_CPU_ROUND_ROWS,
     * from input 0 on. */
    const void *x;
    size_t x_stride;
    float *y;
    size_t y_stride;
    const float *scale;   /* [64], matmul_i8: sums are multiplied by it at the end; NULL: not yet */
    const float *bias;    /* [64], added at the end; NULL for none */
    uint32_t rows, k, k0; /* inputs k0 .. k0 + k of all */
    uint32_t cols;        /* valid outputs, 1..64 */
    bool first;           /* y holds nothing yet */
    /* matmul_few_packed */
    const uint8_t *exponents;
    const struct sc_cpu_rare *rare;
};

/* Queries of n_tokens tokens for n_heads KV heads; n_tokens * n_heads * group <= SC_CPU_QUERIES.
 * Several heads of few tokens go together because their blocks of a page are neighbours in memory.
 */
struct sc_cpu_attn {
    const struct sc_kv_pool *pool;
    const struct sc_attn_seq *seq;
    uint32_t head0, n_heads;   /* KV heads */
    uint32_t token0, n_tokens; /* of the sequence's rows */
    uint32_t group;            /* query heads of a KV head */
    uint32_t span0, n_spans;   /* of sc_cpu_attn_spans; all of them unless part is set */
    const float *q;            /* row of token0, first query head of head0 */
    float *out;
    size_t q_stride, out_stride;
    float scale;
    float *part; /* NULL, or takes the state after the spans in place of out */
    /* NULL, or where each token's query (in place of q and q_stride) and part are: tokens of
     * sequences that all see the whole span, part being not NULL. */
    const float *const *rows;
    float *const *parts;
    size_t part_span; /* combine: floats from span to span; 0: those of this call's queries */
};

/* The spans of a block of rows: those of the cores, then those of exact pages. */
struct sc_cpu_attn_spans {
    uint32_t n_core_pages, n_core_spans;
    uint32_t exact_page0, exact_page1; /* first, and behind the last */
    uint32_t exact_span0;              /* number of the first, counted from position 0 */
    uint32_t n;
};

static inline struct sc_cpu_attn_spans sc_cpu_attn_spans(const struct sc_attn_seq *seq,
                                                         uint32_t token0, uint32_t n_tokens)
{
    struct sc_cpu_attn_spans s;
    uint64_t own = (uint64_t)seq->pos0 + token0, from = seq->exact_lo;
    if (seq->window != 0 && own + 1 > seq->window && own + 1 - seq->window > from)
        from = own + 1 - seq->window;
    s.n_core_pages = (uint32_t)(((uint64_t)seq->n_cores + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES);
    s.n_core_spans = (s.n_core_pages + SC_CPU_SPAN_PAGES - 1) / SC_CPU_SPAN_PAGES;
    s.exact_page0 = (uint32_t)(from / SC_PAGE_ENTRIES);
    s.exact_page1 = (uint32_t)((own + n_tokens - 1) / SC_PAGE_ENTRIES) + 1;
    s.exact_span0 = s.exact_page0 / SC_CPU_SPAN_PAGES;
    s.n = s.n_core_spans + (s.exact_page1 - 1) / SC_CPU_SPAN_PAGES - s.exact_span0 + 1;
    return s;
}

/* Floats of `part` a query: output, lanes of the sum, top. */
static inline uint32_t sc_cpu_attn_part_floats(const struct sc_kv_pool *pool)
{
    return pool->dim_pad + 32;
}

struct sc_cpu_dist {
    const float *xt;    /* [head_dim][SC_CHUNK_MAX], of centre_keys */
    const float *norm2; /* of centre_keys */
    bool cosine;        /* else l2 */
    uint32_t m, head_dim;
    float inv_var;
    int32_t cap;
    int32_t *dist; /* [m, m]; the part above the diagonal is added to, the rest is garbage */
};

struct sc_cpu_kernels {
    void (*matmul_f32)(const struct sc_cpu_mm *mm);
    void (*matmul_bf16)(const struct sc_cpu_mm *mm);
    /* NULL, or the bits of matmul_bf16 for each of n <= SC_CPU_PANELS panels, which follow each
     * other and have the same many rows and inputs: where products are so fast that reading the
     * rows once a panel would take longer. Only the last panel may have fewer than 64 outputs. */
    void (*matmul_panels)(const struct sc_cpu_mm *mm, uint32_t n);
    /* NULL, or for SC_CPU_ROUND_ROWS rows at most, panel being int8: the bits of widen_i8 and
     * matmul_bf16. */
    void (*matmul_few_i8)(const struct sc_cpu_mm *mm);
    /* n weights of an int8 panel as those of a bf16 panel, exactly; n % (2 * SC_CPU_PANEL) == 0. */
    void (*widen_i8)(const int8_t *from, size_t n, uint16_t *to);
    /* NULL, or packed weights back to bf16, see packed.h: n_rows of 128 weights. */
    void (*unpack)(const uint8_t *from, const uint8_t exponents[16], uint32_t n_rows, uint16_t *to);
    /* NULL, or for SC_CPU_ROUND_ROWS rows at most and a whole packed panel: the bits of unpack and
     * matmul_bf16. */
    void (*matmul_few_packed)(const struct sc_cpu_mm *mm);
    /* NULL, or x of matmul_bf16 is rounded to bf16 by this, SC_CPU_ROUND_ROWS rows at most at a
     * time, which take round_words(n_in) words. */
    void (*round_rows)(const float *x, size_t x_stride, uint32_t n_rows, uint32_t n_in,
                       uint32_t *rounded);
    uint32_t (*round_words)(uint32_t n_in);
    /* Panels of int8 with activations of int8, which i8_round_rows makes, as round_rows does; a
     * block takes i8_words(n_in) words. */
    void (*matmul_i8)(const struct sc_cpu_mm *mm);
    void (*i8_round_rows)(const float *x, size_t x_stride, uint32_t n_rows, uint32_t n_in,
                          uint32_t *rounded);
    uint32_t (*i8_words)(uint32_t n_in);
    /* By the pool's dtype. `combine` puts the parts of all spans together, in order, into out. */
    void (*attention_f32)(const struct sc_cpu_attn *attn, struct sc_cpu_scratch *scratch);
    void (*attention_bf16)(const struct sc_cpu_attn *attn, struct sc_cpu_scratch *scratch);
    void (*attention_i8)(const struct sc_cpu_attn *attn, struct sc_cpu_scratch *scratch);
    void (*combine_f32)(const struct sc_cpu_attn *attn, const float *parts,
                        struct sc_cpu_scratch *scratch);
    void (*combine_bf16)(const struct sc_cpu_attn *attn, const float *parts,
                         struct sc_cpu_scratch *scratch);
    void (*combine_i8)(const struct sc_cpu_attn *attn, const float *parts,
                       struct sc_cpu_scratch *scratch);
    void (*norm_row)(float *resid, const float *delta, const float *w, float *y, uint32_t dim,
                     float eps);
    void (*rotate)(float *x, const float *angles, uint32_t head_dim);
    void (*swiglu_row)(const float *gate, const float *up, float *y, uint32_t n);
    void (*distances)(const struct sc_cpu_dist *args);
    /* Keys [head_dim][SC_CHUNK_MAX] minus centre [head_dim], and the squares of their lengths;
     * columns m.. up to 16s are filled. */
    void (*centre_keys)(float *xt, const float *centre, uint32_t m, uint32_t head_dim,
                        float *norm2);
    /* to[i] += row i of from, n rows. */
    void (*add_rows)(float *const *to, const float *from, uint32_t n, uint32_t head_dim);
    struct sc_draw_loops draw;
    /* xt [head_dim][SC_CHUNK_MAX]: pairs of dimensions times angles [head_dim][SC_CHUNK_MAX], cos
     * in the first half, sin in the second; columns below m, the rest up to 16s become zero. */
    void (*rotate_keys)(float *xt, const float *angles, uint32_t m, uint32_t head_dim);
    /* Entries slot0 .. slot0 + n of a block: to columns of xt; to rows of k and v; from a row. */
    void (*keys_to_columns)(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                            uint32_t n, float *xt);
    void (*entries_to_rows)(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                            uint32_t n, float *k, float *v);
    void (*put_entry)(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot, const float *k,
                      const float *v);
};

/* NULL when this build lacks it. */
const struct sc_cpu_kernels *sc_cpu_kernels_plain(void);
const struct sc_cpu_kernels *sc_cpu_kernels_avx2(void);
const struct sc_cpu_kernels *sc_cpu_kernels_avx512(void);
/* Those that round to bf16 or int8, into a table that holds the AVX-512 ones. */
void sc_cpu_kernels_avx512bf16(struct sc_cpu_kernels *kernels);
void sc_cpu_kernels_avx512pack(struct sc_cpu_kernels *kernels);
void sc_cpu_kernels_avx512vbmi(struct sc_cpu_kernels *kernels); /* into those of avx512bf16 */
void sc_cpu_kernels_avx512vnni(struct sc_cpu_kernels *kernels);
void sc_cpu_kernels_amx(struct sc_cpu_kernels *kernels);
void sc_cpu_kernels_amxfew(struct sc_cpu_kernels *kernels);  /* into those of amx */
void sc_cpu_kernels_amxint8(struct sc_cpu_kernels *kernels); /* into those of avx512vnni */
void sc_cpu_matmul_vnni(const struct sc_cpu_mm *mm);         /* matmul_i8 of avx512vnni */

#endif
