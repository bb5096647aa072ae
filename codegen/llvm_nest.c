// SPDX-License-Identifier: Apache-2.0
// Loop nests of elementwise ops. A nest is walked recursively, an axis at a time; the innermost
// place evaluates its ops for one vector of points. Every expression and address is emitted at the
// outermost loop level it can stand at and remembered for as long as that level's iteration lasts,
// so what an optimizer would hoist is never written twice:
//
//   M = map {where(i >= j, S*f, 0)}, lanes j:   f[j..] and S[i, j..] in the inner loop, the row's
//   address and
//                                               i itself in the outer one
#include "llvm_emit.h"

static const Expr *ex(const NestRun *r, Ex e) { return &r->e->p->exs.v[e]; }
static const TVal *val(const NestRun *r, Val v) { return &r->e->p->vals.v[v]; }
static int axis_pos(const NestRun *r, u8 x) {
    for (int i = 0; i < r->plan.n; i++)
        if (r->plan.ax[i] == x) return i;
    return -1;
}
i64 ssd_emit_size(const Emit *e, u8 axis) { return e->p->axes.v[axis].size; }
const Lay *ssd_emit_lay(const Emit *e, Val v) { return &e->p->vals.v[v].lay; }

// --- Levels -------------------------------------------------------------------------------------
int ssd_nest_level(const NestRun *r, int axis) {
    (void)r;
    return 2 * axis + 2;
}

void ssd_nest_set(NestRun *r, int s, V index) {
    r->slot[s].index = index;
    r->slot[s].stamp = ++r->e->stamp;
    for (int i = s; i < MAX_SLOTS; i++) r->slot[i].up = NULL;
}

LLVMBasicBlockRef ssd_nest_enter(NestRun *r, int level) {
    LLVMBasicBlockRef back = LLVMGetInsertBlock(r->e->b);
    if (r->slot[level].up) ssd_emit_seek(r->e, r->slot[level].up);
    return back;
}
static void leave(NestRun *r, LLVMBasicBlockRef back) { ssd_emit_seek(r->e, back); }

V ssd_nest_index(NestRun *r, int axis) {
    return ssd_emit_add(r->e, r->slot[2 * axis + 1].index, r->slot[2 * axis + 2].index);
}

int ssd_nest_live(const NestRun *r) { return r->lanes > 1 ? r->live[r->plan.lane] : 1; }

V ssd_nest_vector(NestRun *r, V v) { return ssd_emit_splat(r->e, v, r->lanes); }

static bool is_vector(V v) { return LLVMGetTypeKind(LLVMTypeOf(v)) == LLVMVectorTypeKind; }

static ExFacts facts(NestRun *r, Ex e);
static void note_axis(NestRun *r, ExFacts *f, u8 axis) {
    int i = axis_pos(r, axis);
    if (i < 0) SSD_BUG("axis %s is not walked", r->e->p->axes.v[axis].name);
    f->level = (u8)MAX(f->level, 2 * i + 2);
    f->lanes |= i == r->plan.lane && r->lanes > 1;
}
static void note(NestRun *r, ExFacts *f, Ex e) {
    ExFacts g = facts(r, e);
    f->level = MAX(f->level, g.level);
    f->lanes |= g.lanes;
}
static ExFacts facts(NestRun *r, Ex e) {
    ExFacts *known = &r->e->ex_facts[e];
    if (known->nest == r->id) return *known;
    const Expr *x = ex(r, e);
    ExFacts f = {.nest = r->id};
    if (x->kind == EX_AXIS) note_axis(r, &f, (u8)x->axis);
    if (x->kind == EX_VAL)
        for (int i = 0; i < val(r, x->val)->naxes; i++) note_axis(r, &f, val(r, x->val)->ax[i]);
    for (int i = 0; i < x->nidx; i++) note(r, &f, x->idx[i]);
    if (x->kind == EX_FN)
        for (int i = 0; i < ssd_fns[x->fn].arity; i++) note(r, &f, x->arg[i]);
    return *known = f;
}

// --- Tiles --------------------------------------------------------------------------------------
// The address of a tile's element at this point, built up level by level.
V ssd_nest_tile(NestRun *r, Val v) {
    Emit *e = r->e;
    Memo *memo = e->val_addr[v];
    V at = e->val[v];
    for (int i = 0; i < r->plan.n; i++) {
        i64 stride = 4 * ssd_nest_stride(e->p, v, r->plan.ax[i]);
        if (!stride) continue;
        for (int s = 2 * i + 1; s <= 2 * i + 2; s++) {
            if (memo[s].stamp != r->slot[s].stamp) {
                LLVMBasicBlockRef back = ssd_nest_enter(r, s);
                V step = ssd_emit_mul(e, r->slot[s].index, ssd_emit_i64(e, stride));
                memo[s] = (Memo){ssd_emit_at(e, at, step), r->slot[s].stamp};
                leave(r, back);
            }
            at = memo[s].v;
        }
    }
    return at;
}

