// SPDX-License-Identifier: Apache-2.0
// Runs kernels of roles (T2) as a race detector.
//
// A copy of a role is an Actor: a stack of loops and a place in the text. Actors take turns, an op
// at a time; fetches, sends and asynchronous products are Events that land at some later moment.
// Whose turn it is and what lands is drawn from the seed.
//
// Order is kept by vector clocks. Besides each actor, whatever runs beside it has a component of
// its own: an actor's products together, and for each slot what an actor fetches into it and what
// it sends from it. An access to a slot is remembered with its component and tick; a later one that
// overlaps it, one of the two a write, must have seen that tick. What a clock has seen travels with
// publish and release, one clock for each round of a slot and each actor.
//
// An actor's values are its own; those in registers are read only while their `regs` still hold
// them.
#include "tile_run.h"

#include <math.h>

#define fail ssd_run_fail

enum { MAX_LOOPS = 32 };

typedef u32 *Clock;

typedef struct Access {
    u32 agent, tick;
    bool write;
    i64 at[6]; // of each axis of the tile: an index, or -1 for all
    const TOp *op;
} Access;
typedef struct Tile { // one tile of one slot
    double *d;
    u8 *written; // since the slot was acquired
    i64 n;
    VEC(Access) seen;
} Tile;
typedef struct Passed {
    VEC(Clock) round; // of each time an actor handed a slot on
    Clock waiting;    // handed on, but what it fetched or sends has not landed
    int landing;
    u32 issued; // fetches or sends: ticks of their component
} Passed;
typedef struct Phys { // a slot of one copy of a ring
    Tile *tile;
    Passed *full, *empty;  // by actor
    i64 acquired;          // rounds
    u32 *fetcher, *sender; // by actor: components
} Phys;
typedef struct RingRun {
    Ring ring;
    int ntiles;
    Val *tile;
    Phys *phys; // copy after copy
} RingRun;

typedef struct View { // of a slot's tile or a register value, by a value's axes
    Val base;
    i64 off, stride[6];
    u8 axis[6]; // position in the base
    i64 at[6];  // by position in the base
} View;
typedef struct Product {
    Step *step;
    Tile *in[2]; // where operands a and b lie, NULL: registers
    View view[2];
    u32 version;
} Product;
typedef struct Level {
    Step *at;
    Step *loop;
    i64 k, lo, hi;
} Level;
typedef struct RingPlace { // where an actor stands in a copy of a ring
    i64 filled, emptied;
} RingPlace;
typedef struct Actor {
    const TOp *role;
    int index, copy;
    const char *label;
    Slot *slot; // by value
    View *view;
    Val *holder; // by regs: the value in it, and which definition of it
    u32 *holder_version;
    u32 *issue;        // by value: the product that makes it, 1 the first; 0 none
    RingPlace **place; // by ring, by copy
    int *to, *from;    // by ring: the copy that is filled, that is read
    Step *body;
    Level level[MAX_LOOPS];
    int depth;
    bool blocked;
    double weight;
    Clock clock;
    VEC(Product) product;
    u32 landed, waited; // products
} Actor;

typedef struct Event { // a fetch or a send
    Actor *actor;
    Step *step;
    Tile *tile;
    View view;
    Passed *passed;
    double *data; // fetch
    i64 *to;      // send: elements of the tensor, -1: none
    u32 agent, tick;
} Event;

typedef struct Timed {
    Interp *m;
    const TKernel *k;
    int nactors, nrings;
    Actor *actor;
    RingRun *ring;
    u32 *ring_of, *tile_of; // by slot's tile: its ring, its place there; by ring
    u32 nclock;             // components
    Actor *now;
    const Product *landing;
    VEC(Event) event;
    u64 random;
    double eager; // how often an event lands rather than an actor moves
} Timed;

// --- Chance -------------------------------------------------------------------------------------
static double chance(Timed *t) {
    t->random += 0x9e3779b97f4a7c15ull;
    u64 z = t->random;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}
static u32 pick(Timed *t, u32 n) { return (u32)(chance(t) * n); }

// --- Clocks -------------------------------------------------------------------------------------
static Clock clock_copy(Timed *t, Clock from) {
    Clock c = NEWN(&t->m->block, u32, t->nclock);
    memcpy(c, from, t->nclock * sizeof *c);
    return c;
}
static void clock_join(Timed *t, Clock to, Clock from) {
    for (u32 i = 0; i < t->nclock; i++) to[i] = MAX(to[i], from[i]);
}
static u32 product_agent(const Timed *t, const Actor *a) { return (u32)(t->nactors + a->index); }

static void stir(Timed *t) {
    for (int i = 0; i < t->nactors; i++) t->actor[i].blocked = false;
}

// --- Accesses to slots --------------------------------------------------------------------------
static bool boxes_meet(const i64 *a, const i64 *b) {
    for (int i = 0; i < 6; i++)
        if (a[i] >= 0 && b[i] >= 0 && a[i] != b[i]) return false;
    return true;
}

