// SPDX-License-Identifier: Apache-2.0
// Buffers of a kernel's tiles. Values that may be one piece of memory become one class, in this
// order: a loop's carry with what it starts as and what it becomes (else a copy stands on that
// edge), an mma and its accumulator, a map and an operand of the same layout that dies there.
// Classes whose lives do not meet share a slot.
//
// Life is a set of points on the kernel's text, two for each op (reads, then writes). It is kept
// twice: `tight` knows that an op reads an element before it writes the same one, for merging
// values of equal layout; `wide` lets every operand live past the whole nest, for sharing memory in
// any shape.
#include "layout.h"

typedef struct Loop {
    TOp *op;
    int up, pos, end; // index of the loop around, position of the op and of its end
} Loop;
typedef struct Point {
    TOp *op;
    TBlock *block;
    int loop, pos, first, last; // innermost loop around; extent of the nest it belongs to
    bool shared; // the nest is held, and threads have elements of its vectors in common
} Point;
typedef struct Life {
    u64 *tight, *wide;
    Val cls;      // union-find; classes are kept at their root
    i64 bytes;    // roots
    int point;    // index of the op that defines it
    int carry_of; // loop whose carry it is, -1
} Life;

typedef struct Mem {
    Layout *l;
    Prog *p;
    VEC(Loop) loops;
    VEC(Point) points;
    int npos, words;
    Life *life; // by value
    Point *at;  // the op whose operands are being visited
} Mem;

static TVal *val(const Mem *m, Val v) { return &m->p->vals.v[v]; }
static bool in_memory(const Mem *m, Val v) { return val(m, v)->lay.space == SP_MEM; }

// --- Positions ----------------------------------------------------------------------------------
static void number(Mem *m, TBlock *b, int loop) {
    for (TOp *o = b->first; o;) {
        TOp *last = ssd_nest_op(m->p, o) ? ssd_nest_last(m->p, o) : o;
        bool shared = last != o && ssd_nest_held(m->p, o, last);
        int first = m->npos;
        u32 from = m->points.n;
        for (;; o = o->next) {
            vec_push(m->p->arena, &m->points,
                     ((Point){.op = o,
                              .block = b,
                              .loop = loop,
                              .pos = m->npos++,
                              .first = first,
                              .shared = shared}));
            if (o == last) break;
        }
        for (u32 i = from; i < m->points.n; i++) m->points.v[i].last = m->npos - 1;
        if (o->body.first && o->op != TOP_IF) {
            vec_push(m->p->arena, &m->loops, ((Loop){.op = o, .up = loop, .pos = m->npos - 1}));
            int inner = (int)m->loops.n - 1;
            number(m, &o->body, inner);
            m->loops.v[inner].end = m->npos++;
        } else if (o->body.first) {
            number(m, &o->body, loop);
        }
        o = o->next;
    }
}

static void set(u64 *bits, int from, int to) {
    for (int i = from; i <= to; i++) bits[i / 64] |= 1ull << (i % 64);
}

// The end of the outermost loop that holds a use but not the definition, or -1.
static int loop_extent(const Mem *m, int use_loop, int def_loop) {
    int end = -1;
    for (int i = use_loop; i >= 0 && i != def_loop; i = m->loops.v[i].up) end = m->loops.v[i].end;
    return end;
}
static bool inside(const Mem *m, int loop, int outer) {
    for (; loop >= 0; loop = m->loops.v[loop].up)
        if (loop == outer) return true;
    return false;
}

