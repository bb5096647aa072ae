// SPDX-License-Identifier: Apache-2.0
// Cases of test_cuda.c: which tensor maps a launch makes, and what the kernel is told of them.
#include "test_cuda.h"

// Maps, maps_made, 3 pointers, 2 symbols, 2 words a dim: 3 * 128 + 8 + 8 * 21, rounded up to 576.
enum { MAPS = 3, MAPPED_WORDS = 21 };
static const char maps_text[] = "ssdc-artifact 1\nprogram mapped forward cuda-sm_90a\nschedule x\n"
                                "sym b x 0\nsym t x 1\n"
                                "param x in bf16 b t 4 64\nparam y out f32 b t 8\n"
                                "plan always\nws w f16 64*t\n"
                                "kernel load b 1024 128\ntakes 1 0 2\n"
                                "map 1 swizzle 128 box 64 1 64 1\n"
                                "map 0 swizzle 0 box 8 16 1\n"
                                "map 2 swizzle 0 box 256\n";

typedef struct Mapped {
    CuTensorMap map[MAPS];
    u64 made;
    i64 word[MAPPED_WORDS];
} Mapped;
static Mapped mapped;

static void watch_maps(const char *name, unsigned grid, unsigned block, unsigned shared_bytes,
                       const void *args) {
    (void)name, (void)grid, (void)block, (void)shared_bytes;
    memcpy(&mapped, args, sizeof mapped);
}

typedef struct MapCase {
    ssd_arg arg[2];
    char *x, *y, *ws;
} MapCase;

static void fill_maps(MapCase *c) {
    const i64 x[] = {B, T, 4, 64}, y[] = {B, T, 8};
    if (!c->x) c->x = (char *)device_floats(1 << 16);
    if (!c->y) c->y = (char *)device_floats(1 << 16);
    if (!c->ws) c->ws = (char *)device_floats(1 << 16);
    c->arg[0] = (ssd_arg){"x", ssd_tensor_dense(c->x, SSD_BF16, 4, x)};
    c->arg[1] = (ssd_arg){"y", ssd_tensor_dense(c->y, SSD_F32, 3, y)};
}

static bool launch_maps(ssd_kernel *k, const MapCase *c) {
    memset(&mapped, 0xff, sizeof mapped);
    bool ok = CHECK(ssd_launch_on(k, c->arg, 2, c->ws, 1 << 16, NULL) == SSD_OK);
    if (!ok) printf("  %s\n", ssd_last_error());
    return ok;
}

static void expect_map(int i, const FakeMap *want) {
    CHECK(!memcmp(&mapped.map[i], want, sizeof *want));
}

static void maps_of_dense(ssd_kernel *k, MapCase *c) {
    fill_maps(c);
    if (!launch_maps(k, c)) return;
    CHECK(mapped.made == 7);
    const FakeMap x = {.base = (size_t)c->x,
                       .dim = {64, 4, T, B},
                       .stride = {128, 512, T * 512},
                       .box = {64, 1, 64, 1},
                       .type = 9,
                       .rank = 4,
                       .swizzle = 3,
                       .promotion = 3};
    const FakeMap y = {.base = (size_t)c->y,
                       .dim = {8, T, B},
                       .stride = {32, T * 32},
                       .box = {8, 16, 1},
                       .type = 7,
                       .rank = 3,
                       .promotion = 3};
    const FakeMap w = {
        .base = (size_t)c->ws, .dim = {64 * T}, .box = {256}, .type = 6, .rank = 1, .promotion = 3};
    expect_map(0, &x);
    expect_map(1, &y);
    expect_map(2, &w);
    const i64 words[MAPPED_WORDS] = {(i64)c->y, (i64)c->x, (i64)c->ws, B, T,       T * 8, 8,
                                     1,         B,         T,          8, T * 256, 256,   64,
                                     1,         B,         T,          4, 64,      1,     64 * T};
    CHECK(!memcmp(mapped.word, words, sizeof words));
    log_clear(); // the same again asks the driver for nothing else
    launch_maps(k, c);
    CHECK_SAME(log_of(), "push\ncuTensorMapEncodeTiled\ncuTensorMapEncodeTiled\n"
                         "cuTensorMapEncodeTiled\nlaunch load 2 1 1, 128 1 1, 1024\npop\n");
}

