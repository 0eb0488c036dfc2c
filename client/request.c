#include "client/request.h"

#include "proto/optional.h"

#include <string.h>

static enum sc_status no_memory(struct sc_err *err)
{
    return sc_fail(err, SC_ENOMEM, "request: no memory");
}

/* Sets the scalar field that the option names. Choices are numbered as the enum's values from 1 on:
 * a test compares their names. */
static void set_field(ProtobufCMessage *message, const struct sc_opt_spec *spec,
                      const struct sc_arg_value *v)
{
    const ProtobufCFieldDescriptor *f =
        protobuf_c_message_descriptor_get_field_by_name(message->descriptor, spec->field);
    SC_ASSERT(f != NULL);
    void *at = (char *)message + f->offset;
    switch (f->type) {
    case PROTOBUF_C_TYPE_FLOAT:
        *(float *)at = (float)v->real;
        break;
    case PROTOBUF_C_TYPE_UINT32:
        *(uint32_t *)at = (uint32_t)v->u;
        break;
    case PROTOBUF_C_TYPE_UINT64:
        *(uint64_t *)at = v->u;
        break;
    case PROTOBUF_C_TYPE_INT32:
        *(int32_t *)at = (int32_t)v->i;
        break;
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)at = v->on;
        break;
    case PROTOBUF_C_TYPE_ENUM:
        *(uint32_t *)at = v->choice + 1;
        break;
    default:
        SC_ASSERT(!"a field type that no option has");
    }
    if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
        sc_pb_mark(message, spec->field);
}

static bool set_fields(ProtobufCMessage *message, const struct sc_args *args, enum sc_opt_id first,
                       enum sc_opt_id last)
{
    bool any = false;
    for (int id = (int)first; id <= (int)last; id++) {
        const struct sc_opt_spec *spec = sc_opt_spec((enum sc_opt_id)id);
        const struct sc_arg_value *v = sc_arg(args, (enum sc_opt_id)id);
        if (!v->set)
            continue;
        any = true;
        if (spec->field != NULL)
            set_field(message, spec, v);
    }
    return any;
}

static enum sc_status set_stops(struct sc_arena *arena, const struct sc_args *args,
                                const struct sc_prompt_format *format,
                                Semanticache__V1__SamplingParams *sampling, struct sc_err *err)
{
    const struct sc_arg_value *given = sc_arg(args, SC_OPT_STOP);
    const uint32_t n = given->set ? given->n_items : format != NULL ? format->n_stops : 0;
    sampling->stop = sc_arena_take(arena, n * sizeof(*sampling->stop));
    if (sampling->stop == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < n; i++) {
        const char *text = given->set ? given->texts[i] : format->stops[i];
        char *stop =
            given->set ? sc_args_unescape(arena, text) : sc_arena_copy(arena, text, strlen(text));
        if (stop == NULL)
            return no_memory(err);
        enum sc_status st = sc_prompt_check("--stop", stop, strlen(stop), err);
        if (st != SC_OK)
            return st;
        sampling->stop[i] = stop;
    }
    sampling->n_stop = n;
    return SC_OK;
}

static enum sc_status set_logit_bias(struct sc_arena *arena, const struct sc_arg_value *v,
                                     Semanticache__V1__SamplingParams *sampling, struct sc_err *err)
{
    typedef Semanticache__V1__SamplingParams__LogitBiasEntry entry_type;
    entry_type *entries = sc_arena_take(arena, v->n_items * sizeof(*entries));
    sampling->logit_bias = sc_arena_take(arena, v->n_items * sizeof(*sampling->logit_bias));
    if (entries == NULL || sampling->logit_bias == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < v->n_items; i++) {
        semanticache__v1__sampling_params__logit_bias_entry__init(&entries[i]);
        entries[i].key = v->ids[i];
        entries[i].value = v->biases[i];
        sampling->logit_bias[i] = &entries[i];
    }
    sampling->n_logit_bias = v->n_items;
    return SC_OK;
}

enum sc_status sc_request_format(struct sc_arena *arena, const struct sc_args *args,
                                 struct sc_prompt_format *ret_format, struct sc_err *err)
{
    struct sc_prompt_format format;
    const struct sc_arg_value *file = sc_arg(args, SC_OPT_PROMPT_FORMAT);
    const struct sc_arg_value *question = sc_arg(args, SC_OPT_QUESTION_PREFIX);
    const struct sc_arg_value *answer = sc_arg(args, SC_OPT_ANSWER_PREFIX);
    sc_prompt_format_default(&format);
    if (file->set) {
        struct sc_text json = {0};
        enum sc_status st = sc_prompt_read(arena, file->text, &json, err);
        if (st == SC_OK)
            st = sc_prompt_format_parse(arena, json.bytes, json.len, &format, err);
        if (st != SC_OK)
            return st;
    }
    if (question->set)
        format.question_prefix = sc_args_unescape(arena, question->text);
    if (answer->set)
        format.answer_prefix = sc_args_unescape(arena, answer->text);
    if (format.question_prefix == NULL || format.answer_prefix == NULL)
        return no_memory(err);
    *ret_format = format;
    return SC_OK;
}

enum sc_status sc_request_sampling(struct sc_arena *arena, const struct sc_args *args,
                                   const struct sc_prompt_format *format,
                                   Semanticache__V1__SamplingParams *ret_sampling,
                                   struct sc_err *err)
{
    (void)set_fields(&ret_sampling->base, args, SC_OPT_MAX_TOKENS, SC_OPT_LOGPROBS);
    const struct sc_arg_value *ids = sc_arg(args, SC_OPT_STOP_TOKEN_IDS);
    ret_sampling->stop_token_ids = ids->ids;
    ret_sampling->n_stop_token_ids = ids->n_items;
    enum sc_status st = set_logit_bias(arena, sc_arg(args, SC_OPT_LOGIT_BIAS), ret_sampling, err);
    return st == SC_OK ? set_stops(arena, args, format, ret_sampling, err) : st;
}

enum sc_status sc_request_kv(struct sc_arena *arena, const struct sc_args *args,
                             Semanticache__V1__KvOptions *ret_kv, bool *ret_any, struct sc_err *err)
{
    const struct sc_arg_value *layers = sc_arg(args, SC_OPT_EXACT_LAYERS);
    bool any = set_fields(&ret_kv->base, args, SC_OPT_KV, SC_OPT_EXACT_LAYERS);
    if (layers->set) {
        Semanticache__V1__LayerList *list = sc_arena_take(arena, sizeof(*list));
        uint32_t *numbers = sc_arena_take(arena, layers->n_items * sizeof(*numbers));
        if (list == NULL || numbers == NULL)
            return no_memory(err);
        for (uint32_t i = 0; i < layers->n_items; i++)
            numbers[i] = (uint32_t)layers->ids[i];
        semanticache__v1__layer_list__init(list);
        list->layers = numbers;
        list->n_layers = layers->n_items;
        ret_kv->exact_layers = list;
    }
    *ret_any = any;
    return SC_OK;
}

Semanticache__V1__TokenIds *sc_request_token_ids(struct sc_arena *arena, const struct sc_args *args)
{
    const struct sc_arg_value *v = sc_arg(args, SC_OPT_TOKEN_IDS);
    Semanticache__V1__TokenIds *ids = sc_arena_take(arena, sizeof(*ids));
    if (ids == NULL)
        return NULL;
    semanticache__v1__token_ids__init(ids);
    ids->ids = v->ids;
    ids->n_ids = v->n_items;
    return ids;
}
