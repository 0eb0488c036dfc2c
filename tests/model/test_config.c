#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/config.h"

static const char llama[] =
    "{'model_type':'llama','architectures':['LlamaForCausalLM'],'hidden_size':4096,"
    "'intermediate_size':14336,'num_hidden_layers':32,'num_attention_heads':32,"
    "'num_key_value_heads':8,'vocab_size':128256,'max_position_embeddings':131072,"
    "'rms_norm_eps':1e-5,'rope_theta':500000.0,'hidden_act':'silu','torch_dtype':'bfloat16',"
    "'attention_bias':false,'mlp_bias':false,'pretraining_tp':1,'tie_word_embeddings':false,"
    "'bos_token_id':128000,'eos_token_id':[128001,128008,128009],'rope_scaling':{'factor':8.0,"
    "'high_freq_factor':4.0,'low_freq_factor':1.0,'original_max_position_embeddings':8192,"
    "'rope_type':'llama3'}}";
static const char mistral[] =
    "{'model_type':'mistral','architectures':['MistralForCausalLM'],'hidden_size':4096,"
    "'intermediate_size':14336,'num_hidden_layers':32,'num_attention_heads':32,"
    "'num_key_value_heads':8,'vocab_size':32000,'max_position_embeddings':32768,"
    "'rms_norm_eps':1e-5,'rope_theta':10000.0,'sliding_window':4096,'torch_dtype':'bfloat16',"
    "'bos_token_id':1,'eos_token_id':2}";
static const char qwen2[] =
    "{'model_type':'qwen2','architectures':['Qwen2ForCausalLM'],'hidden_size':3584,"
    "'intermediate_size':18944,'num_hidden_layers':28,'num_attention_heads':28,"
    "'num_key_value_heads':4,'vocab_size':152064,'max_position_embeddings':32768,"
    "'max_window_layers':20,'rms_norm_eps':1e-6,'rope_theta':1000000.0,'sliding_window':131072,"
    "'use_sliding_window':false,'tie_word_embeddings':false,'torch_dtype':'bfloat16',"
    "'use_mrope':false,'bos_token_id':151643,'eos_token_id':151645}";
static const char qwen3[] =
    "{'model_type':'qwen3','architectures':['Qwen3ForCausalLM'],'hidden_size':1024,"
    "'intermediate_size':3072,'num_hidden_layers':28,'num_attention_heads':16,"
    "'num_key_value_heads':8,'head_dim':128,'vocab_size':151936,'max_position_embeddings':40960,"
    "'rms_norm_eps':1e-6,'rope_scaling':null,'rope_theta':1000000,'sliding_window':null,"
    "'use_sliding_window':false,'max_window_layers':28,'tie_word_embeddings':true,"
    "'attention_bias':false,'torch_dtype':'bfloat16','bos_token_id':151643,'eos_token_id':151645}";

/* JSON with ' for ", so that the tables stay readable. The caller frees. */
static char *quoted(const char *text)
{
    char *s = strdup(text);
    assert_non_null(s);
    for (char *p = s; *p != '\0'; p++)
        if (*p == '\'')
            *p = '"';
    return s;
}

static json_t *loaded(const char *text)
{
    char *s = quoted(text);
    json_error_t je;
    json_t *v = json_loads(s, 0, &je);
    if (v == NULL)
        fail_msg("bad JSON in the test: %s: %s", je.text, s);
    free(s);
    return v;
}

/* base with the members of patch; "@absent" takes a member away. */
static enum sc_status parse(const char *base, const char *patch, const char *gen,
                            struct sc_model_config *ret, struct sc_err *err)
{
    json_t *b = loaded(base), *p = loaded(patch), *value;
    const char *key;
    json_object_foreach(p, key, value)
    {
        if (json_is_string(value) && strcmp(json_string_value(value), "@absent") == 0)
            json_object_del(b, key);
        else
            json_object_set(b, key, value);
    }
    char *text = json_dumps(b, 0), *gen_text = gen != NULL ? quoted(gen) : NULL;
    sc_err_clear(err);
    enum sc_status st = sc_model_config_parse(text, strlen(text), gen_text,
                                              gen_text != NULL ? strlen(gen_text) : 0, ret, err);
    free(gen_text);
    free(text);
    json_decref(p);
    json_decref(b);
    return st;
}

