// SPDX-License-Identifier: Apache-2.0
// The dtype and axes of a node from its operands: one rule an op. Also says, in words, what is
// wrong with a node that no rule accepts; text comes through here (parse.c), and so does the
// verifier.
//
// Axes of everything but inputs stand in one canonical order: batch or seq, time, head, group,
// window, then features in order of first appearance.
#include "graph.h"

typedef struct Axes {
    int n;
    AxisId ax[64];
} Axes;

static bool bad(Text *why, const char *fmt, ...) SSD_PRINTF(2, 3);
static bool bad(Text *why, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ssd_text_vprintf(why, fmt, ap);
    va_end(ap);
    return false;
}

static AxisKind kind_of(const Graph *g, AxisId x) { return g->axes.v[x].kind; }
static const char *name_of(const Graph *g, AxisId x) { return g->axes.v[x].name; }
static i64 size_of(const Graph *g, AxisId x) { return g->axes.v[x].size; }
static bool is_axis(const Graph *g, AxisId x) { return x && x < g->axes.n; }

static bool has(const Axes *s, AxisId x) {
    for (int i = 0; i < s->n; i++)
        if (s->ax[i] == x) return true;
    return false;
}

static void add(const Graph *g, Axes *s, AxisId x) {
    static const u8 rank[] = {[AX_BATCH] = 1, [AX_SEQ] = 1,    [AX_TIME] = 2,   [AX_HEAD] = 3,
                              [AX_GROUP] = 4, [AX_WINDOW] = 5, [AX_FEATURE] = 6};
    if (has(s, x)) return;
    int i = s->n++;
    for (; i > 0 && rank[kind_of(g, s->ax[i - 1])] > rank[kind_of(g, x)]; i--)
        s->ax[i] = s->ax[i - 1];
    s->ax[i] = x;
}

static void add_all(const Graph *g, Axes *s, Ref r) {
    const Node *n = ssd_graph_node(g, r);
    for (int i = 0; i < n->naxes; i++) add(g, s, n->ax[i]);
}

static void drop(Axes *s, AxisId x) {
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (s->ax[i] != x) s->ax[n++] = s->ax[i];
    s->n = n;
}

static bool set(Node *n, ssd_dtype dt, const Axes *s, Text *why) {
    if (s->n > (int)COUNTOF(n->ax)) return bad(why, "more than 8 axes");
    n->dtype = (u8)dt;
    n->naxes = (u8)s->n;
    memset(n->ax, 0, sizeof n->ax);
    for (int i = 0; i < s->n; i++) n->ax[i] = s->ax[i];
    return true;
}

static ssd_dtype dtype_of(const Graph *g, Ref r) { return (ssd_dtype)ssd_graph_node(g, r)->dtype; }

// --- Time ---------------------------------------------------------------------------------------

// What crosses time has the time axis, unless the graph is one token that never names it.
static bool add_time(const Graph *g, Axes *s, Text *why) {
    AxisId t = ssd_graph_axis_of_kind(g, AX_TIME);
    if (g->step && !(t && has(s, t))) return true;
    if (!t) return bad(why, "the graph has no time axis");
    add(g, s, t);
    return true;
}

// Axes over tokens to axes of a state: no time, and a packed sequence has its own row.
static bool to_state(const Graph *g, Axes *s, Text *why) {
    AxisId t = ssd_graph_axis_of_kind(g, AX_TIME);
    if (t) drop(s, t);
    if (!g->packed) return true;
    AxisId b = ssd_graph_axis_of_kind(g, AX_BATCH), q = ssd_graph_axis_of_kind(g, AX_SEQ);
    if (!q) return bad(why, "a packed graph needs an axis of kind seq");
    if (b) drop(s, b);
    add(g, s, q);
    return true;
}

static bool subset(const Graph *g, Ref r, const Axes *of, const char *what, Text *why) {
    const Node *n = ssd_graph_node(g, r);
    for (int i = 0; i < n->naxes; i++)
        if (!has(of, n->ax[i])) return bad(why, "%s has axis %s", what, name_of(g, n->ax[i]));
    return true;
}

// Axes of a state's operand as axes over tokens: the batch it may add to what it starts.
static void add_start(const Graph *g, Axes *s, Ref start, AxisId window) {
    const Node *n = ssd_graph_node(g, start);
    for (int i = 0; i < n->naxes; i++)
        if (n->ax[i] != window && kind_of(g, n->ax[i]) != AX_SEQ) add(g, s, n->ax[i]);
}

