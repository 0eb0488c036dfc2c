#include "daemon/services.h"

#include <string.h>

#include "daemon/clock.h"
#include "daemon/convert.h"
#include "daemon/documents.h"
#include "daemon/generation.h"
#include "daemon/server.h"
#include "daemon/svc_cache.h"
#include "daemon/svc_events.h"
#include "proto/optional.h"
#include "semanticache/v1/control.pb-c.h"

static Semanticache__V1__ServerState wire_state(enum sc_health_state state)
{
    switch (state) {
    case SC_HEALTH_LOADING:
        return SEMANTICACHE__V1__SERVER_STATE__SERVER_STATE_LOADING;
    case SC_HEALTH_READY:
        return SEMANTICACHE__V1__SERVER_STATE__SERVER_STATE_READY;
    case SC_HEALTH_STUCK:
        return SEMANTICACHE__V1__SERVER_STATE__SERVER_STATE_STUCK;
    case SC_HEALTH_FAILED:
        return SEMANTICACHE__V1__SERVER_STATE__SERVER_STATE_FAILED;
    case SC_HEALTH_DRAINING:
        return SEMANTICACHE__V1__SERVER_STATE__SERVER_STATE_DRAINING;
    }
    return SEMANTICACHE__V1__SERVER_STATE__SERVER_STATE_UNSPECIFIED;
}

static Semanticache__V1__KvMode wire_mode(enum sc_kv_default mode)
{
    return (Semanticache__V1__KvMode)((int)mode + 1);
}
_Static_assert((int)SEMANTICACHE__V1__KV_MODE__KV_MODE_AUTO == SC_KV_DEFAULT_AUTO + 1 &&
                   (int)SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED ==
                       SC_KV_DEFAULT_COMPRESSED + 1,
               "modes");

static void fill_limits(const struct sc_app *app, Semanticache__V1__ServerLimits *m)
{
    semanticache__v1__server_limits__init(m);
    m->max_context = app->engine_info.max_context;
    m->max_seqs = app->engine_info.max_seqs;
    m->queue_max = app->config->queue_max;
    m->max_message_bytes = app->config->max_message_bytes;
    m->max_streams = app->config->max_streams;
}

static void get_server_info(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    Semanticache__V1__GetServerInfoResponse m = SEMANTICACHE__V1__GET_SERVER_INFO_RESPONSE__INIT;
    Semanticache__V1__RankInfo ranks[SC_RANKS_MAX], *list[SC_RANKS_MAX];
    struct sc_app *app = sc_rpc_app(rpc);
    const struct sc_engine_info *info = &app->engine_info;
    Semanticache__V1__ServerLimits limits;
    struct sc_sched_stats stats;

    (void)message;
    sc_sched_get_stats(app->sched, &stats);
    fill_limits(app, &limits);
    for (uint32_t r = 0; r < info->n_ranks; r++) {
        semanticache__v1__rank_info__init(&ranks[r]);
        ranks[r].rank = r;
        ranks[r].steps = sc_engine_progress(app->engine, r);
        list[r] = &ranks[r];
    }
    m.version = (char *)(uintptr_t)SC_VERSION;
    m.backend = (char *)(uintptr_t)info->backend;
    m.tensor_parallel = info->n_ranks;
    m.n_ranks = info->n_ranks;
    m.ranks = list;
    m.state = wire_state(atomic_load(&app->state));
    m.uptime_us = sc_now_us() - app->start_us;
    m.pages_total = stats.pages_total;
    m.pages_free = stats.pages_free;
    m.page_bytes = info->page_bytes;
    m.weight_bytes = info->weight_bytes;
    m.weight_memory_bytes = info->kept_bytes;
    m.limits = &limits;
    m.running = stats.running;
    m.waiting = stats.waiting;
    m.steps = stats.steps;
    m.auto_min_tokens = app->config->auto_min_tokens;
    m.default_mode = wire_mode(app->config->kv_mode);
    sc_rpc_reply(rpc, &m.base);
}

static void fill_sampling(const struct sc_model_config *config, Semanticache__V1__SamplingParams *m)
{
    struct sc_sampling s;

    sc_default_sampling(config, &s);
    semanticache__v1__sampling_params__init(m);
    SC_PB_SET(m, temperature, s.temperature);
    SC_PB_SET(m, top_p, s.top_p);
    SC_PB_SET(m, top_k, s.top_k);
    SC_PB_SET(m, min_p, s.min_p);
    SC_PB_SET(m, repetition_penalty, s.repetition_penalty);
    SC_PB_SET(m, presence_penalty, 0.0f);
    SC_PB_SET(m, frequency_penalty, 0.0f);
    SC_PB_SET(m, min_tokens, 0);
    SC_PB_SET(m, ignore_eos, false);
    SC_PB_SET(m, skip_special_tokens, true);
    SC_PB_SET(m, include_stop_str_in_output, false);
    SC_PB_SET(m, n, 1);
}

