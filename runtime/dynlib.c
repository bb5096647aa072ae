// SPDX-License-Identifier: Apache-2.0
#include "dynlib.h"
#include "device_cuda.h"

#include <dlfcn.h>
#include <glob.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

bool ssd_dynlib_bind(void *lib, const DynSym *syms, int n, void *table, Text *why) {
    for (int i = 0; i < n; i++) {
        void *at = dlsym(lib, syms[i].name);
        memcpy((char *)table + syms[i].at, &at, sizeof at);
        if (at || syms[i].optional) continue;
        ssd_text_printf(why, "it has no %s", syms[i].name);
        return false;
    }
    return true;
}

void ssd_dynlib_path(void *lib, const char *symbol, char out[DYN_PATH]) {
    Dl_info at = {0};
    void *f = dlsym(lib, symbol);
    *out = 0;
    if (!f || !dladdr(f, &at) || !at.dli_fname) return;
    char *real = realpath(at.dli_fname, NULL);
    snprintf(out, DYN_PATH, "%s", real ? real : at.dli_fname);
    free(real);
}

// --- NVRTC ---------------------------------------------------------------------------------------
static const int majors[] = {13, 12};

static struct {
    Nvrtc found;
    char path[DYN_PATH], version[64], failure[512];
} nvrtc;

