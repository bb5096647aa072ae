// SPDX-License-Identifier: Apache-2.0
// Construction of tile programs: names, hash-consed and folded expressions, ops with inferred axes.
#include "tile.h"

#include <math.h>

// --- Programs -----------------------------------------------------------------------------------
Prog *ssd_prog_new(Arena *a, const char *name) {
    Prog *p = NEW(a, Prog);
    p->arena = a;
    p->name = ssd_arena_dup(a, name, strlen(name));
    vec_push(a, &p->axes, (TAxis){0});
    vec_push(a, &p->vals, (TVal){0});
    vec_push(a, &p->exs, (Expr){0});
    vec_push(a, &p->tensors, (TTensor){0});
    return p;
}

u8 ssd_prog_find_axis(const Prog *p, const char *name) {
    for (u32 i = 1; i < p->axes.n; i++)
        if (!strcmp(p->axes.v[i].name, name)) return (u8)i;
    return 0;
}

u8 ssd_prog_axis(Prog *p, const char *name, i64 size) {
    u8 x = ssd_prog_find_axis(p, name);
    if (x) {
        if (p->axes.v[x].size != size)
            SSD_BUG("axis %s has %lld elements, not %lld", name, (long long)p->axes.v[x].size,
                    (long long)size);
        return x;
    }
    if (p->axes.n > 255) SSD_BUG("more than 255 axes");
    vec_push(p->arena, &p->axes,
             ((TAxis){.name = ssd_arena_dup(p->arena, name, strlen(name)), .size = size}));
    return (u8)(p->axes.n - 1);
}

u32 ssd_prog_sym(Prog *p, const char *name) {
    for (u32 i = 0; i < p->syms.n; i++)
        if (!strcmp(p->syms.v[i], name)) return i;
    if (p->syms.n == COUNTOF(((TileRun *)0)->sym)) SSD_BUG("too many symbols");
    vec_push(p->arena, &p->syms, ssd_arena_dup(p->arena, name, strlen(name)));
    return p->syms.n - 1;
}

u16 ssd_prog_find_tensor(const Prog *p, const char *name) {
    for (u32 i = 1; i < p->tensors.n; i++)
        if (!strcmp(p->tensors.v[i].name, name)) return (u16)i;
    return 0;
}

u16 ssd_prog_tensor(Prog *p, TRole role, const char *name, ssd_dtype dt, int rank, const Ex *dim) {
    TTensor t = {.role = (u8)role, .dtype = (u8)dt, .rank = (u8)rank};
    if (rank > (int)COUNTOF(t.dim)) SSD_BUG("tensor %s has rank %d", name, rank);
    t.name = ssd_arena_dup(p->arena, name, strlen(name));
    for (int i = 0; i < rank; i++) t.dim[i] = dim[i];
    vec_push(p->arena, &p->tensors, t);
    return (u16)(p->tensors.n - 1);
}

Val ssd_prog_val(Prog *p, const char *name, ssd_dtype dt, const u8 *ax, int naxes) {
    TVal v = {.dtype = (u8)dt, .naxes = (u8)naxes};
    if (naxes > (int)COUNTOF(v.ax)) SSD_BUG("value %s has %d axes", name ? name : "?", naxes);
    v.name = name ? ssd_arena_dup(p->arena, name, strlen(name)) : "v";
    for (int i = 0; i < naxes; i++) v.ax[i] = ax[i];
    vec_push(p->arena, &p->vals, v);
    return p->vals.n - 1;
}

TKernel *ssd_prog_kernel(Prog *p, const char *name) {
    vec_push(p->arena, &p->kernels,
             ((TKernel){.name = ssd_arena_dup(p->arena, name, strlen(name))}));
    return &p->kernels.v[p->kernels.n - 1];
}

Val ssd_prog_grid(Prog *p, TKernel *k, const char *name, Ex size) {
    if (k->ngrid == COUNTOF(k->grid)) SSD_BUG("kernel %s has too many grid variables", k->name);
    Val v = ssd_prog_val(p, name, SSD_IDX, NULL, 0);
    k->grid[k->ngrid++] = (TGrid){.var = v, .size = size};
    return v;
}

