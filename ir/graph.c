// SPDX-License-Identifier: Apache-2.0
// Construction of graphs. A node is made once: an equal node made again is the same Ref, found by a
// hash table over everything a node is except its name (inputs: with it). Tens to hundreds of nodes
// expected.
#include "graph.h"

#include <math.h>

const FnInfo ssd_fns[FN__COUNT] = {
#define FN(id, text, arity, kind, meaning) {text, arity, #kind[0]},
#include "fns.def"
};

// clang-format off
double ssd_fn_eval(FnCode fn, double x, double y, double z) {
    switch (fn) {
#define FN(id, text, arity, kind, meaning) case FN_##id: return (double)(meaning);
#include "fns.def"
    case FN__COUNT: break;
    }
    SSD_BUG("fn %d", (int)fn);
}
// clang-format on

int ssd_fn_find(const char *name, size_t n) {
    for (int i = 0; i < FN__COUNT; i++)
        if (strlen(ssd_fns[i].name) == n && !memcmp(ssd_fns[i].name, name, n)) return i;
    return -1;
}

Graph *ssd_graph_new(Arena *a, const char *name) {
    Graph *g = NEW(a, Graph);
    g->arena = a;
    g->name = ssd_arena_dup(a, name, strlen(name));
    vec_push(a, &g->axes, ((Axis){.name = ""}));
    vec_push(a, &g->nodes, ((Node){0}));
    vec_push(a, &g->names, "");
    return g;
}

// --- Axes and names -----------------------------------------------------------------------------

AxisId ssd_graph_find_axis(const Graph *g, const char *name) {
    for (u32 i = 1; i < g->axes.n; i++)
        if (!strcmp(g->axes.v[i].name, name)) return (AxisId)i;
    return 0;
}

AxisId ssd_graph_axis_of_kind(const Graph *g, AxisKind kind) {
    for (u32 i = 1; i < g->axes.n; i++)
        if (g->axes.v[i].kind == kind) return (AxisId)i;
    return 0;
}

AxisId ssd_graph_axis(Graph *g, const char *name, AxisKind kind, i64 size) {
    AxisId x = ssd_graph_find_axis(g, name);
    if (x) {
        const Axis *a = &g->axes.v[x];
        if (a->kind != kind || a->size != size) SSD_BUG("axis %s exists as another one", name);
        return x;
    }
    if (g->axes.n > 255) SSD_BUG("more than 255 axes");
    vec_push(g->arena, &g->axes, ((Axis){ssd_arena_dup(g->arena, name, strlen(name)), kind, size}));
    return (AxisId)(g->axes.n - 1);
}

u32 ssd_graph_name(Graph *g, const char *name) {
    for (u32 i = 0; i < g->names.n; i++)
        if (!strcmp(g->names.v[i], name)) return i;
    vec_push(g->arena, &g->names, ssd_arena_dup(g->arena, name, strlen(name)));
    return g->names.n - 1;
}

bool ssd_graph_has_axis(const Graph *g, Ref r, AxisId x) {
    const Node *n = ssd_graph_node(g, r);
    for (int i = 0; i < n->naxes; i++)
        if (n->ax[i] == x) return true;
    return false;
}

// --- Hash-consing -------------------------------------------------------------------------------

// A node as words without padding. Numbers go in as bits: 0 and -0 differ, a NaN equals itself.
typedef struct Key {
    u64 w[8];
} Key;
_Static_assert(offsetof(Node, name) == 40, "Key packs the fields before name in one piece");

static Key key_of(const Node *n) {
    Key k = {0};
    memcpy(k.w, n, offsetof(Node, name));
    k.w[5] = n->op == OP_IN ? n->name : 0;
    memcpy(&k.w[6], n->op == OP_IN ? &n->dflt : &n->val, sizeof(double));
    k.w[7] = n->has_default;
    return k;
}

static void cons_add(Graph *g, Ref r) {
    Key k = key_of(&g->nodes.v[r]);
    u32 i = (u32)ssd_hash(&k, sizeof k, 0) & (g->cons_cap - 1);
    while (g->cons[i]) i = (i + 1) & (g->cons_cap - 1);
    g->cons[i] = r;
}

static void cons_grow(Graph *g) {
    g->cons_cap = g->cons_cap ? 2 * g->cons_cap : 256;
    g->cons = NEWN(g->arena, u32, g->cons_cap);
    for (Ref r = 1; r < g->nodes.n; r++) cons_add(g, r);
}

Ref ssd_graph_intern(Graph *g, const Node *n) {
    if (2 * g->nodes.n >= g->cons_cap) cons_grow(g);
    Key k = key_of(n);
    for (u32 i = (u32)ssd_hash(&k, sizeof k, 0);; i++) {
        Ref r = g->cons[i & (g->cons_cap - 1)];
        if (!r) break;
        Key o = key_of(&g->nodes.v[r]);
        if (memcmp(&o, &k, sizeof k)) continue;
        if (!g->nodes.v[r].name) g->nodes.v[r].name = n->name;
        return r;
    }
    vec_push(g->arena, &g->nodes, *n);
    cons_add(g, g->nodes.n - 1);
    return g->nodes.n - 1;
}

// --- Builders -----------------------------------------------------------------------------------

Ref ssd_graph_make(Graph *g, Node n) {
    ssd_graph_shape(g, &n);
    return ssd_graph_intern(g, &n);
}

