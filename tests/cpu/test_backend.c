/* Opening, memory, threads, and that the step loop takes no memory. The linker sends every call of
 * the allocator from our libraries through the counters here. */
#include "tests/cpu/support.h"

#include <stdatomic.h>
#include <sys/mman.h>

static atomic_uint n_taken;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *mem, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__real_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *mem, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t bytes)
{
    atomic_fetch_add(&n_taken, 1);
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    atomic_fetch_add(&n_taken, 1);
    return __real_calloc(n, bytes);
}

void *__wrap_realloc(void *mem, size_t bytes)
{
    atomic_fetch_add(&n_taken, 1);
    return __real_realloc(mem, bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    atomic_fetch_add(&n_taken, 1);
    return __real_aligned_alloc(align, bytes);
}

void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    atomic_fetch_add(&n_taken, 1);
    return __real_mmap(at, bytes, prot, flags, fd, offset);
}

enum { DIM = 96, HEADS = 4, KV = 2, HD = 16, ROWS = 100, QKV = (HEADS + 2 * KV) * HD };

static void cluster_and_merge(struct sc_backend *be, struct sc_kv_pool *pool, const uint32_t *pages,
                              int32_t *dist)
{
    const float inv_var[KV] = {1.0f, 1.0f}, inv_freq[HD / 2] = {1.0f, 0.5f};
    const uint32_t cores[4] = {4, 5, 6, 7};
    struct sc_chunk_job job = {
        .exact_pages = pages, .core_pages = cores, .m = ROWS, .tau = 90000, .inv_var = inv_var};
    uint8_t labels[ROWS], seeds[ROWS];
    uint32_t count = 0;
    struct sc_dist_args d = {.pool = pool,
                             .jobs = &job,
                             .n_jobs = 1,
                             .n_planes = 1,
                             .n_kv_heads = KV,
                             .head_dim = HD,
                             .inv_freq = inv_freq,
                             .cap = 1 << 24,
                             .contributes = true,
                             .dist = dist};
    struct sc_cluster_args g = {.jobs = &job,
                                .n_jobs = 1,
                                .n_planes = 1,
                                .dist = dist,
                                .labels = labels,
                                .seeds = seeds,
                                .counts = &count};
    struct sc_merge_args m = {.pool = pool,
                              .jobs = &job,
                              .n_jobs = 1,
                              .n_planes = 1,
                              .n_kv_heads = KV,
                              .head_dim = HD,
                              .log_bias = true,
                              .labels = labels,
                              .seeds = seeds,
                              .counts = &count,
                              .n_cores = &count};
    assert_ok(be->ops->distances(be, &d, err));
    assert_ok(be->ops->cluster(be, &g, err));
    assert_ok(be->ops->merge(be, &m, err));
}

/* One layer's worth of every call of the step loop. */
static void run_step(struct sc_backend *be, struct sc_matrix *w, struct sc_embedding *emb,
                     struct sc_kv_pool *pool, float *buf, int32_t *dist)
{
    float *x = buf, *qkv = x + ROWS * DIM, *angles = qkv + ROWS * QKV, *out = angles + ROWS * HD;
    const float inv_freq[HD / 2] = {1.0f, 0.1f}, ones[DIM] = {1.0f};
    uint32_t positions[ROWS], pages[ROWS], slots[ROWS], table[4] = {0, 1, 2, 3};
    int32_t ids[ROWS];
    for (uint32_t i = 0; i < ROWS; i++) {
        ids[i] = (int32_t)i % 7;
        positions[i] = i;
        pages[i] = i / 32;
        slots[i] = i % 32;
    }
    struct sc_norm_args norm = {x, NULL, ones, x, ROWS, DIM, 1e-5f, NULL};
    struct sc_qkv_args q = {qkv,   NULL, NULL,  angles, pool, pages,
                            slots, ROWS, HEADS, KV,     HD,   1e-5f};
    struct sc_attn_seq seq = {.n_rows = ROWS, .exact_pages = table};
    struct sc_attn_args attn = {qkv, out, pool, &seq, 1, QKV, HEADS, KV, HD, 0.25f, NULL};

