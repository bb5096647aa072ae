// SPDX-License-Identifier: Apache-2.0
// safetensors files: what is written reads back, and no damaged or hostile file does harm.
#include "../../frontend/safetensors.h"
#include "../../frontend/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int passed, failed;

static void check(bool ok, const char *what) {
    if (!ok) printf("FAIL safetensors: %s\n", what);
    *(ok ? &passed : &failed) += 1;
}

static char path[256];

static void put_file(const void *p, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0) abort();
}

// A file of this header text and so many data bytes; `claim` overrides the header length when not
// 0.
static size_t make(u8 *buf, const char *header, size_t data, u64 claim) {
    u64 n = strlen(header), len = claim ? claim : n;
    for (int i = 0; i < 8; i++) buf[i] = (u8)(len >> 8 * i);
    memcpy(buf + 8, header, n);
    memset(buf + 8 + n, 0x3f, data);
    return 8 + n + data;
}

static void refused(const char *header, size_t data, u64 claim, const char *expected) {
    static u8 buf[1 << 12];
    Arena a = {0};
    Text why = {0};
    StFile f;
    put_file(buf, make(buf, header, data, claim));
    bool ok = !ssd_safetensors_read(&a, path, &f, &why) && why.s && strstr(why.s, expected) &&
              strstr(why.s, path) && f.n == 0 && !f.data;
    if (!ok) printf("  found: %s\n", why.s ? why.s : "accepted");
    check(ok, expected);
    ssd_safetensors_free(&f);
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

static void round_trip(void) {
    static const ssd_dtype dtypes[] = {SSD_F32, SSD_BF16, SSD_F16, SSD_I32, SSD_F64};
    static const char *const names[] = {"a", "b with \"quotes\" \\", "c", "d", "e"};
    Arena a = {0};
    Text why = {0};
    StTensor v[5];
    for (int i = 0; i < 5; i++) {
        i64 dims[] = {3, i == 3 ? 0 : 1 + i, 5}; // one is empty
        size_t n = (size_t)(dims[0] * dims[1] * dims[2]) * ssd_dtype_size(dtypes[i]);
        u8 *p = ssd_arena_alloc(&a, n + 1);
        for (size_t k = 0; k < n; k++) p[k] = (u8)(k * 7 + (size_t)i);
        v[i] = (StTensor){names[i], ssd_tensor_dense(p, dtypes[i], 3, dims), n};
    }
    StFile f = {0};
    check(ssd_safetensors_write(path, v, 5, &why), "writing");
    check(ssd_safetensors_read(&a, path, &f, &why), "reading back");
    check(f.n == 5, "five tensors");
    for (int i = 0; i < f.n; i++) {
        const StTensor *x = NULL;
        for (int k = 0; k < 5; k++)
            if (strcmp(v[k].name, f.v[i].name) == 0) x = &v[k];
        check(x && x->bytes == f.v[i].bytes && x->view.dtype == f.v[i].view.dtype &&
                  memcmp(x->view.dims, f.v[i].view.dims, sizeof x->view.dims) == 0 &&
                  memcmp(x->view.data, f.v[i].view.data, x->bytes) == 0,
              "a tensor reads back");
        check((uintptr_t)f.v[i].view.data % 64 == 0, "data is aligned");
    }
    // Cut at every length: never accepted, never a crash.
    FILE *in = fopen(path, "rb");
    static u8 buf[1 << 14];
    size_t n = fread(buf, 1, sizeof buf, in), accepted = 0;
    fclose(in);
    for (size_t cut = 0; cut < n; cut++) {
        StFile g;
        put_file(buf, cut);
        accepted += ssd_safetensors_read(&a, path, &g, &why);
        ssd_safetensors_free(&g);
    }
    check(accepted == 0, "no truncated file is accepted");
    // Bytes of the header changed at random: accepted or refused, but in bounds (sanitizers watch).
    Rng r = ssd_random_new(1, "fuzz");
    volatile u64 sum = 0;
    for (int round = 0; round < 3000; round++) {
        static u8 bad[1 << 14];
        memcpy(bad, buf, n);
        for (u64 k = 1 + ssd_random_u64(&r) % 4; k-- > 0;)
            bad[ssd_random_u64(&r) % MIN(n, 600)] = (u8)ssd_random_u64(&r);
        put_file(bad, n);
        StFile g;
        if (ssd_safetensors_read(&a, path, &g, &why))
            for (int i = 0; i < g.n; i++)
                for (size_t k = 0; k < g.v[i].bytes; k++) sum += ((u8 *)g.v[i].view.data)[k];
        ssd_safetensors_free(&g);
    }
    ssd_safetensors_free(&f);
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

// A failed write leaves neither a file nor a temporary one, and an older file stays as it was.
static void failed_write(void) {
    Text why = {0};
    i64 dims[] = {4};
    float x[4] = {1, 2, 3, 4};
    StTensor t = {"x", ssd_tensor_dense(x, SSD_F32, 1, dims), sizeof x};
    check(!ssd_safetensors_write("/nonexistent/dir/f", &t, 1, &why) &&
              strstr(why.s, "/nonexistent/dir/f"),
          "a missing directory is named");
    check(!ssd_safetensors_write("/dev/null", &t, 1, &why), "a device is not replaced");
    struct stat st;
    check(stat("/dev/null", &st) == 0 && S_ISCHR(st.st_mode), "/dev/null is still one");
    ssd_text_free(&why);
}

int main(void) {
    const char *tmp = getenv("TMPDIR");
    char deep[2100];
    snprintf(path, sizeof path, "%s/ssdc-st-%ld", tmp ? tmp : "/tmp", (long)getpid());
    round_trip();
    failed_write();
    refused("{}", 0, (u64)1 << 62, "the header claims");
    refused("{}", 0, 3, "the header claims");
    refused("{\"a\":", 0, 0, "not JSON");
    refused("[1]", 0, 0, "not a JSON object");
    refused("{\"a\": 3}", 4, 0, "needs dtype");
    refused("{\"a\": {\"dtype\": 3, \"shape\": [1], \"data_offsets\": [0, 4]}}", 4, 0,
            "needs dtype");
    refused("{\"a\": {\"dtype\": \"F8_E4M3\", \"shape\": [4], \"data_offsets\": [0, 4]}}", 4, 0,
            "F8_E4M3");
    refused("{\"a\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}", 4, 0,
            "needs dtype");
    refused("{\"a\": {\"dtype\": \"F32\", \"shape\": [1.5], \"data_offsets\": [0, 4]}}", 4, 0,
            "needs dtype");
    refused("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 8]}}", 4, 0,
            "which has 4");
    refused("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [8, 4]}}", 16, 0,
            "lies at");
    refused("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0]}}", 4, 0,
            "data_offsets");
    refused("{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]}}", 4, 0,
            "need 8");
    refused("{\"a\": {\"dtype\": \"F32\", \"shape\": [4611686018427387904, 4], \"data_offsets\": "
            "[0, 0]}}",
            0, 0, "shape and dtype need");
    refused(
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1,1,1,1], \"data_offsets\": [0, 4]}}",
        4, 0, "at most 8");
    refused("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]},"
            " \"b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [2, 6]}}",
            8, 0, "overlap");
    refused("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]},"
            " \"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}",
            4, 0, "not JSON");
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    refused(deep, 0, 0, "not JSON");
    unlink(path);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
