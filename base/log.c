#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 2048

/* A reload writes them while others log: a line has the old ones or the new. */
static struct {
    _Atomic(enum sc_log_level) max_level;
    _Atomic(enum sc_log_format) format;
} settings = {SC_LOG_NOTICE, SC_LOG_TEXT};

static const char *const level_names[] = {"error", "warning", "notice", "info", "debug"};

void sc_log_configure(enum sc_log_level max_level, enum sc_log_format format)
{
    atomic_store_explicit(&settings.max_level, max_level, memory_order_relaxed);
    atomic_store_explicit(&settings.format, format, memory_order_relaxed);
}

const char *sc_log_level_name(enum sc_log_level level)
{
    return (unsigned)level < SC_ARRAY_LEN(level_names) ? level_names[level] : "unknown";
}

enum sc_status sc_log_level_parse(const char *name, enum sc_log_level *ret_level)
{
    for (size_t i = 0; i < SC_ARRAY_LEN(level_names); i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *ret_level = (enum sc_log_level)i;
            return SC_OK;
        }
    }
    return SC_EINVAL;
}

/* Bytes of the UTF-8 character at s, 0 when it is none (stray byte, overlong, surrogate, cut). */
static size_t utf8_length(const unsigned char *s)
{
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) /* the terminator too */
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return n;
}

/* Appends src to dst, escaped for a JSON string, a character whole or not at all; bytes that are no
 * UTF-8 become U+FFFD. Keeps one byte for the terminator. */
static size_t append_json(char *dst, size_t at, size_t cap, const char *src)
{
    while (*src != '\0' && at + 7 < cap) {
        unsigned char c = (unsigned char)*src;
        size_t n = utf8_length((const unsigned char *)src);
        if (c == '"' || c == '\\') {
            dst[at++] = '\\';
            dst[at++] = (char)c;
        } else if (c < 0x20 || c == 0x7f) {
            at += (size_t)snprintf(dst + at, cap - at, "\\u%04x", c);
        } else {
            memcpy(dst + at, n > 0 ? src : "\xef\xbf\xbd", n > 0 ? n : 3);
            at += n > 0 ? n : 3;
        }
        src += n > 0 ? n : 1;
    }
    dst[at] = '\0';
    return at;
}

void sc_log(enum sc_log_level level, const char *event, const char *fmt, ...)
{
    char values[LINE_BYTES / 2], line[LINE_BYTES];
    struct timespec now;
    struct tm tm;
    bool is_json;
    va_list ap;
    int n;

    if (level > atomic_load_explicit(&settings.max_level, memory_order_relaxed))
        return;
    is_json = atomic_load_explicit(&settings.format, memory_order_relaxed) == SC_LOG_JSON;
    va_start(ap, fmt);
    (void)vsnprintf(values, sizeof(values), fmt, ap);
    va_end(ap);
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &tm);
    n = snprintf(line, sizeof(line), "%s%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ%s%s%s",
                 is_json ? "{\"time\":\"" : "", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
                 tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000,
                 is_json ? "\",\"level\":\"" : " ", sc_log_level_name(level),
                 is_json ? "\",\"event\":\"" : ": ");
    size_t at = (size_t)n;
    if (is_json) {
        at = append_json(line, at, sizeof(line) - 32, event);
        at += (size_t)snprintf(line + at, sizeof(line) - at, "\",\"values\":\"");
        at = append_json(line, at, sizeof(line) - 8, values);
        at += (size_t)snprintf(line + at, sizeof(line) - at, "\"}\n");
    } else {
        for (char *p = values; *p != '\0'; p++)
            if ((unsigned char)*p < 0x20)
                *p = ' ';
        n = snprintf(line + at, sizeof(line) - at - 1, "%s%s%s", event, *values ? " " : "", values);
        at += (size_t)n < sizeof(line) - at - 1 ? (size_t)n : sizeof(line) - at - 2;
        line[at++] = '\n';
    }
    ssize_t written;
    do /* one write keeps the line whole */
        written = write(STDERR_FILENO, line, at);
    while (written < 0 && errno == EINTR);
}
