/* The loops of residual.c for elements of BITS bits. */

#define U JOIN(uint, BITS, _t)
#define S JOIN(int, BITS, _t)
#define NAME(what) JOIN(deltavc_, what, JOIN(_, BITS, ))
#define OWN(what) JOIN(what, _, BITS)
#define BYTES (BITS / 8)
#define LOOSE JOIN(loose, BITS, )

typedef U LOOSE __attribute__((aligned(1), may_alias)); /* tensors begin anywhere in a file */

static inline U OWN(sign)(U bits) { return (U)((S)bits >> (BITS - 1)); }

static inline U OWN(ordinal)(U bits) { return (U)(bits ^ (U)(OWN(sign)(bits) >> 1)); }

static inline U OWN(fold)(U step) { return (U)((U)(step << 1) ^ OWN(sign)(step)); }

static inline U OWN(unfold)(U folded) { return (U)((folded >> 1) ^ (U)(0 - (folded & 1))); }

/* Predicted ordinals of at most CHUNK elements. */
static inline void OWN(predict)(const LOOSE *base, int64_t n, const drift *by, U *out)
{
    if (!by) {
        for (int64_t i = 0; i < n; i++)
            out[i] = OWN(ordinal)(base[i]);
        return;
    }
    const LOOSE *table = by->table;
    const int shift = (int)by->shift;
    const U mask = (U)by->mask;
    for (int64_t i = 0; i < n; i++)
        out[i] = table[(base[i] >> shift) & mask];
    for (int64_t i = 0; i < n; i++) {
        const U away = OWN(sign)(base[i]);
        out[i] = (U)((U)(out[i] ^ away) - away + OWN(ordinal)(base[i]));
    }
}

/* Folded differences between a tensor and its prediction, and what is to be known of them. */
CLONES void NAME(measure)(const LOOSE *base, const LOOSE *fresh, int64_t n, const drift *by,
                          U *folded, summary *found)
{
    const U magnitude = (U)((U)~(U)0 >> 1);
    U any = 0, top_base = 0, top_fresh = 0;
    int64_t same = 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        U ordinals[CHUNK], zeros = 0; /* CHUNK fits the smallest U */
        OWN(predict)(base + at, m, by, ordinals);
        for (int64_t i = 0; i < m; i++) {
            const U one = OWN(fold)((U)(OWN(ordinal)(fresh[at + i]) - ordinals[i]));
            folded[at + i] = one;
            any |= one;
            zeros = (U)(zeros + (one == 0));
        }
        for (int64_t i = 0; i < m; i++) {
            const U b = base[at + i] & magnitude, f = fresh[at + i] & magnitude;
            top_base = b > top_base ? b : top_base;
            top_fresh = f > top_fresh ? f : top_fresh;
        }
        same += zeros;
    }
    found->changed = n - same;
    found->any = any;
    found->top_base = top_base;
    found->top_fresh = top_fresh;
}

/* Byte planes, one behind the other, lowest byte first. */
CLONES void NAME(split)(const U *folded, int64_t n, uint8_t *planes)
{
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        for (int byte = 0; byte < BYTES; byte++) {
            uint8_t *plane = planes + byte * n + at;
            for (int64_t i = 0; i < m; i++)
                plane[i] = (uint8_t)(folded[at + i] >> (8 * byte));
        }
    }
}

/* How many elements of a base have each exponent, lane by lane. */
void NAME(count)(const LOOSE *base, int64_t n, int shift, uint64_t mask, int64_t *restrict counts)
{
    const int64_t each = n / LANES, groups = (int64_t)mask + 1;
    for (int64_t i = 0; i < each; i++)
        for (int lane = 0; lane < LANES; lane++)
            counts[lane * groups + (int64_t)((base[lane * each + i] >> shift) & mask)]++;
    for (int64_t i = LANES * each; i < n; i++)
        counts[(LANES - 1) * groups + (int64_t)((base[i] >> shift) & mask)]++;
}

/* The elements ordered by the base's exponent; heads say where each lane's go. */
void NAME(group)(const U *restrict folded, const LOOSE *restrict base, int64_t n, int shift,
                 uint64_t mask, int64_t *restrict heads, U *restrict grouped)
{
    const int64_t each = n / LANES, groups = (int64_t)mask + 1;
    for (int64_t i = 0; i < each; i++)
        for (int lane = 0; lane < LANES; lane++) {
            const int64_t from = lane * each + i;
            grouped[heads[lane * groups + (int64_t)((base[from] >> shift) & mask)]++] =
                folded[from];
        }
    for (int64_t i = LANES * each; i < n; i++)
        grouped[heads[(LANES - 1) * groups + (int64_t)((base[i] >> shift) & mask)]++] = folded[i];
}

/* Distances and values of the elements that are not zero; returns how many distances are long.
 *
 * Every element is written and the ends move on for those that count, since which do cannot be
 * foreseen: there must be room for one more of both, and values for a whole element. */
