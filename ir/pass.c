// SPDX-License-Identifier: Apache-2.0
// The pipeline: passes.def as a table, and the loop that runs it.
#include "pass.h"

#include <time.h>

const Pass ssd_passes[] = {
#define PASS(name, in, out, doc) {#name, in, out, ssd_pass_##name, doc},
#include "passes.def"
};
const int ssd_pass_count = COUNTOF(ssd_passes);

#ifdef SSD_VERIFY_IR
static const bool always_verify = true;
#else
static const bool always_verify = false;
#endif

static int find(const char *name, int otherwise) {
    if (!name) return otherwise;
    for (int i = 0; i < ssd_pass_count; i++)
        if (!strcmp(ssd_passes[i].name, name)) return i;
    SSD_BUG("no pass '%s'", name);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static void verify(const Unit *u, const Pass *p) {
    Text why = {0};
    bool ok =
        p->out == LEVEL_GRAPH ? ssd_graph_verify(u->graph, &why) : ssd_tile_verify(u->prog, &why);
    if (!ok) SSD_BUG("after pass %s: %s", p->name, why.s ? why.s : "invalid");
}

static bool run(Unit *u, const Machine *whole, const char *from, const char *to, PassHook *hook,
                void *ctx) {
    int last = find(to, ssd_pass_count - 1);
    for (int i = find(from, 0); i <= last; i++) {
        const Pass *p = &ssd_passes[i];
        if (p->in == LEVEL_GRAPH ? !u->graph : !u->prog)
            SSD_BUG("pass %s has no %s to run on", p->name,
                    p->in == LEVEL_GRAPH ? "graph" : "program");
        u->machine = ssd_schedule_machine(u->arena, &u->schedule, whole);
        if (hook) hook(ctx, "before", p, u, false, 0);
        double start = now_us();
        bool changed = p->run(u);
        double us = now_us() - start;
        if (u->refusal.n) return false;
        if (u->verify || always_verify) verify(u, p);
        if (hook) hook(ctx, "after", p, u, changed, us);
    }
    return true;
}

bool ssd_pass_run(Unit *u, const char *from, const char *to, PassHook *hook, void *ctx) {
    const Machine *whole = u->machine;
    bool ok = run(u, whole, from, to, hook, ctx);
    u->machine = whole;
    return ok;
}
