// SPDX-License-Identifier: Apache-2.0
// The exp2 pass: where the factor log2e ends up, as text, and that the ten programs written with
// exp mean the same after it.
#include "../../ir/pass.h"
#include "../runtime/test.h"

#include <math.h>

static const char head[] =
    "program p stratum 0\nsym t\naxes i=4 j=4 n=2\nin l f32[t]\nin g f32[t 2]\nin A f32[1]\n"
    "in x f32[t]\nout y f32[t]\nout z f32[t 2]\nkernel k\n";

static Prog *parse(Arena *a, const char *text) {
    Diag d = {.arena = a, .file = "p", .source = text, .source_len = strlen(text)};
    Prog *p = ssd_tile_parse(a, text, strlen(text), "p", &d);
    Text why = {0};
    if (!CHECK(p != NULL)) {
        ssd_diag_print(&d, &why);
        printf("%s\n%s", text, why.s);
        ssd_text_free(&why);
        exit(1);
    }
    return p;
}

static char *pass(Arena *a, Prog *p, bool *out_changed) {
    Unit u = {.arena = a, .prog = p};
    *out_changed = ssd_pass_exp2(&u);
    Text t = {0}, why = {0};
    if (!CHECK(ssd_tile_verify(p, &why))) printf("%s\n", why.s);
    ssd_tile_print(p, &t);
    char *s = ssd_arena_dup(a, t.s, t.n);
    ssd_text_free(&t);
    ssd_text_free(&why);
    return s;
}

