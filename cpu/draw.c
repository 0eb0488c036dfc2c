#include "cpu/device.h"

#include "base/backend_check.h"

struct rows {
    const struct sc_cpu_device *dev;
    const float *x;
    uint32_t width, n_cols;
    const struct sc_draw *draws; /* NULL: only the largest */
    float *best;
};

static void choose_row(void *ctx, uint32_t row, uint32_t thread)
{
    const struct rows *r = ctx;
    const struct sc_draw_loops *loops = &r->dev->kernels.draw;
    const float *x = r->x + (size_t)row * r->width;
    float *best = r->best + 2 * (size_t)row;
    uint32_t id;
    (void)thread;

    if (r->draws == NULL)
        best[0] = sc_draw_largest(x, r->n_cols, loops, &id);
    else if (r->draws[row].scale != 0.0f && isfinite(best[0]))
        id = sc_draw_token(x, r->n_cols, best[0], &r->draws[row], loops);
    else
        return;
    memcpy(&best[1], &id, sizeof(id));
}

static enum sc_status choose(struct rows *r, const char *what, uint32_t n_rows, struct sc_err *err)
{
    if (n_rows > SC_CPU_ROWS_MAX || r->n_cols > r->width || r->n_cols > SC_DRAW_TOKENS_MAX)
        return sc_fail(err, SC_EINVAL, "%s: %u rows, %u of %u columns, limits %u and %u", what,
                       n_rows, r->n_cols, r->width, SC_CPU_ROWS_MAX, SC_DRAW_TOKENS_MAX);
    if ((uint64_t)n_rows * r->n_cols < SC_CPU_SMALL) {
        for (uint32_t i = 0; i < n_rows; i++)
            choose_row(r, i, 0);
        return SC_OK;
    }
    sc_cpu_threads_run(r->dev->threads, choose_row, r, n_rows);
    return SC_OK;
}

enum sc_status sc_cpu_row_max(struct sc_backend *be, const float *x, uint32_t n_rows,
                              uint32_t width, uint32_t n_cols, float *best, struct sc_err *err)
{
    struct rows r = {sc_cpu_device(be), x, width, n_cols, NULL, best};
    return choose(&r, "row_max", n_rows, err);
}

enum sc_status sc_cpu_draw(struct sc_backend *be, const float *x, uint32_t n_rows, uint32_t width,
                           uint32_t n_cols, const struct sc_draw *draws, float *best,
                           struct sc_err *err)
{
    struct rows r = {sc_cpu_device(be), x, width, n_cols, draws, best};
    return choose(&r, "draw", n_rows, err);
}
