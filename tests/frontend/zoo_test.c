// SPDX-License-Identifier: Apache-2.0
// Every spec of the zoo, and those made to test kernels: it has no error and no warning; its graphs
// verify and survive print and parse; recurrence and dense matrix mean the same; a sequence cut in
// two pieces, or read token by token with `step`, gives what the whole gives, final states
// included; packed sequences give what each gives alone; optional inputs may be left out. Then
// mutations of all of them: no crash.
#include "../../frontend/spec.h"
#include "../runtime/test.h"

#include <glob.h>
#include <math.h>

enum { B = 2, T = 7, MAX_TENSORS = 64 };

typedef struct Case {
    Arena arena;
    Diag diag;
    Spec *spec;
    const char *path;
    bool packed, anticausal;
} Case;

static void report(Case *c, const char *what) {
    Text t = {0};
    ssd_diag_print(&c->diag, &t);
    printf("%s: %s\n%s", c->path, what, t.s ? t.s : "");
    ssd_text_free(&t);
}

static Graph *build(Case *c, const char *mode, const char *absent) {
    Graph *g = ssd_spec_build(&c->arena, c->spec, mode, absent, &c->diag);
    Text why = {0}, once = {0}, twice = {0};
    if (!CHECK(g)) {
        report(c, "does not build");
        return NULL;
    }
    if (!CHECK(ssd_graph_verify(g, &why))) report(c, why.s);
    ssd_graph_print(g, &once);
    Graph *again = ssd_graph_parse(&c->arena, once.s, once.n, "graph", &c->diag);
    if (CHECK(again)) ssd_graph_print(again, &twice);
    if (twice.s) CHECK_SAME(twice.s, once.s);
    ssd_text_free(&why);
    ssd_text_free(&once);
    ssd_text_free(&twice);
    return g;
}

// --- Tensors ------------------------------------------------------------------------------------

static Array make(Arena *a, const SpecTensor *t, i64 b, i64 len, i64 s) {
    Array x = {.rank = t->naxes};
    for (int i = 0; i < t->naxes; i++) {
        const char *n = t->axis[i];
        x.dims[i] = t->size[i] >= 0 ? t->size[i]
                    : *n == 'b'     ? b
                    : *n == 't'     ? len
                    : n[1]          ? s + 1
                                    : s;
    }
    x.v = NEWN(a, double, ssd_array_count(&x) + 1);
    return x;
}

static Array random_array(Arena *a, const SpecTensor *t, i64 b, i64 len, i64 s, u64 *seed) {
    Array x = make(a, t, b, len, s);
    for (i64 i = 0; i < ssd_array_count(&x); i++)
        x.v[i] = (double)(test_random(seed) % 2001) / 1000 - 1;
    if (t->hint && !strcmp(t->hint, "cu_seqlens"))
        for (i64 i = 0; i <= s; i++)
            x.v[i] = i == 1 ? 0 : (double)(i * len / s); // the first is empty
    return x;
}

// Elements from..from+count of the axis t; the axis is dropped when `drop`. Nothing to do without
// one.
static Array cut(Arena *a, const Array *x, const SpecTensor *t, i64 from, i64 count, bool drop) {
    int at = 0;
    while (at < t->naxes && strcmp(t->axis[at], "t")) at++;
    if (at == t->naxes) return *x;
    Array y = {.rank = x->rank - drop};
    i64 outer = 1, inner = 1;
    for (int i = 0, k = 0; i < x->rank; i++) {
        if (i < at) outer *= x->dims[i];
        if (i > at) inner *= x->dims[i];
        if (i != at || !drop) y.dims[k++] = i == at ? count : x->dims[i];
    }
    y.v = NEWN(a, double, outer *count *inner + 1);
    for (i64 o = 0; o < outer; o++)
        memcpy(y.v + o * count * inner, x->v + (o * x->dims[at] + from) * inner,
               sizeof(double) * (size_t)(count * inner));
    return y;
}

// The largest difference, relative to the largest value; infinite when anything is no number.
static double apart(const Array *x, const Array *y) {
    double d = 0, norm = 1e-30;
    if (ssd_array_count(x) != ssd_array_count(y)) return (double)INFINITY;
    for (i64 i = 0; i < ssd_array_count(x); i++) {
        if (!isfinite(x->v[i]) || !isfinite(y->v[i])) return (double)INFINITY;
        d = fmax(d, fabs(x->v[i] - y->v[i]));
        norm = fmax(norm, fabs(y->v[i]));
    }
    return d / norm;
}