static V lane_const(NestRun *r, int i) { return LLVMConstInt(r->e->i32, (u64)i, false); }

static V tile_read(NestRun *r, Val v) {
    Emit *e = r->e;
    V at = ssd_nest_tile(r, v);
    i64 s = r->lanes > 1 ? ssd_nest_stride(e->p, v, r->plan.ax[r->plan.lane]) : 0;
    if (s == 0) return ssd_emit_load(e, e->f32, at, ALIGN_F32);
    if (s == 1) return ssd_emit_load(e, ssd_emit_vec(e, e->f32, r->lanes), at, ALIGN_F32);
    V out = LLVMConstNull(ssd_emit_vec(e, e->f32, r->lanes));
    for (int i = 0; i < ssd_nest_live(r); i++) {
        V x = ssd_emit_load(e, e->f32, ssd_emit_at_const(e, at, 4 * s * i), ALIGN_F32);
        out = LLVMBuildInsertElement(e->b, out, x, lane_const(r, i), "");
    }
    return out;
}

static void tile_write(NestRun *r, Val v, V x) {
    Emit *e = r->e;
    V at = ssd_nest_tile(r, v);
    i64 s = r->lanes > 1 ? ssd_nest_stride(e->p, v, r->plan.ax[r->plan.lane]) : 0;
    if (s == 1) x = ssd_nest_vector(r, x);
    if (s <= 1) {
        ssd_emit_store(e, x, at, ALIGN_F32);
        return;
    }
    for (int i = 0; i < ssd_nest_live(r); i++) {
        V one = is_vector(x) ? LLVMBuildExtractElement(e->b, x, lane_const(r, i), "") : x;
        ssd_emit_store(e, one, ssd_emit_at_const(e, at, 4 * s * i), ALIGN_F32);
    }
}

// --- Expressions --------------------------------------------------------------------------------
static int lanes_of(V v) { return is_vector(v) ? (int)LLVMGetVectorSize(LLVMTypeOf(v)) : 1; }

// Tiles hold f32 whatever they mean: truth as 0 and 1, indices as whole numbers.
static V to_f32(NestRun *r, V v) {
    LLVMTypeRef t = LLVMTypeOf(v), el = is_vector(v) ? LLVMGetElementType(t) : t;
    if (LLVMGetTypeKind(el) == LLVMFloatTypeKind) return v;
    LLVMTypeRef to = ssd_emit_vec(r->e, r->e->f32, lanes_of(v));
    bool truth = LLVMGetIntTypeWidth(el) == 1;
    return truth ? LLVMBuildUIToFP(r->e->b, v, to, "") : LLVMBuildSIToFP(r->e->b, v, to, "");
}
static V from_f32(NestRun *r, V v, u8 dtype) {
    int n = lanes_of(v);
    if (dtype == SSD_BOOL)
        return LLVMBuildFCmp(r->e->b, LLVMRealUNE, v,
                             ssd_emit_splat(r->e, ssd_emit_f32(r->e, 0), n), "");
    if (dtype == SSD_IDX || dtype == SSD_I32)
        return LLVMBuildFPToSI(r->e->b, v, ssd_emit_vec(r->e, r->e->i64, n), "");
    return v;
}

static V read_val(NestRun *r, Val v) {
    Emit *e = r->e;
    if (!val(r, v)->naxes) {
        if (!e->val[v]) SSD_BUG("`%s` has no value", val(r, v)->name);
        return e->val[v];
    }
    int level = 0;
    for (int i = 0; i < val(r, v)->naxes; i++)
        level = MAX(level, 2 * axis_pos(r, val(r, v)->ax[i]) + 2);
    const Memo *reg = &e->val_reg[v];
    if (reg->v && reg->stamp == r->slot[level].stamp) return reg->v;
    return from_f32(r, tile_read(r, v), val(r, v)->dtype);
}

