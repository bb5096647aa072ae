// SPDX-License-Identifier: Apache-2.0
// Graph text: whole-text goldens, parse(print(g)) prints the same for random graphs, every kind of
// error with its place, and hostile text (cut, flipped, shuffled), which must only ever give
// messages.
#include "graph_make.h"

#include <locale.h>

static char *printed(Arena *a, const Graph *g) {
    Text t = {0};
    ssd_graph_print(g, &t);
    char *s = ssd_arena_dup(a, t.s, t.n);
    ssd_text_free(&t);
    return s;
}

static Graph *parsed(Arena *a, const char *s, size_t n, Text *errors) {
    Diag d = {.arena = a, .file = "g", .source = s, .source_len = n};
    Graph *g = ssd_graph_parse(a, s, n, "g", &d);
    CHECK((g == NULL) == (d.errors > 0));
    ssd_diag_print(&d, errors);
    return g;
}

// Text that is its own print.
static void golden(const char *s) {
    Arena a = {0};
    Text errors = {0};
    Graph *g = parsed(&a, s, strlen(s), &errors);
    if (g)
        CHECK_SAME(printed(&a, g), s);
    else
        CHECK_SAME(errors.s, "");
    ssd_text_free(&errors);
    ssd_arena_free(&a);
}

static void test_golden(void) {
    // Built: what names, constants, defaults, attributes and states look like.
    Arena a = {0};
    Kit k = kit(&a, "mamba 2: small", false, false, 4, 8, 16);
    Graph *g = k.g;
    double zero = 0;
    Ref x = input(&k, "x", "bthp"), dt = input(&k, "dt", "bth"), B = input(&k, "B", "btgn");
    Ref bias = ssd_graph_in(g, "dt_bias", SSD_BF16, &k.h, 1, &zero);
    Ref h0 = input(&k, "h0", "bhpn");
    Ref delta = ssd_graph_fn(g, FN_SOFTPLUS, ssd_graph_fn(g, FN_ADD, dt, bias, 0), 0, 0);
    g->nodes.v[delta].name = ssd_graph_name(g, "delta");
    Ref l = ssd_graph_fn(g, FN_MUL, delta, ssd_graph_const(g, -0.1), 0);
    g->nodes.v[l].name = ssd_graph_name(g, "x"); // an input's name: printed by number
    Ref s = ssd_graph_spread(g, B, k.G, k.h);
    Ref y =
        ssd_graph_ssd(g, s, s, x, l, h0, (SsdAttr){.time = TIME_FLIP, .flags = SSD_READ_BEFORE});
    ssd_graph_out(g, "y", y, SSD_BF16, g->nodes.v[x].ax, 4);
    state(&k, "h0", h0, "hT", ssd_graph_final(g, y));
    g->chunk = "64 128";
    g->matmul = 2;
    g->decay_any = true;
    verified(g);
    CHECK_SAME(printed(&a, g),
               "graph mamba_2__small\n"
               "numerics decay=any matmul=tf32x3\n"
               "chunk 64 128\n"
               "axis b batch\n"
               "axis t time\n"
               "axis h head 4\n"
               "axis g group 2\n"
               "axis p feature 8\n"
               "axis n feature 16\n"
               "axis m feature 2\n"
               "axis w window 3\n"
               "x = in : f32[b t h p]\n"
               "dt = in : f32[b t h]\n"
               "B = in : f32[b t g n]\n"
               "dt_bias = in default=0 : bf16[h]\n"
               "h0 = in : f32[b h p n]\n"
               "%6 = fn add dt dt_bias : f32[b t h]\n"
               "delta = fn softplus %6 : f32[b t h]\n"
               "%8 = fn mul delta -0.1 : f32[b t h]\n"
               "%9 = spread B axis=g to=h : f32[b t h n]\n"
               "%10 = ssd %9 %9 x %8 h0 time=flip diag=out read=before : f32[b t h p]\n"
               "%11 = final %10 : f32[b h p n]\n"
               "out y : bf16[b t h p] = %10\n"
               "out hT : f32[b h p n] = %11\n"
               "state h0 -> hT = %11\n");
    ssd_arena_free(&a);
    // Parsed: every op and attribute once.
    golden("graph every.op-1\n"
           "packed\n"
           "numerics deterministic=invariant cumsum=split\n"
           "axis b batch\n"
           "axis t time\n"
           "axis s seq\n"
           "axis h head 4\n"
           "axis g group 2\n"
           "axis n feature 6\n"
           "axis r feature 7\n"
           "axis w window 2\n"
           "q = in : f16[b t g n]\n"
           "win = in : f32[s w g n]\n"
           "start = in : f32[s g n]\n"
           "h0 = in default=-0 : f32[s g n]\n"
           "pi = const 3.141592653589793 : f32[]\n"
           "%6 = index axis=t : idx[t]\n"
           "%7 = size axis=t : idx[t]\n"
           "%8 = fn lt %6 %7 : bool[t]\n"
           "%9 = fn where %8 inf nan : f32[t]\n"
           "%10 = cast q : bf16[b t g n]\n"
           "%11 = sum q axis=n : f32[b t g]\n"
           "%12 = amax q axis=n : f32[b t g]\n"
           "%13 = cat q %11 axis=n to=r : f32[b t g r]\n"
           "%14 = slice %13 axis=r to=n from=1 : f32[b t g n]\n"
           "%15 = slice %13 axis=r from=6 : f32[b t g]\n"
           "%16 = spread q axis=g to=h : f16[b t h n]\n"
           "%17 = fold %16 axis=h to=g : f32[b t g n]\n"
           "%18 = swap q axis=n pairing=halves : f16[b t g n]\n"
           "%19 = shift q win k=2 to=w : f32[b t g n]\n"
           "%20 = scan q start kind=max : f32[b t g n]\n"
           "%21 = ssd q q pi time=rev diag=in mask=full : f32[b t g]\n"
           "%22 = ssd q q pi _ h0 time=fwd diag=in : f32[b t g]\n"
           "%23 = ssd q q %12 1e-300 time=fwd diag=out band=12 : f32[b t g]\n"
           "%24 = final %19 : f32[s g w n]\n"
           "%25 = final %22 : f32[s g n]\n"
           "out fin : f32[s g n] = %25\n"
           "out two : bf16[t g b] = 2\n"
           "state h0 -> fin = %25\n"
           "state _ -> _ = %24\n"
           "state gone -> _ = _\n");
    golden("graph token\nstep\nchunk auto\naxis b batch\naxis t time\nx = in : f32[b t]\n"
           "y = scan x kind=sum : f32[b t]\nout y : f32[b] = y\n");
    golden("graph none\n");
}

