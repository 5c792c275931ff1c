/* Vectors of float32, and conversion of half-precision entries to float32. */
#ifndef TRAINVITALS_FLOATS_H
#define TRAINVITALS_FLOATS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* The tests compile with TRAINVITALS_PORTABLE what other processors get, and with TRAINVITALS_NARROW
 * what those without vectors of 64 bytes get. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(TRAINVITALS_PORTABLE)
#include <immintrin.h>
#define HAVE_X86
#define VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define VECTORISED
#endif

enum { FLOAT32 = 0, FLOAT64 = 1, FLOAT16 = 2, BFLOAT16 = 3 };

/* Explicit vectors: the compiler does not find them in loops over lanes. Unaligned on purpose. */
typedef float Floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(32), aligned(4), may_alias));
#define WIDTH 8
#define SUM(v) (((v)[0] + (v)[4]) + ((v)[1] + (v)[5]) + ((v)[2] + (v)[6]) + ((v)[3] + (v)[7]))
#define SELECT(mask, a, b) ((Floats)(((Bits)(a) & (mask)) | ((Bits)(b) & ~(mask))))

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

#endif
