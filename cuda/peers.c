#include "cuda/device.h"

#include "cuda/kernels_peers.h"

enum sc_status sc_cuda_peer_sum(struct sc_backend *be, enum sc_dtype dtype, const void *const *srcs,
                                uint32_t n_srcs, size_t first, size_t n, void *dst,
                                struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    struct sc_cuda_sum sum = {.dst = dst, .n = n, .n_srcs = n_srcs, .i32 = dtype == SC_DTYPE_I32};

    if (dtype != SC_DTYPE_F32 && dtype != SC_DTYPE_I32)
        return sc_fail(err, SC_ENOTSUP, "peer sum: dtype %s", sc_dtype_name(dtype));
    if (n_srcs == 0 || n_srcs > SC_CUDA_PEERS_MAX)
        return sc_fail(err, SC_EINVAL, "peer sum: %u ranks, allowed 1 to %u", n_srcs,
                       SC_CUDA_PEERS_MAX);
    if (n == 0)
        return SC_OK;
    sc_cuda_forget(dev);
    sc_cuda_is_written(dev, dst);
    for (uint32_t r = 0; r < n_srcs; r++)
        sum.srcs[r] = (const uint8_t *)srcs[r] + first * sc_dtype_bytes(dtype);
    return sc_cuda_check(sc_cuda_launch_sum(&sum, dev->stream), "peer sum", err);
}

enum sc_status sc_cuda_put_cols(struct sc_backend *be, const struct sc_cols_args *a,
                                struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    const size_t row = a->width * sizeof(float), dst_row = a->dst_width * sizeof(float);
    enum sc_status st = SC_OK;

    if (a->first > a->dst_width || a->width > a->dst_width - a->first)
        return sc_fail(err, SC_EINVAL, "put_cols: %u columns from %u on, of %u", a->width, a->first,
                       a->dst_width);
    if (a->n_rows == 0)
        return SC_OK;
    sc_cuda_forget(dev);
    sc_cuda_is_written(dev, a->dst);
    if (a->clear)
        st = sc_cuda_check(cudaMemsetAsync(a->dst, 0, a->n_rows * dst_row, dev->stream), "put_cols",
                           err);
    if (st != SC_OK || row == 0)
        return st;
    return sc_cuda_check(cudaMemcpy2DAsync((float *)a->dst + a->first, dst_row, a->src, row, row,
                                           a->n_rows, cudaMemcpyDefault, dev->stream),
                         "put_cols", err);
}

enum sc_status sc_cuda_copy(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                            struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    if (bytes == 0)
        return SC_OK;
    sc_cuda_forget(dev);
    sc_cuda_is_written(dev, dst);
    return sc_cuda_check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, dev->stream), "copy",
                         err);
}
