// SPDX-License-Identifier: Apache-2.0
// Every allocation of the runtime fails in its turn, from the first to the last: each call returns
// a status, nothing crashes, nothing leaks. (The linker wraps the allocators; see CMakeLists.txt.)
#include "test.h"

#include <unistd.h>

static long left = -1; // allocations until one fails; < 0: none does

static bool fails(void) { return left >= 0 && left-- == 0; }

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n) { return fails() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return fails() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return fails() ? NULL : __real_realloc(p, n); }
void *__wrap_aligned_alloc(size_t align, size_t n) {
    return fails() ? NULL : __real_aligned_alloc(align, n);
}

static char root[] = "/tmp/ssd-oom-test-XXXXXX";
static char *object;
static size_t object_size;
static const char text[] =
    "ssdc-artifact 1\nprogram toy forward cpu-x86-64-v2\nschedule form=toy q=1\n"
    "sym b x 0\nsym t x 1\n"
    "param x in f32 b t 6\nparam h0 in f32 b 3\n"
    "param y out f32 b t 6\nparam hT out f32 b 3 alias h0\n"
    "plan always\nws w f32 b t 6\n"
    "kernel first b*t 64\nkernel second b 0\nkernel state b 0\n";

static ssd_status hook(Arena *a, const ssd_compile_options *o, Artifact *out) {
    Text why = {0};
    (void)o;
    if (!ssd_artifact_parse(a, text, sizeof text - 1, out, &why)) {
        ssd_text_free(&why);
        return ssd_fail(SSD_OUT_OF_MEMORY, "no memory");
    }
    out->code = object;
    out->code_size = object_size;
    return SSD_OK;
}

static void clear(const char *dir) {
    Arena a = {0};
    Cache c;
    CacheEntry *e;
    ssd_cache_open(&c, &a, dir);
    for (int i = ssd_cache_list(&c, &a, &e); i-- > 0;) ssd_cache_remove(&c, e[i].name);
    ssd_arena_free(&a);
}

// From nothing to a result and back; the first status that is not OK.
static ssd_status whole(bool warm) {
    ssd_context *c = NULL;
    ssd_kernel *k = NULL;
    ssd_compile_options o = {.spec = warm ? "warm" : "cold", .target = "x86-64-v2"};
    float x[12] = {1, 2, 3, 4, 5, 6}, h0[3] = {0}, y[12], hT[3];
    ssd_arg arg[] = {{"x", ssd_tensor_dense(x, SSD_F32, 3, (i64[]){1, 2, 6})},
                     {"h0", ssd_tensor_dense(h0, SSD_F32, 2, (i64[]){1, 3})},
                     {"y", ssd_tensor_dense(y, SSD_F32, 3, (i64[]){1, 2, 6})},
                     {"hT", ssd_tensor_dense(hT, SSD_F32, 2, (i64[]){1, 3})}};
    ssd_status s = ssd_context_create(&(ssd_context_options){.threads = 2, .cache_dir = root}, &c);
    if (!s) s = ssd_compile(c, &o, &k);
    if (!s) s = ssd_launch(k, arg, 4, NULL, 0);
    if (!s) CHECK(y[1] == 4.5f && hT[2] == 1);
    if (s) CHECK(*ssd_last_error());
    ssd_kernel_destroy(k);
    ssd_context_destroy(c);
    return s;
}

int main(void) {
    object = test_read_file(FIXTURE_OBJECT, &object_size);
    if (!CHECK(object != NULL) || !CHECK(mkdtemp(root) != NULL)) return test_end();
    ssd_compile_hook = hook;
    for (int warm = 0; warm < 2; warm++) {
        int faults = 0, turns = 0;
        for (bool done = false; !done && turns < 1000; turns++) {
            if (!warm) clear(root);
            left = turns;
            ssd_status s = whole(warm);
            done = left >= 0; // there was no such allocation
            left = -1;
            faults += s != SSD_OK;
            CHECK(s == SSD_OK || s == SSD_OUT_OF_MEMORY || s == SSD_INTERNAL);
            CHECK(!done || s == SSD_OK);
        }
        CHECK(turns > 10 && turns < 1000 && faults > 5);
    }
    clear(root);
    rmdir(root);
    free(object);
    return test_end();
}
