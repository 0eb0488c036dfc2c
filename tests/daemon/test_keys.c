#include "testing.h"

#include <sys/stat.h>
#include <unistd.h>

#include "daemon/keys.h"

#define ALICE "alice-0123456789abcdef"
#define BOB   "bob-0123456789abcdefgh"

/* A file of mode 0600 that holds text; its path. */
static const char *file_with(const char *text, size_t len)
{
    static char path[64];
    int fd;

    (void)snprintf(path, sizeof(path), "/tmp/sc-keys-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), (ssize_t)len);
    (void)close(fd);
    return path;
}

static enum sc_status try(const char *text, size_t len, struct sc_keys **ret_keys,
                          struct sc_err *err)
{
    const char *path = file_with(text, len);
    enum sc_status st = sc_keys_open(path, ret_keys, err);

    (void)unlink(path);
    return st;
}

static void a_key_says_who_calls(void **state)
{
    static const char text[] = "# people\n\n" ALICE " team-a user # the first\n"
                               "\t" BOB "\tteam.b_2   admin\r\n";
    struct sc_keys *keys = NULL;
    struct sc_identity who = {.ns = "untouched"};
    struct sc_err err = SC_ERR_INIT;

    (void)state;
    assert_ok(try(text, strlen(text), &keys, &err));
    assert_true(sc_keys_find(keys, ALICE, strlen(ALICE), &who));
    assert_string_equal(who.ns, "team-a");
    assert_false(who.admin);
    assert_true(sc_keys_find(keys, BOB, strlen(BOB), &who));
    assert_string_equal(who.ns, "team.b_2");
    assert_true(who.admin);
    assert_false(sc_keys_find(keys, ALICE, strlen(ALICE) - 1, &who));
    assert_false(sc_keys_find(keys, ALICE "x", strlen(ALICE) + 1, &who));
    assert_false(sc_keys_find(keys, "", 0, &who));
    assert_string_equal(who.ns, "team.b_2");
    sc_keys_close(keys);
}

static void each_mistake_is_named_with_its_line(void **state)
{
    static char long_key[300], long_ns[80];
    char long_key_line[400], long_ns_line[200];
    const struct {
        const char *text, *where, *what;
    } cases[] = {
        {"", ": ", "holds no key"},
        {"# only this\n\n", ": ", "holds no key"},
        {ALICE "\n", ":1: ", "wanted KEY NAMESPACE ROLE"},
        {ALICE " a\n", ":1: ", "wanted KEY NAMESPACE ROLE"},
        {"\n" ALICE " a user more\n", ":2: ", "wanted KEY NAMESPACE ROLE"},
        {"short a user", ":1: ", "a key of 5 bytes, limits 16..256"},
        {long_key_line, ":1: ", "a key of 257 bytes"},
        {"0123456789abcde\x01z a user", ":1: ", "byte 15 of the key is not printable"},
        {"0123456789abcde\xc3\xa4 a user", ":1: ", "byte 15 of the key is not printable"},
        {ALICE " a/b user", ":1: ", "namespace \"a/b\": must be"},
        {ALICE " ~self user", ":1: ", "namespace \"~self\""},
        {long_ns_line, ":1: ", "must be 1..64"},
        {ALICE " a root", ":1: ", "must be user or admin"},
        {ALICE " " BOB "/ user", ":1: ", "namespace \"\": must be"}, /* a key in a wrong column */
        {ALICE " a " BOB, ":1: ", "role \"\": must be user or admin"},
        {ALICE " a Admin", ":1: ", "must be user or admin"},
        {BOB " b user\n" ALICE " a user\n" BOB " c user\n", ":3: ", "the key is there already"},
    };

    (void)state;
    memset(long_key, 'k', 257);
    memset(long_ns, 'n', 65);
    (void)snprintf(long_key_line, sizeof(long_key_line), "%s a user", long_key);
    (void)snprintf(long_ns_line, sizeof(long_ns_line), ALICE " %s user", long_ns);
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_keys *keys = NULL;
        struct sc_err err = SC_ERR_INIT;
        if (try(cases[i].text, strlen(cases[i].text), &keys, &err) != SC_EINVAL)
            fail_msg("taken: %s", cases[i].text);
        assert_null(keys);
        assert_text_has(err.text, cases[i].where);
        assert_text_has(err.text, cases[i].what);
        assert_null(strstr(err.text, "0123456789")); /* a log is no place for a key */
    }
}

