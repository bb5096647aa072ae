// SPDX-License-Identifier: Apache-2.0
// Facts about kernels of roles that everybody who walks T2 needs: who is at the ends of a ring,
// what a view shows, where tiles lie in shared memory, how many warps a block has.
#include "timed.h"

bool ssd_timed_kernel(const Prog *p, const TKernel *k) {
    if (p->stratum < 2) return false;
    for (const TOp *o = k->body.first; o; o = o->next)
        if (o->op == TOP_RING || o->op == TOP_ROLE) return true;
    return false;
}

// --- Views --------------------------------------------------------------------------------------
static const TOp *definition(const TBlock *b, Val v) {
    for (const TOp *o = b->first; o; o = o->next) {
        if (o->out == v) return o;
        const TOp *in = definition(&o->body, v);
        if (in) return in;
    }
    return NULL;
}

static bool in_slot(const Prog *p, Val v) { return ssd_timed_in_slot(&p->vals.v[v].lay); }

bool ssd_timed_is_view(const Prog *p, const TOp *o) {
    return o->op == TOP_RENAME || (o->op == TOP_AT && in_slot(p, o->a) && in_slot(p, o->out));
}

Val ssd_timed_base(const Prog *p, const TKernel *k, Val v) {
    for (;;) {
        const TOp *o = definition(&k->body, v);
        if (!o || !ssd_timed_is_view(p, o)) return v;
        v = o->a;
    }
}

const TOp *ssd_timed_slot_ring(const Prog *p, const TKernel *k, Val slot) {
    (void)p;
    for (const TOp *o = k->body.first; o; o = o->next)
        if (o->op == TOP_RING)
            for (const TOp *s = o->body.first; s; s = s->next)
                if (s->out == slot) return o;
    return NULL;
}

// --- The ends of a ring -------------------------------------------------------------------------
typedef struct Use { // of one ring by one role
    const Prog *p;
    const TKernel *k;
    const TOp *ring, *role;
    bool publishes, awaits, releases, fetches, fills, sends;
    bool by_copy, by_each; // how `at` names the copy
    const TOp *astray;     // an op whose `at` names no copy, or not all of them
} Use;

static bool is_int(const Prog *p, Ex e, i64 v) {
    const Expr *x = &p->exs.v[e];
    return x->kind == EX_NUM && x->num == (double)v;
}

// Whether `at e` is the role's copy or goes through all copies by an `each` around it.
static void names_copy(Use *u, const TOp *o, const TOp *const *around, int n) {
    const Prog *p = u->p;
    if (u->ring->copies == 1 && !o->e) return;
    const Expr *x = &p->exs.v[o->e];
    bool fits = false;
    if (o->e && u->ring->copies > 1 && x->kind == EX_VAL) {
        if (x->val == u->role->var && u->role->copies == u->ring->copies) fits = u->by_copy = true;
        for (int i = 0; i < n; i++)
            if (around[i]->op == TOP_EACH && around[i]->var == x->val &&
                is_int(p, around[i]->lo, 0) && is_int(p, around[i]->hi, u->ring->copies))
                fits = u->by_each = true;
    }
    if (!fits && !u->astray) u->astray = o;
}

static void uses(Use *u, const TBlock *b, const TOp **around, int n) {
    for (const TOp *o = b->first; o; o = o->next) {
        bool sync = false;
        switch (o->op) {
        case TOP_ACQUIRE: sync = o->a == u->ring->out; break;
        case TOP_PUBLISH: sync = o->a == u->ring->out, u->publishes |= sync; break;
        case TOP_AWAIT: sync = o->a == u->ring->out, u->awaits |= sync; break;
        case TOP_RELEASE: sync = o->a == u->ring->out, u->releases |= sync; break;
        case TOP_FETCH:
        case TOP_INTO:
        case TOP_SEND: {
            Val base = ssd_timed_base(u->p, u->k, o->a);
            if (ssd_timed_slot_ring(u->p, u->k, base) != u->ring) break;
            u->fetches |= o->op == TOP_FETCH;
            u->fills |= o->op == TOP_INTO;
            u->sends |= o->op == TOP_SEND;
            break;
        }
        default: break;
        }
        if (sync) names_copy(u, o, around, n);
        if (!o->body.first || n == 32) continue;
        around[n] = o;
        uses(u, &o->body, around, n + 1);
    }
}