static void test_text(void) {
    static const struct {
        const char *before, *after; // bodies
    } table[] = {
        // nothing to do
        {"  v = load l[i] : f32[i]\n"
         "  w = map {v*2} : f32[i]\n"
         "  store y[i] = w\n",
         NULL},
        // through scan, renaming and slice to the factor with the fewest axes
        {"  a = map {-exp(A[0])} : f32\n"
         "  d = load l[j] : f32[j]\n"
         "  ld = map {softplus(d)*a} : f32[j]\n"
         "  cj = scan sum j ld : f32[j]\n"
         "  ci = rename cj j->i : f32[i]\n"
         "  e = at cj j=3 : f32\n"
         "  M = map {where(i >= j, exp(ci - cj), 0)} : f32[i j]\n"
         "  s = reduce sum j {M*exp(e - cj)} : f32[i]\n"
         "  store y[i] = s*exp(ci)\n",
         "  a = map {-exp2(A[0]*log2e)*log2e} : f32\n"
         "  d = load l[j] : f32[j]\n"
         "  ld = map {softplus(d)*a} : f32[j]\n"
         "  cj = scan sum j ld : f32[j]\n"
         "  ci = rename cj j->i : f32[i]\n"
         "  e = at cj j=3 : f32\n"
         "  M = map {where(i >= j, exp2(ci - cj), 0)} : f32[i j]\n"
         "  s = reduce sum j {M*exp2(e - cj)} : f32[i]\n"
         "  store y[i] = s*exp2(ci)\n"},
        // a scanned load is copied once for both scans
        {"  d = load l[j] : f32[j]\n"
         "  c1 = scan sum j d : f32[j]\n"
         "  c2 = scan sum j d excl : f32[j]\n"
         "  store y[j] = exp(c1) + exp(-c2)*d\n",
         "  d = load l[j] : f32[j]\n"
         "  d2 = map {d*log2e} : f32[j]\n"
         "  c1 = scan sum j d2 : f32[j]\n"
         "  c2 = scan sum j d2 excl : f32[j]\n"
         "  store y[j] = exp2(c1) + exp2(-c2)*d\n"},
        // a value that is stored too keeps its scale: the factor stays with the exps
        {"  d = load l[j] : f32[j]\n"
         "  cj = scan sum j d : f32[j]\n"
         "  ci = rename cj j->i : f32[i]\n"
         "  store y[j] = cj\n"
         "  M = map {exp(ci - cj)} : f32[i j]\n"
         "  s = reduce sum j {M} : f32[i]\n"
         "  store y[i] = s\n",
         "  d = load l[j] : f32[j]\n"
         "  cj = scan sum j d : f32[j]\n"
         "  cj2 = map {cj*log2e} : f32[j]\n"
         "  ci = rename cj2 j->i : f32[i]\n"
         "  store y[j] = cj\n"
         "  M = map {exp2(ci - cj*log2e)} : f32[i j]\n"
         "  s = reduce sum j {M} : f32[i]\n"
         "  store y[i] = s\n"},
        // no scan: in place, numbers fold
        {"  d = load l[j] : f32[j]\n"
         "  store y[j] = exp(-0.5*d) + exp(d*d) + exp(-exp(A[0])*d) + exp(d + 1)\n",
         "  d = load l[j] : f32[j]\n"
         "  store y[j] = exp2(-0.7213475204444817*d) + exp2(d*log2e*d) + "
         "exp2(-exp2(A[0]*log2e)*log2e*d) + "
         "exp2(d*log2e + log2e)\n"},
        // carries, a zero tile as their start, where with a condition that is no exponent
        {"  z0 = fill 0[n] : f32[n]\n"
         "  for c in 0..2 carry gap=0.0, tile=z0, s=z0\n"
         "    d = load l[c*4+j] : f32[j]\n"
         "    v = load g[c, n] : f32[n]\n"
         "    cj = scan sum j d : f32[j]\n"
         "    e = at cj j=3 : f32\n"
         "    g1 = map {where(c == 0, 0, gap + e)} : f32\n"
         "    t1 = map {tile + v} : f32[n]\n"
         "    s1 = map {s*exp(min(gap, 0))*exp(tile)} : f32[n]\n"
         "    yield g1, t1, s1\n"
         "  store z[0, n] = s\n",
         "  z0 = fill 0[n] : f32[n]\n"
         "  for c in 0..2 carry gap=0.0, tile=z0, s=z0\n"
         "    d = load l[c*4+j] : f32[j]\n"
         "    v = load g[c, n] : f32[n]\n"
         "    d2 = map {d*log2e} : f32[j]\n"
         "    cj = scan sum j d2 : f32[j]\n"
         "    e = at cj j=3 : f32\n"
         "    g1 = map {where(c == 0, 0, gap + e)} : f32\n"
         "    t1 = map {tile + v*log2e} : f32[n]\n"
         "    s1 = map {s*exp2(min(gap, 0))*exp2(tile)} : f32[n]\n"
         "    yield g1, t1, s1\n"
         "  store z[0, n] = s\n"},
        // a carry that starts as a tile of another kind
        {"  v0 = load g[0, n] : f32[n]\n"
         "  for c in 0..2 carry tile=v0\n"
         "    t1 = map {tile - v0} : f32[n]\n"
         "    store z[c, n] = exp(tile)\n"
         "    yield t1\n",
         "  v0 = load g[0, n] : f32[n]\n"
         "  v02 = map {v0*log2e} : f32[n]\n"
         "  for c in 0..2 carry tile=v02\n"
         "    t1 = map {tile - v0*log2e} : f32[n]\n"
         "    store z[c, n] = exp2(tile)\n"
         "    yield t1\n"},
        // the product of two scaled values is none: both keep their scale
        {"  d = load l[j] : f32[j]\n"
         "  u = map {d + 1} : f32[j]\n"
         "  store y[j] = exp(u*u) + exp(u)\n",
         "  d = load l[j] : f32[j]\n"
         "  u = map {d + 1} : f32[j]\n"
         "  store y[j] = exp2(u*log2e*u) + exp2(u*log2e)\n"},
        // a rounding point is not moved across
        {"  d = load l[j] : f32[j]\n"
         "  u = map {d + 1} : bf16[j]\n"
         "  store y[j] = exp(u)\n",
         "  d = load l[j] : f32[j]\n"
         "  u = map {d + 1} : bf16[j]\n"
         "  store y[j] = exp2(u*log2e)\n"},
    };
    for (size_t i = 0; i < COUNTOF(table); i++) {
        Arena a = {0};
        bool changed;
        Prog *p = parse(&a, ssd_arena_printf(&a, "%s%s", head, table[i].before));
        const char *after = table[i].after ? table[i].after : table[i].before;
        CHECK_SAME(strstr(pass(&a, p, &changed), "kernel k\n") + 9, after);
        CHECK(changed == (table[i].after != NULL));
        pass(&a, p, &changed);
        CHECK(!changed); // nothing is left for a second run
        ssd_arena_free(&a);
    }
}

