#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"
#include "model/safetensors.h"

#define GOLDEN SC_SOURCE_DIR "/tests/golden/"

/* A file of its own malloc, so that a read past its end is seen by the sanitizer. */
struct file {
    unsigned char *bytes;
    size_t len;
};

/* header with ' for "; n_data bytes 0, 1, 2, ... follow. */
static struct file file_of(const char *header, size_t n_data)
{
    size_t n = strlen(header);
    struct file f = {.bytes = malloc(8 + n + n_data), .len = 8 + n + n_data};
    assert_non_null(f.bytes);
    for (int i = 0; i < 8; i++)
        f.bytes[i] = (unsigned char)((uint64_t)n >> (8 * i));
    for (size_t i = 0; i < n; i++)
        f.bytes[8 + i] = (unsigned char)(header[i] == '\'' ? '"' : header[i]);
    for (size_t i = 0; i < n_data; i++)
        f.bytes[8 + n + i] = (unsigned char)i;
    return f;
}

static void refuse_file(const struct file *f, const char *label, enum sc_status want,
                        const char *text)
{
    struct sc_tensors *t = NULL;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_tensors_open_memory(f->bytes, f->len, &t, &err);
    if (st != want || strstr(err.text, text) == NULL)
        fail_msg("%s: got %s \"%s\", expected %s with \"%s\"", label, sc_status_name(st), err.text,
                 sc_status_name(want), text);
    assert_null(t);
}

static void refuse(const char *header, size_t n_data, enum sc_status want, const char *text)
{
    struct file f = file_of(header, n_data);
    refuse_file(&f, header, want, text);
    free(f.bytes);
}

static struct sc_tensors *accept(const struct file *f)
{
    struct sc_tensors *t = NULL;
    struct sc_err err = SC_ERR_INIT;
    if (sc_tensors_open_memory(f->bytes, f->len, &t, &err) != SC_OK)
        fail_msg("refused: %s", err.text);
    return t;
}

static const char good[] =
    "{'__metadata__':{'format':'pt'},'b':{'dtype':'F32','shape':[2,3],'data_offsets':[0,24]},"
    "'a':{'dtype':'BF16','shape':[4],'data_offsets':[24,32]},"
    "'i':{'dtype':'I64','shape':[],'data_offsets':[32,40]},"
    "'e':{'dtype':'F16','shape':[0,7],'data_offsets':[40,40]}}   ";

static void tensors_are_found_with_type_shape_and_bytes(void **state)
{
    (void)state;
    struct file f = file_of(good, 40);
    struct sc_tensors *t = accept(&f);
    struct sc_tensor_view v;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_tensors_count(t), 4);
    assert_int_equal(sc_tensors_total_bytes(t), 40);
    assert_string_equal(sc_tensors_name(t, 0), "a");
    assert_string_equal(sc_tensors_name(t, 3), "i");
    assert_int_equal(sc_tensors_get(t, "b", &v, &err), SC_OK);
    assert_int_equal(v.dtype, SC_DTYPE_F32);
    assert_int_equal(v.n_dims, 2);
    assert_int_equal(v.shape[0], 2);
    assert_int_equal(v.shape[1], 3);
    assert_int_equal(v.bytes, 24);
    assert_int_equal(((const unsigned char *)v.data)[5], 5);
    assert_int_equal(sc_tensors_get_shaped(t, "a", 4, 0, &v, &err), SC_OK);
    assert_int_equal(((const unsigned char *)v.data)[0], 24);
    assert_int_equal(sc_tensors_get_shaped(t, "e", 0, 7, &v, &err), SC_OK);
    assert_int_equal(v.bytes, 0);
    assert_true(sc_tensors_has(t, "i"));
    assert_false(sc_tensors_has(t, "c"));
    sc_tensors_close(t);
    free(f.bytes);
}

