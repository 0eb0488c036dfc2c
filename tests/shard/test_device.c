/* What the engine does for backends with memory of their own: sums and gathers through the backend,
 * steps told whole, the most likely token found on the device, pages sized by a share. The device
 * is the CPU's backend with these calls added, so every result must be the plain engine's. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "tests/shard/engine_util.h"

static struct {
    pthread_mutex_t mu;
    unsigned sums, copies, puts, steps, maxima, fused;
    uint64_t memory;
    bool wrong_max, network, second_cannot_join, lose_gather;
    unsigned joins, leaves, network_sums;
    pthread_barrier_t both;
    void *data[2];
} seen = {.mu = PTHREAD_MUTEX_INITIALIZER};

static void count(unsigned *what)
{
    pthread_mutex_lock(&seen.mu);
    (*what)++;
    pthread_mutex_unlock(&seen.mu);
}

static enum sc_status device_peer_sum(struct sc_backend *be, enum sc_dtype dtype,
                                      const void *const *srcs, uint32_t n_srcs, size_t first,
                                      size_t n, void *dst, struct sc_err *err)
{
    (void)be;
    (void)err;
    count(&seen.sums);
    for (size_t i = 0; i < n; i++) {
        float f = 0.0f;
        uint32_t u = 0;
        for (uint32_t r = 0; r < n_srcs; r++) {
            float x = ((const float *)srcs[r])[first + i];
            f = r == 0 ? x : f + x;
            u += ((const uint32_t *)srcs[r])[first + i];
        }
        if (dtype == SC_DTYPE_F32)
            ((float *)dst)[i] = f;
        else
            ((uint32_t *)dst)[i] = u;
    }
    return SC_OK;
}

static enum sc_status device_copy(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                                  struct sc_err *err)
{
    (void)be;
    (void)err;
    count(&seen.copies);
    memcpy(dst, src, bytes);
    return SC_OK;
}

static enum sc_status device_put_cols(struct sc_backend *be, const struct sc_cols_args *a,
                                      struct sc_err *err)
{
    (void)be;
    (void)err;
    count(&seen.puts);
    if (a->clear)
        memset(a->dst, 0, (size_t)a->n_rows * a->dst_width * sizeof(float));
    for (uint32_t i = 0; i < a->n_rows; i++)
        memcpy((float *)a->dst + (size_t)i * a->dst_width + a->first,
               (const float *)a->src + (size_t)i * a->width, a->width * sizeof(float));
    return SC_OK;
}

static enum sc_status device_row_max(struct sc_backend *be, const float *x, uint32_t n_rows,
                                     uint32_t width, uint32_t n_cols, float *best,
                                     struct sc_err *err)
{
    (void)be;
    (void)err;
    count(&seen.maxima);
    for (uint32_t i = 0; i < n_rows; i++) {
        const float *row = x + (size_t)i * width;
        uint32_t at = 0;
        best[2 * i] = -INFINITY;
        for (uint32_t c = 0; c < n_cols; c++)
            if (row[c] > best[2 * i]) {
                best[2 * i] = row[c];
                at = c;
            }
        for (uint32_t c = 0; c < n_cols; c++)
            if (isnan(row[c]) || seen.wrong_max)
                best[2 * i] = NAN;
        memcpy(&best[2 * i + 1], &at, sizeof(at));
    }
    return SC_OK;
}

static enum sc_status device_matmul_swiglu(struct sc_backend *be, const struct sc_matrix *w,
                                           const float *x, float *gate_up, float *y, uint32_t n,
                                           uint32_t ffn, struct sc_err *err)
{
    count(&seen.fused);
    /* The golden model's hidden size; matmul checks it against the matrix. */
    enum sc_status st = be->ops->matmul(be, w, x, 64, gate_up, 2 * ffn, n, err);
    return st == SC_OK ? be->ops->swiglu(be, gate_up, y, n, ffn, err) : st;
}

