/* Memory that runs out at any allocation while an engine opens, is calibrated, or a file is loaded:
 * a status, never a crash, and what was there before still works. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "tests/nomem.h"
#include "tests/shard/engine_util.h"

typedef enum sc_status attempt_fn(struct rig *rig, struct sc_err *err);

/* Counts the allocations of one attempt that succeeds, then refuses each of them in turn. */
static void refuse_each(struct rig *rig, attempt_fn *attempt)
{
    struct sc_err err = SC_ERR_INIT;
    uint32_t n, absorbed = 0;

    refused = UINT32_MAX;
    allocated = 0;
    armed = true;
    enum sc_status st = attempt(rig, &err);
    armed = false;
    must(st, &err);
    n = allocated;
    assert_true(n > 0);
    for (uint32_t i = 0; i < n; i++) {
        sc_err_clear(&err);
        refused = i;
        allocated = 0;
        armed = true;
        st = attempt(rig, &err);
        armed = false;
        if (st == SC_OK) { /* libc may do without, as for a stream's buffer */
            absorbed++;
            continue;
        }
        if (st != SC_ENOMEM)
            fail_msg("allocation %u of %u refused: %s: %s", i, n, sc_status_name(st), err.text);
        assert_int_equal(err.status, SC_ENOMEM);
        assert_true(err.text[0] != '\0');
    }
    print_message("%u allocations refused, %u made no difference\n", n, absorbed);
    assert_true(absorbed * 10 <= n + 10);
    sc_err_clear(&err);
    st = attempt(rig, &err);
    must(st, &err);
}

static enum sc_status open_engine(struct rig *rig, struct sc_err *err)
{
    struct sc_engine *engine = NULL;
    enum sc_status st = sc_engine_open(&rig->opts, &engine, err);
    if (st != SC_OK)
        assert_null(engine); /* untouched */
    sc_engine_close(engine);
    return st;
}

static void small_engine(struct sc_engine_opts *opts)
{
    opts->max_seqs = 2;
    opts->max_step_tokens = 64;
    opts->max_logit_rows = 2;
    opts->kv_bytes = (uint64_t)4 << 20;
}

static void opening_an_engine_without_memory_is_a_status(void **state)
{
    (void)state;
    struct rig rig;
    if (!CAN_REFUSE)
        skip();
    for (uint32_t ranks = 1; ranks <= 2; ranks++) {
        rig_open_golden(&rig, "qwen2", 512, ranks, small_engine); /* has biases */
        refuse_each(&rig, open_engine);
        rig_close(&rig);
    }
}

#define SAMPLE 200u

static enum sc_status calibrate(struct rig *rig, struct sc_err *err)
{
    int32_t ids[SAMPLE];
    make_tokens(ids, SAMPLE, rig->model->config.vocab, 6);
    return sc_calibrate(rig->engine, rig->model, ids, SAMPLE, NULL, err);
}

static uint64_t compressed_entries(struct rig *rig)
{
    int32_t ids[300];
    struct sc_recipe recipe = small_recipe(rig, SC_KV_COMPRESSED);
    make_tokens(ids, 300, rig->model->config.vocab, 7);
    seq_open(rig, 0, &recipe, 300);
    seq_run(rig, 0, &recipe, 300, ids, 0, 300, 64, NULL);
    uint64_t h = seq_entries_hash(rig, 0);
    seq_close(rig, 0);
    return h;
}

/* A calibration that fails half-way leaves the one before in force, on every rank. */
static uint64_t before;

static enum sc_status calibrate_or_stay(struct rig *rig, struct sc_err *err)
{
    enum sc_status st = calibrate(rig, err);
    bool was = atomic_exchange(&armed, false);
    uint64_t h = compressed_entries(rig);
    if (before == 0)
        before = h;
    assert_true(h == before);
    armed = was;
    return st;
}

static void a_calibration_without_memory_leaves_the_one_before(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    if (!CAN_REFUSE)
        skip();
    rig_open_golden(&rig, "llama31", 512, 2, small_engine);
    refuse_each(&rig, calibrate_or_stay);
    /* Nothing calibrated, nothing half set. */
    struct sc_engine *first = rig.engine;
    must(sc_engine_open(&rig.opts, &rig.engine, &err), &err);
    for (uint32_t i = 0; i < 6; i++) {
        refused = i;
        allocated = 0;
        armed = true;
        enum sc_status st = calibrate(&rig, &err);
        armed = false;
        assert_int_equal(st, SC_ENOMEM);
        assert_null(sc_engine_calibration(rig.engine));
        sc_err_clear(&err);
    }
    sc_engine_close(first);
    rig_close(&rig);
}

static char path[256];

static enum sc_status load(struct rig *rig, struct sc_err *err)
{
    struct sc_calibration c = {0};
    enum sc_status st =
        sc_calibration_load(path, &rig->model->config, &rig->model->fingerprint, &c, err);
    if (st == SC_OK) {
        struct sc_hash want = sc_calibration_hash(sc_engine_calibration(rig->engine));
        struct sc_hash got = sc_calibration_hash(&c);
        assert_memory_equal(&got, &want, sizeof(got));
    } else if (armed && st == SC_EFORMAT) {
        /* The JSON reader may drop a byte when memory runs out: then the file reads as damaged. */
        st = err->status = SC_ENOMEM;
    }
    sc_calibration_fini(&c);
    return st;
}

static enum sc_status save(struct rig *rig, struct sc_err *err)
{
    return sc_calibration_save(sc_engine_calibration(rig->engine), path, err);
}

static void files_load_and_save_without_memory_or_say_so(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    if (!CAN_REFUSE)
        skip();
    (void)snprintf(path, sizeof(path), "/tmp/sc-nomem-%ld.json", (long)getpid());
    rig_open_golden(&rig, "llama31", 512, 1, small_engine);
    must(save(&rig, &err), &err);
    refuse_each(&rig, load);
    /* Each failed save leaves the good file. */
    for (uint32_t i = 0; i < 200; i++) {
        refused = i;
        allocated = 0;
        armed = true;
        enum sc_status st = save(&rig, &err);
        armed = false;
        if (st != SC_OK)
            assert_true(st == SC_ENOMEM || st == SC_EIO);
        sc_err_clear(&err);
        must(load(&rig, &err), &err);
    }
    (void)unlink(path);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_an_engine_without_memory_is_a_status),
        cmocka_unit_test(a_calibration_without_memory_leaves_the_one_before),
        cmocka_unit_test(files_load_and_save_without_memory_or_say_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
