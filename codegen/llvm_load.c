// SPDX-License-Identifier: Apache-2.0
// Loads the plugin libssdllvm.so, and LLVM with it, the first time code must be generated: a
// process that finds all its kernels in the cache never pays for LLVM's 130 MB.
//
// The plugin is looked for at $SSD_LLVM_PLUGIN, beside the library or executable this code is in,
// and where the dynamic linker looks. It stays loaded.
#include "llvm_load.h"
#include "llvm.h"
#include "target.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char plugin[] = "libssdllvm.so";

static pthread_once_t once = PTHREAD_ONCE_INIT;
static SsdLlvmEmit *emit;
static SsdLlvmText *text;
static void *plugin_lib;
static char failure[512];

// `near` is a file; the plugin is tried in its directory and in lib/ beside that.
static void *open_near(const char *near) {
    char path[4096];
    const char *slash = near ? strrchr(near, '/') : NULL, *const dirs[] = {"", "/../lib"};
    void *lib = NULL;
    for (size_t i = 0; slash && !lib && i < COUNTOF(dirs); i++) {
        int n =
            snprintf(path, sizeof path, "%.*s%s/%s", (int)(slash - near), near, dirs[i], plugin);
        if (n < (int)sizeof path) lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    return lib;
}

static void *open_plugin(void) {
    const char *chosen = getenv("SSD_LLVM_PLUGIN");
    if (chosen && *chosen) return dlopen(chosen, RTLD_NOW | RTLD_LOCAL);
    Dl_info here;
    void *lib = dladdr((void *)&once, &here) ? open_near(here.dli_fname) : NULL;
    char exe[4096]; // dladdr gives the main program as it was called, perhaps without a directory
    ssize_t n = lib ? 0 : readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n > 0) {
        exe[n] = 0;
        lib = open_near(exe);
    }
    return lib ? lib : dlopen(plugin, RTLD_NOW | RTLD_LOCAL);
}

static void load(void) {
    void *lib = open_plugin();
    if (!lib) {
        snprintf(failure, sizeof failure, "the code generator cannot be loaded: %s", dlerror());
        return;
    }
    plugin_lib = lib;
    // POSIX lets an object pointer be read as a function pointer here; ISO C has no word for it.
    *(void **)&emit = dlsym(lib, "ssd_llvm_emit");
    *(void **)&text = dlsym(lib, "ssd_llvm_text");
    if (!emit || !text)
        snprintf(failure, sizeof failure, "%s is not a plugin of this version", plugin);
}

bool ssd_llvm_load_emit(Arena *a, const Prog *p, const Machine *m, TargetCode *out, Text *why) {
    *out = (TargetCode){.scratch = NEWN(a, i64, p->kernels.n)};
    pthread_once(&once, load);
    if (emit) return emit(a, p, m, &out->bytes, &out->size, out->scratch, why);
    ssd_text_printf(why, "%s", failure);
    return false;
}

bool ssd_llvm_load_text(const Prog *p, const Machine *m, bool assembly, Text *out, Text *why) {
    pthread_once(&once, load);
    if (text) return text(p, m, assembly, out, why);
    ssd_text_printf(why, "%s", failure);
    return false;
}

bool ssd_llvm_probe(Text *found) {
    pthread_once(&once, load);
    void (*version)(unsigned *, unsigned *, unsigned *) = NULL;
    unsigned v[3] = {0};
    Dl_info at = {0};
    if (*failure || !plugin_lib) {
        ssd_text_printf(found, "%s", failure);
        return false;
    }
    *(void **)&version =
        dlsym(plugin_lib, "LLVMGetVersion"); // LLVM's own: the plugin depends on it
    if (version) version(&v[0], &v[1], &v[2]);
    dladdr(*(void **)&emit, &at);
    ssd_text_printf(found, "LLVM %u.%u.%u through %s", v[0], v[1], v[2],
                    at.dli_fname ? at.dli_fname : plugin);
    return true;
}
