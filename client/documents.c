#include "client/documents.h"

#include "client/json_out.h"
#include "proto/optional.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ID_COLUMNS_MAX 40
#define TITLE_COLUMNS  24
#define CELL_BYTES     (ID_COLUMNS_MAX * SC_UTF8_BYTES_MAX + 1)

int64_t sc_document_now_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

enum sc_status sc_document_list_get(struct sc_rpc *rpc, struct sc_document_list *ret_list,
                                    struct sc_err *err)
{
    struct sc_document_list list = {0};
    Semanticache__V1__ListDocumentsRequest request;
    enum sc_status st = SC_OK;
    semanticache__v1__list_documents_request__init(&request);
    do {
        ProtobufCMessage *reply = NULL;
        st = list.n_pages < SC_DOCUMENT_PAGES_MAX
                 ? SC_OK
                 : sc_fail(err, SC_EFORMAT, "documents: more than %u pages", SC_DOCUMENT_PAGES_MAX);
        if (st == SC_OK)
            st = sc_rpc_unary(rpc, &semanticache__v1__documents__descriptor, "ListDocuments",
                              &request.base, &reply, err);
        if (st != SC_OK)
            break;
        Semanticache__V1__ListDocumentsResponse **more =
            realloc(list.pages, (list.n_pages + 1) * sizeof(*more));
        if (more == NULL) {
            protobuf_c_message_free_unpacked(reply, NULL);
            st = sc_fail(err, SC_ENOMEM, "documents: no memory");
            break;
        }
        list.pages = more;
        list.pages[list.n_pages] = (Semanticache__V1__ListDocumentsResponse *)reply;
        list.n_documents += list.pages[list.n_pages]->n_documents;
        char *next = list.pages[list.n_pages++]->next_page_token;
        if (next[0] != '\0' && strcmp(next, request.page_token) == 0)
            st = sc_fail(err, SC_EFORMAT, "documents: a page's next_page_token is its own");
        request.page_token = next;
    } while (st == SC_OK && request.page_token[0] != '\0');
    if (st != SC_OK) {
        sc_document_list_fini(&list);
        return st;
    }
    *ret_list = list;
    return SC_OK;
}

void sc_document_list_fini(struct sc_document_list *list)
{
    for (size_t p = 0; p < list->n_pages; p++)
        protobuf_c_message_free_unpacked(&list->pages[p]->base, NULL);
    free(list->pages);
    *list = (struct sc_document_list){0};
}

const Semanticache__V1__Document *sc_document_list_at(const struct sc_document_list *list,
                                                      size_t index)
{
    size_t p = 0;
    for (; p < list->n_pages && index >= list->pages[p]->n_documents; p++)
        index -= list->pages[p]->n_documents;
    SC_ASSERT(p < list->n_pages);
    return list->pages[p]->documents[index];
}

json_t *sc_document_list_json(const struct sc_document_list *list)
{
    json_t *object = json_object(), *items = json_array();
    bool ok = object != NULL && items != NULL;
    for (size_t p = 0; p < list->n_pages && ok; p++)
        for (size_t d = 0; d < list->pages[p]->n_documents && ok; d++)
            ok = json_array_append_new(items,
                                       sc_json_message(&list->pages[p]->documents[d]->base)) == 0;
    if (ok && json_object_set(object, "documents", items) == 0) {
        json_decref(items);
        return object;
    }
    json_decref(items);
    json_decref(object);
    return NULL;
}

/* At most `columns` characters; what was cut is shown by a last "~". Returns their number. */
static size_t clean_cell(const char *text, size_t columns, char buffer[CELL_BYTES])
{
    size_t n = 0, at = 0, len = strlen(text), room = 0;
    while (at < len) {
        int c = sc_utf8_char_len(text + at, len - at);
        const bool control =
            c <= 0 ||
            (c == 1 && ((unsigned char)text[at] < ' ' || (unsigned char)text[at] == 0x7F)) ||
            (c == 2 && (unsigned char)text[at] == 0xC2 && (unsigned char)text[at + 1] < 0xA0);
        const size_t step = c > 0 ? (size_t)c : 1;
        if (n + 1 == columns && at + step < len) {
            buffer[room++] = '~';
            n++;
            break;
        }
        if (control)
            buffer[room++] = '?';
        else
            memcpy(buffer + room, text + at, step);
        room += control ? 0 : step;
        n++;
        at += step;
    }
    buffer[room] = '\0';
    return n;
}

static void duration_text(int64_t us, char buffer[16])
{
    const int64_t s = us > 0 ? us / 1000000 : 0;
    if (s < 120)
        (void)snprintf(buffer, 16, "%" PRId64 " s", s);
    else if (s < 7200)
        (void)snprintf(buffer, 16, "%" PRId64 " min", s / 60);
    else if (s < 172800)
        (void)snprintf(buffer, 16, "%" PRId64 " h", s / 3600);
    else
        (void)snprintf(buffer, 16, "%" PRId64 " d", s / 86400);
}

void sc_document_pin_text(const Semanticache__V1__Document *document, int64_t now_us,
                          char buffer[SC_DOCUMENT_PIN_BYTES])
{
    char left[16];
    if (!SC_PB_HAS(document, pinned_until_unix_us) || document->pinned_until_unix_us <= now_us) {
        (void)snprintf(buffer, SC_DOCUMENT_PIN_BYTES, "no");
    } else if (document->pinned_until_unix_us == INT64_MAX) {
        (void)snprintf(buffer, SC_DOCUMENT_PIN_BYTES, "until deleted");
    } else {
        duration_text(document->pinned_until_unix_us - now_us, left);
        (void)snprintf(buffer, SC_DOCUMENT_PIN_BYTES, "%s left", left);
    }
}

