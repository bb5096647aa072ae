// SPDX-License-Identifier: Apache-2.0
// Text to tile programs: reads what tile_print.c writes, and what a person would write by hand,
// where types may be left out, `;` joins short ops on one line, and `# ..` is a comment (`#b` is a
// symbol). Blocks are indented. The first error ends the parse; the program returned has passed the
// verifier.
#include "tile_lex.h"

#include <stdio.h>

enum { MAX_DEPTH = 100, MAX_BLOCKS = 32, MAX_OPERATORS = 2000 }; // of parentheses, blocks, a line

// --- Expressions --------------------------------------------------------------------------------
static Ex expr(Parser *r);
static Ex unary(Parser *r);

static int index_list(Parser *r, Ex out[8]) {
    int n = 0;
    want(r, "[");
    while (!is(r, "]")) {
        if (n) want(r, ",");
        if (n == 8) fail(r, "more than 8 indices");
        out[n++] = expr(r);
    }
    want(r, "]");
    return n;
}

static u16 tensor(Parser *r) {
    const char *at = r->tok;
    const char *s = word(r, "a tensor");
    u16 t = ssd_prog_find_tensor(r->p, s);
    if (!t) fail_at(r, at, "unknown tensor `%s`", s);
    return t;
}

static Ex call(Parser *r, FnCode f) {
    Ex arg[3] = {0};
    next(r);
    want(r, "(");
    for (int i = 0; i < ssd_fns[f].arity; i++) {
        if (i) want(r, ",");
        arg[i] = expr(r);
    }
    want(r, ")");
    return ssd_ex_fn(r->p, f, arg[0], arg[1], arg[2]);
}

static Ex symbol(Parser *r, const char *s, size_t n) {
    for (u32 i = 0; i < r->p->syms.n; i++)
        if (strlen(r->p->syms.v[i]) == n && !memcmp(r->p->syms.v[i], s, n))
            return ssd_ex_sym(r->p, r->p->syms.v[i]);
    return 0;
}

static Ex name(Parser *r) {
    static const struct {
        const char *name;
        double v;
    } constants[] = {{"inf", 1. / 0.}, {"nan", 0. / 0.}, {"log2e", 1.4426950408889634}};
    Prog *p = r->p;
    int f = ssd_fn_find(r->tok, r->len);
    const char *after = r->at;
    while (after < r->cur.end && *after == ' ') after++;
    char follows = after < r->cur.end ? *after : 0;
    if (f >= 0 && follows == '(') return call(r, (FnCode)f);
    for (size_t i = 0; i < COUNTOF(constants); i++)
        if (take(r, constants[i].name)) return ssd_ex_num(p, constants[i].v);
    if (is(r, "true") || is(r, "false")) {
        Ex zero = ssd_ex_int(p, 0);
        return ssd_ex_fn(p, take(r, "true") ? FN_EQ : (next(r), FN_NE), zero, zero, 0);
    }
    if (r->dims) {
        Ex e = symbol(r, r->tok, r->len);
        if (!e) fail(r, "unknown symbol `%.*s`", (int)MIN(r->len, 40), r->tok);
        next(r);
        return e;
    }
    if (follows == '[' && after == r->at) {
        Ex idx[8];
        const char *at = r->tok;
        u16 t = tensor(r);
        int n = index_list(r, idx);
        if (n != p->tensors.v[t].rank)
            fail_at(r, at, "`%s` has rank %d, not %d", p->tensors.v[t].name, p->tensors.v[t].rank,
                    n);
        return ssd_ex_load(p, t, idx, n);
    }
    char *s = ssd_arena_dup(r->a, r->tok, r->len);
    u8 x = ssd_prog_find_axis(p, s);
    if (x) {
        next(r);
        return ssd_ex_axis(p, x);
    }
    return ssd_ex_val(p, value(r));
}

static Ex primary(Parser *r) {
    Ex e;
    if (++r->depth > MAX_DEPTH) fail(r, "the expression is nested too deeply");
    if (r->kind == K_NUM) {
        e = r->is_float ? ssd_ex_num(r->p, r->num) : ssd_ex_int(r->p, (i64)r->num);
        next(r);
    } else if (r->kind == K_SYM) {
        e = symbol(r, r->tok + 1, r->len - 1);
        if (!e) fail(r, "unknown symbol `%.*s`", (int)MIN(r->len, 40), r->tok);
        next(r);
    } else if (take(r, "(")) {
        e = expr(r);
        want(r, ")");
    } else if (r->kind == K_NAME) {
        e = name(r);
    } else {
        if (r->kind == K_END) fail(r, "expected an expression before the end of the line");
        fail(r, "expected an expression, found `%.*s`", (int)MIN(r->len, 40), r->tok);
    }
    r->depth--;
    return e;
}

