// SPDX-License-Identifier: Apache-2.0
// The benchmark of the CPU target against what a person would write and what memory allows, in one
// run: contenders take turns, medians are compared, every result is checked against its rival's.
//
//     build/bench-run [--json] [--quick] [--reps 7] [--threads 2] [--only
//     forward,decode,start,growth] [--ssdc PATH]
#include "naive.h"
#include "../runtime/base.h"
#include "../runtime/ssd.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { P = 64, N = 128, MAX_REPS = 101 };

static struct {
    bool json, quick;
    int reps, threads;
    const char *only, *ssdc;
    char tmp[64];
} opt = {.reps = 7, .threads = 2, .tmp = "/tmp/ssdc-bench-XXXXXX"};

static void die(const char *what) {
    fprintf(stderr, "bench: %s: %s\n", what, ssd_last_error());
    exit(2);
}
static void must(ssd_status s, const char *what) {
    if (s != SSD_OK) die(what);
}
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}
static void *need(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 4095) / 64 * 64);
    if (!p) exit((fprintf(stderr, "bench: no memory for %zu bytes\n", bytes), 2));
    return memset(p, 0, bytes);
}

// --- What is reported: a line now, the table at the end ------------------------------------------
typedef struct Row {
    const char *group;
    char what[80];
    double ours, rival, ratio, bar; // bar 0: none is set
    const char *unit, *rival_name;
    bool less; // the ratio, or our own value when there is no rival, must be at most the bar
} Row;
static Row rows[64];
static int n_rows;

static void report(Row r) {
    double value = r.rival_name ? r.ratio : r.ours;
    bool ok = r.bar == 0 || (r.less ? value <= r.bar : value >= r.bar);
    rows[n_rows++] = r;
    if (opt.json) {
        printf("{\"group\": \"%s\", \"what\": \"%s\", \"unit\": \"%s\", \"ours\": %.6g", r.group,
               r.what, r.unit, r.ours);
        if (r.rival_name) printf(", \"%s\": %.6g, \"ratio\": %.4g", r.rival_name, r.rival, r.ratio);
        if (r.bar > 0) printf(", \"bar\": %g, \"ok\": %s", r.bar, ok ? "true" : "false");
        printf("}\n");
    } else {
        fprintf(stderr, "  %s %s: %.4g %s\n", r.group, r.what, r.ours, r.unit);
    }
    fflush(stdout);
}

static void print_table(void) {
    printf("\n%-8s %-34s %12s %12s %8s %8s\n", "", "", "ours", "rival", "ratio", "bar");
    for (int i = 0; i < n_rows; i++) {
        const Row *r = &rows[i];
        double value = r->rival_name ? r->ratio : r->ours;
        char ours[32], rival[32] = "", ratio[16] = "", bar[16] = "";
        snprintf(ours, sizeof ours, "%.3g %s", r->ours, r->unit);
        if (r->rival_name) snprintf(rival, sizeof rival, "%.3g %s", r->rival, r->unit);
        if (r->rival_name) snprintf(ratio, sizeof ratio, "%.2f", r->ratio);
        if (r->bar > 0) snprintf(bar, sizeof bar, "%s %g", r->less ? "<=" : ">=", r->bar);
        const char *miss =
            r->bar > 0 && (r->less ? value > r->bar : value < r->bar) ? "  below the bar" : "";
        printf("%-8s %-34s %12s %12s %8s %8s%s\n", r->group, r->what, ours, rival, ratio, bar,
               miss);
    }
}

