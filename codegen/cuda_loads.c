// SPDX-License-Identifier: Apache-2.0
// Which loads from a slot may still be under way where the role leaves the slot.
//
//     dl = copy dt_ : f32[j] @lane(j)
//     release dts                         the arrival may overtake the load, and a bulk copy
//     overwrite the slot ld = map {a*dl}
//
// An arrival and a bulk copy behind it do not wait for a thread's loads; a proxy fence does. It is
// not needed for a load whose value has gone where what follows does wait for it: into a tile, or
// into the registers of a product. So every register value is followed to the loads it is made of.
#include "cuda_emit.h"

enum { MOST = 64 };

static bool in_slot(const Cuda *c, Val v) { return ssd_timed_in_slot(&c->p->vals.v[v].lay); }

// One more load, of a tile in a slot; the set it makes.
static u64 load(Cuda *c, Val tile) {
    const TOp *ring = ssd_timed_slot_ring(c->p, c->k, ssd_timed_base(c->p, c->k, tile));
    int i = MIN(c->nloads, MOST - 1);
    c->load_ring[i] =
        c->nloads < MOST ? ring->out : 0; // the last bit is of all further ones, from any ring
    c->settled &= ~(1ull << i);
    if (c->nloads <= MOST) c->nloads++;
    return 1ull << i;
}

typedef struct Sum {
    Cuda *c;
    u64 loads;
} Sum;
static void add(void *ctx, Val v) {
    Sum *s = ctx;
    s->loads |=
        in_slot(s->c, v) ? load(s->c, v) : s->c->loads_of[ssd_timed_base(s->c->p, s->c->k, v)];
}
static u64 of_ex(Cuda *c, Ex e) {
    Sum s = {.c = c};
    if (e) ssd_nest_ex_vals(c->p, e, add, &s);
    return s.loads;
}

void ssd_cuda_loads_note(Cuda *c, const TOp *o) {
    Sum s = {.c = c};
    if (!c->m->wgmma || ssd_timed_is_view(c->p, o)) return;
    switch ((TOpCode)o->op) {
    case TOP_COPY:
    case TOP_SWAP:
    case TOP_AT:
    case TOP_SCAN:
    case TOP_PICK: add(&s, o->a); break;
    case TOP_MMA: // what it reads of slots it reads as a bulk copy writes
        for (int i = 0; i < 3; i++) {
            Val v = i == 0 ? o->a : i == 1 ? o->b : o->c;
            if (v && !in_slot(c, v)) add(&s, v);
        }
        c->settled |= s.loads, s.loads = 0; // its registers were there when it was issued
        break;
    case TOP_MAP:
    case TOP_STORE: s.loads = of_ex(c, o->e); break;
    case TOP_INTO: c->settled |= of_ex(c, o->e2) | of_ex(c, o->hi); break;
    default: break;
    }
    if (o->out) c->loads_of[o->out] = s.loads;
}

bool ssd_cuda_loads_open(Cuda *c, Val ring) {
    for (int i = 0; i < MIN(c->nloads, MOST); i++)
        if ((c->load_ring[i] == ring || !c->load_ring[i]) && !(c->settled >> i & 1)) return true;
    return false;
}

void ssd_cuda_loads_settle(Cuda *c) { c->settled = ~0ull; }
