/* tests/cuda/simt/warp.cc - what a warp's lanes find when all have come. */
#include "tests/cuda/simt/block.h"

#include <string.h>

namespace simt
{

namespace
{

float bf16(uint32_t bits)
{
    const uint32_t wide = bits << 16;
    float f;
    memcpy(&f, &wide, sizeof(f));
    return f;
}

/* c [16, 8] += a [16, 16] b [16, 8]: lane l holds of a rows l / 4 and 8 below, columns
 * l % 4 * 2, the next, and both 8 further; of b those columns' rows of column l / 4; of c rows as
 * of a, columns l % 4 * 2 and the next. */
void multiply_matrices(lane *const (&lanes)[WARP])
{
    float a[16][16], b[8][16], c[4];
    for (unsigned l = 0; l < WARP; l++) {
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = l / 4 + i % 2 * 8, col = l % 4 * 2 + i / 2 * 8;
            a[row][col] = bf16(lanes[l]->in[i] & 0xffffu);
            a[row][col + 1] = bf16(lanes[l]->in[i] >> 16);
        }
        for (unsigned i = 0; i < 2; i++) {
            const unsigned row = l % 4 * 2 + i * 8;
            b[l / 4][row] = bf16(lanes[l]->in[4 + i] & 0xffffu);
            b[l / 4][row + 1] = bf16(lanes[l]->in[4 + i] >> 16);
        }
    }
    for (unsigned l = 0; l < WARP; l++) {
        memcpy(c, &lanes[l]->in[6], sizeof(c));
        for (unsigned i = 0; i < 4; i++) {
            const float *row = a[l / 4 + i / 2 * 8], *column = b[l % 4 * 2 + i % 2];
            float sum = 0.0f;
            for (unsigned k = 0; k < 16; k++)
                sum += row[k] * column[k];
            c[i] += sum;
        }
        memcpy(lanes[l]->out, c, sizeof(c));
    }
}

void load_matrices(lane *const (&lanes)[WARP], bool transposed)
{
    uint16_t rows[WARP][8];
    for (unsigned l = 0; l < WARP; l++)
        memcpy(rows[l], shared_memory(lanes[l]->in[0], 16), 16);
    for (unsigned l = 0; l < WARP; l++) {
        const unsigned row = l / 4, col = l % 4 * 2;
        for (unsigned j = 0; j < 4; j++) {
            const uint16_t lo = transposed ? rows[8 * j + col][row] : rows[8 * j + row][col];
            const uint16_t hi =
                transposed ? rows[8 * j + col + 1][row] : rows[8 * j + row][col + 1];
            lanes[l]->out[j] = lo | (uint32_t)hi << 16;
        }
    }
}

void shuffle(lane *const (&lanes)[WARP], uint32_t mask)
{
    for (unsigned l = 0; l < WARP; l++) {
        if ((mask >> l & 1) == 0)
            continue;
        const uint32_t from = lanes[l]->in[1];
        if (from >= WARP || (mask >> from & 1) == 0)
            fail("lane %u reads lane %u, mask %08x", l, from, mask);
        lanes[l]->out[0] = lanes[from]->in[0];
    }
}

/* The same for all lanes; match: for those of the value of lane l. */
uint32_t reduce(op what, lane *const (&lanes)[WARP], uint32_t mask, unsigned l)
{
    uint32_t r = 0;
    bool first = true;
    for (unsigned i = 0; i < WARP; i++) {
        const uint32_t in = lanes[i]->in[0];
        if ((mask >> i & 1) == 0)
            continue;
        if (what == op::ballot)
            r |= in << i;
        else if (what == op::any)
            r |= in;
        else if (what == op::add_u32)
            r += in;
        else if (what == op::match)
            r |= (uint32_t)(in == lanes[l]->in[0]) << i;
        else if (first || (what == op::max_u32 ? in > r : (int32_t)in > (int32_t)r))
            r = in;
        first = false;
    }
    return r;
}

} // namespace

void complete(op what, uint32_t mask, lane *const (&lanes)[WARP])
{
    const bool whole = mask == 0xffffffffu;
    if (what == op::sync)
        return;
    if (what == op::products && whole) {
        products_at_once();
    } else if (what == op::shuffle) {
        shuffle(lanes, mask);
    } else if (what == op::mma && whole) {
        multiply_matrices(lanes);
    } else if ((what == op::matrices || what == op::transposed) && whole) {
        load_matrices(lanes, what == op::transposed);
    } else {
        uint32_t same = 0;
        for (unsigned l = 0; l < WARP; l++) {
            if (l == 0 || what == op::match)
                same = reduce(what, lanes, mask, l);
            lanes[l]->out[0] = same;
        }
    }
}

} // namespace simt
