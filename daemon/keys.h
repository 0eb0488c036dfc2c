/* daemon/keys.h - API keys: who calls, and so which namespace it is.
 *
 * A file of lines KEY NAMESPACE ROLE (user, admin); blanks between, # comments. Only hashes of keys
 * are kept, and all of them are compared, so that neither memory nor time tells a key. Errors are
 * "FILE:LINE: what". Threads: find from any; reload from the main thread, atomically.
 */
#ifndef SC_DAEMON_KEYS_H
#define SC_DAEMON_KEYS_H

#include <stdbool.h>

#include "scheduler/scheduler.h"

#define SC_KEYS_MAX            4096u
#define SC_KEY_BYTES_MIN       16u
#define SC_KEY_BYTES_MAX       256u
#define SC_KEYS_FILE_BYTES_MAX (4u << 20)
#define SC_NAMESPACE_DEFAULT   "default"

struct sc_keys;

/* What a call may do. */
struct sc_identity {
    char ns[SC_NAMESPACE_BYTES_MAX + 1];
    bool admin;
};

/* SC_ENOENT, SC_EIO: the file; SC_EPERM: others may read it; SC_EINVAL: a line. */
enum sc_status sc_keys_open(const char *path, struct sc_keys **ret_keys,
                            struct sc_err *err) SC_MUST_CHECK;
void sc_keys_close(struct sc_keys *keys); /* NULL is fine */
/* Reads the file again; on an error the old keys stay. */
enum sc_status sc_keys_reload(struct sc_keys *keys, struct sc_err *err) SC_MUST_CHECK;
/* key [len]: as the client sent it. False: nobody's. */
bool sc_keys_find(struct sc_keys *keys, const char *key, size_t len,
                  struct sc_identity *ret_identity);

/* 1..64 of A-Z a-z 0-9 . _ - */
bool sc_namespace_is_valid(const char *name, size_t len);

#endif
