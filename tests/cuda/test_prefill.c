/* Attention of more tiles of rows than a device has multiprocessors, of sequences that have little
 * in common: what a block keeps from one tile to the next. */
#define SEQS_MAX 48

#include "tests/cuda/attention_scene.h"

/* As for blocks in test_attention.c. */
#define TOLERANCE_BF16 8e-3

enum { FAST = 0, STRICT = 1 }; /* which device of devices[1] */

/* Rows, as few as none, behind much or nothing; cores with biases, windows, or all of it exact. */
static struct run any_run(struct rng *r, uint32_t group)
{
    const uint32_t few = 16 / group; /* most rows that are not tiles but where strict */
    const uint32_t rows[8] = {0, 1, few, few + 1, 17 + rng_below(r, 16), 32, 33, rng_below(r, 150)};
    const uint32_t before[6] = {0, 1, 127, 128, rng_below(r, 100), rng_below(r, 600)};
    struct run run = {.n_rows = rows[rng_below(r, 8)], .pos0 = before[rng_below(r, 6)]};
    switch (rng_below(r, 4)) {
    case 0:
        run.n_cores = 1 + rng_below(r, 300);
        run.exact_lo = rng_below(r, run.pos0 + 1);
        break;
    case 1:
        run.window = 1 + rng_below(r, 200);
        break;
    case 2:
        run.exact_lo = rng_below(r, run.pos0 + 1);
        break;
    default:
        break;
    }
    return run;
}

/* Tiles of 128 rows by KV head that go to blocks of their own. */
static uint32_t tasks_of(const struct shape *sh, int strict)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sh->n_seqs; i++) {
        const uint32_t rows = sh->runs[i].n_rows * sh->group;
        n += strict == STRICT || rows > 16 ? (rows + 127) / 128 * sh->n_kv_heads : 0;
    }
    return n;
}

static void same_bits(const struct scene *s, const float *a, const float *b, const char *what)
{
    for (uint32_t i = 0; i < s->sh->n_seqs; i++) {
        const struct run *run = &s->sh->runs[i];
        const size_t at = (size_t)s->seqs[i].row0 * s->width, n = (size_t)run->n_rows * s->width;
        if (memcmp(a + at, b + at, n * sizeof(float)) != 0)
            fail_msg("%s: sequence %u, %u rows at %u, differs by %g", what, i, run->n_rows,
                     run->pos0, relative_error(a + at, b + at, n));
    }
}

/* Against the twin, and each sequence in a call of its own, where no block has two tiles of it.
 * times: a power of two, for larger scores. */
static void check_scores(const struct shape *sh, uint64_t seed, float times)
{
    struct scene s;
    char what[96];

    scene_open(&s, sh, SC_DTYPE_BF16, 0xc, seed);
    for (size_t i = 0; times != 1.0f && i < (size_t)s.n_rows * s.width; i++)
        s.q[i] = to_dtype(s.q[i], SC_DTYPE_BF16) * times;
    for (int strict = FAST; strict <= STRICT; strict++) {
        float *all = attend(&s, 1, strict, s.seqs, sh->n_seqs, 1);
        float *again = attend(&s, 1, strict, s.seqs, sh->n_seqs, 1);
        float *alone = attend(&s, 1, strict, s.seqs, sh->n_seqs, sh->n_seqs);
        (void)snprintf(what, sizeof(what), "%ux%u over %u, %u sequences, %u tiles%s",
                       sh->group * sh->n_kv_heads, sh->head_dim, sh->n_kv_heads, sh->n_seqs,
                       tasks_of(sh, strict), strict == STRICT ? ", strict" : "");
        assert_close(what, all, twin_result(&s), (size_t)s.n_rows * s.width, TOLERANCE_BF16);
        same_bits(&s, again, all, "a second time");
        same_bits(&s, alone, all, "alone");
        free(all);
        free(again);
        free(alone);
    }
    scene_close(&s);
}

static void check(const struct shape *sh, uint64_t seed)
{
    check_scores(sh, seed, 1.0f);
}

/* At least three tiles for each block of 132, in a small run of three; with 3 query heads a tile
 * begins within a token. */
