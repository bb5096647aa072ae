// SPDX-License-Identifier: Apache-2.0
#include "verify.h"

#include "child.h"
#include "compile.h"
#include "device.h"
#include "random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

// --- Sizes small enough for double -------------------------------------------------------------
static double extent(const Graph *g, AxisId x, const Sizes *z) {
    const Axis *ax = &g->axes.v[x];
    if (ax->size >= 0) return (double)ax->size;
    return ax->kind == AX_TIME ? (double)z->t : ax->kind == AX_SEQ ? (double)z->s : (double)z->b;
}

// Seconds the interpreter takes for the recurrence: elements touched, at about 1.5 ns each.
static double cost(const Graph *g, const Sizes *z) {
    double sum = 0;
    for (Ref r = 1; r < g->nodes.n; r++) {
        const Node *n = ssd_graph_node(g, r);
        double count = 1;
        for (int d = 0; d < n->naxes; d++) count *= extent(g, n->ax[d], z);
        if (n->op == OP_SSD) {
            SsdAxes ax = ssd_graph_ssd_axes(g, r);
            for (int d = 0; d < ax.nkey; d++) count *= extent(g, ax.key[d], z);
            count *= 2;
        }
        sum += count;
    }
    return 1.5e-9 * sum;
}

// What was not given: two rows (three packed sequences), and the longest of these lengths that the
// budget allows. None is a multiple of a usual chunk, so the last chunk is always a partial one.
static void choose_sizes(const Graph *g, double budget, bool step, Sizes *z) {
    static const i64 lengths[] = {200, 131, 67, 35, 19};
    if (z->b < 0) z->b = g->packed ? 1 : 2;
    if (z->s < 0) z->s = 3;
    if (step && z->t < 0) z->t = 1;
    for (size_t i = 0, open = z->t < 0; open && i < COUNTOF(lengths); i++) {
        z->t = lengths[i];
        if (cost(g, z) <= budget) break;
    }
}

static void print_shape(Trial *t, const char *dims) {
    bool step = t->graph->step;
    int n = snprintf(t->shape, sizeof t->shape, "b=%lld", (long long)t->sizes.b);
    char *p = t->shape;
    size_t cap = sizeof t->shape;
    if (!step) n += snprintf(p + n, cap - (size_t)n, " t=%lld", (long long)t->sizes.t);
    if (t->graph->packed) n += snprintf(p + n, cap - (size_t)n, " s=%lld", (long long)t->sizes.s);
    if (dims) snprintf(p + n, cap - (size_t)n, " %s", dims);
}

// --- A trial -----------------------------------------------------------------------------------
static bool parse_and_build(Trial *t, Text *why) {
    const TrialOptions *o = &t->opt;
    const char *file = o->spec_name ? o->spec_name : "<spec>";
    size_t n = strlen(o->spec);
    Diag d = {.arena = &t->arena, .file = file, .source = o->spec, .source_len = n};
    t->spec = ssd_spec_parse(&t->arena, o->spec, n, file, o->sizes.dims, &d);
    if (t->spec && !ssd_spec_has_mode(t->spec, o->mode)) {
        ssd_text_printf(why, "%s: has no mode '%s'", file, o->mode);
        return false;
    }
    if (t->spec) t->graph = ssd_spec_build(&t->arena, t->spec, o->mode, o->absent, &d);
    if (!t->graph) ssd_diag_print(&d, why);
    return t->graph != NULL;
}

static NamedArray *named_inputs(Trial *t) {
    NamedArray *in = NEWN(&t->arena, NamedArray, t->in.n + 1);
    for (int i = 0; i < t->in.n; i++) {
        in[i].name = t->in.v[i].name;
        ssd_host_array(&t->arena, &t->in.v[i], &in[i].a);
    }
    return in;
}

