// SPDX-License-Identifier: Apache-2.0
// merge: ssd operators with the same query, key, decay and attributes become one with their values
// side by side: one state, one pass over time. A normaliser (value 1) becomes one more column:
//
//     num = ssd q k v l time=fwd diag=in : f32[b t h p]           r has size(p) + 1 elements
//     den = ssd q k 1 l time=fwd diag=in : f32[b t h]
//   becomes
//     %1 = cat v 1 axis=p to=r : f32[b t h r]
//     %2 = ssd q k %1 l time=fwd diag=in : f32[b t h r]
//     num = slice %2 axis=r to=p from=0 : f32[b t h p]
//     den = slice %2 axis=r from=64 : f32[b t h]
//
// Initial states are laid side by side the same way, final states are slices of the one final
// state. Operators whose values differ in more than one feature axis, or that feed one another,
// stay apart. Needs: fold, cse (equal operands are one node). Keeps: every value. Breaks: nothing.
#include "pass.h"

enum { MOST_MEMBERS = 5 }; // operands of cat

typedef struct Group {
    Ref member[MOST_MEMBERS]; // old nodes
    int n;
    AxisId side, to; // values lie side by side along `side` (0: each is one column), named `to`
    i32 from[MOST_MEMBERS];
    bool column[MOST_MEMBERS]; // lacks `side`
    Ref merged;
    bool *after; // by old node: depends on a member
} Group;

static bool same_set(const AxisId *a, int na, const AxisId *b, int nb) {
    if (na != nb) return false;
    for (int i = 0; i < na; i++)
        if (!memchr(b, a[i], (size_t)nb)) return false;
    return true;
}

// Value features less `side`.
static int features_but(const SsdAxes *x, AxisId side, AxisId *out) {
    int n = 0;
    for (int i = 0; i < x->nvalue; i++)
        if (x->value[i] != side) out[n++] = x->value[i];
    return n;
}

// Query, key and decay know nothing of the values' features.
static bool values_apart(const Graph *g, Ref r, const SsdAxes *x) {
    const Node *n = &g->nodes.v[r];
    for (int i = 0; i < x->nvalue; i++)
        for (int k = 0; k < 4; k++)
            if (k != 2 && n->arg[k] && ssd_graph_has_axis(g, n->arg[k], x->value[i])) return false;
    return true;
}

// An initial state lies beside others only where the values do.
static bool start_fits(const Graph *g, Ref r, AxisId side) {
    const Node *n = &g->nodes.v[r];
    return !side || !n->arg[4] ||
           ssd_graph_has_axis(g, n->arg[4], side) == ssd_graph_has_axis(g, n->arg[2], side);
}

// Whether two operators can be one, their values side by side along *side (set when it is still
// open).
static bool alike(const Graph *g, Ref a, Ref b, AxisId *side) {
    const Node *m = &g->nodes.v[a], *n = &g->nodes.v[b];
    if (n->op != OP_SSD || m->arg[0] != n->arg[0] || m->arg[1] != n->arg[1] ||
        m->arg[3] != n->arg[3] || !m->arg[4] != !n->arg[4] || m->time != n->time ||
        m->flags != n->flags || m->k != n->k)
        return false;
    SsdAxes x = ssd_graph_ssd_axes(g, a), y = ssd_graph_ssd_axes(g, b);
    if (x.batch != y.batch || x.time != y.time || x.head != y.head ||
        !same_set(x.key, x.nkey, y.key, y.nkey) || !values_apart(g, a, &x) ||
        !values_apart(g, b, &y))
        return false;
    const SsdAxes *wider = x.nvalue >= y.nvalue ? &x : &y;
    for (int i = 0; i < (*side ? 1 : MAX(wider->nvalue, 1)); i++) {
        AxisId s = *side ? *side : wider->nvalue ? wider->value[i] : 0, p[3], q[3];
        int np = features_but(&x, s, p), nq = features_but(&y, s, q);
        if (!same_set(p, np, q, nq) || !start_fits(g, a, s) || !start_fits(g, b, s)) continue;
        *side = s;
        return true;
    }
    return false;
}

static void mark_after(const Graph *g, Group *m) {
    memset(m->after, 0, g->nodes.n);
    for (int i = 0; i < m->n; i++) m->after[m->member[i]] = true;
    for (Ref r = 1; r < g->nodes.n; r++)
        for (size_t i = 0; i < COUNTOF(g->nodes.v[r].arg); i++)
            m->after[r] |= m->after[g->nodes.v[r].arg[i]];
}