static bool shape_shift(const Graph *g, Node *n, Text *why) {
    Ref a = n->arg[0], w = n->arg[1];
    if (n->k < 1) return bad(why, "shift by %d", n->k);
    if (n->a1) {
        if (kind_of(g, n->a1) != AX_WINDOW || size_of(g, n->a1) != n->k)
            return bad(why, "axis %s is not a window of %d", name_of(g, n->a1), n->k);
        if (ssd_graph_has_axis(g, a, n->a1))
            return bad(why, "the operand has the window axis %s", name_of(g, n->a1));
    }
    Axes s = {0};
    add_all(g, &s, a);
    ssd_dtype dt = dtype_of(g, a);
    if (w) {
        if (!n->a1 || !ssd_graph_has_axis(g, w, n->a1))
            return bad(why, "the window has no window axis");
        add_start(g, &s, w, n->a1);
        Axes of = s;
        if (!to_state(g, &of, why)) return false;
        add(g, &of, n->a1);
        if (!subset(g, w, &of, "the window", why)) return false;
        if (dtype_of(g, w) != dt) dt = SSD_F32;
    }
    return add_time(g, &s, why) && set(n, dt, &s, why);
}

static bool shape_scan(const Graph *g, Node *n, Text *why) {
    Axes s = {0};
    add_all(g, &s, n->arg[0]);
    if (n->arg[1]) {
        add_start(g, &s, n->arg[1], 0);
        Axes of = s;
        if (!to_state(g, &of, why)) return false;
        if (!subset(g, n->arg[1], &of, "the initial value", why)) return false;
    }
    return add_time(g, &s, why) && set(n, SSD_F32, &s, why);
}

// --- ssd ----------------------------------------------------------------------------------------

static bool push_feature(const Graph *g, AxisId *ax, u8 *n, AxisId x, Text *why) {
    if (*n == 3) return bad(why, "more than 3 features of key or value, at axis %s", name_of(g, x));
    ax[(*n)++] = x;
    return true;
}

static bool one_of(const AxisId *ax, int n, AxisId x) { return memchr(ax, x, (size_t)n) != NULL; }

static bool ssd_axes(const Graph *g, const Node *n, SsdAxes *o, Text *why) {
    static const char *const what[] = {"query", "key", "value", "log_decay"};
    *o = (SsdAxes){0};
    Axes all = {0};
    for (int i = 0; i < 4; i++)
        if (n->arg[i]) add_all(g, &all, n->arg[i]);
    for (int i = 0; i < all.n; i++) {
        AxisId x = all.ax[i];
        AxisId *at = NULL;
        switch (kind_of(g, x)) {
        case AX_BATCH: at = &o->batch; break;
        case AX_TIME: at = &o->time; break;
        case AX_HEAD:
        case AX_GROUP: at = &o->head; break;
        case AX_FEATURE: continue;
        case AX_NONE:
        case AX_SEQ:
        case AX_WINDOW: return bad(why, "axis %s in an operand of ssd", name_of(g, x));
        }
        if (*at) return bad(why, "axes %s and %s in one ssd", name_of(g, *at), name_of(g, x));
        *at = x;
    }
    const Node *q = ssd_graph_node(g, n->arg[0]), *k = ssd_graph_node(g, n->arg[1]);
    const Node *v = ssd_graph_node(g, n->arg[2]);
    for (int i = 0; i < v->naxes; i++)
        if (kind_of(g, v->ax[i]) == AX_FEATURE &&
            !push_feature(g, o->value, &o->nvalue, v->ax[i], why))
            return false;
    for (int i = 0; i < k->naxes; i++)
        if (kind_of(g, k->ax[i]) == AX_FEATURE && one_of(q->ax, q->naxes, k->ax[i]) &&
            !one_of(o->value, o->nvalue, k->ax[i]) &&
            !push_feature(g, o->key, &o->nkey, k->ax[i], why))
            return false;
    for (int a = 0; a < 4; a++) {
        if (!n->arg[a]) continue;
        const Node *m = ssd_graph_node(g, n->arg[a]);
        for (int i = 0; i < m->naxes; i++)
            if (kind_of(g, m->ax[i]) == AX_FEATURE && !one_of(o->key, o->nkey, m->ax[i]) &&
                !one_of(o->value, o->nvalue, m->ax[i]))
                return bad(why, "axis %s of %s is neither contracted nor a value's",
                           name_of(g, m->ax[i]), what[a]);
    }
    if (!o->time && !g->step) o->time = ssd_graph_axis_of_kind(g, AX_TIME);
    AxisId batch = o->batch;
    if (g->packed && !(batch = ssd_graph_axis_of_kind(g, AX_SEQ)))
        return bad(why, "a packed graph needs an axis of kind seq");
    if (batch) o->state[o->nstate++] = batch;
    if (o->head) o->state[o->nstate++] = o->head;
    for (int i = 0; i < o->nvalue; i++) o->state[o->nstate++] = o->value[i];
    for (int i = 0; i < o->nkey; i++) o->state[o->nstate++] = o->key[i];
    return true;
}