int64_t NAME(gaps)(const U *restrict folded, int64_t n, int64_t width, uint8_t *restrict gaps,
                   uint64_t *restrict escapes, uint8_t *restrict values)
{
    int64_t escaped = 0, last = -1;
    for (int64_t at = 0; at < n; at += 16) {
        const int64_t m = n - at < 16 ? n - at : 16;
        U any = 0;
        for (int64_t i = 0; i < m; i++)
            any |= folded[at + i];
        if (!any)
            continue;
        for (int64_t i = at; i < at + m; i++) {
            const U one = folded[i];
            const int64_t counts = one != 0;
            const int64_t distance = i - last - 1;
            const int64_t is_long = distance >= ESCAPE;
            *gaps = is_long ? ESCAPE : (uint8_t)distance;
            if (counts & is_long)
                escapes[escaped++] = (uint64_t)distance;
            *(LOOSE *)values = one;
            gaps += counts;
            values += counts * width;
            last = counts ? i : last;
        }
    }
    return escaped;
}

/* Puts residuals on predictions: writes the result, or tells whether it is the expected one. */
static inline U OWN(finish)(const LOOSE *base, const U *folded, int64_t n, const drift *by,
                            LOOSE *out, const LOOSE *expected)
{
    U ordinals[CHUNK], differing = 0;
    OWN(predict)(base, n, by, ordinals);
    if (expected)
        for (int64_t i = 0; i < n; i++)
            differing |= (U)(OWN(ordinal)((U)(ordinals[i] + OWN(unfold)(folded[i]))) ^ expected[i]);
    else
        for (int64_t i = 0; i < n; i++)
            out[i] = OWN(ordinal)((U)(ordinals[i] + OWN(unfold)(folded[i])));
    return differing;
}

static inline void OWN(gather)(const uint8_t *planes, int64_t stride, int64_t n, U *out)
{
    for (int64_t i = 0; i < n; i++) {
        U one = 0;
        for (int byte = 0; byte < BYTES; byte++)
            one |= (U)((U)planes[byte * stride + i] << (8 * byte));
        out[i] = one;
    }
}

/* Takes back split. */
CLONES void NAME(join)(const uint8_t *planes, int64_t n, U *out)
{
    for (int64_t at = 0; at < n; at += CHUNK)
        OWN(gather)(planes + at, n, n - at < CHUNK ? n - at : CHUNK, out + at);
}

/* Rebuilds elements from byte planes; where something is expected, returns whether it came out. */
CLONES int64_t NAME(from_planes)(const LOOSE *base, int64_t n, const drift *by,
                                 const uint8_t *planes, int64_t stride, LOOSE *out,
                                 const LOOSE *expected)
{
    U differing = 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        U folded[CHUNK];
        OWN(gather)(planes + at, stride, m, folded);
        differing |= OWN(finish)(base + at, folded, m, by, out ? out + at : 0,
                                 expected ? expected + at : 0);
    }
    return !differing;
}

/* Likewise all elements from what group made of them. */
CLONES int64_t NAME(from_groups)(const LOOSE *base, int64_t n, const drift *by, int shift,
                                 uint64_t mask, int64_t *restrict heads,
                                 const U *restrict grouped, LOOSE *out, const LOOSE *expected)
{
    const int64_t each = n / LANES, groups = (int64_t)mask + 1;
    U differing = 0;
    for (int64_t at = 0; at < each; at += CHUNK / LANES) {
        const int64_t m = each - at < CHUNK / LANES ? each - at : CHUNK / LANES;
        U folded[LANES][CHUNK / LANES];
        for (int64_t i = 0; i < m; i++)
            for (int lane = 0; lane < LANES; lane++) {
                const U key = base[lane * each + at + i] >> shift;
                folded[lane][i] = grouped[heads[lane * groups + (int64_t)(key & mask)]++];
            }
        for (int lane = 0; lane < LANES; lane++) {
            const int64_t from = lane * each + at;
            differing |= OWN(finish)(base + from, folded[lane], m, by, out ? out + from : 0,
                                     expected ? expected + from : 0);
        }
    }
    for (int64_t i = LANES * each; i < n; i++) {
        const int64_t key = (int64_t)((base[i] >> shift) & mask);
        const U folded = grouped[heads[(LANES - 1) * groups + key]++];
        differing |= OWN(finish)(base + i, &folded, 1, by, out ? out + i : 0,
                                 expected ? expected + i : 0);
    }
    return !differing;
}

/* Likewise from gaps that deltavc_check found right; the cursor moves on. */
CLONES int64_t NAME(from_gaps)(const LOOSE *base, int64_t n, const drift *by, sequence *cursor,
                               LOOSE *out, const LOOSE *expected)
{
    U differing = 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        U folded[CHUNK];
        memset(folded, 0, (size_t)m * sizeof *folded);
        while (cursor->next < m) {
            U one = 0;
            memcpy(&one, cursor->values, (size_t)cursor->width);
            folded[cursor->next] = one;
            cursor->values += cursor->width;
            advance(cursor);
        }
        cursor->next -= m;
        differing |= OWN(finish)(base + at, folded, m, by, out ? out + at : 0,
                                 expected ? expected + at : 0);
    }
    return !differing;
}

#include "residual_bands.h"

#undef U
#undef S
#undef NAME
#undef OWN
#undef BYTES
#undef LOOSE
#undef BITS
