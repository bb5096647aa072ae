// SPDX-License-Identifier: Apache-2.0
// What a graph means: its nodes evaluated one after the other, in double, as dense arrays. Every
// ssd is evaluated by one of two routes that share nothing but their operands: the recurrence over
// tokens, or the dense matrix L o (Q K^T) times V (interp_ssd.c). Sizes up to some hundred tokens
// are meant.
//
// Everything that crosses time works by sequences: batch rows of a plain graph, the rows
// cu_seqlens[s] .. cu_seqlens[s+1] of a packed one. No value of one sequence is ever read for
// another.
#include "interp.h"

#include <math.h>
#include <setjmp.h>

#define MOST_ELEMENTS (1LL << 31)

static bool fail(Run *r, const char *fmt, ...) SSD_PRINTF(2, 3);
static bool fail(Run *r, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ssd_text_vprintf(r->why, fmt, ap);
    va_end(ap);
    return false;
}

// --- Values -------------------------------------------------------------------------------------

i64 ssd_value_stride(const Value *v, AxisId x) {
    for (int i = 0; i < v->n; i++)
        if (v->ax[i] == x && x) return v->stride[i];
    return 0;
}

static void set_strides(Value *v) {
    i64 stride = 1;
    for (int i = v->n - 1; i >= 0; i--) v->stride[i] = stride, stride *= v->dim[i];
}

static bool new_value(Run *r, Value *v, const AxisId *ax, int n) {
    i64 count = 1;
    v->n = 0;
    for (int i = 0; i < n; i++) {
        if (r->g->step && ax[i] == r->t) continue;
        i64 size = r->size[ax[i]];
        v->ax[v->n] = ax[i];
        v->dim[v->n++] = size;
        if (size && count > MOST_ELEMENTS / size)
            return fail(r, "a value of more than 2^31 elements is too large for the interpreter");
        count *= size;
    }
    set_strides(v);
    v->v = NEWN(r->arena, double, MAX(count, 1));
    return true;
}

// Walks an index space; off[k] follows one array each, by its own strides.
typedef struct Walk {
    int n;
    i64 dim[8], idx[8], step[4][8], off[4];
} Walk;

// Over the axes of v[0] in order, less `skip1` and `skip2`.
static Walk walk_over(const Value *const v[4], AxisId skip1, AxisId skip2) {
    Walk w = {0};
    for (int i = 0; i < v[0]->n; i++) {
        AxisId x = v[0]->ax[i];
        if (x == skip1 || x == skip2) continue;
        w.dim[w.n] = v[0]->dim[i];
        for (int k = 0; k < 4; k++) w.step[k][w.n] = v[k] ? ssd_value_stride(v[k], x) : 0;
        w.n++;
    }
    return w;
}

static bool walk_empty(const Walk *w) {
    for (int i = 0; i < w->n; i++)
        if (!w->dim[i]) return true;
    return false;
}

static bool walk_next(Walk *w) {
    for (int i = w->n - 1; i >= 0; i--) {
        bool more = ++w->idx[i] < w->dim[i];
        i64 by = more ? 1 : -(w->dim[i] - 1);
        for (int k = 0; k < 4; k++) w->off[k] += by * w->step[k][i];
        if (more) return true;
        w->idx[i] = 0;
    }
    return false;
}

#define EACH(w) for (bool go_ = !walk_empty(&(w)); go_; go_ = walk_next(&(w)))

static int place_of(const Value *v, AxisId x) {
    for (int i = 0; i < v->n; i++)
        if (v->ax[i] == x && x) return i;
    return -1;
}

// The sequences a value with these axes has: all, or one when a plain graph's value lacks the batch
// axis.
const Seq *ssd_run_seqs(const Run *r, bool has_batch, i64 *n) {
    bool all = r->g->packed || has_batch;
    *n = all ? r->nseq : 1;
    return all ? r->seq : &r->one;
}

