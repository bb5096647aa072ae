// SPDX-License-Identifier: Apache-2.0
// Loop nests of elementwise ops. The points of a nest are dealt to the threads of the block in the
// order in which the tensors lie, so that neighbouring threads touch neighbouring elements:
//
//     for (int e = threadIdx.x; e < 64*64; e += THREADS) {    every point is some thread's
//         const int j = e / 64, p = e % 64;
//
// A nest with sums gives a result to each warp, whose lanes walk the summed axis and meet in
// shuffles; or to each thread, when the summed axis is not the one that lies densely; or the one
// result to the whole block.
#include "cuda_emit.h"

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }

// --- The plan -----------------------------------------------------------------------------------
// The axis neighbouring threads should differ in: along most of the tensors, else along the first
// tile.
static u8 dense_axis(const Cuda *c, const TOp *first, const TOp *last) {
    u8 of_tile = 0, best = 0;
    int votes[256] = {0};
    for (const TOp *o = first;; o = o->next) {
        u8 x = o->op == TOP_LOAD || o->op == TOP_STORE ? ssd_nest_contiguous(c->p, o) : 0;
        if (x && ssd_cuda_size(c, x) > 1 && ++votes[x] > votes[best]) best = x;
        const Lay *l = o->out ? &val(c, o->out)->lay : NULL;
        if (!of_tile && l && l->naxes && (l->space == SP_MEM || o == last))
            of_tile = l->ax[l->naxes - 1];
        if (o == last) break;
    }
    return best ? best : of_tile;
}

void ssd_cuda_nest_plan(const Cuda *c, const TOp *first, const TOp *last, CudaNest *out) {
    u8 ax[8];
    int n = ssd_nest_axes(c->p, first, ax);
    u8 dense = dense_axis(c, first, last);
    *out = (CudaNest){.points = 1};
    if (ssd_nest_held(c->p, first, last)) {
        out->spread = SPREAD_HELD;
        return;
    }
    for (const TOp *o = first;; o = o->next) {
        if (o->op == TOP_REDUCE) out->reduce = o->ax[0];
        if (o == last) break;
    }
    for (int i = 0; i < n; i++)
        if (ax[i] != dense && ax[i] != out->reduce) out->ax[out->n++] = ax[i];
    if (dense && dense != out->reduce && n > 0 && memchr(ax, dense, (size_t)n))
        out->ax[out->n++] = dense;
    for (int i = 0; i < out->n; i++) out->points *= ssd_cuda_size(c, out->ax[i]);
    if (!out->reduce)
        out->spread = SPREAD_POINTS;
    else if (!out->n)
        out->spread = SPREAD_BLOCK_SUM;
    else
        out->spread = dense == out->reduce || out->points * 4 < c->threads ? SPREAD_WARP_SUMS
                                                                           : SPREAD_THREAD_SUMS;
    i64 along = dense ? ssd_cuda_size(c, dense) : 0;
    bool points = out->spread == SPREAD_POINTS && along % 4 == 0 && out->points >= 4 * c->threads;
    bool sums = out->spread == SPREAD_WARP_SUMS && dense == out->reduce && along % 128 == 0;
    if (points || sums) out->quad = dense;
}

// Is this load or store one of four neighbours?
static bool moves_quad(const Cuda *c, const CudaNest *n, const TOp *o) {
    u8 ax[8];
    if (!n->quad || (o->op != TOP_LOAD && o->op != TOP_STORE) ||
        ssd_nest_contiguous(c->p, o) != n->quad)
        return false;
    if (c->p->tensors.v[o->tensor].dtype == SSD_I32) return false;
    if (o->op == TOP_LOAD && ssd_cuda_dtype_kind(val(c, o->out)->dtype) != KIND_FLOAT) return false;
    return !o->when || !memchr(ax, n->quad, (size_t)ssd_ex_axes(c->p, o->when, ax));
}

