#include "client/documents.h"
#include "proto/optional.h"
#include "tests/client/loopback.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MINUTE_US ((int64_t)60000000)

/* A server that keeps what it was sent, in one line a message, and answers from a script. */
struct fixture {
    struct loopback *server;
    struct sc_rpc *rpc;
    struct sc_err err;
    char log[1024];
    char authorization[64];
    size_t n_bytes, n_largest;
    uint8_t sum; /* of the bytes */
    int refuse_code;
    unsigned refuse_after; /* messages; with refuse_code */
    unsigned n_messages;
    bool no_document, interrupt, circle;
    Semanticache__V1__PutDocumentResponse progress, last;
    Semanticache__V1__DocumentProgress numbers;
    Semanticache__V1__Document document;
    Semanticache__V1__KvReceipt receipt;
    Semanticache__V1__ListDocumentsResponse page;
    Semanticache__V1__Document *items[1];
};

static char *s(const char *text)
{
    return (char *)(uintptr_t)text;
}

static void note(struct fixture *f, const char *text)
{
    strncat(f->log, text, sizeof(f->log) - strlen(f->log) - 1);
}

static void take_part(struct fixture *f, const uint8_t *bytes, size_t len)
{
    char text[256];
    Semanticache__V1__PutDocumentRequest *part =
        semanticache__v1__put_document_request__unpack(NULL, len, bytes);
    SC_ASSERT(part != NULL);
    if (part->part_case == SEMANTICACHE__V1__PUT_DOCUMENT_REQUEST__PART_HEADER) {
        const Semanticache__V1__DocumentHeader *h = part->header;
        (void)snprintf(text, sizeof(text), "header %s '%s' replace=%d pin=%d ", h->document_id,
                       h->title, SC_PB_GET(h, replace, false),
                       SC_PB_HAS(h, pin_ttl_seconds) ? (int)h->pin_ttl_seconds : -1);
        note(f, text);
    } else {
        note(f, "data ");
        f->n_bytes += part->data.len;
        f->n_largest = part->data.len > f->n_largest ? part->data.len : f->n_largest;
        for (size_t i = 0; i < part->data.len; i++)
            f->sum = (uint8_t)(f->sum * 31 + part->data.data[i]);
    }
    protobuf_c_message_free_unpacked(&part->base, NULL);
}

static void answer_put(struct fixture *f, const uint8_t *request, size_t len,
                       struct loopback_answer *answer)
{
    if (f->interrupt)
        (void)kill(getpid(), SIGINT);
    f->interrupt = false; /* one signal: a second would meet the next test */
    if (request == NULL) {
        note(f, "half-close");
        answer->messages[0] = &f->last.base;
        answer->n_messages = f->no_document ? 0 : 1;
        return;
    }
    take_part(f, request, len);
    if (f->refuse_code != 0 && ++f->n_messages > f->refuse_after) {
        answer->code = f->refuse_code;
        answer->text = "document_id: 'a' exists";
        return;
    }
    answer->messages[0] = &f->progress.base;
    answer->n_messages = 1;
    answer->more = true;
    f->numbers.bytes_received = f->n_bytes;
    f->numbers.tokens_done += 10;
}

static void answer_list(struct fixture *f, const uint8_t *bytes, size_t len,
                        struct loopback_answer *answer)
{
    Semanticache__V1__ListDocumentsRequest *r =
        semanticache__v1__list_documents_request__unpack(NULL, len, bytes);
    SC_ASSERT(r != NULL);
    note(f, "list '");
    note(f, r->page_token);
    note(f, "' ");
    f->page.next_page_token = s(r->page_token[0] == '\0' ? "two" : f->circle ? "two" : "");
    protobuf_c_message_free_unpacked(&r->base, NULL);
    answer->messages[0] = &f->page.base;
    answer->n_messages = 1;
}

static void respond(void *ctx, const char *method, const uint8_t *request, size_t len,
                    struct loopback_answer *answer)
{
    struct fixture *f = ctx;
    (void)snprintf(f->authorization, sizeof(f->authorization), "%s",
                   loopback_authorization(f->server));
    if (strcmp(method, "/semanticache.v1.Documents/PutDocument") == 0)
        answer_put(f, request, len, answer);
    else if (strcmp(method, "/semanticache.v1.Documents/ListDocuments") == 0)
        answer_list(f, request, len, answer);
    else
        answer->code = 12;
}