// The meaning, in the order of t->out; NULL with a message.
static NamedArray *meaning(Trial *t, Meaning how, Text *why) {
    Graph *g = t->graph;
    NamedArray *got = NEWN(&t->arena, NamedArray, g->outs.n + 1);
    NamedArray *want = NEWN(&t->arena, NamedArray, t->out.n + 1);
    InterpOptions opt = {how, t->sizes.b, t->sizes.t};
    if (!ssd_graph_interp(g, &t->arena, named_inputs(t), t->in.n, &opt, got, why)) return NULL;
    for (int i = 0; i < t->out.n; i++) {
        for (u32 k = 0; k < g->outs.n; k++)
            if (strcmp(got[k].name, t->out.v[i].name) == 0) want[i] = got[k];
        if (!want[i].name) {
            ssd_text_printf(why, "the graph has no output '%s'", t->out.v[i].name);
            return NULL;
        }
        if (ssd_array_count(&want[i].a) != t->out.v[i].count) {
            ssd_text_printf(why, "output '%s' has %lld elements in the graph, %lld in the spec",
                            want[i].name, (long long)ssd_array_count(&want[i].a),
                            (long long)t->out.v[i].count);
            return NULL;
        }
    }
    return want;
}

ssd_status ssd_trial_open(Trial *t, const TrialOptions *o, Text *why) {
    *t = (Trial){.opt = *o, .sizes = o->sizes};
    jmp_buf oom;
    ssd_status s;
    if (setjmp(oom)) {
        ssd_text_printf(why, "out of memory");
        s = SSD_OUT_OF_MEMORY;
        goto fail;
    }
    t->arena.oom = &oom;
    s = SSD_INVALID_SPEC;
    if (!parse_and_build(t, why)) goto fail;
    choose_sizes(t->graph, o->budget > 0 ? o->budget : 1, t->graph->step, &t->sizes);
    print_shape(t, o->sizes.dims);
    t->n_spec_in = ssd_spec_inputs(t->spec, o->mode, &t->spec_in);
    t->n_spec_out = ssd_spec_outputs(t->spec, o->mode, &t->spec_out);
    s = SSD_INVALID_ARGUMENT;
    if (!ssd_host_make(&t->arena, t->spec_in, t->n_spec_in, &t->sizes, o->absent, &t->in, why) ||
        !ssd_host_make(&t->arena, t->spec_out, t->n_spec_out, &t->sizes, o->absent, &t->out, why))
        goto fail;
    ssd_random_inputs(t->spec_in, t->n_spec_in, &t->in, t->sizes.t, o->seed);
    t->want = meaning(t, MEAN_RECURRENCE, why);
    if (!t->want) goto fail;
    t->arena.oom = NULL;
    return SSD_OK;
fail:
    ssd_trial_close(t);
    return s;
}

void ssd_trial_close(Trial *t) {
    ssd_host_drop(&t->in);
    ssd_host_drop(&t->out);
    ssd_arena_free(&t->arena);
    *t = (Trial){0};
}

// max|a - b| / max|b|, or max|a - b| where b is zero everywhere.
static double max_norm_error(const double *a, const double *b, i64 n) {
    double diff = 0, norm = 0;
    for (i64 i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return (double)INFINITY;
        diff = fmax(diff, fabs(a[i] - b[i]));
        norm = fmax(norm, fabs(b[i]));
    }
    return norm > 0 ? diff / norm : diff;
}

bool ssd_trial_agree(Trial *t, double *out_error, Text *why) {
    NamedArray *dense = meaning(t, MEAN_DENSE, why);
    *out_error = 0;
    for (int i = 0; dense && i < t->out.n; i++)
        *out_error =
            fmax(*out_error, max_norm_error(dense[i].a.v, t->want[i].a.v, t->out.v[i].count));
    return dense != NULL;
}

// --- Running: the lowered program in the interpreter, or a kernel ------------------------------
// "ref" stops in front of placing, "ref1" behind the last pass.
static bool is_placed(const char *target) { return target[3] == '1'; }
static const char *last_pass_of(const char *target) {
    int last = ssd_pass_count - 1;
    for (int i = 1; i < ssd_pass_count && !is_placed(target); i++)
        if (strcmp(ssd_passes[i].name, "place") == 0) last = i - 1;
    return ssd_passes[last].name;
}

// The target that the program is lowered for: "ref1:sm_90a".
static const char *lowered_for(const char *target) {
    const char *colon = strchr(target, ':');
    return colon ? colon + 1 : "cpu";
}

bool ssd_verify_is_ref(const char *target) {
    if (!target || strncmp(target, "ref", 3)) return false;
    const char *rest = target + (is_placed(target) ? 4 : 3);
    return !*rest || *rest == ':';
}

