// SPDX-License-Identifier: Apache-2.0
// Names to symbols, types of expressions, axes of operators and outputs.
//
// A type is a set of axes, number or condition, whether the value may be `none`, and an interval
// that all values lie in. The interval serves one check: a log_decay that can never be negative is
// a missing minus.
#include "spec_impl.h"

#include <math.h>

typedef struct Check {
    Arena *arena;
    Diag *diag;
    Spec *spec;
    u32 owner; // symbol whose expression is resolved, or NOBODY
} Check;
#define NOBODY UINT32_MAX

#define ERROR_AT(c, at, ...) ssd_diag_add((c)->diag, DIAG_ERROR, (at), __VA_ARGS__)
#define LATER "comes with a later version of ssdc"

// clang-format off
const Func ssd_funcs[] = {
    {"abs",        CALL_FN, FN_ABS,        1, 1, "abs(e)"},
    {"exp",        CALL_FN, FN_EXP,        1, 1, "exp(e)"},
    {"exp2",       CALL_FN, FN_EXP2,       1, 1, "exp2(e)"},
    {"expm1",      CALL_FN, FN_EXPM1,      1, 1, "expm1(e)"},
    {"log",        CALL_FN, FN_LOG,        1, 1, "log(e)"},
    {"log2",       CALL_FN, FN_LOG2,       1, 1, "log2(e)"},
    {"log1p",      CALL_FN, FN_LOG1P,      1, 1, "log1p(e)"},
    {"sqrt",       CALL_FN, FN_SQRT,       1, 1, "sqrt(e)"},
    {"rsqrt",      CALL_FN, FN_RSQRT,      1, 1, "rsqrt(e)"},
    {"sigmoid",    CALL_FN, FN_SIGMOID,    1, 1, "sigmoid(e)"},
    {"logsigmoid", CALL_FN, FN_LOGSIGMOID, 1, 1, "logsigmoid(e)"},
    {"softplus",   CALL_FN, FN_SOFTPLUS,   1, 1, "softplus(e)"},
    {"tanh",       CALL_FN, FN_TANH,       1, 1, "tanh(e)"},
    {"silu",       CALL_FN, FN_SILU,       1, 1, "silu(e)"},
    {"relu",       CALL_FN, FN_RELU,       1, 1, "relu(e)"},
    {"elu",        CALL_FN, FN_ELU,        1, 1, "elu(e)"},
    {"gelu",       CALL_FN, FN_GELU,       1, 1, "gelu(e)"},
    {"sin",        CALL_FN, FN_SIN,        1, 1, "sin(e)"},
    {"cos",        CALL_FN, FN_COS,        1, 1, "cos(e)"},
    {"min",        CALL_FN, FN_MIN,        2, 2, "min(a, b)"},
    {"max",        CALL_FN, FN_MAX,        2, 2, "max(a, b) or max(e, axis)"},
    {"clamp",      CALL_FN, FN_CLAMP,      3, 3, "clamp(e, low, high)"},
    {"where",      CALL_FN, FN_WHERE,      3, 3, "where(condition, a, b)"},
    {"sum",        CALL_SUM,     0, 2, 8, "sum(e, axis)"},
    {"mean",       CALL_MEAN,    0, 2, 8, "mean(e, axis)"},
    {"l2norm",     CALL_L2NORM,  0, 2, 8, "l2norm(e, axis)"},
    {"rmsnorm",    CALL_RMSNORM, 0, 2, 8, "rmsnorm(e, axis)"},
    {"softmax",    CALL_SOFTMAX, 0, 2, 8, "softmax(e, axis)"},
    {"shift",      CALL_SHIFT,   0, 2, 2, "shift(e, distance)"},
    {"cumsum",     CALL_CUMSUM,  0, 1, 1, "cumsum(e)"},
    {"rotary",     CALL_ROTARY,  0, 3, 4, "rotary(e, angle, adjacent | halves)"},
    {"index",      CALL_INDEX,   0, 1, 1, "index(axis)"},
    {"size",       CALL_SIZE,    0, 1, 1, "size(axis)"},
    {"taylor2",    CALL_LATER,   0, 1, 1, "taylor2(e)"},
    {"max",        CALL_MAX,     0, 2, 8, "max(e, axis)"},  // found when the second argument is an axis
};
// clang-format on
const int ssd_func_count = COUNTOF(ssd_funcs);

static int find_func(const char *name) {
    for (int i = 0; i < ssd_func_count; i++)
        if (!strcmp(ssd_funcs[i].name, name)) return i;
    return -1;
}

