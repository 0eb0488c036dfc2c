#include "base/draw.h"

#include <stdbool.h>
#include <stddef.h>

/* Whole rows are summed by blocks of so many, so that drawing looks at one again, not at all. */
#define BLOCK    1024u
#define N_BLOCKS (SC_DRAW_TOKENS_MAX / BLOCK)
/* Filters work on a list of the likeliest tokens where so many are enough, on all else. */
#define LIST_MAX 4096u
#define GROUP    64u /* tokens of which only the largest is looked at first */
#define N_GROUPS (SC_DRAW_TOKENS_MAX / GROUP)

/* Radix selection over the bits of a distance: digits of 11, 11 and 10 bits. */
#define DIGIT_BINS 2048u
static const struct {
    uint32_t shift, mask;
} digits[] = {{21, 0x7ff}, {10, 0x7ff}, {0, 0x3ff}};
#define N_DIGITS (sizeof(digits) / sizeof(digits[0]))

struct entry {
    uint32_t id, distance, mass;
};

/* Tokens in order of ids: those of a list, or the whole row. */
struct tokens {
    const struct entry *list; /* or NULL */
    const float *x;
    float max, scale;
    uint32_t n;
};

/* What filtering keeps. */
struct cut {
    uint32_t last;   /* distances <= last stay ... */
    uint64_t n_ties; /* ... but of those with d == last only the first so many by id */
};

static inline struct entry token_at(const struct tokens *t, uint32_t i)
{
    if (t->list != NULL)
        return t->list[i];
    uint32_t distance = sc_draw_distance(t->max, t->x[i]);
    return (struct entry){i, distance, sc_draw_mass(distance, t->scale)};
}

/* ---- plain loops ---- */

static void plain_masses(const float *x, uint32_t n, float max, const struct sc_draw *draw,
                         uint32_t *to)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t distance = sc_draw_distance(max, x[i]);
        to[i] = distance <= draw->last ? sc_draw_mass(distance, draw->scale) : 0;
    }
}

static float plain_largest(const float *x, uint32_t n)
{
    float max = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (x[i] != x[i])
            return x[i];
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

static const struct sc_draw_loops plain = {plain_masses, plain_largest};

float sc_draw_largest(const float *x, uint32_t n, const struct sc_draw_loops *loops,
                      uint32_t *ret_id)
{
    float max = (loops != NULL ? loops : &plain)->largest(x, n);
    uint32_t id = 0;
    while (max == max && id < n && x[id] != max)
        id++;
    *ret_id = id < n ? id : 0;
    return max;
}

/* ---- filters ---- */

/* The k-th smallest distance: a histogram of the top digit, then of the next one within the bin
 * where the k-th lies, and so on. No sort and no copy. */
static uint32_t select_top_k(const struct tokens *t, uint32_t k)
{
    uint32_t prefix = 0, done_mask = 0, left = k;
    for (size_t d = 0; d < N_DIGITS; d++) {
        uint32_t hist[DIGIT_BINS] = {0}, bin = 0;
        for (uint32_t i = 0; i < t->n; i++) {
            uint32_t b = t->list != NULL ? t->list[i].distance : sc_draw_distance(t->max, t->x[i]);
            hist[b >> digits[d].shift & digits[d].mask] += (b & done_mask) == prefix;
        }
        while (left > hist[bin])
            left -= hist[bin++];
        prefix |= bin << digits[d].shift;
        done_mask |= digits[d].mask << digits[d].shift;
    }
    return prefix;
}

/* The same with masses, among distances <= last. 0 < need <= the mass of these. */
static struct cut select_top_p(const struct tokens *t, uint64_t need, uint32_t last)
{
    uint32_t prefix = 0, done_mask = 0;
    for (size_t d = 0; d < N_DIGITS; d++) {
        uint64_t mass[DIGIT_BINS] = {0};
        uint32_t bin = 0;
        for (uint32_t i = 0; i < t->n; i++) {
            const struct entry e = token_at(t, i);
            if (e.distance <= last && (e.distance & done_mask) == prefix)
                mass[e.distance >> digits[d].shift & digits[d].mask] += e.mass;
        }
        while (need > mass[bin])
            need -= mass[bin++];
        prefix |= bin << digits[d].shift;
        done_mask |= digits[d].mask << digits[d].shift;
    }
    const uint64_t each = sc_draw_mass(prefix, t->scale);
    return (struct cut){.last = prefix, .n_ties = (need + each - 1) / each};
}

static uint64_t mass_within(const struct tokens *t, uint32_t last)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct entry e = token_at(t, i);
        sum += e.distance <= last ? e.mass : 0;
    }
    return sum;
}

static uint64_t needed(uint64_t total, float top_p)
{
    uint64_t need = (uint64_t)ceil((double)total * (double)top_p);
    return need < 1 ? 1 : need > total ? total : need;
}

/* floor(random / 2^64 * total) */
static uint64_t target_of(uint64_t random, uint64_t total)
{
    return (uint64_t)((unsigned __int128)random * total >> 64);
}

static uint32_t draw_within(const struct tokens *t, struct cut cut, uint64_t random)
{
    struct cut walk = cut;
    uint64_t total = 0, sum = 0, target;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct entry e = token_at(t, i);
        bool in = e.distance < walk.last || (e.distance == walk.last && walk.n_ties > 0);
        walk.n_ties -= in && e.distance == walk.last;
        total += in ? e.mass : 0;
    }
    target = target_of(random, total);
    for (uint32_t i = 0; i < t->n; i++) {
        const struct entry e = token_at(t, i);
        bool in = e.distance < cut.last || (e.distance == cut.last && cut.n_ties > 0);
        cut.n_ties -= in && e.distance == cut.last;
        sum += in ? e.mass : 0;
        if (sum > target)
            return e.id;
    }
    return 0; /* not reached: the likeliest token always stays, and target < total */
}

