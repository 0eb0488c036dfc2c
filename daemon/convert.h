/* daemon/convert.h - from requests on the wire to what the scheduler takes.
 *
 * Every field is checked here; a refusal names the field as the client wrote it ("sampling.top_p"),
 * its value and the limit. Absent fields get their defaults: generation_config.json's where it has
 * them. Memory: a params owns its arrays; sc_params_fini frees them. Threads: pure functions.
 */
#ifndef SC_DAEMON_CONVERT_H
#define SC_DAEMON_CONVERT_H

#include "daemon/config.h"
#include "daemon/keys.h"
#include "model/chat_template.h"
#include "scheduler/scheduler.h"
#include "semanticache/v1/control.pb-c.h"
#include "semanticache/v1/inference.pb-c.h"

#define SC_OUTPUTS_MAX 32u /* n */
/* A token takes a byte or two of a request, and much more of a reply. */
#define SC_PIECES_MAX         (1u << 20) /* Tokenize with return_pieces */
#define SC_DETOKENIZE_IDS_MAX (1u << 22)

struct sc_documents;

/* What conversion needs to know; facts of the loaded model. */
struct sc_convert {
    const struct sc_model *model;
    const struct sc_config *config;
    uint32_t max_context;
    const uint64_t *exact_layers;        /* of compressed recipes; NULL: sc_recipe_default's */
    const struct sc_chat_template *chat; /* NULL: messages are refused, for this reason: */
    const char *no_chat;
    struct sc_documents *documents;     /* NULL: prompts made of documents are refused */
    const struct sc_identity *identity; /* whose namespace; NULL: none */
};

enum sc_kv_choice sc_convert_default_choice(const struct sc_convert *c);

struct sc_params {
    struct sc_request_opts opts; /* without on_event, ctx, on_chunk, deadline */
    struct sc_ids prompt;
    const char *stops[SC_STOP_STRINGS_MAX]; /* borrowed from the message */
    int32_t stop_ids[SC_STOP_IDS_MAX];
    struct sc_logit_bias *bias;
    uint32_t n_outputs;
};

/* The message must outlive the params: stop strings are borrowed. params needs no init. */
enum sc_status sc_convert_generate(const struct sc_convert *c,
                                   const Semanticache__V1__GenerateRequest *request,
                                   struct sc_params *ret_params, struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_convert_inspect(const struct sc_convert *c,
                                  const Semanticache__V1__InspectCacheRequest *request,
                                  struct sc_params *ret_params, struct sc_err *err) SC_MUST_CHECK;
void sc_params_fini(struct sc_params *params);

/* The parts, for tests and for GetModelInfo. */
enum sc_status sc_convert_sampling(const struct sc_convert *c,
                                   const Semanticache__V1__SamplingParams *sampling, /* or NULL */
                                   struct sc_params *params, struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_convert_kv(const struct sc_convert *c, const Semanticache__V1__KvOptions *kv,
                             enum sc_kv_choice default_choice, struct sc_request_opts *opts,
                             struct sc_err *err) SC_MUST_CHECK;
/* Bytes that must be UTF-8; name is the field's. Appends ids. */
enum sc_status sc_convert_text(const struct sc_convert *c, const char *name,
                               const ProtobufCBinaryData *text, bool add_special,
                               bool parse_special, struct sc_ids *ids,
                               struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_convert_request_id(const char *id, struct sc_err *err) SC_MUST_CHECK;

/* Defaults as values: temperature and so on of this model. */
void sc_default_sampling(const struct sc_model_config *config, struct sc_sampling *ret_sampling);
void sc_default_recipe(const struct sc_convert *c, enum sc_kv_mode mode,
                       struct sc_recipe *ret_recipe);

#endif
