/* Rebuilding rows of a parameter in one pass: base plus low-rank change, rounded, proof checked.
 *
 *     result = RN(w + sum_k left[i][k] * right[k][j])
 *
 * The sum is computed with a bound of its error, for any order of summation and with or without
 * fused multiply-add; where both ends of the interval round to the same number, so does the exact
 * sum. 16-bit targets start in float32 and take float64 for what is left, float32 targets start in
 * float64. What that leaves is tested for being a sum without error, and else listed. The bounds
 * are derived in docs/adr/0003-certified-rounding.md; names follow it.
 *
 * rounding_kernel.h is compiled once for each kind of processor, chosen when called.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif !defined(__aarch64__)
#error "nothing is known here about the floating-point control of this processor"
#endif

enum { BF16 = 0, F16 = 1, F32 = 2 };
enum { FREE = 5000 };    /* grid of a line of zeros: no constraint */
enum { ROW_CHUNK = 32 }; /* rows whose base and result stay in the second cache */
enum { BLOCK_BYTES = 24 << 10 }; /* of the right factors, in the first cache */
enum { BLOCK_PANELS = 24 };      /* strips of columns, so that marks fit the stack */

/* One parameter. Laid out as deltavc/delta/rounding_native.py has it. */
typedef struct {
    int64_t rows, columns, rank;
    int64_t dtype;
    int64_t level;         /* which kernel: 0 portable, 1 AVX2, 2 AVX-512 */
    int64_t exact;         /* whether coefficients were folded without error */
    const double *left;    /* (rows, rank), coefficients folded in */
    const double *right;   /* (rank, columns) */
    double *turned;        /* (columns, rank) */
    void *panels;          /* right in strips of two vectors, one after the other, padded by zeros */
    void *packed;          /* left in tiles of rows, each (rank, rows of a tile), padded */
    double *row_norms;     /* upper bounds, padded */
    double *column_norms;  /* padded */
    float *row_errors;     /* gamma * norm, rounded up, padded */
    float *column_singles; /* norms rounded up, in the order of the panels, padded */
    int32_t *row_grids;    /* exponent of the lowest bit set in a line */
    int32_t *column_grids;
    double floor;          /* covers underflow in float64 */
    double gamma;          /* for the products' float64 sum, against the norms */
    double gamma_single;
    double floor_single;   /* set by prepare */
} form;

typedef struct {
    int64_t *places;
    int64_t count;
    int64_t base; /* flat number that places count from */
} list;

/* e >= slack * |x| + gamma * S + floor also pays for rounding x, x - e and x + e: two units each. */
#define SLACK64 0x1.2p-52
#define SLACK32 0x1.2p-23f

static const struct {
    int mantissa, lowest;
    uint32_t infinity, sign;
} DTYPE[] = {{7, -126, 0x7f80, 0x8000}, {10, -14, 0x7c00, 0x8000}, {23, -126, 0x7f800000, 1u << 31}};

/* Rounds a float64 once to 16 bits, ties to even, with integers alone. */
static inline uint32_t round_once(double value, int dtype)
{
    const int mantissa = DTYPE[dtype].mantissa, lowest = DTYPE[dtype].lowest;
    uint64_t bits;
    memcpy(&bits, &value, 8);
    const uint64_t magnitude = bits & (UINT64_MAX >> 1);
    const int64_t field = (int64_t)(magnitude >> 52);
    uint64_t digits = magnitude & ((1ull << 52) - 1);
    if (field)
        digits |= 1ull << 52;
    const int64_t exponent = (field ? field : 1) - 1023;
    const int64_t clamped = exponent > lowest ? exponent : lowest;
    int64_t shift = 52 - mantissa + clamped - exponent;
    if (shift > 60)
        shift = 60;
    uint64_t kept = digits >> shift;
    kept += (digits & ((1ull << shift) - 1)) + (kept & 1) > 1ull << (shift - 1);
    uint64_t rounded = ((uint64_t)(clamped - lowest) << mantissa) + kept;
    if (rounded > DTYPE[dtype].infinity)
        rounded = DTYPE[dtype].infinity;
    return (uint32_t)rounded | (bits >> 63 ? DTYPE[dtype].sign : 0);
}

