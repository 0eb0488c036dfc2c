#include "client/quality_tally.h"

#include "client/json_out.h"
#include "client/quality_score.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 64u

enum sc_status sc_quality_tally_init(struct sc_quality_tally *tally, bool against_exact,
                                     struct sc_err *err)
{
    *tally = (struct sc_quality_tally){.against_exact = against_exact};
    tally->answers = json_array();
    tally->failures = json_array();
    if (tally->answers != NULL && tally->failures != NULL)
        return SC_OK;
    sc_quality_tally_fini(tally);
    return sc_fail(err, SC_ENOMEM, "results: no memory");
}

void sc_quality_tally_fini(struct sc_quality_tally *tally)
{
    free(tally->cells);
    json_decref(tally->answers);
    json_decref(tally->failures);
    *tally = (struct sc_quality_tally){0};
}

static enum sc_status cell_of(struct sc_quality_tally *tally, const struct sc_suite_document *d,
                              int32_t depth, struct sc_quality_cell **ret_cell, struct sc_err *err)
{
    for (uint32_t i = 0; i < tally->n_cells; i++) {
        struct sc_quality_cell *c = &tally->cells[i];
        if (c->length == d->length && c->depth == depth && strcmp(c->task, d->task) == 0) {
            *ret_cell = c;
            return SC_OK;
        }
    }
    if (tally->n_cells == SC_QUALITY_CELLS_MAX)
        return sc_fail(err, SC_ERANGE, "results: more than %u tasks, lengths and depths",
                       SC_QUALITY_CELLS_MAX);
    if (tally->n_cells == tally->room) {
        const uint32_t room = tally->room == 0 ? FIRST_ROOM : 2 * tally->room;
        struct sc_quality_cell *more = realloc(tally->cells, room * sizeof(*more));
        if (more == NULL)
            return sc_fail(err, SC_ENOMEM, "results: no memory");
        tally->cells = more;
        tally->room = room;
    }
    struct sc_quality_cell *c = &tally->cells[tally->n_cells++];
    *c = (struct sc_quality_cell){.length = d->length, .depth = depth};
    (void)snprintf(c->task, sizeof(c->task), "%s", d->task);
    *ret_cell = c;
    return SC_OK;
}

static void count(struct sc_quality_sums *s, const struct sc_quality_answer *a, bool right,
                  bool exact_right)
{
    const Semanticache__V1__KvReceipt *r = a->final->receipt;
    s->n_asked++;
    s->n_right += right;
    s->n_exact_right += exact_right;
    s->n_both_right += right && exact_right;
    s->physical_entries += r->physical_entries;
    s->exact_entries += r->exact_entries;
    s->shares += r->exact_entries > 0 ? (double)r->physical_entries / (double)r->exact_entries : 1;
    s->kv_bytes += a->kv_bytes;
    s->exact_kv_bytes += a->exact.kv_bytes;
    s->prompt_tokens += a->final->usage->prompt_tokens;
    s->cached_tokens += a->final->usage->cached_tokens;
    s->n_tokens += a->exact.n_tokens;
    s->n_agree += a->exact.n_agree;
    s->kl += a->exact.kl;
}

/* Drops the reference of value in any case. */
static bool append_new(json_t *list, json_t *value)
{
    return json_array_append_new(list, value) == 0;
}

static bool set_new(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static bool note_answer(struct sc_quality_tally *tally, const struct sc_quality_answer *a,
                        bool right, bool exact_right)
{
    const Semanticache__V1__KvReceipt *r = a->final->receipt;
    json_t *object = json_pack(
        "{s:s, s:i, s:b, s:I, s:I, s:i}", "id", a->document->id, "question", (int)a->question,
        "right", right, "physical_entries", (json_int_t)r->physical_entries, "exact_entries",
        (json_int_t)r->exact_entries, "cached_tokens", (int)a->final->usage->cached_tokens);
    if (object != NULL && tally->against_exact &&
        !(set_new(object, "exact_right", json_boolean(exact_right)) &&
          set_new(object, "tokens", json_integer(a->exact.n_tokens)) &&
          set_new(object, "agree", json_integer(a->exact.n_agree)) &&
          set_new(object, "kl", json_real(a->exact.kl)))) {
        json_decref(object);
        return false;
    }
    return append_new(tally->answers, object);
}

static bool note_failure(struct sc_quality_tally *tally, const struct sc_quality_answer *a)
{
    const struct sc_suite_question *q = &a->document->questions[a->question];
    json_t *object =
        json_pack("{s:s, s:s, s:o, s:o, s:o}", "id", a->document->id, "task", a->document->task,
                  "question", sc_json_text(q->text, strlen(q->text)), "wanted",
                  sc_json_text(q->wanted, strlen(q->wanted)), "got",
                  sc_json_text(a->text_len > 0 ? a->text : "", a->text_len));
    if (object != NULL && a->exact.text != NULL &&
        !set_new(object, "exact_got", sc_json_text(a->exact.text, a->exact.text_len))) {
        json_decref(object);
        return false;
    }
    return append_new(tally->failures, object);
}

enum sc_status sc_quality_tally_add(struct sc_quality_tally *tally,
                                    const struct sc_quality_answer *answer, struct sc_err *err)
{
    struct sc_quality_cell *cell = NULL;
    const char *wanted = answer->document->questions[answer->question].wanted;
    const struct sc_quality_against *e = &answer->exact;
    if (answer->final->usage == NULL || answer->final->receipt == NULL)
        return sc_fail(err, SC_EFORMAT, "the server ended an answer without usage and receipt");
    const bool right = sc_quality_is_right(answer->text, answer->text_len, wanted);
    const bool exact_right = e->text != NULL && sc_quality_is_right(e->text, e->text_len, wanted);
    enum sc_status st = cell_of(tally, answer->document,
                                answer->document->questions[answer->question].depth, &cell, err);
    if (st != SC_OK)
        return st;
    count(&cell->sums, answer, right, exact_right);
    count(&tally->all, answer, right, exact_right);
    if (!note_answer(tally, answer, right, exact_right) || (!right && !note_failure(tally, answer)))
        return sc_fail(err, SC_ENOMEM, "results: no memory");
    return SC_OK;
}
