// SPDX-License-Identifier: Apache-2.0
// What every pass and emitter may assume of a tile program: values are defined once and used where
// they are visible, axes and types fit the op, indices are affine in tile axes, and the program has
// what its stratum claims and nothing beyond: T0 knows no spaces, T1 gives every value a place that
// fits.
#include "timed.h"

#include <setjmp.h>

typedef struct Check {
    const Prog *p;
    Text *why;
    const TOp *op;     // being looked at
    const char *where; // kernel
    int stratum;       // of the kernel at hand
    bool timed;        // it is written as roles: timed_verify.c knows its layouts
    u8 *seen;          // by value: 0 not yet, 1 visible, 2 out of scope
    i64 *bytes;        // by value: size of a buffer
    VEC(Val) scope;    // visible ones in order
    jmp_buf out;
} Check;

SSD_NORETURN static void fail(Check *c, const char *fmt, ...) SSD_PRINTF(2, 3);
static void fail(Check *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    if (c->where) ssd_text_printf(c->why, "kernel %s: ", c->where);
    if (c->op && c->op->line) ssd_text_printf(c->why, "line %d: ", c->op->line);
    ssd_text_vprintf(c->why, fmt, ap);
    va_end(ap);
    if (c->op) {
        ssd_text_printf(c->why, " in `");
        ssd_tile_op_print(c->p, c->op, c->why);
        ssd_text_printf(c->why, "`");
    }
    longjmp(c->out, 1);
}

// --- Axis sets ----------------------------------------------------------------------------------
typedef struct Set {
    u64 bits[4];
} Set;
static void put(Set *s, u8 x) { s->bits[x >> 6] |= 1ull << (x & 63); }
static void del(Set *s, u8 x) { s->bits[x >> 6] &= ~(1ull << (x & 63)); }
static bool has(const Set *s, u8 x) { return s->bits[x >> 6] >> (x & 63) & 1; }
static bool equal(const Set *a, const Set *b) { return !memcmp(a, b, sizeof *a); }
static bool empty(const Set *s) { return !(s->bits[0] | s->bits[1] | s->bits[2] | s->bits[3]); }
static bool within(const Set *a, const Set *b) {
    for (int i = 0; i < 4; i++)
        if (a->bits[i] & ~b->bits[i]) return false;
    return true;
}
static void join(Set *s, const Set *t) {
    for (int i = 0; i < 4; i++) s->bits[i] |= t->bits[i];
}
static Set axes_of(const Check *c, Val v) {
    Set s = {0};
    for (int i = 0; i < c->p->vals.v[v].naxes; i++) put(&s, c->p->vals.v[v].ax[i]);
    return s;
}
static const char *name(const Check *c, Val v) { return ssd_tile_val_name(c->p, v); }
static const char *axis(const Check *c, u8 x) { return c->p->axes.v[x].name; }
static i64 size(const Check *c, u8 x) { return c->p->axes.v[x].size; }

// --- Expressions: visible names, axes, and how an index depends on tile axes --------------------
typedef enum { UNIFORM, AFFINE, OTHER } Shape;
typedef struct Info {
    Set axes;
    Shape shape;
    bool sym_only; // symbols and numbers
} Info;

static void visible(Check *c, Val v) {
    if (!v || v >= c->p->vals.n) fail(c, "value %u does not exist", v);
    if (c->seen[v] != 1)
        fail(c, c->seen[v] ? "`%s` is not visible here" : "`%s` is used before it is defined",
             name(c, v));
}

static Info expr(Check *c, Ex e);