static ssd_compile_options compile_options(const Trial *t, const char *target,
                                           const char *schedule) {
    return (ssd_compile_options){.spec = t->opt.spec,
                                 .spec_name = t->opt.spec_name,
                                 .mode = t->opt.mode,
                                 .target = target,
                                 .schedule = schedule,
                                 .dims = t->opt.sizes.dims,
                                 .absent = t->opt.absent};
}

static void note_schedule(Trial *t, const char *text) {
    Text why = {0};
    t->schedule = ssd_arena_dup(&t->arena, text, strlen(text));
    if (!ssd_schedule_parse(t->schedule, &t->ran, &why))
        SSD_BUG("a compiled schedule does not parse: %s", why.s);
    ssd_text_free(&why);
}

// On GPUs, products whose operands were narrow in memory are made by tensor cores, from narrow
// operands. The recurrence has none.
static ssd_dtype products_of(const Trial *t, bool gpu) {
    ssd_dtype narrowest = SSD_F32;
    bool mma = gpu && t->ran.form != FORM_RECURRENT;
    for (int i = 0; i < t->in.n && mma; i++) {
        ssd_dtype d = t->in.v[i].view.dtype;
        if (d == SSD_BF16 || (d == SSD_F16 && narrowest == SSD_F32)) narrowest = d;
    }
    return narrowest;
}

static ssd_status run_tiles(Trial *t, const char *target, const char *schedule, Text *why) {
    Arena a = {0};
    Compiled c = {0};
    ssd_compile_options o = compile_options(t, lowered_for(target), schedule);
    ssd_status s = ssd_compile_spec(&a, &o, last_pass_of(target), NULL, NULL, &c);
    if (s != SSD_OK) {
        ssd_text_printf(why, "%s", ssd_last_error());
        ssd_arena_free(&a);
        return s;
    }
    const Prog *p = c.unit.prog;
    TileRun run = {.round = true, .tensor = NEWN(&a, Array, p->tensors.n)};
    for (u32 i = 0; i < p->syms.n; i++)
        run.sym[i] = p->syms.v[i][0] == 'b'   ? t->sizes.b
                     : p->syms.v[i][0] == 's' ? t->sizes.s
                                              : t->sizes.t;
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *x = &p->tensors.v[i];
        const HostTensor *h =
            x->role == T_WS ? NULL : ssd_host_find(x->role == T_IN ? &t->in : &t->out, x->name);
        if (h) ssd_host_array(&a, h, &run.tensor[i]);
    }
    if (ssd_tile_interp(p, &a, &run, why)) {
        for (u32 i = 1; i < p->tensors.n; i++) {
            const TTensor *x = &p->tensors.v[i];
            const HostTensor *h = x->role == T_OUT ? ssd_host_find(&t->out, x->name) : NULL;
            for (i64 k = 0; h && k < h->count; k++)
                ssd_host_store(h->view.data, h->view.dtype, k, run.tensor[i].v[k]);
        }
        Text text = {0};
        ssd_schedule_print(&c.unit.schedule, &text);
        note_schedule(t, text.s ? text.s : "");
        ssd_text_free(&text);
        t->products = products_of(t, c.unit.machine->gpu);
    } else {
        s = SSD_INTERNAL;
    }
    ssd_arena_free(&a);
    return s;
}

static ssd_status run_kernel(Trial *t, ssd_context *ctx, const char *target, const char *schedule,
                             Text *why) {
    ssd_compile_options o = compile_options(t, target, schedule);
    ssd_kernel *k = NULL;
    ssd_status s = ssd_child_compile(ctx, &o, &k);
    if (s == SSD_OK) {
        int n = ssd_kernel_param_count(k), used = 0;
        ssd_arg *args = NEWN(&t->arena, ssd_arg, n + 1);
        for (int i = 0; i < n; i++) {
            ssd_param p;
            ssd_kernel_param(k, i, &p);
            const HostTensor *h = ssd_host_find(p.role == SSD_INPUT ? &t->in : &t->out, p.name);
            if (h) args[used++] = (ssd_arg){h->name, h->view};
        }
        note_schedule(t, ssd_kernel_schedule(k));
        t->products = products_of(t, ssd_target_is_cuda(ssd_kernel_target(k)));
        s = ssd_device_launch(k, args, used);
    }
    if (s != SSD_OK) ssd_text_printf(why, "%s", ssd_last_error());
    ssd_kernel_destroy(k);
    return s;
}

