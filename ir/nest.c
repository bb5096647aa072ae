// SPDX-License-Identifier: Apache-2.0
// Loop nests of elementwise ops: which ops share one, in which order it runs, which axis is
// vectorised.
#include "nest.h"

enum { MAX_AXES = 8, LANES_UNROLLED = 8 };

static const Expr *at(const Prog *p, Ex e) { return &p->exs.v[e]; }

// --- What an op reads ---------------------------------------------------------------------------
void ssd_nest_ex_vals(const Prog *p, Ex e, ValVisit *f, void *ctx) {
    if (!e) return;
    const Expr *x = at(p, e);
    if (x->kind == EX_VAL) f(ctx, x->val);
    for (int i = 0; i < x->nidx; i++) ssd_nest_ex_vals(p, x->idx[i], f, ctx);
    if (x->kind == EX_FN)
        for (int i = 0; i < ssd_fns[x->fn].arity; i++) ssd_nest_ex_vals(p, x->arg[i], f, ctx);
}

void ssd_nest_operands(const Prog *p, const TOp *o, ValVisit *f, void *ctx) {
    const Val v[] = {o->a, o->b, o->c};
    const Ex e[] = {o->e, o->e2, o->when, o->lo, o->hi};
    for (size_t i = 0; i < COUNTOF(v); i++)
        if (v[i]) f(ctx, v[i]);
    for (size_t i = 0; i < COUNTOF(e); i++) ssd_nest_ex_vals(p, e[i], f, ctx);
    for (int i = 0; i < o->nidx; i++) ssd_nest_ex_vals(p, o->idx[i], f, ctx);
    for (int i = 0; o->init && i < o->ncarry; i++) ssd_nest_ex_vals(p, o->init[i], f, ctx);
}

// --- Axes ---------------------------------------------------------------------------------------
static void add_axis(u8 *ax, int *n, u8 x) {
    if (memchr(ax, x, (size_t)*n)) return;
    if (*n == MAX_AXES) SSD_BUG("a loop nest over more than %d axes", MAX_AXES);
    ax[(*n)++] = x;
}

static void add_ex_axes(const Prog *p, Ex e, u8 *ax, int *n) {
    u8 own[8];
    int m = e ? ssd_ex_axes(p, e, own) : 0;
    for (int i = 0; i < m; i++) add_axis(ax, n, own[i]);
}

int ssd_nest_axes(const Prog *p, const TOp *o, u8 out[8]) {
    int n = 0;
    if (o->op == TOP_STORE || o->op == TOP_PREFETCH) {
        for (int i = 0; i < o->nidx; i++) add_ex_axes(p, o->idx[i], out, &n);
        add_ex_axes(p, o->e, out, &n);
        add_ex_axes(p, o->when, out, &n);
        return n;
    }
    const TVal *v = &p->vals.v[o->out];
    for (int i = 0; i < v->naxes; i++) add_axis(out, &n, v->ax[i]);
    if (o->op == TOP_REDUCE) add_axis(out, &n, o->ax[0]);
    return n;
}

bool ssd_nest_op(const Prog *p, const TOp *o) {
    u8 ax[8];
    switch ((TOpCode)o->op) {
    case TOP_LOAD:
    case TOP_STORE:
    case TOP_MAP:
    case TOP_REDUCE:
    case TOP_FILL:
    case TOP_COPY: return ssd_nest_axes(p, o, ax) > 0;
    default: return false;
    }
}

static bool in_reg(const Prog *p, Val v) { return v && p->vals.v[v].lay.space == SP_REG; }

typedef struct Reads {
    Val want;
    bool found;
} Reads;
static void reads(void *ctx, Val v) {
    Reads *r = ctx;
    r->found |= v == r->want;
}
bool ssd_nest_op_reads(const Prog *p, const TOp *o, Val v) {
    Reads r = {.want = v};
    ssd_nest_operands(p, o, reads, &r);
    return r.found;
}

bool ssd_nest_ex_reads(const Prog *p, Ex e, Val v) {
    Reads r = {.want = v};
    ssd_nest_ex_vals(p, e, reads, &r);
    return r.found;
}

bool ssd_nest_writes(const Prog *p, const TBlock *b, const TTensor *t) {
    for (const TOp *o = b->first; o; o = o->next) {
        bool stores = o->op == TOP_STORE || o->op == TOP_SEND;
        const TTensor *to = stores ? &p->tensors.v[o->tensor] : NULL;
        if (to && (to == t || (to->alias && !strcmp(to->alias, t->name)) ||
                   (t->alias && !strcmp(t->alias, to->name))))
            return true;
        if (ssd_nest_writes(p, &o->body, t)) return true;
    }
    return false;
}

