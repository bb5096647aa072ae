// SPDX-License-Identifier: Apache-2.0
// T0 -> T1, second half: every tile gets a storage order, strides and a buffer.
//
//   k = load B[b, c*64+j, h, n] : f32[j n]         k  = load .. : f32[j n] @mem(j n) in b0
//   S = mma q k : f32[i j]                   ->    kt = copy k : f32[j n] @mem(n j) in b4 (unless k
//   can be loaded so) sd = map {s*exp2(e)} : f32[p n]                S  = mma q kt : f32[i j]
//   @mem(i j) in b2
//                                                  sd = map {..} : f32[p n] @mem(n p) in b1   the
//                                                  buffer of s
//
// In order: lane axes by search (layout_lane.c); copies where a product's operand lies wrong;
// neighbours that share a loop nest and the values that so stay in registers; buffers by liveness,
// with in-place updates and carries that meet themselves (layout_mem.c). Needs: pass_place. Leaves:
// T1 as described in tile.h and nest.h.
#include "layout.h"
#include "timed.h"

static TVal *val(const Layout *l, Val v) { return &l->p->vals.v[v]; }

// --- Facts --------------------------------------------------------------------------------------
static void grow(Layout *l) {
    u32 n = l->p->vals.n;
    if (n <= l->ninfo) return;
    ValInfo *info = NEWN(l->p->arena, ValInfo, 2 * n);
    if (l->ninfo) memcpy(info, l->info, l->ninfo * sizeof *info);
    l->info = info;
    l->ninfo = 2 * n;
}

static void define(Layout *l, Val v, TOp *o) {
    if (!l->info[v].up) {
        l->info[v].up = v;
        for (u8 i = 0; i < 6; i++) l->info[v].perm[i] = i;
    }
    l->info[v].def = o;
    if (val(l, v)->naxes) vec_push(l->p->arena, &l->vals, v);
}

// How often a loop's body runs, for prices: what is known, else a guess.
static double turns(const Layout *l, const TOp *o) {
    const Expr *lo = &l->p->exs.v[o->lo], *hi = &l->p->exs.v[o->hi];
    if (o->op == TOP_IF) return 1;
    if (lo->kind == EX_NUM && hi->kind == EX_NUM) return MAX(hi->num - lo->num, 0);
    return o->op == TOP_EACH ? 4 : 32;
}

static void scan(Layout *l, TBlock *b, double times) {
    for (TOp *o = b->first; o; o = o->next) {
        vec_push(l->p->arena, &l->ops, o);
        vec_push(l->p->arena, &l->times, times);
        if (o->out) define(l, o->out, o);
        for (int i = 0; o->carry && i < o->ncarry; i++) define(l, o->carry[i], o);
        if (o->body.first) scan(l, &o->body, times * turns(l, o));
    }
}

void ssd_layout_scan(Layout *l) {
    grow(l);
    l->vals.n = l->ops.n = l->times.n = 0;
    scan(l, &l->k->body, 1);
}

Val ssd_layout_copy_of(Layout *l, Val v) {
    TVal t = *val(l, v);
    t.carry = false;
    t.lay.buf = 0;
    vec_push(l->p->arena, &l->p->vals, t);
    grow(l);
    Val w = l->p->vals.n - 1;
    l->info[w] = (ValInfo){.up = w, .perm = {0, 1, 2, 3, 4, 5}};
    return w;
}

// --- Products read and write what they can ------------------------------------------------------
static void insert(TBlock *b, TOp *prev, TOp *o) {
    o->next = prev ? prev->next : b->first;
    if (prev)
        prev->next = o;
    else
        b->first = o;
    if (b->last == prev) b->last = o;
}

static TOp *copy_op(Layout *l, Val from, Val to) {
    TOp *o = NEW(l->p->arena, TOp);
    o->op = TOP_COPY;
    o->a = from;
    o->out = to;
    l->info[to].def = o;
    return o;
}

static Val lane_copy(Layout *l, Val v, u8 lane) {
    Val w = ssd_layout_copy_of(l, v);
    for (u8 i = 0; i < val(l, w)->naxes; i++)
        if (val(l, w)->ax[i] == lane) l->info[w].lane = i;
    return w;
}

static u8 a_free_axis(const Layout *l, const TOp *o) {
    const TVal *v = val(l, o->out);
    for (int i = v->naxes - 1; i >= 0; i--)
        if (ssd_layout_mma_b(l, o, v->ax[i])) return v->ax[i];
    SSD_BUG("a product without a free axis");
}

