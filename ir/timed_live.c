// SPDX-License-Identifier: Apache-2.0
// How many registers a role takes: what passes and code generators go by where a
// kernel's registers are short.
//
// A tile lives from the op that makes it to the last that meets its registers, through any loop in
// between; a carry as long as its loop; an asynchronous product holds its operands until its wait.
// A first operand that one synchronous product takes is made step by step, as that goes on: it has
// few words at a time, and what it is made of lives as long as the product. So does, where a role
// has no products, what one other map reads. A map's result may take the place of what dies there.
#include "nest.h"
#include "timed.h"

enum { STEP = 4, PART = 32 };   // words of a first operand at hand: mma.sync, wgmma
enum { BESIDE = 30, FEW = 24 }; // addresses, indices, numbers; in a role without products

typedef struct Live {
    Val regs;        // 0: for one op only
    int first, last; // ops, counted through the role
    int words;
} Live;
typedef struct Lives {
    const Prog *p;
    const TKernel *k;
    const TOp *role;
    bool lean, wgmma, products;
    const TOp **late; // by value: the op that its readers do, as they go
    VEC(Live) at;
    VEC(const TOp *) under_way;
    int now;
} Lives;

static const Lay *lay(const Prog *p, Val v) { return &p->vals.v[v].lay; }
static bool in_registers(const Prog *p, Val v) {
    u8 s = lay(p, v)->space;
    return v && (s == SP_ACC || s == SP_FRAG || s == SP_COLS) && lay(p, v)->buf;
}

// --- Tiles that wait for their readers ----------------------------------------------------------
typedef struct Readers {
    const Prog *p;
    const TKernel *k;
    Val v;
    bool found;
} Readers;
static void is_read(void *ctx, Val v) {
    Readers *r = ctx;
    r->found |= ssd_timed_base(r->p, r->k, v) == r->v;
}
static bool reads(const Prog *p, const TKernel *k, const TOp *o, Val v) {
    Readers r = {.p = p, .k = k, .v = v};
    ssd_nest_operands(p, o, is_read, &r);
    for (const TOp *in = o->body.first; in; in = in->next) r.found |= reads(p, k, in, v);
    return r.found;
}

bool ssd_timed_may_wait(const Prog *p, const TKernel *k, const TOp *o) {
    if (!o->out || !in_registers(p, o->out)) return false;
    u8 space = lay(p, o->out)->space;
    bool load = o->op == TOP_LOAD && space == SP_ACC &&
                !ssd_nest_writes(p, &k->body, &p->tensors.v[o->tensor]),
         copy = o->op == TOP_COPY && space == SP_FRAG && ssd_timed_in_slot(lay(p, o->a));
    if (!load && !copy) return false;
    const TOp *ring = copy ? ssd_timed_slot_ring(p, k, ssd_timed_base(p, k, o->a)) : NULL;
    bool left = false;
    int readers = 0;
    for (const TOp *x = o->next; x; x = x->next) {
        left |= ring && x->op == TOP_RELEASE && x->a == ring->out;
        if (ssd_timed_is_view(p, x) || !reads(p, k, x, o->out)) continue;
        bool elements = x->op == TOP_MAP || x->op == TOP_INTO,
             other = copy && (x->op == TOP_STORE || x->op == TOP_MMA);
        if (left || x->body.first || (!elements && !other)) return false;
        readers++;
    }
    return load ? readers == 1 : readers > 0;
}

// The op of its block that alone reads what o makes; NULL: there is none.
static const TOp *only_reader(const Lives *l, const TOp *o) {
    const TOp *found = NULL;
    for (const TOp *x = o->next; x; x = x->next) {
        if (ssd_timed_is_view(l->p, x) || !reads(l->p, l->k, x, o->out)) continue;
        if (found) return NULL;
        found = x;
    }
    return found;
}
static bool by_words(const TOp *o) { return o->op == TOP_MAP || o->op == TOP_SWAP; }

