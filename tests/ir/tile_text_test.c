// SPDX-License-Identifier: Apache-2.0
// Tile text: whole-text goldens with every op, parse(print(x)) = x, the text of expressions and the
// folding behind it, errors with their places, what the verifier refuses, and hostile text (cut,
// flipped, nested, shuffled), which must only ever give messages.
#include "../../ir/tile.h"
#include "../runtime/test.h"

#include <locale.h>
#include <math.h>

static char *printed(Arena *a, const Prog *p) {
    Text t = {0};
    ssd_tile_print(p, &t);
    char *s = ssd_arena_dup(a, t.s, t.n);
    ssd_text_free(&t);
    return s;
}

static Prog *parsed(Arena *a, const char *s, size_t n, Text *errors) {
    Diag d = {.arena = a, .file = "p", .source = s, .source_len = n};
    Prog *p = ssd_tile_parse(a, s, n, "p", &d);
    CHECK((p == NULL) == (d.errors > 0));
    if (errors) ssd_diag_print(&d, errors);
    return p;
}

// Text that is its own print.
static void golden(const char *s) {
    Arena a = {0};
    Text errors = {0};
    Prog *p = parsed(&a, s, strlen(s), &errors);
    if (p)
        CHECK_SAME(printed(&a, p), s);
    else
        CHECK_SAME(errors.s, "");
    ssd_text_free(&errors);
    ssd_arena_free(&a);
}

static const char every_op[] =
    "program every-op stratum 0\n"
    "schedule form=chunked q=16\n"
    "sym b t s\n"
    "axes i=16 j=16 p=8 n=16 r=9 o=10 d=2 u=4 v=4 x=4 y=4\n"
    "in X bf16[b t 4 8]\n"
    "in cu i32[s+1]\n"
    "in A f32[]\n"
    "in h0 f32[b 4 8 16]\n"
    "out Y f16[b t 4 8]\n"
    "out hT f32[b 4 8 16] alias h0\n"
    "ws W f32[b cdiv(t, 16) 4 8 max(t-1, 1)]\n"
    "kernel first grid b=#b h=4 u1=cdiv(#t, 16)\n"
    "  lo = load cu[b] : idx\n"
    "  hi = load cu[b+1] : idx\n"
    "  w = load X[b, lo+u1*16+j, h, p] when lo + u1*16 + j < hi : bf16[j p]\n"
    "  ww = load X[b, u1*16+i, h//2*2, 2*p] : bf16[i p]\n"
    "  m = map {where(i >= j, exp(-0.5*A[])*2, 0)} : f32[i j]\n"
    "  wf = map {w} : f32[j p]\n"
    "  mm = mma m w : f32[i p]\n"
    "  mt = mma m w tri i j + mm : f32[i p]\n"
    "  mk = mma w wf keep j : f32[j]\n"
    "  rs = reduce sum j {m*2} : f32[i]\n"
    "  rm = reduce max j {m} : f32[i]\n"
    "  sc = scan sum j mk : f32[j]\n"
    "  se = scan sum j mk rev excl : f32[j]\n"
    "  sm = scan max j mk : f32[j]\n"
    "  a = at wf j=u1+3 : f32[p]\n"
    "  z = fill 0[j p] : f32[j p]\n"
    "  pt = put z j=3 a : f32[j p]\n"
    "  e = at a p=0 : f32\n"
    "  p2 = put pt j=2*u1 p=7 e : f32[j p]\n"
    "  sp = split m i->(u x) : f32[u x j]\n"
    "  jn = join sp (u x)->i : f32[i j]\n"
    "  rn = rename w j->i : bf16[i p]\n"
    "  tr = rename m i->j j->i : f32[j i]\n"
    "  ones = fill 1[j] : f32[j]\n"
    "  ct = cat wf ones p->r : f32[j r]\n"
    "  c2 = fill (e*2)[j d] : f32[j d]\n"
    "  c3 = cat wf c2 p d->o : f32[j o]\n"
    "  sl = slice c3 o->p from 2 : f32[j p]\n"
    "  sw = swap wf p adjacent : f32[j p]\n"
    "  sh = swap wf p halves : f32[j p]\n"
    "  lm = map {where(i > j, m, 0)} : f32[i j]\n"
    "  iv = inv lm i j : f32[i j]\n"
    "  pk = pick wf j=(i+1)%16 : f32[p i]\n"
    "  s0 = load h0[b, h, p, n] : f32[p n]\n"
    "  for c in lo..cdiv(hi-lo, 16) rev carry s=s0, g=0.0, k1=0\n"
    "    each q in 0..2 carry k2=k1\n"
    "      k3 = map {k2 + q} : idx\n"
    "      yield k3\n"
    "    s1 = map {s*2} : f32[p n]\n"
    "    g1 = map {g + 1} : f32\n"
    "    if c > 0 and not b == 0 or k1 != 2\n"
    "      store W[b, c, h, p, 0] = 1 when p < 3\n"
    "    yield s1, g1, k2\n"
    "  store hT[b, h, p, n] = s*g\n"
    "  store Y[b, u1*16+j, h, p] = wf when u1*16 + j < #t\n"
    "kernel second\n"
    "  store W[0, 0, 0, p, 0] = 0\n";

