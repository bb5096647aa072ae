// SPDX-License-Identifier: Apache-2.0
#include "device_cuda.h"
#include "dynlib.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// --- Errors -------------------------------------------------------------------------------------
static const struct {
    int error;
    ssd_status status;
    const char *advice;
} errors[] = {
#define ERROR(number, status, advice) {number, status, advice},
#include "cuda_errors.def"
};

// "CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected): look at ..."
static ssd_status explain(const CudaApi *api, int error, char *out, size_t size) {
    const char *name = NULL, *text = NULL, *advice = "";
    ssd_status status = SSD_DEVICE;
    for (size_t i = 0; i < COUNTOF(errors); i++) {
        if (errors[i].error != error) continue;
        status = errors[i].status;
        advice = errors[i].advice;
    }
    if (api->GetErrorName) api->GetErrorName(error, &name);
    if (api->GetErrorString) api->GetErrorString(error, &text);
    snprintf(out, size, "%s %d (%s)%s%s", name ? name : "CUDA error", error,
             text ? text : "unknown to the driver", *advice ? ": " : "", advice);
    return status;
}

ssd_status ssd_cuda_fail(int error, const char *fmt, ...) {
    char what[256], text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    ssd_status s = explain(&ssd_cuda_driver()->api, error, text, sizeof text);
    return ssd_fail(s, "%s: %s", what, text);
}

// --- Architectures ------------------------------------------------------------------------------
const CudaArch ssd_cuda_archs[] = {
#define ARCH(name, major, minor, shared, exact, tensor, fma, sms, doc)                             \
    {name, "cuda-" name, doc, major, minor, shared, exact, tensor, fma, sms},
#include "cuda_archs.def"
};
const int ssd_cuda_arch_count = COUNTOF(ssd_cuda_archs);

static bool runs_on(const CudaArch *a, const CudaDevice *d) {
    return a->major == d->major && (a->exact ? a->minor == d->minor : a->minor <= d->minor);
}

// The nearest below: the table is in rising order, with exact code behind its portable one.
static const char *best_target(const CudaDevice *d) {
    const char *best = NULL;
    for (int i = 0; i < ssd_cuda_arch_count; i++)
        if (runs_on(&ssd_cuda_archs[i], d)) best = ssd_cuda_archs[i].target;
    return best;
}

const char *ssd_cuda_target(const char *target, bool *out_runs) {
    *out_runs = false;
    if (!strcmp(target, "cuda")) {
        const CudaDevice *d = ssd_cuda_device(NULL);
        *out_runs = d != NULL;
        return d ? d->target : NULL;
    }
    const char *bare = ssd_target_is_cuda(target) ? target + 5 : target;
    for (int i = 0; i < ssd_cuda_arch_count; i++) {
        if (strcmp(ssd_cuda_archs[i].name, bare)) continue;
        const CudaDriver *c = ssd_cuda_driver();
        *out_runs = !c->status && runs_on(&ssd_cuda_archs[i], &c->device);
        return ssd_cuda_archs[i].target;
    }
    return NULL;
}

// --- The driver ---------------------------------------------------------------------------------
static CudaDriver cuda;
static pid_t owner; // the process that started the driver: a fork of it cannot use it

static const DynSym syms[] = {
#define CU(name, exported, optional, args) {exported, offsetof(CudaApi, name), optional},
#include "cuda_syms.def"
#undef CU
};

SSD_PRINTF(2, 3) static void give_up(ssd_status s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cuda.why, sizeof cuda.why, fmt, ap);
    va_end(ap);
    cuda.status = s;
}

static bool worked(int error, const char *call) {
    char text[512];
    if (!error) return true;
    ssd_status s = explain(&cuda.api, error, text, sizeof text);
    give_up(s, "%s: %s", call, text);
    return false;
}

