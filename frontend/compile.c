// SPDX-License-Identifier: Apache-2.0
// spec -> artifact: the whole compiler as one function. Linking this file gives the runtime a
// compiler: a cache miss of ssd_compile comes here.
#include "compile.h"
#include "../runtime/dynlib.h"

#include <stdlib.h>

static ssd_status fail_diag(Diag *d) {
    Text t = {0};
    ssd_diag_print(d, &t);
    while (t.n && t.s[t.n - 1] == '\n') t.s[--t.n] = 0;
    ssd_status st = ssd_fail(SSD_INVALID_SPEC, "%s", t.s ? t.s : "invalid spec");
    ssd_text_free(&t);
    return st;
}

static ssd_status fail_text(ssd_status code, const char *what, Text *why) {
    ssd_status st = ssd_fail(code, "%s%s", what, why->s ? why->s : "");
    ssd_text_free(why);
    return st;
}

static ssd_status read_spec(Arena *a, const ssd_compile_options *o, Compiled *out) {
    const char *file = o->spec_name ? o->spec_name : "<spec>";
    const char *mode = o->mode ? o->mode : "forward";
    size_t n = strlen(o->spec);
    Diag d = {.arena = a, .file = file, .source = o->spec, .source_len = n};
    out->spec = ssd_spec_parse(a, o->spec, n, file, o->dims, &d);
    if (!out->spec) return fail_diag(&d);
    if (strcmp(mode, "forward") && strcmp(mode, "step"))
        return ssd_fail(strcmp(mode, "backward") ? SSD_INVALID_ARGUMENT : SSD_UNSUPPORTED,
                        "mode: found '%s', expected forward or step", mode);
    if (!ssd_spec_has_mode(out->spec, mode))
        return ssd_fail(SSD_UNSUPPORTED, "%s: mode '%s' is not in the spec's modes", file, mode);
    out->unit.graph = ssd_spec_build(a, out->spec, mode, o->absent, &d);
    return out->unit.graph ? SSD_OK : fail_diag(&d);
}

static ssd_status front(Arena *a, const ssd_compile_options *o, Compiled *out) {
    PhaseMark begun = ssd_phase_begin();
    ssd_status s = read_spec(a, o, out);
    ssd_phase_end(PHASE_SPEC, begun);
    return s;
}

// Runs the passes. When the tiles of a chunk exceed what a block of the machine may hold, and the
// schedule left the choice to us: shorter chunks, then the recurrence, in smaller and smaller
// blocks.
static bool lower(Unit *u, const char *to, PassHook *hook, void *hook_ctx) {
    const Schedule asked = u->schedule;
    PhaseMark begun = ssd_phase_begin();
    bool ok = ssd_pass_run(u, NULL, to, hook, hook_ctx);
    while (!ok && u->refused == REASON_SCRATCH) {
        Schedule tried = u->schedule, next = asked;
        if (!asked.q && tried.form != FORM_RECURRENT && tried.q > 16) {
            next.q = tried.q / 2;
        } else if (asked.form == FORM_AUTO && tried.form == FORM_CHUNKED) {
            next.form = FORM_RECURRENT;
        } else if (!asked.block && tried.form == FORM_RECURRENT && tried.block > 1) {
            next.form = FORM_RECURRENT;
            next.block = tried.block / 2;
        } else {
            break;
        }
        ssd_text_free(&u->refusal);
        u->refused = REASON_NONE;
        u->schedule = next;
        ok = ssd_pass_run(u, "form", to, hook, hook_ctx);
    }
    ssd_phase_end(PHASE_PASSES, begun);
    return ok;
}

ssd_status ssd_compile_spec(Arena *a, const ssd_compile_options *o, const char *to, PassHook *hook,
                            void *hook_ctx, Compiled *out) {
    memset(out, 0, sizeof *out);
    Text why = {0};
    const char *name = o->target ? o->target : "cpu";
    const Target *t = ssd_target_find(name);
    if (!t) return ssd_fail(SSD_NOT_FOUND, "target: unknown '%s' (see `ssdc targets`)", name);
    ssd_status st = front(a, o, out);
    if (st) return st;
    Machine *m = NEW(a, Machine);
    if (!t->machine(m, &why)) return fail_text(SSD_UNSUPPORTED, "", &why);
    Unit *u = &out->unit;
    u->arena = a;
    u->machine = m;
    u->schedule = ssd_schedule_auto;
#ifdef SSD_VERIFY_IR
    u->verify = true;
#endif
    if (o->schedule && !ssd_schedule_parse(o->schedule, &u->schedule, &why))
        return fail_text(SSD_INVALID_ARGUMENT, "schedule: ", &why);
    if (!lower(u, to, hook, hook_ctx)) {
        st = ssd_fail(SSD_UNSUPPORTED, "schedule refused: %s", u->refusal.s ? u->refusal.s : "");
        ssd_text_free(&u->refusal);
        return st;
    }
    if (to) return SSD_OK;
    if (ssd_target_is_cuda(m->target) && !ssd_nvrtc(&why))
        return fail_text(SSD_NOT_FOUND, "", &why);
    Artifact *art = &out->artifact;
    TargetCode code;
    PhaseMark begun = ssd_phase_begin();
    bool emitted = t->emit(a, u->prog, m, &code, &why);
    ssd_phase_end(PHASE_CODE, begun);
    if (!emitted) return fail_text(SSD_INTERNAL, "code generation: ", &why);
    ssd_artifact_from_prog(a, u->prog, o->mode ? o->mode : "forward", m->target, &code, art);
    return SSD_OK;
}

static ssd_status hook(Arena *a, const ssd_compile_options *o, Artifact *out) {
    Compiled c;
    ssd_status st = ssd_compile_spec(a, o, NULL, NULL, NULL, &c);
    *out = c.artifact;
    return st;
}

__attribute__((constructor)) static void install(void) { ssd_compile_hook = hook; }
