// SPDX-License-Identifier: Apache-2.0
#include "child.h"

#include "../runtime/device_cuda.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

// Loads from the cache or answers SSD_JIT_OFF: with no compiler in the process nothing is compiled.
static ssd_status load(ssd_context *ctx, const ssd_compile_options *o, ssd_kernel **out) {
    SsdCompileHook *hook = ssd_compile_hook;
    ssd_compile_hook = NULL;
    ssd_status s = ssd_compile(ctx, o, out);
    ssd_compile_hook = hook;
    return s;
}

static void put(int fd, const void *p, size_t left) {
    while (left > 0) {
        ssize_t n = write(fd, p, left);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        p = (const char *)p + n;
        left -= (size_t)n;
    }
}

// What the child does: compile, which fills the cache; say through the pipe why not, or how long
// each phase took.
SSD_NORETURN static void child(ssd_context *ctx, const ssd_compile_options *o, int fd) {
    ssd_kernel *k = NULL;
    const Phases before = ssd_phases();
    ssd_status s = ssd_compile(ctx, o, &k);
    Phases after = ssd_phases();
    for (int i = 0; i < PHASES; i++) after.seconds[i] -= before.seconds[i];
    if (s == SSD_OK)
        put(fd, &after, sizeof after);
    else
        put(fd, ssd_last_error(), strlen(ssd_last_error()));
    _exit(s);
}

ssd_status ssd_child_compile(ssd_context *ctx, const ssd_compile_options *o,
                             ssd_kernel **out_kernel) {
    ssd_status s = load(ctx, o, out_kernel);
    const char *jit = getenv("SSD_JIT");
    if (s != SSD_JIT_OFF || !ssd_compile_hook || (jit && strcmp(jit, "off") == 0)) return s;

    int fd[2];
    if (pipe(fd) != 0) return ssd_compile(ctx, o, out_kernel);
    pid_t pid = fork();
    if (pid == 0) {
        close(fd[0]);
        child(ctx, o, fd[1]);
    }
    close(fd[1]);
    if (pid < 0) {
        close(fd[0]);
        return ssd_compile(ctx, o, out_kernel);
    }
    Text msg = {0};
    char buf[512];
    CudaStart device; // here: the child of a process that has the driver cannot use it
    ssd_cuda_prepare(o->target, &device);
    for (ssize_t n; (n = read(fd[0], buf, sizeof buf)) > 0 || (n < 0 && errno == EINTR);)
        if (n > 0) ssd_text_put(&msg, buf, (size_t)n);
    close(fd[0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    ssd_cuda_prepared(&device);

    if (WIFSIGNALED(status)) {
        s = ssd_fail(SSD_INTERNAL,
                     "the compiler stopped on signal %d (%s); this is a fault of ssdc",
                     WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) != SSD_OK) {
        s = ssd_fail((ssd_status)WEXITSTATUS(status), "%s", msg.n ? msg.s : "compiling failed");
    } else {
        Phases took;
        if (msg.n == sizeof took) {
            memcpy(&took, msg.s, sizeof took);
            ssd_phase_add(&took);
        }
        s = load(ctx, o, out_kernel);
        if (s == SSD_JIT_OFF) s = ssd_compile(ctx, o, out_kernel); // no cache to hand it over
    }
    ssd_text_free(&msg);
    return s;
}
