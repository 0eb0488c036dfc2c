/* cpu/attention_state.h - what attention kernels share: where queries lie, and how the states of
 * spans become one output. Private to cpu/.
 *
 * Included after simd.h, with AT_EXP(x), the exponential that weights are made with. The including
 * file has load_queries and attend_span, which gathers one span into s->attn.span.
 */
static void load_queries(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s);
static void attend_span(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                        const struct sc_cpu_attn_spans *spans, uint32_t span);

/* Floats from query to query in scratch: not a power of two, which would crowd one cache set. */
INLINE uint32_t query_stride(uint32_t dim_pad)
{
    return dim_pad + 16;
}

INLINE uint32_t query_count(const struct sc_cpu_attn *a)
{
    return a->n_heads * a->n_tokens * a->group;
}

/* Where query i of scratch, [head][token][head of the group], begins in a row-major array. */
static size_t query_at(const struct sc_cpu_attn *a, uint32_t i, size_t row_stride)
{
    uint32_t head = i / (a->n_tokens * a->group), rest = i % (a->n_tokens * a->group);
    uint32_t column = (head * a->group + rest % a->group) * a->pool->spec.head_dim;
    return rest / a->group * row_stride + column;
}

/* Query i itself. */
static const float *query_from(const struct sc_cpu_attn *a, uint32_t i)
{
    if (a->rows == NULL)
        return a->q + query_at(a, i, a->q_stride);
    return a->rows[i % (a->n_tokens * a->group) / a->group] + query_at(a, i, 0);
}

static void state_clear(const struct sc_cpu_attn *a, struct sc_cpu_attn_state *st)
{
    uint32_t stride = query_stride(a->pool->dim_pad);
    for (uint32_t i = 0; i < query_count(a); i++) {
        for (uint32_t d = 0; d < a->pool->dim_pad; d += 16)
            v_store(st->o + i * stride + d, v_zero());
        v_store(st->sum + i * 16, v_zero());
        st->top[i] = -INFINITY;
    }
}

/* total += factor_total * total + factor * (o, sum) of one query. A span in which the query sees
 * nothing changes nothing, so blocks of queries may reach over more spans than each query does. */
static void state_add(struct sc_cpu_attn_state *total, uint32_t i, uint32_t dim_pad, const float *o,
                      const float *sum, float top)
{
    uint32_t stride = query_stride(dim_pad);
    float *to = total->o + i * stride;
    vf mine, other;

    /* Nothing seen. A NaN, which may be the top or keep it from being one, is in the sum. */
    if (!(top > -INFINITY) && v_sum(v_load(sum)) == 0.0f)
        return;
    float higher = top > total->top[i] ? top : total->top[i];
    mine = total->top[i] > -INFINITY ? AT_EXP(v_set1(total->top[i] - higher)) : v_zero();
    other = AT_EXP(v_set1(top - higher));
    total->top[i] = higher;
    v_store(total->sum + i * 16,
            v_fma(v_load(total->sum + i * 16), mine, v_mul(v_load(sum), other)));
    for (uint32_t d = 0; d < dim_pad; d += 16)
        v_store(to + d, v_fma(v_load(to + d), mine, v_mul(v_load(o + d), other)));
}

static void state_add_span(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s)
{
    uint32_t stride = query_stride(a->pool->dim_pad);
    for (uint32_t i = 0; i < query_count(a); i++)
        state_add(&s->attn.total, i, a->pool->dim_pad, s->attn.span.o + i * stride,
                  s->attn.span.sum + i * 16, s->attn.span.top[i]);
}

static void state_store(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s)
{
    const struct sc_cpu_attn_state *st = &s->attn.total;
    uint32_t hd = a->pool->spec.head_dim, stride = query_stride(a->pool->dim_pad);
    for (uint32_t i = 0; i < query_count(a); i++) {
        float *to = a->out + query_at(a, i, a->out_stride);
        const float *from = st->o + i * stride;
        float sum = v_sum(v_load(st->sum + i * 16));
        vf inv = v_set1(sum == 0.0f ? 0.0f : 1.0f / sum); /* all biases -inf: nothing is seen */
        for (uint32_t d = 0; d < hd; d += 16) {
            uint32_t n = hd - d < 16 ? hd - d : 16;
            v_storen(to + d, v_mul(v_load(from + d), inv), n);
        }
    }
}

/* Where query i's part goes: all [head][token][head of the group], or each token's [head][head of
 * the group]. */
static float *part_of_query(const struct sc_cpu_attn *a, uint32_t i)
{
    uint32_t floats = sc_cpu_attn_part_floats(a->pool);
    uint32_t head = i / (a->n_tokens * a->group), rest = i % (a->n_tokens * a->group);
    if (a->parts == NULL)
        return a->part + (size_t)i * floats;
    return a->parts[rest / a->group] + (size_t)(head * a->group + rest % a->group) * floats;
}

/* The one span of a task, for state_combine. */
static void state_put_part(const struct sc_cpu_attn *a, const struct sc_cpu_scratch *s)
{
    uint32_t dim_pad = a->pool->dim_pad;
    for (uint32_t i = 0; i < query_count(a); i++) {
        float *part = part_of_query(a, i);
        memcpy(part, s->attn.span.o + i * query_stride(dim_pad), dim_pad * sizeof(float));
        memcpy(part + dim_pad, s->attn.span.sum + i * 16, 16 * sizeof(float));
        part[dim_pad + 16] = s->attn.span.top[i];
    }
}

/* parts: [span][query], as state_put_part wrote them. */
static void state_combine(const struct sc_cpu_attn *a, const float *parts, struct sc_cpu_scratch *s)
{
    uint32_t dim_pad = a->pool->dim_pad, floats = sc_cpu_attn_part_floats(a->pool);
    size_t stride = a->part_span != 0 ? a->part_span : (size_t)query_count(a) * floats;
    state_clear(a, &s->attn.total);
    for (uint32_t span = 0; span < a->n_spans; span++, parts += stride) {
        const float *part = parts;
        for (uint32_t i = 0; i < query_count(a); i++, part += floats)
            state_add(&s->attn.total, i, dim_pad, part, part + dim_pad, part[dim_pad + 16]);
    }
    state_store(a, s);
}

static void attend_spans(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s)
{
    /* Tokens of several sequences share spans of the first one's row. */
    struct sc_cpu_attn_spans spans =
        sc_cpu_attn_spans(a->seq, a->token0, a->rows != NULL ? 1 : a->n_tokens);

    load_queries(a, s);
    state_clear(a, &s->attn.total);
    for (uint32_t span = a->span0; span < a->span0 + a->n_spans; span++) {
        state_clear(a, &s->attn.span);
        attend_span(a, s, &spans, span);
        if (a->part == NULL)
            state_add_span(a, s);
    }
    if (a->part == NULL)
        state_store(a, s);
    else
        state_put_part(a, s);
}
