// SPDX-License-Identifier: Apache-2.0
// Tiles in registers: what maps, copies and products of T2 look like.
//
//     // ys = map {yi*fi + D_*xi} : f32[p i] @acc(p i) in Y0
//     for (int e = 0; e < 16; e++) {                                   a word of a fragment: two
//     columns of a row
//         const float2 yi = make_float2(Y0[2*e], Y0[2*e + 1]), fi = pair(f_ + h*64, col + e / 2 *
//         8); const float2 xi = unpack(X0[e], bf16()); value = make_float2(yi.x*fi.x + D_*xi.x,
//         yi.y*fi.y + D_*xi.y); Y0[2*e] = value.x, Y0[2*e + 1] = value.y;
//     }
//
// A thread has two columns of 8 rows' distance in every 8 columns of 16 rows; word e of a tile's
// n/4*m words (in blocks of 64 rows) is row row + e % 2 * 8, columns col + e / 2 * 8 and the next
// one: of an @acc tile elements 2*e and 2*e + 1, of a @frag tile word e. Values keep their names:
// each is a pair while the loop's body lasts.
#include "cuda_emit.h"

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }
static i64 size(const Cuda *c, u8 x) { return ssd_cuda_size(c, x); }
static u8 space(const Cuda *c, Val v) { return val(c, v)->lay.space; }
static void open_scope(Cuda *c) {
    ssd_cuda_line(c, "{");
    c->indent++;
}
static const char *regs(const Cuda *c, Val v) { return c->name[val(c, v)->lay.buf]; }

// --- The values of an expression ----------------------------------------------------------------
typedef struct Operands {
    const Cuda *c;
    int n;
    Val v[32];
} Operands;
static void note(void *ctx, Val v) {
    Operands *o = ctx;
    if (!val(o->c, v)->naxes) return;
    for (int i = 0; i < o->n; i++)
        if (o->v[i] == v) return;
    if (o->n == COUNTOF(o->v)) SSD_BUG("an expression of too many tiles");
    o->v[o->n++] = v;
}
static void add_operands(const Cuda *c, Ex e, Operands *all) {
    ssd_nest_ex_vals(c->p, e, note, all);
}
static Operands operands(const Cuda *c, Ex e) {
    Operands o = {.c = c};
    if (e) add_operands(c, e, &o);
    return o;
}

// --- Elements by pairs --------------------------------------------------------------------------
typedef struct Grid2 { // the elements an op walks: rows r and columns c of register tiles
    u8 r, c;
    i64 rows, columns, words; // words of a block of 64 rows
    i64 blocks;
} Grid2;
static Grid2 grid_of(const Cuda *c, u8 r, u8 col) {
    Grid2 g = {.r = r, .c = col, .rows = size(c, r), .columns = size(c, col)};
    g.words = g.columns / 4;
    g.blocks = g.rows / 64;
    return g;
}

static const char *row_of(Cuda *c, const Grid2 *g) {
    if (g->blocks == 1) return "row + e % 2 * 8";
    return ssd_arena_printf(c->a, "row + e / %lld * 64 + e %% 2 * 8", (long long)g->words);
}
static const char *column_of(Cuda *c, const Grid2 *g) {
    if (g->blocks == 1) return "col + e / 2 * 8";
    return ssd_arena_printf(c->a, "col + e %% %lld / 2 * 8", (long long)g->words);
}

static bool op_uses_axis(const Cuda *c, const TOp *o, Ex e, u8 axis) {
    bool uses = ssd_ex_names(c->p, e, axis) || ssd_ex_names(c->p, o->when, axis);
    for (int i = 0; i < o->nidx; i++) uses |= ssd_ex_names(c->p, o->idx[i], axis);
    return uses;
}

// A slot's tile has its C name already; its element gets another.
static const char *element_name(Cuda *c, Val v) {
    bool slot = space(c, v) == SP_ROW && ssd_cuda_view_of(c, v)->base == v;
    return slot ? ssd_arena_printf(c->a, "%s_", c->name[v]) : c->name[v];
}

const char *ssd_cuda_row_element(Cuda *c, Val v, const char *index) {
    const CudaView *w = ssd_cuda_view_of(c, v);
    const char *at = w->stride[0] == 1
                         ? index
                         : ssd_arena_printf(c->a, "(%s)*%lld", index, (long long)w->stride[0]);
    if (w->offset) at = ssd_arena_printf(c->a, "%s + %s", w->offset, at);
    return ssd_arena_printf(c->a, "decode(%s[%s])", c->name[w->base], at);
}

