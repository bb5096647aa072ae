// SPDX-License-Identifier: Apache-2.0
// CUDA without CUDA: statuses and messages of machines that lack something, and loads and launches
// against fake_cuda.c, which tells what the driver was asked. The driver is opened once in a
// process, so each case has a process of its own.
#include "../../runtime/device_cuda.h"
#include "../../runtime/dynlib.h"
#include "test_cuda.h"

#include <dlfcn.h>
#include <ftw.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char root[] = "/tmp/ssd-cuda-test-XXXXXX";
static int compiled;
FakeLog *log_of;
static FakeSaid *log_holds;
FakeLogClear *log_clear;
FakeOnLaunch *on_launch;

// --- A program ----------------------------------------------------------------------------------
// first takes w, x; second takes y, w, x; state takes hT, h0. Words: tensors + 2 symbols + 2 a dim.
static const char toy_text[] =
    "ssdc-artifact 1\nprogram toy forward cuda-sm_80\nschedule form=toy q=1\n"
    "sym b x 0\nsym t x 1\n"
    "param x in f32 b t 6\nparam h0 in f32 b 3\n"
    "param y out f32 b t 6\nparam hT out f32 b 3 alias h0\n"
    "plan when t<1000\nws w f32 b t 6\n"
    "kernel first b*t 65536 256\ntakes 4 0\n"
    "kernel second b*(t-1) 0 128\ntakes 2 4 0\n"
    "kernel state b 1024 32\ntakes 3 1\n"
    "plan always\nkernel state b*3000000000 0 32\ntakes 3 1\n";
static const char kernels[] = "first 128 1024\nsecond 184 1024\nstate 96 64\n";
const char *text = toy_text; // of the artifact that the hook makes

static char code[512];
static size_t code_size;

// The head of a cubin that says it has no sections; its size.
static size_t put_cubin(char *at, const char *lines) {
    memset(at, 0, 64);
    memcpy(at,
           "\x7f"
           "ELF\2\1",
           6);
    return 64 + (size_t)sprintf(at + 64, "%s", lines) + 1;
}
void make_code(const char *lines) { code_size = put_cubin(code, lines); }

static ssd_status hook(Arena *a, const ssd_compile_options *o, Artifact *out) {
    Text why = {0};
    compiled++;
    (void)o;
    CHECK(ssd_artifact_parse(a, text, strlen(text), out, &why));
    if (why.s) printf("  %s\n", why.s);
    ssd_text_free(&why);
    out->code = code;
    out->code_size = code_size;
    return SSD_OK;
}

ssd_context *new_context(const char *cache) {
    ssd_context *c = NULL;
    CHECK(ssd_context_create(&(ssd_context_options){.threads = 1, .cache_dir = cache}, &c) ==
          SSD_OK);
    return c;
}

static ssd_status compile(ssd_context *c, const char *target, ssd_kernel **out) {
    return ssd_compile(c, &(ssd_compile_options){.spec = "toy", .target = target}, out);
}

void expect_compile(const char *target, ssd_status want, const char *message) {
    ssd_context *c = new_context("");
    ssd_kernel *k = (ssd_kernel *)&k;
    ssd_status s = compile(c, target, &k);
    CHECK(s == want && !k);
    CHECK_HOLDS(ssd_last_error(), message);
    if (s != want) printf("  %s: %s\n", ssd_status_name(s), ssd_last_error());
    ssd_context_destroy(c);
}

// --- Nothing there ------------------------------------------------------------------------------
static void cpu_still_works(void) {
    bool runs = false;
    CHECK(ssd_cpu_target("cpu", &runs) && runs);
    CHECK(ssd_target_check("cpu") == SSD_OK);
}

static void no_driver(void) {
    expect_compile("cuda", SSD_NOT_FOUND, "target cuda: no CUDA driver");
    CHECK_HOLDS(ssd_last_error(), "SSD_CUDA_DRIVER is set");
    expect_compile("sm_90a", SSD_NOT_FOUND, "target cuda-sm_90a: no CUDA driver");
    expect_compile("cudda", SSD_NOT_FOUND, "did you mean 'cuda'");
    expect_compile("sm_81", SSD_NOT_FOUND, "did you mean 'sm_8");
    bool runs = true;
    CHECK(!ssd_cuda_target("cuda", &runs) && !runs);
    CHECK_SAME(ssd_cuda_target("sm_90a", &runs), "cuda-sm_90a");
    CHECK(!runs && !ssd_cuda_driver_version() && !ssd_cuda_device(NULL));
    cpu_still_works();
}

static void no_library(void) { // a library, but not this one
    expect_compile("cuda", SSD_UNSUPPORTED, "it has no cuInit; version 11.4 or later is needed");
    cpu_still_works();
}

