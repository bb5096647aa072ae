// SPDX-License-Identifier: Apache-2.0
// What a kernel of roles must be (T2), beyond names, axes and types, which tile_verify.c checks.
// forms: what stands where, layouts, which op reads which of them. order: a walk through each role,
// loop bodies twice, that knows what every register holds, which slots are held, and which products
// are under way.
#include "timed.h"

#include <setjmp.h>

enum { MAX_UNDER_WAY = 64 };

typedef enum { FREE, ACQUIRED, AWAITED, OWN } Held; // OWN: published by the role that empties it
typedef struct Hold {
    u8 held;
    u32 id; // of this hold: views made under another one are stale
    Ex copy;
    const TBlock *block;
    const TOp *op;
} Hold;

typedef struct Check {
    const Prog *p;
    const TKernel *k;
    Text *why;
    const TOp *op, *role;
    const TOp **def, **ring; // by value: the op that defines it; a slot's tile: its ring
    const TOp **regs_role;   // by value: the role that has these registers
    // order
    Val *holder;  // by regs: the value that was put there last
    Hold *hold;   // by ring
    u32 *view_id; // by view of a slot: the hold it was made under
    u32 holds;
    const TOp *under_way[MAX_UNDER_WAY]; // oldest first
    int nunder_way;
    bool *own; // by ring
    jmp_buf out;
} Check;

SSD_NORETURN static void fail(Check *c, const char *fmt, ...) SSD_PRINTF(2, 3);
static void fail(Check *c, const char *fmt, ...) {
    va_list ap;
    ssd_text_printf(c->why, "kernel %s: ", c->k->name);
    if (c->op && c->op->line) ssd_text_printf(c->why, "line %d: ", c->op->line);
    va_start(ap, fmt);
    ssd_text_vprintf(c->why, fmt, ap);
    va_end(ap);
    if (c->op) {
        ssd_text_printf(c->why, " in `");
        ssd_tile_op_print(c->p, c->op, c->why);
        ssd_text_printf(c->why, "`");
    }
    longjmp(c->out, 1);
}

static const char *name(const Check *c, Val v) { return ssd_tile_val_name(c->p, v); }
static const TVal *tv(const Check *c, Val v) { return &c->p->vals.v[v]; }
static i64 size(const Check *c, u8 x) { return c->p->axes.v[x].size; }
static u8 space(const Check *c, Val v) { return tv(c, v)->lay.space; }
static bool in_slot(const Check *c, Val v) { return ssd_timed_in_slot(&tv(c, v)->lay); }
static bool in_regs(const Check *c, Val v) {
    u8 s = space(c, v);
    return s == SP_ACC || s == SP_FRAG || s == SP_LANE || s == SP_COLS;
}
static bool half(u8 dtype) { return dtype == SSD_BF16 || dtype == SSD_F16; }

// Through views to a slot's tile or a register value.
static Val base(const Check *c, Val v) {
    while (c->def[v] && ssd_timed_is_view(c->p, c->def[v])) v = c->def[v]->a;
    return v;
}

static void definitions(Check *c, const TBlock *b, const TOp *role, const TOp *ring) {
    for (const TOp *o = b->first; o; o = o->next) {
        if (o->out) c->def[o->out] = o;
        if (o->op == TOP_SLOT) c->ring[o->out] = ring;
        if (o->op == TOP_REGS) c->regs_role[o->out] = role;
        if (o->op == TOP_FOR || o->op == TOP_EACH)
            for (int i = 0; i < o->ncarry; i++) c->def[o->carry[i]] = o;
        definitions(c, &o->body, o->op == TOP_ROLE ? o : role, o->op == TOP_RING ? o : ring);
    }
}

// The tiles and scalars an expression reads, those of rank-0 loads included.
typedef struct Reads {
    Val v[64];
    int n;
} Reads;
static void collect(Check *c, Ex e, Reads *r) {
    if (!e) return;
    const Expr *x = &c->p->exs.v[e];
    if (x->kind == EX_VAL) {
        for (int i = 0; i < r->n; i++)
            if (r->v[i] == x->val) return;
        if (r->n == (int)COUNTOF(r->v)) fail(c, "an expression over too many values");
        r->v[r->n++] = x->val;
    }
    for (int i = 0; i < x->nidx; i++) collect(c, x->idx[i], r);
    if (x->kind == EX_FN)
        for (int i = 0; i < ssd_fns[x->fn].arity; i++) collect(c, x->arg[i], r);
}