// --- The layer both sides compute: Mamba-2 with bias, softplus and skip connection ---------------
static void spec_text(char *out, size_t n, int H, const char *dtype) {
    snprintf(out, n,
             "ssdc: 1\n"
             "name: bench_%s\n"
             "dims: {heads: %d, groups: 1, head_dim: %d, state_size: %d}\n"
             "inputs:\n"
             "  x: %s[b, t, h, p]\n"
             "  dt: %s[b, t, h]\n"
             "  A_log: f32[h]\n"
             "  B: %s[b, t, g, n]\n"
             "  C: %s[b, t, g, n]\n"
             "  dt_bias: f32[h]\n"
             "  D: f32[h]\n"
             "let:\n"
             "  delta: softplus(dt + dt_bias)\n"
             "ssd:\n"
             "  query: C\n"
             "  key: B\n"
             "  value: delta * x\n"
             "  log_decay: -exp(A_log) * delta\n"
             "  mask: causal\n"
             "  initial_state: h0\n"
             "  final_state: hT\n"
             "outputs:\n"
             "  y: %s[b, t, h, p] = ssd + D * x\n"
             "modes: [forward, step]\n",
             dtype, H, P, N, dtype, dtype, dtype, dtype, dtype);
}

static ssd_kernel *compile(ssd_context *cx, int H, const char *dtype, const char *mode,
                           const char *absent) {
    char text[2048];
    spec_text(text, sizeof text, H, dtype);
    ssd_compile_options o = {.spec = text, .spec_name = "bench", .mode = mode, .absent = absent};
    ssd_kernel *k;
    must(ssd_compile(cx, &o, &k), "compile");
    return k;
}

// Inputs of realistic range (PEERS): dt covers 0.001..0.1, A -1..-16.
static u64 seed = 88172645463325252u;
static float uniform(void) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (float)(seed >> 40) * 0x1p-24f;
}
static float normal(void) { // a sum of twelve uniforms
    float s = -6;
    for (int i = 0; i < 12; i++) s += uniform();
    return s;
}
static void fill_normal(float *v, i64 n, float scale) {
    static float table[1 << 16];
    if (table[0] == 0)
        for (size_t i = 0; i < COUNTOF(table); i++) table[i] = normal();
    u32 at = (u32)seed;
    for (i64 i = 0; i < n; i++) v[i] = scale * table[(at = at * 1664525u + 1013904223u) >> 16];
    uniform();
}
static void round_bf16(u16 *out, const float *v, i64 n) {
    const u32 *bits = (const u32 *)(const void *)v;
    for (i64 i = 0; i < n; i++) out[i] = (u16)((bits[i] + 0x7fff + (bits[i] >> 16 & 1)) >> 16);
}

typedef struct Case { // one problem in f32 and in bf16, and both sides' results
    i64 b, t, h;
    float *A_log, *dt_bias, *D;
    void *x[2], *dt[2], *B[2], *C[2], *y[2], *naive_y[2]; // [0] f32, [1] bf16
    float *hT[2], *naive_hT[2];
} Case;

static Case case_new(i64 b, i64 t, i64 h, bool states) {
    Case c = {.b = b, .t = t, .h = h};
    c.A_log = need((size_t)h * 4), c.dt_bias = need((size_t)h * 4), c.D = need((size_t)h * 4);
    for (i64 i = 0; i < h; i++) {
        float dt = 0.001f * powf(100, uniform());
        c.A_log[i] = logf(1 + 15 * uniform());
        c.dt_bias[i] = logf(expm1f(dt));
    }
    fill_normal(c.D, h, 1);
    const i64 count[4] = {b * t * h * P, b * t * h, b * t * N, b * t * N};
    const float scale[4] = {1, 0.5f, 1, 1 / sqrtf(N)};
    void **set[4] = {c.x, c.dt, c.B, c.C};
    for (int i = 0; i < 4; i++) {
        set[i][0] = need((size_t)count[i] * 4);
        set[i][1] = need((size_t)count[i] * 2);
        fill_normal(set[i][0], count[i], scale[i]);
        round_bf16(set[i][1], set[i][0], count[i]);
    }
    for (int k = 0; k < 2; k++) {
        c.y[k] = need((size_t)count[0] * (k ? 2 : 4));
        c.naive_y[k] = need((size_t)count[0] * (k ? 2 : 4));
        c.hT[k] = states ? need((size_t)(b * h * P * N) * 4) : NULL;
        c.naive_hT[k] = states ? need((size_t)(b * h * P * N) * 4) : NULL;
    }
    return c;
}
static void case_free(Case *c) {
    void *all[] = {c->A_log, c->dt_bias,    c->D,           c->x[0],       c->x[1],
                   c->dt[0], c->dt[1],      c->B[0],        c->B[1],       c->C[0],
                   c->C[1],  c->y[0],       c->y[1],        c->naive_y[0], c->hT[0],
                   c->hT[1], c->naive_y[1], c->naive_hT[0], c->naive_hT[1]};
    for (size_t i = 0; i < COUNTOF(all); i++) free(all[i]);
}

