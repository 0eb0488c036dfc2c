/* cpu/kernels.h - the table of inner loops that each instruction set fills. Private to cpu/.
 *
 * Written once in matmul_impl.h, attention_impl.h, rows_impl.h and distance_impl.h over the sixteen
 * logical lanes of simd.h, and compiled once per instruction set. Kernels check nothing.
 */
#ifndef SC_CPU_KERNELS_H
#define SC_CPU_KERNELS_H

#include "cpu/cpu.h"
#include "cpu/kv.h"

#define SC_CPU_PANEL 64u /* outputs per packed panel of a matrix */

/* Attention works on blocks of this many queries (tokens x heads of a group), so that a page stays
 * in the first-level cache while all of them use it. */
#define SC_CPU_QUERIES  128u
#define SC_CPU_TILE_MAX 12u /* queries in registers */

/* Scratch of one thread. A call uses one member of the union. */
struct sc_cpu_scratch {
    union {
        struct {
            float q[SC_CPU_QUERIES * (SC_CPU_HEAD_DIM_MAX + 16)]; /* scaled */
            float o[SC_CPU_QUERIES * (SC_CPU_HEAD_DIM_MAX + 16)]; /* unnormalised output */
            float sum[SC_CPU_QUERIES * 16];                       /* lanes of the weights' sum */
            float top[SC_CPU_QUERIES];                  /* reference of the exponentials */
            float p[SC_CPU_TILE_MAX * SC_PAGE_ENTRIES]; /* scores, then weights */
        } attn;
        struct {
            float xt[SC_CPU_HEAD_DIM_MAX * SC_CHUNK_MAX]; /* keys of a chunk, [d][token] */
            float norm2[SC_CHUNK_MAX];
        } dist;
        struct {
            float k[SC_CPU_HEAD_DIM_MAX];
            float v[SC_CPU_HEAD_DIM_MAX];
            float x[SC_CPU_HEAD_DIM_MAX];
        } merge;
    };
    _Alignas(64) char pad[64];
};

/* rows x 64 outputs over k inputs: y (+)= x W^T. */
struct sc_cpu_mm {
    const void *panel; /* f32: [k][64]; bf16: [k / 2 rounded up][64][2] */
    const void *x;     /* f32, or bf16 pairs where the table says so */
    size_t x_stride;   /* in f32, or in pairs */
    float *y;
    size_t y_stride;
    const float *bias; /* [64], added at the end; NULL for none */
    uint32_t rows, k;
    uint32_t cols; /* valid outputs, 1..64 */
    bool first;    /* y holds nothing yet */
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
    const float *q;            /* row of token0, first query head of head0 */
    float *out;
    size_t q_stride, out_stride;
    float scale;
};

struct sc_cpu_dist {
    const float *xt;    /* [head_dim][SC_CHUNK_MAX], columns m.. are zero */
    const float *norm2; /* cos: |x_i|^2; NULL for l2 */
    uint32_t m, head_dim;
    float inv_var;
    int32_t cap;
    int32_t *dist; /* [m, m]; the part above the diagonal is added to */
};

struct sc_cpu_kernels {
    void (*matmul_f32)(const struct sc_cpu_mm *mm);
    void (*matmul_bf16)(const struct sc_cpu_mm *mm);
    /* NULL, or x of matmul_bf16 is bf16 pairs that this makes: n_in floats, a zero after an odd
     * end. */
    void (*round_row)(const float *x, uint32_t n_in, uint32_t *pairs);
    void (*attention)(const struct sc_cpu_attn *attn, struct sc_cpu_scratch *scratch);
    void (*norm_row)(float *resid, const float *delta, const float *w, float *y, uint32_t dim,
                     float eps);
    void (*rotate)(float *x, const float *angles, uint32_t head_dim);
    void (*swiglu_row)(const float *gate, const float *up, float *y, uint32_t n);
    void (*distances)(const struct sc_cpu_dist *args);
};

/* NULL when this build lacks it. */
const struct sc_cpu_kernels *sc_cpu_kernels_plain(void);
const struct sc_cpu_kernels *sc_cpu_kernels_avx2(void);
const struct sc_cpu_kernels *sc_cpu_kernels_avx512(void);
void sc_cpu_matmul_avx512bf16(const struct sc_cpu_mm *mm);
void sc_cpu_round_row_avx512bf16(const float *x, uint32_t n_in, uint32_t *pairs);

#endif
