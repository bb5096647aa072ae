// SPDX-License-Identifier: Apache-2.0
// chunk: whole tensors -> kernels over tiles (T0), in the form and chunk length the schedule names.
//
//   before  y = ssd C B %v %l : f32[b t h p]                 (graph)
//   after   kernel scan grid b=#b h=24                       (T0, IR.md C.1)
//             for c in 0..cdiv(#t, 64) carry s=s0 ..
//
// Needs: form (a schedule without open choices). Keeps: the meaning, checked against the graph by
// the tile interpreter. This file makes tensors and kernels and the stages that hold no ssd;
// pass_fuse.c, lower_cone.c and lower_ssd.c do the rest.
#include "lower.h"

#include <math.h>

Ex ssd_lower_dim(Lower *l, AxisId x) {
    const Axis *a = &l->g->axes.v[x];
    if (a->kind == AX_BATCH && l->g->packed) return ssd_ex_int(l->p, 1);
    if (a->size >= 0) return ssd_ex_int(l->p, a->size);
    ssd_prog_sym(l->p, a->name);
    return ssd_ex_sym(l->p, a->name);
}

static u16 tensor(Lower *l, TRole role, const char *name, ssd_dtype dt, const AxisId *ax, int n) {
    Ex d[8];
    int rank = 0;
    for (int i = 0; i < n; i++)
        if (!(l->g->step && ax[i] == l->time)) d[rank++] = ssd_lower_dim(l, ax[i]);
    return ssd_prog_tensor(l->p, role, name, dt, rank, d);
}

static const char *ws_name(Lower *l, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    const char *s = n->name ? l->g->names.v[n->name] : "ws";
    s = ssd_arena_printf(l->a, "%s_ws", s);
    return ssd_prog_find_tensor(l->p, s) ? ssd_arena_printf(l->a, "%s%u", s, r) : s;
}

// May the state's final value lie where its initial one does: element for element?
static bool in_place(const Graph *g, const GraphState *st, const GraphOut *out) {
    if (!st->in_name || !st->init || !st->out_name || strcmp(st->out_name, out->name)) return false;
    const Node *in = &g->nodes.v[st->init];
    return in->naxes == out->naxes && !memcmp(in->ax, out->ax, in->naxes * sizeof *in->ax);
}

static void tensors(Lower *l) {
    Graph *g = l->g;
    l->tensor = NEWN(l->a, u16, g->nodes.n);
    l->out_tensor = NEWN(l->a, u16, g->outs.n + 1);
    for (u32 i = 0; i < g->ins.n; i++) {
        Ref r = g->ins.v[i];
        const Node *n = &g->nodes.v[r];
        l->tensor[r] = tensor(l, T_IN, g->names.v[n->name], n->dtype, n->ax, n->naxes);
    }
    if (g->packed && !g->step) {
        ssd_prog_sym(l->p, "s");
        Ex n = ssd_lower_fn(l, FN_ADD, ssd_ex_sym(l->p, "s"), ssd_ex_int(l->p, 1));
        l->cu = ssd_prog_tensor(l->p, T_IN, "cu_seqlens", SSD_I32, 1, &n);
    }
    for (u32 i = 0; i < g->outs.n; i++) {
        const GraphOut *o = &g->outs.v[i];
        l->out_tensor[i] = tensor(l, T_OUT, o->name, o->dtype, o->ax, o->naxes);
        for (u32 s = 0; s < g->states.n; s++)
            if (in_place(g, &g->states.v[s], o))
                l->p->tensors.v[l->out_tensor[i]].alias = g->states.v[s].in_name;
    }
    for (Ref r = 1; r < g->nodes.n; r++)
        if (l->in_ws[r]) {
            const Node *n = &g->nodes.v[r];
            l->tensor[r] = tensor(l, T_WS, ws_name(l, r), SSD_F32, n->ax, n->naxes);
        }
}

// --- Kernels ------------------------------------------------------------------------------------

u8 ssd_lower_row_axis(Lower *l, const char *want, i64 size) {
    bool taken = ssd_graph_find_axis(l->g, want);
    return ssd_prog_axis(l->p, taken ? ssd_arena_printf(l->a, "%s_row", want) : want, size);
}