static void stub(void) {
    expect_compile("cuda", SSD_NOT_FOUND, "the toolkit's stub, not a driver");
}
static void no_device(void) { expect_compile("cuda", SSD_NOT_FOUND, "look at `nvidia-smi`"); }
static void hidden(void) { expect_compile("cuda", SSD_NOT_FOUND, "CUDA_VISIBLE_DEVICES"); }
static void mismatch(void) { expect_compile("cuda", SSD_DEVICE, "reboot"); }
static void unreachable(void) { expect_compile("sm_80", SSD_DEVICE, "/dev/nvidia*"); }
static void unheard_of(void) {
    expect_compile("cuda", SSD_DEVICE, "cuInit: CUDA_ERROR_NUMBER_4711 4711 (fake words)");
}
static void too_old(void) {
    expect_compile("cuda", SSD_UNSUPPORTED, "Fake device has compute capability 7.5");
    CHECK_HOLDS(ssd_last_error(), "use target cpu");
    cpu_still_works();
}
static void other_architecture(void) {
    expect_compile("sm_90a", SSD_UNSUPPORTED, "target cuda-sm_90a: Fake device needs cuda-sm_89");
}

static void expect_target(const char *name, const char *want, bool want_runs) {
    bool runs;
    CHECK_SAME(ssd_cuda_target(name, &runs), want);
    if (!CHECK(runs == want_runs)) printf("  %s\n", name);
}

static void hopper(void) {
    expect_target("cuda", "cuda-sm_90a", true);
    expect_target("sm_90a", "cuda-sm_90a", true);
    expect_target("cuda-sm_90", "cuda-sm_90", true);
    expect_target("sm_80", "cuda-sm_80", false);
    expect_target("sm_100", "cuda-sm_100", false);
    bool runs;
    CHECK(!ssd_cuda_target("sm_9", &runs) && !ssd_cuda_target("cuda-", &runs) &&
          !ssd_cuda_target("", &runs));
    const CudaDevice *d = ssd_cuda_device(NULL);
    if (!CHECK(d != NULL)) return;
    CHECK(d->sms == 132 && d->shared_block == 232448 && d->l2 == 1 << 20 &&
          d->clock_khz == 1500000);
    CHECK(d->memory_clock_khz == 0); // which this driver does not tell
    CHECK(d->memory == (i64)80 << 30 && ssd_cuda_driver_version() == 13000);
}
static void orin_and_later(void) { // 8.8: none of its own
    expect_target("cuda", "cuda-sm_87", true);
    expect_target("sm_86", "cuda-sm_86", true);
    expect_target("sm_89", "cuda-sm_89", false);
}

// --- NVRTC and the key --------------------------------------------------------------------------
static void key(void) {
    Arena a = {0};
    char *k;
    size_t n;
    CHECK(ssd_compile_key(&a, &(ssd_compile_options){.spec = "toy", .target = "cuda"}, &k, &n) ==
          SSD_OK);
    CHECK_HOLDS(k, "\ntarget cuda-sm_90a\nnvrtc ");
    const char *id = strstr(k, "nvrtc ") + strlen("nvrtc ");
    CHECK(strspn(id, "0123456789abcdef") == 40 && id[40] == '\n');
    CHECK(ssd_compile_key(&a, &(ssd_compile_options){.spec = "toy"}, &k, &n) == SSD_OK);
    CHECK(!strstr(k, "nvrtc"));
    const Nvrtc *v = ssd_nvrtc(NULL);
    CHECK(v && v->major == 13 && v->minor == 0);
    CHECK_HOLDS(v ? v->path : NULL, "libfake_cuda.so");
    ssd_arena_free(&a);
}

static void copy_library(const char *from, const char *dir) {
    char to[128], block[4096];
    mkdir(dir, 0700);
    snprintf(to, sizeof to, "%s/libnvrtc.so.13", dir);
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    if (!CHECK(in && out)) return;
    for (size_t n; (n = fread(block, 1, sizeof block, in)) > 0;) fwrite(block, 1, n, out);
    fclose(in);
    fclose(out);
}

static bool mapped_here(const char *dir) {
    char line[4096];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) found |= strstr(line, dir) != NULL;
    if (maps) fclose(maps);
    return found;
}

// A key takes a look at the file and does not load it; what is loaded later is that file.
static void expect_unloaded(const char *dir, const char *build) {
    CHECK_HOLDS(ssd_nvrtc_build(), build);
    CHECK(!mapped_here(dir));
    const Nvrtc *n = ssd_nvrtc(NULL);
    CHECK_HOLDS(n ? n->path : NULL, dir);
    CHECK_HOLDS(n ? n->version : NULL, ssd_nvrtc_build());
    CHECK(mapped_here(dir));
}

static void nvrtc_in_directory(void) {
    char dir[64];
    snprintf(dir, sizeof dir, "%s/nvrtc", root);
    copy_library(FAKE_CUDA_LIBRARY, dir);
    setenv("SSD_NVRTC", dir, 1);
    expect_unloaded(dir, "");
    CHECK(strspn(ssd_nvrtc_build(), "0123456789abcdef") == 40);
}