static void *open_driver(void) {
    const char *chosen = getenv("SSD_CUDA_DRIVER");
    bool forced = chosen && *chosen;
    void *lib = dlopen(forced ? chosen : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (lib) return lib;
    const char *fault = dlerror();
    give_up(SSD_NOT_FOUND, "no CUDA driver: %.300s; %s", fault ? fault : "libcuda.so.1",
            forced ? "SSD_CUDA_DRIVER is set, so nothing else was tried"
                   : "install the NVIDIA driver, or use target cpu");
    return NULL;
}

// Attributes a device does not have are 0.
static i64 attribute(int what) {
    int value = 0;
    return cuda.api.DeviceGetAttribute(&value, what, cuda.handle) ? 0 : value;
}

static bool ask_device(CudaDevice *d) {
    const CudaApi *api = &cuda.api;
    size_t bytes = 0;
    int count = 0;
    if (!worked(api->Init(0), "cuInit")) return false;
    if (!worked(api->DeviceGetCount(&count), "cuDeviceGetCount")) return false;
    if (!count) return worked(100, "cuDeviceGetCount");
    if (!worked(api->DeviceGet(&cuda.handle, 0), "cuDeviceGet")) return false;
    if (!worked(api->DeviceGetName(d->name, sizeof d->name, cuda.handle), "cuDeviceGetName"))
        return false;
    if (!api->DeviceTotalMem(&bytes, cuda.handle)) d->memory = (i64)bytes;
    d->major = (int)attribute(CU_DEVICE_MAJOR);
    d->minor = (int)attribute(CU_DEVICE_MINOR);
    d->sms = (int)attribute(CU_DEVICE_SM_COUNT);
    d->shared_block = attribute(CU_DEVICE_SHARED_BLOCK_OPTIN);
    d->shared_sm = attribute(CU_DEVICE_SHARED_SM);
    d->l2 = attribute(CU_DEVICE_L2_BYTES);
    d->clock_khz = (int)attribute(CU_DEVICE_CLOCK_KHZ);
    d->memory_clock_khz = (int)attribute(CU_DEVICE_MEMORY_CLOCK_KHZ);
    d->memory_bus_bits = (int)attribute(CU_DEVICE_MEMORY_BUS_BITS);
    d->reads_host = attribute(CU_DEVICE_HOST_PAGE_TABLES) != 0;
    d->target = best_target(d);
    if (d->target) return true;
    give_up(SSD_UNSUPPORTED,
            "%s has compute capability %d.%d, for which there is no target (8.0 and later are "
            "supported; see `ssdc targets`): use target cpu",
            d->name, d->major, d->minor);
    return false;
}

static void open_cuda(void) {
    Text why = {0};
    PhaseMark begun = ssd_phase_begin();
    owner = getpid();
    void *lib = open_driver();
    if (!lib) return; // and it took no time
    ssd_dynlib_path(lib, "cuInit", cuda.path);
    if (!ssd_dynlib_bind(lib, syms, COUNTOF(syms), &cuda.api, &why))
        give_up(SSD_UNSUPPORTED,
                "the CUDA driver %.200s cannot be used: %s; version 11.4 or later is "
                "needed: update the NVIDIA driver",
                cuda.path, why.s ? why.s : "");
    ssd_text_free(&why);
    if (cuda.api.DriverGetVersion) cuda.api.DriverGetVersion(&cuda.version);
    if (!cuda.status) ask_device(&cuda.device);
    ssd_phase_end(PHASE_DRIVER, begun);
}

const CudaDriver *ssd_cuda_driver(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_cuda);
    return &cuda;
}

const CudaDevice *ssd_cuda_device(Text *why) {
    const CudaDriver *c = ssd_cuda_driver();
    if (!c->status) return &c->device;
    if (why) ssd_text_printf(why, "%s", c->why);
    return NULL;
}

int ssd_cuda_driver_version(void) { return ssd_cuda_driver()->version; }

static bool forked(void) { return getpid() != owner; }

// --- Contexts -----------------------------------------------------------------------------------
static pthread_once_t primary_once = PTHREAD_ONCE_INIT;
static CuHandle primary;
static int primary_error;

// Never released: making it again takes the driver a quarter of a second.
static void retain_primary(void) {
    PhaseMark begun = ssd_phase_begin();
    primary_error = cuda.api.DevicePrimaryCtxRetain(&primary, cuda.handle);
    ssd_phase_end(PHASE_CONTEXT, begun);
}

static void *prepare(void *unused) {
    pthread_once(&primary_once, retain_primary);
    return unused;
}

