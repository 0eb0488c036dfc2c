/* base/backend.h - the table that a compute backend fills: cpu/ (the reference) and cuda/.
 *
 * One struct sc_backend is one tensor-parallel rank's device. shard/ drives it and never sees how a
 * matrix or a page is laid out. Activations are f32, row-major, in memory from ops->alloc.
 *
 * Purity rule, on which caching rests: a row of any result depends only on that row's inputs and on
 * the entries it attends to, bit for bit, never on n_rows, on other rows, on how a prompt was cut
 * into blocks, or on the number of threads.
 *
 * Memory: open and alloc calls take memory; the calls under "step loop" never allocate.
 * Threads: one at a time, the one that steps the rank. Calls may return before the work is done on
 * a device; sync() waits. Arguments marked host are copied or used before the call returns. Errors:
 * a failed device is a status (SC_EDEVICE), never an abort.
 */
#ifndef SC_BASE_BACKEND_H
#define SC_BASE_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/draw.h"
#include "base/dtype.h"
#include "base/status.h"

#define SC_BACKEND_ABI  14u
#define SC_PAGE_ENTRIES 32u      /* entries of one layer in one page, all KV heads of the rank */
#define SC_CHUNK_MAX    128u     /* tokens of one chunk */
#define SC_DIST_ONE     65536.0f /* fixed point: a distance of 1.0 */

struct sc_backend;
struct sc_matrix;    /* weights [n_out, n_in], packed as the backend likes */
struct sc_embedding; /* a slice of rows of the embedding table */
struct sc_kv_pool;   /* pages; one pool a rank, any page may serve any layer */

/* What bf16 and int8 weights and bf16 pages are multiplied with: activations as they are (F32), or
 * rounded to bf16 (BF16: faster where the device has instructions for it; sums stay f32). INT8:
 * int8 weights with activations of int8 (one scale for 64 of a row), the others as AUTO has it. */
enum sc_math { SC_MATH_AUTO, SC_MATH_F32, SC_MATH_BF16, SC_MATH_INT8 };

struct sc_backend_opts {
    uint32_t rank, n_ranks;
    uint32_t n_threads; /* CPU threads of this rank, the caller's included; >= 1 */
    int device;         /* GPU ordinal */
    bool pin_threads;   /* CPU: thread t of rank r on core r * n_threads + t */
    enum sc_math math;  /* AUTO: what is faster on this device */
    /* CPU: bf16 weights are kept in 16 bits, not in 12. The same bits result, more slowly. */
    bool plain_weights;
    /* GPU: the purity rule holds at the cost of speed. Without it a row's last bits may depend on
     * n_rows. The CPU backend always keeps the rule. */
    bool strict;
};

/* Rows of a weight in its source: row i starts at data + i * row_stride elements; columns
 * [col0, col0 + n_in) are used. data may be unaligned (a mapped file). */
struct sc_matrix_part {
    const void *data;
    enum sc_dtype dtype; /* F32, BF16, F16 */
    uint64_t n_rows, row_stride, col0;
};

/* How entries are kept. I8: K and V of an entry and KV head each as round(x / scale), ties to even,
 * -127 .. 127, the scale (f32) being the largest |x| / 127: a function of the row alone. A scale of
 * 0: all of the row is zero; a row that is not finite has the scale NaN. What reads such entries
 * multiplies the whole numbers and applies the scale to the sum. A device need not have I8. */
struct sc_kv_spec {
    uint32_t n_kv_heads; /* of this rank */
    uint32_t head_dim;
    enum sc_dtype dtype; /* F32, BF16 or I8 */
};

/* Bytes of one entry's K or V of one head outside of pages, in core files: head_dim elements, I8
 * with the row's scale behind them. */
static inline size_t sc_kv_row_bytes(enum sc_dtype dtype, uint32_t head_dim)
{
    return head_dim * sc_dtype_bytes(dtype) + (dtype == SC_DTYPE_I8 ? sizeof(float) : 0);
}

/* resid += delta (delta NULL: nothing is added), then y = resid * rsqrt(mean(resid^2) + eps) * w.
 * y NULL: only the sum. All [n_rows, dim] dense; w [dim]. next: the matrix that these rows of y are
 * multiplied with before any other call, into other rows than resid, and nothing else reads y, so
 * that a backend may keep only the form that the product wants, or leave the norm to it; NULL: y is
 * written as it stands here.
 */