static inline float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* Widens one number of the base; what is not finite becomes some NaN or infinity. */
static inline float widen(uint32_t bits, int dtype)
{
    if (dtype == F32)
        return float_of(bits);
    if (dtype == BF16)
        return float_of(bits << 16);
    const uint32_t magnitude = bits & 0x7fff;
    /* Seen as a float32 the exponent is 112 too small; multiplying is exact, subnormals too. */
    const float scaled = float_of(magnitude << 13) * 0x1p112f;
    const uint32_t finite = bits_of(scaled) | (magnitude >= 0x7c00 ? 0x7f800000 : 0);
    return float_of(finite | (bits & 0x8000) << 16);
}

/* Exponent of the lowest bit set. */
static inline int lowest_bit(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    const uint64_t magnitude = bits & (UINT64_MAX >> 1);
    if (!magnitude)
        return FREE;
    const int field = (int)(magnitude >> 52);
    uint64_t digits = magnitude & ((1ull << 52) - 1);
    if (field)
        digits |= 1ull << 52;
    return (field ? field : 1) - 1075 + __builtin_ctzll(digits);
}

/* Rounds x to float32 and on to 16 bits, where that is the same as rounding the exact sum once:
 * the float32 is no boundary, and half a step of it is more than the error. Normal numbers only.
 */
static inline int round_twice(double x, double error, int dtype, uint32_t *result)
{
    const int shift = 23 - DTYPE[dtype].mantissa, lowest = DTYPE[dtype].lowest;
    const float near = (float)x, size = fabsf(near);
    const uint32_t half = 1u << (shift - 1), bits = bits_of(size);
    if (!(error < size * 0x1p-25) || (bits & (2 * half - 1)) == half
        || bits < (uint32_t)(lowest + 127) << 23 || bits >= (uint32_t)(127 - lowest) << 23)
        return 0;
    const uint32_t kept = ((bits + half) >> shift) - ((uint32_t)(lowest + 126) << (23 - shift));
    *result = kept | (near < 0 ? DTYPE[dtype].sign : 0);
    return 1;
}

static inline uint32_t load_bits(const void *from, int64_t at, int dtype)
{
    if (dtype == F32) {
        uint32_t bits;
        memcpy(&bits, (const char *)from + 4 * at, 4);
        return bits;
    }
    uint16_t bits;
    memcpy(&bits, (const char *)from + 2 * at, 2);
    return bits;
}

static inline void store_bits(void *to, int64_t at, uint32_t bits, int dtype)
{
    if (dtype == F32) {
        memcpy((char *)to + 4 * at, &bits, 4);
    } else {
        const uint16_t half = (uint16_t)bits;
        memcpy((char *)to + 2 * at, &half, 2);
    }
}

/* Rounds the float64 sum x of element (i, j) if its bound decides, or if it has no error. */
static inline int decide(const form *f, int64_t i, int64_t j, float w, double x, uint32_t base,
                         uint32_t *result)
{
    const int dtype = (int)f->dtype;
    const uint32_t sign = DTYPE[dtype].sign;
    if ((base & (sign - 1)) >= DTYPE[dtype].infinity || f->row_grids[i] >= FREE
        || f->column_grids[j] >= FREE) {
        *result = base; /* not finite, or unchanged */
        return 1;
    }
    if (!isfinite(x))
        return 0;
    const double size = f->row_norms[i] * f->column_norms[j];
    if (dtype != F32) {
        const double error = fabs(x) * SLACK64 + (f->gamma * size + f->floor);
        if (round_twice(x, error, dtype, result))
            return 1;
        *result = round_once(x + error, dtype);
        if (*result == round_once(x - error, dtype))
            return 1;
    }
    if (!f->exact)
        return 0;
    /* All partial sums are below total, and multiples of 2**grid: are they float64? */
    int grid = f->row_grids[i] + f->column_grids[j];
    const int own = lowest_bit(w);
    if (own < grid)
        grid = own;
    const double total = (fabs((double)w) + size) * 1.001;
    if (!(total < 0x1p900 && total <= ldexp(1.0, 53 + grid)))
        return 0;
    if (x == 0)
        *result = base == sign ? sign : 0; /* -0.0 stays where nothing is added to it */
    else if (dtype == F32)
        *result = bits_of((float)x);
    else
        *result = round_once(x, dtype);
    return 1;
}