// --- Forms: layouts -----------------------------------------------------------------------------
static void same_axes(Check *c, Val v) {
    const TVal *t = tv(c, v);
    bool same = t->naxes == t->lay.naxes;
    for (int i = 0; same && i < t->naxes; i++)
        same = memchr(t->lay.ax, t->ax[i], t->lay.naxes) != NULL;
    if (!same) fail(c, "the layout of `%s` has other axes than its type", name(c, v));
}

static void slot_form(Check *c, Val v) {
    const TVal *t = tv(c, v);
    const Lay *l = &t->lay;
    if (!in_slot(c, v)) fail(c, "a slot's tile is @sw128, @loose or @row");
    if (l->buf) fail(c, "a slot's tile lies in no registers");
    same_axes(c, v);
    if (!l->naxes) fail(c, "a slot's tile has axes");
    if (l->space == SP_ROW) return;
    const char *as = l->space == SP_LOOSE ? "@loose" : "@sw128";
    if (!half(t->dtype)) fail(c, "%s takes elements of 16 bits", as);
    if (l->naxes < 2) fail(c, "%s has rows and columns", as);
    if (size(c, l->ax[l->naxes - 2]) % 8) fail(c, "%s takes rows by 8", as);
    if (size(c, l->ax[l->naxes - 1]) % 8) fail(c, "%s takes columns by 8", as);
}

// A value that lies in registers of the role: enough of them, of its dtype.
static void regs_form(Check *c, Val v) {
    const TVal *t = tv(c, v);
    const Lay *l = &t->lay;
    same_axes(c, v);
    if (!l->buf || l->buf >= c->p->vals.n || !c->regs_role[l->buf])
        fail(c, "`%s` lies in no registers", name(c, v));
    if (c->regs_role[l->buf] != c->role)
        fail(c, "`%s` lies in registers of another role", name(c, v));
    if (tv(c, l->buf)->dtype != t->dtype)
        fail(c, "`%s` and its registers `%s` have different dtypes", name(c, v), name(c, l->buf));
    i64 need;
    if (l->space == SP_LANE) {
        if (t->dtype != SSD_F32 || t->naxes != 1) fail(c, "@lane is for f32 of one axis");
        if (c->role->warps != 1) fail(c, "@lane is for a role of one warp");
        if (size(c, l->ax[0]) % 32) fail(c, "@lane takes elements by 32");
        need = size(c, l->ax[0]) / 32;
    } else if (l->space == SP_COLS) {
        if (t->dtype != SSD_F32 || t->naxes != 1) fail(c, "@cols is for f32 of one axis");
        if (c->role->warps != 4) fail(c, "@cols is for a role of 4 warps");
        if (size(c, l->ax[0]) % 8) fail(c, "@cols takes elements by 8");
        need = size(c, l->ax[0]) / 4;
    } else {
        bool acc = l->space == SP_ACC;
        if (t->naxes != 2) fail(c, "@%s has rows and columns", acc ? "acc" : "frag");
        if (c->role->warps != 4) fail(c, "@%s is for a role of 4 warps", acc ? "acc" : "frag");
        if (acc ? t->dtype != SSD_F32 : !half(t->dtype))
            fail(c, acc ? "@acc is for f32" : "@frag takes elements of 16 bits");
        i64 rows = size(c, l->ax[0]), cols = size(c, l->ax[1]);
        if (rows % 64) fail(c, "@%s takes rows by 64", acc ? "acc" : "frag");
        if (cols % (acc ? 8 : 16))
            fail(c, "@%s takes columns by %d", acc ? "acc" : "frag", acc ? 8 : 16);
        need = rows * cols / (acc ? 128 : 256);
    }
    if (need > c->def[l->buf]->depth)
        fail(c, "`%s` takes %lld registers, `%s` has %d", name(c, v), (long long)need,
             name(c, l->buf), c->def[l->buf]->depth);
}

static void value_form(Check *c, Val v) {
    if (in_regs(c, v)) {
        regs_form(c, v);
        return;
    }
    if (space(c, v) != SP_SCALAR)
        fail(c, "`%s` is no @acc, @frag, @lane, @cols or @scalar", name(c, v));
    if (tv(c, v)->naxes) fail(c, "`%s` is a tile in a scalar's place", name(c, v));
    if (tv(c, v)->lay.buf) fail(c, "`%s` is a scalar and lies in registers", name(c, v));
}