// Found as the linker would: what is no library is passed over.
static void nvrtc_of_linker(void) {
    char text_dir[64], dir[64], path[200];
    snprintf(text_dir, sizeof text_dir, "%s/text", root);
    snprintf(dir, sizeof dir, "%s/linked", root);
    copy_library(__FILE__, text_dir);
    copy_library(OLD_CUDA_LIBRARY, dir);
    snprintf(path, sizeof path, ":/nowhere:%s:%s", text_dir, dir);
    setenv("LD_LIBRARY_PATH", path, 1);
    unsetenv("SSD_NVRTC");
    expect_unloaded(dir, " bytes "); // it was linked without a build id
}

static void no_nvrtc(void) {
    Text why = {0};
    Arena a = {0};
    char *k;
    size_t n;
    CHECK(!ssd_nvrtc(&why));
    CHECK_HOLDS(why.s, "SSD_NVRTC=");
    CHECK(ssd_compile_key(&a, &(ssd_compile_options){.spec = "toy", .target = "cuda"}, &k, &n) ==
          SSD_OK);
    CHECK_HOLDS(k, "nvrtc none\n");
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

static void damaged_nvrtc(void) {
    Text why = {0};
    CHECK(!ssd_nvrtc(&why));
    CHECK_HOLDS(why.s, "does not tell its version");
    ssd_text_free(&why);
}

// --- Loading ------------------------------------------------------------------------------------
static void load(void) {
    char dir[64];
    snprintf(dir, sizeof dir, "%s/load", root);
    ssd_context *c = new_context(dir);
    ssd_kernel *k, *again;
    if (!CHECK(compile(c, "cuda", &k) == SSD_OK)) {
        printf("  %s\n", ssd_last_error());
        return;
    }
    CHECK_SAME(ssd_kernel_target(k), "cuda-sm_80");
    CHECK_SAME(ssd_kernel_origin(k), "compiled");
    CHECK_HOLDS(log_of(), "cuFuncSetAttribute 8 65536\n");
    CHECK_HOLDS(log_of(), "cuModuleGetFunction state\n");
    CHECK(!strstr(log_of(), "no argument")); // nobody asked for one that is not there
    CHECK_SAME(ssd_context_warning(c), "");
    ssd_compile_hook = NULL;
    CHECK(compile(c, "cuda", &again) == SSD_OK && compiled == 1);
    CHECK_SAME(ssd_kernel_origin(again), "cache");
    ssd_kernel_destroy(again);
    log_clear();
    ssd_kernel_destroy(k);
    CHECK_HOLDS(log_of(), "cuModuleUnload\n");
    ssd_context_destroy(c);
}

static void fake(const char *settings) {
    char all[256];
    snprintf(all, sizeof all, "sm=80 %s", settings);
    setenv("FAKE_CUDA", all, 1);
}

static void load_faults(void) {
    static const struct {
        const char *settings, *kernels;
        ssd_status status;
        const char *message;
    } cases[] = {
        {"cuModuleLoadDataEx=200", kernels, SSD_UNSUPPORTED, "the code is damaged"},
        {"cuModuleLoadDataEx=209", kernels, SSD_UNSUPPORTED,
         "another architecture than this device's"},
        {"cuModuleLoadDataEx=2", kernels, SSD_OUT_OF_MEMORY, "no memory left"},
        {"cuFuncSetAttribute=1", kernels, SSD_INVALID_ARGUMENT, "65536 bytes of shared memory for"},
        {"cuFuncGetAttribute=999", kernels, SSD_DEVICE, "kernel 'first': CUDA_ERROR_NUMBER_999"},
        {"cuDevicePrimaryCtxRetain=0", "first 128 1024\nsecond 184 1024\n", SSD_INVALID_ARGUMENT,
         "the code has no kernel 'state'"},
        {"", "first 120 1024\n", SSD_INVALID_ARGUMENT,
         "argument of 120 bytes, the artifact says 128"},
        {"", "first 0 1024\n", SSD_INVALID_ARGUMENT, "argument of 0 bytes, the artifact says 128"},
        {"", "first 128 128\n", SSD_UNSUPPORTED,
         "needs blocks of 256 threads, the device allows 128"},
    };
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        fake(cases[i].settings);
        make_code(cases[i].kernels);
        expect_compile("cuda", cases[i].status, cases[i].message);
    }
    fake("");
    code[1] = 'e';
    expect_compile("cuda", SSD_INVALID_ARGUMENT, "is no cubin");
    make_code(kernels);
    code[58] = 64, code[60] = 100; // a hundred sections that are not there
    expect_compile("cuda", SSD_INVALID_ARGUMENT, "is no cubin");
    make_code(kernels);
    code_size = 60;
    expect_compile("cuda", SSD_INVALID_ARGUMENT, "is no cubin");
}