static Info fn_info(Check *c, const Expr *x) {
    Info out = {.sym_only = true}, in[3];
    int n = ssd_fns[x->fn].arity, tiles = 0, worst = 0;
    bool logic = x->fn == FN_AND || x->fn == FN_OR || x->fn == FN_NOT;
    for (int i = 0; i < n; i++) {
        if (!x->arg[i]) fail(c, "%s lacks an operand", ssd_fns[x->fn].name);
        in[i] = expr(c, x->arg[i]);
        join(&out.axes, &in[i].axes);
        out.sym_only &= in[i].sym_only;
        tiles += in[i].shape != UNIFORM;
        worst = MAX(worst, (int)in[i].shape);
        bool want = logic || (x->fn == FN_WHERE && i == 0);
        bool is = c->p->exs.v[x->arg[i]].dtype == SSD_BOOL;
        bool branch = x->fn == FN_WHERE && i > 0;
        if (want != is && !branch)
            fail(c, "%s takes %s", ssd_fns[x->fn].name,
                 want ? "a condition" : "a number, not a condition");
    }
    if (x->fn == FN_WHERE &&
        (c->p->exs.v[x->arg[1]].dtype == SSD_BOOL) != (c->p->exs.v[x->arg[2]].dtype == SSD_BOOL))
        fail(c, "where chooses between a condition and a number");
    const Expr *exs = c->p->exs.v;
    bool linear =
        x->fn == FN_ADD || x->fn == FN_SUB || x->fn == FN_NEG ||
        (x->fn == FN_MUL && (exs[x->arg[0]].kind == EX_NUM || exs[x->arg[1]].kind == EX_NUM));
    out.shape = !tiles ? UNIFORM : linear ? (Shape)worst : OTHER;
    return out;
}

static Info expr(Check *c, Ex e) {
    Info out = {0};
    if (!e || e >= c->p->exs.n) fail(c, "an expression is missing");
    const Expr *x = &c->p->exs.v[e];
    switch ((ExKind)x->kind) {
    case EX_NUM:
    case EX_SYM: out.sym_only = true; break;
    case EX_AXIS:
        put(&out.axes, (u8)x->axis);
        out.shape = AFFINE;
        break;
    case EX_VAL:
        visible(c, x->val);
        out.axes = axes_of(c, x->val);
        out.shape = empty(&out.axes) ? UNIFORM : OTHER;
        break;
    case EX_LOAD:
        if (!x->tensor || x->tensor >= c->p->tensors.n) fail(c, "a tensor does not exist");
        if (x->nidx != c->p->tensors.v[x->tensor].rank)
            fail(c, "`%s` has rank %d, not %d", c->p->tensors.v[x->tensor].name,
                 c->p->tensors.v[x->tensor].rank, x->nidx);
        for (int i = 0; i < x->nidx; i++) {
            Info in = expr(c, x->idx[i]);
            if (in.shape != UNIFORM || c->p->exs.v[x->idx[i]].dtype != SSD_IDX)
                fail(c, "index %d of `%s` must be a rank-0 index inside an expression", i + 1,
                     c->p->tensors.v[x->tensor].name);
        }
        break;
    case EX_FN: return fn_info(c, x);
    }
    return out;
}

static u8 type(const Check *c, Ex e) { return c->p->exs.v[e].dtype; }

static void rank0(Check *c, Ex e, u8 dtype, const char *what) {
    Info in = expr(c, e);
    if (!empty(&in.axes)) fail(c, "%s has tile axes", what);
    if (type(c, e) != dtype)
        fail(c, "%s must be %s", what, dtype == SSD_BOOL ? "a condition" : "an index");
}

static void operand(Check *c, Val v, u8 ax) {
    visible(c, v);
    Set s = axes_of(c, v);
    if (ax && !has(&s, ax)) fail(c, "`%s` has no axis %s", name(c, v), axis(c, ax));
}

