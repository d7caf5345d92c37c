/* Lets calls that write below a folder fail (EIO, ESTALE, ENOSPC, ...), or end their process, as $FAULTS_DISK says.
 *
 * That file is mapped: the error's number, or minus a signal's; how many calls are still to meet it; how many are let
 * through before; the only process that is meant, 0 for any; the folder's path. Preloaded into every process of a fault
 * run; while nothing is left to fail it costs a look at one number a call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct order { int error; int left; int skip; int pid; char prefix[1008]; };
static volatile struct order *order;

__attribute__((constructor)) static void look(void) {
    const char *name = getenv("FAULTS_DISK");
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int file = name && real ? real(name, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *there = mmap(NULL, sizeof(struct order), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (there != MAP_FAILED) order = there;
    close(file);
}

static int fails(const char *path) {
    if (!order || order->left <= 0 || !path || !order->prefix[0]) return 0;
    if (strncmp(path, (const char *)order->prefix, strlen((const char *)order->prefix))) return 0;
    if (order->pid && order->pid != getpid()) return 0;
    if (order->skip > 0 && __sync_fetch_and_sub(&order->skip, 1) > 0) return 0;
    if (__sync_fetch_and_sub(&order->left, 1) <= 0) return 0;
    if (order->error < 0) { raise(-order->error); return 0; }
    errno = order->error;
    return 1;
}

static int file_fails(int file) {
    char name[40], path[PATH_MAX];
    if (!order || order->left <= 0) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t size = readlink(name, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fails(path);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define OPENER(name) int name(const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; va_end(rest); \
    REAL(name); if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails(path)) return -1; return real(path, flags, mode); }
OPENER(open)
OPENER(open64)
ssize_t write(int file, const void *data, size_t size) { REAL(write); return file_fails(file) ? -1 : real(file, data, size); }
int fsync(int file) { REAL(fsync); return file_fails(file) ? -1 : real(file); }
int rename(const char *from, const char *to) { REAL(rename); return fails(to) ? -1 : real(from, to); }
int link(const char *from, const char *to) { REAL(link); return fails(to) ? -1 : real(from, to); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); return fails(path) ? -1 : real(path, mode); }
