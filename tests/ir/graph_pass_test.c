// SPDX-License-Identifier: Apache-2.0
// The passes on graphs: whole text before and after, and on random graphs: valid, the same meaning
// (NaN included), nothing left to do the second time. Also the text of schedules.
#include "graph_make.h"

#define HEAD                                                                                       \
    "graph g\naxis b batch\naxis t time\naxis h head 2\naxis p feature 3\naxis n feature 4\n"

static char *printed(Arena *a, const Graph *g) {
    Text t = {0};
    ssd_graph_print(g, &t);
    char *s = ssd_arena_dup(a, t.s, t.n);
    ssd_text_free(&t);
    return s;
}

static Graph *parsed(Arena *a, const char *s) {
    Diag d = {.arena = a, .file = "g"};
    Text e = {0};
    Graph *g = ssd_graph_parse(a, s, strlen(s), "g", &d);
    ssd_diag_print(&d, &e);
    if (!CHECK(g != NULL)) printf("%s%s", s, e.s);
    ssd_text_free(&e);
    return g;
}

typedef bool Run(Unit *);

// Runs the passes on text; compares whole texts. The head and the inputs stay as they are.
static void becomes(Run *const *passes, const char *inputs, const char *before, const char *after) {
    Arena a = {0};
    Graph *g = parsed(&a, ssd_arena_printf(&a, HEAD "%s%s", inputs, before));
    if (g) {
        Unit u = {.arena = &a, .graph = g};
        bool changed = false;
        for (int i = 0; passes[i]; i++) changed |= passes[i](&u);
        verified(g);
        CHECK_SAME(printed(&a, g), ssd_arena_printf(&a, HEAD "%s%s", inputs, after));
        CHECK(changed == (strcmp(before, after) != 0));
    }
    ssd_arena_free(&a);
}

static Run *const fold_dce[] = {ssd_pass_fold, ssd_pass_dce, NULL};
static Run *const cse[] = {ssd_pass_cse, NULL};
static Run *const dce[] = {ssd_pass_dce, NULL};

// --- fold ---------------------------------------------------------------------------------------

static void folds(const char *expression, const char *type, const char *result) {
    Arena a = {0};
    const char *in = "x = in : f32[t]\nB = in : bf16[t]\n";
    becomes(fold_dce, in,
            ssd_arena_printf(&a, "%%3 = %s : %s\nout y : f32[t] = %%3\n", expression, type),
            ssd_arena_printf(&a, "out y : f32[t] = %s\n", result));
    ssd_arena_free(&a);
}

static void test_fold(void) {
    static const char f[] = "f32[t]", c[] = "f32[]";
    folds("fn add x 0", f, "x");
    folds("fn add 0 x", f, "x");
    folds("fn sub x 0", f, "x");
    folds("fn mul x 1", f, "x");
    folds("fn mul 1 B", f, "B");
    folds("fn div x 1", f, "x");
    folds("fn pow x 1", f, "x");
    folds("fn add 1 2", c, "3");
    folds("fn clamp 7 0 5", c, "5");
    folds("fn where 1 x 0", f, "x");
    folds("fn where 0 1 x", f, "x");
    folds("fn where x B B", f, "B");
    folds("size axis=h", "idx[]", "2");
    folds("cast x", f, "x");
    folds("cast B", f, "B");
    folds("cast B", "bf16[t]", "B");
    // What must stay: x*0 (NaN), a broadcast, a run-time size, a rounding.
    static const char *const stay[] = {"fn mul x 0 : f32[t]", "fn add x 1 : f32[t]",
                                       "fn where 1 2 x : f32[t]", "size axis=t : idx[]",
                                       "cast x : bf16[t]"};
    for (size_t i = 0; i < COUNTOF(stay); i++) {
        char s[128];
        snprintf(s, sizeof s, "%%2 = %s\n%%3 = fn sub %%2 3 : f32[%s]\nout y : f32[t] = %%3\n",
                 stay[i], strstr(stay[i], "[t]") ? "t" : "");
        becomes(fold_dce, "x = in : f32[t]\n", s, s);
    }
    const char *in = "x = in : f32[t]\n";
    becomes(fold_dce, in, "%2 = fn neg x : f32[t]\n%3 = fn neg %2 : f32[t]\nout y : f32[t] = %3\n",
            "out y : f32[t] = x\n");
    becomes(fold_dce, in,
            "%2 = fn sub 0 x : f32[t]\n%3 = fn mul -1 %2 : f32[t]\nout y : f32[t] = %3\n",
            "out y : f32[t] = x\n");
    becomes(fold_dce, in, "%2 = fn pow x 2 : f32[t]\nout y : f32[t] = %2\n",
            "%2 = fn mul x x : f32[t]\nout y : f32[t] = %2\n");
    becomes(fold_dce, in, "%2 = fn div x 8 : f32[t]\nout y : f32[t] = %2\n",
            "%2 = fn mul x 0.125 : f32[t]\nout y : f32[t] = %2\n");
    becomes(fold_dce, in,
            "%2 = cast x : f16[t]\n%3 = cast %2 : f32[t]\n%4 = cast %3 : bf16[t]\n"
            "out y : f32[t] = %4\n",
            "%2 = cast x : f16[t]\n%3 = cast %2 : bf16[t]\nout y : f32[t] = %3\n");
    becomes(fold_dce, in,
            "%2 = fn gt 3 2 : bool[]\n%3 = fn lt x 0 : bool[t]\n%4 = fn and %2 %3 : bool[t]\n"
            "%5 = fn where %4 x 1 : f32[t]\nout y : f32[t] = %5\n",
            "%2 = fn lt x 0 : bool[t]\n%3 = fn where %2 x 1 : f32[t]\nout y : f32[t] = %3\n");
    // No decay, no start: the operand goes. The names of what stays are kept.
    becomes(fold_dce, in,
            "l = fn sub 2 2 : f32[]\ny = ssd 1 1 x l 0 time=fwd diag=in : f32[t]\n"
            "c = scan y 0 kind=sum : f32[t]\nd = scan c 0 kind=max : f32[t]\nout y : f32[t] = d\n",
            "y = ssd 1 1 x time=fwd diag=in : f32[t]\nc = scan y kind=sum : f32[t]\n"
            "d = scan c 0 kind=max : f32[t]\nout y : f32[t] = d\n");
}

