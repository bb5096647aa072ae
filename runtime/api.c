// SPDX-License-Identifier: Apache-2.0
// The public functions: contexts, kernels, launches. They check what they are given and delegate.
#include "device_cuda.h"
#include "dynlib.h"
#include "internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

SsdCompileHook *ssd_compile_hook;

struct ssd_context {
    Arena arena;
    Cache cache;
    Pool *pool;
    pthread_mutex_t launch; // launches take turns: pool, scratch and workspace have one user
    CpuScratch scratch;
    void *workspace; // for callers that bring none; kept for the next launch
    size_t workspace_bytes;
    pthread_mutex_t warn;
    char warning[sizeof((Cache *)0)->warning];
};

struct ssd_kernel {
    ssd_context *ctx;
    Arena arena; // of `art`
    Artifact art;
    CpuProgram *cpu; // one of these two
    CudaProgram *cuda;
    const char *origin;
};

// --- Context ------------------------------------------------------------------------------------

static void set_warning(ssd_context *c, const char *s) {
    if (!*s) return;
    pthread_mutex_lock(&c->warn);
    snprintf(c->warning, sizeof c->warning, "%s", s);
    pthread_mutex_unlock(&c->warn);
}

static int default_threads(ssd_context *c) {
    const char *s = getenv("SSD_THREADS");
    int cores = ssd_cpu_info()->cores;
    if (!s || !*s) return cores;
    char *end;
    long n = strtol(s, &end, 10);
    if (!*end && n >= 1 && n <= 1024) return (int)n;
    char text[160];
    snprintf(text, sizeof text, "SSD_THREADS='%.40s' is not a number of threads; using %d", s,
             cores);
    set_warning(c, text);
    return cores;
}

static ssd_status open_cache(ssd_context *c, const char *dir) {
    jmp_buf oom;
    c->arena.oom = &oom;
    if (setjmp(oom)) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a context");
    ssd_cache_open(&c->cache, &c->arena, dir);
    set_warning(c, c->cache.warning);
    return SSD_OK;
}

ssd_status ssd_context_create(const ssd_context_options *options, ssd_context **out_context) {
    ssd_clear_error();
    if (!out_context) return ssd_fail(SSD_INVALID_ARGUMENT, "out_context is NULL");
    *out_context = NULL;
    ssd_context_options o = options ? *options : (ssd_context_options){0};
    if (o.threads < 0)
        return ssd_fail(SSD_INVALID_ARGUMENT, "threads is %d, expected 0 or more", o.threads);
    ssd_context *c = calloc(1, sizeof *c);
    if (!c) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a context");
    pthread_mutex_init(&c->launch, NULL); // never fail on the systems there are
    pthread_mutex_init(&c->warn, NULL);
    ssd_status s = open_cache(c, o.cache_dir);
    if (!s && !(c->pool = ssd_pool_new(o.threads ? o.threads : default_threads(c))))
        s = ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a thread pool");
    if (s)
        ssd_context_destroy(c);
    else
        *out_context = c;
    return s;
}

void ssd_context_destroy(ssd_context *c) {
    if (!c) return;
    ssd_pool_free(c->pool);
    ssd_cpu_scratch_free(&c->scratch);
    free(c->workspace);
    pthread_mutex_destroy(&c->launch);
    pthread_mutex_destroy(&c->warn);
    ssd_arena_free(&c->arena);
    free(c);
}

int ssd_context_threads(const ssd_context *c) { return c ? ssd_pool_threads(c->pool) : 0; }

const char *ssd_context_warning(const ssd_context *c) {
    static _Thread_local char copy[sizeof c->warning];
    if (!c) return "";
    pthread_mutex_t *lock = &((ssd_context *)c)->warn;
    pthread_mutex_lock(lock);
    memcpy(copy, c->warning, sizeof copy);
    pthread_mutex_unlock(lock);
    return copy;
}

// --- Key ----------------------------------------------------------------------------------------

// One line "name words", blanks of any kind being one space: no option can imitate another's line.
static void put_option(Text *key, const char *name, const char *value) {
    ssd_text_printf(key, "%s", name);
    for (const char *s = value ? value : ""; *s;) {
        size_t blank = strspn(s, " \t\r\n\v\f"), n = strcspn(s += blank, " \t\r\n\v\f");
        if (n) ssd_text_printf(key, " %.*s", (int)MIN(n, (size_t)INT32_MAX), s);
        s += n;
    }
    ssd_text_put(key, "\n", 1);
}

