#include "cpu/packed.h"

#include <stdlib.h>

#include "cpu/memory.h"

#define STRIP_IN 64u /* inputs that are gathered at a time */

/* Inputs k0 .. k0 + STRIP_IN of a panel as bf16, zeros where the matrix has none. */
struct strip {
    uint16_t w[STRIP_IN * SC_CPU_PANEL];
};

struct packing {
    struct sc_cpu_device *dev;
    const struct sc_matrix_part *parts;
    uint32_t n_parts;
    struct sc_matrix *m;
};

static void gather(const struct packing *p, uint32_t panel, uint32_t k0, struct strip *strip)
{
    uint64_t out0 = (uint64_t)panel * SC_CPU_PANEL, part0 = 0;
    uint32_t n = p->m->n_in - k0 < STRIP_IN ? p->m->n_in - k0 : STRIP_IN;

    memset(strip, 0, sizeof(*strip));
    for (uint32_t i = 0; i < p->n_parts; i++) {
        const struct sc_matrix_part *part = &p->parts[i];
        uint64_t out = part0 > out0 ? part0 : out0, end = out0 + SC_CPU_PANEL;
        part0 += part->n_rows;
        for (; out < end && out < part0; out++) {
            uint64_t row = out - (part0 - part->n_rows);
            uint16_t *to = strip->w + 2 * (out - out0);
            for (uint32_t k = 0; k < n; k++)
                to[k / 2 * SC_CPU_ROW + k % 2] =
                    sc_cpu_weight_bf16(part, row * part->row_stride + part->col0 + k0 + k);
        }
    }
}

static inline uint32_t exponent(uint16_t bits)
{
    return bits >> 7 & 0xff;
}

/* The 16 exponents that most of the panel's weights have, of equals the lower, in rising order;
 * returns how many weights have another. */
static uint32_t choose(uint32_t counts[256], uint8_t exponents[16])
{
    uint32_t left = 0;
    bool chosen[256] = {false};
    for (uint32_t n = 0; n < 16; n++) {
        uint32_t best = 256;
        for (uint32_t e = 0; e < 256; e++) {
            if (!chosen[e] && (best == 256 || counts[e] > counts[best]))
                best = e;
        }
        chosen[best] = true;
    }
    for (uint32_t e = 0, n = 0; e < 256; e++) {
        if (chosen[e])
            exponents[n++] = (uint8_t)e;
        else
            left += counts[e];
    }
    return left;
}

static void count_panel(void *ctx, uint32_t panel, uint32_t thread)
{
    const struct packing *p = ctx;
    uint32_t counts[256] = {0};
    struct strip strip;
    (void)thread;
    for (uint32_t k0 = 0; k0 < p->m->n_in; k0 += STRIP_IN) {
        gather(p, panel, k0, &strip);
        for (uint32_t i = 0; i < STRIP_IN * SC_CPU_PANEL; i++)
            counts[exponent(strip.w[i])]++;
    }
    if (counts[255] != 0)
        atomic_store_explicit(&p->m->not_finite, true, memory_order_relaxed);
    p->m->rare0[panel + 1] = choose(counts, p->m->exponents[panel]) + 1;
}

/* 128 weights from w on: 192 bytes from `to` on, and what is rare of them. */
static struct sc_cpu_rare *pack_rows(const uint16_t *w, const uint8_t code_of[256], uint32_t at,
                                     uint8_t *to, struct sc_cpu_rare *rare)
{
    for (uint32_t i = 0; i < SC_CPU_ROW; i++) {
        uint32_t half = i / 64, lane = i % 32 / 8;
        uint32_t byte = 16 * lane + i / 32 % 2 * 8 + i % 8; /* see packed.h */
        uint32_t code = code_of[exponent(w[i])];
        to[64 * half + byte] = (uint8_t)(w[i] >> 8 & 0x80) | (uint8_t)(w[i] & 0x7f);
        if (code == 16) {
            *rare++ = (struct sc_cpu_rare){at + i, w[i]};
            code = 0;
        }
        to[128 + byte] |= (uint8_t)(code << 4 * half);
    }
    return rare;
}

