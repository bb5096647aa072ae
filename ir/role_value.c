// SPDX-License-Identifier: Apache-2.0
// What a role of a kernel asks for: values with layouts, rings and their slots, T0 expressions as
// the role sees them. A value of another cone comes through a ring, and asking for it is what puts
// it there.
#include "role_build.h"

// --- Values with layouts ------------------------------------------------------------------------

Val ssd_role_tile(Build *b, const char *name, u8 dtype, const u8 *ax, int n, Space s, Val regs) {
    Val v = ssd_prog_val(b->p, name, (ssd_dtype)dtype, ax, n);
    TVal *t = &b->p->vals.v[v];
    t->lay.space = (u8)s;
    t->lay.naxes = (u8)n;
    if (n) memcpy(t->lay.ax, ax, (size_t)n);
    t->lay.buf = regs;
    return v;
}
static Val scalar(Build *b, const char *name, u8 dtype) {
    return ssd_role_tile(b, name, dtype, NULL, 0, SP_SCALAR, 0);
}

static TOp *detached(Build *b, TBlock *to, TOpCode code) {
    TB tb = {b->p, to};
    return ssd_tile_op(&tb, code);
}

Val ssd_role_regs(Role *r, u8 dtype, int n) {
    static const char letters[] = "RABCDEFGHIJKLMNOPQ";
    Build *b = r->b;
    const char *name = ssd_arena_printf(b->t->a, "%c%d", letters[r->kind + 1], r->nregs++);
    TOp *o = detached(b, &r->regs, TOP_REGS);
    o->out = ssd_prog_val(b->p, name, (ssd_dtype)dtype, NULL, 0);
    o->depth = n;
    return o->out;
}

int ssd_role_acc_words(const Build *b, u8 rows, u8 cols) { // of T2 axes
    i64 r = (size(b, rows) + 63) / 64 * 64;
    return (int)(r * size(b, cols) / 128);
}
Val ssd_role_acc_tile(Role *r, const char *name, u8 rows, u8 cols, Val in) {
    u8 ax[2] = {rows, cols};
    if (!in) in = ssd_role_regs(r, SSD_F32, ssd_role_acc_words(r->b, rows, cols));
    return ssd_role_tile(r->b, name, SSD_F32, ax, 2, SP_ACC, in);
}
Val ssd_role_frag_tile(Role *r, const char *name, u8 rows, u8 cols, Val in) {
    u8 ax[2] = {rows, cols};
    u8 half = r->b->t->half;
    if (!in) in = ssd_role_regs(r, half, ssd_role_acc_words(r->b, rows, cols) / 2);
    return ssd_role_tile(r->b, name, half, ax, 2, SP_FRAG, in);
}

TOp *ssd_role_emit(Role *r, TOpCode code, Val out) {
    TOp *o = ssd_tile_op(&r->at, code);
    o->out = out;
    return o;
}

static bool holds(const TOp *ring, Val slot) {
    for (const TOp *s = ring ? ring->body.first : NULL; s; s = s->next)
        if (s->out == slot) return true;
    return false;
}

// A slot's tile, of this role's copy.
Val ssd_role_slot_view(Role *r, Val slot, bool own) {
    Build *b = r->b;
    if (holds(b->in, slot)) *r->reads |= READS_IN;
    if (holds(b->raw, slot)) *r->reads |= READS_RAW;
    if (holds(b->cooked, slot)) *r->reads |= READS_COOKED;
    if (holds(b->constants, slot)) *r->reads |= READS_CONSTANTS;
    if (!own) return slot;
    const TVal s = *val(b, slot);
    Val v = ssd_role_tile(b, ssd_arena_printf(b->t->a, "%sr", s.name), s.dtype, s.lay.ax + 1,
                          s.naxes - 1, (Space)s.lay.space, 0);
    TOp *o = ssd_role_emit(r, TOP_AT, v);
    o->a = slot;
    o->ax[0] = s.lay.ax[0];
    o->e = r->rho;
    return v;
}

static Val renamed(Role *r, Val v, u8 from, u8 to) {
    Build *b = r->b;
    TVal s = *val(b, v);
    u8 ax[6] = {0};
    for (int i = 0; i < s.naxes; i++) ax[i] = s.lay.ax[i] == from ? to : s.lay.ax[i];
    Val n = ssd_role_tile(b, s.name, s.dtype, ax, s.naxes, (Space)s.lay.space, s.lay.buf);
    TOp *o = ssd_role_emit(r, TOP_RENAME, n);
    o->a = v;
    o->ax[0] = from;
    o->ax[1] = to;
    return n;
}

