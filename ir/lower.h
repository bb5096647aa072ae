// SPDX-License-Identifier: Apache-2.0
// Graph -> T0: what the files of the chunk pass share. pass_fuse.c says which nodes become one
// kernel, lower_cone.c evaluates pointwise cones at a place of the grid, lower_ssd.c writes the
// forms of an operator, pass_chunk.c drives.
#ifndef SSD_LOWER_H
#define SSD_LOWER_H

#include "pass.h"

// What one kernel of the program computes.
typedef enum {
    STAGE_SSD,    // an ssd, and what follows it pointwise
    STAGE_SCAN,   // a cumulative sum or maximum over time, to workspace
    STAGE_WINDOW, // the final window of a shift
    STAGE_POINT   // outputs that cross no time, or one node to workspace
} StageKind;
typedef struct StageStore {
    Ref ref;
    int out; // index of the graph output, -1: the node's workspace tensor
} StageStore;
typedef struct Stage {
    StageKind kind;
    Ref root; // ssd, scan or shift node; of STAGE_POINT the node, 0: outputs
    VEC(StageStore) stores;
} Stage;

typedef struct Lower {
    Unit *u;
    Graph *g;
    Prog *p;
    Arena *a;
    AxisId batch, time, seq; // 0 when the graph has none
    VEC(Stage) stages;
    i32 *home;       // [node] stage that computes it; -1: a cone, computed wherever it is wanted
    i32 *after;      // [node] last stage whose workspace it reads, -1: none
    bool *in_ws;     // [node] has a workspace tensor, because another stage reads it
    bool *at_end;    // [node] depends on a final state of its own stage: known after the time loop
    u16 *tensor;     // [node] the tensor of an `in` node or of a workspace; 0: none
    u32 *uses;       // [node]
    u16 *out_tensor; // [graph output]
    u16 cu;          // cu_seqlens of a packed graph
    int stage;       // the one being written
    int q;           // chunk length
    Val lo, len_val; // packed: first row and length of the sequence (kernel level)
    u8 tile_of[64];  // [graph axis] tile axis where it is cut into blocks; 0: the whole axis
    u64 apart;       // features that no stage of an ssd takes more than one of
} Lower;

void ssd_lower_stages(Lower *l); // pass_fuse.c: fills stages, home, after, in_ws, at_end, apart
bool ssd_lower_joins(const Node *n, AxisId x); // does it take more than one of this feature?

// A place: the coordinates under which nodes are evaluated, and the block their values go to.
// Places nest (kernel > time loop > ..): a node is evaluated in the innermost one that binds any of
// its axes, so what does not depend on time stands before the loop.
typedef struct Ctx {
    struct Ctx *up;
    TBlock *block; // values go here
    TBlock tail;   // the loop being written: what is computed before it still goes to block
    Ex *memo;      // [node] expression of its value here
    Ex index[64];  // [graph axis] coordinate bound here; 0: not bound here
    u64 binds;     // axes bound here
    bool epilogue; // after the time loop: final states are known
    Ex valid;      // time places: the row exists (a condition); 0: always
    Ex guard;      // the same where tensor bounds do not already say so (packed); 0: none
    Ex only;       // what is loaded and stored here is so under this condition; 0: always
    u8 row;        // tile axis of the rows, 0: one row
    VEC(struct Ctx *) shifted;
    i32 shift;
} Ctx;

Ctx *ssd_ctx_new(Lower *l, Ctx *up, TBlock *block);
// Opens a loop at a place and closes it when its body is written.
TOp *ssd_ctx_open(Lower *l, Ctx *c, const char *var, Ex lo, Ex hi, bool rev);
void ssd_ctx_close(Ctx *c);
// A place inside `up` whose loads and stores are made under a condition on grid variables, and in
// which everything that has an axis is evaluated anew.
Ctx *ssd_ctx_only(Lower *l, Ctx *up, Ex condition);
void ssd_ctx_bind(Lower *l, Ctx *c, AxisId x, Ex index); // a head axis binds its groups' axes too
// Binds time: tau is the token's index in its sequence, an expression over `row` (a tile axis, or
// 0).
void ssd_ctx_bind_time(Lower *l, Ctx *c, Ex tau, u8 row);
Ex ssd_ctx_index(Lower *l, const Ctx *c, AxisId x);
static inline TB ssd_ctx_tb(Lower *l, const Ctx *c) { return (TB){l->p, c->block}; }

Ex ssd_cone(Lower *l, Ctx *c, Ref r);              // a node's value as an expression
Val ssd_cone_val(Lower *l, Ctx *c, Ref r);         // as a value (named)
void ssd_cone_set(Lower *l, Ctx *c, Ref r, Val v); // tells a node's value here
// A node as an operand over time: zero in rows that do not exist, and with the row axis.
// `name` serves where the node has none.
Val ssd_cone_rows(Lower *l, Ctx *c, Ref r, const char *name);
Val ssd_cone_named(Lower *l, const Ctx *c, const char *name, Ex e);
bool ssd_cone_has_tile_axis(const Lower *l, Ex e, u8 axis);
u8 ssd_cone_tile_axis(Lower *l, AxisId x); // the tile axis of a feature axis
// Index list of a tensor whose axes are `ax` (time left out of step graphs).
int ssd_cone_indices(Lower *l, const Ctx *c, const AxisId *ax, int naxes, Ex out[8]);
void ssd_cone_stores(Lower *l, Ctx *c, bool epilogue); // the stage's stores that can be made here
Ex ssd_lower_len(Lower *l);                            // length of the sequence
Ex ssd_lower_fn(Lower *l, FnCode f, Ex a, Ex b);

// Kernel scaffolding (pass_chunk.c): appends a kernel with the grid (batch or sequence, head) and
// returns its place; more grid axes may be added.
TKernel *ssd_lower_kernel(Lower *l, const char *name, AxisId batch, const AxisId *heads, int nheads,
                          Ctx **out_ctx);
// The tile axis of rows (tokens), under this name unless the graph has an axis of it.
u8 ssd_lower_row_axis(Lower *l, const char *want, i64 size);
Ex ssd_lower_dim(Lower *l, AxisId x);       // the size of a graph axis
Ref ssd_lower_final(const Lower *l, Ref r); // the `final` node of r, 0: none

void ssd_lower_ssd(Lower *l, Ref r); // lower_ssd.c

#endif
