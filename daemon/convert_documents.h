/* daemon/convert_documents.h - prompts made of documents. Part of convert.c's job. */
#ifndef SC_DAEMON_CONVERT_DOCUMENTS_H
#define SC_DAEMON_CONVERT_DOCUMENTS_H

#include "daemon/convert.h"

#define SC_PROMPT_DOCUMENTS_MAX 64u

/* The documents' tokens in order, begin-of-text once, then the question's. Sets the breakpoint.
 * parse_special: what spells a special token in the question becomes it. */
enum sc_status sc_convert_documents(const struct sc_convert *c,
                                    const Semanticache__V1__DocumentPrompt *prompt,
                                    bool parse_special, struct sc_params *params,
                                    struct sc_err *err) SC_MUST_CHECK;
/* The KV options that a document was put with. given: what a request without a mode says, or NULL;
 * SC_EINVAL where it says anything else than the document's. */
enum sc_status sc_convert_document_kv(const struct sc_convert *c, const char *id,
                                      const Semanticache__V1__KvOptions *given,
                                      struct sc_request_opts *opts,
                                      struct sc_err *err) SC_MUST_CHECK;

#endif
