#include "client/quality_tally.h"

#include "client/bench_report.h"
#include "client/quality_score.h"
#include "client/term.h"

#include <inttypes.h>
#include <string.h>

#define NAME_COLUMNS 30

/* Groups of cells: what two cells must share to count together. */
struct grouping {
    bool task, length, depth;
};
static const struct grouping by_task = {.task = true, .length = true};
static const struct grouping by_depth = {.depth = true};

static bool same(const struct grouping *g, const struct sc_quality_cell *a,
                 const struct sc_quality_cell *b)
{
    return (!g->task || strcmp(a->task, b->task) == 0) && (!g->length || a->length == b->length) &&
           (!g->depth || a->depth == b->depth);
}

static void add(struct sc_quality_sums *sums, const struct sc_quality_sums *s)
{
    sums->n_asked += s->n_asked;
    sums->n_right += s->n_right;
    sums->n_exact_right += s->n_exact_right;
    sums->n_both_right += s->n_both_right;
    sums->physical_entries += s->physical_entries;
    sums->exact_entries += s->exact_entries;
    sums->shares += s->shares;
    sums->kv_bytes += s->kv_bytes;
    sums->exact_kv_bytes += s->exact_kv_bytes;
    sums->prompt_tokens += s->prompt_tokens;
    sums->cached_tokens += s->cached_tokens;
    sums->n_tokens += s->n_tokens;
    sums->n_agree += s->n_agree;
    sums->kl += s->kl;
}

/* False unless the cell is the first of its group; then its sums are the group's. */
static bool gather(const struct sc_quality_tally *t, const struct grouping *g, uint32_t first,
                   struct sc_quality_cell *ret_group)
{
    struct sc_quality_cell group = t->cells[first];
    if (g->depth && group.depth < 0)
        return false;
    for (uint32_t i = 0; i < first; i++)
        if (same(g, &t->cells[i], &group))
            return false;
    for (uint32_t i = first + 1; i < t->n_cells; i++)
        if (same(g, &t->cells[i], &group))
            add(&group.sums, &t->cells[i].sums);
    *ret_group = group;
    return true;
}

/* Adds the figures of sums to object. */
static bool fill(json_t *object, const struct sc_quality_sums *s, bool against)
{
    const struct sc_interval wilson = sc_quality_wilson(s->n_right, s->n_asked);
    const double n = (double)s->n_asked;
    json_t *figures =
        json_pack("{s:I, s:I, s:f, s:[f,f], s:{s:f, s:f, s:I, s:I, s:f}, s:I, s:I}", "asked",
                  (json_int_t)s->n_asked, "right", (json_int_t)s->n_right, "exact_match",
                  sc_share((double)s->n_right, n), "interval", wilson.low, wilson.high, "kept",
                  "share", sc_share((double)s->physical_entries, (double)s->exact_entries),
                  "mean_share", sc_share(s->shares, n), "entries", (json_int_t)s->physical_entries,
                  "exact_entries", (json_int_t)s->exact_entries, "mean_bytes",
                  sc_share((double)s->kv_bytes, n), "prompt_tokens", (json_int_t)s->prompt_tokens,
                  "cached_tokens", (json_int_t)s->cached_tokens);
    json_t *exact =
        against ? json_pack("{s:I, s:I, s:f, s:I, s:f, s:f}", "right", (json_int_t)s->n_exact_right,
                            "both_right", (json_int_t)s->n_both_right, "mean_bytes",
                            sc_share((double)s->exact_kv_bytes, n), "tokens",
                            (json_int_t)s->n_tokens, "kl", sc_share(s->kl, (double)s->n_tokens),
                            "agreement", sc_share((double)s->n_agree, (double)s->n_tokens))
                : NULL;
    bool ok = json_object_update(object, figures) == 0;
    json_decref(figures);
    if (against)
        ok = json_object_set_new(object, "exact", exact) == 0 && ok;
    return ok;
}

static json_t *cell_json(const struct sc_quality_cell *c, const struct grouping *g, bool against)
{
    json_t *object = json_object();
    bool ok = object != NULL;
    if (g->task)
        ok = ok && json_object_set_new(object, "task", json_string(c->task)) == 0;
    if (g->length)
        ok = ok && json_object_set_new(object, "length", json_integer(c->length)) == 0;
    if (g->depth)
        ok = ok && json_object_set_new(object, "depth",
                                       c->depth < 0 ? json_null() : json_integer(c->depth)) == 0;
    if (ok && fill(object, &c->sums, against))
        return object;
    json_decref(object);
    return NULL;
}