// How many of a call's arguments are expressions; the others are names of axes, keywords and
// numbers.
static int values(const Func *f, int nargs) {
    switch (f->kind) {
    case CALL_FN:
    case CALL_LATER: return nargs;
    case CALL_ROTARY: return 2;
    case CALL_INDEX:
    case CALL_SIZE: return 0;
    case CALL_SUM:
    case CALL_MEAN:
    case CALL_MAX:
    case CALL_L2NORM:
    case CALL_RMSNORM:
    case CALL_SOFTMAX:
    case CALL_SHIFT:
    case CALL_CUMSUM: return 1;
    }
    SSD_BUG("call kind %d", (int)f->kind);
}

// --- Names --------------------------------------------------------------------------------------

static const char *meant_name(Check *c, const char *name) {
    u32 n = c->spec->symbols.n;
    const char **names = NEWN(c->arena, const char *, n + 1);
    for (u32 i = 0; i < n; i++) names[i] = c->spec->symbols.v[i].name;
    return ssd_spec_meant(c->arena, name, names, (int)n);
}

static void unknown_name(Check *c, const Expr *e) {
    const Spec *s = c->spec;
    int f = find_func(e->name);
    if (f >= 0) {
        ERROR_AT(c, e->at, "'%s' is a function: %s", e->name, ssd_funcs[f].usage);
    } else if (!strcmp(e->name, "ssd") && s->ops.n) {
        ERROR_AT(c, e->at, "'ssd' names a single operator; here each has its own name, as in '%s'",
                 s->ops.v[0].name);
    } else if (ssd_spec_axis(s, e->name) >= 0) {
        ERROR_AT(c, e->at, "'%s' is an axis: index(%s) counts along it, size(%s) is its size",
                 e->name, e->name, e->name);
    } else {
        ERROR_AT(c, e->at, "unknown name '%s'%s", e->name, meant_name(c, e->name));
    }
}

static void resolve(Check *c, Expr *e);

static void resolve_name(Check *c, Expr *e) {
    Spec *s = c->spec;
    e->symbol = ssd_spec_symbol(s, e->name);
    if (e->symbol < 0) {
        unknown_name(c, e);
        return;
    }
    Symbol *sym = &s->symbols.v[e->symbol];
    sym->used = true;
    if (sym->kind == SYM_INPUT || c->owner == NOBODY) return;
    Symbol *owner = &s->symbols.v[c->owner];
    for (u32 i = 0; i < owner->deps.n; i++)
        if (owner->deps.v[i] == (u32)e->symbol) return;
    vec_push(c->arena, &owner->deps, (u32)e->symbol);
}

// max(e, n) is along n, max(a, b) is the larger of two: what the second argument names decides.
static bool is_axis_max(Check *c, const Expr *e) {
    if (strcmp(e->name, "max") || e->nargs < 2 || e->args[1]->kind != E_NAME) return false;
    const char *name = e->args[1]->name;
    bool axis = ssd_spec_axis(c->spec, name) >= 0, symbol = ssd_spec_symbol(c->spec, name) >= 0;
    if (axis && symbol)
        ERROR_AT(c, e->args[1]->at,
                 "'%s' names both an axis and a value: max() cannot tell which is meant", name);
    return axis;
}

static void resolve_call(Check *c, Expr *e) {
    e->func = is_axis_max(c, e) ? ssd_func_count - 1 : find_func(e->name);
    if (e->func < 0) {
        const char *names[COUNTOF(ssd_funcs)];
        for (int i = 0; i < ssd_func_count; i++) names[i] = ssd_funcs[i].name;
        bool value = ssd_spec_symbol(c->spec, e->name) >= 0;
        ERROR_AT(
            c, e->at, "unknown function '%s'%s", e->name,
            value
                ? ": it names a value, which takes no arguments; is an operator missing before '('?"
                : ssd_spec_meant(c->arena, e->name, names, ssd_func_count));
        for (int i = 0; i < e->nargs; i++) resolve(c, e->args[i]);
        return;
    }
    const Func *f = &ssd_funcs[e->func];
    if (f->kind == CALL_LATER) {
        ERROR_AT(c, e->at, "%s " LATER, f->usage);
        e->func = -1;
        return;
    }
    if (e->nargs < f->least || e->nargs > f->most) {
        ERROR_AT(c, e->at, "'%s' with %d argument%s; it is used as %s", e->name, e->nargs,
                 e->nargs == 1 ? "" : "s", f->usage);
        e->func = -1;
        return;
    }
    for (int i = 0; i < values(f, e->nargs); i++) resolve(c, e->args[i]);
}

static void resolve(Check *c, Expr *e) {
    if (e->kind == E_NAME) resolve_name(c, e);
    if (e->kind == E_CALL) resolve_call(c, e);
    if (e->kind == E_FN)
        for (int i = 0; i < e->nargs; i++) resolve(c, e->args[i]);
}

