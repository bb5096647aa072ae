// SPDX-License-Identifier: Apache-2.0
// What the files of the layout pass share: facts about the values of one kernel.
// pass_layout.c drives and inserts copies, layout_lane.c chooses lane axes, layout_mem.c assigns
// buffers, layout_hold.c finds what a GPU's threads can hold in registers.
#ifndef SSD_LAYOUT_H
#define SSD_LAYOUT_H

#include "nest.h"
#include "pass.h"

// Tiles of equal rank that should be stored alike (a map and its operands, a loop's carry and what
// it is given) hang together as a tree; the root's lane axis is the choice.
typedef struct ValInfo {
    TOp *def;   // the op that defines it; a carry: its loop
    Val up;     // parent in the tree, itself at the root
    u8 perm[6]; // axis i of the parent is my axis perm[i]
    u8 lane;    // roots: which of the axes
} ValInfo;

typedef struct Layout {
    Prog *p;
    const Machine *m;
    TKernel *k;
    ValInfo *info; // by value; grown by ssd_layout_info
    u32 ninfo;
    VEC(Val) vals;     // the kernel's tiles in order of definition
    VEC(TOp *) ops;    // all ops, bodies included, in the order of the text
    VEC(double) times; // how often each of them runs
} Layout;

bool ssd_layout_is_view(const TOp *o); // renames, splits, slices: no code, the operand's memory
Val ssd_layout_root(const Layout *l, Val v); // the value whose memory a view shows
i64 ssd_layout_padded(const Layout *l, u8 axis);
void ssd_layout_scan(Layout *l);          // fills info, vals, ops from the kernel's text
Val ssd_layout_copy_of(Layout *l, Val v); // a new value like v, alone in its tree

void ssd_layout_lanes(Layout *l);   // layout_lane.c: lane axes and strides of all tiles
void ssd_layout_strides(Layout *l); // strides from the lanes chosen
u8 ssd_layout_mma_lane(const Layout *l,
                       const TOp *o); // out's lane axis, or 0 when the product cannot be written so
Val ssd_layout_mma_b(const Layout *l, const TOp *o,
                     u8 lane); // the operand that holds the lane axis

bool ssd_layout_same_tensor(const Prog *p, u16 a, u16 b);         // or may they share memory?
bool ssd_layout_reads_tensor(const Prog *p, const TOp *o, u16 t); // in an expression

void ssd_layout_hold(Layout *l, TBlock *b); // layout_hold.c: nests that threads hold in registers
void ssd_layout_mem(Layout *l);             // layout_mem.c: buffers, copies on the edges of loops

#endif
