#include "tests/scheduler/rig.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "model/unicode.h"

#define WAIT_S 60

/* The printable character that byte-level BPE writes for a byte, as a JSON escape. */
static int put_byte(char *out, uint32_t byte)
{
    uint32_t n = 0;
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (printable)
        return sprintf(out, "\\u%04x", byte);
    for (uint32_t b = 0; b < byte; b++)
        n += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    return sprintf(out, "\\u%04x", 256 + n);
}

static struct sc_tokenizer *open_tokenizer(void)
{
    static const char tail[] =
        ",\"he\":256,\"ll\":257,\"hell\":258,\"lo\":259,\"hello\":260},"
        "\"merges\":[\"h e\",\"l l\",\"he ll\",\"hell o\"]},"
        "\"added_tokens\":[{\"id\":261,\"content\":\"<eos>\",\"single_word\":false,"
        "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}],"
        "\"normalizer\":null,"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,"
        "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"trim_offsets\":true,\"use_regex\":true},\"truncation\":null,\"padding\":null}";
    char json[8192];
    int n = sprintf(json, "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"dropout\":null,"
                          "\"unk_token\":null,\"continuing_subword_prefix\":null,"
                          "\"end_of_word_suffix\":null,\"fuse_unk\":false,"
                          "\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":{");
    for (uint32_t b = 0; b < 256; b++) {
        json[n++] = '"';
        n += put_byte(json + n, b);
        n += sprintf(json + n, "\":%u%s", b, b < 255 ? "," : "");
    }
    n += sprintf(json + n, "%s", tail);
    struct sc_tokenizer *tok = NULL;
    struct sc_err err = SC_ERR_INIT;
    if (sc_tokenizer_open_memory(json, (size_t)n, NULL, 0, &tok, &err) != SC_OK)
        fail_msg("tokenizer: %s", err.text);
    assert_int_equal(sc_tokenizer_vocab(tok), RIG_TOK_VOCAB);
    return tok;
}

void rig_open(struct rig *rig, const struct rig_opts *opts)
{
    *rig = (struct rig){.n_pages = opts->n_pages != 0 ? opts->n_pages : 100000};
    rig->model.config = (struct sc_model_config){.n_layers = 2,
                                                 .vocab = RIG_VOCAB,
                                                 .max_positions = RIG_CONTEXT,
                                                 .bos_id = -1,
                                                 .eos_ids = {RIG_EOS},
                                                 .n_eos_ids = 1};
    rig->model.tok = open_tokenizer();
    rig->engine = fake_open(&(struct fake_opts){
        .vocab = RIG_VOCAB,
        .max_seqs = opts->max_seqs != 0 ? opts->max_seqs : 64,
        .max_step_tokens = 256,
        .max_context = RIG_CONTEXT,
        .n_pages = rig->n_pages,
        .estimate_percent = opts->estimate_percent != 0 ? opts->estimate_percent : 100,
        .calibrated = !opts->uncalibrated});
    const struct sc_sched_opts so = {
        .engine = rig->engine,
        .model = &rig->model,
        .queue_max = opts->queue_max != 0 ? opts->queue_max : 1024,
        .prefill_tokens = opts->prefill_tokens != 0 ? opts->prefill_tokens : 128,
        .auto_min_tokens = 300,
    };
    struct sc_err err = SC_ERR_INIT;
    if (sc_sched_open(&so, &rig->sched, &err) != SC_OK)
        fail_msg("scheduler: %s", err.text);
}

void rig_close(struct rig *rig)
{
    sc_sched_close(rig->sched);
    if (fake_violation(rig->engine) != NULL)
        fail_msg("a plan broke a rule: %s", fake_violation(rig->engine));
    struct fake_counts c = fake_counts(rig->engine);
    assert_int_equal(c.open_seqs, 0);
    assert_int_equal(c.pages_free, rig->n_pages);
    fake_close(rig->engine);
    sc_tokenizer_close(rig->model.tok);
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

void rig_wait_idle(struct rig *rig)
{
    struct sc_sched_stats st;
    for (int i = 0; i < WAIT_S * 500; i++) {
        sc_sched_get_stats(rig->sched, &st);
        if (st.waiting == 0 && st.running == 0 && st.pages_free == rig->n_pages &&
            fake_counts(rig->engine).open_seqs == 0)
            return;
        sleep_ms(2);
    }
    fail_msg("not idle: %u wait, %u run, %u of %u pages free", st.waiting, st.running,
             st.pages_free, rig->n_pages);
}

static void complain(struct client *c, bool bad, const char *what)
{
    if (bad && c->complaint == NULL)
        c->complaint = what;
}

static void take_delta(struct client *c, const struct sc_event *ev)
{
    c->n_deltas++;
    complain(c, c->text_len + ev->text_len > RIG_TEXT_MAX, "more text than a test expects");
    complain(c, c->n_tokens + ev->n_tokens > RIG_TOKENS_MAX, "more tokens than a test expects");
    if (c->complaint != NULL)
        return;
    complain(c, sc_utf8_valid_bytes(ev->text, ev->text_len) != ev->text_len, "text is not UTF-8");
    if (ev->text_len > 0)
        memcpy(c->text + c->text_len, ev->text, ev->text_len);
    c->text_len += ev->text_len;
    for (uint32_t i = 0; i < ev->n_tokens; i++)
        c->tokens[c->n_tokens++] = ev->tokens[i].token;
}

static void take_done(struct client *c, const struct sc_event *ev)
{
    c->n_done++;
    c->done = *ev;
    complain(c, ev->completion_tokens != c->n_tokens, "completion_tokens is not the deltas' sum");
    complain(c, (ev->finish == SC_FINISH_ERROR) != (ev->status != SC_OK), "finish and status");
    complain(c, ev->finish == SC_FINISH_NONE, "DONE without a finish");
    complain(c, ev->status != SC_OK && (ev->error == NULL || ev->error[0] == '\0'),
             "no error text");
    snprintf(c->error, sizeof(c->error), "%s", ev->error != NULL ? ev->error : "");
    snprintf(c->stop_string, sizeof(c->stop_string), "%s",
             ev->stop_string != NULL ? ev->stop_string : "");
}

static void on_event(void *ctx, const struct sc_event *ev)
{
    static atomic_uint n_events;
    struct client *c = ctx;
    pthread_mutex_lock(&c->mu);
    c->done_at = atomic_fetch_add(&n_events, 1) + 1;
    c->first_at = c->first_at != 0 ? c->first_at : c->done_at;
    complain(c, c->n_done > 0, "an event after DONE");
    switch (ev->kind) {
    case SC_EVENT_PROGRESS:
        complain(c, ev->prompt_done <= c->progress || ev->prompt_done > ev->prompt_total,
                 "progress went back or too far");
        c->progress = ev->prompt_done;
        c->n_progress++;
        break;
    case SC_EVENT_DELTA:
        take_delta(c, ev);
        break;
    case SC_EVENT_DONE:
        take_done(c, ev);
        break;
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mu);
}

struct sc_request_opts client_opts(const int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens)
{
    return (struct sc_request_opts){.prompt = prompt,
                                    .n_prompt = n_prompt,
                                    .max_tokens = max_tokens,
                                    .sampling = SC_SAMPLING_GREEDY,
                                    .kv = SC_KV_CHOICE_EXACT,
                                    .recipe = small_recipe()};
}

void client_init(struct client *c)
{
    memset(c, 0, sizeof(*c));
    pthread_mutex_init(&c->mu, NULL);
    pthread_cond_init(&c->changed, NULL);
}

enum sc_status client_try(struct rig *rig, struct client *c, struct sc_request_opts opts,
                          struct sc_err *err)
{
    client_init(c);
    opts.on_event = on_event;
    opts.ctx = c;
    return sc_sched_submit(rig->sched, &opts, &c->request, err);
}

void client_submit(struct rig *rig, struct client *c, struct sc_request_opts opts)
{
    struct sc_err err = SC_ERR_INIT;
    if (client_try(rig, c, opts, &err) != SC_OK)
        fail_msg("submit: %s", err.text);
}

static void wait_for(struct client *c, uint32_t n_tokens)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    pthread_mutex_lock(&c->mu);
    int rc = 0;
    while (rc == 0 && c->n_done == 0 && c->n_tokens < n_tokens)
        rc = pthread_cond_timedwait(&c->changed, &c->mu, &until);
    const char *complaint = c->complaint;
    pthread_mutex_unlock(&c->mu);
    if (rc != 0)
        fail_msg("no answer in %d s", WAIT_S);
    if (complaint != NULL)
        fail_msg("%s", complaint);
}

void client_wait(struct client *c)
{
    wait_for(c, UINT32_MAX);
}

void client_wait_tokens(struct client *c, uint32_t n)
{
    wait_for(c, n);
}

void client_fini(struct client *c)
{
    const char *complaint = c->complaint;
    sc_request_unref(c->request);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->mu);
    if (complaint != NULL)
        fail_msg("%s", complaint);
}

void client_run(struct rig *rig, struct client *c, struct sc_request_opts opts)
{
    client_submit(rig, c, opts);
    client_wait(c);
}

void make_prompt(int32_t *ids, uint32_t n, uint64_t key)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(sc_mix64(key * 7919u + i) % 256);
}

struct sc_recipe small_recipe(void)
{
    struct sc_model_config config = {.n_layers = 2};
    struct sc_recipe r;
    sc_recipe_default(&config, SC_KV_COMPRESSED, &r);
    r.window = 32;
    r.epoch = 64;
    r.n_sinks = 4;
    return r;
}
