/* The table's group calls: NCCL, opened when a group is first asked for. */
#include "cuda/device.h"
#include "cuda/kernels_peers.h"
#include "cuda/nccl.h"

static enum sc_status open_nccl(struct sc_cuda_device *dev, struct sc_err *err)
{
    enum sc_status st = sc_cuda_use(dev, err);
    if (st == SC_OK && dev->nccl == NULL)
        st = sc_nccl_open(NULL, &dev->nccl, err);
    return st;
}

enum sc_status sc_cuda_group_id(struct sc_backend *be, uint8_t *ret_id, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    enum sc_status st = open_nccl(dev, err);
    return st == SC_OK ? sc_nccl_id(dev->nccl, ret_id, err) : st;
}

enum sc_status sc_cuda_group_join(struct sc_backend *be, const struct sc_group_args *args,
                                  struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    enum sc_status st = open_nccl(dev, err);
    return st == SC_OK ? sc_nccl_join(dev->nccl, args, err) : st;
}

enum sc_status sc_cuda_group_sum(struct sc_backend *be, enum sc_dtype dtype, void *data, size_t n,
                                 struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    if (dev->nccl == NULL)
        return sc_fail(err, SC_EINTERNAL, "group sum: no group");
    sc_cuda_forget(dev);
    sc_cuda_is_written(dev, data);
    return sc_nccl_sum(dev->nccl, dtype, data, n, dev->stream, err);
}

void sc_cuda_group_leave(struct sc_backend *be)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    if (dev->nccl != NULL)
        sc_nccl_leave(dev->nccl);
}

enum sc_status sc_cuda_convert(struct sc_backend *be, enum sc_dtype from, const void *x, void *y,
                               size_t n, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    if (from != SC_DTYPE_F32 && from != SC_DTYPE_BF16)
        return sc_fail(err, SC_ENOTSUP, "convert: from %s, must be f32 or bf16",
                       sc_dtype_name(from));
    if (n == 0)
        return SC_OK;
    sc_cuda_forget(dev);
    sc_cuda_is_written(dev, y);
    return sc_cuda_check(from == SC_DTYPE_F32 ? sc_cuda_launch_to_bf16(x, n, y, dev->stream)
                                              : sc_cuda_launch_from_bf16(x, n, y, dev->stream),
                         "convert", err);
}
