// SPDX-License-Identifier: Apache-2.0
// Generated CUDA without a GPU: what the text of a small program says; that schedules which exceed
// a block's shared memory are refused or replaced; and, when NVRTC is found, that the zoo compiles
// for every architecture without a stack frame, a spilled register or more shared memory than a
// block may have.
//   cuda_test [-v] [--all] [SPEC..]     every spec for sm_90a, some for the others; --all: all for
//   all, every form
// Skips the compiler's part with a line that says why when there is no NVRTC.
#include "../../codegen/cuda.h"
#include "../../codegen/nvrtc.h"
#include "../../frontend/compile.h"
#include "../../runtime/device_cuda.h"

#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static int passed, failed;
static bool verbose;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool report(bool ok, const char *fmt, ...) SSD_PRINTF(2, 3);
static bool report(bool ok, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&lock);
    if (!ok || verbose) {
        printf(ok ? "ok    " : "FAIL  ");
        vprintf(fmt, ap);
        printf("\n");
    }
    if (ok)
        passed++;
    else
        failed++;
    pthread_mutex_unlock(&lock);
    va_end(ap);
    return ok;
}

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *s = calloc(1, 1 << 20);
    size_t n = s ? fread(s, 1, (1 << 20) - 1, f) : 0;
    if (s) s[n] = 0;
    fclose(f);
    return s;
}

// --- One program --------------------------------------------------------------------------------
typedef struct Job {
    const char *path, *arch, *mode, *schedule;
} Job;

static ssd_status lower(Arena *a, const Job *j, Compiled *out) {
    char *spec = read_file(j->path);
    ssd_compile_options o = {.spec = spec,
                             .spec_name = j->path,
                             .mode = j->mode,
                             .target = j->arch,
                             .schedule = j->schedule};
    ssd_status st = spec ? ssd_compile_spec(a, &o, "layout", NULL, NULL, out) : SSD_NOT_FOUND;
    out->spec = NULL;
    free(spec);
    return st;
}

static const char *base(const char *path) {
    return strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
}

// The compiler's log as a gate: every kernel has a line of its stack and spills, all of them zero.
static bool clean(const char *log, int kernels) {
    int seen = 0;
    for (const char *s = log; (s = strstr(s, "bytes stack frame")); s++, seen++)
        if (strncmp(s - 2, "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", 62))
            return false;
    return seen == kernels && !strstr(log, "C75");
}

static void compile(const Job *j) {
    Arena a = {0};
    Compiled c;
    Text source = {0}, why = {0};
    const char *name = base(j->path), *form = j->schedule ? j->schedule : "auto";
    ssd_status st = lower(&a, j, &c);
    if (st) {
        bool refused = st == SSD_UNSUPPORTED && (j->schedule || strstr(ssd_last_error(), "modes"));
        report(refused, "%s %s %s %s: %s", name, j->arch, j->mode, form, ssd_last_error());
        ssd_arena_free(&a);
        return;
    }
    const Prog *p = c.unit.prog;
    i64 *shared = NEWN(&a, i64, p->kernels.n);
    NvrtcResult r;
    report(ssd_tile_verify(p, &why), "%s %s %s %s: the placed program: %s", name, j->arch, j->mode,
           form, why.s ? why.s : "verifies");
    ssd_text_free(&why);
    ssd_cuda_source(p, c.unit.machine, shared, &source);
    for (u32 i = 0; i < p->kernels.n; i++)
        report(shared[i] <= c.unit.machine->l1, "%s %s %s %s: %s has %lld bytes of shared memory",
               name, j->arch, j->mode, form, p->kernels.v[i].name, (long long)shared[i]);
    if (report(ssd_nvrtc_compile(&a, source.s, p->name, j->arch, &r, &why), "%s %s %s %s: %s", name,
               j->arch, j->mode, form, why.s ? why.s : "compiles"))
        report(clean(r.log, (int)p->kernels.n * (ssd_cuda_dense(p) ? 2 : 1)),
               "%s %s %s %s: stack frames or spills:\n%s", name, j->arch, j->mode, form, r.log);
    ssd_text_free(&source);
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

// --- All of them, by two threads ----------------------------------------------------------------
enum { MOST = 8192 };
static Job jobs[MOST];
static int njobs, next_job;

static void *work(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&lock);
        int i = next_job++;
        pthread_mutex_unlock(&lock);
        if (i >= njobs) return NULL;
        compile(&jobs[i]);
    }
}

