/* The loops of small_svd.c, for one kind of processor: NAME and TARGET say which. */

#define TREE(v) (((v)[0] + (v)[2]) + ((v)[1] + (v)[3]))

/* Four rows of x against two of y over a chunk: eight sums of four lanes, in registers. */
TARGET static void NAME(block)(int64_t length, const double *const x[4], const double *const y[2],
                               lanes sums[4][2])
{
    lanes s00 = {0}, s01 = {0}, s10 = {0}, s11 = {0}, s20 = {0}, s21 = {0}, s30 = {0}, s31 = {0};
    for (int64_t i = 0; i < length; i += LANES) {
        const lanes u = LOAD(y[0] + i), v = LOAD(y[1] + i);
        lanes a = LOAD(x[0] + i);
        s00 += a * u;
        s01 += a * v;
        a = LOAD(x[1] + i);
        s10 += a * u;
        s11 += a * v;
        a = LOAD(x[2] + i);
        s20 += a * u;
        s21 += a * v;
        a = LOAD(x[3] + i);
        s30 += a * u;
        s31 += a * v;
    }
    sums[0][0] = s00, sums[0][1] = s01, sums[1][0] = s10, sums[1][1] = s11;
    sums[2][0] = s20, sums[2][1] = s21, sums[3][0] = s30, sums[3][1] = s31;
}

/* Adds the inner products of a chunk to totals, (k, m) of four sums each. */
TARGET static void NAME(add)(int64_t k, int64_t m, int64_t length, const double *x, int64_t x_step,
                             const double *y, int64_t y_step, double *totals, int64_t symmetric)
{
    for (int64_t a = 0; a < k; a += 4) {
        const int64_t high = k - a < 4 ? k - a : 4;
        const int64_t last = symmetric && a + high < m ? a + high : m;
        const double *rows[4];
        for (int64_t i = 0; i < 4; i++) /* a short block computes its last row again */
            rows[i] = x + (a + (i < high ? i : high - 1)) * x_step;
        for (int64_t b = 0; b < last; b += 2) {
            const int64_t wide = last - b < 2 ? 1 : 2;
            const double *others[2] = {y + b * y_step, y + (b + wide - 1) * y_step};
            lanes sums[4][2];
            NAME(block)(length, rows, others, sums);
            for (int64_t i = 0; i < high; i++)
                for (int64_t j = 0; j < wide; j++) {
                    double *total = totals + ((a + i) * m + b + j) * LANES;
                    STORE(total, LOAD(total) + sums[i][j]);
                }
        }
    }
}

TARGET static int64_t NAME(cross)(int64_t k, int64_t m, int64_t n, const double *x, int64_t x_step,
                                  const double *y, int64_t y_step, double *out, int64_t symmetric)
{
    double *totals = calloc((size_t)(k * m + 1), LANES * sizeof(double));
    if (!totals)
        return 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t length = n - at < CHUNK ? n - at : CHUNK;
        NAME(add)(k, m, length, x + at, x_step, y + at, y_step, totals, symmetric);
    }
    for (int64_t a = 0; a < k; a++)
        for (int64_t b = 0; b < m; b++) {
            const int64_t from = symmetric && b > a ? b * m + a : a * m + b;
            out[a * m + b] = TREE(totals + from * LANES);
        }
    free(totals);
    return 1;
}

/* Four rows of the result, eight columns; each product is added in the order of w's columns. */
TARGET static void NAME(tile)(int64_t k, const double *const w[4], const double *x, int64_t x_step,
                              lanes s[4][2])
{
    lanes s00 = s[0][0], s01 = s[0][1], s10 = s[1][0], s11 = s[1][1];
    lanes s20 = s[2][0], s21 = s[2][1], s30 = s[3][0], s31 = s[3][1];
    for (int64_t a = 0; a < k; a++, x += x_step) {
        const lanes u = LOAD(x), v = LOAD(x + LANES);
        s00 += w[0][a] * u;
        s01 += w[0][a] * v;
        s10 += w[1][a] * u;
        s11 += w[1][a] * v;
        s20 += w[2][a] * u;
        s21 += w[2][a] * v;
        s30 += w[3][a] * u;
        s31 += w[3][a] * v;
    }
    s[0][0] = s00, s[0][1] = s01, s[1][0] = s10, s[1][1] = s11;
    s[2][0] = s20, s[2][1] = s21, s[3][0] = s30, s[3][1] = s31;
}