static void parse_ok(const char *base, const char *patch, const char *gen,
                     struct sc_model_config *ret)
{
    struct sc_err err = SC_ERR_INIT;
    if (parse(base, patch, gen, ret, &err) != SC_OK)
        fail_msg("%s refused: %s", patch, err.text);
}

struct refusal {
    const char *patch;
    enum sc_status status;
    const char *text; /* part of the message */
};

static void refuse_all(const char *base, const struct refusal *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct sc_err err = SC_ERR_INIT;
        struct sc_model_config config;
        memset(&config, 0x5a, sizeof(config));
        enum sc_status st = parse(base, rows[i].patch, NULL, &config, &err);
        if (st != rows[i].status || strstr(err.text, rows[i].text) == NULL)
            fail_msg("%s: got %s \"%s\", expected %s with \"%s\"", rows[i].patch,
                     sc_status_name(st), err.text, sc_status_name(rows[i].status), rows[i].text);
        for (size_t k = 0; k < sizeof(config); k++)
            assert_int_equal(((unsigned char *)&config)[k], 0x5a); /* untouched on failure */
    }
}

static void llama_3_1_is_read_whole(void **state)
{
    (void)state;
    struct sc_model_config c;
    parse_ok(llama, "{}", NULL, &c);
    assert_int_equal(c.arch, SC_ARCH_LLAMA);
    assert_int_equal(c.n_layers, 32);
    assert_int_equal(c.hidden, 4096);
    assert_int_equal(c.n_heads, 32);
    assert_int_equal(c.n_kv_heads, 8);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.ffn, 14336);
    assert_int_equal(c.vocab, 128256);
    assert_int_equal(c.max_positions, 131072);
    assert_float_equal(c.rms_eps, 1e-5f, 0.0);
    assert_false(c.tied_embeddings);
    assert_false(c.qkv_bias);
    assert_false(c.qk_norm);
    assert_int_equal(c.dtype, SC_DTYPE_BF16);
    assert_int_equal(c.bos_id, 128000);
    assert_int_equal(c.n_eos_ids, 3);
    assert_int_equal(c.eos_ids[2], 128009);
    assert_int_equal(c.rope.kind, SC_ROPE_LLAMA3);
    assert_float_equal(c.rope.theta, 500000.0, 0.0);
    assert_float_equal(c.rope.factor, 8.0, 0.0);
    assert_float_equal(c.rope.low_freq_factor, 1.0, 0.0);
    assert_float_equal(c.rope.high_freq_factor, 4.0, 0.0);
    assert_int_equal(c.rope.original_max_positions, 8192);
    assert_true(c.default_temperature < 0 && c.default_top_p < 0 && c.default_top_k < 0);
    for (uint32_t i = 0; i < c.n_layers; i++)
        assert_int_equal(c.sliding_window[i], 0);
}

static void format_of_transformers_5_means_the_same(void **state)
{
    (void)state;
    struct sc_model_config old, new;
    parse_ok(llama, "{}", NULL, &old);
    parse_ok(llama,
             "{'rope_theta':'@absent','rope_scaling':'@absent','torch_dtype':'@absent',"
             "'dtype':'bfloat16','layer_types':null,'rope_parameters':{'rope_theta':500000.0,"
             "'factor':8.0,'high_freq_factor':4.0,'low_freq_factor':1.0,"
             "'original_max_position_embeddings':8192,'rope_type':'llama3'}}",
             NULL, &new);
    assert_int_equal(old.rope.kind, new.rope.kind);
    assert_float_equal(old.rope.theta, new.rope.theta, 0.0);
    assert_float_equal(old.rope.factor, new.rope.factor, 0.0);
    assert_int_equal(old.rope.original_max_positions, new.rope.original_max_positions);
    assert_int_equal(old.dtype, new.dtype);
}