// The same operand in the same order for several products of a block is copied once.
static Val earlier_copy(const Layout *l, const TBlock *b, const TOp *until, Val v, u8 lane) {
    for (const TOp *o = b->first; o != until; o = o->next)
        if (o->op == TOP_COPY && o->a == v && val(l, o->out)->ax[l->info[o->out].lane] == lane)
            return o->out;
    return 0;
}

static void mma_copies(Layout *l, TBlock *b) {
    TOp *prev = NULL;
    for (TOp *o = b->first; o; prev = o, o = o->next) {
        mma_copies(l, &o->body);
        if (o->op != TOP_MMA) continue;
        u8 lane = ssd_layout_mma_lane(l, o);
        if (!lane) { // the result is wanted along an axis no operand has alone
            lane = a_free_axis(l, o);
            Val out = o->out;
            o->out = lane_copy(l, out, lane);
            l->info[o->out].def = o;
            insert(b, o, copy_op(l, o->out, out));
        }
        Val *use[] = {ssd_layout_mma_b(l, o, lane) == o->a ? &o->a : &o->b, &o->c};
        for (int i = 0; i < 2; i++) {
            if (!*use[i] || ssd_nest_stride(l->p, *use[i], lane) == 1) continue;
            Val w = earlier_copy(l, b, o, *use[i], lane);
            if (!w) {
                w = lane_copy(l, *use[i], lane);
                TOp *c = copy_op(l, *use[i], w);
                insert(b, prev, c);
                prev = c;
            }
            *use[i] = w;
        }
    }
}

// --- Shared nests -------------------------------------------------------------------------------
enum { MAX_RUN = 16, MAX_REDUCES = 4 };
typedef struct Run {
    Layout *l;
    TOp *op[MAX_RUN];
    int n;
    u8 ax[8];
    int nax;
    u8 lane, reduce;
    int reduces;
    bool bad; // set by visitors
} Run;

static bool full_axes(const Run *r, const u8 *ax, int n) {
    for (int i = 0; i < n; i++)
        if (!memchr(r->ax, ax[i], (size_t)r->nax)) return false;
    return n == r->nax;
}

static const TOp *def_in_run(const Run *r, Val v) {
    for (int i = 0; i < r->n; i++)
        if (r->op[i]->out == v) return r->op[i];
    return NULL;
}

// A value of the run may be read only at the point it was computed at.
static void pointwise(void *ctx, Val v) {
    Run *r = ctx;
    const TOp *d = def_in_run(r, ssd_layout_root(r->l, v));
    if (d) r->bad |= d->out != v || d->op == TOP_REDUCE;
}
static void independent(void *ctx, Val v) {
    Run *r = ctx;
    r->bad |= def_in_run(r, ssd_layout_root(r->l, v)) != NULL;
}
static bool reads_run(Run *r, const TOp *o, ValVisit *how) {
    r->bad = false;
    ssd_nest_operands(r->l->p, o, how, r);
    return r->bad;
}

bool ssd_layout_same_tensor(const Prog *p, u16 a, u16 b) {
    const TTensor *x = &p->tensors.v[a], *y = &p->tensors.v[b];
    return a == b || (x->alias && !strcmp(x->alias, y->name)) ||
           (y->alias && !strcmp(y->alias, x->name));
}

// Does an expression of the op read a tensor that `t` shares memory with?
static bool ex_reads_tensor(const Prog *p, Ex e, u16 t) {
    if (!e) return false;
    const Expr *x = &p->exs.v[e];
    bool found = x->kind == EX_LOAD && ssd_layout_same_tensor(p, x->tensor, t);
    for (int i = 0; i < x->nidx; i++) found |= ex_reads_tensor(p, x->idx[i], t);
    for (int i = 0; x->kind == EX_FN && i < ssd_fns[x->fn].arity; i++)
        found |= ex_reads_tensor(p, x->arg[i], t);
    return found;
}
bool ssd_layout_reads_tensor(const Prog *p, const TOp *o, u16 t) {
    bool found = ex_reads_tensor(p, o->e, t) || ex_reads_tensor(p, o->when, t);
    for (int i = 0; i < o->nidx; i++) found |= ex_reads_tensor(p, o->idx[i], t);
    return found;
}

