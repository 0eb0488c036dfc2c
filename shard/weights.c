/* Loading one rank's slice of the checkpoint: only the rows and columns it needs are ever touched.
 */
#include "shard/rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum sc_status sc_slice_init(const struct sc_model_config *c, uint32_t rank, uint32_t n_ranks,
                             struct sc_slice *ret_slice, struct sc_err *err)
{
    struct sc_slice s = {.owns_kv = true};

    if (n_ranks == 0 || n_ranks > SC_RANKS_MAX)
        return sc_fail(err, SC_EINVAL, "tensor parallel size: %u, must be 1..%u", n_ranks,
                       SC_RANKS_MAX);
    if (c->n_heads % n_ranks != 0)
        return sc_fail(err, SC_EINVAL,
                       "tensor parallel size %u does not divide num_attention_heads %u", n_ranks,
                       c->n_heads);
    if (c->ffn % n_ranks != 0)
        return sc_fail(err, SC_EINVAL,
                       "tensor parallel size %u does not divide intermediate_size %u", n_ranks,
                       c->ffn);
    if (c->n_kv_heads % n_ranks != 0 && n_ranks % c->n_kv_heads != 0)
        return sc_fail(err, SC_EINVAL,
                       "tensor parallel size %u neither divides num_key_value_heads %u nor is a "
                       "multiple of it",
                       n_ranks, c->n_kv_heads);
    s.n_heads = c->n_heads / n_ranks;
    s.head0 = rank * s.n_heads;
    if (n_ranks <= c->n_kv_heads) {
        s.n_kv_heads = c->n_kv_heads / n_ranks;
        s.kv_head0 = rank * s.n_kv_heads;
    } else { /* several ranks share a KV head; the first of them counts its distances */
        uint32_t replicas = n_ranks / c->n_kv_heads;
        s.n_kv_heads = 1;
        s.kv_head0 = rank / replicas;
        s.owns_kv = rank % replicas == 0;
    }
    s.ffn = c->ffn / n_ranks;
    s.ffn0 = rank * s.ffn;
    for (uint32_t r = 0; r < n_ranks; r++) {
        s.vocab_widths[r] = c->vocab / n_ranks + (r < c->vocab % n_ranks);
        if (r < rank)
            s.vocab0 += s.vocab_widths[r];
    }
    s.n_vocab = s.vocab_widths[rank];
    *ret_slice = s;
    return SC_OK;
}

/* The part of a tensor that one part of a matrix is made of. */
struct source {
    char name[96];
    struct sc_tensor_view view;
    uint64_t row0, n_rows, col0, n_cols;
};

/* What every loader below needs; the first error stays in st. */
struct loader {
    struct sc_backend *be;
    const struct sc_model *model;
    const struct sc_slice *slice;
    enum sc_dtype store;
    struct source sources[3]; /* of the matrix that is opened next */
    uint32_t n_sources;
    uint64_t source_bytes;
    uint64_t kept_bytes;
    double error2, norm2, worst;
    enum sc_status st;
    struct sc_err *err;
};

static float element(const void *data, enum sc_dtype dtype, uint64_t i)
{
    const unsigned char *p = (const unsigned char *)data + i * sc_dtype_bytes(dtype);
    float f;
    uint16_t h;
    if (dtype == SC_DTYPE_F32) {
        memcpy(&f, p, sizeof(f));
        return f;
    }
    memcpy(&h, p, sizeof(h));
    return dtype == SC_DTYPE_BF16 ? sc_bf16_to_f32(h) : sc_f16_to_f32(h);
}

static bool view(struct loader *ld, const char *name, uint64_t dim0, uint64_t dim1,
                 struct sc_tensor_view *ret_view)
{
    if (ld->st == SC_OK)
        ld->st = sc_tensors_get_shaped(ld->model->tensors, name, dim0, dim1, ret_view, ld->err);
    return ld->st == SC_OK;
}

/* Refuses a checkpoint with an element of [first, first + n) that is NaN or infinite: what is
 * computed from a NaN need not show it, for maxima skip it, and would be an answer. Here rather
 * than in a backend, since only here the element has a name. */
