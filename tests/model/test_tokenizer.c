/* Encoding, decoding and streaming on small tokenizers written here. */
#include "tests/model/tokenizer_util.h"

#include <pthread.h>
#include <stdio.h>

#include "model/tokenizer_internal.h"

/* Byte-level: 256 byte symbols, then pieces. Ids of bytes are the bytes. */
static void put_byte_level(struct sc_text *t, const char *head, const char *pieces,
                           const char *merges, const char *flags)
{
    put(t, "{%s\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",%s\"vocab\":{",
        head, flags);
    for (unsigned i = 0; i < 256; i++) {
        char c[5] = {0};
        c[sc_utf8_put(c, sc_tok_byte_to_char((uint8_t)i))] = '\0';
        put(t, "%s\"%s%s\":%u", i ? "," : "", c[0] == '"' || c[0] == '\\' ? "\\" : "", c, i);
    }
    put(t, "%s},\"merges\":[%s]}}", pieces, merges);
}

static struct sc_tokenizer *open_byte_level(const char *head, const char *pieces,
                                            const char *merges, const char *flags)
{
    struct sc_text t = {0};
    put_byte_level(&t, head, pieces, merges, flags);
    struct sc_tokenizer *tok = open_text(t.bytes, NULL);
    free(t.bytes);
    return tok;
}

#define GPT2_SPLIT "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
#define NO_SPLIT                                                                                   \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},"

static void the_merge_of_lowest_rank_goes_first_and_the_leftmost_of_equals(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_byte_level(NO_SPLIT, ",\"bc\":256,\"ab\":257,\"aa\":258",
                                               "\"b c\",[\"a\",\"b\"],\"a a\"", "");
    EXPECT_IDS(tok, "abc", 'a', 256); /* b c before a b */
    EXPECT_IDS(tok, "abab", 257, 257);
    EXPECT_IDS(tok, "aaa", 258, 'a'); /* leftmost */
    EXPECT_TEXT(tok, false, "aabc", 258, 256);
    sc_tokenizer_close(tok);
}

static void a_later_merge_of_the_same_pair_replaces_the_earlier(void **state)
{
    (void)state;
    struct sc_tokenizer *tok =
        open_byte_level(NO_SPLIT, ",\"bc\":256,\"ab\":257", "\"a b\",\"b c\",\"a b\"", "");
    EXPECT_IDS(tok, "abc", 'a', 256);
    sc_tokenizer_close(tok);
}

static void words_do_not_merge_across_what_the_pre_tokenizer_splits(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_byte_level(GPT2_SPLIT, ",\"a\u0120\":256,\"\u0120b\":257",
                                               "\"a \u0120\",\"\u0120 b\"", "");
    EXPECT_IDS(tok, "a b", 'a', 257);
    EXPECT_IDS(tok, "a  b", 'a', ' ', 257);
    EXPECT_TEXT(tok, false, "a b", 'a', 257);
    sc_tokenizer_close(tok);
}

static void ignore_merges_takes_a_word_whole_from_the_vocabulary(void **state)
{
    (void)state;
    struct sc_tokenizer *tok =
        open_byte_level(GPT2_SPLIT, ",\"\u0120xyz\":256", "", "\"ignore_merges\":true,");
    EXPECT_IDS(tok, " xyz", 256);
    EXPECT_IDS(tok, " xyzz", ' ', 'x', 'y', 'z', 'z');
    sc_tokenizer_close(tok);
    tok = open_byte_level(GPT2_SPLIT, ",\"\u0120xyz\":256", "", "");
    EXPECT_IDS(tok, " xyz", ' ', 'x', 'y', 'z');
    sc_tokenizer_close(tok);
}

static void sentencepiece_text_gets_its_space_in_front_and_loses_it_again(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_spm(NULL, NULL, NULL, NULL, NULL);
    EXPECT_IDS(tok, "hello", SPM_SPACE_HELLO);
    EXPECT_IDS(tok, "hello hello", SPM_SPACE_HELLO, SPM_SPACE_HELLO);
    EXPECT_IDS(tok, " hello", SPM_SPACE, SPM_SPACE_HELLO);
    EXPECT_IDS(tok, "  h", SPM_TWO_SPACES, 264);
    EXPECT_IDS(tok, "<s>hello", 1, SPM_SPACE_HELLO);
    EXPECT_IDS(tok, "", );
    EXPECT_TEXT(tok, false, "hello hello", SPM_SPACE_HELLO, SPM_SPACE_HELLO);
    EXPECT_TEXT(tok, false, "<s> hello", 1, SPM_SPACE_HELLO);
    EXPECT_TEXT(tok, true, "hello", 1, SPM_SPACE_HELLO, 2);
    sc_tokenizer_close(tok);
}

