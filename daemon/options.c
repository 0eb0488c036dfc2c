#include "daemon/options.h"

#include <string.h>

#include "daemon/keys.h"
#include "store/login.h"

const struct sc_option_flag sc_option_flags[] = {
    {"model", "model.dir", "DIR", "model directory in Hugging Face format"},
    {"listen", "server.listen", "ADDR:PORT[,...]", "where to listen (127.0.0.1:50051)"},
    {"insecure", "server.insecure", NULL, "allow addresses that others can reach"},
    {"queue-max", "server.queue_max", "N", "requests that may wait (1024)"},
    {"drain-timeout", "server.drain_timeout", "TIME", "how long a stop waits for requests (60s)"},
    {"backend", "engine.backend", "cpu|cuda|auto", "what computes (auto)"},
    {"tensor-parallel", "engine.tensor_parallel", "N", "ranks that share the model (1)"},
    {"threads", "engine.threads", "N", "CPU threads of each rank (0: the machine's)"},
    {"max-seqs", "engine.max_seqs", "N", "requests that run at once (64)"},
    {"prefill-tokens", "engine.prefill_tokens", "N",
     "prompt tokens of one step (0: by the device)"},
    {"max-context", "engine.max_context", "N", "longest prompt and output (0: the model's)"},
    {"weight-dtype", "engine.weight_dtype", "f32|bf16|int8", "how weights are kept (bf16)"},
    {"math", "engine.math", "auto|f32|bf16|int8", "what weights are multiplied with (auto)"},
    {"kv-memory", "kv.memory", "SIZE|90%|auto", "memory for the KV cache of each rank (auto)"},
    {"kv-dtype", "kv.dtype", "f32|bf16|int8", "how keys and values are kept (bf16)"},
    {"auto-min-tokens", "kv.auto_min_tokens", "N", "AUTO compresses prompts from here on (2048)"},
    {"log-level", "log.level", "LEVEL", "error, warning, notice, info, debug (notice)"},
    {"log-format", "log.format", "text|json", "how log lines look (text)"},
};
const size_t sc_option_n_flags = SC_ARRAY_LEN(sc_option_flags);

static enum sc_status add_set(struct sc_options *o, const char *key, size_t key_len,
                              const char *value, struct sc_err *err)
{
    if (o->n_sets == SC_OPTIONS_SET_MAX)
        return sc_fail(err, SC_EINVAL, "more than %u settings on the command line",
                       SC_OPTIONS_SET_MAX);
    if (key_len >= sizeof(o->sets[0].key))
        return sc_fail(err, SC_EINVAL, "%.*s: unknown key", (int)key_len, key);
    memcpy(o->sets[o->n_sets].key, key, key_len);
    o->sets[o->n_sets].key[key_len] = '\0';
    o->sets[o->n_sets].value = value;
    o->n_sets++;
    return SC_OK;
}

/* What stands on one place of the command line: --name, --name=value or --name value. */
struct word {
    const char *name; /* without dashes */
    size_t name_len;
    const char *value; /* after '=', or NULL */
};

static bool is_named(const struct word *w, const char *name)
{
    return strlen(name) == w->name_len && memcmp(w->name, name, w->name_len) == 0;
}

/* The value of an option that needs one: its own, or the next word of the command line. */
static enum sc_status need_value(const struct word *w, int argc, const char *const *argv, int *at,
                                 const char **ret_value, struct sc_err *err)
{
    *ret_value = w->value;
    if (w->value == NULL && *at + 1 < argc)
        *ret_value = argv[++*at];
    if (*ret_value == NULL)
        return sc_fail(err, SC_EINVAL, "--%.*s: a value is missing", (int)w->name_len, w->name);
    return SC_OK;
}

static enum sc_status take_flag(struct sc_options *o, const struct sc_option_flag *flag,
                                const struct word *w, int argc, const char *const *argv, int *at,
                                struct sc_err *err)
{
    const char *value = "true";
    enum sc_status st = SC_OK;

    if (flag->arg != NULL)
        st = need_value(w, argc, argv, at, &value, err);
    else if (w->value != NULL)
        st = sc_fail(err, SC_EINVAL, "--%s: takes no value", flag->name);
    return st == SC_OK ? add_set(o, flag->key, strlen(flag->key), value, err) : st;
}

