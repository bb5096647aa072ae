// SPDX-License-Identifier: Apache-2.0
// cse: equal nodes become one. Construction already sees to that; a pass that edits nodes in place
// may leave equal ones behind, and rebuilding the graph finds them.
//
// Needs: a valid graph. Keeps: its meaning, its order. Breaks: nothing.
#include "pass.h"

static Ref again(Graph *g, Node n, Ref old, const Ref *map, void *ctx) {
    (void)old, (void)map, (void)ctx;
    return ssd_graph_make(g, n);
}

bool ssd_pass_cse(Unit *u) { return ssd_graph_rewrite(u->graph, NULL, again, NULL); }
