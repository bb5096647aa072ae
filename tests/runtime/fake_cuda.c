// SPDX-License-Identifier: Apache-2.0
// A CUDA driver without a device, for tests: it exports what cuda_syms.def names, writes each call
// into a log, and does in host memory what the real one does on a device, as far as a test can see.
// Kernels are a function of the test's.
//
// FAKE_CUDA in the environment tells it what to be, in words: "cuInit=34" makes that call fail with
// that error, "sm=75" is the device's compute capability, "version=12080" the driver's, "nvrtc=13"
// NVRTC's (this library serves as that too), "devices=0", "shared=100000" bytes a block may have,
// "any=1": code may be a real cubin, whose kernels do nothing.
//
// Built with FAKE_OLD it is a driver of CUDA 11.4, without what came later. With FAKE_OWN_CODE it
// is the part of a driver that has modules and a compiler of its own (tests/emulator/driver.c).
//
// Code is the header of an ELF file, then a line a kernel: "name argument-bytes threads-at-most".
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_cuda.h"

#define EXPORT __attribute__((visibility("default")))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[1 << 16];
static size_t log_n;
static FakeKernel *on_launch;

// --- What the test sees -------------------------------------------------------------------------
EXPORT const char *fake_log(void) { return log_text; }

EXPORT int fake_said(const char *what) {
    pthread_mutex_lock(&lock);
    int said = strstr(log_text, what) != NULL;
    pthread_mutex_unlock(&lock);
    return said;
}

EXPORT void fake_log_clear(void) {
    pthread_mutex_lock(&lock);
    log_n = 0;
    log_text[0] = 0;
    pthread_mutex_unlock(&lock);
}

EXPORT void fake_on_launch(FakeKernel *f) { on_launch = f; }

__attribute__((format(printf, 1, 2))) static void note(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&lock);
    size_t left = sizeof log_text - log_n;
    int n = vsnprintf(log_text + log_n, left, fmt, ap);
    if (n > 0 && (size_t)n < left) log_n += (size_t)n;
    pthread_mutex_unlock(&lock);
    va_end(ap);
}

static int setting(const char *name, int otherwise) {
    const char *env = getenv("FAKE_CUDA");
    size_t n = strlen(name);
    for (const char *s = env; s && (s = strstr(s, name)); s += n)
        if ((s == env || s[-1] == ' ') && s[n] == '=') return atoi(s + n + 1);
    return otherwise;
}

// Every function begins so: a line of the log, and the error it was told to give.
#define CALL(...)                                                                                  \
    do {                                                                                           \
        note(__VA_ARGS__);                                                                         \
        int error_ = setting(__func__, 0);                                                         \
        if (error_) return error_;                                                                 \
    } while (0)

// --- Device -------------------------------------------------------------------------------------
EXPORT int cuInit(unsigned flags) {
    CALL("cuInit %u\n", flags);
    return 0;
}

EXPORT int cuDriverGetVersion(int *version) {
    *version = setting("version", 13000);
    return 0;
}

EXPORT int cuGetErrorName(int error, const char **name) {
    static _Thread_local char text[40];
    snprintf(text, sizeof text, "CUDA_ERROR_NUMBER_%d", error);
    *name = text;
    return 0;
}

EXPORT int cuGetErrorString(int error, const char **text) {
    (void)error;
    *text = "fake words";
    return 0;
}

EXPORT int cuDeviceGetCount(int *count) {
    CALL("cuDeviceGetCount\n");
    *count = setting("devices", 1);
    return 0;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
    CALL("cuDeviceGet %d\n", ordinal);
    *device = 7;
    return 0;
}

EXPORT int cuDeviceGetName(char *name, int size, int device) {
    CALL("cuDeviceGetName %d\n", device);
    snprintf(name, (size_t)size, "Fake device");
    return 0;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int sm = setting("sm", 90);
    (void)device;
    switch (attribute) {
    case 13: *value = 1500000; return 0;
    case 16: *value = 132; return 0;
    case 38: *value = 1 << 20; return 0;
    case 75: *value = sm / 10; return 0;
    case 76: *value = sm % 10; return 0;
    case 81: *value = 233472; return 0;
    case 97: *value = setting("shared", 232448); return 0;
    case 100: *value = setting("reads_host", 0); return 0;
    default: return 1;
    }
}

EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    *bytes = (size_t)80 << 30;
    return 0;
}

// --- Contexts: any pointer is one ---------------------------------------------------------------
static char primary[1];
static _Thread_local void *stack[8];
static _Thread_local int depth;

EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
    CALL("cuDevicePrimaryCtxRetain %d\n", device);
    *context = primary;
    return 0;
}

EXPORT int cuCtxGetCurrent(void **context) {
    *context = depth ? stack[depth - 1] : NULL;
    return 0;
}

#ifndef FAKE_OLD
EXPORT int cuCtxGetId(void *context, unsigned long long *id) {
    *id = (unsigned long long)(size_t)context + (unsigned)setting("generation", 0);
    return 0;
}
#endif

EXPORT int cuCtxPushCurrent_v2(void *context) {
    CALL("push\n");
    stack[depth++] = context;
    return 0;
}

EXPORT int cuCtxPopCurrent_v2(void **context) {
    note("pop\n");
    *context = stack[--depth];
    return 0;
}

// --- Modules ------------------------------------------------------------------------------------
typedef struct Function {
    char name[32];
    int bytes, threads, dynamic;
} Function;
#ifndef FAKE_OWN_CODE
typedef struct FakeModule {
    Function f[8];
    int n;
    struct FakeModule *next;
} FakeModule;
// As a driver does, this one keeps a module until it is unloaded or its context goes.
static FakeModule *modules;
static pthread_mutex_t modules_lock = PTHREAD_MUTEX_INITIALIZER;

EXPORT int cuModuleLoadDataEx(void **module, const void *image, unsigned n, int *options,
                              void **values) {
    CALL("cuModuleLoadDataEx\n");
    (void)n, (void)options, (void)values;
    const char *s = (const char *)image + 64;
    FakeModule *m = calloc(1, sizeof *m);
    int used;
    for (Function *f = m->f;
         m->n < 8 && sscanf(s, "%31s %d %d\n%n", f->name, &f->bytes, &f->threads, &used) == 3;
         f++, m->n++)
        s += used;
    pthread_mutex_lock(&modules_lock);
    m->next = modules;
    modules = m;
    pthread_mutex_unlock(&modules_lock);
    *module = m;
    return 0;
}

EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
    CALL("cuModuleGetFunction %s\n", name);
    FakeModule *m = module;
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->f[i].name, name)) return *function = &m->f[i], 0;
    if (!setting("any", 0)) return 500;
    static Function idle = {"idle", 0, 1024, 0};
    *function = &idle;
    return 0;
}

EXPORT int cuModuleUnload(void *module) {
    CALL("cuModuleUnload\n");
    FakeModule **at = &modules;
    pthread_mutex_lock(&modules_lock);
    while (*at && *at != module) at = &(*at)->next;
    if (*at) *at = (*at)->next;
    pthread_mutex_unlock(&modules_lock);
    free(module);
    return 0;
}
#endif

EXPORT int cuFuncGetAttribute(int *value, int attribute, void *function) {
    CALL("cuFuncGetAttribute %d\n", attribute);
    *value = attribute == 0 ? ((Function *)function)->threads : 0;
    return 0;
}

EXPORT int cuFuncSetAttribute(void *function, int attribute, int value) {
    CALL("cuFuncSetAttribute %d %d\n", attribute, value);
    Function *f = function;
    if (f->dynamic < value) f->dynamic = value;
    return 0;
}

#ifndef FAKE_OLD
// A checker of API calls takes an index past the last argument for a fault: it is in the log.
EXPORT int cuFuncGetParamInfo(void *function, size_t i, size_t *offset, size_t *size) {
    Function *f = function;
    if (i || !f->bytes) note("no argument %zu of %s\n", i, f->name);
    if (i || !f->bytes) return 1;
    *offset = 0;
    *size = (size_t)f->bytes;
    return 0;
}

