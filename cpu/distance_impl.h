/* cpu/distance_impl.h - pairwise distances of a chunk, included by each kernels_*.c. Private to
 * cpu/.
 *
 * |x - y|^2 = |x|^2 + |y|^2 - 2 x.y: one multiply-add for a pair and dimension. What cancels is as
 * long as the keys, so they are first moved near the origin. Lanes run over tokens j, so each
 * product is one chain of operations over d, the same for every shape; norms are the same chain.
 * Hence equal keys are at exactly 0, and the sum is bit for bit symmetric. A key whose square is
 * not finite is at the cap from all, itself included.
 *
 * Register tiles: DIST_ROWS x DIST_COLS vf, of simd_*.h. */

INLINE void centre_block(float *xt, const float *centre, uint32_t left, uint32_t head_dim,
                         float *norm2)
{
    vf norm = v_zero();
    for (uint32_t d = 0; d < head_dim; d++) {
        float *at = xt + (size_t)d * SC_CHUNK_MAX;
        vf x = v_sub(left == 16 ? v_load(at) : v_loadn(at, left), v_set1(centre[d]));
        v_store(at, x);
        norm = v_fma(x, x, norm);
    }
    v_store(norm2, norm);
}

static void centre_keys(float *xt, const float *centre, uint32_t m, uint32_t head_dim, float *norm2)
{
    uint32_t t = 0;
    for (; t + 16 <= m; t += 16)
        centre_block(xt + t, centre, 16, head_dim, norm2 + t);
    if (t < m)
        centre_block(xt + t, centre, m - t, head_dim, norm2 + t);
}

/* Pairs of i0 .. i0 + DIST_ROWS and j0 .. j0 + 16 cols. */
INLINE void dist_block(const struct sc_cpu_dist *a, const uint32_t cols, uint32_t i0, uint32_t j0)
{
    vf acc[DIST_ROWS][DIST_COLS], xj[DIST_COLS];

#pragma GCC unroll 8
    for (uint32_t r = 0; r < DIST_ROWS; r++)
#pragma GCC unroll 2
        for (uint32_t c = 0; c < cols; c++)
            acc[r][c] = v_zero();
    for (uint32_t d = 0; d < a->head_dim; d++) {
        const float *x = a->xt + (size_t)d * SC_CHUNK_MAX;
#pragma GCC unroll 2
        for (uint32_t c = 0; c < cols; c++)
            xj[c] = v_load(x + j0 + 16 * c);
#pragma GCC unroll 8
        for (uint32_t r = 0; r < DIST_ROWS; r++)
#pragma GCC unroll 2
            for (uint32_t c = 0; c < cols; c++)
                acc[r][c] = v_fma(v_set1(x[i0 + r]), xj[c], acc[r][c]);
    }
#pragma GCC unroll 8
    for (uint32_t r = 0; r < DIST_ROWS; r++) {
        const uint32_t i = i0 + r;
        if (i >= a->m)
            break;
#pragma GCC unroll 2
        for (uint32_t c = 0; c < cols; c++) {
            const uint32_t j = j0 + 16 * c, left = a->m - j;
            const vf x2 = v_set1(a->norm2[i]), y2 = v_load(a->norm2 + j);
            vf dist;
            if (a->cosine)
                dist = v_sub(v_set1(1.0f), v_div(acc[r][c], v_sqrt(v_mul(x2, y2))));
            else
                dist = v_mul(v_fma(v_set1(-2.0f), acc[r][c], v_add(x2, y2)), v_set1(a->inv_var));
            v_add_quantised(v_mul(dist, v_set1(SC_DIST_ONE)), a->cap,
                            a->dist + (size_t)i * a->m + j, left < 16 ? left : 16);
        }
    }
}

static void distances(const struct sc_cpu_dist *a)
{
    for (uint32_t i0 = 0; i0 < a->m; i0 += DIST_ROWS) {
        uint32_t j0 = i0 / 16 * 16;
        for (; j0 + 16 * (DIST_COLS - 1) < a->m; j0 += 16 * DIST_COLS)
            dist_block(a, DIST_COLS, i0, j0);
        for (; j0 < a->m; j0 += 16)
            dist_block(a, 1, i0, j0);
    }
}
