/* A disk that fails: preloaded, it makes the n-th call that writes below GRPO_FAULT_ROOT fail.

   GRPO_FAULT_AT     which call, from 1 on; 0 for none
   GRPO_FAULT_ERRNO  how: ENOSPC and EROFS stay, another one is the only one
   GRPO_FAULT_COUNT  a file that gets the number of calls when the process ends */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root;
static long fault_at, fault_errno;
static atomic_long num_calls;

__attribute__((constructor)) static void begin(void) {
    root = getenv("GRPO_FAULT_ROOT");
    fault_at = atol(getenv("GRPO_FAULT_AT") ? getenv("GRPO_FAULT_AT") : "0");
    fault_errno = atol(getenv("GRPO_FAULT_ERRNO") ? getenv("GRPO_FAULT_ERRNO") : "0");
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("GRPO_FAULT_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld\n", (long)num_calls);
        fclose(file);
    }
}

static int is_below_root(const char *path) {
    size_t length = root ? strlen(root) : 0;
    return length && path && strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int is_open_below_root(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below_root(path);
}

static int fails(void) {
    long call = atomic_fetch_add(&num_calls, 1) + 1;
    int stays = fault_errno == ENOSPC || fault_errno == EROFS;
    if (!fault_at || (stays ? call < fault_at : call != fault_at)) return 0;
    errno = (int)fault_errno;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int descriptor, const void *content, size_t size) {
    if (is_open_below_root(descriptor) && fails()) return -1;
    return REAL(write)(descriptor, content, size);
}

int fsync(int descriptor) {
    if (is_open_below_root(descriptor) && fails()) return -1;
    return REAL(fsync)(descriptor);
}

int rename(const char *from, const char *to) {
    if (is_below_root(to) && fails()) return -1;
    return REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode) {
    if (is_below_root(path) && fails()) return -1;
    return REAL(mkdir)(path, mode);
}

static mode_t mode_of(int flags, va_list more) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; }

#define OPEN(name)                                                                        \
    int name(const char *path, int flags, ...) {                                          \
        va_list more;                                                                     \
        va_start(more, flags);                                                            \
        mode_t mode = mode_of(flags, more);                                               \
        va_end(more);                                                                     \
        if ((flags & (O_WRONLY | O_RDWR)) && is_below_root(path) && fails()) return -1;   \
        return REAL(name)(path, flags, mode);                                             \
    }

OPEN(open)
OPEN(open64)
