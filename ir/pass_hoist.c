// SPDX-License-Identifier: Apache-2.0
// hoist: what the heads of a group share is computed once a group, by a kernel of its own.
//
//   before  kernel scan grid b=#b h=24
//             for c in 0..cdiv(#t, 64) carry s=h0_
//               B_ = load B[b, c*64+j, h//24, n]
//               S = mma C_ B_ : f32[i j]
//   after   ws S_ws f32[#b 1 cdiv(#t, 64) 64 64]
//           kernel group grid b=#b u=1 c=cdiv(#t, 64)
//             .. S = mma C_ B_ ; store S_ws[b, u, c, i, j] = S
//           kernel scan ..
//               S = load S_ws[b, h//24, c, i, j]
//
// A value of a loop over chunks is shared when it reaches the head only through h//(heads a group)
// and depends on no carry. What goes to workspace: the last shared values that a product made.
// Values that nothing uses any more are dropped. Needs: T0 from chunk. Keeps: every number, bit for
// bit.
#include "nest.h"
#include "pass.h"

typedef struct Hoist {
    Unit *u;
    Prog *p;
    Val head;    // the grid variable of heads
    Val segment; // that of segments of the loop, 0: none
    i64 per;     // heads a group
    bool *own;   // [val] differs between the heads of a group, or is carried
    bool *made;  // [val] descends from a product
    bool *reads; // [val] read by something that is not shared (or outside the loop)
    Val *clone;  // [val] the value in the new kernel
} Hoist;

// --- What depends on what -----------------------------------------------------------------------

static bool ex_own(const Hoist *h, Ex e) {
    if (!e) return false;
    const Expr *x = &h->p->exs.v[e];
    switch ((ExKind)x->kind) {
    case EX_VAL: return x->val == h->head || h->own[x->val];
    case EX_LOAD:
        for (int i = 0; i < x->nidx; i++)
            if (ex_own(h, x->idx[i])) return true;
        return false;
    case EX_FN:
        if (ssd_ex_divisor(h->p, e, h->head) == h->per) return false;
        return ex_own(h, x->arg[0]) || ex_own(h, x->arg[1]) || ex_own(h, x->arg[2]);
    case EX_NUM:
    case EX_AXIS:
    case EX_SYM: return false;
    }
    return false;
}

typedef void ExVisit(void *ctx, Ex e);
static void op_exprs(TOp *o, ExVisit *f, void *ctx) {
    Ex list[] = {o->e, o->e2, o->when, o->lo, o->hi};
    for (size_t i = 0; i < COUNTOF(list); i++)
        if (list[i]) f(ctx, list[i]);
    for (int i = 0; i < o->nidx; i++) f(ctx, o->idx[i]);
    for (int i = 0; i < o->ncarry; i++) f(ctx, o->init[i]);
}

typedef struct Any {
    const bool *of;
    bool hit;
} Any;
static void any(void *ctx, Val v) {
    Any *a = ctx;
    a->hit |= a->of[v];
}
static bool any_val(const Prog *p, TOp *o, const bool *of) {
    Any a = {of, false};
    ssd_nest_operands(p, o, any, &a);
    return a.hit;
}

static bool can_move(const TOp *o) { return o->out && o->op < TOP_FOR; }

static void own_ex(void *ctx, Ex e) {
    void **c = ctx;
    if (ex_own(c[0], e)) *(bool *)c[1] = true;
}

// Marks what is a head's own in a block, and what descends from a product.
static void mark(Hoist *h, TBlock *b) {
    for (TOp *o = b->first; o; o = o->next) {
        for (int i = 0; i < o->ncarry; i++)
            if (o->carry) h->own[o->carry[i]] = true;
        if (can_move(o)) {
            bool own = (o->a && h->own[o->a]) || (o->b && h->own[o->b]) || (o->c && h->own[o->c]);
            void *ctx[] = {h, &own};
            op_exprs(o, own_ex, ctx);
            h->own[o->out] = own;
            h->made[o->out] = o->op == TOP_MMA || any_val(h->p, o, h->made);
        }
        mark(h, &o->body);
    }
}

static void read_by_own(void *ctx, Val v) { ((bool *)ctx)[v] = true; }
static void mark_reads(Hoist *h, TBlock *b) {
    for (TOp *o = b->first; o; o = o->next) {
        bool shared = can_move(o) && !h->own[o->out] && h->made[o->out];
        if (!shared) ssd_nest_operands(h->p, o, read_by_own, h->reads);
        mark_reads(h, &o->body);
    }
}

