// SPDX-License-Identifier: Apache-2.0
// The meaning of ssd, for one sequence and head at a time, in two ways that must agree.
//
// Both see tokens in walking order: `flip` and `rev` walk from the sequence's end, so a read at t
// sees writes j <= t. What is left of the attributes is the order of the three acts at a token and
// with it the range of log-decays between a write at j and a read at t, j < t:
//     fwd, flip   decay write read    j+1 .. t           strict: decay read write
//     rev         write read decay    j   .. t-1         strict: read write decay
//     read=before read decay write    j+1 .. t-1
#include "interp.h"

#include <math.h>

// An operand with the tokens of one sequence and head: v[t][np][nn], np is P or 1, nn is N or 1.
typedef struct Part {
    double *v;
    i64 np, nn;
} Part;

typedef struct Op {
    i64 T, P, N, band;
    bool full, strict, before;
    bool late;       // a token's decay acts after its write (rev)
    Part q, k, v, l; // l.v is NULL without a decay
    double *a;       // exp(l)
    double *h0, *h;  // [P][N]; h0 is NULL when it is zero
    double *y;       // [T][P]
    double *M;       // [T][T], dense only: masked scores
    double *qk;      // [T][T], dense with a value-side decay only: q_i . k_j
    double *sum;     // [l.np][l.nn] running sums of l
    double *e;       // exp of them
} Op;

static double *token(const Part *p, i64 t) { return p->v + t * p->np * p->nn; }
static double *row(const Part *p, i64 t, i64 i) {
    return token(p, t) + (p->np > 1 ? i * p->nn : 0);
}

// --- Recurrence ---------------------------------------------------------------------------------

static void decay(const Op *o, i64 t) {
    if (!o->l.v) return;
    const double *a = o->a + t * o->l.np * o->l.nn;
    for (i64 p = 0; p < o->P; p++) {
        double *h = o->h + p * o->N;
        const double *ap = a + (o->l.np > 1 ? p * o->l.nn : 0);
        if (o->l.nn > 1)
            for (i64 n = 0; n < o->N; n++) h[n] *= ap[n];
        else
            for (i64 n = 0; n < o->N; n++) h[n] *= ap[0];
    }
}

static void write(const Op *o, i64 t) {
    const double *v = token(&o->v, t);
    for (i64 p = 0; p < o->P; p++) {
        double *h = o->h + p * o->N;
        const double *k = row(&o->k, t, p);
        for (i64 n = 0; n < o->N; n++) h[n] += v[p] * k[n];
    }
}

static void read(const Op *o, i64 t) {
    for (i64 p = 0; p < o->P; p++) {
        const double *h = o->h + p * o->N, *q = row(&o->q, t, p);
        double s = 0;
        for (i64 n = 0; n < o->N; n++) s += h[n] * q[n];
        o->y[t * o->P + p] = s;
    }
}

// Tokens from .. to; only those at or after `reads` are read.
static void walk(const Op *o, i64 from, i64 to, i64 reads) {
    const char *acts = o->before ? "rdw"
                       : o->late ? (o->strict ? "rwd" : "wrd")
                                 : (o->strict ? "drw" : "dwr");
    for (i64 t = from; t < to; t++)
        for (const char *c = acts; *c; c++) {
            if (*c == 'd') decay(o, t);
            if (*c == 'w') write(o, t);
            if (*c == 'r' && t >= reads) read(o, t);
        }
}

static void start(const Op *o) {
    size_t bytes = sizeof(double) * (size_t)(o->P * o->N);
    if (o->h0)
        memcpy(o->h, o->h0, bytes);
    else
        memset(o->h, 0, bytes);
}

static void recurrence(const Op *o) {
    start(o);
    if (o->full) {
        for (i64 t = 0; t < o->T; t++) write(o, t);
        for (i64 t = 0; t < o->T; t++) read(o, t);
    } else if (o->band) {
        for (i64 t = 0; t < o->T; t++) {
            start(o);
            walk(o, MAX(0, t - o->band + 1), t + 1, t);
        }
    } else {
        walk(o, 0, o->T, 0);
    }
}

// --- Dense matrix -------------------------------------------------------------------------------