// An access by `agent` at `tick`, by who has seen the actor's clock.
static void touch(Timed *t, Tile *x, Val tile, const i64 *at, bool write, u32 agent, u32 tick) {
    Interp *m = t->m;
    Access *same = NULL;
    for (u32 i = 0; i < x->seen.n; i++) {
        Access *a = &x->seen.v[i];
        if (a->agent == agent && a->write == write && !memcmp(a->at, at, sizeof a->at)) same = a;
        if (a->agent == agent || !(write || a->write) || !boxes_meet(a->at, at)) continue;
        if (t->now->clock[a->agent] >= a->tick) continue;
        Text other = {0};
        ssd_tile_op_print(m->p, a->op, &other);
        char *s = ssd_arena_dup(m->a, other.s, other.n);
        ssd_text_free(&other);
        fail(m, "race on `%s` of ring `%s`: nothing orders `%s` before this", name(m, tile),
             name(m, t->ring[t->ring_of[tile]].ring.op->out), s);
    }
    Access a = {.agent = agent, .tick = tick, .write = write, .op = m->op};
    memcpy(a.at, at, sizeof a.at);
    if (same)
        *same = a;
    else
        vec_push(m->a, &x->seen, a);
}

static RingRun *ring_of(Timed *t, Val tile) { return &t->ring[t->ring_of[tile]]; }

// The slot of a ring that the actor fills, or reads, next.
static Phys *phys_at(Timed *t, RingRun *r, bool fill) {
    u32 i = (u32)(r - t->ring);
    int copy = fill ? t->now->to[i] : t->now->from[i], depth = r->ring.op->depth;
    const RingPlace *at = &t->now->place[i][copy];
    return &r->phys[copy * depth + (int)((fill ? at->filled : at->emptied) % depth)];
}
static Tile *tile_at(Timed *t, Val tile, bool fill) {
    return &phys_at(t, ring_of(t, tile), fill)->tile[t->tile_of[tile]];
}

// --- Values -------------------------------------------------------------------------------------
static bool in_slot(const Timed *t, Val v) { return ssd_timed_in_slot(&tv(t->m, v)->lay); }
static bool in_regs(const Timed *t, Val v) {
    u8 s = tv(t->m, v)->lay.space;
    return s == SP_ACC || s == SP_FRAG || s == SP_LANE || s == SP_COLS;
}

static View whole(const Timed *t, Val v) {
    View w = {.base = v, .at = {-1, -1, -1, -1, -1, -1}};
    for (int i = 0; i < tv(t->m, v)->naxes; i++) {
        w.axis[i] = (u8)i;
        w.stride[i] = t->m->slot[v].stride[i];
    }
    return w;
}
static View view_of(const Timed *t, Val v) {
    return t->now->view[v].base ? t->now->view[v] : whole(t, v);
}
// A slice of what a value of type v shows; out_at: its axes, by position.
static View view_at(View w, const TVal *v, u8 axis, i64 index, u8 *out_at) {
    int n = 0;
    for (int i = 0; i < v->naxes; i++)
        if (v->ax[i] == axis) {
            w.off += index * w.stride[i];
            w.at[w.axis[i]] = index;
        } else {
            w.stride[n] = w.stride[i], w.axis[n] = w.axis[i];
            out_at[n++] = v->ax[i];
        }
    return w;
}

// rename, and at on a slot's tile.
void ssd_timed_see(Interp *m, Step *s) {
    Timed *t = m->timed;
    const TOp *o = s->op;
    const TVal *a = tv(m, o->a), *v = tv(m, o->out);
    View from = view_of(t, o->a), w;
    u8 ax[6];
    if (o->op == TOP_AT) {
        from = view_at(from, a, o->ax[0], ssd_run_index(m, s->e, o->ax[0]), ax);
    } else {
        for (int i = 0; i < a->naxes; i++)
            ax[i] = a->ax[i] == o->ax[0] ? o->ax[1] : a->ax[i] == o->ax[2] ? o->ax[3] : a->ax[i];
    }
    w = from;
    for (int i = 0; i < v->naxes; i++)
        for (int k = 0; k < v->naxes; k++)
            if (v->ax[i] == ax[k]) w.stride[i] = from.stride[k], w.axis[i] = from.axis[k];
    t->now->view[o->out] = w;
}

static Walk walk_view(const Timed *t, Val v, const View *w) {
    Walk at = {.off = {0, w->off}};
    for (int i = 0; i < tv(t->m, v)->naxes; i++)
        walk_add(&at, axis_size(t->m, tv(t->m, v)->ax[i]), t->m->slot[v].stride[i], w->stride[i],
                 0);
    return at;
}

static void from_tile(Timed *t, Val v, const Tile *x, const View *w) {
    Walk at = walk_view(t, v, w);
    do {
        if (!x->written[at.off[1]])
            fail(t->m, "`%s` is read where nothing was put into its slot", name(t->m, v));
        t->m->slot[v].d[at.off[0]] = x->d[at.off[1]];
    } while (walk_next(&at));
}

static void from_regs(Timed *t, Val v, const View *w) {
    if (w->base == v) return;
    Walk at = walk_view(t, v, w);
    const double *d = t->m->slot[w->base].d;
    do t->m->slot[v].d[at.off[0]] = d[at.off[1]];
    while (walk_next(&at));
}

