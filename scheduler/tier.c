/* Documents to the store and back: a snapshot's entries go to host memory in slices, one layer and
 * KV head each, a few with a step, so that no step waits for them; the store's own thread does the
 * rest. */
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"

#define LOADS_MAX 8u
#define SAVES_MAX 1024u

enum load_state { LOAD_FREE, LOAD_ASKED, LOAD_ANSWERED, LOAD_MOVING };

struct load {
    enum load_state state; /* ANSWERED is set by the store, under mu */
    struct sc_sched *s;
    struct sc_hash key;
    struct sc_recipe recipe;
    uint32_t node;        /* held */
    uint32_t n;           /* logical tokens */
    struct sc_blob *blob; /* NULL: a miss */
};

/* One slice after another of one snapshot. */
struct cursor {
    struct sc_blob *blob;
    uint32_t node; /* locked */
    uint32_t snap, layer, head;
    size_t at;
    uint32_t layers_in_plan, heads_in_plan; /* where the plan's moves end */
    size_t at_in_plan;
    struct sc_snap_shape shape;
};

struct sc_tier {
    uint32_t n_layers, n_kv_heads;
    struct load loads[LOADS_MAX];
    struct load *moving; /* its cursor is `in` */
    struct cursor in, out;
    bool in_made; /* the engine has the snapshot */
    bool saving;
    uint32_t saves[SAVES_MAX]; /* ring of nodes, locked */
    uint32_t saves_head, n_saves;
};

static enum sc_status take_shape(struct sc_snap_shape *shape, uint32_t n_layers, struct sc_err *err)
{
    shape->n_cores = calloc(n_layers, sizeof(*shape->n_cores));
    shape->exact_lo = calloc(n_layers, sizeof(*shape->exact_lo));
    shape->carry = calloc(n_layers, sizeof(*shape->carry));
    if (shape->n_cores == NULL || shape->exact_lo == NULL || shape->carry == NULL)
        return sc_fail(err, SC_ENOMEM, "shapes of %u layers", n_layers);
    return SC_OK;
}

static void free_shape(struct sc_snap_shape *shape)
{
    free(shape->n_cores);
    free(shape->exact_lo);
    free(shape->carry);
}

enum sc_status sc_tier_open(struct sc_sched *s, struct sc_err *err)
{
    const struct sc_model_config *c = &s->limits.model->config;
    struct sc_tier *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return sc_fail(err, SC_ENOMEM, "the tier of documents");
    s->tier = t;
    t->n_layers = c->n_layers;
    t->n_kv_heads = c->n_kv_heads;
    for (uint32_t i = 0; i < LOADS_MAX; i++)
        t->loads[i].s = s;
    enum sc_status st = take_shape(&t->in.shape, c->n_layers, err);
    if (st == SC_OK)
        st = take_shape(&t->out.shape, c->n_layers, err);
    return st;
}

static void end_save(struct sc_sched *s)
{
    struct cursor *c = &s->tier->out;
    sc_blob_unref(c->blob);
    c->blob = NULL;
    sc_prefix_unlock(s->prefix, c->node);
    s->tier->saving = false;
}

/* The load is over; its node keeps what came. */
static void end_load(struct sc_sched *s, struct load *l)
{
    struct sc_tier *t = s->tier;
    if (t->moving == l)
        t->moving = NULL;
    sc_blob_unref(l->blob);
    l->blob = NULL;
    sc_prefix_unhold(s->prefix, l->node);
    pthread_mutex_lock(&s->mu);
    l->state = LOAD_FREE;
    pthread_mutex_unlock(&s->mu);
}

static void drop_all(struct sc_sched *s)
{
    struct sc_tier *t = s->tier;
    if (t->saving)
        end_save(s);
    for (; t->n_saves > 0; t->n_saves--) {
        sc_prefix_unlock(s->prefix, t->saves[t->saves_head]);
        t->saves_head = (t->saves_head + 1) % SAVES_MAX;
    }
    if (t->moving != NULL) {
        sc_prefix_unlock(s->prefix, t->in.node);
        end_load(s, t->moving);
    }
}

