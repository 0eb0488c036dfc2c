#include "daemon/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/address.h"

#define FRAME_SETTINGS 4

/* The client's preface and an empty SETTINGS frame. */
static const char greeting[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";

static void set_unix(struct sc_probe *p, const char *path)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&p->address;

    un->sun_family = AF_UNIX;
    (void)snprintf(un->sun_path, sizeof(un->sun_path), "%s", path);
    p->address_len = sizeof(*un);
}

static bool set_host(struct sc_probe *p, const char *host, uint16_t port)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&p->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&p->address;

    if (strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        if (v4->sin_addr.s_addr == htonl(INADDR_ANY))
            v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        p->address_len = sizeof(*v4);
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        if (IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr))
            v6->sin6_addr = in6addr_loopback;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        p->address_len = sizeof(*v6);
        return true;
    }
    return false;
}

enum sc_status sc_probe_init(struct sc_probe *p, const char *address, int port, uint64_t every_us,
                             uint64_t patience_us, struct sc_err *err)
{
    char host[256];

    *p = (struct sc_probe){
        .every_us = every_us, .patience_us = patience_us, .fd = -1, .alive = true};
    if (sc_address_is_unix(address)) {
        set_unix(p, address + 5);
        return SC_OK;
    }
    (void)snprintf(host, sizeof(host), "%.*s", (int)(strrchr(address, ':') - address), address);
    if (host[0] == '[') {
        memmove(host, host + 1, strlen(host));
        host[strcspn(host, "]")] = '\0';
    }
    memset(&p->address, 0, sizeof(p->address));
    if (!set_host(p, host, (uint16_t)port))
        return sc_fail(err, SC_ENOTSUP, "%s: a host name cannot be probed", address);
    return SC_OK;
}

void sc_probe_fini(struct sc_probe *p)
{
    if (p->fd >= 0)
        (void)close(p->fd);
    p->fd = -1;
}

static void finish(struct sc_probe *p, bool alive)
{
    sc_probe_fini(p);
    p->alive = alive;
}

static void begin(struct sc_probe *p, uint64_t now_us)
{
    p->begun_us = now_us;
    p->greeted = false;
    p->got = 0;
    p->fd = socket(p->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->fd < 0) /* no descriptor for us means none for a client */
        finish(p, false);
    else if (connect(p->fd, (struct sockaddr *)&p->address, p->address_len) != 0 &&
             errno != EINPROGRESS && errno != EAGAIN)
        finish(p, false);
}

static void go_on(struct sc_probe *p)
{
    struct pollfd fd = {.fd = p->fd, .events = p->greeted ? POLLIN : POLLOUT};
    ssize_t n;

    if (poll(&fd, 1, 0) <= 0)
        return;
    if (!p->greeted) {
        n = send(p->fd, greeting, sizeof(greeting) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n == (ssize_t)sizeof(greeting) - 1)
            p->greeted = true; /* it fits into an empty buffer whole */
        else
            finish(p, false);
        return;
    }
    n = recv(p->fd, p->head + p->got, sizeof(p->head) - p->got, MSG_DONTWAIT);
    if (n > 0)
        p->got += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        finish(p, false);
    if (p->fd >= 0 && p->got == sizeof(p->head))
        finish(p, p->head[3] == FRAME_SETTINGS);
}

bool sc_probe_tick(struct sc_probe *p, uint64_t now_us)
{
    if (p->address_len == 0)
        return true;
    if (p->fd < 0 && now_us - p->begun_us >= p->every_us)
        begin(p, now_us);
    if (p->fd >= 0)
        go_on(p);
    if (p->fd >= 0 && now_us - p->begun_us > p->patience_us)
        finish(p, false);
    return p->alive;
}
