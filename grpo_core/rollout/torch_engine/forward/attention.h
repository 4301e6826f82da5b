/* Attention of at most MAX_QUERIES queries over keys that are stored in several segments.

   First all scores, each in the column of its key's position in the sequence, then the softmax, then the weighted sums
   of values, key by key. So the result depends neither on the segments nor on the other queries.

   training/forward/tree_attention.c has a ``score`` of its own: there many tiles of queries read each block of keys,
   which are transposed once for all of them; here at most MAX_QUERIES queries do, and transpose it on the spot.

   Legend: H query heads, K key heads, G = H / K, D head size. */

#include "outer.h"
#include "pass.h"

#define MAX_QUERIES 16
#define MAX_HEAD_SIZE 256
#define VALUES_AHEAD 16 /* rows of values that are prefetched */

/* The state of the attention of some queries. */
typedef struct {
    const float *queries; /* [MAX_QUERIES, D] */
    float *scores;        /* [MAX_QUERIES, num_columns], softmax weights later */
    float *sums;          /* [MAX_QUERIES, D] */
    int64_t size, num_columns;
} Attending;

/* Scores of queries first:last and ``num_keys`` keys from ``column`` on. Also writes the columns that pad them to a
   whole panel. */
static void score(const Attending *state, int first, int last, const float *keys, int64_t num_keys, int64_t column) {
    const int64_t size = state->size;
    float transposed[MAX_HEAD_SIZE * BLOCK] ALIGNED;
    for (int64_t start = 0; start < num_keys; start += BLOCK) {
        const int64_t num = num_keys - start < BLOCK ? num_keys - start : BLOCK;
        const int64_t width = (num + PANEL - 1) / PANEL * PANEL;
        float *scores = state->scores + first * state->num_columns + column + start;
        transpose(keys + start * size, num, size, size, transposed, BLOCK);
        for (int q = 0; q < last - first; q++)
            memset(scores + q * state->num_columns, 0, (size_t)width * sizeof(float));
        add_outer(state->queries + first * size, size, last - first, (Columns){transposed, BLOCK, PANEL, 0}, size,
                  scores, state->num_columns, width);
    }
}

/* Turns the scores of a query's ``num_keys`` keys into unnormalised softmax weights, and returns their sum, which is
   accumulated per lane of their columns. */
static float weigh(float *row, int64_t num_keys) {
    const int64_t end = (num_keys + LANES - 1) / LANES * LANES;
    for (int64_t s = num_keys; s < end; s++) row[s] = -INFINITY;
    vec top = splat(-INFINITY), total = {0};
    for (int64_t s = 0; s < end; s += LANES) top = larger(load(row + s), top);
    const float most = largest_of(top);
    for (int64_t s = 0; s < end; s += LANES) {
        store(row + s, exponential(load(row + s) - most));
        for (int64_t beyond = num_keys; beyond < s + LANES; beyond++) row[beyond] = 0; /* exp(-inf) is not quite 0 */
        total += load(row + s);
    }
    return sum_of(total);
}

/* Adds the weighted values of ``num_keys`` keys from ``column`` on to the sums of queries first:last. */
static void add_values(const Attending *state, int first, int last, const float *values, int64_t num_keys,
                       int64_t column) {
    const int64_t size = state->size;
    for (int64_t start = 0; start < num_keys; start += BLOCK) {
        const int64_t num = num_keys - start < BLOCK ? num_keys - start : BLOCK;
        const float *weights = state->scores + first * state->num_columns + column + start;
        add_outer(weights, state->num_columns, last - first,
                  (Columns){values + start * size, size, PANEL, VALUES_AHEAD * size}, num, state->sums + first * size,
                  size, size);
    }
}

/* The first token after ``t``, up to ``stop``, that belongs to another sequence. */
static inline int64_t end_of_run(const Pass *pass, int64_t t, int64_t stop) {
    int64_t next = t + 1;
    while (next < stop && pass->stores[next] == pass->stores[t] && pass->offsets[next] == pass->offsets[t]) next++;
    return next;
}

/* Visits the keys of tokens start:stop, for their scores if ``is_scoring``, else for their weighted values; ``state``
   has the G query heads of one key head.

   A free slot's token may read segments that do not belong to its sequence. Its output is finite, and never used. */
static void visit_keys(const Pass *pass, int64_t index, int64_t key_head, int64_t group, int64_t start, int64_t stop,
                       const Attending *state, int is_scoring) {
    const int64_t size = state->size;
    for (int64_t s = 0; s < pass->num_segments; s++) {
        const Segment *segment = pass->segments + s;
        const Store *from = &segment->store;
        const int64_t first = segment->start > start ? segment->start : start;
        const int64_t last = segment->stop < stop ? segment->stop : stop;
        if (first >= last) continue;
        const int a = (int)((first - start) * group), b = (int)((last - start) * group);
        const int64_t column = segment->first_position;
        if (is_scoring)
            score(state, a, b, at(from->keys, from, index, key_head), segment->num_keys, column);
        else
            add_values(state, a, b, at(from->values, from, index, key_head), segment->num_keys, column);
    }
    for (int64_t t = start, next; t < stop; t = next) {
        next = end_of_run(pass, t, stop);
        const Store *own = pass->own + pass->stores[t];
        const int64_t column = pass->positions[t] - pass->places[t], common = pass->places[t] + 1;
        const int a = (int)((t - start) * group), b = (int)((next - start) * group);
        if (is_scoring) { /* also of keys that only later tokens of the run see */
            const float *keys = at(own->keys, own, index, key_head) + pass->offsets[t];
            score(state, a, b, keys, pass->places[next - 1] + 1, column);
            continue;
        }
        const float *values = at(own->values, own, index, key_head) + pass->offsets[t];
        add_values(state, a, b, values, common, column);
        for (int64_t each = t + 1; each < next; each++) {
            const int first = (int)((each - start) * group);
            add_values(state, first, first + (int)group, values + common * size, pass->places[each] + 1 - common,
                       column + common);
        }
    }
}

/* Tokens start:stop, all query heads of one key head. */
static void attend_block(const Model *model, const Pass *pass, int64_t index, int64_t key_head, int64_t start,
                         int64_t stop, const Shared *shared, int64_t me) {
    const int64_t size = model->head_size, group = model->num_heads / model->num_key_heads;
    const int64_t width = model->num_heads * size, column = key_head * group * size, num = (stop - start) * group;
    const int64_t all_heads = width + 2 * model->num_key_heads * size;
    float queries[MAX_QUERIES * MAX_HEAD_SIZE] ALIGNED, sums[MAX_QUERIES * MAX_HEAD_SIZE] ALIGNED, totals[MAX_QUERIES];
    float *scores = shared->scores + me * MAX_QUERIES * shared->num_columns;
    const Attending state = {queries, scores, sums, size, shared->num_columns};
    for (int64_t t = start; t < stop; t++)
        memcpy(queries + (t - start) * group * size, shared->heads + t * all_heads + column,
               sizeof(float) * (size_t)(group * size));
    visit_keys(pass, index, key_head, group, start, stop, &state, 1);
    for (int64_t q = 0; q < num; q++)
        totals[q] = weigh(scores + q * shared->num_columns, pass->positions[start + q / group] + 1);
    memset(sums, 0, sizeof(float) * (size_t)(num * size));
    visit_keys(pass, index, key_head, group, start, stop, &state, 0);
    for (int64_t q = 0; q < num; q++) {
        float *out = shared->attended + (start + q / group) * width + column + q % group * size;
        for (int64_t d = 0; d < size; d += LANES) store(out + d, load(sums + q * size + d) / totals[q]);
    }
}
