/* client/quality_against.h - how far a cache leads away from the exact one, token by token of the
 * exact one's answer.
 *
 * An answer is a list of TokenLogprob as JSON, as struct sc_generation keeps it. Threads: pure.
 */
#ifndef SC_CLIENT_QUALITY_AGAINST_H
#define SC_CLIENT_QUALITY_AGAINST_H

#include <jansson.h>

#include "base/status.h"
#include "client/quality_tally.h"

#define SC_QUALITY_TOP 20u /* likeliest tokens that are asked for */

/* `other` was generated behind the first `from` tokens of `exact`. As long as it makes the same
 * tokens it stands before the same text, so its distributions are compared, up to its first other
 * token and that included: adds to sums and tells how many. What is left, if anything, another
 * generation behind those must tell. SC_EFORMAT: lists that are empty or hold no log-probabilities.
 */
enum sc_status sc_quality_compare(const json_t *exact, size_t from, const json_t *other,
                                  struct sc_quality_against *sums, size_t *ret_n,
                                  struct sc_err *err) SC_MUST_CHECK;

#endif
