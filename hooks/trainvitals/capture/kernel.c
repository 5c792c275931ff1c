/* All statistics of many tensors in one call: the hot path of capture on the CPU.
 *
 * Plain C, called through ctypes with data pointers, so the GIL is released and no torch header or
 * ABI is touched. A tensor is read in blocks that stay in the first-level cache: one pass for the
 * sums and extremes, one for the squared deviations from the block's own mean; blocks are merged in
 * double (Chan, Golub & LeVeque 1979). Never E[x^2] - E[x]^2: far from zero that subtracts two
 * nearly equal numbers. Blocks with non-finite, very large or very small entries take a slower loop
 * in double, so that squares neither overflow nor vanish.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1024
#define COLUMNS 8 /* mean std min max abs_mean l2 zero_share nonfinite */

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define VECTORISED
#endif

enum { FLOAT32 = 0, FLOAT64 = 1, FLOAT16 = 2, BFLOAT16 = 3 };

typedef struct {
    double mean, m2, absolute, low, high;
    int64_t finite, zeros, nonfinite;
} Moments;

typedef struct {
    float sum, absolute, low, high;
    int32_t zeros, nonfinite;
} Sums;

/* Explicit vectors: the compiler does not find them in loops over lanes. Unaligned on purpose. */
typedef float Floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(32), aligned(4), may_alias));
#define WIDTH 8
#define SELECT(mask, a, b) ((Floats)(((Bits)(a) & (mask)) | ((Bits)(b) & ~(mask))))

VECTORISED static void sums_of(const float *restrict x, Sums *out)
{
    Floats sum[2] = {{0}}, absolute[2] = {{0}}, low[2], high[2];
    Bits zeros[2] = {{0}}, nonfinite[2] = {{0}};
    for (int k = 0; k < 2; k++) {
        low[k] = (Floats){0} + INFINITY;
        high[k] = (Floats){0} - INFINITY;
    }
    for (int i = 0; i < BLOCK; i += 2 * WIDTH)
        for (int k = 0; k < 2; k++) {
            Floats v = *(const Floats *)(x + i + k * WIDTH);
            Bits bits = (Bits)v & 0x7fffffff, below = v < low[k], above = v > high[k];
            sum[k] += v;
            absolute[k] += (Floats)bits;
            low[k] = SELECT(below, v, low[k]);
            high[k] = SELECT(above, v, high[k]);
            zeros[k] -= bits == 0; /* a true comparison is -1 */
            nonfinite[k] -= bits >= 0x7f800000;
        }
    *out = (Sums){0, 0, INFINITY, -INFINITY, 0, 0};
    for (int k = 0; k < 2; k++)
        for (int j = 0; j < WIDTH; j++) {
            out->sum += sum[k][j];
            out->absolute += absolute[k][j];
            out->low = low[k][j] < out->low ? low[k][j] : out->low;
            out->high = high[k][j] > out->high ? high[k][j] : out->high;
            out->zeros += zeros[k][j];
            out->nonfinite += nonfinite[k][j];
        }
}

VECTORISED static void deviations_of(const float *restrict x, float mean, double *sum, double *m2)
{
    Floats plain[4] = {{0}}, square[4] = {{0}};
    for (int i = 0; i < BLOCK; i += 4 * WIDTH)
        for (int k = 0; k < 4; k++) {
            Floats d = *(const Floats *)(x + i + k * WIDTH) - mean;
            plain[k] += d;
            square[k] += d * d;
        }
    *sum = *m2 = 0;
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < WIDTH; j++) {
            *sum += plain[k][j];
            *m2 += square[k][j];
        }
}

VECTORISED static float squares_of(const float *restrict x)
{
    Floats square[4] = {{0}};
    float total = 0;
    for (int i = 0; i < BLOCK; i += 4 * WIDTH)
        for (int k = 0; k < 4; k++) {
            Floats v = *(const Floats *)(x + i + k * WIDTH);
            square[k] += v * v;
        }
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < WIDTH; j++)
            total += square[k][j];
    return total;
}

