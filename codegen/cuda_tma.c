// SPDX-License-Identifier: Apache-2.0
// Which fetches and sends a bulk copy can do, and the tensor maps for them.
//
//     fetch x_ at R=r <- x[b, c*64+j, u*2+r, p]     map x, swizzle 128, box 64 1 64 1 (p h t b)
//
// A bulk copy moves a box of a tensor, its dimensions in the tensor's order. So every axis of the
// tile runs along a dimension of its own, one element a step; the last one along the innermost. A
// tile
// @sw128 goes panel by panel, a tile @row whole. At run time the map may still be impossible
// (strides that are no multiples of 16 bytes), or the tile may be cut (the end of a sequence among
// others): then the role's threads copy.
//
// Rows that begin anywhere, h*33, of a tensor whose tokens are whole pieces apart, are seen as one
// long row of all heads; a box then starts at the multiple of 8 before them:
//
//     fetch x_ <- x[b, c*64+j, h, p-h*33%8] loose    box 64 0 64 1, from h*33 - h*33%8 on
#include "cuda_emit.h"

#include <math.h>

enum { PANEL = 64, MAP_ALIGN = 128 };

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }

// Axis i of the tile steps through dimension dim_of[i] of the tensor.
static bool dimensions(Cuda *c, const TOp *o, const CudaView *v, int dim_of[6]) {
    for (int i = 0; i < v->n; i++) dim_of[i] = -1;
    for (int d = 0; d < o->nidx; d++) {
        i64 coef[256] = {0};
        bool taken = false;
        if (!ssd_nest_affine(c->p, o->idx[d], coef)) return false;
        for (int i = 0; i < v->n; i++) {
            i64 step = coef[v->ax[i]];
            if (!step || ssd_cuda_size(c, v->ax[i]) == 1) continue;
            if (step != 1 || taken || dim_of[i] >= 0) return false;
            dim_of[i] = d;
            taken = true;
        }
    }
    for (int i = 0; i < v->n; i++)
        if (dim_of[i] < 0 && ssd_cuda_size(c, v->ax[i]) > 1) return false;
    return true;
}

// The tile's axes less the one that `at` fixes.
static CudaView moved(Cuda *c, const TOp *o) {
    CudaView v = *ssd_cuda_view_of(c, o->a);
    int n = 0;
    for (int i = 0; i < v.n; i++)
        if (v.ax[i] != o->ax[0]) v.ax[n] = v.ax[i], v.stride[n++] = v.stride[i];
    v.n = (u8)n;
    return v;
}

static bool panels(Cuda *c, const TOp *o, const CudaView *v, const int *dim_of, ArtMap *m) {
    int rows = dim_of[v->n - 2], columns = dim_of[v->n - 1];
    i64 height = ssd_cuda_size(c, v->ax[v->n - 2]), width = ssd_cuda_size(c, v->ax[v->n - 1]);
    if (columns != o->nidx - 1 || height > ART_BOX_MOST) return false;
    if (o->op == TOP_SEND && width % PANEL)
        return false; // what lies beyond its columns must not leave
    m->box[0] = PANEL;
    m->swizzle = 2 * PANEL;
    if (rows >= 0) m->box[o->nidx - 1 - rows] = (int)height;
    return true;
}

static bool whole(Cuda *c, const TOp *o, const CudaView *v, const int *dim_of, ArtMap *m) {
    i64 size = (i64)ssd_dtype_size((ssd_dtype)val(c, v->base)->dtype);
    const TOp *ring = ssd_timed_slot_ring(c->p, c->k, v->base);
    i64 align = ssd_timed_slot_offset(c->p, ring, v->base) | ssd_timed_slot_bytes(c->p, ring) |
                ssd_timed_ring_offset(c->p, c->k, ring);
    const CudaView *all = ssd_cuda_view_of(c, o->a);
    for (int i = 0; i < all->n; i++)
        if (all->ax[i] == o->ax[0]) align |= all->stride[i] * size; // @row: in elements
    if (align % MAP_ALIGN || !v->n || dim_of[v->n - 1] != o->nidx - 1) return false;
    int before = -1;
    for (int i = 0; i < v->n; i++) {
        i64 n = ssd_cuda_size(c, v->ax[i]);
        if (n == 1) continue;
        if (dim_of[i] < before || n > ART_BOX_MOST) return false;
        before = dim_of[i];
        m->box[o->nidx - 1 - before] = (int)n;
    }
    return m->box[0] * size % 16 == 0;
}

// A number that the index is known to be a multiple of, whatever the tile's axes.
static i64 divisor(const Cuda *c, Ex e, const CudaView *v) {
    const Expr *x = &c->p->exs.v[e];
    if (x->kind == EX_AXIS) return memchr(v->ax, (u8)x->axis, v->n) ? 0 : 1;
    if (x->kind == EX_NUM) return (i64)fabs(x->num);
    if (x->kind != EX_FN) return 1;
    i64 l = divisor(c, x->arg[0], v), r = x->arg[1] ? divisor(c, x->arg[1], v) : 1;
    if (x->fn == FN_MUL) return l * r;
    if (x->fn != FN_ADD && x->fn != FN_SUB) return 1;
    while (r) {
        i64 rest = l % r;
        l = r, r = rest;
    }
    return l;
}

bool ssd_cuda_cut(Cuda *c, const TOp *o, u8 axis) {
    const Expr *x = &c->p->exs.v[o->when];
    i64 coef[256] = {0};
    return x->kind == EX_FN && x->fn == FN_LT && !ssd_cuda_ex_has(c, x->arg[1], axis) &&
           ssd_nest_affine(c->p, x->arg[0], coef) && coef[axis] == 1;
}