// Memory written here and read there must be the same element at the same point.
static bool memory_clash(const Run *r, const TOp *o) {
    const Prog *p = r->l->p;
    for (int i = 0; i < r->n; i++) {
        const TOp *w = r->op[i];
        if (w->op == TOP_STORE && ssd_layout_reads_tensor(p, o, w->tensor)) return true;
        if (o->op == TOP_STORE && ssd_layout_reads_tensor(p, w, o->tensor)) return true;
        bool access =
            (w->op == TOP_LOAD || w->op == TOP_STORE) && (o->op == TOP_LOAD || o->op == TOP_STORE);
        if (!access || (w->op == TOP_LOAD && o->op == TOP_LOAD) ||
            !ssd_layout_same_tensor(p, w->tensor, o->tensor))
            continue;
        if (w->op == TOP_STORE || w->nidx != o->nidx ||
            memcmp(w->idx, o->idx, w->nidx * sizeof(Ex)))
            return true;
    }
    return false;
}

// A load across memory order is better done by blocks on its own.
static bool transposing(const Run *r, const TOp *o, u8 lane) {
    u8 x = o->op == TOP_LOAD ? ssd_nest_contiguous(r->l->p, o) : 0;
    return x && x != lane;
}

static u8 lane_of(const Layout *l, const TOp *first, const TOp *last) {
    Nest n;
    ssd_nest_plan(l->p, first, last, l->m->f32_lanes, 0, &n);
    return n.ax[n.lane];
}

// It belongs to the mma behind it (start_in_registers).
static bool feeds_product(const Layout *l, const TOp *o) {
    return o->op == TOP_MAP && val(l, o->out)->lay.space == SP_REG && o->next &&
           o->next->op == TOP_MMA;
}

// It begins a nest that is complete.
static bool held(const Layout *l, const TOp *o) {
    return l->m->gpu && o->out && val(l, o->out)->lay.space == SP_REG;
}

static bool joins(Run *r, const TOp *o) {
    u8 ax[8];
    const Prog *p = r->l->p;
    if (r->n == MAX_RUN || o->op == TOP_COPY || !ssd_nest_op(p, o) || feeds_product(r->l, o) ||
        held(r->l, o))
        return false;
    if (!full_axes(r, ax, ssd_nest_axes(p, o, ax))) return false;
    if (o->op == TOP_REDUCE && r->reduces == MAX_REDUCES) return false;
    if (o->op == TOP_REDUCE && r->reduce && r->reduce != o->ax[0]) return false;
    if (transposing(r, o, r->lane) || memory_clash(r, o)) return false;
    return !reads_run(r, o, pointwise);
}

// Pure ops that want nothing from the run may stand before it.
static bool may_pass(Run *r, const TOp *o) {
    if (feeds_product(r->l, o) || held(r->l, o)) return false;
    switch ((TOpCode)o->op) {
    case TOP_LOAD:
    case TOP_MAP:
    case TOP_REDUCE:
    case TOP_FILL:
    case TOP_RENAME:
    case TOP_SPLIT:
    case TOP_SLICE:
    case TOP_AT: return !memory_clash(r, o) && !reads_run(r, o, independent);
    default: return false;
    }
}

static bool used_outside(const Run *r, Val v) {
    for (u32 i = 0; i < r->l->ops.n; i++) {
        const TOp *o = r->l->ops.v[i];
        bool inside = false;
        for (int k = 0; k < r->n; k++) inside |= r->op[k] == o;
        if (!inside && ssd_nest_op_reads(r->l->p, o, v)) return true;
    }
    return false;
}

// Grows a run from the op at *link. Ops in between that want nothing from it move before it, to
// *link. Returns its last op.
static TOp *grow_run(Run *r, TOp **link) {
    TOp *first = *link, *last = first;
    r->n = 1;
    r->op[0] = first;
    r->nax = ssd_nest_axes(r->l->p, first, r->ax);
    r->lane = lane_of(r->l, first, first);
    r->reduces = first->op == TOP_REDUCE;
    r->reduce = r->reduces ? first->ax[0] : 0;
    for (TOp *o = first->next; o; o = o->next) {
        if (joins(r, o)) {
            if (last->next != o) {
                TOp *to = *link = last->next;
                while (to->next != o) to = to->next;
                to->next = first;
                link = &to->next;
                last->next = o;
            }
            r->op[r->n++] = last = o;
            if (o->op == TOP_REDUCE) r->reduce = o->ax[0], r->reduces++;
        } else if (!may_pass(r, o)) {
            break;
        }
    }
    return last;
}

