// SPDX-License-Identifier: Apache-2.0
// Runs tile programs in double: what T0 and T1 mean, without any target.
//
// A kernel is first compiled: every op becomes a Step and every expression a Code, a postfix
// program over rows. A row is the last axis of the op's index box; the other axes are walked
// outside, so the inner loops are plain loops over doubles.
//
// Each value has a dense array here. A value that lies in a buffer (T1) is scattered to its cells
// when it is defined and gathered back at each use. A cell knows which definition wrote it last, so
// reading a value whose storage was overwritten is an error at the reading op, as is an op that
// overwrites an operand it is still reading.
#include "tile_run.h"

#define fail ssd_run_fail

void ssd_run_fail(Interp *m, const char *fmt, ...) {
    va_list ap;
    if (m->kernel) ssd_text_printf(m->why, "kernel %s: ", m->kernel);
    if (m->op && m->op->line) ssd_text_printf(m->why, "line %d: ", m->op->line);
    va_start(ap, fmt);
    ssd_text_vprintf(m->why, fmt, ap);
    va_end(ap);
    if (m->op) {
        ssd_text_printf(m->why, " in `");
        ssd_tile_op_print(m->p, m->op, m->why);
        ssd_text_printf(m->why, "`");
    }
    longjmp(m->out, 1);
}

// --- Walks --------------------------------------------------------------------------------------
static void move(double *to, const double *from, Walk w) {
    do to[w.off[0]] = from[w.off[1]];
    while (walk_next(&w));
}

// --- Rounding -----------------------------------------------------------------------------------
// To a float of `bits` significant bits, least exponent emin (of 1.0 x 2^emin) and greatest value
// max.
static double round_bits(double x, int bits, int emin, double max) {
    if (x == 0 || !isfinite(x)) return x;
    int e = ilogb(x);
    double ulp = ldexp(1, MAX(e, emin) - bits + 1), r = nearbyint(x / ulp) * ulp;
    return fabs(r) > max ? copysign(INFINITY, x) : r;
}
static double round_to(double x, u8 dtype) {
    switch (dtype) {
    case SSD_F32: return (float)x;
    case SSD_BF16: return round_bits((float)x, 8, -126, 0x1.fep127);
    case SSD_F16: return round_bits((float)x, 11, -14, 65504);
    default: return x;
    }
}

double ssd_run_round(const Interp *m, double x, u8 dtype) {
    return m->run->round ? round_to(x, dtype) : x;
}

// --- Buffers (T1) -------------------------------------------------------------------------------
static Walk cells_of(const Interp *m, Val v, i64 *out_per) {
    const TVal *t = tv(m, v);
    const Slot *s = &m->slot[v], *b = &m->slot[t->lay.buf];
    i64 per = (i64)ssd_dtype_size((ssd_dtype)t->dtype) / b->grain;
    Walk w = {.off = {s->base * per}};
    for (int i = 0; i < t->naxes; i++)
        for (int k = 0; k < t->lay.naxes; k++)
            if (t->lay.ax[k] == t->ax[i])
                walk_add(&w, axis_size(m, t->ax[i]), t->lay.stride[k] * per, s->stride[i], 0);
    *out_per = per;
    return w;
}

static bool in_buffer(const Interp *m, Val v) { return v && tv(m, v)->lay.buf; }

static void in_range(Interp *m, Val v, i64 cell, i64 per) {
    const Slot *b = &m->slot[tv(m, v)->lay.buf];
    if (cell < 0 || cell + per > b->cells)
        fail(m, "`%s` reaches outside its buffer `%s`", name(m, v), name(m, tv(m, v)->lay.buf));
}

// Brings a value's elements from its buffer into its dense array.
static void fetch(Interp *m, Val v) {
    if (m->timed && v) {
        ssd_timed_gather(m, v);
        return;
    }
    if (!in_buffer(m, v)) return;
    Slot *s = &m->slot[v], *b = &m->slot[tv(m, v)->lay.buf];
    u64 want = (u64)s->writer << 32 | s->version;
    i64 per;
    Walk w = cells_of(m, v, &per);
    do {
        in_range(m, v, w.off[0], per);
        for (i64 k = 0; k < per; k++) {
            u64 tag = b->tag[w.off[0] + k];
            if (tag == want) continue;
            const char *by = tag ? name(m, (Val)(tag >> 32)) : NULL;
            if (by) fail(m, "`%s` was overwritten by `%s`", name(m, v), by);
            fail(m, "`%s` is read where it was not written", name(m, v));
        }
        s->d[w.off[1]] = b->cell[w.off[0]];
    } while (walk_next(&w));
}

static bool same_place(const Interp *m, Val a, Val b) {
    const TVal *x = tv(m, a), *y = tv(m, b);
    if (x->lay.buf != y->lay.buf || x->dtype != y->dtype || x->naxes != y->naxes ||
        m->slot[a].base != m->slot[b].base)
        return false;
    for (int i = 0; i < x->lay.naxes; i++) {
        bool found = false;
        for (int k = 0; k < y->lay.naxes; k++)
            found |= x->lay.ax[i] == y->lay.ax[k] && x->lay.stride[i] == y->lay.stride[k];
        if (!found) return false;
    }
    return true;
}