static bool run(Case *c, const Graph *g, const NamedArray *in, int n, Meaning m, i64 b, i64 t,
                NamedArray *out) {
    InterpOptions o = {m, b, t};
    Text why = {0};
    bool ok = ssd_graph_interp(g, &c->arena, in, n, &o, out, &why);
    if (!CHECK(ok)) report(c, why.s ? why.s : "");
    ssd_text_free(&why);
    return ok;
}

static const NamedArray *find(const NamedArray *v, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(v[i].name, name)) return &v[i];
    return NULL;
}

// --- One spec -----------------------------------------------------------------------------------

// All doubles, no rounding: only the order of sums differs.
#define BOUND 1e-11

// Pieces of `lengths` tokens, in mode `mode`, against the whole. What a band reads of the tokens
// before is given to steps alone: as zero, where the whole begins.
static void pieces(Case *c, const char *mode, const i64 *lengths, int count, const NamedArray *in,
                   int n, const NamedArray *want, int wanted) {
    const SpecTensor *ins, *sin, *souts;
    bool step = !strcmp(mode, "step");
    int n_fwd = ssd_spec_inputs(c->spec, "forward", &ins);
    int n_in = ssd_spec_inputs(c->spec, mode, &sin),
        n_out = ssd_spec_outputs(c->spec, mode, &souts);
    Graph *g = build(c, mode, NULL);
    if (!g || !CHECK(n_in <= MAX_TENSORS && n_fwd == n && n_out == wanted &&
                     (int)g->outs.n == n_out && (int)g->ins.n == n_in))
        return;
    NamedArray whole[MAX_TENSORS], state[MAX_TENSORS], part[MAX_TENSORS], out[MAX_TENSORS];
    for (int i = 0; i < n_in; i++) {
        const NamedArray *given = find(in, n, sin[i].name);
        CHECK(given || sin[i].is_state);
        whole[i] = given ? *given : (NamedArray){sin[i].name, make(&c->arena, &sin[i], B, 0, 0)};
        state[i] = whole[i];
    }
    i64 from = 0;
    for (int k = 0; k < count; from += lengths[k++]) {
        for (int i = 0, f = 0; i < n_in; i++) {
            part[i] = state[i];
            if (sin[i].is_state) continue;
            while (strcmp(ins[f].name, sin[i].name)) f++;
            part[i].a = cut(&c->arena, &whole[i].a, &ins[f], from, lengths[k], step);
        }
        if (!run(c, g, part, n_in, MEAN_RECURRENCE, B, lengths[k], out)) return;
        const SpecTensor *outs;
        ssd_spec_outputs(c->spec, "forward", &outs);
        for (int i = 0; i < n_out; i++) {
            if (souts[i].is_state) continue;
            Array w = cut(&c->arena, &want[i].a, &outs[i], from, lengths[k], step);
            double d = apart(&out[i].a, &w);
            if (!CHECK(d < BOUND))
                printf("%s: %s of piece %d, mode %s: %g\n", c->path, out[i].name, k, mode, d);
        }
        // The i-th initial state takes the i-th final one.
        for (int i = 0, o = 0; i < n_in; i++) {
            if (!sin[i].is_state) continue;
            while (!souts[o].is_state) o++;
            state[i].a = out[o++].a;
        }
    }
    for (int i = 0, o = 0; i < n_in; i++) {
        if (!sin[i].is_state) continue;
        while (!souts[o].is_state) o++;
        double d = apart(&state[i].a, &want[o].a);
        if (!CHECK(d < BOUND))
            printf("%s: final state %s, mode %s: %g\n", c->path, want[o].name, mode, d);
        o++;
    }
}

static void meaning(Case *c) {
    const SpecTensor *ins;
    NamedArray in[MAX_TENSORS], want[MAX_TENSORS], dense[MAX_TENSORS];
    u64 seed = 1;
    int n = ssd_spec_inputs(c->spec, "forward", &ins);
    Graph *g = build(c, "forward", NULL);
    if (!g ||
        !CHECK(n <= MAX_TENSORS && g->outs.n <= MAX_TENSORS && (int)g->ins.n == n - c->packed))
        return;
    for (int i = 0; i < n; i++)
        in[i] = (NamedArray){ins[i].name,
                             random_array(&c->arena, &ins[i], c->packed ? 1 : B, T, 3, &seed)};
    if (!run(c, g, in, n, MEAN_RECURRENCE, B, T, want) ||
        !run(c, g, in, n, MEAN_DENSE, B, T, dense))
        return;
    for (u32 i = 0; i < g->outs.n; i++) {
        double d = apart(&dense[i].a, &want[i].a);
        if (!CHECK(d < BOUND))
            printf("%s: %s, dense and recurrent: %g\n", c->path, want[i].name, d);
    }
    static const i64 two[] = {3, 4}, one[] = {1, 1, 1, 1, 1, 1, 1};
    bool step = ssd_spec_has_mode(c->spec, "step");
    const SpecTensor *sin;
    bool cuts = step && ssd_spec_inputs(c->spec, "step", &sin) == n;
    if (cuts && !c->packed) pieces(c, "forward", two, 2, in, n, want, (int)g->outs.n);
    if (step && !c->packed) pieces(c, "step", one, T, in, n, want, (int)g->outs.n);
    if (step && c->packed) build(c, "step", NULL);
}

