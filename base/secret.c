#include "base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of an open file. */
static enum sc_status check(int fd, const char *path, const char *what, size_t max,
                            struct sc_err *err)
{
    struct stat info;

    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return sc_fail(err, SC_EIO, "%s: not a file", path);
    if ((info.st_mode & (S_IROTH | S_IWOTH)) != 0)
        return sc_fail(err, SC_EPERM, "%s: mode %03o lets others at %s; chmod o= %s", path,
                       (unsigned)(info.st_mode & 0777), what, path);
    if (info.st_size > (off_t)max)
        return sc_fail(err, SC_EINVAL, "%s: %lld bytes, limit %zu", path, (long long)info.st_size,
                       max);
    return SC_OK;
}

enum sc_status sc_secret_read(const char *path, const char *what, char *buf, size_t max,
                              size_t *ret_len, struct sc_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us */
    enum sc_status st;
    size_t len = 0;
    ssize_t got = 1;

    if (fd < 0)
        return sc_fail(err, errno == ENOENT ? SC_ENOENT : SC_EIO, "%s: %s", path, strerror(errno));
    st = check(fd, path, what, max, err);
    while (st == SC_OK && len < max && got != 0) {
        got = read(fd, buf + len, max - len);
        if (got < 0 && errno != EINTR)
            st = sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
        else if (got > 0)
            len += (size_t)got;
    }
    (void)close(fd);
    if (st != SC_OK) {
        explicit_bzero(buf, len);
        return st;
    }
    buf[len] = '\0';
    *ret_len = len;
    return SC_OK;
}