static enum sc_status device_step_begin(struct sc_backend *be, const struct sc_step *step,
                                        bool *ret_replayed, struct sc_err *err)
{
    uint32_t row = 0;
    (void)be;
    count(&seen.steps);
    *ret_replayed = false;
    for (uint32_t i = 0; i < step->n_seqs; i++) {
        for (uint32_t l = 1; l < step->n_layers; l++) {
            const struct sc_attn_seq *a = &step->seqs[i], *b = &step->seqs[l * step->n_seqs + i];
            if (a->row0 != row || b->row0 != row || a->pos0 != b->pos0 || a->n_rows != b->n_rows)
                return sc_fail(err, SC_EINTERNAL, "layer %u sequence %u: other rows", l, i);
        }
        row += step->seqs[i].n_rows;
    }
    if (row != step->n_rows)
        return sc_fail(err, SC_EINTERNAL, "%u rows in sequences, %u told", row, step->n_rows);
    for (uint32_t l = 0; l < step->n_layers; l++)
        for (uint32_t i = 0; i < step->n_seqs; i++) {
            const struct sc_attn_seq *a = &step->seqs[l * step->n_seqs + i];
            for (uint32_t t = 0; t < a->n_rows; t++) {
                uint32_t pos = a->pos0 + t;
                if (step->pages[l * step->n_rows + a->row0 + t] !=
                        a->exact_pages[pos / SC_PAGE_ENTRIES] ||
                    step->positions[a->row0 + t] != pos ||
                    step->slots[a->row0 + t] != pos % SC_PAGE_ENTRIES)
                    return sc_fail(err, SC_EINTERNAL, "layer %u row %u: other page", l, t);
            }
        }
    return SC_OK;
}

static enum sc_status device_step_end(struct sc_backend *be, struct sc_err *err)
{
    (void)be;
    (void)err;
    return SC_OK;
}

/* A network of two ranks. */
static enum sc_status device_group_id(struct sc_backend *be, uint8_t *ret_id, struct sc_err *err)
{
    (void)be;
    memset(ret_id, 9, SC_GROUP_ID_BYTES);
    return seen.network ? SC_OK : sc_fail(err, SC_ENOTSUP, "no network");
}

static _Thread_local uint32_t rank_of_thread;

static enum sc_status device_group_join(struct sc_backend *be, const struct sc_group_args *args,
                                        struct sc_err *err)
{
    (void)be;
    if (args->id[SC_GROUP_ID_BYTES - 1] != 9 || args->n_ranks != 2 || args->timeout_ms == 0 ||
        args->aborted == NULL)
        return sc_fail(err, SC_EINVAL, "not the group that was made");
    if (seen.second_cannot_join && args->rank == 1)
        return sc_fail(err, SC_EDEVICE, "no way");
    rank_of_thread = args->rank;
    count(&seen.joins);
    return SC_OK;
}

static enum sc_status device_group_sum(struct sc_backend *be, enum sc_dtype dtype, void *data,
                                       size_t n, struct sc_err *err)
{
    const void *srcs[2];
    if (seen.lose_gather && dtype == SC_DTYPE_I32)
        return sc_fail(err, SC_EPEER, "the other rank is gone");
    uint32_t *sum = malloc(n * sizeof(*sum));
    seen.data[rank_of_thread] = data;
    (void)pthread_barrier_wait(&seen.both);
    srcs[0] = seen.data[0];
    srcs[1] = seen.data[1];
    enum sc_status st = device_peer_sum(be, dtype, srcs, 2, 0, n, sum, err);
    (void)pthread_barrier_wait(&seen.both);
    memcpy(data, sum, n * sizeof(*sum));
    free(sum);
    count(&seen.network_sums);
    return st;
}

static void device_group_leave(struct sc_backend *be)
{
    (void)be;
    count(&seen.leaves);
}

