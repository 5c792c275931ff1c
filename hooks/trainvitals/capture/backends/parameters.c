/* All statistics of many parameter tensors in one call: the hot path of capture on the CPU.
 *
 * Plain C, called through ctypes with data pointers: no torch header or ABI is touched. native.py
 * is the only caller. A tensor is read once, in blocks that stay in the first-level cache: one pass
 * for the sums, the extremes and the squared deviations from the mean of the blocks before, then the
 * copy and the drift if they are wanted; blocks are merged in double (Chan, Golub & LeVeque 1979). A
 * block whose mean differs by more than its spread is read again, for the deviations from its own
 * mean. Never E[x^2] - E[x]^2: far from zero that subtracts two nearly equal numbers. Blocks with
 * non-finite, very large or very small entries take a slower loop in double, so that squares
 * neither overflow nor vanish.
 *
 * `rows[t]` is the row of tensor t in the output matrix, which has `columns` columns.
 */
#include "blocks.h"
#include "magnitudes.h"

/* The number changes with the arguments of the functions: a library of older sources lacks the name. */
void tv_arguments_2(void) {}

typedef struct {
    double mean, m2, absolute, low, high;
    int64_t finite, zeros, nonfinite;
} Moments;

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

static void add_doubles(Moments *a, const float *x, int n)
{
    double wide[BLOCK];
    for (int i = 0; i < n; i++)
        wide[i] = x[i];
    add_double(a, wide, n);
}

static void add_floats(Moments *a, const float *x, int n)
{
    int whole = n / LANES * LANES;
    Sums s;
    float shift = (float)a->mean;
    if (whole)
        sums_of(x, whole, shift, &s);
    if (!whole || !isfinite(s.square) || !is_ordinary(s.low, s.high)) {
        add_doubles(a, x, n);
        return;
    }
    double off = s.sum / whole, m2 = s.square - whole * off * off;
    if (m2 < 0.5 * s.square) {
        /* The shift is far from the block's mean: too many digits cancel. */
        sums_of(x, whole, 0, &s);
        shift = s.sum / (float)whole;
        /* A float32 sum of large numbers is off; the small deviations from it are not. */
        deviations_of(x, whole, shift, &off, &m2);
        off /= whole;
        m2 -= whole * off * off;
    }
    a->absolute += s.absolute;
    a->zeros += s.zeros;
    a->low = s.low < a->low ? s.low : a->low;
    a->high = s.high > a->high ? s.high : a->high;
    merge(a, whole, shift + off, m2 > 0 ? m2 : 0);
    add_doubles(a, x + whole, n - whole);
}

static int width_of(int dtype)
{
    return dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : 2;
}

/* Add a block to the moments, and to the histogram if there is one. */
static void add_block(Moments *m, Histogram *h, const void *data, int64_t at, int n, int dtype,
                      float *buffer)
{
    if (dtype != FLOAT64) {
        const float *x = as_floats(data, at, n, dtype, buffer);
        add_floats(m, x, n);
        if (h)
            count(h, x, n);
        return;
    }
    const double *x = (const double *)data + at;
    add_double(m, x, n);
    if (!h)
        return;
    for (int i = 0; i < n; i++)
        buffer[i] = (float)x[i];
    count(h, buffer, n);
}

/* mean std min max abs_mean l2 zero_share nonfinite, over finite entries; NaN without any. Returns
 * the sum of squares. */
static double write_moments(const Moments *m, int64_t count, float *row)
{
    double finite = (double)m->finite, squares = m->m2 + finite * m->mean * m->mean;
    row[0] = m->finite ? (float)m->mean : NAN;
    row[1] = m->finite ? (float)sqrt(m->m2 / finite) : NAN;
    row[2] = m->finite ? (float)m->low : NAN;
    row[3] = m->finite ? (float)m->high : NAN;
    row[4] = m->finite ? (float)(m->absolute / finite) : NAN;
    row[5] = m->finite ? (float)sqrt(squares) : NAN;
    row[6] = count ? (float)((double)m->zeros / (double)count) : NAN;
    row[7] = (float)m->nonfinite;
    return squares;
}

static const Moments NO_MOMENTS = {0, 0, 0, INFINITY, -INFINITY, 0, 0, 0};

