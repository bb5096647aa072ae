// SPDX-License-Identifier: Apache-2.0
// The ops that are no loop nests: products, scans, views, concatenation, slices put into tiles,
// swaps, triangular inverses.
#include "cuda_emit.h"

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }
static i64 stride(const Cuda *c, Val v, u8 x) { return x && v ? ssd_nest_stride(c->p, v, x) : 0; }
static bool has_axis(const Cuda *c, Val v, u8 x) {
    return v && memchr(val(c, v)->ax, x, val(c, v)->naxes) != NULL;
}
static i64 size(const Cuda *c, u8 x) { return x ? ssd_cuda_size(c, x) : 1; }
static const char *round_tag(u8 dtype) {
    return dtype == SSD_BF16 ? "TO_BF16" : dtype == SSD_F16 ? "TO_F16" : "TO_F32";
}

// --- What values stem from ----------------------------------------------------------------------
// A product whose operands stem from bf16 (or f16) tensors may round them again; one with a tensor
// of f32 in it may not. Vectors over time, parameters and states say nothing: only tensors with a
// tile's two axes and a time axis count. Operands that still are what a bf16 tensor held lose
// nothing in bf16; those that were computed keep three bits more in tf32, and the result its own
// rounding as the largest error.
enum { FROM_F32 = 1, FROM_BF16 = 2, FROM_F16 = 4, COMPUTED = 8 };

typedef struct Sources {
    Cuda *c;
    u8 *ws; // by tensor: of what was stored to it
    u8 found;
    bool more;
} Sources;

static bool has_time(const Prog *p, const TTensor *t) {
    for (int d = 0; d < t->rank; d++)
        if (p->exs.v[t->dim[d]].kind == EX_SYM && !strcmp(p->syms.v[p->exs.v[t->dim[d]].sym], "t"))
            return true;
    return false;
}

static u8 of_tensor(const Sources *s, u16 tensor, int naxes) {
    const TTensor *t = &s->c->p->tensors.v[tensor];
    if (t->role == T_WS) return s->ws[tensor];
    if (t->dtype == SSD_BF16) return FROM_BF16;
    if (t->dtype == SSD_F16) return FROM_F16;
    return t->dtype == SSD_F32 && naxes > 1 && has_time(s->c->p, t) ? FROM_F32 : COMPUTED;
}
// Does the expression only choose among values?
static bool chooses(const Prog *p, Ex e) {
    const Expr *x = &p->exs.v[e];
    if (x->kind == EX_VAL) return true;
    if (x->kind == EX_NUM) return x->num == 0 || x->num == 1;
    return x->kind == EX_FN && x->fn == FN_WHERE && chooses(p, x->arg[1]) && chooses(p, x->arg[2]);
}
static bool computes(const Prog *p, const TOp *o) {
    switch ((TOpCode)o->op) {
    case TOP_MAP:
    case TOP_STORE: return !chooses(p, o->e);
    case TOP_MMA:
    case TOP_REDUCE:
    case TOP_SCAN:
    case TOP_INV: return true;
    default: return false;
    }
}
static void of_value(void *ctx, Val v) {
    Sources *s = ctx;
    s->found |= s->c->sources[v];
}
static void add(Sources *s, u8 *to) {
    s->more |= (*to | s->found) != *to;
    *to |= s->found;
}

static void sources_of(Sources *s, const TBlock *b) {
    const Expr *exs = s->c->p->exs.v;
    for (const TOp *o = b->first; o; o = o->next) {
        s->found = 0;
        ssd_nest_operands(s->c->p, o, of_value, s);
        if (computes(s->c->p, o)) s->found |= COMPUTED;
        if (o->op == TOP_LOAD) s->found |= of_tensor(s, o->tensor, val(s->c, o->out)->naxes);
        if (o->op == TOP_STORE && s->c->p->tensors.v[o->tensor].role == T_WS)
            add(s, &s->ws[o->tensor]);
        if (o->out) add(s, &s->c->sources[o->out]);
        sources_of(s, &o->body);
        const TOp *y = o->body.last;
        for (int i = 0; o->carry && i < o->ncarry; i++) {
            s->found = 0;
            if (exs[o->init[i]].kind == EX_VAL) of_value(s, exs[o->init[i]].val);
            if (y && y->op == TOP_YIELD && exs[y->init[i]].kind == EX_VAL)
                of_value(s, exs[y->init[i]].val);
            add(s, &s->c->sources[o->carry[i]]);
        }
    }
}

