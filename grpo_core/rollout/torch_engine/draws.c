/* One token for each row of logits: sampling.py's ``_invert`` of a softmax, in one call.

   A row's token depends on its logits, its temperature and its uniform only: blocks of columns are summed by lanes, and
   the sums of the blocks one after the other.

   Legend: B rows, C columns. */

#include <stdlib.h>

#include "crew.h"
#include "vectors.h"

#define PART (64 * BLOCK) /* columns per unit of work of a thread */

typedef struct {
    const float *logits; /* [B, C] */
    int64_t num_rows, num_columns;
    const float *temperatures; /* [B] */
    const double *uniforms;    /* [B], from 0, below 1 */
    int64_t *columns;          /* [B], what is drawn */
    float *probabilities;      /* [B], of that; NaN where a logit is NaN or infinity, or all are minus infinity */
} Draws;

typedef struct {
    const Draws *asked;
    int64_t num_parts, num_blocks; /* of a row */
    float *tops;                   /* [B, parts], NaN where there is no softmax */
    double *sums;                  /* [B, blocks] */
} Drawing;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The ``num`` logits from ``from`` on, up to BLOCK, padded with minus infinity. */
static inline const float *padded(const float *from, int64_t num, float *to) {
    if (num >= BLOCK) return from;
    for (int64_t k = 0; k < BLOCK; k++) to[k] = k < num ? from[k] : -INFINITY;
    return to;
}

static void find_top(const Drawing *drawing, int64_t row, int64_t part) {
    const Draws *asked = drawing->asked;
    const int64_t stop = least((part + 1) * PART, asked->num_columns);
    float block[BLOCK] ALIGNED;
    vec top = splat(-INFINITY);
    ints wrong = {0};
    for (int64_t c = part * PART; c < stop; c += BLOCK) {
        const float *from = padded(asked->logits + row * asked->num_columns + c, stop - c, block);
        for (int64_t k = 0; k < BLOCK; k += LANES) {
            const vec logits = load(from + k);
            top = larger(top, logits);
            wrong |= (logits != logits) | (logits == splat(INFINITY));
        }
    }
    float *to = drawing->tops + row * drawing->num_parts + part;
    *to = largest_of(top);
    for (int i = 0; i < LANES; i++)
        if (wrong[i]) *to = NAN;
}

/* The largest logit of a row; NaN where there is no softmax. */
static float top_of(const Drawing *drawing, int64_t row) {
    const float *tops = drawing->tops + row * drawing->num_parts;
    float top = -INFINITY;
    for (int64_t part = 0; part < drawing->num_parts; part++)
        if (tops[part] != tops[part]) return NAN;
        else if (tops[part] > top) top = tops[part];
    return top == -INFINITY ? NAN : top;
}

/* exp of the logits, divided by the temperature, over that of the largest one; 0 where it has no mass in float32. */
static inline vec weights_of(vec logits, float temperature, float top) {
    const vec below = (logits - top) / temperature;
    return (vec)((ints)exponential(below) & (below > splat(-87.0f)));
}

static void sum_blocks(const Drawing *drawing, int64_t row, int64_t part) {
    const Draws *asked = drawing->asked;
    const float top = top_of(drawing, row), temperature = asked->temperatures[row];
    const int64_t stop = least((part + 1) * PART, asked->num_columns);
    float block[BLOCK] ALIGNED;
    for (int64_t c = part * PART; c < stop; c += BLOCK) {
        const float *from = padded(asked->logits + row * asked->num_columns + c, stop - c, block);
        vec total = {0};
        for (int64_t k = 0; k < BLOCK; k += LANES) total += weights_of(load(from + k), temperature, top);
        drawing->sums[row * drawing->num_blocks + c / BLOCK] = (double)sum_of(total);
    }
}

static void draw(const Drawing *drawing, int64_t row) {
    const Draws *asked = drawing->asked;
    const float top = top_of(drawing, row), temperature = asked->temperatures[row];
    const double *sums = drawing->sums + row * drawing->num_blocks;
    asked->columns[row] = 0;
    asked->probabilities[row] = NAN;
    if (top != top) return;
    double total = 0, end = 0, inside = 0, weights[BLOCK];
    for (int64_t b = 0; b < drawing->num_blocks; b++) total += sums[b];
    const double point = asked->uniforms[row] * total;
    int64_t b = 0, k = 0;
    for (;; b++) { /* the first block that ends beyond the point, and at the latest the last one with any mass */
        end += sums[b];
        if (end > point || end >= total) break;
    }
    float block[BLOCK] ALIGNED, found[BLOCK] ALIGNED;
    const int64_t first = b * BLOCK;
    const float *from =
        padded(asked->logits + row * asked->num_columns + first, asked->num_columns - first, block);
    for (int64_t j = 0; j < BLOCK; j += LANES) store(found + j, weights_of(load(from + j), temperature, top));
    for (int j = 0; j < BLOCK; j++) weights[j] = inside += (double)found[j];
    /* The block's sum was taken in single precision: the scaling makes both agree on where the block ends. */
    const double scale = sums[b] / inside, before = end - sums[b], last = inside * scale + before;
    for (;; k++) {
        const double here = weights[k] * scale + before;
        if (here > point || here >= last) break;
    }
    asked->columns[row] = first + k;
    asked->probabilities[row] = (float)((double)found[k] / total);
}

static void do_item(const void *context, int64_t stage, int64_t item, int64_t me) {
    const Drawing *drawing = context;
    (void)me;
    if (stage == 0) find_top(drawing, item / drawing->num_parts, item % drawing->num_parts);
    else if (stage == 1) sum_blocks(drawing, item / drawing->num_parts, item % drawing->num_parts);
    else draw(drawing, item);
}

/* Returns 0, or 1 when memory runs out. */
int grpo_draw(const Draws *asked, RunStages run_stages, int64_t num_threads) {
    Drawing drawing = {.asked = asked, .num_parts = (asked->num_columns + PART - 1) / PART,
                       .num_blocks = (asked->num_columns + BLOCK - 1) / BLOCK};
    const int64_t parts = asked->num_rows * drawing.num_parts, blocks = asked->num_rows * drawing.num_blocks;
    const int64_t num_items[] = {parts, parts, asked->num_rows};
    drawing.tops = malloc((size_t)parts * sizeof(float));
    drawing.sums = malloc((size_t)blocks * sizeof(double));
    const int is_failed =
        !drawing.tops || !drawing.sums || run_stages(do_item, &drawing, num_items, 3, num_threads);
    free(drawing.tops);
    free(drawing.sums);
    return is_failed;
}
