// SPDX-License-Identifier: Apache-2.0
// Wrong compiles and wrong launches through ssd.h: each is refused with its status and a message
// that names the argument, and touches nothing; then the right one still works.
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <xmmintrin.h>

static const char text[] = "ssdc: 1\n"
                           "name: small\n"
                           "dims: {heads: 2, groups: 1, head_dim: 5, state_size: 7}\n"
                           "inputs:\n"
                           "  x: bf16[b, t, h, p]\n"
                           "  dt: f32[b, t, h]\n"
                           "  A_log: f32[h]\n"
                           "  B: bf16[b, t, g, n]\n"
                           "  C: bf16[b, t, g, n]\n"
                           "  D: f32[h] = 0\n"
                           "let:\n"
                           "  delta: softplus(dt)\n"
                           "ssd:\n"
                           "  query: C\n"
                           "  key: B\n"
                           "  value: delta * x\n"
                           "  log_decay: -exp(A_log) * delta\n"
                           "  mask: causal\n"
                           "  initial_state: h0\n"
                           "  final_state: hT\n"
                           "outputs:\n"
                           "  y: bf16[b, t, h, p] = ssd + D * x\n"
                           "modes: [forward, step]\n";

static ssd_context *cx;

// --- Launches -----------------------------------------------------------------------------------
enum { X, DT, A_LOG, B, C, D, H0, Y, HT, ARGS, ROOM = 4096, T = 6 };
static const struct {
    const char *name;
    ssd_dtype dtype;
    int rank;
    i64 dims[4];
} right[ARGS] = {{"x", SSD_BF16, 4, {2, T, 2, 5}}, {"dt", SSD_F32, 3, {2, T, 2}},
                 {"A_log", SSD_F32, 1, {2}},       {"B", SSD_BF16, 4, {2, T, 1, 7}},
                 {"C", SSD_BF16, 4, {2, T, 1, 7}}, {"D", SSD_F32, 1, {2}},
                 {"h0", SSD_F32, 4, {2, 2, 5, 7}}, {"y", SSD_BF16, 4, {2, T, 2, 5}},
                 {"hT", SSD_F32, 4, {2, 2, 5, 7}}};
static _Alignas(64) u8 memory[ARGS + 1][ROOM];
static ssd_arg args[ARGS + 2];
static int n_args;

static void make_right(void) {
    memset(memory, 0, sizeof memory);
    n_args = ARGS;
    for (int i = 0; i < ARGS; i++)
        args[i] = (ssd_arg){right[i].name, ssd_tensor_dense(memory[i], right[i].dtype,
                                                            right[i].rank, right[i].dims)};
    memset(memory[Y], 0xA5, ROOM);
    memset(memory[HT], 0xA5, ROOM);
}

typedef void Change(void);
typedef struct Wrong {
    const char *what;
    Change *change;
    const char *says[2]; // both in the message
} Wrong;

#define CHANGE(name, ...)                                                                          \
    static void name(void) { __VA_ARGS__; }
static ssd_tensor *of(int i) { return &args[i].tensor; }
static void remove_arg(int i) {
    memmove(&args[i], &args[i + 1], sizeof *args * (size_t)(--n_args - i));
}

