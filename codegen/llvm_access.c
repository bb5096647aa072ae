// SPDX-License-Identifier: Apache-2.0
// Reads and writes of tensors. Their strides are known at run time only, rows may not exist, and
// nothing outside a tensor is ever touched: an element that does not exist is read from a block of
// zeros and written to a block nobody reads, so no access needs a branch.
//
// Two ways: by whole vectors, when the lane axis has stride 1 and every lane exists (the tail of an
// axis that is no multiple of the vector is a constant mask); lane by lane otherwise.
#include "llvm_emit.h"

static const Expr *ex(const Emit *e, Ex x) { return &e->p->exs.v[x]; }
static i64 extent(const NestRun *r, int axis) { return ssd_emit_size(r->e, r->plan.ax[axis]); }

// --- What is known before running ---------------------------------------------------------------
typedef struct Range {
    i64 lo, hi;
} Range;
// Bounds of an index over every point; false when unknown.
static bool range_of(const Emit *e, Ex x, Range *out) {
    const Expr *n = ex(e, x);
    Range a, b;
    i64 k;
    switch ((ExKind)n->kind) {
    case EX_NUM: *out = (Range){(i64)n->num, (i64)n->num}; return true;
    case EX_AXIS: *out = (Range){0, ssd_emit_size(e, (u8)n->axis) - 1}; return true;
    case EX_VAL:
        for (int i = 0; i < e->k->ngrid; i++) {
            const Expr *size = ex(e, e->k->grid[i].size);
            if (e->k->grid[i].var != n->val || size->kind != EX_NUM) continue;
            *out = (Range){0, (i64)size->num - 1};
            return true;
        }
        return e->val[n->val] && ssd_emit_is_int(e->val[n->val], &out->lo) &&
               (out->hi = out->lo, true);
    case EX_FN: break;
    default: return false;
    }
    if (ssd_fns[n->fn].arity != 2 || !range_of(e, n->arg[0], &a) || !range_of(e, n->arg[1], &b))
        return false;
    k = b.lo;
    switch (n->fn) {
    case FN_ADD: *out = (Range){a.lo + b.lo, a.hi + b.hi}; return true;
    case FN_SUB: *out = (Range){a.lo - b.hi, a.hi - b.lo}; return true;
    case FN_MUL: *out = (Range){a.lo * k, a.hi * k}; return b.lo == b.hi && k >= 0;
    case FN_FDIV: *out = (Range){a.lo / k, a.hi / k}; return b.lo == b.hi && k > 0 && a.lo >= 0;
    default: return false;
    }
}

// Is the index always inside the dimension?
static bool proven(const Emit *e, Ex idx, Ex dim) {
    Range r;
    if (ex(e, dim)->kind == EX_NUM)
        return range_of(e, idx, &r) && r.lo >= 0 && r.hi < (i64)ex(e, dim)->num;
    for (int i = 0; i < e->k->ngrid; i++)
        if (ex(e, idx)->kind == EX_VAL && ex(e, idx)->val == e->k->grid[i].var)
            return e->k->grid[i].size == dim;
    return false;
}

// --- The argument tables ------------------------------------------------------------------------
static V table(Emit *e, V base, i64 index) {
    return ssd_emit_load(e, e->i64, ssd_emit_at_const(e, base, 8 * index), 8);
}
static V tensor_base(Emit *e, u16 t) {
    return ssd_emit_load(e, e->ptr, ssd_emit_at_const(e, e->tensors, 8 * e->arg[t]), 8);
}
static V tensor_stride(Emit *e, u16 t, int d) {
    i64 size = (i64)ssd_dtype_size((ssd_dtype)e->p->tensors.v[t].dtype);
    V s = table(e, e->strides, e->arg[t] * SSD_MAX_RANK + d);
    return LLVMBuildMul(e->b, s, ssd_emit_i64(e, size), "");
}
static V tensor_dim(Emit *e, u16 t, int d) {
    const Expr *n = ex(e, e->p->tensors.v[t].dim[d]);
    if (n->kind == EX_NUM) return ssd_emit_i64(e, (i64)n->num);
    return table(e, e->dims, e->arg[t] * SSD_MAX_RANK + d);
}

