// SPDX-License-Identifier: Apache-2.0
// Which nodes become one kernel ("stage"). Pointwise nodes and reductions over features are cones:
// they are computed wherever they are wanted, as often as they are wanted. An ssd, a scan over time
// and the window of a shift each make a stage; what follows an ssd pointwise joins its stage. Where
// a value of one stage is wanted in another (a second operator, a shift, a sum over heads), it goes
// through a workspace tensor. Stages stand in an order in which every reader comes after its
// writer. Where a block of the machine cannot hold an operator's state, the state is cut along its
// value features, and what takes several of these at once is a stage as well.
#include "lower.h"

static bool has_axis(const Node *n, AxisId x) {
    for (int i = 0; i < n->naxes; i++)
        if (n->ax[i] == x) return true;
    return false;
}

static int new_stage(Lower *l, StageKind kind, Ref root) {
    Stage s = {.kind = kind, .root = root};
    vec_push(l->a, &l->stages, s);
    return (int)l->stages.n - 1;
}

// The value is read by another stage than the one that computes it.
static void to_ws(Lower *l, Ref r) {
    if (l->home[r] < 0 || l->in_ws[r]) return;
    l->in_ws[r] = true;
    StageStore s = {r, -1};
    vec_push(l->a, &l->stages.v[l->home[r]].stores, s);
}

// Makes node r a cone: every operand that a stage computes is read from workspace.
static void cut(Lower *l, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    l->home[r] = -1;
    for (int i = 0; i < 5; i++) {
        Ref o = n->arg[i];
        if (!o) continue;
        to_ws(l, o);
        l->after[r] = MAX(l->after[r], MAX(l->after[o], l->home[o]));
    }
}

// Axes that the stage of operand o runs its grid over must be the node's own.
static bool fits(const Lower *l, const Node *n, int stage) {
    const Stage *s = &l->stages.v[stage];
    if (s->kind != STAGE_SSD) return false;
    SsdAxes ax = ssd_graph_ssd_axes(l->g, s->root);
    for (int i = 0; i < n->naxes; i++) {
        AxisKind k = l->g->axes.v[n->ax[i]].kind;
        if ((k == AX_HEAD || k == AX_GROUP) && n->ax[i] != ax.head) return false;
        if (k == AX_BATCH && !has_axis(&l->g->nodes.v[s->root], n->ax[i])) return false;
    }
    return (!ax.head || has_axis(n, ax.head));
}

bool ssd_lower_joins(const Node *n, AxisId x) {
    bool pairs = n->op == OP_CAT || n->op == OP_SLICE;
    bool one = pairs || n->op == OP_SUM || n->op == OP_AMAX || n->op == OP_SWAP;
    return (one && n->a0 == x) || (pairs && n->a1 == x);
}

static bool crosses(const Lower *l, const Node *n) { // reads other places of the grid than its own
    AxisKind k = l->g->axes.v[n->a0].kind;
    switch (n->op) {
    case OP_SHIFT: return true;
    case OP_SPREAD:
    case OP_FOLD: return true;
    case OP_SUM:
    case OP_AMAX: return k == AX_HEAD || k == AX_GROUP;
    default: return false;
    }
}

// An operator's value features where a block of the machine cannot hold the whole state: it is cut
// along them.
static u64 features_apart(const Lower *l) {
    u64 apart = 0;
    for (Ref r = 1; r < l->g->nodes.n; r++) {
        if (l->g->nodes.v[r].op != OP_SSD || l->g->nodes.v[r].k) continue;
        SsdAxes ax = ssd_graph_ssd_axes(l->g, r);
        bool held = ssd_machine_holds(l->u->machine, ssd_graph_state_size(l->g, r));
        if (ax.nvalue && !held) apart |= 1ull << ax.value[0];
    }
    return apart;
}

// What takes several of these features is a stage by itself.
static bool joins(const Lower *l, const Node *n) {
    for (AxisId x = 1; x < l->g->axes.n; x++)
        if (l->apart >> x & 1 && ssd_lower_joins(n, x)) return true;
    return false;
}