// --- cse, dce -----------------------------------------------------------------------------------

static void test_cse(void) {
    Arena a = {0};
    Graph *g = parsed(&a, HEAD "x = in : f32[t]\nu = fn exp x : f32[t]\nv = fn sin x : f32[t]\n"
                               "w = fn add u v : f32[t]\nout y : f32[t] = w\n");
    Ref u = 0, v = 0;
    for (Ref r = 1; r < g->nodes.n; r++) {
        if (g->nodes.v[r].fn == FN_EXP && g->nodes.v[r].op == OP_FN) u = r;
        if (g->nodes.v[r].fn == FN_SIN && g->nodes.v[r].op == OP_FN) v = r;
    }
    g->nodes.v[v].fn = g->nodes.v[u].fn; // an edit in place makes them equal
    Unit unit = {.arena = &a, .graph = g};
    CHECK(ssd_pass_cse(&unit));
    CHECK_SAME(printed(&a, g),
               HEAD "x = in : f32[t]\nu = fn exp x : f32[t]\nw = fn add u u : f32[t]\n"
                    "out y : f32[t] = w\n");
    CHECK(!ssd_pass_cse(&unit));
    ssd_arena_free(&a);
    const char *same = "u = fn exp x : f32[t]\nv = fn sin x : f32[t]\nout y : f32[t] = v\n";
    becomes(cse, "x = in : f32[t]\n", same, same);
}

static void test_dce(void) {
    becomes(dce, "x = in : f32[t]\nunused = in : f32[t]\n",
            "u = fn exp x : f32[t]\nv = fn sin u : f32[t]\nw = fn sin x : f32[t]\n"
            "s = ssd 1 1 x time=fwd diag=in : f32[t]\nf = final s : f32[]\n"
            "out y : f32[t] = w\nstate _ -> _ = f\n",
            "w = fn sin x : f32[t]\ns = ssd 1 1 x time=fwd diag=in : f32[t]\nf = final s : f32[]\n"
            "out y : f32[t] = w\nstate _ -> _ = f\n");
}

// --- merge --------------------------------------------------------------------------------------

#define QKV                                                                                        \
    "q = in : f32[b t h n]\nk = in : f32[b t h n]\nv = in : f32[b t h p]\nl = in : f32[b t h]\n"

