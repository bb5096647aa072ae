// SPDX-License-Identifier: Apache-2.0
// pad: ragged rows are laid out in whole pieces of 16 bytes first, where that is worth it.
//
//   before  kernel scan grid b=#b h=80
//             for c in 0..cdiv(#t, 64) carry s=h0_
//               B_ = load B[b, c*64+j, h//80, n] : bf16[j n]              n=33: rows of 66 bytes
//   after   ws B_pad bf16[#b #t 1 40]
//           kernel pad grid u=#b c=cdiv(#t, 64)
//             B_ = load B[u, c*64+j64, u1, n40] : bf16[j64 u1 n40]          behind 33: zeros
//             store B_pad[u, c*64+j64, u1, n40] = B_
//           kernel scan ..
//               B_ = load B_pad[b, c*64+j, h//80, n]
//
// Bulk copies take rows of whole pieces; lanes copy others, which takes longer. The price is to
// read and write the tensor once more. On an H100 that is won back when many blocks read a row: of
// an odd number of elements SOME, of others MANY.
//
// Needs: T0 after scale. Keeps: every number, bit for bit.
#include "nest.h"
#include "pass.h"
#include "role.h"

enum { SOME = 4, MANY = 32 }; // readers of a row

typedef struct Pad {
    Prog *p;
    u16 *copy;         // by tensor: its copy in workspace, 0: none
    int *rows;         // by tensor: the dimension that tiles' rows run along
    RoleValues values; // of the kernel at hand
    int asked;         // by the schedule: 0 none, 1 all that is not shifted, -1 what is worth it
} Pad;

static const Expr *ex(const Pad *s, Ex e) { return &s->p->exs.v[e]; }

// How many blocks of the kernel read one row, along grid variables of a known number. A group's
// heads find theirs by `h//n`.
static i64 readers(const Pad *s, const TKernel *k, const TOp *load) {
    i64 n = 1;
    for (int i = 0; i < k->ngrid; i++) {
        const Expr *size = ex(s, k->grid[i].size);
        if (size->kind != EX_NUM) continue;
        i64 one = (i64)size->num;
        for (int d = 0; d < load->nidx; d++)
            if (ssd_nest_ex_reads(s->p, load->idx[d], k->grid[i].var))
                one = MIN(one, MAX(ssd_ex_divisor(s->p, load->idx[d], k->grid[i].var), 1));
        n *= one;
    }
    return n;
}

static bool worth(const Pad *s, const TKernel *k, const TOp *load) {
    const TTensor *t = &s->p->tensors.v[load->tensor];
    i64 row = (i64)ex(s, t->dim[t->rank - 1])->num;
    bool values = ex(s, load->idx[load->nidx - 1])->axis == s->values.axis,
         shifts = values && s->values.shifted && ssd_role_shift(s->p, load);
    if (s->asked >= 0) return s->asked && !shifts;
    if (row % 2 == 0) return readers(s, k, load) >= MANY;
    return readers(s, k, load) >= SOME;
}

// The dimension that the tile's rows run along, with all of the last one beside it; -1: another
// kind of load.
static int rows_of(const Pad *s, const TOp *o) {
    const TVal *v = &s->p->vals.v[o->out];
    const TTensor *t = &s->p->tensors.v[o->tensor];
    if (v->naxes != 2 || t->role != T_IN || ssd_dtype_size((ssd_dtype)t->dtype) != 2) return -1;
    const Expr *last = ex(s, o->idx[o->nidx - 1]), *size = ex(s, t->dim[t->rank - 1]);
    if (last->kind != EX_AXIS || size->kind != EX_NUM || !ssd_timed_ragged(s->p, o->tensor))
        return -1;
    int rows = -1;
    for (int d = 0; d + 1 < o->nidx; d++) {
        i64 coef[256] = {0};
        if (!ssd_nest_affine(s->p, o->idx[d], coef)) return -1;
        u8 other = v->ax[0] == last->axis ? v->ax[1] : v->ax[0];
        if (coef[other] == 0) continue;
        if (coef[other] != 1 || rows >= 0) return -1;
        rows = d;
    }
    return s->p->axes.v[last->axis].size == (i64)size->num ? rows : -1;
}

static u16 workspace(const Pad *s, u16 tensor) {
    TTensor t = s->p->tensors.v[tensor];
    Ex dim[8];
    memcpy(dim, t.dim, sizeof *dim * (size_t)t.rank);
    i64 n = (i64)ex(s, dim[t.rank - 1])->num;
    dim[t.rank - 1] = ssd_ex_int(s->p, (n + PIECE - 1) / PIECE * PIECE);
    const char *name = ssd_arena_printf(s->p->arena, "%s_pad", t.name);
    while (ssd_prog_find_tensor(s->p, name)) name = ssd_arena_printf(s->p->arena, "%s_", name);
    return ssd_prog_tensor(s->p, T_WS, name, (ssd_dtype)t.dtype, t.rank, dim);
}

