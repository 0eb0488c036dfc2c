/* What one request gets: text, stops, limits, receipts, refusals. */
#include <string.h>

#include "tests/scheduler/rig.h"

static const int32_t short_prompt[] = {'h', 'i'};

/* Runs one request whose output begins with the bytes of script (0xff stands for EOS). */
static void run_script(struct client *c, const char *script, struct sc_request_opts opts)
{
    struct rig rig;
    int32_t ids[128];
    uint32_t n = (uint32_t)strlen(script);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (uint8_t)script[i] == 0xff ? RIG_EOS : (uint8_t)script[i];
    rig_open(&rig, &(struct rig_opts){0});
    fake_set_script(rig.engine, ids, n);
    opts.prompt = short_prompt;
    opts.n_prompt = 2;
    client_run(&rig, c, opts);
    rig_wait_idle(&rig);
    rig_close(&rig);
}

static struct sc_request_opts script_opts(uint32_t max_tokens)
{
    return client_opts(NULL, 0, max_tokens);
}

static void assert_text(const struct client *c, const char *expected)
{
    if (c->text_len != strlen(expected) || memcmp(c->text, expected, c->text_len) != 0)
        fail_msg("text is '%.*s', expected '%s'", (int)c->text_len, c->text, expected);
}

static void a_request_tells_progress_text_and_a_receipt(void **state)
{
    (void)state;
    struct rig rig;
    struct client c;
    int32_t prompt[300];
    make_prompt(prompt, 300, 1);
    rig_open(&rig, &(struct rig_opts){0});
    struct sc_request_opts opts = client_opts(prompt, 300, 20);
    opts.ignore_eos = true;
    fake_sleep(rig.engine, 200);
    client_run(&rig, &c, opts);
    assert_int_equal(c.n_progress, 3); /* blocks of 128 */
    assert_int_equal(c.progress, 300);
    assert_int_equal(c.n_deltas, 20);
    assert_int_equal(c.done.finish, SC_FINISH_LENGTH);
    assert_int_equal(c.done.stop_id, -1);
    assert_int_equal(c.done.prompt_tokens, 300);
    assert_int_equal(c.done.completion_tokens, 20);
    assert_int_equal(c.done.receipt.mode, SC_KV_EXACT);
    assert_int_equal(c.done.receipt.kv.logical_tokens, 319); /* the last token is never fed */
    assert_int_equal(c.done.receipt.preemptions, 0);
    assert_int_equal(c.done.timings.compress_us, 319); /* as the fake engine counts */
    const struct sc_timings *t = &c.done.timings;
    assert_true(t->queue_us + t->prefill_us == t->ttft_us);
    assert_true(t->prefill_us >= 3 * 200 && t->decode_us >= 19 * 200);
    rig_wait_idle(&rig);
    struct sc_sched_stats st;
    sc_sched_get_stats(rig.sched, &st);
    assert_int_equal(st.finished, 1);
    assert_int_equal(st.prompt_tokens, 300);
    assert_int_equal(st.completion_tokens, 20);
    assert_true(st.last_step_us > 0);
    client_fini(&c);
    rig_close(&rig);
}

static void a_stop_string_ends_the_text_before_it(void **state)
{
    (void)state;
    const char *const stops[] = {"nope", "STOP"};
    struct sc_request_opts opts = script_opts(50);
    opts.stop_strings = stops;
    opts.n_stop_strings = 2;
    for (int include = 0; include < 2; include++) {
        struct client c;
        opts.include_stop_string = include != 0;
        run_script(&c, "fine STOP it", opts);
        assert_text(&c, include ? "fine STOP" : "fine ");
        assert_int_equal(c.done.finish, SC_FINISH_STOP);
        assert_string_equal(c.stop_string, "STOP");
        assert_int_equal(c.done.completion_tokens, 9); /* tokens are never held back */
        assert_int_equal(c.done.stop_id, -1);
        client_fini(&c);
    }
}