// As `becomes`, for merge: the head gains an axis.
static void merges(const char *inputs, const char *before, const char *axis, const char *after) {
    Arena a = {0};
    Graph *g = parsed(&a, ssd_arena_printf(&a, HEAD "%s%s", inputs, before));
    if (g) {
        Unit u = {.arena = &a, .graph = g};
        bool changed = ssd_pass_merge(&u);
        CHECK(changed == (*axis != 0));
        ssd_pass_dce(&u);
        verified(g);
        CHECK_SAME(printed(&a, g), ssd_arena_printf(&a, HEAD "%s%s%s", axis, inputs, after));
    }
    ssd_arena_free(&a);
}

static void test_merges(void) {
    merges(QKV "h0 = in : f32[b h p n]\nz0 = in : f32[b h n]\n",
           "num = ssd q k v l h0 time=fwd diag=in : f32[b t h p]\n"
           "den = ssd q k 1 l z0 time=fwd diag=in : f32[b t h]\n"
           "y = fn div num den : f32[b t h p]\n"
           "hT = final num : f32[b h p n]\nzT = final den : f32[b h n]\n"
           "out y : f32[b t h p] = y\nout hT : f32[b h p n] = hT\nout zT : f32[b h n] = zT\n"
           "state h0 -> hT = hT\nstate z0 -> zT = zT\n",
           "axis r feature 4\n",
           "%7 = cat v 1 axis=p to=r : f32[b t h r]\n"
           "%8 = cat h0 z0 axis=p to=r : f32[b h r n]\n"
           "%9 = ssd q k %7 l %8 time=fwd diag=in : f32[b t h r]\n"
           "num = slice %9 axis=r to=p from=0 : f32[b t h p]\n"
           "den = slice %9 axis=r from=3 : f32[b t h]\n"
           "y = fn div num den : f32[b t h p]\n"
           "%13 = final %9 : f32[b h r n]\n"
           "hT = slice %13 axis=r to=p from=0 : f32[b h p n]\n"
           "zT = slice %13 axis=r from=3 : f32[b h n]\n"
           "out y : f32[b t h p] = y\nout hT : f32[b h p n] = hT\nout zT : f32[b h n] = zT\n"
           "state h0 -> hT = hT\nstate z0 -> zT = zT\n");
    // The later value stands after a user of the first operator; three of them.
    merges(QKV,
           "y1 = ssd q k v l time=rev diag=out : f32[b t h p]\n"
           "s = fn sin y1 : f32[b t h p]\n"
           "e = fn exp v : f32[b t h p]\n"
           "y2 = ssd q k e l time=rev diag=out : f32[b t h p]\n"
           "y3 = ssd q k 1 l time=rev diag=out : f32[b t h]\n"
           "a = fn add s y2 : f32[b t h p]\n"
           "c = fn add a y3 : f32[b t h p]\n"
           "out y : f32[b t h p] = c\n",
           "axis r feature 7\n",
           "e = fn exp v : f32[b t h p]\n"
           "%6 = cat v e 1 axis=p to=r : f32[b t h r]\n"
           "%7 = ssd q k %6 l time=rev diag=out : f32[b t h r]\n"
           "y1 = slice %7 axis=r to=p from=0 : f32[b t h p]\n"
           "s = fn sin y1 : f32[b t h p]\n"
           "y2 = slice %7 axis=r to=p from=3 : f32[b t h p]\n"
           "y3 = slice %7 axis=r from=6 : f32[b t h]\n"
           "a = fn add s y2 : f32[b t h p]\n"
           "c = fn add a y3 : f32[b t h p]\n"
           "out y : f32[b t h p] = c\n");
    // What must stay apart: one feeds the other; another decay, mask, direction; one starts, one
    // does not; a value-side decay; a batch that only one has.
    static const char *const apart[] = {"y1 = ssd q k v l time=fwd diag=in : f32[b t h p]\ny2 = "
                                        "ssd q k y1 l time=fwd diag=in : f32[b t h p]\n",
                                        "y1 = ssd q k v l time=fwd diag=in : f32[b t h p]\ny2 = "
                                        "ssd q k 1 time=fwd diag=in : f32[b t h]\n",
                                        "y1 = ssd q k v l time=fwd diag=in : f32[b t h p]\ny2 = "
                                        "ssd q k 1 l time=fwd diag=out : f32[b t h]\n",
                                        "y1 = ssd q k v l time=fwd diag=in : f32[b t h p]\ny2 = "
                                        "ssd q k 1 l time=flip diag=in : f32[b t h]\n",
                                        "y1 = ssd q k v l time=fwd diag=in : f32[b t h p]\ny2 = "
                                        "ssd q k 1 l time=fwd diag=in band=3 : f32[b t h]\n",
                                        "y1 = ssd q k v l 3 time=fwd diag=in : f32[b t h p]\ny2 = "
                                        "ssd q k 1 l time=fwd diag=in : f32[b t h]\n",
                                        "y1 = ssd q k v l 3 time=fwd diag=in : f32[b t h p]\ny2 = "
                                        "ssd q k 1 l 2 time=fwd diag=in : f32[b t h]\n",
                                        "y1 = ssd q k v v time=fwd diag=in : f32[b t h p]\ny2 = "
                                        "ssd q k 1 l time=fwd diag=in : f32[b t h]\n",
                                        "y1 = ssd 1 1 v time=fwd diag=in : f32[b t h p]\ny2 = ssd "
                                        "1 1 1 time=fwd diag=in : f32[t]\n"};
    for (size_t i = 0; i < COUNTOF(apart); i++) {
        char s[400];
        snprintf(s, sizeof s, "%ssum = fn add y1 y2 : f32[b t h p]\nout y : f32[b t h p] = sum\n",
                 apart[i]);
        merges(QKV, s, "", s);
    }
}

