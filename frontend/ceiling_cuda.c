// SPDX-License-Identifier: Apache-2.0
// What a CUDA device can do at most: copies, products of matrices on its tensor cores, launches.
#include "../codegen/nvrtc.h"
#include "../runtime/dynlib.h"
#include "ceiling.h"
#include "device.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 15 };

// Work on a stream with its buffers, and the time of each round.
typedef struct Work Work;
struct Work {
    const CudaApi *api;
    CudaScope scope;
    CuHandle stream, from, to;
    CuPtr buffer[3];
    size_t bytes; // of each
    int (*go)(Work *w);
    void *ctx;
    double ms[ROUNDS];
};

static int by_value(const void *x, const void *y) {
    double p = *(const double *)x, q = *(const double *)y;
    return (p > q) - (p < q);
}

// Nonzero: an error of the driver or of what it runs. The first rounds warm up.
static int time_rounds(Work *w) {
    const CudaApi *api = w->api;
    int e = 0;
    for (int i = -3; !e && i < ROUNDS; i++) {
        float ms = 0;
        e = api->EventRecord(w->from, w->stream);
        if (!e) e = w->go(w);
        if (!e) e = api->EventRecord(w->to, w->stream);
        if (!e) e = api->EventSynchronize(w->to);
        if (!e) e = api->EventElapsedTime(&ms, w->from, w->to);
        if (i >= 0) w->ms[i] = (double)ms;
    }
    qsort(w->ms, ROUNDS, sizeof *w->ms, by_value);
    return e;
}

static void end(Work *w) {
    for (size_t i = 0; i < COUNTOF(w->buffer); i++)
        if (w->buffer[i]) w->api->MemFree(w->buffer[i]);
    if (w->from) w->api->EventDestroy(w->from);
    if (w->to) w->api->EventDestroy(w->to);
    ssd_cuda_leave(&w->scope);
}

static bool begin(Work *w, int n_buffers, size_t bytes) {
    *w = (Work){.api = &ssd_cuda_driver()->api, .bytes = bytes};
    if (ssd_cuda_enter(NULL, &w->scope)) return false;
    int e = ssd_device_stream(&w->stream);
    if (!e) e = w->api->EventCreate(&w->from, 0);
    if (!e) e = w->api->EventCreate(&w->to, 0);
    for (int i = 0; !e && i < n_buffers; i++) {
        e = w->api->MemAlloc(&w->buffer[i], bytes);
        if (!e) e = w->api->MemsetD8Async(w->buffer[i], 0, bytes, w->stream);
    }
    if (e) end(w);
    return !e;
}

// --- Copies -------------------------------------------------------------------------------------
static int copy(Work *w) {
    return w->api->MemcpyDtoDAsync(w->buffer[1], w->buffer[0], w->bytes, w->stream);
}

double ssd_ceiling_cuda_copy(void) {
    Work w;
    if (!begin(&w, 2, (size_t)MAX(8 * ssd_cuda_driver()->device.l2, (i64)256 << 20))) return 0;
    w.go = copy;
    bool ok = !time_rounds(&w) && w.ms[0] > 0; // the best: a ceiling is what nothing disturbed
    double rate = ok ? 1e-6 * 2 * (double)w.bytes / w.ms[0] : 0;
    end(&w);
    return rate;
}

// --- Products: cuBLAS ---------------------------------------------------------------------------
// Numbers of its interface: CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT.
enum { SIDE = 8192, R_16BF = 14, COMPUTE_32F = 68, GEMM_DEFAULT = -1 };

typedef struct Cublas {
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*version)(void *handle, int *version);
    int (*set_stream)(void *handle, CuHandle stream);
    int (*gemm)(void *handle, int trans_a, int trans_b, int m, int n, int k, const void *alpha,
                const void *a, int a_type, int lda, const void *b, int b_type, int ldb,
                const void *beta, void *c, int c_type, int ldc, int compute, int algorithm);
    void *handle;
} Cublas;
static const DynSym cublas_syms[] = {{"cublasCreate_v2", offsetof(Cublas, create), false},
                                     {"cublasDestroy_v2", offsetof(Cublas, destroy), false},
                                     {"cublasGetVersion_v2", offsetof(Cublas, version), false},
                                     {"cublasSetStream_v2", offsetof(Cublas, set_stream), false},
                                     {"cublasGemmEx", offsetof(Cublas, gemm), false}};

static bool open_cublas(Cublas *c) {
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12"};
    const char *chosen = getenv("SSD_CUBLAS");
    Text why = {0};
    void *lib = chosen && *chosen ? dlopen(chosen, RTLD_NOW | RTLD_LOCAL) : NULL;
    for (size_t i = 0; !chosen && !lib && i < COUNTOF(names); i++)
        lib = ssd_dynlib_open(names[i], "cublasCreate_v2");
    bool ok = lib && ssd_dynlib_bind(lib, cublas_syms, COUNTOF(cublas_syms), c, &why) &&
              !c->create(&c->handle);
    ssd_text_free(&why);
    return ok;
}