// sum += l_t, e = exp(sum). Sums only ever grow by whole terms, so a decay of zero (l = -inf) stays
// zero and no inf - inf is formed.
static void add_rows(const Op *o, i64 t, i64 from, i64 to) {
    const double *l = token(&o->l, t);
    for (i64 i = from * o->l.nn; i < to * o->l.nn; i++) {
        o->sum[i] += l[i];
        o->e[i] = exp(o->sum[i]);
    }
}

static void add_l(const Op *o, i64 t) {
    if (o->l.v) add_rows(o, t, 0, o->l.np);
}

// The same for value feature p alone.
static void add_l_of(const Op *o, i64 t, i64 p) {
    i64 i = o->l.np > 1 ? p : 0;
    if (o->l.v) add_rows(o, t, i, i + 1);
}

static void clear_l(const Op *o) {
    for (i64 i = 0; i < o->l.np * o->l.nn; i++) o->sum[i] = 0, o->e[i] = 1;
}

// e^{sum} at (p, n).
static double decayed(const Op *o, i64 p, i64 n) {
    return o->e[(o->l.np > 1 ? p * o->l.nn : 0) + (o->l.nn > 1 ? n : 0)];
}

// sum_n q_n k_n e^{sum}: one element of the masked scores, for value feature p.
static double score(const Op *o, i64 i, i64 j, i64 p) {
    const double *q = row(&o->q, i, p), *k = row(&o->k, j, p);
    double s = 0;
    if (o->qk) return o->qk[i * o->T + j] * decayed(o, p, 0);
    if (o->l.nn > 1) {
        for (i64 n = 0; n < o->N; n++) s += q[n] * k[n] * decayed(o, p, n);
        return s;
    }
    for (i64 n = 0; n < o->N; n++) s += q[n] * k[n];
    return s * decayed(o, p, 0);
}

// Row i of L o (Q K^T) for value feature p; returns the first column that is not masked, *hi the
// last + 1.
static i64 scores(const Op *o, i64 i, i64 p, i64 *hi) {
    double *m = o->M + i * o->T;
    clear_l(o);
    if (o->full) {
        for (i64 j = 0; j < o->T; j++) m[j] = score(o, i, j, p);
        *hi = o->T;
        return 0;
    }
    i64 lo = o->band ? MAX(0, i - o->band + 1) : 0;
    i64 first = o->late ? 0 : 1,
        last = o->late || o->before ? i - 1 : i; // the range is j+first .. last
    for (i64 j = i; j >= lo; j--) {
        if (j + first <= last) add_l_of(o, j + first, p);
        if (j < i || !o->strict) m[j] = score(o, i, j, p);
    }
    *hi = i + !o->strict;
    return lo;
}

// What the initial state adds to y, and the final state.
static void dense_states(const Op *o) {
    clear_l(o);
    for (i64 t = 0; t < o->T && o->h0; t++) {
        if (!o->full && !o->before && !o->late) add_l(o, t);
        for (i64 p = 0; p < o->P; p++) {
            const double *q = row(&o->q, t, p), *h = o->h0 + p * o->N;
            double s = 0;
            for (i64 n = 0; n < o->N; n++) s += decayed(o, p, n) * h[n] * q[n];
            o->y[t * o->P + p] += s;
        }
        if (!o->full && (o->before || o->late)) add_l(o, t);
    }
    memset(o->h, 0, sizeof(double) * (size_t)(o->P * o->N));
    clear_l(o);
    for (i64 t = o->T - 1; t >= 0; t--) {
        if (o->late) add_l(o, t);
        const double *v = token(&o->v, t);
        for (i64 p = 0; p < o->P; p++) {
            const double *k = row(&o->k, t, p);
            for (i64 n = 0; n < o->N; n++) o->h[p * o->N + n] += decayed(o, p, n) * v[p] * k[n];
        }
        if (!o->late) add_l(o, t);
    }
    for (i64 p = 0; p < o->P && o->h0; p++)
        for (i64 n = 0; n < o->N; n++) o->h[p * o->N + n] += decayed(o, p, n) * o->h0[p * o->N + n];
}