static void absent_fields_take_the_class_defaults(void **state)
{
    (void)state;
    struct sc_model_config c;
    parse_ok(llama,
             "{'num_key_value_heads':'@absent','rope_theta':'@absent','rope_scaling':null,"
             "'rms_norm_eps':'@absent','tie_word_embeddings':'@absent','hidden_act':'@absent',"
             "'torch_dtype':'@absent','architectures':null,'bos_token_id':null,"
             "'eos_token_id':null}",
             NULL, &c);
    assert_int_equal(c.n_kv_heads, 32);
    assert_int_equal(c.rope.kind, SC_ROPE_DEFAULT);
    assert_float_equal(c.rope.theta, 10000.0, 0.0);
    assert_float_equal(c.rms_eps, 1e-6f, 0.0);
    assert_false(c.tied_embeddings);
    assert_int_equal(c.dtype, SC_DTYPE_F32);
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.n_eos_ids, 0);
    parse_ok(mistral, "{'num_key_value_heads':null}", NULL, &c);
    assert_int_equal(c.n_kv_heads, 32);
    parse_ok(mistral, "{'sliding_window':'@absent'}", NULL, &c);
    assert_int_equal(c.sliding_window[31], 4096);
}

static void mistral_slides_in_every_layer_or_in_none(void **state)
{
    (void)state;
    struct sc_model_config c;
    parse_ok(mistral, "{}", NULL, &c);
    for (uint32_t i = 0; i < c.n_layers; i++)
        assert_int_equal(c.sliding_window[i], 4096);
    parse_ok(mistral, "{'sliding_window':null}", NULL, &c);
    for (uint32_t i = 0; i < c.n_layers; i++)
        assert_int_equal(c.sliding_window[i], 0);
    parse_ok(mistral, "{'hidden_size':5120,'head_dim':128}", NULL, &c); /* NeMo: 5120 / 32 is 160 */
    assert_int_equal(c.head_dim, 128);
    parse_ok(mistral,
             "{'num_hidden_layers':2,'layer_types':['sliding_attention',"
             "'sliding_attention']}",
             NULL, &c);
    assert_int_equal(c.sliding_window[1], 4096);
}

static void qwen2_has_biases_and_windows_from_a_layer_on(void **state)
{
    (void)state;
    struct sc_model_config c;
    parse_ok(qwen2, "{}", NULL, &c);
    assert_int_equal(c.arch, SC_ARCH_QWEN2);
    assert_true(c.qkv_bias);
    assert_false(c.qk_norm);
    assert_int_equal(c.head_dim, 128);
    for (uint32_t i = 0; i < c.n_layers; i++)
        assert_int_equal(c.sliding_window[i], 0); /* use_sliding_window is false */
    parse_ok(qwen2, "{'use_sliding_window':true,'sliding_window':1024}", NULL, &c);
    assert_int_equal(c.sliding_window[19], 0);
    assert_int_equal(c.sliding_window[20], 1024);
    assert_int_equal(c.sliding_window[27], 1024);
    /* layer_types wins over max_window_layers */
    parse_ok(qwen2,
             "{'use_sliding_window':true,'sliding_window':64,'num_hidden_layers':3,"
             "'layer_types':['sliding_attention','full_attention','sliding_attention']}",
             NULL, &c);
    assert_int_equal(c.sliding_window[0], 64);
    assert_int_equal(c.sliding_window[1], 0);
    assert_int_equal(c.sliding_window[2], 64);
}

