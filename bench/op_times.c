#include "bench/op_times.h"

#include <pthread.h>
#include <time.h>

/* open has no context argument, and a table of functions has none either. */
static struct {
    sc_backend_open_fn *inner_open;
    bool sync;
    pthread_mutex_t mu;
    bool made;
    struct sc_backend_ops inner, timed; /* one kind of backend a process */
    struct sc_op_times times;
} state = {.mu = PTHREAD_MUTEX_INITIALIZER};

/* The rank's thread opens its backend and makes all its calls. */
static _Thread_local bool is_rank0;

static double now_s(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static enum sc_status done(struct sc_backend *be, enum sc_op op, double start, enum sc_status st,
                           struct sc_err *err)
{
    if (st == SC_OK && state.sync)
        st = state.inner.sync(be, err);
    if (is_rank0) {
        state.times.seconds[op] += now_s() - start;
        state.times.calls[op]++;
    }
    return st;
}

static enum sc_status timed_sync(struct sc_backend *be, struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_SYNC, t, state.inner.sync(be, err), err);
}

static enum sc_status timed_kv_copy(struct sc_backend *be, struct sc_kv_pool *pool,
                                    uint32_t dst_page, uint32_t src_page, struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_KV_COPY, t, state.inner.kv_copy(be, pool, dst_page, src_page, err), err);
}

static enum sc_status timed_embed(struct sc_backend *be, const struct sc_embedding *emb,
                                  const int32_t *ids, uint32_t n, float *out, struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_EMBED, t, state.inner.embed(be, emb, ids, n, out, err), err);
}

static enum sc_status timed_norm(struct sc_backend *be, const struct sc_norm_args *args,
                                 struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_NORM, t, state.inner.norm(be, args, err), err);
}

static enum sc_status timed_matmul(struct sc_backend *be, const struct sc_matrix *w, const float *x,
                                   uint32_t x_stride, float *y, uint32_t y_stride, uint32_t n,
                                   struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_MATMUL, t, state.inner.matmul(be, w, x, x_stride, y, y_stride, n, err),
                err);
}

static enum sc_status timed_rope_angles(struct sc_backend *be, const uint32_t *positions,
                                        uint32_t n, const float *inv_freq, uint32_t head_dim,
                                        float scale, float *angles, struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_ROPE_ANGLES, t,
                state.inner.rope_angles(be, positions, n, inv_freq, head_dim, scale, angles, err),
                err);
}

static enum sc_status timed_qkv(struct sc_backend *be, const struct sc_qkv_args *args,
                                struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_QKV, t, state.inner.qkv(be, args, err), err);
}

static enum sc_status timed_attention(struct sc_backend *be, const struct sc_attn_args *args,
                                      struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_ATTENTION, t, state.inner.attention(be, args, err), err);
}

static enum sc_status timed_swiglu(struct sc_backend *be, const float *gate_up, float *y,
                                   uint32_t n, uint32_t ffn, struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_SWIGLU, t, state.inner.swiglu(be, gate_up, y, n, ffn, err), err);
}

static enum sc_status timed_matmul_swiglu(struct sc_backend *be, const struct sc_matrix *w,
                                          const float *x, float *gate_up, float *y, uint32_t n,
                                          uint32_t ffn, const struct sc_matrix *next,
                                          struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_MATMUL, t,
                state.inner.matmul_swiglu(be, w, x, gate_up, y, n, ffn, next, err), err);
}

static enum sc_status timed_matmul_add(struct sc_backend *be, const struct sc_matmul_add_args *args,
                                       bool *ret_added, struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_MATMUL, t, state.inner.matmul_add(be, args, ret_added, err), err);
}

static enum sc_status timed_gather_rows(struct sc_backend *be, const float *src,
                                        const uint32_t *rows, uint32_t n, uint32_t dim, float *dst,
                                        struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_GATHER_ROWS, t, state.inner.gather_rows(be, src, rows, n, dim, dst, err),
                err);
}

static enum sc_status timed_distances(struct sc_backend *be, const struct sc_dist_args *args,
                                      struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_DISTANCES, t, state.inner.distances(be, args, err), err);
}

static enum sc_status timed_cluster(struct sc_backend *be, const struct sc_cluster_args *args,
                                    struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_CLUSTER, t, state.inner.cluster(be, args, err), err);
}

static enum sc_status timed_merge(struct sc_backend *be, const struct sc_merge_args *args,
                                  struct sc_err *err)
{
    double t = now_s();
    return done(be, SC_OP_MERGE, t, state.inner.merge(be, args, err), err);
}

/* Every page is written once before anything is measured: a daemon pays for fresh memory once, not
 * in every prompt. */
static enum sc_status touching_kv_open(struct sc_backend *be, const struct sc_kv_spec *spec,
                                       uint32_t n_pages, struct sc_kv_pool **ret_pool,
                                       struct sc_err *err)
{
    enum sc_status st = state.inner.kv_open(be, spec, n_pages, ret_pool, err);
    for (uint32_t page = 0; st == SC_OK && page < n_pages; page++)
        st = state.inner.kv_copy(be, *ret_pool, page, page, err);
    return st;
}

const char *sc_op_name(enum sc_op op)
{
    static const char *const names[SC_OP_COUNT] = {
        "embed",       "norm",      "matmul",  "rope_angles", "qkv",     "attention", "swiglu",
        "gather_rows", "distances", "cluster", "merge",       "kv_copy", "sync"};
    return (unsigned)op < SC_OP_COUNT ? names[op] : "unknown";
}

void sc_op_times_wrap(sc_backend_open_fn *inner, bool sync)
{
    state.inner_open = inner;
    state.sync = sync;
}

/* Operations that this program does not know stay as they are. */
static void make_table(const struct sc_backend_ops *ops)
{
    pthread_mutex_lock(&state.mu);
    if (!state.made) {
        state.inner = state.timed = *ops;
        state.timed.kv_open = touching_kv_open;
        state.timed.sync = timed_sync;
        state.timed.kv_copy = timed_kv_copy;
        state.timed.embed = timed_embed;
        state.timed.norm = timed_norm;
        state.timed.matmul = timed_matmul;
        state.timed.rope_angles = timed_rope_angles;
        state.timed.qkv = timed_qkv;
        state.timed.attention = timed_attention;
        state.timed.swiglu = timed_swiglu;
        state.timed.gather_rows = timed_gather_rows;
        state.timed.distances = timed_distances;
        state.timed.cluster = timed_cluster;
        state.timed.merge = timed_merge;
        if (state.sync) { /* a recorded step cannot be taken apart */
            state.timed.step_begin = NULL;
            state.timed.step_end = NULL;
        }
        if (state.inner.matmul_swiglu != NULL)
            state.timed.matmul_swiglu = timed_matmul_swiglu;
        if (state.inner.matmul_add != NULL)
            state.timed.matmul_add = timed_matmul_add;
        state.made = true;
    }
    pthread_mutex_unlock(&state.mu);
}

enum sc_status sc_op_times_open_backend(const struct sc_backend_opts *opts,
                                        struct sc_backend **ret_be, struct sc_err *err)
{
    struct sc_backend *be = NULL;
    enum sc_status st = state.inner_open(opts, &be, err);
    if (st != SC_OK)
        return st;
    is_rank0 = opts->rank == 0;
    make_table(be->ops);
    be->ops = &state.timed;
    *ret_be = be;
    return SC_OK;
}

void sc_op_times_clear(void)
{
    state.times = (struct sc_op_times){0};
}

void sc_op_times_get(struct sc_op_times *ret_times)
{
    *ret_times = state.times;
}
