// SPDX-License-Identifier: Apache-2.0
// exp(u) = exp2(u*log2e), with the multiplication moved to where it is cheapest.
//
// Machines have 2^x, not e^x. Done at each exp this costs a multiplication an element of the
// scores; but exponents are sums and differences of few values, all from one scan over time, so the
// scan can run over logarithms to base 2:
//
//     ld = map {dl*a}                            ld = map {dl*(a*log2e)}
//     cj = scan sum j ld          ->             cj = scan sum j ld
//     M  = map {S*exp(ci - cj)}                  M  = map {S*exp2(ci - cj)}
//
// A value is scaled (kept as log2e times what it was) when every use of it is scaled in turn: it
// stands linearly in the argument of an exp, or in the definition of a scaled value. That is a
// greatest fixpoint: all maps, scans, renamings, slices and carries start as scaled, and a use
// elsewhere (stored, multiplied by another scaled value, compared) strikes one out. What is not
// scaled is multiplied in place. Needs: T0. Keeps: what every kernel stores, up to rounding. After
// it no FN_EXP is left.
#include "pass.h"

static const double LOG2E = 1.4426950408889634;

typedef struct Exp2 {
    Prog *p;
    bool *scaled; // by value
    bool *wanted; // by value: reaches an exp
    bool *zero;   // by value: a tile of zeros, which scaling leaves alone
    bool struck, grew, changed;
    TBlock *copies_in; // the block that `copy` belongs to
    Val *copy;         // by value: a scaled copy made in this block
} Exp2;

static const Expr *at(const Exp2 *x, Ex e) { return &x->p->exs.v[e]; }

// --- Which part of an expression takes the factor -----------------------------------------------
typedef enum { OPAQUE, EVERY, BRANCHES, FIRST, SECOND } Linear;

static bool is_sum(const Expr *e) {
    return e->kind == EX_VAL || (e->kind == EX_FN && (e->fn == FN_ADD || e->fn == FN_SUB ||
                                                      e->fn == FN_NEG || e->fn == FN_WHERE));
}

// How log2e*f(a, b, c) follows from scaled operands: all of them, the branches of a where, the
// first or second factor (the one with fewer axes, so that the product is formed less often), or
// not at all.
static Linear linear(const Exp2 *x, Ex e) {
    const Expr *n = at(x, e);
    if (n->kind != EX_FN || n->dtype != SSD_F32) return OPAQUE;
    switch (n->fn) {
    case FN_ADD:
    case FN_SUB:
    case FN_ABS:
    case FN_RELU:
    case FN_MIN:
    case FN_MAX: return EVERY; // log2e > 0
    case FN_NEG: {
        const Expr *a = at(x, n->arg[0]);
        return a->kind == EX_FN && linear(x, n->arg[0]) == OPAQUE ? OPAQUE : EVERY;
    }
    case FN_WHERE: return BRANCHES;
    case FN_MUL: {
        const Expr *a = at(x, n->arg[0]), *b = at(x, n->arg[1]);
        if (a->kind == EX_NUM) return is_sum(b) ? SECOND : FIRST;
        if (b->kind == EX_NUM) return is_sum(a) ? FIRST : SECOND;
        if (a->dtype != SSD_F32) return SECOND;
        u8 ax[8];
        int na = ssd_ex_axes(x->p, n->arg[0], ax), nb = ssd_ex_axes(x->p, n->arg[1], ax);
        if (na != nb) return na < nb ? FIRST : SECOND;
        return a->kind == EX_VAL || b->kind != EX_VAL ? FIRST : SECOND;
    }
    default: return OPAQUE;
    }
}
static bool takes(Linear how, int i) {
    return how == EVERY || (how == BRANCHES && i > 0) || (how == FIRST && i == 0) ||
           (how == SECOND && i == 1);
}

// --- The fixpoint -------------------------------------------------------------------------------
// A use of v
// where a scaled value is wanted or not. `need`: collecting what exps need, else striking.
static void use(Exp2 *x, Val v, bool scaled, bool need) {
    if (!need && !scaled && x->scaled[v]) {
        x->scaled[v] = false;
        x->struck = true;
    }
    if (need && scaled && x->scaled[v] && !x->wanted[v]) x->wanted[v] = x->grew = true;
}

