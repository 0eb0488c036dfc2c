#include "client/inspect.h"

#include "proto/optional.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_TOKENS 6

/* Six tokens; tokens 1..4 are one chunk, in layer 2 of 4 as clusters {1, 3}, {2}, {4}. */
struct fixture {
    Semanticache__V1__InspectToken token[N_TOKENS];
    Semanticache__V1__InspectToken *tokens[N_TOKENS];
    Semanticache__V1__InspectLayer layer, *layers[1];
    Semanticache__V1__InspectChunk chunk, *chunks[1];
    Semanticache__V1__InspectCacheResponse reply;
    Semanticache__V1__CacheLookup lookup;
    uint8_t labels[4];
    struct sc_err err;
    char *text;
    size_t len;
    FILE *out;
};

static int setup(void **state)
{
    static const char *const texts[N_TOKENS] = {"A", " </script>", "b\n", "\xC3", "\xA9", "z"};
    struct fixture *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return -1;
    for (size_t i = 0; i < N_TOKENS; i++) {
        semanticache__v1__inspect_token__init(&f->token[i]);
        f->token[i].text = (ProtobufCBinaryData){strlen(texts[i]), (uint8_t *)(uintptr_t)texts[i]};
        f->tokens[i] = &f->token[i];
    }
    memcpy(f->labels, (uint8_t[]){0, 1, 0, 2}, 4);
    semanticache__v1__inspect_layer__init(&f->layer);
    semanticache__v1__inspect_chunk__init(&f->chunk);
    semanticache__v1__inspect_cache_response__init(&f->reply);
    f->layer.layer = 2;
    f->layer.n_cores = 3;
    f->layer.labels = (ProtobufCBinaryData){4, f->labels};
    f->layers[0] = &f->layer;
    f->chunk.pos0 = 1;
    f->chunk.n_tokens = 4;
    f->chunk.layers = f->layers;
    f->chunk.n_layers = 1;
    f->chunks[0] = &f->chunk;
    f->reply.tokens = f->tokens;
    f->reply.n_tokens = N_TOKENS;
    f->reply.chunks = f->chunks;
    f->reply.n_chunks = 1;
    f->reply.n_layers = 4;
    f->out = open_memstream(&f->text, &f->len);
    *state = f;
    return f->out != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->out != NULL)
        (void)fclose(f->out);
    free(f->text);
    free(f);
    return 0;
}

static const char *output(struct fixture *f)
{
    assert_int_equal(fclose(f->out), 0);
    f->out = NULL;
    return f->text;
}

static void plain_text_numbers_the_merged_tokens(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(sc_inspect_check(&f->reply, &f->err), SC_OK);
    assert_int_equal(sc_inspect_print(f->out, false, false, &f->reply, 2, &f->err), SC_OK);
    assert_string_equal(output(f), "-- tokens 0..0: exact\n"
                                   "A\n"
                                   "-- tokens 1..4: chunk of 4 -> 3 cores\n"
                                   "[0: </script>]b\n[0:\xC3]\xA9\n"
                                   "-- tokens 5..5: exact\n"
                                   "z\n"
                                   "layer 2 of 4: 4 tokens in 1 chunks became 3 cores (0.750 a "
                                   "token); 2 of 6 tokens are exact\n");
}

