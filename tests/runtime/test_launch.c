// SPDX-License-Identifier: Apache-2.0
// The public interface from compile to launch, with a hook in place of the compiler and kernels
// from fixture.c: origins and faults of kernels, every check of arguments, views, aliases,
// workspace, threads.
#include "test.h"

#include <fenv.h>
#include <ftw.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char root[] = "/tmp/ssd-launch-test-XXXXXX";
static char *object;
static size_t object_size;
static int compiled;

static const char text[] =
    "ssdc-artifact 1\nprogram toy forward cpu-x86-64-v2\nschedule form=toy q=1\n"
    "sym b x 0\nsym t x 1\n"
    "param x in f32 b t 6\nparam h0 in f32 b 3\n"
    "param y out f32 b t 6\nparam hT out f32 b 3 alias h0\n"
    "plan when t<1000\nws w f32 b t 6\n"
    "kernel first b*t 64\nkernel second b 0\nkernel state b 0\n";

static ssd_status hook(Arena *a, const ssd_compile_options *o, Artifact *out) {
    Text why = {0};
    compiled++;
    if (!strcmp(o->spec, "bad")) return ssd_fail(SSD_INVALID_SPEC, "f.yaml:1:1: error: bad");
    if (!strcmp(o->spec, "huge")) ssd_arena_alloc(a, SIZE_MAX / 2);
    CHECK(ssd_artifact_parse(a, text, sizeof text - 1, out, &why));
    if (!strcmp(o->spec, "idle")) out->plans[0].kernels[1].blocks = "0"; // second, which writes y
    out->code = object;
    out->code_size = object_size;
    if (!strcmp(o->spec, "broken")) out->code_size = 100;
    if (!strcmp(o->spec, "nameless")) out->plans[0].kernels[1].symbol = "absent";
    return SSD_OK;
}

static ssd_context *new_context(int threads, const char *dir) {
    ssd_context *c = NULL;
    ssd_context_options o = {.threads = threads, .cache_dir = dir};
    CHECK(ssd_context_create(&o, &c) == SSD_OK && c);
    return c;
}

static ssd_kernel *toy(ssd_context *c) {
    ssd_kernel *k = NULL;
    CHECK(ssd_compile(c, &(ssd_compile_options){.spec = "toy", .target = "x86-64-v2"}, &k) ==
          SSD_OK);
    return k;
}

static void expect_compile(ssd_context *c, ssd_compile_options o, ssd_status want,
                           const char *message) {
    ssd_kernel *k = (ssd_kernel *)&k;
    CHECK(ssd_compile(c, &o, &k) == want && !k);
    CHECK_HOLDS(ssd_last_error(), message);
}