CHANGE(missing_input, remove_arg(DT))
CHANGE(missing_output, remove_arg(Y))
CHANGE(missing_state, remove_arg(H0))
CHANGE(none_at_all, n_args = 0)
CHANGE(negative_count, n_args = -1)
CHANGE(unknown, args[n_args++] = (ssd_arg){"xx", *of(X)})
CHANGE(twice, args[n_args++] = args[B])
CHANGE(no_name, args[DT].name = NULL)
CHANGE(empty_name, args[DT].name = "")
CHANGE(no_data, of(X)->data = NULL)
CHANGE(no_output_data, of(Y)->data = NULL)
CHANGE(wrong_dtype, of(X)->dtype = SSD_F32)
CHANGE(no_dtype, of(C)->dtype = SSD_NONE)
CHANGE(odd_dtype, of(C)->dtype = (ssd_dtype)99)
CHANGE(wrong_rank, of(DT)->rank = 2)
CHANGE(rank_nine, of(DT)->rank = 9)
CHANGE(rank_negative, of(DT)->rank = -1)
CHANGE(wrong_heads, of(DT)->dims[2] = 3)
CHANGE(wrong_features, of(B)->dims[3] = 8)
CHANGE(other_batch, of(DT)->dims[0] = 1)
CHANGE(other_time, of(C)->dims[1] = T + 1)
CHANGE(output_time, of(Y)->dims[1] = T - 1)
CHANGE(negative_dim, of(X)->dims[1] = -1)
CHANGE(huge_batch,
       for (int i = 0; i < ARGS; i++) if (i != A_LOG && i != D) of(i)->dims[0] = INT64_MAX / 2)
CHANGE(huge_time, for (int i = 0; i < ARGS; i++) if (i != A_LOG && i != D && i != H0 && i != HT)
                      of(i)
                          ->dims[1] = (i64)1 << 61)
CHANGE(huge_stride, of(B)->strides[0] = INT64_MAX)
CHANGE(far_stride, of(B)->strides[0] = INT64_MIN)
CHANGE(flat_output, of(Y)->strides[1] = 0)
CHANGE(folded_output, of(Y)->strides[1] = of(Y)->strides[2])
CHANGE(outputs_meet, of(HT)->data = (u8 *)of(Y)->data + 8)
CHANGE(output_on_input, of(Y)->data = of(X)->data)
CHANGE(output_in_input, of(Y)->data = (u8 *)of(X)->data + 2)
CHANGE(state_shifted, of(HT)->data = (u8 *)of(H0)->data + 4)
CHANGE(state_turned, of(HT)->data = of(H0)->data; of(HT)->strides[2] = 1; of(HT)->strides[3] = 5)
CHANGE(state_on_x, of(HT)->data = of(X)->data)
CHANGE(odd_address, of(X)->data = (u8 *)of(X)->data + 1)

static const Wrong wrongs[] = {
    {"missing input", missing_input, {"dt", "missing"}},
    {"missing output", missing_output, {"y", "missing"}},
    {"missing state", missing_state, {"h0", "missing"}},
    {"no arguments", none_at_all, {"missing", ""}},
    {"negative count", negative_count, {"-1", ""}},
    {"unknown argument", unknown, {"xx", "x"}},
    {"argument given twice", twice, {"B", "twice"}},
    {"no name", no_name, {"name", "1"}},
    {"empty name", empty_name, {"''", ""}},
    {"NULL data", no_data, {"x", "NULL"}},
    {"NULL output", no_output_data, {"y", "NULL"}},
    {"wrong dtype", wrong_dtype, {"'x': dtype is f32", "bf16"}},
    {"no dtype", no_dtype, {"C", "bf16"}},
    {"dtype out of range", odd_dtype, {"C", "bf16"}},
    {"wrong rank", wrong_rank, {"'dt': rank is 2", "3"}},
    {"rank 9", rank_nine, {"'dt': rank is 9", "3"}},
    {"negative rank", rank_negative, {"'dt': rank is -1", "3"}},
    {"wrong heads", wrong_heads, {"'dt': dim 2 is 3", "2"}},
    {"wrong features", wrong_features, {"'B': dim 3 is 8", "7"}},
    {"batch differs", other_batch, {"dt", "dim 0 is 1"}},
    {"time differs", other_time, {"C", "dim 1 is 7"}},
    {"output's time differs", output_time, {"y", "dim 1 is 5"}},
    {"negative dim", negative_dim, {"'x': dim 1 is -1", ""}},
    {"batch overflows", huge_batch, {"overflow", ""}},
    {"time overflows", huge_time, {"overflow", ""}},
    {"stride overflows", huge_stride, {"'B'", "overflow"}},
    {"stride leaves memory", far_stride, {"'B'", ""}},
    {"output of stride 0", flat_output, {"'y'", "overlap"}},
    {"output folded on itself", folded_output, {"'y'", "overlap"}},
    {"outputs overlap", outputs_meet, {"'y'", "'hT'"}},
    {"output is an input", output_on_input, {"'y'", "'x'"}},
    {"output inside an input", output_in_input, {"'y'", "'x'"}},
    {"final state beside its place", state_shifted, {"'hT'", "'h0'"}},
    {"final state turned", state_turned, {"'hT'", "'h0'"}},
    {"final state on another input", state_on_x, {"'hT'", "'x'"}},
    {"address between elements", odd_address, {"'x'", "aligned"}},
};

