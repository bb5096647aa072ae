// SPDX-License-Identifier: Apache-2.0
// Fetch and send: tiles between tensors and slots, by bulk copies (TMA) where a tensor map can be
// made, else by the threads of the role.
//
//     if (args.maps_made >> 0 & 1) {
//         if (lane == 0) {
//             bulk_expect(in.full(), 8192);
//             bulk_load(x_, &args.map[0], in.full(), 0, u, c*64, b);
//         }
//     } else {
//         fetch_tile<64, 64, 64, 1, 32, 0>(x_, lane, [&](int) {
//             return part(x.spot(b, c*64, u, 0), x.stride[1], x.stride[3],
//                         -(c*64), (int)x.dim[1] - (c*64), 0, 64); });
//     }
#include "cuda_emit.h"
#include "../ir/nest.h"

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }
static const Expr *ex(const Cuda *c, Ex e) { return &c->p->exs.v[e]; }

typedef void OpVisit(Cuda *c, const TOp *o, void *to);
static void each_op(Cuda *c, const TBlock *b, OpVisit *visit, void *to) {
    for (const TOp *o = b->first; o; o = o->next) {
        visit(c, o, to);
        each_op(c, &o->body, visit, to);
    }
}

// --- Tiles that move ----------------------------------------------------------------------------
static const char *place_of_tile(Cuda *c, Val tile) {
    return c->place[ssd_timed_slot_ring(c->p, c->k, tile)->out];
}

typedef struct Move {     // a tile that is fetched or sent
    u8 n, ax[6];          // its axes, less the one at a fixed index
    i64 size[6], leading; // and how many tiles of two axes follow each other
    const char *tile;
} Move;

static Move move_of(Cuda *c, const TOp *o) {
    const CudaView *v = ssd_cuda_view_of(c, o->a);
    Move m = {.leading = 1, .tile = ssd_cuda_tile(c, v, o->ax[0], o->e)};
    for (int i = 0; i < v->n; i++)
        if (v->ax[i] != o->ax[0]) m.ax[m.n] = v->ax[i], m.size[m.n++] = ssd_cuda_size(c, v->ax[i]);
    for (int i = 0; i + 2 < m.n; i++) m.leading *= m.size[i];
    return m;
}

// --- By threads ---------------------------------------------------------------------------------
// Indices of a tile's leading axes, whose rows are counted through by `row`.
static const char *leading(Cuda *c, const Move *m) {
    const char *lines = "";
    i64 below = m->n > 1 ? m->size[m->n - 2] : 1;
    for (int i = m->n - 3; i >= 0; i--) {
        const char *part = ssd_arena_printf(c->a, "row / %lld", (long long)below);
        if (i) part = ssd_arena_printf(c->a, "%s %% %lld", part, (long long)m->size[i]);
        lines = ssd_arena_printf(c->a, "%sconst int %s = %s; ", lines, c->axis[m->ax[i]], part);
        below *= m->size[i];
    }
    return lines;
}

// `[&](int j, int n) { return C.at<2>(b, c*64 + j, 0, n); }`
static const char *element(Cuda *c, const TOp *o, const Move *m) {
    const char *lines = leading(c, m), *row = "row", *column = m->n ? c->axis[m->ax[m->n - 1]] : "";
    if (m->n == 2) row = c->axis[m->ax[0]];
    if (m->n > 2)
        lines = ssd_arena_printf(c->a, "%sconst int %s = row %% %lld; ", lines,
                                 c->axis[m->ax[m->n - 2]], (long long)m->size[m->n - 2]);
    const char *at = ssd_cuda_spot(c, o, "at");
    return ssd_arena_printf(c->a, "[&](int %s, int %s) { %sreturn %s; }", m->n > 1 ? row : "",
                            column, lines, at);
}