static void script(struct fixture *f)
{
    semanticache__v1__document_progress__init(&f->numbers);
    semanticache__v1__put_document_response__init(&f->progress);
    f->progress.event_case = SEMANTICACHE__V1__PUT_DOCUMENT_RESPONSE__EVENT_PROGRESS;
    f->progress.progress = &f->numbers;
    semanticache__v1__kv_receipt__init(&f->receipt);
    f->receipt.exact_entries = 192000;
    f->receipt.physical_entries = 48000;
    f->receipt.ratio = 0.25;
    f->receipt.pages = 12;
    semanticache__v1__document__init(&f->document);
    f->document.document_id = s("a");
    f->document.title = s("A \033[31mtitle");
    f->document.state = SEMANTICACHE__V1__DOCUMENT_STATE__DOCUMENT_STATE_READY;
    f->document.bytes = 2048;
    f->document.tokens = 12000;
    f->document.receipt = &f->receipt;
    f->document.created_unix_us = MINUTE_US;
    f->document.last_used_unix_us = 5 * MINUTE_US;
    semanticache__v1__put_document_response__init(&f->last);
    f->last.event_case = SEMANTICACHE__V1__PUT_DOCUMENT_RESPONSE__EVENT_DOCUMENT;
    f->last.document = &f->document;
    semanticache__v1__list_documents_response__init(&f->page);
    f->items[0] = &f->document;
    f->page.documents = f->items;
    f->page.n_documents = 1;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return -1;
    script(f);
    *state = f;
    return loopback_setup(respond, f, &f->server, &f->rpc);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    loopback_teardown(f->server, f->rpc);
    free(f);
    return 0;
}

static enum sc_status put(struct fixture *f, const char *text, size_t len,
                          struct sc_progress *progress, Semanticache__V1__Document **ret_document)
{
    Semanticache__V1__DocumentHeader header;
    semanticache__v1__document_header__init(&header);
    header.document_id = s("a");
    header.title = s("T");
    SC_PB_SET(&header, pin_ttl_seconds, 60);
    const struct sc_document_put request = {
        .name = "a.txt", .header = &header, .text = {text, len}, .progress = progress};
    return sc_document_put(f->rpc, &request, ret_document, &f->err);
}

static void header_then_data_then_half_close(void **state)
{
    struct fixture *f = *state;
    Semanticache__V1__Document *document = NULL;
    const size_t len = 2 * SC_DOCUMENT_PART_BYTES + 5;
    char *text = malloc(len);
    uint8_t sum = 0;
    assert_non_null(text);
    for (size_t i = 0; i < len; i++) {
        text[i] = (char)('a' + i % 23);
        sum = (uint8_t)(sum * 31 + (uint8_t)text[i]);
    }
    assert_int_equal(put(f, text, len, NULL, &document), SC_OK);
    assert_string_equal(f->log, "header a 'T' replace=0 pin=60 data data data half-close");
    assert_int_equal(f->n_bytes, len);
    assert_int_equal(f->n_largest, SC_DOCUMENT_PART_BYTES);
    assert_int_equal(f->sum, sum);
    assert_int_equal(document->tokens, 12000);
    assert_int_equal(document->receipt->pages, 12);
    semanticache__v1__document__free_unpacked(document, NULL);
    free(text);
}

static void an_empty_document_has_no_data(void **state)
{
    struct fixture *f = *state;
    Semanticache__V1__Document *document = NULL;
    assert_int_equal(put(f, "", 0, NULL, &document), SC_OK);
    assert_string_equal(f->log, "header a 'T' replace=0 pin=60 half-close");
    semanticache__v1__document__free_unpacked(document, NULL);
}

static void progress_is_drawn_and_cleared(void **state)
{
    struct fixture *f = *state;
    Semanticache__V1__Document *document = NULL;
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);
    struct sc_progress bar = {.file = file, .terminal = true};
    assert_non_null(file);
    f->numbers.tokens_total = 100;
    assert_int_equal(put(f, "hello", 5, &bar, &document), SC_OK);
    assert_int_equal(fclose(file), 0);
    assert_non_null(strstr(text, "a.txt ["));
    assert_non_null(strstr(text, "5 B sent"));
    assert_non_null(strstr(text, "10/100 tokens"));
    assert_string_equal(text + len - 4, "\r\033[K");
    semanticache__v1__document__free_unpacked(document, NULL);
    free(text);
}

