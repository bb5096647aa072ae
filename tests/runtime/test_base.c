// SPDX-License-Identifier: Apache-2.0
// Arenas, text, vectors, nearest names, and how diagnostics look.
#include "test.h"

static void arena(void) {
    Arena a = {0};
    for (size_t n = 0; n < 3000; n += 7) {
        u8 *p = ssd_arena_alloc(&a, n);
        bool zero = true;
        for (size_t i = 0; i < n; i++) zero = zero && !p[i];
        memset(p, 0xaa, n); // a later block must not show this
        CHECK(zero && (uintptr_t)p % 16 == 0);
    }
    u8 *big = ssd_arena_alloc(&a, 5 << 20);
    CHECK(!big[0] && !big[(5 << 20) - 1]);
    CHECK_SAME(ssd_arena_dup(&a, "abcdef", 3), "abc");
    CHECK_SAME(ssd_arena_printf(&a, "%s-%d", "x", 42), "x-42");
    CHECK(a.total > 5 << 20);
    ssd_arena_free(&a);
    CHECK(!a.head && !a.total);
    CHECK_SAME(ssd_arena_dup(&a, "again", 5), "again");

    jmp_buf oom;
    a.oom = &oom;
    if (setjmp(oom))
        CHECK(true);
    else
        ssd_arena_alloc(&a, SIZE_MAX / 2), CHECK(false);
    ssd_arena_free(&a);
}

static void vec_and_text(void) {
    Arena a = {0};
    VEC(int) v = {0};
    for (int i = 0; i < 1000; i++) vec_push(&a, &v, i * i);
    bool same = v.n == 1000;
    for (u32 i = 0; i < v.n; i++) same = same && v.v[i] == (int)(i * i);
    CHECK(same);
    ssd_arena_free(&a);

    Text t = {0};
    for (int i = 0; i < 100; i++) ssd_text_printf(&t, "%d,", i % 10);
    ssd_text_put(&t, "end", 3);
    CHECK(t.n == 203 && strlen(t.s) == 203);
    CHECK_SAME(t.s + 196, "8,9,end");
    ssd_text_free(&t);
    CHECK(!t.s && !t.n);
}

static void nearest(void) {
    static const char *const names[] = {"softplus", "sigmoid", "silu", "exp",
                                        "exp2",     "heads",   "t",    NULL};
    static const struct {
        const char *s, *want;
    } cases[] = {{"sofplus", "softplus"},
                 {"sigmiod", "sigmoid"},
                 {"exq", "exp"},
                 {"Heads", "heads"},
                 {"EXP2", "exp2"},
                 {"zzz", NULL},
                 {"q", NULL},
                 {"T", "t"},
                 {"", NULL},
                 {"head", "heads"},
                 {"quite_another_name", NULL}};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        int k = ssd_nearest(cases[i].s, names, COUNTOF(names));
        if (cases[i].want)
            CHECK_SAME(k < 0 ? "none" : names[k], cases[i].want);
        else
            CHECK(k == -1);
    }
    char longest[500];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = 0;
    CHECK(ssd_nearest(longest, names, COUNTOF(names)) == -1);
}

static void expect_diag(const char *source, size_t n, Place at, const char *text,
                        const char *want) {
    Arena a = {0};
    Diag d = {.arena = &a, .file = "f.yaml", .source = source, .source_len = n};
    Text out = {0};
    ssd_diag_add(&d, DIAG_ERROR, at, "%s", text);
    ssd_diag_print(&d, &out);
    CHECK_SAME(out.s, want);
    ssd_text_free(&out);
    ssd_arena_free(&a);
}
#define EXPECT(source, line, col, text, want)                                                      \
    expect_diag(source, sizeof source - 1, (Place){"f.yaml", line, col}, text, want)

static void carets(void) {
    EXPECT("a: 1\nbb: Z\n", 2, 5, "bad", "f.yaml:2:5: error: bad\n    2 | bb: Z\n      |     ^\n");
    EXPECT("a: 1", 1, 5, "at the end",
           "f.yaml:1:5: error: at the end\n    1 | a: 1\n      |     ^\n");
    EXPECT("a: 1", 1, 0, "no column", "f.yaml:1: error: no column\n    1 | a: 1\n");
    EXPECT("a: 1\n", 9, 1, "past the text", "f.yaml:9:1: error: past the text\n");
    EXPECT("\tx", 1, 2, "tab", "f.yaml:1:2: error: tab\n    1 |     x\n      |     ^\n");
    EXPECT("ab\tx", 1, 4, "tab", "f.yaml:1:4: error: tab\n    1 | ab  x\n      |     ^\n");
    EXPECT("é\xe6\xbc\xa2x", 1, 3, "wide",
           "f.yaml:1:3: error: wide\n    1 | é\xe6\xbc\xa2x\n      |    ^\n");
    EXPECT("\xef\xbb\xbfkey", 1, 1, "mark", "f.yaml:1:1: error: mark\n    1 | key\n      | ^\n");
    EXPECT("a\r\nb\rc", 3, 1, "ends", "f.yaml:3:1: error: ends\n    3 | c\n      | ^\n");
    EXPECT("\x1b[31mx\xff", 1, 6, "safe",
           "f.yaml:1:6: error: safe\n    1 | \\x1b[31mx\\xff\n      |         ^\n");
    EXPECT("a\0b", 1, 3, "nul", "f.yaml:1:3: error: nul\n    1 | a\\x00b\n      |      ^\n");
    EXPECT("\xe2\x80\xaex", 1, 2, "bidi",
           "f.yaml:1:2: error: bidi\n    1 | \\u202ex\n      |       ^\n");
    EXPECT("", 1, 1, "a\x07\nb", "f.yaml:1:1: error: a\\x07\\nb\n    1 | \n      | ^\n");
}

