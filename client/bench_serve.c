/* The command `bench serve`: random prompts at a server, many at once. */
#include "client/bench_input.h"
#include "client/bench_load.h"
#include "client/bench_report.h"
#include "client/cli.h"
#include "client/json_out.h"
#include "client/request.h"
#include "proto/optional.h"
#include "semanticache/v1/control.pb-c.h"

#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_STREAMS     1u
#define DEFAULT_OPEN_LOOP   4096u /* streams that wait for nobody, where only a rate is given */
#define DEFAULT_PROMPT_LEN  512u
#define DEFAULT_OUTPUT_LEN  64u
#define DEFAULT_DEADLINE_MS 1000u
#define PREFIX_KEY          UINT64_MAX /* requests have their index as key */

struct serve {
    struct sc_cli *cli;
    uint64_t seed;
    uint64_t prompt_low, prompt_high, output_low, output_high, deadline_low, deadline_high; /* ms */
    uint32_t shared_prefix;
    double cancel_share, deadline_share;
    struct sc_load_opts load;
    uint32_t vocab;
    int32_t *ids; /* of the request being made; its first shared_prefix stay */
    Semanticache__V1__KvOptions kv;
    bool any_kv;
};

static void range(const struct sc_arg_value *v, uint64_t other, uint64_t *ret_low,
                  uint64_t *ret_high)
{
    *ret_low = v->set ? v->u : other;
    *ret_high = v->set ? v->u_high : other;
}

static enum sc_status read_options(struct sc_cli *cli, struct serve *s, struct sc_err *err)
{
    const struct sc_arg_value *streams = sc_arg(cli->args, SC_OPT_STREAMS);
    const struct sc_arg_value *requests = sc_arg(cli->args, SC_OPT_REQUESTS);
    const struct sc_arg_value *duration = sc_arg(cli->args, SC_OPT_DURATION);
    const struct sc_arg_value *rate = sc_arg(cli->args, SC_OPT_RATE);
    *s = (struct serve){.cli = cli, .seed = sc_arg(cli->args, SC_OPT_SEED)->u};
    range(sc_arg(cli->args, SC_OPT_PROMPT_LEN), DEFAULT_PROMPT_LEN, &s->prompt_low,
          &s->prompt_high);
    range(sc_arg(cli->args, SC_OPT_OUTPUT_LEN), DEFAULT_OUTPUT_LEN, &s->output_low,
          &s->output_high);
    range(sc_arg(cli->args, SC_OPT_DEADLINE_MS), DEFAULT_DEADLINE_MS, &s->deadline_low,
          &s->deadline_high);
    s->shared_prefix = (uint32_t)sc_arg(cli->args, SC_OPT_SHARED_PREFIX)->u;
    if (s->shared_prefix > s->prompt_low)
        return sc_fail(err, SC_EINVAL, "--shared-prefix: %u tokens, the shortest prompt has %u",
                       s->shared_prefix, (unsigned)s->prompt_low);
    s->cancel_share = sc_arg(cli->args, SC_OPT_CANCEL_PERCENT)->real / 100;
    s->deadline_share = sc_arg(cli->args, SC_OPT_DEADLINE_PERCENT)->real / 100;
    s->load.n_streams = streams->set ? (uint32_t)streams->u
                        : rate->set  ? DEFAULT_OPEN_LOOP
                                     : DEFAULT_STREAMS;
    if (rate->set && !requests->set && !duration->set)
        return sc_fail(err, SC_EINVAL, "bench serve: --rate needs --requests or --duration");
    s->load.n_requests = requests->set ? requests->u : duration->set ? 0 : s->load.n_streams;
    s->load.rate_per_s = rate->real;
    s->load.duration_s = duration->real;
    s->load.slow_reader_ms = (uint32_t)sc_arg(cli->args, SC_OPT_SLOW_READER_MS)->u;
    s->load.seed = s->seed;
    semanticache__v1__kv_options__init(&s->kv);
    return sc_request_kv(&cli->arena, cli->args, &s->kv, &s->any_kv, err);
}

static void fill_ids(const struct serve *s, uint64_t key, int32_t *ids, uint64_t n)
{
    struct sc_rand rand = sc_rand_init(s->seed, key);
    for (uint64_t i = 0; i < n; i++)
        ids[i] = (int32_t)sc_rand_below(&rand, s->vocab);
}

/* Ids that have both logits and a text; the model's own limit is the server's to tell. */
static enum sc_status ask_vocabulary(struct sc_rpc *rpc, struct serve *s, struct sc_err *err)
{
    Semanticache__V1__GetModelInfoRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__get_model_info_request__init(&request);
    enum sc_status st = sc_rpc_unary(rpc, &semanticache__v1__control__descriptor, "GetModelInfo",
                                     &request.base, &reply, err);
    if (st != SC_OK)
        return st;
    const Semanticache__V1__GetModelInfoResponse *m = (const void *)reply;
    s->vocab = m->vocab;
    if (m->tokenizer_vocab > 0 && m->tokenizer_vocab < s->vocab)
        s->vocab = m->tokenizer_vocab;
    protobuf_c_message_free_unpacked(reply, NULL);
    if (s->vocab == 0 || s->vocab > INT32_MAX)
        return sc_fail(err, SC_EFORMAT, "the server's model has a vocabulary of %u", s->vocab);
    return SC_OK;
}

