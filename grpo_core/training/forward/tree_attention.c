/* Attention over a prefix tree, forward and backward, in float32: what tree_blocks.py computes, but one tile of queries
   by one tile of keys at a time, so that scores stay in the cache (Dao et al. 2022, FlashAttention).

   The query at place p sees the key at place j when j <= p < visible_until[j].

   Legend: T tokens, Q of them with queries, H query heads, K key heads, M = H / K, D head size, a multiple of LANES.
   The rows of a query tile are all M heads of some tokens; a key tile has BLOCK keys. */

#include <omp.h>
#include <stdlib.h>

#include "checked.h"
#include "vectors.h"

#define MAX_ROWS 64 /* of a tile of queries */
#define MAX_HEAD_SIZE 256
#define MASKED -1e30f /* the score of a masked key */

/* [tokens, heads, D], strides in elements. */
typedef struct {
    float *data;
    int64_t token_stride, head_stride;
} Heads;

typedef struct {
    int64_t num_queries, num_tokens, num_heads, num_key_heads, head_size, num_threads;
    const int32_t *places;                                /* [Q], ascending */
    const int32_t *visible_until;                         /* [T, padded with zeros to whole tiles] */
    const int32_t *min_visible_until, *max_visible_until; /* [key tiles] */
    float scaling;
} Problem;

typedef struct {
    Heads queries, keys, values; /* read */
    Heads output;                /* [Q, H, D] */
    float *log_totals;           /* [H, Q]: log of the sum of exp(score) */
} Forward;

typedef struct {
    Heads queries, keys, values, output, to_output; /* read */
    const float *log_totals;
    Heads to_queries, to_keys, to_values;
} Backward;

/* The keys and values of one key head, and both transposed by tiles: [key tiles, D, BLOCK]. */
typedef struct {
    float *keys, *values, *key_columns, *value_columns;
} Packed;

/* Queries first:last of one key head. */
typedef struct {
    int64_t first, last, num_rows; /* num_rows is padded to a multiple of TILE */
} Tile;

static inline float *of(const Heads *heads, int64_t token, int64_t head) {
    return heads->data + token * heads->token_stride + head * heads->head_stride;
}

static inline int64_t tiles_of(int64_t num, int64_t size) { return (num + size - 1) / size; }
static inline int64_t tokens_of_tile(const Problem *p) { return MAX_ROWS / (p->num_heads / p->num_key_heads); }
static inline int64_t num_key_tiles(const Problem *p) { return tiles_of(p->num_tokens, BLOCK); }
static inline int64_t num_query_tiles(const Problem *p) { return tiles_of(p->num_queries, tokens_of_tile(p)); }

static Tile tile_at(const Problem *p, int64_t index) {
    Tile tile = {.first = index * tokens_of_tile(p)};
    tile.last = tile.first + tokens_of_tile(p) < p->num_queries ? tile.first + tokens_of_tile(p) : p->num_queries;
    tile.num_rows = tiles_of((tile.last - tile.first) * (p->num_heads / p->num_key_heads), TILE) * TILE;
    return tile;
}

typedef enum { NONE, SOME, ALL } Visibility;

/* Which keys of a tile the queries of a tile see. SOME needs a mask, and may turn out to be none or all. */
static Visibility visibility(const Problem *p, const Tile *tile, int64_t key_tile) {
    const int64_t start = key_tile * BLOCK, least = p->places[tile->first], most = p->places[tile->last - 1];
    if (start > most || p->max_visible_until[key_tile] <= least) return NONE;
    return start + BLOCK - 1 <= least && p->min_visible_until[key_tile] > most ? ALL : SOME;
}

