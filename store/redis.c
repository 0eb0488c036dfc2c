#include "store/redis.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include "store/internal.h"
#include "store/login.h"

#define KEY_BYTES  128u
#define ARGS_MAX   5
#define PORT_MAX   65535ul
#define UNIX_SPEC  "unix:"
#define KEY_PREFIX "semanticache:"

struct sc_redis {
    char *host;       /* or the socket's path */
    int port;         /* 0: a Unix socket */
    char *login_file; /* NULL: none */
    uint32_t ttl_s, timeout_ms;
    redisContext *c; /* NULL: not connected */
    uint64_t retry_ns;
    uint32_t backoff_ms; /* 0: the last try succeeded */
};

/* One command, built up argument by argument; the arguments stay the caller's. */
struct command {
    const char *argv[ARGS_MAX];
    size_t len[ARGS_MAX];
    int n;
};

static void arg(struct command *cmd, const void *bytes, size_t n)
{
    SC_ASSERT(cmd->n < ARGS_MAX);
    cmd->argv[cmd->n] = bytes;
    cmd->len[cmd->n++] = n;
}

static void arg_str(struct command *cmd, const char *text)
{
    arg(cmd, text, strlen(text));
}

static void part_key(const struct sc_hash *key, uint64_t part, char ret_name[KEY_BYTES])
{
    char hex[2 * SC_HASH_BYTES + 1];

    sc_hash_hex(key, hex);
    if (part == 0)
        (void)snprintf(ret_name, KEY_BYTES, KEY_PREFIX "%s", hex);
    else
        (void)snprintf(ret_name, KEY_BYTES, KEY_PREFIX "%s.%" PRIu64, hex, part);
}

static uint64_t n_parts(uint64_t payload_bytes)
{
    return (SC_FORMAT_HEADER_BYTES + payload_bytes + SC_REDIS_PART_BYTES - 1) / SC_REDIS_PART_BYTES;
}

/* Bytes of a part of header and payload together. */
static size_t part_bytes(uint64_t payload_bytes, uint64_t part)
{
    uint64_t left = SC_FORMAT_HEADER_BYTES + payload_bytes - part * SC_REDIS_PART_BYTES;

    return left < SC_REDIS_PART_BYTES ? (size_t)left : SC_REDIS_PART_BYTES;
}

/* The host, or the socket's path with a port of 0, within address. */
static enum sc_status split_address(const char *address, const char **ret_host, size_t *ret_len,
                                    int *ret_port, struct sc_err *err)
{
    const char *host = address, *colon = strrchr(address, ':');
    unsigned long port = 0;
    char *end;
    size_t len;

    if (strncmp(address, UNIX_SPEC, strlen(UNIX_SPEC)) == 0) {
        host = address + strlen(UNIX_SPEC);
        len = host[0] == '/' ? strlen(host) : 0;
    } else {
        port =
            colon != NULL && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10) : 0;
        len = port > 0 && port <= PORT_MAX && *end == '\0' ? (size_t)(colon - host) : 0;
        if (len > 2 && host[0] == '[' && host[len - 1] == ']') {
            host++;
            len -= 2;
        }
    }
    if (len == 0)
        return sc_fail(err, SC_EINVAL, "redis \"%s\": neither host:port nor unix:/path", address);
    *ret_host = host;
    *ret_len = len;
    *ret_port = (int)port;
    return SC_OK;
}

enum sc_status sc_redis_check_address(const char *address, struct sc_err *err)
{
    const char *host;
    size_t len;
    int port;

    return split_address(address, &host, &len, &port, err);
}

static enum sc_status take_address(const char *address, struct sc_redis *r, struct sc_err *err)
{
    const char *host;
    size_t len;
    enum sc_status st = split_address(address, &host, &len, &r->port, err);

    if (st != SC_OK)
        return st;
    r->host = strndup(host, len);
    return r->host != NULL ? SC_OK : sc_fail(err, SC_ENOMEM, "redis: no memory");
}

