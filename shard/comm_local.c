#include "shard/comm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <linux/futex.h>
#include <sys/syscall.h>

/* A collective has three phases divided by barriers: every rank shows its buffer; rank r reduces
 * slice r of all buffers, in rank order, into the shared scratch; every rank copies the whole back.
 * The first barrier of the next one also ends the copying: nobody writes to the scratch before. */

#define SPINS           2000
#define JOIN_TIMEOUT_MS 30000u

struct local_comm {
    struct sc_comm base; /* first: ops get this pointer */
    struct sc_local_group *group;
    struct sc_backend *be; /* NULL: sums are of host memory */
    bool joined;           /* to the devices' network */
    uint8_t *parts;        /* device: [n_ranks] slices; its own holds this rank's share of a sum */
    size_t part_bytes;
    enum sc_dtype sums; /* what sum_f32 is on the network: F32 or BF16 */
};

typedef void reduce_fn(struct sc_local_group *g, size_t from, size_t to);

struct sc_local_group {
    uint32_t n_ranks;
    size_t scratch_bytes;
    _Atomic uint32_t arrived;
    _Atomic uint32_t phase; /* futex word */
    _Atomic uint32_t aborted;
    bool own_devices;
    uint8_t id[SC_GROUP_ID_BYTES]; /* written by rank 0 between two barriers */
    void *scratch;
    struct {
        reduce_fn *op; /* NULL: gather */
        void *data;
        size_t n;
    } shown[64]; /* written by its rank before the first barrier */
    struct local_comm comms[];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    /* The timeout only bounds a lost wake-up by a dying thread; the loop around it re-checks. */
    struct timespec ts = {.tv_nsec = 50000000};
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, &ts, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static enum sc_status barrier(struct local_comm *c, struct sc_err *err)
{
    struct sc_local_group *g = c->group;
    uint32_t phase = atomic_load_explicit(&g->phase, memory_order_acquire);

    if (atomic_load_explicit(&g->aborted, memory_order_acquire) != 0)
        return sc_fail(err, SC_EPEER, "collective aborted by another rank");
    if (atomic_fetch_add_explicit(&g->arrived, 1, memory_order_acq_rel) + 1 == g->n_ranks) {
        atomic_store_explicit(&g->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&g->phase, phase + 1, memory_order_release);
        futex_wake_all(&g->phase);
        return SC_OK;
    }
    for (int spin = 0; atomic_load_explicit(&g->phase, memory_order_acquire) == phase;) {
        if (atomic_load_explicit(&g->aborted, memory_order_acquire) != 0)
            return sc_fail(err, SC_EPEER, "collective aborted by another rank");
        if (spin < SPINS) {
            spin++;
            cpu_relax();
        } else {
            futex_wait(&g->phase, phase);
        }
    }
    return SC_OK;
}

/* Shows what this rank brings and waits for the others; all must have come to the same operation.
 */
static enum sc_status meet(struct local_comm *c, reduce_fn *op, void *data, size_t n,
                           struct sc_err *err)
{
    struct sc_local_group *g = c->group;
    uint32_t rank = c->base.rank;
    enum sc_status st;