static void share_nests(Layout *l, TBlock *b) {
    u32 moves = 0;
    for (TOp **link = &b->first, *o; (o = *link);) {
        TOp *last = o;
        share_nests(l, &o->body);
        if (held(l, o)) {
            link = &ssd_nest_last(l->p, o)->next;
            continue;
        }
        Run r = {.l = l};
        bool starts =
            ssd_nest_op(l->p, o) && o->op != TOP_COPY && o->op != TOP_STORE && !feeds_product(l, o);
        if (starts && !transposing(&r, o, lane_of(l, o, o))) {
            last = grow_run(&r, link);
            for (int i = 0; i < r.n; i++) {
                Val v = r.op[i]->out;
                if (v && r.op[i]->op != TOP_REDUCE && !used_outside(&r, v))
                    val(l, v)->lay.space = SP_REG;
            }
        }
        // What moved to the run's place may begin one of its own.
        if (*link == o || moves++ > l->ops.n) link = &last->next;
    }
}

// --- What is cheaper done twice -----------------------------------------------------------------
typedef struct Replace {
    Val from, to;
} Replace;
static Ex replaced(void *ctx, Prog *p, Ex e) {
    const Replace *r = ctx;
    return p->exs.v[e].kind == EX_VAL && p->exs.v[e].val == r->from ? ssd_ex_val(p, r->to) : e;
}

static bool stores_to(const Layout *l, const TOp *o, u16 tensor) {
    if (o->op == TOP_STORE && ssd_layout_same_tensor(l->p, o->tensor, tensor)) return true;
    for (const TOp *w = o->body.first; w; w = w->next)
        if (stores_to(l, w, tensor)) return true;
    return false;
}

// A load that a few nests read point by point is done in each of them: reading a tensor again,
// still in the cache, costs less than writing the tile to scratch and reading it back.
static void repeat_load(Layout *l, TBlock *b, TOp *load) {
    enum { MOST = 3 };
    TOp *user[MOST], *before[MOST], *prev = load;
    u8 ax[8];
    int n = 0, all = 0;
    for (u32 i = 0; i < l->ops.n; i++) all += ssd_nest_op_reads(l->p, l->ops.v[i], load->out);
    for (TOp *o = load->next; o; prev = o, o = o->next) {
        if (ssd_nest_op_reads(l->p, o, load->out)) {
            bool point = o->op == TOP_MAP || o->op == TOP_STORE || o->op == TOP_REDUCE;
            if (!point || n == MOST || ssd_nest_axes(l->p, o, ax) != val(l, load->out)->naxes)
                return;
            user[n] = o;
            before[n++] = prev;
        }
        if (n < all && stores_to(l, o, load->tensor)) return;
    }
    if (n < 2 || n != all) return; // used elsewhere too
    for (int i = n - 1; i > 0; i--) {
        TOp *copy = NEW(l->p->arena, TOp);
        *copy = *load;
        copy->out = ssd_layout_copy_of(l, load->out);
        l->info[copy->out].up = load->out;
        Replace r = {load->out, copy->out};
        user[i]->e = ssd_ex_rewrite(l->p, user[i]->e, replaced, &r);
        user[i]->when = ssd_ex_rewrite(l->p, user[i]->when, replaced, &r);
        insert(b, before[i], copy);
    }
}

static void repeat_loads(Layout *l, TBlock *b) {
    Run none = {.l = l};
    for (TOp *o = b->first; o; o = o->next) {
        repeat_loads(l, &o->body);
        if (o->op != TOP_LOAD || !val(l, o->out)->naxes || transposing(&none, o, lane_of(l, o, o)))
            continue;
        if (ssd_nest_contiguous(l->p, o)) repeat_load(l, b, o);
    }
}

// --- Accumulators that are computed as a product starts -----------------------------------------
// sd = map {s*ed} ; s1 = mma xw k + sd: the map is evaluated in the registers of each block.
static bool has_ex_load(const Prog *p, Ex e) {
    const Expr *x = &p->exs.v[e];
    if (x->kind == EX_LOAD) return true;
    for (int i = 0; x->kind == EX_FN && i < ssd_fns[x->fn].arity; i++)
        if (has_ex_load(p, x->arg[i])) return true;
    return false;
}