// Signed mantissas of all kinds: products of zeros take less power, and are faster.
static int fill_with_noise(const Work *w, CuPtr to) {
    enum { WORDS = 1 << 19 };
    u32 *noise = malloc(WORDS * sizeof *noise);
    if (!noise) return 2;
    u64 x = 88172645463325252u;
    for (int i = 0; i < WORDS; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        noise[i] = ((u32)x & 0x80ff80ff) | 0x3f003f00; // two of 0.5 .. 2 in bf16, of either sign
    }
    size_t have = WORDS * sizeof *noise;
    int e =
        w->api->StreamSynchronize(w->stream); // which the copy, on the default one, is apart from
    if (!e) e = w->api->MemcpyHtoD(to, noise, MIN(have, w->bytes));
    if (!e) e = w->api->StreamSynchronize(NULL);
    for (; !e && have < w->bytes; have *= 2)
        e = w->api->MemcpyDtoDAsync(to + have, to, MIN(have, w->bytes - have), w->stream);
    free(noise);
    return e;
}

static int gemm(Work *w) {
    static const float one = 1, zero = 0;
    const Cublas *c = w->ctx;
    const void *a = (void *)(uintptr_t)w->buffer[0], *b = (void *)(uintptr_t)w->buffer[1];
    void *out = (void *)(uintptr_t)w->buffer[2];
    return c->gemm(c->handle, 0, 0, SIDE, SIDE, SIDE, &one, a, R_16BF, SIDE, b, R_16BF, SIDE, &zero,
                   out, R_16BF, SIDE, COMPUTE_32F, GEMM_DEFAULT);
}

static double cublas_rate(char by[CEILING_BY]) {
    Work w;
    Cublas c = {0};
    double rate = 0;
    int version = 0;
    if (!begin(&w, 3, (size_t)SIDE * SIDE * 2)) return 0;
    if (open_cublas(&c)) {
        w.go = gemm;
        w.ctx = &c;
        bool ok = !c.set_stream(c.handle, w.stream) && !fill_with_noise(&w, w.buffer[0]) &&
                  !fill_with_noise(&w, w.buffer[1]) && !time_rounds(&w);
        double ms = w.ms[ROUNDS / 2]; // what lasts, not what a cool chip does once
        if (ok && ms > 0) rate = 1e-6 * 2 * SIDE * (double)SIDE * SIDE / ms;
        c.version(c.handle, &version);
        snprintf(by, CEILING_BY, "cuBLAS %d.%d", version / 10000, version / 100 % 100);
        c.destroy(c.handle);
    }
    end(&w);
    return rate;
}

// --- Products: a kernel of our own --------------------------------------------------------------
// Each warp, or on Hopper each warpgroup, multiplies the same registers again and again.
static const char multiply[] =
    "#define V4(i) \"+f\"(d[i]), \"+f\"(d[i + 1]), \"+f\"(d[i + 2]), \"+f\"(d[i + 3])\n"
    "#define V16(i) V4(i), V4(i + 4), V4(i + 8), V4(i + 12)\n"
    "extern \"C\" __global__ void __launch_bounds__(256) multiply(const unsigned *in, float *out,\n"
    "                                                           int rounds) {\n"
    "    unsigned a[4], b[2];\n"
    "    float d[32] = {}, sum = 0;\n"
    "    for (int i = 0; i < 4; i++) a[i] = in[threadIdx.x + 256 * i];\n"
    "    for (int i = 0; i < 2; i++) b[i] = in[threadIdx.x + 256 * (4 + i)];\n"
    "#if WGMMA\n"
    "    __shared__ alignas(128) unsigned tile[512];\n" // 64 x 16, in core matrices of 128 bytes
    "    tile[threadIdx.x] = b[0], tile[threadIdx.x + 256] = b[1];\n"
    "    asm volatile(\"fence.proxy.async;\" ::: \"memory\");\n"
    "    __syncthreads();\n"
    "    unsigned long long at = (unsigned long long)__cvta_generic_to_shared(tile) >> 4,\n"
    "                       desc = at | 8ull << 16 | 16ull << 32;\n"
    "    for (int i = 0; i < rounds; i++)\n"
    "        asm volatile(\n"
    "            \"wgmma.fence.sync.aligned;\"\n"
    "            \"wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
    "{%0,%1,%2,%3,%4,%5,%6,%7,\"\n"
    "            "
    "\"%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,\"\n"
    "            \"%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, 1, 1, 1, 0;\"\n"
    "            : V16(0), V16(16) : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), "
    "\"l\"(desc));\n"
    "    asm volatile(\"wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\"\n"
    "                 : V16(0), V16(16) :: \"memory\");\n"
    "#else\n"
    "    for (int i = 0; i < rounds; i++)\n"
    "#pragma unroll\n"
    "        for (int k = 0; k < 32; k += 4)\n"
    "            asm volatile(\"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
    "{%0,%1,%2,%3},\"\n"
    "                         \"{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\" : V4(k)\n"
    "                         : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"r\"(b[0]), "
    "\"r\"(b[1]));\n"
    "#endif\n"
    "    for (int i = 0; i < 32; i++) sum += d[i];\n"
    "    if (sum == 12345.f) *out = sum;\n" // never, but no compiler knows
    "}\n";