// An index where the tile's rows and columns begin.
static const char *origin(Cuda *c, Ex e, u8 row, u8 column) {
    const Expr *x = ex(c, e);
    for (int i = 0; x->kind == EX_FN && x->fn == FN_ADD && i < 2; i++) {
        const Expr *y = ex(c, x->arg[i]);
        if (y->kind != EX_AXIS || (y->axis != row && y->axis != column)) continue;
        e = x->arg[1 - i];
        break;
    }
    if (x->kind == EX_FN && x->fn == FN_SUB && !ssd_cuda_ex_has(c, x->arg[1], row) &&
        !ssd_cuda_ex_has(c, x->arg[1], column)) {
        const char *from = origin(c, x->arg[0], row, column), *less = ssd_cuda_factor(c, x->arg[1]);
        return strcmp(from, "0") ? ssd_arena_printf(c->a, "%s - %s", from, less)
                                 : ssd_arena_printf(c->a, "-%s", less);
    }
    const char *r = c->axis[row], *k = c->axis[column];
    c->axis[row] = c->axis[column] = "0";
    const char *s = ssd_cuda_ex(c, e);
    c->axis[row] = r, c->axis[column] = k;
    return s;
}

// Which of the tile's rows (or columns) are in the tensor: `, -(c*64), (int)x.dim[1] - (c*64)`, or
// backwards; and before `limit`, unless that is NULL. NULL: it cannot be said so.
static const char *extent(Cuda *c, const TOp *o, u8 axis, u8 other, const char *limit) {
    const char *top = NULL,
               *bottom = ssd_arena_printf(c->a, "%lld", (long long)ssd_cuda_size(c, axis));
    for (int d = 0; d < o->nidx; d++) {
        i64 coef[256] = {0};
        if (!ssd_cuda_ex_has(c, o->idx[d], axis) || ssd_cuda_in_range(c, o, d)) continue;
        if (top || ssd_cuda_ex_has(c, o->idx[d], other)) return NULL;
        if (!ssd_nest_affine(c->p, o->idx[d], coef)) return NULL;
        const Expr *x = ex(c, o->idx[d]);
        const char *at = origin(c, o->idx[d], axis, other),
                   *dim = ssd_arena_printf(c->a, "(int)%s.dim[%d]", c->tensor[o->tensor], d);
        if (coef[axis] == -1) {
            top = ssd_arena_printf(c->a, "(%s) + 1 - %s", at, dim);
            bottom = ssd_arena_printf(c->a, "(%s) + 1", at);
        } else if (coef[axis] != 1) {
            return NULL;
        } else if (x->kind == EX_FN && x->fn == FN_SUB && ex(c, x->arg[0])->kind == EX_AXIS) {
            top = ssd_cuda_factor(c, x->arg[1]);
            bottom = ssd_arena_printf(c->a, "%s + %s", dim, top);
        } else if (strcmp(at, "0")) {
            top = ssd_arena_printf(c->a, "-(%s)", at);
            bottom = ssd_arena_printf(c->a, "%s - (%s)", dim, at);
        } else {
            top = "0", bottom = dim;
        }
    }
    if (limit) bottom = ssd_arena_printf(c->a, "minimum(%s, %s)", bottom, limit);
    return ssd_arena_printf(c->a, "%s, %s", top ? top : "0", bottom);
}

