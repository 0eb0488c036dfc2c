#include "store/store.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "store/internal.h"
#include "store/worker.h"

static bool has_tiers(const struct sc_store *store)
{
    return store->has[SC_TIER_DIR] || store->has[SC_TIER_SHARED] || store->has[SC_TIER_REDIS];
}

bool sc_store_is_remote(const struct sc_store *store)
{
    return store->has[SC_TIER_SHARED] || store->has[SC_TIER_REDIS];
}

static enum sc_status ring_init(struct sc_ring *ring, uint32_t cap, struct sc_err *err)
{
    ring->cap = cap;
    ring->jobs = calloc(cap, sizeof(struct sc_job));
    return ring->jobs != NULL ? SC_OK : sc_fail(err, SC_ENOMEM, "store: no memory for its queue");
}

static enum sc_status open_tiers(struct sc_store *s, const struct sc_store_opts *opts,
                                 struct sc_err *err)
{
    enum sc_status st = SC_OK;

    if (opts->dir != NULL) {
        if (opts->dir_bytes == 0)
            return sc_fail(err, SC_EINVAL, "%s: a quota of 0 bytes", opts->dir);
        st = sc_disk_open(opts->dir, opts->dir_bytes, &s->disk, err);
        s->has[SC_TIER_DIR] = true;
    }
    if (st == SC_OK && opts->shared_dir != NULL) {
        st = sc_files_init(&s->shared, opts->shared_dir, true, err);
        if (st == SC_OK)
            sc_files_clean(&s->shared);
        s->has[SC_TIER_SHARED] = true;
    }
    if (st == SC_OK && opts->redis != NULL) {
        const struct sc_redis_opts redis = {.address = opts->redis,
                                            .login_file = opts->redis_login_file,
                                            .ttl_s = opts->redis_ttl_s,
                                            .timeout_ms = opts->io_timeout_ms};
        st = sc_redis_open(&redis, &s->redis, err);
        s->has[SC_TIER_REDIS] = true;
    }
    return st;
}

/* Signals are the main thread's; SIGPIPE of a lost connection and SIGXFSZ of a full file are
 * statuses here. */
static enum sc_status start_worker(struct sc_store *s, struct sc_err *err)
{
    sigset_t all, before;
    int e;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    e = pthread_create(&s->thread, NULL, sc_store_worker, s);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e != 0)
        return sc_fail(err, SC_ENOMEM, "store: no thread: %s", strerror(e));
    s->started = true;
    return SC_OK;
}

enum sc_status sc_store_open(const struct sc_store_opts *opts, struct sc_store **ret_store,
                             struct sc_err *err)
{
    struct sc_store *s = calloc(1, sizeof(*s));
    enum sc_status st;

    if (s == NULL)
        return sc_fail(err, SC_ENOMEM, "store: no memory");
    s->shared.fd = -1;
    s->log = opts->log;
    s->log_ctx = opts->log_ctx;
    SC_ASSERT(pthread_mutex_init(&s->mu, NULL) == 0 && pthread_cond_init(&s->work, NULL) == 0 &&
              pthread_cond_init(&s->written, NULL) == 0);
    st = sc_memory_init(&s->memory, opts->memory_bytes, err);
    if (st == SC_OK)
        st = ring_init(&s->reads, SC_STORE_QUEUE_MAX, err);
    if (st == SC_OK)
        st = ring_init(&s->writes, 2 * SC_STORE_QUEUE_MAX, err);
    if (st == SC_OK)
        st = open_tiers(s, opts, err);
    if (st == SC_OK && has_tiers(s))
        st = start_worker(s, err);
    if (st != SC_OK) {
        sc_store_close(s);
        return st;
    }
    *ret_store = s;
    return SC_OK;
}

void sc_store_close(struct sc_store *store)
{
    if (store == NULL)
        return;
    pthread_mutex_lock(&store->mu);
    store->closing = true;
    pthread_cond_broadcast(&store->work);
    pthread_mutex_unlock(&store->mu);
    if (store->started)
        (void)pthread_join(store->thread, NULL);
    sc_redis_close(store->redis);
    sc_files_fini(&store->shared);
    sc_disk_close(store->disk);
    if (store->memory.lru.buckets != NULL)
        sc_memory_fini(&store->memory);
    free(store->reads.jobs);
    free(store->writes.jobs);
    (void)pthread_cond_destroy(&store->work);
    (void)pthread_cond_destroy(&store->written);
    (void)pthread_mutex_destroy(&store->mu);
    free(store);
}

static enum sc_status full(const struct sc_store *store, struct sc_err *err)
{
    return sc_fail(err, SC_EFULL, "store: %u reads and %u writes wait, limit %u and %llu bytes",
                   store->reads.n, store->writes.n, SC_STORE_QUEUE_MAX,
                   (unsigned long long)SC_STORE_QUEUE_BYTES_MAX);
}

