// SPDX-License-Identifier: Apache-2.0
// Hostile files through the command: safetensors of every kind of damage, outputs that cannot be
// written, specs that are none. The command ends with its exit status and a message, never by a
// signal, and leaves no partial file. Usage: hostile PATH_OF_SSDC
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *ssdc;
static char root[256];

static const char spec[] = "ssdc: 1\n"
                           "name: hostile\n"
                           "dims: {heads: 1, head_dim: 2, state_size: 2}\n"
                           "inputs:\n"
                           "  q: f32[b, t, h, n]\n"
                           "  k: f32[b, t, h, n]\n"
                           "  v: f32[b, t, h, p]\n"
                           "ssd: {query: q, key: k, value: v, mask: causal}\n"
                           "outputs:\n"
                           "  y: f32[b, t, h, p] = ssd\n";

static const char *at(const char *name) {
    static char path[16][512];
    static int turn;
    char *p = path[turn++ % 16];
    snprintf(p, sizeof path[0], "%s/%s", root, name);
    return p;
}

static void put_file(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    check(f && fwrite(data, 1, n, f) == n, "cannot write %s", path);
    if (f) fclose(f);
}

typedef struct Ended {
    int status; // exit status, or 128 + signal
    char err[4096], out[4096];
} Ended;

static Ended run(char *const *argv) {
    Ended e = {0};
    const char *err = at("stderr"), *out = at("stdout");
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int a = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600),
            b = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(a, 1);
        dup2(b, 2);
        execv(ssdc, argv);
        _exit(127);
    }
    int status;
    waitpid(pid, &status, 0);
    e.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    FILE *f = fopen(err, "r");
    if (f) e.err[fread(e.err, 1, sizeof e.err - 1, f)] = 0, fclose(f);
    f = fopen(out, "r");
    if (f) e.out[fread(e.out, 1, sizeof e.out - 1, f)] = 0, fclose(f);
    return e;
}

static bool exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

// --- safetensors: u64 header bytes | JSON | data ------------------------------------------------
#define TENSOR(n, at0, at1)                                                                        \
    "\"" n "\": {\"dtype\": \"F32\", \"shape\": [1, 3, 1, 2], \"data_offsets\": [" #at0 ", " #at1  \
    "]}"
#define Q TENSOR("q", 0, 24)
#define K TENSOR("k", 24, 48)
#define V TENSOR("v", 48, 72)
#define ODD(shape, offsets, dtype)                                                                 \
    "{" Q ", " K ", \"v\": {\"dtype\": \"" dtype "\", \"shape\": " shape                           \
    ", \"data_offsets\": " offsets "}}"

