// SPDX-License-Identifier: Apache-2.0
// The ops that are neither elementwise nor products: views, concatenation, slices put into tiles,
// pair swaps, cumulative sums, triangular inverses.
#include "llvm_emit.h"

#include <math.h>

static const TVal *val(const Emit *e, Val v) { return &e->p->vals.v[v]; }
static i64 stride(const Emit *e, Val v, u8 x) { return 4 * ssd_nest_stride(e->p, v, x); }
static u8 lane_axis(const Emit *e, Val v) { return val(e, v)->lay.ax[val(e, v)->lay.naxes - 1]; }
static bool has_axis(const Emit *e, Val v, u8 x) {
    return memchr(val(e, v)->ax, x, val(e, v)->naxes) != NULL;
}

// --- Views: another pointer ---------------------------------------------------------------------
void ssd_emit_view(Emit *e, const TOp *o) {
    V at = e->val[o->a];
    if (o->op == TOP_AT || o->op == TOP_SLICE) {
        V index = ssd_emit_scalar(e, o->e);
        at = ssd_emit_at(e, at, ssd_emit_mul(e, index, ssd_emit_i64(e, stride(e, o->a, o->ax[0]))));
    }
    u8 dt = val(e, o->out)->dtype;
    if (!val(e, o->out)->naxes) {
        at = ssd_emit_load(e, e->f32, at, ALIGN_F32);
        if (dt == SSD_IDX || dt == SSD_I32) at = LLVMBuildFPToSI(e->b, at, e->i64, "");
        if (dt == SSD_BOOL) at = LLVMBuildFCmp(e->b, LLVMRealUNE, at, ssd_emit_f32(e, 0), "");
    }
    e->val[o->out] = at;
}

// --- Walking a box ------------------------------------------------------------------------------
// Visits every point of the axes, `lanes` neighbours along `lane` at a time (lane 0: one by one).
typedef struct Box {
    Emit *e;
    int n, lanes, live;
    u8 ax[8], lane;
    i64 size[8];
    V index[8];
    const TOp *op;
    void (*visit)(struct Box *b);
} Box;

static void box_axis(Box *b, int i) {
    Emit *e = b->e;
    if (i == b->n) {
        b->visit(b);
        return;
    }
    bool lane = b->ax[i] == b->lane;
    i64 w = lane ? e->lanes : 1, full = b->size[i] / w * w;
    if (lane) b->lanes = b->live = e->lanes;
    if (full) {
        Count c;
        b->index[i] = ssd_emit_open(e, &c, full, w);
        box_axis(b, i + 1);
        ssd_emit_close(e, &c);
    }
    if (full < b->size[i]) {
        b->index[i] = ssd_emit_i64(e, full);
        b->live = (int)(b->size[i] - full);
        box_axis(b, i + 1);
    }
}

static void box_axes_of(Box *b, Val v) {
    const Lay *l = &val(b->e, v)->lay;
    for (int i = 0; i < l->naxes; i++) {
        b->ax[b->n] = l->ax[i];
        b->size[b->n++] = ssd_emit_size(b->e, l->ax[i]);
    }
}

static void box_walk(Box *b, u8 lane) {
    b->lane = lane;
    b->lanes = b->live = 1;
    box_axis(b, 0);
}

static V box_index(const Box *b, u8 x) {
    for (int i = 0; i < b->n; i++)
        if (b->ax[i] == x) return b->index[i];
    return ssd_emit_i64(b->e, 0);
}

// Address of v's element at the point; `from` is walked where v has the axis `to` (0: none differ).
static V box_addr(Box *b, Val v, u8 from, u8 to) {
    Emit *e = b->e;
    V at = e->val[v];
    for (int i = 0; i < b->n; i++) {
        i64 s = stride(e, v, b->ax[i] == from && to ? to : b->ax[i]);
        if (s) at = ssd_emit_at(e, at, ssd_emit_mul(e, b->index[i], ssd_emit_i64(e, s)));
    }
    return at;
}

