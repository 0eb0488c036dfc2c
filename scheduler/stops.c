#include "scheduler/stops.h"

#include <string.h>

bool sc_stops_find(const struct sc_stop_string *stops, uint32_t n_stops, const char *text,
                   size_t len, size_t from, struct sc_stop_match *ret_match)
{
    for (size_t end = from + 1; end <= len; end++) {
        uint32_t best_len = 0, best = 0;
        for (uint32_t i = 0; i < n_stops; i++) {
            const struct sc_stop_string *s = &stops[i];
            if (s->len > end || s->len <= best_len || s->text[s->len - 1] != text[end - 1] ||
                memcmp(text + end - s->len, s->text, s->len) != 0)
                continue;
            best_len = s->len;
            best = i;
        }
        if (best_len > 0) {
            *ret_match = (struct sc_stop_match){.which = best, .start = end - best_len, .end = end};
            return true;
        }
    }
    return false;
}

size_t sc_stops_held(const struct sc_stop_string *stops, uint32_t n_stops, const char *text,
                     size_t len)
{
    size_t held = 0;
    for (uint32_t i = 0; i < n_stops; i++) {
        size_t n = stops[i].len - 1 < len ? stops[i].len - 1 : len;
        for (; n > held; n--)
            if (memcmp(text + len - n, stops[i].text, n) == 0)
                held = n;
    }
    return held;
}