static void small_device(void) {
    expect_compile(
        "cuda", SSD_UNSUPPORTED,
        "kernel 'first' needs 65536 bytes of shared memory a block, Fake device has 65535");
}

static void old_driver(void) {
    expect_compile("cuda", SSD_UNSUPPORTED, "the driver (CUDA 12.4) is older than NVRTC 13.0");
    CHECK_HOLDS(ssd_last_error(), "libnvrtc.so.12");
}

static void no_context(void) {
    expect_compile("cuda", SSD_OUT_OF_MEMORY, "cuDevicePrimaryCtxRetain");
}

// --- Launching ----------------------------------------------------------------------------------
typedef struct Case {
    float *x, *h0, *y, *ws;
    size_t ws_bytes;
    ssd_arg arg[4];
} Case;

float *device_floats(size_t n) {
    CuPtr p = 0;
    CHECK(ssd_cuda_driver()->api.MemAlloc(&p, n * sizeof(float)) == 0);
    return (float *)(uintptr_t)p;
}

static void fill(Case *c) {
    const i64 wide[] = {B, T, H}, state[] = {B, 3};
    *c = (Case){device_floats(B * 1000 * H), device_floats(B * 3), device_floats(B * 1000 * H),
                device_floats(B * T * H + 64), 256};
    c->arg[0] = (ssd_arg){"x", ssd_tensor_dense(c->x, SSD_F32, 3, wide)};
    c->arg[1] = (ssd_arg){"h0", ssd_tensor_dense(c->h0, SSD_F32, 2, state)};
    c->arg[2] = (ssd_arg){"y", ssd_tensor_dense(c->y, SSD_F32, 3, wide)};
    c->arg[3] = (ssd_arg){"hT", ssd_tensor_dense(c->h0, SSD_F32, 2, state)}; // in place
    c->arg[2].tensor.strides[0] = 100;
}

static void drop(Case *c) {
    float *all[] = {c->x, c->h0, c->y, c->ws};
    for (int i = 0; i < 4; i++) ssd_cuda_driver()->api.MemFree((CuPtr)(uintptr_t)all[i]);
}

static i64 seen[3][32]; // arguments of the last launch of each
static int launched;

static void watch(const char *name, unsigned grid, unsigned block, unsigned shared,
                  const void *args) {
    int i = *name == 'f' ? 0 : name[1] == 'e' ? 1 : 2;
    static const int bytes[] = {128, 184, 96};
    (void)grid, (void)block, (void)shared;
    memcpy(seen[i], args, (size_t)bytes[i]);
    __atomic_add_fetch(&launched, 1, __ATOMIC_RELAXED);
}

static void count(const char *name, unsigned grid, unsigned block, unsigned shared_bytes,
                  const void *args) {
    (void)name, (void)grid, (void)block, (void)shared_bytes, (void)args;
    __atomic_add_fetch(&launched, 1, __ATOMIC_RELAXED);
}

ssd_kernel *toy(ssd_context *c) {
    ssd_kernel *k = NULL;
    if (!CHECK(compile(c, "cuda", &k) == SSD_OK)) printf("  %s\n", ssd_last_error());
    return k;
}

static ssd_status launch(ssd_kernel *k, Case *c, void *stream) {
    return ssd_launch_on(k, c->arg, 4, c->ws, c->ws_bytes, stream);
}

