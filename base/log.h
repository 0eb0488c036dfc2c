/* base/log.h - one event, one line: text, then values.
 *
 * Only daemon/ logs above debug; everything else returns its message. Never log prompts.
 * Threads: any; a line is written whole. Settings are made once, before threads start.
 */
#ifndef SC_BASE_LOG_H
#define SC_BASE_LOG_H

#include "base/status.h"

enum sc_log_level {
    SC_LOG_ERROR,   /* a person has to act */
    SC_LOG_WARNING, /* degraded; says what we do instead */
    SC_LOG_NOTICE,  /* start, ready, reload, drain, stop */
    SC_LOG_INFO,    /* per connection */
    SC_LOG_DEBUG,   /* per request */
};

enum sc_log_format { SC_LOG_TEXT, SC_LOG_JSON };

void sc_log_configure(enum sc_log_level max_level, enum sc_log_format format);
enum sc_status sc_log_level_parse(const char *name, enum sc_log_level *ret_level) SC_MUST_CHECK;
const char *sc_log_level_name(enum sc_log_level level);

/* event: a fixed text ("request refused"). fmt: values as "id=%u queue=%u", or "" for none. */
void sc_log(enum sc_log_level level, const char *event, const char *fmt, ...) SC_PRINTF(3, 4);

#define sc_error(event, ...)  sc_log(SC_LOG_ERROR, event, __VA_ARGS__)
#define sc_warn(event, ...)   sc_log(SC_LOG_WARNING, event, __VA_ARGS__)
#define sc_notice(event, ...) sc_log(SC_LOG_NOTICE, event, __VA_ARGS__)
#define sc_info(event, ...)   sc_log(SC_LOG_INFO, event, __VA_ARGS__)
#define sc_debug(event, ...)  sc_log(SC_LOG_DEBUG, event, __VA_ARGS__)

#endif