// Layout, comments and numbering are free in what is read.
static void test_free_form(void) {
    Arena a = {0};
    Text e = {0};
    static const char text[] = "# a comment\n\n  graph  g # name\r\naxis\tt time\nx=in:f32[ t ]\n"
                               "%90 = fn exp x : f32[t]\n%7 = fn exp %90 : f32[t]\n"
                               "out = fn neg %7 : f32[t]\nout out : f32[t]= out";
    Graph *g = parsed(&a, text, strlen(text), &e);
    CHECK_SAME(g ? printed(&a, g) : e.s,
               "graph g\naxis t time\nx = in : f32[t]\n%2 = fn exp x : f32[t]\n"
               "%3 = fn exp %2 : f32[t]\nout = fn neg %3 : f32[t]\n"
               "out out : f32[t] = out\n");
    ssd_text_free(&e);
    ssd_arena_free(&a);
}

static void test_round_trip(void) {
    for (int i = 0; i < 400; i++) {
        Arena a = {0};
        seed_ = (u64)i;
        Kit k = random_graph(&a, 2 + i % 60);
        verified(k.g);
        char *s = printed(&a, k.g);
        golden(s);
        ssd_arena_free(&a);
    }
}

// --- Errors -------------------------------------------------------------------------------------

static void errors(const char *body, const char *part) {
    Arena a = {0};
    Text e = {0};
    char *s = ssd_arena_printf(&a,
                               "graph g\naxis b batch\naxis t time\naxis h head 4\naxis g group 3\n"
                               "axis n feature 5\naxis w window 2\nx = in : f32[b t n]\n"
                               "y = fn exp x : f32[b t n]\n%s",
                               body);
    CHECK(parsed(&a, s, strlen(s), &e) == NULL);
    CHECK_HOLDS(e.s, part);
    ssd_text_free(&e);
    ssd_arena_free(&a);
}

