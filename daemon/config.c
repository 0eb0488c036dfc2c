#include "daemon/config.h"

#include <errno.h>
#include <libconfig.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/address.h"
#include "daemon/config_scan.h"
#include "daemon/keys.h"
#include "shard/engine.h"
#include "store/redis.h"

/* ---- storing one value ---- */

static enum sc_status range_error(const struct sc_config_key *key, const char *value,
                                  struct sc_err *err)
{
    char min[SC_UNIT_TEXT_BYTES], max[SC_UNIT_TEXT_BYTES];

    switch (key->type) {
    case SC_CONFIG_SIZE:
    case SC_CONFIG_MEMORY:
        (void)sc_size_text((uint64_t)key->min, min);
        (void)sc_size_text((uint64_t)key->max, max);
        break;
    case SC_CONFIG_DURATION:
        (void)sc_duration_text((uint64_t)key->min, min);
        (void)sc_duration_text((uint64_t)key->max, max);
        break;
    default:
        (void)snprintf(min, sizeof(min), "%.15g", key->min);
        (void)snprintf(max, sizeof(max), "%.15g", key->max);
    }
    return sc_fail(err, SC_EINVAL, "%s: %s, limits %s..%s", key->path, value, min, max);
}

/* Nothing of a value that was there before stays: a reload compares whole fields. */
static enum sc_status store_string(struct sc_config *config, const struct sc_config_key *key,
                                   const char *text, struct sc_err *err)
{
    size_t len = strlen(text);

    if (len >= SC_CONFIG_PATH_BYTES)
        return sc_fail(err, SC_EINVAL, "%s: %zu bytes, limit %u", key->path, len,
                       SC_CONFIG_PATH_BYTES - 1);
    memset((char *)config + key->offset, 0, SC_CONFIG_PATH_BYTES);
    memcpy((char *)config + key->offset, text, len);
    return SC_OK;
}

/* The only list: its entries and their number. */
static enum sc_status store_listen(struct sc_config *config, uint32_t i, const char *text,
                                   struct sc_err *err)
{
    size_t len = strlen(text);

    if (i >= SC_LISTEN_MAX)
        return sc_fail(err, SC_EINVAL, "server.listen: more than %u addresses", SC_LISTEN_MAX);
    if (len >= SC_CONFIG_PATH_BYTES)
        return sc_fail(err, SC_EINVAL, "server.listen: %zu bytes, limit %u", len,
                       SC_CONFIG_PATH_BYTES - 1);
    if (i == 0)
        memset(config->listen, 0, sizeof(config->listen));
    memcpy(config->listen[i], text, len + 1);
    config->n_listen = i + 1;
    return SC_OK;
}

static enum sc_status store_choice(struct sc_config *config, const struct sc_config_key *key,
                                   const char *text, struct sc_err *err)
{
    char list[128] = "";
    size_t at = 0;

    for (int i = 0; key->choices[i] != NULL; i++) {
        if (strcmp(text, key->choices[i]) == 0) {
            *(int *)(void *)((char *)config + key->offset) = i;
            return SC_OK;
        }
        at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", i > 0 ? ", " : "",
                               key->choices[i]);
    }
    return sc_fail(err, SC_EINVAL, "%s: \"%s\" is none of %s", key->path, text, list);
}

static enum sc_status store_number(struct sc_config *config, const struct sc_config_key *key,
                                   double value, const char *text, struct sc_err *err)
{
    char *at = (char *)config + key->offset;

    if (!(value >= key->min && value <= key->max))
        return range_error(key, text, err);
    if (key->type == SC_CONFIG_UINT)
        *(uint32_t *)(void *)at = (uint32_t)value;
    else if (key->type == SC_CONFIG_FLOAT)
        *(float *)(void *)at = (float)value;
    else
        *(uint64_t *)(void *)at = (uint64_t)value;
    return SC_OK;
}

