#include "tests/cuda/attention_scene.h"

#include "cuda/splits.h"

/* Scores of f32 differ by about 1e-6, weights by as much, values are about 1. int8 entries are
 * whole numbers on both sides, whose scales are applied to the same sums: the limits are the same.
 */
#define TOLERANCE_F32 1e-5
/* Queries and weights are rounded to bf16 (2^-9 each, at random): sums of products to some 1e-3. */
#define TOLERANCE_BF16 8e-3

#define LONG 4000u /* positions that a small run does not have */

static bool takes_tensor_cores(const struct scene *s, int math)
{
    uint32_t hd = s->sh->head_dim;
    return math == 1 && s->dtype != SC_DTYPE_F32 && (hd == 32 || hd == 64 || hd == 128);
}

/* Every device that has a pool against the twin. */
static void compare_with_twin(const struct shape *sh, enum sc_dtype dtype, unsigned use,
                              uint64_t seed)
{
    struct scene s;
    char what[96];

    scene_open(&s, sh, dtype, use, seed);
    for (int i = 0; i < 4; i++) {
        int math = i / 2, strict = i % 2;
        if (s.pools[math][strict] == NULL)
            continue;
        float *got = attend(&s, math, strict, s.seqs, sh->n_seqs, 1);
        (void)snprintf(what, sizeof(what), "%s, %s math%s: %ux%u over %u, %u rows at %u",
                       sc_dtype_name(dtype), math == 1 ? "bf16" : "f32", strict ? " strict" : "",
                       sh->group * sh->n_kv_heads, sh->head_dim, sh->n_kv_heads, sh->runs[0].n_rows,
                       sh->runs[0].pos0);
        assert_close(what, got, twin_result(&s), (size_t)s.n_rows * s.width,
                     takes_tensor_cores(&s, math) ? TOLERANCE_BF16 : TOLERANCE_F32);
        free(got);
    }
    scene_close(&s);
}

/* Without strict devices, to which all are blocks, a small run has all kernels, too. */
static unsigned used(unsigned all)
{
    return small_run() ? all & 0x5 : all;
}

static const struct shape decode_shapes[] = {
    {128, 4, 2, 1, {{1, 0, 0, 0, 0}}},
    {64, 4, 1, 1, {{1, 31, 0, 0, 0}}},
    {128, 7, 2, 2, {{1, 32, 1, 0, 0}, {1, 100, 65, 37, 0}}},
    {32, 8, 1, 2, {{1, 255, 0, 3, 0}, {2, 256, 33, 255, 0}}},
    {64, 1, 3, 3, {{16, 40, 31, 33, 0}, {1, 300, 300, 290, 0}, {3, 500, 0, 0, 77}}},
    {128, 16, 1, 2, {{1, 700, 250, 645, 0}, {1, 9, 3, 9, 0}}},
    {128, 2, 2, 2, {{8, 1000, 0, 0, 100}, {1, 511, 0, 0, 1}}},
    {96, 4, 1, 2, {{1, 290, 40, 35, 0}, {4, 3, 0, 0, 0}}},
    {256, 8, 1, 2, {{1, 90, 320, 70, 0}, {2, 64, 0, 1, 0}}},
    {18, 2, 2, 2, {{1, 600, 40, 35, 0}, {5, 3, 7, 2, 0}}},
    {80, 1, 2, 1, {{7, 33, 0, 0, 20}}},
};

/* Each type with one kernel's head_dim after the other, in two splits. */
static const struct shape small_decode_shapes[] = {
    {128, 3, 1, 1, {{1, 130, 7, 3, 0}}},  {64, 4, 1, 2, {{1, 150, 0, 0, 0}, {2, 9, 0, 0, 0}}},
    {32, 8, 1, 1, {{2, 90, 40, 35, 0}}},  {96, 2, 1, 1, {{1, 130, 0, 0, 120}}},
    {256, 1, 1, 1, {{2, 100, 33, 0, 0}}}, {18, 2, 1, 1, {{1, 135, 0, 0, 0}}},
};

