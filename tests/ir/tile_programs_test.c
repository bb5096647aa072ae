// SPDX-License-Identifier: Apache-2.0
// The ten programs of tests/ir/programs, run by the interpreter against recurrences written here,
// in double: lengths that no chunk divides, initial states, an empty packed sequence, NaN in a
// neighbour. The backward program is held against central differences of the recurrence.
#include "../../ir/tile.h"
#include "../runtime/test.h"

#include <math.h>
#include <time.h>

// Both sides sum a few hundred products in another order; 2e-13 is some 50 times what was seen.
static const double BOUND = 2e-13;

enum { H = 4, G = 2, P = 8, N = 16 };

static u64 seed;
static double uniform(void) { return ((double)test_random(&seed) + 0.5) / 0x1p31; }
static double normal(void) {
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}
static double softplus(double x) { return log1p(exp(x)); }
static double silu(double x) { return x / (1 + exp(-x)); }
static double elu1(double x) { return x > 0 ? x + 1 : exp(x); }

// --- Tensors by name ----------------------------------------------------------------------------
typedef struct Bench {
    Arena a;
    Prog *p;
    TileRun run;
    i64 b, t, s;
} Bench;

static void load(Bench *x, const char *file, i64 b, i64 t, i64 s) {
    *x = (Bench){.b = b, .t = t, .s = s};
    char path[512];
    snprintf(path, sizeof path, "%s/tests/ir/programs/%s.ssd", SOURCE_DIR, file);
    size_t n;
    char *text = test_read_file(path, &n);
    Diag d = {.arena = &x->a, .file = path, .source = text, .source_len = n};
    if (CHECK(text != NULL)) x->p = ssd_tile_parse(&x->a, text, n, path, &d);
    Text why = {0};
    if (!CHECK(x->p != NULL)) {
        ssd_diag_print(&d, &why);
        printf("%s", why.s ? why.s : "");
        exit(1);
    }
    free(text);
    for (u32 i = 0; i < x->p->syms.n; i++) {
        char c = x->p->syms.v[i][0];
        x->run.sym[i] = c == 'b' ? b : c == 't' ? t : s;
    }
    x->run.tensor = NEWN(&x->a, Array, x->p->tensors.n);
    for (u32 i = 1; i < x->p->tensors.n; i++) {
        const TTensor *tt = &x->p->tensors.v[i];
        Array *r = &x->run.tensor[i];
        if (tt->role == T_WS) continue;
        r->rank = tt->rank;
        for (int k = 0; k < tt->rank; k++)
            r->dims[k] = ssd_ex_eval_sym(x->p, tt->dim[k], x->run.sym);
        i64 count = ssd_array_count(r);
        r->v = NEWN(&x->a, double, count + 1);
        for (i64 k = 0; k < count; k++) r->v[k] = tt->role == T_IN ? normal() : NAN;
    }
}

static double *tensor(const Bench *x, const char *name) {
    u16 t = ssd_prog_find_tensor(x->p, name);
    if (!t) SSD_BUG("no tensor %s", name);
    return x->run.tensor[t].v;
}
static i64 count(const Bench *x, const char *name) {
    return ssd_array_count(&x->run.tensor[ssd_prog_find_tensor(x->p, name)]);
}
static double *again(Bench *x, const char *name) { // an array like a tensor's
    return NEWN(&x->a, double, count(x, name) + 1);
}

static bool run(Bench *x) {
    Text why = {0};
    bool ok = ssd_tile_interp(x->p, &x->a, &x->run, &why);
    if (!CHECK(ok)) printf("%s: %s\n", x->p->name, why.s);
    ssd_text_free(&why);
    return ok;
}

static void same(const Bench *x, const char *name, const double *want, double bound) {
    const double *got = tensor(x, name);
    double top = 1e-300, worst = 0;
    bool number = true;
    for (i64 i = 0; i < count(x, name); i++) {
        number &= isfinite(got[i]) && isfinite(want[i]);
        top = fmax(top, fabs(want[i]));
        worst = fmax(worst, fabs(got[i] - want[i]));
    }
    if (!CHECK(number && worst <= bound * top))
        printf("%s b=%d t=%d: %s is off by %g\n", x->p->name, (int)x->b, (int)x->t, name,
               worst / top);
}

// A rate of decay: negative, mostly mild.
static void decays(Bench *x, const char *name) {
    double *l = tensor(x, name);
    for (i64 i = 0; i < count(x, name); i++) l[i] = -softplus(l[i]);
}