// --- Expressions: one table of distinct nodes ---------------------------------------------------
static u64 ex_hash(const Expr *e) {
    u32 key[10] = {e->kind | (u32)e->fn << 8 | (u32)e->dtype << 16 | (u32)e->nidx << 24,
                   e->axis | (u32)e->tensor << 16,
                   e->sym,
                   e->val,
                   e->arg[0],
                   e->arg[1],
                   e->arg[2]};
    memcpy(&key[8], &e->num, sizeof e->num);
    u64 h = ssd_hash(key, sizeof key, 0);
    return e->nidx ? ssd_hash(e->idx, e->nidx * sizeof(Ex), h) : h;
}

static bool ex_same(const Expr *a, const Expr *b) {
    return a->kind == b->kind && a->fn == b->fn && a->dtype == b->dtype && a->nidx == b->nidx &&
           a->axis == b->axis && a->tensor == b->tensor && a->sym == b->sym && a->val == b->val &&
           !memcmp(a->arg, b->arg, sizeof a->arg) && !memcmp(&a->num, &b->num, sizeof a->num) &&
           (!a->nidx || !memcmp(a->idx, b->idx, a->nidx * sizeof(Ex)));
}

static void ex_grow(Prog *p) {
    u32 cap = p->cons_cap ? 2 * p->cons_cap : 256;
    p->cons = NEWN(p->arena, u32, cap);
    p->cons_cap = cap;
    for (u32 e = 1; e < p->exs.n; e++) {
        u32 i = (u32)ex_hash(&p->exs.v[e]) & (cap - 1);
        while (p->cons[i]) i = (i + 1) & (cap - 1);
        p->cons[i] = e;
    }
}

static Ex ex_intern(Prog *p, Expr e) {
    if (2 * p->exs.n >= p->cons_cap) ex_grow(p);
    u32 i = (u32)ex_hash(&e) & (p->cons_cap - 1);
    for (; p->cons[i]; i = (i + 1) & (p->cons_cap - 1))
        if (ex_same(&p->exs.v[p->cons[i]], &e)) return p->cons[i];
    if (e.nidx) {
        Ex *idx = NEWN(p->arena, Ex, e.nidx);
        memcpy(idx, e.idx, e.nidx * sizeof(Ex));
        e.idx = idx;
    }
    vec_push(p->arena, &p->exs, e);
    return p->cons[i] = p->exs.n - 1;
}

// One zero and one NaN, so that what prints alike is the same.
static Ex ex_const(Prog *p, double v, u8 dtype) {
    v = isnan(v) ? NAN : v + 0.0;
    return ex_intern(p, (Expr){.kind = EX_NUM, .dtype = dtype, .num = v});
}
Ex ssd_ex_num(Prog *p, double v) { return ex_const(p, v, SSD_F32); }
Ex ssd_ex_int(Prog *p, i64 v) { return ex_const(p, (double)v, SSD_IDX); }

static u8 scalar_type(u8 dt) {
    return dt == SSD_IDX || dt == SSD_I32 ? SSD_IDX : dt == SSD_BOOL ? SSD_BOOL : SSD_F32;
}
Ex ssd_ex_val(Prog *p, Val v) {
    return ex_intern(p, (Expr){.kind = EX_VAL, .dtype = scalar_type(p->vals.v[v].dtype), .val = v});
}
Ex ssd_ex_axis(Prog *p, u8 axis) {
    return ex_intern(p, (Expr){.kind = EX_AXIS, .dtype = SSD_IDX, .axis = axis});
}
Ex ssd_ex_sym(Prog *p, const char *sym) {
    return ex_intern(p, (Expr){.kind = EX_SYM, .dtype = SSD_IDX, .sym = ssd_prog_sym(p, sym)});
}
Ex ssd_ex_load(Prog *p, u16 tensor, const Ex *idx, int nidx) {
    Expr e = {.kind = EX_LOAD, .tensor = tensor, .nidx = (u8)nidx, .idx = (Ex *)idx};
    e.dtype = scalar_type(p->tensors.v[tensor].dtype);
    return ex_intern(p, e);
}