static bool same_lay(const Check *c, Val a, Val b) {
    const Lay *x = &tv(c, a)->lay, *y = &tv(c, b)->lay;
    return x->space == y->space && x->buf == y->buf && x->naxes == y->naxes &&
           !memcmp(x->ax, y->ax, x->naxes);
}

// --- Forms: which op reads what -----------------------------------------------------------------
// Operands of an expression whose elements are laid out in `at` (@acc or @frag over rows r and
// columns k, @lane over r, or @scalar).
static void operands_fit(Check *c, const Reads *in, u8 at, u8 r, u8 k) {
    bool tile = at == SP_ACC || at == SP_FRAG;
    for (int i = 0; i < in->n; i++) {
        Val v = in->v[i];
        const Lay *l = &tv(c, v)->lay;
        if (!tv(c, v)->naxes) continue;
        bool fits = false;
        switch (l->space) {
        case SP_ACC:
        case SP_FRAG: fits = tile && l->ax[0] == r && l->ax[1] == k; break;
        case SP_LANE: fits = at == SP_LANE && l->ax[0] == r; break;
        case SP_COLS: fits = l->ax[0] == (tile ? k : r) && (tile || at == SP_COLS); break;
        case SP_ROW: fits = l->naxes == 1 && (l->ax[0] == r || (tile && l->ax[0] == k)); break;
        default: break;
        }
        if (!fits)
            fail(c, "`%s` cannot be read beside %s", name(c, v),
                 at == SP_SCALAR ? "scalars"
                 : at == SP_LANE ? "a @lane"
                 : at == SP_COLS ? "a @cols"
                                 : "these rows and columns");
    }
}

// The layout an expression is computed in where its result has none: that of its first operand in
// registers.
static Val leader(const Check *c, const Reads *in) {
    for (int i = 0; i < in->n; i++)
        if (in_regs(c, in->v[i]) && space(c, in->v[i]) != SP_COLS) return in->v[i];
    return 0;
}

static void map_form(Check *c, const TOp *o) {
    Reads in = {0};
    const Lay *l = &tv(c, o->out)->lay;
    value_form(c, o->out);
    collect(c, o->e, &in);
    operands_fit(c, &in, l->space, l->ax[0], l->ax[1]);
}

static void copy_form(Check *c, const TOp *o) {
    const Lay *a = &tv(c, o->a)->lay, *l = &tv(c, o->out)->lay;
    value_form(c, o->out);
    bool straight = a->naxes == 2 && l->naxes == 2 && a->ax[0] == l->ax[0];
    bool turned = a->naxes == 2 && l->naxes == 2 && a->ax[1] == l->ax[0];
    bool ok = l->space == SP_FRAG
                  ? (a->space == SP_SW128 && a->naxes == 2) || (a->space == SP_LOOSE && turned) ||
                        (a->space == SP_ACC && straight)
              : l->space == SP_LANE ? a->space == SP_ROW && a->naxes == 1
                                    : false;
    if (!ok)
        fail(c, "no copy goes from the layout of `%s` to that of `%s`", name(c, o->a),
             name(c, o->out));
    if (in_slot(c, o->a) && l->space == SP_FRAG && tv(c, o->a)->dtype != tv(c, o->out)->dtype)
        fail(c, "`%s` must have the dtype of `%s`", name(c, o->out), name(c, o->a));
}

static void mma_form(Check *c, const TOp *o) {
    const Lay *a = &tv(c, o->a)->lay, *b = &tv(c, o->b)->lay, *l = &tv(c, o->out)->lay;
    value_form(c, o->out);
    if (l->space != SP_ACC) fail(c, "a product's result is @acc");
    if (o->nkeep || o->tri_row) fail(c, "a product of tiles of two axes keeps none");
    u8 r = l->ax[0], k = l->ax[1];
    if (b->space != SP_SW128 || b->naxes != 2)
        fail(c, "`%s` is no @sw128 of two axes", name(c, o->b));
    if ((a->space != SP_FRAG && a->space != SP_SW128) || a->naxes != 2)
        fail(c, "`%s` is no @frag, nor @sw128 of two axes", name(c, o->a));
    if (!memchr(a->ax, r, 2) || !memchr(b->ax, k, 2))
        fail(c, "`%s` brings the rows of a product, `%s` its columns", name(c, o->a),
             name(c, o->b));
    if (a->space == SP_FRAG && a->ax[0] != r)
        fail(c, "the rows of `%s` are not the product's", name(c, o->a));
    u8 inner = a->ax[a->ax[0] == r];
    if (size(c, inner) % 16) fail(c, "a product sums by 16");
    if (size(c, k) > 256) fail(c, "a product has 256 columns at most");
    if (tv(c, o->a)->dtype != tv(c, o->b)->dtype)
        fail(c, "`%s` and `%s` have different dtypes", name(c, o->a), name(c, o->b));
    if (o->c && !same_lay(c, o->c, o->out))
        fail(c, "the accumulator `%s` does not lie where `%s` does", name(c, o->c),
             name(c, o->out));
}