void ssd_cuda_sources(Cuda *c) {
    Sources s = {.c = c, .ws = NEWN(c->a, u8, c->p->tensors.n)};
    c->sources = NEWN(c->a, u8, c->p->vals.n);
    do {
        s.more = false;
        for (u32 i = 0; i < c->p->kernels.n; i++) sources_of(&s, &c->p->kernels.v[i].body);
    } while (s.more);
}

static MmaKind mma_kind(const Cuda *c, const TOp *o) {
    enum { NATIVE, ASKED_TF32 };
    u8 a = c->sources[o->a], b = c->sources[o->b];
    if (c->p->matmul != NATIVE) return c->p->matmul == ASKED_TF32 ? MMA_TF32 : MMA_F32;
    if (!(a & ~COMPUTED) || !(b & ~COMPUTED) || (a | b) & FROM_F32) return MMA_F32;
    return (a | b) & (FROM_F16 | COMPUTED) ? MMA_TF32 : MMA_BF16;
}

// --- Products -----------------------------------------------------------------------------------
enum { MAX_MORE = 8 };
typedef struct Mma {
    Val a, b, c, out; // a has the rows, b the columns
    u8 row, col, k, u, v, w;
    const char *bound;
    bool odd; // more axes than the prelude's products know
} Mma;

static void put_axis(const Cuda *c, u8 *main_axis, u8 x, u8 *more, int *n) {
    if (*main_axis && size(c, x) <= size(c, *main_axis)) {
        more[(*n)++] = x;
        return;
    }
    if (*main_axis) more[(*n)++] = *main_axis;
    *main_axis = x;
}

static Mma classify(const Cuda *c, const TOp *o) {
    Mma m = {.a = o->a, .b = o->b, .c = o->c, .out = o->out, .bound = "ALL_K"};
    const Lay *l = &val(c, o->out)->lay;
    u8 dense = l->ax[l->naxes - 1], outer[MAX_MORE], deep[MAX_MORE];
    int nouter = 0, ndeep = 0;
    bool swap =
        has_axis(c, o->a, dense) && !has_axis(c, o->b, dense); // columns are dense in the result
    if (swap) m.a = o->b, m.b = o->a;
    for (int side = 0; side < 2; side++) {
        const TVal *t = val(c, side ? m.b : m.a);
        Val other = side ? m.a : m.b;
        for (int i = 0; i < t->naxes; i++) {
            u8 x = t->ax[i];
            if (!has_axis(c, o->out, x)) {
                if (!side) put_axis(c, &m.k, x, deep, &ndeep);
            } else if (has_axis(c, other, x)) {
                if (!side) outer[nouter++] = x;
            } else {
                put_axis(c, side ? &m.col : &m.row, x, outer, &nouter);
            }
        }
    }
    m.odd = nouter > 2 || ndeep > 1 || !m.k || !m.row || !m.col;
    m.u = nouter > 0 ? outer[0] : 0;
    m.v = nouter > 1 ? outer[1] : 0;
    m.w = ndeep > 0 ? deep[0] : 0;
    u8 side = swap ? m.col : m.row;
    if (o->tri_row == side && o->tri_col == m.k) m.bound = swap ? "K_UPTO_COL" : "K_UPTO_ROW";
    if (o->tri_row == m.k && o->tri_col == side && m.k)
        m.bound = swap ? "K_FROM_COL" : "K_FROM_ROW";
    return m;
}

static const char *tile(Cuda *c, const Mma *m, Val v, u8 first, u8 second) {
    i64 s[] = {stride(c, v, first), stride(c, v, second), stride(c, v, m->u), stride(c, v, m->v),
               stride(c, v, m->w)};
    int n = 5;
    while (n > 2 && !s[n - 1]) n--;
    const char *t = ssd_arena_printf(c->a, "Tile<%lld", (long long)s[0]);
    for (int i = 1; i < n; i++) t = ssd_arena_printf(c->a, "%s, %lld", t, (long long)s[i]);
    return ssd_arena_printf(c->a, "%s>{%s}", t, ssd_cuda_pointer(c, v));
}

