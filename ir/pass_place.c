// SPDX-License-Identifier: Apache-2.0
// T0 -> T1, first half: every op becomes one that CPU code is written for.
//
//   y = mma q s : f32[i]              ->  y = reduce sum n {q*s}       a product with a vector is a
//   reduction u = mma a b : f32[i j]            ->  u = map {a*b}                nothing is
//   contracted xw = map {x*exp2(e-cj)} [j p]     ->  f1 = map {exp2(e-cj)} [j]    what is dear and
//   does not vary along
//                                         xw = map {x*f1}              an axis is not done for all
//                                         of it
//
// Needs: valid T0. Keeps: T0. Leaves: mma with a free axis on both sides and at least one
// contracted.
#include "nest.h"
#include "pass.h"
#include "timed.h"

typedef struct Placer {
    Prog *p;
    TBlock before; // new ops, to stand before the one at hand
    TB b;
    VEC(struct Lifted {
        Ex from;
        Ex to;
    })
    lifted; // in this block
    bool changed;
} Placer;

static const TVal *val(const Placer *s, Val v) { return &s->p->vals.v[v]; }

static bool has_axis(const TVal *v, u8 x) { return memchr(v->ax, x, v->naxes) != NULL; }
static bool kept(const TOp *o, u8 x) { return memchr(o->keep, x, o->nkeep) != NULL; }

// --- Products that are no products --------------------------------------------------------------
static int contracted(const Placer *s, const TOp *o, u8 out[6]) {
    int n = 0;
    const TVal *a = val(s, o->a), *b = val(s, o->b);
    for (int i = 0; i < a->naxes; i++)
        if (has_axis(b, a->ax[i]) && !kept(o, a->ax[i])) out[n++] = a->ax[i];
    return n;
}

static bool has_free_axis(const Placer *s, Val v, Val other) {
    for (int i = 0; i < val(s, v)->naxes; i++)
        if (!has_axis(val(s, other), val(s, v)->ax[i])) return true;
    return false;
}

static void simplify_mma(Placer *s, TOp *o) {
    u8 ax[6];
    int n = contracted(s, o, ax);
    if (n && has_free_axis(s, o->a, o->b) && has_free_axis(s, o->b, o->a)) return;
    Prog *p = s->p;
    Ex e = ssd_ex_fn(p, FN_MUL, ssd_ex_val(p, o->a), ssd_ex_val(p, o->b), 0);
    bool direct = !o->c && val(s, o->out)->dtype == SSD_F32;
    for (int i = n - 1; i >= 0; i--) {
        if (i == 0 && direct) {
            o->op = TOP_REDUCE;
            o->ax[0] = ax[0];
            o->flags = 0;
        } else {
            e = ssd_ex_val(p, ssd_tile_reduce(&s->b, val(s, o->out)->name, false, ax[i], e));
        }
    }
    if (n == 0 || !direct) {
        o->op = TOP_MAP;
        if (o->c) e = ssd_ex_fn(p, FN_ADD, e, ssd_ex_val(p, o->c), 0);
    }
    o->e = e;
    o->a = o->b = o->c = 0;
    o->nkeep = o->tri_row = o->tri_col = 0;
    s->changed = true;
}

// --- Dear expressions ---------------------------------------------------------------------------
static bool dear(const Prog *p, Ex e) {
    const Expr *x = &p->exs.v[e];
    if (x->kind != EX_FN) return false;
    if (ssd_fns[x->fn].kind == 'F') return true;
    for (int i = 0; i < ssd_fns[x->fn].arity; i++)
        if (dear(p, x->arg[i])) return true;
    return false;
}

// Largest dear parts with some, but not all, of the nest's axes become values of their own.
static Ex lift(Placer *s, Ex e, int nest_axes) {
    u8 ax[8];
    Prog *p = s->p;
    int n = ssd_ex_axes(p, e, ax);
    if (!n || !dear(p, e)) return e;
    if (n < nest_axes) {
        for (u32 i = 0; i < s->lifted.n; i++)
            if (s->lifted.v[i].from == e) return s->lifted.v[i].to;
        Ex to = ssd_ex_val(p, ssd_tile_map(&s->b, "f", SSD_F32, e));
        vec_push(p->arena, &s->lifted, ((struct Lifted){e, to}));
        s->changed = true;
        return to;
    }
    Expr x = p->exs.v[e];
    Ex arg[3] = {0};
    for (int i = 0; i < ssd_fns[x.fn].arity; i++) arg[i] = lift(s, x.arg[i], nest_axes);
    return memcmp(arg, x.arg, sizeof arg) ? ssd_ex_fn(p, x.fn, arg[0], arg[1], arg[2]) : e;
}

// --- The walk -----------------------------------------------------------------------------------
static void place_op(Placer *s, TOp *o) {
    u8 ax[8];
    if (o->op == TOP_MMA) simplify_mma(s, o);
    if (o->op == TOP_MAP || o->op == TOP_REDUCE || o->op == TOP_STORE)
        o->e = lift(s, o->e, ssd_nest_axes(s->p, o, ax));
}

static void place_block(Placer *s, TBlock *b) {
    TOp *prev = NULL;
    u32 outer = s->lifted.n;
    for (TOp *o = b->first; o; prev = o, o = o->next) {
        s->before = (TBlock){0};
        place_op(s, o);
        if (s->before.first) {
            s->before.last->next = o;
            if (prev)
                prev->next = s->before.first;
            else
                b->first = s->before.first;
        }
        if (o->body.first) place_block(s, &o->body);
    }
    s->lifted.n = outer;
}

bool ssd_pass_place(Unit *u) {
    Placer s = {.p = u->prog};
    s.b = (TB){.p = s.p, .at = &s.before};
    for (u32 i = 0; i < s.p->kernels.n; i++) {
        if (ssd_timed_kernel(s.p, &s.p->kernels.v[i])) continue;
        s.lifted.n = 0;
        place_block(&s, &s.p->kernels.v[i].body);
    }
    return s.changed;
}
