/* A daemon killed at any moment while it writes, replaces and evicts: what the next one finds is
 * right or not there, within the quota, and nothing half written stays. */
#include "tests/store/rig.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

#define N_KILLS   200
#define N_KEYS    24u
#define BYTES_MAX 40000u
#define QUOTA     ((uint64_t)8 * 40960) /* about half of all keys: it evicts */
#define DELAY_US  15000

static size_t bytes_of(uint32_t i)
{
    return 100 + i * (BYTES_MAX - 100) / N_KEYS;
}

static void put_for_ever(const struct sc_store_opts *opts, uint64_t seed)
{
    struct sc_store_label label = rig_label(0);
    struct sc_store *s = NULL;

    if (sc_store_open(opts, &s, NULL) != SC_OK)
        _exit(1);
    for (uint64_t n = 0;; n++) {
        uint32_t i = (uint32_t)(sc_mix64(seed + n) % N_KEYS);
        struct sc_hash key = rig_key(i);
        struct sc_blob *blob = rig_blob(i, bytes_of(i));
        if (n % 3 == 0)
            sc_store_remove(s, &key); /* so that the put is a write, not a refresh */
        (void)!sc_store_put(s, &key, &label, blob, NULL);
        sc_blob_unref(blob);
        if (n % 4 == 0)
            sc_store_flush(s);
    }
}

static void assert_empty(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *e;

    assert_non_null(dir);
    while ((e = readdir(dir)) != NULL)
        if (e->d_name[0] != '.')
            fail_msg("%s: %s was left", path, e->d_name);
    closedir(dir);
}

static void killed_at_any_moment_leaves_right_bytes_or_a_miss(void **state)
{
    struct rig *rig = *state;
    char dir[256], tmp[256];
    struct sc_store_opts opts = {.dir = dir, .dir_bytes = QUOTA};
    unsigned n_hits = 0;

    strcpy(dir, rig_path(rig, "d"));
    strcpy(tmp, rig_path(rig, "d/tmp"));

    for (uint64_t round = 0; round < N_KILLS; round++) {
        pid_t pid = fork();
        int status;
        assert_true(pid >= 0);
        if (pid == 0)
            put_for_ever(&opts, round << 32);
        usleep((useconds_t)(sc_mix64(round) % DELAY_US));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

        struct sc_store *s = rig_open(rig, opts);
        assert_empty(tmp);
        assert_true(rig_stats(s).dir_bytes <= QUOTA);
        for (uint32_t i = 0; i < N_KEYS; i++) {
            bool has = rig_has(s, i);
            bool hit = rig_hit(rig, s, i, bytes_of(i));
            assert_true(has == hit);
            n_hits += hit;
        }
        assert_int_equal(rig_stats(s).damaged, 0); /* a file that has its name is whole */
        sc_store_close(s);
    }
    assert_true(n_hits > N_KILLS); /* it did write */
    assert_int_equal(rig_lines(rig), 0);
    print_message("%u blobs came back over %d kills\n", n_hits, N_KILLS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(killed_at_any_moment_leaves_right_bytes_or_a_miss,
                                        rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
