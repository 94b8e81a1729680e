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

TARGET static int64_t NAME(cross)(int64_t k, int64_t m, int64_t n, const double *x, int64_t x_step,
                                  const double *y, int64_t y_step, double *out, int64_t symmetric)
{
    double *totals = calloc((size_t)(k * m + 1), LANES * sizeof(double));
    if (!totals)
        return 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t length = n - at < CHUNK ? n - at : CHUNK;
        for (int64_t a = 0; a < k; a += 4) {
            const int64_t high = k - a < 4 ? k - a : 4;
            const int64_t last = symmetric && a + high < m ? a + high : m;
            const double *rows[4];
            for (int64_t i = 0; i < 4; i++) /* a short block computes its last row again */
                rows[i] = x + (a + (i < high ? i : high - 1)) * x_step + at;
            for (int64_t b = 0; b < last; b += 2) {
                const int64_t wide = last - b < 2 ? 1 : 2;
                const double *others[2] = {y + b * y_step + at, y + (b + wide - 1) * y_step + at};
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
    for (int64_t a = 0; a < k; a++)
        for (int64_t b = 0; b < m; b++) {
            const int64_t from = symmetric && b > a ? b * m + a : a * m + b;
            out[a * m + b] = TREE(totals + from * LANES);
        }
    free(totals);
    return 1;
}

/* Four rows of the result, eight columns; each product is added in the order of w's columns. */
TARGET static void NAME(combine)(int64_t m, int64_t k, int64_t n, const double *w, const double *x,
                                 int64_t x_step, double *out, int64_t out_step)
{
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t end = n - at < CHUNK ? n : at + CHUNK;
        for (int64_t b = 0; b < m; b += 4) {
            const int64_t high = m - b < 4 ? m - b : 4;
            const double *weights[4];
            double *rows[4];
            for (int64_t i = 0; i < 4; i++) {
                const int64_t row = b + (i < high ? i : high - 1);
                weights[i] = w + row * k;
                rows[i] = out + row * out_step;
            }
            int64_t j = at;
            for (; j + 2 * LANES <= end; j += 2 * LANES) {
                lanes s[4][2];
                for (int64_t i = 0; i < 4; i++)
                    for (int64_t h = 0; h < 2; h++)
                        s[i][h] = LOAD(rows[i] + j + h * LANES);
                for (int64_t a = 0; a < k; a++) {
                    const double *row = x + a * x_step + j;
                    const lanes u = LOAD(row), v = LOAD(row + LANES);
                    for (int64_t i = 0; i < 4; i++) {
                        const double weight = weights[i][a];
                        const lanes spread = {weight, weight, weight, weight};
                        s[i][0] += spread * u;
                        s[i][1] += spread * v;
                    }
                }
                for (int64_t i = 0; i < high; i++)
                    for (int64_t h = 0; h < 2; h++)
                        STORE(rows[i] + j + h * LANES, s[i][h]);
            }
            for (; j < end; j += LANES)
                for (int64_t i = 0; i < high; i++) {
                    lanes sum = LOAD(rows[i] + j);
                    for (int64_t a = 0; a < k; a++) {
                        const double weight = weights[i][a];
                        const lanes spread = {weight, weight, weight, weight};
                        sum += spread * (lanes)LOAD(x + a * x_step + j);
                    }
                    STORE(rows[i] + j, sum);
                }
        }
    }
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
                                   int64_t t, double *turn, int64_t sweeps, double tolerance)
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
            if (!(fabs(gamma) > tolerance * (sqrt(alpha) * sqrt(beta))))
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
