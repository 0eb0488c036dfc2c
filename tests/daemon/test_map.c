#include "testing.h"

#include "daemon/status_map.h"

static void every_status_has_a_code_and_only_ok_is_ok(void **state)
{
    (void)state;
    for (int st = 0; st < SC_STATUS_COUNT; st++) {
        grpc_status_code code = sc_status_to_grpc((enum sc_status)st);
        assert_int_not_equal(code, GRPC_STATUS_UNKNOWN);
        assert_int_equal(code == GRPC_STATUS_OK, st == SC_OK);
    }
    assert_int_equal(sc_status_to_grpc((enum sc_status)SC_STATUS_COUNT), GRPC_STATUS_UNKNOWN);
    assert_int_equal(sc_status_to_grpc((enum sc_status) - 1), GRPC_STATUS_UNKNOWN);
}

static void statuses_that_clients_act_on_have_their_codes(void **state)
{
    (void)state;
    assert_int_equal(sc_status_to_grpc(SC_EINVAL), GRPC_STATUS_INVALID_ARGUMENT);
    assert_int_equal(sc_status_to_grpc(SC_ERANGE), GRPC_STATUS_FAILED_PRECONDITION);
    assert_int_equal(sc_status_to_grpc(SC_EFULL), GRPC_STATUS_RESOURCE_EXHAUSTED);
    assert_int_equal(sc_status_to_grpc(SC_EUNAVAIL), GRPC_STATUS_UNAVAILABLE);
    assert_int_equal(sc_status_to_grpc(SC_ECANCELED), GRPC_STATUS_CANCELLED);
    assert_int_equal(sc_status_to_grpc(SC_ETIMEDOUT), GRPC_STATUS_DEADLINE_EXCEEDED);
    assert_int_equal(sc_status_to_grpc(SC_ENOTSUP), GRPC_STATUS_UNIMPLEMENTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_code_and_only_ok_is_ok),
        cmocka_unit_test(statuses_that_clients_act_on_have_their_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
