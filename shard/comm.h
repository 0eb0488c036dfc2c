/* shard/comm.h - collectives between the ranks of a group.
 *
 * One interface; here the `local` implementation: ranks are threads of one process and reduce each
 * other's buffers in rank order, so that a sum has the same bits on every rank and in every run.
 * Every rank must call the same collectives in the same order. What sum_f32, sum_i32 and
 * gather_cols are given is memory of the rank's backend (sc_backend_ops.alloc); the rest is the
 * host's.
 * abort() releases all ranks that wait, and every later call fails with SC_EPEER until the group is
 * reset. Memory: all at open. Threads: a sc_comm belongs to its rank's thread; abort may come from
 * any.
 */
#ifndef SC_SHARD_COMM_H
#define SC_SHARD_COMM_H

#include "base/backend.h"

struct sc_comm;

struct sc_comm_ops {
    /* In place; n elements; the result is the same bits on all ranks. */
    enum sc_status (*sum_f32)(struct sc_comm *comm, float *data, size_t n, struct sc_err *err);
    enum sc_status (*sum_i32)(struct sc_comm *comm, int32_t *data, size_t n, struct sc_err *err);
    enum sc_status (*min_u64)(struct sc_comm *comm, uint64_t *data, size_t n, struct sc_err *err);
    enum sc_status (*max_u32)(struct sc_comm *comm, uint32_t *data, size_t n, struct sc_err *err);
    /* src [n_rows, widths[rank]] of each rank side by side, in rank order, bit for bit, into dst of
     * rank 0 [n_rows, sum of widths]. Devices' ranks all give a dst, which is the others' scratch;
     * where memory is the host's it is ignored on the others. */
    enum sc_status (*gather_cols)(struct sc_comm *comm, float *src, uint32_t n_rows,
                                  const uint32_t *widths, float *dst, struct sc_err *err);
    /* Tells the rank's backend, before the first collective, and takes what sums of its memory
     * need. detach before it closes. Ranks with a device each join its network; where that is not
     * there, sums and gathers go through copies. sums BF16: what sum_f32 adds is rounded to bf16
     * and added as such, and only through that network: without it SC_ENOTSUP. rejoin: after an
     * abort and a reset, by all ranks. */
    enum sc_status (*attach)(struct sc_comm *comm, struct sc_backend *be,
                             enum sc_dtype sums, /* F32 or BF16 */
                             struct sc_err *err);
    enum sc_status (*rejoin)(struct sc_comm *comm, struct sc_err *err);
    void (*detach)(struct sc_comm *comm);
    void (*abort)(struct sc_comm *comm);
    void (*close)(struct sc_comm *comm);
};

struct sc_comm {
    const struct sc_comm_ops *ops;
    uint32_t rank, n_ranks;
};

/* A group of n_ranks communicators; scratch_bytes: the largest buffer that will be reduced;
 * own_devices: no two ranks have one device. */
struct sc_local_group;
enum sc_status sc_local_group_open(uint32_t n_ranks, size_t scratch_bytes, bool own_devices,
                                   struct sc_local_group **ret_group,
                                   struct sc_err *err) SC_MUST_CHECK;
void sc_local_group_close(
    struct sc_local_group *group); /* closes its communicators; NULL is fine */
struct sc_comm *sc_local_group_comm(struct sc_local_group *group, uint32_t rank); /* borrowed */
/* After abort, when no rank is inside a collective: usable again. */
void sc_local_group_reset(struct sc_local_group *group);
/* Whether sums go through the devices' network. */
bool sc_local_group_joined(const struct sc_local_group *group);

#endif
