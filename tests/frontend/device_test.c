// SPDX-License-Identifier: Apache-2.0
// What the command does around a launch on a device, on the driver that is none
// (tests/runtime/fake_cuda.c): copies there and back, guards, a state in place, graphs and time,
// faults on the way.
#include "../../frontend/ceiling.h"
#include "../../frontend/device.h"
#include "../runtime/fake_cuda.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int passed, failed;

static void check(bool ok, const char *what) {
    if (!ok) printf("FAIL device: %s: %s\n", what, ssd_last_error());
    *(ok ? &passed : &failed) += 1;
}

// --- y = x + 1, w = 2 x in the workspace, hT = h0 + 1 in place ----------------------------------
enum { N = 5 };
static const char text[] = "ssdc-artifact 1\nprogram toy forward cuda-sm_80\nschedule form=toy\n"
                           "sym t x 0\n"
                           "param x in f32 t\nparam h0 in f32 3\nparam y out f32 t\n"
                           "param hT out f32 3 alias h0\n"
                           "plan always\nws w f32 t\nkernel all t 0 32\ntakes 0 1 2 3 4\n";
static char code[128] = "\x7f"
                        "ELF\2\1";

static ssd_status hook(Arena *a, const ssd_compile_options *o, Artifact *out) {
    Text why = {0};
    (void)o;
    if (!ssd_artifact_parse(a, text, sizeof text - 1, out, &why)) printf("%s\n", why.s);
    ssd_text_free(&why);
    snprintf(code + 64, sizeof code - 64, "all 128 1024\n");
    out->code = code;
    out->code_size = sizeof code;
    return SSD_OK;
}

enum { MOST_SEEN = 8 };
static const void *seen[MOST_SEEN]; // tensors x of the launches so far, each once
static int n_seen;
static int runs, stray; // stray: elements to write outside of y, behind or in front of it
static bool clean;      // workspace and output were NaN before
static bool whole;      // every launch saw x as it was given

static void toy(const char *name, unsigned grid, unsigned block, unsigned shared,
                const void *args) {
    const struct {
        float *x, *h0, *y, *hT, *w;
        i64 t;
    } *a = args;
    int known = 0;
    (void)name, (void)grid, (void)block, (void)shared;
    while (known < n_seen && seen[known] != a->x) known++;
    if (known == n_seen && n_seen < MOST_SEEN) seen[n_seen++] = a->x;
    for (int i = 0; i < N; i++) whole &= a->x[i] == (float)i;
    clean = runs++ || (isnan(a->w[0]) && isnan(a->w[a->t - 1]) && isnan(a->y[0]) && a->hT == a->h0);
    for (i64 i = 0; i < a->t; i++) {
        a->w[i] = 2 * a->x[i];
        a->y[i] = a->x[i] + 1;
    }
    for (int i = 0; i < 3; i++) a->hT[i] = a->h0[i] + 1;
    if (stray > 0) a->y[a->t + stray - 1] = 0;
    if (stray < 0) a->y[stray] = 0;
}

// --- Tests --------------------------------------------------------------------------------------
static float x[N], y[N], h[3];
static ssd_arg args[4];

static void fill(void) {
    const i64 wide[] = {N}, three[] = {3};
    for (int i = 0; i < N; i++) x[i] = (float)i, y[i] = NAN;
    for (int i = 0; i < 3; i++) h[i] = 10;
    args[0] = (ssd_arg){"x", ssd_tensor_dense(x, SSD_F32, 1, wide)};
    args[1] = (ssd_arg){"hT", ssd_tensor_dense(h, SSD_F32, 1, three)};
    args[2] = (ssd_arg){"y", ssd_tensor_dense(y, SSD_F32, 1, wide)};
    args[3] = (ssd_arg){"h0", ssd_tensor_dense(h, SSD_F32, 1, three)};
    runs = n_seen = 0;
    whole = true;
}

static void one_launch(ssd_kernel *k) {
    fill();
    check(ssd_device_launch(k, args, 4) == SSD_OK && runs == 1, "a launch");
    check(clean, "outputs are copied in, the workspace is NaN, a state in place is one memory");
    bool right = true;
    for (int i = 0; i < N; i++) right &= y[i] == (float)(i + 1) && x[i] == (float)i;
    check(right && h[0] == 11 && h[2] == 11, "outputs come back");
}

