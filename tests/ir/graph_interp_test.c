// SPDX-License-Identifier: Apache-2.0
// The meaning of graphs: recurrence against dense matrix for every attribute of ssd, both against
// sums written out from the definition, and what sequences promise: split = whole, packed =
// separate, steps = whole. Bounds are 1e-12: sums of some hundred products in double.
#include "graph_make.h"

#define BOUND 1e-12

typedef struct Case {
    u8 time, flags;
    i32 band;
    const char *q, *k, *v, *l; // axes by letter; l NULL: no decay
    bool h0, packed;
    i64 t;
} Case;

static Kit one_ssd(Arena *a, const Case *c) {
    Kit k = kit(a, "one", c->packed, false, 2, 3, 4);
    Graph *g = k.g;
    Ref q = input(&k, "q", c->q), key = input(&k, "k", c->k), v = input(&k, "v", c->v);
    Ref l = c->l ? input(&k, "l", c->l) : 0, h0 = 0;
    Ref y = ssd_graph_ssd(g, q, key, v, l, 0, (SsdAttr){c->time, c->flags, c->band});
    if (c->h0 && !c->band) {
        SsdAxes x = ssd_graph_ssd_axes(g, y);
        h0 = ssd_graph_in(g, "h0", SSD_F32, x.state, x.nstate, NULL);
        y = ssd_graph_ssd(g, q, key, v, l, h0, (SsdAttr){c->time, c->flags, c->band});
    }
    output(&k, "y", y);
    if (!c->band) output(&k, "hT", ssd_graph_final(g, y));
    return k;
}

static void agree(const Case *c) {
    Arena a = {0};
    Kit k = one_ssd(&a, c);
    i64 cu[] = {0, c->t / 3, c->t / 3, c->t - c->t / 4, c->t};
    Sizes z = {.b = c->packed ? 1 : 2, .t = c->t, .cu = cu, .s = 4};
    NamedArray in[8], x[2], y[2];
    int n = draw_inputs(&a, k.g, z, in);
    verified(k.g);
    if (interp(k.g, &a, in, n, MEAN_RECURRENCE, x) && interp(k.g, &a, in, n, MEAN_DENSE, y))
        for (u32 i = 0; i < k.g->outs.n; i++) {
            double d = distance(&x[i].a, &y[i].a);
            if (!CHECK(d <= BOUND))
                printf("  %s: %g time %d flags %d band %d q %s l %s t %d\n", x[i].name, d, c->time,
                       c->flags, c->band, c->q, c->l ? c->l : "-", (int)c->t);
        }
    ssd_arena_free(&a);
}

// Every attribute x decay x length; operands with and without batch, time, head and features.
static void test_agree(void) {
    static const char *const decays[] = {NULL, "t", "h", "bth", "bthn", "btp", "thpn"};
    static const struct {
        const char *q, *k, *v;
    } shapes[] = {{"bthn", "bthn", "bthp"}, {"btn", "thn", "bthp"}, {"bt", "", "bthp"},
                  {"bthn", "bthn", ""},     {"hn", "n", "thp"},     {"bthnp", "btn", "btp"},
                  {"bthnm", "btmn", "bp"},  {"tn", "tn", "tpm"}};
    static const struct {
        u8 flags;
        i32 band;
    } masks[] = {{0, 0}, {SSD_DIAG_OUT, 0}, {SSD_READ_BEFORE, 0}, {SSD_FULL, 0}, {0, 1},
                 {0, 3}, {SSD_DIAG_OUT, 2}, {SSD_READ_BEFORE, 4}, {0, 100}};
    static const i64 lengths[] = {0, 1, 2, 13};
    for (size_t s = 0; s < COUNTOF(shapes); s++)
        for (size_t d = 0; d < COUNTOF(decays); d++)
            for (size_t m = 0; m < COUNTOF(masks); m++)
                for (u8 time = TIME_FWD; time <= TIME_REV; time++)
                    for (size_t t = 0; t < COUNTOF(lengths); t++) {
                        Case c = {.time = time,
                                  .flags = masks[m].flags,
                                  .band = masks[m].band,
                                  .q = shapes[s].q,
                                  .k = shapes[s].k,
                                  .v = shapes[s].v,
                                  .l = decays[d],
                                  .h0 = (s + d + t) % 2,
                                  .packed = (s + m + time) % 3 == 0,
                                  .t = lengths[t]};
                        const char *l = c.l ? c.l : "";
                        if (*l && c.flags & SSD_FULL) continue;
                        if (strchr(l, 'n') && !strchr(c.k, 'n')) continue;
                        if (strchr(l, 'p') && !strchr(c.v, 'p')) continue;
                        agree(&c);
                    }
}

