// SPDX-License-Identifier: Apache-2.0
// Nests that a block's threads hold in registers (ir/nest.h). `lanes` threads side by side share a
// row of the tiles, `width` neighbours each, and a thread has `rows` rows, so that a tile is a
// small array of every thread:
//
//     const int p = threadIdx.x / 32, n = threadIdx.x % 32 * 4;
//     float h0_[4][4];
//     #pragma unroll
//     for (int r = 0; r < 4; r++) h0.get_row(true, h0_[r], b, h, p + r*4, n);
//
// Ops follow each other as in the text, each in its own unrolled loops. What lacks an axis is the
// same in all threads along it; the first of them stores it.
#include "cuda_emit.h"

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }

typedef struct Hold {
    Cuda *c;
    NestHeld h;
    int rows, step;           // a thread's rows, `step` apart
    bool part_row, part_lane; // the last ones may be beyond the tile
    const char *row, *lane;   // a thread's first row and element
    const char *array[3];     // loop variables, see below
    int count[3];             // and how often they turn
} Hold;
enum { BY_ROW, BY_TURN, BY_NEIGHBOUR };

typedef struct Has {
    bool row, lane;
} Has;

static Has has(const Hold *s, const u8 *ax, int n) {
    return (Has){s->h.row && memchr(ax, s->h.row, (size_t)n),
                 memchr(ax, s->h.lane, (size_t)n) != NULL};
}
static Has op_has(const Hold *s, const TOp *o) {
    u8 ax[8];
    int n = ssd_nest_axes(s->c->p, o, ax);
    return has(s, ax, n);
}
static Has val_has(const Hold *s, Val v) { return has(s, val(s->c, v)->ax, val(s->c, v)->naxes); }
static bool loops(const Hold *s, Has h, int by) {
    return s->count[by] > 1 && (by == BY_ROW ? h.row : h.lane);
}

// --- Places -------------------------------------------------------------------------------------
static int open_loops(Hold *s, Has h, int most) {
    int n = 0;
    for (int by = 0; by <= most; by++) {
        if (!loops(s, h, by)) continue;
        const char *v = s->array[by];
        ssd_cuda_line(s->c, "#pragma unroll");
        ssd_cuda_open(s->c, "for (int %s = 0; %s < %d; %s++)", v, v, s->count[by], v);
        n++;
    }
    return n;
}
static void close_loops(Hold *s, int n) {
    while (n--) ssd_cuda_close(s->c);
}

// `[r][t][k]`, as far as there are loops.
static const char *indices(Hold *s, Has h, int most) {
    const char *t = "";
    for (int by = 0; by <= most; by++)
        if (loops(s, h, by)) t = ssd_arena_printf(s->c->a, "%s[%s]", t, s->array[by]);
    return t;
}
static const char *extents(Hold *s, Has h) {
    const char *t = "";
    for (int by = 0; by <= BY_NEIGHBOUR; by++)
        if (loops(s, h, by)) t = ssd_arena_printf(s->c->a, "%s[%d]", t, s->count[by]);
    return t;
}

// Sets what the axes are called inside of the loops.
static void name_axes(Hold *s, int most) {
    Cuda *c = s->c;
    const char *lane = s->lane;
    if (s->h.row)
        c->axis[s->h.row] =
            s->rows > 1 ? ssd_arena_printf(c->a, "(%s + %s*%d)", s->row, s->array[BY_ROW], s->step)
                        : s->row;
    if (s->h.turns > 1)
        lane =
            ssd_arena_printf(c->a, "%s + %s*%d", lane, s->array[BY_TURN], s->h.lanes * s->h.width);
    if (most == BY_NEIGHBOUR && s->h.width > 1)
        lane = ssd_arena_printf(c->a, "%s + %s", lane, s->array[BY_NEIGHBOUR]);
    c->axis[s->h.lane] = lane == s->lane ? lane : ssd_arena_printf(c->a, "(%s)", lane);
}

