#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "model/json.h"
#include "model/safetensors_internal.h"

#define SINGLE_FILE      "model.safetensors"
#define INDEX_FILE       "model.safetensors.index.json"
#define SHARD_NAME_MAX   255u
#define NAMES_BYTES_MAX  ((size_t)128 << 20)
#define FINGERPRINT_EDGE ((uint64_t)4096)

struct shard {
    const char *name; /* in the arena */
    const uint8_t *file;
    size_t len, header_bytes;
    bool mapped;
};

struct sc_tensors {
    struct sc_arena arena;
    struct shard *shards; /* in name order */
    uint32_t n_shards;
    struct sc_st_tensor *tensors; /* in name order once open */
    uint32_t n_tensors;
};

static enum sc_status tensors_new(struct sc_tensors **ret, struct sc_err *err)
{
    struct sc_tensors *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return sc_fail(err, SC_ENOMEM, "tensors: %zu bytes", sizeof(*t));
    sc_arena_init(&t->arena, NAMES_BYTES_MAX);
    *ret = t;
    return SC_OK;
}

void sc_tensors_close(struct sc_tensors *tensors)
{
    if (tensors == NULL)
        return;
    for (uint32_t i = 0; i < tensors->n_shards; i++)
        if (tensors->shards[i].mapped)
            (void)munmap((void *)(uintptr_t)tensors->shards[i].file, tensors->shards[i].len);
    free(tensors->shards);
    free(tensors->tensors);
    sc_arena_fini(&tensors->arena);
    free(tensors);
}

static enum sc_status map_file(const char *path, struct shard *shard, struct sc_err *err)
{
    struct stat sb;
    enum sc_status st = SC_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return sc_fail(err, errno == ENOENT ? SC_ENOENT : SC_EIO, "%s: open: %s", path,
                       strerror(errno));
    if (fstat(fd, &sb) != 0) {
        st = sc_fail(err, SC_EIO, "%s: stat: %s", path, strerror(errno));
    } else if (!S_ISREG(sb.st_mode)) {
        st = sc_fail(err, SC_EINVAL, "%s: not a regular file", path);
    } else if (sb.st_size == 0) {
        st = sc_fail(err, SC_EFORMAT, "%s: 0 bytes", path);
    } else {
        void *map = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            st = sc_fail(err, SC_EIO, "%s: map %" PRIu64 " bytes: %s", path, (uint64_t)sb.st_size,
                         strerror(errno));
        } else {
            shard->file = map;
            shard->len = (size_t)sb.st_size;
            shard->mapped = true;
        }
    }
    (void)close(fd);
    return st;
}

/* Parses shard i, which has its bytes, and appends its tensors. */
static enum sc_status add_tensors(struct sc_tensors *t, uint32_t i, struct sc_err *err)
{
    struct shard *shard = &t->shards[i];
    struct sc_st_tensor *part = NULL, *all;
    uint32_t n = 0;
    enum sc_status st = sc_safetensors_parse(shard->file, shard->len, shard->name,
                                             SC_SAFETENSORS_TENSORS_MAX - t->n_tensors, &t->arena,
                                             &part, &n, &shard->header_bytes, err);
    if (st != SC_OK)
        return st;
    all = realloc(t->tensors, ((size_t)t->n_tensors + n + 1) * sizeof(*all));
    if (all == NULL) {
        st = sc_fail(err, SC_ENOMEM, "%s: %u tensors", shard->name, t->n_tensors + n);
    } else {
        for (uint32_t k = 0; k < n; k++) {
            all[t->n_tensors + k] = part[k];
            all[t->n_tensors + k].shard = i;
        }
        t->tensors = all;
        t->n_tensors += n;
    }
    free(part);
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct sc_st_tensor *)a)->name, ((const struct sc_st_tensor *)b)->name);
}

static enum sc_status sort_tensors(struct sc_tensors *t, struct sc_err *err)
{
    if (t->n_tensors == 0)
        return sc_fail(err, SC_EFORMAT, "%s: no tensors",
                       t->n_shards > 0 ? t->shards[0].name : INDEX_FILE);
    qsort(t->tensors, t->n_tensors, sizeof(*t->tensors), by_name);
    for (uint32_t i = 1; i < t->n_tensors; i++)
        if (by_name(&t->tensors[i - 1], &t->tensors[i]) == 0)
            return sc_fail(err, SC_EFORMAT, "tensor %.120s is in both %.80s and %.80s",
                           t->tensors[i].name, t->shards[t->tensors[i - 1].shard].name,
                           t->shards[t->tensors[i].shard].name);
    return SC_OK;
}

