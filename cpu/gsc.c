#include "cpu/gsc.h"

#include <string.h>

/* A set of tokens of one chunk. */
struct set {
    uint64_t w[2];
};

struct state {
    struct set near[SC_CHUNK_MAX]; /* neighbours, self not counted */
    uint8_t degree[SC_CHUNK_MAX];  /* unassigned neighbours */
    struct set open;               /* unassigned tokens */
    uint8_t seed_of[SC_CHUNK_MAX]; /* token -> its seed */
};

static bool set_has(const struct set *s, uint32_t i)
{
    return (s->w[i / 64] >> (i % 64)) & 1u;
}

static void set_put(struct set *s, uint32_t i)
{
    s->w[i / 64] |= (uint64_t)1 << (i % 64);
}

static struct set set_and(struct set a, struct set b)
{
    return (struct set){{a.w[0] & b.w[0], a.w[1] & b.w[1]}};
}

/* Removes and returns the lowest token; s must not be empty. */
static uint32_t set_pop(struct set *s)
{
    uint32_t half = s->w[0] == 0;
    uint32_t bit = (uint32_t)__builtin_ctzll(s->w[half]);
    s->w[half] &= s->w[half] - 1;
    return half * 64 + bit;
}

static bool set_empty(const struct set *s)
{
    return (s->w[0] | s->w[1]) == 0;
}

/* Bit j: row[j] <= tau, sixteen of them. */
static uint64_t sixteen_within(const int32_t *row, int32_t tau)
{
    typedef int32_t v4i __attribute__((vector_size(16)));
    v4i bits = {0, 0, 0, 0}, x;
    for (int k = 0; k < 4; k++) {
        memcpy(&x, row + 4 * k, sizeof(x));
        bits |= (x <= tau) & ((v4i){1, 2, 4, 8} << 4 * k);
    }
    return (uint32_t)(bits[0] | bits[1] | bits[2] | bits[3]);
}

/* The tokens at tau or less of a row of D. Behind the last row is another's memory, so the last
 * sixteen begin early where they must. */
static struct set within(const int32_t *row, uint32_t m, int32_t tau)
{
    struct set s = {{0, 0}};
    for (uint32_t j = 0; m < 16 && j < m; j++)
        s.w[0] |= (uint64_t)(row[j] <= tau) << j;
    for (uint32_t j = 0; m >= 16 && j < m; j += 16) {
        const uint32_t at = j + 16 <= m ? j : m - 16;
        const uint64_t bits = sixteen_within(row + at, tau);
        s.w[at / 64] |= bits << (at % 64);
        if (at > 48 && at < 64)
            s.w[1] |= bits >> (64 - at);
    }
    return s;
}

static void find_neighbours(struct state *st, const int32_t *dist, uint32_t m, int64_t tau,
                            const uint64_t forced[2])
{
    const int32_t limit = tau < -1 ? -1 : tau > INT32_MAX ? INT32_MAX : (int32_t)tau;

    memset(st, 0, sizeof(*st));
    for (uint32_t i = 0; i < m; i++) {
        st->seed_of[i] = (uint8_t)i;
        if (((forced[i / 64] >> (i % 64)) & 1u) == 0)
            set_put(&st->open, i);
    }
    for (uint32_t i = 0; i < m; i++) {
        if (!set_has(&st->open, i))
            continue;
        st->near[i] = set_and(within(dist + (size_t)i * m, m, limit), st->open);
        st->near[i].w[i / 64] &= ~((uint64_t)1 << (i % 64));
        st->degree[i] = (uint8_t)(__builtin_popcountll(st->near[i].w[0]) +
                                  __builtin_popcountll(st->near[i].w[1]));
    }
}

/* Assigns the seed and its unassigned neighbours, and keeps the degrees true. */
static void take(struct state *st, uint32_t seed)
{
    struct set members = set_and(st->near[seed], st->open);
    struct set left;
    set_put(&members, seed);
    st->open.w[0] &= ~members.w[0];
    st->open.w[1] &= ~members.w[1];
    while (!set_empty(&members)) {
        uint32_t i = set_pop(&members);
        st->seed_of[i] = (uint8_t)seed;
        left = set_and(st->near[i], st->open);
        while (!set_empty(&left))
            st->degree[set_pop(&left)]--;
    }
}

