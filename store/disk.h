/* store/disk.h - the directory tier: files of one daemon, an index in memory, a quota.
 *
 * The least recently used files go when the quota is reached; the order survives a restart as the
 * files' modification times. A file counts in whole blocks of SC_DISK_BLOCK_BYTES, which also
 * bounds the index. Threads: has and touch from any; the rest by one owner, the worker.
 */
#ifndef SC_STORE_DISK_H
#define SC_STORE_DISK_H

#include "store/files.h"

#define SC_DISK_BLOCK_BYTES 4096u

struct sc_disk;

struct sc_disk_stats {
    uint64_t bytes, n_files, n_evicted;
};

/* SC_EEXIST: another daemon has the directory. */
enum sc_status sc_disk_open(const char *path, uint64_t quota_bytes, struct sc_disk **ret_disk,
                            struct sc_err *err) SC_MUST_CHECK;
void sc_disk_close(struct sc_disk *disk); /* NULL is fine */

bool sc_disk_has(struct sc_disk *disk, const struct sc_hash *key);
void sc_disk_touch(struct sc_disk *disk, const struct sc_hash *key); /* used, from another tier */
void sc_disk_get_stats(struct sc_disk *disk, struct sc_disk_stats *ret_stats);

/* Statuses as in store/internal.h. A damaged file is removed. refresh: SC_OK when it is there and
 * of this label; its content is not looked at. */
enum sc_status sc_disk_refresh(struct sc_disk *disk, const struct sc_hash *key,
                               const struct sc_store_label *label,
                               struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_disk_read(struct sc_disk *disk, const struct sc_hash *key,
                            const struct sc_store_label *label, struct sc_blob **ret_blob,
                            struct sc_err *err) SC_MUST_CHECK;
/* Evicts for the quota, then writes. SC_EFULL: larger than the quota, or no space. */
enum sc_status sc_disk_write(struct sc_disk *disk, const struct sc_hash *key,
                             const uint8_t header[SC_FORMAT_HEADER_BYTES], struct sc_blob *blob,
                             struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_disk_remove(struct sc_disk *disk, const struct sc_hash *key,
                              struct sc_err *err) SC_MUST_CHECK;

#endif