/* Shards lie in the model directory itself: a path could reach any file of the machine. */
static bool shard_name_valid(const char *name)
{
    static const char suffix[] = ".safetensors";
    size_t len = strlen(name);
    return len > sizeof(suffix) - 1 && len <= SHARD_NAME_MAX && name[0] != '.' &&
           strchr(name, '/') == NULL && strchr(name, '\\') == NULL &&
           strcmp(name + len - (sizeof(suffix) - 1), suffix) == 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Fills t->shards with the distinct shard names of the weight map, in order. */
static enum sc_status shards_of_index(struct sc_tensors *t, json_t *weight_map, struct sc_err *err)
{
    char buf[SC_JSON_SHOW_BYTES];
    const char *key;
    json_t *value;
    size_t n = 0, n_all = json_object_size(weight_map);
    enum sc_status st = SC_OK;
    if (n_all == 0 || n_all > SC_SAFETENSORS_TENSORS_MAX)
        return sc_fail(err, SC_ERANGE, "%s: weight_map names %zu tensors, limits 1..%u", INDEX_FILE,
                       n_all, SC_SAFETENSORS_TENSORS_MAX);
    const char **names = calloc(n_all, sizeof(*names));
    t->shards = calloc(SC_SAFETENSORS_SHARDS_MAX, sizeof(*t->shards));
    if (names == NULL || t->shards == NULL) {
        st = sc_fail(err, SC_ENOMEM, "%s: %zu names", INDEX_FILE, n_all);
        goto out;
    }
    json_object_foreach(weight_map, key, value)
    {
        names[n] = json_string_value(value);
        if (names[n] == NULL || !shard_name_valid(names[n])) {
            st = sc_fail(err, SC_EINVAL,
                         "%s: weight_map: %.80s is in %s, expected a file name of at most %u bytes "
                         "that ends in .safetensors, without a path",
                         INDEX_FILE, key, sc_json_show(value, buf), SHARD_NAME_MAX);
            goto out;
        }
        n++;
    }
    qsort(names, n, sizeof(*names), by_text);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(names[i], names[i - 1]) == 0)
            continue;
        if (t->n_shards == SC_SAFETENSORS_SHARDS_MAX) {
            st = sc_fail(err, SC_ERANGE, "%s: more than %u shards", INDEX_FILE,
                         SC_SAFETENSORS_SHARDS_MAX);
            goto out;
        }
        const char *copy = sc_arena_copy(&t->arena, names[i], strlen(names[i]));
        if (copy == NULL) {
            st = sc_fail(err, SC_ENOMEM, "%s: names of shards", INDEX_FILE);
            goto out;
        }
        t->shards[t->n_shards++].name = copy;
    }
out:
    free(names);
    return st;
}

/* The index and the shards must tell the same story, in both directions. */
static enum sc_status check_index(const struct sc_tensors *t, json_t *weight_map,
                                  struct sc_err *err)
{
    const char *key;
    json_t *value;
    for (uint32_t i = 0; i < t->n_tensors; i++) {
        const struct sc_st_tensor *tensor = &t->tensors[i];
        if (json_object_get(weight_map, tensor->name) == NULL)
            return sc_fail(err, SC_EFORMAT, "%s: tensor %.120s of %.80s is not in weight_map",
                           INDEX_FILE, tensor->name, t->shards[tensor->shard].name);
    }
    json_object_foreach(weight_map, key, value)
    {
        struct sc_st_tensor want = {.name = key};
        const struct sc_st_tensor *found =
            bsearch(&want, t->tensors, t->n_tensors, sizeof(want), by_name);
        if (found == NULL || strcmp(t->shards[found->shard].name, json_string_value(value)) != 0)
            return sc_fail(err, SC_EFORMAT, "%s: weight_map: %.120s is not in %.80s", INDEX_FILE,
                           key, json_string_value(value));
    }
    return SC_OK;
}

