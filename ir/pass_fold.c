// SPDX-License-Identifier: Apache-2.0
// fold: constants and identities. An optional input that is left out arrives here as its default,
// so `dt + 0` and `1 * x` are the rule, not the exception.
//
//     %3 = fn add dt 0          ->  dt
//     %4 = fn mul %3 1          ->  dt
//     %5 = size axis=h          ->  24
//
// x*0 stays: x may hold a NaN. A node is replaced only by one with the same axes. Comparisons never
// turn into numbers (a bool is no float for a back end); what selects by them is folded instead.
// Needs: a valid graph. Keeps: its meaning, but for the sign of a zero sum. Breaks: nothing.
#include "pass.h"

#include <math.h>

// f(x, y) where operand `at` is the number c.
typedef enum { TO_OTHER, TO_NEG, TO_SQUARE } Action;
static const struct {
    u8 fn, at;
    double c;
    Action to;
} identities[] = {
    {FN_ADD, 1, 0, TO_OTHER},  // x + 0      x
    {FN_ADD, 0, 0, TO_OTHER},  // 0 + x      x
    {FN_SUB, 1, 0, TO_OTHER},  // x - 0      x
    {FN_SUB, 0, 0, TO_NEG},    // 0 - x      -x
    {FN_MUL, 1, 1, TO_OTHER},  // x * 1      x
    {FN_MUL, 0, 1, TO_OTHER},  // 1 * x      x
    {FN_MUL, 1, -1, TO_NEG},   // x * -1     -x
    {FN_MUL, 0, -1, TO_NEG},   // -1 * x     -x
    {FN_DIV, 1, 1, TO_OTHER},  // x / 1      x
    {FN_DIV, 1, -1, TO_NEG},   // x / -1     -x
    {FN_POW, 1, 1, TO_OTHER},  // x ** 1     x
    {FN_POW, 1, 2, TO_SQUARE}, // x ** 2     x * x
};

// The number a node always is. Floats are folded already; what is left are comparisons, looked into
// to a small depth.
static bool number_in(const Graph *g, Ref r, double *out, int depth) {
    const Node *n = &g->nodes.v[r];
    double v[3] = {0};
    if (n->op == OP_CONST) {
        *out = n->val;
        return true;
    }
    if (n->op != OP_FN || !depth) return false;
    for (int i = 0; i < 3; i++)
        if (n->arg[i] && !number_in(g, n->arg[i], &v[i], depth - 1)) return false;
    *out = ssd_fn_eval((FnCode)n->fn, v[0], v[1], v[2]);
    return true;
}

static bool number(const Graph *g, Ref r, double *out) { return number_in(g, r, out, 4); }

static bool is_float(const Graph *g, Ref r) {
    u8 dt = g->nodes.v[r].dtype;
    return dt == SSD_F32 || dt == SSD_BF16 || dt == SSD_F16;
}

// Whether r can stand for n: the same axes, and a float for a float.
static bool fits(const Graph *g, Ref r, const Node *n) {
    const Node *m = &g->nodes.v[r];
    if (m->naxes != n->naxes || memcmp(m->ax, n->ax, n->naxes)) return false;
    return n->dtype == SSD_BOOL ? m->dtype == SSD_BOOL : is_float(g, r);
}

static Ref negate(Graph *g, Ref r) {
    const Node *n = &g->nodes.v[r];
    if (n->op == OP_FN && n->fn == FN_NEG) return n->arg[0];
    return ssd_graph_fn(g, FN_NEG, r, 0, 0);
}

static Ref fold_identity(Graph *g, const Node *n) {
    for (size_t i = 0; i < COUNTOF(identities); i++) {
        double c;
        u8 at = identities[i].at;
        Ref x = n->arg[1 - at];
        if (n->fn != identities[i].fn || !number(g, n->arg[at], &c) || c != identities[i].c ||
            !fits(g, x, n))
            continue;
        switch (identities[i].to) {
        case TO_OTHER: return x;
        case TO_NEG: return fits(g, negate(g, x), n) ? negate(g, x) : 0;
        case TO_SQUARE: return ssd_graph_fn(g, FN_MUL, x, x, 0);
        }
    }
    return 0;
}

