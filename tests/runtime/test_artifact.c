// SPDX-License-Identifier: Apache-2.0
// Formulas, and the text of artifacts: round trip, each kind of wrong line, and noise.
#include "test.h"

static const char *const syms[] = {"b", "t"};
static const i64 values[] = {2, 100};

static void expect_value(const char *f, i64 want) {
    i64 v;
    Text why = {0};
    bool ok = ssd_formula_eval(f, syms, values, 2, &v, &why);
    if (!CHECK(ok && v == want))
        printf("  %s = %lld, not %lld (%s)\n", f, (long long)v, (long long)want,
               why.s ? why.s : "");
    ssd_text_free(&why);
}

static void expect_fault(const char *f, const char *message) {
    i64 v;
    Text why = {0};
    CHECK(!ssd_formula_eval(f, syms, values, 2, &v, &why) && v == 0);
    CHECK_HOLDS(why.s, message);
    ssd_text_free(&why);
}

static void formulas(void) {
    static const struct {
        const char *f;
        i64 want;
    } good[] = {{"t", 100},
                {"cdiv(t,64)*24", 48},
                {"1-2-3", -4},
                {"2+3*4", 14},
                {"2*3+4", 10},
                {"7/2", 3},
                {"-7/2", -4},
                {"7/-2", -4},
                {"cdiv(7,2)", 4},
                {"cdiv(-7,2)", -3},
                {"cdiv(7,-2)", -3},
                {"cdiv(8,2)", 4},
                {"min(b,max(t,3))", 2},
                {"t>=64 && b*24>=2", 1},
                {"t<64 || b==3", 0},
                {"1+2<4&&0||1", 1},
                {"b==2||1/0", 1},
                {"b!=2&&1/0", 0},
                {"0&&1/0||3>2", 1},
                {"-(-3)", 3},
                {"2*-3", -6},
                {"-b*3+t", 94},
                {"1<2<3", 1},
                {" ( t ) ", 100},
                {"9223372036854775807", INT64_MAX},
                {"(0-9223372036854775807-1)", INT64_MIN},
                {"1<=1", 1},
                {"1!=1", 0},
                {"((((((((t))))))))", 100}};
    static const struct {
        const char *f, *fault;
    } wrong[] = {{"", "unexpected end"},
                 {"t)", "unexpected character"},
                 {"((t", "expected ')'"},
                 {"q", "unknown symbol 'q'"},
                 {"b==2||q", "unknown symbol"},
                 {"1/0", "division by zero"},
                 {"cdiv(t,0)", "division by zero"},
                 {"9223372036854775808", "too large"},
                 {"9223372036854775807+1", "overflow"},
                 {"t*t*t*t*t*t*t*t*t*t*t", "overflow"},
                 {"(0-9223372036854775807-1)/-1", "overflow"},
                 {"cdiv(0-9223372036854775807-1,-1)", "overflow"},
                 {"-(0-9223372036854775807-1)", "overflow"},
                 {"min(b)", "expected ','"},
                 {"min(b,t", "expected ')'"},
                 {"min", "unknown symbol 'min'"},
                 {"a b", "unknown symbol"},
                 {"b t", "unexpected character"},
                 {"1+", "unexpected end"},
                 {"1=2", "unexpected"},
                 {"b&t", "unexpected"}};
    for (size_t i = 0; i < COUNTOF(good); i++) expect_value(good[i].f, good[i].want);
    for (size_t i = 0; i < COUNTOF(wrong); i++) expect_fault(wrong[i].f, wrong[i].fault);

    static char deep[20000];
    memset(deep, '(', sizeof deep - 1);
    expect_fault(deep, "nested too deeply");
    memset(deep, '-', sizeof deep - 1);
    expect_fault(deep, "nested too deeply");

    i64 v; // without values only syntax and names are checked
    Text why = {0};
    CHECK(ssd_formula_eval("1/0 + b*t", syms, NULL, 2, &v, &why) && !why.s);
    CHECK(!ssd_formula_eval("1/0 + q", syms, NULL, 2, &v, &why));
    ssd_text_free(&why);
}