// --- Ops ----------------------------------------------------------------------------------------

static void run_fn(const Node *n, Value *out, const Value *const a[3]) {
    const Value *v[4] = {out, a[0], a[1], a[2]};
    AxisId last = out->n ? out->ax[out->n - 1] : 0;
    i64 count = out->n ? out->dim[out->n - 1] : 1, step[3] = {0};
    for (int k = 0; k < 3; k++) step[k] = a[k] ? ssd_value_stride(a[k], last) : 0;
    Walk w = walk_over(v, last, last);
    EACH(w) {
        double *o = out->v + w.off[0];
        for (i64 i = 0; i < count; i++) {
            double x = a[0]->v[w.off[1] + i * step[0]];
            double y = a[1] ? a[1]->v[w.off[2] + i * step[1]] : 0;
            double z = a[2] ? a[2]->v[w.off[3] + i * step[2]] : 0;
            o[i] = ssd_fn_eval((FnCode)n->fn, x, y, z);
        }
    }
}

static void run_reduce(const Run *r, const Node *n, Value *out, const Value *a) {
    Walk w = walk_over((const Value *[4]){out, a}, 0, 0);
    i64 step = ssd_value_stride(a, n->a0), count = r->size[n->a0];
    EACH(w) {
        const double *x = a->v + w.off[1];
        double s = n->op == OP_SUM ? 0 : -INFINITY;
        for (i64 i = 0; i < count; i++, x += step)
            s = n->op == OP_SUM ? s + *x : isnan(*x) || *x > s ? *x : s;
        out->v[w.off[0]] = s;
    }
}

// out = a, where axis `to` of out runs over `from`.. of a's axis x. Serves cat, slice and cast.
static void copy_part(Value *out, i64 out_at, const Value *a, AxisId x, AxisId to, i64 from,
                      i64 count) {
    Walk w = walk_over((const Value *[4]){out, a}, to, to);
    i64 so = ssd_value_stride(out, to), sa = ssd_value_stride(a, x);
    EACH(w)
    for (i64 i = 0; i < count; i++)
        out->v[w.off[0] + (out_at + i) * so] = a->v[w.off[1] + (from + i) * sa];
}

// Rounds to a float of `bits` significant bits, least exponent emin, greatest value `most`.
static double round_to(double x, int bits, int emin, double most) {
    if (x == 0 || !isfinite(x)) return x;
    double unit = ldexp(1, MAX(ilogb(x), emin) - (bits - 1)), y = rint(x / unit) * unit;
    return fabs(y) > most ? copysign(INFINITY, y) : y;
}

static void run_cast(const Node *n, Value *out, const Value *a) {
    Walk w = walk_over((const Value *[4]){out, a}, 0, 0);
    EACH(w) {
        double x = a->v[w.off[1]];
        if (n->dtype == SSD_BF16) x = round_to(x, 8, -126, 0x1.fep127);
        if (n->dtype == SSD_F16) x = round_to(x, 11, -14, 65504);
        out->v[w.off[0]] = x; // f32 stands for the real number
    }
}

static void run_heads(const Run *r, const Node *n, Value *out, const Value *a) {
    Walk w = walk_over((const Value *[4]){out, a}, 0, 0);
    int at = place_of(out, n->a1);
    i64 step = ssd_value_stride(a, n->a0);
    i64 share =
        n->op == OP_SPREAD ? r->size[n->a1] / r->size[n->a0] : r->size[n->a0] / r->size[n->a1];
    EACH(w) {
        i64 i = w.idx[at];
        const double *x = a->v + w.off[1];
        double s = 0;
        if (n->op == OP_SPREAD)
            s = x[i / share * step];
        else
            for (i64 j = 0; j < share; j++) s += x[(i * share + j) * step];
        out->v[w.off[0]] = s;
    }
}

