/* scheduler/stops.h - finds stop strings in text that arrives in pieces.
 *
 * The result is the same however tokens cut the text: the stop string that is complete first wins,
 * of those that end at the same byte the longest. Threads: pure functions.
 */
#ifndef SC_SCHEDULER_STOPS_H
#define SC_SCHEDULER_STOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sc_stop_string {
    const char *text; /* NUL-terminated */
    uint32_t len;     /* bytes, >= 1 */
};

struct sc_stop_match {
    uint32_t which;    /* index of the stop string */
    size_t start, end; /* bytes of text */
};

/* Looks for a stop string that ends after byte `from` of text (what is before was searched
 * already). */
bool sc_stops_find(const struct sc_stop_string *stops, uint32_t n_stops, const char *text,
                   size_t len, size_t from, struct sc_stop_match *ret_match);

/* Bytes at the end of text that may be the beginning of a stop string: they are held back. Always
 * less than the longest stop string. */
size_t sc_stops_held(const struct sc_stop_string *stops, uint32_t n_stops, const char *text,
                     size_t len);

#endif