static void guards(ssd_kernel *k) {
    static const struct {
        int stray;
        const char *message;
    } cases[] = {{1, "wrote 4 bytes behind 'y'"},
                 {3, "bytes behind 'y'"},
                 {64, "bytes behind 'y'"},
                 {-1, "wrote 4 bytes in front of 'y'"},
                 {-64, "wrote 256 bytes in front of 'y'"}};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        fill();
        stray = cases[i].stray;
        check(ssd_device_launch(k, args, 4) == SSD_INTERNAL &&
                  strstr(ssd_last_error(), cases[i].message),
              cases[i].message);
    }
    stray = 0;
}

static void faults(ssd_kernel *k) {
    static const struct {
        const char *settings;
        ssd_status status;
        const char *message;
    } cases[] = {{"cuMemAlloc_v2=2", SSD_OUT_OF_MEMORY, "MB of device memory for 'x'"},
                 {"cuStreamCreate=999", SSD_DEVICE, "cuStreamCreate"},
                 {"cuMemcpyHtoD_v2=1", SSD_INVALID_ARGUMENT, "cuMemcpyHtoD"},
                 {"cuMemcpyDtoH_v2=700", SSD_DEVICE, "cuMemcpyDtoH"},
                 {"cuLaunchKernel=701", SSD_UNSUPPORTED, "launching kernel 'all'"}};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        char all[96];
        snprintf(all, sizeof all, "sm=80 %s", cases[i].settings);
        setenv("FAKE_CUDA", all, 1);
        fill();
        check(ssd_device_launch(k, args, 4) == cases[i].status &&
                  strstr(ssd_last_error(), cases[i].message),
              cases[i].settings);
    }
    setenv("FAKE_CUDA", "sm=80", 1);
}

static void times(ssd_kernel *k, FakeLog *log, FakeLogClear *clear) {
    static const char *const failing[] = {"cuStreamBeginCapture_v2=900", "cuStreamEndCapture=901",
                                          "cuGraphInstantiateWithFlags=2", "cuGraphLaunch=719",
                                          "cuEventCreate=999"};
    Mirror m;
    double ms[8];
    int n;
    fill();
    check(ssd_mirror_open(&m, NULL, k, args, 4) == SSD_OK, "a mirror");
    clear();
    check(ssd_mirror_time(&m, 1, 0, 5, 8, ms, &n) == SSD_OK && n >= 5 && ms[0] == 0.25, "time");
    check(strstr(log(), "cuStreamBeginCapture 1\nlaunch all 5 1 1, 32 1 1, 0 on a stream\n"
                        "cuStreamEndCapture\n"),
          "the launch is captured");
    check(strstr(log(), "cuMemsetD8Async\ncuEventRecord\ncuGraphLaunch\ncuEventRecord\n"),
          "the cache is flushed, then the graph replayed");
    check(runs >= n + 3 && n_seen == 1, "each replay runs the kernel");
    for (size_t i = 0; i < COUNTOF(failing); i++) {
        setenv("FAKE_CUDA", failing[i], 1);
        check(ssd_mirror_time(&m, 1, 0, 5, 8, ms, &n) != SSD_OK && n == 0, failing[i]);
    }
    setenv("FAKE_CUDA", "sm=80", 1);
    check(ssd_mirror_time(&m, 1, 0, 5, 8, ms, &n) == SSD_OK, "faults leave nothing behind");
    ssd_mirror_close(&m);
}

