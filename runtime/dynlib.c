// SPDX-License-Identifier: Apache-2.0
#include "dynlib.h"
#include "device_cuda.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

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

// --- A library as a file ------------------------------------------------------------------------
// What a CUDA kernel's key says of the compiler has to be known at every start, and loading NVRTC
// takes 10 to 130 ms. So files are found as the dynamic linker finds them, and read only in part.
#if defined(__x86_64__)
enum { MACHINE = EM_X86_64 };
#elif defined(__aarch64__)
enum { MACHINE = EM_AARCH64 };
#else
enum { MACHINE = EM_NONE };
#endif

typedef struct LibFile {
    char path[DYN_PATH]; // "" none
    char build[48];      // the build id in hexadecimal; without one, size and time of change
} LibFile;

static bool read_at(int fd, void *to, size_t n, u64 at) {
    return pread(fd, to, n, (off_t)at) == (ssize_t)n;
}

// The note that linkers put into a library.
static void read_build_id(int fd, const Elf64_Phdr *h, char out[48]) {
    enum { MOST = 4096, ID_MOST = 20 };
    u8 notes[MOST];
    size_t n = MIN(h->p_filesz, (u64)MOST);
    if (!read_at(fd, notes, n, h->p_offset)) return;
    for (size_t at = 0; at + 12 < n;) {
        u32 head[3]; // lengths of name and contents, type
        memcpy(head, notes + at, sizeof head);
        u64 id = at + 12 + (((u64)head[0] + 3) & ~(u64)3), end = id + head[1];
        if (end > n) return;
        if (head[2] == NT_GNU_BUILD_ID && head[0] == 4)
            for (u32 k = 0; k < head[1] && k < ID_MOST; k++)
                sprintf(out + 2 * k, "%02x", notes[id + k]);
        at = (end + 3) & ~(u64)3;
    }
}