static void use_expr(Exp2 *x, Ex e, bool scaled, bool need) {
    if (!e) return;
    const Expr *n = at(x, e);
    if (n->kind == EX_VAL) use(x, n->val, scaled, need);
    for (int i = 0; i < n->nidx; i++) use_expr(x, n->idx[i], false, need);
    if (n->kind != EX_FN) return;
    Linear how = scaled ? linear(x, e) : OPAQUE;
    for (int i = 0; i < ssd_fns[n->fn].arity; i++)
        use_expr(x, n->arg[i], n->fn == FN_EXP || takes(how, i), need);
}

// Ops that only move elements, add them up or compare them.
static bool moves(const TOp *o) {
    switch (o->op) {
    case TOP_SCAN:
    case TOP_AT:
    case TOP_PUT:
    case TOP_SPLIT:
    case TOP_JOIN:
    case TOP_RENAME:
    case TOP_CAT:
    case TOP_SLICE:
    case TOP_SWAP:
    case TOP_PICK: return true;
    default: return false;
    }
}

static void use_ops(Exp2 *x, const TBlock *b, const TOp *loop, bool need) {
    for (const TOp *o = b->first; o; o = o->next) {
        const bool *in = need ? x->wanted : x->scaled;
        bool out = o->out && in[o->out], map = o->op == TOP_MAP || o->op == TOP_FILL;
        Val v[] = {o->a, o->b, o->c};
        for (int i = 0; i < 3; i++)
            if (v[i]) use(x, v[i], moves(o) && out, need);
        use_expr(x, o->e, map && out, need);
        Ex e[] = {o->e2, o->when, o->lo, o->hi};
        for (int i = 0; i < 4; i++) use_expr(x, e[i], false, need);
        for (int i = 0; i < o->nidx; i++) use_expr(x, o->idx[i], false, need);
        const TOp *of = o->op == TOP_YIELD ? loop : o;
        for (int i = 0; i < o->ncarry; i++) use_expr(x, o->init[i], in[of->carry[i]], need);
        use_ops(x, &o->body, o, need);
    }
}

static void candidate(Exp2 *x, Val v) { x->scaled[v] = x->p->vals.v[v].dtype == SSD_F32; }

static void candidates(Exp2 *x, const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next) {
        const Expr *e = at(x, o->e);
        if (o->op == TOP_FILL && e->kind == EX_NUM && e->num == 0)
            x->zero[o->out] = true;
        else if (o->op == TOP_MAP || o->op == TOP_FILL || moves(o))
            candidate(x, o->out);
        if (o->op == TOP_FOR || o->op == TOP_EACH)
            for (int i = 0; i < o->ncarry; i++) candidate(x, o->carry[i]);
        candidates(x, &o->body);
    }
}

// --- Rewriting ----------------------------------------------------------------------------------
static Ex rewrite(Exp2 *x, Ex e, bool scaled) {
    if (!e) return 0;
    Prog *p = x->p;
    Expr n = *at(x, e);
    Linear how = scaled ? linear(x, e) : OPAQUE;
    if (how == FIRST || how == SECOND) { // 2*v with v not scaled: 2*log2e is a number too
        int k = how == SECOND;
        const Expr *v = at(x, n.arg[k]), *c = at(x, n.arg[!k]);
        if (c->kind == EX_NUM && v->kind == EX_VAL && !x->scaled[v->val] && !x->zero[v->val])
            how = k ? FIRST : SECOND;
    }
    if (n.kind == EX_FN) {
        Ex a[3] = {0};
        FnCode f = n.fn == FN_EXP ? FN_EXP2 : (FnCode)n.fn;
        for (int i = 0; i < ssd_fns[n.fn].arity; i++)
            a[i] = rewrite(x, n.arg[i], n.fn == FN_EXP || takes(how, i));
        e = ssd_ex_fn(p, f, a[0], a[1], a[2]);
    } else if (n.kind == EX_LOAD) {
        Ex idx[8];
        for (int i = 0; i < n.nidx; i++) idx[i] = rewrite(x, n.idx[i], false);
        e = ssd_ex_load(p, n.tensor, idx, n.nidx);
    }
    bool as_is = n.kind == EX_VAL && (x->scaled[n.val] || x->zero[n.val]);
    if (!scaled || how != OPAQUE || as_is) return e;
    return n.kind == EX_NUM ? ssd_ex_num(p, n.num * LOG2E)
                            : ssd_ex_fn(p, FN_MUL, e, ssd_ex_num(p, LOG2E), 0);
}

