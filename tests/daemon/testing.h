/* tests/daemon/testing.h - what every test here includes before cmocka. */
#ifndef SC_TESTS_DAEMON_TESTING_H
#define SC_TESTS_DAEMON_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        if ((call) != SC_OK)                                                                       \
            fail_msg("%s: %s", #call, err.text);                                                   \
    } while (0)

#define assert_text_has(text, part)                                                                \
    do {                                                                                           \
        if (strstr(text, part) == NULL)                                                            \
            fail_msg("\"%s\" does not say \"%s\"", text, part);                                    \
    } while (0)

#endif