// --- Folding ------------------------------------------------------------------------------------
static const Expr *at(const Prog *p, Ex e) { return &p->exs.v[e]; }
static bool is_num(const Prog *p, Ex e) { return at(p, e)->kind == EX_NUM; }
static bool is(const Prog *p, Ex e, double v) { return is_num(p, e) && at(p, e)->num == v; }
static bool is_idx(const Prog *p, Ex e) { return at(p, e)->dtype == SSD_IDX; }
static bool is_fn(const Prog *p, Ex e, FnCode f) {
    return at(p, e)->kind == EX_FN && at(p, e)->fn == f;
}

// A whole number in a float expression is a float: `where(i >= j, s, 0)` has one type.
static Ex as_float(Prog *p, Ex e) {
    return e && is_num(p, e) && is_idx(p, e) ? ssd_ex_num(p, at(p, e)->num) : e;
}

static u8 fn_type(const Prog *p, FnCode f, const Ex *x) {
    int from = f == FN_WHERE, n = ssd_fns[f].arity;
    if (ssd_fns[f].kind == 'F') return SSD_F32;
    bool idx = true, boolean = true;
    for (int i = from; i < n; i++) {
        idx &= is_idx(p, x[i]);
        boolean &= at(p, x[i])->dtype == SSD_BOOL;
    }
    return idx ? SSD_IDX : boolean ? SSD_BOOL : SSD_F32;
}

static Ex fold_add(Prog *p, Ex a, Ex b, bool idx) {
    if (is(p, a, 0)) return b;
    if (is(p, b, 0)) return a;
    if (is_num(p, b) && at(p, b)->num < 0)
        return ssd_ex_fn(p, FN_SUB, a, ex_const(p, -at(p, b)->num, at(p, b)->dtype), 0);
    if (!idx) return 0;
    // Integer sums lean left with their number last: a + (b + c), (a + 3) + 4.
    const Expr *l = at(p, a), *r = at(p, b);
    if (is_fn(p, b, FN_ADD) || is_fn(p, b, FN_SUB)) {
        Ex r0 = r->arg[0], r1 = r->arg[1];
        return ssd_ex_fn(p, r->fn, ssd_ex_fn(p, FN_ADD, a, r0, 0), r1, 0);
    }
    if (is_num(p, b) && (is_fn(p, a, FN_ADD) || is_fn(p, a, FN_SUB)) && is_num(p, l->arg[1])) {
        double c = l->fn == FN_ADD ? at(p, l->arg[1])->num : -at(p, l->arg[1])->num;
        return ssd_ex_fn(p, FN_ADD, l->arg[0], ssd_ex_int(p, (i64)(c + r->num)), 0);
    }
    if (is_num(p, a)) return ssd_ex_fn(p, FN_ADD, b, a, 0);
    return 0;
}

static Ex fold_sub(Prog *p, Ex a, Ex b, bool idx) {
    if (is(p, b, 0)) return a;
    if (is_num(p, b) && at(p, b)->num < 0)
        return ssd_ex_fn(p, FN_ADD, a, ex_const(p, -at(p, b)->num, at(p, b)->dtype), 0);
    if (idx && a == b) return ssd_ex_int(p, 0);
    const Expr *l = at(p, a);
    if (idx && is_num(p, b) && (is_fn(p, a, FN_ADD) || is_fn(p, a, FN_SUB)) &&
        is_num(p, l->arg[1])) {
        double c = l->fn == FN_ADD ? at(p, l->arg[1])->num : -at(p, l->arg[1])->num;
        return ssd_ex_fn(p, FN_ADD, l->arg[0], ssd_ex_int(p, (i64)(c - at(p, b)->num)), 0);
    }
    return 0;
}

