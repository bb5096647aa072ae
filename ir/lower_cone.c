// SPDX-License-Identifier: Apache-2.0
// Graph -> T0: evaluating a pointwise cone at a place.
//
// A place (Ctx) says what each axis means there: `b` is a grid variable, `t` is row c*Q + j of a
// chunk, `n` is a tile axis. Places nest as blocks do: kernel, time loop. A node is evaluated in
// the innermost place that binds one of its axes, so what is constant over time lands before the
// loop by itself. Pointwise nodes become one expression; one gets a name (a `map`) when it has
// several users or when it would be repeated along an axis it does not have (softplus(dt) over p).
#include "lower.h"

#include <math.h>

Ctx *ssd_ctx_new(Lower *l, Ctx *up, TBlock *block) {
    Ctx *c = NEW(l->a, Ctx);
    c->up = up;
    c->block = block;
    c->memo = NEWN(l->a, Ex, l->g->nodes.n);
    return c;
}

TOp *ssd_ctx_open(Lower *l, Ctx *c, const char *var, Ex lo, Ex hi, bool rev) {
    TB b = {l->p, &c->tail};
    return ssd_tile_for(&b, var, lo, hi, rev);
}

void ssd_ctx_close(Ctx *c) {
    ssd_block_join(c->block, &c->tail);
    c->tail = (TBlock){0};
}

Ctx *ssd_ctx_only(Lower *l, Ctx *up, Ex condition) {
    Ctx *c = ssd_ctx_new(l, up, up->block);
    c->binds = UINT64_MAX;
    c->only = condition;
    return c;
}

Ex ssd_lower_fn(Lower *l, FnCode f, Ex a, Ex b) { return ssd_ex_fn(l->p, f, a, b, 0); }

static Ex idx(Lower *l, i64 v) { return ssd_ex_int(l->p, v); }

void ssd_ctx_bind(Lower *l, Ctx *c, AxisId x, Ex index) {
    const Graph *g = l->g;
    c->index[x] = index;
    c->binds |= 1ull << x;
    if (g->axes.v[x].kind != AX_HEAD) return;
    for (AxisId y = 1; y < g->axes.n; y++) { // head i reads group i // (heads / groups)
        if (g->axes.v[y].kind != AX_GROUP) continue;
        i64 per = g->axes.v[x].size / g->axes.v[y].size;
        c->index[y] = ssd_lower_fn(l, FN_FDIV, index, idx(l, per));
        c->binds |= 1ull << y;
    }
}

Ex ssd_lower_len(Lower *l) {
    if (l->g->step) return idx(l, 1);
    return l->len_val ? ssd_ex_val(l->p, l->len_val) : ssd_ex_sym(l->p, "t");
}

void ssd_ctx_bind_time(Lower *l, Ctx *c, Ex tau, u8 row) {
    c->index[l->time] = tau;
    c->binds |= 1ull << l->time;
    c->row = row;
    if (l->g->step) return;
    Ex len = ssd_lower_len(l), zero = idx(l, 0);
    if (!c->valid) c->valid = ssd_lower_fn(l, FN_LT, tau, len);
    if (l->g->packed)
        c->guard = c->shift ? ssd_lower_fn(l, FN_AND, ssd_lower_fn(l, FN_GE, tau, zero),
                                           ssd_lower_fn(l, FN_LT, tau, len))
                            : c->valid;
}

Ex ssd_ctx_index(Lower *l, const Ctx *c, AxisId x) {
    for (; c; c = c->up)
        if (c->index[x]) return c->index[x];
    if (l->g->axes.v[x].kind == AX_BATCH && l->g->packed) return idx(l, 0);
    return ssd_ex_axis(l->p, ssd_cone_tile_axis(l, x));
}

u8 ssd_cone_tile_axis(Lower *l, AxisId x) {
    const Axis *a = &l->g->axes.v[x];
    if (l->tile_of[x]) return l->tile_of[x];
    u8 have = ssd_prog_find_axis(l->p, a->name);
    return have ? have : ssd_prog_axis(l->p, a->name, a->size);
}

bool ssd_cone_has_tile_axis(const Lower *l, Ex e, u8 axis) {
    u8 ax[8];
    int n = ssd_ex_axes(l->p, e, ax);
    for (int i = 0; i < n; i++)
        if (ax[i] == axis) return true;
    return false;
}

