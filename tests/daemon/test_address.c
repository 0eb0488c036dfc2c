#include "testing.h"

#include <unistd.h>

#include "daemon/address.h"

static void loopback_is_known_in_all_its_spellings(void **state)
{
    static const char *const own[] = {"127.0.0.1:1", "127.8.9.1:80", "[::1]:50051", "localhost:0",
                                      "unix:/run/x.sock"};
    static const char *const others[] = {"0.0.0.0:1",      "[::]:1",      "10.0.0.1:80",
                                         "example.org:80", "128.0.0.1:1", "[::ffff:127.0.0.1]:1"};

    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(own); i++) {
        struct sc_err err = SC_ERR_INIT;
        assert_true(sc_address_is_loopback(own[i]));
        assert_ok(sc_address_check(own[i], false, &err));
    }
    for (size_t i = 0; i < SC_ARRAY_LEN(others); i++) {
        struct sc_err err = SC_ERR_INIT;
        assert_false(sc_address_is_loopback(others[i]));
        assert_int_equal(sc_address_check(others[i], false, &err), SC_EPERM);
        assert_text_has(err.text, "server.insecure");
        sc_err_clear(&err);
        assert_ok(sc_address_check(others[i], true, &err));
    }
}

static void what_is_no_address_is_refused(void **state)
{
    static const char *const bad[] = {
        "",       "localhost", ":80",   "host:",   "host:65536",  "host:-1",
        "::1:80", "unix:x",    "unix:", "host:8o", "127.0.0.1:1 "};

    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++) {
        struct sc_err err = SC_ERR_INIT;
        if (sc_address_check(bad[i], true, &err) != SC_EINVAL)
            fail_msg("\"%s\" was taken", bad[i]);
        assert_string_not_equal(err.text, "");
    }
}

static void a_unix_socket_has_one_owner(void **state)
{
    char dir[] = "/tmp/sc-address-XXXXXX", address[64], lock[80];
    struct sc_err err = SC_ERR_INIT;
    int first, second;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(address, sizeof(address), "unix:%s/s", dir);
    (void)snprintf(lock, sizeof(lock), "%s/s.lock", dir);
    assert_ok(sc_address_lock_unix(address, &first, &err));
    assert_int_equal(sc_address_lock_unix(address, &second, &err), SC_EEXIST);
    (void)close(first);
    sc_err_clear(&err);
    assert_ok(sc_address_lock_unix(address, &second, &err));
    (void)close(second);
    (void)unlink(lock);
    (void)rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loopback_is_known_in_all_its_spellings),
        cmocka_unit_test(what_is_no_address_is_refused),
        cmocka_unit_test(a_unix_socket_has_one_owner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
