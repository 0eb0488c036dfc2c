/* The clustering in C against the reference in Python, tools/gsc_oracle.py, which was written from
 * docs/compression.md alone. Labels, seeds and counts must be equal, ties included.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "cpu/gsc.h"

#define N_CHUNKS        1000
#define N_BUDGET_CHUNKS 200
#define ORACLE          "'" SC_PYTHON "' '" SC_SOURCE_DIR "/tools/gsc_oracle.py' "

struct problem {
    uint32_t m;
    int32_t dist[SC_CHUNK_MAX * SC_CHUNK_MAX];
    uint64_t forced[SC_CHUNK_MAX / 64];
};

static void read_problem(const json_t *line, struct problem *p)
{
    memset(p, 0, sizeof(*p));
    p->m = (uint32_t)json_integer_value(json_object_get(line, "m"));
    assert_in_range(p->m, 1, SC_CHUNK_MAX);
    const json_t *dist = json_object_get(line, "dist");
    assert_int_equal(json_array_size(dist), p->m * (p->m - 1) / 2);
    size_t n = 0;
    for (uint32_t i = 0; i < p->m; i++)
        for (uint32_t j = i + 1; j < p->m; j++) {
            int32_t d = (int32_t)json_integer_value(json_array_get(dist, n++));
            p->dist[i * p->m + j] = p->dist[j * p->m + i] = d;
        }
    size_t at;
    json_t *token;
    json_array_foreach(json_object_get(line, "forced"), at, token)
    {
        json_int_t i = json_integer_value(token);
        p->forced[i / 64] |= 1ull << (i % 64);
    }
}

static void assert_answer(const json_t *want, size_t chunk, uint32_t m, uint32_t count,
                          const uint8_t *labels, const uint8_t *seeds)
{
    const json_t *want_labels = json_object_get(want, "labels");
    const json_t *want_seeds = json_object_get(want, "seeds");
    assert_int_equal(json_array_size(want_labels), m);
    if (json_array_size(want_seeds) != count)
        fail_msg("chunk %zu: %u clusters, the reference has %zu", chunk, count,
                 json_array_size(want_seeds));
    for (uint32_t i = 0; i < m; i++)
        if (json_integer_value(json_array_get(want_labels, i)) != labels[i])
            fail_msg("chunk %zu: token %u is in cluster %u, in the reference in %d", chunk, i,
                     labels[i], (int)json_integer_value(json_array_get(want_labels, i)));
    for (uint32_t c = 0; c < count; c++)
        if (json_integer_value(json_array_get(want_seeds, c)) != seeds[c])
            fail_msg("chunk %zu: the seed of cluster %u is %u, in the reference %d", chunk, c,
                     seeds[c], (int)json_integer_value(json_array_get(want_seeds, c)));
}

struct tally {
    size_t chunks, clusters, tokens, merged;
};

/* Both functions under the one shape that compare() needs. */
typedef uint32_t cluster_fn(const json_t *line, const struct problem *p, enum sc_seed_order order,
                            uint8_t *labels, uint8_t *seeds);

static uint32_t by_threshold(const json_t *line, const struct problem *p, enum sc_seed_order order,
                             uint8_t *labels, uint8_t *seeds)
{
    int64_t tau = json_integer_value(json_object_get(line, "tau"));
    return sc_gsc_cluster(p->dist, p->m, tau, p->forced, order, labels, seeds);
}

static uint32_t by_budget(const json_t *line, const struct problem *p, enum sc_seed_order order,
                          uint8_t *labels, uint8_t *seeds)
{
    uint32_t budget = (uint32_t)json_integer_value(json_object_get(line, "budget"));
    return sc_gsc_cluster_budget(p->dist, p->m, budget, p->forced, order, labels, seeds);
}

static struct tally compare(const char *command, const char *answer, enum sc_seed_order order,
                            cluster_fn *run)
{
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    struct tally tally = {0};
    struct problem p;
    json_error_t why;
    json_t *line;
    while ((line = json_loadf(pipe, JSON_DISABLE_EOF_CHECK, &why))) {
        uint8_t labels[SC_CHUNK_MAX], seeds[SC_CHUNK_MAX];
        read_problem(line, &p);
        uint32_t count = run(line, &p, order, labels, seeds);
        assert_answer(json_object_get(line, answer), tally.chunks, p.m, count, labels, seeds);
        tally.chunks++;
        tally.tokens += p.m;
        tally.clusters += count;
        tally.merged += count < p.m;
        json_decref(line);
    }
    assert_int_equal(pclose(pipe), 0);
    return tally;
}

/* The problems must be worth solving: tokens were merged, and not everything into one. */
static void assert_not_trivial(const struct tally *tally, size_t chunks)
{
    assert_int_equal(tally->chunks, chunks);
    assert_true(tally->merged > chunks / 4);
    assert_true(tally->clusters > 2 * tally->chunks);
    assert_true(tally->clusters < tally->tokens * 9 / 10);
}

static void run_random(const char *what, size_t chunks, const char *answer,
                       enum sc_seed_order order, cluster_fn *run)
{
    char command[4096];
    int len = snprintf(command, sizeof(command), "%srandom --chunks %zu %s", ORACLE, chunks, what);
    assert_in_range(len, 1, sizeof(command) - 1);
    struct tally tally = compare(command, answer, order, run);
    assert_not_trivial(&tally, chunks);
    print_message("%zu chunks, %zu tokens in %zu clusters\n", tally.chunks, tally.tokens,
                  tally.clusters);
}

static void dense_seeds_give_the_labels_of_the_reference(void **state)
{
    (void)state;
    run_random("--seed 1", N_CHUNKS, "dense", SC_SEED_DENSE, by_threshold);
}

static void scan_seeds_give_the_labels_of_the_reference(void **state)
{
    (void)state;
    run_random("--seed 2", N_CHUNKS, "scan", SC_SEED_SCAN, by_threshold);
}

static void a_budget_with_dense_seeds_gives_the_labels_of_the_reference(void **state)
{
    (void)state;
    run_random("--seed 3 --budget", N_BUDGET_CHUNKS, "budget_dense", SC_SEED_DENSE, by_budget);
}

static void a_budget_with_scan_seeds_gives_the_labels_of_the_reference(void **state)
{
    (void)state;
    run_random("--seed 4 --budget", N_BUDGET_CHUNKS, "budget_scan", SC_SEED_SCAN, by_budget);
}

static void the_reference_has_the_properties_it_promises(void **state)
{
    (void)state;
    assert_int_equal(system(ORACLE "check --rounds 10"), 0);
}

int main(void)
{
    if (SC_PYTHON[0] == '\0') {
        puts("skipped: no python3 was found when the build was configured");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_has_the_properties_it_promises),
        cmocka_unit_test(dense_seeds_give_the_labels_of_the_reference),
        cmocka_unit_test(scan_seeds_give_the_labels_of_the_reference),
        cmocka_unit_test(a_budget_with_dense_seeds_gives_the_labels_of_the_reference),
        cmocka_unit_test(a_budget_with_scan_seeds_gives_the_labels_of_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