// --- Layouts (T1) -------------------------------------------------------------------------------
static void layout(Check *c, Val v, bool view) {
    const TVal *t = &c->p->vals.v[v];
    const Lay *l = &t->lay;
    if (c->stratum == 0) {
        if (l->space != SP_NONE)
            fail(c, "`%s` has a space, but the program claims stratum 0", name(c, v));
        return;
    }
    if (c->timed) return;
    if (l->space == SP_NONE) fail(c, "`%s` has no space", name(c, v));
    if (l->space > SP_REG) fail(c, "`%s` lies where only a role's tiles do", name(c, v));
    if (l->space == SP_SCALAR) {
        if (t->naxes) fail(c, "`%s` is a tile in a scalar's place", name(c, v));
        return;
    }
    if (l->space != SP_REG && !l->buf) fail(c, "`%s` lies in no buffer", name(c, v));
    if (!l->buf) return;
    visible(c, l->buf);
    const TVal *b = &c->p->vals.v[l->buf];
    if (b->lay.space != l->space)
        fail(c, "`%s` and its buffer `%s` are in different spaces", name(c, v), name(c, l->buf));
    Set want = axes_of(c, v), have = {0};
    i64 last = l->offset;
    for (int i = 0; i < l->naxes; i++) {
        if (has(&have, l->ax[i]))
            fail(c, "`%s` has axis %s twice in its layout", name(c, v), axis(c, l->ax[i]));
        put(&have, l->ax[i]);
        if (l->stride[i] < 0) fail(c, "`%s` has a negative stride", name(c, v));
        last += l->stride[i] * (size(c, l->ax[i]) - 1);
    }
    if (!equal(&want, &have))
        fail(c, "the layout of `%s` has other axes than its type", name(c, v));
    if (l->offset < 0) fail(c, "`%s` starts before its buffer", name(c, v));
    // A view lies within what it views; a dynamic one has only its static offset here.
    if (!view && (last + 1) * (i64)ssd_dtype_size((ssd_dtype)t->dtype) > c->bytes[l->buf])
        fail(c, "`%s` exceeds its buffer `%s` of %lld bytes", name(c, v), name(c, l->buf),
             (long long)c->bytes[l->buf]);
}

// --- Ops ----------------------------------------------------------------------------------------
static void define(Check *c, Val v) {
    if (!v || v >= c->p->vals.n) fail(c, "a value is missing");
    if (c->seen[v]) fail(c, "`%s` is defined twice", name(c, v));
    const TVal *t = &c->p->vals.v[v];
    Set s = {0};
    for (int i = 0; i < t->naxes; i++) {
        if (!t->ax[i] || t->ax[i] >= c->p->axes.n) fail(c, "`%s` has an unknown axis", name(c, v));
        if (has(&s, t->ax[i])) fail(c, "`%s` has axis %s twice", name(c, v), axis(c, t->ax[i]));
        put(&s, t->ax[i]);
    }
    c->seen[v] = 1;
    vec_push(c->p->arena, &c->scope, v);
}

static void result(Check *c, const Set *want) {
    const TOp *o = c->op;
    define(c, o->out);
    Set have = axes_of(c, o->out);
    if (!equal(&have, want)) {
        Text t = {0};
        for (int x = 1; x < (int)c->p->axes.n; x++)
            if (has(want, (u8)x)) ssd_text_printf(&t, " %s", axis(c, (u8)x));
        char s[128] = " none";
        if (t.s) strncpy(s, t.s, sizeof s - 1);
        ssd_text_free(&t);
        fail(c, "the axes of `%s` must be%s", name(c, o->out), s);
    }
    layout(c, o->out, ssd_tile_is_view(c->p, o));
}

static bool numeric(u8 dt) {
    return dt == SSD_F32 || dt == SSD_BF16 || dt == SSD_F16 || dt == SSD_F64;
}

// An index may become a float (`map {c*16+j} : f32[j]`), not the other way round.
static void result_type(Check *c, u8 ex_type) {
    u8 dt = c->p->vals.v[c->op->out].dtype;
    bool ok = ex_type == SSD_F32   ? numeric(dt)
              : ex_type == SSD_IDX ? dt == SSD_IDX || dt == SSD_I32 || numeric(dt)
                                   : dt == SSD_BOOL;
    if (!ok) fail(c, "`%s` has the wrong dtype", name(c, c->op->out));
}
static void same_type(Check *c, Val from) {
    if (c->p->vals.v[c->op->out].dtype != c->p->vals.v[from].dtype)
        fail(c, "`%s` must have the dtype of `%s`", name(c, c->op->out), name(c, from));
}
static void float_operand(Check *c, Val v) {
    if (!numeric(c->p->vals.v[v].dtype)) fail(c, "`%s` is no float", name(c, v));
}