// A value in registers must still be there; `chain`: it may be a product that is under way.
static void held(Timed *t, Val v, bool chain) {
    Interp *m = t->m;
    Actor *a = t->now;
    Val regs = tv(m, v)->lay.buf, by = a->holder[regs];
    if (by != v)
        fail(m, by ? "`%s` was overwritten by `%s`" : "`%s` was never put in its registers",
             name(m, v), by ? name(m, by) : "");
    if (a->holder_version[regs] != m->slot[v].version) fail(m, "`%s` was overwritten", name(m, v));
    if (a->issue[v] > a->waited && !chain)
        fail(m, "`%s` is read while its product may be under way", name(m, v));
}

// Brings a value's elements into its dense array.
void ssd_timed_gather(Interp *m, Val v) {
    Timed *t = m->timed;
    if (!in_slot(t, v) && !in_regs(t, v)) return;
    View w = view_of(t, v);
    if (t->landing) {
        const Product *x = t->landing;
        int k = v == x->step->op->b;
        if (in_slot(t, v))
            from_tile(t, v, x->in[k], &x->view[k]);
        else
            from_regs(t, v, &w);
    } else if (in_slot(t, v)) {
        Tile *x = tile_at(t, w.base, false);
        touch(t, x, w.base, w.at, false, (u32)t->now->index, t->now->clock[t->now->index]);
        from_tile(t, v, x, &w);
    } else {
        held(t, w.base, false);
        from_regs(t, v, &w);
    }
}

// What a product under way reads or writes must stay; `chain`: but for its accumulator.
static void take_regs(Timed *t, Val v, bool chain) {
    Interp *m = t->m;
    Actor *a = t->now;
    Val regs = tv(m, v)->lay.buf;
    for (u32 i = a->waited; i < a->product.n; i++) {
        const TOp *o = a->product.v[i].step->op;
        Val in = view_of(t, o->a).base;
        if ((tv(m, o->out)->lay.buf == regs && !chain) ||
            (in_regs(t, in) && tv(m, in)->lay.buf == regs))
            fail(m, "`%s` overwrites registers of the product `%s`, which may be under way",
                 name(m, v), name(m, o->out));
    }
    a->holder[regs] = v;
    a->holder_version[regs] = m->slot[v].version;
}

// A value was computed.
void ssd_timed_commit(Interp *m, Val v) {
    Timed *t = m->timed;
    if (t->landing) {
        m->slot[v].version = t->landing->version;
        return;
    }
    t->now->view[v].base = 0;
    t->now->issue[v] = 0;
    if (in_regs(t, v)) take_regs(t, v, false);
}

// --- Asynchronous products ----------------------------------------------------------------------
static void issue(Timed *t, Step *s) {
    Interp *m = t->m;
    Actor *a = t->now;
    const TOp *o = s->op;
    Product x = {.step = s};
    for (int k = 0; k < 2; k++) {
        Val v = k ? o->b : o->a;
        View w = x.view[k] = view_of(t, v);
        if (in_slot(t, v)) {
            x.in[k] = tile_at(t, w.base, false);
            touch(t, x.in[k], w.base, w.at, false, product_agent(t, a), a->product.n + 1);
        } else {
            held(t, w.base, false);
        }
    }
    bool chain = o->c && a->issue[view_of(t, o->c).base] > a->waited;
    if (o->c) {
        View w = view_of(t, o->c);
        held(t, w.base, true);
        if (!chain) from_regs(t, o->c, &w);
    }
    x.version = m->slot[o->out].version = ++m->clock;
    a->view[o->out].base = 0;
    take_regs(t, o->out, chain);
    for (i64 i = 0; i < m->slot[o->out].n; i++) m->slot[o->out].d[i] = NAN;
    vec_push(m->a, &a->product, x);
    a->issue[o->out] = a->product.n;
}

static bool wait(Timed *t, const TOp *o) {
    Actor *a = t->now;
    u32 until = a->product.n - MIN((u32)o->pending, a->product.n);
    if (a->landed < until) return false;
    a->waited = MAX(a->waited, until);
    Clock c = a->clock;
    c[product_agent(t, a)] = MAX(c[product_agent(t, a)], until);
    return true;
}

static void land_product(Timed *t, Actor *a) {
    Interp *m = t->m;
    t->now = a;
    t->landing = &a->product.v[a->landed];
    m->slot = a->slot, m->kernel = a->label, m->op = t->landing->step->op;
    // A renamed accumulator is looked through again: what it shows may have landed since.
    ssd_run_op(m, t->landing->step);
    t->landing = NULL;
    a->landed++;
}

// --- Fetches, sends, into -----------------------------------------------------------------------
static View filled_view(Timed *t, Step *s) {
    const TOp *o = s->op;
    u8 ax[6];
    View w = whole(t, o->a);
    if (!o->ax[0]) return w;
    return view_at(w, tv(t->m, o->a), o->ax[0], ssd_run_index(t->m, s->e, o->ax[0]), ax);
}

