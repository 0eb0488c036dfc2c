#include "bench/random_model.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

struct shape {
    const char *name;
    uint32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab;
    bool tied;
};

static const struct shape shapes[] = {
    {"micro", 2, 128, 4, 2, 32, 256, 512, true},         /* for tests under an emulator */
    {"micro-128K", 2, 128, 4, 2, 32, 256, 128256, true}, /* little but logits */
    {"tiny", 4, 256, 8, 4, 32, 512, 4096, true},
    {"0.1B", 12, 768, 12, 4, 64, 2048, 4096, true},
    {"1B", 16, 2048, 32, 8, 64, 8192, 32000, true},
    {"Llama-3.1-70B/8", 80, 8192, 8, 1, 128, 3584, 16032, false},  /* one rank's slice of eight */
    {"Llama-3.1-8B:8", 8, 4096, 32, 8, 128, 14336, 128256, false}, /* eight of its layers */
    {"Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256, false},
};

#define HEADER_BYTES    ((size_t)1 << 20)
#define STOP_ID         1 /* the token "." */
#define SENTENCE_TOKENS 16u
#define POOL_TOKENS     16u /* different tokens of each POOL_SPAN */
#define POOL_SPAN       64u

#define FILL_THREADS_MAX 31

struct sc_random_model {
    struct sc_model model;
    char *mem;
    size_t mem_bytes, data_at, keep_bytes; /* keep: header and embedding */
    uint64_t params;
};

const char *sc_random_model_shape(uint32_t i)
{
    return i < SC_ARRAY_LEN(shapes) ? shapes[i].name : NULL;
}

/* ---- the safetensors file in memory ---- */

struct writer {
    char *text; /* NULL: only counts */
    size_t len, at;
};

static void add_tensor(struct writer *w, const char *name, uint64_t dim0, uint64_t dim1)
{
    uint64_t bytes = 2 * dim0 * (dim1 > 0 ? dim1 : 1);
    char dims[64];
    if (dim1 > 0)
        (void)snprintf(dims, sizeof(dims), "%llu,%llu", (unsigned long long)dim0,
                       (unsigned long long)dim1);
    else
        (void)snprintf(dims, sizeof(dims), "%llu", (unsigned long long)dim0);
    if (w->text != NULL)
        w->len += (size_t)snprintf(
            w->text + w->len, HEADER_BYTES - w->len,
            "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
            w->len == 0 ? "{" : ",", name, dims, (unsigned long long)w->at,
            (unsigned long long)(w->at + bytes));
    w->at += bytes;
}

static void add_layer(struct writer *w, const struct sc_model_config *c, uint32_t layer)
{
    const uint64_t q = (uint64_t)c->n_heads * c->head_dim,
                   kv = (uint64_t)c->n_kv_heads * c->head_dim;
    const struct {
        const char *name;
        uint64_t dim0, dim1;
        bool wanted;
    } tensors[] = {
        {"input_layernorm.weight", c->hidden, 0, true},
        {"self_attn.q_proj.weight", q, c->hidden, true},
        {"self_attn.k_proj.weight", kv, c->hidden, true},
        {"self_attn.v_proj.weight", kv, c->hidden, true},
        {"self_attn.q_proj.bias", q, 0, c->qkv_bias},
        {"self_attn.k_proj.bias", kv, 0, c->qkv_bias},
        {"self_attn.v_proj.bias", kv, 0, c->qkv_bias},
        {"self_attn.q_norm.weight", c->head_dim, 0, c->qk_norm},
        {"self_attn.k_norm.weight", c->head_dim, 0, c->qk_norm},
        {"self_attn.o_proj.weight", c->hidden, q, true},
        {"post_attention_layernorm.weight", c->hidden, 0, true},
        {"mlp.gate_proj.weight", c->ffn, c->hidden, true},
        {"mlp.up_proj.weight", c->ffn, c->hidden, true},
        {"mlp.down_proj.weight", c->hidden, c->ffn, true},
    };
    char name[96];
    for (size_t i = 0; i < SC_ARRAY_LEN(tensors); i++) {
        if (!tensors[i].wanted)
            continue;
        (void)snprintf(name, sizeof(name), "model.layers.%u.%s", layer, tensors[i].name);
        add_tensor(w, name, tensors[i].dim0, tensors[i].dim1);
    }
}

/* The embedding comes first: it is what release keeps. */
static void add_all(struct writer *w, const struct sc_model_config *c, uint64_t *ret_embedding)
{
    add_tensor(w, "model.embed_tokens.weight", c->vocab, c->hidden);
    *ret_embedding = w->at;
    for (uint32_t l = 0; l < c->n_layers; l++)
        add_layer(w, c, l);
    add_tensor(w, "model.norm.weight", c->hidden, 0);
    if (!c->tied_embeddings)
        add_tensor(w, "lm_head.weight", c->vocab, c->hidden);
}

static enum sc_status map_tensors(struct sc_random_model *m, struct sc_err *err)
{
    struct writer count = {0}, w = {0};
    uint64_t embedding;

    add_all(&count, &m->model.config, &embedding);
    m->mem_bytes = HEADER_BYTES + 8 + count.at;
    m->mem = mmap(NULL, m->mem_bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->mem == MAP_FAILED) {
        m->mem = NULL;
        return sc_fail(err, SC_ENOMEM, "random weights: %zu bytes", m->mem_bytes);
    }
    (void)madvise(m->mem, m->mem_bytes, MADV_HUGEPAGE);
    w.text = m->mem + 8;
    add_all(&w, &m->model.config, &embedding);
    w.text[w.len++] = '}';
    memset(w.text + w.len, ' ', HEADER_BYTES - w.len);
    memcpy(m->mem, &(uint64_t){HEADER_BYTES}, sizeof(uint64_t));
    m->data_at = 8 + HEADER_BYTES;
    m->keep_bytes = m->data_at + embedding;
    m->params = count.at / 2;
    return sc_tensors_open_memory(m->mem, m->mem_bytes, &m->model.tensors, err);
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* About normal, as trained weights are, which shows in their exponents: sums of four uniform
 * numbers, scaled to the mean square SC_RANDOM_MODEL_SQUARE. */
static void draw(uint64_t *state, uint16_t *to, size_t n)
{
    const float scale = sqrtf((float)SC_RANDOM_MODEL_SQUARE * 3.0f) / 65536.0f;
    for (size_t i = 0; i < n; i++) {
        uint64_t r = next_random(state);
        int32_t sum = (int32_t)(r & 0xffff) + (int32_t)(r >> 16 & 0xffff) +
                      (int32_t)(r >> 32 & 0xffff) + (int32_t)(r >> 48);
        to[i] = sc_f32_to_bf16((float)(sum - 2 * 65535) * scale);
    }
}

#define FILL_SEED 88172645463325252ull
#define FILL_PART ((size_t)1 << 22) /* elements: what they are does not depend on who fills them   \
                                     */

struct fill {
    const uint16_t *drawn; /* [65536] */
    uint16_t *to;
    size_t n;
    _Atomic size_t next; /* the first part that nobody has taken */
};

/* From the table of drawn weights, four elements at a time. */
static void *fill_parts(void *arg)
{
    struct fill *f = arg;
    for (size_t part = f->next++; part * FILL_PART < f->n; part = f->next++) {
        const size_t from = part * FILL_PART, rest = f->n - from;
        const size_t end = from + (rest < FILL_PART ? rest : FILL_PART);
        uint64_t state = sc_mix64(FILL_SEED + part);
        for (size_t i = from; i + 4 <= end; i += 4) {
            uint64_t r = next_random(&state);
            for (size_t j = 0; j < 4; j++, r >>= 16)
                f->to[i + j] = f->drawn[r & 0xffff];
        }
    }
    return NULL;
}

/* Tens of gigabytes: by as many threads as there are processors. */
void sc_random_model_fill(struct sc_random_model *m)
{
    uint16_t drawn[65536];
    uint64_t state = FILL_SEED;
    struct fill f = {.drawn = drawn,
                     .to = (uint16_t *)(void *)(m->mem + m->data_at),
                     .n = (m->mem_bytes - m->data_at) / sizeof(uint16_t)};
    pthread_t threads[FILL_THREADS_MAX];
    long n_threads = sysconf(_SC_NPROCESSORS_ONLN) - 1;
    long begun = 0;

    draw(&state, drawn, SC_ARRAY_LEN(drawn));
    while (begun < n_threads && begun < FILL_THREADS_MAX &&
           pthread_create(&threads[begun], NULL, fill_parts, &f) == 0)
        begun++;
    (void)fill_parts(&f);
    for (long i = 0; i < begun; i++)
        (void)pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < sc_tensors_count(m->model.tensors); i++) {
        const char *name = sc_tensors_name(m->model.tensors, i);
        struct sc_err err = SC_ERR_INIT;
        struct sc_tensor_view v;
        if (strstr(name, "norm") == NULL ||
            sc_tensors_get(m->model.tensors, name, &v, &err) != SC_OK)
            continue;
        uint16_t *ones = (uint16_t *)(void *)(m->mem + ((const char *)v.data - m->mem));
        for (uint64_t e = 0; e < v.bytes / 2; e++)
            ones[e] = 0x3f80;
    }
}

void sc_random_model_release(struct sc_random_model *m)
{
    size_t from = (m->keep_bytes + 4095) / 4096 * 4096;
    if (from < m->mem_bytes)
        (void)madvise(m->mem + from, m->mem_bytes - from, MADV_DONTNEED);
}

/* ---- the model ---- */

static enum sc_status shape_config(const char *name, struct sc_model_config *c, struct sc_err *err)
{
    struct stat info;
    for (size_t i = 0; i < SC_ARRAY_LEN(shapes); i++) {
        const struct shape *s = &shapes[i];
        if (strcmp(s->name, name) != 0)
            continue;
        *c = (struct sc_model_config){
            .arch = SC_ARCH_LLAMA,
            .n_layers = s->n_layers,
            .hidden = s->hidden,
            .n_heads = s->n_heads,
            .n_kv_heads = s->n_kv_heads,
            .head_dim = s->head_dim,
            .ffn = s->ffn,
            .vocab = s->vocab,
            .rms_eps = 1e-5f,
            .tied_embeddings = s->tied,
            .rope = {.kind = SC_ROPE_DEFAULT, .theta = 500000.0, .factor = 1.0},
            .dtype = SC_DTYPE_BF16,
            .bos_id = -1,
        };
        return SC_OK;
    }
    if (stat(name, &info) != 0 || !S_ISDIR(info.st_mode))
        return sc_fail(err, SC_EINVAL, "shape %s: neither a known shape nor a directory", name);
    return sc_model_config_load(name, c, err);
}

enum sc_status sc_random_model_open(const char *shape, uint32_t max_positions,
                                    struct sc_random_model **ret_model, struct sc_err *err)
{
    static const char tokenizer[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\".\":1,\"b\":2,\"c\":%u},\"merges\":[]},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"trim_offsets\":true,\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"}}";
    struct sc_random_model *m = calloc(1, sizeof(*m));
    char text[sizeof(tokenizer) + 16];
    enum sc_status st;

    if (m == NULL)
        return sc_fail(err, SC_ENOMEM, "random model: out of memory");
    st = shape_config(shape, &m->model.config, err);
    if (st == SC_OK) {
        m->model.config.max_positions = max_positions;
        st = map_tensors(m, err);
    }
    if (st == SC_OK)
        (void)snprintf(text, sizeof(text), tokenizer, m->model.config.vocab - 1); /* as many ids */
    if (st == SC_OK)
        st = sc_tokenizer_open_memory(text, strlen(text), NULL, 0, &m->model.tok, err);
    if (st != SC_OK) {
        sc_random_model_close(m);
        return st;
    }
    *ret_model = m;
    return SC_OK;
}