// --- Meaning ------------------------------------------------------------------------------------
static void fill(Arena *a, const Prog *p, TileRun *r) {
    u64 state = 5;
    r->tensor = NEWN(a, Array, p->tensors.n);
    for (u32 i = 0; i < p->syms.n; i++) r->sym[i] = p->syms.v[i][0] == 't' ? 53 : 2;
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *t = &p->tensors.v[i];
        Array *x = &r->tensor[i];
        if (t->role == T_WS) continue;
        x->rank = t->rank;
        for (int k = 0; k < t->rank; k++) x->dims[k] = ssd_ex_eval_sym(p, t->dim[k], r->sym);
        x->v = NEWN(a, double, ssd_array_count(x));
        bool decay = !strcmp(t->name, "l") || !strcmp(t->name, "g") || t->name[0] == 'l';
        for (i64 k = 0; k < ssd_array_count(x); k++) {
            double v = test_random(&state) / 0x1p31 - 0.5;
            x->v[k] = t->role == T_OUT      ? NAN
                      : decay               ? v - 0.5
                      : t->dtype == SSD_I32 ? (double)(k * 20)
                                            : v;
        }
    }
}

static char *without_exp2(Arena *a, const char *s) {
    Text t = {0};
    while (*s) {
        if (!strncmp(s, "exp2(", 5))
            ssd_text_printf(&t, "exp("), s += 5;
        else if (!strncmp(s, "*log2e", 6))
            s += 6;
        else
            ssd_text_put(&t, s++, 1);
    }
    char *r = ssd_arena_dup(a, t.s, t.n);
    ssd_text_free(&t);
    return r;
}

static void test_meaning(void) {
    static const char *const files[] = {"01_forward",   "02_segments",     "03_step",
                                        "04_backward",  "05_vector_decay", "06_delta",
                                        "08_quadratic", "09_packed",       "10_bidirectional"};
    for (size_t f = 0; f < COUNTOF(files); f++) {
        Arena a = {0};
        size_t n;
        char *text = test_read_file(
            ssd_arena_printf(&a, "%s/tests/ir/programs/%s.ssd", SOURCE_DIR, files[f]), &n);
        if (!CHECK(text != NULL)) continue;
        char *plain = without_exp2(&a, text);
        Prog *p[2] = {parse(&a, plain), parse(&a, plain)};
        bool changed;
        char *printed = pass(&a, p[1], &changed);
        CHECK(changed && !strstr(printed, "exp("));
        TileRun r[2] = {0};
        for (int k = 0; k < 2; k++) {
            Text why = {0};
            fill(&a, p[k], &r[k]);
            if (!CHECK(ssd_tile_interp(p[k], &a, &r[k], &why))) printf("%s: %s\n", files[f], why.s);
            ssd_text_free(&why);
        }
        for (u32 i = 1; i < p[0]->tensors.n; i++) {
            if (p[0]->tensors.v[i].role != T_OUT) continue;
            double worst = 0, top = 1e-300;
            for (i64 k = 0; k < ssd_array_count(&r[0].tensor[i]); k++) {
                double u = r[0].tensor[i].v[k], v = r[1].tensor[i].v[k];
                if (isnan(u) && isnan(v)) continue; // rows of no packed sequence
                if (!(fabs(u - v) <= worst)) worst = fabs(u - v);
                top = fmax(top, fabs(u));
            }
            // Rounding of exponents of some tens in double.
            if (!CHECK(worst < 1e-12 * top))
                printf("%s: %s %g\n", files[f], p[0]->tensors.v[i].name, worst / top);
        }
        free(text);
        ssd_arena_free(&a);
    }
}

int main(void) {
    test_text();
    test_meaning();
    return test_end();
}