// The box of a step over a view, row-major: off[1] walks the tile.
static Walk walk_box(const Timed *t, const Step *s, const View *w) {
    Walk at = {.off = {0, w->off}};
    for (int i = 0; i < s->nbox; i++) walk_add(&at, axis_size(t->m, s->box[i]), 0, w->stride[i], 0);
    return at;
}

enum { NOWHERE = -1, BESIDE = -2 };

// Are all its indices in range but for the last one?
static bool in_row(const Interp *m, const TOp *o, const Row *idx, i64 lane) {
    const Array *t = &m->tensor[o->tensor];
    for (int d = 0; d + 1 < t->rank; d++) {
        double i = idx[d].p[lane * idx[d].s];
        if (!(i >= 0 && i < (double)t->dims[d])) return false;
    }
    return true;
}

// A loose fetch starts at a multiple of 16 bytes of its rows, which are longer than a tile's.
static void check_start(Interp *m, Step *s, const i64 *origin) {
    const TOp *o = s->op;
    const TTensor *t = &m->p->tensors.v[o->tensor];
    double start = 0, n = 1;
    for (int k = 0; k <= ssd_timed_along(m->p, o->tensor); k++) {
        int d = t->rank - 1 - k;
        start += *ssd_run_eval(m, s->idx[d], origin).p * n;
        n *= m->p->exs.v[t->dim[d]].num;
    }
    start *= (double)ssd_dtype_size((ssd_dtype)t->dtype);
    if (fmod(start, 16) != 0)
        fail(m, "a loose fetch of `%s` starts %g bytes into its rows, not at a multiple of 16",
             t->name, start);
}

// The tensor's elements that a fetch or send moves, in the order of its box; NOWHERE: out of range,
// BESIDE: by the last index alone, where that is loose.
static i64 *elements(Timed *t, Step *s, i64 *out_n) {
    Interp *m = t->m;
    const TOp *o = s->op;
    i64 size[8], pos[8] = {0}, lanes = 1, n = 1;
    for (int i = 0; i < s->nbox; i++) size[i] = lanes = axis_size(m, s->box[i]), n *= lanes;
    for (int i = 0; i < o->nidx; i++) ssd_run_uses(m, s->idx[i]);
    ssd_run_uses(m, s->when);
    if (o->flags & TF_LOOSE) check_start(m, s, pos);
    bool loose = o->flags & TF_LOOSE || tv(m, o->a)->lay.space == SP_LOOSE;
    i64 *at = NEWN(&m->block, i64, n), *to = at;
    do {
        Row idx[8], on = {0};
        for (int i = 0; i < o->nidx; i++) idx[i] = ssd_run_eval(m, s->idx[i], pos);
        if (s->when) on = ssd_run_eval(m, s->when, pos);
        for (i64 l = 0; l < lanes; l++) {
            i64 k = ssd_run_element(&m->tensor[o->tensor], idx, l);
            if (k < 0) k = loose && in_row(m, o, idx, l) ? BESIDE : NOWHERE;
            *to++ = s->when && on.p[l * on.s] == 0 ? NOWHERE : k;
        }
    } while (ssd_run_next_row(size, s->nbox, pos));
    *out_n = n;
    return at;
}

static void fetch(Timed *t, Step *s) {
    Interp *m = t->m;
    Actor *a = t->now;
    const TOp *o = s->op;
    Phys *phys = phys_at(t, ring_of(t, o->a), true);
    Event e = {.actor = a, .step = s, .view = filled_view(t, s)};
    e.tile = &phys->tile[t->tile_of[o->a]];
    e.passed = &phys->full[a->index];
    e.agent = phys->fetcher[a->index];
    e.tick = ++e.passed->issued;
    i64 n, *at = elements(t, s, &n);
    e.data = NEWN(&m->block, double, n);
    for (i64 i = 0; i < n; i++)
        e.data[i] = at[i] == BESIDE ? NAN : at[i] < 0 ? 0 : m->tensor[o->tensor].v[at[i]];
    touch(t, e.tile, o->a, e.view.at, true, e.agent, e.tick);
    e.passed->landing++;
    vec_push(m->a, &t->event, e);
}

static void send(Timed *t, Step *s) {
    Actor *a = t->now;
    const TOp *o = s->op;
    Event e = {.actor = a, .step = s, .view = view_of(t, o->a)};
    Phys *phys = phys_at(t, ring_of(t, e.view.base), false);
    i64 n;
    e.tile = &phys->tile[t->tile_of[e.view.base]];
    e.passed = &phys->empty[a->index];
    e.agent = phys->sender[a->index];
    e.tick = ++e.passed->issued;
    e.to = elements(t, s, &n);
    touch(t, e.tile, e.view.base, e.view.at, false, e.agent, e.tick);
    e.passed->landing++;
    vec_push(t->m->a, &t->event, e);
}

enum { TRIANGLE = 16 }; // rows and columns of a block

static int run_of(const Timed *t,
                  Val tile) { // how many neighbours are equal, by the slot's own word
    const TOp *ring = ssd_timed_slot_ring(t->m->p, t->k, tile);
    for (const TOp *o = ring->body.first; o; o = o->next)
        if (o->out == tile) return o->depth;
    return 0;
}

