/* model/unicode.c - UTF-8 checks and character classes. */
#include "model/unicode.h"

#include <string.h>
#include <utf8proc.h>

const struct sc_unicode_class *sc_unicode_class_find(const char *name, size_t len)
{
    for (size_t i = 0; i < SC_UNICODE_CLASS_COUNT; i++) {
        const struct sc_unicode_class *c = &sc_unicode_classes[i];
        if (strlen(c->name) == len && memcmp(c->name, name, len) == 0)
            return c;
    }
    return NULL;
}

static bool in_ranges(const struct sc_unicode_range *ranges, size_t n, uint32_t cp)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (cp > ranges[mid].last)
            low = mid + 1;
        else if (cp < ranges[mid].first)
            high = mid;
        else
            return true;
    }
    return false;
}

bool sc_unicode_is(enum sc_unicode_class_id id, uint32_t cp)
{
    return in_ranges(sc_unicode_classes[id].ranges, sc_unicode_classes[id].n_ranges, cp);
}

bool sc_unicode_is_space(uint32_t cp)
{
    if (cp < 0x80)
        return cp == ' ' || (cp >= '\t' && cp <= '\r');
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool sc_unicode_is_word(uint32_t cp)
{
    if (cp < 0x80)
        return (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z') ||
               cp == '_';
    if (sc_unicode_is(SC_UNICODE_L, cp) || sc_unicode_is(SC_UNICODE_M, cp))
        return true;
    utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)cp);
    /* Numbers that utf8proc does not know yet are all decimal digits. */
    if (sc_unicode_is(SC_UNICODE_N, cp))
        return cat != UTF8PROC_CATEGORY_NO;
    /* Alphabetic symbols: circled and squared letters. */
    bool alphabetic = (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
                      (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189);
    return alphabetic || cat == UTF8PROC_CATEGORY_PC || cp == 0x200c || cp == 0x200d;
}

uint32_t sc_unicode_lower(uint32_t cp)
{
    if (cp < 0x80)
        return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    /* Letters of Unicode 16, which utf8proc 2.8 does not know. */
    switch (cp) {
    case 0x1c89:
        return 0x1c8a;
    case 0xa7cb:
        return 0x264;
    case 0xa7cc:
        return 0xa7cd;
    case 0xa7da:
        return 0xa7db;
    case 0xa7dc:
        return 0x19b;
    default:
        break;
    }
    if (cp >= 0x10d50 && cp <= 0x10d65)
        return cp + 0x20;
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

unsigned sc_utf8_sequence(const char *text, size_t n, unsigned *ret_bad, bool *ret_cut)
{
    const unsigned char *s = (const unsigned char *)text;
    *ret_bad = 1;
    *ret_cut = false;
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    unsigned need = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    /* The second byte is limited: no overlong forms, no surrogates, nothing past U+10FFFF. */
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    for (unsigned i = 1; i < need; i++) {
        *ret_bad = i;
        if (i >= n) {
            *ret_cut = true;
            return 0;
        }
        if (s[i] < low || s[i] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

size_t sc_utf8_valid_bytes(const char *text, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint64_t word;
        if (len - i >= sizeof(word)) {
            memcpy(&word, text + i, sizeof(word));
            if ((word & 0x8080808080808080ull) == 0) {
                i += sizeof(word);
                continue;
            }
        }
        unsigned bad;
        bool cut;
        unsigned n = sc_utf8_sequence(text + i, len - i, &bad, &cut);
        if (n == 0)
            return i;
        i += n;
    }
    return len;
}

unsigned sc_utf8_put(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | ((cp >> 6) & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | ((cp >> 12) & 0x3f));
    out[2] = (char)(0x80 | ((cp >> 6) & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}