// --- Rings --------------------------------------------------------------------------------------

TOp *ssd_role_ring(Build *b, const char *name, int depth, int copies) {
    TOp *o = ssd_tile_op(&b->top, TOP_RING);
    o->out = ssd_prog_val(b->p, name, SSD_IDX, NULL, 0);
    o->depth = depth;
    o->copies = copies;
    return o;
}
Val ssd_role_slot(Build *b, TOp *in, const char *name, u8 dtype, const u8 *ax, int n, Space s) {
    TOp *o = detached(b, &in->body, TOP_SLOT);
    return o->out = ssd_role_tile(b, name, dtype, ax, n, s, 0);
}
TOp *ssd_role_main_ring(Build *b) { return b->in ? b->in : (b->in = ssd_role_ring(b, "in", 3, 1)); }

// A tile of a ring's slots, one for each copy where they differ.
static Val place(Build *b, TOp *ring, Val v, u8 dtype, Space space) {
    const TVal t = *val(b, v);
    u8 ax[3] = {0}, n = 0;
    if (fact(b, v)->own) ax[n++] = b->copy_axis;
    for (int i = 0; i < t.naxes; i++) ax[n++] = axis(b, t.ax[i]);
    return ssd_role_slot(b, ring, t.name, dtype, ax, n, space);
}

// The ring a loaded value comes in: numbers a feature in one of their own, tiles in that which
// heads and scores read, or, asked for by `cook` first, in one that it has alone.
static TOp *ring_for(Role *r, Val v) {
    Build *b = r->b;
    if (val(b, v)->naxes == 1)
        return b->constants ? b->constants : (b->constants = ssd_role_ring(b, "constants", 1, 1));
    if (r->kind != COOK) return ssd_role_main_ring(b);
    return b->raw ? b->raw : (b->raw = ssd_role_ring(b, "raw", 2, 1));
}

Val ssd_role_fetched(Role *r, Val v) {
    Build *b = r->b;
    const TOp *load = fact(b, v)->def;
    for (int i = 0; i < b->nfetched; i++)
        if (b->fetched[i].load == load) return b->fetched[i].slot;
    if (b->nfetched == FETCHES) {
        b->bad = true;
        return 0;
    }
    TOp *ring = ring_for(r, v);
    Val s = place(b, ring, v, b->p->tensors.v[load->tensor].dtype,
                  val(b, v)->naxes == 1 ? SP_ROW : SP_SW128);
    b->fetched[b->nfetched].load = load;
    b->fetched[b->nfetched].ring = ring;
    b->fetched[b->nfetched].own = fact(b, v)->own;
    b->fetched[b->nfetched++].slot = s;
    return s;
}

// A cooked tile's place. Until `cook` is written, its slot's op names the T0 value.
static Val cooked(Build *b, Val v) {
    if (!b->cooked) b->cooked = ssd_role_ring(b, "cooked", 2, 1);
    for (TOp *o = b->cooked->body.first; o; o = o->next)
        if (o->a == v) return o->out;
    Val s = place(b, b->cooked, v, b->t->half, SP_SW128);
    b->cooked->body.last->a = v;
    return s;
}

static Val tile_slot(Role *r, Val v) {
    return fact(r->b, v)->cone == CONE_COOK ? cooked(r->b, v) : ssd_role_fetched(r, v);
}

// Do the copies read neighbours of one row of 16 bytes, each the number of its head?
static bool side_by_side(const Build *b, const TOp *load) {
    const TTensor *x = &b->p->tensors.v[load->tensor];
    int most = 16 / (int)ssd_dtype_size(x->dtype), last = load->nidx - 1;
    const Expr *e = ex(b, load->idx[last]);
    for (int i = 0; i < last; i++)
        if (ssd_role_ex_own(b->t, load->idx[i])) return false;
    return e->kind == EX_VAL && e->val == b->t->head && most % b->t->copies == 0;
}