// --- Setting up an access, at the nest's outermost level ----------------------------------------
// An index with every tile axis at 0.
static V at_origin(NestRun *r, Ex x) {
    Emit *e = r->e;
    const Expr *n = ex(e, x);
    u8 ax[8];
    if (!ssd_ex_axes(e->p, x, ax)) return ssd_nest_ex(r, x);
    if (n->kind == EX_AXIS) return ssd_emit_i64(e, 0);
    V a = at_origin(r, n->arg[0]);
    if (n->fn == FN_NEG) return LLVMBuildNeg(e->b, a, "");
    V b = at_origin(r, n->arg[1]);
    if (n->fn == FN_ADD) return ssd_emit_add(e, a, b);
    if (n->fn == FN_SUB) return LLVMBuildSub(e->b, a, b, "");
    return ssd_emit_mul(e, a, b);
}

static Cond *new_cond(NestRun *r, Access *a, const i64 coef[256], i64 sign) {
    if (a->ncond == (int)COUNTOF(a->cond)) SSD_BUG("too many conditions on one access");
    Cond *c = &a->cond[a->ncond++];
    *c = (Cond){0};
    for (int i = 0; i < r->plan.n; i++) c->coef[i] = sign * coef[r->plan.ax[i]];
    c->lanes = r->lanes > 1 && c->coef[r->plan.lane];
    return c;
}

// A conjunction: inequalities of indices become conditions, the rest is evaluated at each point.
static void add_when(NestRun *r, Access *a, Ex x) {
    Emit *e = r->e;
    const Expr *n = ex(e, x);
    i64 ca[256], cb[256];
    if (n->kind == EX_FN && n->fn == FN_AND) {
        add_when(r, a, n->arg[0]);
        add_when(r, a, n->arg[1]);
        return;
    }
    bool order =
        n->kind == EX_FN && (n->fn == FN_LT || n->fn == FN_LE || n->fn == FN_GT || n->fn == FN_GE);
    if (order && ex(e, n->arg[0])->dtype == SSD_IDX && ex(e, n->arg[1])->dtype == SSD_IDX &&
        ssd_nest_affine(e->p, n->arg[0], ca) && ssd_nest_affine(e->p, n->arg[1], cb)) {
        // l < r as l - r < 0, l <= r as l - r - 1 < 0
        bool swap = n->fn == FN_GT || n->fn == FN_GE, equal = n->fn == FN_LE || n->fn == FN_GE;
        for (int i = 0; i < 256; i++) ca[i] -= cb[i];
        Cond *c = new_cond(r, a, ca, swap ? -1 : 1);
        V lhs = at_origin(r, n->arg[swap]), rhs = at_origin(r, n->arg[!swap]);
        c->base =
            ssd_emit_add(e, LLVMBuildSub(e->b, lhs, rhs, ""), ssd_emit_i64(e, equal ? -1 : 0));
        return;
    }
    if (a->nwhen == (int)COUNTOF(a->when)) SSD_BUG("too many conditions on one access");
    a->when[a->nwhen++] = x;
}

void ssd_access_init(NestRun *r, Access *a, const TOp *op) {
    Emit *e = r->e;
    const TTensor *t = &e->p->tensors.v[op->tensor];
    *a = (Access){.op = op, .dtype = t->dtype};
    i64 coef[8][256];
    for (int d = 0; d < op->nidx; d++) a->general |= !ssd_nest_affine(e->p, op->idx[d], coef[d]);
    a->base = tensor_base(e, op->tensor);
    for (int i = 0; i < r->plan.n; i++) a->step[i] = ssd_emit_i64(e, 0);
    for (int d = 0; d < op->nidx && !a->general; d++) {
        V stride = tensor_stride(e, op->tensor, d), at = at_origin(r, op->idx[d]);
        a->base = ssd_emit_at(e, a->base, ssd_emit_mul(e, at, stride));
        for (int i = 0; i < r->plan.n; i++) {
            i64 c = coef[d][r->plan.ax[i]];
            if (c)
                a->step[i] =
                    ssd_emit_add(e, a->step[i], ssd_emit_mul(e, stride, ssd_emit_i64(e, c)));
        }
        if (proven(e, op->idx[d], t->dim[d])) continue;
        Cond *c = new_cond(r, a, coef[d], 1);
        c->base = at;
        c->limit = tensor_dim(e, op->tensor, d);
    }
    if (op->when) add_when(r, a, op->when);
}

// The least and greatest value of a condition's left side over the whole nest.
static void extremes(NestRun *r, const Cond *c, V *lo, V *hi) {
    i64 down = 0, up = 0;
    for (int i = 0; i < r->plan.n; i++) {
        i64 span = c->coef[i] * (extent(r, i) - 1);
        if (span < 0)
            down += span;
        else
            up += span;
    }
    *lo = ssd_emit_add(r->e, c->base, ssd_emit_i64(r->e, down));
    *hi = ssd_emit_add(r->e, c->base, ssd_emit_i64(r->e, up));
}