// A comparison of indices along the lane axis: lanes count from the first one's difference.
static V compare_lanes(NestRun *r, const Expr *x) {
    static const LLVMIntPredicate pred[FN__COUNT] = {
        [FN_LT] = LLVMIntSLT, [FN_LE] = LLVMIntSLE, [FN_GT] = LLVMIntSGT,
        [FN_GE] = LLVMIntSGE, [FN_EQ] = LLVMIntEQ,  [FN_NE] = LLVMIntNE};
    Emit *e = r->e;
    i64 ca[256], cb[256];
    if (!pred[x->fn] || ex(r, x->arg[0])->dtype != SSD_IDX || ex(r, x->arg[1])->dtype != SSD_IDX)
        return NULL;
    if (!ssd_nest_affine(e->p, x->arg[0], ca) || !ssd_nest_affine(e->p, x->arg[1], cb)) return NULL;
    u8 lane = r->plan.ax[r->plan.lane];
    i64 scale = ca[lane] - cb[lane], big = 1 << 30;
    if (scale > 1 << 20 || scale < -(1 << 20)) return NULL;
    V d = LLVMBuildSub(e->b, ssd_nest_scalar_index(r, x->arg[1]),
                       ssd_nest_scalar_index(r, x->arg[0]), "");
    d = ssd_emit_fn(e, FN_MAX, ssd_emit_i64(e, -big), d, NULL);
    d = ssd_emit_fn(e, FN_MIN, ssd_emit_i64(e, big), d, NULL);
    d = ssd_emit_splat(e, LLVMBuildTrunc(e->b, d, e->i32, ""), r->lanes);
    return LLVMBuildICmp(e->b, pred[x->fn], ssd_emit_iota(e, e->i32, scale, r->lanes), d, "");
}

static bool is_mul(const NestRun *r, Ex e) {
    return ex(r, e)->kind == EX_FN && ex(r, e)->fn == FN_MUL && ex(r, e)->dtype == SSD_F32;
}

// where over vectors under one condition for all lanes: as a mask of bits, for a select would
// become a branch.
static V choose_vector(NestRun *r, const Expr *x) {
    Emit *e = r->e;
    LLVMTypeRef bits = ssd_emit_vec(e, e->i32, r->lanes),
                floats = ssd_emit_vec(e, e->f32, r->lanes);
    V v[2];
    for (int i = 0; i < 2; i++) {
        v[i] = ssd_nest_vector(r, to_f32(r, ssd_nest_ex(r, x->arg[1 + i])));
        v[i] = LLVMBuildBitCast(e->b, v[i], bits, "");
    }
    V cond = ssd_nest_ex(r, x->arg[0]);
    LLVMBasicBlockRef back = ssd_nest_enter(r, facts(r, x->arg[0]).level);
    V mask = ssd_nest_vector(r, LLVMBuildSExt(e->b, cond, e->i32, ""));
    leave(r, back);
    V yes = LLVMBuildAnd(e->b, v[0], mask, "");
    V no = LLVMBuildAnd(e->b, v[1], LLVMBuildNot(e->b, mask, ""), "");
    return LLVMBuildBitCast(e->b, LLVMBuildOr(e->b, yes, no, ""), floats, "");
}

static V fn_value(NestRun *r, Ex e) {
    Emit *em = r->e;
    const Expr *x = ex(r, e);
    int n = ssd_fns[x->fn].arity;
    bool wide = facts(r, e).lanes;
    if (wide && x->fn == FN_WHERE && x->dtype == SSD_F32 && !facts(r, x->arg[0]).lanes &&
        ex(r, x->arg[0])->dtype == SSD_BOOL)
        return choose_vector(r, x);
    if (wide && x->dtype == SSD_BOOL && n == 2) {
        V c = compare_lanes(r, x);
        if (c) return c;
    }
    if (x->fn == FN_ADD && x->dtype == SSD_F32)
        for (int k = 0; k < 2; k++) { // a*b + c
            const Expr *m = ex(r, x->arg[k]);
            // A product that varies less than the sum is worth more outside the loop.
            if (!is_mul(r, x->arg[k]) || facts(r, x->arg[k]).level < facts(r, e).level) continue;
            V v[3] = {ssd_nest_ex(r, m->arg[0]), ssd_nest_ex(r, m->arg[1]),
                      ssd_nest_ex(r, x->arg[1 - k])};
            for (int i = 0; i < 3; i++) {
                v[i] = to_f32(r, v[i]);
                if (wide) v[i] = ssd_nest_vector(r, v[i]);
            }
            return ssd_emit_fma(em, v[0], v[1], v[2]);
        }
    V v[3] = {NULL, NULL, NULL};
    for (int i = 0; i < n; i++) {
        v[i] = ssd_nest_ex(r, x->arg[i]);
        bool condition = x->fn == FN_WHERE && i == 0;
        if (x->dtype == SSD_F32 && !condition) v[i] = to_f32(r, v[i]);
        if (wide && !condition) v[i] = ssd_nest_vector(r, v[i]);
    }
    return ssd_emit_fn(em, (FnCode)x->fn, v[0], v[1], v[2]);
}

