// SPDX-License-Identifier: Apache-2.0
// Scalar expressions as C, and where tiles and tensors have their elements.
//
//   M = map {where(i >= j, S*exp2(ci - cj), 0)}
//       b2[i*68 + j] = i >= j ? b2[i*68 + j]*ex2(b6[i] - b6[j]) : 0.0f;
//   x_ = load x[b, c*64+j, h, p]
//       x.get<2>(b, c*64 + j, h, p): only the time may be out of range
#include "cuda_emit.h"

#include <math.h>
#include <stdio.h>

static const Expr *at(const Cuda *c, Ex e) { return &c->p->exs.v[e]; }
static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }
i64 ssd_cuda_size(const Cuda *c, u8 axis) { return c->p->axes.v[axis].size; }

// --- Kinds --------------------------------------------------------------------------------------
Kind ssd_cuda_dtype_kind(u8 dtype) {
    if (dtype == SSD_BOOL) return KIND_BOOL;
    return dtype == SSD_IDX || dtype == SSD_I32 ? KIND_INT : KIND_FLOAT;
}
const char *ssd_cuda_ctype(Kind k) {
    return k == KIND_FLOAT ? "float" : k == KIND_INT ? "int" : "bool";
}

Kind ssd_cuda_kind(const Cuda *c, Ex e) {
    const Expr *x = at(c, e);
    switch ((ExKind)x->kind) {
    case EX_VAL: return ssd_cuda_dtype_kind(val(c, x->val)->dtype);
    case EX_AXIS:
    case EX_SYM: return KIND_INT;
    case EX_LOAD: return ssd_cuda_dtype_kind(c->p->tensors.v[x->tensor].dtype);
    case EX_NUM:
    case EX_FN: return ssd_cuda_dtype_kind(x->dtype);
    }
    SSD_BUG("no such expression");
}

// --- Functions ----------------------------------------------------------------------------------
enum { P_WHERE = 1, P_OR, P_AND, P_EQ, P_CMP, P_SUM, P_MUL, P_UNARY, P_ATOM };
static const struct {
    u8 prec;
    const char *text;
} infix[FN__COUNT] = {
    [FN_OR] = {P_OR, " || "},  [FN_AND] = {P_AND, " && "}, [FN_EQ] = {P_EQ, " == "},
    [FN_NE] = {P_EQ, " != "},  [FN_LT] = {P_CMP, " < "},   [FN_LE] = {P_CMP, " <= "},
    [FN_GT] = {P_CMP, " > "},  [FN_GE] = {P_CMP, " >= "},  [FN_ADD] = {P_SUM, " + "},
    [FN_SUB] = {P_SUM, " - "}, [FN_MUL] = {P_MUL, "*"},
};
static const char *const calls[FN__COUNT] = {
    [FN_DIV] = "divide",
    [FN_FDIV] = "floor_div",
    [FN_CDIV] = "ceil_div",
    [FN_MOD] = "modulo",
    [FN_MIN] = "minimum",
    [FN_MAX] = "maximum",
    [FN_CLAMP] = "clamp",
    [FN_ABS] = "fabsf",
    [FN_POW] = "powf",
    [FN_EXP] = "exponential",
    [FN_EXP2] = "ex2",
    [FN_EXPM1] = "expm1f",
    [FN_LOG] = "logf",
    [FN_LOG2] = "log2f",
    [FN_LOG1P] = "log1pf",
    [FN_SQRT] = "sqrtf",
    [FN_RSQRT] = "rsqrtf",
    [FN_SIGMOID] = "sigmoid",
    [FN_LOGSIGMOID] = "logsigmoid",
    [FN_SOFTPLUS] = "softplus",
    [FN_TANH] = "tanhf",
    [FN_SILU] = "silu",
    [FN_RELU] = "relu",
    [FN_ELU] = "elu",
    [FN_GELU] = "gelu",
    [FN_SIN] = "sine",
    [FN_COS] = "cosine",
};

static const char *text(Cuda *c, Ex e, int prec);
static bool bounds(const Cuda *c, Ex e, double *lo, double *hi);

static const char *number(Cuda *c, const Expr *x, Kind k) {
    char s[48];
    if (k == KIND_BOOL) return x->num != 0 ? "true" : "false";
    if (k == KIND_INT) return ssd_arena_printf(c->a, "%lld", (long long)x->num);
    float f = (float)x->num;
    if (isnan(f)) return "__int_as_float(0x7fc00000)";
    if (isinf(f)) return f > 0 ? "INF" : "(-INF)";
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, (double)f);
        float back = 0;
        if (sscanf(s, "%f", &back) == 1 && back == f) break;
    }
    for (char *p = s; *p; p++)
        if (!strchr("0123456789+-e", *p)) *p = '.';
    return ssd_arena_printf(c->a, strpbrk(s, ".e") ? "%sf" : "%s.0f", s);
}