static void origins(void) {
    char dir[64];
    snprintf(dir, sizeof dir, "%s/cache", root);
    ssd_context *c = new_context(2, dir);
    ssd_kernel *k, *again, *file;
    ssd_compile_options o = {.spec = "toy", .target = "x86-64-v2"};
    expect_compile(c, o, SSD_JIT_OFF, "no compiler is linked");
    ssd_compile_hook = hook;
    setenv("SSD_JIT", "off", 1);
    expect_compile(c, o, SSD_JIT_OFF, "SSD_JIT=off");
    unsetenv("SSD_JIT");

    compiled = 0;
    CHECK(ssd_compile(c, &o, &k) == SSD_OK && compiled == 1);
    CHECK_SAME(ssd_kernel_origin(k), "compiled");
    CHECK_SAME(ssd_kernel_schedule(k), "form=toy q=1");
    ssd_compile_hook = NULL; // a warm cache needs no compiler
    o.mode = "forward", o.schedule = "", o.absent = "  ";
    CHECK(ssd_compile(c, &o, &again) == SSD_OK && compiled == 1);
    CHECK_SAME(ssd_kernel_origin(again), "cache");
    ssd_compile_hook = hook;
    CHECK_SAME(ssd_context_warning(c), "");

    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (int i = 0; i < 100; i++) {
        ssd_kernel *warm;
        CHECK(ssd_compile(c, &o, &warm) == SSD_OK);
        ssd_kernel_destroy(warm);
    }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    printf("a kernel from the cache: %.1f us\n",
           ((double)(t1.tv_sec - t0.tv_sec) * 1e9 + (double)(t1.tv_nsec - t0.tv_nsec)) / 1e5);

    Arena a = {0};
    Cache cache;
    CacheEntry *e;
    ssd_cache_open(&cache, &a, dir);
    CHECK(ssd_cache_list(&cache, &a, &e) == 1);
    const char *path = ssd_arena_printf(&a, "%s/%s", dir, e[0].name);
    CHECK(ssd_kernel_load(c, path, &file) == SSD_OK);
    CHECK_SAME(ssd_kernel_origin(file), "file");
    CHECK(ssd_kernel_param_count(file) == 4);
    ssd_param p;
    CHECK(ssd_kernel_param(file, 3, &p) == SSD_OK && p.role == SSD_OUTPUT && p.rank == 2 &&
          p.dtype == SSD_F32);
    CHECK_SAME(p.name, "hT");
    CHECK_SAME(p.dims[0], "b");
    CHECK(ssd_kernel_param(file, 4, &p) == SSD_INVALID_ARGUMENT &&
          ssd_kernel_param(file, -1, &p) == SSD_INVALID_ARGUMENT);
    ssd_kernel_destroy(file);
    CHECK(ssd_kernel_load(c, "/nowhere/at/all", &file) == SSD_IO && !file);

    // A damaged entry: compiled again, one warning, healed.
    size_t n;
    char *bytes = test_read_file(path, &n);
    bytes[n / 2] ^= 1;
    test_write_file(path, bytes, n);
    CHECK(ssd_kernel_load(c, path, &file) == SSD_INVALID_ARGUMENT && !file);
    CHECK_HOLDS(ssd_last_error(), "its checksum is wrong");
    free(bytes);
    ssd_kernel *healed;
    CHECK(ssd_compile(c, &o, &healed) == SSD_OK && compiled == 2);
    CHECK_SAME(ssd_last_error(), "");
    CHECK_HOLDS(ssd_context_warning(c), "its checksum is wrong");
    ssd_kernel_destroy(healed);
    CHECK(ssd_compile(c, &o, &healed) == SSD_OK && compiled == 2);
    ssd_kernel_destroy(healed);

    // Other options are other kernels.
    static const ssd_compile_options others[] = {
        {.spec = "toy2", .target = "x86-64-v2"},
        {.spec = "toy", .mode = "step", .target = "x86-64-v2"},
        {.spec = "toy", .schedule = "q=2", .target = "x86-64-v2"},
        {.spec = "toy", .dims = "h=2", .target = "x86-64-v2"},
        {.spec = "toy", .absent = "h=2", .target = "x86-64-v2"},
        {.spec = "toy", .target = "cpu"}};
    for (size_t i = 0; i < COUNTOF(others); i++) {
        CHECK(ssd_compile(c, &others[i], &healed) == SSD_OK && compiled == 3 + (int)i);
        ssd_kernel_destroy(healed);
    }
    ssd_kernel_destroy(k);
    ssd_kernel_destroy(again);
    ssd_arena_free(&a);
    ssd_context_destroy(c);
}