Ref ssd_graph_in(Graph *g, const char *name, ssd_dtype dt, const AxisId *ax, int naxes,
                 const double *dflt) {
    Node n = {.op = OP_IN, .dtype = (u8)dt, .naxes = (u8)naxes, .name = ssd_graph_name(g, name)};
    for (int i = 0; i < naxes; i++) n.ax[i] = ax[i];
    if (dflt) n.has_default = 1, n.dflt = *dflt;
    Ref r = ssd_graph_make(g, n);
    for (u32 i = 0; i < g->ins.n; i++)
        if (g->ins.v[i] == r) return r;
    vec_push(g->arena, &g->ins, r);
    return r;
}

Ref ssd_graph_const(Graph *g, double v) {
    return ssd_graph_make(g, (Node){.op = OP_CONST, .val = v});
}
Ref ssd_graph_index(Graph *g, AxisId x) {
    return ssd_graph_make(g, (Node){.op = OP_INDEX, .a0 = x});
}
Ref ssd_graph_size(Graph *g, AxisId x) { return ssd_graph_make(g, (Node){.op = OP_SIZE, .a0 = x}); }

Ref ssd_graph_fn(Graph *g, FnCode f, Ref a, Ref b, Ref c) {
    return ssd_graph_make(g, (Node){.op = OP_FN, .fn = (u8)f, .arg = {a, b, c}});
}

Ref ssd_graph_cast(Graph *g, Ref a, ssd_dtype dt) {
    return ssd_graph_make(g, (Node){.op = OP_CAST, .dtype = (u8)dt, .arg = {a}});
}

Ref ssd_graph_reduce(Graph *g, OpCode sum_or_amax, Ref a, AxisId x) {
    return ssd_graph_make(g, (Node){.op = (u8)sum_or_amax, .arg = {a}, .a0 = x});
}

Ref ssd_graph_cat(Graph *g, Ref a, Ref b, AxisId x, AxisId to) {
    return ssd_graph_make(g, (Node){.op = OP_CAT, .arg = {a, b}, .a0 = x, .a1 = to});
}

Ref ssd_graph_slice(Graph *g, Ref a, AxisId x, AxisId to, i32 from) {
    return ssd_graph_make(g, (Node){.op = OP_SLICE, .arg = {a}, .a0 = x, .a1 = to, .k = from});
}

Ref ssd_graph_spread(Graph *g, Ref a, AxisId from, AxisId to) {
    return ssd_graph_make(g, (Node){.op = OP_SPREAD, .arg = {a}, .a0 = from, .a1 = to});
}

Ref ssd_graph_swap(Graph *g, Ref a, AxisId x, bool halves) {
    return ssd_graph_make(g, (Node){.op = OP_SWAP, .arg = {a}, .a0 = x, .flags = halves});
}

Ref ssd_graph_shift(Graph *g, Ref a, i32 k, Ref window, AxisId window_axis) {
    return ssd_graph_make(g, (Node){.op = OP_SHIFT, .arg = {a, window}, .a1 = window_axis, .k = k});
}

Ref ssd_graph_scan(Graph *g, Ref a, bool max, Ref init) {
    return ssd_graph_make(g, (Node){.op = OP_SCAN, .arg = {a, init}, .flags = max});
}

Ref ssd_graph_ssd(Graph *g, Ref q, Ref k, Ref v, Ref l, Ref h0, SsdAttr at) {
    return ssd_graph_make(g, (Node){.op = OP_SSD,
                                    .arg = {q, k, v, l, h0},
                                    .flags = at.flags,
                                    .time = at.time,
                                    .k = at.band});
}

Ref ssd_graph_final(Graph *g, Ref a) {
    return ssd_graph_make(g, (Node){.op = OP_FINAL, .arg = {a}});
}

void ssd_graph_out(Graph *g, const char *name, Ref a, ssd_dtype dt, const AxisId *ax, int naxes) {
    GraphOut o = {.name = ssd_arena_dup(g->arena, name, strlen(name)),
                  .ref = a,
                  .dtype = dt,
                  .naxes = (u8)naxes};
    for (int i = 0; i < naxes; i++) o.ax[i] = ax[i];
    vec_push(g->arena, &g->outs, o);
}

// --- Rewriting ----------------------------------------------------------------------------------

bool ssd_graph_rewrite(Graph *g, const Ref *order, GraphRule *rule, void *ctx) {
    u32 n = g->nodes.n;
    const Node *old = g->nodes.v;
    Ref *map = NEWN(g->arena, Ref, n);
    g->nodes.v = NULL;
    g->nodes.n = g->nodes.cap = 0;
    g->cons_cap = 0;
    vec_push(g->arena, &g->nodes, ((Node){0}));
    for (u32 i = 1; i < n; i++) {
        Ref r = order ? order[i - 1] : i;
        Node m = old[r];
        bool dropped = false;
        for (size_t k = 0; k < COUNTOF(m.arg); k++) {
            dropped |= m.arg[k] && !map[m.arg[k]];
            m.arg[k] = map[m.arg[k]];
        }
        if (dropped) continue;
        map[r] = rule(g, m, r, map, ctx);
        Node *made = &g->nodes.v[map[r]];
        if (map[r] && !made->name && made->op != OP_CONST) made->name = old[r].name;
    }
    for (u32 i = 0; i < g->ins.n; i++) g->ins.v[i] = map[g->ins.v[i]];
    for (u32 i = 0; i < g->outs.n; i++) g->outs.v[i].ref = map[g->outs.v[i].ref];
    for (u32 i = 0; i < g->states.n; i++) {
        g->states.v[i].init = map[g->states.v[i].init];
        g->states.v[i].final = map[g->states.v[i].final];
    }
    if (g->nodes.n != n) return true;
    for (Ref r = 1; r < n; r++) {
        Key a = key_of(&old[r]), b = key_of(&g->nodes.v[r]);
        if (map[r] != r || memcmp(&a, &b, sizeof a)) return true;
    }
    return false;
}
