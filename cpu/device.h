/* cpu/device.h - what the files of cpu/ share: the backend object and its operations. Private to
 * cpu/.
 *
 * The operations are documented where the table is, in base/backend.h. */
#ifndef SC_CPU_DEVICE_H
#define SC_CPU_DEVICE_H

#include <stdatomic.h>

#include "cpu/cpu.h"
#include "cpu/kernels.h"
#include "cpu/threads.h"

/* Rounded activations: rows are multiplied in groups that fit, one block
 * of SC_CPU_ROUND_ROWS of the widest matrix at least. */
#define SC_CPU_ROUNDED_BYTES ((size_t)32 << 20)
/* Parts of attention that several threads gather, or several sequences share. */
#define SC_CPU_PARTS_BYTES ((size_t)64 << 20)

struct sc_cpu_device {
    struct sc_backend base;
    enum sc_cpu_isa isa;
    bool i8;    /* int8 weights are multiplied with int8 activations, and packed for it */
    bool packs; /* bf16 weights are kept in 12 bits, see packed.h */
    struct sc_cpu_kernels kernels;
    struct sc_cpu_threads *threads;
    struct sc_cpu_scratch *scratch; /* one a thread */
    size_t scratch_bytes;
    uint32_t *rounded; /* SC_CPU_ROUNDED_BYTES, or NULL */
    float *parts;      /* SC_CPU_PARTS_BYTES */
    /* cos (first half of the rows) and sin of -i * inv_freq for tokens i of a chunk, and the
     * inv_freq that they are for */
    float unrotate[SC_CPU_HEAD_DIM_MAX][SC_CHUNK_MAX];
    float unrotate_freq[SC_CPU_HEAD_DIM_MAX / 2];
    uint32_t unrotate_dim;
    float log_count[SC_CHUNK_MAX + 1]; /* ln n */
};

struct sc_matrix {
    enum sc_dtype store;
    uint32_t n_in, n_out, n_panels;
    size_t panel_bytes;
    uint8_t *panels;
    size_t panels_bytes;
    float *bias;  /* [n_panels * SC_CPU_PANEL], or NULL */
    float *scale; /* the same; I8 only */
    size_t bias_bytes, scale_bytes;
    double error2, norm2; /* of the weights as kept; I8 only */
    atomic_bool not_finite; /* set by any thread that packs; of I8 no such matrix is opened */
    /* NULL, or the bf16 panels are packed, see packed.h: the exponents of each, and from
     * rare[rare0[p]] on, in rising order, what is rare of panel p. */
    uint8_t (*exponents)[16];
    struct sc_cpu_rare *rare;
    uint32_t *rare0;
};

/* Element i of a source. */
static inline float sc_cpu_weight(const struct sc_matrix_part *part, uint64_t i)
{
    const uint8_t *data = part->data;
    uint16_t half;
    float f;
    if (part->dtype == SC_DTYPE_F32) {
        memcpy(&f, data + i * 4, 4);
        return f;
    }
    memcpy(&half, data + i * 2, 2);
    return part->dtype == SC_DTYPE_BF16 ? sc_bf16_to_f32(half) : sc_f16_to_f32(half);
}

static inline uint16_t sc_cpu_weight_bf16(const struct sc_matrix_part *part, uint64_t i)
{
    uint16_t half;
    if (part->dtype != SC_DTYPE_BF16)
        return sc_f32_to_bf16(sc_cpu_weight(part, i));
    memcpy(&half, (const uint8_t *)part->data + i * 2, 2);
    return half;
}

static inline struct sc_cpu_device *sc_cpu_device(struct sc_backend *be)
{
    return (struct sc_cpu_device *)(void *)be;
}

/* Row-wise work: below this many elements waking the workers costs more than it saves. */
#define SC_CPU_SMALL 16384u

/* matrix.c */
enum sc_status sc_cpu_matrix_open(struct sc_backend *be, const struct sc_matrix_part *parts,
                                  uint32_t n_parts, uint64_t n_in, const float *bias,
                                  enum sc_dtype store, struct sc_matrix **ret_matrix,
                                  struct sc_err *err);
void sc_cpu_matrix_close(struct sc_backend *be, struct sc_matrix *matrix);
void sc_cpu_matrix_error(const struct sc_matrix *matrix, double *error2, double *norm2);
bool sc_cpu_matrix_is_finite(const struct sc_matrix *matrix);
uint64_t sc_cpu_matrix_bytes(const struct sc_matrix *matrix);