static void a_refusal_before_the_end_keeps_the_servers_words(void **state)
{
    struct fixture *f = *state;
    Semanticache__V1__Document *document = NULL;
    const size_t len = 64 * SC_DOCUMENT_PART_BYTES;
    char *text = malloc(len);
    assert_non_null(text);
    memset(text, 'x', len);
    f->refuse_code = 6;
    f->refuse_after = 1;
    assert_int_equal(put(f, text, len, NULL, &document), SC_EPEER);
    assert_string_equal(f->err.text, "ALREADY_EXISTS: document_id: 'a' exists");
    assert_null(document);
    free(text);
}

static void a_stream_without_a_document_is_an_error(void **state)
{
    struct fixture *f = *state;
    Semanticache__V1__Document *document = NULL;
    f->no_document = true;
    assert_int_equal(put(f, "hello", 5, NULL, &document), SC_EFORMAT);
    assert_non_null(strstr(f->err.text, "without a document"));
    assert_null(document);
}

static void a_signal_ends_the_upload(void **state)
{
    struct fixture *f = *state;
    Semanticache__V1__Document *document = NULL;
    const size_t len = 64 * SC_DOCUMENT_PART_BYTES;
    char *text = malloc(len);
    assert_non_null(text);
    memset(text, 'x', len);
    f->interrupt = true;
    assert_int_equal(put(f, text, len, NULL, &document), SC_ECANCELED);
    assert_null(document);
    free(text);
}

static void every_call_carries_the_key(void **state)
{
    struct fixture *f = *state;
    Semanticache__V1__Document *document = NULL;
    struct sc_document_list list;
    assert_int_equal(sc_document_list_get(f->rpc, &list, &f->err), SC_OK);
    assert_string_equal(f->authorization, "");
    sc_document_list_fini(&list);
    assert_int_equal(sc_rpc_authorize(f->rpc, "k-1", &f->err), SC_OK);
    assert_int_equal(sc_document_list_get(f->rpc, &list, &f->err), SC_OK);
    assert_string_equal(f->authorization, "Bearer k-1");
    sc_document_list_fini(&list);
    assert_int_equal(sc_rpc_authorize(f->rpc, "k-2", &f->err), SC_OK);
    assert_int_equal(put(f, "hello", 5, NULL, &document), SC_OK);
    assert_string_equal(f->authorization, "Bearer k-2");
    semanticache__v1__document__free_unpacked(document, NULL);
}

static void a_key_that_metadata_cannot_carry_is_refused_unseen(void **state)
{
    struct fixture *f = *state;
    static const char *const bad[] = {"", "secret key", "secret\n", "secr\xC3\xA9t"};
    char long_key[SC_RPC_KEY_BYTES_MAX + 2];
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++) {
        sc_err_clear(&f->err);
        assert_int_equal(sc_rpc_authorize(f->rpc, bad[i], &f->err), SC_EINVAL);
        assert_null(strstr(f->err.text, "secr"));
    }
    memset(long_key, 'k', sizeof(long_key) - 1);
    long_key[sizeof(long_key) - 1] = '\0';
    assert_int_equal(sc_rpc_authorize(f->rpc, long_key, NULL), SC_EINVAL);
    long_key[SC_RPC_KEY_BYTES_MAX] = '\0';
    assert_int_equal(sc_rpc_authorize(f->rpc, long_key, NULL), SC_OK);
}

static void a_list_follows_the_page_tokens(void **state)
{
    struct fixture *f = *state;
    struct sc_document_list list;
    assert_int_equal(sc_document_list_get(f->rpc, &list, &f->err), SC_OK);
    assert_string_equal(f->log, "list '' list 'two' ");
    assert_int_equal(list.n_documents, 2);
    assert_string_equal(sc_document_list_at(&list, 1)->document_id, "a");
    json_t *json = sc_document_list_json(&list);
    const json_t *items = json_object_get(json, "documents");
    assert_int_equal(json_array_size(items), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(items, 1), "state")),
                        "ready");
    assert_null(json_object_get(json_array_get(items, 1), "pinned_until_unix_us"));
    json_decref(json);
    sc_document_list_fini(&list);
}

