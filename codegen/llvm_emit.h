// SPDX-License-Identifier: Apache-2.0
// T1 -> LLVM IR: what the emitter's files share.
//
//   llvm.c         modules, kernels, control flow, object files
//   llvm_util.c    constants, addresses, vectors, dtype conversions
//   llvm_nest.c    loop nests of elementwise ops, scalar expressions
//   llvm_access.c  tensors: addresses, bounds, `when`
//   llvm_mma.c     register-blocked products
//   llvm_ops.c     scan, cat, put, swap, inv
//   llvm_transpose.c  loads, stores and copies across memory order
//   llvm_math.c    scalar functions
//
// Tiles lie in scratch as f32 whatever their dtype (which is a rounding point), dense boxes whose
// last axis is padded to whole vectors: a vector access may touch the padding, whose contents mean
// nothing. Code is straight SSA: no allocas, no calls, addresses hoisted to the loop level they
// depend on, because no optimizer runs after us.
#ifndef SSD_LLVM_EMIT_H
#define SSD_LLVM_EMIT_H

#include "../ir/machine.h"
#include "../runtime/artifact.h"
#include "../ir/nest.h"
#include "llvm_math.h"

#include <llvm-c/Core.h>

typedef LLVMValueRef V;

enum { MAX_SLOTS = 18, ALIGN_F32 = 4, MAX_PREFETCH = 8 };

typedef struct Memo {
    V v;
    u32 stamp;
} Memo;
typedef struct ExFacts { // of an expression in the nest at hand
    u32 nest;
    u8 level;   // slot of the innermost loop it varies with, 0: none
    bool lanes; // it varies along the lane axis
} ExFacts;

typedef struct Emit {
    const Prog *p;
    const Machine *m;
    Arena *a;
    LLVMContextRef cx;
    LLVMModuleRef mod;
    LLVMBuilderRef b;
    LlvmMath math;
    int lanes; // f32 of a full vector
    LLVMTypeRef i1, i8, i16, i32, i64, f16, f32, ptr;

    // the kernel at hand
    const TKernel *k;
    V fn, tensors, strides, dims, sym[8], scratch, sink, zeros;
    i64 scratch_bytes;
    V *val;   // by value: a scalar's SSA value; a tile's or buffer's first element
    int *arg; // by tensor: place in the argument tables
    const TOp *prefetch[MAX_PREFETCH]; // waiting for a product to be fetched beside
    int nprefetch;
    // memory of llvm_nest.c
    u32 stamp;
    Memo *ex_memo;
    ExFacts *ex_facts;
    Memo (*val_addr)[MAX_SLOTS];
    Memo *val_reg;
} Emit;

// --- llvm_util.c --------------------------------------------------------------------------------
void ssd_emit_types(Emit *e);
V ssd_emit_i64(const Emit *e, i64 v);
V ssd_emit_f32(const Emit *e, double v);
bool ssd_emit_is_int(V v, i64 *out); // a constant?
V ssd_emit_add(Emit *e, V a, V b);   // i64, folding zeros and ones
V ssd_emit_mul(Emit *e, V a, V b);
V ssd_emit_and(Emit *e, V a, V b);      // i1, NULL = true
V ssd_emit_at(Emit *e, V ptr, V bytes); // ptr + bytes
V ssd_emit_at_const(Emit *e, V ptr, i64 bytes);
LLVMTypeRef ssd_emit_vec(const Emit *e, LLVMTypeRef t, int lanes); // t itself for one lane
V ssd_emit_load(Emit *e, LLVMTypeRef t, V ptr, unsigned align);
void ssd_emit_store(Emit *e, V v, V ptr, unsigned align);
V ssd_emit_splat(Emit *e, V v, int lanes);
V ssd_emit_iota(const Emit *e, LLVMTypeRef t, i64 scale, int lanes); // 0, scale, 2*scale, ..
V ssd_emit_lane_mask(const Emit *e, int live, int lanes); // constant: the first `live` lanes
V ssd_emit_masked_load(Emit *e, LLVMTypeRef t, V ptr, int live, int lanes, unsigned align);
void ssd_emit_masked_store(Emit *e, V v, V ptr, int live, unsigned align);
void ssd_emit_prefetch(Emit *e, V ptr, bool write);
V ssd_emit_fma(Emit *e, V a, V b, V c);
V ssd_emit_fn(Emit *e, FnCode f, V x, V y, V z);
V ssd_emit_hreduce(Emit *e, V v, bool max);
LLVMBasicBlockRef ssd_emit_block(Emit *e, const char *name); // new, after the current one
void ssd_emit_seek(Emit *e, LLVMBasicBlockRef bb); // end of a block, before its terminator
V ssd_emit_phi(Emit *e, V from, LLVMBasicBlockRef pred);
void ssd_emit_phi_add(V phi, V from, LLVMBasicBlockRef pred);

// Elements of a storage dtype to f32 and back; lanes 1: scalars.
LLVMTypeRef ssd_emit_storage(const Emit *e, u8 dtype);
V ssd_emit_decode(Emit *e, V v, u8 dtype);
V ssd_emit_encode(Emit *e, V v, u8 dtype);
V ssd_emit_round(Emit *e, V v, u8 dtype); // to a dtype's precision, staying f32

