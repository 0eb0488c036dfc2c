/* tests/store/redis_socket.h - the Unix socket `r` of a rig's directory, where a Redis server of a
 * test listens. */
#ifndef SC_TESTS_STORE_REDIS_SOCKET_H
#define SC_TESTS_STORE_REDIS_SOCKET_H

#include "tests/store/rig.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* -1: nobody listens. */
static inline int redis_connect(struct rig *rig)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/r", rig->root);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Until somebody listens; fails the test after ten seconds. */
static inline void redis_await(struct rig *rig)
{
    int fd = -1;
    for (unsigned i = 0; i < 500 && (fd = redis_connect(rig)) < 0; i++)
        usleep(20000);
    assert_true(fd >= 0);
    close(fd);
}

#endif