static void swap_form(Check *c, const TOp *o) {
    const Lay *a = &tv(c, o->a)->lay, *l = &tv(c, o->out)->lay;
    value_form(c, o->out);
    bool tile = l->space == SP_ACC || l->space == SP_FRAG;
    if (!tile || a->space != l->space || memcmp(a->ax, l->ax, 2))
        fail(c, "`%s` lies otherwise than `%s`", name(c, o->out), name(c, o->a));
    if (a->buf == l->buf) fail(c, "a swap does not go in place");
    if (o->ax[0] != l->ax[1]) fail(c, "a swap goes along columns");
    if (o->flags & TF_HALVES && size(c, l->ax[1]) % 16) fail(c, "halves are columns by 8");
}

static void at_form(Check *c, const TOp *o) {
    const Lay *a = &tv(c, o->a)->lay, *l = &tv(c, o->out)->lay;
    if (l->space == SP_SCALAR) {
        value_form(c, o->out);
        if (a->naxes != 1 || (a->space != SP_ROW && a->space != SP_LANE))
            fail(c, "`%s` is no @row or @lane of one axis", name(c, o->a));
        return;
    }
    bool ok = in_slot(c, o->a) && l->space == a->space && !l->buf && l->naxes == a->naxes - 1;
    for (int i = 0, k = 0; ok && i < a->naxes; i++) {
        if (a->ax[i] == o->ax[0])
            ok = l->space == SP_ROW || i < a->naxes - 2;
        else
            ok = l->ax[k++] == a->ax[i];
    }
    if (!ok) fail(c, "`%s` is no slice of `%s` where it lies", name(c, o->out), name(c, o->a));
}

static void rename_form(Check *c, const TOp *o) {
    const Lay *a = &tv(c, o->a)->lay, *l = &tv(c, o->out)->lay;
    bool ok = l->space == a->space && l->buf == a->buf && l->naxes == a->naxes;
    for (int i = 0; ok && i < a->naxes; i++) {
        u8 x = a->ax[i];
        ok = l->ax[i] == (x == o->ax[0] ? o->ax[1] : x == o->ax[2] ? o->ax[3] : x);
    }
    if (!ok) fail(c, "`%s` must lie where `%s` does", name(c, o->out), name(c, o->a));
}

static bool is_slot(const Check *c, Val v) { return c->ring[v] != NULL; }

static void fill_form(Check *c, const TOp *o) { // fetch, into
    if (!is_slot(c, o->a)) fail(c, "`%s` is no slot's tile", name(c, o->a));
    const Lay *l = &tv(c, o->a)->lay;
    u8 left[6];
    int n = 0;
    for (int i = 0; i < l->naxes; i++) {
        if (l->ax[i] != o->ax[0])
            left[n++] = l->ax[i];
        else if (l->space != SP_ROW && i >= l->naxes - 2)
            fail(c, "a slice of `%s` at a row or a column", name(c, o->a));
    }
    if (o->op == TOP_FETCH && l->space == SP_LOOSE && n != 2)
        fail(c, "tiles of `%s` are @loose: one is fetched at a time", name(c, o->a));
    if (o->op == TOP_FETCH) return;
    if (l->space == SP_LOOSE) fail(c, "`%s` is @loose: it is fetched", name(c, o->a));
    Reads in = {0};
    collect(c, o->e2, &in);
    if (o->hi) {
        if (!o->tri_row) fail(c, "`below` needs a triangle");
        collect(c, o->hi, &in);
    }
    Val v = leader(c, &in);
    if (!v) fail(c, "nothing in registers goes into `%s`", name(c, o->a));
    const Lay *from = &tv(c, v)->lay;
    bool ok =
        l->space == SP_ROW ? from->space == SP_LANE && n == 1 : from->space != SP_LANE && n == 2;
    for (int i = 0; ok && i < from->naxes; i++) ok = memchr(left, from->ax[i], (size_t)n) != NULL;
    if (!ok) fail(c, "`%s` cannot go into `%s`", name(c, v), name(c, o->a));
    operands_fit(c, &in, from->space, from->ax[0], from->ax[1]);
}