/* Once at the start: what will never work is told there. */
static enum sc_status check_login(struct sc_redis *r, const char *file, struct sc_err *err)
{
    struct sc_login login;
    enum sc_status st = sc_login_read(file, &login, err);

    if (st != SC_OK)
        return sc_err_prefix(err, st, "redis login");
    sc_login_wipe(&login);
    r->login_file = strdup(file);
    return r->login_file != NULL ? SC_OK : sc_fail(err, SC_ENOMEM, "redis: no memory");
}

enum sc_status sc_redis_open(const struct sc_redis_opts *opts, struct sc_redis **ret_redis,
                             struct sc_err *err)
{
    struct sc_redis *r;
    enum sc_status st;

    if (opts->timeout_ms == 0)
        return sc_fail(err, SC_EINVAL, "redis \"%s\": a timeout of 0 ms", opts->address);
    r = malloc(sizeof(*r));
    if (r == NULL)
        return sc_fail(err, SC_ENOMEM, "redis: no memory");
    *r = (struct sc_redis){.ttl_s = opts->ttl_s, .timeout_ms = opts->timeout_ms};
    st = take_address(opts->address, r, err);
    if (st == SC_OK && opts->login_file != NULL)
        st = check_login(r, opts->login_file, err);
    if (st != SC_OK) {
        sc_redis_close(r);
        return st;
    }
    *ret_redis = r;
    return SC_OK;
}

void sc_redis_close(struct sc_redis *redis)
{
    if (redis == NULL)
        return;
    if (redis->c != NULL)
        redisFree(redis->c);
    free(redis->host);
    free(redis->login_file);
    free(redis);
}

/* After any failure of the connection: what may still arrive belongs to no question. why: NULL:
 * what hiredis says. */
static enum sc_status lost(struct sc_redis *r, const char *what, const char *why,
                           struct sc_err *err)
{
    if (why == NULL)
        why = r->c == NULL ? "no memory" : r->c->err != 0 ? r->c->errstr : "no answer";
    enum sc_status st = sc_fail(err, SC_EUNAVAIL, "%s %s: %s", what, r->host, why);

    if (r->c != NULL)
        redisFree(r->c);
    r->c = NULL;
    r->backoff_ms = r->backoff_ms == 0 ? SC_REDIS_BACKOFF_MIN_MS : 2 * r->backoff_ms;
    if (r->backoff_ms > SC_REDIS_BACKOFF_MAX_MS)
        r->backoff_ms = SC_REDIS_BACKOFF_MAX_MS;
    r->retry_ns = sc_store_clock_ns(CLOCK_MONOTONIC) + (uint64_t)r->backoff_ms * 1000000u;
    return st;
}

/* Says who we are, if we were told to. */
static enum sc_status log_in(struct sc_redis *r, struct sc_err *err)
{
    struct command cmd = {.n = 0};
    enum sc_status st = SC_OK;
    struct sc_login login;
    redisReply *reply;

    if (r->login_file == NULL)
        return SC_OK;
    st = sc_login_read(r->login_file, &login, err);
    if (st != SC_OK)
        return st;
    arg_str(&cmd, "AUTH");
    if (login.user != NULL)
        arg_str(&cmd, login.user);
    arg_str(&cmd, login.password);
    reply = redisCommandArgv(r->c, cmd.n, cmd.argv, cmd.len);
    sc_login_wipe(&login);
    if (reply == NULL)
        return sc_fail(err, SC_EUNAVAIL, "%s", r->c->err != 0 ? r->c->errstr : "no answer");
    if (reply->type == REDIS_REPLY_ERROR)
        st = sc_fail(err, SC_EPERM, "%.*s", (int)reply->len, reply->str);
    freeReplyObject(reply);
    return st;
}

static enum sc_status connect_redis(struct sc_redis *r, struct sc_err *err)
{
    struct timeval t = {.tv_sec = r->timeout_ms / 1000, .tv_usec = r->timeout_ms % 1000 * 1000};
    struct sc_err why = SC_ERR_INIT;
    enum sc_status st;

