/* The list of free pages against one that is searched from end to end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shard/pages.h"

/* Below n. */
static uint32_t pick(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % n);
}

static uint32_t lowest_free(const uint8_t *taken, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!taken[i])
            return i;
    return n;
}

/* Fills and empties the pool by turns, with pages held once or twice, by sequences and snapshots.
 */
static void turns(uint32_t n)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_pages pages;
    uint8_t *taken = calloc(n, 1); /* 1: a sequence's, 2: a snapshot's, 3: both */
    uint64_t state = n;
    uint32_t n_taken = 0;

    assert_int_equal(sc_pages_open(&pages, n, &err), SC_OK);
    for (uint32_t i = 0; i < 4 * n + 1000; i++) {
        const bool fill = i / (n + 10) % 2 == 0 ? pick(&state, 4) != 0 : pick(&state, 4) == 0;
        if (fill && n_taken < n) {
            const uint32_t want = lowest_free(taken, n);
            const bool snap = pick(&state, 2) == 0;
            assert_int_equal(snap ? sc_pages_snap_take(&pages) : sc_pages_take(&pages), want);
            taken[want] = snap ? 2 : 1;
            n_taken++;
        } else if (!fill) {
            const uint32_t page = pick(&state, n);
            if (taken[page] == 1 && pick(&state, 3) == 0) {
                sc_pages_snap_ref(&pages, page);
                taken[page] = 3;
            } else if ((taken[page] & 1) != 0) {
                sc_pages_unref(&pages, page);
                taken[page] &= 2;
                n_taken -= taken[page] == 0;
            } else if (taken[page] == 2) {
                sc_pages_snap_unref(&pages, page);
                taken[page] = 0;
                n_taken--;
            }
        }
        assert_int_equal(pages.n_free, n - n_taken);
    }
    uint32_t n_cached = 0;
    for (uint32_t i = 0; i < n; i++)
        n_cached += taken[i] == 2;
    assert_int_equal(pages.n_cached, n_cached);
    sc_pages_reset(&pages);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(sc_pages_take(&pages), i);
    assert_int_equal(pages.n_free, 0);
    sc_pages_close(&pages);
    free(taken);
}

static void the_lowest_free_page_is_taken(void **state)
{
    static const uint32_t sizes[] = {1, 2, 63, 64, 65, 129, 4095, 4096, 4097, 9000};
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        turns(sizes[i]);
}

static void a_page_is_marked_once(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_pages pages;
    (void)state;
    assert_int_equal(sc_pages_open(&pages, 130, &err), SC_OK);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 130; i += 3)
            assert_true(sc_pages_mark(&pages, i));
        for (uint32_t i = 0; i < 130; i++)
            assert_int_equal(sc_pages_mark(&pages, i), i % 3 != 0);
        sc_pages_unmark_all(&pages);
    }
    sc_pages_close(&pages);
}

/* Of random pages that sequences and a snapshot take and give back, at random. */
static void marked_pages_are_counted_while_they_are_cached(void **state)
{
    enum { N = 100 };
    struct sc_err err = SC_ERR_INIT;
    struct sc_pages pages;
    uint32_t seqs[N] = {0}, snaps[N] = {0};
    bool marked[N] = {false};
    uint64_t x = 7;
    (void)state;
    assert_int_equal(sc_pages_open(&pages, N, &err), SC_OK);
    for (uint32_t step = 0; step < 20000; step++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        const uint32_t i = (uint32_t)(x >> 33) % N, what = (uint32_t)(x >> 60) % 8;
        if (seqs[i] + snaps[i] == 0) {
            if (pages.n_free > 0 && what < 2) {
                const uint32_t page =
                    what == 0 ? sc_pages_take(&pages) : sc_pages_snap_take(&pages);
                (what == 0 ? seqs : snaps)[page] = 1;
                assert_false(marked[page]);
            }
        } else if (what == 2) {
            sc_pages_ref(&pages, i);
            seqs[i]++;
        } else if (what == 3) {
            sc_pages_snap_ref(&pages, i);
            snaps[i]++;
        } else if (what == 4) {
            assert_int_equal(sc_pages_mark(&pages, i), !marked[i]);
            marked[i] = true;
        } else if (what >= 5 && seqs[i] > 0) {
            sc_pages_unref(&pages, i);
            seqs[i]--;
        } else if (what >= 5) {
            sc_pages_snap_unref(&pages, i);
            snaps[i]--;
        }
        uint32_t n = 0;
        marked[i] = marked[i] && seqs[i] + snaps[i] > 0;
        for (uint32_t p = 0; p < N; p++)
            n += marked[p] && seqs[p] == 0 && snaps[p] > 0;
        assert_int_equal(pages.n_marked_cached, n);
    }
    sc_pages_reset(&pages);
    assert_int_equal(pages.n_marked_cached, 0);
    sc_pages_close(&pages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_free_page_is_taken),
        cmocka_unit_test(a_page_is_marked_once),
        cmocka_unit_test(marked_pages_are_counted_while_they_are_cached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
