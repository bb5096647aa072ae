// SPDX-License-Identifier: Apache-2.0
// Which axis of each tile lies along vector lanes. Tiles that should be stored alike form trees;
// every tree has one choice, and choices are improved one after the other under a price in vector
// accesses:
//
//   S = mma q k : f32[i j]     lanes j want k stored [n j], a transposed load; lanes i want q
//   stored [n i] y = mma M x : f32[i p]     lanes p take x as it lies in memory
//
// A program has about ten trees with two choices each, so the whole search is some hundred prices.
#include "layout.h"

static TVal *val(const Layout *l, Val v) { return &l->p->vals.v[v]; }
static i64 size(const Layout *l, u8 x) { return l->p->axes.v[x].size; }
static int pos_of(const TVal *v, u8 x) {
    const u8 *at = memchr(v->ax, x, v->naxes);
    return at ? (int)(at - v->ax) : -1;
}

// CPUs: whole vectors. GPUs: an odd number of 16-byte pieces, so that the same element of eight
// neighbouring rows lies in eight banks of shared memory and a product's operand can be read along
// either axis.
i64 ssd_layout_padded(const Layout *l, u8 axis) {
    i64 n = l->m->gpu ? 4 : l->m->f32_lanes, pieces = (size(l, axis) + n - 1) / n;
    return (l->m->gpu ? pieces | 1 : pieces) * n;
}

// --- Views --------------------------------------------------------------------------------------
bool ssd_layout_is_view(const TOp *o) {
    return o->op == TOP_RENAME || o->op == TOP_SPLIT || o->op == TOP_SLICE || o->op == TOP_AT;
}

static const TOp *view_of(const Layout *l, Val v) {
    const TOp *o = l->info[v].def;
    return o && o->out == v && ssd_layout_is_view(o) ? o : NULL;
}

Val ssd_layout_root(const Layout *l, Val v) {
    for (const TOp *o; (o = view_of(l, v));) v = o->a;
    return v;
}

// The axis of the viewed memory that a view's axis walks with the same stride, or 0.
static u8 root_axis(const Layout *l, Val v, u8 x) {
    for (const TOp *o; x && (o = view_of(l, v)); v = o->a) {
        if (o->op == TOP_RENAME)
            x = x == o->ax[1] ? o->ax[0] : o->ax[3] && x == o->ax[3] ? o->ax[2] : x;
        if (o->op == TOP_SLICE && x == o->ax[1]) x = o->ax[0];
        if (o->op == TOP_SPLIT) x = x == o->ax[2] ? o->ax[0] : x == o->ax[1] ? 0 : x;
    }
    return x;
}

static void view_strides(const Layout *l, const TOp *o) {
    const Lay *from = &val(l, o->a)->lay;
    Lay *to = &val(l, o->out)->lay;
    u8 space = to->space;
    *to = (Lay){.space = space, .offset = from->offset};
    for (int i = 0; i < from->naxes; i++) {
        u8 x = from->ax[i];
        i64 s = from->stride[i];
        if (x == o->ax[0] && (o->op == TOP_AT || o->op == TOP_SLICE)) {
            const Expr *k = &l->p->exs.v[o->e];
            if (k->kind == EX_NUM) to->offset += (i64)k->num * s;
        }
        if (x == o->ax[0] && o->op == TOP_AT) continue;
        if (x == o->ax[0] && o->op == TOP_SPLIT) {
            to->ax[to->naxes] = o->ax[1];
            to->stride[to->naxes++] = s * size(l, o->ax[2]);
            x = o->ax[2];
        } else if (o->op == TOP_RENAME) {
            x = x == o->ax[0] ? o->ax[1] : o->ax[2] && x == o->ax[2] ? o->ax[3] : x;
        } else if (o->op == TOP_SLICE && x == o->ax[0]) {
            x = o->ax[1];
        }
        to->ax[to->naxes] = x;
        to->stride[to->naxes++] = s;
    }
}

// --- Trees --------------------------------------------------------------------------------------
// The root of v's tree; perm[i] is the position in v of the root's axis i.
static Val tree(const Layout *l, Val v, u8 perm[6]) {
    for (u8 i = 0; i < 6; i++) perm[i] = i;
    for (; l->info[v].up != v; v = l->info[v].up) {
        u8 next[6];
        for (int i = 0; i < 6; i++) next[i] = perm[l->info[v].perm[i]];
        memcpy(perm, next, 6);
    }
    return v;
}

