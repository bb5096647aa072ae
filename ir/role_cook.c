// SPDX-License-Identifier: Apache-2.0
// The role `cook`: what products take and no tensor holds, made element by element of loaded tiles.
//
//     role cook warps 4
//       await constants                                    a number a feature: w
//       for c in ..
//         await raw
//         x_1 = copy x_ : bf16[j p] @frag(j p) in E1       rows of a chunk over four warps
//         acquire cooked
//         into v = where(c*64 + j < #t, silu(x_1*w), 0)    16 bits, as wgmma and ldmatrix want them
//         publish cooked
//         release raw
//
// What several cooked tiles share (an angle's sine) is computed once, in f32. Tiles of tensors that
// hold no 16-bit numbers are loaded element by element, by the role itself.
#include "role_build.h"

static bool is_row(const Build *b, u8 x) { return x == b->t->i || x == b->t->j; }

static void lay_out(Role *r, Val v) { // the role's rows and columns become those of the value
    const TVal *t = val(r->b, v);
    bool second = !is_row(r->b, t->ax[0]);
    r->rows = t->ax[second];
    r->cols = t->ax[!second];
}

// A number a feature: as it was loaded, or computed for the thread's columns.
static Val columns(Role *r, Val v) {
    Build *b = r->b;
    const TOp *d = fact(b, v)->def;
    u8 ax[1] = {axis(b, val(b, v)->ax[0])};
    if (!d || val(b, v)->ax[0] != r->cols) return 0;
    if (d->op == TOP_LOAD) return ssd_role_slot_view(r, ssd_role_fetched(r, v), fact(b, v)->own);
    if (d->op != TOP_MAP) return 0;
    TB at = r->at;
    r->at = r->before;
    Ex e = ssd_role_tx(r, d->e);
    Val out = ssd_role_tile(b, val(b, v)->name, SSD_F32, ax, 1, SP_COLS,
                            ssd_role_regs(r, SSD_F32, (int)size(b, ax[0]) / 4));
    ssd_role_emit(r, TOP_MAP, out)->e = e;
    r->before = r->at;
    r->at = at;
    return out;
}

// --- Expressions --------------------------------------------------------------------------------

typedef struct Leaves { // tiles of rows and columns that an expression reads, through inlined maps
    const Build *b;
    Val v[16];
    int n;
} Leaves;
static void leaf(void *ctx, Val v) {
    Leaves *l = ctx;
    const Build *b = l->b;
    if (v >= b->t->nfacts || val(b, v)->naxes != 2) return;
    const Fact *f = fact(b, v);
    if (f->def && f->def->op == TOP_MAP && !f->stays) {
        ssd_nest_ex_vals(b->p, f->def->e, leaf, l);
        return;
    }
    for (int i = 0; i < l->n; i++)
        if (l->v[i] == v) return;
    if (l->n < (int)COUNTOF(l->v)) l->v[l->n++] = v;
}

// The expression in T2. Of many tiles, part after part: each comes when it is needed, and what is
// known so far lies in one accumulator.
static Ex expression(Role *r, Ex e, Val *sum) {
    enum { AT_ONCE = 2 };
    Build *b = r->b;
    Leaves l = {.b = b};
    ssd_nest_ex_vals(b->p, e, leaf, &l);
    const Expr x = *ex(b, e);
    if (l.n <= AT_ONCE || b->bad) return ssd_role_tx(r, e);
    if (x.kind == EX_VAL) return expression(r, fact(b, x.val)->def->e, sum);
    int most = 0, heavy = -1;
    for (int i = 0; i < ssd_fns[x.fn].arity; i++) {
        Leaves of = {.b = b};
        ssd_nest_ex_vals(b->p, x.arg[i], leaf, &of);
        if (of.n > most) most = of.n, heavy = i;
    }
    Ex arg[3] = {0};
    arg[heavy] = expression(r, x.arg[heavy], sum);
    bool number = ex(b, x.arg[heavy])->dtype != SSD_BOOL;
    if (number && most > 1 && most < l.n && !b->bad) {
        Val in = *sum ? val(b, *sum)->lay.buf : 0;
        *sum = ssd_role_acc_tile(r, "part", axis(b, r->rows), axis(b, r->cols), in);
        ssd_role_emit(r, TOP_MAP, *sum)->e = arg[heavy];
        arg[heavy] = ssd_ex_val(b->p, *sum);
    }
    for (int i = 0; i < ssd_fns[x.fn].arity; i++)
        if (i != heavy) arg[i] = ssd_role_tx(r, x.arg[i]);
    return ssd_ex_fn(b->p, (FnCode)x.fn, arg[0], arg[1], arg[2]);
}

