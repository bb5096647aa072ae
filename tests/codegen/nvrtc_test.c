// SPDX-License-Identifier: Apache-2.0
// Several sources compiled side by side, by the NVRTC that is none (tests/runtime/fake_cuda.c):
// each result is of its own source, a fault is of the first in order, and neither threads nor
// memory must be there.
#include "../../codegen/nvrtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { MANY = 40, ROUNDS = 50, HEAD = 64 };
static int passed, failed;
static atomic_int threads;
static atomic_bool no_threads, no_memory;

static void check(bool ok, const char *what) {
    if (!ok) printf("FAIL  %s\n", what);
    *(ok ? &passed : &failed) += 1;
}

// --- A system that runs short -------------------------------------------------------------------
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *ctx);
void *__real_calloc(size_t n, size_t size);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *ctx);
void *__wrap_calloc(size_t n, size_t size);

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *ctx) {
    if (no_threads) return EAGAIN;
    threads++;
    return __real_pthread_create(t, a, f, ctx);
}

void *__wrap_calloc(size_t n, size_t size) { // no_memory: none for an arena's blocks
    return no_memory && n * size > 4096 ? NULL : __real_calloc(n, size);
}

// --- Batches ------------------------------------------------------------------------------------
static NvrtcSource source[MANY];
static NvrtcResult result[MANY];

static bool compile(Arena *a, int n, Text *why) {
    return ssd_nvrtc_compile_all(a, source, n, "sm_90", result, why);
}

static bool each_has_its_own(int n) {
    for (int i = 0; i < n; i++) {
        char want[20];
        snprintf(want, sizeof want, "k%d.cu", i);
        if (!result[i].cubin || strcmp((const char *)result[i].cubin + HEAD, want)) return false;
    }
    return true;
}

static void batch(const char *what, int n) {
    Arena a = {0};
    Text why = {0};
    bool ok = true;
    for (int round = 0; round < ROUNDS; round++)
        ok &= compile(&a, n, &why) && !why.s && each_has_its_own(n);
    check(ok, what);
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

static void faults(void) {
    Arena a = {0};
    bool ok = true;
    source[1].text = source[3].text = "#error";
    for (int round = 0; round < ROUNDS; round++) {
        Text why = {0};
        ok &= !compile(&a, 5, &why) && why.s &&
              !strcmp(why.s, "NVRTC refused k1.cu for sm_90:\nk1.cu: error: it says so");
        ssd_text_free(&why);
    }
    check(ok, "the first fault in order is told, and no other");
    source[1].text = source[3].text = "";
    ssd_arena_free(&a);
}

static void out_of_memory(void) {
    static Arena a; // outlives the jump
    static Text why;
    jmp_buf oom;
    a.oom = &oom;
    if (!setjmp(oom)) {
        ssd_arena_alloc(&a, 1); // room for what the batch itself needs
        no_memory = true;
        compile(&a, 3, &why);
        no_memory = false;
        check(false, "without memory the caller's arena jumps");
    } else {
        no_memory = false;
        check(!why.s, "without memory the caller's arena jumps");
    }
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

int main(void) {
    static char name[MANY][8];
    setenv("SSD_NVRTC", FAKE_CUDA_LIBRARY, 1);
    for (int i = 0; i < MANY; i++) {
        snprintf(name[i], sizeof name[i], "k%d", i);
        source[i] = (NvrtcSource){"", name[i]};
    }
    batch("one", 1);
    check(!threads, "one needs no thread");
    batch("two", 2);
    batch("many", MANY);
    no_threads = true;
    batch("no threads", 5);
    no_threads = false;
    faults();
    out_of_memory();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