static const char placed[] =
    "program placed stratum 1\n"
    "sym t\n"
    "axes i=4 p=8 n=16\n"
    "in h0 f32[8 16]\n"
    "out hT f32[8 16]\n"
    "kernel scan\n"
    "  b0 = buf 4096 @mem\n"
    "  prefetch h0[p, n]\n"
    "  s0 = load h0[p, n] : f32[p n] @mem(n p) in b0\n"
    "  w = copy s0 : bf16[p n] @mem(n:12 p:1) in b0+1024\n"
    "  r = map {w*2} : f32[p n] @reg(p n)\n"
    "  q = at s0 p=3 : f32[n] @mem(n:8) in b0+3\n"
    "  e = reduce sum n {q} : f32 @scalar\n"
    "  for c in 0..#t carry s=s0 : f32[p n] @mem(n p) in b0, g=0.0 : f32 @scalar\n"
    "    s1 = map {s*e} inplace : f32[p n] @mem(n p) in b0\n"
    "    g1 = map {g + e} : f32 @scalar\n"
    "    yield s1, g1\n"
    "  v = map {s + r*g} : f32[p n] @mem(p n) in b0+300\n"
    "  store hT[p, n] = v\n";

static void test_golden(void) {
    golden(every_op);
    golden(placed);
    golden("program empty stratum 0\n");
    golden("program one stratum 1\nkernel nothing\n");
}

static void test_files(void) {
    static const char *const files[] = {
        "01_forward", "02_segments",   "03_step",      "04_backward", "05_vector_decay",
        "06_delta",   "07_normaliser", "08_quadratic", "09_packed",   "10_bidirectional"};
    for (size_t i = 0; i < COUNTOF(files); i++) {
        Arena a = {0};
        Text errors = {0};
        size_t n;
        char *text = test_read_file(
            ssd_arena_printf(&a, "%s/tests/ir/programs/%s.ssd", SOURCE_DIR, files[i]), &n);
        Prog *p = parsed(&a, text, n, &errors);
        if (CHECK(p != NULL))
            golden(printed(&a, p));
        else
            printf("%s", errors.s);
        free(text);
        ssd_text_free(&errors);
        ssd_arena_free(&a);
    }
}