static void run_dense(struct state *st, uint32_t m)
{
    for (;;) {
        uint32_t best = m;
        uint8_t most = 0;
        for (uint32_t i = 0; i < m; i++) {
            if (st->degree[i] > most && set_has(&st->open, i)) {
                most = st->degree[i];
                best = i;
            }
        }
        if (best == m)
            return; /* the rest are alone; seed_of already says so */
        take(st, best);
    }
}

static void run_scan(struct state *st)
{
    while (!set_empty(&st->open)) {
        struct set open = st->open;
        take(st, set_pop(&open));
    }
}

void sc_gsc_force_outliers(const int32_t *dist, uint32_t m, int64_t alone_above, uint32_t most,
                           const uint64_t forced[2], uint64_t ret_forced[2])
{
    int32_t far[SC_CHUNK_MAX];
    uint8_t who[SC_CHUNK_MAX];
    uint32_t n = 0;

    ret_forced[0] = forced[0];
    ret_forced[1] = forced[1];
    for (uint32_t i = 0; i < m; i++) {
        int32_t d = dist[(size_t)i * m + i];
        if (d > alone_above && (forced[i / 64] >> (i % 64) & 1) == 0) {
            far[n] = d;
            who[n++] = (uint8_t)i;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t before = 0;
        for (uint32_t j = 0; most != 0 && most < n && j < n; j++)
            before += far[j] > far[i] || (far[j] == far[i] && j < i);
        if (most == 0 || before < most)
            ret_forced[who[i] / 64] |= (uint64_t)1 << (who[i] % 64);
    }
}

uint32_t sc_gsc_cluster(const int32_t *dist, uint32_t m, int64_t tau, const uint64_t forced[2],
                        enum sc_seed_order order, uint8_t *labels, uint8_t *seeds)
{
    struct state st;
    uint8_t number[SC_CHUNK_MAX]; /* seed token -> cluster */
    struct set numbered = {{0, 0}};
    uint32_t count = 0;

    find_neighbours(&st, dist, m, tau, forced);
    if (order == SC_SEED_SCAN)
        run_scan(&st);
    else
        run_dense(&st, m);
    for (uint32_t i = 0; i < m; i++) {
        uint32_t seed = st.seed_of[i];
        if (!set_has(&numbered, seed)) {
            set_put(&numbered, seed);
            seeds[count] = (uint8_t)seed;
            number[seed] = (uint8_t)count++;
        }
        labels[i] = number[seed];
    }
    return count;
}

static int64_t largest_unforced(const int32_t *dist, uint32_t m, const uint64_t forced[2])
{
    struct set free_tokens = {{~forced[0], ~forced[1]}};
    int64_t largest = 0;
    for (uint32_t i = 0; i < m; i++) {
        if (!set_has(&free_tokens, i))
            continue;
        for (uint32_t j = i + 1; j < m; j++) {
            if (set_has(&free_tokens, j) && dist[(size_t)i * m + j] > largest)
                largest = dist[(size_t)i * m + j];
        }
    }
    return largest;
}

uint32_t sc_gsc_cluster_budget(const int32_t *dist, uint32_t m, uint32_t budget,
                               const uint64_t forced[2], enum sc_seed_order order, uint8_t *labels,
                               uint8_t *seeds)
{
    int64_t lo = -1, hi = largest_unforced(dist, m, forced), done = -1;
    uint32_t count = 0;

    if (m <= budget) /* twelve steps might stop short of merging nothing */
        return sc_gsc_cluster(dist, m, lo, forced, order, labels, seeds);
    for (uint32_t step = 0; step < SC_GSC_BISECTIONS && hi - lo > 1; step++) {
        int64_t mid = lo + (hi - lo) / 2;
        count = sc_gsc_cluster(dist, m, mid, forced, order, labels, seeds);
        done = mid;
        if (count <= budget)
            hi = mid;
        else
            lo = mid;
    }
    if (done != hi)
        count = sc_gsc_cluster(dist, m, hi, forced, order, labels, seeds);
    return count;
}