static void check_finite(struct loader *ld, const char *name, const struct sc_tensor_view *v,
                         uint64_t first, uint64_t n)
{
    const unsigned char *data = v->data;

    if (ld->st != SC_OK)
        return;
    const uint64_t at =
        first + sc_dtype_count_finite(data + first * sc_dtype_bytes(v->dtype), v->dtype, n);
    if (at == first + n)
        return;
    const double value = (double)element(data, v->dtype, at);
    if (v->n_dims == 2)
        ld->st = sc_fail(ld->err, SC_EFORMAT, "%s[%llu, %llu] is %g, must be finite", name,
                         (unsigned long long)(at / v->shape[1]),
                         (unsigned long long)(at % v->shape[1]), value);
    else
        ld->st = sc_fail(ld->err, SC_EFORMAT, "%s[%llu] is %g, must be finite", name,
                         (unsigned long long)at, value);
}

static void tensor_name(char *buf, size_t bytes, uint32_t layer, const char *rest)
{
    (void)snprintf(buf, bytes, "model.layers.%u.%s", layer, rest);
}

/* A vector as f32 on the device; all ranks hold it whole. */
static float *load_vector(struct loader *ld, const char *name, uint32_t n)
{
    struct sc_tensor_view v;
    void *mem = NULL;
    float *host = NULL;

    if (view(ld, name, n, 0, &v))
        check_finite(ld, name, &v, 0, n);
    if (ld->st != SC_OK)
        return NULL;
    host = malloc(n * sizeof(*host));
    if (host == NULL) {
        ld->st = sc_fail(ld->err, SC_ENOMEM, "%s: out of memory", name);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++)
        host[i] = element(v.data, v.dtype, i);
    ld->st = ld->be->ops->alloc(ld->be, n * sizeof(*host), &mem, ld->err);
    if (ld->st == SC_OK)
        ld->st = ld->be->ops->upload(ld->be, mem, host, n * sizeof(*host), ld->err);
    free(host);
    return mem; /* freed by sc_weights_close even when the upload failed */
}

/* Rows row0 .. row0 + n of a [n_rows, n_cols] weight, columns col0 onwards. */
static struct sc_matrix_part part(struct loader *ld, const char *name, uint64_t n_rows,
                                  uint64_t n_cols, uint64_t row0, uint64_t n, uint64_t col0,
                                  uint64_t used_cols)
{
    struct sc_tensor_view v;
    if (!view(ld, name, n_rows, n_cols, &v))
        return (struct sc_matrix_part){0};
    struct source *source = &ld->sources[ld->n_sources++];
    *source =
        (struct source){.view = v, .row0 = row0, .n_rows = n, .col0 = col0, .n_cols = used_cols};
    (void)snprintf(source->name, sizeof(source->name), "%s", name);
    size_t elem = sc_dtype_bytes(v.dtype);
    ld->source_bytes += n * used_cols * elem;
    return (struct sc_matrix_part){
        .data = (const char *)v.data + row0 * n_cols * elem,
        .dtype = v.dtype,
        .n_rows = n,
        .row_stride = n_cols,
        .col0 = col0,
    };
}

/* Names a weight of the matrix at hand that is not finite, if there is one. */
static void check_sources(struct loader *ld)
{
    for (uint32_t i = 0; i < ld->n_sources; i++) {
        const struct source *s = &ld->sources[i];
        const uint64_t stride = s->view.shape[1];
        /* The scale of an int8 row is that of all its columns: all ranks name the same weight. */
        if (s->n_cols == stride || ld->store == SC_DTYPE_I8) {
            check_finite(ld, s->name, &s->view, s->row0 * stride, s->n_rows * stride);
            continue;
        }
        for (uint64_t row = s->row0; row < s->row0 + s->n_rows; row++)
            check_finite(ld, s->name, &s->view, row * stride + s->col0, s->n_cols);
    }
}

static struct sc_matrix *open_matrix(struct loader *ld, const struct sc_matrix_part *parts,
                                     uint32_t n_parts, uint64_t n_in, const float *bias)
{
    const struct sc_backend_ops *ops = ld->be->ops;
    struct sc_matrix *m = NULL;
    struct sc_err why = SC_ERR_INIT;
    if (ld->st == SC_OK) {
        const enum sc_status st =
            ops->matrix_open(ld->be, parts, n_parts, n_in, bias, ld->store, &m, &why);
        /* Of int8 a row that has no scale is SC_EINVAL. */
        const bool seen = ops->matrix_is_finite != NULL;
        if (st == SC_OK ? !seen || !ops->matrix_is_finite(m) : st == SC_EINVAL)
            check_sources(ld);
        if (st == SC_OK && ld->st == SC_OK && seen && !ops->matrix_is_finite(m))
            ld->st = sc_fail(ld->err, SC_EFORMAT,
                             "%s: a weight is too large for %s: it would be infinite",
                             ld->sources[0].name, sc_dtype_name(ld->store));
        if (st != SC_OK && ld->st == SC_OK)
            ld->st = sc_fail(ld->err, st, "%s", why.text);
    }
    ld->n_sources = 0;
    if (m != NULL && ops->matrix_error != NULL) {
        double error2 = 0.0, norm2 = 0.0;
        ops->matrix_error(m, &error2, &norm2);
        ld->error2 += error2;
        ld->norm2 += norm2;
        if (norm2 > 0.0 && error2 / norm2 > ld->worst)
            ld->worst = error2 / norm2;
    }
    if (m != NULL)
        ld->kept_bytes += ops->matrix_bytes(m);
    return m;
}