// An equal simpler expression, or 0. Float identities hold for every value, NaN and inf included,
// but for the sign of a zero.
static Ex fold(Prog *p, FnCode f, Ex a, Ex b, Ex c) {
    Ex x[3] = {a, b, c};
    int n = ssd_fns[f].arity;
    u8 type = ssd_fns[f].kind == 'C' ? SSD_BOOL : fn_type(p, f, x);
    bool all = true, idx = type == SSD_IDX;
    for (int i = 0; i < n; i++) all &= is_num(p, x[i]);
    bool by_zero = (f == FN_FDIV || f == FN_CDIV || f == FN_MOD || f == FN_DIV) && is(p, b, 0);
    if (all && f != FN_WHERE && !by_zero) {
        double v =
            ssd_fn_eval(f, at(p, a)->num, n > 1 ? at(p, b)->num : 0, n > 2 ? at(p, c)->num : 0);
        return ex_const(p, v, type);
    }
    switch (f) {
    case FN_ADD: return fold_add(p, a, b, idx);
    case FN_SUB: return fold_sub(p, a, b, idx);
    case FN_MUL:
        if (is(p, a, 1)) return b;
        if (is(p, b, 1)) return a;
        return idx && (is(p, a, 0) || is(p, b, 0)) ? ssd_ex_int(p, 0) : 0;
    case FN_DIV: return is(p, b, 1) ? a : 0;
    case FN_FDIV:
    case FN_CDIV: return idx && is(p, b, 1) ? a : idx && is(p, a, 0) ? a : 0;
    case FN_MOD: return idx && (is(p, b, 1) || is(p, a, 0)) ? ssd_ex_int(p, 0) : 0;
    case FN_NEG: return is_fn(p, a, FN_NEG) ? at(p, a)->arg[0] : 0;
    case FN_MIN:
    case FN_MAX: return a == b ? a : 0;
    case FN_AND: return is(p, a, 0) || is(p, b, 1) ? a : is(p, b, 0) || is(p, a, 1) ? b : 0;
    case FN_OR: return is(p, a, 1) || is(p, b, 0) ? a : is(p, b, 1) || is(p, a, 0) ? b : 0;
    case FN_NOT: return is_fn(p, a, FN_NOT) ? at(p, a)->arg[0] : 0;
    case FN_WHERE: return is_num(p, a) ? (is(p, a, 0) ? c : b) : b == c ? b : 0;
    default: return 0;
    }
}

Ex ssd_ex_fn(Prog *p, FnCode f, Ex a, Ex b, Ex c) {
    Ex x[3] = {a, b, c};
    int n = ssd_fns[f].arity;
    for (int i = n; i < 3; i++) x[i] = 0;
    if (fn_type(p, f, x) == SSD_F32)
        for (int i = f == FN_WHERE; i < n; i++) x[i] = as_float(p, x[i]);
    Ex simple = fold(p, f, x[0], x[1], x[2]);
    if (simple) return simple;
    u8 type = ssd_fns[f].kind == 'C' ? SSD_BOOL : fn_type(p, f, x);
    return ex_intern(p,
                     (Expr){.kind = EX_FN, .fn = (u8)f, .dtype = type, .arg = {x[0], x[1], x[2]}});
}

i64 ssd_ex_divisor(const Prog *p, Ex e, Val v) {
    const Expr *x = &p->exs.v[e];
    if (x->kind != EX_FN || x->fn != FN_FDIV) return 0;
    const Expr *a = &p->exs.v[x->arg[0]], *n = &p->exs.v[x->arg[1]];
    return a->kind == EX_VAL && a->val == v && n->kind == EX_NUM ? (i64)n->num : 0;
}

bool ssd_ex_names(const Prog *p, Ex e, u8 axis) {
    const Expr *x = at(p, e);
    if (!e) return false;
    if (x->kind == EX_AXIS) return x->axis == axis;
    for (int i = 0; i < x->nidx; i++)
        if (ssd_ex_names(p, x->idx[i], axis)) return true;
    for (int i = 0; x->kind == EX_FN && i < ssd_fns[x->fn].arity; i++)
        if (ssd_ex_names(p, x->arg[i], axis)) return true;
    return false;
}

