/* cpu/attention_soon_impl.h - what attention of few queries asks for ahead. Private to cpu/.
 *
 * Such a step waits for memory. That is read once and in the order in which it lies, page after
 * page, of a page head after head, and of a head its keys and then its values; and it is asked for
 * in that order, because processors follow an instruction through ascending lines.
 * docs/results/cpu.md has what that gives.
 */
#ifndef SC_CPU_ATTENTION_SOON_IMPL_H
#define SC_CPU_ATTENTION_SOON_IMPL_H

#include "cpu/kv.h"

/* While the keys of a block are read, two lines are asked for with each: from `values` on, the
 * block's own, during the first half of the dimensions, then from `keys` on, the next block's. */
struct soon {
    const uint8_t *values, *keys;
};

static inline void ask_lines(const uint8_t *from, const uint32_t n)
{
#pragma GCC unroll 4
    for (uint32_t line = 0; line < n; line++)
        __builtin_prefetch(from + line * SC_CPU_LINE, 0, 3);
}

#endif
