// SPDX-License-Identifier: Apache-2.0
// scale: factors move to where a product of tensor cores takes them for free.
//
//   v1 = map {where(row, delta*x_, 0)} : f32[j p]        M  = map {where(i >= j, S*L*w0, 0)}
//   M  = map {where(i >= j, S*L, 0)}                     y_ = mma M x_ + ys
//   y_ = mma M v1 + ys                                   w  = map {w0*wj} : f32[j]
//   vw = map {v1*wj} : f32[j p]                          vw = map {x_*w}
//   s1 = mma vw k + sd                                   s1 = mma vw k + sd
//
// An operand that is a loaded tile times factors that vary along fewer axes becomes the tile alone:
// a factor along the contracted axis goes to the other operand when that is a mask, a
// factor along a free axis (or a number) leaves the product, what is left is one product of the
// tile and one vector. So operands are what memory holds, rounded once, and M is the only mask
// made.
//
// Kernels that `role` does not take stay as they are.
//
// Needs: T0 of a target whose products take operands of 16 bits. Keeps: the meaning; a row that a
// condition switches off and that its load reads as zero anyway stays zero.
#include "nest.h"
#include "role.h"

typedef struct Scale {
    Prog *p;
    TOp **def;     // by value; of the block at hand and those around it
    TBlock *block; // at hand
    TBlock before; // new ops, to stand before the one at hand
    TB b;
    bool changed;
} Scale;

// factor * tile; tile is one loaded value, the factor lacks one of its axes. 0: 1.
typedef struct Product {
    Val tile;
    Ex factor;
} Product;

static const Expr *at(const Scale *s, Ex e) { return &s->p->exs.v[e]; }
static Ex mul(Scale *s, Ex a, Ex b) { return !a ? b : !b ? a : ssd_ex_fn(s->p, FN_MUL, a, b, 0); }

static Val origin(const Scale *s, Val v) { // through renames
    while (s->def[v] && s->def[v]->op == TOP_RENAME) v = s->def[v]->a;
    return v;
}

static bool has_axis(const Prog *p, Ex e, u8 x) {
    u8 ax[8];
    int n = ssd_ex_axes(p, e, ax);
    return memchr(ax, x, (size_t)n) != NULL;
}

// Is the load zero wherever the condition is false? It is when the condition is its own, or says
// that an index lies in the tensor.
static bool zero_without(const Scale *s, const TOp *load, Ex cond) {
    if (load->when == cond) return true;
    const Expr *x = at(s, cond);
    if (x->kind != EX_FN) return false;
    const TTensor *t = &s->p->tensors.v[load->tensor];
    for (int i = 0; i < load->nidx; i++) {
        if (load->idx[i] != x->arg[0]) continue;
        if (x->fn == FN_LT && x->arg[1] == t->dim[i]) return true;
        if (x->fn == FN_GE && at(s, x->arg[1])->kind == EX_NUM && at(s, x->arg[1])->num == 0)
            return true;
    }
    return false;
}

static bool split(Scale *s, Ex e, Product *out);

// where(cond, X, 0): the condition goes to the factor, or nowhere when X is zero without it and the
// factor is made of numbers.
static bool split_where(Scale *s, const Expr *x, Product *out) {
    const Expr *zero = at(s, x->arg[2]);
    Ex cond = x->arg[0], then = x->arg[1];
    if (zero->kind != EX_NUM || zero->num != 0 || !split(s, then, out)) return false;
    TOp *load = s->def[out->tile];
    u8 ax[8];
    if (!zero_without(s, load, cond)) return false;
    bool plain = !out->factor || !ssd_ex_axes(s->p, out->factor, ax);
    if (!plain) out->factor = ssd_ex_fn(s->p, FN_WHERE, cond, out->factor, ssd_ex_num(s->p, 0));
    return true;
}