static void an_unknown_character_falls_back_to_its_bytes(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_spm(NULL, NULL, NULL, NULL, NULL);
    EXPECT_IDS(tok, "\xc3\xa9\n", SPM_SPACE, 3 + 0xc3, 3 + 0xa9, 3 + '\n');
    EXPECT_TEXT(tok, false, "\xc3\xa9", SPM_SPACE, 3 + 0xc3, 3 + 0xa9);
    /* A run that is not UTF-8 is a replacement for every byte, the good ones too. */
    EXPECT_TEXT(tok, false, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdhello", 3 + 0xc3, 3 + 0xa9,
                3 + 0xc3, SPM_HELLO);
    sc_tokenizer_close(tok);
}

static void unknown_characters_are_fused_or_not_or_dropped(void **state)
{
    (void)state;
    static const char fmt[] =
        "{\"model\":{\"type\":\"BPE\",%s\"vocab\":{\"u\":0,\"a\":1},\"merges\":[]}}";
    static const char *const flags[] = {"\"unk_token\":\"u\",\"fuse_unk\":true,",
                                        "\"unk_token\":\"u\",", ""};
    for (unsigned i = 0; i < 3; i++) {
        struct sc_text t = {0};
        put(&t, fmt, flags[i]);
        struct sc_tokenizer *tok = open_text(t.bytes, NULL);
        if (i == 0)
            EXPECT_IDS(tok, "axya", 1, 0, 1);
        else if (i == 1)
            EXPECT_IDS(tok, "axya", 1, 0, 0, 1);
        else
            EXPECT_IDS(tok, "axya", 1, 1);
        EXPECT_TEXT(tok, false, "a u a", 1, 0, 1); /* no decoder: joined with spaces */
        sc_tokenizer_close(tok);
        free(t.bytes);
    }
}

static void added_tokens_swallow_white_space_as_their_flags_say(void **state)
{
    (void)state;
    struct sc_tokenizer *tok =
        open_byte_level("\"added_tokens\":["
                        "{\"id\":256,\"content\":\"<L>\",\"lstrip\":true,\"special\":true},"
                        "{\"id\":257,\"content\":\"<R>\",\"rstrip\":true,\"special\":true},"
                        "{\"id\":258,\"content\":\"<R>x\",\"special\":true},"
                        "{\"id\":259,\"content\":\"sw\",\"single_word\":true}]," NO_SPLIT,
                        "", "", "");
    EXPECT_IDS(tok, "a \n<L> b", 'a', 256, ' ', 'b');
    EXPECT_IDS(tok, "a <R> \n b", 'a', ' ', 257, 'b');
    EXPECT_IDS(tok, "<R> \xe2\x80\x83<L>", 257, 256); /* the first one's spaces stay taken */
    EXPECT_IDS(tok, "<R>x", 258);                     /* the longest */
    EXPECT_IDS(tok, "sw sws \xc3\xa9sw", 259, ' ', 's', 'w', 's', ' ', 0xc3, 0xa9, 's', 'w');
    EXPECT_IDS_OPTS(tok, "<L>sw", {.no_special_parsing = true}, '<', 'L', '>', 259);
    EXPECT_IDS_OPTS(tok, "<L> sw", {.no_special_parsing = true}, '<', 'L', '>', ' ', 259);
    assert_true(sc_tokenizer_is_special(tok, 256));
    assert_false(sc_tokenizer_is_special(tok, 259));
    EXPECT_TEXT(tok, true, "asw", 256, 'a', 259);
    sc_tokenizer_close(tok);
}