static void test_errors(void) {
    errors("z = fn exq x : f32[b t n]\n", "g:10:8: error: unknown function 'exq'");
    errors("z = foo x : f32[b t n]\n", "g:10:5: error: unknown op 'foo'");
    errors("z = fn exp zz : f32[b t n]\n", "g:10:12: error: unknown value 'zz'");
    errors("z = fn exp x x : f32[b t n]\n", "exp takes 1 operand");
    errors("z = fn add x : f32[b t n]\n", "add takes 2 operands");
    errors("z = fn exp x : f32[b t]\n", "g:10:14: error: the operands give f32[b t n]");
    errors("z = fn exp x : f33[b t n]\n", "expected a dtype, found 'f33'");
    errors("z = fn exp x : f32[b t k]\n", "g:10:24: error: unknown axis 'k'");
    errors("z = fn exp x : f32[b t n\n", "expected ']' at the end");
    errors("z = fn exp x\n", "expected ':' at the end");
    errors("z = fn exp x : f32[b t n] 1\n", "unexpected '1'");
    errors("x = fn exp x : f32[b t n]\n", "'x' is defined twice");
    errors("_ = fn exp x : f32[b t n]\n", "expected the name of a value");
    errors("3 = fn exp x : f32[b t n]\n", "expected the name of a value");
    errors("%3 = in : f32[b]\n", "an input needs a name");
    errors("z = in : bool[b]\n", "no tensor has this dtype");
    errors("z = in : f32[b b]\n", "axis b twice");
    errors("z = sum x axis=h : f32[b t n]\n", "the operand lacks axis h");
    errors("z = sum x axis=t : f32[b n]\n", "axis t is not reduced");
    errors("z = sum x k=1 : f32[b n]\n", "sum has no attribute 'k'");
    errors("z = swap x axis=n pairing=halves : f32[b t n]\n", "even size");
    errors("z = swap x axis=n pairing=odd : f32[b t n]\n", "pairing is 'adjacent' or 'halves'");
    errors("z = spread x axis=g to=h : f32[b t n]\n", "the operand lacks axis g");
    errors("q = in : f32[g]\nz = spread q axis=g to=h : f32[h]\n", "that it divides");
    errors("z = slice x axis=n from=5 : f32[b t]\n", "elements 5 to 6 of axis n");
    errors("z = slice x axis=n from=99999999999999999999 : f32[b t]\n", "expected a number from 0");
    errors("z = cat x x axis=n to=n : f32[b t n]\n", "has axis n already");
    errors("axis r feature 11\nz = cat x x axis=n to=r : f32[b t r]\n",
           "10 columns, axis r has 11");
    errors("z = shift x k=0 : f32[b t n]\n", "shift by 0");
    errors("z = shift x k=3 to=w : f32[b t n]\n", "axis w is not a window of 3");
    errors("z = final x : f32[b n]\n", "only ssd, scan and shift");
    errors("z = shift x k=2 : f32[b t n]\nu = final z : f32[b n]\n", "without a window axis");
    errors("z = ssd x x 1 band=2 : f32[b t]\nu = final z : f32[b n]\n",
           "a band has no final state");
    errors("z = ssd x 1 1 : f32[b t]\n", "axis n of query is neither contracted nor a value's");
    errors("z = ssd x x 1 1 mask=full : f32[b t]\n", "mask=full takes no log_decay");
    errors("z = ssd x x 1 time=up : f32[b t]\n", "time is 'fwd', 'flip' or 'rev'");
    errors("z = ssd x x : f32[b t]\n", "operand 3 is missing");
    errors("z = ssd x x 1 1 x x : f32[b t]\n", "more than 5 operands");
    errors("axis b feature 3\n", "axis b twice");
    errors("axis c batch\n", "two axes of kind batch");
    errors("axis c time 3\n", "has a size before run time");
    errors("axis c feature\n", "has size -1");
    errors("axis c feature 0\n", "expected a number from 1");
    errors("axis c sort 3\n", "unknown kind of axis 'sort'");
    errors("out z : f32[b t] = x\n", "output z lacks axis n of its value");
    errors("out z : f32[b t n] = x\nout z : f32[b t n] = x\n", "g:11:5: error: output z twice");
    errors("out z : i32[b t n] = x\n", "has dtype i32");
    errors("state x : y\n", "expected '->', found ':'");
    errors("numerics matmul=f8\n", "unknown matmul 'f8'");
    errors("numerics speed=high\n", "unknown numerics 'speed=high'");
    errors("chunk 0\n", "expected a number from 1");
    errors("nonsense\n", "expected a node, axis, out or state, found 'nonsense'");
    // All errors at once; users of a broken node are not blamed.
    Arena a = {0};
    Text e = {0};
    static const char two[] = "graph g\naxis t time\nx = in : f32[u]\ny = fn exp x : f32[t]\n"
                              "z = fn exp 1 2 : f32[]\n";
    parsed(&a, two, strlen(two), &e);
    CHECK_HOLDS(e.s, "g:3:14: error: unknown axis 'u'");
    CHECK_HOLDS(e.s, "g:5:5: error: fn: exp takes 1 operand");
    CHECK(e.s && !strstr(e.s, "g:4"));
    ssd_text_free(&e);
    ssd_arena_free(&a);
}

