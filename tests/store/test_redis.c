/* The Redis tier against a real server on a Unix socket: what one store puts another gets; a server
 * that dies, hangs or comes back costs misses, not waiting. Without redis-server: skipped. */
#include "tests/store/redis_socket.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define TIMEOUT_MS 300u
#define PART       ((size_t)4 << 20)
#define PREFIX     "semanticache:"

static char address[300];
static pid_t server;

static uint64_t now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void start_server(struct rig *rig)
{
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/r", rig->root);
    (void)snprintf(address, sizeof(address), "unix:%s", path);
    server = fork();
    assert_true(server >= 0);
    if (server == 0) {
        int null = open("/dev/null", O_WRONLY);
        (void)dup2(null, 1);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", path, "--save", "",
               "--appendonly", "no", "--dir", rig->root, (char *)NULL);
        _exit(127);
    }
    redis_await(rig);
}

static void stop_server(void)
{
    if (server > 0) {
        (void)kill(server, SIGKILL);
        (void)waitpid(server, NULL, 0);
    }
    server = 0;
}

static int setup(void **state)
{
    (void)rig_setup(state);
    start_server(*state);
    return 0;
}

static int teardown(void **state)
{
    stop_server();
    return rig_teardown(state);
}

static struct sc_store *open_redis(struct rig *rig, uint32_t ttl_s)
{
    return rig_open(rig, (struct sc_store_opts){
                             .redis = address, .redis_ttl_s = ttl_s, .io_timeout_ms = TIMEOUT_MS});
}

/* Sends one inline command and returns the first bytes of the answer. */
static const char *raw(struct rig *rig, const char *command)
{
    static char answer[256];
    int fd = redis_connect(rig);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, command, strlen(command)), strlen(command));
    ssize_t n = read(fd, answer, sizeof(answer) - 1);
    answer[n > 0 ? n : 0] = '\0';
    close(fd);
    return answer;
}

static const char *raw_key(struct rig *rig, const char *verb, uint32_t i, const char *rest)
{
    struct sc_hash key = rig_key(i);
    char hex[2 * SC_HASH_BYTES + 1], command[256];

    sc_hash_hex(&key, hex);
    (void)snprintf(command, sizeof(command), "%s " PREFIX "%s%s\r\n", verb, hex, rest);
    return raw(rig, command);
}

static void what_one_store_puts_another_gets(void **state)
{
    struct rig *rig = *state;
    static const size_t sizes[] = {0, 1, 5000, PART - 192, PART - 191, 2 * PART + 12345};
    struct sc_store *a = open_redis(rig, 0), *b = open_redis(rig, 0);

    assert_true(sc_store_is_remote(a));
    for (uint32_t i = 0; i < SC_ARRAY_LEN(sizes); i++)
        rig_put(a, i, sizes[i]);
    sc_store_flush(a);
    for (uint32_t i = 0; i < SC_ARRAY_LEN(sizes); i++)
        assert_true(rig_hit(rig, b, i, sizes[i]));
    assert_false(rig_hit(rig, b, 99, 1));
    assert_string_equal(raw_key(rig, "TTL", 2, ""), ":-1\r\n");
    assert_int_equal(rig_lines(rig), 0);
    struct sc_hash key = rig_key(5);
    sc_store_remove(a, &key);
    sc_store_flush(a);
    assert_false(rig_hit(rig, b, 5, sizes[5]));
    assert_string_equal(raw(rig, "DBSIZE\r\n"), ":6\r\n"); /* five, one of them in two parts */
    sc_store_close(a);
    sc_store_close(b);
}

static void blob_found_in_redis_comes_into_the_nearer_tiers(void **state)
{
    struct rig *rig = *state;
    struct sc_store *a = open_redis(rig, 0);
    struct sc_store *b = rig_open(rig, (struct sc_store_opts){.memory_bytes = 1 << 20,
                                                              .dir = rig_path(rig, "d"),
                                                              .dir_bytes = 1 << 20,
                                                              .shared_dir = rig_path(rig, "s"),
                                                              .redis = address});
    char path[256];

    rig_put(a, 1, 5000);
    sc_store_flush(a);
    assert_true(rig_hit(rig, b, 1, 5000));
    sc_store_flush(b);
    assert_int_equal(rig_stats(b).memory_blobs, 1);
    assert_int_equal(rig_stats(b).dir_blobs, 1);
    rig_path_of(rig, "s", 1, path);
    assert_int_equal(access(path, F_OK), 0);
    sc_store_close(a);
    sc_store_close(b);
}

static void time_to_live_is_set_and_renewed_by_a_put(void **state)
{
    struct rig *rig = *state;
    struct sc_store *a = open_redis(rig, 1000);

    rig_put(a, 1, PART + 5);
    sc_store_flush(a);
    assert_non_null(strstr(":1000\r\n:999\r\n", raw_key(rig, "TTL", 1, "")));
    assert_non_null(strstr(":1000\r\n:999\r\n", raw_key(rig, "TTL", 1, ".1")));
    raw_key(rig, "EXPIRE", 1, " 50");
    raw_key(rig, "EXPIRE", 1, ".1 50");
    rig_put(a, 1, PART + 5);
    sc_store_flush(a);
    assert_non_null(strstr(":1000\r\n:999\r\n", raw_key(rig, "TTL", 1, ".1")));
    assert_non_null(strstr(":1000\r\n:999\r\n", raw_key(rig, "TTL", 1, "")));
    sc_store_close(a);
}

