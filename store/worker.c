#include "store/worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "store/internal.h"

static const char *const tier_names[SC_N_TIERS] = {"directory", "shared directory", "redis"};

void sc_store_log(struct sc_store *store, const char *event, const char *detail)
{
    if (store->log != NULL)
        store->log(store->log_ctx, event, detail);
}

static struct sc_job *ring_at(const struct sc_ring *ring, uint32_t i)
{
    return &ring->jobs[(ring->first + i) % ring->cap];
}

static struct sc_job ring_take(struct sc_ring *ring)
{
    struct sc_job job = *ring_at(ring, 0);

    ring->first = (ring->first + 1) % ring->cap;
    ring->n--;
    return job;
}

bool sc_store_push_locked(struct sc_store *store, const struct sc_job *job)
{
    struct sc_ring *ring = job->kind == SC_JOB_GET ? &store->reads : &store->writes;

    if (job->kind == SC_JOB_REMOVE) {
        if (store->n_removes >= SC_STORE_QUEUE_MAX)
            return false;
        store->n_removes++;
    } else if (store->reads.n + store->n_puts >= SC_STORE_QUEUE_MAX) {
        return false;
    }
    if (job->kind == SC_JOB_PUT) {
        uint64_t bytes = sc_blob_size(job->blob);
        if (store->put_bytes > 0 && store->put_bytes + bytes > SC_STORE_QUEUE_BYTES_MAX)
            return false;
        store->put_bytes += bytes;
        store->n_puts++;
    }
    if (job->kind != SC_JOB_GET)
        store->n_to_write++;
    SC_ASSERT(ring->n < ring->cap);
    *ring_at(ring, ring->n++) = *job;
    pthread_cond_signal(&store->work);
    return true;
}

const struct sc_job *sc_store_pending_locked(const struct sc_store *store,
                                             const struct sc_hash *key)
{
    for (uint32_t i = store->writes.n; i-- > 0;) {
        const struct sc_job *job = ring_at(&store->writes, i);
        if (sc_store_same(&job->key, key))
            return job;
    }
    return NULL;
}

/* Keys whose bytes in a shared tier were found damaged: their next put writes them anew, although
 * the header there looks well. */
static void remember_damaged(struct sc_store *s, const struct sc_hash *key)
{
    s->rewrite[s->rewrite_next] = *key;
    s->rewrite_used[s->rewrite_next] = true;
    s->rewrite_next = (s->rewrite_next + 1) % SC_STORE_REWRITES;
}

static bool was_damaged(const struct sc_store *s, const struct sc_hash *key)
{
    for (uint32_t i = 0; i < SC_STORE_REWRITES; i++)
        if (s->rewrite_used[i] && sc_store_same(&s->rewrite[i], key))
            return true;
    return false;
}

static void forget_damaged(struct sc_store *s, const struct sc_hash *key)
{
    for (uint32_t i = 0; i < SC_STORE_REWRITES; i++)
        if (s->rewrite_used[i] && sc_store_same(&s->rewrite[i], key))
            s->rewrite_used[i] = false;
}

static void count(struct sc_store *s, uint64_t *counter)
{
    pthread_mutex_lock(&s->mu);
    (*counter)++;
    pthread_mutex_unlock(&s->mu);
}

static void note_failure(struct sc_store *s, enum sc_tier tier, const char *verb, const char *text)
{
    char detail[SC_ERR_TEXT_BYTES + 128];
    uint64_t now = sc_store_clock_ns(CLOCK_MONOTONIC);

    count(s, &s->stats.errors);
    if (now < s->quiet_until_ns[tier]) {
        s->n_quiet[tier]++;
        return;
    }
    (void)snprintf(detail, sizeof(detail), "%s: %s: %s (%" PRIu32 " more before)", tier_names[tier],
                   verb, text, s->n_quiet[tier]);
    s->n_quiet[tier] = 0;
    s->failed_verb[tier] = verb;
    s->quiet_until_ns[tier] = now + (uint64_t)SC_STORE_LOG_EVERY_MS * 1000000u;
    sc_store_log(s, "store tier failed", detail);
}

/* One line for what is worth one. */
static void note(struct sc_store *s, enum sc_tier tier, const char *verb, const struct sc_hash *key,
                 enum sc_status st, const struct sc_err *err)
{
    char detail[SC_ERR_TEXT_BYTES + 128], hex[2 * SC_HASH_BYTES + 1];

