#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/chunker.h"

static uint16_t class_of(const char *text)
{
    return sc_token_classify(text, strlen(text), false);
}

#define ASSERT_LEVEL(text, level) assert_int_equal(class_of(text) & SC_TOKEN_LEVEL, level)

static void tokens_are_classed_by_how_they_end(void **state)
{
    (void)state;
    ASSERT_LEVEL(".", SC_DELIM_SENTENCE);
    ASSERT_LEVEL(".\"", SC_DELIM_SENTENCE);
    ASSERT_LEVEL("?)", SC_DELIM_SENTENCE);
    ASSERT_LEVEL(" end.", SC_DELIM_SENTENCE);
    ASSERT_LEVEL("\u3002", SC_DELIM_SENTENCE);
    ASSERT_LEVEL("!\u201d", SC_DELIM_SENTENCE);
    ASSERT_LEVEL("\n", SC_DELIM_SENTENCE);
    ASSERT_LEVEL(";\n", SC_DELIM_SENTENCE);
    ASSERT_LEVEL("\n\n", SC_DELIM_BLANK);
    ASSERT_LEVEL(".\n\n", SC_DELIM_BLANK);
    ASSERT_LEVEL("\n \n", SC_DELIM_BLANK);
    ASSERT_LEVEL("```", SC_DELIM_BLANK);
    ASSERT_LEVEL(",", SC_DELIM_CLAUSE);
    ASSERT_LEVEL("\uff0c", SC_DELIM_CLAUSE);
    ASSERT_LEVEL(")", SC_DELIM_CLAUSE);
    ASSERT_LEVEL(" word", SC_DELIM_WORD);
    ASSERT_LEVEL("word", SC_DELIM_NONE);
    ASSERT_LEVEL(".com", SC_DELIM_NONE); /* a sign inside is none */
    ASSERT_LEVEL(".get", SC_DELIM_NONE);
    ASSERT_LEVEL("\xe2\x80", SC_DELIM_NONE); /* half a character */
    ASSERT_LEVEL("", SC_DELIM_NONE);
    assert_true((sc_token_classify("<|im_end|>", 10, true) & SC_TOKEN_TURN) != 0);
    assert_true((sc_token_classify("<|im_end|>", 10, true) & SC_TOKEN_SPECIAL) != 0);
}

/* A small vocabulary with one token a class; ids are indices. */
static const char vocab_json[] =
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"a\":1,\".\":2,\",\":3,\"5\":4,\"\u010a\":"
    "5,"
    "\"\u010a\u010a\":6,\"\u0120w\":7,\":\":8},\"merges\":[]},"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
    "\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,\"normalized\":false,"
    "\"single_word\":false,\"lstrip\":false,\"rstrip\":false}]}";
enum { SPECIAL, LETTER, STOP, COMMA, DIGIT, NEWLINE, BLANK, WORD, COLON, N_IDS };

static struct sc_token_table *table;

static int open_table(void **state)
{
    struct sc_tokenizer *tok = NULL;
    struct sc_err err = SC_ERR_INIT;
    (void)state;
    if (sc_tokenizer_open_memory(vocab_json, sizeof(vocab_json) - 1, NULL, 0, &tok, &err) !=
            SC_OK ||
        sc_token_table_open(tok, N_IDS, &table, &err) != SC_OK)
        fail_msg("%s", err.text);
    sc_tokenizer_close(tok);
    return 0;
}

static int close_table(void **state)
{
    (void)state;
    sc_token_table_close(table);
    return 0;
}

#define LEN 600u

static struct sc_recipe packed(void)
{
    struct sc_model_config config = {.n_layers = 2};
    struct sc_recipe r;
    sc_recipe_default(&config, SC_KV_COMPRESSED, &r);
    return r;
}

static void fill(int32_t *ids)
{
    for (uint32_t i = 0; i < LEN; i++)
        ids[i] = LETTER;
}

static uint32_t end_of(const int32_t *ids, const struct sc_recipe *r)
{
    return sc_chunk_end(table, r, ids, 0, LEN, LEN);
}

static void a_sentence_closes_a_chunk_from_the_target_on(void **state)
{
    (void)state;
    int32_t ids[LEN];
    struct sc_recipe r = packed();
    fill(ids);
    ids[40] = STOP; /* below the target: not yet */
    ids[70] = STOP;
    assert_int_equal(end_of(ids, &r), 71);
    ids[63] = STOP; /* the 64th token */
    assert_int_equal(end_of(ids, &r), 64);
}