static void launches(void) {
    ssd_context *ctx = new_context("");
    ssd_kernel *k = toy(ctx);
    const CudaApi *api = &ssd_cuda_driver()->api;
    Case c;
    if (!k) return;
    on_launch(watch);
    fill(&c);
    CHECK(ssd_kernel_workspace(k, c.arg, 4, &c.ws_bytes) == SSD_OK && c.ws_bytes == 256);

    log_clear();
    CHECK(launch(k, &c, NULL) == SSD_OK);
    CHECK_HOLDS(log_of(), "launch first 10 1 1, 256 1 1, 65536\nlaunch second 8 1 1, 128 1 1, 0\n"
                          "launch state 2 1 1, 32 1 1, 1024\n");
    // pointers, symbols, then strides and dims of each
    const i64 first[] = {(i64)c.ws, (i64)c.x, B, T, T * H, H, 1, B, T, H, T * H, H, 1, B, T, H};
    const i64 second[] = {(i64)c.y, (i64)c.ws, (i64)c.x, B, T, 100,   H, 1, B, T, H, T * H,
                          H,        1,         B,        T, H, T * H, H, 1, B, T, H};
    const i64 state[] = {(i64)c.h0, (i64)c.h0, B, T, 3, 1, B, 3, 3, 1, B, 3};
    CHECK(sizeof first == 128 && !memcmp(seen[0], first, sizeof first));
    CHECK(sizeof second == 184 && !memcmp(seen[1], second, sizeof second));
    CHECK(sizeof state == 96 && !memcmp(seen[2], state, sizeof state));
    CHECK_HOLDS(log_of(), "push\n"); // nobody's context was current
    CHECK_HOLDS(log_of(), "cuPointerGetAttribute 2\n");

    log_clear(); // the same again: only launches
    CHECK(launch(k, &c, NULL) == SSD_OK);
    CHECK_SAME(log_of(),
               "push\nlaunch first 10 1 1, 256 1 1, 65536\nlaunch second 8 1 1, 128 1 1, 0\n"
               "launch state 2 1 1, 32 1 1, 1024\npop\n");

    void *stream; // with a context that is the caller's, on a stream
    char mine[1];
    CHECK(api->StreamCreate(&stream, 0) == 0 && api->CtxPushCurrent(mine) == 0);
    log_clear();
    CHECK(launch(k, &c, stream) == SSD_OK); // new there: loaded again
    CHECK_HOLDS(log_of(), "cuModuleLoadDataEx\n");
    log_clear();
    CHECK(launch(k, &c, stream) == SSD_OK);
    CHECK(!strstr(log_of(), "Load") && !strstr(log_of(), "push") && !strstr(log_of(), "Alloc") &&
          !strstr(log_of(), "Synchronize"));
    CHECK_HOLDS(log_of(), "1024 on a stream\n");
    fake("generation=1"); // another context at the same address
    log_clear();
    CHECK(launch(k, &c, stream) == SSD_OK);
    CHECK_HOLDS(log_of(), "cuModuleLoadDataEx\n");
    fake("");
    CuHandle popped;
    api->CtxPopCurrent(&popped);

    // Captured, a launch runs when its graph does.
    CuHandle graph = NULL;
    CHECK(api->StreamBeginCapture(stream, CU_CAPTURE_THREAD_LOCAL) == 0);
    launched = 0;
    CHECK(launch(k, &c, stream) == SSD_OK && !launched);
    CHECK(api->StreamEndCapture(stream, &graph) == 0 && api->GraphLaunch(graph, stream) == 0);
    CHECK(launched == 3);
    api->GraphDestroy(graph);
    api->StreamDestroy(stream);

    // T = 1: a grid of no blocks is no launch, and a tensor without elements no pointer.
    for (int i = 0; i < 3; i += 2) c.arg[i].tensor.dims[1] = 1;
    log_clear();
    CHECK(launch(k, &c, NULL) == SSD_OK && !strstr(log_of(), "second"));
    for (int i = 0; i < 3; i += 2) c.arg[i].tensor.dims[1] = 0, c.arg[i].tensor.data = NULL;
    CHECK(launch(k, &c, NULL) == SSD_OK);
    drop(&c);
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
}

static void expect_launch(ssd_kernel *k, Case *c, ssd_status want, const char *message) {
    ssd_status s = launch(k, c, NULL);
    CHECK(s == want);
    CHECK_HOLDS(ssd_last_error(), message);
    if (s != want) printf("  %s: %s\n", ssd_status_name(s), ssd_last_error());
}

// A kernel that waits by itself is launched early where the driver can: not before CUDA 12.3, by
// its version or by what it exports.
static void expect_state(const char *line_of_log) {
    static char early[sizeof toy_text + 16];
    static const char line[] = "kernel state b 1024 32";
    const char *at = strstr(toy_text, line);
    snprintf(early, sizeof early, "%.*s%s early%s", (int)(at - toy_text), toy_text, line,
             at + sizeof line - 1);
    text = early;
    ssd_context *ctx = new_context("");
    ssd_kernel *k = toy(ctx);
    Case c;
    if (!k) return;
    on_launch(watch);
    fill(&c);
    CHECK(ssd_kernel_workspace(k, c.arg, 4, &c.ws_bytes) == SSD_OK);
    log_clear();
    CHECK(launch(k, &c, NULL) == SSD_OK);
    CHECK_HOLDS(log_of(), "launch second 8 1 1, 128 1 1, 0\n");
    CHECK_HOLDS(log_of(), line_of_log);
    const i64 words[] = {(i64)c.h0, (i64)c.h0, B, T, 3, 1, B, 3, 3, 1, B, 3};
    CHECK(!memcmp(seen[2], words, sizeof words));
    drop(&c);
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
    text = toy_text;
}
static void early(void) { expect_state("launch state 2 1 1, 32 1 1, 1024 early\n"); }
static void not_early(void) { expect_state("launch state 2 1 1, 32 1 1, 1024\n"); }