SsdAxes ssd_graph_ssd_axes(const Graph *g, Ref ssd) {
    SsdAxes o;
    Text why = {0};
    if (!ssd_axes(g, ssd_graph_node(g, ssd), &o, &why)) SSD_BUG("node %u: %s", ssd, why.s);
    return o;
}

i64 ssd_graph_state_size(const Graph *g, Ref ssd) {
    SsdAxes x = ssd_graph_ssd_axes(g, ssd);
    i64 n = 1;
    for (int i = 0; i < x.nkey; i++) n *= g->axes.v[x.key[i]].size;
    for (int i = 0; i < x.nvalue; i++) n *= g->axes.v[x.value[i]].size;
    return n;
}

static bool shape_ssd(const Graph *g, Node *n, Text *why) {
    if (n->time > TIME_REV || n->flags & ~(SSD_DIAG_OUT | SSD_READ_BEFORE | SSD_FULL))
        return bad(why, "unknown attributes");
    if (n->flags & SSD_READ_BEFORE) n->flags |= SSD_DIAG_OUT;
    if (n->flags & SSD_FULL && (n->arg[3] || n->flags != SSD_FULL || n->k))
        return bad(why, "mask=full takes no log_decay, diag, read or band");
    if (n->k < 0) return bad(why, "band of %d", n->k);
    if (n->k && n->arg[4]) return bad(why, "a band has no initial state");
    SsdAxes x;
    if (!ssd_axes(g, n, &x, why)) return false;
    if (n->arg[4]) {
        Axes state = {.n = x.nstate};
        memcpy(state.ax, x.state, x.nstate);
        if (!subset(g, n->arg[4], &state, "the initial state", why)) return false;
    }
    Axes s = {0};
    if (x.batch) add(g, &s, x.batch);
    if (x.time) add(g, &s, x.time);
    if (x.head) add(g, &s, x.head);
    for (int i = 0; i < x.nvalue; i++) add(g, &s, x.value[i]);
    return add_time(g, &s, why) && set(n, SSD_F32, &s, why);
}

static bool shape_final(const Graph *g, Node *n, Text *why) {
    const Node *a = ssd_graph_node(g, n->arg[0]);
    Axes s = {0};
    switch ((OpCode)a->op) {
    case OP_SSD: {
        if (a->k) return bad(why, "a band has no final state");
        SsdAxes x;
        if (!ssd_axes(g, a, &x, why)) return false;
        s.n = x.nstate;
        memcpy(s.ax, x.state, x.nstate);
        return set(n, SSD_F32, &s, why);
    }
    case OP_SHIFT:
    case OP_SCAN:
        add_all(g, &s, n->arg[0]);
        if (!to_state(g, &s, why)) return false;
        if (a->op == OP_SHIFT && !a->a1) return bad(why, "a shift without a window axis");
        if (a->op == OP_SHIFT) add(g, &s, a->a1);
        return set(n, (ssd_dtype)a->dtype, &s, why);
    default: return bad(why, "only ssd, scan and shift have a final state");
    }
}

// --- Feature axes -------------------------------------------------------------------------------

// The axes of r with `from` replaced by `to` (0: removed) in its place.
static void replaced(const Graph *g, Axes *s, Ref r, AxisId from, AxisId to) {
    const Node *n = ssd_graph_node(g, r);
    for (int i = 0; i < n->naxes; i++) {
        AxisId x = n->ax[i] == from ? to : n->ax[i];
        if (x) add(g, s, x);
    }
}

