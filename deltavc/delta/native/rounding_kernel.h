/* The kernels for one kind of processor; rounding.c includes this several times.
 *
 * ISA names it, TARGET lets the compiler use it, BYTES is the length of a vector; TILE_ROWS rows
 * times two vectors of columns are summed in registers. HALF_LOAD and HALF_ROUND convert float16.
 */

#define LANES (BYTES / 4)
#define WIDE (BYTES / 8)
#define INLINE TARGET __attribute__((always_inline)) static inline

typedef float NAME(vf) __attribute__((vector_size(BYTES)));
typedef double NAME(vd) __attribute__((vector_size(BYTES)));
typedef uint32_t NAME(vu) __attribute__((vector_size(BYTES)));
typedef int32_t NAME(vi) __attribute__((vector_size(BYTES)));
typedef int64_t NAME(vq) __attribute__((vector_size(BYTES)));
typedef uint32_t NAME(vu_any) __attribute__((vector_size(BYTES), aligned(1), may_alias));
typedef float NAME(vf_any) __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef double NAME(vd_any) __attribute__((vector_size(BYTES), aligned(8), may_alias));
/* Half as long: what two vectors of a tile come from and go to. */
typedef float NAME(hf) __attribute__((vector_size(BYTES / 2)));
typedef int32_t NAME(hi) __attribute__((vector_size(BYTES / 2)));
typedef int16_t NAME(hs) __attribute__((vector_size(BYTES / 2)));
typedef float NAME(hf_any) __attribute__((vector_size(BYTES / 2), aligned(1), may_alias));
typedef int16_t NAME(hs_any) __attribute__((vector_size(BYTES / 2), aligned(1), may_alias));

/* Two vectors of one row with elements that are not decided yet, a bit each. */
typedef struct {
    int64_t row, column;
    uint64_t open;
    double sums[2 * WIDE]; /* for float32 targets */
} NAME(mark);

/* A block of rows and columns that is being computed, and what it leaves open. */
typedef struct {
    const form *f;
    const char *base; /* of row 0 */
    char *out;        /* of row first */
    int64_t first;
    NAME(mark) *marks;
    int64_t count;
    list *undecided;
} NAME(block);

/* The sum of one element in float64. */
INLINE double NAME(closer)(const form *f, int64_t i, int64_t j, float w)
{
    const int64_t rank = f->rank;
    const double *left = f->left + i * rank, *right = f->turned + j * rank;
    NAME(vd) sums[4] = {{0}};
    int64_t k = 0;
    for (; k + 4 * WIDE <= rank; k += 4 * WIDE)
        for (int part = 0; part < 4; part++)
            sums[part] = FMA64(*(const NAME(vd_any) *)(left + k + part * WIDE),
                               *(const NAME(vd_any) *)(right + k + part * WIDE), sums[part]);
    for (; k + WIDE <= rank; k += WIDE)
        sums[0] = FMA64(*(const NAME(vd_any) *)(left + k), *(const NAME(vd_any) *)(right + k),
                        sums[0]);
    const NAME(vd) sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    double x = 0;
    for (int lane = 0; lane < WIDE; lane++)
        x += sum[lane];
    for (; k < rank; k++)
        x += left[k] * right[k];
    return x + w;
}

/* Decides what a block left open, or lists it. */
INLINE void NAME(settle)(NAME(block) *b, int dtype)
{
    const form *f = b->f;
    for (int64_t n = 0; n < b->count; n++) {
        const NAME(mark) *mark = b->marks + n;
        for (uint64_t open = mark->open; open; open &= open - 1) {
            const int lane = __builtin_ctzll(open);
            /* bfloat16 has its even columns in the first vector. */
            const int c = dtype == BF16 ? lane % LANES * 2 + lane / LANES : lane;
            const int64_t i = mark->row, j = mark->column + c;
            if (j >= f->columns)
                continue;
            const uint32_t base = load_bits(b->base, i * f->columns + j, dtype);
            const float w = widen(base, dtype);
            const double x = dtype == F32 ? mark->sums[c] : NAME(closer)(f, i, j, w);
            uint32_t result = 0;
            if (decide(f, i, j, w, x, base, &result))
                store_bits(b->out, (i - b->first) * f->columns + j, result, dtype);
            else
                b->undecided->places[b->undecided->count++] =
                    i * f->columns + j - b->undecided->base;
        }
    }
    b->count = 0;
}