void sc_tier_lost(struct sc_sched *s)
{
    drop_all(s); /* answers that are still to come find their node, and load as before */
}

void sc_tier_close(struct sc_sched *s)
{
    struct sc_tier *t = s->tier;
    if (t == NULL)
        return;
    pthread_mutex_lock(&s->mu);
    for (;;) { /* the store calls every one back */
        bool asked = false;
        for (uint32_t i = 0; i < LOADS_MAX; i++)
            asked = asked || t->loads[i].state == LOAD_ASKED;
        if (!asked)
            break;
        pthread_cond_wait(&s->wake, &s->mu);
    }
    pthread_mutex_unlock(&s->mu);
    if (s->prefix != NULL)
        drop_all(s);
    for (uint32_t i = 0; i < LOADS_MAX; i++)
        if (t->loads[i].state != LOAD_FREE)
            end_load(s, &t->loads[i]);
    free_shape(&t->in.shape);
    free_shape(&t->out.shape);
    free(t);
    s->tier = NULL;
}

/* ---- out ---- */

void sc_tier_save(struct sc_sched *s, uint32_t node)
{
    struct sc_tier *t = s->tier;
    struct sc_prefix_node_info info = sc_prefix_node(s->prefix, node);
    if (info.saved || t->n_saves == SAVES_MAX || sc_store_has(s->store, &info.key))
        return;
    sc_prefix_set_saved(s->prefix, node, true); /* once is enough, also where it fails */
    sc_prefix_lock(s->prefix, node);
    t->saves[(t->saves_head + t->n_saves++) % SAVES_MAX] = node;
}

static bool begin_save(struct sc_sched *s)
{
    struct sc_tier *t = s->tier;
    struct sc_err err = SC_ERR_INIT;
    if (t->n_saves == 0)
        return false;
    uint32_t node = t->saves[t->saves_head];
    t->saves_head = (t->saves_head + 1) % SAVES_MAX;
    t->n_saves--;
    struct cursor *c = &t->out;
    c->node = node; /* the ring's lock is ours now */
    c->snap = sc_prefix_node(s->prefix, node).snap;
    c->layer = c->head = 0;
    t->saving = true;
    sc_engine_snap_shape(s->engine, c->snap, &c->shape);
    if (sc_blob_open(sc_tier_blob_bytes(s, &c->shape), &c->blob, &err) != SC_OK) {
        end_save(s);
        return false;
    }
    sc_tier_write_shape(s, &c->shape, sc_blob_bytes(c->blob));
    c->at = sc_tier_shape_bytes(t->n_layers);
    return true;
}

static void finish_save(struct sc_sched *s)
{
    struct cursor *c = &s->tier->out;
    struct sc_prefix_node_info info = sc_prefix_node(s->prefix, c->node);
    struct sc_err err = SC_ERR_INIT;
    const struct sc_store_label label = {.model = s->limits.model->fingerprint,
                                         .recipe = info.recipe_id};
    /* A store that is full of work loses it: it will be read again. */
    if (sc_store_put(s->store, &info.key, &label, c->blob, &err) != SC_OK)
        sc_prefix_set_saved(s->prefix, c->node, false);
    end_save(s);
}

/* ---- in ---- */

static void on_got(void *ctx, struct sc_blob *blob)
{
    struct load *l = ctx;
    struct sc_sched *s = l->s;
    /* From the store's thread, or from within sc_store_get, which runs without mu. */
    pthread_mutex_lock(&s->mu);
    l->blob = blob;
    l->state = LOAD_ANSWERED;
    s->store_answered = true;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->mu);
}

static struct load *find_load(const struct sc_sched *s, const struct sc_hash *key)
{
    struct sc_tier *t = s->tier;
    for (uint32_t i = 0; i < LOADS_MAX; i++)
        if (t->loads[i].state != LOAD_FREE && memcmp(&t->loads[i].key, key, sizeof(*key)) == 0)
            return &t->loads[i];
    return NULL;
}