// Any axes at all: a result a thread, plain loops.
static void mma_loops(Cuda *c, const TOp *o) {
    const TVal *out = val(c, o->out), *a = val(c, o->a);
    i64 n[8];
    for (int i = 0; i < out->naxes; i++) n[i] = size(c, out->lay.ax[i]);
    ssd_cuda_open_points(c, out->lay.ax, n, out->naxes, false);
    ssd_cuda_line(c, "float sum = %s;", o->c ? ssd_cuda_at(c, o->c, 0, NULL) : "0.0f");
    for (int i = 0; i < a->naxes; i++) {
        u8 x = a->ax[i];
        if (has_axis(c, o->out, x)) continue;
        ssd_cuda_line(c, "for (int %s = 0; %s < %lld; %s++)", c->axis[x], c->axis[x],
                      (long long)size(c, x), c->axis[x]);
    }
    c->indent++;
    ssd_cuda_line(c, "sum = fmaf(%s, %s, sum);", ssd_cuda_at(c, o->a, 0, NULL),
                  ssd_cuda_at(c, o->b, 0, NULL));
    c->indent--;
    ssd_cuda_line(c, "%s = %s;", ssd_cuda_at(c, o->out, 0, NULL),
                  ssd_cuda_round(c, "sum", out->dtype));
    ssd_cuda_close(c);
}

void ssd_cuda_mma(Cuda *c, const TOp *o) {
    static const char *const call[] = {
        [MMA_F32] = "mma_f32", [MMA_TF32] = "mma_tf32", [MMA_BF16] = "mma_bf16"};
    Mma m = classify(c, o);
    if (m.odd) {
        mma_loops(c, o);
        return;
    }
    i64 n[] = {size(c, m.row), size(c, m.col), size(c, m.k),
               size(c, m.u),   size(c, m.v),   size(c, m.w)};
    int nn = 6;
    while (nn > 3 && n[nn - 1] == 1) nn--;
    const char *dims = ssd_arena_printf(c->a, "%lld", (long long)n[0]);
    for (int i = 1; i < nn; i++) dims = ssd_arena_printf(c->a, "%s, %lld", dims, (long long)n[i]);
    const char *acc = m.c ? tile(c, &m, m.c, m.row, m.col) : "Zero{nullptr}";
    const char *a = tile(c, &m, m.a, m.row, m.k), *b = tile(c, &m, m.b, m.k, m.col),
               *out = tile(c, &m, m.out, m.row, m.col);
    ssd_cuda_line(c, "%s<Dims<%s>, %s, %s>(%s, %s, %s, %s);", call[mma_kind(c, o)], dims, m.bound,
                  round_tag(val(c, o->out)->dtype), a, b, acc, out);
}

// --- Scans --------------------------------------------------------------------------------------
// A line of the scanned axis is a warp's when there are few, a thread's when there are many and
// neighbours lie beside each other.
void ssd_cuda_scan(Cuda *c, const TOp *o) {
    const Lay *l = &val(c, o->out)->lay;
    u8 ax[8], x = o->ax[0];
    i64 n[8], lines = 1;
    int k = 0;
    for (int i = 0; i < l->naxes; i++)
        if (l->ax[i] != x) ax[k] = l->ax[i], n[k] = size(c, l->ax[i]), lines *= n[k++];
    bool warps = l->ax[l->naxes - 1] == x || lines < 16;
    const char *kind = o->flags & TF_REV ? "REV" : "";
    if (o->flags & TF_EXCL) kind = ssd_arena_printf(c->a, "%s%sEXCL", kind, *kind ? " | " : "");
    if (o->flags & TF_MAX) kind = ssd_arena_printf(c->a, "%s%sMAX", kind, *kind ? " | " : "");
    if (!*kind) kind = "0";
    u8 dtype = val(c, o->out)->dtype;
    if (dtype == SSD_BF16 || dtype == SSD_F16)
        kind = ssd_arena_printf(c->a, "%s, %s", kind, round_tag(dtype));
    ssd_cuda_open_points(c, ax, n, k, warps);
    ssd_cuda_line(c, "%s_scan<%lld, %s>(&%s, %lld, &%s, %lld);", warps ? "warp" : "thread",
                  (long long)size(c, x), kind, ssd_cuda_at(c, o->a, x, "0"),
                  (long long)stride(c, o->a, x), ssd_cuda_at(c, o->out, x, "0"),
                  (long long)stride(c, o->out, x));
    ssd_cuda_close(c);
}

