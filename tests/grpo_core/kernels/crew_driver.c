/* Runs jobs of several callers at once, and says how many results are wrong. Built with NO_THREADS, the system gives
   no thread. */

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pthread.h>

#ifdef NO_THREADS
#define pthread_create(...) 11 /* EAGAIN */
#endif
#include "crew.c"
#undef pthread_create

#define NUM_STAGES 40
#define MAX_ITEMS 67
#define NUM_CALLERS 4
#define NUM_JOBS 200

typedef struct {
    int64_t num_items[NUM_STAGES], seen[NUM_STAGES][MAX_ITEMS];
} Task;

/* Each item takes the sum of the stage before, so an item that begins too early is seen. */
static void add(const void *context, int64_t stage, int64_t item, int64_t me) {
    Task *task = (Task *)context;
    int64_t sum = 1;
    for (int64_t s = stage - 1; s >= 0; s--) {
        if (!task->num_items[s]) continue;
        for (int64_t i = 0; i < task->num_items[s]; i++) sum += task->seen[s][i];
        break;
    }
    task->seen[stage][item] = sum % 1000003 + me * 0;
}

static int64_t run_jobs(unsigned seed, int64_t num_jobs) {
    static _Thread_local Task task, expected;
    int64_t num_wrong = 0;
    for (int64_t job = 0; job < num_jobs; job++) {
        memset(&task, 0, sizeof task);
        for (int s = 0; s < NUM_STAGES; s++) {
            seed = seed * 1664525u + 1013904223u;
            task.num_items[s] = (seed >> 16) % 5 ? (seed >> 20) % MAX_ITEMS : 0;
        }
        expected = task;
        num_wrong += grpo_run_stages(add, &expected, expected.num_items, NUM_STAGES, 1);
        num_wrong += grpo_run_stages(add, &task, task.num_items, NUM_STAGES, 2 + job % 4);
        num_wrong += memcmp(&task, &expected, sizeof task) != 0;
    }
    return num_wrong;
}

static void *call(void *seed) { return (void *)run_jobs((unsigned)(intptr_t)seed, NUM_JOBS); }

int main(void) {
    pthread_t callers[NUM_CALLERS];
    int64_t num_wrong = 0;
#ifndef NO_THREADS
    for (intptr_t i = 0; i < NUM_CALLERS; i++) pthread_create(callers + i, NULL, call, (void *)(i + 1));
    for (int i = 0; i < NUM_CALLERS; i++) {
        void *found;
        pthread_join(callers[i], &found);
        num_wrong += (intptr_t)found;
    }
#else
    num_wrong += (intptr_t)call((void *)7);
#endif
    const pid_t child = fork(); /* which has none of the threads */
    if (!child) _exit(run_jobs(99, 20) != 0);
    int status = 1;
    waitpid(child, &status, 0);
    printf("%lld wrong, %d of the child, %lld threads\n", (long long)num_wrong, status != 0, (long long)pool.num_workers);
    return num_wrong || status;
}
