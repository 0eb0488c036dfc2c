#include "cuda/device.h"

#include "cuda/cuda.h"

#include "cuda/kernels_best.h"
#include "cuda/kernels_gemv.h"
#include "cuda/nccl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the kernels' arithmetic: one more whenever the bits of an entry change, so that entries which
 * a store keeps from before are not taken for today's. */
#define REVISION 4u

enum sc_status sc_cuda_check(cudaError_t rc, const char *what, struct sc_err *err)
{
    if (rc == cudaSuccess)
        return SC_OK;
    (void)cudaGetLastError(); /* or the next launch would report it again */
    enum sc_status st = rc == cudaErrorMemoryAllocation ? SC_ENOMEM : SC_EDEVICE;
    return sc_fail(err, st, "%s: %s (%s)", what, cudaGetErrorString(rc), cudaGetErrorName(rc));
}

enum sc_status sc_cuda_check_blas(cublasStatus_t rc, const char *what, struct sc_err *err)
{
    if (rc == CUBLAS_STATUS_SUCCESS)
        return SC_OK;
    return sc_fail(err, rc == CUBLAS_STATUS_ALLOC_FAILED ? SC_ENOMEM : SC_EDEVICE,
                   "%s: cuBLASLt status %d", what, (int)rc);
}

enum sc_status sc_cuda_use(const struct sc_cuda_device *dev, struct sc_err *err)
{
    return sc_cuda_check(cudaSetDevice(dev->ordinal), "cuda device", err);
}

enum sc_status sc_cuda_check_rows(const char *op, uint32_t n, uint64_t width, struct sc_err *err)
{
    if (n > SC_CUDA_ROWS_MAX || width == 0 || width > SC_CUDA_DIM_MAX)
        return sc_fail(err, SC_EINVAL, "%s: shape [%u, %llu], limit [%u, %u]", op, n,
                       (unsigned long long)width, SC_CUDA_ROWS_MAX, SC_CUDA_DIM_MAX);
    return SC_OK;
}

/* ---- host arrays on their way to the device ---- */

enum sc_status sc_cuda_stage_take(struct sc_cuda_device *dev, size_t bytes, const char *what,
                                  void **ret_host, void **ret_device, struct sc_err *err)
{
    struct sc_cuda_stage *s = &dev->stage;
    enum sc_status st = sc_cuda_use(dev, err);

    if (st != SC_OK)
        return st;
    bytes = SC_CUDA_ALIGN(bytes);
    if (bytes > SC_CUDA_STAGE_BYTES)
        return sc_fail(err, SC_EINVAL, "%s: %zu bytes of host arrays, limit %zu", what, bytes,
                       SC_CUDA_STAGE_BYTES);
    if (s->used + bytes > SC_CUDA_STAGE_BYTES) {
        st = sc_cuda_check(cudaEventRecord(s->read[s->turn % 2], dev->stream), what, err);
        s->turn++;
        s->used = 0;
        if (st == SC_OK)
            st = sc_cuda_check(cudaEventSynchronize(s->read[s->turn % 2]), what, err);
    }
    size_t at = s->turn % 2 * SC_CUDA_STAGE_BYTES + s->used;
    *ret_host = s->host + at;
    *ret_device = s->device + at;
    s->used += bytes;
    return st;
}

enum sc_status sc_cuda_stage_send(struct sc_cuda_device *dev, const void *host, void *device,
                                  size_t bytes, struct sc_err *err)
{
    if (bytes == 0)
        return SC_OK;
    return sc_cuda_check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, dev->stream),
                         "staging", err);
}

enum sc_status sc_cuda_to_device(struct sc_cuda_device *dev, const void *host, size_t bytes,
                                 const char *what, const void **ret_device, struct sc_err *err)
{
    void *to, *device;
    *ret_device = sc_cuda_step_find(dev, host, bytes);
    if (*ret_device != NULL)
        return SC_OK;
    enum sc_status st = sc_cuda_stage_take(dev, bytes, what, &to, &device, err);
    if (st != SC_OK)
        return st;
    memcpy(to, host, bytes);
    *ret_device = device;
    return sc_cuda_stage_send(dev, to, device, bytes, err);
}

/* ---- memory ---- */

enum sc_status sc_cuda_alloc(struct sc_backend *be, size_t bytes, void **ret_mem,
                             struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    size_t free_bytes = 0, total = 0;

    if (bytes == 0 || bytes > SIZE_MAX / 4)
        return sc_fail(err, SC_EINVAL, "cuda alloc: %zu bytes", bytes);
    enum sc_status st = sc_cuda_use(dev, err);
    if (st != SC_OK)
        return st;
    cudaError_t rc = cudaMalloc(ret_mem, bytes);
    if (rc == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&free_bytes, &total);
        return sc_fail(err, SC_ENOMEM, "device %d: %zu MiB wanted, %zu MiB free of %zu MiB",
                       dev->ordinal, bytes >> 20, free_bytes >> 20, total >> 20);
    }
    return sc_cuda_check(rc, "cuda alloc", err);
}

