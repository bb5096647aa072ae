// SPDX-License-Identifier: Apache-2.0
// Tile programs through place, layout and code generation, for every CPU target this host runs.
// Each program of programs/ is run as T0 and as T1 by the interpreter and as machine code, on dense
// tensors and on strided ones with gaps, for several lengths. The code must agree with the
// interpreter and write nothing but its outputs.
#include "../../codegen/target.h"
#include "../../runtime/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int passed, failed;
static void check(bool ok, const char *fmt, ...) SSD_PRINTF(2, 3);
static void check(bool ok, const char *fmt, ...) {
    if (ok) {
        passed++;
        return;
    }
    failed++;
    va_list ap;
    va_start(ap, fmt);
    fputs("FAILED ", stdout);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
}

// --- Tensors ------------------------------------------------------------------------------------
// Memory of one tensor: `gap` elements between elements of every dimension, all of it 0xff (NaN)
// where no element lies.
typedef struct Buffer {
    char *raw, *before; // before: a copy from before the run
    i64 bytes, stride[SSD_MAX_RANK];
} Buffer;

static u64 state;
static double uniform(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double)(state >> 11) * 0x1p-52 - 1;
}

static u32 bits_of(float f) {
    u32 u;
    memcpy(&u, &f, 4);
    return u;
}
static float float_of(u32 u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static double get(const char *at, u8 dtype) {
    u16 h;
    float f;
    i32 i;
    switch (dtype) {
    case SSD_F32: memcpy(&f, at, 4); return f;
    case SSD_I32: memcpy(&i, at, 4); return i;
    default: break;
    }
    memcpy(&h, at, 2);
    if (dtype == SSD_BF16) return float_of((u32)h << 16);
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

// Stores a value and returns what a reader will see.
static double put(char *at, u8 dtype, double v) {
    float f = (float)v;
    i32 i = (i32)v;
    u16 h;
    if (dtype == SSD_F32) memcpy(at, &f, 4);
    if (dtype == SSD_I32) memcpy(at, &i, 4);
    if (dtype == SSD_BF16) h = (u16)(bits_of(f) >> 16), memcpy(at, &h, 2);
    if (dtype == SSD_F16) { // cut to 11 bits: inputs are within (2^-14, 1)
        int e;
        double m = frexp(fabs(v), &e);
        h = (u16)((v < 0) << 15 | (e + 14) << 10 | ((int)(m * 2048) & 1023));
        if (e + 14 <= 0) h = 0;
        memcpy(at, &h, 2);
    }
    return get(at, dtype);
}

static i64 offset_of(const Array *a, const Buffer *b, i64 k) {
    i64 at = 0;
    for (int d = a->rank - 1; d >= 0; d--) {
        at += k % a->dims[d] * b->stride[d];
        k /= a->dims[d];
    }
    return at;
}

// cu is a list of row starts; other integers are indices into small axes.
static double value(const TTensor *t, i64 k, i64 n, i64 rows) {
    if (t->dtype != SSD_I32) return uniform();
    return strcmp(t->name, "cu") ? floor(2 + 2 * uniform())
                                 : (double)(rows * k / (n > 1 ? n - 1 : 1));
}

static void make_tensor(const TTensor *t, i64 gap, i64 rows, Array *a, Buffer *b) {
    i64 size = (i64)ssd_dtype_size((ssd_dtype)t->dtype), stride = 1 + gap, n = ssd_array_count(a);
    for (int d = a->rank - 1; d >= 0; d--) {
        b->stride[d] = stride;
        stride *= a->dims[d] + gap;
    }
    b->bytes = (stride + 1) * size;
    b->raw = aligned_alloc(64, (size_t)(b->bytes + 127) / 64 * 64);
    b->before = malloc((size_t)b->bytes);
    memset(b->raw, 0xff, (size_t)b->bytes);
    for (i64 k = 0; k < n; k++) {
        char *at = b->raw + offset_of(a, b, k) * size;
        a->v[k] = t->role == T_IN ? put(at, t->dtype, value(t, k, n, rows)) : NAN;
    }
    memcpy(b->before, b->raw, (size_t)b->bytes);
}

// --- One run ------------------------------------------------------------------------------------
typedef struct Case {
    const char *file;
    const Target *target;
    const Machine *machine;
    i64 b, t, gap;
} Case;

static const char *name_of(const Case *c) {
    static char s[640];
    const char *base = strrchr(c->file, '/');
    snprintf(s, sizeof s, "%s %s b=%lld t=%lld gap=%lld", base ? base + 1 : c->file,
             c->machine->target, (long long)c->b, (long long)c->t, (long long)c->gap);
    return s;
}

static void run_kernels(const Prog *p, const Module *mod, const CpuArgs *args, const i64 *sym,
                        const i64 *scratch, const Case *c) {
    enum { GUARD = 64 };
    for (u32 k = 0; k < p->kernels.n; k++) {
        const TKernel *kernel = &p->kernels.v[k];
        CpuKernel *run;
        *(void **)&run = ssd_module_symbol(mod, kernel->name);
        i64 blocks = 1;
        for (int g = 0; g < kernel->ngrid; g++)
            blocks *= ssd_ex_eval_sym(p, kernel->grid[g].size, sym);
        char *memory = aligned_alloc(64, (size_t)scratch[k] + GUARD);
        for (i64 i = 0; run && i < blocks; i++) {
            memset(memory, 0xff, (size_t)scratch[k] + GUARD);
            run(args, i, memory);
            bool clean = true;
            for (int g = 0; g < GUARD; g++) clean &= memory[scratch[k] + g] == (char)0xff;
            check(clean, "%s: kernel %s writes beyond its scratch", name_of(c), kernel->name);
        }
        free(memory);
    }
}

// Error bounds: a few roundings of f32 (sums run to 128 terms of size 1), one unit of a narrower
// output.
static double bound(u8 dtype, double most) {
    double unit = dtype == SSD_BF16 ? 0x1p-8 : dtype == SSD_F16 ? 0x1p-11 : 0;
    return most * (4e-6 + unit);
}

static void compare(const Case *c, const TTensor *t, const Array *want, const Array *t1,
                    const Buffer *b) {
    i64 size = (i64)ssd_dtype_size((ssd_dtype)t->dtype), n = ssd_array_count(want), at = -1;
    double most = 0, worst = 0, worst1 = 0;
    for (i64 k = 0; k < n; k++) most = fmax(most, fabs(want->v[k]));
    for (i64 k = 0; k < n; k++) {
        double got = get(b->raw + offset_of(want, b, k) * size, t->dtype), w = want->v[k];
        if (isnan(w) && isnan(got)) continue; // neither wrote it
        double e = fabs(got - w);
        if (!(e <= worst)) worst = isnan(e) ? INFINITY : e, at = k;
        worst1 = fmax(worst1, fabs(t1->v[k] - w));
        memcpy(b->before + offset_of(want, b, k) * size, b->raw + offset_of(want, b, k) * size,
               (size_t)size);
    }
    double limit = bound(t->dtype, most);
    check(worst <= limit, "%s: %s[%lld] is off by %.3g, %.3g allowed", name_of(c), t->name,
          (long long)at, worst, limit);
    check(worst1 <= limit, "%s: T1's %s differs from T0's by %.3g", name_of(c), t->name, worst1);
    check(!memcmp(b->before, b->raw, (size_t)b->bytes), "%s: %s is written between its elements",
          name_of(c), t->name);
}

static Prog *parse(Arena *a, const char *text, const char *file) {
    Diag d = {.arena = a, .file = file, .source = text, .source_len = strlen(text)};
    Prog *p = ssd_tile_parse(a, text, strlen(text), file, &d);
    Text out = {0};
    if (!p) ssd_diag_print(&d, &out);
    check(p != NULL, "%s: %s", file, out.s ? out.s : "");
    ssd_text_free(&out);
    return p;
}

static void run_case(const char *text, const Case *c) {
    Arena a = {0};
    Text why = {0};
    Prog *t0 = parse(&a, text, c->file), *t1 = parse(&a, text, c->file);
    if (!t0 || !t1) return;
    Unit u = {.arena = &a, .prog = t1, .machine = c->machine};
    ssd_pass_place(&u);
    ssd_pass_layout(&u);
    i64 sym[8] = {0};
    for (u32 i = 0; i < t1->syms.n; i++) sym[i] = !strcmp(t1->syms.v[i], "b") ? c->b : c->t;
    u32 n = t1->tensors.n;
    Array *in[2] = {NEWN(&a, Array, n), NEWN(&a, Array, n)};
    Buffer *buf = NEWN(&a, Buffer, n);
    void **ptr = NEWN(&a, void *, n);
    i64 *stride = NEWN(&a, i64, n * SSD_MAX_RANK), *dim = NEWN(&a, i64, n * SSD_MAX_RANK);
    int arg = 0;
    state = 88172645463325252ull;
    for (int ws = 0; ws < 2; ws++)
        for (u32 i = 1; i < n; i++) {
            const TTensor *t = &t1->tensors.v[i];
            if ((t->role == T_WS) != ws) continue;
            Array *x = &in[0][i];
            x->rank = t->rank;
            for (int d = 0; d < t->rank; d++)
                dim[arg * SSD_MAX_RANK + d] = x->dims[d] = ssd_ex_eval_sym(t1, t->dim[d], sym);
            x->v = NEWN(&a, double, ssd_array_count(x) + 1);
            make_tensor(t, ws ? 0 : c->gap, c->t, x, &buf[i]);
            in[1][i] = *x;
            in[1][i].v = NEWN(&a, double, ssd_array_count(x) + 1);
            memcpy(in[1][i].v, x->v, sizeof(double) * (size_t)ssd_array_count(x));
            memcpy(stride + arg * SSD_MAX_RANK, buf[i].stride, sizeof buf[i].stride);
            ptr[arg++] = buf[i].raw;
        }
    for (int k = 0; k < 2; k++) {
        TileRun run = {.round = true, .tensor = in[k]};
        memcpy(run.sym, sym, sizeof sym);
        bool ok = ssd_tile_interp(k ? t1 : t0, &a, &run, &why);
        check(ok, "%s: T%d: %s", name_of(c), k, why.s ? why.s : "");
        if (!ok) goto done;
    }
    TargetCode code;
    Module *mod = NULL;
    if (c->target->emit(&a, t1, c->machine, &code, &why))
        mod = ssd_module_load(code.bytes, code.size, &why);
    check(mod != NULL, "%s: %s", name_of(c), why.s ? why.s : "");
    if (!mod) goto done;
    CpuArgs args = {ptr, stride, dim, sym};
    run_kernels(t1, mod, &args, sym, code.scratch, c);
    for (u32 i = 1; i < n; i++) {
        if (t1->tensors.v[i].role == T_OUT)
            compare(c, &t1->tensors.v[i], &in[0][i], &in[1][i], &buf[i]);
        if (t1->tensors.v[i].role == T_IN)
            check(!memcmp(buf[i].before, buf[i].raw, (size_t)buf[i].bytes),
                  "%s: input %s was written", name_of(c), t1->tensors.v[i].name);
    }
    ssd_module_free(mod);
done:
    for (u32 i = 1; i < n; i++) free(buf[i].raw), free(buf[i].before);
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 1 << 16);
    if (f && text) text[fread(text, 1, (1 << 16) - 1, f)] = 0;
    check(f != NULL, "%s cannot be read", path);
    if (f) fclose(f);
    return text;
}

int main(int argc, char **argv) {
    static const char *const programs[] = {"access", "dtypes", "inv",    "loops", "mma",
                                           "reduce", "scan",   "shapes", "step",  "mamba2_q64"};
    static const i64 lengths[] = {37, 1, 16};
    for (size_t k = 0; k < COUNTOF(programs); k++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s.ssd",
                 argc > 1 ? argv[1] : SOURCE_DIR "/tests/codegen/programs", programs[k]);
        char *text = read_file(path);
        bool has_t = strstr(text, "sym b t") != NULL, large = !strcmp(programs[k], "mamba2_q64");
        for (int i = 0; i < ssd_target_count; i++) {
            Machine m;
            Text why = {0};
            bool runs = false, ok = ssd_targets[i].machine(&m, &why);
            if (ok) ssd_cpu_target(m.target, &runs);
            ssd_text_free(&why);
            if (!ok || !runs || !strcmp(ssd_targets[i].name, "cpu")) continue;
            for (i64 gap = 0; gap < 2; gap++)
                for (size_t l = 0; l < (has_t && !large ? COUNTOF(lengths) : 1); l++) {
                    Case c = {path,          &ssd_targets[i],         &m,
                              large ? 1 : 2, large ? 70 : lengths[l], gap};
                    run_case(text, &c);
                }
        }
        free(text);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
