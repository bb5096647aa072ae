// SPDX-License-Identifier: Apache-2.0
// ssdc bench SPEC: how long a kernel takes, and what share of this machine's limits that is; at one
// size, or a table of sizes with what others reach on them.
#include "bench.h"
#include "device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PEERS_MOST = 8 };

// --- What it runs on ----------------------------------------------------------------------------
// "580.95.05", from what the kernel module says of itself.
static const char *driver_version(void) {
    static char version[32] = "of unknown version";
    char line[256] = "";
    FILE *f = fopen("/proc/driver/nvidia/version", "r");
    if (!f) return version;
    bool there = fgets(line, sizeof line, f) != NULL;
    fclose(f);
    for (char *save, *w = there ? strtok_r(line, " \t\n", &save) : NULL; w;
         w = strtok_r(NULL, " \t\n", &save))
        if (strchr(w, '.') && strspn(w, "0123456789.") == strlen(w)) {
            snprintf(version, sizeof version, "%s", w);
            break;
        }
    return version;
}

static void device_name(bool cuda, int threads, char *out, size_t size) {
    const char *brand = ssd_cpu_info()->brand;
    if (cuda)
        snprintf(out, size, "%s", ssd_cuda_driver()->device.name);
    else
        snprintf(out, size, "%s, %d thread%s", *brand ? brand : "cpu", threads,
                 threads == 1 ? "" : "s");
}

static const char *today(void) {
    static char text[32];
    time_t t = time(NULL);
    struct tm tm;
    strftime(text, sizeof text, "%Y-%m-%d", gmtime_r(&t, &tm));
    return text;
}

static json_t *device_facts(const char *device, bool cuda, const Limits *l) {
    json_t *o = json_pack("{s:s, s:s}", "device", device, "date", today());
    if (!cuda) return o;
    const CudaDriver *d = ssd_cuda_driver();
    char version[32];
    snprintf(version, sizeof version, "%d.%d", d->version / 1000, d->version % 1000 / 10);
    json_object_set_new(o, "clock_mhz", ssd_cli_number(d->device.clock_khz * 1e-3));
    json_object_set_new(o, "memory_clock_mhz", ssd_cli_number(d->device.memory_clock_khz * 1e-3));
    json_object_set_new(o, "driver", json_string(driver_version()));
    json_object_set_new(o, "cuda", json_string(version));
    json_object_set_new(o, "copy_gbs", ssd_cli_number(l->copy));
    json_object_set_new(o, *l->matmul_by ? "matmul_gflops" : "peak_gflops",
                        ssd_cli_number(l->matmul));
    if (*l->matmul_by) json_object_set_new(o, "matmul_by", json_string(l->matmul_by));
    return o;
}

static void print_device(const char *device, bool cuda, const Limits *l) {
    const CudaDriver *d = ssd_cuda_driver();
    printf("%s", device);
    if (cuda)
        printf(", at most %.0f MHz, memory %.0f MHz; driver %s (CUDA %d.%d)",
               d->device.clock_khz * 1e-3, d->device.memory_clock_khz * 1e-3, driver_version(),
               d->version / 1000, d->version % 1000 / 10);
    printf("; %s\n", today());
    if (cuda)
        printf("copy %.0f GB/s, bf16 matmul %.0f TFLOP/s (%s): floor = max(bytes / copy, flop / "
               "matmul); L2 flushed before each run\n",
               l->copy, 1e-3 * l->matmul, *l->matmul_by ? l->matmul_by : "by its clock");
}

// --- One run ------------------------------------------------------------------------------------
static const char *scaled(char *s, size_t n, double v) {
    const char *unit = v >= 1e9 ? "G" : v >= 1e6 ? "M" : v >= 1e3 ? "k" : "";
    snprintf(s, n, "%.3g%s",
             v >= 1e9   ? v * 1e-9
             : v >= 1e6 ? v * 1e-6
             : v >= 1e3 ? v * 1e-3
                        : v,
             unit);
    return s;
}

static json_t *peers_json(const BenchRun *r) {
    Peer peer[PEERS_MOST];
    int n = ssd_bench_peers(r, peer, PEERS_MOST);
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        json_t *o = json_pack("{s:s}", "who", peer[i].who);
        if (peer[i].ms > 0) json_object_set_new(o, "ms", ssd_cli_number(peer[i].ms));
        if (peer[i].gbs > 0) json_object_set_new(o, "state_gbs", ssd_cli_number(peer[i].gbs));
        json_array_append_new(list, o);
    }
    return list;
}

