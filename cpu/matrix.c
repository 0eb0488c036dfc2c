#include "cpu/device.h"

#include <math.h>
#include <stdlib.h>

#include "cpu/memory.h"
#include "cpu/packed.h"

struct pack {
    const struct sc_matrix_part *parts;
    uint32_t n_parts;
    struct sc_matrix *m;
    bool quads;        /* I8: packed for int8 activations */
    double (*sums)[2]; /* I8: squared errors and squares of each panel */
};

static void pack_row(struct sc_matrix *m, uint32_t out, const struct sc_matrix_part *part,
                     uint64_t row)
{
    uint8_t *panel = m->panels + out / SC_CPU_PANEL * m->panel_bytes;
    uint64_t first = row * part->row_stride + part->col0;
    uint32_t col = out % SC_CPU_PANEL;

    if (m->store == SC_DTYPE_F32) {
        float *to = (float *)(void *)panel + col;
        for (uint32_t k = 0; k < m->n_in; k++)
            to[(size_t)k * SC_CPU_PANEL] = sc_cpu_weight(part, first + k);
        return;
    }
    uint16_t *to = (uint16_t *)(void *)panel + 2 * col;
    const uint8_t *from = (const uint8_t *)part->data + 2 * first;
    uint32_t k = 0;
    for (; part->dtype == SC_DTYPE_BF16 && k + 2 <= m->n_in; k += 2) /* a pair lies as it is */
        memcpy(to + (size_t)k * SC_CPU_PANEL, from + 2 * k, 4);
    for (; k < m->n_in; k++)
        to[(size_t)(k / 2) * 2 * SC_CPU_PANEL + k % 2] = sc_cpu_weight_bf16(part, first + k);
}

/* Symmetric, one scale a row: that of the whole row of the source, of which this matrix may have
 * but some columns. A row with a weight that is not finite gets the scale NaN. */
static void pack_row_i8(struct sc_matrix *m, bool quads, uint32_t out,
                        const struct sc_matrix_part *part, uint64_t row, double *sums)
{
    uint8_t *panel = m->panels + out / SC_CPU_PANEL * m->panel_bytes;
    uint32_t col = out % SC_CPU_PANEL;
    uint64_t first = row * part->row_stride;
    float largest = 0.0f, scale;
    bool finite = true;

    for (uint64_t k = 0; k < part->row_stride; k++) {
        float w = fabsf(sc_cpu_weight(part, first + k));
        largest = w > largest ? w : largest;
        finite &= w < INFINITY;
    }
    scale = m->scale[out] = finite ? largest / 127.0f : NAN;
    if (!finite || scale == 0.0f)
        return;
    for (uint32_t k = 0; k < m->n_in; k++) {
        float w = sc_cpu_weight(part, first + part->col0 + k);
        float q = (w / scale + 0x1.8p23f) - 0x1.8p23f; /* to the nearest, ties to even */
        double e = (double)w - (double)q * scale;
        q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
        if (quads)
            panel[(size_t)(k / 4 * SC_CPU_PANEL + col) * 4 + k % 4] = (uint8_t)((int)q + 128);
        else
            panel[(size_t)k * SC_CPU_PANEL + col] = (uint8_t)(int8_t)q;
        sums[0] += e * e;
        sums[1] += (double)w * w;
    }
}

/* As kept: a bf16 weight that an f32 one became may be infinite although that was not. */
static void check_panel(struct sc_matrix *m, uint32_t panel)
{
    const size_t n = m->panel_bytes / sc_dtype_bytes(m->store);

    if (sc_dtype_count_finite(m->panels + panel * m->panel_bytes, m->store, n) != n)
        atomic_store_explicit(&m->not_finite, true, memory_order_relaxed);
}