// Without each optional input the graph lacks it, and with it given its default the result is the
// same.
static void without(Case *c) {
    const SpecTensor *ins;
    Text all = {0};
    int n = ssd_spec_inputs(c->spec, "forward", &ins);
    for (int i = 0; i < n; i++) {
        if (!ins[i].optional) continue;
        ssd_text_printf(&all, " %s", ins[i].name);
        Graph *g = build(c, "forward", ins[i].name);
        for (u32 k = 0; g && k < g->ins.n; k++)
            CHECK(strcmp(g->names.v[g->nodes.v[g->ins.v[k]].name], ins[i].name) != 0);
    }
    Graph *full = build(c, "forward", NULL), *g = build(c, "forward", all.s);
    NamedArray a[MAX_TENSORS], b[MAX_TENSORS], x[MAX_TENSORS], y[MAX_TENSORS];
    int na = 0, nb = 0;
    u64 seed = 2;
    bool none = false;
    for (int i = 0; i < n; i++) {
        NamedArray v = {ins[i].name,
                        random_array(&c->arena, &ins[i], c->packed ? 1 : B, T, 3, &seed)};
        none |= ins[i].none;
        if (!ins[i].optional) a[na++] = b[nb++] = v;
    }
    // What has a default may be missing from the arguments too; `none` may not.
    if (full && g && !none && run(c, full, a, na, MEAN_RECURRENCE, B, T, x) &&
        run(c, g, b, nb, MEAN_RECURRENCE, B, T, y))
        for (u32 i = 0; i < g->outs.n; i++)
            CHECK(find(x, (int)full->outs.n, y[i].name) &&
                  apart(&y[i].a, &find(x, (int)full->outs.n, y[i].name)->a) < BOUND);
    ssd_text_free(&all);
}

static void open_case(Case *c, const char *path, const char *text, size_t n, const char *dims) {
    *c = (Case){.path = path};
    c->diag.arena = &c->arena;
    c->packed = strstr(text, "sequences: packed");
    c->spec = ssd_spec_parse(&c->arena, text, n, path, dims, &c->diag);
}

// Row `k` of a state's first axis.
static Array row(Arena *a, const Array *x, i64 k) {
    Array y = *x;
    y.dims[0] = 1;
    i64 n = ssd_array_count(&y);
    y.v = NEWN(a, double, n + 1);
    memcpy(y.v, x->v + k * n, sizeof(double) * (size_t)n);
    return y;
}

// The same spec with its sequences packed: each gives what it gives alone.
static void packed(const char *path, const char *text, const char *dims) {
    static const i64 cu[] = {0, 0, T / 3, T};
    Case alone, all;
    Text t = {0};
    const char *rest = strchr(strstr(text, "name:"), '\n') + 1;
    ssd_text_printf(&t, "%.*ssequences: packed\n%s", (int)(rest - text), text, rest);
    open_case(&alone, path, text, strlen(text), dims);
    open_case(&all, path, t.s, t.n, dims);
    const SpecTensor *ins, *outs;
    NamedArray in[MAX_TENSORS], one[MAX_TENSORS], whole[MAX_TENSORS], out[MAX_TENSORS];
    u64 seed = 5;
    if (!CHECK(alone.spec && all.spec)) goto done;
    int n = ssd_spec_inputs(all.spec, "forward", &ins);
    ssd_spec_outputs(all.spec, "forward", &outs);
    Graph *g = build(&all, "forward", NULL), *g1 = build(&alone, "forward", NULL);
    for (int i = 0; i < n; i++) {
        in[i] = (NamedArray){ins[i].name, random_array(&all.arena, &ins[i], 1, T, 3, &seed)};
        for (i64 k = 0; i == n - 1 && k <= 3; k++) in[i].a.v[k] = (double)cu[k];
    }
    if (!g || !g1 || !run(&all, g, in, n, MEAN_RECURRENCE, 1, T, whole)) goto done;
    for (i64 k = 0; k < 3; k++) {
        i64 len = cu[k + 1] - cu[k];
        for (int i = 0; i < n - 1; i++)
            one[i] = (NamedArray){in[i].name, ins[i].is_state ? row(&all.arena, &in[i].a, k)
                                                              : cut(&all.arena, &in[i].a, &ins[i],
                                                                    cu[k], len, false)};
        if (!run(&alone, g1, one, n - 1, MEAN_RECURRENCE, 1, len, out)) goto done;
        for (u32 i = 0; i < g->outs.n; i++) {
            Array want = outs[i].is_state
                             ? row(&all.arena, &whole[i].a, k)
                             : cut(&all.arena, &whole[i].a, &outs[i], cu[k], len, false);
            double d = apart(&out[i].a, &want);
            if (!CHECK(d < BOUND))
                printf("%s: packed sequence %d, %s: %g\n", path, (int)k, out[i].name, d);
        }
    }
done:
    ssd_text_free(&t);
    ssd_arena_free(&alone.arena);
    ssd_arena_free(&all.arena);
}