static void qwen3_has_norms_and_its_own_head_dim(void **state)
{
    (void)state;
    struct sc_model_config c;
    parse_ok(qwen3, "{}", NULL, &c);
    assert_int_equal(c.arch, SC_ARCH_QWEN3);
    assert_true(c.qk_norm);
    assert_false(c.qkv_bias);
    assert_true(c.tied_embeddings);
    assert_int_equal(c.head_dim, 128);
    assert_float_equal(c.rope.theta, 1e6, 0.0); /* written as an integer */
}

static void yarn_extends_the_context(void **state)
{
    (void)state;
    struct sc_model_config c;
    parse_ok(qwen2,
             "{'rope_scaling':{'type':'yarn','factor':4.0,"
             "'original_max_position_embeddings':32768}}",
             NULL, &c);
    assert_int_equal(c.rope.kind, SC_ROPE_YARN);
    assert_int_equal(c.max_positions, 131072);
    assert_float_equal(c.rope.attention_factor, 0.1 * log(4.0) + 1.0, 1e-15);
    assert_float_equal(c.rope.beta_fast, 32.0, 0.0);
    assert_float_equal(c.rope.beta_slow, 1.0, 0.0);
    assert_true(c.rope.truncate);
    parse_ok(qwen3, /* a longer max_position_embeddings is kept */
             "{'max_position_embeddings':200000,'rope_scaling':{'rope_type':'yarn','factor':4.0,"
             "'original_max_position_embeddings':32768}}",
             NULL, &c);
    assert_int_equal(c.max_positions, 200000);
    parse_ok(llama, "{'rope_scaling':{'type':'linear','factor':4.0}}", NULL, &c);
    assert_int_equal(c.rope.kind, SC_ROPE_LINEAR);
    assert_int_equal(c.max_positions, 131072);
}

static void generation_config_adds_stops_and_defaults(void **state)
{
    (void)state;
    struct sc_model_config c;
    parse_ok(qwen2, "{}",
             "{'do_sample':true,'eos_token_id':[151645,151643],'temperature':0.7,'top_p':0.8,"
             "'top_k':20,'repetition_penalty':1.05,'transformers_version':'4.37.0'}",
             &c);
    assert_int_equal(c.n_eos_ids, 2); /* the union */
    assert_int_equal(c.eos_ids[0], 151645);
    assert_int_equal(c.eos_ids[1], 151643);
    assert_float_equal(c.default_temperature, 0.7f, 0.0);
    assert_float_equal(c.default_top_p, 0.8f, 0.0);
    assert_int_equal(c.default_top_k, 20);
    assert_float_equal(c.default_repetition_penalty, 1.05f, 0.0);
    parse_ok(qwen2, "{}", "{'do_sample':false,'temperature':0.7}", &c);
    assert_float_equal(c.default_temperature, 0.0f, 0.0);
    assert_true(c.default_top_p < 0.0f);
}

static void generation_config_is_checked_too(void **state)
{
    (void)state;
    static const struct {
        const char *gen, *text;
    } rows[] = {
        {"{'temperature':-1}", "generation_config.json: temperature is -1, limits 0..100"},
        {"{'top_p':1.5}", "top_p is 1.5, limits 0..1"},
        {"{'top_k':'all'}", "top_k is \"all\", expected an integer"},
        {"{'eos_token_id':[2,152064]}", "eos_token_id is 152064, expected ids below vocab_size"},
        {"{'eos_token_id':[true]}", "eos_token_id is true"},
        {"{'do_sample':1}", "do_sample is 1, expected true or false"},
        {"{'repetition_penalty':0}", "repetition_penalty is 0, limits 0.01..100"},
        {"[1]", "generation_config.json: the root is a list, not an object"},
        {"{'eos_token_id':[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]}", "more than 16 ids"},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(rows); i++) {
        struct sc_err err = SC_ERR_INIT;
        struct sc_model_config c;
        assert_int_not_equal(parse(qwen2, "{}", rows[i].gen, &c, &err), SC_OK);
        if (strstr(err.text, rows[i].text) == NULL)
            fail_msg("%s: \"%s\" lacks \"%s\"", rows[i].gen, err.text, rows[i].text);
    }
}

