// SPDX-License-Identifier: Apache-2.0
// Register tiles that wait for the ops that read them (ir/timed.h): nothing stands where they are
// loaded, and every reader loads the few words it is at. A slot's tile comes by ldmatrix, a step of
// 16 columns at a time; a tensor's, from the thread's two rows, or, whole, for one map alone.
//
//     // x_1 = copy x_ : bf16[p j] @frag(p j) in A4
//     // y_ = mma x_1 M + ys : f32[p i] @acc(p i) in A3
//     for (int e = 0; e < 4; e++) {
//         load_fragment<64, true>(A4 + 4*(e), x_, e * 16, warp % 4 * 2);
//         mma_step<64, 64, true>(A3, A4 + 4*e, M, e, bf16());
//     }
#include "cuda_emit.h"

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }
static i64 size(const Cuda *c, u8 x) { return ssd_cuda_size(c, x); }

// The dimension that the tile's columns run along, element by element, or -1.
static int column_dim(const Cuda *c, const TOp *o) {
    u8 column = val(c, o->out)->lay.ax[1];
    int found = -1;
    for (int d = 0; d < o->nidx; d++) {
        if (!ssd_cuda_ex_has(c, o->idx[d], column)) continue;
        const Expr *x = &c->p->exs.v[o->idx[d]];
        if (found >= 0 || x->kind != EX_AXIS) return -1;
        found = d;
    }
    return o->when && ssd_cuda_ex_has(c, o->when, column) ? -1 : found;
}

// The op that reads a loaded tile of the block is a map, which is given the words as they come:
// those of one tile.
static bool for_a_map(Cuda *c, const TBlock *b, const TOp *load) {
    const TOp *map = load->next;
    while (!ssd_cuda_uses_tile(c, map, load->out)) map = map->next;
    for (const TOp *o = b->first; o != load; o = o->next)
        if (o->op == TOP_LOAD && c->late[o->out] && ssd_cuda_uses_tile(c, map, o->out))
            return false;
    return map->op == TOP_MAP && ssd_cuda_is_whole(c, load);
}

static void note(Cuda *c, const TBlock *b, bool products, bool more) {
    for (const TOp *o = b->first; o; o = o->next) {
        note(c, &o->body, products, more);
        if (!ssd_timed_may_wait(c->p, c->k, o) || (o->op == TOP_COPY && !more)) continue;
        if (o->op == TOP_COPY || products)
            c->late[o->out] = (o->op == TOP_COPY ? !c->m->wgmma : for_a_map(c, b, o)) ? o : NULL;
        else if (size(c, val(c, o->out)->lay.ax[0]) <= 64 && column_dim(c, o) >= 0)
            c->rows[o->out] = ssd_cuda_name(c, ssd_arena_printf(c->a, "%s_rows", c->name[o->out]));
    }
}

void ssd_cuda_waits_begin(Cuda *c) {
    const TOp *r = c->role;
    enum { SPARED = 32 }; // of what is counted, by ptxas: it, too, loads late
    bool needs_more = ssd_timed_need(c->p, c->k, r, c->m->wgmma, false) > r->regs + SPARED;
    bool products = ssd_timed_multiplies(&r->body);
    if (needs_more || !products) note(c, &r->body, products, needs_more);
}

void ssd_cuda_wait_rows(Cuda *c, const TOp *o) {
    const u8 *ax = val(c, o->out)->lay.ax;
    const char *row = c->axis[ax[0]], *column = c->axis[ax[1]], *tensor = c->tensor[o->tensor],
               *at[2];
    int d = column_dim(c, o);
    for (int i = 0; i < 2; i++) {
        c->axis[ax[0]] = i ? "(row + 8)" : "row", c->axis[ax[1]] = "0";
        at[i] = ssd_cuda_spot(c, o, "at");
    }
    c->axis[ax[0]] = row, c->axis[ax[1]] = column;
    ssd_cuda_line(c, "const auto %s = two_rows(%s, %s, %s.stride[%d], (int)%s.dim[%d]);",
                  c->rows[o->out], at[0], at[1], tensor, d, tensor, d);
}

const char *ssd_cuda_fragment_step(Cuda *c, const TOp *o, const char *e) {
    const Lay *l = &val(c, o->out)->lay;
    const CudaView *w = ssd_cuda_view_of(c, o->a);
    i64 blocks = size(c, l->ax[0]) / 64, steps = size(c, l->ax[1]) / 16;
    bool turned = w->ax[w->n - 1] == l->ax[0];
    const char *block =
        blocks == 1 ? "" : ssd_arena_printf(c->a, "%s / %lld * ", e, (long long)steps);
    const char *step = blocks == 1 ? e : ssd_arena_printf(c->a, "%s %% %lld", e, (long long)steps);
    const char *piece = *block ? ssd_arena_printf(c->a, "%s8 + ", block) : "",
               *row = *block ? ssd_arena_printf(c->a, "%s64 + ", block) : "";
    const char *at = turned ? ssd_arena_printf(c->a, "%s * 16, %swarp %% 4 * 2", step, piece)
                            : ssd_arena_printf(c->a, "%swarp %% 4 * 16, %s * 2", row, step);
    bool plain = !strcmp(e, "e");
    if (ssd_cuda_is_loose(c, o->a))
        return ssd_arena_printf(
            c->a, "load_loose<%lld, %lld>(%s + 4*%s%s%s, %s, %s * 16 + col, %srow);",
            (long long)size(c, w->ax[w->n - 2]), (long long)size(c, w->ax[w->n - 1]),
            c->name[l->buf], plain ? "" : "(", e, plain ? "" : ")", ssd_cuda_tile(c, w, 0, 0), step,
            row);
    return ssd_arena_printf(c->a, "load_fragment<%lld, %s>(%s + 4*%s%s%s, %s, %s);",
                            (long long)size(c, w->ax[w->n - 2]), turned ? "true" : "false",
                            c->name[l->buf], plain ? "" : "(", e, plain ? "" : ")",
                            ssd_cuda_tile(c, w, 0, 0), at);
}

const TOp *ssd_cuda_late(const Cuda *c, Val v) {
    return val(c, v)->naxes ? c->late[ssd_timed_base(c->p, c->k, v)] : NULL;
}
