/* The command events: what enters and leaves a server's cache, a line each. */
#include "client/cli.h"
#include "client/json_out.h"
#include "proto/optional.h"
#include "semanticache/v1/control.pb-c.h"

#include <inttypes.h>
#include <stdio.h>

#define SHOWN_BYTES 8u /* of a key: enough to tell keys apart by eye */

struct reader {
    bool json, once, done;
};

static void print_key(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < SHOWN_BYTES && i < len; i++)
        (void)printf("%02x", bytes[i]);
}

static void print_blocks(const char *what, const Semanticache__V1__KvBlocks *b)
{
    uint32_t start = b->start;
    for (size_t i = 0; i < b->n_block_keys; i++) {
        const ProtobufCBinaryData *parent = i == 0 ? &b->parent_key : &b->block_keys[i - 1];
        (void)printf("%s%-8s", i == 0 ? "" : "                 ", what);
        print_key(b->block_keys[i].data, b->block_keys[i].len);
        (void)printf(" behind ");
        print_key(parent->data, parent->len);
        (void)printf("  tokens %" PRIu32 "..%" PRIu32 "  recipe %.12s  namespace %s\n", start,
                     start + b->block_tokens, b->recipe_id, b->namespace_);
        start += b->block_tokens;
    }
}

static void print_event(const Semanticache__V1__KvEvent *e)
{
    if (e->sequence > 0)
        (void)printf("%16" PRIu64 " ", e->sequence);
    else
        (void)printf("%16s ", "-");
    if (e->event_case == SEMANTICACHE__V1__KV_EVENT__EVENT_STORED)
        print_blocks("stored", e->stored);
    else if (e->event_case == SEMANTICACHE__V1__KV_EVENT__EVENT_REMOVED)
        print_blocks("removed", e->removed);
    else if (e->event_case == SEMANTICACHE__V1__KV_EVENT__EVENT_CLEARED)
        (void)printf("cleared\n");
    else if (e->event_case == SEMANTICACHE__V1__KV_EVENT__EVENT_SYNCED)
        (void)printf("synced\n");
    else
        (void)printf("an event that this semcache does not know\n");
}

static enum sc_status on_event(void *ctx, ProtobufCMessage *message, struct sc_err *err)
{
    struct reader *r = ctx;
    const Semanticache__V1__KvEvent *e = (const Semanticache__V1__KvEvent *)message;
    enum sc_status st = SC_OK;
    if (r->json)
        st = sc_json_print(stdout, sc_json_message(message), err);
    else
        print_event(e);
    r->done = r->once && e->event_case == SEMANTICACHE__V1__KV_EVENT__EVENT_SYNCED;
    protobuf_c_message_free_unpacked(message, NULL);
    if (st == SC_OK && (fflush(stdout) != 0 || ferror(stdout) != 0))
        st = sc_fail(err, SC_EIO, "output: cannot be written");
    return st == SC_OK && r->done ? SC_ECANCELED : st;
}

/* Ends with an error, or with a signal, which is how a person ends it: SC_OK. */
enum sc_exit sc_cmd_events(struct sc_cli *cli, struct sc_err *err)
{
    const struct sc_arg_value *from = sc_arg(cli->args, SC_OPT_FROM);
    struct reader reader = {.json = sc_arg(cli->args, SC_OPT_JSON)->set,
                            .once = sc_arg(cli->args, SC_OPT_ONCE)->set};
    Semanticache__V1__SubscribeKvEventsRequest request;
    struct sc_rpc *rpc = NULL;
    if (from->set && reader.once) {
        (void)sc_fail(err, SC_EINVAL, "events: --from and --once exclude each other");
        return SC_EXIT_USAGE;
    }
    semanticache__v1__subscribe_kv_events_request__init(&request);
    if (from->set)
        SC_PB_SET(&request, from_sequence, from->u);
    if (sc_cli_connect(cli, &rpc, err) != SC_OK)
        return SC_EXIT_USAGE;
    enum sc_status st = sc_rpc_call(rpc, &semanticache__v1__control__descriptor,
                                    "SubscribeKvEvents", &request.base, on_event, &reader, err);
    sc_rpc_close(rpc);
    if (st == SC_ECANCELED) {
        sc_err_clear(err);
        st = SC_OK;
    }
    return sc_cli_exit(st);
}
