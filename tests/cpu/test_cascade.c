/* Sequences that share pages get the bits that each gets alone, and do share the reading. */
#include "cpu/cascade.h"
#include "tests/cpu/support.h"

#include <sys/mman.h>

#define N_PAGES   700u
#define TABLE_MAX 256u
#define SEQS_MAX  12u
#define SPAN      (SC_CPU_SPAN_PAGES * SC_PAGE_ENTRIES)

struct scene {
    struct sc_backend *be;
    struct sc_kv_pool *pool;
    uint32_t n_heads, n_kv_heads, head_dim, n_seqs, n_rows;
    struct sc_attn_seq seqs[SEQS_MAX];
    uint32_t cores[SEQS_MAX][TABLE_MAX], exact[SEQS_MAX][TABLE_MAX];
    float *q;
};

static void open_scene(struct scene *s, enum sc_cpu_isa isa, uint32_t threads, enum sc_dtype dtype,
                       struct rng *r)
{
    struct sc_kv_spec spec = {s->n_kv_heads, s->head_dim, dtype};
    float *k = random_floats(r, s->head_dim), *v = random_floats(r, s->head_dim);
    s->be = open_backend(isa, threads);
    assert_ok(s->be->ops->kv_open(s->be, &spec, N_PAGES, &s->pool, err));
    for (uint32_t p = 0; p < N_PAGES; p++) {
        for (uint32_t slot = 0; slot < SC_PAGE_ENTRIES; slot++) {
            for (uint32_t h = 0; h < s->n_kv_heads; h++) {
                k[rng_below(r, s->head_dim)] = rng_normal(r);
                v[rng_below(r, s->head_dim)] = rng_normal(r);
                assert_ok(s->be->ops->kv_write(s->be, s->pool, p, slot, h, k, v,
                                               rng_below(r, 9) == 0 ? -INFINITY : 0.5f, err));
            }
        }
    }
    free(k);
    free(v);
}

static void close_scene(struct scene *s)
{
    s->be->ops->kv_close(s->be, s->pool);
    s->be->ops->close(s->be);
    free(s->q);
}

static void random_table(struct rng *r, uint32_t *table)
{
    for (uint32_t i = 0; i < TABLE_MAX; i++)
        table[i] = rng_below(r, N_PAGES);
}

/* Of one of two documents up to some page, with cores or without; some with a window, or a prompt's
 * rows. */
static void random_seqs(struct scene *s, struct rng *r)
{
    uint32_t cores[2][TABLE_MAX], exact[2][TABLE_MAX], n_cores[2], lo[2];
    for (uint32_t d = 0; d < 2; d++) {
        random_table(r, cores[d]);
        random_table(r, exact[d]);
        n_cores[d] = rng_below(r, 3) == 0 ? SPAN * rng_below(r, 3) : rng_below(r, 5000);
        lo[d] = rng_below(r, 2) * rng_below(r, 1500);
    }
    s->n_rows = 0;
    s->n_seqs = 2 + rng_below(r, SEQS_MAX - 1);
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        const uint32_t d = rng_below(r, 2), kind = rng_below(r, 8);
        struct sc_attn_seq *q = &s->seqs[i];
        random_table(r, s->cores[i]);
        random_table(r, s->exact[i]);
        memcpy(s->cores[i], cores[d], rng_below(r, TABLE_MAX) * sizeof(uint32_t));
        memcpy(s->exact[i], exact[d], rng_below(r, TABLE_MAX) * sizeof(uint32_t));
        *q = (struct sc_attn_seq){
            .row0 = s->n_rows,
            .n_rows = kind == 0 ? 1 + rng_below(r, 5) : 1,
            .n_cores = n_cores[d] + (rng_below(r, 3) == 0 ? rng_below(r, 500) : 0),
            .exact_lo = lo[d] + (rng_below(r, 4) == 0 ? 32 : 0),
            .core_pages = s->cores[i],
            .exact_pages = s->exact[i],
        };
        q->pos0 = q->exact_lo + rng_below(r, 5000);
        if (kind == 1) {
            q->n_cores = 0;
            q->window = 700;
        }
        s->n_rows += q->n_rows;
    }
    free(s->q);
    s->q = random_floats(r, (size_t)s->n_rows * s->n_heads * s->head_dim);
}

static struct sc_attn_args args_of(const struct scene *s, float *out)
{
    return (struct sc_attn_args){.q = s->q,
                                 .out = out,
                                 .pool = s->pool,
                                 .seqs = s->seqs,
                                 .n_seqs = s->n_seqs,
                                 .q_stride = s->n_heads * s->head_dim,
                                 .n_heads = s->n_heads,
                                 .n_kv_heads = s->n_kv_heads,
                                 .head_dim = s->head_dim,
                                 .scale = 0.2f};
}