// --- Views: another base or offset --------------------------------------------------------------
void ssd_cuda_view(Cuda *c, const TOp *o) {
    const TVal *out = val(c, o->out);
    bool moved = o->op == TOP_AT || o->op == TOP_SLICE;
    if (!out->naxes) {
        Kind k = ssd_cuda_dtype_kind(out->dtype);
        i64 s = stride(c, o->a, o->ax[0]);
        const char *at = ssd_cuda_factor(c, o->e);
        if (s != 1) at = ssd_arena_printf(c->a, "%s*%lld", at, (long long)s);
        if (c->offset[o->a])
            at = ssd_arena_printf(c->a, "%s + %lld", at, (long long)c->offset[o->a]);
        ssd_cuda_line(c, "const %s %s = %s%s[%s];", ssd_cuda_ctype(k), c->name[o->out],
                      k == KIND_INT ? "(int)" : "", c->base[o->a], at);
        return;
    }
    c->base[o->out] = c->base[o->a];
    c->offset[o->out] = c->offset[o->a] + out->lay.offset - val(c, o->a)->lay.offset;
    if (!moved || c->p->exs.v[o->e].kind == EX_NUM) return;
    ssd_cuda_line(c, "float *const %s = %s + %s*%lld;", c->name[o->out], ssd_cuda_pointer(c, o->a),
                  ssd_cuda_factor(c, o->e), (long long)stride(c, o->a, o->ax[0]));
    c->base[o->out] = c->name[o->out];
    c->offset[o->out] = 0;
}

// --- Boxes into boxes ---------------------------------------------------------------------------
static void open_tile(Cuda *c, Val v) {
    const Lay *l = &val(c, v)->lay;
    i64 n[8];
    for (int i = 0; i < l->naxes; i++) n[i] = size(c, l->ax[i]);
    ssd_cuda_open_points(c, l->ax, n, l->naxes, false);
}

// to[.., x: index] = from at every point of `from`.
static void move_tile(Cuda *c, Val from, Val to, u8 x, const char *index) {
    if (!val(c, from)->naxes) {
        ssd_cuda_line(c, "if (threadIdx.x == 0) %s = %s;", ssd_cuda_at(c, to, x, index),
                      c->name[from]);
        return;
    }
    open_tile(c, from);
    ssd_cuda_line(c, "%s = %s;", ssd_cuda_at(c, to, x, index), ssd_cuda_at(c, from, 0, NULL));
    ssd_cuda_close(c);
}

void ssd_cuda_cat(Cuda *c, const TOp *o) {
    u8 x = o->ax[0], r = o->ax[1], z = o->ax[2];
    move_tile(c, o->a, o->out, r, size(c, x) == 1 ? "0" : c->axis[x]);
    u8 own = z ? z : has_axis(c, o->b, x) ? x : 0;
    const char *start = ssd_arena_printf(c->a, "%lld", (long long)size(c, x));
    if (own && size(c, own) > 1) start = ssd_arena_printf(c->a, "(%s + %s)", c->axis[own], start);
    move_tile(c, o->b, o->out, r, start);
}

void ssd_cuda_join(Cuda *c, const TOp *o) {
    u8 u = o->ax[0], y = o->ax[1], x = o->ax[2];
    const char *uu = size(c, u) == 1 ? "0" : c->axis[u], *yy = size(c, y) == 1 ? "0" : c->axis[y];
    move_tile(c, o->a, o->out, x,
              ssd_arena_printf(c->a, "(%s*%lld + %s)", uu, (long long)size(c, y), yy));
}