static void run_swap(const Run *r, const Node *n, Value *out, const Value *a) {
    Walk w = walk_over((const Value *[4]){out, a}, 0, 0);
    int at = place_of(out, n->a0);
    i64 step = ssd_value_stride(a, n->a0), half = r->size[n->a0] / 2;
    EACH(w) {
        i64 i = w.idx[at];
        bool first = n->flags ? i < half : i % 2 == 0;
        i64 by = (n->flags ? half : 1) * (first ? 1 : -1);
        double x = a->v[w.off[1] + by * step];
        out->v[w.off[0]] = first ? -x : x;
    }
}

static void run_index(const Run *r, const Node *n, Value *out) {
    bool time = n->a0 == r->t;
    if (!out->n) {
        out->v[0] = n->op == OP_SIZE ? (double)r->size[n->a0] : 0;
        return;
    }
    if (!time || !r->g->packed) {
        for (i64 i = 0; i < out->dim[0]; i++) out->v[i] = (double)i;
        return;
    }
    for (i64 s = 0; s < r->nseq; s++)
        for (i64 i = 0; i < r->seq[s].len; i++)
            out->v[r->seq[s].lo + i] = (double)(n->op == OP_INDEX ? i : r->seq[s].len);
}

// The row of a state for a sequence: s of a packed graph, b of a plain one.
static i64 state_stride(const Run *r, const Value *v) {
    return ssd_value_stride(v, r->g->packed ? r->s : r->b);
}

// out_t = a_{t-k}, from the window where t < k; final = the k values before the sequence's end.
static void run_shift(const Run *r, const Node *n, Value *out, Value *fin, const Value *a,
                      const Value *w0) {
    i64 k = n->k, nseq;
    const Seq *seq = ssd_run_seqs(r, place_of(out, r->b) >= 0, &nseq);
    i64 so = ssd_value_stride(out, r->t), sa = ssd_value_stride(a, r->t);
    i64 sw = w0 ? ssd_value_stride(w0, n->a1) : 0, sf = fin ? ssd_value_stride(fin, n->a1) : 0;
    for (i64 s = 0; s < nseq; s++) {
        Seq q = seq[s];
        Walk w = walk_over((const Value *[4]){out, a, w0, fin}, r->b, r->t);
        EACH(w) {
            double *o = out->v + w.off[0] + q.b * ssd_value_stride(out, r->b) + q.lo * so;
            const double *x = a->v + w.off[1] + q.b * ssd_value_stride(a, r->b) + q.lo * sa;
            const double *old = w0 ? w0->v + w.off[2] + q.s * state_stride(r, w0) : NULL;
            for (i64 t = 0; t < q.len; t++)
                o[t * so] = t >= k ? x[(t - k) * sa] : old ? old[t * sw] : 0;
            if (!fin) continue;
            double *f = fin->v + w.off[3] + q.s * state_stride(r, fin);
            for (i64 i = 0; i < k; i++) {
                i64 t = q.len + i; // counted from the window's oldest
                f[i * sf] = t >= k ? x[(t - k) * sa] : old ? old[t * sw] : 0;
            }
        }
    }
}

static void run_scan(const Run *r, const Node *n, Value *out, Value *fin, const Value *a,
                     const Value *init) {
    i64 nseq;
    const Seq *seq = ssd_run_seqs(r, place_of(out, r->b) >= 0, &nseq);
    i64 so = ssd_value_stride(out, r->t), sa = ssd_value_stride(a, r->t);
    for (i64 s = 0; s < nseq; s++) {
        Seq q = seq[s];
        Walk w = walk_over((const Value *[4]){out, a, init, fin}, r->b, r->t);
        EACH(w) {
            double *o = out->v + w.off[0] + q.b * ssd_value_stride(out, r->b) + q.lo * so;
            const double *x = a->v + w.off[1] + q.b * ssd_value_stride(a, r->b) + q.lo * sa;
            double c = n->flags ? -INFINITY : 0;
            if (init) c = init->v[w.off[2] + q.s * state_stride(r, init)];
            for (i64 t = 0; t < q.len; t++) {
                double v = x[t * sa];
                c = !n->flags ? c + v : isnan(v) || v > c ? v : c;
                o[t * so] = c;
            }
            if (fin) fin->v[w.off[3] + q.s * state_stride(r, fin)] = c;
        }
    }
}

