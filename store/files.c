#include "store/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/internal.h"

#define SUFFIX     ".core"
#define NAME_BYTES (3 + 2 * SC_HASH_BYTES + sizeof(SUFFIX)) /* ab/abcd....core */
#define TMP_DIR    "tmp"
#define IO_BYTES   ((size_t)64 << 20) /* of one read or write call */

static void name_of(const struct sc_hash *key, char ret_name[NAME_BYTES])
{
    char hex[2 * SC_HASH_BYTES + 1];

    sc_hash_hex(key, hex);
    (void)snprintf(ret_name, NAME_BYTES, "%.2s/%s" SUFFIX, hex, hex);
}

enum sc_status sc_files_errno(struct sc_err *err, const char *what, const char *name)
{
    int e = errno;
    enum sc_status st = SC_EIO;

    if (e == ENOSPC || e == EDQUOT || e == EFBIG)
        st = SC_EFULL;
    else if (e == EACCES || e == EPERM || e == EROFS)
        st = SC_EPERM;
    else if (e == ENOENT)
        st = SC_ENOENT;
    else if (e == ENOMEM)
        st = SC_ENOMEM;
    return sc_fail(err, st, "%s %s: %s", what, name, strerror(e));
}

static mode_t dir_mode(const struct sc_files *f)
{
    return f->shared ? 0775 : 0700;
}

/* mkdir -p */
static enum sc_status make_dirs(const struct sc_files *f, const char *path, struct sc_err *err)
{
    char part[PATH_MAX];
    size_t len = strlen(path);

    if (len == 0 || len >= sizeof(part))
        return sc_fail(err, SC_EINVAL, "directory: a path of %zu bytes, limit %d", len,
                       PATH_MAX - 1);
    memcpy(part, path, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        part[i] = '\0';
        if (mkdir(part, dir_mode(f)) != 0 && errno != EEXIST)
            return sc_files_errno(err, "mkdir", part);
        part[i] = path[i];
    }
    return SC_OK;
}

enum sc_status sc_files_init(struct sc_files *f, const char *path, bool shared, struct sc_err *err)
{
    enum sc_status st;

    *f = (struct sc_files){.fd = -1, .shared = shared};
    st = make_dirs(f, path, err);
    if (st != SC_OK)
        return st;
    f->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->fd < 0)
        return sc_files_errno(err, "open", path);
    if (mkdirat(f->fd, TMP_DIR, dir_mode(f)) != 0 && errno != EEXIST) {
        st = sc_files_errno(err, "mkdir " TMP_DIR " in", path);
        sc_files_fini(f);
        return st;
    }
    return SC_OK;
}

void sc_files_fini(struct sc_files *f)
{
    if (f->fd >= 0)
        (void)close(f->fd);
    f->fd = -1;
}

