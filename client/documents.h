/* client/documents.h - documents on the server: put there with progress, listed, shown.
 *
 * Memory: replies are the caller's; a list owns its pages. Ids and titles come from elsewhere: to a
 * person they are printed without control characters.
 * Threads: pure apart from the calls and the streams.
 */
#ifndef SC_CLIENT_DOCUMENTS_H
#define SC_CLIENT_DOCUMENTS_H

#include <jansson.h>

#include "client/prompt.h"
#include "client/rpc.h"
#include "client/term.h"
#include "semanticache/v1/documents.pb-c.h"

#define SC_DOCUMENT_PART_BYTES (256u << 10) /* of data in one message */
#define SC_DOCUMENT_PAGES_MAX  100000u      /* of a listing */

struct sc_document_put {
    const char *name; /* in the progress bar */
    const Semanticache__V1__DocumentHeader *header;
    struct sc_text text;
    struct sc_progress *progress; /* NULL: not shown */
};

/* Sends header and text while it reads the server's progress. Borrows put for the call. The caller
 * frees *ret_document with semanticache__v1__document__free_unpacked. */
enum sc_status sc_document_put(struct sc_rpc *rpc, const struct sc_document_put *put,
                               Semanticache__V1__Document **ret_document,
                               struct sc_err *err) SC_MUST_CHECK;

/* What the bar says; a total of 0 is unknown. */
struct sc_document_progress {
    uint64_t bytes_sent, bytes_total;
    uint32_t tokens_done, tokens_total;
    double seconds; /* since the first token */
};
#define SC_DOCUMENT_BAR_BYTES 256
void sc_document_bar(const char *name, const struct sc_document_progress *progress,
                     char buffer[SC_DOCUMENT_BAR_BYTES]);

struct sc_document_list {
    Semanticache__V1__ListDocumentsResponse **pages;
    size_t n_pages, n_documents;
};

/* All pages. SC_EFORMAT: the server's page tokens go round in a circle. */
enum sc_status sc_document_list_get(struct sc_rpc *rpc, struct sc_document_list *ret_list,
                                    struct sc_err *err) SC_MUST_CHECK;
void sc_document_list_fini(struct sc_document_list *list);
const Semanticache__V1__Document *sc_document_list_at(const struct sc_document_list *list,
                                                      size_t index);

/* {"documents": [...]}; NULL: no memory. */
json_t *sc_document_list_json(const struct sc_document_list *list);

/* now_us: microseconds since 1970, as the server's times are. */
void sc_document_list_print(FILE *out, const struct sc_document_list *list, int64_t now_us);
void sc_document_print(FILE *out, bool colors, const Semanticache__V1__Document *document,
                       int64_t now_us);

/* "12000 tokens, 48000 of 192000 entries kept (ratio 0.250), 12 pages" */
#define SC_DOCUMENT_SUMMARY_BYTES 160
void sc_document_summary(const Semanticache__V1__Document *document,
                         char buffer[SC_DOCUMENT_SUMMARY_BYTES]);

/* "no", "until deleted", "12 min left". */
#define SC_DOCUMENT_PIN_BYTES 32
void sc_document_pin_text(const Semanticache__V1__Document *document, int64_t now_us,
                          char buffer[SC_DOCUMENT_PIN_BYTES]);

int64_t sc_document_now_us(void);

#endif
