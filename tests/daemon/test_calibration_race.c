/* Daemons that measure a calibration at the same time, in one directory: all use the one that was
 * written first. */
#include "calibration_world.h"

#include <errno.h>
#include <pthread.h>

#include "shard/calibrate.h"

/* A calibration that another daemon moves into its place (NULL: none), before ours is measured or
 * while it is written: the linker puts these in the places of what measures and what syncs. */
static const char *rival_writes, *rival_place;
static bool rival_is_late;

int __real_rename(const char *from, const char *to);

static void let_rival_write(bool late)
{
    if (rival_writes == NULL || rival_is_late != late)
        return;
    assert_int_equal(__real_rename(rival_writes, rival_place), 0);
    rival_writes = NULL;
}

/* Two daemons, as threads, which have both measured before one of them writes. */
static pthread_barrier_t both_measured;
static _Thread_local uint32_t daemon_of_two; /* 1, 2; 0: there is but one */

enum sc_status __real_sc_calibrate_builtin(struct sc_engine *engine, const struct sc_model *model,
                                           struct sc_err *err);
enum sc_status __wrap_sc_calibrate_builtin(struct sc_engine *engine, const struct sc_model *model,
                                           struct sc_err *err);
enum sc_status __wrap_sc_calibrate_builtin(struct sc_engine *engine, const struct sc_model *model,
                                           struct sc_err *err)
{
    let_rival_write(false);
    enum sc_status st = __real_sc_calibrate_builtin(engine, model, err);
    if (st != SC_OK || daemon_of_two == 0)
        return st;
    struct sc_calibration c; /* as with another number of ranks: the last bits differ */
    must(sc_calibration_copy(&c, sc_engine_calibration(engine), err), err);
    for (uint32_t i = 0; i < daemon_of_two; i++)
        c.key_var[0] = nextafterf(c.key_var[0], INFINITY);
    must(sc_engine_set_calibration(engine, &c, err), err);
    sc_calibration_fini(&c);
    (void)pthread_barrier_wait(&both_measured);
    return SC_OK;
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    let_rival_write(true);
    return __real_fsync(fd);
}

/* The same after a damaged file was read, and after it (or what is there then) got another name. */
static const char *after_read, *after_rename;

enum sc_status __real_sc_calibrate_from_file(struct sc_engine *engine, const struct sc_model *model,
                                             const char *path, struct sc_err *err);
enum sc_status __wrap_sc_calibrate_from_file(struct sc_engine *engine, const struct sc_model *model,
                                             const char *path, struct sc_err *err);
enum sc_status __wrap_sc_calibrate_from_file(struct sc_engine *engine, const struct sc_model *model,
                                             const char *path, struct sc_err *err)
{
    const enum sc_status st = __real_sc_calibrate_from_file(engine, model, path, err);
    if (st == SC_EFORMAT && after_read != NULL) {
        assert_int_equal(__real_rename(after_read, path), 0);
        after_read = NULL;
    }
    return st;
}

int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to)
{
    const int rc = __real_rename(from, to);
    if (rc == 0 && after_rename != NULL) {
        assert_int_equal(__real_rename(after_rename, from), 0);
        after_rename = NULL;
    }
    return rc;
}

static int link_errno; /* what link fails with; 0: it does not */

int __real_link(const char *from, const char *to);
int __wrap_link(const char *from, const char *to);
int __wrap_link(const char *from, const char *to)
{
    if (link_errno == 0)
        return __real_link(from, to);
    errno = link_errno;
    return -1;
}

static void of_two_that_measure_at_once_both_use_what_was_written_first(void **state)
{
    struct world *w = world_of(state);
    char rival[128];
    path_in(w, "rival", rival);
    for (int late = 0; late < 2; late++) {
        (void)golden(w, 1);
        struct sc_hash changed = change(w, rival, GOLDEN, 2.0f);
        assert_int_equal(unlink(w->kept), 0);
        rival_place = w->kept;
        rival_is_late = late != 0;
        rival_writes = rival;
        struct start r = golden(w, 1);
        assert_null(rival_writes);
        assert_text_has(r.log, "thresholds that another daemon measured");
        assert_memory_equal(&r.hash, &changed, sizeof(changed));
        nothing_else_is_in(w);
        r = golden(w, 1);
        assert_memory_equal(&r.hash, &changed, sizeof(changed));
        assert_int_equal(unlink(w->kept), 0);
    }
}

/* A daemon reads a damaged file and stops; when it goes on a rival has written a good one. Or two
 * have, one before and one after the daemon took what it believes is damaged: the last one stays.
 */