static void resolve_all(Check *c) {
    Spec *s = c->spec;
    for (u32 i = 0; i < s->symbols.n; i++) {
        Symbol *sym = &s->symbols.v[i];
        c->owner = i;
        if (sym->kind == SYM_LET && sym->expr) resolve(c, sym->expr);
        if (sym->kind == SYM_OPERATOR)
            for (int k = 0; k < OPERANDS; k++)
                if (s->ops.v[sym->index].arg[k]) resolve(c, s->ops.v[sym->index].arg[k]);
    }
    c->owner = NOBODY;
    for (u32 i = 0; i < s->outputs.n; i++) resolve(c, s->outputs.v[i].expr);
}

// --- Order --------------------------------------------------------------------------------------

// Names on the way from `from` back to itself, through symbols that are open in the search.
static const char *cycle_text(Check *c, const u32 *path, u32 n, u32 from) {
    Text t = {0};
    u32 i = 0;
    while (i < n && path[i] != from) i++;
    for (u32 shown = 0; i < n && shown < 12; i++, shown++)
        ssd_text_printf(&t, "%s -> ", c->spec->symbols.v[path[i]].name);
    ssd_text_printf(&t, "%s%s", i < n ? "... -> " : "", c->spec->symbols.v[from].name);
    const char *out = ssd_arena_dup(c->arena, t.s, t.n);
    ssd_text_free(&t);
    return out;
}

// Depth first; `path` holds the open symbols. At most MAX_LETS + MAX_OPERATORS deep.
static void visit(Check *c, u32 i, u32 *path, u32 depth) {
    Spec *s = c->spec;
    Symbol *sym = &s->symbols.v[i];
    sym->visit = 1;
    path[depth] = i;
    for (u32 k = 0; k < sym->deps.n; k++) {
        Symbol *dep = &s->symbols.v[sym->deps.v[k]];
        if (dep->visit == 0)
            visit(c, sym->deps.v[k], path, depth + 1);
        else if (dep->visit == 1)
            ERROR_AT(c, dep->at, "'%s' depends on itself: %s", dep->name,
                     cycle_text(c, path, depth + 1, sym->deps.v[k]));
    }
    sym->visit = 2;
    vec_push(c->arena, &s->order, i);
}

// --- Intervals ----------------------------------------------------------------------------------

static const double inf = (double)INFINITY;

static void bounds(Type *t, double lo, double hi) {
    t->lo = isnan(lo) ? -inf : lo;
    t->hi = isnan(hi) ? inf : hi;
}

static bool rising(FnCode f) {
    return f == FN_EXP || f == FN_EXP2 || f == FN_EXPM1 || f == FN_LOG || f == FN_LOG2 ||
           f == FN_LOG1P || f == FN_SQRT || f == FN_SIGMOID || f == FN_LOGSIGMOID ||
           f == FN_SOFTPLUS || f == FN_TANH || f == FN_RELU || f == FN_ELU;
}

static void bounds_mul(Type *t, const Type *x, const Type *y) {
    double p[4] = {x->lo * y->lo, x->lo * y->hi, x->hi * y->lo, x->hi * y->hi};
    double lo = inf, hi = -inf;
    for (int i = 0; i < 4; i++) {
        double v = isnan(p[i]) ? 0 : p[i]; // 0 times an unbounded end
        lo = fmin(lo, v), hi = fmax(hi, v);
    }
    bounds(t, lo, hi);
}

