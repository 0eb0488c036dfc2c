/* Decoding of sequences that share pages, with and without reading them once for several: the same
 * bits, near the CPU's result, and fewer bytes. */
#define SEQS_MAX 48

#include "tests/cuda/attention_scene.h"

#include <dlfcn.h>

#define DOCS_MAX 3
/* As for decode in test_attention.c. */
#define TOLERANCE_BF16 8e-3
#define STEPS          5 /* of growing sequences, into pages that are there */

enum { CASCADE = 0, ALONE = 1 }; /* which device of devices[1] */

/* What sequences have in common: cores, and exact pages up to position exact_end, a multiple of 32.
 */
struct doc {
    uint32_t n_cores, exact_lo, exact_end;
};

/* doc -1: nothing in common with others. */
struct question {
    int doc;
    uint32_t tail;   /* positions of its own before its row */
    uint32_t n_rows; /* 0: 1 */
    uint32_t more;   /* cores of its own behind the document's, which then are a multiple of 32 */
    uint32_t hidden; /* exact_lo is so much later */
    uint32_t window; /* then no cores */
};

/* What the device is expected to find: members and the pages that they share. */
struct expected {
    uint32_t n, pages;
};

struct reading {
    uint32_t head_dim, group, n_kv_heads, n_docs, n_seqs;
    struct doc docs[DOCS_MAX];
    struct question few[8]; /* the first; those behind ask about document i % n_docs */
    struct expected cohorts[DOCS_MAX];
};

/* Page ids by number in the document: cores, then exact pages by absolute number. */
struct pages {
    uint32_t n_core, n_exact;
    uint32_t core[1300], exact[1300];
};

static struct pages docs[DOCS_MAX];

static void write_doc(struct scene *s, struct rng *r, const struct doc *doc, struct pages *to,
                      uint32_t *next)
{
    to->n_core = pages_for(doc->n_cores);
    to->n_exact = doc->exact_end / SC_PAGE_ENTRIES;
    for (uint32_t p = 0; p < to->n_core; p++) {
        const uint32_t left = doc->n_cores - p * SC_PAGE_ENTRIES;
        to->core[p] = (*next)++;
        write_page(s, r, to->core[p], 0, left < SC_PAGE_ENTRIES ? left : SC_PAGE_ENTRIES, true);
    }
    for (uint32_t p = doc->exact_lo / SC_PAGE_ENTRIES; p < to->n_exact; p++) {
        const uint32_t base = p * SC_PAGE_ENTRIES;
        to->exact[p] = (*next)++;
        write_page(s, r, to->exact[p], doc->exact_lo > base ? doc->exact_lo - base : 0,
                   SC_PAGE_ENTRIES, false);
    }
}

static struct question question_of(const struct reading *sh, uint32_t i)
{
    struct question q = {.doc = (int)(i % sh->n_docs), .tail = i * 13 % 70};
    if (i < SC_ARRAY_LEN(sh->few) && (sh->few[i].tail != 0 || sh->few[i].doc != 0))
        q = sh->few[i];
    q.n_rows = q.n_rows == 0 ? 1 : q.n_rows;
    return q;
}

/* Its pages; those of its own hold STEPS more entries than it sees. */
static void write_question(struct scene *s, struct rng *r, const struct reading *sh, uint32_t i,
                           uint32_t *next)
{
    static const struct doc none = {0};
    static const struct pages no_pages = {0};
    const struct question q = question_of(sh, i);
    const struct doc *doc = q.doc >= 0 ? &sh->docs[q.doc] : &none;
    const struct pages *from = q.doc >= 0 ? &docs[q.doc] : &no_pages;
    const uint32_t n_cores = q.window != 0 ? 0 : doc->n_cores + q.more,
                   pos0 = doc->exact_end + q.tail;
    const uint32_t n_core = pages_for(n_cores), n_exact = pages_for(pos0 + q.n_rows + STEPS);
    uint32_t *cores = malloc((n_core + 1) * sizeof(*cores));
    uint32_t *exact = malloc((n_exact + 1) * sizeof(*exact));

    for (uint32_t p = 0; p < n_core; p++) {
        cores[p] = p < from->n_core ? from->core[p] : (*next)++;
        if (p >= from->n_core)
            write_page(s, r, cores[p], 0, SC_PAGE_ENTRIES, true);
    }
    for (uint32_t p = 0; p < n_exact; p++) {
        exact[p] = p < from->n_exact ? from->exact[p] : (*next)++;
        if (p >= from->n_exact)
            write_page(s, r, exact[p], 0, SC_PAGE_ENTRIES, false);
    }
    s->tables[2 * i] = cores;
    s->tables[2 * i + 1] = exact;
    s->seqs[i] = (struct sc_attn_seq){.row0 = s->n_rows,
                                      .n_rows = q.n_rows,
                                      .pos0 = pos0,
                                      .n_cores = n_cores,
                                      .exact_lo = doc->exact_lo + q.hidden,
                                      .window = q.window,
                                      .core_pages = cores,
                                      .exact_pages = exact};
    s->n_rows += q.n_rows;
}