// y and hT from the definition in graph.h, for scalars, in original token order.
static void definition(const Case *c, i64 T, const double *q, const double *k, const double *v,
                       const double *l, double h0, double *y, double *hT) {
    bool fwd = c->time == TIME_FWD, flip = c->time == TIME_FLIP, full = c->flags & SSD_FULL;
    bool before = c->flags & SSD_READ_BEFORE, strict = before || c->flags & SSD_DIAG_OUT;
    *hT = 0;
    double all = 0;
    for (i64 i = 0; i < T && !full; i++) all += l[i];
    for (i64 i = 0; i < T; i++) {
        double out = 0, in = 0, s = 0;
        for (i64 j = 0; j < T; j++) {
            i64 gap = fwd ? i - j : j - i; // how long before its read a write was
            if (!full && (gap < 0 || (gap == 0 && strict) || (c->band && gap >= c->band))) continue;
            double sum = 0;
            for (i64 m = 0; m < T && !full; m++) {
                bool in_range = fwd ? m > j && m <= i : flip ? m >= i && m < j : m > i && m <= j;
                if (before && fwd && m == i) in_range = false;
                if (before && flip && m == i) in_range = false;
                if (before && c->time == TIME_REV && m == j) in_range = false;
                if (in_range) sum += l[m];
            }
            out += exp(sum) * q[i] * k[j] * v[j];
        }
        for (i64 m = 0; m < T && !full; m++) { // from the start of the walk to this read
            bool passed_by = fwd ? m <= i : m >= i;
            if (m == i && (before || c->time == TIME_REV)) passed_by = false;
            if (passed_by) in += l[m];
        }
        for (i64 m = 0; m < T && !full; m++) // from this write to the end of the walk
            if (fwd ? m > i : m < i || (m == i && c->time == TIME_REV && !before)) s += l[m];
        y[i] = out + exp(in) * h0 * q[i];
        *hT += exp(s) * v[i] * k[i];
    }
    *hT += exp(all) * h0;
}

static void test_definition(void) {
    enum { T = 7 };
    for (int i = 0; i < 3 * 4 * 3 * 2; i++) {
        static const u8 flags[] = {0, SSD_DIAG_OUT, SSD_READ_BEFORE, SSD_FULL};
        static const i32 bands[] = {0, 1, 3};
        Case c = {.time = (u8)(i % 3),
                  .flags = flags[i / 3 % 4],
                  .band = bands[i / 12 % 3],
                  .q = "t",
                  .k = "t",
                  .v = "t",
                  .l = "t",
                  .h0 = i / 36};
        if (c.flags & SSD_FULL && c.band) continue;
        if (c.flags & SSD_FULL) c.l = NULL;
        Arena a = {0};
        Kit k = one_ssd(&a, &c);
        NamedArray in[8], out[2];
        int n = draw_inputs(&a, k.g, (Sizes){.b = 1, .t = T}, in);
        double zero[T] = {0}, y[T], hT;
        bool h0 = find_array(in, n, "h0") != NULL;
        definition(&c, T, in[0].a.v, in[1].a.v, in[2].a.v, c.l ? in[3].a.v : zero,
                   h0 ? find_array(in, n, "h0")->a.v[0] : 0, y, &hT);
        for (int m = MEAN_RECURRENCE; m <= MEAN_DENSE; m++) {
            if (!interp(k.g, &a, in, n, (Meaning)m, out)) continue;
            Array want = {.rank = 1, .dims = {T}, .v = y};
            if (!CHECK(distance(&out[0].a, &want) <= BOUND))
                printf("  time %d flags %d band %d\n", c.time, c.flags, c.band);
            if (k.g->outs.n > 1) CHECK(fabs(out[1].a.v[0] - hT) <= BOUND * (1 + fabs(hT)));
        }
        ssd_arena_free(&a);
    }
}