static void a_stop_string_within_one_token_is_found(void **state)
{
    (void)state;
    struct rig rig;
    struct client c;
    const int32_t script[] = {'a', RIG_WORD, 'z'};
    const char *const stops[] = {"ell"};
    struct sc_request_opts opts = client_opts(short_prompt, 2, 30);
    opts.stop_strings = stops;
    opts.n_stop_strings = 1;
    rig_open(&rig, &(struct rig_opts){0});
    fake_set_script(rig.engine, script, 3);
    client_run(&rig, &c, opts);
    assert_text(&c, "ah");
    assert_int_equal(c.done.completion_tokens, 2);
    client_fini(&c);
    rig_close(&rig);
}

static void held_text_comes_when_no_stop_string_does(void **state)
{
    (void)state;
    const char *const stops[] = {"STOP"};
    struct sc_request_opts opts = script_opts(6);
    opts.stop_strings = stops;
    opts.n_stop_strings = 1;
    struct client c;
    run_script(&c, "abcSTO", opts); /* ends by length within a possible stop string */
    assert_text(&c, "abcSTO");
    assert_int_equal(c.done.finish, SC_FINISH_LENGTH);
    client_fini(&c);
    run_script(&c, "STST\xff", opts); /* ends by EOS */
    assert_text(&c, "STST");
    client_fini(&c);
}

static void characters_cut_by_tokens_arrive_whole(void **state)
{
    (void)state;
    const char *const stops[] = {"\xf0\x9f\x98\x80"}; /* U+1F600, four tokens */
    struct sc_request_opts opts = script_opts(40);
    opts.stop_strings = stops;
    opts.n_stop_strings = 1;
    struct client c;
    run_script(&c, "a\xc3\xa9 \xf0\x9f\x98\x81 \xf0\x9f\x98\x80z", opts);
    assert_text(&c, "a\xc3\xa9 \xf0\x9f\x98\x81 ");
    assert_string_equal(c.stop_string, stops[0]);
    client_fini(&c);
    opts.max_tokens = 3;
    run_script(&c, "a\xf0\x9f\x98\x81", opts); /* the end cuts the character */
    assert_text(&c, "a\xef\xbf\xbd");
    client_fini(&c);
}

static void eos_ends_without_text_and_counts_as_a_token(void **state)
{
    (void)state;
    struct client c;
    run_script(&c, "ab\xff", script_opts(10));
    assert_text(&c, "ab");
    assert_int_equal(c.done.finish, SC_FINISH_STOP);
    assert_int_equal(c.done.stop_id, RIG_EOS);
    assert_int_equal(c.done.completion_tokens, 3);
    assert_int_equal(c.tokens[2], RIG_EOS);
    client_fini(&c);
}

static void ignore_eos_goes_on(void **state)
{
    (void)state;
    struct client c;
    struct sc_request_opts opts = script_opts(4);
    opts.ignore_eos = true;
    run_script(&c,
               "a\xff"
               "bc",
               opts);
    assert_text(&c, "a<eos>bc");
    assert_int_equal(c.done.finish, SC_FINISH_LENGTH);
    client_fini(&c);
    opts.skip_special_tokens = true;
    run_script(&c,
               "a\xff"
               "bc",
               opts);
    assert_text(&c, "abc");
    client_fini(&c);
}

static void stop_ids_end_it_too(void **state)
{
    (void)state;
    const int32_t ids[] = {'x', 'c'};
    struct client c;
    struct sc_request_opts opts = script_opts(10);
    opts.stop_ids = ids;
    opts.n_stop_ids = 2;
    opts.ignore_eos = true;
    run_script(&c, "abcd", opts);
    assert_text(&c, "ab");
    assert_int_equal(c.done.stop_id, 'c');
    client_fini(&c);
}

