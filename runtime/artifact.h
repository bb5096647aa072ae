// SPDX-License-Identifier: Apache-2.0
// A compiled program as it lies in the cache: text that says how to launch it, and code.
//
// The text is lines of words (so that a newcomer can read it with `head`), the same for every
// target:
//     ssdc-artifact 1
//     program mamba2 forward cpu-x86-64-v4
//     schedule form=chunked q=64 hoist=1
//     sym b x 0                       # symbol b is dimension 0 of x; checked against all others
//     param x in bf16 b t 24 64       # role in|out; dims are formulas over symbols
//     param hT out f32 b 24 64 128 alias h0
//     plan always                     # or: plan when t>=64 && b*24>=2; the first that holds
//     ws S f32 b 1 cdiv(t,64) 64 64   # workspace of this plan, each 64-aligned, in order
//     kernel group b*cdiv(t,64) 32768 # name in the code, blocks of the grid, a thread's scratch
//     kernel scan b*24 81920
// A kernel of a CUDA target has more to say, and must say it:
//     kernel scan b*24 81920 256      # a block's dynamic shared memory in bytes, and its threads
//     takes 0 3 5                     # tensors in its argument: parameter i, then workspace
//     map 1 swizzle 128 box 64 1 64 1 # a tensor map of takes[1], innermost first; 0 or more
//     map 2 swizzle 128 box 64 0 64 1 # dimension 1 lies along the rows, one behind the other
// `early` ends the line of a kernel that waits by itself for those in front of it in its stream.
// The code of a CUDA target may be several cubins (modules), compiled side by side: one behind the
// other, each from a multiple of 64 bytes on. Their sizes stand before the plans, and every kernel
// says which one has it:
//     modules 31744 50232
//     kernel scan b*24 81920 256 in 1
// Formulas know + - * / (floor) cdiv(,) min(,) max(,) comparisons && || parentheses, symbols,
// numbers; arithmetic is checked: an overflow of int64 is an error, never a wrap. A plan's formula
// also knows `dense`, which is 1 when every parameter's elements follow each other in the order of
// its dims without gaps, from a multiple of 16 bytes on.
#ifndef SSD_ARTIFACT_H
#define SSD_ARTIFACT_H

#include "base.h"
#include "ssd.h"

typedef struct ArtTensor {
    const char *name;
    ssd_role role;
    ssd_dtype dtype;
    int rank;
    const char *dim[SSD_MAX_RANK]; // formulas
    const char *alias;             // parameter it may share memory with, or NULL
} ArtTensor;
// How a kernel's TMA sees one of its tensors: a box of elements at a time.
enum { ART_MAP_RANK = 5, ART_BOX_MOST = 256 };
typedef struct ArtMap {
    int take;    // of the kernel's takes
    int swizzle; // bytes: 0 or 128
    int rank;    // the tensor's, 1..5
    // Elements, 1..256, innermost dimension first. 0, behind the first or another 0: the dimension
    // lies along the innermost one, without gaps.
    int box[ART_MAP_RANK];
} ArtMap;
typedef struct ArtKernel {
    const char *symbol;
    const char *blocks; // formula
    int module;         // CUDA: the module that has it
    bool early;         // CUDA: waits by itself for those in front of it in its stream
    i64 scratch;        // bytes a worker needs, 64-aligned; CUDA: dynamic shared memory of a block
    int threads;        // CUDA: threads of a block, a multiple of 32; 0 on a CPU
    int n_takes;        // CUDA: tensors in its argument
    const int *takes; // their indices: parameter i, then n_params + workspace tensor i of the plan
    int n_maps;       // CUDA: tensor maps in its argument
    const ArtMap *maps;
} ArtKernel;
typedef struct ArtPlan {
    const char *when; // formula, "1" = always
    int n_ws, n_kernels;
    ArtTensor *ws;
    ArtKernel *kernels;
} ArtPlan;
typedef struct ArtSym {
    const char *name, *param; // symbol = dimension `dim` of `param` (minus `minus`: s is the length
                              // of cu_seqlens less 1)
    int dim, minus;
} ArtSym;
typedef struct Artifact {
    const char *program, *mode, *target, *schedule;
    int n_syms, n_params, n_plans;
    ArtSym *syms;
    ArtTensor *params;
    ArtPlan *plans;
    int n_modules;           // CUDA: cubins in the code; 0: the code is one
    const i64 *module_bytes; // of each
    const void *code;        // ELF relocatable object (CPU) or cubins (CUDA)
    size_t code_size;
} Artifact;
enum { ART_MODULE_MOST = 1 << 28 }; // bytes
// Where a module begins when the one in front of it ends at `end`.
static inline i64 ssd_artifact_module_at(i64 end) { return (end + 63) / 64 * 64; }

