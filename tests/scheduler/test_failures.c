/* Cancels, deadlines, broken logits, a failing engine, the end of the scheduler, and all at once.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "tests/scheduler/rig.h"

static uint64_t now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static int32_t prompt[3000];

static struct sc_request_opts endless(uint32_t n_prompt)
{
    struct sc_request_opts opts = client_opts(prompt, n_prompt, 1000);
    opts.ignore_eos = true;
    return opts;
}

/* Cancels while a step is under way (a hold was ordered) and counts the runs that come after it. */
static void expect_cancel_within_one_step(struct rig *rig, struct client *c)
{
    fake_wait_held(rig->engine);
    uint64_t runs = fake_counts(rig->engine).runs;
    sc_sched_cancel(rig->sched, c->request);
    sc_sched_cancel(rig->sched, c->request);
    fake_release(rig->engine);
    client_wait(c);
    assert_int_equal(c->done.status, SC_ECANCELED);
    assert_int_equal(c->done.finish, SC_FINISH_ERROR);
    rig_wait_idle(rig);
    assert_int_equal(fake_counts(rig->engine).runs, runs + 1); /* the one under way */
    sc_sched_cancel(rig->sched, c->request);
    client_fini(c);
}

static void a_cancel_ends_prefill_within_one_step(void **state)
{
    (void)state;
    struct rig rig;
    struct client c;
    rig_open(&rig, &(struct rig_opts){.prefill_tokens = 8});
    fake_hold(rig.engine, 7);
    client_submit(&rig, &c, endless(3000));
    expect_cancel_within_one_step(&rig, &c);
    assert_int_equal(c.n_tokens, 0);
    assert_int_equal(c.progress, 7 * 8);
    rig_close(&rig);
}

static void a_cancel_ends_decode_within_one_step(void **state)
{
    (void)state;
    struct rig rig;
    struct client c;
    rig_open(&rig, &(struct rig_opts){0});
    fake_hold(rig.engine, 7);
    client_submit(&rig, &c, endless(20));
    expect_cancel_within_one_step(&rig, &c);
    assert_int_equal(c.n_tokens, 7);
    rig_close(&rig);
}

static void a_waiting_request_can_be_cancelled_or_time_out(void **state)
{
    (void)state;
    struct rig rig;
    struct client busy, canceled, late, patient;
    rig_open(&rig, &(struct rig_opts){.max_seqs = 1});
    fake_sleep(rig.engine, 1000);
    client_submit(&rig, &busy, endless(20));
    client_wait_tokens(&busy, 1);
    struct sc_request_opts opts = endless(20);
    client_submit(&rig, &canceled, opts);
    client_submit(&rig, &patient, client_opts(prompt, 20, 3));
    sc_sched_cancel(rig.sched, canceled.request);
    client_wait(&canceled);
    opts.deadline_us = now_us() + 20000;
    client_submit(&rig, &late, opts);
    client_wait(&late);
    assert_int_equal(canceled.done.status, SC_ECANCELED);
    assert_int_equal(late.done.status, SC_ETIMEDOUT);
    assert_int_equal(late.n_progress, 0);
    assert_int_equal(busy.n_done, 0);
    sc_sched_cancel(rig.sched, busy.request);
    client_wait(&busy);
    client_wait(&patient);
    assert_int_equal(patient.done.status, SC_OK);
    client_fini(&busy);
    client_fini(&canceled);
    client_fini(&late);
    client_fini(&patient);
    rig_close(&rig);
}

static void a_deadline_ends_prefill_and_decode(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, &(struct rig_opts){.prefill_tokens = 8});
    fake_sleep(rig.engine, 1000);
    for (int decode = 0; decode < 2; decode++) {
        struct client c;
        struct sc_request_opts opts = endless(decode ? 4 : 3000);
        opts.deadline_us = now_us() + 150000;
        client_run(&rig, &c, opts);
        assert_int_equal(c.done.status, SC_ETIMEDOUT);
        assert_true(now_us() >= opts.deadline_us);
        assert_int_equal(c.n_tokens > 0, decode);
        assert_true(c.n_progress > 0);
        client_fini(&c);
        rig_wait_idle(&rig);
    }
    struct client c;
    struct sc_request_opts opts = endless(4);
    opts.deadline_us = 1; /* long ago */
    client_run(&rig, &c, opts);
    assert_int_equal(c.done.status, SC_ETIMEDOUT);
    assert_int_equal(c.n_progress, 0);
    client_fini(&c);
    rig_close(&rig);
}

