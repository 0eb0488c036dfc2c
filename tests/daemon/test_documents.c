/* The registry and its files; no engine. */
#include "documents_world.h"

#include <dirent.h>
#include <unistd.h>

#include "daemon/document_put.h"

static void reopen(struct world *w, uint8_t model)
{
    sc_documents_close(w->ds);
    w->f->model.fingerprint.bytes[0] = model;
    open_registry(w);
}

static void ids_belong_to_a_namespace_and_are_put_once(void **state)
{
    struct world *w = *state;
    struct sc_document *d, *old = NULL;
    struct sc_err err = SC_ERR_INIT;
    bool shared = false;

    assert_ok(add(w, make(w, "a", "one", "the land", SC_KV_EXACT), false, &err));
    assert_ok(add(w, make(w, "b", "one", "the water", SC_KV_EXACT), false, &err));
    assert_int_equal(add(w, make(w, "a", "one", "again", SC_KV_EXACT), false, &err), SC_EEXIST);
    assert_text_has(err.text, "\"one\" exists");
    d = make(w, "a", "one", "replaced", SC_KV_EXACT);
    sc_err_clear(&err);
    assert_ok(sc_documents_add(w->ds, d, true, &old, &err));
    assert_int_equal(old->bytes, 8);
    sc_document_unref(old);
    sc_document_unref(d);
    d = sc_documents_find(w->ds, "b", "one");
    assert_int_equal(d->bytes, 9);
    sc_document_unref(d);
    assert_null(sc_documents_find(w->ds, "c", "one"));
    assert_int_equal(sc_documents_remove(w->ds, "c", "one", &d, &shared, &err), SC_ENOENT);
    sc_err_clear(&err);
    assert_ok(sc_documents_remove(w->ds, "b", "one", &d, &shared, &err));
    assert_false(shared);
    sc_document_unref(d);
    assert_int_equal(sc_documents_count(w->ds), 1);
}

static void entries_of_two_documents_are_shared_until_one_is_left(void **state)
{
    struct world *w = *state;
    struct sc_document *d = NULL;
    struct sc_err err = SC_ERR_INIT;
    bool shared = false;

    assert_ok(add(w, make(w, "a", "x", "the land", SC_KV_EXACT), false, &err));
    assert_ok(add(w, make(w, "a", "y", "the land", SC_KV_EXACT), false, &err));
    assert_ok(sc_documents_remove(w->ds, "a", "x", &d, &shared, &err));
    assert_true(shared);
    sc_document_unref(d);
    assert_ok(sc_documents_remove(w->ds, "a", "y", &d, &shared, &err));
    assert_false(shared);
    sc_document_unref(d);
}

static void both_limits_hold(void **state)
{
    struct world *w = *state;
    struct sc_err err = SC_ERR_INIT;
    char id[8];

    for (int i = 0; i < 10; i++) {
        (void)snprintf(id, sizeof(id), "d%d", i);
        assert_ok(add(w, make(w, "a", id, "the land", SC_KV_EXACT), false, &err));
    }
    assert_int_equal(add(w, make(w, "a", "more", "x", SC_KV_EXACT), false, &err), SC_EFULL);
    assert_text_has(err.text, "limit 10 (documents.max)");
    assert_ok(add(w, make(w, "a", "d3", "the water", SC_KV_EXACT), true, &err));
    w->f->config.documents_memory_bytes = 1 << 20;
    reopen(w, 0);
    assert_int_equal(sc_documents_reserve(w->ds, 1 << 20, &err), SC_EFULL);
    assert_text_has(err.text, "documents.memory");
    sc_err_clear(&err);
    assert_int_equal(sc_documents_reserve(w->ds, UINT64_MAX, &err), SC_EFULL);
    sc_err_clear(&err);
    assert_ok(sc_documents_reserve(w->ds, 1000000, &err));
    assert_ok(add(w, make(w, "a", "d3", "x", SC_KV_EXACT), true, &err));
    assert_int_equal(sc_documents_reserve(w->ds, 48576, &err), SC_EFULL);
    sc_documents_release(w->ds, 1000000);
}