/* ---- whole rows ---- */

struct row {
    const float *x;
    uint32_t n;
    float max;
    const struct sc_draw *draw;
    const struct sc_draw_loops *loops;
};

static uint64_t mass_of_block(const struct row *r, uint32_t first, uint32_t *mass)
{
    const uint32_t n = r->n - first < BLOCK ? r->n - first : BLOCK;
    uint64_t sum = 0;
    r->loops->masses(r->x + first, n, r->max, r->draw, mass);
    for (uint32_t i = 0; i < n; i++)
        sum += mass[i];
    return sum;
}

static uint64_t mass_of_row(const struct row *r, uint64_t *ret_blocks)
{
    uint32_t mass[BLOCK];
    uint64_t total = 0;
    for (uint32_t first = 0; first < r->n; first += BLOCK) {
        uint64_t sum = mass_of_block(r, first, mass);
        if (ret_blocks != NULL)
            ret_blocks[first / BLOCK] = sum;
        total += sum;
    }
    return total;
}

static uint32_t draw_unfiltered(const struct row *r)
{
    uint64_t blocks[N_BLOCKS], target = target_of(r->draw->random, mass_of_row(r, blocks));
    uint32_t mass[BLOCK], block = 0, i = 0;
    for (; target >= blocks[block]; block++)
        target -= blocks[block];
    (void)mass_of_block(r, block * BLOCK, mass);
    for (; target >= mass[i]; i++)
        target -= mass[i];
    return block * BLOCK + i;
}

/* The k-th smallest of the groups' smallest distances: the row's own k-th is no larger. */
static uint32_t bound_of_top_k(const struct row *r)
{
    float largest[N_GROUPS];
    const struct tokens groups = {.x = largest, .max = r->max, .n = (r->n + GROUP - 1) / GROUP};
    if (groups.n <= r->draw->top_k)
        return r->draw->last;
    for (uint32_t i = 0; i < groups.n; i++)
        largest[i] = r->loops->largest(r->x + i * GROUP,
                                       r->n - i * GROUP < GROUP ? r->n - i * GROUP : GROUP);
    return select_top_k(&groups, r->draw->top_k);
}

/* Tokens of less than an equal share of what top-p leaves out are left out all. A guess: what the
 * list holds is counted afterwards. */
static uint32_t bound_of_top_p(const struct row *r, uint64_t total)
{
    const double least = (double)total * (1.0 - (double)r->draw->top_p) / r->n;
    const double d = log2((double)SC_DRAW_ONE / (least + 1e-3)) / -(double)r->draw->scale;
    return d > 0.0 ? SC_TWIN_BITS((float)d) : 0;
}

/* All tokens with distances <= last; false: more than fit. */
static bool collect(const struct row *r, uint32_t last, struct entry *list, uint32_t *ret_n)
{
    uint32_t n = 0;
    for (uint32_t first = 0; first < r->n; first += GROUP) {
        const uint32_t end = r->n - first < GROUP ? r->n : first + GROUP;
        if (sc_draw_distance(r->max, r->loops->largest(r->x + first, end - first)) > last)
            continue;
        for (uint32_t id = first; id < end; id++) {
            const uint32_t distance = sc_draw_distance(r->max, r->x[id]);
            if (distance > last)
                continue;
            if (n == LIST_MAX)
                return false;
            list[n++] = (struct entry){id, distance, sc_draw_mass(distance, r->draw->scale)};
        }
    }
    *ret_n = n;
    return true;
}

static uint32_t draw_filtered(const struct row *r)
{
    const struct sc_draw *draw = r->draw;
    const bool k = draw->top_k > 0 && draw->top_k < r->n;
    struct entry list[LIST_MAX];
    struct tokens t = {.x = r->x, .max = r->max, .scale = draw->scale, .n = r->n};
    struct cut cut = {.last = draw->last, .n_ties = UINT64_MAX};
    const uint64_t total = k ? 0 : mass_of_row(r, NULL);
    uint64_t need = k ? 0 : needed(total, draw->top_p);
    uint32_t bound = k ? bound_of_top_k(r) : bound_of_top_p(r, total), n;

    bound = bound < draw->last ? bound : draw->last;
    if (collect(r, bound, list, &n)) {
        const struct tokens found = {.list = list, .scale = draw->scale, .n = n};
        if (k || mass_within(&found, bound) >= need)
            t = found;
    }
    if (k && draw->top_k < t.n) {
        bound = select_top_k(&t, draw->top_k);
        cut.last = bound < cut.last ? bound : cut.last;
    }
    if (draw->top_p < 1.0f) {
        if (k)
            need = needed(mass_within(&t, cut.last), draw->top_p);
        cut = select_top_p(&t, need, cut.last);
    }
    return draw_within(&t, cut, draw->random);
}

uint32_t sc_draw_token(const float *x, uint32_t n, float max, const struct sc_draw *draw,
                       const struct sc_draw_loops *loops)
{
    const struct row r = {x, n, max, draw, loops != NULL ? loops : &plain};
    if ((draw->top_k == 0 || draw->top_k >= n) && draw->top_p >= 1.0f)
        return draw_unfiltered(&r);
    return draw_filtered(&r);
}