    g->shown[rank].op = op;
    g->shown[rank].data = data;
    g->shown[rank].n = n;
    st = barrier(c, err);
    if (st != SC_OK)
        return st;
    for (uint32_t r = 0; r < g->n_ranks; r++) {
        if (g->shown[r].op == op && g->shown[r].n == n)
            continue;
        c->base.ops->abort(&c->base);
        return sc_fail(err, SC_EDIVERGED, "collective: rank %u has %zu elements, rank %u %zu%s",
                       rank, n, r, g->shown[r].n,
                       g->shown[r].op == op ? "" : " and another operation");
    }
    return SC_OK;
}

static void reduce_sum_f32(struct sc_local_group *g, size_t from, size_t to)
{
    float *restrict out = g->scratch;
    memcpy(out + from, (const float *)g->shown[0].data + from, (to - from) * sizeof(*out));
    for (uint32_t r = 1; r < g->n_ranks; r++) {
        const float *restrict in = g->shown[r].data;
        for (size_t i = from; i < to; i++)
            out[i] += in[i];
    }
}

static void reduce_sum_i32(struct sc_local_group *g, size_t from, size_t to)
{
    uint32_t *restrict out = g->scratch; /* unsigned: wraps instead of being undefined */
    memcpy(out + from, (const uint32_t *)g->shown[0].data + from, (to - from) * sizeof(*out));
    for (uint32_t r = 1; r < g->n_ranks; r++) {
        const uint32_t *restrict in = g->shown[r].data;
        for (size_t i = from; i < to; i++)
            out[i] += in[i];
    }
}

static void reduce_min_u64(struct sc_local_group *g, size_t from, size_t to)
{
    uint64_t *out = g->scratch;
    for (size_t i = from; i < to; i++) {
        out[i] = ((const uint64_t *)g->shown[0].data)[i];
        for (uint32_t r = 1; r < g->n_ranks; r++) {
            uint64_t v = ((const uint64_t *)g->shown[r].data)[i];
            out[i] = v < out[i] ? v : out[i];
        }
    }
}

static void reduce_max_u32(struct sc_local_group *g, size_t from, size_t to)
{
    uint32_t *out = g->scratch;
    for (size_t i = from; i < to; i++) {
        out[i] = ((const uint32_t *)g->shown[0].data)[i];
        for (uint32_t r = 1; r < g->n_ranks; r++) {
            uint32_t v = ((const uint32_t *)g->shown[r].data)[i];
            out[i] = v > out[i] ? v : out[i];
        }
    }
}

/* Elements of a slice: whole cache lines, so that ranks do not write one line together. */
static size_t slice_of(const struct sc_local_group *g, size_t n, size_t elem_bytes)
{
    size_t per = (n + g->n_ranks - 1) / g->n_ranks, line = 64 / elem_bytes;
    return (per + line - 1) / line * line;
}

static uint8_t *part(const struct local_comm *c, uint32_t rank)
{
    return c->parts + rank * c->part_bytes;
}

/* The same three phases without a shared scratch: every rank copies its slice of all buffers to its
 * own device, sums there, and the others copy the sum. Work that was only queued must be done
 * before a barrier says so. */
static enum sc_status device_sum(struct local_comm *c, void *data, size_t n, enum sc_dtype dtype,
                                 reduce_fn *reduce, struct sc_err *err)
{
    const struct sc_backend_ops *ops = c->be->ops;
    struct sc_local_group *g = c->group;
    size_t elem = sc_dtype_bytes(dtype), per = slice_of(g, n, elem), from = per * c->base.rank;
    const void *srcs[SC_ARRAY_LEN(g->shown)];
    enum sc_status st = ops->sync(c->be, err);

    if (st == SC_OK)
        st = meet(c, reduce, data, n, err);
    size_t mine = from >= n ? 0 : n - from < per ? n - from : per;
    for (uint32_t r = 0; r < g->n_ranks && st == SC_OK && mine > 0; r++) {
        const uint8_t *theirs = (const uint8_t *)g->shown[r].data + from * elem;
        srcs[r] = r == c->base.rank ? theirs : part(c, r);
        if (r != c->base.rank)
            st = ops->copy(c->be, part(c, r), theirs, mine * elem, err);
    }
    if (st == SC_OK && mine > 0)
        st = ops->peer_sum(c->be, dtype, srcs, g->n_ranks, 0, mine, part(c, c->base.rank), err);
    if (st == SC_OK)
        st = ops->sync(c->be, err);
    if (st == SC_OK)
        st = barrier(c, err);
    for (uint32_t r = 0; r < g->n_ranks && st == SC_OK && per * r < n; r++)
        st = ops->copy(c->be, (uint8_t *)data + per * r * elem, part(&g->comms[r], r),
                       (n - per * r < per ? n - per * r : per) * elem, err);
    return st; /* the next collective's sync ends the copying */
}

static enum sc_status all_reduce(struct sc_comm *comm, void *data, size_t n, size_t elem_bytes,
                                 reduce_fn *reduce, struct sc_err *err)
{
    struct local_comm *c = (struct local_comm *)comm;
    struct sc_local_group *g = c->group;
    enum sc_status st;

    if (g->n_ranks == 1 || n == 0)
        return SC_OK;
    if (n > g->scratch_bytes / elem_bytes)
        return sc_fail(err, SC_EINTERNAL, "all-reduce of %zu elements, scratch holds %zu", n,
                       g->scratch_bytes / elem_bytes);
    st = meet(c, reduce, data, n, err);
    if (st != SC_OK)
        return st;
    size_t per = slice_of(g, n, elem_bytes);
    size_t from = per * comm->rank < n ? per * comm->rank : n;
    size_t to = from + per < n ? from + per : n;
    if (to > from)
        reduce(g, from, to);
    st = barrier(c, err);
    if (st != SC_OK)
        return st;
    memcpy(data, g->scratch, n * elem_bytes);
    return SC_OK;
}

/* In parts, which hold all of scratch_bytes and which the network does not need otherwise. */
static enum sc_status narrow_sum(struct local_comm *c, float *data, size_t n, struct sc_err *err)
{
    const struct sc_backend_ops *ops = c->be->ops;