const char *ssd_cuda_whole(Cuda *c, const TOp *o) {
    CudaView v = moved(c, o);
    const char *kept[6];
    for (int i = 0; i < v.n; i++) {
        kept[i] = c->axis[v.ax[i]];
        c->axis[v.ax[i]] = ssd_arena_printf(c->a, "%lld", (long long)ssd_cuda_size(c, v.ax[i]) - 1);
    }
    const char *s = ssd_cuda_factor(c, o->when);
    for (int i = 0; i < v.n; i++) c->axis[v.ax[i]] = kept[i];
    return s;
}

// The dimensions before the last that lie along the rows of a loose fetch.
static int along(const Cuda *c, const TOp *o) {
    return o->flags & TF_LOOSE ? ssd_timed_along(c->p, o->tensor) : 0;
}

bool ssd_cuda_map(Cuda *c, const TOp *o, ArtMap *out, int dim_of[6]) {
    CudaView v = moved(c, o);
    u8 dtype = c->p->tensors.v[o->tensor].dtype;
    bool sw128 = val(c, v.base)->lay.space == SP_SW128;
    *out = (ArtMap){.take = o->tensor, .rank = o->nidx};
    if (!c->m->wgmma || o->nidx < 1 || o->nidx > ART_MAP_RANK) return false;
    if (dtype != val(c, v.base)->dtype || dtype == SSD_I32) return false;
    if (ssd_cuda_is_loose(c, v.base) || (o->op == TOP_SEND && ssd_timed_ragged(c->p, o->tensor)))
        return false;
    const int dims = along(c, o);
    for (int d = 0; d < o->nidx; d++) out->box[d] = d == 0 || d > dims;
    if (!dimensions(c, o, &v, dim_of)) return false;
    i64 start = divisor(c, o->idx[o->nidx - 1], &v) * (i64)ssd_dtype_size((ssd_dtype)dtype);
    if (!dims && start % 16) return false;
    for (int i = 0; i < v.n; i++)
        if (o->when && ssd_cuda_ex_has(c, o->when, v.ax[i]) && !ssd_cuda_cut(c, o, v.ax[i]))
            return false;
    return sw128 ? panels(c, o, &v, dim_of, out) : whole(c, o, &v, dim_of, out);
}

bool ssd_cuda_in_bulk(Cuda *c, const TOp *o) {
    ArtMap map;
    int dim_of[6];
    return ssd_cuda_map(c, o, &map, dim_of);
}

int ssd_cuda_map_number(Cuda *c, const ArtMap *m) {
    for (u32 i = 0; i < c->maps.n; i++)
        if (!memcmp(&c->maps.v[i], m, sizeof *m)) return (int)i;
    vec_push(c->a, &c->maps, *m);
    return (int)c->maps.n - 1;
}

// An index where the axes of the box are 0: what the box is counted from. NULL: 0.
static const char *start(Cuda *c, Ex e, const CudaView *v, int boxed) {
    const Expr *x = &c->p->exs.v[e];
    bool has = false;
    for (int i = boxed; i < v->n; i++) has |= ssd_cuda_ex_has(c, e, v->ax[i]);
    if (!has) return ssd_cuda_ex(c, e);
    if (x->kind == EX_AXIS) return NULL;
    if (x->kind == EX_FN && x->fn == FN_ADD) {
        const char *l = start(c, x->arg[0], v, boxed), *r = start(c, x->arg[1], v, boxed);
        return !l ? r : !r ? l : ssd_arena_printf(c->a, "%s + %s", l, r);
    }
    if (x->kind == EX_FN && x->fn == FN_SUB) {
        const char *l = start(c, x->arg[0], v, boxed), *r = ssd_cuda_factor(c, x->arg[1]);
        return ssd_arena_printf(c->a, "%s%s-%s%s", l ? l : "", l ? " " : "", l ? " " : "", r);
    }
    const char *kept[6];
    for (int i = boxed; i < v->n; i++) kept[i] = c->axis[v->ax[i]], c->axis[v->ax[i]] = "0";
    const char *s = ssd_cuda_ex(c, e);
    for (int i = boxed; i < v->n; i++) c->axis[v->ax[i]] = kept[i];
    return s;
}

// Where a box begins in rows that so many dimensions before the last lie along.
static const char *along_rows(Cuda *c, const TOp *o, const char *last, int dims) {
    i64 n = 1;
    for (int d = o->nidx - 1; dims > 0; d--, dims--) {
        n *= (i64)c->p->exs.v[c->p->tensors.v[o->tensor].dim[d]].num;
        const char *rows =
            ssd_arena_printf(c->a, "%s*%lld", ssd_cuda_factor(c, o->idx[d - 1]), (long long)n);
        last = !last          ? rows
               : *last == '-' ? ssd_arena_printf(c->a, "%s - %s", rows, last + 1)
                              : ssd_arena_printf(c->a, "%s + %s", rows, last);
    }
    return last;
}

const char *ssd_cuda_coords(Cuda *c, const TOp *o, const int dim_of[6], int panel) {
    CudaView v = moved(c, o);
    int boxed = val(c, v.base)->lay.space == SP_SW128 ? v.n - 2 : 0; // axes before: one box each
    const char *all = "";
    const int last = o->nidx - 1, dims = along(c, o);
    for (int d = last; d >= 0; d -= d == last ? 1 + dims : 1) {
        const char *s = start(c, o->idx[d], &v, boxed);
        if (panel && d == dim_of[v.n - 1])
            s = s ? ssd_arena_printf(c->a, "%s + %d", s, panel * PANEL)
                  : ssd_arena_printf(c->a, "%d", panel * PANEL);
        if (d == last) s = along_rows(c, o, s, dims);
        all = ssd_arena_printf(c->a, "%s, %s", all, s ? s : "0");
    }
    return all + 2;
}
