/* tests/fuzz/fuzz_request.c - the first byte's lowest bit says GenerateRequest or
 * InspectCacheRequest, the rest is the message: refused with a message, or what the scheduler may
 * rely on. The model is a golden one's configuration and tokenizer. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "daemon/convert.h"
#include "daemon/unpack.h"

#define MODEL_DIR SC_SOURCE_DIR "/tests/golden/llama31"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fixture {
    struct sc_model model;
    struct sc_config config;
    struct sc_convert convert;
};

/* Once for all inputs: reading the tokenizer takes longer than a message. */
static const struct fixture *fixture(void)
{
    static struct fixture f;
    struct sc_err err = SC_ERR_INIT;

    if (f.model.tok != NULL)
        return &f;
    sc_config_init(&f.config);
    SC_ASSERT(sc_model_config_load(MODEL_DIR, &f.model.config, &err) == SC_OK);
    SC_ASSERT(sc_tokenizer_open_dir(MODEL_DIR, &f.model.tok, &err) == SC_OK);
    f.model.dir = (char *)(uintptr_t)MODEL_DIR;
    f.convert = (struct sc_convert){
        .model = &f.model, .config = &f.config, .max_context = f.model.config.max_positions};
    return &f;
}

static void check_sampling(const struct sc_sampling *s, uint32_t vocab)
{
    SC_ASSERT(s->temperature >= 0 && s->temperature <= 100);
    SC_ASSERT(s->top_p > 0 && s->top_p <= 1 && s->min_p >= 0 && s->min_p <= 1);
    SC_ASSERT(s->repetition_penalty > 0 && s->repetition_penalty <= 10);
    SC_ASSERT(fabsf(s->presence_penalty) <= 2 && fabsf(s->frequency_penalty) <= 2);
    SC_ASSERT(s->top_k >= -1 && s->top_k <= (int32_t)vocab);
    SC_ASSERT(s->n_logprobs <= SC_TOP_LOGPROBS_MAX && s->n_bias <= SC_LOGIT_BIAS_MAX);
    for (uint32_t i = 0; i < s->n_bias; i++) {
        SC_ASSERT(s->bias[i].id >= 0 && (uint32_t)s->bias[i].id < vocab);
        SC_ASSERT(isfinite(s->bias[i].bias) && (i == 0 || s->bias[i].id > s->bias[i - 1].id));
    }
}

static void check_params(const struct sc_convert *c, const struct sc_params *p)
{
    const struct sc_request_opts *o = &p->opts;
    uint32_t vocab = c->model->config.vocab;
    struct sc_err err = SC_ERR_INIT;

    SC_ASSERT(o->n_prompt >= 1 && (uint64_t)o->n_prompt + o->max_tokens <= c->max_context);
    for (uint32_t i = 0; i < o->n_prompt; i++)
        SC_ASSERT(o->prompt[i] >= 0 && (uint32_t)o->prompt[i] < vocab);
    SC_ASSERT(p->n_outputs >= 1 && p->n_outputs <= SC_OUTPUTS_MAX);
    SC_ASSERT(o->n_stop_strings <= SC_STOP_STRINGS_MAX && o->n_stop_ids <= SC_STOP_IDS_MAX);
    for (uint32_t i = 0; i < o->n_stop_ids; i++)
        SC_ASSERT(o->stop_ids[i] >= 0 && (uint32_t)o->stop_ids[i] < vocab);
    SC_ASSERT(sc_recipe_check(&o->recipe, &err) == SC_OK);
    check_sampling(&o->sampling, vocab);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct fixture *f = fixture();
    struct sc_unpacked u = {0};
    struct sc_params params;
    struct sc_err err = SC_ERR_INIT;
    bool inspect;
    enum sc_status st;

    if (size == 0)
        return 0;
    inspect = (data[0] & 1) != 0;
    st = sc_unpack(inspect ? &semanticache__v1__inspect_cache_request__descriptor
                           : &semanticache__v1__generate_request__descriptor,
                   data + 1, size - 1, &u, &err);
    if (st != SC_OK) {
        SC_ASSERT(err.text[0] != '\0' && u.message == NULL);
        sc_unpacked_fini(&u);
        return 0;
    }
    if (inspect)
        st = sc_convert_inspect(
            &f->convert, (const Semanticache__V1__InspectCacheRequest *)u.message, &params, &err);
    else
        st = sc_convert_generate(&f->convert, (const Semanticache__V1__GenerateRequest *)u.message,
                                 &params, &err);
    if (st == SC_OK) {
        check_params(&f->convert, &params);
        sc_params_fini(&params);
    } else {
        SC_ASSERT(err.text[0] != '\0');
    }
    sc_unpacked_fini(&u);
    SC_ASSERT(u.used_bytes == 0);
    return 0;
}
