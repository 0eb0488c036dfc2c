/* client/inspect.h - how a compressed prompt is shown: on a terminal, as plain text, as a page.
 *
 * Threads: pure apart from the streams.
 */
#ifndef SC_CLIENT_INSPECT_H
#define SC_CLIENT_INSPECT_H

#include <stdbool.h>
#include <stdio.h>

#include "base/status.h"
#include "semanticache/v1/control.pb-c.h"

/* SC_EFORMAT unless chunks lie within the tokens, in order, and each layer has a label a token. */
enum sc_status sc_inspect_check(const Semanticache__V1__InspectCacheResponse *reply,
                                struct sc_err *err) SC_MUST_CHECK;

/* The first layer that some chunk has; 0 when nothing was compressed. */
uint32_t sc_inspect_first_layer(const Semanticache__V1__InspectCacheResponse *reply);

/* One layer: tokens that were merged share a background colour, or, without colours, stand as
 * [number:token]. A checked reply. terminal: control characters become U+FFFD. */
enum sc_status sc_inspect_print(FILE *out, bool terminal, bool colors,
                                const Semanticache__V1__InspectCacheResponse *reply, uint32_t layer,
                                struct sc_err *err) SC_MUST_CHECK;

/* A page without outside parts that shows every layer of the reply. */
enum sc_status sc_inspect_write_html(FILE *out, const char *title,
                                     const Semanticache__V1__InspectCacheResponse *reply,
                                     struct sc_err *err) SC_MUST_CHECK;

#endif