/* b - a over a whole block. */
VECTORISED static void differences_of(const float *restrict a, const float *restrict b,
                                      float *restrict difference)
{
    for (int i = 0; i < BLOCK; i += WIDTH)
        *(Floats *)(difference + i) = *(const Floats *)(b + i) - *(const Floats *)(a + i);
}

VECTORISED static void widen_bfloat16(const uint16_t *restrict h, float *restrict x, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)h[i] << 16;
        memcpy(&x[i], &bits, 4);
    }
}

VECTORISED static void widen_float16(const uint16_t *restrict h, float *restrict x, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t exponent = (h[i] >> 10) & 31u, mantissa = h[i] & 1023u, bits;
        /* The exponent is re-based by a multiplication, which makes half's subnormals right too. */
        uint32_t magnitude = ((uint32_t)(h[i] & 0x7fffu)) << 13;
        float v;
        memcpy(&v, &magnitude, 4);
        v *= 0x1p112f;
        memcpy(&bits, &v, 4);
        bits = exponent == 31u ? 0x7f800000u | mantissa << 13 : bits;
        bits |= (uint32_t)(h[i] & 0x8000u) << 16;
        memcpy(&x[i], &bits, 4);
    }
}

static void merge(Moments *a, int64_t n, double mean, double m2)
{
    if (n == 0)
        return;
    double count = (double)a->finite + (double)n, delta = mean - a->mean;
    a->m2 += m2 + delta * delta * ((double)a->finite * (double)n / count);
    a->mean += delta * ((double)n / count);
    a->finite += n;
}

static void add_double(Moments *a, const double *x, int n)
{
    double sum = 0, m2 = 0;
    int finite = 0;
    for (int i = 0; i < n; i++) {
        double v = x[i];
        if (!isfinite(v)) {
            a->nonfinite++;
            continue;
        }
        finite++;
        sum += v;
        a->absolute += fabs(v);
        a->zeros += v == 0;
        a->low = v < a->low ? v : a->low;
        a->high = v > a->high ? v : a->high;
    }
    if (finite == 0)
        return;
    double mean = sum / finite;
    for (int i = 0; i < n; i++)
        if (isfinite(x[i]))
            m2 += (x[i] - mean) * (x[i] - mean);
    merge(a, finite, mean, m2);
}

static int is_ordinary(float low, float high)
{
    float most = -low > high ? -low : high;
    return most < 1e15f && (most > 1e-12f || most == 0);
}

static void add_floats(Moments *a, const float *x, int n)
{
    Sums s;
    if (n == BLOCK) {
        sums_of(x, &s);
        if (s.nonfinite == 0 && is_ordinary(s.low, s.high)) {
            float mean = s.sum / BLOCK;
            /* A float32 sum of large numbers is off; the small deviations from it are not. */
            double off, m2;
            deviations_of(x, mean, &off, &m2);
            off /= BLOCK;
            m2 -= BLOCK * off * off;
            a->absolute += s.absolute;
            a->zeros += s.zeros;
            a->low = s.low < a->low ? s.low : a->low;
            a->high = s.high > a->high ? s.high : a->high;
            merge(a, BLOCK, mean + off, m2 > 0 ? m2 : 0);
            return;
        }
    }
    double wide[BLOCK];
    for (int i = 0; i < n; i++)
        wide[i] = x[i];
    add_double(a, wide, n);
}

/* Return a block as float32, widened into `buffer` when it is of half the width. */
static const float *as_floats(const void *data, int64_t at, int n, int dtype, float *buffer)
{
    if (dtype == FLOAT32)
        return (const float *)data + at;
    if (dtype == BFLOAT16)
        widen_bfloat16((const uint16_t *)data + at, buffer, n);
    else
        widen_float16((const uint16_t *)data + at, buffer, n);
    return buffer;
}