    SC_ASSERT(n <= c->group->scratch_bytes / sizeof(*data));
    enum sc_status st = ops->convert(c->be, SC_DTYPE_F32, data, c->parts, n, err);
    if (st == SC_OK)
        st = ops->group_sum(c->be, SC_DTYPE_BF16, c->parts, n, err);
    if (st == SC_OK)
        st = ops->convert(c->be, SC_DTYPE_BF16, c->parts, data, n, err);
    return st;
}

static enum sc_status sum_f32(struct sc_comm *comm, float *data, size_t n, struct sc_err *err)
{
    struct local_comm *c = (struct local_comm *)comm;
    if (c->be == NULL || comm->n_ranks == 1 || n == 0)
        return all_reduce(comm, data, n, sizeof(*data), reduce_sum_f32, err);
    if (!c->joined)
        return device_sum(c, data, n, SC_DTYPE_F32, reduce_sum_f32, err);
    if (c->sums == SC_DTYPE_BF16)
        return narrow_sum(c, data, n, err);
    return c->be->ops->group_sum(c->be, SC_DTYPE_F32, data, n, err);
}

static enum sc_status sum_i32(struct sc_comm *comm, int32_t *data, size_t n, struct sc_err *err)
{
    struct local_comm *c = (struct local_comm *)comm;
    if (c->be != NULL && comm->n_ranks > 1 && n > 0)
        return c->joined ? c->be->ops->group_sum(c->be, SC_DTYPE_I32, data, n, err)
                         : device_sum(c, data, n, SC_DTYPE_I32, reduce_sum_i32, err);
    return all_reduce(comm, data, n, sizeof(*data), reduce_sum_i32, err);
}

static enum sc_status min_u64(struct sc_comm *comm, uint64_t *data, size_t n, struct sc_err *err)
{
    return all_reduce(comm, data, n, sizeof(*data), reduce_min_u64, err);
}

static enum sc_status max_u32(struct sc_comm *comm, uint32_t *data, size_t n, struct sc_err *err)
{
    return all_reduce(comm, data, n, sizeof(*data), reduce_max_u32, err);
}

/* One collective of the devices' network that is tested already: each rank clears rows of whole
 * width, puts its columns in their place, and all are summed as whole numbers: zeros change no bit
 * of a float. */
static enum sc_status network_gather(struct local_comm *c, struct sc_cols_args *cols,
                                     struct sc_err *err)
{
    cols->clear = true;
    enum sc_status st = c->be->ops->put_cols(c->be, cols, err);
    if (st == SC_OK)
        st = c->be->ops->group_sum(c->be, SC_DTYPE_I32, cols->dst,
                                   (size_t)cols->n_rows * cols->dst_width, err);
    return st;
}

/* Rank 0 copies what the others show. */
static enum sc_status device_gather(struct local_comm *c, struct sc_cols_args *cols,
                                    const uint32_t *widths, struct sc_err *err)
{
    const struct sc_local_group *g = c->group;
    enum sc_status st = c->be->ops->sync(c->be, err);

    if (st == SC_OK)
        st = meet(c, NULL, cols->src, (size_t)cols->n_rows * cols->dst_width, err);
    for (uint32_t r = 0; r < g->n_ranks && st == SC_OK && c->base.rank == 0; r++) {
        cols->src = g->shown[r].data;
        cols->width = widths[r];
        st = c->be->ops->put_cols(c->be, cols, err);
        cols->first += widths[r];
    }
    if (st == SC_OK && c->base.rank == 0)
        st = c->be->ops->sync(c->be, err);
    return st == SC_OK ? barrier(c, err) : st;
}

static enum sc_status gather_cols(struct sc_comm *comm, float *src, uint32_t n_rows,
                                  const uint32_t *widths, float *dst, struct sc_err *err)
{
    struct local_comm *c = (struct local_comm *)comm;
    const struct sc_local_group *g = c->group;
    struct sc_cols_args cols = {
        .src = src, .dst = dst, .n_rows = n_rows, .width = widths[comm->rank]};

    for (uint32_t r = 0; r < g->n_ranks; r++) {
        cols.first += r < comm->rank ? widths[r] : 0;
        cols.dst_width += widths[r];
    }
    if (c->be != NULL)
        return c->joined ? network_gather(c, &cols, err) : device_gather(c, &cols, widths, err);
    enum sc_status st = meet(c, NULL, dst, (size_t)n_rows * cols.dst_width, err);
    if (st != SC_OK)
        return st;
    dst = g->shown[0].data;
    for (uint32_t i = 0; i < n_rows; i++)
        memcpy(dst + (size_t)i * cols.dst_width + cols.first, src + (size_t)i * cols.width,
               cols.width * sizeof(*dst));
    return barrier(c, err);
}

/* Copied sums are f32: not the sums that were asked for. The rank that knows why speaks. */
static enum sc_status without_network(const struct local_comm *c, const char *why,
                                      struct sc_err *err)
{
    if (c->sums != SC_DTYPE_BF16)
        return SC_OK;
    if (why[0] == '\0')
        return sc_fail(err, SC_EPEER, "another rank cannot join the network of the devices");
    return sc_fail(err, SC_ENOTSUP, "reduce dtype bf16: no network between the ranks' devices: %s",
                   why);
}

/* All ranks join, or none does and sums are copied. */
static enum sc_status rejoin(struct sc_comm *comm, struct sc_err *err)
{
    struct local_comm *c = (struct local_comm *)comm;
    struct sc_local_group *g = c->group;
    struct sc_err why = SC_ERR_INIT; /* not an error: there is another way */
    uint64_t all = 1;
    enum sc_status st;

