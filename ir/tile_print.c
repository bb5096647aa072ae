// SPDX-License-Identifier: Apache-2.0
// Tile programs as text. The form is described atop tile.h; tile_parse.c reads it back.
#include "tile.h"

#include <math.h>
#include <stdio.h>

typedef struct Printer {
    const Prog *p;
    Text *out;
    const char **name; // by value: unique within its kernel
} Printer;

static const char *const op_text[TOP__COUNT] = {
#define TOP(id, text, stratum, doc) [TOP_##id] = text,
#include "tile_ops.def"
};
static const char *const space_text[] = {"",      "scalar", "mem", "shared", "reg",  "sw128",
                                         "loose", "row",    "acc", "frag",   "lane", "cols"};

// --- Expressions --------------------------------------------------------------------------------
enum { P_OR = 1, P_AND, P_NOT, P_CMP, P_SUM, P_MUL, P_UNARY, P_ATOM };
static const struct Infix {
    u8 prec;
    const char *text;
} infix[FN__COUNT] = {
    [FN_OR] = {P_OR, "or"},    [FN_AND] = {P_AND, "and"}, [FN_LT] = {P_CMP, "<"},
    [FN_LE] = {P_CMP, "<="},   [FN_GT] = {P_CMP, ">"},    [FN_GE] = {P_CMP, ">="},
    [FN_EQ] = {P_CMP, "=="},   [FN_NE] = {P_CMP, "!="},   [FN_ADD] = {P_SUM, "+"},
    [FN_SUB] = {P_SUM, "-"},   [FN_MUL] = {P_MUL, "*"},   [FN_DIV] = {P_MUL, "/"},
    [FN_FDIV] = {P_MUL, "//"}, [FN_MOD] = {P_MUL, "%"},
};

// fl: a bare whole number here is read as a float, because of what stands beside it.
typedef struct ExStyle {
    bool tight, fl, bare_syms;
} ExStyle;

// Broken programs are printed too, by the verifier: what does not exist is "?".
static const char *val_name(const Printer *w, Val v) {
    if (!v || v >= w->p->vals.n) return "?";
    return w->name[v] ? w->name[v] : w->p->vals.v[v].name;
}

static const char *axis(const Printer *w, u8 x) {
    return x && x < w->p->axes.n ? w->p->axes.v[x].name : "?";
}

// The shortest decimal that reads back as v, with a point whatever the locale.
static void float_text(char *s, size_t n, double v) {
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(s, n, "%.*g", digits, v);
        double back = 0;
        sscanf(s, "%lf", &back);
        if (back == v) break;
    }
    for (char *c = s; *c; c++)
        if (!strchr("0123456789+-e", *c)) *c = '.';
}

static void num(Printer *w, const Expr *x, ExStyle st) {
    char s[40];
    double v = x->num;
    if (x->dtype == SSD_BOOL) {
        ssd_text_printf(w->out, v != 0 ? "true" : "false");
    } else if (x->dtype == SSD_IDX) {
        ssd_text_printf(w->out, "%lld", (long long)v);
    } else if (isnan(v) || isinf(v)) {
        ssd_text_printf(w->out, isnan(v) ? "nan" : v > 0 ? "inf" : "-inf");
    } else if (fabs(v) == 1.4426950408889634) {
        ssd_text_printf(w->out, v > 0 ? "log2e" : "-log2e");
    } else {
        float_text(s, sizeof s, v);
        ssd_text_printf(w->out, st.fl || strpbrk(s, ".e") ? "%s" : "%s.0", s);
    }
}

static void expr(Printer *w, Ex e, int prec, ExStyle st);

static void indices(Printer *w, u16 tensor, const Ex *idx, int n) {
    bool known = tensor && tensor < w->p->tensors.n;
    ssd_text_printf(w->out, "%s[", known ? w->p->tensors.v[tensor].name : "?");
    for (int i = 0; i < n; i++) {
        if (i) ssd_text_printf(w->out, ", ");
        expr(w, idx[i], 0, (ExStyle){.tight = true});
    }
    ssd_text_printf(w->out, "]");
}

// Whether operand i of a function, written as a bare whole number, would be read as a float.
static bool reads_float(const Prog *p, const Expr *x, int i) {
    if (ssd_fns[x->fn].kind == 'F') return true;
    for (int k = x->fn == FN_WHERE; k < ssd_fns[x->fn].arity; k++) {
        const Expr *y = &p->exs.v[x->arg[k]];
        if (k != i && y->kind != EX_NUM && y->dtype != SSD_IDX) return true;
    }
    return false;
}

