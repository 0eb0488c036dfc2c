/* Steps on the device without a device: where arrays and tables end up, and which steps are
 * recorded, replayed and forgotten. The CUDA runtime is this file. */
#include "tests/cpu/support.h"

#include "base/hash.h"
#include "cuda/device.h"
#include "cuda/seqs.h"
#include "cuda/tables.h"

/* ---- a runtime that counts ---- */

static struct {
    int begun, ended, launched, made, destroyed;
    bool fail_end, fail_make;
    int waited;
    size_t copied;    /* bytes, by all copies */
    bool fail_tables; /* copies of columns and regions */
    cudaError_t query;
} cuda;

cudaError_t cudaHostAlloc(void **mem, size_t bytes, unsigned flags)
{
    (void)flags;
    *mem = malloc(bytes);
    return *mem != NULL ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *mem)
{
    free(mem);
    return cudaSuccess;
}

cudaError_t cudaFree(void *mem)
{
    free(mem);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    *event = NULL;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    (void)event;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    (void)event;
    cuda.waited++;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    (void)event;
    return cuda.query;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    (void)event;
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind;
    (void)stream;
    memcpy(to, from, bytes);
    cuda.copied += bytes;
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    (void)kind;
    (void)stream;
    if (cuda.fail_tables)
        return cudaErrorLaunchFailure;
    for (size_t i = 0; i < height; i++)
        memcpy((uint8_t *)to + i * to_pitch, (const uint8_t *)from + i * from_pitch, width);
    cuda.copied += width * height;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    (void)stream;
    (void)mode;
    cuda.begun++;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    (void)stream;
    cuda.ended++;
    *graph = cuda.fail_end ? NULL : (cudaGraph_t)&cuda;
    return cuda.fail_end ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    (void)graph;
    (void)flags;
    if (cuda.fail_make)
        return cudaErrorMemoryAllocation;
    cuda.made++;
    *exec = (cudaGraphExec_t)(uintptr_t)cuda.made;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    (void)exec;
    cuda.destroyed++;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    (void)graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    (void)exec;
    (void)stream;
    cuda.launched++;
    return cudaSuccess;
}

enum sc_status sc_cuda_check(cudaError_t rc, const char *what, struct sc_err *err)
{
    return rc == cudaSuccess ? SC_OK : sc_fail(err, SC_EDEVICE, "%s: %d", what, (int)rc);
}

enum sc_status sc_cuda_check_pages(const char *op, const struct sc_kv_pool *pool,
                                   const uint32_t *pages, uint32_t first, uint32_t end,
                                   struct sc_err *err)
{
    (void)op;
    (void)pool;
    (void)pages;
    (void)first;
    (void)end;
    (void)err;
    return SC_OK;
}

enum sc_status sc_cuda_alloc(struct sc_backend *be, size_t bytes, void **ret_mem,
                             struct sc_err *err)
{
    (void)be;
    (void)err;
    *ret_mem = malloc(bytes);
    return SC_OK;
}

/* ---- steps ---- */

#define N_SEQS   3u
#define N_LAYERS 2u
#define N_PAGES  40000u

struct rig {
    struct sc_cuda_device dev;
    int32_t tokens[512];
    uint32_t positions[512], slots[512], logit_rows[512], pages[N_LAYERS * 512], ids[N_PAGES];
    struct sc_attn_seq seqs[N_LAYERS * N_SEQS];
};

static void rig_open(struct rig *r)
{
    memset(&cuda, 0, sizeof(cuda));
    memset(r, 0, sizeof(*r));
    for (uint32_t i = 0; i < N_PAGES; i++)
        r->ids[i] = 7 * i + 1;
    for (uint32_t i = 0; i < 512; i++) {
        r->tokens[i] = (int32_t)i + 1000;
        r->positions[i] = i + 2000;
        r->slots[i] = i % 32;
        r->logit_rows[i] = i;
        r->pages[i] = i + 3000;
        r->pages[512 + i] = i + 4000;
    }
    assert_ok(sc_cuda_step_open(&r->dev, err));
}

static void rig_close(struct rig *r)
{
    sc_cuda_step_close(&r->dev);
}

