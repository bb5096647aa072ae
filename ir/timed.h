// SPDX-License-Identifier: Apache-2.0
// T2, the timed stratum: a kernel written as roles that hand tiles to each other through rings.
//
// A kernel of T2 either is a T1 kernel, or its body holds nothing but rings, registers and roles:
//
//     kernel scan grid b=#b u=40
//       ring in x3                                        # 3 slots, each of these tiles
//         slot C_ : bf16[j n] @sw128(j n)
//         slot x_ : bf16[R j p] @sw128(R j p)             # R: one for each head of the block
//         slot cj_ : f32[R j] @row(R j)
//       ring Ms x2 copies 2                   # one ring for each copy of its reader
//         slot M : bf16[i j] @sw128(i j)
//       role load warps 1 regs 40
//         for c in 0..cdiv(#t, 64)
//           acquire in
//           fetch C_ <- C[b, c*64+j, u*2//80, n]
//           each r in 0..2
//             fetch x_ at R=r <- x[b, c*64+j, u*2+r, p]
//           publish in
//       role scores warps 4 regs 88
//         Sr = regs f32 32
//         for c in 0..cdiv(#t, 64)
//           await in
//           S = mma async qi B_ : f32[i j] @acc(i j) in Sr     # wgmma: under way until ..
//           wait S                                             # .. here
//           each r in 0..2
//             acquire Ms at r
//             into M tri i j = where(i >= j, S*exp2(ci - cj), 0)
//             publish Ms at r
//           release in
//       role heads warps 4 copies 2 w regs 192             # two copies run it: w = 0, 1
//         ..
//
// Roles run side by side, each in its own warps; all start with the kernel. A role's body is
// straight text, `for` and `each` (unrolled); rank-0 values are computed by every thread of the
// role. A value belongs to the role that defines it: only slots cross roles.
//
// A ring has `depth` slots. The k-th acquire of a producer waits until every consumer has released
// the (k-depth)-th slot; after it the tiles of that slot are its to fill (their old elements are
// gone). The k-th await of a consumer waits until every producer has published the k-th slot and
// what it fetched has landed. Producers of a ring are the roles that publish it, consumers those
// that release it. Both go through slots in order. In a ring with copies every op names the copy
// (`at e`: the role's copy variable or the variable of an `each` around it); a tile's name means
// the copy that this role acquired or awaited last. A role with copies that uses a ring without
// copies counts once a copy. The ring of a role with itself (into, no await) stages what leaves the
// block by send, or holds what the role's own products read.
//
// Spaces and layouts. Rows r, columns c of a 64 x n tile over 4 warps of a role; lane = 4*g + t:
//     @sw128(.. r c)  shared, 16-bit elements. Columns in panels of 64: 128 bytes a row, the last
//                     panel whole, 1024-aligned; 16-byte piece k of row r is piece k ^ (r & 7).
//                     Axes before the last two: tile after tile. TMA, ldmatrix, stmatrix, wgmma.
//     @loose(.. r c)  shared, 16-bit elements, rows as they lie in memory: each from the 16-byte
//                     piece that it begins in, c + 8 elements long. Beside a row's columns, and in
//                     those its tensor does not have, is anything. Filled by fetch alone.
//     @row(..)        shared, dense, row-major
//     @acc(r c)       f32 registers of a product: element 4*jb + 2*h + q of block m is row
//                     64*m + 16*warp + g + 8*h, column 8*jb + 2*t + q
//     @frag(r c)      16-bit pairs, an A operand: word 4*ks + 2*u + h of block m holds row
//                     64*m + 16*warp + g + 8*h, columns 16*ks + 8*u + 2*t, +1: a packed @acc
//     @lane(c)        f32 registers of one warp: element lane*V + v with V = size/32; only rank 1
//     @cols(c)        f32 registers: a thread's columns of an @acc or @frag tile; element 2*jb + q
//     is
//                     column 8*jb + 2*t + q; only rank 1
//     @scalar         rank 0, in every thread
// A register tile lies in a `regs` of its role (`in R`); tiles in one may follow each other, and an
// op may write where it reads (ys = map {yi*f} in the registers of yi; y_ = mma .. + ys). The
// accumulator operand of a product must lie where its result does. A carry lies where its next
// value lies.
//
// Which op reads what:
//     load    tensor -> @acc, @lane, @cols, @scalar: element by element
//     copy    @sw128(r c) -> @frag(r c) or @frag(c r) (ldmatrix, ldmatrix.trans);
//             @loose(r c) -> @frag(c r), element by element;
//             @acc(r c) -> @frag(r c); @row -> @lane
//     map     over @acc, @frag or @lane: operands of the same rows and columns (an @acc and a @frag
//             may meet), rank-1 @row tiles by row or by column, @cols by column, scalars, indices;
//             over @cols: others of the same columns, @row tiles, scalars, indices
//     swap    @acc or @frag -> the same, along columns: in pairs, or in halves of columns by 16
//     mma     a: @frag(r k), or @sw128 with axes r, k in any order; b: @sw128 with axes c, k in any
//             order; result @acc(r c). Async where marked.
//     scan    @lane -> @lane; pick: the same
//     at      @lane -> @scalar; @row[j] x=e -> @scalar; on a slot's tile else a view, as rename is
//     into    from @acc, @frag (to @sw128: rows and columns in any order), from @lane (to @row).
//             `tri r c = e below f`: blocks of 16 x 16 wholly below the diagonal take f
//     store   from @acc, @lane, @scalar: to a tensor, element by element
//     send    @sw128 -> tensor
//
// A fetch that is `loose` starts at a multiple of 16 bytes, counted along its tensor's rows and
// those dimensions that make them whole (ssd_timed_along); what its tile gets beside the ends of a
// row, the last index out of range, may be anything: it must reach no sum and no tensor. So may
// that in a @loose tile, wherever its fetch starts.
//
// A slot's tile with `run n` holds equal elements in aligned runs of n.
//
// An asynchronous product reads its operands at any time before its wait; nothing may be written
// there. Products of a role finish in the order of issue, so `wait v pending n` also waits for all
// older ones. None is under way at the end of a loop's body, nor at a branch.
//
// Fields of TOp: RING out depth copies body (of SLOT ops: out) · REGS out (dtype) depth (32-bit
// registers) · ROLE out warps copies regs var (the copy, 0 when there is one) body · ACQUIRE
// PUBLISH AWAIT RELEASE a (ring) e (copy, 0: none) · FETCH a (tile) ax[0] e (at x=e, 0: none)
// tensor idx when flags & TF_LOOSE · SEND a tensor idx when · INTO a ax[0] e tri_row tri_col e2
// (the expression) hi (below) · WAIT a pending · MMA flags & TF_ASYNC. Names of rings, roles and
// regs are values of rank 0 (SSD_IDX; regs: their dtype). A tile's lay.space and lay.ax say its
// layout, lay.buf its regs; strides are not used.
#ifndef SSD_TIMED_H
#define SSD_TIMED_H

