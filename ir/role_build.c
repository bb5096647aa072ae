// SPDX-License-Identifier: Apache-2.0
// Writes a kernel as roles and rings (ir/timed.h) after what pass_role.c found out about it. Every
// role asks for the values it needs (role_value.c). So `heads` is written first, then `scores`,
// `vec`, and the roles that load (role_load.c).
#include "role_build.h"

static void ahead_ops(Role *r, bool own);

// --- heads --------------------------------------------------------------------------------------

Role *ssd_role_new(Build *b, Kind kind) {
    Role *r = NEW(b->t->a, Role);
    r->b = b;
    r->kind = kind;
    r->map = NEWN(b->t->a, Val, b->t->nfacts);
    r->frag = NEWN(b->t->a, Val, b->t->nfacts);
    r->before = (TB){b->p, &r->pre};
    r->rho = num(b, 0);
    r->reads = NEW(b->t->a, u8);
    return r;
}

// The loop over chunks, with the role's copies of its bounds.
void ssd_role_open(Role *r) {
    Build *b = r->b;
    TOp *from = b->t->loop;
    r->at = r->before;
    Ex lo = ssd_role_tx(r, from->lo), hi = ssd_role_tx(r, from->hi);
    r->before = r->at;
    TB tb = {b->p, &r->post};
    r->loop = ssd_tile_for(&tb, val(b, from->var)->name, lo, hi, false);
    r->map[from->var] = r->loop->var;
    r->at = (TB){b->p, &r->loop->body};
}

// Puts the parts of a role together and sets it into the kernel.
TOp *ssd_role_close(Role *r, const char *name, int warps, int copies, Val rep) {
    Build *b = r->b;
    TOp *o = ssd_tile_op(&b->top, TOP_ROLE);
    o->out = ssd_prog_val(b->p, name, SSD_IDX, NULL, 0);
    o->warps = warps;
    o->copies = copies;
    o->var = copies > 1 ? rep : 0;
    ssd_block_join(&o->body, &r->regs);
    ssd_block_join(&o->body, &r->pre);
    ssd_block_join(&o->body, &r->post);
    return o;
}

TOp *ssd_role_sync(Role *r, TOpCode code, const TOp *which) {
    TOp *o = ssd_role_emit(r, code, 0);
    o->a = which->out;
    if (which->copies > 1) o->e = r->rho;
    return o;
}

static TOp *read_ring(const Role *r, int i) { // NULL: the role does not read the i-th
    TOp *ring[] = {r->b->in, r->b->raw, r->b->cooked};
    return *r->reads >> i & 1 ? ring[i] : NULL;
}
void ssd_role_await(Role *r) {
    for (int i = 2; i >= 0; i--) {
        if (!read_ring(r, i)) continue;
        TOp *w = NEW(r->b->t->a, TOp);
        *w = (TOp){.op = TOP_AWAIT, .a = read_ring(r, i)->out, .next = r->loop->body.first};
        r->loop->body.first = w;
    }
    if (!(*r->reads & READS_CONSTANTS)) return;
    TBlock await = {0};
    TB first = {r->b->p, &await}, last = {r->b->p, &r->post};
    ssd_tile_op(&first, TOP_AWAIT)->a = ssd_tile_op(&last, TOP_RELEASE)->a = r->b->constants->out;
    ssd_block_join(&await, &r->pre);
    r->pre = await;
}
void ssd_role_release(Role *r) {
    for (int i = 0; i < 3; i++)
        if (read_ring(r, i)) ssd_role_sync(r, TOP_RELEASE, read_ring(r, i));
}

static Val acc_of(Role *r, Val v) { // the accumulator layout of a T0 value
    return val(r->b, ssd_role_get(r, v))->lay.buf;
}

static void first_acc(void *ctx, Val v) {
    void **c = ctx;
    Role *r = c[0];
    Val *found = c[1];
    Build *b = r->b;
    if (*found || v >= b->t->nfacts || val(b, v)->naxes != 2) return;
    Fact *f = fact(b, v);
    if (f->cone != CONE_HEAD || !f->rows) return;
    if (f->def && f->def->op == TOP_MAP && f->inside && !f->stays)
        ssd_nest_operands(b->p, f->def, first_acc, ctx);
    else
        *found = v;
}

