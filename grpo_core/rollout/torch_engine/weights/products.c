/* Logits, and the packed layout of weights for the forward pass.

   Legend: B rows, V vocabulary, C ids. */

#include <omp.h>

#include "checked.h"
#include "outer.h"

#define STEP 16 /* ids per unit of work: their weights stay in the L1 cache */

typedef struct {
    const float *hidden, *weight, *bias; /* [B, in], [V, in], [V] or NULL */
    const int64_t *ids;                  /* [C], or NULL for the first C */
    int64_t num_rows, in, num_ids, vocab_size;
    float *logits; /* [B, C] */
} Head;

/* Logits of TILE rows from ``b`` on and TILE ids from ``c`` on. */
static void logits_tile(const Head *head, int64_t b, int64_t c) {
    const float *rows[TILE], *columns[TILE];
    float products[TILE * TILE], biases[TILE];
    four(head->hidden, b, head->num_rows, head->in, rows);
    for (int j = 0; j < TILE; j++) {
        const int64_t place = c + j < head->num_ids ? c + j : c, id = head->ids ? head->ids[place] : place;
        columns[j] = head->weight + id * head->in;
        biases[j] = head->bias ? head->bias[id] : 0;
    }
    tile(rows, columns, head->in, products);
    for (int i = 0; i < TILE && b + i < head->num_rows; i++)
        for (int j = 0; j < TILE && c + j < head->num_ids; j++)
            head->logits[(b + i) * head->num_ids + c + j] = products[i * TILE + j] + biases[j];
}

/* logits[b, c] = hidden[b] . weight[ids[c]] + bias[ids[c]], each accumulated per lane, whatever the other rows are. */
void grpo_logits(const Head *head, int64_t num_threads) {
    CHECK(head->num_rows >= 0 && head->in > 0 && (head->ids || head->num_ids <= head->vocab_size));
    for (int64_t c = 0; head->ids && c < head->num_ids; c++) CHECK(head->ids[c] >= 0 && head->ids[c] < head->vocab_size);
#pragma omp parallel for num_threads((int)num_threads)
    for (int64_t first = 0; first < head->num_ids; first += STEP)
        for (int64_t b = 0; b < head->num_rows; b += TILE)
            for (int64_t c = first; c < first + STEP && c < head->num_ids; c += TILE) logits_tile(head, b, c);
}

/* ``weight`` [out, in] as [out / PANEL, in, PANEL]. */
void grpo_pack(const float *weight, int64_t out, int64_t in, float *packed, int64_t num_threads) {
    CHECK(out % PANEL == 0 && in > 0);
#pragma omp parallel for num_threads((int)num_threads)
    for (int64_t n = 0; n < out; n += PANEL) transpose(weight + n * in, PANEL, in, in, packed + n * in, PANEL);
}
