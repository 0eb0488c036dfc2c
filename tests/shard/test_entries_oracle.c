/* Distances, clusters, cores and attention over cores as the CPU backend computes them, on every
 * instruction set of this machine, against tools/gsc_oracle.py in double precision.
 *
 * Tolerances: keys have entries of about 1, so f32 sums of head_dim products are off by less than
 * 1e-5 relative; the threshold that the reference chooses lies in a gap far wider than that, so
 * labels must be equal.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/hash.h"
#include "cpu/cpu.h"

#define ORACLE      "'" SC_PYTHON "' '" SC_SOURCE_DIR "/tools/gsc_oracle.py' "
#define N_PROBLEMS  36u
#define HEADS_MAX   4u
#define DIM_MAX     64u
#define N_PAGES     16u
#define FIRST_CORE  8u /* pages from here on hold cores */
#define PAGE_OFFSET 3u /* the chunk's first token lies in page PAGE_OFFSET of its sequence */

struct problem {
    uint32_t m, n_heads, head_dim, pos0;
    enum sc_metric metric;
    enum sc_representative representative;
    enum sc_seed_order order;
    bool log_bias;
    uint64_t forced[SC_CHUNK_MAX / 64];
    float inv_var[HEADS_MAX], inv_freq[DIM_MAX / 2];
    float keys[HEADS_MAX][SC_CHUNK_MAX][DIM_MAX], values[HEADS_MAX][SC_CHUNK_MAX][DIM_MAX];
    float query[DIM_MAX];
    uint32_t pages[PAGE_OFFSET + SC_CHUNK_MAX / SC_PAGE_ENTRIES + 1];
};

static const char *const metrics[] = {"l2_pre", "l2_post", "cos_pre", "cos_post"};
static const char *const representatives[] = {"mean", "seed", "last"};

static float uniform(uint64_t *rng) /* in -1..1, on a grid that f32 holds exactly */
{
    *rng += 0x9e3779b97f4a7c15ull;
    return (float)((int32_t)(sc_mix64(*rng) >> 44) - (1 << 19)) / (float)(1 << 19);
}

/* Keys lie around a few homes and are then rotated to their positions, as real keys are. */
static void fill_head(struct problem *p, uint32_t head, uint64_t *rng)
{
    uint32_t half = p->head_dim / 2, n_homes = 1 + p->m / 6;
    float homes[SC_CHUNK_MAX / 6 + 2][DIM_MAX];
    for (uint32_t c = 0; c < n_homes; c++)
        for (uint32_t d = 0; d < p->head_dim; d++)
            homes[c][d] = 2 * uniform(rng);
    for (uint32_t i = 0; i < p->m; i++) {
        const float *home = homes[(i * 7 + i / 5) % n_homes];
        for (uint32_t d = 0; d < half; d++) {
            float a = home[d] + 0.2f * uniform(rng), b = home[d + half] + 0.2f * uniform(rng);
            double angle = (double)(p->pos0 + i) * (double)p->inv_freq[d];
            p->keys[head][i][d] = (float)(a * cos(angle) - b * sin(angle));
            p->keys[head][i][d + half] = (float)(b * cos(angle) + a * sin(angle));
        }
        for (uint32_t d = 0; d < p->head_dim; d++)
            p->values[head][i][d] = uniform(rng);
    }
}

static void make_problem(struct problem *p, uint32_t i)
{
    static const uint32_t sizes[] = {128, 1, 64, 33, 2, 97, 127, 65, 16};
    memset(p, 0, sizeof(*p));
    uint64_t rng = 1000 + i;
    p->m = sizes[i % 9];
    p->n_heads = 1 + i % HEADS_MAX;
    p->head_dim = (uint32_t[]){8, 64, 16}[i % 3];
    p->pos0 = PAGE_OFFSET * SC_PAGE_ENTRIES + i % SC_PAGE_ENTRIES;
    p->metric = (enum sc_metric)(i / 3 % 4);
    p->representative = (enum sc_representative)(i / 2 % 3);
    p->order = i % 5 ? SC_SEED_DENSE : SC_SEED_SCAN;
    p->log_bias = i % 6 != 0;
    for (uint32_t d = 0; d < p->head_dim / 2; d++)
        p->inv_freq[d] = powf(10000.0f, -2.0f * (float)d / (float)p->head_dim);
    for (uint32_t h = 0; h < p->n_heads; h++) {
        p->inv_var[h] = 1.0f / (float)(p->head_dim * (h + 1));
        fill_head(p, h, &rng);
    }
    for (uint32_t d = 0; d < p->head_dim; d++)
        p->query[d] = uniform(&rng);
    if (p->m > 4)
        p->forced[0] = 0x5;
    for (uint32_t g = 0; g < SC_ARRAY_LEN(p->pages); g++)
        p->pages[g] = g < PAGE_OFFSET ? UINT32_MAX : (g * 5) % FIRST_CORE;
}