/* n_seqs sequences of `rows` rows at position pos0; layer 1 has cores. */
static struct sc_step step_of(struct rig *r, uint32_t n_seqs, uint32_t rows, uint32_t pos0,
                              bool alone)
{
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (uint32_t i = 0; i < n_seqs; i++)
            r->seqs[l * n_seqs + i] = (struct sc_attn_seq){.row0 = i * rows,
                                                           .n_rows = rows,
                                                           .pos0 = pos0,
                                                           .n_cores = l == 1 ? 40 + i : 0,
                                                           .exact_lo = l == 1 ? pos0 / 2 : 0,
                                                           .core_pages = r->ids + 5 + i,
                                                           .exact_pages = r->ids + 100 * i};
    return (struct sc_step){.n_rows = n_seqs * rows,
                            .n_seqs = n_seqs,
                            .n_layers = N_LAYERS,
                            .n_logit_rows = n_seqs,
                            .n_kv_heads = 2,
                            .tokens = r->tokens,
                            .positions = r->positions,
                            .slots = r->slots,
                            .logit_rows = r->logit_rows,
                            .pages = r->pages,
                            .seqs = r->seqs,
                            .alone = alone};
}

static bool run(struct rig *r, const struct sc_step *step)
{
    bool replayed = false;
    assert_ok(sc_cuda_step_begin(&r->dev.base, step, &replayed, err));
    assert_ok(sc_cuda_step_end(&r->dev.base, true, err));
    return replayed;
}

/* That the device finds every page of the step's sequences. */
static void check_lists(struct rig *r, const struct sc_step *step)
{
    for (uint32_t l = 0; l < N_LAYERS; l++) {
        struct sc_cuda_seqs seqs;
        const struct sc_attn_seq *told = step->seqs + (size_t)l * step->n_seqs;
        assert_true(sc_cuda_step_seqs(&r->dev, told, step->n_seqs, &seqs));
        for (uint32_t i = 0; i < step->n_seqs; i++) {
            const struct sc_cuda_seq *s = &seqs.seqs[i];
            const struct sc_attn_seq *want = &told[i];
            assert_int_equal(s->exact_page0, want->exact_lo / 32);
            assert_int_equal(s->n_pages, s->n_core_pages + (want->pos0 + want->n_rows - 1) / 32 +
                                             1 - s->exact_page0);
            assert_true(s->n_pages <= seqs.max_pages);
            for (uint32_t p = 0; p < s->n_pages; p++)
                assert_int_equal(seqs.tables[s->table + p],
                                 p < s->n_core_pages
                                     ? want->core_pages[p]
                                     : want->exact_pages[s->exact_page0 + p - s->n_core_pages]);
        }
    }
}

/* Runs it with what is found on the device checked; returns the bytes that were copied. */
static size_t run_checked(struct rig *r, const struct sc_step *step)
{
    const size_t before = cuda.copied;
    bool replayed;
    assert_ok(sc_cuda_step_begin(&r->dev.base, step, &replayed, err));
    check_lists(r, step);
    assert_ok(sc_cuda_step_end(&r->dev.base, true, err));
    return cuda.copied - before;
}

/* Sequence i has list i of the ids, and name names[i]; cores end at position 512 in layer 1. */
static struct sc_step named_step(struct rig *r, uint32_t n_seqs, const uint64_t *names,
                                 uint32_t pos0)
{
    struct sc_step step = step_of(r, n_seqs, 1, pos0, false);
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (uint32_t i = 0; i < n_seqs; i++) {
            struct sc_attn_seq *seq = &r->seqs[l * n_seqs + i];
            const uint32_t list = (uint32_t)names[i] % 10;
            seq->exact_lo = l == 1 ? 512 : 0;
            seq->n_cores = l == 1 ? 200 + list : 0;
            seq->exact_pages = r->ids + 1000 * (l + 2 * list);
            seq->core_pages = r->ids + 10000 + 100 * list;
            seq->tables = names[i];
        }
    return step;
}

