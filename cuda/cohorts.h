/* cuda/cohorts.h - sequences of a step that begin with the same pages, as questions about one
 * document do: what they share is read once for several of them. Private to cuda/; included by host
 * files and kernels.
 *
 * A cohort is some sequences of one row each whose first splits are the same: as many pages a
 * split, the same pages in the same places, and each row sees the same entries of them. Such a
 * split is read by a launch of its own for the rows of many members at a time; every member's part
 * of it goes where the member alone would have put it. How a sequence is cut does not depend on the
 * others, and neither do a row's bits in a split, so cohorts change no result.
 *
 * Who is in a cohort is the same for all layers, and is found in the first without a window; how
 * many splits its members share is found for each layer, as they may have other cores there.
 */
#ifndef SC_CUDA_COHORTS_H
#define SC_CUDA_COHORTS_H

#include <stdint.h>

#define SC_CUDA_COHORT_SEQS 256u /* of a step may be members */
/* A cohort is made where it saves reading so many pages (in one layer): of 8 heads of 128 in bf16
 * they are 17 MB, which should pay for one more launch. Not measured. */
#define SC_CUDA_COHORT_PAGES 128u

struct sc_cuda_cohort {
    uint32_t first, n; /* members */
    uint32_t n_shared; /* splits, from the first on, in this layer; may be 0 */
};

/* What grids are sized by, of all layers; all 0: there are no cohorts. */
struct sc_cuda_cohort_bounds {
    uint32_t n_cohorts;   /* exact */
    uint32_t max_members; /* of one cohort */
    uint32_t max_shared;  /* splits of one cohort */
    uint32_t max_own;     /* splits that a sequence reads alone */
};

/* cohorts.c: host side. */
#ifndef __CUDACC__
#include <stddef.h>

struct sc_cuda_seq;

/* Most cohorts of n_seqs sequences, members not counted. */
static inline size_t sc_cuda_cohorts_most(uint32_t n_seqs)
{
    return n_seqs < SC_CUDA_COHORT_SEQS ? n_seqs / 2 : SC_CUDA_COHORT_SEQS / 2;
}

/* seqs [n_layers, n_seqs] and tables as sc_cuda_seqs_pack left them for table0 = 0; raises
 * n_shared of the members. ret_cohorts: [n_layers, n_cohorts], room for n_layers *
 * sc_cuda_cohorts_most(n_seqs); ret_members: [n_seqs] at most, sequences of a layer. */
void sc_cuda_cohorts_find(struct sc_cuda_seq *seqs, const uint32_t *tables, uint32_t n_seqs,
                          uint32_t n_layers, struct sc_cuda_cohort *ret_cohorts,
                          uint32_t *ret_members, struct sc_cuda_cohort_bounds *ret_bounds);
/* Raised to what several steps have in common. */
struct sc_cuda_cohort_bounds
sc_cuda_cohort_bounds_round(const struct sc_cuda_cohort_bounds *bounds);
#endif

#endif
