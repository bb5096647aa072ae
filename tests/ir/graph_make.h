// SPDX-License-Identifier: Apache-2.0
// Graphs for tests: one ssd of any attributes, whole layers, and random graphs of every op; inputs
// drawn for any of them.
#ifndef GRAPH_MAKE_H
#define GRAPH_MAKE_H

#include "../../ir/pass.h"
#include "../runtime/test.h"

#include <math.h>

static u64 seed_ = 1;
static inline int pick(int n) { return (int)(test_random(&seed_) % (u32)n); }
static inline double uniform(double lo, double hi) {
    return lo + (hi - lo) * (test_random(&seed_) / 2147483648.0);
}

typedef struct Kit { // a graph under construction and its axes
    Graph *g;
    AxisId b, t, s, h, G, p, n, m, w;
} Kit;

static inline Kit kit(Arena *a, const char *name, bool packed, bool step, int H, int P, int N) {
    Kit k = {.g = ssd_graph_new(a, name)};
    k.g->packed = packed;
    k.g->step = step;
    k.b = ssd_graph_axis(k.g, "b", AX_BATCH, -1);
    k.t = ssd_graph_axis(k.g, "t", AX_TIME, -1);
    if (packed) k.s = ssd_graph_axis(k.g, "s", AX_SEQ, -1);
    k.h = ssd_graph_axis(k.g, "h", AX_HEAD, H);
    k.G = ssd_graph_axis(k.g, "g", AX_GROUP, H % 2 ? 1 : 2);
    k.p = ssd_graph_axis(k.g, "p", AX_FEATURE, P);
    k.n = ssd_graph_axis(k.g, "n", AX_FEATURE, N);
    k.m = ssd_graph_axis(k.g, "m", AX_FEATURE, 2);
    k.w = ssd_graph_axis(k.g, "w", AX_WINDOW, 3);
    return k;
}

// "bthp": axes by letter; 's' is the batch of states whatever the graph.
static inline int axes_of(const Kit *k, const char *letters, AxisId *ax) {
    int n = 0;
    for (; *letters; letters++) {
        AxisId x = 0;
        switch (*letters) {
        case 'b': x = k->b; break;
        case 't': x = k->t; break;
        case 's': x = k->g->packed ? k->s : k->b; break;
        case 'h': x = k->h; break;
        case 'g': x = k->G; break;
        case 'p': x = k->p; break;
        case 'n': x = k->n; break;
        case 'm': x = k->m; break;
        case 'w': x = k->w; break;
        }
        ax[n++] = x;
    }
    return n;
}

static inline Ref input(const Kit *k, const char *name, const char *letters) {
    AxisId ax[8];
    int n = axes_of(k, letters, ax);
    return ssd_graph_in(k->g, name, SSD_F32, ax, n, NULL);
}

static inline void output(const Kit *k, const char *name, Ref r) {
    const Node *n = ssd_graph_node(k->g, r);
    ssd_graph_out(k->g, name, r, SSD_F32, n->ax, n->naxes);
}

static inline void state(const Kit *k, const char *in, Ref init, const char *out, Ref final) {
    vec_push(k->g->arena, &k->g->states, ((GraphState){in, out, init, final}));
    output(k, out, final);
}

// --- Arrays -------------------------------------------------------------------------------------

typedef struct Sizes {
    i64 b, t;
    const i64 *cu; // packed: cu_seqlens
    i64 s;         // packed: number of sequences
} Sizes;

static inline Array array_of(Arena *a, const Graph *g, const AxisId *ax, int naxes, Sizes z) {
    Array r = {0};
    for (int i = 0; i < naxes; i++) {
        const Axis *x = &g->axes.v[ax[i]];
        if (g->step && x->kind == AX_TIME) continue;
        i64 size = x->size;
        if (x->kind == AX_BATCH) size = z.b;
        if (x->kind == AX_TIME) size = z.t;
        if (x->kind == AX_SEQ) size = z.s;
        r.dims[r.rank++] = size;
    }
    r.v = NEWN(a, double, ssd_array_count(&r) + 1);
    return r;
}