// Rows of a thread are few: what varies by row alone is read before the loop, in a block of its
// own.
static bool hoist_rows(Cuda *c, const Operands *all, const Grid2 *g) {
    bool any = false;
    for (int i = 0; i < all->n; i++) {
        Val v = all->v[i];
        if (space(c, v) != SP_ROW || val(c, v)->lay.ax[0] != g->r) continue;
        const char *values = "";
        for (int b = 0; b < g->blocks; b++)
            for (int h = 0; h < 2; h++) {
                int n = 64 * b + 8 * h;
                const char *at = n ? ssd_arena_printf(c->a, "row + %d", n) : "row";
                values = ssd_arena_printf(c->a, "%s%s%s", values, *values ? ", " : "",
                                          ssd_cuda_row_element(c, v, at));
            }
        if (!any) open_scope(c);
        any = true;
        ssd_cuda_line(c, "const float %s[%lld] = {%s};", element_name(c, v),
                      (long long)(2 * g->blocks), values);
    }
    return any;
}

// Of so many neighbours of a slot's row the elements are equal: the first one does for all.
static i64 run_of(const Cuda *c, Val row) {
    Val base = ssd_timed_base(c->p, c->k, row);
    const TOp *ring = ssd_timed_slot_ring(c->p, c->k, base);
    for (const TOp *o = ring->body.first; o; o = o->next)
        if (o->out == base && o->depth > 1) return o->depth;
    return 1;
}
static const char *run_start(Cuda *c, Val row, const Grid2 *g) {
    long long eighths = run_of(c, row) / 8;
    const char *e = g->blocks == 1 ? "e" : ssd_arena_printf(c->a, "e %% %lld", (long long)g->words);
    return ssd_arena_printf(c->a, "%s / %lld * %lld", e, 2 * eighths, 8 * eighths);
}

// Of a fragment that waited: the step that word e is in.
static void fetch_late(Cuda *c, Val v) {
    const TOp *copy = ssd_cuda_late(c, v);
    if (copy && copy->op == TOP_COPY)
        ssd_cuda_line(c, "if (e %% 4 == 0) %s", ssd_cuda_fragment_step(c, copy, "e / 4"));
}

// The operands of word e, as pairs of their names; which: 0 the first column's element, 1 the
// second's.
static void declare_pairs(Cuda *c, const Operands *all, const Grid2 *g) {
    for (int i = 0; i < all->n; i++) {
        Val v = all->v[i];
        const char *name = element_name(c, v), *column = column_of(c, g);
        fetch_late(c, v);
        if (space(c, v) == SP_ACC && ssd_cuda_late(c, v)) continue; // given
        if (c->rows[v]) {
            ssd_cuda_line(c, "const float2 %s = %s.pair(e %% 2, %s);", name, c->rows[v], column);
        } else if (space(c, v) == SP_ACC) {
            ssd_cuda_line(c, "const float2 %s = make_float2(%s[2*e], %s[2*e + 1]);", name,
                          regs(c, v), regs(c, v));
        } else if (space(c, v) == SP_FRAG) {
            ssd_cuda_line(c, "const float2 %s = unpack(%s[e], %s());", name, regs(c, v),
                          ssd_cuda_type(val(c, v)->dtype));
        } else if (space(c, v) == SP_COLS) {
            const char *e =
                g->blocks == 1 ? "e" : ssd_arena_printf(c->a, "e %% %lld", (long long)g->words);
            ssd_cuda_line(c, "const float2 %s = make_float2(%s[%s / 2 * 2], %s[%s / 2 * 2 + 1]);",
                          name, regs(c, v), e, regs(c, v), e);
        } else if (val(c, v)->lay.ax[0] == g->c) {
            const CudaView *w = ssd_cuda_view_of(c, v);
            if (run_of(c, v) % 8 == 0)
                ssd_cuda_line(c, "const float2 %s = twice(%s);", name,
                              ssd_cuda_row_element(c, v, run_start(c, v, g)));
            else if (w->stride[0] == 1 && w->even)
                ssd_cuda_line(c, "const float2 %s = pair(%s, %s);", name, ssd_cuda_tile(c, w, 0, 0),
                              column);
            else
                ssd_cuda_line(c, "const float2 %s = make_float2(%s, %s);", name,
                              ssd_cuda_row_element(c, v, column),
                              ssd_cuda_row_element(c, v, ssd_arena_printf(c->a, "%s + 1", column)));
        }
    }
}
static const char *by_row(Cuda *c, Val v, const Grid2 *g) {
    const char *at = g->blocks == 1
                         ? "e % 2"
                         : ssd_arena_printf(c->a, "e / %lld * 2 + e %% 2", (long long)g->words);
    return ssd_arena_printf(c->a, "%s[%s]", element_name(c, v), at);
}
static void name_elements(Cuda *c, const Operands *all, const Grid2 *g, int which) {
    for (int i = 0; i < all->n; i++) {
        Val v = all->v[i];
        const char *name = element_name(c, v);
        bool row = space(c, v) == SP_ROW && val(c, v)->lay.ax[0] == g->r;
        c->elem[v] = row ? by_row(c, v, g) : ssd_arena_printf(c->a, "%s.%c", name, "xy"[which]);
    }
}
static void forget_elements(Cuda *c, const Operands *all) {
    for (int i = 0; i < all->n; i++) c->elem[all->v[i]] = NULL;
}