// Text of everything but the code, and back. Parse checks every line, formula and count; false with
// a message in *why. All strings live in `a`.
void ssd_artifact_print(const Artifact *art, Text *out);
bool ssd_artifact_parse(Arena *a, const char *text, size_t n, Artifact *out, Text *why);

// formula.c: value of a formula under symbols; false with a message on overflow, division by zero,
// syntax or unknown symbol. With values NULL only syntax and symbols are checked.
bool ssd_formula_eval(const char *formula, const char *const *syms, const i64 *values, int n,
                      i64 *out, Text *why);

// --- How CPU code is called (the ABI between codegen/llvm.c and device_cpu.c) -------------------
// One function a kernel: runs one block of the grid. Reads its tensors through these tables: entry
// i is parameter i, then the workspace tensors of the plan. Strides and dims are in elements,
// SSD_MAX_RANK a tensor. The worker has FTZ and DAZ set. scratch is 64-aligned and not initialised.
typedef struct CpuArgs {
    void *const *ptr;
    const i64 *stride; // [tensor * SSD_MAX_RANK + d]
    const i64 *dim;    // [tensor * SSD_MAX_RANK + d]
    const i64 *sym;
} CpuArgs;
typedef void CpuKernel(const CpuArgs *args, i64 block, void *scratch);

// --- How CUDA code is called (the ABI between codegen/cuda.c and device_cuda.c) -----------------
// extern "C" __global__ void NAME(const __grid_constant__ struct {...} args), one argument by
// value, at most 4096 bytes, of 8-byte words in this order (n tensors that the kernel `takes`, of
// ranks r0, r1, ..):
//     void *ptr[n];                              // of each tensor
//     long long sym[n_syms];                     // every symbol of the artifact
//     long long stride0[r0], dim0[r0];           // of the first tensor, in elements
//     long long stride1[r1], dim1[r1]; ...       // a tensor of rank 0 has none
// A kernel with m > 0 maps has before these words
//     TensorMap map[m];              // struct __align__(64) of 128 bytes: a CUtensorMap
//     unsigned long long maps_made;  // bit i: map i describes its tensor
// and the size of its struct is a multiple of 64. A tensor that TMA cannot read (its base or a
// stride not a multiple of 16 bytes, innermost elements apart, a stride of 0 or below, no elements,
// gaps where the map has none) has its bit 0 and a map of zeros: the kernel then takes another
// path. Elements outside of the tensor read as 0. Block i of the grid is blockIdx.x (grids are
// one-dimensional, below 2^31); blockDim.x is `threads`. Dynamic shared memory is `scratch` bytes,
// not initialised. Kernels of a plan run in order on one stream; one whose grid is 0 is left out.
enum { CUDA_ARGS_MOST = 4096, CUDA_MAP_BYTES = 128, CUDA_MAP_ALIGN = 64 };
// Bytes of that struct; the emitter and the launcher both ask here.
static inline int ssd_artifact_arg_bytes(const int *rank, int n, int n_syms, int n_maps) {
    int words = n + n_syms;
    for (int i = 0; i < n; i++) words += 2 * rank[i];
    if (!n_maps) return 8 * words;
    int bytes = CUDA_MAP_BYTES * n_maps + 8 + 8 * words;
    return (bytes + CUDA_MAP_ALIGN - 1) / CUDA_MAP_ALIGN * CUDA_MAP_ALIGN;
}
// Is this the canonical name of a CUDA target ("cuda-sm_90a")?
static inline bool ssd_target_is_cuda(const char *target) {
    return target && strncmp(target, "cuda-", 5) == 0;
}

#endif
