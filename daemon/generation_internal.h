/* daemon/generation_internal.h - shared by generation.c (events, life) and generation_send.c. */
#ifndef SC_DAEMON_GENERATION_INTERNAL_H
#define SC_DAEMON_GENERATION_INTERNAL_H

#include "daemon/generation.h"
#include "daemon/inspect.h"
#include "daemon/reply.h"

/* What an output has and the call has not sent yet. */
struct sc_pending {
    char *text;
    size_t text_len, text_cap;
    int32_t *ids; /* always */
    size_t n_ids, ids_cap;
    struct sc_sampled *sampled; /* [n_ids], when log-probabilities are wanted */
    size_t sampled_cap;
};

struct sc_output {
    struct sc_generation *g;
    uint32_t index;
    uint64_t seed;
    struct sc_request *request; /* ours to unref; NULL before submit has returned */
    struct sc_pending pending;
    uint32_t prompt_done, prompt_total;
    bool has_progress;
    bool done; /* DONE came; ending is set */
    bool final_sent;
    struct sc_ending ending;
};

struct sc_generation {
    struct sc_dispatch_item item;   /* first */
    struct sc_registry_entry entry; /* holds the request id */
    atomic_uint refs;
    struct sc_app *app;
    struct sc_rpc *rpc;
    enum sc_generation_kind kind;
    bool progress, logprobs;
    uint64_t start_us;
    struct sc_inspect *inspect; /* INSPECT; filled by rank 0's thread until DONE */

    pthread_mutex_t mu; /* guards what follows, and the outputs */
    bool closed;        /* the call is over */
    bool sending;       /* a message is out: whoever finds it so leaves the rest to on_sent */
    bool ended;         /* the status was sent */
    bool cancel_wanted;
    bool id_told;
    enum sc_status cause; /* why we ended it, when we did */
    const char *cause_text;
    enum sc_status status; /* the first error of an output */
    char error[SC_ERR_TEXT_BYTES];
    uint32_t n_submitted, n_done;
    uint32_t n_outputs;
    struct sc_output outputs[];
};

void sc_generation_ref(struct sc_generation *g);
void sc_generation_unref(struct sc_generation *g);
void sc_generation_cancel(struct sc_generation *g);

/* Sends the next message if there is one and none is out. */
void sc_generation_pump(struct sc_generation *g);
void sc_pending_fini(struct sc_pending *pending);

#endif