static Ex unary(Parser *r) {
    if (++r->depth > MAX_DEPTH) fail(r, "the expression is nested too deeply");
    Ex e = take(r, "-") ? ssd_ex_fn(r->p, FN_NEG, unary(r), 0, 0) : primary(r);
    r->depth--;
    return e;
}

// Binary operators by level, loosest first. Level 2, between `and` and the comparisons, is `not`.
static const struct {
    const char *text;
    u8 level, fn;
} binary[] = {
    {"or", 0, FN_OR}, {"and", 1, FN_AND}, {"<", 3, FN_LT},    {"<=", 3, FN_LE}, {">", 3, FN_GT},
    {">=", 3, FN_GE}, {"==", 3, FN_EQ},   {"!=", 3, FN_NE},   {"+", 4, FN_ADD}, {"-", 4, FN_SUB},
    {"*", 5, FN_MUL}, {"/", 5, FN_DIV},   {"//", 5, FN_FDIV}, {"%", 5, FN_MOD},
};

static Ex level(Parser *r, int l) {
    if (l == 6) return unary(r);
    if (l == 2 && is(r, "not")) {
        if (++r->depth > MAX_DEPTH) fail(r, "the expression is nested too deeply");
        next(r);
        Ex e = ssd_ex_fn(r->p, FN_NOT, level(r, 2), 0, 0);
        r->depth--;
        return e;
    }
    Ex e = level(r, l + 1);
    for (;;) {
        size_t i = 0;
        while (i < COUNTOF(binary) && !(binary[i].level == l && is(r, binary[i].text))) i++;
        if (i == COUNTOF(binary)) return e;
        // Chains lean left: a long one is a deep tree for whoever walks it.
        if (++r->operators > MAX_OPERATORS) fail(r, "more than %d operators", MAX_OPERATORS);
        next(r);
        e = ssd_ex_fn(r->p, (FnCode)binary[i].fn, e, level(r, l + 1), 0);
        if (l == 3) return e; // comparisons do not chain
    }
}

// The number of axes an expression has; builders refuse more than they can hold.
static void mark_axes(const Prog *p, Ex e, bool seen[256]) {
    const Expr *x = &p->exs.v[e];
    if (x->kind == EX_AXIS) seen[x->axis] = true;
    if (x->kind == EX_VAL)
        for (int i = 0; i < p->vals.v[x->val].naxes; i++) seen[p->vals.v[x->val].ax[i]] = true;
    for (int i = 0; i < x->nidx; i++) mark_axes(p, x->idx[i], seen);
    if (x->kind == EX_FN)
        for (int i = 0; i < ssd_fns[x->fn].arity; i++) mark_axes(p, x->arg[i], seen);
}
static int count(const bool seen[256]) {
    int n = 0;
    for (int i = 0; i < 256; i++) n += seen[i];
    return n;
}

static Ex expr(Parser *r) {
    const char *at = r->tok;
    Ex e = level(r, 0);
    bool seen[256] = {0};
    if (r->depth == 0) {
        mark_axes(r->p, e, seen);
        if (count(seen) > 6) fail_at(r, at, "an expression over more than 6 axes");
    }
    return e;
}

static i64 integer(Parser *r, const char *what, double lo, double hi) {
    const char *at = r->tok;
    Ex e = expr(r);
    const Expr *x = &r->p->exs.v[e];
    if (x->kind != EX_NUM || x->dtype != SSD_IDX) fail_at(r, at, "%s must be a whole number", what);
    if (x->num < lo || x->num > hi)
        fail_at(r, at, "%s must be between %.0f and %.0f", what, lo, hi);
    return (i64)x->num;
}

// --- Types --------------------------------------------------------------------------------------
static u8 dtype(Parser *r) {
    for (int d = SSD_F32; d <= SSD_IDX; d++)
        if (take(r, ssd_dtype_name((ssd_dtype)d))) return (u8)d;
    fail(r, "expected a dtype");
}

typedef struct Type {
    u8 dtype; // 0: not given
    int naxes;
    u8 ax[6];
    const char *at;
    Lay lay;
} Type;