static void fn(Printer *w, const Expr *x, int prec, ExStyle st) {
    const struct Infix *in = &infix[x->fn];
    int own = in->prec ? in->prec : x->fn == FN_NEG ? P_UNARY : x->fn == FN_NOT ? P_NOT : P_ATOM;
    ExStyle arg[3];
    for (int i = 0; i < 3; i++) {
        arg[i] = st;
        arg[i].fl = i < ssd_fns[x->fn].arity && reads_float(w->p, x, i);
    }
    if (own < prec) ssd_text_printf(w->out, "(");
    if (in->prec) {
        // Comparisons do not chain; the others lean left.
        bool word = own <= P_AND, spaced = word || (!st.tight && own <= P_SUM);
        expr(w, x->arg[0], own == P_CMP ? own + 1 : own, arg[0]);
        ssd_text_printf(w->out, spaced ? " %s " : "%s", in->text);
        expr(w, x->arg[1], own + 1, arg[1]);
    } else if (own != P_ATOM) {
        ssd_text_printf(w->out, x->fn == FN_NEG ? "-" : "not ");
        expr(w, x->arg[0], own, arg[0]);
    } else {
        ssd_text_printf(w->out, "%s(", ssd_fns[x->fn].name);
        for (int i = 0; i < ssd_fns[x->fn].arity; i++) {
            if (i) ssd_text_printf(w->out, ", ");
            expr(w, x->arg[i], 0, arg[i]);
        }
        ssd_text_printf(w->out, ")");
    }
    if (own < prec) ssd_text_printf(w->out, ")");
}

static void expr(Printer *w, Ex e, int prec, ExStyle st) {
    const Prog *p = w->p;
    if (!e || e >= p->exs.n) {
        ssd_text_printf(w->out, "?");
        return;
    }
    const Expr *x = &p->exs.v[e];
    switch ((ExKind)x->kind) {
    case EX_NUM: {
        bool paren = prec > P_UNARY && x->num < 0;
        if (paren) ssd_text_printf(w->out, "(");
        num(w, x, st);
        if (paren) ssd_text_printf(w->out, ")");
        break;
    }
    case EX_VAL: ssd_text_printf(w->out, "%s", val_name(w, x->val)); break;
    case EX_AXIS: ssd_text_printf(w->out, "%s", axis(w, (u8)x->axis)); break;
    case EX_SYM: ssd_text_printf(w->out, st.bare_syms ? "%s" : "#%s", p->syms.v[x->sym]); break;
    case EX_LOAD: indices(w, x->tensor, x->idx, x->nidx); break;
    case EX_FN: fn(w, x, prec, st); break;
    }
}

// --- Types --------------------------------------------------------------------------------------
static bool is_float(u8 dt) { return dt != SSD_IDX && dt != SSD_I32 && dt != SSD_BOOL; }

static void axis_list(Printer *w, const u8 *ax, int n) {
    for (int i = 0; i < n; i++) ssd_text_printf(w->out, "%s%s", i ? " " : "", axis(w, ax[i]));
}

static bool packed(const Prog *p, const Lay *l) {
    i64 dense = 1;
    for (int i = l->naxes - 1; i >= 0; i--) {
        if (l->stride[i] != dense) return false;
        dense *= p->axes.v[l->ax[i]].size;
    }
    return true;
}

// @mem(n p) in b0+128; with strides, @mem(n:72 p:1), when it is not dense.
static void layout(Printer *w, const Lay *l) {
    if (l->space == SP_NONE) return;
    ssd_text_printf(w->out, " @%s", l->space < COUNTOF(space_text) ? space_text[l->space] : "?");
    if (l->naxes) {
        bool dense = l->space >= SP_SW128 || packed(w->p, l);
        for (int i = 0; i < l->naxes; i++) {
            ssd_text_printf(w->out, "%s%s", i ? " " : "(", axis(w, l->ax[i]));
            if (!dense) ssd_text_printf(w->out, ":%lld", (long long)l->stride[i]);
        }
        ssd_text_printf(w->out, ")");
    }
    if (l->buf) ssd_text_printf(w->out, " in %s", val_name(w, l->buf));
    if (l->buf && l->offset) ssd_text_printf(w->out, "+%lld", (long long)l->offset);
}

