// SPDX-License-Identifier: Apache-2.0
// Proof by comparison: a kernel's outputs against the spec's own meaning in double.
//
// A Trial is one spec, mode and shape: inputs drawn once, outputs allocated, the meaning computed
// once; then any number of targets and schedules run on it. ssd_verify walks all of a spec's modes
// and forms and is what `ssdc verify` prints; tests use trials directly.
//
// Besides the targets of codegen/ there are two that need no code generator: "ref" runs the lowered
// program in the tile interpreter before it is placed (T0, for a GPU also T2), "ref1" after (T1).
// "ref1:sm_90a" lowers it for that target, not for this host: no device is needed.
#ifndef SSD_VERIFY_H
#define SSD_VERIFY_H

#include "../ir/schedule.h"
#include "host.h"

bool ssd_verify_is_ref(const char *target); // "ref", "ref1", "ref1:TARGET"; NULL is none

typedef struct TrialOptions {
    const char *spec;      // YAML text
    const char *spec_name; // for messages; NULL: "<spec>"
    const char *mode;      // "forward" | "step"
    const char *absent;    // as in ssd_compile_options
    Sizes sizes;           // b, t, s < 0: chosen so that the interpreter takes about a second
    u64 seed;
    double budget; // ... or this many seconds; 0: one
} TrialOptions;

typedef struct Trial {
    Arena arena;
    TrialOptions opt;
    Sizes sizes; // as used
    Spec *spec;
    Graph *graph;
    const SpecTensor *spec_in, *spec_out;
    int n_spec_in, n_spec_out;
    HostSet in, out;
    NamedArray *want; // [out.n] the meaning, in the order of `out`
    char shape[96];   // "b=2 t=200"
    // of the last ssd_trial_run:
    Schedule ran;
    const char *schedule; // its text, in the trial's arena
    ssd_dtype products; // what products of the kernel round their operands to; SSD_F32: not at all
} Trial;

// Parses the spec, draws the inputs, evaluates the recurrence. On failure *why holds all messages
// and the trial is closed.
ssd_status ssd_trial_open(Trial *t, const TrialOptions *o, Text *why);
void ssd_trial_close(Trial *t);
// Largest difference between recurrence and dense matrix, relative to each output's max norm.
bool ssd_trial_agree(Trial *t, double *out_error, Text *why);
// Poisons the outputs, compiles (SSD_UNSUPPORTED: the schedule was refused, *why says by what) and
// runs.
ssd_status ssd_trial_run(Trial *t, ssd_context *ctx, const char *target, const char *schedule,
                         Text *why);

// How far output i is from its meaning, and how far it may be. NaN or Inf never passes.
typedef struct TrialError {
    double error, bound;         // in `norm`
    const char *norm;            // "max": max|d| / max|y|;  "rms": rms(d) / rms(y)
    double max_error, max_bound; // in max norm always: one wrong element must not drown in an rms
    ssd_dtype dtype;             // the dtype whose rounding the bound allows for
    bool ok;
} TrialError;
TrialError ssd_trial_error(const Trial *t, int i);

// --- A spec as a whole -------------------------------------------------------------------------
typedef struct VerifyLine {
    const char *spec, *target, *mode, *form, *shape, *output, *schedule;
    int chunk;           // 0: none
    const char *skipped; // why this schedule was refused, or NULL
    const char *failed;  // why it could not run at all, or NULL
    TrialError e;
} VerifyLine;
typedef struct VerifySink {
    void (*meanings)(void *ctx, const char *spec, const char *mode, const char *shape, double error,
                     bool ok);
    void (*begin)(void *ctx, const char *mode, const char *schedule); // may be NULL: progress
    void (*line)(void *ctx, const VerifyLine *l);
    void *ctx;
} VerifySink;
typedef struct VerifyOptions {
    const char *spec, *spec_name, *target, *absent;
    const char *mode;     // NULL: every mode of the spec
    const char *schedule; // NULL: each form, the chunked one with several lengths
    Sizes sizes;
    u64 seed;
} VerifyOptions;
typedef struct VerifyCount {
    int passed, failed, skipped;
} VerifyCount;
// SSD_OK when everything could be tried, whatever the answer; else the spec or environment is at
// fault.
ssd_status ssd_verify(const VerifyOptions *o, ssd_context *ctx, const VerifySink *sink,
                      VerifyCount *out_count, Text *why);

#endif