// A decay of exactly zero: both routes forget, and no inf - inf makes a NaN.
static void test_zero_decay(void) {
    static const char *const decays[] = {"bth", "bthn", "bthp"};
    for (int i = 0; i < 18; i++) {
        Arena a = {0};
        Case c = {.time = (u8)(i % 3),
                  .flags = i / 3 % 2 ? SSD_DIAG_OUT : 0,
                  .q = "bthn",
                  .k = "bthn",
                  .v = "bthp",
                  .l = decays[i / 6],
                  .h0 = true};
        Kit k = one_ssd(&a, &c);
        NamedArray in[8], x[2], y[2];
        int n = draw_inputs(&a, k.g, (Sizes){.b = 2, .t = 9}, in);
        Array *l = &find_array(in, n, "l")->a;
        for (i64 e = 0; e < ssd_array_count(l); e++)
            if (pick(3) == 0) l->v[e] = -INFINITY;
        if (interp(k.g, &a, in, n, MEAN_RECURRENCE, x) && interp(k.g, &a, in, n, MEAN_DENSE, y))
            for (int o = 0; o < 2; o++) {
                CHECK(distance(&x[o].a, &y[o].a) <= BOUND);
                for (i64 e = 0; e < ssd_array_count(&y[o].a); e++)
                    if (isnan(y[o].a.v[e])) CHECK(!"NaN from a zero decay");
            }
        ssd_arena_free(&a);
    }
}

// --- Sequences ----------------------------------------------------------------------------------

// Tokens from .. to of an array whose axis `at` is time.
static Array cut(Arena *a, const Array *x, int at, i64 from, i64 to) {
    Array r = *x;
    i64 outer = 1, inner = 1;
    r.dims[at] = to - from;
    for (int i = 0; i < at; i++) outer *= x->dims[i];
    for (int i = at + 1; i < x->rank; i++) inner *= x->dims[i];
    r.v = NEWN(a, double, ssd_array_count(&r) + 1);
    for (i64 o = 0; o < outer; o++)
        memcpy(r.v + o * (to - from) * inner, x->v + (o * x->dims[at] + from) * inner,
               sizeof(double) * (size_t)((to - from) * inner));
    return r;
}

static int time_place(const Graph *g, const AxisId *ax, int n) {
    for (int i = 0; i < n; i++)
        if (g->axes.v[ax[i]].kind == AX_TIME) return i;
    return -1;
}

static int cut_inputs(Arena *a, const Graph *g, NamedArray *in, int n, i64 from, i64 to,
                      NamedArray *part) {
    for (int i = 0; i < n; i++) {
        const Node *x = ssd_graph_node(g, g->ins.v[i]);
        int at = time_place(g, x->ax, x->naxes);
        part[i] = in[i];
        if (at >= 0) part[i].a = cut(a, &in[i].a, at, from, to);
    }
    return n;
}

// The states out of one run into the next.
static void hand_over(const Graph *g, NamedArray *out, NamedArray *in, int n) {
    for (u32 i = 0; i < g->states.n; i++)
        find_array(in, n, g->states.v[i].in_name)->a =
            find_array(out, (int)g->outs.n, g->states.v[i].out_name)->a;
}

