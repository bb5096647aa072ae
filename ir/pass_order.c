// SPDX-License-Identifier: Apache-2.0
// order: the ops of a role in the order that keeps its engines busy (T2 -> T2).
//
//     before                                   after, where products are asynchronous
//       await in                                 await in
//       await masks at r                         yi = mma async sb C_
//       yi = mma sb C_                           xt = copy x_ ; vw = map {xt*w} ; sd = map {s*ed}
//       ys = map {yi*f + D_*xt}                  s1 = mma async vw B_ + sd
//       y_ = mma xt M + ys                       wait yi pending 1
//       ..                                       ys = map {yi*f + D_*xt}
//       s1 = mma vw B_ + sd                      await masks at r
//       release masks at r                       y_ = mma async xt M + ys
//       release in                               wait y_ ; release masks at r ; release in
//
// A list schedule: products first, those that wait for the fewest others before them, each with
// just what it needs in front of it; a wait stands just before the first op that meets the
// product's registers or slots; a ring is awaited when its tiles are needed and released as soon as
// nothing reads them. Bodies end with no product under way. Needs: T2. Keeps: the meaning, as every
// op still follows what it depends on.
#include "nest.h"
#include "pass.h"
#include "timed.h"

enum { OPS = 256, PRODUCTS = 16 };

typedef struct OpNode {
    TOp *op;
    u8 depth; // products in front of it
    bool done;
    VEC(Val) reads, writes; // registers, rings and values
} OpNode;

typedef struct Order {
    Prog *p;
    Arena *a;
    const TKernel *k;
    bool async;
    OpNode node[OPS];
    int n;
    TBlock out;
    int flying[PRODUCTS]; // products under way, in order of issue
    int nflying;
    int issued[OPS], nissued; // by node: which product it is; how many there are
} Order;

static const TVal *val(const Order *o, Val v) { return &o->p->vals.v[v]; }

// What stands for a value's storage: its registers, its ring, or itself.
static Val storage(const Order *o, Val v) {
    if (!v) return 0;
    const TVal *t = val(o, v);
    if (ssd_timed_in_slot(&t->lay)) {
        const TOp *ring = ssd_timed_slot_ring(o->p, o->k, ssd_timed_base(o->p, o->k, v));
        return ring ? ring->out : v;
    }
    return t->lay.buf ? t->lay.buf : v;
}

typedef struct Gather {
    Order *o;
    OpNode *n;
} Gather;
static void reads(void *ctx, Val v) {
    Gather *g = ctx;
    Val s = storage(g->o, v);
    vec_push(g->o->a, &g->n->reads, v);
    if (s != v) vec_push(g->o->a, &g->n->reads, s);
}
static void writes(Gather *g, Val v) {
    if (v) vec_push(g->o->a, &g->n->writes, v);
}

static void gather(Gather *g, TOp *op) {
    Order *o = g->o;
    bool view = ssd_timed_is_view(o->p, op);
    ssd_nest_operands(o->p, op, reads, g);
    writes(g, op->out);
    if (op->out && !view && val(o, op->out)->naxes) writes(g, storage(o, op->out));
    switch ((TOpCode)op->op) {
    case TOP_ACQUIRE:
    case TOP_PUBLISH:
    case TOP_AWAIT:
    case TOP_RELEASE: writes(g, op->a); break;
    case TOP_INTO:
    case TOP_FETCH:
    case TOP_SEND: writes(g, storage(o, op->a)); break;
    default: break;
    }
    for (TOp *in = op->body.first; in; in = in->next) gather(g, in);
}

static bool meets(const OpNode *a, const OpNode *b) { // one writes what the other touches
    for (u32 i = 0; i < a->writes.n; i++) {
        for (u32 k = 0; k < b->reads.n; k++)
            if (a->writes.v[i] == b->reads.v[k]) return true;
        for (u32 k = 0; k < b->writes.n; k++)
            if (a->writes.v[i] == b->writes.v[k]) return true;
    }
    for (u32 i = 0; i < b->writes.n; i++)
        for (u32 k = 0; k < a->reads.n; k++)
            if (b->writes.v[i] == a->reads.v[k]) return true;
    return false;
}

static bool outside(const TOp *op) { return op->op == TOP_STORE || op->op == TOP_SEND; }
static bool after(const Order *o, int i, int j) { // must j stay behind i?
    if (outside(o->node[i].op) && outside(o->node[j].op)) return true;
    return meets(&o->node[i], &o->node[j]);
}

// Waits for product f and those before it.
static void land(Order *o, int f) {
    TB b = {o->p, &o->out};
    TOp *w = ssd_tile_op(&b, TOP_WAIT);
    w->a = o->node[o->flying[f]].op->out;
    w->pending = o->nflying - 1 - f;
    memmove(o->flying, o->flying + f + 1, sizeof(int) * (size_t)(o->nflying - 1 - f));
    o->nflying -= f + 1;
}

static bool ready(const Order *o, int i) {
    for (int k = 0; k < i; k++)
        if (!o->node[k].done && after(o, k, i)) return false;
    return true;
}