static V read_lanes(Box *b, V at, i64 s) {
    Emit *e = b->e;
    if (b->lanes == 1) return ssd_emit_load(e, e->f32, at, ALIGN_F32);
    if (s == 4) return ssd_emit_load(e, ssd_emit_vec(e, e->f32, b->lanes), at, ALIGN_F32);
    V v = LLVMConstNull(ssd_emit_vec(e, e->f32, b->lanes));
    for (int l = 0; l < b->live; l++) {
        V x = ssd_emit_load(e, e->f32, ssd_emit_at_const(e, at, l * s), ALIGN_F32);
        v = LLVMBuildInsertElement(e->b, v, x, LLVMConstInt(e->i32, (u64)l, false), "");
    }
    return v;
}

// Writes exactly the lanes that exist.
static void write_lanes(Box *b, V v, V at, i64 s) {
    Emit *e = b->e;
    if (b->lanes == 1) {
        ssd_emit_store(e, v, at, ALIGN_F32);
    } else if (s == 4) {
        ssd_emit_masked_store(e, v, at, b->live, ALIGN_F32);
    } else {
        for (int l = 0; l < b->live; l++) {
            V x = LLVMBuildExtractElement(e->b, v, LLVMConstInt(e->i32, (u64)l, false), "");
            ssd_emit_store(e, x, ssd_emit_at_const(e, at, l * s), ALIGN_F32);
        }
    }
}

// --- cat, join, put: boxes into boxes -----------------------------------------------------------
typedef struct Move {
    Box box;
    Val from, to;
    u8 from_axis, to_axis; // walked axis that is another one in `to`
    V offset;              // bytes, NULL: none
} Move;

static void move(Box *b) {
    Move *m = (Move *)b;
    V v = read_lanes(b, box_addr(b, m->from, 0, 0), stride(b->e, m->from, b->lane));
    V at = box_addr(b, m->to, m->from_axis, m->to_axis);
    if (m->offset) at = ssd_emit_at(b->e, at, m->offset);
    u8 lane = b->lane == m->from_axis && m->to_axis ? m->to_axis : b->lane;
    write_lanes(b, v, at, stride(b->e, m->to, lane));
}

static void move_tile(Emit *e, Val from, Val to, u8 from_axis, u8 to_axis, V offset) {
    if (!val(e, from)->naxes) {
        V at = offset ? ssd_emit_at(e, e->val[to], offset) : e->val[to];
        ssd_emit_store(e, e->val[from], at, ALIGN_F32);
        return;
    }
    Move m = {.box = {.e = e, .visit = move},
              .from = from,
              .to = to,
              .from_axis = from_axis,
              .to_axis = to_axis,
              .offset = offset};
    box_axes_of(&m.box, from);
    u8 lane = lane_axis(e, to);
    if (lane == to_axis) lane = from_axis;
    box_walk(&m.box, has_axis(e, from, lane) ? lane : 0);
}

void ssd_emit_cat(Emit *e, const TOp *o) {
    u8 x = o->ax[0], r = o->ax[1], z = o->ax[2];
    move_tile(e, o->a, o->out, x, r, NULL);
    V offset = ssd_emit_i64(e, ssd_emit_size(e, x) * stride(e, o->out, r));
    u8 own = z ? z : has_axis(e, o->b, x) ? x : 0;
    move_tile(e, o->b, o->out, own, own ? r : 0, offset);
}

static void move_joined(Box *b) {
    const TOp *o = b->op;
    Emit *e = b->e;
    u8 u = o->ax[0], y = o->ax[1], x = o->ax[2];
    V v = read_lanes(b, box_addr(b, o->a, 0, 0), stride(e, o->a, b->lane));
    V at = box_addr(b, o->out, y, x);
    i64 s = stride(e, o->out, x) * ssd_emit_size(e, y);
    at = ssd_emit_at(e, at, ssd_emit_mul(e, box_index(b, u), ssd_emit_i64(e, s)));
    write_lanes(b, v, at, stride(e, o->out, b->lane == y ? x : b->lane));
}

void ssd_emit_join(Emit *e, const TOp *o) {
    Box b = {.e = e, .op = o, .visit = move_joined};
    box_axes_of(&b, o->a);
    u8 lane = lane_axis(e, o->out);
    box_walk(&b, lane == o->ax[2] ? o->ax[1] : lane);
}

void ssd_emit_put(Emit *e, const TOp *o) {
    if (e->val[o->a] != e->val[o->out]) move_tile(e, o->a, o->out, 0, 0, NULL);
    V offset = ssd_emit_i64(e, 0);
    Ex index[2] = {o->e, o->e2};
    for (int i = 0; i < 2; i++) {
        if (!o->ax[i]) continue;
        V s = ssd_emit_i64(e, stride(e, o->out, o->ax[i]));
        offset = ssd_emit_add(e, offset, ssd_emit_mul(e, ssd_emit_scalar(e, index[i]), s));
    }
    move_tile(e, o->b, o->out, 0, 0, offset);
}