static bool waits(const Lives *l, const TOp *o) {
    if (!o->out || !in_registers(l->p, o->out)) return false;
    if (l->lean && (o->op == TOP_LOAD || !l->wgmma) && ssd_timed_may_wait(l->p, l->k, o))
        return true;
    bool packs = o->op == TOP_COPY && lay(l->p, o->a)->space == SP_ACC;
    if (!packs && !by_words(o)) return false;
    const TOp *r = only_reader(l, o);
    if (!l->products) return r && (by_words(r) || r->op == TOP_INTO);
    return lay(l->p, o->out)->space == SP_FRAG && (packs || !l->wgmma) && r && r->op == TOP_MMA &&
           !(r->flags & TF_ASYNC) && r->c != o->out;
}

// --- Lives --------------------------------------------------------------------------------------
static int words_of(const TOp *role, Val regs) {
    for (const TOp *o = role->body.first; o; o = o->next)
        if (o->op == TOP_REGS && o->out == regs) return o->depth;
    return 0;
}

static void touch(void *ctx, Val v) {
    Lives *l = ctx;
    if (!in_registers(l->p, v)) return;
    Val b = ssd_timed_base(l->p, l->k, v), regs = lay(l->p, v)->buf;
    int words = words_of(l->role, regs);
    if (l->late[b]) {
        int step = l->wgmma && l->products ? PART : STEP;
        vec_push(l->p->arena, &l->at, ((Live){0, l->now, l->now, MIN(words, step)}));
        ssd_nest_operands(l->p, l->late[b], touch, l);
        return;
    }
    for (u32 i = 0; i < l->at.n; i++)
        if (l->at.v[i].regs == regs) {
            l->at.v[i].last = l->now;
            return;
        }
    vec_push(l->p->arena, &l->at, ((Live){regs, l->now, l->now, words}));
}

bool ssd_timed_multiplies(const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next)
        if (o->op == TOP_MMA || ssd_timed_multiplies(&o->body)) return true;
    return false;
}

static void landed(Lives *l, int pending) {
    int n = (int)l->under_way.n - pending;
    for (int i = 0; i < n; i++) {
        touch(l, l->under_way.v[i]->out);
        ssd_nest_operands(l->p, l->under_way.v[i], touch, l);
    }
    for (int i = MAX(n, 0); i < (int)l->under_way.n; i++) l->under_way.v[i - n] = l->under_way.v[i];
    l->under_way.n -= (u32)MAX(n, 0);
}

static void walk(Lives *l, const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next) {
        int start = l->now += 2;
        if (waits(l, o)) {
            l->late[o->out] = o;
            continue;
        }
        ssd_nest_operands(l->p, o, touch, l);
        l->now += by_words(o);
        touch(l, o->out);
        if (o->op == TOP_MMA && o->flags & TF_ASYNC) vec_push(l->p->arena, &l->under_way, o);
        if (o->op == TOP_WAIT) landed(l, o->pending);
        if (!o->body.first) continue;
        for (int i = 0; i < o->ncarry; i++) touch(l, o->carry[i]);
        walk(l, &o->body);
        l->now++;
        for (int i = 0; i < o->ncarry; i++) touch(l, o->carry[i]);
        for (u32 i = 0; i < l->at.n; i++)
            if (l->at.v[i].first < start && l->at.v[i].last > start) l->at.v[i].last = l->now;
    }
}

int ssd_timed_need(const Prog *p, const TKernel *k, const TOp *role, bool wgmma, bool lean) {
    Lives l = {.p = p, .k = k, .role = role, .lean = lean, .wgmma = wgmma};
    l.products = ssd_timed_multiplies(&role->body);
    l.late = NEWN(p->arena, const TOp *, p->vals.n);
    walk(&l, &role->body);
    int most = 0;
    for (int t = 0; t <= l.now; t++) {
        int sum = 0;
        for (u32 i = 0; i < l.at.n; i++)
            if (l.at.v[i].first <= t && t <= l.at.v[i].last) sum += l.at.v[i].words;
        most = MAX(most, sum);
    }
    return most + (l.products ? BESIDE : FEW);
}