static enum sc_status make(void *ctx, uint64_t index, struct sc_load_request *request,
                           struct sc_err *err)
{
    struct serve *s = ctx;
    struct sc_rand rand = sc_rand_init(~s->seed, index);
    const uint64_t n_prompt = sc_rand_between(&rand, s->prompt_low, s->prompt_high);
    const uint64_t n_output = sc_rand_between(&rand, s->output_low, s->output_high);
    (void)err;
    fill_ids(s, index, s->ids + s->shared_prefix, n_prompt - s->shared_prefix);
    request->token_ids.ids = s->ids;
    request->token_ids.n_ids = n_prompt;
    request->wire.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    request->wire.token_ids = &request->token_ids;
    request->wire.kv = s->any_kv ? &s->kv : NULL;
    SC_PB_SET(&request->sampling, max_tokens, (uint32_t)n_output);
    SC_PB_SET(&request->sampling, ignore_eos, true);
    SC_PB_SET(&request->sampling, temperature, 0.0f);
    if (sc_rand_unit(&rand) < s->cancel_share)
        request->cancel_after = sc_rand_below(&rand, (uint32_t)n_output);
    if (sc_rand_unit(&rand) < s->deadline_share)
        request->deadline_ms = (uint32_t)sc_rand_between(&rand, s->deadline_low, s->deadline_high);
    return SC_OK;
}

static json_t *config_json(const struct serve *s)
{
    return json_pack("{s:i, s:I, s:[I,I], s:[I,I], s:f, s:i, s:f, s:f, s:[I,I], s:i, s:f, s:o}",
                     "streams", (int)s->load.n_streams, "requests", (json_int_t)s->load.n_requests,
                     "prompt_len", (json_int_t)s->prompt_low, (json_int_t)s->prompt_high,
                     "output_len", (json_int_t)s->output_low, (json_int_t)s->output_high, "rate",
                     s->load.rate_per_s, "shared_prefix", (int)s->shared_prefix, "cancel_percent",
                     s->cancel_share * 100, "deadline_percent", s->deadline_share * 100,
                     "deadline_ms", (json_int_t)s->deadline_low, (json_int_t)s->deadline_high,
                     "slow_reader_ms", (int)s->load.slow_reader_ms, "duration_s",
                     s->load.duration_s, "seed", sc_json_u64(s->seed));
}

static enum sc_status report(const struct serve *s, struct sc_load_result *result,
                             struct sc_err *err)
{
    if (!sc_arg(s->cli->args, SC_OPT_JSON)->set) {
        sc_load_print(stdout, result);
        return fflush(stdout) == 0 ? SC_OK : sc_fail(err, SC_EIO, "output: cannot be written");
    }
    json_t *object = sc_load_json(result);
    if (object != NULL && json_object_set_new(object, "config", config_json(s)) != 0) {
        json_decref(object);
        object = NULL;
    }
    return sc_json_print(stdout, object, err);
}

static enum sc_status run(struct serve *s, struct sc_rpc *rpc, struct sc_err *err)
{
    struct sc_load_result result;
    enum sc_status st = ask_vocabulary(rpc, s, err);
    if (st != SC_OK)
        return st;
    s->ids = malloc(s->prompt_high * sizeof(*s->ids));
    if (s->ids == NULL)
        return sc_fail(err, SC_ENOMEM, "--prompt-len: no memory");
    fill_ids(s, PREFIX_KEY, s->ids, s->shared_prefix);
    st = sc_load_run(rpc, &s->load, make, s, &result, err);
    /* What was measured before a signal counts. */
    enum sc_status st_report = st == SC_OK || st == SC_ECANCELED ? report(s, &result, err) : SC_OK;
    if (st == SC_OK)
        st = st_report != SC_OK ? st_report : sc_load_check(&result, err);
    sc_load_result_fini(&result);
    free(s->ids);
    return st;
}

enum sc_exit sc_cmd_bench_serve(struct sc_cli *cli, struct sc_err *err)
{
    struct serve serve;
    struct sc_rpc *rpc = NULL;
    if (read_options(cli, &serve, err) != SC_OK)
        return SC_EXIT_USAGE;
    if (sc_cli_connect(cli, &rpc, err) != SC_OK)
        return SC_EXIT_USAGE;
    enum sc_status st = run(&serve, rpc, err);
    sc_rpc_close(rpc);
    return sc_cli_exit(st);
}
