// SPDX-License-Identifier: Apache-2.0
// T1 and T2 -> CUDA C++: what the emitter's files share.
//
//   cuda.c         programs, kernels, control flow, the artifact's code
//   cuda_name.c    C names for everything a kernel speaks of
//   cuda_ex.c      scalar expressions, tiles and tensors at a point
//   cuda_nest.c    loop nests of elementwise ops, spread over the threads of a block
//   cuda_hold.c    nests whose tiles the threads hold in registers
//   cuda_ops.c     products, scans, concatenation, slices put into tiles, swaps, inverses
//   cuda_sync.c    which ops need a barrier before them
//   cuda_role.c    T2: roles, rings, what fills slots and what leaves them
//   cuda_tma.c     T2: which of these a bulk copy (TMA) does, and the tensor maps for it
//   cuda_frag.c    T2: tiles in registers
//   cuda_product.c T2: products
//   cuda_loads.c   T2: loads that may be under way where a slot is left
//   cuda_prelude.cuh   what the printed text calls; cuda_block.cuh: of T1, cuda_timed.cuh: of T2
//   nvrtc.c        text to machine code
//
// A block of the grid is a block of threads. Tiles lie in dynamic shared memory as f32, whatever
// their dtype (which is a rounding point); rank-0 values are computed by every thread; values of a
// shared nest are variables of its body. The text walks the program in order, each op under its own
// line of T1. How a kernel of roles looks instead is told in cuda_role.c.
#ifndef SSD_CUDA_EMIT_H
#define SSD_CUDA_EMIT_H

#include "../ir/machine.h"
#include "../ir/nest.h"
#include "../ir/timed.h"
#include "../runtime/artifact.h"

typedef enum { KIND_FLOAT, KIND_INT, KIND_BOOL } Kind;
typedef enum { MMA_F32, MMA_TF32, MMA_BF16 } MmaKind;

// A tile in shared memory of a kernel of roles: a slot's tile, perhaps seen through views.
typedef struct CudaView {
    Val base;           // the slot's tile
    const char *offset; // C text in elements, @sw128 in bytes; NULL: none
    bool even;          // the offset is a multiple of 2
    u8 n, ax[6];        // storage order, outermost first
    i64 stride[6];      // in elements or bytes
} CudaView;

typedef struct CudaOdd { // a tile of rows that were fetched as they begin in memory
    i64 rows, used;
    const char *tile, *odd; // and how they are to be shifted
} CudaOdd;

typedef struct CudaBehind { // a role's loop that publishes a ring a turn late, NULL: none
    const TOp *loop, *ring;
    const char *name;       // its place in the ring
    VEC(CudaOdd) settles;   // of the turn before
    VEC(const char *) next; // their `odd` of the turn at hand
} CudaBehind;

typedef struct Cuda {
    const Prog *p;
    const Machine *m;
    Arena *a;
    Text *out;
    const TKernel *first, *end; // the kernels to be written
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
    const char *held[2];       // indices of a thread's rows and turns in held nests
    bool dense;                // views of tensors are chosen when the text is compiled
    bool early;                // the kernel waits for those in front of it in its stream
    VEC(const TOp *) barriers; // ops with a barrier before them

    // in a kernel of roles
    bool timed;
    const TOp *role;
    const char **elem;       // by value: its element at the point at hand
    const char **rows;       // by value that its one reader loads as it goes: where from
    const TOp **late;        // by value: the load or copy that its readers do as they go
    bool select;             // both sides of a choice are computed
    i64 *most;               // by value: the largest value of an index variable, -1: unknown
    const char **place;      // by ring: `in` or `Ms[r]`, as acquired last
    CudaView *view;          // by value
    VEC(const TOp *) flying; // products under way, in the order of issue
    int nloads;              // of slots' tiles, in this role (cuda_loads.c)
    Val load_ring[64];
    u64 *loads_of;        // by register value: what it is made of
    u64 settled;          // those that have surely returned
    VEC(ArtMap) maps;     // of the kernel
    VEC(CudaOdd) settles; // fetched right before the op at hand
    CudaBehind behind;
} Cuda;

