// SPDX-License-Identifier: Apache-2.0
// Tile IR: kernels over tiles with named axes. A program is parameters, workspace, kernels in
// order.
//
// Strata of one IR: T0 pure (the meaning), T1 placed (every value has a space and a layout, copies
// are explicit), T2 timed (roles, channels; comes with the GPU). The verifier knows which one a
// text claims.
//
//     program mamba2 stratum 0
//     sym b t
//     axes i=64 j=64 p=64 n=128
//     in  x bf16[b t 24 64]
//     out y bf16[b t 24 64]
//     ws  Sg f32[b 24 cdiv(t, 64) 64 64]
//     kernel scan grid b=#b h=24
//       s0 = fill 0[p n] : f32[p n]
//       for c in 0..cdiv(#t, 64) carry s=s0
//         k = load B[b, c*64+j, h//24, n] : f32[j n]
//         ...
//         yield s1
//       store hT[b, h, p, n] = s
//
// Grid and loop variables are rank-0 index values. In `load`/`store` every index is an affine
// expression of grid and loop variables, tile axes and symbols. A carry's name means the current
// value inside its loop and the last one after it. Every other value is assigned once; names are
// unique in a kernel.
#ifndef SSD_TILE_H
#define SSD_TILE_H

#include "graph.h"

typedef u32 Val; // index into TKernel-wide Prog.vals, 0 none
typedef u32 Ex;  // index into Prog.exs, 0 none

typedef enum {
#define TOP(id, text, stratum, doc) TOP_##id,
#include "tile_ops.def"
    TOP__COUNT
} TOpCode;

// --- Scalar expressions: one tree form for map bodies, indices, bounds, conditions --------------
typedef enum {
    EX_NUM,  // num (float or index, see dtype)
    EX_VAL,  // a value: a tile element (axes broadcast by name) or a rank-0 value, grid or loop
             // variable
    EX_AXIS, // the index along a tile axis (SSD_IDX)
    EX_SYM,  // #b #t #s: a run-time symbol (SSD_IDX)
    EX_LOAD, // X[idx..]: rank-0 read of a tensor inside an expression; out of range reads 0
    EX_FN    // scalar function
} ExKind;
typedef struct Expr {
    u8 kind, fn, dtype, nidx; // dtype: SSD_F32 | SSD_BOOL | SSD_IDX
    u16 axis, tensor;         // EX_AXIS; EX_LOAD
    u32 sym;                  // EX_SYM
    Val val;                  // EX_VAL
    Ex arg[3];                // EX_FN
    Ex *idx;                  // EX_LOAD
    double num;               // EX_NUM
} Expr;

// --- Layout (T1). On CPUs a tile is a dense box in a scratch buffer. ----------------------------
// T2 (timed.h): SP_SW128, SP_LOOSE and SP_ROW are tiles of a ring's slot, SP_ACC, SP_FRAG, SP_LANE
// and SP_COLS registers of a role's threads.
typedef enum {
    SP_NONE,
    SP_SCALAR,
    SP_MEM,
    SP_SHARED,
    SP_REG,
    SP_SW128,
    SP_LOOSE,
    SP_ROW,
    SP_ACC,
    SP_FRAG,
    SP_LANE,
    SP_COLS
} Space;
typedef struct Lay {
    u8 space;
    u8 naxes;
    u8 ax[6];      // storage order, outermost first; the last is the lane axis (stride 1)
    i64 stride[6]; // elements, by position in ax
    Val buf;       // the `buf` it lies in (0: none)
    i64 offset;    // elements from the buffer's start (views by a constant `at`; dynamic ones are
                   // known to the op)
} Lay;

typedef struct TVal {
    const char *name;
    u8 dtype; // SSD_F32, SSD_BF16, .. rounding point when narrower than f32; SSD_IDX, SSD_BOOL for
              // rank 0
    u8 naxes;
    u8 ax[6];
    bool carry; // defined by a loop's carry list
    Lay lay;    // T1
} TVal;

typedef enum {
    TF_REV = 1,
    TF_EXCL = 2,
    TF_MAX = 4,
    TF_HALVES = 8,
    TF_INPLACE = 16,
    TF_ASYNC = 32, // T2: an mma whose result is there after its `wait`
    TF_LOOSE = 64  // T2: a fetch of rows beside whose ends anything may lie
} TFlags;