static const struct {
    const char *what, *json;
    i64 header; // the length told, or -1: the true one
    int data;   // bytes behind the header
    bool ok;
    const char *says;
} files[] = {
    {"right", "{" Q ", " K ", " V "}", -1, 72, true, ""},
    {"with metadata", "{\"__metadata__\": {\"by\": \"test\"}, " Q ", " K ", " V "}", -1, 72, true,
     ""},
    {"empty header", "", -1, 0, false, ""},
    {"header beyond the file", "{" Q ", " K ", " V "}", 100000, 72, false, ""},
    {"header of 2^63 bytes", "{" Q "}", INT64_MIN, 72, false, ""},
    {"header of 2^64 - 1 bytes", "{" Q "}", -2, 72, false, ""},
    {"header of no bytes", "{" Q ", " K ", " V "}", 0, 72, false, ""},
    {"header cut short", "{" Q ", " K ", " V "}", 40, 72, false, ""},
    {"not JSON", "hello, world", -1, 72, false, ""},
    {"JSON of another kind", "[1, 2, 3]", -1, 72, false, ""},
    {"tensor of another kind", "{\"q\": 3}", -1, 72, false, "q"},
    {"data truncated", "{" Q ", " K ", " V "}", -1, 71, false, ""},
    {"no data", "{" Q ", " K ", " V "}", -1, 0, false, ""},
    {"missing tensor", "{" Q ", " K "}", -1, 48, false, "v"},
    {"unknown tensor", "{" Q ", " K ", " V ", " TENSOR("zz", 72, 96) "}", -1, 96, false, "zz"},
    {"tensor twice", "{" Q ", " Q ", " K ", " V "}", -1, 72, false, ""},
    {"offsets reversed", ODD("[1, 3, 1, 2]", "[72, 48]", "F32"), -1, 72, false, "v"},
    {"offsets negative", ODD("[1, 3, 1, 2]", "[-24, 0]", "F32"), -1, 72, false, "v"},
    {"offsets beyond", ODD("[1, 3, 1, 2]", "[4800, 4824]", "F32"), -1, 72, false, "v"},
    {"offsets huge", ODD("[1, 3, 1, 2]", "[9223372036854775800, 9223372036854775807]", "F32"), -1,
     72, false, "v"},
    {"offsets beyond numbers", ODD("[1, 3, 1, 2]", "[48, 99999999999999999999999]", "F32"), -1, 72,
     false, ""},
    {"offsets of another size", ODD("[1, 3, 1, 2]", "[48, 71]", "F32"), -1, 72, false, "v"},
    {"one offset", ODD("[1, 3, 1, 2]", "[48]", "F32"), -1, 72, false, "v"},
    {"offsets in words", ODD("[1, 3, 1, 2]", "[\"48\", \"72\"]", "F32"), -1, 72, false, "v"},
    {"unknown dtype", ODD("[1, 3, 1, 2]", "[48, 72]", "X32"), -1, 72, false, "X32"},
    {"dtype of the same size", ODD("[1, 3, 1, 2]", "[48, 72]", "I32"), -1, 72, false, "v"},
    {"other dtype", ODD("[1, 3, 1, 2]", "[48, 60]", "BF16"), -1, 60, false, "v"},
    {"wrong rank", ODD("[3, 2]", "[48, 72]", "F32"), -1, 72, false, "v"},
    {"other time", ODD("[1, 2, 1, 2]", "[48, 64]", "F32"), -1, 64, false, "v"},
    {"negative dim", ODD("[1, -3, 1, 2]", "[48, 72]", "F32"), -1, 72, false, "v"},
    {"shape overflows", ODD("[4611686018427387904, 4, 4611686018427387904, 2]", "[48, 72]", "F32"),
     -1, 72, false, "v"},
    {"rank 64",
     ODD("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
         "1,1,1,1,1,1,1,1,1,1,1,"
         "1,1,1,1,1,1,1,3,2]",
         "[48, 72]", "F32"),
     -1, 72, false, "v"},
    {"dims that are no integers", ODD("[1, 3.5, 1, 2]", "[48, 72]", "F32"), -1, 72, false, "v"},
    {"empty tensors", "{" ODD("[1, 0, 1, 2]", "[0, 0]", "F32") "}", -1, 0, false, ""},
};

static size_t make_file(u8 *out, const char *json, i64 header, int data) {
    size_t n = strlen(json);
    u64 told = header == -1 ? n : header == -2 ? UINT64_MAX : (u64)header;
    memcpy(out, &told, 8);
    memcpy(out + 8, json, n);
    for (int i = 0; i < data; i++) out[8 + n + (size_t)i] = (u8)(i % 4 == 3 ? 0x3f : 0);
    return 8 + n + (size_t)data;
}

static void refused(const Ended *e, const char *output, const char *says) {
    check(e->status == 1 || e->status == 2, "exit status %d; stderr: %s", e->status, e->err);
    check(e->err[0] && strstr(e->err, says), "message \"%s\" lacks \"%s\"", e->err, says);
    if (output) check(!exists(output), "%s was written", output);
}

static void test_safetensors(void) {
    static u8 file[1 << 16];
    for (size_t i = 0; i < COUNTOF(files); i++) {
        label("safetensors, %s", files[i].what);
        const char *out = at("out.safetensors"), *in = at("in.safetensors");
        put_file(in, file, make_file(file, files[i].json, files[i].header, files[i].data));
        unlink(out);
        char *argv[] = {(char *)ssdc, "run", (char *)at("spec.yaml"), "--inputs", (char *)in, "-o",
                        (char *)out,  NULL};
        Ended e = run(argv);
        if (files[i].ok) {
            check(e.status == 0, "exit status %d: %s", e.status, e.err);
            check(exists(out), "no output");
        } else {
            refused(&e, out, files[i].says);
        }
    }
}

static void test_short_files(void) {
    for (int n = 0; n < 9; n++) {
        label("safetensors of %d bytes", n);
        const char *in = at("in.safetensors"), *out = at("out.safetensors");
        put_file(in, "\377\377\0\0\0\0\0\0\0", (size_t)n);
        unlink(out);
        char *argv[] = {(char *)ssdc, "run", (char *)at("spec.yaml"), "--inputs", (char *)in, "-o",
                        (char *)out,  NULL};
        Ended e = run(argv);
        refused(&e, out, "in.safetensors");
    }
    label("safetensors, deep JSON");
    size_t n = 200000;
    u8 *deep = malloc(n + 8);
    u64 told = n;
    memcpy(deep, &told, 8);
    memset(deep + 8, '[', n);
    put_file(at("in.safetensors"), deep, n + 8);
    free(deep);
    char *argv[] = {
        (char *)ssdc, "run", (char *)at("spec.yaml"), "--inputs", (char *)at("in.safetensors"),
        NULL};
    Ended e = run(argv);
    refused(&e, NULL, "in.safetensors");
}

