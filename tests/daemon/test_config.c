#include "testing.h"

#include "daemon/config.h"
#include "shard/engine.h"
#include "daemon/options.h"

static enum sc_status parse(const char *text, struct sc_config *config, struct sc_err *err)
{
    sc_config_init(config);
    sc_err_clear(err);
    return sc_config_parse(config, text, "x.conf", err);
}

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "r");
    char *text = calloc(1, 1 << 17);

    if (f == NULL)
        fail_msg("%s cannot be opened", path);
    assert_true(fread(text, 1, (1 << 17) - 1, f) > 0);
    (void)fclose(f);
    return text;
}

static void good_settings_are_taken(void **state)
{
    struct sc_config c;
    struct sc_err err = SC_ERR_INIT;

    (void)state;
    assert_ok(parse("model: { dir = \"/m\"; };\n"
                    "server = { listen = [\"127.0.0.1:1\", \"unix:/s\"]; insecure = true; };\n"
                    "kv: { memory = \"1.5 GiB\"; default_mode = \"exact\"; target_ratio = 0.5; };\n"
                    "engine: { threads = 3; weight_dtype = \"f32\"; stuck_after = \"90s\"; };\n",
                    &c, &err));
    assert_string_equal(c.model_dir, "/m");
    assert_int_equal(c.n_listen, 2);
    assert_string_equal(c.listen[1], "unix:/s");
    assert_true(c.insecure);
    assert_int_equal(c.kv_memory, 3ull << 29);
    assert_int_equal(c.kv_mode, SC_KV_DEFAULT_EXACT);
    assert_float_equal(c.target_ratio, 0.5f, 0);
    assert_int_equal(c.threads, 3);
    assert_int_equal(c.weight_dtype, SC_DTYPE_F32);
    assert_int_equal(c.stuck_after_us, 90000000);
    assert_int_equal(c.max_seqs, 64); /* a default */
}

static void memory_can_be_a_share_and_ranks_can_share_a_device(void **state)
{
    struct sc_config c;
    struct sc_err err = SC_ERR_INIT;
    int devices[SC_RANKS_MAX];
    bool given = true;
    static const char *const wrong[] = {"0", "0,1,2", "0,x", "0 1", "-1,0", "0,256", "0;1"};
    (void)state;

    sc_config_init(&c);
    assert_int_equal(c.kv_memory, 0);
    assert_int_equal(sc_config_devices(&c, devices, &given, &err), SC_OK);
    assert_false(given);
    assert_int_equal(sc_config_set(&c, "kv.memory", "90%", &err), SC_OK);
    assert_int_equal(c.kv_memory, 90);
    assert_int_equal(sc_config_set(&c, "kv.memory", "auto", &err), SC_OK);
    assert_int_equal(c.kv_memory, 0);
    assert_int_equal(sc_config_set(&c, "engine.tensor_parallel", "2", &err), SC_OK);
    assert_int_equal(sc_config_set(&c, "engine.devices", "1, 0", &err), SC_OK);
    assert_int_equal(sc_config_devices(&c, devices, &given, &err), SC_OK);
    assert_true(given);
    assert_int_equal(devices[0], 1);
    assert_int_equal(devices[1], 0);
    for (size_t i = 0; i < SC_ARRAY_LEN(wrong); i++) {
        struct sc_err e = SC_ERR_INIT;
        assert_int_equal(sc_config_set(&c, "engine.devices", wrong[i], &e), SC_OK);
        assert_int_equal(sc_config_devices(&c, devices, &given, &e), SC_EINVAL);
        assert_non_null(strstr(e.text, "engine.devices"));
    }
}

