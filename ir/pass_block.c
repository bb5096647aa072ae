// SPDX-License-Identifier: Apache-2.0
// block: products with a triangular operand skip what is zero.
//
//   before  M = map {where(i >= j, S*exp(ci - cj), 0)} ; y_ = mma M x + ys
//   after   the same, the mma marked `tri i j`: its operand a is zero unless i >= j
//
// The mark is a promise that emitters use to bound the contraction and that the interpreter checks.
#include "pass.h"

// where(r >= c, .., 0) or where(r > c, .., 0) over two plain axes.
static bool triangle(const Prog *p, Ex e, u8 *row, u8 *col) {
    const Expr *x = &p->exs.v[e];
    if (x->kind != EX_FN || x->fn != FN_WHERE) return false;
    const Expr *cond = &p->exs.v[x->arg[0]], *other = &p->exs.v[x->arg[2]];
    if (other->kind != EX_NUM || other->num != 0 || cond->kind != EX_FN) return false;
    if (cond->fn != FN_GE && cond->fn != FN_GT) return false;
    const Expr *r = &p->exs.v[cond->arg[0]], *c = &p->exs.v[cond->arg[1]];
    if (r->kind != EX_AXIS || c->kind != EX_AXIS) return false;
    *row = (u8)r->axis;
    *col = (u8)c->axis;
    return true;
}

typedef struct Tri {
    u8 row, col;
} Tri;

static bool walk(Prog *p, TBlock *b, Tri *tri) {
    bool changed = false;
    for (TOp *o = b->first; o; o = o->next) {
        Tri t;
        if (o->op == TOP_MAP && triangle(p, o->e, &t.row, &t.col)) tri[o->out] = t;
        if (o->op == TOP_MMA && !o->tri_row) {
            if (!tri[o->a].row && tri[o->b].row) {
                Val v = o->a;
                o->a = o->b;
                o->b = v;
            }
            o->tri_row = tri[o->a].row;
            o->tri_col = tri[o->a].col;
            changed |= o->tri_row != 0;
        }
        changed |= walk(p, &o->body, tri);
    }
    return changed;
}

bool ssd_pass_block(Unit *u) {
    Prog *p = u->prog;
    Tri *tri = NEWN(u->arena, Tri, p->vals.n);
    bool changed = false;
    for (u32 k = 0; k < p->kernels.n; k++) changed |= walk(p, &p->kernels.v[k].body, tri);
    return changed;
}