static void live_to(Mem *m, Val v, int tight_end, int wide_end, int use_loop) {
    Life *f = &m->life[v];
    const Point *d = &m->points.v[f->point];
    int from_tight = 2 * d->pos + 1, from_wide = 2 * d->first + 1, def_loop = d->loop;
    if (f->carry_of >= 0) {
        const Loop *own = &m->loops.v[f->carry_of];
        if (inside(m, use_loop, f->carry_of)) {
            def_loop = f->carry_of;
            from_tight = from_wide = 2 * own->pos + 1;
        } else {
            from_tight = from_wide = 2 * own->end + 1;
        }
    }
    int end = loop_extent(m, use_loop, def_loop);
    if (end >= 0) tight_end = wide_end = 2 * end + 1;
    set(f->tight, from_tight, tight_end);
    set(f->wide, from_wide, wide_end);
}

// --- Which reads precede the write of the same element ------------------------------------------
static bool same_layout(const Mem *m, Val a, Val b) {
    const Lay *x = &val(m, a)->lay, *y = &val(m, b)->lay;
    if (val(m, a)->dtype != val(m, b)->dtype) return false;
    if (x->space != SP_MEM || y->space != SP_MEM || x->naxes != y->naxes || x->offset || y->offset)
        return false;
    return !memcmp(x->ax, y->ax, x->naxes) &&
           !memcmp(x->stride, y->stride, x->naxes * sizeof *x->stride);
}

static bool reads_in_step(const Mem *m, const TOp *o, Val v) {
    u8 ax[8];
    switch ((TOpCode)o->op) {
    case TOP_MAP:
    case TOP_REDUCE:
    case TOP_STORE:
        if (ssd_layout_root(m->l, v) != v && !(o->out && same_layout(m, v, o->out))) return false;
        return val(m, v)->naxes == ssd_nest_axes(m->p, o, ax);
    case TOP_MMA: return v == o->c && v != o->a && v != o->b && same_layout(m, v, o->out);
    case TOP_SCAN:
    case TOP_COPY: return same_layout(m, v, o->out);
    case TOP_PUT: return v == o->a && v != o->b && same_layout(m, v, o->out);
    default: return false;
    }
}

static void use(void *ctx, Val v) {
    Mem *m = ctx;
    const Point *at = m->at;
    Val root = ssd_layout_root(m->l, v);
    if (!val(m, root)->naxes || !in_memory(m, root)) return;
    bool step = at->op->op != TOP_FOR && at->op->op != TOP_EACH && reads_in_step(m, at->op, v);
    if (step && at->shared && val(m, root)->naxes < 2) step = false; // other threads read it too
    bool init = at->op->op == TOP_FOR || at->op->op == TOP_EACH;
    live_to(m, root, step || init ? 2 * at->pos : 2 * at->last + 1, 2 * at->last + 1, at->loop);
}

static void use_of_yield(void *ctx, Val v) {
    Mem *m = ctx;
    Val root = ssd_layout_root(m->l, v);
    int end = m->loops.v[m->at->loop].end;
    if (val(m, root)->naxes) live_to(m, root, 2 * end, 2 * end + 1, m->at->loop);
}

static void lives(Mem *m) {
    for (u32 i = 0; i < m->points.n; i++) {
        Point *pt = &m->points.v[i];
        TOp *o = pt->op;
        int loop = -1;
        for (u32 k = 0; k < m->loops.n; k++)
            if (m->loops.v[k].op == o) loop = (int)k;
        for (int k = 0; o->carry && k < o->ncarry; k++) {
            m->life[o->carry[k]].point = (int)i;
            m->life[o->carry[k]].carry_of = loop;
            set(m->life[o->carry[k]].tight, 2 * pt->pos + 1, 2 * pt->pos + 1);
            set(m->life[o->carry[k]].wide, 2 * pt->pos + 1, 2 * pt->pos + 1);
        }
        if (!o->out) continue;
        Life *f = &m->life[o->out];
        f->point = (int)i;
        f->carry_of = -1;
        set(f->tight, 2 * pt->pos + 1, 2 * pt->pos + 1);
        set(f->wide, 2 * pt->first + 1, 2 * pt->last + 1);
    }
    for (u32 i = 0; i < m->points.n; i++) {
        m->at = &m->points.v[i];
        ssd_nest_operands(m->p, m->at->op, m->at->op->op == TOP_YIELD ? use_of_yield : use, m);
    }
}