/* "auto" and "1%" to "100%"; false: something else. */
static bool store_share(struct sc_config *config, const struct sc_config_key *key, const char *text)
{
    uint64_t *to = (uint64_t *)(void *)((char *)config + key->offset);
    unsigned percent = 0;
    char sign = 0, rest;

    if (strcmp(text, "auto") == 0) {
        *to = 0;
        return true;
    }
    if (text[0] < '0' || text[0] > '9' || sscanf(text, "%3u%c%c", &percent, &sign, &rest) != 2 ||
        sign != '%' || percent < 1 || percent > 100)
        return false;
    *to = percent;
    return true;
}

static enum sc_status store_units(struct sc_config *config, const struct sc_config_key *key,
                                  const char *text, struct sc_err *err)
{
    uint64_t value;
    if (key->type == SC_CONFIG_MEMORY && store_share(config, key, text))
        return SC_OK;
    enum sc_status st = key->type != SC_CONFIG_DURATION ? sc_size_parse(text, &value, err)
                                                        : sc_duration_parse(text, &value, err);
    if (st != SC_OK)
        return sc_err_prefix(err, st, "%s", key->path);
    return store_number(config, key, (double)value, text, err);
}

/* ---- from the command line ---- */

static const struct sc_config_key *find_key(const char *path)
{
    for (size_t i = 0; i < sc_config_n_keys; i++) {
        if (strcmp(sc_config_keys[i].path, path) == 0)
            return &sc_config_keys[i];
    }
    return NULL;
}

static enum sc_status set_bool(struct sc_config *config, const struct sc_config_key *key,
                               const char *value, struct sc_err *err)
{
    bool yes = strcmp(value, "true") == 0;

    if (!yes && strcmp(value, "false") != 0)
        return sc_fail(err, SC_EINVAL, "%s: \"%s\" is neither true nor false", key->path, value);
    *(bool *)((char *)config + key->offset) = yes;
    return SC_OK;
}

static enum sc_status set_number(struct sc_config *config, const struct sc_config_key *key,
                                 const char *value, struct sc_err *err)
{
    bool is_float = key->type == SC_CONFIG_FLOAT;
    size_t n = strspn(value, is_float ? "0123456789.eE-" : "0123456789");
    char *end;
    double number = strtod(value, &end);

    if (value[0] == '\0' || value[n] != '\0' || *end != '\0')
        return sc_fail(err, SC_EINVAL, "%s: \"%s\" is not a %s", key->path, value,
                       is_float ? "number" : "whole number");
    return store_number(config, key, number, value, err);
}

/* Several addresses are written with commas between them. */
static enum sc_status set_listen(struct sc_config *config, const char *value, struct sc_err *err)
{
    char one[SC_CONFIG_PATH_BYTES];
    enum sc_status st;
    uint32_t i = 0;

    for (;;) {
        size_t len = strcspn(value, ",");
        if (len >= sizeof(one))
            return sc_fail(err, SC_EINVAL, "server.listen: %zu bytes, limit %zu", len,
                           sizeof(one) - 1);
        memcpy(one, value, len);
        one[len] = '\0';
        st = store_listen(config, i++, one, err);
        if (st != SC_OK || value[len] == '\0')
            return st;
        value += len + 1;
    }
}

enum sc_status sc_config_set(struct sc_config *config, const char *path, const char *value,
                             struct sc_err *err)
{
    const struct sc_config_key *key = find_key(path);

    if (key == NULL)
        return sc_fail(err, SC_EINVAL, "%s: unknown key", path);
    switch (key->type) {
    case SC_CONFIG_STRING:
        return store_string(config, key, value, err);
    case SC_CONFIG_STRINGS:
        return set_listen(config, value, err);
    case SC_CONFIG_BOOL:
        return set_bool(config, key, value, err);
    case SC_CONFIG_CHOICE:
        return store_choice(config, key, value, err);
    case SC_CONFIG_SIZE:
    case SC_CONFIG_MEMORY:
    case SC_CONFIG_DURATION:
        return store_units(config, key, value, err);
    case SC_CONFIG_UINT:
    case SC_CONFIG_FLOAT:
        return set_number(config, key, value, err);
    }
    return sc_fail(err, SC_EINTERNAL, "%s: no such type", path);
}