// Is it a library that this process could load?
static bool read_library(int fd, char build[48]) {
    Elf64_Ehdr e;
    if (!read_at(fd, &e, sizeof e, 0) || memcmp(e.e_ident, ELFMAG, SELFMAG) ||
        e.e_ident[EI_CLASS] != ELFCLASS64 || (e.e_machine != MACHINE && MACHINE != EM_NONE) ||
        e.e_type != ET_DYN || e.e_phentsize != sizeof(Elf64_Phdr))
        return false;
    *build = 0;
    for (int i = 0; i < e.e_phnum; i++) {
        Elf64_Phdr h;
        if (!read_at(fd, &h, sizeof h, e.e_phoff + (u64)i * sizeof h)) return false;
        if (h.p_type == PT_NOTE && !*build) read_build_id(fd, &h, build);
    }
    struct stat st;
    if (!*build && !fstat(fd, &st))
        snprintf(build, 48, "%lld bytes %lld.%09ld", (long long)st.st_size,
                 (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    return *build;
}

static bool take(LibFile *f, const char *path) {
    char real[PATH_MAX];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    bool ok = read_library(fd, f->build);
    close(fd);
    if (!ok) return false;
    int n = snprintf(f->path, sizeof f->path, "%s", realpath(path, real) ? real : path);
    return n < (int)sizeof f->path || (*f->path = 0);
}

static bool take_in(LibFile *f, const char *dir, const char *name) {
    char path[DYN_PATH];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n < (int)sizeof path && take(f, path);
}

// A library of that name that is in the process already.
static bool take_loaded(LibFile *f, const char *name, const char *symbol) {
    char path[DYN_PATH];
    void *lib = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (!lib) return false;
    ssd_dynlib_path(lib, symbol, path);
    dlclose(lib);
    return take(f, path);
}

static bool take_in_list(LibFile *f, const char *dirs, const char *name) {
    char dir[DYN_PATH];
    for (const char *s = dirs ? dirs : ""; *s;) {
        size_t n = strcspn(s, ":;");
        if (n && n < sizeof dir) {
            snprintf(dir, sizeof dir, "%.*s", (int)n, s);
            if (take_in(f, dir, name)) return true;
        }
        s += n + (s[n] != 0);
    }
    return false;
}

// /etc/ld.so.cache as glibc writes it: a head, entries, and text that they point into, counted from
// the head. A file of another form is taken for an empty one.
typedef struct CacheHead {
    char magic[20];
    u32 entries, text_bytes, unused[5];
} CacheHead;
typedef struct CacheLine {
    i32 flags;
    u32 name, path, unused[3];
} CacheLine;

static bool take_in_cache(LibFile *f, const char *cache, size_t size, const char *name) {
    CacheHead head;
    CacheLine line;
    if (size < sizeof head) return false;
    memcpy(&head, cache, sizeof head);
    if (memcmp(head.magic, "glibc-ld.so.cache1.1", sizeof head.magic)) return false;
    if (head.entries > (size - sizeof head) / sizeof line) return false;
    for (u32 i = 0; i < head.entries; i++) {
        memcpy(&line, cache + sizeof head + i * sizeof line, sizeof line);
        if (line.name >= size || line.path >= size) return false;
        if (!strcmp(cache + line.name, name) && take(f, cache + line.path)) return true;
    }
    return false;
}

static bool take_from_linker_cache(LibFile *f, const char *name) {
    struct stat st;
    bool ok = false;
    int fd = open("/etc/ld.so.cache", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t size = fstat(fd, &st) || st.st_size > 1 << 26 ? 0 : (size_t)st.st_size;
    char *cache = calloc(1, size + 1); // the last text ends, whatever the file says
    if (cache && read_at(fd, cache, size, 0)) ok = take_in_cache(f, cache, size, name);
    free(cache);
    close(fd);
    return ok;
}

// Where dlopen(name) would find it.
static bool take_as_linker(LibFile *f, const char *name, const char *symbol) {
    return take_loaded(f, name, symbol) ||
           take_in_list(f, secure_getenv("LD_LIBRARY_PATH"), name) ||
           take_from_linker_cache(f, name) ||
           take_in_list(f, "/lib64:/usr/lib64:/lib:/usr/lib", name);
}

static bool take_matching(LibFile *f, const char *dir, const char *name) {
    char pattern[DYN_PATH];
    glob_t g = {0};
    bool ok = false;
    int n = snprintf(pattern, sizeof pattern, "%s/%s", dir, name);
    if (n >= (int)sizeof pattern || glob(pattern, 0, NULL, &g)) return false;
    for (size_t i = 0; i < g.gl_pathc && !ok; i++) ok = take(f, g.gl_pathv[i]);
    globfree(&g);
    return ok;
}

// Where wheels and toolkits keep NVIDIA's libraries. A place begins with a variable of the
// environment or with /.
static const char *const places[] = {
    "$VIRTUAL_ENV/lib/python3*/site-packages/nvidia/*/lib",
    "$CONDA_PREFIX/lib",
    "$CONDA_PREFIX/lib/python3*/site-packages/nvidia/*/lib",
    "$HOME/.local/lib/python3*/site-packages/nvidia/*/lib",
    "/usr/local/lib/python3*/*-packages/nvidia/*/lib",
    "/usr/lib/python3*/*-packages/nvidia/*/lib",
    "$CUDA_HOME/lib64",
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-*/lib64",
};

static bool take_in_places(LibFile *f, const char *name) {
    bool ok = false;
    for (size_t i = 0; i < COUNTOF(places) && !ok; i++) {
        char dir[DYN_PATH];
        const char *rest = strchr(places[i], '/');
        if (rest == places[i]) {
            ok = take_matching(f, rest, name);
            continue;
        }
        snprintf(dir, sizeof dir, "%.*s", (int)(rest - places[i] - 1), places[i] + 1);
        const char *base = getenv(dir);
        if (!base || *base != '/') continue;
        int n = snprintf(dir, sizeof dir, "%s%s", base, rest);
        if (n < (int)sizeof dir) ok = take_matching(f, dir, name);
    }
    return ok;
}

void *ssd_dynlib_open(const char *name, const char *symbol) {
    LibFile f = {0};
    return take_as_linker(&f, name, symbol) || take_in_places(&f, name)
               ? dlopen(f.path, RTLD_NOW | RTLD_LOCAL)
               : NULL;
}

// --- NVRTC --------------------------------------------------------------------------------------
static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
static const int majors[] = {13, 12};

static struct {
    LibFile file;
    Nvrtc found;
    char version[80], failure[512];
} nvrtc;

static bool take_chosen(LibFile *f, const char *chosen) {
    struct stat st;
    bool ok = false;
    if (!strchr(chosen, '/')) return take_as_linker(f, chosen, "nvrtcVersion");
    if (stat(chosen, &st) || !S_ISDIR(st.st_mode)) return take(f, chosen);
    for (size_t i = 0; i < COUNTOF(names) && !ok; i++) ok = take_matching(f, chosen, names[i]);
    return ok;
}

static void find_nvrtc(void) {
    const char *chosen = getenv("SSD_NVRTC");
    int driver = ssd_cuda_driver_version() / 1000;
    bool ok = false;
    if (chosen && *chosen) {
        if (!take_chosen(&nvrtc.file, chosen))
            snprintf(nvrtc.failure, sizeof nvrtc.failure,
                     "SSD_NVRTC=%.300s: no NVRTC can be loaded", chosen);
        return;
    }
    for (int newer = 0; newer < 2 && !ok; newer++) // one newer than the driver only if need be
        for (size_t i = 0; i < COUNTOF(majors) && !ok; i++)
            if ((driver && majors[i] > driver) == newer)
                ok = take_as_linker(&nvrtc.file, names[i], "nvrtcVersion") ||
                     take_in_places(&nvrtc.file, names[i]);
    if (!ok)
        snprintf(nvrtc.failure, sizeof nvrtc.failure,
                 "NVRTC (libnvrtc.so.13 or .12) was not found: `pip install nvidia-cuda-nvrtc`, or "
                 "install the CUDA toolkit, or set SSD_NVRTC to the library");
}

static const LibFile *nvrtc_file(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_nvrtc);
    return &nvrtc.file;
}

const char *ssd_nvrtc_build(void) { return *nvrtc_file()->path ? nvrtc_file()->build : NULL; }

// NVRTC opens libnvrtc-builtins by its bare name, which the linker knows only for installed
// toolkits: opened here first, by its path, it is found by that name too.
static void open_builtins(const char *path) {
    char pattern[DYN_PATH + 32];
    const char *slash = strrchr(path, '/'), *major = strstr(path, "libnvrtc.so.");
    glob_t g = {0};
    if (!slash || !major) return;
    int dir = (int)(slash - path), digits = (int)strspn(major + 12, "0123456789");
    snprintf(pattern, sizeof pattern, "%.*s/libnvrtc-builtins.so.%.*s*", dir, path, digits,
             major + 12);
    if (!glob(pattern, 0, NULL, &g))
        for (size_t i = 0; i < g.gl_pathc; i++) dlopen(g.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
    globfree(&g);
}

static void open_nvrtc(void) {
    const LibFile *f = nvrtc_file();
    int (*version)(int *, int *) = NULL, major = 0, minor = 0;
    if (!*f->path) return;
    open_builtins(f->path);
    void *lib = dlopen(f->path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        const char *fault = dlerror();
        snprintf(nvrtc.failure, sizeof nvrtc.failure, "NVRTC cannot be loaded: %.400s",
                 fault ? fault : f->path);
        return;
    }
    *(void **)&version = dlsym(lib, "nvrtcVersion");
    if (!version || version(&major, &minor)) {
        snprintf(nvrtc.failure, sizeof nvrtc.failure,
                 "%.300s does not tell its version: it is damaged, or no NVRTC", f->path);
        return;
    }
    snprintf(nvrtc.version, sizeof nvrtc.version, "%d.%d %s", major, minor, f->build);
    nvrtc.found = (Nvrtc){lib, major, minor, f->path, nvrtc.version};
}

static void load_nvrtc(void) {
    nvrtc_file();
    PhaseMark begun = ssd_phase_begin();
    open_nvrtc();
    ssd_phase_end(PHASE_NVRTC, begun);
}

const Nvrtc *ssd_nvrtc(Text *why) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_nvrtc);
    if (nvrtc.found.lib) return &nvrtc.found;
    if (why) ssd_text_printf(why, "%s", nvrtc.failure);
    return NULL;
}