static void type(Printer *w, const TVal *v) {
    ssd_text_printf(w->out, " : %s", ssd_dtype_name((ssd_dtype)v->dtype));
    if (v->naxes) {
        ssd_text_printf(w->out, "[");
        axis_list(w, v->ax, v->naxes);
        ssd_text_printf(w->out, "]");
    }
    layout(w, &v->lay);
}

// --- Ops ----------------------------------------------------------------------------------------
static const ExStyle tight = {.tight = true};

static void carries(Printer *w, const TOp *o) {
    const Prog *p = w->p;
    for (int i = 0; i < o->ncarry; i++) {
        const TVal *v = &p->vals.v[o->carry[i]];
        const Expr *x = &p->exs.v[o->init[i]];
        ssd_text_printf(w->out, i ? ", %s=" : " carry %s=", val_name(w, o->carry[i]));
        expr(w, o->init[i], 0, tight);
        // The type is the initial value's unless said otherwise.
        const TVal *from = x->kind == EX_VAL ? &p->vals.v[x->val] : NULL;
        bool same = from ? v->dtype == from->dtype && v->naxes == from->naxes &&
                               !memcmp(v->ax, from->ax, v->naxes)
                         : v->dtype == x->dtype && !v->naxes;
        if (!same || v->lay.space != SP_NONE) type(w, v);
    }
}

static void slice(Printer *w, u8 ax, Ex e) {
    ssd_text_printf(w->out, " %s=", axis(w, ax));
    expr(w, e, 0, tight);
}

static void when(Printer *w, const TOp *o) {
    if (!o->when) return;
    ssd_text_printf(w->out, " when ");
    expr(w, o->when, 0, (ExStyle){0});
}

// The operands of what moves tiles and roles through time (T2).
static void timed(Printer *w, const TOp *o) {
    Text *t = w->out;
    const char *out = o->out ? val_name(w, o->out) : "?";
    switch (o->op) {
    case TOP_RING: ssd_text_printf(t, " %s x%d", out, o->depth); break;
    case TOP_SLOT:
        ssd_text_printf(t, " %s", out);
        if (o->out && o->out < w->p->vals.n) type(w, &w->p->vals.v[o->out]);
        if (o->depth) ssd_text_printf(t, " run %d", o->depth);
        break;
    case TOP_REGS:
        ssd_text_printf(t, " %s %d",
                        o->out && o->out < w->p->vals.n
                            ? ssd_dtype_name((ssd_dtype)w->p->vals.v[o->out].dtype)
                            : "?",
                        o->depth);
        break;
    case TOP_ROLE: ssd_text_printf(t, " %s warps %d", out, o->warps); break;
    case TOP_FETCH:
    case TOP_INTO:
    case TOP_WAIT: ssd_text_printf(t, " %s", val_name(w, o->a)); break;
    case TOP_SEND:
        ssd_text_printf(t, " ");
        indices(w, o->tensor, o->idx, o->nidx);
        ssd_text_printf(t, " <- %s", val_name(w, o->a));
        when(w, o);
        break;
    default: // acquire, publish, await, release
        ssd_text_printf(t, " %s", val_name(w, o->a));
        if (o->e) {
            ssd_text_printf(t, " at ");
            expr(w, o->e, P_SUM, tight);
        }
    }
    if ((o->op == TOP_RING || o->op == TOP_ROLE) && o->copies > 1) {
        ssd_text_printf(t, " copies %d", o->copies);
        if (o->op == TOP_ROLE) ssd_text_printf(t, " %s", val_name(w, o->var));
    }
    if (o->op == TOP_ROLE && o->regs) ssd_text_printf(t, " regs %d", o->regs);
    if (o->op == TOP_WAIT && o->pending) ssd_text_printf(t, " pending %d", o->pending);
    if (o->op != TOP_FETCH && o->op != TOP_INTO) return;
    if (o->ax[0]) {
        ssd_text_printf(t, " at %s=", axis(w, o->ax[0]));
        expr(w, o->e, P_SUM, tight);
    }
    if (o->op == TOP_FETCH) {
        ssd_text_printf(t, " <- ");
        indices(w, o->tensor, o->idx, o->nidx);
        when(w, o);
        if (o->flags & TF_LOOSE) ssd_text_printf(t, " loose");
        return;
    }
    if (o->tri_row) ssd_text_printf(t, " tri %s %s", axis(w, o->tri_row), axis(w, o->tri_col));
    ssd_text_printf(t, " = ");
    expr(w, o->e2, 0, (ExStyle){.fl = true});
    if (!o->hi) return;
    ssd_text_printf(t, " below ");
    expr(w, o->hi, 0, (ExStyle){.fl = true});
}