// `[&](int row) { return part(..); }`, where rows, and columns, are in the tensor from one on to
// another and lie in equal steps. NULL: it is not so.
static const char *part(Cuda *c, const TOp *o, const Move *m) {
    if (m->n < 2) return NULL;
    u8 row = m->ax[m->n - 2], column = m->ax[m->n - 1];
    bool cut = o->when && ssd_cuda_ex_has(c, o->when, row);
    if (o->when && ssd_cuda_ex_has(c, o->when, column)) return NULL;
    if (cut && !ssd_cuda_cut(c, o, row)) return NULL;
    const char *t = c->tensor[o->tensor], *limit = NULL,
               *there = o->when && !cut ? ssd_cuda_factor(c, o->when) : "";
    if (cut)
        limit = ssd_arena_printf(c->a, "%s - (%s)", ssd_cuda_factor(c, ex(c, o->when)->arg[1]),
                                 origin(c, ex(c, o->when)->arg[0], row, column));
    there = ssd_cuda_present(c, o, row, column, there);
    const char *down = ssd_cuda_step(c, o, row), *across = ssd_cuda_step(c, o, column),
               *rows = extent(c, o, row, column, limit), *columns = extent(c, o, column, row, NULL),
               *spot = "";
    if (!down || !across || !rows || !columns) return NULL;
    for (int d = 0; d < o->nidx; d++)
        spot = ssd_arena_printf(c->a, "%s%s%s", spot, d ? ", " : "",
                                origin(c, o->idx[d], row, column));
    const char *lines = leading(c, m), *none = "";
    if (*there)
        none = ssd_arena_printf(c->a, "if (!(%s)) return part(%s.data, 0, 1, 0, %lld, 0, 0); ",
                                there, t, (long long)m->size[m->n - 2]);
    // Where copies are the rule, their role has the place at hand.
    bool rule = c->m->wgmma && !ssd_cuda_in_bulk(c, o) &&
                (o->op == TOP_SEND || ssd_cuda_is_loose(c, ssd_cuda_view_of(c, o->a)->base));
    const char *how = rule ? "place" : "spot";
    return ssd_arena_printf(c->a, "[&](int%s) { %s%sreturn part(%s.%s(%s), %s, %s, %s, %s); }",
                            *lines ? " row" : "", lines, none, t, how, spot, down, across, rows,
                            columns);
}

// Of a tile's columns those that the tensor has, whatever the sizes of a launch.
static i64 used_columns(Cuda *c, const TOp *o, const Move *m) {
    i64 n = m->size[m->n - 1];
    for (int d = 0; d < o->nidx; d++) {
        const Expr *dim = ex(c, c->p->tensors.v[o->tensor].dim[d]);
        if (ssd_cuda_ex_has(c, o->idx[d], m->ax[m->n - 1]) && dim->kind == EX_NUM &&
            ssd_cuda_natural(c, o->idx[d]))
            n = MIN(n, (i64)dim->num);
    }
    return n;
}

// Do its rows begin before the tensor's, where a piece does?
static bool shifted(const Cuda *c, const TOp *o) {
    return o->nidx && !ssd_cuda_natural(c, o->idx[o->nidx - 1]);
}

// Bytes that rows without gaps can be copied in; 0: bulk copies do that.
static int expected_unit(Cuda *c, const TOp *o) {
    const TTensor *t = &c->p->tensors.v[o->tensor];
    const Expr *row = t->rank ? ex(c, t->dim[t->rank - 1]) : NULL;
    i64 bytes = row && row->kind == EX_NUM ? (i64)row->num * 2 : 16;
    int unit = 16;
    while (bytes % unit && !shifted(c, o)) unit /= 2;
    return unit == 16 && !o->when && ssd_cuda_in_bulk(c, o) ? 0 : unit;
}

static void copy_rows(Cuda *c, const TOp *o, const Move *m) {
    i64 columns = m->n ? m->size[m->n - 1] : 1, rows = m->n > 1 ? m->size[m->n - 2] : 1;
    bool f32 = c->p->tensors.v[o->tensor].dtype == SSD_F32 && m->leading == 1,
         pieces = !o->when || !m->n || !ssd_cuda_ex_has(c, o->when, m->ax[m->n - 1]);
    const char *whole = f32 ? part(c, o, m) : NULL;
    if (whole)
        ssd_cuda_line(c, "fetch_numbers<%lld, %lld, %d>(%s, %s, %s);", (long long)rows,
                      (long long)columns, ssd_cuda_role_threads(c), m->tile, ssd_cuda_thread(c),
                      whole);
    else
        ssd_cuda_line(c, "fetch_rows<%lld, %lld, %d, %s>(%s, %s, %s);",
                      (long long)(rows * m->leading), (long long)columns, ssd_cuda_role_threads(c),
                      pieces ? "true" : "false", m->tile, ssd_cuda_thread(c), element(c, o, m));
}

