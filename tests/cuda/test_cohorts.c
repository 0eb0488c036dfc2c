/* Who reads what together: on the host alone. */
#include "tests/cpu/support.h"

#include "cuda/cohorts.h"
#include "cuda/seqs.h"
#include "cuda/splits.h"

#define SEQS   300u
#define LAYERS 3u
#define PAGES  80u /* room for one sequence's */

struct rig {
    struct sc_cuda_seq seqs[LAYERS * SEQS];
    uint32_t tables[LAYERS * SEQS * PAGES];
    struct sc_cuda_cohort cohorts[LAYERS * SC_CUDA_COHORT_SEQS / 2];
    uint32_t members[SEQS];
    struct sc_cuda_cohort_bounds bounds;
    uint32_t n_seqs;
};

static struct rig *rig_open(uint32_t n_seqs)
{
    struct rig *r = calloc(1, sizeof(*r));
    r->n_seqs = n_seqs;
    return r;
}

/* Sequence i of a layer: its first pages are those of `doc`, the others its own; all exact. */
static struct sc_cuda_seq *put(struct rig *r, uint32_t layer, uint32_t i, uint32_t doc,
                               uint32_t n_common, uint32_t n_pages)
{
    struct sc_cuda_seq *seq = &r->seqs[layer * r->n_seqs + i];
    *seq = (struct sc_cuda_seq){.row0 = i,
                                .n_rows = 1,
                                .pos0 = n_pages * SC_PAGE_ENTRIES - 1,
                                .table = (layer * SEQS + i) * PAGES,
                                .n_pages = n_pages,
                                .split_pages = sc_cuda_split_pages(n_pages, 1)};
    for (uint32_t p = 0; p < n_pages; p++)
        r->tables[seq->table + p] =
            p < n_common ? 1000 * layer + 100 * doc + p : 1000000 + seq->table + p;
    return seq;
}

static void find(struct rig *r, uint32_t n_layers)
{
    sc_cuda_cohorts_find(r->seqs, r->tables, r->n_seqs, n_layers, r->cohorts, r->members,
                         &r->bounds);
}

static void assert_cohort(const struct rig *r, uint32_t layer, uint32_t i, uint32_t n,
                          uint32_t n_shared)
{
    const struct sc_cuda_cohort *c = &r->cohorts[layer * r->bounds.n_cohorts + i];
    assert_true(i < r->bounds.n_cohorts);
    assert_int_equal(c->n, n);
    assert_int_equal(c->n_shared, n_shared);
    for (uint32_t m = 0; m < n; m++)
        assert_int_equal(r->seqs[layer * r->n_seqs + r->members[c->first + m]].n_shared, n_shared);
}

static void questions_in_turn_are_put_together(void **state)
{
    struct rig *r = rig_open(30);
    (void)state;
    for (uint32_t i = 0; i < 30; i++)
        put(r, 0, i, i % 3, i % 3 == 2 ? 0 : 30 + i % 3 * 8, 41 + i % 20);
    put(r, 0, 0, 0, 30, 70); /* has larger splits */
    put(r, 0, 1, 1, 38, 40)->n_rows = 2;
    put(r, 0, 3, 0, 30, 40)->window = 500;
    find(r, 1);
    assert_int_equal(r->bounds.n_cohorts, 2);
    assert_cohort(r, 0, 0, 9, 9); /* document 1 saves more */
    assert_cohort(r, 0, 1, 8, 7);
    for (uint32_t m = 0; m < 9; m++)
        assert_int_equal(r->members[m] % 3, 1);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(r->seqs[i].n_shared, 0);
    assert_int_equal(r->bounds.max_members, 9);
    assert_int_equal(r->bounds.max_shared, 9);
    assert_int_equal(r->bounds.max_own, 15); /* of those that read alone: 60 pages */
    free(r);
}

/* Ten about a document, of whom six share more with each other. */
static void what_saves_most_is_chosen(void **state)
{
    struct rig *r = rig_open(10);
    (void)state;
    for (uint32_t i = 0; i < 10; i++) {
        const struct sc_cuda_seq *seq = put(r, 0, i, 0, 16, 60);
        for (uint32_t p = 16; p < 44 && i % 5 > 1; p++)
            r->tables[seq->table + p] = 5000 + p;
    }
    find(r, 1);
    assert_int_equal(r->bounds.n_cohorts, 1);
    assert_cohort(r, 0, 0, 6, 11); /* 5 * 44 pages rather than 9 * 16 */
    for (uint32_t i = 0; i < 10; i++)
        put(r, 0, i, 0, 16, 60);
    find(r, 1);
    assert_cohort(r, 0, 0, 10, 4);
    free(r);
}

static void what_saves_little_is_read_alone(void **state)
{
    struct rig *r = rig_open(9);
    (void)state;
    for (uint32_t i = 0; i < 9; i++)
        put(r, 0, i, 0, 19, 60); /* four whole splits: 8 * 16 pages */
    find(r, 1);
    assert_int_equal(r->bounds.n_cohorts, 1);
    put(r, 0, 8, 1, 19, 60);
    find(r, 1);
    assert_int_equal(r->bounds.n_cohorts, 0);
    assert_int_equal(r->bounds.max_own, 0);
    free(r);
}

