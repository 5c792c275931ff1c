/* The statistics of one module output in one call. native.py is the only caller. */
#include "floats.h"

#define ROWS 256        /* samples that are summed in float32 */
#define DEVIATIONS 2048 /* entries whose deviations are summed in float32 */

enum { PLAIN = 0, RELU, TANH, SIGMOID, BEFORE_TANH, BEFORE_SIGMOID };

/* Entry (sample, channel, position) is at start + sample * sample_stride + channel * channel_stride
 * + position * position_stride; a unit is a (channel, position). The order of the fields is that of
 * the array in native.py. */
typedef struct {
    int64_t entries; /* of the whole output, dense from `data` */
    int64_t samples, channels, positions;
    int64_t sample_stride, channel_stride, position_stride;
    int64_t dtype, mode;
    int64_t batches_min, samples_min; /* of Liveness */
} Shape;

VECTORISED static int64_t nonfinite_floats(const float *x, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        count += (bits & 0x7fffffff) >= 0x7f800000;
    }
    return count;
}

VECTORISED static int64_t nonfinite_halves(const uint16_t *x, int64_t n, uint16_t infinity)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += (x[i] & 0x7fff) >= infinity;
    return count;
}

static int64_t nonfinite_of(const void *data, int64_t n, int64_t dtype)
{
    if (dtype == FLOAT32)
        return nonfinite_floats(data, n);
    if (dtype != FLOAT64)
        return nonfinite_halves(data, n, dtype == BFLOAT16 ? 0x7f80 : 0x7c00);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += !isfinite(((const double *)data)[i]);
    return count;
}

static void gather(const void *data, const Shape *s, int64_t start, float *x)
{
    for (int64_t c = 0; c < s->channels; c++) {
        int64_t at = start + c * s->channel_stride;
        if (s->position_stride == 1 && s->dtype != FLOAT64) {
            const float *run = as_floats(data, at, (int)s->positions, (int)s->dtype, x);
            if (run != x)
                memcpy(x, run, (size_t)s->positions * 4);
            x += s->positions;
            continue;
        }
        for (int64_t p = 0; p < s->positions; p++, at += s->position_stride, x++)
            *x = s->dtype == FLOAT64 ? (float)((const double *)data)[at]
                                     : *as_floats(data, at, 1, (int)s->dtype, x);
    }
}

/* Rows of samples: sums of x - first, the largest value of each unit, and over all units the smallest
 * value and the number of zeros. */
VECTORISED static void add_rows(const float *restrict rows, int64_t stride, int64_t samples,
                                const float *restrict first, float *restrict sum,
                                float *restrict high, int64_t units, float *low, int64_t *zeros)
{
    Floats least = (Floats){0} + *low;
    Bits none = {0};
    for (int64_t i = 0; i < samples; i++) {
        const float *x = rows + i * stride;
        int64_t u = 0;
        for (; u + WIDTH <= units; u += WIDTH) {
            Floats v = *(const Floats *)(x + u), h = *(Floats *)(high + u);
            *(Floats *)(sum + u) += v - *(const Floats *)(first + u);
            *(Floats *)(high + u) = SELECT(v > h, v, h);
            least = SELECT(v < least, v, least);
            none -= v == 0;
        }
        for (; u < units; u++) {
            sum[u] += x[u] - first[u];
            high[u] = x[u] > high[u] ? x[u] : high[u];
            *low = x[u] < *low ? x[u] : *low;
            *zeros += x[u] == 0;
        }
    }
    for (int j = 0; j < WIDTH; j++) {
        *low = least[j] < *low ? least[j] : *low;
        *zeros += none[j];
    }
}

/* Sums of ((x - unit_mean) / scale)^2 and ((x - mean) / scale)^4 over rows of samples. */
VECTORISED static void add_deviations(const float *restrict rows, int64_t stride, int64_t samples,
                                      const float *restrict unit_mean, float mean, float inverse,
                                      int64_t units, double *square, double *fourth)
{
    Floats squares = {0}, fourths = {0};
    float rest_square = 0, rest_fourth = 0;
    for (int64_t i = 0; i < samples; i++) {
        const float *x = rows + i * stride;
        int64_t u = 0;
        for (; u + WIDTH <= units; u += WIDTH) {
            Floats v = *(const Floats *)(x + u);
            Floats d = (v - *(const Floats *)(unit_mean + u)) * inverse, g = (v - mean) * inverse;
            squares += d * d;
            g *= g;
            fourths += g * g;
        }
        for (; u < units; u++) {
            float d = (x[u] - unit_mean[u]) * inverse, g = (x[u] - mean) * inverse;
            rest_square += d * d;
            rest_fourth += g * g * g * g;
        }
    }
    for (int j = 0; j < WIDTH; j++) {
        *square += squares[j];
        *fourth += fourths[j];
    }
    *square += rest_square;
    *fourth += rest_fourth;
}

VECTORISED static int64_t outside(const float *x, int64_t n, float low, float high)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += (x[i] < low) | (x[i] > high);
    return count;
}

/* |x| at which tanh exceeds 0.99 (atanh 0.99), and at which sigmoid leaves (0.01, 0.99): ln 99. */
static const float SATURATED[6][2] = {
    {0, 0}, {0, 0}, {-0.99f, 0.99f}, {0.01f, 0.99f}, {-2.6466525f, 2.6466525f},
    {-4.5951199f, 4.5951199f}};