static bool overlap(Interp *m, Val a, Val b) {
    Slot *buf = &m->slot[tv(m, a)->lay.buf];
    Val v[2] = {a, b};
    i64 first[2], last[2], per[2];
    for (int k = 0; k < 2; k++) {
        Walk w = cells_of(m, v[k], &per[k]);
        first[k] = last[k] = w.off[0];
        for (int d = 0; d < w.n; d++) last[k] += w.st[0][d] * (w.size[d] - 1);
        last[k] += per[k] - 1;
        in_range(m, v[k], first[k], last[k] - first[k] + 1);
    }
    if (last[0] < first[1] || last[1] < first[0]) return false;
    buf->stamp++;
    Walk wb = cells_of(m, b, &per[1]), wa = cells_of(m, a, &per[0]);
    do
        for (i64 k = 0; k < per[1]; k++) buf->mark[wb.off[0] + k] = buf->stamp;
    while (walk_next(&wb));
    do
        for (i64 k = 0; k < per[0]; k++)
            if (buf->mark[wa.off[0] + k] == buf->stamp) return true;
    while (walk_next(&wa));
    return false;
}

// Rounds a value just computed and writes it to its buffer. `reads` are the operands: writing over
// one is an error, unless it lies in exactly the same place and its bit in `may` is set.
static void commit(Interp *m, Val v, const Val *reads, int nreads, u64 may) {
    const TVal *t = tv(m, v);
    Slot *s = &m->slot[v];
    if (m->run->round)
        for (i64 i = 0; i < s->n; i++) s->d[i] = round_to(s->d[i], t->dtype);
    s->version = ++m->clock;
    s->writer = v;
    if (m->timed) {
        ssd_timed_commit(m, v);
        return;
    }
    if (!in_buffer(m, v)) return;
    s->base = t->lay.offset;
    for (int r = 0; r < nreads; r++) {
        if (!in_buffer(m, reads[r]) || tv(m, reads[r])->lay.buf != t->lay.buf) continue;
        if ((may >> r & 1) && same_place(m, v, reads[r])) continue;
        if (overlap(m, v, reads[r]))
            fail(m, "`%s` overwrites its operand `%s`", name(m, v), name(m, reads[r]));
    }
    Slot *b = &m->slot[t->lay.buf];
    u64 tag = (u64)v << 32 | s->version;
    i64 per;
    Walk w = cells_of(m, v, &per);
    do {
        in_range(m, v, w.off[0], per);
        b->cell[w.off[0]] = s->d[w.off[1]];
        for (i64 k = 0; k < per; k++) b->tag[w.off[0] + k] = tag;
    } while (walk_next(&w));
}

// --- Expressions to postfix ---------------------------------------------------------------------
typedef struct Compiler {
    Interp *m;
    VEC(Ins) ins;
    VEC(Val) uses;
    const u8 *box;
    int nbox, depth, deepest;
} Compiler;

static void emit(Compiler *c, Ins in) {
    vec_push(c->m->a, &c->ins, in);
    c->depth += 1 - in.n;
    c->deepest = MAX(c->deepest, c->depth);
}

static void compile(Compiler *c, Ex e) {
    Interp *m = c->m;
    const Expr *x = &m->p->exs.v[e];
    switch ((ExKind)x->kind) {
    case EX_NUM: emit(c, (Ins){.kind = I_NUM, .num = x->num}); break;
    case EX_SYM: emit(c, (Ins){.kind = I_NUM, .num = (double)m->run->sym[x->sym]}); break;
    case EX_VAL: {
        Ins in = {.kind = I_VAL, .val = x->val};
        for (int i = 0; i < c->nbox; i++) in.stride[i] = stride_of(m, x->val, c->box[i]);
        emit(c, in);
        vec_push(m->a, &c->uses, x->val);
        break;
    }
    case EX_AXIS:
        for (int i = 0; i < c->nbox; i++)
            if (c->box[i] == x->axis) emit(c, (Ins){.kind = I_AXIS, .dim = i});
        break;
    case EX_LOAD:
        for (int i = 0; i < x->nidx; i++) compile(c, x->idx[i]);
        emit(c, (Ins){.kind = I_LOAD, .tensor = x->tensor, .n = x->nidx});
        break;
    case EX_FN: {
        u8 n = ssd_fns[x->fn].arity;
        for (int i = 0; i < n; i++) compile(c, x->arg[i]);
        emit(c, (Ins){.kind = I_FN, .fn = x->fn, .n = n});
        break;
    }
    }
}

