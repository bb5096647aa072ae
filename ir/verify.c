// SPDX-License-Identifier: Apache-2.0
// What every pass may assume of a graph. Runs after each pass in the sanitized build, and on text.
#include "graph_text.h"

#define MOST_SIZE (1LL << 31)

static bool bad(Text *why, const char *fmt, ...) SSD_PRINTF(2, 3);
static bool bad(Text *why, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ssd_text_vprintf(why, fmt, ap);
    va_end(ap);
    return false;
}

bool ssd_graph_verify_axis(const Graph *g, AxisId x, Text *why) {
    const Axis *a = &g->axes.v[x];
    if (!a->name || !ssd_graph_plain_name(a->name)) return bad(why, "an axis without a plain name");
    if (a->kind <= AX_NONE || a->kind > AX_WINDOW) return bad(why, "axis %s has no kind", a->name);
    bool runtime = a->kind == AX_BATCH || a->kind == AX_SEQ || a->kind == AX_TIME;
    if (runtime && a->size != -1) return bad(why, "axis %s has a size before run time", a->name);
    if (!runtime && (a->size < 1 || a->size > MOST_SIZE))
        return bad(why, "axis %s has size %lld", a->name, (long long)a->size);
    for (AxisId i = 1; i < x; i++) {
        if (!strcmp(g->axes.v[i].name, a->name)) return bad(why, "axis %s twice", a->name);
        if (runtime && g->axes.v[i].kind == a->kind)
            return bad(why, "two axes of kind %s", ssd_axis_kinds[a->kind]);
    }
    return true;
}

static bool same_shape(const Node *a, const Node *b) {
    return a->dtype == b->dtype && a->naxes == b->naxes && !memcmp(a->ax, b->ax, a->naxes);
}

static bool verify_node(const Graph *g, Ref r, Text *why) {
    const Node *n = &g->nodes.v[r];
    for (size_t i = 0; i < COUNTOF(n->arg); i++)
        if (n->arg[i] >= r) return bad(why, "an operand stands after its user");
    if (n->name >= g->names.n) return bad(why, "its name is none");
    Node m = *n;
    if (!ssd_graph_infer(g, &m, why)) return false;
    if (!same_shape(&m, n)) return bad(why, "its type is not what its operands give");
    if (m.flags != n->flags) return bad(why, "read=before without diag=out");
    return true;
}

bool ssd_graph_verify_out(const Graph *g, const GraphOut *o, Text *why) {
    if (!o->name || !ssd_graph_plain_name(o->name))
        return bad(why, "an output without a plain name");
    if (!o->ref || o->ref >= g->nodes.n) return bad(why, "output %s is no node", o->name);
    if (o->dtype != SSD_F32 && o->dtype != SSD_BF16 && o->dtype != SSD_F16)
        return bad(why, "output %s has dtype %s", o->name, ssd_dtype_name(o->dtype));
    if (o->naxes > 8) return bad(why, "output %s has more than 8 axes", o->name);
    for (int i = 0; i < o->naxes; i++) {
        if (!o->ax[i] || o->ax[i] >= g->axes.n) return bad(why, "output %s: unknown axis", o->name);
        if (memchr(o->ax, o->ax[i], (size_t)i))
            return bad(why, "output %s: axis %s twice", o->name, g->axes.v[o->ax[i]].name);
    }
    const Node *n = &g->nodes.v[o->ref];
    for (int i = 0; i < n->naxes; i++) {
        AxisId x = n->ax[i];
        if (g->step && g->axes.v[x].kind == AX_TIME) continue;
        if (!memchr(o->ax, x, o->naxes))
            return bad(why, "output %s lacks axis %s of its value", o->name, g->axes.v[x].name);
    }
    return true;
}

static bool verify_ins(const Graph *g, Text *why) {
    u32 count = 0;
    for (Ref r = 1; r < g->nodes.n; r++) count += g->nodes.v[r].op == OP_IN;
    if (count != g->ins.n) return bad(why, "%u inputs, %u listed", count, g->ins.n);
    for (u32 i = 0; i < g->ins.n; i++) {
        Ref r = g->ins.v[i];
        if (!r || r >= g->nodes.n || g->nodes.v[r].op != OP_IN)
            return bad(why, "input %u is none", i);
        const char *name = g->names.v[g->nodes.v[r].name];
        if (!ssd_graph_plain_name(name)) return bad(why, "an input without a plain name");
        for (u32 k = 0; k < i; k++)
            if (g->nodes.v[g->ins.v[k]].name == g->nodes.v[r].name)
                return bad(why, "input %s twice", name);
    }
    return true;
}

static bool verify_states(const Graph *g, Text *why) {
    for (u32 i = 0; i < g->states.n; i++) {
        const GraphState *s = &g->states.v[i];
        if (s->init >= g->nodes.n || s->final >= g->nodes.n)
            return bad(why, "state %u is no node", i);
        if (s->init && g->nodes.v[s->init].op != OP_IN)
            return bad(why, "state %u starts from no input", i);
        if ((s->in_name && !ssd_graph_plain_name(s->in_name)) ||
            (s->out_name && !ssd_graph_plain_name(s->out_name)))
            return bad(why, "state %u without a plain name", i);
    }
    return true;
}

bool ssd_graph_verify(const Graph *g, Text *why) {
    if (g->axes.n < 1 || g->axes.n > 256 || g->nodes.n < 1) return bad(why, "no graph");
    for (u32 x = 1; x < g->axes.n; x++)
        if (!ssd_graph_verify_axis(g, (AxisId)x, why)) return false;
    if (g->matmul >= COUNTOF(ssd_matmul_names)) return bad(why, "matmul %u", g->matmul);
    for (Ref r = 1; r < g->nodes.n; r++) {
        Text inner = {0};
        if (verify_node(g, r, &inner)) continue;
        const Node *n = &g->nodes.v[r];
        bad(why, "node %u (%s): %s", r, n->op < OP__COUNT ? ssd_ops[n->op].name : "?", inner.s);
        ssd_text_free(&inner);
        return false;
    }
    if (!verify_ins(g, why) || !verify_states(g, why)) return false;
    for (u32 i = 0; i < g->outs.n; i++) {
        if (!ssd_graph_verify_out(g, &g->outs.v[i], why)) return false;
        for (u32 k = 0; k < i; k++)
            if (!strcmp(g->outs.v[i].name, g->outs.v[k].name))
                return bad(why, "output %s twice", g->outs.v[i].name);
    }
    return true;
}
