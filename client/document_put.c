/* Putting a document: its text goes up in parts while the server's progress comes down. */
#include "client/documents.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define BAR_COLUMNS  24
#define NAME_COLUMNS 32

struct upload {
    const struct sc_document_put *put;
    Semanticache__V1__PutDocumentRequest part;
    bool header_sent;
    struct sc_document_progress shown;
    double first_token_s; /* 0: none yet */
    Semanticache__V1__PutDocumentResponse *last;
};

static double now_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void sc_document_bar(const char *name, const struct sc_document_progress *p,
                     char buffer[SC_DOCUMENT_BAR_BYTES])
{
    char bar[BAR_COLUMNS + 1], clean[NAME_COLUMNS + 1], sent[SC_BYTES_TEXT_BYTES], tokens[96] = "";
    /* The data's way is short next to the reading: once that starts, the bar is about tokens. */
    const bool by_tokens = p->tokens_total > 0;
    const uint64_t done = by_tokens ? p->tokens_done : p->bytes_sent;
    const uint64_t total = by_tokens ? p->tokens_total : p->bytes_total;
    size_t n = 0;
    for (; name[n] != '\0' && n < NAME_COLUMNS; n++)
        clean[n] = name[n] >= ' ' && name[n] <= '~' ? name[n] : '?';
    clean[n] = '\0';
    memset(bar, '.', BAR_COLUMNS);
    if (total > 0)
        memset(bar, '#', (size_t)((done < total ? done : total) * BAR_COLUMNS / total));
    bar[BAR_COLUMNS] = '\0';
    if (by_tokens)
        (void)snprintf(tokens, sizeof(tokens), ", %u/%u tokens", p->tokens_done, p->tokens_total);
    else if (p->tokens_done > 0)
        (void)snprintf(tokens, sizeof(tokens), ", %u tokens", p->tokens_done);
    if (p->tokens_done > 0 && p->seconds > 0) {
        size_t at = strlen(tokens);
        (void)snprintf(tokens + at, sizeof(tokens) - at, ", %.0f tokens/s",
                       p->tokens_done / p->seconds);
    }
    (void)snprintf(buffer, SC_DOCUMENT_BAR_BYTES, "%s [%s] %s sent%s", clean, bar,
                   sc_bytes_text((double)p->bytes_sent, sent), tokens);
}

static void show(struct upload *u)
{
    char text[SC_DOCUMENT_BAR_BYTES];
    if (u->put->progress == NULL)
        return;
    sc_document_bar(u->put->name, &u->shown, text);
    sc_progress_line(u->put->progress, text);
}

static enum sc_status next_part(void *ctx, const ProtobufCMessage **ret_message, struct sc_err *err)
{
    struct upload *u = ctx;
    const size_t left = u->put->text.len - u->shown.bytes_sent;
    (void)err;
    if (!u->header_sent) {
        u->header_sent = true;
        u->part.part_case = SEMANTICACHE__V1__PUT_DOCUMENT_REQUEST__PART_HEADER;
        u->part.header = (Semanticache__V1__DocumentHeader *)(uintptr_t)u->put->header;
        *ret_message = &u->part.base;
        return SC_OK;
    }
    if (left == 0) {
        *ret_message = NULL;
        return SC_OK;
    }
    u->part.part_case = SEMANTICACHE__V1__PUT_DOCUMENT_REQUEST__PART_DATA;
    u->part.data.data = (uint8_t *)(uintptr_t)(u->put->text.bytes + u->shown.bytes_sent);
    u->part.data.len = left < SC_DOCUMENT_PART_BYTES ? left : SC_DOCUMENT_PART_BYTES;
    u->shown.bytes_sent += u->part.data.len;
    show(u);
    *ret_message = &u->part.base;
    return SC_OK;
}

static void take_progress(struct upload *u, const Semanticache__V1__DocumentProgress *p)
{
    u->shown.tokens_done = p->tokens_done;
    u->shown.tokens_total = p->tokens_total;
    if (u->first_token_s == 0 && (p->tokens_done > 0 || p->tokens_total > 0))
        u->first_token_s = now_s();
    if (u->first_token_s > 0)
        u->shown.seconds = now_s() - u->first_token_s;
    show(u);
}

static enum sc_status take_event(void *ctx, ProtobufCMessage *message, struct sc_err *err)
{
    struct upload *u = ctx;
    Semanticache__V1__PutDocumentResponse *reply = (Semanticache__V1__PutDocumentResponse *)message;
    enum sc_status st = SC_OK;
    switch (reply->event_case) {
    case SEMANTICACHE__V1__PUT_DOCUMENT_RESPONSE__EVENT_PROGRESS:
        take_progress(u, reply->progress);
        break;
    case SEMANTICACHE__V1__PUT_DOCUMENT_RESPONSE__EVENT_DOCUMENT:
        if (u->last == NULL) {
            u->last = reply;
            return SC_OK;
        }
        st = sc_fail(err, SC_EFORMAT, "the server ended the document twice");
        break;
    default: /* a server newer than this client */
        break;
    }
    protobuf_c_message_free_unpacked(message, NULL);
    return st;
}

enum sc_status sc_document_put(struct sc_rpc *rpc, const struct sc_document_put *put,
                               Semanticache__V1__Document **ret_document, struct sc_err *err)
{
    struct upload u = {.put = put, .shown = {.bytes_total = put->text.len}};
    semanticache__v1__put_document_request__init(&u.part);
    enum sc_status st = sc_rpc_upload(rpc, &semanticache__v1__documents__descriptor, "PutDocument",
                                      next_part, take_event, &u, err);
    if (put->progress != NULL)
        sc_progress_clear(put->progress);
    if (st == SC_OK && u.last == NULL)
        st = sc_fail(err, SC_EFORMAT, "the server closed the stream without a document");
    if (st == SC_OK) {
        *ret_document = u.last->document;
        u.last->document = NULL;
        u.last->event_case = SEMANTICACHE__V1__PUT_DOCUMENT_RESPONSE__EVENT__NOT_SET;
    }
    if (u.last != NULL)
        protobuf_c_message_free_unpacked(&u.last->base, NULL);
    return st;
}