static void layout(Parser *r, Lay *l) {
    static const char *const space[] = {"",      "scalar", "mem", "shared", "reg",  "sw128",
                                        "loose", "row",    "acc", "frag",   "lane", "cols"};
    for (u8 i = 1; i < COUNTOF(space) && !l->space; i++)
        if (take(r, space[i])) l->space = i;
    if (!l->space) fail(r, "expected a space");
    bool strides = false;
    if (take(r, "("))
        while (!take(r, ")")) {
            if (l->naxes == COUNTOF(l->ax)) fail(r, "more than %d axes", (int)COUNTOF(l->ax));
            l->ax[l->naxes] = axis(r);
            if (take(r, ":")) {
                strides = true;
                l->stride[l->naxes] = integer(r, "a stride", 0, 0x1p40);
            }
            l->naxes++;
        }
    i64 dense = 1;
    for (int i = l->naxes - 1; i >= 0 && !strides && l->space < SP_SW128; i--) {
        l->stride[i] = dense;
        dense *= r->p->axes.v[l->ax[i]].size;
    }
    if (!take(r, "in")) return;
    l->buf = value(r);
    if (take(r, "+")) l->offset = integer(r, "an offset", 0, 0x1p40);
}

static Type type(Parser *r) {
    Type t = {.at = r->tok};
    if (take(r, ":")) {
        t.at = r->tok;
        t.dtype = dtype(r);
        if (take(r, "[")) t.naxes = ssd_lex_axes(r, "]", t.ax, COUNTOF(t.ax));
    }
    if (take(r, "@")) layout(r, &t.lay);
    return t;
}

// Gives a value its declared type: the dtype, and the order of the axes that were inferred.
static void set_type(Parser *r, Val v, const Type *t) {
    TVal *x = &r->p->vals.v[v];
    x->lay = t->lay;
    if (!t->dtype) return;
    bool same = t->naxes == x->naxes;
    for (int i = 0; same && i < t->naxes; i++) same = memchr(x->ax, t->ax[i], x->naxes) != NULL;
    if (!same) {
        char s[80] = "";
        for (int i = 0; i < x->naxes; i++)
            snprintf(s + strlen(s), sizeof s - strlen(s), i ? " %s" : "%s",
                     r->p->axes.v[x->ax[i]].name);
        fail_at(r, t->at, "the axes of `%s` are [%s]", x->name, s);
    }
    memcpy(x->ax, t->ax, sizeof t->ax);
    x->dtype = t->dtype;
}

// --- Ops ----------------------------------------------------------------------------------------
static const char *const op_text[TOP__COUNT] = {
#define TOP(id, text, stratum, doc) [TOP_##id] = text,
#include "tile_ops.def"
};

typedef struct Where { // a tensor with indices, and a condition
    u16 tensor;
    Ex idx[8], when;
    int n;
} Where;

static Where place(Parser *r) {
    Where w = {0};
    w.tensor = tensor(r);
    const char *at = r->tok;
    w.n = index_list(r, w.idx);
    int rank = r->p->tensors.v[w.tensor].rank;
    if (w.n != rank)
        fail_at(r, at, "`%s` has rank %d, not %d", r->p->tensors.v[w.tensor].name, rank, w.n);
    bool seen[256] = {0};
    for (int i = 0; i < w.n; i++) mark_axes(r->p, w.idx[i], seen);
    if (count(seen) > 6) fail_at(r, at, "indices over more than 6 axes");
    return w;
}

static Ex when(Parser *r) { return take(r, "when") ? expr(r) : 0; }

static Ex slice_at(Parser *r, u8 *out_axis) {
    *out_axis = axis(r);
    want(r, "=");
    return expr(r);
}

static Ex braces(Parser *r) {
    want(r, "{");
    Ex e = expr(r);
    want(r, "}");
    return e;
}

static bool sum_or_max(Parser *r) {
    bool max = take(r, "max");
    if (!max) want(r, "sum");
    return max;
}

static Val with_axis(Parser *r, Val v, u8 x) {
    const TVal *t = &r->p->vals.v[v];
    if (!memchr(t->ax, x, t->naxes)) fail(r, "`%s` has no axis %s", t->name, r->p->axes.v[x].name);
    return v;
}

// How many axes a result would have is checked before a builder is asked for it.
static void room(Parser *r, const char *at, Val a, Val b, int more) {
    bool seen[256] = {0};
    int shared = 0;
    for (int i = 0; i < r->p->vals.v[a].naxes; i++) seen[r->p->vals.v[a].ax[i]] = true;
    for (int i = 0; b && i < r->p->vals.v[b].naxes; i++) {
        shared += seen[r->p->vals.v[b].ax[i]];
        seen[r->p->vals.v[b].ax[i]] = true;
    }
    if (count(seen) > 8 || count(seen) - shared + more > 6)
        fail_at(r, at, "a tile of more than 6 axes");
}