void ssd_cuda_prepare(const char *target, CudaStart *out) {
    CuHandle current = NULL;
    bool runs;
    *out = (CudaStart){0};
    if (!target || !ssd_cuda_target(target, &runs) || !runs || forked()) return;
    if (cuda.api.CtxGetCurrent(&current) || current) return;
    out->running = ssd_thread_start(&out->thread, prepare, NULL);
}

void ssd_cuda_prepared(CudaStart *s) {
    if (!s->running) return;
    PhaseMark begun = ssd_phase_begin();
    pthread_join(s->thread, NULL);
    ssd_phase_end(PHASE_CONTEXT, begun);
}

ssd_status ssd_cuda_enter(CuHandle stream, CudaScope *out) {
    const CudaDriver *c = ssd_cuda_driver();
    *out = (CudaScope){0};
    if (c->status) return ssd_fail(c->status, "%s", c->why);
    if (forked())
        return ssd_fail(SSD_DEVICE,
                        "this process is the fork of one that has used CUDA, and the driver "
                        "works in that one only: start CUDA after the fork");
    int e = c->api.CtxGetCurrent(&out->context);
    if (e) return ssd_cuda_fail(e, "cuCtxGetCurrent");
    if (out->context) return SSD_OK;
    if (stream) {
        if ((e = c->api.StreamGetCtx(stream, &out->context))) return ssd_cuda_fail(e, "the stream");
    } else {
        pthread_once(&primary_once, retain_primary);
        if (primary_error) return ssd_cuda_fail(primary_error, "cuDevicePrimaryCtxRetain");
        out->context = primary;
    }
    if ((e = c->api.CtxPushCurrent(out->context))) return ssd_cuda_fail(e, "cuCtxPushCurrent");
    out->pushed = true;
    return SSD_OK;
}

void ssd_cuda_leave(CudaScope *s) {
    CuHandle popped;
    if (s->pushed) cuda.api.CtxPopCurrent(&popped);
    *s = (CudaScope){0};
}

// --- Programs -----------------------------------------------------------------------------------
// The code in one context. A context that was destroyed may lend its address to a new one: the id,
// where the driver has it, tells them apart.
typedef struct Loaded {
    struct Loaded *next;
    CuHandle context;
    unsigned long long id;
    CuHandle *module;    // by module of the program
    CuHandle **function; // [plan][kernel]
} Loaded;

// A cubin of the program, inside the artifact's code.
typedef struct Cubin {
    const u8 *bytes;
    size_t size;
} Cubin;

struct CudaProgram {
    const Artifact *art;
    Cubin cubin[ART_MAX_KERNELS];
    int n_cubins;
    pthread_mutex_t lock;
    Loaded *loaded;
    // The pointer last found to be the device's, by parameter; then the workspace's. Asking the
    // driver takes longer than the rest of a launch, and callers mostly give the same memory again.
    _Atomic(void *) good[ART_MAX_TENSORS + 1];
};

// `unload`: of the context that is current.
static void free_loaded(const CudaProgram *p, Loaded *l, bool unload) {
    for (int i = 0; unload && l->module && i < p->n_cubins; i++)
        if (l->module[i]) cuda.api.ModuleUnload(l->module[i]);
    for (int i = 0; l->function && i < p->art->n_plans; i++) free(l->function[i]);
    free(l->function);
    free(l->module);
    free(l);
}

static const ArtTensor *tensor_of(const Artifact *art, const ArtPlan *plan, int i) {
    return i < art->n_params ? &art->params[i] : &plan->ws[i - art->n_params];
}

static int argument_bytes(const Artifact *art, const ArtPlan *plan, const ArtKernel *k) {
    int rank[ART_MAX_TENSORS];
    for (int i = 0; i < k->n_takes; i++) rank[i] = tensor_of(art, plan, k->takes[i])->rank;
    return ssd_artifact_arg_bytes(rank, k->n_takes, art->n_syms, k->n_maps);
}