struct sc_norm_args {
    float *resid;
    const float *delta;
    const float *w;
    float *y;
    uint32_t n_rows, dim;
    float eps;
    const struct sc_matrix *next;
};

/* x [n, n_in] W^T, dense, is added to resid [n, n_out] or put in delta [n, n_out]. norm, next: w
 * and next of the norm of resid that follows before any other call, so that a backend may begin it;
 * or NULL. */
struct sc_matmul_add_args {
    const struct sc_matrix *w;
    const float *x;
    float *delta, *resid;
    uint32_t n;
    const float *norm;
    const struct sc_matrix *next;
};

/* Splits qkv rows [n_rows, (n_heads + 2 * n_kv_heads) * head_dim] = [q | k | v]; q_norm, k_norm:
 * RMSNorm weights [head_dim] or NULL; rotates q and k by the row's angles (half-split layout:
 * element i pairs with i + head_dim/2); leaves q in place; writes k and v as entry slots[i] of
 * pages[i] with bias 0. angles [n_rows, head_dim]: cos in the first half, sin in the second,
 * scaled. */
struct sc_qkv_args {
    float *qkv;
    const float *q_norm, *k_norm;
    const float *angles;
    struct sc_kv_pool *pool;
    const uint32_t *pages; /* host [n_rows] */
    const uint32_t *slots; /* host [n_rows], < SC_PAGE_ENTRIES */
    uint32_t n_rows, n_heads, n_kv_heads, head_dim;
    float eps;
};

/* The queries of one sequence in a step and the entries they see in one layer, in this order:
 *   cores:  n_cores entries, entry i in slot i % SC_PAGE_ENTRIES of core_pages[i /
 * SC_PAGE_ENTRIES]; exact:  positions exact_lo .. own position; position p in slot p %
 * SC_PAGE_ENTRIES of exact_pages[p / SC_PAGE_ENTRIES] (indexed by absolute page number; pages
 * wholly below exact_lo are never read). A window > 0 hides exact positions <= own position -
 * window (n_cores is then 0). */
struct sc_attn_seq {
    uint32_t row0, n_rows; /* rows of q and out; row0 + i is at position pos0 + i */
    uint32_t pos0;
    uint32_t n_cores, exact_lo;
    uint32_t window;
    const uint32_t *core_pages, *exact_pages; /* host */
    /* Names what these hold, in all layers: while it is the same, so are the page ids told with it,
     * and exact ones are only added behind them. 0: no promise. */
    uint64_t tables;
};

/* out = softmax(q.k * scale + bias) v, f32 accumulation, q rows at stride q_stride, out rows dense
 * [n_rows, n_heads * head_dim]. Query head h uses KV head h / (n_heads / n_kv_heads). Entries that
 * the last qkv wrote are those of rows of this call, and no other sequence of it reads their pages.
 */
struct sc_attn_args {
    const float *q;
    float *out;
    struct sc_kv_pool *pool;
    const struct sc_attn_seq *seqs; /* host */
    uint32_t n_seqs, q_stride, n_heads, n_kv_heads, head_dim;
    float scale;
    const struct sc_matrix *next; /* the only reader of out, as of norm, or NULL */
};

enum sc_metric { SC_METRIC_L2_PRE, SC_METRIC_L2_POST, SC_METRIC_COS_PRE, SC_METRIC_COS_POST };
enum sc_seed_order { SC_SEED_DENSE, SC_SEED_SCAN };
enum sc_representative { SC_REP_MEAN, SC_REP_SEED, SC_REP_LAST };

/* One chunk of one layer: tokens pos0 .. pos0 + m - 1, exact entries addressed as in sc_attn_seq.
 * In merge, cluster c becomes entry core0 + c of core_pages. */
struct sc_chunk_job {
    const uint32_t *exact_pages;        /* host */
    const uint32_t *core_pages;         /* host; merge only */
    uint32_t pos0, m;                   /* m in 1..SC_CHUNK_MAX */
    uint32_t core0;                     /* merge only */
    uint64_t forced[SC_CHUNK_MAX / 64]; /* bit i: token i stays alone */
    int64_t tau;                        /* cluster: D <= tau are neighbours; fixed point */
    int64_t alone_above;                /* cluster: token i stays alone, too, if D(i,i) is more */
    uint32_t most_alone; /* of these, those with the largest D(i,i), of equals the lowest; 0: all */
    uint32_t budget;     /* cluster: 0 threshold mode; else at most this many cores (and at
                            least the forced ones): tau is found by <= 12 bisections */
    const float *inv_var;  /* host [n_kv_heads]: 1 / s_h of this rank's heads in this layer */
    const float *mean_key; /* host [n_kv_heads, head_dim], de-rotated to position 0; NULL: none */
};