// The condition holds wherever the nest goes.
static V whole_box(NestRun *r, const Cond *c) {
    Emit *e = r->e;
    V lo, hi, zero = ssd_emit_i64(e, 0);
    extremes(r, c, &lo, &hi);
    V ok = LLVMBuildICmp(e->b, LLVMIntSLT, hi, c->limit ? c->limit : zero, "");
    if (c->limit) ok = ssd_emit_and(e, ok, LLVMBuildICmp(e->b, LLVMIntSGE, lo, zero, ""));
    return ok;
}

V ssd_access_fast(NestRun *r, const Access *a) {
    Emit *e = r->e;
    V yes = LLVMConstInt(e->i1, 1, false);
    if (r->lanes == 1) return yes;
    u8 lane = r->plan.ax[r->plan.lane], ax[8];
    if (a->general || ssd_nest_contiguous(e->p, a->op) != lane) return NULL;
    for (int i = 0; i < a->nwhen; i++)
        if (memchr(ax, lane, (size_t)ssd_ex_axes(e->p, a->when[i], ax))) return NULL;
    i64 size = (i64)ssd_dtype_size((ssd_dtype)a->dtype);
    V ok = LLVMBuildICmp(e->b, LLVMIntEQ, a->step[r->plan.lane], ssd_emit_i64(e, size), "");
    for (int i = 0; i < a->ncond; i++)
        if (a->cond[i].lanes) ok = ssd_emit_and(e, ok, whole_box(r, &a->cond[i]));
    return ok;
}

V ssd_access_in_place(NestRun *r, const Access *a) {
    Emit *e = r->e;
    V ok = NULL;
    if (a->general || a->nwhen) return LLVMConstInt(e->i1, 0, false);
    for (int i = 0; i < r->plan.n; i++) {
        V stride = ssd_emit_i64(e, 4 * ssd_nest_stride(e->p, a->op->out, r->plan.ax[i]));
        ok = ssd_emit_and(e, ok, LLVMBuildICmp(e->b, LLVMIntEQ, a->step[i], stride, ""));
    }
    for (int i = 0; i < a->ncond; i++) ok = ssd_emit_and(e, ok, whole_box(r, &a->cond[i]));
    return ok;
}

// --- At a point ---------------------------------------------------------------------------------
// The address after the loop levels up to `to`, leaving out the lane axis.
static V row_addr(NestRun *r, Access *a, int to) {
    Emit *e = r->e;
    V at = a->base;
    for (int s = 1; s <= to; s++) {
        int axis = (s - 1) / 2;
        i64 zero;
        if (axis == r->plan.lane && r->lanes > 1) continue;
        if (ssd_emit_is_int(a->step[axis], &zero)) continue;
        Memo *m = &a->addr[s];
        if (m->stamp != r->slot[s].stamp) {
            LLVMBasicBlockRef back = ssd_nest_enter(r, s);
            *m = (Memo){ssd_emit_at(e, at, ssd_emit_mul(e, r->slot[s].index, a->step[axis])),
                        r->slot[s].stamp};
            ssd_emit_seek(e, back);
        }
        at = m->v;
    }
    return at;
}

static V cond_value(NestRun *r, const Cond *c) {
    V v = c->base;
    for (int i = 0; i < r->plan.n; i++)
        if (c->coef[i])
            v = ssd_emit_add(
                r->e, v, ssd_emit_mul(r->e, ssd_nest_index(r, i), ssd_emit_i64(r->e, c->coef[i])));
    return v;
}
static V cond_holds(NestRun *r, const Cond *c, V v) {
    if (c->limit) return LLVMBuildICmp(r->e->b, LLVMIntULT, v, c->limit, "");
    return LLVMBuildICmp(r->e->b, LLVMIntSLT, v, ssd_emit_i64(r->e, 0), "");
}

static bool varies_along_lanes(const NestRun *r, Ex x) {
    u8 ax[8];
    int n = ssd_ex_axes(r->e->p, x, ax);
    return r->lanes > 1 && memchr(ax, r->plan.ax[r->plan.lane], (size_t)n);
}