// A map that is written down: over an accumulator (in its registers), or over loaded fragments.
static void head_map(Role *r, TOp *d) {
    Build *b = r->b;
    Fact *f = fact(b, d->out);
    Val acc = 0;
    void *ctx[] = {r, &acc};
    ssd_nest_ex_vals(b->p, d->e, first_acc, ctx);
    r->rows = f->rows;
    r->cols = f->cols;
    if (acc) {
        Ex e = ssd_role_tx(r, d->e);
        if (b->bad) return;
        Val out = ssd_role_acc_tile(r, val(b, d->out)->name, axis(b, f->rows), axis(b, f->cols),
                                    acc_of(r, acc));
        ssd_role_emit(r, TOP_MAP, out)->e = e;
        r->map[d->out] = out;
    }
}

// A first operand that is a map of loaded tiles: in fragments.
static Val operand_map(Role *r, Val v, u8 rows, u8 cols) {
    Build *b = r->b;
    if (r->map[v]) return r->map[v];
    Fact *f = fact(b, v);
    r->rows = rows;
    r->cols = cols;
    Ex e = ssd_role_tx(r, f->def->e);
    if (b->bad) return 0;
    Val out = ssd_role_frag_tile(r, val(b, v)->name, axis(b, rows), axis(b, cols), 0);
    ssd_role_emit(r, TOP_MAP, out)->e = e;
    return r->map[v] = out;
}

// The state as a first operand is packed at the end of the body before, while the last product is
// under way, and carried beside it; where registers are short it is packed where it is needed.
static bool packs_ahead(const Timer *t) {
    return t->wgmma && t->p->axes.v[t->p->vals.v[t->carry].ax[1]].size <= 128;
}
static Val packed_state(Role *r, u8 rows, u8 k) {
    Build *b = r->b;
    if (r->packed) return r->packed;
    TB at = r->at;
    r->at = r->before;
    Val first = ssd_role_frag_tile(r, "sb", axis(b, rows), axis(b, k), 0);
    ssd_role_emit(r, TOP_COPY, first)->a = r->start;
    r->before = r->at;
    r->at = at;
    TB outer = {b->p, &r->post};
    r->packed = ssd_tile_carry(&outer, r->loop, "sb", ssd_ex_val(b->p, first));
    b->p->vals.v[r->packed].lay = val(b, first)->lay;
    return r->packed;
}

static void head_mma(Role *r, TOp *d, int m) {
    Build *b = r->b;
    Timer *t = b->t;
    int first = t->turned >> m & 1;
    Val a = first ? d->b : d->a, c = first ? d->a : d->b;
    u8 rows = ssd_role_free_axis(t, d, first), cols = ssd_role_free_axis(t, d, !first), k = 0;
    const TVal *va = val(b, a);
    for (int i = 0; i < va->naxes; i++)
        if (va->ax[i] != rows) k = va->ax[i];
    Fact *fa = fact(b, ssd_role_origin(t, a));
    Val left, acc = 0;
    if (fa->cone == CONE_SLOT || fa->cone == CONE_COOK) {
        left = ssd_role_get_frag(r, a, rows, k);
    } else if (a == t->carry && packs_ahead(t)) {
        left = packed_state(r, rows, k);
    } else if (fa->cone == CONE_HEAD && fa->rows) {
        Val in = ssd_role_get(r, a); // an accumulator, packed
        if (!in) return;
        left = ssd_role_frag_tile(r, ssd_arena_printf(t->a, "%sb", val(b, a)->name), axis(b, rows),
                                  axis(b, k), 0);
        ssd_role_emit(r, TOP_COPY, left)->a = in;
    } else if (fa->cone == CONE_HEAD) {
        left = operand_map(r, a, rows, k);
    } else {
        left = ssd_role_get_shared(r, a);
    }
    Val right = ssd_role_get_shared(r, c);
    if (d->c) acc = ssd_role_get(r, d->c);
    if (b->bad || !left || !right) {
        b->bad = true;
        return;
    }
    Val out = ssd_role_acc_tile(r, val(b, d->out)->name, axis(b, rows), axis(b, cols),
                                acc ? val(b, acc)->lay.buf : 0);
    TOp *o = ssd_role_emit(r, TOP_MMA, out);
    o->a = left;
    o->b = right;
    o->c = acc;
    r->map[d->out] = out;
}

// An op that reads or writes the tensor that the T0 op d does.
TOp *ssd_role_access(Role *r, TOpCode code, const TOp *d) {
    TOp at = {0};
    ssd_role_tx_access(r, &at, d); // may emit what the indices need
    TOp *o = ssd_role_emit(r, code, 0), *next = o->next;
    *o = at;
    o->op = (u8)code;
    o->next = next;
    return o;
}