static void print_json(const Cli *c, const BenchRun *r, const Limits *l, const char *device) {
    double s = 1e-3 * r->ms;
    bool update = !r->cuda && r->in_place,
         by_clock = r->cuda && !strcmp(r->peak_by, "peak by its clock");
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:o, s:s}", "spec", r->spec, "target",
                          c->target ? c->target : "cpu", "device", device, "mode", r->mode, "set",
                          ssd_cli_set(r->shape), "schedule", r->schedule);
    const struct {
        const char *name;
        double v;
    } numbers[] = {{"ms", r->ms},
                   {"ms_p20", r->p20},
                   {"ms_p80", r->p80},
                   {"tokens_per_s", r->tokens / s},
                   {"token_heads_per_s", r->tokens * r->heads / s},
                   {"gflops", 1e-9 * r->flop / s},
                   {"gbs", 1e-9 * r->bytes / s},
                   {"state_gbs", 1e-9 * r->state_bytes / s},
                   {"floor_ms", r->floor_ms},
                   {"share", r->floor_ms / r->ms},
                   {!r->cuda   ? "fma_gflops"
                    : by_clock ? "peak_gflops"
                               : "matmul_gflops",
                    r->peak},
                   {update ? "update_gbs" : "copy_gbs", r->rate}};
    for (size_t i = 0; i < COUNTOF(numbers); i++)
        json_object_set_new(o, numbers[i].name, ssd_cli_number(numbers[i].v));
    json_object_set_new(o, "state", json_string(r->state ? ssd_dtype_name(r->state) : "none"));
    json_object_set_new(o, "runs", json_integer(r->runs));
    if (r->row) {
        json_object_set_new(o, "row", json_integer(r->row));
        json_object_set_new(o, "alone_ms", ssd_cli_number(r->alone_ms));
        if (l->row_ms > 0) json_object_set_new(o, "empty_ms", ssd_cli_number(l->row_ms));
        if (l->row_ms > 0) json_object_set_new(o, "empty_alone_ms", ssd_cli_number(l->alone_ms));
    }
    json_object_set_new(o, "origin", json_string(r->compiled ? "compiled" : "cache"));
    json_object_set_new(o, "phases_ms", ssd_cli_phases(&r->phases));
    json_object_set_new(o, "peers", peers_json(r));
    ssd_cli_json(o);
}

static void print_peers(const BenchRun *r) {
    Peer peer[PEERS_MOST];
    int n = ssd_bench_peers(r, peer, PEERS_MOST);
    for (int i = 0; i < n; i++)
        if (peer[i].ms > 0)
            printf("%s%s %.3f", i ? ", " : "", peer[i].who, peer[i].ms);
        else
            printf("%s%s %.0f GB/s", i ? ", " : "", peer[i].who, peer[i].gbs);
}

static void print_run(const Cli *c, const BenchRun *r, const Limits *l, const char *device) {
    double s = 1e-3 * r->ms;
    char tps[32], thps[32];
    printf("%s%s %s%s  %s  %s\n", ssd_cli_bold(c), r->spec, r->mode, ssd_cli_plain(c), r->shape,
           device);
    printf("  schedule  %s\n", r->schedule);
    printf("  start     %s: ", r->compiled ? "compiled" : "from the cache");
    ssd_cli_print_phases(stdout, &r->phases);
    printf("\n  time      %s%.4g ms%s  (p20 %.4g, p80 %.4g, %d runs%s)\n", ssd_cli_bold(c), r->ms,
           ssd_cli_plain(c), r->p20, r->p80, r->runs, r->in_place ? ", states in place" : "");
    if (r->row) printf("            of one of %d in a row; %.4g ms alone\n", r->row, r->alone_ms);
    if (r->row && l->row_ms > 0)
        printf("            an empty kernel: %.4g ms in a row, %.4g ms alone\n", l->row_ms,
               l->alone_ms);
    printf("  speed     %s tokens/s, %s token-heads/s\n", scaled(tps, sizeof tps, r->tokens / s),
           scaled(thps, sizeof thps, r->tokens * r->heads / s));
    printf("            %.1f GFLOP/s of %.0f (%s), %.1f GB/s of %.0f (%s)\n", 1e-9 * r->flop / s,
           r->peak, r->peak_by, 1e-9 * r->bytes / s, r->rate, r->rate_by);
    printf("  floor     %.4g ms by %s: %s%.0f %%%s of it reached\n", r->floor_ms,
           r->memory_ms >= r->floor_ms ? "memory" : "arithmetic", ssd_cli_bold(c),
           100 * r->floor_ms / r->ms, ssd_cli_plain(c));
}

