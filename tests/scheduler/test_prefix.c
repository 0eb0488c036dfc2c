/* The prefix tree with many prompts of one namespace. Its use by requests: test_sharing.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/prefix.h"

#define N_PROMPTS 2000u
#define LEN       SC_PREFIX_BLOCK

struct tree {
    struct sc_prefix *p;
    struct sc_prefix_root root;
};

static int open_tree(void **state)
{
    static struct tree t;
    struct sc_err err = SC_ERR_INIT;
    const struct sc_hash none = {{0}};
    const struct sc_recipe recipe = {.mode = SC_KV_EXACT};
    assert_int_equal(sc_prefix_open(N_PROMPTS, N_PROMPTS + 8, NULL, &t.p, &err), SC_OK);
    t.root = sc_prefix_root(&none, &none, "tenant", &recipe, LEN);
    *state = &t;
    return 0;
}

static int close_tree(void **state)
{
    sc_prefix_close(((struct tree *)*state)->p);
    return 0;
}

/* The first n_same tokens are those of every prompt. */
static void write_prompt(int32_t *tokens, uint32_t n_same, uint32_t which)
{
    for (uint32_t i = 0; i < LEN; i++)
        tokens[i] = (int32_t)(sc_mix64(i + (i < n_same ? 0 : 1000ull * (which + 1))) % 50000);
}

static uint32_t insert(struct tree *t, const int32_t *tokens, uint32_t n)
{
    uint32_t snap, node = sc_prefix_hold(t->p, &t->root, tokens, n, 1);
    assert_true(node != SC_NODE_NONE && sc_prefix_snap_take(t->p, node, &snap));
    sc_prefix_snap_live(t->p, node, 1, 1, 1);
    sc_prefix_unhold(t->p, node);
    return node;
}

static void insert_all(struct tree *t, uint32_t n_same)
{
    int32_t tokens[LEN];
    for (uint32_t i = 0; i < N_PROMPTS; i++) {
        write_prompt(tokens, n_same, i);
        insert(t, tokens, LEN);
    }
}

static void the_eldest_of_many_is_found_where_a_prompt_leaves_it(void **state)
{
    struct tree *t = *state;
    int32_t tokens[LEN];
    insert_all(t, 0);
    for (uint32_t which = 0; which < N_PROMPTS; which += 97) {
        write_prompt(tokens, 0, which);
        tokens[300] = 50001;
        assert_int_equal(sc_prefix_find(t->p, &t->root, tokens, LEN, LEN - 1, 2).n, 300);
    }
}

static void many_that_begin_alike_give_what_they_have_in_common(void **state)
{
    struct tree *t = *state;
    int32_t tokens[LEN];
    insert_all(t, 100);
    write_prompt(tokens, 100, N_PROMPTS);
    assert_int_equal(sc_prefix_find(t->p, &t->root, tokens, LEN, LEN - 1, 2).n, 100);
}

static void what_was_dropped_is_found_no_more(void **state)
{
    struct tree *t = *state;
    int32_t tokens[LEN];
    insert_all(t, 0);
    for (uint32_t i = 0; i < N_PROMPTS; i++) {
        uint32_t victim = sc_prefix_victim(t->p);
        assert_int_not_equal(victim, SC_NODE_NONE);
        sc_prefix_snap_give(t->p, sc_prefix_snap_remove(t->p, victim));
    }
    assert_int_equal(sc_prefix_victim(t->p), SC_NODE_NONE);
    write_prompt(tokens, 0, 5);
    assert_int_equal(sc_prefix_find(t->p, &t->root, tokens, LEN, LEN, 3).node, SC_NODE_NONE);
    insert(t, tokens, LEN);
    assert_int_equal(sc_prefix_find(t->p, &t->root, tokens, LEN, LEN, 4).n, LEN);
}

/* A request that ends where another did holds that node without looking it up. */
static void what_was_used_last_goes_last_however_it_was_used(void **state)
{
    struct tree *t = *state;
    int32_t tokens[3][LEN];
    uint32_t nodes[3];
    for (uint32_t i = 0; i < 3; i++) {
        write_prompt(tokens[i], 0, i);
        nodes[i] = insert(t, tokens[i], LEN);
    }
    assert_int_equal(sc_prefix_victim(t->p), nodes[0]);
    sc_prefix_unhold(t->p, sc_prefix_hold(t->p, &t->root, tokens[0], LEN, 10));
    assert_int_equal(sc_prefix_victim(t->p), nodes[1]);
    assert_int_equal(sc_prefix_idle(t->p, 5), nodes[1]);
    sc_prefix_lock(t->p, nodes[1]); /* one that is in use does not keep the others */
    assert_int_equal(sc_prefix_idle(t->p, 5), nodes[2]);
    assert_int_equal(sc_prefix_find(t->p, &t->root, tokens[2], LEN, LEN, 20).n, LEN);
    assert_int_equal(sc_prefix_idle(t->p, 5), SC_NODE_NONE);
    assert_int_equal(sc_prefix_idle(t->p, 15), nodes[0]);
    sc_prefix_unlock(t->p, nodes[1]);
    assert_int_equal(sc_prefix_idle(t->p, 5), nodes[1]);
}

static void compressed_blocks_end_where_prompts_are_cut_in_any_case(void **state)
{
    const struct sc_hash none = {{0}};
    const struct sc_recipe recipe = {.mode = SC_KV_COMPRESSED, .window = 256, .epoch = 512};
    const struct sc_prefix_root root = sc_prefix_root(&none, &none, "", &recipe, 4 * LEN);
    uint32_t before = 0;
    (void)state;
    assert_int_equal(sc_prefix_boundary(&root, 0), LEN); /* not before: nothing is compressed */
    for (uint32_t pos = 0; pos < 4 * LEN; pos++) {
        uint32_t end = sc_prefix_boundary(&root, pos);
        assert_in_range(end, pos + 1, before + LEN);
        assert_int_equal(sc_prefix_boundary_before(&root, pos), before);
        if (pos >= LEN)
            assert_int_equal(end, sc_recipe_next_cut(&recipe, 4 * LEN, pos));
        before = pos + 1 == end ? end : before;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compressed_blocks_end_where_prompts_are_cut_in_any_case),
        cmocka_unit_test_setup_teardown(the_eldest_of_many_is_found_where_a_prompt_leaves_it,
                                        open_tree, close_tree),
        cmocka_unit_test_setup_teardown(many_that_begin_alike_give_what_they_have_in_common,
                                        open_tree, close_tree),
        cmocka_unit_test_setup_teardown(what_was_dropped_is_found_no_more, open_tree, close_tree),
        cmocka_unit_test_setup_teardown(what_was_used_last_goes_last_however_it_was_used, open_tree,
                                        close_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