#include "tile.h"

bool ssd_timed_kernel(const Prog *p, const TKernel *k); // is it written as roles?
static inline bool ssd_timed_in_slot(const Lay *l) {
    return l->space == SP_SW128 || l->space == SP_LOOSE || l->space == SP_ROW;
}

bool ssd_timed_ragged(const Prog *p, u16 tensor); // are its rows not of whole 16-byte pieces?
// So many dimensions before a tensor's last one make rows of whole 16-byte pieces with it, where it
// has none itself: bulk copies see them as one. 0: there are no such dimensions of a known size.
int ssd_timed_along(const Prog *p, u16 tensor);

// A @loose tile: elements of a row beyond its columns; bytes behind its rows, which tell where in
// their first pieces they begin.
enum { LOOSE_MORE = 8, LOOSE_TAIL = 16 };

// What a ring's ends are, gathered from the roles that use it.
enum { RING_ENDS = 8 };
typedef struct RingEnd {
    const TOp *role;
    bool fetches; // fills it by fetch, in part at least
    bool fills;   // by into
    bool sends;   // leaves it by send
    int times;    // copies of the role that meet at one copy of the ring
} RingEnd;
typedef struct Ring {
    const TOp *op;
    int nproducers, nconsumers;
    RingEnd producer[RING_ENDS], consumer[RING_ENDS];
    bool own; // one role hands it to itself
} Ring;
// False, with a message in *why, when the ring's ends do not fit together.
bool ssd_timed_ring(const Prog *p, const TKernel *k, Val ring, Ring *out, Text *why);
const TOp *ssd_timed_slot_ring(const Prog *p, const TKernel *k,
                               Val slot);            // the ring a slot's tile is in
bool ssd_timed_is_view(const Prog *p, const TOp *o); // rename; at on a slot's tile: no code
// Through views to what holds the elements: a slot's tile, or a register value.
Val ssd_timed_base(const Prog *p, const TKernel *k, Val v);

// Parts of ssd_tile_check. forms: structure, layouts, what reads what. order: rings are acquired
// before they are filled, awaited before they are read, products waited for; registers hold what is
// read.
bool ssd_timed_check_forms(const Prog *p, const TKernel *k, Text *why, const TOp **out_at);
bool ssd_timed_check_order(const Prog *p, const TKernel *k, Text *why, const TOp **out_at);
bool ssd_tile_check_types(const Prog *p, Text *why); // ssd_tile_verify but for order

// Registers that a thread of the role needs (timed_live.c). Where that exceeds its `regs` by more
// than ptxas finds by itself, tiles that may wait for the ops that read them are loaded a few words
// at a time by those: a tensor's that one map reads (also where the role has no products), and,
// without wgmma, a slot's as a first operand. lean: they wait.
int ssd_timed_need(const Prog *p, const TKernel *k, const TOp *role, bool wgmma, bool lean);
bool ssd_timed_multiplies(const TBlock *b);                             // has it products?
bool ssd_timed_may_wait(const Prog *p, const TKernel *k, const TOp *o); // is o such a load or copy?

// How far elements of a slot's tile lie from each other along an axis, by position in its layout,
// where one takes so much; -1: all of it. (@sw128: before its pieces change places.)
i64 ssd_timed_step(const Prog *p, const Lay *l, int axis, i64 element);
i64 ssd_timed_tile_bytes(
    const Prog *p, Val tile); // of a slot's tile, its alignment included (sw128: 1024, others: 16)
i64 ssd_timed_slot_offset(const Prog *p, const TOp *ring, Val tile); // in its slot
i64 ssd_timed_slot_bytes(const Prog *p, const TOp *ring); // multiple of 1024 when any tile is sw128
i64 ssd_timed_shared_bytes(const Prog *p, const TKernel *k); // rings and their barriers
// Rings in the order of the text, each aligned as its tiles; NULL: where the barriers start (a
// slot's full and empty, 8 bytes each, slot after slot, copy after copy, ring after ring).
i64 ssd_timed_ring_offset(const Prog *p, const TKernel *k, const TOp *ring);
int ssd_timed_first_warp(const TKernel *k, const TOp *role); // of copy 0; copies follow each other
int ssd_timed_warps(const TKernel *k); // roles packed into warpgroups: consecutive roles of fewer
                                       // than 4 warps share one, rounded up to 4 warps
#endif