static void faults(void) {
    ssd_context *c = new_context(1, ""), *none = (ssd_context *)&none;
    ssd_kernel *k;
    CHECK(ssd_context_create(&(ssd_context_options){.threads = -1}, &none) ==
              SSD_INVALID_ARGUMENT &&
          !none);
    CHECK(ssd_context_create(NULL, NULL) == SSD_INVALID_ARGUMENT);
    expect_compile(c, (ssd_compile_options){0}, SSD_INVALID_ARGUMENT, "no spec");
    expect_compile(c, (ssd_compile_options){.spec = "toy", .target = "x86-64-v5"}, SSD_NOT_FOUND,
                   "did you mean 'x86-64-v");
    expect_compile(c, (ssd_compile_options){.spec = "toy", .target = "cpux"}, SSD_NOT_FOUND,
                   "did you mean 'cpu'");
    expect_compile(c, (ssd_compile_options){.spec = "toy", .target = "aarch64"}, SSD_UNSUPPORTED,
                   "cannot run");
    expect_compile(c, (ssd_compile_options){.spec = "bad"}, SSD_INVALID_SPEC,
                   "f.yaml:1:1: error: bad");
    expect_compile(c, (ssd_compile_options){.spec = "huge"}, SSD_OUT_OF_MEMORY,
                   "no memory to compile");
    expect_compile(c, (ssd_compile_options){.spec = "broken"}, SSD_INTERNAL, "object code: ");
    expect_compile(c, (ssd_compile_options){.spec = "nameless"}, SSD_INTERNAL,
                   "no kernel 'absent'");
    CHECK(ssd_compile(NULL, &(ssd_compile_options){.spec = "toy"}, &k) == SSD_INVALID_ARGUMENT &&
          !k);
    CHECK(ssd_compile(c, NULL, &k) == SSD_INVALID_ARGUMENT && !k);
    CHECK(ssd_compile(c, &(ssd_compile_options){.spec = "toy"}, NULL) == SSD_INVALID_ARGUMENT);
    CHECK(ssd_kernel_load(c, NULL, &k) == SSD_INVALID_ARGUMENT && !k);
    CHECK(ssd_launch(NULL, NULL, 0, NULL, 0) == SSD_INVALID_ARGUMENT);
    ssd_kernel_destroy(NULL);
    ssd_context_destroy(NULL);
    setenv("SSD_THREADS", "3", 1);
    ssd_context *three = new_context(0, "");
    CHECK(ssd_context_threads(three) == 3);
    ssd_context_destroy(three);
    setenv("SSD_THREADS", "many", 1);
    three = new_context(0, "");
    CHECK_HOLDS(ssd_context_warning(three), "SSD_THREADS='many'");
    unsetenv("SSD_THREADS");
    ssd_context_destroy(three);
    char file[64];
    snprintf(file, sizeof file, "%s/a-file", root);
    test_write_file(file, "x", 1);
    three = new_context(1, file); // an unusable cache is no error
    CHECK_HOLDS(ssd_context_warning(three), "working without it");
    k = toy(three);
    CHECK_SAME(ssd_kernel_origin(k), "compiled");
    ssd_kernel_destroy(k);
    ssd_context_destroy(three);
    ssd_context_destroy(c);
}

// --- Launches -----------------------------------------------------------------------------------

enum { B = 2, T = 5, H = 6, S = 3 };

typedef struct Case {
    float x[B * T * H], h0[B * S + 2], y[B * T * H], hT[B * S];
    ssd_arg arg[5];
    int n;
} Case;

static void fill(Case *c) {
    memset(c, 0, sizeof *c);
    for (int i = 0; i < B * T * H; i++) c->x[i] = (float)i, c->y[i] = -1;
    for (int i = 0; i < B * S; i++) c->h0[i] = (float)(100 + i), c->hT[i] = -1;
    static const i64 wide[] = {B, T, H}, state[] = {B, S};
    c->arg[0] = (ssd_arg){"x", ssd_tensor_dense(c->x, SSD_F32, 3, wide)};
    c->arg[1] = (ssd_arg){"h0", ssd_tensor_dense(c->h0, SSD_F32, 2, state)};
    c->arg[2] = (ssd_arg){"y", ssd_tensor_dense(c->y, SSD_F32, 3, wide)};
    c->arg[3] = (ssd_arg){"hT", ssd_tensor_dense(c->hT, SSD_F32, 2, state)};
    c->n = 4;
}

static float at(const ssd_tensor *t, i64 i, i64 j, i64 k) {
    return (
        (const float *)
            t->data)[i * t->strides[0] + j * t->strides[1] + (t->rank > 2 ? k * t->strides[2] : 0)];
}