static TOp *mma(Parser *r, TB *b, const char *s) {
    bool async = take(r, "async");
    const char *at = r->tok;
    Val x = value(r), y = value(r), acc = 0;
    u8 keep[3], row = 0, col = 0;
    int n = 0;
    if (take(r, "keep"))
        while (r->kind == K_NAME && !is(r, "tri") && !is(r, "inplace")) {
            if (n == COUNTOF(keep)) fail(r, "more than %d axes kept", (int)COUNTOF(keep));
            keep[n++] = axis(r);
        }
    if (take(r, "tri")) row = axis(r), col = axis(r);
    if (take(r, "+")) acc = value(r);
    room(r, at, x, y, n);
    ssd_tile_mma(b, s, SSD_F32, x, y, acc, keep, n);
    b->at->last->tri_row = row, b->at->last->tri_col = col;
    b->at->last->flags |= async ? TF_ASYNC : 0;
    return b->at->last;
}

static void reshape(Parser *r, TB *b, TOpCode op, const char *s) {
    const char *at = r->tok;
    Val v = value(r);
    u8 x, u, y;
    switch (op) {
    case TOP_SPLIT:
        with_axis(r, v, x = axis(r));
        want(r, "->"), want(r, "(");
        u = axis(r), y = axis(r);
        want(r, ")");
        room(r, at, v, 0, 1);
        ssd_tile_split(b, s, v, x, u, y);
        break;
    case TOP_JOIN:
        want(r, "(");
        with_axis(r, v, u = axis(r)), with_axis(r, v, y = axis(r));
        want(r, ")"), want(r, "->");
        x = axis(r);
        ssd_tile_join(b, s, v, u, y, x);
        break;
    case TOP_SLICE: {
        with_axis(r, v, x = axis(r));
        want(r, "->");
        y = axis(r);
        want(r, "from");
        ssd_tile_slice(b, s, v, x, y, integer(r, "the start of a slice", 0, 0x1p40));
        break;
    }
    default: { // rename
        with_axis(r, v, x = axis(r));
        want(r, "->");
        y = axis(r);
        ssd_tile_rename(b, s, v, x, y);
        if (r->kind != K_NAME || is(r, "inplace")) break;
        TOp *o = b->at->last;
        with_axis(r, v, o->ax[2] = axis(r));
        want(r, "->");
        o->ax[3] = axis(r);
        TVal *t = &r->p->vals.v[o->out]; // both at once: i->j j->i exchanges
        memcpy(t->ax, r->p->vals.v[v].ax, sizeof t->ax);
        for (int i = 0; i < t->naxes; i++)
            t->ax[i] = t->ax[i] == o->ax[0] ? o->ax[1] : t->ax[i] == o->ax[2] ? o->ax[3] : t->ax[i];
    }
    }
}

static void binary_shape(Parser *r, TB *b, TOpCode op, const char *s) {
    const char *at = r->tok;
    Val v = value(r), w = 0;
    u8 x, y = 0;
    Ex e, e2 = 0;
    switch (op) {
    case TOP_AT:
        e = slice_at(r, &x);
        with_axis(r, v, x);
        ssd_tile_at(b, s, v, x, e);
        break;
    case TOP_PICK: {
        e = slice_at(r, &x);
        with_axis(r, v, x);
        bool seen[256] = {0};
        mark_axes(r->p, e, seen);
        for (int i = 0; i < r->p->vals.v[v].naxes; i++) seen[r->p->vals.v[v].ax[i]] = true;
        if (count(seen) > 6) fail_at(r, at, "a tile of more than 6 axes");
        ssd_tile_pick(b, s, v, x, e);
        break;
    }
    case TOP_PUT: {
        e = slice_at(r, &x);
        with_axis(r, v, x);
        const char *ahead = r->at;
        while (ahead < r->cur.end && *ahead == ' ') ahead++;
        if (r->kind == K_NAME && ahead < r->cur.end && *ahead == '=') {
            e2 = slice_at(r, &y);
            with_axis(r, v, y);
        }
        w = value(r);
        ssd_tile_put(b, s, v, x, e, y, e2, w);
        break;
    }
    default: { // cat
        w = value(r);
        with_axis(r, v, x = axis(r));
        u8 z = r->kind == K_NAME ? axis(r) : 0;
        if (z) with_axis(r, w, z);
        want(r, "->");
        y = axis(r);
        ssd_tile_cat(b, s, v, w, x, y);
        b->at->last->ax[2] = z;
    }
    }
}

