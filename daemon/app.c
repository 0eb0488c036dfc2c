#include "daemon/app.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "cpu/cpu.h"
#include "daemon/calibration_file.h"
#include "daemon/clock.h"
#include "daemon/documents.h"
#include "daemon/documents_warm.h"
#include "daemon/keys.h"
#include "daemon/plugin.h"
#include "daemon/run_request.h"
#include "daemon/sdnotify.h"
#include "daemon/services.h"
#include "daemon/svc_events.h"
#include "daemon/symbols.h"
#include "proto/descriptors.h"

/* kv.memory = "auto" */
#define CPU_KV_BYTES ((uint64_t)1 << 30)
#define GPU_KV_SHARE 0.9
/* engine.prefill_tokens = 0: what products need to be fast */
#define CPU_PREFILL_TOKENS 512u
#define GPU_PREFILL_TOKENS 2048u
#define WARM_UP_SECONDS    600
#define PROGRESS_US        2000000u

enum sc_status sc_app_open(const struct sc_config *config, struct sc_app *app, struct sc_err *err)
{
    enum sc_status st;

    memset(app, 0, sizeof(*app));
    app->config = config;
    app->start_us = sc_now_us();
    atomic_init(&app->state, SC_HEALTH_LOADING);
    atomic_init(&app->loaded, false);
    atomic_init(&app->drain_wanted, false);
    atomic_init(&app->drain_timeout_us, config->drain_timeout_us);
    sc_registry_init(&app->registry);
    app->wake_fd = -1;
    if (config->keys_file[0] != '\0') {
        st = sc_keys_open(config->keys_file, &app->keys, err);
        if (st != SC_OK)
            return st;
    }
    app->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (app->wake_fd < 0)
        return sc_fail(err, SC_EIO, "eventfd: %s", strerror(errno));
    st = sc_symbols_open(sc_proto_descriptors, sc_proto_descriptors_bytes, &app->symbols, err);
    if (st == SC_OK)
        st = sc_watchers_open(&app->watchers, err);
    if (st == SC_OK)
        st = sc_followers_open(app, &app->followers, err);
    if (st == SC_OK)
        st = sc_dispatch_open(&app->dispatch, err);
    return st;
}

/* ---- load ---- */

/* `cuda` must work or fail; `auto` says in one line what it found and what runs instead. */
static enum sc_status choose_backend(const struct sc_config *config, sc_backend_open_fn **ret_open,
                                     bool *ret_gpu, struct sc_err *err)
{
    const struct sc_backend_plugin *plugin = NULL;
    struct sc_err why = SC_ERR_INIT;
    enum sc_status st = SC_OK;

    if (config->backend != SC_BACKEND_CPU) {
        st = sc_plugin_open(NULL, &plugin, &why);
        if (st == SC_OK)
            st = sc_plugin_try(plugin, &why);
        if (st == SC_OK) {
            *ret_open = plugin->open;
            *ret_gpu = true;
            return SC_OK;
        }
        if (config->backend == SC_BACKEND_CUDA)
            return sc_fail(err, st, "engine.backend: cuda: %s; cpu and auto would work", why.text);
        sc_notice("backend", "wanted=auto uses=cpu reason=\"%s\"", why.text);
    }
    *ret_open = sc_cpu_backend_open;
    *ret_gpu = false;
    return SC_OK;
}

/* The CPUs that we may run on, shared out among the ranks. */
static uint32_t threads_of_rank(const struct sc_config *config)
{
    cpu_set_t set;
    uint32_t cpus = 1, threads;

    if (config->threads > 0)
        return config->threads;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        cpus = (uint32_t)CPU_COUNT(&set);
    threads = cpus / config->tensor_parallel;
    if (threads > SC_CPU_THREADS_MAX)
        threads = SC_CPU_THREADS_MAX;
    return threads > 0 ? threads : 1;
}

/* A resume point every four pages: a block of 512 tokens in one layer has sixteen. */
static uint32_t snapshots_of(const struct sc_config *config, const struct sc_model *model,
                             uint64_t kv_bytes)
{
    const struct sc_model_config *c = &model->config;
    uint64_t page = (uint64_t)SC_PAGE_ENTRIES * 2 * c->n_kv_heads *
                    sc_kv_row_bytes(config->kv_dtype, c->head_dim) / config->tensor_parallel;
    uint64_t n = kv_bytes / (page > 0 ? page : 1) / 4;

    if (config->max_snapshots > 0)
        return config->max_snapshots;
    if (kv_bytes == 0) /* a share of a device */
        return 16384;
    return n < 64 ? 64 : n > 16384 ? 16384 : (uint32_t)n;
}

/* Called by every rank's thread; rank 0 speaks for all, every few seconds. */
static void on_load(void *ctx, uint32_t rank, uint32_t done, uint32_t total)
{
    struct sc_app *app = ctx;
    if (rank != 0 || sc_now_us() < app->next_progress_us)
        return;
    app->next_progress_us = sc_now_us() + PROGRESS_US;
    sc_notice("loading weights", "layers=%u of=%u", done, total);
    sc_notify_status("loading weights, layer %u of %u", done, total);
}

