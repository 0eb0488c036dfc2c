#include "daemon/config.h"

#include "shard/engine.h"
#include "scheduler/scheduler.h"

static const char *const backends[] = {"auto", "cpu", "cuda", NULL};
static const char *const kv_modes[] = {"auto", "exact", "compressed", NULL};
static const char *const dtypes[] = {"f32", "bf16", "int8", NULL};
static const char *const maths[] = {"auto", "f32", "bf16", "int8", NULL};
static const char *const reductions[] = {"f32", "bf16", NULL};
static const char *const determinisms[] = {"fast", "strict", NULL};
static const char *const levels[] = {"error", "warning", "notice", "info", "debug", NULL};
static const char *const formats[] = {"text", "json", NULL};

#define AT(field) offsetof(struct sc_config, field)
#define KIB       1024.0
#define GIB       (KIB * KIB * KIB)
#define SECOND    1e6
#define DAY       (86400 * SECOND)

const struct sc_config_key sc_config_keys[] = {
    {"model.dir", SC_CONFIG_STRING, AT(model_dir), 0, 0, NULL, "", false},

    {"server.listen", SC_CONFIG_STRINGS, AT(listen), 0, 0, NULL, "127.0.0.1:50051", false},
    {"server.insecure", SC_CONFIG_BOOL, AT(insecure), 0, 0, NULL, "false", false},
    {"server.max_message", SC_CONFIG_SIZE, AT(max_message_bytes), KIB, GIB, NULL, "64MiB", false},
    {"server.max_streams", SC_CONFIG_UINT, AT(max_streams), 1, 1e6, NULL, "4096", false},
    {"server.queue_max", SC_CONFIG_UINT, AT(queue_max), 1, SC_QUEUE_MAX, NULL, "1024", false},
    {"server.drain_timeout", SC_CONFIG_DURATION, AT(drain_timeout_us), 0, DAY, NULL, "60s", false},
    {"server.drain_linger", SC_CONFIG_DURATION, AT(drain_linger_us), 0, 10 * SECOND, NULL, "150ms",
     false},

    {"tls.certificate", SC_CONFIG_STRING, AT(tls_cert), 0, 0, NULL, "", false},
    {"tls.key", SC_CONFIG_STRING, AT(tls_key), 0, 0, NULL, "", false},
    {"tls.client_ca", SC_CONFIG_STRING, AT(tls_client_ca), 0, 0, NULL, "", false},

    {"engine.backend", SC_CONFIG_CHOICE, AT(backend), 0, 0, backends, "auto", false},
    {"engine.tensor_parallel", SC_CONFIG_UINT, AT(tensor_parallel), 1, SC_RANKS_MAX, NULL, "1",
     false},
    {"engine.threads", SC_CONFIG_UINT, AT(threads), 0, 1024, NULL, "0", false},
    {"engine.pin_threads", SC_CONFIG_BOOL, AT(pin_threads), 0, 0, NULL, "false", false},
    {"engine.pack_weights", SC_CONFIG_BOOL, AT(pack_weights), 0, 0, NULL, "true", false},
    {"engine.max_seqs", SC_CONFIG_UINT, AT(max_seqs), 1, SC_SEQS_MAX, NULL, "64", false},
    {"engine.prefill_tokens", SC_CONFIG_UINT, AT(prefill_tokens), 0, SC_STEP_TOKENS_MAX, NULL, "0",
     false},
    {"engine.max_context", SC_CONFIG_UINT, AT(max_context), 0, SC_CONTEXT_MAX, NULL, "0", false},
    {"engine.weight_dtype", SC_CONFIG_CHOICE, AT(weight_dtype), 0, 0, dtypes, "bf16", false},
    {"engine.math", SC_CONFIG_CHOICE, AT(math), 0, 0, maths, "auto", false},
    {"engine.determinism", SC_CONFIG_CHOICE, AT(determinism), 0, 0, determinisms, "fast", false},
    {"engine.reduce_dtype", SC_CONFIG_CHOICE, AT(reduce_dtype), 0, 0, reductions, "f32", false},
    {"engine.devices", SC_CONFIG_STRING, AT(devices), 0, 0, NULL, "", false},
    {"engine.stuck_after", SC_CONFIG_DURATION, AT(stuck_after_us), SECOND, DAY, NULL, "60s", false},

    {"kv.memory", SC_CONFIG_MEMORY, AT(kv_memory), KIB *KIB, 1024 * 1024 * GIB, NULL, "auto",
     false},
    {"kv.dtype", SC_CONFIG_CHOICE, AT(kv_dtype), 0, 0, dtypes, "bf16", false},
    {"kv.default_mode", SC_CONFIG_CHOICE, AT(kv_mode), 0, 0, kv_modes, "auto", false},
    {"kv.auto_min_tokens", SC_CONFIG_UINT, AT(auto_min_tokens), 1, SC_CONTEXT_MAX, NULL, "2048",
     false},
    {"kv.target_ratio", SC_CONFIG_FLOAT, AT(target_ratio), 0.01, 1, NULL, "0.25", false},

    {"kv.sharing", SC_CONFIG_BOOL, AT(kv_sharing), 0, 0, NULL, "true", false},
    {"kv.max_snapshots", SC_CONFIG_UINT, AT(max_snapshots), 0, SC_SNAPS_MAX, NULL, "0", false},
    {"kv.prefix_ttl", SC_CONFIG_DURATION, AT(prefix_ttl_us), 0, 365 * DAY, NULL, "0s", false},

    {"store.memory", SC_CONFIG_SIZE, AT(store_memory_bytes), 0, 1024 * 1024 * GIB, NULL, "0",
     false},
    {"store.dir", SC_CONFIG_STRING, AT(store_dir), 0, 0, NULL, "", false},
    {"store.dir_quota", SC_CONFIG_SIZE, AT(store_dir_bytes), KIB *KIB, 1024 * 1024 * GIB, NULL,
     "16GiB", false},
    {"store.shared_dir", SC_CONFIG_STRING, AT(store_shared_dir), 0, 0, NULL, "", false},
    {"store.redis", SC_CONFIG_STRING, AT(store_redis), 0, 0, NULL, "", false},
    {"store.redis_login_file", SC_CONFIG_STRING, AT(store_redis_login), 0, 0, NULL, "", false},
    {"store.redis_ttl", SC_CONFIG_DURATION, AT(store_redis_ttl_us), 0, 365 * DAY, NULL, "0s",
     false},

    {"documents.dir", SC_CONFIG_STRING, AT(documents_dir), 0, 0, NULL, "", false},
    {"documents.max", SC_CONFIG_UINT, AT(documents_max), 1, 1e6, NULL, "10000", false},
    {"documents.max_bytes", SC_CONFIG_SIZE, AT(document_max_bytes), KIB,
     (double)SC_TOKENIZE_TEXT_BYTES_MAX, NULL, "64MiB", false},
    {"documents.memory", SC_CONFIG_SIZE, AT(documents_memory_bytes), KIB *KIB, 1024 * GIB, NULL,
     "1GiB", false},
    {"documents.warm", SC_CONFIG_STRING, AT(documents_warm), 0, 0, NULL, "", false},

    {"auth.keys_file", SC_CONFIG_STRING, AT(keys_file), 0, 0, NULL, "", false},
    {"auth.shared_namespace", SC_CONFIG_STRING, AT(shared_namespace), 0, 0, NULL, "", false},

    {"log.level", SC_CONFIG_CHOICE, AT(log_level), 0, 0, levels, "notice", true},
    {"log.format", SC_CONFIG_CHOICE, AT(log_format), 0, 0, formats, "text", false},
};
const size_t sc_config_n_keys = SC_ARRAY_LEN(sc_config_keys);

_Static_assert(SC_DTYPE_F32 == 0 && SC_DTYPE_BF16 == 1 && SC_DTYPE_I8 == 2,
               "dtypes follow the enum");
_Static_assert(SC_MATH_AUTO == 0 && SC_MATH_F32 == 1 && SC_MATH_BF16 == 2 && SC_MATH_INT8 == 3,
               "maths follow the enum");
_Static_assert(sizeof(enum sc_math) == sizeof(int), "choices are stored as int");
_Static_assert(sizeof(enum sc_dtype) == sizeof(int) && sizeof(enum sc_log_level) == sizeof(int),
               "choices are stored as int");