static void long_lines(void) {
    Arena a = {0};
    char *source = ssd_arena_alloc(&a, 5000);
    for (int i = 0; i < 5000; i++) source[i] = (char)('a' + i % 26);
    Diag d = {.arena = &a, .file = "f", .source = source, .source_len = 5000};
    static const int cols[] = {1, 2000, 5000};
    for (size_t i = 0; i < COUNTOF(cols); i++)
        ssd_diag_add(&d, DIAG_ERROR, (Place){"f", 1, cols[i]}, "here");
    Text out = {0};
    ssd_diag_print(&d, &out);
    int lines = 0, carets_right = 0;
    char *shown = NULL;
    for (char *save, *s = strtok_r(out.s, "\n", &save); s;
         s = strtok_r(NULL, "\n", &save), lines++) {
        if (lines % 3 == 1) shown = s;
        if (lines % 3 == 2) carets_right += shown[strlen(s) - 1] == source[cols[lines / 3] - 1];
        CHECK(strlen(s) < 120);
    }
    CHECK(lines == 9 && carets_right == 3);
    ssd_text_free(&out);
    ssd_arena_free(&a);
}

static void order(void) {
    Arena a = {0};
    const char *source = "one\ntwo\nthree\n";
    Diag d = {.arena = &a, .file = "f", .source = source, .source_len = strlen(source)};
    ssd_diag_add(&d, DIAG_ERROR, (Place){"f", 3, 1}, "third");
    ssd_diag_add(&d, DIAG_NOTE, (Place){"f", 1, 2}, "see here");
    ssd_diag_add(&d, DIAG_WARNING, (Place){"f", 1, 1}, "first");
    ssd_diag_add(&d, DIAG_ERROR, (Place){"f", 3, 1}, "third");
    ssd_diag_add(&d, DIAG_NOTE, (Place){"f", 1, 2}, "see here");
    ssd_diag_add(&d, DIAG_ERROR, (Place){"f", 3, 1}, "another");
    ssd_diag_add(&d, DIAG_ERROR, (Place){NULL, 0, 0}, "no place");
    CHECK(d.errors == 4);
    Text out = {0};
    ssd_diag_print(&d, &out);
    CHECK_SAME(out.s, "error: no place\n"
                      "f:1:1: warning: first\n    1 | one\n      | ^\n"
                      "f:3:1: error: third\n    3 | three\n      | ^\n"
                      "f:1:2: note: see here\n    1 | one\n      |  ^\n"
                      "f:3:1: error: another\n    3 | three\n      | ^\n");
    ssd_text_free(&out);
    ssd_arena_free(&a);
}

static void errors(void) {
    ssd_clear_error();
    CHECK_SAME(ssd_last_error(), "");
    CHECK(ssd_fail(SSD_IO, "short %d", 7) == SSD_IO);
    CHECK_SAME(ssd_last_error(), "short 7");
    char big[4000];
    memset(big, 'm', sizeof big);
    big[sizeof big - 1] = 0;
    ssd_fail(SSD_IO, "%s", big);
    CHECK_SAME(ssd_last_error(), big);
    ssd_fail(SSD_IO, "again: %.20s", ssd_last_error()); // formatted from the message it replaces
    CHECK_SAME(ssd_last_error(), "again: mmmmmmmmmmmmmmmmmmmm");
    ssd_fail(SSD_IO, "%s", big);
    ssd_fail(SSD_IO, "x%s", ssd_last_error());
    CHECK(strlen(ssd_last_error()) == sizeof big);
    ssd_clear_error();
    CHECK_SAME(ssd_last_error(), "");
    CHECK_SAME(ssd_status_name(SSD_JIT_OFF), "compiler off");
    CHECK_SAME(ssd_status_name((ssd_status)99), "unknown status");
}

static void dense(void) {
    i64 dims[] = {2, 0, 5, 7};
    ssd_tensor t = ssd_tensor_dense(NULL, SSD_BF16, 4, dims);
    CHECK(t.strides[3] == 1 && t.strides[2] == 7 && t.strides[1] == 35 && t.strides[0] == 35);
    CHECK(ssd_tensor_dense(NULL, SSD_F32, 99, dims).rank == 99);
    CHECK(ssd_dtype_size(SSD_BF16) == 2 && ssd_dtype_size(SSD_IDX) == 8 &&
          ssd_dtype_size((ssd_dtype)77) == 0);
}

int main(void) {
    arena();
    vec_and_text();
    nearest();
    carets();
    long_lines();
    order();
    errors();
    dense();
    return test_end();
}
