// SPDX-License-Identifier: Apache-2.0
// The analytic cost of a placed program on a CPU, computed on the program itself, not by a formula
// beside it: every op counts its vectors, and loops and grids multiply. Two vector operations and
// one vector store a clock is what AVX2 and AVX-512 cores of the last years do; products reach 0.9
// of that. Ranks schedules for `ssdc explain`; measured times are the tuner's.
#include "cost.h"
#include "nest.h"

#include <math.h>

typedef struct Walk {
    const Prog *p;
    const Machine *m;
    const i64 *sym;
    double *at; // [val] the middle of a grid or loop variable; 0 where unknown
    Cost sum;
} Walk;

// Vector operations of a function on one vector.
static double fn_ops(FnCode f) {
    switch (f) {
    case FN_EXP2: return 9;
    case FN_EXP: return 11;
    case FN_EXPM1:
    case FN_SIGMOID:
    case FN_SILU:
    case FN_TANH:
    case FN_ELU: return 18;
    case FN_LOG:
    case FN_LOG2:
    case FN_LOG1P: return 20;
    case FN_SOFTPLUS:
    case FN_LOGSIGMOID:
    case FN_GELU:
    case FN_SIN:
    case FN_COS: return 30;
    case FN_POW: return 50;
    case FN_DIV:
    case FN_SQRT:
    case FN_RSQRT: return 8;
    default: return 1;
    }
}

static double ex_ops(const Walk *w, Ex e) {
    if (!e) return 0;
    const Expr *x = &w->p->exs.v[e];
    if (x->kind != EX_FN) return 0;
    double n = x->dtype == SSD_IDX ? 0.25 : fn_ops(x->fn);
    for (int i = 0; i < 3; i++) n += ex_ops(w, x->arg[i]);
    return n;
}

static double eval(const Walk *w, Ex e) {
    const Expr *x = &w->p->exs.v[e];
    double a[3] = {0};
    switch ((ExKind)x->kind) {
    case EX_NUM: return x->num;
    case EX_SYM: return (double)w->sym[x->sym];
    case EX_VAL: return w->at[x->val];
    case EX_AXIS:
    case EX_LOAD: return 0;
    case EX_FN:
        for (int i = 0; i < 3 && x->arg[i]; i++) a[i] = eval(w, x->arg[i]);
        return ssd_fn_eval(x->fn, a[0], a[1], a[2]);
    }
    return 0;
}

static double extent(const Walk *w, const u8 *ax, int n) {
    double v = 1;
    for (int i = 0; i < n; i++) v *= (double)w->p->axes.v[ax[i]].size;
    return v;
}

// Vectors an op walks when its lane axis is `lane`.
static double vectors(const Walk *w, const u8 *ax, int n, u8 lane) {
    double v = 1;
    for (int i = 0; i < n; i++) {
        double s = (double)w->p->axes.v[ax[i]].size;
        v *= ax[i] == lane ? ceil(s / w->m->f32_lanes) : s;
    }
    return v;
}

static u8 lane_of(const Walk *w, Val v) {
    const Lay *l = &w->p->vals.v[v].lay;
    return l->naxes ? l->ax[l->naxes - 1] : 0;
}

static void product(Walk *w, const TOp *o, double times) {
    const TVal *out = &w->p->vals.v[o->out], *a = &w->p->vals.v[o->a], *b = &w->p->vals.v[o->b];
    double k = 1;
    for (int i = 0; i < a->naxes; i++)
        for (int j = 0; j < b->naxes; j++) {
            bool kept = memchr(out->ax, a->ax[i], out->naxes) != NULL;
            if (a->ax[i] == b->ax[j] && !kept) k *= (double)w->p->axes.v[a->ax[i]].size;
        }
    double n = vectors(w, out->ax, out->naxes, lane_of(w, o->out)) * k;
    w->sum.mma += times * n * (o->tri_row ? 0.55 : 1) / 2 / 0.9;
}