static void what_changes_the_forward_pass_is_refused_by_name(void **state)
{
    (void)state;
    static const struct refusal rows[] = {
        {"{'model_type':'gpt2'}", SC_ENOTSUP, "model_type is \"gpt2\", known: llama"},
        {"{'model_type':'@absent'}", SC_EINVAL, "model_type is missing"},
        {"{'model_type':7}", SC_EINVAL, "model_type is 7, expected a string"},
        {"{'architectures':['LlamaModel']}", SC_ENOTSUP,
         "[\"LlamaModel\"], expected LlamaForCausal"},
        {"{'architectures':['MistralForCausalLM']}", SC_ENOTSUP, "architectures"},
        {"{'architectures':'LlamaForCausalLM'}", SC_EINVAL, "architectures"},
        {"{'architectures':[]}", SC_EINVAL, "architectures"},
        {"{'hidden_act':'gelu'}", SC_ENOTSUP, "hidden_act is \"gelu\", supported: \"silu\""},
        {"{'quantization_config':{'bits':4}}", SC_ENOTSUP, "quantization_config is an object"},
        {"{'num_experts':8}", SC_ENOTSUP, "num_experts is 8, supported: 0"},
        {"{'num_local_experts':8}", SC_ENOTSUP, "num_local_experts is 8"},
        {"{'attention_bias':true}", SC_ENOTSUP, "attention_bias is true, supported: false"},
        {"{'mlp_bias':true}", SC_ENOTSUP, "mlp_bias is true"},
        {"{'mlp_bias':'false'}", SC_ENOTSUP, "mlp_bias is \"false\""},
        {"{'pretraining_tp':2}", SC_ENOTSUP, "pretraining_tp is 2, supported: 1"},
        {"{'partial_rotary_factor':0.5}", SC_ENOTSUP, "partial_rotary_factor is 0.5, supported: 1"},
        {"{'final_logit_softcapping':30.0}", SC_ENOTSUP, "final_logit_softcapping is 30"},
        {"{'text_config':{}}", SC_ENOTSUP, "text_config is an object"},
        {"{'use_mrope':true}", SC_ENOTSUP, "use_mrope"},
        {"{'embedding_multiplier':12}", SC_ENOTSUP, "embedding_multiplier is 12"},
        {"{'no_rope_layers':[1,0]}", SC_ENOTSUP, "no_rope_layers is a list"},
        {"{'sliding_window':4096}", SC_ENOTSUP,
         "sliding_window is 4096, supported for llama: null"},
        {"{'torch_dtype':'float8_e4m3fn'}", SC_ENOTSUP, "torch_dtype is \"float8_e4m3fn\""},
        {"{'dtype':'float32'}", SC_EINVAL, "dtype is \"float32\", but torch_dtype is \"bfloat16\""},
        {"{'layer_types':['full_attention']}", SC_EINVAL,
         "expected num_hidden_layers 32 names, got 1"},
        {"{'num_hidden_layers':1,'layer_types':['linear_attention']}", SC_ENOTSUP,
         "layer_types[0] is \"linear_attention\""},
        {"{'num_hidden_layers':1,'layer_types':['sliding_attention']}", SC_ENOTSUP,
         "layer_types[0] is \"sliding_attention\", but a llama model"},
    };
    refuse_all(llama, rows, SC_ARRAY_LEN(rows));
    static const struct refusal qwen_rows[] = {
        {"{'use_sliding_window':true,'sliding_window':null,'num_hidden_layers':1,"
         "'layer_types':['sliding_attention']}",
         SC_EINVAL, "use_sliding_window is true and sliding_window null"},
        {"{'num_hidden_layers':1,'layer_types':['sliding_attention']}", SC_EINVAL,
         "use_sliding_window is false"},
        {"{'dual_chunk_attention_config':{'chunk_size':262144}}", SC_ENOTSUP,
         "dual_chunk_attention_config"},
        {"{'num_key_value_heads':'@absent'}", SC_EINVAL, "num_key_value_heads is missing"},
    };
    refuse_all(qwen2, qwen_rows, SC_ARRAY_LEN(qwen_rows));
    static const struct refusal qwen3_rows[] = {
        {"{'head_dim':'@absent'}", SC_EINVAL, "head_dim is missing, required for qwen3"},
        {"{'attention_bias':true}", SC_ENOTSUP, "attention_bias is true"},
    };
    refuse_all(qwen3, qwen3_rows, SC_ARRAY_LEN(qwen3_rows));
}