// --- Loops --------------------------------------------------------------------------------------
// With `quad` the last axis counts fours.
static void open_points(Cuda *c, const u8 *ax, const i64 *size, int n, bool warps, bool quad) {
    const char *count = "", *index = "";
    i64 inner = 1;
    bool single = true;
    for (int i = 0; i < n; i++) {
        if (size[i] == 1) continue;
        count = ssd_arena_printf(c->a, "%s%s%lld", count, *count ? "*" : "", (long long)size[i]);
    }
    if (!*count) count = "1";
    const char *start = warps ? "threadIdx.x / 32" : "threadIdx.x",
               *step = warps ? "WARPS" : "THREADS";
    ssd_cuda_open(c, "for (int e = %s; e < %s; e += %s)", start, count, step);
    for (int i = n - 1; i >= 0; i--) {
        if (size[i] == 1 && quad && i == n - 1) { // one four
            index = ssd_arena_printf(c->a, "%s = 0", c->axis[ax[i]]);
            single = false;
        }
        if (size[i] == 1) continue;
        bool outermost = true;
        for (int k = 0; k < i; k++) outermost &= size[k] == 1;
        const char *v = inner == 1 ? "e" : ssd_arena_printf(c->a, "e / %lld", (long long)inner);
        if (!outermost) v = ssd_arena_printf(c->a, "%s %% %lld", v, (long long)size[i]);
        if (quad && i == n - 1) v = ssd_arena_printf(c->a, "%s * 4", v);
        index = ssd_arena_printf(c->a, "%s = %s%s%s", c->axis[ax[i]], v, *index ? ", " : "", index);
        inner *= size[i];
        single = false;
    }
    if (!single) ssd_cuda_line(c, "const int %s;", index);
}
void ssd_cuda_open_points(Cuda *c, const u8 *ax, const i64 *size, int n, bool warps) {
    open_points(c, ax, size, n, warps, false);
}

// --- Ops at a point -----------------------------------------------------------------------------
static bool used_in_nest(const Cuda *c, const TOp *def, const TOp *last) {
    for (const TOp *o = def; o != last; o = o->next)
        if (ssd_nest_op_reads(c->p, o->next, def->out)) return true;
    return false;
}

// The variable of a result, then the store to its tile.
static void define(Cuda *c, const TOp *o, const char *v, const TOp *last) {
    const TVal *t = val(c, o->out);
    v = ssd_cuda_round(c, v, t->dtype);
    bool memory = t->lay.space == SP_MEM && t->naxes;
    const char *to = memory ? ssd_cuda_at(c, o->out, 0, NULL) : NULL;
    if (!memory || used_in_nest(c, o, last)) {
        ssd_cuda_line(c, "const %s %s = %s;", ssd_cuda_ctype(ssd_cuda_dtype_kind(t->dtype)),
                      c->name[o->out], v);
        v = c->name[o->out];
        c->local[o->out] = c->nest;
    }
    if (memory) ssd_cuda_line(c, "%s = %s;", to, v);
}

static const char *combined(Cuda *c, const TOp *o) {
    return ssd_arena_printf(c->a, "combine<%s>(%s, %s)", o->flags & TF_MAX ? "true" : "false",
                            c->name[o->out], ssd_cuda_float(c, o->e));
}

static void op_at_point(Cuda *c, const TOp *o, const TOp *last) {
    switch ((TOpCode)o->op) {
    case TOP_LOAD: define(c, o, ssd_cuda_access(c, o, NULL), last); break;
    case TOP_STORE: {
        Kind k = ssd_cuda_kind(c, o->e);
        const char *v = k == KIND_BOOL ? ssd_arena_printf(c->a, "(int)(%s)", ssd_cuda_ex(c, o->e))
                                       : ssd_cuda_ex(c, o->e);
        ssd_cuda_line(c, "%s;", ssd_cuda_access(c, o, v));
        break;
    }
    case TOP_MAP:
    case TOP_FILL: {
        bool real = ssd_cuda_dtype_kind(val(c, o->out)->dtype) == KIND_FLOAT;
        define(c, o, real ? ssd_cuda_float(c, o->e) : ssd_cuda_ex(c, o->e), last);
        break;
    }
    case TOP_COPY: define(c, o, ssd_cuda_at(c, o->a, 0, NULL), last); break;
    case TOP_REDUCE: ssd_cuda_line(c, "%s = %s;", c->name[o->out], combined(c, o)); break;
    default: SSD_BUG("no op of a nest");
    }
}