static Set access(Check *c) {
    const TOp *o = c->op;
    Set s = {0};
    if (!o->tensor || o->tensor >= c->p->tensors.n) fail(c, "the tensor does not exist");
    const TTensor *t = &c->p->tensors.v[o->tensor];
    if (t->rank != o->nidx) fail(c, "`%s` has rank %d, not %d", t->name, t->rank, o->nidx);
    for (int i = 0; i < o->nidx; i++) {
        Info in = expr(c, o->idx[i]);
        if (type(c, o->idx[i]) != SSD_IDX) fail(c, "index %d is no index", i + 1);
        if (in.shape == OTHER) fail(c, "index %d is not affine in the tile axes", i + 1);
        join(&s, &in.axes);
    }
    if (o->when) {
        Info in = expr(c, o->when);
        if (type(c, o->when) != SSD_BOOL) fail(c, "`when` takes a condition");
        if (!within(&in.axes, &s)) fail(c, "`when` has an axis that no index has");
    }
    return s;
}

static void check_mma(Check *c) {
    const TOp *o = c->op;
    operand(c, o->a, 0), operand(c, o->b, 0);
    float_operand(c, o->a), float_operand(c, o->b);
    Set a = axes_of(c, o->a), b = axes_of(c, o->b), s = a;
    join(&s, &b);
    for (int i = 0; i < o->nkeep; i++)
        if (!has(&a, o->keep[i]) || !has(&b, o->keep[i]))
            fail(c, "axis %s is kept, but not shared", axis(c, o->keep[i]));
    for (int x = 1; x < (int)c->p->axes.n; x++)
        if (has(&a, (u8)x) && has(&b, (u8)x) && !memchr(o->keep, x, o->nkeep)) del(&s, (u8)x);
    if (o->c) {
        operand(c, o->c, 0), float_operand(c, o->c);
        Set acc = axes_of(c, o->c);
        if (!equal(&acc, &s))
            fail(c, "the accumulator `%s` has other axes than the product", name(c, o->c));
    }
    if (o->tri_row && (!has(&a, o->tri_row) || !has(&a, o->tri_col)))
        fail(c, "`%s` has not the axes of its triangle", name(c, o->a));
    result(c, &s);
    result_type(c, SSD_F32);
}

static void fresh(Check *c, const Set *s, u8 x) {
    if (!x || x >= c->p->axes.n) fail(c, "an axis is missing");
    if (has(s, x)) fail(c, "axis %s is already there", axis(c, x));
}

static void check_shape(Check *c) {
    const TOp *o = c->op;
    const u8 *ax = o->ax;
    operand(c, o->a, ax[0]);
    Set s = axes_of(c, o->a);
    del(&s, ax[0]);
    switch ((TOpCode)o->op) {
    case TOP_RENAME:
        if (ax[2]) {
            operand(c, o->a, ax[2]);
            del(&s, ax[2]);
            fresh(c, &s, ax[3]);
            put(&s, ax[3]);
            if (size(c, ax[2]) != size(c, ax[3])) fail(c, "the axes differ in size");
        }
        fresh(c, &s, ax[1]);
        put(&s, ax[1]);
        if (size(c, ax[0]) != size(c, ax[1])) fail(c, "the axes differ in size");
        break;
    case TOP_SPLIT:
        fresh(c, &s, ax[1]);
        put(&s, ax[1]);
        fresh(c, &s, ax[2]);
        put(&s, ax[2]);
        if (size(c, ax[0]) != size(c, ax[1]) * size(c, ax[2])) fail(c, "the sizes do not multiply");
        break;
    case TOP_JOIN:
        operand(c, o->a, ax[1]);
        del(&s, ax[1]);
        fresh(c, &s, ax[2]);
        put(&s, ax[2]);
        if (size(c, ax[2]) != size(c, ax[0]) * size(c, ax[1])) fail(c, "the sizes do not multiply");
        break;
    case TOP_SLICE: {
        const Expr *e = &c->p->exs.v[o->e];
        fresh(c, &s, ax[1]);
        put(&s, ax[1]);
        if (!o->e || e->kind != EX_NUM || e->dtype != SSD_IDX)
            fail(c, "a slice starts at a constant");
        if (e->num < 0 || e->num + (double)size(c, ax[1]) > (double)size(c, ax[0]))
            fail(c, "the slice exceeds axis %s", axis(c, ax[0]));
        break;
    }
    default: break;
    }
    result(c, &s);
    same_type(c, o->a);
}