static enum sc_status open_index(struct sc_tensors *t, const char *dir, const char *text,
                                 size_t len, struct sc_err *err)
{
    char path[SC_MODEL_PATH_BYTES];
    json_t *root = NULL, *weight_map;
    enum sc_status st = sc_json_parse(text, len, INDEX_FILE, &root, err);
    if (st != SC_OK)
        return st;
    weight_map = json_object_get(root, "weight_map");
    if (!json_is_object(weight_map)) {
        st = sc_fail(err, SC_EFORMAT, "%s: weight_map is missing or not an object", INDEX_FILE);
        goto out;
    }
    st = shards_of_index(t, weight_map, err);
    for (uint32_t i = 0; i < t->n_shards && st == SC_OK; i++) {
        int n = snprintf(path, sizeof(path), "%s/%s", dir, t->shards[i].name);
        st = n < 0 || (size_t)n >= sizeof(path)
                 ? sc_fail(err, SC_ERANGE, "path of %s: %d bytes, limit %zu", t->shards[i].name, n,
                           sizeof(path) - 1)
                 : map_file(path, &t->shards[i], err);
        if (st == SC_OK)
            st = add_tensors(t, i, err);
    }
    if (st == SC_OK)
        st = sort_tensors(t, err);
    if (st == SC_OK)
        st = check_index(t, weight_map, err);
out:
    json_decref(root);
    return st;
}

/* name and bytes of the only shard; mapped by the caller. */
static enum sc_status open_single(struct sc_tensors *t, const struct shard *shard,
                                  struct sc_err *err)
{
    t->shards = calloc(1, sizeof(*t->shards));
    if (t->shards == NULL) {
        if (shard->mapped)
            (void)munmap((void *)(uintptr_t)shard->file, shard->len);
        return sc_fail(err, SC_ENOMEM, "%s: %zu bytes", shard->name, sizeof(*t->shards));
    }
    t->shards[0] = *shard;
    t->n_shards = 1;
    enum sc_status st = add_tensors(t, 0, err);
    return st == SC_OK ? sort_tensors(t, err) : st;
}

static enum sc_status open_dir(struct sc_tensors *t, const char *dir, struct sc_err *err)
{
    char path[SC_MODEL_PATH_BYTES];
    char *index = NULL;
    size_t len = 0;
    struct sc_err absent = SC_ERR_INIT;
    struct shard shard = {.name = SINGLE_FILE};
    int n = snprintf(path, sizeof(path), "%s/" SINGLE_FILE, dir);
    if (n < 0 || (size_t)n >= sizeof(path))
        return sc_fail(err, SC_ERANGE, "model directory: %zu bytes, limit %zu", strlen(dir),
                       sizeof(path) - sizeof(SINGLE_FILE) - 1);
    enum sc_status st = map_file(path, &shard, &absent);
    if (st == SC_OK)
        return open_single(t, &shard, err);
    if (st != SC_ENOENT)
        return sc_fail(err, st, "%s", absent.text);
    sc_err_clear(&absent);
    st = sc_file_read(dir, INDEX_FILE, SC_SAFETENSORS_INDEX_MAX, &index, &len, &absent);
    if (st == SC_ENOENT)
        return sc_fail(err, SC_ENOENT,
                       "neither " SINGLE_FILE " nor " INDEX_FILE " (other formats are not read)");
    if (st != SC_OK)
        return sc_fail(err, st, "%s", absent.text);
    st = open_index(t, dir, index, len, err);
    free(index);
    return st;
}

enum sc_status sc_tensors_open_dir(const char *dir, struct sc_tensors **ret_tensors,
                                   struct sc_err *err)
{
    struct sc_tensors *t = NULL;
    enum sc_status st = tensors_new(&t, err);
    if (st != SC_OK)
        return st;
    st = open_dir(t, dir, err);
    if (st != SC_OK) {
        st = sc_err_prefix(err, st, "%.160s", dir);
        sc_tensors_close(t);
        return st;
    }
    *ret_tensors = t;
    return SC_OK;
}

enum sc_status sc_tensors_open_memory(const void *bytes, size_t len,
                                      struct sc_tensors **ret_tensors, struct sc_err *err)
{
    struct sc_tensors *t = NULL;
    const struct shard shard = {.name = SINGLE_FILE, .file = bytes, .len = len};
    enum sc_status st = tensors_new(&t, err);
    if (st != SC_OK)
        return st;
    st = open_single(t, &shard, err);
    if (st != SC_OK) {
        sc_tensors_close(t);
        return st;
    }
    *ret_tensors = t;
    return SC_OK;
}