static json_t *json_floats(const float *x, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        assert_int_equal(json_array_append_new(array, json_real((double)x[i])), 0);
    return array;
}

static json_t *json_heads(const struct problem *p, const float (*rows)[SC_CHUNK_MAX][DIM_MAX])
{
    json_t *heads = json_array();
    for (uint32_t h = 0; h < p->n_heads; h++) {
        json_t *head = json_array();
        for (uint32_t i = 0; i < p->m; i++)
            (void)json_array_append_new(head, json_floats(rows[h][i], p->head_dim));
        (void)json_array_append_new(heads, head);
    }
    return heads;
}

static void write_problem(FILE *file, const struct problem *p)
{
    json_t *forced = json_array();
    for (uint32_t i = 0; i < p->m; i++)
        if ((p->forced[i / 64] >> (i % 64)) & 1)
            (void)json_array_append_new(forced, json_integer(i));
    json_t *line =
        json_pack("{s:s, s:s, s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:[o], s:i}", "metric",
                  metrics[p->metric], "representative", representatives[p->representative], "order",
                  p->order == SC_SEED_DENSE ? "dense" : "scan", "log_bias", (int)p->log_bias,
                  "forced", forced, "inv_var", json_floats(p->inv_var, p->n_heads), "inv_freq",
                  json_floats(p->inv_freq, p->head_dim / 2), "keys", json_heads(p, p->keys),
                  "values", json_heads(p, p->values), "queries", json_floats(p->query, p->head_dim),
                  "cap", (int)(INT32_MAX / HEADS_MAX));
    assert_non_null(line);
    assert_int_equal(json_dumpf(line, file, JSON_COMPACT | JSON_REAL_PRECISION(17)), 0);
    (void)fputc('\n', file);
    json_decref(line);
}

/* What one instruction set needs for a problem. */
struct device {
    struct sc_backend *be;
    struct sc_kv_pool *pool;
    uint32_t core_pages[N_PAGES - FIRST_CORE];
};

static void check(enum sc_status st, const struct sc_err *err)
{
    if (st != SC_OK)
        fail_msg("%s", err->text);
}

static void load_problem(struct device *dev, const struct problem *p)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_kv_spec spec = {p->n_heads, p->head_dim, SC_DTYPE_F32};
    check(dev->be->ops->kv_open(dev->be, &spec, N_PAGES, &dev->pool, &err), &err);
    for (uint32_t i = 0; i < N_PAGES - FIRST_CORE; i++)
        dev->core_pages[i] = FIRST_CORE + i;
    for (uint32_t h = 0; h < p->n_heads; h++)
        for (uint32_t i = 0; i < p->m; i++) {
            uint32_t at = p->pos0 + i;
            check(dev->be->ops->kv_write(dev->be, dev->pool, p->pages[at / SC_PAGE_ENTRIES],
                                         at % SC_PAGE_ENTRIES, h, p->keys[h][i], p->values[h][i],
                                         0.0f, &err),
                  &err);
        }
}

static void check_distances(const struct problem *p, const int32_t *dist, const json_t *want)
{
    size_t n = 0;
    for (uint32_t i = 0; i < p->m; i++) {
        assert_int_equal(dist[i * p->m + i], 0);
        for (uint32_t j = i + 1; j < p->m; j++) {
            double d = json_number_value(json_array_get(want, n++));
            assert_int_equal(dist[i * p->m + j], dist[j * p->m + i]);
            double off = fabs(dist[i * p->m + j] - d), may = 2.0 * p->n_heads + 1e-5 * d;
            if (off > may)
                fail_msg("distance of %u and %u is %d, in the reference %.0f", i, j,
                         dist[i * p->m + j], d);
        }
    }
    assert_int_equal(json_array_size(want), n);
}

static void check_row(const float *row, const json_t *want, uint32_t n, const char *what,
                      uint32_t c)
{
    assert_int_equal(json_array_size(want), n);
    for (uint32_t d = 0; d < n; d++) {
        double x = json_number_value(json_array_get(want, d));
        if (!(fabs((double)row[d] - x) < 1e-5))
            fail_msg("%s of %u: element %u is %g, in the reference %g", what, c, d, (double)row[d],
                     x);
    }
}