static bool refuse(const Use *u, Text *why, const char *fmt, ...) SSD_PRINTF(3, 4);
static bool refuse(const Use *u, Text *why, const char *fmt, ...) {
    ssd_text_printf(why, "ring `%s`: ", ssd_tile_val_name(u->p, u->ring->out));
    if (u->role) ssd_text_printf(why, "role `%s` ", ssd_tile_val_name(u->p, u->role->out));
    va_list ap;
    va_start(ap, fmt);
    ssd_text_vprintf(why, fmt, ap);
    va_end(ap);
    return false;
}

static bool add_end(const Use *u, RingEnd *ends, int *n, Text *why) {
    if (*n == RING_ENDS) return refuse(u, why, "is one too many at this end");
    RingEnd *e = &ends[(*n)++];
    *e = (RingEnd){.role = u->role, .fetches = u->fetches, .fills = u->fills, .sends = u->sends};
    e->times = u->by_copy ? 1 : u->role->copies;
    return true;
}

static bool add_role(const Use *u, Ring *out, Text *why) {
    if (u->astray) {
        bool one = u->ring->copies == 1;
        refuse(u, why, one ? "names a copy, but there is one: `" : "must name each copy: `");
        ssd_tile_op_print(u->p, u->astray, why);
        ssd_text_printf(why, "`");
        return false;
    }
    if (u->by_copy && u->by_each) return refuse(u, why, "names the copies in two ways");
    bool own = u->publishes && u->releases;
    if (own && u->awaits) return refuse(u, why, "hands it to itself and awaits it");
    if ((u->fetches || u->fills) && !u->publishes)
        return refuse(u, why, "fills it, but never publishes");
    if (u->sends && !u->releases) return refuse(u, why, "sends from it, but never releases");
    if (u->publishes && !u->fetches && !u->fills)
        return refuse(u, why, "publishes, but puts nothing in");
    if (own && u->fetches) return refuse(u, why, "fetches what it hands to itself");
    out->own |= own;
    if (u->publishes && !add_end(u, out->producer, &out->nproducers, why)) return false;
    return !u->releases || add_end(u, out->consumer, &out->nconsumers, why);
}

bool ssd_timed_ring(const Prog *p, const TKernel *k, Val ring, Ring *out, Text *why) {
    *out = (Ring){.op = definition(&k->body, ring)};
    if (!out->op || out->op->op != TOP_RING) {
        ssd_text_printf(why, "`%s` is no ring", ssd_tile_val_name(p, ring));
        return false;
    }
    Use none = {.p = p, .ring = out->op};
    if (out->op->depth < 1) return refuse(&none, why, "has no slots");
    if (out->op->copies < 1) return refuse(&none, why, "has no copies");
    for (const TOp *o = k->body.first; o; o = o->next) {
        if (o->op != TOP_ROLE) continue;
        Use u = {.p = p, .k = k, .ring = out->op, .role = o};
        const TOp *around[32];
        uses(&u, &o->body, around, 0);
        if (!add_role(&u, out, why)) return false;
    }
    if (!out->nproducers) return refuse(&none, why, "nobody publishes it");
    if (!out->nconsumers) return refuse(&none, why, "nobody releases it");
    if (out->own && (out->nproducers > 1 || out->nconsumers > 1))
        return refuse(&none, why, "a role hands it to itself, and another one is at its ends");
    return true;
}

// --- Shared memory ------------------------------------------------------------------------------
enum { SW128_ALIGN = 1024, ROW_ALIGN = 16, BARRIERS = 16, PANEL = 64 }; // a slot: full and empty

static i64 round_up(i64 n, i64 to) { return (n + to - 1) / to * to; }

static i64 alignment(const Prog *p, Val tile) {
    return p->vals.v[tile].lay.space == SP_SW128 ? SW128_ALIGN : ROW_ALIGN;
}