static void dense(const Op *o) {
    bool each = o->q.np > 1 || o->k.np > 1 || o->l.np > 1; // every value feature has its own scores
    for (i64 i = 0; o->qk && i < o->T; i++)
        for (i64 j = 0; j < o->T; j++) {
            const double *q = token(&o->q, i), *k = token(&o->k, j);
            double s = 0;
            for (i64 n = 0; n < o->N; n++) s += q[n] * k[n];
            o->qk[i * o->T + j] = s;
        }
    for (i64 p0 = 0; p0 < (each ? o->P : 1); p0++) {
        i64 p1 = each ? p0 + 1 : o->P;
        for (i64 i = 0; i < o->T; i++) {
            i64 hi, lo = scores(o, i, p0, &hi);
            double *y = o->y + i * o->P;
            for (i64 p = p0; p < p1; p++) y[p] = 0;
            for (i64 j = lo; j < hi; j++) {
                const double *v = token(&o->v, j);
                double m = o->M[i * o->T + j];
                for (i64 p = p0; p < p1; p++) y[p] += m * v[p];
            }
        }
    }
    dense_states(o);
}

// --- Operands -----------------------------------------------------------------------------------

// Offsets of v's elements over the product of axes, in row-major order.
static i64 *offsets(const Run *r, const Value *v, const AxisId *ax, int n, i64 count) {
    i64 *off = NEWN(r->arena, i64, MAX(count, 1));
    for (i64 i = 0; i < count; i++) {
        i64 rest = i;
        for (int k = n - 1; k >= 0; k--) {
            off[i] += rest % r->size[ax[k]] * ssd_value_stride(v, ax[k]);
            rest /= r->size[ax[k]];
        }
    }
    return off;
}

static bool has_any(const Graph *g, Ref r, const AxisId *ax, int n) {
    for (int i = 0; i < n; i++)
        if (ssd_graph_has_axis(g, r, ax[i])) return true;
    return false;
}

// Where an operand's or a state's elements are: at base + p[i] + n[k].
typedef struct Source {
    const Value *v;
    i64 *p, *n;
} Source;

static Source source(const Run *r, const Value *v, const SsdAxes *x, const Op *o) {
    return (Source){.v = v,
                    .p = offsets(r, v, x->value, x->nvalue, o->P),
                    .n = offsets(r, v, x->key, x->nkey, o->N)};
}

static Source operand(const Run *r, Ref ref, const SsdAxes *x, const Op *o, Part *to, i64 most) {
    Source s = source(r, &r->val[ref], x, o);
    to->np = has_any(r->g, ref, x->value, x->nvalue) ? o->P : 1;
    to->nn = has_any(r->g, ref, x->key, x->nkey) ? o->N : 1;
    to->v = NEWN(r->arena, double, MAX(most * to->np * to->nn, 1));
    return s;
}

static void gather(const Run *r, const Source *s, const Part *part, const SsdAxes *x, const Seq *q,
                   i64 head, bool backward) {
    const double *base =
        s->v->v + q->b * ssd_value_stride(s->v, r->b) + head * ssd_value_stride(s->v, x->head);
    double *to = part->v;
    for (i64 i = 0; i < q->len; i++) {
        i64 t = q->lo + (backward ? q->len - 1 - i : i);
        const double *at = base + t * ssd_value_stride(s->v, r->t);
        for (i64 p = 0; p < part->np; p++)
            for (i64 n = 0; n < part->nn; n++) *to++ = at[s->p[p] + s->n[n]];
    }
}

static i64 product(const Run *r, const AxisId *ax, int n) {
    i64 c = 1;
    for (int i = 0; i < n; i++) c *= r->size[ax[i]];
    return c;
}

// Copies between h [P][N] and row s, head `head` of a state.
static void copy_state(const Run *r, const Source *st, const SsdAxes *x, const Op *o, const Seq *q,
                       i64 head, double *h, bool out) {
    const Value *v = st->v;
    double *at = v->v + q->s * ssd_value_stride(v, r->g->packed ? r->s : r->b) +
                 head * ssd_value_stride(v, x->head);
    for (i64 i = 0; i < o->P; i++)
        for (i64 k = 0; k < o->N; k++) {
            double *e = &at[st->p[i] + st->n[k]], *m = &h[i * o->N + k];
            if (out)
                *e = *m;
            else
                *m = *e;
        }
}