/* matmul.c */
enum sc_status sc_cpu_matmul(struct sc_backend *be, const struct sc_matrix *w, const float *x,
                             uint32_t x_stride, float *y, uint32_t y_stride, uint32_t n,
                             struct sc_err *err);

/* kv.c */
size_t sc_cpu_kv_page_bytes(struct sc_backend *be, const struct sc_kv_spec *spec);
enum sc_status sc_cpu_kv_open(struct sc_backend *be, const struct sc_kv_spec *spec,
                              uint32_t n_pages, struct sc_kv_pool **ret_pool, struct sc_err *err);
void sc_cpu_kv_close(struct sc_backend *be, struct sc_kv_pool *pool);
enum sc_status sc_cpu_kv_read(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                              uint32_t slot, uint32_t head, float *k, float *v, float *bias,
                              struct sc_err *err);
enum sc_status sc_cpu_kv_write(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                               uint32_t slot, uint32_t head, const float *k, const float *v,
                               float bias, struct sc_err *err);
enum sc_status sc_cpu_kv_pack(struct sc_backend *be, struct sc_kv_pool *pool, const uint32_t *pages,
                              uint32_t first, uint32_t n, uint32_t head, void *k, void *v,
                              float *bias, struct sc_err *err);
enum sc_status sc_cpu_kv_unpack(struct sc_backend *be, struct sc_kv_pool *pool,
                                const uint32_t *pages, uint32_t first, uint32_t n, uint32_t head,
                                const void *k, const void *v, const float *bias,
                                struct sc_err *err);
enum sc_status sc_cpu_kv_copy(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t dst_page,
                              uint32_t src_page, struct sc_err *err);
enum sc_status sc_cpu_check_pool(const char *op, const struct sc_kv_pool *pool, uint32_t n_kv_heads,
                                 uint32_t head_dim, struct sc_err *err);
/* All of pages[first .. end) exist. */
enum sc_status sc_cpu_check_pages(const char *op, const struct sc_kv_pool *pool,
                                  const uint32_t *pages, uint32_t first, uint32_t end,
                                  struct sc_err *err);

/* rows.c */
enum sc_status sc_cpu_embedding_open(struct sc_backend *be, const void *data, enum sc_dtype dtype,
                                     uint64_t row0, uint64_t n_rows, uint32_t dim,
                                     struct sc_embedding **ret_emb, struct sc_err *err);
void sc_cpu_embedding_close(struct sc_backend *be, struct sc_embedding *emb);
enum sc_status sc_cpu_embed(struct sc_backend *be, const struct sc_embedding *emb,
                            const int32_t *ids, uint32_t n, float *out, struct sc_err *err);
enum sc_status sc_cpu_norm(struct sc_backend *be, const struct sc_norm_args *args,
                           struct sc_err *err);
enum sc_status sc_cpu_swiglu(struct sc_backend *be, const float *gate_up, float *y, uint32_t n,
                             uint32_t ffn, struct sc_err *err);
enum sc_status sc_cpu_gather_rows(struct sc_backend *be, const float *src, const uint32_t *rows,
                                  uint32_t n, uint32_t dim, float *dst, struct sc_err *err);

/* draw.c */
enum sc_status sc_cpu_row_max(struct sc_backend *be, const float *x, uint32_t n_rows,
                              uint32_t width, uint32_t n_cols, float *best, struct sc_err *err);
enum sc_status sc_cpu_draw(struct sc_backend *be, const float *x, uint32_t n_rows, uint32_t width,
                           uint32_t n_cols, const struct sc_draw *draws, float *best,
                           struct sc_err *err);

/* qkv.c */
enum sc_status sc_cpu_rope_angles(struct sc_backend *be, const uint32_t *positions, uint32_t n,
                                  const float *inv_freq, uint32_t head_dim, float scale,
                                  float *angles, struct sc_err *err);
enum sc_status sc_cpu_qkv(struct sc_backend *be, const struct sc_qkv_args *args,
                          struct sc_err *err);

/* attention.c */
enum sc_status sc_cpu_attention(struct sc_backend *be, const struct sc_attn_args *args,
                                struct sc_err *err);

/* distances.c, merge.c */
enum sc_status sc_cpu_distances(struct sc_backend *be, const struct sc_dist_args *args,
                                struct sc_err *err);
enum sc_status sc_cpu_cluster(struct sc_backend *be, const struct sc_cluster_args *args,
                              struct sc_err *err);
enum sc_status sc_cpu_merge(struct sc_backend *be, const struct sc_merge_args *args,
                            struct sc_err *err);

#endif