// --- Moving -------------------------------------------------------------------------------------

typedef struct Subst {
    Hoist *h;
    Val group;
} Subst;
static Ex subst(void *ctx, Prog *p, Ex e) {
    Subst *s = ctx;
    const Expr *x = &p->exs.v[e];
    if (x->kind == EX_FN && x->fn == FN_FDIV && p->exs.v[x->arg[0]].kind == EX_VAL &&
        p->exs.v[x->arg[0]].val == s->h->head)
        return ssd_ex_val(p, s->group);
    if (x->kind == EX_VAL && s->h->clone[x->val]) return ssd_ex_val(p, s->h->clone[x->val]);
    return e;
}

static void need(void *ctx, Val v) { ((bool *)ctx)[v] = true; }

// Copies the shared ops of a block that the wanted values need, in order.
static void copy_ops(Hoist *h, TBlock *from, const bool *wanted, TBlock *to, Subst *s) {
    Prog *p = h->p;
    for (TOp *o = from->first; o; o = o->next) {
        if (!can_move(o) || !wanted[o->out]) continue;
        TB b = {p, to};
        TOp *n = ssd_tile_op(&b, o->op);
        TOp *next = n->next;
        *n = *o;
        n->next = next;
        TVal v = p->vals.v[o->out];
        n->out = ssd_prog_val(p, v.name, v.dtype, v.ax, v.naxes);
        h->clone[o->out] = n->out;
        Val *vals[] = {&n->a, &n->b, &n->c};
        for (size_t i = 0; i < COUNTOF(vals); i++)
            if (*vals[i] && h->clone[*vals[i]]) *vals[i] = h->clone[*vals[i]];
        Ex *exs[] = {&n->e, &n->e2, &n->when};
        for (size_t i = 0; i < COUNTOF(exs); i++) *exs[i] = ssd_ex_rewrite(p, *exs[i], subst, s);
        for (int i = 0; i < n->nidx; i++) n->idx[i] = ssd_ex_rewrite(p, n->idx[i], subst, s);
    }
}

// Everything the wanted values are computed from, within a block.
static void close_over(Hoist *h, TBlock *b, bool *wanted) {
    TOp *ops[512];
    int n = 0;
    for (TOp *o = b->first; o && n < (int)COUNTOF(ops); o = o->next) ops[n++] = o;
    while (n--)
        if (ops[n]->out && wanted[ops[n]->out]) ssd_nest_operands(h->p, ops[n], need, wanted);
}

static bool closed(const Prog *p, Ex e) { // over symbols and numbers only
    const Expr *x = &p->exs.v[e];
    if (x->kind == EX_VAL || x->kind == EX_LOAD || x->kind == EX_AXIS) return false;
    for (int i = 0; x->kind == EX_FN && i < 3; i++)
        if (x->arg[i] && !closed(p, x->arg[i])) return false;
    return true;
}

// Rows of workspace for a loop of chunks. Over a whole sequence: chunk c. Over a packed sequence
// with first row lo: lo//Q + s + c, which no two sequences share, below #t//Q + #s.
typedef struct Chunks {
    bool packed;
    Ex count, first; // workspace rows; first row of this sequence (packed)
} Chunks;

static bool chunks_of(Hoist *h, TKernel *k, TOp *loop, Chunks *out) {
    Prog *p = h->p;
    *out = (Chunks){.count = loop->hi};
    if (closed(p, loop->hi)) return true;
    const Expr *hi = &p->exs.v[loop->hi];
    if (hi->kind == EX_FN && hi->fn == FN_MIN && closed(p, hi->arg[1])) { // a segment of them
        out->count = hi->arg[1];
        return true;
    }
    if (hi->kind != EX_FN || hi->fn != FN_CDIV || p->exs.v[hi->arg[1]].kind != EX_NUM) return false;
    Val lo = 0, seq = 0;
    for (TOp *o = k->body.first; o; o = o->next)
        if (o->op == TOP_LOAD && !lo && p->vals.v[o->out].dtype == SSD_IDX) lo = o->out;
    for (int i = 0; i < k->ngrid; i++)
        if (p->exs.v[k->grid[i].size].kind == EX_SYM &&
            !strcmp(p->syms.v[p->exs.v[k->grid[i].size].sym], "s"))
            seq = k->grid[i].var;
    if (!lo || !seq) return false;
    Ex q = hi->arg[1];
    out->packed = true;
    out->count = ssd_ex_fn(p, FN_ADD, ssd_ex_fn(p, FN_FDIV, ssd_ex_sym(p, "t"), q, 0),
                           ssd_ex_sym(p, "s"), 0);
    out->first =
        ssd_ex_fn(p, FN_ADD, ssd_ex_fn(p, FN_FDIV, ssd_ex_val(p, lo), q, 0), ssd_ex_val(p, seq), 0);
    return true;
}