/* Partition the query tiles among the threads, weighted by the number of key tiles that they see. */
static void partition(const Problem *p, int64_t me, int64_t threads, int64_t *first, int64_t *last) {
    const int64_t num = num_query_tiles(p), num_keys = num_key_tiles(p);
    int64_t total = 0, before = 0;
    *first = *last = num;
    for (int counting = 1; counting >= 0; counting--) {
        for (int64_t i = 0; i < num; i++) {
            const Tile tile = tile_at(p, i);
            if (!counting && *first == num && before >= total * me / threads) *first = i;
            if (!counting && before >= total * (me + 1) / threads) {
                *last = i;
                return;
            }
            for (int64_t j = 0; j < num_keys; j++) *(counting ? &total : &before) += visibility(p, &tile, j) != NONE;
        }
    }
}

/* y[r] += sum over s of a[r][s] b[s] for TILE rows, ``columns`` vectors wide. Element s of a's row r is at
   r * a_row + s * a_step.

   Not ``outer`` of kernels/outer.h: here ``a`` may be transposed and the number of rows is fixed. That one adds in one
   order and is compiled with -ffp-contract=off, because a decoder's result must not depend on its batch. Training does
   not need that, and leaves it to the compiler what to fuse. */
static inline __attribute__((always_inline)) void outer(float *y, int64_t y_row, const float *a, int64_t a_row,
                                                        int64_t a_step, const float *b, int64_t b_row, int64_t num,
                                                        const int columns) {
    vec sums[TILE * COLUMNS];
#pragma GCC unroll 16
    for (int i = 0; i < TILE * columns; i++) sums[i] = load(y + i / columns * y_row + i % columns * LANES);
    for (int64_t s = 0; s < num; s++) {
        vec row[COLUMNS];
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) row[j] = load(b + s * b_row + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < TILE * columns; i++) sums[i] += a[i / columns * a_row + s * a_step] * row[i % columns];
    }
#pragma GCC unroll 16
    for (int i = 0; i < TILE * columns; i++) store(y + i / columns * y_row + i % columns * LANES, sums[i]);
}

/* y += a b, or y += a^T b: ``y`` [rows, size], ``b`` [num, size], ``a`` [rows, num] or, transposed, [num, rows]. */
static inline __attribute__((always_inline)) void add_products(float *y, int64_t rows, int64_t size, const float *a,
                                                               int64_t a_row, int64_t a_step, const float *b,
                                                               int64_t num) {
    int64_t d = 0;
    for (; d + COLUMNS * LANES <= size; d += COLUMNS * LANES)
        for (int64_t r = 0; r < rows; r += TILE)
            outer(y + r * size + d, size, a + r * a_row, a_row, a_step, b + d, size, num, COLUMNS);
    for (; d < size; d += LANES)
        for (int64_t r = 0; r < rows; r += TILE)
            outer(y + r * size + d, size, a + r * a_row, a_row, a_step, b + d, size, num, 1);
}

static void add_product(float *y, int64_t rows, int64_t size, const float *a, const float *b, int64_t num) {
    add_products(y, rows, size, a, num, 1, b, num);
}

/* Gather the rows of a tile: the heads of a token, then those of the next one; padded with zeros. */
static void pack_rows(const Problem *p, const Tile *tile, int64_t key_head, const Heads *from, float scale, float *rows) {
    const int64_t size = p->head_size, group = p->num_heads / p->num_key_heads;
    float *to = rows;
    for (int64_t t = tile->first; t < tile->last; t++)
        for (int64_t m = 0; m < group; m++, to += size)
            for (int64_t d = 0; d < size; d += LANES)
                store(to + d, load(of(from, t, key_head * group + m) + d) * scale);
    memset(to, 0, sizeof(float) * (size_t)(rows + tile->num_rows * size - to));
}