static void rope_that_is_not_understood_is_refused(void **state)
{
    (void)state;
    static const struct refusal rows[] = {
        {"{'rope_scaling':{'rope_type':'dynamic','factor':2.0}}", SC_ENOTSUP,
         "config.json: rope_scaling: rope_type is \"dynamic\", supported: default, linear"},
        {"{'rope_scaling':{'type':'longrope','short_factor':[1],'long_factor':[1]}}", SC_ENOTSUP,
         "type is \"longrope\""},
        {"{'rope_scaling':{'type':'mrope','mrope_section':[16,24,24]}}", SC_ENOTSUP, "mrope"},
        {"{'rope_scaling':{'rope_type':'default','mrope_section':[16,24,24]}}", SC_ENOTSUP,
         "mrope_section is a list, not understood for this rope_type"},
        {"{'rope_scaling':{'rope_type':'linear','type':'yarn','factor':2.0}}", SC_EINVAL,
         "rope_type is \"linear\", but type is \"yarn\""},
        {"{'rope_scaling':{'rope_type':'linear','factor':2.0,'beta_fast':32}}", SC_ENOTSUP,
         "beta_fast is 32, not understood"},
        {"{'rope_scaling':{'rope_type':'default','factor':2.0}}", SC_ENOTSUP, "factor is 2"},
        {"{'rope_scaling':{'rope_type':'linear'}}", SC_EINVAL, "factor is missing"},
        {"{'rope_scaling':{'rope_type':'linear','factor':0.5}}", SC_ERANGE,
         "factor is 0.5, limits 1..65536"},
        {"{'rope_scaling':{'rope_type':'linear','factor':'4'}}", SC_EINVAL,
         "factor is \"4\", expected a number"},
        {"{'rope_scaling':{'rope_type':'linear','factor':4,'partial_rotary_factor':0.5}}",
         SC_ENOTSUP, "partial_rotary_factor is 0.5"},
        {"{'rope_scaling':{'rope_type':'llama3','factor':8.0}}", SC_EINVAL,
         "low_freq_factor is missing"},
        {"{'rope_scaling':{'rope_type':'llama3','factor':8.0,'low_freq_factor':4.0,"
         "'high_freq_factor':4.0,'original_max_position_embeddings':8192}}",
         SC_EINVAL, "high_freq_factor is 4, expected more than low_freq_factor 4"},
        {"{'rope_scaling':{'rope_type':'yarn','factor':4.0,'beta_fast':1,'beta_slow':2}}",
         SC_EINVAL, "beta_fast is 1, expected at least beta_slow 2"},
        {"{'rope_scaling':{'rope_type':'yarn','factor':65536,"
         "'original_max_position_embeddings':131072}}",
         SC_ERANGE, "makes a context of 8589934592, limit 16777216"},
        {"{'rope_scaling':{'rope_type':'yarn','factor':4.0,'attention_factor':-1}}", SC_ERANGE,
         "attention_factor is -1"},
        {"{'rope_scaling':{'rope_type':'yarn','factor':4.0,"
         "'original_max_position_embeddings':0}}",
         SC_ERANGE, "original_max_position_embeddings is 0, limits 1..16777216"},
        {"{'original_max_position_embeddings':4096}", SC_EINVAL,
         "original_max_position_embeddings is 8192, but at the top level it is 4096"},
        {"{'rope_scaling':'linear'}", SC_EINVAL, "rope_scaling is \"linear\", expected an object"},
        {"{'rope_parameters':{'rope_type':'default'}}", SC_EINVAL,
         "rope_parameters is an object, which differs from rope_scaling"},
        {"{'rope_scaling':null,'rope_parameters':{'rope_type':'default','rope_theta':10000.0}}",
         SC_EINVAL, "rope_theta is 10000, but at the top level it is 500000"},
        {"{'rope_scaling':null,'rope_parameters':{'full_attention':{'rope_type':'default'}}}",
         SC_ENOTSUP, "full_attention is an object, not understood"},
        {"{'rope_theta':0}", SC_ERANGE, "rope_theta is 0, limits 2..1e+12"},
        {"{'rope_theta':-500000.0}", SC_ERANGE, "rope_theta is -500000"},
        {"{'rope_theta':'1e4'}", SC_EINVAL, "rope_theta is \"1e4\", expected a number"},
    };
    refuse_all(llama, rows, SC_ARRAY_LEN(rows));
}