static void broken_logits_end_their_own_request_alone(void **state)
{
    (void)state;
    struct rig rig;
    struct client c[2];
    rig_open(&rig, &(struct rig_opts){0});
    fake_nan_at(rig.engine, 37); /* only the prompt of 30 samples there: the other starts at 40 */
    fake_hold(rig.engine, 1);
    client_submit(&rig, &c[0], client_opts(prompt, 30, 50));
    struct sc_request_opts opts = client_opts(prompt, 40, 50);
    opts.ignore_eos = true;
    client_submit(&rig, &c[1], opts);
    fake_release(rig.engine);
    client_wait(&c[0]);
    client_wait(&c[1]);
    assert_int_equal(c[0].done.status, SC_EINTERNAL);
    assert_non_null(strstr(c[0].error, "37"));
    assert_int_equal(c[0].n_tokens, 7);
    assert_int_equal(c[1].done.status, SC_OK);
    assert_int_equal(c[1].n_tokens, 50);
    client_fini(&c[0]);
    client_fini(&c[1]);
    rig_close(&rig);
}

static void a_failed_engine_ends_what_ran_and_the_queue_goes_on(void **state)
{
    (void)state;
    struct rig rig;
    struct client running[2], waiting, before;
    rig_open(&rig, &(struct rig_opts){.max_seqs = 2});
    client_run(&rig, &before, client_opts(prompt, 50, 12));
    fake_hold(rig.engine, 6);
    client_submit(&rig, &running[0], endless(20));
    client_submit(&rig, &running[1], endless(30));
    fake_wait_held(rig.engine);
    client_wait_tokens(&running[0], 2);
    client_submit(&rig, &waiting, client_opts(prompt, 50, 12));
    fake_fail_step(rig.engine, 3, SC_EPEER);
    fake_release(rig.engine);
    for (int i = 0; i < 2; i++) {
        client_wait(&running[i]);
        assert_int_equal(running[i].done.status, SC_EUNAVAIL);
        assert_non_null(strstr(running[i].error, "rank 1 does not answer"));
        client_fini(&running[i]);
    }
    client_wait(&waiting);
    assert_int_equal(waiting.done.status, SC_OK);
    assert_int_equal(waiting.n_tokens, before.n_tokens);
    assert_memory_equal(waiting.tokens, before.tokens, before.n_tokens * sizeof(int32_t));
    assert_int_equal(fake_counts(rig.engine).resets, 1);
    rig_wait_idle(&rig);
    struct sc_sched_stats st;
    sc_sched_get_stats(rig.sched, &st);
    assert_false(st.failed_group);
    assert_int_equal(st.failed, 2);
    client_fini(&waiting);
    client_fini(&before);
    rig_close(&rig);
}

static void slots_lost_in_a_failed_step_are_not_closed_again(void **state)
{
    (void)state;
    struct rig rig;
    struct client c[3];
    rig_open(&rig, &(struct rig_opts){0});
    fake_hold(rig.engine, 20);
    client_submit(&rig, &c[0], endless(20));
    client_submit(&rig, &c[1], endless(30));
    fake_wait_held(rig.engine);
    sc_sched_cancel(rig.sched, c[0].request);
    fake_fail_step(rig.engine, 2, SC_EPEER); /* the step that closes the cancelled one */
    fake_release(rig.engine);
    client_wait(&c[0]);
    client_wait(&c[1]);
    assert_int_equal(c[0].done.status, SC_ECANCELED);
    assert_int_equal(c[1].done.status, SC_EUNAVAIL);
    client_run(&rig, &c[2], client_opts(prompt, 20, 3));
    assert_int_equal(c[2].done.status, SC_OK);
    assert_int_equal(fake_counts(rig.engine).resets, 1);
    for (int i = 0; i < 3; i++)
        client_fini(&c[i]);
    rig_close(&rig);
}