static void into(Timed *t, Step *s) {
    Interp *m = t->m;
    const TOp *o = s->op;
    View w = filled_view(t, s);
    Tile *x = tile_at(t, o->a, true);
    touch(t, x, o->a, w.at, true, (u32)t->now->index, t->now->clock[t->now->index]);
    ssd_run_uses(m, s->e2);
    int row = 0, col = 0;
    for (int i = 0; i < s->nbox; i++) {
        if (s->box[i] == o->tri_row) row = i;
        if (s->box[i] == o->tri_col) col = i;
    }
    Walk at = walk_box(t, s, &w);
    i64 size[8], pos[8] = {0};
    for (int i = 0; i < s->nbox; i++) size[i] = axis_size(m, s->box[i]);
    if (s->hi) ssd_run_uses(m, s->hi);
    int run = run_of(t, o->a);
    double before = 0;
    do {
        Row r = ssd_run_eval(m, s->e2, pos), b = s->hi ? ssd_run_eval(m, s->hi, pos) : r;
        for (i64 l = 0; l < s->e2->lanes; l++) {
            bool below = at.pos[row] / TRIANGLE > at.pos[col] / TRIANGLE;
            double v = below ? b.p[l * b.s] : r.p[l * r.s];
            if (run > 1 && l % run && v != before) fail(m, "elements of a run are not equal");
            before = v;
            if (o->tri_row && at.pos[row] < at.pos[col] && v != 0)
                fail(m, "the value is not zero above its diagonal");
            x->d[at.off[1]] = ssd_run_round(m, v, tv(m, o->a)->dtype);
            x->written[at.off[1]] = 1;
            walk_next(&at);
        }
    } while (ssd_run_next_row(size, s->nbox, pos));
}

static void pass_on(Timed *t, Passed *p, Clock c) {
    vec_push(t->m->a, &p->round, c);
    stir(t);
}

static void land_event(Timed *t, u32 i) {
    Interp *m = t->m;
    Event e = t->event.v[i];
    const TOp *o = e.step->op;
    t->event.v[i] = t->event.v[--t->event.n];
    m->slot = e.actor->slot, m->kernel = e.actor->label, m->op = o;
    Walk at = walk_box(t, e.step, &e.view);
    i64 k = 0;
    do {
        i64 off = at.off[1];
        if (o->op == TOP_FETCH) {
            e.tile->d[off] = ssd_run_round(m, e.data[k], tv(m, o->a)->dtype);
            e.tile->written[off] = 1;
        } else if (e.to[k] >= 0) {
            if (!e.tile->written[off])
                fail(m, "`%s` is sent where nothing was put into its slot", name(m, o->a));
            m->tensor[o->tensor].v[e.to[k]] =
                ssd_run_round(m, e.tile->d[off], m->p->tensors.v[o->tensor].dtype);
        }
        k++;
    } while (walk_next(&at));
    if (--e.passed->landing || !e.passed->waiting) return;
    pass_on(t, e.passed, e.passed->waiting);
    e.passed->waiting = NULL;
}

// --- Rings --------------------------------------------------------------------------------------
// Whether an actor takes part in a copy of a ring at this end.
static bool takes_part(const RingRun *r, const RingEnd *e, const Actor *a, int copy) {
    if (e->role != a->role) return false;
    bool by_copy = r->ring.op->copies > 1 && a->role->copies > 1 && e->times == 1;
    return !by_copy || a->copy == copy;
}

static bool all_passed(Timed *t, const RingRun *r, int copy, bool full, const Phys *p, i64 round,
                       Clock join) {
    const RingEnd *ends = full ? r->ring.producer : r->ring.consumer;
    int n = full ? r->ring.nproducers : r->ring.nconsumers;
    for (int e = 0; e < n; e++)
        for (int i = 0; i < t->nactors; i++) {
            if (!takes_part(r, &ends[e], &t->actor[i], copy)) continue;
            const Passed *x = full ? &p->full[i] : &p->empty[i];
            if (x->round.n <= round) return false;
            if (join) clock_join(t, join, x->round.v[round]);
        }
    return true;
}

static int copy_named(Timed *t, const RingRun *r, Step *s) {
    if (!s->e) return 0;
    double c = ssd_run_scalar(t->m, s->e);
    if (!(c >= 0 && c < r->ring.op->copies))
        fail(t->m, "ring `%s` has no copy %g", name(t->m, s->op->a), c);
    return (int)c;
}

static void poison(Phys *p, int ntiles) {
    for (int i = 0; i < ntiles; i++) {
        memset(p->tile[i].written, 0, (size_t)p->tile[i].n);
        for (i64 k = 0; k < p->tile[i].n; k++) p->tile[i].d[k] = NAN;
    }
}

