/* cpu/cpu.h - the CPU backend: the default device and the reference for every other one.
 *
 * Fills the table of base/backend.h. Kernels exist for several instruction sets; each keeps the
 * purity rule for itself, and AVX2 and AVX512 give the same bits as each other. PLAIN has no fused
 * multiply-add and differs in the last bits.
 *
 * Up to AVX512, weights and pages stored as bf16 are widened in registers and multiplied with f32
 * activations: products are exact, sums are f32. AVX512BF16 and AMX round activations (and queries
 * and attention weights) to bf16, as most engines do, and sum in f32: relative rms error on random
 * data 1.7e-3 against 8e-7. One core, 512 rows by [2048, 2048]: Zen 4 114 against 223 GFLOP/s; Xeon
 * with the matrix unit 161 against 944. sc_backend_opts.math chooses; AUTO takes the faster one,
 * and then results depend on the machine in their last bits. What is stored as f32 is never
 * rounded. INT8, and AUTO where there is VNNI and no matrix unit, multiplies int8 weights with
 * activations of int8, one scale for 64 of a row; AVX2 and up give the same bits there too.
 * int8 pages are widened to bf16, exactly, and go the way of bf16 pages.
 *
 * Memory: all scratch is taken at open: 0.7 MiB a thread, and, touched as far as needed, 64 MiB,
 * and 32 MiB more for AVX512BF16, AMX and INT8. Weights and pages from 1 MiB on lie in 2
 * MiB-aligned mappings that ask for huge pages. Threads: opts.n_threads - 1 workers, which take
 * part in a call only while it runs; none for 1.
 */
#ifndef SC_CPU_CPU_H
#define SC_CPU_CPU_H

#include "base/backend.h"

#define SC_CPU_THREADS_MAX  256u
#define SC_CPU_HEAD_DIM_MAX 256u /* must be even */
#define SC_CPU_GROUP_MAX    128u /* query heads per KV head */
#define SC_CPU_HEADS_MAX    4096u
#define SC_CPU_DIM_MAX      (1u << 20) /* columns of a matrix, width of a row */
#define SC_CPU_OUT_MAX      (1u << 24) /* rows of a matrix: the largest vocabulary */
#define SC_CPU_ROWS_MAX     (1u << 20) /* rows of one call */

enum sc_cpu_isa {
    SC_CPU_ISA_PLAIN,
    SC_CPU_ISA_AVX2,
    SC_CPU_ISA_AVX512,
    SC_CPU_ISA_AVX512BF16,
    SC_CPU_ISA_AMX,
    SC_CPU_ISA_COUNT
};

const char *sc_cpu_isa_name(enum sc_cpu_isa isa); /* "plain", "avx2", ...; never NULL */
enum sc_cpu_isa sc_cpu_isa_best(void);            /* the highest that this machine runs */

/* By opts->math; SC_ENOTSUP for BF16 where there is no instruction for it. pin_threads binds the
 * workers (thread 1 and up); the caller's own thread is the caller's to bind. Matches
 * sc_backend_open_fn. */
enum sc_status sc_cpu_backend_open(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                   struct sc_err *err) SC_MUST_CHECK;

/* Of opts->math only INT8 counts. SC_ENOTSUP when this machine or this build lacks the instruction
 * set. */
enum sc_status sc_cpu_backend_open_isa(const struct sc_backend_opts *opts, enum sc_cpu_isa isa,
                                       struct sc_backend **ret_be,
                                       struct sc_err *err) SC_MUST_CHECK;

#endif