// --- A table of runs ----------------------------------------------------------------------------
static const char how_steps[] =
    "in a row, as published figures are: one of the many steps of a graph, "
    "each on tensors that no cache holds; alone: a graph of one";

static void print_head(const Cli *c, const BenchRun *r, const Limits *l) {
    bool step = !strcmp(r->mode, "step");
    if (r->row > 0) {
        printf("%s", how_steps);
        if (l->row_ms > 0)
            printf("; an empty kernel takes %.2f us in a row, %.2f alone", 1e3 * l->row_ms,
                   1e3 * l->alone_ms);
        printf("\n%s%-18s %9s %9s %9s %6s %9s %9s %6s %10s%s  published\n", ssd_cli_bold(c),
               r->mode, "us in row", "p20", "p80", "runs", "alone", "floor", "share", "state GB/s",
               ssd_cli_plain(c));
        return;
    }
    printf("%s%-18s %9s %9s %9s %6s %9s %6s %10s%s  %s\n", ssd_cli_bold(c), r->mode, "ms", "p20",
           "p80", "runs", "floor", "share", step ? "state GB/s" : "GB/s", ssd_cli_plain(c),
           step ? "published" : "published, ms");
}

static void print_row(const Cli *c, const BenchRun *r, const BenchJob *j) {
    bool step = !strcmp(r->mode, "step"), row = r->row > 0;
    double unit = row ? 1e3 : 1;
    int digits = row ? 2 : 4;
    char label[64];
    snprintf(label, sizeof label, "%s%s%s", j->label, step ? " " : "",
             step ? ssd_dtype_name(r->state) : "");
    printf("%-18s %9.*f %9.*f %9.*f %6d ", label, digits, unit * r->ms, digits, unit * r->p20,
           digits, unit * r->p80, r->runs);
    if (row) printf("%9.2f ", unit * r->alone_ms);
    printf("%9.*f %s%4.0f %%%s %10.0f  ", digits, unit * r->floor_ms, ssd_cli_bold(c),
           100 * r->floor_ms / r->ms, ssd_cli_plain(c),
           1e-6 * (step ? r->state_bytes : r->bytes) / r->ms);
    print_peers(r);
    printf("\n%s    %s; ", ssd_cli_dim(c), r->schedule);
    if (row) printf("%d in a row; ", r->row);
    printf("%s", r->compiled ? "compiled: " : "");
    ssd_cli_print_phases(stdout, &r->phases);
    printf("%s\n", ssd_cli_plain(c));
    fflush(stdout);
}

typedef struct Table {
    Cli *c;
    ssd_context *ctx;
    const char *path, *text;
    Limits limits;
    const char *mode; // of the rows printed last
    int code;
} Table;

static void row(Table *t, const BenchJob *j) {
    BenchRun r;
    char device[160];
    int code = CLI_OK;
    if (!ssd_bench_run(t->c, t->ctx, j, &t->limits, &r, &code)) {
        t->code = code;
        return;
    }
    device_name(r.cuda, ssd_context_threads(t->ctx), device, sizeof device);
    if (t->c->json) {
        if (!t->mode) ssd_cli_json(device_facts(device, r.cuda, &t->limits));
        print_json(t->c, &r, &t->limits, device);
    } else {
        if (!t->mode) print_device(device, r.cuda, &t->limits);
        if (!t->mode || strcmp(t->mode, j->mode)) print_head(t->c, &r, &t->limits);
        print_row(t->c, &r, j);
    }
    t->mode = j->mode;
}

