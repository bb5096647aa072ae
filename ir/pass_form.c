// SPDX-License-Identifier: Apache-2.0
// form: fills the schedule's open choices, or refuses a schedule that does not fit with a reason.
//
// On CPUs the chunked form with Q = 64 is fastest for scalar decays (products run near the FMA peak
// and the triangle costs little); a decay that does not factor forms its scores element by element,
// where short chunks do less work; a band is quadratic inside its width; a step is one token of the
// recurrence.
#include "pass.h"
#include "role.h"

static const char *const reasons[] = {
#define REASON(id, text) [REASON_##id] = #id ": " text,
#include "reasons.def"
};

void ssd_refuse(Unit *u, Reason r) {
    u->refused = r;
    ssd_text_printf(&u->refusal, "%s", reasons[r]);
}
static bool refuse(Unit *u, Reason r) {
    ssd_refuse(u, r);
    return false;
}

typedef struct Needs {
    bool ssd, band, vector_decay, both;
    bool carry;  // an ssd whose state is carried from chunk to chunk
    bool cooked; // one takes tiles that each head computes of what tensors hold
    bool cat;    // operands are put together: no roles
    bool apart;  // no head has anything in common with another
} Needs;

static bool has_feature(const Graph *g, Ref r, const SsdAxes *ax) {
    bool has = false;
    for (int d = 0; d < ax->nkey; d++) has |= ssd_graph_has_axis(g, r, ax->key[d]);
    for (int d = 0; d < ax->nvalue; d++) has |= ssd_graph_has_axis(g, r, ax->value[d]);
    return has;
}

// Is the operand more than a tensor's tile times numbers a token? (What a group shares is not
// computed by a head.)
static bool computed(const Graph *g, Ref r, const SsdAxes *ax) {
    const Node *n = &g->nodes.v[r];
    if (!has_feature(g, r, ax) || n->op == OP_IN || n->op == OP_SPREAD) return false;
    if (n->op == OP_CAST) return computed(g, n->arg[0], ax);
    if (n->op != OP_FN) return true;
    int tile = n->fn == FN_WHERE || (n->fn == FN_MUL && !has_feature(g, n->arg[0], ax));
    if (n->fn != FN_WHERE && n->fn != FN_MUL && n->fn != FN_DIV) return true;
    for (int i = 0; i < ssd_fns[n->fn].arity; i++)
        if (i != tile && has_feature(g, n->arg[i], ax)) return true;
    return computed(g, n->arg[tile], ax);
}

// Does each head read tiles that no other does, of 16-bit numbers, which bulk copies are for?
static bool own(const Graph *g, Ref r, const SsdAxes *ax) {
    const Node *n = &g->nodes.v[r];
    if (!r || !has_feature(g, r, ax)) return true;
    if (n->op == OP_IN) {
        if (ssd_dtype_size((ssd_dtype)n->dtype) != 2) return false;
        if (ssd_graph_has_axis(g, r, ax->head)) return true;
        for (AxisId y = 1; y < g->axes.n; y++)
            if (g->axes.v[y].kind == AX_GROUP && ssd_graph_has_axis(g, r, y))
                return g->axes.v[y].size == g->axes.v[ax->head].size;
        return false;
    }
    for (u32 i = 0; i < COUNTOF(n->arg); i++)
        if (!own(g, n->arg[i], ax)) return false;
    return true;
}

// Then each has a block of its own on a GPU: more slots for what is under way, and none waits for
// another's. Not where values take several blocks, which read the same keys, nor where lanes copy
// rows of an odd number of elements, which took less time for two heads side by side.
static bool apart(const Graph *g, const Node *n, const SsdAxes *ax) {
    i64 keys = 1, values = 1, heads = ax->head ? g->axes.v[ax->head].size : 1;
    for (int d = 0; d < ax->nkey; d++) keys *= g->axes.v[ax->key[d]].size;
    for (int d = 0; d < ax->nvalue; d++) values *= g->axes.v[ax->value[d]].size;
    bool whole =
        heads * values % PIECE == 0; // are all heads of a token together? Then they may shift
    bool odd = keys % 2 || (values % 2 && !whole);
    return ax->head && ssd_role_blocks(values, whole) == 1 && !odd && own(g, n->arg[0], ax) &&
           own(g, n->arg[1], ax);
}