static void add_axis(u8 *out, int *n, u8 axis) {
    for (int i = 0; i < *n; i++)
        if (out[i] == axis) return;
    if (*n == 8) SSD_BUG("an expression over more than 8 axes");
    out[(*n)++] = axis;
}
static void ex_axes(const Prog *p, Ex e, u8 *out, int *n) {
    const Expr *x = at(p, e);
    if (x->kind == EX_AXIS) add_axis(out, n, (u8)x->axis);
    if (x->kind == EX_VAL)
        for (int i = 0; i < p->vals.v[x->val].naxes; i++) add_axis(out, n, p->vals.v[x->val].ax[i]);
    for (int i = 0; i < x->nidx; i++) ex_axes(p, x->idx[i], out, n);
    if (x->kind == EX_FN)
        for (int i = 0; i < ssd_fns[x->fn].arity; i++) ex_axes(p, x->arg[i], out, n);
}
int ssd_ex_axes(const Prog *p, Ex e, u8 out[8]) {
    int n = 0;
    ex_axes(p, e, out, &n);
    return n;
}

Ex ssd_ex_rewrite(Prog *p, Ex e, ExRewrite *f, void *ctx) {
    if (!e) return 0;
    Expr x = *at(p, e);
    if (x.kind == EX_FN) {
        Ex arg[3] = {0};
        for (int i = 0; i < ssd_fns[x.fn].arity; i++) arg[i] = ssd_ex_rewrite(p, x.arg[i], f, ctx);
        if (memcmp(arg, x.arg, sizeof arg)) e = ssd_ex_fn(p, x.fn, arg[0], arg[1], arg[2]);
    } else if (x.kind == EX_LOAD) {
        Ex idx[8];
        for (int i = 0; i < x.nidx; i++) idx[i] = ssd_ex_rewrite(p, x.idx[i], f, ctx);
        e = ssd_ex_load(p, x.tensor, idx, x.nidx);
    }
    return f(ctx, p, e);
}

i64 ssd_ex_eval_sym(const Prog *p, Ex e, const i64 *sym) {
    const Expr *x = at(p, e);
    double v = 0;
    switch (x->kind) {
    case EX_NUM: v = x->num; break;
    case EX_SYM: return sym[x->sym];
    case EX_FN: {
        i64 a[3] = {0};
        for (int i = 0; i < ssd_fns[x->fn].arity; i++) a[i] = ssd_ex_eval_sym(p, x->arg[i], sym);
        v = ssd_fn_eval(x->fn, (double)a[0], (double)a[1], (double)a[2]);
        break;
    }
    default: SSD_BUG("an expression over more than symbols and numbers");
    }
    return v >= 0x1p63 ? INT64_MAX : v > -0x1p63 ? (i64)v : INT64_MIN;
}

static i64 lay_stride(const Lay *l, u8 x) {
    for (int i = 0; i < l->naxes; i++)
        if (l->ax[i] == x) return l->stride[i];
    return -1;
}
// A slice, part, split, join or renaming whose result lies where its operand's elements are:
// nothing is copied. A dynamic `at` keeps the operand's static offset.
bool ssd_tile_is_view(const Prog *p, const TOp *op) {
    if (op->op != TOP_AT && op->op != TOP_RENAME && op->op != TOP_SPLIT && op->op != TOP_JOIN &&
        op->op != TOP_SLICE)
        return false;
    const TVal *v = &p->vals.v[op->out], *a = &p->vals.v[op->a];
    if (!v->lay.buf || v->lay.buf != a->lay.buf || v->dtype != a->dtype) return false;
    i64 offset = a->lay.offset;
    for (int i = 0; i < a->lay.naxes; i++) {
        u8 x = a->lay.ax[i];
        i64 s = a->lay.stride[i];
        bool ok = true;
        if (op->op == TOP_AT && x == op->ax[0]) {
            if (is_num(p, op->e)) offset += s * (i64)at(p, op->e)->num;
        } else if (op->op == TOP_SLICE && x == op->ax[0]) {
            offset += s * (i64)at(p, op->e)->num;
            ok = lay_stride(&v->lay, op->ax[1]) == s;
        } else if (op->op == TOP_RENAME) {
            for (int k = 0; k < 4; k += 2)
                if (op->ax[k] == x) {
                    x = op->ax[k + 1];
                    break;
                }
            ok = lay_stride(&v->lay, x) == s;
        } else if (op->op == TOP_SPLIT && x == op->ax[0]) {
            ok = lay_stride(&v->lay, op->ax[2]) == s &&
                 lay_stride(&v->lay, op->ax[1]) == s * p->axes.v[op->ax[2]].size;
        } else if (op->op == TOP_JOIN && x == op->ax[0]) {
            ok = lay_stride(&v->lay, op->ax[2]) * p->axes.v[op->ax[1]].size == s;
        } else if (op->op == TOP_JOIN && x == op->ax[1]) {
            ok = lay_stride(&v->lay, op->ax[2]) == s;
        } else {
            ok = lay_stride(&v->lay, x) == s;
        }
        if (!ok) return false;
    }
    return v->lay.offset == offset;
}