static ssd_status unknown_target(const char *target) {
    const char *known[32] = {"cpu", "x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64", "cuda"};
    int n = 6;
    for (int i = 0; i < ssd_cuda_arch_count && n < (int)COUNTOF(known); i++)
        known[n++] = ssd_cuda_archs[i].name;
    int near = ssd_nearest(target, known, n);
    if (near < 0) return ssd_fail(SSD_NOT_FOUND, "unknown target '%.60s'", target);
    return ssd_fail(SSD_NOT_FOUND, "unknown target '%.60s'; did you mean '%s'?", target,
                    known[near]);
}

// The canonical name; *out_runs: can this host run its code?
static ssd_status find_target(const char *target, const char **out, bool *out_runs) {
    target = target ? target : "cpu";
    *out = ssd_cpu_target(target, out_runs);
    if (!*out) *out = ssd_cuda_target(target, out_runs);
    if (*out) return SSD_OK;
    if (strcmp(target, "cuda")) return unknown_target(target);
    return ssd_fail(ssd_cuda_driver()->status, "target cuda: %s", ssd_cuda_driver()->why);
}

// Which NVRTC, as our own build does not fix it; "none" finds what was cached without it.
static const char *nvrtc_build(void) {
    const char *build = ssd_nvrtc_build();
    return build ? build : "none";
}

ssd_status ssd_compile_key(Arena *a, const ssd_compile_options *o, char **out_key,
                           size_t *out_len) {
    *out_key = NULL;
    *out_len = 0;
    if (!o || !o->spec) return ssd_fail(SSD_INVALID_ARGUMENT, "options have no spec");
    const char *target;
    bool runs;
    ssd_status s = find_target(o->target, &target, &runs);
    if (s) return s;
    // Room first: an arena that jumps must not leave the text behind.
    const char *const parts[] = {o->spec, o->mode, o->schedule, o->dims, o->absent};
    size_t room = 512;
    for (size_t i = 0; i < COUNTOF(parts); i++) room += parts[i] ? strlen(parts[i]) : 0;
    char *out = ssd_arena_alloc(a, room);
    Text key = {0};
    ssd_text_printf(&key, "ssdc key %d\nversion %s\nemitter %s\n", SSD_CACHE_SCHEMA, SSD_VERSION,
                    SSD_EMITTER_VERSION);
    put_option(&key, "target", target);
    if (ssd_target_is_cuda(target)) put_option(&key, "nvrtc", nvrtc_build());
    put_option(&key, "mode", o->mode && *o->mode ? o->mode : "forward");
    put_option(&key, "schedule", o->schedule);
    put_option(&key, "dims", o->dims);
    put_option(&key, "absent", o->absent);
    ssd_text_printf(&key, "spec\n");
    ssd_text_put(&key, o->spec, strlen(o->spec));
    if (!key.s) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for the key of a kernel");
    if (key.n >= room) SSD_BUG("a key of %zu bytes in %zu", key.n, room);
    memcpy(out, key.s, key.n);
    *out_len = key.n;
    *out_key = out;
    ssd_text_free(&key);
    return SSD_OK;
}

// --- Kernels ------------------------------------------------------------------------------------

ssd_status ssd_target_check(const char *target) {
    bool runs;
    const char *known;
    ssd_status s = find_target(target, &known, &runs);
    if (s || runs) return s;
    if (!ssd_target_is_cuda(known))
        return ssd_fail(SSD_UNSUPPORTED, "this CPU cannot run target '%s'", known);
    const CudaDriver *c = ssd_cuda_driver();
    if (c->status) return ssd_fail(c->status, "target %s: %s", known, c->why);
    return ssd_fail(SSD_UNSUPPORTED, "target %s: %s needs %s", known, c->device.name,
                    c->device.target);
}

