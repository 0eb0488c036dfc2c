/* One document as a file: little-endian fields, strings and arrays with their lengths, a BLAKE2b
 * over all of it at the end. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/utf8.h"
#include "daemon/documents.h"

#define MAGIC      0x31434453u /* "SDC1" */
#define VERSION    1u
#define NAME_CHARS 40 /* hexadecimal digits, before .doc or .tmp */

/* Writes when bytes is set, else counts; reads with n as the end. The first failure sticks. */
struct cursor {
    uint8_t *out;
    const uint8_t *in;
    size_t at, n;
    bool bad;
};

static void raw(struct cursor *c, void *data, size_t bytes)
{
    if (bytes == 0) /* data may be NULL */
        return;
    if (c->in != NULL) {
        if (c->bad || bytes > c->n - c->at) {
            c->bad = true;
            return;
        }
        memcpy(data, c->in + c->at, bytes);
    } else if (c->out != NULL) {
        memcpy(c->out + c->at, data, bytes);
    }
    c->at += bytes;
}

static void u32(struct cursor *c, uint32_t *v)
{
    raw(c, v, sizeof(*v));
}

static void u64(struct cursor *c, uint64_t *v)
{
    raw(c, v, sizeof(*v));
}

static void i64(struct cursor *c, int64_t *v)
{
    raw(c, v, sizeof(*v));
}

static void text(struct cursor *c, char *s, size_t max)
{
    uint32_t len = c->in == NULL ? (uint32_t)strlen(s) : 0;
    u32(c, &len);
    if (len > max)
        c->bad = true;
    else
        raw(c, s, len);
    if (c->in != NULL && !c->bad) {
        s[len] = '\0';
        c->bad = strlen(s) != len || sc_utf8_valid_prefix(s, len) != len;
    }
}

/* An array that reading takes memory for. */
static void array(struct cursor *c, void **data, uint64_t *n, size_t item, uint64_t max)
{
    u64(c, n);
    if (c->in != NULL) {
        if (c->bad || *n > max || *n * item > c->n - c->at) {
            c->bad = true;
            *n = 0;
            return;
        }
        *data = malloc(*n * item + 1);
        c->bad = *data == NULL;
    }
    if (!c->bad)
        raw(c, *data, *n * item);
}

static void all_fields(struct cursor *c, struct sc_document *d)
{
    struct sc_seq_stats *kv = &d->receipt.kv;
    uint64_t n_tokens = d->n_tokens, kv_bytes = d->kv_bytes;
    uint32_t mode = d->receipt.mode;
    int64_t used = atomic_load(&d->used_us), pinned = atomic_load(&d->pinned_until_us);
    void *tokens = d->tokens, *options = d->kv;

    text(c, d->id, SC_DOCUMENT_ID_MAX);
    text(c, d->ns, SC_NAMESPACE_BYTES_MAX);
    text(c, d->title, SC_DOCUMENT_TITLE_MAX);
    u64(c, &d->bytes);
    u32(c, &d->n_prefix);
    raw(c, &d->prefix_key, sizeof(d->prefix_key));
    raw(c, &d->model, sizeof(d->model));
    raw(c, &d->receipt.recipe_id, sizeof(d->receipt.recipe_id));
    u32(c, &mode);
    u32(c, &kv->logical_tokens);
    u32(c, &kv->pages);
    u64(c, &kv->exact_entries);
    u64(c, &kv->physical_entries);
    u64(c, &kv->peak_entries);
    u64(c, &kv->cores);
    u64(c, &kv->compressed_tokens);
    u64(c, &kv->compress_us);
    i64(c, &d->created_us);
    i64(c, &used);
    i64(c, &pinned);
    array(c, &options, &kv_bytes, 1, SC_DOCUMENT_OPTIONS_MAX);
    array(c, &tokens, &n_tokens, sizeof(*d->tokens), UINT32_MAX / 8);
    if (c->in == NULL)
        return;
    d->kv = options;
    d->kv_bytes = kv_bytes;
    d->tokens = tokens;
    d->n_tokens = (uint32_t)n_tokens;
    c->bad = c->bad || mode > SC_KV_COMPRESSED;
    d->receipt.mode = mode == SC_KV_COMPRESSED ? SC_KV_COMPRESSED : SC_KV_EXACT;
    atomic_store(&d->used_us, used);
    atomic_store(&d->pinned_until_us, pinned);
}

