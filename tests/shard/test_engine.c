/* Plans: what is refused before anything runs, pages that come back, failing devices, no
 * allocation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/backend.h"
#include "shard/rank.h"
#include "tests/shard/engine_util.h"

#define N 300u

/* Counts every allocation of the process while armed. */
static atomic_bool armed;
static atomic_uint n_allocations;

#if !defined(SC_ASAN) && !defined(SC_TSAN)
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t n, size_t bytes);
extern void *__libc_realloc(void *p, size_t bytes);

static void count(void)
{
    if (atomic_load_explicit(&armed, memory_order_relaxed))
        atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
}

void *malloc(size_t bytes)
{
    count();
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    count();
    return __libc_calloc(n, bytes);
}

void *realloc(void *p, size_t bytes)
{
    count();
    return __libc_realloc(p, bytes);
}
#define CAN_COUNT true
#else
#define CAN_COUNT false /* the sanitizer owns malloc */
#endif

static void steps_allocate_nothing(void **state)
{
    (void)state;
    if (!CAN_COUNT)
        skip();
    struct rig rig;
    int32_t ids[N];
    if (test_plugin() != NULL)
        skip(); /* a device's own libraries allocate */
    rig_open_golden(&rig, "qwen3", 512, 2, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 4);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    float *logits = malloc((size_t)N * rig.model->config.vocab * sizeof(float));
    armed = true;
    free(malloc(1)); /* the counter counts */
    armed = false;
    assert_int_equal(n_allocations, 1);
    n_allocations = 0;
    armed = true;
    seq_open(&rig, 0, &recipe, 250);
    seq_run(&rig, 0, &recipe, 250, ids, 0, 280, 90, logits);
    for (uint32_t p = 280; p < N; p++)
        seq_run(&rig, 0, &recipe, 250, ids, p, 1, 1, logits);
    seq_close(&rig, 0);
    armed = false;
    assert_int_equal(n_allocations, 0);
    free(logits);
    rig_close(&rig);
}

static enum sc_status try_run(struct rig *rig, uint32_t slot, uint32_t pos0, const int32_t *ids,
                              uint32_t n, struct sc_err *err)
{
    const struct sc_plan_run run = {
        .slot = slot, .pos0 = pos0, .n_tokens = n, .tokens = ids, .want = SC_LOGITS_LAST};
    const struct sc_plan plan = {.runs = &run, .n_runs = 1};
    struct sc_run_result result;
    sc_err_clear(err);
    return sc_engine_step(rig->engine, &plan, &result, err);
}

static void wrong_plans_are_refused_and_change_nothing(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N], bad[2] = {5, 1 << 20}, negative[1] = {-1};
    struct sc_err err = SC_ERR_INIT;
    rig_open_golden(&rig, "llama31", 512, 2, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 4);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    seq_open(&rig, 1, &recipe, N);
    assert_int_equal(try_run(&rig, 0, 0, ids, 4, &err), SC_EINVAL); /* not open */
    assert_int_equal(try_run(&rig, 99, 0, ids, 4, &err), SC_EINVAL);
    assert_int_equal(try_run(&rig, 1, 3, ids, 4, &err), SC_EINVAL); /* a hole */
    assert_int_equal(try_run(&rig, 1, 0, ids, 0, &err), SC_EINVAL);
    assert_int_equal(try_run(&rig, 1, 0, bad, 2, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "token 1048576, vocabulary 256"));
    assert_int_equal(try_run(&rig, 1, 0, negative, 1, &err), SC_EINVAL);
    assert_int_equal(try_run(&rig, 1, 0, ids, 193, &err), SC_EINVAL); /* crosses 64 + 128 */
    assert_non_null(strstr(err.text, "epoch cut at 192"));
    seq_run(&rig, 1, &recipe, N, ids, 0, N, 100, NULL); /* and it still works */
    const uint32_t twice[2] = {1, 1};
    const struct sc_plan plan = {.closes = twice, .n_closes = 2};
    sc_err_clear(&err);
    assert_int_equal(sc_engine_step(rig.engine, &plan, NULL, &err), SC_EINVAL);
    seq_close(&rig, 1);
    rig_close(&rig);
}

static size_t page_bytes;

static void four_pages_a_layer(struct sc_engine_opts *opts)
{
    opts->kv_bytes = page_bytes * 8 + page_bytes / 2; /* 2 layers; half a page is no page */
}