static void what_cannot_be_got_is_named(void **state)
{
    (void)state;
    struct file f = file_of(good, 40);
    struct sc_tensors *t = accept(&f);
    struct sc_tensor_view v = {.bytes = 77};
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_tensors_get(t, "model.norm.weight", &v, &err), SC_ENOENT);
    assert_string_equal(err.text, "tensor model.norm.weight is missing");
    sc_err_clear(&err);
    assert_int_equal(sc_tensors_get(t, "i", &v, &err), SC_ENOTSUP);
    assert_string_equal(err.text, "tensor i: dtype I64, supported: F32, BF16, F16");
    sc_err_clear(&err);
    assert_int_equal(sc_tensors_get_shaped(t, "b", 3, 2, &v, &err), SC_EINVAL);
    assert_string_equal(err.text, "tensor b: shape [2, 3], expected [3, 2]");
    sc_err_clear(&err);
    assert_int_equal(sc_tensors_get_shaped(t, "b", 2, 0, &v, &err), SC_EINVAL);
    assert_string_equal(err.text, "tensor b: shape [2, 3], expected [2]");
    sc_err_clear(&err);
    assert_int_equal(sc_tensors_get_shaped(t, "a", 4, 1, &v, &err), SC_EINVAL);
    assert_int_equal(v.bytes, 77); /* untouched */
    sc_tensors_close(t);
    free(f.bytes);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    struct file f = file_of(good, 40);
    for (size_t len = 0; len < f.len; len++) {
        struct file cut = {.bytes = malloc(len + (len == 0)), .len = len};
        struct sc_tensors *t = NULL;
        struct sc_err err = SC_ERR_INIT;
        assert_non_null(cut.bytes);
        memcpy(cut.bytes, f.bytes, len);
        assert_int_equal(sc_tensors_open_memory(cut.bytes, len, &t, &err), SC_EFORMAT);
        assert_true(strlen(err.text) > 20);
        free(cut.bytes);
    }
    free(f.bytes);
}

static void lying_lengths_are_refused(void **state)
{
    (void)state;
    struct file f = file_of(good, 40);
    f.bytes[7] = 0x80; /* 2^63 and a bit */
    refuse_file(&f, "length 2^63", SC_ERANGE, "header of 9223372036854776");
    refuse_file(&f, "length 2^63", SC_ERANGE, "bytes, limit 33554432");
    f.bytes[7] = 0;
    f.bytes[2] = 1; /* + 65536 */
    refuse_file(&f, "length beyond the file", SC_EFORMAT, "bytes, but the file ends after ");
    memset(f.bytes, 0, 8);
    refuse_file(&f, "length 0", SC_EFORMAT, "the header does not begin with {");
    f.len = 7;
    refuse_file(&f, "7 bytes", SC_EFORMAT, "7 bytes, too short for the header's length (8)");
    free(f.bytes);
    refuse(" {}", 0, SC_EFORMAT, "does not begin with {");
    refuse("{}", 0, SC_EFORMAT, "model.safetensors: no tensors");
    refuse("{'__metadata__':{}}", 0, SC_EFORMAT, "no tensors");
}

static void data_that_is_not_tiled_is_refused(void **state)
{
    (void)state;
#define T(name, begin, end)                                                                        \
    "'" name "':{'dtype':'U8','shape':[4],'data_offsets':[" begin "," end "]}"
    refuse("{" T("a", "0", "4") "," T("b", "2", "6") "}", 6, SC_EFORMAT,
           "tensor b begins at 2, inside tensor a that ends at 4");
    refuse("{" T("a", "0", "4") "," T("b", "0", "4") "}", 4, SC_EFORMAT, "inside tensor");
    refuse("{" T("a", "0", "4") "," T("b", "5", "9") "}", 9, SC_EFORMAT,
           "1 bytes before tensor b at 5 belong to no tensor");
    refuse("{" T("a", "2", "6") "}", 6, SC_EFORMAT,
           "2 bytes before tensor a at 2 belong to no tensor");
    refuse("{" T("a", "0", "4") "}", 7, SC_EFORMAT,
           "the last 3 of 7 bytes of data belong to no tensor");
    refuse("{" T("a", "0", "4") "}", 3, SC_EFORMAT,
           "tensor a: data_offsets ends at 4, but the file has 3 bytes of data");
    refuse("{" T("a", "4", "0") "}", 4, SC_EFORMAT, "0 <= begin <= end");
    refuse("{" T("a", "-4", "0") "}", 4, SC_EFORMAT, "0 <= begin <= end");
    refuse("{" T("a", "0", "4.0") "}", 4, SC_EFORMAT, "expected two integers");
    refuse("{" T("a", "0", "4,8") "}", 4, SC_EFORMAT, "expected two integers");
    refuse("{" T("a", "9223372036854775803", "9223372036854775807") "}", 4, SC_EFORMAT,
           "ends at 9223372036854775807, but the file has 4");
#undef T
}