static struct sc_hash digest(const uint8_t *bytes, size_t len)
{
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_str(&h, "semanticache document 1");
    sc_hasher_bytes(&h, bytes, len);
    return sc_hasher_end(&h);
}

enum sc_status sc_document_pack(const struct sc_document *document, uint8_t **ret_bytes,
                                size_t *ret_len, struct sc_err *err)
{
    struct sc_document *d = (struct sc_document *)(uintptr_t)document; /* only read */
    uint32_t magic = MAGIC, version = VERSION;
    struct cursor c = {0};
    struct sc_hash sum;

    all_fields(&c, d);
    c.n = c.at + 8 + sizeof(sum);
    c.out = malloc(c.n);
    if (c.out == NULL)
        return sc_fail(err, SC_ENOMEM, "document \"%s\": no memory for its file", d->id);
    c.at = 0;
    u32(&c, &magic);
    u32(&c, &version);
    all_fields(&c, d);
    sum = digest(c.out, c.at);
    raw(&c, &sum, sizeof(sum));
    *ret_bytes = c.out;
    *ret_len = c.at;
    return SC_OK;
}

/* What the rest of the daemon relies on. Whether the model has the tokens is for the registry. */
static bool is_whole(const struct sc_document *d)
{
    if (d->n_tokens == 0 || d->n_prefix > d->n_tokens ||
        sc_document_check_id(d->id, NULL) != SC_OK || !sc_namespace_is_valid(d->ns, strlen(d->ns)))
        return false;
    for (uint32_t i = 0; i < d->n_tokens; i++)
        if (d->tokens[i] < 0)
            return false;
    return true;
}

enum sc_status sc_document_unpack(const uint8_t *bytes, size_t len,
                                  struct sc_document **ret_document, struct sc_err *err)
{
    struct cursor c = {.in = bytes, .n = len};
    uint32_t magic = 0, version = 0;
    struct sc_document *d;
    struct sc_hash sum;

    u32(&c, &magic);
    u32(&c, &version);
    if (c.bad || magic != MAGIC)
        return sc_fail(err, SC_EFORMAT, "not a document");
    if (version != VERSION)
        return sc_fail(err, SC_EFORMAT, "version %u, this daemon reads %u", version, VERSION);
    if (len < 8 + sizeof(sum))
        return sc_fail(err, SC_EFORMAT, "truncated: %zu bytes", len);
    c.n = len - sizeof(sum);
    sum = digest(bytes, c.n);
    if (memcmp(&sum, bytes + c.n, sizeof(sum)) != 0)
        return sc_fail(err, SC_EFORMAT, "damaged: the checksum does not match");
    d = calloc(1, sizeof(*d));
    if (d == NULL)
        return sc_fail(err, SC_ENOMEM, "no memory for a document");
    atomic_init(&d->refs, 1);
    all_fields(&c, d);
    if (c.bad || c.at != c.n || !is_whole(d)) {
        sc_document_unref(d);
        return sc_fail(err, SC_EFORMAT, "its parts do not fit together");
    }
    *ret_document = d;
    return SC_OK;
}

/* Ids may hold slashes: the name is a hash. */
static void path_of(const char *dir, const struct sc_document *d, const char *ext, char *path,
                    size_t bytes)
{
    char hex[2 * SC_HASH_BYTES + 1];
    struct sc_hasher h;
    struct sc_hash name;

    sc_hasher_init(&h);
    sc_hasher_str(&h, d->ns);
    sc_hasher_str(&h, d->id);
    name = sc_hasher_end(&h);
    sc_hash_hex(&name, hex);
    (void)snprintf(path, bytes, "%s/%.*s%s", dir, NAME_CHARS, hex, ext);
}

static enum sc_status write_all(int fd, const uint8_t *bytes, size_t len, const char *path,
                                struct sc_err *err)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = write(fd, bytes + at, len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
        at += (size_t)n;
    }
    if (fsync(fd) != 0)
        return sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
    return SC_OK;
}

enum sc_status sc_document_write(const char *dir, const struct sc_document *d, struct sc_err *err)
{
    char path[SC_CONFIG_PATH_BYTES + 64], tmp[SC_CONFIG_PATH_BYTES + 64];
    uint8_t *bytes = NULL;
    size_t len = 0;
    enum sc_status st = sc_document_pack(d, &bytes, &len, err);
    int fd, dir_fd;

