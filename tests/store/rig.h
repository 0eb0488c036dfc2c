/* tests/store/rig.h - what the tests of the store share: a directory of their own, blobs whose
 * bytes follow from their key, a log that is counted, and a get that waits. */
#ifndef SC_TESTS_STORE_RIG_H
#define SC_TESTS_STORE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store.h"

struct rig {
    char root[64];
    pthread_mutex_t mu;
    pthread_cond_t cond;
    unsigned n_lines;
    char event[128], last[1024]; /* the last line */
    bool answered;
    struct sc_blob *blob;
};

static inline int rig_rm(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    (void)info;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline int rig_setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));

    SC_ASSERT(rig != NULL);
    strcpy(rig->root, "/tmp/sc-store-XXXXXX");
    SC_ASSERT(mkdtemp(rig->root) != NULL);
    pthread_mutex_init(&rig->mu, NULL);
    pthread_cond_init(&rig->cond, NULL);
    *state = rig;
    return 0;
}

static inline int rig_teardown(void **state)
{
    struct rig *rig = *state;

    (void)nftw(rig->root, rig_rm, 16, FTW_DEPTH | FTW_PHYS);
    pthread_mutex_destroy(&rig->mu);
    pthread_cond_destroy(&rig->cond);
    free(rig);
    return 0;
}

static inline void rig_log(void *ctx, const char *event, const char *detail)
{
    struct rig *rig = ctx;

    pthread_mutex_lock(&rig->mu);
    rig->n_lines++;
    (void)snprintf(rig->event, sizeof(rig->event), "%s", event);
    (void)snprintf(rig->last, sizeof(rig->last), "%s", detail);
    pthread_mutex_unlock(&rig->mu);
}

static inline unsigned rig_lines(struct rig *rig)
{
    pthread_mutex_lock(&rig->mu);
    unsigned n = rig->n_lines;
    pthread_mutex_unlock(&rig->mu);
    return n;
}

/* A path below the rig's directory; valid until the next but three. */
static inline const char *rig_path(struct rig *rig, const char *name)
{
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];

    (void)snprintf(path, sizeof(paths[0]), "%s/%s", rig->root, name);
    return path;
}

static inline struct sc_hash rig_key(uint32_t i)
{
    struct sc_hasher h;

    sc_hasher_init(&h);
    sc_hasher_u32(&h, i);
    return sc_hasher_end(&h);
}

static inline void rig_path_of(struct rig *rig, const char *dir, uint32_t i, char ret_path[256])
{
    struct sc_hash key = rig_key(i);
    char hex[2 * SC_HASH_BYTES + 1];

    sc_hash_hex(&key, hex);
    (void)snprintf(ret_path, 256, "%s/%s/%.2s/%s.core", rig->root, dir, hex, hex);
}

static inline struct sc_store_label rig_label(uint32_t i)
{
    return (struct sc_store_label){.model = rig_key(1000000 + i), .recipe = rig_key(2000000 + i)};
}

static inline uint8_t rig_byte(uint32_t i, size_t at)
{
    return (uint8_t)(sc_mix64(((uint64_t)i << 32) + at / 8) >> (at % 8 * 8));
}

static inline struct sc_blob *rig_blob(uint32_t i, size_t bytes)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_blob *blob = NULL;

    SC_ASSERT(sc_blob_open(bytes, &blob, &err) == SC_OK);
    for (size_t at = 0; at < bytes; at++)
        sc_blob_bytes(blob)[at] = rig_byte(i, at);
    return blob;
}

/* The bytes are key i's, whatever their number. */
static inline bool rig_right(struct sc_blob *blob, uint32_t i)
{
    for (size_t at = 0; at < sc_blob_size(blob); at++)
        if (sc_blob_bytes(blob)[at] != rig_byte(i, at))
            return false;
    return true;
}

static inline struct sc_store *rig_open(struct rig *rig, struct sc_store_opts opts)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_store *store = NULL;

    opts.log = rig_log;
    opts.log_ctx = rig;
    if (opts.io_timeout_ms == 0)
        opts.io_timeout_ms = 500;
    if (sc_store_open(&opts, &store, &err) != SC_OK)
        fail_msg("%s", err.text);
    return store;
}

static inline void rig_put_as(struct sc_store *store, uint32_t i, size_t bytes, uint32_t label)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_hash key = rig_key(i);
    struct sc_store_label l = rig_label(label);
    struct sc_blob *blob = rig_blob(i, bytes);

    if (sc_store_put(store, &key, &l, blob, &err) != SC_OK)
        fail_msg("%s", err.text);
    sc_blob_unref(blob);
}

static inline void rig_put(struct sc_store *store, uint32_t i, size_t bytes)
{
    rig_put_as(store, i, bytes, 0);
}

static inline void rig_got(void *ctx, struct sc_blob *blob)
{
    struct rig *rig = ctx;

    pthread_mutex_lock(&rig->mu);
    rig->blob = blob;
    rig->answered = true;
    pthread_cond_signal(&rig->cond);
    pthread_mutex_unlock(&rig->mu);
}

/* Waits for the answer; NULL is a miss. */
static inline struct sc_blob *rig_get_as(struct rig *rig, struct sc_store *store, uint32_t i,
                                         uint32_t label)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_hash key = rig_key(i);
    struct sc_store_label l = rig_label(label);

    rig->answered = false;
    if (sc_store_get(store, &key, &l, rig_got, rig, &err) != SC_OK)
        fail_msg("%s", err.text);
    pthread_mutex_lock(&rig->mu);
    while (!rig->answered)
        pthread_cond_wait(&rig->cond, &rig->mu);
    pthread_mutex_unlock(&rig->mu);
    return rig->blob;
}

static inline bool rig_hit_as(struct rig *rig, struct sc_store *store, uint32_t i, size_t bytes,
                              uint32_t label)
{
    struct sc_blob *blob = rig_get_as(rig, store, i, label);
    bool hit = blob != NULL;

    if (hit) {
        assert_int_equal(sc_blob_size(blob), bytes);
        assert_true(rig_right(blob, i));
    }
    sc_blob_unref(blob);
    return hit;
}

static inline bool rig_hit(struct rig *rig, struct sc_store *store, uint32_t i, size_t bytes)
{
    return rig_hit_as(rig, store, i, bytes, 0);
}

static inline bool rig_has(struct sc_store *store, uint32_t i)
{
    struct sc_hash key = rig_key(i);

    return sc_store_has(store, &key);
}

static inline struct sc_store_stats rig_stats(struct sc_store *store)
{
    struct sc_store_stats stats;

    sc_store_get_stats(store, &stats);
    return stats;
}

#endif