static void pack_panel(void *ctx, uint32_t panel, uint32_t thread)
{
    struct pack *p = ctx;
    uint64_t out = (uint64_t)panel * SC_CPU_PANEL, end = out + SC_CPU_PANEL, part0 = 0;
    (void)thread;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        uint64_t part_end = part0 + p->parts[i].n_rows;
        for (; out < end && out < part_end; out++) {
            if (p->m->store == SC_DTYPE_I8)
                pack_row_i8(p->m, p->quads, (uint32_t)out, &p->parts[i], out - part0,
                            p->sums[panel]);
            else
                pack_row(p->m, (uint32_t)out, &p->parts[i], out - part0);
        }
        part0 = part_end;
    }
    if (p->m->store != SC_DTYPE_I8) /* now, while the panel is in the cache */
        check_panel(p->m, panel);
}

static enum sc_status check_parts(const struct sc_matrix_part *parts, uint32_t n_parts,
                                  uint64_t n_in, enum sc_dtype store, uint64_t *ret_out,
                                  struct sc_err *err)
{
    uint64_t n_out = 0;
    if (store != SC_DTYPE_F32 && store != SC_DTYPE_BF16 && store != SC_DTYPE_I8)
        return sc_fail(err, SC_ENOTSUP, "matrix: stored as %s, allowed f32, bf16 and int8",
                       sc_dtype_name(store));
    if (n_in == 0 || n_in > SC_CPU_DIM_MAX)
        return sc_fail(err, SC_EINVAL, "matrix: %llu columns, allowed 1 to %u",
                       (unsigned long long)n_in, SC_CPU_DIM_MAX);
    for (uint32_t i = 0; i < n_parts; i++) {
        const struct sc_matrix_part *p = &parts[i];
        if (p->dtype != SC_DTYPE_F32 && p->dtype != SC_DTYPE_BF16 && p->dtype != SC_DTYPE_F16)
            return sc_fail(err, SC_ENOTSUP, "matrix: part %u is %s", i, sc_dtype_name(p->dtype));
        if (p->col0 > p->row_stride || n_in > p->row_stride - p->col0)
            return sc_fail(err, SC_EINVAL, "matrix: part %u: columns %llu + %llu, row stride %llu",
                           i, (unsigned long long)p->col0, (unsigned long long)n_in,
                           (unsigned long long)p->row_stride);
        if (p->n_rows > SC_CPU_OUT_MAX - n_out)
            return sc_fail(err, SC_EINVAL, "matrix: %llu rows and more, limit %u",
                           (unsigned long long)(n_out + p->n_rows), SC_CPU_OUT_MAX);
        n_out += p->n_rows;
    }
    if (n_out == 0)
        return sc_fail(err, SC_EINVAL, "matrix: no rows");
    *ret_out = n_out;
    return SC_OK;
}

static enum sc_status take_row(uint32_t n_panels, const char *what, float **ret_mem,
                               size_t *ret_bytes, struct sc_err *err)
{
    size_t bytes = (size_t)n_panels * SC_CPU_PANEL * sizeof(float);
    void *mem = NULL;
    enum sc_status st = sc_cpu_memory_take(bytes, what, &mem, err);
    if (st == SC_OK) {
        *ret_mem = mem;
        *ret_bytes = bytes;
    }
    return st;
}

static enum sc_status take_panels(struct sc_matrix *m, struct sc_err *err)
{
    const size_t in = m->store == SC_DTYPE_F32
                          ? (size_t)m->n_in * sizeof(float)
                          : (size_t)((m->n_in + 63) / 64) * 64 * sc_dtype_bytes(m->store);
    void *mem = NULL;
    enum sc_status st;

    m->panel_bytes = in * SC_CPU_PANEL;
    st = sc_cpu_memory_take(m->panel_bytes * m->n_panels, "matrix", &mem, err);
    if (st == SC_OK) {
        m->panels = mem;
        m->panels_bytes = m->panel_bytes * m->n_panels;
    }
    return st;
}