static void stored(Printer *w, const TOp *o) {
    const TTensor *t = o->tensor < w->p->tensors.n ? &w->p->tensors.v[o->tensor] : NULL;
    ssd_text_printf(w->out, " = ");
    expr(w, o->e, 0, (ExStyle){.fl = t && is_float(t->dtype)});
}

static void filled(Printer *w, const TOp *o, ExStyle value) {
    ssd_text_printf(w->out, " ");
    expr(w, o->e, w->p->exs.v[o->e].kind == EX_NUM ? 0 : P_ATOM + 1, value);
    ssd_text_printf(w->out, "[");
    axis_list(w, w->p->vals.v[o->out].ax, w->p->vals.v[o->out].naxes);
    ssd_text_printf(w->out, "]");
}

static void turns(Printer *w, const TOp *o) {
    ssd_text_printf(w->out, " %s in ", val_name(w, o->var));
    expr(w, o->lo, P_SUM, tight);
    ssd_text_printf(w->out, "..");
    expr(w, o->hi, P_SUM, tight);
    if (o->flags & TF_REV) ssd_text_printf(w->out, " rev");
}

static void operands(Printer *w, const TOp *o) {
    Text *t = w->out;
    const char *a = o->a ? val_name(w, o->a) : "", *b = o->b ? val_name(w, o->b) : "";
    const char *ax[4];
    for (int i = 0; i < 4; i++) ax[i] = o->ax[i] ? axis(w, o->ax[i]) : "";
    ExStyle value = {.fl = o->out && o->out < w->p->vals.n && is_float(w->p->vals.v[o->out].dtype)};
    switch ((TOpCode)o->op) {
    case TOP_LOAD:
    case TOP_PREFETCH:
    case TOP_STORE:
        ssd_text_printf(t, " ");
        indices(w, o->tensor, o->idx, o->nidx);
        if (o->op == TOP_STORE) stored(w, o);
        when(w, o);
        break;
    case TOP_MAP:
    case TOP_REDUCE:
        if (o->op == TOP_REDUCE)
            ssd_text_printf(t, " %s %s", o->flags & TF_MAX ? "max" : "sum", ax[0]);
        ssd_text_printf(t, " {");
        expr(w, o->e, 0, value);
        ssd_text_printf(t, "}");
        break;
    case TOP_MMA:
        ssd_text_printf(t, o->flags & TF_ASYNC ? " async %s %s" : " %s %s", a, b);
        if (o->nkeep) {
            ssd_text_printf(t, " keep ");
            axis_list(w, o->keep, o->nkeep);
        }
        if (o->tri_row) ssd_text_printf(t, " tri %s %s", axis(w, o->tri_row), axis(w, o->tri_col));
        if (o->c) ssd_text_printf(t, " + %s", val_name(w, o->c));
        break;
    case TOP_SCAN:
        ssd_text_printf(t, " %s %s %s", o->flags & TF_MAX ? "max" : "sum", ax[0], a);
        if (o->flags & TF_REV) ssd_text_printf(t, " rev");
        if (o->flags & TF_EXCL) ssd_text_printf(t, " excl");
        break;
    case TOP_AT:
    case TOP_PICK:
    case TOP_PUT:
        ssd_text_printf(t, " %s", a);
        slice(w, o->ax[0], o->e);
        if (o->op == TOP_PUT && o->ax[1]) slice(w, o->ax[1], o->e2);
        if (o->op == TOP_PUT) ssd_text_printf(t, " %s", b);
        break;
    case TOP_SPLIT: ssd_text_printf(t, " %s %s->(%s %s)", a, ax[0], ax[1], ax[2]); break;
    case TOP_JOIN: ssd_text_printf(t, " %s (%s %s)->%s", a, ax[0], ax[1], ax[2]); break;
    case TOP_RENAME:
        ssd_text_printf(t, " %s %s->%s", a, ax[0], ax[1]);
        if (o->ax[2]) ssd_text_printf(t, " %s->%s", ax[2], ax[3]);
        break;
    case TOP_CAT:
        ssd_text_printf(t, " %s %s %s", a, b, ax[0]);
        if (o->ax[2]) ssd_text_printf(t, " %s", ax[2]);
        ssd_text_printf(t, "->%s", ax[1]);
        break;
    case TOP_SLICE:
        ssd_text_printf(t, " %s %s->%s from ", a, ax[0], ax[1]);
        expr(w, o->e, 0, tight);
        break;
    case TOP_SWAP:
        ssd_text_printf(t, " %s %s %s", a, ax[0], o->flags & TF_HALVES ? "halves" : "adjacent");
        break;
    case TOP_INV: ssd_text_printf(t, " %s %s %s", a, ax[0], ax[1]); break;
    case TOP_FILL: filled(w, o, value); break;
    case TOP_FOR:
    case TOP_EACH:
        turns(w, o);
        carries(w, o);
        break;
    case TOP_YIELD:
        for (int i = 0; i < o->ncarry; i++) {
            ssd_text_printf(t, i ? ", " : " ");
            expr(w, o->init[i], 0, (ExStyle){0});
        }
        break;
    case TOP_IF:
        ssd_text_printf(t, " ");
        expr(w, o->e, 0, (ExStyle){0});
        break;
    case TOP_BUF: ssd_text_printf(t, " %lld", (long long)o->bytes); break;
    case TOP_COPY: ssd_text_printf(t, " %s", a); break;
    case TOP_RING:
    case TOP_SLOT:
    case TOP_REGS:
    case TOP_ROLE:
    case TOP_ACQUIRE:
    case TOP_PUBLISH:
    case TOP_AWAIT:
    case TOP_RELEASE:
    case TOP_FETCH:
    case TOP_SEND:
    case TOP_INTO:
    case TOP_WAIT: timed(w, o); break;
    case TOP__COUNT: break;
    }
}

