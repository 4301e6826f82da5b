/* The threads of this process that do work in stages; see crew.h.

   OpenMP's barriers wait for every thread of a team. Beside a busy neighbour one of them is often not running, and the
   others spin for as long as the neighbour keeps its core. Here a stage ends when its items are done, whoever did them,
   and who waits for long gives its core away. */

#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "crew.h"

#define LINE 64             /* bytes of a cache line */
#define WAIT_SPIN_NS 30000  /* for the end of a stage: longer than an item takes, where nobody is in the way */
#define IDLE_SPIN_NS 100000 /* for the next job: longer than what lies between two passes */
#define MAX_WORKERS 1024

/* Items that one thread begins with. Others take from them when they have none left. */
typedef struct {
    _Alignas(LINE) atomic_llong next;
    int64_t last;
} Share;

typedef struct {
    _Alignas(LINE) atomic_llong num_done;
    int64_t num_items;
} Stage;

/* ``num_users``, ``num_seats`` and ``next`` are guarded by the pool's mutex. */
typedef struct Job {
    Work work;
    const void *context;
    int64_t num_stages, num_threads;
    Stage *stages;
    Share *shares; /* [stages, threads] */
    pthread_mutex_t mutex;
    pthread_cond_t stage_done;
    atomic_int num_sleepers;
    int64_t num_users, num_seats;
    struct Job *next;
} Job;

/* Jobs that threads may still join, the oldest first. ``num_posted`` only tells those who spin that there is one. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t posted;
    atomic_llong num_posted;
    Job *first;
    int64_t num_workers, num_sleepers;
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER, .posted = PTHREAD_COND_INITIALIZER};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Spins until ``value`` is another one than ``before`` (or, with ``target``, equal to it), at most for ``limit_ns``. */
static int spin(atomic_llong *value, int64_t before, int is_target, int64_t limit_ns) {
    int64_t end_ns = 0;
    for (int64_t round = 1;; round++) {
        const int is_equal = atomic_load(value) == before;
        if (is_equal == is_target) return 1;
        relax();
        if (round % 64) continue;
        if (!end_ns) end_ns = now_ns() + limit_ns;
        else if (now_ns() > end_ns) return 0;
    }
}

static inline int is_done(Stage *stage) { return atomic_load(&stage->num_done) == stage->num_items; }

static void wait_for(Job *job, Stage *stage) {
    if (is_done(stage) || spin(&stage->num_done, stage->num_items, 1, WAIT_SPIN_NS)) return;
    atomic_fetch_add(&job->num_sleepers, 1); /* first: who ends the stage then sees it, or it is seen to be done below */
    pthread_mutex_lock(&job->mutex);
    while (!is_done(stage)) pthread_cond_wait(&job->stage_done, &job->mutex);
    pthread_mutex_unlock(&job->mutex);
    atomic_fetch_sub(&job->num_sleepers, 1);
}

static void finish(Job *job, Stage *stage, int64_t num_done) {
    if (atomic_fetch_add(&stage->num_done, num_done) + num_done < stage->num_items) return;
    if (!atomic_load(&job->num_sleepers)) return;
    pthread_mutex_lock(&job->mutex);
    pthread_cond_broadcast(&job->stage_done);
    pthread_mutex_unlock(&job->mutex);
}

/* Goes through the stages. Who comes late finds the first ones done: they have no items left, and nothing of
   ``context``, which may be gone, is read for them. */
static void take_part(Job *job, int64_t me) {
    for (int64_t s = 0; s < job->num_stages; s++) {
        Stage *stage = job->stages + s;
        int64_t num_done = 0;
        for (int64_t other = 0; other < job->num_threads; other++) {
            Share *share = job->shares + s * job->num_threads + (me + other) % job->num_threads;
            while (atomic_load(&share->next) < share->last) {
                const int64_t item = atomic_fetch_add(&share->next, 1);
                if (item >= share->last) break;
                job->work(job->context, s, item, me);
                num_done++;
            }
        }
        if (num_done) finish(job, stage, num_done);
        wait_for(job, stage);
    }
}