static const char *rounded(Cuda *c, const char *v, u8 dtype, u8 to) {
    return to == SP_FRAG ? v : ssd_cuda_round(c, v, dtype); // packing rounds
}

// The expression's value at both columns of word e, as a float2's text.
static const char *pair_value(Cuda *c, Ex e, const Operands *all, const Grid2 *g, u8 dtype, u8 to) {
    const char *v[2], *column = c->axis[g->c];
    const Expr *x = &c->p->exs.v[e];
    bool plain = dtype == SSD_F32 || to == SP_FRAG;
    if (x->kind == EX_VAL && plain && (space(c, x->val) == SP_ACC || space(c, x->val) == SP_FRAG))
        return c->name[x->val];
    for (int which = 0; which < 2; which++) {
        name_elements(c, all, g, which);
        if (which) c->axis[g->c] = ssd_arena_printf(c->a, "(%s + 1)", column);
        v[which] = rounded(c, ssd_cuda_float(c, e), dtype, to);
    }
    c->axis[g->c] = column;
    forget_elements(c, all);
    return ssd_arena_printf(c->a, "make_float2(%s, %s)", v[0], v[1]);
}

static void declare_indices(Cuda *c, const TOp *o, Ex e, const Grid2 *g) {
    if (op_uses_axis(c, o, e, g->r))
        ssd_cuda_line(c, "const int %s = %s;", c->axis[g->r], row_of(c, g));
    if (op_uses_axis(c, o, e, g->c))
        ssd_cuda_line(c, "const int %s = %s;", c->axis[g->c], column_of(c, g));
}

// --- Between tensors and @acc -------------------------------------------------------------------
const char *ssd_cuda_step(Cuda *c, const TOp *o, u8 axis) {
    const char *all = NULL;
    for (int d = 0; d < o->nidx; d++) {
        i64 coef[256] = {0};
        if (!ssd_nest_affine(c->p, o->idx[d], coef)) return NULL;
        if (!coef[axis]) continue;
        const char *s = ssd_arena_printf(c->a, "%s.stride[%d]", c->tensor[o->tensor], d);
        if (coef[axis] != 1) s = ssd_arena_printf(c->a, "%s*%lld", s, (long long)coef[axis]);
        all = all ? ssd_arena_printf(c->a, "%s + %s", all, s) : s;
    }
    return all ? all : "0";
}

// `, h0.dim[2] - row, h0.dim[3] - col`: how many rows and columns from the thread's first one on
// are there, where that is not sure. NULL: it cannot be said so. `, -row` in *above: which row is
// the first that is there, where the thread's own may be before it.
static const char *limits(Cuda *c, const TOp *o, const Grid2 *g, const char **above) {
    const TTensor *t = &c->p->tensors.v[o->tensor];
    const char *rows = "MANY", *columns = "MANY";
    if (ssd_cuda_inside(c, o, g->r, g->c)) return "";
    for (int d = 0; d < t->rank; d++) {
        i64 coef[256] = {0};
        bool row = ssd_cuda_ex_has(c, o->idx[d], g->r),
             column = ssd_cuda_ex_has(c, o->idx[d], g->c);
        if (!row && !column) continue;
        bool natural = ssd_cuda_natural(c, o->idx[d]);
        if (row == column || !ssd_nest_affine(c->p, o->idx[d], coef) ||
            coef[row ? g->r : g->c] != 1 || (column && !natural))
            return NULL;
        const char *index = ssd_cuda_factor(c, o->idx[d]);
        const char *first =
            ssd_arena_printf(c->a, "(int)%s.dim[%d] - %s", c->tensor[o->tensor], d, index);
        if (row)
            rows = first;
        else
            columns = first;
        if (!natural) *above = ssd_arena_printf(c->a, ", -%s", index);
    }
    return ssd_arena_printf(c->a, ", %s, %s", rows, columns);
}

