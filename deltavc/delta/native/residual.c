/* Residuals of exact deltas: what a prediction leaves, coded, and put back on it.
 *
 * A residual is the difference between the ordinals of a tensor's bit patterns and the predicted
 * ones, modulo 2**n, folded so that small steps of either sign are small numbers. The definitions
 * are those of docs/reference/format/delta.md; deltavc/delta/residual.py has the same in NumPy.
 * Integers alone, so that the bits cannot depend on the processor.
 *
 * Callers check lengths: nothing here is read or written outside what they say is there.
 */

#include <stdint.h>
#include <string.h>

/* One version for wide registers, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

#define JOIN_(a, b, c) a##b##c
#define JOIN(a, b, c) JOIN_(a, b, c)

enum { CHUNK = 1 << 12 };      /* elements whose arrays stay in the first cache */
enum { LANES = 2 };       /* halves that are grouped side by side: an element whose exponent is
                             that of the one before would wait for its place to be written */
enum { ESCAPE = 255 };

/* A table of ordinal steps away from zero, by leading bits of the mantissa. */
typedef struct {
    const void *table;
    int64_t shift;
    uint64_t mask;
} drift;

typedef struct {
    int64_t changed;   /* elements with a residual */
    uint64_t any;      /* all residuals or'ed: how wide they are */
    uint64_t top_base; /* largest magnitudes, as bit patterns */
    uint64_t top_fresh;
} summary;

/* A run through gaps: where the next value goes, counted from the element at hand. */
typedef struct {
    int64_t next;
    int64_t left; /* gaps not read yet */
    int64_t width;
    const uint8_t *gaps;
    const uint8_t *escapes;
    const uint8_t *values;
} sequence;

static inline void advance(sequence *cursor)
{
    if (!cursor->left) {
        cursor->next = INT64_MAX;
        return;
    }
    cursor->left--;
    uint64_t gap = *cursor->gaps++;
    if (gap == ESCAPE) {
        memcpy(&gap, cursor->escapes, 8);
        cursor->escapes += 8;
    }
    cursor->next += 1 + (int64_t)gap;
}

/* Begins a run: next must be -1. */
void deltavc_begin(sequence *cursor) { advance(cursor); }

enum { MAX_BANDS = 8 };
enum { FEW = 32 };         /* elements that are looked at together for one among them */
enum { SHORT = 7 * 32 };   /* elements that a byte can count, in whole registers */

/* Elements ordered by bands of the base's exponent: their byte planes, and where each goes on. */
typedef struct {
    int64_t bands;
    int64_t edges[MAX_BANDS - 1]; /* least magnitudes, as bit patterns, from the second band on */
    int64_t head[MAX_BANDS];
    int64_t end[MAX_BANDS];
    int64_t escape[MAX_BANDS]; /* whose next one this is */
    int64_t escape_end[MAX_BANDS];
    int64_t width; /* planes */
    int64_t stride;
    const uint8_t *planes;
    const uint8_t *escapes;
} banding;

enum { RIGHT = 0, UNFIT = 1, PAST_END = 2 };

/* Checks gaps and their long ones against the number of elements. */
int64_t deltavc_check(const uint8_t *gaps, int64_t count, const uint8_t *escapes, int64_t escaped,
                      int64_t limit)
{
    int64_t at = -1, used = 0;
    for (int64_t i = 0; i < count; i++) {
        uint64_t gap = gaps[i];
        if (gap == ESCAPE) {
            if (used == escaped)
                return UNFIT;
            memcpy(&gap, escapes + 8 * used++, 8);
            if (gap < ESCAPE)
                return UNFIT;
        }
        if (gap >= (uint64_t)(limit - at - 1))
            return PAST_END;
        at += 1 + (int64_t)gap;
    }
    return used == escaped ? RIGHT : UNFIT;
}

#include "residual_lanes.h"

#define BITS 16
#include "residual_kernel.h"
#define BITS 32
#include "residual_kernel.h"
#define BITS 64
#include "residual_kernel.h"
