/* One pass of a Qwen2, Qwen3 or Llama in float32: what decoder.py and attention_plan.py compute, in one call.

   All threads go through the layers together, each with its part of the tokens, heads or rows of a weight, and wait for
   each other in between.

   A token's state has the same bits whatever else is in the pass, however many threads there are, and however its keys
   are divided.

   Legend: T tokens of the pass, H query heads, K key heads, D head size. Sizes of vectors that are multiplied (hidden,
   intermediate, H * D, D) are multiples of PANEL. */

#include <omp.h>
#include <stdlib.h>

#include "attention.h"
#include "checked.h"

#define STEP (2 * PANEL) /* columns per unit of work of a thread */
#define MAX_INNER 256    /* rows of a packed weight's block, which stays in the L1 cache */
#define MAX_TRANSPOSED 128   /* the same of a block that is transposed first */
#define AHEAD (16 * PANEL)

/* The partition first:last of ``num`` items for thread ``index`` of ``threads``, in whole ``step``s. */
static inline void part_of(int64_t num, int64_t step, int64_t index, int64_t threads, int64_t *first, int64_t *last) {
    const int64_t steps = (num + step - 1) / step;
    *first = steps * index / threads * step;
    *last = steps * (index + 1) / threads * step;
    if (*last > num) *last = num;
}

static void normalise(const float *x, const float *weight, double epsilon, int64_t size, float *y) {
    vec squares = {0};
    for (int64_t k = 0; k < size; k += LANES) squares = fused(load(x + k), load(x + k), squares);
    const float scale = (float)(1.0 / sqrt((double)sum_of(squares) / (double)size + epsilon));
    for (int64_t k = 0; k < size; k += LANES) store(y + k, load(x + k) * scale * load(weight + k));
}

/* Normalises the states of a thread's partition of the tokens. */
static void normalise_part(const Model *model, const Pass *pass, const float *weight, float *normed, int64_t me,
                           int64_t threads) {
    int64_t first, last;
    part_of(pass->num_tokens, 1, me, threads, &first, &last);
    for (int64_t t = first; t < last; t++)
        normalise(pass->states + t * model->hidden, weight, model->epsilon, model->hidden, normed + t * model->hidden);
}

/* y[t, first:last] += x[t] W^T, ``x`` [T, in], rows first:last of ``weight``; first and last are multiples of PANEL. */
static void add_product(const float *x, Weight weight, int64_t num_tokens, int64_t first, int64_t last, float *y,
                        int64_t y_stride) {
    float transposed[MAX_TRANSPOSED * BLOCK] ALIGNED;
    const int64_t in = weight.in, is_packed = weight.is_packed;
    const int64_t width = is_packed ? LANES * widest(num_tokens) : BLOCK;
    const int64_t most = is_packed ? MAX_INNER : MAX_TRANSPOSED;
    for (int64_t n = first; n < last; n += width)
        for (int64_t k = 0; k < in; k += most) {
            const int64_t num = in - k < most ? in - k : most, size = last - n < width ? last - n : width;
            Columns columns = {weight.values + n * in + k * PANEL, PANEL, in * PANEL, AHEAD};
            if (!is_packed) {
                transpose(weight.values + n * in + k, size, in, num, transposed, BLOCK);
                columns = (Columns){transposed, BLOCK, PANEL, 0};
            }
            add_outer(x + k, in, num_tokens, columns, num, y + n, y_stride, size);
        }
}

static void add_bias(const float *bias, int64_t num_tokens, int64_t first, int64_t last, float *y, int64_t y_stride) {
    for (int64_t t = 0; t < num_tokens; t++)
        for (int64_t n = first; n < last; n++) y[t * y_stride + n] += bias[n];
}

/* y[t, first:last] = bias, or 0 without one. */
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
    add_product(x, (Weight){layer->gate_up, in, model->is_packed}, num_tokens, first, last, gates, size);
    add_product(x, (Weight){layer->gate_up + size * in, in, model->is_packed}, num_tokens, first, last, ups, size);
    for (int64_t t = 0; t < num_tokens; t++)
        for (int64_t n = first; n < last; n += LANES) {
            const vec gate = load(gates + t * size + n);
            const vec e = exponential(-larger(splat(-88.0f), gate));
            store(gates + t * size + n, gate / (1.0f + e) * load(ups + t * size + n));
        }
}

/* Rotary embedding of one head in place, halves paired (Su et al. 2021); see decoder.py for why there are three. */
static void rotate(float *x, const float *cosines, const float *sines, int64_t size) {
    const int64_t half = size / 2;
    for (int64_t k = 0; k < half; k++) {
        const float a = x[k], b = x[k + half];
        x[k] = a * cosines[k] - b * sines[k];
        x[k + half] = b * cosines[k] + a * sines[k];
    }
}

