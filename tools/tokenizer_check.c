/* tools/tokenizer_check.c - compares the tokenizer with recorded cases, and times it.
 *
 * tokenizer-check TOKENIZER.json[.gz] CASES.jsonl[.gz]...
 *     A case is {"text", "ids", "ids_add_special"?, "dec"?, "dec_skip"?}: encode and decode; or,
 * with no "text", {"ids", "dec", "dec_skip"?}: decode. "dec" is left out where it equals the text,
 *     "dec_skip" where it equals dec, "ids_add_special" (in files that have it) where it equals
 * ids. A tokenizer_config.json beside the tokenizer is used. tokenizer-check --matrix FILE.json...
 *     {"tokenizer": {...}, "cases": [...]} in one file.
 * tokenizer-check --bench TOKENIZER.json[.gz] TEXT
 * tokenizer-check --repeat STRING BYTES TOKENIZER.json[.gz]
 *
 * Exit status: 0 no mismatch, 1 mismatches, 2 the tokenizer was refused or a file is bad.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

#include "model/tokenizer.h"

#define FILE_BYTES_MAX ((size_t)256 << 20)
#define SHOWN_MAX      5 /* mismatches printed in full */

struct tally {
    size_t n_cases, n_mismatches;
};

/* Reads a plain or gzip file; NULL after saying why. */
static char *slurp(const char *path, size_t *ret_len)
{
    gzFile f = gzopen(path, "rb");
    size_t len = 0, cap = 1 << 16;
    char *bytes = malloc(cap);
    int n = -1;
    while (f && bytes && (n = gzread(f, bytes + len, (unsigned)(cap - len - 1))) > 0) {
        len += (size_t)n;
        if (cap - len - 1 > 0)
            continue;
        char *grown = cap * 2 > FILE_BYTES_MAX ? NULL : realloc(bytes, cap * 2);
        if (!grown)
            break;
        bytes = grown;
        cap *= 2;
    }
    if (f)
        gzclose(f);
    if (n != 0) {
        fprintf(stderr, "%s: cannot be read, or is over %zu bytes\n", path, FILE_BYTES_MAX);
        free(bytes);
        return NULL;
    }
    bytes[len] = '\0';
    *ret_len = len;
    return bytes;
}

static bool ids_from_json(const json_t *list, struct sc_ids *ids)
{
    size_t n = json_array_size(list);
    ids->n = 0;
    if (ids->cap < n) {
        free(ids->ids);
        ids->ids = malloc(n * sizeof(*ids->ids));
        ids->cap = ids->ids ? n : 0;
        if (!ids->ids)
            return false;
    }
    for (size_t i = 0; i < n; i++)
        ids->ids[ids->n++] = (int32_t)json_integer_value(json_array_get(list, i));
    return true;
}

static void show_ids(const char *name, const struct sc_ids *ids)
{
    printf("  %s:", name);
    for (size_t i = 0; i < ids->n && i < 40; i++)
        printf(" %" PRId32, ids->ids[i]);
    printf(ids->n > 40 ? " ... (%zu)\n" : "\n", ids->n);
}

static void show_text(const char *name, const char *bytes, size_t len)
{
    json_t *text = json_stringn_nocheck(bytes ? bytes : "", len < 300 ? len : 300);
    char *dump = text ? json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
    printf("  %s: %s\n", name, dump ? dump : "(not UTF-8 here)");
    free(dump);
    json_decref(text);
}

/* One comparison failed: counts it, and says what when not too many did. */
static bool report(const struct tally *t, const char *what, const json_t *c)
{
    if (t->n_mismatches >= SHOWN_MAX)
        return false;
    char *dump = json_dumps(c, JSON_ENSURE_ASCII | JSON_COMPACT);
    printf("mismatch of %s: %.400s\n", what, dump ? dump : "");
    free(dump);
    return true;
}

static bool check_encode(const struct sc_tokenizer *tok, const json_t *c, const char *field,
                         bool add_special, const struct tally *t)
{
    struct sc_ids want = {0}, got = {0};
    struct sc_err err = SC_ERR_INIT;
    const json_t *text = json_object_get(c, "text");
    const json_t *list = json_object_get(c, field);
    struct sc_encode_opts opts = {.add_special_tokens = add_special};
    bool same = ids_from_json(list ? list : json_object_get(c, "ids"), &want);
    enum sc_status st = sc_tokenizer_encode(tok, json_string_value(text), json_string_length(text),
                                            &opts, &got, &err);
    same = same && st == SC_OK && got.n == want.n &&
           (got.n == 0 || memcmp(got.ids, want.ids, got.n * sizeof(*got.ids)) == 0);
    if (!same && report(t, field, c)) {
        if (st != SC_OK)
            printf("  %s\n", err.text);
        show_ids("want", &want);
        show_ids("got ", &got);
    }
    sc_ids_fini(&want);
    sc_ids_fini(&got);
    return same;
}