// --- Expressions --------------------------------------------------------------------------------
// Written
// `from`, printed `to`, as the body of a map of the given dtype.
static void test_exprs(void) {
    static const struct {
        const char *dtype, *from, *to;
    } table[] = {
        // minimal parentheses, and the tree is kept
        {"f32", "(x*y)+z", "x*y + z"},
        {"f32", "x*(y+z)", "x*(y + z)"},
        {"f32", "x-(y-z)", "x - (y - z)"},
        {"f32", "(x-y)-z", "x - y - z"},
        {"f32", "x/(y*z)", "x/(y*z)"},
        {"f32", "(x/y)*z", "x/y*z"},
        {"f32", "-(x*y)", "-(x*y)"},
        {"f32", "-x*y", "-x*y"},
        {"f32", "x*-y", "x*-y"},
        {"f32", "x*-3", "x*-3"},
        {"f32", "-(-x)", "x"},
        {"f32", "x + -3", "x - 3"},
        {"f32", "x - -3", "x + 3"},
        {"bool", "x < y and (y < z or x == z)", "x < y and (y < z or x == z)"},
        {"bool", "(x < y and y < z) or x == z", "x < y and y < z or x == z"},
        {"bool", "not (x < y and y < z)", "not (x < y and y < z)"},
        {"bool", "not (not x < y)", "x < y"},
        {"f32", "where(x < y, x, y)", "where(x < y, x, y)"},
        {"f32", "max(min(x, y), clamp(z, -1, 1))", "max(min(x, y), clamp(z, -1, 1))"},
        // identities of floats that hold for NaN and infinity too; x*0 is no such thing
        {"f32", "x*1 + 0", "x"},
        {"f32", "x*0", "x*0"},
        {"f32", "0*x", "0*x"},
        {"f32", "x - x", "x - x"},
        {"f32", "x/1", "x"},
        {"f32", "2*3*x", "6*x"},
        {"f32", "where(1 < 2, x, y)", "x"},
        {"f32", "where(x < y, z, z)", "z"},
        {"bool", "x < y and true", "x < y"},
        {"bool", "x < y or 1 < 2", "true"},
        // numbers
        {"f32", "x*0.1 + 1e-30", "x*0.1 + 1e-30"},
        {"f32", "x*0.30000000000000004", "x*0.30000000000000004"},
        {"f32", "x*1.4426950408889634", "x*log2e"},
        {"f32", "max(x, -inf)", "max(x, -inf)"},
        {"f32", "0.0", "0"},
        {"f32", "where(x < 0, 1.0, 2.0)", "where(x < 0, 1.0, 2.0)"},
        {"idx", "where(x < 0, 1, 2)", "where(x < 0, 1, 2)"},
        // indices: sums lean left, their number last
        {"idx", "0*c + 1*c", "c"},
        {"idx", "c*0 + 3", "3"},
        {"idx", "c + (c + c)", "c + c + c"},
        {"idx", "c + 3 + 4", "c + 7"},
        {"idx", "c + 3 - 4", "c - 1"},
        {"idx", "3 + c", "c + 3"},
        {"idx", "c - c", "0"},
        {"idx", "c//1 + c%1", "c"},
        {"idx", "(c + 1)//2*2", "(c + 1)//2*2"},
        {"idx", "c - (c//2 - 1)", "c - (c//2 - 1)"},
        {"idx", "cdiv(7, 2)*c - -7//2", "4*c + 4"},
    };
    for (size_t i = 0; i < COUNTOF(table); i++) {
        Arena a = {0};
        static const char head[] = "program e stratum 0\naxes i=4\nkernel k grid c=3 g=2\n"
                                   "  x = map {c*0.5} : f32\n  y = map {g*0.5} : f32\n  z = map "
                                   "{c*1.5} : f32\n  w = map {";
        char *text = ssd_arena_printf(&a, "%s%s} : %s\n", head, table[i].from, table[i].dtype);
        char *want = ssd_arena_printf(&a, "%s%s} : %s\n", head, table[i].to, table[i].dtype);
        Text errors = {0};
        Prog *p = parsed(&a, text, strlen(text), &errors);
        if (p)
            CHECK_SAME(strstr(printed(&a, p), "  w ="), strstr(want, "  w ="));
        else
            CHECK_SAME(errors.s, table[i].from);
        golden(want);
        ssd_text_free(&errors);
        ssd_arena_free(&a);
    }
}

