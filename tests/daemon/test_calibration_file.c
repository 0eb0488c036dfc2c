/* Which calibration an engine gets: the model's own, one that was kept, or one that is measured and
 * kept; on engines of one and two ranks, in a directory that is a store's as well. */
#include "testing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/calibration_file.h"
#include "shard/calibrate.h"
#include "store/store.h"
#include "tests/shard/engine_util.h"

#define POSITIONS 512u

struct world {
    char dir[64], kept[512], out[128];
};

static struct world *world_of(void **state)
{
    return *state;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return -1;
    (void)snprintf(w->dir, sizeof(w->dir), "/tmp/sc-calibration-XXXXXX");
    if (mkdtemp(w->dir) == NULL)
        return -1;
    (void)snprintf(w->out, sizeof(w->out), "%s/stderr", w->dir);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf %s", w->dir);
    int rc = system(command);
    free(w);
    return rc;
}

static void path_in(const struct world *w, const char *name, char path[128])
{
    (void)snprintf(path, 128, "%s/%s", w->dir, name);
}

/* A model directory like the golden one, which may get a file of its own. */
static void own_model(const struct world *w, char dir[128])
{
    char command[512];
    path_in(w, "model", dir);
    (void)snprintf(command, sizeof(command), "mkdir -p %s && cp %s/tests/golden/llama31/* %s", dir,
                   SC_SOURCE_DIR, dir);
    assert_int_equal(system(command), 0);
}

/* What one start of a server with n_ranks does: the calibration's hash, what was logged, and where
 * it is kept. */
struct start {
    struct sc_hash hash;
    bool builtin;
    enum sc_status status;
    struct sc_err err;
    char log[4096];
};

static struct start start(struct world *w, const char *model, uint32_t n_ranks, const char *dir,
                          rig_tweak *tweak)
{
    struct start r = {0};
    struct sc_err err = SC_ERR_INIT;
    struct rig rig;
    rig_open(&rig, model, POSITIONS, n_ranks, tweak);
    must(sc_calibration_file_path(rig.engine, rig.model, w->dir, w->kept, sizeof(w->kept), &err),
         &err);
    (void)fflush(stderr);
    const int was = dup(STDERR_FILENO);
    assert_non_null(freopen(w->out, "w", stderr));
    r.status = sc_calibration_file_use(rig.engine, rig.model, dir, &r.builtin, &r.err);
    (void)fflush(stderr);
    assert_true(dup2(was, STDERR_FILENO) >= 0);
    (void)close(was);
    if (r.status == SC_OK)
        r.hash = sc_calibration_hash(sc_engine_calibration(rig.engine));
    FILE *f = fopen(w->out, "r");
    assert_non_null(f);
    r.log[fread(r.log, 1, sizeof(r.log) - 1, f)] = '\0';
    (void)fclose(f);
    rig_close(&rig);
    return r;
}

#define GOLDEN SC_SOURCE_DIR "/tests/golden/llama31"

static struct start golden(struct world *w, uint32_t n_ranks)
{
    struct start r = start(w, GOLDEN, n_ranks, w->dir, NULL);
    must(r.status, &r.err);
    assert_true(r.builtin);
    return r;
}

static uint32_t lines(const char *log)
{
    uint32_t n = 0;
    for (; *log != '\0'; log++)
        n += *log == '\n';
    return n;
}

/* Replaces a kept calibration by one that is as good, and that nobody here would measure. */
static struct sc_hash change(const struct world *w, const char *path, const char *model)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration c;
    struct rig rig;
    rig_open(&rig, model, POSITIONS, 1, NULL);
    must(sc_calibration_load(w->kept, &rig.model->config, &rig.model->fingerprint, &c, &err), &err);
    c.key_var[0] = nextafterf(c.key_var[0], INFINITY);
    c.layer_weights[0] = 2.0f;
    must(sc_calibration_save(&c, path, &err), &err);
    struct sc_hash hash = sc_calibration_hash(&c);
    sc_calibration_fini(&c);
    rig_close(&rig);
    return hash;
}

static void nothing_else_is_in(const struct world *w)
{
    DIR *dir = opendir(w->dir);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        if (strstr(e->d_name, ".tmp") != NULL)
            fail_msg("%s was left behind", e->d_name);
    (void)closedir(dir);
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
    struct sc_hash changed = change(w, w->kept, GOLDEN);
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
    struct sc_hash changed = change(w, w->kept, GOLDEN);
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

static void edit(const char *path, const char *from, const char *to)
{
    static char text[1 << 20];
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = '\0';
    char *at = from != NULL ? strstr(text, from) : text + n / 2;
    assert_non_null(at);
    if (to == NULL) { /* cut short */
        assert_int_equal(ftruncate(fileno(f), at - text), 0);
    } else {
        assert_int_equal(fseek(f, at - text, SEEK_SET), 0);
        assert_int_equal(fwrite(to, 1, strlen(to), f), strlen(to));
    }
    assert_int_equal(fclose(f), 0);
}

/* A calibration that another daemon moves into its place (NULL: none), before ours is measured or
 * while it is written: the linker puts these in the places of what measures and what syncs. */
static const char *rival_writes, *rival_place;
static bool rival_is_late;

static void let_rival_write(bool late)
{
    if (rival_writes == NULL || rival_is_late != late)
        return;
    assert_int_equal(rename(rival_writes, rival_place), 0);
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
        struct sc_hash changed = change(w, rival, GOLDEN);
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
    struct sc_hash changed = change(w, own, model);
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_measured_calibration_is_kept_and_read_with_any_number_of_ranks),
        TEST(types_share_a_calibration_and_shorter_samples_do_not),
        TEST(of_two_that_measure_at_once_both_use_what_was_written_first),
        TEST(two_daemons_that_start_together_use_one_calibration),
        TEST(where_files_have_one_name_only_it_is_kept_all_the_same),
        TEST(a_damaged_or_foreign_file_is_refused_and_measured_anew),
        TEST(what_a_crash_left_beside_the_file_goes_when_it_is_old),
        TEST(a_calibration_that_cannot_be_written_is_one_warning),
        TEST(without_a_directory_nothing_is_kept),
        TEST(the_models_own_file_wins_and_a_bad_one_is_an_error),
        TEST(the_store_leaves_the_file_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