void sc_config_init(struct sc_config *config)
{
    struct sc_err err = SC_ERR_INIT;

    memset(config, 0, sizeof(*config));
    for (size_t i = 0; i < sc_config_n_keys; i++) {
        enum sc_status st =
            sc_config_set(config, sc_config_keys[i].path, sc_config_keys[i].initial, &err);
        SC_ASSERT(st == SC_OK);
    }
}

/* ---- from the file ---- */

static enum sc_status wrong_type(const struct sc_config_key *key, const char *wanted,
                                 struct sc_err *err)
{
    return sc_fail(err, SC_EINVAL, "%s: must be %s", key->path, wanted);
}

static enum sc_status take_strings(struct sc_config *config, const struct sc_config_key *key,
                                   const config_setting_t *s, struct sc_err *err)
{
    int n = config_setting_length(s);

    if (config_setting_type(s) == CONFIG_TYPE_STRING)
        return store_listen(config, 0, config_setting_get_string(s), err);
    if ((!config_setting_is_array(s) && !config_setting_is_list(s)) || n == 0)
        return wrong_type(key, "a string or a list of strings", err);
    for (int i = 0; i < n; i++) {
        const char *text = config_setting_get_string_elem(s, i);
        enum sc_status st;
        if (text == NULL)
            return wrong_type(key, "a string or a list of strings", err);
        st = store_listen(config, (uint32_t)i, text, err);
        if (st != SC_OK)
            return st;
    }
    return SC_OK;
}

static enum sc_status take_string(struct sc_config *config, const struct sc_config_key *key,
                                  const config_setting_t *s, struct sc_err *err)
{
    static const char *const wanted[] = {
        [SC_CONFIG_STRING] = "a string",
        [SC_CONFIG_SIZE] = "a size in quotes, such as \"512MiB\" or \"8GiB\"",
        [SC_CONFIG_MEMORY] = "a size in quotes, such as \"8GiB\", or \"90%\", or \"auto\"",
        [SC_CONFIG_DURATION] = "a duration in quotes, such as \"500ms\" or \"30s\"",
        [SC_CONFIG_CHOICE] = "a string",
    };

    if (config_setting_type(s) != CONFIG_TYPE_STRING)
        return wrong_type(key, wanted[key->type], err);
    return sc_config_set(config, key->path, config_setting_get_string(s), err);
}

static enum sc_status take_number(struct sc_config *config, const struct sc_config_key *key,
                                  const config_setting_t *s, struct sc_err *err)
{
    char text[64];
    double value;
    int type = config_setting_type(s);

    if (type == CONFIG_TYPE_FLOAT && key->type == SC_CONFIG_FLOAT)
        value = config_setting_get_float(s);
    else if (type == CONFIG_TYPE_INT64)
        value = (double)config_setting_get_int64(s);
    else if (type == CONFIG_TYPE_INT)
        value = config_setting_get_int(s);
    else
        return wrong_type(key, key->type == SC_CONFIG_FLOAT ? "a number" : "a whole number", err);
    (void)snprintf(text, sizeof(text), "%.15g", value);
    return store_number(config, key, value, text, err);
}

static enum sc_status take_setting(struct sc_config *config, const struct sc_config_key *key,
                                   const config_setting_t *s, struct sc_err *err)
{
    switch (key->type) {
    case SC_CONFIG_STRINGS:
        return take_strings(config, key, s, err);
    case SC_CONFIG_BOOL:
        if (config_setting_type(s) != CONFIG_TYPE_BOOL)
            return wrong_type(key, "true or false", err);
        *(bool *)((char *)config + key->offset) = config_setting_get_bool(s) != 0;
        return SC_OK;
    case SC_CONFIG_UINT:
    case SC_CONFIG_FLOAT:
        return take_number(config, key, s, err);
    default:
        return take_string(config, key, s, err);
    }
}