static void test_places(void) {
    static const struct {
        const char *what, *flag, *path;
    } cases[] = {{"no such input", "--inputs", "/nowhere/in.safetensors"},
                 {"input is a directory", "--inputs", "/tmp"},
                 {"input never ends", "--inputs", "/dev/zero"},
                 {"output under nothing", "-o", "/nowhere/out.safetensors"},
                 {"output is a directory", "-o", "/tmp"},
                 {"output cannot be made", "-o", "/proc/out.safetensors"}};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        label("%s", cases[i].what);
        char *argv[] = {(char *)ssdc,
                        "run",
                        (char *)at("spec.yaml"),
                        "--set",
                        "b=1,t=3",
                        (char *)cases[i].flag,
                        (char *)cases[i].path,
                        NULL};
        Ended e = run(argv);
        refused(&e, NULL, cases[i].path);
    }
}

// What the command makes of sizes that cannot be.
static void test_sizes(void) {
    static const char *const bad[] = {"t=-1",
                                      "b=99999999999999999999",
                                      "t=9223372036854775807",
                                      "b=4000000000,t=4000000000",
                                      "t=",
                                      "=3",
                                      "t",
                                      "zz=3",
                                      "t=1,t=2x",
                                      "heads=0"};
    for (size_t i = 0; i < COUNTOF(bad); i++) {
        label("--set %s", bad[i]);
        char *argv[] = {
            (char *)ssdc, "run", (char *)at("spec.yaml"), "--set", (char *)bad[i], "--random",
            "0",          NULL};
        Ended e = run(argv);
        refused(&e, NULL, "");
    }
    static const char *const good[] = {"t=0", "b=0", "b=0,t=0", "t=1", "b=3,t=65"};
    for (size_t i = 0; i < COUNTOF(good); i++) {
        label("--set %s", good[i]);
        char *argv[] = {
            (char *)ssdc, "run", (char *)at("spec.yaml"), "--set", (char *)good[i], "--random",
            "0",          NULL};
        Ended e = run(argv);
        check(e.status == 0, "exit status %d: %s", e.status, e.err);
    }
}

static void test_specs(void) {
    static const struct {
        const char *what, *text;
        size_t n;
    } cases[] = {
#define SPEC(what, text) {what, text, sizeof text - 1}
        SPEC("nothing", ""),
        SPEC("a NUL byte", "ssdc: 1\0\n"),
        SPEC("bad UTF-8", "ssdc: \377\n"),
        SPEC("a lone brace", "{"),
        {"many brackets", NULL, 300000},
        SPEC("a tab", "ssdc:\t1\n\tname: x\n"),
        SPEC("an alias bomb", "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n"),
#undef SPEC
    };
    static const char *const commands[] = {"check", "show", "run", "verify", "explain"};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        char *many = NULL;
        if (!cases[i].text) memset(many = malloc(cases[i].n), '[', cases[i].n);
        put_file(at("bad.yaml"), many ? many : cases[i].text, cases[i].n);
        free(many);
        for (size_t c = 0; c < COUNTOF(commands); c++) {
            label("%s, a spec of %s", commands[c], cases[i].what);
            char *argv[] = {(char *)ssdc, (char *)commands[c], (char *)at("bad.yaml"), NULL};
            Ended e = run(argv);
            refused(&e, NULL, "bad.yaml");
        }
    }
    label("no such spec");
    char *argv[] = {(char *)ssdc, "check", "/nowhere/spec.yaml", NULL};
    Ended e = run(argv);
    refused(&e, NULL, "/nowhere/spec.yaml");
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    ssdc = argv[1];
    const char *tmp = getenv("SSD_TEST_TMP");
    snprintf(root, sizeof root, "%s/hostile-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) return 2;
    setenv("SSD_CACHE_DIR", at("cache"), 1);
    label("start");
    put_file(at("spec.yaml"), spec, sizeof spec - 1);
    test_safetensors();
    test_short_files();
    test_places();
    test_sizes();
    test_specs();
    char clean[300];
    snprintf(clean, sizeof clean, "rm -rf '%s'", root);
    if (system(clean) != 0) printf("cannot remove %s\n", root);
    return closing_line();
}