static Job *open_job(Work work, const void *context, const int64_t *num_items, int64_t num_stages,
                     int64_t num_threads) {
    const size_t head = (sizeof(Job) + LINE - 1) / LINE * LINE, stages = (size_t)num_stages * sizeof(Stage);
    char *memory = aligned_alloc(LINE, head + stages + (size_t)(num_stages * num_threads) * sizeof(Share));
    if (!memory) return NULL;
    Job *job = (Job *)memory;
    *job = (Job){.work = work, .context = context, .num_stages = num_stages, .num_threads = num_threads,
                 .stages = (Stage *)(memory + head), .shares = (Share *)(memory + head + stages),
                 .mutex = PTHREAD_MUTEX_INITIALIZER, .stage_done = PTHREAD_COND_INITIALIZER,
                 .num_users = 1, .num_seats = num_threads - 1};
    for (int64_t s = 0; s < num_stages; s++) {
        job->stages[s].num_items = num_items[s];
        atomic_init(&job->stages[s].num_done, 0);
        for (int64_t t = 0; t < num_threads; t++) {
            int64_t first;
            Share *share = job->shares + s * num_threads + t;
            part_of(num_items[s], 1, t, num_threads, &first, &share->last);
            atomic_init(&share->next, first);
        }
    }
    return job;
}

/* The three below need the pool's mutex. */
static void withdraw(Job *job) {
    for (Job **place = &pool.first; *place; place = &(*place)->next)
        if (*place == job) {
            *place = job->next;
            return;
        }
}

static void leave(Job *job) {
    if (--job->num_users) return;
    pthread_mutex_destroy(&job->mutex);
    pthread_cond_destroy(&job->stage_done);
    free(job);
}

static Job *join(int64_t *me) {
    Job *job = pool.first;
    if (!job) return NULL;
    *me = job->num_threads - job->num_seats--;
    job->num_users++;
    if (!job->num_seats) withdraw(job);
    return job;
}

static void *serve(void *unused) {
    int64_t me;
    pthread_mutex_lock(&pool.mutex);
    for (;;) {
        Job *job = join(&me);
        if (job) {
            pthread_mutex_unlock(&pool.mutex);
            take_part(job, me);
            pthread_mutex_lock(&pool.mutex);
            leave(job);
            continue;
        }
        const int64_t num_posted = atomic_load(&pool.num_posted);
        pthread_mutex_unlock(&pool.mutex);
        const int is_posted = spin(&pool.num_posted, num_posted, 0, IDLE_SPIN_NS);
        pthread_mutex_lock(&pool.mutex);
        if (is_posted) continue;
        pool.num_sleepers++;
        while (!pool.first) pthread_cond_wait(&pool.posted, &pool.mutex);
        pool.num_sleepers--;
    }
    return unused;
}

static void before_fork(void) { pthread_mutex_lock(&pool.mutex); }
static void after_fork_here(void) { pthread_mutex_unlock(&pool.mutex); }
static void after_fork_there(void) { /* no thread but this one, and jobs of others only */
    pool.mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool.posted = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pool.first = NULL;
    pool.num_workers = pool.num_sleepers = 0;
}

static void watch_forks(void) { pthread_atfork(before_fork, after_fork_here, after_fork_there); }

/* Starts threads until there are ``num`` of them, or the system gives no more. They take no signals: those are for
   threads that can handle them. */
static void hire(int64_t num) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.num_workers < num && pool.num_workers < MAX_WORKERS) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL)) break;
        pthread_detach(thread);
        pool.num_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int grpo_run_stages(Work work, const void *context, const int64_t *num_items, int64_t num_stages,
                    int64_t num_threads) {
    if (num_threads <= 1) {
        for (int64_t s = 0; s < num_stages; s++)
            for (int64_t item = 0; item < num_items[s]; item++) work(context, s, item, 0);
        return 0;
    }
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    Job *job = open_job(work, context, num_items, num_stages, num_threads);
    if (!job) return 1;
    pthread_mutex_lock(&pool.mutex);
    if (pool.num_workers < num_threads - 1) hire(num_threads - 1);
    Job **end = &pool.first;
    while (*end) end = &(*end)->next;
    *end = job;
    atomic_fetch_add(&pool.num_posted, 1);
    if (pool.num_sleepers) pthread_cond_broadcast(&pool.posted);
    pthread_mutex_unlock(&pool.mutex);
    take_part(job, 0);
    pthread_mutex_lock(&pool.mutex);
    withdraw(job);
    leave(job);
    pthread_mutex_unlock(&pool.mutex);
    return 0;
}

/* How many threads OpenMP, and so torch, uses for work of this thread. Returns how many it was. */
int grpo_set_openmp_threads(int num) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(num);
    return before;
}