static void elementwise(Walk *w, const TOp *o, double times) {
    u8 ax[8];
    int n = ssd_nest_axes(w->p, o, ax);
    u8 lane = o->out ? lane_of(w, o->out) : ssd_nest_contiguous(w->p, o);
    if (!lane && n) lane = ax[n - 1];
    double v = vectors(w, ax, n, lane), ops = ex_ops(w, o->e);
    bool moves = o->op == TOP_LOAD || o->op == TOP_STORE || o->op == TOP_COPY || o->op == TOP_CAT;
    bool across = moves && ssd_nest_contiguous(w->p, o) && ssd_nest_contiguous(w->p, o) != lane;
    if (moves)
        w->sum.memory += times * v * (across ? 3 : 1);
    else
        ops += 1;
    w->sum.vector += times * v * ops / 2;
}

// A number that the ops of a block need to know. Of a packed program: the length of a sequence.
static void set_index(Walk *w, const TOp *o) {
    i64 tokens = 0;
    bool packed = false;
    for (u32 s = 0; s < w->p->syms.n; s++) {
        packed |= !strcmp(w->p->syms.v[s], "s");
        if (!strcmp(w->p->syms.v[s], "t")) tokens = w->sym[s];
    }
    w->at[o->out] = packed ? (double)tokens : eval(w, o->e);
}

static void block(Walk *w, const TBlock *b, double times) {
    for (const TOp *o = b->first; o; o = o->next) {
        switch ((TOpCode)o->op) {
        case TOP_FOR:
        case TOP_EACH: {
            double lo = eval(w, o->lo), hi = eval(w, o->hi);
            w->at[o->var] = (lo + hi - 1) / 2;
            if (hi > lo) block(w, &o->body, times * (hi - lo));
            break;
        }
        case TOP_IF: block(w, &o->body, times); break;
        case TOP_ROLE: block(w, &o->body, times * o->copies); break;
        case TOP_MMA: product(w, o, times); break;
        case TOP_LOAD:
        case TOP_STORE:
        case TOP_MAP:
        case TOP_REDUCE:
        case TOP_FILL:
        case TOP_COPY:
        case TOP_CAT:
        case TOP_PUT:
        case TOP_SWAP:
        case TOP_PICK: {
            if (o->op == TOP_MAP && w->p->vals.v[o->out].dtype == SSD_IDX) set_index(w, o);
            elementwise(w, o, times);
            break;
        }
        case TOP_SCAN: {
            const TVal *v = &w->p->vals.v[o->out];
            double n = extent(w, v->ax, v->naxes);
            if (lane_of(w, o->out) == o->ax[0])
                w->sum.serial += times * 4 * n;
            else
                w->sum.vector += times * n / w->m->f32_lanes;
            break;
        }
        case TOP_INV: {
            double q = (double)w->p->axes.v[o->ax[0]].size;
            w->sum.serial += times * q * q * q / 6 / w->m->f32_lanes;
            break;
        }
        case TOP_AT:
        case TOP_SPLIT:
        case TOP_JOIN:
        case TOP_RENAME:
        case TOP_SLICE:
        case TOP_YIELD:
        case TOP_BUF:
        case TOP_PREFETCH:
        case TOP_RING:
        case TOP_SLOT:
        case TOP_REGS:
        case TOP_ACQUIRE:
        case TOP_PUBLISH:
        case TOP_AWAIT:
        case TOP_RELEASE:
        case TOP_FETCH:
        case TOP_SEND:
        case TOP_INTO:
        case TOP_WAIT:
        case TOP__COUNT: break;
        }
    }
}

Cost ssd_cost(const Prog *p, const Machine *m, const i64 *sym) {
    Arena a = {0};
    Walk w = {.p = p, .m = m, .sym = sym, .at = NEWN(&a, double, p->vals.n)};
    for (u32 i = 0; i < p->kernels.n; i++) {
        const TKernel *k = &p->kernels.v[i];
        double times = 1;
        for (int g = 0; g < k->ngrid; g++) {
            double n = eval(&w, k->grid[g].size);
            w.at[k->grid[g].var] = (n - 1) / 2;
            bool seq = p->exs.v[k->grid[g].size].kind == EX_SYM &&
                       !strcmp(p->syms.v[p->exs.v[k->grid[g].size].sym], "s");
            times *= seq ? 1 : n;
        }
        block(&w, &k->body, times);
    }
    ssd_arena_free(&a);
    return w.sum;
}