// Splits at every place, the middle parts shorter than the shift's window too.
static void test_split(void) {
    enum { T = 9 };
    for (int m = MEAN_RECURRENCE; m <= MEAN_DENSE; m++)
        for (int at = 0; at <= T; at++) {
            Arena a = {0};
            Kit k = layer(&a, false, false, false);
            NamedArray in[8], part[8], whole[4], out[4];
            int n = draw_inputs(&a, k.g, (Sizes){.b = 2, .t = T}, in);
            i64 cuts[] = {0, at, MIN(at + 1, T), T};
            interp(k.g, &a, in, n, (Meaning)m, whole);
            NamedArray states[8];
            memcpy(states, in, sizeof in);
            for (int c = 0; c < 3; c++) {
                cut_inputs(&a, k.g, states, n, cuts[c], cuts[c + 1], part);
                if (!interp(k.g, &a, part, n, (Meaning)m, out)) break;
                Array want = cut(&a, &whole[0].a, 1, cuts[c], cuts[c + 1]);
                CHECK(distance(&out[0].a, &want) <= BOUND);
                hand_over(k.g, out, states, n);
            }
            for (int i = 1; i < 4; i++) CHECK(distance(&out[i].a, &whole[i].a) <= BOUND);
            ssd_arena_free(&a);
        }
}

// flip and rev start at the end: the later part runs first.
static void test_split_backward(void) {
    enum { T = 8 };
    for (int i = 0; i < 12; i++) {
        static const u8 flags[] = {0, SSD_DIAG_OUT, SSD_READ_BEFORE};
        Case c = {.time = (u8)(TIME_FLIP + i % 2),
                  .flags = flags[i / 2 % 3],
                  .q = "bthn",
                  .k = "bthn",
                  .v = "bthp",
                  .l = i / 6 ? "bth" : "bthn",
                  .h0 = true};
        Arena a = {0};
        Kit k = one_ssd(&a, &c);
        NamedArray in[8], part[8], whole[2], out[2];
        int n = draw_inputs(&a, k.g, (Sizes){.b = 1, .t = T}, in);
        interp(k.g, &a, in, n, MEAN_DENSE, whole);
        for (i64 to = T, from = 5; to > 0; to = from, from = 0) {
            cut_inputs(&a, k.g, in, n, from, to, part);
            if (!interp(k.g, &a, part, n, MEAN_RECURRENCE, out)) break;
            Array want = cut(&a, &whole[0].a, 1, from, to);
            CHECK(distance(&out[0].a, &want) <= BOUND);
            find_array(in, n, "h0")->a = out[1].a;
        }
        CHECK(distance(&out[1].a, &whole[1].a) <= BOUND);
        ssd_arena_free(&a);
    }
}

// One row s of every state input.
static void row_of_states(Arena *a, const Graph *g, NamedArray *in, int n, i64 s) {
    for (u32 i = 0; i < g->states.n; i++) {
        NamedArray *x = find_array(in, n, g->states.v[i].in_name);
        x->a = cut(a, &x->a, 0, s, s + 1);
    }
}

static void test_packed(void) {
    static const i64 cu[] = {0, 4, 4, 5, 12};
    enum { S = 4, T = 12, BAD = 3 }; // sequence BAD holds NaN
    for (int m = MEAN_RECURRENCE; m <= MEAN_DENSE; m++) {
        Arena a = {0};
        Kit k = layer(&a, true, false, true), one = layer(&a, false, false, true);
        NamedArray in[9], part[9], all[4], out[4];
        int n = draw_inputs(&a, k.g, (Sizes){.b = 1, .t = T, .cu = cu, .s = S}, in);
        for (i64 e = cu[BAD] * 6; e < cu[BAD + 1] * 6; e++) find_array(in, n, "x")->a.v[e] = NAN;
        verified(k.g);
        interp(k.g, &a, in, n, (Meaning)m, all);
        for (i64 s = 0; s < S; s++) {
            cut_inputs(&a, one.g, in, n - 1, cu[s], cu[s + 1], part);
            row_of_states(&a, one.g, part, n - 1, s);
            if (!interp(one.g, &a, part, n - 1, (Meaning)m, out)) continue;
            for (int o = 0; o < 4; o++) {
                Array mine =
                    o ? cut(&a, &all[o].a, 0, s, s + 1) : cut(&a, &all[o].a, 1, cu[s], cu[s + 1]);
                CHECK(distance(&mine, &out[o].a) == 0);
                bool nan = false;
                for (i64 e = 0; e < ssd_array_count(&mine); e++) nan |= isnan(mine.v[e]);
                CHECK(nan == (s == BAD && strcmp(out[o].name, "cT") != 0));
            }
        }
        ssd_arena_free(&a);
    }
}