// Does y hold what the fixture computes from x, wherever both lie?
static bool right(const Case *c) {
    bool ok = true;
    const ssd_tensor *x = &c->arg[0].tensor, *y = &c->arg[2].tensor;
    for (i64 b = 0; b < x->dims[0]; b++)
        for (i64 t = 0; t < x->dims[1]; t++)
            for (i64 h = 0; h < H; h++)
                ok = ok && at(y, b, t, h) == (float)(h % 4 + 1) * at(x, b, t, h) + 0.5f;
    return ok;
}

static ssd_status launch(ssd_kernel *k, Case *c) { return ssd_launch(k, c->arg, c->n, NULL, 0); }

static void launches(ssd_kernel *k) {
    Case c;
    fill(&c);
    CHECK(launch(k, &c) == SSD_OK && right(&c) && c.hT[0] == 101 && c.hT[5] == 106 &&
          c.h0[0] == 100);
    CHECK_SAME(ssd_last_error(), "");

    fill(&c); // any order
    ssd_arg first = c.arg[0];
    memmove(c.arg, c.arg + 1, 3 * sizeof *c.arg);
    c.arg[3] = first;
    CHECK(launch(k, &c) == SSD_OK && c.y[7] == 2 * 7 + 0.5f);

    fill(&c); // the state in place
    c.arg[3].tensor.data = c.h0;
    CHECK(launch(k, &c) == SSD_OK && c.h0[0] == 101 && c.h0[5] == 106);

    fill(&c); // inputs backwards and standing still
    c.arg[0].tensor.data = c.x + B * T * H - 1;
    for (int d = 0; d < 3; d++) c.arg[0].tensor.strides[d] *= -1;
    CHECK(launch(k, &c) == SSD_OK && right(&c) && c.y[0] == 59.5f);
    fill(&c);
    c.arg[0].tensor.strides[0] = c.arg[0].tensor.strides[1] = 0;
    CHECK(launch(k, &c) == SSD_OK && right(&c));

    // x and y as columns of one buffer, x after y; then y backwards in time.
    float both[B * T * 2 * H];
    for (size_t i = 0; i < COUNTOF(both); i++) both[i] = (float)i;
    fill(&c);
    for (int i = 0; i <= 2; i += 2) {
        c.arg[i].tensor.data = both + (i ? 0 : H);
        c.arg[i].tensor.strides[0] = T * 2 * H;
        c.arg[i].tensor.strides[1] = 2 * H;
    }
    CHECK(launch(k, &c) == SSD_OK && right(&c) && both[H] == H);
    c.arg[2].tensor.data = both + (T - 1) * 2 * H;
    c.arg[2].tensor.strides[1] = -2 * H;
    CHECK(launch(k, &c) == SSD_OK && right(&c));

    fill(&c); // nothing at all: T = 0, b = 0
    c.arg[0].tensor.dims[1] = c.arg[2].tensor.dims[1] = 0;
    c.arg[0].tensor.data = c.arg[2].tensor.data = NULL;
    CHECK(launch(k, &c) == SSD_OK && c.hT[0] == 101 && c.y[0] == -1);
    for (int i = 0; i < 4; i++) c.arg[i].tensor.dims[0] = 0, c.arg[i].tensor.data = NULL;
    CHECK(launch(k, &c) == SSD_OK);

    size_t bytes;
    fill(&c);
    CHECK(ssd_kernel_workspace(k, c.arg, c.n, &bytes) == SSD_OK &&
          bytes == (B * T * H * 4 + 63) / 64 * 64);
    char *ws = aligned_alloc(64, bytes + 64);
    CHECK(ssd_launch(k, c.arg, c.n, ws, bytes) == SSD_OK && right(&c));
    CHECK(ssd_launch(k, c.arg, c.n, ws, bytes - 1) == SSD_INVALID_ARGUMENT);
    CHECK_HOLDS(ssd_last_error(), "workspace has 255 bytes, expected 256");
    CHECK(ssd_launch(k, c.arg, c.n, ws + 4, bytes) == SSD_INVALID_ARGUMENT);
    CHECK_HOLDS(ssd_last_error(), "not aligned to 64");
    free(ws);

    feclearexcept(FE_ALL_EXCEPT);
    fesetround(FE_DOWNWARD);
    fill(&c);
    c.x[0] = 1e-40f;
    CHECK(launch(k, &c) == SSD_OK && fegetround() == FE_DOWNWARD && !fetestexcept(FE_ALL_EXCEPT));
    fesetround(FE_TONEAREST);
}

