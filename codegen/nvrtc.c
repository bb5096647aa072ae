// SPDX-License-Identifier: Apache-2.0
// Compiling with NVRTC: no driver, no device, no header is needed, and no cache but ours is used.
#include "nvrtc.h"
#include "../runtime/dynlib.h"

#include <pthread.h>
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