// The interval of f(a..), given those of its operands; (-inf, inf) where nothing is known.
static void bounds_fn(Type *t, FnCode f, const Expr *e) {
    const Type *x = &e->args[0]->type, *y = e->nargs > 1 ? &e->args[1]->type : NULL;
    const Type *z = e->nargs > 2 ? &e->args[2]->type : NULL;
    bounds(t, -inf, inf);
    if (rising(f)) {
        bounds(t, ssd_fn_eval(f, x->lo, 0, 0), ssd_fn_eval(f, x->hi, 0, 0));
    } else if (f == FN_NEG) {
        bounds(t, -x->hi, -x->lo);
    } else if (f == FN_ADD) {
        bounds(t, x->lo + y->lo, x->hi + y->hi);
    } else if (f == FN_SUB) {
        bounds(t, x->lo - y->hi, x->hi - y->lo);
    } else if (f == FN_MUL) {
        bounds_mul(t, x, y);
    } else if (f == FN_DIV && (y->lo > 0 || y->hi < 0)) {
        Type r = {.lo = 1 / y->hi, .hi = 1 / y->lo};
        bounds_mul(t, x, &r);
    } else if (f == FN_FDIV && y->lo > 0) {
        Type r = {.lo = 1 / y->hi, .hi = 1 / y->lo};
        bounds_mul(t, x, &r);
        bounds(t, floor(t->lo), floor(t->hi));
    } else if (f == FN_MOD && y->lo > 0) {
        bounds(t, 0, y->hi);
    } else if (f == FN_POW && x->lo == x->hi && x->lo > 0) {
        double a = pow(x->lo, y->lo), b = pow(x->lo, y->hi);
        bounds(t, fmin(a, b), fmax(a, b));
    } else if (f == FN_POW && y->lo == y->hi && fmod(y->lo, 2) == 0) {
        bounds(t, 0, inf);
    } else if (f == FN_MIN) {
        bounds(t, fmin(x->lo, y->lo), fmin(x->hi, y->hi));
    } else if (f == FN_MAX) {
        bounds(t, fmax(x->lo, y->lo), fmax(x->hi, y->hi));
    } else if (f == FN_CLAMP) {
        bounds(t, fmax(x->lo, y->lo), fmin(fmax(x->hi, y->hi), z->hi));
    } else if (f == FN_WHERE) {
        bounds(t, fmin(y->lo, z->lo), fmax(y->hi, z->hi));
    } else if (f == FN_ABS || f == FN_RSQRT) {
        bounds(t, 0, inf);
    } else if (f == FN_SIN || f == FN_COS) {
        bounds(t, -1, 1);
    }
}

// --- Types --------------------------------------------------------------------------------------

static const Type bad = {.bad = true};

static void type_of(Check *c, Expr *e);

static bool too_many_axes(Check *c, Place at, u32 axes) {
    int n = __builtin_popcount(axes);
    if (n > 8)
        ERROR_AT(c, at, "an expression over %d axes (%s): at most 8", n,
                 ssd_spec_axes_text(c->spec, axes));
    return n > 8;
}

// The first input with default `none` in an expression that is none without it.
static const char *none_name(const Spec *s, const Expr *e) {
    if (e->kind == E_NAME && e->symbol >= 0) {
        const Symbol *sym = &s->symbols.v[e->symbol];
        return sym->type.none ? sym->name : NULL;
    }
    for (int i = 0; i < e->nargs; i++) {
        const char *n = e->args[i]->type.none ? none_name(s, e->args[i]) : NULL;
        if (n) return n;
    }
    return NULL;
}

static bool reject_none(Check *c, const Expr *arg, const char *what) {
    if (!arg->type.none) return false;
    ERROR_AT(c, arg->at, "%s has no meaning when '%s' is absent: give it a number as its default",
             what, none_name(c->spec, arg));
    return true;
}

// A scalar function or an operator sign over typed arguments.
static void type_fn(Check *c, Expr *e, FnCode f, const char *what) {
    Type t = {0};
    char kind = ssd_fns[f].kind;
    bool logic = f == FN_AND || f == FN_OR || f == FN_NOT,
         neutral = f == FN_ADD || f == FN_SUB || f == FN_MUL || f == FN_DIV;
    bool all_none = true;
    for (int i = 0; i < e->nargs; i++) {
        const Expr *x = e->args[i];
        if (x->type.bad) {
            e->type = bad;
            return;
        }
        bool condition = logic || (kind == 'W' && i == 0);
        if (kind == 'W' && i == 2 && x->type.is_bool != e->args[1]->type.is_bool) {
            ERROR_AT(c, x->at, "the two values of 'where' are a number and a condition");
            e->type = bad;
            return;
        }
        if (kind != 'W' || i == 0) {
            if (x->type.is_bool != condition) {
                ERROR_AT(
                    c, x->at,
                    condition
                        ? "'%s' takes a condition here; this is a number"
                        : "'%s' takes numbers; this is a condition (where(c, 1, 0) makes a number)",
                    what);
                e->type = bad;
                return;
            }
        }
        all_none &= x->type.none;
        t.axes = ssd_spec_join(t.axes, x->type.axes);
    }
    t.is_bool = kind == 'C' || (kind == 'W' && e->args[1]->type.is_bool);
    // a*none = a, a+none = a; f(none) = none; clamp follows what it clamps. All else would need a
    // value.
    bool one = e->nargs == 1;
    t.none = f == FN_CLAMP ? e->args[0]->type.none : (neutral || one) && all_none;
    if (!neutral && !one)
        for (int i = f == FN_CLAMP; i < e->nargs; i++)
            if (reject_none(c, e->args[i], ssd_arena_printf(c->arena, "'%s'", what))) t.bad = true;
    if (too_many_axes(c, e->at, t.axes)) t.bad = true;
    if (!t.is_bool && !t.bad) bounds_fn(&t, f, e);
    e->type = t;
}