static bool split(Scale *s, Ex e, Product *out) {
    const Expr x = *at(s, e);
    if (x.kind == EX_VAL) {
        const TOp *d = s->def[x.val];
        if (d && d->op == TOP_MAP && d->e && s->p->vals.v[x.val].naxes > 1)
            return split(s, d->e, out);
        if (!d || d->op != TOP_LOAD || s->p->vals.v[x.val].naxes < 2) return false;
        *out = (Product){.tile = x.val};
        return true;
    }
    if (x.kind != EX_FN) return false;
    if (x.fn == FN_WHERE) return split_where(s, &x, out);
    if (x.fn == FN_DIV) {
        u8 ax[8];
        if (ssd_ex_axes(s->p, x.arg[1], ax) || !split(s, x.arg[0], out)) return false;
        Ex one = ssd_ex_fn(s->p, FN_DIV, ssd_ex_num(s->p, 1), x.arg[1], 0);
        out->factor = mul(s, out->factor, one);
        return true;
    }
    if (x.fn != FN_MUL) return false;
    for (int i = 0; i < 2; i++) {
        Product q;
        if (!split(s, x.arg[i], &q)) continue;
        const TVal *t = &s->p->vals.v[q.tile];
        Ex other = x.arg[1 - i];
        int all = 0;
        for (int a = 0; a < t->naxes; a++) all += has_axis(s->p, other, t->ax[a]);
        if (all == t->naxes) continue;
        *out = (Product){q.tile, mul(s, q.factor, other)};
        return true;
    }
    return false;
}

// e*f, with the factor under the condition of a mask.
static Ex times(Scale *s, Ex e, Ex f) {
    const Expr x = *at(s, e);
    if (x.kind == EX_FN && x.fn == FN_WHERE && at(s, x.arg[2])->kind == EX_NUM &&
        at(s, x.arg[2])->num == 0)
        return ssd_ex_fn(s->p, FN_WHERE, x.arg[0], times(s, x.arg[1], f), x.arg[2]);
    return ssd_ex_fn(s->p, FN_MUL, e, f, 0);
}

static bool contracted(const Scale *s, const TOp *o, u8 x) {
    const TVal *a = &s->p->vals.v[o->a], *b = &s->p->vals.v[o->b];
    return memchr(a->ax, x, a->naxes) && memchr(b->ax, x, b->naxes) &&
           !memchr(o->keep, x, o->nkeep);
}

typedef struct Made {
    const Scale *s;
    bool by_product;
} Made;
static void made_leaf(void *ctx, Val v) {
    Made *m = ctx;
    m->by_product |= m->s->def[v] && m->s->def[v]->op == TOP_MMA;
}
// A map of a product's result: it takes one factor more for nothing.
static bool is_mask(const Scale *s, const TOp *o) {
    Made m = {s, false};
    if (o && o->op == TOP_MAP) ssd_nest_ex_vals(s->p, o->e, made_leaf, &m);
    return m.by_product;
}

// One operand of a product; the factor it gives up goes to *leaves.
static void operand(Scale *s, TOp *o, int which, Ex *leaves) {
    Val *own = which ? &o->b : &o->a, *other = which ? &o->a : &o->b;
    TOp *r = s->def[*own];
    u8 from = 0, to = 0;
    if (r && r->op == TOP_RENAME && !r->ax[2]) from = r->ax[0], to = r->ax[1];
    Product q;
    Val v = origin(s, *own);
    if (!v || !s->def[v] || s->def[v]->op != TOP_MAP) return;
    if (r != s->def[v] && s->def[*own]->a != v) return; // more than one rename
    if (!split(s, ssd_ex_val(s->p, v), &q)) return;
    Ex f = q.factor;
    u8 ax[8];
    int n = f ? ssd_ex_axes(s->p, f, ax) : 0;
    for (int i = 0; i < n; i++) {
        // tiles under a renamed axis would have to be renamed too: only along the contracted one
        if (from && ax[i] == from) return;
        if (n > 1) return;
    }
    Val tile = q.tile;
    if (from) tile = ssd_tile_rename(&s->b, NULL, tile, from, to);
    if (!f || !n) {
        *leaves = mul(s, *leaves, f);
    } else if (!contracted(s, o, ax[0])) {
        *leaves = mul(s, *leaves, f);
    } else {
        TOp *m = s->def[*other];
        if (is_mask(s, m)) {
            *other = ssd_tile_map(&s->b, s->p->vals.v[*other].name,
                                  (ssd_dtype)s->p->vals.v[*other].dtype, times(s, m->e, f));
        } else {
            Val w = ssd_tile_map(&s->b, "w", SSD_F32, f);
            Ex e = ssd_ex_fn(s->p, FN_MUL, ssd_ex_val(s->p, tile), ssd_ex_val(s->p, w), 0);
            tile = ssd_tile_map(&s->b, s->p->vals.v[v].name, SSD_F32, e);
        }
    }
    *own = tile;
    s->changed = true;
}