static bool flies(const Order *o, const OpNode *n) { // a product under way meets it
    for (int f = 0; f < o->nflying; f++)
        if (meets(&o->node[o->flying[f]], n)) return true;
    return false;
}

static void releases(Order *o) {
    for (int i = 0; i < o->n; i++) {
        OpNode *n = &o->node[i];
        if (n->done || n->op->op != TOP_RELEASE || !ready(o, i) || flies(o, n)) continue;
        n->done = true;
        ssd_block_append(&o->out, n->op);
    }
}

static void emit(Order *o, int i) {
    OpNode *n = &o->node[i];
    bool nested = n->op->body.first != NULL, last = n->op->op == TOP_YIELD;
    for (int f = o->nflying - 1; f >= 0; f--)
        if (nested || last || meets(&o->node[o->flying[f]], n)) {
            land(o, f);
            releases(o);
            break;
        }
    n->done = true;
    ssd_block_append(&o->out, n->op);
    if (n->op->op == TOP_MMA && o->async) {
        n->op->flags |= TF_ASYNC;
        o->issued[i] = o->nissued++;
        o->flying[o->nflying++] = i;
        if (o->nflying == PRODUCTS) land(o, 0);
    }
    releases(o);
}

// What op i needs, then op i; rings are awaited last.
static void bring(Order *o, int i) {
    for (int late = 0; late < 2; late++)
        for (int k = 0; k < i; k++) {
            OpNode *n = &o->node[k];
            if ((n->op->op == TOP_AWAIT) != late || n->done || !after(o, k, i)) continue;
            bring(o, k);
        }
    if (!o->node[i].done) emit(o, i);
}

// The youngest product that op i, or what is still to come before it, waits for; -1: none. A yield
// waits for all.
static int needs(const Order *o, int i) {
    int most = o->node[i].op->op == TOP_YIELD ? o->nissued - 1 : -1;
    for (int k = 0; k < i; k++) {
        if (!after(o, k, i)) continue;
        bool product = o->node[k].op->op == TOP_MMA && (o->node[k].op->flags & TF_ASYNC);
        if (product) most = MAX(most, o->issued[k]);
        if (!o->node[k].done) most = MAX(most, needs(o, k));
    }
    return most;
}

static void block(Order *outer, TBlock *b);

static void schedule(Order *o, TBlock *b) {
    for (TOp *op = b->first; op; op = op->next) {
        if (o->n == OPS) return; // longer than anything we make: as it stands
        OpNode *n = &o->node[o->n++];
        *n = (OpNode){.op = op};
        Gather g = {o, n};
        gather(&g, op);
    }
    for (int i = 0; i < o->n; i++)
        for (int k = 0; k < i; k++)
            if (after(o, k, i))
                o->node[i].depth =
                    MAX(o->node[i].depth, (u8)(o->node[k].depth + (o->node[k].op->op == TOP_MMA)));
    for (int depth = 0; depth < PRODUCTS && o->async; depth++)
        for (int i = 0; i < o->n; i++)
            if (o->node[i].op->op == TOP_MMA && o->node[i].depth == depth && !o->node[i].done)
                bring(o, i);
    for (int product = -1; product < o->nissued; product++) // what needs the older ones first
        for (int i = 0; i < o->n; i++)
            if (!o->node[i].done && o->node[i].op->op != TOP_RELEASE && needs(o, i) <= product)
                bring(o, i);
    if (o->nflying) land(o, o->nflying - 1);
    releases(o);
    for (int i = 0; i < o->n; i++) // a release that other releases wait for
        if (!o->node[i].done) emit(o, i);
    *b = o->out;
}

static void block(Order *outer, TBlock *b) {
    for (TOp *op = b->first; op; op = op->next)
        if (op->body.first) block(outer, &op->body);
    if (!b->first) return;
    Order *o = NEW(outer->a, Order);
    o->p = outer->p;
    o->a = outer->a;
    o->k = outer->k;
    o->async = outer->async;
    schedule(o, b);
}

// Takes back what was decided about products.
static void again(TBlock *b) {
    TOp **at = &b->first, *last = NULL;
    for (TOp *o = b->first; o; o = o->next) {
        o->flags &= (u8) ~(o->op == TOP_MMA ? TF_ASYNC : 0);
        again(&o->body);
        if (o->op == TOP_WAIT) {
            *at = o->next;
            continue;
        }
        at = &o->next;
        last = o;
    }
    b->last = last;
}

bool ssd_pass_order(Unit *u) {
    Prog *p = u->prog;
    bool changed = false;
    for (u32 k = 0; k < p->kernels.n; k++) {
        TKernel *t = &p->kernels.v[k];
        if (!ssd_timed_kernel(p, t)) continue;
        Order o = {.p = p, .a = p->arena, .k = t, .async = u->machine->wgmma};
        for (TOp *r = t->body.first; r; r = r->next) {
            if (r->op != TOP_ROLE) continue;
            block(&o, &r->body);
            if (!o.async || ssd_timed_need(p, t, r, true, true) <= r->regs) continue;
            o.async = false; // one product after the other holds fewer operands
            again(&r->body);
            block(&o, &r->body);
            o.async = u->machine->wgmma;
        }
        changed = true;
    }
    return changed;
}