static void pages_of_a_listing_go_on_behind_the_last_id(void **state)
{
    static const char *const ids[] = {"m", "b", "z", "a", "k"};
    struct world *w = *state;
    struct sc_document *page[3], *d;
    struct sc_err err = SC_ERR_INIT;
    bool shared;

    for (size_t i = 0; i < SC_ARRAY_LEN(ids); i++)
        assert_ok(add(w, make(w, "ns", ids[i], "the land", SC_KV_EXACT), false, &err));
    assert_ok(add(w, make(w, "nr", "c", "x", SC_KV_EXACT), false, &err));
    assert_ok(add(w, make(w, "nt", "a", "x", SC_KV_EXACT), false, &err));
    assert_int_equal(sc_documents_list(w->ds, "ns", NULL, "", page, 3), 3);
    assert_string_equal(page[0]->id, "a");
    assert_string_equal(page[2]->id, "k");
    assert_ok(sc_documents_remove(w->ds, "ns", "k", &d, &shared, &err)); /* the token stays good */
    sc_document_unref(d);
    for (int i = 0; i < 3; i++)
        sc_document_unref(page[i]);
    assert_int_equal(sc_documents_list(w->ds, "ns", NULL, "k", page, 3), 2);
    assert_string_equal(page[0]->id, "m");
    assert_string_equal(page[1]->id, "z");
    sc_document_unref(page[0]);
    sc_document_unref(page[1]);
}

/* ---- files ---- */

static void a_document_comes_back_as_it_was(void **state)
{
    const struct world *w = *state;
    struct sc_document *d = make(w, "a", "one", "the land and the water", SC_KV_COMPRESSED);
    struct sc_document *back = NULL;
    struct sc_err err = SC_ERR_INIT;
    uint8_t *bytes = NULL;
    size_t len = 0;

    d->kv = malloc(3);
    d->kv_bytes = 3;
    memcpy(d->kv, "\x08\x03\x00", 3);
    assert_ok(sc_document_pack(d, &bytes, &len, &err));
    assert_ok(sc_document_unpack(bytes, len, &back, &err));
    assert_string_equal(back->ns, d->ns);
    assert_string_equal(back->id, d->id);
    assert_string_equal(back->title, d->title);
    assert_int_equal(back->bytes, d->bytes);
    assert_int_equal(back->n_tokens, d->n_tokens);
    assert_memory_equal(back->tokens, d->tokens, d->n_tokens * sizeof(d->tokens[0]));
    assert_int_equal(back->n_prefix, d->n_prefix);
    assert_int_equal(back->kv_bytes, 3);
    assert_memory_equal(back->kv, d->kv, 3);
    assert_memory_equal(&back->prefix_key, &d->prefix_key, sizeof(d->prefix_key));
    assert_memory_equal(&back->model, &d->model, sizeof(d->model));
    assert_int_equal(back->receipt.mode, SC_KV_COMPRESSED);
    assert_int_equal(back->receipt.kv.cores, 77);
    assert_int_equal(back->created_us, d->created_us);
    assert_int_equal(atomic_load(&back->pinned_until_us), INT64_MAX);
    free(bytes);
    sc_document_unref(back);
    sc_document_unref(d);
}

static void every_damaged_byte_and_every_cut_is_noticed(void **state)
{
    const struct world *w = *state;
    struct sc_document *d = make(w, "a", "one", "the land and the water", SC_KV_EXACT);
    struct sc_document *back = NULL;
    struct sc_err err = SC_ERR_INIT;
    uint8_t *bytes = NULL;
    size_t len = 0;

    assert_ok(sc_document_pack(d, &bytes, &len, &err));
    for (size_t i = 0; i < len; i++) {
        uint8_t *cut = malloc(i > 0 ? i : 1); /* its own piece, so that an overrun is seen */
        bytes[i] ^= 0x40;
        sc_err_clear(&err);
        assert_int_equal(sc_document_unpack(bytes, len, &back, &err), SC_EFORMAT);
        bytes[i] ^= 0x40;
        memcpy(cut, bytes, i);
        sc_err_clear(&err);
        assert_int_equal(sc_document_unpack(cut, i, &back, &err), SC_EFORMAT);
        free(cut);
    }
    assert_null(back);
    free(bytes);
    sc_document_unref(d);
}

static unsigned count_files(const struct world *w, const char *suffix, char *ret_path, size_t bytes)
{
    DIR *list = opendir(w->f->config.documents_dir);
    const struct dirent *e;
    unsigned n = 0;

    assert_non_null(list);
    while ((e = readdir(list)) != NULL) {
        size_t len = strlen(e->d_name), m = strlen(suffix);
        if (len < m || strcmp(e->d_name + len - m, suffix) != 0)
            continue;
        if (ret_path != NULL)
            (void)snprintf(ret_path, bytes, "%s/%s", w->f->config.documents_dir, e->d_name);
        n++;
    }
    (void)closedir(list);
    return n;
}

