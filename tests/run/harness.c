// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

// --- Counting -----------------------------------------------------------------------------------
static char label_text[512];
static int passed, failed, skipped;

static void on_crash(int sig) {
    static const char a[] = "crashed in: ", b[] = "\n0 passed, 1 failed\n";
    ssize_t ignored = write(1, a, sizeof a - 1);
    ignored += write(1, label_text, strlen(label_text));
    ignored += write(1, b, sizeof b - 1);
    (void)ignored;
    _exit(128 + sig);
}

// A sanitizer's report ends with what was being tried, too.
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));
static void on_report(void) { on_crash(SIGABRT); }

void label(const char *fmt, ...) {
    if (!label_text[0]) {
        if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(on_report);
        static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGALRM};
        for (size_t i = 0; i < COUNTOF(fatal); i++) signal(fatal[i], on_crash);
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(label_text, sizeof label_text, fmt, ap);
    va_end(ap);
}

bool check(bool ok, const char *fmt, ...) {
    if (ok) {
        passed++;
        return true;
    }
    if (++failed <= 40) {
        va_list ap;
        va_start(ap, fmt);
        printf("%s: ", label_text);
        vprintf(fmt, ap);
        printf("\n");
        va_end(ap);
        fflush(stdout);
    }
    return false;
}

void skip(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    printf("skipped: %s: ", label_text);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    skipped++;
}

int failures(void) { return failed; }

int closing_line(void) {
    printf("%d passed, %d failed", passed, failed);
    if (skipped) printf(", %d skipped", skipped);
    printf("\n");
    return failed != 0 || passed == 0;
}

// --- Layers -------------------------------------------------------------------------------------
static _Noreturn void broken(const char *what, const char *why) {
    printf("%s: %s: %s\n%d passed, %d failed\n", label_text, what, why ? why : "", passed,
           failed + 1);
    exit(1);
}

void layer_open_text(Layer *l, const char *name, const char *text, const char *mode,
                     const char *dims) {
    *l = (Layer){.name = name, .mode = mode};
    l->text = ssd_arena_dup(&l->arena, text, strlen(text));
    l->dims = dims ? ssd_arena_dup(&l->arena, dims, strlen(dims)) : NULL;
    Diag d = {.arena = &l->arena, .file = name, .source = l->text, .source_len = strlen(l->text)};
    Text why = {0};
    l->spec = ssd_spec_parse(&l->arena, l->text, strlen(l->text), name, l->dims, &d);
    if (l->spec && ssd_spec_has_mode(l->spec, mode))
        l->graph = ssd_spec_build(&l->arena, l->spec, mode, NULL, &d);
    if (d.errors || !l->spec) {
        ssd_diag_print(&d, &why);
        broken("not a spec", why.s);
    }
    if (!l->graph) return;
    l->n_in = ssd_spec_inputs(l->spec, mode, &l->in);
    l->n_out = ssd_spec_outputs(l->spec, mode, &l->out);
    l->packed = l->graph->packed;
}

static const char *read_text(Arena *a, const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) broken("cannot read", path);
    Text t = {0};
    char part[4096];
    for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0;) ssd_text_put(&t, part, n);
    fclose(f);
    const char *s = ssd_arena_dup(a, t.s ? t.s : "", t.n);
    ssd_text_free(&t);
    return s;
}

// Overrides that lower heads (and groups) so that a layer's state stays near 16k numbers: "" for
// none.
static void shrink(const Layer *l, char *out, size_t n) {
    i64 state = 1, heads = 1, groups = 1;
    const char *h = NULL, *g = NULL;
    for (u32 i = 1; i < l->graph->axes.n; i++) {
        const Axis *x = &l->graph->axes.v[i];
        if (x->size < 0) continue;
        if (x->kind == AX_HEAD)
            heads = x->size, h = x->name;
        else if (x->kind == AX_GROUP)
            groups = x->size, g = x->name;
        else if (x->kind == AX_FEATURE && x->size < 512)
            state *= x->size;
    }
    *out = 0;
    if (!h || heads <= 3 || heads * state <= 32768) return;
    i64 fewer = g && groups > 1 ? 2 : 1, now = g ? 2 * fewer : 2;
    if (g && groups == heads) now = fewer;
    if (g && groups > 1)
        snprintf(out, n, "%s=%ld %s=%ld", h, (long)now, g, (long)fewer);
    else
        snprintf(out, n, "%s=%ld", h, (long)now);
}

