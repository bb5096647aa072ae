// SPDX-License-Identifier: Apache-2.0
// A CUDA driver and its NVRTC whose device is this CPU: programs are rewritten (rewrite.c),
// compiled by the system's C++ compiler (EMU_CXX, else c++) against device.hpp, and what that
// makes, a shared library, is the "cubin". The rest of the driver is fake_cuda.c, which FAKE_CUDA
// in the environment describes.
#define FAKE_OWN_CODE
#include "../runtime/fake_cuda.c"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rewrite.h"

// --- Modules: shared libraries ------------------------------------------------------------------
typedef void Code(const void *args);
typedef void Launcher(Code *code, const void *args, unsigned grid, unsigned block, unsigned shared);

typedef struct Kernel {
    Function base; // what fake_cuda.c knows; its name is where launch() finds the rest
    Code *code;
    Launcher *launcher;
    struct Kernel *next;
} Kernel;

typedef struct Module {
    void *library;
    int file; // open as long as the library: dlopen knows it by this number
    Kernel *kernels;
} Module;

static void launch(const char *name, unsigned grid, unsigned block, unsigned shared,
                   const void *args) {
    const Kernel *k = (const Kernel *)name;
    _Alignas(64) char aligned[4096];
    memcpy(aligned, args, sizeof aligned);
    k->launcher(k->code, aligned, grid, block, shared);
}

EXPORT int cuModuleUnload(void *module) {
    CALL("cuModuleUnload\n");
    Module *m = module;
    for (Kernel *k = m->kernels, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    if (m->library) dlclose(m->library);
    if (m->file >= 0) close(m->file);
    free(m);
    return 0;
}

EXPORT int cuModuleLoadDataEx(void **module, const void *image, unsigned n, int *options,
                              void **values) {
    CALL("cuModuleLoadDataEx\n");
    (void)n, (void)options, (void)values;
    const Elf64_Ehdr *elf = image; // whose last part is the section headers
    size_t bytes = elf->e_shoff + (size_t)elf->e_shentsize * elf->e_shnum;
    char path[40];
    Module *m = calloc(1, sizeof *m);
    if (!m) return 2;
    m->file = memfd_create("kernels", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", m->file);
    if (m->file >= 0 && write(m->file, image, bytes) == (ssize_t)bytes)
        m->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!m->library) {
        fprintf(stderr, "emulator: %s\n", m->file < 0 ? "no memory file" : dlerror());
        cuModuleUnload(m);
        return 200;
    }
    on_launch = launch;
    *module = m;
    return 0;
}

EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
    CALL("cuModuleGetFunction %s\n", name);
    Module *m = module;
    Kernel *k = calloc(1, sizeof *k);
    if (!k) return 2;
    char size[64];
    snprintf(size, sizeof size, "emu_bytes_%s", name);
    *(void **)&k->code = dlsym(m->library, name);
    *(void **)&k->launcher = dlsym(m->library, "emu_launch");
    const unsigned *bytes = dlsym(m->library, size);
    if (!k->code || !k->launcher || !bytes) return free(k), 500;
    snprintf(k->base.name, sizeof k->base.name, "%s", name);
    k->base.bytes = (int)*bytes;
    k->base.threads = 1024;
    k->next = m->kernels;
    m->kernels = k;
    *function = k;
    return 0;
}

// --- NVRTC --------------------------------------------------------------------------------------
typedef struct Text {
    char *s;
    size_t n;
} Text;

// A compilation: its directory holds the files `cpp`, `so` and `log`.
typedef struct Program {
    char dir[200];
    Text code, log;
} Program;

static const char *file_of(const Program *p, const char *name) {
    static _Thread_local char path[220];
    snprintf(path, sizeof path, "%s/%s", p->dir, name);
    return path;
}

static Text read_file(const char *path) {
    Text t = {0};
    FILE *f = fopen(path, "rb"), *to = open_memstream(&t.s, &t.n);
    for (int c; f && to && (c = getc(f)) != EOF;) putc(c, to);
    if (f) fclose(f);
    if (to) fclose(to);
    return t;
}

EXPORT int nvrtcCreateProgram(void **program, const char *source, const char *name, int n,
                              const char *const *headers, const char *const *names) {
    CALL("nvrtcCreateProgram %s\n", name);
    (void)n, (void)headers, (void)names;
    const char *tmp = getenv("TMPDIR");
    Program *p = calloc(1, sizeof *p);
    if (!p) return 1;
    snprintf(p->dir, sizeof p->dir, "%s/emulator-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(p->dir)) return free(p), 1;
    FILE *cpp = fopen(file_of(p, "cpp"), "w"), *log = fopen(file_of(p, "log"), "w");
    bool ok = cpp && log && emu_rewrite(source, cpp, log);
    if (cpp) fclose(cpp);
    if (log) fclose(log);
    if (!ok) unlink(file_of(p, "cpp"));
    *program = p;
    return 0;
}

EXPORT int nvrtcCompileProgram(void *program, int n, const char *const *options) {
    CALL("nvrtcCompileProgram %s\n", n ? options[0] : "");
    Program *p = program;
    const char *cxx = getenv("EMU_CXX");
    char command[1000];
    snprintf(command, sizeof command,
             "cd '%s' && test -f cpp && %s -std=c++17 -O1 -w -U_FORTIFY_SOURCE "
             "-fno-strict-aliasing -fPIC -shared "
             "-fvisibility=hidden "
             "-I'%s' -x c++ cpp -o so >>log 2>&1",
             p->dir, cxx && *cxx ? cxx : "c++", EMULATOR_DIR);
    int status = system(command);
    p->log = read_file(file_of(p, "log"));
    if (status) return 6;
    p->code = read_file(file_of(p, "so"));
    return 0;
}

EXPORT int nvrtcDestroyProgram(void **program) {
    Program *p = *program;
    static const char *const files[] = {"cpp", "so", "log"};
    for (int i = 0; i < 3; i++) unlink(file_of(p, files[i]));
    rmdir(p->dir);
    free(p->code.s);
    free(p->log.s);
    free(p);
    *program = NULL;
    return 0;
}

EXPORT int nvrtcGetCUBINSize(void *program, size_t *size) {
    *size = ((Program *)program)->code.n;
    return 0;
}

EXPORT int nvrtcGetCUBIN(void *program, char *cubin) {
    const Text *code = &((Program *)program)->code;
    memcpy(cubin, code->s, code->n);
    return 0;
}

EXPORT int nvrtcGetProgramLogSize(void *program, size_t *size) {
    *size = ((Program *)program)->log.n + 1;
    return 0;
}

EXPORT int nvrtcGetProgramLog(void *program, char *text) {
    const Text *log = &((Program *)program)->log;
    if (log->s) memcpy(text, log->s, log->n);
    text[log->n] = 0;
    return 0;
}