ssd_status ssd_trial_run(Trial *t, ssd_context *ctx, const char *target, const char *schedule,
                         Text *why) {
    for (int i = 0; i < t->out.n; i++) ssd_host_poison(&t->out.v[i]);
    t->products = SSD_F32;
    return ssd_verify_is_ref(target) ? run_tiles(t, target, schedule, why)
                                     : run_kernel(t, ctx, target, schedule, why);
}

// --- Bounds -------------------------------------------------------------------------------------
// By the output's own dtype: CPU kernels widen what they load and compute in f32, so nothing but
// the store of a narrow output rounds. A target whose products round their operands is bounded by
// the narrowest of them.
static void set_bound(TrialError *e, const Schedule *ran, i64 t) {
    i64 chunk = ran->form == FORM_CHUNKED ? ran->q : ran->form == FORM_QUADRATIC ? t : 1;
    switch (e->dtype) {
    case SSD_BF16: // a store rounds by 2^-9 of the value at most, 1.7e-3 rms; the contract allows a
                   // second rounding inside. Worst element: five sigma of that.
        *e = (TrialError){.norm = "rms", .bound = 4e-3, .max_bound = 1e-2, .dtype = SSD_BF16};
        return;
    case SSD_F16: // three bits more: 2.1e-4 rms a rounding
        *e = (TrialError){.norm = "rms", .bound = 1e-3, .max_bound = 2.5e-3, .dtype = SSD_F16};
        return;
    default: // 24 bits: 6e-8 an operation, times the size of the exponents: a decay of A = -16
             // reaches 1.6 a token, so a sum over more than 64 tokens loses another factor of ten
        e->norm = "max";
        e->bound = e->max_bound = chunk > 64 ? 1e-4 : 1e-5;
    }
}

TrialError ssd_trial_error(const Trial *t, int i) {
    const HostTensor *h = &t->out.v[i];
    const double *want = t->want[i].a.v;
    TrialError e = {.dtype = h->view.dtype};
    if (t->products == SSD_BF16 || (t->products == SSD_F16 && e.dtype == SSD_F32))
        e.dtype = t->products;
    set_bound(&e, &t->ran, t->sizes.t);
    double diff = 0, norm = 0, diff2 = 0, norm2 = 0;
    bool finite = true;
    for (i64 k = 0; k < h->count; k++) {
        double got = ssd_host_load(h->view.data, h->view.dtype, k), d = fabs(got - want[k]);
        finite &= isfinite(d) != 0;
        diff = fmax(diff, d);
        norm = fmax(norm, fabs(want[k]));
        diff2 += d * d;
        norm2 += want[k] * want[k];
    }
    e.max_error = !finite ? (double)NAN : norm > 0 ? diff / norm : diff;
    e.error = !finite            ? (double)NAN
              : e.norm[0] == 'm' ? e.max_error
              : norm2 > 0        ? sqrt(diff2 / norm2)
                                 : sqrt(diff2);
    e.ok = finite && e.error <= e.bound && e.max_error <= e.max_bound;
    return e;
}

// --- A spec as a whole --------------------------------------------------------------------------
// Both are sums
// of the same terms in double; the dense one forms e^(cs_i - cs_j), whose exponents lose |cs| *
// 1e-16, and a division by a small normaliser may enlarge that.
static const double meanings_bound = 1e-9;

static const char *const forward_schedules[] = {
    "",
    "form=recurrent",
    "form=quadratic",
    "form=chunked q=8",
    "form=chunked q=17",
    "form=chunked q=64",
    "form=chunked q=128",
    "form=chunked q=8 split=t3",
    "form=chunked q=64 split=t2",
};

typedef struct Walk {
    const VerifyOptions *o;
    const VerifySink *sink;
    VerifyCount *count;
    ssd_context *ctx;
} Walk;

static void emit(Walk *w, VerifyLine *l, Trial *t) {
    l->spec = ssd_spec_name(t->spec);
    l->target = w->o->target ? w->o->target : "cpu";
    l->mode = t->opt.mode;
    l->shape = t->shape;
    w->sink->line(w->sink->ctx, l);
}

static const char *form_of(const Schedule *s) {
    return ssd_schedule_splits(s) ? "segments" : ssd_form_name(s->form);
}