// Numbers a token, loaded for vec: rows of 16 bytes that start at the first head's, or runs of
// time.
static int numbers(Build *b, Val v) {
    const TOp *load = fact(b, v)->def;
    for (int i = 0; i < b->nfetched; i++)
        if (b->fetched[i].load == load) return i;
    if (b->nfetched == FETCHES) {
        b->bad = true;
        return 0;
    }
    const TTensor *x = &b->p->tensors.v[load->tensor];
    bool own = fact(b, v)->own, along = false;
    u8 ax[2] = {0}, n = 0, j = b->t->j, last[8];
    int m = ssd_ex_axes(b->p, load->idx[load->nidx - 1], last);
    along = memchr(last, j, (size_t)m) != NULL;
    b->bad |= own && !along && !side_by_side(b, load);
    int bytes = (int)ssd_dtype_size(x->dtype);
    if (!b->numbers) b->numbers = ssd_role_ring(b, "numbers", 8, 1);
    u8 word = 0;
    if (along) {
        if (own) ax[n++] = b->copy_axis;
        ax[n++] = j;
    } else {
        const char *name = bytes == 4 ? "w4" : "w8";
        word = ssd_prog_axis(b->p, name, 16 / bytes);
        ax[n++] = j;
        ax[n++] = word;
    }
    Val s = ssd_role_slot(b, b->numbers, val(b, v)->name, x->dtype, ax, n, SP_ROW);
    b->fetched[b->nfetched].load = load;
    b->fetched[b->nfetched].ring = b->numbers;
    b->fetched[b->nfetched].own = own;
    b->fetched[b->nfetched].word = word;
    b->fetched[b->nfetched].slot = s;
    return b->nfetched++;
}

Val ssd_role_exported(Build *b, Number kind, Ex e, Ex f, Val v, const char *name, bool own) {
    for (int i = 0; i < b->nexported; i++)
        if (b->exported[i].kind == kind && b->exported[i].f == f &&
            (v ? b->exported[i].v == v : b->exported[i].e == e))
            return b->exported[i].slot;
    if (b->nexported == EXPORTS) {
        b->bad = true;
        return 0;
    }
    u8 ax[2] = {0}, n = 0;
    if (own) ax[n++] = b->copy_axis;
    ax[n++] = b->t->j;
    Val s = ssd_role_slot(b, ssd_role_main_ring(b), name, SSD_F32, ax, n, SP_ROW);
    if (kind == BLOCK_END) ssd_role_main_ring(b)->body.last->depth = BLOCK;
    b->exported[b->nexported].kind = kind;
    b->exported[b->nexported].e = e;
    b->exported[b->nexported].f = f;
    b->exported[b->nexported].v = v;
    b->exported[b->nexported].own = own;
    b->exported[b->nexported++].slot = s;
    return s;
}

// --- Expressions --------------------------------------------------------------------------------

// Heads: z = unit*copies + rho counts pieces of 64 values; head z//blocks, piece z%blocks.
static Ex count_of(Build *b, Ex rho) {
    Ex u = ssd_ex_val(b->p, b->unit);
    return fn(b, FN_ADD, fn(b, FN_MUL, u, num(b, b->t->copies)), rho);
}
static Ex rest(Build *b, Ex e, int n) {
    return fn(b, FN_SUB, e, fn(b, FN_MUL, fn(b, FN_FDIV, e, num(b, n)), num(b, n)));
}
static Ex head_of(Build *b, Ex rho) {
    Timer *t = b->t;
    if (ssd_role_straddles(t)) return fn(b, FN_FDIV, count_of(b, rho), num(b, t->blocks));
    return fn(b, FN_FDIV, ssd_ex_val(b->p, b->unit), num(b, t->blocks / t->copies));
}
static Ex piece_of(Role *r) {
    Build *b = r->b;
    Timer *t = b->t;
    if (t->blocks == 1) return num(b, 0);
    if (ssd_role_straddles(t)) return rest(b, count_of(b, r->rho), t->blocks);
    int per = t->blocks / t->copies;
    Ex u = ssd_ex_val(b->p, b->unit),
       at = per > 1 ? fn(b, FN_MUL, rest(b, u, per), num(b, t->copies)) : num(b, 0);
    return fn(b, FN_ADD, at, r->rho);
}