static void a_full_pool_refuses_and_serves_again_when_pages_come_back(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_err err = SC_ERR_INIT;
    struct sc_engine_info info;
    char dir[1024];
    (void)snprintf(dir, sizeof(dir), "%s/tests/golden/llama31", SC_SOURCE_DIR);
    rig_open(&rig, dir, 512, 1, NULL);
    sc_engine_get_info(rig.engine, &info);
    page_bytes = info.page_bytes;
    rig_close(&rig);
    rig_open(&rig, dir, 512, 1, four_pages_a_layer);
    sc_engine_get_info(rig.engine, &info);
    assert_int_equal(info.n_pages, 8);
    make_tokens(ids, N, rig.model->config.vocab, 4);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    seq_open(&rig, 0, &recipe, N);
    seq_open(&rig, 1, &recipe, N);
    seq_run(&rig, 0, &recipe, N, ids, 0, 96, 96, NULL);
    assert_int_equal(try_run(&rig, 1, 0, ids, 33, &err), SC_EFULL);
    assert_non_null(strstr(err.text, "kv pages: 4 needed, 2 free of 8"));
    seq_run(&rig, 1, &recipe, N, ids, 0, 32, 32, NULL);
    assert_int_equal(try_run(&rig, 1, 32, ids, 1, &err), SC_EFULL);
    seq_close(&rig, 0);
    seq_run(&rig, 1, &recipe, N, ids, 32, 96, 96, NULL);
    seq_close(&rig, 1);
    sc_engine_get_info(rig.engine, &info);
    assert_int_equal(info.n_pages_free, info.n_pages);
    rig_close(&rig);
}

static void pages_of_compressed_sequences_all_come_back(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_engine_info info;
    rig_open_golden(&rig, "mistral", 512, 1, NULL); /* sliding window: pages leave on the way */
    make_tokens(ids, N, rig.model->config.vocab, 4);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    seq_open(&rig, 0, &recipe, N);
    seq_run(&rig, 0, &recipe, N, ids, 0, N, 50, NULL);
    struct sc_seq_stats stats;
    sc_engine_seq_stats(rig.engine, 0, &stats);
    assert_true(stats.physical_entries <= 2ull * 16 * rig.model->config.n_layers);
    sc_engine_get_info(rig.engine, &info);
    assert_int_equal(info.n_pages - info.n_pages_free, stats.pages);
    seq_close(&rig, 0);
    sc_engine_get_info(rig.engine, &info);
    assert_int_equal(info.n_pages_free, info.n_pages);
    rig_close(&rig);
}

static void count_tokens(void *ctx, const struct sc_chunk_event *e)
{
    *(uint32_t *)ctx += e->n_tokens;
}

/* Who listens has labels come to the host; else a lone rank's device merges by those it kept. */
static void a_listener_changes_no_entry(void **state)
{
    (void)state;
    enum { SHORT = 200 }; /* one epoch */
    struct rig rig;
    int32_t ids[SHORT];
    struct sc_err err = SC_ERR_INIT;
    rig_open_golden(&rig, "llama31", 512, 1, NULL);
    make_tokens(ids, SHORT, rig.model->config.vocab, 4);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    for (int scope = SC_LABELS_SHARED; scope <= SC_LABELS_PER_HEAD; scope++) {
        uint64_t hash[2];
        uint32_t n_tokens = 0;
        recipe.label_scope = (enum sc_label_scope)scope;
        recipe.representative = scope == SC_LABELS_SHARED ? SC_REP_SEED : SC_REP_MEAN;
        for (int listen = 0; listen < 2; listen++) {
            const struct sc_plan_open open = {.recipe = &recipe,
                                              .prompt_len = SHORT,
                                              .on_chunk = listen ? count_tokens : NULL,
                                              .on_chunk_ctx = &n_tokens};
            const struct sc_plan plan = {.opens = &open, .n_opens = 1};
            must(sc_engine_step(rig.engine, &plan, NULL, &err), &err);
            seq_run(&rig, 0, &recipe, SHORT, ids, 0, SHORT, 64, NULL);
            hash[listen] = seq_entries_hash(&rig, 0);
            seq_close(&rig, 0);
        }
        assert_true(n_tokens > 0);
        assert_int_equal(hash[0], hash[1]);
    }
    rig_close(&rig);
}

/* A device that fails at a chosen call, on one rank. */
static atomic_int calls_until_failure = -1;
static struct sc_backend_ops failing_ops;
static const struct sc_backend_ops *good_ops;

static enum sc_status failing_matmul(struct sc_backend *be, const struct sc_matrix *w,
                                     const float *x, uint32_t x_stride, float *y, uint32_t y_stride,
                                     uint32_t n, struct sc_err *err)
{
    if (calls_until_failure >= 0 && atomic_fetch_sub(&calls_until_failure, 1) == 0)
        return sc_fail(err, SC_EDEVICE, "the device is gone");
    return good_ops->matmul(be, w, x, x_stride, y, y_stride, n, err);
}

static enum sc_status open_failing_rank(const struct sc_backend_opts *opts,
                                        struct sc_backend **ret_be, struct sc_err *err)
{
    enum sc_status st = test_backend_open(opts, ret_be, err);
    if (st == SC_OK && opts->rank == 1) {
        good_ops = (*ret_be)->ops;
        failing_ops = *good_ops;
        failing_ops.matmul = failing_matmul;
        failing_ops.matmul_swiglu = NULL; /* then every product is one of these */
        (*ret_be)->ops = &failing_ops;
    }
    return st;
}