// Inputs of a graph, names beginning with 'l' (log_decay) in (-2, 0), else in (-1, 1).
static inline int draw_inputs(Arena *a, const Graph *g, Sizes z, NamedArray *in) {
    int n = 0;
    for (u32 i = 0; i < g->ins.n; i++) {
        const Node *x = ssd_graph_node(g, g->ins.v[i]);
        in[n].name = g->names.v[x->name];
        in[n].a = array_of(a, g, x->ax, x->naxes, z);
        bool decay = in[n].name[0] == 'l';
        for (i64 k = 0; k < ssd_array_count(&in[n].a); k++)
            in[n].a.v[k] = decay ? uniform(-2, 0) : uniform(-1, 1);
        n++;
    }
    if (!g->packed) return n;
    in[n].name = "cu_seqlens";
    in[n].a = (Array){.rank = 1, .dims = {z.s + 1}, .v = NEWN(a, double, z.s + 1)};
    for (i64 i = 0; i <= z.s; i++) in[n].a.v[i] = (double)z.cu[i];
    return n + 1;
}

static inline NamedArray *find_array(NamedArray *in, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(in[i].name, name)) return &in[i];
    return NULL;
}

// Largest difference over the largest magnitude of y; infinite when shapes or NaNs differ.
static inline double distance(const Array *x, const Array *y) {
    double err = 0, top = 1e-300;
    if (x->rank != y->rank || memcmp(x->dims, y->dims, sizeof(i64) * (size_t)y->rank))
        return INFINITY;
    for (i64 i = 0; i < ssd_array_count(y); i++) {
        if (isnan(x->v[i]) != isnan(y->v[i])) return INFINITY;
        if (isnan(y->v[i]) || x->v[i] == y->v[i]) continue;
        err = fmax(err, fabs(x->v[i] - y->v[i]));
        top = fmax(top, fabs(y->v[i]));
    }
    return err / top;
}

static inline bool interp(const Graph *g, Arena *a, const NamedArray *in, int n, Meaning m,
                          NamedArray *out) {
    Text why = {0};
    InterpOptions o = {.meaning = m, .b = 1, .t = 1};
    bool ok = ssd_graph_interp(g, a, in, n, &o, out, &why);
    if (!ok) printf("%s: %s\n", g->name, why.s);
    ssd_text_free(&why);
    return CHECK(ok);
}

static inline bool verified(const Graph *g) {
    Text why = {0};
    bool ok = ssd_graph_verify(g, &why);
    if (!ok) printf("%s: %s\n", g->name, why.s);
    ssd_text_free(&why);
    return CHECK(ok);
}

// --- A whole layer: everything that crosses time at once ----------------------------------------

// shift feeds ssd, cumsum turns it, index and size see their sequence; all states in and out.
static inline Kit layer(Arena *a, bool packed, bool step, bool with_index) {
    Kit k = kit(a, "layer", packed, step, 2, 3, 4);
    Graph *g = k.g;
    Ref x = input(&k, "x", "bthp"), q = input(&k, "q", "btgn"), key = input(&k, "k", "btgn");
    Ref l = input(&k, "l", "bth"), w0 = input(&k, "w0", "shwp"), c0 = input(&k, "c0", "sh");
    Ref h0 = input(&k, "h0", "shpn");
    Ref v = ssd_graph_fn(g, FN_ADD, x, ssd_graph_shift(g, x, 3, w0, k.w), 0);
    Ref angle = ssd_graph_scan(g, ssd_graph_fn(g, FN_EXP, l, 0, 0), false, c0);
    Ref turned = ssd_graph_fn(g, FN_MUL, v, ssd_graph_fn(g, FN_COS, angle, 0, 0), 0);
    Ref y = ssd_graph_ssd(g, ssd_graph_spread(g, q, k.G, k.h), ssd_graph_spread(g, key, k.G, k.h),
                          turned, l, h0, (SsdAttr){0});
    Ref o = y;
    if (with_index) {
        Ref place = ssd_graph_fn(g, FN_SUB, ssd_graph_size(g, k.t), ssd_graph_index(g, k.t), 0);
        o = ssd_graph_fn(g, FN_MUL, y, place, 0);
    }
    output(&k, "y", o);
    state(&k, "w0", w0, "wT", ssd_graph_final(g, ssd_graph_node(g, v)->arg[1]));
    state(&k, "c0", c0, "cT", ssd_graph_final(g, angle));
    state(&k, "h0", h0, "hT", ssd_graph_final(g, y));
    return k;
}

// --- Random graphs ------------------------------------------------------------------------------

static inline bool feature(const Kit *k, Ref r, AxisId x) { return ssd_graph_has_axis(k->g, r, x); }