static void scatter(const Run *r, const Value *y, const i64 *py, const SsdAxes *x, const Op *o,
                    const Seq *q, i64 head, bool backward) {
    double *base = y->v + q->b * ssd_value_stride(y, r->b) + head * ssd_value_stride(y, x->head);
    for (i64 i = 0; i < o->T; i++) {
        i64 t = q->lo + (backward ? o->T - 1 - i : i);
        double *to = base + t * ssd_value_stride(y, r->t);
        for (i64 p = 0; p < o->P; p++) to[py[p]] = o->y[i * o->P + p];
    }
}

// The operator's sizes and scratch for sequences of up to `most` tokens; in: its operands' places.
static Op prepare(const Run *r, const Node *node, const SsdAxes *x, i64 most, Source in[5]) {
    Op o = {.P = product(r, x->value, x->nvalue),
            .N = product(r, x->key, x->nkey),
            .band = node->k,
            .full = node->flags & SSD_FULL,
            .strict = node->flags & SSD_DIAG_OUT,
            .before = node->flags & SSD_READ_BEFORE};
    o.late = node->time == TIME_REV && !o.before;
    o.l = (Part){.np = 1, .nn = 1};
    Part *parts[4] = {&o.q, &o.k, &o.v, &o.l};
    for (int i = 0; i < 4; i++)
        if (node->arg[i]) in[i] = operand(r, node->arg[i], x, &o, parts[i], most);
    if (node->arg[4]) {
        in[4] = source(r, &r->val[node->arg[4]], x, &o);
        o.h0 = NEWN(r->arena, double, o.P *o.N);
    }
    i64 nl = o.l.np * o.l.nn;
    o.a = NEWN(r->arena, double, MAX(most * nl, 1));
    o.sum = NEWN(r->arena, double, nl);
    o.e = NEWN(r->arena, double, nl);
    o.h = NEWN(r->arena, double, o.P *o.N);
    o.y = NEWN(r->arena, double, MAX(most * o.P, 1));
    if (r->meaning == MEAN_DENSE) {
        o.M = NEWN(r->arena, double, MAX(most * most, 1));
        if (o.l.np > 1 && o.l.nn == 1 && o.q.np == 1 && o.k.np == 1)
            o.qk = NEWN(r->arena, double, MAX(most * most, 1));
    }
    return o;
}

void ssd_run_ssd(const Run *r, Ref ssd, Value *y, Value *fin) {
    const Node *node = &r->g->nodes.v[ssd];
    SsdAxes x = ssd_graph_ssd_axes(r->g, ssd);
    i64 nseq, most = 0;
    const Seq *seq = ssd_run_seqs(r, x.batch != 0, &nseq);
    for (i64 s = 0; s < nseq; s++) most = MAX(most, seq[s].len);
    Source in[5], out = {0};
    Op o = prepare(r, node, &x, most, in);
    if (fin) out = source(r, fin, &x, &o);
    i64 *py = offsets(r, y, x.value, x.nvalue, o.P);
    const Part *parts[4] = {&o.q, &o.k, &o.v, &o.l};

    bool backward = node->time != TIME_FWD;
    i64 heads = x.head ? r->size[x.head] : 1;
    for (i64 i = 0; i < nseq * heads; i++) {
        const Seq *q = &seq[i / heads];
        i64 head = i % heads;
        o.T = q->len;
        for (int k = 0; k < 4; k++)
            if (node->arg[k]) gather(r, &in[k], parts[k], &x, q, head, backward);
        for (i64 k = 0; o.l.v && k < o.T * o.l.np * o.l.nn; k++) o.a[k] = exp(o.l.v[k]);
        if (o.h0) copy_state(r, &in[4], &x, &o, q, head, o.h0, false);
        if (r->meaning == MEAN_DENSE)
            dense(&o);
        else
            recurrence(&o);
        if (fin) copy_state(r, &out, &x, &o, q, head, o.h, true);
        scatter(r, y, py, &x, &o, q, head, backward);
    }
}