// Two groups that would wait for each other: the first merges, the second must then stay apart.
static void test_merge_cycle(void) {
    Arena a = {0};
    Graph *g = parsed(&a, HEAD QKV "a1 = ssd q k v l time=fwd diag=in : f32[b t h p]\n"
                                   "b2 = ssd k q v l time=fwd diag=in : f32[b t h p]\n"
                                   "%7 = fn exp a1 : f32[b t h p]\n"
                                   "%8 = fn exp b2 : f32[b t h p]\n"
                                   "a2 = ssd q k %8 l time=fwd diag=in : f32[b t h p]\n"
                                   "b1 = ssd k q %7 l time=fwd diag=in : f32[b t h p]\n"
                                   "y = fn add a2 b1 : f32[b t h p]\nout y : f32[b t h p] = y\n");
    Unit u = {.arena = &a, .graph = g};
    CHECK(ssd_pass_merge(&u));
    ssd_pass_dce(&u);
    verified(g);
    int ssds = 0;
    for (Ref r = 1; r < g->nodes.n; r++) ssds += g->nodes.v[r].op == OP_SSD;
    CHECK(ssds == 3);
    ssd_arena_free(&a);
}

// --- Meaning is kept ----------------------------------------------------------------------------

static void same_meaning(Arena *a, Graph *before, Graph *after, double bound) {
    static const i64 cu[] = {0, 3, 3, 7};
    Sizes z = {.b = before->packed ? 1 : 2, .t = 7, .cu = cu, .s = 3};
    NamedArray in[16], x[8], y[8];
    int n = draw_inputs(a, before, z, in);
    in[0].a.v[pick((int)ssd_array_count(&in[0].a))] = NAN;
    if (!interp(before, a, in, n, MEAN_DENSE, x) || !interp(after, a, in, n, MEAN_DENSE, y)) return;
    CHECK(before->outs.n == after->outs.n);
    for (u32 i = 0; i < before->outs.n; i++)
        if (!CHECK(distance(&y[i].a, &x[i].a) <= bound))
            printf("%s: %g\n%s\n%s\n", x[i].name, distance(&y[i].a, &x[i].a), printed(a, before),
                   printed(a, after));
}

// Bound: x / 2^k and x * 2^-k are the same, a folded constant is the same double; nothing may
// differ.
static void test_random_graphs(void) {
    Run *const all[] = {ssd_pass_fold, ssd_pass_cse, ssd_pass_merge, ssd_pass_dce};
    for (int i = 0; i < 300; i++) {
        Arena a = {0};
        seed_ = 1000 + (u64)i;
        Kit k = random_graph(&a, 5 + i % 60);
        Graph *copy = parsed(&a, printed(&a, k.g));
        Unit u = {.arena = &a, .graph = k.g};
        for (size_t p = 0; p < COUNTOF(all) && copy; p++) {
            all[p](&u);
            if (!verified(k.g)) break;
            same_meaning(&a, copy, k.g, 0);
        }
        CHECK(!ssd_pass_merge(&u));
        CHECK(!ssd_pass_cse(&u));
        CHECK(!ssd_pass_dce(&u));
        ssd_arena_free(&a);
    }
}