// Refuses what the driver does.
EXPORT int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *base,
                                  const unsigned long long *dims, const unsigned long long *strides,
                                  const unsigned *box, const unsigned *steps, int interleave,
                                  int swizzle, int promotion, int fill) {
    static const int size[] = {[3] = 4, [6] = 2, [7] = 4, [9] = 2};
    FakeMap *m = map;
    CALL("cuTensorMapEncodeTiled\n");
    if ((size_t)map % 64 || (size_t)base % 16 || rank < 1 || rank > 5 || interleave || fill ||
        promotion < 0 || promotion > 3 || (swizzle && swizzle != 3) || type < 0 || type > 9 ||
        !size[type] || box[0] * (unsigned)size[type] % 16 ||
        (swizzle && box[0] * (unsigned)size[type] > 128))
        return 1;
    *m = (FakeMap){.base = (size_t)base,
                   .type = (unsigned char)type,
                   .rank = (unsigned char)rank,
                   .swizzle = (unsigned char)swizzle,
                   .promotion = (unsigned char)promotion};
    for (unsigned i = 0; i < rank; i++) {
        if (!dims[i] || dims[i] > 1ull << 32 || !box[i] || box[i] > 256 || steps[i] != 1) return 1;
        if (i && (!strides[i - 1] || strides[i - 1] % 16 || strides[i - 1] >= 1ull << 40)) return 1;
        m->dim[i] = dims[i];
        m->box[i] = (unsigned short)box[i];
        if (i) m->stride[i - 1] = strides[i - 1];
    }
    return 0;
}
#endif

// --- Memory -------------------------------------------------------------------------------------
static struct {
    char *at;
    size_t bytes;
} memory[64];

EXPORT int cuMemAlloc_v2(unsigned long long *pointer, size_t bytes) {
    CALL("cuMemAlloc\n");
    for (int i = 0; i < 64; i++) {
        if (memory[i].at) continue;
        memory[i].at = aligned_alloc(256, (bytes + 255) & ~(size_t)255);
        memory[i].bytes = bytes;
        *pointer = (unsigned long long)(size_t)memory[i].at;
        return memory[i].at ? 0 : 2;
    }
    return 2;
}

EXPORT int cuMemFree_v2(unsigned long long pointer) {
    CALL("cuMemFree\n");
    for (int i = 0; i < 64; i++)
        if (memory[i].at == (char *)(size_t)pointer) {
            free(memory[i].at);
            memory[i].at = NULL;
            return 0;
        }
    return 1;
}

EXPORT int cuMemGetInfo_v2(size_t *unused, size_t *total) {
    *unused = *total = (size_t)80 << 30;
    return 0;
}

EXPORT int cuPointerGetAttribute(void *value, int attribute, unsigned long long pointer) {
    CALL("cuPointerGetAttribute %d\n", attribute);
    const char *p = (const char *)(size_t)pointer;
    for (int i = 0; i < 64; i++)
        if (memory[i].at && p >= memory[i].at && p < memory[i].at + memory[i].bytes)
            return *(unsigned *)value = 2, 0;
    return 1;
}

EXPORT int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) {
    CALL("cuMemcpyHtoD %zu\n", bytes);
    memcpy((void *)(size_t)to, from, bytes);
    return 0;
}

EXPORT int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) {
    CALL("cuMemcpyDtoH %zu\n", bytes);
    memcpy(to, (void *)(size_t)from, bytes);
    return 0;
}

EXPORT int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes,
                                void *stream) {
    CALL("cuMemcpyDtoDAsync\n");
    (void)stream;
    memcpy((void *)(size_t)to, (void *)(size_t)from, bytes);
    return 0;
}

EXPORT int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t n, void *stream) {
    CALL("cuMemsetD8Async\n");
    (void)stream;
    memset((void *)(size_t)to, value, n);
    return 0;
}