static void store(Role *r, TOp *d, Ex e) { ssd_role_access(r, TOP_STORE, d)->e = e; }

// What leaves the block: staged in shared memory where it is 16 bits wide.
static void head_store(Role *r, TOp *d) {
    Build *b = r->b;
    Val acc = 0;
    void *ctx[] = {r, &acc};
    ssd_nest_ex_vals(b->p, d->e, first_acc, ctx);
    const TTensor *x = &b->p->tensors.v[d->tensor];
    if (!acc) {
        b->bad = true;
        return;
    }
    r->rows = fact(b, acc)->rows;
    r->cols = fact(b, acc)->cols;
    Ex e = ssd_role_tx(r, d->e);
    if (b->bad) return;
    if (x->dtype != b->t->half || !b->stage || b->stage->body.first) { // one output is staged
        store(r, d, e);
        return;
    }
    u8 row = r->cols == b->t->value ? r->rows : r->cols,
       feature = r->cols == b->t->value ? r->cols : r->rows;
    u8 ax[2] = {axis(b, row), axis(b, feature)};
    Val s = ssd_role_slot(b, b->stage, ssd_arena_printf(b->t->a, "%s_", x->name), b->t->half, ax, 2,
                          SP_SW128);
    b->copies_out = ssd_timed_ragged(b->p, d->tensor);
    ssd_role_sync(r, TOP_ACQUIRE, b->stage);
    TOp *o = ssd_role_emit(r, TOP_INTO, 0);
    o->a = s;
    o->e2 = e;
    ssd_role_sync(r, TOP_PUBLISH, b->stage);
    ssd_role_access(r, TOP_SEND, d)->a = s;
    ssd_role_sync(r, TOP_RELEASE, b->stage);
}

// Tiles before the loop: the carry's start, in the carry's registers.
static Val start_tile(Role *r, Val v, Val in);
static void start_leaf(void *ctx, Val v) {
    Role *r = ctx;
    if (val(r->b, v)->naxes && !r->map[v] && !r->b->bad) start_tile(r, v, 0);
}
static Val start_op(Role *r, TOp *d, Val in) {
    Build *b = r->b;
    Fact *s = fact(b, b->t->carry);
    const TVal *c = val(b, b->t->carry), *t = val(b, d->out);
    r->rows = s->rows == c->ax[0] ? t->ax[0] : t->ax[1];
    r->cols = s->rows == c->ax[0] ? t->ax[1] : t->ax[0];
    u8 rows = axis(b, r->rows), cols = axis(b, r->cols);
    Ex e = 0;
    if (d->op == TOP_FILL || d->op == TOP_MAP) {
        ssd_nest_ex_vals(b->p, d->e, start_leaf, r);
        if (!b->bad) e = ssd_role_tx(r, d->e);
    } else if (d->op != TOP_LOAD) {
        b->bad = true;
    }
    if (b->bad) return 0;
    Val out = ssd_role_acc_tile(r, t->name, rows, cols, in);
    TOp *o =
        d->op == TOP_LOAD ? ssd_role_access(r, TOP_LOAD, d) : ssd_role_emit(r, (TOpCode)d->op, 0);
    o->out = out;
    o->e = e;
    return out;
}

static Val start_loop(Role *r, TOp *d, Val in) { // the states of earlier segments, added up
    Build *b = r->b;
    if (d->ncarry != 1 || d->flags) {
        b->bad = true;
        return 0;
    }
    const Expr *init = ex(b, d->init[0]), *next = ex(b, d->body.last->init[0]);
    if (init->kind != EX_VAL || next->kind != EX_VAL) {
        b->bad = true;
        return 0;
    }
    Val first = start_tile(r, init->val, in);
    if (!first) return 0;
    Ex lo = ssd_role_tx(r, d->lo), hi = ssd_role_tx(r, d->hi);
    TOp *f = ssd_tile_for(&r->at, val(b, d->var)->name, lo, hi, false);
    Val c = ssd_tile_carry(&r->at, f, val(b, d->carry[0])->name, ssd_ex_val(b->p, first));
    b->p->vals.v[c].lay = val(b, first)->lay;
    TB outer = r->at;
    r->at = (TB){b->p, &f->body};
    r->map[d->var] = f->var;
    r->map[d->carry[0]] = c;
    for (TOp *o = d->body.first; o != d->body.last && !b->bad; o = o->next) {
        Fact *x = fact(b, o->out);
        *x = (Fact){
            .def = o, .cone = val(b, o->out)->naxes ? CONE_HEAD : CONE_SCALAR, .inside = true};
        if (!val(b, o->out)->naxes)
            ssd_role_get(r, o->out);
        else
            r->map[o->out] = start_op(r, o, o->out == next->val ? val(b, first)->lay.buf : 0);
    }
    if (b->bad) return 0;
    Ex y = ssd_ex_val(b->p, r->map[next->val]);
    ssd_tile_yield(&r->at, &y, 1);
    r->at = outer;
    return c;
}