static int axis_arg(Check *c, const Expr *call, const Expr *x) {
    if (x->kind != E_NAME) {
        ERROR_AT(c, x->at, "an axis is expected here: %s", ssd_funcs[call->func].usage);
        return -1;
    }
    int i = ssd_spec_axis(c->spec, x->name);
    if (i >= 0) return i;
    u32 known = 0;
    for (int k = 0; k < c->spec->naxes; k++)
        if (k != AXIS_S && c->spec->axes[k].size) known |= BIT(k);
    ERROR_AT(c, x->at, "unknown axis '%s': there are %s", x->name,
             ssd_spec_axes_text(c->spec, known));
    return -1;
}

static bool takes_eps(CallKind k) { return k == CALL_L2NORM || k == CALL_RMSNORM; }

Reduction ssd_spec_reduction(const Spec *s, const Expr *e) {
    CallKind kind = ssd_funcs[e->func].kind;
    Reduction r = {.eps = kind == CALL_L2NORM ? 1e-6 : 1e-5};
    for (int i = 1; i < e->nargs; i++) {
        if (e->args[i]->kind == E_NUMBER)
            r.eps = e->args[i]->number;
        else
            r.axes |= BIT(ssd_spec_axis(s, e->args[i]->name));
    }
    return r;
}

// Numbers alone go into arithmetic and along axes.
static bool is_number(Check *c, const Expr *e, const Expr *x) {
    if (x->type.bad) return false;
    if (x->type.is_bool) ERROR_AT(c, x->at, "'%s' takes numbers; this is a condition", e->name);
    return !x->type.is_bool;
}

static void type_reduction(Check *c, Expr *e, CallKind kind) {
    const Spec *s = c->spec;
    const Expr *x = e->args[0];
    bool ok = is_number(c, e, x);
    u32 axes = 0;
    for (int i = 1; i < e->nargs; i++) {
        const Expr *arg = e->args[i];
        if (arg->kind == E_NUMBER && takes_eps(kind) && i > 1 && i == e->nargs - 1) continue;
        int a = axis_arg(c, e, arg);
        if (a < 0) {
            ok = false;
        } else if (a <= AXIS_S) {
            ERROR_AT(c, arg->at, "'%s' along %s: only along heads and features%s", e->name,
                     s->axes[a].name, a == AXIS_T ? "; cumsum(e) runs along t" : "");
            ok = false;
        } else if (axes & BIT(a)) {
            ERROR_AT(c, arg->at, "axis '%s' stands here for the second time", s->axes[a].name);
            ok = false;
        } else if (!x->type.bad && !(x->type.axes & BIT(a))) {
            ERROR_AT(c, arg->at, "'%s' along %s: the expression has the axes %s", e->name,
                     s->axes[a].name, ssd_spec_axes_text(s, x->type.axes));
            ok = false;
        } else {
            axes |= BIT(a);
        }
    }
    Type t = {.bad = !ok, .none = x->type.none, .axes = x->type.axes, .lo = -inf, .hi = inf};
    if (kind == CALL_SUM || kind == CALL_MEAN || kind == CALL_MAX) t.axes &= ~axes;
    if (kind == CALL_SOFTMAX) t.lo = 0, t.hi = 1;
    if (kind == CALL_MEAN || kind == CALL_MAX) t.lo = x->type.lo, t.hi = x->type.hi;
    if (kind == CALL_SUM && x->type.lo >= 0) t.lo = 0;
    if (kind == CALL_SUM && x->type.hi <= 0) t.hi = 0;
    e->type = t;
}

static void type_over_time(Check *c, Expr *e, CallKind kind) {
    const Expr *x = e->args[0];
    e->type = (Type){.bad = !is_number(c, e, x),
                     .none = x->type.none,
                     .axes = x->type.axes,
                     .lo = -inf,
                     .hi = inf};
    if (e->type.bad) return;
    if (!(x->type.axes & BIT(AXIS_T))) {
        ERROR_AT(c, x->at, "'%s' runs along t; this expression does not change with t", e->name);
        e->type.bad = true;
        return;
    }
    if (kind == CALL_CUMSUM) {
        if (x->type.lo >= 0) e->type.lo = 0;
        if (x->type.hi <= 0) e->type.hi = 0;
        return;
    }
    const Expr *k = e->args[1];
    e->type.lo = fmin(x->type.lo, 0), e->type.hi = fmax(x->type.hi, 0);
    if (k->kind == E_FN && k->fn == FN_NEG) {
        ERROR_AT(c, k->at, "shift looks back: its distance is positive");
        e->type.bad = true;
    } else if (k->kind != E_NUMBER || k->number != floor(k->number) || k->number < 1 ||
               k->number > MAX_SHIFT) {
        ERROR_AT(c, k->at, "the distance of a shift is a number from 1 to %d", MAX_SHIFT);
        e->type.bad = true;
    }
}