static void store_form(Check *c, const TOp *o) {
    Reads in = {0};
    collect(c, o->e, &in);
    Val v = leader(c, &in);
    const Lay none = {.space = SP_SCALAR}, *l = v ? &tv(c, v)->lay : &none;
    if (l->space == SP_FRAG)
        fail(c, "`%s` is @frag: a store takes @acc, @lane or @scalar", name(c, v));
    operands_fit(c, &in, l->space, l->ax[0], l->ax[1]);
}

static void scalars_only(Check *c, Ex e) {
    Reads in = {0};
    collect(c, e, &in);
    for (int i = 0; i < in.n; i++)
        if (tv(c, in.v[i])->naxes) fail(c, "`%s` is a tile", name(c, in.v[i]));
}

static bool is_number(const Check *c, Ex e) { return c->p->exs.v[e].kind == EX_NUM; }

static void loop_form(Check *c, const TOp *o) {
    if (o->op == TOP_EACH && (!is_number(c, o->lo) || !is_number(c, o->hi)))
        fail(c, "an each of a role goes from a number to a number");
    for (int i = 0; i < o->ncarry; i++) {
        const Expr *x = &c->p->exs.v[o->init[i]];
        value_form(c, o->carry[i]);
        if (tv(c, o->carry[i])->naxes && !same_lay(c, x->val, o->carry[i]))
            fail(c, "carry `%s` does not lie where `%s` does", name(c, o->carry[i]),
                 name(c, x->val));
    }
}

static void yield_form(Check *c, const TOp *o, const TOp *loop) {
    for (int i = 0; i < o->ncarry; i++) {
        const Expr *x = &c->p->exs.v[o->init[i]];
        if (tv(c, loop->carry[i])->naxes && !same_lay(c, x->val, loop->carry[i]))
            fail(c, "carry `%s` does not lie where `%s` does", name(c, loop->carry[i]),
                 name(c, x->val));
    }
}

static void ring_operand(Check *c, const TOp *o) {
    if (!c->def[o->a] || c->def[o->a]->op != TOP_RING) fail(c, "`%s` is no ring", name(c, o->a));
}

static void op_form(Check *c, const TOp *o, const TOp *loop) {
    if (o->flags & TF_ASYNC && o->op != TOP_MMA) fail(c, "only products are asynchronous");
    switch ((TOpCode)o->op) {
    case TOP_LOAD:
        value_form(c, o->out);
        if (space(c, o->out) == SP_FRAG) fail(c, "a load fills @acc, @lane, @cols or @scalar");
        for (int i = 0; i < o->nidx; i++) scalars_only(c, o->idx[i]);
        scalars_only(c, o->when);
        break;
    case TOP_STORE: store_form(c, o); break;
    case TOP_MAP: map_form(c, o); break;
    case TOP_MMA: mma_form(c, o); break;
    case TOP_SCAN:
        value_form(c, o->out);
        if (space(c, o->a) != SP_LANE || space(c, o->out) != SP_LANE)
            fail(c, "a scan goes from @lane to @lane");
        break;
    case TOP_PICK:
        value_form(c, o->out);
        if (space(c, o->a) != SP_LANE || space(c, o->out) != SP_LANE)
            fail(c, "a pick goes from @lane to @lane");
        break;
    case TOP_SWAP: swap_form(c, o); break;
    case TOP_AT: at_form(c, o); break;
    case TOP_RENAME: rename_form(c, o); break;
    case TOP_FILL: value_form(c, o->out); break;
    case TOP_COPY: copy_form(c, o); break;
    case TOP_FOR:
    case TOP_EACH: loop_form(c, o); break;
    case TOP_YIELD: yield_form(c, o, loop); break;
    case TOP_REGS:
        if (loop) fail(c, "registers are declared outside loops");
        if (o->depth < 1) fail(c, "no registers");
        break;
    case TOP_ACQUIRE:
    case TOP_PUBLISH:
    case TOP_AWAIT:
    case TOP_RELEASE: ring_operand(c, o); break;
    case TOP_FETCH:
        if (o->flags & TF_LOOSE && !ssd_timed_along(c->p, o->tensor))
            fail(c, "rows of `%s` cannot be loose: they are no part of whole ones",
                 c->p->tensors.v[o->tensor].name);
        fill_form(c, o);
        break;
    case TOP_INTO: fill_form(c, o); break;
    case TOP_SEND:
        if (space(c, o->a) != SP_SW128 || !is_slot(c, base(c, o->a)))
            fail(c, "`%s` is no slot's @sw128 tile", name(c, o->a));
        break;
    case TOP_WAIT:
        if (!c->def[o->a] || c->def[o->a]->op != TOP_MMA || !(c->def[o->a]->flags & TF_ASYNC))
            fail(c, "`%s` is no asynchronous product", name(c, o->a));
        break;
    case TOP_REDUCE:
    case TOP_PUT:
    case TOP_SPLIT:
    case TOP_JOIN:
    case TOP_CAT:
    case TOP_SLICE:
    case TOP_INV:
    case TOP_IF:
    case TOP_BUF:
    case TOP_PREFETCH:
    case TOP_RING:
    case TOP_SLOT:
    case TOP_ROLE:
    case TOP__COUNT: fail(c, "no op of a role");
    }
}