// Where a whole tile lies, as each_pair takes it: which of its elements are there depends on its
// rows and columns alone. NULL: it does not.
static const char *whole(Cuda *c, const TOp *o, const Grid2 *g) {
    if (o->when && (ssd_cuda_ex_has(c, o->when, g->r) || ssd_cuda_ex_has(c, o->when, g->c)))
        return NULL;
    const char *down = ssd_cuda_step(c, o, g->r), *along = ssd_cuda_step(c, o, g->c);
    const char *row = c->axis[g->r], *column = c->axis[g->c];
    if (!down || !along || c->p->tensors.v[o->tensor].dtype == SSD_I32) return NULL;
    c->axis[g->r] = "row", c->axis[g->c] = "col";
    const char *above = "", *limit = limits(c, o, g, &above), *at;
    if (*above) {
        const char *when = o->when ? ssd_cuda_factor(c, o->when) : "";
        when = ssd_cuda_present(c, o, g->r, g->c, when);
        at = ssd_cuda_place(c, o);
        if (*when) at = ssd_arena_printf(c->a, "%s ? %s : nullptr", when, at);
    } else {
        at = ssd_cuda_spot(c, o, ssd_cuda_inside(c, o, 0, 0) ? "place" : "at");
    }
    c->axis[g->r] = row, c->axis[g->c] = column;
    return limit ? ssd_arena_printf(c->a, "%s, %s, %s%s%s", at, down, along, limit, above) : NULL;
}
bool ssd_cuda_is_whole(Cuda *c, const TOp *o) {
    Grid2 g = grid_of(c, val(c, o->out)->lay.ax[0], val(c, o->out)->lay.ax[1]);
    return whole(c, o, &g) != NULL;
}

static const char *loaded(Cuda *c, const TOp *o, const Grid2 *g) {
    const char *column = c->axis[g->c], *first = ssd_cuda_access(c, o, NULL);
    c->axis[g->c] = ssd_arena_printf(c->a, "(%s + 1)", column);
    const char *second = ssd_cuda_access(c, o, NULL);
    c->axis[g->c] = column;
    return ssd_arena_printf(c->a, "make_float2(%s, %s)", first, second);
}

static void stored(Cuda *c, const TOp *o, const Grid2 *g) {
    const char *column = c->axis[g->c];
    ssd_cuda_line(c, "%s;", ssd_cuda_access(c, o, "value.x"));
    c->axis[g->c] = ssd_arena_printf(c->a, "(%s + 1)", column);
    ssd_cuda_line(c, "%s;", ssd_cuda_access(c, o, "value.y"));
    c->axis[g->c] = column;
}

// --- Maps ---------------------------------------------------------------------------------------
// A row tile's values at both columns of word e.
static const char *both(Cuda *c, Val v, const Grid2 *g) {
    if (val(c, v)->lay.ax[0] == g->c) return element_name(c, v);
    const char *at = by_row(c, v, g);
    return ssd_arena_printf(c->a, "make_float2(%s, %s)", at, at);
}

// A bf16 fragment times a row or column of f32: one rounding, two instructions a word.
static Val scaled_by(const Cuda *c, const TOp *o, Ex e, Val *out_frag) {
    const Expr *x = &c->p->exs.v[e];
    if (!e || o->op != TOP_MAP || space(c, o->out) != SP_FRAG || val(c, o->out)->dtype != SSD_BF16)
        return 0;
    if (x->kind != EX_FN || x->fn != FN_MUL) return 0;
    for (int i = 0; i < 2; i++) {
        const Expr *f = &c->p->exs.v[x->arg[i]], *w = &c->p->exs.v[x->arg[1 - i]];
        if (f->kind != EX_VAL || w->kind != EX_VAL || space(c, f->val) != SP_FRAG) continue;
        if (val(c, f->val)->dtype != SSD_BF16 || space(c, w->val) != SP_ROW) continue;
        *out_frag = f->val;
        return w->val;
    }
    return 0;
}

static void put_word(Cuda *c, Val out) {
    const char *r = regs(c, out);
    if (space(c, out) == SP_FRAG)
        ssd_cuda_line(c, "%s[e] = pack(value.x, value.y, %s());", r,
                      ssd_cuda_type(val(c, out)->dtype));
    else
        ssd_cuda_line(c, "%s[2*e] = value.x, %s[2*e + 1] = value.y;", r, r);
}

