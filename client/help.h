/* client/help.h - help texts, made from the option table.
 *
 * Threads: pure apart from the stream.
 */
#ifndef SC_CLIENT_HELP_H
#define SC_CLIENT_HELP_H

#include <stdio.h>

#include "client/options.h"

void sc_help_overview(FILE *out);
void sc_help_cmd(FILE *out, enum sc_cmd_id cmd);

#endif
