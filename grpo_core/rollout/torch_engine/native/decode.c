/* One pass of a Qwen2, Qwen3 or Llama in float32: what decoder.py and attention.py compute, in one call.

   All threads go through the layers together, each with its part of the tokens, heads or rows of a weight, and wait for
   each other in between.

   Legend: T tokens of the pass, H query heads, K key heads, G = H / K, D head size. Sizes of vectors that are multiplied
   (hidden, intermediate, H * D, D) are multiples of LANES. */

#include <omp.h>
#include <stdlib.h>

#include "attention.h"

#define MIN_TURNED_TOKENS 32 /* of a product that turns its weight around */
#define MAX_TURNED 128

typedef struct {
    const float *attention_norm, *qkv, *qkv_bias, *query_norm, *key_norm, *output, *output_bias;
    const float *mlp_norm, *gate_up, *gate_up_bias, *down, *down_bias;
} Layer;

typedef struct {
    int64_t hidden, intermediate, num_layers, num_heads, num_key_heads, head_size;
    const float *embedding, *final_norm;
    const float *cosines, *sines; /* [positions, D / 2] */
    double epsilon;
} Model;

/* Where keys and values lie: of each layer and head [tokens, D], without gaps. */
typedef struct {
    float *keys, *values;
    int64_t layer_stride, head_stride;
} Store;

/* Keys and values that tokens start:stop of the pass all read. */
typedef struct {
    Store store;
    int64_t num_keys, start, stop;
} Segment;

typedef struct {
    int64_t num_tokens, num_segments, num_threads;
    /* [T]. A token's keys go to its place in the sequence that begins at an offset in its store, and it reads the
       sequence up to there. */
    const int64_t *ids, *positions, *stores, *offsets, *places;
    const Store *own;
    const Segment *segments;
    float *states; /* [T, hidden] */
} Pass;

/* Of the last layer all tokens need keys and values, and only some the rest. */
typedef struct {
    const Pass *all, *wanted;
    const int64_t *indices; /* [wanted->num_tokens], which of all they are */
} Passes;

/* What the threads share, by token. */
typedef struct {
    float *normed, *few, *heads, *attended, *gates, *ups; /* queries, keys and values are in ``heads`` */
} Shared;

static inline float *at(float *from, const Store *store, int64_t layer, int64_t head) {
    return from + layer * store->layer_stride + head * store->head_stride;
}

/* The part of ``num`` things that thread ``index`` of ``threads`` has: whole ``step``s, first to last. */
static inline void part_of(int64_t num, int64_t step, int64_t index, int64_t threads, int64_t *first, int64_t *last) {
    const int64_t steps = (num + step - 1) / step;
    *first = steps * index / threads * step;
    *last = steps * (index + 1) / threads * step;
    if (*last > num) *last = num;
}

static void normalise(const float *x, const float *weight, double epsilon, int64_t size, float *y) {
    vec squares = {0};
    for (int64_t k = 0; k < size; k += LANES) squares += load(x + k) * load(x + k);
    const float scale = (float)(1.0 / sqrt((double)sum_of(squares) / (double)size + epsilon));
    for (int64_t k = 0; k < size; k += LANES) store(y + k, load(x + k) * scale * load(weight + k));
}

/* The states of a thread's share of the tokens. */
static void normalise_part(const Model *model, const Pass *pass, const float *weight, float *normed, int64_t me,
                           int64_t threads) {
    int64_t first, last;
    part_of(pass->num_tokens, 1, me, threads, &first, &last);
    for (int64_t t = first; t < last; t++)
        normalise(pass->states + t * model->hidden, weight, model->epsilon, model->hidden, normed + t * model->hidden);
}

/* y[t, first:last] += x[t] W^T, ``x`` [T, in], rows first:last of ``weight``; first and last divide by TILE. Many
   tokens pay for turning BLOCK rows of the weight around, which saves the sums over lanes. */