// Ties two tiles that may be views: axes of equal name correspond.
static void tie(Layout *l, Val v, Val w) {
    if (val(l, v)->naxes != val(l, w)->naxes || val(l, v)->naxes < 2) return;
    Val a = ssd_layout_root(l, v), b = ssd_layout_root(l, w);
    int n = val(l, v)->naxes;
    if (val(l, a)->naxes != n || val(l, b)->naxes != n) return;
    u8 same[6] = {0}; // axis i of a is axis same[i] of b
    for (int i = 0; i < n; i++) {
        u8 x = val(l, v)->ax[i];
        int ia = pos_of(val(l, a), root_axis(l, v, x)), ib = pos_of(val(l, b), root_axis(l, w, x));
        if (pos_of(val(l, w), x) < 0 || ia < 0 || ib < 0) return;
        same[ia] = (u8)ib;
    }
    u8 pa[6], pb[6];
    Val ra = tree(l, a, pa), rb = tree(l, b, pb);
    if (ra == rb) return;
    ValInfo *child = &l->info[rb];
    child->up = ra;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (pb[j] == same[pa[i]]) child->perm[i] = (u8)j;
}

typedef struct TieTo {
    Layout *l;
    Val out;
} TieTo;
static void tie_operand(void *ctx, Val v) {
    TieTo *t = ctx;
    tie(t->l, t->out, v);
}

static void tie_loop(Layout *l, const TOp *o) {
    const Expr *exs = l->p->exs.v;
    const TOp *y = o->body.last;
    for (int i = 0; i < o->ncarry; i++) {
        if (exs[o->init[i]].kind == EX_VAL) tie(l, o->carry[i], exs[o->init[i]].val);
        if (y && y->op == TOP_YIELD && exs[y->init[i]].kind == EX_VAL)
            tie(l, o->carry[i], exs[y->init[i]].val);
    }
}

static void tie_op(Layout *l, TOp *o) {
    switch ((TOpCode)o->op) {
    case TOP_MAP: {
        TieTo t = {l, o->out};
        ssd_nest_operands(l->p, o, tie_operand, &t);
        break;
    }
    case TOP_MMA:
        if (o->c) tie(l, o->out, o->c);
        break;
    case TOP_SCAN:
    case TOP_PUT:
    case TOP_SWAP:
    case TOP_INV:
    case TOP_COPY: tie(l, o->out, o->a); break;
    case TOP_FOR:
    case TOP_EACH: tie_loop(l, o); break;
    default: break;
    }
}

// --- Strides from lanes -------------------------------------------------------------------------
static void dense_strides(const Layout *l, Val v) {
    u8 perm[6];
    Val root = tree(l, v, perm);
    TVal *t = val(l, v);
    Lay *lay = &t->lay;
    int lane = l->info[root].lane, n = 0;
    lay->naxes = t->naxes;
    lay->offset = 0;
    for (int i = 0; i < t->naxes; i++)
        if (i != lane) lay->ax[n++] = t->ax[perm[i]];
    lay->ax[n] = t->ax[perm[lane]];
    i64 stride = 1;
    for (int i = n; i >= 0; i--) {
        lay->stride[i] = stride;
        stride *= i == n ? ssd_layout_padded(l, lay->ax[i]) : size(l, lay->ax[i]);
    }
}

void ssd_layout_strides(Layout *l) {
    for (u32 i = 0; i < l->vals.n; i++) {
        Val v = l->vals.v[i];
        const TOp *view = view_of(l, v);
        if (view)
            view_strides(l, view);
        else if (val(l, v)->naxes)
            dense_strides(l, v);
    }
}

// --- Products -----------------------------------------------------------------------------------
static bool free_in(const Layout *l, Val v, Val other, u8 x) {
    return pos_of(val(l, v), x) >= 0 && pos_of(val(l, other), x) < 0;
}

Val ssd_layout_mma_b(const Layout *l, const TOp *o, u8 lane) {
    return free_in(l, o->a, o->b, lane) ? o->a : free_in(l, o->b, o->a, lane) ? o->b : 0;
}

u8 ssd_layout_mma_lane(const Layout *l, const TOp *o) {
    const Lay *lay = &val(l, o->out)->lay;
    u8 x = lay->ax[lay->naxes - 1];
    return ssd_layout_mma_b(l, o, x) ? x : 0;
}

