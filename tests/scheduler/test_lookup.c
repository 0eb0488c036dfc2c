/* What a lookup says about a prompt: how much is cached, and why not more; never of strangers. */
#include <string.h>

#include "tests/scheduler/sharing_rig.h"

static struct sc_lookup look(struct server *s, struct sc_request_opts o)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_lookup l;
    must(sc_sched_lookup(s->sched, &o, &l, &err), &err);
    assert_int_equal(l.n_prompt, o.n_prompt);
    return l;
}

/* Reads it, and waits until what it keeps is there. */
static struct answer read_it(struct server *s, struct sc_request_opts o)
{
    struct sc_err err = SC_ERR_INIT;
    o.max_tokens = 1;
    struct answer a = run(s, o);
    struct sc_prefix_item item = {.op = SC_PREFIX_QUERY};
    must(sc_sched_prefixes(s->sched, &item, 1, &err), &err); /* after all that is to be kept */
    return a;
}

static void it_finds_what_a_request_finds(void **state)
{
    struct server s;
    int32_t ids[1000];
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    uint32_t vocab = s.rig.model->config.vocab;
    for (uint32_t kv = SC_KV_CHOICE_EXACT; kv <= SC_KV_CHOICE_COMPRESSED; kv++) {
        prompt_of(ids, 1000, vocab, 1 + kv, 1000, 0);
        struct sc_request_opts o = ask(&s, ids, 1000, (enum sc_kv_choice)kv);
        struct sc_lookup l = look(&s, o);
        assert_int_equal(l.cached_tokens, 0);
        struct answer first = read_it(&s, o);
        assert_memory_equal(&l.recipe_id, &first.receipt.recipe_id, sizeof(l.recipe_id));
        l = look(&s, o);
        assert_int_equal(l.miss, SC_MISS_NONE);
        assert_int_equal(l.cached_tokens, 999);
        for (uint32_t split = 900; split > 97; split -= 97) {
            ids[split] = (ids[split] + 1) % (int32_t)vocab;
            l = look(&s, o);
            assert_int_equal(l.miss, SC_MISS_OTHER_TOKENS);
            assert_int_equal(l.position, split);
            assert_true(l.has_tokens);
            assert_int_equal(l.prompt_token, ids[split]);
            assert_int_equal(l.held_token, (ids[split] + (int32_t)vocab - 1) % (int32_t)vocab);
            struct sc_lookup again = look(&s, o); /* looking changes nothing */
            assert_memory_equal(&l, &again, sizeof(l));
            assert_int_equal(read_it(&s, o).receipt.cached_tokens, l.cached_tokens);
            prompt_of(ids, 1000, vocab, 1 + kv, 1000, 0);
        }
    }
    server_close(&s);
}