    if (r->c != NULL)
        return SC_OK;
    if (r->backoff_ms > 0 && sc_store_clock_ns(CLOCK_MONOTONIC) < r->retry_ns)
        return sc_fail(err, SC_ECANCELED, "waits before the next try");
    r->c = r->port > 0 ? redisConnectWithTimeout(r->host, r->port, t)
                       : redisConnectUnixWithTimeout(r->host, t);
    if (r->c == NULL || r->c->err != 0 || redisSetTimeout(r->c, t) != REDIS_OK)
        return lost(r, "connect", NULL, err);
    st = log_in(r, &why);
    return st == SC_OK ? SC_OK : lost(r, "log in to", why.text, err);
}

/* The server closed a connection that was idle or from before its restart. */
static bool was_closed(const redisContext *c)
{
    return c->err == REDIS_ERR_EOF ||
           (c->err == REDIS_ERR_IO && (errno == EPIPE || errno == ECONNRESET));
}

/* The caller frees *ret_reply. SC_EIO: Redis refused the command; the connection stays. Every
 * command may be sent twice. */
static enum sc_status ask(struct sc_redis *r, struct command *cmd, redisReply **ret_reply,
                          struct sc_err *err)
{
    bool fresh = r->c == NULL;
    enum sc_status st = connect_redis(r, err);
    redisReply *reply;

    if (st != SC_OK)
        return st;
    reply = redisCommandArgv(r->c, cmd->n, cmd->argv, cmd->len);
    if (reply == NULL && !fresh && was_closed(r->c)) {
        redisFree(r->c);
        r->c = NULL;
        st = connect_redis(r, err);
        if (st != SC_OK)
            return st;
        reply = redisCommandArgv(r->c, cmd->n, cmd->argv, cmd->len);
    }
    if (reply == NULL)
        return lost(r, cmd->argv[0], NULL, err);
    r->backoff_ms = 0;
    if (reply->type == REDIS_REPLY_ERROR) {
        st = sc_fail(err, SC_EIO, "%s: %.*s", cmd->argv[0], (int)reply->len, reply->str);
        freeReplyObject(reply);
        return st;
    }
    *ret_reply = reply;
    return SC_OK;
}

/* A value of a string, or SC_ENOENT. */
static enum sc_status ask_value(struct sc_redis *r, struct command *cmd, redisReply **ret_reply,
                                struct sc_err *err)
{
    redisReply *reply;
    enum sc_status st = ask(r, cmd, &reply, err);

    if (st != SC_OK)
        return st;
    if (reply->type == REDIS_REPLY_STRING) {
        *ret_reply = reply;
        return SC_OK;
    }
    st = reply->type == REDIS_REPLY_NIL ? sc_fail(err, SC_ENOENT, "not there")
                                        : sc_fail(err, SC_EIO, "an answer of type %d", reply->type);
    freeReplyObject(reply);
    return st;
}

static enum sc_status get_part(struct sc_redis *r, const struct sc_hash *key, uint64_t part,
                               redisReply **ret_reply, struct sc_err *err)
{
    struct command cmd = {.n = 0};
    char name[KEY_BYTES];

    part_key(key, part, name);
    arg_str(&cmd, "GET");
    arg_str(&cmd, name);
    return ask_value(r, &cmd, ret_reply, err);
}

/* Fills the blob with the parts that follow part 0. */
static enum sc_status get_rest(struct sc_redis *r, const struct sc_hash *key, struct sc_blob *blob,
                               struct sc_err *err)
{
    uint64_t n = n_parts(sc_blob_size(blob));