/* dist: int32, job j's planes at dist + off where off = sum over earlier jobs of
 * n_planes * m * m; plane-major, row-major, symmetric. D(i,i): distance of token i, de-rotated to
 * position 0, to the mean key, l2 whatever the metric (needs inv_freq and inv_var); 0 where there
 * is none. n_planes 1: summed over the rank's heads; n_planes = n_kv_heads: one plane a head. Every
 * head's value is min(round(d * SC_DIST_ONE), cap), quantised per head before the sum. l2: d = |x_i
 * - x_j|^2 * inv_var; cos: d = 1 - cos(x_i, x_j). pre: keys de-rotated to the chunk's origin with
 * inv_freq (rotation by
 * -(p_i - p_0), unscaled); post: as stored. contributes false (a replica of another rank's KV
 * head): zeros. Source: GSC, docs/compression.md. */
struct sc_dist_args {
    struct sc_kv_pool *pool;
    const struct sc_chunk_job *jobs; /* host */
    uint32_t n_jobs, n_planes, n_kv_heads, head_dim;
    enum sc_metric metric;
    const float *inv_freq; /* host [head_dim / 2] */
    int32_t cap;
    bool contributes;
    int32_t *dist;
};

/* Greedy Seed Clustering on the integers. labels: host, job j at offset n_planes * (sum of earlier
 * m); labels[i] = cluster of token i; clusters are numbered by their lowest member. counts: host
 * [n_jobs * n_planes]. seeds: host, at the labels' offsets: seeds[c] = the seed's token of cluster
 * c. keep: nobody but merge will read labels and seeds, so they may stay with the backend instead;
 * counts come to the host always. */
struct sc_cluster_args {
    const struct sc_chunk_job *jobs; /* host */
    uint32_t n_jobs, n_planes;
    enum sc_seed_order seed_order;
    const int32_t *dist;
    uint8_t *labels;
    uint8_t *seeds;
    uint32_t *counts;
    bool keep;
};

/* Writes the cores of each job: K = mean of the members' stored keys, V = mean of values (f32 sums
 * in member order, then the cache dtype), bias = ln(n) (0 when !log_bias); or one member's K and V
 * for SEED / LAST. n_planes > 1: labels per head; a job then has n_cores[j] entries in every head,
 * those beyond a head's own count with bias -inf and zero K and V. Core pages must not overlap
 * exact pages. kept: the last call but sync was cluster with keep, of the same jobs and with the
 * same arrays, of which nothing was written since; what of them did not come to the host is with
 * the backend. */
struct sc_merge_args {
    struct sc_kv_pool *pool;
    const struct sc_chunk_job *jobs; /* host */
    uint32_t n_jobs, n_planes, n_kv_heads, head_dim;
    enum sc_representative representative;
    bool log_bias;
    const uint8_t *labels, *seeds; /* host, as from cluster */
    const uint32_t *counts;        /* host [n_jobs * n_planes] */
    const uint32_t *n_cores;       /* host [n_jobs]: entries of the job */
    bool kept;
};

/* All that a step's calls will be given as host arrays, told before the first of them. A call
 * recognises the step's arrays by their address: seqs and pages of layer l are the parts at
 * l * n_seqs and l * n_rows. They stay as they are until step_end. */
struct sc_step {
    uint32_t n_rows, n_seqs, n_layers, n_logit_rows;
    uint32_t n_kv_heads;               /* of this rank */
    const int32_t *tokens;             /* [n_rows] */
    const uint32_t *positions, *slots; /* [n_rows] */
    const uint32_t *logit_rows;        /* [n_logit_rows] */
    const uint32_t *pages;             /* [n_layers, n_rows] */
    const struct sc_attn_seq *seqs;    /* [n_layers, n_seqs] */
    bool alone; /* nothing but this backend's calls happens between step_begin and step_end */
};