bool ssd_timed_ragged(const Prog *p, u16 tensor) {
    const TTensor *t = &p->tensors.v[tensor];
    const Expr *row = t->rank ? &p->exs.v[t->dim[t->rank - 1]] : NULL;
    i64 whole = 16 / (i64)ssd_dtype_size((ssd_dtype)t->dtype);
    return !row || row->kind != EX_NUM || (i64)row->num % whole;
}

int ssd_timed_along(const Prog *p, u16 tensor) {
    const TTensor *t = &p->tensors.v[tensor];
    i64 bytes = (i64)ssd_dtype_size((ssd_dtype)t->dtype);
    for (int dims = 0; dims < t->rank; dims++) {
        const Expr *n = &p->exs.v[t->dim[t->rank - 1 - dims]];
        if (n->kind != EX_NUM) return 0;
        bytes = bytes * (i64)n->num % 16;
        if (!bytes) return dims;
    }
    return 0;
}

i64 ssd_timed_step(const Prog *p, const Lay *l, int axis, i64 element) {
    i64 step = element;
    for (int i = l->naxes - 1; i > axis; i--) {
        i64 n = p->axes.v[l->ax[i]].size;
        if (i == l->naxes - 1 && l->space == SP_SW128) n = round_up(n, PANEL);
        if (i == l->naxes - 1 && l->space == SP_LOOSE) n += LOOSE_MORE;
        step *= n;
        if (i == l->naxes - 2 && l->space == SP_LOOSE) step += LOOSE_TAIL;
    }
    return step;
}

i64 ssd_timed_tile_bytes(const Prog *p, Val tile) {
    const TVal *t = &p->vals.v[tile];
    i64 element = (i64)ssd_dtype_size((ssd_dtype)t->dtype);
    return round_up(ssd_timed_step(p, &t->lay, -1, element), alignment(p, tile));
}

i64 ssd_timed_slot_offset(const Prog *p, const TOp *ring, Val tile) {
    i64 at = 0;
    for (const TOp *s = ring->body.first; s; s = s->next) {
        at = round_up(at, alignment(p, s->out));
        if (s->out == tile) return at;
        at += ssd_timed_tile_bytes(p, s->out);
    }
    SSD_BUG("a tile that is not in the ring");
}

static i64 ring_align(const Prog *p, const TOp *ring) {
    i64 align = ROW_ALIGN;
    for (const TOp *s = ring->body.first; s; s = s->next) align = MAX(align, alignment(p, s->out));
    return align;
}

i64 ssd_timed_slot_bytes(const Prog *p, const TOp *ring) {
    const TOp *last = ring->body.last;
    i64 end =
        last ? ssd_timed_slot_offset(p, ring, last->out) + ssd_timed_tile_bytes(p, last->out) : 0;
    return round_up(end, ring_align(p, ring));
}

i64 ssd_timed_ring_offset(const Prog *p, const TKernel *k, const TOp *ring) {
    i64 at = 0;
    for (const TOp *o = k->body.first; o; o = o->next) {
        if (o->op != TOP_RING) continue;
        at = round_up(at, ring_align(p, o));
        if (o == ring) return at;
        at += ssd_timed_slot_bytes(p, o) * o->depth * o->copies;
    }
    return at; // past all of them: where the barriers lie
}

i64 ssd_timed_shared_bytes(const Prog *p, const TKernel *k) {
    i64 bytes = ssd_timed_ring_offset(p, k, NULL);
    for (const TOp *o = k->body.first; o; o = o->next)
        if (o->op == TOP_RING) bytes += (i64)BARRIERS * o->depth * o->copies;
    return bytes;
}

// --- Warps --------------------------------------------------------------------------------------
enum { GROUP = 4 };

int ssd_timed_first_warp(const TKernel *k, const TOp *role) {
    int at = 0;
    for (const TOp *o = k->body.first; o; o = o->next) {
        if (o->op != TOP_ROLE) continue;
        if (o->warps >= GROUP) at = (int)round_up(at, GROUP);
        if (o == role) return at;
        at += (o->warps < GROUP ? o->warps : (int)round_up(o->warps, GROUP)) * o->copies;
    }
    return at;
}

int ssd_timed_warps(const TKernel *k) { return ssd_timed_first_warp(k, NULL); }