    switch (st) {
    case SC_OK:
        if (s->failed_verb[tier] == NULL || strcmp(s->failed_verb[tier], verb) != 0)
            break;
        s->failed_verb[tier] = NULL;
        sc_store_log(s, "store tier works again", tier_names[tier]);
        break;
    case SC_ENOENT:
    case SC_ECANCELED:
        break;
    case SC_EFORMAT:
        if (tier != SC_TIER_DIR)
            remember_damaged(s, key);
        /* fall through */
    case SC_ENOTSUP:
    case SC_EEXIST:
        count(s, &s->stats.damaged);
        sc_hash_hex(key, hex);
        (void)snprintf(detail, sizeof(detail), "%s: %s: %s", tier_names[tier], hex, err->text);
        sc_store_log(s, "stored blob refused", detail);
        break;
    default:
        note_failure(s, tier, verb, err->text);
    }
}

static enum sc_status read_tier(struct sc_store *s, enum sc_tier tier, const struct sc_job *job,
                                struct sc_blob **ret_blob)
{
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;

    switch (tier) {
    case SC_TIER_DIR:
        st = sc_disk_read(s->disk, &job->key, &job->label, ret_blob, &err);
        break;
    case SC_TIER_SHARED:
        st = sc_files_read(&s->shared, &job->key, &job->label, ret_blob, &err);
        break;
    default:
        st = sc_redis_read(s->redis, &job->key, &job->label, ret_blob, &err);
    }
    note(s, tier, "read", &job->key, st, &err);
    return st;
}

static enum sc_status refresh_tier(struct sc_store *s, enum sc_tier tier, const struct sc_job *job)
{
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;

    if (tier != SC_TIER_DIR && was_damaged(s, &job->key))
        return SC_ENOENT;
    switch (tier) {
    case SC_TIER_DIR:
        st = sc_disk_refresh(s->disk, &job->key, &job->label, &err);
        break;
    case SC_TIER_SHARED:
        st = sc_files_peek(&s->shared, &job->key, &job->label, &err);
        if (st == SC_OK)
            sc_files_touch(&s->shared, &job->key, sc_store_clock_ns(CLOCK_REALTIME));
        break;
    default:
        st = sc_redis_refresh(s->redis, &job->key, &job->label, &err);
    }
    note(s, tier, "refresh", &job->key, st, &err);
    return st;
}

static enum sc_status write_tier(struct sc_store *s, enum sc_tier tier, const struct sc_job *job,
                                 const uint8_t *header)
{
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;

    switch (tier) {
    case SC_TIER_DIR:
        st = sc_disk_write(s->disk, &job->key, header, job->blob, &err);
        break;
    case SC_TIER_SHARED:
        st = sc_files_write(&s->shared, &job->key, header, job->blob,
                            sc_store_clock_ns(CLOCK_REALTIME), &err);
        break;
    default:
        st = sc_redis_write(s->redis, &job->key, header, job->blob, &err);
    }
    /* A directory that is gone under us is a failure here, not a miss. */
    note(s, tier, "write", &job->key, st == SC_ENOENT ? SC_EIO : st, &err);
    return st;
}

static void remove_tier(struct sc_store *s, enum sc_tier tier, const struct sc_job *job)
{
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;

    switch (tier) {
    case SC_TIER_DIR:
        st = sc_disk_remove(s->disk, &job->key, &err);
        break;
    case SC_TIER_SHARED:
        st = sc_files_remove(&s->shared, &job->key, &err);
        break;
    default:
        st = sc_redis_remove(s->redis, &job->key, &err);
    }
    note(s, tier, "remove", &job->key, st, &err);
}

static void do_put(struct sc_store *s, const struct sc_job *job)
{
    uint8_t header[SC_FORMAT_HEADER_BYTES];
    bool have_header = false;
    bool shared_ok = true;

    for (enum sc_tier tier = 0; tier < job->n_tiers; tier++) {
        enum sc_status st;
        if (!s->has[tier])
            continue;
        st = refresh_tier(s, tier, job);
        /* Not tried, or the connection was just lost: a write would only wait once more. */
        if (st == SC_OK || st == SC_ECANCELED || st == SC_EUNAVAIL)
            continue;
        if (!have_header) { /* the payload is hashed only when it is written */
            struct sc_format format = {
                .key = job->key, .label = job->label, .payload_bytes = sc_blob_size(job->blob)};
            format.payload_hash = sc_format_hash(sc_blob_bytes(job->blob), sc_blob_size(job->blob));
            sc_format_encode(&format, header);
            have_header = true;
        }
        if (write_tier(s, tier, job, header) != SC_OK && tier != SC_TIER_DIR)
            shared_ok = false;
    }
    if (shared_ok && job->n_tiers == SC_N_TIERS)
        forget_damaged(s, &job->key);
}