static void page_tables_stay_on_the_device(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    const uint64_t names[] = {10, 21, 32}, others[] = {10, 32}, later[] = {10, 41, 32};
    struct sc_step step;
    (void)state;
    rig_open(r);
    step = named_step(r, N_SEQS, names, 2000);
    const size_t whole = run_checked(r, &step);
    assert_true(whole > N_SEQS * N_LAYERS * 2000 / 32 * 4);
    step = named_step(r, N_SEQS, names, 2001);
    const size_t none = run_checked(r, &step); /* what a step has beside tables */
    assert_true(none < whole / 2);
    for (uint32_t pos = 2002; pos < 2100; pos++) {
        step = named_step(r, N_SEQS, names, pos);
        assert_int_equal(run_checked(r, &step), none + (pos % 32 == 0 ? N_SEQS * N_LAYERS * 4 : 0));
    }
    step = named_step(r, N_SEQS, names, 2500); /* several pages at once */
    assert_int_equal(run_checked(r, &step), none + N_SEQS * N_LAYERS * 4 * (2500 / 32 - 2099 / 32));
    for (uint32_t pos = 2532; pos < 9000; pos += 32) { /* beyond the room that there was */
        step = named_step(r, N_SEQS, names, pos);
        (void)run_checked(r, &step);
    }
    step = named_step(r, N_SEQS, names, 9000);
    r->seqs[0].pos0 = r->seqs[N_SEQS].pos0 = 20000; /* one alone: the others move */
    (void)run_checked(r, &step);
    for (uint32_t i = 0; i < 2; i++) {
        step = named_step(r, N_SEQS, names, 9000 + i);
        (void)run_checked(r, &step);
    }
    step = named_step(r, N_SEQS, later, 9001); /* one begins anew, in a place of its size */
    r->ids[2003] += 5;
    const size_t one = run_checked(r, &step);
    assert_true(one > none + N_LAYERS * 9000 / 32 * 4 && one < none + 2 * N_LAYERS * 9000 / 32 * 4);
    step = named_step(r, N_SEQS - 1, others, 9001); /* one ends: those behind it move */
    (void)run_checked(r, &step);
    step = named_step(r, N_SEQS - 1, others, 9002);
    assert_true(run_checked(r, &step) < none);

    /* One alone, over what lay there; then three in the places of before. */
    const uint64_t fresh[] = {51, 21, 32}, alone[] = {63};
    step = named_step(r, N_SEQS, fresh, 2000);
    (void)run_checked(r, &step);
    step = named_step(r, 1, alone, 9003);
    (void)run_checked(r, &step);
    const uint64_t back[] = {74, 21, 32};
    step = named_step(r, N_SEQS, back, 2001);
    (void)run_checked(r, &step);
    step = named_step(r, N_SEQS - 1, others, 9002);
    (void)run_checked(r, &step);

    step = named_step(r, N_SEQS - 1, others, 9003); /* other cores, though the name is the same */
    r->seqs[2].n_cores = 100;
    (void)run_checked(r, &step);
    step = named_step(r, N_SEQS - 1, others, 9004);
    (void)run_checked(r, &step);
    step = named_step(r, N_SEQS - 1, others, 9024); /* copies that fail leave nothing behind */
    bool replayed;
    cuda.fail_tables = true;
    assert_fails(SC_EDEVICE, sc_cuda_step_begin(&r->dev.base, &step, &replayed, err));
    cuda.fail_tables = false;
    (void)run_checked(r, &step);

    step = named_step(r, N_SEQS - 1, others, 9025); /* no name; and more cores than have a place */
    r->seqs[0].tables = r->seqs[2].tables = 0;
    (void)run_checked(r, &step);
    step = named_step(r, N_SEQS - 1, others, 9025);
    r->seqs[2].n_cores = 20000;
    (void)run_checked(r, &step);
    step = named_step(r, N_SEQS - 1, others, 9026);
    (void)run_checked(r, &step);
    rig_close(r);
    free(r);
}

