// SPDX-License-Identifier: Apache-2.0
// What the role `cook` has beside maps of register tiles: numbers by column, and swaps. Both stay
// in their thread: it has two neighbours in every 8 columns, and words of the same rows half a row
// apart.
#include "cuda_emit.h"

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }
static const char *regs(const Cuda *c, Val v) { return c->name[val(c, v)->lay.buf]; }

static void name_element(void *ctx, Val v) {
    Cuda *c = ctx;
    const Lay *l = &val(c, v)->lay;
    if (!l->naxes) return;
    c->elem[v] = l->space == SP_ROW ? ssd_cuda_row_element(c, v, c->axis[l->ax[0]])
                                    : ssd_arena_printf(c->a, "%s[e]", regs(c, v));
}
static void forget_element(void *ctx, Val v) {
    Cuda *c = ctx;
    c->elem[v] = NULL;
}

void ssd_cuda_columns(Cuda *c, const TOp *o) {
    u8 axis = val(c, o->out)->lay.ax[0];
    ssd_cuda_line(c, "#pragma unroll");
    ssd_cuda_open(c, "for (int e = 0; e < %lld; e++)", (long long)ssd_cuda_size(c, axis) / 4);
    ssd_cuda_line(c, "const int %s = col + e / 2 * 8 + e %% 2;", c->axis[axis]);
    const char *v;
    if (o->op == TOP_LOAD) {
        v = ssd_cuda_access(c, o, NULL);
    } else {
        ssd_nest_ex_vals(c->p, o->e, name_element, c);
        v = ssd_cuda_float(c, o->e);
        ssd_nest_ex_vals(c->p, o->e, forget_element, c);
    }
    ssd_cuda_line(c, "%s[e] = %s;", regs(c, o->out), v);
    ssd_cuda_close(c);
}

void ssd_cuda_frag_swap(Cuda *c, const TOp *o) {
    const Lay *l = &val(c, o->out)->lay;
    i64 words = ssd_cuda_size(c, l->ax[1]) / 4, all = words * (ssd_cuda_size(c, l->ax[0]) / 64);
    ssd_cuda_line(c, "swap_columns<%lld, %lld, %s>(%s, %s);", (long long)words, (long long)all,
                  o->flags & TF_HALVES ? "true" : "false", regs(c, o->out), regs(c, o->a));
}
