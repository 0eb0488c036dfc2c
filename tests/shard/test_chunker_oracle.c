/* Where the C code cuts a sequence, against tools/gsc_oracle.py: a made-up vocabulary with every
 * kind of delimiter, random sequences, recipes, prompt lengths and prefixes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/hash.h"
#include "shard/chunker.h"

#define ORACLE      "'" SC_PYTHON "' '" SC_SOURCE_DIR "/tools/gsc_oracle.py' "
#define N_SEQUENCES 600u
#define N_TOKENS    700u

static const char *const pieces[] = {
    "a",      "b",      "word",   " c",     " the",   " water", "7",      " 42",    "0",
    ".",      " .",     ",",      " ,",     ":",      " :",     ";",      "!",      "?",
    ")",      "]",      ").",     ".\"",    " Mr.",   " e.g.,", "\n",     "\n\n",   " \n",
    "\n ",    ";\n",    "}\n",    ".\n",    "\n \n",  "```",    "```\n",  "\t",     " ",
    "  ",     "\r\n",   "...",    "\u2026", "\u3002", "\uff01", "\uff1f", "\uff61", "\u061f",
    "\u06d4", "\u0964", "\u0965", "\uff0c", "\uff1b", "\uff1a", "\u3001", "\u6c34", "\u6c34\u3002",
    "\u0663", "x\n\n",
};
#define N_PIECES (sizeof(pieces) / sizeof(pieces[0]))
#define TURN_ID  ((int32_t)N_PIECES)
#define N_VOCAB  (N_PIECES + 1)

/* How often: words mostly, so that all rules come to bear. */
static int32_t random_token(uint64_t *rng, uint32_t delimiters_of_256)
{
    *rng += 0x9e3779b97f4a7c15ull;
    uint64_t r = sc_mix64(*rng);
    if ((r & 0xffff) < 100)
        return TURN_ID;
    bool delimiter = ((r >> 16) & 0xff) < delimiters_of_256;
    return (int32_t)((r >> 32) % (delimiter ? N_PIECES : 9));
}

/* The byte-level alphabet of byte-pair vocabularies: printable bytes as they are, others from
 * U+0100. */
static void append_byte_level(char *out, size_t cap, const char *text)
{
    size_t at = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        uint32_t code = *c, moved = 0;
        for (uint32_t b = 0; b <= *c; b++) {
            bool as_is = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
            code = as_is ? b : 256 + moved++;
        }
        assert_true(at + 3 < cap);
        if (code < 128) {
            out[at++] = (char)code;
        } else {
            out[at++] = (char)(0xc0 | (code >> 6));
            out[at++] = (char)(0x80 | (code & 63));
        }
    }
    out[at] = '\0';
}

static struct sc_tokenizer *open_tokenizer(void)
{
    json_t *vocab = json_object();
    for (size_t i = 0; i < N_PIECES; i++) {
        char piece[64];
        append_byte_level(piece, sizeof(piece), pieces[i]);
        assert_int_equal(json_object_set_new(vocab, piece, json_integer((json_int_t)i)), 0);
    }
    json_t *added = json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (int)TURN_ID, "content",
                              "<|im_end|>", "single_word", 0, "lstrip", 0, "rstrip", 0,
                              "normalized", 0, "special", 1);
    json_t *level = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                              "trim_offsets", 1, "use_regex", 1);
    json_t *root = json_pack(
        "{s:s, s:n, s:n, s:[o], s:n, s:O, s:n, s:o, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, "
        "s:o, s:[]}}",
        "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer",
        "pre_tokenizer", level, "post_processor", "decoder", level, "model", "type", "BPE",
        "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
        "byte_fallback", 0, "vocab", vocab, "merges");
    assert_non_null(root);
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    struct sc_tokenizer *tok = NULL;
    struct sc_err err = SC_ERR_INIT;
    if (sc_tokenizer_open_memory(text, strlen(text), NULL, 0, &tok, &err) != SC_OK)
        fail_msg("tokenizer: %s", err.text);
    free(text);
    return tok;
}

struct sequence {
    int32_t tokens[N_TOKENS];
    uint32_t n, n_visible, prompt_len;
    struct sc_recipe recipe;
};

static const char *chunking_name(enum sc_chunking chunking)
{
    static const char *const names[] = {"packed", "sentence", "clause", "fixed"};
    return names[chunking];
}

