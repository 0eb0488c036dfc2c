/* cpu/rows_impl.h - row-wise operations, included by each kernels_*.c. Private to cpu/. */

/* Sixteen partial sums of squares, then the fixed tree of v_sum. */
static void norm_row(float *resid, const float *delta, const float *w, float *y, uint32_t dim,
                     float eps)
{
    vf squares = v_zero();
    for (uint32_t i = 0; i < dim; i += 16) {
        uint32_t n = dim - i < 16 ? dim - i : 16;
        vf x = v_loadn(resid + i, n);
        if (delta != NULL) {
            x = v_add(x, v_loadn(delta + i, n));
            v_storen(resid + i, x, n);
        }
        squares = v_fma(x, x, squares);
    }
    if (y == NULL)
        return;
    vf scale = v_set1(1.0f / sqrtf(v_sum(squares) / (float)dim + eps));
    for (uint32_t i = 0; i < dim; i += 16) {
        uint32_t n = dim - i < 16 ? dim - i : 16;
        vf x = v_mul(v_loadn(resid + i, n), scale);
        v_storen(y + i, v_mul(x, v_loadn(w + i, n)), n);
    }
}

/* x [head_dim] by angles = cos | sin; element i pairs with i + head_dim / 2. */
static void rotate(float *x, const float *angles, uint32_t head_dim)
{
    uint32_t half = head_dim / 2;
    for (uint32_t i = 0; i < half; i += 16) {
        uint32_t n = half - i < 16 ? half - i : 16;
        vf a = v_loadn(x + i, n), b = v_loadn(x + half + i, n);
        vf cosine = v_loadn(angles + i, n), sine = v_loadn(angles + half + i, n);
        v_storen(x + i, v_sub(v_mul(a, cosine), v_mul(b, sine)), n);
        v_storen(x + half + i, v_add(v_mul(b, cosine), v_mul(a, sine)), n);
    }
}

static void swiglu_row(const float *gate, const float *up, float *y, uint32_t n_all)
{
    for (uint32_t i = 0; i < n_all; i += 16) {
        uint32_t n = n_all - i < 16 ? n_all - i : 16;
        vf g = v_loadn(gate + i, n);
        vf e = v_exp(v_sub(v_zero(), g));
        vf silu = v_div(g, v_add(v_set1(1.0f), e));
        v_storen(y + i, v_mul(silu, v_loadn(up + i, n)), n);
    }
}