static void run_cat(const Run *r, const Node *n, Value *out) {
    i64 at = 0;
    for (size_t i = 0; i < COUNTOF(n->arg) && n->arg[i]; i++) {
        bool wide = n->a0 && ssd_graph_has_axis(r->g, n->arg[i], n->a0);
        i64 count = wide ? r->size[n->a0] : 1;
        copy_part(out, at, &r->val[n->arg[i]], n->a0, n->a1, 0, count);
        at += count;
    }
}

static bool run_node(Run *r, Ref ref) {
    const Graph *g = r->g;
    const Node *n = &g->nodes.v[ref];
    Value *out = &r->val[ref];
    const Value *a[5];
    for (int i = 0; i < 5; i++) a[i] = n->arg[i] ? &r->val[n->arg[i]] : NULL;
    if (n->op == OP_IN || n->op == OP_FINAL) return true; // bound; filled together with its operand
    if (!new_value(r, out, n->ax, n->naxes)) return false;
    Value *fin = r->final_of[ref] ? &r->val[r->final_of[ref]] : NULL;
    if (fin) {
        const Node *f = &g->nodes.v[r->final_of[ref]];
        if (!new_value(r, fin, f->ax, f->naxes)) return false;
    }
    switch ((OpCode)n->op) {
    case OP_CONST: out->v[0] = n->val; break;
    case OP_INDEX:
    case OP_SIZE: run_index(r, n, out); break;
    case OP_FN: run_fn(n, out, a); break;
    case OP_CAST: run_cast(n, out, a[0]); break;
    case OP_SUM:
    case OP_AMAX: run_reduce(r, n, out, a[0]); break;
    case OP_CAT: run_cat(r, n, out); break;
    case OP_SLICE: copy_part(out, 0, a[0], n->a0, n->a1, n->k, n->a1 ? r->size[n->a1] : 1); break;
    case OP_SPREAD:
    case OP_FOLD: run_heads(r, n, out, a[0]); break;
    case OP_SWAP: run_swap(r, n, out, a[0]); break;
    case OP_SHIFT: run_shift(r, n, out, fin, a[0], a[1]); break;
    case OP_SCAN: run_scan(r, n, out, fin, a[0], a[1]); break;
    case OP_SSD: ssd_run_ssd(r, ref, out, fin); break;
    case OP_IN:
    case OP_FINAL:
    case OP__COUNT: break;
    }
    return true;
}

// --- Inputs -------------------------------------------------------------------------------------

static const NamedArray *find_input(const NamedArray *in, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(in[i].name, name)) return &in[i];
    return NULL;
}

// A given input, its dims checked against sizes known so far; run-time sizes are learnt from it.
static bool bind(Run *r, Ref ref, const NamedArray *x) {
    const Node *n = &r->g->nodes.v[ref];
    Value *v = &r->val[ref];
    v->n = 0;
    for (int i = 0; i < n->naxes; i++)
        if (!(r->g->step && n->ax[i] == r->t)) v->ax[v->n++] = n->ax[i];
    if (x->a.rank != v->n)
        return fail(r, "input '%s' has rank %d; expected %d", x->name, x->a.rank, v->n);
    for (int i = 0; i < v->n; i++) {
        const Axis *ax = &r->g->axes.v[v->ax[i]];
        i64 *size = &r->size[v->ax[i]], dim = x->a.dims[i];
        if (*size < 0 && dim >= 0) *size = dim;
        if (*size != dim)
            return fail(r, "input '%s' has %lld elements along %s; expected %lld", x->name,
                        (long long)dim, ax->name, (long long)*size);
        v->dim[i] = dim;
    }
    set_strides(v);
    v->v = x->a.v;
    return true;
}

