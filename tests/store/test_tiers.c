/* Memory, the directory and the shared directory: what comes back, what goes first, what is
 * refused, and that a failing disk is a line and not an end. */
#include "tests/store/rig.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#define KIB  ((size_t)1 << 10)
#define MANY ((uint64_t)1 << 30)

static void memory_answers_within_the_call_and_drops_the_least_recently_used(void **state)
{
    struct rig *rig = *state;
    struct sc_store *s = rig_open(rig, (struct sc_store_opts){.memory_bytes = 4 * 300 * KIB});

    for (uint32_t i = 0; i < 3; i++)
        rig_put(s, i, 300 * KIB);
    assert_true(rig_hit(rig, s, 0, 300 * KIB)); /* now 1 is the oldest */
    rig_put(s, 3, 300 * KIB);
    assert_false(rig_has(s, 1));
    assert_true(rig_has(s, 0) && rig_has(s, 2) && rig_has(s, 3));
    assert_false(rig_hit(rig, s, 1, 300 * KIB));
    struct sc_store_stats stats = rig_stats(s);
    assert_true(stats.memory_bytes <= 4 * 300 * KIB && stats.memory_blobs == 3);
    assert_true(stats.evicted == 1 && stats.hits == 1 && stats.misses == 1 && stats.puts == 4);
    rig_put(s, 4, 1300 * KIB); /* larger than the tier: not kept, and nothing goes for it */
    assert_false(rig_has(s, 4));
    assert_true(rig_has(s, 0));
    sc_store_close(s);
}

static void directory_serves_after_a_restart_and_promotes_to_memory(void **state)
{
    struct rig *rig = *state;
    struct sc_store_opts opts = {
        .memory_bytes = MANY, .dir = rig_path(rig, "a/b"), .dir_bytes = MANY};
    static const size_t sizes[] = {0, 1, 4096, 100 * KIB + 7};
    struct sc_store *s = rig_open(rig, opts);

    for (uint32_t i = 0; i < SC_ARRAY_LEN(sizes); i++)
        rig_put(s, i, sizes[i]);
    sc_store_close(s); /* writes what was put */
    s = rig_open(rig, opts);
    assert_int_equal(rig_stats(s).dir_blobs, SC_ARRAY_LEN(sizes));
    for (uint32_t i = 0; i < SC_ARRAY_LEN(sizes); i++) {
        assert_true(rig_has(s, i));
        assert_true(rig_hit(rig, s, i, sizes[i]));
    }
    assert_int_equal(rig_stats(s).memory_blobs, SC_ARRAY_LEN(sizes));
    assert_false(rig_hit(rig, s, 99, 0));
    assert_int_equal(rig_lines(rig), 0);
    sc_store_close(s);
}

static void shared_directory_serves_others_and_promotes_to_the_own_directory(void **state)
{
    struct rig *rig = *state;
    struct sc_store *a = rig_open(rig, (struct sc_store_opts){.shared_dir = rig_path(rig, "s")});
    struct sc_store *b = rig_open(rig, (struct sc_store_opts){.shared_dir = rig_path(rig, "s"),
                                                              .dir = rig_path(rig, "b"),
                                                              .dir_bytes = MANY});

    assert_true(sc_store_is_remote(a) && sc_store_is_remote(b));
    rig_put(a, 1, 5000);
    sc_store_flush(a);
    assert_false(rig_has(b, 1)); /* not of this machine */
    assert_true(rig_hit(rig, b, 1, 5000));
    sc_store_flush(b);
    assert_true(rig_has(b, 1));
    assert_int_equal(rig_stats(b).dir_blobs, 1);
    sc_store_close(a);
    sc_store_close(b);
}