static Val start_tile(Role *r, Val v, Val in) {
    Build *b = r->b;
    if (r->map[v]) return r->map[v];
    TOp *d = fact(b, v)->def;
    if (!d) { // the carry of a loop before
        for (TOp *o = b->t->k->body.first; o; o = o->next)
            for (int i = 0; i < o->ncarry; i++)
                if (o != b->t->loop && o->carry[i] == v) return r->map[v] = start_loop(r, o, in);
        b->bad = true;
        return 0;
    }
    return r->map[v] = start_op(r, d, in);
}

// A store before or after the loop over chunks, of the state or a number.
static void outer_store(Role *r, TOp *d) {
    Build *b = r->b;
    if (d->op != TOP_STORE || b->bad) return;
    r->rows = fact(b, b->t->carry)->rows;
    r->cols = fact(b, b->t->carry)->cols;
    ssd_nest_ex_vals(b->p, d->e, start_leaf, r);
    if (b->bad) return;
    Ex e = ssd_role_tx(r, d->e);
    store(r, d, e);
}

// Where heads form the scores: first in the loop's body, with values of its own, in the registers
// that later products take.
static void scores_first(Role *r) {
    Build *b = r->b;
    TBlock rest = r->loop->body;
    Role s = *r;
    if (b->masks->body.first != b->masks->body.last) { // one mask a kernel
        b->bad = true;
        return;
    }
    s.kind = SCORES;
    s.map = NEWN(b->t->a, Val, b->t->nfacts);
    for (u32 v = 0; v < b->t->nfacts; v++)
        if (!b->t->fact[v].inside) s.map[v] = r->map[v];
    r->loop->body = (TBlock){0};
    s.at = (TB){b->p, &r->loop->body};
    for (int own = 0; own < 2; own++) ahead_ops(&s, own);
    r->regs = s.regs;
    r->nregs = s.nregs;
    r->before = s.before;
    ssd_block_join(&r->loop->body, &rest);
    for (TOp *o = b->masks->body.first; o; o = o->next) o->a = 0;
}