/* Statistics of one output: mean std min max nonfinite zero_share sample_std unit_mean_std
 * inactive_share dead_share saturated_share kurtosis; NaN where undefined. Samples with a non-finite
 * entry are left out. `idle`: batches and samples since each channel was last active, 2 x channels,
 * after two counters of all batches and samples; NULL: not wanted. `scratch`: units x 5 floats, and
 * samples x units more: a copy of the samples whose entries are finite, unless all are and are
 * adjacent float32. */
void tv_output(const void *data, const int64_t *shape, int64_t start, int64_t *idle,
               float *scratch, float *out)
{
    const Shape *s = (const Shape *)shape;
    int64_t units = s->channels * s->positions, kept, zeros, saturated, nonfinite = 0;
    /* If every entry is measured, the sums show whether an entry is not finite. */
    int is_counted = s->samples * units != s->entries;
    if (is_counted)
        nonfinite = nonfinite_of(data, s->entries, s->dtype);
    double *total = (double *)scratch;
    float *sum = scratch + 2 * units, *high = sum + units, *unit_mean = high + units;
    float *gathered = unit_mean + units, low, most;
    int direct = s->dtype == FLOAT32 && (s->positions == 1 ? s->channel_stride == 1
                                         : s->position_stride == 1 &&
                                               s->channel_stride == s->positions);
    for (int k = 0; k < 12; k++)
        out[k] = NAN;
    out[4] = (float)nonfinite;
    if (units == 0 || s->samples == 0)
        return;
    const float *rows;
    int64_t stride;
again:
    if (direct && !nonfinite) {
        rows = (const float *)data + start;
        stride = s->sample_stride;
        kept = s->samples;
    } else {
        rows = gathered;
        stride = units;
        kept = 0;
        for (int64_t i = 0; i < s->samples; i++) {
            gather(data, s, start + i * s->sample_stride, gathered + kept * units);
            kept += !nonfinite || !nonfinite_floats(gathered + kept * units, units);
        }
    }
    if (kept == 0)
        return;
    zeros = saturated = 0;
    low = INFINITY;
    most = -INFINITY;
    for (int64_t u = 0; u < units; u++) {
        total[u] = 0;
        high[u] = -INFINITY;
    }
    for (int64_t i = 0; i < kept; i += ROWS) {
        int64_t n = kept - i < ROWS ? kept - i : ROWS;
        memset(sum, 0, (size_t)units * sizeof *sum);
        add_rows(rows + i * stride, stride, n, rows, sum, high, units, &low, &zeros);
        for (int64_t u = 0; u < units; u++)
            total[u] += sum[u];
        for (int64_t k = i; s->mode >= TANH && k < i + n; k++)
            saturated += outside(rows + k * stride, units, SATURATED[s->mode][0],
                                 SATURATED[s->mode][1]);
    }
    double mean = 0, between = 0, square = 0, fourth = 0, entries = (double)kept * (double)units;
    for (int64_t u = 0; u < units; u++) {
        total[u] = rows[u] + total[u] / (double)kept;
        unit_mean[u] = (float)total[u];
        mean += total[u];
        most = high[u] > most ? high[u] : most;
    }
    mean /= (double)units;
    if (!is_counted && !isfinite(mean)) {
        is_counted = 1;
        nonfinite = nonfinite_of(data, s->entries, s->dtype);
        out[4] = (float)nonfinite;
        if (nonfinite)
            goto again;
    }
    for (int64_t u = 0; u < units; u++)
        between += (total[u] - mean) * (total[u] - mean);
    between /= (double)units;
    double scale = mean - low > most - mean ? mean - low : most - mean;
    float inverse = scale > 1e-30 && scale < 1e30 ? (float)(1 / scale) : 0;
    int64_t together = DEVIATIONS / units + 1;
    for (int64_t i = 0; i < kept; i += together)
        add_deviations(rows + i * stride, stride, kept - i < together ? kept - i : together,
                       unit_mean, (float)mean, inverse, units, &square, &fourth);
    double within = square / entries * scale * scale, variance = within + between;
    double relative = scale > 0 ? variance / (scale * scale) : 0;
    out[0] = (float)mean;
    out[1] = (float)sqrt(variance);
    out[2] = low;
    out[3] = most;
    out[5] = (float)((double)zeros / entries);
    out[6] = kept > 1 ? (float)sqrt(within) : NAN;
    out[7] = (float)sqrt(between);
    if (s->mode == RELU) {
        int64_t active = 0, dead = 0;
        if (idle) {
            idle[0]++;
            idle[1] += kept;
        }
        for (int64_t c = 0; c < s->channels; c++) {
            int fired = 0;
            for (int64_t p = 0; p < s->positions; p++)
                fired |= high[c * s->positions + p] > 0;
            active += fired;
            if (idle) {
                int64_t *batches = idle + 2 + c, *samples = batches + s->channels;
                *batches = fired ? 0 : *batches + 1;
                *samples = fired ? 0 : *samples + kept;
                dead += *batches >= s->batches_min && *samples >= s->samples_min;
            }
        }
        out[8] = (float)(1 - (double)active / (double)s->channels);
        if (idle && idle[0] >= s->batches_min && idle[1] >= s->samples_min)
            out[9] = (float)((double)dead / (double)s->channels);
    }
    if (s->mode >= TANH)
        out[10] = (float)((double)saturated / entries);
    out[11] = relative > 0 ? (float)(fourth / entries / (relative * relative) - 3) : NAN;
}