void sc_cuda_free(struct sc_backend *be, void *mem)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    if (mem == NULL)
        return;
    sc_cuda_forget(dev);
    dev->unwritten = NULL; /* the same address may be given out again */
    (void)cudaSetDevice(dev->ordinal);
    (void)cudaFree(mem);
}

enum sc_status sc_cuda_upload(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                              struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    if (bytes == 0)
        return SC_OK;
    if (dst == NULL || src == NULL)
        return sc_fail(err, SC_EINVAL, "cuda transfer: %zu bytes from or to NULL", bytes);
    sc_cuda_forget(dev);
    sc_cuda_is_written(dev, dst);
    enum sc_status st = sc_cuda_use(dev, err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, dev->stream),
                           "upload", err);
    return st == SC_OK ? sc_cuda_sync(be, err) : st;
}

enum sc_status sc_cuda_download(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                                struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    if (bytes == 0)
        return SC_OK;
    if (dst == NULL || src == NULL)
        return sc_fail(err, SC_EINVAL, "cuda transfer: %zu bytes from or to NULL", bytes);
    enum sc_status st = sc_cuda_use(dev, err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, dev->stream),
                           "download", err);
    return st == SC_OK ? sc_cuda_sync(be, err) : st;
}

static cudaError_t query_stream(void *ctx)
{
    const struct sc_cuda_device *dev = ctx;
    return cudaStreamQuery(dev->stream);
}

enum sc_status sc_cuda_sync(struct sc_backend *be, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    enum sc_status st =
        sc_nccl_joined(dev->nccl) /* a lost peer must not hang this rank */
            ? sc_nccl_wait(dev->nccl, query_stream, dev, err)
            : sc_cuda_check(cudaStreamSynchronize(sc_cuda_device(be)->stream), "device", err);
    if (st == SC_OK)
        sc_cuda_pages_wait(dev);
    return st;
}

static void cuda_enter(struct sc_backend *be)
{
    (void)cudaSetDevice(sc_cuda_device(be)->ordinal); /* if it fails, the next call does */
}

static void cuda_pin(struct sc_backend *be, void *host, size_t bytes)
{
    if (sc_cuda_use(sc_cuda_device(be), NULL) != SC_OK ||
        cudaHostRegister(host, bytes, cudaHostRegisterPortable) != cudaSuccess)
        (void)cudaGetLastError(); /* downloads then go through the driver's own buffer */
}

static void cuda_unpin(struct sc_backend *be, void *host)
{
    if (host != NULL && sc_cuda_use(sc_cuda_device(be), NULL) == SC_OK &&
        cudaHostUnregister(host) != cudaSuccess)
        (void)cudaGetLastError();
}

static enum sc_status cuda_memory(struct sc_backend *be, uint64_t *ret_free, uint64_t *ret_total,
                                  struct sc_err *err)
{
    size_t free_bytes = 0, total = 0;
    enum sc_status st = sc_cuda_use(sc_cuda_device(be), err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaMemGetInfo(&free_bytes, &total), "device memory", err);
    *ret_free = free_bytes;
    *ret_total = total;
    return st;
}

/* ---- open and close ---- */

static void cuda_describe(struct sc_backend *be, char *buf, size_t bytes)
{
    const struct sc_cuda_device *dev = sc_cuda_device(be);
    if (bytes != 0)
        snprintf(buf, bytes, "cuda %s, device %d, %s%s", dev->name, dev->ordinal,
                 dev->bf16 ? "bf16" : "f32", dev->strict ? ", strict" : "");
}

static void cuda_close(struct sc_backend *be)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    if (dev == NULL)
        return;
    (void)cudaSetDevice(dev->ordinal);
    sc_nccl_close(dev->nccl);
    if (dev->stream != NULL)
        (void)cudaStreamSynchronize(dev->stream);
    sc_cuda_step_close(dev);
    if (dev->lt != NULL)
        (void)cublasLtDestroy(dev->lt);
    for (int i = 0; i < 2; i++)
        if (dev->stage.read[i] != NULL)
            (void)cudaEventDestroy(dev->stage.read[i]);
    (void)cudaFreeHost(dev->stage.host);
    (void)cudaFree(dev->stage.device);
    (void)cudaFree(dev->workspace);
    (void)cudaFree(dev->parts);
    (void)cudaFree(dev->n_put);
    (void)cudaFree(dev->rounded);
    (void)cudaFree(dev->best_scratch);
    (void)cudaFree(dev->biases);
    (void)cudaFree(dev->inv_freq);
    free(dev->tuned);
    if (dev->stream != NULL)
        (void)cudaStreamDestroy(dev->stream);
    free(dev);
}

