/* store/store.h - blobs by 256-bit key that outlive their pages: host memory, a directory, Redis.
 *
 * What the scheduler takes off the device (the cores of a document) goes here and comes back after
 * an eviction or a restart. A store knows nothing of entries: a blob is bytes with a label. Tiers
 * are tried in order: memory, directory, shared directory, Redis; a blob found further away is put
 * into the nearer ones.
 *
 * A blob is never wrong: each carries a header (magic, format version, label, length) and a BLAKE2b
 * checksum, files are written beside their place, synced and renamed. What is damaged, truncated,
 * of another label or of a later version is a miss; one line tells why, through the log function.
 *
 * Memory: the memory tier's limit plus what is in flight (SC_STORE_QUEUE_MAX puts of together
 * SC_STORE_QUEUE_BYTES_MAX), plus one blob that is being read. Threads: calls come from any thread
 * and, open, close and flush apart, never wait for a disk or a network; one worker thread does the
 * input and output, and runs the callbacks. Gets go before puts.
 */
#ifndef SC_STORE_STORE_H
#define SC_STORE_STORE_H

#include <stdbool.h>

#include "base/hash.h"

#define SC_STORE_VERSION   1u
#define SC_STORE_QUEUE_MAX 1024u /* puts and gets that wait; more: SC_EFULL */
#define SC_STORE_QUEUE_BYTES_MAX                                                                   \
    ((uint64_t)4 << 30) /* of puts that wait; one larger blob may wait alone */
#define SC_BLOB_BYTES_MAX ((uint64_t)1 << 36)

struct sc_store;

/* Bytes shared by reference. Immutable once they were put. */
struct sc_blob;
/* One reference; not zeroed. SC_ENOMEM; SC_EINVAL beyond SC_BLOB_BYTES_MAX. */
enum sc_status sc_blob_open(size_t bytes, struct sc_blob **ret_blob,
                            struct sc_err *err) SC_MUST_CHECK;
uint8_t *sc_blob_bytes(struct sc_blob *blob);
size_t sc_blob_size(const struct sc_blob *blob);
void sc_blob_ref(struct sc_blob *blob);
void sc_blob_unref(struct sc_blob *blob); /* NULL is fine */

/* What must agree beside the key. A blob with another label is a miss. */
struct sc_store_label {
    struct sc_hash model;  /* fingerprint of the model */
    struct sc_hash recipe; /* recipe id */
};

/* For the one line about a blob that was refused or a tier that failed. Any thread. */
typedef void sc_store_log_fn(void *ctx, const char *event, const char *detail);

struct sc_store_opts {
    uint64_t memory_bytes; /* of the memory tier; 0: none */
    const char *dir;       /* NULL: none. Made if it is missing; one daemon a directory (flock) */
    uint64_t dir_bytes;    /* quota; the least recently used files go first */
    const char
        *shared_dir;   /* NULL: none. Read and written by several machines, no quota, no lock */
    const char *redis; /* NULL: none. "host:port" or "unix:/path" (Redis or Valkey) */
    const char *redis_login_file; /* NULL: none. Its first line is [USER] PASSWORD */
    uint32_t redis_ttl_s;         /* of a blob put there; 0: no end */
    uint32_t io_timeout_ms;       /* of one Redis operation and of connecting */
    sc_store_log_fn *log;         /* or NULL */
    void *log_ctx;
};

/* Reads the directory (names and sizes only; contents are checked when they are read) and removes
 * what an interrupted write left. SC_EIO, SC_EEXIST (another daemon holds the directory),
 * SC_EINVAL. A Redis that does not answer is not an error: it is tried again later. */
enum sc_status sc_store_open(const struct sc_store_opts *opts, struct sc_store **ret_store,
                             struct sc_err *err) SC_MUST_CHECK;
/* Writes what was put, answers what was asked (with a miss, unless the bytes are at hand), joins.
 * NULL is fine. No call may be under way or follow, except from the callbacks that this runs. */
void sc_store_close(struct sc_store *store);

/* Takes a reference to the blob. At once in memory; written to the other tiers later. A key that is
 * there already under this label is only refreshed. SC_EFULL: too many wait; nothing was put.
 * SC_ENOMEM; SC_EUNAVAIL while the store closes. */
enum sc_status sc_store_put(struct sc_store *store, const struct sc_hash *key,
                            const struct sc_store_label *label, struct sc_blob *blob,
                            struct sc_err *err) SC_MUST_CHECK;

/* Called once: with the blob (one reference, the callee's) or NULL: a miss. From the worker thread,
 * or, for what is in memory, from within sc_store_get itself. Must not block. */
typedef void sc_store_got_fn(void *ctx, struct sc_blob *blob);
/* The callback is called unless this fails. SC_EFULL: too many wait; SC_EUNAVAIL while the store
 * closes. */
enum sc_status sc_store_get(struct sc_store *store, const struct sc_hash *key,
                            const struct sc_store_label *label, sc_store_got_fn *got, void *ctx,
                            struct sc_err *err) SC_MUST_CHECK;

/* True: a tier of this machine has the key (its content was not looked at). Other machines' tiers
 * may have what this says no to. */
bool sc_store_has(struct sc_store *store, const struct sc_hash *key);
bool sc_store_is_remote(const struct sc_store *store); /* has a shared directory or Redis: ask it */
/* From memory at once, from the other tiers later; a get that follows is a miss. Beyond
 * SC_STORE_QUEUE_MAX removes that wait, the other tiers keep the blob, and one line says so. */
void sc_store_remove(struct sc_store *store, const struct sc_hash *key);
/* Blocks until what was put and removed before is written. Not from a callback. */
void sc_store_flush(struct sc_store *store);

struct sc_store_stats {
    uint64_t memory_bytes, memory_blobs;
    uint64_t dir_bytes, dir_blobs; /* bytes in whole blocks */
    uint64_t puts, hits, misses;
    uint64_t damaged; /* read and refused: damaged, of another label, of a later version */
    uint64_t evicted; /* from memory or the directory, for their limits */
    uint64_t errors;  /* of tiers: no space, no permission, no Redis */
    uint32_t waiting;
};
void sc_store_get_stats(struct sc_store *store, struct sc_store_stats *ret_stats);

#endif