// One more node over the pool, or 0 when the draw does not fit.
static inline Ref random_node(const Kit *k, const Ref *pool, int n) {
    Graph *g = k->g;
    Ref a = pool[pick(n)], b = pool[pick(n)], c = pool[pick(n)];
    Node m = {0};
    switch (pick(14)) {
    case 0:
    case 1:
    case 2:
    case 3: {
        static const u8 safe[] = {FN_ADD, FN_SUB, FN_MUL, FN_SIGMOID, FN_TANH, FN_SIN, FN_WHERE,
                                  FN_LT,  FN_NEG, FN_MIN, FN_MAX,     FN_SILU, FN_NOT, FN_AND};
        m = (Node){.op = OP_FN, .fn = safe[pick(COUNTOF(safe))]};
        Ref arg[3] = {a, b, c};
        for (int i = 0; i < ssd_fns[m.fn].arity; i++) m.arg[i] = arg[i];
        break;
    }
    case 4: m = (Node){.op = OP_CONST, .val = pick(5) - 2 + (pick(2) ? 0 : uniform(-1, 1))}; break;
    case 5: m = (Node){.op = pick(2) ? OP_INDEX : OP_SIZE, .a0 = pick(2) ? k->t : k->h}; break;
    case 6: m = (Node){.op = OP_CAST, .arg = {a}, .dtype = pick(2) ? SSD_F32 : SSD_BF16}; break;
    case 7:
        m = (Node){.op = pick(2) ? OP_SUM : OP_AMAX, .arg = {a}, .a0 = pick(2) ? k->p : k->n};
        break;
    case 8:
        m = (Node){.op = OP_SLICE, .arg = {a}, .a0 = k->n, .a1 = pick(2) ? k->m : 0, .k = pick(2)};
        break;
    case 9: m = (Node){.op = OP_SPREAD, .arg = {a}, .a0 = k->G, .a1 = k->h}; break;
    case 10: m = (Node){.op = OP_SWAP, .arg = {a}, .a0 = k->n, .flags = (u8)pick(2)}; break;
    case 11: m = (Node){.op = OP_SHIFT, .arg = {a}, .k = 1 + pick(4)}; break;
    case 12: m = (Node){.op = OP_SCAN, .arg = {a}, .flags = (u8)pick(2)}; break;
    case 13:
        m = (Node){
            .op = OP_SSD, .arg = {a, b, c}, .time = (u8)pick(3), .k = pick(3) ? 0 : 1 + pick(4)};
        m.flags = (u8)(pick(2) ? 0 : pick(2) ? SSD_DIAG_OUT : SSD_READ_BEFORE | SSD_DIAG_OUT);
        break;
    }
    Text why = {0};
    bool ok = ssd_graph_infer(g, &m, &why);
    ssd_text_free(&why);
    return ok ? ssd_graph_intern(g, &m) : 0;
}

static inline Kit random_graph(Arena *a, int nodes) {
    Kit k = kit(a, "random", pick(4) == 0, false, 2, 3, 4);
    Graph *g = k.g;
    if (!g->packed) g->step = pick(6) == 0;
    g->invariant = pick(2), g->decay_any = pick(2), g->cumsum_split = pick(2);
    g->matmul = (u8)pick(4);
    g->chunk = pick(2) ? NULL : pick(2) ? "auto" : "64 128";
    static const char *const axes[] = {"bthp", "btgn", "bthn", "h", "bth", "nbht", ""};
    Ref pool[128];
    int n = 0;
    for (int i = 0; i < (int)COUNTOF(axes); i++)
        pool[n++] = input(&k, ssd_arena_printf(a, "x%d", i), axes[i]);
    for (int tries = 0; tries < 20 * nodes && n < nodes + (int)COUNTOF(axes); tries++) {
        Ref r = random_node(&k, pool, n);
        if (!r) continue;
        if (pick(3) == 0 && !g->nodes.v[r].name)
            g->nodes.v[r].name = ssd_graph_name(g, ssd_arena_printf(a, "v%d", pick(20)));
        pool[n++] = r;
    }
    for (int i = 0; i < 3; i++) {
        Ref r = pool[n - 1 - pick(n / 2)];
        if (g->nodes.v[r].dtype != SSD_BOOL) output(&k, ssd_arena_printf(a, "o%d", i), r);
    }
    return k;
}

#endif