static bool shape_cat(const Graph *g, Node *n, Text *why) {
    if (n->a0 && kind_of(g, n->a0) != AX_FEATURE)
        return bad(why, "axis %s is no feature axis", name_of(g, n->a0));
    if (!n->a1 || kind_of(g, n->a1) != AX_FEATURE) return bad(why, "`to` is no feature axis");
    Axes s = {0};
    i64 columns = 0;
    ssd_dtype dt = dtype_of(g, n->arg[0]);
    for (size_t i = 0; i < COUNTOF(n->arg) && n->arg[i]; i++) {
        Ref a = n->arg[i];
        if (ssd_graph_has_axis(g, a, n->a1))
            return bad(why, "an operand has axis %s already", name_of(g, n->a1));
        columns += n->a0 && ssd_graph_has_axis(g, a, n->a0) ? size_of(g, n->a0) : 1;
        replaced(g, &s, a, n->a0, n->a1);
        if (dtype_of(g, a) != dt) dt = SSD_F32;
    }
    add(g, &s, n->a1);
    if (columns != size_of(g, n->a1))
        return bad(why, "%lld columns, axis %s has %lld", (long long)columns, name_of(g, n->a1),
                   (long long)size_of(g, n->a1));
    return set(n, dt, &s, why);
}

static bool shape_slice(const Graph *g, Node *n, Text *why) {
    if (kind_of(g, n->a0) != AX_FEATURE && kind_of(g, n->a0) != AX_WINDOW)
        return bad(why, "axis %s is no feature axis", name_of(g, n->a0));
    if (n->a1 && kind_of(g, n->a1) != AX_FEATURE)
        return bad(why, "axis %s is no feature axis", name_of(g, n->a1));
    if (n->a1 && ssd_graph_has_axis(g, n->arg[0], n->a1))
        return bad(why, "the operand has axis %s already", name_of(g, n->a1));
    i64 count = n->a1 ? size_of(g, n->a1) : 1;
    if (n->k < 0 || n->k + count > size_of(g, n->a0))
        return bad(why, "elements %d to %lld of axis %s", n->k, (long long)(n->k + count),
                   name_of(g, n->a0));
    Axes s = {0};
    replaced(g, &s, n->arg[0], n->a0, n->a1);
    return set(n, dtype_of(g, n->arg[0]), &s, why);
}

static bool shape_heads(const Graph *g, Node *n, Text *why) {
    bool spread = n->op == OP_SPREAD;
    AxisId group = spread ? n->a0 : n->a1, head = spread ? n->a1 : n->a0;
    if (!is_axis(g, group) || !is_axis(g, head) || kind_of(g, group) != AX_GROUP ||
        kind_of(g, head) != AX_HEAD || size_of(g, group) < 1 ||
        size_of(g, head) % size_of(g, group))
        return bad(why, "needs a group axis and a head axis that it divides");
    if (ssd_graph_has_axis(g, n->arg[0], n->a1))
        return bad(why, "the operand has axis %s already", name_of(g, n->a1));
    Axes s = {0};
    replaced(g, &s, n->arg[0], n->a0, n->a1);
    return set(n, spread ? dtype_of(g, n->arg[0]) : SSD_F32, &s, why);
}

// --- All ops ------------------------------------------------------------------------------------

static bool shape_in(const Graph *g, Node *n, Text *why) {
    if (n->naxes > COUNTOF(n->ax)) return bad(why, "more than 8 axes");
    for (int i = 0; i < n->naxes; i++) {
        if (!is_axis(g, n->ax[i])) return bad(why, "unknown axis");
        for (int j = 0; j < i; j++)
            if (n->ax[i] == n->ax[j]) return bad(why, "axis %s twice", name_of(g, n->ax[i]));
    }
    if (n->dtype != SSD_F32 && n->dtype != SSD_BF16 && n->dtype != SSD_F16 && n->dtype != SSD_I32)
        return bad(why, "no tensor has this dtype");
    if (!n->name) return bad(why, "an input without a name");
    return true;
}

static bool shape_fn(const Graph *g, Node *n, Text *why) {
    if (n->fn >= FN__COUNT) return bad(why, "unknown function");
    const FnInfo *f = &ssd_fns[n->fn];
    Axes s = {0};
    for (int i = 0; i < 3; i++) {
        if ((i < f->arity) != (n->arg[i] != 0))
            return bad(why, "%s takes %d operand%s", f->name, f->arity, f->arity > 1 ? "s" : "");
        if (n->arg[i]) add_all(g, &s, n->arg[i]);
    }
    bool where =
        f->kind == 'W' && dtype_of(g, n->arg[1]) == SSD_BOOL && dtype_of(g, n->arg[2]) == SSD_BOOL;
    return set(n, f->kind == 'C' || where ? SSD_BOOL : SSD_F32, &s, why);
}