static void check_cores(const struct device *dev, const struct problem *p, uint32_t count,
                        const json_t *want)
{
    struct sc_err err = SC_ERR_INIT;
    for (uint32_t h = 0; h < p->n_heads; h++) {
        const json_t *cores = json_array_get(want, h);
        assert_int_equal(json_array_size(cores), count);
        for (uint32_t c = 0; c < count; c++) {
            float k[DIM_MAX], v[DIM_MAX], bias = NAN;
            check(dev->be->ops->kv_read(dev->be, dev->pool, dev->core_pages[c / SC_PAGE_ENTRIES],
                                        c % SC_PAGE_ENTRIES, h, k, v, &bias, &err),
                  &err);
            const json_t *core = json_array_get(cores, c);
            check_row(k, json_array_get(core, 0), p->head_dim, "key", c);
            check_row(v, json_array_get(core, 1), p->head_dim, "value", c);
            double want_bias = json_number_value(json_array_get(core, 2));
            assert_true(fabs((double)bias - want_bias) < 1e-6);
        }
    }
}

static void check_attention(const struct device *dev, const struct problem *p, uint32_t count,
                            const json_t *want)
{
    struct sc_err err = SC_ERR_INIT;
    size_t bytes = sizeof(float) * HEADS_MAX * DIM_MAX;
    void *q, *out;
    check(dev->be->ops->alloc(dev->be, bytes, &q, &err), &err);
    check(dev->be->ops->alloc(dev->be, bytes, &out, &err), &err);
    float host[HEADS_MAX * DIM_MAX] = {0};
    for (uint32_t h = 0; h < p->n_heads; h++)
        memcpy(host + (size_t)h * p->head_dim, p->query, sizeof(float) * p->head_dim);
    check(dev->be->ops->upload(dev->be, q, host, bytes, &err), &err);
    /* The query stands right after the chunk: its own entry is written too, far from everything. */
    uint32_t pos = p->pos0 + p->m;
    float far_key[DIM_MAX];
    for (uint32_t d = 0; d < p->head_dim; d++)
        far_key[d] = p->query[d] >= 0 ? -1e4f : 1e4f;
    for (uint32_t h = 0; h < p->n_heads; h++)
        check(dev->be->ops->kv_write(dev->be, dev->pool, p->pages[pos / SC_PAGE_ENTRIES],
                                     pos % SC_PAGE_ENTRIES, h, far_key, far_key, 0.0f, &err),
              &err);
    struct sc_attn_seq seq = {.n_rows = 1,
                              .pos0 = pos,
                              .n_cores = count,
                              .exact_lo = pos,
                              .core_pages = dev->core_pages,
                              .exact_pages = p->pages};
    struct sc_attn_args args = {.q = q,
                                .out = out,
                                .pool = dev->pool,
                                .seqs = &seq,
                                .n_seqs = 1,
                                .q_stride = p->n_heads * p->head_dim,
                                .n_heads = p->n_heads,
                                .n_kv_heads = p->n_heads,
                                .head_dim = p->head_dim,
                                .scale = 1.0f / sqrtf((float)p->head_dim)};
    check(dev->be->ops->attention(dev->be, &args, &err), &err);
    check(dev->be->ops->sync(dev->be, &err), &err);
    check(dev->be->ops->download(dev->be, host, out, bytes, &err), &err);
    for (uint32_t h = 0; h < p->n_heads; h++)
        check_row(host + (size_t)h * p->head_dim, json_array_get(json_array_get(want, 0), h),
                  p->head_dim, "attention", h);
    dev->be->ops->free(dev->be, q);
    dev->be->ops->free(dev->be, out);
}