Ref ssd_lower_final(const Lower *l, Ref r) {
    Ref final = 0;
    for (Ref f = r; f < l->g->nodes.n; f++)
        if (l->g->nodes.v[f].op == OP_FINAL && l->g->nodes.v[f].arg[0] == r) final = f;
    return final;
}

static const char *kernel_name(Lower *l, const char *want) {
    int same = 0;
    size_t n = strlen(want);
    for (u32 i = 0; i < l->p->kernels.n; i++) same += !strncmp(l->p->kernels.v[i].name, want, n);
    return same ? ssd_arena_printf(l->a, "%s%d", want, same + 1) : want;
}

TKernel *ssd_lower_kernel(Lower *l, const char *name, AxisId batch, const AxisId *heads, int nheads,
                          Ctx **out_ctx) {
    Graph *g = l->g;
    TKernel k0 = {.name = kernel_name(l, name)};
    vec_push(l->a, &l->p->kernels, k0);
    TKernel *k = &l->p->kernels.v[l->p->kernels.n - 1];
    Ctx *c = ssd_ctx_new(l, NULL, &k->body);
    l->lo = l->len_val = 0;
    bool packed = g->packed && !g->step;
    if (packed) {
        Val s = ssd_prog_grid(l->p, k, "s", ssd_ex_sym(l->p, "s"));
        Ex at = ssd_ex_val(l->p, s), next = ssd_lower_fn(l, FN_ADD, at, ssd_ex_int(l->p, 1));
        TB b = ssd_ctx_tb(l, c);
        l->lo = ssd_tile_load(&b, "lo", SSD_IDX, l->cu, &at, 1, 0);
        Val hi = ssd_tile_load(&b, "hi", SSD_IDX, l->cu, &next, 1, 0);
        Ex len = ssd_lower_fn(l, FN_SUB, ssd_ex_val(l->p, hi), ssd_ex_val(l->p, l->lo));
        l->len_val = ssd_tile_map(&b, "len", SSD_IDX, len);
        if (l->seq) ssd_ctx_bind(l, c, l->seq, at);
    } else if (batch) {
        const Axis *a = &g->axes.v[batch];
        Val v = ssd_prog_grid(l->p, k, a->name, ssd_lower_dim(l, batch));
        ssd_ctx_bind(l, c, batch, ssd_ex_val(l->p, v));
    }
    for (int i = 0; i < nheads; i++) {
        const Axis *a = &g->axes.v[heads[i]];
        Val v = ssd_prog_grid(l->p, k, a->name, ssd_ex_int(l->p, a->size));
        ssd_ctx_bind(l, c, heads[i], ssd_ex_val(l->p, v));
    }
    *out_ctx = c;
    return k;
}

static int head_axes(const Graph *g, const AxisId *ax, int n, AxisId out[8]) {
    int k = 0;
    for (int i = 0; i < n; i++) {
        AxisKind kind = g->axes.v[ax[i]].kind;
        if (kind == AX_HEAD || kind == AX_GROUP) out[k++] = ax[i];
    }
    return k;
}

static bool has(const AxisId *ax, int n, AxisId x) {
    for (int i = 0; i < n; i++)
        if (x && ax[i] == x) return true;
    return false;
}

static Ex chunk_tau(Lower *l, Val c, u8 row) {
    Ex first =
        ssd_lower_fn(l, FN_MUL, ssd_ex_val(l->p, c), ssd_ex_int(l->p, l->p->axes.v[row].size));
    return ssd_lower_fn(l, FN_ADD, first, ssd_ex_axis(l->p, row));
}

// --- Stages without an ssd ----------------------------------------------------------------------

// Tokens a step of a scan. Numbers that are summed by themselves take few and long steps on a GPU,
// where a step costs its latency.
static i64 scan_rows(const Lower *l, bool numbers) {
    enum { LONG = 512 };
    bool gpu = l->u->machine && l->u->machine->gpu;
    return gpu && numbers ? MAX(l->q, LONG) : l->q;
}

