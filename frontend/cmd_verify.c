// SPDX-License-Identifier: Apache-2.0
// ssdc verify SPEC...: a table of how far every kernel is from the meaning of its spec.
#include "verify.h"

#include "../runtime/device_cuda.h"
#include "../runtime/dynlib.h"
#include "cli.h"

#include <stdio.h>

typedef struct Table {
    const Cli *cli;
    int done;
    char group[160]; // mode and shape whose heading stands
} Table;

static void begin(void *ctx, const char *mode, const char *schedule) {
    Table *t = ctx;
    ssd_cli_progress(t->cli, "verifying %s %s (%d done)", mode, *schedule ? schedule : "as chosen",
                     t->done);
}

static void meanings(void *ctx, const char *spec, const char *mode, const char *shape, double error,
                     bool ok) {
    Table *t = ctx;
    const Cli *c = t->cli;
    ssd_cli_progress(c, NULL);
    if (c->json) {
        ssd_cli_json(json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:b}", "spec", spec, "target",
                               "meaning", "mode", mode, "form", "dense", "shape",
                               ssd_cli_set(shape), "error", ssd_cli_number(error), "ok", ok));
        return;
    }
    printf("%s%s %s%s  %s\n", ssd_cli_bold(c), spec, mode, ssd_cli_plain(c), shape);
    printf("  recurrence and dense matrix agree to %.1e  %s%s%s\n", error,
           ok ? ssd_cli_good(c) : ssd_cli_bad(c), ok ? "ok" : "FAILED", ssd_cli_plain(c));
    printf("  %s%-10s %5s  %-10s %-5s %9s  %9s%s\n", ssd_cli_dim(c), "form", "chunk", "output",
           "dtype", "error", "bound", ssd_cli_plain(c));
}

static void line_json(const VerifyLine *l) {
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:s, s:i, s:o}", "spec", l->spec, "target", l->target, "mode",
                  l->mode, "form", l->form, "chunk", l->chunk, "shape", ssd_cli_set(l->shape));
    if (l->skipped || l->failed) {
        json_object_set_new(o, "schedule", json_string(l->schedule));
        json_object_set_new(o, l->skipped ? "skipped" : "failed",
                            json_string(l->skipped ? l->skipped : l->failed));
        json_object_set_new(o, "ok", json_boolean(l->skipped != NULL));
    } else {
        json_object_set_new(o, "dtype", json_string(ssd_dtype_name(l->e.dtype)));
        json_object_set_new(o, "output", json_string(l->output));
        json_object_set_new(o, "error", ssd_cli_number(l->e.error));
        json_object_set_new(o, "bound", json_real(l->e.bound));
        json_object_set_new(o, "norm", json_string(l->e.norm));
        json_object_set_new(o, "max_error", ssd_cli_number(l->e.max_error));
        json_object_set_new(o, "max_bound", json_real(l->e.max_bound));
        json_object_set_new(o, "schedule", json_string(l->schedule));
        json_object_set_new(o, "ok", json_boolean(l->e.ok));
    }
    ssd_cli_json(o);
}

static void line(void *ctx, const VerifyLine *l) {
    Table *t = ctx;
    const Cli *c = t->cli;
    t->done++;
    ssd_cli_progress(c, NULL);
    if (c->json) {
        line_json(l);
        return;
    }
    char chunk[16] = "-";
    if (l->chunk) snprintf(chunk, sizeof chunk, "%d", l->chunk);
    printf("  %-10s %5s  ", l->form, chunk);
    if (l->skipped) {
        printf("%sskipped: %s%s\n", ssd_cli_dim(c), l->skipped, ssd_cli_plain(c));
    } else if (l->failed) {
        printf("%sFAILED: %s%s\n", ssd_cli_bad(c), l->failed, ssd_cli_plain(c));
    } else {
        printf("%-10s %-5s %9.1e  %9.0e %s  %s%s%s\n", l->output, ssd_dtype_name(l->e.dtype),
               l->e.error, l->e.bound, l->e.norm, l->e.ok ? ssd_cli_good(c) : ssd_cli_bad(c),
               l->e.ok ? "ok" : "FAILED", ssd_cli_plain(c));
        if (!l->e.ok && l->e.error <= l->e.bound)
            printf("  %16s  one element is off by %.1e of the largest, bound %.0e\n", "",
                   l->e.max_error, l->e.max_bound);
    }
}

// Said once, not for each schedule. Without NVRTC no kernel is in the cache either: its version is
// in their keys.
static bool nvrtc_there(const Cli *c) {
    Text why = {0};
    bool runs, cuda = c->target && ssd_cuda_target(c->target, &runs);
    bool there = !cuda || ssd_nvrtc(&why);
    if (!there) ssd_cli_error("%s", why.s ? why.s : "no NVRTC");
    ssd_text_free(&why);
    return there;
}

// The target of "ref1:sm_90a", as another name would be.
static bool known_ref(Cli *c) {
    const char *all = c->target, *colon = strchr(all, ':');
    c->target = colon ? colon + 1 : NULL;
    bool known = ssd_cli_target(c) != NULL;
    c->target = all;
    return known;
}

int ssd_cmd_verify(Cli *c) {
    if (ssd_verify_is_ref(c->target)) {
        if (!known_ref(c)) return CLI_USAGE;
    } else {
        if (!ssd_cli_target(c)) return CLI_USAGE;
        ssd_status s = ssd_target_check(c->target);
        if (s != SSD_OK) return ssd_cli_fail(s, ssd_last_error());
        if (!nvrtc_there(c)) return CLI_USAGE;
    }
    ssd_context *ctx = ssd_cli_context(c);
    if (!ctx) return CLI_USAGE;
    int code = CLI_OK;
    VerifyCount sum = {0};
    for (int i = 0; i < c->n_args; i++) {
        size_t len = 0;
        char *text = ssd_cli_read(c, c->args[i], &len);
        if (!text) {
            code = CLI_USAGE;
            continue;
        }
        VerifyOptions o = {text,      c->args[i],  c->target ? c->target : "cpu",
                           c->absent, c->mode,     c->schedule,
                           c->sizes,  (u64)c->seed};
        Table table = {.cli = c};
        VerifySink sink = {meanings, begin, line, &table};
        VerifyCount n;
        Text why = {0};
        ssd_status s = ssd_verify(&o, ctx, &sink, &n, &why);
        ssd_cli_progress(c, NULL);
        if (s != SSD_OK) code = MAX(code, ssd_cli_fail(s, why.s ? why.s : ssd_status_name(s)));
        ssd_text_free(&why);
        if (n.failed) code = MAX(code, CLI_NO);
        sum.passed += n.passed;
        sum.failed += n.failed;
        sum.skipped += n.skipped;
    }
    if (!c->json)
        printf("%s%d passed, %d failed%s, %d schedules skipped\n",
               sum.failed ? ssd_cli_bad(c) : ssd_cli_good(c), sum.passed, sum.failed,
               ssd_cli_plain(c), sum.skipped);
    ssd_cli_warn(ctx);
    ssd_context_destroy(ctx);
    return code;
}