// --- Recurrences --------------------------------------------------------------------------------
// One head:
// h = h*exp(l) + v k, y = h q. l has one value (wide = false) or one a feature of k.
typedef struct Seq {
    const double *q, *k, *v, *l;
    i64 sq, sv, sl; // from a token to the next
    bool wide, delta;
    const double *beta; // delta rule: u = beta*(v - h k), spaced like l
} Seq;
static void walk(const Seq *s, i64 t0, i64 t1, i64 step, double *h, double *y, bool add) {
    for (i64 t = t0; t != t1; t += step) {
        const double *q = s->q + t * s->sq, *k = s->k + t * s->sq, *v = s->v + t * s->sv;
        const double *l = s->l ? s->l + t * s->sl : NULL;
        for (int p = 0; p < P; p++) {
            double u = v[p], out = 0;
            for (int n = 0; n < N; n++) h[p * N + n] *= l ? exp(l[s->wide ? n : 0]) : 1;
            if (s->delta) {
                for (int n = 0; n < N; n++) u -= h[p * N + n] * k[n];
                u *= s->beta[t * s->sl];
            }
            for (int n = 0; n < N; n++) {
                h[p * N + n] += u * k[n];
                out += h[p * N + n] * q[n];
            }
            y[t * s->sv + p] = (add ? y[t * s->sv + p] : 0) + out;
        }
    }
}

// Mamba-2 from its inputs; gated only when z is given.
typedef struct Mamba {
    const double *x, *dt, *A, *B, *C, *D, *h0, *z;
} Mamba;
static void mamba(const Mamba *m, i64 b, i64 t, double *y, double *hT) {
    for (i64 i = 0; i < b * H; i++) {
        int hh = (int)(i % H), g = hh / (H / G);
        double *s = hT + i * P * N;
        memcpy(s, m->h0 + i * P * N, P * N * sizeof *s);
        for (i64 k = 0; k < t; k++) {
            i64 tok = i / H * t + k;
            double d = softplus(m->dt[tok * H + hh]), decay = exp(-exp(m->A[hh]) * d);
            for (int p = 0; p < P; p++) {
                double xv = m->x[(tok * H + hh) * P + p], out = m->D[hh] * xv;
                for (int n = 0; n < N; n++) {
                    s[p * N + n] = s[p * N + n] * decay + d * xv * m->B[(tok * G + g) * N + n];
                    out += s[p * N + n] * m->C[(tok * G + g) * N + n];
                }
                y[(tok * H + hh) * P + p] = m->z ? out * silu(m->z[(tok * H + hh) * P + p]) : out;
            }
        }
    }
}
static Mamba mamba_of(const Bench *x) {
    return (Mamba){tensor(x, "x"), tensor(x, "dt"), tensor(x, "A_log"), tensor(x, "B"),
                   tensor(x, "C"), tensor(x, "D"),  tensor(x, "h0"),    NULL};
}

// --- The programs -------------------------------------------------------------------------------
static void test_mamba(const char *file, i64 b, i64 t) {
    Bench x;
    load(&x, file, b, t, 0);
    Mamba m = mamba_of(&x);
    m.z = tensor(&x, "z");
    double *y = again(&x, "y"), *hT = again(&x, "hT");
    mamba(&m, b, t, y, hT);
    if (run(&x)) {
        same(&x, "y", y, BOUND);
        same(&x, "hT", hT, BOUND);
    }
    ssd_arena_free(&x.a);
}

static void test_step(void) {
    Bench x;
    load(&x, "03_step", 3, 1, 0);
    Mamba m = mamba_of(&x);
    m.z = tensor(&x, "z");
    double *y = again(&x, "y"), *hT = again(&x, "hT");
    mamba(&m, 3, 1, y, hT);
    // In place: the state that is read is the one that is written.
    x.run.tensor[ssd_prog_find_tensor(x.p, "hT")].v = tensor(&x, "h0");
    if (run(&x)) {
        same(&x, "y", y, BOUND);
        same(&x, "hT", hT, BOUND);
    }
    ssd_arena_free(&x.a);
}

// <dy, y> + <dhT, hT> as a function of one input, along a direction.
static double loss(Bench *x, const Mamba *m) {
    double *y = again(x, "dy"), *hT = again(x, "dhT"), sum = 0;
    mamba(m, x->b, x->t, y, hT);
    for (i64 i = 0; i < count(x, "dy"); i++) sum += y[i] * tensor(x, "dy")[i];
    for (i64 i = 0; i < count(x, "dhT"); i++) sum += hT[i] * tensor(x, "dhT")[i];
    return sum;
}