// --- Hostile text -------------------------------------------------------------------------------

static void swallow(const char *s, size_t n) {
    Arena a = {0};
    Text e = {0};
    char *copy = malloc(n ? n : 1); // exactly n bytes: the sanitizer sees a read past the end
    memcpy(copy, s, n);
    Graph *g = parsed(&a, copy, n, &e);
    if (g) {
        char *t = printed(&a, g);
        Graph *again = parsed(&a, t, strlen(t), &e);
        if (CHECK(again != NULL)) CHECK_SAME(printed(&a, again), t);
    }
    free(copy);
    ssd_text_free(&e);
    ssd_arena_free(&a);
}

static void test_hostile(void) {
    Arena a = {0};
    seed_ = 77;
    for (int round = 0; round < 6; round++) {
        Kit k = round == 0   ? layer(&a, false, false, true)
                : round == 1 ? layer(&a, true, false, true)
                             : random_graph(&a, 40);
        char *s = printed(&a, k.g);
        size_t n = strlen(s);
        for (size_t i = 0; i < n; i += 1 + n / 400) swallow(s, i);
        char *t = ssd_arena_dup(&a, s, n);
        for (int i = 0; i < 1500; i++) {
            memcpy(t, s, n);
            for (int f = pick(4); f >= 0; f--) {
                size_t at = (size_t)pick((int)n), from = (size_t)pick((int)n);
                size_t len = MIN((size_t)pick(12), n - MAX(at, from));
                switch (pick(4)) {
                case 0: t[at] ^= (char)(1 << pick(8)); break;
                case 1: t[at] = " \n=:[]%#_-0x."[pick(13)]; break;
                case 2: memmove(t + at, t + from, len); break;
                case 3: t[at] = (char)pick(256); break;
                }
            }
            swallow(t, n);
        }
    }
    ssd_arena_free(&a);
    static const char *const odd[] = {"",
                                      "\n",
                                      "#",
                                      "graph",
                                      "graph g\n=",
                                      "graph g\n= =",
                                      "graph g\nx =",
                                      "graph g\nx = in",
                                      "graph g\nx = in :",
                                      "graph g\nx = in : f32",
                                      "graph g\nx = in : f32[",
                                      "graph g\nstate",
                                      "graph g\nx = fn",
                                      "graph g\nx = const",
                                      "graph g\nx = const nan : f32[]",
                                      "graph g\nx = const 1e999 : f32[]",
                                      "graph g\nx = const 0x10 : f32[]",
                                      "graph g\nx = const -",
                                      "graph g\nout y : f32[] = 1e",
                                      "graph g\naxis",
                                      "graph g\ngraph g",
                                      "graph g\npacked\nx = scan 1 kind=sum : f32[]",
                                      "graph g\nx = final _ : f32[]",
                                      "graph g\nx = fn add _ _ : f32[]",
                                      "graph g\nx = ssd _ _ _ : f32[]",
                                      "graph g\nout y : f32[] = _"};
    for (size_t i = 0; i < COUNTOF(odd); i++) swallow(odd[i], strlen(odd[i]));
    // Bounds: many nodes, many errors, a long line.
    Text t = {0};
    ssd_text_printf(&t, "graph g\naxis t time\n%%0 = index axis=t : idx[t]\n");
    for (int i = 1; i < 12000; i++)
        ssd_text_printf(&t, "%%%d = fn add %%%d %d : f32[t]\n", i, i - 1, i);
    swallow(t.s, t.n);
    t.n = 0;
    ssd_text_printf(&t, "graph g\n");
    for (int i = 0; i < 5000; i++) ssd_text_printf(&t, "x%d = in : f99[] ", i);
    for (int i = 0; i < 5000; i++) ssd_text_printf(&t, "\ny%d = in : f99[]", i);
    swallow(t.s, t.n);
    ssd_text_free(&t);
}

static void test_locale(void) {
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "fr_FR.UTF-8")) {
        test_skip("numbers in a locale with a decimal comma", "no such locale here");
        return;
    }
    golden("graph g\nx = const 0.25 : f32[]\nout y : f32[] = x\n");
    setlocale(LC_NUMERIC, "C");
}

int main(void) {
    test_golden();
    test_free_form();
    test_round_trip();
    test_errors();
    test_hostile();
    test_locale();
    return test_end();
}
