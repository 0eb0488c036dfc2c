/* tests/cuda/simt/boxes.cc - copies into shared memory that threads do not wait for: pieces of a
 * few bytes, in groups of a thread, and boxes of a tensor, which a barrier tells of. */
#include <cuda.h>

#include "tests/cuda/simt/block.h"

#include <string.h>

#include "tests/cuda/simt/races.h"

namespace simt
{

static void on_its_way(const copy &c)
{
    race_read(c.from, c.n);
    race_write(c.to, c.bytes);
}

static void arrive(const copy &c)
{
    on_its_way(c);
    if (c.n != 0)
        memcpy(c.to, c.from, c.n);
    memset((uint8_t *)c.to + c.n, 0, c.bytes - c.n);
}

void copy_begin(void *to, const void *from, size_t n, size_t bytes)
{
    thread *t = self();
    const copy c = {to, from, n, bytes, t->group};
    if (n > bytes || (n != 0 && (uintptr_t)from % bytes != 0))
        fail("a copy of %zu of %zu bytes from %p", n, bytes, from);
    x->n_copied += n;
    on_its_way(c);
    if (x->backward)
        arrive(c);
    else
        t->copies.push_back(c);
}

void copy_commit(void)
{
    self()->group++;
}

void copy_wait(unsigned n_groups)
{
    thread *t = self();
    while (t->first_copy < t->copies.size() && t->copies[t->first_copy].group + n_groups < t->group)
        arrive(t->copies[t->first_copy++]);
    if (t->first_copy == t->copies.size()) {
        t->copies.clear();
        t->first_copy = 0;
    }
}

/* ---- boxes ---- */

namespace
{

size_t bytes_of(const tensor &t)
{
    return (size_t)t.box[0] * t.box[1] * t.box[2] * 2;
}

/* The clock of who copies: it begins behind what was before the box was asked for. */
void land(const box &b, phases &p)
{
    const tensor &t = b.from;
    const uint8_t *row =
        t.at + (size_t)b.at[0] * 2 + (size_t)b.at[1] * t.stride[0] + (size_t)b.at[2] * t.stride[1];
    if (x->copier == NULL)
        x->copier = race_clock();
    race_switch(x->copier);
    race_come(&p.begun);
    for (uint32_t i = 0; i < t.box[1]; i++, row += t.stride[0]) {
        race_read(row, 128);
        race_write(shared_memory(b.to + i * 128, 128), 128);
        for (uint32_t chunk = 0; chunk < 8; chunk++)
            memcpy(shared_memory(permuted(b.to + i * 128 + chunk * 16), 16), row + chunk * 16, 16);
    }
    phase_bytes(p, bytes_of(t));
    race_switch(x->self != NULL ? x->self->clock : x->clock);
}

} // namespace

void copy_box(uint32_t to, const tensor &from, int at_x, int at_y, int at_z, uint32_t barrier)
{
    const box b = {from, to, {at_x, at_y, at_z}};
    phases &p = phases_at(barrier);
    if (to % 128 != 0 || from.at == NULL)
        fail("a box to %u of shared memory", to - SHARED_ADDRESS);
    for (unsigned i = 0; i < 3; i++)
        if (b.at[i] < 0 || (uint64_t)b.at[i] + from.box[i] > from.n[i])
            fail("a box at %d %d %d of a tensor of %llu %llu %llu", at_x, at_y, at_z,
                 (unsigned long long)from.n[0], (unsigned long long)from.n[1],
                 (unsigned long long)from.n[2]);
    x->n_copied += bytes_of(from);
    race_leave(&p.begun);
    if (p.n_boxes == BOXES_MAX)
        fail("%u boxes are on their way to one barrier", BOXES_MAX);
    if (x->backward)
        land(b, p);
    else
        p.boxes[p.n_boxes++] = b;
}

/* Those of one barrier. */
bool bring_boxes(void)
{
    for (unsigned i = 0; i < x->n_threads; i++) {
        phases *p = x->threads[in_turn(i)].at_phase;
        if (p == NULL || p->n_boxes == 0)
            continue;
        for (unsigned n = 0; n < p->n_boxes; n++)
            land(p->boxes[n], *p);
        p->n_boxes = 0;
        return true;
    }
    return false;
}

} // namespace simt

/* What the driver would refuse, or make another map of. */
static CUresult encode(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *at,
                       const cuuint64_t *size, const cuuint64_t *stride, const cuuint32_t *box,
                       const cuuint32_t *step, CUtensorMapInterleave interleave,
                       CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                       CUtensorMapFloatOOBfill fill)
{
    simt::tensor t = {(const uint8_t *)at, {}, {}, {}};
    bool good = type == CU_TENSOR_MAP_DATA_TYPE_UINT16 && rank == 3 &&
                interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
                swizzle == CU_TENSOR_MAP_SWIZZLE_128B &&
                fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE && (uintptr_t)at % 16 == 0;
    for (int i = 0; i < 3 && good; i++) {
        t.n[i] = size[i];
        t.box[i] = box[i];
        good = size[i] > 0 && size[i] <= (uint64_t)1 << 32 && box[i] > 0 && box[i] <= 256 &&
               step[i] == 1;
    }
    for (int i = 0; i < 2 && good; i++) {
        t.stride[i] = stride[i];
        good = stride[i] % 16 == 0 && stride[i] < (uint64_t)1 << 40;
    }
    /* The stand-in has no other boxes. */
    if (!good || box[0] != 64 || box[2] != 1)
        return CUDA_ERROR_INVALID_VALUE;
    memset(map, 0, sizeof(*map));
    memcpy(map, &t, sizeof(t));
    return CUDA_SUCCESS;
}

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **ret, unsigned,
                                                        unsigned long long,
                                                        enum cudaDriverEntryPointQueryResult *how)
{
    const bool there = strcmp(name, "cuTensorMapEncodeTiled") == 0;
    *how = there ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    *ret = there ? (void *)encode : NULL;
    return cudaSuccess;
}