static void append_bias(struct loader *ld, float *bias, size_t *at, uint32_t layer,
                        const char *rest, uint32_t n_all, uint32_t row0, uint32_t n)
{
    char name[96];
    struct sc_tensor_view v;
    tensor_name(name, sizeof(name), layer, rest);
    if (view(ld, name, n_all, 0, &v))
        check_finite(ld, name, &v, row0, n);
    if (ld->st == SC_OK)
        for (uint32_t i = 0; i < n; i++)
            bias[(*at)++] = element(v.data, v.dtype, row0 + i);
}

static struct sc_matrix *load_qkv(struct loader *ld, uint32_t layer)
{
    const struct sc_model_config *c = &ld->model->config;
    const struct sc_slice *s = ld->slice;
    const uint32_t hd = c->head_dim;
    struct sc_matrix_part parts[3];
    struct sc_matrix *m;
    float *bias = NULL;
    char name[96];

    tensor_name(name, sizeof(name), layer, "self_attn.q_proj.weight");
    parts[0] =
        part(ld, name, c->n_heads * hd, c->hidden, s->head0 * hd, s->n_heads * hd, 0, c->hidden);
    tensor_name(name, sizeof(name), layer, "self_attn.k_proj.weight");
    parts[1] = part(ld, name, c->n_kv_heads * hd, c->hidden, s->kv_head0 * hd, s->n_kv_heads * hd,
                    0, c->hidden);
    tensor_name(name, sizeof(name), layer, "self_attn.v_proj.weight");
    parts[2] = part(ld, name, c->n_kv_heads * hd, c->hidden, s->kv_head0 * hd, s->n_kv_heads * hd,
                    0, c->hidden);
    if (c->qkv_bias && ld->st == SC_OK) {
        size_t at = 0;
        bias = calloc((size_t)(s->n_heads + 2 * s->n_kv_heads) * hd, sizeof(*bias));
        if (bias == NULL) {
            ld->st = sc_fail(ld->err, SC_ENOMEM, "layer %u: out of memory for biases", layer);
            return NULL;
        }
        append_bias(ld, bias, &at, layer, "self_attn.q_proj.bias", c->n_heads * hd, s->head0 * hd,
                    s->n_heads * hd);
        append_bias(ld, bias, &at, layer, "self_attn.k_proj.bias", c->n_kv_heads * hd,
                    s->kv_head0 * hd, s->n_kv_heads * hd);
        append_bias(ld, bias, &at, layer, "self_attn.v_proj.bias", c->n_kv_heads * hd,
                    s->kv_head0 * hd, s->n_kv_heads * hd);
    }
    m = open_matrix(ld, parts, 3, c->hidden, bias);
    free(bias);
    return m;
}

