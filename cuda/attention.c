#include "cuda/device.h"

#include <assert.h>
#include <math.h>

#include "cuda/image.h"
#include "cuda/kernels_attention.h"
#include "cuda/seqs.h"

#define GRID_MAX 65535u /* blocks along the second and third axis */
static_assert(SC_CUDA_ATTN_UNITS <= GRID_MAX, "each has blocks of its own");

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static enum sc_status check_args(const struct sc_attn_args *a, struct sc_err *err)
{
    enum sc_status st = sc_cuda_check_pool("attention", a->pool, a->n_kv_heads, a->head_dim, err);
    if (st != SC_OK)
        return st;
    if (a->n_heads == 0 || a->n_heads > SC_CUDA_HEADS_MAX || a->n_heads % a->n_kv_heads != 0 ||
        a->n_heads / a->n_kv_heads > SC_CUDA_GROUP_MAX ||
        (uint64_t)a->q_stride < (uint64_t)a->n_heads * a->head_dim)
        return sc_fail(err, SC_EINVAL,
                       "attention: %u heads of %u over %u KV heads (at most %u each), q stride %u",
                       a->n_heads, a->head_dim, a->n_kv_heads, SC_CUDA_GROUP_MAX, a->q_stride);
    return sc_cuda_seqs_check(a->pool, a->seqs, a->n_seqs, err);
}

/* The sequences on the device: as the step put them there, or staged for this call. */
static enum sc_status find_seqs(struct sc_cuda_device *dev, const struct sc_attn_args *a,
                                struct sc_cuda_seqs *ret, struct sc_err *err)
{
    struct sc_cuda_seqs_layout at;
    struct sc_cuda_seqs packed;
    void *host, *device;
    enum sc_status st;

    if (sc_cuda_step_seqs(dev, a->seqs, a->n_seqs, ret))
        return SC_OK;
    st = sc_cuda_seqs_check_pages(a->pool, a->seqs, a->n_seqs, err);
    if (st != SC_OK)
        return st;
    at = sc_cuda_seqs_lay_out(a->seqs, a->n_seqs, 1, false);
    st = sc_cuda_stage_take(dev, at.bytes, "attention", &host, &device, err);
    if (st != SC_OK)
        return st;
    const struct sc_cuda_seqs_pack args = {
        .seqs = a->seqs, .n_layers = 1, .n_kv_heads = a->n_kv_heads, .cascade = dev->cascade};
    packed = sc_cuda_seqs_pack(&args, &at, host);
    *ret = sc_cuda_seqs_of_layer(&packed, &at, device, 0);
    return sc_cuda_stage_send(dev, host, device, at.bytes, err);
}

/* Rows of the result, to the last that a sequence has. */
static uint32_t rows_of(const struct sc_attn_args *a)
{
    uint32_t n_rows = 0;
    for (uint32_t i = 0; i < a->n_seqs; i++) {
        const uint32_t end = a->seqs[i].row0 + a->seqs[i].n_rows;
        n_rows = end > n_rows ? end : n_rows;
    }
    return n_rows;
}

static bool takes_tensor_cores(const struct sc_cuda_device *dev, const struct sc_attn_args *a)
{
    return dev->bf16 && a->pool->spec.dtype != SC_DTYPE_F32 &&
           (a->head_dim == 32 || a->head_dim == 64 || a->head_dim == 128) && a->scale > 0.0f &&
           isfinite(a->scale) && a->q_stride % 4 == 0 && (uintptr_t)a->q % 16 == 0 &&
           (uintptr_t)a->out % 16 == 0;
}

/* How many (sequence, KV head) at a time parts and their counts have room for. Those of a cohort
 * stay together, some heads at a time, or read alone where there is no room for one head of all. */
static void share_out(struct sc_cuda_attn *l, bool tensor_cores, uint32_t *ret_seqs,
                      uint32_t *ret_heads)
{
    struct sc_cuda_cohort_bounds *b = &l->seqs.bounds;
    const uint32_t n_kv = l->n_kv_heads, n_seqs = l->seqs.n_seqs;
    uint32_t fit = GRID_MAX;

    if (l->n_splits > 1)
        fit = smaller(SC_CUDA_ATTN_UNITS, (uint32_t)(SC_CUDA_PARTS_BYTES / sizeof(float) /
                                                     ((size_t)l->n_splits * l->part_rows *
                                                      (l->head_dim + SC_CUDA_ATTN_PART_PAD))));
    if (!tensor_cores || l->group > SC_CUDA_ATTN_SMALL || fit < n_seqs ||
        (uint64_t)b->n_cohorts * n_kv > GRID_MAX)
        b->n_cohorts = 0;
    *ret_heads = smaller(n_kv, fit);
    *ret_seqs = smaller(l->n_splits > 1 ? fit / *ret_heads : GRID_MAX, n_seqs);
    if (b->n_cohorts != 0 && *ret_seqs < n_seqs) {
        const uint32_t most = fit / n_seqs, times = (n_kv + most - 1) / most;
        *ret_heads = (n_kv + times - 1) / times;
        *ret_seqs = n_seqs;
    }
    l->n_own_splits = b->n_cohorts != 0 ? smaller(b->max_own, l->n_splits) : l->n_splits;
}