/* out: tensors x COLUMNS. Moments are over finite entries, NaN when there are none. */
void tv_statistics(int64_t tensors, const void *const *data, const int64_t *counts,
                   const int32_t *dtypes, float *out)
{
    float buffer[BLOCK];
    for (int64_t t = 0; t < tensors; t++) {
        Moments m = {0, 0, 0, INFINITY, -INFINITY, 0, 0, 0};
        for (int64_t at = 0; at < counts[t]; at += BLOCK) {
            int n = counts[t] - at < BLOCK ? (int)(counts[t] - at) : BLOCK;
            if (dtypes[t] == FLOAT64)
                add_double(&m, (const double *)data[t] + at, n);
            else
                add_floats(&m, as_floats(data[t], at, n, dtypes[t], buffer), n);
        }
        double finite = (double)m.finite;
        float *row = out + t * COLUMNS;
        row[0] = m.finite ? (float)m.mean : NAN;
        row[1] = m.finite ? (float)sqrt(m.m2 / finite) : NAN;
        row[2] = m.finite ? (float)m.low : NAN;
        row[3] = m.finite ? (float)m.high : NAN;
        row[4] = m.finite ? (float)(m.absolute / finite) : NAN;
        row[5] = m.finite ? (float)sqrt(m.m2 + finite * m.mean * m.mean) : NAN;
        row[6] = counts[t] ? (float)((double)m.zeros / (double)counts[t]) : NAN;
        row[7] = (float)m.nonfinite;
    }
}

/* out: sum of squares of each tensor; not finite exactly when an entry is not. */
void tv_squares(int64_t tensors, const void *const *data, const int64_t *counts,
                const int32_t *dtypes, double *out)
{
    float buffer[BLOCK];
    for (int64_t t = 0; t < tensors; t++) {
        double total = 0;
        for (int64_t at = 0; at < counts[t]; at += BLOCK) {
            int n = counts[t] - at < BLOCK ? (int)(counts[t] - at) : BLOCK;
            if (dtypes[t] == FLOAT64) {
                const double *x = (const double *)data[t] + at;
                for (int i = 0; i < n; i++)
                    total += x[i] * x[i];
                continue;
            }
            const float *x = as_floats(data[t], at, n, dtypes[t], buffer);
            float quick = n == BLOCK ? squares_of(x) : 0;
            if (quick > 1e-20f && quick < 1e30f) {
                total += quick;
                continue;
            }
            for (int i = 0; i < n; i++)
                total += (double)x[i] * (double)x[i];
        }
        out[t] = total;
    }
}

/* out: tensors x 2: root mean square and mean of after - before; NaN for an empty tensor. */
void tv_differences(int64_t tensors, const void *const *before, const void *const *after,
                    const int64_t *counts, const int32_t *dtypes, float *out)
{
    float old_buffer[BLOCK], new_buffer[BLOCK], difference[BLOCK];
    for (int64_t t = 0; t < tensors; t++) {
        double square = 0, sum = 0;
        for (int64_t at = 0; at < counts[t]; at += BLOCK) {
            int n = counts[t] - at < BLOCK ? (int)(counts[t] - at) : BLOCK;
            if (dtypes[t] == FLOAT64) {
                const double *a = (const double *)before[t] + at, *b = (const double *)after[t] + at;
                for (int i = 0; i < n; i++) {
                    square += (b[i] - a[i]) * (b[i] - a[i]);
                    sum += b[i] - a[i];
                }
                continue;
            }
            const float *a = as_floats(before[t], at, n, dtypes[t], old_buffer);
            const float *b = as_floats(after[t], at, n, dtypes[t], new_buffer);
            if (n == BLOCK) {
                double part_sum, part_square;
                differences_of(a, b, difference);
                deviations_of(difference, 0, &part_sum, &part_square);
                /* Tiny or huge squares are taken again in double below. */
                if (part_square > 1e-20 && part_square < 1e30) {
                    square += part_square;
                    sum += part_sum;
                    continue;
                }
            }
            for (int i = 0; i < n; i++) {
                double d = (double)b[i] - (double)a[i];
                square += d * d;
                sum += d;
            }
        }
        double count = (double)counts[t];
        out[2 * t] = counts[t] ? (float)sqrt(square / count) : NAN;
        out[2 * t + 1] = counts[t] ? (float)(sum / count) : NAN;
    }
}