static void block_forms(Check *c, const TBlock *b, const TOp *loop) {
    for (const TOp *o = b->first; o; o = o->next) {
        c->op = o;
        op_form(c, o, loop);
        if (o->op == TOP_FOR || o->op == TOP_EACH) block_forms(c, &o->body, o);
    }
}

static void role_form(Check *c, const TOp *o) {
    if (o->warps < 1 || (o->warps > 4 && o->warps % 4))
        fail(c, "a role has 1 to 4 warps, or groups of 4");
    if (o->copies < 1 || (o->copies > 1 && !o->var)) fail(c, "copies of a role have a variable");
    c->role = o;
    block_forms(c, &o->body, NULL);
}

static void ring_form(Check *c, const TOp *o) {
    if (!o->body.first) fail(c, "a ring without tiles");
    for (const TOp *s = o->body.first; s; s = s->next) {
        c->op = s;
        if (s->op != TOP_SLOT) fail(c, "a ring holds slots alone");
        slot_form(c, s->out);
    }
}

static void ring_ends(Check *c, const TOp *o) {
    Ring ring;
    Text why = {0};
    if (ssd_timed_ring(c->p, c->k, o->out, &ring, &why)) return;
    char *s = ssd_arena_dup(c->p->arena, why.s, why.n);
    ssd_text_free(&why);
    fail(c, "%s", s);
}

static Check *start(const Prog *p, const TKernel *k, Text *why) {
    Check *c = NEW(p->arena, Check);
    c->p = p, c->k = k, c->why = why;
    c->def = NEWN(p->arena, const TOp *, p->vals.n);
    c->ring = NEWN(p->arena, const TOp *, p->vals.n);
    c->regs_role = NEWN(p->arena, const TOp *, p->vals.n);
    definitions(c, &k->body, NULL, NULL);
    return c;
}

bool ssd_timed_check_forms(const Prog *p, const TKernel *k, Text *why, const TOp **out_at) {
    Check *c = start(p, k, why);
    if (setjmp(c->out)) {
        if (out_at) *out_at = c->op;
        return false;
    }
    static const struct {
        u8 op;
        void (*form)(Check *, const TOp *);
    } parts[] = {{TOP_RING, ring_form}, {TOP_ROLE, role_form}, {TOP_RING, ring_ends}};
    for (size_t i = 0; i < COUNTOF(parts); i++)
        for (const TOp *o = k->body.first; o; o = o->next) {
            c->op = o;
            if (o->op != TOP_RING && o->op != TOP_ROLE)
                fail(c, "a kernel of roles holds rings and roles alone");
            if (o->op == parts[i].op) parts[i].form(c, o);
        }
    return true;
}

// --- Order: one role after the other ------------------------------------------------------------
static int find_under_way(const Check *c, Val v) {
    for (int i = 0; i < c->nunder_way; i++)
        if (c->under_way[i]->out == v) return i;
    return -1;
}

static void use_slot(Check *c, Val v) {
    Val ring = c->ring[base(c, v)]->out;
    const Hold *h = &c->hold[ring];
    if (h->held != AWAITED && h->held != OWN)
        fail(c, "`%s` is read while ring `%s` is not %s", name(c, v), name(c, ring),
             c->own[ring] ? "published" : "awaited");
    if (base(c, v) != v && c->view_id[v] != h->id)
        fail(c, "`%s` shows a slot of ring `%s` that was given back", name(c, v), name(c, ring));
}

