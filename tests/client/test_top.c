#include "client/top.h"

#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    Semanticache__V1__GetServerInfoResponse server;
    Semanticache__V1__GetLoadsResponse before, now;
    struct sc_top_sample a, b;
};

static void fill(struct fixture *f)
{
    semanticache__v1__get_server_info_response__init(&f->server);
    semanticache__v1__get_loads_response__init(&f->before);
    f->server.version = (char *)(uintptr_t) "1.2";
    f->server.state = SEMANTICACHE__V1__SERVER_STATE__SERVER_STATE_READY;
    f->server.uptime_us = 61000000;
    f->server.page_bytes = 1024;
    f->server.tensor_parallel = 2;
    f->before.max_seqs = 8;
    f->before.queue_max = 64;
    f->before.pages_total = 100;
    f->before.pages_free = 50;
    f->before.pages_cached = 40;
    f->before.prompt_tokens = 1000;
    f->before.prefix_query_tokens = 1000;
    f->before.prefix_hit_tokens = 0;
    f->before.prefix_evictions = 5;
    f->before.store_hits = 3;
    f->before.store_misses = 1;
    f->before.store_bytes = 2048;
    f->before.documents = 7;
    f->now = f->before;
    f->now.running = 3;
    f->now.waiting = 2;
    f->now.prompt_tokens += 500;
    f->now.completion_tokens += 50;
    f->now.steps += 20;
    f->now.prefix_query_tokens += 1000;
    f->now.prefix_hit_tokens += 500;
    f->now.prefix_evictions += 2;
    f->now.prefix_snapshots = 9;
    f->a = (struct sc_top_sample){.at_s = 10, .server = &f->server, .loads = &f->before};
    f->b = (struct sc_top_sample){.at_s = 12, .server = &f->server, .loads = &f->now};
}

static char *print(const struct sc_top_sample *before, const struct sc_top_sample *now)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    sc_top_print(out, "host:1", before, now);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void the_block_tells_differences_and_sums(void **state)
{
    (void)state;
    struct fixture f;
    fill(&f);
    char *text = print(&f.a, &f.b);
    assert_string_equal(
        text, "semanticached 1.2 at host:1: ready, up 61 s\n"
              "requests    3 of 8 running, 2 of 64 waiting\n"
              "ended       0 finished, 0 failed, 0 cancelled; 0 preemptions\n"
              "per second  250.0 prompt tokens, 25.0 completion tokens, 10.0 steps\n"
              "pages       [####++++++++++++++++....................] 10 used, 40 cached, 50 free; "
              "20.0 KiB of 200.0 KiB used\n"
              "prefixes    50.0% hit now, 25.0% in all; 7 evictions (2 now), 9 snapshots\n"
              "documents   7; store 3 hits, 1 misses (75.0%), 2.0 KiB\n");
    free(text);
}

static void one_look_or_another_process_has_no_rates(void **state)
{
    (void)state;
    struct fixture f;
    fill(&f);
    char *text = print(NULL, &f.b);
    assert_non_null(strstr(text, "per second  - prompt tokens"));
    assert_non_null(strstr(text, "prefixes    - hit now, 25.0% in all"));
    free(text);
    f.now.steps = 0;
    f.before.steps = 1;
    text = print(&f.a, &f.b);
    assert_non_null(strstr(text, "per second  - prompt tokens"));
    free(text);
    json_t *json = sc_top_json(&f.a, &f.b);
    assert_true(json_is_null(json_object_get(json, "rates")));
    json_decref(json);
}

static void json_has_rates_and_both_messages(void **state)
{
    (void)state;
    struct fixture f;
    fill(&f);
    json_t *json = sc_top_json(&f.a, &f.b);
    assert_non_null(json);
    assert_true(json_real_value(json_object_get(json, "interval_s")) == 2);
    const json_t *rates = json_object_get(json, "rates");
    assert_true(json_real_value(json_object_get(rates, "prompt_tokens_per_s")) == 250);
    assert_int_equal(json_integer_value(json_object_get(rates, "prefix_hit_tokens")), 500);
    const json_t *loads = json_object_get(json, "loads");
    assert_int_equal(json_integer_value(json_object_get(loads, "prefix_snapshots")), 9);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(json, "server"), "state")), "ready");
    json_decref(json);
}

static void the_bar_shows_whatever_is_not_nothing(void **state)
{
    (void)state;
    char bar[SC_TOP_BAR_COLUMNS + 1];
    static const uint64_t pages[][3] = {{0, 0, 0},      {1, 1, 100000}, {100000, 1, 0},
                                        {1, 100000, 0}, {5, 0, 0},      {1, 1, 1}};
    for (size_t i = 0; i < SC_ARRAY_LEN(pages); i++) {
        sc_top_bar(pages[i][0], pages[i][1], pages[i][2], bar);
        assert_int_equal(strlen(bar), SC_TOP_BAR_COLUMNS);
        assert_int_equal(strchr(bar, '#') != NULL, pages[i][0] > 0);
        assert_int_equal(strchr(bar, '+') != NULL, pages[i][1] > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_block_tells_differences_and_sums),
        cmocka_unit_test(one_look_or_another_process_has_no_rates),
        cmocka_unit_test(json_has_rates_and_both_messages),
        cmocka_unit_test(the_bar_shows_whatever_is_not_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
