#include "daemon/config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *suffix;
    uint64_t factor;
};

/* By rising factor. */
static const struct unit sizes[] = {
    {"", 1},
    {"B", 1},
    {"KiB", 1ull << 10},
    {"MiB", 1ull << 20},
    {"GiB", 1ull << 30},
    {"TiB", 1ull << 40},
};
static const struct unit durations[] = {
    {"us", 1}, {"ms", 1000}, {"s", 1000000}, {"min", 60000000ull}, {"h", 3600000000ull},
};

/* A number, digits with at most one fraction, then a unit; spaces between them are fine. */
static enum sc_status parse_units(const char *text, const struct unit *units, size_t n_units,
                                  const char *what, uint64_t *ret, struct sc_err *err)
{
    char *end;
    double number;
    size_t i;

    if (text[0] < '0' || text[0] > '9' || strncasecmp(text, "0x", 2) == 0)
        return sc_fail(err, SC_EINVAL, "\"%s\" is not a %s", text, what);
    errno = 0;
    number = strtod(text, &end);
    while (*end == ' ')
        end++;
    for (i = 0; i < n_units; i++) {
        if (strcmp(end, units[i].suffix) == 0)
            break;
    }
    if (i == n_units || errno != 0 || !isfinite(number))
        return sc_fail(err, SC_EINVAL, "\"%s\" is not a %s", text, what);
    number *= (double)units[i].factor;
    if (number > 9e18)
        return sc_fail(err, SC_EINVAL, "\"%s\" is too large", text);
    *ret = (uint64_t)llround(number);
    return SC_OK;
}

enum sc_status sc_size_parse(const char *text, uint64_t *ret_bytes, struct sc_err *err)
{
    return parse_units(text, sizes, SC_ARRAY_LEN(sizes), "size such as \"512MiB\" or \"8GiB\"",
                       ret_bytes, err);
}

enum sc_status sc_duration_parse(const char *text, uint64_t *ret_us, struct sc_err *err)
{
    return parse_units(text, durations, SC_ARRAY_LEN(durations),
                       "duration such as \"500ms\", \"30s\" or \"5min\"", ret_us, err);
}

static const char *unit_text(uint64_t value, const struct unit *units, size_t n_units,
                             char text[SC_UNIT_TEXT_BYTES])
{
    size_t best = 0;

    for (size_t i = 0; i < n_units && units[i].factor <= value; i++) {
        if (value % units[i].factor == 0)
            best = i;
    }
    (void)snprintf(text, SC_UNIT_TEXT_BYTES, "%" PRIu64 "%s", value / units[best].factor,
                   units[best].suffix);
    return text;
}

const char *sc_size_text(uint64_t bytes, char text[SC_UNIT_TEXT_BYTES])
{
    return unit_text(bytes, sizes, SC_ARRAY_LEN(sizes), text);
}

const char *sc_duration_text(uint64_t us, char text[SC_UNIT_TEXT_BYTES])
{
    if (us == 0)
        return strcpy(text, "0s");
    return unit_text(us, durations, SC_ARRAY_LEN(durations), text);
}

enum sc_status sc_config_devices(const struct sc_config *config, int *ret_devices, bool *ret_given,
                                 struct sc_err *err)
{
    const char *at = config->devices;
    uint32_t n = 0;

    *ret_given = *at != 0;
    while (*at != 0) {
        char *end = NULL;
        unsigned long value = *at >= '0' && *at <= '9' ? strtoul(at, &end, 10) : 1000;
        if (value > 255)
            return sc_fail(err, SC_EINVAL,
                           "engine.devices: \"%s\": write device numbers with commas, such as "
                           "\"0,1\"",
                           config->devices);
        if (n < config->tensor_parallel)
            ret_devices[n] = (int)value;
        n++;
        at = end + strspn(end, " ");
        if (*at == ',')
            at += 1 + strspn(at + 1, " ");
        else if (*at != 0)
            return sc_fail(err, SC_EINVAL, "engine.devices: \"%s\": what is \"%s\"",
                           config->devices, at);
    }
    if (n > 0 && n != config->tensor_parallel)
        return sc_fail(err, SC_EINVAL,
                       "engine.devices: %u devices, but engine.tensor_parallel is %u", n,
                       config->tensor_parallel);
    return SC_OK;
}