static enum sc_status take_option(struct sc_options *o, const struct word *w, int argc,
                                  const char *const *argv, int *at, struct sc_err *err)
{
    const char *value;
    enum sc_status st;

    if (is_named(w, "help") || is_named(w, "version") || is_named(w, "check-config")) {
        if (w->value != NULL)
            return sc_fail(err, SC_EINVAL, "--%.*s: takes no value", (int)w->name_len, w->name);
        o->action = is_named(w, "help")      ? SC_ACTION_HELP
                    : is_named(w, "version") ? SC_ACTION_VERSION
                                             : SC_ACTION_CHECK;
        return SC_OK;
    }
    if (is_named(w, "config"))
        return need_value(w, argc, argv, at, &o->config_path, err);
    if (is_named(w, "set")) {
        st = need_value(w, argc, argv, at, &value, err);
        if (st != SC_OK)
            return st;
        if (strchr(value, '=') == NULL)
            return sc_fail(err, SC_EINVAL, "--set %s: write KEY=VALUE", value);
        return add_set(o, value, strcspn(value, "="), strchr(value, '=') + 1, err);
    }
    for (size_t i = 0; i < sc_option_n_flags; i++) {
        if (is_named(w, sc_option_flags[i].name))
            return take_flag(o, &sc_option_flags[i], w, argc, argv, at, err);
    }
    return sc_fail(err, SC_EINVAL, "--%.*s: unknown option (--help lists them)", (int)w->name_len,
                   w->name);
}

enum sc_status sc_options_parse(int argc, const char *const *argv, struct sc_options *ret_options,
                                struct sc_err *err)
{
    struct sc_options o = {.action = SC_ACTION_RUN};

    for (int at = 1; at < argc; at++) {
        struct word w = {0};
        enum sc_status st;
        if (strcmp(argv[at], "-h") == 0)
            w = (struct word){"help", 4, NULL};
        else if (strncmp(argv[at], "--", 2) == 0)
            w = (struct word){argv[at] + 2, strcspn(argv[at] + 2, "="), NULL};
        else
            return sc_fail(err, SC_EINVAL, "%s: not an option (--help lists them)", argv[at]);
        if (argv[at][0] == '-' && argv[at][1] == '-' && w.name[w.name_len] == '=')
            w.value = w.name + w.name_len + 1;
        st = take_option(&o, &w, argc, argv, &at, err);
        if (st != SC_OK)
            return st;
    }
    *ret_options = o;
    return SC_OK;
}

/* So that --check-config and a reload name its file and line, before anything has changed. */
static enum sc_status check_keys(const struct sc_config *config, struct sc_err *err)
{
    struct sc_keys *keys = NULL;
    enum sc_status st = sc_keys_open(config->keys_file, &keys, err);

    sc_keys_close(keys);
    return st;
}

static enum sc_status check_redis_login(const struct sc_config *config, struct sc_err *err)
{
    struct sc_login login;
    enum sc_status st = sc_login_read(config->store_redis_login, &login, err);

    if (st != SC_OK)
        return sc_err_prefix(err, st, "store.redis_login_file");
    sc_login_wipe(&login);
    return SC_OK;
}

enum sc_status sc_options_load(const struct sc_options *o, struct sc_config *ret_config,
                               struct sc_err *err)
{
    struct sc_config config;
    enum sc_status st = SC_OK;

    sc_config_init(&config);
    if (o->config_path != NULL)
        st = sc_config_load(&config, o->config_path, err);
    for (unsigned i = 0; i < o->n_sets && st == SC_OK; i++) {
        st = sc_config_set(&config, o->sets[i].key, o->sets[i].value, err);
        if (st != SC_OK)
            st = sc_err_prefix(err, st, "command line");
    }
    if (st == SC_OK) {
        st = sc_config_check(&config, err);
        if (st != SC_OK && o->config_path != NULL)
            st = sc_err_prefix(err, st, "%s", o->config_path);
    }
    if (st == SC_OK && config.keys_file[0] != '\0')
        st = check_keys(&config, err);
    if (st == SC_OK && config.store_redis_login[0] != '\0')
        st = check_redis_login(&config, err);
    if (st == SC_OK)
        *ret_config = config;
    return st;
}

void sc_options_help(FILE *out)
{
    (void)fprintf(out, "Usage: semanticached [--config FILE] [--model DIR] [OPTION]...\n"
                       "Serves a language model over gRPC, with compressed prompt caches.\n\n"
                       "  --config FILE                settings (see semanticached(8))\n"
                       "  --check-config               check them, say what is wrong, exit\n"
                       "  --set KEY=VALUE              any setting of the file, e.g. "
                       "server.max_streams=64\n");
    for (size_t i = 0; i < sc_option_n_flags; i++) {
        char left[64];
        (void)snprintf(left, sizeof(left), "--%s %s", sc_option_flags[i].name,
                       sc_option_flags[i].arg != NULL ? sc_option_flags[i].arg : "");
        (void)fprintf(out, "  %-28s %s\n", left, sc_option_flags[i].help);
    }
    (void)fprintf(out, "  --version                    print the version, exit\n"
                       "  --help                       print this, exit\n\n"
                       "Exit status: 0 stopped as asked, 1 failed to start or to stop, 2 bad "
                       "command line or settings.\n");
}