static Needs needs(const Graph *g) {
    Needs f = {.apart = true};
    for (Ref r = 1; r < g->nodes.n; r++) {
        const Node *n = &g->nodes.v[r];
        f.cat |= n->op == OP_CAT;
        if (n->op != OP_SSD) continue;
        f.ssd = true;
        f.band |= n->k != 0;
        f.carry |= !n->k && !(n->flags & SSD_FULL);
        SsdAxes ax = ssd_graph_ssd_axes(g, r);
        for (int i = 0; i < 3; i++) f.cooked |= computed(g, n->arg[i], &ax);
        f.apart &= apart(g, n, &ax);
        if (!n->arg[3]) continue;
        bool key = false, value = false;
        for (int d = 0; d < ax.nkey; d++) key |= ssd_graph_has_axis(g, n->arg[3], ax.key[d]);
        for (int d = 0; d < ax.nvalue; d++) value |= ssd_graph_has_axis(g, n->arg[3], ax.value[d]);
        f.vector_decay |= key || value;
        f.both |= key && value;
    }
    f.cooked &= !f.cat;
    return f;
}

// The spec's chunk_length when it is one number; of a list, the one nearest to the target's choice.
static int spec_chunk(const char *s, int want) {
    int best = 0;
    while (s && *s) {
        int v = 0;
        while (*s && (*s < '0' || *s > '9')) s++;
        while (*s >= '0' && *s <= '9') v = v * 10 + (*s++ - '0');
        if (v &&
            (!best || (v > want ? v - want : want - v) < (best > want ? best - want : want - best)))
            best = v;
    }
    return best;
}

// Segments of time. A machine that runs many blocks at once is idle where batch and heads are few.
static bool choose_split(Unit *u, const Needs *f) {
    Schedule *s = &u->schedule;
    const Graph *g = u->graph;
    bool can = s->form == FORM_CHUNKED && f->carry && !g->packed && !g->step;
    if (s->split > 1 && g->invariant) return refuse(u, REASON_SPLIT_INVARIANT);
    if (s->split > 1 && !can) return refuse(u, REASON_SPLIT_FORM);
    bool many = u->machine && u->machine->blocks > 1 && can && !g->invariant;
    if (s->split < 1) s->split = many ? SPLIT_LAUNCH : 0;
    if (s->split == 1 && !many) s->split = 0; // which is the same
    return true;
}

// Rows of the state for a block of a GPU's step: few, so that few heads fill the device, and enough
// for every thread to have several loads under way.
static int step_rows(const Graph *g) {
    enum { POINTS = 2048, MOST = 64 };
    i64 points = 1;
    for (Ref r = 1; r < g->nodes.n; r++) {
        if (g->nodes.v[r].op != OP_SSD) continue;
        SsdAxes ax = ssd_graph_ssd_axes(g, r);
        i64 keys = 1;
        for (int d = 0; d < ax.nkey; d++) keys *= g->axes.v[ax.key[d]].size;
        points = MAX(points, keys);
    }
    int rows = 1;
    while (rows < MOST && 2 * rows * points <= POINTS) rows *= 2;
    return rows;
}

bool ssd_pass_form(Unit *u) {
    Schedule *s = &u->schedule, asked = *s;
    Needs f = needs(u->graph);
    if (u->graph->step) {
        if (s->form != FORM_AUTO && s->form != FORM_RECURRENT) return refuse(u, REASON_STEP_FORM);
        s->form = FORM_RECURRENT;
    }
    if (f.band && !u->graph->step && (s->form == FORM_RECURRENT || s->form == FORM_CHUNKED))
        return refuse(u, REASON_FORM_BAND);
    if (f.both && (s->form == FORM_QUADRATIC || s->form == FORM_CHUNKED))
        return refuse(u, REASON_FORM_DECAY_PV);
    if (s->form == FORM_AUTO)
        s->form = f.both ? FORM_RECURRENT : f.band ? FORM_QUADRATIC : FORM_CHUNKED;
    int want = f.vector_decay ? 16 : 64;
    if (!s->q) s->q = spec_chunk(u->graph->chunk, want);
    if (!s->q) s->q = want;
    if (s->q < 1 || s->q > 1024) return refuse(u, REASON_CHUNK_RANGE);
    // A GPU's tensor cores form scores again, and feed two heads of one group from the same keys; a
    // block that computes its operands is busy with one, and heads that are `apart` need no other.
    bool gpu = u->machine && u->machine->gpu;
    if (!s->block) s->block = gpu && u->graph->step ? step_rows(u->graph) : 8;
    if (s->hoist < 0) s->hoist = s->form == FORM_CHUNKED && !gpu;
    if (!s->heads && gpu && s->form == FORM_CHUNKED && !f.vector_decay)
        s->heads = u->machine->wgmma && s->wgmma && !f.cooked && !f.apart ? 2 : 1;
    if (!choose_split(u, &f)) return false;
    return memcmp(&asked, s, sizeof asked) != 0;
}
