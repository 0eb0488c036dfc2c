/* bench/roofline.h - the two limits a step is held against, measured on this machine in this run.
 *
 * Threads: one owner; starts as many as it is told and joins them.
 */
#ifndef SC_BENCH_ROOFLINE_H
#define SC_BENCH_ROOFLINE_H

#include "base/backend.h"

#define SC_ROOFLINE_ROWS 512u
#define SC_ROOFLINE_DIM  2048u

/* Bytes a second that n_threads read from a buffer of 1 GiB in all, each its own part; the best of
 * several passes. A cache of that size or one shared with other guests would flatter it. */
enum sc_status sc_roofline_host_read(uint32_t n_threads, double *ret_bytes_per_s,
                                     struct sc_err *err) SC_MUST_CHECK;
/* The same of a device, by its own `norm` without a result: two reads and a write of 512 MiB. */
enum sc_status sc_roofline_device_copy(struct sc_backend *be, double *ret_bytes_per_s,
                                       struct sc_err *err) SC_MUST_CHECK;
/* Operations a second (two a multiply and add) of the backend's dense product, 512 rows by [2048,
 * 2048] weights kept as `store`; the best of several calls. */
enum sc_status sc_roofline_matmul(struct sc_backend *be, enum sc_dtype store,
                                  double *ret_flop_per_s, struct sc_err *err) SC_MUST_CHECK;

#endif