/* All together, then each alone. Returns how many shared a span. */
static uint32_t compare(struct scene *s)
{
    const size_t row = (size_t)s->n_heads * s->head_dim;
    float *together = malloc(s->n_rows * row * 4), *alone = malloc(s->n_rows * row * 4);
    struct sc_attn_args a = args_of(s, together), b = args_of(s, alone);
    static struct sc_cpu_cascade c;
    uint32_t n = sc_cpu_cascade_find(sc_cpu_device(s->be), &a, &c) ? c.n_members : 0;

    assert_ok(s->be->ops->attention(s->be, &a, err));
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        b.seqs = &s->seqs[i];
        b.n_seqs = 1;
        assert_ok(s->be->ops->attention(s->be, &b, err));
    }
    for (uint32_t i = 0; i < s->n_rows; i++)
        if (memcmp(together + i * row, alone + i * row, row * 4) != 0)
            fail_msg("row %u of %u, %u sequences", i, s->n_rows, s->n_seqs);
    free(together);
    free(alone);
    return n;
}

static void sharing_changes_no_bit(void **state)
{
    static const uint32_t shapes[][3] = {{6, 2, 32}, {8, 8, 64}, {160, 8, 16}};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (size_t d = 0; d < SC_ARRAY_LEN(kv_dtypes); d++) {
            const uint32_t *shape = shapes[(isa + d) % 3];
            struct scene s = {.n_heads = shape[0], .n_kv_heads = shape[1], .head_dim = shape[2]};
            struct rng r = {90 + d};
            uint32_t shared = 0;
            open_scene(&s, isa, 1 + (uint32_t)(isa + d) % 3, kv_dtypes[d], &r);
            for (uint32_t round = 0; round < 20; round++) {
                random_seqs(&s, &r);
                shared += compare(&s);
            }
            assert_true(shared > 10);
            close_scene(&s);
        }
    }
}

/* Four questions about one document, and a stranger between them. */
static void questions(struct scene *s, struct rng *r, uint32_t n_cores, uint32_t doc_exact)
{
    s->n_seqs = s->n_rows = 5;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        random_table(r, s->cores[i]);
        random_table(r, s->exact[i]);
        if (i != 2 && i > 0) {
            memcpy(s->cores[i], s->cores[0], sizeof(s->cores[0]));
            memcpy(s->exact[i], s->exact[0], doc_exact / SC_PAGE_ENTRIES * sizeof(uint32_t));
        }
        s->seqs[i] = (struct sc_attn_seq){.row0 = i,
                                          .n_rows = 1,
                                          .pos0 = doc_exact + 40 + i,
                                          .n_cores = n_cores,
                                          .core_pages = s->cores[i],
                                          .exact_pages = s->exact[i]};
    }
    s->cores[2][0] = s->cores[0][0] + 1;
    s->exact[2][0] = s->exact[0][0] + 1;
    free(s->q);
    s->q = random_floats(r, (size_t)s->n_rows * s->n_heads * s->head_dim);
}

static void questions_on_one_document_share_its_spans(void **state)
{
    static const struct {
        uint32_t n_cores, exact, shared;
    } cases[] = {
        {SPAN + 900, 320, 2},   /* both spans of the cores, the second not full */
        {0, 2 * SPAN + 320, 2}, /* two whole spans of exact entries */
        {100, SPAN, 2},         /* one of each */
        {0, SPAN - 64, 0},      /* less than a span */
    };
    struct rng r = {5};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct scene s = {.n_heads = 6, .n_kv_heads = 2, .head_dim = 32};
        static struct sc_cpu_cascade c;
        open_scene(&s, sc_cpu_isa_best(), 2, SC_DTYPE_BF16, &r);
        questions(&s, &r, cases[i].n_cores, cases[i].exact);
        const struct sc_attn_args a = args_of(&s, NULL);
        bool found = sc_cpu_cascade_find(sc_cpu_device(s.be), &a, &c);
        assert_int_equal(found, cases[i].shared > 0);
        if (found) {
            assert_int_equal(c.n_cohorts, 1);
            assert_int_equal(c.cohorts[0].n, 4);
            assert_int_equal(c.cohorts[0].n_shared, cases[i].shared);
            assert_false(c.is_member[2]);
        }
        assert_int_equal(compare(&s), found ? 4 : 0);
        close_scene(&s);
    }
}

/* What is a core span of one and an exact span of the other has the same number only. */
static void spans_of_different_kinds_are_not_shared(void **state)
{
    struct scene s = {.n_heads = 6, .n_kv_heads = 2, .head_dim = 32};
    static struct sc_cpu_cascade c;
    struct rng r = {6};
    (void)state;
    open_scene(&s, sc_cpu_isa_best(), 2, SC_DTYPE_BF16, &r);
    questions(&s, &r, SPAN, 2 * SPAN + 320);
    s.n_seqs = s.n_rows = 2;
    s.seqs[1].n_cores = SPAN + 500;
    const struct sc_attn_args a = args_of(&s, NULL);
    assert_true(sc_cpu_cascade_find(sc_cpu_device(s.be), &a, &c));
    assert_int_equal(c.cohorts[0].n_shared, 1);
    assert_int_equal(compare(&s), 2);
    close_scene(&s);
}

