/* SIMD vectors of the processor's full width (AVX-512, else AVX2), and what the kernels do with them: exponential,
   sums, dot products of four vectors with four others, transposition. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define COLUMNS 4 /* vectors per row, for TILE rows whose sums are in registers at once */
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#define COLUMNS 2
#else
#error "the processor has neither AVX-512 nor AVX2 with FMA"
#endif
#define TILE 4
#define BLOCK 64 /* vectors that are transposed together */

/* Loads and stores may be unaligned. */
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float vec4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

#define ALIGNED __attribute__((aligned(4 * LANES))) /* no load crosses two cache lines */

static inline vec splat(float x) { return x - (vec){0}; }
static inline vec load(const float *from) { return *(const vec *)from; }
static inline void store(float *to, vec x) { *(vec *)to = x; }
static inline vec fused(vec a, vec b, vec c) { /* a b + c, rounded once */
#if LANES == 16
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#endif
}
static inline vec larger(vec a, vec b) { /* b where one of them is NaN */
    const ints takes_a = a > b;
    return (vec)(((ints)a & takes_a) | ((ints)b & ~takes_a));
}

/* e^x, x at most 88, within 2 units in the last place: Cody and Waite's reduction and a polynomial of degree 6. */
static inline vec exponential(vec x) {
    x = larger(splat(-87.0f), x);
    const vec shifted = fused(x, splat(1.44269504088896341f), splat(12582912.0f)); /* rounds: 1.5 * 2^23 */
    const vec whole = shifted - 12582912.0f;
    const vec r = fused(whole, splat(2.12194440e-4f), fused(whole, splat(-0.693359375f), x));
    vec y = splat(1.9875691500e-4f);
    y = fused(y, r, splat(1.3981999507e-3f));
    y = fused(y, r, splat(8.3334519073e-3f));
    y = fused(y, r, splat(4.1665795894e-2f));
    y = fused(y, r, splat(1.6666665459e-1f));
    y = fused(y, r, splat(5.0000001201e-1f));
    y = fused(y, r * r, r) + 1.0f;
    const ints scale = (__builtin_convertvector(whole, ints) + 127) << 23;
    return y * (vec)scale;
}

#if LANES == 16
#define LOWER_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define UPPER_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define LOWER_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define UPPER_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define LOWER_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define UPPER_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define LOWER_1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define UPPER_1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#else
#define LOWER_4 0, 1, 2, 3, 8, 9, 10, 11
#define UPPER_4 4, 5, 6, 7, 12, 13, 14, 15
#define LOWER_2 0, 1, 8, 9, 4, 5, 12, 13
#define UPPER_2 2, 3, 10, 11, 6, 7, 14, 15
#define LOWER_1 0, 8, 2, 10, 4, 12, 6, 14
#define UPPER_1 1, 9, 3, 11, 5, 13, 7, 15
#endif
/* Of each run of 2 n lanes: a's lower or upper n lanes, then b's. */
#define LOWER(a, b, n) __builtin_shufflevector(a, b, LOWER_##n)
#define UPPER(a, b, n) __builtin_shufflevector(a, b, UPPER_##n)
#define HALVES(a, b, n) (LOWER(a, b, n) + UPPER(a, b, n))

static inline float sum_of(vec x) {
#if LANES == 16
    x = HALVES(x, x, 8);
#endif
    x = HALVES(x, x, 4);
    x = HALVES(x, x, 2);
    return HALVES(x, x, 1)[0];
}

static inline float largest_of(vec x) { /* any of them if one is NaN */
#if LANES == 16
    x = larger(LOWER(x, x, 8), UPPER(x, x, 8));
#endif
    x = larger(LOWER(x, x, 4), UPPER(x, x, 4));
    x = larger(LOWER(x, x, 2), UPPER(x, x, 2));
    return larger(LOWER(x, x, 1), UPPER(x, x, 1))[0];
}

/* One step of the transposition of LANES rows of LANES. */
#define SWAP(rows, n)                                                                                                  \
    for (int i = 0; i < LANES; i++)                                                                                    \
        if (!(i & n)) {                                                                                                \
            const vec a = rows[i], b = rows[i + n];                                                                    \
            rows[i] = LOWER(a, b, n);                                                        \
            rows[i + n] = UPPER(a, b, n);                                                    \
        }

/* Products of four vectors with four others: ``out`` [TILE, TILE] has x[i] . w[j], each of ``size``. */
static inline void tile(const float *const x[TILE], const float *const w[TILE], int64_t size, float out[TILE * TILE]) {
    for (int first = 0; first < TILE; first += LANES / TILE) { /* rows whose sums fill LANES registers */
        vec sums[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) sums[i] = (vec){0};
        for (int64_t k = 0; k < size; k += LANES) {
            vec columns[TILE];
#pragma GCC unroll 4
            for (int j = 0; j < TILE; j++) columns[j] = load(w[j] + k);
#pragma GCC unroll 4
            for (int i = 0; i < LANES / TILE; i++) {
                const vec row = load(x[first + i] + k);
#pragma GCC unroll 4
                for (int j = 0; j < TILE; j++) sums[TILE * i + j] = fused(row, columns[j], sums[TILE * i + j]);
            }
        }
#if LANES == 16
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) sums[i] = HALVES(sums[i], sums[i + 8], 8);
#endif
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) sums[i] = HALVES(sums[i], sums[i + 4], 4);
        sums[0] = HALVES(sums[0], sums[2], 2);
        sums[1] = HALVES(sums[1], sums[3], 2);
        store(out + first * TILE, HALVES(sums[0], sums[1], 1));
    }
}

/* Four vectors from ``index`` on, ``size`` apart; beyond the last of ``num``, the last one again. */
static inline void four(const float *from, int64_t index, int64_t num, int64_t size, const float *rows[TILE]) {
    for (int i = 0; i < TILE; i++) rows[i] = from + (index + i < num ? index + i : num - 1) * size;
}

/* ``num`` vectors, ``stride`` apart, transposed to [size, width]; the last one is repeated up to the padding. */
static void transpose(const float *vectors, int64_t num, int64_t stride, int64_t size, float *columns, int64_t width) {
    for (int64_t s = 0; s < num; s += LANES)
        for (int64_t d = 0; d < size; d += LANES) {
            vec rows[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = load(vectors + (s + i < num ? s + i : num - 1) * stride + d);
#if LANES == 16
            SWAP(rows, 8)
#endif
            SWAP(rows, 4)
            SWAP(rows, 2)
            SWAP(rows, 1)
            for (int i = 0; i < LANES; i++) store(columns + (d + i) * width + s, rows[i]);
        }
}