static void bad_settings_name_file_line_and_key(void **state)
{
    static const struct {
        const char *text, *where, *what;
    } cases[] = {
        {"kv: {\n memery = \"1GiB\";\n};", "x.conf:2: ", "kv.memery: unknown key"},
        {"\n\nspeed = 3;", "x.conf:3: ", "speed: unknown key"},
        {"kv: { deep: { er = 1; }; };", "x.conf:1: ", "kv.deep: unknown key"},
        {"kv: {\n\n memory = 5;\n};", "x.conf:3: ", "kv.memory: must be a size in quotes"},
        {"kv: { memory = \"5 pounds\"; };", "x.conf:1: ", "kv.memory: \"5 pounds\""},
        {"kv: { memory = \"4KiB\"; };", "x.conf:1: ", "kv.memory: 4KiB, limits 1MiB..1024TiB"},
        {"engine: { stuck_after = \"0s\"; };",
         "x.conf:1: ", "engine.stuck_after: 0s, limits 1s..24h"},
        {"server: { drain_linger = \"1min\"; };",
         "x.conf:1: ", "server.drain_linger: 1min, limits 0s..10s"},
        {"kv: { memory = \"0%\"; };", "x.conf:1: ", "kv.memory: \"0%\""},
        {"kv: { memory = \"101%\"; };", "x.conf:1: ", "kv.memory: \"101%\""},
        {"kv: { memory = \"90%x\"; };", "x.conf:1: ", "kv.memory: \"90%x\""},
        {"engine: { threads = \"3\"; };", "x.conf:1: ", "engine.threads: must be a whole number"},
        {"engine: { threads = 2.7; };", "x.conf:1: ", "engine.threads: must be a whole number"},
        {"engine: { max_seqs = 0; };", "x.conf:1: ", "engine.max_seqs: 0, limits 1..4096"},
        {"engine: { max_seqs = -5; };", "x.conf:1: ", "engine.max_seqs: -5"},
        {"engine: { max_seqs = 99999999999L; };", "x.conf:1: ", "engine.max_seqs: 99999999999"},
        {"engine: { backend = \"tpu\"; };", "x.conf:1: ", "none of auto, cpu, cuda"},
        {"engine: { pin_threads = 1; };",
         "x.conf:1: ", "engine.pin_threads: must be true or false"},
        {"kv: { target_ratio = 0.0; };", "x.conf:1: ", "kv.target_ratio: 0, limits 0.01..1"},
        {"server: { drain_timeout = \"60\"; };", "x.conf:1: ", "server.drain_timeout: \"60\""},
        {"server: { listen = []; };", "x.conf:1: ", "server.listen: must be a string or a list"},
        {"server: { listen = [1, 2]; };",
         "x.conf:1: ", "server.listen: must be a string or a list"},
        {"server: {\n listen = \n};", "x.conf:3: ", "syntax error"},
        {"server: { insecure = true; insecure = true; };", "x.conf:1: ", ""},
        {"/* 1\n*/ server: {\n queue_max = 4294967297; };",
         "x.conf:3: ", "4294967297: number out of"},
        {"server: { queue_max = 99999999999999999999L; };", "x.conf:1: ", "number out of range"},
        {"server: { queue_max = 0x100000001; };", "x.conf:1: ", "0x100000001: number out of range"},
        {"# 1\n\n  @include \"/dev/zero\"\n", "x.conf:3: ", "@include is not supported"},
    };

    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_config c, untouched;
        struct sc_err err = SC_ERR_INIT;
        sc_config_init(&untouched);
        if (parse(cases[i].text, &c, &err) != SC_EINVAL)
            fail_msg("taken: %s", cases[i].text);
        if (strncmp(err.text, cases[i].where, strlen(cases[i].where)) != 0)
            fail_msg("%s: \"%s\" does not begin with %s", cases[i].text, err.text, cases[i].where);
        assert_text_has(err.text, cases[i].what);
        assert_memory_equal(&c, &untouched, sizeof(c));
    }
}

static void what_looks_like_a_refused_word_is_fine_in_strings_and_comments(void **state)
{
    struct sc_config c;
    struct sc_err err = SC_ERR_INIT;

    (void)state;
    assert_ok(parse("# @include 4294967297\n// 4294967297\n/* @include\n4294967297 */\n"
                    "model: { dir = \"/m \\\" @include 4294967297\"; };\n"
                    "kv: { target_ratio = 2.5e-1; }; server: { queue_max = 100L; };",
                    &c, &err));
    assert_string_equal(c.model_dir, "/m \" @include 4294967297");
    assert_int_equal(c.queue_max, 100);
}