// --- Ops ----------------------------------------------------------------------------------------
void ssd_block_join(TBlock *to, const TBlock *ops) {
    if (!ops->first) return;
    if (to->last)
        to->last->next = ops->first;
    else
        to->first = ops->first;
    to->last = ops->last;
}

void ssd_block_append(TBlock *to, TOp *o) {
    o->next = NULL;
    ssd_block_join(to, &(TBlock){o, o});
}

TOp *ssd_tile_op(TB *b, TOpCode op) {
    TOp *o = NEW(b->p->arena, TOp);
    o->op = (u8)op;
    ssd_block_append(b->at, o);
    return o;
}

typedef struct Axes {
    u8 v[8];
    int n;
} Axes;
static Axes axes_of(const Prog *p, Val v) {
    Axes s = {.n = p->vals.v[v].naxes};
    memcpy(s.v, p->vals.v[v].ax, sizeof p->vals.v[v].ax);
    return s;
}
static bool has(const Axes *s, u8 x) { return memchr(s->v, x, (size_t)s->n) != NULL; }
static void axes_add(Axes *s, const Axes *t) {
    for (int i = 0; i < t->n; i++) add_axis(s->v, &s->n, t->v[i]);
}
static void axes_del(Axes *s, u8 x) {
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (s->v[i] != x) s->v[n++] = s->v[i];
    s->n = n;
}
static void axes_put(Axes *s, u8 from, u8 to) {
    for (int i = 0; i < s->n; i++)
        if (s->v[i] == from) s->v[i] = to;
}
static Val def(TB *b, TOp *o, const char *name, ssd_dtype dt, const Axes *s) {
    return o->out = ssd_prog_val(b->p, name, dt, s->v, s->n);
}
static ssd_dtype dtype_of(const TB *b, Val v) { return (ssd_dtype)b->p->vals.v[v].dtype; }

static TOp *access_op(TB *b, TOpCode op, u16 tensor, const Ex *idx, int nidx, Ex when) {
    TOp *o = ssd_tile_op(b, op);
    if (nidx > (int)COUNTOF(o->idx)) SSD_BUG("%d indices", nidx);
    o->tensor = tensor;
    o->nidx = (u8)nidx;
    for (int i = 0; i < nidx; i++) o->idx[i] = idx[i];
    o->when = when;
    return o;
}

Val ssd_tile_load(TB *b, const char *name, ssd_dtype dt, u16 tensor, const Ex *idx, int nidx,
                  Ex when) {
    TOp *o = access_op(b, TOP_LOAD, tensor, idx, nidx, when);
    Axes s = {0};
    for (int i = 0; i < nidx; i++) ex_axes(b->p, idx[i], s.v, &s.n);
    return def(b, o, name, dt, &s);
}

void ssd_tile_store(TB *b, u16 tensor, const Ex *idx, int nidx, Ex value, Ex when) {
    TOp *o = access_op(b, TOP_STORE, tensor, idx, nidx, when);
    o->e = b->p->tensors.v[tensor].dtype == SSD_I32 ? value : as_float(b->p, value);
}

Val ssd_tile_map(TB *b, const char *name, ssd_dtype dt, Ex e) {
    TOp *o = ssd_tile_op(b, TOP_MAP);
    o->e = scalar_type((u8)dt) == SSD_F32 ? as_float(b->p, e) : e;
    Axes s = {0};
    ex_axes(b->p, o->e, s.v, &s.n);
    return def(b, o, name, dt, &s);
}