/* Sequences come and go, grow by a token or by a block, get other cores, and change places. */
static void tables_are_right_whoever_comes_and_goes(void **state)
{
    enum { MOST = 12, LISTS = 64, EACH = 600 };
    struct live {
        uint64_t name;
        uint32_t list, pos, cores;
    } live[MOST];
    struct rig *r = malloc(sizeof(*r));
    struct sc_attn_seq seqs[N_LAYERS * MOST];
    uint32_t *ids = malloc(2 * LISTS * EACH * sizeof(*ids)), n = 0, next = 1;
    uint64_t x = 5;
    (void)state;
    rig_open(r);
    for (uint32_t i = 0; i < 2 * LISTS * EACH; i++)
        ids[i] = (uint32_t)sc_mix64(i);
    for (uint32_t round = 0; round < 4000; round++) {
        x = sc_mix64(x + round);
        if (n > 0 && x % 7 == 0) { /* one goes */
            const uint32_t at = (uint32_t)(x >> 8) % n;
            memmove(live + at, live + at + 1, (--n - at) * sizeof(*live));
        }
        if (n < MOST && (n == 0 || x % 5 == 0)) { /* one comes, anywhere */
            const uint32_t at = (uint32_t)(x >> 16) % (n + 1);
            memmove(live + at + 1, live + at, (n++ - at) * sizeof(*live));
            live[at] = (struct live){next, next % LISTS, (uint32_t)(x >> 24) % 9000, 0};
            next++;
        }
        if (x % 11 == 0) { /* all but one wait */
            live[0] = live[(x >> 4) % n];
            n = 1;
        }
        for (uint32_t i = 0; i < n; i++) {
            live[i].pos += (x >> i) % 9 == 0 ? 100 : 1;
            if (live[i].pos > 18000)
                live[i].pos = 10, live[i].cores = 0, live[i].name = next++;
            if (live[i].pos > 2000 && (x >> (i + 20)) % 37 == 0) {
                live[i].cores = live[i].pos / 3;
                live[i].name = next++;
            }
            for (uint32_t l = 0; l < N_LAYERS; l++)
                seqs[l * n + i] = (struct sc_attn_seq){
                    .row0 = i,
                    .n_rows = 1,
                    .pos0 = live[i].pos,
                    .n_cores = l == 1 ? live[i].cores : 0,
                    .exact_lo = l == 1 ? live[i].cores + live[i].cores / 2 : 0,
                    .core_pages = ids + (live[i].name % LISTS) * EACH,
                    .exact_pages = ids + (LISTS + live[i].list) * EACH,
                    .tables = live[i].name % 6 == 0 ? 0 : live[i].name,
                };
        }
        struct sc_step step = step_of(r, 1, 1, 10, false);
        step.n_rows = step.n_seqs = n;
        step.seqs = seqs;
        (void)run_checked(r, &step);
    }
    rig_close(r);
    free(ids);
    free(r);
}

/* Cohorts are those of the step before where nothing changed, and are looked for where it did. */
static void cohorts_last_as_long_as_the_tables(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    struct sc_cuda_seqs seqs;
    bool replayed;
    (void)state;
    rig_open(r);
    r->dev.cascade = true;
    for (uint32_t pos = 6300; pos < 6420; pos++) {
        const bool apart = pos >= 6390;
        const uint64_t names[] = {10, apart ? 51 : 21, 32};
        struct sc_step step = named_step(r, N_SEQS, names, pos);
        for (uint32_t i = 0; i < N_LAYERS * N_SEQS; i++) {
            r->seqs[i].exact_pages = r->ids + (apart && i % N_SEQS == 1 ? 700 : 0);
            r->seqs[i].core_pages = r->ids + 10000;
            r->seqs[i].n_cores = i < N_SEQS ? 0 : 200;
        }
        assert_ok(sc_cuda_step_begin(&r->dev.base, &step, &replayed, err));
        check_lists(r, &step);
        for (uint32_t l = 0; l < N_LAYERS; l++) {
            assert_true(sc_cuda_step_seqs(&r->dev, r->seqs + l * N_SEQS, N_SEQS, &seqs));
            assert_int_equal(seqs.bounds.n_cohorts, 1);
            assert_int_equal(seqs.cohorts[0].n, apart ? 2 : 3);
            const uint32_t n = seqs.seqs[0].n_pages;
            assert_int_equal(seqs.cohorts[0].n_shared, (n - 1) / 8);
            for (uint32_t i = 0; i < N_SEQS; i++)
                assert_int_equal(seqs.seqs[i].n_shared, apart && i == 1 ? 0 : (n - 1) / 8);
        }
        assert_ok(sc_cuda_step_end(&r->dev.base, true, err));
    }
    /* The same pages, but a sequence of two rows is in no cohort. */
    const uint64_t names[] = {10, 51, 32};
    struct sc_step step = named_step(r, N_SEQS, names, 6419);
    for (uint32_t i = 0; i < N_LAYERS * N_SEQS; i += N_SEQS) {
        r->seqs[i].n_rows = 2;
        r->seqs[i].pos0 = 6418;
    }
    for (uint32_t i = 0; i < N_LAYERS * N_SEQS; i++) {
        r->seqs[i].exact_pages = r->ids + (i % N_SEQS == 1 ? 700 : 0);
        r->seqs[i].core_pages = r->ids + 10000;
        r->seqs[i].n_cores = i < N_SEQS ? 0 : 200;
    }
    assert_ok(sc_cuda_step_begin(&r->dev.base, &step, &replayed, err));
    assert_true(sc_cuda_step_seqs(&r->dev, r->seqs, N_SEQS, &seqs));
    assert_int_equal(seqs.bounds.n_cohorts, 0);
    assert_ok(sc_cuda_step_end(&r->dev.base, true, err));
    rig_close(r);
    free(r);
}

