/* A file system that lacks what LACKS names ("link", "renameat2", "flock"), with the error number LACKS_ERRNO; flock
   only below LACKS_BELOW, where that is set, since libraries lock files of their own elsewhere. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int lacks(const char *what) {
    const char *names = getenv("LACKS"), *number = getenv("LACKS_ERRNO");
    if (!names || !strstr(names, what)) return 0;
    errno = number ? atoi(number) : EPERM;
    return 1;
}

int link(const char *from, const char *to) {
    return lacks("link") ? -1 : (int)syscall(SYS_linkat, -100, from, -100, to, 0);
}

int linkat(int from, const char *name, int to, const char *other, int flags) {
    return lacks("link") ? -1 : (int)syscall(SYS_linkat, from, name, to, other, flags);
}

int renameat2(int from, const char *name, int to, const char *other, unsigned flags) {
    if (getenv("LACKS") && strstr(getenv("LACKS"), "renameat2")) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from, name, to, other, flags);
}

static int is_below(int file) {
    const char *folder = getenv("LACKS_BELOW");
    char name[64], path[4096];
    if (!folder) return 1;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, sizeof path);
    return length > 0 && !strncmp(path, folder, strlen(folder));
}

int flock(int file, int what) { return is_below(file) && lacks("flock") ? -1 : (int)syscall(SYS_flock, file, what); }