static void decode_matches_the_cpu_backend(void **state)
{
    const struct shape *shapes = small_run() ? small_decode_shapes : decode_shapes;
    const size_t n = small_run() ? SC_ARRAY_LEN(small_decode_shapes) : SC_ARRAY_LEN(decode_shapes);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        compare_with_twin(&shapes[i], SC_DTYPE_BF16, used(0xf), 2 * i);
        compare_with_twin(&shapes[i], SC_DTYPE_F32, used(0xc), 2 * i + 1);
        compare_with_twin(&shapes[i], SC_DTYPE_I8, used(0xf), 2 * i);
    }
}

/* Splits of one page number and more; more pages than 128 splits of the least size hold. */
static void long_contexts_match_the_cpu_backend(void **state)
{
    static const struct shape longs[] = {
        {64, 2, 1, 1, {{1, 8191, 0, 0, 0}}},
        {128, 4, 1, 2, {{1, 5000, 9000, 4100, 0}, {1, 20, 260, 0, 0}}},
        {32, 1, 1, 1, {{1, 30000, 40000, 5, 0}}},
    };
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(longs) && !small_run(); i++) {
        compare_with_twin(&longs[i], SC_DTYPE_BF16, 0x7, 100 + i);
        compare_with_twin(&longs[i], SC_DTYPE_F32, 0x4, 200 + i);
        compare_with_twin(&longs[i], SC_DTYPE_I8, 0x6, 100 + i);
    }
}

static const struct shape prefill_shapes[] = {
    {128, 4, 2, 1, {{5, 0, 0, 0, 0}}},
    {128, 4, 1, 1, {{97, 37, 70, 33, 0}}},
    {64, 8, 1, 1, {{300, 131, 33, 101, 0}}},
    {32, 7, 2, 2, {{33, 1, 0, 0, 0}, {65, 63, 64, 63, 0}}},
    {64, 1, 2, 2, {{128, 129, 0, 0, 50}, {17, 200, 0, 70, 33}}},
    {128, 2, 1, 4, {{64, 64, 31, 64, 0}, {1, 77, 0, 0, 0}, {9, 500, 100, 300, 0}, {8, 3, 2, 1, 0}}},
    {128, 16, 1, 1, {{21, 43, 95, 40, 0}}},
    {96, 4, 1, 2, {{40, 21, 33, 20, 0}, {1, 3, 0, 0, 0}}},
    {256, 2, 1, 1, {{35, 3, 20, 1, 0}}},
    {18, 3, 2, 2, {{70, 31, 40, 31, 0}, {50, 100, 0, 0, 37}}},
};

/* More than 16 rows of heads. */
static const struct shape small_prefill_shapes[] = {
    {128, 2, 1, 1, {{70, 37, 7, 33, 0}}}, {64, 4, 2, 2, {{40, 3, 0, 0, 0}, {9, 80, 40, 33, 0}}},
    {32, 7, 1, 1, {{23, 63, 0, 0, 50}}},  {96, 4, 1, 1, {{40, 21, 33, 20, 0}}},
    {256, 2, 1, 1, {{35, 3, 20, 1, 0}}},  {18, 3, 1, 1, {{30, 31, 0, 0, 37}}},
};

static void blocks_match_the_cpu_backend(void **state)
{
    const struct shape *shapes = small_run() ? small_prefill_shapes : prefill_shapes;
    const size_t n =
        small_run() ? SC_ARRAY_LEN(small_prefill_shapes) : SC_ARRAY_LEN(prefill_shapes);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        compare_with_twin(&shapes[i], SC_DTYPE_BF16, used(0xf), 300 + 2 * i);
        compare_with_twin(&shapes[i], SC_DTYPE_F32, used(0xc), 301 + 2 * i);
        compare_with_twin(&shapes[i], SC_DTYPE_I8, used(0xf), 300 + 2 * i);
    }
}

static void assert_same_rows(const struct scene *s, const float *a, const float *b, uint32_t row0,
                             uint32_t n, const char *what)
{
    size_t at = (size_t)row0 * s->width, bytes = (size_t)n * s->width * sizeof(float);
    if (memcmp(a + at, b + at, bytes) != 0)
        fail_msg("%s: rows %u + %u, %ux%u, differ by %g", what, row0, n,
                 s->sh->group * s->sh->n_kv_heads, s->sh->head_dim,
                 relative_error(a + at, b + at, (size_t)n * s->width));
}