static void damaged_blob_of_the_shared_directory_is_written_anew_by_the_next_put(void **state)
{
    struct rig *rig = *state;
    struct sc_store *s = rig_open(rig, (struct sc_store_opts){.shared_dir = rig_path(rig, "s")});
    char path[256];

    rig_put(s, 1, 5000);
    sc_store_flush(s);
    rig_path_of(rig, "s", 1, path);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0 && pwrite(fd, "damage", 6, 3000) == 6 && close(fd) == 0);
    assert_false(rig_hit(rig, s, 1, 5000));
    assert_int_equal(access(path, F_OK), 0); /* others' too: not removed */
    assert_int_equal(rig_lines(rig), 1);
    rig_put(s, 1, 5000);
    sc_store_flush(s);
    assert_true(rig_hit(rig, s, 1, 5000));
    sc_store_close(s);
}

static void quota_removes_the_least_recently_used_files_also_across_a_restart(void **state)
{
    struct rig *rig = *state;
    struct sc_store_opts opts = {.dir = rig_path(rig, "d"), .dir_bytes = 4 * 12 * KIB};
    struct sc_store *s = rig_open(rig, opts);

    for (uint32_t i = 0; i < 4; i++)
        rig_put(s, i, 10 * KIB);
    sc_store_flush(s);
    assert_int_equal(rig_stats(s).dir_blobs, 4);
    assert_true(rig_hit(rig, s, 0, 10 * KIB));
    sc_store_close(s);
    s = rig_open(rig, opts);
    rig_put(s, 4, 10 * KIB);
    sc_store_flush(s);
    assert_false(rig_has(s, 1));
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(rig_has(s, i), i != 1);
    assert_true(rig_stats(s).dir_bytes <= opts.dir_bytes);
    assert_int_equal(rig_stats(s).evicted, 1);
    rig_put(s, 5, 100 * KIB); /* larger than the quota */
    sc_store_flush(s);
    assert_false(rig_has(s, 5));
    assert_int_equal(rig_stats(s).dir_blobs, 4);
    sc_store_close(s);
    opts.dir_bytes = 12 * KIB; /* a smaller quota holds from the start */
    s = rig_open(rig, opts);
    assert_int_equal(rig_stats(s).dir_blobs, 1);
    assert_true(rig_has(s, 4));
    sc_store_close(s);
}

static void hits_in_memory_keep_the_file_from_eviction(void **state)
{
    struct rig *rig = *state;
    struct sc_store_opts opts = {
        .memory_bytes = MANY, .dir = rig_path(rig, "d"), .dir_bytes = 2 * 12 * KIB};
    struct sc_store *s = rig_open(rig, opts);

    rig_put(s, 0, 10 * KIB);
    rig_put(s, 1, 10 * KIB);
    sc_store_flush(s);
    assert_true(rig_hit(rig, s, 0, 10 * KIB));
    sc_store_close(s);
    opts.memory_bytes = 0;
    s = rig_open(rig, opts);
    rig_put(s, 2, 10 * KIB);
    sc_store_flush(s);
    assert_true(rig_has(s, 0) && !rig_has(s, 1));
    sc_store_close(s);
}

static void removed_blob_is_a_miss_in_every_tier(void **state)
{
    struct rig *rig = *state;
    struct sc_store_opts opts = {.memory_bytes = MANY,
                                 .dir = rig_path(rig, "d"),
                                 .dir_bytes = MANY,
                                 .shared_dir = rig_path(rig, "s")};
    struct sc_store *s = rig_open(rig, opts);
    struct sc_hash key = rig_key(1);

    rig_put(s, 1, 100);
    rig_put(s, 2, 100);
    sc_store_remove(s, &key); /* also while it waits to be written */
    assert_false(rig_has(s, 1));
    assert_false(rig_hit(rig, s, 1, 100));
    sc_store_flush(s);
    assert_false(rig_hit(rig, s, 1, 100));
    assert_true(rig_hit(rig, s, 2, 100));
    sc_store_close(s);
    s = rig_open(rig, opts);
    assert_false(rig_has(s, 1));
    assert_false(rig_hit(rig, s, 1, 100));
    sc_store_close(s);
}