static void a_step_is_waited_for_once_it_ended(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    bool waited = true;
    (void)state;
    rig_open(r);
    const struct sc_step step = step_of(r, N_SEQS, 1, 64, true);
    assert_false(run(r, &step));
    const int before = cuda.waited;
    assert_ok(sc_cuda_step_wait(&r->dev.base, &waited, err));
    assert_false(waited);
    assert_int_equal(cuda.waited, before);
    cuda.query = cudaErrorNotReady;
    assert_ok(sc_cuda_step_wait(&r->dev.base, &waited, err));
    assert_true(waited);
    assert_int_equal(cuda.waited, before + 1);
    cuda.query = cudaErrorLaunchFailure;
    assert_fails(SC_EDEVICE, sc_cuda_step_wait(&r->dev.base, &waited, err));
    rig_close(r);
    free(r);
}

static void arrays_and_tables_are_found_on_the_device(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    bool replayed;
    (void)state;
    rig_open(r);
    const uint32_t rows = 100;
    const struct sc_step step = step_of(r, N_SEQS, rows, 901, true);
    assert_null(sc_cuda_step_find(&r->dev, r->tokens, 4)); /* not begun */
    assert_ok(sc_cuda_step_begin(&r->dev.base, &step, &replayed, err));
    assert_false(replayed);
    const struct {
        const void *host;
        size_t bytes;
    } parts[] = {
        {r->tokens, 300 * 4},    {r->positions, 300 * 4}, {r->slots + 7, 12},
        {r->logit_rows, 3 * 4},  {r->pages, 300 * 4},     {r->pages + 300, 300 * 4},
        {r->positions + 299, 4},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(parts); i++) {
        const void *device = sc_cuda_step_find(&r->dev, parts[i].host, parts[i].bytes);
        assert_non_null(device);
        assert_memory_equal(device, parts[i].host, parts[i].bytes);
    }
    assert_null(sc_cuda_step_find(&r->dev, r->positions + 299, 8)); /* beyond the end */
    assert_null(sc_cuda_step_find(&r->dev, r->ids, 4));
    for (uint32_t l = 0; l < N_LAYERS; l++) {
        struct sc_cuda_seqs seqs;
        assert_true(sc_cuda_step_seqs(&r->dev, r->seqs + l * N_SEQS, N_SEQS, &seqs));
        assert_int_equal(seqs.max_rows, rows);
        for (uint32_t i = 0; i < N_SEQS; i++) {
            assert_int_equal(seqs.seqs[i].row0, r->seqs[l * N_SEQS + i].row0);
            assert_int_equal(seqs.seqs[i].n_core_pages, l == 1 ? 2 : 0);
        }
    }
    check_lists(r, &step);
    struct sc_cuda_seqs seqs;
    struct sc_attn_seq other[N_SEQS] = {0};
    assert_false(sc_cuda_step_seqs(&r->dev, other, N_SEQS, &seqs));
    assert_ok(sc_cuda_step_end(&r->dev.base, true, err));
    assert_null(sc_cuda_step_find(&r->dev, r->tokens, 4)); /* over */
    rig_close(r);
    free(r);
}

static void a_shape_is_recorded_the_second_time_and_then_replayed(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    (void)state;
    rig_open(r);
    struct sc_step step = step_of(r, N_SEQS, 1, 1030, true);
    assert_false(run(r, &step));
    assert_int_equal(cuda.begun, 0);
    assert_false(run(r, &step)); /* recorded, then launched */
    assert_int_equal(cuda.begun, 1);
    assert_int_equal(cuda.launched, 1);
    for (uint32_t i = 0; i < 30; i++) { /* a few tokens on: the same grid */
        step = step_of(r, N_SEQS, 1, 1030 + i, true);
        assert_true(run(r, &step));
    }
    assert_int_equal(cuda.launched, 31);
    assert_int_equal(cuda.begun, 1);
    step = step_of(r, N_SEQS, 1, 4000, true); /* far on: another grid */
    assert_false(run(r, &step));
    assert_false(run(r, &step));
    assert_true(run(r, &step));
    step = step_of(r, N_SEQS - 1, 1, 1000, true); /* another batch */
    assert_false(run(r, &step));
    step = step_of(r, N_SEQS, 1, 1030, true); /* the first is still known */
    assert_true(run(r, &step));
    rig_close(r);
    assert_int_equal(cuda.made, cuda.destroyed);
    free(r);
}