static const char *both(Cuda *c, const char *x, const char *y) {
    return !x ? y : !y ? x : ssd_arena_printf(c->a, "%s && %s", x, y);
}

// The condition under which a thread's point exists; NULL: always. `once`: and is the first of
// those that hold it.
static const char *exists(Hold *s, Has h, bool once) {
    Cuda *c = s->c;
    const char *t = NULL;
    if (h.row && s->part_row)
        t = ssd_arena_printf(c->a, "%s < %lld", c->axis[s->h.row],
                             (long long)ssd_cuda_size(c, s->h.row));
    if (h.lane && s->part_lane)
        t = both(c, t,
                 ssd_arena_printf(c->a, "%s < %lld", c->axis[s->h.lane],
                                  (long long)ssd_cuda_size(c, s->h.lane)));
    if (!once) return t;
    if (!h.lane && s->h.lanes > 1) t = both(c, t, ssd_arena_printf(c->a, "%s == 0", s->lane));
    if (!h.row && s->step > 1) t = both(c, t, ssd_arena_printf(c->a, "%s == 0", s->row));
    return t;
}

// Does an expression read memory, where a thread beyond the tile has no element?
static bool reads_memory(const Hold *s, Ex e) {
    const Expr *x = &s->c->p->exs.v[e];
    if (x->kind == EX_LOAD) return true;
    if (x->kind == EX_VAL) return val(s->c, x->val)->naxes && s->c->local[x->val] != s->c->nest;
    for (int i = 0; x->kind == EX_FN && i < ssd_fns[x->fn].arity; i++)
        if (reads_memory(s, x->arg[i])) return true;
    return false;
}
static const char *guarded(Hold *s, Has h, Ex e, const char *v) {
    const char *when = reads_memory(s, e) ? exists(s, h, false) : NULL;
    return when ? ssd_arena_printf(s->c->a, "%s ? (%s) : 0", when, v) : v;
}

// --- Ops ----------------------------------------------------------------------------------------
static const char *declare(Hold *s, const TOp *o) {
    Cuda *c = s->c;
    const char *name = c->name[o->out];
    Has h = val_has(s, o->out);
    ssd_cuda_line(c, "%s %s%s;", ssd_cuda_ctype(ssd_cuda_dtype_kind(val(c, o->out)->dtype)), name,
                  extents(s, h));
    c->local[o->out] = c->nest;
    return c->name[o->out] = ssd_arena_printf(c->a, "%s%s", name, indices(s, h, BY_NEIGHBOUR));
}

// Of a value that is wanted outside of the nest.
static void keep(Hold *s, const TOp *o) {
    Cuda *c = s->c;
    const TVal *t = val(c, o->out);
    if (t->lay.space != SP_MEM || !t->naxes) return;
    const char *when = exists(s, val_has(s, o->out), true);
    if (when)
        ssd_cuda_line(c, "if (%s) %s = %s;", when, ssd_cuda_at(c, o->out, 0, NULL),
                      c->name[o->out]);
    else
        ssd_cuda_line(c, "%s = %s;", ssd_cuda_at(c, o->out, 0, NULL), c->name[o->out]);
}

static void map(Hold *s, const TOp *o) {
    Cuda *c = s->c;
    const TVal *t = val(c, o->out);
    Has h = val_has(s, o->out);
    const char *name = declare(s, o);
    int n = open_loops(s, h, BY_NEIGHBOUR);
    name_axes(s, BY_NEIGHBOUR);
    bool real = ssd_cuda_dtype_kind(t->dtype) == KIND_FLOAT;
    const char *v = real ? ssd_cuda_float(c, o->e) : ssd_cuda_ex(c, o->e);
    v = guarded(s, h, o->e, ssd_cuda_round(c, v, t->dtype));
    ssd_cuda_line(c, "%s = %s;", name, v);
    keep(s, o);
    close_loops(s, n);
}