static enum sc_status device_memory(struct sc_backend *be, uint64_t *ret_free, uint64_t *ret_total,
                                    struct sc_err *err)
{
    (void)be;
    (void)err;
    *ret_free = seen.memory;
    *ret_total = 2 * seen.memory;
    return SC_OK;
}

static enum sc_status open_device(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                  struct sc_err *err)
{
    static struct sc_backend_ops ops;
    enum sc_status st = sc_cpu_backend_open(opts, ret_be, err);
    if (st != SC_OK)
        return st;
    pthread_mutex_lock(&seen.mu);
    if (ops.name == NULL) {
        ops = *(*ret_be)->ops;
        ops.name = "device";
        ops.memory = device_memory;
        ops.step_begin = device_step_begin;
        ops.step_end = device_step_end;
        ops.matmul_swiglu = device_matmul_swiglu;
        ops.row_max = device_row_max;
        ops.peer_sum = device_peer_sum;
        ops.put_cols = device_put_cols;
        ops.copy = device_copy;
        ops.group_id = device_group_id;
        ops.group_join = device_group_join;
        ops.group_sum = device_group_sum;
        ops.group_leave = device_group_leave;
    }
    (*ret_be)->ops = &ops;
    pthread_mutex_unlock(&seen.mu);
    return SC_OK;
}

static void on_device(struct sc_engine_opts *opts)
{
    opts->open_backend = open_device;
}

#define N_PROMPT 300u
#define N_OUTPUT 24u

static float temperature; /* of the next run; 0: greedy */

/* Prompt in blocks, then decoding; the hash of all entries and the tokens. */
static uint64_t run(rig_tweak *tweak, uint32_t n_ranks, enum sc_kv_mode mode, int32_t *output,
                    float *last_logits)
{
    struct rig rig;
    int32_t ids[N_PROMPT + N_OUTPUT];
    struct sc_sampling sampling = SC_SAMPLING_GREEDY;
    struct sc_sampler *sampler = NULL;
    struct sc_err err = SC_ERR_INIT;

    sampling.temperature = temperature;
    rig_open_golden(&rig, "llama31", 1024, n_ranks, tweak);
    const uint32_t vocab = rig.model->config.vocab;
    const struct sc_recipe recipe = small_recipe(&rig, mode);
    make_tokens(ids, N_PROMPT, vocab, 7);
    must(sc_sampler_open(&sampling, sc_tokenizer_vocab(rig.model->tok), NULL, 0, 0, &sampler, &err),
         &err);
    seq_open(&rig, 3, &recipe, N_PROMPT);
    seq_run(&rig, 3, &recipe, N_PROMPT, ids, 0, N_PROMPT - 1, 50, NULL);
    for (uint32_t i = 0; i < N_OUTPUT; i++) {
        const struct sc_plan_run r = {.slot = 3,
                                      .pos0 = N_PROMPT - 1 + i,
                                      .n_tokens = 1,
                                      .tokens = &ids[N_PROMPT - 1 + i],
                                      .want = SC_LOGITS_LAST,
                                      .sampler = i + 1 < N_OUTPUT ? sampler : NULL};
        const struct sc_plan plan = {.runs = &r, .n_runs = 1};
        struct sc_run_result result;
        must(sc_engine_step(rig.engine, &plan, &result, &err), &err);
        assert_int_equal(result.status, SC_OK);
        if (i + 1 < N_OUTPUT)
            ids[N_PROMPT + i] = output[i] = result.sampled.token;
        else
            memcpy(last_logits, result.logits, vocab * sizeof(float));
    }
    uint64_t hash = seq_entries_hash(&rig, 3);
    sc_sampler_close(sampler);
    rig_close(&rig);
    return hash;
}