/* What was recorded reads page tables from where they were then. */
static void a_recorded_step_is_not_replayed_with_tables_elsewhere(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    const uint64_t names[] = {10, 21, 32};
    (void)state;
    rig_open(r);
    for (int elsewhere = 0; elsewhere < 2; elsewhere++)
        for (int times = 0; times < 3; times++) {
            struct sc_step step = named_step(r, N_SEQS, names, 9000);
            step.alone = true;
            if (elsewhere) /* more cores than have a place, in as many pages but a few */
                r->seqs[N_SEQS].n_cores = 800;
            assert_int_equal(run(r, &step), times == 2);
        }
    rig_close(r);
    free(r);
}

static void only_decoding_alone_is_recorded(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    (void)state;
    rig_open(r);
    for (int i = 0; i < 4; i++) {
        struct sc_step step = step_of(r, N_SEQS, 2, 1000, true);
        assert_false(run(r, &step));
        step = step_of(r, N_SEQS, 1, 1000, false);
        assert_false(run(r, &step));
    }
    assert_int_equal(cuda.begun, 0);
    rig_close(r);
    free(r);
}

/* Cohorts are found, and their size is part of a shape; how long they are is not, within limits. */
static void a_shape_includes_what_sequences_share(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    struct sc_cuda_seqs seqs;
    bool replayed;
    (void)state;
    rig_open(r);
    r->dev.cascade = true;
    for (uint32_t t = 0; t < 20; t++) {
        struct sc_step step = step_of(r, N_SEQS, 1, 3300 + t, true);
        for (uint32_t i = 0; i < N_SEQS; i++) { /* layer 0: all but one of the pages are the same */
            r->seqs[i].exact_pages = r->ids;
            r->seqs[N_SEQS + i].exact_pages = r->ids;
            r->seqs[N_SEQS + i].n_cores = 40; /* layer 1: the last ones see less */
            r->seqs[N_SEQS + i].exact_lo -= i / 2 * 32;
            r->seqs[N_SEQS + i].core_pages = r->ids;
        }
        assert_ok(sc_cuda_step_begin(&r->dev.base, &step, &replayed, err));
        assert_int_equal(replayed, t > 1);
        for (uint32_t l = 0; l < N_LAYERS; l++) {
            assert_true(sc_cuda_step_seqs(&r->dev, r->seqs + l * N_SEQS, N_SEQS, &seqs));
            assert_int_equal(seqs.bounds.n_cohorts, 1);
            assert_int_equal(seqs.cohorts[0].n, N_SEQS);
            assert_int_equal(seqs.cohorts[0].n_shared, l == 0 ? 12 : 0);
            assert_true(seqs.bounds.max_shared >= 12);
            for (uint32_t i = 0; i < N_SEQS; i++) {
                assert_true(seqs.members[i] < N_SEQS);
                assert_int_equal(seqs.seqs[i].n_shared, seqs.cohorts[0].n_shared);
                assert_true(seqs.bounds.max_own * 8 >=
                            seqs.seqs[i].n_pages - 8 * seqs.cohorts[0].n_shared);
            }
        }
        assert_ok(sc_cuda_step_end(&r->dev.base, true, err));
    }
    struct sc_step apart = step_of(r, N_SEQS, 1, 3319, true); /* as long, with nothing in common */
    assert_false(run(r, &apart));
    assert_false(run(r, &apart));
    r->seqs[0].window = 70; /* a layer of windows has none, in any step */
    for (uint32_t i = 0; i < N_SEQS; i++)
        r->seqs[N_SEQS + i] = (struct sc_attn_seq){
            .row0 = i, .n_rows = 1, .pos0 = 3319, .core_pages = r->ids, .exact_pages = r->ids};
    assert_ok(sc_cuda_step_begin(&r->dev.base, &apart, &replayed, err));
    assert_true(sc_cuda_step_seqs(&r->dev, r->seqs, N_SEQS, &seqs));
    assert_int_equal(seqs.bounds.n_cohorts, 0);
    assert_true(sc_cuda_step_seqs(&r->dev, r->seqs + N_SEQS, N_SEQS, &seqs));
    assert_int_equal(seqs.bounds.n_cohorts, 1);
    assert_ok(sc_cuda_step_end(&r->dev.base, true, err));
    rig_close(r);
    free(r);
}