static u64 tile_axes(const Lower *l, Ex e) {
    u8 ax[8];
    u64 m = 0;
    int n = ssd_ex_axes(l->p, e, ax);
    for (int i = 0; i < n; i++) m |= 1ull << ax[i];
    return m;
}

static const Ctx *time_ctx(const Lower *l, const Ctx *c) {
    for (; c; c = c->up)
        if (l->time && c->index[l->time]) return c;
    return NULL;
}

int ssd_cone_indices(Lower *l, const Ctx *c, const AxisId *ax, int naxes, Ex out[8]) {
    int n = 0;
    for (int d = 0; d < naxes; d++) {
        if (ax[d] == l->time && l->g->step) continue;
        Ex e = ssd_ctx_index(l, c, ax[d]);
        if (ax[d] == l->time && l->lo) e = ssd_lower_fn(l, FN_ADD, ssd_ex_val(l->p, l->lo), e);
        out[n++] = e;
    }
    return n;
}

// The innermost place that binds an axis of the node: further in, nothing of it changes.
static Ctx *place_of(const Lower *l, Ctx *c, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    u64 axes = 0;
    for (int i = 0; i < n->naxes; i++) axes |= 1ull << n->ax[i];
    if (n->op == OP_INDEX) axes |= 1ull << n->a0;
    bool end = l->home[r] == l->stage && l->at_end[r];
    while (c->up && !(c->binds & axes) && !(end && c->epilogue)) c = c->up;
    return c;
}

static const char *node_name(const Lower *l, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    const char *s = l->g->names.v[n->name];
    return n->name && s[0] ? s : NULL;
}

Val ssd_cone_named(Lower *l, const Ctx *c, const char *name, Ex e) {
    const Expr *x = &l->p->exs.v[e];
    if (x->kind == EX_VAL) return x->val;
    TB b = ssd_ctx_tb(l, c);
    if (x->dtype == SSD_BOOL)
        e = ssd_ex_fn(l->p, FN_WHERE, e, ssd_ex_num(l->p, 1), ssd_ex_num(l->p, 0));
    return ssd_tile_map(&b, name, SSD_F32, e);
}

// A condition has no tile of its own: it stays an expression.
static bool is_bool(const Lower *l, Ex e) { return l->p->exs.v[e].dtype == SSD_BOOL; }

Val ssd_cone_val(Lower *l, Ctx *c, Ref r) {
    c = place_of(l, c, r);
    Ex e = ssd_cone(l, c, r);
    Val v = ssd_cone_named(l, c, node_name(l, r), e);
    if (!is_bool(l, e)) c->memo[r] = ssd_ex_val(l->p, v);
    return v;
}

void ssd_cone_set(Lower *l, Ctx *c, Ref r, Val v) { c->memo[r] = ssd_ex_val(l->p, v); }

// The condition of a load or store here: of its rows, when it has a time axis, and of the place.
static Ex guard_of(Lower *l, const Ctx *c, const Ctx *time) {
    Ex only = 0, rows = time ? time->guard : 0;
    for (const Ctx *p = c; p && !only; p = p->up) only = p->only;
    return !only ? rows : !rows ? only : ssd_lower_fn(l, FN_AND, only, rows);
}

static Ex load(Lower *l, Ctx *c, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    TB b = ssd_ctx_tb(l, c);
    Ex ix[8];
    int k = ssd_cone_indices(l, c, n->ax, n->naxes, ix);
    const Ctx *t = NULL;
    for (int i = 0; i < n->naxes; i++)
        if (n->ax[i] == l->time) t = time_ctx(l, c);
    const char *name = node_name(l, r);
    if (!name) name = l->p->tensors.v[l->tensor[r]].name;
    Val v = ssd_tile_load(&b, ssd_arena_printf(l->a, "%s_", name), SSD_F32, l->tensor[r], ix, k,
                          guard_of(l, c, t));
    return ssd_ex_val(l->p, v);
}

static Ex cone_fn(Lower *l, Ctx *c, const Node *n) {
    Ex a[3] = {0};
    u64 all = 0, mask[3] = {0};
    for (int i = 0; i < 3 && n->arg[i]; i++) {
        a[i] = ssd_cone(l, c, n->arg[i]);
        mask[i] = tile_axes(l, a[i]);
        all |= mask[i];
    }
    for (int i = 0; i < 3 && n->arg[i]; i++)
        if ((mask[i] != all || place_of(l, c, n->arg[i]) != c) && l->p->exs.v[a[i]].kind == EX_FN &&
            !is_bool(l, a[i]))
            a[i] = ssd_ex_val(l->p, ssd_cone_val(l, c, n->arg[i]));
    return ssd_ex_fn(l->p, n->fn, a[0], a[1], a[2]);
}