/* The sums of all panels, in order; a row that could not be scaled is named. */
static enum sc_status check_scales(struct sc_matrix *m, double (*sums)[2], struct sc_err *err)
{
    for (uint32_t i = 0; i < m->n_panels; i++) {
        m->error2 += sums[i][0];
        m->norm2 += sums[i][1];
    }
    for (uint32_t i = 0; i < m->n_out; i++) {
        if (isnan(m->scale[i]))
            return sc_fail(err, SC_EINVAL, "matrix: row %u has a weight that is not finite", i);
    }
    return SC_OK;
}

enum sc_status sc_cpu_matrix_open(struct sc_backend *be, const struct sc_matrix_part *parts,
                                  uint32_t n_parts, uint64_t n_in, const float *bias,
                                  enum sc_dtype store, struct sc_matrix **ret_matrix,
                                  struct sc_err *err)
{
    struct sc_cpu_device *dev = sc_cpu_device(be);
    struct sc_matrix *m;
    struct pack pack = {.parts = parts, .n_parts = n_parts, .quads = dev->i8};
    uint64_t n_out = 0;
    enum sc_status st = check_parts(parts, n_parts, n_in, store, &n_out, err);

    if (st != SC_OK)
        return st;
    m = calloc(1, sizeof(*m));
    if (m == NULL)
        return sc_fail(err, SC_ENOMEM, "matrix: %zu bytes", sizeof(*m));
    m->store = store;
    m->n_in = (uint32_t)n_in;
    m->n_out = (uint32_t)n_out;
    m->n_panels = (m->n_out + SC_CPU_PANEL - 1) / SC_CPU_PANEL;
    if (store != SC_DTYPE_BF16 || !dev->packs || !sc_cpu_pack(dev, parts, n_parts, m)) {
        st = take_panels(m, err);
        if (st != SC_OK)
            goto fail;
    }
    if (bias != NULL) {
        st = take_row(m->n_panels, "matrix bias", &m->bias, &m->bias_bytes, err);
        if (st != SC_OK)
            goto fail;
        memcpy(m->bias, bias, m->n_out * sizeof(float));
    }
    if (store == SC_DTYPE_I8) {
        st = take_row(m->n_panels, "matrix scales", &m->scale, &m->scale_bytes, err);
        if (st != SC_OK)
            goto fail;
        pack.sums = calloc(m->n_panels, sizeof(*pack.sums));
        if (pack.sums == NULL) {
            st = sc_fail(err, SC_ENOMEM, "matrix: sums of %u panels", m->n_panels);
            goto fail;
        }
    }
    pack.m = m;
    if (m->exponents == NULL)
        sc_cpu_threads_run(dev->threads, pack_panel, &pack, m->n_panels);
    if (store == SC_DTYPE_I8)
        st = check_scales(m, pack.sums, err);
    free(pack.sums);
    if (st != SC_OK)
        goto fail;
    *ret_matrix = m;
    return SC_OK;

fail:
    sc_cpu_matrix_close(be, m);
    return st;
}

void sc_cpu_matrix_error(const struct sc_matrix *m, double *error2, double *norm2)
{
    *error2 += m->error2;
    *norm2 += m->norm2;
}

bool sc_cpu_matrix_is_finite(const struct sc_matrix *m)
{
    return !atomic_load_explicit(&m->not_finite, memory_order_relaxed);
}

uint64_t sc_cpu_matrix_bytes(const struct sc_matrix *m)
{
    uint64_t rare = m->rare0 != NULL ? m->rare0[m->n_panels] : 0;
    return m->panels_bytes + m->scale_bytes + rare * sizeof(*m->rare);
}

void sc_cpu_matrix_close(struct sc_backend *be, struct sc_matrix *m)
{
    (void)be;
    if (m == NULL)
        return;
    sc_cpu_memory_give(m->panels, m->panels_bytes);
    sc_cpu_memory_give(m->bias, m->bias_bytes);
    sc_cpu_memory_give(m->scale, m->scale_bytes);
    sc_cpu_pack_close(m);
    free(m);
}