static int ws_index(const Hoist *h, const TKernel *k, Ex group, Ex row, Chunks c, const TVal *v,
                    Ex out[8]) {
    Prog *p = h->p;
    int n = 0;
    for (int i = 0; i < k->ngrid; i++) {
        if (k->grid[i].var == h->head)
            out[n++] = group;
        else if (!c.packed && k->grid[i].var != h->segment)
            out[n++] = ssd_ex_val(p, k->grid[i].var);
    }
    out[n++] = row;
    for (int i = 0; i < v->naxes; i++) out[n++] = ssd_ex_axis(p, v->ax[i]);
    return n;
}

static u16 workspace(Hoist *h, const TKernel *k, Val v, Chunks c) {
    Prog *p = h->p;
    Ex dim[8];
    int n = 0;
    for (int i = 0; i < k->ngrid; i++) {
        Ex size = k->grid[i].size;
        if (k->grid[i].var == h->head)
            dim[n++] = ssd_ex_int(p, (i64)p->exs.v[size].num / h->per);
        else if (!c.packed && k->grid[i].var != h->segment)
            dim[n++] = size;
    }
    dim[n++] = c.count;
    const TVal *t = &p->vals.v[v];
    for (int i = 0; i < t->naxes; i++) dim[n++] = ssd_ex_int(p, p->axes.v[t->ax[i]].size);
    const char *name = ssd_arena_printf(p->arena, "%s_ws", t->name);
    while (ssd_prog_find_tensor(p, name)) name = ssd_arena_printf(p->arena, "%s_", name);
    return ssd_prog_tensor(p, T_WS, name, SSD_F32, n, dim);
}

// Makes the group kernel for the frontier values of one loop and rewrites the loop to load them.
static TKernel hoist_loop(Hoist *h, TKernel *k, TOp *loop, Chunks c, TOp **frontier, int n) {
    Prog *p = h->p;
    TKernel g = {.name = ssd_arena_printf(p->arena, "%s_group", k->name)};
    Subst s = {.h = h};
    for (int i = 0; i < k->ngrid; i++) {
        bool head = k->grid[i].var == h->head;
        if (k->grid[i].var == h->segment) continue;
        Val v = ssd_prog_val(p, head ? "u" : p->vals.v[k->grid[i].var].name, SSD_IDX, NULL, 0);
        Ex size = k->grid[i].size;
        if (head) {
            size = ssd_ex_int(p, (i64)p->exs.v[size].num / h->per);
            s.group = v;
        } else {
            h->clone[k->grid[i].var] = v;
        }
        g.grid[g.ngrid++] = (TGrid){v, size};
    }
    bool *wanted = NEWN(p->arena, bool, p->vals.n);
    for (int i = 0; i < n; i++) wanted[frontier[i]->out] = true;
    if (c.packed) {
        ssd_nest_ex_vals(p, loop->hi, need, wanted);
        ssd_nest_ex_vals(p, c.first, need, wanted);
    }
    close_over(h, &loop->body, wanted);
    close_over(h, &k->body, wanted);
    copy_ops(h, &k->body, wanted, &g.body, &s);
    TBlock *body = &g.body;
    if (c.packed) {
        TB b = {p, body};
        TOp *l = ssd_tile_for(&b, p->vals.v[loop->var].name, loop->lo,
                              ssd_ex_rewrite(p, loop->hi, subst, &s), false);
        h->clone[loop->var] = l->var;
        body = &l->body;
    } else {
        Val v = ssd_prog_val(p, p->vals.v[loop->var].name, SSD_IDX, NULL, 0);
        h->clone[loop->var] = v;
        g.grid[g.ngrid++] = (TGrid){v, c.count};
    }
    copy_ops(h, &loop->body, wanted, body, &s);
    for (int i = 0; i < n; i++) {
        TOp *o = frontier[i];
        TVal v = p->vals.v[o->out];
        u16 ws = workspace(h, k, o->out, c);
        Ex ix[8], chunk = ssd_ex_val(p, loop->var);
        if (c.packed) chunk = ssd_ex_fn(p, FN_ADD, c.first, chunk, 0);
        Ex per = ssd_ex_int(p, h->per);
        Ex group = ssd_ex_fn(p, FN_FDIV, ssd_ex_val(p, h->head), per, 0);
        int m = ws_index(h, k, group, chunk, c, &v, ix);
        TB b = {p, body};
        Ex there[8];
        for (int d = 0; d < m; d++) there[d] = ssd_ex_rewrite(p, ix[d], subst, &s);
        ssd_tile_store(&b, ws, there, m, ssd_ex_val(p, h->clone[o->out]), 0);
        TOp *next = o->next;
        *o = (TOp){.next = next,
                   .op = TOP_LOAD,
                   .out = o->out,
                   .tensor = ws,
                   .nidx = (u8)m,
                   .line = o->line};
        memcpy(o->idx, ix, sizeof ix);
    }
    return g;
}