static void damaged_or_missing_parts_are_a_miss_and_written_anew(void **state)
{
    struct rig *rig = *state;
    struct sc_store *a = open_redis(rig, 0);

    rig_put(a, 1, PART + 1000);
    sc_store_flush(a);
    raw_key(rig, "SETRANGE", 1, ".1 10 damage");
    assert_false(rig_hit(rig, a, 1, PART + 1000));
    assert_int_equal(rig_lines(rig), 1);
    assert_int_equal(rig_stats(a).damaged, 1);
    rig_put(a, 1, PART + 1000);
    sc_store_flush(a);
    assert_true(rig_hit(rig, a, 1, PART + 1000));
    raw_key(rig, "DEL", 1, ".1"); /* evicted: no line */
    assert_false(rig_hit(rig, a, 1, PART + 1000));
    assert_int_equal(rig_lines(rig), 1);
    rig_put(a, 1, PART + 1000);
    sc_store_flush(a);
    assert_true(rig_hit(rig, a, 1, PART + 1000));
    assert_false(rig_hit_as(rig, a, 1, PART + 1000, 3)); /* another label */
    raw_key(rig, "SETRANGE", 1, " 0 damage");
    assert_false(rig_hit(rig, a, 1, PART + 1000));
    raw_key(rig, "SET", 1, " short");
    assert_false(rig_hit(rig, a, 1, PART + 1000));
    assert_int_equal(rig_lines(rig), 4);
    sc_store_close(a);
}

static void dead_server_costs_misses_and_works_again_after_its_restart(void **state)
{
    struct rig *rig = *state;
    struct sc_store *a = open_redis(rig, 0);
    uint64_t start;
    bool hit = false;

    rig_put(a, 1, 5000);
    assert_true(rig_hit(rig, a, 1, 5000));
    sc_store_flush(a);
    stop_server();
    start = now_ms();
    for (uint32_t i = 0; i < 200; i++) {
        assert_false(rig_hit(rig, a, i, 5000));
        rig_put(a, i, 10);
    }
    sc_store_flush(a);
    assert_true(now_ms() - start < 10 * TIMEOUT_MS);
    assert_int_equal(rig_lines(rig), 1);
    assert_string_equal(rig->event, "store tier failed");
    start_server(rig);
    start = now_ms();
    while (!hit && now_ms() - start < 15000) {
        rig_put(a, 2, 5000);
        sc_store_flush(a);
        hit = rig_hit(rig, a, 2, 5000);
        usleep(20000);
    }
    assert_true(hit);
    sc_store_close(a);
}

static void restart_between_two_calls_is_not_noticed(void **state)
{
    struct rig *rig = *state;
    struct sc_store *a = open_redis(rig, 0);

    rig_put(a, 1, 5000);
    sc_store_flush(a);
    stop_server();
    start_server(rig);
    rig_put(a, 2, 5000);
    sc_store_flush(a);
    assert_true(rig_hit(rig, a, 2, 5000));
    assert_int_equal(rig_lines(rig), 0);
    sc_store_close(a);
}

static void hanging_server_costs_one_timeout_and_the_caller_nothing(void **state)
{
    struct rig *rig = *state;
    struct sc_store *a = open_redis(rig, 0);
    uint64_t start;

    rig_put(a, 1, 5000);
    sc_store_flush(a);
    assert_int_equal(kill(server, SIGSTOP), 0);
    start = now_ms();
    rig_put(a, 2, 5000);
    assert_true(now_ms() - start < TIMEOUT_MS / 2);
    sc_store_flush(a);
    assert_false(rig_hit(rig, a, 1, 5000));
    assert_true(now_ms() - start < 3 * TIMEOUT_MS);
    sc_store_close(a);
    assert_int_equal(kill(server, SIGCONT), 0);
}

static void server_that_was_never_there_is_no_error_at_open(void **state)
{
    struct rig *rig = *state;

    stop_server();
    struct sc_store *a = open_redis(rig, 0);
    rig_put(a, 1, 100);
    assert_false(rig_hit(rig, a, 2, 100));
    sc_store_flush(a);
    assert_int_equal(rig_lines(rig), 1);
    sc_store_close(a);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(what_one_store_puts_another_gets),
        CASE(blob_found_in_redis_comes_into_the_nearer_tiers),
        CASE(time_to_live_is_set_and_renewed_by_a_put),
        CASE(damaged_or_missing_parts_are_a_miss_and_written_anew),
        CASE(dead_server_costs_misses_and_works_again_after_its_restart),
        CASE(restart_between_two_calls_is_not_noticed),
        CASE(hanging_server_costs_one_timeout_and_the_caller_nothing),
        CASE(server_that_was_never_there_is_no_error_at_open),
    };
    if (system("command -v redis-server >/dev/null") != 0) {
        printf("redis-server is not there\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