int ssd_spec_rotary_axis(const Spec *s, const Expr *e) {
    if (e->nargs > 3) return e->args[3]->kind == E_NAME ? ssd_spec_axis(s, e->args[3]->name) : -1;
    u32 features = e->args[0]->type.axes & FEATURES;
    return __builtin_popcount(features) == 1 ? __builtin_ctz(features) : -1;
}

static void type_rotary(Check *c, Expr *e) {
    const Spec *s = c->spec;
    const Expr *x = e->args[0], *angle = e->args[1], *pairing = e->args[2];
    bool ok = is_number(c, e, x);
    ok &= is_number(c, e, angle);
    bool named = pairing->kind == E_NAME;
    if (!named || (strcmp(pairing->name, "adjacent") && strcmp(pairing->name, "halves"))) {
        ERROR_AT(
            c, pairing->at,
            "the pairing of 'rotary' is `adjacent` (0 with 1, 2 with 3) or `halves` (0 with n/2)");
        ok = false;
    }
    if (e->nargs > 3 && axis_arg(c, e, e->args[3]) < 0) ok = false;
    if (ok) {
        int a = ssd_spec_rotary_axis(s, e);
        if (a < 0) {
            ERROR_AT(c, e->at,
                     "'rotary' turns pairs along one feature axis; the expression has the axes %s: "
                     "name the axis as fourth argument",
                     ssd_spec_axes_text(s, x->type.axes));
            ok = false;
        } else if (a < AXIS_FEATURE || !(x->type.axes & BIT(a))) {
            ERROR_AT(c, (e->nargs > 3 ? e->args[3] : x)->at,
                     "'rotary' along %s: the expression has the feature axes %s", s->axes[a].name,
                     ssd_spec_axes_text(s, x->type.axes & FEATURES));
            ok = false;
        } else if (s->axes[a].size % 2) {
            ERROR_AT(c, e->at, "'rotary' turns pairs: axis %s has the odd size %lld",
                     s->axes[a].name, (long long)s->axes[a].size);
            ok = false;
        }
    }
    e->type = (Type){.bad = !ok, .none = x->type.none, .lo = -inf, .hi = inf};
    e->type.axes = ssd_spec_join(x->type.axes, angle->type.axes);
    if (ok && too_many_axes(c, e->at, e->type.axes)) e->type.bad = true;
}

static void type_axis(Check *c, Expr *e, CallKind kind) {
    const Spec *s = c->spec;
    int a = axis_arg(c, e, e->args[0]);
    e->type = bad;
    if (a < 0) return;
    if (a == AXIS_B || a == AXIS_S) {
        ERROR_AT(c, e->args[0]->at, "'%s' of %s: rows of a batch do not know of one another",
                 e->name, s->axes[a].name);
        return;
    }
    double size = s->axes[a].size < 0 ? inf : (double)s->axes[a].size;
    bool counts = kind == CALL_INDEX;
    // In a packed spec each sequence has its own length.
    u32 axes = counts || (a == AXIS_T && s->packed) ? BIT(a) : 0;
    e->type = (Type){
        .axes = axes, .lo = counts || a == AXIS_T ? 0 : size, .hi = counts ? size - 1 : size};
}

static void type_call(Check *c, Expr *e) {
    if (e->func < 0) {
        e->type = bad;
        return;
    }
    const Func *f = &ssd_funcs[e->func];
    for (int i = 0; i < values(f, e->nargs); i++) type_of(c, e->args[i]);
    switch (f->kind) {
    case CALL_FN: type_fn(c, e, f->fn, f->name); break;
    case CALL_SUM:
    case CALL_MEAN:
    case CALL_MAX:
    case CALL_L2NORM:
    case CALL_RMSNORM:
    case CALL_SOFTMAX: type_reduction(c, e, f->kind); break;
    case CALL_SHIFT:
    case CALL_CUMSUM: type_over_time(c, e, f->kind); break;
    case CALL_ROTARY: type_rotary(c, e); break;
    case CALL_INDEX:
    case CALL_SIZE: type_axis(c, e, f->kind); break;
    case CALL_LATER: SSD_BUG("a call that is rejected when names are resolved");
    }
}