static void bad_shapes_and_types_are_refused(void **state)
{
    (void)state;
#define T(dtype, shape) "{'w':{'dtype':" dtype ",'shape':" shape ",'data_offsets':[0,8]}}"
    refuse(T("'F32'", "[3]"), 8, SC_EFORMAT,
           "tensor w: data_offsets spans 8 bytes, but dtype F32 and shape make 12");
    refuse(T("'F33'", "[2]"), 8, SC_ENOTSUP, "tensor w: dtype is \"F33\", not a known type");
    refuse(T("'f32'", "[2]"), 8, SC_ENOTSUP, "dtype is \"f32\"");
    refuse(T("7", "[2]"), 8, SC_EINVAL, "dtype is 7, expected a string");
    refuse(T("null", "[2]"), 8, SC_EFORMAT, "dtype is null");
    refuse(T("'F32'", "[-2]"), 8, SC_EFORMAT, "shape[0] is -2, expected an integer >= 0");
    refuse(T("'F32'", "[2.0]"), 8, SC_EFORMAT, "shape[0] is 2, expected an integer");
    refuse(T("'F32'", "['2']"), 8, SC_EFORMAT, "shape[0] is \"2\"");
    refuse(T("'F32'", "2"), 8, SC_EFORMAT, "shape is 2, expected at most 8 integers");
    refuse(T("'F32'", "[1,1,1,1,1,1,1,1,2]"), 8, SC_EFORMAT, "expected at most 8 integers, got 9");
    refuse(T("'F32'", "[4294967296,4294967296]"), 8, SC_ERANGE,
           "shape[1] is 4294967296, and the product overflows 64 bits");
    refuse(T("'F32'", "[4611686018427387906]"), 8, SC_ERANGE, "overflows"); /* wraps to 8 */
    refuse(T("'F32'", "[99999999999999999999]"), 8, SC_EFORMAT, "model.safetensors:1:");
#undef T
    refuse("{'w':[]}", 0, SC_EFORMAT, "tensor w: expected an object of dtype, shape and data_off");
    refuse("{'w':{'dtype':'F32','shape':[0]}}", 0, SC_EFORMAT, "expected an object of dtype");
    refuse("{'w':{'dtype':'F32','shape':[0],'offsets':[0,0]}}", 0, SC_EFORMAT,
           "data_offsets is missing");
    refuse("{'':{'dtype':'F32','shape':[0],'data_offsets':[0,0]}}", 0, SC_ERANGE,
           "tensor name of 0 bytes");
}

static void duplicate_keys_and_bad_json_are_refused(void **state)
{
    (void)state;
#define W "'w':{'dtype':'F32','shape':[0],'data_offsets':[0,0]}"
    refuse("{" W "," W "}", 0, SC_EFORMAT, "duplicate");
    refuse("{'w':{'dtype':'F32','dtype':'F16','shape':[0],'data_offsets':[0,0]}}", 0, SC_EFORMAT,
           "duplicate");
    refuse("{" W "} x", 0, SC_EFORMAT, "model.safetensors:1:");
    refuse("{" W, 0, SC_EFORMAT, "model.safetensors:1:");
    refuse("{" W ",'__metadata__':[]}", 0, SC_EFORMAT, "__metadata__ is not an object");
    refuse("{" W ",'__metadata__':{'n':1}}", 0, SC_EFORMAT, "__metadata__: \"n\" is not a string");
#undef W
}