void sc_random_model_close(struct sc_random_model *m)
{
    if (m == NULL)
        return;
    sc_tokenizer_close(m->model.tok);
    sc_tensors_close(m->model.tensors);
    if (m->mem != NULL)
        (void)munmap(m->mem, m->mem_bytes);
    free(m);
}

const struct sc_model *sc_random_model_get(const struct sc_random_model *m)
{
    return &m->model;
}

uint64_t sc_random_model_params(const struct sc_random_model *m)
{
    return m->params;
}

uint64_t sc_random_model_layer_weights(const struct sc_random_model *m)
{
    const struct sc_model_config *c = &m->model.config;
    uint64_t attn = 2ull * (c->n_heads + c->n_kv_heads) * c->head_dim * c->hidden;
    return c->n_layers * (attn + 3ull * c->ffn * c->hidden);
}

uint64_t sc_random_model_head_weights(const struct sc_random_model *m)
{
    return (uint64_t)m->model.config.vocab * m->model.config.hidden;
}

void sc_random_model_tokens(const struct sc_random_model *m, int32_t *ret_tokens, uint32_t n)
{
    const uint32_t first = 3, n_ids = m->model.config.vocab - first;
    uint64_t state = 362436069ull;
    int32_t pool[POOL_TOKENS];

    for (uint32_t i = 0; i < n; i++) {
        if (i % POOL_SPAN == 0)
            for (uint32_t p = 0; p < POOL_TOKENS; p++)
                pool[p] = (int32_t)(first + (next_random(&state) >> 20) % n_ids);
        uint64_t r = next_random(&state) >> 20;
        ret_tokens[i] = r % SENTENCE_TOKENS == 0 ? STOP_ID : pool[(r >> 8) % POOL_TOKENS];
    }
}