static void pack_keys(const Problem *p, int64_t key_head, const Heads *keys, const Heads *values, Packed *packed,
                      int64_t me, int64_t threads) {
    const int64_t size = p->head_size;
    for (int64_t tile = me; tile < num_key_tiles(p); tile += threads) {
        const int64_t start = tile * BLOCK, num = p->num_tokens - start < BLOCK ? p->num_tokens - start : BLOCK;
        float *const to[2] = {packed->keys + start * size, packed->values + start * size};
        float *const columns[2] = {packed->key_columns + start * size, packed->value_columns + start * size};
        const Heads *const from[2] = {keys, values};
        for (int i = 0; i < 2; i++) {
            for (int64_t s = 0; s < num; s++)
                memcpy(to[i] + s * size, of(from[i], start + s, key_head), sizeof(float) * (size_t)size);
            memset(to[i] + num * size, 0, sizeof(float) * (size_t)((BLOCK - num) * size));
            transpose(to[i], BLOCK, size, size, columns[i], BLOCK);
        }
    }
}

/* Scores [rows, BLOCK], masked where ``seen`` is SOME. */
static void score(const Problem *p, const Tile *tile, int64_t key_tile, Visibility seen, const float *queries,
                  const Packed *packed, float *scores) {
    const int64_t size = p->head_size, start = key_tile * BLOCK, group = p->num_heads / p->num_key_heads;
    memset(scores, 0, sizeof(float) * (size_t)(tile->num_rows * BLOCK));
    add_product(scores, tile->num_rows, BLOCK, queries, packed->key_columns + start * size, size);
    if (seen == ALL) return;
    ints lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i;
    for (int64_t r = 0; r < tile->num_rows; r++) {
        const int64_t token = tile->first + r / group;
        const int32_t place = p->places[token < tile->last ? token : tile->last - 1];
        for (int64_t s = 0; s < BLOCK; s += LANES) {
            const ints keys = lanes + (int32_t)(start + s);
            ints until;
            memcpy(&until, p->visible_until + start + s, sizeof until);
            const ints visible = (keys <= place) & (until > place);
            float *row = scores + r * BLOCK + s;
            store(row, (vec)(((ints)load(row) & visible) | ((ints)splat(MASKED) & ~visible)));
        }
    }
}

static inline vec weight_of(vec score, vec most) {
    const ints is_seen = score != splat(MASKED);
    return (vec)((ints)exponential(score - most) & is_seen);
}

/* Online softmax (Milakov and Gimelshein 2018): scores to weights; earlier sums are rescaled to a new largest score. */
static void weigh(float *row, float *top, float *total, float *sums, int64_t size) {
    vec largest = splat(*top);
    for (int64_t s = 0; s < BLOCK; s += LANES) largest = larger(load(row + s), largest);
    const float most = largest_of(largest), kept = expf(*top - most);
    vec totals = {0};
    for (int64_t s = 0; s < BLOCK; s += LANES) {
        const vec weights = weight_of(load(row + s), splat(most));
        store(row + s, weights);
        totals += weights;
    }
    *total = *total * kept + sum_of(totals);
    *top = most;
    if (kept == 1.0f) return;
    for (int64_t d = 0; d < size; d += LANES) store(sums + d, load(sums + d) * kept);
}

static void forward_tile(const Problem *p, const Forward *f, const Packed *packed, int64_t key_head, int64_t index) {
    const int64_t size = p->head_size, group = p->num_heads / p->num_key_heads;
    const Tile tile = tile_at(p, index);
    float queries[MAX_ROWS * MAX_HEAD_SIZE] ALIGNED, sums[MAX_ROWS * MAX_HEAD_SIZE] ALIGNED;
    float weights[MAX_ROWS * BLOCK] ALIGNED, tops[MAX_ROWS], totals[MAX_ROWS] = {0};
    for (int r = 0; r < MAX_ROWS; r++) tops[r] = MASKED;
    memset(sums, 0, sizeof(float) * (size_t)(tile.num_rows * size));
    pack_rows(p, &tile, key_head, &f->queries, p->scaling, queries);
    for (int64_t j = 0; j < num_key_tiles(p); j++) {
        const Visibility seen = visibility(p, &tile, j);
        if (seen == NONE) continue;
        score(p, &tile, j, seen, queries, packed, weights);
        for (int64_t r = 0; r < tile.num_rows; r++)
            weigh(weights + r * BLOCK, tops + r, totals + r, sums + r * size, size);
        add_product(sums, tile.num_rows, size, weights, packed->values + j * BLOCK * size, BLOCK);
    }
    for (int64_t t = tile.first, r = 0; t < tile.last; t++)
        for (int64_t m = 0; m < group; m++, r++) {
            const int64_t head = key_head * group + m;
            for (int64_t d = 0; d < size; d += LANES)
                store(of(&f->output, t, head) + d, load(sums + r * size + d) / totals[r]);
            f->log_totals[head * p->num_queries + t] = tops[r] + logf(totals[r]);
        }
}

