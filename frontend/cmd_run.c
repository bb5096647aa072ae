// SPDX-License-Identifier: Apache-2.0
// ssdc run SPEC: inputs from a file or drawn, outputs to a file or summed up.
#include "child.h"
#include "cli.h"
#include "device.h"
#include "random.h"
#include "safetensors.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

typedef struct Run {
    Cli *c;
    const char *path, *mode;
    const SpecTensor *in, *out;
    int n_in, n_out;
    StFile file;
    HostSet drawn, made;
    Text absent;
    ssd_arg *args;
    int n_args;
} Run;

static const SpecTensor *find(const SpecTensor *ts, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (strcmp(ts[i].name, name) == 0) return &ts[i];
    return NULL;
}

static void expected(const SpecTensor *t, Text *out) {
    ssd_text_printf(out, "%s[", ssd_dtype_name(t->dtype));
    for (int d = 0; d < t->naxes; d++) {
        ssd_text_printf(out, "%s", d ? ", " : "");
        if (t->size[d] >= 0)
            ssd_text_printf(out, "%lld", (long long)t->size[d]);
        else
            ssd_text_printf(out, "%s", t->axis[d]);
    }
    ssd_text_printf(out, "]");
}

// A tensor of the file against its declaration; b, t, s are taken from the first that has them.
static bool check_tensor(Run *r, const StTensor *x, const SpecTensor *t, Sizes *z) {
    Text found = {0}, want = {0};
    bool cu = t->hint && strcmp(t->hint, "cu_seqlens") == 0;
    bool ok = x->view.dtype == t->dtype && x->view.rank == t->naxes;
    for (int d = 0; ok && d < t->naxes; d++) {
        i64 n = x->view.dims[d] - cu, *run_time = t->axis[d][0] == 'b'   ? &z->b
                                                  : t->axis[d][0] == 't' ? &z->t
                                                                         : &z->s;
        if (cu) run_time = &z->s;
        if (!cu && t->size[d] >= 0)
            ok = n == t->size[d];
        else if (*run_time < 0 && n >= 0)
            *run_time = n;
        else
            ok = n == *run_time;
    }
    if (!ok) {
        expected(t, &want);
        ssd_host_print_dims(&x->view, &found);
        Text known = {0};
        if (z->b >= 0) ssd_text_printf(&known, " b=%lld", (long long)z->b);
        if (z->t >= 0) ssd_text_printf(&known, " t=%lld", (long long)z->t);
        if (z->s >= 0) ssd_text_printf(&known, " s=%lld", (long long)z->s);
        ssd_cli_error("%s: tensor '%s' is %s%s; expected %s%s%s", r->c->inputs, x->name,
                      ssd_dtype_name(x->view.dtype), found.s, want.s, known.n ? " with" : "",
                      known.n ? known.s : "");
        ssd_text_free(&known);
    }
    ssd_text_free(&found);
    ssd_text_free(&want);
    return ok;
}

static bool unknown_tensor(Run *r, const char *name) {
    const char **names = NEWN(&r->c->arena, const char *, r->n_in + 1);
    for (int i = 0; i < r->n_in; i++) names[i] = r->in[i].name;
    int k = ssd_nearest(name, names, r->n_in);
    ssd_cli_error("%s: unknown tensor '%.60s'%s%s%s", r->c->inputs, name,
                  k < 0 ? "" : "; did you mean '", k < 0 ? "" : names[k], k < 0 ? "" : "'?");
    return false;
}

