#include "client/stats.h"

#include "base/status.h"

#include <stdlib.h>

#define FIRST_ROOM 256

void sc_stats_add(struct sc_stats *stats, double us)
{
    if (stats->n == stats->room) {
        size_t room = stats->room == 0 ? FIRST_ROOM : stats->room * 2;
        uint32_t *more =
            room <= SC_STATS_SAMPLES_MAX ? realloc(stats->us, room * sizeof(*more)) : NULL;
        if (more == NULL) {
            stats->n_lost++;
            return;
        }
        stats->us = more;
        stats->room = room;
    }
    us = us < 0 ? 0 : us > UINT32_MAX ? UINT32_MAX : us;
    stats->us[stats->n++] = (uint32_t)us;
    stats->sum_us += us;
    stats->sorted = false;
}

void sc_stats_add_all(struct sc_stats *stats, const struct sc_stats *other)
{
    for (size_t i = 0; i < other->n; i++)
        sc_stats_add(stats, other->us[i]);
    stats->n_lost += other->n_lost;
}

void sc_stats_fini(struct sc_stats *stats)
{
    free(stats->us);
    *stats = (struct sc_stats){0};
}

static int compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

double sc_stats_percentile_us(struct sc_stats *stats, uint32_t permille)
{
    SC_ASSERT(permille >= 1 && permille <= 1000);
    if (stats->n == 0)
        return 0;
    if (!stats->sorted)
        qsort(stats->us, stats->n, sizeof(*stats->us), compare);
    stats->sorted = true;
    /* Whole numbers: 0.9 * 10 in floating point would be rank 10 of 10. */
    return stats->us[(stats->n * permille + 999) / 1000 - 1];
}

double sc_stats_mean_us(const struct sc_stats *stats)
{
    return stats->n > 0 ? stats->sum_us / (double)stats->n : 0;
}

json_t *sc_stats_json(struct sc_stats *stats)
{
    json_t *object = json_pack(
        "{s:I, s:f, s:f, s:f, s:f, s:f}", "n", (json_int_t)stats->n, "mean",
        sc_stats_mean_us(stats) / 1e3, "p50", sc_stats_percentile_us(stats, 500) / 1e3, "p90",
        sc_stats_percentile_us(stats, 900) / 1e3, "p99", sc_stats_percentile_us(stats, 990) / 1e3,
        "max", sc_stats_percentile_us(stats, 1000) / 1e3);
    if (object != NULL && stats->n_lost > 0 &&
        json_object_set_new(object, "lost", json_integer((json_int_t)stats->n_lost)) != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}