static void random_sequence(uint64_t *rng, uint32_t i, struct sequence *s)
{
    memset(s, 0, sizeof(*s));
    uint32_t delimiters = (uint32_t[]){2, 10, 30, 100}[i % 4];
    s->n = N_TOKENS;
    for (uint32_t t = 0; t < s->n; t++)
        s->tokens[t] = random_token(rng, delimiters);
    uint64_t r = sc_mix64(*rng);
    s->n_visible = i % 3 ? s->n : (uint32_t)(r % s->n) + 1;
    s->prompt_len = i % 5 ? (uint32_t)((r >> 20) % s->n) + 1 : s->n;
    struct sc_recipe *recipe = &s->recipe;
    recipe->mode = SC_KV_COMPRESSED;
    recipe->chunking = (enum sc_chunking)(i % 7 < 4 ? SC_CHUNKS_PACKED : i % 7 - 3);
    recipe->chunk_min = 32;
    recipe->chunk_target = 64;
    recipe->chunk_max = 128;
    if (i % 2) {
        recipe->chunk_min = SC_CHUNK_MIN + (uint32_t)((r >> 40) % 30);
        recipe->chunk_target = recipe->chunk_min + (uint32_t)((r >> 48) % 40);
        recipe->chunk_max = recipe->chunk_target + (uint32_t)((r >> 56) % 50);
    }
}

static void write_sequence(FILE *file, const struct sc_token_table *table, const struct sequence *s)
{
    json_t *texts = json_array(), *turns = json_array();
    for (uint32_t t = 0; t < s->n; t++) {
        const char *piece = s->tokens[t] == TURN_ID ? "<|im_end|>" : pieces[s->tokens[t]];
        char hex[64] = "";
        for (size_t b = 0; piece[b]; b++)
            (void)snprintf(hex + 2 * b, 3, "%02x", (unsigned char)piece[b]);
        assert_int_equal(json_array_append_new(texts, json_string(hex)), 0);
        int turn = (sc_token_table_get(table, s->tokens[t]) & SC_TOKEN_TURN) != 0;
        assert_int_equal(turn, s->tokens[t] == TURN_ID);
        assert_int_equal(json_array_append_new(turns, json_integer(turn)), 0);
    }
    json_t *line =
        json_pack("{s:o, s:o, s:i, s:i, s:i, s:i, s:i, s:s}", "texts", texts, "turns", turns,
                  "n_visible", (int)s->n_visible, "prompt_len", (int)s->prompt_len, "min",
                  (int)s->recipe.chunk_min, "target", (int)s->recipe.chunk_target, "max",
                  (int)s->recipe.chunk_max, "chunking", chunking_name(s->recipe.chunking));
    assert_non_null(line);
    assert_int_equal(json_dumpf(line, file, JSON_COMPACT), 0);
    (void)fputc('\n', file);
    json_decref(line);
}

static uint32_t compare_ends(const struct sc_token_table *table, const struct sequence *s,
                             uint32_t number, const json_t *ends)
{
    uint32_t start = 0, n = 0;
    for (;; n++) {
        uint32_t got =
            sc_chunk_end(table, &s->recipe, s->tokens, start, s->n_visible, s->prompt_len);
        uint32_t want = (uint32_t)json_integer_value(json_array_get(ends, n));
        if (got != want)
            fail_msg("sequence %u (%s, %u/%u/%u, visible %u, prompt %u): chunk %u from %u ends at "
                     "%u, in the reference at %u",
                     number, chunking_name(s->recipe.chunking), s->recipe.chunk_min,
                     s->recipe.chunk_target, s->recipe.chunk_max, s->n_visible, s->prompt_len, n,
                     start, got, want);
        if (got == 0)
            return n;
        start = got;
    }
}

static void chunks_end_where_the_reference_ends_them(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_tokenizer();
    struct sc_token_table *table = NULL;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_token_table_open(tok, N_VOCAB, &table, &err), SC_OK);
    char path[] = "/tmp/sc-chunker-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    struct sequence *all = calloc(N_SEQUENCES, sizeof(*all));
    assert_non_null(all);
    uint64_t rng = 20;
    for (uint32_t i = 0; i < N_SEQUENCES; i++) {
        random_sequence(&rng, i, &all[i]);
        write_sequence(file, table, &all[i]);
    }
    assert_int_equal(fclose(file), 0);

    char command[4096];
    (void)snprintf(command, sizeof(command), "%schunk < %s", ORACLE, path);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    uint32_t n_chunks = 0;
    for (uint32_t i = 0; i < N_SEQUENCES; i++) {
        json_error_t why;
        json_t *line = json_loadf(pipe, JSON_DISABLE_EOF_CHECK, &why);
        assert_non_null(line);
        n_chunks += compare_ends(table, &all[i], i, json_object_get(line, "ends"));
        json_decref(line);
    }
    while (fgetc(pipe) != EOF)
        ; /* the newline of the last answer: closing before it would kill the writer */
    assert_int_equal(pclose(pipe), 0);
    assert_int_equal(unlink(path), 0);
    print_message("%u sequences, %u chunks\n", N_SEQUENCES, n_chunks);
    assert_true(n_chunks > 4 * N_SEQUENCES);
    free(all);
    sc_token_table_close(table);
    sc_tokenizer_close(tok);
}

int main(void)
{
    if (SC_PYTHON[0] == '\0') {
        puts("skipped: no python3 was found when the build was configured");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_end_where_the_reference_ends_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
