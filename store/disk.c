#include "store/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sys/file.h>
#include <unistd.h>

#include "store/internal.h"
#include "store/lru.h"

struct file {
    struct sc_lru_node lru; /* first */
    uint64_t used_ns;       /* of the last use */
    bool stale;             /* of another label or a later version: there, but not ours to read */
    bool touched;           /* used_ns is later than the file's modification time */
};

struct sc_disk {
    struct sc_files files;
    int lock_fd;
    uint64_t quota_bytes;
    /* Only the worker adds and takes nodes, so it may keep a node across the lock. */
    pthread_mutex_t mu;
    struct sc_lru index;
    uint64_t last_ns, n_evicted;
};

static uint64_t on_disk(uint64_t bytes)
{
    return (bytes + SC_DISK_BLOCK_BYTES - 1) / SC_DISK_BLOCK_BYTES * SC_DISK_BLOCK_BYTES;
}

/* Later than every use before, also when the clock went back. */
static uint64_t now_locked(struct sc_disk *disk)
{
    uint64_t now = sc_store_clock_ns(CLOCK_REALTIME);

    disk->last_ns = now > disk->last_ns ? now : disk->last_ns + 1;
    return disk->last_ns;
}

static struct file *find(struct sc_disk *disk, const struct sc_hash *key)
{
    pthread_mutex_lock(&disk->mu);
    struct file *file = (struct file *)sc_lru_find(&disk->index, key);
    pthread_mutex_unlock(&disk->mu);
    return file;
}

static void forget(struct sc_disk *disk, struct file *file)
{
    pthread_mutex_lock(&disk->mu);
    sc_lru_take(&disk->index, &file->lru);
    pthread_mutex_unlock(&disk->mu);
    free(file);
}

/* A first pass of open: the files in an array, to be sorted by their last use. */
struct scan {
    struct file **files;
    size_t n, cap;
};

static enum sc_status found(void *ctx, const struct sc_hash *key, uint64_t bytes, uint64_t mtime_ns,
                            struct sc_err *err)
{
    struct scan *scan = ctx;
    struct file *file;

    if (scan->n == scan->cap) {
        size_t cap = scan->cap > 0 ? 2 * scan->cap : 256;
        struct file **files = realloc(scan->files, cap * sizeof(struct file *));
        if (files == NULL)
            return sc_fail(err, SC_ENOMEM, "no memory for an index of %zu files", cap);
        scan->files = files;
        scan->cap = cap;
    }
    file = malloc(sizeof(*file));
    if (file == NULL)
        return sc_fail(err, SC_ENOMEM, "no memory for an index of %zu files", scan->n);
    *file = (struct file){.lru = {.key = *key, .bytes = on_disk(bytes)}, .used_ns = mtime_ns};
    scan->files[scan->n++] = file;
    return SC_OK;
}

static int by_last_use(const void *a, const void *b)
{
    const struct file *x = *(struct file *const *)a, *y = *(struct file *const *)b;

    return x->used_ns < y->used_ns ? -1 : x->used_ns > y->used_ns;
}

static enum sc_status scan_dir(struct sc_disk *disk, struct sc_err *err)
{
    struct scan scan = {0};
    enum sc_status st = sc_files_walk(&disk->files, found, &scan, err);

    if (scan.n > 0)
        qsort(scan.files, scan.n, sizeof(scan.files[0]), by_last_use);
    for (size_t i = 0; i < scan.n; i++)
        sc_lru_add(&disk->index, &scan.files[i]->lru);
    free(scan.files);
    return st;
}