// `tile` not NULL: what a store takes goes there first.
static void map_pairs(Cuda *c, const TOp *o, Ex e, const Grid2 *g, const char *tile) {
    Val frag = 0, scale = scaled_by(c, o, e, &frag);
    Operands all = operands(c, e);
    if (scale) all = (Operands){.c = c, .n = 1, .v = {scale}};
    bool hoisted = hoist_rows(c, &all, g);
    const TOp *load = NULL; // that waited for this map
    for (int i = 0; i < all.n; i++)
        if (space(c, all.v[i]) == SP_ACC && ssd_cuda_late(c, all.v[i]))
            load = ssd_cuda_late(c, all.v[i]);
    if (load) {
        ssd_cuda_line(c, "each_pair<%lld, %lld>([&](int e, float2 %s) {", (long long)g->words,
                      (long long)g->blocks, c->name[load->out]);
        c->indent++;
    } else {
        ssd_cuda_line(c, "#pragma unroll");
        ssd_cuda_open(c, "for (int e = 0; e < %lld; e++)", (long long)(g->words * g->blocks));
    }
    declare_pairs(c, &all, g);
    if (scale) {
        fetch_late(c, frag);
        ssd_cuda_line(c, "%s[e] = scaled(%s[e], %s);", regs(c, o->out), regs(c, frag),
                      both(c, scale, g));
    } else if (o->op == TOP_LOAD) {
        declare_indices(c, o, 0, g);
        ssd_cuda_line(c, "const float2 value = %s;", loaded(c, o, g));
    } else {
        declare_indices(c, o, e, g);
        u8 dtype = o->out ? val(c, o->out)->dtype : SSD_F32,
           to = o->out ? space(c, o->out) : SP_ACC;
        c->select = true; // elements side by side hide each other's latency
        ssd_cuda_line(c, "const float2 value = %s;", pair_value(c, e, &all, g, dtype, to));
        c->select = false;
    }
    if (tile)
        ssd_cuda_line(c, "%s[2*e] = value.x, %s[2*e + 1] = value.y;", tile, tile);
    else if (o->op == TOP_STORE)
        stored(c, o, g);
    else if (!scale)
        put_word(c, o->out);
    if (load) {
        c->indent--;
        ssd_cuda_line(c, "}, %s);", whole(c, load, g));
    } else {
        ssd_cuda_close(c);
    }
    if (hoisted) ssd_cuda_close(c);
}

static bool moved_whole(Cuda *c, const TOp *o, const Grid2 *g) {
    const Expr *x = o->op == TOP_LOAD ? NULL : &c->p->exs.v[o->e];
    Val v = !x ? o->out : x->kind == EX_VAL ? x->val : 0; // 0: an expression
    const char *tile = v ? regs(c, v) : "tile", *where = whole(c, o, g);
    if (!where || (v && (space(c, v) != SP_ACC || val(c, v)->dtype != SSD_F32))) return false;
    if (!v) {
        open_scope(c);
        ssd_cuda_line(c, "float tile[%lld];", (long long)(2 * g->words * g->blocks));
        map_pairs(c, o, o->e, g, tile);
    }
    ssd_cuda_line(c, "%s_pairs<%lld, %lld>(%s, %s);", o->op == TOP_LOAD ? "load" : "store",
                  (long long)g->words, (long long)g->blocks, tile, where);
    if (!v) ssd_cuda_close(c);
    return true;
}

// --- Into a tile of a slot ----------------------------------------------------------------------
static bool writes_tile(const Cuda *c, const TBlock *b, Val tile, bool *all_tri) {
    bool any = false;
    for (const TOp *o = b->first; o; o = o->next) {
        if (o->op == TOP_INTO && ssd_timed_base(c->p, c->k, o->a) == tile) {
            any = true;
            *all_tri &= o->tri_row != 0;
        }
        any |= writes_tile(c, &o->body, tile, all_tri);
    }
    return any;
}
bool ssd_cuda_tri_tile(const Cuda *c, Val tile) {
    bool all_tri = true;
    return writes_tile(c, &c->k->body, tile, &all_tri) && all_tri;
}

typedef struct Into { // 16 columns of 16 rows at a time, a step: four words of a lane
    const CudaView *tile;
    const char *at, *block,
        *step; // the tile's start; this step's block of 64 rows and number in it
    i64 words, steps;
    bool turned, tri;
    bool strips; // each warp's 16 rows have code of their own, where they end at the diagonal
    u8 dtype;
} Into;

static Into into_of(Cuda *c, const TOp *o, const Grid2 *g) {
    Into i = {.tile = ssd_cuda_view_of(c, o->a), .words = g->columns % 16 ? 2 : 4};
    i.at = ssd_cuda_tile(c, i.tile, o->ax[0], o->e);
    i.steps = g->words / i.words;
    i.turned = i.tile->ax[i.tile->n - 1] == g->r;
    i.tri = o->tri_row && ssd_cuda_tri_tile(c, i.tile->base);
    i.dtype = val(c, i.tile->base)->dtype;
    i.block = g->blocks == 1 ? NULL : ssd_arena_printf(c->a, "step / %lld", (long long)i.steps);
    i.step = g->blocks == 1 ? "step" : ssd_arena_printf(c->a, "step %% %lld", (long long)i.steps);
    return i;
}