    c->joined = false;
    if (c->be == NULL || g->n_ranks == 1)
        return SC_OK;
    if (c->be->ops->group_join == NULL)
        return without_network(c, "the backend has none", err);
    if (!g->own_devices)
        return without_network(c, "ranks share a device", err);
    if (comm->rank == 0)
        all = c->be->ops->group_id(c->be, g->id, &why) == SC_OK;
    st = min_u64(comm, &all, 1, err);
    if (st != SC_OK || all == 0)
        return st == SC_OK ? without_network(c, why.text, err) : st;
    const struct sc_group_args args = {.id = g->id,
                                       .rank = comm->rank,
                                       .n_ranks = g->n_ranks,
                                       .timeout_ms = JOIN_TIMEOUT_MS,
                                       .aborted = &g->aborted};
    all = c->be->ops->group_join(c->be, &args, &why) == SC_OK;
    st = min_u64(comm, &all, 1, err);
    c->joined = st == SC_OK && all != 0;
    if (!c->joined)
        c->be->ops->group_leave(c->be);
    return st == SC_OK && !c->joined ? without_network(c, why.text, err) : st;
}

static enum sc_status attach(struct sc_comm *comm, struct sc_backend *be, enum sc_dtype sums,
                             struct sc_err *err)
{
    struct local_comm *c = (struct local_comm *)comm;
    const struct sc_local_group *g = c->group;
    size_t slice = slice_of(g, g->scratch_bytes / sizeof(float), sizeof(float)) * sizeof(float);
    enum sc_status st = SC_OK;