INLINE void NAME(widen_halves)(const char *from, NAME(vf) w[2])
{
#ifdef HALF_LOAD
    w[0] = HALF_LOAD(from);
    w[1] = HALF_LOAD(from + BYTES / 2);
#else
    float values[2 * LANES];
    for (int c = 0; c < 2 * LANES; c++)
        values[c] = widen(load_bits(from, c, F16), F16);
    memcpy(w, values, sizeof values);
#endif
}

/* Rounds both ends to float16; open where they differ or are not finite. */
INLINE void NAME(round_halves)(const NAME(vf) high[2], const NAME(vf) low[2], char *out,
                               NAME(vu) open[2])
{
#ifdef HALF_ROUND
    typedef NAME(hs) hs;
    for (int part = 0; part < 2; part++) {
        const hs one = (hs)HALF_ROUND(high[part]), two = (hs)HALF_ROUND(low[part]);
        const hs differ = (hs)(one != two) | (hs)((one & 0x7fff) > 0x7bff);
        *(NAME(hs_any) *)(out + part * (BYTES / 2)) = one;
        open[part] = (NAME(vu))__builtin_convertvector(differ, NAME(vi));
    }
#else
    for (int c = 0; c < 2 * LANES; c++) {
        const uint32_t one = round_once(high[c / LANES][c % LANES], F16);
        const uint32_t two = round_once(low[c / LANES][c % LANES], F16);
        store_bits(out, c, one, F16);
        open[c / LANES][c % LANES] = one != two || (one & 0x7fff) >= 0x7c00 ? UINT32_MAX : 0;
    }
#endif
}

/* One tile of a 16-bit target: rows from `row` on, columns of one panel. */
INLINE void NAME(tile_single)(NAME(block) *b, const char *base, char *out, int64_t stride,
                              int64_t row, int64_t column, const float *panel, int dtype)
{
    typedef NAME(vf) vf;
    typedef NAME(vu) vu;
    const form *f = b->f;
    const float *left = (const float *)f->packed + row * f->rank;
    vf sum[TILE_ROWS][2];
    for (int m = 0; m < TILE_ROWS; m++)
        sum[m][0] = sum[m][1] = (vf){0};
    const float *end = left + TILE_ROWS * f->rank;
    for (; left < end; left += TILE_ROWS, panel += 2 * LANES) {
        const vf one = *(const NAME(vf_any) *)panel;
        const vf two = *(const NAME(vf_any) *)(panel + LANES);
#pragma GCC unroll 8
        for (int m = 0; m < TILE_ROWS; m++) {
            const vf factor = left[m] - (vf){0};
            sum[m][0] = FMA32(factor, one, sum[m][0]);
            sum[m][1] = FMA32(factor, two, sum[m][1]);
        }
    }
    const float *norms = f->column_singles + column, *errors = f->row_errors + row;
    const vf floor = (float)f->floor_single - (vf){0}, slack = SLACK32 - (vf){0};
    const vf norm_one = *(const NAME(vf_any) *)norms;
    const vf norm_two = *(const NAME(vf_any) *)(norms + LANES);
    const vu top = 0xffff0000u - (vu){0}, rest = 0x7fffffffu - (vu){0}, half = 0x8000u - (vu){0};
    int64_t count = b->count;
#pragma GCC unroll 8
    for (int m = 0; m < TILE_ROWS; m++) {
        const vf error = errors[m] - (vf){0};
        vf w[2];
        if (dtype == BF16) {
            const vu raw = *(const NAME(vu_any) *)(base + m * stride);
            w[0] = (vf)(raw << 16);
            w[1] = (vf)(raw & top);
        } else {
            NAME(widen_halves)(base + m * stride, w);
        }
        const vf x0 = sum[m][0] + w[0], x1 = sum[m][1] + w[1];
        const vf e0 = FMA32((vf)((vu)x0 & rest), slack, FMA32(error, norm_one, floor));
        const vf e1 = FMA32((vf)((vu)x1 & rest), slack, FMA32(error, norm_two, floor));
        vu open[2];
        if (dtype == BF16) {
            /* Both ends are in one cell, between two boundaries, if what is above their low
             * halves is the same once half a step is added. */
            const vu high0 = (vu)(x0 + e0) + half, high1 = (vu)(x1 + e1) + half;
            const vu low0 = (vu)(x0 - e0) + half, low1 = (vu)(x1 - e1) + half;
            open[0] = (vu)(((high0 ^ low0) & top) != 0) | (vu)(x0 != x0);
            open[1] = (vu)(((high1 ^ low1) & top) != 0) | (vu)(x1 != x1);
            *(NAME(vu_any) *)(out + m * stride) = (high0 >> 16) | (high1 & top);
        } else {
            const vf high[2] = {x0 + e0, x1 + e1}, low[2] = {x0 - e0, x1 - e1};
            NAME(round_halves)(high, low, out + m * stride, open);
        }
        NAME(mark) *mark = b->marks + count;
        mark->row = row + m;
        mark->column = column;
        mark->open = MASK(open[0]) | (uint64_t)MASK(open[1]) << LANES;
        count += mark->open != 0;
    }
    b->count = count;
}