// --- Streams, graphs, events --------------------------------------------------------------------
typedef struct Launch {
    Function *f;
    unsigned grid, block, shared;
    _Alignas(8) char args[4096];
} Launch;
enum { GRAPH_MOST = 128 };
typedef struct Graph {
    Launch *launch[GRAPH_MOST];
    int n;
} Graph;
typedef struct Stream {
    Graph *capture;
} Stream;

static void run(const Launch *l) {
    if (on_launch) on_launch(l->f->name, l->grid, l->block, l->shared, l->args);
}

EXPORT int cuStreamCreate(void **stream, unsigned flags) {
    CALL("cuStreamCreate %u\n", flags);
    *stream = calloc(1, sizeof(Stream));
    return 0;
}

EXPORT int cuStreamDestroy_v2(void *stream) {
    CALL("cuStreamDestroy\n");
    free(stream);
    return 0;
}

EXPORT int cuStreamSynchronize(void *stream) {
    CALL("cuStreamSynchronize\n");
    return stream && ((Stream *)stream)->capture ? 900 : 0;
}

EXPORT int cuStreamGetCtx(void *stream, void **context) {
    CALL("cuStreamGetCtx\n");
    (void)stream;
    *context = primary;
    return 0;
}

static int enqueue(Function *f, unsigned grid, unsigned block, unsigned shared, void *stream,
                   void **args) {
    if (!grid || (int)shared > f->dynamic || (int)block > f->threads) return 1;
    Launch *l = calloc(1, sizeof *l);
    *l = (Launch){f, grid, block, shared, {0}};
    if (f->bytes) memcpy(l->args, args[0], (size_t)f->bytes);
    Graph *g = stream ? ((Stream *)stream)->capture : NULL;
    if (g && g->n < GRAPH_MOST) {
        g->launch[g->n++] = l;
        return 0;
    }
    run(l);
    free(l);
    return 0;
}

EXPORT int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                          unsigned by, unsigned bz, unsigned shared, void *stream, void **args,
                          void **extra) {
    Function *f = function;
    CALL("launch %s %u %u %u, %u %u %u, %u%s%s\n", f->name, gx, gy, gz, bx, by, bz, shared,
         stream ? " on a stream" : "", extra ? " with extras" : "");
    return enqueue(f, gx, bx, shared, stream, args);
}

#ifndef FAKE_OLD
typedef struct Config {
    unsigned grid[3], block[3], shared;
    void *stream;
    struct {
        int id, unused, value[16];
    } * attributes;
    unsigned n_attributes;
} Config;
enum { PROGRAMMATIC_STREAM_SERIALIZATION = 6 };

EXPORT int cuLaunchKernelEx(const Config *c, void *function, void **args, void **extra) {
    Function *f = function;
    bool early = c->n_attributes == 1 && c->attributes->id == PROGRAMMATIC_STREAM_SERIALIZATION &&
                 c->attributes->value[0] == 1;
    CALL("launch %s %u %u %u, %u %u %u, %u%s%s%s\n", f->name, c->grid[0], c->grid[1], c->grid[2],
         c->block[0], c->block[1], c->block[2], c->shared, c->stream ? " on a stream" : "",
         extra ? " with extras" : "", early ? " early" : "");
    return enqueue(f, c->grid[0], c->block[0], c->shared, c->stream, args);
}
#endif

EXPORT int cuStreamBeginCapture_v2(void *stream, int mode) {
    CALL("cuStreamBeginCapture %d\n", mode);
    ((Stream *)stream)->capture = calloc(1, sizeof(Graph));
    return 0;
}

EXPORT int cuStreamEndCapture(void *stream, void **graph) {
    *graph = ((Stream *)stream)->capture;
    ((Stream *)stream)->capture = NULL;
    CALL("cuStreamEndCapture\n");
    return 0;
}

EXPORT int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    CALL("cuGraphInstantiate %llu\n", flags);
    *exec = graph;
    return 0;
}

