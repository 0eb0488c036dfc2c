#include "shard/calibration_write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shard/calibration.h"

/* PATH.0123456789abcdef.tmp */
#define TMP_SUFFIX ".tmp"
#define TMP_DIGITS 16u

static enum sc_status write_synced(const char *tmp, const char *text, struct sc_err *err)
{
    const int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool bad = fd < 0;
    int e = errno;

    for (size_t left = strlen(text); left > 0 && !bad;) {
        const ssize_t n = write(fd, text, left);
        if (n < 0 && errno == EINTR)
            continue;
        bad = n <= 0;
        e = errno;
        text += bad ? 0 : n;
        left -= bad ? 0 : (size_t)n;
    }
    if (!bad && fsync(fd) != 0) {
        e = errno;
        bad = true;
    }
    /* Network file systems report the last write's failure here. */
    if (fd >= 0 && close(fd) != 0 && !bad) {
        e = errno;
        bad = true;
    }
    return bad ? sc_fail(err, SC_EIO, "%s: cannot write: %s", tmp, strerror(e)) : SC_OK;
}

/* Linking never takes another's place, and renaming always does. Where files have no second names
 * (FAT, some network file systems) the last of several wins. */
static enum sc_status give_name(const char *tmp, const char *path, bool replace, struct sc_err *err)
{
    if (!replace) {
        if (link(tmp, path) == 0)
            return SC_OK;
        if (errno == EEXIST)
            return sc_fail(err, SC_EEXIST, "%s: another was written first", path);
        if (errno != EPERM && errno != ENOSYS && errno != EOPNOTSUPP)
            return sc_fail(err, SC_EIO, "%s: cannot link to %s: %s", path, tmp, strerror(errno));
    }
    if (rename(tmp, path) != 0)
        return sc_fail(err, SC_EIO, "%s: cannot rename from %s: %s", path, tmp, strerror(errno));
    return SC_OK;
}

/* The directory of a path; -1: it cannot be opened. */
static int open_dir_of(const char *path)
{
    char dir[4096];
    const char *slash = strrchr(path, '/');

    (void)snprintf(dir, sizeof(dir), "%.*s", slash != NULL ? (int)(slash - path) + 1 : 1,
                   slash != NULL ? path : ".");
    return open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* A name is on the disk once its directory is. Fails where directories cannot be synced; the file
 * itself is. */
static void sync_dir_of(const char *path)
{
    const int fd = open_dir_of(path);

    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
}

/* Several machines may write into one directory: the name is drawn. */
static enum sc_status draw_name(const char *path, char tmp[SC_CALIBRATION_PATH_BYTES],
                                struct sc_err *err)
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return sc_fail(err, SC_EIO, "getrandom: %s", strerror(errno));
    if ((size_t)snprintf(tmp, SC_CALIBRATION_PATH_BYTES, "%s.%016llx" TMP_SUFFIX, path,
                         (unsigned long long)random) >= SC_CALIBRATION_PATH_BYTES)
        return sc_fail(err, SC_EINVAL, "%s: path longer than %u bytes", path,
                       SC_CALIBRATION_PATH_BYTES);
    return SC_OK;
}

enum sc_status sc_calibration_write(const char *path, const char *text, bool replace,
                                    struct sc_err *err)
{
    char tmp[SC_CALIBRATION_PATH_BYTES];
    enum sc_status st = draw_name(path, tmp, err);

    if (st != SC_OK)
        return st;
    st = write_synced(tmp, text, err);
    if (st == SC_OK)
        st = give_name(tmp, path, replace, err);
    (void)unlink(tmp); /* which it has no more where it was renamed */
    if (st == SC_OK)
        sync_dir_of(path);
    return st;
}

enum sc_status sc_calibration_take_aside(const char *path, char aside[SC_CALIBRATION_PATH_BYTES],
                                         struct sc_err *err)
{
    enum sc_status st = draw_name(path, aside, err);

    if (st == SC_OK && rename(path, aside) != 0)
        st = sc_fail(err, errno == ENOENT ? SC_ENOENT : SC_EIO, "%s: cannot rename to %s: %s", path,
                     aside, strerror(errno));
    if (st == SC_OK) /* sc_calibration_clean takes it for left behind if it is old */
        (void)utimensat(AT_FDCWD, aside, NULL, 0);
    return st;
}

enum sc_status sc_calibration_put_back(const char *aside, const char *path, struct sc_err *err)
{
    enum sc_status st = give_name(aside, path, false, err);

    if (st == SC_OK || st == SC_EEXIST)
        (void)unlink(aside); /* else it has no other name */
    if (st == SC_OK)
        sync_dir_of(path);
    return st;
}

static bool is_tmp_of(const char *name, const char *of)
{
    const size_t len = strlen(of);

    return strncmp(name, of, len) == 0 && name[len] == '.' &&
           strspn(name + len + 1, "0123456789abcdef") == TMP_DIGITS &&
           strcmp(name + len + 1 + TMP_DIGITS, TMP_SUFFIX) == 0;
}

void sc_calibration_clean(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    const int fd = open_dir_of(path);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct stat info;

    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (is_tmp_of(e->d_name, name) && fstatat(fd, e->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(info.st_mode) && time(NULL) - info.st_mtime > SC_CALIBRATION_TMP_AGE_S)
            (void)unlinkat(fd, e->d_name, 0);
    }
    if (dir != NULL)
        (void)closedir(dir);
    else if (fd >= 0)
        (void)close(fd);
}