static void heads(Build *b) {
    Timer *t = b->t;
    Role *r = ssd_role_new(b, HEADS);
    Val rep = 0;
    if (t->copies > 1) {
        rep = ssd_prog_val(b->p, "r", SSD_IDX, NULL, 0);
        r->rho = ssd_ex_val(b->p, rep);
    }
    Fact *s = fact(b, t->carry);
    Val home = ssd_role_regs(r, SSD_F32, ssd_role_acc_words(b, axis(b, s->rows), axis(b, s->cols)));
    r->at = r->before;
    Ex init[8];
    for (int i = 0; i < t->loop->ncarry; i++) {
        const Expr *x = ex(b, t->loop->init[i]);
        bool is_tile = t->loop->carry[i] == t->carry;
        if (is_tile && x->kind != EX_VAL) b->bad = true;
        if (b->bad) return;
        init[i] = is_tile ? ssd_ex_val(b->p, start_tile(r, x->val, home))
                          : ssd_role_tx(r, t->loop->init[i]);
        if (b->bad) return;
    }
    for (TOp *o = t->k->body.first; o != t->loop; o = o->next) outer_store(r, o);
    r->before = r->at;
    ssd_role_open(r);
    TB outer = {b->p, &r->post};
    for (int i = 0; i < t->loop->ncarry; i++) {
        Val c = ssd_tile_carry(&outer, r->loop, val(b, t->loop->carry[i])->name, init[i]);
        bool is_tile = t->loop->carry[i] == t->carry;
        if (is_tile) {
            r->start = ex(b, init[i])->val;
            b->p->vals.v[c].lay = val(b, r->start)->lay;
        } else {
            b->p->vals.v[c].lay.space = SP_SCALAR;
        }
        r->map[t->loop->carry[i]] = c;
    }
    for (TOp *o = t->loop->body.first; o && !b->bad; o = o->next) {
        Fact *f = o->out ? fact(b, o->out) : NULL;
        if (o->op == TOP_MMA && f->cone == CONE_HEAD) {
            for (u32 m = 0; m < t->mma.n; m++)
                if (t->mma.v[m] == o) head_mma(r, o, (int)m);
        } else if (o->op == TOP_MAP && f->cone == CONE_HEAD && f->stays && f->rows) {
            head_map(r, o);
        } else if (o->op == TOP_STORE) {
            head_store(r, o);
        } else if (o->op == TOP_YIELD) {
            Ex next[8];
            for (int i = 0; i < o->ncarry; i++) next[i] = ssd_role_tx(r, o->init[i]);
            if (b->masks && t->joined) {
                scores_first(r);
                if (b->bad) return;
                ssd_role_sync(r, TOP_RELEASE, b->masks);
            } else if (b->masks) {
                TOp *w = NEW(t->a, TOp); // the masks are awaited at the top, until `order`
                *w = (TOp){.op = TOP_AWAIT, .a = b->masks->out, .next = r->loop->body.first};
                if (b->masks->copies > 1) w->e = r->rho;
                r->loop->body.first = w;
                ssd_role_sync(r, TOP_RELEASE, b->masks);
            }
            int n = o->ncarry;
            if (r->packed) {
                Val state = 0;
                for (int i = 0; i < n; i++)
                    if (t->loop->carry[i] == t->carry) state = ex(b, next[i])->val;
                const Lay l = val(b, r->packed)->lay;
                Val again = ssd_role_frag_tile(r, "sb", l.ax[0], l.ax[1], l.buf);
                ssd_role_emit(r, TOP_COPY, again)->a = state;
                next[n++] = ssd_ex_val(b->p, again);
            }
            ssd_role_release(r);
            ssd_role_await(r);
            ssd_tile_yield(&r->at, next, n);
        }
    }
    r->at = outer;
    for (TOp *o = t->loop->next; o; o = o->next) outer_store(r, o);
    if (!b->bad) b->heads = ssd_role_close(r, "heads", 4, t->copies, rep);
}

// --- scores -------------------------------------------------------------------------------------

static bool made_ahead(const Build *b, Val v, bool own) {
    const Fact *f = fact(b, v);
    return f->cone == CONE_AHEAD && f->own == own;
}

// exp2(a_i - b_j) in a block below the diagonal is exp2(a_i - b_e) exp2(b_e - b_j), e the block's
// last token: one exponential a row and block, and one a token, made by vec. Both exponents keep
// their sign.
typedef struct Product {
    Ex factor[FACTORS];
    int n;
} Product;
static void flatten(const Build *b, Ex e, Product *out) {
    const Expr *x = ex(b, e);
    if (x->kind == EX_FN && x->fn == FN_MUL && out->n + 2 < FACTORS) {
        Ex l = x->arg[0], r = x->arg[1];
        flatten(b, l, out);
        flatten(b, r, out);
    } else {
        out->factor[out->n++] = e;
    }
}
static bool ranges(const Build *b, Ex e, bool i, bool j) {
    Over o = {0};
    ssd_role_over(b, e, &o);
    return o.i == i && o.j == j && !o.feature && !o.tile;
}
static Ex times(Build *b, Ex x, Ex y) { return !x ? y : !y ? x : fn(b, FN_MUL, x, y); }

