/* bench/prefix_lookup.c - how long the prefix tree takes to find where a prompt begins.
 *
 *   bench-prefix-lookup [tokens of the long prompt [other prompts ...]]
 *
 * A tree with a prompt of 100,000 tokens, a snapshot at the end of each block, and others of one
 * namespace and two blocks, which differ from their first token on. Median and slowest of several
 * lookups, on one core: the whole prompt (hit), one that leaves it in the middle of a block half
 * way (branch), one as long of which nothing is known (miss), and the key of the whole prompt.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scheduler/prefix.h"

#define LOOKUPS      101
#define OTHER_TOKENS (2 * SC_PREFIX_BLOCK)

enum { HIT, BRANCH, MISS, KEY, N_CASES };

struct bench {
    struct sc_prefix *p;
    struct sc_prefix_root root;
    int32_t *prompt, *other; /* [n] */
    uint32_t n;
};

static double now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec * 1e-3;
}

static void write_tokens(int32_t *tokens, uint32_t n, uint64_t of)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(sc_mix64(sc_mix64(of) + i) % 100000);
}

/* A snapshot at the end of each block and of the prompt. */
static void insert(struct bench *b, const int32_t *tokens, uint32_t n)
{
    for (uint32_t pos = 0; pos < n;) {
        uint32_t end = sc_prefix_boundary(&b->root, pos), snap;
        end = end < n ? end : n;
        uint32_t node = sc_prefix_hold(b->p, &b->root, tokens, end, 1);
        SC_ASSERT(node != SC_NODE_NONE);
        if (sc_prefix_snap_take(b->p, node, &snap))
            sc_prefix_snap_live(b->p, node, 1, end / 32, 1);
        sc_prefix_unhold(b->p, node);
        pos = end;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(struct bench *b, int which, double *ret_median, double *ret_slowest)
{
    double us[LOOKUPS];
    volatile uint32_t sink = 0;
    memcpy(b->other, b->prompt, b->n * sizeof(*b->other));
    for (uint64_t i = 0; i < LOOKUPS; i++) {
        if (which == MISS)
            write_tokens(b->other, b->n, UINT64_MAX - i);
        if (which == BRANCH)
            b->other[b->n / 2 + 7] = 100000 + (int32_t)i;
        double start = now_us();
        if (which == KEY)
            sink += sc_prefix_key(&b->root, b->prompt, b->n).bytes[0];
        else
            sink += sc_prefix_find(b->p, &b->root, b->other, b->n, b->n - 1, 2 + i).n;
        us[i] = now_us() - start;
    }
    qsort(us, LOOKUPS, sizeof(*us), by_value);
    *ret_median = us[LOOKUPS / 2];
    *ret_slowest = us[LOOKUPS - 1];
}

static bool run(uint32_t n, uint32_t others)
{
    static const char model_name[] = "a model";
    struct sc_err err = SC_ERR_INIT;
    struct sc_hash model, recipe_id = {{0}};
    struct sc_hasher h;
    struct sc_recipe recipe = {.mode = SC_KV_EXACT};
    struct bench b = {.n = n};
    uint32_t blocks = n / SC_PREFIX_BLOCK + 1 + others * 2, which;
    double median, slowest;
    sc_hasher_init(&h);
    sc_hasher_str(&h, model_name);
    model = sc_hasher_end(&h);
    if (sc_prefix_open(blocks, blocks + 64, NULL, &b.p, &err) != SC_OK) {
        fprintf(stderr, "bench-prefix-lookup: %s\n", err.text);
        return false;
    }
    b.root = sc_prefix_root(&model, &recipe_id, "tenant", &recipe, n);
    b.prompt = malloc(n * sizeof(*b.prompt));
    b.other = malloc(n * sizeof(*b.other));
    SC_ASSERT(b.prompt != NULL && b.other != NULL);
    int32_t *small = malloc(OTHER_TOKENS * sizeof(*small));
    SC_ASSERT(small != NULL);
    write_tokens(b.prompt, n, 1);
    insert(&b, b.prompt, n);
    double start = now_us();
    for (uint32_t i = 0; i < others; i++) {
        write_tokens(small, OTHER_TOKENS, 2ull + i);
        insert(&b, small, OTHER_TOKENS);
    }
    double insert_us = others > 0 ? (now_us() - start) / others : 0.0;
    printf("%8u %8u %8.1f", n, others, insert_us);
    for (which = HIT; which < N_CASES; which++) {
        measure(&b, (int)which, &median, &slowest);
        printf("   %8.1f %8.1f", median, slowest);
    }
    printf("\n");
    free(small);
    free(b.prompt);
    free(b.other);
    sc_prefix_close(b.p);
    return true;
}

int main(int argc, char **argv)
{
    static const uint32_t usual[] = {0, 1000, 10000, 100000};
    uint32_t n = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 100000;
    if (n < 2 * SC_PREFIX_BLOCK || n > 1u << 24) {
        fprintf(stderr, "usage: bench-prefix-lookup [tokens, %u..%u [other prompts ...]]\n",
                2 * SC_PREFIX_BLOCK, 1u << 24);
        return 2;
    }
    printf("microseconds; median and slowest of %d\n", LOOKUPS);
    printf("%8s %8s %8s   %17s   %17s   %17s   %17s\n", "tokens", "others", "insert", "hit",
           "branch", "miss", "key");
    for (int i = 2; i < argc; i++)
        if (!run(n, (uint32_t)strtoul(argv[i], NULL, 10)))
            return 1;
    for (size_t i = 0; argc <= 2 && i < SC_ARRAY_LEN(usual); i++)
        if (!run(n, usual[i]))
            return 1;
    return 0;
}