Val ssd_tile_mma(TB *b, const char *name, ssd_dtype dt, Val x, Val y, Val acc, const u8 *keep,
                 int nkeep) {
    TOp *o = ssd_tile_op(b, TOP_MMA);
    o->a = x, o->b = y, o->c = acc;
    if (nkeep > (int)COUNTOF(o->keep)) SSD_BUG("mma keeps %d axes", nkeep);
    o->nkeep = (u8)nkeep;
    for (int i = 0; i < nkeep; i++) o->keep[i] = keep[i];
    Axes sx = axes_of(b->p, x), sy = axes_of(b->p, y), s = sx;
    axes_add(&s, &sy);
    for (int i = 0; i < sx.n; i++)
        if (has(&sy, sx.v[i]) && !memchr(o->keep, sx.v[i], o->nkeep)) axes_del(&s, sx.v[i]);
    return def(b, o, name, dt, &s);
}

Val ssd_tile_reduce(TB *b, const char *name, bool max, u8 axis, Ex e) {
    TOp *o = ssd_tile_op(b, TOP_REDUCE);
    o->ax[0] = axis;
    o->e = as_float(b->p, e);
    o->flags = max ? TF_MAX : 0;
    Axes s = {0};
    ex_axes(b->p, o->e, s.v, &s.n);
    axes_del(&s, axis);
    return def(b, o, name, SSD_F32, &s);
}

static TOp *unary(TB *b, TOpCode op, Val v, u8 x, u8 y, u8 z) {
    TOp *o = ssd_tile_op(b, op);
    o->a = v;
    o->ax[0] = x, o->ax[1] = y, o->ax[2] = z;
    return o;
}

Val ssd_tile_scan(TB *b, const char *name, u8 axis, Val v, u8 flags) {
    TOp *o = unary(b, TOP_SCAN, v, axis, 0, 0);
    o->flags = flags;
    Axes s = axes_of(b->p, v);
    return def(b, o, name, dtype_of(b, v), &s);
}

Val ssd_tile_at(TB *b, const char *name, Val v, u8 axis, Ex index) {
    TOp *o = unary(b, TOP_AT, v, axis, 0, 0);
    o->e = index;
    Axes s = axes_of(b->p, v);
    axes_del(&s, axis);
    return def(b, o, name, dtype_of(b, v), &s);
}

Val ssd_tile_put(TB *b, const char *name, Val v, u8 ax1, Ex i1, u8 ax2, Ex i2, Val w) {
    TOp *o = unary(b, TOP_PUT, v, ax1, ax2, 0);
    o->b = w;
    o->e = i1, o->e2 = ax2 ? i2 : 0;
    Axes s = axes_of(b->p, v);
    return def(b, o, name, dtype_of(b, v), &s);
}

Val ssd_tile_split(TB *b, const char *name, Val v, u8 x, u8 u, u8 y) {
    TOp *o = unary(b, TOP_SPLIT, v, x, u, y);
    Axes from = axes_of(b->p, v), s = {0};
    for (int i = 0; i < from.n; i++) {
        add_axis(s.v, &s.n, from.v[i] == x ? u : from.v[i]);
        if (from.v[i] == x) add_axis(s.v, &s.n, y);
    }
    return def(b, o, name, dtype_of(b, v), &s);
}

Val ssd_tile_join(TB *b, const char *name, Val v, u8 u, u8 y, u8 x) {
    TOp *o = unary(b, TOP_JOIN, v, u, y, x);
    Axes s = axes_of(b->p, v);
    axes_del(&s, y);
    axes_put(&s, u, x);
    return def(b, o, name, dtype_of(b, v), &s);
}

Val ssd_tile_rename(TB *b, const char *name, Val v, u8 from, u8 to) {
    TOp *o = unary(b, TOP_RENAME, v, from, to, 0);
    Axes s = axes_of(b->p, v);
    axes_put(&s, from, to);
    return def(b, o, name, dtype_of(b, v), &s);
}

// y has the axis too, or lacks it (one more slice), or brings the rest of `to` on an axis z of its
// own.
Val ssd_tile_cat(TB *b, const char *name, Val x, Val y, u8 axis, u8 to) {
    TOp *o = unary(b, TOP_CAT, x, axis, to, 0);
    o->b = y;
    Axes s = axes_of(b->p, x), sy = axes_of(b->p, y);
    for (int i = 0; i < sy.n; i++)
        if (!has(&s, sy.v[i])) o->ax[2] = sy.v[i];
    axes_put(&s, axis, to);
    return def(b, o, name, dtype_of(b, x), &s);
}

