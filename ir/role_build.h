// SPDX-License-Identifier: Apache-2.0
// Between the files that write a kernel as roles: role_value.c answers what a role asks for,
// role_build.c writes the roles.
#ifndef SSD_ROLE_BUILD_H
#define SSD_ROLE_BUILD_H

#include "nest.h"
#include "role.h"

enum { EXPORTS = 24, FETCHES = 24, FACTORS = 16 };
enum { BLOCK = 16 }; // rows and columns of a block of a triangle

// What vec hands on: a value or an expression e over j; its value at the last token of j's block;
// the weight f*exp2(e at that token - e) of j in its block.
typedef enum { NUMBER, BLOCK_END, BLOCK_WEIGHT } Number;

typedef struct Role Role;
typedef struct Fetch { // a tile that a role loads for others
    const TOp *load, *ring;
    Val slot;
    bool own; // each copy of `heads` has one for itself
    u8 word;  // numbers: axis of a row's 16 bytes, 0: a row is along time
} Fetch;

typedef struct Build {
    Timer *t;
    Prog *p;
    TKernel *out;
    TB top;                            // rings, then roles
    Val unit;                          // grid variable: which heads
    u8 copy_axis;                      // of slots: one for each copy
    Val grid_of[8];                    // T0 grid variables' new ones
    TOp *in, *numbers, *masks, *stage; // rings, NULL until needed
    TOp *raw, *cooked;                 // what `cook` alone reads; what it makes
    TOp *constants;                    // numbers a feature, filled once
    TOp *heads, *scores, *cook;        // roles
    struct {
        Number kind;
        Ex e, f; // T0 expressions over j
        Val v;   // or a T0 value
        Val slot;
        Val lane; // in vec
        bool own;
    } exported[EXPORTS]; // by vec
    int nexported;
    Fetch fetched[FETCHES];
    int nfetched;
    int vecs;        // copies of vec that may copy tiles, 0: none
    int loaders;     // warps of a role that fills a ring
    bool copies_out; // lanes copy what leaves through `stage`
    bool bad;        // something did not fit
} Build;

typedef enum { HEADS, SCORES, VEC, LOADS, COOK } Kind;
enum { READS_IN = 1, READS_RAW = 2, READS_COOKED = 4, READS_CONSTANTS = 8 }; // rings
struct Role {
    Build *b;
    Kind kind;
    TOp *loop;
    TBlock regs, pre, post;
    TB at;     // where ops go now
    TB before; // the loop
    Ex rho;    // which copy
    bool each; // inside an `each`, whose variable that is
    u8 *reads; // which rings; one for the role and its `each`
    Val *map;  // by T0 value
    Val *frag; // by T0 value, `heads`
    int nregs;
    u8 rows, cols; // T0 axes of the register tile being mapped
    Val start;     // `heads`: the state before the loop
    Val packed;    // and a carry: the state packed for the products that read it, 0: none
};

typedef struct Over { // what an expression ranges over
    bool i, j, feature, tile, row;
    bool any_row; // asked: count numbers that follow from the token's index among rows
} Over;

static inline const TVal *val(const Build *b, Val v) { return &b->p->vals.v[v]; }
static inline const Expr *ex(const Build *b, Ex e) { return &b->p->exs.v[e]; }
static inline Fact *fact(const Build *b, Val v) { return &b->t->fact[v]; }
static inline i64 size(const Build *b, u8 x) { return b->p->axes.v[x].size; }
static inline u8 axis(const Build *b, u8 x) { return b->t->to_axis[x] ? b->t->to_axis[x] : x; }
static inline Ex num(Build *b, i64 v) { return ssd_ex_int(b->p, v); }
static inline Ex fn(Build *b, FnCode f, Ex x, Ex y) { return ssd_ex_fn(b->p, f, x, y, 0); }

// Roles (role_build.c): a new one; its loop over chunks; its end.
Role *ssd_role_new(Build *b, Kind kind);
void ssd_role_open(Role *r);
TOp *ssd_role_close(Role *r, const char *name, int warps, int copies, Val rep);
TOp *ssd_role_sync(Role *r, TOpCode code, const TOp *ring);
// Awaits, first in its loop, the rings it was found to read; gives them back where it stands. (What
// is filled once is awaited before the loop and given back after it.)
void ssd_role_await(Role *r);
void ssd_role_release(Role *r);
TOp *ssd_role_access(Role *r, TOpCode code, const TOp *d); // reads or writes as the T0 op d does

void ssd_role_each(Role *r, Role *inner); // opens `each r in 0..copies`

// role_load.c. Which tiles may lie as in memory: asked when those that read them are written.
typedef struct Copied { // by lanes, into the main ring
    bool vec;           // by vec, beside its numbers, and moved into place
    bool odd;           // by others: rows of an odd number of elements
} Copied;
void ssd_role_loosen(Build *b);
void ssd_role_vec(Build *b);
bool ssd_role_loads(Build *b); // false: for want of what lanes copy, one warp a role would do
Copied ssd_role_copied(const Build *b);

// role_cook.c: the role; a value, in registers of it.
void ssd_role_cook(Build *b);
Val ssd_role_cooked(Role *r, Val v);

// Values with layouts, in the role's registers or in a slot. `in` 0: registers of their own.
Val ssd_role_tile(Build *b, const char *name, u8 dtype, const u8 *ax, int n, Space s, Val regs);
Val ssd_role_regs(Role *r, u8 dtype, int n);
int ssd_role_acc_words(const Build *b, u8 rows, u8 cols); // of T2 axes
Val ssd_role_acc_tile(Role *r, const char *name, u8 rows, u8 cols, Val in);
Val ssd_role_frag_tile(Role *r, const char *name, u8 rows, u8 cols, Val in);
TOp *ssd_role_emit(Role *r, TOpCode code, Val out);
Val ssd_role_slot_view(Role *r, Val slot, bool own); // a slot's tile, of this role's copy

TOp *ssd_role_ring(Build *b, const char *name, int depth, int copies);
Val ssd_role_fetched(Role *r, Val v); // the slot of a loaded value
Val ssd_role_slot(Build *b, TOp *in, const char *name, u8 dtype, const u8 *ax, int n, Space s);
TOp *ssd_role_main_ring(Build *b);
// The slot in which vec hands on a number (e over j, or the T0 value v).
Val ssd_role_exported(Build *b, Number kind, Ex e, Ex f, Val v, const char *name, bool own);

// T0 expressions as the role sees them.
void ssd_role_over(const Build *b, Ex e, Over *o);
Ex ssd_role_to_j(void *ctx, Prog *p, Ex e); // an ExRewrite: query rows as the key rows they are
Ex ssd_role_tx(Role *r, Ex e);
void ssd_role_tx_access(Role *r, TOp *o, const TOp *from);
Ex ssd_role_word_start(Build *b, Ex e, u8 word); // where the 16 bytes of index e start

// T0 values as the role gets them; 0, and b->bad, when it cannot.
Val ssd_role_get(Role *r, Val v);
Val ssd_role_get_frag(Role *r, Val v, u8 rows, u8 cols); // loaded, as a first operand
Val ssd_role_get_shared(Role *r, Val v);                 // in shared memory

#endif
