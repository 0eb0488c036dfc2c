#include "cuda/device.h"
#include "cuda/kernels_best.h"

enum sc_status sc_cuda_row_max(struct sc_backend *be, const float *x, uint32_t n_rows,
                               uint32_t width, uint32_t n_cols, float *best, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    enum sc_status st = sc_cuda_check_rows("row_max", n_rows, width, err);

    if (st != SC_OK || n_rows == 0)
        return st;
    if (n_cols > width)
        return sc_fail(err, SC_EINVAL, "row_max: %u of %u columns", n_cols, width);
    return sc_cuda_check(
        sc_cuda_launch_row_max(x, n_rows, width, n_cols, dev->best_scratch, best, dev->stream),
        "row_max", err);
}