    assert_ok(be->ops->embed(be, emb, ids, ROWS, x, err));
    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->matmul(be, w, x, DIM, qkv, QKV, ROWS, err));
    assert_ok(be->ops->rope_angles(be, positions, ROWS, inv_freq, HD, 1.0f, angles, err));
    assert_ok(be->ops->qkv(be, &q, err));
    assert_ok(be->ops->attention(be, &attn, err));
    assert_ok(be->ops->swiglu(be, qkv, out, ROWS, QKV / 2, err));
    assert_ok(be->ops->gather_rows(be, x, slots, 32, DIM, out, err));
    cluster_and_merge(be, pool, table, dist);
    assert_ok(be->ops->kv_copy(be, pool, 8, 4, err));
    assert_ok(be->ops->sync(be, err));
}

static void the_step_loop_takes_no_memory(void **state)
{
    struct rng r = {1};
    float *weights = random_floats(&r, QKV * DIM), *table = random_floats(&r, 7 * DIM);
    (void)state;
    announce_isas();
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 3);
        struct sc_matrix_part part = {weights, SC_DTYPE_F32, QKV, DIM, 0};
        struct sc_matrix *w = NULL;
        struct sc_embedding *emb = NULL;
        struct sc_kv_pool *pool = open_garbage_pool(be, KV, HD, SC_DTYPE_BF16, 9);
        void *buf = NULL, *dist = NULL;
        unsigned before;
        assert_ok(be->ops->matrix_open(be, &part, 1, DIM, NULL, SC_DTYPE_BF16, &w, err));
        assert_ok(be->ops->embedding_open(be, table, SC_DTYPE_F32, 0, 7, DIM, &emb, err));
        assert_ok(be->ops->alloc(be, sizeof(float) * ROWS * (DIM + QKV + HD + QKV), &buf, err));
        assert_ok(be->ops->alloc(be, 4 * ROWS * ROWS, &dist, err));
        before = atomic_load(&n_taken);
        assert_true(before > 0); /* the counters work */
        for (int i = 0; i < 3; i++)
            run_step(be, w, emb, pool, buf, dist);
        assert_int_equal(atomic_load(&n_taken), before);
        be->ops->free(be, buf);
        be->ops->free(be, dist);
        be->ops->free(be, NULL);
        be->ops->kv_close(be, pool);
        be->ops->embedding_close(be, emb);
        be->ops->matrix_close(be, w);
        be->ops->close(be);
    }
    free(weights);
    free(table);
}

static void bad_options_are_refused(void **state)
{
    struct sc_backend_opts opts = {.n_threads = 0};
    struct sc_backend *be = NULL;
    (void)state;
    assert_fails(SC_EINVAL, sc_cpu_backend_open(&opts, &be, err));
    opts.n_threads = SC_CPU_THREADS_MAX + 1;
    assert_fails(SC_EINVAL, sc_cpu_backend_open(&opts, &be, err));
    opts.n_threads = 2;
    opts.rank = 100000;
    opts.pin_threads = true;
    assert_fails(SC_EINVAL, sc_cpu_backend_open(&opts, &be, err));
    assert_fails(SC_ENOTSUP, sc_cpu_backend_open_isa(&opts, SC_CPU_ISA_COUNT, &be, err));
    if (sc_cpu_isa_best() < SC_CPU_ISA_AVX512BF16)
        assert_fails(SC_ENOTSUP, sc_cpu_backend_open_isa(&opts, SC_CPU_ISA_AVX512BF16, &be, err));
    assert_null(be);
}