/* The first sequence as two, cut behind row `cut`; as two calls. */
static void cut_and_compare(const struct scene *s, int math, int strict, uint32_t cut,
                            const float *whole)
{
    struct sc_attn_seq two[2] = {s->seqs[0], s->seqs[0]};
    float *parts;
    two[0].n_rows = cut;
    two[1].row0 += cut;
    two[1].pos0 += cut;
    two[1].n_rows -= cut;
    parts = attend(s, math, strict, two, 2, 2);
    assert_same_rows(s, parts, whole, two[0].row0, cut, "head of a cut block");
    assert_same_rows(s, parts, whole, two[1].row0, two[1].n_rows, "tail of a cut block");
    free(parts);
}

static const struct shape cut_shapes[] = {
    {128, 4, 1, 1, {{150, 37, 70, 33, 0}}}, {64, 8, 2, 1, {{90, 101, 0, 0, 70}}},
    {32, 7, 1, 1, {{80, 64, 0, 0, 33}}},    {96, 4, 1, 1, {{60, 21, 33, 20, 0}}},
    {128, 1, 1, 1, {{200, 0, 31, 0, 0}}},
};

/* What kernels on tensor cores read. */
static const enum sc_dtype short_dtypes[] = {SC_DTYPE_BF16, SC_DTYPE_I8};

static void how_a_block_is_cut_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * SC_ARRAY_LEN(cut_shapes); i++) {
        struct scene s;
        scene_open(&s, &cut_shapes[i / 2], short_dtypes[i % 2], 0xf, 400 + i / 2);
        for (int d = 0; d < 4; d++) {
            uint32_t n = s.n_rows;
            float *whole = attend(&s, d / 2, d % 2, s.seqs, 1, 1);
            /* Without strict, parts that are decoded by splits may differ. */
            cut_and_compare(&s, d / 2, d % 2, 17, whole);
            cut_and_compare(&s, d / 2, d % 2, n / 2, whole);
            if (d % 2 == 1) {
                cut_and_compare(&s, d / 2, d % 2, 1, whole);
                cut_and_compare(&s, d / 2, d % 2, n - 1, whole);
            }
            free(whole);
        }
        scene_close(&s);
    }
}

static void strict_decode_gives_the_bits_of_a_block(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * SC_ARRAY_LEN(cut_shapes); i++) {
        struct scene s;
        scene_open(&s, &cut_shapes[i / 2], short_dtypes[i % 2], 0xa, 500 + i / 2);
        for (int math = 0; math < 2; math++) {
            float *whole = attend(&s, math, 1, s.seqs, 1, 1);
            for (uint32_t row = 0; row < s.n_rows; row += 13) {
                struct sc_attn_seq one = s.seqs[0];
                one.row0 += row;
                one.pos0 += row;
                one.n_rows = 1;
                float *alone = attend(&s, math, 1, &one, 1, 1);
                assert_same_rows(&s, alone, whole, row, 1, "one row");
                free(alone);
            }
            free(whole);
        }
        scene_close(&s);
    }
}

static void other_sequences_of_the_call_change_nothing(void **state)
{
    static const struct shape mixed[] = {
        {128,
         4,
         2,
         5,
         {{1, 700, 250, 645, 0},
          {40, 75, 37, 33, 0},
          {1, 3, 0, 0, 0},
          {4, 99, 5, 64, 0},
          {1, 2300, 0, 0, 0}}},
        {64, 2, 1, 4, {{1, 90, 0, 0, 33}, {130, 40, 0, 0, 70}, {8, 700, 0, 0, 0}, {9, 1, 1, 0, 0}}},
        {96, 1, 2, 3, {{1, 700, 20, 0, 0}, {50, 3, 0, 0, 0}, {16, 31, 0, 0, 0}}},
    };
    (void)state;
    for (size_t i = 0; i < 2 * SC_ARRAY_LEN(mixed); i++) {
        const uint32_t n_seqs = mixed[i / 2].n_seqs;
        struct scene s;
        scene_open(&s, &mixed[i / 2], short_dtypes[i % 2], 0xf, 600 + i / 2);
        for (int d = 0; d < 4; d++) {
            float *all = attend(&s, d / 2, d % 2, s.seqs, n_seqs, 1);
            float *again = attend(&s, d / 2, d % 2, s.seqs, n_seqs, 1);
            float *alone = attend(&s, d / 2, d % 2, s.seqs, n_seqs, n_seqs);
            assert_same_rows(&s, again, all, 0, s.n_rows, "a second time");
            for (uint32_t j = 0; j < n_seqs; j++)
                assert_same_rows(&s, alone, all, s.seqs[j].row0, s.seqs[j].n_rows, "alone");
            free(all);
            free(again);
            free(alone);
        }
        scene_close(&s);
    }
}

