// SPDX-License-Identifier: Apache-2.0
// The arguments of a launch against the parameters of an artifact: names, types, shapes, memory.
// Kernels trust their arguments, so whatever could make one touch memory it should not is refused
// here, with a message that says which argument, what was found and what is expected.
#include "internal.h"

#include <stdlib.h>

SSD_PRINTF(2, 3) static bool bad(const char *name, const char *fmt, ...) {
    Text t = {0};
    va_list ap;
    va_start(ap, fmt);
    ssd_text_vprintf(&t, fmt, ap);
    va_end(ap);
    ssd_fail(SSD_INVALID_ARGUMENT, "argument '%.100s': %s", name, t.s ? t.s : "wrong");
    ssd_text_free(&t);
    return false;
}

// --- Names --------------------------------------------------------------------------------------

static int find_param(const Artifact *art, const char *name, int hint) {
    if (hint < art->n_params && !strcmp(art->params[hint].name, name)) return hint;
    for (int i = 0; i < art->n_params; i++)
        if (!strcmp(art->params[i].name, name)) return i;
    return -1;
}

static bool unknown_name(const Artifact *art, const char *name) {
    const char *names[ART_MAX_TENSORS];
    for (int i = 0; i < art->n_params; i++) names[i] = art->params[i].name;
    int near = ssd_nearest(name, names, art->n_params);
    if (near >= 0)
        return bad(name, "'%s' has no such parameter; did you mean '%s'?", art->program,
                   names[near]);
    return bad(name, "'%s' has no such parameter", art->program);
}

// given[i] = the argument for parameter i.
static bool match(const Artifact *art, const ssd_arg *args, int n, const ssd_arg **given) {
    for (int i = 0; i < n; i++) {
        if (!args[i].name) {
            ssd_fail(SSD_INVALID_ARGUMENT, "argument %d has no name", i);
            return false;
        }
        int p = find_param(art, args[i].name, i);
        if (p < 0) return unknown_name(art, args[i].name);
        if (given[p]) return bad(args[i].name, "given twice");
        given[p] = &args[i];
    }
    for (int p = 0; p < art->n_params; p++)
        if (!given[p])
            return bad(art->params[p].name, "missing; expected an %s %s of %d dims",
                       art->params[p].role == SSD_OUTPUT ? "output" : "input",
                       ssd_dtype_name(art->params[p].dtype), art->params[p].rank);
    return true;
}

// --- Types and shapes ---------------------------------------------------------------------------

static bool check_type(const ArtTensor *p, const ssd_tensor *t) {
    if (t->dtype != p->dtype)
        return bad(p->name, "dtype is %s, expected %s", ssd_dtype_name(t->dtype),
                   ssd_dtype_name(p->dtype));
    if (t->rank != p->rank) return bad(p->name, "rank is %d, expected %d", t->rank, p->rank);
    for (int d = 0; d < t->rank; d++)
        if (t->dims[d] < 0) return bad(p->name, "dim %d is %lld", d, (long long)t->dims[d]);
    return true;
}

static bool read_symbols(const Artifact *art, const ssd_arg **given, i64 *sym) {
    for (int i = 0; i < art->n_syms; i++) {
        const ArtSym *s = &art->syms[i];
        const ssd_tensor *t = &given[find_param(art, s->param, 0)]->tensor;
        sym[i] = t->dims[s->dim] - s->minus;
        if (sym[i] < 0)
            return bad(s->param, "dim %d is %lld, expected at least %d", s->dim,
                       (long long)t->dims[s->dim], s->minus);
    }
    return true;
}

typedef struct Symbols {
    const char *name[ART_MAX_SYMS + 1];
    const i64 *value;
    int n;
} Symbols;

static bool eval(const char *what, const char *formula, const Symbols *s, i64 *out) {
    Text why = {0};
    bool ok = ssd_formula_eval(formula, s->name, s->value, s->n, out, &why);
    if (!ok) ssd_fail(SSD_INVALID_ARGUMENT, "%s: %s", what, why.s ? why.s : "out of memory");
    ssd_text_free(&why);
    return ok;
}