static void a_device_gives_what_the_host_gives(void **state)
{
    static float a[1 << 18], b[1 << 18];
    (void)state;
    for (uint32_t n_ranks = 1; n_ranks <= 2; n_ranks++)
        for (int mode = SC_KV_EXACT; mode <= SC_KV_COMPRESSED; mode++) {
            int32_t host[N_OUTPUT] = {0}, device[N_OUTPUT] = {0};
            memset(a, 0, sizeof(a));
            memset(b, 0, sizeof(b));
            uint64_t want = run(NULL, n_ranks, (enum sc_kv_mode)mode, host, a);
            seen.sums = seen.copies = seen.steps = seen.maxima = seen.fused = 0;
            uint64_t got = run(on_device, n_ranks, (enum sc_kv_mode)mode, device, b);
            assert_int_equal(got, want);
            assert_memory_equal(host, device, sizeof(host));
            assert_memory_equal(a, b, sizeof(a));
            assert_true(seen.steps > N_OUTPUT && seen.maxima >= N_OUTPUT && seen.fused > 0);
            assert_true(n_ranks == 1 ? seen.sums == 0 : seen.sums > 0 && seen.copies > seen.sums);
        }
}

static void ranks_with_a_device_each_use_its_network(void **state)
{
    static float a[1 << 18], b[1 << 18];
    int32_t host[N_OUTPUT] = {0}, device[N_OUTPUT] = {0};
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    uint64_t want = run(NULL, 2, SC_KV_COMPRESSED, host, a);
    for (int joins = 0; joins < 2; joins++) {
        seen.network = true;
        seen.second_cannot_join = !joins;
        seen.joins = seen.leaves = seen.network_sums = seen.copies = 0;
        assert_int_equal(run(on_device, 2, SC_KV_COMPRESSED, device, b), want);
        assert_memory_equal(host, device, sizeof(host));
        assert_memory_equal(a, b, sizeof(a));
        assert_int_equal(seen.network_sums > 0, joins);
        assert_int_equal(seen.copies > 0, !joins); /* one that cannot join: nobody does */
        assert_int_equal(seen.joins, joins ? 2 : 1);
        assert_int_equal(seen.leaves, 2);
    }
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void drawn_tokens_are_those_of_the_host(void **state)
{
    static float a[1 << 18], b[1 << 18];
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    temperature = 2.0f;
    for (uint32_t n_ranks = 1; n_ranks <= 2; n_ranks++)
        for (int network = 0; network < (n_ranks == 2 ? 2 : 1); network++) {
            int32_t host[N_OUTPUT] = {0}, device[N_OUTPUT] = {0};
            uint64_t want = run(NULL, n_ranks, SC_KV_EXACT, host, a);
            seen.network = network == 1;
            seen.puts = 0;
            assert_int_equal(run(on_device, n_ranks, SC_KV_EXACT, device, b), want);
            assert_memory_equal(host, device, sizeof(host));
            assert_memory_equal(a, b, sizeof(a));
            /* A gather a token: rank 0's copies of all columns, or each rank's of its own. */
            assert_int_equal(seen.puts, n_ranks == 1 ? 0 : N_OUTPUT * n_ranks);
        }
    temperature = 0.0f;
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void one_device_for_all(struct sc_engine_opts *opts)
{
    static const int devices[] = {0, 0};
    opts->open_backend = open_device;
    opts->devices = devices;
}

static void ranks_that_share_a_device_do_not(void **state)
{
    static float a[1 << 18];
    int32_t output[N_OUTPUT] = {0};
    (void)state;
    seen.network = true;
    seen.joins = seen.copies = 0;
    (void)run(one_device_for_all, 2, SC_KV_EXACT, output, a);
    assert_int_equal(seen.joins, 0);
    assert_true(seen.copies > 0);
    seen.network = false;
}

static void after_a_reset_all_join_again(void **state)
{
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    seen.network = true;
    seen.second_cannot_join = false;
    seen.joins = 0;
    rig_open_golden(&rig, "llama31", 256, 2, on_device);
    assert_int_equal(seen.joins, 2);
    must(sc_engine_reset(rig.engine, &err), &err);
    assert_int_equal(seen.joins, 4);
    rig_close(&rig);
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void a_rank_lost_in_a_gather_breaks_the_group_until_it_is_reset(void **state)
{
    struct rig rig;
    int32_t ids[8];
    struct sc_err err = SC_ERR_INIT;
    struct sc_run_result result;
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    seen.network = true;
    rig_open_golden(&rig, "llama31", 256, 2, on_device);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    make_tokens(ids, 8, rig.model->config.vocab, 1);
    const struct sc_plan_run r = {.n_tokens = 8, .tokens = ids, .want = SC_LOGITS_LAST};
    const struct sc_plan plan = {.runs = &r, .n_runs = 1};
    seq_open(&rig, 0, &recipe, 8);
    seen.lose_gather = true;
    assert_int_equal(sc_engine_step(rig.engine, &plan, &result, &err), SC_EPEER);
    assert_non_null(strstr(err.text, "the other rank is gone"));
    seen.lose_gather = false;
    sc_err_clear(&err);
    assert_int_equal(sc_engine_step(rig.engine, &plan, &result, &err), SC_EUNAVAIL);
    sc_err_clear(&err);
    must(sc_engine_reset(rig.engine, &err), &err);
    seq_open(&rig, 0, &recipe, 8);
    must(sc_engine_step(rig.engine, &plan, &result, &err), &err);
    assert_non_null(result.logits);
    rig_close(&rig);
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void a_token_from_broken_logits_is_an_error(void **state)
{
    struct rig rig;
    int32_t ids[8];
    struct sc_sampling greedy = SC_SAMPLING_GREEDY;
    struct sc_sampler *sampler = NULL;
    struct sc_err err = SC_ERR_INIT;
    struct sc_run_result result;
    (void)state;

    rig_open_golden(&rig, "llama31", 256, 1, on_device);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    make_tokens(ids, 8, rig.model->config.vocab, 1);
    must(sc_sampler_open(&greedy, sc_tokenizer_vocab(rig.model->tok), NULL, 0, 0, &sampler, &err),
         &err);
    seq_open(&rig, 0, &recipe, 8);
    const struct sc_plan_run r = {
        .n_tokens = 8, .tokens = ids, .want = SC_LOGITS_LAST, .sampler = sampler};
    const struct sc_plan plan = {.runs = &r, .n_runs = 1};
    seen.wrong_max = true;
    must(sc_engine_step(rig.engine, &plan, &result, &err), &err);
    seen.wrong_max = false;
    assert_int_equal(result.status, SC_EINTERNAL);
    sc_sampler_close(sampler);
    rig_close(&rig);
}

static void a_share(struct sc_engine_opts *opts)
{
    static const int devices[] = {0, 0};
    opts->open_backend = open_device;
    opts->kv_bytes = 0;
    opts->kv_share = 0.5;
    opts->devices = devices;
}

static void pages_are_a_share_of_the_device(void **state)
{
    struct rig rig;
    struct sc_engine_info info;
    (void)state;
    seen.memory = (uint64_t)40 << 20;
    for (uint32_t n_ranks = 1; n_ranks <= 2; n_ranks++) { /* both on one device */
        rig_open(&rig, SC_SOURCE_DIR "/tests/golden/llama31", 256, n_ranks, a_share);
        sc_engine_get_info(rig.engine, &info);
        assert_int_equal(info.n_pages, (seen.memory / 2 / n_ranks) / info.page_bytes);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_gives_what_the_host_gives),
        cmocka_unit_test(ranks_with_a_device_each_use_its_network),
        cmocka_unit_test(drawn_tokens_are_those_of_the_host),
        cmocka_unit_test(ranks_that_share_a_device_do_not),
        cmocka_unit_test(after_a_reset_all_join_again),
        cmocka_unit_test(a_rank_lost_in_a_gather_breaks_the_group_until_it_is_reset),
        cmocka_unit_test(a_token_from_broken_logits_is_an_error),
        cmocka_unit_test(pages_are_a_share_of_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