static json_t *groups_json(const struct sc_quality_tally *t, const struct grouping *g)
{
    struct sc_quality_cell group;
    json_t *list = json_array();
    for (uint32_t i = 0; i < t->n_cells && list != NULL; i++) {
        if (gather(t, g, i, &group) &&
            json_array_append_new(list, cell_json(&group, g, t->against_exact)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *cells_json(const struct sc_quality_tally *t)
{
    const struct grouping each = {true, true, true};
    json_t *list = json_array();
    for (uint32_t i = 0; i < t->n_cells && list != NULL; i++) {
        if (json_array_append_new(list, cell_json(&t->cells[i], &each, t->against_exact)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

json_t *sc_quality_json(const struct sc_quality_tally *t)
{
    json_t *total = json_object();
    if (total != NULL && !fill(total, &t->all, t->against_exact)) {
        json_decref(total);
        total = NULL;
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:O, s:O}", "total", total, "tasks",
                     groups_json(t, &by_task), "depths", groups_json(t, &by_depth), "cells",
                     cells_json(t), "answers", t->answers, "failures", t->failures);
}

static void print_head(FILE *out, const char *what, bool against)
{
    (void)fprintf(out, "\n%-*s %13s %6s %13s %6s", NAME_COLUMNS, what, "right", "share", "95 %",
                  "kept");
    if (against)
        (void)fprintf(out, " %13s %7s %7s", "exact right", "KL", "top-1");
    (void)fputc('\n', out);
}

static void print_row(FILE *out, const char *name, const struct sc_quality_sums *s, bool against)
{
    char right[32], interval[32];
    const struct sc_interval wilson = sc_quality_wilson(s->n_right, s->n_asked);
    (void)snprintf(right, sizeof(right), "%" PRIu64 " of %" PRIu64, s->n_right, s->n_asked);
    (void)snprintf(interval, sizeof(interval), "%.3f-%.3f", wilson.low, wilson.high);
    (void)fprintf(out, "%-*s %13s %6.3f %13s %6.3f", NAME_COLUMNS, name, right,
                  sc_share((double)s->n_right, (double)s->n_asked), interval,
                  sc_share(s->shares, (double)s->n_asked));
    if (against) {
        (void)snprintf(right, sizeof(right), "%" PRIu64 " of %" PRIu64, s->n_exact_right,
                       s->n_asked);
        (void)fprintf(out, " %13s %7.4f %7.4f", right, sc_share(s->kl, (double)s->n_tokens),
                      sc_share((double)s->n_agree, (double)s->n_tokens));
    }
    (void)fputc('\n', out);
}

void sc_quality_print(FILE *out, const struct sc_quality_tally *t)
{
    char name[SC_SUITE_NAME_MAX + 32], bytes[SC_BYTES_TEXT_BYTES];
    struct sc_quality_cell group;
    bool titled = false;
    (void)fprintf(out,
                  "questions  %" PRIu64 "; %.3f of all entries kept, %.3f on average; %s a "
                  "sequence; %.1f%% of prompt tokens cached\n",
                  t->all.n_asked,
                  sc_share((double)t->all.physical_entries, (double)t->all.exact_entries),
                  sc_share(t->all.shares, (double)t->all.n_asked),
                  sc_bytes_text(sc_share((double)t->all.kv_bytes, (double)t->all.n_asked), bytes),
                  100 * sc_share((double)t->all.cached_tokens, (double)t->all.prompt_tokens));
    print_head(out, "task, length", t->against_exact);
    for (uint32_t i = 0; i < t->n_cells; i++) {
        if (!gather(t, &by_task, i, &group))
            continue;
        (void)snprintf(name, sizeof(name), "%s, %u", group.task, group.length);
        print_row(out, name, &group.sums, t->against_exact);
    }
    print_row(out, "all", &t->all, t->against_exact);
    for (uint32_t i = 0; i < t->n_cells; i++) {
        if (!gather(t, &by_depth, i, &group))
            continue;
        if (!titled)
            print_head(out, "depth, tenths", t->against_exact);
        titled = true;
        (void)snprintf(name, sizeof(name), "%d", group.depth);
        print_row(out, name, &group.sums, t->against_exact);
    }
}