static bool wrong_dim(const Artifact *art, const ArtTensor *p, int d, i64 found, i64 expected) {
    const char *f = p->dim[d];
    for (int i = 0; i < art->n_syms; i++)
        if (!strcmp(f, art->syms[i].name))
            return bad(p->name, "dim %d is %lld, expected %s = %lld as in argument '%s'", d,
                       (long long)found, f, (long long)expected, art->syms[i].param);
    if (*f >= '0' && *f <= '9' && strspn(f, "0123456789") == strlen(f))
        return bad(p->name, "dim %d is %lld, expected %s", d, (long long)found, f);
    return bad(p->name, "dim %d is %lld, expected %s = %lld", d, (long long)found, f,
               (long long)expected);
}

static bool check_dims(const Artifact *art, const Symbols *s, const ArtTensor *p,
                       const ssd_tensor *t) {
    for (int d = 0; d < p->rank; d++) {
        i64 want;
        if (!eval(p->name, p->dim[d], s, &want)) return false;
        if (t->dims[d] != want) return wrong_dim(art, p, d, t->dims[d], want);
    }
    return true;
}

// --- Memory -------------------------------------------------------------------------------------

// The bytes a tensor touches: [low, high]; none when it has no elements.
typedef struct Extent {
    u64 low, high;
    bool none;
} Extent;

static bool measure(const ArtTensor *p, const ssd_tensor *t, Extent *out) {
    i64 count = 1, below = 0, above = 0, size = (i64)ssd_dtype_size(p->dtype);
    *out = (Extent){.none = true};
    for (int d = 0; d < p->rank; d++)
        if (!t->dims[d]) return true;
    bool over = false;
    for (int d = 0; d < p->rank; d++) {
        i64 reach;
        over |= __builtin_mul_overflow(count, t->dims[d], &count);
        over |= __builtin_mul_overflow(t->dims[d] - 1, t->strides[d], &reach);
        over |=
            __builtin_add_overflow(reach < 0 ? below : above, reach, reach < 0 ? &below : &above);
    }
    over |= __builtin_mul_overflow(count, size, &count) ||
            __builtin_mul_overflow(below, size, &below) ||
            __builtin_mul_overflow(above, size, &above) ||
            __builtin_add_overflow(above, size - 1, &above);
    if (over) return bad(p->name, "its size or strides overflow");
    if (!t->data) return bad(p->name, "data is NULL but it has elements");
    u64 at = (u64)(uintptr_t)t->data;
    if (at % (u64)size) return bad(p->name, "data is not aligned to %lld bytes", (long long)size);
    if ((u64)-below > at || (u64)above > UINTPTR_MAX - at)
        return bad(p->name, "its strides leave the address space");
    *out = (Extent){at + (u64)below, at + (u64)above, false};
    return true;
}

// Can sum(step[k] * x[k]) be `rest` with 0 <= x[k] <= most[k]? Exact for the strides tensors have;
// the budget makes it end on any others, with the careful answer.
typedef struct Terms {
    u64 step[2 * SSD_MAX_RANK + 1], most[2 * SSD_MAX_RANK + 1];
    int n, budget;
} Terms;

static void add_term(Terms *t, u64 step, u64 most) {
    if (!step || !most) return;
    int i = 0;
    while (i < t->n && t->step[i] > step) i++;
    if (i < t->n && t->step[i] == step) {
        t->most[i] += most;
        return;
    }
    memmove(t->step + i + 1, t->step + i, sizeof *t->step * (size_t)(t->n - i));
    memmove(t->most + i + 1, t->most + i, sizeof *t->most * (size_t)(t->n - i));
    t->step[i] = step;
    t->most[i] = most;
    t->n++;
}