static Ex below_diagonal(Role *r, Ex mask) { // T2; 0 when there is nothing to gain
    Build *b = r->b;
    const Expr w = *ex(b, mask);
    if (w.kind != EX_FN || w.fn != FN_WHERE || ex(b, w.arg[2])->kind != EX_NUM) return 0;
    Product all = {0};
    flatten(b, w.arg[1], &all);
    Ex rest = 0, weights = 0, a = 0, e = 0;
    for (int i = 0; i < all.n; i++) {
        const Expr *x = ex(b, all.factor[i]),
                   *d = x->kind == EX_FN && x->fn == FN_EXP2 ? ex(b, x->arg[0]) : NULL;
        bool decay = !a && d && d->kind == EX_FN && d->fn == FN_SUB &&
                     ranges(b, d->arg[0], true, false) && ranges(b, d->arg[1], false, true);
        if (decay)
            a = d->arg[0], e = d->arg[1];
        else if (ranges(b, all.factor[i], false, true))
            weights = times(b, weights, all.factor[i]);
        else
            rest = times(b, rest, all.factor[i]);
    }
    // decays above 1 (`decay: any`): the two factors could leave the range that their product is in
    bool growing = b->t->u->graph && b->t->u->graph->decay_any;
    if (!a || !rest || growing || size(b, b->t->j) % BLOCK) return 0;
    e = ssd_ex_rewrite(b->p, e, ssd_role_to_j, b);
    if (weights) weights = ssd_ex_rewrite(b->p, weights, ssd_role_to_j, b);
    bool own = ssd_role_ex_own(b->t, e) || ssd_role_ex_own(b->t, weights);
    Val end = ssd_role_exported(b, BLOCK_END, e, 0, 0, "ce", own),
        weight = ssd_role_exported(b, BLOCK_WEIGHT, e, weights, 0, "g", own);
    if (b->bad) return 0;
    Ex ce = ssd_ex_val(b->p, ssd_role_slot_view(r, end, own)),
       g = ssd_ex_val(b->p, ssd_role_slot_view(r, weight, own));
    Ex row = ssd_ex_fn(b->p, FN_EXP2, fn(b, FN_SUB, ssd_role_tx(r, a), ce), 0, 0);
    return fn(b, FN_MUL, ssd_role_tx(r, rest), fn(b, FN_MUL, row, g));
}

// The product that knows v to be zero above its diagonal.
static const TOp *masked(const Build *b, Val v) {
    for (TOp *m = b->t->loop->body.first; m; m = m->next)
        if (m->op == TOP_MMA && m->tri_row &&
            (ssd_role_origin(b->t, m->a) == v || ssd_role_origin(b->t, m->b) == v))
            return m;
    return NULL;
}

static void ahead_ops(Role *r, bool own) {
    Build *b = r->b;
    for (TOp *o = b->t->loop->body.first; o && !b->bad; o = o->next) {
        if (!o->out || val(b, o->out)->naxes != 2 || !made_ahead(b, o->out, own)) continue;
        Fact *f = fact(b, o->out);
        r->rows = f->rows;
        r->cols = f->cols;
        if (o->op == TOP_MMA) {
            Val left = ssd_role_get_shared(r, o->a), right = ssd_role_get_shared(r, o->b);
            if (!left || !right) {
                b->bad = true;
                return;
            }
            Val out =
                ssd_role_acc_tile(r, val(b, o->out)->name, axis(b, f->rows), axis(b, f->cols), 0);
            TOp *n = ssd_role_emit(r, TOP_MMA, out);
            n->a = left;
            n->b = right;
            r->map[o->out] = out;
        }
    }
    for (TOp *s = b->masks->body.first; s && !b->bad; s = s->next) {
        Val v = s->a; // the T0 value that this slot is for
        if (fact(b, v)->own != own) continue;
        ssd_role_sync(r, TOP_ACQUIRE, b->masks);
        Fact *f = fact(b, v);
        r->rows = f->rows;
        r->cols = f->cols;
        bool map = f->def->op == TOP_MAP;
        Ex e = map ? ssd_role_tx(r, f->def->e) : ssd_ex_val(b->p, ssd_role_get(r, v));
        Ex below = map && masked(b, v) ? below_diagonal(r, f->def->e) : 0;
        if (b->bad) return;
        TOp *n = ssd_role_emit(r, TOP_INTO, 0);
        n->a = s->out;
        n->e2 = e;
        n->hi = below;
        const TOp *m = masked(b, v);
        if (m) {
            n->tri_row = axis(b, m->tri_row);
            n->tri_col = axis(b, m->tri_col);
        }
        ssd_role_sync(r, TOP_PUBLISH, b->masks);
    }
}

void ssd_role_each(Role *r, Role *inner) {
    Build *b = r->b;
    TOp *each = ssd_tile_for(&r->at, "r", num(b, 0), num(b, b->t->copies), false);
    each->op = TOP_EACH;
    *inner = *r;
    inner->map = NEWN(b->t->a, Val, b->t->nfacts);
    memcpy(inner->map, r->map, sizeof(Val) * b->t->nfacts);
    inner->rho = ssd_ex_val(b->p, each->var);
    inner->each = true;
    inner->at = (TB){b->p, &each->body};
}