static const char *parens(Cuda *c, const char *s, bool yes) {
    return yes ? ssd_arena_printf(c->a, "(%s)", s) : s;
}

// An operand in the kind its function works in.
static const char *operand(Cuda *c, Ex e, Kind want, int prec) {
    Kind have = ssd_cuda_kind(c, e);
    if (have == want || want == KIND_BOOL) return text(c, e, prec);
    if (at(c, e)->kind == EX_NUM) return number(c, at(c, e), want);
    if (want == KIND_FLOAT) return ssd_arena_printf(c->a, "(float)%s", text(c, e, P_UNARY));
    return ssd_arena_printf(c->a, "(int)%s", text(c, e, P_UNARY));
}

// x//n or x%n of an index that is never negative; NULL where that is not sure.
static const char *quotient(Cuda *c, const Expr *x, int prec) {
    double lo, hi, n = at(c, x->arg[1])->num;
    if (at(c, x->arg[1])->kind != EX_NUM || n < 1 || !bounds(c, x->arg[0], &lo, &hi) || lo < 0)
        return NULL;
    if (hi < n) return x->fn == FN_MOD ? text(c, x->arg[0], prec) : "0";
    const char *s = ssd_arena_printf(c->a, "%s%s%lld", text(c, x->arg[0], P_MUL),
                                     x->fn == FN_MOD ? " % " : "/", (long long)n);
    return parens(c, s, prec > P_MUL);
}

static const char *function(Cuda *c, const Expr *x, int prec) {
    Kind k = ssd_cuda_dtype_kind(x->dtype);
    FnCode f = (FnCode)x->fn;
    const char *whole =
        (f == FN_FDIV || f == FN_MOD) && k == KIND_INT ? quotient(c, x, prec) : NULL;
    if (whole) return whole;
    if (f == FN_WHERE && k == KIND_FLOAT && c->select)
        return ssd_arena_printf(c->a, "select(%s, %s, %s)", text(c, x->arg[0], P_WHERE),
                                operand(c, x->arg[1], k, P_WHERE),
                                operand(c, x->arg[2], k, P_WHERE));
    if (f == FN_WHERE) {
        const char *s =
            ssd_arena_printf(c->a, "%s ? %s : %s", text(c, x->arg[0], P_OR),
                             operand(c, x->arg[1], k, P_WHERE), operand(c, x->arg[2], k, P_WHERE));
        return parens(c, s, prec > P_WHERE);
    }
    if (k == KIND_BOOL && f != FN_AND && f != FN_OR && f != FN_NOT) { // comparisons of numbers
        bool real =
            ssd_cuda_kind(c, x->arg[0]) == KIND_FLOAT || ssd_cuda_kind(c, x->arg[1]) == KIND_FLOAT;
        k = real ? KIND_FLOAT : KIND_INT;
    }
    if (infix[f].prec) {
        int own = infix[f].prec;
        bool mixed = own == P_EQ || own == P_CMP;
        const char *s = ssd_arena_printf(c->a, "%s%s%s", operand(c, x->arg[0], k, own + mixed),
                                         infix[f].text, operand(c, x->arg[1], k, own + 1));
        return parens(c, s, own < prec);
    }
    if (f == FN_NEG)
        return parens(c, ssd_arena_printf(c->a, "-%s", operand(c, x->arg[0], k, P_ATOM)),
                      prec > P_UNARY);
    if (f == FN_NOT) return ssd_arena_printf(c->a, "!%s", text(c, x->arg[0], P_ATOM));
    const char *name = f == FN_ABS && k == KIND_INT ? "abs" : calls[f];
    if (!name) SSD_BUG("no CUDA for %s", ssd_fns[f].name);
    const char *s = ssd_arena_printf(c->a, "%s(%s", name, operand(c, x->arg[0], k, 0));
    for (int i = 1; i < ssd_fns[f].arity; i++)
        s = ssd_arena_printf(c->a, "%s, %s", s, operand(c, x->arg[i], k, 0));
    return ssd_arena_printf(c->a, "%s)", s);
}

