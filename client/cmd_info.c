#include "client/cli.h"
#include "client/json_out.h"
#include "client/term.h"
#include "proto/optional.h"
#include "semanticache/v1/control.pb-c.h"

#include <inttypes.h>
#include <stdio.h>

struct answers {
    ProtobufCMessage *server, *model;
};

static enum sc_status ask_both(struct sc_rpc *rpc, struct answers *ret_answers, struct sc_err *err)
{
    Semanticache__V1__GetServerInfoRequest server;
    Semanticache__V1__GetModelInfoRequest model;
    semanticache__v1__get_server_info_request__init(&server);
    semanticache__v1__get_model_info_request__init(&model);
    enum sc_status st = sc_rpc_unary(rpc, &semanticache__v1__control__descriptor, "GetServerInfo",
                                     &server.base, &ret_answers->server, err);
    if (st == SC_OK)
        st = sc_rpc_unary(rpc, &semanticache__v1__control__descriptor, "GetModelInfo", &model.base,
                          &ret_answers->model, err);
    return st;
}

static void label(const struct sc_cli *cli, const char *name)
{
    printf("%s%-12s%s", sc_term_dim(cli->out_colors), name, sc_term_reset(cli->out_colors));
}

static void print_server(const struct sc_cli *cli, const Semanticache__V1__GetServerInfoResponse *s)
{
    char state[SC_ENUM_TEXT_BYTES], mode[SC_ENUM_TEXT_BYTES];
    char page[SC_BYTES_TEXT_BYTES], weights[SC_BYTES_TEXT_BYTES], kept[SC_BYTES_TEXT_BYTES];
    label(cli, "server");
    printf("semanticached %s at %s: %s, up %.0f s\n", s->version, sc_cli_server(cli),
           sc_enum_text(&semanticache__v1__server_state__descriptor, (int)s->state, state),
           (double)s->uptime_us / 1e6);
    label(cli, "backend");
    printf("%s; %u tensor-parallel rank%s, %s of weights (%s in memory)\n", s->backend,
           s->tensor_parallel, s->tensor_parallel == 1 ? "" : "s",
           sc_bytes_text((double)s->weight_bytes, weights),
           sc_bytes_text((double)s->weight_memory_bytes, kept));
    label(cli, "requests");
    printf("%u running, %u waiting; %" PRIu64 " steps done\n", s->running, s->waiting, s->steps);
    if (s->limits != NULL) {
        label(cli, "limits");
        printf("%u tokens of context, %u running, %u waiting, %u streams\n", s->limits->max_context,
               s->limits->max_seqs, s->limits->queue_max, s->limits->max_streams);
    }
    label(cli, "KV pages");
    printf("%u of %u free on each rank, %s each\n", s->pages_free, s->pages_total,
           sc_bytes_text((double)s->page_bytes, page));
    label(cli, "KV mode");
    printf("%s unless the request says; auto compresses from %u tokens on\n",
           sc_enum_text(&semanticache__v1__kv_mode__descriptor, (int)s->default_mode, mode),
           s->auto_min_tokens);
}

static void print_model(const struct sc_cli *cli, const Semanticache__V1__GetModelInfoResponse *m)
{
    label(cli, "model");
    printf("%s (%s): %u layers, hidden %u, %u heads, %u KV heads of %u, ffn %u\n", m->name, m->arch,
           m->n_layers, m->hidden, m->n_heads, m->n_kv_heads, m->head_dim, m->ffn);
    label(cli, "vocabulary");
    printf("%u tokens", m->tokenizer_vocab);
    if (SC_PB_HAS(m, bos_id))
        printf(", begin %d", m->bos_id);
    for (size_t i = 0; i < m->n_eos_ids; i++)
        printf("%s%d", i == 0 ? ", end " : " ", m->eos_ids[i]);
    printf("\n");
    label(cli, "context");
    printf("%u tokens served, %u in the model\n", m->max_context, m->max_positions);
    label(cli, "precision");
    printf("weights %s, KV cache %s\n", m->weight_dtype, m->kv_dtype);
    label(cli, "calibration");
    printf("%s, %u tokens\n", m->calibration_builtin ? "on a built-in text" : "from a file",
           m->calibration_tokens);
    label(cli, "fingerprint");
    printf("%s\n", m->fingerprint);
}

static enum sc_status print_json(const struct answers *answers, struct sc_err *err)
{
    json_t *object = json_object();
    if (object != NULL &&
        (json_object_set_new(object, "server", sc_json_message(answers->server)) != 0 ||
         json_object_set_new(object, "model", sc_json_message(answers->model)) != 0)) {
        json_decref(object);
        object = NULL;
    }
    return sc_json_print(stdout, object, err);
}

enum sc_exit sc_cmd_info(struct sc_cli *cli, struct sc_err *err)
{
    struct sc_rpc *rpc = NULL;
    struct answers answers = {0};
    if (sc_cli_connect(cli, &rpc, err) != SC_OK)
        return SC_EXIT_USAGE;
    enum sc_status st = ask_both(rpc, &answers, err);
    if (st == SC_OK && sc_arg(cli->args, SC_OPT_JSON)->set) {
        st = print_json(&answers, err);
    } else if (st == SC_OK) {
        print_server(cli, (const Semanticache__V1__GetServerInfoResponse *)answers.server);
        print_model(cli, (const Semanticache__V1__GetModelInfoResponse *)answers.model);
    }
    protobuf_c_message_free_unpacked(answers.server, NULL);
    protobuf_c_message_free_unpacked(answers.model, NULL);
    sc_rpc_close(rpc);
    return sc_cli_exit(st);
}