static void scores(Build *b) {
    if (!b->masks || b->t->joined) return;
    if (b->masks->body.first != b->masks->body.last) { // one mask a kernel
        b->bad = true;
        return;
    }
    Role *r = ssd_role_new(b, SCORES);
    ssd_role_open(r);
    ahead_ops(r, false);
    if (b->masks->copies > 1 && !b->bad) {
        Role inner;
        ssd_role_each(r, &inner);
        ahead_ops(&inner, true);
        r->regs = inner.regs;
        r->nregs = inner.nregs;
        r->before = inner.before;
    }
    ssd_role_release(r);
    ssd_role_await(r);
    if (!b->bad) b->scores = ssd_role_close(r, "scores", 4, 1, 0);
    for (TOp *s = b->masks->body.first; s; s = s->next) s->a = 0;
}

// --- The kernel ---------------------------------------------------------------------------------

static void grid(Build *b) {
    Timer *t = b->t;
    const TKernel *k = t->k;
    for (int i = 0; i < k->ngrid; i++) {
        bool head = k->grid[i].var == t->head;
        Ex n = k->grid[i].size;
        if (head) n = num(b, ((i64)ex(b, n)->num * t->blocks + t->copies - 1) / t->copies);
        b->grid_of[i] = ssd_prog_grid(b->p, b->out, head ? "u" : val(b, k->grid[i].var)->name, n);
        if (head) b->unit = b->grid_of[i];
    }
    if (!b->unit)
        b->unit = ssd_prog_grid(b->p, b->out, "u", num(b, (t->blocks + t->copies - 1) / t->copies));
}

// Registers that a thread of the role lacks.
static int lacks(const Build *b, const TOp *role) {
    if (!role) return 0;
    return ssd_timed_need(b->p, b->out, role, b->t->wgmma, true) - role->regs;
}

// Registers a thread. Where they cannot be moved all have the same; else loads need few, scores one
// accumulator, cook the tiles at hand, and heads have the rest. False where tiles would not fit, or
// products would wait for each other.
static bool share_registers(Build *b) {
    enum { FEW = 40, COPYING = 48, AHEAD = 88, COOKING = 160, LEAST = 128, MOST = 240 };
    enum { ALL = 65536, THREADS = 128, STEP = 8, BESIDE = 30 };
    bool moved = b->t->wgmma, asked = b->t->u->schedule.roles > 0;
    int groups = (ssd_timed_warps(b->out) + 3) / 4,
        each = MIN(ALL / (groups * THREADS) / STEP * STEP, 248), cooking = 0;
    if (b->cook)
        cooking = (ssd_timed_need(b->p, b->out, b->cook, moved, true) + STEP - 1) / STEP * STEP;
    if (b->cook) cooking = MIN(MAX(cooking, COOKING), MOST);
    Copied lanes = ssd_role_copied(b);
    int few = lanes.vec ? COPYING : FEW, of_few = 0, ahead = b->scores ? AHEAD : 0; // of_few: warps
    for (const TOp *o = b->out->body.first; o; o = o->next)
        if (o->op == TOP_ROLE && o->warps < 4) of_few += o->warps * o->copies;
    int rest = each * groups - few * ((of_few + 3) / 4) - ahead - cooking;
    for (TOp *o = b->out->body.first; o; o = o->next)
        if (o->op == TOP_ROLE) o->regs = moved ? few : each;
    if (moved) {
        if (b->scores) b->scores->regs = ahead;
        b->heads->regs = MIN(rest / b->t->copies / STEP * STEP, MOST);
        if (b->cook) b->cook->regs = MIN(cooking + rest - b->heads->regs * b->t->copies, MOST);
    }
    int lack = MAX(lacks(b, b->heads), MAX(lacks(b, b->scores), lacks(b, b->cook)));
    bool most = b->heads->regs == MOST || lanes.odd;
    if (b->loaders > 1 && moved && (lack > 0 || !most)) return false;
    if (!asked && lack > b->t->lack) return false;
    // ptxas compiles the whole kernel for `each`; a product's accumulator has to fit in it
    const TVal *c = val(b, b->t->carry);
    int widest = ssd_role_acc_words(b, axis(b, c->ax[0]), axis(b, c->ax[1])) + BESIDE;
    return !moved || (b->heads->regs >= LEAST && each >= widest);
}