// What a launch would only notice by failing, or not at all.
static ssd_status check_function(const ArtKernel *k, CuHandle f, int arg_bytes) {
    const CudaApi *api = &cuda.api;
    int threads = 0, fixed = 0, e;
    if ((e = api->FuncGetAttribute(&threads, CU_FUNC_MAX_THREADS, f)) ||
        (e = api->FuncGetAttribute(&fixed, CU_FUNC_STATIC_SHARED, f)))
        return ssd_cuda_fail(e, "kernel '%.80s'", k->symbol);
    if (k->threads > threads)
        return ssd_fail(SSD_UNSUPPORTED,
                        "kernel '%.80s' needs blocks of %d threads, the device allows %d",
                        k->symbol, k->threads, threads);
    if (k->scratch + fixed > cuda.device.shared_block)
        return ssd_fail(SSD_UNSUPPORTED,
                        "kernel '%.80s' needs %lld bytes of shared memory a block, %s has %lld: "
                        "compile it for this device, or with a smaller schedule",
                        k->symbol, (long long)k->scratch + fixed, cuda.device.name,
                        (long long)cuda.device.shared_block);
    if (k->scratch && (e = api->FuncSetAttribute(f, CU_FUNC_MAX_DYNAMIC_SHARED, (int)k->scratch)))
        return ssd_cuda_fail(e, "%lld bytes of shared memory for kernel '%.80s'",
                             (long long)k->scratch, k->symbol);
    // Asking for an argument past the last one would be an error of ours in the eyes of a checker.
    size_t offset = 0, size = 0;
    if (!api->FuncGetParamInfo || !arg_bytes) return SSD_OK;
    if (api->FuncGetParamInfo(f, 0, &offset, &size) || size != (size_t)arg_bytes)
        return ssd_fail(SSD_INVALID_ARGUMENT,
                        "kernel '%.80s' takes an argument of %zu bytes, the artifact says %d",
                        k->symbol, size, arg_bytes);
    return SSD_OK;
}

static ssd_status find_functions(const Artifact *art, Loaded *l) {
    l->function = calloc((size_t)art->n_plans, sizeof *l->function);
    if (!l->function) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a CUDA program");
    for (int i = 0; i < art->n_plans; i++) {
        const ArtPlan *plan = &art->plans[i];
        l->function[i] = calloc((size_t)plan->n_kernels, sizeof **l->function);
        if (!l->function[i]) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a CUDA program");
        for (int k = 0; k < plan->n_kernels; k++) {
            const ArtKernel *kernel = &plan->kernels[k];
            CuHandle *f = &l->function[i][k];
            if (cuda.api.ModuleGetFunction(f, l->module[kernel->module], kernel->symbol))
                return ssd_fail(SSD_INVALID_ARGUMENT, "the code has no kernel '%.80s'",
                                kernel->symbol);
            ssd_status s = check_function(kernel, *f, argument_bytes(art, plan, kernel));
            if (s) return s;
        }
    }
    return SSD_OK;
}

// A driver reads what was compiled by a toolkit of its own major version or an older one.
static ssd_status load_failed(const Artifact *art, int error) {
    const Nvrtc *n = error == 2 ? NULL : ssd_nvrtc(NULL);
    if (n && cuda.version && n->major > cuda.version / 1000)
        return ssd_fail(
            SSD_UNSUPPORTED,
            "the driver (CUDA %d.%d) is older than NVRTC %d.%d and cannot load its code: "
            "update the NVIDIA driver, or set SSD_NVRTC to a libnvrtc.so.%d",
            cuda.version / 1000, cuda.version % 1000 / 10, n->major, n->minor, cuda.version / 1000);
    return ssd_cuda_fail(error, "loading the code of '%.80s' for %s (driver: CUDA %d.%d)",
                         art->program, art->target, cuda.version / 1000, cuda.version % 1000 / 10);
}

// The driver takes lengths from the cubin's own header: its tables must lie inside the code.
static bool is_cubin(const Cubin *c) {
    static const char head[] = "\x7f"
                               "ELF\2\1";
    const u8 *e = c->bytes;
    u64 at;
    u16 size, n;
    if (c->size < 64 || memcmp(e, head, sizeof head - 1)) return false;
    memcpy(&at, e + 40, sizeof at); // e_shoff, e_shentsize, e_shnum
    memcpy(&size, e + 58, sizeof size);
    memcpy(&n, e + 60, sizeof n);
    return at <= c->size && (u64)size * n <= c->size - at;
}

