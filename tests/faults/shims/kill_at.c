/* kill_at N COMMAND...: runs a command, and kills it with SIGKILL as it enters its N-th system call, before that is done.
 *
 * With 0 it is let through, and the calls are counted: "kill_at: N calls" is what it says last on standard error. The
 * calls of all threads count; what the command forks is not followed, and goes on as it does when a launcher dies.
 *
 * The command keeps this process, so that its pid, its parent, its signals and its exit code are its own. Who traces it
 * is a grandchild, which the command cannot see among its children, and whose death ends it: neither outlives the other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPTIONS (PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE)

/* Whether a thread that stands at a system call enters it; `number`: of that call. */
static int enters(pid_t thread, long *number) {
    struct __ptrace_syscall_info info;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) <= 0) return 0;
    *number = info.op == PTRACE_SYSCALL_INFO_ENTRY ? (long)info.entry.nr : -1;
    return info.op == PTRACE_SYSCALL_INFO_ENTRY;
}

/* The signal that a stopped thread is to get as it goes on; -1: it stands still with its group, until it is woken. */
static int passed_on(int status) {
    int number = WSTOPSIG(status);
    if (status >> 16 != PTRACE_EVENT_STOP) return status >> 16 ? 0 : number;
    return number == SIGTRAP ? 0 : -1;
}

/* Count until the command ends, or has come to the call at which it is killed. */
static void follow(pid_t command, long last) {
    long calls = 0, number;
    int status;
    for (pid_t thread; (thread = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR;) {
        if (thread < 0 || !WIFSTOPPED(status)) continue;
        int given = 0;
        if (WSTOPSIG(status) != (SIGTRAP | 0x80)) given = passed_on(status);
        else if (enters(thread, &number) && (calls || number == SYS_execve)) { /* before are our own */
            if (++calls == last) kill(command, SIGKILL);
            if (number == SYS_exit_group && !last) dprintf(STDERR_FILENO, "kill_at: %ld calls\n", calls);
        }
        ptrace(given < 0 ? PTRACE_LISTEN : PTRACE_SYSCALL, thread, 0, given < 0 ? 0 : given);
    }
}

static void trace(pid_t command, long last, int ready) {
    int status;
    signal(SIGINT, SIG_IGN); /* of a terminal: it is the command's */
    if (ptrace(PTRACE_SEIZE, command, 0, OPTIONS) || ptrace(PTRACE_INTERRUPT, command, 0, 0)) return;
    if (waitpid(command, &status, __WALL) != command || ptrace(PTRACE_SYSCALL, command, 0, 0)) return;
    if (write(ready, "", 1) != 1) return;
    close(ready);
    follow(command, last);
}

int main(int count, char **words) {
    int ready[2];
    char byte;
    pid_t middle;
    if (count < 3 || pipe(ready) || (middle = fork()) < 0) return 125;
    if (!middle) { /* it ends at once, and its child has no parent here */
        pid_t command = getppid();
        if (!fork()) trace(command, atol(words[1]), ready[1]);
        _exit(0);
    }
    waitpid(middle, NULL, 0);
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) return 125;
    close(ready[0]);
    execvp(words[2], words + 2);
    return 127;
}