// One schedule of a trial: a line for every output, or one that says why there is none. Silent when
// the schedule comes to the same as `chosen`, the compiler's own, which was tried first.
static bool verify_schedule(Walk *w, Trial *t, const char *schedule, const char *chosen) {
    Text why = {0};
    Schedule asked = ssd_schedule_auto;
    VerifyLine l = {.schedule = schedule};
    bool ran = false;
    if (!ssd_schedule_parse(schedule, &asked, &why)) SSD_BUG("verify's schedule: %s", why.s);
    if (w->sink->begin) w->sink->begin(w->sink->ctx, t->opt.mode, schedule);
    ssd_status s = ssd_trial_run(t, w->ctx, w->o->target ? w->o->target : "cpu", schedule, &why);
    const Schedule *sched = s == SSD_OK ? &t->ran : &asked;
    l.form = form_of(sched);
    l.chunk = sched->form == FORM_CHUNKED ? sched->q : 0;
    if (s == SSD_OK) {
        bool repeated = chosen && strcmp(chosen, t->schedule) == 0;
        ran = true;
        l.schedule = t->schedule;
        for (int i = 0; i < t->out.n && !repeated; i++) {
            l.output = t->out.v[i].name;
            l.e = ssd_trial_error(t, i);
            *(l.e.ok ? &w->count->passed : &w->count->failed) += 1;
            emit(w, &l, t);
        }
    } else if (s == SSD_UNSUPPORTED) {
        l.skipped = why.s;
        w->count->skipped++;
        emit(w, &l, t);
    } else {
        l.failed = why.s;
        w->count->failed++;
        emit(w, &l, t);
    }
    ssd_text_free(&why);
    return ran;
}

static ssd_status verify_mode(Walk *w, const char *mode, Text *why) {
    const VerifyOptions *o = w->o;
    bool tiles = ssd_verify_is_ref(o->target);
    TrialOptions to = {o->spec, o->spec_name,      mode, o->absent, o->sizes,
                       o->seed, tiles ? 0.03 : 0.5};
    Trial t;
    ssd_status s = ssd_trial_open(&t, &to, why);
    if (s != SSD_OK) return s;
    double apart = 0;
    if (!ssd_trial_agree(&t, &apart, why)) {
        ssd_trial_close(&t);
        return SSD_INTERNAL;
    }
    bool ok = apart <= meanings_bound;
    *(ok ? &w->count->passed : &w->count->failed) += 1;
    w->sink->meanings(w->sink->ctx, ssd_spec_name(t.spec), mode, t.shape, apart, ok);

    bool step = t.graph->step, any = false;
    if (o->schedule) {
        any = verify_schedule(w, &t, o->schedule, NULL);
    } else {
        const char *chosen = NULL;
        for (size_t i = 0; i < (step ? 1 : COUNTOF(forward_schedules)); i++) {
            any |= verify_schedule(w, &t, forward_schedules[i], chosen);
            if (i == 0 && any) chosen = t.schedule;
        }
    }
    if (!any) { // refusals alone prove nothing
        VerifyLine l = {
            .form = "none", .schedule = "", .failed = "no schedule of this mode could be run"};
        w->count->failed++;
        emit(w, &l, &t);
    }
    ssd_trial_close(&t);
    return SSD_OK;
}

ssd_status ssd_verify(const VerifyOptions *o, ssd_context *ctx, const VerifySink *sink,
                      VerifyCount *out_count, Text *why) {
    static const char *const modes[] = {"forward", "step"};
    Walk w = {o, sink, out_count, ctx};
    *out_count = (VerifyCount){0};
    if (o->schedule) {
        Schedule s;
        if (!ssd_schedule_parse(o->schedule, &s, why)) return SSD_INVALID_ARGUMENT;
    }
    if (o->mode) return verify_mode(&w, o->mode, why);

    Arena a = {0};
    const char *file = o->spec_name ? o->spec_name : "<spec>";
    Diag d = {.arena = &a, .file = file, .source = o->spec, .source_len = strlen(o->spec)};
    Spec *spec = ssd_spec_parse(&a, o->spec, d.source_len, file, o->sizes.dims, &d);
    ssd_status s = spec ? SSD_OK : SSD_INVALID_SPEC;
    if (!spec) ssd_diag_print(&d, why);
    for (size_t i = 0; s == SSD_OK && i < COUNTOF(modes); i++)
        if (ssd_spec_has_mode(spec, modes[i])) s = verify_mode(&w, modes[i], why);
    ssd_arena_free(&a);
    return s;
}