struct walk {
    struct sc_config *config;
    const config_setting_t *culprit; /* the setting that was refused */
    struct sc_err *err;
};

/* Every setting of the file must be a key of the table. */
static enum sc_status walk(struct walk *w, const config_setting_t *group, const char *prefix)
{
    enum sc_status st = SC_OK;

    for (int i = 0; st == SC_OK && i < config_setting_length(group); i++) {
        config_setting_t *s = config_setting_get_elem(group, (unsigned)i);
        const struct sc_config_key *key;
        char path[256];

        (void)snprintf(path, sizeof(path), "%s%s%s", prefix, prefix[0] != '\0' ? "." : "",
                       config_setting_name(s));
        key = find_key(path);
        if (key != NULL)
            st = take_setting(w->config, key, s, w->err);
        else if (config_setting_is_group(s) && prefix[0] == '\0')
            st = walk(w, s, path);
        else
            st = sc_fail(w->err, SC_EINVAL, "%s: unknown key", path);
        if (st != SC_OK && w->culprit == NULL)
            w->culprit = s;
    }
    return st;
}

enum sc_status sc_config_parse(struct sc_config *config, const char *text, const char *name,
                               struct sc_err *err)
{
    struct sc_config next = *config;
    struct walk w = {&next, NULL, err};
    enum sc_status st;
    config_t file;

    st = sc_config_scan(text, name, err);
    if (st != SC_OK)
        return st;
    config_init(&file);
    if (config_read_string(&file, text) != CONFIG_TRUE) {
        st = sc_fail(err, SC_EINVAL, "%s:%d: %s", name, config_error_line(&file),
                     config_error_text(&file));
    } else {
        st = walk(&w, config_root_setting(&file), "");
        if (st != SC_OK)
            st = sc_err_prefix(err, st, "%s:%d", name, (int)config_setting_source_line(w.culprit));
    }
    config_destroy(&file);
    if (st == SC_OK)
        *config = next;
    return st;
}

enum sc_status sc_config_load(struct sc_config *config, const char *path, struct sc_err *err)
{
    enum sc_status st;
    char *text;
    size_t n;
    FILE *f = fopen(path, "re");

    if (f == NULL)
        return sc_fail(err, errno == ENOENT ? SC_ENOENT : SC_EIO, "%s: %s", path, strerror(errno));
    text = malloc(SC_SETTINGS_BYTES_MAX + 1);
    if (text == NULL) {
        (void)fclose(f);
        return sc_fail(err, SC_ENOMEM, "%s: no memory to read it", path);
    }
    n = fread(text, 1, SC_SETTINGS_BYTES_MAX + 1, f);
    if (ferror(f))
        st = sc_fail(err, SC_EIO, "%s: cannot be read", path);
    else if (n > SC_SETTINGS_BYTES_MAX)
        st = sc_fail(err, SC_EINVAL, "%s: longer than %u bytes", path, SC_SETTINGS_BYTES_MAX);
    else if (memchr(text, 0, n) != NULL)
        st = sc_fail(err, SC_EINVAL, "%s: holds a NUL byte", path);
    else
        st = SC_OK;
    (void)fclose(f);
    text[n <= SC_SETTINGS_BYTES_MAX ? n : SC_SETTINGS_BYTES_MAX] = '\0';
    if (st == SC_OK)
        st = sc_config_parse(config, text, path, err);
    free(text);
    return st;
}

/* What is refused at the start whatever the model and the machine. */
static enum sc_status check_engine(const struct sc_config *config, struct sc_err *err)
{
    bool bf16_sums = config->reduce_dtype == SC_DTYPE_BF16;