static void numbers_out_of_range_are_refused_with_the_limit(void **state)
{
    (void)state;
    static const struct refusal rows[] = {
        {"{'hidden_size':0}", SC_ERANGE, "hidden_size is 0, limits 1..65536"},
        {"{'hidden_size':65537}", SC_ERANGE, "hidden_size is 65537, limits 1..65536"},
        {"{'hidden_size':-4096}", SC_ERANGE, "hidden_size is -4096, limits 1..65536"},
        {"{'hidden_size':4096.0}", SC_EINVAL, "hidden_size is 4096, expected an integer"},
        {"{'hidden_size':'4096'}", SC_EINVAL, "hidden_size is \"4096\", expected an integer"},
        {"{'hidden_size':null}", SC_EINVAL, "hidden_size is null, expected an integer"},
        {"{'hidden_size':'@absent'}", SC_EINVAL, "hidden_size is missing, expected an integer"},
        {"{'hidden_size':9223372036854775807}", SC_ERANGE, "hidden_size is 9223372036854775807"},
        {"{'hidden_size':4097}", SC_EINVAL, "not a multiple of num_attention_heads 32"},
        {"{'intermediate_size':262145}", SC_ERANGE, "limits 1..262144"},
        {"{'num_hidden_layers':257}", SC_ERANGE, "num_hidden_layers is 257, limits 1..256"},
        {"{'num_attention_heads':513}", SC_ERANGE, "limits 1..512"},
        {"{'num_key_value_heads':5}", SC_EINVAL, "does not divide num_attention_heads 32"},
        {"{'num_key_value_heads':64}", SC_EINVAL, "does not divide"},
        {"{'num_key_value_heads':0}", SC_ERANGE, "limits 1..512"},
        {"{'vocab_size':1048577}", SC_ERANGE, "vocab_size is 1048577, limits 1..1048576"},
        {"{'max_position_embeddings':16777217}", SC_ERANGE, "limits 1..16777216"},
        {"{'max_position_embeddings':1e5}", SC_EINVAL, "expected an integer"},
        {"{'head_dim':257}", SC_ERANGE, "head_dim is 257, limits 2..256"},
        {"{'head_dim':127}", SC_ERANGE, "head_dim is 127, expected an even number"},
        {"{'num_attention_heads':8,'num_key_value_heads':8}", SC_ERANGE, "head_dim is 512"},
        {"{'rms_norm_eps':0}", SC_ERANGE, "rms_norm_eps is 0"},
        {"{'rms_norm_eps':1e300}", SC_ERANGE, "rms_norm_eps is 1e+300"},
        {"{'bos_token_id':128256}", SC_ERANGE, "bos_token_id is 128256, limits 0..128255"},
        {"{'eos_token_id':-1}", SC_ERANGE, "eos_token_id is -1, expected ids below vocab_size"},
        {"{'tie_word_embeddings':'yes'}", SC_EINVAL, "expected true or false"},
    };
    refuse_all(llama, rows, SC_ARRAY_LEN(rows));
}