// An input left out: its default, or a state that starts at zero. Rank 0 broadcasts to any axes.
static bool bind_absent(Run *r, Ref ref) {
    const Node *n = &r->g->nodes.v[ref];
    bool state = false;
    for (u32 i = 0; i < r->g->states.n; i++) state |= r->g->states.v[i].init == ref;
    if (!n->has_default && !state) return fail(r, "input '%s' is missing", r->g->names.v[n->name]);
    Value *v = &r->val[ref];
    v->n = 0;
    v->v = NEW(r->arena, double);
    v->v[0] = n->has_default ? n->dflt : 0;
    return true;
}

static bool bind_inputs(Run *r, const NamedArray *in, int n_in) {
    for (int i = 0; i < n_in; i++) {
        bool known = r->g->packed && !strcmp(in[i].name, "cu_seqlens");
        for (u32 k = 0; k < r->g->ins.n; k++)
            known |= !strcmp(r->g->names.v[r->g->nodes.v[r->g->ins.v[k]].name], in[i].name);
        if (!known) return fail(r, "there is no input '%s'", in[i].name);
        if (find_input(in, i, in[i].name)) return fail(r, "input '%s' twice", in[i].name);
        if (in[i].a.rank < 0 || in[i].a.rank > 8) return fail(r, "rank of '%s'", in[i].name);
    }
    for (Ref ref = 1; ref < r->g->nodes.n; ref++) {
        const Node *n = &r->g->nodes.v[ref];
        if (n->op != OP_IN) continue;
        const NamedArray *x = find_input(in, n_in, r->g->names.v[n->name]);
        if (x ? !bind(r, ref, x) : !bind_absent(r, ref)) return false;
    }
    return true;
}

// --- Sequences ----------------------------------------------------------------------------------

static bool bind_packed(Run *r, const NamedArray *cu) {
    if (!cu) return fail(r, "input 'cu_seqlens' is missing");
    if (cu->a.rank != 1 || cu->a.dims[0] < 1) return fail(r, "'cu_seqlens' is not i32[s+1]");
    i64 *s = &r->size[r->s], *t = &r->size[r->t];
    r->nseq = cu->a.dims[0] - 1;
    if (*s < 0) *s = r->nseq;
    if (*s != r->nseq)
        return fail(r, "'cu_seqlens' has %lld elements; expected %lld", (long long)r->nseq + 1,
                    (long long)*s + 1);
    if (*t < 0) *t = (i64)cu->a.v[r->nseq];
    r->seq = NEWN(r->arena, Seq, r->nseq + 1);
    i64 at = 0;
    for (i64 i = 0; i <= r->nseq; i++) {
        double v = cu->a.v[i];
        if (!(v >= (double)at && v <= (double)*t) || v != floor(v) || (!i && v != 0) ||
            (i == r->nseq && v != (double)*t))
            return fail(r, "cu_seqlens[%lld] is %g; it must rise from 0 to t = %lld", (long long)i,
                        v, (long long)*t);
        if (i) r->seq[i - 1] = (Seq){.lo = at, .len = (i64)v - at, .b = 0, .s = i - 1};
        at = (i64)v;
    }
    if (r->b && r->size[r->b] != 1) return fail(r, "packed sequences need a batch of 1");
    return true;
}