TOp *ssd_nest_last(const Prog *p, TOp *first) {
    TOp *last = first;
    for (TOp *o = first;; o = o->next) {
        if (in_reg(p, o->out))
            for (TOp *u = o->next; u; u = u->next)
                if (ssd_nest_op_reads(p, u, o->out)) {
                    bool later = false;
                    for (const TOp *w = last; w; w = w->next) later |= w == u;
                    if (later) last = u;
                }
        if (o == last) return last;
    }
}

// --- Indices ------------------------------------------------------------------------------------
static bool is_const(const Prog *p, Ex e, i64 *v) {
    if (at(p, e)->kind != EX_NUM) return false;
    *v = (i64)at(p, e)->num;
    return true;
}

static bool affine(const Prog *p, Ex e, i64 scale, i64 *coef) {
    const Expr *x = at(p, e);
    u8 ax[8];
    i64 k;
    if (x->kind == EX_AXIS) {
        coef[x->axis] += scale;
        return true;
    }
    if (x->kind == EX_FN) switch (x->fn) {
        case FN_ADD: return affine(p, x->arg[0], scale, coef) && affine(p, x->arg[1], scale, coef);
        case FN_SUB: return affine(p, x->arg[0], scale, coef) && affine(p, x->arg[1], -scale, coef);
        case FN_NEG: return affine(p, x->arg[0], -scale, coef);
        case FN_MUL:
            if (is_const(p, x->arg[0], &k)) return affine(p, x->arg[1], k * scale, coef);
            if (is_const(p, x->arg[1], &k)) return affine(p, x->arg[0], k * scale, coef);
            break;
        default: break;
        }
    return ssd_ex_axes(p, e, ax) == 0;
}
bool ssd_nest_affine(const Prog *p, Ex e, i64 coef[256]) {
    memset(coef, 0, 256 * sizeof *coef);
    return affine(p, e, 1, coef);
}

u8 ssd_nest_contiguous(const Prog *p, const TOp *o) {
    i64 coef[256];
    if (!o->nidx || !ssd_nest_affine(p, o->idx[o->nidx - 1], coef)) return 0;
    u8 found = 0;
    for (u32 x = 1; x < p->axes.n; x++) {
        if (coef[x] && (coef[x] != 1 || found)) return 0;
        if (coef[x]) found = (u8)x;
    }
    for (int d = 0; found && d + 1 < o->nidx; d++) { // not a diagonal
        u8 ax[8];
        int n = ssd_ex_axes(p, o->idx[d], ax);
        if (memchr(ax, found, (size_t)n)) return 0;
    }
    return found;
}

i64 ssd_nest_stride(const Prog *p, Val v, u8 axis) {
    const Lay *l = &p->vals.v[v].lay;
    for (int i = 0; i < l->naxes; i++)
        if (l->ax[i] == axis) return l->stride[i];
    return 0;
}

// --- Held in registers --------------------------------------------------------------------------
bool ssd_nest_held(const Prog *p, const TOp *first, const TOp *last) {
    u8 all[8], own[8];
    int n = ssd_nest_axes(p, first, all);
    for (const TOp *o = first;; o = o->next) {
        int m = ssd_nest_axes(p, o, own);
        if (m != n) return true;
        for (int i = 0; i < m; i++)
            if (!memchr(all, own[i], (size_t)n)) return true;
        for (const TOp *u = o; o->op == TOP_REDUCE && u != last; u = u->next)
            if (ssd_nest_op_reads(p, u->next, o->out)) return true;
        if (o == last) return false;
    }
}

// The axis this op wants along the lanes, because neighbours in memory lie along it or because it
// sums over it; 0: any. False: it cannot be held.
static bool wants_lane(const Prog *p, const TOp *o, u8 *out) {
    u8 ax[8];
    *out = o->op == TOP_REDUCE ? o->ax[0] : 0;
    if (o->op != TOP_LOAD && o->op != TOP_STORE) return true;
    if (ssd_nest_axes(p, o, ax) < 2) return true;
    *out = ssd_nest_contiguous(p, o);
    return *out != 0;
}

// Neighbours that make 16 bytes, or the most that the axis is a multiple of.
static int held_width(const Prog *p, const TOp *first, const TOp *last, i64 size) {
    u8 ax[8];
    size_t element = 2;
    for (const TOp *o = first;; o = o->next) {
        if ((o->op == TOP_LOAD || o->op == TOP_STORE) && ssd_nest_axes(p, o, ax) == 2)
            element = MAX(element, ssd_dtype_size((ssd_dtype)p->tensors.v[o->tensor].dtype));
        if (o == last) break;
    }
    int width = (int)(16 / element);
    while (size % width) width /= 2;
    return width;
}