typedef struct TBlock {
    struct TOp *first, *last;
} TBlock;
typedef struct TOp {
    struct TOp *next;
    u8 op, flags;
    u8 ax[4]; // axes the op names, in text order: reduce x; scan x; at x; put x y; split x u y;
              // join u y x; rename x y x2 y2; cat x r z; slice x y; swap x; inv i j; pick x
    u8 nkeep, keep[3]; // mma
    Val out;           // 0 for store, for, if, yield
    Val a, b, c;       // operands, in text order (mma a b + c; put v w)
    Ex e, e2;          // map, reduce, store value, fill value, if condition, at/put index (e, e2)
    u16 tensor;        // load, store, prefetch
    u8 nidx;
    Ex idx[8];
    Ex when; // load, store; 0 = always
    // for, each: var in lo..hi; carry[i] starts as init[i]; yield's values are carry_next of the
    // loop's last op
    Val var;
    Ex lo, hi;
    u8 ncarry;
    Val *carry;
    Ex *init; // for: initial values; yield: next values. Tiles are a plain EX_VAL
    TBlock body;
    // block (ir/pass_block.c): mma whose operand a is known to be zero unless tri_row >= tri_col; 0
    // = none
    u8 tri_row, tri_col;
    i64 bytes;         // buf
    int depth, copies; // T2: ring; role (copies; 1 where it has no more), regs (depth: how many)
    int warps, regs, pending; // T2: role; wait
    int line;                 // in the text it was parsed from, 0 = built
} TOp;

typedef enum { T_IN, T_OUT, T_WS } TRole;
typedef struct TTensor {
    const char *name;
    u8 role, dtype, rank;
    Ex dim[8];         // over symbols and numbers
    const char *alias; // out: the input it may share memory with (a state), or NULL
} TTensor;
typedef struct TAxis {
    const char *name;
    i64 size;
} TAxis;
typedef struct TGrid {
    Val var;
    Ex size;
} TGrid;
typedef struct TKernel {
    const char *name;
    u8 ngrid;
    TGrid grid[4];
    TBlock body;
} TKernel;
typedef struct Prog {
    Arena *arena;
    const char *name;
    int stratum;
    const char *schedule;   // text of the schedule it was lowered under
    VEC(const char *) syms; // run-time symbols without '#': "b" "t" "s"
    VEC(TAxis) axes;        // [0] unused
    VEC(TVal) vals;         // [0] unused
    VEC(Expr) exs;          // [0] unused
    VEC(TTensor) tensors;   // [0] unused
    VEC(TKernel) kernels;
    u32 *cons; // expressions are hash-consed: equal ones have the same Ex (tile.c); never edit one
               // in place
    u32 cons_cap; // a power of two
    u8 matmul; // numerics.matmul: 0 native, 1 tf32, 2 tf32x3, 3 f32; not part of the text, where it
               // is native
} Prog;

Prog *ssd_prog_new(Arena *a, const char *name);
u8 ssd_prog_axis(Prog *p, const char *name, i64 size); // finds (same size, else SSD_BUG) or adds
u8 ssd_prog_find_axis(const Prog *p, const char *name);
u32 ssd_prog_sym(Prog *p, const char *name);
u16 ssd_prog_tensor(Prog *p, TRole role, const char *name, ssd_dtype dt, int rank, const Ex *dim);
u16 ssd_prog_find_tensor(const Prog *p, const char *name);
// A value's name is a wish: the printer numbers it when the kernel, an axis or a keyword has it
// already.
Val ssd_prog_val(Prog *p, const char *name, ssd_dtype dt, const u8 *ax, int naxes);
// Appends a kernel. The pointer holds until the next one is added: finish a body first.
TKernel *ssd_prog_kernel(Prog *p, const char *name);
Val ssd_prog_grid(Prog *p, TKernel *k, const char *name, Ex size); // adds a grid variable

// Expressions. Builders fold numbers (0*x on indices, x+0, constants), so prints stay readable.
Ex ssd_ex_num(Prog *p, double v);
Ex ssd_ex_int(Prog *p, i64 v);
Ex ssd_ex_val(Prog *p, Val v);
Ex ssd_ex_axis(Prog *p, u8 axis);
Ex ssd_ex_sym(Prog *p, const char *sym);
Ex ssd_ex_load(Prog *p, u16 tensor, const Ex *idx, int nidx);
Ex ssd_ex_fn(Prog *p, FnCode f, Ex a, Ex b, Ex c);
// n where e is `v//n`, as a head finds its group; 0: it is not.
i64 ssd_ex_divisor(const Prog *p, Ex e, Val v);
bool ssd_ex_names(const Prog *p, Ex e, u8 axis); // is the axis an index in it? (0: nothing)
// The axes of an expression: those of its tiles and axis indices, in order of first appearance.
int ssd_ex_axes(const Prog *p, Ex e, u8 out[8]);
// Rebuilds an expression bottom-up through the folding builders: f sees each node with its operands
// rebuilt and returns its replacement (or the node itself).
typedef Ex ExRewrite(void *ctx, Prog *p, Ex e);
Ex ssd_ex_rewrite(Prog *p, Ex e, ExRewrite *f, void *ctx);