bool layer_open(Layer *l, const char *path, const char *mode, const char *dims) {
    Arena a = {0};
    char less[64];
    const char *text = read_text(&a, path), *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    layer_open_text(l, name, text, mode, dims && strcmp(dims, "shrink") ? dims : NULL);
    if (l->graph && dims && !strcmp(dims, "shrink")) {
        shrink(l, less, sizeof less);
        if (*less) {
            layer_close(l);
            layer_open_text(l, name, text, mode, less);
        }
    }
    ssd_arena_free(&a);
    if (l->graph) return true;
    layer_close(l);
    return false;
}

void layer_close(Layer *l) {
    ssd_arena_free(&l->arena);
    l->graph = NULL;
}

const SpecTensor *layer_tensor(const Layer *l, const char *name, bool output) {
    const SpecTensor *v = output ? l->out : l->in;
    for (int i = 0, n = output ? l->n_out : l->n_in; i < n; i++)
        if (!strcmp(v[i].name, name)) return &v[i];
    return NULL;
}

// --- Values -------------------------------------------------------------------------------------
Array *value(Values v, const char *name) {
    for (int i = 0; i < v.n; i++)
        if (!strcmp(v.v[i].name, name)) return &v.v[i].a;
    return NULL;
}

void drop_value(Values *v, const char *name) {
    for (int i = 0; i < v->n; i++)
        if (!strcmp(v->v[i].name, name)) {
            memmove(&v->v[i], &v->v[i + 1], sizeof *v->v * (size_t)(v->n - i - 1));
            v->n--;
            return;
        }
}

Values copy_values(Arena *a, Values v) {
    Values c = {NEWN(a, NamedArray, v.n + 1), v.n};
    for (int i = 0; i < v.n; i++) {
        size_t bytes = sizeof(double) * (size_t)ssd_array_count(&v.v[i].a);
        c.v[i] = v.v[i];
        c.v[i].a.v = ssd_arena_alloc(a, bytes + 1);
        memcpy(c.v[i].a.v, v.v[i].a.v, bytes);
    }
    return c;
}

Values draw(Arena *a, const Layer *l, Sizes z, u64 seed) {
    HostSet set;
    Text why = {0};
    if (!ssd_host_make(a, l->in, l->n_in, &z, NULL, &set, &why)) broken("inputs", why.s);
    ssd_random_inputs(l->in, l->n_in, &set, z.t, seed);
    Values v = {NEWN(a, NamedArray, set.n + 1), set.n};
    for (int i = 0; i < set.n; i++) {
        v.v[i].name = set.v[i].name;
        ssd_host_array(a, &set.v[i], &v.v[i].a);
    }
    ssd_host_drop(&set);
    return v;
}

Values meaning(Arena *a, const Layer *l, Values in, Sizes z) {
    Text why = {0};
    Values v = {NEWN(a, NamedArray, l->graph->outs.n + 1), (int)l->graph->outs.n};
    InterpOptions o = {MEAN_RECURRENCE, z.b, z.t};
    if (!ssd_graph_interp(l->graph, a, in.v, in.n, &o, v.v, &why)) broken("interpreter", why.s);
    return v;
}

i64 index_along(const SpecTensor *st, const Array *a, const char *axis, i64 i) {
    for (int d = a->rank - 1; d >= 0; d--) {
        if (!strcmp(st->axis[d], axis)) return i % a->dims[d];
        i /= a->dims[d];
    }
    return -1;
}

void round_values(const Layer *l, Values in) {
    for (int i = 0; i < in.n; i++) {
        ssd_dtype d = layer_tensor(l, in.v[i].name, false)->dtype;
        double cell;
        for (i64 k = 0; k < ssd_array_count(&in.v[i].a); k++) {
            ssd_host_store(&cell, d, 0, in.v[i].a.v[k]);
            in.v[i].a.v[k] = ssd_host_load(&cell, d, 0);
        }
    }
}

// --- Guarded memory -----------------------------------------------------------------------------
static size_t page_round(size_t n) { return (n + 4095) & ~(size_t)4095; }