/* Splits of the first sequence, and whether a call of the first n_seqs adds parts by a kernel of
 * their own. */
static uint32_t splits_and_place(const struct scene *s, uint32_t n_seqs, bool *ret_apart)
{
    uint32_t most = 0, n_rows = 0, first = 0;
    for (uint32_t i = 0; i < n_seqs; i++) {
        const struct sc_attn_seq *q = &s->seqs[i];
        const uint32_t end = pages_for(q->pos0 + q->n_rows);
        const uint32_t n = pages_for(q->n_cores) + end - q->exact_lo / SC_PAGE_ENTRIES;
        const uint32_t pages = sc_cuda_split_pages(n, s->sh->n_kv_heads),
                       splits = (n + pages - 1) / pages;
        first = i == 0 ? splits : first;
        most = splits > most ? splits : most;
        n_rows = q->n_rows > n_rows ? q->n_rows : n_rows;
    }
    n_rows = n_rows * s->sh->group < 16 ? n_rows * s->sh->group : 16;
    *ret_apart = sc_cuda_adds_apart(most, n_rows, s->sh->head_dim, n_seqs * s->sh->n_kv_heads);
    return first;
}

/* The first sequence, of whose parts the last block adds up all, and company with which a kernel of
 * its own does. Rows of which each thread of a block has columns, that leave threads for the splits
 * in groups, for which these find no memory, and that take several rounds; most splits and few. */
static void who_adds_parts_up_changes_no_bit(void **state)
{
    static const struct {
        struct shape sh;
        uint32_t n_splits;
    } cases[] = {
        {{128, 1, 1, 2, {{1, 32767, 0, 0, 0}, {16, 9, 0, 0, 0}}}, 128},
        {{128, 2, 1, 2, {{1, 31000, 40, 3, 0}, {8, 9, 0, 0, 0}}}, 122},
        {{128, 4, 2, 2, {{1, 16383, 0, 0, 0}, {20, 3, 0, 0, 0}}}, 64},
        {{128, 3, 1, 2, {{1, 8200, 1000, 777, 0}, {20, 3, 0, 0, 0}}}, 34},
        {{128, 16, 1, 2, {{1, 2047, 0, 0, 0}, {1, 4100, 0, 0, 0}}}, 16},
        {{128, 7, 1, 2, {{2, 1500, 90, 60, 0}, {1, 4700, 0, 0, 0}}}, 13},
        {{64, 2, 1, 2, {{1, 32767, 0, 0, 0}, {20, 3, 0, 0, 0}}}, 128},
        {{64, 4, 1, 2, {{1, 32767, 0, 0, 0}, {20, 3, 0, 0, 0}}}, 128},
        {{32, 16, 1, 2, {{1, 16383, 0, 0, 0}, {1, 16500, 0, 0, 0}}}, 64},
        {{32, 8, 1, 2, {{1, 33000, 0, 700, 0}, {2, 3, 0, 0, 0}}}, 127},
        {{32, 4, 1, 2, {{1, 32767, 0, 0, 0}, {4, 3, 0, 0, 0}}}, 128},
        {{32, 1, 1, 2, {{1, 32767, 0, 0, 0}, {16, 3, 0, 0, 0}}}, 128},
    };
    (void)state;
    for (size_t i = 0; i < 2 * SC_ARRAY_LEN(cases); i++) {
        const struct shape *sh = &cases[i / 2].sh;
        bool apart;
        if (small_run() && sh->runs[0].pos0 > LONG)
            continue;
        struct scene s;
        scene_open(&s, sh, short_dtypes[i % 2], 0x4, 700 + i / 2);
        assert_int_equal(splits_and_place(&s, 1, &apart), cases[i / 2].n_splits);
        assert_false(apart);
        (void)splits_and_place(&s, 2, &apart);
        assert_true(apart);
        float *here = attend(&s, 1, 0, s.seqs, 1, 1);
        float *there = attend(&s, 1, 0, s.seqs, 2, 1);
        assert_same_rows(&s, here, there, 0, sh->runs[0].n_rows, "added by the last block");
        assert_close("added by a kernel of its own", there, twin_result(&s),
                     (size_t)s.n_rows * s.width, TOLERANCE_BF16);
        free(here);
        free(there);
        scene_close(&s);
    }
}