static bool same_place(const Layout *l, Val a, Val b) {
    const Lay *x = &val(l, a)->lay, *y = &val(l, b)->lay;
    return !memcmp(x->ax, y->ax, x->naxes) &&
           !memcmp(x->stride, y->stride, x->naxes * sizeof *x->stride);
}

static void start_in_registers(Layout *l, TBlock *b) {
    TOp *prev = NULL;
    for (TOp *o = b->first; o; prev = o, o = o->next) {
        start_in_registers(l, &o->body);
        if (o->op != TOP_MMA || !o->c) continue;
        TOp *map = NULL, *before_map = NULL, *p = NULL;
        for (TOp *w = b->first; w != o; p = w, w = w->next)
            if (w->out == o->c) map = w, before_map = p;
        int n = 0;
        for (u32 i = 0; map && i < l->ops.n; i++)
            n += ssd_nest_op_reads(l->p, l->ops.v[i], map->out);
        if (!map || map->op != TOP_MAP || n != 1 || o->a == o->c || o->b == o->c) continue;
        if (val(l, o->c)->dtype != SSD_F32 || has_ex_load(l->p, map->e) ||
            !same_place(l, o->c, o->out))
            continue;
        val(l, o->c)->lay.space = SP_REG;
        if (prev == map) continue;
        if (before_map)
            before_map->next = map->next;
        else
            b->first = map->next;
        insert(b, prev, map);
        prev = map;
    }
}

// --- Prefetch -----------------------------------------------------------------------------------
// What a loop's next turn reads and writes in memory is fetched beside this turn's products, which
// leave the memory system idle: each load and store by the loop's variable gets a `prefetch` before
// one of them, by turns, so that lines and multiplications are spread alike. Hardware follows a
// tile that lies in one piece by itself.
typedef struct Turn {
    Val var;
    Ex next;
} Turn;
static Ex next_turn(void *ctx, Prog *p, Ex e) {
    const Turn *t = ctx;
    return p->exs.v[e].kind == EX_VAL && p->exs.v[e].val == t->var ? t->next : e;
}

static double flops(const Layout *l, const TOp *o) {
    double n = 1;
    const TVal *a = val(l, o->a), *b = val(l, o->b);
    for (int i = 0; i < a->naxes; i++) n *= (double)l->p->axes.v[a->ax[i]].size;
    for (int i = 0; i < b->naxes; i++)
        if (!memchr(a->ax, b->ax[i], a->naxes)) n *= (double)l->p->axes.v[b->ax[i]].size;
    return n;
}

static double tensor_lines(const Layout *l, const TOp *o) {
    u8 ax[8], along = ssd_nest_contiguous(l->p, o);
    double lines = 1;
    int n = ssd_nest_axes(l->p, o, ax);
    for (int i = 0; i < n; i++) {
        double size = (double)l->p->axes.v[ax[i]].size;
        size_t element = ssd_dtype_size((ssd_dtype)l->p->tensors.v[o->tensor].dtype);
        lines *= ax[i] == along ? (size * (double)element + 63) / 64 : size;
    }
    return lines;
}

// Is the tile one piece of its tensor?
static bool in_one_piece(const Layout *l, const TOp *o) {
    const TTensor *t = &l->p->tensors.v[o->tensor];
    i64 coef[256], stride = 1, tile = 1;
    u8 ax[8];
    int n = ssd_nest_axes(l->p, o, ax), found = 0;
    for (int d = o->nidx - 1; d >= 0 && found < n; d--) {
        if (!ssd_nest_affine(l->p, o->idx[d], coef)) return false;
        for (int i = 0; i < n; i++)
            if (coef[ax[i]]) {
                if (coef[ax[i]] * stride != tile) return false;
                tile *= l->p->axes.v[ax[i]].size;
                found++;
            }
        const Expr *dim = &l->p->exs.v[t->dim[d]];
        if (dim->kind != EX_NUM) break;
        stride *= (i64)dim->num;
    }
    return found == n;
}

static bool walks(const Layout *l, const TOp *o, const Turn *t, TOp *out) {
    u8 ax[8];
    bool any = false;
    if ((o->op != TOP_LOAD && o->op != TOP_STORE) || !ssd_nest_axes(l->p, o, ax)) return false;
    if (in_one_piece(l, o)) return false;
    *out = (TOp){.op = TOP_PREFETCH, .tensor = o->tensor, .nidx = o->nidx};
    for (int d = 0; d < o->nidx; d++) {
        out->idx[d] = ssd_ex_rewrite(l->p, o->idx[d], next_turn, (void *)t);
        any |= out->idx[d] != o->idx[d];
    }
    return any;
}