    if (be->ops->peer_sum == NULL && sums == SC_DTYPE_BF16)
        return sc_fail(err, SC_ENOTSUP, "reduce dtype bf16: the %s backend adds f32 in order",
                       be->ops->name);
    if (be->ops->peer_sum == NULL) /* its memory is the host's */
        return SC_OK;
    c->be = be;
    c->sums = sums;
    if (g->n_ranks == 1)
        return SC_OK;
    c->part_bytes = slice;
    if (slice > 0)
        st = be->ops->alloc(be, g->n_ranks * slice, (void **)&c->parts, err);
    if (st != SC_OK)
        return st;
    return rejoin(comm, err);
}

static void detach(struct sc_comm *comm)
{
    struct local_comm *c = (struct local_comm *)comm;
    if (c->joined)
        c->be->ops->group_leave(c->be);
    c->joined = false;
    if (c->be != NULL)
        c->be->ops->free(c->be, c->parts);
    c->parts = NULL;
    c->be = NULL;
}

static void comm_abort(struct sc_comm *comm)
{
    struct sc_local_group *g = ((struct local_comm *)comm)->group;
    atomic_store_explicit(&g->aborted, 1, memory_order_release);
    futex_wake_all(&g->phase);
}

static void comm_close(struct sc_comm *comm) /* the group owns it */
{
    (void)comm;
}

static const struct sc_comm_ops local_ops = {
    .sum_f32 = sum_f32,
    .sum_i32 = sum_i32,
    .min_u64 = min_u64,
    .max_u32 = max_u32,
    .gather_cols = gather_cols,
    .attach = attach,
    .rejoin = rejoin,
    .detach = detach,
    .abort = comm_abort,
    .close = comm_close,
};

enum sc_status sc_local_group_open(uint32_t n_ranks, size_t scratch_bytes, bool own_devices,
                                   struct sc_local_group **ret_group, struct sc_err *err)
{
    struct sc_local_group *g = NULL;

    if (n_ranks == 0 || n_ranks > SC_ARRAY_LEN(g->shown))
        return sc_fail(err, SC_EINVAL, "ranks: %u, must be 1..%zu", n_ranks,
                       SC_ARRAY_LEN(g->shown));
    g = calloc(1, sizeof(*g) + n_ranks * sizeof(g->comms[0]));
    if (g == NULL)
        return sc_fail(err, SC_ENOMEM, "collectives: out of memory");
    g->n_ranks = n_ranks;
    g->own_devices = own_devices;
    g->scratch_bytes = scratch_bytes;
    if (n_ranks > 1 && scratch_bytes > 0) {
        g->scratch = aligned_alloc(64, (scratch_bytes + 63) / 64 * 64);
        if (g->scratch == NULL) {
            free(g);
            return sc_fail(err, SC_ENOMEM, "collectives: out of memory for %zu bytes",
                           scratch_bytes);
        }
    }
    for (uint32_t r = 0; r < n_ranks; r++)
        g->comms[r] = (struct local_comm){
            .base = {.ops = &local_ops, .rank = r, .n_ranks = n_ranks}, .group = g};
    *ret_group = g;
    return SC_OK;
}

void sc_local_group_close(struct sc_local_group *group)
{
    if (group != NULL) {
        free(group->scratch);
        free(group);
    }
}

struct sc_comm *sc_local_group_comm(struct sc_local_group *group, uint32_t rank)
{
    SC_ASSERT(rank < group->n_ranks);
    return &group->comms[rank].base;
}

void sc_local_group_reset(struct sc_local_group *group)
{
    atomic_store(&group->arrived, 0);
    atomic_store(&group->aborted, 0);
}

bool sc_local_group_joined(const struct sc_local_group *group)
{
    return group->comms[0].joined;
}