static void shapes_without_end_are_forgotten_in_turn(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    (void)state;
    rig_open(r);
    for (uint32_t i = 0; i < 100; i++) {
        struct sc_step step = step_of(r, 1, 1, 10, true);
        step.n_logit_rows = i + 1;
        assert_false(run(r, &step));
        assert_false(run(r, &step));
        assert_true(run(r, &step));
    }
    assert_int_equal(cuda.made, 100);
    assert_true(cuda.destroyed >= 30 && cuda.destroyed < 100);
    const struct sc_step first = step_of(r, 1, 1, 10, true);
    assert_false(run(r, &first)); /* long gone */
    rig_close(r);
    assert_int_equal(cuda.made, cuda.destroyed);
    free(r);
}

static void a_recording_that_fails_is_an_error_and_is_tried_again(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    (void)state;
    rig_open(r);
    const struct sc_step step = step_of(r, N_SEQS, 1, 1000, true);
    assert_false(run(r, &step));
    for (int i = 0; i < 2; i++) {
        bool replayed;
        cuda.fail_end = i == 0;
        cuda.fail_make = i == 1;
        assert_ok(sc_cuda_step_begin(&r->dev.base, &step, &replayed, err));
        assert_fails(SC_EDEVICE, sc_cuda_step_end(&r->dev.base, true, err));
        cuda.fail_end = cuda.fail_make = false;
    }
    assert_false(run(r, &step));
    assert_true(run(r, &step));
    rig_close(r);
    free(r);
}

static void of_a_step_that_failed_no_recording_is_kept(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    bool replayed;
    (void)state;
    rig_open(r);
    const struct sc_step step = step_of(r, N_SEQS, 1, 1000, true);
    assert_false(run(r, &step));
    assert_ok(sc_cuda_step_begin(&r->dev.base, &step, &replayed, err)); /* one of its calls fails */
    assert_int_equal(cuda.begun, 1);
    assert_ok(sc_cuda_step_end(&r->dev.base, false, err));
    assert_int_equal(cuda.ended, 1);
    assert_int_equal(cuda.made + cuda.launched, 0);
    assert_false(run(r, &step)); /* recorded anew */
    assert_int_equal(cuda.begun, 2);
    assert_true(run(r, &step));
    rig_close(r);
    free(r);
}

static void a_step_too_large_for_its_memory_is_sent_call_by_call(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    struct sc_attn_seq *many = calloc(4000, sizeof(*many));
    bool replayed;
    (void)state;
    rig_open(r);
    struct sc_step step = step_of(r, 1, 1, 1000, true);
    for (uint32_t i = 0; i < 4000; i++)
        many[i] = (struct sc_attn_seq){
            .n_rows = 1, .pos0 = 1000000 - 1, .core_pages = r->ids, .exact_pages = r->ids};
    step.n_seqs = 2000;
    step.seqs = many;
    assert_ok(sc_cuda_step_begin(&r->dev.base, &step, &replayed, err));
    assert_null(sc_cuda_step_find(&r->dev, r->tokens, 4));
    assert_ok(sc_cuda_step_end(&r->dev.base, true, err));
    rig_close(r);
    free(many);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_tables_stay_on_the_device),
        cmocka_unit_test(tables_are_right_whoever_comes_and_goes),
        cmocka_unit_test(cohorts_last_as_long_as_the_tables),
        cmocka_unit_test(a_step_is_waited_for_once_it_ended),
        cmocka_unit_test(arrays_and_tables_are_found_on_the_device),
        cmocka_unit_test(a_shape_is_recorded_the_second_time_and_then_replayed),
        cmocka_unit_test(a_shape_includes_what_sequences_share),
        cmocka_unit_test(a_recorded_step_is_not_replayed_with_tables_elsewhere),
        cmocka_unit_test(only_decoding_alone_is_recorded),
        cmocka_unit_test(shapes_without_end_are_forgotten_in_turn),
        cmocka_unit_test(a_recording_that_fails_is_an_error_and_is_tried_again),
        cmocka_unit_test(of_a_step_that_failed_no_recording_is_kept),
        cmocka_unit_test(a_step_too_large_for_its_memory_is_sent_call_by_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