bool sc_tier_is_loading(const struct sc_sched *s, const struct sc_hash *key)
{
    pthread_mutex_lock((pthread_mutex_t *)(uintptr_t)&s->mu);
    bool loading = find_load(s, key) != NULL;
    pthread_mutex_unlock((pthread_mutex_t *)(uintptr_t)&s->mu);
    return loading;
}

bool sc_tier_load(struct sc_sched *s, const struct sc_request *r, const struct sc_prefix_root *root,
                  const struct sc_hash *key, uint32_t n)
{
    struct sc_tier *t = s->tier;
    struct sc_err err = SC_ERR_INIT;
    struct load *l = NULL;
    if (sc_tier_is_loading(s, key))
        return true;
    if (!sc_store_has(s->store, key) && !sc_store_is_remote(s->store))
        return false;
    pthread_mutex_lock(&s->mu);
    for (uint32_t i = 0; i < LOADS_MAX && l == NULL; i++)
        if (t->loads[i].state == LOAD_FREE)
            l = &t->loads[i];
    if (l != NULL)
        l->state = LOAD_ASKED;
    pthread_mutex_unlock(&s->mu);
    if (l == NULL) /* as many as may be on their way: read it instead */
        return false;
    l->key = *key;
    l->recipe = r->recipe;
    l->n = n;
    l->node = sc_prefix_hold(s->prefix, root, r->tokens, n, sc_request_clock(&s->limits));
    const struct sc_store_label label = {.model = s->limits.model->fingerprint,
                                         .recipe = r->recipe_id};
    if (l->node == SC_NODE_NONE || sc_store_get(s->store, key, &label, on_got, l, &err) != SC_OK) {
        end_load(s, l);
        return false;
    }
    return true;
}

static void count_load(struct sc_sched *s, bool hit)
{
    pthread_mutex_lock(&s->mu);
    if (hit)
        s->stats.store_hits++;
    else
        s->stats.store_misses++;
    pthread_mutex_unlock(&s->mu);
}

/* Takes the snapshot id and plans its pages. False: no room, or nothing to load. One that is begun
 * drops prefixes and waits until its pages are free: what is pinned never will be. */
static bool begin_load(struct sc_sched *s, struct load *l)
{
    struct sc_tier *t = s->tier;
    struct cursor *c = &t->in;
    struct sc_engine_info info;
    if (l->blob == NULL || sc_prefix_node(s->prefix, l->node).snap != UINT32_MAX ||
        !sc_tier_read_shape(s, l->blob, l->n, &c->shape))
        return false;
    uint64_t room = sc_plan_pages_cached(s, &info);
    room += info.n_pages_free;
    if (sc_engine_shape_pages(s->engine, &c->shape) > room ||
        sc_engine_shape_words(s->engine, &c->shape) + s->keep_words >
            sc_engine_snap_words_free(s->engine))
        return false;
    if (!sc_prefix_snap_take(s->prefix, l->node, &c->snap))
        return false;
    sc_prefix_lock(s->prefix, l->node);
    c->node = l->node;
    c->blob = l->blob;
    c->layer = c->head = 0;
    c->at = sc_tier_shape_bytes(t->n_layers);
    t->moving = l;
    t->in_made = false;
    return true;
}

static void take_answers(struct sc_sched *s)
{
    struct sc_tier *t = s->tier;
    for (uint32_t i = 0; i < LOADS_MAX && t->moving == NULL; i++) {
        struct load *l = &t->loads[i];
        pthread_mutex_lock(&s->mu);
        bool answered = l->state == LOAD_ANSWERED;
        if (answered)
            l->state = LOAD_MOVING;
        pthread_mutex_unlock(&s->mu);
        if (!answered)
            continue;
        bool begun = begin_load(s, l);
        count_load(s, begun);
        if (!begun)
            end_load(s, l);
    }
}