static void place_pointwise(Lower *l, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    if (joins(l, n)) {
        cut(l, r);
        l->home[r] = new_stage(l, STAGE_POINT, r);
        to_ws(l, r);
        return;
    }
    int stage = -1, after = -1;
    bool end = false, loop = false;
    for (int i = 0; i < 5; i++) {
        Ref o = n->arg[i];
        if (!o) continue;
        bool inner = l->home[o] >= 0;
        if (inner) stage = MAX(stage, l->home[o]);
        after = MAX(after, l->after[o]);
        end |= inner && l->at_end[o];
        loop |= inner && !l->at_end[o];
    }
    bool timed = l->time && has_axis(n, l->time);
    if (stage < 0 || after >= stage || crosses(l, n) || !fits(l, n, stage) ||
        (end && (loop || timed))) {
        cut(l, r);
        return;
    }
    for (int i = 0; i < 5; i++) {
        Ref o = n->arg[i];
        if (o && l->home[o] >= 0 && l->home[o] != stage) {
            to_ws(l, o);
            after = MAX(after, l->home[o]);
        }
    }
    l->home[r] = stage;
    l->after[r] = after;
    l->at_end[r] = end;
}

// One stage for the outputs that are cones, a stage for each set of grid axes.
static void place_outputs(Lower *l) {
    Graph *g = l->g;
    u32 first_point = l->stages.n;
    for (u32 i = 0; i < g->outs.n; i++) {
        Ref r = g->outs.v[i].ref;
        StageStore st = {r, (int)i};
        if (l->home[r] >= 0) {
            vec_push(l->a, &l->stages.v[l->home[r]].stores, st);
            continue;
        }
        u64 key = 0;
        for (int d = 0; d < g->outs.v[i].naxes; d++)
            if (g->axes.v[g->outs.v[i].ax[d]].kind != AX_FEATURE) key |= 1ull << g->outs.v[i].ax[d];
        u32 s = first_point;
        for (; s < l->stages.n; s++) {
            const GraphOut *o = &g->outs.v[l->stages.v[s].stores.v[0].out];
            u64 k2 = 0;
            for (int d = 0; d < o->naxes; d++)
                if (g->axes.v[o->ax[d]].kind != AX_FEATURE) k2 |= 1ull << o->ax[d];
            if (k2 == key) break;
        }
        if (s == l->stages.n) new_stage(l, STAGE_POINT, 0);
        vec_push(l->a, &l->stages.v[s].stores, st);
    }
}

void ssd_lower_stages(Lower *l) {
    Graph *g = l->g;
    u32 n = g->nodes.n;
    l->home = NEWN(l->a, i32, n);
    l->after = NEWN(l->a, i32, n);
    l->in_ws = NEWN(l->a, bool, n);
    l->at_end = NEWN(l->a, bool, n);
    l->apart = features_apart(l);
    for (u32 r = 1; r < n; r++) {
        const Node *d = &g->nodes.v[r];
        l->home[r] = l->after[r] = -1;
        switch (d->op) {
        case OP_IN:
        case OP_CONST:
        case OP_INDEX:
        case OP_SIZE: break;
        case OP_SSD:
        case OP_SCAN:
            cut(l, r);
            l->home[r] = new_stage(l, d->op == OP_SSD ? STAGE_SSD : STAGE_SCAN, r);
            if (d->op == OP_SCAN) to_ws(l, r);
            break;
        case OP_FINAL: {
            Ref a = d->arg[0];
            if (g->nodes.v[a].op == OP_SHIFT) {
                l->after[r] = l->after[a];
                l->home[r] = new_stage(l, STAGE_WINDOW, a);
            } else {
                l->home[r] = l->home[a];
            }
            l->at_end[r] = true;
            break;
        }
        default: place_pointwise(l, r);
        }
    }
    place_outputs(l);
}