static void add_product(const float *x, int64_t in, const float *weight, int64_t num_tokens, int64_t first, int64_t last,
                        float *y, int64_t y_stride) {
    int64_t n = first;
    for (; num_tokens >= MIN_TURNED_TOKENS && n + BLOCK <= last; n += BLOCK)
        for (int64_t k = 0; k < in; k += MAX_TURNED) { /* what is turned around stays in the first cache */
            float turned[MAX_TURNED * BLOCK] ALIGNED;
            const int64_t size = in - k < MAX_TURNED ? in - k : MAX_TURNED;
            transpose(weight + n * in + k, BLOCK, in, size, turned);
            for (int64_t t = 0; t < num_tokens; t += TILE) {
                const float *rows[TILE];
                float *sums[TILE];
                four(x + k, t, num_tokens, in, rows);
                for (int i = 0; i < TILE; i++) sums[i] = y + (t + i) * y_stride + n;
                add_outer(sums, num_tokens - t < TILE ? (int)(num_tokens - t) : TILE, rows, turned, size, BLOCK);
            }
        }
    for (; n < last; n += TILE) {
        const float *rows[TILE], *columns[TILE];
        four(weight, n, last, in, columns);
        for (int64_t t = 0; t < num_tokens; t += TILE) {
            float products[TILE * TILE];
            four(x, t, num_tokens, in, rows);
            tile(rows, columns, in, products);
            for (int i = 0; i < TILE && t + i < num_tokens; i++)
                *(vec4 *)(y + (t + i) * y_stride + n) += *(vec4 *)(products + i * TILE);
        }
    }
}

static void add_bias(const float *bias, int64_t num_tokens, int64_t first, int64_t last, float *y, int64_t y_stride) {
    for (int64_t t = 0; t < num_tokens; t++)
        for (int64_t n = first; n < last; n++) y[t * y_stride + n] += bias[n];
}

/* y[t, first:last] = b, or 0 without one. */
static void fill(const float *bias, int64_t num_tokens, int64_t first, int64_t last, float *y, int64_t y_stride) {
    for (int64_t t = 0; t < num_tokens; t++)
        for (int64_t n = first; n < last; n++) y[t * y_stride + n] = bias ? bias[n] : 0;
}

/* silu(gate) * up of intermediate units first:last. */
static void activate(const float *x, const Model *model, const Layer *layer, int64_t num_tokens, int64_t first,
                     int64_t last, float *gates, float *ups) {
    const int64_t in = model->hidden, size = model->intermediate;
    fill(layer->gate_up_bias, num_tokens, first, last, gates, size);
    fill(layer->gate_up_bias ? layer->gate_up_bias + size : NULL, num_tokens, first, last, ups, size);
    add_product(x, in, layer->gate_up, num_tokens, first, last, gates, size);
    add_product(x, in, layer->gate_up + size * in, num_tokens, first, last, ups, size);
    for (int64_t t = 0; t < num_tokens; t++)
        for (int64_t n = first; n < last; n += LANES) {
            const vec gate = load(gates + t * size + n);
            const vec e = exponential(-larger(splat(-88.0f), gate));
            store(gates + t * size + n, gate / (1.0f + e) * load(ups + t * size + n));
        }
}

/* Rotary embedding of one head, halves paired (Su et al. 2021). */
static void rotate(float *x, const float *cosines, const float *sines, int64_t size) {
    const int64_t half = size / 2;
    for (int64_t k = 0; k < half; k++) {
        const float a = x[k], b = x[k + half];
        x[k] = a * cosines[k] - b * sines[k];
        x[k + half] = b * cosines[k] + a * sines[k];
    }
}