// Cumulative sum or maximum over time, chunk by chunk, to workspace.
static void lower_scan(Lower *l, Ref r) {
    Graph *g = l->g;
    Node n = g->nodes.v[r];
    AxisId heads[8];
    int nh = head_axes(g, n.ax, n.naxes, heads);
    Ctx *k;
    ssd_lower_kernel(l, "cumsum", has(n.ax, n.naxes, l->batch) ? l->batch : 0, heads, nh, &k);
    bool max = n.flags & 1;
    u8 ax[8];
    int nax = 0;
    for (int i = 0; i < n.naxes; i++)
        if (g->axes.v[n.ax[i]].kind == AX_FEATURE) ax[nax++] = ssd_cone_tile_axis(l, n.ax[i]);
    TB kb = ssd_ctx_tb(l, k);
    Ex none = ssd_ex_num(l->p, max ? -INFINITY : 0);
    Ex init = n.arg[1] ? ssd_ex_val(l->p, ssd_cone_val(l, k, n.arg[1])) : none;
    if (nax) { // a carry has all the axes from the start
        Ex z = ssd_ex_val(l->p, ssd_tile_fill(&kb, "c0", SSD_F32, none, ax, nax));
        if (n.arg[1])
            z = ssd_ex_val(l->p, ssd_tile_map(&kb, "c0", SSD_F32,
                                              ssd_lower_fn(l, max ? FN_MAX : FN_ADD, z, init)));
        init = z;
    }
    FnCode join = max ? FN_MAX : FN_ADD;
    Ref final = ssd_lower_final(l, r);
    Val last;
    if (g->step) {
        Ctx *c = ssd_ctx_new(l, k, k->block);
        ssd_ctx_bind_time(l, c, ssd_ex_int(l->p, 0), 0);
        Ex e = ssd_lower_fn(l, join, init, ssd_cone(l, c, n.arg[0]));
        last = ssd_cone_named(l, c, "sum", e);
        ssd_cone_set(l, c, r, last);
        ssd_cone_stores(l, c, false);
    } else {
        i64 rows = scan_rows(l, !nax);
        u8 j = ssd_lower_row_axis(l, rows == l->q ? "j" : "jl", rows);
        Ex chunks = ssd_lower_fn(l, FN_CDIV, ssd_lower_len(l), ssd_ex_int(l->p, rows));
        TOp *loop = ssd_ctx_open(l, k, "c", ssd_ex_int(l->p, 0), chunks, false);
        TB tb = {l->p, &k->tail};
        last = ssd_tile_carry(&tb, loop, "s", init);
        Ctx *c = ssd_ctx_new(l, k, &loop->body);
        ssd_ctx_bind_time(l, c, chunk_tau(l, loop->var, j), j);
        TB b = ssd_ctx_tb(l, c);
        Val v = ssd_cone_rows(l, c, n.arg[0], "e");
        if (max) {
            Ex w = ssd_ex_fn(l->p, FN_WHERE, c->valid, ssd_ex_val(l->p, v),
                             ssd_ex_num(l->p, -INFINITY));
            v = ssd_tile_map(&b, NULL, SSD_F32, w);
        }
        Val local = ssd_tile_scan(&b, "cj", j, v, max ? TF_MAX : 0);
        Val sum =
            ssd_tile_map(&b, "sum", SSD_F32,
                         ssd_lower_fn(l, join, ssd_ex_val(l->p, local), ssd_ex_val(l->p, last)));
        ssd_cone_set(l, c, r, sum);
        ssd_cone_stores(l, c, false);
        Ex next = ssd_ex_val(l->p, ssd_tile_at(&b, "next", sum, j, ssd_ex_int(l->p, rows - 1)));
        ssd_tile_yield(&b, &next, 1);
        ssd_ctx_close(k);
    }
    Ctx *end = ssd_ctx_new(l, k, k->block);
    end->epilogue = true;
    if (final) ssd_cone_set(l, end, final, last);
    ssd_cone_stores(l, end, true);
}

