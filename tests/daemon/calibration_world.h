/* tests/daemon/calibration_world.h - starts of servers that keep a calibration in a directory: what
 * each has then, and what it logs. */
#ifndef SC_TESTS_DAEMON_CALIBRATION_WORLD_H
#define SC_TESTS_DAEMON_CALIBRATION_WORLD_H

#include "testing.h"

#include <dirent.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/calibration_file.h"
#include "tests/shard/engine_util.h"

#define POSITIONS 512u

struct world {
    char dir[64], kept[512], out[128];
};

static inline struct world *world_of(void **state)
{
    return *state;
}

static inline int setup(void **state)
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

static inline int teardown(void **state)
{
    struct world *w = *state;
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf %s", w->dir);
    int rc = system(command);
    free(w);
    return rc;
}

static inline void path_in(const struct world *w, const char *name, char path[128])
{
    (void)snprintf(path, 128, "%s/%s", w->dir, name);
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

static inline struct start start(struct world *w, const char *model, uint32_t n_ranks,
                                 const char *dir, rig_tweak *tweak)
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

static inline struct start golden(struct world *w, uint32_t n_ranks)
{
    struct start r = start(w, GOLDEN, n_ranks, w->dir, NULL);
    must(r.status, &r.err);
    assert_true(r.builtin);
    return r;
}

static inline uint32_t lines(const char *log)
{
    uint32_t n = 0;
    for (; *log != '\0'; log++)
        n += *log == '\n';
    return n;
}

/* Replaces a kept calibration by one that is as good, and that nobody here would measure. */
static inline struct sc_hash change(const struct world *w, const char *path, const char *model,
                                    float weight)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration c;
    struct rig rig;
    rig_open(&rig, model, POSITIONS, 1, NULL);
    must(sc_calibration_load(w->kept, &rig.model->config, &rig.model->fingerprint, &c, &err), &err);
    c.key_var[0] = nextafterf(c.key_var[0], INFINITY);
    c.layer_weights[0] = weight;
    must(sc_calibration_save(&c, path, &err), &err);
    struct sc_hash hash = sc_calibration_hash(&c);
    sc_calibration_fini(&c);
    rig_close(&rig);
    return hash;
}

static inline void nothing_else_is_in(const struct world *w)
{
    DIR *dir = opendir(w->dir);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        if (strstr(e->d_name, ".tmp") != NULL)
            fail_msg("%s was left behind", e->d_name);
    (void)closedir(dir);
}

static inline void edit(const char *path, const char *from, const char *to)
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