// --- Text ---------------------------------------------------------------------------------------
void ssd_cuda_line(Cuda *c, const char *fmt, ...) SSD_PRINTF(2, 3); // one indented line
void ssd_cuda_open(Cuda *c, const char *fmt, ...) SSD_PRINTF(2, 3); // a line, then deeper
void ssd_cuda_close(Cuda *c);                                       // shallower, then `}`
void ssd_cuda_comment(Cuda *c, const TOp *o);                       // the op as T1 has it
void ssd_cuda_block(Cuda *c, const TBlock *b);                      // cuda.c: the ops of a body
void ssd_cuda_op(Cuda *c, const TOp *o);                            // one that is in no nest

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
// The same with any method of Tensor: `x.at<2>(b, c*64 + j, h, p)`; `value` is its first argument,
// or NULL.
const char *ssd_cuda_element(Cuda *c, const TOp *o, const char *method, const char *value);
// The same for `width` neighbours along an axis, all under one condition (NULL: none), where rows
// of the tensor have them side by side; else NULL.
const char *ssd_cuda_row(Cuda *c, const TOp *o, u8 axis, int width, const char *when,
                         const char *array);
const char *ssd_cuda_place(Cuda *c, const TOp *o); // where an op's element lies, there or not
// The same by `at` or `place`; null where the op's condition does not hold.
const char *ssd_cuda_spot(Cuda *c, const TOp *o, const char *method);
// `when`, and that the indices along neither x nor y are in range; "": that is sure.
const char *ssd_cuda_present(Cuda *c, const TOp *o, u8 x, u8 y, const char *when);
// No element of the load or store is out of range, by the indices that axis x or y has a part in
// (0: by any).
bool ssd_cuda_inside(const Cuda *c, const TOp *o, u8 x, u8 y);
bool ssd_cuda_natural(const Cuda *c, Ex e);                 // is an index sure not to be negative?
bool ssd_cuda_in_range(const Cuda *c, const TOp *o, int d); // is its index d?
i64 ssd_cuda_size(const Cuda *c, u8 axis);

// --- cuda_nest.c --------------------------------------------------------------------------------
// How
// a nest is spread: its axes outermost first, the reduced one apart.
typedef enum {
    SPREAD_POINTS,
    SPREAD_WARP_SUMS,
    SPREAD_THREAD_SUMS,
    SPREAD_BLOCK_SUM,
    SPREAD_HELD
} Spread;
typedef struct CudaNest {
    Spread spread;
    int n;
    u8 ax[8], reduce;
    i64 points; // of ax
    u8 quad;    // the axis of which a thread takes four neighbours at a time, 0: none
} CudaNest;
void ssd_cuda_nest_plan(const Cuda *c, const TOp *first, const TOp *last, CudaNest *out);
void ssd_cuda_nest(Cuda *c, const TOp *first, const TOp *last);
void ssd_cuda_hold(Cuda *c, const TOp *first, const TOp *last); // cuda_hold.c
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

// --- cuda_role.c --------------------------------------------------------------------------------
void ssd_cuda_timed_begin(Cuda *c);               // of a kernel: its maps
void ssd_cuda_roles(Cuda *c);                     // the kernel's text behind its arguments
bool ssd_cuda_timed_op(Cuda *c, const TOp *o);    // false: it is written as in T1
const CudaView *ssd_cuda_view_of(Cuda *c, Val v); // of a tile in shared memory
const char *ssd_cuda_tile(Cuda *c, const CudaView *v, u8 ax,
                          Ex at); // its first element: an address, or a pointer (@row)
const TOp *ssd_cuda_definition(const Cuda *c, Val v);
bool ssd_cuda_is_sw128(const Cuda *c, Val v);
bool ssd_cuda_is_loose(const Cuda *c, Val v);
bool ssd_cuda_has_loose(const Cuda *c); // a slot's tile of the kernel
int ssd_cuda_role_threads(const Cuda *c);
const char *ssd_cuda_thread(const Cuda *c);                     // its number in the role
const char *ssd_cuda_plus(Cuda *c, const char *base, i64 n);    // `base + n`
bool ssd_cuda_uses_tile(const Cuda *c, const TOp *o, Val tile); // of a slot, under any name
bool ssd_cuda_ex_has(const Cuda *c, Ex e,
                     u8 axis); // does it depend on the axis, by index or by a tile?