// Four neighbours: tensors are read before and written after, the rest is done for one after the
// other.
static void quad_point(Cuda *c, const CudaNest *n, const TOp *first, const TOp *last) {
    const char *axis = c->axis[n->quad], *array[32] = {NULL};
    int i = 0;
    for (const TOp *o = first;; o = o->next, i++) {
        if (moves_quad(c, n, o)) {
            array[i] =
                o->op == TOP_LOAD
                    ? c->name[o->out]
                    : ssd_cuda_name(c, ssd_arena_printf(c->a, "%s_out", c->tensor[o->tensor]));
            ssd_cuda_line(c, "float %s[4];", array[i]);
            if (o->op == TOP_LOAD) ssd_cuda_line(c, "%s;", ssd_cuda_access4(c, o, array[i]));
        }
        if (o == last) break;
    }
    ssd_cuda_line(c, "#pragma unroll");
    ssd_cuda_open(c, "for (int %s = 0; %s < 4; %s++)", c->quad, c->quad, c->quad);
    c->axis[n->quad] = ssd_arena_printf(c->a, "(%s + %s)", axis, c->quad);
    i = 0;
    for (const TOp *o = first;; o = o->next, i++) {
        const char *at = array[i] ? ssd_arena_printf(c->a, "%s[%s]", array[i], c->quad) : NULL;
        if (!at) {
            op_at_point(c, o, last);
        } else if (o->op == TOP_STORE) {
            ssd_cuda_line(c, "%s = %s;", at, ssd_cuda_float(c, o->e));
        } else {
            const TVal *t = val(c, o->out);
            const char *v = ssd_cuda_round(c, at, t->dtype);
            if (v != at) ssd_cuda_line(c, "%s = %s;", at, v);
            c->name[o->out] = at;
            c->local[o->out] = c->nest;
            if (t->lay.space == SP_MEM)
                ssd_cuda_line(c, "%s = %s;", ssd_cuda_at(c, o->out, 0, NULL), at);
        }
        if (o == last) break;
    }
    ssd_cuda_close(c);
    c->axis[n->quad] = axis;
    i = 0;
    for (const TOp *o = first;; o = o->next, i++) {
        if (array[i] && o->op == TOP_STORE)
            ssd_cuda_line(c, "%s;", ssd_cuda_access4(c, o, array[i]));
        if (o == last) break;
    }
}

static void point(Cuda *c, const CudaNest *n, const TOp *first, const TOp *last) {
    if (n->quad) {
        quad_point(c, n, first, last);
        return;
    }
    for (const TOp *o = first;; o = o->next) {
        op_at_point(c, o, last);
        if (o == last) return;
    }
}

// --- Sums ---------------------------------------------------------------------------------------
static void start_sums(Cuda *c, const TOp *first, const TOp *last) {
    for (const TOp *o = first;; o = o->next) {
        if (o->op == TOP_REDUCE)
            ssd_cuda_line(c, "float %s = %s;", c->name[o->out],
                          o->flags & TF_MAX ? "-INF" : "0.0f");
        if (o == last) return;
    }
}

