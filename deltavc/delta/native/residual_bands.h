/* Residuals in bands of the base's exponent, for elements of BITS bits: see residual_kernel.h. */

#define LANED (HAS_LANES && BITS < 64)

/* How many of at most CHUNK elements are in each band. */
static inline void OWN(tally)(const LOOSE *base, int64_t n, const banding *by, int64_t *counts)
{
    const U magnitude = (U)((U)~(U)0 >> 1);
    counts[0] = n;
    for (int band = 1; band < by->bands; band++) {
        const U edge = (U)by->edges[band - 1];
        U reach = 0; /* CHUNK fits the smallest U */
        for (int64_t i = 0; i < n; i++)
            reach = (U)(reach + ((base[i] & magnitude) >= edge));
        counts[band] = reach;
        counts[band - 1] -= reach;
    }
}

/* Finds where each band begins and ends. */
CLONES static void NAME(find_bands)(const LOOSE *base, int64_t n, banding *by)
{
    int64_t at = 0, counts[MAX_BANDS];
    memset(by->end, 0, sizeof by->end);
    for (; at < n; at += CHUNK) {
        OWN(tally)(base + at, n - at < CHUNK ? n - at : CHUNK, by, counts);
        for (int band = 0; band < by->bands; band++)
            by->end[band] += counts[band];
    }
    at = 0;
    for (int band = 0; band < by->bands; band++) {
        by->head[band] = at;
        by->end[band] = at += by->end[band];
    }
    by->stride = n;
}

/* How many residuals do not fit a number of bytes: those of all ones mean that, too. */
CLONES int64_t NAME(over)(const U *folded, int64_t n, int64_t width)
{
    const U limit = (U)(((uint64_t)1 << (8 * width)) - 1);
    int64_t found = 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        U some = 0;
        for (int64_t i = 0; i < m; i++)
            some = (U)(some + (folded[at + i] >= limit));
        found += some;
    }
    return found;
}

static inline int OWN(band)(U bits, const banding *by)
{
    const U magnitude = (U)(bits & (U)((U)~(U)0 >> 1));
    int band = 0;
    for (int i = 1; i < by->bands; i++)
        band += magnitude >= (U)by->edges[i - 1];
    return band;
}

#if LANED
INSIDE int OWN(arrange_in)(const int bands, const U *folded, const LOOSE *base, int64_t n,
                           banding *by, U *arranged)
{
    OWN(lanes) edges[MAX_BANDS];
    U *next[MAX_BANDS];
    for (int band = 0; band < bands; band++) {
        edges[band] = OWN(edge)(band ? by->edges[band - 1] : 1);
        next[band] = arranged + by->head[band];
    }
    for (int64_t i = 0; i < n; i += 8) {
        const OWN(lanes) eight = OWN(magnitudes)(base + i);
        int reach = 0xff;
        for (int band = 0; band < bands; band++) {
            const int above = band + 1 < bands ? OWN(reach)(eight, edges[band + 1]) : 0;
            OWN(pack)(folded + i, reach ^ above, next[band]);
            next[band] += __builtin_popcount((unsigned)(reach ^ above));
            reach = above;
        }
    }
    for (int band = 0; band < bands; band++)
        by->head[band] = next[band] - arranged;
    return 1;
}

/* Does as arrange for a multiple of eight elements. */
WIDE static void OWN(arrange_eights)(const U *folded, const LOOSE *base, int64_t n, banding *by,
                                     U *arranged)
{
    BY_BANDS(OWN(arrange_in), by->bands, folded, base, n, by, arranged);
}
#endif

/* The elements of each band from its head on, which moves; behind each, seven more are written. */
static void NAME(arrange)(const U *folded, const LOOSE *base, int64_t n, banding *by, U *arranged)
{
    int64_t done = 0;
#if LANED
    if (has_lanes(BITS)) {
        done = n & ~(int64_t)7;
        OWN(arrange_eights)(folded, base, done, by, arranged);
    }
#endif
    for (int64_t i = done; i < n; i++)
        arranged[by->head[OWN(band)(base[i], by)]++] = folded[i];
}