// Depths of the rings, from what is best down to what fits. `least` slots of the main one. What
// leaves is staged in two slots; where lanes copy it, in one rather than that `in` has but two.
typedef struct Depths {
    int in, numbers, masks, raw, cooked;
} Depths;
static bool fits(Build *b, const Depths *d, int out) {
    int asked = b->t->u->schedule.stages;
    b->in->depth = asked > 0 ? asked : d->in;
    if (b->stage) b->stage->depth = out;
    if (b->numbers) b->numbers->depth = d->numbers;
    if (b->masks) b->masks->depth = d->masks;
    if (b->raw) b->raw->depth = d->raw;
    if (b->cooked) b->cooked->depth = d->cooked;
    return ssd_timed_shared_bytes(b->p, b->out) + 1024 <= b->t->u->machine->l1;
}
static bool fit_memory(Build *b, int least) {
    static const Depths steps[] = {
        {6, 8, 2, 4, 3}, {5, 8, 2, 4, 3}, {4, 8, 2, 4, 3}, {4, 8, 2, 3, 3}, {3, 8, 2, 3, 2},
        {3, 8, 2, 2, 2}, {3, 4, 2, 2, 2}, {2, 4, 2, 2, 2}, {2, 4, 2, 1, 2}, {2, 4, 1, 1, 2},
        {2, 2, 1, 1, 1}, {1, 4, 2, 1, 1}, {1, 2, 1, 1, 1}};
    u32 first = !b->masks ? 0 : b->cook ? 2 : 4, few = first;
    while (steps[few].in > 2) few++;
    for (int out = 2; out > 0; out--)
        for (u32 s = first; s < few && (out == 2 || b->copies_out); s++)
            if (fits(b, &steps[s], out)) return true;
    for (u32 s = few; s < COUNTOF(steps) && steps[s].in >= least; s++)
        if (fits(b, &steps[s], 2)) return true;
    return false;
}

// Sorts a list into ranks, keeping the order within each; rank -1 is left out.
typedef int Rank(const Build *b, const TOp *o);
static void sort(const Build *b, TBlock *list, Rank *rank) {
    TBlock of[4] = {0}, all = {0};
    for (TOp *o = list->first, *next; o; o = next) {
        next = o->next;
        int at = rank(b, o);
        if (at >= 0) ssd_block_append(&of[at], o);
    }
    for (int i = 0; i < 4; i++) ssd_block_join(&all, &of[i]);
    *list = all;
}

// Tiles of 1024-byte alignment first: no gaps.
static int slot_rank(const Build *b, const TOp *o) { return val(b, o->out)->lay.space != SP_SW128; }

// Rings first. Where registers move between groups of 4 warps, roles of few warps share the first
// group; elsewhere they come last, so that no warp is left idle.
static int op_rank(const Build *b, const TOp *o) {
    if (o->op == TOP_RING) return o->body.first ? 0 : -1;
    bool few = o->warps < 4;
    if (few) return b->t->wgmma ? 1 : 3;
    return (o == b->heads ? 1 : 0) + (b->t->wgmma ? 2 : 1);
}

static bool build(Timer *t, TKernel *out, int loaders, bool staged, int least) {
    Build *b = NEW(t->a, Build);
    *out = (TKernel){.name = t->k->name};
    b->t = t;
    b->loaders = loaders;
    b->p = t->p;
    b->out = out;
    b->top = (TB){t->p, &out->body};
    if (t->copies > 1)
        b->copy_axis = ssd_prog_axis(t->p, ssd_arena_printf(t->a, "R%d", t->copies), t->copies);
    grid(b);
    ssd_role_main_ring(b);
    if (staged) b->stage = ssd_role_ring(b, "out", 2, t->copies);
    heads(b); // heads and scores ask, the others answer
    if (!b->bad) scores(b);
    if (!b->bad) ssd_role_cook(b);
    if (!b->bad) ssd_role_loosen(b);
    if (!b->bad) ssd_role_vec(b);
    if (!ssd_role_loads(b)) return false;
    if (b->bad) return false;
    sort(b, &out->body, op_rank);
    sort(b, &b->in->body, slot_rank);
    return share_registers(b) && fit_memory(b, least);
}

bool ssd_role_build(Timer *t, TKernel *out) {
    // Where lanes copy: two warps, if that leaves `heads` all the registers it can use.
    if (t->wgmma && build(t, out, 2, true, 2)) return true;
    for (int least = 2; least > 0; least--) { // one slot: what loads and what computes take turns
        int loaders = t->wgmma ? 1 : 2;
        if (build(t, out, loaders, true, least)) return true;
        // Without room to stage what leaves, elements go one by one: bounds of ragged rows take
        // registers.
        if (t->p->axes.v[t->value].size % 16 == 0 && build(t, out, loaders, false, least))
            return true;
    }
    return false;
}
