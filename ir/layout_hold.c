// SPDX-License-Identifier: Apache-2.0
// Nests that the threads of a GPU's block hold in registers (ir/nest.h): a decode step from its
// loads to its stores, without a tile in memory and without a barrier.
//
//   x_ = load x[b, h, p] : f32[p]            x_ = load ..    @reg(p)     loads first, all under way
//   v = map {delta*x_} : f32[p]              s0 = load ..    @reg(p n)   at once
//   s0 = load h0[b, h, p, n] : f32[p n]  ->  v = map ..      @reg(p)
//   s1 = map {s0*a + v*k} : f32[p n]         s1 = map ..     @reg(p n)
//   yr = reduce sum n {s1*q} : f32[p]        yr = reduce ..  @reg(p)
//
// A run of neighbouring ops is taken as long as they walk no more than two axes and none of them
// writes memory that another one touches elsewhere: threads that have an element of a vector in
// common do not wait for each other.
#include "layout.h"

static const TVal *val(const Layout *l, Val v) { return &l->p->vals.v[v]; }

static bool is_vector(const Layout *l, const TOp *o) {
    return ssd_nest_op(l->p, o) && o->op != TOP_COPY;
}
static bool is_plain(const Layout *l, const TOp *o) {
    bool scalar =
        (o->op == TOP_LOAD || o->op == TOP_MAP || o->op == TOP_STORE) && !ssd_nest_op(l->p, o);
    return scalar || is_vector(l, o);
}
static bool accesses(const TOp *o) { return o->op == TOP_LOAD || o->op == TOP_STORE; }
static int axes(const Layout *l, const TOp *o) {
    u8 ax[8];
    return ssd_nest_axes(l->p, o, ax);
}

// May o follow w in a run? Memory that one of them writes is touched by the other one at the same
// points only, and each point is one thread's: it has both axes.
static bool follows(const Layout *l, const TOp *w, const TOp *o) {
    const Prog *p = l->p;
    if (w->op == TOP_STORE && ssd_layout_reads_tensor(p, o, w->tensor)) return false;
    if (o->op == TOP_STORE && ssd_layout_reads_tensor(p, w, o->tensor)) return false;
    if (!accesses(w) || !accesses(o) || (w->op == TOP_LOAD && o->op == TOP_LOAD)) return true;
    if (!ssd_layout_same_tensor(p, w->tensor, o->tensor)) return true;
    return w->op == TOP_LOAD && w->nidx == o->nidx && axes(l, w) == 2 && axes(l, o) == 2 &&
           !memcmp(w->idx, o->idx, w->nidx * sizeof(Ex));
}

static bool extends(const Layout *l, const TOp *first, TOp *o) {
    NestHeld held;
    if (!is_plain(l, o)) return false;
    for (const TOp *w = first; w != o; w = w->next)
        if (!follows(l, w, o)) return false;
    return ssd_nest_hold(l->p, first, o, &held) || !is_vector(l, o);
}

typedef struct Run {
    const Layout *l;
    TOp *first, *last;
    bool found; // set by visitors
} Run;

static bool in_run(const Run *r, const TOp *o) {
    for (const TOp *w = r->first;; w = w->next) {
        if (w == o) return true;
        if (w == r->last) return false;
    }
}

static void made_here(void *ctx, Val v) {
    Run *r = ctx;
    for (const TOp *o = r->first;; o = o->next) {
        r->found |= o->out && o->out == ssd_layout_root(r->l, v);
        if (o == r->last) return;
    }
}

// --- Loads first --------------------------------------------------------------------------------
// Scalars, which the others' arithmetic waits for, then vectors, then tiles, then the rest.
enum { NOT_A_LOAD = 3 };
static int turn_of(Run *r, const TOp *o) {
    r->found = o->op != TOP_LOAD;
    if (!r->found) ssd_nest_operands(r->l->p, o, made_here, r);
    return r->found ? NOT_A_LOAD : axes(r->l, o);
}

static void loads_first(Run *r, TOp **link) {
    TOp *behind = r->last->next, *head[NOT_A_LOAD + 1] = {NULL}, **tail[NOT_A_LOAD + 1];
    VEC(u8) turn = {0};
    for (const TOp *o = r->first; o != behind; o = o->next)
        vec_push(r->l->p->arena, &turn, (u8)turn_of(r, o));
    for (int k = 0; k <= NOT_A_LOAD; k++) tail[k] = &head[k];
    u32 i = 0;
    for (TOp *o = r->first; o != behind; o = o->next, i++) {
        *tail[turn.v[i]] = o;
        tail[turn.v[i]] = &o->next;
    }
    for (int k = 0; k <= NOT_A_LOAD; k++) {
        if (!head[k]) continue;
        *link = head[k];
        link = tail[k];
    }
    *link = behind;
}

// --- The pass -----------------------------------------------------------------------------------
static bool used_outside(const Run *r, Val v) {
    for (u32 i = 0; i < r->l->ops.n; i++) {
        const TOp *o = r->l->ops.v[i];
        if (!in_run(r, o) && ssd_nest_op_reads(r->l->p, o, v)) return true;
    }
    return false;
}

// A tile is worth it that comes from memory, goes there or is summed up, when all tiles begin and
// end here: what a product reads lies in memory anyway.
static bool is_worth(const Run *r) {
    bool worth = false;
    for (const TOp *o = r->first;; o = o->next) {
        worth |= (accesses(o) || o->op == TOP_REDUCE) && axes(r->l, o) == 2;
        if (o->out && val(r->l, o->out)->naxes == 2 && used_outside(r, o->out)) return false;
        if (o == r->last) return worth;
    }
}

void ssd_layout_hold(Layout *l, TBlock *b) {
    for (TOp **link = &b->first, *o; (o = *link); link = &o->next) {
        ssd_layout_hold(l, &o->body);
        if (!is_plain(l, o)) continue;
        Run r = {.l = l, .first = o, .last = o};
        while (r.last->next && extends(l, o, r.last->next)) r.last = r.last->next;
        if (!is_worth(&r)) continue;
        TOp *behind = r.last->next;
        loads_first(&r, link);
        r.first = r.last = *link;
        while (r.last->next != behind) r.last = r.last->next;
        if (!behind) b->last = r.last;
        for (TOp *w = r.first; w != behind; w = w->next)
            if (w->out && val(l, w->out)->naxes && !used_outside(&r, w->out))
                l->p->vals.v[w->out].lay.space = SP_REG;
        o = r.last;
    }
}