static void test_built(void) {
    Arena a = {0};
    Prog *p = ssd_prog_new(&a, "two words");
    ssd_prog_axis(p, "j", 4);
    Ex dim[] = {ssd_ex_sym(p, "t")};
    u16 x = ssd_prog_tensor(p, T_IN, "X", SSD_F32, 1, dim),
        y = ssd_prog_tensor(p, T_OUT, "Y", SSD_F32, 1, dim);
    TKernel *k = ssd_prog_kernel(p, "k");
    Val g = ssd_prog_grid(p, k, "j", ssd_ex_int(p, 3)); // an axis has the name
    TB b = {p, &k->body};
    Ex j = ssd_ex_axis(p, 1), at = ssd_ex_fn(p, FN_ADD, ssd_ex_val(p, g), j, 0);
    Val v[4];
    for (int i = 0; i < 4; i++)
        v[i] = ssd_tile_load(&b, i < 3 ? "s1" : "max", SSD_F32, x, &at, 1, 0);
    Ex sum = ssd_ex_val(p, v[0]);
    for (int i = 1; i < 4; i++) sum = ssd_ex_fn(p, FN_ADD, sum, ssd_ex_val(p, v[i]), 0);
    CHECK(sum == ssd_ex_fn(p, FN_ADD, p->exs.v[sum].arg[0], ssd_ex_val(p, v[3]), 0)); // one node
    ssd_tile_store(&b, y, &at, 1, sum, 0);
    const char *want = "program two_words stratum 0\n"
                       "sym t\n"
                       "axes j=4\n"
                       "in X f32[t]\n"
                       "out Y f32[t]\n"
                       "kernel k grid j1=3\n"
                       "  s1 = load X[j1+j] : f32[j]\n"
                       "  s1_1 = load X[j1+j] : f32[j]\n"
                       "  s1_2 = load X[j1+j] : f32[j]\n"
                       "  max1 = load X[j1+j] : f32[j]\n"
                       "  store Y[j1+j] = s1 + s1_1 + s1_2 + max1\n";
    CHECK_SAME(printed(&a, p), want);
    golden(want);
    ssd_arena_free(&a);
}

