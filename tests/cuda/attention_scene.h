/* tests/cuda/attention_scene.h - sequences over pools of the CPU backend and of four devices, in
 * which every entry that is not visible is NaN, and whose page tables hold no pages elsewhere. */
#ifndef SC_TESTS_CUDA_ATTENTION_SCENE_H
#define SC_TESTS_CUDA_ATTENTION_SCENE_H

#include "tests/cuda/support.h"

#ifndef SEQS_MAX
#define SEQS_MAX 6
#endif

struct run {
    uint32_t n_rows, pos0, n_cores, exact_lo, window;
};

struct shape {
    uint32_t head_dim, group, n_kv_heads, n_seqs;
    struct run runs[SEQS_MAX];
};

/* Four devices: [f32 or bf16 math][strict]. */
static struct sc_backend *devices[2][2], *twin;

struct scene {
    const struct shape *sh;
    enum sc_dtype dtype;
    uint32_t n_rows, width, n_pages; /* width: of a row of q and out */
    struct sc_attn_seq seqs[SEQS_MAX];
    uint32_t *tables[2 * SEQS_MAX];
    struct sc_kv_pool *pools[2][2], *twin_pool;
    float *q;
    float *want; /* the twin's result, or NULL */
};

static inline uint32_t pages_for(uint32_t n)
{
    return n / SC_PAGE_ENTRIES + (n % SC_PAGE_ENTRIES != 0);
}

/* The first position that any row sees. */
static inline uint32_t first_position(const struct run *r)
{
    uint32_t from = r->exact_lo;
    if (r->window != 0 && r->pos0 + 1 > r->window && r->pos0 + 1 - r->window > from)
        from = r->pos0 + 1 - r->window;
    return from;
}

static inline struct sc_kv_pool *open_pool(const struct scene *s, struct sc_backend *be)
{
    struct sc_kv_spec spec = {s->sh->n_kv_heads, s->sh->head_dim, s->dtype};
    struct sc_kv_pool *pool = NULL;
    assert_ok(be->ops->kv_open(be, &spec, s->n_pages, &pool, err));
    return pool;
}

/* Writes slots lo .. hi - 1 of a page with random entries and the others with NaN, everywhere. */
static inline void write_page(struct scene *s, struct rng *r, uint32_t page, uint32_t lo,
                              uint32_t hi, bool core)
{
    uint32_t hd = s->sh->head_dim;
    size_t bytes = SC_PAGE_ENTRIES * sc_kv_row_bytes(s->dtype, hd);
    uint8_t *k = malloc(bytes), *v = malloc(bytes);
    float x[SC_CPU_HEAD_DIM_MAX], y[SC_CPU_HEAD_DIM_MAX], bias[SC_PAGE_ENTRIES];

    for (uint32_t h = 0; h < s->sh->n_kv_heads; h++) {
        uint8_t *k_to = k, *v_to = v;
        for (uint32_t i = 0; i < SC_PAGE_ENTRIES; i++) {
            bool seen = i >= lo && i < hi;
            for (uint32_t d = 0; d < hd; d++) {
                x[d] = seen ? rng_normal(r) : NAN_KEY;
                y[d] = seen ? rng_normal(r) : NAN_KEY;
            }
            k_to = pack_row(k_to, x, hd, s->dtype);
            v_to = pack_row(v_to, y, hd, s->dtype);
            bias[i] = !seen                   ? NAN_KEY
                      : !core                 ? 0.0f
                      : rng_below(r, 16) == 0 ? -INFINITY
                                              : logf(1.0f + (float)rng_below(r, 9));
        }
        assert_ok(twin->ops->kv_unpack(twin, s->twin_pool, (const uint32_t[]){page}, 0,
                                       SC_PAGE_ENTRIES, h, k, v, bias, err));
        for (int i = 0; i < 4; i++) {
            struct sc_backend *be = devices[i / 2][i % 2];
            if (s->pools[i / 2][i % 2] != NULL)
                assert_ok(be->ops->kv_unpack(be, s->pools[i / 2][i % 2], (const uint32_t[]){page},
                                             0, SC_PAGE_ENTRIES, h, k, v, bias, err));
        }
    }
    free(k);
    free(v);
}

static inline void fill_seq(struct scene *s, struct rng *r, uint32_t i, uint32_t *order,
                            uint32_t *used)
{
    const struct run *run = &s->sh->runs[i];
    uint32_t n_core = pages_for(run->n_cores), end = run->pos0 + run->n_rows;
    uint32_t n_exact = pages_for(end), from = first_position(run);
    uint32_t *cores = malloc((n_core + 2) * sizeof(*cores));
    uint32_t *exact = malloc((n_exact + 2) * sizeof(*exact));

    for (uint32_t p = 0; p < n_core; p++) {
        uint32_t left = run->n_cores - p * SC_PAGE_ENTRIES;
        cores[p] = order[(*used)++];
        write_page(s, r, cores[p], 0, left < SC_PAGE_ENTRIES ? left : SC_PAGE_ENTRIES, true);
    }
    for (uint32_t p = 0; p < n_exact; p++) {
        uint32_t base = p * SC_PAGE_ENTRIES, left = end - base;
        exact[p] = UINT32_MAX;
        if (base + SC_PAGE_ENTRIES <= from)
            continue;
        exact[p] = order[(*used)++];
        write_page(s, r, exact[p], from > base ? from - base : 0,
                   left < SC_PAGE_ENTRIES ? left : SC_PAGE_ENTRIES, false);
    }
    cores[n_core] = cores[n_core + 1] = exact[n_exact] = exact[n_exact + 1] = UINT32_MAX;
    s->tables[2 * i] = cores;
    s->tables[2 * i + 1] = exact;
    s->seqs[i] = (struct sc_attn_seq){.row0 = s->n_rows,
                                      .n_rows = run->n_rows,
                                      .pos0 = run->pos0,
                                      .n_cores = run->n_cores,
                                      .exact_lo = run->exact_lo,
                                      .window = run->window,
                                      .core_pages = cores,
                                      .exact_pages = exact};
    s->n_rows += run->n_rows;
}