static void copy_loose(Cuda *c, const TOp *o, const Move *m) {
    const char *whole = part(c, o, m),
               *used = ssd_arena_printf(c->a, "%lld, ", (long long)used_columns(c, o, m));
    ssd_cuda_line(c, "fetch_loose%s<%lld, %lld, %s%d>(%s, %s, %s);", whole ? "" : "_elements",
                  (long long)m->size[m->n - 2], (long long)m->size[m->n - 1], whole ? used : "",
                  ssd_cuda_role_threads(c), m->tile, ssd_cuda_thread(c),
                  whole ? whole : element(c, o, m));
}

// `odd`: the variable for what a fetch of odd rows returns, NULL: it is none.
static void copy_by_threads(Cuda *c, const TOp *o, const Move *m, const char *odd) {
    Val base = ssd_cuda_view_of(c, o->a)->base;
    i64 columns = m->n ? m->size[m->n - 1] : 1, rows = m->n > 1 ? m->size[m->n - 2] : 1;
    if (ssd_cuda_is_loose(c, base)) {
        copy_loose(c, o, m);
        return;
    }
    if (!ssd_cuda_is_sw128(c, base)) {
        copy_rows(c, o, m);
        return;
    }
    const char *whole = part(c, o, m), *how = "";
    bool sends = o->op == TOP_SEND;
    if (whole && sends && shifted(c, o) && m->leading == 1) {
        ssd_cuda_line(c, "send_shifted<%lld, %lld, %d>(%s, %s, %s);", (long long)rows,
                      (long long)columns, ssd_cuda_role_threads(c), m->tile, ssd_cuda_thread(c),
                      whole);
        return;
    }
    if (whole) how = ssd_arena_printf(c->a, ", %d", expected_unit(c, o));
    if (whole && sends)
        how = ssd_arena_printf(
            c->a, ", %s%s",
            ssd_cuda_sends_own(c, ssd_timed_slot_ring(c->p, c->k, base)) ? "true" : "false", how);
    ssd_cuda_line(c, "%s%s_%s<%lld, %lld, %s%lld, %d%s>(%s, %s, %s);",
                  odd ? ssd_arena_printf(c->a, "%s = ", odd) : "", sends ? "send" : "fetch",
                  whole ? "tile" : "elements", (long long)rows, (long long)columns,
                  whole ? ssd_arena_printf(c->a, "%lld, ", (long long)used_columns(c, o, m)) : "",
                  (long long)m->leading, ssd_cuda_role_threads(c), how, m->tile, ssd_cuda_thread(c),
                  whole ? whole : element(c, o, m));
}

// Does a role send what lies in the ring, and nobody else's but what each warp wrote itself? A warp
// writes 16 rows of each 64 of a register tile, which are columns of the slot's tile then.
typedef struct Sent {
    const TOp *ring;
    bool own, any;
} Sent;
static void note_sent(Cuda *c, const TOp *o, void *to) {
    Sent *s = to;
    for (const TOp *slot = s->ring->body.first; slot; slot = slot->next) {
        if (!ssd_cuda_uses_tile(c, o, slot->out)) continue;
        const TVal *tile = val(c, slot->out);
        if (o->op == TOP_INTO) {
            const TVal *from = ssd_cuda_frag_shape(c, o->e2);
            s->own &= from && from->lay.ax[0] == tile->ax[tile->naxes - 1];
        } else if (o->op == TOP_SEND) {
            Move m = move_of(c, o);
            s->own &= part(c, o, &m) != NULL;
            s->any = true;
        } else {
            s->own = false; // reads it
        }
    }
}
bool ssd_cuda_sends_own(Cuda *c, const TOp *ring) {
    Sent s = {ring, !c->m->wgmma && c->role->warps == 4, false};
    each_op(c, &c->role->body, note_sent, &s);
    return s.own && s.any;
}