static void second_store_on_a_directory_is_refused(void **state)
{
    struct rig *rig = *state;
    struct sc_store_opts opts = {.dir = rig_path(rig, "d"), .dir_bytes = MANY};
    struct sc_store *s = rig_open(rig, opts), *second = NULL;
    struct sc_err err = SC_ERR_INIT;

    assert_int_equal(sc_store_open(&opts, &second, &err), SC_EEXIST);
    assert_null(second);
    assert_non_null(strstr(err.text, opts.dir));
    assert_null(strstr(err.text, ": :"));
    sc_store_close(s);
    sc_store_close(rig_open(rig, opts));
}

static void blob_of_another_label_is_a_miss_until_it_is_put_anew(void **state)
{
    struct rig *rig = *state;
    struct sc_store_opts opts = {.dir = rig_path(rig, "d"), .dir_bytes = MANY};
    struct sc_store *s = rig_open(rig, opts);
    char path[256];

    rig_put_as(s, 1, 100, 0);
    sc_store_flush(s);
    assert_false(rig_hit_as(rig, s, 1, 100, 7));
    assert_int_equal(rig_lines(rig), 1);
    assert_non_null(strstr(rig->last, "another model"));
    rig_path_of(rig, "d", 1, path);
    assert_int_equal(access(path, F_OK), 0); /* whole, so not removed */
    assert_false(rig_has(s, 1));
    rig_put_as(s, 1, 100, 7);
    sc_store_flush(s);
    assert_true(rig_hit_as(rig, s, 1, 100, 7));
    sc_store_close(s);
    s = rig_open(rig, (struct sc_store_opts){.memory_bytes = MANY});
    rig_put_as(s, 1, 100, 0);
    assert_false(rig_hit_as(rig, s, 1, 100, 7));
    assert_true(rig_hit_as(rig, s, 1, 100, 0));
    sc_store_close(s);
}

static void file_under_another_key_is_a_miss(void **state)
{
    struct rig *rig = *state;
    struct sc_store_opts opts = {.dir = rig_path(rig, "d"), .dir_bytes = MANY};
    struct sc_store *s = rig_open(rig, opts);
    char from[256], to[256];

    rig_put(s, 1, 100);
    rig_put(s, 2, 100);
    sc_store_close(s);
    rig_path_of(rig, "d", 1, from);
    rig_path_of(rig, "d", 2, to);
    assert_int_equal(rename(from, to), 0);
    s = rig_open(rig, opts);
    assert_false(rig_hit(rig, s, 2, 100));
    assert_non_null(strstr(rig->last, "another key"));
    sc_store_close(s);
}