static bool bind_sequences(Run *r, const NamedArray *in, int n_in, const InterpOptions *opt) {
    if (r->b && r->size[r->b] < 0) r->size[r->b] = r->g->packed ? 1 : opt->b;
    if (r->g->packed) {
        if (!r->s || !r->t) return fail(r, "a packed graph needs axes of kind seq and time");
        if (!bind_packed(r, find_input(in, n_in, "cu_seqlens"))) return false;
    } else {
        if (r->t && r->size[r->t] < 0) r->size[r->t] = opt->t;
        i64 len = r->g->step ? 1 : r->t ? r->size[r->t] : 0;
        r->one = (Seq){.len = len};
        r->nseq = r->b ? r->size[r->b] : 1;
        if (r->nseq < 0 || len < 0) return fail(r, "b and t must not be negative");
        r->seq = NEWN(r->arena, Seq, r->nseq);
        for (i64 i = 0; i < r->nseq; i++) r->seq[i] = (Seq){.len = len, .b = i, .s = i};
    }
    for (u32 i = 1; i < r->g->axes.n; i++)
        if (r->size[i] < 0) return fail(r, "the size of axis %s is unknown", r->g->axes.v[i].name);
    return true;
}

// --- The whole ----------------------------------------------------------------------------------

static void mark(const Graph *g, bool *live) {
    for (u32 i = 0; i < g->outs.n; i++) live[g->outs.v[i].ref] = true;
    for (Ref r = g->nodes.n - 1; r > 0; r--)
        if (live[r])
            for (int i = 0; i < 5; i++) live[g->nodes.v[r].arg[i]] = true;
}

static bool run(Run *r, Arena *arena, const NamedArray *in, int n_in, const InterpOptions *opt,
                NamedArray *out) {
    const Graph *g = r->g;
    r->val = NEWN(r->arena, Value, g->nodes.n);
    r->final_of = NEWN(r->arena, Ref, g->nodes.n);
    r->b = ssd_graph_axis_of_kind(g, AX_BATCH);
    r->t = ssd_graph_axis_of_kind(g, AX_TIME);
    r->s = ssd_graph_axis_of_kind(g, AX_SEQ);
    r->meaning = opt->meaning;
    for (u32 i = 1; i < g->axes.n; i++) r->size[i] = g->axes.v[i].size;
    if (g->step && r->t) r->size[r->t] = 1;
    if (!bind_inputs(r, in, n_in) || !bind_sequences(r, in, n_in, opt)) return false;
    bool *live = NEWN(r->arena, bool, g->nodes.n);
    mark(g, live);
    for (Ref i = 1; i < g->nodes.n; i++)
        if (live[i] && g->nodes.v[i].op == OP_FINAL) r->final_of[g->nodes.v[i].arg[0]] = i;
    for (Ref i = 1; i < g->nodes.n; i++)
        if (live[i] && !run_node(r, i)) return false;
    for (u32 i = 0; i < g->outs.n; i++) {
        const GraphOut *o = &g->outs.v[i];
        Value v;
        Arena *mine = r->arena;
        r->arena = arena;
        bool made = new_value(r, &v, o->ax, o->naxes);
        r->arena = mine;
        if (!made) return false;
        copy_part(&v, 0, &r->val[o->ref], 0, 0, 0, 1);
        out[i] = (NamedArray){.name = o->name, .a = {.rank = v.n, .v = v.v}};
        for (int k = 0; k < v.n; k++) out[i].a.dims[k] = v.dim[k];
    }
    return true;
}

bool ssd_graph_interp(const Graph *g, Arena *arena, const NamedArray *in, int n_in,
                      const InterpOptions *opt, NamedArray *out, Text *why) {
    static const InterpOptions plain = {.b = 1, .t = 1};
    Arena temp = {0};
    jmp_buf oom, *outer = arena->oom;
    volatile bool ok = false;
    if (setjmp(oom)) {
        ssd_text_printf(why, "out of memory");
    } else {
        temp.oom = arena->oom = &oom;
        Run *r = NEW(&temp, Run);
        *r = (Run){.g = g, .arena = &temp, .why = why};
        ok = run(r, arena, in, n_in, opt ? opt : &plain, out);
    }
    arena->oom = outer;
    ssd_arena_free(&temp);
    return ok;
}