static void launch_faults(void) {
    ssd_context *ctx = new_context("");
    ssd_kernel *k = toy(ctx);
    Case c, good;
    if (!k) return;
    fill(&c);
    good = c;
    float *host = aligned_alloc(64, 4096);

    c.ws = NULL;
    expect_launch(k, &c, SSD_INVALID_ARGUMENT,
                  "workspace is NULL, expected 256 bytes of device memory");
    CHECK(ssd_launch(k, c.arg, 4, NULL, 0) == SSD_INVALID_ARGUMENT);
    c.ws = host;
    expect_launch(k, &c, SSD_INVALID_ARGUMENT, "workspace is host memory");
    c = good, c.ws_bytes = 255;
    expect_launch(k, &c, SSD_INVALID_ARGUMENT, "workspace has 255 bytes, expected 256");
    c = good, c.arg[0].tensor.data = host;
    log_clear();
    expect_launch(k, &c, SSD_INVALID_ARGUMENT, "argument 'x': data is host memory");
    CHECK(!strstr(log_of(), "launch"));
    c = good, c.arg[2].tensor.data = c.x;
    expect_launch(k, &c, SSD_INVALID_ARGUMENT, "overlaps input 'x'");
    c = good;
    for (int i = 0; i < 3; i += 2) { // the plan for t >= 1000, whose grid is too large
        c.arg[i].tensor.dims[1] = 1000;
        c.arg[i].tensor.strides[0] = 6000;
    }
    expect_launch(k, &c, SSD_UNSUPPORTED, "needs 6000000000 blocks");

    static const struct {
        const char *settings;
        ssd_status status;
        const char *message;
    } cases[] = {
        {"cuLaunchKernel=2", SSD_OUT_OF_MEMORY, "launching kernel 'first': CUDA_ERROR_NUMBER_2"},
        {"cuLaunchKernel=400", SSD_INVALID_ARGUMENT, "not of the calling thread's current"},
        {"cuLaunchKernel=700", SSD_DEVICE, "the process has to start again"},
        {"cuLaunchKernel=701", SSD_UNSUPPORTED, "more registers or threads"},
        {"cuLaunchKernel=719", SSD_DEVICE, "failed"},
        {"cuLaunchKernel=1234", SSD_DEVICE, "CUDA_ERROR_NUMBER_1234 1234 (fake words)"},
        {"cuCtxPushCurrent_v2=4", SSD_DEVICE, "cuCtxPushCurrent"}};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        fake(cases[i].settings);
        c = good;
        expect_launch(k, &c, cases[i].status, cases[i].message);
    }
    fake("");
    CHECK(launch(k, &good, NULL) == SSD_OK); // and none of them has lasting effects
    CHECK_SAME(ssd_last_error(), "");
    free(host);
    drop(&good);
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
}

static void host_memory_is_fine(void) { // where device and host share their page tables
    ssd_context *ctx = new_context("");
    ssd_kernel *k = toy(ctx);
    Case c;
    if (!k) return;
    fill(&c);
    float *x = malloc(sizeof(float) * B * T * H);
    c.arg[0].tensor.data = x;
    CHECK(launch(k, &c, NULL) == SSD_OK);
    free(x);
    drop(&c);
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
}

// --- Modules ------------------------------------------------------------------------------------
// The toy as two cubins: the third kernel is in one of its own, if `third` says so.
static void use_modules(size_t first, size_t second, int third) {
    static char split[1000];
    snprintf(split, sizeof split,
             "ssdc-artifact 1\nprogram toy forward cuda-sm_80\nschedule form=toy q=1\n"
             "sym b x 0\nsym t x 1\n"
             "param x in f32 b t 6\nparam h0 in f32 b 3\n"
             "param y out f32 b t 6\nparam hT out f32 b 3 alias h0\n"
             "modules %zu %zu\nplan always\nws w f32 b t 6\n"
             "kernel first b*t 65536 256 in 0\ntakes 4 0\n"
             "kernel second b*(t-1) 0 128 in 0\ntakes 2 4 0\n"
             "kernel state b 1024 32 in %d\ntakes 3 1\n",
             first, second, third);
    text = split;
}

static int unloads(void) {
    int n = 0;
    for (const char *s = log_of(); (s = strstr(s, "cuModuleUnload\n")); s++) n++;
    return n;
}

static void modules(void) {
    char dir[64];
    snprintf(dir, sizeof dir, "%s/modules", root);
    size_t one = put_cubin(code, "first 128 1024\nsecond 184 1024\n");
    char *behind = code + ssd_artifact_module_at((i64)one);
    size_t other = put_cubin(behind, "state 96 64\n");
    code_size = (size_t)(behind - code) + other;
    use_modules(one, other, 1);
    ssd_context *ctx = new_context(dir);
    for (int cached = 0; cached < 2; cached++) {
        ssd_kernel *k = toy(ctx);
        Case c;
        if (!k) return;
        CHECK_SAME(ssd_kernel_origin(k), cached ? "cache" : "compiled");
        on_launch(watch);
        fill(&c);
        launched = 0;
        CHECK(launch(k, &c, NULL) == SSD_OK && launched == 3);
        const i64 words[] = {(i64)c.h0, (i64)c.h0, B, T, 3, 1, B, 3, 3, 1, B, 3};
        CHECK(!memcmp(seen[2], words, sizeof words));
        drop(&c);
        log_clear();
        ssd_kernel_destroy(k);
        CHECK(unloads() == 2);
    }
    ssd_context_destroy(ctx);
}