static void an_engine_that_cannot_be_reset_refuses_everything(void **state)
{
    (void)state;
    struct rig rig;
    struct client running, waiting, later;
    struct sc_err err = SC_ERR_INIT;
    rig_open(&rig, &(struct rig_opts){.max_seqs = 1});
    fake_hold(rig.engine, 5);
    fake_fail_reset(rig.engine, true);
    client_submit(&rig, &running, endless(20));
    fake_wait_held(rig.engine);
    client_submit(&rig, &waiting, endless(20));
    fake_fail_step(rig.engine, 2, SC_EDEVICE);
    fake_release(rig.engine);
    client_wait(&running);
    client_wait(&waiting);
    assert_int_equal(running.done.status, SC_EUNAVAIL);
    assert_int_equal(waiting.done.status, SC_EUNAVAIL);
    assert_non_null(strstr(waiting.error, "rank 1 is gone"));
    struct sc_sched_stats st;
    do
        sc_sched_get_stats(rig.sched, &st);
    while (!st.failed_group);
    assert_int_equal(client_try(&rig, &later, endless(20), &err), SC_EUNAVAIL);
    client_fini(&later);
    client_fini(&running);
    client_fini(&waiting);
    rig_close(&rig);
}

static void close_ends_what_runs_and_what_waits(void **state)
{
    (void)state;
    struct rig rig;
    struct client c[6];
    rig_open(&rig, &(struct rig_opts){.max_seqs = 2});
    fake_sleep(rig.engine, 3000);
    for (int i = 0; i < 6; i++)
        client_submit(&rig, &c[i], endless(20));
    client_wait_tokens(&c[1], 3);
    sc_sched_close(rig.sched);
    rig.sched = NULL;
    for (int i = 0; i < 6; i++) {
        client_wait(&c[i]);
        assert_int_equal(c[i].n_done, 1);
        assert_int_equal(c[i].done.status, SC_EUNAVAIL);
        client_fini(&c[i]); /* references outlive the scheduler */
    }
    rig_close(&rig);
}

static void held_text_is_not_lost_when_a_request_is_cancelled(void **state)
{
    (void)state;
    static int32_t script[900];
    const char *const stops[] = {"aaab"};
    struct rig rig;
    struct client c;
    for (uint32_t i = 0; i < 900; i++)
        script[i] = 'a';
    rig_open(&rig, &(struct rig_opts){0});
    fake_set_script(rig.engine, script, 900);
    fake_hold(rig.engine, 15);
    struct sc_request_opts opts = endless(4);
    opts.stop_strings = stops;
    opts.n_stop_strings = 1;
    client_submit(&rig, &c, opts);
    fake_wait_held(rig.engine);
    sc_sched_cancel(rig.sched, c.request);
    fake_release(rig.engine);
    client_wait(&c);
    assert_int_equal(c.n_tokens, 15);
    assert_int_equal(c.text_len, 15);
    client_fini(&c);
    rig_close(&rig);
}

#define STORM_THREADS  4
#define STORM_REQUESTS 60

struct storm {
    struct rig *rig;
    uint64_t key;
    struct client *clients; /* [STORM_REQUESTS] */
    bool submitted[STORM_REQUESTS];
};

