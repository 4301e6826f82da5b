/* A model and a pass over it, as decoder.py describes them.

   Legend: T tokens of the pass, D head size. */

#include <stdint.h>

#include "crew.h"

typedef struct {
    const float *attention_norm, *qkv, *qkv_bias, *query_norm, *key_norm, *output, *output_bias;
    const float *mlp_norm, *gate_up, *gate_up_bias, *down, *down_bias;
} Layer;

/* Rows of a linear map, [out, in] or packed. */
typedef struct {
    const float *values;
    int64_t in, is_packed;
} Weight;

typedef struct {
    int64_t hidden, intermediate, num_layers, num_heads, num_key_heads, head_size, vocab_size;
    int64_t is_packed; /* the weights are [out / PANEL, in, PANEL], not [out, in] */
    const float *embedding, *final_norm;
    const float *cosines, *sines; /* [num_positions, D / 2] */
    int64_t num_positions;
    double epsilon;
} Model;

/* Where keys and values are stored: per layer and head [tokens, D], contiguous. */
typedef struct {
    float *keys, *values;
    int64_t layer_stride, head_stride;
} Store;

/* Keys and values, from position ``first_position`` on, that tokens start:stop of the pass all read. */
typedef struct {
    Store store;
    int64_t num_keys, first_position, start, stop;
} Segment;

typedef struct {
    int64_t num_tokens, num_segments, num_threads, num_stores;
    /* [T]. A token's sequence begins at an offset in its store. Its keys are written to its place there, and it reads
       the sequence up to that place. */
    const int64_t *ids, *positions, *stores, *offsets, *places;
    const Store *own;
    const Segment *segments;
    float *states; /* [T, hidden] */
} Pass;

/* In the last layer all tokens need keys and values, and only the wanted ones need the rest. */
typedef struct {
    const Pass *all, *wanted;
    const int64_t *indices; /* [wanted->num_tokens], their indices in ``all`` */
    RunStages run_stages;
} Passes;

/* Buffers that the threads share, by token. */
typedef struct {
    float *normed, *wanted_normed, *heads, *attended, *gates, *ups; /* queries, keys and values are in ``heads`` */
    float *scores; /* by thread [MAX_QUERIES, num_columns] */
    int64_t num_columns;
} Shared;

static inline float *at(float *from, const Store *store, int64_t layer, int64_t head) {
    return from + layer * store->layer_stride + head * store->head_stride;
}
