#include "cpu/device.h"

struct attn_work {
    struct sc_cpu_device *dev;
    const struct sc_attn_args *a;
    uint32_t group;        /* query heads per KV head */
    uint32_t block_tokens; /* tokens of one task */
    uint32_t n_blocks;     /* of all sequences */
};

static uint32_t blocks_of(const struct attn_work *w, const struct sc_attn_seq *seq)
{
    return (seq->n_rows + w->block_tokens - 1) / w->block_tokens;
}

/* Task: one KV head and one block of one sequence's rows. Long blocks of a prompt come last in a
 * sequence and cost most, so tasks run from the last block to the first. */
static void attn_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct attn_work *w = ctx;
    const struct sc_attn_args *a = w->a;
    uint32_t head = task % a->n_kv_heads, block = w->n_blocks - 1 - task / a->n_kv_heads;
    const struct sc_attn_seq *seq = a->seqs;
    struct sc_cpu_attn attn;
    uint32_t row;

    while (block >= blocks_of(w, seq)) {
        block -= blocks_of(w, seq);
        seq++;
    }
    attn.pool = a->pool;
    attn.seq = seq;
    attn.head = head;
    attn.token0 = block * w->block_tokens;
    attn.n_tokens = seq->n_rows - attn.token0;
    if (attn.n_tokens > w->block_tokens)
        attn.n_tokens = w->block_tokens;
    attn.group = w->group;
    row = seq->row0 + attn.token0;
    attn.q_stride = a->q_stride;
    attn.out_stride = (size_t)a->n_heads * a->head_dim;
    attn.q = a->q + row * attn.q_stride + (size_t)head * w->group * a->head_dim;
    attn.out = a->out + row * attn.out_stride + (size_t)head * w->group * a->head_dim;
    attn.scale = a->scale;
    w->dev->kernels.attention(&attn, &w->dev->scratch[thread]);
}

static enum sc_status check_seq(const struct sc_attn_args *a, uint32_t i, struct sc_err *err)
{
    const struct sc_attn_seq *seq = &a->seqs[i];
    uint64_t end = (uint64_t)seq->pos0 + seq->n_rows, from = seq->exact_lo;
    uint32_t n_core_pages = seq->n_cores / SC_PAGE_ENTRIES + (seq->n_cores % SC_PAGE_ENTRIES != 0);
    enum sc_status st;

    if (end > UINT32_MAX || seq->n_rows > SC_CPU_ROWS_MAX || seq->exact_lo > seq->pos0)
        return sc_fail(err, SC_EINVAL, "attention: sequence %u: %u rows at %u, exact from %u", i,
                       seq->n_rows, seq->pos0, seq->exact_lo);
    if (seq->window != 0 && seq->n_cores != 0)
        return sc_fail(err, SC_EINVAL, "attention: sequence %u: window %u with %u cores", i,
                       seq->window, seq->n_cores);
    if (seq->n_rows == 0)
        return SC_OK;
    if (seq->window != 0 && (uint64_t)seq->pos0 + 1 > from + seq->window)
        from = (uint64_t)seq->pos0 + 1 - seq->window;
    st = sc_cpu_check_pages("attention cores", a->pool, seq->core_pages, 0, n_core_pages, err);
    if (st == SC_OK)
        st = sc_cpu_check_pages("attention", a->pool, seq->exact_pages,
                                (uint32_t)(from / SC_PAGE_ENTRIES),
                                (uint32_t)((end - 1) / SC_PAGE_ENTRIES) + 1, err);
    return st;
}

enum sc_status sc_cpu_attention(struct sc_backend *be, const struct sc_attn_args *a,
                                struct sc_err *err)
{
    struct attn_work w = {.dev = sc_cpu_device(be), .a = a};
    enum sc_status st = sc_cpu_check_pool("attention", a->pool, a->n_kv_heads, a->head_dim, err);
    uint64_t n_blocks = 0;

    if (st != SC_OK)
        return st;
    if (a->n_heads == 0 || a->n_heads % a->n_kv_heads != 0 ||
        a->n_heads / a->n_kv_heads > SC_CPU_GROUP_MAX ||
        (uint64_t)a->q_stride < (uint64_t)a->n_heads * a->head_dim)
        return sc_fail(err, SC_EINVAL,
                       "attention: %u heads of %u over %u KV heads (at most %u each), q stride %u",
                       a->n_heads, a->head_dim, a->n_kv_heads, SC_CPU_GROUP_MAX, a->q_stride);
    w.group = a->n_heads / a->n_kv_heads;
    w.block_tokens = SC_CPU_QUERIES / w.group;
    for (uint32_t i = 0; i < a->n_seqs; i++) {
        st = check_seq(a, i, err);
        if (st != SC_OK)
            return st;
        n_blocks += blocks_of(&w, &a->seqs[i]);
    }
    if (n_blocks * a->n_kv_heads > UINT32_MAX)
        return sc_fail(err, SC_EINVAL, "attention: %llu blocks of rows",
                       (unsigned long long)n_blocks);
    w.n_blocks = (uint32_t)n_blocks;
    sc_cpu_threads_run(w.dev->threads, attn_task, &w, w.n_blocks * a->n_kv_heads);
    return SC_OK;
}