    if (config->math == SC_MATH_INT8 && config->weight_dtype != SC_DTYPE_I8)
        return sc_fail(err, SC_EINVAL,
                       "engine.math: \"int8\" needs engine.weight_dtype \"int8\", which is \"%s\"",
                       sc_dtype_name(config->weight_dtype));
    if (bf16_sums && config->tensor_parallel < 2)
        return sc_fail(
            err, SC_EINVAL,
            "engine.reduce_dtype: \"bf16\" needs an engine.tensor_parallel of at least 2, "
            "which is %u",
            config->tensor_parallel);
    if (bf16_sums && config->backend == SC_BACKEND_CPU)
        return sc_fail(err, SC_EINVAL,
                       "engine.reduce_dtype: \"bf16\" needs GPUs, but engine.backend is \"cpu\"");
    if (bf16_sums && config->determinism == SC_DETERMINISM_STRICT)
        return sc_fail(err, SC_EINVAL,
                       "engine.reduce_dtype: \"bf16\" with engine.determinism \"strict\", which "
                       "needs \"f32\"");
    if (config->kv_memory > 0 && config->kv_memory <= 100 && config->backend == SC_BACKEND_CPU)
        return sc_fail(
            err, SC_EINVAL,
            "kv.memory: \"%u%%\" of a GPU, but engine.backend is \"cpu\": give it a size",
            (unsigned)config->kv_memory);
    if (config->max_context == 1)
        return sc_fail(err, SC_EINVAL,
                       "engine.max_context: 1, must be 0 or at least 2: a prompt and an output");
    if (config->prefill_tokens > 0 && config->prefill_tokens < 16)
        return sc_fail(err, SC_EINVAL, "engine.prefill_tokens: %u, must be 0 or 16..%u",
                       config->prefill_tokens, SC_STEP_TOKENS_MAX);
    if (config->prefill_tokens + config->max_seqs > SC_STEP_TOKENS_MAX)
        return sc_fail(err, SC_EINVAL,
                       "engine.prefill_tokens + engine.max_seqs: %u + %u tokens a step, limit %u",
                       config->prefill_tokens, config->max_seqs, SC_STEP_TOKENS_MAX);
    return SC_OK;
}

enum sc_status sc_config_check(const struct sc_config *config, struct sc_err *err)
{
    enum sc_status st;

    if (config->model_dir[0] == '\0')
        return sc_fail(err, SC_EINVAL, "model.dir: no model is named (--model DIR)");
    for (uint32_t i = 0; i < config->n_listen; i++) {
        st = sc_address_check(config->listen[i], config->insecure, err);
        if (st != SC_OK)
            return sc_err_prefix(err, st, "server.listen");
    }
    if (config->tls_cert[0] != '\0' || config->tls_key[0] != '\0' ||
        config->tls_client_ca[0] != '\0')
        return sc_fail(err, SC_ENOTSUP,
                       "tls.certificate, tls.key, tls.client_ca: TLS is not available yet; listen "
                       "on loopback or a unix socket, or put a proxy in front");
    if (config->shared_namespace[0] != '\0' &&
        !sc_namespace_is_valid(config->shared_namespace, strlen(config->shared_namespace)))
        return sc_fail(err, SC_EINVAL,
                       "auth.shared_namespace: \"%.64s\": must be 1..%u of A-Z a-z 0-9 . _ -",
                       config->shared_namespace, SC_NAMESPACE_BYTES_MAX);
    if (config->store_redis_login[0] != '\0' && config->store_redis[0] == '\0')
        return sc_fail(err, SC_EINVAL, "store.redis_login_file: store.redis names no server");
    if (config->store_redis[0] != '\0') {
        st = sc_redis_check_address(config->store_redis, err);
        if (st != SC_OK)
            return sc_err_prefix(err, st, "store.redis");
    }
    int devices[SC_RANKS_MAX];
    bool given;
    st = sc_config_devices(config, devices, &given, err);
    return st == SC_OK ? check_engine(config, err) : st;
}
