#include "daemon/config_scan.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct scan {
    const char *at;
    int line;
};

static void advance(struct scan *s, const char *to)
{
    for (; s->at < to; s->at++)
        s->line += *s->at == '\n' ? 1 : 0;
}

/* Behind a string or a comment that begins here; the text's end when it does not end. NULL: none
 * begins. */
static const char *skip(const char *at)
{
    const char *end;

    if (*at == '"') {
        for (at++; *at != '\0' && *at != '"'; at++)
            at += *at == '\\' && at[1] != '\0' ? 1 : 0;
        return *at == '"' ? at + 1 : at;
    }
    if (*at == '#' || (at[0] == '/' && at[1] == '/'))
        return at + strcspn(at, "\n");
    if (at[0] == '/' && at[1] == '*') {
        end = strstr(at + 2, "*/");
        return end != NULL ? end + 2 : at + strlen(at);
    }
    return NULL;
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '*' || c == '.' || c == '+';
}

/* A word that begins with a digit, behind its sign. Floats and what is no number are libconfig's to
 * judge. */
static enum sc_status check_number(const char *word, size_t len, bool negative, int line,
                                   const char *name, struct sc_err *err)
{
    bool is_hex = len > 1 && word[0] == '0' && (word[1] == 'x' || word[1] == 'X');
    uint64_t limit = is_hex ? UINT32_MAX : (uint64_t)INT32_MAX + (negative ? 1 : 0);
    unsigned long long value;
    char *end;

    errno = 0;
    value = strtoull(word, &end, is_hex ? 16 : 10);
    if (*end == 'L')
        limit = INT64_MAX;
    while (*end == 'L')
        end++;
    if (end != word + len || (errno == 0 && value <= limit))
        return SC_OK;
    return sc_fail(err, SC_EINVAL, "%s:%d: %.*s: number out of range", name, line,
                   len < 64 ? (int)len : 64, word);
}

enum sc_status sc_config_scan(const char *text, const char *name, struct sc_err *err)
{
    struct scan s = {text, 1};

    while (*s.at != '\0') {
        const char *end = skip(s.at);
        enum sc_status st;
        bool negative;
        if (end != NULL) {
            advance(&s, end);
            continue;
        }
        if (strncmp(s.at, "@include", strlen("@include")) == 0)
            return sc_fail(err, SC_EINVAL, "%s:%d: @include is not supported: one file holds all",
                           name, s.line);
        if (!is_word(*s.at)) {
            advance(&s, s.at + 1);
            continue;
        }
        negative = *s.at == '-';
        if (*s.at == '-' || *s.at == '+')
            s.at++;
        for (end = s.at; is_word(*end);)
            end++;
        if (isdigit((unsigned char)*s.at)) {
            st = check_number(s.at, (size_t)(end - s.at), negative, s.line, name, err);
            if (st != SC_OK)
                return st;
        }
        advance(&s, end);
    }
    return SC_OK;
}