void *guarded(size_t bytes, bool at_start) {
    size_t inner = page_round(bytes);
    char *p = mmap(NULL, inner + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) broken("no memory", NULL);
    if (inner && mprotect(p + 4096, inner, PROT_READ | PROT_WRITE) != 0) broken("mprotect", NULL);
    return p + 4096 + (at_start ? 0 : inner - bytes);
}

void unguard(void *p, size_t bytes) {
    uintptr_t first = (uintptr_t)p & ~(uintptr_t)4095;
    munmap((char *)p - ((uintptr_t)p - first) - 4096, page_round(bytes) + 8192);
}

// --- Tensors of any layout ----------------------------------------------------------------------
const char *const layout_names[LAYOUTS] = {"dense",  "padded",     "negative", "reversed",
                                           "spaced", "misaligned", "far"};
enum { GAP = 0xA5 }; // bytes no tensor owns; as bf16, f16 or f32 they are tiny negative numbers

typedef struct Placed {
    const char *name;
    ssd_tensor view;
    const SpecTensor *st;
    bool output;
    void *memory, *own;     // guarded; reserved
    size_t bytes, reserved; // reserved: of a far tensor, whose bytes are 0
    u8 *before;             // what inputs held before the launch
} Placed;

static i64 offset_of(const ssd_tensor *t, i64 i) {
    i64 at = 0;
    for (int d = t->rank - 1; d >= 0; d--) {
        at += i % t->dims[d] * t->strides[d];
        i /= t->dims[d];
    }
    return at;
}

static i64 tensor_count(const ssd_tensor *t) {
    i64 n = 1;
    for (int d = 0; d < t->rank; d++) n *= t->dims[d];
    return n;
}

static void set_strides(ssd_tensor *t, Layout layout) {
    i64 at = layout == SPACED ? 2 : 1;
    for (int i = 0; i < t->rank; i++) {
        int d = layout == REVERSED ? i : t->rank - 1 - i;
        if (layout == FAR && d == MIN(1, t->rank - 1)) at = ((i64)1 << 32) + 5;
        t->strides[d] = layout == NEGATIVE ? -at : at;
        at *= t->dims[d] + (layout == PADDED ? 3 - i % 2 : 0);
    }
}

static Placed place(const SpecTensor *st, const Array *dims, bool output, Layout layout,
                    const How *how) {
    Placed p = {.name = st->name, .st = st, .output = output};
    p.view = (ssd_tensor){.dtype = st->dtype, .rank = dims->rank};
    for (int d = 0; d < dims->rank; d++) p.view.dims[d] = dims->dims[d];
    set_strides(&p.view, layout);
    if (!output && how->broadcast && dims->rank > 1)
        p.view.strides[(how->broadcast - 1) % dims->rank] = 0;
    i64 lo = 0, hi = 0, es = (i64)ssd_dtype_size(st->dtype);
    for (int d = 0; d < p.view.rank; d++) {
        i64 far = (p.view.dims[d] - 1) * p.view.strides[d];
        if (far < 0)
            lo += far;
        else
            hi += far;
    }
    if (layout == FAR && tensor_count(&p.view)) {
        p.reserved = (size_t)((hi + 1) * es);
        p.view.data = mmap(NULL, p.reserved, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p.view.data == MAP_FAILED) return place(st, dims, output, PADDED, how);
        p.own = p.view.data;
        return p;
    }
    i64 odd = layout == MISALIGNED ? 3 : 0; // elements off a page, so of a vector
    p.bytes = tensor_count(&p.view) == 0 ? 0 : (size_t)((hi - lo + 1 + odd) * es);
    p.memory = guarded(p.bytes, how->at_start || layout == MISALIGNED);
    memset(p.memory, GAP, p.bytes);
    p.view.data = (char *)p.memory + (p.bytes ? (odd - lo) * es : 0);
    return p;
}

static void set_elements(Placed *p, const Array *a) {
    i64 n = tensor_count(&p->view);
    for (i64 i = 0; i < n; i++)
        ssd_host_store(p->view.data, p->view.dtype, offset_of(&p->view, i),
                       a ? a->v[i] : (double)NAN);
}