void ssd_cuda_put(Cuda *c, const TOp *o) {
    const Lay *a = &val(c, o->a)->lay, *out = &val(c, o->out)->lay;
    if (a->buf != out->buf || a->offset != out->offset) {
        move_tile(c, o->a, o->out, 0, NULL);
        ssd_cuda_line(c, "__syncthreads();");
    }
    const char *at = ssd_cuda_pointer(c, o->out);
    Ex index[2] = {o->e, o->e2};
    for (int i = 0; i < 2; i++)
        if (o->ax[i])
            at = ssd_arena_printf(c->a, "%s + %s*%lld", at, ssd_cuda_factor(c, index[i]),
                                  (long long)stride(c, o->out, o->ax[i]));
    if (!val(c, o->b)->naxes) {
        ssd_cuda_line(c, "if (threadIdx.x == 0) (%s)[0] = %s;", at, c->name[o->b]);
        return;
    }
    open_tile(c, o->b);
    const Lay *b = &val(c, o->b)->lay;
    for (int i = 0; i < b->naxes; i++)
        if (size(c, b->ax[i]) > 1)
            at = ssd_arena_printf(c->a, "%s + %s*%lld", at, c->axis[b->ax[i]],
                                  (long long)stride(c, o->out, b->ax[i]));
    ssd_cuda_line(c, "(%s)[0] = %s;", at, ssd_cuda_at(c, o->b, 0, NULL));
    ssd_cuda_close(c);
}

// (x0, x1) -> (-x1, x0)
void ssd_cuda_swap(Cuda *c, const TOp *o) {
    const char *x = c->axis[o->ax[0]];
    bool halves = o->flags & TF_HALVES;
    long long half = (long long)size(c, o->ax[0]) / 2;
    open_tile(c, o->out);
    const char *first = halves ? ssd_arena_printf(c->a, "%s < %lld", x, half)
                               : ssd_arena_printf(c->a, "%s %% 2 == 0", x);
    const char *other = halves ? ssd_arena_printf(c->a, "(%s < %lld ? %s + %lld : %s - %lld)", x,
                                                  half, x, half, x, half)
                               : ssd_arena_printf(c->a, "(%s ^ 1)", x);
    const char *v = ssd_cuda_at(c, o->a, o->ax[0], other);
    ssd_cuda_line(c, "%s = %s ? -%s : %s;", ssd_cuda_at(c, o->out, 0, NULL), first, v, v);
    ssd_cuda_close(c);
}

// T = (I + a)^-1 by substitution, a column a thread, rows from the first on:
// T[r, c] = [r = c] - sum over q < r of a[r, q]*T[q, c].
void ssd_cuda_inv(Cuda *c, const TOp *o) {
    u8 i = o->ax[0], j = o->ax[1], ax[8];
    const Lay *l = &val(c, o->out)->lay;
    const char *row = c->axis[i], *col = c->axis[j];
    i64 n[8];
    int k = 0;
    for (int d = 0; d < l->naxes; d++)
        if (l->ax[d] != i) ax[k] = l->ax[d], n[k] = size(c, l->ax[d]), k++;
    ssd_cuda_open_points(c, ax, n, k, false);
    ssd_cuda_open(c, "for (int %s = 0; %s < %lld; %s++)", row, row, (long long)size(c, i), row);
    ssd_cuda_line(c, "float sum = %s == %s ? 1.0f : 0.0f;", row, col);
    ssd_cuda_line(c, "for (int at = 0; at < %s; at++) sum = fmaf(-%s, %s, sum);", row,
                  ssd_cuda_at(c, o->a, j, "at"), ssd_cuda_at(c, o->out, i, "at"));
    ssd_cuda_line(c, "%s = %s;", ssd_cuda_at(c, o->out, 0, NULL),
                  ssd_cuda_round(c, "sum", val(c, o->out)->dtype));
    ssd_cuda_close(c);
    ssd_cuda_close(c);
}

// The slice that an index tile chooses, element by element.
void ssd_cuda_pick(Cuda *c, const TOp *o) {
    u8 x = o->ax[0];
    const char *index = ssd_arena_printf(c->a, "min(max((int)(%s), 0), %lld)", ssd_cuda_ex(c, o->e),
                                         (long long)size(c, x) - 1);
    open_tile(c, o->out);
    ssd_cuda_line(c, "%s = %s;", ssd_cuda_at(c, o->out, 0, NULL),
                  ssd_cuda_round(c, ssd_cuda_at(c, o->a, x, index), val(c, o->out)->dtype));
    ssd_cuda_close(c);
}
