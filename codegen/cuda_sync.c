// SPDX-License-Identifier: Apache-2.0
// Barriers: which ops must wait for all threads of the block.
//
// The kernel is walked with a list of accesses made since the last barrier. An op that meets one of
// another thread to the same buffer (or to tensors that may share memory), where one of the two
// writes, gets a barrier, which clears the list. Two accesses are of the same thread when both are
// made pointwise by nests that deal their points alike and find the element of a point at the same
// place: what a map writes in place the next one reads without waiting. A loop's body is walked
// until what reaches its end adds nothing to what reaches its start.
#include "cuda_emit.h"

typedef struct Touch {
    u32 what; // a buffer's value, or TENSOR + the first tensor it shares memory with
    bool write;
    u64 deal; // who touches what, 0: anyone
} Touch;
enum { TENSOR = 1u << 30 };

typedef struct Sync {
    Cuda *c;
    VEC(Touch) since; // since the last barrier
    VEC(Touch) now;   // of the op at hand
    bool *adrift;     // by value: a view whose place depends on an index computed at run time
    const CudaNest *nest;
} Sync;

static const TVal *val(const Sync *s, Val v) { return &s->c->p->vals.v[v]; }

static u32 memory_of(const Sync *s, u16 tensor) {
    const Prog *p = s->c->p;
    const TTensor *t = &p->tensors.v[tensor];
    if (t->alias) return TENSOR + ssd_prog_find_tensor(p, t->alias);
    return TENSOR + tensor;
}

// The nest's order of axes and the tile's strides along them; 0 unless every point has its own
// element.
static u64 deal_of(const Sync *s, Val v) {
    const CudaNest *n = s->nest;
    if (!n || n->spread != SPREAD_POINTS || s->adrift[v]) return 0;
    i64 key[2 * 8 + 1] = {val(s, v)->lay.offset * 2 + (n->quad != 0)};
    for (int i = 0; i < n->n; i++) {
        key[2 * i + 1] = ssd_cuda_size(s->c, n->ax[i]);
        key[2 * i + 2] = ssd_nest_stride(s->c->p, v, n->ax[i]);
        if (!key[2 * i + 2] && key[2 * i + 1] > 1) return 0;
    }
    return ssd_hash(key, sizeof *key * (size_t)(2 * n->n + 1), 1) | 1;
}

static void touch(Sync *s, u32 what, bool write, u64 deal) {
    vec_push(s->c->a, &s->now, ((Touch){what, write, deal}));
}

static void reads(void *ctx, Val v) {
    Sync *s = ctx;
    const Lay *l = &val(s, v)->lay;
    if (l->space == SP_MEM && val(s, v)->naxes) touch(s, l->buf, false, deal_of(s, v));
}

static void tensor_reads(Sync *s, Ex e) {
    if (!e) return;
    const Expr *x = &s->c->p->exs.v[e];
    if (x->kind == EX_LOAD) touch(s, memory_of(s, x->tensor), false, 0);
    for (int i = 0; i < x->nidx; i++) tensor_reads(s, x->idx[i]);
    for (int i = 0; x->kind == EX_FN && i < ssd_fns[x->fn].arity; i++) tensor_reads(s, x->arg[i]);
}

static bool moves_tile(const TOp *o) {
    return o->op == TOP_FOR || o->op == TOP_EACH || o->op == TOP_YIELD;
}
static bool is_view(const Sync *s, const TOp *o) {
    return (o->op == TOP_AT || o->op == TOP_RENAME || o->op == TOP_SPLIT || o->op == TOP_SLICE) &&
           val(s, o->out)->naxes;
}

static void touches(Sync *s, const TOp *o) {
    const Ex e[] = {o->e, o->e2, o->when, o->lo, o->hi};
    if (is_view(s, o))
        s->adrift[o->out] =
            s->adrift[o->a] || (o->op == TOP_AT && s->c->p->exs.v[o->e].kind != EX_NUM);
    if (o->op == TOP_PREFETCH || o->op == TOP_BUF || is_view(s, o)) return;
    if (!moves_tile(o)) ssd_nest_operands(s->c->p, o, reads, s);
    for (size_t i = 0; i < COUNTOF(e); i++) tensor_reads(s, e[i]);
    for (int i = 0; i < o->nidx; i++) tensor_reads(s, o->idx[i]);
    for (int i = 0; o->init && i < o->ncarry; i++) tensor_reads(s, o->init[i]);
    if (o->op == TOP_LOAD || o->op == TOP_STORE)
        touch(s, memory_of(s, o->tensor), o->op == TOP_STORE, 0);
    if (o->out && val(s, o->out)->naxes && val(s, o->out)->lay.space == SP_MEM)
        touch(s, val(s, o->out)->lay.buf, true, deal_of(s, o->out));
}

static bool clash(const Sync *s) {
    for (u32 i = 0; i < s->now.n; i++)
        for (u32 k = 0; k < s->since.n; k++) {
            const Touch *a = &s->now.v[i], *b = &s->since.v[k];
            if (a->what == b->what && (a->write || b->write) && !(a->deal && a->deal == b->deal))
                return true;
        }
    return false;
}

static bool has_barrier(const Cuda *c, const TOp *o) {
    for (u32 i = 0; i < c->barriers.n; i++)
        if (c->barriers.v[i] == o) return true;
    return false;
}

static bool note(Sync *s, Touch t) {
    for (u32 k = 0; k < s->since.n; k++) {
        const Touch *b = &s->since.v[k];
        if (b->what == t.what && b->write == t.write && b->deal == t.deal) return false;
    }
    vec_push(s->c->a, &s->since, t);
    return true;
}

static void step(Sync *s, const TOp *first, const TOp *last) {
    CudaNest nest;
    bool elementwise = ssd_nest_op(s->c->p, first);
    s->now.n = 0;
    if (elementwise) ssd_cuda_nest_plan(s->c, first, last, &nest);
    s->nest = elementwise ? &nest : NULL;
    for (const TOp *o = first;; o = o->next) {
        touches(s, o);
        if (o == last) break;
    }
    bool known = has_barrier(s->c, first);
    if (known || clash(s)) {
        if (!known) vec_push(s->c->a, &s->c->barriers, first);
        s->since.n = 0;
    }
    for (u32 i = 0; i < s->now.n; i++) note(s, s->now.v[i]);
}

static void walk(Sync *s, const TBlock *b);

// Once through a body that may be skipped, or run again; true when more reaches its start than
// before.
static bool around(Sync *s, const TBlock *body) {
    Sync before = *s;
    memset(&s->since, 0, sizeof s->since);
    for (u32 i = 0; i < before.since.n; i++) note(s, before.since.v[i]);
    walk(s, body);
    bool more = false;
    for (u32 i = 0; i < before.since.n; i++) note(s, before.since.v[i]);
    more = s->since.n > before.since.n;
    return more;
}

static void walk(Sync *s, const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next) {
        TOp *last = ssd_nest_op(s->c->p, o) ? ssd_nest_last(s->c->p, (TOp *)o) : (TOp *)o;
        step(s, o, last);
        if (o->body.first) {
            bool loops = o->op != TOP_IF;
            for (int turn = 0; around(s, &o->body) && loops && turn < 4; turn++) {}
        }
        o = last;
    }
}

void ssd_cuda_barriers(Cuda *c) {
    Sync s = {.c = c, .adrift = NEWN(c->a, bool, c->p->vals.n)};
    memset(&c->barriers, 0, sizeof c->barriers);
    walk(&s, &c->k->body);
}