// The program's cubins: false when the code is not what the artifact says, no more and no less.
static bool find_cubins(CudaProgram *p) {
    const Artifact *art = p->art;
    const i64 whole = (i64)art->code_size, *bytes = art->n_modules ? art->module_bytes : &whole;
    i64 end = 0;
    for (int i = 0; i < MAX(art->n_modules, 1); i++) {
        i64 at = ssd_artifact_module_at(end);
        end = at + bytes[i];
        if (end > whole) return false;
        p->cubin[p->n_cubins] = (Cubin){(const u8 *)art->code + at, (size_t)bytes[i]};
        if (!is_cubin(&p->cubin[p->n_cubins++])) return false;
    }
    return end == whole;
}

static ssd_status load_modules(CudaProgram *p, Loaded *l) {
    l->module = calloc((size_t)p->n_cubins, sizeof *l->module);
    if (!l->module) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a CUDA program");
    for (int i = 0; i < p->n_cubins; i++) {
        int e = cuda.api.ModuleLoadDataEx(&l->module[i], p->cubin[i].bytes, 0, NULL, NULL);
        if (e) return load_failed(p->art, e);
    }
    return find_functions(p->art, l);
}

static ssd_status load_into(CudaProgram *p, const CudaScope *at, unsigned long long id,
                            Loaded **out) {
    Loaded *l = calloc(1, sizeof *l);
    if (!l) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a CUDA program");
    *l = (Loaded){.next = p->loaded, .context = at->context, .id = id};
    PhaseMark begun = ssd_phase_begin();
    ssd_status s = load_modules(p, l);
    ssd_phase_end(PHASE_LOAD, begun);
    if (s) {
        free_loaded(p, l, true);
        return s;
    }
    *out = p->loaded = l;
    return SSD_OK;
}

static ssd_status code_in(CudaProgram *p, const CudaScope *at, Loaded **out) {
    unsigned long long id = 0;
    if (cuda.api.CtxGetId) cuda.api.CtxGetId(at->context, &id);
    ssd_status s = SSD_OK;
    pthread_mutex_lock(&p->lock);
    for (*out = p->loaded; *out; *out = (*out)->next)
        if ((*out)->context == at->context && (*out)->id == id) break;
    if (!*out) s = load_into(p, at, id, out);
    pthread_mutex_unlock(&p->lock);
    return s;
}

ssd_status ssd_cuda_load(const Artifact *art, CudaProgram **out) {
    const CudaDriver *c = ssd_cuda_driver();
    CudaScope scope;
    Loaded *l;
    *out = NULL;
    if (c->status) return ssd_fail(c->status, "%s", c->why);
    CudaProgram *p = calloc(1, sizeof *p);
    if (!p) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a CUDA program");
    p->art = art;
    pthread_mutex_init(&p->lock, NULL);
    ssd_status s = SSD_OK;
    if (!find_cubins(p))
        s = ssd_fail(SSD_INVALID_ARGUMENT, "the code of '%.80s' is no cubin%s", art->program,
                     art->n_modules ? "s of the sizes it gives" : "");
    if (!s && !forked() &&
        !(s = ssd_cuda_enter(NULL, &scope))) { // a forked child compiles, but cannot load
        s = code_in(p, &scope, &l);
        ssd_cuda_leave(&scope);
    }
    if (s)
        ssd_cuda_free(p);
    else
        *out = p;
    return s;
}

void ssd_cuda_free(CudaProgram *p) {
    if (!p) return;
    for (Loaded *l = p->loaded, *next; l; l = next) {
        CuHandle popped;
        next = l->next;
        // A caller's context may be gone, and its handle with it: what was loaded there goes with
        // it.
        bool ours = !forked() && l->context == primary && !cuda.api.CtxPushCurrent(l->context);
        free_loaded(p, l, ours);
        if (ours) cuda.api.CtxPopCurrent(&popped);
    }
    pthread_mutex_destroy(&p->lock);
    free(p);
}