static void test_backward(i64 t) {
    static const char *const names[][2] = {{"x", "dx"},   {"dt", "ddt"},   {"B", "dB"}, {"C", "dC"},
                                           {"h0", "dh0"}, {"A_log", "wA"}, {"D", "wD"}};
    Bench x;
    load(&x, "04_backward", 2, t, 0);
    Mamba m = mamba_of(&x);
    if (!run(&x)) return;
    for (size_t k = 0; k < COUNTOF(names); k++) {
        double *v = tensor(&x, names[k][0]), *g = tensor(&x, names[k][1]);
        i64 n = count(&x, names[k][0]), parts = count(&x, names[k][1]) / n;
        for (int dir = 0; dir < 4; dir++) {
            double *d = NEWN(&x.a, double, n), *keep = NEWN(&x.a, double, n), want = 0, norm = 0;
            double f[5], eps = 1e-3;
            memcpy(keep, v, (size_t)n * sizeof *v);
            for (i64 i = 0; i < n; i++) d[i] = normal();
            for (i64 i = 0; i < n; i++) // parts: sums over chunks and batch are left to the caller
                for (i64 c = 0; c < parts; c++) {
                    want += g[c * n + i] * d[i];
                    norm += g[c * n + i] * g[c * n + i];
                }
            for (int s = -2; s <= 2; s++) {
                for (i64 i = 0; i < n; i++) v[i] = keep[i] + s * eps * d[i];
                f[s + 2] = loss(&x, &m);
            }
            memcpy(v, keep, (size_t)n * sizeof *v);
            // Fourth order: truncation eps^4 and cancellation 1e-16/eps are both near 1e-12.
            double got = (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * eps);
            if (!CHECK(fabs(got - want) < 1e-8 * (sqrt(norm) + fabs(want))))
                printf("backward t=%d: %s: %g by differences, %g\n", (int)t, names[k][1], got,
                       want);
        }
    }
    ssd_arena_free(&x.a);
}

static void heads(Bench *x, Seq base, const char *state, const char *out) {
    double *hT = state ? again(x, state) : NEWN(&x->a, double, x->b *H *P *N), *y = again(x, out);
    if (state) memcpy(hT, tensor(x, "h0"), (size_t)count(x, "h0") * sizeof *hT);
    for (i64 i = 0; i < x->b * H; i++) {
        i64 tok = i / H * x->t * H + i % H;
        Seq s = base;
        s.q += tok * N, s.k += tok * N, s.v += tok * P;
        if (s.l) s.l += tok * (s.wide ? N : 1);
        if (s.beta) s.beta += tok;
        walk(&s, 0, x->t, 1, hT + i * P * N, y + tok * P, false);
    }
    if (!run(x)) return;
    same(x, out, y, BOUND);
    if (state) same(x, state, hT, BOUND);
}

static Seq seq_of(const Bench *x, const char *l) {
    return (Seq){.q = tensor(x, "q"),
                 .k = tensor(x, "k"),
                 .v = tensor(x, "v"),
                 .l = tensor(x, l),
                 .sq = H * N,
                 .sv = H * P,
                 .sl = H};
}

static void test_vector_decay(i64 t) {
    Bench x;
    load(&x, "05_vector_decay", 2, t, 0);
    decays(&x, "g");
    Seq s = seq_of(&x, "g");
    s.wide = true;
    s.sl = H * N;
    heads(&x, s, "hT", "o");
    ssd_arena_free(&x.a);
}

static void test_delta(i64 t) {
    Bench x;
    load(&x, "06_delta", 2, t, 0);
    decays(&x, "l");
    double *k = tensor(&x, "k"), *beta = tensor(&x, "beta");
    for (i64 i = 0; i < count(&x, "k"); i += N) {
        double norm = 0;
        for (int n = 0; n < N; n++) norm += k[i + n] * k[i + n];
        for (int n = 0; n < N; n++) k[i + n] /= sqrt(norm);
    }
    for (i64 i = 0; i < count(&x, "beta"); i++) beta[i] = 1 / (1 + exp(-beta[i]));
    Seq s = seq_of(&x, "l");
    s.delta = true;
    s.beta = beta;
    heads(&x, s, "hT", "o");
    ssd_arena_free(&x.a);
}

static void test_normaliser(i64 t) {
    Bench x;
    load(&x, "07_normaliser", 2, t, 0);
    double *q = again(&x, "Q"), *k = again(&x, "K"), *y = again(&x, "o"), h[P * N];
    for (i64 i = 0; i < count(&x, "Q"); i++)
        q[i] = elu1(tensor(&x, "Q")[i]), k[i] = elu1(tensor(&x, "K")[i]);
    for (i64 i = 0; i < x.b * H; i++) {
        i64 tok = i / H * t * H + i % H;
        Seq s = {.q = q + tok * N,
                 .k = k + tok * N,
                 .v = tensor(&x, "V") + tok * P,
                 .sq = H * N,
                 .sv = H * P};
        double sum[N] = {0};
        memset(h, 0, sizeof h);
        walk(&s, 0, t, 1, h, y + tok * P, false);
        for (i64 r = 0; r < t; r++) {
            double d = 0;
            for (int n = 0; n < N; n++)
                sum[n] += s.k[r * s.sq + n], d += sum[n] * s.q[r * s.sq + n];
            for (int p = 0; p < P; p++) y[(tok + r * H) * P + p] /= fmax(d, 1e-6);
        }
    }
    if (run(&x)) same(&x, "o", y, BOUND);
    ssd_arena_free(&x.a);
}