static enum sc_status open_engine(struct sc_app *app, struct sc_err *err)
{
    const struct sc_config *config = app->config;
    int devices[SC_RANKS_MAX];
    bool gpu = false, devices_given = false;
    struct sc_engine_opts opts = {
        .model = app->model,
        .n_ranks = config->tensor_parallel,
        .n_threads = threads_of_rank(config),
        .pin_threads = config->pin_threads,
        .plain_weights = !config->pack_weights,
        .max_seqs = config->max_seqs,
        .max_logit_rows = config->max_seqs,
        .max_context = config->max_context,
        .kv_dtype = config->kv_dtype,
        .weight_dtype = config->weight_dtype,
        .math = config->math,
        .reduce_dtype = config->reduce_dtype,
        .strict = config->determinism == SC_DETERMINISM_STRICT,
        .on_load = on_load,
        .on_load_ctx = app,
    };
    enum sc_status st = choose_backend(config, &opts.open_backend, &gpu, err);

    if (st == SC_OK)
        st = sc_config_devices(config, devices, &devices_given, err);
    opts.devices = devices_given ? devices : NULL;
    if (config->kv_memory > 100)
        opts.kv_bytes = config->kv_memory;
    else if (config->kv_memory == 0 && !gpu)
        opts.kv_bytes = CPU_KV_BYTES;
    else
        opts.kv_share = config->kv_memory > 0 ? (double)config->kv_memory / 100.0 : GPU_KV_SHARE;
    app->prefill_tokens = config->prefill_tokens;
    if (app->prefill_tokens == 0)
        app->prefill_tokens = gpu ? GPU_PREFILL_TOKENS : CPU_PREFILL_TOKENS;
    if (app->prefill_tokens + config->max_seqs > SC_STEP_TOKENS_MAX)
        app->prefill_tokens = SC_STEP_TOKENS_MAX - config->max_seqs;
    opts.max_step_tokens = app->prefill_tokens + config->max_seqs;
    if (config->kv_sharing)
        opts.max_snaps = snapshots_of(config, app->model, opts.kv_bytes);
    app->next_progress_us = sc_now_us() + PROGRESS_US;
    if (st == SC_OK)
        st = sc_engine_open(&opts, &app->engine, err);
    if (st == SC_OK)
        sc_engine_get_info(app->engine, &app->engine_info);
    if (st == SC_OK)
        sc_notice("weights loaded", "dtype=%s bytes=%llu memory=%llu",
                  sc_dtype_name(config->weight_dtype),
                  (unsigned long long)app->engine_info.weight_bytes,
                  (unsigned long long)app->engine_info.kept_bytes);
    if (st == SC_OK && app->engine_info.weight_error > 0.0)
        sc_notice("weights rounded", "dtype=%s relative_error=%.4f worst_matrix=%.4f",
                  sc_dtype_name(config->weight_dtype), app->engine_info.weight_error,
                  app->engine_info.weight_error_worst);
    return st;
}

static const char *or_null(const char *path)
{
    return path[0] != '\0' ? path : NULL;
}

/* Whoever finds entries must have the calibration that they were made with: it is kept where most
 * daemons find entries. */
static const char *calibration_dir(const struct sc_config *config)
{
    return config->store_shared_dir[0] != '\0' ? config->store_shared_dir
                                               : or_null(config->store_dir);
}

/* The store is open, so that the directory is there and, if it is our own, locked. */
static enum sc_status calibrate(struct sc_app *app, struct sc_err *err)
{
    const struct sc_calibration *c;
    enum sc_status st = sc_calibration_file_use(
        app->engine, app->model, calibration_dir(app->config), &app->calibration_builtin, err);

    if (st != SC_OK)
        return st;
    c = sc_engine_calibration(app->engine);
    app->calibration_hash = sc_calibration_hash(c);
    app->calibration_tokens = c->n_tokens;
    app->exact_layers = c->knows_exact_layers ? c->exact_layers : NULL;
    return SC_OK;
}

/* One token through the whole path, so that READY means that it works. */
static enum sc_status warm_up(struct sc_app *app, struct sc_err *err)
{
    int32_t first = app->model->config.bos_id >= 0 ? app->model->config.bos_id : 0;
    struct sc_request_opts opts = {
        .prompt = &first,
        .n_prompt = 1,
        .max_tokens = 1,
        .ignore_eos = true,
        .sampling = SC_SAMPLING_GREEDY,
        .kv = SC_KV_CHOICE_EXACT,
        .deadline_us = sc_now_us() + WARM_UP_SECONDS * UINT64_C(1000000),
    };
    struct sc_runner runner;
    struct sc_event end;
    enum sc_status st;

    sc_recipe_default(&app->model->config, SC_KV_EXACT, &opts.recipe);
    sc_runner_init(&runner);
    st = sc_runner_run(&runner, app->sched, &opts, &end, err);
    sc_runner_fini(&runner);
    return st == SC_OK ? SC_OK : sc_err_prefix(err, st, "the first request, of one token");
}