// Is it a tile of rows of an odd number of elements, which are to be shifted when they are here?
static bool is_odd(Cuda *c, const TOp *o, const Move *m) {
    return o->op == TOP_FETCH && ssd_cuda_is_sw128(c, ssd_cuda_view_of(c, o->a)->base) &&
           expected_unit(c, o) == 2 && m->n > 1 && m->leading == 1 && used_columns(c, o, m) % 64 &&
           part(c, o, m);
}
typedef struct Narrow {
    Val tile;
    bool any;
} Narrow;
static void note_narrow(Cuda *c, const TOp *o, void *to) {
    Narrow *n = to;
    if (o->op != TOP_FETCH || ssd_timed_base(c->p, c->k, o->a) != n->tile) return;
    Move m = move_of(c, o);
    if (m.n < 2 || !ssd_cuda_is_sw128(c, n->tile) || !expected_unit(c, o)) return;
    i64 used = used_columns(c, o, &m);
    n->any |= (used + 7) / 8 * 8 < m.size[m.n - 1];
}
bool ssd_cuda_narrow(Cuda *c, Val tile) {
    Narrow n = {tile, false};
    each_op(c, &c->k->body, note_narrow, &n);
    return n.any;
}

// What threads may copy into a ring's slots, for want of tensor maps.
typedef struct Copies {
    const TOp *ring;
    bool beside;      // but for @loose tiles, which threads alone read
    u32 maps;         // that would spare them
    bool any, always; // whatever maps there are
} Copies;
static void note_copies(Cuda *c, const TOp *o, void *to) {
    Copies *k = to;
    ArtMap m;
    int dim_of[6];
    if (o->op != TOP_FETCH) return;
    if (ssd_timed_slot_ring(c->p, c->k, ssd_timed_base(c->p, c->k, o->a)) != k->ring) return;
    if (k->beside && ssd_cuda_is_loose(c, ssd_timed_base(c->p, c->k, o->a))) return;
    k->any = true;
    if (!ssd_cuda_map(c, o, &m, dim_of) || o->when)
        k->always = true;
    else
        k->maps |= 1u << ssd_cuda_map_number(c, &m);
}
const char *ssd_cuda_copied(Cuda *c, const TOp *ring, bool beside) {
    Copies k = {.ring = ring, .beside = beside};
    each_op(c, &c->k->body, note_copies, &k);
    if (k.always) return "true";
    if (!k.any) return NULL;
    return ssd_arena_printf(c->a, "(args.maps_made & %u) != %u", k.maps, k.maps);
}

// --- By bulk copies -----------------------------------------------------------------------------
// One copy a box: a panel of a tile.
static void boxes(Cuda *c, const TOp *o, const Move *m, const int *dim_of, int map) {
    bool sw128 = ssd_cuda_is_sw128(c, ssd_cuda_view_of(c, o->a)->base), sends = o->op == TOP_SEND;
    i64 panels = sw128 ? (m->size[m->n - 1] + 63) / 64 : 1,
        panel = sw128 ? m->size[m->n - 2] * 128 : 0;
    const char *tile = m->tile;
    i64 step = panels * panel; // from tile to tile
    int open = 0;
    for (int i = m->n - 3; sw128 && i >= 0; i--) {
        if (m->size[i] == 1) continue;
        tile = ssd_arena_printf(c->a, "%s + %s*%lld", tile, c->axis[m->ax[i]], (long long)step);
        step *= m->size[i];
    }
    for (int i = 0; sw128 && i + 2 < m->n; i++)
        if (m->size[i] > 1) {
            const char *x = c->axis[m->ax[i]];
            ssd_cuda_open(c, "for (int %s = 0; %s < %lld; %s++)", x, x, (long long)m->size[i], x);
            open++;
        }
    for (int i = 0; i < panels; i++) {
        const char *to = ssd_cuda_plus(
            c, sw128 ? tile : ssd_arena_printf(c->a, "shared_address(%s)", tile), i * panel);
        const char *at = ssd_cuda_coords(c, o, dim_of, i);
        if (sends)
            ssd_cuda_line(c, "bulk_store(&args.map[%d], %s, %s);", map, to, at);
        else
            ssd_cuda_line(c, "bulk_load(%s, &args.map[%d], %s.full(), %s);", to, map,
                          place_of_tile(c, ssd_cuda_view_of(c, o->a)->base), at);
    }
    while (open--) ssd_cuda_close(c);
}

