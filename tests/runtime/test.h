// SPDX-License-Identifier: Apache-2.0
// The few words the runtime's tests are written in. A test program ends with `return test_end();`,
// whose line counts what passed and failed.
#ifndef TEST_H
#define TEST_H

#include "../../runtime/internal.h"

#include <stdio.h>
#include <stdlib.h>

static int passed, failed;

static inline bool test_check(bool ok, const char *file, int line, const char *what) {
    ok ? passed++ : failed++;
    if (!ok) printf("%s:%d: failed: %s\n", file, line, what);
    return ok;
}
#define CHECK(cond) test_check((cond), __FILE__, __LINE__, #cond)

static inline bool test_same(const char *found, const char *want, const char *file, int line) {
    bool ok = found && !strcmp(found, want);
    ok ? passed++ : failed++;
    if (!ok)
        printf("%s:%d: failed: found\n%s\nexpected\n%s\n", file, line, found ? found : "(NULL)",
               want);
    return ok;
}
#define CHECK_SAME(found, want) test_same((found), (want), __FILE__, __LINE__)

static inline bool test_holds(const char *found, const char *part, const char *file, int line) {
    bool ok = found && strstr(found, part);
    ok ? passed++ : failed++;
    if (!ok)
        printf("%s:%d: failed: found '%s', expected '...%s...'\n", file, line,
               found ? found : "(NULL)", part);
    return ok;
}
#define CHECK_HOLDS(found, part) test_holds((found), (part), __FILE__, __LINE__)

static inline void test_skip(const char *what, const char *why) {
    printf("skipped: %s: %s\n", what, why);
}

static inline int test_end(void) {
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

// The whole of a file, on the heap.
static inline char *test_read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    *n = 0;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    char *s = malloc((size_t)size + 1);
    if (s) *n = fread(s, 1, (size_t)size, f), s[*n] = 0;
    fclose(f);
    return s;
}

static inline void test_write_file(const char *path, const void *s, size_t n) {
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(s, 1, n, f) == n);
    if (f) fclose(f);
}

// Repeatable noise.
static inline u32 test_random(u64 *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (u32)(*state >> 33);
}

#endif
