#include "tests/shard/engine_util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/backend.h"

void must(enum sc_status st, const struct sc_err *err)
{
    if (st != SC_OK)
        fail_msg("%s: %s", sc_status_name(st), err->text);
}

void rig_open(struct rig *rig, const char *dir, uint32_t max_positions, uint32_t n_ranks,
              rig_tweak *tweak)
{
    struct sc_err err = SC_ERR_INIT;
    *rig = (struct rig){0};
    must(sc_model_open(dir, &rig->model, &err), &err);
    if (max_positions > 0)
        rig->model->config.max_positions = max_positions;
    rig->opts = (struct sc_engine_opts){
        .model = rig->model,
        .open_backend = test_backend_open,
        .n_ranks = n_ranks,
        .n_threads = 1,
        .max_seqs = 8,
        .max_step_tokens = 256,
        .max_logit_rows = 256,
        .kv_bytes = (uint64_t)64 << 20,
        .kv_dtype = SC_DTYPE_F32,
        .weight_dtype = SC_DTYPE_F32,
    };
    if (tweak != NULL)
        tweak(&rig->opts);
    must(sc_engine_open(&rig->opts, &rig->engine, &err), &err);
}

/* Calibrations by what they depend on. Each is measured once in a program: measuring costs more
 * than most tests, and is itself the subject of few of them. */
static struct measured {
    char name[32];
    uint32_t n_positions;
    struct sc_engine_opts opts;
    struct sc_calibration calibration;
} measured[64];
static size_t n_measured;

static bool is_of(const struct measured *m, const char *name, uint32_t n_positions,
                  const struct sc_engine_opts *o)
{
    return strcmp(m->name, name) == 0 && m->n_positions == n_positions &&
           m->opts.open_backend == o->open_backend && m->opts.n_ranks == o->n_ranks &&
           m->opts.n_threads == o->n_threads && m->opts.plain_weights == o->plain_weights &&
           m->opts.max_step_tokens == o->max_step_tokens && m->opts.max_context == o->max_context &&
           m->opts.kv_dtype == o->kv_dtype && m->opts.weight_dtype == o->weight_dtype &&
           m->opts.math == o->math && m->opts.strict == o->strict &&
           m->opts.reduce_dtype == o->reduce_dtype;
}

static void calibrate(struct rig *rig, const char *name, uint32_t n_positions)
{
    struct sc_err err = SC_ERR_INIT;
    bool builtin = false;
    for (size_t i = 0; i < n_measured; i++)
        if (is_of(&measured[i], name, n_positions, &rig->opts)) {
            must(sc_engine_set_calibration(rig->engine, &measured[i].calibration, &err), &err);
            return;
        }
    must(sc_calibrate_default(rig->engine, rig->model, &builtin, &err), &err);
    assert_true(builtin);
    assert_true(n_measured < SC_ARRAY_LEN(measured));
    struct measured *m = &measured[n_measured++];
    assert_true((size_t)snprintf(m->name, sizeof(m->name), "%s", name) < sizeof(m->name));
    m->n_positions = n_positions;
    m->opts = rig->opts;
    must(sc_calibration_copy(&m->calibration, sc_engine_calibration(rig->engine), &err), &err);
}

void rig_open_golden(struct rig *rig, const char *name, uint32_t n_positions, uint32_t n_ranks,
                     rig_tweak *tweak)
{
    char dir[1024];
    (void)snprintf(dir, sizeof(dir), "%s/tests/golden/%s", SC_SOURCE_DIR, name);
    rig_open(rig, dir, n_positions, n_ranks, tweak);
    calibrate(rig, name, n_positions);
}

void rig_close(struct rig *rig)
{
    sc_engine_close(rig->engine);
    sc_model_close(rig->model);
}

struct sc_recipe small_recipe(const struct rig *rig, enum sc_kv_mode mode)
{
    struct sc_recipe r;
    sc_recipe_default(&rig->model->config, mode, &r);
    r.window = 64;
    r.epoch = 128;
    return r;
}

void make_tokens(int32_t *ids, uint32_t n, uint32_t vocab, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t x = sc_mix64(seed + i);
        ids[i] = i > 8 && x % 3 == 0 ? ids[i - 1 - (x >> 8) % 8]
                                     : (int32_t)(3 + (x >> 16) % (vocab - 3));
    }
}

void seq_open(struct rig *rig, uint32_t slot, const struct sc_recipe *recipe, uint32_t prompt_len)
{
    struct sc_err err = SC_ERR_INIT;
    const struct sc_plan_open open = {.slot = slot, .recipe = recipe, .prompt_len = prompt_len};
    const struct sc_plan plan = {.opens = &open, .n_opens = 1};
    must(sc_engine_step(rig->engine, &plan, NULL, &err), &err);
}

void seq_close(struct rig *rig, uint32_t slot)
{
    struct sc_err err = SC_ERR_INIT;
    const struct sc_plan plan = {.closes = &slot, .n_closes = 1};
    must(sc_engine_step(rig->engine, &plan, NULL, &err), &err);
}

void seq_run(struct rig *rig, uint32_t slot, const struct sc_recipe *recipe, uint32_t prompt_len,
             const int32_t *ids, uint32_t pos0, uint32_t n, uint32_t block, float *logits)
{
    struct sc_err err = SC_ERR_INIT;
    const uint32_t end = pos0 + n, vocab = rig->model->config.vocab;
    for (uint32_t pos = pos0; pos < end;) {
        uint32_t cut = sc_recipe_next_cut(recipe, prompt_len, pos), to = pos + block;
        to = to < end ? to : end;
        to = to < cut ? to : cut;
        const struct sc_plan_run run = {.slot = slot,
                                        .pos0 = pos,
                                        .n_tokens = to - pos,
                                        .tokens = ids + pos,
                                        .want = logits != NULL ? SC_LOGITS_ALL : SC_LOGITS_NONE};
        const struct sc_plan plan = {.runs = &run, .n_runs = 1};
        struct sc_run_result result;
        must(sc_engine_step(rig->engine, &plan, &result, &err), &err);
        if (logits != NULL)
            memcpy(logits + (size_t)(pos - pos0) * vocab, result.logits,
                   (size_t)(to - pos) * vocab * sizeof(float));
        pos = to;
    }
}

static uint64_t mix_floats(uint64_t h, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &v[i], sizeof(u));
        h = sc_mix64(h ^ u);
    }
    return h;
}

uint64_t seq_entries_hash(struct rig *rig, uint32_t slot)
{
    const struct sc_model_config *c = &rig->model->config;
    struct sc_err err = SC_ERR_INIT;
    float k[SC_HEAD_DIM_MAX], v[SC_HEAD_DIM_MAX], bias;
    uint64_t h = 1;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        uint32_t n = sc_engine_layer_entries(rig->engine, slot, l);
        h = sc_mix64(h ^ n);
        for (uint32_t e = 0; e < n; e++)
            for (uint32_t head = 0; head < c->n_kv_heads; head++) {
                must(sc_engine_read_entry(rig->engine, slot, l, e, head, k, v, &bias, &err), &err);
                h = mix_floats(h, k, c->head_dim);
                h = mix_floats(h, v, c->head_dim);
                h = mix_floats(h, &bias, 1);
            }
    }
    return h;
}