static void a_normalized_added_token_is_looked_for_in_normalized_text(void **state)
{
    (void)state;
    struct sc_tokenizer *tok =
        open_byte_level("\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":["
                        "{\"id\":256,\"content\":\"Norm\",\"normalized\":true},"
                        "{\"id\":257,\"content\":\"Raw\",\"normalized\":false}]," NO_SPLIT,
                        "", "", "");
    EXPECT_IDS(tok, "NORM", 256);
    EXPECT_IDS(tok, "RAW", 'r', 'a', 'w');
    EXPECT_IDS(tok, "Raw", 257);
    EXPECT_TEXT(tok, false, "normRaw", 256, 257);
    sc_tokenizer_close(tok);
}

static void metaspace_first_prefixes_only_the_start_of_the_input(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_spm(
        "null",
        "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"first\","
        "\"split\":false}",
        NULL, NULL, NULL);
    EXPECT_IDS(tok, "hello", SPM_SPACE_HELLO);
    EXPECT_IDS(tok, " hello", SPM_SPACE_HELLO);
    EXPECT_IDS(tok, "<s>hello", 1, SPM_HELLO);
    EXPECT_IDS(tok, "hello</s>hello", SPM_SPACE_HELLO, 2, SPM_HELLO);
    sc_tokenizer_close(tok);
}

/* Pushes one id and checks what came out so far. */
static void expect_push(struct sc_detok *d, struct sc_text *t, int32_t id, const char *want)
{
    assert_int_equal(sc_detok_push(d, id, t, NULL), SC_OK);
    assert_string_equal(t->bytes ? t->bytes : "", want);
}

static void a_stream_holds_back_an_unfinished_character(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_byte_level(NO_SPLIT, "", "", "");
    struct sc_text t = {0};
    struct sc_detok d;
    sc_detok_init(&d, tok, true, false);
    expect_push(&d, &t, 0xf0, "");
    expect_push(&d, &t, 0x9f, "");
    expect_push(&d, &t, 0x98, "");
    expect_push(&d, &t, 0x80, "\xf0\x9f\x98\x80");
    expect_push(&d, &t, 0xe2, "\xf0\x9f\x98\x80");
    expect_push(&d, &t, 'a',
                "\xf0\x9f\x98\x80\xef\xbf\xbd"
                "a");
    expect_push(&d, &t, 0xf0,
                "\xf0\x9f\x98\x80\xef\xbf\xbd"
                "a");
    expect_push(&d, &t, 0x9f,
                "\xf0\x9f\x98\x80\xef\xbf\xbd"
                "a");
    expect_push(&d, &t, 100000,
                "\xf0\x9f\x98\x80\xef\xbf\xbd"
                "a"); /* unknown */
    assert_int_equal(sc_detok_flush(&d, &t, NULL), SC_OK);
    assert_string_equal(t.bytes, "\xf0\x9f\x98\x80\xef\xbf\xbd"
                                 "a\xef\xbf\xbd");
    sc_text_fini(&t);
    sc_tokenizer_close(tok);
}

static void a_stream_drops_the_leading_space_only_where_the_text_starts(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_spm(NULL, NULL, NULL, NULL, NULL);
    for (int continues = 0; continues < 2; continues++) {
        struct sc_text t = {0};
        struct sc_detok d;
        sc_detok_init(&d, tok, true, continues);
        expect_push(&d, &t, 1, "");
        expect_push(&d, &t, SPM_SPACE_HELLO, continues ? " hello" : "hello");
        expect_push(&d, &t, SPM_SPACE_HELLO, continues ? " hello hello" : "hello hello");
        sc_text_fini(&t);
    }
    sc_tokenizer_close(tok);
}

static void the_bytes_of_a_token_are_what_it_stands_for(void **state)
{
    (void)state;
    size_t len;
    struct sc_tokenizer *tok = open_spm(NULL, NULL, NULL, NULL, NULL);
    assert_string_equal(sc_tokenizer_bytes(tok, SPM_SPACE_HELLO, &len), " hello");
    assert_int_equal(len, 6);
    assert_int_equal((unsigned char)sc_tokenizer_bytes(tok, 3 + 0xc3, &len)[0], 0xc3);
    assert_int_equal(len, 1);
    sc_tokenizer_bytes(tok, 271, &len);
    assert_int_equal(len, 0);
    assert_int_equal(sc_tokenizer_vocab(tok), 271);
    assert_int_equal(sc_tokenizer_find(tok, "hello"), SPM_HELLO);
    assert_int_equal(sc_tokenizer_find(tok, "hell"), -1);
    sc_tokenizer_close(tok);
}

static void text_that_is_not_utf8_is_refused_with_its_place(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_spm(NULL, NULL, NULL, NULL, NULL);
    static const char *const bad[] = {"abc\xff", "abc\xc3", "abc\xed\xa0\x80", "abc\xc0\x80",
                                      "abc\xf4\x90\x80\x80"};
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++) {
        struct sc_err err = SC_ERR_INIT;
        struct sc_ids ids = {0};
        assert_int_equal(sc_tokenizer_encode(tok, bad[i], strlen(bad[i]), NULL, &ids, &err),
                         SC_EINVAL);
        assert_non_null(strstr(err.text, "byte 3"));
        assert_int_equal(ids.n, 0);
    }
    struct sc_err err = SC_ERR_INIT;
    struct sc_ids ids = {0};
    assert_int_equal(sc_tokenizer_encode(tok, "", SC_TOKENIZE_TEXT_BYTES_MAX + 1, NULL, &ids, &err),
                     SC_ERANGE);
    sc_tokenizer_close(tok);
}