// The same spec with bf16 states; NULL when the language or the spec has no room for that.
static const char *with_bf16_state(Cli *c, const char *text, const char *dims) {
    size_t n = strlen(text);
    Arena scratch = {0};
    Diag d = {.arena = &scratch};
    if (!strncmp(text, "numerics:", 9) || strstr(text, "\nnumerics:")) return NULL;
    const char *more = n && text[n - 1] == '\n' ? "" : "\n",
               *out = ssd_arena_printf(&c->arena, "%s%snumerics: {state: bf16}\n", text, more);
    Spec *s = ssd_spec_parse(&scratch, out, strlen(out), "", dims, &d);
    ssd_arena_free(&scratch);
    return s ? out : NULL;
}

// Without initial states, as peers are measured; they count as zero then.
static const char *absent_states(Cli *c, const Spec *spec) {
    const SpecTensor *in;
    int n = ssd_spec_inputs(spec, "forward", &in);
    const char *absent = c->absent ? c->absent : "";
    for (int i = 0; i < n; i++)
        if (in[i].is_state && in[i].optional && !ssd_host_listed(absent, in[i].name))
            absent = ssd_arena_printf(&c->arena, "%s%s%s", absent, *absent ? " " : "", in[i].name);
    return *absent ? absent : NULL;
}

static void table(Table *t, const Spec *spec, const BenchShape *shape, int n) {
    const char *absent = absent_states(t->c, spec);
    for (int i = 0; i < n; i++) {
        const BenchShape *s = &shape[i];
        BenchJob j = {.text = t->text,
                      .path = t->path,
                      .mode = s->step ? "step" : "forward",
                      .z = s->z,
                      .absent = s->step ? t->c->absent : absent,
                      .label = s->label};
        if (!ssd_spec_has_mode(spec, j.mode) || (t->c->mode && strcmp(t->c->mode, j.mode)))
            continue;
        row(t, &j);
        if (s->step && (j.text = with_bf16_state(t->c, t->text, s->z.dims))) row(t, &j);
    }
    if (!t->mode && !t->code) t->code = ssd_cli_error("bench: %s has none of these modes", t->path);
}

// --- The command --------------------------------------------------------------------------------
// Is it a layer whose sizes may be chosen as peers' are?
static bool free_dims(const char *text) {
    Arena scratch = {0};
    Diag d = {.arena = &scratch};
    Spec *s = ssd_spec_parse(&scratch, text, strlen(text), "", "heads=80", &d);
    const SpecTensor *in;
    bool ok = s && !ssd_host_packed(in, ssd_spec_inputs(s, "forward", &in));
    ssd_arena_free(&scratch);
    return ok;
}

static int one(Cli *c, ssd_context *ctx, const char *text, const char *mode) {
    BenchJob j = {
        .text = text, .path = c->args[0], .mode = mode, .z = c->sizes, .absent = c->absent};
    Limits limits = {0};
    BenchRun r;
    char device[160];
    int code = CLI_OK;
    if (!ssd_bench_run(c, ctx, &j, &limits, &r, &code)) return code;
    device_name(r.cuda, ssd_context_threads(ctx), device, sizeof device);
    if (c->json)
        print_json(c, &r, &limits, device);
    else
        print_run(c, &r, &limits, device);
    return CLI_OK;
}

int ssd_cmd_bench(Cli *c) {
    if (!ssd_cli_target(c)) return CLI_USAGE;
    size_t len = 0;
    const char *path = c->args[0];
    BenchShape *shapes = NULL;
    int n = 0;
    char *text = ssd_cli_read(c, path, &len);
    if (!text) return CLI_USAGE;
    Spec *spec = ssd_cli_spec(c, text, len, path);
    if (!spec) return CLI_NO;
    const char *mode = ssd_cli_mode(c, spec, path), *list = c->shapes;
    if (!mode) return CLI_USAGE;
    bool cuda = c->target && (!strcmp(c->target, "cuda") || strncmp(c->target, "sm_", 3) == 0 ||
                              ssd_target_is_cuda(c->target));
    if (!list && cuda && !c->set && !c->mode && free_dims(text)) list = ssd_bench_shapes;
    if (list && (n = ssd_bench_parse(c, list, &shapes)) < 0) return CLI_USAGE;
    ssd_context *ctx = ssd_cli_context(c);
    if (!ctx) return CLI_USAGE;
    Table t = {.c = c, .ctx = ctx, .path = path, .text = text};
    if (n)
        table(&t, spec, shapes, n);
    else
        t.code = one(c, ctx, text, mode);
    ssd_cli_warn(ctx);
    ssd_context_destroy(ctx);
    return t.code;
}