/* A model without a template, or with one that we do not understand, serves all but messages. */
static void open_chat(struct sc_app *app)
{
    enum sc_status st = sc_chat_template_open_dir(app->model->dir, &app->chat, &app->no_chat);

    if (st == SC_ENOENT)
        sc_notice("no chat template", "reason=\"%s\"", app->no_chat.text);
    else if (st != SC_OK)
        sc_warn("chat template refused", "reason=\"%s\" uses=\"text and token_ids only\"",
                app->no_chat.text);
}

static void log_store(void *ctx, const char *event, const char *detail)
{
    (void)ctx;
    sc_warn(event, "%s", detail);
}

static enum sc_status open_store(struct sc_app *app, struct sc_err *err)
{
    const struct sc_config *c = app->config;
    const struct sc_store_opts opts = {
        .memory_bytes = c->store_memory_bytes,
        .dir = or_null(c->store_dir),
        .dir_bytes = c->store_dir_bytes,
        .shared_dir = or_null(c->store_shared_dir),
        .redis = or_null(c->store_redis),
        .redis_login_file = or_null(c->store_redis_login),
        .redis_ttl_s = (uint32_t)(c->store_redis_ttl_us / 1000000),
        .io_timeout_ms = 2000,
        .log = log_store,
    };

    if (opts.memory_bytes == 0 && opts.dir == NULL && opts.shared_dir == NULL && opts.redis == NULL)
        return SC_OK;
    return sc_store_open(&opts, &app->store, err);
}

enum sc_status sc_app_load(struct sc_app *app, struct sc_err *err)
{
    struct sc_sched_opts opts = {.queue_max = app->config->queue_max,
                                 .auto_min_tokens = app->config->auto_min_tokens,
                                 .prefix_ttl_us = app->config->prefix_ttl_us,
                                 .no_sharing = !app->config->kv_sharing,
                                 .on_kv_events = sc_followers_tell,
                                 .kv_ctx = app->followers};
    enum sc_status st = sc_model_open(app->config->model_dir, &app->model, err);

    if (st == SC_OK)
        open_chat(app);
    if (st == SC_OK)
        st = open_engine(app, err);
    if (st == SC_OK)
        st = open_store(app, err);
    if (st == SC_OK)
        st = calibrate(app, err);
    if (st == SC_OK) {
        opts.store = app->store;
        opts.engine = app->engine;
        opts.model = app->model;
        opts.prefill_tokens = app->prefill_tokens; /* open_engine chose them */
        st = sc_sched_open(&opts, &app->sched, err);
    }
    if (st == SC_OK)
        app->kv_log = sc_sched_kv_log(app->sched);
    if (st == SC_OK)
        st = warm_up(app, err);
    if (st == SC_OK)
        st = sc_documents_open(app, &app->documents, err);
    if (st == SC_OK)
        st = sc_warm_start(app, &app->warm, err);
    if (st == SC_OK)
        atomic_store(&app->loaded, true);
    return st;
}

/* ---- the end ---- */

void sc_app_stop(struct sc_app *app)
{
    sc_warm_stop(app->warm);
    app->warm = NULL;
    sc_sched_close(app->sched);
    app->sched = NULL;
    app->kv_log = NULL;
    sc_store_close(app->store); /* writes what was put */
    app->store = NULL;
    sc_engine_close(app->engine);
    app->engine = NULL;
}

void sc_app_close(struct sc_app *app)
{
    sc_app_stop(app);
    sc_dispatch_close(app->dispatch);
    sc_documents_close(app->documents);
    sc_keys_close(app->keys);
    sc_watchers_close(app->watchers);
    sc_followers_close(app->followers);
    sc_symbols_close(app->symbols);
    sc_chat_template_close(app->chat);
    sc_model_close(app->model);
    if (app->config != NULL) {
        sc_registry_fini(&app->registry);
        if (app->wake_fd >= 0)
            (void)close(app->wake_fd);
    }
    memset(app, 0, sizeof(*app));
}

/* ---- while it runs ---- */

enum sc_status sc_app_admits(struct sc_app *app, bool always, bool work, struct sc_err *err)
{
    enum sc_health_state state = atomic_load(&app->state);

    if (always)
        return SC_OK;
    if (!atomic_load(&app->loaded))
        return sc_fail(err, SC_EUNAVAIL, "the model is being loaded");
    if (work && (state == SC_HEALTH_DRAINING || atomic_load(&app->drain_wanted)))
        return sc_fail(err, SC_EUNAVAIL, "the server is draining and takes no new requests");
    if (work && state == SC_HEALTH_FAILED)
        return sc_fail(err, SC_EUNAVAIL, "the engine has failed");
    return SC_OK;
}

void sc_app_want_drain(struct sc_app *app, uint64_t timeout_us)
{
    uint64_t one = 1;

    atomic_store(&app->drain_timeout_us, timeout_us);
    atomic_store(&app->drain_wanted, true);
    (void)!write(app->wake_fd, &one, sizeof(one)); /* full: the loop is awake already */
}

uint64_t sc_app_progress(const struct sc_app *app)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t r = 0; r < app->engine_info.n_ranks; r++) {
        uint64_t steps = sc_engine_progress(app->engine, r);
        least = steps < least ? steps : least;
    }
    return least;
}