/* Counts of parts are the same ones for all calls, whose sequences have 1 to 20 splits; with the
 * longest in the call, others have blocks without pages. */
static void each_call_counts_its_parts_anew(void **state)
{
    static const struct shape sh = {64,
                                    4,
                                    2,
                                    5,
                                    {{1, 4900, 0, 0, 0},
                                     {1, 90, 0, 0, 0},
                                     {3, 700, 33, 100, 0},
                                     {1, 2000, 0, 0, 200},
                                     {4, 1500, 0, 3, 0}}};
    static const struct shape small = {64,
                                       4,
                                       1,
                                       5,
                                       {{1, 2100, 0, 0, 0},
                                        {1, 90, 0, 0, 0},
                                        {3, 300, 33, 100, 0},
                                        {1, 800, 0, 0, 200},
                                        {4, 500, 0, 3, 0}}};
    /* First sequence of a call, and how many. */
    static const uint32_t calls[][2] = {{0, 1}, {2, 1}, {0, 5}, {3, 2}, {1, 1}, {4, 1},
                                        {0, 2}, {0, 1}, {1, 4}, {2, 1}, {3, 1}, {0, 5}};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(short_dtypes); i++) {
        struct scene s;
        scene_open(&s, small_run() ? &small : &sh, short_dtypes[i], 0x4, 800);
        const float *want = twin_result(&s);
        for (size_t c = 0; c < SC_ARRAY_LEN(calls); c++) {
            const struct sc_attn_seq *seqs = s.seqs + calls[c][0];
            float *got = attend(&s, 1, 0, seqs, calls[c][1], 1);
            for (uint32_t j = 0; j < calls[c][1]; j++) {
                const size_t at = (size_t)seqs[j].row0 * s.width;
                const double error =
                    relative_error(got + at, want + at, (size_t)seqs[j].n_rows * s.width);
                if (!(error < TOLERANCE_BF16))
                    fail_msg("call %zu, sequence %u of it: differs by %g", c, j, error);
            }
            free(got);
        }
        scene_close(&s);
    }
}

/* Groups of equal keys, each against one core with bias ln n and the mean value. */
static void check_equal_keys(int math, enum sc_dtype dtype, double tolerance)
{
    enum { HD = 64, GROUPS = 40, EACH = 5 };
    static const struct shape sh = {
        HD, 2, 1, 2, {{1, 0, GROUPS, 0, 0}, {1, 0, GROUPS * EACH, 0, 0}}};
    struct sc_backend *be = devices[math][0];
    struct rng r = {9};
    struct scene s;
    float k[HD], v[HD], mean[HD];

    scene_open(&s, &sh, dtype, 1u << (2 * math), 77);
    struct sc_kv_pool *pool = s.pools[math][0];
    for (uint32_t g = 0; g < GROUPS; g++) {
        memset(mean, 0, sizeof(mean));
        for (uint32_t d = 0; d < HD; d++)
            k[d] = rng_normal(&r);
        for (uint32_t j = 0; j < EACH; j++) {
            uint32_t at = g * EACH + j;
            for (uint32_t d = 0; d < HD; d++)
                v[d] = rng_normal(&r);
            to_kept_row(v, HD, dtype);
            for (uint32_t d = 0; d < HD; d++)
                mean[d] += v[d] / EACH;
            assert_ok(be->ops->kv_write(be, pool, s.seqs[1].core_pages[at / 32], at % 32, 0, k, v,
                                        0.0f, err));
        }
        assert_ok(be->ops->kv_write(be, pool, s.seqs[0].core_pages[g / 32], g % 32, 0, k, mean,
                                    logf(EACH), err));
    }
    for (uint32_t i = 0; i < 2; i++) /* the same last position and the same query */
        assert_ok(be->ops->kv_write(be, pool, s.seqs[i].exact_pages[0], 0, 0, k, v, 0.0f, err));
    memcpy(s.q + s.width, s.q, s.width * sizeof(float));
    float *out = attend(&s, math, 0, s.seqs, 2, 1);
    double worst = 0.0;
    for (uint32_t d = 0; d < s.width; d++)
        worst = fmax(worst, fabs((double)out[d] - out[s.width + d]));
    printf("  equal keys, %s: %.2e (limit %.0e)\n", sc_dtype_name(dtype), worst, tolerance);
    assert_true(worst < tolerance);
    free(out);
    scene_close(&s);
}