// The op after `name =`. Its type is read between the text of the op and the call of its builder
// where the builder needs it.
static void value_op(Parser *r, TB *b, TOpCode op, const char *s) {
    Type t = {0};
    Ex e;
    u8 x, y;
    switch (op) {
    case TOP_LOAD: {
        Where w = place(r);
        w.when = when(r);
        bool inplace = take(r, "inplace");
        t = type(r);
        u8 dt = r->p->tensors.v[w.tensor].dtype;
        ssd_tile_load(b, s,
                      t.dtype         ? t.dtype
                      : dt == SSD_I32 ? SSD_IDX
                                      : dt,
                      w.tensor, w.idx, w.n, w.when);
        b->at->last->flags |= inplace ? TF_INPLACE : 0;
        break;
    }
    case TOP_MAP: {
        e = braces(r);
        bool inplace = take(r, "inplace");
        t = type(r);
        ssd_tile_map(b, s, t.dtype ? t.dtype : r->p->exs.v[e].dtype, e);
        b->at->last->flags |= inplace ? TF_INPLACE : 0;
        break;
    }
    case TOP_FILL: {
        u8 ax[6];
        e = unary(r);
        want(r, "[");
        int n = ssd_lex_axes(r, "]", ax, COUNTOF(ax));
        t = type(r);
        ssd_tile_fill(b, s, t.dtype ? t.dtype : SSD_F32, e, ax, n);
        break;
    }
    case TOP_REDUCE: {
        bool max = sum_or_max(r);
        x = axis(r);
        e = braces(r);
        ssd_tile_reduce(b, s, max, x, e);
        break;
    }
    case TOP_MMA: mma(r, b, s); break;
    case TOP_SCAN: {
        u8 flags = sum_or_max(r) ? TF_MAX : 0;
        x = axis(r);
        Val v = with_axis(r, value(r), x);
        if (take(r, "rev")) flags |= TF_REV;
        if (take(r, "excl")) flags |= TF_EXCL;
        ssd_tile_scan(b, s, x, v, flags);
        break;
    }
    case TOP_AT:
    case TOP_PICK:
    case TOP_PUT:
    case TOP_CAT: binary_shape(r, b, op, s); break;
    case TOP_SPLIT:
    case TOP_JOIN:
    case TOP_SLICE:
    case TOP_RENAME: reshape(r, b, op, s); break;
    case TOP_SWAP: {
        Val v = value(r);
        with_axis(r, v, x = axis(r));
        bool halves = take(r, "halves");
        if (!halves) want(r, "adjacent");
        ssd_tile_swap(b, s, v, x, halves);
        break;
    }
    case TOP_INV: {
        Val v = value(r);
        x = axis(r), y = axis(r);
        ssd_tile_inv(b, s, v, x, y);
        break;
    }
    case TOP_COPY: ssd_tile_copy(b, s, value(r)); break;
    case TOP_BUF: {
        TOp *o = ssd_tile_op(b, TOP_BUF);
        o->bytes = integer(r, "a buffer's size", 0, 0x1p40);
        o->out = ssd_prog_val(r->p, s, SSD_NONE, NULL, 0);
        break;
    }
    case TOP_REGS: {
        TOp *o = ssd_tile_op(b, TOP_REGS);
        o->out = ssd_prog_val(r->p, s, dtype(r), NULL, 0);
        o->depth = (int)integer(r, "registers", 1, 255);
        return;
    }
    default: fail(r, "`%s` defines no value", op_text[op]);
    }
    TOp *o = b->at->last;
    if (take(r, "inplace")) o->flags |= TF_INPLACE;
    if (!t.at) t = type(r);
    set_type(r, o->out, &t);
}

static void block(Parser *r, TBlock *at, int indent, int depth);

