// SPDX-License-Identifier: Apache-2.0
// The compiler as a list of passes over one Unit. passes.def in order is the table of contents.
#ifndef SSD_PASS_H
#define SSD_PASS_H

#include "graph.h"
#include "machine.h"
#include "schedule.h"
#include "tile.h"

typedef enum {
#define REASON(id, text) REASON_##id,
#include "reasons.def"
} Reason;

typedef struct Unit {
    Arena *arena;
    Graph *graph;      // until chunk
    Prog *prog;        // from chunk on
    Schedule schedule; // in: asked for; out: what was chosen
    const Machine *machine;
    bool verify;    // check the IR after each pass (always in the sanitized build)
    Text refusal;   // set when a schedule does not fit: the reason, by name (reasons.def)
    Reason refused; // the same
} Unit;
void ssd_refuse(Unit *u, Reason r); // sets both

typedef enum { LEVEL_GRAPH, LEVEL_TILE } Level;
typedef struct Pass {
    const char *name;
    Level in, out;
    bool (*run)(Unit *); // true if it changed anything
    const char *doc;
} Pass;
extern const Pass ssd_passes[];
extern const int ssd_pass_count;

// Dumps: called before (when = "before") and after each pass; text is made by the callee with
// ssd_graph_print / ssd_tile_print. May be NULL.
typedef void PassHook(void *ctx, const char *when, const Pass *pass, Unit *u, bool changed,
                      double us);
// Runs the passes from `from` (NULL: the first) through `to` (NULL: the last), both included.
// False when the schedule was refused (u->refusal says why). A verifier failure is an SSD_BUG.
bool ssd_pass_run(Unit *u, const char *from, const char *to, PassHook *hook, void *ctx);

#define PASS(name, in, out, doc) bool ssd_pass_##name(Unit *u);
#include "passes.def"

#endif
