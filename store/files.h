/* store/files.h - blobs as files of one directory: ab/abcd....core, written in tmp/ and renamed.
 *
 * The layer below the directory tier and the shared one: no index, no quota. A file is complete and
 * synced before it has its name, so a reader sees an old file, a new one or none. What is read is
 * copied first and checked then, so a file that changes under us is damaged, never wrong. Threads:
 * one owner.
 */
#ifndef SC_STORE_FILES_H
#define SC_STORE_FILES_H

#include "store/format.h"

#define SC_FILES_TMP_AGE_S 3600 /* a shared tmp/ file as old as that has no writer any more */

struct sc_files {
    int fd;      /* the directory */
    bool shared; /* others write too; files are theirs to read */
};

/* Makes the directory when it is missing. */
enum sc_status sc_files_init(struct sc_files *f, const char *path, bool shared,
                             struct sc_err *err) SC_MUST_CHECK;
/* Removes what interrupted writes left in tmp/; in a shared directory what is older than
 * SC_FILES_TMP_AGE_S. Not before the directory is known to be ours. */
void sc_files_clean(struct sc_files *f);
void sc_files_fini(struct sc_files *f);

/* Statuses as in store/internal.h. peek looks at the header and at the length only. */
enum sc_status sc_files_peek(struct sc_files *f, const struct sc_hash *key,
                             const struct sc_store_label *label, struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_files_read(struct sc_files *f, const struct sc_hash *key,
                             const struct sc_store_label *label, struct sc_blob **ret_blob,
                             struct sc_err *err) SC_MUST_CHECK;
/* Replaces. mtime_ns: the last use. SC_EFULL: no space; SC_EPERM, SC_EIO. */
enum sc_status sc_files_write(struct sc_files *f, const struct sc_hash *key,
                              const uint8_t header[SC_FORMAT_HEADER_BYTES], struct sc_blob *blob,
                              uint64_t mtime_ns, struct sc_err *err) SC_MUST_CHECK;
/* SC_OK also when there is no such file. */
enum sc_status sc_files_remove(struct sc_files *f, const struct sc_hash *key,
                               struct sc_err *err) SC_MUST_CHECK;
void sc_files_touch(struct sc_files *f, const struct sc_hash *key, uint64_t mtime_ns);

/* Every file with a blob's name. The walk ends at the first status that is not SC_OK. */
typedef enum sc_status sc_files_found_fn(void *ctx, const struct sc_hash *key, uint64_t bytes,
                                         uint64_t mtime_ns, struct sc_err *err);
enum sc_status sc_files_walk(struct sc_files *f, sc_files_found_fn *found, void *ctx,
                             struct sc_err *err) SC_MUST_CHECK;

/* From errno: SC_EFULL, SC_EPERM, SC_ENOENT, SC_ENOMEM, else SC_EIO. */
enum sc_status sc_files_errno(struct sc_err *err, const char *what, const char *name);

#endif