/* dst [n_rows, dst_width], columns first .. first + width - 1 = src [n_rows, width], 4-byte
 * elements; clear: the rest of dst becomes 0. */
struct sc_cols_args {
    void *src, *dst;
    uint32_t n_rows, width, dst_width, first;
    bool clear;
};

/* A rank of a group in which each has a device of its own. */
#define SC_GROUP_ID_BYTES 128u
struct sc_group_args {
    const uint8_t *id; /* [SC_GROUP_ID_BYTES], one rank's group_id; new for every group */
    uint32_t rank, n_ranks;
    uint32_t timeout_ms;             /* of joining, and of every wait for the device while joined */
    const _Atomic uint32_t *aborted; /* not 0: another rank failed, stop waiting */
};

struct sc_backend_ops {
    const char *name;                     /* "cpu", "cuda" */
    void (*close)(struct sc_backend *be); /* after everything opened from it was closed */
    void (*describe)(struct sc_backend *be, char *buf,
                     size_t bytes); /* "cpu avx512bf16, 2 threads" */

    /* Bytes of the device's own memory; NULL where that is the host's. */
    enum sc_status (*memory)(struct sc_backend *be, uint64_t *ret_free, uint64_t *ret_total,
                             struct sc_err *err);

    /* Set-up: may allocate and block. */
    enum sc_status (*alloc)(struct sc_backend *be, size_t bytes, void **ret_mem,
                            struct sc_err *err);
    void (*free)(struct sc_backend *be, void *mem); /* NULL is fine */
    /* Host memory that download will often write to: lets the device write it directly. A wish;
     * NULL where there is nothing to gain. unpin before it is freed. */
    void (*pin)(struct sc_backend *be, void *host, size_t bytes);
    void (*unpin)(struct sc_backend *be, void *host);
    enum sc_status (*matrix_open)(struct sc_backend *be, const struct sc_matrix_part *parts,
                                  uint32_t n_parts, uint64_t n_in, const float *bias, /* or NULL */
                                  enum sc_dtype store, /* F32, BF16 or I8: how weights are kept */
                                  struct sc_matrix **ret_matrix, struct sc_err *err);
    void (*matrix_close)(struct sc_backend *be, struct sc_matrix *matrix);
    /* Weights as kept against weights as given: adds to the sums of squared errors and of squares.
     * I8 keeps round(w / scale), the scale of a row being its largest |w| / 127, over all columns
     * of the source: the same whatever the tensor-parallel size. */
    void (*matrix_error)(const struct sc_matrix *matrix, double *error2, double *norm2);
    /* False: a weight of the source is NaN or infinite, or is so as kept. NULL where a backend does
     * not see that in passing: the loader then reads the source itself. */
    bool (*matrix_is_finite)(const struct sc_matrix *matrix);
    uint64_t (*matrix_bytes)(const struct sc_matrix *matrix); /* of memory that its weights take */
    /* Rows row0 .. row0 + n_rows of a [vocab, dim] table. data: row 0 of the whole table; it must
     * stay valid (a mapped file). */
    enum sc_status (*embedding_open)(struct sc_backend *be, const void *data, enum sc_dtype dtype,
                                     uint64_t row0, uint64_t n_rows, uint32_t dim,
                                     struct sc_embedding **ret_emb, struct sc_err *err);
    void (*embedding_close)(struct sc_backend *be, struct sc_embedding *emb);
    size_t (*kv_page_bytes)(struct sc_backend *be, const struct sc_kv_spec *spec);
    enum sc_status (*kv_open)(struct sc_backend *be, const struct sc_kv_spec *spec,
                              uint32_t n_pages, struct sc_kv_pool **ret_pool, struct sc_err *err);
    void (*kv_close)(struct sc_backend *be, struct sc_kv_pool *pool);

    /* Transfers; host memory on the host side. Block until done. */
    enum sc_status (*upload)(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                             struct sc_err *err);
    enum sc_status (*download)(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                               struct sc_err *err);
    enum sc_status (*sync)(struct sc_backend *be, struct sc_err *err);
    /* Entry slot of page, one KV head: k, v [head_dim] and bias, as f32 on the host. For tests,
     * calibration and core files; not fast. */
    enum sc_status (*kv_read)(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                              uint32_t slot, uint32_t head, float *k, float *v, float *bias,
                              struct sc_err *err);
    enum sc_status (*kv_write)(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                               uint32_t slot, uint32_t head, const float *k, const float *v,
                               float bias, struct sc_err *err);

