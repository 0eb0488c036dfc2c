/* store/internal.h - what the store's files share: time, the log gate, and the statuses of a tier.
 *
 * A tier's read or refresh says: SC_OK; SC_ENOENT, a plain miss; SC_EFORMAT, damaged or cut;
 * SC_ENOTSUP, of a later version; SC_EEXIST, another blob is in its place; SC_ECANCELED, not tried
 * (its trouble was told before); anything else is a failure of the tier. All but SC_ENOENT and
 * SC_ECANCELED are worth a line.
 */
#ifndef SC_STORE_INTERNAL_H
#define SC_STORE_INTERNAL_H

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "store/store.h"

#define SC_STORE_LOG_EVERY_MS 10000u /* at most one line of a failing tier in this time */

static inline uint64_t sc_store_clock_ns(clockid_t clock)
{
    struct timespec t;

    (void)clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline bool sc_store_same(const struct sc_hash *a, const struct sc_hash *b)
{
    return __builtin_memcmp(a->bytes, b->bytes, SC_HASH_BYTES) == 0;
}

static inline bool sc_store_same_label(const struct sc_store_label *a,
                                       const struct sc_store_label *b)
{
    return sc_store_same(&a->model, &b->model) && sc_store_same(&a->recipe, &b->recipe);
}

#endif