/* Adds to the gradients of all keys and values, ``to_keys`` and ``to_values`` [T, D]. */
static void backward_tile(const Problem *p, const Backward *b, const Packed *packed, int64_t key_head, int64_t index,
                          float *to_keys, float *to_values) {
    const int64_t size = p->head_size, group = p->num_heads / p->num_key_heads;
    const Tile tile = tile_at(p, index);
    float queries[MAX_ROWS * MAX_HEAD_SIZE] ALIGNED, given[MAX_ROWS * MAX_HEAD_SIZE] ALIGNED;
    float to_queries[MAX_ROWS * MAX_HEAD_SIZE] ALIGNED, weights[MAX_ROWS * BLOCK] ALIGNED;
    float to_scores[MAX_ROWS * BLOCK] ALIGNED, means[MAX_ROWS] = {0}, log_totals[MAX_ROWS] = {0};
    pack_rows(p, &tile, key_head, &b->queries, p->scaling, queries);
    pack_rows(p, &tile, key_head, &b->output, 1.0f, to_queries);
    pack_rows(p, &tile, key_head, &b->to_output, 1.0f, given);
    for (int64_t t = tile.first, r = 0; t < tile.last; t++)
        for (int64_t m = 0; m < group; m++, r++) {
            vec products = {0};
            for (int64_t d = 0; d < size; d += LANES)
                products += load(given + r * size + d) * load(to_queries + r * size + d);
            means[r] = sum_of(products); /* of the weights' gradient, under the weights */
            log_totals[r] = b->log_totals[(key_head * group + m) * p->num_queries + t];
        }
    memset(to_queries, 0, sizeof(float) * (size_t)(tile.num_rows * size));
    for (int64_t j = 0; j < num_key_tiles(p); j++) {
        const Visibility seen = visibility(p, &tile, j);
        const int64_t start = j * BLOCK * size;
        if (seen == NONE) continue;
        score(p, &tile, j, seen, queries, packed, weights);
        memset(to_scores, 0, sizeof(float) * (size_t)(tile.num_rows * BLOCK));
        add_product(to_scores, tile.num_rows, BLOCK, given, packed->value_columns + start, size);
        for (int64_t r = 0; r < tile.num_rows; r++)
            for (int64_t s = r * BLOCK; s < (r + 1) * BLOCK; s += LANES) {
                const vec weight = weight_of(load(weights + s), splat(log_totals[r]));
                store(weights + s, weight);
                store(to_scores + s, weight * (load(to_scores + s) - means[r]));
            }
        /* Both are [rows, BLOCK], and read transposed. */
        add_products(to_values + start, BLOCK, size, weights, 1, BLOCK, given, tile.num_rows);
        if (to_keys) add_products(to_keys + start, BLOCK, size, to_scores, 1, BLOCK, queries, tile.num_rows);
        add_product(to_queries, tile.num_rows, size, to_scores, packed->keys + start, BLOCK);
    }
    for (int64_t t = tile.first, r = 0; t < tile.last; t++)
        for (int64_t m = 0; m < group; m++, r++)
            for (int64_t d = 0; d < size; d += LANES)
                store(of(&b->to_queries, t, key_head * group + m) + d, load(to_queries + r * size + d) * p->scaling);
}