typedef void Spoil(Case *c);
// A kernel whose grid is empty is left out, the others run.
static void empty_grid(ssd_context *ctx) {
    ssd_kernel *k = NULL;
    Case c;
    CHECK(ssd_compile(ctx, &(ssd_compile_options){.spec = "idle", .target = "x86-64-v2"}, &k) ==
          SSD_OK);
    fill(&c);
    CHECK(k && launch(k, &c) == SSD_OK && c.y[0] == -1 && c.hT[0] == 101);
    ssd_kernel_destroy(k);
}

static void no_x(Case *c) { c->arg[0] = c->arg[--c->n]; }
static void twice(Case *c) { c->arg[c->n++] = c->arg[0]; }
static void misspelt(Case *c) { c->arg[3].name = "ht"; }
static void extra(Case *c) { c->arg[c->n++] = (ssd_arg){"zebra", c->arg[0].tensor}; }
static void nameless(Case *c) { c->arg[2].name = NULL; }
static void wrong_dtype(Case *c) { c->arg[0].tensor.dtype = SSD_BF16; }
static void mad_dtype(Case *c) { c->arg[0].tensor.dtype = (ssd_dtype)12345; }
static void wrong_rank(Case *c) { c->arg[0].tensor.rank = 2; }
static void mad_rank(Case *c) { c->arg[0].tensor.rank = 1 << 30; }
static void negative(Case *c) { c->arg[0].tensor.dims[1] = -1; }
static void wrong_t(Case *c) { c->arg[2].tensor.dims[1] = T + 1; }
static void wrong_h(Case *c) { c->arg[0].tensor.dims[2] = 7; }
static void null_data(Case *c) { c->arg[0].tensor.data = NULL; }
static void odd_pointer(Case *c) { c->arg[0].tensor.data = (char *)c->x + 2; }
static void huge_stride(Case *c) { c->arg[0].tensor.strides[0] = INT64_MAX / 2; }
static void lowest_stride(Case *c) { c->arg[0].tensor.strides[0] = INT64_MIN; }
static void far_stride(Case *c) { c->arg[0].tensor.strides[0] = -(INT64_MAX / 8); }
static void huge_dims(Case *c) {
    for (int i = 0; i < 4; i++) c->arg[i].tensor.dims[0] = INT64_MAX;
}
static void many_elements(Case *c) { // each stride is fine, the count is not
    for (int i = 0; i < 4; i++) c->arg[i].tensor.dims[0] = (i64)1 << 62;
    c->arg[0].tensor.strides[0] = 0;
}
static void still_output(Case *c) { c->arg[2].tensor.strides[1] = 0; }
static void folded_output(Case *c) { c->arg[2].tensor.strides[1] = 1; }
static void output_on_input(Case *c) { c->arg[2].tensor.data = c->x; }
static void output_near_input(Case *c) { c->arg[2].tensor.data = c->x + 59; }
static void outputs_meet(Case *c) { c->arg[3].tensor.data = c->y + 10; }
static void shifted_state(Case *c) { c->arg[3].tensor.data = c->h0 + 1; }
static void turned_state(Case *c) {
    c->arg[3].tensor.data = c->h0;
    c->arg[3].tensor.strides[0] = 1;
    c->arg[3].tensor.strides[1] = 2;
}
static void no_plan(Case *c) {
    for (int i = 0; i <= 2; i += 2) {
        c->arg[i].tensor.dims[1] = 1000;
        c->arg[i].tensor.dims[0] = 0;
    }
    c->arg[1].tensor.dims[0] = c->arg[3].tensor.dims[0] = 0;
}