// --- swap ---------------------------------------------------------------------------------------
static V negate(Emit *e, V v) { return LLVMBuildFNeg(e->b, v, ""); }

// Two elements a distance apart: (x0, x1) -> (-x1, x0).
static void swap_apart(Box *b) {
    const TOp *o = b->op;
    Emit *e = b->e;
    i64 apart = o->flags & TF_HALVES ? ssd_emit_size(e, o->ax[0]) / 2 : 1;
    i64 sa = stride(e, o->a, o->ax[0]), so = stride(e, o->out, o->ax[0]);
    V skip_a = ssd_emit_i64(e, 0), skip_o = skip_a;
    if (apart == 1) { // the walk counts pairs
        V k = box_index(b, o->ax[0]);
        skip_a = ssd_emit_mul(e, k, ssd_emit_i64(e, sa));
        skip_o = ssd_emit_mul(e, k, ssd_emit_i64(e, so));
    }
    V from = ssd_emit_at(e, box_addr(b, o->a, 0, 0), skip_a),
      to = ssd_emit_at(e, box_addr(b, o->out, 0, 0), skip_o);
    i64 la = stride(e, o->a, b->lane), lo = stride(e, o->out, b->lane);
    V x0 = read_lanes(b, from, la), x1 = read_lanes(b, ssd_emit_at_const(e, from, apart * sa), la);
    write_lanes(b, negate(e, x1), to, lo);
    write_lanes(b, x0, ssd_emit_at_const(e, to, apart * so), lo);
}

static void swap_neighbours(Box *b) {
    const TOp *o = b->op;
    Emit *e = b->e;
    V v = read_lanes(b, box_addr(b, o->a, 0, 0), stride(e, o->a, b->lane)), order[64], odd[64];
    for (int i = 0; i < b->lanes; i++) {
        order[i] = LLVMConstInt(e->i32, (u64)(i ^ 1), false);
        odd[i] = LLVMConstInt(e->i1, i & 1, false);
    }
    unsigned n = (unsigned)b->lanes;
    v = LLVMBuildShuffleVector(e->b, v, LLVMGetPoison(LLVMTypeOf(v)), LLVMConstVector(order, n),
                               "");
    v = LLVMBuildSelect(e->b, LLVMConstVector(odd, n), v, negate(e, v), "");
    write_lanes(b, v, box_addr(b, o->out, 0, 0), stride(e, o->out, b->lane));
}

void ssd_emit_swap(Emit *e, const TOp *o) {
    Box b = {.e = e, .op = o};
    box_axes_of(&b, o->out);
    u8 lane = lane_axis(e, o->out), x = o->ax[0];
    bool halves = o->flags & TF_HALVES;
    b.visit = !halves && lane == x ? swap_neighbours : swap_apart;
    for (int i = 0; i < b.n; i++)
        if (b.ax[i] == x && b.visit == swap_apart) b.size[i] /= 2;
    box_walk(&b, lane);
}

// --- scan ---------------------------------------------------------------------------------------
static V combine(Emit *e, const TOp *o, V a, V b) {
    return o->flags & TF_MAX ? ssd_emit_fn(e, FN_MAX, a, b, NULL) : LLVMBuildFAdd(e->b, a, b, "");
}
static V neutral(Emit *e, const TOp *o, int lanes) {
    return ssd_emit_splat(e, ssd_emit_f32(e, o->flags & TF_MAX ? -INFINITY : 0), lanes);
}

// Lanes moved by k places towards the end of the scan; what comes in is `fill`.
static V shift(Emit *e, V v, V fill, int k, bool rev) {
    int n = (int)LLVMGetVectorSize(LLVMTypeOf(v));
    V idx[64];
    for (int i = 0; i < n; i++) {
        int from = rev ? i + k : i - k;
        idx[i] = LLVMConstInt(e->i32, (u64)(from >= 0 && from < n ? from : n), false);
    }
    return LLVMBuildShuffleVector(e->b, v, fill, LLVMConstVector(idx, (unsigned)n), "");
}