static ssd_status load_code(ssd_kernel *k, ssd_status if_bad) {
    Text why = {0};
    if (ssd_target_is_cuda(k->art.target)) return ssd_cuda_load(&k->art, &k->cuda);
    PhaseMark begun = ssd_phase_begin();
    k->cpu = ssd_cpu_load(&k->art, &why);
    ssd_phase_end(PHASE_LOAD, begun);
    if (!k->cpu) ssd_fail(if_bad, "%s", why.s ? why.s : "out of memory");
    ssd_text_free(&why);
    return k->cpu ? SSD_OK : if_bad;
}

static bool jit_off(void) {
    const char *s = getenv("SSD_JIT");
    return s && (!strcmp(s, "off") || !strcmp(s, "0"));
}

typedef struct Compiling {
    Arena arena; // of the compiler
    Artifact made;
    Text text, why;
} Compiling;

// What the compiler made goes through text into the kernel, and so through all checks of a cache
// entry.
static ssd_status adopt(ssd_kernel *k, Compiling *c) {
    ssd_artifact_print(&c->made, &c->text);
    if (!c->text.s) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory to compile");
    if (!ssd_artifact_parse(&k->arena, c->text.s, c->text.n, &k->art, &c->why))
        return ssd_fail(SSD_INTERNAL, "the compiler made a bad artifact: %s",
                        c->why.s ? c->why.s : "");
    char *room = ssd_arena_alloc(&k->arena, c->made.code_size + 64);
    room += -(uintptr_t)room & 63;
    memcpy(room, c->made.code, c->made.code_size);
    k->art.code = room;
    k->art.code_size = c->made.code_size;
    return SSD_OK;
}

static ssd_status compile_guarded(ssd_kernel *k, const ssd_compile_options *o, Compiling *c) {
    jmp_buf oom;
    c->arena.oom = k->arena.oom = &oom;
    if (setjmp(oom)) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory to compile");
    ssd_status s = ssd_compile_hook(&c->arena, o, &c->made);
    return s ? s : adopt(k, c);
}

// The compiler works in an arena of its own, one compile at a time: it is not asked to be thread
// safe.
static ssd_status run_compiler(ssd_kernel *k, const ssd_compile_options *o) {
    static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
    Compiling c = {0};
    CudaStart device;
    jmp_buf *outer = k->arena.oom;
    pthread_mutex_lock(&turn);
    ssd_cuda_prepare(o->target, &device);
    ssd_status s = compile_guarded(k, o, &c);
    ssd_cuda_prepared(&device);
    pthread_mutex_unlock(&turn);
    k->arena.oom = outer;
    ssd_text_free(&c.text);
    ssd_text_free(&c.why);
    ssd_arena_free(&c.arena);
    return s;
}

static ssd_status get_or_compile(ssd_kernel *k, const ssd_compile_options *o, Cache *cache) {
    char *key;
    size_t len;
    PhaseMark begun = ssd_phase_begin();
    ssd_status s = ssd_compile_key(&k->arena, o, &key, &len);
    if (!s) s = ssd_target_check(o->target);
    ssd_phase_end(PHASE_KEY, begun);
    if (s) return s;
    begun = ssd_phase_begin();
    bool there = ssd_cache_get(cache, &k->arena, key, len, &k->art);
    ssd_phase_end(PHASE_CACHE, begun);
    if (there) {
        k->origin = "cache";
        if (!load_code(k, SSD_INTERNAL)) return SSD_OK;
        snprintf(cache->warning, sizeof cache->warning, "a cache entry is ignored: %.400s",
                 ssd_last_error());
        ssd_clear_error();
    }
    if (!ssd_compile_hook || jit_off())
        return ssd_fail(SSD_JIT_OFF, "the kernel is not in the cache (%.200s) and %s",
                        cache->dir ? cache->dir : "which is off",
                        ssd_compile_hook ? "SSD_JIT=off forbids compiling"
                                         : "no compiler is linked");
    k->origin = "compiled";
    s = run_compiler(k, o);
    if (!s) s = load_code(k, SSD_INTERNAL);
    if (!s) ssd_cache_put(cache, key, len, &k->art);
    return s;
}