// --- Launch -------------------------------------------------------------------------------------
static bool on_device(CudaProgram *p, int slot, void *pointer) {
    unsigned type = 0;
    if (!pointer || atomic_load_explicit(&p->good[slot], memory_order_relaxed) == pointer)
        return true;
    if (cuda.api.PointerGetAttribute(&type, CU_POINTER_MEMORY_TYPE, (CuPtr)(uintptr_t)pointer) == 1)
        return false;
    atomic_store_explicit(&p->good[slot], pointer, memory_order_relaxed);
    return true;
}

static bool has_elements(const Launch *l, int i) {
    for (int d = 0; d < tensor_of(l->art, l->plan, i)->rank; d++)
        if (!l->dim[i * SSD_MAX_RANK + d]) return false;
    return true;
}

// Emitted code counts blocks, symbols and rows in 32 bits; offsets are 64-bit.
static ssd_status check_sizes(const Launch *l) {
    for (int i = 0; i < l->art->n_syms; i++)
        if (l->sym[i] > INT32_MAX)
            return ssd_fail(SSD_UNSUPPORTED, "%.80s is %lld, CUDA kernels take at most %d",
                            l->art->syms[i].name, (long long)l->sym[i], INT32_MAX);
    for (int i = 0; i < l->plan->n_kernels; i++)
        if (l->blocks[i] > INT32_MAX)
            return ssd_fail(SSD_UNSUPPORTED,
                            "kernel '%.80s' needs %lld blocks, CUDA has at most %d",
                            l->plan->kernels[i].symbol, (long long)l->blocks[i], INT32_MAX);
    return SSD_OK;
}

static ssd_status check_pointers(CudaProgram *p, const Launch *l) {
    const Artifact *art = l->art;
    if (cuda.device.reads_host) return SSD_OK;
    for (int i = 0; i < art->n_params; i++)
        if (has_elements(l, i) && !on_device(p, i, l->ptr[i]))
            return ssd_fail(
                SSD_INVALID_ARGUMENT,
                "argument '%.80s': data is host memory (%p); a kernel for %s takes device "
                "memory (cuMemAlloc, cudaMalloc), or host memory registered with CUDA",
                art->params[i].name, l->ptr[i], art->target);
    if (l->ws_bytes && !on_device(p, ART_MAX_TENSORS, l->ptr[art->n_params]))
        return ssd_fail(SSD_INVALID_ARGUMENT,
                        "workspace is host memory (%p); a kernel for %s takes device "
                        "memory",
                        l->ptr[art->n_params], art->target);
    return SSD_OK;
}

static int map_type(ssd_dtype d) {
    switch (d) {
    case SSD_F32: return CU_MAP_F32;
    case SSD_BF16: return CU_MAP_BF16;
    case SSD_F16: return CU_MAP_F16;
    case SSD_I32: return CU_MAP_I32;
    default: return -1;
    }
}

// What TMA wants of strides, in bytes: from the second innermost dimension on.
static bool map_stride(i64 stride, size_t size, u64 *out) {
    i64 bytes;
    if (__builtin_mul_overflow(stride, (i64)size, &bytes)) return false;
    *out = (u64)bytes;
    return bytes > 0 && bytes % 16 == 0 && bytes < (i64)1 << 40;
}

// False, and zeros, where TMA cannot read the tensor as it lies.
static bool make_map(const Launch *l, int tensor, const ArtMap *m, CuTensorMap *out) {
    const ArtTensor *t = tensor_of(l->art, l->plan, tensor);
    const i64 *dim = l->dim + tensor * SSD_MAX_RANK, *stride = l->stride + tensor * SSD_MAX_RANK;
    u64 dims[ART_MAP_RANK], strides[ART_MAP_RANK], along = 1;
    u32 box[ART_MAP_RANK], steps[ART_MAP_RANK], n = 0;
    *out = (CuTensorMap){0};
    if (!cuda.api.TensorMapEncodeTiled || (uintptr_t)l->ptr[tensor] % 16) return false;
    for (int i = 0; i < m->rank; i++) {
        int d = m->rank - 1 - i;
        bool row = !i || !m->box[i]; // a dimension of the map's rows
        if (dim[d] < 1 || dim[d] > (i64)1 << 32) return false;
        u64 bytes = 16; // of a dimension of size 1: any
        if (dim[d] > 1 && (row ? stride[d] != (i64)along
                               : !map_stride(stride[d], ssd_dtype_size(t->dtype), &bytes)))
            return false;
        if (row) along *= (u64)dim[d];
        if (along > (u64)1 << 32) return false;
        if (!m->box[i]) {
            dims[0] = along;
            continue;
        }
        dims[n] = (u64)dim[d];
        strides[n] = bytes;
        box[n] = (u32)m->box[i];
        steps[n++] = 1;
    }
    int swizzle = m->swizzle ? CU_MAP_SWIZZLE_128 : 0;
    if (!cuda.api.TensorMapEncodeTiled(out, map_type(t->dtype), n, l->ptr[tensor], dims,
                                       strides + 1, box, steps, 0, swizzle, CU_MAP_L2_256, 0))
        return true;
    *out = (CuTensorMap){0};
    return false;
}