/* bf16: means are rounded (values of about 0.5 by 1e-3 at random, some 40 of them averaged), and
 * weights are, which are not the same ones on both sides. int8: means are rounded to 1/127 of their
 * largest, by up to 4e-3. */
static void a_core_of_equal_keys_weighs_as_much_as_its_members(void **state)
{
    (void)state;
    check_equal_keys(0, SC_DTYPE_F32, 1e-6);
    check_equal_keys(1, SC_DTYPE_BF16, 3e-3);
    check_equal_keys(0, SC_DTYPE_I8, 4e-3);
    check_equal_keys(1, SC_DTYPE_I8, 5e-3);
}

static void large_scores_neither_overflow_nor_vanish(void **state)
{
    /* The second in splits of eight pages, so that a warp has two. */
    static const struct shape sh = {64, 4, 1, 2, {{60, 500, 100, 0, 0}, {1, 2100, 40, 0, 0}}};
    (void)state;
    for (int i = 0; i < 4; i++) {
        const int math = i / 2;
        struct scene s;
        scene_open(&s, &sh, short_dtypes[i % 2], small_run() ? 1u << 2 * math : 0x5, 88);
        /* Scores of some hundreds; powers of two, so that rounding to bf16 stays the same. */
        for (size_t j = 0; j < (size_t)s.n_rows * s.width; j++)
            s.q[j] = to_dtype(s.q[j], SC_DTYPE_BF16) * 64.0f;
        float *got = attend(&s, math, 0, s.seqs, 2, 1);
        assert_close(math == 1 ? "large scores, bf16" : "large scores, f32", got, twin_result(&s),
                     (size_t)s.n_rows * s.width, math == 1 ? TOLERANCE_BF16 : 2e-4);
        free(got);
        scene_close(&s);
    }
}

/* The product of the result with w. */
static float *attend_and_multiply(const struct scene *s, struct sc_backend *be, struct sc_matrix *w,
                                  uint32_t n_out, bool told)
{
    const size_t bytes = (size_t)s->n_rows * s->width * 4, y_bytes = (size_t)s->n_rows * n_out * 4;
    float *q = on_device(be, s->q, bytes), *out = on_device(be, NULL, bytes);
    float *y = on_device(be, NULL, y_bytes);
    struct sc_attn_args args = args_of(s, s->seqs, s->sh->n_seqs);

    args.q = q;
    args.out = out;
    args.pool = s->pools[1][0];
    args.next = told ? w : NULL;
    assert_ok(be->ops->attention(be, &args, err));
    assert_ok(be->ops->matmul(be, w, out, s->width, y, n_out, s->n_rows, err));
    float *got = from_device(be, y, y_bytes);
    be->ops->free(be, q);
    be->ops->free(be, out);
    be->ops->free(be, y);
    return got;
}

/* Of one row and of several, by splits of one part, of several and of many, by blocks, by the plain
 * kernels. */