static void finish_load(struct sc_sched *s)
{
    struct sc_tier *t = s->tier;
    struct sc_snap_info info;
    uint32_t node = t->in.node;
    sc_engine_snap_info(s->engine, t->in.snap, &info);
    sc_prefix_snap_live(s->prefix, node, info.min_logical, info.n_pages,
                        sc_request_clock(&s->limits));
    sc_prefix_set_saved(s->prefix, node, true);
    sc_prefix_retain(s->prefix, node, true, 0);
    sc_prefix_unlock(s->prefix, node);
    end_load(s, t->moving);
}

/* ---- the plan ---- */

static void add_moves(struct sc_sched *s, struct cursor *c, bool in)
{
    const struct sc_tier *t = s->tier;
    c->layers_in_plan = c->layer;
    c->heads_in_plan = c->head;
    c->at_in_plan = c->at;
    for (uint32_t i = 0; i < SC_PLAN_MOVES_MAX / 2 && c->layers_in_plan < t->n_layers; i++) {
        s->moves[s->n_moves++] =
            (struct sc_plan_move){.snap = c->snap,
                                  .layer = c->layers_in_plan,
                                  .head = c->heads_in_plan,
                                  .in = in,
                                  .host = sc_blob_bytes(c->blob) + c->at_in_plan};
        c->at_in_plan +=
            sc_engine_move_bytes(s->engine, sc_tier_entries(&c->shape, c->layers_in_plan));
        if (++c->heads_in_plan == t->n_kv_heads) {
            c->heads_in_plan = 0;
            c->layers_in_plan++;
        }
    }
}

bool sc_tier_has_work(const struct sc_sched *s)
{
    const struct sc_tier *t = s->tier;
    return t != NULL && (t->moving != NULL || t->saving || t->n_saves > 0);
}

bool sc_tier_add(struct sc_sched *s)
{
    struct sc_tier *t = s->tier;
    struct sc_engine_info info;
    s->n_moves = s->n_makes = 0;
    if (t == NULL)
        return false;
    take_answers(s);
    if (t->moving != NULL) {
        sc_engine_get_info(s->engine, &info);
        uint32_t pages = sc_engine_shape_pages(s->engine, &t->in.shape);
        if (t->in_made || pages + sc_plan_pages_wanted(s) <= info.n_pages_free) {
            if (!t->in_made) {
                s->make = (struct sc_plan_make){
                    .snap = t->in.snap, .recipe = &t->moving->recipe, .shape = &t->in.shape};
                s->n_makes = 1;
            }
            add_moves(s, &t->in, true);
        } else if (!sc_share_evict(s, NULL) &&
                   s->n_runs == 0) { /* nothing can go: the prompt is read instead */
            uint32_t node = t->in.node;
            sc_prefix_unlock(s->prefix, node);
            sc_prefix_snap_give(s->prefix, sc_prefix_snap_remove(s->prefix, node));
            end_load(s, t->moving);
        }
    }
    if (t->saving || begin_save(s))
        add_moves(s, &t->out, false);
    return s->n_moves > 0;
}

static bool advance(const struct sc_tier *t, struct cursor *c)
{
    c->layer = c->layers_in_plan;
    c->head = c->heads_in_plan;
    c->at = c->at_in_plan;
    return c->layer == t->n_layers;
}

void sc_tier_commit(struct sc_sched *s)
{
    struct sc_tier *t = s->tier;
    bool in = false, out = false;
    if (t == NULL)
        return;
    for (uint32_t i = 0; i < s->n_moves; i++) {
        in = in || s->moves[i].in;
        out = out || !s->moves[i].in;
    }
    s->n_moves = s->n_makes = 0;
    if (in) {
        t->in_made = true;
        if (advance(t, &t->in))
            finish_load(s);
    }
    if (out && advance(t, &t->out))
        finish_save(s);
}