static void it_says_why(void **state)
{
    struct server s, off;
    int32_t ids[1100];
    uint64_t pages;
    struct sc_err err = SC_ERR_INIT;
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    uint32_t vocab = s.rig.model->config.vocab;
    prompt_of(ids, 1100, vocab, 1, 1100, 0);
    struct sc_request_opts exact = ask(&s, ids, 1000, SC_KV_CHOICE_EXACT);
    struct sc_request_opts compressed = ask(&s, ids, 1000, SC_KV_CHOICE_COMPRESSED);
    assert_int_equal(look(&s, exact).miss, SC_MISS_NEVER_READ);
    struct answer a = read_it(&s, compressed);
    struct sc_lookup l = look(&s, exact);
    assert_int_equal(l.miss, SC_MISS_OTHER_RECIPE);
    assert_int_equal(l.other_tokens, 999);
    assert_int_equal(l.cached_tokens, 0);
    assert_memory_equal(&l.other_recipe_id, &a.receipt.recipe_id, sizeof(a.receipt.recipe_id));
    struct sc_request_opts longer = ask(&s, ids, 1100, SC_KV_CHOICE_COMPRESSED);
    l = look(&s, longer);
    assert_int_equal(l.miss, SC_MISS_NEVER_READ);
    assert_int_equal(l.position, 1000);
    assert_int_equal(l.cached_tokens, 1000);
    struct sc_request_opts few = ask(&s, ids, 16, SC_KV_CHOICE_EXACT);
    assert_int_equal(look(&s, few).miss, SC_MISS_SHORT);
    few.n_prompt = 1;
    assert_int_equal(look(&s, few).miss, SC_MISS_NONE);
    must(sc_sched_flush(s.sched, &pages, &err), &err);
    l = look(&s, compressed);
    assert_int_equal(l.miss, SC_MISS_EVICTED);
    assert_int_equal(l.cached_tokens, 0);
    assert_int_equal(look(&s, exact).miss, SC_MISS_NEVER_READ); /* it never was, with this recipe */
    compressed.recipe.exact_then_compress = true;
    (void)read_it(&s, compressed);
    compressed.n_prompt = 990;
    l = look(&s, compressed);
    assert_int_equal(l.miss, SC_MISS_OTHER_LENGTH);
    assert_true(l.other_tokens > 500 && l.cached_tokens == 0);
    server_close(&s);
    server_open(&off, 1, false, 0, NULL);
    assert_int_equal(look(&off, ask(&off, ids, 1000, SC_KV_CHOICE_EXACT)).miss,
                     SC_MISS_SHARING_OFF);
    sc_sched_close(off.sched);
    rig_close(&off.rig);
}

/* Whatever strangers read, and whatever of theirs was dropped, the answer is the same. */
static void it_tells_nothing_of_other_namespaces(void **state)
{
    struct server s;
    int32_t ids[1000];
    uint64_t pages;
    struct sc_err err = SC_ERR_INIT;
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    uint32_t vocab = s.rig.model->config.vocab;
    prompt_of(ids, 1000, vocab, 1, 1000, 0);
    struct sc_request_opts mine = ask(&s, ids, 1000, SC_KV_CHOICE_EXACT), theirs = mine;
    mine.ns = "me";
    mine.shared_ns = "common";
    theirs.ns = "them";
    const struct sc_lookup before = look(&s, mine);
    (void)read_it(&s, theirs);
    theirs.kv = SC_KV_CHOICE_COMPRESSED;
    (void)read_it(&s, theirs);
    ids[500] = (ids[500] + 1) % (int32_t)vocab;
    (void)read_it(&s, theirs);
    prompt_of(ids, 1000, vocab, 1, 1000, 0);
    struct sc_lookup after = look(&s, mine);
    assert_memory_equal(&before, &after, sizeof(after));
    must(sc_sched_flush(s.sched, &pages, &err), &err);
    after = look(&s, mine);
    assert_memory_equal(&before, &after, sizeof(after));
    /* The shared one counts, but its tokens are not shown. */
    theirs = mine;
    theirs.ns = "common";
    theirs.shared_ns = NULL;
    (void)read_it(&s, theirs);
    after = look(&s, mine);
    assert_int_equal(after.miss, SC_MISS_NONE);
    assert_true(after.shared);
    ids[700] = (ids[700] + 1) % (int32_t)vocab;
    after = look(&s, mine);
    assert_int_equal(after.miss, SC_MISS_OTHER_TOKENS);
    assert_int_equal(after.position, 700);
    assert_false(after.has_tokens);
    assert_int_equal(after.held_token, 0);
    must(sc_sched_flush(s.sched, &pages, &err), &err);
    assert_int_equal(look(&s, mine).miss, SC_MISS_EVICTED);
    mine.shared_ns = NULL;
    after = look(&s, mine);
    assert_memory_equal(&before, &after, sizeof(after));
    server_close(&s);
}