/* Where column j of a panel lies in it: bfloat16 takes even ones first, so that 32-bit words part. */
static inline int64_t place(int64_t j, int64_t width, int64_t dtype)
{
    return dtype == BF16 ? (j & 1) * (width / 2) + j / 2 : j;
}

/* Processor state: round to nearest, subnormals kept, nothing trapped. */
#if defined(__x86_64__)
typedef unsigned int state;
static inline state plain_arithmetic(void)
{
    const state before = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return before;
}
static inline void restore(state before) { _mm_setcsr(before); }
#else
typedef uint64_t state;
static inline state plain_arithmetic(void)
{
    state before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"((state)0) : "memory");
    return before;
}
static inline void restore(state before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(before) : "memory");
}
#endif

uint64_t deltavc_arithmetic_plain(void) { return plain_arithmetic(); }
void deltavc_arithmetic_restore(uint64_t before) { restore((state)before); }

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define NAME(x) JOIN(x, ISA)

#define ISA portable
#define TARGET
#define BYTES 16
#define TILE_ROWS 4
#define FMA32(a, b, c) ((a) * (b) + (c))
#define FMA64(a, b, c) ((a) * (b) + (c))
#define MASK(d) (((d)[0] & 1) | ((d)[1] & 2) | ((d)[2] & 4) | ((d)[3] & 8))
#define MASK_HALF(d) (((d)[0] & 1) | ((d)[1] & 2))
#include "rounding_kernel.h"

#if defined(__x86_64__)
#define ISA avx2
#define TARGET __attribute__((target("avx2,fma,f16c,bmi")))
#define BYTES 32
#define TILE_ROWS 4
#define HALF_LOAD(p) ((NAME(vf))_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p))))
#define HALF_ROUND(v) _mm256_cvtps_ph((__m256)(v), _MM_FROUND_TO_NEAREST_INT)
#define FMA32(a, b, c) ((NAME(vf))_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define FMA64(a, b, c) ((NAME(vd))_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define MASK(d) (uint32_t)_mm256_movemask_ps((__m256)(d))
#define MASK_HALF(d) (uint32_t)_mm_movemask_ps((__m128)(d))
#include "rounding_kernel.h"

#define ISA avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi")))
#define BYTES 64
#define TILE_ROWS 8
#define HALF_LOAD(p) ((NAME(vf))_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p))))
#define HALF_ROUND(v) _mm512_cvtps_ph((__m512)(v), _MM_FROUND_TO_NEAREST_INT)
#define FMA32(a, b, c) ((NAME(vf))_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define FMA64(a, b, c) ((NAME(vd))_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define MASK(d) (uint32_t)_mm512_movepi32_mask((__m512i)(d))
#define MASK_HALF(d) (uint32_t)_mm256_movemask_ps((__m256)(d))
#include "rounding_kernel.h"
#endif

/* The best kernel for this processor. */
int64_t deltavc_rounding_level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 1;
#endif
    return 0;
}

/* Rows of a tile: buffers over rows are padded to a multiple of it. */
int64_t deltavc_rounding_tile(int64_t level) { return level == 2 ? 8 : 4; }

static int64_t vector_bytes(int64_t level) { return (int64_t)16 << level; }

/* Columns of a panel: buffers over columns are padded to a multiple of it. */
int64_t deltavc_rounding_width(int64_t level, int64_t dtype)
{
    return 2 * vector_bytes(level) / (dtype == F32 ? 8 : 4);
}

/* A float32 that is certainly not below; no subnormal, with which some processors take 100 times
 * as long. */