static void add(const char *path, const char *arch, const char *mode, const char *schedule) {
    if (njobs < MOST) jobs[njobs++] = (Job){path, arch, mode, schedule};
}

static bool typical(const char *path) {
    static const char *const some[] = {"mamba2-130m", "specs/gla", "odd_h11"};
    for (size_t i = 0; i < COUNTOF(some); i++)
        if (strstr(path, some[i])) return true;
    return false;
}

static void zoo(char **paths, size_t n, bool all) {
    static const char *const forms[] = {"form=recurrent", "form=quadratic", "form=chunked"};
    for (int k = 0; k < ssd_cuda_arch_count; k++) {
        const char *arch = ssd_cuda_archs[k].name;
        Text why = {0};
        bool main_arch = !strcmp(arch, "sm_90a");
        if (!ssd_nvrtc_knows(arch, &why)) {
            printf("skipped %s: %s\n", arch, why.s);
            ssd_text_free(&why);
            continue;
        }
        bool sampled = !strcmp(arch, "sm_80") || !strcmp(arch, "sm_86") ||
                       !strcmp(arch, "sm_100") || !strcmp(arch, "sm_120");
        for (size_t i = 0; i < n; i++) {
            if (!all && !main_arch && (!sampled || !typical(paths[i]))) continue;
            add(paths[i], arch, "forward", NULL);
            add(paths[i], arch, "step", NULL);
            for (size_t f = 0; f < COUNTOF(forms); f++)
                if (all || (main_arch && typical(paths[i])))
                    add(paths[i], arch, "forward", forms[f]);
        }
    }
    pthread_t other;
    bool two = njobs && !pthread_create(&other, NULL, work, NULL);
    work(NULL);
    if (two) pthread_join(other, NULL);
}

// --- Without the compiler -----------------------------------------------------------------------
static void text(void) {
    static const char *const wanted[] = {
        "// odd_heads3_p5_n16 for sm_90a, form=chunked q=64",
        "ssdc show SPEC --at source --target sm_90a --schedule '",
        "extern \"C\" __global__ void __launch_bounds__(THREADS, 2) scan(const __grid_constant__ "
        "scan_args args) {",
        "// x_ = load x[b, c*64+j, h, p]",
        "x.get<2>(b, c*64 + j, h, p)",
        "y.put<2>(",
        "hT.put(",
        "__syncthreads();",
        "warp_scan<64, 0>(",
        "mma_f32<Dims<64, 64, 16>, ALL_K, TO_F32>(",
        "K_UPTO_ROW",
    };
    Arena a = {0};
    Compiled c;
    Text t = {0};
    Job j = {SOURCE_DIR "/specs/odd_heads3_p5_n16.yaml", "sm_90a", "forward", NULL};
    if (report(!lower(&a, &j, &c), "the small program lowers: %s", ssd_last_error())) {
        ssd_cuda_source(c.unit.prog, c.unit.machine, NULL, &t);
        for (size_t i = 0; i < COUNTOF(wanted); i++)
            report(strstr(t.s, wanted[i]) != NULL, "the text has `%s`", wanted[i]);
        report(!strstr(t.s, "(null)"), "everything has a name");
    }
    ssd_text_free(&t);
    ssd_arena_free(&a);
}

