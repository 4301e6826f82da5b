/* CHECK says what an entry point must get. Built with -DGRPO_CHECKED it ends the process where that does not hold; else it
   costs nothing. */

#pragma once

#ifdef GRPO_CHECKED
#include <stdio.h>
#include <stdlib.h>
#define CHECK(holds)                                                                      \
    do {                                                                                  \
        if (!(holds)) {                                                                   \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #holds);    \
            abort();                                                                      \
        }                                                                                 \
    } while (0)
#else
#define CHECK(holds) ((void)0)
#endif
