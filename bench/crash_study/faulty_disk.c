/* A disk that fails: preloaded, it makes the n-th call that writes below a folder fail, once grpo_fault was called.

   ENOSPC and EROFS stay, another error is the only one. The calls are counted. */

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

static char root[4096];
static long fault_at, fault_errno;
static atomic_long num_calls;

void grpo_fault(const char *folder, long at, long number) {
    strncpy(root, folder, sizeof root - 1);
    fault_at = at;
    fault_errno = number;
    num_calls = 0;
}

long grpo_num_calls(void) { return num_calls; }

static int is_below_root(const char *path) {
    size_t length = strlen(root);
    return length && path && strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int is_open_below_root(int descriptor) {
    if (!root[0]) return 0;
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