/* The same put waits already. */
static bool is_pending_locked(const struct sc_store *store, const struct sc_job *put)
{
    const struct sc_job *job = sc_store_pending_locked(store, &put->key);

    return job != NULL && job->kind == SC_JOB_PUT && job->n_tiers == SC_N_TIERS &&
           sc_store_same_label(&job->label, &put->label);
}

enum sc_status sc_store_put(struct sc_store *store, const struct sc_hash *key,
                            const struct sc_store_label *label, struct sc_blob *blob,
                            struct sc_err *err)
{
    struct sc_job job = {.kind = SC_JOB_PUT, .key = *key, .label = *label, .blob = blob};
    struct sc_memory_node *dead = NULL;
    enum sc_status st = SC_OK;

    job.n_tiers = SC_N_TIERS;
    pthread_mutex_lock(&store->mu);
    if (store->closing) {
        st = sc_fail(err, SC_EUNAVAIL, "store: it is closing");
    } else if (has_tiers(store) && !is_pending_locked(store, &job)) {
        sc_blob_ref(blob);
        if (!sc_store_push_locked(store, &job)) {
            sc_blob_unref(blob); /* the caller's reference keeps it */
            st = full(store, err);
        }
    }
    if (st == SC_OK) {
        /* Where other tiers write it, memory without room for an entry is no failure. */
        st = sc_memory_put(&store->memory, key, label, blob, &dead, &store->stats.evicted, err);
        if (st != SC_OK && has_tiers(store)) {
            sc_err_clear(err);
            st = SC_OK;
        }
    }
    if (st == SC_OK)
        store->stats.puts++;
    pthread_mutex_unlock(&store->mu);
    sc_memory_free(dead);
    return st;
}

enum sc_status sc_store_get(struct sc_store *store, const struct sc_hash *key,
                            const struct sc_store_label *label, sc_store_got_fn *got, void *ctx,
                            struct sc_err *err)
{
    struct sc_job job = {.kind = SC_JOB_GET, .key = *key, .label = *label, .got = got, .ctx = ctx};
    enum sc_status st = SC_OK;
    struct sc_blob *blob;
    bool now;

    pthread_mutex_lock(&store->mu);
    blob = sc_memory_find(&store->memory, key, label);
    now = blob != NULL || !has_tiers(store);
    if (blob != NULL) {
        sc_blob_ref(blob);
        if (store->disk != NULL)
            sc_disk_touch(store->disk, key);
    }
    if (now) {
        if (blob != NULL)
            store->stats.hits++;
        else
            store->stats.misses++;
    } else if (store->closing) {
        st = sc_fail(err, SC_EUNAVAIL, "store: it is closing");
    } else if (!sc_store_push_locked(store, &job)) {
        st = full(store, err);
    }
    pthread_mutex_unlock(&store->mu);
    if (now)
        got(ctx, blob);
    return st;
}

bool sc_store_has(struct sc_store *store, const struct sc_hash *key)
{
    const struct sc_job *pending;
    bool has;

    pthread_mutex_lock(&store->mu);
    has = sc_memory_has(&store->memory, key);
    if (!has) {
        pending = sc_store_pending_locked(store, key);
        if (pending != NULL)
            has = pending->kind == SC_JOB_PUT;
        else
            has = store->disk != NULL && sc_disk_has(store->disk, key);
    }
    pthread_mutex_unlock(&store->mu);
    return has;
}

void sc_store_remove(struct sc_store *store, const struct sc_hash *key)
{
    struct sc_job job = {.kind = SC_JOB_REMOVE, .key = *key};
    struct sc_memory_node *dead = NULL;
    bool dropped = false;

    pthread_mutex_lock(&store->mu);
    sc_memory_remove(&store->memory, key, &dead);
    if (has_tiers(store))
        dropped = store->closing || !sc_store_push_locked(store, &job);
    if (dropped)
        store->stats.errors++;
    pthread_mutex_unlock(&store->mu);
    sc_memory_free(dead);
    if (dropped)
        sc_store_log(store, "stored blob not removed",
                     "too many removes wait, or the store closes");
}

void sc_store_flush(struct sc_store *store)
{
    pthread_mutex_lock(&store->mu);
    uint64_t until = store->n_to_write;
    while (store->n_written < until)
        pthread_cond_wait(&store->written, &store->mu);
    pthread_mutex_unlock(&store->mu);
}

void sc_store_get_stats(struct sc_store *store, struct sc_store_stats *ret_stats)
{
    struct sc_disk_stats disk = {0};

    pthread_mutex_lock(&store->mu);
    *ret_stats = store->stats;
    ret_stats->memory_bytes = store->memory.lru.bytes;
    ret_stats->memory_blobs = store->memory.lru.n_nodes;
    ret_stats->waiting = store->reads.n + store->writes.n;
    pthread_mutex_unlock(&store->mu);
    if (store->disk != NULL)
        sc_disk_get_stats(store->disk, &disk);
    ret_stats->dir_bytes = disk.bytes;
    ret_stats->dir_blobs = disk.n_files;
    ret_stats->evicted += disk.n_evicted;
}