TARGET static void NAME(combine)(int64_t m, int64_t k, int64_t n, const double *w, const double *x,
                                 int64_t x_step, double *out, int64_t out_step)
{
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t end = n - at < CHUNK ? n : at + CHUNK;
        for (int64_t b = 0; b < m; b += 4) {
            const int64_t high = m - b < 4 ? m - b : 4;
            const double *weights[4];
            for (int64_t i = 0; i < 4; i++) /* a short block computes its last row again */
                weights[i] = w + (b + (i < high ? i : high - 1)) * k;
            int64_t j = at;
            for (; j + 2 * LANES <= end; j += 2 * LANES) {
                lanes s[4][2] = {{{0}}};
                for (int64_t i = 0; i < high; i++) {
                    s[i][0] = LOAD(out + (b + i) * out_step + j);
                    s[i][1] = LOAD(out + (b + i) * out_step + j + LANES);
                }
                NAME(tile)(k, weights, x + j, x_step, s);
                for (int64_t i = 0; i < high; i++) {
                    STORE(out + (b + i) * out_step + j, s[i][0]);
                    STORE(out + (b + i) * out_step + j + LANES, s[i][1]);
                }
            }
            for (; j < end; j += LANES)
                for (int64_t i = 0; i < high; i++) {
                    lanes sum = LOAD(out + (b + i) * out_step + j);
                    for (int64_t a = 0; a < k; a++)
                        sum += weights[i][a] * (lanes)LOAD(x + a * x_step + j);
                    STORE(out + (b + i) * out_step + j, sum);
                }
        }
    }
}

/* Rounds a chunk of a row; what that adds goes to rest. Beyond its width a row is zero. */
TARGET static void NAME(round)(int64_t length, int64_t width, double scale, double back,
                               const double *row, double *rest, float *out, double *peak)
{
    const int64_t meant = width < length ? width : length;
    for (int64_t j = 0; j < meant; j++) {
        const float rounded = (float)(row[j] * scale);
        rest[j] = (double)rounded * back - row[j];
        out[j] = rounded;
    }
    for (int64_t j = meant; j < length; j++)
        rest[j] = 0.0;
    lanes top = {0};
    for (int64_t j = 0; j < length; j += LANES) {
        const lanes size = (lanes)((masks)(lanes)LOAD(row + j) & INT64_MAX);
        const masks more = size > top;
        top = (lanes)((more & (masks)size) | (~more & (masks)top));
    }
    for (int64_t i = 0; i < LANES; i++)
        if (top[i] > fabs(*peak)) { /* seldom: now look for the first of that size */
            const double most = fmax(fmax(top[0], top[1]), fmax(top[2], top[3]));
            int64_t j = 0;
            while (fabs(row[j]) != most)
                j++;
            *peak = row[j];
        }
}

TARGET static int64_t NAME(make)(int64_t m, int64_t k, int64_t n, const double *w, const double *x,
                                 int64_t x_step, double scale, double back, int64_t width,
                                 float *out, double *peaks, double *squares, double *mixed)
{
    double *totals = calloc((size_t)(m * m + m + 1), LANES * sizeof(double));
    double *panel = aligned_alloc(64, (size_t)(2 * m + 1) * CHUNK * sizeof(double));
    if (!totals || !panel) {
        free(totals);
        free(panel);
        return 0;
    }
    double *own = totals + m * m * LANES, *rest = panel + m * CHUNK;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t length = n - at < CHUNK ? n - at : CHUNK;
        memset(panel, 0, (size_t)(m * CHUNK) * sizeof(double));
        NAME(combine)(m, k, length, w, x + at, x_step, panel, CHUNK);
        for (int64_t b = 0; b < m; b++) {
            double *one = rest + b * CHUNK;
            NAME(round)(length, width - at, scale, back, panel + b * CHUNK, one,
                        out + b * width + at, peaks + b);
            lanes sum = {0};
            for (int64_t j = 0; j < length; j += LANES)
                sum += LOAD(one + j) * LOAD(one + j);
            STORE(own + b * LANES, LOAD(own + b * LANES) + sum);
        }
        NAME(add)(m, m, length, panel, CHUNK, rest, CHUNK, totals, 0);
    }
    for (int64_t a = 0; a < m; a++) {
        squares[a] = TREE(own + a * LANES);
        for (int64_t b = 0; b < m; b++)
            mixed[a * m + b] = TREE(totals + (a * m + b) * LANES);
    }
    free(totals);
    free(panel);
    return 1;
}

