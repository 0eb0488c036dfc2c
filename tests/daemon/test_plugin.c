/* Backend plugins: what is opened, and what is refused with a reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/plugin.h"

static void a_plugin_of_this_abi_is_opened_and_tried(void **state)
{
    (void)state;
    const struct sc_backend_plugin *plugin = NULL;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_plugin_open(SC_FAKE_GOOD, &plugin, &err), SC_OK);
    assert_string_equal(plugin->name, "fake");
    assert_int_equal(sc_plugin_try(plugin, &err), SC_OK);
}

static void a_plugin_without_a_device_says_so_when_tried(void **state)
{
    (void)state;
    const struct sc_backend_plugin *plugin = NULL;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_plugin_open(SC_FAKE_DEAD, &plugin, &err), SC_OK);
    assert_int_equal(sc_plugin_try(plugin, &err), SC_EUNAVAIL);
}

static void another_abi_a_missing_file_and_no_library_are_refused(void **state)
{
    (void)state;
    const struct sc_backend_plugin *plugin = NULL;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_plugin_open(SC_FAKE_OLD, &plugin, &err), SC_ENOTSUP);
    assert_non_null(strstr(err.text, "ABI 999"));
    sc_err_clear(&err);
    assert_int_equal(sc_plugin_open("/nonexistent/plugin.so", &plugin, &err), SC_ENOENT);
    sc_err_clear(&err);
    assert_int_equal(sc_plugin_open(SC_SOURCE_DIR "/README.md", &plugin, &err), SC_EUNAVAIL);
    assert_null(plugin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plugin_of_this_abi_is_opened_and_tried),
        cmocka_unit_test(a_plugin_without_a_device_says_so_when_tried),
        cmocka_unit_test(another_abi_a_missing_file_and_no_library_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
