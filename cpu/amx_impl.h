/* cpu/amx_impl.h - the matrix unit's tiles, for the kernels that multiply with it. Private to cpu/.
 *
 * Tiles 0-3 accumulate, 4-5 hold rows of activations, 6-7 weights or entries. Each call configures
 * the unit for itself and leaves it released. Included after bf16_impl.h.
 */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* What was written before is in memory: gcc's tile loads do not tell the compiler that they read.
 */
INLINE void written(void)
{
    __asm__ volatile("" : : : "memory");
}

/* Row counts of the two tiles of activations and of what they accumulate: 0 and 1 belong to 4, 2
 * and 3 to 5, unless `wide`: then all four belong to 4. n_in: what one step sums over, 32 or less.
 */
static void tiles_open(uint32_t rows, uint32_t rows2, bool wide, uint32_t n_in)
{
    struct tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        bool second = !wide && (i == 2 || i == 3 || i == 5);
        c.row_bytes[i] = (uint16_t)(i == 4 || i == 5 ? 2 * n_in : 64);
        c.rows[i] = (uint8_t)(i >= 6 ? n_in / 2 : second ? (rows2 == 0 ? 1 : rows2) : rows);
    }
    __asm__ volatile("" : : "r"(&c) : "memory"); /* all of it, where gcc tells of eight bytes */
    _tile_loadconfig(&c);
}

#define W_STEP (16 * SC_CPU_PANEL) /* words of a panel in one step of 32 inputs */
#define W_ROW  (SC_CPU_PANEL * 4)  /* bytes */

INLINE void zero_sums(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* 32 inputs of up to 16 rows into all 64 outputs. */
INLINE void step_one(const uint32_t *x, const uint32_t *w)
{
    _tile_loadd(4, x, 64);
    _tile_loadd(6, w, W_ROW);
    _tile_loadd(7, w + 16, W_ROW);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, w + 32, W_ROW);
    _tile_loadd(7, w + 48, W_ROW);
    _tile_dpbf16ps(2, 4, 6);
    _tile_dpbf16ps(3, 4, 7);
}

INLINE void store_one(float *y, size_t ys)
{
    _tile_stored(0, y, ys * 4);
    _tile_stored(1, y + 16, ys * 4);
    _tile_stored(2, y + 32, ys * 4);
    _tile_stored(3, y + 48, ys * 4);
}

/* y += bias, where there is one. */
INLINE void add_bias(const struct sc_cpu_mm *mm, float *y, size_t ys, uint32_t rows)
{
    for (uint32_t r = 0; mm->bias != NULL && r < rows; r++) {
        for (uint32_t c = 0; c < SC_CPU_PANEL; c += 16)
            v_store(y + r * ys + c, v_add(v_load(y + r * ys + c), v_load(mm->bias + c)));
    }
}