static bool stream(const struct sc_tokenizer *tok, const struct sc_ids *ids, bool skip,
                   struct sc_text *out)
{
    struct sc_detok d;
    sc_detok_init(&d, tok, skip, false);
    for (size_t i = 0; i < ids->n; i++)
        if (sc_detok_push(&d, ids->ids[i], out, NULL) != SC_OK)
            return false;
    return sc_detok_flush(&d, out, NULL) == SC_OK;
}

static bool equal(const struct sc_text *got, const char *want, size_t len)
{
    return got->len == len && (len == 0 || memcmp(got->bytes, want, len) == 0);
}

/* Decodes ids at once and as a stream; want is what is to come out. */
static bool check_decode(const struct sc_tokenizer *tok, const json_t *c, const json_t *want,
                         bool skip, const struct tally *t)
{
    struct sc_ids ids = {0};
    struct sc_text got = {0}, streamed = {0};
    struct sc_err err = SC_ERR_INIT;
    const char *text = json_string_value(want);
    size_t len = json_string_length(want);
    bool ok = ids_from_json(json_object_get(c, "ids"), &ids) &&
              sc_tokenizer_decode(tok, ids.ids, ids.n, skip, &got, &err) == SC_OK;
    bool same = ok && text && equal(&got, text, len);
    if (!same && report(t, skip ? "dec_skip" : "dec", c)) {
        show_text("want", text, len);
        show_text("got ", got.bytes, got.len);
    }
    /* Malformed bytes are told at once in a stream, and so differently. */
    if (same && !memmem(text, len, "\xef\xbf\xbd", 3)) {
        same = stream(tok, &ids, skip, &streamed) && equal(&streamed, text, len);
        if (!same && report(t, "stream", c)) {
            show_text("want", text, len);
            show_text("got ", streamed.bytes, streamed.len);
        }
    }
    sc_ids_fini(&ids);
    sc_text_fini(&got);
    sc_text_fini(&streamed);
    return same;
}

/* Which fields a file has at all: only there does a missing one mean "the same". */
struct fields {
    bool ids_add_special, dec_skip;
};

static bool any_special(const struct sc_tokenizer *tok, const json_t *ids)
{
    for (size_t i = 0; i < json_array_size(ids); i++)
        if (sc_tokenizer_is_special(tok, (int32_t)json_integer_value(json_array_get(ids, i))))
            return true;
    return false;
}

static void check_case(const struct sc_tokenizer *tok, const json_t *c, struct fields has,
                       struct tally *t)
{
    bool same = true;
    const json_t *text = json_object_get(c, "text");
    const json_t *dec = json_object_get(c, "dec"), *skip = json_object_get(c, "dec_skip");
    if (!dec)
        dec = text;
    if (text)
        same = check_encode(tok, c, "ids", false, t);
    if (text && has.ids_add_special && same)
        same = check_encode(tok, c, "ids_add_special", true, t);
    if (same)
        same = check_decode(tok, c, dec, false, t);
    if (same && (has.dec_skip || !any_special(tok, json_object_get(c, "ids"))))
        same = check_decode(tok, c, skip ? skip : dec, true, t);
    t->n_cases++;
    t->n_mismatches += !same;
}

static bool check_list(const struct sc_tokenizer *tok, const json_t *list, struct tally *t)
{
    struct fields has = {0};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = json_array_get(list, i);
        has.ids_add_special |= json_object_get(c, "ids_add_special") != NULL;
        has.dec_skip |= json_object_get(c, "dec_skip") != NULL;
    }
    for (size_t i = 0; i < json_array_size(list); i++)
        check_case(tok, json_array_get(list, i), has, t);
    return json_array_size(list) > 0;
}

/* A JSON document a line; NULL after saying what is wrong. */
static json_t *load_lines(const char *path)
{
    size_t len = 0, line = 1;
    char *bytes = slurp(path, &len);
    json_t *list = bytes ? json_array() : NULL;
    for (size_t pos = 0; list && pos < len; line++) {
        char *end = memchr(bytes + pos, '\n', len - pos);
        size_t stop = end ? (size_t)(end - bytes) : len;
        json_error_t why;
        if (stop > pos) {
            json_t *c = json_loadb(bytes + pos, stop - pos, JSON_ALLOW_NUL, &why);
            if (!c || json_array_append_new(list, c) != 0) {
                fprintf(stderr, "%s:%zu: %s\n", path, line, why.text);
                json_decref(list);
                list = NULL;
            }
        }
        pos = stop + 1;
    }
    free(bytes);
    return list;
}

/* The tokenizer at path, with the tokenizer_config.json of its directory. */
static struct sc_tokenizer *open_tokenizer(const char *path)
{
    struct sc_tokenizer *tok = NULL;
    struct sc_err err = SC_ERR_INIT;
    char config_path[4096];
    const char *slash = strrchr(path, '/');
    size_t len = 0, config_len = 0;
    char *json = slurp(path, &len), *config = NULL;
    snprintf(config_path, sizeof(config_path), "%.*stokenizer_config.json",
             slash ? (int)(slash - path + 1) : 0, path);
    FILE *there = fopen(config_path, "rb");
    if (there) {
        fclose(there);
        config = slurp(config_path, &config_len);
    }
    if (json && (!there || config) &&
        sc_tokenizer_open_memory(json, len, config, config_len, &tok, &err) != SC_OK)
        printf("%s: refused: %s\n", path, err.text);
    free(json);
    free(config);
    return tok;
}