enum { THREADS = 256, INSTRUCTIONS = 8192 };

// A kernel compiled for the device and loaded into the work's context.
typedef struct Module {
    CuHandle module, function;
} Module;

static bool compile(Arena *a, const char *source, const char *name, NvrtcResult *out) {
    Text why = {0};
    const char *arch = ssd_cuda_driver()->device.target + strlen("cuda-");
    bool ok = ssd_nvrtc_compile(a, source, name, arch, out, &why);
    ssd_text_free(&why);
    return ok;
}

static int load(const Work *w, const NvrtcResult *code, const char *name, Module *out) {
    *out = (Module){0};
    int e = w->api->ModuleLoadDataEx(&out->module, code->cubin, 0, NULL, NULL);
    return e ? e : w->api->ModuleGetFunction(&out->function, out->module, name);
}

typedef struct Multiply {
    Module code;
    unsigned blocks;
    int rounds;
} Multiply;

static int launch_multiply(Work *w) {
    Multiply *m = w->ctx;
    void *args[] = {&w->buffer[0], &w->buffer[1], &m->rounds};
    return w->api->LaunchKernel(m->code.function, m->blocks, 1, 1, THREADS, 1, 1, 0, w->stream,
                                args, NULL);
}

static double register_rate(char by[CEILING_BY]) {
    bool wgmma = !strcmp(ssd_cuda_driver()->device.target, "cuda-sm_90a");
    Arena a = {0};
    NvrtcResult code;
    Work w;
    Multiply m = {.blocks = 4 * (unsigned)ssd_cuda_driver()->device.sms,
                  .rounds = wgmma ? INSTRUCTIONS : INSTRUCTIONS / 8};
    const char *source = ssd_arena_printf(&a, "#define WGMMA %d\n%s", wgmma, multiply);
    double rate = 0, warps = wgmma ? 2 : THREADS / 32, // that multiply on their own
        flop = 2 * (wgmma ? 64.0 * 64 * 16 : 16.0 * 8 * 16);
    if (compile(&a, source, "multiply", &code) && begin(&w, 2, 1 << 20)) {
        w.go = launch_multiply;
        w.ctx = &m;
        int e = load(&w, &code, "multiply", &m.code);
        if (!e) e = fill_with_noise(&w, w.buffer[0]);
        if (!e) e = time_rounds(&w);
        double ms = w.ms[ROUNDS / 2];
        if (!e && ms > 0) rate = 1e-6 * flop * warps * INSTRUCTIONS * m.blocks / ms;
        if (m.code.module) w.api->ModuleUnload(m.code.module);
        end(&w);
        snprintf(by, CEILING_BY, "%s from registers", wgmma ? "wgmma" : "mma.sync");
    }
    ssd_arena_free(&a);
    return rate;
}

double ssd_ceiling_cuda_matmul(char by[CEILING_BY]) {
    double rate = cublas_rate(by);
    return rate > 0 ? rate : register_rate(by);
}

double ssd_ceiling_cuda_peak(bool tensor_cores) {
    const CudaDevice *d = &ssd_cuda_driver()->device;
    for (int i = 0; i < ssd_cuda_arch_count; i++) {
        const CudaArch *a = &ssd_cuda_archs[i];
        if (strcmp(a->target, d->target)) continue;
        return 1e-6 * (tensor_cores ? a->tensor_flop : a->f32_flop) * d->sms * d->clock_khz;
    }
    return 0;
}

// --- Launches -----------------------------------------------------------------------------------
static ssd_status launch_nothing(void *ctx, CuHandle stream, int i) {
    void *args[] = {NULL};
    (void)i;
    int e = ssd_cuda_driver()->api.LaunchKernel(ctx, 1, 1, 1, 32, 1, 1, 0, stream, args, NULL);
    return e ? ssd_cuda_fail(e, "launching an empty kernel") : SSD_OK;
}

static double launch_ms(const Work *w, CuHandle function, int row) {
    double ms[4 * ROUNDS];
    int n;
    DeviceWork nothing = {launch_nothing, function, w->stream, row};
    if (ssd_device_time(&nothing, 0, 4 * ROUNDS, 4 * ROUNDS, ms, &n)) return 0;
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    return ms[n / 2];
}

bool ssd_ceiling_cuda_launch(double *out_alone_ms, double *out_row_ms) {
    enum { ROW = 64 };
    Arena a = {0};
    NvrtcResult code;
    Work w;
    Module m;
    *out_alone_ms = *out_row_ms = 0;
    if (compile(&a, "extern \"C\" __global__ void nothing() {}", "nothing", &code) &&
        begin(&w, 0, 0)) {
        if (!load(&w, &code, "nothing", &m)) {
            *out_alone_ms = launch_ms(&w, m.function, 1);
            *out_row_ms = launch_ms(&w, m.function, ROW);
        }
        if (m.module) w.api->ModuleUnload(m.module);
        end(&w);
    }
    ssd_arena_free(&a);
    return *out_alone_ms > 0 && *out_row_ms > 0;
}