// `reach` is what all terms from k on can give at most.
static bool solvable(Terms *t, int k, u64 rest, u64 reach) {
    if (!rest) return true;
    if (rest > reach) return false;
    if (k == t->n || t->budget-- <= 0) return k < t->n;
    u64 step = t->step[k], after = reach - step * t->most[k];
    u64 x = MIN(rest / step, t->most[k]);
    for (;; x--) {
        if (rest - step * x > after) return false; // fewer of this step leave too much
        if (solvable(t, k + 1, rest - step * x, after)) return true;
        if (!x) return false;
    }
}

static u64 span(i64 v) { return v < 0 ? -(u64)v : (u64)v; }

static u64 reach_of(const Terms *t) {
    u64 sum = 0;
    for (int k = 0; k < t->n; k++) sum += t->step[k] * t->most[k];
    return sum;
}

// Do two tensors share a byte? With every axis turned to grow, an address of a is a.low + A, one of
// b is b.high - B, where A and B are sums of steps; they meet when A + B = b.high - a.low. Views of
// one buffer have common strides, whose terms add up, so this is decided in a few steps.
static bool overlap(const ssd_tensor *a, const Extent *ea, const ssd_tensor *b, const Extent *eb) {
    if (ea->none || eb->none || ea->high < eb->low || eb->high < ea->low) return false;
    u64 sa = ssd_dtype_size(a->dtype), sb = ssd_dtype_size(b->dtype);
    Terms t = {.budget = 20000};
    for (int d = 0; d < a->rank; d++) add_term(&t, span(a->strides[d]) * sa, (u64)a->dims[d] - 1);
    for (int d = 0; d < b->rank; d++) add_term(&t, span(b->strides[d]) * sb, (u64)b->dims[d] - 1);
    add_term(&t, 1, sa - 1 + sb - 1);
    return solvable(&t, 0, eb->high - ea->low, reach_of(&t));
}

// Do two indices of one tensor name the same element? Then their difference solves sum(stride * x)
// = 0 with a first nonzero x[d] >= 1; the others, of either sign, are moved to start at 0.
static bool overlaps_itself(const ssd_tensor *a) {
    for (int d = 0; d < a->rank; d++) {
        if (a->dims[d] < 2) continue;
        Terms t = {.budget = 20000};
        u64 rest = 0;
        for (int k = d + 1; k < a->rank; k++) {
            if (a->dims[k] > 1 && !a->strides[k]) return true;
            add_term(&t, span(a->strides[k]), 2 * ((u64)a->dims[k] - 1));
            rest += span(a->strides[k]) * ((u64)a->dims[k] - 1);
        }
        // sum over the others = rest - step * x for an x in 1 .. dims[d] - 1
        u64 step = span(a->strides[d]), reach = 2 * rest;
        if (!step) return true;
        for (u64 x = 1; x < (u64)a->dims[d] && step * x <= rest; x++)
            if (t.budget-- <= 0 || solvable(&t, 0, rest - step * x, reach)) return true;
    }
    return false;
}

static bool in_place(const ssd_tensor *a, const ssd_tensor *b) {
    bool same = a->data == b->data;
    for (int d = 0; d < a->rank; d++)
        same =
            same && a->dims[d] == b->dims[d] && (a->strides[d] == b->strides[d] || a->dims[d] < 2);
    return same;
}

static bool check_memory(const Artifact *art, const ssd_arg **given, const Extent *extent) {
    for (int i = 0; i < art->n_params; i++) {
        const ArtTensor *p = &art->params[i];
        const ssd_tensor *t = &given[i]->tensor;
        if (p->role != SSD_OUTPUT || extent[i].none) continue;
        if (overlaps_itself(t))
            return bad(p->name, "elements of this output overlap (by its strides)");
        for (int k = 0; k < art->n_params; k++) {
            const ArtTensor *q = &art->params[k];
            if (k == i || (q->role == SSD_OUTPUT && k < i)) continue;
            if (!overlap(t, &extent[i], &given[k]->tensor, &extent[k])) continue;
            bool alias = p->alias && !strcmp(p->alias, q->name);
            if (alias && in_place(t, &given[k]->tensor)) continue;
            return bad(p->name, "this output overlaps %s '%s'%s",
                       q->role == SSD_OUTPUT ? "output" : "input", q->name,
                       alias ? "; in place it must have the same pointer and strides" : "");
        }
    }
    return true;
}