// Takes the file's tensors as arguments; what is optional and missing becomes absent. Reports all
// faults.
static bool take_file(Run *r, Sizes *z) {
    Cli *c = r->c;
    Text why = {0};
    if (!ssd_safetensors_read(&c->arena, c->inputs, &r->file, &why)) {
        ssd_cli_error("%s", why.s);
        ssd_text_free(&why);
        return false;
    }
    bool ok = true;
    for (int i = 0; i < r->file.n; i++) {
        const StTensor *x = &r->file.v[i];
        const SpecTensor *t = find(r->in, r->n_in, x->name);
        if (!t)
            ok = unknown_tensor(r, x->name);
        else if (ssd_host_listed(c->absent, x->name))
            continue;
        else if (check_tensor(r, x, t, z))
            r->args[r->n_args++] = (ssd_arg){x->name, x->view};
        else
            ok = false;
    }
    for (int i = 0; i < r->n_in; i++) {
        const SpecTensor *t = &r->in[i];
        bool there = ssd_host_listed(c->absent, t->name);
        for (int k = 0; k < r->file.n; k++) there |= strcmp(r->file.v[k].name, t->name) == 0;
        if (there) continue;
        if (t->optional) {
            ssd_text_printf(&r->absent, "%s%s", r->absent.n ? " " : "", t->name);
            continue;
        }
        Text want = {0};
        expected(t, &want);
        ssd_cli_error("%s: tensor '%s' is missing; expected %s", c->inputs, t->name, want.s);
        ssd_text_free(&want);
        ok = false;
    }
    return ok;
}

static bool draw(Run *r, const Sizes *z) {
    Text why = {0};
    bool ok = ssd_host_make(&r->c->arena, r->in, r->n_in, z, r->absent.s, &r->drawn, &why);
    if (!ok) ssd_cli_error("%s", why.s);
    ssd_text_free(&why);
    if (!ok) return false;
    ssd_random_inputs(r->in, r->n_in, &r->drawn, z->t, (u64)r->c->seed);
    for (int i = 0; i < r->drawn.n; i++)
        r->args[r->n_args++] = (ssd_arg){r->drawn.v[i].name, r->drawn.v[i].view};
    return true;
}

// Only what the kernel takes: an input that no output needs is no parameter.
static void keep_params(Run *r, const ssd_kernel *k) {
    int kept = 0;
    for (int i = 0; i < r->n_args; i++) {
        for (int j = 0; j < ssd_kernel_param_count(k); j++) {
            ssd_param p;
            ssd_kernel_param(k, j, &p);
            if (strcmp(p.name, r->args[i].name) == 0) {
                r->args[kept++] = r->args[i];
                break;
            }
        }
    }
    r->n_args = kept;
}

static void print_output(const Cli *c, const HostTensor *t) {
    double sum = 0, sum2 = 0, low = (double)INFINITY, high = -(double)INFINITY;
    i64 bad = 0;
    for (i64 i = 0; i < t->count; i++) {
        double v = ssd_host_load(t->view.data, t->view.dtype, i);
        if (!isfinite(v)) {
            bad++;
            continue;
        }
        sum += v;
        sum2 += v * v;
        low = fmin(low, v);
        high = fmax(high, v);
    }
    i64 n = t->count - bad;
    double mean = n ? sum / (double)n : (double)NAN, rms = n ? sqrt(sum2 / (double)n) : (double)NAN;
    if (!n) low = high = (double)NAN;
    Text dims = {0};
    ssd_host_print_dims(&t->view, &dims);
    if (c->json) {
        json_t *shape = json_array();
        for (int d = 0; d < t->view.rank; d++)
            json_array_append_new(shape, json_integer(t->view.dims[d]));
        ssd_cli_json(json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:I}", "output", t->name,
                               "dtype", ssd_dtype_name(t->view.dtype), "shape", shape, "mean",
                               ssd_cli_number(mean), "rms", ssd_cli_number(rms), "min",
                               ssd_cli_number(low), "max", ssd_cli_number(high), "nonfinite",
                               (json_int_t)bad));
    } else {
        char type[128];
        snprintf(type, sizeof type, "%s%s", ssd_dtype_name(t->view.dtype), dims.s);
        printf("%s%-8s%s %-24s mean %10.3e  rms %10.3e  min %10.3e  max %10.3e", ssd_cli_bold(c),
               t->name, ssd_cli_plain(c), type, mean, rms, low, high);
        if (bad) printf("  %s%lld not finite%s", ssd_cli_bad(c), (long long)bad, ssd_cli_plain(c));
        printf("\n");
    }
    ssd_text_free(&dims);
}

