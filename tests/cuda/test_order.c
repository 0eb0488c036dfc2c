/* Kernels that begin while others still run see what those write: entries that were written just
 * before, by the one kernel that a layer has for it and by others that no product is behind. */
#include "tests/cuda/support.h"

enum {
    HEADS = 4, /* of keys; as many of queries */
    DIM = 128,
    ROWS = 4096,
    PAGES = ROWS / SC_PAGE_ENTRIES + 1,
    WIDTH = 3 * HEADS * DIM,
    SETS = 2,
    ROUNDS = 24
};

struct rig {
    struct sc_backend *be;
    struct sc_kv_pool *pool;
    uint32_t pages[ROWS + 1], slots[ROWS + 1], positions[ROWS + 1], table[PAGES];
    int32_t tokens[ROWS + 1];
    struct sc_attn_seq seq;
    float *source[SETS]; /* device [ROWS + 1, WIDTH], and what they are copied to: */
    float *qkv;
    float *angles, *out[ROUNDS];
};

static void rig_open(struct rig *r, enum sc_dtype dtype)
{
    const struct sc_kv_spec spec = {HEADS, DIM, dtype};
    struct rng random = {3};
    float *angles = calloc((size_t)(ROWS + 1) * DIM, sizeof(*angles));

    r->seq = (struct sc_attn_seq){.n_rows = 1, .pos0 = ROWS, .exact_pages = r->table};
    r->be = open_cuda(SC_MATH_BF16, false);
    assert_ok(r->be->ops->kv_open(r->be, &spec, PAGES, &r->pool, err));
    for (uint32_t p = 0; p < PAGES; p++)
        r->table[p] = (p * 5 + 2) % PAGES;
    for (uint32_t i = 0; i <= ROWS; i++) {
        r->pages[i] = r->table[i / SC_PAGE_ENTRIES];
        r->slots[i] = i % SC_PAGE_ENTRIES;
        r->positions[i] = i;
        r->tokens[i] = 0;
        for (uint32_t d = 0; d < DIM / 2; d++)
            angles[(size_t)i * DIM + d] = 1.0f;
    }
    r->angles = on_device(r->be, angles, (size_t)(ROWS + 1) * DIM * 4);
    for (int s = 0; s < SETS; s++) {
        float *x = random_floats(&random, (size_t)(ROWS + 1) * WIDTH);
        r->source[s] = on_device(r->be, x, (size_t)(ROWS + 1) * WIDTH * 4);
        free(x);
    }
    r->qkv = on_device(r->be, NULL, (size_t)(ROWS + 1) * WIDTH * 4);
    for (int i = 0; i < ROUNDS; i++)
        r->out[i] = on_device(r->be, NULL, HEADS * DIM * 4);
    free(angles);
}

static void rig_close(struct rig *r)
{
    void *mems[] = {r->source[0], r->source[1], r->qkv, r->angles};
    for (int i = 0; i < ROUNDS; i++)
        r->be->ops->free(r->be, r->out[i]);
    for (size_t i = 0; i < SC_ARRAY_LEN(mems); i++)
        r->be->ops->free(r->be, mems[i]);
    r->be->ops->kv_close(r->be, r->pool);
    r->be->ops->close(r->be);
}

/* Rows first .. first + n - 1 into the pages. */
static void write_rows(struct rig *r, uint32_t first, uint32_t n)
{
    const struct sc_qkv_args a = {.qkv = r->qkv + (size_t)first * WIDTH,
                                  .angles = r->angles + (size_t)first * DIM,
                                  .pool = r->pool,
                                  .pages = r->pages + first,
                                  .slots = r->slots + first,
                                  .n_rows = n,
                                  .n_heads = HEADS,
                                  .n_kv_heads = HEADS,
                                  .head_dim = DIM};
    assert_ok(r->be->ops->qkv(r->be, &a, err));
}

/* Row ROWS to everything before. */
static void attend(struct rig *r, float *out)
{
    const struct sc_attn_args a = {.q = r->qkv + (size_t)ROWS * WIDTH,
                                   .out = out,
                                   .pool = r->pool,
                                   .seqs = &r->seq,
                                   .n_seqs = 1,
                                   .q_stride = WIDTH,
                                   .n_heads = HEADS,
                                   .n_kv_heads = HEADS,
                                   .head_dim = DIM,
                                   .scale = 0.2f};
    assert_ok(r->be->ops->attention(r->be, &a, err));
}

/* All rows but the last by one kernel, the last by another. In a step, as then no copy of a call's
 * arrays comes between the kernels. */
static void round_of(struct rig *r, int set, float *out, bool wait)
{
    const size_t bytes = (size_t)(ROWS + 1) * WIDTH * 4;
    const uint32_t last = ROWS;
    const struct sc_step step = {.n_rows = ROWS + 1,
                                 .n_seqs = 1,
                                 .n_layers = 1,
                                 .n_logit_rows = 1,
                                 .n_kv_heads = HEADS,
                                 .tokens = r->tokens,
                                 .positions = r->positions,
                                 .slots = r->slots,
                                 .logit_rows = &last,
                                 .pages = r->pages,
                                 .seqs = &r->seq};
    bool replayed = false;
    assert_ok(r->be->ops->copy(r->be, r->qkv, r->source[set], bytes, err));
    assert_ok(r->be->ops->step_begin(r->be, &step, &replayed, err));
    assert_false(replayed);
    write_rows(r, 0, ROWS);
    write_rows(r, ROWS, 1);
    if (wait)
        assert_ok(r->be->ops->sync(r->be, err));
    attend(r, out);
    assert_ok(r->be->ops->step_end(r->be, true, err));
}

static void entries_written_just_before_are_seen(void **state)
{
    static const enum sc_dtype dtypes[] = {SC_DTYPE_BF16, SC_DTYPE_I8};
    const int n_rounds = small_run() ? SETS : ROUNDS;
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(dtypes); i++) {
        struct rig r;
        float *want[SETS];
        rig_open(&r, dtypes[i]);
        for (int s = 0; s < SETS; s++) {
            round_of(&r, s, r.out[0], true);
            want[s] = from_device(r.be, r.out[0], HEADS * DIM * 4);
        }
        for (int n = 0; n < n_rounds; n++) /* what is left in the pages is the other set's */
            round_of(&r, n % SETS, r.out[n], false);
        for (int n = 0; n < n_rounds; n++) {
            float *got = from_device(r.be, r.out[n], HEADS * DIM * 4);
            assert_memory_equal(got, want[n % SETS], HEADS * DIM * 4);
            free(got);
        }
        for (int s = 0; s < SETS; s++)
            free(want[s]);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(entries_written_just_before_are_seen)};
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