// Operators that merge, with states and starts, in every direction: bits may not change either,
// since columns of a state do not mix.
static void test_random_merge(void) {
    for (int i = 0; i < 60; i++) {
        Arena a = {0};
        seed_ = 5000 + (u64)i;
        Kit k = kit(&a, "m", i % 3 == 0, false, 2, 3, 4);
        Graph *g = k.g;
        Ref q = input(&k, "q", "bthn"), key = input(&k, "k", "btn"),
            l = input(&k, "l", i % 2 ? "bth" : "bthn");
        static const char *const axes[] = {"bthp", "bth", "tp", "bthpm", "bm", "btpm"};
        SsdAttr at = {.time = (u8)pick(3), .flags = pick(2) ? SSD_DIAG_OUT : 0};
        bool starts = pick(2);
        for (int v = 0; v < 4; v++) {
            char *x = ssd_arena_printf(&a, "v%d", v);
            Ref value = input(&k, x, axes[pick(COUNTOF(axes))]);
            Ref y = ssd_graph_ssd(g, q, key, value, l, 0, at);
            if (starts) {
                SsdAxes sx = ssd_graph_ssd_axes(g, y);
                Ref h0 = ssd_graph_in(g, ssd_arena_printf(&a, "h%d", v), SSD_F32, sx.state,
                                      sx.nstate, NULL);
                y = ssd_graph_ssd(g, q, key, value, l, h0, at);
            }
            output(&k, ssd_arena_printf(&a, "y%d", v), y);
            output(&k, ssd_arena_printf(&a, "f%d", v), ssd_graph_final(g, y));
        }
        Graph *copy = parsed(&a, printed(&a, g));
        Unit u = {.arena = &a, .graph = g};
        ssd_pass_merge(&u);
        ssd_pass_dce(&u);
        if (verified(g) && copy) same_meaning(&a, copy, g, 0);
        ssd_arena_free(&a);
    }
}

// --- Schedules ----------------------------------------------------------------------------------

static void schedule(const char *text, const char *want) {
    Schedule s;
    Text why = {0}, out = {0};
    if (ssd_schedule_parse(text, &s, &why)) ssd_schedule_print(&s, &out);
    if (out.s || why.s)
        CHECK_HOLDS(why.s ? why.s : out.s, want);
    else
        CHECK(!*want);
    ssd_text_free(&why);
    ssd_text_free(&out);
}

static void test_schedule(void) {
    schedule("", "");
    schedule("form=auto q=auto", "");
    schedule("  q=64\tform=chunked hoist=0 ", "form=chunked q=64 hoist=0");
    schedule("sub=16 block=8 hoist=1 q=1 form=recurrent",
             "form=recurrent q=1 hoist=1 block=8 sub=16");
    schedule("form=quadratic", "form=quadratic");
    schedule("heads=2 split=t3 form=chunked", "form=chunked split=t3 heads=2");
    schedule("split=auto", "split=auto");
    schedule("early=1 pad=0 stages=2", "stages=2 pad=0 early=1");
    schedule("pad=auto", "");
    schedule("pad=2", "schedule key 'pad' is '2'; expected auto, 0 or 1");
    schedule("early=0", "");
    schedule("early=2", "schedule key 'early' is '2'; expected 0 or 1");
    schedule("split=3", "schedule key 'split' is '3'; expected auto or t and a number");
    schedule("split=t", "schedule key 'split' is 't'; expected auto or t and a number");
    schedule("split=t0", "schedule key 'split' is 't0'; expected auto or t and a number");
    schedule("split=t4097", "schedule key 'split' is 't4097'; expected auto or t and a number");
    schedule("form=chonked", "schedule key 'form' is 'chonked'; expected auto, recurrent");
    schedule("frm=chunked", "unknown schedule key 'frm'; did you mean 'form'?");
    schedule("zzzzzzzz=1", "unknown schedule key 'zzzzzzzz'; expected form, q");
    schedule("q", "schedule key 'q' is ''; expected auto or a number from 1 to 65536");
    schedule("q=", "schedule key 'q' is ''");
    schedule("q=0", "schedule key 'q' is '0'");
    schedule("q=65537", "schedule key 'q' is '65537'");
    schedule("q=99999999999999999999", "schedule key 'q' is '99999999999999999999'");
    schedule("q=-3", "schedule key 'q' is '-3'");
    schedule("hoist=2", "schedule key 'hoist' is '2'; expected auto, 0 or 1");
    schedule("q=1 q=2", "schedule key 'q' is given twice");
    schedule("=", "unknown schedule key ''");
}

int main(void) {
    test_fold();
    test_cse();
    test_dce();
    test_merges();
    test_merge_cycle();
    test_random_graphs();
    test_random_merge();
    test_schedule();
    return test_end();
}
