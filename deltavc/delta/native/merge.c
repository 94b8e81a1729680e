/* Element-wise merging: increments, selection by magnitude, and votes, in one pass each.
 *
 * deltavc/merge and deltavc/delta/increment.py have the same in NumPy, and their order of operations
 * is the definition: every line is the same IEEE operation on the same operands, and contraction
 * is off (see build.py), so the bits are the same with and without this library.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Nobody looks at the exception flags, and comparisons that may raise them are not vectorised. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

/* One version for wide registers, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

enum { MAGNITUDE = 0x7FFFFFFF, INFINITE = 0x7F80 };

static inline float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The sum of two planes, each with the coefficient 1 or -1, rounded once; never -0. */
CLONES void sum_bf16(const uint16_t *a, float of_a, const uint16_t *b, float of_b, int64_t count,
                     float *out)
{
    for (int64_t i = 0; i < count; i++) {
        const float x = of_a * from_bits((uint32_t)a[i] << 16);
        const float y = of_b * from_bits((uint32_t)b[i] << 16);
        out[i] = (x + y) + 0.0f;
    }
}

CLONES void sum_f32(const float *a, float of_a, const float *b, float of_b, int64_t count,
                    float *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (of_a * a[i] + of_b * b[i]) + 0.0f;
}

/* Counts the upper halves of magnitudes' bit patterns. */
void count_upper(const uint32_t *bits, int64_t count, int64_t *counts)
{
    for (int64_t i = 0; i < count; i++)
        counts[(bits[i] & MAGNITUDE) >> 16]++;
}

/* Counts the lower halves of those with a given upper one. */
void count_lower(const uint32_t *bits, int64_t count, uint32_t half, uint32_t *counts)
{
    for (int64_t i = 0; i < count; i++)
        if ((bits[i] & MAGNITUDE) >> 16 == half)
            counts[bits[i] & 0xFFFF]++;
}

/* Tells which magnitudes lie above a pattern; those of just the pattern only before a position. */
CLONES void mark_within(const uint32_t *bits, int64_t count, uint32_t pattern, int64_t equal,
                        uint8_t *inside)
{
    const int64_t first = equal < 0 ? 0 : equal < count ? equal : count;
    for (int64_t i = 0; i < first; i++)
        inside[i] = (bits[i] & MAGNITUDE) >= pattern;
    for (int64_t i = first; i < count; i++)
        inside[i] = (bits[i] & MAGNITUDE) > pattern;
}

/* Multiplies by a mask, then by a factor. */
CLONES void scale_masked(float *values, const uint8_t *mask, int64_t count, float factor)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = values[i] * (float)mask[i] * factor;
}

/* The vote of several sides, and the average of those that agree.
 *
 * by_count: whether signs are counted, not values added. zero: what a vote of 0 elects.
 * by_share: whether the sum is divided by the shares of the sides that agree.
 * Returns how many values were outvoted.
 */
CLONES int64_t elect(const float *const *sides, const float *shares, int64_t number, int by_count,
                     float zero, int by_share, int64_t count, float *out)
{
    enum { RUN = 1024 };
    float vote[RUN], total[RUN], share[RUN];
    int64_t outvoted = 0;
    for (int64_t start = 0; start < count; start += RUN) {
        const int64_t end = count - start < RUN ? count - start : RUN;
        for (int64_t i = 0; i < end; i++)
            vote[i] = total[i] = share[i] = 0.0f;
        for (int64_t k = 0; k < number; k++) {
            const float *side = sides[k] + start;
            if (by_count)
                for (int64_t i = 0; i < end; i++)
                    vote[i] += (float)((side[i] > 0.0f) - (side[i] < 0.0f));
            else
                for (int64_t i = 0; i < end; i++)
                    vote[i] += side[i];
        }
        for (int64_t i = 0; i < end; i++) {
            const float plus = vote[i] > 0.0f ? 1.0f : 0.0f;
            const float minus = vote[i] < 0.0f ? 1.0f : 0.0f;
            vote[i] = vote[i] == 0.0f ? zero : plus - minus;
        }
        for (int64_t k = 0; k < number; k++) {
            const float *side = sides[k] + start;
            const float own = shares[k];
            int32_t lost = 0;
            for (int64_t i = 0; i < end; i++) {
                const float way = side[i] * vote[i];
                const float agrees = way > 0.0f ? 1.0f : 0.0f;
                lost += way < 0.0f;
                total[i] += side[i] * agrees;
                share[i] += agrees * own;
            }
            outvoted += lost;
        }
        if (by_share)
            for (int64_t i = 0; i < end; i++)
                total[i] /= share[i] == 0.0f ? 1.0f : share[i];
        memcpy(out + start, total, (size_t)end * sizeof *out);
    }
    return outvoted;
}

/* Rounds to bfloat16, zeros without a sign; returns how many are not zero, -1 if one is not finite. */
CLONES int64_t round_bf16(const float *values, int64_t count, uint16_t *out)
{
    int64_t nonzero = 0;
    int32_t broken = 0;
    for (int64_t start = 0; start < count; start += 1 << 14) {
        const int64_t end = count - start < 1 << 14 ? count : start + (1 << 14);
        int32_t here = 0;
        for (int64_t i = start; i < end; i++) {
            const uint32_t bits = to_bits(values[i]);
            const uint32_t size = bits & MAGNITUDE;
            const uint16_t rounded = (uint16_t)((size + 0x7FFF + ((size >> 16) & 1)) >> 16);
            broken |= rounded >= INFINITE;
            out[i] = rounded ? (uint16_t)(rounded | (bits >> 16 & 0x8000)) : 0;
            here += rounded != 0;
        }
        nonzero += here;
    }
    return broken ? -1 : nonzero;
}