// Sizes that are not those of the code, and damage to the second of two.
static void module_faults(void) {
    static const char wrong[] = "the code of 'toy' is no cubins of the sizes it gives";
    size_t one = put_cubin(code, "first 128 1024\nsecond 184 1024\n");
    char *behind = code + ssd_artifact_module_at((i64)one);
    size_t other = put_cubin(behind, "state 96 64\n");
    const size_t sizes[][2] = {{one, other - 1},       {one, other + 1},       {one - 64, other},
                               {one + 64, other - 64}, {one, ART_MODULE_MOST}, {one, 10}};
    code_size = (size_t)(behind - code) + other;
    for (size_t i = 0; i < COUNTOF(sizes); i++) {
        use_modules(sizes[i][0], sizes[i][1], 1);
        expect_compile("cuda", SSD_INVALID_ARGUMENT, wrong);
    }
    use_modules(one, other, 1);
    behind[1] = 'e';
    expect_compile("cuda", SSD_INVALID_ARGUMENT, wrong);
    behind[1] = 'E', behind[58] = 64, behind[60] = 100; // sections beyond its end
    expect_compile("cuda", SSD_INVALID_ARGUMENT, wrong);
    behind[60] = 0;
    log_clear();
    use_modules(one, other, 0); // a kernel is looked for where it is said to be, and only there
    expect_compile("cuda", SSD_INVALID_ARGUMENT, "the code has no kernel 'state'");
    CHECK(unloads() == 2);
}

// While the compiler works the device's context is made: a compiler that waits for it gets it.
static ssd_status wait_for_context(Arena *a, const ssd_compile_options *o, Artifact *out) {
    for (int i = 0; i < 10000 && !log_holds("cuDevicePrimaryCtxRetain"); i++) usleep(1000);
    CHECK(log_holds("cuDevicePrimaryCtxRetain"));
    return hook(a, o, out);
}
static void context_beside(void) {
    ssd_compile_hook = wait_for_context;
    ssd_context *ctx = new_context("");
    ssd_kernel_destroy(toy(ctx));
    ssd_context_destroy(ctx);
}

// --- Many of them -------------------------------------------------------------------------------
// Many threads, two contexts, one kernel.
static ssd_kernel *shared;

static void *hammer(void *arg) {
    Case c = *(Case *)arg;
    static char contexts[2];
    static int turn;
    const CudaApi *api = &ssd_cuda_driver()->api;
    CuHandle popped;
    int me = __atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED);
    api->CtxPushCurrent(&contexts[me % 2]);
    for (int i = 0; i < 200; i++)
        if (ssd_launch_on(shared, c.arg, 4, c.ws, c.ws_bytes, NULL)) return "failed";
    api->CtxPopCurrent(&popped);
    return NULL;
}

static void threads(void) {
    ssd_context *ctx = new_context("");
    pthread_t t[4];
    Case c;
    void *failed_one = NULL;
    if (!(shared = toy(ctx))) return;
    fill(&c);
    on_launch(count);
    launched = 0;
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, hammer, &c);
    for (int i = 0; i < 4; i++) {
        void *r;
        pthread_join(t[i], &r);
        if (r) failed_one = r;
    }
    CHECK(!failed_one && launched == 4 * 200 * 3);
    drop(&c);
    ssd_kernel_destroy(shared);
    ssd_context_destroy(ctx);
}

// A fork compiles, for the cache of its parent, and leaves the driver alone.
static void forks(void) {
    char dir[64];
    snprintf(dir, sizeof dir, "%s/forks", root);
    ssd_context *ctx = new_context(dir);
    CHECK(ssd_cuda_device(NULL) != NULL);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        ssd_kernel *k = NULL;
        log_clear();
        ssd_status s = compile(ctx, "cuda", &k);
        Case c = {0};
        const i64 wide[] = {B, T, H}, state[] = {B, 3};
        float *x = aligned_alloc(64, 4096);
        c.arg[0] = (ssd_arg){"x", ssd_tensor_dense(x, SSD_F32, 3, wide)};
        c.arg[1] = (ssd_arg){"h0", ssd_tensor_dense(x + 100, SSD_F32, 2, state)};
        c.arg[2] = (ssd_arg){"y", ssd_tensor_dense(x + 200, SSD_F32, 3, wide)};
        c.arg[3] = (ssd_arg){"hT", ssd_tensor_dense(x + 100, SSD_F32, 2, state)};
        bool ok = !s && !*log_of() &&
                  ssd_launch_on(k, c.arg, 4, x + 512, 2048, NULL) == SSD_DEVICE &&
                  strstr(ssd_last_error(), "after the fork") && !*log_of();
        ssd_kernel_destroy(k);
        free(x);
        _exit(ok ? 0 : 1);
    }
    int status = 1;
    waitpid(pid, &status, 0);
    CHECK(!status);
    ssd_compile_hook = NULL;
    ssd_kernel *k = toy(ctx);
    CHECK_SAME(ssd_kernel_origin(k), "cache");
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
}