    if (st != SC_OK)
        return st;
    path_of(dir, d, ".doc", path, sizeof(path));
    path_of(dir, d, ".tmp", tmp, sizeof(tmp));
    fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    st = fd >= 0 ? write_all(fd, bytes, len, tmp, err)
                 : sc_fail(err, SC_EIO, "%s: %s", tmp, strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    if (st == SC_OK && rename(tmp, path) != 0)
        st = sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
    if (st != SC_OK)
        (void)unlink(tmp);
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd >= 0) {
        (void)fsync(dir_fd);
        (void)close(dir_fd);
    }
    free(bytes);
    return st;
}

void sc_document_unlink(const char *dir, const struct sc_document *d)
{
    char path[SC_CONFIG_PATH_BYTES + 64];

    path_of(dir, d, ".doc", path, sizeof(path));
    (void)unlink(path);
}

static enum sc_status read_one(const char *path, struct sc_document **ret_document,
                               struct sc_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *bytes = NULL;
    enum sc_status st;
    struct stat info;
    size_t len = 0;
    ssize_t n;

    if (fd < 0 || fstat(fd, &info) != 0) {
        if (fd >= 0)
            (void)close(fd);
        return sc_fail(err, SC_EIO, "%s", strerror(errno));
    }
    if (info.st_size < 0 || (uint64_t)info.st_size > SC_DOCUMENT_FILE_MAX)
        st = sc_fail(err, SC_EFORMAT, "%lld bytes, limit %zu", (long long)info.st_size,
                     SC_DOCUMENT_FILE_MAX);
    else if ((bytes = malloc((size_t)info.st_size + 1)) == NULL)
        st = sc_fail(err, SC_ENOMEM, "no memory");
    else {
        while (len < (size_t)info.st_size &&
               (n = read(fd, bytes + len, (size_t)info.st_size - len)) > 0)
            len += (size_t)n;
        st = sc_document_unpack(bytes, len, ret_document, err);
    }
    (void)close(fd);
    free(bytes);
    return st;
}

enum sc_status sc_document_lock_dir(const char *dir, int *ret_fd, struct sc_err *err)
{
    char path[SC_CONFIG_PATH_BYTES + 8];
    int fd;

    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return sc_fail(err, SC_EIO, "documents.dir: %s: %s", dir, strerror(errno));
    (void)snprintf(path, sizeof(path), "%s/lock", dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return sc_fail(err, SC_EIO, "documents.dir: %s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        (void)close(fd);
        return sc_fail(err, SC_EEXIST, "documents.dir: %s: another daemon uses it", dir);
    }
    *ret_fd = fd;
    return SC_OK;
}

enum sc_status sc_document_read_dir(const char *dir,
                                    void (*fn)(void *ctx, struct sc_document *document), void *ctx,
                                    struct sc_err *err)
{
    char path[2 * SC_CONFIG_PATH_BYTES], bad[2 * SC_CONFIG_PATH_BYTES + 8];
    const struct dirent *entry;
    DIR *d;

    d = opendir(dir);
    if (d == NULL)
        return sc_fail(err, SC_EIO, "documents.dir: %s: %s", dir, strerror(errno));
    while ((entry = readdir(d)) != NULL) {
        const char *dot = strrchr(entry->d_name, '.');
        struct sc_document *document = NULL;
        struct sc_err why = SC_ERR_INIT;

        (void)snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
        if (strspn(entry->d_name, "0123456789abcdef") == NAME_CHARS &&
            strcmp(entry->d_name + NAME_CHARS, ".tmp") == 0)
            (void)unlink(path); /* an interrupted write: the directory is ours alone */
        if (dot == NULL || strcmp(dot, ".doc") != 0)
            continue;
        if (read_one(path, &document, &why) == SC_OK) {
            fn(ctx, document);
            continue;
        }
        (void)snprintf(bad, sizeof(bad), "%s.bad", path);
        sc_warn("document skipped", "file=%s reason=\"%s\" renamed=.bad", path, why.text);
        if (why.status == SC_EFORMAT)
            (void)rename(path, bad);
    }
    (void)closedir(d);
    return SC_OK;
}
