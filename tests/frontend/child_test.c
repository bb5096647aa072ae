// SPDX-License-Identifier: Apache-2.0
// A compiler that dies, fails or is forbidden becomes a message, never the end of the command.
#include "../../frontend/child.h"
#include "../../runtime/internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static int passed, failed;

static void check(bool ok, const char *what) {
    if (!ok) printf("FAIL child: %s: %s\n", what, ssd_last_error());
    *(ok ? &passed : &failed) += 1;
}

static ssd_status dies(Arena *a, const ssd_compile_options *o, Artifact *out) {
    (void)a, (void)o, (void)out;
    signal(SIGABRT, SIG_DFL);
    abort();
}

static ssd_status fails(Arena *a, const ssd_compile_options *o, Artifact *out) {
    (void)a, (void)o, (void)out;
    return ssd_fail(SSD_UNSUPPORTED, "schedule refused: it rains");
}

static const char spec[] =
    "ssdc: 1\nname: small\ndims: {heads: 2, head_dim: 3, state_size: 4}\n"
    "inputs:\n  q: f32[b, t, h, n]\n  k: f32[b, t, h, n]\n  v: f32[b, t, h, p]\n"
    "ssd: {query: q, key: k, value: v}\noutputs: {y: 'f32[b, t, h, p] = ssd'}\nmodes: [forward]\n";

int main(void) {
    // No cache: the child shows that it can, then this process compiles for itself.
    ssd_context_options co = {.threads = 1, .cache_dir = ""};
    ssd_compile_options o = {.spec = spec};
    ssd_context *ctx = NULL;
    ssd_kernel *k = NULL;
    SsdCompileHook *real = ssd_compile_hook;
    check(real != NULL, "the compiler is linked");
    check(ssd_context_create(&co, &ctx) == SSD_OK, "a context");

    ssd_compile_hook = dies;
    check(ssd_child_compile(ctx, &o, &k) == SSD_INTERNAL && !k &&
              strstr(ssd_last_error(), "signal 6"),
          "a crash");
    check(ssd_compile_hook == dies, "the hook is as it was");
    ssd_compile_hook = fails;
    check(ssd_child_compile(ctx, &o, &k) == SSD_UNSUPPORTED && !k &&
              strstr(ssd_last_error(), "it rains"),
          "a failure crosses over with its message");
    ssd_compile_hook = NULL;
    check(ssd_child_compile(ctx, &o, &k) == SSD_JIT_OFF && !k, "no compiler");
    ssd_compile_hook = dies;
    setenv("SSD_JIT", "off", 1);
    check(ssd_child_compile(ctx, &o, &k) == SSD_JIT_OFF && !k, "compiling forbidden");
    unsetenv("SSD_JIT");
    ssd_compile_hook = real;
    check(ssd_child_compile(ctx, &o, &k) == SSD_OK && k &&
              strcmp(ssd_kernel_origin(k), "compiled") == 0,
          "without a cache");
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