// No member may need another one's result.
static bool independent(const Graph *g, Group *m) {
    mark_after(g, m);
    for (int i = 0; i < m->n; i++)
        for (size_t k = 0; k < COUNTOF(g->nodes.v[0].arg); k++)
            if (m->after[g->nodes.v[m->member[i]].arg[k]]) return false;
    return true;
}

// A block of the machine holds the state of all of them, or none would fit.
static bool held(const Unit *u, const Group *m) {
    i64 size = 0;
    for (int i = 0; i < m->n; i++) size += ssd_graph_state_size(u->graph, m->member[i]);
    return u->graph->nodes.v[m->member[0]].k || ssd_machine_holds(u->machine, size);
}

static bool find_group(const Unit *u, Group *m) {
    const Graph *g = u->graph;
    for (Ref a = 1; a < g->nodes.n; a++) {
        if (g->nodes.v[a].op != OP_SSD) continue;
        m->member[0] = a;
        m->n = 1;
        m->side = 0;
        for (Ref b = a + 1; b < g->nodes.n && m->n < MOST_MEMBERS; b++) {
            AxisId side = m->side;
            bool all = true;
            for (int i = 0; i < m->n; i++) all = all && alike(g, m->member[i], b, &side);
            if (!all) continue;
            m->member[m->n++] = b;
            if (independent(g, m) && held(u, m))
                m->side = side;
            else
                m->n--;
        }
        if (m->n > 1) return true;
    }
    return false;
}

static AxisId fresh_axis(Graph *g, i64 size) {
    const char *name = "r";
    for (int i = 1; ssd_graph_find_axis(g, name); i++) name = ssd_arena_printf(g->arena, "r%d", i);
    return ssd_graph_axis(g, name, AX_FEATURE, size);
}

// Operand `arg` of all members, side by side.
static Ref side_by_side(Graph *g, const Group *m, const Node *old, const Ref *map, int arg) {
    Node cat = {.op = OP_CAT, .a0 = m->side, .a1 = m->to};
    for (int i = 0; i < m->n; i++) cat.arg[i] = map[old[m->member[i]].arg[arg]];
    return ssd_graph_make(g, cat);
}

static Ref part(Graph *g, const Group *m, Ref whole, int i) {
    return ssd_graph_slice(g, whole, m->to, m->column[i] ? 0 : m->side, m->from[i]);
}

typedef struct Merge {
    Group *group;
    const Node *old; // the nodes before the rewrite
} Merge;

static Ref merge_node(Graph *g, Node n, Ref old, const Ref *map, void *ctx) {
    Group *m = ((Merge *)ctx)->group;
    const Node *before = ((Merge *)ctx)->old;
    for (int i = 0; i < m->n; i++) {
        if (n.op == OP_FINAL && before[old].arg[0] == m->member[i])
            return part(g, m, ssd_graph_final(g, m->merged), i);
        if (old != m->member[i]) continue;
        if (!m->merged) {
            n.arg[2] = side_by_side(g, m, before, map, 2);
            if (n.arg[4]) n.arg[4] = side_by_side(g, m, before, map, 4);
            n.name = 0;
            m->merged = ssd_graph_make(g, n);
        }
        return part(g, m, m->merged, i);
    }
    return ssd_graph_make(g, n);
}

static void merge_group(Graph *g, Group *m) {
    i64 columns = 0;
    for (int i = 0; i < m->n; i++) {
        SsdAxes x = ssd_graph_ssd_axes(g, m->member[i]);
        m->column[i] = !m->side || !memchr(x.value, m->side, x.nvalue);
        m->from[i] = (i32)columns;
        columns += m->column[i] ? 1 : g->axes.v[m->side].size;
    }
    m->to = fresh_axis(g, columns);
    m->merged = 0;
    // What needs no member comes first: then every value is there where the first member stood.
    mark_after(g, m);
    Ref *order = NEWN(g->arena, Ref, g->nodes.n);
    u32 at = 0;
    for (int pass = 0; pass < 2; pass++)
        for (Ref r = 1; r < g->nodes.n; r++)
            if (m->after[r] == pass) order[at++] = r;
    Merge ctx = {m, g->nodes.v};
    ssd_graph_rewrite(g, order, merge_node, &ctx);
}

bool ssd_pass_merge(Unit *u) {
    Graph *g = u->graph;
    bool changed = false;
    for (;;) {
        Group m = {.after = NEWN(g->arena, bool, g->nodes.n)};
        if (!find_group(u, &m)) return changed;
        merge_group(g, &m);
        changed = true;
    }
}