// Along the lanes: log2 steps in a vector, the running total between vectors.
static void scan_lanes(Box *b) {
    const TOp *o = b->op;
    Emit *e = b->e;
    bool rev = o->flags & TF_REV;
    i64 size = ssd_emit_size(e, o->ax[0]);
    int w = e->lanes, vecs = (int)((size + w - 1) / w);
    V total = neutral(e, o, w), zero = neutral(e, o, w);
    V from = box_addr(b, o->a, 0, 0), to = box_addr(b, o->out, 0, 0);
    i64 sa = stride(e, o->a, o->ax[0]);
    b->lanes = w;
    for (int k = 0; k < vecs; k++) {
        int at = rev ? vecs - 1 - k : k;
        b->live = (int)MIN(w, size - (i64)at * w);
        V v = read_lanes(b, ssd_emit_at_const(e, from, sa * at * w), sa);
        if (b->live < w) v = LLVMBuildSelect(e->b, ssd_emit_lane_mask(e, b->live, w), v, zero, "");
        for (int d = 1; d < w; d *= 2) v = combine(e, o, v, shift(e, v, zero, d, rev));
        v = combine(e, o, v, total);
        V last =
            LLVMBuildExtractElement(e->b, v, LLVMConstInt(e->i32, rev ? 0 : (u64)w - 1, false), "");
        V out = o->flags & TF_EXCL ? shift(e, v, total, 1, rev) : v;
        out = ssd_emit_round(e, out, val(e, o->out)->dtype);
        ssd_emit_store(e, out, ssd_emit_at_const(e, to, 4 * (i64)at * w), ALIGN_F32);
        total = ssd_emit_splat(e, last, w);
    }
    b->lanes = 1;
}

// Along another axis: vectors, one after the other.
static void scan_rows(Box *b) {
    const TOp *o = b->op;
    Emit *e = b->e;
    bool rev = o->flags & TF_REV;
    i64 size = ssd_emit_size(e, o->ax[0]), sa = stride(e, o->a, o->ax[0]),
        so = stride(e, o->out, o->ax[0]);
    i64 la = stride(e, o->a, b->lane), lo = stride(e, o->out, b->lane);
    V from = ssd_emit_at_const(e, box_addr(b, o->a, 0, 0), rev ? (size - 1) * sa : 0);
    V to = ssd_emit_at_const(e, box_addr(b, o->out, 0, 0), rev ? (size - 1) * so : 0);
    Count c;
    V start = neutral(e, o, b->lanes);
    V k = ssd_emit_open(e, &c, size, 1), total = c.head ? ssd_emit_phi(e, start, c.pre) : start;
    V step_a = ssd_emit_mul(e, k, ssd_emit_i64(e, rev ? -sa : sa)),
      step_o = ssd_emit_mul(e, k, ssd_emit_i64(e, rev ? -so : so));
    V next = combine(e, o, total, read_lanes(b, ssd_emit_at(e, from, step_a), la));
    V out = ssd_emit_round(e, o->flags & TF_EXCL ? total : next, val(e, o->out)->dtype);
    write_lanes(b, out, ssd_emit_at(e, to, step_o), lo);
    if (c.head) ssd_emit_phi_add(total, next, LLVMGetInsertBlock(e->b));
    ssd_emit_close(e, &c);
}

void ssd_emit_scan(Emit *e, const TOp *o) {
    Box b = {.e = e, .op = o}, all = {.e = e};
    box_axes_of(&all, o->out);
    for (int i = 0; i < all.n; i++)
        if (all.ax[i] != o->ax[0]) b.ax[b.n] = all.ax[i], b.size[b.n++] = all.size[i];
    u8 lane = lane_axis(e, o->out);
    b.visit = lane == o->ax[0] ? scan_lanes : scan_rows;
    box_walk(&b, lane);
}