// The step that the warp's first row, or its last one, meets the diagonal in.
static const char *edge(Cuda *c, const Into *i, bool last) {
    long long wide = 4 * (long long)i->words;
    const char *rows =
        i->block ? ssd_arena_printf(c->a, "%s * 64 + warp %% 4 * 16", i->block) : "warp % 4 * 16";
    if (wide == 16 && !i->block) return i->strips ? "strip" : "warp % 4";
    return ssd_arena_printf(c->a, last ? "(%s + 15) / %lld" : "(%s) / %lld", rows, wide);
}

static void compute_words(Cuda *c, const TOp *o, Ex e, const Grid2 *g, const Into *i) {
    Operands all = operands(c, e);
    long long n = i->words;
    ssd_cuda_line(c, "#pragma unroll");
    ssd_cuda_open(c, "for (int e = step * %lld; e < step * %lld + %lld; e++)", n, n, n);
    declare_pairs(c, &all, g);
    declare_indices(c, o, e, g);
    c->select = !o->tri_row;
    ssd_cuda_line(c, "const float2 value = %s;", pair_value(c, e, &all, g, i->dtype, SP_FRAG));
    c->select = false;
    ssd_cuda_line(c, "words[e %% %lld] = pack(value.x, value.y, %s());", n,
                  ssd_cuda_type(i->dtype));
    ssd_cuda_close(c);
}

// What blocks wholly below the diagonal hold: the op says it, or it is v of where(i >= j, v, 0).
static Ex below_diagonal(const Cuda *c, const TOp *o) {
    const Expr *x = &c->p->exs.v[o->e2];
    if (o->hi) return o->hi;
    if (x->kind != EX_FN || x->fn != FN_WHERE) return 0;
    const Expr *when = &c->p->exs.v[x->arg[0]];
    if (when->kind != EX_FN || (when->fn != FN_GE && when->fn != FN_GT)) return 0;
    const Expr *l = &c->p->exs.v[when->arg[0]], *r = &c->p->exs.v[when->arg[1]];
    bool same =
        l->kind == EX_AXIS && r->kind == EX_AXIS && l->axis == o->tri_row && r->axis == o->tri_col;
    return same ? x->arg[1] : 0;
}

// Blocks wholly above the diagonal stay zero; those wholly below it need no comparison. Where a
// warpgroup makes nothing else, each warp has straight code of its own: all wait for the last one.
static void into_tile(Cuda *c, const TOp *o, const Grid2 *g) {
    Into i = into_of(c, o, g);
    Ex below = i.tri && i.words == 4 ? below_diagonal(c, o) : 0;
    Operands all = operands(c, o->e2);
    if (below) add_operands(c, below, &all);
    bool hoisted = hoist_rows(c, &all, g), lower = o->tri_row == g->r;
    i.strips = below && lower && c->m->wgmma && !i.block && !i.turned && g->columns == 64;
    ssd_cuda_line(c, "#pragma unroll");
    if (i.strips) {
        ssd_cuda_open(c, "for (int strip = 0; strip < 4; strip++)");
        ssd_cuda_line(c, "if (warp %% 4 != strip) continue;");
        ssd_cuda_line(c, "#pragma unroll");
        ssd_cuda_open(c, "for (int step = 0; step <= strip; step++)");
    } else {
        ssd_cuda_open(c, "for (int step = 0; step < %lld; step++)",
                      (long long)(i.steps * g->blocks));
    }
    if (i.tri && !i.strips)
        ssd_cuda_line(c, "if (%s %s %s) continue;", i.step, lower ? ">" : "<", edge(c, &i, lower));
    ssd_cuda_line(c, "u32 words[%lld];", (long long)i.words);
    if (below) {
        ssd_cuda_open(c, "if (%s %s %s)", i.step, lower ? "<" : ">", edge(c, &i, !lower));
        compute_words(c, o, below, g, &i);
        c->indent--;
        ssd_cuda_open(c, "} else");
    }
    compute_words(c, o, o->e2, g, &i);
    if (below) ssd_cuda_close(c);
    const char *row = i.block    ? ssd_arena_printf(c->a, "%s * 64 + warp %% 4 * 16", i.block)
                      : i.strips ? "strip * 16"
                                 : "warp % 4 * 16";
    const char *row_piece =
        i.block ? ssd_arena_printf(c->a, "%s * 8 + warp %% 4 * 2", i.block) : "warp % 4 * 2";
    const char *where =
        i.turned
            ? ssd_arena_printf(c->a, "%s * %lld, %s", i.step, 4 * (long long)i.words, row_piece)
            : ssd_arena_printf(c->a, "%s, %s * %lld", row, i.step, (long long)i.words / 2);
    ssd_cuda_line(c, "store_fragment<%lld, %s>(%s, %s, words);",
                  (long long)size(c, i.tile->ax[i.tile->n - 2]), i.turned ? "true" : "false", i.at,
                  where);
    ssd_cuda_close(c);
    if (i.strips) ssd_cuda_close(c);
    if (hoisted) ssd_cuda_close(c);
}

