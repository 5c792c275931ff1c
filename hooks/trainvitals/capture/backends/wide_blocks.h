/* The sums of blocks.h with vectors of 64 bytes: about half the time of those of 32 bytes.
 *
 * Only for processors that also have VBMI2 (Ice Lake, Zen 4 and later): earlier ones lower their
 * clock for some milliseconds after such instructions, and with it that of the training.
 */
#ifndef TRAINVITALS_WIDE_BLOCKS_H
#define TRAINVITALS_WIDE_BLOCKS_H

#define WIDE __attribute__((target("avx512f,avx512dq,avx512bw,avx512vbmi2")))
#define WIDE_WIDTH 16

static int has_wide(void)
{
#ifdef TRAINVITALS_NARROW
    return 0;
#endif
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2");
}

WIDE static void sums_of_wide(const float *restrict x, int n, float shift, Sums *out)
{
    const __m512 none = _mm512_setzero_ps(), by = _mm512_set1_ps(shift);
    __m512 sum[2], square[2], absolute[2], low[2], high[2];
    int zeros = 0;
    for (int k = 0; k < 2; k++) {
        sum[k] = square[k] = absolute[k] = none;
        low[k] = _mm512_set1_ps(INFINITY);
        high[k] = _mm512_set1_ps(-INFINITY);
    }
    for (int i = 0; i < n; i += 2 * WIDE_WIDTH)
        for (int k = 0; k < 2; k++) {
            const float *at = x + i + k * WIDE_WIDTH;
            __builtin_prefetch(at + AHEAD);
            __m512 v = _mm512_loadu_ps(at), d = _mm512_sub_ps(v, by);
            sum[k] = _mm512_add_ps(sum[k], d);
            square[k] = _mm512_fmadd_ps(d, d, square[k]);
            absolute[k] = _mm512_add_ps(absolute[k], _mm512_abs_ps(v));
            low[k] = _mm512_min_ps(v, low[k]);
            high[k] = _mm512_max_ps(v, high[k]);
            zeros += __builtin_popcount(_mm512_cmp_ps_mask(v, none, _CMP_EQ_OQ));
        }
    out->sum = _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
    out->square = _mm512_reduce_add_ps(_mm512_add_ps(square[0], square[1]));
    out->absolute = _mm512_reduce_add_ps(_mm512_add_ps(absolute[0], absolute[1]));
    out->low = _mm512_reduce_min_ps(_mm512_min_ps(low[0], low[1]));
    out->high = _mm512_reduce_max_ps(_mm512_max_ps(high[0], high[1]));
    out->zeros = zeros;
}

WIDE static int differences_of_wide(const float *restrict a, const float *restrict b, int n,
                                    double *sum, double *square)
{
    __m512 plain[2], squared[2];
    int same = 0;
    for (int k = 0; k < 2; k++)
        plain[k] = squared[k] = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 2 * WIDE_WIDTH)
        for (int k = 0; k < 2; k++) {
            int at = i + k * WIDE_WIDTH;
            __builtin_prefetch(a + at + AHEAD);
            __builtin_prefetch(b + at + AHEAD);
            __m512 x = _mm512_loadu_ps(a + at), y = _mm512_loadu_ps(b + at);
            __m512 d = _mm512_sub_ps(y, x);
            plain[k] = _mm512_add_ps(plain[k], d);
            squared[k] = _mm512_fmadd_ps(d, d, squared[k]);
            same += __builtin_popcount(_mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ));
        }
    *sum = _mm512_reduce_add_ps(_mm512_add_ps(plain[0], plain[1]));
    *square = _mm512_reduce_add_ps(_mm512_add_ps(squared[0], squared[1]));
    return same;
}

#endif