static cudaError_t attend_now(const struct sc_cuda_attn *l, bool tensor_cores, cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;
    if (l->seqs.bounds.n_cohorts != 0)
        rc = sc_cuda_attn_cohort(l, stream);
    if (rc == cudaSuccess)
        rc = tensor_cores ? sc_cuda_attn_decode(l, stream) : sc_cuda_attn_plain_decode(l, stream);
    if (rc == cudaSuccess && l->n_splits > 1 && l->apart)
        rc = sc_cuda_attn_combine(l, stream);
    return rc;
}

/* Small sequences by splits. */
static cudaError_t attend_small(struct sc_cuda_attn l, bool tensor_cores, cudaStream_t stream)
{
    const uint32_t n_kv = l.n_kv_heads, n_seqs = l.seqs.n_seqs;
    uint32_t seqs_step, heads_step;
    cudaError_t rc = cudaSuccess;

    l.part_rows = smaller(l.seqs.max_rows * l.group, SC_CUDA_ATTN_SMALL);
    l.n_splits = sc_cuda_splits_bound(l.seqs.max_pages, l.seqs.n_kv_heads);
    l.apart =
        !tensor_cores || sc_cuda_adds_apart(l.n_splits, l.part_rows, l.head_dim, n_seqs * n_kv);
    share_out(&l, tensor_cores, &seqs_step, &heads_step);
    for (l.seq0 = 0; l.seq0 < n_seqs; l.seq0 += l.n_seqs) {
        l.n_seqs = smaller(n_seqs - l.seq0, seqs_step);
        for (l.head0 = 0; l.head0 < n_kv; l.head0 += l.n_heads_now) {
            l.n_heads_now = smaller(n_kv - l.head0, heads_step);
            rc = attend_now(&l, tensor_cores, stream);
            if (rc != cudaSuccess)
                return rc;
        }
    }
    return rc;
}

static cudaError_t attend_blocks(const struct sc_cuda_device *dev, const struct sc_cuda_attn *l,
                                 bool tensor_cores)
{
    if (!tensor_cores)
        return sc_cuda_attn_plain_prefill(l, dev->stream);
    if (l->tensor_map != NULL)
        return dev->prefill_tasks ? sc_cuda_attn_prefill_tasks(l, (uint32_t)dev->n_sms, dev->stream)
                                  : sc_cuda_attn_prefill_hopper(l, dev->stream);
    return sc_cuda_attn_prefill(l, dev->stream);
}

/* Once per device: a kernel of much shared memory must be told so. */
static enum sc_status prepare(struct sc_cuda_device *dev, struct sc_err *err)
{
    cudaError_t rc = cudaSuccess;
    if (dev->attention_ready)
        return SC_OK;
    rc = sc_cuda_attn_decode_init();
    if (rc == cudaSuccess)
        rc = sc_cuda_attn_cohort_init();
    if (rc == cudaSuccess)
        rc = sc_cuda_attn_prefill_init();
    if (rc == cudaSuccess && dev->cc == 90)
        rc = sc_cuda_attn_prefill_hopper_init();
    if (rc == cudaSuccess && dev->cc == 90 && dev->prefill_tasks)
        rc = sc_cuda_attn_prefill_tasks_init();
    dev->attention_ready = rc == cudaSuccess;
    return sc_cuda_check(rc, "attention kernels", err);
}

enum sc_status sc_cuda_attention(struct sc_backend *be, const struct sc_attn_args *a,
                                 struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    struct sc_cuda_seqs seqs = {0};
    enum sc_status st = check_args(a, err);

    if (st == SC_OK)
        st = prepare(dev, err);
    if (st == SC_OK)
        st = find_seqs(dev, a, &seqs, err);
    if (st != SC_OK)
        return st;
    sc_cuda_forget(dev);
    sc_cuda_is_written(dev, a->out);
    if (seqs.n_seqs == 0 || seqs.max_rows == 0)
        return SC_OK;

    const bool tensor_cores = takes_tensor_cores(dev, a);
    const uint32_t width = a->n_heads * a->head_dim;
    const uint32_t n_rows = rows_of(a);
    uint16_t *image = sc_cuda_image_take(dev, a->out, n_rows, width, NULL);
    struct sc_cuda_attn l = {.q = a->q,
                             .out =
                                 sc_cuda_image_beside(dev, image, a->out, n_rows, width, a->next),
                             .image = image,
                             .parts = dev->parts,
                             .n_put = dev->n_put,
                             .mem = a->pool->mem,
                             .page_bytes = a->pool->page_bytes,
                             .head_bytes = a->pool->head_bytes,
                             .v_offset = a->pool->v_offset,
                             .bias_offset = a->pool->bias_offset,
                             .tensor_map = a->pool->has_tensor_map ? a->pool->tensor_map : NULL,
                             .seqs = seqs,
                             .q_stride = a->q_stride,
                             .n_heads = a->n_heads,
                             .n_kv_heads = a->n_kv_heads,
                             .head_dim = a->head_dim,
                             .group = a->n_heads / a->n_kv_heads,
                             .scale = a->scale,
                             .dtype = a->pool->spec.dtype,
                             .split = !dev->strict,
                             .settled = sc_cuda_pages_settled(dev)};
    cudaError_t rc = cudaSuccess;
    if (l.split)
        rc = attend_small(l, tensor_cores, dev->stream);
    if (rc == cudaSuccess && (!l.split || seqs.max_rows * l.group > SC_CUDA_ATTN_SMALL))
        rc = attend_blocks(dev, &l, tensor_cores);
    st = sc_cuda_check(rc, "attention", err);
    if (st != SC_OK)
        sc_cuda_forget(dev);
    return st;
}
