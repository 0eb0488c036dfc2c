#include "testing.h"

#include "daemon/symbols.h"
#include "proto/descriptors.h"

static int open_symbols(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_symbols *s;

    if (sc_symbols_open(sc_proto_descriptors, sc_proto_descriptors_bytes, &s, &err) != SC_OK)
        return -1;
    *state = s;
    return 0;
}

static int close_symbols(void **state)
{
    sc_symbols_close(*state);
    return 0;
}

static bool names_file(const struct sc_symbol_file *file, const char *name)
{
    /* FileDescriptorProto.name is field 1, and protoc writes fields in order. */
    return file->len > 2 + strlen(name) && file->data[0] == 0x0a && file->data[1] == strlen(name) &&
           memcmp(file->data + 2, name, strlen(name)) == 0;
}

static void symbols_of_every_kind_are_found_in_their_file(void **state)
{
    static const struct {
        const char *symbol, *file;
    } cases[] = {
        {"semanticache.v1.Inference", "semanticache/v1/inference.proto"},
        {"semanticache.v1.Inference.GenerateStream", "semanticache/v1/inference.proto"},
        {"semanticache.v1.KvOptions", "semanticache/v1/common.proto"},
        {"semanticache.v1.SamplingParams.LogitBiasEntry", "semanticache/v1/common.proto"},
        {"semanticache.v1.KvMode", "semanticache/v1/common.proto"},
        {"semanticache.v1.Documents.PutDocument", "semanticache/v1/documents.proto"},
        {"semanticache.v1.InspectChunk", "semanticache/v1/control.proto"},
        {"grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto"},
        {"grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"},
        {"grpc.reflection.v1alpha.ServerReflection", "grpc/reflection/v1alpha/reflection.proto"},
    };
    struct sc_symbol_file files[SC_SYMBOL_FILES_MAX];

    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        if (sc_symbols_by_name(*state, cases[i].symbol, files) == 0)
            fail_msg("%s was not found", cases[i].symbol);
        if (!names_file(&files[0], cases[i].file))
            fail_msg("%s: not in %s", cases[i].symbol, cases[i].file);
    }
}

static void a_file_comes_with_what_it_imports(void **state)
{
    struct sc_symbol_file files[SC_SYMBOL_FILES_MAX];

    assert_int_equal(sc_symbols_by_file(*state, "semanticache/v1/inference.proto", files), 2);
    assert_true(names_file(&files[0], "semanticache/v1/inference.proto"));
    assert_true(names_file(&files[1], "semanticache/v1/common.proto"));
}

static void what_is_unknown_is_not_found(void **state)
{
    struct sc_symbol_file files[SC_SYMBOL_FILES_MAX];

    assert_int_equal(sc_symbols_by_name(*state, "semanticache.v1.Inferenc", files), 0);
    assert_int_equal(sc_symbols_by_name(*state, "", files), 0);
    assert_int_equal(sc_symbols_by_file(*state, "no/such.proto", files), 0);
}

static void a_damaged_set_is_refused(void **state)
{
    struct sc_symbols *s;

    (void)state;
    for (size_t cut = 1; cut < sc_proto_descriptors_bytes; cut += 997) {
        struct sc_err err = SC_ERR_INIT;
        enum sc_status st = sc_symbols_open(sc_proto_descriptors, cut, &s, &err);
        /* A cut between two files is a smaller set. */
        if (st == SC_OK)
            sc_symbols_close(s);
        else
            assert_int_equal(st, SC_EFORMAT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(symbols_of_every_kind_are_found_in_their_file, open_symbols,
                                        close_symbols),
        cmocka_unit_test_setup_teardown(a_file_comes_with_what_it_imports, open_symbols,
                                        close_symbols),
        cmocka_unit_test_setup_teardown(what_is_unknown_is_not_found, open_symbols, close_symbols),
        cmocka_unit_test(a_damaged_set_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