static int deliver(const Run *r) {
    Cli *c = r->c;
    if (!c->output) {
        for (int i = 0; i < r->made.n; i++) print_output(c, &r->made.v[i]);
        return CLI_OK;
    }
    StTensor *v = NEWN(&c->arena, StTensor, r->made.n + 1);
    for (int i = 0; i < r->made.n; i++)
        v[i] = (StTensor){r->made.v[i].name, r->made.v[i].view, r->made.v[i].bytes};
    Text why = {0};
    int code = CLI_OK;
    if (!ssd_safetensors_write(c->output, v, r->made.n, &why)) code = ssd_cli_error("%s", why.s);
    ssd_text_free(&why);
    return code;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int launch(Run *r, const char *text, const Sizes *z) {
    Cli *c = r->c;
    int code = CLI_USAGE;
    ssd_kernel *k = NULL;
    ssd_context *ctx = ssd_cli_context(c);
    if (!ctx) return CLI_USAGE;
    ssd_compile_options o = ssd_cli_options(c, text, r->path, r->mode);
    o.absent = r->absent.s;
    double t0 = seconds();
    ssd_status s = ssd_child_compile(ctx, &o, &k);
    double t1 = seconds();
    const Phases phases = ssd_phases();
    if (s != SSD_OK) {
        code = ssd_cli_fail(s, ssd_last_error());
        goto done;
    }
    Text why = {0};
    if (!ssd_host_make(&c->arena, r->out, r->n_out, z, r->absent.s, &r->made, &why)) {
        code = ssd_cli_error("%s", why.s);
        ssd_text_free(&why);
        goto done;
    }
    keep_params(r, k);
    for (int i = 0; i < r->made.n; i++) ssd_host_poison(&r->made.v[i]);
    for (int i = 0; i < r->made.n; i++)
        r->args[r->n_args++] = (ssd_arg){r->made.v[i].name, r->made.v[i].view};
    double t2 = seconds();
    s = ssd_device_launch(k, r->args, r->n_args);
    double t3 = seconds();
    if (s != SSD_OK) {
        code = ssd_cli_fail(s, ssd_last_error());
        goto done;
    }
    code = deliver(r);
    if (c->json && !c->output)
        ssd_cli_json(json_pack("{s:s, s:s, s:o, s:o}", "origin",
                               phases.seconds[PHASE_CODE] > 0 ? "compiled" : "cache", "schedule",
                               ssd_kernel_schedule(k), "run_ms", ssd_cli_number(1e3 * (t3 - t2)),
                               "phases_ms", ssd_cli_phases(&phases)));
    if (c->progress)
        fprintf(stderr, "%s in %.1f ms, %s, ran in %.2f ms (first run)\n",
                strcmp(ssd_kernel_origin(k), "cache") == 0 ? "loaded" : "compiled", 1e3 * (t1 - t0),
                ssd_kernel_schedule(k), 1e3 * (t3 - t2));
done:
    ssd_cli_warn(ctx);
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
    return code;
}

int ssd_cmd_run(Cli *c) {
    if (c->inputs && c->random)
        return ssd_cli_error("run: --inputs and --random exclude each other");
    if (!ssd_cli_target(c)) return CLI_USAGE;
    size_t len = 0;
    char *text = ssd_cli_read(c, c->args[0], &len);
    if (!text) return CLI_USAGE;
    Spec *spec = ssd_cli_spec(c, text, len, c->args[0]);
    if (!spec) return CLI_NO;
    Run r = {.c = c, .path = c->args[0], .mode = ssd_cli_mode(c, spec, c->args[0])};
    if (!r.mode) return CLI_USAGE;
    r.n_in = ssd_spec_inputs(spec, r.mode, &r.in);
    r.n_out = ssd_spec_outputs(spec, r.mode, &r.out);
    r.args = NEWN(&c->arena, ssd_arg, r.n_in + r.n_out + 1);
    if (c->absent) ssd_text_printf(&r.absent, "%s", c->absent);

    Sizes z = c->sizes;
    bool packed = ssd_host_packed(r.in, r.n_in), ok = true;
    if (packed) z.b = 1;
    if (c->inputs) ok = take_file(&r, &z);
    if (z.b < 0) z.b = 1;
    if (z.t < 0) z.t = 2048;
    if (z.s < 0) z.s = 4;
    if (!c->inputs) ok = draw(&r, &z);
    int code = ok ? launch(&r, text, &z) : CLI_USAGE;
    ssd_safetensors_free(&r.file);
    ssd_host_drop(&r.drawn);
    ssd_host_drop(&r.made);
    ssd_text_free(&r.absent);
    return code;
}
