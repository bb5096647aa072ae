// SPDX-License-Identifier: Apache-2.0
// Compiling with NVRTC: no driver, no device, no header is needed, and no cache but ours is used.
#include "nvrtc.h"
#include "../runtime/dynlib.h"
#include "../runtime/internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef struct Api {
#define NV(field, exported, args) int(*field) args;
#include "nvrtc_syms.def"
#undef NV
} Api;

static const DynSym syms[] = {
#define NV(field, exported, args) {exported, offsetof(Api, field), false},
#include "nvrtc_syms.def"
#undef NV
};

static Api api;
static Text failure; // why there is no NVRTC; lives as long as the process
static const Nvrtc *found;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void) {
    const Nvrtc *n = ssd_nvrtc(&failure);
    if (n && ssd_dynlib_bind(n->lib, syms, COUNTOF(syms), &api, &failure)) found = n;
}

static bool ready(Text *why) {
    pthread_once(&once, load);
    if (found) return true;
    ssd_text_printf(why, "%s", failure.s ? failure.s : "NVRTC was not found");
    return false;
}

bool ssd_nvrtc_knows(const char *arch, Text *why) {
    int n = 0, want = atoi(arch + strlen("sm_")); // suffixes are not listed
    if (!ready(why)) return false;
    if (!api.count_archs(&n) && n > 0) {
        int *known = calloc((size_t)n, sizeof *known);
        bool yes = false;
        if (known && !api.archs(known))
            for (int i = 0; i < n; i++) yes |= known[i] == want;
        free(known);
        if (yes) return true;
    }
    ssd_text_printf(why, "NVRTC %d.%d (%s) does not know %s", found->major, found->minor,
                    found->path, arch);
    return false;
}

static const char *get_log(Arena *a, void *program) {
    size_t n = 0;
    if (api.log_size(program, &n) || !n) return "";
    char *s = ssd_arena_alloc(a, n + 1);
    return api.log(program, s) ? "" : s;
}

static char *get(Arena *a, void *program, int (*size)(void *, size_t *),
                 int (*data)(void *, char *), size_t *out_size) {
    if (size(program, out_size) || !*out_size) return NULL;
    char *s = ssd_arena_alloc(a, *out_size + 1);
    return data(program, s) ? NULL : s;
}

bool ssd_nvrtc_compile(Arena *a, const char *source, const char *name, const char *arch,
                       NvrtcResult *out, Text *why) {
    *out = (NvrtcResult){.log = ""};
    if (!ssd_nvrtc_knows(arch, why)) return false;
    const char *options[8] = {ssd_arena_printf(a, "--gpu-architecture=%s", arch), "--std=c++17",
                              "--ptxas-options=-v"};
    int n = 3;
    if (found->major > 12 || (found->major == 12 && found->minor >= 9)) options[n++] = "--no-cache";
    // --split-compile would save a fifth of the time, but what it makes of a source is not always
    // the same: in one process a kernel spills, in another it does not.
    void *program = NULL;
    const char *file = ssd_arena_printf(a, "%s.cu", name);
    if (api.create(&program, source, file, 0, NULL, NULL)) {
        ssd_text_printf(why, "NVRTC could not start on %s", file);
        return false;
    }
    int status = api.compile(program, n, options);
    out->log = get_log(a, program);
    if (!status) {
        out->cubin = get(a, program, api.cubin_size, api.cubin, &out->cubin_size);
        out->ptx = get(a, program, api.ptx_size, api.ptx, &out->ptx_size);
    }
    api.destroy(&program);
    if (out->cubin) return true;
    ssd_text_printf(why, "NVRTC refused %s for %s:\n%s", file, arch, out->log);
    return false;
}

// --- Several ------------------------------------------------------------------------------------
// NVRTC takes a thread to a program, and since 12.3 does not let one wait for another. A job is one
// of them: whichever thread takes it, all that it makes is its own until all are done.
typedef struct Job {
    Arena arena;
    Text why;
    bool ok, exhausted;
} Job;
typedef struct Batch {
    const NvrtcSource *source;
    const char *arch;
    NvrtcResult *out;
    Job *job;
    int n;
    atomic_int next;
} Batch;

static void run_job(const Batch *b, int i) {
    Job *j = &b->job[i];
    jmp_buf oom;
    j->arena.oom = &oom;
    if (setjmp(oom))
        j->exhausted = true;
    else
        j->ok = ssd_nvrtc_compile(&j->arena, b->source[i].text, b->source[i].name, b->arch,
                                  &b->out[i], &j->why);
}

static void *work(void *batch) {
    Batch *b = batch;
    for (int i; (i = atomic_fetch_add(&b->next, 1)) < b->n;) run_job(b, i);
    return NULL;
}

// The caller works, too, and alone where there is one source or the system gives no threads.
static void run_batch(Batch *b) {
    enum { MOST = 64 };
    pthread_t thread[MOST];
    int started = 0, others = MIN(MIN(b->n, ssd_cpu_info()->cores) - 1, MOST);
    while (started < others && ssd_thread_start(&thread[started], work, b)) started++;
    work(b);
    while (started) pthread_join(thread[--started], NULL);
}

bool ssd_nvrtc_compile_all(Arena *a, const NvrtcSource *source, int n, const char *arch,
                           NvrtcResult *out, Text *why) {
    Batch b = {.source = source, .arch = arch, .out = out, .n = n, .job = NEWN(a, Job, n)};
    bool ok = true, exhausted = false;
    run_batch(&b);
    for (int i = 0; i < n; i++) {
        Job *j = &b.job[i];
        if (ok && j->why.s) ssd_text_printf(why, "%s", j->why.s);
        ok &= j->ok;
        exhausted |= j->exhausted;
        ssd_arena_adopt(a, &j->arena);
        ssd_text_free(&j->why);
    }
    if (exhausted) ssd_arena_exhausted(a);
    return ok;
}