static void text_that_is_no_json_is_refused_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } rows[] = {
        {"", "config.json:1:0: "},
        {"{", "config.json:1:1: "},
        {"{'a':NaN}", "config.json:1:"},
        {"{'a':Infinity}", "config.json:1:"},
        {"{'a':1e999}", "config.json:1:"},
        {"{'a':99999999999999999999}", "config.json:1:"},
        {"{\n 'a':1,\n 'a':2}", "config.json:3:"},
        {"{} x", "config.json:1:"},
        {"[]", "the root is a list, not an object"},
        {"'llama'", "config.json:1:"},
        {"{'a':'\xff'}", "config.json:1:"},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(rows); i++) {
        struct sc_err err = SC_ERR_INIT;
        struct sc_model_config c;
        char *text = quoted(rows[i].text);
        assert_int_equal(sc_model_config_parse(text, strlen(text), NULL, 0, &c, &err), SC_EFORMAT);
        if (strstr(err.text, rows[i].message) == NULL)
            fail_msg("%s: \"%s\" lacks \"%s\"", text, err.text, rows[i].message);
        free(text);
    }
}

static void a_file_beyond_the_limit_is_refused(void **state)
{
    (void)state;
    struct sc_err err = SC_ERR_INIT;
    struct sc_model_config c;
    size_t len = SC_CONFIG_FILE_BYTES_MAX + 1;
    char *text = malloc(len);
    assert_non_null(text);
    memset(text, ' ', len);
    assert_int_equal(sc_model_config_parse(text, len, NULL, 0, &c, &err), SC_ERANGE);
    assert_non_null(strstr(err.text, "1048577 bytes, limit 1048576"));
    free(text);
}

static void directories_without_config_say_so(void **state)
{
    (void)state;
    struct sc_err err = SC_ERR_INIT;
    struct sc_model_config c;
    assert_int_equal(sc_model_config_load("/nonexistent", &c, &err), SC_ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/config.json: open: "));
    sc_err_clear(&err);
    assert_int_equal(sc_model_config_load(SC_SOURCE_DIR "/tests/golden/llama31", &c, &err), SC_OK);
    assert_int_equal(c.n_eos_ids, 2);
    assert_float_equal(c.default_temperature, 0.6f, 0.0);
}

static void every_family_has_a_name(void **state)
{
    (void)state;
    for (int i = 0; i < SC_ARCH_COUNT; i++)
        assert_string_not_equal(sc_arch_name((enum sc_arch)i), "unknown");
    assert_string_equal(sc_arch_name(SC_ARCH_COUNT), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_3_1_is_read_whole),
        cmocka_unit_test(format_of_transformers_5_means_the_same),
        cmocka_unit_test(absent_fields_take_the_class_defaults),
        cmocka_unit_test(mistral_slides_in_every_layer_or_in_none),
        cmocka_unit_test(qwen2_has_biases_and_windows_from_a_layer_on),
        cmocka_unit_test(qwen3_has_norms_and_its_own_head_dim),
        cmocka_unit_test(yarn_extends_the_context),
        cmocka_unit_test(generation_config_adds_stops_and_defaults),
        cmocka_unit_test(generation_config_is_checked_too),
        cmocka_unit_test(what_changes_the_forward_pass_is_refused_by_name),
        cmocka_unit_test(rope_that_is_not_understood_is_refused),
        cmocka_unit_test(numbers_out_of_range_are_refused_with_the_limit),
        cmocka_unit_test(text_that_is_no_json_is_refused_with_its_place),
        cmocka_unit_test(a_file_beyond_the_limit_is_refused),
        cmocka_unit_test(directories_without_config_say_so),
        cmocka_unit_test(every_family_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