static bool take_slot(Timed *t, Step *s) { // acquire, await
    RingRun *r = &t->ring[t->ring_of[s->op->a]];
    u32 i = t->ring_of[s->op->a];
    bool fill = s->op->op == TOP_ACQUIRE;
    int copy = copy_named(t, r, s), depth = r->ring.op->depth;
    RingPlace *at = &t->now->place[i][copy];
    i64 k = fill ? at->filled : at->emptied, round = k / depth;
    Phys *p = &r->phys[copy * depth + (int)(k % depth)];
    i64 need = fill ? round - 1 : round;
    if (need >= 0) {
        if (!all_passed(t, r, copy, !fill, p, need, NULL)) return false;
        all_passed(t, r, copy, !fill, p, need, t->now->clock);
    }
    if (fill || r->ring.own) t->now->to[i] = copy;
    if (!fill || r->ring.own) t->now->from[i] = copy;
    if (fill && p->acquired <= round) {
        poison(p, r->ntiles);
        p->acquired = round + 1;
    }
    return true;
}

static void give_slot(Timed *t, Step *s) { // publish, release
    Actor *a = t->now;
    RingRun *r = &t->ring[t->ring_of[s->op->a]];
    bool publish = s->op->op == TOP_PUBLISH;
    int copy = copy_named(t, r, s), depth = r->ring.op->depth;
    RingPlace *at = &a->place[t->ring_of[s->op->a]][copy];
    i64 k = publish ? at->filled++ : at->emptied++;
    Phys *p = &r->phys[copy * depth + (int)(k % depth)];
    Passed *x = publish ? &p->full[a->index] : &p->empty[a->index];
    Clock c = clock_copy(t, a->clock);
    c[publish ? p->fetcher[a->index] : p->sender[a->index]] = x->issued; // all landed by then
    a->clock[a->index]++;
    if (x->waiting)
        fail(t->m, "the slot was passed on before, and what it waits for has not landed");
    if (x->landing)
        x->waiting = c;
    else
        pass_on(t, x, c);
}

// --- Actors -------------------------------------------------------------------------------------
static bool loop_next(Timed *t, Actor *a) { // at the end of a body
    Level *l = &a->level[a->depth - 1];
    if (!l->loop || ++l->k >= l->hi) {
        a->depth--;
        return a->depth > 0;
    }
    const TOp *o = l->loop->op;
    t->m->slot[o->var].d[0] = (double)(o->flags & TF_REV ? l->hi - 1 - (l->k - l->lo) : l->k);
    l->at = l->loop->body;
    return true;
}

static void enter(Timed *t, Actor *a, Step *s) {
    Interp *m = t->m;
    i64 lo = (i64)ssd_run_scalar(m, s->lo), hi = (i64)ssd_run_scalar(m, s->hi);
    ssd_run_carry(m, s->op, s);
    a->level[a->depth - 1].at = s->next;
    if (a->depth == MAX_LOOPS) fail(m, "loops are nested too deeply");
    a->level[a->depth++] = (Level){.loop = s, .k = lo - 1, .lo = lo, .hi = hi};
}

static const TOp *stands_at(const Actor *a) {
    return a->depth && a->level[a->depth - 1].at ? a->level[a->depth - 1].at->op : NULL;
}

// One op; false when it has to wait.
static bool move_on(Timed *t, Actor *a) {
    Interp *m = t->m;
    t->now = a;
    m->slot = a->slot, m->kernel = a->label;
    while (!a->level[a->depth - 1].at)
        if (!loop_next(t, a)) {
            if (a->waited < a->product.n) {
                m->op = a->product.v[a->product.n - 1].step->op;
                fail(m, "the role ends while a product may be under way");
            }
            return true;
        }
    Level *l = &a->level[a->depth - 1];
    Step *s = l->at;
    m->op = s->op;
    switch (s->op->op) {
    case TOP_FOR:
    case TOP_EACH: enter(t, a, s); return true;
    case TOP_YIELD: ssd_run_carry(m, l->loop->op, s); break;
    case TOP_ACQUIRE:
    case TOP_AWAIT:
        if (!take_slot(t, s)) return false;
        break;
    case TOP_PUBLISH:
    case TOP_RELEASE: give_slot(t, s); break;
    case TOP_FETCH: fetch(t, s); break;
    case TOP_SEND: send(t, s); break;
    case TOP_INTO: into(t, s); break;
    case TOP_WAIT:
        if (!wait(t, s->op)) return false;
        break;
    default:
        if (s->op->op == TOP_MMA && s->op->flags & TF_ASYNC)
            issue(t, s);
        else
            ssd_run_op(m, s);
    }
    l->at = s->next;
    return true;
}

SSD_NORETURN static void deadlock(Timed *t) {
    Text where = {0};
    for (int i = 0; i < t->nactors; i++) {
        const TOp *o = stands_at(&t->actor[i]);
        if (!o) continue;
        ssd_text_printf(&where, "%s %s at `", where.n ? "," : "", t->actor[i].label);
        ssd_tile_op_print(t->m->p, o, &where);
        ssd_text_printf(&where, "`");
    }
    char *s = ssd_arena_dup(t->m->a, where.s, where.n);
    ssd_text_free(&where);
    t->m->op = NULL, t->m->kernel = t->k->name;
    fail(t->m, "deadlock:%s", s);
}