static void test_step(void) {
    enum { T = 6 };
    Arena a = {0};
    Kit k = layer(&a, false, false, false), step = layer(&a, false, true, false);
    NamedArray in[8], part[8], whole[4], out[4];
    int n = draw_inputs(&a, k.g, (Sizes){.b = 2, .t = T}, in);
    verified(step.g);
    interp(k.g, &a, in, n, MEAN_RECURRENCE, whole);
    for (i64 t = 0; t < T; t++) {
        cut_inputs(&a, k.g, in, n, t, t + 1, part);
        for (int i = 0; i < n; i++) { // drop the axis of one token
            const Node *x = ssd_graph_node(k.g, k.g->ins.v[i]);
            int at = time_place(k.g, x->ax, x->naxes);
            for (int d = at; at >= 0 && d + 1 < x->naxes; d++)
                part[i].a.dims[d] = part[i].a.dims[d + 1];
            part[i].a.rank -= at >= 0;
        }
        if (!interp(step.g, &a, part, n, t % 2 ? MEAN_DENSE : MEAN_RECURRENCE, out)) break;
        Array want = cut(&a, &whole[0].a, 1, t, t + 1);
        CHECK(out[0].a.rank == 3);
        memmove(want.dims + 1, want.dims + 2, 2 * sizeof(i64));
        want.rank = 3;
        CHECK(distance(&out[0].a, &want) <= BOUND);
        hand_over(step.g, out, in, n);
    }
    for (int i = 1; i < 4; i++) CHECK(distance(&out[i].a, &whole[i].a) <= BOUND);
    ssd_arena_free(&a);
}

// --- Ops by numbers -----------------------------------------------------------------------------

// Runs the text with x = 0, 1, 2, .. and compares the one output with `want`.
static void expect(const char *body, int nx, const double *want, int n) {
    Arena a = {0};
    Diag d = {.arena = &a};
    char *text = ssd_arena_printf(
        &a,
        "graph t\naxis b batch\naxis t time\naxis h head 4\naxis g group 2\naxis p feature 2\n"
        "axis n feature 4\naxis r feature 3\naxis w window 2\n%s",
        body);
    Graph *g = ssd_graph_parse(&a, text, strlen(text), "t", &d);
    if (!g) {
        Text t = {0};
        ssd_diag_print(&d, &t);
        printf("%s%s", text, t.s);
        ssd_text_free(&t);
    }
    if (CHECK(g != NULL)) {
        NamedArray in = {.name = "x"}, out[2] = {0};
        const Node *x = ssd_graph_node(g, g->ins.v[0]);
        in.a.rank = x->naxes;
        i64 rest = nx;
        for (int i = x->naxes - 1; i >= 0; i--) {
            i64 size = g->axes.v[x->ax[i]].size;
            rest = size > 0 ? rest / size : rest;
            in.a.dims[i] = size > 0 ? size : rest;
        }
        in.a.v = NEWN(&a, double, nx);
        for (int i = 0; i < nx; i++) in.a.v[i] = i;
        if (interp(g, &a, &in, 1, MEAN_DENSE, out)) {
            CHECK(ssd_array_count(&out[0].a) == n);
            for (int i = 0; i < n && i < ssd_array_count(&out[0].a); i++)
                if (!CHECK(out[0].a.v[i] == want[i]))
                    printf("%s: element %d is %g, expected %g\n", body, i, out[0].a.v[i], want[i]);
        }
    }
    ssd_arena_free(&a);
}
#define EXPECT(body, nx, ...)                                                                      \
    expect(body, nx, (const double[]){__VA_ARGS__}, sizeof(double[]){__VA_ARGS__} / sizeof(double))

