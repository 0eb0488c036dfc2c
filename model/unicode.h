/* model/unicode.h - UTF-8 stepping, character classes and normal forms for the tokenizer.
 *
 * The classes are those of Unicode 16, whatever the system's libraries know. utf8_next and
 * utf8_prev expect valid UTF-8; check with sc_utf8_valid_bytes first. Threads: pure functions.
 */
#ifndef SC_MODEL_UNICODE_H
#define SC_MODEL_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct sc_text;

struct sc_unicode_range {
    uint32_t first, last;
};

enum sc_unicode_class_id {
    SC_UNICODE_L,
    SC_UNICODE_N,
    SC_UNICODE_M,
    SC_UNICODE_LU,
    SC_UNICODE_LL,
    SC_UNICODE_LT,
    SC_UNICODE_LM,
    SC_UNICODE_LO,
    SC_UNICODE_P,
    SC_UNICODE_S,
    SC_UNICODE_CLASS_COUNT
};

struct sc_unicode_class {
    const char *name;                      /* as in \p{name} */
    const struct sc_unicode_range *ranges; /* the whole class, ascending */
    size_t n_ranges;
    const struct sc_unicode_range *newer; /* its ranges that are not in Unicode 14 (PCRE2 10.42) */
    size_t n_newer;
};

extern const struct sc_unicode_class sc_unicode_classes[SC_UNICODE_CLASS_COUNT];

/* NULL where there is none of that name. */
const struct sc_unicode_class *sc_unicode_class_find(const char *name, size_t len);
bool sc_unicode_is(enum sc_unicode_class_id id, uint32_t cp);
bool sc_unicode_is_space(uint32_t cp); /* White_Space: 25 code points, not U+180E */
bool sc_unicode_is_word(uint32_t cp);  /* letters, marks, digits, connectors, joiners */
uint32_t sc_unicode_lower(uint32_t cp);

/* Bytes before the first malformed sequence; len when all is valid. */
size_t sc_utf8_valid_bytes(const char *text, size_t len);

/* One sequence at s of n >= 1 bytes: its length 1..4 when valid. Otherwise 0 and *ret_bad, the
 * bytes of the maximal ill-formed subpart, and *ret_cut: more bytes could still complete it. */
unsigned sc_utf8_sequence(const char *s, size_t n, unsigned *ret_bad, bool *ret_cut);

unsigned sc_utf8_put(char out[4], uint32_t cp); /* returns the bytes written */

static inline uint32_t sc_utf8_next(const char *text, size_t *pos)
{
    const unsigned char *s = (const unsigned char *)text + *pos;
    if (s[0] < 0x80) {
        *pos += 1;
        return s[0];
    }
    if (s[0] < 0xe0) {
        *pos += 2;
        return (uint32_t)(s[0] & 0x1f) << 6 | (s[1] & 0x3f);
    }
    if (s[0] < 0xf0) {
        *pos += 3;
        return (uint32_t)(s[0] & 0x0f) << 12 | (uint32_t)(s[1] & 0x3f) << 6 | (s[2] & 0x3f);
    }
    *pos += 4;
    return (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3f) << 12 |
           (uint32_t)(s[2] & 0x3f) << 6 | (s[3] & 0x3f);
}

/* The code point that ends at *pos (> 0); moves *pos to its start. */
static inline uint32_t sc_utf8_prev(const char *text, size_t *pos)
{
    do
        *pos -= 1;
    while (((unsigned char)text[*pos] & 0xc0) == 0x80);
    size_t at = *pos;
    return sc_utf8_next(text, &at);
}

enum sc_unicode_form { SC_UNICODE_NFC, SC_UNICODE_NFD, SC_UNICODE_NFKC, SC_UNICODE_NFKD };

/* Appends the normal form of valid UTF-8 to out. Linear in len, also for long runs of marks. Marks
 * that Unicode 13 does not know stay where they are, as in the tables that tokenizers are made
 * with. */
enum sc_status sc_unicode_normalize(enum sc_unicode_form form, const char *text, size_t len,
                                    struct sc_text *out, struct sc_err *err) SC_MUST_CHECK;

#endif