static V value(NestRun *r, Ex e) {
    Emit *em = r->e;
    const Expr *x = ex(r, e);
    switch ((ExKind)x->kind) {
    case EX_NUM:
        if (x->dtype == SSD_IDX) return ssd_emit_i64(em, (i64)x->num);
        if (x->dtype == SSD_BOOL) return LLVMConstInt(em->i1, x->num != 0, false);
        return ssd_emit_f32(em, x->num);
    case EX_VAL: return read_val(r, x->val);
    case EX_SYM: return em->sym[x->sym];
    case EX_AXIS: {
        V i = ssd_nest_index(r, axis_pos(r, (u8)x->axis));
        if (!facts(r, e).lanes) return i;
        return LLVMBuildAdd(em->b, ssd_emit_splat(em, i, r->lanes),
                            ssd_emit_iota(em, em->i64, 1, r->lanes), "");
    }
    case EX_LOAD: return ssd_access_element(r, e);
    case EX_FN: return fn_value(r, e);
    }
    SSD_BUG("no such expression");
}

V ssd_nest_ex(NestRun *r, Ex e) {
    ExFacts f = facts(r, e);
    Memo *memo = &r->e->ex_memo[e];
    if (memo->v && memo->stamp == r->slot[f.level].stamp) return memo->v;
    LLVMBasicBlockRef back = ssd_nest_enter(r, f.level);
    V v = value(r, e);
    leave(r, back);
    *memo = (Memo){v, r->slot[f.level].stamp};
    return v;
}

V ssd_nest_scalar_index(NestRun *r, Ex e) {
    const Expr *x = ex(r, e);
    if (!facts(r, e).lanes) return ssd_nest_ex(r, e);
    if (x->kind == EX_AXIS) return ssd_nest_index(r, axis_pos(r, (u8)x->axis));
    if (x->kind != EX_FN) SSD_BUG("an index that is no expression of indices");
    V v[3] = {NULL, NULL, NULL};
    for (int i = 0; i < ssd_fns[x->fn].arity; i++) v[i] = ssd_nest_scalar_index(r, x->arg[i]);
    if (x->fn == FN_ADD) return ssd_emit_add(r->e, v[0], v[1]);
    if (x->fn == FN_MUL) return ssd_emit_mul(r->e, v[0], v[1]);
    return ssd_emit_fn(r->e, (FnCode)x->fn, v[0], v[1], v[2]);
}

// --- Ops at a point -----------------------------------------------------------------------------
static V typed(NestRun *r, V v, u8 dtype) {
    if (dtype == SSD_IDX || dtype == SSD_I32 || dtype == SSD_BOOL) return v;
    return ssd_emit_round(r->e, to_f32(r, v), dtype);
}

static void define(NestRun *r, const TOp *o, V v) {
    const TVal *t = val(r, o->out);
    v = typed(r, v, t->dtype);
    if (!t->naxes) {
        r->e->val[o->out] = v;
        return;
    }
    int level = 2 * r->plan.n;
    r->e->val_reg[o->out] = (Memo){v, r->slot[level].stamp};
    if (t->lay.space == SP_MEM) tile_write(r, o->out, to_f32(r, v));
}

static V dead_lanes(NestRun *r, V v, double to) {
    if (ssd_nest_live(r) >= r->lanes) return v;
    V mask = ssd_emit_lane_mask(r->e, ssd_nest_live(r), r->lanes);
    return LLVMBuildSelect(r->e->b, mask, v, ssd_nest_vector(r, ssd_emit_f32(r->e, to)), "");
}

static void accumulate(NestRun *r, const TOp *o, int k) {
    Emit *e = r->e;
    bool along = r->lanes > 1 && o->ax[0] == r->plan.ax[r->plan.lane];
    bool max = o->flags & TF_MAX, tail = along && ssd_nest_live(r) < r->lanes;
    V *acc = &r->acc[k * r->lane_copies + r->lane_copy];
    if (!max && !tail && is_mul(r, o->e)) {
        V x = to_f32(r, ssd_nest_ex(r, ex(r, o->e)->arg[0])),
          y = to_f32(r, ssd_nest_ex(r, ex(r, o->e)->arg[1]));
        *acc = ssd_emit_fma(e, ssd_nest_vector(r, x), ssd_nest_vector(r, y), *acc);
        return;
    }
    V v = ssd_nest_vector(r, to_f32(r, ssd_nest_ex(r, o->e)));
    if (tail) v = dead_lanes(r, v, max ? (double)-__builtin_inff() : 0);
    *acc = max ? ssd_emit_fn(e, FN_MAX, *acc, v, NULL) : LLVMBuildFAdd(e->b, *acc, v, "");
}

