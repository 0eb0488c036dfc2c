/* client/stats.h - durations of a benchmark, and their percentiles.
 *
 * Microseconds in 32 bits: 71 minutes, longer ones count as that. Memory: grows to
 * SC_STATS_SAMPLES_MAX samples; those that find no room are counted, not kept.
 * Threads: one owner.
 */
#ifndef SC_CLIENT_STATS_H
#define SC_CLIENT_STATS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SC_STATS_SAMPLES_MAX ((size_t)64 << 20)

struct sc_stats {
    uint32_t *us;
    size_t n, room;
    double sum_us;
    uint64_t n_lost;
    bool sorted;
};

void sc_stats_add(struct sc_stats *stats, double us); /* zeroed is empty; below 0 counts as 0 */
void sc_stats_add_all(struct sc_stats *stats, const struct sc_stats *other);
void sc_stats_fini(struct sc_stats *stats);

/* By nearest rank: the smallest sample that at least `permille` thousandths of all do not exceed.
 * 1..1000, which is the largest. Sorts; 0 when there are no samples. */
double sc_stats_percentile_us(struct sc_stats *stats, uint32_t permille);
double sc_stats_mean_us(const struct sc_stats *stats);

/* {"n", "mean", "p50", "p90", "p99", "max"} in milliseconds, and "lost" where there are some;
 * NULL: no memory. */
json_t *sc_stats_json(struct sc_stats *stats);

#endif
