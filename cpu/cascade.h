/* cpu/cascade.h - attention of sequences that begin with the same pages, as questions about one
 * document do: what they share is read once for all of them. Private to cpu/.
 *
 * A cohort is some sequences of one row each whose first spans are the same: the same pages, and
 * each row sees all of them. Such a span is attended to by the rows of all members together, the
 * other spans by each alone, and the parts of a sequence's spans are combined in order, as they are
 * when threads share a sequence's spans. A row's bits in a span do not depend on the rows beside
 * it, so cascading changes no result.
 */
#ifndef SC_CPU_CASCADE_H
#define SC_CPU_CASCADE_H

#include "cpu/device.h"

#define SC_CPU_CASCADE_SEQS 256u /* of a call may be members */

struct sc_cpu_cohort {
    uint32_t first, n;       /* members */
    uint32_t n_shared;       /* spans, from the first on */
    uint32_t part_heads;     /* KV heads of a task with one shared span */
    uint32_t task0, n_parts; /* its tasks: n_shared * n_parts */
};

struct sc_cpu_cascade {
    const struct sc_attn_args *args;
    uint32_t group, part_heads, n_parts; /* of tasks with one sequence */
    uint32_t n_cohorts, n_members;
    uint32_t n_shared_tasks, n_own_tasks;
    struct sc_cpu_cohort cohorts[SC_CPU_CASCADE_SEQS / 2];
    struct {
        uint32_t seq, own0; /* its first task of spans that it reads alone */
        size_t part0;       /* floats before its parts, [span][head] */
    } members[SC_CPU_CASCADE_SEQS];
    bool is_member[SC_CPU_CASCADE_SEQS]; /* by sequence */
};

/* False: no two sequences share a span; ret is then undefined. As many are members as there is room
 * for their parts. The arguments have been checked. */
bool sc_cpu_cascade_find(const struct sc_cpu_device *dev, const struct sc_attn_args *args,
                         struct sc_cpu_cascade *ret);

/* Tasks of the first round, shared then own, any order; afterwards one per member and part. */
void sc_cpu_cascade_span(const struct sc_cpu_device *dev, const struct sc_cpu_cascade *c,
                         uint32_t task, uint32_t thread);
void sc_cpu_cascade_combine(const struct sc_cpu_device *dev, const struct sc_cpu_cascade *c,
                            uint32_t task, uint32_t thread);

/* attention.c: the kernels by dtype. */
void sc_cpu_attend(const struct sc_cpu_device *dev, const struct sc_cpu_attn *attn,
                   uint32_t thread);
void sc_cpu_combine(const struct sc_cpu_device *dev, const struct sc_cpu_attn *attn,
                    const float *parts, uint32_t thread);

#endif