// The element of a tile that an index names at each point.
static V picked(NestRun *r, const TOp *o) {
    Emit *e = r->e;
    i64 s = 4 * ssd_nest_stride(e->p, o->a, o->ax[0]), lane = 0;
    V idx = ssd_nest_ex(r, o->e), at = ssd_nest_tile(r, o->a), out = NULL;
    if (r->lanes > 1) {
        lane = 4 * ssd_nest_stride(e->p, o->a, r->plan.ax[r->plan.lane]);
        out = LLVMConstNull(ssd_emit_vec(e, e->f32, r->lanes));
    }
    for (int i = 0; i < ssd_nest_live(r); i++) {
        V k = is_vector(idx) ? LLVMBuildExtractElement(e->b, idx, lane_const(r, i), "") : idx;
        if (LLVMGetTypeKind(LLVMTypeOf(k)) == LLVMFloatTypeKind)
            k = LLVMBuildFPToSI(e->b, k, e->i64, "");
        k = ssd_emit_fn(e, FN_MAX, k, ssd_emit_i64(e, 0), NULL);
        k = ssd_emit_fn(e, FN_MIN, k, ssd_emit_i64(e, ssd_emit_size(e, o->ax[0]) - 1), NULL);
        V here = ssd_emit_at(e, at, ssd_emit_mul(e, k, ssd_emit_i64(e, s)));
        V x = ssd_emit_load(e, e->f32, ssd_emit_at_const(e, here, i * lane), ALIGN_F32);
        out = out ? LLVMBuildInsertElement(e->b, out, x, lane_const(r, i), "") : x;
    }
    return from_f32(r, out, val(r, o->a)->dtype);
}

static void point(NestRun *r) {
    int reduces = 0;
    r->next_access = 0;
    for (TOp *o = r->first;; o = o->next) {
        switch ((TOpCode)o->op) {
        case TOP_LOAD: {
            Access *a = &r->access[r->next_access++];
            V v = ssd_access_load(r, a);
            u8 dt = val(r, o->out)->dtype;
            bool whole = a->dtype == SSD_I32 && (dt == SSD_I32 || dt == SSD_IDX);
            define(r, o,
                   whole ? LLVMBuildSExt(r->e->b, v, ssd_emit_vec(r->e, r->e->i64, lanes_of(v)), "")
                         : ssd_emit_decode(r->e, v, a->dtype));
            break;
        }
        case TOP_STORE: {
            Access *a = &r->access[r->next_access++];
            V v = ssd_nest_ex(r, o->e);
            if (a->dtype != SSD_I32) {
                v = ssd_emit_encode(r->e, to_f32(r, v), a->dtype);
            } else if (ex(r, o->e)->dtype == SSD_F32) {
                v = ssd_emit_encode(r->e, v, SSD_I32);
            } else {
                v = LLVMBuildIntCast2(r->e->b, v, ssd_emit_vec(r->e, r->e->i32, lanes_of(v)), true,
                                      "");
            }
            ssd_access_store(r, a, v);
            break;
        }
        case TOP_MAP:
        case TOP_FILL: define(r, o, ssd_nest_ex(r, o->e)); break;
        case TOP_COPY: define(r, o, read_val(r, o->a)); break;
        case TOP_REDUCE: accumulate(r, o, reduces++); break;
        case TOP_PICK: define(r, o, picked(r, o)); break;
        default: SSD_BUG("no op of a nest");
        }
        if (o == r->last) break;
    }
}

// --- Reductions ---------------------------------------------------------------------------------
static void start_acc(NestRun *r) {
    int k = 0;
    for (const TOp *o = r->first;; o = o->next) {
        if (o->op == TOP_REDUCE) {
            double zero = o->flags & TF_MAX ? (double)-__builtin_inff() : 0;
            for (int c = 0; c < r->lane_copies; c++)
                r->acc[k * r->lane_copies + c] = ssd_nest_vector(r, ssd_emit_f32(r->e, zero));
            k++;
        }
        if (o == r->last) break;
    }
    r->nacc = k * r->lane_copies;
    if (r->nacc > MAX_ACC) SSD_BUG("too many accumulators");
}