static void type_of(Check *c, Expr *e) {
    switch (e->kind) {
    case E_NUMBER: e->type = (Type){.lo = e->number, .hi = e->number}; break;
    case E_NAME: e->type = e->symbol < 0 ? bad : c->spec->symbols.v[e->symbol].type; break;
    case E_CALL: type_call(c, e); break;
    case E_FN:
        for (int i = 0; i < e->nargs; i++) type_of(c, e->args[i]);
        type_fn(c, e, e->fn, e->name);
        break;
    }
}

// --- Operators and outputs ----------------------------------------------------------------------

static const char *const operand_names[] = {"query", "key", "value", "log_decay"};

static bool type_operands(Check *c, Operator *op) {
    bool ok = true;
    for (int k = 0; k < OPERANDS; k++) {
        Expr *e = op->arg[k];
        ok &= op->given[k] == (e != NULL) && (e || k == DECAY);
        if (!e) continue;
        type_of(c, e);
        if (e->type.bad) {
            ok = false;
            continue;
        }
        if (e->type.is_bool) {
            ERROR_AT(c, e->at, "%s is a number; this is a condition", operand_names[k]);
            ok = false;
        }
        if (k != DECAY && reject_none(c, e, operand_names[k])) ok = false;
    }
    return ok;
}

// Which feature axes are contracted, which are the value's; every other is a mistake.
static bool type_features(Check *c, Operator *op) {
    const Spec *s = c->spec;
    u32 f[OPERANDS] = {0};
    for (int k = 0; k < OPERANDS; k++) f[k] = op->arg[k] ? op->arg[k]->type.axes & FEATURES : 0;
    bool ok = true;
    u32 three = f[QUERY] & f[KEY] & f[VALUE], q = f[QUERY] & ~f[KEY], k = f[KEY] & ~f[QUERY];
    op->contracted = f[QUERY] & f[KEY];
    op->value = f[VALUE];
    u32 l = f[DECAY] & ~(op->contracted | op->value);
    if (three) {
        ERROR_AT(c, op->arg[VALUE]->at, "value has axis %s, which query and key contract",
                 ssd_spec_axes_text(s, three));
        ok = false;
    }
    if (q) {
        ERROR_AT(c, op->arg[QUERY]->at, "query has axis %s, which key lacks",
                 ssd_spec_axes_text(s, q));
        ok = false;
    }
    if (k) {
        ERROR_AT(c, op->arg[KEY]->at, "key has axis %s, which query lacks",
                 ssd_spec_axes_text(s, k));
        ok = false;
    }
    if (ok && !op->contracted) {
        ERROR_AT(c, op->arg[KEY]->at,
                 "query and key share no feature axis: there is nothing to contract");
        ok = false;
    }
    if (ok && l) {
        ERROR_AT(c, op->arg[DECAY]->at, "log_decay has axis %s, which neither key nor value has",
                 ssd_spec_axes_text(s, l));
        ok = false;
    }
    if (ok && (__builtin_popcount(op->contracted) > 3 || __builtin_popcount(op->value) > 3)) {
        ERROR_AT(c, op->at, "more than 3 feature axes of key or of value");
        ok = false;
    }
    return ok;
}

static void check_mask(Check *c, const Operator *op) {
    static const char *const masks[] = {"causal", "strict", "anticausal", "full", "band"};
    const char *mask = masks[op->mask];
    bool full = op->mask == MASK_FULL, band = op->mask == MASK_BAND;
    if (full && op->given[DECAY])
        ERROR_AT(c, op->arg[DECAY] ? op->arg[DECAY]->at : op->at,
                 "mask full takes no log_decay: every token reads "
                 "every other alike");
    if (op->read_before && op->mask != MASK_CAUSAL && op->mask != MASK_STRICT)
        ERROR_AT(c, op->mask_at, "read: before goes with mask causal or strict, not with %s", mask);
    if (!full && !band) return;
    if (op->init) ERROR_AT(c, op->init_at, "mask %s has no initial state", mask);
    if (op->final) ERROR_AT(c, op->final_at, "mask %s has no final state", mask);
}

static void check_decay(Check *c, const Operator *op) {
    const Expr *l = op->arg[DECAY];
    if (!l || c->spec->numerics.decay == DECAY_ANY || l->type.lo < 0 || !(l->type.hi > 0)) return;
    ERROR_AT(c, l->at,
             "log_decay is never negative here: is a minus missing? (numerics: {decay: any} allows "
             "growth)");
}

