// SPDX-License-Identifier: Apache-2.0
// T1 -> CUDA C++: what the emitter's files share.
//
//   cuda.c         programs, kernels, control flow, the artifact's code
//   cuda_name.c    C names for everything a kernel speaks of
//   cuda_ex.c      scalar expressions, tiles and tensors at a point
//   cuda_nest.c    loop nests of elementwise ops, spread over the threads of a block
//   cuda_ops.c     products, scans, concatenation, slices put into tiles, swaps, inverses
//   cuda_sync.c    which ops need a barrier before them
//   cuda_prelude.cuh   what the printed text calls
//   nvrtc.c        text to machine code
//
// A block of the grid is a block of threads. Tiles lie in dynamic shared memory as f32, whatever
// their dtype (which is a rounding point); rank-0 values are computed by every thread; values of a
// shared nest are variables of its body. The text walks the program in order, each op under its own
// line of T1.
#ifndef SSD_CUDA_EMIT_H
#define SSD_CUDA_EMIT_H

#include "../ir/machine.h"
#include "../ir/nest.h"
#include "../runtime/artifact.h"

typedef enum { KIND_FLOAT, KIND_INT, KIND_BOOL } Kind;
typedef enum { MMA_F32, MMA_TF32, MMA_BF16 } MmaKind;

typedef struct Cuda {
    const Prog *p;
    const Machine *m;
    Arena *a;
    Text *out;
    int indent;
    u8 *sources; // by value: what its elements come from, a set of SourceBits (cuda_ops.c)

    // the kernel at hand
    const TKernel *k;
    int threads;
    VEC(const char *) taken;   // C names
    const char **name;         // by value
    const char **tensor;       // by tensor
    const char **axis;         // by axis
    const char **sym;          // by symbol
    const char **base;         // by tile: the pointer it is counted from
    i64 *offset;               // and how far, in elements
    u32 *local;                // by value: the nest whose body has it as a variable
    u32 nest;                  // number of the nest at hand
    const char *quad;          // index of a point among four neighbours
    VEC(const TOp *) barriers; // ops with a barrier before them
} Cuda;

// --- Text ---------------------------------------------------------------------------------------
void ssd_cuda_line(Cuda *c, const char *fmt, ...) SSD_PRINTF(2, 3); // one indented line
void ssd_cuda_open(Cuda *c, const char *fmt, ...) SSD_PRINTF(2, 3); // a line, then deeper
void ssd_cuda_close(Cuda *c);                                       // shallower, then `}`
void ssd_cuda_comment(Cuda *c, const TOp *o);                       // the op as T1 has it

// --- cuda_name.c --------------------------------------------------------------------------------
void ssd_cuda_names(Cuda *c);                         // all names of the kernel at hand
const char *ssd_cuda_name(Cuda *c, const char *want); // one more
const char *ssd_cuda_type(u8 dtype);                  // of a tensor's elements

// --- cuda_ex.c ----------------------------------------------------------------------------------
const char *ssd_cuda_ex(Cuda *c, Ex e);     // C text, arena-owned
const char *ssd_cuda_factor(Cuda *c, Ex e); // the same, fit to be multiplied
const char *ssd_cuda_float(Cuda *c, Ex e);  // converted to float
Kind ssd_cuda_kind(const Cuda *c, Ex e);
Kind ssd_cuda_dtype_kind(u8 dtype);
const char *ssd_cuda_ctype(Kind k);
const char *ssd_cuda_round(Cuda *c, const char *v, u8 dtype);
// A tile's element where every axis is at the variable of its name; axis `from` at `instead` when
// given.
const char *ssd_cuda_at(Cuda *c, Val v, u8 from, const char *instead);
const char *ssd_cuda_pointer(Cuda *c, Val v); // to a tile's first element
const char *ssd_cuda_access(Cuda *c, const TOp *o,
                            const char *value); // a load's value; with `value`, a store
const char *ssd_cuda_access4(Cuda *c, const TOp *o,
                             const char *array); // the same for four neighbours
i64 ssd_cuda_size(const Cuda *c, u8 axis);

// --- cuda_nest.c
// --------------------------------------------------------------------------------------------- How
// a nest is spread: its axes outermost first, the reduced one apart.
typedef enum { SPREAD_POINTS, SPREAD_WARP_SUMS, SPREAD_THREAD_SUMS, SPREAD_BLOCK_SUM } Spread;
typedef struct CudaNest {
    Spread spread;
    int n;
    u8 ax[8], reduce;
    i64 points; // of ax
    u8 quad;    // the axis of which a thread takes four neighbours at a time, 0: none
} CudaNest;
void ssd_cuda_nest_plan(const Cuda *c, const TOp *first, const TOp *last, CudaNest *out);
void ssd_cuda_nest(Cuda *c, const TOp *first, const TOp *last);
// Opens a loop in which each thread (or warp) has its share of the points, axes as variables.
void ssd_cuda_open_points(Cuda *c, const u8 *ax, const i64 *size, int n, bool warps);

// --- cuda_ops.c, cuda_sync.c --------------------------------------------------------------------
void ssd_cuda_sources(Cuda *c); // of all values: which tensors' dtypes they stem from
void ssd_cuda_mma(Cuda *c, const TOp *o);
void ssd_cuda_scan(Cuda *c, const TOp *o);
void ssd_cuda_view(Cuda *c, const TOp *o);
void ssd_cuda_cat(Cuda *c, const TOp *o);
void ssd_cuda_join(Cuda *c, const TOp *o);
void ssd_cuda_put(Cuda *c, const TOp *o);
void ssd_cuda_swap(Cuda *c, const TOp *o);
void ssd_cuda_inv(Cuda *c, const TOp *o);
void ssd_cuda_pick(Cuda *c, const TOp *o);
void ssd_cuda_barriers(Cuda *c); // fills c->barriers for the kernel at hand

#endif
