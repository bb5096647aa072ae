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

// --- Loads that wait ----------------------------------------------------------------------------
// A tile of an input that one expression reads takes no registers when it is loaded there, a word
// at a time, from the thread's two rows.
typedef struct Readers {
    Cuda *c;
    int *n; // by value: expressions over elements that read it; else many
    bool elements;
} Readers;
static void read_by(void *ctx, Val v) {
    Readers *r = ctx;
    r->n[v] += r->elements ? 1 : 2;
}
static bool count(Readers *r, const TBlock *b) { // false: the role has products, or writes tensors
    bool ok = true;
    for (const TOp *o = b->first; o; o = o->next) {
        r->elements = o->op == TOP_MAP || o->op == TOP_INTO;
        ssd_nest_operands(r->c->p, o, read_by, r);
        ok &= o->op != TOP_MMA && o->op != TOP_STORE && count(r, &o->body);
    }
    return ok;
}

// The dimension that the tile's columns run along, element by element, or -1.
static int column_dim(const Cuda *c, const TOp *o) {
    u8 column = val(c, o->out)->lay.ax[1];
    int found = -1;
    for (int d = 0; d < o->nidx; d++) {
        if (!ssd_cuda_ex_has(c, o->idx[d], column)) continue;
        const Expr *x = &c->p->exs.v[o->idx[d]];
        if (found >= 0 || x->kind != EX_AXIS) return -1;
        found = d;
    }
    return o->when && ssd_cuda_ex_has(c, o->when, column) ? -1 : found;
}

static void wait(Readers *r, const TBlock *b) {
    Cuda *c = r->c;
    for (const TOp *o = b->first; o; o = o->next) {
        wait(r, &o->body);
        if (o->op != TOP_LOAD || val(c, o->out)->lay.space != SP_ACC || r->n[o->out] != 1) continue;
        bool input = c->p->tensors.v[o->tensor].role == T_IN;
        if (!input || ssd_cuda_size(c, val(c, o->out)->lay.ax[0]) > 64 || column_dim(c, o) < 0)
            continue;
        c->rows[o->out] = ssd_cuda_name(c, ssd_arena_printf(c->a, "%s_rows", c->name[o->out]));
    }
}

void ssd_cuda_cook_begin(Cuda *c) {
    Readers r = {.c = c, .n = NEWN(c->a, int, c->p->vals.n)};
    if (count(&r, &c->role->body)) wait(&r, &c->role->body);
}

void ssd_cuda_cook_load(Cuda *c, const TOp *o) {
    const u8 *ax = val(c, o->out)->lay.ax;
    const char *row = c->axis[ax[0]], *column = c->axis[ax[1]], *tensor = c->tensor[o->tensor],
               *at[2];
    int d = column_dim(c, o);
    for (int i = 0; i < 2; i++) {
        c->axis[ax[0]] = i ? "(row + 8)" : "row", c->axis[ax[1]] = "0";
        at[i] = ssd_cuda_element(c, o, "at", NULL);
        if (o->when)
            at[i] = ssd_arena_printf(c->a, "%s ? %s : nullptr", ssd_cuda_factor(c, o->when), at[i]);
    }
    c->axis[ax[0]] = row, c->axis[ax[1]] = column;
    ssd_cuda_line(c, "const auto %s = two_rows(%s, %s, %s.stride[%d], (int)%s.dim[%d]);",
                  c->rows[o->out], at[0], at[1], tensor, d, tensor, d);
}

// --- Columns and swaps --------------------------------------------------------------------------
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