static Code *code(Interp *m, Ex e, const u8 *box, int nbox) {
    if (!e) return NULL;
    Compiler c = {.m = m, .box = box, .nbox = nbox};
    compile(&c, e);
    Code *k = NEW(m->a, Code);
    k->ins = c.ins.v, k->n = (int)c.ins.n, k->uses = c.uses.v, k->nuses = (int)c.uses.n;
    k->nbox = nbox;
    k->lanes = k->rows = 1;
    for (int i = 0; i < nbox; i++) {
        k->size[i] = axis_size(m, box[i]);
        if (i < nbox - 1)
            k->rows *= k->size[i];
        else
            k->lanes = k->size[i];
    }
    k->stack = NEWN(m->a, Row, c.deepest);
    k->scratch = NEWN(m->a, double, c.deepest * k->lanes);
    return k;
}

static i64 lane_count(i64 lanes, const Row *r, int n) {
    for (int i = 0; i < n; i++)
        if (r[i].s) return lanes;
    return 1;
}

static void apply(FnCode f, i64 n, double *out, const Row *r, int arity) {
    const double *a = r[0].p, *b = arity > 1 ? r[1].p : a, *c = arity > 2 ? r[2].p : a;
    i64 sa = r[0].s, sb = arity > 1 ? r[1].s : 0, sc = arity > 2 ? r[2].s : 0;
    switch (f) {
#define FN(id, text, args, kind, meaning)                                                          \
    case FN_##id:                                                                                  \
        for (i64 i = 0; i < n; i++) {                                                              \
            double x = a[i * sa], y = b[i * sb], z = c[i * sc];                                    \
            (void)y, (void)z;                                                                      \
            out[i] = (double)(meaning);                                                            \
        }                                                                                          \
        break;
#include "fns.def"
    case FN__COUNT: break;
    }
}

// The element an index list names, or -1 when it is out of range.
i64 ssd_run_element(const Array *t, const Row *idx, i64 lane) {
    i64 at = 0;
    for (int d = 0; d < t->rank; d++) {
        double i = idx[d].p[lane * idx[d].s];
        if (!(i >= 0 && i < (double)t->dims[d])) return -1;
        at = at * t->dims[d] + (i64)i;
    }
    return at;
}

// One row of an expression, at the box's outer coordinates pos.
Row ssd_run_eval(Interp *m, Code *c, const i64 *pos) {
    int top = 0;
    for (int i = 0; i < c->n; i++) {
        const Ins *in = &c->ins[i];
        top -= in->n;
        double *out = c->scratch + top * c->lanes;
        Row r = {out, 0}, *arg = c->stack + top;
        double one[8]; // operands that are one for all lanes leave `out`, which may be theirs
        for (int k = 0; k < in->n; k++)
            if (!arg[k].s) one[k] = *arg[k].p, arg[k].p = &one[k];
        switch ((InsKind)in->kind) {
        case I_NUM: r.p = &in->num; break;
        case I_VAL: {
            r.p = m->slot[in->val].d;
            for (int d = 0; d < c->nbox - 1; d++) r.p += pos[d] * in->stride[d];
            r.s = c->nbox ? in->stride[c->nbox - 1] : 0;
            break;
        }
        case I_AXIS:
            if (in->dim == c->nbox - 1) {
                for (i64 l = 0; l < c->lanes; l++) out[l] = (double)l;
                r.s = 1;
            } else {
                out[0] = (double)pos[in->dim];
            }
            break;
        case I_LOAD: {
            const Array *t = &m->tensor[in->tensor];
            i64 n = lane_count(c->lanes, arg, in->n);
            for (i64 l = 0; l < n; l++) {
                i64 k = ssd_run_element(t, arg, l);
                out[l] = k < 0 ? 0 : t->v[k];
            }
            r.s = n > 1;
            break;
        }
        case I_FN: {
            i64 n = lane_count(c->lanes, arg, in->n);
            apply((FnCode)in->fn, n, out, arg, in->n);
            r.s = n > 1;
            break;
        }
        }
        c->stack[top++] = r;
    }
    return c->stack[0];
}

void ssd_run_uses(Interp *m, const Code *c) {
    if (c)
        for (int i = 0; i < c->nuses; i++) fetch(m, c->uses[i]);
}
double ssd_run_scalar(Interp *m, Code *c) {
    ssd_run_uses(m, c);
    return ssd_run_eval(m, c, NULL).p[0];
}
i64 ssd_run_index(Interp *m, Code *c, u8 axis) {
    double i = ssd_run_scalar(m, c);
    if (!(i >= 0 && i < (double)axis_size(m, axis)))
        fail(m, "index %g is outside axis %s of %lld", i, m->p->axes.v[axis].name,
             (long long)axis_size(m, axis));
    return (i64)i;
}

// Outer coordinates of a box, row by row.
bool ssd_run_next_row(const i64 *size, int nbox, i64 *pos) {
    for (int d = nbox - 2; d >= 0; d--) {
        if (++pos[d] < size[d]) return true;
        pos[d] = 0;
    }
    return false;
}

// --- Ops ----------------------------------------------------------------------------------------
static double *dense(Interp *m, Val v) { return m->slot[v].d; }