static void a_nul_byte_is_a_character(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_byte_level(NO_SPLIT, "", "", "");
    struct sc_ids ids = {0};
    assert_int_equal(sc_tokenizer_encode(tok, "a\0b", 3, NULL, &ids, NULL), SC_OK);
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.ids[1], 0);
    sc_ids_fini(&ids);
    sc_tokenizer_close(tok);
}

/* ------------------------------------------- random merges against the definition, word by word */

enum { N_LETTERS = 4, N_PIECES = 60 };

struct toy {
    char pieces[N_PIECES][64];
    int left[N_PIECES], right[N_PIECES]; /* of the merge that makes the piece; -1: a letter */
    int n;
};

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

static void make_toy(struct toy *toy, uint64_t *seed)
{
    memset(toy, 0, sizeof(*toy));
    for (; toy->n < N_LETTERS; toy->n++) {
        toy->pieces[toy->n][0] = (char)('a' + toy->n);
        toy->left[toy->n] = -1;
    }
    for (int tries = 0; tries < 1000 && toy->n < N_PIECES; tries++) {
        int left = (int)(next_random(seed) % (uint64_t)toy->n);
        int right = (int)(next_random(seed) % (uint64_t)toy->n);
        char joined[128];
        snprintf(joined, sizeof(joined), "%s%s", toy->pieces[left], toy->pieces[right]);
        bool known = strlen(joined) > 40;
        for (int i = 0; i < toy->n; i++)
            known |= strcmp(toy->pieces[i], joined) == 0;
        if (known)
            continue;
        snprintf(toy->pieces[toy->n], sizeof(toy->pieces[0]), "%s", joined);
        toy->left[toy->n] = left;
        toy->right[toy->n++] = right;
    }
}

/* Merges the lowest rank, leftmost first, until none is left. */
static size_t merge_plainly(const struct toy *toy, int32_t *ids, size_t n)
{
    for (;;) {
        size_t at = 0;
        int best = toy->n;
        for (size_t i = 0; i + 1 < n; i++)
            for (int m = N_LETTERS; m < best; m++)
                if (toy->left[m] == ids[i] && toy->right[m] == ids[i + 1]) {
                    best = m;
                    at = i;
                }
        if (best == toy->n)
            return n;
        ids[at] = best;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof(*ids));
        n--;
    }
}

/* Fewer rounds where every access is watched for races. */
#ifdef SC_TSAN
enum { ROUNDS = 2, RUN_BYTES = 1 << 14 };
#else
enum { ROUNDS = 20, RUN_BYTES = 1 << 20 };
#endif