// --- Lanes --------------------------------------------------------------------------------------
static i64 lane_elements(const Cuda *c, u8 axis) { return size(c, axis) / 32; }

// One warp, an axis along its lanes: map, load, store, into @row.
static void lanes(Cuda *c, const TOp *o, Ex e, u8 axis) {
    Operands all = operands(c, e);
    i64 n = lane_elements(c, axis);
    bool into = o->op == TOP_INTO;
    if (into) {
        open_scope(c);
        ssd_cuda_line(c, "float value[%lld];", (long long)n);
    }
    ssd_cuda_line(c, "#pragma unroll");
    for (int i = 0; i < all.n; i++)
        c->elem[all.v[i]] = space(c, all.v[i]) == SP_LANE
                                ? ssd_arena_printf(c->a, "%s[e]", regs(c, all.v[i]))
                                : ssd_cuda_row_element(c, all.v[i], c->axis[axis]);
    ssd_cuda_open(c, "for (int e = 0; e < %lld; e++)", (long long)n);
    bool index = op_uses_axis(c, o, e, axis);
    for (int i = 0; i < all.n; i++) index |= space(c, all.v[i]) != SP_LANE;
    if (index) ssd_cuda_line(c, "const int %s = lane*%lld + e;", c->axis[axis], (long long)n);
    const char *v = o->op == TOP_LOAD ? ssd_cuda_access(c, o, NULL) : ssd_cuda_float(c, e);
    if (o->op == TOP_STORE)
        ssd_cuda_line(c, "%s;", ssd_cuda_access(c, o, v));
    else if (into)
        ssd_cuda_line(c, "value[e] = %s;", v);
    else
        ssd_cuda_line(c, "%s[e] = %s;", regs(c, o->out),
                      ssd_cuda_round(c, v, val(c, o->out)->dtype));
    ssd_cuda_close(c);
    forget_elements(c, &all);
    if (!into) return;
    const CudaView *w = ssd_cuda_view_of(c, o->a);
    i64 step = 1;
    for (int i = 0; i < w->n; i++)
        if (w->ax[i] == axis) step = w->stride[i];
    ssd_cuda_line(c, "lane_store<%lld>(value, %s, %lld);", (long long)n,
                  ssd_cuda_tile(c, w, o->ax[0], o->e), (long long)step);
    ssd_cuda_close(c);
}

void ssd_cuda_lane_scan(Cuda *c, const TOp *o) {
    const char *kind = o->flags & TF_REV ? "REV" : "";
    if (o->flags & TF_EXCL) kind = ssd_arena_printf(c->a, "%s%sEXCL", kind, *kind ? " | " : "");
    if (o->flags & TF_MAX) kind = ssd_arena_printf(c->a, "%s%sMAX", kind, *kind ? " | " : "");
    ssd_cuda_line(c, "lane_scan<%lld, %s>(%s, %s);", (long long)lane_elements(c, o->ax[0]),
                  *kind ? kind : "0", regs(c, o->out), regs(c, o->a));
}

void ssd_cuda_lane_pick(Cuda *c, const TOp *o) {
    long long n = (long long)lane_elements(c, o->ax[0]), last = (long long)size(c, o->ax[0]) - 1;
    const char *from = regs(c, o->a), *to = regs(c, o->out);
    bool in_place = !strcmp(from, to);
    if (in_place) {
        open_scope(c);
        ssd_cuda_line(c, "float value[%lld];", n);
        to = "value";
    }
    ssd_cuda_line(c, "#pragma unroll");
    ssd_cuda_open(c, "for (int e = 0; e < %lld; e++)", n);
    if (ssd_ex_names(c->p, o->e, o->ax[0]))
        ssd_cuda_line(c, "const int %s = lane*%lld + e;", c->axis[o->ax[0]], n);
    ssd_cuda_line(c, "%s[e] = lane_at<%lld>(%s, min(max(%s, 0), %lld));", to, n, from,
                  ssd_cuda_ex(c, o->e), last);
    ssd_cuda_close(c);
    if (!in_place) return;
    ssd_cuda_line(c, "#pragma unroll");
    ssd_cuda_line(c, "for (int e = 0; e < %lld; e++) %s[e] = value[e];", n, from);
    ssd_cuda_close(c);
}

