/* Followers of the cache's events, from a log of the test's own: no scheduler, no engine. */
#include "testing.h"

#include "daemon/svc_events.h"
#include "proto/optional.h"
#include "semanticache/v1/control.pb-c.h"
#include "server_rig.h"

static void add_event(struct sc_kv_log *log, enum sc_kv_event_kind kind, const char *ns,
                      uint8_t key)
{
    struct sc_kv_event e = {.kind = kind, .start = 512, .n_tokens = 500, .key = {{key}}};

    e.parent.bytes[0] = 200;
    e.recipe_id.bytes[0] = 0xab;
    (void)snprintf(e.ns, sizeof(e.ns), "%s", ns);
    sc_kv_log_add(log, &e);
}

static struct call subscribe(struct world *w, uint64_t from)
{
    struct call c = call_open(w, "/semanticache.v1.Control/SubscribeKvEvents");
    Semanticache__V1__SubscribeKvEventsRequest q =
        SEMANTICACHE__V1__SUBSCRIBE_KV_EVENTS_REQUEST__INIT;

    SC_PB_SET(&q, from_sequence, from);
    call_send(&c, &q.base, true);
    return c;
}

static Semanticache__V1__KvEvent *next_event(struct call *c, uint64_t sequence)
{
    Semanticache__V1__KvEvent *m = call_receive(c, &semanticache__v1__kv_event__descriptor);

    assert_non_null(m);
    assert_int_equal(m->sequence, sequence);
    return m;
}

static void events_are_told_as_they_come_until_a_drain(void **state)
{
    struct world *w = *state;
    struct sc_err err = SC_ERR_INIT;
    Semanticache__V1__KvEvent *m;
    struct call c;

    ready(w);
    assert_ok(sc_kv_log_open(1000, &w->app.kv_log, &err));
    add_event(w->app.kv_log, SC_KV_STORED, "a", 1);
    add_event(w->app.kv_log, SC_KV_REMOVED, "b", 2); /* no keys are configured: all is shown */
    c = subscribe(w, 1000);
    m = next_event(&c, 1000);
    assert_int_equal(m->event_case, SEMANTICACHE__V1__KV_EVENT__EVENT_STORED);
    assert_int_equal(m->stored->n_block_keys, 1);
    assert_int_equal(m->stored->block_keys[0].len, 32);
    assert_int_equal(m->stored->block_keys[0].data[0], 1);
    assert_int_equal(m->stored->parent_key.data[0], 200);
    assert_int_equal(m->stored->start, 512);
    assert_int_equal(m->stored->block_tokens, 500);
    assert_text_has(m->stored->recipe_id, "ab0000");
    assert_string_equal(m->stored->namespace_, "a");
    semanticache__v1__kv_event__free_unpacked(m, NULL);
    m = next_event(&c, 1001);
    assert_int_equal(m->event_case, SEMANTICACHE__V1__KV_EVENT__EVENT_REMOVED);
    semanticache__v1__kv_event__free_unpacked(m, NULL);
    add_event(w->app.kv_log, SC_KV_CLEARED, "", 0);
    sc_followers_tell(w->app.followers);
    m = next_event(&c, 1002);
    assert_int_equal(m->event_case, SEMANTICACHE__V1__KV_EVENT__EVENT_CLEARED);
    semanticache__v1__kv_event__free_unpacked(m, NULL);
    sc_followers_end(w->app.followers);
    assert_null(call_receive(&c, &semanticache__v1__kv_event__descriptor));
    assert_int_equal(call_end(&c), GRPC_STATUS_UNAVAILABLE);
    call_close(&c);
    c = subscribe(w, 1000); /* from now on each ends at once */
    assert_int_equal(call_end(&c), GRPC_STATUS_UNAVAILABLE);
    call_close(&c);
}

/* It does not read while more events come than are held: it costs nothing, and is told. */
static void a_subscriber_that_is_too_slow_is_ended(void **state)
{
    struct world *w = *state;
    struct sc_err err = SC_ERR_INIT;
    struct call c;
    void *m;
    uint32_t n = 0;

    ready(w);
    assert_ok(sc_kv_log_open(1, &w->app.kv_log, &err));
    c = subscribe(w, 1);
    add_event(w->app.kv_log, SC_KV_STORED, "a", 0);
    sc_followers_tell(w->app.followers);
    semanticache__v1__kv_event__free_unpacked(next_event(&c, ++n), NULL); /* it follows now */
    /* Until transport buffers are full, nothing is lost on the way. */
    for (uint32_t i = 0; i < 12 * SC_KV_LOG_EVENTS; i++) {
        add_event(w->app.kv_log, SC_KV_STORED, "a", (uint8_t)i);
        if (i % 8 == 0)
            sc_followers_tell(w->app.followers);
    }
    sc_followers_tell(w->app.followers);
    while ((m = call_receive(&c, &semanticache__v1__kv_event__descriptor)) != NULL) {
        assert_int_equal(((Semanticache__V1__KvEvent *)m)->sequence, ++n); /* none is left out */
        semanticache__v1__kv_event__free_unpacked(m, NULL);
    }
    assert_true(n < 12 * SC_KV_LOG_EVENTS);
    assert_int_equal(call_end(&c), GRPC_STATUS_RESOURCE_EXHAUSTED);
    char *text = grpc_slice_to_c_string(c.details);
    assert_text_has(text, "too slow: event");
    gpr_free(text);
    call_close(&c);
}

static void a_subscriber_may_leave_at_any_time(void **state)
{
    struct world *w = *state;
    struct sc_err err = SC_ERR_INIT;

    ready(w);
    assert_ok(sc_kv_log_open(1, &w->app.kv_log, &err));
    for (int i = 0; i < 30; i++) {
        struct call c = subscribe(w, sc_kv_log_next(w->app.kv_log));
        for (int k = 0; k < 5; k++) {
            add_event(w->app.kv_log, SC_KV_STORED, "a", 1);
            sc_followers_tell(w->app.followers);
            if (k == i % 5)
                (void)grpc_call_cancel(c.call, NULL);
        }
        assert_int_equal(call_end(&c), GRPC_STATUS_CANCELLED);
        call_close(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(events_are_told_as_they_come_until_a_drain),
        TEST(a_subscriber_that_is_too_slow_is_ended),
        TEST(a_subscriber_may_leave_at_any_time),
    };
    return run_server_tests(tests);
}