// --- Classes ------------------------------------------------------------------------------------
static Val find(const Mem *m, Val v) {
    while (m->life[v].cls != v) v = m->life[v].cls;
    return v;
}
static bool meet(const Mem *m, const u64 *a, const u64 *b) {
    for (int i = 0; i < m->words; i++)
        if (a[i] & b[i]) return true;
    return false;
}

// One memory for v and w, when their layouts are the same and they never live at once.
static bool merge(Mem *m, Val v, Val w) {
    if (!same_layout(m, v, w)) return false;
    Val a = find(m, ssd_layout_root(m->l, v)), b = find(m, ssd_layout_root(m->l, w));
    if (a == b) return true;
    Life *x = &m->life[a], *y = &m->life[b];
    if (meet(m, x->tight, y->tight)) return false;
    for (int i = 0; i < m->words; i++) {
        x->tight[i] |= y->tight[i];
        x->wide[i] |= y->wide[i];
    }
    x->bytes = MAX(x->bytes, y->bytes);
    y->cls = a;
    return true;
}

static Val tile_of(const Mem *m, Ex e) {
    const Expr *x = &m->p->exs.v[e];
    return x->kind == EX_VAL && val(m, x->val)->naxes ? x->val : 0;
}

static TOp *new_copy(Mem *m, Val from, Val like) {
    Val w = ssd_layout_copy_of(m->l, like);
    m->l->info[w].up = like;
    val(m, w)->name = ssd_arena_printf(m->p->arena, "%s_", val(m, from)->name);
    TOp *o = NEW(m->p->arena, TOp);
    o->op = TOP_COPY;
    o->a = from;
    o->out = w;
    m->l->info[w].def = o; // known: a later scan keeps its tree
    return o;
}

static void insert_before(TBlock *b, TOp *at, TOp *o) {
    TOp **link = &b->first;
    while (*link != at) link = &(*link)->next;
    o->next = at;
    *link = o;
}

static bool is_sibling(const TOp *loop, int own, Val v) {
    for (int i = 0; i < loop->ncarry; i++)
        if (i != own && loop->carry[i] == v) return true;
    return false;
}

// Merges what meets on the edges of a loop. Where that fails, puts a copy on the edge and returns
// false: positions have moved, all starts anew. Copies before a yield are appended after earlier
// ones, so that every carry has been read before the first of them is written.
static bool merge_loop(Mem *m, const Point *pt) {
    TOp *o = pt->op, *y = o->body.last;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; y && y->op == TOP_YIELD && i < o->ncarry; i++) {
            Val next = tile_of(m, y->init[i]);
            if (!next) continue;
            if (pass == 0 ? !is_sibling(o, i, next) : merge(m, o->carry[i], next)) continue;
            TOp *c = new_copy(m, next, o->carry[i]);
            insert_before(&o->body, y, c);
            y->init[i] = ssd_ex_val(m->p, c->out);
            return false;
        }
    for (int i = 0; i < o->ncarry; i++) {
        Val init = tile_of(m, o->init[i]);
        if (!init || merge(m, o->carry[i], init)) continue;
        TOp *c = new_copy(m, init, o->carry[i]);
        insert_before(pt->block, o, c);
        o->init[i] = ssd_ex_val(m->p, c->out);
        return false;
    }
    return true;
}

typedef struct MergeInto {
    Mem *m;
    Val out;
} MergeInto;
static void merge_operand(void *ctx, Val v) {
    MergeInto *t = ctx;
    if (val(t->m, v)->naxes) merge(t->m, t->out, v);
}