static void loop(Parser *r, TB *b, TOpCode op, int indent, int depth) {
    const char *var_at = r->tok;
    char *var = word(r, "a loop variable");
    want(r, "in");
    Ex lo = expr(r);
    want(r, "..");
    Ex hi = expr(r);
    TOp *o = ssd_tile_for(b, var, lo, hi, take(r, "rev"));
    o->op = (u8)op;
    o->line = r->cur.number;
    struct {
        const char *s, *at;
    } carry[64];
    if (take(r, "carry")) do {
            if (o->ncarry == COUNTOF(carry)) fail(r, "more than %d carries", (int)COUNTOF(carry));
            carry[o->ncarry].at = r->tok;
            char *s = word(r, "a carry");
            carry[o->ncarry].s = s;
            want(r, "=");
            Ex init = expr(r);
            Type t = type(r);
            set_type(r, ssd_tile_carry(b, o, s, init), &t);
        } while (take(r, ","));
    done(r);
    for (int i = 0; i < o->ncarry; i++) ssd_lex_define(r, carry[i].at, carry[i].s, o->carry[i]);
    u32 mark = r->names.n;
    ssd_lex_define(r, var_at, var, o->var);
    block(r, &o->body, indent, depth + 1);
    ssd_lex_hide(r, mark);
}

// --- Roles and rings (T2) -----------------------------------------------------------------------
// An expression in front of `=` or `<-`: no comparison.
static Ex sum(Parser *r) { return level(r, 4); }

static void ring(Parser *r, TB *b, int indent, int depth) {
    const char *at = r->tok;
    TOp *o = ssd_tile_op(b, TOP_RING);
    o->line = r->cur.number;
    char *s = word(r, "a ring");
    if (r->kind != K_NAME || *r->tok != 'x' || r->len < 2 || r->len > 4)
        fail(r, "expected x and the number of slots");
    for (size_t i = 1; i < r->len; i++) {
        if (!digit(r->tok[i])) fail(r, "expected x and the number of slots");
        o->depth = 10 * o->depth + (r->tok[i] - '0');
    }
    next(r);
    o->copies = take(r, "copies") ? (int)integer(r, "copies", 1, 255) : 1;
    done(r);
    ssd_lex_define(r, at, s, o->out = ssd_prog_val(r->p, s, SSD_IDX, NULL, 0));
    block(r, &o->body, indent, depth + 1);
}

static void slot(Parser *r, TB *b) {
    const char *at = r->tok;
    char *s = word(r, "a tile");
    Type t = type(r);
    if (!t.dtype) fail(r, "expected `:` and a type");
    TOp *o = ssd_tile_op(b, TOP_SLOT);
    o->out = ssd_prog_val(r->p, s, t.dtype, t.ax, t.naxes);
    r->p->vals.v[o->out].lay = t.lay;
    if (take(r, "run")) o->depth = (int)integer(r, "equal elements", 1, 4096);
    ssd_lex_define(r, at, s, o->out);
}

static void role(Parser *r, TB *b, int indent, int depth) {
    const char *at = r->tok;
    TOp *o = ssd_tile_op(b, TOP_ROLE);
    o->line = r->cur.number;
    char *s = word(r, "a role");
    ssd_lex_define(r, at, s, o->out = ssd_prog_val(r->p, s, SSD_IDX, NULL, 0));
    want(r, "warps");
    o->warps = (int)integer(r, "warps", 1, 64);
    u32 mark = r->names.n;
    o->copies = 1;
    if (take(r, "copies")) {
        o->copies = (int)integer(r, "copies", 1, 64);
        at = r->tok;
        if (o->copies > 1 || (r->kind == K_NAME && !is(r, "regs"))) {
            s = word(r, "the copy's variable");
            ssd_lex_define(r, at, s, o->var = ssd_prog_val(r->p, s, SSD_IDX, NULL, 0));
        }
    }
    if (take(r, "regs")) o->regs = (int)integer(r, "registers", 1, 255);
    done(r);
    block(r, &o->body, indent, depth + 1);
    ssd_lex_hide(r, mark);
}

static void part(Parser *r, TOp *o) {
    o->a = value(r);
    if (!take(r, "at")) return;
    with_axis(r, o->a, o->ax[0] = axis(r));
    want(r, "=");
    o->e = sum(r);
}

static void away(Parser *r, TOp *o) {
    Where w = place(r);
    o->tensor = w.tensor, o->nidx = (u8)w.n;
    memcpy(o->idx, w.idx, sizeof o->idx);
}