Val ssd_tile_slice(TB *b, const char *name, Val v, u8 axis, u8 to, i64 from) {
    TOp *o = unary(b, TOP_SLICE, v, axis, to, 0);
    o->e = ssd_ex_int(b->p, from);
    Axes s = axes_of(b->p, v);
    axes_put(&s, axis, to);
    return def(b, o, name, dtype_of(b, v), &s);
}

Val ssd_tile_swap(TB *b, const char *name, Val v, u8 axis, bool halves) {
    TOp *o = unary(b, TOP_SWAP, v, axis, 0, 0);
    o->flags = halves ? TF_HALVES : 0;
    Axes s = axes_of(b->p, v);
    return def(b, o, name, dtype_of(b, v), &s);
}

Val ssd_tile_fill(TB *b, const char *name, ssd_dtype dt, Ex e, const u8 *ax, int naxes) {
    TOp *o = ssd_tile_op(b, TOP_FILL);
    o->e = scalar_type((u8)dt) == SSD_F32 ? as_float(b->p, e) : e;
    return o->out = ssd_prog_val(b->p, name, dt, ax, naxes);
}

Val ssd_tile_inv(TB *b, const char *name, Val v, u8 i, u8 j) {
    TOp *o = unary(b, TOP_INV, v, i, j, 0);
    Axes s = axes_of(b->p, v);
    return def(b, o, name, SSD_F32, &s);
}

Val ssd_tile_pick(TB *b, const char *name, Val v, u8 axis, Ex index) {
    TOp *o = unary(b, TOP_PICK, v, axis, 0, 0);
    o->e = index;
    Axes s = axes_of(b->p, v);
    axes_del(&s, axis);
    ex_axes(b->p, index, s.v, &s.n);
    return def(b, o, name, dtype_of(b, v), &s);
}

Val ssd_tile_copy(TB *b, const char *name, Val v) {
    TOp *o = unary(b, TOP_COPY, v, 0, 0, 0);
    Axes s = axes_of(b->p, v);
    return def(b, o, name, dtype_of(b, v), &s);
}

TOp *ssd_tile_for(TB *b, const char *var, Ex lo, Ex hi, bool rev) {
    TOp *o = ssd_tile_op(b, TOP_FOR);
    o->var = ssd_prog_val(b->p, var, SSD_IDX, NULL, 0);
    o->lo = lo, o->hi = hi;
    o->flags = rev ? TF_REV : 0;
    return o;
}

Val ssd_tile_carry(TB *b, TOp *loop, const char *name, Ex init) {
    Prog *p = b->p;
    u8 n = loop->ncarry;
    if (n == 255) SSD_BUG("too many carries");
    Val *carry = NEWN(p->arena, Val, n + 1);
    Ex *inits = NEWN(p->arena, Ex, n + 1);
    if (n) memcpy(carry, loop->carry, n * sizeof *carry);
    if (n) memcpy(inits, loop->init, n * sizeof *inits);
    const Expr *x = at(p, init);
    Axes s = {0};
    ex_axes(p, init, s.v, &s.n);
    ssd_dtype dt = x->kind == EX_VAL ? (ssd_dtype)p->vals.v[x->val].dtype : (ssd_dtype)x->dtype;
    Val v = ssd_prog_val(p, name, dt, s.v, s.n);
    p->vals.v[v].carry = true;
    carry[n] = v, inits[n] = init;
    loop->carry = carry, loop->init = inits;
    loop->ncarry++;
    return v;
}

void ssd_tile_yield(TB *b, const Ex *next, int n) {
    TOp *o = ssd_tile_op(b, TOP_YIELD);
    o->ncarry = (u8)n;
    o->init = NEWN(b->p->arena, Ex, n + 1);
    for (int i = 0; i < n; i++) o->init[i] = next[i];
}

TOp *ssd_tile_if(TB *b, Ex cond) {
    TOp *o = ssd_tile_op(b, TOP_IF);
    o->e = cond;
    return o;
}