static void fill_kv(const struct sc_app *app, Semanticache__V1__KvOptions *m,
                    Semanticache__V1__LayerList *layers, uint32_t list[SC_LAYERS_MAX])
{
    struct sc_convert convert = sc_app_convert(app, NULL);
    struct sc_recipe r;

    sc_default_recipe(&convert, SC_KV_COMPRESSED, &r);
    semanticache__v1__kv_options__init(m);
    m->mode = wire_mode(app->config->kv_mode);
    m->prefill = (Semanticache__V1__KvPrefill)(r.exact_then_compress ? 2 : 1);
    m->metric = (Semanticache__V1__KvMetric)(r.metric + 1);
    m->seed_order = (Semanticache__V1__KvSeedOrder)(r.seed_order + 1);
    m->bias = (Semanticache__V1__KvBias)(r.log_bias ? 1 : 2);
    m->representative = (Semanticache__V1__KvRepresentative)(r.representative + 1);
    m->chunking = (Semanticache__V1__KvChunking)(r.chunking + 1);
    m->budget = (Semanticache__V1__KvBudget)(r.budget + 1);
    m->labels = (Semanticache__V1__KvLabels)(r.label_scope + 1);
    SC_PB_SET(m, target_ratio, r.target_ratio);
    SC_PB_SET(m, window, r.window);
    SC_PB_SET(m, epoch, r.epoch);
    SC_PB_SET(m, sinks, r.n_sinks);
    SC_PB_SET(m, chunk_min, r.chunk_min);
    SC_PB_SET(m, chunk_target, r.chunk_target);
    SC_PB_SET(m, chunk_max, r.chunk_max);
    SC_PB_SET(m, compress_generated, r.compress_generated);
    SC_PB_SET(m, keep_outliers, r.keep_outliers);
    SC_PB_SET(m, generated_ratio, r.generated_ratio);
    semanticache__v1__layer_list__init(layers);
    layers->layers = list;
    for (uint32_t l = 0; l < app->model->config.n_layers; l++) {
        if (sc_recipe_layer_is_exact(&r, l))
            list[layers->n_layers++] = l;
    }
    m->exact_layers = layers;
}

/* The last part of the path; "." and ".." say nothing, but they are what was given. */
static char *base_name(char *buf, size_t bytes, const char *dir)
{
    size_t len = strlen(dir), start;

    while (len > 1 && dir[len - 1] == '/')
        len--;
    for (start = len; start > 0 && dir[start - 1] != '/';)
        start--;
    if (len - start >= bytes)
        len = start + bytes - 1;
    memcpy(buf, dir + start, len - start);
    buf[len - start] = '\0';
    return buf;
}

static void fill_shapes(const struct sc_model_config *c, Semanticache__V1__GetModelInfoResponse *m)
{
    m->arch = (char *)(uintptr_t)sc_arch_name(c->arch);
    m->n_layers = c->n_layers;
    m->hidden = c->hidden;
    m->n_heads = c->n_heads;
    m->n_kv_heads = c->n_kv_heads;
    m->head_dim = c->head_dim;
    m->ffn = c->ffn;
    m->vocab = c->vocab;
    m->max_positions = c->max_positions;
    if (c->bos_id >= 0)
        SC_PB_SET(m, bos_id, c->bos_id);
    m->n_eos_ids = c->n_eos_ids;
    m->eos_ids = (int32_t *)(uintptr_t)c->eos_ids;
}

static void get_model_info(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    Semanticache__V1__GetModelInfoResponse m = SEMANTICACHE__V1__GET_MODEL_INFO_RESPONSE__INIT;
    char name[SC_CONFIG_PATH_BYTES];
    char fingerprint[2 * SC_HASH_BYTES + 1], calibration[2 * SC_HASH_BYTES + 1];
    const struct sc_app *app = sc_rpc_app(rpc);
    Semanticache__V1__SamplingParams sampling;
    Semanticache__V1__LayerList layers;
    Semanticache__V1__KvOptions kv;
    uint32_t layer_list[SC_LAYERS_MAX];

    (void)message;
    sc_hash_hex(&app->model->fingerprint, fingerprint);
    sc_hash_hex(&app->calibration_hash, calibration);
    fill_shapes(&app->model->config, &m);
    fill_sampling(&app->model->config, &sampling);
    fill_kv(app, &kv, &layers, layer_list);
    m.name = base_name(name, sizeof(name), app->model->dir);
    m.fingerprint = fingerprint;
    m.tokenizer_vocab = sc_tokenizer_vocab(app->model->tok);
    m.max_context = app->engine_info.max_context;
    m.calibration_builtin = app->calibration_builtin;
    m.calibration_id = calibration;
    m.calibration_tokens = app->calibration_tokens;
    m.weight_dtype = (char *)(uintptr_t)sc_dtype_name(app->config->weight_dtype);
    m.kv_dtype = (char *)(uintptr_t)sc_dtype_name(app->config->kv_dtype);
    m.default_sampling = &sampling;
    m.default_kv = &kv;
    sc_rpc_reply(rpc, &m.base);
}