// The gaps of an output, and all of an input, are as they were.
static void check_untouched(const Placed *p) {
    const u8 *m = p->memory;
    if (!p->output) {
        check(memcmp(m, p->before, p->bytes) == 0, "input '%s' was written", p->name);
        return;
    }
    u8 *owned = calloc(p->bytes + 1, 1);
    size_t es = ssd_dtype_size(p->view.dtype),
           base = (size_t)((char *)p->view.data - (char *)p->memory);
    i64 n = tensor_count(&p->view);
    for (i64 i = 0; i < n; i++) memset(owned + (i64)base + offset_of(&p->view, i) * (i64)es, 1, es);
    size_t bad = 0;
    while (bad < p->bytes && (owned[bad] || m[bad] == GAP)) bad++;
    check(bad == p->bytes, "a byte beside output '%s' was written, at %zu of %zu", p->name, bad,
          p->bytes);
    free(owned);
}

ssd_kernel *compile(ssd_context *cx, const Layer *l, const char *schedule, const char *target,
                    const char *absent) {
    ssd_compile_options o = {.spec = l->text,
                             .spec_name = l->name,
                             .mode = l->mode,
                             .target = target,
                             .schedule = schedule,
                             .dims = l->dims,
                             .absent = absent};
    ssd_kernel *k = NULL;
    ssd_status s = ssd_compile(cx, &o, &k);
    if (s == SSD_UNSUPPORTED) return NULL;
    check(s == SSD_OK, "compile: %s: %s", ssd_status_name(s), ssd_last_error());
    return k;
}

static bool run_placed(ssd_kernel *k, Placed *v, int n, const How *how) {
    ssd_arg args[64];
    size_t bytes;
    for (int i = 0; i < n; i++) args[i] = (ssd_arg){v[n - 1 - i].name, v[n - 1 - i].view};
    ssd_status s = ssd_kernel_workspace(k, args, n, &bytes);
    if (!check(s == SSD_OK, "workspace: %s: %s", ssd_status_name(s), ssd_last_error()))
        return false;
    void *ws = NULL;
    if (how->own_workspace) {
        ws = guarded(page_round(bytes), bytes % 64 != 0);
        if (bytes % 64 == 0) ws = (char *)ws + page_round(bytes) - bytes;
        memset(ws, 0xff, bytes); // NaN
    }
    s = ssd_launch(k, args, n, ws, how->own_workspace ? bytes : 0);
    if (ws) unguard(ws, bytes);
    return check(s == SSD_OK, "launch: %s: %s", ssd_status_name(s), ssd_last_error());
}

Values launch(Arena *a, ssd_kernel *k, const Layer *l, Values in, Sizes z, const How *how) {
    Placed v[64];
    Values out = {NEWN(a, NamedArray, 64), 0};
    int n = 0, count = ssd_kernel_param_count(k);
    for (int i = 0; i < count; i++) {
        ssd_param p;
        if (ssd_kernel_param(k, i, &p) != SSD_OK || n == 64) broken("parameter", ssd_last_error());
        bool output = p.role == SSD_OUTPUT;
        const SpecTensor *st = layer_tensor(l, p.name, output);
        if (!st || p.dtype != st->dtype || p.rank != st->naxes)
            broken("not the spec's parameter", p.name);
        Array dims = {.rank = st->naxes};
        i64 elements;
        if (!ssd_host_dims(st, &z, dims.dims, &elements)) broken("size", p.name);
        Layout layout = how->mixed ? (Layout)(((int)how->layout + i) % LAYOUTS) : how->layout;
        v[n] = place(st, &dims, output, layout, how);
        const Array *given = output ? NULL : value(in, p.name);
        if (!output && !given) broken("no value for", p.name);
        set_elements(&v[n++], given);
    }
    for (u32 i = 0; how->in_place && i < l->graph->states.n; i++) {
        const GraphState *s = &l->graph->states.v[i];
        int from = -1, to = -1;
        for (int k2 = 0; k2 < n; k2++) {
            if (s->in_name && !v[k2].output && !strcmp(v[k2].name, s->in_name)) from = k2;
            if (s->out_name && v[k2].output && !strcmp(v[k2].name, s->out_name)) to = k2;
        }
        if (from >= 0 && to >= 0) v[to].view = v[from].view;
    }
    for (int i = 0; i < n; i++) {
        v[i].before = malloc(v[i].bytes + 1);
        if (v[i].bytes) memcpy(v[i].before, v[i].memory, v[i].bytes);
    }
    bool ok = run_placed(k, v, n, how);
    for (int i = 0; i < n; i++) {
        bool shared = false;
        for (int j = 0; j < n; j++) shared |= j != i && v[j].view.data == v[i].view.data;
        if (!shared && !v[i].reserved) check_untouched(&v[i]);
        if (v[i].output) {
            NamedArray *o = &out.v[out.n++];
            o->name = v[i].st->name;
            o->a.rank = v[i].view.rank;
            memcpy(o->a.dims, v[i].view.dims, sizeof o->a.dims);
            i64 c = tensor_count(&v[i].view);
            o->a.v = NEWN(a, double, c + 1);
            for (i64 e = 0; e < c; e++)
                o->a.v[e] =
                    ssd_host_load(v[i].view.data, v[i].view.dtype, offset_of(&v[i].view, e));
        }
    }
    for (int i = 0; i < n; i++) {
        free(v[i].before);
        if (v[i].reserved)
            munmap(v[i].own, v[i].reserved);
        else
            unguard(v[i].memory, v[i].bytes);
    }
    if (!ok) out.n = 0;
    return out;
}