static void set_lane_copy(NestRun *r, i64 step);

// The reduced axis is done: results go out, one vector a lane copy, or one element.
static void finish_acc(NestRun *r) {
    int k = 0;
    bool along = r->lanes > 1 && r->plan.reduce == r->plan.ax[r->plan.lane];
    for (const TOp *o = r->first;; o = o->next) {
        for (int c = 0; o->op == TOP_REDUCE && c < r->lane_copies; c++) {
            V v = r->acc[k * r->lane_copies + c];
            if (along || !val(r, o->out)->naxes) v = ssd_emit_hreduce(r->e, v, o->flags & TF_MAX);
            if (r->lane_copies > 1) set_lane_copy(r, c);
            v = ssd_emit_round(r->e, v, val(r, o->out)->dtype);
            if (val(r, o->out)->naxes)
                tile_write(r, o->out, v);
            else
                r->e->val[o->out] = v;
        }
        k += o->op == TOP_REDUCE;
        if (o == r->last) break;
    }
}

// --- The walk -----------------------------------------------------------------------------------
static i64 steps_of(const NestRun *r, int axis, i64 *full) {
    i64 size = ssd_emit_size(r->e, r->plan.ax[axis]), w = r->width[axis];
    *full = size / w;
    return (size + w - 1) / w;
}

static void walk(NestRun *r, int axis);

// One unrolled step of an axis: `k` steps after the loop's index.
static void step(NestRun *r, int axis, i64 k) {
    bool lane = axis == r->plan.lane;
    ssd_nest_set(r, 2 * axis + 2, ssd_emit_i64(r->e, k * r->width[axis]));
    if (lane) r->lane_copy = r->lane_copies > 1 ? (int)k : 0;
}

static void set_lane_copy(NestRun *r, i64 k) {
    i64 size = ssd_emit_size(r->e, r->plan.ax[r->plan.lane]);
    ssd_nest_set(r, 2 * r->plan.lane + 1, ssd_emit_i64(r->e, 0));
    step(r, r->plan.lane, k);
    r->live[r->plan.lane] = (int)MIN(r->lanes, size - k * r->lanes);
}

static void unrolled(NestRun *r, int axis, i64 n, bool partial_last) {
    i64 size = ssd_emit_size(r->e, r->plan.ax[axis]);
    for (i64 k = 0; k < n; k++) {
        step(r, axis, k);
        bool partial = partial_last && k == n - 1 && size % r->width[axis];
        r->live[axis] = (int)(partial ? size % r->width[axis] : r->width[axis]);
        walk(r, axis + 1);
    }
}

static void looped(NestRun *r, int axis, i64 full, i64 unroll) {
    Emit *e = r->e;
    i64 w = r->width[axis];
    LLVMBasicBlockRef pre = LLVMGetInsertBlock(e->b), head = ssd_emit_block(e, "nest");
    LLVMBuildBr(e->b, head);
    for (int s = 0; s < 2 * axis + 1; s++)
        if (!r->slot[s].up) r->slot[s].up = pre;
    LLVMPositionBuilderAtEnd(e->b, head);
    V iv = ssd_emit_phi(e, ssd_emit_i64(e, 0), pre), phi[MAX_ACC];
    bool acc = r->acc_from >= 0 && axis >= r->acc_from;
    for (int i = 0; acc && i < r->nacc; i++) phi[i] = r->acc[i] = ssd_emit_phi(e, r->acc[i], pre);
    ssd_nest_set(r, 2 * axis + 1, iv);
    unrolled(r, axis, unroll, false);
    V next = LLVMBuildAdd(e->b, iv, ssd_emit_i64(e, unroll * w), "");
    V more = LLVMBuildICmp(e->b, LLVMIntSLT, next, ssd_emit_i64(e, full * w), "");
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(e->b), exit = ssd_emit_block(e, "next");
    LLVMBuildCondBr(e->b, more, head, exit);
    ssd_emit_phi_add(iv, next, latch);
    for (int i = 0; acc && i < r->nacc; i++) ssd_emit_phi_add(phi[i], r->acc[i], latch);
    LLVMPositionBuilderAtEnd(e->b, exit);
    for (int s = 2 * axis + 1; s < MAX_SLOTS; s++) r->slot[s].up = NULL;
}