static void reading_open(struct scene *s, struct shape *shape, const struct reading *sh,
                         enum sc_dtype dtype, uint64_t seed)
{
    struct rng r = {seed};
    uint32_t next = 0;

    *shape = (struct shape){sh->head_dim, sh->group, sh->n_kv_heads, sh->n_seqs, {{0}}};
    *s = (struct scene){.sh = shape, .dtype = dtype};
    s->width = sh->group * sh->n_kv_heads * sh->head_dim;
    for (uint32_t d = 0; d < sh->n_docs; d++)
        s->n_pages += pages_for(sh->docs[d].n_cores) + pages_for(sh->docs[d].exact_end);
    for (uint32_t i = 0; i < sh->n_seqs; i++) {
        const struct question q = question_of(sh, i);
        s->n_pages += pages_for(q.more) + pages_for(q.tail + q.n_rows + STEPS) + 1;
    }
    s->twin_pool = open_pool(s, twin);
    s->pools[1][CASCADE] = open_pool(s, devices[1][CASCADE]);
    s->pools[1][ALONE] = open_pool(s, devices[1][ALONE]);
    for (uint32_t d = 0; d < sh->n_docs; d++)
        write_doc(s, &r, &sh->docs[d], &docs[d], &next);
    for (uint32_t i = 0; i < sh->n_seqs; i++)
        write_question(s, &r, sh, i, &next);
    assert_true(next <= s->n_pages);
    s->q = random_floats(&r, (size_t)s->n_rows * s->width);
}

/* ---- what is read ---- */

/* Bytes that kernels have copied so far; 0 where the device does not count. */
static uint64_t copied(void)
{
    uint64_t (*count)(void) = NULL;
    void *lib = dlopen(cuda_plugin_path(), RTLD_NOW | RTLD_NOLOAD), *symbol;
    assert_non_null(lib);
    symbol = dlsym(lib, "sc_simt_copied");
    memcpy(&count, &symbol, sizeof(count));
    (void)dlclose(lib);
    return count != NULL ? count() : 0;
}

/* Of the first pages of a document's list, for one reading by all heads. */
static uint64_t bytes_of(const struct scene *s, const struct doc *doc, uint32_t n_pages)
{
    const uint64_t row = sc_kv_row_bytes(SC_DTYPE_I8, s->sh->head_dim); /* with its scale */
    const bool i8 = s->dtype == SC_DTYPE_I8;
    uint64_t bytes = 0;

    for (uint32_t p = 0; p < n_pages; p++) {
        const uint32_t n_core = pages_for(doc->n_cores);
        uint32_t seen = SC_PAGE_ENTRIES;
        if (p + 1 == n_core && doc->n_cores % SC_PAGE_ENTRIES != 0)
            seen = doc->n_cores % SC_PAGE_ENTRIES;
        if (p == n_core)
            seen -= doc->exact_lo % SC_PAGE_ENTRIES;
        /* K and V; of int8 all scales of K come; biases. */
        bytes += 2 * seen * (i8 ? row : 2 * (uint64_t)s->sh->head_dim);
        bytes += i8 ? 4 * (SC_PAGE_ENTRIES - seen) : 0;
        bytes += 4 * SC_PAGE_ENTRIES;
    }
    return bytes * s->sh->n_kv_heads;
}