// The last k values of a shift's operand; older ones come from the window before.
static void lower_window(Lower *l, Ref r) {
    Graph *g = l->g;
    Node n = g->nodes.v[r];
    Ref final = l->stages.v[l->stage].stores.n ? l->stages.v[l->stage].stores.v[0].ref : 0;
    if (!final) return;
    AxisId heads[8], w = n.a1;
    int nh = head_axes(g, n.ax, n.naxes, heads);
    Ctx *k;
    ssd_lower_kernel(l, "window", has(n.ax, n.naxes, l->batch) ? l->batch : 0, heads, nh, &k);
    u8 row = ssd_cone_tile_axis(l, w);
    Ex at = ssd_ex_axis(l->p, row), len = ssd_lower_len(l), kk = ssd_ex_int(l->p, n.k);
    Ex tau = ssd_lower_fn(l, FN_ADD, ssd_lower_fn(l, FN_SUB, len, kk), at);
    Ctx *c = ssd_ctx_new(l, k, k->block);
    c->epilogue = true;
    c->valid = ssd_lower_fn(l, FN_GE, tau, ssd_ex_int(l->p, 0));
    ssd_ctx_bind_time(l, c, tau, row);
    Ex now = ssd_cone(l, c, n.arg[0]), past = ssd_ex_num(l->p, 0);
    TB b = ssd_ctx_tb(l, k);
    if (n.arg[1]) {
        Ex ix[8];
        const Node *in = &g->nodes.v[n.arg[1]];
        ssd_ctx_bind(l, k, w, ssd_lower_fn(l, FN_ADD, len, at));
        int m = ssd_cone_indices(l, k, in->ax, in->naxes, ix);
        past = ssd_ex_val(l->p, ssd_tile_load(&b, "past", SSD_F32, l->tensor[n.arg[1]], ix, m, 0));
        k->index[w] = 0;
    }
    Ex v = ssd_ex_fn(l->p, FN_WHERE, c->valid, now, past);
    ssd_cone_set(l, c, final, ssd_tile_map(&b, "window", SSD_F32, v));
    c->guard = 0;
    ssd_cone_stores(l, c, true);
}

// Rows of a block that evaluates these nodes: a chunk's, or as many as there is room for.
static i64 point_rows(const Lower *l, const Stage *s) {
    i64 most = 1, rows = l->q;
    for (u32 i = 0; i < s->stores.n; i++) {
        const Node *n = &l->g->nodes.v[s->stores.v[i].ref];
        i64 row = 1;
        for (int d = 0; d < n->naxes; d++) {
            const Axis *x = &l->g->axes.v[n->ax[d]];
            if (x->kind == AX_FEATURE) row *= x->size;
        }
        most = MAX(most, row);
    }
    while (rows > 1 && !ssd_machine_holds(l->u->machine, rows * most)) rows /= 2;
    return rows;
}

static void lower_point(Lower *l, Stage *s) {
    Graph *g = l->g;
    const Node *n = &g->nodes.v[s->stores.v[0].ref];
    const GraphOut *o = s->root ? NULL : &g->outs.v[s->stores.v[0].out];
    const AxisId *ax = o ? o->ax : n->ax;
    int naxes = o ? o->naxes : n->naxes;
    AxisId heads[8];
    int nh = head_axes(g, ax, naxes, heads);
    Ctx *k;
    TKernel *t =
        ssd_lower_kernel(l, "point", has(ax, naxes, l->batch) ? l->batch : 0, heads, nh, &k);
    Ctx *c = ssd_ctx_new(l, k, k->block);
    if (!has(ax, naxes, l->time)) {
        ssd_cone_stores(l, c, false);
    } else if (g->step) {
        ssd_ctx_bind_time(l, c, ssd_ex_int(l->p, 0), 0);
        ssd_cone_stores(l, c, false);
    } else {
        i64 rows = point_rows(l, s);
        const char *few = ssd_arena_printf(l->a, "j%lld", (long long)rows);
        u8 j = ssd_lower_row_axis(l, rows == l->q ? "j" : few, rows);
        Ex chunks = ssd_lower_fn(l, FN_CDIV, ssd_lower_len(l), ssd_ex_int(l->p, rows));
        if (!g->packed) {
            Val v = ssd_prog_grid(l->p, t, "c", chunks);
            ssd_ctx_bind_time(l, c, chunk_tau(l, v, j), j);
            ssd_cone_stores(l, c, false);
        } else {
            TOp *loop = ssd_ctx_open(l, k, "c", ssd_ex_int(l->p, 0), chunks, false);
            c = ssd_ctx_new(l, k, &loop->body);
            ssd_ctx_bind_time(l, c, chunk_tau(l, loop->var, j), j);
            ssd_cone_stores(l, c, false);
            ssd_ctx_close(k);
        }
    }
}

// --- States in place ----------------------------------------------------------------------------
// A final state may lie where its initial state lies (alias). A kernel that overwrites one must
// then come after every other kernel that reads it. Such kernels write nothing that is read again,
// so they go last; where two of them read one another's, the outputs lose the right to share.