static Val swapped(Role *r, const TOp *d) {
    Build *b = r->b;
    Val in = ssd_role_get(r, d->a);
    u8 x = axis(b, d->ax[0]), rows = axis(b, r->rows), cols = axis(b, r->cols);
    if (!in || x != cols || size(b, x) != size(b, d->ax[0]))
        return 0; // padding would be swapped in
    bool frag = val(b, in)->lay.space == SP_FRAG;
    const char *name = val(b, d->out)->name;
    Val out = frag ? ssd_role_frag_tile(r, name, rows, cols, 0)
                   : ssd_role_acc_tile(r, name, rows, cols, 0);
    TOp *o = ssd_role_emit(r, TOP_SWAP, out);
    o->a = in;
    o->ax[0] = x;
    o->flags = d->flags;
    return out;
}

Val ssd_role_cooked(Role *r, Val v) {
    Build *b = r->b;
    const TOp *d = fact(b, v)->def;
    if (val(b, v)->naxes == 1) return columns(r, v);
    if (!d || val(b, v)->naxes != 2) return 0;
    if (d->op == TOP_SWAP) return swapped(r, d);
    if (d->op != TOP_MAP && d->op != TOP_LOAD) return 0;
    Ex e = d->op == TOP_MAP ? ssd_role_tx(r, d->e) : 0;
    if (b->bad) return 0;
    TOp *o = d->op == TOP_MAP ? ssd_role_emit(r, TOP_MAP, 0) : ssd_role_access(r, TOP_LOAD, d);
    o->out = ssd_role_acc_tile(r, val(b, v)->name, axis(b, r->rows), axis(b, r->cols), 0);
    o->e = e;
    return o->out;
}

static void cook_tile(Role *r, TOp *slot) {
    Build *b = r->b;
    Val v = slot->a; // the T0 value that this slot is for
    const TOp *d = fact(b, v)->def;
    lay_out(r, v);
    Val sum = 0;
    Ex e = d->op == TOP_MAP && !r->map[v] ? expression(r, d->e, &sum)
                                          : ssd_ex_val(b->p, ssd_role_get(r, v));
    if (b->bad) return;
    u8 x = r->cols, wide = axis(b, x);
    bool summed = x != b->t->value;           // rows of the state do not mix
    if (summed && size(b, wide) > size(b, x)) // products sum over what is beyond, too
        e = ssd_ex_fn(b->p, FN_WHERE, fn(b, FN_LT, ssd_ex_axis(b->p, wide), num(b, size(b, x))), e,
                      ssd_ex_num(b->p, 0));
    Leaves l = {.b = b};
    if (d->op == TOP_MAP) ssd_nest_ex_vals(b->p, d->e, leaf, &l);
    if (d->op == TOP_MAP && !l.n && !r->map[v]) { // numbers by row and by column alone
        Val all = ssd_role_acc_tile(r, val(b, v)->name, axis(b, r->rows), wide, 0);
        ssd_role_emit(r, TOP_MAP, all)->e = e;
        e = ssd_ex_val(b->p, all);
    }
    TOp *o = ssd_role_emit(r, TOP_INTO, 0);
    o->a = slot->out;
    o->e2 = e;
}

void ssd_role_cook(Build *b) {
    if (!b->cooked) return;
    Role *r = ssd_role_new(b, COOK);
    ssd_role_open(r);
    ssd_role_sync(r, TOP_ACQUIRE, b->cooked);
    for (TOp *s = b->cooked->body.first; s && !b->bad; s = s->next) {
        // two heads' tiles would keep the role, and the products, waiting: a block takes one
        b->bad |= fact(b, s->a)->own;
        if (!b->bad) cook_tile(r, s);
    }
    ssd_role_sync(r, TOP_PUBLISH, b->cooked);
    ssd_role_release(r);
    ssd_role_await(r);
    if (!b->bad) b->cook = ssd_role_close(r, "cook", 4, 1, 0);
    for (TOp *s = b->cooked->body.first; s; s = s->next) s->a = 0;
}