static void math_chooses_the_instruction_set(void **state)
{
    static const enum sc_math maths[] = {SC_MATH_AUTO, SC_MATH_F32, SC_MATH_BF16, SC_MATH_INT8};
    uint32_t arithmetic[4] = {0};
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct sc_backend_opts opts = {.n_threads = 1, .n_ranks = 1, .math = maths[i]};
        struct sc_backend *be = NULL;
        if (maths[i] == SC_MATH_BF16 && sc_cpu_isa_best() < SC_CPU_ISA_AVX512BF16) {
            assert_fails(SC_ENOTSUP, sc_cpu_backend_open(&opts, &be, err));
            continue;
        }
        assert_ok(sc_cpu_backend_open(&opts, &be, err));
        arithmetic[i] = be->arithmetic;
        be->ops->close(be);
        assert_int_not_equal(arithmetic[i], 0);
    }
    assert_int_not_equal(arithmetic[1], arithmetic[2]);
    assert_int_not_equal(arithmetic[3], arithmetic[1]);
    assert_int_not_equal(arithmetic[3], arithmetic[2]);
    assert_true(arithmetic[0] == arithmetic[1] || arithmetic[0] == arithmetic[2] ||
                arithmetic[0] == arithmetic[3]);
}

static void the_default_says_what_it_is(void **state)
{
    struct sc_backend_opts opts = {.n_threads = 2, .n_ranks = 1, .math = SC_MATH_F32};
    struct sc_backend *be = NULL;
    char text[64], small[6];
    (void)state;
    assert_ok(sc_cpu_backend_open(&opts, &be, err));
    assert_string_equal(be->ops->name, "cpu");
    be->ops->describe(be, text, sizeof(text));
    assert_non_null(strstr(text, "2 threads"));
    assert_null(strstr(text, "bf16")); /* f32 never rounds activations */
    be->ops->describe(be, small, sizeof(small));
    assert_string_equal(small, "cpu a");
    be->ops->close(be);
}

static void pools_and_memory_have_limits(void **state)
{
    struct sc_backend *be = open_backend(SC_CPU_ISA_PLAIN, 1);
    struct sc_kv_spec spec = {2, 64, SC_DTYPE_BF16};
    struct sc_kv_pool *pool = NULL;
    void *mem = NULL;
    (void)state;
    assert_true(be->ops->kv_page_bytes(be, &spec) >= 2u * 32 * 2 * 64 * 2);
    assert_fails(SC_EINVAL, be->ops->kv_open(be, &spec, 0, &pool, err));
    spec.head_dim = 258;
    assert_fails(SC_EINVAL, be->ops->kv_open(be, &spec, 1, &pool, err));
    assert_int_equal(be->ops->kv_page_bytes(be, &spec), 0);
    spec.head_dim = 7;
    assert_fails(SC_EINVAL, be->ops->kv_open(be, &spec, 1, &pool, err));
    spec.head_dim = 8;
    spec.n_kv_heads = 0;
    assert_fails(SC_EINVAL, be->ops->kv_open(be, &spec, 1, &pool, err));
    spec.n_kv_heads = 1;
    spec.dtype = SC_DTYPE_F16;
    assert_fails(SC_ENOTSUP, be->ops->kv_open(be, &spec, 1, &pool, err));
    assert_null(pool);
    assert_fails(SC_EINVAL, be->ops->alloc(be, 0, &mem, err));
    assert_fails(SC_EINVAL, be->ops->alloc(be, SIZE_MAX, &mem, err));
    assert_null(mem);
    be->ops->close(be);
}

static void memory_is_aligned_zeroed_and_transferred(void **state)
{
    static const size_t sizes[] = {1, 100, 1 << 20, 3 << 20};
    struct sc_backend *be = open_backend(SC_CPU_ISA_PLAIN, 1);
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(sizes); i++) {
        void *mem = NULL;
        char back = 1;
        assert_ok(be->ops->alloc(be, sizes[i], &mem, err));
        assert_int_equal((uintptr_t)mem % 64, 0);
        assert_ok(be->ops->download(be, &back, (char *)mem + sizes[i] - 1, 1, err));
        assert_int_equal(back, 0);
        assert_ok(be->ops->upload(be, (char *)mem + sizes[i] - 1, "x", 1, err));
        assert_ok(be->ops->download(be, &back, (char *)mem + sizes[i] - 1, 1, err));
        assert_int_equal(back, 'x');
        be->ops->free(be, mem);
    }
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_step_loop_takes_no_memory),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(math_chooses_the_instruction_set),
        cmocka_unit_test(the_default_says_what_it_is),
        cmocka_unit_test(pools_and_memory_have_limits),
        cmocka_unit_test(memory_is_aligned_zeroed_and_transferred),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