/* Statistics of gradients, columns 0 to 7, and from `magnitude_column` the percentiles of |x|; a
 * tensor whose pointer is NULL has none. totals: the sum of squares of all entries, NaN if an entry is not finite, and the number of tensors with such an
 * entry. */
void tv_gradients(int64_t tensors, const int64_t *rows, const void *const *data,
                  const int64_t *counts, const int32_t *dtypes, float *out, int64_t columns,
                  int64_t magnitude_column, double *totals)
{
    float buffer[BLOCK];
    Histogram h = NOTHING_COUNTED;
    totals[0] = totals[1] = 0;
    for (int64_t t = 0; t < tensors; t++) {
        Moments m = NO_MOMENTS;
        int64_t blocks = (counts[t] + BLOCK - 1) / BLOCK;
        if (!data[t])
            continue;
        for (int64_t block = 0; block < blocks; block++) {
            int64_t at = block * BLOCK;
            int n = counts[t] - at < BLOCK ? (int)(counts[t] - at) : BLOCK;
            add_block(&m, is_counted(block, blocks) ? &h : NULL, data[t], at, n, dtypes[t], buffer);
        }
        float *row = out + rows[t] * columns;
        write_magnitudes(&h, row + magnitude_column);
        totals[0] += write_moments(&m, counts[t], row);
        totals[1] += m.nonfinite > 0;
    }
    if (totals[1] > 0)
        totals[0] = NAN;
}

/* The totals of tv_gradients alone. */
void tv_squares(int64_t tensors, const void *const *data, const int64_t *counts,
                const int32_t *dtypes, double *totals)
{
    float buffer[BLOCK];
    totals[0] = totals[1] = 0;
    for (int64_t t = 0; t < tensors; t++) {
        double total = 0;
        if (!data[t])
            continue;
        for (int64_t at = 0; at < counts[t]; at += BLOCK) {
            int n = counts[t] - at < BLOCK ? (int)(counts[t] - at) : BLOCK;
            if (dtypes[t] == FLOAT64) {
                const double *x = (const double *)data[t] + at;
                for (int i = 0; i < n; i++)
                    total += x[i] * x[i];
                continue;
            }
            const float *x = as_floats(data[t], at, n, dtypes[t], buffer);
            int whole = n / LANES * LANES;
            float quick = squares_of(x, whole);
            if (quick > 1e-20f && quick < 1e30f)
                total += quick;
            else
                whole = 0;
            for (int i = whole; i < n; i++)
                total += (double)x[i] * (double)x[i];
        }
        totals[0] += total;
        totals[1] += !isfinite(total);
    }
    if (totals[1] > 0)
        totals[0] = NAN;
}

typedef struct {
    double square, sum;
    int64_t same;
} Change;

/* Add b - a of a block. */
static void add_change(Change *c, const void *old, const void *new, int64_t at, int n, int dtype,
                       float *old_buffer, float *new_buffer)
{
    if (dtype == FLOAT64) {
        const double *a = (const double *)old + at, *b = (const double *)new + at;
        for (int i = 0; i < n; i++) {
            c->square += (b[i] - a[i]) * (b[i] - a[i]);
            c->sum += b[i] - a[i];
            c->same += a[i] == b[i];
        }
        return;
    }
    const float *a = as_floats(old, at, n, dtype, old_buffer);
    const float *b = as_floats(new, at, n, dtype, new_buffer);
    double part_sum, part_square;
    int whole = n / LANES * LANES;
    int same = differences_of(a, b, whole, &part_sum, &part_square);
    if (same == whole || (part_square > 1e-20 && part_square < 1e30)) {
        c->square += part_square;
        c->sum += part_sum;
        c->same += same;
    } else
        whole = 0; /* tiny or huge squares are computed again in double */
    for (int i = whole; i < n; i++) {
        double d = (double)b[i] - (double)a[i];
        c->square += d * d;
        c->sum += d;
        c->same += a[i] == b[i];
    }
}

/* Copies of more bytes than this in one call go past the caches: they would not stay there until
 * the optimizer has stepped, and an ordinary store reads its line from memory first. */
#define CACHED_BYTES_MAX (1 << 20)

static void copy_cached(void *to, const void *from, int64_t bytes)
{
    memcpy(to, from, (size_t)bytes);
}

typedef void (*Copy)(void *, const void *, int64_t);

