/* Logits, and the packed layout of weights for the forward pass.

   Legend: B rows, V vocabulary, C ids. */

#include "checked.h"
#include "crew.h"
#include "outer.h"

#define STEP 16     /* ids per unit of work: their weights stay in the L1 cache */
#define MAX_ITEMS 8 /* of a thread */

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

typedef struct {
    const Head *head;
    int64_t num_items;
} Logits;

static void logits_item(const void *context, int64_t stage, int64_t item, int64_t me) {
    const Logits *asked = context;
    const Head *head = asked->head;
    int64_t start, stop;
    (void)stage, (void)me;
    part_of(head->num_ids, STEP, item, asked->num_items, &start, &stop);
    for (int64_t first = start; first < stop; first += STEP)
        for (int64_t b = 0; b < head->num_rows; b += TILE)
            for (int64_t c = first; c < first + STEP && c < stop; c += TILE) logits_tile(head, b, c);
}

/* How many items ``num`` things have, in whole STEPs. */
static int64_t items_of(int64_t num, int64_t num_threads) {
    const int64_t steps = (num + STEP - 1) / STEP, most = MAX_ITEMS * num_threads;
    return steps < most ? steps : most;
}

/* logits[b, c] = hidden[b] . weight[ids[c]] + bias[ids[c]], each accumulated per lane, whatever the other rows are.
   Returns 0, or 1 when memory runs out. */
int grpo_logits(const Head *head, RunStages run_stages, int64_t num_threads) {
    CHECK(head->num_rows >= 0 && head->in > 0 && (head->ids || head->num_ids <= head->vocab_size));
    for (int64_t c = 0; head->ids && c < head->num_ids; c++) CHECK(head->ids[c] >= 0 && head->ids[c] < head->vocab_size);
    const Logits asked = {head, items_of(head->num_ids, num_threads)};
    return run_stages(logits_item, &asked, &asked.num_items, 1, num_threads);
}

typedef struct {
    const float *weight;
    float *packed;
    int64_t out, in, num_items;
} Packing;

static void pack_item(const void *context, int64_t stage, int64_t item, int64_t me) {
    const Packing *asked = context;
    int64_t first, last;
    (void)stage, (void)me;
    part_of(asked->out, PANEL, item, asked->num_items, &first, &last);
    for (int64_t n = first; n < last; n += PANEL)
        transpose(asked->weight + n * asked->in, PANEL, asked->in, asked->in, asked->packed + n * asked->in, PANEL);
}

/* ``weight`` [out, in] as [out / PANEL, in, PANEL]. Returns 0, or 1 when memory runs out. */
int grpo_pack(const float *weight, int64_t out, int64_t in, float *packed, RunStages run_stages, int64_t num_threads) {
    CHECK(out % PANEL == 0 && in > 0);
    const Packing asked = {weight, packed, out, in, items_of(out, num_threads)};
    return run_stages(pack_item, &asked, &asked.num_items, 1, num_threads);
}