static bool timed_op(Parser *r, TB *b) {
    static const u8 ops[] = {TOP_ACQUIRE, TOP_PUBLISH, TOP_AWAIT, TOP_RELEASE,
                             TOP_FETCH,   TOP_SEND,    TOP_INTO,  TOP_WAIT};
    size_t i = 0;
    while (i < COUNTOF(ops) && !take(r, op_text[ops[i]])) i++;
    if (i == COUNTOF(ops)) return false;
    TOp *o = ssd_tile_op(b, (TOpCode)ops[i]);
    switch (ops[i]) {
    case TOP_FETCH:
        part(r, o);
        want(r, "<"), want(r, "-");
        away(r, o);
        o->when = when(r);
        if (take(r, "loose")) o->flags |= TF_LOOSE;
        break;
    case TOP_SEND:
        away(r, o);
        want(r, "<"), want(r, "-");
        o->a = value(r);
        o->when = when(r);
        break;
    case TOP_INTO:
        part(r, o);
        if (take(r, "tri")) o->tri_row = axis(r), o->tri_col = axis(r);
        want(r, "=");
        o->e2 = expr(r);
        if (take(r, "below")) o->hi = expr(r);
        break;
    case TOP_WAIT:
        o->a = value(r);
        if (take(r, "pending")) o->pending = (int)integer(r, "products", 0, 255);
        break;
    default: // acquire, publish, await, release
        o->a = value(r);
        if (take(r, "at")) o->e = expr(r);
    }
    return true;
}

static void statement(Parser *r, TBlock *at, int indent, int depth) {
    TB b = {r->p, at};
    int line = r->cur.number;
    if (take(r, "ring")) {
        ring(r, &b, indent, depth);
        return;
    }
    if (take(r, "role")) {
        role(r, &b, indent, depth);
        return;
    }
    if (is(r, "for") || is(r, "each")) {
        TOpCode op = is(r, "for") ? TOP_FOR : TOP_EACH;
        next(r);
        loop(r, &b, op, indent, depth);
        return;
    }
    if (take(r, "if")) {
        TOp *o = ssd_tile_if(&b, expr(r));
        o->line = line;
        done(r);
        u32 mark = r->names.n;
        block(r, &o->body, indent, depth + 1);
        ssd_lex_hide(r, mark);
        return;
    }
    if (take(r, "slot")) {
        slot(r, &b);
    } else if (timed_op(r, &b)) {
        ; // all of it was read
    } else if (take(r, "store")) {
        Where w = place(r);
        want(r, "=");
        Ex e = expr(r);
        ssd_tile_store(&b, w.tensor, w.idx, w.n, e, when(r));
    } else if (take(r, "prefetch")) {
        Where w = place(r);
        TOp *o = ssd_tile_op(&b, TOP_PREFETCH);
        o->tensor = w.tensor, o->nidx = (u8)w.n;
        memcpy(o->idx, w.idx, sizeof o->idx);
        o->when = when(r);
    } else if (take(r, "yield")) {
        Ex nexts[64];
        int n = 0;
        while (r->kind != K_END) {
            if (n) want(r, ",");
            if (n == (int)COUNTOF(nexts)) fail(r, "more than %d values", n);
            nexts[n++] = expr(r);
        }
        ssd_tile_yield(&b, nexts, n);
    } else {
        const char *name_at = r->tok;
        char *s = word(r, "an op");
        want(r, "=");
        int op = 0;
        while (op < TOP__COUNT && !is(r, op_text[op])) op++;
        if (op == TOP__COUNT) fail(r, "unknown op `%.*s`", (int)MIN(r->len, 40), r->tok);
        next(r);
        value_op(r, &b, (TOpCode)op, s);
        ssd_lex_define(r, name_at, s, at->last->out);
    }
    at->last->line = line;
    done(r);
}

// The lines that are indented more than `indent`, all alike.
static void block(Parser *r, TBlock *at, int indent, int depth) {
    if (depth > MAX_BLOCKS) fail(r, "blocks are nested too deeply");
    if (r->line == r->lines.n || r->lines.v[r->line].indent <= indent) return;
    int own = r->lines.v[r->line].indent;
    while (r->line < r->lines.n && r->lines.v[r->line].indent > indent) {
        ssd_lex_line(r);
        if (r->cur.indent != own) fail(r, "the indentation does not match its block");
        statement(r, at, own, depth);
    }
}

// --- Declarations -------------------------------------------------------------------------------
// The rest of the line, up to a space when `one` is set.
static char *raw(Parser *r, bool one) {
    const char *s = r->tok, *e = r->cur.end;
    if (one)
        for (e = s; e < r->cur.end && *e != ' ';) e++;
    if (e == s) fail(r, "expected a name");
    for (const char *c = s; c < e; c++)
        if (*c < 32 || *c > 126) fail_at(r, c, "unexpected byte 0x%02x", (unsigned)(u8)*c);
    char *text = ssd_arena_dup(r->a, s, (size_t)(e - s));
    r->at = e;
    next(r);
    return text;
}