static void access(Interp *m, Step *s) {
    const TOp *o = s->op;
    bool load = o->op == TOP_LOAD;
    Array *t = &m->tensor[o->tensor];
    u8 dtype = m->p->tensors.v[o->tensor].dtype;
    i64 size[8], pos[8] = {0}, lanes = 1;
    for (int i = 0; i < s->nbox; i++) size[i] = lanes = axis_size(m, s->box[i]);
    for (int i = 0; i < o->nidx; i++) ssd_run_uses(m, s->idx[i]);
    ssd_run_uses(m, s->when);
    ssd_run_uses(m, s->e);
    double *out = load ? dense(m, o->out) : NULL;
    do {
        Row idx[8], on = {0}, e = {0};
        for (int i = 0; i < o->nidx; i++) idx[i] = ssd_run_eval(m, s->idx[i], pos);
        if (s->when) on = ssd_run_eval(m, s->when, pos);
        if (!load) e = ssd_run_eval(m, s->e, pos);
        for (i64 l = 0; l < lanes; l++) {
            i64 k = ssd_run_element(t, idx, l);
            bool yes = k >= 0 && (!s->when || on.p[l * on.s] != 0);
            if (load)
                *out++ = yes ? t->v[k] : 0;
            else if (yes)
                t->v[k] = m->run->round ? round_to(e.p[l * e.s], dtype) : e.p[l * e.s];
        }
    } while (ssd_run_next_row(size, s->nbox, pos));
    if (load) commit(m, o->out, NULL, 0, 0);
}

static void map(Interp *m, Step *s) {
    i64 pos[8] = {0};
    ssd_run_uses(m, s->e);
    double *out = dense(m, s->op->out);
    do {
        Row r = ssd_run_eval(m, s->e, pos);
        for (i64 l = 0; l < s->e->lanes; l++) *out++ = r.p[l * r.s];
    } while (ssd_run_next_row(s->e->size, s->nbox, pos));
    commit(m, s->op->out, s->e->uses, s->e->nuses, ~0ull);
}

static void reduce(Interp *m, Step *s) {
    i64 pos[8] = {0};
    bool max = s->op->flags & TF_MAX;
    ssd_run_uses(m, s->e);
    double *out = dense(m, s->op->out);
    do {
        Row r = ssd_run_eval(m, s->e, pos);
        double v = max ? r.p[0] : 0;
        for (i64 l = 0; l < s->e->lanes; l++)
            v = max ? ssd_fn_eval(FN_MAX, v, r.p[l * r.s], 0) : v + r.p[l * r.s];
        *out++ = v;
    } while (ssd_run_next_row(s->e->size, s->nbox, pos));
    commit(m, s->op->out, s->e->uses, s->e->nuses, 0);
}

static bool has_axis(const Interp *m, Val v, u8 x) {
    return memchr(tv(m, v)->ax, x, tv(m, v)->naxes) != NULL;
}

static void triangle(Interp *m, const TOp *o) {
    Walk w = {0};
    const TVal *t = tv(m, o->a);
    int row = 0, col = 0;
    for (int i = 0; i < t->naxes; i++) {
        walk_add(&w, axis_size(m, t->ax[i]), m->slot[o->a].stride[i], 0, 0);
        if (t->ax[i] == o->tri_row) row = i;
        if (t->ax[i] == o->tri_col) col = i;
    }
    const double *a = dense(m, o->a);
    do
        if (w.pos[row] < w.pos[col] && a[w.off[0]] != 0)
            fail(m, "`%s` is not zero above its diagonal", name(m, o->a));
    while (walk_next(&w));
}

static void mma(Interp *m, const TOp *o) {
    const TVal *t = tv(m, o->out);
    Val reads[3] = {o->a, o->b, o->c};
    for (int i = 0; i < 3; i++) fetch(m, reads[i]);
    if (o->tri_row) triangle(m, o);
    const double *a = dense(m, o->a), *b = dense(m, o->b), *c = o->c ? dense(m, o->c) : NULL;
    double *out = dense(m, o->out);
    Walk rows = {0}, inner = {0};
    i64 lanes = 1, la = 0, lb = 0, lc = 0;
    for (int i = 0; i < t->naxes; i++) {
        u8 x = t->ax[i];
        i64 sa = stride_of(m, o->a, x), sb = stride_of(m, o->b, x),
            sc = o->c ? stride_of(m, o->c, x) : 0;
        if (i < t->naxes - 1)
            walk_add(&rows, axis_size(m, x), sa, sb, sc);
        else
            lanes = axis_size(m, x), la = sa, lb = sb, lc = sc;
    }
    for (int i = 0; i < tv(m, o->a)->naxes; i++) {
        u8 x = tv(m, o->a)->ax[i];
        if (has_axis(m, o->b, x) && !has_axis(m, o->out, x))
            walk_add(&inner, axis_size(m, x), stride_of(m, o->a, x), stride_of(m, o->b, x), 0);
    }
    do {
        for (i64 l = 0; l < lanes; l++) out[l] = c ? c[rows.off[2] + l * lc] : 0;
        const double *ra = a + rows.off[0], *rb = b + rows.off[1];
        if (inner.n == 1 && la + lb != 1) { // the lane axis is not contiguous: dot products
            i64 ka = inner.st[0][0], kb = inner.st[1][0];
            for (i64 l = 0; l < lanes; l++)
                for (i64 k = 0; k < inner.size[0]; k++)
                    out[l] += ra[l * la + k * ka] * rb[l * lb + k * kb];
        } else {
            Walk k = inner;
            do {
                const double *pa = ra + k.off[0], *pb = rb + k.off[1];
                for (i64 l = 0; l < lanes; l++) out[l] += pa[l * la] * pb[l * lb];
            } while (walk_next(&k));
        }
        out += lanes;
    } while (walk_next(&rows));
    bool alone = o->c != o->a && o->c != o->b;
    commit(m, o->out, reads, 3, alone ? 4 : 0);
}