/* One tile of a float32 target. */
INLINE void NAME(tile_double)(NAME(block) *b, const char *base, char *out, int64_t stride,
                              int64_t row, int64_t column, const double *panel)
{
    typedef NAME(vd) vd;
    typedef NAME(vq) vq;
    typedef NAME(hf) hf;
    typedef NAME(hi) hi;
    const form *f = b->f;
    const double *left = (const double *)f->packed + row * f->rank;
    vd sum[TILE_ROWS][2];
    for (int m = 0; m < TILE_ROWS; m++)
        sum[m][0] = sum[m][1] = (vd){0};
    const double *end = left + TILE_ROWS * f->rank;
    for (; left < end; left += TILE_ROWS, panel += 2 * WIDE) {
        const vd one = *(const NAME(vd_any) *)panel;
        const vd two = *(const NAME(vd_any) *)(panel + WIDE);
#pragma GCC unroll 8
        for (int m = 0; m < TILE_ROWS; m++) {
            const vd factor = left[m] - (vd){0};
            sum[m][0] = FMA64(factor, one, sum[m][0]);
            sum[m][1] = FMA64(factor, two, sum[m][1]);
        }
    }
    const double *norms = f->column_norms + column;
    const vd floor = f->floor - (vd){0}, slack = SLACK64 - (vd){0}, gamma = f->gamma - (vd){0};
    const vq rest = INT64_MAX - (vq){0};
    int64_t count = b->count;
#pragma GCC unroll 8
    for (int m = 0; m < TILE_ROWS; m++) {
        const vd error = gamma * f->row_norms[row + m];
        NAME(mark) *mark = b->marks + count;
        uint64_t opens = 0;
#pragma GCC unroll 2
        for (int part = 0; part < 2; part++) {
            const hf w = *(const NAME(hf_any) *)(base + m * stride + part * (BYTES / 2));
            const vd norm = *(const NAME(vd_any) *)(norms + part * WIDE);
            const vd x = sum[m][part] + __builtin_convertvector(w, vd);
            const vd e = FMA64((vd)((vq)x & rest), slack, FMA64(error, norm, floor));
            const hf high = __builtin_convertvector(x + e, hf);
            const hf low = __builtin_convertvector(x - e, hf);
            *(NAME(hf_any) *)(out + m * stride + part * (BYTES / 2)) = high;
            *(NAME(vd_any) *)(mark->sums + part * WIDE) = x;
            const hi open = (hi)((hi)high != (hi)low) | (hi)(high != high);
            opens |= (uint64_t)MASK_HALF(open) << part * WIDE;
        }
        mark->row = row + m;
        mark->column = column;
        mark->open = opens;
        count += opens != 0;
    }
    b->count = count;
}