static void nothing_stops_before_min_tokens(void **state)
{
    (void)state;
    const char *const stops[] = {"ab"};
    const int32_t ids[] = {'q'};
    struct client c;
    struct sc_request_opts opts = script_opts(10);
    opts.stop_strings = stops;
    opts.n_stop_strings = 1;
    opts.min_tokens = 4;
    run_script(&c, "ababab", opts); /* complete at 2 (too early) and at 4 */
    assert_text(&c, "ab");
    assert_int_equal(c.done.completion_tokens, 4);
    client_fini(&c);
    opts.n_stop_strings = 0;
    opts.stop_ids = ids;
    opts.n_stop_ids = 1;
    opts.min_tokens = 3;
    run_script(&c, "\xffq\xff\xff", opts); /* the first three are banned, something else comes */
    assert_int_equal(c.done.completion_tokens, 4);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(c.tokens[i] != RIG_EOS && c.tokens[i] != 'q');
    assert_int_equal(c.done.stop_id, RIG_EOS);
    client_fini(&c);
}

/* All bytes but a few are in the prompt: with a penalty that strong only the others can win. */
static void the_repetition_penalty_sees_the_prompt(void **state)
{
    (void)state;
    struct rig rig;
    struct client c;
    int32_t prompt[250];
    for (int32_t i = 0; i < 250; i++)
        prompt[i] = i;
    struct sc_request_opts opts = client_opts(prompt, 250, 3);
    opts.sampling.repetition_penalty = 100.0f;
    opts.ignore_eos = true;
    rig_open(&rig, &(struct rig_opts){0});
    client_run(&rig, &c, opts);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(c.tokens[i] >= 250);
    client_fini(&c);
    rig_close(&rig);
}

static void max_tokens_zero_fills_the_context(void **state)
{
    (void)state;
    static int32_t prompt[RIG_CONTEXT - 5];
    struct rig rig;
    struct client c;
    make_prompt(prompt, RIG_CONTEXT - 5, 3);
    struct sc_request_opts opts = client_opts(prompt, RIG_CONTEXT - 5, 0);
    opts.ignore_eos = true;
    rig_open(&rig, &(struct rig_opts){0});
    client_run(&rig, &c, opts);
    assert_int_equal(c.done.finish, SC_FINISH_LENGTH);
    assert_int_equal(c.done.completion_tokens, 5);
    client_fini(&c);
    rig_close(&rig);
}

static void prefill_only_ends_after_the_prompt(void **state)
{
    (void)state;
    int32_t prompt[200];
    struct rig rig;
    struct client c;
    make_prompt(prompt, 200, 4);
    struct sc_request_opts opts = client_opts(prompt, 200, 0);
    opts.prefill_only = true;
    opts.kv = SC_KV_CHOICE_COMPRESSED;
    rig_open(&rig, &(struct rig_opts){0});
    client_run(&rig, &c, opts);
    assert_int_equal(c.done.finish, SC_FINISH_LENGTH);
    assert_int_equal(c.done.completion_tokens, 0);
    assert_int_equal(c.n_deltas, 0);
    assert_int_equal(c.progress, 200);
    assert_int_equal(c.done.receipt.kv.logical_tokens, 200);
    client_fini(&c);
    rig_close(&rig);
}

static void auto_compresses_long_prompts_where_it_can(void **state)
{
    (void)state;
    int32_t prompt[300];
    make_prompt(prompt, 300, 5);
    for (int uncalibrated = 0; uncalibrated < 2; uncalibrated++) {
        struct rig rig;
        rig_open(&rig, &(struct rig_opts){.uncalibrated = uncalibrated != 0});
        for (uint32_t n = 299; n <= 300; n++) {
            struct client c;
            struct sc_request_opts opts = client_opts(prompt, n, 3);
            opts.kv = SC_KV_CHOICE_AUTO;
            client_run(&rig, &c, opts);
            assert_int_equal(c.done.receipt.mode,
                             n == 300 && !uncalibrated ? SC_KV_COMPRESSED : SC_KV_EXACT);
            client_fini(&c);
        }
        rig_close(&rig);
    }
}

static void expect_refused(struct rig *rig, struct sc_request_opts opts, enum sc_status status,
                           const char *needle)
{
    struct client c;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(client_try(rig, &c, opts, &err), status);
    if (strstr(err.text, needle) == NULL)
        fail_msg("'%s' does not say '%s'", err.text, needle);
    assert_null(c.request);
    assert_int_equal(c.n_done, 0);
    client_fini(&c);
}

