/* Sums over one block of float32 entries, in vectors: at most BLOCK entries, a multiple of LANES. */
#ifndef TRAINVITALS_BLOCKS_H
#define TRAINVITALS_BLOCKS_H

#include "floats.h"

#define BLOCK 2048
#define LANES 32 /* the vector loops take a multiple of it */

/* `sum` and `square` are of the entries minus a shift; `square` is not finite if an entry is not. */
typedef struct {
    float sum, square, absolute, low, high;
    int32_t zeros;
} Sums;

/* Distance of software prefetch, in floats: the hardware's stops at the end of each page. */
#define AHEAD (2 * BLOCK)

VECTORISED static void sums_of_any(const float *restrict x, int n, float shift, Sums *out)
{
    Floats sum[2] = {{0}}, square[2] = {{0}}, absolute[2] = {{0}}, low[2], high[2];
    Bits zeros[2] = {{0}};
    for (int k = 0; k < 2; k++) {
        low[k] = (Floats){0} + INFINITY;
        high[k] = (Floats){0} - INFINITY;
    }
    for (int i = 0; i < n; i += 2 * WIDTH)
        for (int k = 0; k < 2; k++) {
            Floats v = *(const Floats *)(x + i + k * WIDTH), d = v - shift;
            Bits bits = (Bits)v & 0x7fffffff, below = v < low[k], above = v > high[k];
            sum[k] += d;
            square[k] += d * d;
            absolute[k] += (Floats)bits;
            low[k] = SELECT(below, v, low[k]);
            high[k] = SELECT(above, v, high[k]);
            zeros[k] -= bits == 0; /* a true comparison is -1 */
        }
    *out = (Sums){0, 0, 0, INFINITY, -INFINITY, 0};
    for (int k = 0; k < 2; k++)
        for (int j = 0; j < WIDTH; j++) {
            out->sum += sum[k][j];
            out->square += square[k][j];
            out->absolute += absolute[k][j];
            out->low = low[k][j] < out->low ? low[k][j] : out->low;
            out->high = high[k][j] > out->high ? high[k][j] : out->high;
            out->zeros += zeros[k][j];
        }
}

#ifdef HAVE_X86
#include "wide_blocks.h"

/* The same with the instructions for minimum and maximum, which the compiler does not find: half
 * the time of sums_of_any. */
__attribute__((target("avx2,fma"))) static void sums_of_avx2(const float *restrict x, int n,
                                                             float shift, Sums *out)
{
    const __m256 none = _mm256_setzero_ps(), by = _mm256_set1_ps(shift);
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 sum[2], square[2], absolute[2], low[2], high[2];
    __m256i zeros = _mm256_setzero_si256();
    for (int k = 0; k < 2; k++) {
        sum[k] = square[k] = absolute[k] = none;
        low[k] = _mm256_set1_ps(INFINITY);
        high[k] = _mm256_set1_ps(-INFINITY);
    }
    for (int i = 0; i < n; i += 2 * WIDTH) {
        __builtin_prefetch(x + AHEAD + i);
        for (int k = 0; k < 2; k++) {
            __m256 v = _mm256_loadu_ps(x + i + k * WIDTH), d = _mm256_sub_ps(v, by);
            sum[k] = _mm256_add_ps(sum[k], d);
            square[k] = _mm256_fmadd_ps(d, d, square[k]);
            absolute[k] = _mm256_add_ps(absolute[k], _mm256_and_ps(v, magnitude));
            low[k] = _mm256_min_ps(v, low[k]);
            high[k] = _mm256_max_ps(v, high[k]);
            zeros = _mm256_sub_epi32(zeros,
                                     _mm256_castps_si256(_mm256_cmp_ps(v, none, _CMP_EQ_OQ)));
        }
    }
    Floats all = (Floats)sum[0] + (Floats)sum[1], squares = (Floats)square[0] + (Floats)square[1];
    Floats magnitudes = (Floats)absolute[0] + (Floats)absolute[1];
    *out = (Sums){SUM(all), SUM(squares), SUM(magnitudes), INFINITY, -INFINITY, 0};
    for (int k = 0; k < 2; k++) {
        Floats l = (Floats)low[k], h = (Floats)high[k];
        for (int j = 0; j < WIDTH; j++) {
            out->low = l[j] < out->low ? l[j] : out->low;
            out->high = h[j] > out->high ? h[j] : out->high;
        }
    }
    for (int j = 0; j < WIDTH; j++)
        out->zeros += ((Bits)zeros)[j];
}
#endif

static void sums_of(const float *restrict x, int n, float shift, Sums *out)
{
#ifdef HAVE_X86
    if (has_wide()) {
        sums_of_wide(x, n, shift, out);
        return;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        sums_of_avx2(x, n, shift, out);
        return;
    }
#endif
    sums_of_any(x, n, shift, out);
}

VECTORISED static void deviations_of(const float *restrict x, int n, float mean, double *sum,
                                     double *m2)
{
    Floats plain[4] = {{0}}, square[4] = {{0}};
    for (int i = 0; i < n; i += 4 * WIDTH)
        for (int k = 0; k < 4; k++) {
            Floats d = *(const Floats *)(x + i + k * WIDTH) - mean;
            plain[k] += d;
            square[k] += d * d;
        }
    Floats all = (plain[0] + plain[1]) + (plain[2] + plain[3]);
    Floats squares = (square[0] + square[1]) + (square[2] + square[3]);
    *sum = SUM(all);
    *m2 = SUM(squares);
}

VECTORISED static float squares_of(const float *restrict x, int n)
{
    Floats square[4] = {{0}};
    for (int i = 0; i < n; i += 4 * WIDTH)
        for (int k = 0; k < 4; k++) {
            if (k % 2 == 0)
                __builtin_prefetch(x + AHEAD + i + k * WIDTH);
            Floats v = *(const Floats *)(x + i + k * WIDTH);
            square[k] += v * v;
        }
    Floats all = (square[0] + square[1]) + (square[2] + square[3]);
    return SUM(all);
}

/* Sum and sum of squares of b - a; returns the number of equal entries. */
VECTORISED static int differences_of_any(const float *restrict a, const float *restrict b, int n,
                                         double *sum, double *square)
{
    Floats plain[2] = {{0}}, squared[2] = {{0}};
    Bits same = {0};
    int total = 0;
    for (int i = 0; i < n; i += 2 * WIDTH) {
        __builtin_prefetch(a + AHEAD + i);
        __builtin_prefetch(b + AHEAD + i);
        for (int k = 0; k < 2; k++) {
            Floats x = *(const Floats *)(a + i + k * WIDTH);
            Floats y = *(const Floats *)(b + i + k * WIDTH), d = y - x;
            plain[k] += d;
            squared[k] += d * d;
            same -= x == y;
        }
    }
    for (int j = 0; j < WIDTH; j++)
        total += same[j];
    Floats all = plain[0] + plain[1], squares = squared[0] + squared[1];
    *sum = SUM(all);
    *square = SUM(squares);
    return total;
}

static int differences_of(const float *restrict a, const float *restrict b, int n, double *sum,
                          double *square)
{
#ifdef HAVE_X86
    if (has_wide())
        return differences_of_wide(a, b, n, sum, square);
#endif
    return differences_of_any(a, b, n, sum, square);
}

#endif