static void what_was_added_is_known_after_a_restart(void **state)
{
    struct world *w = *state;
    struct sc_document *d;
    struct sc_err err = SC_ERR_INIT;
    bool shared;

    assert_ok(add(w, make(w, "a", "one/..", "the land", SC_KV_EXACT), false, &err));
    d = sc_documents_find(w->ds, "a", "one/..");
    atomic_store(&d->pinned_until_us, 0);
    sc_documents_save(w->ds, d);
    sc_document_unref(d);
    reopen(w, 0);
    d = sc_documents_find(w->ds, "a", "one/..");
    assert_non_null(d);
    assert_int_equal(atomic_load(&d->pinned_until_us), 0);
    sc_document_unref(d);
    assert_ok(sc_documents_remove(w->ds, "a", "one/..", &d, &shared, &err));
    sc_documents_save(w->ds, d); /* not known any more: no file comes back */
    sc_document_unref(d);
    assert_int_equal(count_files(w, ".doc", NULL, 0), 0);
}

static void a_document_of_another_model_waits_for_it(void **state)
{
    struct world *w = *state;
    struct sc_err err = SC_ERR_INIT;

    assert_ok(add(w, make(w, "a", "one", "the land", SC_KV_EXACT), false, &err));
    reopen(w, 9);
    assert_int_equal(sc_documents_count(w->ds), 0);
    assert_int_equal(count_files(w, ".doc", NULL, 0), 1);
    reopen(w, 0);
    assert_int_equal(sc_documents_count(w->ds), 1);
}

static void a_damaged_file_is_set_aside_and_the_others_are_loaded(void **state)
{
    struct world *w = *state;
    struct sc_err err = SC_ERR_INIT;
    char path[300];

    assert_ok(add(w, make(w, "a", "one", "the land", SC_KV_EXACT), false, &err));
    assert_int_equal(count_files(w, ".doc", path, sizeof(path)), 1);
    assert_ok(add(w, make(w, "a", "two", "the water", SC_KV_EXACT), false, &err));
    assert_int_equal(truncate(path, 100), 0);
    reopen(w, 0);
    assert_int_equal(sc_documents_count(w->ds), 1);
    assert_int_equal(count_files(w, ".doc", NULL, 0), 1);
    assert_int_equal(count_files(w, ".bad", NULL, 0), 1);
}

static void what_a_crash_left_is_removed_and_a_strangers_file_is_not(void **state)
{
    static const char *const ours = "0123456789abcdef0123456789abcdef01234567.tmp";
    static const char *const foreign[] = {"notes.tmp", "0123456789abcdef.tmp",
                                          "x0123456789abcdef0123456789abcdef01234567.tmp"};
    struct world *w = *state;
    char path[300];

    for (size_t i = 0; i <= SC_ARRAY_LEN(foreign); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", w->f->config.documents_dir,
                       i < SC_ARRAY_LEN(foreign) ? foreign[i] : ours);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        (void)fclose(f);
    }
    reopen(w, 0);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(count_files(w, ".tmp", NULL, 0), SC_ARRAY_LEN(foreign));
}

static void a_directory_belongs_to_one_daemon(void **state)
{
    struct world *w = *state;
    struct sc_documents *second = NULL;
    struct sc_err err = SC_ERR_INIT;

    assert_int_equal(sc_documents_open(&w->app, &second, &err), SC_EEXIST);
    assert_text_has(err.text, "another daemon uses it");
    assert_null(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(ids_belong_to_a_namespace_and_are_put_once),
        IN_WORLD(entries_of_two_documents_are_shared_until_one_is_left),
        IN_WORLD(both_limits_hold),
        IN_WORLD(pages_of_a_listing_go_on_behind_the_last_id),
        IN_WORLD(a_document_comes_back_as_it_was),
        IN_WORLD(every_damaged_byte_and_every_cut_is_noticed),
        IN_WORLD(what_was_added_is_known_after_a_restart),
        IN_WORLD(a_document_of_another_model_waits_for_it),
        IN_WORLD(a_damaged_file_is_set_aside_and_the_others_are_loaded),
        IN_WORLD(what_a_crash_left_is_removed_and_a_strangers_file_is_not),
        IN_WORLD(a_directory_belongs_to_one_daemon),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