static const char sample[] = "ssdc-artifact 1\n"
                             "program mamba2 forward cpu-x86-64-v4\n"
                             "schedule form=chunked q=64 hoist=1\n"
                             "sym b x 0\n"
                             "sym t x 1\n"
                             "sym s cu_seqlens 0 minus 1\n"
                             "param x in bf16 b t 24 64\n"
                             "param h0 in f32 b 24 64 128\n"
                             "param cu_seqlens in i32 s+1\n"
                             "param y out bf16 b t 24 64\n"
                             "param hT out f32 b 24 64 128 alias h0\n"
                             "plan when t>=64 && b*24>=2\n"
                             "ws S f32 b 1 cdiv(t,64) 64 64\n"
                             "kernel group b*cdiv(t,64) 32768\n"
                             "kernel scan b*24 81920\n"
                             "plan always\n"
                             "kernel all b 0\n";

static const char cuda_sample[] = "ssdc-artifact 1\n"
                                  "program mamba2 forward cuda-sm_90a\n"
                                  "schedule form=chunked q=64\n"
                                  "sym b x 0\n"
                                  "param x in bf16 b 24 64\n"
                                  "param y out bf16 b 24 64\n"
                                  "plan when b>=2\n"
                                  "ws S f32 b 64\n"
                                  "ws n i32\n"
                                  "kernel group b*24 65536 256\n"
                                  "takes 2 0 3\n"
                                  "map 1 swizzle 128 box 64 1 1\n"
                                  "map 0 swizzle 0 box 256 8\n"
                                  "map 1 swizzle 128 box 64 0 1\n"
                                  "map 1 swizzle 0 box 64 0 0\n"
                                  "kernel idle 1 0 32 early\n"
                                  "takes\n"
                                  "plan always\n"
                                  "kernel all b 0 1024\n"
                                  "takes 1 0\n";

// Code of three cubins; nobody says that each has a kernel.
static const char modules_sample[] = "ssdc-artifact 1\n"
                                     "program toy step cuda-sm_80\n"
                                     "schedule form=recurrent\n"
                                     "sym b x 0\n"
                                     "param x in f32 b 4\n"
                                     "param y out f32 b 4\n"
                                     "modules 1000 64 268435456\n"
                                     "plan when dense\n"
                                     "kernel first_dense b 0 64 in 2\n"
                                     "takes 0\n"
                                     "kernel second_dense b 0 32 in 0 early\n"
                                     "takes 1\n"
                                     "plan always\n"
                                     "kernel first b 0 64 in 2\n"
                                     "takes 0\n";

static void modules_round_trip(void) {
    Arena a = {0};
    Artifact art;
    Text why = {0}, out = {0};
    CHECK(ssd_artifact_parse(&a, modules_sample, sizeof modules_sample - 1, &art, &why) && !why.s);
    CHECK(art.n_modules == 3 && art.module_bytes[0] == 1000 && art.module_bytes[2] == 1 << 28);
    const ArtKernel *k = art.plans[0].kernels;
    CHECK(k[0].module == 2 && !k[0].early && k[1].module == 0 && k[1].early);
    CHECK(art.plans[1].kernels[0].module == 2);
    CHECK(ssd_artifact_module_at(0) == 0 && ssd_artifact_module_at(1000) == 1024 &&
          ssd_artifact_module_at(1024) == 1024);
    ssd_artifact_print(&art, &out);
    CHECK_SAME(out.s, modules_sample);
    ssd_text_free(&out);
    ssd_arena_free(&a);
}