static void failing_second_rank(struct sc_engine_opts *opts)
{
    opts->open_backend = open_failing_rank;
}

static void a_device_error_at_any_call_stops_the_group_and_a_reset_mends_it(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_err err = SC_ERR_INIT;
    struct sc_engine_info info;
    rig_open_golden(&rig, "llama31", 512, 2, failing_second_rank);
    make_tokens(ids, N, rig.model->config.vocab, 4);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    for (int call = 0; call < 9; call++) {
        seq_open(&rig, 0, &recipe, N);
        calls_until_failure = call;
        assert_int_equal(try_run(&rig, 0, 0, ids, 40, &err), SC_EDEVICE);
        assert_non_null(strstr(err.text, "rank 1: the device is gone"));
        assert_int_equal(try_run(&rig, 0, 0, ids, 40, &err), SC_EUNAVAIL);
        sc_err_clear(&err);
        must(sc_engine_reset(rig.engine, &err), &err);
        seq_open(&rig, 0, &recipe, N);
        seq_run(&rig, 0, &recipe, N, ids, 0, 40, 40, NULL);
        seq_close(&rig, 0);
        sc_engine_get_info(rig.engine, &info);
        assert_int_equal(info.n_pages_free, info.n_pages);
        assert_int_equal(info.generation, call + 1);
    }
    rig_close(&rig);
}

/* Rank 1 believes that it has one page less, or that a sequence is compressed further: the digest
 * that is compared at the start of each step must tell, before any collective takes its shape from
 * it. */
static void a_rank_whose_state_differs_is_found_before_the_step(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_err err = SC_ERR_INIT;
    rig_open_golden(&rig, "llama31", 512, 2, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 4);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    for (int what = 0; what < 2; what++) {
        struct sc_rank *r1 = sc_engine_rank(rig.engine, 1);
        seq_open(&rig, 0, &recipe, N);
        seq_run(&rig, 0, &recipe, N, ids, 0, 40, 40, NULL);
        if (what == 0)
            (void)sc_pages_take(&r1->pages);
        else
            r1->seqs[0].compressed_to = 32;
        assert_int_equal(try_run(&rig, 0, 40, ids + 40, 1, &err), SC_EDIVERGED);
        assert_non_null(strstr(err.text, "plan digest"));
        sc_err_clear(&err);
        must(sc_engine_reset(rig.engine, &err), &err);
    }
    rig_close(&rig);
}

static void sizes_that_do_not_divide_are_refused_by_name(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    char dir[1024];
    (void)snprintf(dir, sizeof(dir), "%s/tests/golden/llama31", SC_SOURCE_DIR);
    rig_open(&rig, dir, 0, 1, NULL);
    struct sc_engine *e = NULL;
    struct sc_engine_opts opts = rig.opts;
    opts.n_ranks = 3;
    assert_int_equal(sc_engine_open(&opts, &e, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "3 does not divide num_attention_heads 8"));
    sc_err_clear(&err);
    opts = rig.opts;
    opts.kv_bytes = 1000;
    assert_int_equal(sc_engine_open(&opts, &e, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "kv memory"));
    sc_err_clear(&err);
    opts = rig.opts;
    opts.max_context = 1 << 20;
    assert_int_equal(sc_engine_open(&opts, &e, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "context: 1048576, must be 0..512"));
    assert_null(e);
    rig_close(&rig);
}

static void a_share_of_the_host_is_refused(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_model *model = NULL;
    struct sc_engine *engine = NULL;
    (void)state;
    must(sc_model_open(SC_SOURCE_DIR "/tests/golden/llama31", &model, &err), &err);
    for (uint32_t n_ranks = 1; n_ranks <= 2; n_ranks++) {
        struct sc_err why = SC_ERR_INIT;
        const struct sc_engine_opts opts = {.model = model,
                                            .open_backend = sc_cpu_backend_open,
                                            .n_ranks = n_ranks,
                                            .n_threads = 1,
                                            .max_seqs = 2,
                                            .max_step_tokens = 16,
                                            .max_logit_rows = 2,
                                            .max_context = 64,
                                            .kv_share = 0.9,
                                            .kv_dtype = SC_DTYPE_F32,
                                            .weight_dtype = SC_DTYPE_F32};
        assert_int_equal(sc_engine_open(&opts, &engine, &why), SC_EINVAL);
        assert_non_null(strstr(why.text, "90%"));
    }
    sc_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(wrong_plans_are_refused_and_change_nothing),
        cmocka_unit_test(a_full_pool_refuses_and_serves_again_when_pages_come_back),
        cmocka_unit_test(pages_of_compressed_sequences_all_come_back),
        cmocka_unit_test(a_listener_changes_no_entry),
        cmocka_unit_test(a_device_error_at_any_call_stops_the_group_and_a_reset_mends_it),
        cmocka_unit_test(a_rank_whose_state_differs_is_found_before_the_step),
        cmocka_unit_test(sizes_that_do_not_divide_are_refused_by_name),
        cmocka_unit_test(a_share_of_the_host_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