// Ops are appended to a block. Builders infer the axes of the result (union in order of appearance,
// less what the op removes) and take its dtype; `name` NULL makes one up.
typedef struct TB { // a builder: where to append
    Prog *p;
    TBlock *at;
} TB;
TOp *ssd_tile_op(TB *b, TOpCode op);                // a bare op, appended
void ssd_block_join(TBlock *to, const TBlock *ops); // its ops become the last of `to`
void ssd_block_append(TBlock *to, TOp *o);          // one op; what followed it does not follow
Val ssd_tile_load(TB *b, const char *name, ssd_dtype dt, u16 tensor, const Ex *idx, int nidx,
                  Ex when);
void ssd_tile_store(TB *b, u16 tensor, const Ex *idx, int nidx, Ex value, Ex when);
Val ssd_tile_map(TB *b, const char *name, ssd_dtype dt, Ex e);
Val ssd_tile_mma(TB *b, const char *name, ssd_dtype dt, Val x, Val y, Val acc, const u8 *keep,
                 int nkeep);
Val ssd_tile_reduce(TB *b, const char *name, bool max, u8 axis, Ex e);
Val ssd_tile_scan(TB *b, const char *name, u8 axis, Val v, u8 flags);
Val ssd_tile_at(TB *b, const char *name, Val v, u8 axis, Ex index);
Val ssd_tile_put(TB *b, const char *name, Val v, u8 ax1, Ex i1, u8 ax2, Ex i2, Val w);
Val ssd_tile_split(TB *b, const char *name, Val v, u8 x, u8 u, u8 y);
Val ssd_tile_join(TB *b, const char *name, Val v, u8 u, u8 y, u8 x);
Val ssd_tile_rename(TB *b, const char *name, Val v, u8 from, u8 to);
Val ssd_tile_cat(TB *b, const char *name, Val x, Val y, u8 axis, u8 to);
Val ssd_tile_slice(TB *b, const char *name, Val v, u8 axis, u8 to, i64 from);
Val ssd_tile_swap(TB *b, const char *name, Val v, u8 axis, bool halves);
Val ssd_tile_fill(TB *b, const char *name, ssd_dtype dt, Ex e, const u8 *ax, int naxes);
Val ssd_tile_inv(TB *b, const char *name, Val v, u8 i, u8 j);
Val ssd_tile_pick(TB *b, const char *name, Val v, u8 axis, Ex index);
Val ssd_tile_copy(TB *b, const char *name, Val v);
TOp *ssd_tile_for(TB *b, const char *var, Ex lo, Ex hi,
                  bool rev);                                     // then fill op->body through a TB
Val ssd_tile_carry(TB *b, TOp *loop, const char *name, Ex init); // adds a carry; type of init
void ssd_tile_yield(TB *b, const Ex *next, int n);
TOp *ssd_tile_if(TB *b, Ex cond);
// Drops pure ops whose value nothing uses; true if there were any (tile_dce.c).
bool ssd_tile_dce(Prog *p);
// T1: an at, rename, split or join whose result is its operand's storage seen otherwise: no code.
bool ssd_tile_is_view(const Prog *p, const TOp *op);

// Text (tile_print.c, tile_parse.c): parse(print(p)) prints the same.
void ssd_tile_print(const Prog *p, Text *out);
void ssd_ex_print(const Prog *p, Ex e, Text *out);
void ssd_tile_op_print(const Prog *p, const TOp *op,
                       Text *out);                   // one op, without its body, no newline
const char *ssd_tile_val_name(const Prog *p, Val v); // as the text calls it
Prog *ssd_tile_parse(Arena *a, const char *text, size_t n, const char *file, Diag *d);
Prog *ssd_tile_read(Arena *a, const char *text, size_t n, const char *file,
                    Diag *d); // not verified
// What every pass and emitter may assume; false with a message in *why. check also says where.
bool ssd_tile_verify(const Prog *p, Text *why);
bool ssd_tile_check(const Prog *p, Text *why, const TOp **out_at);

// The interpreter: runs T0 and T1 in double. Values and scratch are NaN until written, accesses are
// bounds-checked, T1 values are read from and written to their buffers at their layouts, so a
// clobbered value shows. round: results are rounded to their dtype at every value, as the machine
// would. tensors: in the order of p->tensors (index 1..), ws entries ignored (allocated here,
// poisoned). A kernel of roles (T2) runs as a race detector: roles take turns, and copies and
// products land, in an order drawn from the seed; every pair of accesses to a slot that nothing
// orders is an error, harm or no harm, and so are a deadlock and a register read too early or too
// late.
typedef struct TileRun {
    bool round;
    bool lax; // T2: run even what the verifier refuses for its timing (types and layouts must do)
    u64 seed;
    i64 sym[8];    // values of p->syms
    Array *tensor; // [p->tensors.n]
} TileRun;
bool ssd_tile_interp(const Prog *p, Arena *arena, TileRun *run, Text *why);
// An index expression over symbols and numbers only.
i64 ssd_ex_eval_sym(const Prog *p, Ex e, const i64 *sym);

#endif