/* Heads first:last of all H + 2 K, queries, keys and values; keys and values go to their stores. */
static void project_heads(const float *x, const Model *model, const Pass *pass, int64_t index, const Layer *layer,
                          int64_t first, int64_t last, float *heads) {
    const int64_t size = model->head_size, key_heads = model->num_key_heads;
    const int64_t width = (model->num_heads + 2 * key_heads) * size;
    if (first >= last) return;
    const float scale = (float)(1.0 / sqrt((double)size));
    fill(layer->qkv_bias, pass->num_tokens, first * size, last * size, heads, width);
    add_product(x, model->hidden, layer->qkv, pass->num_tokens, first * size, last * size, heads, width);
    for (int64_t t = 0; t < pass->num_tokens; t++)
        for (int64_t head = first; head < last; head++) {
            const int64_t key_head = head - model->num_heads, half = pass->positions[t] * (size / 2);
            const int is_query = key_head < 0, is_key = !is_query && key_head < key_heads;
            const float *norm = is_query ? layer->query_norm : is_key ? layer->key_norm : NULL;
            float *one = heads + t * width + head * size;
            if (norm) normalise(one, norm, model->epsilon, size, one);
            if (is_query || is_key) rotate(one, model->cosines + half, model->sines + half, size);
            if (is_query) {
                for (int64_t k = 0; k < size; k++) one[k] *= scale;
                continue;
            }
            const Store *own = pass->own + pass->stores[t];
            float *to = is_key ? at(own->keys, own, index, key_head)
                               : at(own->values, own, index, key_head - key_heads);
            memcpy(to + pass->offsets[t] + pass->places[t] * size, one, (size_t)size * sizeof(float));
        }
}

/* Tokens start:stop, all query heads of one key head. */
static void attend_block(const Model *model, const Pass *pass, int64_t index, int64_t key_head, int64_t start,
                         int64_t stop, const Shared *shared) {
    const int64_t size = model->head_size, group = model->num_heads / model->num_key_heads;
    const int64_t width = model->num_heads * size, column = key_head * group * size;
    float sums[MAX_QUERIES * MAX_HEAD_SIZE] ALIGNED;
    Attending state = {.sums = sums};
    const int num = (int)((stop - start) * group);
    for (int q = 0; q < num; q++) {
        state.queries[q] = shared->heads + (start + q / group) * (width + 2 * model->num_key_heads * size) + column +
                           q % group * size;
        state.tops[q] = -INFINITY;
        state.totals[q] = 0;
    }
    memset(sums, 0, sizeof(float) * (size_t)(num * size));
    for (int64_t s = 0; s < pass->num_segments; s++) {
        const Segment *segment = pass->segments + s;
        const Store *from = &segment->store;
        const int64_t first = segment->start > start ? segment->start : start;
        const int64_t last = segment->stop < stop ? segment->stop : stop;
        if (first >= last) continue;
        attend(&state, (int)((first - start) * group), (int)((last - start) * group),
               at(from->keys, from, index, key_head), at(from->values, from, index, key_head), segment->num_keys, size);
    }
    for (int64_t t = start, next; t < stop; t = next) { /* tokens of one sequence, which see the first one's keys all */
        for (next = t + 1; next < stop; next++)
            if (pass->stores[next] != pass->stores[t] || pass->offsets[next] != pass->offsets[t]) break;
        const Store *own = pass->own + pass->stores[t];
        const float *keys = at(own->keys, own, index, key_head) + pass->offsets[t];
        const float *values = at(own->values, own, index, key_head) + pass->offsets[t];
        const int64_t common = pass->places[t] + 1;
        attend(&state, (int)((t - start) * group), (int)((next - start) * group), keys, values, common, size);
        for (int64_t each = t + 1; each < next; each++)
            attend(&state, (int)((each - start) * group), (int)((each - start + 1) * group), keys + common * size,
                   values + common * size, pass->places[each] + 1 - common, size);
    }
    for (int q = 0; q < num; q++) {
        float *out = shared->attended + (start + q / group) * width + column + q % group * size;
        for (int64_t d = 0; d < size; d += LANES) store(out + d, load(sums + q * size + d) / state.totals[q]);
    }
}