// Ops whose result is named where their operands are, not in front.
static bool declares(const TOp *o) {
    return o->op == TOP_RING || o->op == TOP_SLOT || o->op == TOP_ROLE;
}

static void op(Printer *w, const TOp *o) {
    const TVal *v = o->out && o->out < w->p->vals.n ? &w->p->vals.v[o->out] : NULL;
    if (o->out && !declares(o)) ssd_text_printf(w->out, "%s = ", val_name(w, o->out));
    ssd_text_printf(w->out, "%s", op_text[o->op]);
    operands(w, o);
    if (o->flags & TF_INPLACE) ssd_text_printf(w->out, " inplace");
    if (v && o->op == TOP_BUF)
        layout(w, &v->lay);
    else if (v && !declares(o) && o->op != TOP_REGS)
        type(w, v);
}

static void block(Printer *w, const TBlock *b, int depth) {
    for (const TOp *o = b->first; o; o = o->next) {
        ssd_text_printf(w->out, "%*s", 2 * depth, "");
        op(w, o);
        ssd_text_printf(w->out, "\n");
        block(w, &o->body, depth + 1);
    }
}

// --- Names: unique within a kernel, in the order of the text ------------------------------------
// What a value may not be called: words of the grammar, functions, axes.
static const char *const words[] = {
    "and",   "or",      "not",     "true",     "false", "inf",  "nan",   "log2e",   "keep",
    "tri",   "when",    "rev",     "excl",     "carry", "in",   "store", "yield",   "for",
    "each",  "if",      "inplace", "prefetch", "ring",  "slot", "role",  "acquire", "publish",
    "await", "release", "fetch",   "send",     "into",  "wait", "async"};

typedef struct Names {
    const char **slot; // open addressing, twice as many as can be taken
    u32 cap;
} Names;

// A ring and a role stand where no other word is expected: they may be called `in` or `load`.
static bool taken(const Printer *w, const Names *set, const char *s, bool word) {
    for (size_t i = 0; word && i < COUNTOF(words); i++)
        if (!strcmp(words[i], s)) return true;
    if (ssd_fn_find(s, strlen(s)) >= 0 || ssd_prog_find_axis(w->p, s)) return true;
    for (u32 i = (u32)ssd_hash(s, strlen(s), 0) & (set->cap - 1); set->slot[i];
         i = (i + 1) & (set->cap - 1))
        if (!strcmp(set->slot[i], s)) return true;
    return false;
}

// A name the parser takes.
static char *plain(const Prog *p, const char *s) {
    char *t = ssd_arena_dup(p->arena, *s ? s : "_", *s ? strlen(s) : 1);
    for (char *c = t; *c; c++)
        if (!strchr("._0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-", *c))
            *c = '_';
    return t;
}