static void cuda_round_trip(void) {
    Arena a = {0};
    Artifact art;
    Text why = {0}, out = {0};
    CHECK(ssd_artifact_parse(&a, cuda_sample, sizeof cuda_sample - 1, &art, &why) && !why.s);
    const ArtKernel *k = art.plans[0].kernels;
    CHECK(k[0].threads == 256 && k[0].scratch == 65536 && k[0].n_takes == 3);
    CHECK(k[0].takes[0] == 2 && k[0].takes[1] == 0 && k[0].takes[2] == 3);
    CHECK(k[0].n_maps == 4 && k[0].maps[0].take == 1 && k[0].maps[0].swizzle == 128);
    CHECK(k[0].maps[0].rank == 3 && k[0].maps[0].box[0] == 64 && k[0].maps[0].box[2] == 1);
    CHECK(k[0].maps[1].rank == 2 && !k[0].maps[1].swizzle && k[0].maps[1].box[0] == 256);
    CHECK(k[0].maps[2].rank == 3 && !k[0].maps[2].box[1] && k[0].maps[2].box[2] == 1);
    CHECK(k[0].maps[3].rank == 3 && !k[0].maps[3].box[1] && !k[0].maps[3].box[2]);
    CHECK(k[1].threads == 32 && k[1].n_takes == 0 && k[1].n_maps == 0);
    CHECK(!k[0].early && k[1].early);
    const int rank[] = {3, 3, 2}; // maps come first, and the whole is a multiple of 64
    CHECK(ssd_artifact_arg_bytes(rank, 3, 1, 0) == 8 * (3 + 1 + 16));
    CHECK(ssd_artifact_arg_bytes(rank, 3, 1, 2) == 256 + 192);
    ssd_artifact_print(&art, &out);
    CHECK_SAME(out.s, cuda_sample);
    ssd_text_free(&out);
    ssd_arena_free(&a);
}

static void round_trip(void) {
    Arena a = {0};
    Artifact art;
    Text why = {0}, out = {0};
    CHECK(ssd_artifact_parse(&a, sample, sizeof sample - 1, &art, &why));
    CHECK(!why.s && art.n_syms == 3 && art.n_params == 5 && art.n_plans == 2);
    CHECK(art.plans[0].n_ws == 1 && art.plans[0].n_kernels == 2 &&
          art.plans[0].kernels[1].scratch == 81920);
    CHECK(art.syms[2].minus == 1 && art.syms[2].dim == 0);
    CHECK_SAME(art.params[4].alias, "h0");
    CHECK_SAME(art.plans[1].when, "1");
    CHECK_SAME(art.schedule, "form=chunked q=64 hoist=1");
    ssd_artifact_print(&art, &out);
    CHECK_SAME(out.s, sample);
    ssd_text_free(&out);
    art.params[0].dim[1] = "t + 0"; // a formula of a compiler that likes blanks
    ssd_artifact_print(&art, &out);
    CHECK_HOLDS(out.s, "param x in bf16 b t+0 24 64\n");
    ssd_text_free(&out);
    ssd_arena_free(&a);
}

