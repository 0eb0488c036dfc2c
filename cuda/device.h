/* cuda/device.h - what the host files of cuda/ share: the backend object and its parts. Private to
 * cuda/. Never included by .cu files: a kernel file exports plain C launchers through its own
 * header (kernels_*.h), which take a stream and device pointers and return a cudaError_t.
 *
 * Everything of one rank runs on one stream, so calls need no synchronisation between them. The
 * operations are documented where the table is, in base/backend.h.
 */
#ifndef SC_CUDA_DEVICE_H
#define SC_CUDA_DEVICE_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "base/backend.h"

#define SC_CUDA_HEAD_DIM_MAX 256u /* must be even */
#define SC_CUDA_GROUP_MAX    128u /* query heads per KV head */
#define SC_CUDA_HEADS_MAX    4096u
#define SC_CUDA_DIM_MAX      (1u << 20) /* columns of a matrix, width of a row */
#define SC_CUDA_OUT_MAX      (1u << 24) /* rows of a matrix */
#define SC_CUDA_ROWS_MAX     (1u << 20) /* rows of one call */
#define SC_CUDA_ATTN_UNITS   65535u /* (sequence, KV head) of one launch of attention by splits */

#define SC_CUDA_STAGE_BYTES ((size_t)16 << 20) /* host arrays of one call */
#define SC_CUDA_STEP_BYTES  ((size_t)16 << 20) /* host arrays and page tables of one step */
#define SC_CUDA_WORKSPACE   ((size_t)32 << 20) /* cuBLASLt; also the bound of split-K partials */
#define SC_CUDA_PARTS_BYTES                                                                        \
    ((size_t)64 << 20)            /* attention: what several blocks of one row found               \
                                   */
#define SC_CUDA_ROUND_ROWS  2048u /* rows that are rounded to bf16 at a time */
#define SC_CUDA_SQUARES_MAX 1024u /* sums of squares of a row: of 16384 columns */

/* Two halves in turn: one is filled and copied while the device may still read the other. */
struct sc_cuda_stage {
    uint8_t *host, *device; /* [2, SC_CUDA_STAGE_BYTES], host pinned */
    cudaEvent_t read[2];    /* the device is past what was in this half */
    uint32_t turn;          /* in half turn % 2; the other has what the turn before put there */
    size_t used;
};

/* What the last call of cluster left on the device for the merge that follows. It lies in the
 * stage, so it is there during this turn and the next. */
struct sc_cuda_kept {
    const uint8_t *labels, *seeds; /* labels NULL: nothing */
    const uint32_t *counts;
    size_t n_labels;
    uint32_t n_jobs, n_planes, turn;
};

/* The step that step_begin told, on the device; see step.c. */
struct sc_cuda_step;

/* The bf16 image that the last norm, attention or swiglu left of its result, for the product that
 * follows. Every call that writes device memory through the table clears it first
 * (sc_cuda_forget). */
struct sc_cuda_rounded {
    const float *of;    /* NULL: none */
    const uint16_t *at; /* in dev->rounded */
    uint32_t n_rows, dim;
};

/* A norm that the product of a few rows, which must follow, makes itself (squares NULL) or ends:
 * its y's image lacks each row's factor then. Forgotten as an image is. */
struct sc_cuda_normed {
    const float *of; /* its y; NULL: none */
    const float *resid, *w;
    uint32_t n_rows;
    float eps;
    const struct sc_matrix *next;
    const float *squares; /* dev->squares, or NULL */
};

/* What the product of a few rows that added to resid left for the norm of it: the bf16 of resid *
 * w, and squares in dev->squares. Forgotten as an image is. */
struct sc_cuda_begun {
    const float *of; /* resid; NULL: none */
    const float *w;
    const struct sc_matrix *next;
    const uint16_t *at; /* in dev->rounded */
    uint32_t n_rows;
};