static void type_operator(Check *c, Symbol *sym) {
    Operator *op = &c->spec->ops.v[sym->index];
    check_mask(c, op);
    if (!type_operands(c, op)) return;
    u32 all = 0;
    for (int k = 0; k < OPERANDS; k++)
        if (op->arg[k]) all = ssd_spec_join(all, op->arg[k]->type.axes);
    bool ok = type_features(c, op);
    for (int x = AXIS_B; x <= AXIS_T; x++)
        if (!(all & BIT(x))) {
            ERROR_AT(c, op->at, "no operand of '%s' has axis %s", op->name, c->spec->axes[x].name);
            ok = false;
        }
    check_decay(c, op);
    if (!ok) return;
    op->head = all & (BIT(AXIS_H) | BIT(AXIS_G));
    sym->type =
        (Type){.axes = BIT(AXIS_B) | BIT(AXIS_T) | op->head | op->value, .lo = -inf, .hi = inf};
    u32 tile = sym->type.axes | op->contracted;
    if (__builtin_popcount(tile) > 8) {
        ERROR_AT(c, op->at, "operator '%s' spans %d axes (%s): at most 8", op->name,
                 __builtin_popcount(tile), ssd_spec_axes_text(c->spec, tile));
        sym->type = bad;
    }
}

static void type_output(Check *c, Output *o) {
    const Spec *s = c->spec;
    type_of(c, o->expr);
    const Type *t = &o->expr->type;
    if (t->bad) return;
    if (t->is_bool)
        ERROR_AT(c, o->expr->at, "output '%s' is a number; this is a condition", o->name);
    if (reject_none(c, o->expr, ssd_arena_printf(c->arena, "output '%s'", o->name))) return;
    if (!o->axes) return;
    u32 have = t->axes;
    if ((o->axes & BIT(AXIS_H)) && (have & BIT(AXIS_G))) have = ssd_spec_join(have, BIT(AXIS_H));
    u32 lost = have & ~o->axes, extra = o->axes & ~have;
    if (lost)
        ERROR_AT(c, o->at, "output '%s' lacks axis %s of its expression, which has the axes %s",
                 o->name, ssd_spec_axes_text(s, lost), ssd_spec_axes_text(s, have));
    if (extra)
        ERROR_AT(c, o->at,
                 "output '%s' has axis %s, which its expression lacks: that has the axes %s",
                 o->name, ssd_spec_axes_text(s, extra), ssd_spec_axes_text(s, have));
}

static void mark_reached(Spec *s, const Expr *e) {
    if (e->kind == E_NAME && e->symbol >= 0) s->symbols.v[e->symbol].reached = true;
    int n =
        e->kind == E_CALL ? (e->func < 0 ? 0 : values(&ssd_funcs[e->func], e->nargs)) : e->nargs;
    for (int i = 0; i < n; i++) mark_reached(s, e->args[i]);
}

// What operators and outputs are made of, users before operands.
static void reach(Spec *s) {
    for (u32 i = 0; i < s->outputs.n; i++) mark_reached(s, s->outputs.v[i].expr);
    for (u32 i = s->order.n; i-- > 0;) {
        Symbol *sym = &s->symbols.v[s->order.v[i]];
        if (sym->kind == SYM_OPERATOR) sym->reached = true;
        if (sym->reached)
            for (u32 k = 0; k < sym->deps.n; k++) s->symbols.v[sym->deps.v[k]].reached = true;
    }
}

static void warn_unused(Check *c) {
    static const char *const kinds[] = {"input", "let", "operator"};
    for (u32 i = 0; i < c->spec->symbols.n; i++) {
        const Symbol *sym = &c->spec->symbols.v[i];
        if (!sym->used)
            ssd_diag_add(c->diag, DIAG_WARNING, sym->at, "%s '%s' is not used", kinds[sym->kind],
                         sym->name);
    }
}

void ssd_spec_check(Spec *s, Diag *d) {
    Check c = {.arena = s->arena, .diag = d, .spec = s, .owner = NOBODY};
    resolve_all(&c);
    u32 *path = NEWN(s->arena, u32, s->symbols.n + 1);
    for (u32 i = 0; i < s->symbols.n; i++)
        if (s->symbols.v[i].kind != SYM_INPUT && !s->symbols.v[i].visit) visit(&c, i, path, 0);
    for (u32 i = 0; i < s->order.n; i++) {
        Symbol *sym = &s->symbols.v[s->order.v[i]];
        if (sym->kind == SYM_OPERATOR) {
            type_operator(&c, sym);
        } else if (sym->expr) {
            type_of(&c, sym->expr);
            sym->type = sym->expr->type;
        }
    }
    for (u32 i = 0; i < s->outputs.n; i++) type_output(&c, &s->outputs.v[i]);
    reach(s);
    if (!d->errors) warn_unused(&c); // beside errors it would name what a misspelt name meant
}