static void *storm_thread(void *arg)
{
    struct storm *s = arg;
    for (uint32_t i = 0; i < STORM_REQUESTS; i++) {
        uint64_t r = sc_mix64(s->key * 1000 + i);
        struct sc_request_opts opts =
            client_opts(prompt, 1 + (uint32_t)(r % 500), (uint32_t)(r >> 12) % 90);
        opts.kv = (r >> 20) % 2 ? SC_KV_CHOICE_COMPRESSED : SC_KV_CHOICE_AUTO;
        opts.prefill_only = (r >> 21) % 16 == 0;
        opts.deadline_us = (r >> 25) % 4 == 0 ? now_us() + (r >> 30) % 40000 : 0;
        struct sc_err err = SC_ERR_INIT;
        s->submitted[i] = client_try(s->rig, &s->clients[i], opts, &err) == SC_OK;
        uint32_t other = (uint32_t)(r >> 40) % (i + 1);
        if ((r >> 27) % 3 == 0 && s->submitted[other])
            sc_sched_cancel(s->rig->sched, s->clients[other].request);
        if ((r >> 50) % 40 == 0)
            fake_fail_step(s->rig->engine, 1 + (uint32_t)(r >> 55) % 20, SC_EPEER);
        if ((r >> 51) % 30 == 0)
            fake_refuse_step(s->rig->engine, 2);
        nanosleep(&(struct timespec){.tv_nsec = (long)(r % 400000)}, NULL);
    }
    return NULL;
}

static void in_a_storm_every_request_is_done_exactly_once(void **state)
{
    (void)state;
    struct rig rig;
    struct storm storms[STORM_THREADS];
    pthread_t threads[STORM_THREADS];
    rig_open(&rig, &(struct rig_opts){
                       .n_pages = 150, .max_seqs = 16, .queue_max = 40, .estimate_percent = 50});
    for (int t = 0; t < STORM_THREADS; t++) {
        storms[t] = (struct storm){.rig = &rig, .key = (uint64_t)t + 5};
        storms[t].clients = calloc(STORM_REQUESTS, sizeof(struct client));
        assert_non_null(storms[t].clients);
        assert_int_equal(pthread_create(&threads[t], NULL, storm_thread, &storms[t]), 0);
    }
    uint64_t n_submitted = 0;
    for (int t = 0; t < STORM_THREADS; t++)
        pthread_join(threads[t], NULL);
    for (int t = 0; t < STORM_THREADS; t++)
        for (uint32_t i = 0; i < STORM_REQUESTS; i++)
            if (storms[t].submitted[i]) {
                n_submitted++;
                client_wait(&storms[t].clients[i]);
            }
    rig_wait_idle(&rig);
    struct sc_sched_stats st;
    sc_sched_get_stats(rig.sched, &st);
    assert_int_equal(st.submitted, n_submitted);
    assert_int_equal(st.finished + st.failed + st.canceled, n_submitted);
    assert_true(st.finished > 0 && st.failed > 0 && st.canceled > 0);
    rig_close(&rig);
    for (int t = 0; t < STORM_THREADS; t++) {
        for (uint32_t i = 0; i < STORM_REQUESTS; i++) {
            assert_int_equal(storms[t].clients[i].n_done, storms[t].submitted[i] ? 1 : 0);
            client_fini(&storms[t].clients[i]);
        }
        free(storms[t].clients);
    }
}

static int make_the_prompt(void **state)
{
    (void)state;
    make_prompt(prompt, 3000, 12);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cancel_ends_prefill_within_one_step),
        cmocka_unit_test(a_cancel_ends_decode_within_one_step),
        cmocka_unit_test(a_waiting_request_can_be_cancelled_or_time_out),
        cmocka_unit_test(a_deadline_ends_prefill_and_decode),
        cmocka_unit_test(broken_logits_end_their_own_request_alone),
        cmocka_unit_test(a_failed_engine_ends_what_ran_and_the_queue_goes_on),
        cmocka_unit_test(slots_lost_in_a_failed_step_are_not_closed_again),
        cmocka_unit_test(an_engine_that_cannot_be_reset_refuses_everything),
        cmocka_unit_test(close_ends_what_runs_and_what_waits),
        cmocka_unit_test(held_text_is_not_lost_when_a_request_is_cancelled),
        cmocka_unit_test(in_a_storm_every_request_is_done_exactly_once),
    };
    return cmocka_run_group_tests(tests, make_the_prompt, NULL);
}