static i64 landing_bytes(Cuda *c, const TOp *o, const Move *m) {
    Val base = ssd_cuda_view_of(c, o->a)->base;
    i64 bytes = (i64)ssd_dtype_size((ssd_dtype)val(c, base)->dtype);
    bool sw128 = ssd_cuda_is_sw128(c, base);
    for (int i = 0; i < m->n; i++)
        bytes *= sw128 && i == m->n - 1 ? (m->size[i] + 63) / 64 * 64 : m->size[i];
    return bytes;
}

static void note_map(Cuda *c, const TOp *o, void *to) {
    ArtMap m;
    int dim_of[6];
    (void)to;
    if ((o->op == TOP_FETCH || o->op == TOP_SEND) && ssd_cuda_map(c, o, &m, dim_of))
        ssd_cuda_map_number(c, &m);
}
void ssd_cuda_note_maps(Cuda *c) { each_op(c, &c->k->body, note_map, NULL); }

static void move(Cuda *c, const TOp *o, const Move *m, const char *odd) {
    ArtMap map;
    int dim_of[6];
    if (!ssd_cuda_map(c, o, &map, dim_of)) {
        copy_by_threads(c, o, m, odd);
        return;
    }
    int n = ssd_cuda_map_number(c, &map);
    const char *when = o->when ? ssd_arena_printf(c->a, " && %s", ssd_cuda_whole(c, o)) : "";
    ssd_cuda_open(c, "if (%sargs.maps_made >> %d & 1%s%s)", *when ? "(" : "", n, *when ? ")" : "",
                  when);
    ssd_cuda_open(c, "if (%s == 0)", ssd_cuda_thread(c));
    if (o->op == TOP_FETCH)
        ssd_cuda_line(c, "bulk_expect(%s.full(), %lld);",
                      place_of_tile(c, ssd_cuda_view_of(c, o->a)->base),
                      (long long)landing_bytes(c, o, m));
    boxes(c, o, m, dim_of, n);
    if (o->op == TOP_SEND) ssd_cuda_line(c, "bulk_commit();");
    ssd_cuda_close(c);
    c->indent--;
    ssd_cuda_open(c, "} else");
    copy_by_threads(c, o, m, odd);
    ssd_cuda_close(c);
}

// Tiles alike in one call.
static void settle(Cuda *c, const CudaOdd *v, u32 n) {
    for (u32 i = 0; i < n;) {
        CudaOdd first = v[i];
        const char *tiles = "";
        for (; i < n && v[i].rows == first.rows && v[i].used == first.used; i++)
            tiles = ssd_arena_printf(c->a, "%s, OddTile{%s, %s}", tiles, v[i].tile, v[i].odd);
        ssd_cuda_line(c, "settle_odd<%lld, %lld, %d>(%s%s);", (long long)first.rows,
                      (long long)first.used, ssd_cuda_role_threads(c), ssd_cuda_thread(c), tiles);
    }
}
static void settle_now(Cuda *c) {
    if (!c->settles.n) return;
    ssd_cuda_line(c, "copies_wait<0>();");
    settle(c, c->settles.v, c->settles.n);
    ssd_cuda_line(c, "written();");
    c->settles.n = 0;
}

static bool fetches_odd(Cuda *c, const TOp *o, const TOp *ring) {
    if (o->op != TOP_FETCH ||
        ssd_timed_slot_ring(c->p, c->k, ssd_cuda_view_of(c, o->a)->base) != ring)
        return false;
    Move m = move_of(c, o);
    return is_odd(c, o, &m);
}
typedef struct Odds {
    const TOp *ring;
    int n;
} Odds;
static void note_odd(Cuda *c, const TOp *o, void *to) {
    Odds *odds = to;
    odds->n += fetches_odd(c, o, odds->ring);
}

