/* store/login.h - the file with the name and password that Redis asks for.
 *
 * Its first line is PASSWORD, or USER PASSWORD; the rest is empty or comments (#). Read anew for
 * each connection, so that a password can be changed without a restart. Errors never show what it
 * holds. Threads: any.
 */
#ifndef SC_STORE_LOGIN_H
#define SC_STORE_LOGIN_H

#include "base/status.h"

#define SC_LOGIN_BYTES_MAX 4096u /* of the file */

struct sc_login {
    char text[SC_LOGIN_BYTES_MAX + 1]; /* what the others point into */
    const char *user;                  /* NULL: Redis' default user */
    const char *password;
};

/* SC_ENOENT, SC_EIO: the file; SC_EPERM: others may read it; SC_EINVAL: its content. The caller
 * wipes *ret_login. */
enum sc_status sc_login_read(const char *path, struct sc_login *ret_login,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_login_wipe(struct sc_login *login);

#endif