struct sc_cuda_device {
    struct sc_backend base;
    int ordinal, n_sms, cc; /* cc: compute capability, 90 for 9.0 */
    /* With math bf16, by bf16 weights and by int8 ones: up to gemv_rows go to kernels_gemv.h, more
     * and up to few_rows to kernels_few.h, which has none (0) on a device of little shared memory.
     */
    uint32_t few_rows, gemv_rows, few_rows_i8, gemv_rows_i8;
    bool bf16; /* math: activations are rounded to bf16 */
    bool strict;
    bool prefill_tasks; /* prefill on 9.0 by kernels_attention_tasks.cu */
    bool cascade;       /* decoding reads what sequences share once for several of them */
    cudaStream_t stream;
    struct sc_cuda_stage stage;
    struct sc_cuda_kept kept;
    float *biases; /* device [2, SC_CHUNK_MAX + 1]: of a core of n members, 0 and ln(n) */
    struct sc_cuda_step *step;
    cublasLtHandle_t lt;
    void *workspace;   /* SC_CUDA_WORKSPACE */
    float *parts;      /* SC_CUDA_PARTS_BYTES */
    uint32_t *n_put;   /* [SC_CUDA_ATTN_UNITS]: parts or tasks counted; 0 but within a launch */
    uint16_t *rounded; /* bf16 activations, grown by matrix_open */
    size_t rounded_bytes;
    struct sc_cuda_rounded image;
    struct sc_cuda_normed normed;
    struct sc_cuda_begun begun;
    float *squares; /* [SC_CUDA_FEW_TO_I8, SC_CUDA_SQUARES_MAX], rows as dense as they are */
    uint32_t n_page_writes; /* since the last product, at most 2: see sc_cuda_pages_settled */
    const float *unwritten; /* rows that only the product that follows can make or read, or NULL */
    void *best_scratch;     /* SC_CUDA_BEST_BYTES, see kernels_best.h */
    float *inv_freq; /* device [SC_CUDA_HEAD_DIM_MAX / 2]: those of the last rope_angles ... */
    float inv_freq_host[SC_CUDA_HEAD_DIM_MAX / 2]; /* ... which were these */
    uint32_t inv_freq_dim;                         /* head_dim; 0: none yet */
    bool attention_ready;        /* its kernels may use the shared memory that they need */
    struct sc_cuda_tuned *tuned; /* gemm.c: algorithms of shapes seen so far; free */
    uint32_t n_tuned;
    char name[64];
    struct sc_nccl *nccl; /* NULL until a group is asked for */
};

static inline struct sc_cuda_device *sc_cuda_device(struct sc_backend *be)
{
    return (struct sc_cuda_device *)(void *)be;
}

/* How a page lies in memory: one block per KV head, each 128-byte aligned: K [32][head_dim],
 * V [32][head_dim] in the pool's dtype, with I8 the scales of K and those of V, f32 [32] each,
 * bias f32 [32]. Block of (page, head) at mem + page * page_bytes + head * head_bytes. */
struct sc_kv_pool {
    struct sc_kv_spec spec;
    uint32_t n_pages;
    size_t v_offset, bias_offset; /* in a block; I8: where scales are, cuda/page.h */
    size_t head_bytes, page_bytes;
    uint8_t *mem; /* device */
    bool has_tensor_map;
    uint8_t tensor_map[128]; /* for tensor copies, see tensor_map.c */
};

/* W [n_out, ld] row-major as in the checkpoint, on the device; zeros from n_in to ld, the next
 * multiple of 8 (I8: of 16). */
struct sc_matrix {
    enum sc_dtype store; /* F32, BF16, I8 */
    uint32_t n_in, n_out, ld;
    void *data;
    float *bias;  /* [n_out] or NULL */
    float *scale; /* [n_out], I8 only */
    double error2, norm2;
    bool not_finite;           /* a weight is NaN or infinite, or would be as kept */
    struct sc_cuda_gemm *gemm; /* the chosen algorithms */
};

/* device.c */
enum sc_status sc_cuda_check(cudaError_t rc, const char *what, struct sc_err *err);
enum sc_status sc_cuda_check_blas(cublasStatus_t rc, const char *what, struct sc_err *err);
/* The device of the calling thread from here on: a rank's own thread has it already, one that
 * calibrates or reads entries perhaps not. */
enum sc_status sc_cuda_use(const struct sc_cuda_device *dev, struct sc_err *err);
/* Room for bytes of host arrays of one call: fill *ret_host, then send. The device copy can be read
 * by what is put on the stream after the send. Offsets of parts: round up with SC_CUDA_ALIGN. */
#define SC_CUDA_ALIGN(bytes) (((size_t)(bytes) + 15) / 16 * 16)
enum sc_status sc_cuda_stage_take(struct sc_cuda_device *dev, size_t bytes, const char *what,
                                  void **ret_host, void **ret_device, struct sc_err *err);
enum sc_status sc_cuda_stage_send(struct sc_cuda_device *dev, const void *host, void *device,
                                  size_t bytes, struct sc_err *err);
/* One host array on the device: that of the step if it is part of one, else staged. */
enum sc_status sc_cuda_to_device(struct sc_cuda_device *dev, const void *host, size_t bytes,
                                 const char *what, const void **ret_device, struct sc_err *err);
static inline void sc_cuda_forget(struct sc_cuda_device *dev)
{
    dev->image.of = NULL;
    dev->normed.of = NULL;
    dev->begun.of = NULL;
}
static inline void sc_cuda_is_written(struct sc_cuda_device *dev, const void *rows)
{
    if (rows == dev->unwritten)
        dev->unwritten = NULL;
}
/* ---- pages that are read before the kernels before have ended (overlap.cuh) ----
 *
 * Whatever is launched next starts after all that was before the last product has ended: a product
 * lets the next kernel in only once it has waited itself, or not at all. So of the kernels that may
 * still run then, those write to pages that were launched since. One is, in a layer: it writes the
 * entries of the step's own rows. */