static void use(Check *c, Val v) {
    if (!v) return;
    Val b = base(c, v);
    if (is_slot(c, b)) use_slot(c, v);
    if (!in_regs(c, b)) return;
    Val by = c->holder[tv(c, b)->lay.buf];
    if (by != b)
        fail(c, "`%s` is read after `%s` took its registers", name(c, v), by ? name(c, by) : "?");
    if (find_under_way(c, b) >= 0) fail(c, "`%s` is read before its wait", name(c, v));
}

static void use_ex(Check *c, Ex e) {
    Reads in = {0};
    collect(c, e, &in);
    for (int i = 0; i < in.n; i++) use(c, in.v[i]);
}

// `chain`: a product under way that the new one may follow on the same accumulator.
static void define(Check *c, Val v, Val chain) {
    if (!v || !in_regs(c, v)) return;
    Val regs = tv(c, v)->lay.buf;
    for (int i = 0; i < c->nunder_way; i++) {
        const TOp *m = c->under_way[i];
        Val a = base(c, m->a);
        if ((tv(c, m->out)->lay.buf == regs && !chain) ||
            (in_regs(c, a) && tv(c, a)->lay.buf == regs))
            fail(c, "`%s` overwrites registers of the product `%s`, which is under way", name(c, v),
                 name(c, m->out));
    }
    c->holder[regs] = v;
}

static void product(Check *c, const TOp *o) {
    use(c, o->a), use(c, o->b);
    Val chain = o->c && o->flags & TF_ASYNC && find_under_way(c, base(c, o->c)) >= 0 ? o->c : 0;
    if (chain && c->holder[tv(c, chain)->lay.buf] != base(c, chain))
        fail(c, "`%s` is read after its registers were taken", name(c, chain));
    if (!chain) use(c, o->c);
    define(c, o->out, chain);
    if (!(o->flags & TF_ASYNC)) return;
    if (c->nunder_way == MAX_UNDER_WAY) fail(c, "more than %d products under way", MAX_UNDER_WAY);
    c->under_way[c->nunder_way++] = o;
}

static void wait(Check *c, const TOp *o) {
    int i = find_under_way(c, o->a), younger = c->nunder_way - 1 - i;
    if (i < 0) fail(c, "`%s` is not under way", name(c, o->a));
    if (o->pending < 0 || o->pending > younger)
        fail(c, "of %d products under way, %d are younger than `%s`", c->nunder_way, younger,
             name(c, o->a));
    int done = c->nunder_way - o->pending;
    memmove(c->under_way, c->under_way + done, (size_t)o->pending * sizeof *c->under_way);
    c->nunder_way = o->pending;
}

static void take_slot(Check *c, const TOp *o, const TBlock *b, Held held) {
    Hold *h = &c->hold[o->a];
    if (h->held != FREE) fail(c, "the role already has a slot of ring `%s`", name(c, o->a));
    *h = (Hold){.held = (u8)held, .id = ++c->holds, .copy = o->e, .block = b, .op = o};
}

static void give_slot(Check *c, const TOp *o, const TBlock *b) {
    Hold *h = &c->hold[o->a];
    bool publish = o->op == TOP_PUBLISH;
    bool has = publish ? h->held == ACQUIRED : h->held == AWAITED || h->held == OWN;
    if (!has)
        fail(c, "the slot of ring `%s` was not %s", name(c, o->a),
             publish        ? "acquired"
             : c->own[o->a] ? "published"
                            : "awaited");
    if (h->block != b || h->copy != o->e)
        fail(c,
             h->copy != o->e ? "another copy of ring `%s` was taken"
                             : "ring `%s` was taken in another block",
             name(c, o->a));
    for (int i = 0; !publish && i < c->nunder_way; i++) {
        Val in[2] = {base(c, c->under_way[i]->a), base(c, c->under_way[i]->b)};
        for (int k = 0; k < 2; k++)
            if (is_slot(c, in[k]) && c->ring[in[k]]->out == o->a)
                fail(c, "the product `%s`, which reads `%s`, is under way",
                     name(c, c->under_way[i]->out), name(c, in[k]));
    }
    h->held = publish && c->own[o->a] ? OWN : FREE;
}