/* A tile at an edge, with rows [low, high) of its own and perhaps fewer columns: done beside. */
TARGET __attribute__((noinline)) static void
NAME(edge)(NAME(block) *b, int64_t row, int low, int high, int64_t column, const void *panel,
           int dtype)
{
    const int64_t width = dtype == F32 ? 2 * WIDE : 2 * LANES, size = BYTES / width;
    const int64_t columns = b->f->columns, there = columns - column;
    const size_t part = (size_t)((there < width ? there : width) * size);
    char from[TILE_ROWS][BYTES] = {{0}}, to[TILE_ROWS][BYTES];
    for (int m = low; m < high; m++)
        memcpy(from[m], b->base + ((row + m) * columns + column) * size, part);
    const int64_t before = b->count;
    if (dtype == F32)
        NAME(tile_double)(b, from[0], to[0], BYTES, row, column, panel);
    else if (dtype == F16)
        NAME(tile_single)(b, from[0], to[0], BYTES, row, column, panel, F16);
    else
        NAME(tile_single)(b, from[0], to[0], BYTES, row, column, panel, BF16);
    for (int m = low; m < high; m++)
        memcpy(b->out + ((row + m - b->first) * columns + column) * size, to[m], part);
    int64_t kept = before;
    for (int64_t n = before; n < b->count; n++)
        if (b->marks[n].row >= row + low && b->marks[n].row < row + high)
            b->marks[kept++] = b->marks[n];
    b->count = kept;
}

/* Rows [start, stop), few enough to stay in the second cache, in blocks of columns. */
INLINE void NAME(fill)(NAME(block) *b, int64_t start, int64_t stop, int dtype)
{
    const form *f = b->f;
    const int64_t width = dtype == F32 ? 2 * WIDE : 2 * LANES, size = BYTES / width;
    const int64_t panels = (f->columns + width - 1) / width, full = f->columns / width;
    const int64_t panel_bytes = f->rank * width * (dtype == F32 ? 8 : 4);
    const int64_t most = BLOCK_PANELS, fit = BLOCK_BYTES / panel_bytes;
    const int64_t step = fit < 1 ? 1 : fit < most ? fit : most, stride = f->columns * size;
    for (int64_t first = 0; first < panels; first += step) {
        const int64_t last = panels - first < step ? panels : first + step;
        for (int64_t row = start - start % TILE_ROWS; row < stop; row += TILE_ROWS) {
            const int low = row < start ? (int)(start - row) : 0;
            const int high = stop - row < TILE_ROWS ? (int)(stop - row) : TILE_ROWS;
            const char *base = b->base + row * stride, *factors = f->panels;
            for (int64_t at = first; at < last; at++) {
                const void *panel = factors + at * panel_bytes;
                char *out = b->out + (row - b->first) * stride + at * BYTES;
                if (low || high < TILE_ROWS || at >= full)
                    NAME(edge)(b, row, low, high, at * width, panel, dtype);
                else if (dtype == F32)
                    NAME(tile_double)(b, base + at * BYTES, out, stride, row, at * width, panel);
                else
                    NAME(tile_single)(b, base + at * BYTES, out, stride, row, at * width, panel,
                                      dtype);
            }
        }
        NAME(settle)(b, dtype);
    }
}

TARGET static void NAME(chunk)(const form *f, const void *base, void *out, int64_t start,
                               int64_t stop, list *undecided)
{
    NAME(mark) marks[BLOCK_PANELS * (ROW_CHUNK + 2 * TILE_ROWS)];
    NAME(block) b = {f, base, out, start, marks, 0, undecided};
    if (f->dtype == BF16)
        NAME(fill)(&b, start, stop, BF16);
    else if (f->dtype == F16)
        NAME(fill)(&b, start, stop, F16);
    else
        NAME(fill)(&b, start, stop, F32);
}

#undef LANES
#undef WIDE
#undef INLINE
#undef ISA
#undef TARGET
#undef BYTES
#undef TILE_ROWS
#undef HALF_LOAD
#undef HALF_ROUND
#undef FMA32
#undef FMA64
#undef MASK
#undef MASK_HALF