// out and a, along all axes of the result but x: off[0] and off[1].
static Walk beside(const Interp *m, const TOp *o, u8 x, u8 y) {
    Walk w = {0};
    const TVal *t = tv(m, o->out);
    for (int i = 0; i < t->naxes; i++)
        if (t->ax[i] != x && t->ax[i] != y)
            walk_add(&w, axis_size(m, t->ax[i]), m->slot[o->out].stride[i],
                     stride_of(m, o->a, t->ax[i]), 0);
    return w;
}

static void scan(Interp *m, const TOp *o) {
    u8 x = o->ax[0];
    i64 n = axis_size(m, x), so = stride_of(m, o->out, x), sa = stride_of(m, o->a, x);
    bool max = o->flags & TF_MAX, excl = o->flags & TF_EXCL, rev = o->flags & TF_REV;
    fetch(m, o->a);
    Walk w = beside(m, o, x, 0);
    do {
        double sum = max ? -INFINITY : 0;
        for (i64 k = 0; k < n; k++) {
            i64 i = rev ? n - 1 - k : k;
            double v = dense(m, o->a)[w.off[1] + i * sa], before = sum;
            sum = max ? ssd_fn_eval(FN_MAX, sum, v, 0) : sum + v;
            dense(m, o->out)[w.off[0] + i * so] = excl ? before : sum;
        }
    } while (walk_next(&w));
    commit(m, o->out, &o->a, 1, 1);
}

static void swap(Interp *m, const TOp *o) {
    u8 x = o->ax[0];
    i64 n = axis_size(m, x), so = stride_of(m, o->out, x), sa = stride_of(m, o->a, x);
    bool halves = o->flags & TF_HALVES;
    fetch(m, o->a);
    Walk w = beside(m, o, x, 0);
    do
        for (i64 k = 0; k < n / 2; k++) {
            i64 i0 = halves ? k : 2 * k, i1 = halves ? k + n / 2 : 2 * k + 1;
            double *out = dense(m, o->out) + w.off[0];
            const double *a = dense(m, o->a) + w.off[1];
            out[i0 * so] = -a[i1 * sa];
            out[i1 * so] = a[i0 * sa];
        }
    while (walk_next(&w));
    commit(m, o->out, &o->a, 1, 0);
}

// (I + a)^-1 by forward substitution, a row at a time.
static void inv(Interp *m, const TOp *o) {
    i64 n = axis_size(m, o->ax[0]), ai = stride_of(m, o->a, o->ax[0]),
        aj = stride_of(m, o->a, o->ax[1]);
    i64 oi = stride_of(m, o->out, o->ax[0]), oj = stride_of(m, o->out, o->ax[1]);
    fetch(m, o->a);
    Walk w = beside(m, o, o->ax[0], o->ax[1]);
    do {
        const double *a = dense(m, o->a) + w.off[1];
        double *out = dense(m, o->out) + w.off[0];
        for (i64 i = 0; i < n; i++)
            for (i64 j = 0; j < n; j++) {
                if (j >= i && a[i * ai + j * aj] != 0)
                    fail(m, "`%s` is not strictly lower", name(m, o->a));
                double v = i == j;
                for (i64 k = j; k < i; k++) v -= a[i * ai + k * aj] * out[k * oi + j * oj];
                out[i * oi + j * oj] = v;
            }
    } while (walk_next(&w));
    commit(m, o->out, &o->a, 1, 0);
}

static void put(Interp *m, Step *s) {
    const TOp *o = s->op;
    fetch(m, o->a), fetch(m, o->b);
    i64 off = ssd_run_index(m, s->e, o->ax[0]) * stride_of(m, o->out, o->ax[0]);
    if (s->e2) off += ssd_run_index(m, s->e2, o->ax[1]) * stride_of(m, o->out, o->ax[1]);
    move(dense(m, o->out), dense(m, o->a), beside(m, o, 0, 0));
    Walk w = {.off = {off}};
    const TVal *t = tv(m, o->b);
    for (int i = 0; i < t->naxes; i++)
        walk_add(&w, axis_size(m, t->ax[i]), stride_of(m, o->out, t->ax[i]),
                 m->slot[o->b].stride[i], 0);
    move(dense(m, o->out), dense(m, o->b), w);
    commit(m, o->out, (Val[]){o->a, o->b}, 2, o->a != o->b);
}