static bool shape_reduce(const Graph *g, Node *n, Text *why) {
    AxisKind k = kind_of(g, n->a0);
    if (k == AX_BATCH || k == AX_SEQ || k == AX_TIME)
        return bad(why, "axis %s is not reduced", name_of(g, n->a0));
    Axes s = {0};
    add_all(g, &s, n->arg[0]);
    drop(&s, n->a0);
    return set(n, SSD_F32, &s, why);
}

static bool shape_swap(const Graph *g, Node *n, Text *why) {
    if (kind_of(g, n->a0) != AX_FEATURE || size_of(g, n->a0) % 2)
        return bad(why, "swap needs a feature axis of even size");
    Axes s = {0};
    add_all(g, &s, n->arg[0]);
    return set(n, dtype_of(g, n->arg[0]), &s, why);
}

static bool shape_index(const Graph *g, Node *n, Text *why) {
    Axes s = {0};
    if (!is_axis(g, n->a0)) return bad(why, "unknown axis");
    if (n->op == OP_INDEX || (g->packed && kind_of(g, n->a0) == AX_TIME)) add(g, &s, n->a0);
    return set(n, SSD_IDX, &s, why);
}

static bool shape_cast(const Graph *g, Node *n, Text *why) {
    ssd_dtype dt = (ssd_dtype)n->dtype;
    if (dt != SSD_F32 && dt != SSD_BF16 && dt != SSD_F16) return bad(why, "cast to no float type");
    Axes s = {0};
    add_all(g, &s, n->arg[0]);
    return set(n, dt, &s, why);
}

static const struct {
    u8 least, most;
} operands[OP__COUNT] = {
#define OP(id, text, lo, hi, attrs, doc) {lo, hi},
#include "ops.def"
};

static bool check_operands(const Graph *g, const Node *n, Text *why) {
    if (n->op >= OP__COUNT) return bad(why, "unknown op");
    int last = n->op == OP_SSD ? 3 : 5; // log_decay and h0 may each be absent; no other op has gaps
    for (int i = 0; i < 5; i++) {
        if (n->arg[i] >= g->nodes.n) return bad(why, "operand %d stands after its user", i + 1);
        if (!n->arg[i] && i < operands[n->op].least)
            return bad(why, "operand %d is missing", i + 1);
        if (n->arg[i] && i >= operands[n->op].most)
            return bad(why, "operand %d is too many", i + 1);
        if (n->arg[i] && i && i <= last - 1 && !n->arg[i - 1])
            return bad(why, "operand %d is missing", i);
    }
    if (n->a0 >= g->axes.n || n->a1 >= g->axes.n) return bad(why, "unknown axis");
    bool reads = n->op == OP_SUM || n->op == OP_AMAX || n->op == OP_SLICE || n->op == OP_SPREAD ||
                 n->op == OP_FOLD || n->op == OP_SWAP;
    if (reads && (!n->a0 || !ssd_graph_has_axis(g, n->arg[0], n->a0)))
        return bad(why, "the operand lacks axis %s", n->a0 ? name_of(g, n->a0) : "(none)");
    return true;
}

bool ssd_graph_infer(const Graph *g, Node *n, Text *why) {
    if (!check_operands(g, n, why)) return false;
    switch ((OpCode)n->op) {
    case OP_IN: return shape_in(g, n, why);
    case OP_CONST: return set(n, SSD_F32, &(Axes){0}, why);
    case OP_INDEX:
    case OP_SIZE: return shape_index(g, n, why);
    case OP_FN: return shape_fn(g, n, why);
    case OP_CAST: return shape_cast(g, n, why);
    case OP_SUM:
    case OP_AMAX: return shape_reduce(g, n, why);
    case OP_CAT: return shape_cat(g, n, why);
    case OP_SLICE: return shape_slice(g, n, why);
    case OP_SPREAD:
    case OP_FOLD: return shape_heads(g, n, why);
    case OP_SWAP: return shape_swap(g, n, why);
    case OP_SHIFT: return shape_shift(g, n, why);
    case OP_SCAN: return shape_scan(g, n, why);
    case OP_SSD: return shape_ssd(g, n, why);
    case OP_FINAL: return shape_final(g, n, why);
    case OP__COUNT: break;
    }
    return bad(why, "unknown op");
}

void ssd_graph_shape(Graph *g, Node *n) {
    static const char *const text[] = {
#define OP(id, name, lo, hi, attrs, doc) name,
#include "ops.def"
    };
    Text why = {0};
    if (!ssd_graph_infer(g, n, &why))
        SSD_BUG("%s (node %u): %s", n->op < OP__COUNT ? text[n->op] : "?", g->nodes.n, why.s);
}