// A step holds its state in registers: no tile in shared memory, nothing to wait for, and a kernel
// for tensors without gaps beside the one for any strides.
static void step(void) {
    static const char *const wanted[] = {
        "template <bool dense> DEVICE void step_block(const step_args &args) {",
        "const View<dense, float, 80, 64, 128> h0(",
        "const int pb = block % 4;",
        "const int p16_0 = threadIdx.x / 32, n_0 = threadIdx.x % 32 * 4;",
        "float h0_[4][4];",
        "h0.get_row(true, h0_[r], b, h, pb*16 + (p16_0 + r*4), n_0);",
        "B.get_row(true, B_, b, 0, n_0);",
        "lanes_reduce<32, false>(yr[r])",
        "hT.put_row(true, s1[r], ",
        "if (n_0 == 0) y.put(",
        " step_dense(const __grid_constant__ step_args args) {",
        " step(const __grid_constant__ step_args args) {",
    };
    static const char *const unwanted[] = {"shared[]", "__syncthreads", "(null)"};
    Arena a = {0};
    Compiled c;
    Text t = {0};
    Job j = {SOURCE_DIR "/specs/mamba2-2.7b.yaml", "sm_90a", "step", NULL};
    if (report(!lower(&a, &j, &c), "a step lowers: %s", ssd_last_error())) {
        ssd_cuda_source(c.unit.prog, c.unit.machine, NULL, &t);
        const char *kernel = strstr(t.s, "struct step_args");
        if (!report(kernel != NULL, "the step has a kernel")) kernel = "";
        for (size_t i = 0; i < COUNTOF(wanted); i++)
            report(strstr(kernel, wanted[i]) != NULL, "the step has `%s`", wanted[i]);
        for (size_t i = 0; i < COUNTOF(unwanted); i++)
            report(!strstr(kernel, unwanted[i]), "the step does without `%s`", unwanted[i]);
        report(strstr(kernel, "h0.get_row") < strstr(kernel, "softplus("), "loads come first");
    }
    ssd_text_free(&t);
    ssd_arena_free(&a);
}

// The same spec fits a small block with shorter chunks; asked for long ones it is refused by name.
static void limits(void) {
    Arena a = {0};
    Compiled c;
    Job j = {SOURCE_DIR "/specs/mamba2-130m.yaml", "sm_86", "forward", NULL};
    if (report(!lower(&a, &j, &c), "mamba2 on sm_86: %s", ssd_last_error()))
        report(c.unit.schedule.q < 64 && c.unit.schedule.form == FORM_CHUNKED, "with a chunk of %d",
               c.unit.schedule.q);
    j.schedule = "form=chunked q=256";
    report(lower(&a, &j, &c) == SSD_UNSUPPORTED && strstr(ssd_last_error(), "SCRATCH"),
           "q=256 is refused: %s", ssd_last_error());
    j.arch = "sm_90a", j.schedule = NULL;
    if (report(!lower(&a, &j, &c), "mamba2 on sm_90a: %s", ssd_last_error()))
        report(c.unit.schedule.q == 64, "with a chunk of %d", c.unit.schedule.q);
    ssd_arena_free(&a);
}

int main(int argc, char **argv) {
    bool all = false;
    Text why = {0};
    glob_t specs = {0};
    char **paths = NULL;
    size_t n = 0;
    for (; argc > 1 && argv[1][0] == '-'; argc--, argv++) {
        verbose |= !strcmp(argv[1], "-v");
        all |= !strcmp(argv[1], "--all");
    }
    text();
    step();
    limits();
    if (argc > 1)
        paths = argv + 1, n = (size_t)argc - 1;
    else if (!glob(SOURCE_DIR "/specs/*.yaml", 0, NULL, &specs))
        paths = specs.gl_pathv, n = specs.gl_pathc;
    if (ssd_nvrtc_knows("sm_80", &why))
        zoo(paths, n, all);
    else
        printf("skipped the compiler's part: %s\n", why.s);
    ssd_text_free(&why);
    globfree(&specs);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