static inline void sc_cuda_pages_wait(struct sc_cuda_device *dev)
{
    dev->n_page_writes = 0;
}
/* rows_alone: entries of rows that the attention that follows is of. */
static inline void sc_cuda_pages_write(struct sc_cuda_device *dev, bool rows_alone)
{
    dev->n_page_writes = rows_alone && dev->n_page_writes == 0 ? 1 : 2;
}
static inline bool sc_cuda_pages_settled(const struct sc_cuda_device *dev)
{
    return dev->n_page_writes < 2;
}
enum sc_status sc_cuda_alloc(struct sc_backend *be, size_t bytes, void **ret_mem,
                             struct sc_err *err);
void sc_cuda_free(struct sc_backend *be, void *mem);
enum sc_status sc_cuda_upload(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                              struct sc_err *err);
enum sc_status sc_cuda_download(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                                struct sc_err *err);
enum sc_status sc_cuda_sync(struct sc_backend *be, struct sc_err *err);
enum sc_status sc_cuda_check_rows(const char *op, uint32_t n, uint64_t width, struct sc_err *err);

/* step.c */
enum sc_status sc_cuda_step_open(struct sc_cuda_device *dev, struct sc_err *err);
void sc_cuda_step_close(struct sc_cuda_device *dev);
enum sc_status sc_cuda_step_begin(struct sc_backend *be, const struct sc_step *step,
                                  bool *ret_replayed, struct sc_err *err);
enum sc_status sc_cuda_step_end(struct sc_backend *be, bool complete, struct sc_err *err);
enum sc_status sc_cuda_step_wait(struct sc_backend *be, bool *ret_waited, struct sc_err *err);
/* The device copy of a host array that lies within the step's, or NULL. */
const void *sc_cuda_step_find(const struct sc_cuda_device *dev, const void *host, size_t bytes);
/* The descriptors of the step's sequences in one layer; false: seqs is not of the step. */
struct sc_cuda_seqs;
bool sc_cuda_step_seqs(const struct sc_cuda_device *dev, const struct sc_attn_seq *seqs,
                       uint32_t n_seqs, struct sc_cuda_seqs *ret_seqs);

/* matrix.c */
enum sc_status sc_cuda_matrix_open(struct sc_backend *be, const struct sc_matrix_part *parts,
                                   uint32_t n_parts, uint64_t n_in, const float *bias,
                                   enum sc_dtype store, struct sc_matrix **ret_matrix,
                                   struct sc_err *err);
void sc_cuda_matrix_close(struct sc_backend *be, struct sc_matrix *matrix);
bool sc_cuda_matrix_is_finite(const struct sc_matrix *matrix);
void sc_cuda_matrix_error(const struct sc_matrix *matrix, double *error2, double *norm2);
uint64_t sc_cuda_matrix_bytes(const struct sc_matrix *matrix);
/* matmul.c */
/* Are n rows multiplied by the kernel that reads them as they are, in f32 (kernels_gemv.h)? */
bool sc_cuda_by_gemv(const struct sc_cuda_device *dev, const struct sc_matrix *w, uint32_t n);
enum sc_status sc_cuda_matmul(struct sc_backend *be, const struct sc_matrix *w, const float *x,
                              uint32_t x_stride, float *y, uint32_t y_stride, uint32_t n,
                              struct sc_err *err);
enum sc_status sc_cuda_matmul_swiglu(struct sc_backend *be, const struct sc_matrix *w,
                                     const float *x, float *gate_up, float *y, uint32_t n,
                                     uint32_t ffn, const struct sc_matrix *next,
                                     struct sc_err *err);
enum sc_status sc_cuda_matmul_add(struct sc_backend *be, const struct sc_matmul_add_args *args,
                                  bool *ret_added, struct sc_err *err);

/* kv.c */
size_t sc_cuda_kv_page_bytes(struct sc_backend *be, const struct sc_kv_spec *spec);
enum sc_status sc_cuda_kv_open(struct sc_backend *be, const struct sc_kv_spec *spec,
                               uint32_t n_pages, struct sc_kv_pool **ret_pool, struct sc_err *err);
void sc_cuda_kv_close(struct sc_backend *be, struct sc_kv_pool *pool);
enum sc_status sc_cuda_kv_read(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                               uint32_t slot, uint32_t head, float *k, float *v, float *bias,
                               struct sc_err *err);
enum sc_status sc_cuda_kv_write(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                                uint32_t slot, uint32_t head, const float *k, const float *v,
                                float bias, struct sc_err *err);
enum sc_status sc_cuda_kv_pack(struct sc_backend *be, struct sc_kv_pool *pool,
                               const uint32_t *pages, uint32_t first, uint32_t n, uint32_t head,
                               void *k, void *v, float *bias, struct sc_err *err);
