// SPDX-License-Identifier: Apache-2.0
// dce: what no output needs goes. Inputs stay, used or not: they are the artifact's parameters, and
// a caller's arguments do not depend on how clever the compiler was.
//
// Needs: a valid graph. Keeps: its meaning, its inputs. Breaks: nothing.
#include "pass.h"

static Ref keep_live(Graph *g, Node n, Ref old, const Ref *map, void *ctx) {
    (void)map;
    const bool *live = ctx;
    return live[old] ? ssd_graph_make(g, n) : 0;
}

bool ssd_pass_dce(Unit *u) {
    Graph *g = u->graph;
    bool *live = NEWN(g->arena, bool, g->nodes.n);
    for (u32 i = 0; i < g->ins.n; i++) live[g->ins.v[i]] = true;
    for (u32 i = 0; i < g->outs.n; i++) live[g->outs.v[i].ref] = true;
    for (u32 i = 0; i < g->states.n; i++) live[g->states.v[i].final] = true;
    for (Ref r = g->nodes.n - 1; r > 0; r--)
        for (size_t i = 0; live[r] && i < COUNTOF(g->nodes.v[r].arg); i++)
            live[g->nodes.v[r].arg[i]] = true;
    return ssd_graph_rewrite(g, NULL, keep_live, live);
}
