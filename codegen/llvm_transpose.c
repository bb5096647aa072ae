// SPDX-License-Identifier: Apache-2.0
// Loads, stores and copies whose source is contiguous along one axis and whose destination along
// another: squares of lanes x lanes are read by rows, transposed in registers, written by columns.
#include "llvm_emit.h"

enum { MAX_LANES = 16 };

// What the move reads: a tensor (LOAD) or a tile.
static Val source_tile(const NestRun *r) {
    const TOp *o = r->first;
    if (o->op == TOP_COPY) return o->a;
    const Expr *x = o->op == TOP_STORE ? &r->e->p->exs.v[o->e] : NULL;
    return x && x->kind == EX_VAL ? x->val : 0;
}

static u8 lane_axis(const NestRun *r, Val v) {
    const Lay *l = ssd_emit_lay(r->e, v);
    for (int i = 0; i < l->naxes; i++)
        if (l->stride[i] == 1) return l->ax[i];
    return 0;
}

// Axes: the others, then the one that rows of a square are counted along, then the one that access
// to the tensor (or to the source) is contiguous along.
bool ssd_transpose_plan(NestRun *out, const NestRun *r) {
    const TOp *o = r->first;
    if (o != r->last || r->lanes == 1) return false;
    if (o->op != TOP_LOAD && o->op != TOP_STORE && o->op != TOP_COPY) return false;
    Val tile = source_tile(r);
    if (o->op != TOP_LOAD && (!tile || ssd_emit_lay(r->e, tile)->naxes != r->plan.n)) return false;
    u8 tensor = o->op == TOP_COPY ? 0 : ssd_nest_contiguous(r->e->p, o);
    u8 from = o->op == TOP_LOAD ? tensor : lane_axis(r, tile);
    u8 to = o->op == TOP_STORE ? tensor : lane_axis(r, o->out);
    if (!from || !to || from == to) return false;
    u8 inner = o->op == TOP_STORE ? to : from, rows = o->op == TOP_STORE ? from : to;
    ssd_nest_begin(out, r->e);
    out->first = r->first;
    out->last = r->last;
    out->lanes = r->lanes;
    for (int i = 0; i < r->plan.n; i++)
        if (r->plan.ax[i] != inner && r->plan.ax[i] != rows)
            out->plan.ax[out->plan.n++] = r->plan.ax[i];
    out->plan.ax[out->plan.n++] = rows;
    out->plan.lane = out->plan.n;
    out->plan.ax[out->plan.n++] = inner;
    for (int i = 0; i < out->plan.n; i++) {
        out->width[i] = i >= out->plan.n - 2 ? out->lanes : 1;
        out->unroll[i] = 1;
    }
    if (tensor) ssd_access_init(out, &out->access[out->naccess++], o);
    return true;
}

// Rows become columns: at distance d the off-diagonal d x d blocks of each 2d x 2d block change
// places.
static void transpose(Emit *e, V *v, int n) {
    for (int d = 1; d < n; d *= 2) {
        V low[MAX_LANES], high[MAX_LANES];
        for (int l = 0; l < n; l++) {
            low[l] = LLVMConstInt(e->i32, (u64)(l & d ? n + l - d : l), false);
            high[l] = LLVMConstInt(e->i32, (u64)(l & d ? n + l : l + d), false);
        }
        V lo = LLVMConstVector(low, (unsigned)n), hi = LLVMConstVector(high, (unsigned)n);
        for (int i = 0; i < n; i++) {
            if (i & d) continue;
            V a = v[i], b = v[i + d];
            v[i] = LLVMBuildShuffleVector(e->b, a, b, lo, "");
            v[i + d] = LLVMBuildShuffleVector(e->b, a, b, hi, "");
        }
    }
}

// Goes to a place of the square: the outer axis first, for the inner one's addresses build on it.
static void go(NestRun *r, int outer, int inner) {
    int n = r->plan.n;
    V index = r->slot[2 * n - 1].index;
    ssd_nest_set(r, 2 * n - 2, ssd_emit_i64(r->e, outer));
    ssd_nest_set(r, 2 * n - 1, index);
    ssd_nest_set(r, 2 * n, ssd_emit_i64(r->e, inner));
}

// One square at the point. A load or copy reads vectors along the inner axis and writes them along
// the outer one, a store the other way around.
static void square(NestRun *r) {
    Emit *e = r->e;
    const TOp *o = r->first;
    bool out = o->op == TOP_STORE;
    int n = r->lanes, outer = r->live[r->plan.n - 2], inner = r->live[r->plan.n - 1];
    int rows = out ? inner : outer, columns = out ? outer : inner;
    LLVMTypeRef t = ssd_emit_vec(e, e->f32, n);
    V v[MAX_LANES];
    for (int k = 0; k < n; k++) {
        v[k] = LLVMConstNull(t);
        if (k >= rows) continue;
        go(r, out ? 0 : k, out ? k : 0);
        if (o->op == TOP_LOAD)
            v[k] = ssd_emit_decode(e, ssd_access_load(r, &r->access[0]), r->access[0].dtype);
        else
            v[k] = ssd_emit_load(e, t, ssd_nest_tile(r, source_tile(r)), ALIGN_F32);
    }
    transpose(e, v, n);
    for (int k = 0; k < columns; k++) {
        go(r, out ? k : 0, out ? 0 : k);
        if (out)
            ssd_access_store(r, &r->access[0], ssd_emit_encode(e, v[k], r->access[0].dtype));
        else
            ssd_emit_store(e, ssd_emit_round(e, v[k], e->p->vals.v[o->out].dtype),
                           ssd_nest_tile(r, o->out), ALIGN_F32);
    }
}

void ssd_transpose_emit(const NestRun *r) {
    NestRun run = *r;
    run.visit = square;
    ssd_nest_walk(&run);
}