// The same place k tokens earlier.
static Ctx *shifted(Lower *l, Ctx *c, i32 k) {
    const Ctx *t = time_ctx(l, c);
    for (u32 i = 0; i < c->shifted.n; i++)
        if (c->shifted.v[i]->shift == t->shift + k) return c->shifted.v[i];
    Ctx *s = ssd_ctx_new(l, c, c->block);
    s->shift = t->shift + k;
    s->valid = t->valid;
    ssd_ctx_bind_time(l, s, ssd_lower_fn(l, FN_SUB, t->index[l->time], idx(l, k)), t->row);
    vec_push(l->a, &c->shifted, s);
    return s;
}

static Ex cone_shift(Lower *l, Ctx *c, const Node *n) {
    Ex tau = time_ctx(l, c)->index[l->time], past = idx(l, 0);
    if (n->arg[1]) { // the window holds tokens -k..-1; at token tau < k entry tau is token tau - k
        AxisId w = n->a1;
        Ex keep = c->index[w];
        u64 bound = c->binds;
        ssd_ctx_bind(l, c, w, tau);
        Ref r = n->arg[1];
        Ex ix[8];
        const Node *in = &l->g->nodes.v[r];
        int m = ssd_cone_indices(l, c, in->ax, in->naxes, ix);
        TB b = ssd_ctx_tb(l, c);
        past = ssd_ex_val(l->p, ssd_tile_load(&b, "past", SSD_F32, l->tensor[r], ix, m, 0));
        c->index[w] = keep;
        c->binds = bound;
    } else {
        past = ssd_ex_num(l->p, 0);
    }
    if (l->g->step) return past; // one token: every earlier one is in the window
    Ctx *s = shifted(l, c, n->k);
    Ex then = ssd_cone(l, s, n->arg[0]);
    return ssd_ex_fn(l->p, FN_WHERE, ssd_lower_fn(l, FN_GE, tau, idx(l, n->k)), then, past);
}

// The tile axes of a node here: the rows, its window and its features.
static int node_tile_axes(Lower *l, const Ctx *c, const Node *n, u8 out[8]) {
    int k = 0;
    const Ctx *t = time_ctx(l, c);
    for (int i = 0; i < n->naxes; i++) {
        AxisKind kind = l->g->axes.v[n->ax[i]].kind;
        if (n->ax[i] == l->time && t && t->row) out[k++] = t->row;
        if (kind == AX_FEATURE || kind == AX_WINDOW) out[k++] = ssd_cone_tile_axis(l, n->ax[i]);
    }
    return k;
}

static bool over_heads(const Lower *l, const Node *n) {
    AxisKind kind = l->g->axes.v[n->a0].kind;
    return n->op == OP_FOLD || kind == AX_HEAD || kind == AX_GROUP;
}

// A reduction over heads walks them in a loop.
static Ex reduce_heads(Lower *l, Ctx *c, const Node *n) {
    TB b = ssd_ctx_tb(l, c);
    bool max = n->op == OP_AMAX;
    Ex lo = idx(l, 0), hi = idx(l, l->g->axes.v[n->a0].size);
    if (n->op == OP_FOLD) {
        i64 per = l->g->axes.v[n->a0].size / l->g->axes.v[n->a1].size;
        lo = ssd_lower_fn(l, FN_MUL, ssd_ctx_index(l, c, n->a1), idx(l, per));
        hi = ssd_lower_fn(l, FN_ADD, lo, idx(l, per));
    }
    u8 ax[8];
    int k = node_tile_axes(l, c, n, ax);
    Val z = ssd_tile_fill(&b, "zero", SSD_F32, ssd_ex_num(l->p, max ? -INFINITY : 0), ax, k);
    TOp *f = ssd_ctx_open(l, c, l->g->axes.v[n->a0].name, lo, hi, false);
    Val acc = ssd_tile_carry(&b, f, "acc", ssd_ex_val(l->p, z));
    Ctx *in = ssd_ctx_new(l, c, &f->body);
    ssd_ctx_bind(l, in, n->a0, ssd_ex_val(l->p, f->var));
    Ex e = ssd_cone(l, in, n->arg[0]);
    Ex sum = ssd_lower_fn(l, max ? FN_MAX : FN_ADD, ssd_ex_val(l->p, acc), e);
    TB ib = ssd_ctx_tb(l, in);
    Ex next = ssd_ex_val(l->p, ssd_tile_map(&ib, NULL, SSD_F32, sum));
    ssd_tile_yield(&ib, &next, 1);
    ssd_ctx_close(c);
    return ssd_ex_val(l->p, acc);
}