static double elements(const Layout *l, Val v) {
    double n = 1;
    for (int i = 0; i < val(l, v)->naxes; i++) n *= (double)size(l, val(l, v)->ax[i]);
    return n;
}

static double mma_price(const Layout *l, const TOp *o) {
    const Lay *lay = &val(l, o->out)->lay;
    u8 x = lay->ax[lay->naxes - 1];
    Val b = ssd_layout_mma_b(l, o, x);
    double lanes = l->m->f32_lanes, fma = 1;
    if (!b) return 1e15;
    for (int i = 0; i < val(l, o->a)->naxes; i++) fma *= (double)size(l, val(l, o->a)->ax[i]);
    for (int i = 0; i < val(l, o->b)->naxes; i++)
        if (pos_of(val(l, o->a), val(l, o->b)->ax[i]) < 0)
            fma *= (double)size(l, val(l, o->b)->ax[i]);
    double pad = (double)ssd_layout_padded(l, x) / (double)size(l, x),
           price = fma * pad / lanes / 2;
    if (l->m->gpu) return price; // any strides
    if (ssd_nest_stride(l->p, b, x) != 1) price += elements(l, b) * 2;
    if (o->c && ssd_nest_stride(l->p, o->c, x) != 1) price += elements(l, o->c) * 2;
    return price; // of the other operand single elements are read, at any stride
}

static double op_price(const Layout *l, const TOp *o) {
    Nest nest;
    if (o->op == TOP_MMA) return mma_price(l, o);
    if (ssd_nest_op(l->p, o)) {
        ssd_nest_plan(l->p, o, o, l->m->f32_lanes, 0, &nest);
        return nest.cost;
    }
    if (!o->out || ssd_layout_is_view(o) || o->op == TOP_BUF || !val(l, o->out)->naxes) return 0;
    const Lay *lay = &val(l, o->out)->lay;
    u8 lane = lay->ax[lay->naxes - 1];
    if (o->op == TOP_INV && lane != o->ax[0] && lane != o->ax[1]) return 1e15;
    ssd_nest_plan(l->p, o, o, l->m->f32_lanes, lane, &nest);
    if (o->op == TOP_CAT && lane == o->ax[1] && ssd_nest_stride(l->p, o->a, o->ax[0]) != 1)
        nest.cost += elements(l, o->out);
    if (o->op == TOP_JOIN && lane == o->ax[2] && ssd_nest_stride(l->p, o->a, o->ax[1]) != 1)
        nest.cost += elements(l, o->out);
    return nest.cost;
}

static double price(Layout *l) {
    double sum = 0;
    ssd_layout_strides(l);
    for (u32 i = 0; i < l->ops.n; i++) sum += l->times.v[i] * op_price(l, l->ops.v[i]);
    return sum;
}

// --- Search -------------------------------------------------------------------------------------
// A first guess: as the tensor lies in memory, else the last axis.
static void first_guess(Layout *l, Val v) {
    u8 perm[6];
    Val root = tree(l, v, perm);
    const TOp *o = l->info[v].def;
    if (o->op != TOP_LOAD || o->out != v) return;
    int at = pos_of(val(l, v), ssd_nest_contiguous(l->p, o));
    for (u8 i = 0; at >= 0 && i < val(l, v)->naxes; i++)
        if (perm[i] == at) l->info[root].lane = i;
}

void ssd_layout_lanes(Layout *l) {
    for (u32 i = 0; i < l->ops.n; i++) tie_op(l, l->ops.v[i]);
    for (u32 i = 0; i < l->vals.n; i++) {
        ValInfo *v = &l->info[l->vals.v[i]];
        u8 n = val(l, l->vals.v[i])->naxes;
        v->lane = n ? (u8)(n - 1) : 0;
    }
    for (u32 i = 0; i < l->vals.n; i++) first_guess(l, l->vals.v[i]);
    double best = price(l);
    for (bool better = true; better;) {
        better = false;
        for (u32 i = 0; i < l->vals.n; i++) {
            Val v = l->vals.v[i];
            if (l->info[v].up != v || view_of(l, v) || val(l, v)->naxes < 2) continue;
            u8 keep = l->info[v].lane;
            for (u8 x = 0; x < val(l, v)->naxes; x++) {
                l->info[v].lane = x;
                double c = x == keep ? best : price(l);
                if (c < best * (1 - 1e-9)) best = c, keep = x, better = true;
            }
            l->info[v].lane = keep;
        }
    }
    ssd_layout_strides(l);
}
