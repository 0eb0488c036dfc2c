/* cpu/gsc.h - Greedy Seed Clustering of one chunk, a pure function on integers.
 *
 * dist is [m, m] row-major fixed point, symmetric; what is on the diagonal is no pair's distance.
 * Tokens i != j are neighbours when their distance is <= tau and neither is forced.
 *   dense: repeatedly the unassigned token with most unassigned neighbours (ties to the lowest
 * index) becomes a seed and takes them, until nobody has an unassigned neighbour; the rest, and the
 *          forced tokens, are clusters of one.
 *   scan:  the lowest unassigned token becomes a seed and takes its unassigned neighbours.
 * Clusters are then numbered by their lowest member. labels [m], seeds [count]. Returns the count.
 * Memory: about 4 KiB of stack. Threads: pure.
 */
#ifndef SC_CPU_GSC_H
#define SC_CPU_GSC_H

#include "base/backend.h"

#define SC_GSC_BISECTIONS 12u

/* forced, and the other tokens whose distance to the mean key, on the diagonal, is above the limit:
 * the `most` farthest of them, of equals those with the lowest index; 0: all. */
void sc_gsc_force_outliers(const int32_t *dist, uint32_t m, int64_t alone_above, uint32_t most,
                           const uint64_t forced[2], uint64_t ret_forced[2]);

uint32_t sc_gsc_cluster(const int32_t *dist, uint32_t m, int64_t tau, const uint64_t forced[2],
                        enum sc_seed_order order, uint8_t *labels, uint8_t *seeds);

/* At most budget clusters where that is possible; nothing is merged when m <= budget. Bisects
 * integers: hi starts at the largest distance of two unforced tokens (which joins them all; that
 * result stands when even it is over the budget), lo at -1 (no neighbours, not tried); up to
 * SC_GSC_BISECTIONS times while hi - lo > 1, mid = floor((lo + hi) / 2) becomes hi when its count
 * fits, else lo. The result is that of hi.
 */
uint32_t sc_gsc_cluster_budget(const int32_t *dist, uint32_t m, uint32_t budget,
                               const uint64_t forced[2], enum sc_seed_order order, uint8_t *labels,
                               uint8_t *seeds);

#endif