// --- cuda_move.c --------------------------------------------------------------------------------
void ssd_cuda_note_maps(Cuda *c);          // of the kernel at hand, in c->maps
void ssd_cuda_move(Cuda *c, const TOp *o); // fetch, send
// Around a role's loop, and in place of a publish: is it done a turn late?
void ssd_cuda_behind_begin(Cuda *c, const TOp *loop);
void ssd_cuda_behind_end(Cuda *c, const TOp *loop);
bool ssd_cuda_behind_publish(Cuda *c, const TOp *o);
// Do threads that fetch a slot's tile leave columns alone, which nothing else writes?
bool ssd_cuda_narrow(Cuda *c, Val tile);
// Is what the role at hand sends of a ring each warp's own, so that none waits for another?
bool ssd_cuda_sends_own(Cuda *c, const TOp *ring);
// Whether threads copy into the ring's slots, for want of bulk copies: a condition; NULL: never.
// `beside`: into tiles that wgmma may read, or a bulk copy.
const char *ssd_cuda_copied(Cuda *c, const TOp *ring, bool beside);

// --- cuda_loads.c -------------------------------------------------------------------------------
void ssd_cuda_loads_note(Cuda *c, const TOp *o); // an op is written
bool ssd_cuda_loads_open(Cuda *c, Val ring);     // may one from the ring's slot be under way?
void ssd_cuda_loads_settle(Cuda *c);             // no more, after a fence

// --- cuda_tma.c ---------------------------------------------------------------------------------
// The map that the op's tile can be moved by, and which tensor dimension each axis of the tile runs
// along.
bool ssd_cuda_map(Cuda *c, const TOp *o, ArtMap *out, int dim_of[6]);
bool ssd_cuda_in_bulk(Cuda *c, const TOp *o);      // is there one?
int ssd_cuda_map_number(Cuda *c, const ArtMap *m); // in c->maps, added when it is new
// Does the op's condition cut the tile off along the axis, as `c*64 + j < len` does?
bool ssd_cuda_cut(Cuda *c, const TOp *o, u8 axis);
const char *ssd_cuda_whole(Cuda *c, const TOp *o); // its condition where nothing is cut off
const char *ssd_cuda_coords(Cuda *c, const TOp *o, const int dim_of[6],
                            int panel); // innermost first

// --- cuda_frag.c --------------------------------------------------------------------------------
void ssd_cuda_frag_elements(Cuda *c,
                            const TOp *o); // map, fill, load, store, into of register tiles
void ssd_cuda_frag_copy(Cuda *c, const TOp *o);
bool ssd_cuda_is_whole(Cuda *c, const TOp *o); // is a load the same for all words of its tile?
const char *ssd_cuda_row_element(Cuda *c, Val v, const char *index); // of a rank-1 tile @row
void ssd_cuda_lane_scan(Cuda *c, const TOp *o);
void ssd_cuda_lane_at(Cuda *c, const TOp *o);
void ssd_cuda_lane_pick(Cuda *c, const TOp *o);
bool ssd_cuda_tri_tile(const Cuda *c, Val tile);      // is it written below its diagonal only?
const TVal *ssd_cuda_frag_shape(const Cuda *c, Ex e); // of register tiles in it; NULL: none
// How far it is from an index of the axis to the next one in the op's tensor. NULL: not the same
// everywhere.
const char *ssd_cuda_step(Cuda *c, const TOp *o, u8 axis);

// --- cuda_cook.c --------------------------------------------------------------------------------
void ssd_cuda_columns(Cuda *c, const TOp *o);   // load, map, fill: a thread's columns
void ssd_cuda_frag_swap(Cuda *c, const TOp *o); // swap of register tiles

// --- cuda_wait.c --------------------------------------------------------------------------------
void ssd_cuda_waits_begin(Cuda *c);             // of a role: which tiles wait for their readers
void ssd_cuda_wait_rows(Cuda *c, const TOp *o); // a tensor's tile that does
const TOp *ssd_cuda_late(const Cuda *c, Val v); // the load or copy that its readers do; NULL: none
const char *ssd_cuda_fragment_step(Cuda *c, const TOp *o,
                                   const char *e); // step e of a copy from a slot to a fragment

// --- cuda_product.c -----------------------------------------------------------------------------
void ssd_cuda_products(Cuda *c);              // the program's wgmma wrappers
void ssd_cuda_product(Cuda *c, const TOp *o); // one mma
void ssd_cuda_product_wait(Cuda *c, const TOp *o);
void ssd_cuda_product_turn(Cuda *c, const TOp *o); // a loop's body begins

#endif