static void finish_sums(Cuda *c, const TOp *first, const TOp *last, Spread spread) {
    static const char *const meet[] = {
        [SPREAD_WARP_SUMS] = "warp_reduce", [SPREAD_BLOCK_SUM] = "block_reduce"};
    for (const TOp *o = first;; o = o->next) {
        if (o->op == TOP_REDUCE) {
            const TVal *t = val(c, o->out);
            const char *name = c->name[o->out];
            if (meet[spread])
                ssd_cuda_line(c, "%s = %s<%s>(%s);", name, meet[spread],
                              o->flags & TF_MAX ? "true" : "false", name);
            const char *v = ssd_cuda_round(c, name, t->dtype);
            if (t->naxes)
                ssd_cuda_line(c, "%s%s = %s;",
                              spread == SPREAD_WARP_SUMS ? "if (threadIdx.x % 32 == 0) " : "",
                              ssd_cuda_at(c, o->out, 0, NULL), v);
            else if (v != name)
                ssd_cuda_line(c, "%s = %s;", name, v);
        }
        if (o == last) return;
    }
}

static void summed_axis(Cuda *c, const CudaNest *n, const TOp *first, const TOp *last) {
    static const char *const start[] = {[SPREAD_WARP_SUMS] = "threadIdx.x % 32",
                                        [SPREAD_THREAD_SUMS] = "0",
                                        [SPREAD_BLOCK_SUM] = "threadIdx.x"};
    static const char *const step[] = {[SPREAD_WARP_SUMS] = " += 32",
                                       [SPREAD_THREAD_SUMS] = "++",
                                       [SPREAD_BLOCK_SUM] = " += THREADS"};
    const char *x = c->axis[n->reduce];
    if (n->quad)
        ssd_cuda_open(c, "for (int %s = threadIdx.x %% 32 * 4; %s < %lld; %s += 128)", x, x,
                      (long long)ssd_cuda_size(c, n->reduce), x);
    else
        ssd_cuda_open(c, "for (int %s = %s; %s < %lld; %s%s)", x, start[n->spread], x,
                      (long long)ssd_cuda_size(c, n->reduce), x, step[n->spread]);
    point(c, n, first, last);
    ssd_cuda_close(c);
}

// Turns of the loop at once. A lone load waits longest and holds least; a sum has its own loop.
static int turns(const Cuda *c, const CudaNest *n, const TOp *first, const TOp *last) {
    if (n->spread != SPREAD_POINTS || n->points <= c->threads) return 1;
    if (first == last && first->op == TOP_LOAD) return 4;
    int tensors = 0;
    for (const TOp *o = first; o != last; o = o->next)
        tensors += o->op == TOP_LOAD || o->op == TOP_STORE;
    return tensors > 0 ? 1 : 2;
}

void ssd_cuda_nest(Cuda *c, const TOp *first, const TOp *last) {
    CudaNest n;
    i64 size[8];
    ssd_cuda_nest_plan(c, first, last, &n);
    if (n.spread == SPREAD_HELD) {
        ssd_cuda_hold(c, first, last);
        return;
    }
    bool fours = n.quad && !n.reduce;
    for (int i = 0; i < n.n; i++)
        size[i] = ssd_cuda_size(c, n.ax[i]) / (fours && i == n.n - 1 ? 4 : 1);
    for (const TOp *o = first;; o = o->next) {
        ssd_cuda_comment(c, o);
        if (o == last) break;
    }
    c->nest++;
    if (n.spread == SPREAD_BLOCK_SUM) {
        start_sums(c, first, last);
        summed_axis(c, &n, first, last);
        finish_sums(c, first, last, n.spread);
        return;
    }
    ssd_cuda_line(c, "#pragma unroll %d", turns(c, &n, first, last));
    open_points(c, n.ax, size, n.n, n.spread == SPREAD_WARP_SUMS, fours);
    if (n.reduce) {
        start_sums(c, first, last);
        summed_axis(c, &n, first, last);
        finish_sums(c, first, last, n.spread);
    } else {
        point(c, &n, first, last);
    }
    ssd_cuda_close(c);
}