/* The same pages, of which not all see the same. */
static void what_is_not_seen_alike_is_not_shared(void **state)
{
    static const struct {
        uint32_t n_cores[2], exact_lo[2], n_shared;
    } cases[] = {
        {{20 * 32, 20 * 32}, {70, 70}, 9},     {{20 * 32 - 5, 20 * 32 - 5}, {70, 70}, 9},
        {{20 * 32, 20 * 32}, {70, 71}, 5},     {{20 * 32, 21 * 32}, {70, 70}, 5},
        {{20 * 32 - 5, 20 * 32}, {70, 70}, 4}, {{20 * 32 - 5, 20 * 32 - 6}, {70, 70}, 4},
    };
    struct rig *r = rig_open(40);
    (void)state;
    for (size_t c = 0; c < SC_ARRAY_LEN(cases); c++) {
        for (uint32_t i = 0; i < 40; i++) {
            struct sc_cuda_seq *seq = put(r, 0, i, 0, 38, 60);
            seq->n_cores = cases[c].n_cores[i / 20];
            seq->exact_lo = cases[c].exact_lo[i / 20];
            seq->n_core_pages = (seq->n_cores + 31) / 32;
            seq->exact_page0 = seq->exact_lo / 32;
        }
        find(r, 1);
        assert_true(r->bounds.n_cohorts >= 1);
        if (cases[c].n_shared == 9)
            assert_cohort(r, 0, 0, 40, 9);
        else /* 39 * 20 pages, or twice 19 * 36 */
            assert_cohort(r, 0, 0, 39 * cases[c].n_shared > 19 * 9 ? 40 : 20,
                          39 * cases[c].n_shared > 19 * 9 ? cases[c].n_shared : 9);
    }
    free(r);
}

static void a_sequence_keeps_its_last_split(void **state)
{
    struct rig *r = rig_open(20);
    (void)state;
    for (uint32_t i = 0; i < 20; i++)
        put(r, 0, i, 0, 12, 12); /* all the same, to the end of the last page */
    find(r, 1);
    assert_cohort(r, 0, 0, 20, 2);
    assert_int_equal(r->bounds.max_own, 1);
    free(r);
}

static void layers_share_what_they_can(void **state)
{
    struct rig *r = rig_open(10);
    (void)state;
    for (uint32_t i = 0; i < 10; i++) {
        put(r, 0, i, 0, 30, 40)->window = 1;
        put(r, 1, i, 0, 30, 40);
        put(r, 2, i, 0, i == 4 ? 13 : 30, 40);
    }
    find(r, 3);
    assert_cohort(r, 0, 0, 10, 0);
    assert_cohort(r, 1, 0, 10, 7);
    assert_cohort(r, 2, 0, 10, 3);
    assert_int_equal(r->bounds.max_shared, 7);
    assert_int_equal(r->bounds.max_own, 10); /* under the window */
    put(r, 2, 4, 0, 0, 40);
    find(r, 3);
    assert_cohort(r, 2, 0, 10, 0);
    free(r);
}

static void more_sequences_than_may_be_members_read_alone(void **state)
{
    struct rig *r = rig_open(SEQS);
    uint32_t n = 0;
    (void)state;
    for (uint32_t i = 0; i < SEQS; i++)
        put(r, 0, i, i % 2, 79, 80);
    find(r, 1);
    assert_int_equal(r->bounds.n_cohorts, 2);
    assert_int_equal(r->bounds.max_members, SC_CUDA_COHORT_SEQS / 2);
    for (uint32_t i = 0; i < SEQS; i++)
        n += r->seqs[i].n_shared == 9;
    assert_int_equal(n, SC_CUDA_COHORT_SEQS);
    free(r);
}

static void rounded_bounds_are_few_and_no_less(void **state)
{
    uint32_t distinct[2] = {0}, last[2] = {0};
    (void)state;
    for (uint32_t i = 1; i <= SC_CUDA_ATTN_SPLITS_MAX; i++) {
        const struct sc_cuda_cohort_bounds b = {2, i + 1, i, i};
        const struct sc_cuda_cohort_bounds r = sc_cuda_cohort_bounds_round(&b);
        assert_int_equal(r.n_cohorts, 2);
        assert_true(r.max_members > i && r.max_members <= 2 * i);
        assert_true(r.max_shared >= i && r.max_shared <= i + 3 + i / 4);
        assert_true(r.max_shared <= SC_CUDA_ATTN_SPLITS_MAX);
        assert_int_equal(r.max_own, r.max_shared);
        distinct[0] += r.max_members != last[0];
        distinct[1] += r.max_own != last[1];
        last[0] = r.max_members;
        last[1] = r.max_own;
    }
    assert_true(distinct[0] <= 8 && distinct[1] <= 16);
}

static void no_sequence_has_more_splits_than_its_grid(void **state)
{
    (void)state;
    for (uint32_t heads = 1; heads <= 130; heads += heads < 20 ? 1 : 11) {
        uint32_t most = 0;
        for (uint32_t n = 1; n <= 5000; n++) {
            const uint32_t pages = sc_cuda_split_pages(n, heads), splits = (n + pages - 1) / pages;
            const uint32_t bound = sc_cuda_splits_bound(n, heads);
            most = splits > most ? splits : most;
            assert_true(most <= bound && bound <= sc_cuda_most_splits(heads));
            assert_true(bound <= SC_CUDA_ATTN_SPLITS_MAX && pages % 2 == 0);
            /* A long one has about as many blocks as run at once. */
            if (n > 2000 && heads > 2 && heads < 25)
                assert_in_range(splits * heads, SC_CUDA_ATTN_BLOCKS * 7 / 8, SC_CUDA_ATTN_BLOCKS);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(questions_in_turn_are_put_together),
        cmocka_unit_test(what_saves_most_is_chosen),
        cmocka_unit_test(what_saves_little_is_read_alone),
        cmocka_unit_test(what_is_not_seen_alike_is_not_shared),
        cmocka_unit_test(a_sequence_keeps_its_last_split),
        cmocka_unit_test(layers_share_what_they_can),
        cmocka_unit_test(more_sequences_than_may_be_members_read_alone),
        cmocka_unit_test(rounded_bounds_are_few_and_no_less),
        cmocka_unit_test(no_sequence_has_more_splits_than_its_grid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