static bool land_some(Timed *t) {
    u32 n = t->event.n;
    for (int i = 0; i < t->nactors; i++) n += t->actor[i].landed < t->actor[i].product.n;
    if (!n) return false;
    u32 k = pick(t, n);
    stir(t);
    if (k < t->event.n) {
        land_event(t, k);
        return true;
    }
    k -= t->event.n;
    for (int i = 0; i < t->nactors; i++)
        if (t->actor[i].landed < t->actor[i].product.n && !k--) {
            land_product(t, &t->actor[i]);
            break;
        }
    return true;
}

static Actor *choose(Timed *t) {
    double sum = 0;
    for (int i = 0; i < t->nactors; i++)
        if (t->actor[i].depth && !t->actor[i].blocked) sum += t->actor[i].weight;
    double at = chance(t) * sum;
    Actor *last = NULL;
    for (int i = 0; i < t->nactors && at >= 0; i++) {
        Actor *a = &t->actor[i];
        if (!a->depth || a->blocked) continue;
        last = a;
        at -= a->weight;
    }
    return last;
}

// All that was published was read: nothing is on its way into a block that is gone.
static void emptied(Timed *t) {
    for (int r = 0; r < t->nrings; r++)
        for (int copy = 0; copy < t->ring[r].ring.op->copies; copy++) {
            const Ring *ring = &t->ring[r].ring;
            i64 n = -1;
            for (int e = 0; e < ring->nproducers + ring->nconsumers; e++) {
                bool full = e < ring->nproducers;
                const RingEnd *end =
                    full ? &ring->producer[e] : &ring->consumer[e - ring->nproducers];
                for (int i = 0; i < t->nactors; i++) {
                    if (!takes_part(&t->ring[r], end, &t->actor[i], copy)) continue;
                    const RingPlace *at = &t->actor[i].place[r][copy];
                    i64 k = full ? at->filled : at->emptied;
                    if (n < 0) n = k;
                    if (n == k) continue;
                    t->m->op = ring->op;
                    fail(t->m, "%lld slots went in at one end, %lld at another", (long long)n,
                         (long long)k);
                }
            }
        }
}

static void run_block(Timed *t) {
    for (;;) {
        Actor *a = choose(t);
        if ((!a || chance(t) < t->eager) && land_some(t)) continue;
        if (!a) break;
        if (move_on(t, a)) continue;
        a->blocked = true;
    }
    for (int i = 0; i < t->nactors; i++)
        if (t->actor[i].depth) deadlock(t);
    t->m->kernel = t->k->name;
    emptied(t);
}

// --- Setting up ---------------------------------------------------------------------------------
static void own_value(Timed *t, Actor *a, Val v) {
    if (v) a->slot[v].d = NEWN(t->m->a, double, a->slot[v].n);
}
static void own_values(Timed *t, Actor *a, const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next) {
        own_value(t, a, o->out), own_value(t, a, o->var);
        if (o->op == TOP_FOR || o->op == TOP_EACH)
            for (int i = 0; i < o->ncarry; i++) own_value(t, a, o->carry[i]);
        own_values(t, a, &o->body);
    }
}

static void make_actor(Timed *t, Actor *a, const TOp *role, int copy, Step *body) {
    Interp *m = t->m;
    u32 n = m->p->vals.n;
    a->role = role, a->copy = copy, a->body = body;
    a->label =
        role->copies > 1
            ? ssd_arena_printf(m->a, "%s: role %s copy %d", t->k->name, name(m, role->out), copy)
            : ssd_arena_printf(m->a, "%s: role %s", t->k->name, name(m, role->out));
    a->slot = NEWN(m->a, Slot, n);
    memcpy(a->slot, m->slot, n * sizeof *a->slot);
    for (const TOp *o = t->k->body.first; o; o = o->next)
        if (o->op == TOP_RING) own_values(t, a, &o->body);
    own_value(t, a, role->var);
    own_values(t, a, &role->body);
    a->view = NEWN(m->a, View, n);
    a->holder = NEWN(m->a, Val, n), a->holder_version = NEWN(m->a, u32, n);
    a->issue = NEWN(m->a, u32, n);
    a->place = NEWN(m->a, RingPlace *, t->nrings);
    for (int r = 0; r < t->nrings; r++)
        a->place[r] = NEWN(m->a, RingPlace, t->ring[r].ring.op->copies);
    a->to = NEWN(m->a, int, t->nrings), a->from = NEWN(m->a, int, t->nrings);
    a->clock = NEWN(m->a, u32, t->nclock);
}

