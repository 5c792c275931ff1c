/* Sums over one block of float32 entries, in vectors: at most BLOCK entries, a multiple of LANES. */
#ifndef TRAINVITALS_BLOCKS_H
#define TRAINVITALS_BLOCKS_H

#include "floats.h"

#define BLOCK 2048
#define LANES 32 /* the vector loops take a multiple of it */

typedef struct {
    float sum, absolute, low, high;
    int32_t zeros, nonfinite; /* nonfinite: not 0 if an entry is not finite */
} Sums;

/* Distance of software prefetch, in floats: the hardware's stops at the end of each page. */
#define AHEAD (2 * BLOCK)

VECTORISED static void sums_of_any(const float *restrict x, int n, Sums *out)
{
    Floats sum[2] = {{0}}, absolute[2] = {{0}}, low[2], high[2];
    Bits zeros[2] = {{0}}, top[2] = {{0}};
    for (int k = 0; k < 2; k++) {
        low[k] = (Floats){0} + INFINITY;
        high[k] = (Floats){0} - INFINITY;
    }
    for (int i = 0; i < n; i += 2 * WIDTH)
        for (int k = 0; k < 2; k++) {
            Floats v = *(const Floats *)(x + i + k * WIDTH);
            Bits bits = (Bits)v & 0x7fffffff, below = v < low[k], above = v > high[k];
            sum[k] += v;
            absolute[k] += (Floats)bits;
            low[k] = SELECT(below, v, low[k]);
            high[k] = SELECT(above, v, high[k]);
            zeros[k] -= bits == 0; /* a true comparison is -1 */
            top[k] |= bits >= 0x7f800000;
        }
    *out = (Sums){0, 0, INFINITY, -INFINITY, 0, 0};
    for (int k = 0; k < 2; k++)
        for (int j = 0; j < WIDTH; j++) {
            out->sum += sum[k][j];
            out->absolute += absolute[k][j];
            out->low = low[k][j] < out->low ? low[k][j] : out->low;
            out->high = high[k][j] > out->high ? high[k][j] : out->high;
            out->zeros += zeros[k][j];
            out->nonfinite |= top[k][j];
        }
}

#ifdef HAVE_X86
/* The same with the instructions for minimum and maximum, which the compiler does not find: half
 * the time of sums_of_any. */
__attribute__((target("avx2,fma"))) static void sums_of_avx2(const float *restrict x, int n,
                                                         Sums *out)
{
    __m256 sum[4], absolute[4], low[2], high[2], none = _mm256_setzero_ps();
    __m256i zeros[2], top[2];
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (int k = 0; k < 4; k++)
        sum[k] = absolute[k] = none;
    for (int k = 0; k < 2; k++) {
        low[k] = _mm256_set1_ps(INFINITY);
        high[k] = _mm256_set1_ps(-INFINITY);
        zeros[k] = top[k] = _mm256_setzero_si256();
    }
    for (int i = 0; i < n; i += 4 * WIDTH)
        for (int k = 0; k < 4; k++) {
            if (k % 2 == 0)
                __builtin_prefetch(x + AHEAD + i + k * WIDTH);
            __m256 v = _mm256_loadu_ps(x + i + k * WIDTH), bits = _mm256_and_ps(v, magnitude);
            sum[k] = _mm256_add_ps(sum[k], v);
            absolute[k] = _mm256_add_ps(absolute[k], bits);
            low[k & 1] = _mm256_min_ps(v, low[k & 1]);
            high[k & 1] = _mm256_max_ps(v, high[k & 1]);
            zeros[k & 1] = _mm256_sub_epi32(
                zeros[k & 1], _mm256_castps_si256(_mm256_cmp_ps(v, none, _CMP_EQ_OQ)));
            top[k & 1] = _mm256_max_epi32(top[k & 1], _mm256_castps_si256(bits));
        }
    *out = (Sums){0, 0, INFINITY, -INFINITY, 0, 0};
    Floats all = ((Floats)sum[0] + (Floats)sum[1]) + ((Floats)sum[2] + (Floats)sum[3]);
    Floats magnitudes = ((Floats)absolute[0] + (Floats)absolute[1]) +
                        ((Floats)absolute[2] + (Floats)absolute[3]);
    out->sum = SUM(all);
    out->absolute = SUM(magnitudes);
    for (int k = 0; k < 2; k++) {
        Floats l = (Floats)low[k], h = (Floats)high[k];
        Bits z = (Bits)zeros[k], t = (Bits)top[k];
        for (int j = 0; j < WIDTH; j++) {
            out->low = l[j] < out->low ? l[j] : out->low;
            out->high = h[j] > out->high ? h[j] : out->high;
            out->zeros += z[j];
            out->nonfinite |= t[j] >= 0x7f800000;
        }
    }
}
#endif

static void sums_of(const float *restrict x, int n, Sums *out)
{
#ifdef HAVE_X86
    if (__builtin_cpu_supports("avx2")) {
        sums_of_avx2(x, n, out);
        return;
    }
#endif
    sums_of_any(x, n, out);
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

/* b - a; returns the number of equal entries. */
VECTORISED static int differences_of(const float *restrict a, const float *restrict b, int n,
                                     float *restrict difference)
{
    Bits same = {0};
    int total = 0;
    for (int i = 0; i < n; i += WIDTH) {
        __builtin_prefetch(a + AHEAD + i);
        __builtin_prefetch(b + AHEAD + i);
        Floats x = *(const Floats *)(a + i), y = *(const Floats *)(b + i);
        *(Floats *)(difference + i) = y - x;
        same -= x == y;
    }
    for (int j = 0; j < WIDTH; j++)
        total += same[j];
    return total;
}

#endif