// --- Tensors ------------------------------------------------------------------------------------
// n of a - a//n*n, what is left of a; 0: it is something else.
static double remainder_of(const Cuda *c, const Expr *x, Ex *out_a) {
    if (x->kind != EX_FN || x->fn != FN_SUB) return 0;
    const Expr *m = at(c, x->arg[1]);
    if (m->kind != EX_FN || m->fn != FN_MUL) return 0;
    const Expr *q = at(c, m->arg[0]), *n = at(c, m->arg[1]);
    if (q->kind != EX_FN || q->fn != FN_FDIV || q->arg[0] != x->arg[0] || q->arg[1] != m->arg[1])
        return 0;
    *out_a = x->arg[0];
    return n->kind == EX_NUM ? n->num : 0;
}

// Is 0 <= index < dim sure? A grid variable stays below its size, and the axes of tiles below
// theirs.
static bool bounds(const Cuda *c, Ex e, double *lo, double *hi) {
    const Expr *x = at(c, e);
    double l0, h0, l1, h1;
    Ex whole;
    double n = remainder_of(c, x, &whole);
    if (n > 0) return *lo = 0, *hi = n - 1, true; // rounded down, the quotient leaves no less
    if (x->kind == EX_NUM) return *lo = *hi = x->num, true;
    if (x->kind == EX_AXIS) return *lo = 0, *hi = (double)ssd_cuda_size(c, (u8)x->axis) - 1, true;
    if (x->kind == EX_VAL)
        for (int i = 0; i < c->k->ngrid; i++) {
            const Expr *size = at(c, c->k->grid[i].size);
            if (c->k->grid[i].var == x->val && size->kind == EX_NUM)
                return *lo = 0, *hi = size->num - 1, true;
        }
    if (x->kind == EX_VAL && c->most[x->val] >= 0)
        return *lo = 0, *hi = (double)c->most[x->val], true;
    if (x->kind != EX_FN || ssd_fns[x->fn].arity != 2 || !bounds(c, x->arg[0], &l0, &h0) ||
        !bounds(c, x->arg[1], &l1, &h1))
        return false;
    switch ((FnCode)x->fn) {
    case FN_ADD: return *lo = l0 + l1, *hi = h0 + h1, true;
    case FN_SUB: return *lo = l0 - h1, *hi = h0 - l1, true;
    case FN_MUL: return *lo = l0 * l1, *hi = h0 * h1, l0 >= 0 && l1 >= 0;
    case FN_FDIV: return *lo = floor(l0 / h1), *hi = floor(h0 / l1), l0 >= 0 && l1 > 0;
    default: return false;
    }
}

static bool proven(const Cuda *c, Ex index, Ex dim) {
    const Expr *x = at(c, index), *d = at(c, dim);
    if (x->kind == EX_VAL)
        for (int i = 0; i < c->k->ngrid; i++)
            if (c->k->grid[i].var == x->val && c->k->grid[i].size == dim) return true;
    double lo, hi;
    return d->kind == EX_NUM && bounds(c, index, &lo, &hi) && lo >= 0 && hi < d->num;
}

// `x.get<2>(b, c*64 + j, h, p)`, or put with a value first; bit d of `check`: index d may be out of
// range.
static const char *call(Cuda *c, u16 tensor, const Ex *idx, int n, const char *verb,
                        const char *value, int check) {
    const char *s = ssd_arena_printf(c->a, "%s.%s", c->tensor[tensor], verb);
    if (check) s = ssd_arena_printf(c->a, "%s<%d>", s, check);
    s = ssd_arena_printf(c->a, "%s(%s", s, value ? value : "");
    for (int d = 0; d < n; d++)
        s = ssd_arena_printf(c->a, "%s%s%s", s, d || value ? ", " : "",
                             operand(c, idx[d], KIND_INT, 0));
    return ssd_arena_printf(c->a, "%s)", s);
}

static const char *element(Cuda *c, u16 tensor, const Ex *idx, int n, const char *verb,
                           const char *value) {
    const TTensor *t = &c->p->tensors.v[tensor];
    int check = 0;
    for (int d = 0; d < n; d++) check |= !proven(c, idx[d], t->dim[d]) << d;
    return call(c, tensor, idx, n, verb, value, check);
}

const char *ssd_cuda_access(Cuda *c, const TOp *o, const char *value) {
    const char *s = element(c, o->tensor, o->idx, o->nidx, value ? "put" : "get", value);
    if (!o->when) return s;
    return ssd_arena_printf(c->a, value ? "if (%s) %s" : "%s ? %s : 0",
                            text(c, o->when, value ? 0 : P_OR), s);
}