/* Writes n bytes as key 1's file, opens a store over it and asks. True: a hit. */
static bool hit_with_file(struct rig *rig, const uint8_t *bytes, size_t n, size_t payload)
{
    struct sc_store_opts opts = {.dir = rig_path(rig, "d"), .dir_bytes = MANY};
    char path[256];

    rig_path_of(rig, "d", 1, path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    struct sc_store *s = rig_open(rig, opts);
    rig->n_lines = 0;
    bool hit = rig_hit(rig, s, 1, payload);
    assert_int_equal(rig_lines(rig), hit ? 0 : 1);
    assert_false(rig_hit(rig, s, 1, payload) && !hit); /* and no second line */
    assert_int_equal(rig_lines(rig), hit ? 0 : 1);
    sc_store_close(s);
    return hit;
}

static size_t good_file(struct rig *rig, size_t payload, uint8_t *ret_bytes, size_t cap)
{
    struct sc_store *s =
        rig_open(rig, (struct sc_store_opts){.dir = rig_path(rig, "d"), .dir_bytes = MANY});
    char path[256];

    rig_put(s, 1, payload);
    sc_store_close(s);
    rig_path_of(rig, "d", 1, path);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(ret_bytes, 1, cap, f);
    assert_int_equal(fclose(f), 0);
    assert_true(n > payload && n < cap);
    return n;
}

static void every_damaged_byte_is_a_miss_and_the_file_is_removed(void **state)
{
    struct rig *rig = *state;
    uint8_t good[2048];
    size_t n = good_file(rig, 1000, good, sizeof(good));
    char path[256];

    assert_true(hit_with_file(rig, good, n, 1000));
    rig_path_of(rig, "d", 1, path);
    for (size_t at = 0; at < n; at += at < 192 ? 1 : 37) {
        good[at] ^= (uint8_t)(1u << (at % 8));
        assert_false(hit_with_file(rig, good, n, 1000));
        good[at] ^= (uint8_t)(1u << (at % 8));
        if (at < 8 || at >= 12) /* in the version: another program's file, which stays */
            assert_int_equal(access(path, F_OK), -1);
    }
    assert_true(hit_with_file(rig, good, n, 1000));
}

static void every_truncation_is_a_miss_and_so_is_a_longer_file(void **state)
{
    struct rig *rig = *state;
    uint8_t good[512];
    size_t n = good_file(rig, 61, good, sizeof(good));

    for (size_t len = 0; len < n; len++)
        assert_false(hit_with_file(rig, good, len, 61));
    good[n] = 0;
    assert_false(hit_with_file(rig, good, n + 1, 61));
    assert_true(hit_with_file(rig, good, n, 61));
}

static void file_of_a_later_version_is_a_miss_and_stays(void **state)
{
    struct rig *rig = *state;
    uint8_t good[512];
    size_t n = good_file(rig, 61, good, sizeof(good));
    char path[256];

    good[8]++;
    assert_false(hit_with_file(rig, good, n, 61));
    assert_non_null(strstr(rig->last, "version 2"));
    rig_path_of(rig, "d", 1, path);
    assert_int_equal(access(path, F_OK), 0);
}

static void bytes_that_are_no_blob_are_left_alone(void **state)
{
    struct rig *rig = *state;
    struct sc_store_opts opts = {.dir = rig_path(rig, "d"), .dir_bytes = MANY};
    struct sc_store *s = rig_open(rig, opts);

    rig_put(s, 1, 100);
    sc_store_close(s);
    assert_int_equal(mkdir(rig_path(rig, "d/00"), 0700) == 0 || true, true);
    FILE *f = fopen(rig_path(rig, "d/00/notes.txt"), "w");
    assert_non_null(f);
    fclose(f);
    f = fopen(rig_path(rig, "d/tmp/left-over"), "w");
    assert_non_null(f);
    fclose(f);
    s = rig_open(rig, opts);
    assert_int_equal(rig_stats(s).dir_blobs, 1);
    assert_int_equal(access(rig_path(rig, "d/tmp/left-over"), F_OK), -1);
    assert_int_equal(access(rig_path(rig, "d/00/notes.txt"), F_OK), 0);
    sc_store_close(s);
}

/* Another machine may be at it: only its age tells what nobody writes any more. */
static void only_old_left_overs_of_a_shared_directory_go(void **state)
{
    static const char *const names[] = {"s/tmp/old", "s/tmp/young"};
    struct rig *rig = *state;
    struct sc_store_opts opts = {.shared_dir = rig_path(rig, "s")};

    sc_store_close(rig_open(rig, opts));
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(rig_path(rig, names[i]), "w");
        assert_non_null(f);
        fclose(f);
        struct timespec times[2] = {{.tv_sec = time(NULL) - (i == 0 ? 3700 : 3500)}};
        times[1] = times[0];
        assert_int_equal(utimensat(AT_FDCWD, rig_path(rig, names[i]), times, 0), 0);
    }
    opts.shared_dir = rig_path(rig, "s");
    sc_store_close(rig_open(rig, opts));
    assert_int_equal(access(rig_path(rig, names[0]), F_OK), -1);
    assert_int_equal(access(rig_path(rig, names[1]), F_OK), 0);
}

static void writes_that_find_no_space_leave_the_store_alive(void **state)
{
    struct rig *rig = *state;
    struct sc_store *s = rig_open(
        rig,
        (struct sc_store_opts){.memory_bytes = MANY, .dir = rig_path(rig, "d"), .dir_bytes = MANY});
    struct rlimit before, small = {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};

    rig_put(s, 1, 100);
    sc_store_flush(s);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (uint32_t i = 2; i < 6; i++)
        rig_put(s, i, 100 * KIB);
    sc_store_flush(s);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(rig_stats(s).errors, 4);
    assert_int_equal(rig_lines(rig), 1); /* one line for all of them */
    assert_string_equal(rig->event, "store tier failed");
    assert_int_equal(rig_stats(s).dir_blobs, 1);
    for (uint32_t i = 2; i < 6; i++)
        assert_true(rig_hit(rig, s, i, 100 * KIB)); /* memory has them */
    assert_true(rig_hit(rig, s, 1, 100));
    rig_put(s, 9, 100 * KIB);
    sc_store_flush(s);
    assert_int_equal(rig_stats(s).dir_blobs, 2);
    assert_string_equal(rig->event, "store tier works again");
    sc_store_close(s);
}

