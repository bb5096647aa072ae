// SPDX-License-Identifier: Apache-2.0
// Pure ops whose value nothing uses are dropped, from all kernels of a program.
#include "nest.h"

static void need(void *ctx, Val v) { ((bool *)ctx)[v] = true; }

static void note_uses(const Prog *p, const TBlock *b, bool *used) {
    for (const TOp *o = b->first; o; o = o->next) {
        ssd_nest_operands(p, o, need, used);
        note_uses(p, &o->body, used);
    }
}

static bool drop(TBlock *b, const bool *used) {
    bool changed = false;
    TOp **at = &b->first, *last = NULL;
    for (TOp *o = b->first; o; o = o->next) {
        if (o->out && o->op < TOP_FOR && !used[o->out]) {
            *at = o->next;
            changed = true;
            continue;
        }
        changed |= drop(&o->body, used);
        at = &o->next;
        last = o;
    }
    b->last = last;
    return changed;
}

bool ssd_tile_dce(Prog *p) {
    bool changed = false;
    for (bool again = true; again;) {
        bool *used = NEWN(p->arena, bool, p->vals.n);
        again = false;
        for (u32 k = 0; k < p->kernels.n; k++) note_uses(p, &p->kernels.v[k].body, used);
        for (u32 k = 0; k < p->kernels.n; k++) again |= drop(&p->kernels.v[k].body, used);
        changed |= again;
    }
    return changed;
}