void ssd_role_over(const Build *b, Ex e, Over *o) {
    if (!e) return;
    const Expr *x = ex(b, e);
    if (x->kind == EX_AXIS) {
        o->i |= x->axis == b->t->i;
        o->j |= x->axis == b->t->j;
        o->feature |= x->axis != b->t->i && x->axis != b->t->j;
    }
    if (x->kind == EX_VAL) {
        const TVal *v = val(b, x->val);
        for (int k = 0; k < v->naxes; k++) {
            o->i |= v->ax[k] == b->t->i;
            o->j |= v->ax[k] == b->t->j;
            o->feature |= v->ax[k] != b->t->i && v->ax[k] != b->t->j;
        }
        bool index = x->val < b->t->nfacts && fact(b, x->val)->index && !o->any_row;
        o->tile |= v->naxes > 1;
        o->row |= v->naxes == 1 && !index;
    }
    for (int k = 0; x->kind == EX_LOAD && k < x->nidx; k++) ssd_role_over(b, x->idx[k], o);
    for (int k = 0; x->kind == EX_FN && k < 3; k++) ssd_role_over(b, x->arg[k], o);
}

// The same expression over j: query rows are the key rows of the same tokens.
Ex ssd_role_to_j(void *ctx, Prog *p, Ex e) {
    Build *b = ctx;
    const Expr *x = &p->exs.v[e];
    if (x->kind == EX_AXIS && x->axis == b->t->i) return ssd_ex_axis(p, b->t->j);
    if (x->kind == EX_VAL && x->val < b->t->nfacts && val(b, x->val)->naxes == 1)
        return ssd_ex_val(p, ssd_role_origin(b->t, x->val));
    return e;
}

// A vector of another role, as a row of shared memory; e over j or i.
static Ex row_of(Role *r, Ex e, bool query) {
    Build *b = r->b;
    Ex j = ssd_ex_rewrite(b->p, e, ssd_role_to_j, b);
    const Expr *x = ex(b, j);
    Val v = x->kind == EX_VAL ? x->val : 0;
    bool own = ssd_role_ex_own(b->t, j);
    Val s = ssd_role_exported(b, NUMBER, j, 0, v, v ? val(b, v)->name : "f", own);
    if (!s) return e;
    Val view = ssd_role_slot_view(r, s, own);
    if (query) view = renamed(r, view, b->t->j, b->t->i);
    return ssd_ex_val(b->p, view);
}

Ex ssd_role_tx(Role *r, Ex e) {
    Build *b = r->b;
    if (!e) return 0;
    const Expr x = *ex(b, e);
    switch ((ExKind)x.kind) {
    case EX_NUM:
    case EX_SYM: return e;
    case EX_AXIS: {
        Ex a = ssd_ex_axis(b->p, axis(b, x.axis));
        if (x.axis != b->t->value) return a;
        a = fn(b, FN_ADD, fn(b, FN_MUL, piece_of(r), num(b, 64)), a);
        return b->t->shift ? fn(b, FN_SUB, a, ssd_role_tx(r, b->t->shift)) : a;
    }
    case EX_LOAD: {
        Ex idx[8];
        for (int i = 0; i < x.nidx; i++) idx[i] = ssd_role_tx(r, x.idx[i]);
        return ssd_ex_load(b->p, x.tensor, idx, x.nidx);
    }
    case EX_VAL: {
        if (x.val == b->t->head) return head_of(b, r->rho);
        for (int i = 0; i < b->t->k->ngrid; i++)
            if (b->t->k->grid[i].var == x.val) return ssd_ex_val(b->p, b->grid_of[i]);
        Fact *f = fact(b, x.val);
        if (r->kind == COOK && f->index) return ssd_role_tx(r, f->def->e);
        if (r->kind != VEC && val(b, x.val)->naxes == 1 && f->cone == CONE_VEC) {
            Over o = {.any_row = true};
            ssd_role_over(b, e, &o);
            return row_of(r, e, o.i);
        }
        bool inline_it =
            f->def && f->def->op == TOP_MAP && f->inside && val(b, x.val)->naxes == 2 && !f->stays;
        if (inline_it) return ssd_role_tx(r, f->def->e);
        Val v = ssd_role_get(r, x.val);
        return v ? ssd_ex_val(b->p, v) : e;
    }
    case EX_FN: {
        Over o = {.any_row = r->kind != COOK};
        ssd_role_over(b, e, &o);
        if (r->kind != VEC && x.dtype != SSD_BOOL && o.row && !o.tile && !o.feature && o.i != o.j)
            return row_of(r, e, o.i);
        if (ssd_role_one_group(b->t, e)) return fn(b, FN_FDIV, head_of(b, num(b, 0)), x.arg[1]);
        Ex arg[3] = {0};
        for (int i = 0; i < 3 && x.arg[i]; i++) arg[i] = ssd_role_tx(r, x.arg[i]);
        return ssd_ex_fn(b->p, (FnCode)x.fn, arg[0], arg[1], arg[2]);
    }
    }
    return e;
}