static void make_ring(Timed *t, RingRun *r, const TOp *o, u32 index) {
    Interp *m = t->m;
    Text why = {0};
    m->op = o;
    if (!ssd_timed_ring(m->p, t->k, o->out, &r->ring, &why)) {
        char *s = ssd_arena_dup(m->a, why.s, why.n);
        ssd_text_free(&why);
        fail(m, "%s", s);
    }
    t->ring_of[o->out] = index;
    for (const TOp *s = o->body.first; s; s = s->next) {
        t->ring_of[s->out] = index;
        t->tile_of[s->out] = (u32)r->ntiles++;
    }
    r->tile = NEWN(m->a, Val, r->ntiles);
    for (const TOp *s = o->body.first; s; s = s->next) r->tile[t->tile_of[s->out]] = s->out;
    r->phys = NEWN(m->a, Phys, o->copies * o->depth);
    for (int i = 0; i < o->copies * o->depth; i++) {
        Phys *p = &r->phys[i];
        p->tile = NEWN(m->a, Tile, r->ntiles);
        for (int k = 0; k < r->ntiles; k++) {
            p->tile[k].n = m->slot[r->tile[k]].n;
            p->tile[k].d = NEWN(m->a, double, p->tile[k].n);
            p->tile[k].written = NEWN(m->a, u8, p->tile[k].n);
        }
        p->full = NEWN(m->a, Passed, t->nactors), p->empty = NEWN(m->a, Passed, t->nactors);
        p->fetcher = NEWN(m->a, u32, t->nactors), p->sender = NEWN(m->a, u32, t->nactors);
        for (int k = 0; k < t->nactors; k++) {
            p->fetcher[k] = t->nclock++;
            p->sender[k] = t->nclock++;
        }
    }
}

static void start_ring(Timed *t, RingRun *r) {
    for (int i = 0; i < r->ring.op->copies * r->ring.op->depth; i++) {
        Phys *p = &r->phys[i];
        poison(p, r->ntiles);
        p->acquired = 0;
        for (int k = 0; k < r->ntiles; k++) p->tile[k].seen.n = 0;
        for (int k = 0; k < t->nactors; k++) {
            p->full[k].round.n = p->empty[k].round.n = 0;
            p->full[k].waiting = p->empty[k].waiting = NULL;
            p->full[k].landing = p->empty[k].landing = 0;
            p->full[k].issued = p->empty[k].issued = 0;
        }
    }
}

static void start_actor(Timed *t, Actor *a) {
    u32 n = t->m->p->vals.n;
    memset(a->view, 0, n * sizeof *a->view);
    memset(a->holder, 0, n * sizeof *a->holder);
    memset(a->issue, 0, n * sizeof *a->issue);
    memset(a->clock, 0, t->nclock * sizeof *a->clock);
    a->clock[a->index] = 1;
    a->product.n = 0;
    a->landed = a->waited = 0;
    a->blocked = false;
    for (int r = 0; r < t->nrings; r++) {
        const TOp *ring = t->ring[r].ring.op;
        memset(a->place[r], 0, (size_t)ring->copies * sizeof **a->place);
        a->to[r] = a->from[r] = ring->copies > 1 && a->copy < ring->copies ? a->copy : 0;
    }
    if (a->role->var) a->slot[a->role->var].d[0] = a->copy;
    a->depth = 1;
    a->level[0] = (Level){.at = a->body};
    double w = chance(t);
    a->weight = w * w * w + 0.01;
}

static Timed *make(Interp *m, const TKernel *k) {
    Timed *t = NEW(m->a, Timed);
    t->m = m, t->k = k;
    t->ring_of = NEWN(m->a, u32, m->p->vals.n), t->tile_of = NEWN(m->a, u32, m->p->vals.n);
    for (const TOp *o = k->body.first; o; o = o->next) {
        t->nactors += o->op == TOP_ROLE ? o->copies : 0;
        t->nrings += o->op == TOP_RING;
    }
    t->nclock = (u32)(2 * t->nactors);
    t->ring = NEWN(m->a, RingRun, t->nrings);
    t->actor = NEWN(m->a, Actor, t->nactors);
    u32 r = 0;
    for (const TOp *o = k->body.first; o; o = o->next)
        if (o->op == TOP_RING) make_ring(t, &t->ring[r], o, r), r++;
    int i = 0;
    for (const TOp *o = k->body.first; o; o = o->next) {
        if (o->op != TOP_ROLE) continue;
        Step *body = ssd_run_compile(m, &o->body, NULL);
        for (int copy = 0; copy < o->copies; copy++, i++) {
            t->actor[i].index = i;
            make_actor(t, &t->actor[i], o, copy, body);
        }
    }
    return t;
}

void ssd_timed_run(Interp *m, const TKernel *k) {
    Slot *shared = m->slot;
    Timed *t = make(m, k);
    Walk grid = {0};
    for (int i = 0; i < k->ngrid; i++) {
        i64 n = ssd_ex_eval_sym(m->p, k->grid[i].size, m->run->sym);
        if (n <= 0) return;
        walk_add(&grid, n, 0, 0, 0);
    }
    m->timed = t;
    t->random = m->run->seed;
    do {
        for (int i = 0; i < k->ngrid; i++) shared[k->grid[i].var].d[0] = (double)grid.pos[i];
        for (int r = 0; r < t->nrings; r++) start_ring(t, &t->ring[r]);
        for (int i = 0; i < t->nactors; i++) start_actor(t, &t->actor[i]);
        t->eager = 0.3 * chance(t);
        run_block(t);
        ssd_arena_free(&m->block);
    } while (walk_next(&grid));
    m->timed = NULL;
    m->slot = shared;
    m->kernel = k->name;
}