enum sc_status sc_cuda_kv_unpack(struct sc_backend *be, struct sc_kv_pool *pool,
                                 const uint32_t *pages, uint32_t first, uint32_t n, uint32_t head,
                                 const void *k, const void *v, const float *bias,
                                 struct sc_err *err);
enum sc_status sc_cuda_kv_copy(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t dst_page,
                               uint32_t src_page, struct sc_err *err);
enum sc_status sc_cuda_check_pool(const char *op, const struct sc_kv_pool *pool,
                                  uint32_t n_kv_heads, uint32_t head_dim, struct sc_err *err);
/* All of pages[first .. end) exist. */
enum sc_status sc_cuda_check_pages(const char *op, const struct sc_kv_pool *pool,
                                   const uint32_t *pages, uint32_t first, uint32_t end,
                                   struct sc_err *err);

/* tensor_map.c */
void sc_cuda_tensor_map_make(const struct sc_cuda_device *dev, struct sc_kv_pool *pool);

/* rows.c */
enum sc_status sc_cuda_embedding_open(struct sc_backend *be, const void *data, enum sc_dtype dtype,
                                      uint64_t row0, uint64_t n_rows, uint32_t dim,
                                      struct sc_embedding **ret_emb, struct sc_err *err);
void sc_cuda_embedding_close(struct sc_backend *be, struct sc_embedding *emb);
enum sc_status sc_cuda_embed(struct sc_backend *be, const struct sc_embedding *emb,
                             const int32_t *ids, uint32_t n, float *out, struct sc_err *err);
enum sc_status sc_cuda_norm(struct sc_backend *be, const struct sc_norm_args *args,
                            struct sc_err *err);
enum sc_status sc_cuda_swiglu(struct sc_backend *be, const float *gate_up, float *y, uint32_t n,
                              uint32_t ffn, struct sc_err *err);
enum sc_status sc_cuda_gather_rows(struct sc_backend *be, const float *src, const uint32_t *rows,
                                   uint32_t n, uint32_t dim, float *dst, struct sc_err *err);
/* qkv.c */
enum sc_status sc_cuda_rope_angles(struct sc_backend *be, const uint32_t *positions, uint32_t n,
                                   const float *inv_freq, uint32_t head_dim, float scale,
                                   float *angles, struct sc_err *err);
enum sc_status sc_cuda_qkv(struct sc_backend *be, const struct sc_qkv_args *args,
                           struct sc_err *err);
/* best.c */
enum sc_status sc_cuda_row_max(struct sc_backend *be, const float *x, uint32_t n_rows,
                               uint32_t width, uint32_t n_cols, float *best, struct sc_err *err);
/* draw.c */
enum sc_status sc_cuda_draw(struct sc_backend *be, const float *x, uint32_t n_rows, uint32_t width,
                            uint32_t n_cols, const struct sc_draw *draws, float *best,
                            struct sc_err *err);
/* attention.c */
enum sc_status sc_cuda_attention(struct sc_backend *be, const struct sc_attn_args *args,
                                 struct sc_err *err);
/* compress.c */
enum sc_status sc_cuda_merge_open(struct sc_cuda_device *dev, struct sc_err *err); /* dev->biases */
enum sc_status sc_cuda_distances(struct sc_backend *be, const struct sc_dist_args *args,
                                 struct sc_err *err);
enum sc_status sc_cuda_cluster(struct sc_backend *be, const struct sc_cluster_args *args,
                               struct sc_err *err);
enum sc_status sc_cuda_merge(struct sc_backend *be, const struct sc_merge_args *args,
                             struct sc_err *err);
/* group.c */
enum sc_status sc_cuda_group_id(struct sc_backend *be, uint8_t *ret_id, struct sc_err *err);
enum sc_status sc_cuda_group_join(struct sc_backend *be, const struct sc_group_args *args,
                                  struct sc_err *err);
enum sc_status sc_cuda_group_sum(struct sc_backend *be, enum sc_dtype dtype, void *data, size_t n,
                                 struct sc_err *err);
void sc_cuda_group_leave(struct sc_backend *be);
enum sc_status sc_cuda_convert(struct sc_backend *be, enum sc_dtype from, const void *x, void *y,
                               size_t n, struct sc_err *err);
/* peers.c */
enum sc_status sc_cuda_peer_sum(struct sc_backend *be, enum sc_dtype dtype, const void *const *srcs,
                                uint32_t n_srcs, size_t first, size_t n, void *dst,
                                struct sc_err *err);
enum sc_status sc_cuda_put_cols(struct sc_backend *be, const struct sc_cols_args *args,
                                struct sc_err *err);
enum sc_status sc_cuda_copy(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                            struct sc_err *err);

#endif