static bool untouched(int i) {
    for (int k = 0; k < ROOM; k++)
        if (memory[i][k] != 0xA5) return false;
    return true;
}

static void test_wrong_launches(ssd_kernel *k) {
    for (size_t i = 0; i < COUNTOF(wrongs); i++) {
        const Wrong *w = &wrongs[i];
        label("launch, %s", w->what);
        make_right();
        w->change();
        size_t bytes = 77;
        for (int pass = 0; pass < 2; pass++) {
            ssd_status s = pass ? ssd_launch(k, args, n_args, NULL, 0)
                                : ssd_kernel_workspace(k, args, n_args, &bytes);
            const char *m = ssd_last_error();
            check(s == SSD_INVALID_ARGUMENT, "status %s", ssd_status_name(s));
            check(strstr(m, w->says[0]) && strstr(m, w->says[1]),
                  "message \"%s\" lacks \"%s\" or \"%s\"", m, w->says[0], w->says[1]);
        }
        check(bytes == 0, "workspace was not cleared");
        check(untouched(Y) && untouched(HT), "memory of an output was written");
    }
}

static void test_workspace(ssd_kernel *k) {
    size_t bytes;
    make_right();
    label("workspace");
    check(ssd_kernel_workspace(k, args, n_args, &bytes) == SSD_OK, "%s", ssd_last_error());
    check(ssd_kernel_workspace(k, args, n_args, NULL) == SSD_INVALID_ARGUMENT,
          "no place for the result");
    u8 *ws = aligned_alloc(64, (bytes + 191) / 64 * 64);
    if (bytes) {
        label("workspace too small");
        check(ssd_launch(k, args, n_args, ws, bytes - 1) == SSD_INVALID_ARGUMENT, "accepted");
        check(strstr(ssd_last_error(), "workspace") != NULL, "message \"%s\"", ssd_last_error());
        label("workspace not aligned");
        check(ssd_launch(k, args, n_args, ws + 8, bytes) == SSD_INVALID_ARGUMENT, "accepted");
        check(strstr(ssd_last_error(), "workspace") != NULL, "message \"%s\"", ssd_last_error());
        check(untouched(Y), "an output was written");
    }
    label("workspace");
    check(ssd_launch(k, args, n_args, ws, bytes) == SSD_OK, "%s", ssd_last_error());
    free(ws);
}

