// SPDX-License-Identifier: Apache-2.0
// Generated CUDA without a GPU. What the text of a small program says; that schedules which exceed
// a block's shared memory are refused or replaced. And, where NVRTC is, the gate: what it makes of
// the zoo has no stack frame, no spilled register, no product that waits for the one before, no
// more shared memory than a block may have, and the instructions that the text claims.
//   cuda_test [-v] [--forms] [ARCH..] [SPEC..]
// Without ARCH or SPEC the text only; ARCH alone: the zoo; SPEC alone: for every ARCH of the gate.
// --forms: every form too, not only the chosen one.
#include "../../codegen/cuda.h"
#include "../../codegen/nvrtc.h"
#include "../../frontend/compile.h"
#include "../../ir/timed.h"
#include "../../runtime/device_cuda.h"
#include "gate.h"

#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CORE SOURCE_DIR "/specs/mamba2-core.yaml"

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
    const char *path, *arch, *mode, *schedule, *dims;
} Job;

static ssd_status lower(Arena *a, const Job *j, Compiled *out) {
    char *spec = read_file(j->path);
    ssd_compile_options o = {.spec = spec,
                             .spec_name = j->path,
                             .dims = j->dims,
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

// What the text of a kernel of roles claims, and the instructions that show it.
static const struct {
    const char *text, *name;
    GateOpcode either, other;
} claims[] = {
    {"wgmma_n", "HGMMA", GATE_HGMMA, GATE_HGMMA_SHARED},
    {"mma_step<", "HMMA", GATE_HMMA, GATE_HMMA},
    {"bulk_load(", "UTMALDG", GATE_UTMALDG, GATE_UTMALDG},
    {"bulk_store(", "UTMASTG", GATE_UTMASTG, GATE_UTMASTG},
};

// The text of one kernel, from its argument's struct to the next one's.
static const char *kernel_text(Arena *a, const char *source, const char *kernel) {
    const char *s = strstr(source, ssd_arena_printf(a, "\nstruct %s_args {", kernel));
    if (!s) return NULL;
    const char *end = strstr(s + 1, "\nstruct ");
    return end ? ssd_arena_dup(a, s, (size_t)(end - s)) : s;
}

static void instructions(Arena *a, const char *what, const char *source, const NvrtcResult *r,
                         const char *kernel) {
    const char *text = kernel_text(a, source, kernel);
    if (!report(text != NULL, "%s: kernel %s has a text", what, kernel)) return;
    for (size_t i = 0; i < COUNTOF(claims); i++) {
        int n = ssd_gate_count(r->cubin, kernel, claims[i].either) +
                ssd_gate_count(r->cubin, kernel, claims[i].other);
        bool claimed = strstr(text, claims[i].text) != NULL;
        report(claimed == (n > 0), "%s: kernel %s has %d %s, its text %s%s", what, kernel, n,
               claims[i].name, claimed ? "" : "no ", claims[i].text);
    }
    int local =
        ssd_gate_count(r->cubin, kernel, GATE_LDL) + ssd_gate_count(r->cubin, kernel, GATE_STL);
    report(!local, "%s: kernel %s has %d accesses to local memory", what, kernel, local);
}

// One kernel's line in the log. `shared`: what its launch will ask for.
static void resources(const char *what, const char *log, const char *kernel, i64 shared,
                      const char *arch) {
    GateFacts f;
    i64 most = 0;
    for (int i = 0; i < ssd_cuda_arch_count; i++)
        if (!strcmp(ssd_cuda_archs[i].name, arch)) most = ssd_cuda_archs[i].shared_block;
    if (!report(ssd_gate_facts(log, kernel, &f), "%s: %s is in the log:\n%s", what, kernel, log))
        return;
    report(!f.stack && !f.spill_stores && !f.spill_loads,
           "%s: %s has a stack frame of %d bytes, spills %d bytes, reloads %d", what, kernel,
           f.stack, f.spill_stores, f.spill_loads);
    report(shared + f.shared <= most, "%s: %s has %lld bytes of shared memory of %lld", what,
           kernel, (long long)shared + f.shared, (long long)most);
}

// What is compiled of a kernel is the whole text less some lines: a reader can compile that one.
static void is_part(const char *what, const Prog *p, const Machine *m, u32 kernel,
                    const char *whole) {
    Text part = {0};
    const char *from = whole;
    ssd_cuda_source_of(p, m, kernel, 1, NULL, &part);
    for (char *line = part.s, *end; *line && from; line = end + 1) {
        end = strchr(line, '\n');
        size_t n = (size_t)(end - line) + 1;
        while (from && strncmp(from, line, n)) from = (from = strchr(from, '\n')) ? from + 1 : NULL;
        if (from) from += n;
    }
    report(from && strstr(part.s, p->kernels.v[kernel].name), "%s: kernel %s is part of the text",
           what, p->kernels.v[kernel].name);
    ssd_text_free(&part);
}

static void gate(Arena *a, const char *what, const Job *j, const Prog *p, const Machine *m) {
    i64 *shared = NEWN(a, i64, p->kernels.n);
    NvrtcResult *results = NEWN(a, NvrtcResult, p->kernels.n);
    Text source = {0}, why = {0};
    ssd_cuda_source(p, m, NULL, &source);
    if (!report(ssd_cuda_compile(a, p, m, shared, results, &why), "%s: %s", what,
                why.s ? why.s : "compiles"))
        goto done;
    for (u32 i = 0; i < p->kernels.n; i++) {
        const TKernel *k = &p->kernels.v[i];
        const NvrtcResult *r = &results[i];
        is_part(what, p, m, i, source.s);
        report(!ssd_gate_serialised(r->log), "%s: serialised products:\n%s", what, r->log);
        resources(what, r->log, k->name, shared[i], j->arch);
        if (ssd_cuda_dense(p))
            resources(what, r->log, ssd_cuda_dense_name(a, k), shared[i], j->arch);
        if (ssd_timed_kernel(p, k)) instructions(a, what, source.s, r, k->name);
    }
done:
    ssd_text_free(&source);
    ssd_text_free(&why);
}

static void compile(const Job *j) {
    Arena a = {0};
    Compiled c;
    Text why = {0};
    const char *what = ssd_arena_printf(&a, "%s %s %s %s %s", base(j->path), j->arch, j->mode,
                                        j->schedule ? j->schedule : "", j->dims ? j->dims : "");
    ssd_status st = lower(&a, j, &c);
    if (st) {
        bool refused = st == SSD_UNSUPPORTED && (j->schedule || strstr(ssd_last_error(), "modes"));
        report(refused, "%s: %s", what, ssd_last_error());
    } else {
        report(ssd_tile_verify(c.unit.prog, &why), "%s: the placed program: %s", what,
               why.s ? why.s : "verifies");
        gate(&a, what, j, c.unit.prog, c.unit.machine);
    }
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

// --- All of them, by all threads ----------------------------------------------------------------
enum { MOST = 8192, THREADS_MOST = 16 };
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

static void run_jobs(void) {
    pthread_t thread[THREADS_MOST];
    int n = 0, most = MIN((int)sysconf(_SC_NPROCESSORS_ONLN), MIN(THREADS_MOST, njobs));
    while (n + 1 < most && !pthread_create(&thread[n], NULL, work, NULL)) n++;
    work(NULL);
    while (n > 0) pthread_join(thread[--n], NULL);
}

static void add(Job j) {
    if (njobs < MOST) jobs[njobs++] = j;
}

// Sizes beyond the zoo's: tiles that fill a thread's registers; where these move between warps also
// odd heads, narrow ones, rows that begin anywhere or have no tensor map, three blocks a head, and
// operands that a role computes.
static void sizes(const char *arch) {
    static const char *const wide[] = {"head_dim=128", "state_size=192", "state_size=256"};
    static const char *const dims[] = {"heads=24",
                                       "heads=79",
                                       "groups=80",
                                       "head_dim=32",
                                       "state_size=64",
                                       "heads=81 head_dim=80 state_size=96",
                                       "state_size=100",
                                       "head_dim=127",
                                       "heads=11 head_dim=60 state_size=33",
                                       "head_dim=33",
                                       "heads=79 head_dim=19",
                                       "groups=80 head_dim=33 state_size=5",
                                       "groups=80 state_size=127",
                                       "heads=79 head_dim=65",
                                       "groups=80 head_dim=127"};
    for (size_t i = 0; i < COUNTOF(wide); i++) add((Job){CORE, arch, "forward", NULL, wide[i]});
    if (strcmp(arch, "sm_90a")) return;
    for (size_t i = 0; i < COUNTOF(dims); i++) add((Job){CORE, arch, "forward", NULL, dims[i]});
    add((Job){SOURCE_DIR "/specs/retnet_rotary.yaml", arch, "forward", NULL, "state_size=128"});
}

static void specs(const char *arch, char **path, size_t n, bool forms) {
    static const char *const form[] = {"form=recurrent", "form=quadratic", "form=chunked"};
    for (size_t i = 0; i < n; i++) {
        add((Job){path[i], arch, "forward", NULL, NULL});
        add((Job){path[i], arch, "step", NULL, NULL});
        for (size_t f = 0; forms && f < COUNTOF(form); f++)
            add((Job){path[i], arch, "forward", form[f], NULL});
    }
}

static bool known(const char *arch) {
    Text why = {0};
    bool yes = ssd_nvrtc_knows(arch, &why);
    if (!yes) printf("skipped: %s: %s\n", arch, why.s);
    ssd_text_free(&why);
    return yes;
}

// --- Without the compiler -----------------------------------------------------------------------
static void text(void) {
    static const char *const wanted[] = {
        "// odd_heads3_p5_n16 for sm_90a, form=chunked q=64",
        "ssdc show SPEC --at source --target sm_90a --schedule '",
        ("extern \"C\" __global__ void __launch_bounds__(THREADS, 2) scan(const __grid_constant__ "
         "scan_args args) {"),
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
    Job j = {SOURCE_DIR "/specs/odd_heads3_p5_n16.yaml", "sm_90a", "forward", NULL, NULL};
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
    Job j = {SOURCE_DIR "/specs/mamba2-2.7b.yaml", "sm_90a", "step", NULL, NULL};
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
    Job j = {SOURCE_DIR "/specs/mamba2-130m.yaml", "sm_86", "forward", "roles=0", NULL};
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

static bool is_arch(const char *name) {
    for (int i = 0; i < ssd_cuda_arch_count; i++)
        if (!strcmp(ssd_cuda_archs[i].name, name)) return true;
    return false;
}

int main(int argc, char **argv) {
    static const char *const every[] = {"sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"};
    const char *arch[COUNTOF(every)];
    size_t narch = 0, nspecs = 0;
    bool forms = false;
    glob_t zoo = {0};
    char **path = argv; // those that are specs, from its start on
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-v"))
            verbose = true;
        else if (!strcmp(argv[i], "--forms"))
            forms = true;
        else if (is_arch(argv[i]) && narch < COUNTOF(arch))
            arch[narch++] = argv[i];
        else
            path[nspecs++] = argv[i];
    }
    bool whole = narch && !nspecs, texts = !narch && !nspecs;
    if (texts) text(), step(), limits();
    if (whole && !glob(SOURCE_DIR "/specs/*.yaml", 0, NULL, &zoo))
        path = zoo.gl_pathv, nspecs = zoo.gl_pathc;
    if (!narch && nspecs) memcpy(arch, every, sizeof every), narch = COUNTOF(every);
    for (size_t i = 0; i < narch; i++) {
        if (!known(arch[i])) continue;
        specs(arch[i], path, nspecs, forms);
        if (whole) sizes(arch[i]);
    }
    run_jobs();
    globfree(&zoo);
    if (!texts && !njobs) return 77; // skipped
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
