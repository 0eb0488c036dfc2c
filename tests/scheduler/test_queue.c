/* Who is next: the rule as it is told, found by looking at everybody, says the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "scheduler/queue.h"

#define N 600u

/* In order of arrival; one that was preempted comes to the front. */
struct line {
    struct sc_request *all[N];
    uint32_t n;
};

/* Highest priority; of these the one preempted last, else the namespace served least, else the one
 * that waits longest. */
static struct sc_request *brute_force(const struct line *line, const uint64_t *served)
{
    struct sc_request *best = NULL;
    for (uint32_t i = 0; i < line->n; i++) {
        struct sc_request *r = line->all[i];
        if (best == NULL || r->priority > best->priority) {
            best = r;
            continue;
        }
        if (r->priority < best->priority || best->preempted)
            continue;
        if (r->preempted || served[r->ns_bucket] < served[best->ns_bucket])
            best = r;
    }
    return best;
}

static void join(struct line *line, struct sc_request *r)
{
    uint32_t at = r->preempted ? 0 : line->n;
    memmove(&line->all[at + 1], &line->all[at], (line->n - at) * sizeof(struct sc_request *));
    line->all[at] = r;
    line->n++;
}

static void leave(struct line *line, const struct sc_request *r)
{
    uint32_t i = 0;
    while (line->all[i] != r)
        i++;
    line->n--;
    memmove(&line->all[i], &line->all[i + 1], (line->n - i) * sizeof(struct sc_request *));
}

static bool is_canceled(void *ctx, const struct sc_request *r)
{
    ++*(uint32_t *)ctx;
    return atomic_load(&r->canceled);
}

static void the_next_is_whom_the_rule_says(void **state)
{
    static struct sc_request pool[N];
    struct sc_err err = SC_ERR_INIT;
    struct sc_request *idle[N];
    uint64_t served[SC_NS_BUCKETS];
    struct sc_queue *q;
    (void)state;
    assert_int_equal(sc_queue_open(&q, &err), SC_OK);
    for (uint64_t seed = 0; seed < 40; seed++) {
        static struct line line;
        uint32_t n_idle = 0, n_priorities = seed % 3 == 0 ? 1 : seed % 3 == 1 ? 3 : 201;
        uint32_t n_namespaces = seed % 4 == 0 ? 1 : seed % 4 == 1 ? 5 : SC_NS_BUCKETS;
        memset(served, 0, sizeof(served));
        memset(pool, 0, sizeof(pool));
        line.n = 0;
        while (n_idle < N) {
            idle[n_idle] = &pool[n_idle];
            n_idle++;
        }
        for (uint64_t i = 0; i < 4000; i++) {
            uint64_t x = sc_mix64(seed * 100000 + i);
            bool grow = (i / 500) % 2 == 0;
            if (n_idle > 0 && x % 8 < (grow ? 5 : 3)) {
                struct sc_request *r = idle[--n_idle];
                r->priority = (int32_t)((x >> 8) % n_priorities) - (int32_t)(n_priorities / 2);
                r->ns_bucket = (uint32_t)((x >> 20) % n_namespaces);
                r->preempted = (x >> 40) % 10 == 0;
                atomic_store(&r->canceled, false);
                join(&line, r);
                sc_queue_push(q, r);
            } else {
                struct sc_request *r = sc_queue_next(q, served);
                assert_ptr_equal(r, brute_force(&line, served));
                if (r != NULL) {
                    sc_queue_take(q, r);
                    leave(&line, r);
                    idle[n_idle++] = r;
                    served[r->ns_bucket] += (x >> 8) % 3; /* often equal */
                }
            }
            if ((x >> 50) % 200 == 0) {
                uint32_t n_seen = 0, n_before = line.n;
                for (uint32_t k = 0; k < line.n; k++)
                    atomic_store(&line.all[k]->canceled, sc_mix64(x + k) % 5 == 0);
                struct sc_request *next;
                for (struct sc_request *r = sc_queue_sweep(q, is_canceled, &n_seen); r != NULL;
                     r = next) {
                    next = r->next;
                    assert_true(atomic_load(&r->canceled));
                    leave(&line, r);
                    idle[n_idle++] = r;
                }
                assert_int_equal(n_seen, n_before);
            }
            assert_int_equal(sc_queue_n(q), line.n);
        }
        for (struct sc_request *r; (r = sc_queue_next(q, served)) != NULL;) {
            assert_ptr_equal(r, brute_force(&line, served));
            sc_queue_take(q, r);
            leave(&line, r);
        }
        assert_int_equal(line.n, 0);
    }
    sc_queue_close(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_is_whom_the_rule_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