static ssd_status read_file(ssd_kernel *k, const char *path) {
    if (access(path, R_OK)) return ssd_fail(SSD_IO, "%.300s: cannot be read", path);
    Text why = {0};
    bool ok = ssd_cache_read(&k->arena, path, &k->art, NULL, &why);
    if (!ok) ssd_fail(SSD_INVALID_ARGUMENT, "%.300s: %s", path, why.s ? why.s : "out of memory");
    ssd_text_free(&why);
    if (!ok) return SSD_INVALID_ARGUMENT;
    k->origin = "file";
    ssd_status s = ssd_target_check(k->art.target);
    if (s == SSD_NOT_FOUND && !ssd_target_is_cuda(k->art.target))
        s = ssd_fail(SSD_UNSUPPORTED, "target '%.60s' is unknown to this version", k->art.target);
    return s ? s : load_code(k, SSD_INVALID_ARGUMENT);
}

// Exactly one of options and path is given. Memory that runs out anywhere below lands here.
static ssd_status fill_kernel(ssd_kernel *k, const ssd_compile_options *o, const char *path,
                              Cache *cache) {
    jmp_buf oom;
    k->arena.oom = &oom;
    if (setjmp(oom)) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a kernel");
    ssd_status s = path ? read_file(k, path) : get_or_compile(k, o, cache);
    k->arena.oom = NULL;
    return s;
}

static ssd_status new_kernel(ssd_context *ctx, const ssd_compile_options *o, const char *path,
                             ssd_kernel **out) {
    ssd_kernel *k = calloc(1, sizeof *k);
    if (!k) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a kernel");
    k->ctx = ctx;
    Cache cache = {.dir = ctx->cache.dir}; // a copy: its warning is this call's
    ssd_status s = fill_kernel(k, o, path, &cache);
    set_warning(ctx, cache.warning);
    if (s)
        ssd_kernel_destroy(k);
    else
        *out = k;
    return s;
}

ssd_status ssd_compile(ssd_context *ctx, const ssd_compile_options *o, ssd_kernel **out_kernel) {
    ssd_clear_error();
    if (!out_kernel) return ssd_fail(SSD_INVALID_ARGUMENT, "out_kernel is NULL");
    *out_kernel = NULL;
    if (!ctx) return ssd_fail(SSD_INVALID_ARGUMENT, "context is NULL");
    if (!o) return ssd_fail(SSD_INVALID_ARGUMENT, "options is NULL");
    return new_kernel(ctx, o, NULL, out_kernel);
}

ssd_status ssd_kernel_load(ssd_context *ctx, const char *path, ssd_kernel **out_kernel) {
    ssd_clear_error();
    if (!out_kernel) return ssd_fail(SSD_INVALID_ARGUMENT, "out_kernel is NULL");
    *out_kernel = NULL;
    if (!ctx) return ssd_fail(SSD_INVALID_ARGUMENT, "context is NULL");
    if (!path) return ssd_fail(SSD_INVALID_ARGUMENT, "path is NULL");
    return new_kernel(ctx, NULL, path, out_kernel);
}

void ssd_kernel_destroy(ssd_kernel *k) {
    if (!k) return;
    ssd_cpu_free(k->cpu);
    ssd_cuda_free(k->cuda);
    ssd_arena_free(&k->arena);
    free(k);
}

const char *ssd_kernel_origin(const ssd_kernel *k) { return k ? k->origin : ""; }
const char *ssd_kernel_schedule(const ssd_kernel *k) { return k ? k->art.schedule : ""; }
const char *ssd_kernel_target(const ssd_kernel *k) { return k ? k->art.target : ""; }
int ssd_kernel_param_count(const ssd_kernel *k) { return k ? k->art.n_params : 0; }

ssd_status ssd_kernel_param(const ssd_kernel *k, int i, ssd_param *out_param) {
    ssd_clear_error();
    if (!out_param) return ssd_fail(SSD_INVALID_ARGUMENT, "out_param is NULL");
    *out_param = (ssd_param){0};
    if (!k) return ssd_fail(SSD_INVALID_ARGUMENT, "kernel is NULL");
    if (i < 0 || i >= k->art.n_params)
        return ssd_fail(SSD_INVALID_ARGUMENT, "parameter %d of a kernel with %d", i,
                        k->art.n_params);
    const ArtTensor *t = &k->art.params[i];
    *out_param = (ssd_param){.name = t->name, .role = t->role, .dtype = t->dtype, .rank = t->rank};
    for (int d = 0; d < t->rank; d++) out_param->dims[d] = t->dim[d];
    return SSD_OK;
}