static void walk(NestRun *r, int axis) {
    if (axis == r->plan.n) {
        r->visit(r);
        return;
    }
    i64 full, steps = steps_of(r, axis, &full);
    if (axis == r->acc_from) start_acc(r);
    if (r->unroll[axis] >= steps) {
        ssd_nest_set(r, 2 * axis + 1, ssd_emit_i64(r->e, 0));
        unrolled(r, axis, steps, true);
    } else {
        if (full) looped(r, axis, full, r->unroll[axis]);
        if (steps > full) {
            ssd_nest_set(r, 2 * axis + 1, ssd_emit_i64(r->e, full * r->width[axis]));
            unrolled(r, axis, steps - full, true);
        }
    }
    if (axis == r->acc_from) finish_acc(r);
}

// --- Setting up ---------------------------------------------------------------------------------
// Instructions an expression takes, roughly.
static int weight(const Emit *e, Ex x) {
    const Expr *n = &e->p->exs.v[x];
    if (n->kind == EX_VAL) return 1;
    if (n->kind == EX_LOAD) return 6;
    if (n->kind != EX_FN) return 0;
    int w = ssd_fns[n->fn].kind == 'F' && n->fn != FN_DIV ? 14 : 1;
    for (int i = 0; i < ssd_fns[n->fn].arity; i++) w += weight(e, n->arg[i]);
    return w;
}

enum { UNROLL_BUDGET = 96, UNROLL_MOST = 16 };

// Innermost axes first: whole axes while they fit, then the largest divisor of one.
static void choose_unroll(NestRun *r) {
    int w = 2;
    for (const TOp *o = r->first;; o = o->next) {
        w += 2 + (o->e ? weight(r->e, o->e) : 0);
        if (r->strided && (o->op == TOP_LOAD || o->op == TOP_STORE)) w += 4 * r->lanes;
        if (o == r->last) break;
    }
    // Element by element is the rare way: small code.
    i64 left = r->lanes > 1 || !r->plan.n ? MIN(MAX(UNROLL_BUDGET / w, 1), UNROLL_MOST) : 1;
    for (int i = r->plan.n - 1; i >= 0; i--) {
        i64 full, steps = steps_of(r, i, &full);
        // A reduction around the lane axis keeps an accumulator for each vector of it.
        bool must = r->acc_from >= 0 && i == r->plan.lane && r->acc_from < i &&
                    r->plan.reduce != r->plan.ax[i];
        if (steps <= left || must) {
            r->unroll[i] = steps;
            left = MAX(left / MAX(steps, 1), 1);
            continue;
        }
        for (r->unroll[i] = left; full % r->unroll[i]; r->unroll[i]--) {}
        if (!full) r->unroll[i] = steps;
        left = 1;
    }
}

void ssd_nest_begin(NestRun *r, Emit *e) {
    *r = (NestRun){.e = e, .id = ++e->stamp, .lanes = 1, .acc_from = -1, .lane_copies = 1};
    r->plan.lane = -1;
    r->slot[0].stamp = ++e->stamp;
}

static void emit_version(const NestRun *set_up, bool strided) {
    NestRun r = *set_up;
    const Nest *plan = &r.plan;
    r.strided = strided;
    if (plan->reduce)
        for (int i = plan->n - 1; i >= 0; i--)
            if (plan->ax[i] == plan->reduce) r.acc_from = i;
    bool around = plan->reduce && r.lanes > 1 && r.acc_from < plan->lane;
    i64 full;
    for (int i = 0; i < plan->n; i++) r.width[i] = i == plan->lane ? r.lanes : 1;
    if (around) r.lane_copies = (int)steps_of(&r, plan->lane, &full);
    r.visit = point;
    choose_unroll(&r);
    walk(&r, 0);
}

void ssd_nest_walk(NestRun *r) { walk(r, 0); }

// Rank-0 results of two versions of a nest meet in phis.
static void join_scalars(Emit *e, const TOp *first, const TOp *last, V got[2][MAX_ACC],
                         LLVMBasicBlockRef from[2]) {
    int n = 0;
    for (const TOp *o = first;; o = o->next) {
        if (o->out && !e->p->vals.v[o->out].naxes) {
            e->val[o->out] = ssd_emit_phi(e, got[0][n], from[0]);
            ssd_emit_phi_add(e->val[o->out], got[1][n++], from[1]);
        }
        if (o == last) break;
    }
}
static void keep_scalars(Emit *e, const TOp *first, const TOp *last, V got[MAX_ACC]) {
    int n = 0;
    for (const TOp *o = first;; o = o->next) {
        if (o->out && !e->p->vals.v[o->out].naxes && n < MAX_ACC) got[n++] = e->val[o->out];
        if (o == last) break;
    }
}