static void test_nulls(ssd_kernel *k) {
    label("NULL");
    make_right();
    size_t bytes;
    ssd_kernel *out = (ssd_kernel *)&bytes;
    ssd_compile_options o = {.spec = text};
    check(ssd_launch(NULL, args, n_args, NULL, 0) == SSD_INVALID_ARGUMENT,
          "launch without a kernel");
    check(ssd_launch(k, NULL, 3, NULL, 0) == SSD_INVALID_ARGUMENT, "launch without arguments");
    check(ssd_kernel_workspace(NULL, args, n_args, &bytes) == SSD_INVALID_ARGUMENT,
          "workspace without a kernel");
    check(ssd_compile(NULL, &o, &out) == SSD_INVALID_ARGUMENT && !out, "compile without a context");
    check(ssd_compile(cx, NULL, &out) == SSD_INVALID_ARGUMENT && !out, "compile without options");
    check(ssd_compile(cx, &o, NULL) == SSD_INVALID_ARGUMENT,
          "compile without a place for the result");
    check(ssd_context_create(NULL, NULL) == SSD_INVALID_ARGUMENT,
          "context without a place for the result");
    check(ssd_kernel_load(cx, NULL, &out) == SSD_INVALID_ARGUMENT && !out, "load without a path");
    check(ssd_kernel_load(cx, "/nowhere/entry.ssda", &out) == SSD_IO && !out,
          "load from nowhere: %s", ssd_last_error());
    check(strstr(ssd_last_error(), "/nowhere/entry.ssda") != NULL, "message \"%s\"",
          ssd_last_error());
    ssd_param p;
    check(ssd_kernel_param(k, -1, &p) == SSD_INVALID_ARGUMENT, "parameter -1");
    check(ssd_kernel_param(k, ARGS, &p) == SSD_INVALID_ARGUMENT, "parameter beyond the last");
    ssd_kernel_destroy(NULL);
    ssd_context_destroy(NULL);
}

// --- What is right stays right ------------------------------------------------------------------
static void test_empty(ssd_kernel *k) {
    label("T = 0");
    make_right();
    for (int i = 0; i < ARGS; i++)
        if (right[i].rank > 1 && i != H0 && i != HT)
            args[i].tensor.dims[1] = 0, args[i].tensor.data = NULL;
    float *h0 = (float *)(void *)memory[H0];
    for (int i = 0; i < 140; i++) h0[i] = (float)i;
    check(ssd_launch(k, args, n_args, NULL, 0) == SSD_OK, "%s", ssd_last_error());
    check(memcmp(memory[H0], memory[HT], 140 * 4) == 0, "the final state is not the initial one");
    label("b = 0");
    make_right();
    for (int i = 0; i < ARGS; i++)
        if (i != A_LOG && i != D) args[i].tensor.dims[0] = 0, args[i].tensor.data = NULL;
    check(ssd_launch(k, args, n_args, NULL, 0) == SSD_OK, "%s", ssd_last_error());
    check(untouched(Y) && untouched(HT), "something was written");
}

static void fill_inputs(void) {
    static const int floats[] = {DT, A_LOG, D, H0};
    Rng r = ssd_random_new(3, "inputs");
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 140; k++)
            ((float *)(void *)memory[floats[i]])[k] = (float)(0.25 * ssd_random_normal(&r));
    static const int halves[] = {X, B, C};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 200; k++)
            ssd_host_store(memory[halves[i]], SSD_BF16, k, ssd_random_normal(&r));
}

// The caller's floating-point state neither matters nor changes.
static void test_float_state(ssd_kernel *k) {
    label("floating-point state");
    make_right();
    fill_inputs();
    check(ssd_launch(k, args, n_args, NULL, 0) == SSD_OK, "%s", ssd_last_error());
    u8 first[2][ROOM];
    memcpy(first[0], memory[Y], ROOM);
    memcpy(first[1], memory[HT], ROOM);
    const unsigned before = _mm_getcsr();
    static const unsigned modes[] = {0x1f80, 0x3f80,        0x5f80,         0x7f80,
                                     0x9fc0, 0x1f80 | 0x15, 0x0000 | 0x1f00};
    for (size_t i = 0; i < COUNTOF(modes); i++) {
        memset(memory[Y], 0xA5, ROOM);
        memset(memory[HT], 0xA5, ROOM);
        _mm_setcsr(modes[i]); // rounding, FTZ and DAZ, sticky flags, an unmasked exception
        ssd_status s = ssd_launch(k, args, n_args, NULL, 0);
        unsigned after = _mm_getcsr();
        _mm_setcsr(before);
        check(s == SSD_OK, "%s", ssd_last_error());
        check(after == modes[i], "MXCSR was %#x, is %#x", modes[i], after);
        check(!memcmp(first[0], memory[Y], ROOM) && !memcmp(first[1], memory[HT], ROOM),
              "results differ under MXCSR %#x", modes[i]);
    }
    check(ssd_last_error()[0] == 0, "a message is left after success: %s", ssd_last_error());
}