static void test_spec(const char *path, const char *text, size_t n) {
    Case c;
    open_case(&c, path, text, n, NULL);
    bool plain = c.spec && c.diag.items.n == 0;
    if (!CHECK(plain))
        report(&c, "has errors or warnings");
    else
        build(&c, "forward", NULL);
    ssd_arena_free(&c.arena);
    if (!plain) return;
    // Published sizes mean the same at any size.
    const char *small = strstr(text, "dims: {heads: 4,") || !strstr(text, "groups:")
                            ? NULL
                            : "heads=4 groups=2 head_dim=6 state_size=10";
    open_case(&c, path, text, n, small);
    if (CHECK(c.spec)) meaning(&c), without(&c);
    bool more = !c.packed;
    ssd_arena_free(&c.arena);
    if (more) packed(path, text, small);
}

// --- Mutations ----------------------------------------------------------------------------------

static void test_mutations(const char *path, const char *text, size_t n, u64 *seed) {
    static const char marks[] = ":-{}[],#&*!|>'\"%@`\n \t()=<+/.0129eE_nbt\0\xff\xc3";
    char *copy = malloc(n + 8);
    bool sane = true;
    for (int round = 0; round < 60; round++) {
        size_t len = n;
        memcpy(copy, text, n);
        u32 kind = test_random(seed) % 4;
        if (kind == 0) len = test_random(seed) % (n + 1);
        for (u32 i = 0, k = 1 + test_random(seed) % 4; kind && i < k; i++) {
            size_t at = test_random(seed) % len;
            if (kind == 1) copy[at] = (char)test_random(seed);
            if (kind == 2) copy[at] = marks[test_random(seed) % sizeof marks];
            if (kind == 3) memmove(copy + at, copy + at + 1, --len - at);
        }
        Case c;
        c.path = path;
        copy[len] = 0;
        open_case(&c, path, copy, len, NULL);
        sane &= !c.spec == (c.diag.errors > 0);
        Text t = {0};
        static const char *const modes[] = {"forward", "step"};
        for (int m = 0; c.spec && m < 2; m++) {
            Graph *g = ssd_spec_has_mode(c.spec, modes[m])
                           ? ssd_spec_build(&c.arena, c.spec, modes[m], NULL, &c.diag)
                           : NULL;
            if (g) sane &= ssd_graph_verify(g, &t);
        }
        ssd_diag_print(&c.diag, &t);
        if (!sane) printf("%s: round %d:\n%s\n%.*s\n", path, round, t.s, (int)len, copy);
        ssd_text_free(&t);
        ssd_arena_free(&c.arena);
        if (!sane) break;
    }
    CHECK(sane);
    free(copy);
}

int main(int argc, char **argv) {
    glob_t g;
    u64 seed = argc > 1 ? (u64)atoll(argv[1]) : 3;
    if (CHECK(glob(SOURCE_DIR "/specs/*.yaml", 0, NULL, &g) == 0 && g.gl_pathc > 30 &&
              glob(SOURCE_DIR "/tests/run/*.yaml", GLOB_APPEND, NULL, &g) == 0))
        for (size_t i = 0; i < g.gl_pathc; i++) {
            size_t n;
            char *text = test_read_file(g.gl_pathv[i], &n);
            if (argc < 2) test_spec(g.gl_pathv[i], text, n);
            test_mutations(g.gl_pathv[i], text, n, &seed);
            free(text);
        }
    globfree(&g);
    return test_end();
}