// A counted loop for i in 0..n (n >= 1, constant) by step: open, emit the body, close.
typedef struct Count {
    LLVMBasicBlockRef pre, head;
    V iv;
    i64 n, step;
} Count;
V ssd_emit_open(Emit *e, Count *c, i64 n, i64 step);
void ssd_emit_close(Emit *e, Count *c);

// --- llvm_access.c ------------------------------------------------------------------------------
struct NestRun;
typedef struct Cond { // base + sum coef[i]*index(axis i) in 0..limit (bounded), or < 0
    V base, limit;
    i64 coef[8];
    bool lanes; // varies along the lane axis
} Cond;
typedef struct Access {
    const TOp *op;
    u8 dtype;
    V base;       // address of the element at index 0 of every axis
    V step[8];    // bytes, by axis of the plan
    bool general; // some index is not affine: addresses come from the indices at each point
    int ncond;
    Cond cond[20];
    Ex when[8]; // conditions that are no inequalities of indices
    int nwhen;
    Memo addr[MAX_SLOTS], row, ok;
} Access;

void ssd_access_init(struct NestRun *r, Access *a, const TOp *op);
V ssd_access_fast(struct NestRun *r,
                  const Access *a); // i1: whole vectors may be read and written; NULL: never
V ssd_access_in_place(struct NestRun *r,
                      const Access *a); // i1: the tile lies in the tensor as it would in its buffer
V ssd_access_load(struct NestRun *r, Access *a);
void ssd_access_store(struct NestRun *r, Access *a, V value);
V ssd_access_element(struct NestRun *r, Ex load); // EX_LOAD

// --- llvm_nest.c --------------------------------------------------------------------------------
typedef struct Slot { // a loop level: slot 2i+1 is the loop over axis i of the plan, 2i+2 what is
                      // unrolled in it
    V index;          // what it adds to the axis' index
    u32 stamp;        // of this iteration
    LLVMBasicBlockRef
        up; // where values that vary with it but not further in can be put, NULL: here
} Slot;
enum { MAX_ACC = 32, MAX_ACCESS = 16 };
typedef struct NestRun {
    Emit *e;
    Nest plan;
    TOp *first, *last;
    u32 id;
    int lanes;                        // of vectors: e->lanes, 1 when nothing is vectorised
    int width[8];                     // by axis: indices a step covers
    int live[8];                      // of them those that exist at this point
    void (*visit)(struct NestRun *r); // what happens at a point
    bool strided;                     // tensors are accessed lane by lane
    i64 unroll[8];                    // by axis: steps unrolled; all of them: no loop
    Slot slot[MAX_SLOTS];
    int acc_from; // axis at which accumulators start, -1: none
    V acc[MAX_ACC];
    int nacc, lane_copies, lane_copy;
    Access access[MAX_ACCESS];
    int naccess, next_access;
} NestRun;

void ssd_nest_emit(Emit *e, TOp *first, TOp *last);
void ssd_nest_set_up(NestRun *r, Emit *e, TOp *first, TOp *last,
                     bool vectors); // loop order, tensors
void ssd_nest_walk(NestRun *r);     // visits every point
void ssd_nest_set(NestRun *r, int slot, V index);
V ssd_nest_tile(NestRun *r, Val v);        // address of a tile's element at this point
int ssd_nest_live(const NestRun *r);       // lanes of this point that exist
void ssd_nest_begin(NestRun *r, Emit *e);  // a run without loops, for scalars
V ssd_nest_ex(NestRun *r, Ex e);           // value at this point: a vector if it varies along lanes
V ssd_nest_scalar_index(NestRun *r, Ex e); // an index at the first lane of this point
V ssd_nest_index(NestRun *r, int axis);    // index along axis i of the plan (its first lane)
int ssd_nest_level(const NestRun *r, int axis); // the slot after which the index is known
LLVMBasicBlockRef ssd_nest_enter(NestRun *r,
                                 int level); // emit at that level; returns where to go back to
V ssd_nest_vector(NestRun *r, V v);          // a splat when it is a scalar
V ssd_emit_scalar(Emit *e, Ex ex);           // a rank-0 expression outside nests

// --- llvm_transpose.c: moves between memory and tiles whose contiguous axes differ --------------
bool ssd_transpose_plan(NestRun *out, const NestRun *r); // false: it is no such move
void ssd_transpose_emit(const NestRun *r);

// --- llvm_mma.c, llvm_ops.c ---------------------------------------------------------------------
void ssd_emit_mma(Emit *e, const TOp *first,
                  const TOp *o); // first: a map for its accumulator, or o
void ssd_emit_scan(Emit *e, const TOp *o);
void ssd_emit_view(Emit *e, const TOp *o);
void ssd_emit_cat(Emit *e, const TOp *o);
void ssd_emit_put(Emit *e, const TOp *o);
void ssd_emit_swap(Emit *e, const TOp *o);
void ssd_emit_inv(Emit *e, const TOp *o);
void ssd_emit_join(Emit *e, const TOp *o);
i64 ssd_emit_size(const Emit *e, u8 axis);
const Lay *ssd_emit_lay(const Emit *e, Val v);

#endif