// Tensors that TMA can read as they lie, or not: maps_made, and a map of zeros where its bit is 0.
static void maps_of_views(ssd_kernel *k, MapCase *c) {
    enum { NO_DIM = -1 };
    static const struct {
        int dim; // of x
        i64 size, stride;
        int offset; // of its data, in bytes
        u64 made;
        const char *fake;
    } cases[] = {
        {NO_DIM, 0, 0, 16, 7, ""},
        {NO_DIM, 0, 0, 2, 6, ""},
        {NO_DIM, 0, 0, 8, 6, ""},
        {1, T, 264, 0, 7, ""},
        {1, T, 260, 0, 6, ""}, // 520 bytes
        {3, 64, 2, 0, 6, ""},  // innermost elements apart
        {2, 4, 0, 0, 6, ""},   // all heads the same
        {0, B, -(T * 256), 0, 6, ""},
        {0, 1, 3, 0, 7, ""}, // a dimension of size 1 has no stride
        {0, 1, 0, 0, 7, ""},
        {0, B, ((i64)1 << 39) - 8, 0, 7, ""},
        {0, B, (i64)1 << 39, 0, 6, ""}, // 2^40 bytes
        {NO_DIM, 0, 0, 0, 0, "cuTensorMapEncodeTiled=801"},
    };
    static const CuTensorMap zeros;
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        fill_maps(c);
        ssd_tensor *x = &c->arg[0].tensor;
        x->data = c->x + cases[i].offset;
        if (cases[i].dim != NO_DIM) {
            x->dims[cases[i].dim] = cases[i].size;
            x->strides[cases[i].dim] = cases[i].stride;
        }
        c->arg[1].tensor.dims[0] = x->dims[0];
        if (cases[i].stride < 0) x->data = c->x + 2 * T * 512;
        setenv("FAKE_CUDA", cases[i].fake, 1);
        if (!launch_maps(k, c)) continue;
        if (!CHECK(mapped.made == cases[i].made))
            printf("  view %zu: %llx\n", i, (unsigned long long)mapped.made);
        for (int m = 0; m < MAPS; m++)
            CHECK((mapped.made >> m & 1) == !!memcmp(&mapped.map[m], &zeros, sizeof zeros));
    }
    setenv("FAKE_CUDA", "", 1);
    fill_maps(c); // no rows at all: neither x nor y has elements, nor the workspace
    for (int i = 0; i < 2; i++) c->arg[i].tensor.dims[1] = 0;
    if (launch_maps(k, c)) CHECK(mapped.made == 0);
}

static ssd_kernel *mapped_kernel(ssd_context *ctx, const char *artifact) {
    text = artifact;
    make_code("load 576 1024\n");
    on_launch(watch_maps);
    return toy(ctx);
}

static void drop_maps(ssd_kernel *k, ssd_context *ctx, const MapCase *c) {
    char *all[] = {c->x, c->y, c->ws};
    for (int i = 0; i < 3; i++) ssd_cuda_driver()->api.MemFree((CuPtr)(uintptr_t)all[i]);
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
}

void maps(void) {
    ssd_context *ctx = new_context("");
    ssd_kernel *k = mapped_kernel(ctx, maps_text);
    MapCase c = {0};
    if (!k) return;
    maps_of_dense(k, &c);
    maps_of_views(k, &c);
    drop_maps(k, ctx, &c);
    make_code("load 568 1024\n"); // not rounded up
    expect_compile("cuda", SSD_INVALID_ARGUMENT, "argument of 568 bytes, the artifact says 576");
}