    for (uint64_t i = 1; i < n; i++) {
        size_t want = part_bytes(sc_blob_size(blob), i);
        redisReply *reply;
        enum sc_status st = get_part(r, key, i, &reply, err);
        if (st != SC_OK)
            return st; /* one part that expired or was evicted: a miss */
        if (reply->len != want)
            st =
                sc_fail(err, SC_EFORMAT, "part %" PRIu64 ": %zu bytes of %zu", i, reply->len, want);
        else
            memcpy(sc_blob_bytes(blob) + i * SC_REDIS_PART_BYTES - SC_FORMAT_HEADER_BYTES,
                   reply->str, want);
        freeReplyObject(reply);
        if (st != SC_OK)
            return st;
    }
    return SC_OK;
}

enum sc_status sc_redis_read(struct sc_redis *redis, const struct sc_hash *key,
                             const struct sc_store_label *label, struct sc_blob **ret_blob,
                             struct sc_err *err)
{
    struct sc_blob *blob = NULL;
    struct sc_format format;
    redisReply *reply;
    enum sc_status st = get_part(redis, key, 0, &reply, err);

    if (st != SC_OK)
        return st;
    st = sc_format_decode((const uint8_t *)reply->str, reply->len, &format, err);
    if (st == SC_OK)
        st = sc_format_expect(&format, key, label, err);
    if (st == SC_OK && (format.payload_bytes > SC_REDIS_BLOB_BYTES_MAX ||
                        reply->len != part_bytes(format.payload_bytes, 0)))
        st = sc_fail(err, SC_EFORMAT, "part 0: %zu bytes for a payload of %" PRIu64, reply->len,
                     format.payload_bytes);
    if (st == SC_OK)
        st = sc_blob_open(format.payload_bytes, &blob, err);
    if (st == SC_OK && format.payload_bytes > 0)
        memcpy(sc_blob_bytes(blob), reply->str + SC_FORMAT_HEADER_BYTES,
               reply->len - SC_FORMAT_HEADER_BYTES);
    freeReplyObject(reply);
    if (st == SC_OK)
        st = get_rest(redis, key, blob, err);
    if (st == SC_OK)
        st = sc_format_check(&format, sc_blob_bytes(blob), sc_blob_size(blob), err);
    if (st != SC_OK) {
        sc_blob_unref(blob);
        return st;
    }
    *ret_blob = blob;
    return SC_OK;
}

/* The integer that EXISTS, EXPIRE or DEL answers with. */
static enum sc_status ask_key(struct sc_redis *r, const char *verb, const char *name,
                              const char *last, long long *ret_n, struct sc_err *err)
{
    struct command cmd = {.n = 0};
    redisReply *reply;
    enum sc_status st;

    arg_str(&cmd, verb);
    arg_str(&cmd, name);
    if (last != NULL)
        arg_str(&cmd, last);
    st = ask(r, &cmd, &reply, err);
    if (st != SC_OK)
        return st;
    *ret_n = reply->type == REDIS_REPLY_INTEGER ? reply->integer : 0;
    freeReplyObject(reply);
    return SC_OK;
}

static enum sc_status get_header(struct sc_redis *r, const struct sc_hash *key,
                                 struct sc_format *ret_format, struct sc_err *err)
{
    struct command cmd = {.n = 0};
    char name[KEY_BYTES], last[16];
    redisReply *reply;
    enum sc_status st;

    part_key(key, 0, name);
    (void)snprintf(last, sizeof(last), "%u", SC_FORMAT_HEADER_BYTES - 1);
    arg_str(&cmd, "GETRANGE");
    arg_str(&cmd, name);
    arg_str(&cmd, "0");
    arg_str(&cmd, last);
    st = ask_value(r, &cmd, &reply, err);
    if (st != SC_OK)
        return st;
    st = reply->len == 0
             ? sc_fail(err, SC_ENOENT, "not there")
             : sc_format_decode((const uint8_t *)reply->str, reply->len, ret_format, err);
    freeReplyObject(reply);
    return st;
}

