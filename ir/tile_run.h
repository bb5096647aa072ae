// SPDX-License-Identifier: Apache-2.0
// What the interpreter's two files share. tile_interp.c: compiled ops and expressions, T0 and T1.
// timed_interp.c: roles and rings (T2), which runs the same ops on values of its own.
#ifndef SSD_TILE_RUN_H
#define SSD_TILE_RUN_H

#include "timed.h"

#include <math.h>
#include <setjmp.h>

typedef struct Slot {
    double *d; // dense, row-major in the order of TVal.ax
    i64 n;
    i64 stride[6]; // by position in TVal.ax
    u32 version;   // of the definition that filled it; views share their base's
    Val writer;    // the value that was written: itself, or what it is a view of
    i64 base;      // elements from the buffer's start (lay.offset, plus what a dynamic `at` adds)
    // buffers
    double *cell;
    u64 *tag;         // writer << 32 | version, 0: not written since the buffer was made
    u32 *mark, stamp; // scratch: cells one operand covers
    i64 cells;
    int grain; // bytes a cell: the smallest element kept in the buffer
} Slot;

typedef enum { I_NUM, I_VAL, I_AXIS, I_LOAD, I_FN } InsKind;
typedef struct Ins {
    u8 kind, fn, n; // n: operands taken from the stack
    u16 tensor;
    int dim; // I_AXIS: position in the box
    Val val;
    i64 stride[8]; // I_VAL: by position in the box
    double num;
} Ins;
typedef struct Row { // s: 1 a value a lane, 0 one for all
    const double *p;
    i64 s;
} Row;
typedef struct Code {
    Ins *ins;
    int n, nbox;
    i64 size[8];
    i64 lanes, rows;
    double *scratch; // lanes doubles for each stack place
    Row *stack;
    Val *uses;
    int nuses;
} Code;
typedef struct Step {
    const TOp *op;
    Code *e, *e2, *when, *lo, *hi, *idx[8], **init;
    double **carried; // for, yield: room for the carries' next values
    u8 box[8];
    int nbox;
    struct Step *body, *next;
} Step;

typedef struct Interp {
    const Prog *p;
    Arena *a;
    TileRun *run;
    Text *why;
    Array *tensor;
    Slot *slot;
    const TOp *op;
    const char *kernel;  // for messages: the kernel, and the role that runs
    struct Timed *timed; // the kernel is one of roles (timed_interp.c)
    Arena block;         // what a block of roles needs while it runs
    u32 clock;
    jmp_buf out;
} Interp;

static inline const char *name(const Interp *m, Val v) { return ssd_tile_val_name(m->p, v); }
static inline const TVal *tv(const Interp *m, Val v) { return &m->p->vals.v[v]; }
static inline i64 axis_size(const Interp *m, u8 x) { return m->p->axes.v[x].size; }
static inline i64 stride_of(const Interp *m, Val v, u8 x) {
    for (int i = 0; i < tv(m, v)->naxes; i++)
        if (tv(m, v)->ax[i] == x) return m->slot[v].stride[i];
    return 0;
}

// --- Walks: an index box with the offsets of up to three arrays ---------------------------------
typedef struct Walk {
    int n;
    i64 size[8], pos[8], off[3], st[3][8];
} Walk;
static inline void walk_add(Walk *w, i64 size, i64 s0, i64 s1, i64 s2) {
    w->size[w->n] = size;
    w->st[0][w->n] = s0, w->st[1][w->n] = s1, w->st[2][w->n] = s2;
    w->n++;
}
// Steps to the next place; false after the last one.
static inline bool walk_next(Walk *w) {
    for (int d = w->n - 1; d >= 0; d--) {
        for (int k = 0; k < 3; k++) w->off[k] += w->st[k][d];
        if (++w->pos[d] < w->size[d]) return true;
        for (int k = 0; k < 3; k++) w->off[k] -= w->size[d] * w->st[k][d];
        w->pos[d] = 0;
    }
    return false;
}

SSD_NORETURN void ssd_run_fail(Interp *m, const char *fmt, ...) SSD_PRINTF(2, 3);
Step *ssd_run_compile(Interp *m, const TBlock *b, const TOp *loop);
void ssd_run_op(Interp *m, Step *s);                        // any op without a body, but yield
void ssd_run_carry(Interp *m, const TOp *loop, Step *from); // a loop's start, or its yield
void ssd_run_uses(Interp *m, const Code *c);                // fetches what an expression reads
Row ssd_run_eval(Interp *m, Code *c, const i64 *pos);       // one row, at outer coordinates
bool ssd_run_next_row(const i64 *size, int nbox, i64 *pos);
double ssd_run_scalar(Interp *m, Code *c);
i64 ssd_run_index(Interp *m, Code *c, u8 axis);                // checked against the axis
i64 ssd_run_element(const Array *t, const Row *idx, i64 lane); // -1: out of range
double ssd_run_round(const Interp *m, double x, u8 dtype);     // when rounding is asked for

// timed_interp.c, called where a value of a timed kernel is read, defined, or seen otherwise.
void ssd_timed_run(Interp *m, const TKernel *k);
void ssd_timed_gather(Interp *m, Val v);
void ssd_timed_commit(Interp *m, Val v);
void ssd_timed_see(Interp *m, Step *s);

#endif
