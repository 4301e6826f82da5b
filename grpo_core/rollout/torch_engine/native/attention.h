/* Attention of a few queries over any keys, part by part.

   Legend: D head size. */

#include "vectors.h"

#define MAX_QUERIES 16
#define MAX_HEAD_SIZE 256

/* Attention of some queries in the making: sums of values, of weights, and the largest score so far. */
typedef struct {
    const float *queries[MAX_QUERIES];
    float *sums; /* [MAX_QUERIES, D] */
    float totals[MAX_QUERIES], tops[MAX_QUERIES];
} Attending;

/* Scores to weights of one query; its sums are rescaled as the largest score grows (Milakov and Gimelshein 2018). */
static void weigh(Attending *state, int query, float *row, int64_t num, int64_t size) {
    for (int64_t s = num; s % LANES; s++) row[s] = -INFINITY; /* a weight of 1e-38 */
    vec top = splat(state->tops[query]);
    for (int64_t s = 0; s < num; s += LANES) top = larger(load(row + s), top);
    const float most = largest_of(top);
    const float kept = expf(state->tops[query] - most);
    vec total = {0};
    for (int64_t s = 0; s < num; s += LANES) {
        const vec weights = exponential(load(row + s) - most);
        store(row + s, weights);
        total += weights;
    }
    state->totals[query] = state->totals[query] * kept + sum_of(total);
    state->tops[query] = most;
    if (kept == 1.0f) return;
    for (int64_t d = 0; d < size; d += LANES) {
        float *sums = state->sums + query * size + d;
        store(sums, load(sums) * kept);
    }
}

/* Queries first:last see ``num_keys`` keys more. */
static void attend(Attending *state, int first, int last, const float *keys, const float *values, int64_t num_keys,
                   int64_t size) {
    float columns[MAX_HEAD_SIZE * BLOCK] ALIGNED;
    const int is_turned = last - first > TILE; /* pays for turning the keys around */
    for (int64_t start = 0; start < num_keys; start += BLOCK) {
        const int64_t num = num_keys - start < BLOCK ? num_keys - start : BLOCK;
        if (is_turned) transpose(keys + start * size, num, size, size, columns);
        for (int q = first; q < last; q += TILE) {
            const int count = last - q < TILE ? last - q : TILE;
            float weights[TILE * BLOCK] ALIGNED = {0}, *rows[TILE], *sums[TILE];
            const float *queries[TILE];
            for (int i = 0; i < TILE; i++) {
                rows[i] = weights + i * BLOCK;
                sums[i] = state->sums + (q + i) * size;
                queries[i] = state->queries[i < count ? q + i : q];
            }
            if (is_turned)
                add_outer(rows, count, queries, columns, size, BLOCK);
            else
                for (int64_t s = 0; s < num; s += TILE) {
                    const float *few[TILE];
                    float scores[TILE * TILE];
                    four(keys + start * size, s, num, size, few);
                    tile(queries, few, size, scores);
                    for (int i = 0; i < count; i++) *(vec4 *)(rows[i] + s) = *(vec4 *)(scores + i * TILE);
                }
            for (int i = 0; i < count; i++) weigh(state, q + i, rows[i], num, size);
            add_outer(sums, count, (const float *const *)rows, values + start * size, num, size);
        }
    }
}