static void cat(Interp *m, const TOp *o) {
    u8 x = o->ax[0], r = o->ax[1], z = o->ax[2] ? o->ax[2] : x;
    i64 off = 0;
    for (int k = 0; k < 2; k++) {
        Val v = k ? o->b : o->a;
        u8 own = k ? z : x;
        fetch(m, v);
        Walk w = {.off = {off}};
        const TVal *t = tv(m, v);
        for (int i = 0; i < t->naxes; i++) {
            u8 to = t->ax[i] == own ? r : t->ax[i];
            walk_add(&w, axis_size(m, t->ax[i]), stride_of(m, o->out, to), m->slot[v].stride[i], 0);
        }
        move(dense(m, o->out), dense(m, v), w);
        off = axis_size(m, x) * stride_of(m, o->out, r);
    }
    commit(m, o->out, (Val[]){o->a, o->b}, 2, 0);
}

// at, rename, split, join, slice: the result's elements are the operand's under other indices.
static void reshape(Interp *m, Step *s) {
    const TOp *o = s->op;
    const u8 *ax = o->ax;
    const TVal *t = tv(m, o->a);
    if (m->timed && ssd_timed_is_view(m->p, o)) {
        ssd_timed_see(m, s);
        return;
    }
    bool view = ssd_tile_is_view(m->p, o);
    i64 at =
        s->e ? o->op == TOP_AT ? ssd_run_index(m, s->e, ax[0]) : (i64)ssd_run_scalar(m, s->e) : 0;
    if (view) {
        i64 lay = 0;
        for (int i = 0; i < t->lay.naxes; i++)
            if (t->lay.ax[i] == ax[0]) lay = t->lay.stride[i];
        Slot *v = &m->slot[o->out], *base = &m->slot[o->a];
        v->version = base->version, v->writer = base->writer;
        v->base = base->base + at * lay;
        return;
    }
    fetch(m, o->a);
    Walk w = {0};
    for (int i = 0; i < t->naxes; i++) {
        u8 x = t->ax[i];
        i64 size = axis_size(m, x), sa = m->slot[o->a].stride[i], so = stride_of(m, o->out, x);
        if (o->op == TOP_AT && x == ax[0]) {
            w.off[1] += at * sa;
            continue;
        }
        if (o->op == TOP_SLICE && x == ax[0]) {
            w.off[1] += at * sa;
            size = axis_size(m, ax[1]);
            so = stride_of(m, o->out, ax[1]);
        }
        if (o->op == TOP_RENAME && (x == ax[0] || x == ax[2]))
            so = stride_of(m, o->out, ax[x == ax[0] ? 1 : 3]);
        if (o->op == TOP_SPLIT && x == ax[0]) {
            i64 inner = axis_size(m, ax[2]);
            walk_add(&w, axis_size(m, ax[1]), stride_of(m, o->out, ax[1]), sa * inner, 0);
            size = inner;
            so = stride_of(m, o->out, ax[2]);
        }
        if (o->op == TOP_JOIN && x == ax[0]) so = stride_of(m, o->out, ax[2]) * axis_size(m, ax[1]);
        if (o->op == TOP_JOIN && x == ax[1]) so = stride_of(m, o->out, ax[2]);
        walk_add(&w, size, so, sa, 0);
    }
    move(dense(m, o->out), dense(m, o->a), w);
    commit(m, o->out, &o->a, 1, 0);
}

static void pick(Interp *m, Step *s) {
    const TOp *o = s->op;
    i64 size[8], pos[8] = {0}, sx = stride_of(m, o->a, o->ax[0]), lanes = s->e->lanes;
    for (int i = 0; i < s->nbox; i++) size[i] = axis_size(m, s->box[i]);
    fetch(m, o->a);
    ssd_run_uses(m, s->e);
    double *out = dense(m, o->out);
    do {
        Row r = ssd_run_eval(m, s->e, pos);
        for (i64 l = 0; l < lanes; l++) {
            double i = r.p[l * r.s];
            if (!(i >= 0 && i < (double)axis_size(m, o->ax[0])))
                fail(m, "index %g is out of range", i);
            i64 off = (i64)i * sx;
            for (int d = 0; d < s->nbox; d++) // the picked axis may come back from the index
                if (s->box[d] != o->ax[0])
                    off += (d < s->nbox - 1 ? pos[d] : l) * stride_of(m, o->a, s->box[d]);
            *out++ = dense(m, o->a)[off];
        }
    } while (ssd_run_next_row(size, s->nbox, pos));
    commit(m, o->out, &o->a, 1, 0);
}

static void make_buffer(Interp *m, const TOp *o) {
    Slot *b = &m->slot[o->out];
    i64 cells = o->bytes / b->grain;
    if (cells > b->cells) {
        b->cell = NEWN(m->a, double, cells);
        b->tag = NEWN(m->a, u64, cells);
        b->mark = NEWN(m->a, u32, cells);
    }
    b->cells = cells;
    if (cells) memset(b->tag, 0, (size_t)cells * sizeof *b->tag);
}