static void test_ops(void) {
    EXPECT("x = in : f32[n]\ny = swap x axis=n pairing=adjacent : f32[n]\nout y : f32[n] = y\n", 4,
           -1, 0, -3, 2);
    EXPECT("x = in : f32[n]\ny = swap x axis=n pairing=halves : f32[n]\nout y : f32[n] = y\n", 4,
           -2, -3, 0, 1);
    EXPECT("x = in : f32[g p]\ny = spread x axis=g to=h : f32[h p]\nout y : f32[h p] = y\n", 4, 0,
           1, 0, 1, 2, 3, 2, 3);
    EXPECT("x = in : f32[h p]\ny = fold x axis=h to=g : f32[g p]\nout y : f32[g p] = y\n", 8, 2, 4,
           10, 12);
    EXPECT("x = in : f32[h p]\ny = sum x axis=h : f32[p]\nout y : f32[p] = y\n", 8, 12, 16);
    EXPECT("x = in : f32[h p]\ny = amax x axis=p : f32[h]\nout y : f32[h] = y\n", 8, 1, 3, 5, 7);
    EXPECT("x = in : f32[g n]\ny = slice x axis=n to=p from=1 : f32[g p]\nout y : f32[p g] = y\n",
           8, 1, 5, 2, 6);
    EXPECT("x = in : f32[g n]\ny = slice x axis=n from=3 : f32[g]\nout y : f32[g] = y\n", 8, 3, 7);
    EXPECT("x = in : f32[g p]\ny = cat x 9 axis=p to=r : f32[g r]\nout y : f32[g r] = y\n", 4, 0, 1,
           9, 2, 3, 9);
    EXPECT("x = in : f32[g]\ny = cat 7 x x to=r : f32[g r]\nout y : f32[g r] = y\n", 2, 7, 0, 0, 7,
           1, 1);
    EXPECT("x = in : f32[t]\ny = shift x k=2 : f32[t]\nout y : f32[t] = y\n", 5, 0, 0, 0, 1, 2);
    EXPECT("x = in : f32[t]\ny = shift x k=2 to=w : f32[t]\nz = final y : f32[w]\n"
           "out z : f32[w] = z\n",
           5, 3, 4);
    EXPECT("x = in : f32[t]\ny = shift x k=2 to=w : f32[t]\nz = final y : f32[w]\n"
           "out z : f32[w] = z\n",
           1, 0, 0);
    EXPECT("x = in : f32[t]\ny = scan x kind=sum : f32[t]\nout y : f32[t] = y\n", 5, 0, 1, 3, 6,
           10);
    EXPECT("x = in : f32[t]\n%2 = fn neg x : f32[t]\ny = scan %2 -2.5 kind=max : f32[t]\n"
           "out y : f32[t] = y\n",
           4, 0, 0, 0, 0);
    EXPECT("x = in : f32[t]\n%2 = fn sub x 3 : f32[t]\ny = scan %2 -2.5 kind=max : f32[t]\n"
           "out y : f32[t] = y\n",
           4, -2.5, -2, -1, 0);
    EXPECT("x = in : f32[p]\n%2 = fn add x 1.00390625 : f32[p]\ny = cast %2 : bf16[p]\n"
           "out y : f32[p] = y\n",
           2, 1, 2);
    EXPECT("x = in : f32[p]\n%2 = fn mul x 65519 : f32[p]\ny = cast %2 : f16[p]\n"
           "out y : f32[p] = y\n",
           2, 0, 65504);
    EXPECT("x = in : f32[p]\n%2 = fn mul x 65520 : f32[p]\ny = cast %2 : f16[p]\n"
           "out y : f32[p] = y\n",
           2, 0, INFINITY);
    EXPECT("x = in : f32[p]\n%2 = fn mul x 1e-07 : f32[p]\ny = cast %2 : f16[p]\n"
           "out y : f32[p] = y\n",
           2, 0, 0x1p-23);
    EXPECT("x = in : f32[t]\n%2 = index axis=t : idx[t]\n%3 = size axis=t : idx[]\n"
           "y = fn sub %3 %2 : f32[t]\nout y : f32[t] = y\n",
           3, 3, 2, 1);
}