enum sc_status sc_redis_refresh(struct sc_redis *redis, const struct sc_hash *key,
                                const struct sc_store_label *label, struct sc_err *err)
{
    char name[KEY_BYTES], ttl[16];
    struct sc_format format;
    long long there;
    enum sc_status st = get_header(redis, key, &format, err);

    if (st == SC_OK)
        st = sc_format_expect(&format, key, label, err);
    if (st == SC_OK && format.payload_bytes > SC_REDIS_BLOB_BYTES_MAX)
        st = sc_fail(err, SC_EFORMAT, "a payload of %" PRIu64 " bytes", format.payload_bytes);
    (void)snprintf(ttl, sizeof(ttl), "%" PRIu32, redis->ttl_s);
    for (uint64_t i = 0; st == SC_OK && i < n_parts(format.payload_bytes); i++) {
        part_key(key, i, name);
        st = redis->ttl_s > 0 ? ask_key(redis, "EXPIRE", name, ttl, &there, err)
                              : ask_key(redis, "EXISTS", name, NULL, &there, err);
        if (st == SC_OK && there == 0)
            st = sc_fail(err, SC_ENOENT, "part %" PRIu64 " is gone", i);
    }
    return st;
}

static enum sc_status set_part(struct sc_redis *r, const struct sc_hash *key, uint64_t part,
                               const void *bytes, size_t n, struct sc_err *err)
{
    struct command cmd = {.n = 0};
    char name[KEY_BYTES], ttl[16];
    redisReply *reply;
    enum sc_status st;

    part_key(key, part, name);
    arg_str(&cmd, "SET");
    arg_str(&cmd, name);
    arg(&cmd, bytes, n);
    if (r->ttl_s > 0) {
        (void)snprintf(ttl, sizeof(ttl), "%" PRIu32, r->ttl_s);
        arg_str(&cmd, "EX");
        arg_str(&cmd, ttl);
    }
    st = ask(r, &cmd, &reply, err);
    if (st == SC_OK)
        freeReplyObject(reply);
    return st;
}

enum sc_status sc_redis_write(struct sc_redis *redis, const struct sc_hash *key,
                              const uint8_t header[SC_FORMAT_HEADER_BYTES], struct sc_blob *blob,
                              struct sc_err *err)
{
    size_t bytes = sc_blob_size(blob), n0 = part_bytes(bytes, 0);
    uint8_t *first;
    enum sc_status st;

    if (bytes > SC_REDIS_BLOB_BYTES_MAX)
        return sc_fail(err, SC_EFULL, "a blob of %zu bytes is not put there, limit %" PRIu64, bytes,
                       SC_REDIS_BLOB_BYTES_MAX);
    st = connect_redis(redis, err);
    if (st != SC_OK)
        return st;
    first = malloc(n0);
    if (first == NULL)
        return sc_fail(err, SC_ENOMEM, "no memory for %zu bytes", n0);
    memcpy(first, header, SC_FORMAT_HEADER_BYTES);
    memcpy(first + SC_FORMAT_HEADER_BYTES, sc_blob_bytes(blob), n0 - SC_FORMAT_HEADER_BYTES);
    for (uint64_t i = 1; st == SC_OK && i < n_parts(bytes); i++)
        st = set_part(redis, key, i,
                      sc_blob_bytes(blob) + i * SC_REDIS_PART_BYTES - SC_FORMAT_HEADER_BYTES,
                      part_bytes(bytes, i), err);
    if (st == SC_OK)
        st = set_part(redis, key, 0, first, n0, err);
    free(first);
    return st;
}

enum sc_status sc_redis_remove(struct sc_redis *redis, const struct sc_hash *key,
                               struct sc_err *err)
{
    char name[KEY_BYTES];
    long long there = 1;
    uint64_t limit = n_parts(SC_REDIS_BLOB_BYTES_MAX);
    enum sc_status st = SC_OK;

    /* Until a part is missing: the header that told their number may be damaged. */
    for (uint64_t i = 0; st == SC_OK && (there > 0 || i == 1) && i < limit; i++) {
        part_key(key, i, name);
        st = ask_key(redis, "DEL", name, NULL, &there, err);
    }
    return st;
}
