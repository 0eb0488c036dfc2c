/* daemon/config.h - the daemon's settings: file (libconfig), then command line.
 *
 * One table (sc_config_keys) names every key with its type, limits and default; parsing, the
 * unknown-key check and the tests that compare the sample file and the man page all read it. Errors
 * are "FILE:LINE: key: what, value, limit". Threads: a plain value, read-only after start.
 */
#ifndef SC_DAEMON_CONFIG_H
#define SC_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/backend.h"
#include "base/dtype.h"
#include "base/log.h"
#include "base/status.h"

#define SC_CONFIG_PATH_BYTES  1024u
#define SC_LISTEN_MAX         8u
#define SC_SETTINGS_BYTES_MAX (1u << 20)
#define SC_UNIT_TEXT_BYTES    32u

enum sc_backend_choice { SC_BACKEND_AUTO, SC_BACKEND_CPU, SC_BACKEND_CUDA };
enum sc_determinism { SC_DETERMINISM_FAST, SC_DETERMINISM_STRICT };
enum sc_kv_default { SC_KV_DEFAULT_AUTO, SC_KV_DEFAULT_EXACT, SC_KV_DEFAULT_COMPRESSED };

struct sc_config {
    char model_dir[SC_CONFIG_PATH_BYTES];

    char listen[SC_LISTEN_MAX]
               [SC_CONFIG_PATH_BYTES]; /* "127.0.0.1:50051", "[::1]:0", "unix:/path" */
    uint32_t n_listen;
    bool insecure;
    uint64_t max_message_bytes;
    uint32_t max_streams; /* calls of all clients at once */
    uint32_t queue_max;
    uint64_t drain_timeout_us, drain_linger_us;

    char tls_cert[SC_CONFIG_PATH_BYTES], tls_key[SC_CONFIG_PATH_BYTES];
    char tls_client_ca[SC_CONFIG_PATH_BYTES];

    enum sc_backend_choice backend;
    uint32_t tensor_parallel;
    uint32_t threads; /* of each rank; 0: the machine's, shared out */
    bool pin_threads, pack_weights;
    uint32_t max_seqs;
    uint32_t prefill_tokens; /* 0: by the device */
    uint32_t max_context;    /* 0: the model's */
    enum sc_dtype weight_dtype;
    enum sc_math math;
    enum sc_determinism determinism;
    enum sc_dtype reduce_dtype;
    char devices[SC_CONFIG_PATH_BYTES]; /* "0,0,1"; empty: rank r on device r */

    uint64_t kv_memory; /* bytes of each rank; 1..100: percent of a device's; 0: auto */
    enum sc_dtype kv_dtype;
    enum sc_kv_default kv_mode;
    uint32_t auto_min_tokens;
    float target_ratio;

    bool kv_sharing;
    uint32_t max_snapshots; /* 0: chosen from the pages */
    uint64_t prefix_ttl_us; /* 0: none */

    uint64_t store_memory_bytes, store_dir_bytes, store_redis_ttl_us;
    char store_dir[SC_CONFIG_PATH_BYTES], store_shared_dir[SC_CONFIG_PATH_BYTES];
    char store_redis[SC_CONFIG_PATH_BYTES], store_redis_login[SC_CONFIG_PATH_BYTES];

    char documents_dir[SC_CONFIG_PATH_BYTES]; /* "": documents are forgotten at the end */
    uint32_t documents_max;
    uint64_t document_max_bytes;
    uint64_t documents_memory_bytes; /* of documents, and of texts that are being put */
    char documents_warm[SC_CONFIG_PATH_BYTES];

    char keys_file[SC_CONFIG_PATH_BYTES]; /* "": everybody is an admin of one namespace */
    char shared_namespace[SC_CONFIG_PATH_BYTES];

    uint64_t stuck_after_us; /* no step for that long while work is queued: not healthy */

    enum sc_log_level log_level;
    enum sc_log_format log_format;
};

enum sc_config_type {
    SC_CONFIG_STRING,
    SC_CONFIG_STRINGS, /* one string or an array of them */
    SC_CONFIG_BOOL,
    SC_CONFIG_UINT,     /* uint32_t */
    SC_CONFIG_FLOAT,    /* float */
    SC_CONFIG_SIZE,     /* uint64_t bytes, written "8GiB" */
    SC_CONFIG_MEMORY,   /* the same, or "90%" (then 1..100), or "auto" (then 0) */
    SC_CONFIG_DURATION, /* uint64_t microseconds, written "30s" */
    SC_CONFIG_CHOICE,   /* int-sized enum, one of the names */
};

struct sc_config_key {
    const char *path; /* "server.listen" */
    enum sc_config_type type;
    size_t offset; /* in struct sc_config */
    double min, max;
    const char *const *choices; /* NULL-terminated, in the enum's order */
    const char *initial;        /* the default, as text */
    bool reloads;               /* SIGHUP applies it */
};
extern const struct sc_config_key sc_config_keys[];
extern const size_t sc_config_n_keys;

void sc_config_init(struct sc_config *config); /* the defaults */
/* Reads a file over what config holds. SC_ENOENT, SC_EIO: the file; SC_EINVAL: file:line. */
enum sc_status sc_config_load(struct sc_config *config, const char *path,
                              struct sc_err *err) SC_MUST_CHECK;
/* The same of a text; name stands for the file in errors. */
enum sc_status sc_config_parse(struct sc_config *config, const char *text, const char *name,
                               struct sc_err *err) SC_MUST_CHECK;
/* Sets one key from text, as the command line does: "server.max_streams", "64". */
enum sc_status sc_config_set(struct sc_config *config, const char *key, const char *value,
                             struct sc_err *err) SC_MUST_CHECK;
/* engine.devices into ret [tensor_parallel]; false: the key is empty. */
enum sc_status sc_config_devices(const struct sc_config *config, int *ret_devices, bool *ret_given,
                                 struct sc_err *err) SC_MUST_CHECK;
/* What no single key can tell: a model is named, addresses are allowed, parts fit together. */
enum sc_status sc_config_check(const struct sc_config *config, struct sc_err *err) SC_MUST_CHECK;

/* "8GiB", "512 MiB", "1000000"; powers of 1024 only, as the suffix says. */
enum sc_status sc_size_parse(const char *text, uint64_t *ret_bytes,
                             struct sc_err *err) SC_MUST_CHECK;
/* "500ms", "30s", "5min", "1h". */
enum sc_status sc_duration_parse(const char *text, uint64_t *ret_us,
                                 struct sc_err *err) SC_MUST_CHECK;
/* The shortest that the parsers above take for the value; returns text. */
const char *sc_size_text(uint64_t bytes, char text[SC_UNIT_TEXT_BYTES]);
const char *sc_duration_text(uint64_t us, char text[SC_UNIT_TEXT_BYTES]);

#endif