// The conditions that hold for a whole row, NULL: always.
static V row_ok(NestRun *r, Access *a) {
    Emit *e = r->e;
    int level = 0;
    bool any = false;
    for (int i = 0; i < a->ncond; i++) {
        if (a->cond[i].lanes) continue;
        any = true;
        for (int k = 0; k < r->plan.n; k++)
            if (a->cond[i].coef[k]) level = MAX(level, ssd_nest_level(r, k));
    }
    for (int i = 0; i < a->nwhen; i++) {
        u8 ax[8];
        if (varies_along_lanes(r, a->when[i])) continue;
        any = true;
        int n = ssd_ex_axes(e->p, a->when[i], ax);
        for (int k = 0; k < r->plan.n; k++)
            if (memchr(ax, r->plan.ax[k], (size_t)n)) level = MAX(level, ssd_nest_level(r, k));
    }
    if (!any) return NULL;
    if (a->ok.stamp == r->slot[level].stamp) return a->ok.v;
    LLVMBasicBlockRef back = ssd_nest_enter(r, level);
    V ok = NULL;
    for (int i = 0; i < a->ncond; i++)
        if (!a->cond[i].lanes)
            ok = ssd_emit_and(e, ok, cond_holds(r, &a->cond[i], cond_value(r, &a->cond[i])));
    for (int i = 0; i < a->nwhen; i++)
        if (!varies_along_lanes(r, a->when[i]))
            ok = ssd_emit_and(e, ok, ssd_nest_ex(r, a->when[i]));
    ssd_emit_seek(e, back);
    a->ok = (Memo){ok, r->slot[level].stamp};
    return ok;
}

static V choose(NestRun *r, V ok, V at, V instead) {
    return ok ? LLVMBuildSelect(r->e->b, ok, at, instead, "") : at;
}

// Where a whole vector lies. A row that does not exist is a row of `instead`.
static V vector_addr(NestRun *r, Access *a, V instead) {
    Emit *e = r->e;
    i64 size = (i64)ssd_dtype_size((ssd_dtype)a->dtype);
    int lane = r->plan.lane, rows = 2 * lane;
    V scale = ssd_emit_i64(e, size), index = ssd_nest_index(r, lane);
    if (lane != r->plan.n - 1) { // the row is known last
        V at = row_addr(r, a, 2 * r->plan.n);
        return choose(r, row_ok(r, a), ssd_emit_at(e, at, ssd_emit_mul(e, index, scale)), instead);
    }
    if (a->row.stamp != r->slot[rows].stamp) {
        LLVMBasicBlockRef back = ssd_nest_enter(r, rows);
        V ok = row_ok(r, a);
        a->row = (Memo){choose(r, ok, row_addr(r, a, rows), instead), r->slot[rows].stamp};
        ssd_emit_seek(e, back);
    }
    V at = ssd_emit_at(e, a->row.v, ssd_emit_mul(e, r->slot[2 * lane + 1].index, scale));
    return ssd_emit_at(e, at, ssd_emit_mul(e, r->slot[2 * lane + 2].index, scale));
}

static V lane_of(NestRun *r, V v, int l) {
    if (LLVMGetTypeKind(LLVMTypeOf(v)) != LLVMVectorTypeKind) return v;
    return LLVMBuildExtractElement(r->e->b, v, LLVMConstInt(r->e->i32, (u64)l, false), "");
}

// Addresses of the lanes of this point one by one, `instead` where an element does not exist.
static void lane_addrs(NestRun *r, Access *a, V instead, V *out) {
    Emit *e = r->e;
    int lane = r->plan.lane;
    V at = NULL, row = row_ok(r, a), idx[8], dim[8], stride[8];
    if (a->general) {
        for (int d = 0; d < a->op->nidx; d++) {
            idx[d] = ssd_nest_ex(r, a->op->idx[d]);
            dim[d] = tensor_dim(e, a->op->tensor, d);
            stride[d] = tensor_stride(e, a->op->tensor, d);
        }
    } else {
        at = row_addr(r, a, 2 * r->plan.n);
        if (r->lanes > 1)
            at = ssd_emit_at(e, at, ssd_emit_mul(e, ssd_nest_index(r, lane), a->step[lane]));
    }
    V first[COUNTOF(a->cond)], when[COUNTOF(a->when)];
    for (int i = 0; i < a->ncond; i++)
        first[i] = a->cond[i].lanes ? cond_value(r, &a->cond[i]) : NULL;
    for (int i = 0; i < a->nwhen; i++)
        when[i] = varies_along_lanes(r, a->when[i]) ? ssd_nest_ex(r, a->when[i]) : NULL;
    for (int l = 0; l < ssd_nest_live(r); l++) {
        V ok = row, here = at;
        for (int i = 0; i < a->ncond; i++)
            if (first[i]) {
                V v = ssd_emit_add(e, first[i], ssd_emit_i64(e, l * a->cond[i].coef[lane]));
                ok = ssd_emit_and(e, ok, cond_holds(r, &a->cond[i], v));
            }
        for (int i = 0; i < a->nwhen; i++)
            if (when[i]) ok = ssd_emit_and(e, ok, lane_of(r, when[i], l));
        for (int d = 0; a->general && d < a->op->nidx; d++) {
            V v = lane_of(r, idx[d], l);
            ok = ssd_emit_and(e, ok, LLVMBuildICmp(e->b, LLVMIntULT, v, dim[d], ""));
            here = ssd_emit_at(e, d ? here : a->base, LLVMBuildMul(e->b, v, stride[d], ""));
        }
        if (a->general && !a->op->nidx) here = a->base;
        out[l] = choose(r, ok, here, instead);
        if (at && l + 1 < ssd_nest_live(r)) at = ssd_emit_at(e, at, a->step[lane]);
    }
}