static void random_merges_give_what_their_definition_gives(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (int round = 0; round < ROUNDS; round++) {
        struct toy toy;
        struct sc_text t = {0};
        make_toy(&toy, &seed);
        put(&t, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
        for (int i = 0; i < toy.n; i++)
            put(&t, "%s\"%s\":%d", i ? "," : "", toy.pieces[i], i);
        put(&t, "},\"merges\":[");
        for (int i = N_LETTERS; i < toy.n; i++)
            put(&t, "%s[\"%s\",\"%s\"]", i > N_LETTERS ? "," : "", toy.pieces[toy.left[i]],
                toy.pieces[toy.right[i]]);
        put(&t, "]}}");
        struct sc_tokenizer *tok = open_text(t.bytes, NULL);
        for (int k = 0; k < 60; k++) {
            /* Short words, words that are cut, and words for the heap. */
            size_t n = 1 + next_random(&seed) % (k % 3 == 0 ? 20 : k % 3 == 1 ? 64 : 400);
            uint64_t letters = 1 + next_random(&seed) % N_LETTERS;
            char text[400];
            int32_t want[400];
            for (size_t i = 0; i < n; i++) {
                want[i] = (int32_t)(next_random(&seed) % letters);
                text[i] = (char)('a' + want[i]);
            }
            struct sc_ids ids = {0};
            assert_int_equal(sc_tokenizer_encode(tok, text, n, NULL, &ids, NULL), SC_OK);
            size_t n_want = merge_plainly(&toy, want, n);
            assert_int_equal(ids.n, n_want);
            assert_memory_equal(ids.ids, want, n_want * sizeof(*want));
            sc_ids_fini(&ids);
        }
        sc_tokenizer_close(tok);
        free(t.bytes);
    }
}

static void a_long_run_of_one_character_is_merged_in_bounded_time(void **state)
{
    (void)state;
    struct sc_tokenizer *spm = open_spm(NULL, NULL, NULL, NULL, NULL);
    struct sc_tokenizer *bytes =
        open_byte_level(GPT2_SPLIT, ",\"aa\":256,\"aaaa\":257", "\"a a\",\"aa aa\"", "");
    enum { N = RUN_BYTES };
    char *text = malloc(N);
    assert_non_null(text);
    const char units[] = {' ', 'a', '\n'};
    for (size_t i = 0; i < sizeof(units); i++) {
        struct sc_ids ids = {0};
        memset(text, units[i], N);
        assert_int_equal(sc_tokenizer_encode(spm, text, N, NULL, &ids, NULL), SC_OK);
        assert_int_equal(ids.n, units[i] == ' ' ? N / 2 + 1 : N + 1);
        ids.n = 0;
        assert_int_equal(sc_tokenizer_encode(bytes, text, N, NULL, &ids, NULL), SC_OK);
        assert_int_equal(ids.n, units[i] == 'a' ? N / 4 : N);
        sc_ids_fini(&ids);
    }
    free(text);
    sc_tokenizer_close(spm);
    sc_tokenizer_close(bytes);
}

static void *encode_often(void *arg)
{
    for (int i = 0; i < 200; i++)
        EXPECT_IDS(arg, "hello  hello\xc3\xa9</s>", SPM_SPACE_HELLO, SPM_SPACE, SPM_SPACE_HELLO,
                   3 + 0xc3, 3 + 0xa9, 2);
    return NULL;
}

static void many_threads_encode_with_one_tokenizer(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_spm(
        "null",
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
        "\"\\\\s?\\\\p{L}+\"},\"behavior\":\"Isolated\"},{\"type\":\"Metaspace\",\"replacement\":"
        "\"\xe2\x96\x81\",\"prepend_scheme\":\"first\",\"split\":false}]}",
        NULL, NULL, NULL);
    pthread_t threads[4];
    for (size_t i = 0; i < SC_ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, tok), 0);
    for (size_t i = 0; i < SC_ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    sc_tokenizer_close(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_merge_of_lowest_rank_goes_first_and_the_leftmost_of_equals),
        cmocka_unit_test(a_later_merge_of_the_same_pair_replaces_the_earlier),
        cmocka_unit_test(words_do_not_merge_across_what_the_pre_tokenizer_splits),
        cmocka_unit_test(ignore_merges_takes_a_word_whole_from_the_vocabulary),
        cmocka_unit_test(sentencepiece_text_gets_its_space_in_front_and_loses_it_again),
        cmocka_unit_test(an_unknown_character_falls_back_to_its_bytes),
        cmocka_unit_test(unknown_characters_are_fused_or_not_or_dropped),
        cmocka_unit_test(added_tokens_swallow_white_space_as_their_flags_say),
        cmocka_unit_test(a_normalized_added_token_is_looked_for_in_normalized_text),
        cmocka_unit_test(metaspace_first_prefixes_only_the_start_of_the_input),
        cmocka_unit_test(a_stream_holds_back_an_unfinished_character),
        cmocka_unit_test(a_stream_drops_the_leading_space_only_where_the_text_starts),
        cmocka_unit_test(the_bytes_of_a_token_are_what_it_stands_for),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_with_its_place),
        cmocka_unit_test(a_nul_byte_is_a_character),
        cmocka_unit_test(random_merges_give_what_their_definition_gives),
        cmocka_unit_test(a_long_run_of_one_character_is_merged_in_bounded_time),
        cmocka_unit_test(many_threads_encode_with_one_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