static void check_cat(Check *c) {
    const TOp *o = c->op;
    operand(c, o->a, o->ax[0]), operand(c, o->b, o->ax[2]);
    Set a = axes_of(c, o->a), b = axes_of(c, o->b);
    del(&a, o->ax[0]);
    i64 more = o->ax[2] ? size(c, o->ax[2]) : has(&b, o->ax[0]) ? size(c, o->ax[0]) : 1;
    del(&b, o->ax[2] ? o->ax[2] : o->ax[0]);
    if (!equal(&a, &b)) fail(c, "`%s` and `%s` differ in other axes", name(c, o->a), name(c, o->b));
    fresh(c, &a, o->ax[1]);
    if (size(c, o->ax[1]) != size(c, o->ax[0]) + more)
        fail(c, "axis %s has %lld elements, not %lld", axis(c, o->ax[1]),
             (long long)size(c, o->ax[1]), (long long)(size(c, o->ax[0]) + more));
    put(&a, o->ax[1]);
    result(c, &a);
    same_type(c, o->a);
}

static void check_put(Check *c) {
    const TOp *o = c->op;
    operand(c, o->a, o->ax[0]), operand(c, o->a, o->ax[1]), operand(c, o->b, 0);
    rank0(c, o->e, SSD_IDX, "the index");
    if (o->ax[1]) rank0(c, o->e2, SSD_IDX, "the index");
    Set s = axes_of(c, o->a), w = axes_of(c, o->b), all = s;
    if (o->ax[0] == o->ax[1]) fail(c, "axis %s is named twice", axis(c, o->ax[0]));
    del(&s, o->ax[0]);
    if (o->ax[1]) del(&s, o->ax[1]);
    if (!equal(&s, &w)) fail(c, "`%s` has not the axes of the slice", name(c, o->b));
    result(c, &all);
    same_type(c, o->a);
}

static void check_pick(Check *c) {
    const TOp *o = c->op;
    operand(c, o->a, o->ax[0]);
    Info in = expr(c, o->e);
    if (type(c, o->e) != SSD_IDX) fail(c, "the index is no index");
    Set s = axes_of(c, o->a);
    del(&s, o->ax[0]);
    join(&s, &in.axes);
    result(c, &s);
    same_type(c, o->a);
}

static void block(Check *c, const TBlock *b, const TOp *loop);

static void check_loop(Check *c) {
    const TOp *o = c->op;
    rank0(c, o->lo, SSD_IDX, "the lower bound");
    rank0(c, o->hi, SSD_IDX, "the upper bound");
    for (int i = 0; i < o->ncarry; i++) {
        const Expr *x = &c->p->exs.v[o->init[i]];
        Info in = expr(c, o->init[i]);
        if (!empty(&in.axes) && x->kind != EX_VAL)
            fail(c, "a carry starts as a value, not as a tile expression");
    }
    for (int i = 0; i < o->ncarry; i++) {
        define(c, o->carry[i]);
        Set have = axes_of(c, o->carry[i]), want = expr(c, o->init[i]).axes;
        if (!equal(&have, &want))
            fail(c, "carry `%s` and its start have different axes", name(c, o->carry[i]));
        bool f = numeric(c->p->vals.v[o->carry[i]].dtype);
        if (f != (type(c, o->init[i]) == SSD_F32))
            fail(c, "carry `%s` and its start have different types", name(c, o->carry[i]));
        if (!c->p->vals.v[o->carry[i]].carry)
            fail(c, "`%s` is not marked as a carry", name(c, o->carry[i]));
        layout(c, o->carry[i], false);
    }
    u32 mark = c->scope.n;
    define(c, o->var);
    block(c, &o->body, o);
    c->op = o;
    const TOp *last = o->body.last;
    if (o->ncarry && (!last || last->op != TOP_YIELD))
        fail(c, "the loop carries values, but does not yield");
    while (c->scope.n > mark) c->seen[c->scope.v[--c->scope.n]] = 2;
}