static void names_beyond_the_limit_are_refused(void **state)
{
    (void)state;
    char name[SC_TENSOR_NAME_MAX + 2], header[SC_TENSOR_NAME_MAX + 100];
    memset(name, 'n', sizeof(name));
    name[SC_TENSOR_NAME_MAX] = '\0';
    (void)snprintf(header, sizeof(header),
                   "{'%s':{'dtype':'F32','shape':[0],'data_offsets':[0,0]}}", name);
    struct file f = file_of(header, 0);
    struct sc_tensors *t = accept(&f);
    assert_true(sc_tensors_has(t, name));
    sc_tensors_close(t);
    free(f.bytes);
    name[SC_TENSOR_NAME_MAX] = 'n';
    name[SC_TENSOR_NAME_MAX + 1] = '\0';
    (void)snprintf(header, sizeof(header),
                   "{'%s':{'dtype':'F32','shape':[0],'data_offsets':[0,0]}}", name);
    refuse(header, 0, SC_ERANGE, "tensor name of 513 bytes");
}

static void more_tensors_than_the_limit_are_refused(void **state)
{
    (void)state;
    static const char entry[] = "'%06u':{'dtype':'F32','shape':[0],'data_offsets':[0,0]}%s";
    const unsigned n = SC_SAFETENSORS_TENSORS_MAX + 1;
    char *header = malloc((size_t)n * 80);
    assert_non_null(header);
    for (unsigned count = n - 1; count <= n; count++) {
        size_t at = (size_t)sprintf(header, "{");
        for (unsigned i = 0; i < count; i++)
            at += (size_t)sprintf(header + at, entry, i, i + 1 < count ? "," : "}");
        if (count == n) {
            refuse(header, 0, SC_ERANGE, "100001 tensors, limit 100000");
            continue;
        }
        struct file f = file_of(header, 0);
        struct sc_tensors *t = accept(&f);
        assert_int_equal(sc_tensors_count(t), count);
        sc_tensors_close(t);
        free(f.bytes);
    }
    free(header);
}

/* ---- directories ---- */

struct dir {
    char path[64];
};

static int dir_make(void **state)
{
    struct dir *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return -1;
    (void)snprintf(d->path, sizeof(d->path), "/tmp/sc-safetensors-XXXXXX");
    *state = d;
    return mkdtemp(d->path) != NULL ? 0 : -1;
}

static int dir_drop(void **state)
{
    struct dir *d = *state;
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf -- '%s'", d->path);
    int rc = system(command);
    free(d);
    return rc;
}