static void filling(Check *c, const TOp *o) {
    Val ring = c->ring[o->a]->out;
    if (c->hold[ring].held != ACQUIRED)
        fail(c, "`%s` is filled while ring `%s` is not acquired", name(c, o->a), name(c, ring));
}

static void walk(Check *c, const TBlock *b);

static void carried(Check *c, const TOp *loop) {
    for (int i = 0; i < loop->ncarry; i++)
        if (in_regs(c, loop->carry[i])) c->holder[tv(c, loop->carry[i])->lay.buf] = loop->carry[i];
}

// The body twice: what its first run leaves in registers is what its second one finds.
static void loop(Check *c, const TOp *o) {
    use_ex(c, o->lo), use_ex(c, o->hi);
    for (int i = 0; i < o->ncarry; i++) use_ex(c, o->init[i]);
    if (o->op == TOP_FOR && c->nunder_way)
        fail(c, "the product `%s` is under way at a loop", name(c, c->under_way[0]->out));
    const TOp *before = c->nunder_way ? c->under_way[c->nunder_way - 1] : NULL;
    for (int run = 0; run < 2; run++) {
        carried(c, o);
        walk(c, &o->body);
        if (c->nunder_way && c->under_way[c->nunder_way - 1] != before) {
            c->op = c->under_way[c->nunder_way - 1];
            fail(c, "`%s` is not waited for in its loop", name(c, c->op->out));
        }
    }
    carried(c, o);
}

static void step(Check *c, const TOp *o, const TBlock *b) {
    switch (o->op) {
    case TOP_ACQUIRE: take_slot(c, o, b, ACQUIRED); return;
    case TOP_AWAIT: take_slot(c, o, b, AWAITED); return;
    case TOP_PUBLISH:
    case TOP_RELEASE: give_slot(c, o, b); return;
    case TOP_FOR:
    case TOP_EACH: loop(c, o); return;
    case TOP_WAIT: wait(c, o); return;
    case TOP_MMA: product(c, o); return;
    case TOP_FETCH:
    case TOP_INTO: filling(c, o); break;
    case TOP_YIELD:
        for (int i = 0; i < o->ncarry; i++) use_ex(c, o->init[i]);
        return;
    default: break;
    }
    if (ssd_timed_is_view(c->p, o)) {
        Val at = base(c, o->out);
        if (!is_slot(c, at)) return; // of registers: whoever reads it is looked at
        use_slot(c, o->a);
        c->view_id[o->out] = c->hold[c->ring[at]->out].id;
        use_ex(c, o->e);
        return;
    }
    if (o->op != TOP_FETCH && o->op != TOP_INTO) use(c, o->a);
    use_ex(c, o->e), use_ex(c, o->e2), use_ex(c, o->when);
    for (int i = 0; i < o->nidx; i++) use_ex(c, o->idx[i]);
    define(c, o->out, 0);
}

static void walk(Check *c, const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next) {
        c->op = o;
        step(c, o, b);
    }
    for (const TOp *r = c->k->body.first; r; r = r->next) {
        const Hold *h = r->op == TOP_RING ? &c->hold[r->out] : NULL;
        if (!h || h->held == FREE || h->block != b) continue;
        c->op = h->op;
        fail(c, "the slot is never %s", h->held == ACQUIRED ? "published" : "released");
    }
}

bool ssd_timed_check_order(const Prog *p, const TKernel *k, Text *why, const TOp **out_at) {
    Check *c = start(p, k, why);
    c->holder = NEWN(p->arena, Val, p->vals.n);
    c->hold = NEWN(p->arena, Hold, p->vals.n);
    c->view_id = NEWN(p->arena, u32, p->vals.n);
    c->own = NEWN(p->arena, bool, p->vals.n);
    if (setjmp(c->out)) {
        if (out_at) *out_at = c->op;
        return false;
    }
    for (const TOp *o = k->body.first; o; o = o->next) {
        Ring ring;
        Text none = {0};
        if (o->op == TOP_RING)
            c->own[o->out] = ssd_timed_ring(p, k, o->out, &ring, &none) && ring.own;
        ssd_text_free(&none);
    }
    for (const TOp *o = k->body.first; o; o = o->next) {
        if (o->op != TOP_ROLE) continue;
        c->role = o;
        walk(c, &o->body);
        if (!c->nunder_way) continue;
        c->op = c->under_way[c->nunder_way - 1];
        fail(c, "`%s` is not waited for", name(c, c->op->out));
    }
    return true;
}