static void page_tokens_in_a_circle_end(void **state)
{
    struct fixture *f = *state;
    struct sc_document_list list;
    f->circle = true;
    assert_int_equal(sc_document_list_get(f->rpc, &list, &f->err), SC_EFORMAT);
}

static void the_table_is_aligned_and_steers_no_terminal(void **state)
{
    struct fixture *f = *state;
    char *text = NULL;
    size_t len = 0;
    Semanticache__V1__Document other = f->document;
    Semanticache__V1__Document *items[] = {&f->document, &other};
    Semanticache__V1__ListDocumentsResponse *pages[] = {&f->page};
    const struct sc_document_list list = {.pages = pages, .n_pages = 1, .n_documents = 2};
    other.document_id = s("a-longer-id");
    other.title = s("\xC3\xA9");
    other.receipt = NULL;
    SC_PB_SET(&other, pinned_until_unix_us, 15 * MINUTE_US);
    f->page.documents = items;
    f->page.n_documents = 2;
    FILE *file = open_memstream(&text, &len);
    assert_non_null(file);
    sc_document_list_print(file, &list, 10 * MINUTE_US);
    assert_int_equal(fclose(file), 0);
    assert_string_equal(
        text,
        "id           title                     state       tokens kept entries  ratio  pinned  "
        "       last used\n"
        "a            A ?[31mtitle              ready        12000        48000  0.250  no      "
        "       5 min ago\n"
        "a-longer-id  \xC3\xA9                         ready        12000            0  0.000  5 "
        "min left     5 min ago\n");
    free(text);
}

static void pins_are_told_as_time_left(void **state)
{
    struct fixture *f = *state;
    char text[SC_DOCUMENT_PIN_BYTES];
    sc_document_pin_text(&f->document, MINUTE_US, text);
    assert_string_equal(text, "no");
    SC_PB_SET(&f->document, pinned_until_unix_us, INT64_MAX);
    sc_document_pin_text(&f->document, MINUTE_US, text);
    assert_string_equal(text, "until deleted");
    SC_PB_SET(&f->document, pinned_until_unix_us, 181 * MINUTE_US);
    sc_document_pin_text(&f->document, MINUTE_US, text);
    assert_string_equal(text, "3 h left");
    sc_document_pin_text(&f->document, 182 * MINUTE_US, text);
    assert_string_equal(text, "no");
}

static void the_bar_tells_bytes_then_tokens(void **state)
{
    (void)state;
    char text[SC_DOCUMENT_BAR_BYTES];
    struct sc_document_progress p = {.bytes_sent = 1 << 20, .bytes_total = 2 << 20};
    sc_document_bar("a\033b", &p, text);
    assert_string_equal(text, "a?b [############............] 1.0 MiB sent");
    p.tokens_done = 50;
    p.tokens_total = 200;
    p.seconds = 0.5;
    sc_document_bar("a", &p, text);
    assert_string_equal(text,
                        "a [######..................] 1.0 MiB sent, 50/200 tokens, 100 tokens/s");
    p = (struct sc_document_progress){0};
    sc_document_bar("a", &p, text);
    assert_string_equal(text, "a [........................] 0 B sent");
    p = (struct sc_document_progress){.tokens_done = 9, .tokens_total = 3};
    sc_document_bar("a", &p, text);
    assert_string_equal(text, "a [########################] 0 B sent, 9/3 tokens");
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(header_then_data_then_half_close),
        CASE(an_empty_document_has_no_data),
        CASE(progress_is_drawn_and_cleared),
        CASE(a_refusal_before_the_end_keeps_the_servers_words),
        CASE(a_stream_without_a_document_is_an_error),
        CASE(a_signal_ends_the_upload),
        CASE(every_call_carries_the_key),
        CASE(a_key_that_metadata_cannot_carry_is_refused_unseen),
        CASE(a_list_follows_the_page_tokens),
        CASE(page_tokens_in_a_circle_end),
        CASE(the_table_is_aligned_and_steers_no_terminal),
        CASE(pins_are_told_as_time_left),
        CASE(the_bar_tells_bytes_then_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