/* Pivoted Cholesky of left (k, k), which it spends, into upper (k, k) and the order of the pivots;
 * then the inverse of the transposed triangle at the pivots, (q, q) with rows k apart. */
TARGET static int64_t NAME(cholesky)(int64_t k, double least, double *left, double *upper,
                                     int64_t *order, double *inverse)
{
    int64_t q = 0;
    for (; q < k; q++) {
        int64_t pivot = -1;
        for (int64_t i = 0; i < k; i++) {
            int64_t taken = 0;
            for (int64_t j = 0; j < q && !taken; j++)
                taken = order[j] == i;
            if (!taken && left[i * k + i] > least &&
                (pivot < 0 || left[i * k + i] > left[pivot * k + pivot]))
                pivot = i;
        }
        if (pivot < 0)
            break;
        double *row = upper + q * k;
        const double root = sqrt(left[pivot * k + pivot]);
        for (int64_t i = 0; i < k; i++)
            row[i] = left[pivot * k + i] / root;
        for (int64_t j = 0; j < q; j++)
            row[order[j]] = 0.0;
        order[q] = pivot;
        for (int64_t i = 0; i < k; i++) {
            const double factor = row[i];
            for (int64_t j = 0; j < k; j++)
                left[i * k + j] -= factor * row[j];
        }
    }
    for (int64_t i = 0; i < q; i++)
        inverse[i * k + i] = 1.0;
    for (int64_t i = 0; i < q; i++) {
        double *row = inverse + i * k;
        for (int64_t j = 0; j < q; j++)
            row[j] /= upper[i * k + order[i]];
        for (int64_t below = i + 1; below < q; below++) {
            const double factor = upper[i * k + order[below]];
            for (int64_t j = 0; j < q; j++)
                inverse[below * k + j] -= factor * row[j];
        }
    }
    return q;
}

TARGET static void NAME(turn)(int64_t n, double *p, double *q, double cosine, double sine)
{
    const lanes c = {cosine, cosine, cosine, cosine}, s = {sine, sine, sine, sine};
    for (int64_t i = 0; i < n; i += LANES) {
        const lanes a = LOAD(p + i), b = LOAD(q + i);
        STORE(p + i, c * a - s * b);
        STORE(q + i, s * a + c * b);
    }
}

TARGET static int64_t NAME(rotate)(int64_t pairs, const int32_t *schedule, int64_t n, double *rows,
                                   int64_t t, double *turn, int64_t sweeps, double tolerance, double least)
{
    for (int64_t sweep = 1; sweep <= sweeps; sweep++) {
        int64_t turned = 0;
        for (int64_t pair = 0; pair < pairs; pair++) {
            const int64_t first = schedule[2 * pair], second = schedule[2 * pair + 1];
            double *p = rows + first * n, *q = rows + second * n;
            lanes pp = {0}, qq = {0}, pq = {0};
            for (int64_t i = 0; i < n; i += LANES) {
                const lanes a = LOAD(p + i), b = LOAD(q + i);
                pp += a * a;
                qq += b * b;
                pq += a * b;
            }
            const double alpha = TREE(pp), beta = TREE(qq), gamma = TREE(pq);
            if (!(alpha > least) || !(beta > least) ||
                !(fabs(gamma) > tolerance * (sqrt(alpha) * sqrt(beta))))
                continue;
            const double zeta = (beta - alpha) / (gamma + gamma);
            const double size = 1.0 / (fabs(zeta) + sqrt(1.0 + zeta * zeta));
            const double tangent = zeta < 0.0 ? -size : size;
            const double cosine = 1.0 / sqrt(1.0 + tangent * tangent);
            NAME(turn)(n, p, q, cosine, cosine * tangent);
            NAME(turn)(t, turn + first * t, turn + second * t, cosine, cosine * tangent);
            turned++;
        }
        if (!turned)
            return sweep;
    }
    return 0;
}

#undef TREE
