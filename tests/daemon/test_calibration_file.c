/* Which calibration an engine gets: the model's own, one that was kept, or one that is measured and
 * kept; on engines of one and two ranks, in a directory that is a store's as well. */
#include "calibration_world.h"

#include <fcntl.h>
#include <time.h>

#include "store/store.h"

/* A model directory like the golden one, which may get a file of its own. */
static void own_model(const struct world *w, char dir[128])
{
    char command[512];
    path_in(w, "model", dir);
    (void)snprintf(command, sizeof(command), "mkdir -p %s && cp %s/tests/golden/llama31/* %s", dir,
                   SC_SOURCE_DIR, dir);
    assert_int_equal(system(command), 0);
}

static void a_measured_calibration_is_kept_and_read_with_any_number_of_ranks(void **state)
{
    struct world *w = world_of(state);
    struct start first = golden(w, 2);
    struct stat info;
    assert_text_has(first.log, "uses=\"thresholds measured on a built-in text\" kept_in=");
    assert_text_has(first.log, w->kept);
    assert_int_equal(lines(first.log), 1);
    assert_int_equal(stat(w->kept, &info), 0);
    nothing_else_is_in(w);
    struct start again = golden(w, 2);
    assert_text_has(again.log, "built-in text before\" kept_in=");
    assert_int_equal(lines(again.log), 1);
    assert_memory_equal(&again.hash, &first.hash, sizeof(first.hash));
    /* On this backend all ranks might measure the same: not this one. */
    struct sc_hash changed = change(w, w->kept, GOLDEN, 2.0f);
    assert_memory_not_equal(&changed, &first.hash, sizeof(changed));
    for (uint32_t n_ranks = 1; n_ranks <= 4; n_ranks *= 2) {
        struct start r = golden(w, n_ranks);
        assert_memory_equal(&r.hash, &changed, sizeof(changed));
    }
}

static void int8_pages(struct sc_engine_opts *opts)
{
    opts->kv_dtype = SC_DTYPE_I8;
    opts->max_step_tokens = 64;
}

static void short_context(struct sc_engine_opts *opts)
{
    opts->max_context = 300;
}

/* Types are in the recipe id by themselves; a shorter sample is another sample. */
static void types_share_a_calibration_and_shorter_samples_do_not(void **state)
{
    struct world *w = world_of(state);
    (void)golden(w, 1);
    struct sc_hash changed = change(w, w->kept, GOLDEN, 2.0f);
    struct start r = start(w, GOLDEN, 1, w->dir, int8_pages);
    must(r.status, &r.err);
    assert_memory_equal(&r.hash, &changed, sizeof(changed));
    r = start(w, GOLDEN, 1, w->dir, short_context);
    must(r.status, &r.err);
    assert_memory_not_equal(&r.hash, &changed, sizeof(changed));
    assert_text_has(r.log, "measured on a built-in text\"");
    r = golden(w, 1); /* which did not take its place */
    assert_memory_equal(&r.hash, &changed, sizeof(changed));
}

static void a_damaged_or_foreign_file_is_refused_and_measured_anew(void **state)
{
    static const struct {
        const char *from, *to, *says;
    } damages[] = {
        {NULL, NULL, ": "},
        {"\"version\": 2", "\"version\": 3", "version: 3, must be 2"},
        {"\"model\": \"", "\"model\": \"xxxx", "model: made for xxxx"},
        {"0.800000012", "0.810000012", "the file is damaged"},
        {"\"n_layers\": ", "\"n_layers\": 9", "n_layers"},
    };
    struct world *w = world_of(state);
    struct start first = golden(w, 1);
    for (size_t i = 0; i < SC_ARRAY_LEN(damages); i++) {
        edit(w->kept, damages[i].from, damages[i].to);
        struct start r = golden(w, 1);
        assert_text_has(r.log, "calibration refused");
        assert_text_has(r.log, w->kept);
        assert_text_has(r.log, damages[i].says);
        assert_text_has(r.log, "does=\"measure anew\"");
        assert_int_equal(lines(r.log), 2);
        assert_memory_equal(&r.hash, &first.hash, sizeof(first.hash));
        r = golden(w, 1); /* a good one took its place */
        assert_text_has(r.log, "built-in text before\"");
        assert_int_equal(lines(r.log), 1);
    }
}

static void leave(const char *path, uint32_t age_s)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    (void)fclose(f);
    struct timespec times[2] = {{.tv_sec = time(NULL) - age_s}};
    times[1] = times[0];
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* What a crash left goes at the next start, whether the file is there or not; what may still be
 * written to, and what is not ours, stays. */