void ssd_role_tx_access(Role *r, TOp *o, const TOp *from) {
    o->tensor = from->tensor;
    o->nidx = from->nidx;
    for (int i = 0; i < from->nidx; i++) o->idx[i] = ssd_role_tx(r, from->idx[i]);
    o->when = ssd_role_tx(r, from->when);
}

// --- Values a role asks for ---------------------------------------------------------------------

static Val get_scalar(Role *r, Val v, const Fact *f) {
    Build *b = r->b;
    TB at = r->at;
    bool before = !f->inside && !(r->each && f->own);
    if (before) r->at = r->before;
    const TVal t = *val(b, v);
    TOp *d = f->def;
    Val out = 0;
    if (d->op == TOP_AT) {
        Val base = 0;
        Ex e = ssd_ex_val(b->p, d->a), idx = ssd_role_tx(r, d->e);
        if (r->kind == VEC) {
            base = ssd_role_get(r, d->a);
        } else {
            Ex row = row_of(r, e, false);
            base = ex(b, row)->val;
        }
        TOp *o = ssd_role_emit(r, TOP_AT, out = scalar(b, t.name, t.dtype));
        o->a = base;
        o->ax[0] = b->t->j;
        o->e = idx;
    } else if (d->op == TOP_LOAD) {
        TOp tmp = {0};
        ssd_role_tx_access(r, &tmp, d);
        TOp *o = ssd_role_emit(r, TOP_LOAD, out = scalar(b, t.name, t.dtype));
        TOp *next = o->next;
        *o = tmp;
        o->op = TOP_LOAD;
        o->out = out;
        o->next = next;
    } else {
        Ex e = ssd_role_tx(r, d->e);
        ssd_role_emit(r, TOP_MAP, out = scalar(b, t.name, t.dtype))->e = e;
    }
    if (before) r->before = r->at, r->at = at;
    return out;
}

// The last index of a number's load for the first copy, and where its 16 bytes start.
static Ex word_of(Build *b, const TOp *load) {
    Role first = {.b = b, .kind = LOADS, .rho = num(b, 0)};
    return ssd_role_tx(&first, load->idx[load->nidx - 1]);
}
Ex ssd_role_word_start(Build *b, Ex e, u8 word) {
    Ex n = num(b, size(b, word));
    return fn(b, FN_MUL, fn(b, FN_FDIV, e, n), n);
}

static Val get_vec(Role *r, Val v, const Fact *f) { // in the role vec
    Build *b = r->b;
    const TVal t = *val(b, v);
    TOp *d = f->def;
    u8 ax[1] = {b->t->j};
    int words = (int)(size(b, b->t->j) / 32);
    if (d->op == TOP_RENAME) return ssd_role_get(r, d->a);
    if (d->op == TOP_LOAD) {
        int n = numbers(b, v);
        if (b->bad) return 0;
        Val s = b->fetched[n].slot;
        u8 word = b->fetched[n].word;
        if (word) {
            Ex first = word_of(b, d), own = ssd_role_tx(r, d->idx[d->nidx - 1]),
               at = fn(b, FN_SUB, own, ssd_role_word_start(b, first, word));
            Val row = ssd_role_tile(b, t.name, val(b, s)->dtype, ax, 1, SP_ROW, 0);
            TOp *o = ssd_role_emit(r, TOP_AT, row);
            o->a = s;
            o->ax[0] = word;
            o->e = at;
            s = row;
        } else {
            s = ssd_role_slot_view(r, s, b->fetched[n].own);
        }
        Val out =
            ssd_role_tile(b, t.name, SSD_F32, ax, 1, SP_LANE, ssd_role_regs(r, SSD_F32, words));
        ssd_role_emit(r, TOP_COPY, out)->a = s;
        return out;
    }
    if (d->op == TOP_SCAN) {
        Val in = ssd_role_get(r, d->a);
        Val out =
            ssd_role_tile(b, t.name, SSD_F32, ax, 1, SP_LANE, ssd_role_regs(r, SSD_F32, words));
        TOp *o = ssd_role_emit(r, TOP_SCAN, out);
        o->a = in;
        o->ax[0] = b->t->j;
        o->flags = d->flags;
        return out;
    }
    Ex e = ssd_role_tx(r, d->e);
    Val out = ssd_role_tile(b, t.name, SSD_F32, ax, 1, SP_LANE, ssd_role_regs(r, SSD_F32, words));
    ssd_role_emit(r, TOP_MAP, out)->e = e;
    return out;
}