static void load_layer(struct loader *ld, uint32_t layer, struct sc_layer *w)
{
    const struct sc_model_config *c = &ld->model->config;
    const struct sc_slice *s = ld->slice;
    struct sc_matrix_part parts[2];
    char name[96];

    tensor_name(name, sizeof(name), layer, "input_layernorm.weight");
    w->in_norm = load_vector(ld, name, c->hidden);
    tensor_name(name, sizeof(name), layer, "post_attention_layernorm.weight");
    w->post_norm = load_vector(ld, name, c->hidden);
    if (c->qk_norm) {
        tensor_name(name, sizeof(name), layer, "self_attn.q_norm.weight");
        w->q_norm = load_vector(ld, name, c->head_dim);
        tensor_name(name, sizeof(name), layer, "self_attn.k_norm.weight");
        w->k_norm = load_vector(ld, name, c->head_dim);
    }
    w->qkv = load_qkv(ld, layer);
    tensor_name(name, sizeof(name), layer, "self_attn.o_proj.weight");
    parts[0] = part(ld, name, c->hidden, c->n_heads * c->head_dim, 0, c->hidden,
                    s->head0 * c->head_dim, s->n_heads * c->head_dim);
    w->o = open_matrix(ld, parts, 1, s->n_heads * c->head_dim, NULL);
    tensor_name(name, sizeof(name), layer, "mlp.gate_proj.weight");
    parts[0] = part(ld, name, c->ffn, c->hidden, s->ffn0, s->ffn, 0, c->hidden);
    tensor_name(name, sizeof(name), layer, "mlp.up_proj.weight");
    parts[1] = part(ld, name, c->ffn, c->hidden, s->ffn0, s->ffn, 0, c->hidden);
    w->gate_up = open_matrix(ld, parts, 2, c->hidden, NULL);
    tensor_name(name, sizeof(name), layer, "mlp.down_proj.weight");
    parts[0] = part(ld, name, c->hidden, c->ffn, 0, c->hidden, s->ffn0, s->ffn);
    w->down = open_matrix(ld, parts, 1, s->ffn, NULL);
}

enum sc_status sc_weights_open(const struct sc_rank *rank, struct sc_weights *ret_weights,
                               struct sc_err *err)
{
    struct sc_backend *be = rank->be;
    const struct sc_engine_opts *opts = rank->opts;
    const struct sc_slice *slice = &rank->slice;
    const struct sc_model_config *c = &opts->model->config;
    struct loader ld = {
        .be = be, .model = opts->model, .slice = slice, .store = opts->weight_dtype, .err = err};
    struct sc_weights w = {0};
    struct sc_tensor_view v;
    struct sc_matrix_part head;

    w.layers = calloc(c->n_layers, sizeof(*w.layers));
    if (w.layers == NULL)
        return sc_fail(err, SC_ENOMEM, "weights: out of memory for %u layers", c->n_layers);
    if (view(&ld, "model.embed_tokens.weight", c->vocab, c->hidden, &v) && !c->tied_embeddings)
        check_finite(&ld, "model.embed_tokens.weight", &v, (uint64_t)slice->vocab0 * c->hidden,
                     (uint64_t)slice->n_vocab * c->hidden);
    if (ld.st == SC_OK)
        ld.st = be->ops->embedding_open(be, v.data, v.dtype, slice->vocab0, slice->n_vocab,
                                        c->hidden, &w.embedding, err);
    for (uint32_t l = 0; l < c->n_layers && ld.st == SC_OK; l++) {
        load_layer(&ld, l, &w.layers[l]);
        if (opts->on_load != NULL && ld.st == SC_OK)
            opts->on_load(opts->on_load_ctx, rank->rank, l + 1, c->n_layers);
    }
    w.final_norm = load_vector(&ld, "model.norm.weight", c->hidden);
    head = part(&ld, c->tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight", c->vocab,
                c->hidden, slice->vocab0, slice->n_vocab, 0, c->hidden);
    w.lm_head = open_matrix(&ld, &head, 1, c->hidden, NULL);
    w.source_bytes = ld.source_bytes;
    w.error2 = ld.error2;
    w.norm2 = ld.norm2;
    w.worst = ld.worst;
    w.kept_bytes = ld.kept_bytes;
    if (ld.st != SC_OK) {
        sc_weights_close(be, c->n_layers, &w);
        return ld.st;
    }
    *ret_weights = w;
    return SC_OK;
}

void sc_weights_close(struct sc_backend *be, uint32_t n_layers, struct sc_weights *w)
{
    for (uint32_t l = 0; w->layers != NULL && l < n_layers; l++) {
        struct sc_layer *layer = &w->layers[l];
        float *vectors[] = {layer->in_norm, layer->post_norm, layer->q_norm, layer->k_norm};
        struct sc_matrix *matrices[] = {layer->qkv, layer->o, layer->gate_up, layer->down};
        for (size_t i = 0; i < SC_ARRAY_LEN(vectors); i++)
            be->ops->free(be, vectors[i]);
        for (size_t i = 0; i < SC_ARRAY_LEN(matrices); i++)
            if (matrices[i] != NULL)
                be->ops->matrix_close(be, matrices[i]);
    }
    if (w->lm_head != NULL)
        be->ops->matrix_close(be, w->lm_head);
    if (w->embedding != NULL)
        be->ops->embedding_close(be, w->embedding);
    be->ops->free(be, w->final_norm);
    free(w->layers);
    *w = (struct sc_weights){0};
}