// The wish itself, else k1, k2, ..; s1_1, s1_2 after a digit.
static void name(Printer *w, Names *set, Val v, bool word) {
    if (!v || v >= w->p->vals.n || w->name[v]) return;
    const char *wish = w->p->vals.v[v].name;
    char *s = ssd_arena_dup(w->p->arena, wish, strlen(wish));
    for (char *c = s; *c; c++)
        if (!strchr("_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", *c))
            *c = '_';
    if (!*s || (*s >= '0' && *s <= '9')) s = ssd_arena_printf(w->p->arena, "v%s", s);
    char last = s[strlen(s) - 1];
    const char *base = s, *sep = last >= '0' && last <= '9' ? "_" : "";
    for (int k = 1; taken(w, set, s, word); k++)
        s = ssd_arena_printf(w->p->arena, "%s%s%d", base, sep, k);
    u32 i = (u32)ssd_hash(s, strlen(s), 0) & (set->cap - 1);
    while (set->slot[i]) i = (i + 1) & (set->cap - 1);
    w->name[v] = set->slot[i] = s;
}

static void names(Printer *w, Names *set, const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next) {
        if (o->out) name(w, set, o->out, o->op != TOP_RING && o->op != TOP_ROLE);
        if (o->var) name(w, set, o->var, true);
        if (o->op == TOP_FOR || o->op == TOP_EACH)
            for (int i = 0; i < o->ncarry; i++) name(w, set, o->carry[i], true);
        names(w, set, &o->body);
    }
}

static Printer printer(const Prog *p, Text *out) {
    Printer w = {.p = p, .out = out, .name = NEWN(p->arena, const char *, p->vals.n)};
    Names set = {.cap = 16};
    while (set.cap < 2 * p->vals.n) set.cap *= 2;
    set.slot = NEWN(p->arena, const char *, set.cap);
    for (u32 i = 0; i < p->kernels.n; i++) {
        const TKernel *k = &p->kernels.v[i];
        memset(set.slot, 0, set.cap * sizeof *set.slot);
        for (int g = 0; g < k->ngrid; g++) name(&w, &set, k->grid[g].var, true);
        names(&w, &set, &k->body);
    }
    return w;
}

// --- Whole programs -----------------------------------------------------------------------------
void ssd_ex_print(const Prog *p, Ex e, Text *out) {
    Printer w = printer(p, out);
    expr(&w, e, 0, (ExStyle){0});
}

void ssd_tile_op_print(const Prog *p, const TOp *o, Text *out) {
    Printer w = printer(p, out);
    op(&w, o);
}

const char *ssd_tile_val_name(const Prog *p, Val v) {
    Printer w = printer(p, NULL);
    return val_name(&w, v);
}

static void kernel(Printer *w, const TKernel *k) {
    ssd_text_printf(w->out, "kernel %s", k->name);
    for (int i = 0; i < k->ngrid; i++) {
        ssd_text_printf(w->out, i ? " %s=" : " grid %s=", val_name(w, k->grid[i].var));
        expr(w, k->grid[i].size, 0, tight);
    }
    ssd_text_printf(w->out, "\n");
    block(w, &k->body, 1);
}

void ssd_tile_print(const Prog *p, Text *out) {
    static const char *const role[] = {"in", "out", "ws"};
    Printer w = printer(p, out);
    ssd_text_printf(out, "program %s stratum %d\n", plain(p, p->name), p->stratum);
    if (p->schedule && *p->schedule) ssd_text_printf(out, "schedule %s\n", p->schedule);
    for (u32 i = 0; i < p->syms.n; i++) ssd_text_printf(out, i ? " %s" : "sym %s", p->syms.v[i]);
    if (p->syms.n) ssd_text_printf(out, "\n");
    for (u32 i = 1; i < p->axes.n; i++)
        ssd_text_printf(out, i > 1 ? " %s=%lld" : "axes %s=%lld", p->axes.v[i].name,
                        (long long)p->axes.v[i].size);
    if (p->axes.n > 1) ssd_text_printf(out, "\n");
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *t = &p->tensors.v[i];
        ssd_text_printf(out, "%s %s %s[", role[t->role], t->name,
                        ssd_dtype_name((ssd_dtype)t->dtype));
        for (int d = 0; d < t->rank; d++) {
            if (d) ssd_text_printf(out, " ");
            expr(&w, t->dim[d], 0, (ExStyle){.tight = true, .bare_syms = true});
        }
        ssd_text_printf(out, "]");
        if (t->alias) ssd_text_printf(out, " alias %s", t->alias);
        ssd_text_printf(out, "\n");
    }
    for (u32 i = 0; i < p->kernels.n; i++) kernel(&w, &p->kernels.v[i]);
}