static uint32_t compare(struct device *dev, const struct problem *p, const json_t *want)
{
    struct sc_err err = SC_ERR_INIT;
    load_problem(dev, p);
    void *dist;
    check(dev->be->ops->alloc(dev->be, sizeof(int32_t) * SC_CHUNK_MAX * SC_CHUNK_MAX, &dist, &err),
          &err);
    struct sc_chunk_job job = {.exact_pages = p->pages,
                               .core_pages = dev->core_pages,
                               .pos0 = p->pos0,
                               .m = p->m,
                               .inv_var = p->inv_var,
                               .tau = json_integer_value(json_object_get(want, "tau"))};
    memcpy(job.forced, p->forced, sizeof(job.forced));
    struct sc_dist_args dargs = {.pool = dev->pool,
                                 .jobs = &job,
                                 .n_jobs = 1,
                                 .n_planes = 1,
                                 .n_kv_heads = p->n_heads,
                                 .head_dim = p->head_dim,
                                 .metric = p->metric,
                                 .inv_freq = p->inv_freq,
                                 .cap = INT32_MAX / HEADS_MAX,
                                 .contributes = true,
                                 .dist = dist};
    check(dev->be->ops->distances(dev->be, &dargs, &err), &err);
    int32_t *host = calloc((size_t)p->m * p->m, sizeof(*host));
    assert_non_null(host);
    check(dev->be->ops->download(dev->be, host, dist, sizeof(*host) * p->m * p->m, &err), &err);
    check_distances(p, host, json_object_get(want, "dist"));
    free(host);

    uint8_t labels[SC_CHUNK_MAX], seeds[SC_CHUNK_MAX];
    uint32_t count = 0;
    struct sc_cluster_args cargs = {.jobs = &job,
                                    .n_jobs = 1,
                                    .n_planes = 1,
                                    .seed_order = p->order,
                                    .dist = dist,
                                    .labels = labels,
                                    .seeds = seeds,
                                    .counts = &count};
    check(dev->be->ops->cluster(dev->be, &cargs, &err), &err);
    assert_int_equal(count, json_integer_value(json_object_get(want, "count")));
    for (uint32_t i = 0; i < p->m; i++)
        assert_int_equal(labels[i],
                         json_integer_value(json_array_get(json_object_get(want, "labels"), i)));
    struct sc_merge_args margs = {.pool = dev->pool,
                                  .jobs = &job,
                                  .n_jobs = 1,
                                  .n_planes = 1,
                                  .n_kv_heads = p->n_heads,
                                  .head_dim = p->head_dim,
                                  .representative = p->representative,
                                  .log_bias = p->log_bias,
                                  .labels = labels,
                                  .seeds = seeds,
                                  .counts = &count,
                                  .n_cores = &count};
    check(dev->be->ops->merge(dev->be, &margs, &err), &err);
    check_cores(dev, p, count, json_object_get(want, "cores"));
    check_attention(dev, p, count, json_object_get(want, "attention"));
    dev->be->ops->free(dev->be, dist);
    dev->be->ops->kv_close(dev->be, dev->pool);
    return count;
}

static json_t *answers; /* [N_PROBLEMS], of the reference */

static int ask_reference(void **state)
{
    (void)state;
    char path[] = "/tmp/sc-entries-XXXXXX", command[4096];
    int fd = mkstemp(path);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    struct problem *p = calloc(1, sizeof(*p));
    if (!file || !p)
        return -1;
    for (uint32_t i = 0; i < N_PROBLEMS; i++) {
        make_problem(p, i);
        write_problem(file, p);
    }
    free(p);
    (void)fclose(file);
    (void)snprintf(command, sizeof(command), "%sentries < %s", ORACLE, path);
    FILE *pipe = popen(command, "r");
    if (!pipe)
        return -1;
    answers = json_array();
    json_error_t why;
    json_t *line;
    while ((line = json_loadf(pipe, JSON_DISABLE_EOF_CHECK, &why)))
        (void)json_array_append_new(answers, line);
    int status = pclose(pipe);
    (void)unlink(path);
    return status != 0 || json_array_size(answers) != N_PROBLEMS ? -1 : 0;
}

static int drop_answers(void **state)
{
    (void)state;
    json_decref(answers);
    return 0;
}

static void compare_on(enum sc_cpu_isa isa)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_backend_opts opts = {.n_ranks = 1, .n_threads = 2};
    struct device dev = {0};
    if (sc_cpu_backend_open_isa(&opts, isa, &dev.be, &err) == SC_ENOTSUP) {
        print_message("skipped: %s\n", err.text);
        skip();
    }
    assert_non_null(dev.be);
    struct problem *p = calloc(1, sizeof(*p));
    assert_non_null(p);
    uint32_t tokens = 0, cores = 0;
    for (uint32_t i = 0; i < N_PROBLEMS; i++) {
        make_problem(p, i);
        tokens += p->m;
        cores += compare(&dev, p, json_array_get(answers, i));
    }
    print_message("%s: %u tokens, %u cores\n", sc_cpu_isa_name(isa), tokens, cores);
    assert_true(cores > 2 * N_PROBLEMS && cores < tokens / 2);
    free(p);
    dev.be->ops->close(dev.be);
}

static void plain_code_computes_the_cores_of_the_reference(void **state)
{
    (void)state;
    compare_on(SC_CPU_ISA_PLAIN);
}

static void avx2_computes_the_cores_of_the_reference(void **state)
{
    (void)state;
    compare_on(SC_CPU_ISA_AVX2);
}

static void avx512_computes_the_cores_of_the_reference(void **state)
{
    (void)state;
    compare_on(SC_CPU_ISA_AVX512);
}

int main(void)
{
    if (SC_PYTHON[0] == '\0') {
        puts("skipped: no python3 was found when the build was configured");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_code_computes_the_cores_of_the_reference),
        cmocka_unit_test(avx2_computes_the_cores_of_the_reference),
        cmocka_unit_test(avx512_computes_the_cores_of_the_reference),
    };
    return cmocka_run_group_tests(tests, ask_reference, drop_answers);
}
