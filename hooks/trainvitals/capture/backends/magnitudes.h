/* Percentiles of |x| of a tensor, from a sample of its entries.
 *
 * A float32's bits without the sign, shifted by 19, are its exponent
 * and the first four bits of its mantissa: bins of a sixteenth of an octave, which cost one increment
 * for each entry. A percentile is interpolated within its bin, so it is right to a few percent.
 */
#ifndef TRAINVITALS_MAGNITUDES_H
#define TRAINVITALS_MAGNITUDES_H

#include "blocks.h"

#define BLOCKS_MAX 4 /* blocks that are read of one tensor, evenly spaced */
#define SHIFT 19
#define BINS 4096 /* 2^31 >> SHIFT */
#define TABLES 4
#define FEW 512 /* up to so many entries are counted in one table */
#define INFINITE 0x7f800000 /* the bits of infinity; those of NaN are larger */

static const double SHARES[3] = {0.05, 0.5, 0.95};

/* Successive entries are counted in different tables: an increment that follows another of the same
 * bin waits for it. `low` and `high` are the least and the greatest bits of a finite entry that is
 * not zero; most tensors use about a hundred bins. Zeros are counted in bin 0 as well. */
typedef struct {
    uint16_t tables[TABLES][BINS]; /* at most BLOCKS_MAX * BLOCK entries */
    int32_t low, high, zeros, used; /* used: the number of tables */
} Histogram;

static const Histogram NOTHING_COUNTED = {{{0}}, 0x7fffffff, 0, 0, 1};

/* Write the bin of each entry, and extend low, high and zeros. `x` has room for whole vectors. */
VECTORISED static void bins_of(const float *restrict x, int n, int32_t *restrict bins,
                               Histogram *restrict h)
{
    Bits low = (Bits){0} + h->low, high = (Bits){0} + h->high, zeros = {0};
    for (int i = 0; i < n; i += WIDTH) {
        Bits bits = *(const Bits *)(x + i) & 0x7fffffff, zero = bits == 0;
        Bits least = bits | (zero & 0x7fffffff), most = bits & (bits < INFINITE);
        Bits below = least < low, above = most > high;
        low = (least & below) | (low & ~below);
        high = (most & above) | (high & ~above);
        zeros -= zero;
        *(Bits *)(bins + i) = bits >> SHIFT;
    }
    for (int j = 0; j < WIDTH; j++) {
        h->low = low[j] < h->low ? low[j] : h->low;
        h->high = high[j] > h->high ? high[j] : h->high;
        h->zeros += zeros[j];
    }
}

static void count(Histogram *h, const float *x, int n)
{
    int32_t bins[BLOCK];
    float rest[WIDTH] = {0};
    int whole = n / WIDTH * WIDTH, left = n - whole;
    bins_of(x, whole, bins, h);
    if (left) {
        memcpy(rest, x + whole, (size_t)left * sizeof *x);
        bins_of(rest, WIDTH, bins + whole, h);
        h->zeros -= WIDTH - left;
    }
    int i = 0;
    if (n > FEW) {
        h->used = TABLES;
        for (; i + TABLES <= n; i += TABLES)
            for (int k = 0; k < TABLES; k++)
                h->tables[k][bins[i + k]]++;
    }
    for (; i < n; i++)
        h->tables[0][bins[i]]++;
}

static float edge_of(uint32_t bin)
{
    uint32_t bits = bin << SHIFT;
    float edge;
    memcpy(&edge, &bits, 4);
    return edge;
}

/* Write the percentiles of SHARES from one table, over finite entries that are not zero. */
static void percentiles(const uint16_t *bins, int low, int high, float *out)
{
    int total = 0, seen = 0, k = low;
    for (int bin = low; bin <= high; bin++)
        total += bins[bin];
    for (int next = 0; next < 3; next++) {
        double wanted = SHARES[next] * total;
        for (int least = (int)ceil(wanted); seen + bins[k] < least; k++)
            seen += bins[k];
        double part = (wanted - seen) / bins[k];
        float from = edge_of((uint32_t)k), to = edge_of((uint32_t)k + 1);
        out[next] = (float)(from + part * ((double)to - from));
    }
}

/* Write the three percentiles of a tensor's histogram, and clear it for the next tensor; without a
 * finite entry that is not zero, `out` keeps what it has. */
static void write_magnitudes(Histogram *h, float *out)
{
    int low = h->low >> SHIFT, high = h->high >> SHIFT, infinite = INFINITE >> SHIFT;
    if (h->high) {
        for (int k = 1; k < h->used; k++)
            for (int bin = low; bin <= high; bin++)
                h->tables[0][bin] += h->tables[k][bin];
        if (low == 0)
            h->tables[0][0] -= (uint16_t)h->zeros;
        percentiles(h->tables[0], low, high, out);
    }
    for (int k = 0; k < h->used; k++) {
        uint16_t *bins = h->tables[k];
        bins[0] = 0;
        if (h->high)
            memset(bins + low, 0, (size_t)(high - low + 1) * sizeof *bins);
        memset(bins + infinite, 0, (size_t)(BINS - infinite) * sizeof *bins);
    }
    h->low = 0x7fffffff;
    h->high = h->zeros = 0;
    h->used = 1;
}

/* Whether a block of a tensor with so many blocks is counted: at most BLOCKS_MAX, evenly spaced. */
static int is_counted(int64_t block, int64_t blocks)
{
    return block % ((blocks + BLOCKS_MAX - 1) / BLOCKS_MAX) == 0;
}

#endif