/* Byte planes of a run of arranged elements; those that do not fit become all ones and go to the
 * escapes, whose number is returned. Planes are stride apart. */
CLONES static int64_t NAME(narrow)(const U *arranged, int64_t n, int64_t width, uint8_t *planes,
                            int64_t stride, U *escapes)
{
    const int whole = width == BYTES;
    const U limit = whole ? (U)~(U)0 : (U)(((uint64_t)1 << (8 * (width & 7))) - 1);
    int64_t escaped = 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        for (int64_t byte = 0; byte < width; byte++) {
            uint8_t *plane = planes + byte * stride + at;
            for (int64_t i = 0; i < m; i++) {
                const U one = arranged[at + i];
                plane[i] = (uint8_t)((one >= limit ? limit : one) >> (8 * byte));
            }
        }
        for (int64_t first = 0; first < m && !whole; first += FEW) {
            const int64_t end = m - first < FEW ? m : first + FEW;
            U over = 0;
            for (int64_t i = first; i < end; i++)
                over |= (U)(arranged[at + i] >= limit);
            for (int64_t i = first; over && i < end; i++)
                if (arranged[at + i] >= limit)
                    escapes[escaped++] = arranged[at + i];
        }
    }
    return escaped;
}

/* Byte planes of the elements in the order of their bands, and the escapes.
 *
 * arranged has room for n + 8 * bands elements, escapes for as many as `over` counts. */
void NAME(to_bands)(const U *folded, const LOOSE *base, int64_t n, banding *by, U *arranged,
                    uint8_t *planes, U *escapes)
{
    int64_t starts[MAX_BANDS];
    if (by->bands == 1) {
        NAME(narrow)(folded, n, by->width, planes, n, escapes);
        return;
    }
    NAME(find_bands)(base, n, by);
    for (int band = 0; band < by->bands; band++) {
        starts[band] = by->head[band];
        by->head[band] += 8 * band;
    }
    NAME(arrange)(folded, base, n, by, arranged);
    for (int band = 0; band < by->bands; band++)
        escapes += NAME(narrow)(arranged + starts[band] + 8 * band, by->end[band] - starts[band],
                                by->width, planes + starts[band], n, escapes);
}

/* How many of some elements are all ones in every plane. */
static inline int64_t OWN(ones)(const uint8_t *planes, int64_t stride, int64_t n, int64_t width)
{
    int64_t found = 0;
    for (int64_t at = 0; at < n; at += SHORT) {
        const int64_t m = n - at < SHORT ? n - at : SHORT;
        uint8_t all[SHORT], some = 0;
        memcpy(all, planes + at, (size_t)m);
        for (int64_t byte = 1; byte < width; byte++)
            for (int64_t i = 0; i < m; i++)
                all[i] &= planes[byte * stride + at + i];
        for (int64_t i = 0; i < m; i++)
            some = (uint8_t)(some + (all[i] == 0xff));
        found += some;
    }
    return found;
}

/* Finds where each band begins, and its escapes; tells whether there are just so many of these. */
CLONES int64_t NAME(open_bands)(const LOOSE *base, int64_t n, banding *by, int64_t escaped)
{
    int64_t used = 0;
    NAME(find_bands)(base, n, by);
    for (int band = 0; band < by->bands; band++) {
        by->escape[band] = used;
        if (by->width < BYTES)
            used += OWN(ones)(by->planes + by->head[band], n, by->end[band] - by->head[band],
                              by->width);
        by->escape_end[band] = used;
    }
    return used == escaped;
}

static inline void OWN(gather_some)(const uint8_t *planes, int64_t stride, int64_t n, int width,
                                    U *out)
{
    for (int64_t i = 0; i < n; i++) {
        U one = 0;
        for (int byte = 0; byte < width; byte++)
            one |= (U)((U)planes[byte * stride + i] << (8 * byte));
        out[i] = one;
    }
}