static void many_unlike_sequences_match_the_cpu_backend(void **state)
{
    static const struct shape small[] = {
        {128, 4, 2, 9, {{0}}}, {64, 3, 3, 9, {{0}}}, {128, 1, 2, 12, {{0}}}};
    static const struct shape kinds[] = {{128, 4, 8, 40, {{0}}},
                                         {64, 8, 8, 30, {{0}}},
                                         {128, 1, 16, 48, {{0}}},
                                         {64, 3, 9, 48, {{0}}},
                                         {128, 8, 8, 40, {{0}}}};
    (void)state;
    for (size_t i = 0; i < (small_run() ? SC_ARRAY_LEN(small) : SC_ARRAY_LEN(kinds)); i++) {
        struct shape sh = small_run() ? small[i] : kinds[i];
        struct rng r = {900 + i};
        for (uint32_t j = 0; j < sh.n_seqs; j++)
            sh.runs[j] = any_run(&r, sh.group);
        assert_true(tasks_of(&sh, STRICT) > 3 * (small_run() ? 3 : 132));
        check(&sh, 910 + i);
    }
}

/* One sequence, whose tiles see one to five tiles of keys; one alone among others of a row each. */
static void tiles_of_one_long_sequence_match_the_cpu_backend(void **state)
{
    static const struct shape shapes[] = {{64, 4, 36, 1, {{260, 0, 0, 0, 0}}},
                                          {128, 4, 16, 1, {{300, 270, 0, 0, 0}}},
                                          {64, 1, 48, 1, {{700, 3, 40, 2, 0}}},
                                          {128, 2, 24, 1, {{400, 900, 0, 0, 130}}}};
    struct shape mixed = {128, 4, small_run() ? 1 : 8, 34, {{0}}};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(shapes); i++) {
        struct shape sh = shapes[i];
        sh.n_kv_heads = small_run() ? 1 + sh.n_kv_heads / 24 : sh.n_kv_heads;
        check(&sh, 920 + i);
    }
    for (uint32_t j = 0; j < mixed.n_seqs; j++)
        mixed.runs[j] = (struct run){j == 33 ? 500 : 1, 7 * j, 0, 0, 0};
    check(&mixed, 930);
}

/* What a row has summed up is rescaled at nearly every tile of keys. */
static void references_that_move_match_the_cpu_backend(void **state)
{
    static const struct shape shapes[] = {
        {64, 4, 40, 2, {{150, 300, 0, 0, 0}, {100, 40, 200, 10, 0}}},
        {128, 2, 40, 2, {{130, 500, 0, 0, 200}, {200, 1, 300, 0, 0}}}};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(shapes); i++) {
        struct shape sh = shapes[i];
        sh.n_kv_heads = small_run() ? 1 : sh.n_kv_heads;
        check_scores(&sh, 960 + i, 64.0f);
    }
}

/* Little else, for sanitizers: three tiles for each block. */
static void a_block_takes_tile_after_tile(void **state)
{
    static const struct shape sh = {64, 4, 132, 1, {{70, 30, 33, 5, 0}}};
    (void)state;
    check(&sh, 950);
}

/* What counts tiles counts parts of splits, too. */
static void few_tiles_and_splits_take_turns(void **state)
{
    static const struct shape sh = {
        128, 4, 2, 3, {{70, 300, 33, 5, 0}, {1, 2500, 0, 0, 0}, {5, 0, 0, 0, 0}}};
    static const uint32_t calls[][2] = {{0, 1}, {1, 1}, {0, 2}, {1, 2}, {2, 1}, {0, 3}, {1, 1}};
    struct scene s;
    (void)state;
    scene_open(&s, &sh, SC_DTYPE_BF16, 0x4, 940);
    float *want = attend(&s, 1, FAST, s.seqs, 3, 3);
    assert_close("one by one", want, twin_result(&s), (size_t)s.n_rows * s.width, TOLERANCE_BF16);
    for (size_t i = 0; i < SC_ARRAY_LEN(calls); i++) {
        float *got = attend(&s, 1, FAST, s.seqs + calls[i][0], calls[i][1], 1);
        for (uint32_t j = calls[i][0]; j < calls[i][0] + calls[i][1]; j++) {
            const size_t at = (size_t)s.seqs[j].row0 * s.width;
            assert_memory_equal(got + at, want + at,
                                (size_t)sh.runs[j].n_rows * s.width * sizeof(float));
        }
        free(got);
    }
    free(want);
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_unlike_sequences_match_the_cpu_backend),
        cmocka_unit_test(tiles_of_one_long_sequence_match_the_cpu_backend),
        cmocka_unit_test(references_that_move_match_the_cpu_backend),
        cmocka_unit_test(a_block_takes_tile_after_tile),
        cmocka_unit_test(few_tiles_and_splits_take_turns),
    };
    skip_without_device();
    printf("by a block for each tile\n");
    const int rc = cmocka_run_group_tests(tests, open_all, close_all);
    printf("by blocks that stay\n");
    assert_int_equal(setenv("SC_CUDA_PREFILL_TASKS", "1", 1), 0);
    return rc | cmocka_run_group_tests(tests, open_all, close_all);
}