// A text with its line `from` replaced; NULL removes it.
static void expect_refused(const char *whole, const char *from, const char *to,
                           const char *message) {
    Arena a = {0};
    Artifact art;
    Text text = {0}, why = {0};
    const char *at = strstr(whole, from), *end = strchr(at, '\n') + 1;
    ssd_text_put(&text, whole, (size_t)(at - whole));
    if (to) ssd_text_printf(&text, "%s\n", to);
    ssd_text_put(&text, end, strlen(end));
    CHECK(!ssd_artifact_parse(&a, text.s, text.n, &art, &why));
    CHECK_HOLDS(why.s, message);
    ssd_text_free(&text);
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

static void refused(void) {
    static const struct {
        const char *from, *to, *message;
    } cases[] = {{"ssdc-artifact", "ssdc-artifact 2", "line 1: not an artifact of version 1"},
                 {"program", "program mamba2 forward", "line 2"},
                 {"schedule", "form=x", "line 3"},
                 {"sym b", "sym b x 9", "bad number"},
                 {"sym b", "sym b x 4", "names no dim"},
                 {"sym b", "sym b z 0", "names no dim of 'z'"},
                 {"sym b", "sym t x 0", "symbol 't' again"},
                 {"sym b", NULL, "unknown symbol 'b'"},
                 {"sym s", "sym s cu_seqlens 0 plus 1", "expected 'sym"},
                 {"param x", "param x inout bf16 b t 24 64", "neither in nor out"},
                 {"param x", "param x in f99 b t 24 64", "unknown dtype 'f99'"},
                 {"param x", "param x in f64 b t 24 64", "unknown dtype 'f64'"},
                 {"param x", "param x in bf16 b t 24 (", "formula '('"},
                 {"param x", "param x in bf16 b t 1 1 1 1 1 1 1", "more than 8 dims"},
                 {"param x", "param h0 in bf16 b t 24 64", "parameter 'h0' again"},
                 {"param hT", "param hT out f32 b 24 64 128 alias h1", "cannot be alias"},
                 {"param hT", "param hT out bf16 b 24 64 128 alias h0", "cannot be alias"},
                 {"param hT", "param hT out f32 b 24 64 12 alias h0", "cannot be alias"},
                 {"param hT", "param hT out f32 b 24 64 128 alias y", "cannot be alias"},
                 {"plan when", NULL, "'ws' before the first plan"},
                 {"plan when", "plan when", "expected 'plan"},
                 {"plan when", "plan when t>=q", "unknown symbol 'q'"},
                 {"plan always", "param z in f32 b", "parameters stand before plans"},
                 {"ws S", "ws S", "expected 'ws"},
                 {"kernel all", NULL, "a plan without kernels"},
                 {"kernel all", "kernel all b -1", "bad scratch size"},
                 {"kernel all", "kernel all b 99999999999999999999", "bad scratch size"},
                 {"kernel all", "kernel all b", "expected 'kernel"},
                 {"kernel all", "kernels all b 0", "unknown line 'kernels'"},
                 {"kernel all", "kernel a\x01ll b 0", "odd character"},
                 {"kernel all", "", "empty line"}};
    for (size_t i = 0; i < COUNTOF(cases); i++)
        expect_refused(sample, cases[i].from, cases[i].to, cases[i].message);
    expect_refused(sample, "kernel all", "kernel all b 0 32",
                   "expected 'kernel SYMBOL BLOCKS SCRATCH'");
    expect_refused(sample, "kernel all", "kernel all b 0\ntakes 0", "belongs to CUDA targets");
}

static void modules_refused(void) {
    static const char form[] = "expected 'kernel SYMBOL BLOCKS SHARED THREADS in MODULE'";
    const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"modules", "modules", "expected 'modules BYTES...'"},
        {"modules", "modules 64 0 64", "bad size of a module '0'"},
        {"modules", "modules 64 -64 64", "bad size of a module '-64'"},
        {"modules", "modules 64 64 268435457", "bad size of a module '268435457'"},
        {"modules", "modules 64 64 99999999999999999999", "bad size of a module '9999"},
        {"modules", "modules 1 1 1\nmodules 1 1 1", "'modules' again"},
        {"modules", "modules 64 64", "kernel 'first_dense' is in module '2' of 2"},
        {"modules", NULL, "expected 'kernel SYMBOL BLOCKS SHARED THREADS'"},
        {"plan always", "modules 1 1 1\nplan always", "modules stand before plans"},
        {"kernel first b", "kernel first b 0 64 in 3", "kernel 'first' is in module '3' of 3"},
        {"kernel first b", "kernel first b 0 64 in -1", "kernel 'first' is in module '-1' of 3"},
        {"kernel first b", "kernel first b 0 64 in x", "kernel 'first' is in module 'x' of 3"},
        {"kernel first b", "kernel first b 0 64", form},
        {"kernel first b", "kernel first b 0 64 early", form},
        {"kernel first b", "kernel first b 0 64 of 2", form},
        {"kernel first b", "kernel first b 0 64 in 2 soon", form},
        {"kernel first b", "kernel first b 0 64 early in 2", form},
    };
    Text many = {0};
    for (size_t i = 0; i < COUNTOF(cases); i++)
        expect_refused(modules_sample, cases[i].from, cases[i].to, cases[i].message);
    ssd_text_printf(&many, "modules");
    for (int i = 0; i <= ART_MAX_KERNELS; i++) ssd_text_printf(&many, " 64");
    expect_refused(modules_sample, "modules", many.s, "more than 64 modules");
    expect_refused(sample, "plan always", "modules 64\nplan always", "belongs to CUDA targets");
    ssd_text_free(&many);
}