static void do_remove(struct sc_store *s, const struct sc_job *job)
{
    for (enum sc_tier tier = 0; tier < SC_N_TIERS; tier++)
        if (s->has[tier])
            remove_tier(s, tier, job);
}

static void do_write(struct sc_store *s, struct sc_job *job)
{
    uint64_t bytes = job->kind == SC_JOB_PUT ? sc_blob_size(job->blob) : 0;

    if (job->kind == SC_JOB_PUT)
        do_put(s, job);
    else
        do_remove(s, job);
    sc_blob_unref(job->blob);
    pthread_mutex_lock(&s->mu);
    if (job->kind == SC_JOB_PUT)
        s->n_puts--;
    else
        s->n_removes--;
    s->put_bytes -= bytes;
    s->n_written++;
    pthread_cond_broadcast(&s->written);
    pthread_mutex_unlock(&s->mu);
}

/* Memory and the waiting writes. True: the answer is known; *ret_blob has a reference or is NULL.
 */
static bool find_at_hand(struct sc_store *s, const struct sc_job *job, struct sc_blob **ret_blob)
{
    struct sc_blob *blob;
    bool known;

    pthread_mutex_lock(&s->mu);
    blob = sc_memory_find(&s->memory, &job->key, &job->label);
    known = blob != NULL || s->closing;
    if (blob == NULL) {
        const struct sc_job *pending = sc_store_pending_locked(s, &job->key);
        if (pending != NULL && pending->kind == SC_JOB_REMOVE)
            known = true;
        if (pending != NULL && pending->kind == SC_JOB_PUT &&
            sc_store_same_label(&pending->label, &job->label)) {
            blob = pending->blob;
            known = true;
        }
    }
    if (blob != NULL)
        sc_blob_ref(blob);
    pthread_mutex_unlock(&s->mu);
    *ret_blob = blob;
    return known;
}

/* Into memory and the tiers before the one that had it; as far as there is room. */
static void promote(struct sc_store *s, const struct sc_job *job, struct sc_blob *blob,
                    enum sc_tier found)
{
    struct sc_memory_node *dead = NULL;
    struct sc_job put = {.kind = SC_JOB_PUT, .key = job->key, .label = job->label, .blob = blob};
    struct sc_err ignored = SC_ERR_INIT;
    bool nearer = false;

    put.n_tiers = found;
    for (enum sc_tier tier = 0; tier < found; tier++)
        nearer |= s->has[tier];
    pthread_mutex_lock(&s->mu);
    /* It may have been removed or put anew while it was read: then that decides. */
    if (sc_store_pending_locked(s, &job->key) == NULL) {
        (void)!sc_memory_put(&s->memory, &job->key, &job->label, blob, &dead, &s->stats.evicted,
                             &ignored);
        if (nearer && !s->closing) {
            sc_blob_ref(blob);
            if (!sc_store_push_locked(s, &put))
                sc_blob_unref(blob);
        }
    }
    pthread_mutex_unlock(&s->mu);
    sc_memory_free(dead);
}

static void do_get(struct sc_store *s, const struct sc_job *job)
{
    struct sc_blob *blob = NULL;
    bool known = find_at_hand(s, job, &blob);

    for (enum sc_tier tier = 0; !known && blob == NULL && tier < SC_N_TIERS; tier++)
        if (s->has[tier] && read_tier(s, tier, job, &blob) == SC_OK)
            promote(s, job, blob, tier);
    count(s, blob != NULL ? &s->stats.hits : &s->stats.misses);
    job->got(job->ctx, blob);
}

/* False: closing, and nothing waits. */
static bool next_job(struct sc_store *s, struct sc_job *ret_job)
{
    bool write, some;

    pthread_mutex_lock(&s->mu);
    while (s->reads.n == 0 && s->writes.n == 0 && !s->closing)
        pthread_cond_wait(&s->work, &s->mu);
    some = s->reads.n > 0 || s->writes.n > 0;
    write = s->writes.n > 0 && (s->reads.n == 0 || s->n_reads_in_a_row >= SC_STORE_READS_IN_A_ROW);
    if (some)
        *ret_job = ring_take(write ? &s->writes : &s->reads);
    s->n_reads_in_a_row = write ? 0 : s->n_reads_in_a_row + 1;
    pthread_mutex_unlock(&s->mu);
    return some;
}

void *sc_store_worker(void *store)
{
    struct sc_store *s = store;
    struct sc_job job;

    while (next_job(s, &job)) {
        if (job.kind == SC_JOB_GET)
            do_get(s, &job);
        else
            do_write(s, &job);
    }
    return NULL;
}
