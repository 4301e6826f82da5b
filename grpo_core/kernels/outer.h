/* The product of some rows with a matrix. Each sum has one fixed order, so a row's result does not depend on the batch.

   Compiled with -ffp-contract=off, so that all tiles round alike: only ``fused`` fuses. tree_attention.c has an
   ``outer`` of its own, which may round otherwise and also reads its left factor transposed. */

#include "vectors.h"

#define PANEL 16                  /* adjacent columns */
#define MAX_SUMS (TILE * COLUMNS) /* vectors in registers at once */
#define MAX_ROWS (MAX_SUMS / 2)   /* of one tile */

/* A matrix [num, size] in panels of PANEL columns: rows are ``stride`` apart, panels ``panel_stride``. */
typedef struct {
    const float *from;
    int64_t stride, panel_stride;
    int64_t ahead; /* prefetch distance in each panel, in floats; 0: none */
} Columns;

/* y[i] += a[i] B for ``rows`` rows and ``vectors`` vectors of columns, all sums in registers. As ``add_outer``. */
static inline __attribute__((always_inline)) void outer(const int rows, const int vectors, const float *a,
                                                        int64_t a_stride, const Columns *b, int64_t num, float *y,
                                                        int64_t y_stride) {
    vec sums[MAX_SUMS];
#pragma GCC unroll 16
    for (int i = 0; i < rows * vectors; i++) sums[i] = load(y + i / vectors * y_stride + i % vectors * LANES);
    const float *from = b->from;
    for (int64_t k = 0; k < num; k++, from += b->stride) {
        vec columns[4];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            const float *group = from + j * LANES / PANEL * b->panel_stride + j * LANES % PANEL;
            columns[j] = load(group);
            if (b->ahead) __builtin_prefetch(group + b->ahead);
        }
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const vec one = splat(a[i * a_stride + k]);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) sums[i * vectors + j] = fused(one, columns[j], sums[i * vectors + j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows * vectors; i++) store(y + i / vectors * y_stride + i % vectors * LANES, sums[i]);
}
#define SHAPE(rows, vectors)                                                                                           \
    case 8 * rows + vectors: outer(rows, vectors, a, a_stride, b, num, y, y_stride); return;

static void outer_tile(int rows, int vectors, const float *a, int64_t a_stride, const Columns *b, int64_t num, float *y,
                       int64_t y_stride) {
    switch (8 * rows + vectors) {
        SHAPE(1, 1) SHAPE(2, 1) SHAPE(3, 1) SHAPE(4, 1) SHAPE(1, 2) SHAPE(2, 2) SHAPE(3, 2) SHAPE(4, 2)
        SHAPE(1, 4) SHAPE(2, 4)
#if LANES == 16
        SHAPE(5, 1) SHAPE(6, 1) SHAPE(7, 1) SHAPE(8, 1) SHAPE(5, 2) SHAPE(6, 2) SHAPE(7, 2) SHAPE(8, 2)
        SHAPE(3, 4) SHAPE(4, 4)
#endif
    }
}

/* Vectors of columns that a tile of ``num_rows`` takes at most. */
static inline int widest(int64_t num_rows) { return 4 * num_rows <= MAX_SUMS ? 4 : 2; }

/* y[i] += a[i] B: ``a`` [num_rows, num], ``b`` [num, size], ``y`` [num_rows, size]. Each sum starts at y
   and adds the rows of ``b`` in order, so it may be computed in parts; PANEL divides ``size``. */
static void add_outer(const float *a, int64_t a_stride, int64_t num_rows, Columns b, int64_t num, float *y,
                      int64_t y_stride, int64_t size) {
    const float *start = b.from;
    for (int64_t i = 0; i < num_rows; i += MAX_ROWS) {
        const int rows = num_rows - i < MAX_ROWS ? (int)(num_rows - i) : MAX_ROWS;
        for (int64_t d = 0, vectors; d < size; d += vectors * LANES) {
            const int64_t left = (size - d) / LANES;
            vectors = left >= widest(rows) ? widest(rows) : left >= 2 ? 2 : 1;
            b.from = start + d / PANEL * b.panel_stride + d % PANEL;
            outer_tile(rows, (int)vectors, a + i * a_stride, a_stride, &b, num, y + i * y_stride + d, y_stride);
        }
        b.ahead = 0; /* the matrix is in a cache now */
    }
}