// log2e*v as a value, made before op `o` of block `b` (whose predecessor is `before`).
static Val scaled_copy(Exp2 *x, TBlock *b, TOp **before, TOp *o, Val v) {
    if (x->scaled[v] || x->zero[v]) return v;
    if (x->copies_in != b) {
        x->copies_in = b;
        memset(x->copy, 0, x->p->vals.n * sizeof *x->copy);
    }
    if (x->copy[v]) return x->copy[v];
    Prog *p = x->p;
    TBlock one = {0};
    TB tb = {p, &one};
    Ex e = ssd_ex_fn(p, FN_MUL, ssd_ex_val(p, v), ssd_ex_num(p, LOG2E), 0);
    // Room for the new value in the tables by value.
    u32 n = p->vals.n + 1;
    bool *scaled = NEWN(p->arena, bool, n), *zero = NEWN(p->arena, bool, n);
    Val *copy = NEWN(p->arena, Val, n);
    memcpy(scaled, x->scaled, (n - 1) * sizeof *scaled);
    memcpy(zero, x->zero, (n - 1) * sizeof *zero);
    memcpy(copy, x->copy, (n - 1) * sizeof *copy);
    x->scaled = scaled, x->zero = zero, x->copy = copy;
    Val w = ssd_tile_map(&tb, ssd_arena_printf(p->arena, "%s2", p->vals.v[v].name), SSD_F32, e);
    memcpy(p->vals.v[w].ax, p->vals.v[v].ax, sizeof p->vals.v[v].ax);
    scaled[w] = true;
    one.first->next = o;
    if (*before)
        (*before)->next = one.first;
    else
        b->first = one.first;
    *before = one.first;
    return copy[v] = w;
}

// The start or next value of a carry: a tile is a plain value, so its scaling is an op of its own.
static Ex rewrite_carry(Exp2 *x, TBlock *b, TOp **before, TOp *o, Ex e, bool scaled) {
    const Expr *n = at(x, e);
    bool tile = n->kind == EX_VAL && x->p->vals.v[n->val].naxes;
    if (!scaled || !tile) return rewrite(x, e, scaled);
    return ssd_ex_val(x->p, scaled_copy(x, b, before, o, n->val));
}

static void rewrite_ops(Exp2 *x, TBlock *b, const TOp *loop) {
    TOp *before = NULL;
    for (TOp *o = b->first; o; before = o, o = o->next) {
        bool out = o->out && x->scaled[o->out];
        if (moves(o) && out) {
            o->a = scaled_copy(x, b, &before, o, o->a);
            if (o->b) o->b = scaled_copy(x, b, &before, o, o->b);
        }
        Ex *e[] = {&o->e2, &o->when, &o->lo, &o->hi}, was = o->e;
        o->e = rewrite(x, o->e, out && (o->op == TOP_MAP || o->op == TOP_FILL));
        x->changed |= was != o->e;
        for (int i = 0; i < 4; i++) *e[i] = rewrite(x, *e[i], false);
        for (int i = 0; i < o->nidx; i++) o->idx[i] = rewrite(x, o->idx[i], false);
        const TOp *of = o->op == TOP_YIELD ? loop : o;
        for (int i = 0; i < o->ncarry; i++)
            o->init[i] = rewrite_carry(x, b, &before, o, o->init[i], x->scaled[of->carry[i]]);
        rewrite_ops(x, &o->body, o);
    }
}

bool ssd_pass_exp2(Unit *u) {
    Prog *p = u->prog;
    Exp2 x = {.p = p};
    x.scaled = NEWN(p->arena, bool, p->vals.n);
    x.wanted = NEWN(p->arena, bool, p->vals.n);
    x.zero = NEWN(p->arena, bool, p->vals.n);
    x.copy = NEWN(p->arena, Val, p->vals.n);
    for (u32 i = 0; i < p->kernels.n; i++) candidates(&x, &p->kernels.v[i].body);
    do {
        x.struck = false;
        for (u32 i = 0; i < p->kernels.n; i++) use_ops(&x, &p->kernels.v[i].body, NULL, false);
    } while (x.struck);
    // Of these only what an exp needs; the rest is dead or never met one.
    do {
        x.grew = false;
        for (u32 i = 0; i < p->kernels.n; i++) use_ops(&x, &p->kernels.v[i].body, NULL, true);
    } while (x.grew);
    memcpy(x.scaled, x.wanted, p->vals.n * sizeof *x.scaled);
    for (u32 i = 0; i < p->kernels.n; i++) rewrite_ops(&x, &p->kernels.v[i].body, NULL);
    return x.changed;
}
