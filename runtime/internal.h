// SPDX-License-Identifier: Apache-2.0
// What runtime/ files share and libssd may use; nothing here is installed.
#ifndef SSD_INTERNAL_H
#define SSD_INTERNAL_H

#include "artifact.h"
#include "cache.h"

#include <pthread.h>

// status.c: sets this thread's last error and returns s.
ssd_status ssd_fail(ssd_status s, const char *fmt, ...) SSD_PRINTF(2, 3);
void ssd_clear_error(void);

// The hook a compiler sets (libssd does in a constructor): fills *out with strings and code in `a`.
// `key` is the text the entry will be cached under; made by the second hook without compiling.
typedef ssd_status SsdCompileHook(Arena *a, const ssd_compile_options *o, Artifact *out);
typedef ssd_status SsdKeyHook(Arena *a, const ssd_compile_options *o, char **out_key,
                              size_t *out_len);
extern SsdCompileHook *ssd_compile_hook;
// Key of an option set. libssdrt has its own: schema, version, target with its exact features, and
// the options' text (spec source included), so a warm cache needs no YAML parser and no LLVM.
ssd_status ssd_compile_key(Arena *a, const ssd_compile_options *o, char **out_key, size_t *out_len);

// phase.c: where the time of a start goes, on the calling thread. A phase inside another counts for
// itself alone: what opening the driver takes is not the key's, though the key may be the first to
// ask for it.
typedef enum Phase {
    PHASE_DRIVER,  // of CUDA
    PHASE_CONTEXT, // on its device: what is waited for, beside a compiler little or nothing
    PHASE_KEY,
    PHASE_CACHE, // look-up and checks of an entry
    PHASE_SPEC,  // text to graph
    PHASE_PASSES,
    PHASE_CODE,  // LLVM, or NVRTC's compiling
    PHASE_NVRTC, // loading it
    PHASE_LOAD,  // code into memory or onto the device
    PHASES
} Phase;
typedef struct PhaseMark {
    double begun, others;
} PhaseMark;
typedef struct Phases {
    double seconds[PHASES];
} Phases;
PhaseMark ssd_phase_begin(void);
void ssd_phase_end(Phase p, PhaseMark m);
void ssd_phase_add(const Phases *more); // what a child process took
Phases ssd_phases(void);
const char *ssd_phase_name(Phase p);

// Can this process run code of a target? Else the last error says what is missing and what to do.
// SSD_NOT_FOUND (no such target, no driver, no device), SSD_UNSUPPORTED, SSD_DEVICE.
ssd_status ssd_target_check(const char *target);

// pool.c: a thread that takes no signals; false: the system gives none.
bool ssd_thread_start(pthread_t *out, void *(*fn)(void *), void *ctx);
// Threads that run blocks of a grid. Bits never depend on the number of threads: a block is
// one unit of work and no two write the same memory.
typedef struct Pool Pool;
Pool *ssd_pool_new(int threads); // NULL: no memory or threads
void ssd_pool_free(Pool *p);
int ssd_pool_threads(const Pool *p);
// Runs fn(ctx, block, worker) for block in 0..blocks on all threads (the caller is one of them),
// with FTZ and DAZ set around it and the caller's floating-point state restored.
void ssd_pool_run(Pool *p, i64 blocks, void (*fn)(void *ctx, i64 block, int worker), void *ctx);

// elf.c: loads an ELF relocatable object into executable memory; undefined symbols are rejected.
typedef struct Module Module;
Module *ssd_module_load(const void *code, size_t size, Text *why);
void *ssd_module_symbol(const Module *m, const char *name);
void ssd_module_free(Module *m);

// cpuid.c: what this host's CPU can do, from CPUID bits and what the OS saves (XCR0), never a name.
typedef struct CpuInfo {
    bool avx2, fma, f16c, bmi2; // x86-64-v3 (bmi2: with bmi1, lzcnt, movbe)
    bool avx512f, avx512bw, avx512vl, avx512dq, avx512cd; // x86-64-v4
    bool avx512_bf16, avx512_fp16, amx_tile, amx_bf16;
    i64 l1d, l2; // bytes, 0 unknown
    int cores;   // this process may use (affinity)
    char brand[64];
} CpuInfo;
const CpuInfo *ssd_cpu_info(void);
// The canonical name of a target on this host: "cpu" -> "cpu-x86-64-v4+bf16", "x86-64-v3" ->
// "cpu-x86-64-v3". NULL when unknown. *out_runs: whether this host can run it.
const char *ssd_cpu_target(const char *target, bool *out_runs);

// Bounds of an artifact; the parser holds them, so tables may be of fixed size.
enum { ART_MAX_SYMS = 16, ART_MAX_TENSORS = 256, ART_MAX_KERNELS = 64 };
#define ART_DENSE "dense" // what only a plan's formula knows besides symbols

// Versions in the key: of the file layout and of whatever makes code (a build may define the latter
// as a hash of the compiler's sources and LLVM's version).
#define SSD_CACHE_SCHEMA 1
#ifndef SSD_EMITTER_VERSION
#define SSD_EMITTER_VERSION "1"
#endif

// args.c: the arguments of one launch, checked against an artifact, and all that follows from them.
typedef struct Launch {
    const Artifact *art;
    const ArtPlan *plan;
    int n_tensors;         // parameters, then the plan's workspace
    i64 sym[ART_MAX_SYMS]; // values of art->syms
    i64 blocks[ART_MAX_KERNELS];
    size_t ws_bytes;
    void **ptr; // the tables of CpuArgs, on the heap; see there
    i64 *stride, *dim;
    size_t *ws_at; // where each workspace tensor starts
} Launch;
// Fills *out; on failure (SSD_INVALID_ARGUMENT, SSD_OUT_OF_MEMORY) the last error says why. Release
// it in either case.
ssd_status ssd_launch_check(const Artifact *art, const ssd_arg *args, int n_args, Launch *out);
void ssd_launch_bind(Launch *l, void *workspace); // sets the pointers of the workspace tensors
void ssd_launch_release(Launch *l);

// device_cpu.c: an artifact's code in memory, and a launch of it. Scratch memory belongs to the
// pool it is used with: one launch on a pool at a time.
typedef struct CpuProgram CpuProgram;
typedef struct CpuScratch {
    void **of;    // a worker's own piece
    size_t bytes; // of each
    int workers;
} CpuScratch;
CpuProgram *ssd_cpu_load(const Artifact *art, Text *why); // `art` must outlive it
ssd_status ssd_cpu_run(const CpuProgram *p, Pool *pool, CpuScratch *scratch, const Launch *l);
void ssd_cpu_free(CpuProgram *p);
void ssd_cpu_scratch_free(CpuScratch *s);

#endif