static void merge_in_place(Mem *m) {
    for (u32 i = 0; i < m->points.n; i++) {
        const TOp *o = m->points.v[i].op;
        if (o->op == TOP_MMA && o->c && in_memory(m, o->c)) merge(m, o->out, o->c);
        if (o->op == TOP_PUT || o->op == TOP_SCAN) merge(m, o->out, o->a);
    }
    for (u32 i = 0; i < m->points.n; i++) {
        const TOp *o = m->points.v[i].op;
        MergeInto t = {m, o->out};
        if (o->op != TOP_MAP || !val(m, o->out)->naxes) continue;
        if (!in_memory(m, o->out) && o->next && o->next->op == TOP_MMA)
            t.out = o->next->out; // its accumulator
        ssd_nest_operands(m->p, o, merge_operand, &t);
    }
}

// --- Slots --------------------------------------------------------------------------------------
typedef struct Slot {
    u64 *wide;
    i64 bytes;
    Val buf;
} Slot;
typedef VEC(Slot) Slots;

static i64 bytes_of(const Mem *m, Val v) {
    const Lay *l = &val(m, v)->lay;
    i64 n = l->naxes ? l->stride[0] * m->p->axes.v[l->ax[0]].size : 0;
    if (l->naxes == 1) n = ssd_layout_padded(m->l, l->ax[0]);
    // A vector may start at any element and reach over the end.
    return (4 * n + m->l->m->vector_bits / 8 + 63) / 64 * 64;
}

static void assign(Mem *m, Slots *slots, Val root) {
    Life *f = &m->life[root];
    Slot *s = NULL;
    for (u32 i = 0; i < slots->n && !s; i++)
        if (!meet(m, slots->v[i].wide, f->wide)) s = &slots->v[i];
    if (!s) {
        Val b =
            ssd_prog_val(m->p, ssd_arena_printf(m->p->arena, "b%u", slots->n), SSD_NONE, NULL, 0);
        val(m, b)->lay.space = SP_MEM;
        vec_push(m->p->arena, slots, ((Slot){.wide = NEWN(m->p->arena, u64, m->words), .buf = b}));
        s = &slots->v[slots->n - 1];
    }
    for (int i = 0; i < m->words; i++) s->wide[i] |= f->wide[i];
    s->bytes = MAX(s->bytes, f->bytes);
    val(m, root)->lay.buf = s->buf;
}

static void allocate(Mem *m) {
    Layout *l = m->l;
    Slots slots = {0};
    u32 n = l->vals.n;
    bool *done = NEWN(m->p->arena, bool, n + 1);
    for (;;) { // largest class first
        u32 best = n;
        for (u32 i = 0; i < n; i++) {
            Val v = l->vals.v[i];
            if (done[i] || !in_memory(m, v) || ssd_layout_root(l, v) != v || find(m, v) != v)
                continue;
            if (best == n || m->life[v].bytes > m->life[l->vals.v[best]].bytes) best = i;
        }
        if (best == n) break;
        done[best] = true;
        assign(m, &slots, l->vals.v[best]);
    }
    for (u32 i = 0; i < n; i++) {
        Val v = l->vals.v[i], root = ssd_layout_root(l, v);
        if (in_memory(m, root) && in_memory(m, v))
            val(m, v)->lay.buf = val(m, find(m, root))->lay.buf;
    }
    for (u32 i = slots.n; i-- > 0;) {
        TOp *o = NEW(m->p->arena, TOp);
        o->op = TOP_BUF;
        o->out = slots.v[i].buf;
        o->bytes = slots.v[i].bytes;
        o->next = l->k->body.first;
        l->k->body.first = o;
        if (!l->k->body.last) l->k->body.last = o;
    }
}