static void check_yield(Check *c, const TOp *loop) {
    const TOp *o = c->op;
    if (!loop || o->next) fail(c, "a yield must be the last op of a loop");
    if (o->ncarry != loop->ncarry)
        fail(c, "the loop carries %d values, %d are yielded", loop->ncarry, o->ncarry);
    for (int i = 0; i < o->ncarry; i++) {
        const Expr *x = &c->p->exs.v[o->init[i]];
        Info in = expr(c, o->init[i]);
        const TVal *t = &c->p->vals.v[loop->carry[i]];
        Set want = axes_of(c, loop->carry[i]);
        if (!empty(&in.axes) && x->kind != EX_VAL)
            fail(c, "a tile is yielded as a value, not as an expression");
        if (!equal(&in.axes, &want))
            fail(c, "carry `%s` has other axes than what is yielded", name(c, loop->carry[i]));
        bool same = x->kind == EX_VAL && t->naxes ? t->dtype == c->p->vals.v[x->val].dtype
                                                  : numeric(t->dtype) == (x->dtype == SSD_F32);
        if (!same)
            fail(c, "carry `%s` has another type than what is yielded", name(c, loop->carry[i]));
    }
}

// --- Roles and rings (T2): names, axes and types; timed_verify.c has the rest -------------------
// The axes of the tile an op fills: all of them, or those of a slice.
static Set filled(Check *c) {
    const TOp *o = c->op;
    operand(c, o->a, o->ax[0]);
    Set s = axes_of(c, o->a);
    if (o->ax[0]) {
        rank0(c, o->e, SSD_IDX, "the index");
        del(&s, o->ax[0]);
    }
    return s;
}

static void check_moved(Check *c, const Set *tile) {
    Set s = access(c);
    if (!equal(&s, tile)) fail(c, "the tile and the indices have different axes");
    if (c->p->tensors.v[c->op->tensor].dtype != c->p->vals.v[c->op->a].dtype)
        fail(c, "the tile and the tensor have different dtypes");
}

static void check_timed(Check *c) {
    const TOp *o = c->op;
    Set s;
    switch ((TOpCode)o->op) {
    case TOP_RING:
        define(c, o->out);
        block(c, &o->body, NULL);
        break;
    case TOP_SLOT:
    case TOP_REGS: define(c, o->out); break;
    case TOP_ROLE: {
        define(c, o->out);
        u32 mark = c->scope.n;
        if (o->var) define(c, o->var);
        block(c, &o->body, NULL);
        while (c->scope.n > mark) c->seen[c->scope.v[--c->scope.n]] = 2;
        break;
    }
    case TOP_FETCH:
        s = filled(c);
        check_moved(c, &s);
        break;
    case TOP_SEND:
        operand(c, o->a, 0);
        s = axes_of(c, o->a);
        check_moved(c, &s);
        if (c->p->tensors.v[o->tensor].role == T_IN) fail(c, "a send to an input");
        break;
    case TOP_INTO: {
        s = filled(c);
        Info in = expr(c, o->e2);
        if (!within(&in.axes, &s)) fail(c, "the value has an axis that the tile has not");
        if (type(c, o->e2) == SSD_BOOL) fail(c, "the value is a condition");
        if (o->tri_row && (!has(&s, o->tri_row) || !has(&s, o->tri_col)))
            fail(c, "`%s` has not the axes of its triangle", name(c, o->a));
        break;
    }
    case TOP_WAIT: operand(c, o->a, 0); break;
    default: // acquire, publish, await, release
        operand(c, o->a, 0);
        if (o->e) rank0(c, o->e, SSD_IDX, "the copy");
    }
}

static const u8 op_stratum[TOP__COUNT] = {
#define TOP(id, text, stratum, doc) [TOP_##id] = stratum,
#include "tile_ops.def"
};

static void check_square(Check *c) {
    const TOp *o = c->op;
    operand(c, o->a, o->ax[0]), operand(c, o->a, o->ax[1]), float_operand(c, o->a);
    if (o->ax[0] == o->ax[1] || size(c, o->ax[0]) != size(c, o->ax[1]))
        fail(c, "the matrix is not square");
}