static void a_told_reader_gets_the_same(void **state)
{
    enum { OUT = 40 };
    static const struct shape shapes[] = {
        {64, 2, 1, 1, {{1, 40, 0, 0, 0}}},
        {128, 4, 1, 2, {{1, 90, 0, 0, 0}, {1, 16383, 0, 0, 0}}},
        {128, 4, 2, 2, {{1, 16390, 0, 0, 0}, {1, 30, 0, 0, 0}}},
        {128, 2, 2, 3, {{130, 40, 0, 0, 0}, {1, 700, 250, 645, 0}, {8, 3, 0, 0, 0}}},
        {32, 2, 1, 1, {{40, 10, 0, 0, 0}}},
        {96, 1, 2, 3, {{1, 700, 20, 0, 0}, {50, 3, 0, 0, 0}, {16, 31, 0, 0, 0}}},
        {18, 1, 1, 2, {{9, 5, 0, 0, 0}, {40, 3, 0, 0, 0}}}, /* rows that have no image */
    };
    struct sc_backend *be = devices[1][0];
    struct rng r = {9};
    (void)state;
    for (size_t i = 0; i < 2 * SC_ARRAY_LEN(shapes); i++) {
        struct scene s;
        if (small_run() && shapes[i / 2].runs[0].pos0 + shapes[i / 2].runs[1].pos0 > LONG)
            continue;
        scene_open(&s, &shapes[i / 2], short_dtypes[i % 2], 0x4, 800 + i / 2);
        float *w = random_floats(&r, (size_t)OUT * s.width);
        struct sc_matrix_part part = {w, SC_DTYPE_F32, OUT, s.width, 0};
        struct sc_matrix *m = NULL;
        assert_ok(be->ops->matrix_open(be, &part, 1, s.width, NULL, SC_DTYPE_BF16, &m, err));
        float *told = attend_and_multiply(&s, be, m, OUT, true);
        float *not_told = attend_and_multiply(&s, be, m, OUT, false);
        assert_memory_equal(told, not_told, (size_t)s.n_rows * OUT * 4);
        assert_true(isfinite(told[0]));
        be->ops->matrix_close(be, m);
        free(told);
        free(not_told);
        free(w);
        scene_close(&s);
    }
}

static void bad_arguments_are_refused(void **state)
{
    static const struct shape sh = {16, 2, 2, 1, {{1, 39, 5, 0, 0}}};
    struct sc_backend *be = devices[1][0];
    struct scene s;
    (void)state;
    scene_open(&s, &sh, SC_DTYPE_BF16, 0x4, 99);
    size_t bytes = (size_t)s.width * sizeof(float);
    float *q = on_device(be, s.q, bytes), *out = on_device(be, NULL, bytes);
    struct sc_attn_seq seq = s.seqs[0];
    struct sc_attn_args good = args_of(&s, &seq, 1), bad;

    good.q = q;
    good.out = out;
    good.pool = s.pools[1][0];
    assert_ok(be->ops->attention(be, &good, err));
    bad = good;
    bad.n_heads = 3;
    assert_fails(SC_EINVAL, be->ops->attention(be, &bad, err));
    bad = good;
    bad.head_dim = 8;
    assert_fails(SC_EINVAL, be->ops->attention(be, &bad, err));
    bad = good;
    bad.q_stride = s.width - 1;
    assert_fails(SC_EINVAL, be->ops->attention(be, &bad, err));
    bad = good;
    bad.pool = NULL;
    assert_fails(SC_EINVAL, be->ops->attention(be, &bad, err));
    seq.exact_lo = 40;
    assert_fails(SC_EINVAL, be->ops->attention(be, &good, err));
    seq.exact_lo = 0;
    seq.window = 4;
    assert_fails(SC_EINVAL, be->ops->attention(be, &good, err));
    seq.window = 0;
    seq.n_cores = 33 * SC_PAGE_ENTRIES;
    assert_fails(SC_EINVAL, be->ops->attention(be, &good, err));
    seq.n_cores = 5;
    s.tables[1][1] = 1000;
    assert_fails(SC_EINVAL, be->ops->attention(be, &good, err));
    be->ops->free(be, q);
    be->ops->free(be, out);
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_matches_the_cpu_backend),
        cmocka_unit_test(long_contexts_match_the_cpu_backend),
        cmocka_unit_test(blocks_match_the_cpu_backend),
        cmocka_unit_test(how_a_block_is_cut_changes_nothing),
        cmocka_unit_test(strict_decode_gives_the_bits_of_a_block),
        cmocka_unit_test(other_sequences_of_the_call_change_nothing),
        cmocka_unit_test(who_adds_parts_up_changes_no_bit),
        cmocka_unit_test(each_call_counts_its_parts_anew),
        cmocka_unit_test(a_core_of_equal_keys_weighs_as_much_as_its_members),
        cmocka_unit_test(large_scores_neither_overflow_nor_vanish),
        cmocka_unit_test(a_told_reader_gets_the_same),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, open_all, close_all);
}