// A normaliser alone: value 1 without any axis, query and key constants, contraction of one.
static void test_constants(void) {
    EXPECT("x = in : f32[t]\ny = ssd 1 1 1 time=fwd diag=in : f32[t]\n%3 = fn add x y : f32[t]\n"
           "out y : f32[t] = %3\n",
           3, 1, 3, 5);
    EXPECT("x = in : f32[t]\ny = ssd 1 1 x time=flip diag=in : f32[t]\nout y : f32[t] = y\n", 4, 6,
           6, 5, 3);
    EXPECT("x = in : f32[t]\ny = ssd 2 1 x time=fwd diag=in mask=full : f32[t]\n"
           "out y : f32[t] = y\n",
           4, 12, 12, 12, 12);
    EXPECT("x = in : f32[t]\ny = ssd 1 1 x time=fwd diag=in band=2 : f32[t]\nout y : f32[t] = y\n",
           4, 0, 1, 3, 5);
}

// --- Refusals -----------------------------------------------------------------------------------

static void refuses(Graph *g, Arena *a, NamedArray *in, int n, const char *part) {
    Text why = {0};
    NamedArray out[4];
    InterpOptions o = {.b = 1, .t = 1};
    CHECK(!ssd_graph_interp(g, a, in, n, &o, out, &why));
    CHECK_HOLDS(why.s, part);
    ssd_text_free(&why);
}

static void test_refusals(void) {
    Arena a = {0};
    static const i64 cu[] = {0, 2, 5};
    Kit k = layer(&a, false, false, false), p = layer(&a, true, false, false);
    NamedArray in[9], bad[10], out[4];
    int n = draw_inputs(&a, k.g, (Sizes){.b = 2, .t = 5}, in);
    refuses(k.g, &a, in + 1, n - 1, "input 'x' is missing");
    CHECK(interp(k.g, &a, in, 4, MEAN_DENSE, out)); // states absent start at zero
    memcpy(bad, in, sizeof in);
    bad[0].a.rank = 3;
    refuses(k.g, &a, bad, n, "input 'x' has rank 3; expected 4");
    memcpy(bad, in, sizeof in);
    bad[1].a.dims[3] = 5;
    refuses(k.g, &a, bad, n, "input 'q' has 5 elements along n; expected 4");
    memcpy(bad, in, sizeof in);
    bad[3].a.dims[1] = 4;
    refuses(k.g, &a, bad, n, "input 'l' has 4 elements along t; expected 5");
    bad[0].name = "zz";
    refuses(k.g, &a, bad, n, "there is no input 'zz'");
    n = draw_inputs(&a, p.g, (Sizes){.b = 1, .t = 5, .cu = cu, .s = 2}, in);
    refuses(p.g, &a, in, n - 1, "'cu_seqlens' is missing");
    in[n - 1].a.v[1] = 6;
    refuses(p.g, &a, in, n, "cu_seqlens[1] is 6; it must rise from 0 to t = 5");
    in[n - 1].a.v[1] = NAN;
    refuses(p.g, &a, in, n, "cu_seqlens[1]");
    ssd_arena_free(&a);
}

int main(void) {
    test_definition();
    test_agree();
    test_zero_decay();
    test_split();
    test_split_backward();
    test_packed();
    test_step();
    test_ops();
    test_constants();
    test_refusals();
    return test_end();
}