static const struct sc_backend_ops cuda_ops = {
    .name = "cuda",
    .close = cuda_close,
    .describe = cuda_describe,
    .memory = cuda_memory,
    .alloc = sc_cuda_alloc,
    .free = sc_cuda_free,
    .pin = cuda_pin,
    .unpin = cuda_unpin,
    .matrix_open = sc_cuda_matrix_open,
    .matrix_close = sc_cuda_matrix_close,
    .matrix_error = sc_cuda_matrix_error,
    .matrix_is_finite = sc_cuda_matrix_is_finite,
    .matrix_bytes = sc_cuda_matrix_bytes,
    .embedding_open = sc_cuda_embedding_open,
    .embedding_close = sc_cuda_embedding_close,
    .kv_page_bytes = sc_cuda_kv_page_bytes,
    .kv_open = sc_cuda_kv_open,
    .kv_close = sc_cuda_kv_close,
    .upload = sc_cuda_upload,
    .download = sc_cuda_download,
    .sync = sc_cuda_sync,
    .kv_read = sc_cuda_kv_read,
    .kv_write = sc_cuda_kv_write,
    .kv_pack = sc_cuda_kv_pack,
    .kv_unpack = sc_cuda_kv_unpack,
    .enter = cuda_enter,
    .step_begin = sc_cuda_step_begin,
    .step_end = sc_cuda_step_end,
    .step_wait = sc_cuda_step_wait,
    .kv_copy = sc_cuda_kv_copy,
    .embed = sc_cuda_embed,
    .norm = sc_cuda_norm,
    .matmul = sc_cuda_matmul,
    .rope_angles = sc_cuda_rope_angles,
    .qkv = sc_cuda_qkv,
    .attention = sc_cuda_attention,
    .swiglu = sc_cuda_swiglu,
    .matmul_swiglu = sc_cuda_matmul_swiglu,
    .matmul_add = sc_cuda_matmul_add,
    .gather_rows = sc_cuda_gather_rows,
    .row_max = sc_cuda_row_max,
    .draw = sc_cuda_draw,
    .distances = sc_cuda_distances,
    .cluster = sc_cuda_cluster,
    .merge = sc_cuda_merge,
    .peer_sum = sc_cuda_peer_sum,
    .group_id = sc_cuda_group_id,
    .group_join = sc_cuda_group_join,
    .group_sum = sc_cuda_group_sum,
    .group_leave = sc_cuda_group_leave,
    .convert = sc_cuda_convert,
    .put_cols = sc_cuda_put_cols,
    .copy = sc_cuda_copy,
};

static enum sc_status find_device(const struct sc_backend_opts *opts, struct sc_cuda_device *dev,
                                  struct sc_err *err)
{
    struct cudaDeviceProp prop;
    int n = 0;
    enum sc_status st = sc_cuda_check(cudaGetDeviceCount(&n), "CUDA devices", err);

    if (st != SC_OK)
        return st;
    if (opts->device < 0 || opts->device >= n)
        return sc_fail(err, SC_EUNAVAIL,
                       "rank %u: device %d, this machine has %d (0 to %d); engine.devices can give "
                       "several ranks one device",
                       opts->rank, opts->device, n, n - 1);
    st = sc_cuda_check(cudaGetDeviceProperties(&prop, opts->device), "CUDA device", err);
    if (st != SC_OK)
        return st;
    dev->ordinal = opts->device;
    dev->n_sms = prop.multiProcessorCount;
    dev->cc = prop.major * 10 + prop.minor;
    (void)snprintf(dev->name, sizeof(dev->name), "%.63s", prop.name);
    if (dev->cc < 80)
        return sc_fail(err, SC_ENOTSUP, "device %d: %s has compute capability %d.%d, 8.0 is needed",
                       dev->ordinal, prop.name, prop.major, prop.minor);
    return SC_OK;
}

/* Ranks of one process read each other's memory in peer_sum. */
static enum sc_status open_peers(const struct sc_cuda_device *dev, struct sc_err *err)
{
    int n = 0;
    enum sc_status st = sc_cuda_check(cudaGetDeviceCount(&n), "CUDA devices", err);
    for (int i = 0; i < n && st == SC_OK; i++) {
        int can = 0;
        if (i == dev->ordinal)
            continue;
        st = sc_cuda_check(cudaDeviceCanAccessPeer(&can, dev->ordinal, i), "peer access", err);
        if (st != SC_OK || !can)
            continue;
        cudaError_t rc = cudaDeviceEnablePeerAccess(i, 0);
        if (rc == cudaErrorPeerAccessAlreadyEnabled)
            (void)cudaGetLastError();
        else
            st = sc_cuda_check(rc, "peer access", err);
    }
    return st;
}