static void more_keys_than_the_limit_are_refused(void **state)
{
    size_t bytes = (SC_KEYS_MAX + 1) * 64, at = 0;
    char *text = calloc(1, bytes);
    struct sc_keys *keys = NULL;
    struct sc_err err = SC_ERR_INIT;

    (void)state;
    for (unsigned i = 0; i <= SC_KEYS_MAX; i++) {
        if (i == SC_KEYS_MAX)
            assert_ok(try(text, at, &keys, &err));
        at += (size_t)snprintf(text + at, bytes - at, "key-%016u ns user\n", i);
    }
    sc_keys_close(keys);
    keys = NULL;
    assert_int_equal(try(text, at, &keys, &err), SC_EINVAL);
    assert_text_has(err.text, ":4097: more than 4096 keys");
    free(text);
}

static void a_file_that_others_may_read_is_refused(void **state)
{
    char path[] = "/tmp/sc-keys-XXXXXX";
    int fd = mkstemp(path);
    struct sc_keys *keys = NULL;
    struct sc_err err = SC_ERR_INIT;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, ALICE " a user\n", strlen(ALICE) + 8), (ssize_t)strlen(ALICE) + 8);
    assert_int_equal(fchmod(fd, 0644), 0);
    assert_int_equal(sc_keys_open(path, &keys, &err), SC_EPERM);
    assert_text_has(err.text, "mode 644");
    assert_text_has(err.text, path);
    sc_err_clear(&err);
    assert_int_equal(fchmod(fd, 0640), 0);
    assert_ok(sc_keys_open(path, &keys, &err));
    sc_keys_close(keys);
    keys = NULL;
    assert_int_equal(ftruncate(fd, SC_KEYS_FILE_BYTES_MAX + 1), 0);
    assert_int_equal(sc_keys_open(path, &keys, &err), SC_EINVAL);
    assert_text_has(err.text, "limit");
    (void)close(fd);
    (void)unlink(path);
    sc_err_clear(&err);
    assert_int_equal(sc_keys_open(path, &keys, &err), SC_ENOENT);
    sc_err_clear(&err);
    assert_int_equal(sc_keys_open("/tmp", &keys, &err), SC_EIO);
    assert_null(keys);
}

static void a_reload_takes_all_of_the_file_or_nothing(void **state)
{
    const char *path = file_with(ALICE " a user\n", strlen(ALICE) + 8);
    struct sc_keys *keys = NULL;
    struct sc_identity who;
    struct sc_err err = SC_ERR_INIT;
    FILE *f;

    (void)state;
    assert_ok(sc_keys_open(path, &keys, &err));
    f = fopen(path, "w");
    assert_non_null(f);
    (void)fprintf(f, BOB " b admin\nbroken\n");
    (void)fclose(f);
    assert_int_equal(sc_keys_reload(keys, &err), SC_EINVAL);
    assert_text_has(err.text, ":2: ");
    assert_true(sc_keys_find(keys, ALICE, strlen(ALICE), &who));
    assert_false(sc_keys_find(keys, BOB, strlen(BOB), &who));
    f = fopen(path, "w");
    assert_non_null(f);
    (void)fprintf(f, BOB " b admin\n");
    (void)fclose(f);
    sc_err_clear(&err);
    assert_ok(sc_keys_reload(keys, &err));
    assert_false(sc_keys_find(keys, ALICE, strlen(ALICE), &who));
    assert_true(sc_keys_find(keys, BOB, strlen(BOB), &who));
    assert_true(who.admin);
    sc_keys_close(keys);
    (void)unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_says_who_calls),
        cmocka_unit_test(each_mistake_is_named_with_its_line),
        cmocka_unit_test(more_keys_than_the_limit_are_refused),
        cmocka_unit_test(a_file_that_others_may_read_is_refused),
        cmocka_unit_test(a_reload_takes_all_of_the_file_or_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
