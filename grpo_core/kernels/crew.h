/* Work in stages, done by several threads that never wait for one that the system has not let run.

   A stage is a number of items. Any thread does any item, in any order; the next stage begins when all are done. So a
   result may not depend on which thread did an item. */

#pragma once

#include <stdint.h>

/* Does one item. ``me`` is less than the number of threads, and another one's in each thread. */
typedef void (*Work)(const void *context, int64_t stage, int64_t item, int64_t me);

/* Does the ``num_items`` of each stage, in this thread and up to ``num_threads`` - 1 others. Returns when all are done:
   0, or 1 when memory runs out. */
typedef int (*RunStages)(Work work, const void *context, const int64_t *num_items, int64_t num_stages,
                         int64_t num_threads);

/* Partition ``index`` of ``parts`` of ``num`` things, in whole ``step``s. */
static inline void part_of(int64_t num, int64_t step, int64_t index, int64_t parts, int64_t *first, int64_t *last) {
    const int64_t steps = (num + step - 1) / step;
    *first = steps * index / parts * step;
    *last = steps * (index + 1) / parts * step;
    if (*first > num) *first = num;
    if (*last > num) *last = num;
}