void ssd_nest_set_up(NestRun *r, Emit *e, TOp *first, TOp *last, bool vectors) {
    ssd_nest_begin(r, e);
    r->first = first;
    r->last = last;
    ssd_nest_plan(e->p, first, last, e->lanes, 0, &r->plan);
    r->lanes = r->plan.n && vectors ? e->lanes : 1;
    if (!vectors && r->plan.reduce) { // accumulate one sum at a time
        int k = 0;
        for (int i = 0; i < r->plan.n; i++)
            if (r->plan.ax[i] != r->plan.reduce) r->plan.ax[k++] = r->plan.ax[i];
        r->plan.ax[k] = r->plan.reduce;
        r->plan.lane = k;
    }
    for (TOp *o = first;; o = o->next) {
        if (o->op == TOP_LOAD || o->op == TOP_STORE) {
            if (r->naccess == MAX_ACCESS) SSD_BUG("too many tensors in one nest");
            ssd_access_init(r, &r->access[r->naccess++], o);
        }
        if (o == last) break;
    }
}

// By whole vectors where tensors allow it at run time, else element by element: the rare case gets
// small code, not fast code.
static void two_versions(const NestRun *r, V fast, void (*whole)(const NestRun *r)) {
    Emit *e = r->e;
    LLVMBasicBlockRef version[2] = {ssd_emit_block(e, "whole"), ssd_emit_block(e, "strided")},
                      from[2];
    LLVMBasicBlockRef end = ssd_emit_block(e, "end");
    V got[2][MAX_ACC];
    LLVMBuildCondBr(e->b, fast, version[0], version[1]);
    for (int k = 0; k < 2; k++) {
        LLVMPositionBuilderAtEnd(e->b, version[k]);
        NestRun own = *r;
        own.slot[0].stamp = ++e->stamp;
        if (k == 1) ssd_nest_set_up(&own, e, r->first, r->last, false);
        if (k == 0)
            whole(&own);
        else
            emit_version(&own, false);
        keep_scalars(e, r->first, r->last, got[k]);
        from[k] = LLVMGetInsertBlock(e->b);
        LLVMBuildBr(e->b, end);
    }
    LLVMPositionBuilderAtEnd(e->b, end);
    join_scalars(e, r->first, r->last, got, from);
}

static void vectors(const NestRun *r) { emit_version(r, false); }

static void emit_nest(NestRun *r) {
    NestRun across;
    if (ssd_transpose_plan(&across, r)) {
        V ok = across.naccess ? ssd_access_fast(&across, &across.access[0]) : NULL;
        if (ok)
            two_versions(&across, ok, ssd_transpose_emit);
        else
            ssd_transpose_emit(&across);
        return;
    }
    V fast = NULL;
    bool never = false;
    for (int i = 0; i < r->naccess; i++) {
        V ok = ssd_access_fast(r, &r->access[i]);
        never |= !ok;
        fast = ok ? ssd_emit_and(r->e, fast, ok) : fast;
    }
    if (!r->naccess || never || r->lanes == 1)
        emit_version(r, never);
    else
        two_versions(r, fast, vectors);
}

// The tensor itself serves as the tile, if it lies right.
static void load_in_place(NestRun *r) {
    Emit *e = r->e;
    V buffer = e->val[r->first->out], tensor = r->access[0].base;
    LLVMBasicBlockRef pre = LLVMGetInsertBlock(e->b), copy = ssd_emit_block(e, "copy"),
                      end = ssd_emit_block(e, "placed");
    LLVMBuildCondBr(e->b, ssd_access_in_place(r, &r->access[0]), end, copy);
    LLVMPositionBuilderAtEnd(e->b, copy);
    r->slot[0].stamp = ++e->stamp;
    emit_nest(r);
    LLVMBasicBlockRef from = LLVMGetInsertBlock(e->b);
    LLVMBuildBr(e->b, end);
    LLVMPositionBuilderAtEnd(e->b, end);
    e->val[r->first->out] = ssd_emit_phi(e, tensor, pre);
    ssd_emit_phi_add(e->val[r->first->out], buffer, from);
}

void ssd_nest_emit(Emit *e, TOp *first, TOp *last) {
    NestRun r;
    ssd_nest_set_up(&r, e, first, last, true);
    if (first == last && first->op == TOP_LOAD && first->flags & TF_INPLACE)
        load_in_place(&r);
    else
        emit_nest(&r);
}

V ssd_emit_scalar(Emit *e, Ex x) {
    NestRun r;
    ssd_nest_begin(&r, e);
    return ssd_nest_ex(&r, x);
}