    /* Entries first .. first + n - 1 of one KV head, entry i in slot i % SC_PAGE_ENTRIES of pages[i
     * / SC_PAGE_ENTRIES] (host), from or to host memory as they are kept: k, v [n, sc_kv_row_bytes]
     * in the pool's dtype, I8 in two's complement with each row's scale (unaligned) behind it; bias
     * [n]. What was packed comes back bit for bit. For core files, whose slices have many pages. */
    enum sc_status (*kv_pack)(struct sc_backend *be, struct sc_kv_pool *pool, const uint32_t *pages,
                              uint32_t first, uint32_t n, uint32_t head, void *k, void *v,
                              float *bias, struct sc_err *err);
    enum sc_status (*kv_unpack)(struct sc_backend *be, struct sc_kv_pool *pool,
                                const uint32_t *pages, uint32_t first, uint32_t n, uint32_t head,
                                const void *k, const void *v, const float *bias,
                                struct sc_err *err);

    /* Step loop: no allocation. */
    /* The calls that follow come from this thread. NULL where that makes no difference. */
    void (*enter)(struct sc_backend *be);
    /* Both or neither; NULL where a step is nothing but its calls. *ret_replayed: the device has
     * been given the whole of a recorded step of the same shape, and the caller goes straight to
     * step_end; only for steps that are alone. The caller makes the same calls, with the same
     * device pointers, for every step of one shape. step_end also follows a failure; complete: all
     * calls were made and none failed, so what was recorded is a whole step. */
    enum sc_status (*step_begin)(struct sc_backend *be, const struct sc_step *step,
                                 bool *ret_replayed, struct sc_err *err);
    enum sc_status (*step_end)(struct sc_backend *be, bool complete, struct sc_err *err);
    /* Waits for the work of the last step that ended, not for what was asked for since.
     * *ret_waited: it was not done when this was called. NULL where calls return when they are
     * done. */
    enum sc_status (*step_wait)(struct sc_backend *be, bool *ret_waited, struct sc_err *err);
    enum sc_status (*kv_copy)(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t dst_page,
                              uint32_t src_page, struct sc_err *err);
    /* out [n, dim]; ids (host) outside the slice give zero rows. */
    enum sc_status (*embed)(struct sc_backend *be, const struct sc_embedding *emb,
                            const int32_t *ids, uint32_t n, float *out, struct sc_err *err);
    enum sc_status (*norm)(struct sc_backend *be, const struct sc_norm_args *args,
                           struct sc_err *err);
    /* y [n, n_out] = x [n, n_in] W^T + bias; rows at the given strides (elements). */
    enum sc_status (*matmul)(struct sc_backend *be, const struct sc_matrix *w, const float *x,
                             uint32_t x_stride, float *y, uint32_t y_stride, uint32_t n,
                             struct sc_err *err);
    /* angles [n, head_dim]: cos | sin of (float)positions[i] * inv_freq[j] (product in f32, as the
     * reference does), times scale. positions, inv_freq: host. */
    enum sc_status (*rope_angles)(struct sc_backend *be, const uint32_t *positions, uint32_t n,
                                  const float *inv_freq, uint32_t head_dim, float scale,
                                  float *angles, struct sc_err *err);
    enum sc_status (*qkv)(struct sc_backend *be, const struct sc_qkv_args *args,
                          struct sc_err *err);
    enum sc_status (*attention)(struct sc_backend *be, const struct sc_attn_args *args,
                                struct sc_err *err);
    /* y [n, ffn] = silu(gate) * up; gate_up [n, 2 * ffn] = [gate | up]. */
    enum sc_status (*swiglu)(struct sc_backend *be, const float *gate_up, float *y, uint32_t n,
                             uint32_t ffn, struct sc_err *err);
    /* y [n, ffn] = swiglu of x [n, n_in] W^T, W [2 * ffn, n_in] = [gate | up]; all dense. gate_up
     * [n, 2 * ffn]: scratch. next: as of norm. NULL: the caller uses matmul and swiglu. */
    enum sc_status (*matmul_swiglu)(struct sc_backend *be, const struct sc_matrix *w,
                                    const float *x, float *gate_up, float *y, uint32_t n,
                                    uint32_t ffn, const struct sc_matrix *next, struct sc_err *err);
    /* *ret_added: to resid; else the caller adds delta. Whatever is less work for this device; the
     * sums have the same bits. NULL: the caller uses matmul. */
    enum sc_status (*matmul_add)(struct sc_backend *be, const struct sc_matmul_add_args *args,
                                 bool *ret_added, struct sc_err *err);
    /* dst row i = src row rows[i] (host); dense [.., dim]. */
    enum sc_status (*gather_rows)(struct sc_backend *be, const float *src, const uint32_t *rows,
                                  uint32_t n, uint32_t dim, float *dst, struct sc_err *err);
    /* The first n_cols of each row of x [n_rows, width]: best[2 i] = the largest (NaN if any is
     * NaN), best[2 i + 1] = the bits of the lowest column that has it. n_cols 0: -inf and 0. NULL:
     * the caller looks at the rows itself. */
    enum sc_status (*row_max)(struct sc_backend *be, const float *x, uint32_t n_rows,
                              uint32_t width, uint32_t n_cols, float *best, struct sc_err *err);
    /* After row_max, whose best this is: puts a column drawn from the row, as base/draw.h says, in
     * the place of the largest's. draws: host [n_rows]; rows of scale 0 and those whose largest is
     * not finite stay as they are. A row that cannot be decided here gets SC_DRAW_UNDECIDED: the
     * caller draws itself. NULL: it always does. */
    enum sc_status (*draw)(struct sc_backend *be, const float *x, uint32_t n_rows, uint32_t width,
                           uint32_t n_cols, const struct sc_draw *draws, float *best,
                           struct sc_err *err);
    enum sc_status (*distances)(struct sc_backend *be, const struct sc_dist_args *args,
                                struct sc_err *err);
    enum sc_status (*cluster)(struct sc_backend *be, const struct sc_cluster_args *args,
                              struct sc_err *err);
    enum sc_status (*merge)(struct sc_backend *be, const struct sc_merge_args *args,
                            struct sc_err *err);