static void run_layer(const Model *model, const Pass *pass, const Pass *wanted, const Layer *layer, int64_t index,
                      const Shared *shared, int64_t me, int64_t threads) {
    const int64_t num = wanted->num_tokens, hidden = model->hidden, width = model->num_heads * model->head_size;
    const int64_t heads = model->num_heads, key_heads = model->num_key_heads, group = heads / key_heads;
    const int64_t step = num < MIN_TURNED_TOKENS ? LANES : BLOCK;
    float *normed = wanted == pass ? shared->normed : shared->few;
    int64_t first, last;

    normalise_part(model, pass, layer->attention_norm, shared->normed, me, threads);
    if (wanted != pass) normalise_part(model, wanted, layer->attention_norm, normed, me, threads);
#pragma omp barrier
    part_of(heads + 2 * key_heads, 1, me, threads, &first, &last);
    project_heads(normed, model, wanted, index, layer, first, last < heads ? last : heads, shared->heads);
    project_heads(shared->normed, model, pass, index, layer, first > heads ? first : heads, last, shared->heads);
#pragma omp barrier
    if (!num) return;
    const int64_t blocks_wanted = (threads + key_heads - 1) / key_heads;
    int64_t block = (num + blocks_wanted - 1) / blocks_wanted;
    if (block > MAX_QUERIES / group) block = MAX_QUERIES / group;
    const int64_t num_blocks = (num + block - 1) / block;
    for (int64_t item = me; item < key_heads * num_blocks; item += threads) {
        const int64_t start = item / key_heads * block;
        attend_block(model, wanted, index, item % key_heads, start, start + block < num ? start + block : num, shared);
    }
#pragma omp barrier
    part_of(hidden, step, me, threads, &first, &last);
    if (layer->output_bias) add_bias(layer->output_bias, num, first, last, wanted->states, hidden);
    add_product(shared->attended, width, layer->output, num, first, last, wanted->states, hidden);
#pragma omp barrier
    normalise_part(model, wanted, layer->mlp_norm, normed, me, threads);
#pragma omp barrier
    part_of(model->intermediate, step, me, threads, &first, &last);
    activate(normed, model, layer, num, first, last, shared->gates, shared->ups);
#pragma omp barrier
    part_of(hidden, step, me, threads, &first, &last);
    if (layer->down_bias) add_bias(layer->down_bias, num, first, last, wanted->states, hidden);
    add_product(shared->gates, model->intermediate, layer->down, num, first, last, wanted->states, hidden);
#pragma omp barrier
}

/* Leaves the normalised states after the last layer in the wanted pass. Returns 0, or 1 where memory is short. */
int grpo_decode(const Model *model, const Layer *layers, const Passes *passes) {
    const Pass *pass = passes->all, *wanted = passes->wanted;
    const int64_t num = pass->num_tokens, hidden = model->hidden, width = model->num_heads * model->head_size;
    const int64_t all_heads = width + 2 * model->num_key_heads * model->head_size, units = model->intermediate;
    const size_t needed = (size_t)(num * (all_heads + width + 2 * units + 2 * hidden));
    float *memory = aligned_alloc(64, needed * sizeof(float)); /* all sizes are multiples of LANES */
    if (!memory) return 1;
    Shared shared = {.heads = memory, .attended = memory + num * all_heads};
    shared.gates = shared.attended + num * width;
    shared.ups = shared.gates + num * units;
    shared.normed = shared.ups + num * units;
    shared.few = shared.normed + num * hidden;
    for (int64_t t = 0; t < num; t++)
        memcpy(pass->states + t * hidden, model->embedding + pass->ids[t] * hidden, (size_t)hidden * sizeof(float));
#pragma omp parallel num_threads((int)pass->num_threads)
    {
        const int64_t me = omp_get_thread_num(), threads = omp_get_num_threads();
        for (int64_t index = 0; index < model->num_layers - 1; index++)
            run_layer(model, pass, pass, layers + index, index, &shared, me, threads);
        if (wanted != pass) {
            int64_t first, last;
            part_of(wanted->num_tokens, 1, me, threads, &first, &last); /* as normalise_part has them */
            for (int64_t t = first; t < last; t++)
                memcpy(wanted->states + t * hidden, pass->states + passes->indices[t] * hidden,
                       (size_t)hidden * sizeof(float));
        }
        const int64_t index = model->num_layers - 1;
        run_layer(model, pass, wanted, layers + index, index, &shared, me, threads);
        normalise_part(model, wanted, model->final_norm, wanted->states, me, threads);
    }
    free(memory);
    return 0;
}
