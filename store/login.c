#include "store/login.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLANKS " \t\r"

/* The file's bytes into text, ended by 0. */
static enum sc_status read_text(const char *path, struct sc_login *login, struct sc_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us */
    enum sc_status st = SC_OK;
    struct stat info;
    size_t len = 0;
    ssize_t got;

    if (fd < 0)
        return sc_fail(err, errno == ENOENT ? SC_ENOENT : SC_EIO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        st = sc_fail(err, SC_EIO, "%s: not a file", path);
    else if ((info.st_mode & (S_IROTH | S_IWOTH)) != 0)
        st = sc_fail(err, SC_EPERM, "%s: mode %03o lets others at the password; chmod o= %s", path,
                     (unsigned)(info.st_mode & 0777), path);
    else if (info.st_size > (off_t)SC_LOGIN_BYTES_MAX)
        st = sc_fail(err, SC_EINVAL, "%s: %lld bytes, limit %u", path, (long long)info.st_size,
                     SC_LOGIN_BYTES_MAX);
    while (st == SC_OK && len < SC_LOGIN_BYTES_MAX &&
           (got = read(fd, login->text + len, SC_LOGIN_BYTES_MAX - len)) > 0)
        len += (size_t)got;
    (void)close(fd);
    login->text[len] = '\0';
    if (st == SC_OK && strlen(login->text) != len)
        st = sc_fail(err, SC_EINVAL, "%s: holds a byte 0", path);
    return st;
}

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
    enum sc_status st = read_text(path, ret_login, err);

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