static void the_last_line_says_why_the_cache_has_no_more(void **state)
{
    static const struct {
        int miss;
        const char *want;
    } cases[] = {
        {SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_NONE, "cached: 2 of 6 tokens; the last one is"},
        {SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_SHARING_OFF, "; the server shares no prefixes"},
        {SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_SHORT, "; too short to be looked up"},
        {SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_EVICTED, "; more was held, and evicted"},
        {SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_OTHER_RECIPE,
         "; recipe bbbbbbbbbbbb has 5, this is recipe aaaaaaaaaaaa"},
        {SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_OTHER_LENGTH,
         "; a prompt of another length has 5"},
        {SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_OTHER_TOKENS,
         "; what is held goes on otherwise at token 3: 77, here 9 \"z\"\n"},
        {SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_NEVER_READ, "read on from token 3\n"},
        {99, "does not know\n"},
    };
    static char ours[] = "aaaaaaaaaaaaaaaa", other[] = "bbbbbbbbbbbbbbbb";
    struct fixture *f = *state;
    Semanticache__V1__CacheLookup *l = &f->lookup;
    semanticache__v1__cache_lookup__init(l);
    l->cached_tokens = 2;
    l->position = 3;
    l->recipe_id = ours;
    l->other_recipe_id = other;
    l->other_tokens = 5;
    f->token[5].id = 9;
    SC_PB_SET(l, prompt_token, 9);
    SC_PB_SET(l, held_token, 77);
    f->reply.lookup = &f->lookup;
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        l->miss = (Semanticache__V1__CacheMiss)cases[i].miss;
        size_t at = f->len;
        assert_int_equal(sc_inspect_print(f->out, false, false, &f->reply, 1, &f->err), SC_OK);
        assert_non_null(strstr(f->text + at, cases[i].want));
    }
}

static void colours_mark_the_merged_tokens_and_keep_characters_whole(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(sc_inspect_print(f->out, true, true, &f->reply, 2, &f->err), SC_OK);
    const char *text = output(f);
    assert_non_null(strstr(text, "m </script>\033[0m"));
    assert_non_null(strstr(text, "\xC3\xA9"));
    assert_null(strstr(text, "[0:"));
}

static void layer_that_was_not_compressed_is_all_exact(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(sc_inspect_print(f->out, false, false, &f->reply, 1, &f->err), SC_OK);
    assert_non_null(strstr(output(f), "layer 1 of 4: all 6 tokens are exact\n"));
}

static void the_first_compressed_layer_is_found(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(sc_inspect_first_layer(&f->reply), 2);
    f->reply.n_chunks = 0;
    assert_int_equal(sc_inspect_first_layer(&f->reply), 0);
}

static void replies_that_contradict_themselves_are_refused(void **state)
{
    struct fixture *f = *state;
    f->chunk.pos0 = 3;
    assert_int_equal(sc_inspect_check(&f->reply, &f->err), SC_EFORMAT);
    f->chunk.pos0 = UINT32_MAX;
    assert_int_equal(sc_inspect_check(&f->reply, &f->err), SC_EFORMAT);
    f->chunk.pos0 = 1;
    f->layer.labels.len = 3;
    sc_err_clear(&f->err);
    assert_int_equal(sc_inspect_check(&f->reply, &f->err), SC_EFORMAT);
    assert_non_null(strstr(f->err.text, "3 labels for 4 tokens"));
}

static void page_holds_the_reply_and_no_text_escapes_from_it(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(sc_inspect_write_html(f->out, "<a&b>", &f->reply, &f->err), SC_OK);
    const char *page = output(f);
    assert_non_null(strstr(page, "<title>&lt;a&amp;b&gt; - "));
    const char *open = strstr(page, "id=\"data\">");
    assert_non_null(open);
    open += strlen("id=\"data\">");
    const char *close = strstr(open, "</script>");
    assert_non_null(close);
    json_error_t where;
    json_t *json = json_loadb(open, (size_t)(close - open), 0, &where);
    assert_non_null(json);
    const json_t *token = json_array_get(json_object_get(json, "tokens"), 1);
    assert_string_equal(json_string_value(json_object_get(token, "text")), " </script>");
    json_decref(json);
    assert_null(strstr(page, "@TITLE@"));
    assert_null(strstr(page, "@DATA@"));
    assert_null(strstr(page, "http://"));
    assert_null(strstr(page, "https://"));
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(plain_text_numbers_the_merged_tokens),
        CASE(the_last_line_says_why_the_cache_has_no_more),
        CASE(colours_mark_the_merged_tokens_and_keep_characters_whole),
        CASE(layer_that_was_not_compressed_is_all_exact),
        CASE(the_first_compressed_layer_is_found),
        CASE(replies_that_contradict_themselves_are_refused),
        CASE(page_holds_the_reply_and_no_text_escapes_from_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
