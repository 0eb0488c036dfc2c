/* cpu/distance_impl.h - pairwise distances of a chunk, included by each kernels_*.c. Private to
 * cpu/.
 *
 * Lanes run over tokens j, so each pair is one chain of operations over d, the same for every
 * shape, and bit for bit symmetric. */
#define DIST_ROWS 4

INLINE void dist_block(const bool cosine, const struct sc_cpu_dist *a, uint32_t i0, uint32_t j0)
{
    vf acc[DIST_ROWS] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int32_t value[16];

    for (uint32_t d = 0; d < a->head_dim; d++) {
        const float *x = a->xt + (size_t)d * SC_CHUNK_MAX;
        vf xj = v_load(x + j0);
#pragma GCC unroll 4
        for (int r = 0; r < DIST_ROWS; r++) {
            vf xi = v_set1(x[i0 + (uint32_t)r]);
            if (cosine) {
                acc[r] = v_fma(xi, xj, acc[r]);
            } else {
                vf diff = v_sub(xi, xj);
                acc[r] = v_fma(diff, diff, acc[r]);
            }
        }
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < DIST_ROWS; r++) {
        uint32_t i = i0 + r, from = j0 > i + 1 ? j0 : i + 1;
        vf dist;
        if (cosine) {
            vf norms = v_sqrt(v_mul(v_set1(a->norm2[i]), v_load(a->norm2 + j0)));
            dist = v_sub(v_set1(1.0f), v_div(acc[r], norms));
        } else {
            dist = v_mul(acc[r], v_set1(a->inv_var));
        }
        v_quantise(v_mul(dist, v_set1(SC_DIST_ONE)), a->cap, value);
        if (i < a->m && from == j0 && j0 + 16 <= a->m) {
            int32_t *to = a->dist + (size_t)i * a->m + j0;
            for (uint32_t j = 0; j < 16; j++)
                to[j] += value[j];
            continue;
        }
        for (uint32_t j = from; i < a->m && j < a->m && j < j0 + 16; j++)
            a->dist[(size_t)i * a->m + j] += value[j - j0];
    }
}

static void distances(const struct sc_cpu_dist *a)
{
    for (uint32_t i0 = 0; i0 < a->m; i0 += DIST_ROWS) {
        for (uint32_t j0 = i0 / 16 * 16; j0 < a->m; j0 += 16) {
            if (a->norm2 != NULL)
                dist_block(true, a, i0, j0);
            else
                dist_block(false, a, i0, j0);
        }
    }
}

/* sum[i]: how far, squared, key i is from `mean` [head_dim]; m keys, and up to 15 behind them. */
static void from_mean(const float *xt, const float *mean, uint32_t m, uint32_t head_dim, float *sum)
{
    const uint32_t half = head_dim / 2;
    for (uint32_t i = 0; i < m; i += 16) {
        vf total = v_zero();
        for (uint32_t d = 0; d < half; d++) {
            vf lo = v_sub(v_load(xt + (size_t)d * SC_CHUNK_MAX + i), v_set1(mean[d]));
            vf hi =
                v_sub(v_load(xt + (size_t)(d + half) * SC_CHUNK_MAX + i), v_set1(mean[d + half]));
            total = v_add(total, v_add(v_mul(lo, lo), v_mul(hi, hi)));
        }
        v_store(sum + i, total);
    }
}