static void requests_beyond_a_limit_are_refused_by_name(void **state)
{
    (void)state;
    static int32_t prompt[RIG_CONTEXT + 1];
    struct rig rig;
    rig_open(&rig, &(struct rig_opts){.uncalibrated = true});
    make_prompt(prompt, RIG_CONTEXT + 1, 6);
    expect_refused(&rig, client_opts(prompt, 0, 5), SC_EINVAL, "empty");
    expect_refused(&rig, client_opts(prompt, RIG_CONTEXT + 1, 1), SC_ERANGE, "4097");
    expect_refused(&rig, client_opts(prompt, 4000, 97), SC_ERANGE, "97");
    expect_refused(&rig, client_opts(prompt, 4000, UINT32_MAX), SC_ERANGE, "4096");
    expect_refused(&rig, client_opts(prompt, RIG_CONTEXT, 0), SC_ERANGE, "no room");
    const int32_t bad_ids[] = {5, RIG_VOCAB};
    expect_refused(&rig, client_opts(bad_ids, 2, 5), SC_EINVAL, "264");
    const int32_t negative[] = {-1};
    expect_refused(&rig, client_opts(negative, 1, 5), SC_EINVAL, "-1");

    struct sc_request_opts opts = client_opts(prompt, 10, 5);
    opts.min_tokens = 6;
    expect_refused(&rig, opts, SC_EINVAL, "min_tokens");
    opts = client_opts(prompt, 10, 5);
    opts.sampling.temperature = 101.0f;
    expect_refused(&rig, opts, SC_EINVAL, "temperature");
    opts = client_opts(prompt, 10, 5);
    opts.kv = SC_KV_CHOICE_COMPRESSED;
    expect_refused(&rig, opts, SC_ENOTSUP, "calibration");
    rig_close(&rig);
}

static void bad_stops_and_recipes_are_refused_by_name(void **state)
{
    (void)state;
    struct rig rig;
    char long_stop[SC_STOP_STRING_BYTES_MAX + 2];
    memset(long_stop, 'x', sizeof(long_stop) - 1);
    long_stop[sizeof(long_stop) - 1] = '\0';
    const char *many[SC_STOP_STRINGS_MAX + 1];
    for (uint32_t i = 0; i <= SC_STOP_STRINGS_MAX; i++)
        many[i] = "s";
    const char *const cases[][2] = {{"", "empty"}, {long_stop, "256"}, {"a\xc3", "UTF-8"}};
    rig_open(&rig, &(struct rig_opts){0});
    for (uint32_t i = 0; i < 3; i++) {
        struct sc_request_opts opts = client_opts(short_prompt, 2, 5);
        opts.stop_strings = &cases[i][0];
        opts.n_stop_strings = 1;
        expect_refused(&rig, opts, SC_EINVAL, cases[i][1]);
    }
    struct sc_request_opts opts = client_opts(short_prompt, 2, 5);
    opts.stop_strings = many;
    opts.n_stop_strings = SC_STOP_STRINGS_MAX + 1;
    expect_refused(&rig, opts, SC_EINVAL, "17");
    const int32_t stop_ids[SC_STOP_IDS_MAX + 1] = {RIG_VOCAB};
    opts = client_opts(short_prompt, 2, 5);
    opts.stop_ids = stop_ids;
    opts.n_stop_ids = 1;
    expect_refused(&rig, opts, SC_EINVAL, "stop id");
    opts.n_stop_ids = SC_STOP_IDS_MAX + 1;
    expect_refused(&rig, opts, SC_EINVAL, "65");
    opts = client_opts(short_prompt, 2, 5);
    opts.kv = SC_KV_CHOICE_COMPRESSED;
    opts.recipe.epoch = 1;
    expect_refused(&rig, opts, SC_EINVAL, "epoch");
    opts.recipe.mode = SC_KV_EXACT;
    expect_refused(&rig, opts, SC_EINVAL, "mode");
    rig_close(&rig);
}