static void declare_tensor(Parser *r, TRole role) {
    Ex dim[8];
    int n = 0;
    const char *at = r->tok;
    char *s = word(r, "a tensor's name");
    if (ssd_prog_find_tensor(r->p, s)) fail_at(r, at, "two tensors are called `%s`", s);
    if (r->p->tensors.n > 60000) fail_at(r, at, "too many tensors");
    u8 dt = dtype(r);
    r->dims = true;
    if (take(r, "["))
        while (!take(r, "]")) {
            if (n == (int)COUNTOF(dim)) fail(r, "more than %d dimensions", n);
            const char *start = r->tok;
            dim[n] = expr(r);
            const Expr *d = &r->p->exs.v[dim[n++]];
            if (d->kind == EX_NUM && d->num < 0) fail_at(r, start, "a dimension is negative");
        }
    r->dims = false;
    u16 t = ssd_prog_tensor(r->p, role, s, dt, n, dim);
    if (take(r, "alias")) r->p->tensors.v[t].alias = word(r, "an input");
    done(r);
}

static void declare_axes(Parser *r) {
    while (r->kind != K_END) {
        const char *at = r->tok;
        char *s = word(r, "an axis");
        want(r, "=");
        i64 n = integer(r, "an axis", 1, 1 << 24);
        if (ssd_prog_find_axis(r->p, s)) fail_at(r, at, "axis `%s` is already declared", s);
        if (r->p->axes.n > 250) fail_at(r, at, "too many axes");
        ssd_prog_axis(r->p, s, n);
    }
}

static void kernel(Parser *r, int indent) {
    const char *at = r->tok;
    char *s = word(r, "a kernel's name");
    TKernel *k = ssd_prog_kernel(r->p, s);
    r->names.n = 0;
    vec_push(r->a, &r->names, (Name){0});
    memset(r->chain, 0, sizeof r->chain);
    if (take(r, "grid"))
        while (r->kind != K_END) {
            if (k->ngrid == COUNTOF(k->grid)) fail(r, "more than %d grid variables", k->ngrid);
            at = r->tok;
            char *var = word(r, "a grid variable");
            want(r, "=");
            Ex size = expr(r);
            ssd_lex_define(r, at, var, ssd_prog_grid(r->p, k, var, size));
        }
    done(r);
    block(r, &k->body, indent, 0);
}

static void declaration(Parser *r) {
    static const char *const role[] = {"in", "out", "ws"};
    Prog *p = r->p;
    for (int i = 0; i < 3; i++)
        if (take(r, role[i])) {
            declare_tensor(r, (TRole)i);
            return;
        }
    if (take(r, "schedule"))
        p->schedule = raw(r, false);
    else if (take(r, "axes"))
        declare_axes(r);
    else if (take(r, "kernel"))
        kernel(r, r->cur.indent);
    else if (take(r, "sym"))
        while (r->kind != K_END) {
            if (p->syms.n == COUNTOF(((TileRun *)0)->sym)) fail(r, "too many symbols");
            const char *at = r->tok;
            char *s = word(r, "a symbol");
            if (symbol(r, s, strlen(s))) fail_at(r, at, "symbol `%s` is already declared", s);
            ssd_prog_sym(p, s);
        }
    else
        fail(r, "expected sym, axes, in, out, ws, schedule or kernel");
}

static void program(Parser *r) {
    if (!r->lines.n) fail(r, "there is no program");
    ssd_lex_line(r);
    want(r, "program");
    r->p->name = raw(r, true);
    if (take(r, "stratum")) r->p->stratum = (int)integer(r, "the stratum", 0, 2);
    done(r);
    while (r->line < r->lines.n) {
        ssd_lex_line(r);
        declaration(r);
    }
}

Prog *ssd_tile_read(Arena *a, const char *text, size_t n, const char *file, Diag *d) {
    Parser *r = NEW(a, Parser);
    r->a = a;
    r->file = file;
    r->d = d;
    r->p = ssd_prog_new(a, "");
    r->cur.number = 1;
    if (setjmp(r->out)) return NULL;
    ssd_lex_split(r, text, n);
    program(r);
    return r->p;
}

Prog *ssd_tile_parse(Arena *a, const char *text, size_t n, const char *file, Diag *d) {
    Prog *p = ssd_tile_read(a, text, n, file, d);
    Text why = {0};
    const TOp *at = NULL;
    if (!p || ssd_tile_check(p, &why, &at)) return p;
    ssd_diag_add(d, DIAG_ERROR, (Place){file, at ? at->line : 0, at ? 1 : 0}, "%s", why.s);
    ssd_text_free(&why);
    return NULL;
}
