/* bench/op_times.h - how long each operation of a backend takes: a copy of its table with clocks.
 *
 * sc_op_times_wrap replaces the table of every backend that is opened through
 * sc_op_times_open_backend; the calls are the backend's own. On a device that works behind its
 * caller's back, each call is waited for, which makes the whole slower. Times are those of rank 0.
 * Memory: static. Threads: wrap once, before any open; read and clear between steps.
 */
#ifndef SC_BENCH_OP_TIMES_H
#define SC_BENCH_OP_TIMES_H

#include "base/backend.h"

enum sc_op {
    SC_OP_EMBED,
    SC_OP_NORM,
    SC_OP_MATMUL,
    SC_OP_ROPE_ANGLES,
    SC_OP_QKV,
    SC_OP_ATTENTION,
    SC_OP_SWIGLU,
    SC_OP_GATHER_ROWS,
    SC_OP_DISTANCES,
    SC_OP_CLUSTER,
    SC_OP_MERGE,
    SC_OP_KV_COPY,
    SC_OP_SYNC,
    SC_OP_COUNT
};

struct sc_op_times {
    double seconds[SC_OP_COUNT];
    uint64_t calls[SC_OP_COUNT];
};

const char *sc_op_name(enum sc_op op);

/* inner: how the backends are really opened. sync: wait after every call. */
void sc_op_times_wrap(sc_backend_open_fn *inner, bool sync);
/* Matches sc_backend_open_fn. */
enum sc_status sc_op_times_open_backend(const struct sc_backend_opts *opts,
                                        struct sc_backend **ret_be,
                                        struct sc_err *err) SC_MUST_CHECK;

void sc_op_times_clear(void);
void sc_op_times_get(struct sc_op_times *ret_times);

#endif
