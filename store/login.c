#include "store/login.h"

#include <string.h>

#include "base/secret.h"

#define BLANKS " \t\r"

/* Cuts the first line into words; what follows it must be empty or comments. */
static enum sc_status cut(const char *path, struct sc_login *login, struct sc_err *err)
{
    const char *words[2];
    size_t n = 0;
    char *rest = login->text, *line = strsep(&rest, "\n");

    for (char *word; (word = strsep(&line, BLANKS)) != NULL;) {
        if (word[0] == '\0')
            continue;
        if (n == 2)
            return sc_fail(err, SC_EINVAL, "%s: more than two words, wanted [USER] PASSWORD", path);
        words[n++] = word;
    }
    if (n == 0)
        return sc_fail(err, SC_EINVAL, "%s: an empty first line, wanted [USER] PASSWORD", path);
    while ((line = strsep(&rest, "\n")) != NULL) {
        line += strspn(line, BLANKS);
        if (line[0] != '\0' && line[0] != '#')
            return sc_fail(err, SC_EINVAL, "%s: more than one line, wanted [USER] PASSWORD", path);
    }
    login->user = n == 2 ? words[0] : NULL;
    login->password = words[n - 1];
    return SC_OK;
}

enum sc_status sc_login_read(const char *path, struct sc_login *ret_login, struct sc_err *err)
{
    size_t len = 0;
    enum sc_status st =
        sc_secret_read(path, "the password", ret_login->text, SC_LOGIN_BYTES_MAX, &len, err);

    if (st == SC_OK && strlen(ret_login->text) != len)
        st = sc_fail(err, SC_EINVAL, "%s: holds a byte 0", path);
    if (st == SC_OK)
        st = cut(path, ret_login, err);
    if (st != SC_OK)
        sc_login_wipe(ret_login);
    return st;
}

void sc_login_wipe(struct sc_login *login)
{
    explicit_bzero(login, sizeof(*login));
}