static uint64_t bytes_saved(const struct scene *s, const struct reading *sh)
{
    uint32_t most = 0, together;
    uint64_t bytes = 0;

    for (uint32_t d = 0; d < sh->n_docs; d++)
        most = sh->cohorts[d].n > most ? sh->cohorts[d].n : most;
    together = 16 / sh->group * (most > 16 / sh->group ? 2 : 1);
    for (uint32_t d = 0; d < sh->n_docs; d++) {
        const struct expected *e = &sh->cohorts[d];
        if (e->n != 0)
            bytes +=
                (e->n - (e->n + together - 1) / together) * bytes_of(s, &sh->docs[d], e->pages);
    }
    return bytes;
}

static void assert_same(const struct scene *s, const float *a, const float *b, const char *what)
{
    for (uint32_t i = 0; i < s->n_rows; i++) {
        const size_t at = (size_t)i * s->width;
        if (memcmp(a + at, b + at, s->width * sizeof(float)) != 0)
            fail_msg("%s: row %u of %u, %ux%u %s, differs by %g", what, i, s->n_rows,
                     s->sh->group * s->sh->n_kv_heads, s->sh->head_dim, sc_dtype_name(s->dtype),
                     relative_error(a + at, b + at, s->width));
    }
}

static void compare(const struct reading *sh, enum sc_dtype dtype, uint64_t seed)
{
    struct shape shape;
    struct scene s;
    char what[96];

    reading_open(&s, &shape, sh, dtype, seed);
    const uint64_t at0 = copied();
    float *alone = attend(&s, 1, ALONE, s.seqs, sh->n_seqs, 1);
    const uint64_t at1 = copied();
    float *cascade = attend(&s, 1, CASCADE, s.seqs, sh->n_seqs, 1);
    const uint64_t at2 = copied();
    float *each = attend(&s, 1, CASCADE, s.seqs, sh->n_seqs, sh->n_seqs);
    assert_same(&s, cascade, alone, "cascade");
    assert_same(&s, each, alone, "one by one");
    (void)snprintf(what, sizeof(what), "%s, %ux%u over %u, %u sequences", sc_dtype_name(dtype),
                   sh->group * sh->n_kv_heads, sh->head_dim, sh->n_kv_heads, sh->n_seqs);
    assert_close(what, cascade, twin_result(&s), (size_t)s.n_rows * s.width, TOLERANCE_BF16);
    if (at2 != 0)
        assert_int_equal((at1 - at0) - (at2 - at1), bytes_saved(&s, sh));
    free(alone);
    free(cascade);
    free(each);
    scene_close(&s);
}

static const struct reading readings[] = {
    /* One tile; cores that end within a page, exact entries that begin within one. */
    {128, 4, 1, 1, 4, {{1210, 1000, 1248}}, {{0}}, {{4, 44}}},
    {32, 4, 1, 1, 4, {{1210, 1000, 1248}}, {{0}}, {{4, 44}}},
    /* Two of them fill a tile, in splits of eight; the last page of a document is in no whole one.
     */
    {64, 8, 1, 1, 2, {{0, 0, 137 * 32}}, {{.tail = 31}, {.tail = 40}}, {{2, 136}}},
    /* Several teams of two tiles, the last of one sequence; a row of a tile is in no use. */
    {64, 3, 2, 1, 21, {{70, 0, 8 * 32}}, {{0}}, {{21, 8}}},
    {128, 4, 1, 1, 40, {{33, 5, 5 * 32}}, {{0}}, {{40, 4}}},
    {64, 1, 1, 1, 17, {{31, 31, 11 * 32}}, {{0}}, {{17, 12}}},
    /* A tile holds one sequence. */
    {32, 16, 1, 1, 3, {{4 * 32, 4 * 32, 72 * 32}}, {{0}}, {{3, 72}}},
    /* Two documents in turn, and one of which too little is saved; among them sequences of their
     * own, with a window, with several rows, with more cores, that see less, in larger splits. */
    {128,
     2,
     2,
     3,
     40,
     {{32 * 15, 40, 32 * 9}, {50, 3, 32 * 16}, {64, 64, 32 * 4}},
     {{.doc = -1, .tail = 300},
      {.doc = 1, .tail = 9},
      {.doc = 1, .tail = 77, .window = 100},
      {.tail = 20, .n_rows = 3},
      {.tail = 5, .more = 40},
      {.doc = 1, .tail = 5, .hidden = 20},
      {.doc = -1, .n_rows = 8},
      {.doc = 1, .tail = 2100}},
     {{11, 20}, {11, 16}, {0, 0}}},
    /* A long sequence of its own, and one of four rows: parts have room for one head at a time. */
    {128,
     4,
     2,
     1,
     48,
     {{0, 0, 8 * 32}},
     {{.doc = -1, .tail = 664 * 32}, {.doc = -1, .tail = 9, .n_rows = 4}},
     {{46, 8}, {0, 0}, {0, 0}}},
    /* Too little is saved. */
    {64, 4, 1, 2, 12, {{0, 0, 32 * 23}, {0, 0, 32 * 3}}, {{0}}, {{0, 0}, {0, 0}}},
};