static void pack_panel(void *ctx, uint32_t panel, uint32_t thread)
{
    const struct packing *p = ctx;
    const struct sc_matrix *m = p->m;
    struct sc_cpu_rare *rare = m->rare + m->rare0[panel];
    uint8_t code_of[256], *to = m->panels + panel * m->panel_bytes;
    struct strip strip;
    (void)thread;

    memset(code_of, 16, sizeof(code_of));
    for (uint8_t i = 0; i < 16; i++)
        code_of[m->exponents[panel][i]] = i;
    for (uint32_t k0 = 0; k0 < m->n_in; k0 += STRIP_IN) {
        gather(p, panel, k0, &strip);
        for (uint32_t i = 0; i < STRIP_IN * SC_CPU_PANEL; i += SC_CPU_ROW, to += SC_CPU_PACKED_ROW)
            rare = pack_rows(strip.w + i, code_of, k0 * SC_CPU_PANEL + i, to, rare);
    }
    *rare = (struct sc_cpu_rare){.at = UINT32_MAX};
}

bool sc_cpu_pack(struct sc_cpu_device *dev, const struct sc_matrix_part *parts, uint32_t n_parts,
                 struct sc_matrix *m)
{
    struct packing p = {.dev = dev, .parts = parts, .n_parts = n_parts, .m = m};
    const size_t rows = (size_t)(m->n_in + STRIP_IN - 1) / STRIP_IN * (STRIP_IN / 2);
    const size_t whole = rows * SC_CPU_ROW * sizeof(uint16_t) * m->n_panels;
    struct sc_err err = SC_ERR_INIT;
    uint64_t n_rare = 0;
    void *mem = NULL;

    if (rows * SC_CPU_ROW >= UINT32_MAX)
        return false;
    m->exponents = calloc(m->n_panels, sizeof(*m->exponents));
    m->rare0 = calloc((size_t)m->n_panels + 1, sizeof(*m->rare0));
    if (m->exponents == NULL || m->rare0 == NULL)
        goto fail;
    sc_cpu_threads_run(dev->threads, count_panel, &p, m->n_panels);
    for (uint32_t i = 0; i < m->n_panels; i++) {
        n_rare += m->rare0[i + 1];
        if (n_rare > UINT32_MAX)
            goto fail;
        m->rare0[i + 1] = (uint32_t)n_rare;
    }
    m->panel_bytes = rows * SC_CPU_PACKED_ROW;
    m->panels_bytes = m->panel_bytes * m->n_panels;
    if (m->panels_bytes + n_rare * sizeof(*m->rare) > whole / 10 * 9)
        goto fail;
    m->rare = malloc(n_rare * sizeof(*m->rare));
    if (m->rare == NULL || sc_cpu_memory_take(m->panels_bytes, "matrix", &mem, &err) != SC_OK)
        goto fail;
    m->panels = mem;
    sc_cpu_threads_run(dev->threads, pack_panel, &p, m->n_panels);
    return true;

fail:
    sc_cpu_pack_close(m);
    return false;
}

void sc_cpu_pack_close(struct sc_matrix *m)
{
    free(m->exponents);
    free(m->rare0);
    free(m->rare);
    m->exponents = NULL;
    m->rare0 = NULL;
    m->rare = NULL;
}

void sc_cpu_unpack(const struct sc_cpu_device *dev, const struct sc_matrix *m, uint32_t panel,
                   uint32_t k0, uint32_t k, const struct sc_cpu_rare **rare, uint16_t *to)
{
    const uint8_t *from = m->panels + panel * m->panel_bytes + (size_t)(k0 / 2) * SC_CPU_PACKED_ROW;
    /* Whole steps of 32 inputs, which is what is multiplied: behind the last input lie zeros. */
    const uint32_t first = k0 * SC_CPU_PANEL, n_rows = (k + 31) / 32 * 16;

    dev->kernels.unpack(from, m->exponents[panel], n_rows, to);
    for (; (*rare)->at < first + n_rows * SC_CPU_ROW; ++*rare)
        to[(*rare)->at - first] = (*rare)->bits;
}