static void sizes_and_durations_are_exact(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    uint64_t v = 7;
    static const char *const bad[] = {"",     "GiB", "-1",    "1 GB",   "0x10",
                                      "1e30", "nan", "1GiBs", "1 GiB ", "99999999TiB"};

    (void)state;
    assert_ok(sc_size_parse("1000000", &v, &err));
    assert_int_equal(v, 1000000);
    assert_ok(sc_size_parse("8GiB", &v, &err));
    assert_int_equal(v, 8ull << 30);
    assert_ok(sc_size_parse("0.5 MiB", &v, &err));
    assert_int_equal(v, 1ull << 19);
    assert_ok(sc_duration_parse("500ms", &v, &err));
    assert_int_equal(v, 500000);
    assert_ok(sc_duration_parse("5min", &v, &err));
    assert_int_equal(v, 300000000);
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++) {
        sc_err_clear(&err);
        if (sc_size_parse(bad[i], &v, &err) != SC_EINVAL)
            fail_msg("taken: \"%s\"", bad[i]);
        assert_int_equal(v, 300000000);
    }
    assert_int_equal(sc_duration_parse("30", &v, &err), SC_EINVAL); /* thirty what? */
}

static void parts_must_fit_together(void **state)
{
    struct sc_config c;
    struct sc_err err = SC_ERR_INIT;

    (void)state;
    sc_config_init(&c);
    assert_int_equal(sc_config_check(&c, &err), SC_EINVAL);
    assert_text_has(err.text, "model.dir");
    assert_ok(sc_config_set(&c, "model.dir", "/m", &err));
    sc_err_clear(&err);
    assert_ok(sc_config_check(&c, &err));

    assert_ok(sc_config_set(&c, "server.listen", "127.0.0.1:1,0.0.0.0:2", &err));
    assert_int_equal(sc_config_check(&c, &err), SC_EPERM);
    assert_text_has(err.text, "server.listen: 0.0.0.0:2");
    sc_config_init(&c);
    sc_err_clear(&err);
    assert_ok(sc_config_set(&c, "model.dir", "/m", &err));
    assert_ok(sc_config_set(&c, "tls.key", "/key.pem", &err));
    assert_int_equal(sc_config_check(&c, &err), SC_ENOTSUP);
    assert_text_has(err.text, "TLS is not available yet");
    sc_err_clear(&err);
    assert_ok(sc_config_set(&c, "tls.key", "", &err));
    assert_ok(sc_config_set(&c, "engine.math", "int8", &err));
    assert_int_equal(sc_config_check(&c, &err), SC_EINVAL);
    assert_text_has(err.text, "needs engine.weight_dtype \"int8\", which is \"bf16\"");
    sc_err_clear(&err);
    assert_ok(sc_config_set(&c, "engine.weight_dtype", "int8", &err));
    assert_ok(sc_config_check(&c, &err));
    assert_int_equal(c.kv_dtype, SC_DTYPE_BF16);
    assert_ok(sc_config_set(&c, "kv.dtype", "int8", &err));
    assert_int_equal(c.kv_dtype, SC_DTYPE_I8);
    assert_ok(sc_config_check(&c, &err));
    assert_ok(sc_config_set(&c, "engine.prefill_tokens", "15", &err));
    assert_int_equal(sc_config_check(&c, &err), SC_EINVAL);
    assert_text_has(err.text, "engine.prefill_tokens: 15, must be 0 or 16..");
    sc_err_clear(&err);
    assert_ok(sc_config_set(&c, "engine.prefill_tokens", "8192", &err));
    assert_int_equal(sc_config_check(&c, &err), SC_EINVAL);
    assert_text_has(err.text, "engine.prefill_tokens + engine.max_seqs");
}