/* use: bit 2 * math + strict of each device that gets a pool. */
static inline void scene_open(struct scene *s, const struct shape *sh, enum sc_dtype dtype,
                              unsigned use, uint64_t seed)
{
    struct rng r = {seed};
    uint32_t *order, used = 0;

    *s = (struct scene){.sh = sh, .dtype = dtype};
    s->width = sh->group * sh->n_kv_heads * sh->head_dim;
    for (uint32_t i = 0; i < sh->n_seqs; i++)
        s->n_pages +=
            pages_for(sh->runs[i].n_cores) + pages_for(sh->runs[i].pos0 + sh->runs[i].n_rows);
    s->twin_pool = open_pool(s, twin);
    for (unsigned i = 0; i < 4; i++)
        s->pools[i / 2][i % 2] = use >> i & 1 ? open_pool(s, devices[i / 2][i % 2]) : NULL;
    order = malloc(s->n_pages * sizeof(*order));
    for (uint32_t i = 0; i < s->n_pages; i++)
        order[i] = i;
    for (uint32_t i = s->n_pages - 1; i > 0; i--) {
        uint32_t j = rng_below(&r, i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < sh->n_seqs; i++)
        fill_seq(s, &r, i, order, &used);
    free(order);
    s->q = random_floats(&r, (size_t)s->n_rows * s->width);
}

static inline void scene_close(struct scene *s)
{
    twin->ops->kv_close(twin, s->twin_pool);
    for (int i = 0; i < 4; i++) {
        if (s->pools[i / 2][i % 2] != NULL)
            devices[i / 2][i % 2]->ops->kv_close(devices[i / 2][i % 2], s->pools[i / 2][i % 2]);
    }
    for (uint32_t i = 0; i < 2 * s->sh->n_seqs; i++)
        free(s->tables[i]);
    free(s->q);
    free(s->want);
}

static inline struct sc_attn_args args_of(const struct scene *s, const struct sc_attn_seq *seqs,
                                          uint32_t n_seqs)
{
    return (struct sc_attn_args){.seqs = seqs,
                                 .n_seqs = n_seqs,
                                 .q_stride = s->width,
                                 .n_heads = s->sh->group * s->sh->n_kv_heads,
                                 .n_kv_heads = s->sh->n_kv_heads,
                                 .head_dim = s->sh->head_dim,
                                 .scale = 1.0f / sqrtf((float)s->sh->head_dim)};
}

/* Each of n_calls calls takes the next of n_seqs / n_calls sequences. The rows that no call wrote
 * are NaN. The caller frees. */
static inline float *attend(const struct scene *s, int math, int strict,
                            const struct sc_attn_seq *seqs, uint32_t n_seqs, uint32_t n_calls)
{
    struct sc_backend *be = devices[math][strict];
    size_t bytes = (size_t)s->n_rows * s->width * sizeof(float);
    struct sc_attn_args args = args_of(s, seqs, n_seqs / n_calls);
    float *q = on_device(be, s->q, bytes), *out = on_device(be, NULL, bytes), *host;

    args.q = q;
    args.out = out;
    args.pool = s->pools[math][strict];
    for (uint32_t i = 0; i < n_calls; i++, args.seqs += n_seqs / n_calls)
        assert_ok(be->ops->attention(be, &args, err));
    host = from_device(be, out, bytes);
    be->ops->free(be, q);
    be->ops->free(be, out);
    return host;
}

static inline const float *twin_result(struct scene *s)
{
    struct sc_attn_args args = args_of(s, s->seqs, s->sh->n_seqs);
    if (s->want != NULL)
        return s->want;
    s->want = malloc((size_t)s->n_rows * s->width * sizeof(float));
    args.q = s->q;
    args.out = s->want;
    args.pool = s->twin_pool;
    assert_ok(twin->ops->attention(twin, &args, err));
    return s->want;
}

static inline int open_all(void **state)
{
    (void)state;
    twin = open_backend(SC_CPU_ISA_PLAIN, 2);
    for (int i = 0; i < 4; i++)
        devices[i / 2][i % 2] = open_cuda(i / 2 == 1 ? SC_MATH_BF16 : SC_MATH_F32, i % 2 == 1);
    return 0;
}

static inline int close_all(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        devices[i / 2][i % 2]->ops->close(devices[i / 2][i % 2]);
    twin->ops->close(twin);
    return 0;
}

#endif