static const struct sc_st_tensor *find(const struct sc_tensors *t, const char *name)
{
    struct sc_st_tensor want = {.name = name};
    return bsearch(&want, t->tensors, t->n_tensors, sizeof(want), by_name);
}

bool sc_tensors_has(const struct sc_tensors *tensors, const char *name)
{
    return find(tensors, name) != NULL;
}

enum sc_status sc_tensors_get(const struct sc_tensors *tensors, const char *name,
                              struct sc_tensor_view *ret_view, struct sc_err *err)
{
    const struct sc_st_tensor *t = find(tensors, name);
    if (t == NULL)
        return sc_fail(err, SC_ENOENT, "tensor %s is missing", name);
    if (t->type->dtype < 0)
        return sc_fail(err, SC_ENOTSUP, "tensor %s: dtype %s, supported: F32, BF16, F16", name,
                       t->type->name);
    *ret_view = (struct sc_tensor_view){.dtype = (enum sc_dtype)t->type->dtype,
                                        .n_dims = t->n_dims,
                                        .data = t->data,
                                        .bytes = t->end - t->begin};
    memcpy(ret_view->shape, t->shape, sizeof(t->shape));
    return SC_OK;
}

static void show_shape(const uint64_t *shape, uint32_t n_dims, char *buf, size_t cap)
{
    size_t at = (size_t)snprintf(buf, cap, "[");
    for (uint32_t i = 0; i < n_dims && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, i > 0 ? ", %" PRIu64 : "%" PRIu64, shape[i]);
    if (at < cap)
        (void)snprintf(buf + at, cap - at, "]");
}

enum sc_status sc_tensors_get_shaped(const struct sc_tensors *tensors, const char *name,
                                     uint64_t dim0, uint64_t dim1, struct sc_tensor_view *ret_view,
                                     struct sc_err *err)
{
    struct sc_tensor_view view;
    const uint64_t want[2] = {dim0, dim1};
    uint32_t n_dims = dim1 == 0 ? 1 : 2;
    enum sc_status st = sc_tensors_get(tensors, name, &view, err);
    if (st != SC_OK)
        return st;
    if (view.n_dims != n_dims || memcmp(view.shape, want, n_dims * sizeof(want[0])) != 0) {
        char got[200], expected[64];
        show_shape(view.shape, view.n_dims, got, sizeof(got));
        show_shape(want, n_dims, expected, sizeof(expected));
        return sc_fail(err, SC_EINVAL, "tensor %s: shape %s, expected %s", name, got, expected);
    }
    *ret_view = view;
    return SC_OK;
}

uint64_t sc_tensors_total_bytes(const struct sc_tensors *tensors)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < tensors->n_shards; i++)
        sum += tensors->shards[i].len - tensors->shards[i].header_bytes;
    return sum;
}

uint32_t sc_tensors_count(const struct sc_tensors *tensors)
{
    return tensors->n_tensors;
}

const char *sc_tensors_name(const struct sc_tensors *tensors, uint32_t i)
{
    SC_ASSERT(i < tensors->n_tensors);
    return tensors->tensors[i].name;
}

void sc_tensors_fingerprint(const struct sc_tensors *tensors, struct sc_hash *ret_hash)
{
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_str(&h, "safetensors 1");
    sc_hasher_u32(&h, tensors->n_shards);
    for (uint32_t i = 0; i < tensors->n_shards; i++) {
        const struct shard *shard = &tensors->shards[i];
        sc_hasher_str(&h, shard->name);
        sc_hasher_u64(&h, shard->len);
        sc_hasher_u64(&h, shard->header_bytes);
        sc_hasher_bytes(&h, shard->file, shard->header_bytes);
    }
    for (uint32_t i = 0; i < tensors->n_tensors; i++) {
        const struct sc_st_tensor *t = &tensors->tensors[i];
        uint64_t bytes = t->end - t->begin;
        uint64_t edge = bytes < FINGERPRINT_EDGE ? bytes : FINGERPRINT_EDGE;
        sc_hasher_bytes(&h, t->data, edge);
        sc_hasher_bytes(&h, t->data + bytes - edge, edge);
    }
    *ret_hash = sc_hasher_end(&h);
}