// Carries take their next values all at once: none may be overwritten before it is read.
void ssd_run_carry(Interp *m, const TOp *loop, Step *from) {
    Val reads[256];
    for (int i = 0; i < loop->ncarry; i++) {
        const Expr *x = &m->p->exs.v[from->op->init[i]];
        reads[i] = x->kind == EX_VAL ? x->val : 0;
        ssd_run_uses(m, from->init[i]);
    }
    for (int i = 0; i < loop->ncarry; i++) {
        Code *c = from->init[i];
        i64 pos[8] = {0};
        double *out = from->carried[i];
        do {
            Row r = ssd_run_eval(m, c, pos);
            for (i64 l = 0; l < c->lanes; l++) *out++ = r.p[l * r.s];
        } while (ssd_run_next_row(c->size, c->nbox, pos));
    }
    for (int i = 0; i < loop->ncarry; i++) {
        Slot *s = &m->slot[loop->carry[i]];
        memcpy(s->d, from->carried[i], (size_t)s->n * sizeof(double));
        s->base = tv(m, loop->carry[i])->lay.offset;
        commit(m, loop->carry[i], reads + i, loop->ncarry - i, 1);
    }
}

void ssd_run_op(Interp *m, Step *s) {
    const TOp *o = s->op;
    switch ((TOpCode)o->op) {
    case TOP_LOAD:
    case TOP_STORE: access(m, s); break;
    case TOP_MAP:
    case TOP_FILL: map(m, s); break;
    case TOP_REDUCE: reduce(m, s); break;
    case TOP_MMA: mma(m, o); break;
    case TOP_SCAN: scan(m, o); break;
    case TOP_AT:
    case TOP_RENAME:
    case TOP_SPLIT:
    case TOP_JOIN:
    case TOP_SLICE:
    case TOP_COPY: reshape(m, s); break;
    case TOP_PUT: put(m, s); break;
    case TOP_CAT: cat(m, o); break;
    case TOP_SWAP: swap(m, o); break;
    case TOP_INV: inv(m, o); break;
    case TOP_PICK: pick(m, s); break;
    case TOP_BUF: make_buffer(m, o); break;
    case TOP_PREFETCH:
    case TOP_REGS: break;
    case TOP_FOR:
    case TOP_EACH:
    case TOP_YIELD:
    case TOP_IF:
    case TOP_RING:
    case TOP_SLOT:
    case TOP_ROLE:
    case TOP_ACQUIRE:
    case TOP_PUBLISH:
    case TOP_AWAIT:
    case TOP_RELEASE:
    case TOP_FETCH:
    case TOP_SEND:
    case TOP_INTO:
    case TOP_WAIT:
    case TOP__COUNT: SSD_BUG("an op for who runs blocks");
    }
}

static void block(Interp *m, Step *s, const TOp *loop);

static void run_loop(Interp *m, Step *s) {
    const TOp *o = s->op;
    i64 lo = (i64)ssd_run_scalar(m, s->lo), hi = (i64)ssd_run_scalar(m, s->hi);
    ssd_run_carry(m, o, s);
    for (i64 k = lo; k < hi; k++) {
        m->slot[o->var].d[0] = (double)(o->flags & TF_REV ? hi - 1 - (k - lo) : k);
        block(m, s->body, o);
    }
}

static void block(Interp *m, Step *s, const TOp *loop) {
    for (; s; s = s->next) {
        const TOp *o = m->op = s->op;
        if (o->op == TOP_FOR || o->op == TOP_EACH)
            run_loop(m, s);
        else if (o->op == TOP_YIELD)
            ssd_run_carry(m, loop, s);
        else if (o->op != TOP_IF)
            ssd_run_op(m, s);
        else if (ssd_run_scalar(m, s->e) != 0)
            block(m, s->body, NULL);
    }
}

// --- Compilation of blocks ----------------------------------------------------------------------
static void box_of(Interp *m, Step *s) {
    const TOp *o = s->op;
    if (o->op == TOP_FETCH || o->op == TOP_SEND || o->op == TOP_INTO) { // the tile, or its slice
        for (int i = 0; i < tv(m, o->a)->naxes; i++)
            if (tv(m, o->a)->ax[i] != o->ax[0]) s->box[s->nbox++] = tv(m, o->a)->ax[i];
        return;
    }
    if (o->op == TOP_STORE) {
        for (int i = 0; i < o->nidx; i++) {
            u8 ax[8];
            int n = ssd_ex_axes(m->p, o->idx[i], ax);
            for (int k = 0; k < n; k++)
                if (!memchr(s->box, ax[k], (size_t)s->nbox)) s->box[s->nbox++] = ax[k];
        }
        return;
    }
    if (!o->out || o->op == TOP_BUF) return;
    for (int i = 0; i < tv(m, o->out)->naxes; i++) s->box[s->nbox++] = tv(m, o->out)->ax[i];
    if (o->op == TOP_REDUCE) s->box[s->nbox++] = o->ax[0];
}

