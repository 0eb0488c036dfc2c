/* tests/cuda/simt/products.cc - products of a warpgroup's rows, bf16 with sums in f32. Each warp's
 * 16 rows are computed when all its lanes have come, in the order of the products; a row's sums do
 * not depend on anything beside it. */
#include "tests/cuda/simt/block.h"

#include <stdlib.h>
#include <string.h>

#include "tests/cuda/simt/races.h"

namespace simt
{

namespace
{

constexpr unsigned ROWS = 16, DEPTH = 16, COLUMNS = 128;

bool early(void)
{
    static const char *when = getenv("SC_SIMT_PRODUCTS");
    static const bool is = when != NULL && strcmp(when, "early") == 0;
    return is;
}

float bf16(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &wide, sizeof(f));
    return f;
}

/* A matrix as cuda/panel.cuh tells the instructions of it. */
struct matrix {
    uint32_t at, leading, stride;
};

matrix decode(uint64_t m)
{
    if (m >> 62 != 1 || (m >> 46 & 0xffff) != 0 || (m >> 14 & 3) != 0 || (m >> 30 & 3) != 0)
        fail("a matrix that is not in panels of 128 bytes a row: %016llx", (unsigned long long)m);
    return {(uint32_t)(m & 0x3fff) << 4, (uint32_t)(m >> 16 & 0x3fff) << 4,
            (uint32_t)(m >> 32 & 0x3fff) << 4};
}

/* Eight numbers of row `row` behind byte `byte` of a panel of rows. */
const uint16_t *chunk_of(const matrix &m, unsigned row, unsigned byte)
{
    return (const uint16_t *)shared_memory(
        permuted(m.at + row / 8 * m.stride + row % 8 * 128 + byte), 16);
}

typedef float rows __attribute__((vector_size(ROWS * sizeof(float))));

struct tile {
    rows a[DEPTH], d[COLUMNS];
    float b[DEPTH * COLUMNS]; /* as it lies in shared memory */
};

void widen(float *to, const uint16_t *from)
{
    for (unsigned i = 0; i < 8; i++)
        to[i] = bf16(from[i]);
}

void unpack_b(tile &t, const product &p)
{
    const matrix m = decode(p.b_at);
    if (!p.by_row) {
        for (unsigned c = 0; c < p.n_columns; c++)
            for (unsigned k = 0; k < DEPTH; k += 8)
                widen(&t.b[c * DEPTH + k], chunk_of(m, c, k * 2));
        return;
    }
    for (unsigned k = 0; k < DEPTH; k++)
        for (unsigned c = 0; c < p.n_columns; c += 8)
            widen(&t.b[k * COLUMNS + c], chunk_of(m, k, c / 64 * m.leading + c % 64 * 2));
}

/* of: the product of each lane. */
void unpack_a(tile &t, const product *const (&of)[WARP], unsigned row0)
{
    if (of[0]->a == NULL) {
        const matrix m = decode(of[0]->a_at);
        for (unsigned r = 0; r < ROWS; r++)
            for (unsigned k = 0; k < DEPTH; k++)
                t.a[k][r] = bf16(chunk_of(m, row0 + r, k / 8 * 16)[k % 8]);
        return;
    }
    for (unsigned l = 0; l < WARP; l++) {
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = l / 4 + i % 2 * 8, k = l % 4 * 2 + i / 2 * 8;
            t.a[k][row] = bf16((uint16_t)of[l]->a[i]);
            t.a[k + 1][row] = bf16((uint16_t)(of[l]->a[i] >> 16));
        }
    }
}

/* Number (k, c) of b is b[k * K + c * C]. */
template <unsigned K, unsigned C> void multiply(tile &t, unsigned n_columns)
{
    for (unsigned c = 0; c < n_columns; c += 4) {
        const float *b = &t.b[c * C];
        rows d0 = t.d[c], d1 = t.d[c + 1], d2 = t.d[c + 2], d3 = t.d[c + 3];
        for (unsigned k = 0; k < DEPTH; k++) {
            const rows a = t.a[k];
            d0 += a * b[k * K];
            d1 += a * b[k * K + C];
            d2 += a * b[k * K + 2 * C];
            d3 += a * b[k * K + 3 * C];
        }
        t.d[c] = d0;
        t.d[c + 1] = d1;
        t.d[c + 2] = d2;
        t.d[c + 3] = d3;
    }
}

/* Number i of eight columns: f(what the lane has, column and row in the tile). */
template <class F> void each_of_d(const product *const (&of)[WARP], F f)
{
    for (unsigned l = 0; l < WARP; l++)
        for (unsigned n = 0; n < of[0]->n_columns / 8; n++)
            for (unsigned i = 0; i < 4; i++)
                f(of[l]->d[4 * n + i], 8 * n + l % 4 * 2 + i % 2, l / 4 + i / 2 * 8);
}

void gather_d(tile &t, const product *const (&of)[WARP])
{
    each_of_d(of, [&](float &x, unsigned c, unsigned r) { t.d[c][r] = x; });
}

void scatter_d(const tile &t, const product *const (&of)[WARP])
{
    each_of_d(of, [&](float &x, unsigned c, unsigned r) { x = t.d[c][r]; });
}