static void a_damaged_file_is_removed_and_not_what_a_rival_wrote_since(void **state)
{
    struct world *w = world_of(state);
    char rival[2][128];
    path_in(w, "rival", rival[0]);
    path_in(w, "other", rival[1]);
    for (int when = 1; when < 4; when++) { /* bits: after it was read, after it was renamed */
        struct sc_hash changed[2];
        (void)golden(w, 1);
        changed[0] = change(w, rival[0], GOLDEN, 2.0f);
        changed[1] = change(w, rival[1], GOLDEN, 4.0f);
        edit(w->kept, NULL, NULL);
        after_read = (when & 1) != 0 ? rival[0] : NULL;
        after_rename = (when & 2) != 0 ? rival[1] : NULL;
        struct start r = golden(w, 1);
        assert_true(after_read == NULL && after_rename == NULL);
        assert_text_has(r.log, "calibration refused");
        assert_text_has(r.log, "thresholds that another daemon measured");
        assert_memory_equal(&r.hash, &changed[when / 2], sizeof(r.hash));
        nothing_else_is_in(w);
        r = golden(w, 1);
        assert_memory_equal(&r.hash, &changed[when / 2], sizeof(r.hash));
        assert_int_equal(unlink(w->kept), 0);
    }
}

struct one_of_two {
    pthread_t thread;
    struct rig rig;
    const char *dir;
    uint32_t number;
    enum sc_status status;
    struct sc_err err;
};

static void *run_one_of_two(void *arg)
{
    struct one_of_two *d = arg;
    bool builtin = false;
    daemon_of_two = d->number;
    d->status = sc_calibration_file_use(d->rig.engine, d->rig.model, d->dir, &builtin, &d->err);
    return NULL;
}

/* Whether they find nothing or, both, a file that is damaged. */
static void two_daemons_that_start_together_use_one_calibration(void **state)
{
    struct world *w = world_of(state);
    (void)golden(w, 1); /* names the file */
    assert_int_equal(pthread_barrier_init(&both_measured, NULL, 2), 0);
    for (int round = 0; round < 12; round++) {
        struct one_of_two two[2];
        struct sc_hash hash[2];
        if (round % 2 == 0)
            assert_int_equal(unlink(w->kept), 0);
        else
            edit(w->kept, NULL, NULL);
        for (uint32_t i = 0; i < 2; i++) {
            two[i] = (struct one_of_two){.dir = w->dir, .number = i + 1};
            rig_open(&two[i].rig, GOLDEN, POSITIONS, i + 1, NULL);
        }
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&two[i].thread, NULL, run_one_of_two, &two[i]), 0);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(pthread_join(two[i].thread, NULL), 0);
            must(two[i].status, &two[i].err);
            hash[i] = sc_calibration_hash(sc_engine_calibration(two[i].rig.engine));
            rig_close(&two[i].rig);
        }
        assert_memory_equal(&hash[0], &hash[1], sizeof(hash[0]));
        struct start r = golden(w, 1);
        assert_memory_equal(&r.hash, &hash[0], sizeof(hash[0]));
        nothing_else_is_in(w);
    }
    (void)pthread_barrier_destroy(&both_measured);
}

static void where_files_have_one_name_only_it_is_kept_all_the_same(void **state)
{
    static const int unable[] = {EPERM, ENOSYS, EOPNOTSUPP};
    struct world *w = world_of(state);
    for (size_t i = 0; i < SC_ARRAY_LEN(unable); i++) {
        link_errno = unable[i];
        struct start first = golden(w, 1);
        link_errno = 0;
        assert_text_has(first.log, "measured on a built-in text\" kept_in=");
        nothing_else_is_in(w);
        struct start again = golden(w, 1);
        assert_text_has(again.log, "built-in text before\" kept_in=");
        assert_memory_equal(&again.hash, &first.hash, sizeof(first.hash));
        assert_int_equal(unlink(w->kept), 0);
    }
    link_errno = EIO; /* nobody knows what is there now */
    struct start r = golden(w, 1);
    link_errno = 0;
    assert_text_has(r.log, "calibration not kept");
    assert_int_equal(access(w->kept, F_OK), -1);
    nothing_else_is_in(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(of_two_that_measure_at_once_both_use_what_was_written_first),
        TEST(a_damaged_file_is_removed_and_not_what_a_rival_wrote_since),
        TEST(two_daemons_that_start_together_use_one_calibration),
        TEST(where_files_have_one_name_only_it_is_kept_all_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