static Naive naive_of(const Case *c, int bf16, bool in_place) {
    return (Naive){c->b,
                   c->t,
                   c->h,
                   1,
                   P,
                   N,
                   c->x[bf16],
                   c->dt[bf16],
                   c->B[bf16],
                   c->C[bf16],
                   c->A_log,
                   c->dt_bias,
                   c->D,
                   in_place ? c->naive_hT[bf16] : NULL,
                   c->naive_y[bf16],
                   c->naive_hT[bf16]};
}

// The arguments of a launch; step tensors are without the time axis. Returns how many.
static int args_of(const Case *c, int bf16, bool step, ssd_arg *out) {
    const ssd_dtype d = bf16 ? SSD_BF16 : SSD_F32;
    const struct {
        const char *name, *axes;
        void *data;
        ssd_dtype dtype;
    } list[] = {{"x", "bthp", c->x[bf16], d},
                {"dt", "bth", c->dt[bf16], d},
                {"A_log", "h", c->A_log, SSD_F32},
                {"B", "btgn", c->B[bf16], d},
                {"C", "btgn", c->C[bf16], d},
                {"dt_bias", "h", c->dt_bias, SSD_F32},
                {"D", "h", c->D, SSD_F32},
                {"y", "bthp", c->y[bf16], d},
                {"hT", "bhpn", c->hT[bf16], SSD_F32},
                {"h0", "bhpn", c->hT[bf16], SSD_F32}};
    int n = step ? 10 : 9;
    for (int i = 0; i < n; i++) {
        i64 dims[8];
        int rank = 0;
        for (const char *a = list[i].axes; *a; a++) {
            i64 size = *a == 'b'   ? c->b
                       : *a == 't' ? c->t
                       : *a == 'h' ? c->h
                       : *a == 'g' ? 1
                       : *a == 'p' ? P
                                   : N;
            if (!(step && *a == 't')) dims[rank++] = size;
        }
        out[i] = (ssd_arg){list[i].name, ssd_tensor_dense(list[i].data, list[i].dtype, rank, dims)};
    }
    return n;
}

static double time_launch(ssd_kernel *k, const ssd_arg *args, int n, void *ws, size_t ws_bytes) {
    double t0 = now();
    must(ssd_launch(k, args, n, ws, ws_bytes), "launch");
    return now() - t0;
}
static double time_naive(const Naive *a, int bf16) {
    double t0 = now();
    (bf16 ? naive_bf16 : naive_f32)(a, opt.threads);
    return now() - t0;
}

// Relative root-mean-square difference of the two sides' y.
static double difference(const Case *c, int bf16) {
    double num = 0, den = 0;
    for (i64 i = 0, n = c->b * c->t * c->h * P; i < n; i++) {
        float v[2];
        for (int k = 0; k < 2; k++) {
            const void *y = k ? c->naive_y[bf16] : c->y[bf16];
            u32 bits = bf16 ? (u32)((const u16 *)y)[i] << 16 : ((const u32 *)y)[i];
            memcpy(&v[k], &bits, 4);
        }
        num += (double)(v[0] - v[1]) * (v[0] - v[1]);
        den += (double)v[1] * v[1];
    }
    return sqrt(num / den);
}
static void agree(const Case *c, int bf16, const char *what) {
    double d = difference(c, bf16), bound = bf16 ? 5e-3 : 1e-5;
    if (d <= bound) return;
    fprintf(stderr, "bench: %s: results differ by %.3g, more than %.3g\n", what, d, bound);
    exit(1);
}