static void a_cascade_gives_the_bits_of_each_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(readings); i++) {
        if (small_run() && i != 0 && i != 1 && i != 3)
            continue; /* one tile of 128 and of 32, two of 64: steps_from_page_to_page has others */
        compare(&readings[i], SC_DTYPE_BF16, 10 + i);
        compare(&readings[i], SC_DTYPE_I8, 10 + i);
    }
}

/* Splits of ten pages: warps have three or two. */
static void long_documents_are_read_once(void **state)
{
    static const struct reading sh = {32, 8, 1, 1, 3, {{0, 0, 1056 * 32}}, {{0}}, {{3, 1050}}};
    (void)state;
    compare(&sh, SC_DTYPE_BF16, 50);
    compare(&sh, SC_DTYPE_I8, 51);
}

/* Splits of eight pages, so that each warp's buffers are filled a second time while its page is
 * read: one tile, two tiles, and two of which one is empty. Small enough for a racecheck. */
static void steps_from_page_to_page_use_the_buffers_again(void **state)
{
    static const struct reading small[] = {
        {64, 8, 1, 1, 2, {{0, 0, 136 * 32}}, {{.tail = 31}, {.tail = 40}}, {{2, 136}}},
        {32, 8, 1, 1, 3, {{1210, 1000, 2048}}, {{.tail = 31}, {.tail = 40}}, {{3, 64}}},
        {128, 16, 1, 1, 3, {{0, 0, 64 * 32}}, {{.tail = 31}, {.tail = 40}}, {{3, 64}}}};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(small); i++) {
        compare(&small[i], SC_DTYPE_BF16, 70 + i);
        compare(&small[i], SC_DTYPE_I8, 80 + i);
    }
}

/* ---- steps ---- */

static int by_layer(const struct scene *s, int which, const struct sc_step *step, const float *q,
                    float *out)
{
    struct sc_backend *be = devices[1][which];
    struct sc_attn_args args = args_of(s, step->seqs, step->n_seqs);
    bool replayed = false;

    args.q = q;
    args.pool = s->pools[1][which];
    assert_ok(be->ops->step_begin(be, step, &replayed, err));
    for (uint32_t l = 0; l < step->n_layers && !replayed; l++, args.seqs += step->n_seqs) {
        args.out = out + (size_t)l * s->n_rows * s->width;
        assert_ok(be->ops->attention(be, &args, err));
    }
    assert_ok(be->ops->step_end(be, true, err));
    return replayed;
}

/* A sequence's exact pages with another instead of one; the caller frees. */
static uint32_t *with_page(const struct scene *s, uint32_t seq, uint32_t at, uint32_t page)
{
    const uint32_t n = pages_for(s->seqs[seq].pos0 + 1 + STEPS);
    uint32_t *pages = malloc(n * sizeof(*pages));
    memcpy(pages, s->seqs[seq].exact_pages, n * sizeof(*pages));
    pages[at] = page;
    return pages;
}

/* Layers: one with a window, one of whole sequences, one in which the members share less, one in
 * which they share nothing. Lengths grow from step to step, the steps are recorded and replayed; in
 * the last ones a member is missing. */