static void refused(ssd_kernel *k) {
    static const struct {
        Spoil *spoil;
        const char *message;
    } cases[] = {
        {no_x, "argument 'x': missing; expected an input f32 of 3 dims"},
        {twice, "argument 'x': given twice"},
        {misspelt, "argument 'ht': 'toy' has no such parameter; did you mean 'hT'?"},
        {extra, "argument 'zebra': 'toy' has no such parameter"},
        {nameless, "argument 2 has no name"},
        {wrong_dtype, "argument 'x': dtype is bf16, expected f32"},
        {mad_dtype, "argument 'x': dtype is unknown, expected f32"},
        {wrong_rank, "argument 'x': rank is 2, expected 3"},
        {mad_rank, "argument 'x': rank is 1073741824, expected 3"},
        {negative, "argument 'x': dim 1 is -1"},
        {wrong_t, "argument 'y': dim 1 is 6, expected t = 5 as in argument 'x'"},
        {wrong_h, "argument 'x': dim 2 is 7, expected 6"},
        {null_data, "argument 'x': data is NULL but it has elements"},
        {odd_pointer, "argument 'x': data is not aligned to 4 bytes"},
        {huge_stride, "argument 'x': its size or strides overflow"},
        {lowest_stride, "argument 'x': its size or strides overflow"},
        {far_stride, "argument 'x': its strides leave the address space"},
        {huge_dims, "overflow"},
        {many_elements, "argument 'x': its size or strides overflow"},
        {still_output, "argument 'y': elements of this output overlap"},
        {folded_output, "argument 'y': elements of this output overlap"},
        {output_on_input, "argument 'y': this output overlaps input 'x'"},
        {output_near_input, "argument 'y': this output overlaps input 'x'"},
        {outputs_meet, "argument 'y': this output overlaps output 'hT'"},
        {shifted_state,
         "argument 'hT': this output overlaps input 'h0'; in place it must have the same pointer"},
        {turned_state, "argument 'hT': this output overlaps input 'h0'; in place"},
        {no_plan, "'toy' was compiled with no plan for these sizes"}};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        Case c, before;
        fill(&c);
        cases[i].spoil(&c);
        memcpy(&before, &c, sizeof c);
        size_t bytes = 77;
        CHECK(launch(k, &c) == SSD_INVALID_ARGUMENT);
        CHECK_HOLDS(ssd_last_error(), cases[i].message);
        CHECK(!memcmp(c.y, before.y, sizeof c.y) && !memcmp(c.hT, before.hT, sizeof c.hT));
        CHECK(ssd_kernel_workspace(k, c.arg, c.n, &bytes) == SSD_INVALID_ARGUMENT && !bytes);
    }
    CHECK(ssd_launch(k, NULL, 4, NULL, 0) == SSD_INVALID_ARGUMENT &&
          ssd_launch(k, NULL, -1, NULL, 0) == SSD_INVALID_ARGUMENT);
}

// Overlap of small random views, checked one by one against a map of who touches which byte.
static const char pair[] =
    "ssdc-artifact 1\nprogram pair forward cpu-x86-64-v2\nschedule \n"
    "sym a p 0\nsym b p 1\nsym c p 2\nsym d q 0\nsym e q 1\nsym f q 2\n"
    "param p out f32 a b c\nparam q in bf16 d e f\nplan always\nkernel k 0 0\n";

static bool mark(u8 *map, const ssd_tensor *t, const u8 *base, u8 who, bool *again) {
    size_t size = ssd_dtype_size(t->dtype);
    bool met = false;
    for (i64 i = 0; i < t->dims[0]; i++)
        for (i64 j = 0; j < t->dims[1]; j++)
            for (i64 l = 0; l < t->dims[2]; l++) {
                i64 element = i * t->strides[0] + j * t->strides[1] + l * t->strides[2];
                u8 *m = map + ((const u8 *)t->data - base) + element * (i64)size;
                for (size_t s = 0; s < size; s++) {
                    *again |= m[s] & who;
                    m[s] |= who;
                    met |= m[s] == 3;
                }
            }
    return met;
}