// --- The pass -----------------------------------------------------------------------------------

// Heads a group: the divisor of h in the kernel's loads. 1: nothing is shared.
static void divisor(void *ctx, Ex e) {
    Hoist *h = ctx;
    const Expr *x = &h->p->exs.v[e];
    for (int i = 0; x->kind == EX_LOAD && i < x->nidx; i++) divisor(ctx, x->idx[i]);
    if (x->kind != EX_FN) return;
    i64 per = ssd_ex_divisor(h->p, e, h->head);
    if (per) h->per = per;
    for (int i = 0; i < 3; i++)
        if (x->arg[i]) divisor(ctx, x->arg[i]);
}
static void find_divisor(Hoist *h, TBlock *b) {
    for (TOp *o = b->first; o; o = o->next) {
        op_exprs(o, divisor, h);
        find_divisor(h, &o->body);
    }
}

// The grid variable that says where the loops over chunks start: what they share is of a chunk, not
// of a segment.
static void find_segment(Hoist *h, const TKernel *k) {
    bool *starts = NEWN(h->p->arena, bool, h->p->vals.n);
    h->segment = 0;
    for (const TOp *o = k->body.first; o; o = o->next)
        if (o->op == TOP_FOR && !o->flags) ssd_nest_ex_vals(h->p, o->lo, need, starts);
    for (int i = 0; i < k->ngrid; i++)
        if (starts[k->grid[i].var] && k->grid[i].var != h->head) h->segment = k->grid[i].var;
}

static bool hoist_kernel(Hoist *h, TKernel *k, TKernel *out) {
    Prog *p = h->p;
    h->per = 1;
    for (int i = 0; i < k->ngrid && h->per <= 1; i++) {
        if (p->exs.v[k->grid[i].size].kind != EX_NUM) continue;
        h->head = k->grid[i].var;
        find_divisor(h, &k->body);
    }
    if (h->per <= 1) return false;
    u32 n = p->vals.n;
    h->own = NEWN(p->arena, bool, n);
    h->made = NEWN(p->arena, bool, n);
    h->reads = NEWN(p->arena, bool, n);
    h->clone = NEWN(p->arena, Val, n + 512);
    h->own[h->head] = true;
    find_segment(h, k);
    if (h->segment) h->own[h->segment] = true;
    mark(h, &k->body);
    mark_reads(h, &k->body);
    for (TOp *loop = k->body.first; loop; loop = loop->next) {
        if (loop->op != TOP_FOR || loop->flags) continue;
        TOp *frontier[16];
        int m = 0;
        for (TOp *o = loop->body.first; o; o = o->next)
            if (can_move(o) && !h->own[o->out] && h->made[o->out] && h->reads[o->out] && m < 16)
                frontier[m++] = o;
        Chunks c;
        if (!m || !chunks_of(h, k, loop, &c)) continue;
        *out = hoist_loop(h, k, loop, c, frontier, m);
        return true; // one loop a kernel: chunked programs have one
    }
    return false;
}

bool ssd_pass_hoist(Unit *u) {
    Prog *p = u->prog;
    bool changed = false;
    Hoist h = {.u = u, .p = p};
    for (u32 k = 0; k < p->kernels.n && u->schedule.hoist > 0; k++) {
        TKernel g;
        if (!hoist_kernel(&h, &p->kernels.v[k], &g)) continue;
        vec_push(p->arena, &p->kernels, g);
        memmove(&p->kernels.v[k + 1], &p->kernels.v[k], (p->kernels.n - 1 - k) * sizeof g);
        p->kernels.v[k++] = g;
        changed = true;
    }
    changed |= ssd_tile_dce(p);
    return changed;
}