// --- Forward -------------------------------------------------------------------------------------
static void bench_forward(ssd_context *cx, i64 T, int H) {
    static const char *const dtype[2] = {"f32", "bf16"};
    Case c = case_new(1, T, H, true);
    ssd_kernel *k[2];
    ssd_arg args[2][10];
    size_t bytes[2];
    void *ws[2];
    int n = 0, reps = opt.reps;
    for (int d = 0; d < 2; d++) {
        k[d] = compile(cx, H, dtype[d], "forward", "h0");
        n = args_of(&c, d, false, args[d]);
        must(ssd_kernel_workspace(k[d], args[d], n, &bytes[d]), "workspace");
        ws[d] = need(bytes[d] + 64);
    }
    double t[4][MAX_REPS];
    for (int r = -1; r < reps; r++) // the first round warms up
        for (int d = 0; d < 2; d++) {
            const Naive a = naive_of(&c, d, false);
            double ours = time_launch(k[d], args[d], n, ws[d], bytes[d]), naive = time_naive(&a, d);
            if (r >= 0) t[d][r] = ours, t[2 + d][r] = naive;
        }
    for (int d = 0; d < 2; d++) {
        agree(&c, d, "forward");
        double mth = (double)(T * H) * 1e-6, ours = mth / median(t[d], reps),
               naive = mth / median(t[2 + d], reps);
        Row r = {"forward", "", ours, naive, ours / naive, 2.5, "Mth/s", "naive", false};
        snprintf(r.what, sizeof r.what, "%s H=%d T=%ld", dtype[d], H, (long)T);
        if (!opt.json) fprintf(stderr, "  schedule: %s\n", ssd_kernel_schedule(k[d]));
        report(r);
        ssd_kernel_destroy(k[d]);
        free(ws[d]);
    }
    case_free(&c);
}

// --- Decode: the state, far larger than any cache, is read and written once ----------------------
static void bench_decode(ssd_context *cx) {
    const int H = 80, reps = 2 * opt.reps + 1;
    const i64 b = opt.quick ? 104 : 208, count = b * H * P * N; // 273 or 545 MB
    Case c = case_new(b, 1, H, true);
    ssd_kernel *k = compile(cx, H, "f32", "step", NULL);
    ssd_arg args[10];
    int n = args_of(&c, 0, true, args);
    size_t bytes;
    must(ssd_kernel_workspace(k, args, n, &bytes), "workspace");
    void *ws = need(bytes + 64);
    const Naive a = naive_of(&c, 0, true);
    float *stream = need((size_t)count * 4), *copy = need((size_t)count * 4);
    double t[4][MAX_REPS * 2 + 1];
    for (int r = -1; r < reps; r++) {
        double now4[4];
        now4[0] = time_launch(k, args, n, ws, bytes);
        double t0 = now();
        naive_update(stream, count, 0.99f, 0.01f, opt.threads);
        now4[1] = now() - t0;
        now4[2] = time_naive(&a, 0);
        t0 = now();
        naive_copy(copy, stream, count, opt.threads);
        now4[3] = now() - t0;
        for (int i = 0; i < 4 && r >= 0; i++) t[i][r] = now4[i];
    }
    agree(&c, 0, "decode");
    double gb = (double)count * 8e-9, rate[4];
    for (int i = 0; i < 4; i++) rate[i] = gb / median(t[i], reps);
    Row r = {"decode", "", rate[0], rate[1], rate[0] / rate[1], 0.85, "GB/s", "update", false};
    snprintf(r.what, sizeof r.what, "f32 H=%d b=%ld vs update in place", H, (long)b);
    report(r);
    r = (Row){"decode", "", rate[0], rate[2], rate[0] / rate[2], 0, "GB/s", "naive", false};
    snprintf(r.what, sizeof r.what, "f32 H=%d b=%ld vs naive", H, (long)b);
    report(r);
    r = (Row){
        "memory", "update in place vs copy", rate[1], rate[3], rate[1] / rate[3], 0, "GB/s", "copy",
        false};
    report(r);
    ssd_kernel_destroy(k);
    free(ws), free(stream), free(copy);
    case_free(&c);
}