// x / 2^k is x * 2^-k, exactly.
static Ref fold_division(Graph *g, const Node *n) {
    double c;
    int e;
    if (n->fn != FN_DIV || !number(g, n->arg[1], &c) || fabs(frexp(c, &e)) != 0.5) return 0;
    if (e > 100 || e < -100) return 0; // the reciprocal of an extreme may be no f32
    return ssd_graph_fn(g, FN_MUL, n->arg[0], ssd_graph_const(g, 1 / c), 0);
}

static Ref fold_where(Graph *g, const Node *n) {
    double c;
    if (n->fn != FN_WHERE) return 0;
    if (n->arg[1] == n->arg[2] && fits(g, n->arg[1], n)) return n->arg[1];
    if (!number(g, n->arg[0], &c)) return 0;
    Ref r = c != 0 ? n->arg[1] : n->arg[2];
    return fits(g, r, n) ? r : 0;
}

// and, or with a number: x and 1 is x when x is a bool.
static Ref fold_logic(Graph *g, const Node *n) {
    if (n->fn != FN_AND && n->fn != FN_OR) return 0;
    for (int at = 0; at < 2; at++) {
        double c;
        Ref x = n->arg[1 - at];
        if (number(g, n->arg[at], &c) && (c != 0) == (n->fn == FN_AND) && fits(g, x, n)) return x;
    }
    return 0;
}

static Ref fold_neg(Graph *g, const Node *n) {
    const Node *m = &g->nodes.v[n->arg[0]];
    if (n->fn != FN_NEG || m->op != OP_FN || m->fn != FN_NEG) return 0;
    return fits(g, m->arg[0], n) ? m->arg[0] : 0;
}

static Ref fold_fn(Graph *g, const Node *n) {
    static Ref (*const rules[])(Graph *, const Node *) = {fold_identity, fold_where, fold_logic,
                                                          fold_neg, fold_division};
    double v[3] = {0};
    bool constant = n->dtype != SSD_BOOL;
    for (int i = 0; i < 3 && constant; i++)
        if (n->arg[i]) constant = number(g, n->arg[i], &v[i]);
    if (constant) return ssd_graph_const(g, ssd_fn_eval((FnCode)n->fn, v[0], v[1], v[2]));
    for (size_t i = 0; i < COUNTOF(rules); i++) {
        Ref r = rules[i](g, n);
        if (r) return r;
    }
    return 0;
}

// cast to the dtype it has; casts of casts: a narrower inner one has rounded already, an inner cast
// to f32 rounds nothing. f32 stands for the real number.
static Ref fold_cast(Graph *g, const Node *n) {
    const Node *m = &g->nodes.v[n->arg[0]];
    if (m->dtype == n->dtype || (n->dtype == SSD_F32 && fits(g, n->arg[0], n))) return n->arg[0];
    if (m->op == OP_CAST && m->dtype == SSD_F32) return ssd_graph_cast(g, m->arg[0], n->dtype);
    return 0;
}

static Ref fold_index(Graph *g, const Node *n) {
    const Axis *x = &g->axes.v[n->a0];
    bool one = g->step && x->kind == AX_TIME;
    if (n->op == OP_SIZE && (one || x->size >= 0) && !n->naxes)
        return ssd_graph_const(g, one ? 1 : (double)x->size);
    return 0;
}

static bool is_zero(const Graph *g, Ref r) {
    double c;
    return r && number(g, r, &c) && c == 0;
}

// A decay of 0, a start at 0: the operand goes.
static Ref fold_absent(Graph *g, Node n) {
    bool sum = n.op == OP_SCAN && !n.flags;
    if (sum && is_zero(g, n.arg[1])) n.arg[1] = 0;
    for (int i = 3; i < 5 && n.op == OP_SSD; i++)
        if (is_zero(g, n.arg[i])) n.arg[i] = 0;
    return ssd_graph_make(g, n);
}

static Ref fold(Graph *g, Node n, Ref old, const Ref *map, void *ctx) {
    (void)old, (void)map, (void)ctx;
    Ref r = 0;
    ssd_graph_shape(g, &n);
    if (n.op == OP_FN) r = fold_fn(g, &n);
    if (n.op == OP_CAST) r = fold_cast(g, &n);
    if (n.op == OP_SIZE) r = fold_index(g, &n);
    return r ? r : fold_absent(g, n);
}

bool ssd_pass_fold(Unit *u) { return ssd_graph_rewrite(u->graph, NULL, fold, NULL); }