EXPORT int cuGraphLaunch(void *exec, void *stream) {
    CALL("cuGraphLaunch\n");
    (void)stream;
    for (int i = 0; i < ((Graph *)exec)->n; i++) run(((Graph *)exec)->launch[i]);
    return 0;
}

EXPORT int cuGraphExecDestroy(void *exec) {
    (void)exec;
    return 0;
}

EXPORT int cuGraphDestroy(void *graph) {
    Graph *g = graph;
    for (int i = 0; i < g->n; i++) free(g->launch[i]);
    free(g);
    return 0;
}

EXPORT int cuEventCreate(void **event, unsigned flags) {
    CALL("cuEventCreate %u\n", flags);
    *event = calloc(1, 1);
    return 0;
}

EXPORT int cuEventDestroy_v2(void *event) {
    free(event);
    return 0;
}

EXPORT int cuEventRecord(void *event, void *stream) {
    CALL("cuEventRecord\n");
    (void)event, (void)stream;
    return 0;
}

EXPORT int cuEventSynchronize(void *event) {
    CALL("cuEventSynchronize\n");
    (void)event;
    return 0;
}

EXPORT int cuEventElapsedTime(float *ms, void *from, void *to) {
    CALL("cuEventElapsedTime\n");
    (void)from, (void)to;
    *ms = 0.25f;
    return 0;
}

// --- And a compiler -----------------------------------------------------------------------------
// It makes of a source the head of a cubin and the program's name; of one that holds `#error`
// nothing.
EXPORT int nvrtcVersion(int *major, int *minor) {
    *major = setting("nvrtc", 13);
    *minor = 0;
    return *major ? 0 : 1;
}

EXPORT int nvrtcGetNumSupportedArchs(int *count) {
    *count = 1;
    return 0;
}

EXPORT int nvrtcGetSupportedArchs(int *archs) {
    *archs = setting("sm", 90);
    return 0;
}

#ifndef FAKE_OWN_CODE
typedef struct Program {
    char code[128], log[128];
    bool bad;
} Program;

EXPORT int nvrtcCreateProgram(void **program, const char *source, const char *name, int n,
                              const char *const *headers, const char *const *names) {
    CALL("nvrtcCreateProgram %s\n", name);
    (void)n, (void)headers, (void)names;
    Program *p = calloc(1, sizeof *p);
    if (!p) return 1;
    memcpy(p->code,
           "\x7f"
           "ELF\2\1",
           6);
    snprintf(p->code + 64, sizeof p->code - 64, "%s", name);
    p->bad = strstr(source, "#error");
    if (p->bad) snprintf(p->log, sizeof p->log, "%s: error: it says so", name);
    *program = p;
    return 0;
}

EXPORT int nvrtcCompileProgram(void *program, int n, const char *const *options) {
    CALL("nvrtcCompileProgram %s\n", n ? options[0] : "");
    return ((Program *)program)->bad ? 6 : 0;
}

EXPORT int nvrtcDestroyProgram(void **program) {
    free(*program);
    *program = NULL;
    return 0;
}

EXPORT int nvrtcGetCUBINSize(void *program, size_t *size) {
    *size = sizeof((Program *)program)->code;
    return 0;
}

EXPORT int nvrtcGetCUBIN(void *program, char *cubin) {
    Program *p = program;
    memcpy(cubin, p->code, sizeof p->code);
    return 0;
}

EXPORT int nvrtcGetProgramLogSize(void *program, size_t *size) {
    *size = strlen(((Program *)program)->log) + 1;
    return 0;
}

EXPORT int nvrtcGetProgramLog(void *program, char *text) {
    strcpy(text, ((Program *)program)->log);
    return 0;
}
#endif

EXPORT int nvrtcGetPTXSize(void *program, size_t *size) {
    (void)program;
    *size = 0;
    return 0;
}

EXPORT int nvrtcGetPTX(void *program, char *text) {
    (void)program, (void)text;
    return 0;
}