// --- Comparing ----------------------------------------------------------------------------------
// Bounds of DESIGN section 7 by the narrowest dtype on an output's way, and why:
//   f32   1e-5 of the largest value: sums of some thousand f32 products, and exp of f32 sums of
//   decays bf16  4e-3 rms: half an ulp is 2^-9 of a value, uniform: 1.1e-3 rms, the rest for bf16
//   products f16   1e-3 rms: half an ulp is 2^-12
// and twice the rms bound in max norm for a single element.
static double bound_of(ssd_dtype d, bool *rms) {
    *rms = d != SSD_F32;
    return d == SSD_BF16 ? 4e-3 : d == SSD_F16 ? 1e-3 : 1e-5;
}

bool near(const Layer *l, Values got, Values want, double slack) {
    bool all = true;
    for (int i = 0; i < got.n; i++) {
        const Array *g = &got.v[i].a, *w = value(want, got.v[i].name);
        if (!w) broken("no meaning of", got.v[i].name);
        bool rms;
        double bound = bound_of(layer_tensor(l, got.v[i].name, true)->dtype, &rms);
        if (!rms) bound *= slack;
        double max = 0, sum = 0, far = 0, far2 = 0;
        i64 n = ssd_array_count(w), at = 0;
        if (!check(n == ssd_array_count(g), "output '%s' has another size", got.v[i].name))
            continue;
        for (i64 k = 0; k < n; k++) {
            double d = fabs(g->v[k] - w->v[k]);
            max = fmax(max, fabs(w->v[k]));
            sum += w->v[k] * w->v[k];
            far2 += d * d;
            if (!(d <= far)) far = d, at = k; // a NaN stays
            if (isnan(d)) break;
        }
        double error = rms ? sqrt(far2) / fmax(sqrt(sum), 1e-30) : far / fmax(max, 1e-30);
        bool ok = n == 0 || (error <= bound && far <= (rms ? 2 : 1) * bound * fmax(max, 1e-30));
        all &= check(
            ok, "output '%s': error %.3g, bound %.3g (%s); element %ld is %.9g, should be %.9g",
            got.v[i].name, error, bound, rms ? "rms" : "of max", (long)at, n ? g->v[at] : 0,
            n ? w->v[at] : 0);
    }
    return all && got.n > 0;
}

bool same_bits(Values a, Values b) {
    for (int i = 0; i < a.n; i++) {
        const Array *x = &a.v[i].a, *y = value(b, a.v[i].name);
        for (i64 k = 0; y && k < ssd_array_count(x); k++)
            if (memcmp(&x->v[k], &y->v[k], sizeof(double)) != 0)
                return check(false, "output '%s' element %ld: %.9g and %.9g differ", a.v[i].name,
                             (long)k, x->v[k], y->v[k]);
        if (!y) return check(false, "output '%s' is missing", a.v[i].name);
    }
    return check(a.n > 0 && a.n == b.n, "nothing to compare");
}

// --- What a graph says --------------------------------------------------------------------------
bool graph_causal(const Graph *g) {
    for (u32 i = 1; i < g->nodes.n; i++) {
        const Node *n = &g->nodes.v[i];
        if (n->op == OP_SSD && (n->time != TIME_FWD || n->flags & SSD_FULL)) return false;
        if (n->op == OP_SHIFT && n->k < 0) return false;
        if ((n->op == OP_SUM || n->op == OP_AMAX) && g->axes.v[n->a0].kind == AX_TIME) return false;
    }
    return true;
}