// The argument as artifact.h describes it.
typedef union Argument {
    CuTensorMap map[CUDA_ARGS_MOST / CUDA_MAP_BYTES];
    i64 word[CUDA_ARGS_MOST / sizeof(i64)];
} Argument;

static void pack(const Launch *l, const ArtKernel *k, Argument *out) {
    i64 *words = out->word;
    if (k->n_maps) {
        u64 made = 0;
        for (int i = 0; i < k->n_maps; i++) {
            const ArtMap *m = &k->maps[i];
            made |= (u64)make_map(l, k->takes[m->take], m, &out->map[i]) << i;
        }
        words += k->n_maps * (CUDA_MAP_BYTES / 8);
        *words++ = (i64)made;
    }
    for (int i = 0; i < k->n_takes; i++) *words++ = (i64)(uintptr_t)l->ptr[k->takes[i]];
    for (int i = 0; i < l->art->n_syms; i++) *words++ = l->sym[i];
    for (int i = 0; i < k->n_takes; i++) {
        int t = k->takes[i], rank = tensor_of(l->art, l->plan, t)->rank;
        for (int d = 0; d < rank; d++) *words++ = l->stride[t * SSD_MAX_RANK + d];
        for (int d = 0; d < rank; d++) *words++ = l->dim[t * SSD_MAX_RANK + d];
    }
}

// A kernel that waits by itself for those in front of it may be launched while they still run.
static int launch_kernel(const ArtKernel *k, CuHandle function, i64 blocks, CuHandle stream,
                         void **args) {
    const CudaApi *api = &cuda.api;
    CuLaunchAttribute early = {.id = CU_LAUNCH_EARLY, .value = {1}};
    CuLaunch how = {.grid = {(unsigned)blocks, 1, 1},
                    .block = {(unsigned)k->threads, 1, 1},
                    .shared = (unsigned)k->scratch,
                    .stream = stream,
                    .attributes = &early,
                    .n_attributes = 1};
    if (k->early && api->LaunchKernelEx && cuda.version >= CU_LAUNCH_EARLY_SINCE)
        return api->LaunchKernelEx(&how, function, args, NULL);
    return api->LaunchKernel(function, how.grid[0], 1, 1, how.block[0], 1, 1, how.shared, stream,
                             args, NULL);
}

static ssd_status launch(const Launch *l, const Loaded *code, CuHandle stream) {
    Argument arg;
    void *args[] = {&arg};
    for (int i = 0; i < l->plan->n_kernels; i++) {
        const ArtKernel *k = &l->plan->kernels[i];
        if (l->blocks[i] <= 0) continue;
        pack(l, k, &arg);
        CuHandle function = code->function[l->plan - l->art->plans][i];
        int e = launch_kernel(k, function, l->blocks[i], stream, args);
        if (e) return ssd_cuda_fail(e, "launching kernel '%.80s'", k->symbol);
    }
    return SSD_OK;
}

ssd_status ssd_cuda_run(CudaProgram *p, CuHandle stream, const Launch *l) {
    CudaScope scope;
    Loaded *code;
    ssd_status s = ssd_cuda_enter(stream, &scope);
    if (s) return s;
    s = code_in(p, &scope, &code);
    if (!s) s = check_sizes(l);
    if (!s) s = check_pointers(p, l);
    if (!s) s = launch(l, code, stream);
    ssd_cuda_leave(&scope);
    return s;
}