    /* For collectives between ranks that are threads of one process; NULL where memory from alloc
     * is the host's. dst[i] = the sum over r of srcs[r][first + i], in order of r, i < n; the
     * sources may be other ranks' memory. i32 sums wrap. */
    enum sc_status (*peer_sum)(struct sc_backend *be, enum sc_dtype dtype, /* F32 or I32 */
                               const void *const *srcs, uint32_t n_srcs, size_t first, size_t n,
                               void *dst, struct sc_err *err);
    /* The same through the devices' own network (NCCL), queued, in place, equal bits on all ranks.
     * group_id is asked of one rank, group_join of all; SC_ENOTSUP: not here, use peer_sum. While
     * joined, sync and everything that waits gives SC_EPEER or SC_ETIMEDOUT instead of hanging;
     * then leave, and join again with a new id. All or none; NULL: never here. */
    enum sc_status (*group_id)(struct sc_backend *be, uint8_t *ret_id, struct sc_err *err);
    enum sc_status (*group_join)(struct sc_backend *be, const struct sc_group_args *args,
                                 struct sc_err *err);
    enum sc_status (*group_sum)(struct sc_backend *be, enum sc_dtype dtype, /* F32, BF16 or I32 */
                                void *data, size_t n, struct sc_err *err);
    void (*group_leave)(struct sc_backend *be);
    /* What goes through a group as bf16: n elements of F32 to BF16 (to nearest, ties to even), or
     * of BF16 to F32; x and y do not overlap. NULL with group_sum. */
    enum sc_status (*convert)(struct sc_backend *be, enum sc_dtype from, const void *x, void *y,
                              size_t n, struct sc_err *err);
    /* Both device to device, src perhaps another rank's. */
    enum sc_status (*put_cols)(struct sc_backend *be, const struct sc_cols_args *args,
                               struct sc_err *err);
    enum sc_status (*copy)(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                           struct sc_err *err);
};

/* Backends embed this as their first member. */
struct sc_backend {
    const struct sc_backend_ops *ops;
    /* Equal for devices that give the same bits, never 0. KV entries are shared only between such.
     */
    uint32_t arithmetic;
};

typedef enum sc_status sc_backend_open_fn(const struct sc_backend_opts *opts,
                                          struct sc_backend **ret_be, struct sc_err *err);

#endif