static void what_a_crash_left_beside_the_file_goes_when_it_is_old(void **state)
{
    static const struct {
        const char *suffix;
        uint32_t age_s;
        bool goes;
    } files[] = {
        {".0123456789abcdef.tmp", 4000, true},   {".fedcba9876543210.tmp", 86400, true},
        {".0000000000000000.tmp", 3000, false},  {".0123456789ABCDEF.tmp", 4000, false},
        {".0123456789abcde.tmp", 4000, false},   {".0123456789abcdef0.tmp", 4000, false},
        {".0123456789abcdef.tmp~", 4000, false}, {".tmp", 4000, false},
        {"x0123456789abcdef.tmp", 4000, false},
    };
    struct world *w = world_of(state);
    char path[600], foreign[128];
    (void)golden(w, 1);
    path_in(w, "calibration-other.json.0123456789abcdef.tmp", foreign);
    leave(foreign, 4000);
    for (int there = 0; there < 2; there++) {
        for (size_t i = 0; i < SC_ARRAY_LEN(files); i++) {
            (void)snprintf(path, sizeof(path), "%s%s", w->kept, files[i].suffix);
            leave(path, files[i].age_s);
        }
        if (there == 0)
            assert_int_equal(unlink(w->kept), 0);
        (void)golden(w, 1);
        for (size_t i = 0; i < SC_ARRAY_LEN(files); i++) {
            (void)snprintf(path, sizeof(path), "%s%s", w->kept, files[i].suffix);
            if ((access(path, F_OK) != 0) != files[i].goes)
                fail_msg("%s %s", path, files[i].goes ? "stayed" : "is gone");
        }
    }
    assert_int_equal(access(foreign, F_OK), 0);
}

static void a_calibration_that_cannot_be_written_is_one_warning(void **state)
{
    struct world *w = world_of(state);
    struct start first = golden(w, 1);
    /* What root cannot write either: a directory that is gone, and one in the file's place. */
    struct start r = start(w, GOLDEN, 1, "/proc/self/no-such-directory", NULL);
    must(r.status, &r.err);
    assert_text_has(r.log, "calibration not kept");
    assert_text_has(r.log, "does=\"measure at every start\"");
    assert_int_equal(lines(r.log), 2);
    assert_memory_equal(&r.hash, &first.hash, sizeof(first.hash));
    assert_int_equal(unlink(w->kept), 0);
    assert_int_equal(mkdir(w->kept, 0700), 0);
    r = golden(w, 1);
    assert_text_has(r.log, "not a regular file");
    assert_text_has(r.log, "calibration not kept");
    nothing_else_is_in(w);
    if (geteuid() == 0)
        return;
    assert_int_equal(rmdir(w->kept), 0);
    char sub[128];
    path_in(w, "read-only", sub);
    assert_int_equal(mkdir(sub, 0500), 0);
    r = start(w, GOLDEN, 1, sub, NULL);
    must(r.status, &r.err);
    assert_text_has(r.log, "Permission denied");
    assert_int_equal(lines(r.log), 2);
}

static void without_a_directory_nothing_is_kept(void **state)
{
    struct world *w = world_of(state);
    struct start r = start(w, GOLDEN, 1, NULL, NULL);
    must(r.status, &r.err);
    assert_true(r.builtin);
    assert_text_has(r.log, "no calibration file");
    assert_null(strstr(r.log, "kept"));
    assert_int_equal(access(w->kept, F_OK), -1);
}

static void the_models_own_file_wins_and_a_bad_one_is_an_error(void **state)
{
    struct world *w = world_of(state);
    char model[128], own[256];
    own_model(w, model);
    (void)snprintf(own, sizeof(own), "%s/" SC_CALIBRATION_FILE, model);
    struct start first = start(w, model, 1, w->dir, NULL);
    must(first.status, &first.err);
    struct sc_hash changed = change(w, own, model, 2.0f);
    struct start r = start(w, model, 2, w->dir, NULL);
    must(r.status, &r.err);
    assert_false(r.builtin);
    assert_memory_equal(&r.hash, &changed, sizeof(changed));
    assert_text_has(r.log, "file=");
    assert_text_has(r.log, own);
    assert_int_equal(lines(r.log), 1);
    edit(own, NULL, NULL);
    r = start(w, model, 1, w->dir, NULL);
    assert_int_equal(r.status, SC_EFORMAT);
    assert_text_has(r.err.text, own);
    assert_int_equal(lines(r.log), 0);
}

/* Not counted, not scanned, not removed, however small the quota. */
static void the_store_leaves_the_file_alone(void **state)
{
    struct world *w = world_of(state);
    struct sc_store_opts opts = {.dir = w->dir, .dir_bytes = 4096, .shared_dir = w->dir};
    struct sc_err err = SC_ERR_INIT;
    struct sc_store_stats stats;
    struct sc_store *store;
    struct start first = golden(w, 1);
    for (int i = 0; i < 2; i++) {
        assert_ok(sc_store_open(&opts, &store, &err));
        sc_store_get_stats(store, &stats);
        assert_int_equal(stats.dir_bytes, 0);
        assert_int_equal(stats.dir_blobs, 0);
        sc_store_close(store);
    }
    struct start r = golden(w, 2);
    assert_text_has(r.log, "built-in text before\"");
    assert_memory_equal(&r.hash, &first.hash, sizeof(first.hash));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_measured_calibration_is_kept_and_read_with_any_number_of_ranks),
        TEST(types_share_a_calibration_and_shorter_samples_do_not),
        TEST(a_damaged_or_foreign_file_is_refused_and_measured_anew),
        TEST(what_a_crash_left_beside_the_file_goes_when_it_is_old),
        TEST(a_calibration_that_cannot_be_written_is_one_warning),
        TEST(without_a_directory_nothing_is_kept),
        TEST(the_models_own_file_wins_and_a_bad_one_is_an_error),
        TEST(the_store_leaves_the_file_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