// Dimensions that lie along the rows: the heads of a token, or all its tokens too.
static const char rows_text[] = "ssdc-artifact 1\nprogram rows forward cuda-sm_90a\nschedule x\n"
                                "sym b x 0\nsym t x 1\n"
                                "param x in bf16 b t 8 33\nparam y out f32 b t 8\n"
                                "plan always\nkernel load b 0 128\ntakes 0 1\n"
                                "map 0 swizzle 128 box 64 0 64 1\n"
                                "map 0 swizzle 0 box 64 0 0 1\n"
                                "map 1 swizzle 0 box 8 16 1\n";

// The maps of x of t tokens, its strides those of a dense tensor but for the ones given.
static void expect_rows(ssd_kernel *k, MapCase *c, i64 t, const i64 stride[4], u64 made) {
    const i64 x[] = {B, t, 8, 33}, y[] = {B, t, 8};
    c->arg[0].tensor = ssd_tensor_dense(c->x, SSD_BF16, 4, x);
    c->arg[1].tensor = ssd_tensor_dense(c->y, SSD_F32, 3, y);
    i64 *own = c->arg[0].tensor.strides;
    for (int d = 0; d < 4; d++) own[d] = stride[d] ? stride[d] : own[d];
    FakeMap heads = {.base = (size_t)c->x,
                     .dim = {8 * 33, (u64)t, B},
                     .stride = {t > 1 ? (u64)own[1] * 2 : 16, (u64)own[0] * 2},
                     .box = {64, 64, 1},
                     .type = 9,
                     .rank = 3,
                     .swizzle = 3,
                     .promotion = 3};
    FakeMap all = {.base = (size_t)c->x,
                   .dim = {8 * 33 * (u64)t, B},
                   .stride = {(u64)own[0] * 2},
                   .box = {64, 1},
                   .type = 9,
                   .rank = 2,
                   .promotion = 3};
    if (!launch_maps(k, c)) return;
    if (!CHECK(mapped.made == made))
        printf("  t=%d strides %d %d %d %d: %d\n", (int)t, (int)own[0], (int)own[1], (int)own[2],
               (int)own[3], (int)mapped.made);
    expect_map(0, made & 1 ? &heads : &(FakeMap){0});
    expect_map(1, made & 2 ? &all : &(FakeMap){0});
}

void maps_along_rows(void) {
    enum { ROW = 8 * 33 };
    static const struct {
        i64 t, stride[4]; // 0: without gaps
        u64 made;
    } cases[] = {
        {64, {0}, 7},
        {64, {0, 0, 40}, 4},                // gaps between heads
        {64, {0, 0, 32}, 4},                // one head begins in another
        {64, {0, 0, 1, 8}, 4},              // heads are innermost
        {64, {0, 0, 0, 2}, 4},              // numbers apart
        {64, {64 * (ROW + 8), ROW + 8}, 5}, // gaps between tokens
        {64, {64 * (ROW + 4), ROW + 4}, 4}, // of 8 bytes
        {64, {64 * ROW + 8}, 7},            // between sequences
        {64, {64 * ROW + 4}, 4},
        {1, {0, 3}, 7}, // one token has no stride
        {1, {0, 3, 40}, 4},
    };
    ssd_context *ctx = new_context("");
    ssd_kernel *k = mapped_kernel(ctx, rows_text);
    MapCase c = {0};
    if (!k) return;
    fill_maps(&c);
    for (size_t i = 0; i < COUNTOF(cases); i++)
        expect_rows(k, &c, cases[i].t, cases[i].stride, cases[i].made);
    drop_maps(k, ctx, &c);
}

// A driver without maps, and without all else that is optional.
void no_maps(void) {
    ssd_context *ctx = new_context("");
    ssd_kernel *k = mapped_kernel(ctx, maps_text);
    MapCase c = {0};
    if (!k) return;
    fill_maps(&c);
    if (launch_maps(k, &c)) CHECK(mapped.made == 0 && mapped.word[0] == (i64)c.y);
    drop_maps(k, ctx, &c);
}