/* The next elements of a band, widened, with their escapes; tells whether they were there. */
static inline int OWN(next)(banding *by, int band, int64_t n, U *out)
{
    const int64_t at = by->head[band];
    if (n > by->end[band] - at)
        return 0; /* the base changed in the meantime */
    const uint8_t *planes = by->planes + at;
    if (by->width == BYTES)
        OWN(gather)(planes, by->stride, n, out);
    else if (by->width == BYTES - 1)
        OWN(gather_some)(planes, by->stride, n, BYTES - 1, out);
    else
        OWN(gather_some)(planes, by->stride, n, (int)by->width, out);
    by->head[band] = at + n;
    if (by->width == BYTES)
        return 1;
    const U limit = (U)(((uint64_t)1 << (8 * (by->width & 7))) - 1);
    for (int64_t first = 0; first < n; first += FEW) {
        const int64_t end = n - first < FEW ? n : first + FEW;
        U some = 0;
        for (int64_t i = first; i < end; i++)
            some |= (U)(out[i] == limit);
        for (int64_t i = first; some && i < end; i++)
            if (out[i] == limit) {
                if (by->escape[band] == by->escape_end[band])
                    return 0;
                memcpy(&out[i], by->escapes + BYTES * by->escape[band]++, BYTES);
            }
    }
    return 1;
}

#if LANED
INSIDE int OWN(scatter_in)(const int bands, const LOOSE *base, int64_t n, banding *by,
                          const U **shelves, U *folded)
{
    OWN(lanes) edges[MAX_BANDS];
    const U *next[MAX_BANDS];
    for (int band = 0; band < bands; band++) {
        edges[band] = OWN(edge)(band ? by->edges[band - 1] : 1);
        next[band] = shelves[band];
    }
    for (int64_t i = 0; i < n; i += 8) {
        const OWN(lanes) eight = OWN(magnitudes)(base + i);
        OWN(lanes) found = OWN(none)();
        int reach = 0xff;
        for (int band = 0; band < bands; band++) {
            const int above = band + 1 < bands ? OWN(reach)(eight, edges[band + 1]) : 0;
            found = OWN(spread)(found, next[band], reach ^ above);
            next[band] += __builtin_popcount((unsigned)(reach ^ above));
            reach = above;
        }
        OWN(keep)(found, folded + i);
    }
    for (int band = 0; band < bands; band++)
        shelves[band] = next[band];
    return 1;
}

/* Does as scatter for a multiple of eight elements. */
WIDE static void OWN(scatter_eights)(const LOOSE *base, int64_t n, banding *by,
                                     const U **shelves, U *folded)
{
    BY_BANDS(OWN(scatter_in), by->bands, base, n, by, shelves, folded);
}
#endif

/* The residuals of at most CHUNK elements in their own order. */
static inline int OWN(scatter)(const LOOSE *base, int64_t n, banding *by, U *folded)
{
    U room[CHUNK + 8 * MAX_BANDS], *at = room; /* lanes look ahead */
    const U *shelves[MAX_BANDS];
    int64_t counts[MAX_BANDS], done = 0;
    if (by->bands == 1)
        return OWN(next)(by, 0, n, folded);
    OWN(tally)(base, n, by, counts);
    for (int band = 0; band < by->bands; band++) {
        shelves[band] = at;
        if (!OWN(next)(by, band, counts[band], at))
            return 0;
        at += counts[band] + 8;
    }
#if LANED
    if (has_lanes(BITS)) {
        done = n & ~(int64_t)7;
        OWN(scatter_eights)(base, done, by, shelves, folded);
    }
#endif
    for (int64_t i = done; i < n; i++)
        folded[i] = *shelves[OWN(band)(base[i], by)]++;
    return 1;
}

/* Rebuilds elements from bands that open_bands found right; the heads move on. */
CLONES int64_t NAME(from_bands)(const LOOSE *predicted, const LOOSE *base, int64_t n,
                                const drift *by, banding *cursor, LOOSE *out,
                                const LOOSE *expected)
{
    U differing = 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        U folded[CHUNK];
        if (!OWN(scatter)(base + at, m, cursor, folded))
            return 0;
        differing |= OWN(finish)(predicted + at, folded, m, by, out ? out + at : 0,
                                 expected ? expected + at : 0);
    }
    return !differing;
}

#undef LANED
