// SPDX-License-Identifier: Apache-2.0
// What this host's CPU can do: CPUID bits together with what the system saves on a switch (XCR0),
// never the name of the CPU, which lies in virtual machines.
#include "internal.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>

static bool bit(unsigned word, int i) { return word >> i & 1; }

static u64 xcr0(void) {
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (u64)hi << 32 | lo;
}

static void read_features(CpuInfo *c) {
    unsigned a, b, x, d;
    if (!__get_cpuid(1, &a, &b, &x, &d) || !bit(x, 27)) return; // OSXSAVE
    u64 saved = xcr0();
    bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6, tiles = (saved >> 17 & 3) == 3;
    if (!ymm || !bit(x, 28)) return; // AVX
    c->fma = bit(x, 12);
    c->f16c = bit(x, 29);
    bool movbe = bit(x, 22), lzcnt = false;
    if (__get_cpuid(0x80000001, &a, &b, &x, &d)) lzcnt = bit(x, 5);
    if (!__get_cpuid_count(7, 0, &a, &b, &x, &d)) return;
    unsigned most = a;
    c->avx2 = bit(b, 5);
    c->bmi2 = bit(b, 8) && bit(b, 3) && lzcnt && movbe; // the integer part of x86-64-v3 as one
    c->avx512f = zmm && bit(b, 16);
    c->avx512dq = zmm && bit(b, 17);
    c->avx512cd = zmm && bit(b, 28);
    c->avx512bw = zmm && bit(b, 30);
    c->avx512vl = zmm && bit(b, 31);
    c->avx512_fp16 = zmm && bit(d, 23);
    c->amx_bf16 = tiles && bit(d, 22);
    c->amx_tile = tiles && bit(d, 24);
    if (most >= 1 && __get_cpuid_count(7, 1, &a, &b, &x, &d)) c->avx512_bf16 = zmm && bit(a, 5);
}

// Leaf 4 (Intel) and 0x8000001D (AMD) describe one cache a subleaf, in the same format.
static void read_caches(CpuInfo *c) {
    static const unsigned leaves[] = {4, 0x8000001d};
    for (size_t k = 0; k < COUNTOF(leaves) && !c->l1d; k++) {
        for (unsigned i = 0; i < 16; i++) {
            unsigned a, b, x, d;
            if (!__get_cpuid_count(leaves[k], i, &a, &b, &x, &d) || !(a & 31)) break;
            i64 size =
                (i64)((b >> 22) + 1) * ((b >> 12 & 1023) + 1) * ((b & 4095) + 1) * ((i64)x + 1);
            unsigned type = a & 31, level = a >> 5 & 7; // type 1: data, 3: unified
            if (level == 1 && type == 1) c->l1d = size;
            if (level == 2 && type != 2) c->l2 = size;
        }
    }
}

static void read_brand(CpuInfo *c) {
    unsigned r[12];
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002 + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]))
            return;
    const char *s = (const char *)r;
    size_t n = strnlen(s, sizeof r);
    while (n && *s == ' ') s++, n--;
    while (n && s[n - 1] == ' ') n--;
    memcpy(c->brand, s, n);
}

static const char native[] = "x86-64";
#else
static void read_features(CpuInfo *c) { (void)c; }
static void read_caches(CpuInfo *c) {
    long l1 = sysconf(_SC_LEVEL1_DCACHE_SIZE), l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    c->l1d = MAX(l1, 0);
    c->l2 = MAX(l2, 0);
}
static void read_brand(CpuInfo *c) { (void)c; }
#if defined(__aarch64__)
static const char native[] = "aarch64";
#else
static const char native[] = "none";
#endif
#endif

static int count_cores(void) {
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) return MAX(CPU_COUNT(&set), 1);
    return (int)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1); // more CPUs than a cpu_set_t holds
}

static CpuInfo info;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool v2(const CpuInfo *c) { return (void)c, !strcmp(native, "x86-64"); }
static bool v3(const CpuInfo *c) { return c->avx2 && c->fma && c->f16c && c->bmi2; }
static bool v4(const CpuInfo *c) {
    return v3(c) && c->avx512f && c->avx512bw && c->avx512vl && c->avx512dq && c->avx512cd;
}
static bool v4_bf16(const CpuInfo *c) { return v4(c) && c->avx512_bf16; }
static bool arm(const CpuInfo *c) { return (void)c, !strcmp(native, "aarch64"); }

// Best first: "cpu" is the first that this host runs. (x86-64-v2 needs no more than SSE2 of us.)
static const struct {
    const char *name;
    bool (*runs)(const CpuInfo *c);
} targets[] = {{"cpu-x86-64-v4+bf16", v4_bf16},
               {"cpu-x86-64-v4", v4},
               {"cpu-x86-64-v3", v3},
               {"cpu-x86-64-v2", v2},
               {"cpu-aarch64", arm}};

static void fill(void) {
    read_features(&info);
    read_caches(&info);
    read_brand(&info);
    info.cores = count_cores();
}

const CpuInfo *ssd_cpu_info(void) {
    pthread_once(&once, fill);
    return &info;
}

const char *ssd_cpu_target(const char *target, bool *out_runs) {
    const CpuInfo *c = ssd_cpu_info();
    bool any = !strcmp(target, "cpu");
    *out_runs = false;
    for (size_t i = 0; i < COUNTOF(targets); i++) {
        const char *full = targets[i].name, *bare = full + strlen("cpu-");
        bool runs = targets[i].runs(c);
        if (any ? !runs : strcmp(target, full) && strcmp(target, bare)) continue;
        *out_runs = runs;
        return full;
    }
    return NULL;
}