static void steps_that_are_replayed_follow_the_cohorts(void **state)
{
    enum { N = 12, LAYERS = 4 };
    static const struct reading sh = {
        64, 4, 1, 1, N, {{40, 20, 20 * 32}}, {{.tail = 27}, {.tail = 58}}, {{N, 20}}};
    struct sc_attn_seq seqs[LAYERS * N];
    uint32_t rows[N], zero[LAYERS * N] = {0};
    int32_t tokens[N] = {0};
    struct shape shape;
    struct scene s;
    (void)state;

    reading_open(&s, &shape, &sh, SC_DTYPE_BF16, 60);
    uint32_t *others = with_page(&s, 5, 10, s.seqs[6].exact_pages[11]);
    uint32_t *apart = with_page(&s, 7, 1, s.seqs[6].exact_pages[11]); /* from the first split on */
    const size_t bytes = (size_t)LAYERS * s.n_rows * s.width * sizeof(float);
    float *q[2], *out[2];
    for (int i = 0; i < 2; i++) {
        q[i] = on_device(devices[1][i], s.q, (size_t)s.n_rows * s.width * sizeof(float));
        out[i] = on_device(devices[1][i], NULL, bytes);
    }
    for (uint32_t t = 0; t <= STEPS; t++) {
        const uint32_t n_members = t < 4 ? N : N - 1;
        uint64_t read[2];
        float *got[2];
        for (uint32_t i = 0; i < LAYERS * N; i++) {
            const uint32_t l = i / N;
            seqs[i] = s.seqs[i % N];
            seqs[i].pos0 += t;
            rows[i % N] = i % N;
            if (l == 0) {
                seqs[i].window = 50;
                seqs[i].n_cores = 0;
            }
            if (l == 2 && i % N == 5)
                seqs[i].exact_pages = others;
            if (n_members < N && i % N == 7)
                seqs[i].exact_pages = apart;
            if (l == 3)
                seqs[i].exact_lo = 20 + i % N;
            if (l == 3 && i % N > 6)
                seqs[i].n_cores = 20;
        }
        const struct sc_step step = {.n_rows = N,
                                     .n_seqs = N,
                                     .n_layers = LAYERS,
                                     .n_logit_rows = 1,
                                     .n_kv_heads = s.sh->n_kv_heads,
                                     .tokens = tokens,
                                     .positions = rows,
                                     .slots = rows,
                                     .logit_rows = zero,
                                     .pages = zero,
                                     .seqs = seqs,
                                     .alone = true};
        for (int i = 0; i < 2; i++) {
            const uint64_t before = copied();
            assert_int_equal(by_layer(&s, i, &step, q[i], out[i]), t > 1);
            got[i] = from_device(devices[1][i], out[i], bytes);
            read[i] = copied() - before;
        }
        s.n_rows *= LAYERS;
        assert_same(&s, got[CASCADE], got[ALONE], "a step");
        s.n_rows /= LAYERS;
        if (read[ALONE] != 0) { /* 20 pages in layer 1, 12 in layer 2, two teams */
            const uint64_t full = bytes_of(&s, &sh.docs[0], 20);
            const uint64_t less = bytes_of(&s, &sh.docs[0], 12);
            assert_int_equal(read[ALONE] - read[CASCADE], (n_members - 2) * (full + less));
        }
        struct sc_attn_args args = args_of(&s, seqs + N, N);
        float *want = malloc((size_t)s.n_rows * s.width * sizeof(float));
        args.q = s.q;
        args.out = want;
        args.pool = s.twin_pool;
        assert_ok(twin->ops->attention(twin, &args, err));
        assert_close("a step", got[CASCADE] + (size_t)s.n_rows * s.width, want,
                     (size_t)s.n_rows * s.width, TOLERANCE_BF16);
        free(want);
        free(got[0]);
        free(got[1]);
    }
    for (int i = 0; i < 2; i++) {
        devices[1][i]->ops->free(devices[1][i], q[i]);
        devices[1][i]->ops->free(devices[1][i], out[i]);
    }
    free(others);
    free(apart);
    scene_close(&s);
}

static int open_both(void **state)
{
    (void)state;
    twin = open_backend(SC_CPU_ISA_PLAIN, 2);
    devices[1][CASCADE] = open_cuda(SC_MATH_BF16, false);
    assert_int_equal(setenv("SC_CUDA_NO_CASCADE", "1", 1), 0);
    devices[1][ALONE] = open_cuda(SC_MATH_BF16, false);
    assert_int_equal(unsetenv("SC_CUDA_NO_CASCADE"), 0);
    return 0;
}

static int close_both(void **state)
{
    (void)state;
    devices[1][CASCADE]->ops->close(devices[1][CASCADE]);
    devices[1][ALONE]->ops->close(devices[1][ALONE]);
    twin->ops->close(twin);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cascade_gives_the_bits_of_each_alone),
        cmocka_unit_test(long_documents_are_read_once),
        cmocka_unit_test(steps_from_page_to_page_use_the_buffers_again),
        cmocka_unit_test(steps_that_are_replayed_follow_the_cohorts),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, open_both, close_both);
}