static void without_a_late_sentence_an_earlier_one_above_the_minimum_is_taken(void **state)
{
    (void)state;
    int32_t ids[LEN];
    struct sc_recipe r = packed();
    fill(ids);
    ids[20] = STOP; /* below the minimum */
    ids[35] = STOP;
    ids[50] = STOP;
    ids[100] = COMMA;
    assert_int_equal(end_of(ids, &r), 51);
    ids[35] = ids[50] = LETTER;
    assert_int_equal(end_of(ids, &r), 101); /* the clause of the last half */
    ids[100] = LETTER;
    ids[90] = WORD;
    ids[80] = WORD;
    assert_int_equal(end_of(ids, &r), 91);
    ids[90] = ids[80] = LETTER;
    assert_int_equal(end_of(ids, &r), 128); /* hard */
}

static void blank_lines_and_turns_close_early(void **state)
{
    (void)state;
    int32_t ids[LEN];
    struct sc_recipe r = packed();
    fill(ids);
    ids[10] = BLANK; /* too short for a blank line */
    ids[20] = BLANK;
    assert_int_equal(end_of(ids, &r), 21);
    ids[3] = SPECIAL;
    assert_int_equal(end_of(ids, &r), 4);
    fill(ids);
    ids[30] = ids[31] = NEWLINE; /* two tokens make one blank line */
    assert_int_equal(end_of(ids, &r), 32);
}

static void a_sign_before_a_digit_is_no_delimiter(void **state)
{
    (void)state;
    int32_t ids[LEN];
    struct sc_recipe r = packed();
    fill(ids);
    ids[70] = STOP;
    ids[71] = DIGIT;
    ids[90] = STOP;
    assert_int_equal(end_of(ids, &r), 91);
}

static void an_undecided_chunk_stays_open(void **state)
{
    (void)state;
    int32_t ids[LEN];
    struct sc_recipe r = packed();
    fill(ids);
    assert_int_equal(sc_chunk_end(table, &r, ids, 0, 127, LEN), 0);
    assert_int_equal(sc_chunk_end(table, &r, ids, 0, 128, LEN), 128);
    ids[70] = STOP; /* the next token may be a digit */
    assert_int_equal(sc_chunk_end(table, &r, ids, 0, 71, LEN), 0);
    assert_int_equal(sc_chunk_end(table, &r, ids, 0, 72, LEN), 71);
}

static void a_chunk_never_crosses_the_prompts_end(void **state)
{
    (void)state;
    int32_t ids[LEN];
    struct sc_recipe r = packed();
    fill(ids);
    assert_int_equal(sc_chunk_end(table, &r, ids, 0, LEN, 50), 50);
    assert_int_equal(sc_chunk_end(table, &r, ids, 50, LEN, 50), 178);
}

/* The property on which the cache rests: seeing more tokens never moves an end already decided. */
static void ends_do_not_depend_on_what_follows(void **state)
{
    (void)state;
    int32_t ids[LEN];
    const enum sc_chunking kinds[] = {SC_CHUNKS_PACKED, SC_CHUNKS_SENTENCE, SC_CHUNKS_CLAUSE,
                                      SC_CHUNKS_FIXED};
    uint64_t x = 1;
    for (uint32_t round = 0; round < 200; round++) {
        struct sc_recipe r = packed();
        r.chunking = kinds[round % 4];
        for (uint32_t i = 0; i < LEN; i++) {
            x = sc_mix64(x);
            ids[i] = x % 100 < 80 ? LETTER + (int32_t)((x >> 32) % 2) * (WORD - LETTER)
                                  : (int32_t)((x >> 40) % N_IDS);
            if (ids[i] == SPECIAL && x % 3 != 0)
                ids[i] = COLON;
        }
        for (uint32_t start = 0; start + 140 < LEN;) {
            uint32_t end = sc_chunk_end(table, &r, ids, start, LEN, LEN);
            assert_true(end > start && end - start <= SC_CHUNK_MAX);
            for (uint32_t n = start + 1; n < start + 140; n++) {
                uint32_t seen = sc_chunk_end(table, &r, ids, start, n, LEN);
                assert_true(seen == 0 || seen == end);
                assert_true(n < start + SC_CHUNK_MAX + 1 || seen == end);
            }
            start = end;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_classed_by_how_they_end),
        cmocka_unit_test(a_sentence_closes_a_chunk_from_the_target_on),
        cmocka_unit_test(without_a_late_sentence_an_earlier_one_above_the_minimum_is_taken),
        cmocka_unit_test(blank_lines_and_turns_close_early),
        cmocka_unit_test(a_sign_before_a_digit_is_no_delimiter),
        cmocka_unit_test(an_undecided_chunk_stays_open),
        cmocka_unit_test(a_chunk_never_crosses_the_prompts_end),
        cmocka_unit_test(ends_do_not_depend_on_what_follows),
    };
    return cmocka_run_group_tests(tests, open_table, close_table);
}