static void put(const struct dir *d, const char *name, const void *bytes, size_t len)
{
    char path[400];
    (void)snprintf(path, sizeof(path), "%s/%s", d->path, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static void put_shard(const struct dir *d, const char *name, const char *header, size_t n_data)
{
    struct file f = file_of(header, n_data);
    put(d, name, f.bytes, f.len);
    free(f.bytes);
}

static void put_index(const struct dir *d, const char *text)
{
    char buf[2000];
    size_t n = strlen(text);
    assert_true(n < sizeof(buf));
    for (size_t i = 0; i < n; i++)
        buf[i] = (char)(text[i] == '\'' ? '"' : text[i]);
    put(d, "model.safetensors.index.json", buf, n);
}

static void refuse_dir(const struct dir *d, enum sc_status want, const char *text)
{
    struct sc_tensors *t = NULL;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_tensors_open_dir(d->path, &t, &err);
    if (st != want || strstr(err.text, text) == NULL)
        fail_msg("got %s \"%s\", expected %s with \"%s\"", sc_status_name(st), err.text,
                 sc_status_name(want), text);
    assert_null(t);
}

#define ONE(name) "{'" name "':{'dtype':'F32','shape':[1],'data_offsets':[0,4]}}"

static void shards_of_an_index_make_one_set(void **state)
{
    struct dir *d = *state;
    struct sc_tensors *t = NULL;
    struct sc_err err = SC_ERR_INIT;
    put_shard(d, "m-1.safetensors", ONE("x"), 4);
    put_shard(d, "m-2.safetensors", ONE("a"), 4);
    put_index(d, "{'metadata':{'total_size':8},"
                 "'weight_map':{'a':'m-2.safetensors','x':'m-1.safetensors'}}");
    if (sc_tensors_open_dir(d->path, &t, &err) != SC_OK)
        fail_msg("%s", err.text);
    assert_int_equal(sc_tensors_count(t), 2);
    assert_int_equal(sc_tensors_total_bytes(t), 8);
    assert_string_equal(sc_tensors_name(t, 0), "a");
    sc_tensors_close(t);
    put_shard(d, "model.safetensors", ONE("single"), 4); /* wins over the index */
    assert_int_equal(sc_tensors_open_dir(d->path, &t, &err), SC_OK);
    assert_true(sc_tensors_has(t, "single"));
    assert_int_equal(sc_tensors_count(t), 1);
    sc_tensors_close(t);
}

static void index_and_shards_must_agree(void **state)
{
    struct dir *d = *state;
    refuse_dir(d, SC_ENOENT, "neither model.safetensors nor model.safetensors.index.json");
    put_shard(d, "m-1.safetensors", ONE("x"), 4);
    put_index(d, "{'weight_map':{'x':'m-1.safetensors','y':'m-1.safetensors'}}");
    refuse_dir(d, SC_EFORMAT, "weight_map: y is not in m-1.safetensors");
    put_index(d, "{'weight_map':{'x':'m-1.safetensors','y':'m-2.safetensors'}}");
    refuse_dir(d, SC_ENOENT, "m-2.safetensors: open: ");
    put_shard(d, "m-2.safetensors", ONE("x"), 4);
    refuse_dir(d, SC_EFORMAT, "tensor x is in both m-");
    put_shard(d, "m-2.safetensors", ONE("z"), 4);
    refuse_dir(d, SC_EFORMAT, "tensor z of m-2.safetensors is not in weight_map");
    put_shard(d, "m-2.safetensors", ONE("y"), 3);
    refuse_dir(d, SC_EFORMAT, "m-2.safetensors: tensor y: data_offsets ends at 4");
    put_shard(d, "m-2.safetensors", ONE("y"), 4);
    put_index(d, "{'weight_map':{'x':'m-2.safetensors','y':'m-1.safetensors'}}");
    refuse_dir(d, SC_EFORMAT, "is not in m-"); /* swapped */
}

static void shard_names_with_paths_are_refused(void **state)
{
    struct dir *d = *state;
    static const char *const names[] = {
        "'../x.safetensors'",
        "'/etc/x.safetensors'",
        "'a/b.safetensors'",
        "'..'",
        "'.safetensors'",
        "'.x.safetensors'",
        "'x.bin'",
        "''",
        "7",
        "null",
        "['x.safetensors']",
        "'a\\\\b.safetensors'",
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(names); i++) {
        char index[200];
        (void)snprintf(index, sizeof(index), "{'weight_map':{'w':%s}}", names[i]);
        put_index(d, index);
        refuse_dir(d, SC_EINVAL, "weight_map: w is in ");
        refuse_dir(d, SC_EINVAL, "without a path");
    }
}

static void an_index_that_is_none_is_refused(void **state)
{
    struct dir *d = *state;
    put_index(d, "{}");
    refuse_dir(d, SC_EFORMAT, "weight_map is missing or not an object");
    put_index(d, "{'weight_map':[]}");
    refuse_dir(d, SC_EFORMAT, "weight_map is missing or not an object");
    put_index(d, "{'weight_map':{}}");
    refuse_dir(d, SC_ERANGE, "weight_map names 0 tensors, limits 1..100000");
    put_index(d, "{'weight_map':");
    refuse_dir(d, SC_EFORMAT, "model.safetensors.index.json:1:");
    put_index(d, "{'weight_map':{'w':'a.safetensors','w':'b.safetensors'}}");
    refuse_dir(d, SC_EFORMAT, "duplicate");
}

static void things_that_are_no_files_are_refused(void **state)
{
    struct dir *d = *state;
    char path[200];
    put(d, "model.safetensors", "", 0);
    refuse_dir(d, SC_EFORMAT, "model.safetensors: 0 bytes");
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", d->path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    refuse_dir(d, SC_EINVAL, "not a regular file");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse_dir(d, SC_EINVAL, "not a regular file"); /* and does not wait for a writer */
}

static void fingerprint_follows_headers_and_every_tensor(void **state)
{
    (void)state;
    enum { N = 6 * 4096 };
    char header[200];
    (void)snprintf(header, sizeof(header),
                   "{'a':{'dtype':'U8','shape':[%d],'data_offsets':[0,%d]},"
                   "'b':{'dtype':'U8','shape':[%d],'data_offsets':[%d,%d]}}",
                   N, N, N, N, 2 * N);
    struct file f = file_of(header, 2 * (size_t)N);
    size_t data = f.len - 2 * (size_t)N;
    /* byte changed; whether another model results: edges of each tensor count, their middle not */
    static const struct {
        size_t at;
        bool differs;
    } rows[] = {
        {0, true}, {4095, true}, {4096, false}, {N - 1, true}, {N, true}, {2 * N - 1, true},
    };
    struct sc_hash base, other;
    struct sc_tensors *t = accept(&f);
    sc_tensors_fingerprint(t, &base);
    sc_tensors_fingerprint(t, &other);
    assert_memory_equal(&base, &other, sizeof(base));
    sc_tensors_close(t);
    for (size_t i = 0; i < SC_ARRAY_LEN(rows); i++) {
        f.bytes[data + rows[i].at] ^= 1;
        t = accept(&f);
        sc_tensors_fingerprint(t, &other);
        sc_tensors_close(t);
        f.bytes[data + rows[i].at] ^= 1;
        assert_int_equal(memcmp(&base, &other, sizeof(base)) != 0, rows[i].differs);
    }
    f.bytes[10] = 'c'; /* tensor a is now tensor c */
    t = accept(&f);
    sc_tensors_fingerprint(t, &other);
    sc_tensors_close(t);
    assert_memory_not_equal(&base, &other, sizeof(base));
    free(f.bytes);
}

static void files_written_by_the_reference_library_are_read(void **state)
{
    (void)state;
    struct sc_tensors *t = NULL;
    struct sc_tensor_view v;
    struct sc_err err = SC_ERR_INIT;
    if (sc_tensors_open_dir(GOLDEN "mistral", &t, &err) != SC_OK) /* three shards */
        fail_msg("%s", err.text);
    assert_int_equal(sc_tensors_count(t), 21);
    assert_int_equal(
        sc_tensors_get_shaped(t, "model.layers.1.mlp.down_proj.weight", 64, 64, &v, &err), SC_OK);
    assert_int_equal(v.dtype, SC_DTYPE_F32);
    sc_tensors_close(t);
    assert_int_equal(sc_tensors_open_dir(GOLDEN "qwen2-f16", &t, &err), SC_OK);
    assert_int_equal(sc_tensors_get(t, "model.norm.weight", &v, &err), SC_OK);
    assert_int_equal(v.dtype, SC_DTYPE_F16);
    sc_tensors_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_found_with_type_shape_and_bytes),
        cmocka_unit_test(what_cannot_be_got_is_named),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(lying_lengths_are_refused),
        cmocka_unit_test(data_that_is_not_tiled_is_refused),
        cmocka_unit_test(bad_shapes_and_types_are_refused),
        cmocka_unit_test(duplicate_keys_and_bad_json_are_refused),
        cmocka_unit_test(names_beyond_the_limit_are_refused),
        cmocka_unit_test(more_tensors_than_the_limit_are_refused),
        cmocka_unit_test_setup_teardown(shards_of_an_index_make_one_set, dir_make, dir_drop),
        cmocka_unit_test_setup_teardown(index_and_shards_must_agree, dir_make, dir_drop),
        cmocka_unit_test_setup_teardown(shard_names_with_paths_are_refused, dir_make, dir_drop),
        cmocka_unit_test_setup_teardown(an_index_that_is_none_is_refused, dir_make, dir_drop),
        cmocka_unit_test_setup_teardown(things_that_are_no_files_are_refused, dir_make, dir_drop),
        cmocka_unit_test(fingerprint_follows_headers_and_every_tensor),
        cmocka_unit_test(files_written_by_the_reference_library_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