static DIR *open_sub(struct sc_files *f, const char *name)
{
    int fd = openat(f->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

    if (fd >= 0 && dir == NULL)
        (void)close(fd);
    return dir;
}

void sc_files_clean(struct sc_files *f)
{
    DIR *dir = open_sub(f, TMP_DIR);
    struct stat info;

    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (fstatat(dirfd(dir), e->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            S_ISDIR(info.st_mode))
            continue;
        if (!f->shared || time(NULL) - info.st_mtime > SC_FILES_TMP_AGE_S)
            (void)unlinkat(dirfd(dir), e->d_name, 0);
    }
    if (dir != NULL)
        (void)closedir(dir);
}

/* Up to n bytes at off; fewer only at the end of the file. False: an error. */
static bool read_all(int fd, uint8_t *to, size_t n, off_t off, size_t *ret_n)
{
    size_t done = 0;

    while (done < n) {
        size_t want = n - done < IO_BYTES ? n - done : IO_BYTES;
        ssize_t got = pread(fd, to + done, want, off + (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return false;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    *ret_n = done;
    return true;
}

static bool write_all(int fd, const uint8_t *from, size_t n)
{
    while (n > 0) {
        ssize_t got = write(fd, from, n < IO_BYTES ? n : IO_BYTES);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return false;
        from += got;
        n -= (size_t)got;
    }
    return true;
}

/* Opens a blob's file and checks its header against what is expected and its length against the
 * header. On SC_OK the caller closes *ret_fd. */
static enum sc_status open_blob(struct sc_files *f, const struct sc_hash *key,
                                const struct sc_store_label *label, int *ret_fd,
                                struct sc_format *ret_format, struct sc_err *err)
{
    char name[NAME_BYTES];
    uint8_t header[SC_FORMAT_HEADER_BYTES];
    struct sc_format format;
    struct stat info;
    size_t n;
    enum sc_status st;

    name_of(key, name);
    int fd = openat(f->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return sc_files_errno(err, "open", name);
    if (fstat(fd, &info) != 0 || !read_all(fd, header, sizeof(header), 0, &n)) {
        st = sc_files_errno(err, "read", name);
        goto fail;
    }
    st = sc_format_decode(header, n, &format, err);
    if (st == SC_OK)
        st = sc_format_expect(&format, key, label, err);
    if (st == SC_OK && (uint64_t)info.st_size != SC_FORMAT_HEADER_BYTES + format.payload_bytes)
        st = sc_fail(err, SC_EFORMAT, "cut short or too long: %" PRIu64 " bytes of %" PRIu64,
                     (uint64_t)info.st_size, SC_FORMAT_HEADER_BYTES + format.payload_bytes);
    if (st != SC_OK)
        goto fail;
    *ret_fd = fd;
    *ret_format = format;
    return SC_OK;

fail:
    (void)close(fd);
    return st;
}

enum sc_status sc_files_peek(struct sc_files *f, const struct sc_hash *key,
                             const struct sc_store_label *label, struct sc_err *err)
{
    struct sc_format format;
    int fd;
    enum sc_status st = open_blob(f, key, label, &fd, &format, err);

    if (st == SC_OK)
        (void)close(fd);
    return st;
}

enum sc_status sc_files_read(struct sc_files *f, const struct sc_hash *key,
                             const struct sc_store_label *label, struct sc_blob **ret_blob,
                             struct sc_err *err)
{
    struct sc_format format;
    struct sc_blob *blob = NULL;
    size_t n = 0;
    int fd;
    enum sc_status st = open_blob(f, key, label, &fd, &format, err);

    if (st != SC_OK)
        return st;
    st = sc_blob_open(format.payload_bytes, &blob, err);
    if (st != SC_OK)
        goto out;
    if (!read_all(fd, sc_blob_bytes(blob), format.payload_bytes, SC_FORMAT_HEADER_BYTES, &n)) {
        st = sc_fail(err, SC_EIO, "read: %s", strerror(errno));
        goto out;
    }
    st = sc_format_check(&format, sc_blob_bytes(blob), n, err);
    if (st == SC_OK) {
        *ret_blob = blob;
        blob = NULL;
    }
out:
    sc_blob_unref(blob);
    (void)close(fd);
    return st;
}

static struct timespec to_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

static enum sc_status write_tmp(struct sc_files *f, const char *tmp, const uint8_t *header,
                                struct sc_blob *blob, uint64_t mtime_ns, struct sc_err *err)
{
    struct timespec times[2] = {to_timespec(mtime_ns), to_timespec(mtime_ns)};
    mode_t mode = f->shared ? 0664 : 0600;
    int fd = openat(f->fd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    enum sc_status st = SC_OK;

    if (fd < 0)
        return sc_files_errno(err, "create", tmp);
    if (!write_all(fd, header, SC_FORMAT_HEADER_BYTES) ||
        !write_all(fd, sc_blob_bytes(blob), sc_blob_size(blob)) || futimens(fd, times) != 0 ||
        fsync(fd) != 0)
        st = sc_files_errno(err, "write", tmp);
    /* Network file systems report the last write's failure here. */
    if (close(fd) != 0 && st == SC_OK)
        st = sc_files_errno(err, "close", tmp);
    return st;
}

/* Moves tmp into its place and syncs the directories that changed. */
static enum sc_status publish(struct sc_files *f, const char *tmp, const char *name,
                              struct sc_err *err)
{
    char sub[3] = {name[0], name[1], '\0'};
    bool made = mkdirat(f->fd, sub, dir_mode(f)) == 0;
    int fd;

    if (!made && errno != EEXIST)
        return sc_files_errno(err, "mkdir", sub);
    if (renameat(f->fd, tmp, f->fd, name) != 0)
        return sc_files_errno(err, "rename", name);
    fd = openat(f->fd, sub, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd); /* fails where directories cannot be synced; the file itself is */
        (void)close(fd);
    }
    if (made)
        (void)fsync(f->fd);
    return SC_OK;
}

enum sc_status sc_files_write(struct sc_files *f, const struct sc_hash *key,
                              const uint8_t header[SC_FORMAT_HEADER_BYTES], struct sc_blob *blob,
                              uint64_t mtime_ns, struct sc_err *err)
{
    char name[NAME_BYTES], tmp[sizeof(TMP_DIR) + 2 * sizeof(uint64_t[2]) + 1];
    uint64_t random[2];
    enum sc_status st;

    /* Several machines write into one shared tmp/: the name is drawn, and O_EXCL decides. */
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return sc_fail(err, SC_EIO, "getrandom: %s", strerror(errno));
    (void)snprintf(tmp, sizeof(tmp), TMP_DIR "/%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    name_of(key, name);
    st = write_tmp(f, tmp, header, blob, mtime_ns, err);
    if (st == SC_OK)
        st = publish(f, tmp, name, err);
    if (st != SC_OK)
        (void)unlinkat(f->fd, tmp, 0);
    return st;
}

enum sc_status sc_files_remove(struct sc_files *f, const struct sc_hash *key, struct sc_err *err)
{
    char name[NAME_BYTES];

    name_of(key, name);
    if (unlinkat(f->fd, name, 0) != 0 && errno != ENOENT)
        return sc_files_errno(err, "remove", name);
    return SC_OK;
}

void sc_files_touch(struct sc_files *f, const struct sc_hash *key, uint64_t mtime_ns)
{
    struct timespec times[2] = {to_timespec(mtime_ns), to_timespec(mtime_ns)};
    char name[NAME_BYTES];

    name_of(key, name);
    (void)utimensat(f->fd, name, times, AT_SYMLINK_NOFOLLOW);
}

static bool hex_digit(char c, uint8_t *ret)
{
    if (c >= '0' && c <= '9')
        *ret = (uint8_t)(c - '0');
    else if (c >= 'a' && c <= 'f')
        *ret = (uint8_t)(c - 'a' + 10);
    else
        return false;
    return true;
}

/* The key of a file's name in the directory sub; false: not a blob's name. */
static bool parse_name(const char *sub, const char *name, struct sc_hash *ret_key)
{
    uint8_t high, low;

    if (strlen(name) != 2 * SC_HASH_BYTES + strlen(SUFFIX) ||
        strcmp(name + 2 * SC_HASH_BYTES, SUFFIX) != 0 || strncmp(name, sub, 2) != 0)
        return false;
    for (size_t i = 0; i < SC_HASH_BYTES; i++) {
        if (!hex_digit(name[2 * i], &high) || !hex_digit(name[2 * i + 1], &low))
            return false;
        ret_key->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

enum sc_status sc_files_walk(struct sc_files *f, sc_files_found_fn *found, void *ctx,
                             struct sc_err *err)
{
    enum sc_status st = SC_OK;
    struct sc_hash key;
    struct stat info;
    char sub[3];

    for (unsigned i = 0; i < 256 && st == SC_OK; i++) {
        (void)snprintf(sub, sizeof(sub), "%02x", i);
        DIR *dir = open_sub(f, sub);
        if (dir == NULL && errno != ENOENT)
            return sc_files_errno(err, "open", sub);
        for (struct dirent *e; dir != NULL && st == SC_OK && (e = readdir(dir)) != NULL;) {
            if (!parse_name(sub, e->d_name, &key) ||
                fstatat(dirfd(dir), e->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
                !S_ISREG(info.st_mode))
                continue;
            uint64_t ns =
                (uint64_t)info.st_mtim.tv_sec * 1000000000u + (uint64_t)info.st_mtim.tv_nsec;
            st = found(ctx, &key, (uint64_t)info.st_size, ns, err);
        }
        if (dir != NULL)
            (void)closedir(dir);
    }
    return st;
}
