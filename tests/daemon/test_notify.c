#include "testing.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/sdnotify.h"

static int listen_as_systemd(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    return fd;
}

static void expect(int fd, const char *part)
{
    char text[512] = "";

    assert_true(recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT) > 0);
    assert_text_has(text, part);
}

static void systemd_is_told(void **state)
{
    char dir[] = "/tmp/sc-notify-XXXXXX", path[64];
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/n", dir);
    fd = listen_as_systemd(path);
    assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
    sc_notify_status("loading %s", "a model");
    expect(fd, "STATUS=loading a model");
    sc_notify_extend(30000000);
    expect(fd, "EXTEND_TIMEOUT_USEC=30000000");
    sc_notify_ready();
    expect(fd, "READY=1");
    sc_notify_watchdog();
    expect(fd, "WATCHDOG=1");
    sc_notify_reloading();
    expect(fd, "RELOADING=1\nMONOTONIC_USEC=");
    sc_notify_stopping();
    expect(fd, "STOPPING=1");
    (void)close(fd);
    (void)unlink(path);
    (void)rmdir(dir);
}

static void the_watchdog_interval_is_read(void **state)
{
    char pid[32];

    (void)state;
    (void)unsetenv("WATCHDOG_USEC");
    assert_int_equal(sc_notify_watchdog_us(), 0);
    (void)snprintf(pid, sizeof(pid), "%ld", (long)getpid());
    (void)setenv("WATCHDOG_PID", pid, 1);
    (void)setenv("WATCHDOG_USEC", "5000000", 1);
    assert_int_equal(sc_notify_watchdog_us(), 5000000);
}

static void without_systemd_nothing_happens(void **state)
{
    (void)state;
    (void)unsetenv("NOTIFY_SOCKET");
    sc_notify_ready();
    sc_notify_watchdog();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(systemd_is_told),
        cmocka_unit_test(the_watchdog_interval_is_read),
        cmocka_unit_test(without_systemd_nothing_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
