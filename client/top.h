/* client/top.h - what `semcache top` shows of a server.
 *
 * Threads: pure apart from the stream.
 */
#ifndef SC_CLIENT_TOP_H
#define SC_CLIENT_TOP_H

#include <jansson.h>
#include <stdio.h>

#include "semanticache/v1/control.pb-c.h"

struct sc_top_sample {
    double at_s; /* of any clock that runs evenly */
    const Semanticache__V1__GetServerInfoResponse *server;
    const Semanticache__V1__GetLoadsResponse *loads;
};

/* A block of plain lines. What is told per second lies between the samples; before may be NULL:
 * then it is not told. A server that was started anew in between counts as NULL. */
void sc_top_print(FILE *out, const char *address, const struct sc_top_sample *before,
                  const struct sc_top_sample *now);

/* {"interval_s", "rates", "loads", "server"}; NULL: no memory. */
json_t *sc_top_json(const struct sc_top_sample *before, const struct sc_top_sample *now);

/* '#' for used, '+' for cached, '.' for free; each that is not nothing shows. */
#define SC_TOP_BAR_COLUMNS 40
void sc_top_bar(uint64_t used, uint64_t cached, uint64_t free_pages,
                char buffer[SC_TOP_BAR_COLUMNS + 1]);

#endif