// --- Errors -------------------------------------------------------------------------------------
// The
// body of a kernel and the message it gives, the first line of it. Line 1 of the body is line 8.
static void test_errors(void) {
    static const struct {
        const char *body, *message;
    } table[] = {
        // syntax
        {"v = mapp {1}", "p:8:7: error: unknown op `mapp`"},
        {"v map {1}", "p:8:5: error: expected `=`, found `map`"},
        {"v = map {b +}", "p:8:15: error: expected an expression, found `}`"},
        {"v = map {1", "p:8:13: error: expected `}` before the end of the line"},
        {"v = map {w}", "p:8:12: error: unknown value `w`"},
        {"v = map {#q}", "p:8:12: error: unknown symbol `#q`"},
        {"v = load Z[b]", "p:8:12: error: unknown tensor `Z`"},
        {"v = load X[b, j]", "p:8:13: error: `X` has rank 3, not 2"},
        {"v = map {A[b, b]}", "p:8:12: error: `A` has rank 1, not 2"},
        {"v = load X[b, i, p] : f33[i p]", "p:8:25: error: expected a dtype"},
        {"v = load X[b, i, p] : f32[i j]", "p:8:25: error: the axes of `v` are [i p]"},
        {"v = load X[b, i, p] : f32[i i]", "p:8:31: error: the axis is named twice"},
        {"v = fill 0[q]", "p:8:14: error: unknown axis"},
        {"v = fill 0[i] extra", "p:8:17: error: unexpected `extra`"},
        {"b = fill 0[i]", "p:8:3: error: `b` is already defined in this kernel"},
        {"i = fill 0[i]", "p:8:3: error: `i` is an axis"},
        {"v = map {\"}", "p:8:12: error: expected an expression, found `\"`"},
        {"v = map {\001}", "p:8:12: error: unexpected byte 0x01"},
        {"v = map {\tx}", "p:8:12: error: unexpected byte 0x09"},
        {"v = map {99999999999999999999}", "p:8:12: error: the number is too large for an index"},
        {"for c in 0..3\n     v = fill 0[i]\n    w = fill 0[i]",
         "p:10:5: error: the indentation does not match"},
        {"for c in 0..3\n    v = fill 0[i]\n  w = map {v}",
         "p:10:12: error: `v` is defined in another block"},
        {"if b\n    v = fill 0[i]",
         "p:8:1: error: kernel k: line 8: the condition must be a condition"},
        // meaning
        {"store Y[b, 0, p] = 1; v = rename v i->j", "p:8:36: error: unknown value `v`"},
        {"v = load X[b, i*i, p]", "index 2 is not affine in the tile axes"},
        {"v = load X[b, i//2, p]", "index 2 is not affine in the tile axes"},
        {"v = load X[b, 0.5, p]", "index 2 is no index"},
        {"v = load X[b, 0, p] when i < 3", "`when` has an axis that no index has"},
        {"v = load X[b, 0, p] when 3", "`when` takes a condition"},
        {"store X[b, 0, p] = 1", "a store to an input"},
        {"store Y[b, 0, 0] = 1 + i", "the value has an axis that no index has"},
        {"store Y[b, 0, 0] = b < 1", "the value has another type than the tensor"},
        {"v = map {where(b, 1, 2)}", "where takes a condition"},
        {"v = map {exp(b < 1)}", "exp takes a number, not a condition"},
        {"v = map {A[i]}", "index 1 of `A` must be a rank-0 index inside an expression"},
        {"v = map {b} : f32; w = map {b < 1} : f32", "`w` has the wrong dtype"},
        {"v = map {0.5} : idx", "`v` has the wrong dtype"},
        {"x = fill 0[i p]; y = fill 0[p j]; v = mma x y keep p j",
         "axis j is kept, but not shared"},
        {"x = fill 0[i p]; y = fill 0[p j]; a = fill 0[i p]; v = mma x y + a",
         "the accumulator `a` has other axes than the product"},
        {"x = fill 0[i p]; v = reduce sum j {x}", "the expression has no axis j"},
        {"x = fill 0[i p]; v = scan sum j x", "`x` has no axis j"},
        {"x = fill 0[i p]; v = at x j=0", "`x` has no axis j"},
        {"x = fill 0[i p]; v = at x i=p", "the index has tile axes"},
        {"x = fill 0[i p]; v = rename x p->i", "axis i is already there"},
        {"x = fill 0[i p]; v = rename x p->j", "the axes differ in size"},
        {"x = fill 0[i p]; v = split x p->(j u)", "the sizes do not multiply"},
        {"x = fill 0[j u]; v = join x (j u)->p", "the sizes do not multiply"},
        {"x = fill 0[i]; y = fill 0[j]; v = cat x y i->p", "`x` and `y` differ in other axes"},
        {"x = fill 0[i]; y = fill 1[]; v = cat x y i->p", "axis p has 8 elements, not 5"},
        {"x = fill 0[p]; v = slice x p->i from 5", "the slice exceeds axis p"},
        {"x = fill 0[u]; v = swap x u halves", "axis u is odd"},
        {"x = fill 0[i p]; v = inv x i p", "the matrix is not square"},
        {"x = fill 0[i p]; y = fill 0[i]; v = put x i=0 y", "`y` has not the axes of the slice"},
        {"for c in 0..3 carry s=0.0\n    v = map {s}",
         "the loop carries values, but does not yield"},
        {"for c in 0..3 carry s=0.0\n    yield 1",
         "carry `s` has another type than what is yielded"},
        {"for c in 0..3 carry s=0.0\n    yield 1.0, 2.0",
         "the loop carries 1 values, 2 are yielded"},
        {"x = fill 0[i]\n  for c in 0..3 carry s=x\n    y = fill 0[j]\n    yield y",
         "carry `s` has other axes"},
        {"x = fill 0[i]\n  for c in 0..3 carry s=x\n    yield s*2",
         "a tile is yielded as a value, not as an expression"},
        {"if b < 1\n    yield", "a yield must be the last op of a loop"},
        {"v = buf 16 @mem", "an op of stratum 1 in a program of stratum 0"},
        {"v = fill 0[i] : f32[i] @scalar", "`v` has a space, but the program claims stratum 0"},
        {"v = load X[b, v, p]", "p:8:17: error: unknown value `v`"},
    };
    for (size_t i = 0; i < COUNTOF(table); i++) {
        Arena a = {0};
        Text errors = {0};
        char *text =
            ssd_arena_printf(&a,
                             "program e stratum 0\nsym t\naxes i=4 j=4 p=8 u=3\nin X f32[2 t 8]\n"
                             "in A f32[2]\nout Y f32[2 t 8]\nkernel k grid b=2\n  %s\n",
                             table[i].body);
        bool refused = !parsed(&a, text, strlen(text), &errors);
        if (!CHECK(refused))
            printf("accepted: %s\n", table[i].body);
        else
            CHECK_HOLDS(errors.s, table[i].message);
        ssd_text_free(&errors);
        ssd_arena_free(&a);
    }
}