static void a_full_queue_refuses_then_takes_again(void **state)
{
    (void)state;
    struct rig rig;
    struct client c[4];
    struct sc_err err = SC_ERR_INIT;
    rig_open(&rig, &(struct rig_opts){.max_seqs = 1, .queue_max = 2});
    fake_hold(rig.engine, 1);
    client_submit(&rig, &c[0], client_opts(short_prompt, 2, 4));
    fake_wait_held(rig.engine); /* the first runs and waits no more */
    client_submit(&rig, &c[1], client_opts(short_prompt, 2, 4));
    client_submit(&rig, &c[2], client_opts(short_prompt, 2, 4));
    assert_int_equal(client_try(&rig, &c[3], client_opts(short_prompt, 2, 4), &err), SC_EFULL);
    assert_non_null(strstr(err.text, "limit 2"));
    client_fini(&c[3]);
    fake_release(rig.engine);
    for (int i = 0; i < 3; i++) {
        client_wait(&c[i]);
        assert_int_equal(c[i].done.status, SC_OK);
        client_fini(&c[i]);
    }
    rig_wait_idle(&rig);
    client_run(&rig, &c[3], client_opts(short_prompt, 2, 4));
    client_fini(&c[3]);
    rig_close(&rig);
}

static void what_exceeds_the_pool_fails_at_once_with_numbers(void **state)
{
    (void)state;
    struct rig rig;
    struct client c;
    int32_t prompt[700];
    make_prompt(prompt, 700, 8);
    rig_open(&rig, &(struct rig_opts){.n_pages = 40}); /* 20 pages a layer: 640 tokens */
    client_run(&rig, &c, client_opts(prompt, 700, 10));
    assert_int_equal(c.done.status, SC_EFULL);
    assert_non_null(strstr(c.error, "710"));
    assert_non_null(strstr(c.error, "40"));
    assert_int_equal(fake_counts(rig.engine).steps, 0);
    client_fini(&c);
    client_run(&rig, &c, client_opts(prompt, 600, 30));
    assert_int_equal(c.done.status, SC_OK);
    client_fini(&c);
    rig_close(&rig);
}

static void bad_options_do_not_open_a_scheduler(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, &(struct rig_opts){0});
    const struct sc_sched_opts cases[] = {
        {.engine = rig.engine, .model = &rig.model, .queue_max = 0, .prefill_tokens = 9},
        {.engine = rig.engine, .model = &rig.model, .queue_max = 65537, .prefill_tokens = 9},
        {.engine = rig.engine, .model = &rig.model, .queue_max = 9, .prefill_tokens = 0},
        {.engine = rig.engine, .model = &rig.model, .queue_max = 9, .prefill_tokens = 257},
    };
    for (uint32_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_sched *s = NULL;
        assert_int_equal(sc_sched_open(&cases[i], &s, NULL), SC_EINVAL);
        assert_null(s);
    }
    sc_sched_close(NULL);
    sc_request_unref(NULL);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_tells_progress_text_and_a_receipt),
        cmocka_unit_test(a_stop_string_ends_the_text_before_it),
        cmocka_unit_test(a_stop_string_within_one_token_is_found),
        cmocka_unit_test(held_text_comes_when_no_stop_string_does),
        cmocka_unit_test(characters_cut_by_tokens_arrive_whole),
        cmocka_unit_test(eos_ends_without_text_and_counts_as_a_token),
        cmocka_unit_test(ignore_eos_goes_on),
        cmocka_unit_test(stop_ids_end_it_too),
        cmocka_unit_test(nothing_stops_before_min_tokens),
        cmocka_unit_test(the_repetition_penalty_sees_the_prompt),
        cmocka_unit_test(max_tokens_zero_fills_the_context),
        cmocka_unit_test(prefill_only_ends_after_the_prompt),
        cmocka_unit_test(auto_compresses_long_prompts_where_it_can),
        cmocka_unit_test(requests_beyond_a_limit_are_refused_by_name),
        cmocka_unit_test(bad_stops_and_recipes_are_refused_by_name),
        cmocka_unit_test(a_full_queue_refuses_then_takes_again),
        cmocka_unit_test(what_exceeds_the_pool_fails_at_once_with_numbers),
        cmocka_unit_test(bad_options_do_not_open_a_scheduler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
