#include "tests/shard/device_clothes.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/dtype.h"
#include "cpu/cpu.h"

struct device_seen seen = {.mu = PTHREAD_MUTEX_INITIALIZER};
float temperature;

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
                                           uint32_t ffn, const struct sc_matrix *next,
                                           struct sc_err *err)
{
    (void)next;
    count(&seen.fused);
    /* The golden model's hidden size; matmul checks it against the matrix. */
    enum sc_status st = be->ops->matmul(be, w, x, 64, gate_up, 2 * ffn, n, err);
    return st == SC_OK ? be->ops->swiglu(be, gate_up, y, n, ffn, err) : st;
}

/* Page tables of one layer as they were told last: what is called the same is the same, but for
 * exact pages behind. */
#define LAYERS_MOST 8
static _Thread_local struct {
    uint64_t name;
    uint32_t n_cores, n_exact;
    uint32_t cores[256], exact[256];
} told[LAYERS_MOST];

static bool keeps_its_promise(const struct sc_attn_seq *seq, uint32_t layer)
{
    const uint32_t n_cores = (seq->n_cores + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
    const uint32_t first = seq->exact_lo / SC_PAGE_ENTRIES;
    const uint32_t end = (seq->pos0 + seq->n_rows - 1) / SC_PAGE_ENTRIES + 1;
    if (layer >= LAYERS_MOST || end > 256 || n_cores > 256 || seq->tables == 0)
        return false;
    if (told[layer].name == seq->tables) {
        if (n_cores != told[layer].n_cores || end < told[layer].n_exact)
            return false;
        for (uint32_t i = 0; i < n_cores; i++)
            if (seq->core_pages[i] != told[layer].cores[i])
                return false;
        for (uint32_t i = first; i < told[layer].n_exact; i++)
            if (seq->exact_pages[i] != told[layer].exact[i])
                return false;
    } else if (layer == 0) {
        count(&seen.names);
    }
    told[layer].name = seq->tables;
    told[layer].n_cores = n_cores;
    told[layer].n_exact = end;
    memcpy(told[layer].cores, seq->core_pages, n_cores * sizeof(uint32_t));
    memcpy(told[layer].exact, seq->exact_pages, end * sizeof(uint32_t));
    return true;
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
            if (a->row0 != row || b->row0 != row || a->pos0 != b->pos0 || a->n_rows != b->n_rows ||
                a->tables != b->tables)
                return sc_fail(err, SC_EINTERNAL, "layer %u sequence %u: other rows", l, i);
        }
        for (uint32_t l = 0; l < step->n_layers && step->n_seqs == 1; l++)
            if (!keeps_its_promise(&step->seqs[l], l))
                return sc_fail(err, SC_EINTERNAL, "layer %u: other pages by the same name", l);
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

static enum sc_status device_step_end(struct sc_backend *be, bool complete, struct sc_err *err)
{
    (void)be;
    (void)complete;
    (void)err;
    return SC_OK;
}

static enum sc_status device_step_wait(struct sc_backend *be, bool *ret_waited, struct sc_err *err)
{
    (void)be;
    (void)err;
    count(&seen.waits);
    *ret_waited = seen.wait_ms != 0;
    (void)usleep(seen.wait_ms * 1000);
    return SC_OK;
}

static enum sc_status device_sync(struct sc_backend *be, struct sc_err *err)
{
    (void)be;
    (void)err;
    count(&seen.syncs);
    return SC_OK;
}

/* Labels and seeds that clusters may keep, this device keeps, and leaves nothing in their place. */
static const struct sc_backend_ops *plain;
static _Thread_local struct {
    const struct sc_chunk_job *jobs; /* NULL: none are kept */
    uint32_t n_jobs;
    uint8_t labels[1 << 16], seeds[1 << 16];
} kept;

static enum sc_status device_distances(struct sc_backend *be, const struct sc_dist_args *args,
                                       struct sc_err *err)
{
    kept.jobs = NULL;
    return plain->distances(be, args, err);
}

static enum sc_status device_cluster(struct sc_backend *be, const struct sc_cluster_args *args,
                                     struct sc_err *err)
{
    size_t n = 0;
    enum sc_status st = plain->cluster(be, args, err);
    kept.jobs = NULL;
    if (st != SC_OK || !args->keep)
        return st;
    count(&seen.keeps);
    for (uint32_t i = 0; i < args->n_jobs; i++)
        n += (size_t)args->n_planes * args->jobs[i].m;
    if (n > sizeof(kept.labels))
        return sc_fail(err, SC_EINTERNAL, "%zu labels, room for %zu", n, sizeof(kept.labels));
    kept.jobs = args->jobs;
    kept.n_jobs = args->n_jobs;
    memcpy(kept.labels, args->labels, n);
    memcpy(kept.seeds, args->seeds, n);
    memset(args->labels, 0xff, n);
    memset(args->seeds, 0xff, n);
    return SC_OK;
}

static enum sc_status device_merge(struct sc_backend *be, const struct sc_merge_args *args,
                                   struct sc_err *err)
{
    struct sc_merge_args a = *args;
    if (seen.lose_merge)
        return sc_fail(err, SC_EDEVICE, "no merge");
    if (a.kept && (kept.jobs != a.jobs || kept.n_jobs != a.n_jobs))
        return sc_fail(err, SC_EINTERNAL, "%u jobs, kept are %u", a.n_jobs, kept.n_jobs);
    if (a.kept) {
        a.labels = kept.labels;
        a.seeds = kept.seeds;
    }
    kept.jobs = NULL;
    return plain->merge(be, &a, err);
}

static void device_enter(struct sc_backend *be)
{
    (void)be;
    count(&seen.enters);
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

static enum sc_status sum_bf16(const void *const *srcs, size_t n, uint16_t *sum)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = sc_f32_to_bf16(sc_bf16_to_f32(((const uint16_t *)srcs[0])[i]) +
                                sc_bf16_to_f32(((const uint16_t *)srcs[1])[i]));
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
    enum sc_status st = dtype == SC_DTYPE_BF16
                            ? sum_bf16(srcs, n, (uint16_t *)sum)
                            : device_peer_sum(be, dtype, srcs, 2, 0, n, sum, err);
    (void)pthread_barrier_wait(&seen.both);
    memcpy(data, sum, n * sc_dtype_bytes(dtype));
    if (dtype == SC_DTYPE_BF16)
        count(&seen.bf16_sums);
    free(sum);
    count(&seen.network_sums);
    return st;
}

static enum sc_status device_convert(struct sc_backend *be, enum sc_dtype from, const void *x,
                                     void *y, size_t n, struct sc_err *err)
{
    (void)be;
    (void)err;
    for (size_t i = 0; i < n; i++)
        if (from == SC_DTYPE_F32)
            ((uint16_t *)y)[i] = sc_f32_to_bf16(((const float *)x)[i]);
        else
            ((float *)y)[i] = sc_bf16_to_f32(((const uint16_t *)x)[i]);
    return SC_OK;
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

enum sc_status open_device(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                           struct sc_err *err)
{
    static struct sc_backend_ops ops;
    memset(told, 0, sizeof(told));
    enum sc_status st = sc_cpu_backend_open(opts, ret_be, err);
    if (st != SC_OK)
        return st;
    pthread_mutex_lock(&seen.mu);
    if (ops.name == NULL) {
        plain = (*ret_be)->ops;
        ops = *plain;
        ops.name = "device";
        ops.memory = device_memory;
        ops.step_begin = device_step_begin;
        ops.step_end = device_step_end;
        ops.step_wait = device_step_wait;
        ops.sync = device_sync;
        ops.enter = device_enter;
        ops.matmul_swiglu = device_matmul_swiglu;
        ops.row_max = device_row_max;
        ops.distances = device_distances;
        ops.cluster = device_cluster;
        ops.merge = device_merge;
        ops.peer_sum = device_peer_sum;
        ops.put_cols = device_put_cols;
        ops.copy = device_copy;
        ops.group_id = device_group_id;
        ops.group_join = device_group_join;
        ops.group_sum = device_group_sum;
        ops.group_leave = device_group_leave;
        ops.convert = device_convert;
    }
    (*ret_be)->ops = &ops;
    pthread_mutex_unlock(&seen.mu);
    return SC_OK;
}

void on_device(struct sc_engine_opts *opts)
{
    opts->open_backend = open_device;
}

uint64_t run(rig_tweak *tweak, uint32_t n_ranks, enum sc_kv_mode mode, int32_t *output,
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
