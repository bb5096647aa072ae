// SPDX-License-Identifier: Apache-2.0
// What the files of the role pass share. pass_role.c reads a T0 kernel and decides: which op
// belongs to which cone, how products lie, how many heads a block takes. role_build.c writes the T2
// kernel.
#ifndef SSD_ROLE_H
#define SSD_ROLE_H

#include "pass.h"
#include "timed.h"

// What a value of the loop over chunks is, and so where it is computed.
typedef enum {
    CONE_SCALAR, // rank 0: by every role that needs it
    CONE_VEC,    // one number a token: by the role `vec`, handed on in shared memory
    CONE_SLOT,   // a loaded tile: fetched by the role `load`
    CONE_COOK,   // made of loaded tiles element by element: by the role `cook`, handed on in shared
                 // memory
    CONE_AHEAD,  // a product free of the carry, and what is made of it: by the role `scores`
    CONE_HEAD    // carried, or met by what is: by the role `heads`
} Cone;

typedef struct Fact { // of a T0 value
    TOp *def;
    u8 cone;
    bool inside;  // defined in the loop over chunks
    bool carried; // depends on a carry
    bool made;    // descends from a product
    bool own;     // differs between the copies of a block
    bool stays;   // a map that is written down, not part of the expressions that use it
    bool factor;  // an operand of a product, under any name
    bool shared;  // and one that has to be in shared memory
    bool index;   // one number a token that follows from the token's index and scalars
    int uses;
    u8 rows, cols; // CONE_HEAD, CONE_AHEAD: as it lies in registers, T0 axes
} Fact;

typedef struct Timer {
    Unit *u;
    Prog *p;
    Arena *a;
    const TKernel *k; // T0
    TOp *loop;        // over chunks
    Fact *fact;       // by T0 value
    u32 nfacts;
    u8 i, j;         // query and key rows of a chunk; i is 0 when nothing is read
    u8 value;        // the axis heads are cut along into blocks of 64 (rows of the state), 0: none
    u8 to_axis[256]; // T0 axis -> T2 axis
    Val head;        // T0 grid variable of the heads, 0: none
    int copies;      // of `heads`
    int blocks;      // pieces of 64 values a head has
    bool even;       // made up to a multiple of `copies`: those of a block are of one head
    Val carry;       // the tile
    VEC(TOp *) mma;  // of `heads`, in text order
    u32 turned;      // bit m: product m has its second operand's free axis as rows
    bool wgmma;
    int lack;    // registers that a thread may be short of
    bool joined; // `heads` forms the scores: fewer warps, more registers for each
    u8 half;     // dtype of the operands of its products: that of the tiles loaded
    Ex shift;    // of others' values a head's first block begins with so many; 0: none
} Timer;

typedef struct RoleValues {
    u8 axis;      // that heads are cut along into blocks, 0: none
    bool shifted; // blocks begin where a piece does, whatever the head's rows
} RoleValues;
// Would `role` try it? out may be NULL.
bool ssd_role_takes(Unit *u, const TKernel *k, RoleValues *out);
// Writes the kernel as roles and rings. False when a thing it needs does not fit together.
bool ssd_role_build(Timer *t, TKernel *out);

Val ssd_role_origin(const Timer *t, Val v); // through renames
enum { PIECE = 8 };   // 16-bit elements in 16 bytes, which bulk copies start and step by
enum { VALUES = 64 }; // of a head that a block takes
// Blocks that the values of a head take; where they are shifted, with those before its own.
int ssd_role_blocks(i64 values, bool shifted);
// Of an access to rows that begin anywhere, in a tensor where those of all heads together are of
// whole pieces: how many elements of others the piece holds that a row begins in. 0: no such
// access.
Ex ssd_role_shift(Prog *p, const TOp *access);
bool ssd_role_one_group(const Timer *t, Ex e); // `head // n`, the same for all heads of a block
bool ssd_role_straddles(const Timer *t); // are a block's copies of different heads, or may they be?
bool ssd_role_ex_own(const Timer *t, Ex e);
u8 ssd_role_free_axis(const Timer *t, const TOp *mma,
                      int which);                      // of operand a (0) or b (1); 0: not one
bool ssd_role_narrow(const Timer *t, const TOp *load); // a tile of 16-bit numbers, fit for products

#endif