const char *ssd_cuda_access4(Cuda *c, const TOp *o, const char *array) {
    const char *when = o->when ? text(c, o->when, 0) : "true";
    return element(c, o->tensor, o->idx, o->nidx, o->op == TOP_STORE ? "put4" : "get4",
                   ssd_arena_printf(c->a, "%s, %s", when, array));
}

// Does every `width`th point of the axis begin at a multiple of `width`?
static bool in_step(const Cuda *c, Ex e, u8 axis, int width) {
    const Expr *x = at(c, e);
    if (x->kind == EX_AXIS) return x->axis == axis;
    if (x->kind == EX_NUM) return (i64)x->num % width == 0;
    return x->kind == EX_FN && x->fn == FN_ADD && in_step(c, x->arg[0], axis, width) &&
           in_step(c, x->arg[1], axis, width);
}

const char *ssd_cuda_row(Cuda *c, const TOp *o, u8 axis, int width, const char *when,
                         const char *array) {
    u8 ax[8];
    const TTensor *t = &c->p->tensors.v[o->tensor];
    if (width == 1 || ssd_nest_contiguous(c->p, o) != axis || t->dtype == SSD_I32) return NULL;
    if (o->op == TOP_LOAD && ssd_cuda_dtype_kind(val(c, o->out)->dtype) != KIND_FLOAT) return NULL;
    if (o->when && memchr(ax, axis, (size_t)ssd_ex_axes(c->p, o->when, ax))) return NULL;
    Ex last = o->idx[o->nidx - 1];
    if (!in_step(c, last, axis, width) || !proven(c, last, t->dim[o->nidx - 1])) return NULL;
    const char *own = o->when ? text(c, o->when, when ? P_AND : 0) : NULL;
    when = !own ? when : !when ? own : ssd_arena_printf(c->a, "%s && %s", when, own);
    return element(c, o->tensor, o->idx, o->nidx, o->op == TOP_STORE ? "put_row" : "get_row",
                   ssd_arena_printf(c->a, "%s, %s", when ? when : "true", array));
}

// --- Tiles --------------------------------------------------------------------------------------
const char *ssd_cuda_pointer(Cuda *c, Val v) {
    if (!c->base[v]) SSD_BUG("`%s` has no memory", val(c, v)->name);
    if (!c->offset[v]) return c->base[v];
    return ssd_arena_printf(c->a, "%s + %lld", c->base[v], (long long)c->offset[v]);
}

const char *ssd_cuda_at(Cuda *c, Val v, u8 from, const char *instead) {
    const Lay *l = &val(c, v)->lay;
    const char *s = "";
    for (int i = 0; i < l->naxes; i++) {
        u8 x = l->ax[i];
        if (from && x == from ? !strcmp(instead, "0") : ssd_cuda_size(c, x) == 1) continue;
        const char *index = from && x == from ? instead : c->axis[x];
        s = ssd_arena_printf(c->a, "%s%s%s", s, *s ? " + " : "", index);
        if (l->stride[i] != 1) s = ssd_arena_printf(c->a, "%s*%lld", s, (long long)l->stride[i]);
    }
    if (!c->base[v]) SSD_BUG("`%s` has no memory", val(c, v)->name);
    if (c->offset[v] || !*s)
        s = ssd_arena_printf(c->a, "%s%s%lld", s, *s ? " + " : "", (long long)c->offset[v]);
    return ssd_arena_printf(c->a, "%s[%s]", c->base[v], s);
}

static const TOp *loop_of(const TBlock *b, Val v) {
    for (const TOp *o = b->first; o; o = o->next) {
        if ((o->op == TOP_FOR || o->op == TOP_EACH) && o->var == v) return o;
        const TOp *in = loop_of(&o->body, v);
        if (in) return in;
    }
    return NULL;
}

bool ssd_cuda_natural(const Cuda *c, Ex e) {
    const Expr *x = at(c, e);
    double lo, hi;
    if (bounds(c, e, &lo, &hi)) return lo >= 0;
    switch ((ExKind)x->kind) {
    case EX_SYM: return true;
    case EX_VAL: {
        for (int i = 0; i < c->k->ngrid; i++)
            if (c->k->grid[i].var == x->val) return true;
        const TOp *o = loop_of(&c->k->body, x->val), *m = o ? NULL : ssd_cuda_definition(c, x->val);
        if (m && m->op == TOP_MAP) return ssd_cuda_natural(c, m->e);
        return o && ssd_cuda_natural(c, o->lo);
    }
    case EX_FN:
        if (x->fn == FN_MAX)
            return ssd_cuda_natural(c, x->arg[0]) || ssd_cuda_natural(c, x->arg[1]);
        return (x->fn == FN_ADD || x->fn == FN_MUL || x->fn == FN_FDIV || x->fn == FN_CDIV ||
                x->fn == FN_MIN) &&
               ssd_cuda_natural(c, x->arg[0]) && ssd_cuda_natural(c, x->arg[1]);
    default: return false;
    }
}