// --- inv ----------------------------------------------------------------------------------------
// T = (I + a)^-1 by substitution, a vector of T at a time. With lanes j, rows from the first on:
// T[r,:] = e_r - sum over c < r of a[r,c] T[c,:]. With lanes i, columns from the last on:
// T[:,c] = e_c - sum over r > c of T[:,r] a[r,c].
static void inv_vector(Box *b) {
    const TOp *o = b->op;
    Emit *e = b->e;
    u8 i = o->ax[0], j = o->ax[1];
    bool rows = b->lane == j;
    u8 line = rows ? i : j;
    i64 n = ssd_emit_size(e, i);
    i64 s_line = stride(e, o->out, line), own = stride(e, o->a, line),
        other = stride(e, o->a, b->lane);
    V from = e->val[o->a], to = e->val[o->out];
    for (int k = 0; k < b->n; k++) {
        if (b->ax[k] == b->lane) continue;
        from = ssd_emit_at(
            e, from, ssd_emit_mul(e, b->index[k], ssd_emit_i64(e, stride(e, o->a, b->ax[k]))));
    }
    to = box_addr(b, o->out, 0, 0);
    V lane_index = LLVMBuildTrunc(e->b, box_index(b, b->lane), e->i32, "");
    V lanes = LLVMBuildAdd(e->b, ssd_emit_splat(e, lane_index, e->lanes),
                           ssd_emit_iota(e, e->i32, 1, e->lanes), "");
    Count c;
    V step = ssd_emit_open(e, &c, n, 1);
    V p = rows ? step : LLVMBuildSub(e->b, ssd_emit_i64(e, n - 1), step, "");
    V same = LLVMBuildICmp(e->b, LLVMIntEQ, lanes,
                           ssd_emit_splat(e, LLVMBuildTrunc(e->b, p, e->i32, ""), e->lanes), "");
    V unit = LLVMBuildSelect(e->b, same, ssd_emit_splat(e, ssd_emit_f32(e, 1), e->lanes),
                             neutral(e, &(TOp){0}, e->lanes), "");
    // Lines already done: 0..p, or p+1..n.
    V first = rows ? ssd_emit_i64(e, 0) : LLVMBuildAdd(e->b, p, ssd_emit_i64(e, 1), ""),
      last = rows ? p : ssd_emit_i64(e, n);
    LLVMBasicBlockRef pre = LLVMGetInsertBlock(e->b), head = ssd_emit_block(e, "inv"),
                      body = ssd_emit_block(e, "inv_sum"), exit = ssd_emit_block(e, "inv_line");
    LLVMBuildBr(e->b, head);
    LLVMPositionBuilderAtEnd(e->b, head);
    V q = ssd_emit_phi(e, first, pre), acc = ssd_emit_phi(e, unit, pre);
    LLVMBuildCondBr(e->b, LLVMBuildICmp(e->b, LLVMIntSLT, q, last, ""), body, exit);
    LLVMPositionBuilderAtEnd(e->b, body);
    V at = ssd_emit_at(e, ssd_emit_at(e, from, ssd_emit_mul(e, p, ssd_emit_i64(e, own))),
                       ssd_emit_mul(e, q, ssd_emit_i64(e, other)));
    V x = negate(e, ssd_emit_load(e, e->f32, at, ALIGN_F32));
    V line_q =
        ssd_emit_load(e, ssd_emit_vec(e, e->f32, e->lanes),
                      ssd_emit_at(e, to, ssd_emit_mul(e, q, ssd_emit_i64(e, s_line))), ALIGN_F32);
    V sum = ssd_emit_fma(e, ssd_emit_splat(e, x, e->lanes), line_q, acc);
    ssd_emit_phi_add(q, LLVMBuildAdd(e->b, q, ssd_emit_i64(e, 1), ""), body);
    ssd_emit_phi_add(acc, sum, body);
    LLVMBuildBr(e->b, head);
    LLVMPositionBuilderAtEnd(e->b, exit);
    V out = ssd_emit_round(e, acc, val(e, o->out)->dtype);
    ssd_emit_store(e, out, ssd_emit_at(e, to, ssd_emit_mul(e, p, ssd_emit_i64(e, s_line))),
                   ALIGN_F32);
    ssd_emit_close(e, &c);
}

void ssd_emit_inv(Emit *e, const TOp *o) {
    u8 lane = lane_axis(e, o->out);
    if (lane != o->ax[0] && lane != o->ax[1]) SSD_BUG("inv along an axis it does not have");
    Box b = {.e = e, .op = o, .visit = inv_vector}, all = {.e = e};
    box_axes_of(&all, o->out);
    for (int i = 0; i < all.n; i++)
        if ((all.ax[i] != o->ax[0] && all.ax[i] != o->ax[1]) || all.ax[i] == lane)
            b.ax[b.n] = all.ax[i], b.size[b.n++] = all.size[i];
    box_walk(&b, lane);
}
