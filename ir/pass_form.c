// SPDX-License-Identifier: Apache-2.0
// form: fills the schedule's open choices, or refuses a schedule that does not fit with a reason.
//
// On CPUs the chunked form with Q = 64 is fastest for scalar decays (products run near the FMA peak
// and the triangle costs little); a decay that does not factor forms its scores element by element,
// where short chunks do less work; a band is quadratic inside its width; a step is one token of the
// recurrence.
#include "pass.h"

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
} Needs;

static Needs needs(const Graph *g) {
    Needs f = {0};
    for (Ref r = 1; r < g->nodes.n; r++) {
        const Node *n = &g->nodes.v[r];
        if (n->op != OP_SSD) continue;
        f.ssd = true;
        f.band |= n->k != 0;
        if (!n->arg[3]) continue;
        SsdAxes ax = ssd_graph_ssd_axes(g, r);
        bool key = false, value = false;
        for (int d = 0; d < ax.nkey; d++) key |= ssd_graph_has_axis(g, n->arg[3], ax.key[d]);
        for (int d = 0; d < ax.nvalue; d++) value |= ssd_graph_has_axis(g, n->arg[3], ax.value[d]);
        f.vector_decay |= key || value;
        f.both |= key && value;
    }
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
    bool gpu = u->machine &&
               u->machine->gpu; // a step's whole head at once; tensor cores form scores again
    if (!s->block) s->block = gpu && u->graph->step ? 64 : 8;
    if (s->hoist < 0) s->hoist = s->form == FORM_CHUNKED && !gpu;
    return memcmp(&asked, s, sizeof asked) != 0;
}