static float above(double value)
{
    const float next = nextafterf((float)value, INFINITY);
    return next > 0x1p-100f ? next : 0x1p-100f;
}

/* Upper bound of a norm from its sum of squares; 2**-500 stands for squares that underflow. */
static double norm(double squares) { return sqrt(squares) * 1.001 + 0x1p-500; }

/* Fills the buffers of a form from left and right. Returns whether the kernels may be used. */
int64_t deltavc_rounding_prepare(form *f)
{
    const state before = plain_arithmetic();
    const int64_t rank = f->rank, columns = f->columns;
    const int64_t width = deltavc_rounding_width(f->level, f->dtype);
    const int64_t padded = (columns + width - 1) / width * width;
    const int64_t tile = deltavc_rounding_tile(f->level);
    double most_left = 0, most_right = 0;
    for (int64_t i = 0; i < (f->rows + tile - 1) / tile * tile; i++) {
        double squares = 0;
        int grid = FREE;
        for (int64_t k = 0; k < rank; k++) {
            const double value = i < f->rows ? f->left[i * rank + k] : 0;
            const int low = lowest_bit(value);
            const int64_t to = (i / tile * rank + k) * tile + i % tile;
            squares += value * value;
            grid = low < grid ? low : grid;
            most_left = fabs(value) > most_left ? fabs(value) : most_left;
            if (f->dtype == F32)
                ((double *)f->packed)[to] = value;
            else
                ((float *)f->packed)[to] = (float)value;
        }
        f->row_norms[i] = norm(squares);
        f->row_errors[i] = above(f->gamma_single * f->row_norms[i]);
        f->row_grids[i] = grid;
    }
    for (int64_t j = 0; j < padded; j++) {
        double squares = 0;
        int grid = FREE;
        const int64_t panel = j / width, at = place(j % width, width, f->dtype);
        for (int64_t k = 0; k < rank; k++) {
            const double value = j < columns ? f->right[k * columns + j] : 0;
            const int low = lowest_bit(value);
            const int64_t to = (panel * rank + k) * width + at;
            squares += value * value;
            grid = low < grid ? low : grid;
            most_right = fabs(value) > most_right ? fabs(value) : most_right;
            if (f->dtype == F32) {
                ((double *)f->panels)[to] = value;
            } else {
                ((float *)f->panels)[to] = (float)value;
                if (j < columns)
                    f->turned[j * rank + k] = value;
            }
        }
        f->column_norms[j] = norm(squares);
        f->column_singles[panel * width + at] = above(f->column_norms[j]);
        f->column_grids[j] = grid;
    }
    f->floor_single = above((double)rank * 0x1p-147 * (2 + most_left + most_right));
    restore(before);
    return f->dtype == F32 || (most_left < 0x1p60 && most_right < 0x1p60);
}

/* Computes rows [start, stop) into out; lists flat numbers, from row start on, that are undecided.
 *
 * Returns how many rows it did: fewer than asked where the list might not have held them.
 */
int64_t deltavc_rounding_rows(const form *f, const void *base, void *out, int64_t start,
                              int64_t stop, int64_t *places, int64_t room, int64_t *count)
{
    const state before = plain_arithmetic();
    list left = {places, 0, start * f->columns};
    int64_t row = start;
    while (row < stop) {
        int64_t end = row - row % ROW_CHUNK + ROW_CHUNK; /* tiles stay whole */
        end = stop < end ? stop : end;
        if (left.count + (end - row) * f->columns > room)
            break;
        const int size = f->dtype == F32 ? 4 : 2;
        void *to = (char *)out + (row - start) * f->columns * size;
#if defined(__x86_64__)
        if (f->level == 2)
            chunk_avx512(f, base, to, row, end, &left);
        else if (f->level == 1)
            chunk_avx2(f, base, to, row, end, &left);
        else
#endif
            chunk_portable(f, base, to, row, end, &left);
        row = end;
    }
    *count = left.count;
    restore(before);
    return row - start;
}