static void overlaps(void) {
    Arena a = {0};
    Artifact art;
    Text why = {0};
    CHECK(ssd_artifact_parse(&a, pair, sizeof pair - 1, &art, &why));
    u64 seed = 3;
    int refusals = 0;
    _Alignas(64) static u8 memory[4096];
    static u8 map[4096];
    for (int i = 0; i < 20000; i++) {
        ssd_arg arg[2] = {{"p", {.dtype = SSD_F32, .rank = 3}},
                          {"q", {.dtype = SSD_BF16, .rank = 3}}};
        for (int k = 0; k < 2; k++) {
            arg[k].tensor.data = memory + 2048 + 4 * (test_random(&seed) % 64);
            for (int d = 0; d < 3; d++) {
                arg[k].tensor.dims[d] = test_random(&seed) % 5;
                arg[k].tensor.strides[d] = (i64)(test_random(&seed) % 25) - 8;
            }
        }
        memset(map, 0, sizeof map);
        bool again = false, ignored = false;
        mark(map, &arg[0].tensor, memory, 1, &again);
        bool met = mark(map, &arg[1].tensor, memory, 2, &ignored);
        Launch l;
        bool ok = ssd_launch_check(&art, arg, 2, &l) == SSD_OK;
        ssd_launch_release(&l);
        refusals += !ok;
        if (!CHECK(ok == !(met || again))) break;
    }
    CHECK(refusals > 2000 && refusals < 18000);
    ssd_arena_free(&a);
}

static void packed(void) {
    static const char lines[] =
        "ssdc-artifact 1\nprogram pack forward cpu-x86-64-v2\nschedule \n"
        "sym t x 0\nsym s cu_seqlens 0 minus 1\nparam x in f32 t\n"
        "param cu_seqlens in i32 s+1\nparam y out f32 s 2\nplan always\nkernel k s 0\n";
    static const struct {
        i32 v[4];
        i64 n, t, stride;
        const char *message;
    } cases[] = {{{0, 3, 3, 7}, 4, 7, 1, ""},
                 {{0}, 1, 0, 1, ""},
                 {{0, 9, 7}, 2, 7, 2, ""},
                 {{1, 3, 3, 7}, 4, 7, 1, "element 0 is 1, expected 0"},
                 {{0, 3, 2, 7}, 4, 7, 1, "element 2 is 2, less than the one before (3)"},
                 {{0, 3, 3, 8}, 4, 7, 1, "the last element is 8, expected t = 7"},
                 {{0, -1, 3, 7}, 4, 7, 1, "element 1 is -1, less"},
                 {{0}, 1, 3, 1, "the last element is 0, expected t = 3"},
                 {{0}, 0, 3, 1, "dim 0 is 0, expected at least 1"}};
    Arena a = {0};
    Artifact art;
    Text why = {0};
    float x[8], y[8];
    CHECK(ssd_artifact_parse(&a, lines, sizeof lines - 1, &art, &why));
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        i64 s = MAX(cases[i].n - 1, 0), out[] = {s, 2};
        ssd_arg arg[] = {{"x", ssd_tensor_dense(x, SSD_F32, 1, &cases[i].t)},
                         {"cu_seqlens",
                          ssd_tensor_dense((void *)(uintptr_t)cases[i].v, SSD_I32, 1, &cases[i].n)},
                         {"y", ssd_tensor_dense(y, SSD_F32, 2, out)}};
        arg[1].tensor.strides[0] = cases[i].stride;
        Launch l;
        ssd_status st = ssd_launch_check(&art, arg, 3, &l);
        CHECK((st == SSD_OK) == !*cases[i].message);
        if (st)
            CHECK_HOLDS(ssd_last_error(), cases[i].message);
        else
            CHECK(l.blocks[0] == s && l.sym[1] == s);
        ssd_launch_release(&l);
    }
    ssd_arena_free(&a);
}