bool ssd_nest_hold(const Prog *p, const TOp *first, const TOp *last, NestHeld *out) {
    u8 ax[8];
    int n = 0;
    *out = (NestHeld){0};
    for (const TOp *o = first;; o = o->next) {
        u8 own[8], lane;
        int m = ssd_nest_axes(p, o, own);
        for (int i = 0; i < m; i++) {
            if (memchr(ax, own[i], (size_t)n)) continue;
            if (n == 2) return false;
            ax[n++] = own[i];
        }
        if (!wants_lane(p, o, &lane) || (lane && out->lane && lane != out->lane)) return false;
        if (lane) out->lane = lane;
        if (o == last) break;
    }
    if (!n) return false;
    if (!out->lane) out->lane = ax[n - 1];
    if (n == 2) out->row = ax[0] == out->lane ? ax[1] : ax[0];
    i64 size = p->axes.v[out->lane].size;
    if (size * (out->row ? p->axes.v[out->row].size : 1) > NEST_HELD_MOST) return false;
    out->width = held_width(p, first, last, size);
    for (out->lanes = 1; out->lanes < 32 && out->lanes * out->width < size;) out->lanes *= 2;
    out->turns = (int)((size + out->lanes * out->width - 1) / (out->lanes * out->width));
    return true;
}

// --- The plan -----------------------------------------------------------------------------------
typedef struct Price {
    const Prog *p;
    u8 lane;
    int lanes;
    double accesses;
} Price;

static void price_val(void *ctx, Val v) {
    Price *c = ctx;
    if (c->p->vals.v[v].lay.space != SP_MEM) return;
    i64 s = ssd_nest_stride(c->p, v, c->lane);
    c->accesses += s == 1 ? 1 : s == 0 ? 0.25 : c->lanes;
}

static double price(const Prog *p, const TOp *first, const TOp *last, int lanes, u8 lane) {
    Price c = {.p = p, .lane = lane, .lanes = lanes};
    for (const TOp *o = first;; o = o->next) {
        ssd_nest_operands(p, o, price_val, &c);
        if (o->out && o->op != TOP_REDUCE) price_val(&c, o->out);
        if (o->op == TOP_LOAD || o->op == TOP_STORE)
            c.accesses += ssd_nest_contiguous(p, o) == lane ? 1 : lanes;
        if (o->op == TOP_REDUCE && o->ax[0] == lane) c.accesses += 0.5;
        if (o == last) break;
    }
    u8 ax[8];
    double points = 1;
    int n = ssd_nest_axes(p, first, ax);
    for (int i = 0; i < n; i++) {
        i64 size = p->axes.v[ax[i]].size;
        points *= ax[i] == lane ? (double)((size + lanes - 1) / lanes) : (double)size;
    }
    return points * (c.accesses + 0.5);
}

// Outer loops follow the storage order of the first tile in memory that has all the axes.
static void outer_order(const Prog *p, const TOp *first, const TOp *last, u8 *ax, int n) {
    for (const TOp *o = first;; o = o->next) {
        const Lay *l = o->out ? &p->vals.v[o->out].lay : NULL;
        if (l && l->space == SP_MEM && l->naxes == n) {
            memcpy(ax, l->ax, (size_t)n);
            return;
        }
        if (o == last) return;
    }
}

void ssd_nest_plan(const Prog *p, const TOp *first, const TOp *last, int lanes, u8 lane,
                   Nest *out) {
    u8 ax[8];
    int n = ssd_nest_axes(p, first, ax);
    *out = (Nest){.n = n, .lane = -1};
    for (const TOp *o = first;; o = o->next) {
        if (o->op == TOP_REDUCE) out->reduce = o->ax[0];
        if (o == last) break;
    }
    if (!n) return;
    outer_order(p, first, last, ax, n);
    u8 best = lane ? lane : ax[n - 1];
    out->cost = price(p, first, last, lanes, best);
    for (int i = n - 2; !lane && i >= 0; i--) {
        double c = price(p, first, last, lanes, ax[i]);
        if (c < out->cost) out->cost = c, best = ax[i];
    }
    int k = 0;
    for (int i = 0; i < n; i++)
        if (ax[i] != best && ax[i] != out->reduce) out->ax[k++] = ax[i];
    // A reduced axis goes around few unrolled vectors, inside many.
    bool few = p->axes.v[best].size <= (i64)lanes * LANES_UNROLLED;
    bool other = out->reduce && out->reduce != best;
    if (other && few) out->ax[k++] = out->reduce;
    out->lane = k;
    out->ax[k++] = best;
    if (other && !few) out->ax[k++] = out->reduce;
}