// A kernel of n tensors of rank 8 and one of rank 1, with maps of that: 17 and 3 words each, a map
// has 16, and 512 are possible.
static void many_tensors(int n, int maps, const char *message) {
    Arena a = {0};
    Artifact art;
    Text text = {0}, why = {0};
    ssd_text_printf(&text, "ssdc-artifact 1\nprogram p forward cuda-sm_80\nschedule x\n");
    for (int i = 0; i < n; i++) ssd_text_printf(&text, "param x%d in f32 1 1 1 1 1 1 1 1\n", i);
    ssd_text_printf(&text, "param y in f32 64\nplan always\nkernel k 1 0 32\ntakes");
    for (int i = 0; i <= n; i++) ssd_text_printf(&text, " %d", i);
    ssd_text_printf(&text, "\n");
    for (int i = 0; i < maps; i++) ssd_text_printf(&text, "map %d swizzle 0 box 64\n", n);
    CHECK(ssd_artifact_parse(&a, text.s, text.n, &art, &why) == !message);
    if (message) CHECK_HOLDS(why.s, message);
    ssd_text_free(&text);
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

static void cuda_refused(void) {
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"kernel all", "kernel all b 0", "expected 'kernel SYMBOL BLOCKS SHARED THREADS'"},
        {"kernel all", "kernel all b 0 32 1", "expected 'kernel SYMBOL BLOCKS SHARED THREADS'"},
        {"kernel all", "kernel all b 0 32 soon", "expected 'kernel SYMBOL BLOCKS SHARED THREADS"},
        {"kernel all", "kernel all b 0 0", "bad number of threads '0'"},
        {"kernel all", "kernel all b 0 48", "bad number of threads '48'"},
        {"kernel all", "kernel all b 0 1056", "bad number of threads '1056'"},
        {"kernel all", "kernel all b 0 -32", "bad number of threads '-32'"},
        {"takes 1 0", NULL, "kernel 'all' has no 'takes'"},
        {"takes 1 0", "takes 1 2",
         "kernel 'all' takes tensor 2 of 2"}, // this plan has no workspace
        {"takes 2 0 3", "takes 2 0 4", "kernel 'group' takes tensor 4 of 4"},
        {"takes 2 0 3", "takes 2 0 2", "kernel 'group' takes tensor 2 twice"},
        {"takes 2 0 3", "takes 2 0 x", "bad tensor 'x'"},
        {"takes 2 0 3", "takes 2 0 99999", "bad tensor '99999'"},
        {"takes 2 0 3", "takes 2\ntakes 0", "kernel 'group' takes twice"},
        {"plan always", "plan always\ntakes 0", "'takes' before the first kernel"},
        {"map 1", "map 1", "expected 'map TAKE swizzle BYTES box ELEMENTS...'"},
        {"map 1", "map 1 swizzle 128 box", "expected 'map TAKE"},
        {"map 1", "map 1 swizzled 128 box 64 1 1", "expected 'map TAKE"},
        {"map 1", "map 1 swizzle 128 of 64 1 1", "expected 'map TAKE"},
        {"map 1", "map 1 swizzle 128 box 1 1 1 1 1 1", "at most 5 dims"},
        {"map 1", "map -1 swizzle 128 box 64 1 1", "bad tensor '-1'"},
        {"map 1", "map x swizzle 128 box 64 1 1", "bad tensor 'x'"},
        {"map 1", "map 3 swizzle 128 box 64 1 1", "map 0 of kernel 'group' is of tensor 3 of 3"},
        {"map 1", "map 1 swizzle 64 box 64 1 1", "bad swizzle '64'"},
        {"map 1", "map 1 swizzle 129 box 64 1 1", "bad swizzle '129'"},
        {"map 1", "map 1 swizzle 128 box 0 64 1", "bad box size '0'"},
        {"map 1", "map 1 swizzle 128 box 0 0 1", "bad box size '0'"},
        {"map 1", "map 1 swizzle 128 box 64 1 0 1", "bad box size '0'"},
        {"map 1", "map 1 swizzle 128 box 64 -0 1", "bad box size '-0'"},
        {"map 1", "map 1 swizzle 128 box 64 0 257", "bad box size '257'"},
        {"map 1", "map 1 swizzle 128 box 64 257 1", "bad box size '257'"},
        {"map 1", "map 1 swizzle 128 box 64 1 -1", "bad box size '-1'"},
        {"map 1", "map 1 swizzle 128 box 64 1", "has a box of rank 2, 'x' has rank 3"},
        {"map 1", "map 1 swizzle 128 box 72 1 1", "rows of 144 bytes"},
        {"map 1", "map 1 swizzle 0 box 4 1 1", "rows of 8 bytes"},
        {"map 0", "map 1 swizzle 0 box 64 1 1\nmap 0 swizzle 0 box 6 8",
         "map 2 of kernel 'group' has rows of 24 bytes"},
        {"takes 1 0", "map 0 swizzle 0 box 64 1 1\ntakes 1 0", "'map' before the kernel's 'takes'"},
        {"plan always", "plan always\nmap 0 swizzle 0 box 64 1 1",
         "'map' before the kernel's 'takes'"},
    };
    for (size_t i = 0; i < COUNTOF(cases); i++)
        expect_refused(cuda_sample, cases[i].from, cases[i].to, cases[i].message);
    many_tensors(29, 0, NULL);
    many_tensors(30, 0, "the argument of kernel 'k' has 4104 bytes, 4096 are possible");
    many_tensors(0, 31, NULL);
    many_tensors(1, 31, "the argument of kernel 'k' has 4160 bytes, 4096 are possible");
    many_tensors(0, 33, "more than 32 maps");
    many_tensors(12, 18, NULL);
    many_tensors(13, 18, "the argument of kernel 'k' has 4160 bytes");
}