/* Allocate for one key head. Returns 0 when out of memory. */
static int open_packed(const Problem *p, Packed *packed) {
    const size_t size = (size_t)(num_key_tiles(p) * BLOCK * p->head_size);
    packed->keys = aligned_alloc(64, 4 * size * sizeof(float));
    packed->values = packed->keys + size;
    packed->key_columns = packed->values + size;
    packed->value_columns = packed->key_columns + size;
    return packed->keys != NULL;
}

static void check_problem(const Problem *p) {
    CHECK(p->head_size % LANES == 0 && p->head_size <= MAX_HEAD_SIZE && p->num_heads % p->num_key_heads == 0);
    for (int64_t q = 0; q < p->num_queries; q++)
        CHECK(p->places[q] >= 0 && p->places[q] < p->num_tokens && (q == 0 || p->places[q - 1] < p->places[q]));
    for (int64_t t = 0; t < p->num_tokens; t++) CHECK(p->visible_until[t] > t && p->visible_until[t] <= p->num_tokens);
}

/* Returns 0, or 1 when out of memory. */
int grpo_tree_attention(const Problem *p, const Forward *f) {
    check_problem(p);
    Packed packed;
    if (!open_packed(p, &packed)) return 1;
#pragma omp parallel num_threads((int)p->num_threads)
    {
        const int64_t me = omp_get_thread_num(), threads = omp_get_num_threads();
        int64_t first, last;
        partition(p, me, threads, &first, &last);
        for (int64_t head = 0; head < p->num_key_heads; head++) {
            pack_keys(p, head, &f->keys, &f->values, &packed, me, threads);
#pragma omp barrier
            for (int64_t i = first; i < last; i++) forward_tile(p, f, &packed, head, i);
#pragma omp barrier
        }
    }
    free(packed.keys);
    return 0;
}

/* Skips ``to_keys`` when its data is NULL. Each thread has sums of its own, which are added in the threads' order. */
int grpo_tree_attention_backward(const Problem *p, const Backward *b) {
    check_problem(p);
    const int64_t size = num_key_tiles(p) * BLOCK * p->head_size;
    Packed packed;
    if (!open_packed(p, &packed)) return 1;
    float *sums = aligned_alloc(64, (size_t)(p->num_threads * 2 * size) * sizeof(float));
    if (!sums) {
        free(packed.keys);
        return 1;
    }
#pragma omp parallel num_threads((int)p->num_threads)
    {
        const int64_t me = omp_get_thread_num(), threads = omp_get_num_threads();
        float *const to_keys = sums + me * 2 * size, *const to_values = to_keys + size;
        int64_t first, last;
        partition(p, me, threads, &first, &last);
        for (int64_t head = 0; head < p->num_key_heads; head++) {
            pack_keys(p, head, &b->keys, &b->values, &packed, me, threads);
            memset(to_keys, 0, (size_t)(2 * size) * sizeof(float));
#pragma omp barrier
            for (int64_t i = first; i < last; i++)
                backward_tile(p, b, &packed, head, i, b->to_keys.data ? to_keys : NULL, to_values);
#pragma omp barrier
            for (int64_t t = me; t < p->num_tokens; t += threads)
                for (int which = b->to_keys.data ? 0 : 1; which < 2; which++) {
                    float *const to = of(which ? &b->to_values : &b->to_keys, t, head);
                    for (int64_t d = 0; d < p->head_size; d += LANES) {
                        vec sum = {0};
                        for (int64_t thread = 0; thread < threads; thread++)
                            sum += load(sums + (2 * thread + which) * size + t * p->head_size + d);
                        store(to + d, sum);
                    }
                }
#pragma omp barrier
        }
    }
    free(sums);
    free(packed.keys);
    return 0;
}