// --- Start: compile without the loading of LLVM, load from the cache, the command's warm start ---
static double run_command(char *const *argv) {
    double t0 = now();
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1), dup2(null, 2);
        execv(argv[0], argv);
        _exit(127);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    double t = now() - t0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "bench: %s %s failed with status %d\n", argv[0], argv[1], status);
        exit(2);
    }
    return t;
}

static void bench_start(void) {
    static const struct {
        const char *dtype, *mode;
    } kind[] = {{"bf16", "forward"}, {"f32", "forward"}, {"f32", "step"}};
    double t[MAX_REPS];
    ssd_context *none, *cached;
    must(ssd_context_create(&(ssd_context_options){opt.threads, ""}, &none), "context");
    ssd_kernel_destroy(compile(none, 7, "f32", "forward", NULL)); // loads LLVM
    for (size_t i = 0; i < COUNTOF(kind); i++) {
        for (int r = 0; r < opt.reps; r++) {
            double t0 = now();
            ssd_kernel *k = compile(none, 24 + r, kind[i].dtype, kind[i].mode, NULL);
            t[r] = 1e3 * (now() - t0);
            ssd_kernel_destroy(k);
        }
        Row row = {"start", "", median(t, opt.reps), 0, 0, 150, "ms", NULL, true};
        snprintf(row.what, sizeof row.what, "compile, %s %s", kind[i].dtype, kind[i].mode);
        report(row);
    }
    ssd_context_destroy(none);

    must(ssd_context_create(&(ssd_context_options){opt.threads, opt.tmp}, &cached), "context");
    ssd_kernel_destroy(compile(cached, 24, "bf16", "forward", NULL));
    int loads = 2 * opt.reps + 1;
    for (int r = 0; r < loads; r++) {
        double t0 = now();
        ssd_kernel *k = compile(cached, 24, "bf16", "forward", NULL);
        t[r] = 1e3 * (now() - t0);
        if (strcmp(ssd_kernel_origin(k), "cache") != 0) die("the cache was missed");
        ssd_kernel_destroy(k);
    }
    ssd_context_destroy(cached);
    report((Row){"start", "load from the cache", median(t, loads), 0, 0, 1, "ms", NULL, true});

    if (access(opt.ssdc, X_OK) != 0) return;
    char path[128], text[2048];
    snprintf(path, sizeof path, "%s/bench.yaml", opt.tmp);
    spec_text(text, sizeof text, 24, "bf16");
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) die("cannot write a spec");
    setenv("SSD_CACHE_DIR", opt.tmp, 1);
    char *argv[] = {(char *)opt.ssdc, "run", path, "--set", "b=1,t=1", "--random", "0", NULL};
    run_command(argv);
    for (int r = 0; r < loads; r++) t[r] = 1e3 * run_command(argv);
    report(
        (Row){"start", "ssdc run, warm cache, t=1", median(t, loads), 0, 0, 30, "ms", NULL, true});
}

// --- Growth with T: time and memory --------------------------------------------------------------
// Peak resident bytes since the last call with reset.
static double peak_bytes(bool reset) {
    if (reset) {
        int fd = open("/proc/self/clear_refs", O_WRONLY);
        if (fd >= 0 && write(fd, "5", 1) < 0)
            fprintf(stderr, "bench: the peak of memory cannot be reset\n");
        if (fd >= 0) close(fd);
    }
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    double kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf", &kb) == 1) break;
    if (f) fclose(f);
    return kb * 1024;
}