static unsigned align_of(const Access *a) { return (unsigned)ssd_dtype_size((ssd_dtype)a->dtype); }

V ssd_access_load(NestRun *r, Access *a) {
    Emit *e = r->e;
    LLVMTypeRef t = ssd_emit_storage(e, a->dtype);
    if (r->lanes > 1 && !r->strided)
        return ssd_emit_masked_load(e, t, vector_addr(r, a, e->zeros), ssd_nest_live(r), r->lanes,
                                    align_of(a));
    V at[64];
    lane_addrs(r, a, e->zeros, at);
    if (r->lanes == 1) return ssd_emit_load(e, t, at[0], align_of(a));
    V v = LLVMConstNull(ssd_emit_vec(e, t, r->lanes));
    for (int l = 0; l < ssd_nest_live(r); l++) {
        V one = ssd_emit_load(e, t, at[l], align_of(a));
        v = LLVMBuildInsertElement(e->b, v, one, LLVMConstInt(e->i32, (u64)l, false), "");
    }
    return v;
}

void ssd_access_store(NestRun *r, Access *a, V v) {
    Emit *e = r->e;
    if (r->lanes > 1 && !r->strided) {
        v = ssd_nest_vector(r, v);
        ssd_emit_masked_store(e, v, vector_addr(r, a, e->sink), ssd_nest_live(r), align_of(a));
        return;
    }
    V at[64];
    lane_addrs(r, a, e->sink, at);
    for (int l = 0; l < ssd_nest_live(r); l++)
        ssd_emit_store(e, lane_of(r, v, l), at[l], align_of(a));
}

// --- A tensor's element inside an expression ----------------------------------------------------
V ssd_access_element(NestRun *r, Ex load) {
    Emit *e = r->e;
    const Expr *x = ex(e, load);
    const TTensor *t = &e->p->tensors.v[x->tensor];
    unsigned align = (unsigned)ssd_dtype_size((ssd_dtype)t->dtype);
    bool wide = varies_along_lanes(r, load);
    LLVMTypeRef st = ssd_emit_storage(e, t->dtype);
    V idx[8], out = wide ? LLVMConstNull(ssd_emit_vec(e, st, r->lanes)) : NULL;
    V base = tensor_base(e, x->tensor);
    for (int d = 0; d < x->nidx; d++) idx[d] = ssd_nest_ex(r, x->idx[d]);
    for (int l = 0; l < (wide ? r->lanes : 1); l++) {
        V ok = NULL, at = base;
        for (int d = 0; d < x->nidx; d++) {
            V i = lane_of(r, idx[d], l);
            at = ssd_emit_at(e, at, LLVMBuildMul(e->b, i, tensor_stride(e, x->tensor, d), ""));
            if (proven(e, x->idx[d], t->dim[d]) && l < ssd_nest_live(r)) continue;
            ok = ssd_emit_and(e, ok,
                              LLVMBuildICmp(e->b, LLVMIntULT, i, tensor_dim(e, x->tensor, d), ""));
        }
        V v = ssd_emit_load(e, st, choose(r, ok, at, e->zeros), align);
        out = wide ? LLVMBuildInsertElement(e->b, out, v, LLVMConstInt(e->i32, (u64)l, false), "")
                   : v;
    }
    if (t->dtype != SSD_I32) return ssd_emit_decode(e, out, t->dtype);
    return LLVMBuildSExt(e->b, out, ssd_emit_vec(e, e->i64, wide ? r->lanes : 1), "");
}