// --- Compiles -----------------------------------------------------------------------------------
static const struct {
    const char *what;
    ssd_compile_options o;
    ssd_status status;
    const char *says[2];
} compiles[] = {
    {"no spec", {.spec = NULL}, SSD_INVALID_ARGUMENT, {"spec", ""}},
    {"empty spec", {.spec = ""}, SSD_INVALID_SPEC, {"", ""}},
    {"not YAML", {.spec = "[}"}, SSD_INVALID_SPEC, {"1:2", ""}},
    {"binary", {.spec = "\001\377\376"}, SSD_INVALID_SPEC, {"", ""}},
    {"named spec",
     {.spec = "ssdc: 1\nnome: x\n", .spec_name = "layer.yaml"},
     SSD_INVALID_SPEC,
     {"layer.yaml:2:1", "name"}},
    {"unknown mode",
     {.spec = text, .mode = "sideways"},
     SSD_INVALID_ARGUMENT,
     {"sideways", "forward"}},
    {"unknown target", {.spec = text, .target = "z80"}, SSD_NOT_FOUND, {"z80", ""}},
    {"schedule: unknown key",
     {.spec = text, .schedule = "farm=chunked"},
     SSD_INVALID_ARGUMENT,
     {"farm", "form"}},
    {"schedule: bad form",
     {.spec = text, .schedule = "form=chunky"},
     SSD_INVALID_ARGUMENT,
     {"chunky", "chunked"}},
    {"schedule: bad number",
     {.spec = text, .schedule = "form=chunked q=six"},
     SSD_INVALID_ARGUMENT,
     {"q", "six"}},
    {"schedule: negative chunk",
     {.spec = text, .schedule = "form=chunked q=-4"},
     SSD_INVALID_ARGUMENT,
     {"q", ""}},
    {"schedule: huge chunk",
     {.spec = text, .schedule = "form=chunked q=99999999999999999999"},
     SSD_INVALID_ARGUMENT,
     {"q", ""}},
    {"dims: unknown", {.spec = text, .dims = "hats=3"}, SSD_INVALID_SPEC, {"hats", ""}},
    {"dims: no number", {.spec = text, .dims = "heads=many"}, SSD_INVALID_SPEC, {"heads", ""}},
    {"dims: zero", {.spec = text, .dims = "heads=0"}, SSD_INVALID_SPEC, {"heads", ""}},
    {"dims: overflow",
     {.spec = text, .dims = "heads=99999999999999999999"},
     SSD_INVALID_SPEC,
     {"heads", ""}},
    {"dims: groups do not divide",
     {.spec = text, .dims = "heads=3 groups=2"},
     SSD_INVALID_SPEC,
     {"", ""}},
    {"absent: unknown", {.spec = text, .absent = "zz"}, SSD_INVALID_SPEC, {"zz", ""}},
    {"absent: needed", {.spec = text, .absent = "dt"}, SSD_INVALID_SPEC, {"dt", ""}},
    {"absent: every output", {.spec = text, .absent = "y hT"}, SSD_INVALID_SPEC, {"", ""}},
};

static void test_wrong_compiles(void) {
    for (size_t i = 0; i < COUNTOF(compiles); i++) {
        label("compile, %s", compiles[i].what);
        ssd_kernel *k = (ssd_kernel *)&cx;
        ssd_status s = ssd_compile(cx, &compiles[i].o, &k);
        const char *m = ssd_last_error();
        check(s == compiles[i].status, "status %s, expected %s: %s", ssd_status_name(s),
              ssd_status_name(compiles[i].status), m);
        check(k == NULL, "a kernel was returned");
        check(*m && strstr(m, compiles[i].says[0]) && strstr(m, compiles[i].says[1]),
              "message \"%s\" lacks \"%s\" or \"%s\"", m, compiles[i].says[0], compiles[i].says[1]);
    }
}