// A term of T*N*P would show as 4*N*P = 32768 bytes a token and head; the bar is two states a chunk
// of 64.
static void bench_growth(ssd_context *cx) {
    enum { H = 8, MOST = 4 };
    const int n = opt.quick ? 2 : MOST;
    ssd_kernel *k = compile(cx, H, "bf16", "forward", "h0");
    Case c[MOST];
    ssd_arg args[MOST][10];
    size_t bytes[MOST];
    double t[MOST][MAX_REPS], peak[MOST];
    int n_args = 0;
    for (int i = 0; i < n; i++) {
        c[i] = case_new(1, (i64)2048 << (2 * i), H, true);
        n_args = args_of(&c[i], 1, false, args[i]);
        must(ssd_kernel_workspace(k, args[i], n_args, &bytes[i]), "workspace");
        const double before = peak_bytes(true);
        time_launch(k, args[i], n_args, NULL, 0); // the call allocates
        peak[i] = peak_bytes(false) - before;
    }
    for (int r = 0; r < opt.reps; r++)
        for (int i = 0; i < n; i++) t[i][r] = time_launch(k, args[i], n_args, NULL, 0);
    double first = 0;
    for (int i = 0; i < n; i++) {
        const double tokens = (double)(c[i].t * H), ns = median(t[i], opt.reps) * 1e9 / tokens;
        if (i == 0) first = ns;
        Row r = {"growth", "", ns, first, ns / first, 1.5, "ns/th", "T=2048", true};
        snprintf(r.what, sizeof r.what, "T=%ld, one token and head", (long)c[i].t);
        report(r);
        r = (Row){"growth", "", (double)bytes[i] / tokens, 0, 0, 1024, "B/th", NULL, true};
        snprintf(r.what, sizeof r.what, "T=%ld, workspace", (long)c[i].t);
        report(r);
        r = (Row){"growth", "", peak[i] / tokens, 0, 0, 1024, "B/th", NULL, true};
        snprintf(r.what, sizeof r.what, "T=%ld, peak beyond the tensors", (long)c[i].t);
        report(r);
        case_free(&c[i]);
    }
    ssd_kernel_destroy(k);
}

static bool wanted(const char *group) { return !opt.only || strstr(opt.only, group); }

int main(int argc, char **argv) {
    char beside[4096];
    ssize_t len = readlink("/proc/self/exe", beside, sizeof beside - 8);
    beside[len > 0 ? len : 0] = 0;
    char *slash = strrchr(beside, '/');
    strcpy(slash ? slash + 1 : beside, "ssdc");
    opt.ssdc = beside;
    for (int i = 1; i < argc; i++) {
        const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(o, "--json"))
            opt.json = true;
        else if (!strcmp(o, "--quick"))
            opt.quick = true, opt.reps = 3;
        else if (v && !strcmp(o, "--reps"))
            opt.reps = atoi(argv[++i]);
        else if (v && !strcmp(o, "--threads"))
            opt.threads = atoi(argv[++i]);
        else if (v && !strcmp(o, "--only"))
            opt.only = argv[++i];
        else if (v && !strcmp(o, "--ssdc"))
            opt.ssdc = argv[++i];
        else {
            fprintf(stderr, "usage: bench-run [--json] [--quick] [--reps N] [--threads N] "
                            "[--only forward,decode,start,growth] [--ssdc PATH]\n");
            return 2;
        }
    }
    if (opt.reps < 1 || opt.reps > MAX_REPS / 2 || opt.threads < 1 || !mkdtemp(opt.tmp)) return 2;
    fprintf(stderr, "bench: P=%d N=%d G=1, %d threads, medians of %d; naive: %s\n", P, N,
            opt.threads, opt.reps, naive_compiler());
    double load = 0;
    if (getloadavg(&load, 1) == 1 && load > 0.7)
        fprintf(stderr, "bench: the machine is busy (load %.1f): ratios suffer\n", load);
    ssd_context *cx;
    must(ssd_context_create(&(ssd_context_options){opt.threads, ""}, &cx), "context");
    for (int big = 0; big < 2 && wanted("forward"); big++)
        for (int many = 0; many < 2; many++)
            if (!(opt.quick && big)) bench_forward(cx, big ? 8192 : 2048, many ? 80 : 24);
    if (wanted("decode")) bench_decode(cx);
    if (wanted("start")) bench_start();
    if (wanted("growth")) bench_growth(cx);
    ssd_context_destroy(cx);
    if (!opt.json) print_table();
    char clean[128];
    snprintf(clean, sizeof clean, "rm -rf '%s'", opt.tmp);
    return system(clean) == 0 ? 0 : 2;
}