#ifdef HAVE_X86
__attribute__((target("avx2"))) static void copy_past_caches(void *to, const void *from,
                                                             int64_t bytes)
{
    int64_t whole = (uintptr_t)to % sizeof(__m256i) ? 0 : bytes / 32 * 32;
    for (int64_t at = 0; at < whole; at += 32)
        _mm256_stream_si256((__m256i *)((char *)to + at),
                            _mm256_loadu_si256((const __m256i *)((const char *)from + at)));
    copy_cached((char *)to + whole, (const char *)from + whole, bytes - whole);
}
#endif

static Copy copy_for(int64_t tensors, const int64_t *counts, const int32_t *dtypes)
{
#ifdef HAVE_X86
    int64_t bytes = 0;
    for (int64_t t = 0; t < tensors; t++)
        bytes += counts[t] * width_of(dtypes[t]);
    if (bytes > CACHED_BYTES_MAX && __builtin_cpu_supports("avx2"))
        return copy_past_caches;
#else
    (void)tensors, (void)counts, (void)dtypes;
#endif
    return copy_cached;
}

/* Statistics of weights, columns 0 to 7, from `magnitude_column` the percentiles of |x|, and from
 * `drift_column` the RMS and the mean of the change since `first[t]` (NULL: not wanted). `copies[t]` (NULL: not wanted) receives a copy; `squares`
 * the sum of squares of each row. */
void tv_weights(int64_t tensors, const int64_t *rows, const void *const *data,
                const int64_t *counts, const int32_t *dtypes, const void *const *first,
                void *const *copies, float *out, int64_t columns, int64_t drift_column,
                int64_t magnitude_column, double *squares)
{
    float buffer[BLOCK], first_buffer[BLOCK];
    Histogram h = NOTHING_COUNTED;
    Copy copy = copy_for(tensors, counts, dtypes);
    for (int64_t t = 0; t < tensors; t++) {
        Moments m = NO_MOMENTS;
        Change drift = {0, 0, 0};
        int64_t width = width_of(dtypes[t]), blocks = (counts[t] + BLOCK - 1) / BLOCK;
        for (int64_t block = 0; block < blocks; block++) {
            int64_t at = block * BLOCK;
            int n = counts[t] - at < BLOCK ? (int)(counts[t] - at) : BLOCK;
            add_block(&m, is_counted(block, blocks) ? &h : NULL, data[t], at, n, dtypes[t], buffer);
            if (first[t])
                add_change(&drift, first[t], data[t], at, n, dtypes[t], first_buffer, buffer);
            if (copies[t])
                copy((char *)copies[t] + at * width, (const char *)data[t] + at * width, n * width);
        }
        float *row = out + rows[t] * columns;
        squares[rows[t]] = write_moments(&m, counts[t], row);
        write_magnitudes(&h, row + magnitude_column);
        if (first[t] && counts[t]) {
            row[drift_column] = (float)sqrt(drift.square / (double)counts[t]);
            row[drift_column + 1] = (float)(drift.sum / (double)counts[t]);
        }
    }
#ifdef HAVE_X86
    _mm_sfence(); /* another thread may read the copies */
#endif
}

/* Statistics of after - before: RMS, RMS over the RMS of `before` (from `squares`, the rows' sums
 * of squares), mean, and the share of entries that are equal. NaN for an empty tensor. */
void tv_updates(int64_t tensors, const int64_t *rows, const void *const *before,
                const void *const *after, const int64_t *counts, const int32_t *dtypes,
                const double *squares, float *out, int64_t columns)
{
    float old_buffer[BLOCK], new_buffer[BLOCK];
    for (int64_t t = 0; t < tensors; t++) {
        Change c = {0, 0, 0};
        for (int64_t at = 0; at < counts[t]; at += BLOCK) {
            int n = counts[t] - at < BLOCK ? (int)(counts[t] - at) : BLOCK;
            add_change(&c, before[t], after[t], at, n, dtypes[t], old_buffer, new_buffer);
        }
        double count = (double)counts[t], had = squares[rows[t]];
        float *row = out + rows[t] * columns;
        row[0] = counts[t] ? (float)sqrt(c.square / count) : NAN;
        row[1] = counts[t] && had > 0 ? (float)sqrt(c.square / had) : NAN;
        row[2] = counts[t] ? (float)(c.sum / count) : NAN;
        row[3] = counts[t] ? (float)((double)c.same / count) : NAN;
    }
}