// A loop whose turns end with publishing such rows: what is to be settled waits for a turn, while
// the next rows are on their way. That takes a slot more than what is read and what is under way.
void ssd_cuda_behind_begin(Cuda *c, const TOp *loop) {
    enum { SLOTS = 3 };
    const TOp *last = loop->body.last,
              *ring = last && last->op == TOP_PUBLISH ? ssd_cuda_definition(c, last->a) : NULL;
    if (loop->op != TOP_FOR || c->behind.loop || !ring || ring->copies > 1 || ring->depth < SLOTS)
        return;
    Odds all = {.ring = ring};
    int here = 0;
    each_op(c, &loop->body, note_odd, &all);
    for (const TOp *o = loop->body.first; o; o = o->next) here += fetches_odd(c, o, ring);
    if (!here || here != all.n) return;
    c->behind = (CudaBehind){.loop = loop, .ring = ring};
    c->behind.name = ssd_cuda_name(c, ssd_arena_printf(c->a, "%s_behind", c->name[ring->out]));
    ssd_cuda_line(c, "auto %s = %s;", c->behind.name, c->name[ring->out]);
    for (const TOp *o = loop->body.first; o; o = o->next) {
        if (!fetches_odd(c, o, ring)) continue;
        Val base = ssd_cuda_view_of(c, o->a)->base;
        const char *tile = c->name[base];
        c->name[base] = ssd_arena_printf(c->a, "%s.at(%lld)", c->behind.name,
                                         (long long)ssd_timed_slot_offset(c->p, ring, base));
        Move m = move_of(c, o);
        c->name[base] = tile;
        CudaOdd odd = {m.size[m.n - 2], used_columns(c, o, &m), m.tile,
                       ssd_cuda_name(c, ssd_arena_printf(c->a, "%sbehind", tile))};
        ssd_cuda_line(c, "u32 %s = 0;", odd.odd);
        vec_push(c->a, &c->behind.settles, odd);
    }
}

static void publish_behind(Cuda *c, int under_way) {
    CudaBehind *b = &c->behind;
    ssd_cuda_open(c, "if (!%s.is(%s))", b->name, c->name[b->ring->out]);
    ssd_cuda_line(c, "copies_wait<%d>();", under_way);
    settle(c, b->settles.v, b->settles.n);
    ssd_cuda_line(c, "%s.publish();", b->name);
    ssd_cuda_close(c);
}

bool ssd_cuda_behind_publish(Cuda *c, const TOp *o) {
    CudaBehind *b = &c->behind;
    if (!b->loop || o != b->loop->body.last) return false;
    ssd_cuda_line(c, "copies_end();");
    publish_behind(c, 1);
    ssd_cuda_line(c, "%s.next();", c->name[b->ring->out]);
    for (u32 i = 0; i < b->settles.n; i++)
        ssd_cuda_line(c, "%s = %s;", b->settles.v[i].odd, b->next.v[i]);
    return true;
}

void ssd_cuda_behind_end(Cuda *c, const TOp *loop) {
    if (!c->behind.loop || c->behind.loop != loop) return;
    publish_behind(c, 0);
    c->behind.loop = NULL;
}

void ssd_cuda_move(Cuda *c, const TOp *o) {
    Move m = move_of(c, o);
    Val base = ssd_cuda_view_of(c, o->a)->base;
    const char *odd = NULL;
    if (is_odd(c, o, &m)) {
        odd = ssd_cuda_name(c, ssd_arena_printf(c->a, "%sodd", c->name[base]));
        ssd_cuda_line(c, "u32 %s = 0;", odd);
        CudaOdd fetched = {m.size[m.n - 2], used_columns(c, o, &m), m.tile, odd};
        if (c->behind.loop && c->behind.ring == ssd_timed_slot_ring(c->p, c->k, base))
            vec_push(c->a, &c->behind.next, odd);
        else
            vec_push(c->a, &c->settles, fetched);
    }
    move(c, o, &m, odd);
    if (!o->next || o->next->op != TOP_FETCH) settle_now(c);
}