static void touch(const Prog *p, const TBlock *b, bool *reads, bool *writes) {
    for (const TOp *o = b->first; o; o = o->next) {
        if (o->op == TOP_LOAD) reads[o->tensor] = true;
        if (o->op == TOP_STORE) writes[o->tensor] = true;
        touch(p, &o->body, reads, writes);
    }
}

typedef struct Touch {
    bool *reads, *writes;
} Touch;

// Whether kernel w overwrites a state that kernel r reads.
static bool clobbers(const Prog *p, const Touch *w, const Touch *r, u32 *out) {
    for (u32 i = 1; i < p->tensors.n; i++) {
        const char *alias = p->tensors.v[i].alias;
        if (!alias || !w->writes[i] || !r->reads[ssd_prog_find_tensor(p, alias)]) continue;
        *out = i;
        return true;
    }
    return false;
}

static bool writes_ws(const Prog *p, const Touch *t) {
    for (u32 x = 1; x < p->tensors.n; x++)
        if (t->writes[x] && p->tensors.v[x].role == T_WS) return true;
    return false;
}

static void order_states(Lower *l) {
    Prog *p = l->p;
    u32 n = p->kernels.n, which, done = 0;
    Touch *t = NEWN(l->a, Touch, n);
    u32 *order = NEWN(l->a, u32, n);
    bool *placed = NEWN(l->a, bool, n);
    for (u32 i = 0; i < n; i++) {
        t[i] = (Touch){NEWN(l->a, bool, p->tensors.n), NEWN(l->a, bool, p->tensors.n)};
        touch(p, &p->kernels.v[i].body, t[i].reads, t[i].writes);
    }
    while (done < n) { // the first kernel that overwrites nothing the others still read
        u32 next = n, first = n;
        for (u32 i = 0; i < n && next == n; i++) {
            if (placed[i]) continue;
            if (first == n) first = i;
            bool waits = false;
            for (u32 j = 0; j < n; j++)
                waits |= j != i && !placed[j] && clobbers(p, &t[i], &t[j], &which);
            if (!waits)
                next = i;
            else if (writes_ws(p, &t[i]))
                break; // what follows may read it
        }
        if (next == n) next = first;
        placed[next] = true;
        order[done++] = next;
    }
    TKernel *k = NEWN(l->a, TKernel, n);
    for (u32 i = 0; i < n; i++) k[i] = p->kernels.v[order[i]];
    memcpy(p->kernels.v, k, n * sizeof *k);
    for (u32 i = 0; i < n; i++)
        for (u32 j = i + 1; j < n; j++)
            while (clobbers(p, &t[order[i]], &t[order[j]], &which))
                p->tensors.v[which].alias = NULL;
}

bool ssd_pass_chunk(Unit *u) {
    Graph *g = u->graph;
    Lower *l = NEW(u->arena, Lower);
    l->u = u;
    l->g = g;
    l->a = u->arena;
    l->q = u->schedule.q;
    l->p = u->prog = ssd_prog_new(u->arena, g->name);
    u->prog->matmul = g->matmul;
    l->batch = ssd_graph_axis_of_kind(g, AX_BATCH);
    l->time = ssd_graph_axis_of_kind(g, AX_TIME);
    l->seq = ssd_graph_axis_of_kind(g, AX_SEQ);
    Text t = {0};
    ssd_schedule_print(&u->schedule, &t);
    l->p->schedule = ssd_arena_dup(u->arena, t.s ? t.s : "", t.n);
    ssd_text_free(&t);
    l->uses = NEWN(l->a, u32, g->nodes.n);
    for (Ref r = 1; r < g->nodes.n; r++)
        for (int i = 0; i < 5; i++) l->uses[g->nodes.v[r].arg[i]]++;
    ssd_lower_stages(l);
    tensors(l);
    for (u32 i = 0; i < l->stages.n; i++) {
        Stage *s = &l->stages.v[i];
        l->stage = (int)i;
        switch (s->kind) {
        case STAGE_SSD: ssd_lower_ssd(l, s->root); break;
        case STAGE_SCAN: lower_scan(l, s->root); break;
        case STAGE_WINDOW: lower_window(l, s->root); break;
        case STAGE_POINT: lower_point(l, s); break;
        }
    }
    order_states(l);
    return true;
}