Step *ssd_run_compile(Interp *m, const TBlock *b, const TOp *loop) {
    Step *first = NULL, **at = &first;
    for (const TOp *o = b->first; o; o = o->next) {
        Step *s = *at = NEW(m->a, Step);
        at = &s->next;
        s->op = m->op = o;
        if (o->op == TOP_PREFETCH) continue;
        box_of(m, s);
        bool rank0 = o->op == TOP_AT || o->op == TOP_PUT || o->op == TOP_SLICE || o->op == TOP_IF ||
                     o->op >= TOP_RING;
        s->e = code(m, o->e, s->box, rank0 ? 0 : s->nbox);
        s->e2 = code(m, o->e2, s->box, o->op == TOP_INTO ? s->nbox : 0);
        s->when = code(m, o->when, s->box, s->nbox);
        s->lo = code(m, o->lo, NULL, 0);
        s->hi = code(m, o->hi, s->box, o->op == TOP_INTO ? s->nbox : 0);
        for (int i = 0; i < o->nidx; i++) s->idx[i] = code(m, o->idx[i], s->box, s->nbox);
        const TOp *carrier = o->op == TOP_YIELD ? loop : o;
        if (o->ncarry) {
            s->init = NEWN(m->a, Code *, o->ncarry);
            s->carried = NEWN(m->a, double *, o->ncarry);
        }
        for (int i = 0; i < o->ncarry; i++) {
            const TVal *t = tv(m, carrier->carry[i]);
            s->init[i] = code(m, o->init[i], t->ax, t->naxes);
            s->carried[i] = NEWN(m->a, double, m->slot[carrier->carry[i]].n);
        }
        s->body = ssd_run_compile(m, &o->body, o);
    }
    return first;
}

static void make_slots(Interp *m) {
    const Prog *p = m->p;
    m->slot = NEWN(m->a, Slot, p->vals.n);
    for (u32 v = 1; v < p->vals.n; v++) {
        const TVal *t = &p->vals.v[v];
        Slot *s = &m->slot[v];
        s->n = 1;
        for (int i = t->naxes - 1; i >= 0; i--) {
            s->stride[i] = s->n;
            s->n *= axis_size(m, t->ax[i]);
        }
        s->d = NEWN(m->a, double, s->n);
        for (i64 i = 0; i < s->n; i++) s->d[i] = NAN;
        s->base = t->lay.offset;
        s->writer = v;
        int size = (int)ssd_dtype_size((ssd_dtype)t->dtype);
        Slot *b = t->lay.buf ? &m->slot[t->lay.buf] : NULL;
        if (b && (!b->grain || size < b->grain)) b->grain = size;
    }
    for (u32 v = 1; v < p->vals.n; v++)
        if (!m->slot[v].grain) m->slot[v].grain = 1;
}

static void make_tensors(Interp *m) {
    const Prog *p = m->p;
    m->tensor = NEWN(m->a, Array, p->tensors.n);
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *t = &p->tensors.v[i];
        Array *x = &m->tensor[i];
        x->rank = t->rank;
        for (int d = 0; d < t->rank; d++) x->dims[d] = ssd_ex_eval_sym(p, t->dim[d], m->run->sym);
        if (t->role == T_WS) {
            i64 n = ssd_array_count(x);
            x->v = NEWN(m->a, double, n);
            for (i64 k = 0; k < n; k++) x->v[k] = NAN;
            continue;
        }
        const Array *given = &m->run->tensor[i];
        bool fits = given->rank == x->rank;
        for (int d = 0; fits && d < t->rank; d++) fits = given->dims[d] == x->dims[d];
        if (!fits) fail(m, "tensor `%s` has the wrong shape", t->name);
        x->v = given->v;
    }
}

static void run_kernel(Interp *m, const TKernel *k) {
    if (ssd_timed_kernel(m->p, k)) {
        ssd_timed_run(m, k);
        return;
    }
    Step *body = ssd_run_compile(m, &k->body, NULL);
    Walk grid = {0};
    for (int i = 0; i < k->ngrid; i++) {
        i64 n = ssd_ex_eval_sym(m->p, k->grid[i].size, m->run->sym);
        if (n <= 0) return;
        walk_add(&grid, n, 0, 0, 0);
    }
    do {
        for (int i = 0; i < k->ngrid; i++) m->slot[k->grid[i].var].d[0] = (double)grid.pos[i];
        block(m, body, NULL);
    } while (walk_next(&grid));
}

bool ssd_tile_interp(const Prog *p, Arena *arena, TileRun *run, Text *why) {
    if (!(run->lax ? ssd_tile_check_types(p, why) : ssd_tile_verify(p, why))) return false;
    Interp *m = NEW(arena, Interp);
    m->p = p, m->a = arena, m->run = run, m->why = why;
    if (setjmp(m->out)) {
        ssd_arena_free(&m->block);
        return false;
    }
    make_tensors(m);
    make_slots(m);
    for (u32 i = 0; i < p->kernels.n; i++) {
        m->kernel = p->kernels.v[i].name;
        run_kernel(m, &p->kernels.v[i]);
    }
    return true;
}
