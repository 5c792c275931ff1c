/* Percentiles of |x| of many tensors in one call, from a sample of their entries.
 *
 * native.py is the only caller. A float32's bits without the sign, shifted by 19, are its exponent
 * and the first four bits of its mantissa: bins of a sixteenth of an octave, which cost one increment
 * for each entry. A percentile is interpolated within its bin, so it is right to a few percent.
 */
#include "floats.h"

#define BLOCK 2048
#define BLOCKS_MAX 4 /* blocks that are read of one tensor, evenly spaced */
#define SHIFT 19
#define BINS 4096 /* 2^31 >> SHIFT */
#define INFINITE (0x7f800000 >> SHIFT)

static const double SHARES[3] = {0.05, 0.5, 0.95};

/* `low` and `high` are the first and the last bin in use: most tensors use about a hundred. */
typedef struct {
    uint32_t bins[BINS];
    uint32_t low, high;
} Histogram;

static void count(Histogram *h, const float *x, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t bits, bin;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffffu;
        bin = bits >> SHIFT;
        if (bits == 0 || bin >= INFINITE)
            continue;
        h->bins[bin]++;
        h->low = bin < h->low ? bin : h->low;
        h->high = bin > h->high ? bin : h->high;
    }
}

static float edge_of(uint32_t bin)
{
    uint32_t bits = bin << SHIFT;
    float edge;
    memcpy(&edge, &bits, 4);
    return edge;
}

/* Write the percentiles of SHARES, over finite entries that are not zero. */
static void percentiles(const Histogram *h, float *out)
{
    double total = 0, seen = 0;
    int next = 0;
    for (uint32_t k = h->low; k <= h->high; k++)
        total += h->bins[k];
    for (uint32_t k = h->low; k <= h->high && next < 3; k++) {
        while (next < 3 && h->bins[k] && SHARES[next] * total <= seen + h->bins[k]) {
            double part = (SHARES[next] * total - seen) / h->bins[k];
            float low = edge_of(k), high = edge_of(k + 1);
            out[next++] = (float)(low + part * ((double)high - low));
        }
        seen += h->bins[k];
    }
}

/* Write three columns from `column` on for each tensor whose pointer is not NULL; a tensor without
 * a finite entry that is not zero keeps what the row has. */
void tv_magnitudes(int64_t tensors, const int64_t *rows, const void *const *data,
                   const int64_t *counts, const int32_t *dtypes, float *out, int64_t columns,
                   int64_t column)
{
    float buffer[BLOCK];
    Histogram h = {{0}, 0, BINS - 1};
    for (int64_t t = 0; t < tensors; t++) {
        if (!data[t])
            continue;
        int64_t blocks = (counts[t] + BLOCK - 1) / BLOCK;
        int64_t step = (blocks + BLOCKS_MAX - 1) / BLOCKS_MAX;
        if (h.low <= h.high)
            memset(h.bins + h.low, 0, (h.high - h.low + 1) * sizeof h.bins[0]);
        h.low = BINS - 1;
        h.high = 0;
        for (int64_t block = 0; block < blocks; block += step) {
            int64_t at = block * BLOCK;
            int n = counts[t] - at < BLOCK ? (int)(counts[t] - at) : BLOCK;
            if (dtypes[t] == FLOAT64) {
                for (int i = 0; i < n; i++)
                    buffer[i] = (float)((const double *)data[t])[at + i];
                count(&h, buffer, n);
            } else
                count(&h, as_floats(data[t], at, n, dtypes[t], buffer), n);
        }
        percentiles(&h, out + rows[t] * columns + column);
    }
}