// NVRTC opens libnvrtc-builtins by its bare name, which the linker knows only for installed
// toolkits: opened here first, by its path, it is found by that name too.
static void *open_file(const char *path) {
    char pattern[DYN_PATH + 32];
    const char *slash = strrchr(path, '/'), *major = strstr(path, "libnvrtc.so.");
    glob_t g = {0};
    if (slash && major) {
        int dir = (int)(slash - path), digits = (int)strspn(major + 12, "0123456789");
        snprintf(pattern, sizeof pattern, "%.*s/libnvrtc-builtins.so.%.*s*", dir, path, digits,
                 major + 12);
        if (!glob(pattern, 0, NULL, &g))
            for (size_t i = 0; i < g.gl_pathc; i++) dlopen(g.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
        globfree(&g);
    }
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static void *open_matching(const char *dir, int major) {
    char pattern[DYN_PATH];
    glob_t g = {0};
    void *lib = NULL;
    int n = snprintf(pattern, sizeof pattern, "%s/libnvrtc.so.%d", dir, major);
    if (n >= (int)sizeof pattern || glob(pattern, 0, NULL, &g)) return NULL;
    for (size_t i = 0; i < g.gl_pathc && !lib; i++) lib = open_file(g.gl_pathv[i]);
    globfree(&g);
    return lib;
}

// Where wheels and toolkits keep it. A place begins with a variable of the environment or with /.
static const char *const places[] = {
    "$VIRTUAL_ENV/lib/python3*/site-packages/nvidia/cu13/lib",
    "$VIRTUAL_ENV/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib",
    "$CONDA_PREFIX/lib",
    "$CONDA_PREFIX/lib/python3*/site-packages/nvidia/cu13/lib",
    "$CONDA_PREFIX/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib",
    "$HOME/.local/lib/python3*/site-packages/nvidia/cu13/lib",
    "$HOME/.local/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib",
    "/usr/local/lib/python3*/*-packages/nvidia/cu13/lib",
    "/usr/local/lib/python3*/*-packages/nvidia/cuda_nvrtc/lib",
    "/usr/lib/python3*/*-packages/nvidia/cu13/lib",
    "/usr/lib/python3*/*-packages/nvidia/cuda_nvrtc/lib",
    "$CUDA_HOME/lib64",
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-*/lib64",
};

static void *open_in_places(int major) {
    void *lib = NULL;
    for (size_t i = 0; i < COUNTOF(places) && !lib; i++) {
        char dir[DYN_PATH];
        const char *rest = strchr(places[i], '/');
        if (rest == places[i]) {
            lib = open_matching(rest, major);
            continue;
        }
        snprintf(dir, sizeof dir, "%.*s", (int)(rest - places[i] - 1), places[i] + 1);
        const char *base = getenv(dir);
        if (!base || *base != '/') continue;
        int n = snprintf(dir, sizeof dir, "%s%s", base, rest);
        if (n < (int)sizeof dir) lib = open_matching(dir, major);
    }
    return lib;
}

static void *open_major(int major) {
    char name[32];
    snprintf(name, sizeof name, "libnvrtc.so.%d", major);
    void *lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    return lib ? lib : open_in_places(major);
}

static void *open_chosen(const char *chosen) {
    struct stat st;
    if (stat(chosen, &st) || !S_ISDIR(st.st_mode)) return open_file(chosen);
    void *lib = NULL;
    for (size_t i = 0; i < COUNTOF(majors) && !lib; i++) lib = open_matching(chosen, majors[i]);
    return lib;
}

static void *open_nvrtc(void) {
    const char *chosen = getenv("SSD_NVRTC");
    void *lib = NULL;
    int driver = ssd_cuda_driver_version() / 1000;
    if (chosen && *chosen) {
        lib = open_chosen(chosen);
        if (!lib)
            snprintf(nvrtc.failure, sizeof nvrtc.failure,
                     "SSD_NVRTC=%.300s: no NVRTC can be loaded", chosen);
        return lib;
    }
    for (int newer = 0; newer < 2 && !lib; newer++) // one newer than the driver only if need be
        for (size_t i = 0; i < COUNTOF(majors) && !lib; i++)
            if ((driver && majors[i] > driver) == newer) lib = open_major(majors[i]);
    if (!lib)
        snprintf(nvrtc.failure, sizeof nvrtc.failure,
                 "NVRTC (libnvrtc.so.13 or .12) was not found: `pip install nvidia-cuda-nvrtc`, or "
                 "install the CUDA toolkit, or set SSD_NVRTC to the library");
    return lib;
}

typedef struct BuildId {
    const char *path;
    char hex[41];
} BuildId;

// The note that linkers put into a library, in hexadecimal.
static int read_build_id(struct dl_phdr_info *lib, size_t unused, void *ctx) {
    enum { GNU_BUILD_ID = 3, MOST = 20 };
    BuildId *out = ctx;
    (void)unused;
    char *real = lib->dlpi_name ? realpath(lib->dlpi_name, NULL) : NULL;
    bool this = real && !strcmp(real, out->path);
    free(real);
    if (!this) return 0;
    for (int i = 0; i < lib->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &lib->dlpi_phdr[i];
        const u8 *at = (const u8 *)(lib->dlpi_addr + h->p_vaddr), *end = at + h->p_memsz;
        while (h->p_type == PT_NOTE && end - at > 12) {
            u32 head[3]; // lengths of name and contents, type
            memcpy(head, at, sizeof head);
            const u8 *id = at + 12 + ((head[0] + 3) & ~3u);
            at = id + ((head[1] + 3) & ~3u);
            if (head[2] != GNU_BUILD_ID || head[0] != 4 || at > end) continue;
            for (u32 k = 0; k < head[1] && k < MOST; k++) sprintf(out->hex + 2 * k, "%02x", id[k]);
            return 1;
        }
    }
    return 1;
}

static void find_nvrtc(void) {
    int (*version)(int *, int *) = NULL, major = 0, minor = 0;
    void *lib = open_nvrtc();
    if (!lib) return;
    ssd_dynlib_path(lib, "nvrtcVersion", nvrtc.path);
    *(void **)&version = dlsym(lib, "nvrtcVersion");
    if (!version || version(&major, &minor)) {
        snprintf(nvrtc.failure, sizeof nvrtc.failure,
                 "%.300s does not tell its version: it is damaged, "
                 "or no NVRTC",
                 *nvrtc.path ? nvrtc.path : "the library found");
        return;
    }
    BuildId id = {.path = nvrtc.path};
    dl_iterate_phdr(read_build_id, &id); // the interface tells no build number
    snprintf(nvrtc.version, sizeof nvrtc.version, "%d.%d %s", major, minor, id.hex);
    nvrtc.found = (Nvrtc){lib, major, minor, nvrtc.path, nvrtc.version};
}

const Nvrtc *ssd_nvrtc(Text *why) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_nvrtc);
    if (nvrtc.found.lib) return &nvrtc.found;
    if (why) ssd_text_printf(why, "%s", nvrtc.failure);
    return NULL;
}