static void load(Hold *s, const TOp *o) {
    Cuda *c = s->c;
    u8 dtype = val(c, o->out)->dtype;
    const char *plain = c->name[o->out];
    Has h = val_has(s, o->out);
    const char *name = declare(s, o);
    name_axes(s, BY_TURN);
    const char *row = ssd_cuda_row(c, o, s->h.lane, s->h.width, exists(s, h, false),
                                   ssd_arena_printf(c->a, "%s%s", plain, indices(s, h, BY_TURN)));
    if (row) {
        int n = open_loops(s, h, BY_TURN);
        ssd_cuda_line(c, "%s;", row);
        close_loops(s, n);
    }
    const char *v = ssd_cuda_round(c, name, dtype);
    if (row && v == name && val(c, o->out)->lay.space != SP_MEM) return;
    int n = open_loops(s, h, BY_NEIGHBOUR);
    name_axes(s, BY_NEIGHBOUR);
    const char *when = exists(s, h, false);
    if (!row) v = ssd_cuda_round(c, ssd_cuda_access(c, o, NULL), dtype);
    if (!row && when) v = ssd_arena_printf(c->a, "%s ? (%s) : 0", when, v);
    if (v != name) ssd_cuda_line(c, "%s = %s;", name, v);
    keep(s, o);
    close_loops(s, n);
}

// The array of a held value that is stored as it is.
static const char *whole(const Hold *s, Ex e, Has h) {
    const Expr *x = &s->c->p->exs.v[e];
    if (x->kind != EX_VAL || s->c->local[x->val] != s->c->nest) return NULL;
    Has own = val_has(s, x->val);
    if (ssd_cuda_dtype_kind(val(s->c, x->val)->dtype) != KIND_FLOAT) return NULL;
    return own.row == h.row && own.lane == h.lane ? s->c->name[x->val] : NULL;
}

static bool store_rows(Hold *s, const TOp *o, Has h) {
    Cuda *c = s->c;
    name_axes(s, BY_TURN);
    const char *have = whole(s, o->e, h), *array;
    if (have) // without the neighbour's index
        array = ssd_arena_printf(c->a, "%.*s", (int)(strrchr(have, '[') - have), have);
    else
        array = ssd_cuda_name(c, ssd_arena_printf(c->a, "%s_out", c->tensor[o->tensor]));
    const char *row = ssd_cuda_row(c, o, s->h.lane, s->h.width, exists(s, h, true), array);
    if (!row) return false;
    int n = open_loops(s, h, BY_TURN);
    if (!have) {
        const char *k = s->array[BY_NEIGHBOUR];
        ssd_cuda_line(c, "float %s[%d];", array, s->h.width);
        ssd_cuda_line(c, "#pragma unroll");
        name_axes(s, BY_NEIGHBOUR);
        ssd_cuda_line(c, "for (int %s = 0; %s < %d; %s++) %s[%s] = %s;", k, k, s->h.width, k, array,
                      k, guarded(s, h, o->e, ssd_cuda_float(c, o->e)));
    }
    ssd_cuda_line(c, "%s;", row);
    close_loops(s, n);
    return true;
}

static void store(Hold *s, const TOp *o) {
    Cuda *c = s->c;
    Has h = op_has(s, o);
    if (h.lane && s->h.width > 1 && store_rows(s, o, h)) return;
    int n = open_loops(s, h, BY_NEIGHBOUR);
    name_axes(s, BY_NEIGHBOUR);
    Kind k = ssd_cuda_kind(c, o->e);
    const char *v = ssd_cuda_ex(c, o->e), *when = exists(s, h, true);
    if (k == KIND_BOOL) v = ssd_arena_printf(c->a, "(int)(%s)", v);
    v = ssd_cuda_access(c, o, v);
    if (when)
        ssd_cuda_line(c, "if (%s) %s;", when, v);
    else
        ssd_cuda_line(c, "%s;", v);
    close_loops(s, n);
}