static enum sc_status lock_dir(struct sc_disk *disk, struct sc_err *err)
{
    disk->lock_fd = openat(disk->files.fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (disk->lock_fd < 0)
        return sc_files_errno(err, "open", "lock");
    if (flock(disk->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return SC_OK;
    if (errno == EWOULDBLOCK)
        return sc_fail(err, SC_EEXIST, "another daemon has this directory (its file lock is held)");
    return sc_files_errno(err, "flock", "lock");
}

/* Removes the least recently used until `more` bytes fit. */
static enum sc_status make_room(struct sc_disk *disk, uint64_t more, struct sc_err *err)
{
    for (;;) {
        pthread_mutex_lock(&disk->mu);
        struct file *file = (struct file *)disk->index.oldest;
        bool fits = file == NULL || disk->index.bytes + more <= disk->quota_bytes;
        pthread_mutex_unlock(&disk->mu);
        if (fits)
            return SC_OK;
        /* A file that cannot be removed stays in the index: it still takes its space. */
        enum sc_status st = sc_files_remove(&disk->files, &file->lru.key, err);
        if (st != SC_OK)
            return st;
        forget(disk, file);
        pthread_mutex_lock(&disk->mu);
        disk->n_evicted++;
        pthread_mutex_unlock(&disk->mu);
    }
}

enum sc_status sc_disk_open(const char *path, uint64_t quota_bytes, struct sc_disk **ret_disk,
                            struct sc_err *err)
{
    struct sc_disk *disk = malloc(sizeof(*disk));
    enum sc_status st;

    if (disk == NULL)
        return sc_fail(err, SC_ENOMEM, "%s: no memory", path);
    *disk = (struct sc_disk){.files = {.fd = -1}, .lock_fd = -1, .quota_bytes = quota_bytes};
    SC_ASSERT(pthread_mutex_init(&disk->mu, NULL) == 0);
    st = sc_lru_init(&disk->index, err);
    if (st == SC_OK)
        st = sc_files_init(&disk->files, path, false, err);
    if (st == SC_OK)
        st = lock_dir(disk, err);
    if (st == SC_OK) {
        sc_files_clean(&disk->files);
        st = scan_dir(disk, err);
    }
    if (st == SC_OK)
        st = make_room(disk, 0, err); /* the quota may have become smaller */
    if (st != SC_OK) {
        sc_disk_close(disk);
        return sc_err_prefix(err, st, "%s", path);
    }
    *ret_disk = disk;
    return SC_OK;
}

void sc_disk_close(struct sc_disk *disk)
{
    if (disk == NULL)
        return;
    for (struct sc_lru_node *node = disk->index.newest, *next; node != NULL; node = next) {
        struct file *file = (struct file *)node;
        if (file->touched)
            sc_files_touch(&disk->files, &node->key, file->used_ns);
        next = node->older;
        free(file);
    }
    sc_lru_fini(&disk->index);
    if (disk->lock_fd >= 0)
        (void)close(disk->lock_fd);
    sc_files_fini(&disk->files);
    (void)pthread_mutex_destroy(&disk->mu);
    free(disk);
}

bool sc_disk_has(struct sc_disk *disk, const struct sc_hash *key)
{
    pthread_mutex_lock(&disk->mu);
    const struct file *file = (struct file *)sc_lru_find(&disk->index, key);
    bool has = file != NULL && !file->stale;
    pthread_mutex_unlock(&disk->mu);
    return has;
}

void sc_disk_touch(struct sc_disk *disk, const struct sc_hash *key)
{
    pthread_mutex_lock(&disk->mu);
    struct file *file = (struct file *)sc_lru_find(&disk->index, key);
    if (file != NULL) {
        file->used_ns = now_locked(disk);
        file->touched = true; /* written at close: a hit in memory must not wait for a disk */
        sc_lru_touch(&disk->index, &file->lru);
    }
    pthread_mutex_unlock(&disk->mu);
}

void sc_disk_get_stats(struct sc_disk *disk, struct sc_disk_stats *ret_stats)
{
    pthread_mutex_lock(&disk->mu);
    *ret_stats = (struct sc_disk_stats){disk->index.bytes, disk->index.n_nodes, disk->n_evicted};
    pthread_mutex_unlock(&disk->mu);
}

/* Draws the consequences of what a read or a look at the header said. */
static void settle(struct sc_disk *disk, struct file *file, enum sc_status st)
{
    struct sc_err ignored = SC_ERR_INIT;
    uint64_t now;

    switch (st) {
    case SC_OK:
        pthread_mutex_lock(&disk->mu);
        now = file->used_ns = now_locked(disk);
        file->touched = false;
        sc_lru_touch(&disk->index, &file->lru);
        pthread_mutex_unlock(&disk->mu);
        sc_files_touch(&disk->files, &file->lru.key, now);
        break;
    case SC_ENOENT: /* somebody removed it */
        forget(disk, file);
        break;
    case SC_EFORMAT:
        if (sc_files_remove(&disk->files, &file->lru.key, &ignored) == SC_OK) {
            forget(disk, file);
            break;
        }
        /* fall through */
    case SC_ENOTSUP:
    case SC_EEXIST:
        pthread_mutex_lock(&disk->mu);
        file->stale = true;
        pthread_mutex_unlock(&disk->mu);
        break;
    default:
        break;
    }
}

enum sc_status sc_disk_refresh(struct sc_disk *disk, const struct sc_hash *key,
                               const struct sc_store_label *label, struct sc_err *err)
{
    struct file *file = find(disk, key);
    enum sc_status st;

    if (file == NULL || file->stale)
        return sc_fail(err, SC_ENOENT, "not there");
    st = sc_files_peek(&disk->files, key, label, err);
    settle(disk, file, st);
    return st;
}

enum sc_status sc_disk_read(struct sc_disk *disk, const struct sc_hash *key,
                            const struct sc_store_label *label, struct sc_blob **ret_blob,
                            struct sc_err *err)
{
    struct file *file = find(disk, key);
    enum sc_status st;

    /* The index is the truth: nobody else writes here. */
    if (file == NULL || file->stale)
        return sc_fail(err, SC_ENOENT, "not there");
    st = sc_files_read(&disk->files, key, label, ret_blob, err);
    settle(disk, file, st);
    return st;
}

enum sc_status sc_disk_write(struct sc_disk *disk, const struct sc_hash *key,
                             const uint8_t header[SC_FORMAT_HEADER_BYTES], struct sc_blob *blob,
                             struct sc_err *err)
{
    uint64_t bytes = on_disk(SC_FORMAT_HEADER_BYTES + sc_blob_size(blob)), now;
    struct file *file = NULL, *old;
    enum sc_status st;

    if (bytes > disk->quota_bytes)
        return sc_fail(err, SC_EFULL, "a blob of %zu bytes, quota %" PRIu64, sc_blob_size(blob),
                       disk->quota_bytes);
    file = malloc(sizeof(*file));
    if (file == NULL)
        return sc_fail(err, SC_ENOMEM, "no memory for an index entry");
    /* Old and new are on the disk together for a moment: both count. */
    st = make_room(disk, bytes, err);
    if (st != SC_OK)
        goto fail;
    pthread_mutex_lock(&disk->mu);
    now = now_locked(disk);
    pthread_mutex_unlock(&disk->mu);
    st = sc_files_write(&disk->files, key, header, blob, now, err);
    if (st != SC_OK)
        goto fail;
    *file = (struct file){.lru = {.key = *key, .bytes = bytes}, .used_ns = now};
    old = find(disk, key);
    if (old != NULL)
        forget(disk, old);
    pthread_mutex_lock(&disk->mu);
    sc_lru_add(&disk->index, &file->lru);
    pthread_mutex_unlock(&disk->mu);
    return SC_OK;

fail:
    free(file);
    return st;
}

enum sc_status sc_disk_remove(struct sc_disk *disk, const struct sc_hash *key, struct sc_err *err)
{
    struct file *file = find(disk, key);
    enum sc_status st;

    if (file == NULL)
        return SC_OK;
    st = sc_files_remove(&disk->files, key, err);
    if (st == SC_OK)
        forget(disk, file);
    return st;
}
