/* daemon/document_put.h - what svc_documents.c and document_put.c share. */
#ifndef SC_DAEMON_DOCUMENT_PUT_H
#define SC_DAEMON_DOCUMENT_PUT_H

#include "daemon/documents.h"
#include "daemon/reply.h"
#include "daemon/rpc.h"
#include "daemon/unpack.h"
#include "semanticache/v1/documents.pb-c.h"

#define SC_PIN_SECONDS_MAX (366u * 86400u)

/* A Document on the wire; holds pointers into itself and the document. */
struct sc_document_message {
    Semanticache__V1__Document document;
    struct sc_ending_messages parts;
};
void sc_document_fill(const struct sc_document *document, enum sc_prefix_state state,
                      struct sc_document_message *ret);

/* Id (made up if there is none), title and KV options. */
enum sc_status sc_document_take_header(struct sc_document *document,
                                       const Semanticache__V1__DocumentHeader *header,
                                       struct sc_err *err) SC_MUST_CHECK;

/* The KV options it was put with; message NULL: none were given. */
enum sc_status sc_document_options(const struct sc_document *document, struct sc_unpacked *ret,
                                   struct sc_err *err) SC_MUST_CHECK;

/* The request that reads the document and retains its entries; the caller adds pin, deadline and
 * events. It borrows the document. */
enum sc_status sc_document_reading(const struct sc_app *app, const struct sc_document *document,
                                   struct sc_request_opts *ret_opts,
                                   struct sc_err *err) SC_MUST_CHECK;

/* The handler of PutDocument. */
void sc_document_put(struct sc_rpc *rpc, const ProtobufCMessage *message);

/* Waits for the scheduler: what it was to keep before is kept then. */
enum sc_prefix_state sc_document_state(struct sc_app *app, const struct sc_document *document);
/* SC_EFULL: too much is pinned; SC_ERANGE: not on the device. Waits for the scheduler. */
enum sc_status sc_document_pin(struct sc_app *app, struct sc_document *document,
                               uint64_t ttl_seconds, struct sc_err *err) SC_MUST_CHECK;
/* Drops its entries, on the device and in the store, unless a document that is known has the same.
 * Waits for the scheduler. */
void sc_document_forget(struct sc_app *app, const struct sc_document *document);

#endif