// The value as a tile that has these axes (a constant has none).
static Val with_axes(Lower *l, Ctx *c, Ref r, const u8 *ax, int n) {
    Ex e = ssd_cone(l, c, r);
    u8 lacks[8];
    int k = 0;
    for (int i = 0; i < n; i++)
        if (!ssd_cone_has_tile_axis(l, e, ax[i])) lacks[k++] = ax[i];
    TB b = ssd_ctx_tb(l, c);
    if (!k) return ssd_cone_named(l, c, node_name(l, r), e);
    Val z = ssd_tile_fill(&b, "zero", SSD_F32, ssd_ex_num(l->p, 0), lacks, k);
    return ssd_tile_map(&b, NULL, SSD_F32, ssd_lower_fn(l, FN_ADD, e, ssd_ex_val(l->p, z)));
}

// Concatenation, operand after operand; one without the axis is a column.
static Ex cone_cat(Lower *l, Ctx *c, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    TB b = ssd_ctx_tb(l, c);
    u8 all[8], to = ssd_cone_tile_axis(l, n->a1), at = 0;
    int k = node_tile_axes(l, c, n, all), rest = 0;
    for (int i = 0; i < k; i++)
        if (all[i] != to) all[rest++] = all[i];
    Val v = 0;
    i64 columns = 0, size = l->g->axes.v[n->a1].size;
    for (int i = 0; i < 5 && n->arg[i]; i++) {
        bool has = n->a0 && ssd_graph_has_axis(l->g, n->arg[i], n->a0);
        u8 x = has ? ssd_cone_tile_axis(l, n->a0) : i ? 0 : ssd_prog_axis(l->p, "one", 1);
        if (x) all[rest] = x;
        Val w = with_axes(l, c, n->arg[i], all, rest + (x != 0));
        columns += has ? l->g->axes.v[n->a0].size : 1;
        if (!v) {
            v = w;
            at = x;
            continue;
        }
        const char *part = ssd_arena_printf(l->a, "%s%d", l->g->axes.v[n->a1].name, (int)columns);
        u8 sum = columns == size ? to : ssd_prog_axis(l->p, part, columns);
        v = ssd_tile_cat(&b, columns == size ? node_name(l, r) : NULL, v, w, at, sum);
        at = sum;
    }
    return ssd_ex_val(l->p, v);
}

static Ex cone_slice(Lower *l, Ctx *c, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    TB b = ssd_ctx_tb(l, c);
    Val v = ssd_cone_val(l, c, n->arg[0]);
    u8 x = ssd_cone_tile_axis(l, n->a0);
    if (!n->a1) return ssd_ex_val(l->p, ssd_tile_at(&b, node_name(l, r), v, x, idx(l, n->k)));
    u8 to = ssd_cone_tile_axis(l, n->a1);
    return ssd_ex_val(l->p, ssd_tile_slice(&b, node_name(l, r), v, x, to, n->k));
}

static Ex cone_swap(Lower *l, Ctx *c, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    TB b = ssd_ctx_tb(l, c);
    u8 x = ssd_cone_tile_axis(l, n->a0);
    Val v = with_axes(l, c, n->arg[0], &x, 1);
    return ssd_ex_val(l->p, ssd_tile_swap(&b, node_name(l, r), v, x, n->flags & 1));
}