static void ago_text(int64_t then_us, int64_t now_us, char buffer[32])
{
    char ago[16];
    if (then_us <= 0) {
        (void)snprintf(buffer, 32, "never");
        return;
    }
    duration_text(now_us - then_us, ago);
    (void)snprintf(buffer, 32, "%s ago", ago);
}

static void print_row(FILE *out, size_t id_columns, const Semanticache__V1__Document *d,
                      int64_t now_us)
{
    char id[CELL_BYTES], title[CELL_BYTES], state[SC_ENUM_TEXT_BYTES];
    char pin[SC_DOCUMENT_PIN_BYTES], used[32];
    const size_t n_id = clean_cell(d->document_id, ID_COLUMNS_MAX, id);
    const size_t n_title = clean_cell(d->title, TITLE_COLUMNS, title);
    if (d->read_only)
        (void)snprintf(pin, sizeof(pin), "shared");
    else
        sc_document_pin_text(d, now_us, pin);
    ago_text(d->last_used_unix_us, now_us, used);
    (void)fprintf(out, "%s%*s  %s%*s  %-8s %9u %12" PRIu64 " %6.3f  %-13s  %s\n", id,
                  (int)(id_columns - n_id), "", title, (int)(TITLE_COLUMNS - n_title), "",
                  sc_enum_text(&semanticache__v1__document_state__descriptor, (int)d->state, state),
                  d->tokens, d->receipt != NULL ? d->receipt->physical_entries : 0,
                  d->receipt != NULL ? d->receipt->ratio : 0.0, pin, used);
}

void sc_document_list_print(FILE *out, const struct sc_document_list *list, int64_t now_us)
{
    char id[CELL_BYTES];
    size_t columns = 2; /* of "id" */
    for (size_t p = 0; p < list->n_pages; p++) {
        for (size_t d = 0; d < list->pages[p]->n_documents; d++) {
            size_t n = clean_cell(list->pages[p]->documents[d]->document_id, ID_COLUMNS_MAX, id);
            columns = n > columns ? n : columns;
        }
    }
    (void)fprintf(out, "%-*s  %-*s  %-8s %9s %12s %6s  %-13s  %s\n", (int)columns, "id",
                  TITLE_COLUMNS, "title", "state", "tokens", "kept entries", "ratio", "pinned",
                  "last used");
    for (size_t p = 0; p < list->n_pages; p++)
        for (size_t d = 0; d < list->pages[p]->n_documents; d++)
            print_row(out, columns, list->pages[p]->documents[d], now_us);
}

void sc_document_summary(const Semanticache__V1__Document *document,
                         char buffer[SC_DOCUMENT_SUMMARY_BYTES])
{
    const Semanticache__V1__KvReceipt *r = document->receipt;
    if (r == NULL)
        (void)snprintf(buffer, SC_DOCUMENT_SUMMARY_BYTES, "%u tokens", document->tokens);
    else
        (void)snprintf(buffer, SC_DOCUMENT_SUMMARY_BYTES,
                       "%u tokens, %" PRIu64 " of %" PRIu64 " entries kept (ratio %.3f), %u page%s",
                       document->tokens, r->physical_entries, r->exact_entries, r->ratio, r->pages,
                       r->pages == 1 ? "" : "s");
}

static void label(FILE *out, bool colors, const char *name)
{
    (void)fprintf(out, "%s%-10s%s", sc_term_dim(colors), name, sc_term_reset(colors));
}

void sc_document_print(FILE *out, bool colors, const Semanticache__V1__Document *document,
                       int64_t now_us)
{
    char text[CELL_BYTES], state[SC_ENUM_TEXT_BYTES], pin[SC_DOCUMENT_PIN_BYTES], ago[32];
    char size[SC_BYTES_TEXT_BYTES], summary[SC_DOCUMENT_SUMMARY_BYTES];
    label(out, colors, "id");
    /* In full: it is what other commands take, and the server allows only printable ASCII. */
    for (const char *p = document->document_id; *p != '\0'; p++)
        (void)fputc(*p >= ' ' && *p <= '~' ? *p : '?', out);
    (void)fputc('\n', out);
    (void)clean_cell(document->title, ID_COLUMNS_MAX, text);
    if (text[0] != '\0') {
        label(out, colors, "title");
        (void)fprintf(out, "%s\n", text);
    }
    label(out, colors, "state");
    (void)fprintf(
        out, "%s\n",
        sc_enum_text(&semanticache__v1__document_state__descriptor, (int)document->state, state));
    label(out, colors, "size");
    sc_document_summary(document, summary);
    (void)fprintf(out, "%s, %s\n", sc_bytes_text((double)document->bytes, size), summary);
    label(out, colors, "pinned");
    sc_document_pin_text(document, now_us, pin);
    (void)fprintf(out, "%s%s\n", pin, document->read_only ? " (shared: read-only)" : "");
    label(out, colors, "created");
    ago_text(document->created_unix_us, now_us, ago);
    (void)fprintf(out, "%s\n", ago);
    label(out, colors, "last used");
    ago_text(document->last_used_unix_us, now_us, ago);
    (void)fprintf(out, "%s\n", ago);
}
