#include "daemon/reload.h"

#include <string.h>

static size_t key_bytes(const struct sc_config_key *key)
{
    switch (key->type) {
    case SC_CONFIG_STRING:
        return SC_CONFIG_PATH_BYTES;
    case SC_CONFIG_STRINGS:
        return sizeof(((struct sc_config *)NULL)->listen);
    case SC_CONFIG_BOOL:
        return sizeof(bool);
    case SC_CONFIG_UINT:
        return sizeof(uint32_t);
    case SC_CONFIG_FLOAT:
        return sizeof(float);
    case SC_CONFIG_SIZE:
    case SC_CONFIG_MEMORY:
    case SC_CONFIG_DURATION:
        return sizeof(uint64_t);
    case SC_CONFIG_CHOICE:
        return sizeof(int);
    }
    return 0;
}

void sc_reload(const struct sc_options *options, struct sc_config *current)
{
    struct sc_config next;
    struct sc_err err = SC_ERR_INIT;
    unsigned applied = 0, waiting = 0;

    if (sc_options_load(options, &next, &err) != SC_OK) {
        sc_warn("reload failed", "error=\"%s\" does=\"go on as before\"", err.text);
        return;
    }
    for (size_t i = 0; i < sc_config_n_keys; i++) {
        const struct sc_config_key *key = &sc_config_keys[i];
        char *now = (char *)current + key->offset;
        const char *then = (const char *)&next + key->offset;
        if (memcmp(now, then, key_bytes(key)) == 0)
            continue;
        if (key->reloads) {
            memcpy(now, then, key_bytes(key));
            sc_notice("reload", "key=%s applied=yes", key->path);
            applied++;
        } else {
            sc_warn("reload", "key=%s applied=no reason=\"needs a restart\"", key->path);
            waiting++;
        }
    }
    sc_log_configure(current->log_level, current->log_format);
    sc_notice("reloaded", "applied=%u need_restart=%u", applied, waiting);
}