static enum sc_prefix_state state_of(struct server *s, enum sc_prefix_op op,
                                     const struct sc_hash *key)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_prefix_item item = {.op = op, .key = *key, .until_us = UINT64_MAX};
    must(sc_sched_prefixes(s->sched, &item, 1, &err), &err);
    return item.status == SC_OK ? item.state : SC_PREFIX_ABSENT;
}

/* What a question reads again is the document that it was, and can be pinned; what another recipe
 * reads is not. */
static void a_question_brings_its_document_back(void **state)
{
    static const uint32_t lengths[] = {800, 768, 20}; /* in a block, at its end, in the first one */
    struct server s;
    int32_t ids[900];
    uint64_t pages;
    struct sc_err err = SC_ERR_INIT;
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    for (int kind = 0; kind < 6; kind++) {
        const uint32_t n = lengths[kind % 3];
        const enum sc_kv_choice kv = kind < 3 ? SC_KV_CHOICE_COMPRESSED : SC_KV_CHOICE_EXACT;
        prompt_of(ids, 900, s.rig.model->config.vocab, (uint32_t)kind + 1, 900, 0);
        struct sc_request_opts o = ask(&s, ids, n, kv);
        o.prefill_only = o.retain = true;
        o.max_tokens = 0;
        struct sc_hash key = run(&s, o).key;
        assert_int_equal(state_of(&s, SC_PREFIX_QUERY, &key), SC_PREFIX_DEVICE);
        must(sc_sched_flush(s.sched, &pages, &err), &err);
        assert_int_equal(state_of(&s, SC_PREFIX_QUERY, &key), SC_PREFIX_ABSENT);
        o = ask(&s, ids, 900, kind < 3 ? SC_KV_CHOICE_EXACT : SC_KV_CHOICE_COMPRESSED);
        o.document_tokens = n;
        o.document_key = key;
        (void)run(&s, o);
        assert_int_equal(state_of(&s, SC_PREFIX_QUERY, &key), SC_PREFIX_ABSENT);
        o = ask(&s, ids, 900, kv);
        struct answer plain = run(&s, o);
        must(sc_sched_flush(s.sched, &pages, &err), &err);
        o.document_tokens = n;
        o.document_key = key;
        struct answer question = run(&s, o);
        assert_same(&plain, &question);
        assert_int_equal(state_of(&s, SC_PREFIX_PIN, &key), SC_PREFIX_DEVICE);
        must(sc_sched_flush(s.sched, &pages, &err), &err);
        ids[899]++;
        assert_int_equal(run(&s, o).receipt.cached_tokens, n);
        assert_int_equal(state_of(&s, SC_PREFIX_FORGET, &key), SC_PREFIX_ABSENT);
    }
    server_close(&s);
}

static void ignore_event(void *ctx, const struct sc_event *ev)
{
    (void)ctx;
    (void)ev;
}

/* What depends on its prompt's length would only take pages. */
static void documents_that_no_question_would_find_are_refused(void **state)
{
    struct server s;
    int32_t ids[600] = {0};
    struct sc_request *request = NULL;
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    for (int kind = 0; kind < 2; kind++) {
        struct sc_err err = SC_ERR_INIT;
        struct sc_request_opts o = ask(&s, ids, 600, SC_KV_CHOICE_COMPRESSED);
        o.prefill_only = o.retain = true;
        o.max_tokens = 0;
        o.on_event = ignore_event;
        o.recipe.window = kind == 0 ? 32 : 144;
        o.recipe.exact_then_compress = kind == 1;
        assert_int_equal(sc_sched_submit(s.sched, &o, &request, &err), SC_EINVAL);
        assert_non_null(strstr(err.text, kind == 0 ? "window" : "exact_then_compress"));
    }
    server_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_finds_what_a_request_finds),
        cmocka_unit_test(it_says_why),
        cmocka_unit_test(it_tells_nothing_of_other_namespaces),
        cmocka_unit_test(a_question_brings_its_document_back),
        cmocka_unit_test(documents_that_no_question_would_find_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
