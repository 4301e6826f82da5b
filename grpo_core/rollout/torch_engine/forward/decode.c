/* One pass of a Qwen2, Qwen3 or Llama in float32: what decoder.py and attention_plan.py compute, in one call.

   A layer is seven stages of kernels/crew.h, whose items are some tokens, heads or rows of a weight.

   A token's state has the same bits whatever else is in the pass, however many threads there are, whichever of them does
   an item, and however its keys are divided.

   Legend: T tokens of the pass, H query heads, K key heads, D head size. Sizes of vectors that are multiplied (hidden,
   intermediate, H * D, D) are multiples of PANEL. */

#include <stdlib.h>

#include "attention.h"
#include "checked.h"
#include "crew.h"

#define MAX_ITEMS 8           /* of a thread in a stage: few enough to cost nothing, many enough to share */
#define MIN_NORM_FLOATS 16384 /* of an item that normalises: less is done before another thread has heard of it */
#define MIN_HEAD_COLUMNS 64   /* of an item that projects heads */
#define MAX_INNER 256    /* rows of a packed weight's block, which stays in the L1 cache */
#define MAX_TRANSPOSED 128   /* the same of a block that is transposed first */
#define AHEAD (16 * PANEL)

static void normalise(const float *x, const float *weight, double epsilon, int64_t size, float *y) {
    vec squares = {0};
    for (int64_t k = 0; k < size; k += LANES) squares = fused(load(x + k), load(x + k), squares);
    const float scale = (float)(1.0 / sqrt((double)sum_of(squares) / (double)size + epsilon));
    for (int64_t k = 0; k < size; k += LANES) store(y + k, load(x + k) * scale * load(weight + k));
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

/* The stages of a layer. After the last layer there is one more NORM. */
enum { NORM, HEADS, ATTENTION, OUTPUT, MLP_NORM, GATE_UP, DOWN, NUM_STAGES };

typedef struct {
    const Model *model;
    const Layer *layers;
    const Passes *passes;
    const Shared *shared;
    int64_t num_threads;
    int64_t norm_tokens, heads; /* of an item that normalises, that projects heads */
} Run;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t parts(int64_t num, int64_t size) { return (num + size - 1) / size; }

/* The tokens that layer ``index`` is computed for. */
static inline const Pass *tokens_of(const Run *run, int64_t index) {
    return index < run->model->num_layers - 1 ? run->passes->all : run->passes->wanted;
}

/* Columns that one tile of a product computes together. */
static inline int64_t tile_columns(const Run *run, int64_t num_tokens) {
    return run->model->is_packed ? LANES * widest(num_tokens) : 2 * PANEL;
}

/* Items of a product with ``num_columns``. */
static inline int64_t product_items(const Run *run, int64_t num_tokens, int64_t num_columns) {
    return least(parts(num_columns, tile_columns(run, num_tokens)), MAX_ITEMS * run->num_threads);
}

/* Tokens of an item of ATTENTION: as many as one call takes, unless a thread would have nothing to do. */
static inline int64_t block_tokens(const Run *run, int64_t num_tokens) {
    const int64_t key_heads = run->model->num_key_heads;
    const int64_t most = MAX_QUERIES / (run->model->num_heads / key_heads);
    return least(most, parts(num_tokens, parts(run->num_threads, key_heads)));
}

static int64_t num_items(const Run *run, int64_t index, int64_t kind) {
    const Model *model = run->model;
    const Pass *all = run->passes->all, *wanted = tokens_of(run, index);
    const int64_t num = wanted->num_tokens, norms = parts(num, run->norm_tokens);
    if (kind == NORM && index < model->num_layers && wanted != all) return parts(all->num_tokens, run->norm_tokens) + norms;
    if (kind == NORM || kind == MLP_NORM) return norms;
    if (kind == HEADS) return parts(model->num_heads + 2 * model->num_key_heads, run->heads);
    if (!num) return 0;
    if (kind == ATTENTION) return model->num_key_heads * parts(num, block_tokens(run, num));
    return product_items(run, num, kind == GATE_UP ? model->intermediate : model->hidden);
}

/* Normalises tokens first:last of ``from``. */
static void normalise_tokens(const Model *model, const float *from, const float *weight, int64_t first, int64_t last,
                             float *to) {
    for (int64_t t = first; t < last; t++)
        normalise(from + t * model->hidden, weight, model->epsilon, model->hidden, to + t * model->hidden);
}

/* NORM. In the last layer the first items are of all tokens, for their keys and values, and the others of the wanted
   ones, whose states begin here. */
static void begin_layer(const Run *run, int64_t index, int64_t item) {
    const Pass *all = run->passes->all, *wanted = run->passes->wanted;
    const float *weight = run->layers[index].attention_norm;
    const int64_t hidden = run->model->hidden, size = run->norm_tokens, num = parts(all->num_tokens, size);
    if (item < num) {
        const int64_t last = least((item + 1) * size, all->num_tokens);
        normalise_tokens(run->model, all->states, weight, item * size, last, run->shared->normed);
        return;
    }
    const int64_t first = (item - num) * size, last = least(first + size, wanted->num_tokens);
    for (int64_t t = first; t < last; t++)
        memcpy(wanted->states + t * hidden, all->states + run->passes->indices[t] * hidden,
               (size_t)hidden * sizeof(float));
    normalise_tokens(run->model, wanted->states, weight, first, last, run->shared->wanted_normed);
}

/* HEADS: queries of the tokens of the layer, keys and values of all tokens. */
static void project(const Run *run, int64_t index, int64_t item, const float *normed) {
    const int64_t heads = run->model->num_heads, first = item * run->heads;
    const int64_t last = least(first + run->heads, heads + 2 * run->model->num_key_heads);
    const Layer *layer = run->layers + index;
    project_heads(normed, run->model, tokens_of(run, index), index, layer, first, least(last, heads),
                  run->shared->heads);
    project_heads(run->shared->normed, run->model, run->passes->all, index, layer, first > heads ? first : heads, last,
                  run->shared->heads);
}

/* OUTPUT and DOWN: states[t] += x[t] W^T, and the bias. */
static void add_columns(const Run *run, const Pass *pass, int64_t item, const float *x, Weight weight,
                        const float *bias) {
    const int64_t num = pass->num_tokens, hidden = run->model->hidden;
    int64_t first, last;
    part_of(hidden, tile_columns(run, num), item, product_items(run, num, hidden), &first, &last);
    if (bias) add_bias(bias, num, first, last, pass->states, hidden);
    add_product(x, weight, num, first, last, pass->states, hidden);
}

static void do_item(const void *context, int64_t stage, int64_t item, int64_t me) {
    const Run *run = context;
    const Model *model = run->model;
    const Shared *shared = run->shared;
    const int64_t index = stage / NUM_STAGES;
    const Pass *pass = tokens_of(run, index);
    const Layer *layer = run->layers + index;
    float *normed = pass == run->passes->all ? shared->normed : shared->wanted_normed;
    const int64_t num = pass->num_tokens, size = block_tokens(run, num), token = item / model->num_key_heads * size;
    const int64_t width = model->num_heads * model->head_size;
    int64_t first = item * run->norm_tokens, last = least(first + run->norm_tokens, num);
    if (index == model->num_layers) {
        normalise_tokens(model, pass->states, model->final_norm, first, last, pass->states);
        return;
    }
    switch (stage % NUM_STAGES) {
        case NORM: begin_layer(run, index, item); return;
        case HEADS: project(run, index, item, normed); return;
        case ATTENTION:
            attend_block(model, pass, index, item % model->num_key_heads, token, least(token + size, num), shared, me);
            return;
        case OUTPUT:
            add_columns(run, pass, item, shared->attended, (Weight){layer->output, width, model->is_packed},
                        layer->output_bias);
            return;
        case MLP_NORM: normalise_tokens(model, pass->states, layer->mlp_norm, first, last, normed); return;
        case GATE_UP:
            part_of(model->intermediate, tile_columns(run, num), item, product_items(run, num, model->intermediate),
                    &first, &last);
            activate(normed, model, layer, num, first, last, shared->gates, shared->ups);
            return;
        default:
            add_columns(run, pass, item, shared->gates, (Weight){layer->down, model->intermediate, model->is_packed},
                        layer->down_bias);
    }
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
    const int64_t num_stages = model->num_layers * NUM_STAGES + 1;
    int64_t *items = malloc((size_t)num_stages * sizeof(int64_t));
    Run run = {model, layers, passes, &shared, pass->num_threads, 1, 1};
    if (hidden < MIN_NORM_FLOATS) run.norm_tokens = MIN_NORM_FLOATS / hidden;
    if (model->head_size < MIN_HEAD_COLUMNS) run.heads = MIN_HEAD_COLUMNS / model->head_size;
    for (int64_t s = 0; items && s < num_stages; s++) items[s] = num_items(&run, s / NUM_STAGES, s % NUM_STAGES);
    const int is_failed = !items || passes->run_stages(do_item, &run, items, num_stages, pass->num_threads);
    free(items);
    free(memory);
    return is_failed;
}