// --- Packed sequences ---------------------------------------------------------------------------

// Kernels index by these values: cu_seqlens[0] = 0, never falling, the last one t.
static bool check_offsets(const Artifact *art, const ArtTensor *p, const ssd_tensor *t,
                          const i64 *sym) {
    if (strcmp(p->name, "cu_seqlens") || p->dtype != SSD_I32 || p->rank != 1) return true;
    const i32 *v = t->data;
    i64 n = t->dims[0], stride = t->strides[0], last = 0;
    for (i64 i = 0; i < n; i++) {
        i64 at = v[i * stride];
        if (!i && at) return bad(p->name, "element 0 is %lld, expected 0", (long long)at);
        if (at < last)
            return bad(p->name, "element %lld is %lld, less than the one before (%lld)",
                       (long long)i, (long long)at, (long long)last);
        last = at;
    }
    for (int i = 0; i < art->n_syms; i++)
        if (!strcmp(art->syms[i].name, "t") && n && last != sym[i])
            return bad(p->name, "the last element is %lld, expected t = %lld", (long long)last,
                       (long long)sym[i]);
    return true;
}

// --- Plan, workspace, grids ---------------------------------------------------------------------

enum { WS_ALIGN = 64 };

// Do all elements follow each other, from a multiple of 16 bytes on?
static bool is_dense(const Launch *l, int i) {
    const i64 *stride = l->stride + i * SSD_MAX_RANK, *dim = l->dim + i * SSD_MAX_RANK;
    i64 dense = 1;
    for (int d = l->art->params[i].rank - 1; d >= 0; d--) {
        if (stride[d] != dense) return false;
        dense *= dim[d];
    }
    return (uintptr_t)l->ptr[i] % 16 == 0;
}

static bool choose_plan(const Artifact *art, const Symbols *sizes, Launch *l) {
    i64 value[ART_MAX_SYMS + 1];
    Symbols with_dense = *sizes, *s = &with_dense;
    memcpy(value, sizes->value, (size_t)sizes->n * sizeof *value);
    value[s->n] = true;
    for (int i = 0; i < art->n_params; i++) value[s->n] &= is_dense(l, i);
    s->value = value;
    s->name[s->n++] = ART_DENSE;
    for (int i = 0; i < art->n_plans && !l->plan; i++) {
        i64 holds;
        if (!eval("plan", art->plans[i].when, s, &holds)) return false;
        if (holds) l->plan = &art->plans[i];
    }
    if (!l->plan)
        ssd_fail(SSD_INVALID_ARGUMENT, "'%s' was compiled with no plan for these sizes",
                 art->program);
    return l->plan != NULL;
}

static bool place_workspace(const Symbols *s, Launch *l) {
    size_t at = 0;
    for (int i = 0; i < l->plan->n_ws; i++) {
        const ArtTensor *w = &l->plan->ws[i];
        i64 *dim = l->dim + (l->art->n_params + i) * SSD_MAX_RANK;
        i64 *stride = l->stride + (l->art->n_params + i) * SSD_MAX_RANK, count = 1;
        bool over = false;
        for (int d = w->rank - 1; d >= 0; d--) {
            if (!eval(w->name, w->dim[d], s, &dim[d])) return false;
            stride[d] = count;
            over |= dim[d] < 0 || __builtin_mul_overflow(count, MAX(dim[d], 1), &count);
        }
        i64 bytes;
        over |= __builtin_mul_overflow(count, (i64)ssd_dtype_size(w->dtype), &bytes);
        l->ws_at[i] = at;
        if (over || __builtin_add_overflow(at, (size_t)bytes + WS_ALIGN - 1, &at) ||
            at > PTRDIFF_MAX) {
            ssd_fail(SSD_INVALID_ARGUMENT,
                     "these sizes need a workspace tensor '%s' that overflows", w->name);
            return false;
        }
        at &= ~(size_t)(WS_ALIGN - 1);
    }
    l->ws_bytes = at;
    return true;
}