static bool loads(Pad *s, const TKernel *k, TBlock *b) {
    bool changed = false;
    for (TOp *o = b->first; o; o = o->next) {
        int rows = o->op == TOP_LOAD ? rows_of(s, o) : -1;
        if (rows >= 0 && worth(s, k, o)) {
            if (!s->copy[o->tensor]) {
                s->copy[o->tensor] = workspace(s, o->tensor);
                s->rows[o->tensor] = rows;
            }
            o->tensor = s->copy[o->tensor];
            changed = true;
        }
        changed |= loads(s, k, &o->body);
    }
    return changed;
}

// Tensors of the same dimensions are copied by one kernel.
static bool alike(const Pad *s, u16 x, u16 y) {
    const TTensor *a = &s->p->tensors.v[x], *b = &s->p->tensors.v[y];
    return a->rank == b->rank && s->rows[x] == s->rows[y] &&
           !memcmp(a->dim, b->dim, sizeof *a->dim * (size_t)a->rank);
}

static u8 axis(Prog *p, const char *name, i64 size) {
    return ssd_prog_axis(p, ssd_arena_printf(p->arena, "%s%lld", name, (long long)size), size);
}

// What is behind a row is out of range, and reads 0.
static void copy_tensor(const Pad *s, TB *b, u16 tensor, Ex idx[8]) {
    const TTensor *t = &s->p->tensors.v[tensor];
    const char *name = ssd_arena_printf(s->p->arena, "%s_", t->name);
    int rank = t->rank;
    Val v = ssd_tile_load(b, name, (ssd_dtype)t->dtype, tensor, idx, rank, 0);
    ssd_tile_store(b, s->copy[tensor], idx, rank, ssd_ex_val(s->p, v), 0);
}

// What lies beside a row in memory is copied by the same block, some AT_ONCE elements.
static TKernel copier(Pad *s, u16 first, u32 n, int number) {
    enum { ROWS_MOST = 64, AT_ONCE = 8192 };
    Prog *p = s->p;
    TTensor t = p->tensors.v[first], pad = p->tensors.v[s->copy[first]];
    TKernel k = {.name = number ? ssd_arena_printf(p->arena, "pad%d", number) : "pad"};
    const int row = s->rows[first], last = t.rank - 1;
    i64 all = (i64)ex(s, pad.dim[last])->num, beside = all, rows = ROWS_MOST;
    Ex idx[8];
    for (int d = 0; d < last; d++) {
        if (d == row) continue;
        if (d < row || ex(s, t.dim[d])->kind != EX_NUM) {
            idx[d] = ssd_ex_val(p, ssd_prog_grid(p, &k, "u", t.dim[d]));
            continue;
        }
        i64 size = (i64)ex(s, t.dim[d])->num;
        idx[d] = ssd_ex_axis(p, axis(p, ssd_arena_printf(p->arena, "%c", "stuvwxyz"[d]), size));
        beside *= size;
    }
    while (rows > 1 && rows * beside > AT_ONCE) rows /= 2;
    Ex size = ssd_ex_fn(p, FN_CDIV, t.dim[row], ssd_ex_int(p, rows), 0);
    Ex begin = ssd_ex_val(p, ssd_prog_grid(p, &k, "c", size));
    begin = ssd_ex_fn(p, FN_MUL, begin, ssd_ex_int(p, rows), 0);
    idx[row] = ssd_ex_fn(p, FN_ADD, begin, ssd_ex_axis(p, axis(p, "j", rows)), 0);
    idx[last] = ssd_ex_axis(p, axis(p, "n", all));
    TB b = {p, &k.body};
    for (u16 i = first; i < n; i++) {
        if (i != first && (!s->copy[i] || !alike(s, first, i))) continue;
        copy_tensor(s, &b, i, idx);
        if (i != first) s->copy[i] = 0;
    }
    s->copy[first] = 0;
    return k;
}

bool ssd_pass_pad(Unit *u) {
    Prog *p = u->prog;
    if (!u->machine->gpu || !u->machine->wgmma || p->matmul) return false;
    u32 n = p->tensors.n;
    Pad s = {.p = p,
             .copy = NEWN(p->arena, u16, n),
             .rows = NEWN(p->arena, int, n),
             .asked = u->schedule.pad};
    bool changed = false;
    for (u32 k = 0; k < p->kernels.n; k++)
        if (ssd_role_takes(u, &p->kernels.v[k], &s.values))
            changed |= loads(&s, &p->kernels.v[k], &p->kernels.v[k].body);
    int made = 0;
    for (u16 i = 1; i < n; i++) {
        if (!s.copy[i]) continue;
        TKernel k = copier(&s, i, n, made++);
        vec_push(p->arena, &p->kernels, k);
        memmove(&p->kernels.v[1], &p->kernels.v[0], (p->kernels.n - 1) * sizeof k);
        p->kernels.v[0] = k;
    }
    return changed;
}