static void note(Scale *s, TOp *o) {
    if (!o->out) return;
    if (o->out >= s->p->vals.n) SSD_BUG("a value that does not exist");
    s->def[o->out] = o;
}

static void flush(Scale *s, TBlock *out) {
    for (TOp *o = s->before.first, *next; o; o = next) {
        next = o->next;
        ssd_block_append(out, o);
        note(s, o);
    }
    s->before = (TBlock){0};
}

static void product(Scale *s, TOp *o, TBlock *out) {
    Ex leaves = 0;
    operand(s, o, 0, &leaves);
    operand(s, o, 1, &leaves);
    flush(s, out);
    ssd_block_append(out, o);
    if (!leaves) return;
    // out = mma*leaves (+ c): the product under a new name, the old one for what uses it
    Prog *p = s->p;
    TVal t = p->vals.v[o->out];
    Val old = o->out, acc = o->c;
    o->out = ssd_prog_val(p, t.name, SSD_F32, t.ax, t.naxes);
    o->c = 0;
    s->def[o->out] = o;
    Ex e = ssd_ex_fn(p, FN_MUL, ssd_ex_val(p, o->out), leaves, 0);
    if (acc) e = ssd_ex_fn(p, FN_ADD, e, ssd_ex_val(p, acc), 0);
    TB b = {p, out};
    TOp *m = ssd_tile_op(&b, TOP_MAP);
    m->out = old;
    m->e = e;
    note(s, m);
}

static void block(Scale *s, TBlock *b) {
    TBlock out = {0}, outer = s->before;
    s->before = (TBlock){0};
    for (TOp *o = b->first, *next; o; o = next) {
        next = o->next;
        note(s, o);
        block(s, &o->body);
        if (o->op == TOP_MMA)
            product(s, o, &out);
        else
            ssd_block_append(&out, o);
    }
    *b = out;
    s->before = outer;
}

static TBlock copy(Arena *a, const TBlock *b) {
    TBlock out = {0};
    for (const TOp *o = b->first; o; o = o->next) {
        TOp *c = NEW(a, TOp);
        *c = *o;
        c->body = copy(a, &o->body);
        ssd_block_append(&out, c);
    }
    return out;
}

bool ssd_pass_scale(Unit *u) {
    Prog *p = u->prog;
    if (!u->machine->gpu || p->matmul) return false;
    Scale s = {.p = p};
    bool changed = false;
    s.def = NEWN(p->arena, TOp *, 4 * p->vals.n + 1024);
    s.b = (TB){p, &s.before};
    for (u32 k = 0; k < p->kernels.n; k++) {
        TKernel *t = &p->kernels.v[k];
        TBlock before = copy(p->arena, &t->body);
        s.changed = false;
        block(&s, &t->body);
        if (s.changed && !ssd_role_takes(u, t, NULL)) t->body = before, s.changed = false;
        changed |= s.changed;
    }
    if (changed) ssd_tile_dce(p);
    return changed;
}