static Ex cone_op(Lower *l, Ctx *c, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    TB b = ssd_ctx_tb(l, c);
    const char *name = node_name(l, r);
    switch ((OpCode)n->op) {
    case OP_IN: return load(l, c, r);
    case OP_CONST: return ssd_ex_num(l->p, n->val);
    case OP_INDEX: return ssd_ctx_index(l, c, n->a0);
    case OP_SIZE:
        if (n->a0 == l->time) return ssd_lower_len(l);
        return l->g->axes.v[n->a0].size < 0 ? ssd_ex_sym(l->p, l->g->axes.v[n->a0].name)
                                            : idx(l, l->g->axes.v[n->a0].size);
    case OP_FN: return cone_fn(l, c, n);
    case OP_CAST:
        if (n->dtype == SSD_F32) return ssd_cone(l, c, n->arg[0]);
        return ssd_ex_val(l->p, ssd_tile_map(&b, name, n->dtype, ssd_cone(l, c, n->arg[0])));
    case OP_SUM:
    case OP_AMAX:
    case OP_FOLD:
        if (over_heads(l, n)) return reduce_heads(l, c, n);
        return ssd_ex_val(l->p,
                          ssd_tile_reduce(&b, name, n->op == OP_AMAX, ssd_cone_tile_axis(l, n->a0),
                                          ssd_cone(l, c, n->arg[0])));
    case OP_CAT: return cone_cat(l, c, r);
    case OP_SLICE: return cone_slice(l, c, r);
    case OP_SWAP: return cone_swap(l, c, r);
    case OP_SPREAD: return ssd_cone(l, c, n->arg[0]); // the place binds groups with heads
    case OP_SHIFT: return cone_shift(l, c, n);
    case OP_SCAN:
    case OP_SSD:
    case OP_FINAL:
    case OP__COUNT: break;
    }
    SSD_BUG("node %u (%s) is not computed in stage %d", r, n->op == OP_SSD ? "ssd" : "state",
            l->stage);
}

Ex ssd_cone(Lower *l, Ctx *c, Ref r) {
    c = place_of(l, c, r);
    if (c->memo[r]) return c->memo[r];
    bool from_ws = l->in_ws[r] && l->home[r] != l->stage;
    Ex e = from_ws ? load(l, c, r) : cone_op(l, c, r);
    if (l->uses[r] > 1 && l->p->exs.v[e].kind == EX_FN && !is_bool(l, e))
        e = ssd_ex_val(l->p, ssd_cone_named(l, c, node_name(l, r), e));
    c->memo[r] = e;
    return e;
}

// A load is zero where there is no row; anything computed from loads need not be.
static bool zero_outside(const Lower *l, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    if (l->in_ws[r] && l->home[r] != l->stage) return true;
    return n->op == OP_IN || (n->op == OP_SPREAD && zero_outside(l, n->arg[0]));
}

Val ssd_cone_rows(Lower *l, Ctx *c, Ref r, const char *name) {
    const Ctx *t = time_ctx(l, c);
    if (node_name(l, r)) name = node_name(l, r);
    Ex e = ssd_cone(l, c, r);
    bool has = !t->row || ssd_cone_has_tile_axis(l, e, t->row);
    if (has && (zero_outside(l, r) || !t->valid || !t->row)) return ssd_cone_val(l, c, r);
    TB b = ssd_ctx_tb(l, t);
    Ex valid = t->valid ? t->valid : ssd_lower_fn(l, FN_GE, ssd_ex_axis(l->p, t->row), idx(l, 0));
    Ex zero = ssd_ex_num(l->p, 0), z = ssd_ex_fn(l->p, FN_WHERE, valid, e, zero);
    if (t->row && !ssd_cone_has_tile_axis(l, z, t->row)) // folded: zero everywhere
        z = ssd_lower_fn(l, FN_ADD, z,
                         ssd_ex_val(l->p, ssd_tile_fill(&b, "zero", SSD_F32, zero, &t->row, 1)));
    const Expr *v = &l->p->exs.v[z];
    return v->kind == EX_VAL ? v->val : ssd_tile_map(&b, name, SSD_F32, z);
}

void ssd_cone_stores(Lower *l, Ctx *c, bool epilogue) {
    Graph *g = l->g;
    Stage *s = &l->stages.v[l->stage];
    for (u32 i = 0; i < s->stores.n; i++) {
        StageStore st = s->stores.v[i];
        if (l->at_end[st.ref] != epilogue) continue;
        const Node *n = &g->nodes.v[st.ref];
        const AxisId *ax = st.out >= 0 ? g->outs.v[st.out].ax : n->ax;
        int naxes = st.out >= 0 ? g->outs.v[st.out].naxes : n->naxes;
        u16 tensor = st.out >= 0 ? l->out_tensor[st.out] : l->tensor[st.ref];
        Ex v = ssd_cone(l, c, st.ref), ix[8];
        int k = ssd_cone_indices(l, c, ax, naxes, ix);
        const Ctx *t = NULL;
        for (int d = 0; d < naxes; d++)
            if (ax[d] == l->time) t = time_ctx(l, c);
        TB b = ssd_ctx_tb(l, c);
        ssd_tile_store(&b, tensor, ix, k, v, guard_of(l, c, t));
    }
}