// --- Loads in place -----------------------------------------------------------------------------
// A tile that lies in its tensor just as it would in its buffer need not be copied: the load is
// marked `inplace`, the emitter compares strides and bounds at run time and copies when they
// differ.
static bool unwritten(const Mem *m, u16 tensor) {
    const TTensor *t = &m->p->tensors.v[tensor];
    for (u32 i = 1; i < m->p->tensors.n; i++) {
        const char *alias = m->p->tensors.v[i].alias;
        if (alias && !strcmp(alias, t->name)) return false;
    }
    for (u32 i = 0; i < m->points.n; i++) {
        const TOp *o = m->points.v[i].op;
        if (o->op == TOP_STORE && o->tensor == tensor) return false;
    }
    return t->role != T_OUT;
}

// Does the tile's layout equal that of a dense tensor?
static bool lies_dense(const Mem *m, const TOp *o) {
    const TTensor *t = &m->p->tensors.v[o->tensor];
    i64 coef[256], stride = 1, want[256] = {0};
    bool known = true;
    for (int d = o->nidx - 1; d >= 0; d--) {
        if (!ssd_nest_affine(m->p, o->idx[d], coef)) return false;
        for (u32 x = 1; x < m->p->axes.n; x++) {
            if (coef[x] && !known) return false;
            want[x] += coef[x] * stride;
        }
        const Expr *dim = &m->p->exs.v[t->dim[d]];
        known &= dim->kind == EX_NUM;
        stride *= known ? (i64)dim->num : 1;
    }
    const Lay *l = &val(m, o->out)->lay;
    for (int i = 0; i < l->naxes; i++)
        if (want[l->ax[i]] != l->stride[i]) return false;
    u8 lane = l->ax[l->naxes - 1];
    return m->p->axes.v[lane].size == ssd_layout_padded(m->l, lane);
}

typedef struct Edge {
    const Layout *l;
    Val want;
    bool found;
} Edge;
static void on_edge(void *ctx, Val v) {
    Edge *e = ctx;
    e->found |= ssd_layout_root(e->l, v) == e->want;
}

static void mark_in_place(Mem *m) {
    for (u32 i = 0; i < m->points.n; i++) {
        TOp *o = m->points.v[i].op;
        if (o->op != TOP_LOAD || !val(m, o->out)->naxes || !in_memory(m, o->out)) continue;
        if (val(m, o->out)->dtype != SSD_F32 || m->p->tensors.v[o->tensor].dtype != SSD_F32)
            continue;
        if (m->points.v[i].first != m->points.v[i].last) continue;
        if (!unwritten(m, o->tensor) || !lies_dense(m, o)) continue;
        Edge e = {m->l, o->out, false}; // what a loop carries must be in its buffer
        for (u32 k = 0; k < m->points.n; k++)
            if (m->points.v[k].op->init) ssd_nest_operands(m->p, m->points.v[k].op, on_edge, &e);
        if (!e.found) o->flags |= TF_INPLACE;
    }
}

static bool try_all(Mem *m) {
    Layout *l = m->l;
    ssd_layout_scan(l);
    ssd_layout_strides(l);
    *m = (Mem){.l = l, .p = l->p};
    number(m, &l->k->body, -1);
    m->words = (2 * m->npos + 2 + 63) / 64;
    m->life = NEWN(m->p->arena, Life, m->p->vals.n);
    for (u32 v = 1; v < m->p->vals.n; v++) {
        m->life[v] = (Life){.cls = v,
                            .carry_of = -1,
                            .tight = NEWN(m->p->arena, u64, m->words),
                            .wide = NEWN(m->p->arena, u64, m->words)};
    }
    for (u32 i = 0; i < l->vals.n; i++) m->life[l->vals.v[i]].bytes = bytes_of(m, l->vals.v[i]);
    lives(m);
    for (u32 i = 0; i < m->points.n; i++)
        if (m->points.v[i].op->carry && !merge_loop(m, &m->points.v[i])) return false;
    merge_in_place(m);
    return true;
}

void ssd_layout_mem(Layout *l) {
    Mem m = {.l = l};
    while (!try_all(&m)) {}
    if (!l->m->gpu) mark_in_place(&m);
    allocate(&m);
}