static void test_placed_errors(void) {
    static const struct {
        const char *body, *message;
    } table[] = {
        {"v = fill 0[i] : f32[i]", "`v` has no space"},
        {"v = fill 0[i] : f32[i] @scalar", "`v` is a tile in a scalar's place"},
        {"v = fill 0[i] : f32[i] @mem(i)", "`v` lies in no buffer"},
        {"v = fill 0[i] : f32[i] @mem(i) in b+13", "`v` exceeds its buffer `b` of 64 bytes"},
        {"v = fill 0[i] : f32[i] @mem(i:6) in b", "`v` exceeds its buffer `b` of 64 bytes"},
        {"v = fill 0[i] : bf16[i] @mem(i:10) in b", ""}, // 62 bytes
        {"v = fill 0[i] : f32[i] @mem in b", "the layout of `v` has other axes than its type"},
        {"v = fill 0[i] : f32[i] @shared(i) in b",
         "`v` and its buffer `b` are in different spaces"},
        {"c = buf 64 @shared; v = fill 0[i] : f32[i] @shared(i) in c\n  w = map {v} : f32[i] "
         "@reg(i)",
         ""},
        {"c = buf 64 @shared; v = fill 0[i] : f32[i] @shared(i) in c\n  w = scan sum i v : f32[i] "
         "@reg(i)",
         "`v` is in shared memory: copy it first"},
    };
    for (size_t i = 0; i < COUNTOF(table); i++) {
        Arena a = {0};
        Text errors = {0};
        char *text = ssd_arena_printf(
            &a, "program e stratum 1\naxes i=4\nkernel k\n  b = buf 64 @mem\n  %s\n",
            table[i].body);
        Prog *p = parsed(&a, text, strlen(text), &errors);
        if (*table[i].message)
            CHECK_HOLDS(errors.s, table[i].message);
        else if (!CHECK(p != NULL))
            printf("%s: %s\n", table[i].body, errors.s);
        ssd_text_free(&errors);
        ssd_arena_free(&a);
    }
}

static void test_declaration_errors(void) {
    static const char *const table[][2] = {
        {"", "p:1: error: there is no program"},
        {"kernel k\n", "p:1:1: error: expected `program`, found `kernel`"},
        {"program\n", "p:1:8: error: expected a name"},
        {"program a stratum 3\n", "p:1:19: error: the stratum must be between 0 and 2"},
        {"program a\naxes i=0\n", "p:2:8: error: an axis must be between 1"},
        {"program a\naxes i=4 i=5\n", "p:2:10: error: axis `i` is already declared"},
        {"program a\nsym b b\n", "p:2:7: error: symbol `b` is already declared"},
        {"program a\nsym a b c d e f g h i\n", "p:2:21: error: too many symbols"},
        {"program a\nin x f32[t]\n", "p:2:10: error: unknown symbol `t`"},
        {"program a\nin x f32[1 1 1 1 1 1 1 1 1]\n", "more than 8 dimensions"},
        {"program a\nin x f32\nout x f32\n", "p:3:5: error: two tensors are called `x`"},
        {"program a\nout x f32 alias y\n", "error: `x` cannot share the memory of `y`"},
        {"program a\nkernel k grid a=1 b=1 c=1 d=1 e=1\n", "more than 4 grid variables"},
        {"program a\nkernel k grid a=1 b=a\n", "grid size 2 is no size"},
        {"program a\nwhat\n", "p:2:1: error: expected sym, axes, in, out, ws, schedule or kernel"},
    };
    for (size_t i = 0; i < COUNTOF(table); i++) {
        Arena a = {0};
        Text errors = {0};
        bool refused = !parsed(&a, table[i][0], strlen(table[i][0]), &errors);
        if (CHECK(refused)) CHECK_HOLDS(errors.s, table[i][1]);
        ssd_text_free(&errors);
        ssd_arena_free(&a);
    }
}