void ssd_cuda_lane_at(Cuda *c, const TOp *o) {
    ssd_cuda_line(c, "const float %s = lane_at<%lld>(%s, %s);", c->name[o->out],
                  (long long)lane_elements(c, o->ax[0]), regs(c, o->a), ssd_cuda_ex(c, o->e));
}

// --- Which of these an op is --------------------------------------------------------------------
// The first register tile of an expression says how its elements lie.
const TVal *ssd_cuda_frag_shape(const Cuda *c, Ex e) {
    Operands all = operands(c, e);
    for (int i = 0; i < all.n; i++)
        if (space(c, all.v[i]) == SP_ACC || space(c, all.v[i]) == SP_FRAG) return val(c, all.v[i]);
    return NULL;
}

void ssd_cuda_frag_elements(Cuda *c, const TOp *o) {
    Ex e = o->op == TOP_INTO ? o->e2 : o->op == TOP_LOAD ? 0 : o->e;
    if (o->out && space(c, o->out) == SP_COLS) {
        ssd_cuda_columns(c, o);
        return;
    }
    const TVal *t =
        o->op == TOP_INTO || o->op == TOP_STORE ? ssd_cuda_frag_shape(c, e) : val(c, o->out);
    if (!t || t->lay.space == SP_LANE) {
        u8 ax[8] = {0};
        if (t)
            ax[0] = t->lay.ax[0];
        else
            ssd_ex_axes(c->p, e, ax);
        lanes(c, o, e, ax[0]);
        return;
    }
    Grid2 g = grid_of(c, t->lay.ax[0], t->lay.ax[1]);
    if (o->op == TOP_INTO)
        into_tile(c, o, &g);
    else if ((o->op != TOP_LOAD && o->op != TOP_STORE) || !moved_whole(c, o, &g))
        map_pairs(c, o, e, &g, NULL);
}

// --- Copies -------------------------------------------------------------------------------------
static void copy_fragment(Cuda *c, const TOp *o) { // @sw128, @loose -> @frag
    const Lay *l = &val(c, o->out)->lay;
    if (ssd_cuda_late(c, o->out)) return;
    ssd_cuda_line(c, "#pragma unroll");
    ssd_cuda_line(c, "for (int e = 0; e < %lld; e++) %s",
                  (long long)(size(c, l->ax[0]) / 64 * (size(c, l->ax[1]) / 16)),
                  ssd_cuda_fragment_step(c, o, "e"));
}

void ssd_cuda_frag_copy(Cuda *c, const TOp *o) {
    const TVal *out = val(c, o->out);
    u8 from = space(c, o->a), to = out->lay.space;
    if ((from == SP_SW128 || from == SP_LOOSE) && to == SP_FRAG) {
        copy_fragment(c, o);
    } else if (from == SP_ROW && to == SP_LANE) {
        const CudaView *w = ssd_cuda_view_of(c, o->a);
        ssd_cuda_line(c, "lane_load<%lld>(%s, %s, %lld);",
                      (long long)lane_elements(c, out->lay.ax[0]), regs(c, o->out),
                      ssd_cuda_tile(c, w, 0, 0), (long long)w->stride[0]);
    } else if (from == SP_ACC && to == SP_FRAG) {
        Grid2 g = grid_of(c, out->lay.ax[0], out->lay.ax[1]);
        ssd_cuda_line(c, "#pragma unroll");
        ssd_cuda_line(c, "for (int e = 0; e < %lld; e++) %s[e] = pack(%s[2*e], %s[2*e + 1], %s());",
                      (long long)(g.words * g.blocks), regs(c, o->out), regs(c, o->a),
                      regs(c, o->a), ssd_cuda_type(out->dtype));
    } else if (from == to && from != SP_SCALAR) {
        i64 n = from == SP_LANE ? lane_elements(c, out->lay.ax[0])
                                : size(c, out->lay.ax[0]) / 64 * size(c, out->lay.ax[1]) /
                                      (from == SP_ACC ? 2 : 4);
        ssd_cuda_line(c, "#pragma unroll");
        ssd_cuda_line(c, "for (int e = 0; e < %lld; e++) %s[e] = %s[e];", (long long)n,
                      regs(c, o->out), regs(c, o->a));
    } else {
        ssd_cuda_line(c, "const float %s = %s;", c->name[o->out], c->name[o->a]);
    }
}