// Cut and damaged texts: refused or, when the damage means something, taken; never a fault.
static void noise(const char *whole) {
    u64 seed = 1;
    size_t n = strlen(whole);
    for (size_t k = 0; k < 3 * n; k++) {
        Arena a = {0};
        Artifact art;
        Text why = {0};
        char *copy = malloc(n);
        memcpy(copy, whole, n);
        size_t len = k < n ? k : n;
        if (k >= n) copy[test_random(&seed) % n] = (char)test_random(&seed);
        bool ok = ssd_artifact_parse(&a, copy, len, &art, &why);
        CHECK(ok == !why.s);
        if (ok) { // what is accepted prints and parses to itself
            Text once = {0}, twice = {0};
            Artifact again;
            ssd_artifact_print(&art, &once);
            if (CHECK(ssd_artifact_parse(&a, once.s, once.n, &again, &why)))
                ssd_artifact_print(&again, &twice);
            CHECK_SAME(twice.s, once.s);
            ssd_text_free(&once);
            ssd_text_free(&twice);
        }
        free(copy);
        ssd_text_free(&why);
        ssd_arena_free(&a);
    }
}

int main(void) {
    formulas();
    round_trip();
    refused();
    cuda_round_trip();
    cuda_refused();
    modules_round_trip();
    modules_refused();
    noise(sample);
    noise(cuda_sample);
    noise(modules_sample);
    return test_end();
}
