#include "daemon/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/un.h>
#include <unistd.h>

#define HOST_BYTES 256

bool sc_address_is_unix(const char *address)
{
    return strncmp(address, "unix:", 5) == 0;
}

/* Splits at the last colon; brackets around an IPv6 host are dropped. */
static enum sc_status split(const char *address, char host[HOST_BYTES], struct sc_err *err)
{
    const char *colon = strrchr(address, ':');
    size_t len;
    char *end;
    long port;

    if (colon == NULL || colon == address)
        return sc_fail(err, SC_EINVAL, "\"%s\" is neither HOST:PORT nor unix:/PATH", address);
    port = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port > 65535)
        return sc_fail(err, SC_EINVAL, "\"%s\": port \"%s\", limits 0..65535", address, colon + 1);
    len = (size_t)(colon - address);
    if (address[0] == '[' && colon[-1] == ']') {
        address++;
        len -= 2;
    } else if (memchr(address, ':', len) != NULL) {
        return sc_fail(err, SC_EINVAL, "\"%s\": write an IPv6 address as [::1]:50051", address);
    }
    if (len >= HOST_BYTES || len == 0)
        return sc_fail(err, SC_EINVAL, "\"%s\": host of %zu bytes, limits 1..%d", address, len,
                       HOST_BYTES - 1);
    memcpy(host, address, len);
    host[len] = '\0';
    return SC_OK;
}

static bool host_is_loopback(const char *host)
{
    struct in6_addr v6;
    struct in_addr v4;

    if (inet_pton(AF_INET, host, &v4) == 1)
        return (ntohl(v4.s_addr) >> 24) == 127;
    if (inet_pton(AF_INET6, host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6);
    return strcmp(host, "localhost") == 0;
}

bool sc_address_is_loopback(const char *address)
{
    char host[HOST_BYTES];

    if (sc_address_is_unix(address))
        return true;
    return split(address, host, NULL) == SC_OK && host_is_loopback(host);
}

enum sc_status sc_address_check(const char *address, bool insecure, struct sc_err *err)
{
    char host[HOST_BYTES];
    enum sc_status st;

    if (sc_address_is_unix(address)) {
        struct sockaddr_un un;
        size_t len = strlen(address + 5);
        if (address[5] != '/' || len >= sizeof(un.sun_path))
            return sc_fail(err, SC_EINVAL,
                           "\"%s\": an absolute path of at most %zu bytes is needed", address,
                           sizeof(un.sun_path) - 1);
        return SC_OK;
    }
    st = split(address, host, err);
    if (st != SC_OK)
        return st;
    if (!insecure && !host_is_loopback(host))
        return sc_fail(err, SC_EPERM,
                       "%s is reachable from other machines, and there is no TLS yet: prompts and "
                       "API keys could be read on the way; to allow that, set server.insecure = "
                       "true",
                       address);
    return SC_OK;
}

enum sc_status sc_address_lock_unix(const char *address, int *ret_fd, struct sc_err *err)
{
    char path[sizeof(struct sockaddr_un) + 8];
    int fd;

    (void)snprintf(path, sizeof(path), "%s.lock", address + 5);
    fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int e = errno;
        (void)close(fd);
        if (e == EWOULDBLOCK)
            return sc_fail(err, SC_EEXIST, "%s: another daemon serves this socket", address);
        return sc_fail(err, SC_EIO, "%s: %s", path, strerror(e));
    }
    *ret_fd = fd;
    return SC_OK;
}
