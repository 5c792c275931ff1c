/* The share of a matrix's rows that differ from each other; native.py is the only caller. */
#include "floats.h"
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

#define ROWS_MAX 256

static double entry_of(const void *data, int64_t at, int dtype, float *buffer)
{
    return dtype == FLOAT64 ? ((const double *)data)[at] : *as_floats(data, at, 1, dtype, buffer);
}

/* The number of distinct rows over the number of rows of a matrix (rows x entries), of which every
 * row_step-th row (at most ROWS_MAX) and every entry_step-th entry is compared, with a tolerance of
 * about 1e-5 of the largest entry. NaN if an entry is not finite. */
double tv_distinct_rows(const void *data, int32_t dtype, int64_t rows, int64_t entries,
                        int64_t row_step, int64_t entry_step)
{
    float buffer[1];
    uint64_t hashes[ROWS_MAX];
    double most = 0;
    int64_t kept = 0, distinct = 0;
    for (int64_t i = 0; i < rows; i += row_step)
        for (int64_t j = 0; j < entries; j += entry_step) {
            double v = fabs(entry_of(data, i * entries + j, dtype, buffer));
            if (!isfinite(v))
                return NAN;
            most = v > most ? v : most;
        }
    for (int64_t i = 0; i < rows && kept < ROWS_MAX; i += row_step) {
        uint64_t hash = 1469598103934665603u; /* FNV-1a over the rounded entries */
        for (int64_t j = 0; j < entries; j += entry_step) {
            double v = entry_of(data, i * entries + j, dtype, buffer);
            int64_t rounded = most > 0 ? (int64_t)nearbyint(v / most * 1e5) : 0;
            hash = (hash ^ (uint64_t)rounded) * 1099511628211u;
            hash ^= hash >> 29;
        }
        hashes[kept++] = hash;
    }
    qsort(hashes, (size_t)kept, sizeof hashes[0], by_value);
    for (int64_t i = 0; i < kept; i++)
        distinct += i == 0 || hashes[i] != hashes[i - 1];
    return (double)distinct / (double)kept;
}