// A loaded tile as first operands want it: rows and columns as T0 axes of v.
Val ssd_role_get_frag(Role *r, Val v, u8 rows, u8 cols) {
    Build *b = r->b;
    if (r->frag[v]) return r->frag[v];
    Val base = ssd_role_origin(b->t, v), out;
    if (base != v) { // the same registers under another name
        u8 from = b->t->i, to = b->t->j;
        out = ssd_role_get_frag(r, base, rows == from ? to : rows, cols == from ? to : cols);
        if (out) out = renamed(r, out, to, from);
    } else {
        Val s = tile_slot(r, base);
        if (!s) return 0;
        s = ssd_role_slot_view(r, s, fact(b, base)->own);
        out = ssd_role_frag_tile(r, val(b, v)->name, axis(b, rows), axis(b, cols), 0);
        ssd_role_emit(r, TOP_COPY, out)->a = s;
    }
    return r->frag[v] = out;
}

// A tile in shared memory: a loaded or a cooked one, or one of the role scores.
Val ssd_role_get_shared(Role *r, Val v) {
    Build *b = r->b;
    Val base = ssd_role_origin(b->t, v);
    Fact *f = fact(b, base);
    Val s;
    if (f->cone == CONE_SLOT || f->cone == CONE_COOK) {
        s = tile_slot(r, base);
        if (s) s = ssd_role_slot_view(r, s, f->own);
    } else {
        if (!b->masks) b->masks = ssd_role_ring(b, "masks", 2, f->own ? b->t->copies : 1);
        s = 0;
        for (TOp *o = b->masks->body.first; o; o = o->next)
            if (o->a == base) s = o->out;
        if (!s) {
            u8 ax[2] = {axis(b, b->t->i), axis(b, b->t->j)};
            s = ssd_role_slot(b, b->masks, val(b, base)->name, b->t->half, ax, 2, SP_SW128);
            b->masks->body.last->a = base; // until scores is written
        }
    }
    if (s && base != v) {
        const TOp *d = fact(b, v)->def;
        s = renamed(r, s, axis(b, d->ax[0]), axis(b, d->ax[1]));
    }
    return s;
}

Val ssd_role_get(Role *r, Val v) {
    Build *b = r->b;
    if (r->map[v]) return r->map[v];
    Fact *f = fact(b, v);
    Val out = 0;
    if (b->bad) return 0;
    if (v == b->t->loop->var) return r->map[v] = r->loop->var;
    switch ((Cone)f->cone) {
    case CONE_SCALAR:
        if (f->def) out = get_scalar(r, v, f);
        break;
    case CONE_VEC:
        if (r->kind == VEC) out = get_vec(r, v, f);
        break;
    case CONE_COOK:
    case CONE_SLOT:
        if (r->kind == COOK && f->cone == CONE_COOK) {
            out = ssd_role_cooked(r, v);
            break;
        }
        if (r->kind == HEADS || r->kind == COOK) return ssd_role_get_frag(r, v, r->rows, r->cols);
        out = ssd_role_get_shared(r, v);
        break;
    case CONE_AHEAD:
        if (r->kind != SCORES) out = ssd_role_get_shared(r, v);
        break;
    case CONE_HEAD:
        if (r->kind == COOK) {
            out = ssd_role_cooked(r, v);
        } else if (f->def && f->def->op == TOP_RENAME) {
            Val in = ssd_role_get(r, f->def->a);
            if (in) out = renamed(r, in, axis(b, f->def->ax[0]), axis(b, f->def->ax[1]));
        }
        break;
    }
    if (!out) b->bad = true;
    return r->map[v] = out;
}