static void row(ssd_kernel *k, FakeLog *log, FakeLogClear *clear) {
    static const char launch[] = "launch all 5 1 1, 32 1 1, 0 on a stream\n";
    Mirror m;
    double ms[8];
    int n;
    fill();
    check(ssd_mirror_open(&m, NULL, k, args, 4) == SSD_OK, "a mirror");
    check(ssd_mirror_row(&m) == 64, "small tensors: as many as make a launch short beside them");
    clear();
    check(ssd_mirror_time(&m, 3, 0, 5, 8, ms, &n) == SSD_OK && fabs(ms[0] - 0.25 / 3) < 1e-12,
          "the time of one of three");
    const char *from = strstr(log(), "cuStreamBeginCapture"),
               *to = from ? strstr(from, "cuStreamEndCapture") : NULL;
    int launches = 0;
    for (const char *l = from; to && (l = strstr(l, launch)) && l < to; l++) launches++;
    check(launches == 3, "three are captured");
    check(runs >= 3 * (n + 3) && n_seen == 3 && whole, "each has tensors of its own");
    setenv("FAKE_CUDA", "sm=80 cuMemcpyDtoDAsync_v2=700", 1);
    check(ssd_mirror_time(&m, 3, 0, 5, 8, ms, &n) == SSD_DEVICE && n == 0, "copies that fail");
    setenv("FAKE_CUDA", "sm=80 cuMemAlloc_v2=2", 1);
    check(ssd_mirror_time(&m, 3, 0, 5, 8, ms, &n) == SSD_OUT_OF_MEMORY &&
              strstr(ssd_last_error(), "for 3 launches in a row"),
          "no memory for more than one");
    setenv("FAKE_CUDA", "sm=80", 1);
    ssd_mirror_close(&m);
}

static void ceilings(FakeLog *log, FakeLogClear *clear) {
    char by[CEILING_BY] = "";
    double rate = 1e-6 * 2 * 268435456 / 0.25;
    clear();
    check(fabs(ssd_ceiling_cuda_copy() / rate - 1) < 1e-9, "copy rate");
    check(strstr(log(), "cuMemFree") && strstr(log(), "pop\n"), "which leaves nothing behind");
    setenv("FAKE_CUDA", "sm=80 cuMemcpyDtoDAsync_v2=2", 1);
    check(ssd_ceiling_cuda_copy() == 0, "no copy rate");
    setenv("FAKE_CUDA", "sm=80 cuMemAlloc_v2=2", 1);
    check(ssd_ceiling_cuda_copy() == 0, "no memory for it");
    setenv("FAKE_CUDA", "sm=80", 1);
    check(ssd_ceiling_cuda_matmul(by) == 0, "no products without cuBLAS and a compiler");
    double alone, in_row;
    check(!ssd_ceiling_cuda_launch(&alone, &in_row) && alone == 0, "no empty kernel without one");
    // 132 multiprocessors at 1.5 GHz
    check(fabs(ssd_ceiling_cuda_peak(true) - 132 * 1.5 * 2048) < 1e-6, "peak of tensor cores");
    check(fabs(ssd_ceiling_cuda_peak(false) - 132 * 1.5 * 128) < 1e-6, "peak of f32 units");
}

int main(void) {
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 32);
    char *slash = n > 0 ? (path[n] = 0, strrchr(path, '/')) : NULL;
    if (!slash) return 77;
    strcpy(slash, "/libfake_cuda.so");
    setenv("SSD_CUDA_DRIVER", path, 1);
    setenv("SSD_NVRTC", path, 1);
    setenv("SSD_CUBLAS", "", 1);
    setenv("FAKE_CUDA", "sm=80", 1);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    FakeOnLaunch *on_launch = NULL;
    FakeLog *log = NULL;
    FakeLogClear *clear = NULL;
    check(lib != NULL, "the driver that is none");
    if (!lib) return 1;
    *(void **)&on_launch = dlsym(lib, "fake_on_launch");
    *(void **)&log = dlsym(lib, "fake_log");
    *(void **)&clear = dlsym(lib, "fake_log_clear");
    on_launch(toy);
    ssd_compile_hook = hook;

    ssd_context *ctx = NULL;
    ssd_kernel *k = NULL;
    ssd_context_create(&(ssd_context_options){.threads = 1, .cache_dir = ""}, &ctx);
    check(ssd_compile(ctx, &(ssd_compile_options){.spec = "toy", .target = "cuda"}, &k) == SSD_OK,
          "a kernel");
    if (k) {
        one_launch(k);
        guards(k);
        faults(k);
        times(k, log, clear);
        row(k, log, clear);
        ceilings(log, clear);
    }
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