static void check_store(Check *c) {
    const TOp *o = c->op;
    Set s = access(c);
    if (c->p->tensors.v[o->tensor].role == T_IN) fail(c, "a store to an input");
    Info in = expr(c, o->e);
    if (!within(&in.axes, &s)) fail(c, "the value has an axis that no index has");
    if (type(c, o->e) == SSD_BOOL ||
        (type(c, o->e) == SSD_F32 && c->p->tensors.v[o->tensor].dtype == SSD_I32))
        fail(c, "the value has another type than the tensor");
}

static void check_op(Check *c, const TOp *loop) {
    const TOp *o = c->op;
    Set s = {0};
    Info in;
    if (op_stratum[o->op] > c->p->stratum)
        fail(c, "an op of stratum %d in a program of stratum %d", op_stratum[o->op], c->p->stratum);
    switch ((TOpCode)o->op) {
    case TOP_LOAD:
        s = access(c);
        result(c, &s);
        result_type(c, c->p->tensors.v[o->tensor].dtype == SSD_I32 ? SSD_IDX : SSD_F32);
        break;
    case TOP_PREFETCH: access(c); break;
    case TOP_STORE: check_store(c); break;
    case TOP_MAP:
        in = expr(c, o->e);
        result(c, &in.axes);
        result_type(c, type(c, o->e));
        break;
    case TOP_REDUCE:
        in = expr(c, o->e);
        if (!has(&in.axes, o->ax[0])) fail(c, "the expression has no axis %s", axis(c, o->ax[0]));
        del(&in.axes, o->ax[0]);
        result(c, &in.axes);
        result_type(c, type(c, o->e));
        break;
    case TOP_MMA: check_mma(c); break;
    case TOP_SCAN:
    case TOP_SWAP:
        operand(c, o->a, o->ax[0]);
        if (o->op == TOP_SWAP && size(c, o->ax[0]) % 2)
            fail(c, "axis %s is odd", axis(c, o->ax[0]));
        s = axes_of(c, o->a);
        result(c, &s);
        if (o->op == TOP_SWAP)
            same_type(c, o->a);
        else
            result_type(c, numeric(c->p->vals.v[o->a].dtype) ? SSD_F32 : SSD_IDX);
        break;
    case TOP_AT:
        rank0(c, o->e, SSD_IDX, "the index");
        check_shape(c);
        break;
    case TOP_SPLIT:
    case TOP_JOIN:
    case TOP_RENAME:
    case TOP_SLICE: check_shape(c); break;
    case TOP_PUT: check_put(c); break;
    case TOP_CAT: check_cat(c); break;
    case TOP_PICK: check_pick(c); break;
    case TOP_INV:
        check_square(c);
        s = axes_of(c, o->a);
        result(c, &s);
        result_type(c, SSD_F32);
        break;
    case TOP_FILL:
        in = expr(c, o->e);
        if (!empty(&in.axes)) fail(c, "the filling value has tile axes");
        if (o->out && o->out < c->p->vals.n) s = axes_of(c, o->out);
        result(c, &s);
        result_type(c, type(c, o->e));
        break;
    case TOP_FOR:
    case TOP_EACH: check_loop(c); break;
    case TOP_YIELD: check_yield(c, loop); break;
    case TOP_IF: {
        rank0(c, o->e, SSD_BOOL, "the condition");
        u32 mark = c->scope.n;
        block(c, &o->body, NULL);
        while (c->scope.n > mark) c->seen[c->scope.v[--c->scope.n]] = 2;
        break;
    }
    case TOP_BUF:
        define(c, o->out);
        if (o->bytes < 0) fail(c, "a buffer of negative size");
        c->bytes[o->out] = o->bytes;
        if (c->p->vals.v[o->out].lay.space == SP_NONE) fail(c, "a buffer without a space");
        break;
    case TOP_COPY:
        operand(c, o->a, 0);
        s = axes_of(c, o->a);
        result(c, &s);
        result_type(c, numeric(c->p->vals.v[o->a].dtype) ? SSD_F32 : SSD_IDX);
        break;
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
    case TOP_WAIT: check_timed(c); break;
    case TOP__COUNT: fail(c, "not an op");
    }
}

