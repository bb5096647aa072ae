// SPDX-License-Identifier: Apache-2.0
// The machinery of `ssdc verify` must say no: to a wrong element, to NaN, to an element never
// written, to a spec of which nothing could be run.
#include "../../frontend/verify.h"

#include <math.h>
#include <stdio.h>

static int passed, failed;

static void check(bool ok, const char *what) {
    if (!ok) printf("FAIL verify: %s\n", what);
    *(ok ? &passed : &failed) += 1;
}

#define SPEC(dtype)                                                                                \
    "ssdc: 1\nname: small\ndims: {heads: 3, head_dim: 5, state_size: 7}\n"                         \
    "inputs:\n  q: " dtype "[b, t, h, n]\n  k: " dtype "[b, t, h, n]\n  v: " dtype                 \
    "[b, t, h, p]\n  g: f32[b, t, h]\n"                                                            \
    "ssd: {query: q, key: k, value: v, log_decay: -softplus(g), final_state: hT}\n"                \
    "outputs: {y: '" dtype "[b, t, h, p] = ssd'}\nmodes: [forward]\n"

static TrialOptions options(const char *spec) {
    return (TrialOptions){.spec = spec, .mode = "forward", .sizes = {2, 67, 3, NULL}};
}

static void judged(const char *spec, bool narrow) {
    Trial t;
    Text why = {0};
    TrialOptions o = options(spec);
    double apart = 1;
    check(ssd_trial_open(&t, &o, &why) == SSD_OK, "a trial opens");
    check(ssd_trial_agree(&t, &apart, &why) && apart < 1e-12, "the meanings agree");
    check(ssd_trial_run(&t, NULL, "ref", "form=chunked q=17", &why) == SSD_OK, "a trial runs");
    check(t.ran.form == FORM_CHUNKED && t.ran.q == 17, "under the schedule asked for");
    check(t.out.n == 2, "two outputs");
    for (int i = 0; i < t.out.n; i++) check(ssd_trial_error(&t, i).ok, "a right output passes");

    const HostTensor *y = &t.out.v[0];
    i64 k = y->count - 1;
    double was = ssd_host_load(y->view.data, y->view.dtype, k), norm = 0;
    for (i64 i = 0; i < y->count; i++) norm = fmax(norm, fabs(t.want[0].a.v[i]));
    const double wrong[] = {was + 0.03 * norm, (double)NAN, (double)INFINITY};
    for (size_t i = 0; i < COUNTOF(wrong); i++) {
        ssd_host_store(y->view.data, y->view.dtype, k, wrong[i]);
        TrialError e = ssd_trial_error(&t, 0);
        check(!e.ok, "one wrong element fails");
        // A thousandth of the elements hardly moves an rms: the second bound is what sees it.
        if (narrow && i == 0)
            check(e.error <= e.bound && e.max_error > e.max_bound, "by its own bound");
    }
    ssd_host_store(y->view.data, y->view.dtype, k, was);
    check(ssd_trial_error(&t, 0).ok, "and passes again when right");
    check(ssd_trial_run(&t, NULL, "ref", "form=chunked q=4000", &why) == SSD_UNSUPPORTED && why.n,
          "a schedule is refused with a reason");
    check(!ssd_trial_error(&t, 0).ok, "poison fails: nothing was written");
    ssd_trial_close(&t);
    ssd_text_free(&why);
}

typedef struct Seen {
    int lines, skipped, meanings;
} Seen;

static void on_line(void *ctx, const VerifyLine *l) {
    Seen *s = ctx;
    s->lines++;
    s->skipped += l->skipped != NULL;
}

static void on_meanings(void *ctx, const char *spec, const char *mode, const char *shape,
                        double error, bool ok) {
    (void)spec, (void)mode, (void)shape, (void)error;
    ((Seen *)ctx)->meanings += ok;
}

static void whole(void) {
    Seen seen = {0};
    VerifySink sink = {.line = on_line, .meanings = on_meanings, .ctx = &seen};
    VerifyCount n;
    Text why = {0};
    VerifyOptions o = {.spec = SPEC("f32"), .target = "ref1", .sizes = {1, 20, 3, NULL}};
    check(ssd_verify(&o, NULL, &sink, &n, &why) == SSD_OK, "a spec is verified");
    check(n.failed == 0 && n.passed >= 1 + 2 * 5 && seen.meanings == 1, "in every form");

    o.schedule = "form=chunked q=4000";
    seen = (Seen){0};
    check(ssd_verify(&o, NULL, &sink, &n, &why) == SSD_OK && n.failed == 1 && n.skipped == 1 &&
              seen.skipped == 1,
          "refusals alone are a failure");
    o.schedule = "form=round";
    check(ssd_verify(&o, NULL, &sink, &n, &why) == SSD_INVALID_ARGUMENT,
          "a wrong schedule is an error");
    o.schedule = NULL;
    o.mode = "step";
    check(ssd_verify(&o, NULL, &sink, &n, &why) != SSD_OK && strstr(why.s, "step"),
          "so is a mode the spec lacks");
    o.mode = NULL;
    o.spec = "ssdc: 1\n";
    check(ssd_verify(&o, NULL, &sink, &n, &why) == SSD_INVALID_SPEC, "and a spec with errors");
    ssd_text_free(&why);
}

int main(void) {
    judged(SPEC("f32"), false);
    judged(SPEC("bf16"), true);
    judged(SPEC("f16"), false);
    whole();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