/* By the thread, of what its warp reads. */
void tell_races(const thread *t, const product &p)
{
#ifdef SC_SIMT_RACES
    if (number_of(t) % WARP != 0)
        return;
    const matrix b = decode(p.b_at);
    for (unsigned row = 0; row < (p.by_row ? DEPTH : p.n_columns); row++)
        for (unsigned byte = 0; byte < (p.by_row ? p.n_columns * 2 : DEPTH * 2); byte += 16)
            race_read(chunk_of(b, row, p.by_row ? byte / 128 * b.leading + byte % 128 : byte), 16);
    if (p.a != NULL)
        return;
    const matrix a = decode(p.a_at);
    for (unsigned row = 0; row < ROWS; row++)
        for (unsigned byte = 0; byte < DEPTH * 2; byte += 16)
            race_read(chunk_of(a, number_of(t) / WARP % 4 * ROWS + row, byte), 16);
#else
    (void)t;
    (void)p;
#endif
}

bool is_due(const thread &t, const product &p, unsigned n_groups)
{
    return p.group + n_groups < t.n_committed;
}

/* A warp's products, until n groups are left. */
void run(thread *lanes, unsigned n_groups)
{
    static tile t;
    const product *of[WARP], *before[WARP] = {};
    unsigned n = 0;
    race_switch(x->clock);
    for (; n < lanes[0].n_products && is_due(lanes[0], lanes[0].products[n], n_groups); n++) {
        for (unsigned l = 0; l < WARP; l++) {
            if (n >= lanes[l].n_products)
                fail("lane %u of warp %u has begun fewer products than others", l,
                     number_of(lanes) / WARP);
            of[l] = &lanes[l].products[n];
            if (of[l]->a_at != of[0]->a_at || of[l]->b_at != of[0]->b_at ||
                of[l]->n_columns != of[0]->n_columns || of[l]->group != of[0]->group)
                fail("lane %u of warp %u multiplies another matrix than others", l,
                     number_of(lanes) / WARP);
        }
        if (before[0] == NULL || before[0]->d != of[0]->d) {
            if (before[0] != NULL)
                scatter_d(t, before);
            gather_d(t, of);
        }
        if (!of[0]->adds)
            memset(t.d, 0, sizeof(t.d));
        unpack_a(t, of, number_of(lanes) / WARP % 4 * ROWS);
        unpack_b(t, *of[0]);
        if (of[0]->by_row)
            multiply<COLUMNS, 1>(t, of[0]->n_columns);
        else
            multiply<1, DEPTH>(t, of[0]->n_columns);
        race_switch(lanes->clock);
        tell_races(lanes, *of[0]);
        race_switch(x->clock);
        memcpy(before, of, sizeof(before));
    }
    if (n != 0)
        scatter_d(t, before);
    for (unsigned l = 0; l < WARP; l++) {
        thread &lane = lanes[l];
        lane.n_products -= n;
        for (unsigned i = 0; i < lane.n_products; i++)
            lane.products[i] = lane.products[i + n];
    }
    if (x->self != NULL)
        race_switch(x->self->clock);
}

} // namespace

void products_fence(void)
{
    self()->fenced = true;
}

void product_begin(const product &p)
{
    thread *t = self();
    if (!t->fenced)
        fail("a product without a fence before it");
    if (t->n_products == PRODUCTS_MAX)
        fail("%u products are on their way", PRODUCTS_MAX);
    t->products[t->n_products] = p;
    t->products[t->n_products++].group = t->n_committed;
    tell_races(t, p);
    if (early())
        meet(op::products, 0xffffffffu);
}

void products_at_once(void)
{
    thread *lanes = &x->threads[number_of(self()) / WARP * WARP];
    for (unsigned l = 0; l < WARP; l++)
        lanes[l].products[lanes[l].n_products - 1].group = 0;
    for (unsigned l = 0; l < WARP; l++)
        lanes[l].n_committed++;
    run(lanes, 0);
    for (unsigned l = 0; l < WARP; l++)
        lanes[l].n_committed--;
}

void products_commit(void)
{
    thread *t = self();
    t->n_committed++;
    t->fenced = false;
}

void products_wait(unsigned n_groups)
{
    thread *t = self();
    if (t->n_products == 0 || !is_due(*t, t->products[0], n_groups))
        return;
    t->n_may_run = n_groups;
    wait_as(state::at_products);
}

/* Of one warp. */
bool finish_products(void)
{
    for (unsigned i = 0; i < x->n_threads; i += WARP) {
        thread *lanes = &x->threads[in_turn(i) / WARP * WARP];
        const unsigned first = number_of(lanes);
        unsigned n = 0;
        while (n < WARP && x->now[first + n] == state::at_products &&
               lanes[n].n_may_run == lanes[0].n_may_run)
            n++;
        if (n < WARP)
            continue;
        run(lanes, lanes->n_may_run);
        memset(&x->now[first], (int)state::ready, WARP);
        return true;
    }
    return false;
}

void stuck_at_products(void)
{
    for (unsigned i = 0; i < x->n_threads; i++)
        if (x->now[i] == state::at_products)
            fail("thread %u waits for products of its warp, whose other lanes are elsewhere", i);
}

} // namespace simt
