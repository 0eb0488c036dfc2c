/* store/redis.h - the Redis tier (or Valkey): header and payload in values of SC_REDIS_PART_BYTES.
 *
 * Part 0, with the header, has the key "semanticache:<hex>", part i "semanticache:<hex>.<i>"; part
 * 0 is written last. Parts of different writes do not mix unseen: the checksum is over all of them.
 * Every operation ends within the timeout (a name is resolved without one); after a failure nothing
 * is tried for a while, which doubles up to SC_REDIS_BACKOFF_MAX_MS. A login that is refused is
 * such a failure. Nothing is encrypted. Threads: one owner.
 */
#ifndef SC_STORE_REDIS_H
#define SC_STORE_REDIS_H

#include "store/format.h"

#define SC_REDIS_PART_BYTES     ((size_t)4 << 20)   /* Redis itself ends at 512 MB */
#define SC_REDIS_BLOB_BYTES_MAX ((uint64_t)4 << 30) /* larger blobs are not put there */
#define SC_REDIS_BACKOFF_MIN_MS 100u
#define SC_REDIS_BACKOFF_MAX_MS 10000u

struct sc_redis;

struct sc_redis_opts {
    const char *address;    /* "host:port" or "unix:/path" */
    const char *login_file; /* NULL: none (store/login.h) */
    uint32_t ttl_s, timeout_ms;
};

/* SC_EINVAL: neither of the two forms; whether anybody answers there is not looked at. */
enum sc_status sc_redis_check_address(const char *address, struct sc_err *err) SC_MUST_CHECK;

/* Does not connect. SC_EINVAL: the address; the statuses of sc_login_read: the login file. */
enum sc_status sc_redis_open(const struct sc_redis_opts *opts, struct sc_redis **ret_redis,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_redis_close(struct sc_redis *redis); /* NULL is fine */

/* Statuses as in store/internal.h; SC_ECANCELED while waiting before the next try, SC_EUNAVAIL
 * when a connection was tried or lost. */
enum sc_status sc_redis_refresh(struct sc_redis *redis, const struct sc_hash *key,
                                const struct sc_store_label *label,
                                struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_redis_read(struct sc_redis *redis, const struct sc_hash *key,
                             const struct sc_store_label *label, struct sc_blob **ret_blob,
                             struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_redis_write(struct sc_redis *redis, const struct sc_hash *key,
                              const uint8_t header[SC_FORMAT_HEADER_BYTES], struct sc_blob *blob,
                              struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_redis_remove(struct sc_redis *redis, const struct sc_hash *key,
                               struct sc_err *err) SC_MUST_CHECK;

#endif
