// SPDX-License-Identifier: Apache-2.0
// Where the time of a start goes. Each thread has clocks of its own, so that they need no locks.
#include "internal.h"

#include <time.h>

static _Thread_local Phases clocks;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double sum(void) {
    double s = 0;
    for (int i = 0; i < PHASES; i++) s += clocks.seconds[i];
    return s;
}

PhaseMark ssd_phase_begin(void) { return (PhaseMark){now(), sum()}; }

void ssd_phase_end(Phase p, PhaseMark m) {
    clocks.seconds[p] += now() - m.begun - (sum() - m.others);
}

void ssd_phase_add(const Phases *more) {
    for (int i = 0; i < PHASES; i++) clocks.seconds[i] += more->seconds[i];
}

Phases ssd_phases(void) { return clocks; }

const char *ssd_phase_name(Phase p) {
    static const char *const names[PHASES] = {"driver", "context", "key",   "cache", "spec",
                                              "passes", "code",    "nvrtc", "load"};
    return names[p];
}