/* Each refuses to start on any machine, so a check that said "settings are fine" would mislead. */
static void what_can_never_start_is_told_by_the_check(void **state)
{
    static const struct {
        const char *sets[3][2];
        const char *what;
    } cases[] = {
        {{{"store.redis", "x"}}, "store.redis: redis \"x\": neither host:port nor unix:/path"},
        {{{"store.redis", "host:99999999"}}, "store.redis: "},
        {{{"store.redis", "unix:"}}, "store.redis: "},
        {{{"engine.reduce_dtype", "bf16"}}, "needs an engine.tensor_parallel of at least 2"},
        {{{"engine.reduce_dtype", "bf16"},
          {"engine.tensor_parallel", "2"},
          {"engine.backend", "cpu"}},
         "engine.reduce_dtype: \"bf16\" needs GPUs"},
        {{{"engine.reduce_dtype", "bf16"},
          {"engine.tensor_parallel", "2"},
          {"engine.determinism", "strict"}},
         "engine.determinism \"strict\""},
        {{{"kv.memory", "50%"}, {"engine.backend", "cpu"}}, "kv.memory: \"50%\" of a GPU"},
        {{{"engine.max_context", "1"}}, "engine.max_context: 1, must be 0 or at least 2"},
    };

    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_config c;
        struct sc_err err = SC_ERR_INIT;
        sc_config_init(&c);
        assert_ok(sc_config_set(&c, "model.dir", "/m", &err));
        for (size_t k = 0; k < 3 && cases[i].sets[k][0] != NULL; k++)
            assert_ok(sc_config_set(&c, cases[i].sets[k][0], cases[i].sets[k][1], &err));
        assert_int_equal(sc_config_check(&c, &err), SC_EINVAL);
        assert_text_has(err.text, cases[i].what);
    }
}

static void sizes_and_durations_are_told_as_they_are_written(void **state)
{
    char text[SC_UNIT_TEXT_BYTES];

    (void)state;
    assert_string_equal(sc_size_text(0, text), "0");
    assert_string_equal(sc_size_text(1000, text), "1000B");
    assert_string_equal(sc_size_text(3 << 19, text), "1536KiB");
    assert_string_equal(sc_size_text(1ull << 33, text), "8GiB");
    assert_string_equal(sc_duration_text(0, text), "0s");
    assert_string_equal(sc_duration_text(1500000, text), "1500ms");
    assert_string_equal(sc_duration_text(90000000, text), "90s");
    assert_string_equal(sc_duration_text(86400000000, text), "24h");
}

static void the_command_line_overrides_the_file(void **state)
{
    static const char *const argv[] = {"semanticached", "--model",     "/m",
                                       "--max-seqs=9",  "--set",       "kv.memory=2MiB",
                                       "--insecure",    "--log-level", "info"};
    struct sc_options o;
    struct sc_config c;
    struct sc_err err = SC_ERR_INIT;

    (void)state;
    assert_ok(sc_options_parse((int)SC_ARRAY_LEN(argv), argv, &o, &err));
    assert_ok(sc_options_load(&o, &c, &err));
    assert_string_equal(c.model_dir, "/m");
    assert_int_equal(c.max_seqs, 9);
    assert_int_equal(c.kv_memory, 2 << 20);
    assert_true(c.insecure);
    assert_int_equal(c.log_level, SC_LOG_INFO);
}

/* Else a reload would say that what the command line holds in place has changed. */
static void what_is_overridden_leaves_nothing_behind(void **state)
{
    struct sc_config a, b;
    struct sc_err err = SC_ERR_INIT;
    struct sc_config *const both[] = {&a, &b};

    (void)state;
    assert_ok(parse("documents: { dir = \"/long/name\"; };\n"
                    "server: { listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]; };",
                    &a, &err));
    assert_ok(parse("documents: { dir = \"/x\"; };", &b, &err));
    for (size_t i = 0; i < 2; i++) {
        assert_ok(sc_config_set(both[i], "documents.dir", "/d", &err));
        assert_ok(sc_config_set(both[i], "server.listen", "127.0.0.1:3", &err));
    }
    assert_memory_equal(&a, &b, sizeof(a));
}

static void a_wrong_command_line_is_refused(void **state)
{
    static const struct {
        const char *argv[4];
        int argc;
        const char *what;
    } cases[] = {
        {{"d", "--modle", "x"}, 3, "--modle: unknown option"},
        {{"d", "--model"}, 2, "--model: a value is missing"},
        {{"d", "model"}, 2, "model: not an option"},
        {{"d", "--insecure=yes"}, 2, "--insecure: takes no value"},
        {{"d", "--set", "kv.memory"}, 3, "write KEY=VALUE"},
        {{"d", "--help=me"}, 2, "--help: takes no value"},
    };

    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_options o;
        struct sc_err err = SC_ERR_INIT;
        assert_int_equal(sc_options_parse(cases[i].argc, cases[i].argv, &o, &err), SC_EINVAL);
        assert_text_has(err.text, cases[i].what);
    }
}

