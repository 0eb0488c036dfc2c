#include "base/status.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const status_names[SC_STATUS_COUNT] = {
#define SC_STATUS_NAME(name, text) #name,
    SC_STATUS_LIST(SC_STATUS_NAME)
#undef SC_STATUS_NAME
};

static const char *const status_texts[SC_STATUS_COUNT] = {
#define SC_STATUS_TEXT(name, text) text,
    SC_STATUS_LIST(SC_STATUS_TEXT)
#undef SC_STATUS_TEXT
};

const char *sc_status_name(enum sc_status st)
{
    return (unsigned)st < SC_STATUS_COUNT ? status_names[st] : "SC_UNKNOWN";
}

const char *sc_status_text(enum sc_status st)
{
    return (unsigned)st < SC_STATUS_COUNT ? status_texts[st] : "unknown status";
}

/* One line of text: control characters become spaces, a character that was cut in two is dropped.
 */
static void tidy(char *text, size_t cap, bool cut)
{
    for (char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20)
            *p = ' ';
    if (!cut)
        return;
    size_t end = cap - 1, start = end;
    while (start > 0 && end - start < 4 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
        start--;
    unsigned char lead = start > 0 ? (unsigned char)text[start - 1] : 0;
    size_t want = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (want > 1 && end - (start - 1) < want)
        text[start - 1] = '\0';
}

enum sc_status sc_vfail(struct sc_err *err, enum sc_status st, const char *fmt, va_list ap)
{
    SC_ASSERT(st != SC_OK);
    if (err == NULL || err->status != SC_OK)
        return st;
    err->status = st;
    int n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
    tidy(err->text, sizeof(err->text), n >= (int)sizeof(err->text));
    return st;
}

enum sc_status sc_fail(struct sc_err *err, enum sc_status st, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    st = sc_vfail(err, st, fmt, ap);
    va_end(ap);
    return st;
}

enum sc_status sc_err_prefix(struct sc_err *err, enum sc_status st, const char *fmt, ...)
{
    char old[SC_ERR_TEXT_BYTES];
    va_list ap;
    if (err == NULL || err->status == SC_OK)
        return st;
    memcpy(old, err->text, sizeof(old));
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(err->text))
        n += snprintf(err->text + n, sizeof(err->text) - (size_t)n, ": %s", old);
    tidy(err->text, sizeof(err->text), n >= (int)sizeof(err->text));
    return st;
}

void sc_err_clear(struct sc_err *err)
{
    if (err != NULL) {
        err->status = SC_OK;
        err->text[0] = '\0';
    }
}

void sc_assert_failed(const char *expr, const char *file, int line)
{
    (void)fprintf(stderr, "assertion failed: %s at %s:%d\n", expr, file, line);
    abort();
}