// Each thread sums up what it has, then those of a row meet in shuffles.
static void reduce(Hold *s, const TOp *o) {
    Cuda *c = s->c;
    const TVal *t = val(c, o->out);
    bool max = o->flags & TF_MAX;
    const char *name = declare(s, o), *kind = max ? "true" : "false";
    Has h = val_has(s, o->out);
    int outer = open_loops(s, h, BY_ROW);
    ssd_cuda_line(c, "%s = neutral<%s>();", name, kind);
    int n = open_loops(s, (Has){false, true}, BY_NEIGHBOUR);
    name_axes(s, BY_NEIGHBOUR);
    const char *when = exists(s, (Has){h.row && reads_memory(s, o->e), true}, false);
    const char *sum =
        ssd_arena_printf(c->a, "combine<%s>(%s, %s)", kind, name, ssd_cuda_float(c, o->e));
    if (when)
        ssd_cuda_line(c, "if (%s) %s = %s;", when, name, sum);
    else
        ssd_cuda_line(c, "%s = %s;", name, sum);
    close_loops(s, n);
    const char *v = name;
    if (s->h.lanes > 1) v = ssd_arena_printf(c->a, "lanes_reduce<%d, %s>(%s)", s->h.lanes, kind, v);
    v = ssd_cuda_round(c, v, t->dtype);
    if (v != name) ssd_cuda_line(c, "%s = %s;", name, v);
    keep(s, o);
    close_loops(s, outer);
}

static void held_op(Hold *s, const TOp *o) {
    if (!ssd_nest_op(s->c->p, o)) {
        ssd_cuda_op(s->c, o);
        return;
    }
    ssd_cuda_comment(s->c, o);
    switch ((TOpCode)o->op) {
    case TOP_LOAD: load(s, o); break;
    case TOP_STORE: store(s, o); break;
    case TOP_MAP:
    case TOP_FILL: map(s, o); break;
    case TOP_REDUCE: reduce(s, o); break;
    default: SSD_BUG("no op of a held nest");
    }
}

// --- The nest -----------------------------------------------------------------------------------
static void spread(Hold *s) {
    Cuda *c = s->c;
    i64 rows = s->h.row ? ssd_cuda_size(c, s->h.row) : 1, lane = ssd_cuda_size(c, s->h.lane);
    s->step = c->threads / s->h.lanes;
    s->rows = (int)((rows + s->step - 1) / s->step);
    s->part_row = (i64)s->rows * s->step != rows;
    s->part_lane = (i64)s->h.lanes * s->h.width * s->h.turns != lane;
    s->count[BY_ROW] = s->rows;
    s->count[BY_TURN] = s->h.turns;
    s->count[BY_NEIGHBOUR] = s->h.width;
}

static void name_threads(Hold *s) {
    Cuda *c = s->c;
    static const char *const want[] = {"r", "t"};
    for (int i = 0; i < 2; i++)
        if (!c->held[i]) c->held[i] = ssd_cuda_name(c, want[i]);
    s->array[BY_ROW] = c->held[0];
    s->array[BY_TURN] = c->held[1];
    s->array[BY_NEIGHBOUR] = c->quad;
    const char *row = s->h.row ? c->axis[s->h.row] : "row";
    s->row = ssd_cuda_name(c, ssd_arena_printf(c->a, "%s_0", row));
    s->lane = ssd_cuda_name(c, ssd_arena_printf(c->a, "%s_0", c->axis[s->h.lane]));
    ssd_cuda_line(c, "const int %s = threadIdx.x / %d, %s = threadIdx.x %% %d * %d;", s->row,
                  s->h.lanes, s->lane, s->h.lanes, s->h.width);
}

void ssd_cuda_hold(Cuda *c, const TOp *first, const TOp *last) {
    Hold s = {.c = c};
    if (!ssd_nest_hold(c->p, first, last, &s.h)) SSD_BUG("a nest that cannot be held");
    const char *row = c->axis[s.h.row], *lane = c->axis[s.h.lane];
    c->nest++;
    spread(&s);
    name_threads(&s);
    for (const TOp *o = first;; o = o->next) {
        held_op(&s, o);
        if (o == last) break;
    }
    c->axis[s.h.row] = row;
    c->axis[s.h.lane] = lane;
}