// --- The cases, a process each ------------------------------------------------------------------
static const struct {
    const char *name;
    void (*run)(void);
    const char *fake;           // FAKE_CUDA
    const char *driver, *nvrtc; // instead of the fake
} cases[] = {
    {"no driver", no_driver, "", "/nowhere/libcuda.so.1"},
    {"no such library", no_library, "", "libm.so.6"},
    {"stub", stub, "cuInit=34"},
    {"no device", no_device, "cuInit=100"},
    {"devices hidden", hidden, "devices=0"},
    {"versions differ", mismatch, "cuInit=803"},
    {"device unreachable", unreachable, "cuInit=999"},
    {"unknown error", unheard_of, "cuInit=4711"},
    {"compute capability 7.5", too_old, "sm=75"},
    {"other architecture", other_architecture, "sm=89"},
    {"compute capability 9.0", hopper, "sm=90"},
    {"compute capability 8.8", orin_and_later, "sm=88"},
    {"key", key, "sm=90"},
    {"NVRTC in a directory", nvrtc_in_directory, "sm=90"},
    {"NVRTC of the linker", nvrtc_of_linker, "sm=90"},
    {"no NVRTC", no_nvrtc, "sm=90", NULL, "/nowhere"},
    {"damaged NVRTC", damaged_nvrtc, "nvrtc=0"},
    {"load", load, "sm=80"},
    {"load faults", load_faults, "sm=80"},
    {"small device", small_device, "sm=80 shared=65535"},
    {"old driver", old_driver, "sm=80 version=12040 cuModuleLoadDataEx=222"},
    {"no context", no_context, "sm=80 cuDevicePrimaryCtxRetain=2"},
    {"launches", launches, "sm=80"},
    {"early launches", early, "sm=80 version=12030"},
    {"too old for early launches", not_early, "sm=80 version=12020"},
    {"no early launches", not_early, "sm=80", OLD_CUDA_LIBRARY},
    {"launch faults", launch_faults, "sm=80"},
    {"host memory", host_memory_is_fine, "sm=80 reads_host=1"},
    {"modules", modules, "sm=80"},
    {"module faults", module_faults, "sm=80"},
    {"context beside the compiler", context_beside, "sm=80"},
    {"tensor maps", maps, "sm=90"},
    {"maps along rows", maps_along_rows, "sm=90"},
    {"no tensor maps", no_maps, "sm=90", OLD_CUDA_LIBRARY},
    {"threads", threads, "sm=80"},
    {"forks", forks, "sm=80"},
};

static void *symbol(void *lib, const char *name) {
    void *at = dlsym(lib, name);
    CHECK(at != NULL);
    return at;
}

static void run_case(size_t i) {
    setenv("FAKE_CUDA", cases[i].fake, 1);
    setenv("SSD_CUDA_DRIVER", cases[i].driver ? cases[i].driver : FAKE_CUDA_LIBRARY, 1);
    setenv("SSD_NVRTC", cases[i].nvrtc ? cases[i].nvrtc : FAKE_CUDA_LIBRARY, 1);
    bool old = cases[i].driver && !strcmp(cases[i].driver, OLD_CUDA_LIBRARY);
    void *lib = dlopen(old ? OLD_CUDA_LIBRARY : FAKE_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!CHECK(lib != NULL)) return;
    *(void **)&log_of = symbol(lib, "fake_log");
    *(void **)&log_holds = symbol(lib, "fake_said");
    *(void **)&log_clear = symbol(lib, "fake_log_clear");
    *(void **)&on_launch = symbol(lib, "fake_on_launch");
    ssd_compile_hook = hook;
    make_code(kernels);
    cases[i].run();
}

static int remove_one(const char *path, const struct stat *st, int what, struct FTW *at) {
    (void)st, (void)what, (void)at;
    return remove(path);
}

int main(void) {
    if (!mkdtemp(root)) return 1;
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        int pipe_fd[2], counts[2] = {0, 1}, status;
        fflush(stdout);
        if (pipe(pipe_fd)) return 1;
        pid_t pid = fork();
        if (!pid) {
            passed = failed = 0;
            run_case(i);
            counts[0] = passed, counts[1] = failed;
            fflush(stdout);
            bool told = write(pipe_fd[1], counts, sizeof counts) == sizeof counts;
            exit(told ? 0 : 1); // with the sanitizer's look at leaks
        }
        close(pipe_fd[1]);
        bool told = read(pipe_fd[0], counts, sizeof counts) == sizeof counts;
        close(pipe_fd[0]);
        waitpid(pid, &status, 0);
        passed += told ? counts[0] : 0;
        failed += told ? counts[1] : 0;
        if (!CHECK(told && !status) || counts[1]) printf("  in case '%s'\n", cases[i].name);
    }
    nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return test_end();
}