static enum sc_status take_memory(struct sc_cuda_device *dev, struct sc_err *err)
{
    const struct {
        void **mem;
        size_t bytes;
    } wants[] = {
        {(void **)&dev->stage.device, 2 * SC_CUDA_STAGE_BYTES},
        {&dev->workspace, SC_CUDA_WORKSPACE},
        {(void **)&dev->parts, SC_CUDA_PARTS_BYTES},
        {&dev->best_scratch, SC_CUDA_BEST_BYTES},
        {(void **)&dev->squares,
         (size_t)SC_CUDA_FEW_TO_I8 * SC_CUDA_SQUARES_MAX * sizeof(*dev->squares)},
        {(void **)&dev->n_put, SC_CUDA_ATTN_UNITS * sizeof(*dev->n_put)},
        {(void **)&dev->inv_freq, SC_CUDA_HEAD_DIM_MAX / 2 * sizeof(float)},
    };
    enum sc_status st = SC_OK;
    for (size_t i = 0; i < SC_ARRAY_LEN(wants) && st == SC_OK; i++)
        st = sc_cuda_alloc(&dev->base, wants[i].bytes, wants[i].mem, err);
    if (st == SC_OK) /* once: who counts sets back to 0 */
        st = sc_cuda_check(
            cudaMemsetAsync(dev->n_put, 0, SC_CUDA_ATTN_UNITS * sizeof(*dev->n_put), dev->stream),
            "attention's counts", err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaMemsetAsync(dev->best_scratch, 0, SC_CUDA_BEST_BYTES, dev->stream),
                           "device memory", err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaHostAlloc((void **)&dev->stage.host, 2 * SC_CUDA_STAGE_BYTES,
                                         cudaHostAllocPortable),
                           "pinned memory", err);
    for (int i = 0; i < 2 && st == SC_OK; i++)
        st = sc_cuda_check(cudaEventCreateWithFlags(&dev->stage.read[i], cudaEventDisableTiming),
                           "CUDA event", err);
    return st;
}

/* How many rows go through kernels of ours. */
static void find_rows(struct sc_cuda_device *dev)
{
    const uint32_t bf16 = sc_cuda_few_most(SC_DTYPE_BF16), i8 = sc_cuda_few_most(SC_DTYPE_I8);
    dev->few_rows = bf16 < SC_CUDA_FEW_TO ? bf16 : SC_CUDA_FEW_TO;
    dev->few_rows_i8 = i8 < SC_CUDA_FEW_TO_I8 ? i8 : SC_CUDA_FEW_TO_I8;
    dev->gemv_rows = bf16 == 0 ? SC_CUDA_GEMV_ROWS_ALONE : SC_CUDA_GEMV_ROWS;
    dev->gemv_rows_i8 = i8 == 0 ? SC_CUDA_GEMV_ROWS_MAX : SC_CUDA_GEMV_ROWS;
}

enum sc_status sc_cuda_backend_open(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                    struct sc_err *err)
{
    struct sc_cuda_device *dev;
    enum sc_status st;

    if (opts->math == SC_MATH_INT8)
        return sc_fail(err, SC_ENOTSUP, "math int8: the CUDA backend has auto, f32 and bf16");
    dev = calloc(1, sizeof(*dev));
    if (dev == NULL)
        return sc_fail(err, SC_ENOMEM, "cuda backend: %zu bytes", sizeof(*dev));
    dev->base.ops = &cuda_ops;
    dev->bf16 = opts->math != SC_MATH_F32;
    dev->strict = opts->strict;
    dev->prefill_tasks = getenv("SC_CUDA_PREFILL_TASKS") != NULL;
    dev->cascade = dev->bf16 && !dev->strict && getenv("SC_CUDA_NO_CASCADE") == NULL;
    /* Devices of one generation give the same bits. */
    st = find_device(opts, dev, err);
    dev->base.arithmetic =
        REVISION << 16 | (0x100u + 4u * (uint32_t)dev->cc + (dev->bf16 ? 2u : 0) + dev->strict);
    if (st == SC_OK)
        st = sc_cuda_use(dev, err);
    if (st == SC_OK)
        find_rows(dev);
    if (st == SC_OK)
        st = open_peers(dev, err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking),
                           "CUDA stream", err);
    if (st == SC_OK)
        st = take_memory(dev, err);
    if (st == SC_OK)
        st = sc_cuda_merge_open(dev, err);
    if (st == SC_OK)
        st = sc_cuda_check_blas(cublasLtCreate(&dev->lt), "cuBLASLt", err);
    if (st == SC_OK)
        st = sc_cuda_step_open(dev, err);
    if (st != SC_OK) {
        cuda_close(&dev->base);
        return st;
    }
    *ret_be = &dev->base;
    return SC_OK;
}