// --- Hostile text -------------------------------------------------------------------------------
// Whatever
// parses must print to text that is its own print.
static void survive(const char *s, size_t n) {
    Arena a = {0};
    char *copy = malloc(n ? n : 1); // exactly n bytes: reading past them shows
    memcpy(copy, s, n);
    Diag d = {.arena = &a, .file = "p", .source = copy, .source_len = n};
    Prog *p = ssd_tile_parse(&a, copy, n, "p", &d);
    bool ok = (p == NULL) == (d.errors > 0);
    if (p) {
        char *once = printed(&a, p);
        Diag d2 = {.arena = &a, .file = "q", .source = once, .source_len = strlen(once)};
        Prog *q = ssd_tile_parse(&a, once, strlen(once), "q", &d2);
        ok &= q && !strcmp(once, printed(&a, q));
        if (!ok) {
            Text t = {0};
            ssd_diag_print(&d2, &t);
            printf("%s\n%s\n", once, t.s ? t.s : printed(&a, q));
            ssd_text_free(&t);
        }
    }
    CHECK(ok);
    free(copy);
    ssd_arena_free(&a);
}

static void test_hostile(void) {
    static const char *const sources[] = {every_op, placed};
    static const char bytes[] = " \n;#:=.[](){}@+-*/%<>!,0123456789eabijnpstux_\t\r\"\\~\377";
    u64 state = 7;
    for (size_t k = 0; k < COUNTOF(sources); k++) {
        size_t n = strlen(sources[k]);
        char *s = malloc(n + 64);
        for (size_t i = 0; i < n; i += 1 + i % 3) survive(sources[k], i);
        for (int i = 0; i < 3000; i++) {
            memcpy(s, sources[k], n + 1);
            size_t len = n, at = test_random(&state) % n, other = test_random(&state) % n;
            size_t part = 1 + test_random(&state) % 12;
            switch (test_random(&state) % 4) {
            case 0: // other bytes
                for (u32 e = 1 + test_random(&state) % 3; e; e--)
                    s[test_random(&state) % n] = bytes[test_random(&state) % (sizeof bytes)];
                break;
            case 1: // a piece is missing
                part = MIN(part, n - at);
                memmove(s + at, s + at + part, n - at - part);
                len = n - part;
                break;
            case 2: // a piece of another place
                part = MIN(part, n - MAX(at, other));
                memmove(s + at, sources[k] + other, part);
                break;
            default: // a byte more
                memmove(s + at + 1, s + at, n - at);
                s[at] = bytes[test_random(&state) % (sizeof bytes - 1)];
                len = n + 1;
            }
            survive(s, len);
        }
        free(s);
    }
}

static char *repeat(Arena *a, const char *head, const char *part, int n, const char *tail) {
    Text t = {0};
    ssd_text_printf(&t, "%s", head);
    for (int i = 0; i < n; i++) ssd_text_printf(&t, "%s", part);
    ssd_text_printf(&t, "%s", tail);
    char *s = ssd_arena_dup(a, t.s, t.n);
    ssd_text_free(&t);
    return s;
}

static void test_deep(void) {
    static const char head[] =
        "program d stratum 0\naxes i=4\nin X f32[9]\nkernel k grid b=2\n  v = map {";
    static const struct {
        const char *part, *tail;
    } table[] = {{"(", ""},     {"-", "1"},        {"not ", "true"}, {"1*(b + ", "1"}, {"X[", ""},
                 {"exp(", "1"}, {"X[b]*", "1}\n"}, {"b + ", "1}\n"}, {"1, ", ""}};
    for (size_t i = 0; i < COUNTOF(table); i++)
        for (int n = 10; n <= 100000; n *= 100) {
            Arena a = {0};
            char *s = repeat(&a, head, table[i].part, n, table[i].tail);
            survive(s, strlen(s));
            ssd_arena_free(&a);
        }
    Arena a = {0};
    Text t = {0};
    ssd_text_printf(&t, "program d stratum 0\nkernel k\n");
    for (int i = 1; i < 200; i++) ssd_text_printf(&t, "%*sif 1 < 2\n", i, "");
    survive(t.s, t.n);
    t.n = 0;
    ssd_text_printf(&t, "program d stratum 0\naxes");
    for (int i = 1; i < 400; i++) ssd_text_printf(&t, " a%d=1", i);
    survive(t.s, t.n);
    ssd_text_free(&t);
    ssd_arena_free(&a);
}

int main(void) {
    test_golden();
    test_files();
    test_exprs();
    test_built();
    test_errors();
    test_placed_errors();
    test_declaration_errors();
    if (setlocale(LC_NUMERIC, "de_DE.UTF-8")) test_golden(); // a host with a decimal comma
    test_hostile();
    test_deep();
    return test_end();
}
