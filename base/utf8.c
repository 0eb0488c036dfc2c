#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

int sc_utf8_char_len(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned char low = 0x80,
                  high = 0xBF; /* of the second byte: no overlong forms, no surrogates */
    int n;
    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xC2 && s[0] <= 0xDF)
        n = 2;
    else if (s[0] >= 0xE0 && s[0] <= 0xEF)
        n = 3;
    else if (s[0] >= 0xF0 && s[0] <= 0xF4)
        n = 4;
    else
        return -1;
    if (s[0] == 0xE0)
        low = 0xA0;
    else if (s[0] == 0xED)
        high = 0x9F;
    else if (s[0] == 0xF0)
        low = 0x90;
    else if (s[0] == 0xF4)
        high = 0x8F;
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= len)
            return 0;
        if (s[i] < low || s[i] > high)
            return -1;
        low = 0x80;
        high = 0xBF;
    }
    return n;
}

size_t sc_utf8_whole(const char *text, size_t len)
{
    for (size_t back = 1; back < SC_UTF8_BYTES_MAX && back <= len; back++) {
        unsigned char c = (unsigned char)text[len - back];
        if (c >= 0xC0) /* a leading byte: the only place where a cut character can start */
            return sc_utf8_char_len(text + len - back, back) == 0 ? len - back : len;
        if (c < 0x80)
            return len;
    }
    return len;
}

size_t sc_utf8_valid_prefix(const void *text, size_t len)
{
    const char *s = text;
    size_t at = 0;

    while (at < len) {
        int n = sc_utf8_char_len(s + at, len - at);
        if (n <= 0)
            break;
        at += (size_t)n;
    }
    return at;
}

bool sc_utf8_valid(const char *text, size_t len, size_t *ret_at)
{
    size_t valid = sc_utf8_valid_prefix(text, len);

    if (valid == len)
        return true;
    *ret_at = valid;
    return false;
}

char *sc_utf8_clean(const char *text, size_t len, size_t *ret_len)
{
    char *out = malloc(len * strlen(SC_UTF8_REPLACEMENT) + 1);
    size_t n_out = 0;
    if (out == NULL)
        return NULL;
    for (size_t at = 0; at < len;) {
        int n = sc_utf8_char_len(text + at, len - at);
        if (n > 0) {
            memcpy(out + n_out, text + at, (size_t)n);
            n_out += (size_t)n;
            at += (size_t)n;
        } else {
            memcpy(out + n_out, SC_UTF8_REPLACEMENT, strlen(SC_UTF8_REPLACEMENT));
            n_out += strlen(SC_UTF8_REPLACEMENT);
            at++;
        }
    }
    out[n_out] = '\0';
    *ret_len = n_out;
    return out;
}