static void every_flag_stands_for_a_key(void **state)
{
    (void)state;
    for (size_t i = 0; i < sc_option_n_flags; i++) {
        bool found = false;
        for (size_t k = 0; k < sc_config_n_keys; k++)
            found = found || strcmp(sc_config_keys[k].path, sc_option_flags[i].key) == 0;
        if (!found)
            fail_msg("--%s: no key %s", sc_option_flags[i].name, sc_option_flags[i].key);
    }
}

static void the_sample_file_has_every_key_with_its_default(void **state)
{
    struct sc_config c, defaults;
    struct sc_err err = SC_ERR_INIT;
    char *text = read_file(SC_SOURCE_DIR "/deploy/semanticached.conf");

    (void)state;
    sc_config_init(&c);
    sc_config_init(&defaults);
    assert_ok(sc_config_load(&c, SC_SOURCE_DIR "/deploy/semanticached.conf", &err));
    (void)snprintf(defaults.model_dir, sizeof(defaults.model_dir), "%s", c.model_dir);
    assert_memory_equal(&c, &defaults, sizeof(c));
    for (size_t i = 0; i < sc_config_n_keys; i++) {
        const char *dot = strchr(sc_config_keys[i].path, '.');
        char group[64], line[64];
        const char *at;
        (void)snprintf(group, sizeof(group), "\n%.*s: {", (int)(dot - sc_config_keys[i].path),
                       sc_config_keys[i].path);
        (void)snprintf(line, sizeof(line), "\n    %s = ", dot + 1);
        at = strstr(text, group);
        if (at == NULL || strstr(at, line) == NULL || strstr(at, line) > strstr(at, "\n};"))
            fail_msg("%s is missing in the sample", sc_config_keys[i].path);
    }
    free(text);
}

/* In a man page a hyphen is written \- where it is to be typed. */
static void roff(char *out, size_t bytes, const char *name)
{
    size_t n = 0;

    for (; *name != '\0' && n + 3 < bytes; name++) {
        if (*name == '-')
            out[n++] = '\\';
        out[n++] = *name;
    }
    out[n] = '\0';
}

static void the_man_page_has_every_key_and_flag(void **state)
{
    char *text = read_file(SC_SOURCE_DIR "/deploy/semanticached.8");

    (void)state;
    for (size_t i = 0; i < sc_config_n_keys; i++) {
        char line[96];
        (void)snprintf(line, sizeof(line), "\n.B %s\n", sc_config_keys[i].path);
        if (strstr(strstr(text, ".SH SETTINGS"), line) == NULL)
            fail_msg("%s is missing in the man page", sc_config_keys[i].path);
    }
    for (size_t i = 0; i < sc_option_n_flags; i++) {
        char name[64], line[96];
        roff(name, sizeof(name), sc_option_flags[i].name);
        (void)snprintf(line, sizeof(line), " \\-\\-%s", name);
        if (strstr(text, line) == NULL)
            fail_msg("--%s is missing in the man page", sc_option_flags[i].name);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_settings_are_taken),
        cmocka_unit_test(memory_can_be_a_share_and_ranks_can_share_a_device),
        cmocka_unit_test(bad_settings_name_file_line_and_key),
        cmocka_unit_test(what_looks_like_a_refused_word_is_fine_in_strings_and_comments),
        cmocka_unit_test(sizes_and_durations_are_exact),
        cmocka_unit_test(parts_must_fit_together),
        cmocka_unit_test(what_can_never_start_is_told_by_the_check),
        cmocka_unit_test(sizes_and_durations_are_told_as_they_are_written),
        cmocka_unit_test(the_command_line_overrides_the_file),
        cmocka_unit_test(what_is_overridden_leaves_nothing_behind),
        cmocka_unit_test(a_wrong_command_line_is_refused),
        cmocka_unit_test(every_flag_stands_for_a_key),
        cmocka_unit_test(the_sample_file_has_every_key_with_its_default),
        cmocka_unit_test(the_man_page_has_every_key_and_flag),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
