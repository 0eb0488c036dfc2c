/* tests/fuzz/fuzz_daemon_config.c - any text as the daemon's settings: refused with a message and
 * nothing changed, or every value is inside its limits. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libconfig's scanner loses the string that it was reading at a syntax error. */
const char *__lsan_default_suppressions(void)
{
    return "leak:libconfig.so";
}

static void check_number(const struct sc_config *c, const struct sc_config_key *key)
{
    const char *at = (const char *)c + key->offset;
    double value;

    switch (key->type) {
    case SC_CONFIG_UINT:
        value = *(const uint32_t *)(const void *)at;
        break;
    case SC_CONFIG_FLOAT:
        value = (double)*(const float *)(const void *)at;
        /* A limit such as 0.01 has no exact float. */
        SC_ASSERT(value >= key->min - 1e-6 && value <= key->max + 1e-6);
        return;
    case SC_CONFIG_SIZE:
    case SC_CONFIG_DURATION:
        value = (double)*(const uint64_t *)(const void *)at;
        break;
    case SC_CONFIG_STRING:
        SC_ASSERT(memchr(at, 0, SC_CONFIG_PATH_BYTES) != NULL);
        return;
    default:
        return;
    }
    SC_ASSERT(value >= key->min && value <= key->max);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sc_config config, before; /* large for a stack */
    struct sc_err err = SC_ERR_INIT;
    char *text;

    if (memchr(data, 0, size) != NULL) /* sc_config_load refuses those */
        return 0;
    text = malloc(size + 1);
    SC_ASSERT(text != NULL);
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    sc_config_init(&config);
    before = config;
    if (sc_config_parse(&config, text, "FILE", &err) != SC_OK) {
        SC_ASSERT(strncmp(err.text, "FILE:", 5) == 0);
        SC_ASSERT(memcmp(&config, &before, sizeof(config)) == 0);
    }
    for (size_t i = 0; i < sc_config_n_keys; i++)
        check_number(&config, &sc_config_keys[i]);
    SC_ASSERT(config.n_listen >= 1 && config.n_listen <= SC_LISTEN_MAX);
    sc_err_clear(&err);
    SC_ASSERT((sc_config_check(&config, &err) == SC_OK) == (err.status == SC_OK));
    free(text);
    return 0;
}