// --- Packed offsets: kernels index by them, so they are checked ---------------------------------
static void test_offsets(void) {
    static const char packed[] = "ssdc: 1\n"
                                 "name: packed\n"
                                 "sequences: packed\n"
                                 "dims: {heads: 1, head_dim: 4, state_size: 4}\n"
                                 "inputs:\n"
                                 "  q: f32[b, t, h, n]\n"
                                 "  k: f32[b, t, h, n]\n"
                                 "  v: f32[b, t, h, p]\n"
                                 "ssd: {query: q, key: k, value: v, mask: causal}\n"
                                 "outputs:\n"
                                 "  y: f32[b, t, h, p] = ssd\n";
    static const struct {
        const char *what;
        i32 cu[3];
        bool ok;
    } cases[] = {{"right", {0, 3, 8}, true},           {"empty sequences", {0, 8, 8}, true},
                 {"beyond the end", {0, 3, 9}, false}, {"short of the end", {0, 3, 7}, false},
                 {"falling", {0, 9, 8}, false},        {"negative", {0, -1, 8}, false},
                 {"late start", {1, 3, 8}, false},     {"huge", {0, INT32_MAX, 8}, false},
                 {"least", {INT32_MIN, 3, 8}, false}};
    static float q[32], k[32], v[32], y[32];
    ssd_kernel *kernel;
    ssd_compile_options o = {.spec = packed, .absent = "h0 hT"};
    label("packed");
    if (!check(ssd_compile(cx, &o, &kernel) == SSD_OK, "%s", ssd_last_error())) return;
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        label("cu_seqlens, %s", cases[i].what);
        i32 cu[3];
        memcpy(cu, cases[i].cu, sizeof cu);
        const i64 dims[4] = {1, 8, 1, 4}, three = 3;
        ssd_arg a[] = {{"q", ssd_tensor_dense(q, SSD_F32, 4, dims)},
                       {"k", ssd_tensor_dense(k, SSD_F32, 4, dims)},
                       {"v", ssd_tensor_dense(v, SSD_F32, 4, dims)},
                       {"cu_seqlens", ssd_tensor_dense(cu, SSD_I32, 1, &three)},
                       {"y", ssd_tensor_dense(y, SSD_F32, 4, dims)}};
        ssd_status s = ssd_launch(kernel, a, 5, NULL, 0);
        check(s == (cases[i].ok ? SSD_OK : SSD_INVALID_ARGUMENT), "status %s: %s",
              ssd_status_name(s), ssd_last_error());
        check(cases[i].ok || strstr(ssd_last_error(), "cu_seqlens"), "message \"%s\"",
              ssd_last_error());
    }
    ssd_kernel_destroy(kernel);
}

int main(void) {
    label("context");
    if (ssd_context_create(&(ssd_context_options){2, ""}, &cx) != SSD_OK) return 2;
    static const char *const schedules[] = {NULL, "form=recurrent", "form=quadratic",
                                            "form=chunked q=4"};
    for (size_t i = 0; i < COUNTOF(schedules); i++) {
        ssd_kernel *k;
        ssd_compile_options o = {.spec = text, .schedule = schedules[i]};
        label("compile %s", schedules[i] ? schedules[i] : "");
        if (!check(ssd_compile(cx, &o, &k) == SSD_OK, "%s", ssd_last_error())) continue;
        if (i == 0) {
            test_wrong_launches(k);
            test_nulls(k);
        }
        test_workspace(k);
        test_empty(k);
        test_float_state(k);
        ssd_kernel_destroy(k);
    }
    test_wrong_compiles();
    test_offsets();
    ssd_context_destroy(cx);
    return closing_line();
}
