#include "daemon/keys.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/secret.h"

struct key {
    struct sc_hash hash;
    struct sc_identity identity;
};

struct sc_keys {
    char *path;
    pthread_mutex_t mu; /* guards what follows */
    struct key *list;
    size_t n;
};

bool sc_namespace_is_valid(const char *name, size_t len)
{
    if (len == 0 || len > SC_NAMESPACE_BYTES_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return true;
}

static struct sc_hash hash_key(const char *key, size_t len)
{
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_str(&h, "semanticache api key 1");
    sc_hasher_bytes(&h, key, len);
    return sc_hasher_end(&h);
}

struct word {
    const char *at;
    size_t len;
};

/* Words of a line up to a comment; at most max + 1, so that one too many is seen. */
static size_t split(const char *line, size_t len, struct word *words, size_t max)
{
    size_t n = 0, i = 0;
    while (i < len && n <= max) {
        while (i < len && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r'))
            i++;
        if (i == len || line[i] == '#')
            break;
        words[n].at = line + i;
        while (i < len && line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            i++;
        words[n].len = (size_t)(line + i - words[n].at);
        n++;
    }
    return n;
}

static bool is(const struct word *w, const char *text)
{
    return w->len == strlen(text) && memcmp(w->at, text, w->len) == 0;
}

/* What is long enough to be a key in the wrong column is not shown. */
static int shown(const struct word *w)
{
    return w->len < SC_KEY_BYTES_MIN ? (int)w->len : 0;
}

/* Never shows a key: errors name the line. */
static enum sc_status parse_line(const char *path, unsigned no, const struct word *w, size_t n,
                                 struct key *ret_key, struct sc_err *err)
{
    if (n != 3)
        return sc_fail(err, SC_EINVAL, "%s:%u: %zu words, wanted KEY NAMESPACE ROLE", path, no, n);
    if (w[0].len < SC_KEY_BYTES_MIN || w[0].len > SC_KEY_BYTES_MAX)
        return sc_fail(err, SC_EINVAL, "%s:%u: a key of %zu bytes, limits %u..%u", path, no,
                       w[0].len, SC_KEY_BYTES_MIN, SC_KEY_BYTES_MAX);
    for (size_t i = 0; i < w[0].len; i++)
        if (w[0].at[i] < 0x21 || w[0].at[i] > 0x7e)
            return sc_fail(err, SC_EINVAL, "%s:%u: byte %zu of the key is not printable ASCII",
                           path, no, i);
    if (!sc_namespace_is_valid(w[1].at, w[1].len))
        return sc_fail(err, SC_EINVAL,
                       "%s:%u: namespace \"%.*s\": must be 1..%u of A-Z a-z 0-9 . _ -", path, no,
                       shown(&w[1]), w[1].at, SC_NAMESPACE_BYTES_MAX);
    if (!is(&w[2], "user") && !is(&w[2], "admin"))
        return sc_fail(err, SC_EINVAL, "%s:%u: role \"%.*s\": must be user or admin", path, no,
                       shown(&w[2]), w[2].at);
    *ret_key =
        (struct key){.hash = hash_key(w[0].at, w[0].len), .identity.admin = is(&w[2], "admin")};
    memcpy(ret_key->identity.ns, w[1].at, w[1].len);
    return SC_OK;
}

static enum sc_status parse(const char *path, const char *text, size_t len, struct key **ret_list,
                            size_t *ret_n, struct sc_err *err)
{
    struct key *list = calloc(SC_KEYS_MAX, sizeof(*list));
    enum sc_status st = SC_OK;
    unsigned no = 0;
    size_t n = 0;

    if (list == NULL)
        return sc_fail(err, SC_ENOMEM, "%s: no memory for keys", path);
    for (size_t at = 0; at < len && st == SC_OK;) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t line = end != NULL ? (size_t)(end - text) - at : len - at;
        struct word words[4];
        size_t n_words = split(text + at, line, words, 3);

        no++;
        at += line + 1;
        if (n_words == 0)
            continue;
        if (n == SC_KEYS_MAX)
            st = sc_fail(err, SC_EINVAL, "%s:%u: more than %u keys", path, no, SC_KEYS_MAX);
        else
            st = parse_line(path, no, words, n_words, &list[n], err);
        for (size_t i = 0; i < n && st == SC_OK; i++)
            if (memcmp(&list[i].hash, &list[n].hash, sizeof(list[n].hash)) == 0)
                st = sc_fail(err, SC_EINVAL, "%s:%u: the key is there already", path, no);
        n++;
    }
    if (st == SC_OK && n == 0)
        st = sc_fail(err, SC_EINVAL, "%s: holds no key", path);
    if (st != SC_OK) {
        free(list);
        return st;
    }
    *ret_list = list;
    *ret_n = n;
    return SC_OK;
}

static enum sc_status load(const char *path, struct key **ret_list, size_t *ret_n,
                           struct sc_err *err)
{
    char *text = malloc(SC_KEYS_FILE_BYTES_MAX + 1);
    size_t len = 0;
    enum sc_status st;

    if (text == NULL)
        return sc_fail(err, SC_ENOMEM, "%s: no memory", path);
    st = sc_secret_read(path, "the keys", text, SC_KEYS_FILE_BYTES_MAX, &len, err);
    if (st == SC_OK)
        st = parse(path, text, len, ret_list, ret_n, err);
    explicit_bzero(text, len);
    free(text);
    return st;
}

enum sc_status sc_keys_open(const char *path, struct sc_keys **ret_keys, struct sc_err *err)
{
    struct sc_keys *k = calloc(1, sizeof(*k));
    enum sc_status st;

    if (k == NULL || (k->path = strdup(path)) == NULL) {
        free(k);
        return sc_fail(err, SC_ENOMEM, "%s: no memory", path);
    }
    (void)pthread_mutex_init(&k->mu, NULL);
    st = load(path, &k->list, &k->n, err);
    if (st != SC_OK) {
        sc_keys_close(k);
        return sc_err_prefix(err, st, "auth.keys_file");
    }
    *ret_keys = k;
    return SC_OK;
}

void sc_keys_close(struct sc_keys *k)
{
    if (k == NULL)
        return;
    (void)pthread_mutex_destroy(&k->mu);
    free(k->list);
    free(k->path);
    free(k);
}

enum sc_status sc_keys_reload(struct sc_keys *k, struct sc_err *err)
{
    struct key *list = NULL, *old;
    size_t n = 0;
    enum sc_status st = load(k->path, &list, &n, err);

    if (st != SC_OK)
        return sc_err_prefix(err, st, "auth.keys_file");
    (void)pthread_mutex_lock(&k->mu);
    old = k->list;
    k->list = list;
    k->n = n;
    (void)pthread_mutex_unlock(&k->mu);
    free(old);
    return SC_OK;
}

bool sc_keys_find(struct sc_keys *k, const char *key, size_t len, struct sc_identity *ret_identity)
{
    struct sc_hash hash = hash_key(key, len);
    bool found = false;

    (void)pthread_mutex_lock(&k->mu);
    for (size_t i = 0; i < k->n; i++)
        if (sc_hash_equal(&hash, &k->list[i].hash)) {
            *ret_identity = k->list[i].identity;
            found = true;
        }
    (void)pthread_mutex_unlock(&k->mu);
    return found;
}