static bool size_grids(const Symbols *s, Launch *l) {
    for (int i = 0; i < l->plan->n_kernels; i++)
        if (!eval(l->plan->kernels[i].symbol, l->plan->kernels[i].blocks, s, &l->blocks[i]))
            return false;
    return true;
}

// --- The whole ----------------------------------------------------------------------------------

static bool allocate(Launch *l) {
    int ws = 0;
    for (int i = 0; i < l->art->n_plans; i++) ws = MAX(ws, l->art->plans[i].n_ws);
    size_t n = (size_t)(l->art->n_params + ws), tables = n * SSD_MAX_RANK * sizeof(i64);
    char *m = calloc(1, 2 * tables + n * sizeof *l->ptr + (size_t)ws * sizeof *l->ws_at + 1);
    if (!m) return false;
    l->stride = (i64 *)m;
    l->dim = (i64 *)(m + tables);
    l->ptr = (void **)(m + 2 * tables);
    l->ws_at = (size_t *)(l->ptr + n);
    return true;
}

// The stride of an axis of length 1 says nothing; kernels get the dense one, so that a fast path
// for contiguous rows is not missed.
static void fill_tables(Launch *l, int i, const ssd_tensor *t) {
    i64 *stride = l->stride + i * SSD_MAX_RANK, *dim = l->dim + i * SSD_MAX_RANK;
    u64 dense = 1;
    for (int d = t->rank - 1; d >= 0; d--) {
        dim[d] = t->dims[d];
        stride[d] = t->dims[d] > 1 ? t->strides[d] : (i64)dense;
        dense = (u64)stride[d] * (u64)dim[d];
    }
    l->ptr[i] = t->data;
}

static bool check(const ssd_arg *args, int n_args, const Symbols *s, const ssd_arg **given,
                  Launch *l) {
    const Artifact *art = l->art;
    Extent extent[ART_MAX_TENSORS];
    if (!match(art, args, n_args, given)) return false;
    for (int i = 0; i < art->n_params; i++)
        if (!check_type(&art->params[i], &given[i]->tensor)) return false;
    if (!read_symbols(art, given, l->sym)) return false;
    for (int i = 0; i < art->n_params; i++)
        if (!check_dims(art, s, &art->params[i], &given[i]->tensor) ||
            !measure(&art->params[i], &given[i]->tensor, &extent[i]))
            return false;
    if (!check_memory(art, given, extent)) return false;
    if (ssd_target_is_cuda(art->target))
        return true; // what lies in device memory cannot be read here
    for (int i = 0; i < art->n_params; i++)
        if (!check_offsets(art, &art->params[i], &given[i]->tensor, l->sym)) return false;
    return true;
}

ssd_status ssd_launch_check(const Artifact *art, const ssd_arg *args, int n_args, Launch *out) {
    *out = (Launch){.art = art};
    const ssd_arg *given[ART_MAX_TENSORS] = {0};
    Symbols s = {.value = out->sym, .n = art->n_syms};
    for (int i = 0; i < s.n; i++) s.name[i] = art->syms[i].name;
    if (!check(args, n_args, &s, given, out)) return SSD_INVALID_ARGUMENT;
    if (!allocate(out)) return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for the tables of a launch");
    for (int i = 0; i < art->n_params; i++) fill_tables(out, i, &given[i]->tensor);
    if (!choose_plan(art, &s, out) || !place_workspace(&s, out) || !size_grids(&s, out))
        return SSD_INVALID_ARGUMENT;
    out->n_tensors = art->n_params + out->plan->n_ws;
    return SSD_OK;
}

void ssd_launch_bind(Launch *l, void *workspace) {
    for (int i = 0; workspace && i < l->plan->n_ws; i++)
        l->ptr[l->art->n_params + i] = (char *)workspace + l->ws_at[i];
}

void ssd_launch_release(Launch *l) {
    free(l->stride);
    *l = (Launch){0};
}