static void *many(void *arg) {
    for (int i = 0; i < 200; i++) {
        Case c;
        fill(&c);
        if (launch(arg, &c) || !right(&c)) return arg;
    }
    return NULL;
}

static void threads(ssd_kernel *k) {
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) CHECK(!pthread_create(&thread[i], NULL, many, k));
    for (int i = 0; i < 4; i++) {
        void *bad;
        pthread_join(thread[i], &bad);
        CHECK(!bad);
    }
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *walk) {
    (void)st, (void)flag, (void)walk;
    return remove(path);
}

// A plan for tensors without gaps is taken for such tensors only.
static void dense_plan(void) {
    static const char lines[] =
        "ssdc-artifact 1\nprogram gaps step cpu-x86-64-v2\nschedule \n"
        "sym b x 0\nparam x in f32 b 2 4\nparam y out bf16 b 8\n"
        "plan when dense && b<9\nkernel near b 0\nplan always\nkernel far b 0\n";
    static const struct {
        i64 b, x_stride[3], y_stride[2];
        int x_at, y_at; // bytes behind a multiple of 64
        int plan;
    } cases[] = {{3, {8, 4, 1}, {8, 1}, 0, 0, 0},  {3, {8, 4, 1}, {8, 1}, 16, 48, 0},
                 {3, {8, 4, 1}, {8, 1}, 4, 0, 1},  {3, {8, 4, 1}, {8, 1}, 0, 8, 1},
                 {3, {12, 4, 1}, {8, 1}, 0, 0, 1}, {3, {8, 4, 1}, {16, 1}, 0, 0, 1},
                 {3, {8, 1, 2}, {8, 1}, 0, 0, 1},  {1, {99, 4, 1}, {-7, 1}, 0, 0, 0},
                 {9, {8, 4, 1}, {8, 1}, 0, 0, 1},  {0, {8, 4, 1}, {8, 1}, 0, 0, 0}};
    Arena a = {0};
    Artifact art;
    Text why = {0};
    _Alignas(64) static char x[4096], y[4096];
    CHECK(ssd_artifact_parse(&a, lines, sizeof lines - 1, &art, &why));
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        i64 xd[] = {cases[i].b, 2, 4}, yd[] = {cases[i].b, 8};
        ssd_arg arg[] = {{"x", ssd_tensor_dense(x + cases[i].x_at, SSD_F32, 3, xd)},
                         {"y", ssd_tensor_dense(y + cases[i].y_at, SSD_BF16, 2, yd)}};
        memcpy(arg[0].tensor.strides, cases[i].x_stride, sizeof cases[i].x_stride);
        memcpy(arg[1].tensor.strides, cases[i].y_stride, sizeof cases[i].y_stride);
        Launch l;
        CHECK(ssd_launch_check(&art, arg, 2, &l) == SSD_OK && l.plan == &art.plans[cases[i].plan]);
        ssd_launch_release(&l);
    }
    // Elsewhere the word means nothing.
    static const char bad[] = "ssdc-artifact 1\nprogram gaps step cpu-x86-64-v2\nschedule \n"
                              "param x in f32 4\nplan always\nkernel near dense 0\n";
    CHECK(!ssd_artifact_parse(&a, bad, sizeof bad - 1, &art, &why));
    CHECK_HOLDS(why.s, "unknown symbol 'dense'");
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

int main(void) {
    object = test_read_file(FIXTURE_OBJECT, &object_size);
    if (!CHECK(object != NULL) || !CHECK(mkdtemp(root) != NULL)) return test_end();
    origins();
    faults();
    for (int n = 1; n <= 4; n += 3) {
        ssd_context *c = new_context(n, "");
        empty_grid(c);
        ssd_kernel *k = toy(c);
        if (k) {
            launches(k);
            refused(k);
            threads(k);
        }
        ssd_kernel_destroy(k);
        ssd_context_destroy(c);
    }
    overlaps();
    packed();
    dense_plan();
    free(object);
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return test_end();
}