/* n questions on some documents that begin with the same `head` entries: spans that are read. */
static uint64_t spans_read(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t n,
                           uint32_t n_docs, uint32_t head, uint32_t entries, bool interleaved)
{
    static struct sc_attn_seq seqs[SC_CPU_CASCADE_SEQS];
    static uint32_t tables[SC_CPU_CASCADE_SEQS][1200];
    static struct sc_cpu_cascade c;
    uint64_t read = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t doc = interleaved ? i % n_docs : i * n_docs / n;
        const uint32_t own = (head + entries) / SC_PAGE_ENTRIES;
        for (uint32_t p = 0; p < own + 4; p++)
            tables[i][p] = p < head / SC_PAGE_ENTRIES ? p
                           : p < own                  ? 4096 * (doc + 1) + p
                                                      : 100000 + 8 * i + p;
        seqs[i] = (struct sc_attn_seq){
            .row0 = i, .n_rows = 1, .pos0 = head + entries + 40, .exact_pages = tables[i]};
        read += sc_cpu_attn_spans(&seqs[i], 0, 1).n;
    }
    const struct sc_attn_args a = {
        .pool = pool, .seqs = seqs, .n_seqs = n, .n_heads = 32, .n_kv_heads = 8, .head_dim = 128};
    if (!sc_cpu_cascade_find(sc_cpu_device(be), &a, &c))
        return read;
    for (uint32_t i = 0; i < c.n_cohorts; i++)
        read -= (uint64_t)(c.cohorts[i].n - 1) * c.cohorts[i].n_shared;
    return read;
}

static void documents_behind_one_head_are_told_apart(void **state)
{
    struct sc_backend *be = open_backend(sc_cpu_isa_best(), 2);
    struct sc_kv_spec spec = {8, 128, SC_DTYPE_BF16};
    struct sc_kv_pool *pool;
    (void)state;
    assert_ok(be->ops->kv_open(be, &spec, 1, &pool, err));
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        /* 8 spans of each document, and one of each question. */
        assert_int_equal(spans_read(be, pool, 8, 1, 0, 8 * SPAN, interleaved), 8 + 8);
        assert_int_equal(spans_read(be, pool, 8, 2, 0, 8 * SPAN, interleaved), 16 + 8);
        /* A system prompt before them: a page, which ends the document in a span that is not
         * whole; and a span, which each document reads once. */
        assert_int_equal(spans_read(be, pool, 8, 2, 64, 8 * SPAN, interleaved), 16 + 8);
        assert_int_equal(spans_read(be, pool, 8, 2, SPAN, 8 * SPAN, interleaved), 18 + 8);
        /* As many read together as there is room for queries and parts. */
        assert_int_equal(spans_read(be, pool, 64, 1, 0, 16 * SPAN, interleaved), 2 * 16 + 64);
        assert_true(spans_read(be, pool, 250, 5, 0, 16 * SPAN, interleaved) < 250 * 17 - 1000);
    }
    be->ops->kv_close(be, pool);
    be->ops->close(be);
}

/* Tables with a forbidden page behind their last entry. */
static void tables_are_not_read_beyond_their_end(void **state)
{
    enum { N = 64, PAGES = SPAN / SC_PAGE_ENTRIES + 1 };
    struct sc_kv_spec spec = {2, 32, SC_DTYPE_BF16};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct scene s = {.n_heads = 2, .n_kv_heads = 2, .head_dim = 32, .n_seqs = N, .n_rows = N};
        struct rng r = {8};
        struct sc_attn_seq seqs[N];
        uint8_t *maps[N];
        float *out = malloc(N * 2 * 32 * sizeof(float));
        s.be = open_backend(isa, 2);
        s.q = random_floats(&r, (size_t)N * 2 * 32);
        assert_ok(s.be->ops->kv_open(s.be, &spec, PAGES + N, &s.pool, err));
        for (uint32_t i = 0; i < N; i++) {
            maps[i] = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            assert_int_equal(mprotect(maps[i] + 4096, 4096, PROT_NONE), 0);
            uint32_t *table = (uint32_t *)(void *)(maps[i] + 4096) - PAGES;
            for (uint32_t p = 0; p + 1 < PAGES; p++)
                table[p] = p;
            table[PAGES - 1] = PAGES + i;
            seqs[i] = (struct sc_attn_seq){
                .row0 = i, .n_rows = 1, .pos0 = PAGES * SC_PAGE_ENTRIES - 1, .exact_pages = table};
        }
        struct sc_attn_args a = args_of(&s, out);
        a.seqs = seqs;
        assert_ok(s.be->ops->attention(s.be, &a, err));
        for (uint32_t i = 0; i < N; i++)
            (void)munmap(maps[i], 8192);
        free(out);
        close_scene(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_behind_one_head_are_told_apart),
        cmocka_unit_test(tables_are_not_read_beyond_their_end),
        cmocka_unit_test(spans_of_different_kinds_are_not_shared),
        cmocka_unit_test(sharing_changes_no_bit),
        cmocka_unit_test(questions_on_one_document_share_its_spans),
    };
    announce_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