/* Heads first:last of all H + 2 K, queries, keys and values; keys and values are written to their stores. */
static void project_heads(const float *x, const Model *model, const Pass *pass, int64_t index, const Layer *layer,
                          int64_t first, int64_t last, float *heads) {
    const int64_t size = model->head_size, key_heads = model->num_key_heads;
    const int64_t width = (model->num_heads + 2 * key_heads) * size;
    if (first >= last) return;
    const float scale = (float)(1.0 / sqrt((double)size));
    fill(layer->qkv_bias, pass->num_tokens, first * size, last * size, heads, width);
    const Weight weight = {layer->qkv, model->hidden, model->is_packed};
    add_product(x, weight, pass->num_tokens, first * size, last * size, heads, width);
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

static void run_layer(const Model *model, const Pass *pass, const Pass *wanted, const Layer *layer, int64_t index,
                      const Shared *shared, int64_t me, int64_t threads) {
    const int64_t num = wanted->num_tokens, hidden = model->hidden, width = model->num_heads * model->head_size;
    const int64_t heads = model->num_heads, key_heads = model->num_key_heads, group = heads / key_heads;
    float *normed = wanted == pass ? shared->normed : shared->wanted_normed;
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
        attend_block(model, wanted, index, item % key_heads, start, start + block < num ? start + block : num, shared,
                     me);
    }
#pragma omp barrier
    part_of(hidden, STEP, me, threads, &first, &last);
    if (layer->output_bias) add_bias(layer->output_bias, num, first, last, wanted->states, hidden);
    const Weight output = {layer->output, width, model->is_packed};
    add_product(shared->attended, output, num, first, last, wanted->states, hidden);
#pragma omp barrier
    normalise_part(model, wanted, layer->mlp_norm, normed, me, threads);
#pragma omp barrier
    part_of(model->intermediate, STEP, me, threads, &first, &last);
    activate(normed, model, layer, num, first, last, shared->gates, shared->ups);
#pragma omp barrier
    part_of(hidden, STEP, me, threads, &first, &last);
    if (layer->down_bias) add_bias(layer->down_bias, num, first, last, wanted->states, hidden);
    const Weight down = {layer->down, model->intermediate, model->is_packed};
    add_product(shared->gates, down, num, first, last, wanted->states, hidden);
#pragma omp barrier
}

static void check_pass(const Model *model, const Pass *pass) {
    for (int64_t t = 0; t < pass->num_tokens; t++) {
        CHECK(pass->ids[t] >= 0 && pass->ids[t] < model->vocab_size);
        CHECK(pass->positions[t] >= 0 && pass->positions[t] < model->num_positions);
        CHECK(pass->stores[t] >= 0 && pass->stores[t] < pass->num_stores);
        CHECK(pass->offsets[t] >= 0 && pass->places[t] >= 0 && pass->places[t] <= pass->positions[t]);
    }
    for (int64_t s = 0; s < pass->num_segments; s++) {
        const Segment *segment = pass->segments + s;
        CHECK(segment->start >= 0 && segment->start < segment->stop && segment->stop <= pass->num_tokens);
        CHECK(segment->num_keys > 0 && segment->first_position >= 0);
    }
}

/* Writes the normalised states after the last layer to the wanted pass. Returns 0, or 1 when memory runs out. */
int grpo_decode(const Model *model, const Layer *layers, const Passes *passes) {
    const Pass *pass = passes->all, *wanted = passes->wanted;
    const int64_t num = pass->num_tokens, hidden = model->hidden, width = model->num_heads * model->head_size;
    const int64_t all_heads = width + 2 * model->num_key_heads * model->head_size, units = model->intermediate;
    check_pass(model, pass);
    check_pass(model, wanted);
    for (int64_t t = 0; t < wanted->num_tokens; t++) CHECK(passes->indices[t] >= 0 && passes->indices[t] < num);
    int64_t num_columns = 0; /* positions, padded to whole vectors */
    for (int64_t t = 0; t < num; t++)
        if (num_columns < pass->positions[t] + 1) num_columns = pass->positions[t] + 1;
    num_columns = (num_columns + PANEL - 1) / PANEL * PANEL + PANEL;
    const size_t by_token = (size_t)(num * (all_heads + width + 2 * units + 2 * hidden));
    const size_t needed = by_token + (size_t)(pass->num_threads * MAX_QUERIES * num_columns);
    float *memory = aligned_alloc(64, needed * sizeof(float)); /* all sizes are multiples of PANEL */
    if (!memory) return 1;
    Shared shared = {.heads = memory, .attended = memory + num * all_heads, .num_columns = num_columns};
    shared.gates = shared.attended + num * width;
    shared.ups = shared.gates + num * units;
    shared.normed = shared.ups + num * units;
    shared.wanted_normed = shared.normed + num * hidden;
    shared.scores = memory + by_token;
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