static void test_quadratic(i64 t) {
    Bench x;
    load(&x, "08_quadratic", 2, t, 0);
    decays(&x, "l");
    heads(&x, seq_of(&x, "l"), NULL, "o");
    ssd_arena_free(&x.a);
}

static void test_packed(void) {
    static const int cu[] = {0, 5, 5, 21, 53, 69};
    enum { S = COUNTOF(cu) - 1, BAD = 2 }; // sequence 2 holds NaN and infinity
    Bench x;
    load(&x, "09_packed", 1, cu[S], S);
    decays(&x, "l");
    for (int i = 0; i <= S; i++) tensor(&x, "cu")[i] = cu[i];
    for (int r = cu[BAD]; r < cu[BAD + 1]; r++) {
        tensor(&x, "v")[(r * H + 1) * P] = NAN;
        tensor(&x, "k")[r * H * N] = INFINITY;
        tensor(&x, "q")[r * H * N + 3] = NAN;
    }
    double *y = again(&x, "o"), *hT = again(&x, "hT");
    memcpy(hT, tensor(&x, "h0"), (size_t)count(&x, "h0") * sizeof *hT);
    for (int i = 0; i < S; i++)
        for (int h = 0; h < H; h++) {
            Seq s = seq_of(&x, "l");
            s.q += h * N, s.k += h * N, s.v += h * P, s.l += h;
            walk(&s, cu[i], cu[i + 1], 1, hT + (i * H + h) * P * N, y + h * P, false);
        }
    if (!run(&x)) return;
    // The bad sequence is left out of the comparison; its neighbours must not see it.
    double *got[] = {tensor(&x, "o"), tensor(&x, "hT")}, *want[] = {y, hT};
    i64 from[] = {cu[BAD] * H * P, BAD * H * P * N},
        to[] = {cu[BAD + 1] * H * P, (BAD + 1) * H * P * N};
    for (int k = 0; k < 2; k++)
        for (i64 i = from[k]; i < to[k]; i++) got[k][i] = want[k][i] = 0;
    same(&x, "o", y, BOUND);
    same(&x, "hT", hT, BOUND);
    ssd_arena_free(&x.a);
}

static void test_bidirectional(i64 t) {
    Bench x;
    load(&x, "10_bidirectional", 2, t, 0);
    decays(&x, "lf");
    decays(&x, "lb");
    double *y = again(&x, "o"), h[P * N], *later = NEWN(&x.a, double, count(&x, "lb") + 1);
    // The backward walk at token i decays by lb of i+1: its own decay acts on what lies before it.
    for (i64 i = 0; i < count(&x, "lb"); i++) {
        i64 token = i / H % t;
        later[i] = token + 1 < t ? tensor(&x, "lb")[i + H] : 0;
    }
    for (i64 i = 0; i < x.b * H; i++) {
        i64 tok = i / H * t * H + i % H;
        Seq s = seq_of(&x, "lf");
        s.q += tok * N, s.k += tok * N, s.v += tok * P, s.l += tok;
        memset(h, 0, sizeof h);
        walk(&s, 0, t, 1, h, y + tok * P, false);
        s.l = later + tok;
        memset(h, 0, sizeof h);
        walk(&s, t - 1, -1, -1, h, y + tok * P, true);
    }
    if (run(&x)) same(&x, "o", y, BOUND);
    ssd_arena_free(&x.a);
}

int main(void) {
    static const i64 lengths[] = {1, 15, 16, 17, 53};
    for (size_t i = 0; i < COUNTOF(lengths); i++) {
        i64 t = lengths[i];
        seed = 1000 + (u64)t;
        test_mamba("01_forward", 2, t);
        test_vector_decay(t);
        test_delta(t);
        test_normaliser(t);
        test_quadratic(t);
        test_bidirectional(t);
    }
    test_mamba("01_forward", 2, 0);   // no token: hT is h0
    test_mamba("02_segments", 2, 53); // its grid is for lengths of 65 to 96 and 33 to 64
    test_mamba("02_segments", 1, 90);
    test_step();
    test_backward(21);
    test_backward(53);
    test_packed();
    return test_end();
}
