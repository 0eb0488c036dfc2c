/* cpu/draw_impl.h - the loops of base/draw.h, included by each kernels_*.c. Private to cpu/.
 *
 * No fused multiply-add: the bits are those of sc_draw_mass. */

INLINE vf draw_step(vf y, vf f, float next)
{
    return v_add(v_mul(y, f), v_set1(next));
}

static void draw_masses(const float *x, uint32_t n, float max, const struct sc_draw *draw,
                        uint32_t *to)
{
    const vf top = v_set1(max), scale = v_set1(draw->scale), magic = v_set1(SC_DRAW_MAGIC);
    const vf least = v_set1(-SC_TWIN_FLOAT(draw->last));

    for (uint32_t i = 0; i < n; i += 16) {
        const uint32_t count = n - i < 16 ? n - i : 16;
        const vf d = v_sub(top, count == 16 ? v_load(x + i) : v_loadn(x + i, count));
        const vf t = v_max(v_mul(d, scale), v_set1(SC_DRAW_LOWEST));
        const vf whole = v_add(t, magic), f = v_sub(t, v_sub(whole, magic));
        int32_t mass[16];
        vf y = draw_step(v_set1(SC_DRAW_C6), f, SC_DRAW_C5);
        y = draw_step(y, f, SC_DRAW_C4);
        y = draw_step(y, f, SC_DRAW_C3);
        y = draw_step(y, f, SC_DRAW_C2);
        y = draw_step(y, f, SC_DRAW_C1);
        y = draw_step(y, f, 1.0f);
        y = v_mul(v_mul(y, v_pow2_low_bits(whole)), v_set1((float)SC_DRAW_ONE));
        v_quantise(v_zero_below(v_sub(v_zero(), d), least, y), SC_DRAW_ONE, mass);
        memcpy(to + i, mass, count * sizeof(*to));
    }
}

static float draw_largest(const float *x, uint32_t n)
{
    vf max = v_set1(-INFINITY);
    uint32_t n_nan = 0;
    for (uint32_t i = 0; i < n; i++)
        n_nan += x[i] != x[i];
    if (n_nan > 0)
        return NAN;
    for (uint32_t i = 0; i < n; i += 16) {
        const uint32_t count = n - i < 16 ? n - i : 16;
        max = count == 16 ? v_max(max, v_load(x + i))
                          : v_max(max, v_keep(v_loadn(x + i, count), 0, count, v_set1(-INFINITY)));
    }
    return v_top(max);
}