// Only copies reach memory that a block's threads share by hand; arithmetic reads it through them.
static void spaces(Check *c) {
    const TOp *o = c->op;
    if (c->stratum == 0 || o->op == TOP_COPY || o->op == TOP_MMA) return;
    Val v[3] = {o->a, o->b, o->c};
    for (int i = 0; i < 3; i++)
        if (v[i] && c->p->vals.v[v[i]].lay.space == SP_SHARED)
            fail(c, "`%s` is in shared memory: copy it first", name(c, v[i]));
}

static void block(Check *c, const TBlock *b, const TOp *loop) {
    for (const TOp *o = b->first; o; o = o->next) {
        c->op = o;
        if (o->op >= TOP__COUNT) fail(c, "not an op");
        spaces(c);
        check_op(c, loop);
        if (!o->next && b->last != o) fail(c, "the block's list of ops is broken");
    }
}

// --- Declarations -------------------------------------------------------------------------------
static void declarations(Check *c) {
    const Prog *p = c->p;
    if (p->stratum < 0 || p->stratum > 2) fail(c, "stratum %d: only 0 to 2 exist", p->stratum);
    for (u32 i = 1; i < p->axes.n; i++)
        if (p->axes.v[i].size < 1) fail(c, "axis %s has no elements", p->axes.v[i].name);
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *t = &p->tensors.v[i];
        if (ssd_prog_find_tensor(p, t->name) != i) fail(c, "two tensors are called `%s`", t->name);
        for (int d = 0; d < t->rank; d++)
            if (!expr(c, t->dim[d]).sym_only || type(c, t->dim[d]) != SSD_IDX)
                fail(c, "dimension %d of `%s` is no size", d + 1, t->name);
        if (!t->alias) continue;
        u16 a = ssd_prog_find_tensor(p, t->alias);
        if (t->role != T_OUT || !a || p->tensors.v[a].role != T_IN ||
            p->tensors.v[a].rank != t->rank)
            fail(c, "`%s` cannot share the memory of `%s`", t->name, t->alias);
    }
}

// A kernel of T2 that is not written as roles is one of T1, or of T0 until `layout` has placed it.
static bool unplaced(const Prog *p, const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next)
        if ((o->out && p->vals.v[o->out].lay.space) || !unplaced(p, &o->body)) return false;
    return true;
}
static int stratum_of(const Prog *p, const TKernel *k) {
    if (p->stratum < 2 || ssd_timed_kernel(p, k)) return p->stratum;
    return unplaced(p, &k->body) ? 0 : 1;
}

static bool check(const Prog *p, Text *why, const TOp **out_at, bool timing) {
    Check *c = NEW(p->arena, Check);
    c->p = p;
    c->why = why;
    c->seen = NEWN(p->arena, u8, p->vals.n);
    c->bytes = NEWN(p->arena, i64, p->vals.n);
    if (setjmp(c->out)) {
        if (out_at) *out_at = c->op;
        return false;
    }
    declarations(c);
    for (u32 i = 0; i < p->kernels.n; i++) {
        const TKernel *k = &p->kernels.v[i];
        c->where = k->name;
        c->op = NULL;
        c->timed = ssd_timed_kernel(p, k);
        c->stratum = stratum_of(p, k);
        for (int g = 0; g < k->ngrid; g++) {
            if (!expr(c, k->grid[g].size).sym_only || type(c, k->grid[g].size) != SSD_IDX)
                fail(c, "grid size %d is no size", g + 1);
            define(c, k->grid[g].var);
        }
        block(c, &k->body, NULL);
        while (c->scope.n) c->seen[c->scope.v[--c->scope.n]] = 2;
        if (!c->timed) continue;
        if (!ssd_timed_check_forms(p, k, why, out_at)) return false;
        if (timing && !ssd_timed_check_order(p, k, why, out_at)) return false;
    }
    return true;
}

bool ssd_tile_check(const Prog *p, Text *why, const TOp **out_at) {
    return check(p, why, out_at, true);
}
bool ssd_tile_verify(const Prog *p, Text *why) { return check(p, why, NULL, true); }
bool ssd_tile_check_types(const Prog *p, Text *why) { return check(p, why, NULL, false); }
