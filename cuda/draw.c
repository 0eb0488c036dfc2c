#include "base/draw.h"
#include "cuda/device.h"
#include "cuda/kernels_draw.h"

enum sc_status sc_cuda_draw(struct sc_backend *be, const float *x, uint32_t n_rows, uint32_t width,
                            uint32_t n_cols, const struct sc_draw *draws, float *best,
                            struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    enum sc_status st = sc_cuda_check_rows("draw", n_rows, width, err);
    const void *device_draws;

    if (st != SC_OK || n_rows == 0)
        return st;
    if (n_cols > width || n_cols > SC_DRAW_TOKENS_MAX)
        return sc_fail(err, SC_EINVAL, "draw: %u of %u columns, limit %u", n_cols, width,
                       SC_DRAW_TOKENS_MAX);
    st = sc_cuda_to_device(dev, draws, n_rows * sizeof(*draws), "draw", &device_draws, err);
    if (st != SC_OK)
        return st;
    return sc_cuda_check(
        sc_cuda_launch_draw(x, n_rows, width, n_cols, device_draws, best, dev->stream), "draw",
        err);
}