static void prefetch_loop(Layout *l, TOp *loop) {
    double all_flops = 0, all_lines = 0, seen_flops = 0, seen_lines = 0;
    TOp pre;
    Turn t = {loop->var, 0};
    Ex var = ssd_ex_val(l->p, loop->var), one = ssd_ex_int(l->p, 1);
    t.next = ssd_ex_fn(l->p, loop->flags & TF_REV ? FN_SUB : FN_ADD, var, one, 0);
    VEC(TOp *) todo = {0};
    for (TOp *o = loop->body.first; o; o = o->next) {
        if (o->op == TOP_MMA) all_flops += flops(l, o);
        if (!walks(l, o, &t, &pre)) continue;
        bool again = false;
        for (u32 i = 0; i < todo.n; i++)
            again |=
                todo.v[i]->tensor == pre.tensor && !memcmp(todo.v[i]->idx, pre.idx, sizeof pre.idx);
        if (again) continue;
        TOp *copy = NEW(l->p->arena, TOp);
        *copy = pre;
        vec_push(l->p->arena, &todo, copy);
        all_lines += tensor_lines(l, o);
    }
    u32 done = 0;
    TOp *prev = NULL;
    for (TOp *o = loop->body.first; o; prev = feeds_product(l, o) ? prev : o, o = o->next) {
        if (o->op != TOP_MMA) continue;
        seen_flops += flops(l, o);
        while (done < todo.n && seen_lines * all_flops < seen_flops * all_lines) {
            TOp *w = todo.v[done++];
            seen_lines += tensor_lines(l, w);
            insert(&loop->body, prev, w);
            prev = w;
        }
    }
}

static void prefetch(Layout *l, TBlock *b) {
    for (TOp *o = b->first; o; o = o->next) {
        prefetch(l, &o->body);
        if (o->op == TOP_FOR) prefetch_loop(l, o);
    }
}

// --- The pass -----------------------------------------------------------------------------------
// Rank 0 is a scalar; a tile lies in memory until it is found to fit registers.
static void spaces(Prog *p) {
    for (u32 v = 1; v < p->vals.n; v++) {
        TVal *x = &p->vals.v[v];
        if (x->lay.space) continue; // of a kernel of roles
        x->lay = (Lay){.space = x->naxes ? SP_MEM : SP_SCALAR, .naxes = x->naxes};
        memcpy(x->lay.ax, x->ax, sizeof x->ax);
    }
}

static void layout_kernel(Unit *u, TKernel *k) {
    Layout l = {.p = u->prog, .m = u->machine, .k = k};
    ssd_layout_scan(&l);
    ssd_layout_lanes(&l);
    if (!l.m->gpu) { // whose products read tiles at any strides, and which hides latency by threads
        mma_copies(&l, &k->body);
        ssd_layout_scan(&l);
        ssd_layout_strides(&l);
        repeat_loads(&l, &k->body);
        start_in_registers(&l, &k->body);
    }
    ssd_layout_scan(&l);
    ssd_layout_strides(&l);
    if (l.m->gpu) ssd_layout_hold(&l, &k->body);
    share_nests(&l, &k->body);
    if (!l.m->gpu) prefetch(&l, &k->body);
    ssd_layout_scan(&l);
    ssd_layout_mem(&l);
}

// A GPU's blocks have so much shared memory and no more.
static bool fits(const Unit *u) {
    for (u32 i = 0; u->machine->gpu && i < u->prog->kernels.n; i++) {
        i64 bytes = 0;
        for (const TOp *o = u->prog->kernels.v[i].body.first; o; o = o->next)
            if (o->op == TOP_BUF) bytes += o->bytes;
        if (bytes > u->machine->l1) return false;
    }
    return true;
}

bool ssd_pass_layout(Unit *u) {
    spaces(u->prog);
    for (u32 i = 0; i < u->prog->kernels.n; i++)
        if (!ssd_timed_kernel(u->prog, &u->prog->kernels.v[i]))
            layout_kernel(u, &u->prog->kernels.v[i]);
    u->prog->stratum = MAX(u->prog->stratum, 1);
    if (!fits(u)) ssd_refuse(u, REASON_SCRATCH);
    return true;
}
