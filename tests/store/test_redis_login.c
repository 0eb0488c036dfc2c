/* Redis that wants a password: a real server with requirepass and a user of its own. Without
 * redis-server: skipped. */
#include "tests/store/redis_socket.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "store/login.h"

#define SECRET "s3cret-of-all"
#define ALICE  "s3cret-of-alice"

static char address[300];
static pid_t server;

static int setup(void **state)
{
    (void)rig_setup(state);
    struct rig *rig = *state;

    const char *path = rig_path(rig, "r"), *config = rig_path(rig, "redis.conf");
    (void)snprintf(address, sizeof(address), "unix:%s", path);
    FILE *f = fopen(config, "w");
    SC_ASSERT(f != NULL);
    (void)fprintf(f,
                  "port 0\nunixsocket %s\nsave \"\"\nappendonly no\ndir %s\nrequirepass " SECRET
                  "\nuser alice on >" ALICE " ~semanticache:* &* +@all\n",
                  path, rig->root);
    (void)fclose(f);
    server = fork();
    assert_true(server >= 0);
    if (server == 0) {
        int null = open("/dev/null", O_WRONLY);
        (void)dup2(null, 1);
        execlp("redis-server", "redis-server", config, (char *)NULL);
        _exit(127);
    }
    redis_await(rig);
    return 0;
}

static int teardown(void **state)
{
    (void)kill(server, SIGKILL);
    (void)waitpid(server, NULL, 0);
    return rig_teardown(state);
}

static const char *write_login(struct rig *rig, const char *text, mode_t mode)
{
    const char *path = rig_path(rig, "login");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
    return path;
}

/* NULL: without a login. */
static struct sc_store *open_as(struct rig *rig, const char *login)
{
    return rig_open(rig, (struct sc_store_opts){.redis = address,
                                                .redis_login_file =
                                                    login ? write_login(rig, login, 0600) : NULL});
}

static void a_password_or_a_user_and_one_are_let_in(void **state)
{
    struct rig *rig = *state;
    struct sc_store *all = open_as(rig, SECRET "\n# a comment\n\n");

    rig_put(all, 1, 5000);
    sc_store_flush(all);
    struct sc_store *alice = open_as(rig, " alice\t" ALICE "\r\n");
    assert_true(rig_hit(rig, alice, 1, 5000));
    rig_put(alice, 2, 5000);
    sc_store_flush(alice);
    assert_int_equal(rig_lines(rig), 0);
    sc_store_close(all);
    sc_store_close(alice);
}

static void no_login_or_a_wrong_one_costs_misses_and_a_line_without_it(void **state)
{
    static const char *const logins[] = {NULL, "wr0ng-one\n", "alice wr0ng-one\n", "bob " SECRET};
    struct rig *rig = *state;
    struct sc_store *right = open_as(rig, SECRET);

    rig_put(right, 1, 5000);
    sc_store_flush(right);
    for (unsigned i = 0; i < SC_ARRAY_LEN(logins); i++) {
        unsigned before = rig_lines(rig);
        struct sc_store *s = open_as(rig, logins[i]);
        assert_false(rig_hit(rig, s, 1, 5000));
        rig_put(s, 2, 5000);
        sc_store_flush(s);
        assert_false(rig_hit(rig, right, 2, 5000));
        sc_store_close(s);
        assert_int_equal(rig_lines(rig), before + 1);
        assert_string_equal(rig->event, "store tier failed");
        if (strstr(rig->last, logins[i] == NULL ? "NOAUTH" : "WRONGPASS") == NULL)
            fail_msg("%s", rig->last);
        assert_null(strstr(rig->last, "wr0ng-one"));
        assert_null(strstr(rig->last, SECRET));
    }
    sc_store_close(right);
}

/* Sends one inline command as the default user. */
static void tell_server(struct rig *rig, const char *command)
{
    char text[256], answer[256];
    int fd = redis_connect(rig);

    (void)snprintf(text, sizeof(text), "AUTH " SECRET "\r\n%s\r\n", command);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    usleep(100000);
    assert_true(read(fd, answer, sizeof(answer)) > 0);
    close(fd);
}

static void a_new_password_in_the_file_is_used_by_the_next_connection(void **state)
{
    struct rig *rig = *state;
    struct sc_store *s = open_as(rig, SECRET);

    rig_put(s, 1, 5000);
    sc_store_flush(s);
    (void)write_login(rig, "n3w-secret\n", 0600);
    tell_server(rig, "CONFIG SET requirepass n3w-secret\r\nCLIENT KILL TYPE normal SKIPME yes");
    rig_put(s, 2, 5000);
    sc_store_flush(s);
    assert_true(rig_hit(rig, s, 1, 5000));
    assert_true(rig_hit(rig, s, 2, 5000));
    assert_int_equal(rig_lines(rig), 0);
    sc_store_close(s);
}

static void refused(struct rig *rig, const char *path, enum sc_status want, const char *words)
{
    const struct sc_store_opts opts = {
        .redis = address, .redis_login_file = path, .io_timeout_ms = 500};
    struct sc_err err = SC_ERR_INIT;
    struct sc_store *s = NULL;

    (void)rig;
    assert_int_equal(sc_store_open(&opts, &s, &err), want);
    assert_null(s);
    if (strstr(err.text, words) == NULL)
        fail_msg("%s", err.text);
    assert_null(strstr(err.text, "s3cret"));
}

static void a_file_that_cannot_serve_is_refused_at_open_without_its_content(void **state)
{
    struct rig *rig = *state;
    char many[SC_LOGIN_BYTES_MAX + 2];

    memset(many, 's', sizeof(many) - 1);
    many[sizeof(many) - 1] = '\0';
    refused(rig, rig_path(rig, "none"), SC_ENOENT, "No such file");
    refused(rig, rig->root, SC_EIO, "not a file");
    refused(rig, write_login(rig, SECRET, 0644), SC_EPERM, "chmod o=");
    refused(rig, write_login(rig, "", 0600), SC_EINVAL, "an empty first line");
    refused(rig, write_login(rig, "\n" SECRET, 0600), SC_EINVAL, "an empty first line");
    refused(rig, write_login(rig, "alice s3cret 3", 0600), SC_EINVAL, "more than two words");
    refused(rig, write_login(rig, "s3cret\ns3cret\n", 0600), SC_EINVAL, "more than one line");
    refused(rig, write_login(rig, many, 0600), SC_EINVAL, "limit 4096");
    FILE *f = fopen(write_login(rig, SECRET, 0600), "a");
    assert_non_null(f);
    assert_int_equal(fputc('\0', f), 0);
    assert_int_equal(fclose(f), 0);
    refused(rig, rig_path(rig, "login"), SC_EINVAL, "holds a byte 0");
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(a_password_or_a_user_and_one_are_let_in),
        CASE(no_login_or_a_wrong_one_costs_misses_and_a_line_without_it),
        CASE(a_new_password_in_the_file_is_used_by_the_next_connection),
        CASE(a_file_that_cannot_serve_is_refused_at_open_without_its_content),
    };
    if (system("command -v redis-server >/dev/null") != 0) {
        printf("redis-server is not there\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