static void directory_that_vanishes_leaves_the_store_alive(void **state)
{
    struct rig *rig = *state;
    struct sc_store *s =
        rig_open(rig, (struct sc_store_opts){.dir = rig_path(rig, "d"), .dir_bytes = MANY});

    rig_put(s, 1, 100);
    sc_store_flush(s);
    (void)nftw(rig_path(rig, "d"), rig_rm, 16, FTW_DEPTH | FTW_PHYS);
    assert_false(rig_hit(rig, s, 1, 100));
    rig_put(s, 2, 100);
    sc_store_flush(s);
    assert_int_equal(rig_stats(s).errors, 1);
    assert_false(rig_has(s, 1) || rig_has(s, 2));
    sc_store_close(s);
}

static void options_that_cannot_work_are_refused_at_open(void **state)
{
    struct rig *rig = *state;
    struct sc_store *s = NULL;
    const char *file = rig_path(rig, "file");
    FILE *f = fopen(file, "w");
    const struct {
        struct sc_store_opts opts;
        enum sc_status st;
    } cases[] = {
        {{.dir = file, .dir_bytes = MANY}, SC_EIO},
        {{.shared_dir = file}, SC_EIO},
        {{.dir = "", .dir_bytes = MANY}, SC_EINVAL},
        {{.dir = file, .dir_bytes = 0}, SC_EINVAL},
        {{.redis = "localhost", .io_timeout_ms = 1}, SC_EINVAL},
        {{.redis = "localhost:0", .io_timeout_ms = 1}, SC_EINVAL},
        {{.redis = "localhost:65536", .io_timeout_ms = 1}, SC_EINVAL},
        {{.redis = ":6379", .io_timeout_ms = 1}, SC_EINVAL},
        {{.redis = "unix:relative", .io_timeout_ms = 1}, SC_EINVAL},
        {{.redis = "localhost:6379", .io_timeout_ms = 0}, SC_EINVAL},
    };

    assert_non_null(f);
    fclose(f);
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_err err = SC_ERR_INIT;
        assert_int_equal(sc_store_open(&cases[i].opts, &s, &err), cases[i].st);
        assert_true(s == NULL && err.text[0] != '\0');
    }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        CASE(memory_answers_within_the_call_and_drops_the_least_recently_used),
        CASE(directory_serves_after_a_restart_and_promotes_to_memory),
        CASE(shared_directory_serves_others_and_promotes_to_the_own_directory),
        CASE(damaged_blob_of_the_shared_directory_is_written_anew_by_the_next_put),
        CASE(quota_removes_the_least_recently_used_files_also_across_a_restart),
        CASE(hits_in_memory_keep_the_file_from_eviction),
        CASE(removed_blob_is_a_miss_in_every_tier),
        CASE(second_store_on_a_directory_is_refused),
        CASE(blob_of_another_label_is_a_miss_until_it_is_put_anew),
        CASE(file_under_another_key_is_a_miss),
        CASE(every_damaged_byte_is_a_miss_and_the_file_is_removed),
        CASE(every_truncation_is_a_miss_and_so_is_a_longer_file),
        CASE(file_of_a_later_version_is_a_miss_and_stays),
        CASE(bytes_that_are_no_blob_are_left_alone),
        CASE(only_old_left_overs_of_a_shared_directory_go),
        CASE(writes_that_find_no_space_leave_the_store_alive),
        CASE(directory_that_vanishes_leaves_the_store_alive),
        CASE(options_that_cannot_work_are_refused_at_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
