/* Products and singular vectors of factors, every sum in an order that is written down.
 *
 * Nothing here asks a library for a sum, fuses a multiplication with an addition or lets the
 * width of a register choose an order: vectors of four stand for four sums side by side. So the
 * bits are those of deltavc/delta/ordered.py, which has the definitions, on every machine.
 *
 * small_svd_kernel.h is compiled once for each kind of processor, chosen when called.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 4, CHUNK = 256 };

typedef double lanes __attribute__((vector_size(32)));
typedef int64_t masks __attribute__((vector_size(32)));
typedef double loose __attribute__((vector_size(32), aligned(8), may_alias));

#define LOAD(p) (*(const loose *)(p))
#define STORE(p, v) (*(loose *)(p) = (v))

#define NAME(f) f##_portable
#define TARGET
#include "small_svd_kernel.h"
#undef NAME
#undef TARGET

#if defined(__x86_64__)
#define NAME(f) f##_avx2
#define TARGET __attribute__((target("avx2")))
#include "small_svd_kernel.h"
#undef NAME
#undef TARGET
#define CALL(f, ...) (__builtin_cpu_supports("avx2") ? f##_avx2(__VA_ARGS__) : f##_portable(__VA_ARGS__))
#else
#define CALL(f, ...) f##_portable(__VA_ARGS__)
#endif

/* out (k, m) = x (k, n) times the transpose of y (m, n); returns 0 where memory is short. */
int64_t deltavc_small_svd_cross(int64_t k, int64_t m, int64_t n, const double *x, int64_t x_step,
                                const double *y, int64_t y_step, double *out, int64_t symmetric)
{
    return CALL(cross, k, m, n, x, x_step, y, y_step, out, symmetric);
}

/* out (m, n) += w (m, k) times x (k, n). */
void deltavc_small_svd_combine(int64_t m, int64_t k, int64_t n, const double *w, const double *x,
                               int64_t x_step, double *out, int64_t out_step)
{
    CALL(combine, m, k, n, w, x, x_step, out, out_step);
}

/* Rounds w (m, k) times x (k, n), times scale, to float32: out (m, width). With x the exact rows
 * and r what rounding added, in the units of x: peaks (m) are the largest elements of x, squares
 * (m) the sums of r squared, mixed (m, m) is x times the transpose of r. */
int64_t deltavc_small_svd_make(int64_t m, int64_t k, int64_t n, const double *w, const double *x,
                               int64_t x_step, double scale, double back, int64_t width, float *out,
                               double *peaks, double *squares, double *mixed)
{
    return CALL(make, m, k, n, w, x, x_step, scale, back, width, out, peaks, squares, mixed);
}

/* Factors gram (k, k), which it spends; returns how many pivots are above least. */
int64_t deltavc_small_svd_cholesky(int64_t k, double least, double *gram, double *upper,
                                   int64_t *order, double *inverse)
{
    return CALL(cholesky, k, least, gram, upper, order, inverse);
}

/* Rotates rows (count, n) until they are orthogonal, and turn (count, t) with them; leaves rows
 * whose squares add up to least or less. Returns the number of sweeps, 0 if they did not do. */
int64_t deltavc_small_svd_rotate(int64_t pairs, const int32_t *schedule, int64_t n, double *rows,
                                 int64_t t, double *turn, int64_t sweeps, double tolerance,
                                 double least)
{
    return CALL(rotate, pairs, schedule, n, rows, t, turn, sweeps, tolerance, least);
}