static int finish(const char *name, const struct tally *t)
{
    printf("%s: %zu cases, %zu mismatches\n", name, t->n_cases, t->n_mismatches);
    return t->n_mismatches > 0 ? 1 : 0;
}

static int run_cases(int argc, char **argv)
{
    struct sc_tokenizer *tok = open_tokenizer(argv[1]);
    struct tally t = {0};
    int rc = tok ? 0 : 2;
    for (int i = 2; rc == 0 && i < argc; i++) {
        json_t *list = load_lines(argv[i]);
        if (!list || !check_list(tok, list, &t)) {
            fprintf(stderr, "%s: no cases\n", argv[i]);
            rc = 2;
        }
        json_decref(list);
    }
    sc_tokenizer_close(tok);
    return rc == 0 ? finish(argv[1], &t) : rc;
}

static int run_matrix(const char *path)
{
    struct sc_tokenizer *tok = NULL;
    struct sc_err err = SC_ERR_INIT;
    struct tally t = {0};
    size_t len = 0;
    char *bytes = slurp(path, &len);
    json_t *root = bytes ? json_loadb(bytes, len, JSON_ALLOW_NUL, NULL) : NULL;
    char *json = json_dumps(json_object_get(root, "tokenizer"), JSON_COMPACT);
    int rc = 2;
    if (!json)
        fprintf(stderr, "%s: has no tokenizer\n", path);
    else if (sc_tokenizer_open_memory(json, strlen(json), NULL, 0, &tok, &err) != SC_OK)
        printf("%s: refused: %s\n", path, err.text);
    else if (!check_list(tok, json_object_get(root, "cases"), &t))
        fprintf(stderr, "%s: no cases\n", path);
    else
        rc = finish(path, &t);
    sc_tokenizer_close(tok);
    free(json);
    json_decref(root);
    free(bytes);
    return rc;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int time_text(const struct sc_tokenizer *tok, const char *text, size_t len, int rounds)
{
    double best = 1e30;
    size_t n = 0;
    for (int i = 0; i < rounds; i++) {
        struct sc_ids ids = {0};
        struct sc_err err = SC_ERR_INIT;
        double start = now_s();
        enum sc_status st = sc_tokenizer_encode(tok, text, len, NULL, &ids, &err);
        double took = now_s() - start;
        best = took < best ? took : best;
        n = ids.n;
        sc_ids_fini(&ids);
        if (st != SC_OK) {
            printf("refused after %.3f s: %s\n", took, err.text);
            return 1;
        }
    }
    printf("%zu bytes, %zu tokens, %.3f s, %.1f MB/s\n", len, n, best, (double)len / best / 1e6);
    return 0;
}

static int run_bench(const char *tokenizer, const char *path)
{
    double start = now_s();
    struct sc_tokenizer *tok = open_tokenizer(tokenizer);
    printf("load %.3f s\n", now_s() - start);
    size_t len = 0;
    char *text = slurp(path, &len);
    int rc = tok && text ? time_text(tok, text, len, 5) : 2;
    free(text);
    sc_tokenizer_close(tok);
    return rc;
}

static int run_repeat(const char *unit, size_t bytes, const char *tokenizer)
{
    struct sc_tokenizer *tok = open_tokenizer(tokenizer);
    size_t n = strlen(unit), len = 0;
    char *text = tok && n > 0 ? malloc(bytes + n) : NULL;
    while (text && len + n <= bytes) {
        memcpy(text + len, unit, n);
        len += n;
    }
    int rc = text ? time_text(tok, text, len, 1) : 2;
    free(text);
    sc_tokenizer_close(tok);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "--matrix") == 0) {
        int worst = 0;
        for (int i = 2; i < argc; i++) {
            int rc = run_matrix(argv[i]);
            /* A mismatch is worse than a refusal. */
            worst = worst == 1 || rc == 1 ? 1 : rc > worst ? rc : worst;
        }
        return worst;
    }
    if (argc == 4 && strcmp(argv[1], "--bench") == 0)
        return run_bench(argv[2], argv[3]);
    if (argc == 5 && strcmp(argv[1], "--repeat") == 0)
        return run_repeat(argv[2], strtoull(argv[3], NULL, 10), argv[4]);
    if (argc >= 3 && argv[1][0] != '-')
        return run_cases(argc, argv);
    fprintf(stderr,
            "usage: %s TOKENIZER.json[.gz] CASES.jsonl[.gz]...\n"
            "       %s --matrix FILE.json...\n"
            "       %s --bench TOKENIZER.json[.gz] TEXT\n"
            "       %s --repeat STRING BYTES TOKENIZER.json[.gz]\n",
            argv[0], argv[0], argv[0], argv[0]);
    return 2;
}