bool graph_splits(const Layer *l) {
    const Graph *g = l->graph;
    u32 crossing = 0, both = 0;
    for (u32 i = 1; i < g->nodes.n; i++) {
        const Node *n = &g->nodes.v[i];
        crossing += n->op == OP_SSD || n->op == OP_SHIFT || n->op == OP_SCAN;
        if ((n->op == OP_INDEX || n->op == OP_SIZE) && g->axes.v[n->a0].kind == AX_TIME)
            return false;
    }
    for (u32 i = 0; i < g->states.n; i++) {
        const GraphState *s = &g->states.v[i];
        both += s->in_name && s->out_name && layer_tensor(l, s->in_name, false) &&
                layer_tensor(l, s->out_name, true);
    }
    return graph_causal(g) && crossing > 0 && both >= crossing;
}

// Degree of a node in one input: 0 independent, 1 linear, 2 anything else; -1: zero whatever (an
// initial state, which the test sets to zero).
static int degree(const Graph *g, Ref r, Ref input, const int *deg) {
    const Node *n = &g->nodes.v[r];
    int d[5];
    for (int i = 0; i < 5; i++) d[i] = n->arg[i] ? deg[n->arg[i]] : 0;
    switch ((OpCode)n->op) {
    case OP_IN:
        if (r == input) return 1;
        for (u32 i = 0; i < g->states.n; i++)
            if (g->states.v[i].init == r) return -1;
        return 0;
    case OP_CONST: return n->val == 0 ? -1 : 0;
    case OP_INDEX:
    case OP_SIZE: return 0;
    case OP_FN:
        if (n->fn == FN_ADD || n->fn == FN_SUB)
            return d[0] < 0 ? d[1] : d[1] < 0 ? d[0] : d[0] == d[1] ? d[0] : 2;
        if (n->fn == FN_MUL) return d[0] < 0 || d[1] < 0 ? -1 : MIN(d[0] + d[1], 2);
        if (n->fn == FN_DIV) return d[1] == 0 ? d[0] : 2;
        if (n->fn == FN_NEG) return d[0];
        return d[0] <= 0 && d[1] <= 0 && d[2] <= 0 ? 0 : 2;
    case OP_AMAX: return d[0] <= 0 ? d[0] : 2;
    case OP_SHIFT:
    case OP_SCAN:
        if (n->op == OP_SCAN && n->flags) return d[0] <= 0 ? d[0] : 2;
        return !n->arg[1] || d[1] < 0 ? d[0] : d[0] == d[1] ? d[0] : 2;
    case OP_CAT: return d[0] < 0 ? d[1] : d[1] < 0 || d[0] == d[1] ? d[0] : 2;
    case OP_SSD: {
        if (d[3] > 0 || (n->arg[4] && d[4] >= 0)) return 2;
        if (d[0] < 0 || d[1] < 0 || d[2] < 0) return -1;
        return MIN(d[0] + d[1] + d[2], 2);
    }
    case OP_FINAL: { // an ssd's state does not know the query
        const Node *of = &g->nodes.v[n->arg[0]];
        if (of->op != OP_SSD || d[0] < 0 || d[0] > 1) return d[0];
        return MAX(deg[of->arg[1]], 0) + MAX(deg[of->arg[2]], 0);
    }
    case OP_CAST:
    case OP_SUM:
    case OP_SLICE:
    case OP_SPREAD:
    case OP_FOLD:
    case OP_SWAP: return d[0];
    case OP__COUNT: break;
    }
    return 2;
}

bool graph_linear(const Layer *l, int i, const char **out_input, const char **out_output) {
    const Graph *g = l->graph;
    int *deg = calloc(g->nodes.n, sizeof *deg);
    bool found = false;
    *out_input = g->names.v[g->nodes.v[g->ins.v[i]].name];
    for (u32 r = 1; r < g->nodes.n; r++) deg[r] = degree(g, r, g->ins.v[i], deg);
    for (u32 o = 0; o < g->outs.n && !found; o++) {
        found = deg[g->outs.v[o].ref] == 1;
        *out_output = g->outs.v[o].name;
    }
    free(deg);
    return found;
}