// --- Launch -------------------------------------------------------------------------------------

static ssd_status check_call(const ssd_kernel *k, const ssd_arg *args, int n_args) {
    if (!k) return ssd_fail(SSD_INVALID_ARGUMENT, "kernel is NULL");
    if (n_args < 0 || (n_args && !args))
        return ssd_fail(SSD_INVALID_ARGUMENT, "%d arguments at %s", n_args,
                        args ? "an address" : "NULL");
    return SSD_OK;
}

ssd_status ssd_kernel_workspace(const ssd_kernel *k, const ssd_arg *args, int n_args,
                                size_t *out_bytes) {
    ssd_clear_error();
    if (!out_bytes) return ssd_fail(SSD_INVALID_ARGUMENT, "out_bytes is NULL");
    *out_bytes = 0;
    ssd_status s = check_call(k, args, n_args);
    if (s) return s;
    Launch l;
    s = ssd_launch_check(&k->art, args, n_args, &l);
    if (!s) *out_bytes = l.ws_bytes;
    ssd_launch_release(&l);
    return s;
}

enum { KEEP_MOST = 256 << 20 }; // bytes of workspace that a context keeps between launches

static ssd_status own_workspace(ssd_context *c, size_t bytes) {
    if (bytes <= c->workspace_bytes) return SSD_OK;
    free(c->workspace);
    c->workspace =
        bytes <= PTRDIFF_MAX - 4096 ? aligned_alloc(64, (bytes + 63) & ~(size_t)63) : NULL;
    c->workspace_bytes = c->workspace ? bytes : 0;
    return c->workspace
               ? SSD_OK
               : ssd_fail(SSD_OUT_OF_MEMORY, "no memory for %zu bytes of workspace", bytes);
}

static ssd_status run_locked(ssd_kernel *k, Launch *l, void *workspace) {
    ssd_context *c = k->ctx;
    ssd_status s = workspace || !l->ws_bytes ? SSD_OK : own_workspace(c, l->ws_bytes);
    if (s) return s;
    ssd_launch_bind(l, workspace ? workspace : c->workspace);
    s = ssd_cpu_run(k->cpu, c->pool, &c->scratch, l);
    if (c->workspace_bytes > KEEP_MOST) {
        free(c->workspace);
        c->workspace = NULL;
        c->workspace_bytes = 0;
    }
    return s;
}

static ssd_status check_workspace(const ssd_kernel *k, const Launch *l, const void *workspace,
                                  size_t bytes) {
    if (workspace && bytes < l->ws_bytes)
        return ssd_fail(SSD_INVALID_ARGUMENT, "workspace has %zu bytes, expected %zu", bytes,
                        l->ws_bytes);
    if (l->ws_bytes && (uintptr_t)workspace % 64)
        return ssd_fail(SSD_INVALID_ARGUMENT, "workspace is not aligned to 64 bytes");
    if (k->cuda && l->ws_bytes && !workspace)
        return ssd_fail(SSD_INVALID_ARGUMENT,
                        "workspace is NULL, expected %zu bytes of device memory "
                        "(ssd_kernel_workspace): a launch on a device allocates nothing",
                        l->ws_bytes);
    return SSD_OK;
}

ssd_status ssd_launch_on(ssd_kernel *k, const ssd_arg *args, int n_args, void *workspace,
                         size_t workspace_bytes, void *stream) {
    ssd_clear_error();
    ssd_status s = check_call(k, args, n_args);
    if (s) return s;
    Launch l;
    s = ssd_launch_check(&k->art, args, n_args, &l);
    if (!s) s = check_workspace(k, &l, workspace, workspace_bytes);
    if (!s && k->cuda) {
        ssd_launch_bind(&l, workspace);
        s = ssd_cuda_run(k->cuda, stream, &l);
    } else if (!s) {
        pthread_mutex_lock(&k->ctx->launch);
        s = run_locked(k, &l, workspace);
        pthread_mutex_unlock(&k->ctx->launch);
    }
    ssd_launch_release(&l);
    return s;
}

ssd_status ssd_launch(ssd_kernel *k, const ssd_arg *args, int n_args, void *workspace,
                      size_t workspace_bytes) {
    return ssd_launch_on(k, args, n_args, workspace, workspace_bytes, NULL);
}