bool ssd_cuda_in_range(const Cuda *c, const TOp *o, int d) {
    return proven(c, o->idx[d], c->p->tensors.v[o->tensor].dim[d]);
}
const char *ssd_cuda_present(Cuda *c, const TOp *o, u8 x, u8 y, const char *when) {
    for (int d = 0; d < o->nidx; d++) {
        const Ex e = o->idx[d];
        bool along = ssd_cuda_ex_has(c, e, x) || ssd_cuda_ex_has(c, e, y);
        if (along || ssd_cuda_in_range(c, o, d)) continue;
        when = ssd_arena_printf(c->a, "%s%s(u32)(%s) < (u64)%s.dim[%d]", when, *when ? " && " : "",
                                ssd_cuda_ex(c, e), c->tensor[o->tensor], d);
    }
    return when;
}
bool ssd_cuda_inside(const Cuda *c, const TOp *o, u8 x, u8 y) {
    for (int d = 0; d < o->nidx; d++) {
        bool asked = !x || ssd_cuda_ex_has(c, o->idx[d], x) || ssd_cuda_ex_has(c, o->idx[d], y);
        if (asked && !ssd_cuda_in_range(c, o, d)) return false;
    }
    return true;
}

const char *ssd_cuda_element(Cuda *c, const TOp *o, const char *method, const char *value) {
    return element(c, o->tensor, o->idx, o->nidx, method, value);
}
const char *ssd_cuda_place(Cuda *c, const TOp *o) {
    return call(c, o->tensor, o->idx, o->nidx, "place", NULL, 0);
}

const char *ssd_cuda_spot(Cuda *c, const TOp *o, const char *method) {
    const char *at = ssd_cuda_element(c, o, method, NULL);
    if (!o->when) return at;
    return ssd_arena_printf(c->a, "%s ? %s : nullptr", ssd_cuda_factor(c, o->when), at);
}

// Tiles hold f32 whatever they mean: truth as 0 and 1, indices as whole numbers.
static const char *read(Cuda *c, Val v, int prec) {
    const TVal *t = val(c, v);
    if (c->elem[v]) return c->elem[v];
    if (!t->naxes || (c->local[v] && c->local[v] == c->nest)) return c->name[v];
    const char *s = ssd_cuda_at(c, v, 0, NULL);
    Kind k = ssd_cuda_dtype_kind(t->dtype);
    if (k == KIND_INT) return ssd_arena_printf(c->a, "(int)%s", s);
    if (k == KIND_BOOL) return parens(c, ssd_arena_printf(c->a, "%s != 0", s), prec > P_EQ);
    return s;
}

static const char *text(Cuda *c, Ex e, int prec) {
    const Expr *x = at(c, e);
    switch ((ExKind)x->kind) {
    case EX_NUM: return parens(c, number(c, x, ssd_cuda_kind(c, e)), x->num < 0 && prec > P_SUM);
    case EX_VAL: return read(c, x->val, prec);
    case EX_AXIS: return ssd_cuda_size(c, (u8)x->axis) == 1 ? "0" : c->axis[x->axis];
    case EX_SYM: return c->sym[x->sym];
    case EX_LOAD: return element(c, x->tensor, x->idx, x->nidx, "get", NULL);
    case EX_FN: return function(c, x, prec);
    }
    SSD_BUG("no such expression");
}

const char *ssd_cuda_ex(Cuda *c, Ex e) { return text(c, e, 0); }
const char *ssd_cuda_factor(Cuda *c, Ex e) { return text(c, e, P_MUL + 1); }
const char *ssd_cuda_float(Cuda *c, Ex e) { return operand(c, e, KIND_FLOAT, 0); }

const char *ssd_cuda_round(Cuda *c, const char *v, u8 dtype) {
    if (dtype == SSD_BF16) return ssd_arena_printf(c->a, "round_bf16(%s)", v);
    if (dtype == SSD_F16) return ssd_arena_printf(c->a, "round_f16(%s)", v);
    return v;
}