static void get_loads(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    Semanticache__V1__GetLoadsResponse m = SEMANTICACHE__V1__GET_LOADS_RESPONSE__INIT;
    struct sc_app *app = sc_rpc_app(rpc);
    struct sc_sched_stats s;

    (void)message;
    sc_sched_get_stats(app->sched, &s);
    m.running = s.running;
    m.waiting = s.waiting;
    m.max_seqs = app->engine_info.max_seqs;
    m.queue_max = app->config->queue_max;
    m.pages_total = s.pages_total;
    m.pages_free = s.pages_free;
    m.submitted = s.submitted;
    m.finished = s.finished;
    m.failed = s.failed;
    m.cancelled = s.canceled;
    m.preempted = s.preempted;
    m.prompt_tokens = s.prompt_tokens;
    m.completion_tokens = s.completion_tokens;
    m.steps = s.steps;
    m.prefix_query_tokens = s.prefix_query_tokens;
    m.prefix_hit_tokens = s.prefix_hit_tokens;
    m.prefix_evictions = s.prefix_evictions;
    m.prefix_snapshots = s.snapshots;
    m.pages_cached = s.pages_cached;
    m.documents = sc_documents_count(app->documents);
    m.store_hits = s.store_hits;
    m.store_misses = s.store_misses;
    if (app->store != NULL) {
        struct sc_store_stats store;
        sc_store_get_stats(app->store, &store);
        m.store_bytes = store.memory_bytes + store.dir_bytes;
    }
    m.draining = atomic_load(&app->state) == SC_HEALTH_DRAINING;
    sc_rpc_reply(rpc, &m.base);
}

static void drain(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__DrainRequest *request = (const Semanticache__V1__DrainRequest *)message;
    Semanticache__V1__DrainResponse m = SEMANTICACHE__V1__DRAIN_RESPONSE__INIT;
    struct sc_app *app = sc_rpc_app(rpc);
    uint64_t timeout_ms = SC_PB_GET(request, timeout_ms, app->config->drain_timeout_us / 1000);
    struct sc_sched_stats s;

    if (timeout_ms > 86400000) {
        sc_rpc_fail(rpc, SC_EINVAL, "timeout_ms: more than a day (86400000)");
        return;
    }
    sc_app_want_drain(app, timeout_ms * 1000);
    sc_sched_get_stats(app->sched, &s);
    m.running = s.running;
    m.waiting = s.waiting;
    sc_rpc_reply(rpc, &m.base);
}

static void inspect_cache(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__InspectCacheRequest *request =
        (const Semanticache__V1__InspectCacheRequest *)message;
    struct sc_app *app = sc_rpc_app(rpc);
    struct sc_convert convert = sc_app_convert(app, sc_rpc_identity(rpc));
    struct sc_err err = SC_ERR_INIT;
    struct sc_params params;
    struct sc_lookup lookup;
    struct sc_generation_opts opts = {
        .kind = SC_GENERATE_INSPECT,
        .request_id = "",
        .params = &params,
        .layers = request->layers,
        .lookup = &lookup,
        .start_us = sc_now_us(),
    };
    enum sc_status st = sc_convert_inspect(&convert, request, &params, &err);

    if (st != SC_OK) {
        sc_rpc_fail(rpc, st, err.text);
        return;
    }
    st = sc_sched_lookup(app->sched, &params.opts, &lookup, &err);
    if (st == SC_OK)
        sc_generation_start(app, rpc, &opts);
    else
        sc_rpc_fail(rpc, st, err.text);
    sc_params_fini(&params);
}

static const struct sc_service_method methods[] = {
    {.name = "GetServerInfo", .handler = get_server_info},
    {.name = "GetModelInfo", .handler = get_model_info},
    {.name = "GetLoads", .handler = get_loads},
    {.name = "FlushCache", .handler = sc_control_flush_cache, .admin = true, .slow = true},
    {.name = "Drain", .handler = drain, .admin = true},
    {.name = "InspectCache", .handler = inspect_cache, .work = true, .slow = true},
    {.name = "SubscribeKvEvents",
     .handler = sc_control_subscribe_kv_events,
     .background = true,
     .slow = true},
    {.name = "SelfTestIsolation",
     .handler = sc_control_self_test_isolation,
     .admin = true,
     .slow = true,
     .work = true},
};

const struct sc_service sc_service_control = {
    &semanticache__v1__control__descriptor,
    methods,
    SC_ARRAY_LEN(methods),
};
