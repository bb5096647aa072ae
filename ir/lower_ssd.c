// SPDX-License-Identifier: Apache-2.0
// Graph -> T0: the forms of one ssd operator (MATH: section 1).
//
//   recurrent  for t carry s: s = s*exp(l) + v k; y = sum over n of s q. The state is cut into rows
//              of `block` values; every row is a unit of the grid (for a step: a loop).
//   chunked    for c carry s: y = (q k^T masked by L) v + exp(cs) q s;
//              s = exp(cs_Q) s + (exp(cs_Q - cs) v) k
//   segments   the chunked form with time cut into segments that run side by side (below)
//   quadratic  every chunk of queries against all chunks of keys before it; `gap` sums the decay of
//              the chunks between, so exponents stay exact without a long cumsum. A final state is
//              a kernel of its own.
//
// Time runs over positions i = c*Q + j; the token is tau = i, or len-1-i where time is reversed
// (flip, rev), and everything else is the same. With R and W the cumulative decays on the reading
// and the writing side, L_ij = exp(R_i - W_j): both inclusive forward; both exclusive for `rev`
// (the decay acts after the read); only R exclusive for read=before. A vector decay (l with key
// features) or value-side decay (l with value features) does not factor out of the scores: inside a
// chunk exp(R_i - W_j), always of an exponent <= 0 for decays <= 1, is formed element by element
// under a reduce; between chunks it factors as before.
#include "lower.h"

typedef struct Op { // one ssd being lowered
    Lower *l;
    Ref r;
    const Node *n;
    SsdAxes ax;
    bool strict, reversed, read_excl, write_excl, decay;
    bool decay_key, decay_value; // the decay has key / value features
    u8 i, j;                     // tile axes of queries and keys
    i64 sub;                     // rows a block of a split cumulative sum; 0: plain
    Ref final;                   // its final node, 0: not wanted
} Op;

static Ex fn(Op *o, FnCode f, Ex a, Ex b) { return ssd_lower_fn(o->l, f, a, b); }
static Ex fn1(Op *o, FnCode f, Ex a) { return ssd_ex_fn(o->l->p, f, a, 0, 0); }
static Ex val(Op *o, Val v) { return ssd_ex_val(o->l->p, v); }
static Ex num(Op *o, i64 v) { return ssd_ex_int(o->l->p, v); }
static Ex zero(Op *o) { return ssd_ex_num(o->l->p, 0); }
static Ex where(Op *o, Ex c, Ex a, Ex b) { return ssd_ex_fn(o->l->p, FN_WHERE, c, a, b); }

static Op op_of(Lower *l, Ref r) {
    const Node *n = &l->g->nodes.v[r];
    Op o = {.l = l, .r = r, .n = n, .ax = ssd_graph_ssd_axes(l->g, r)};
    o.strict = n->flags & (SSD_DIAG_OUT | SSD_READ_BEFORE);
    o.reversed = n->time != TIME_FWD;
    o.read_excl = n->time == TIME_REV || (n->flags & SSD_READ_BEFORE);
    o.write_excl = n->time == TIME_REV;
    o.decay = n->arg[3] != 0;
    if (o.decay && l->g->cumsum_split && l->q > 16) o.sub = l->q % 16 ? l->q % 8 ? 0 : 8 : 16;
    for (int d = 0; o.decay && d < o.ax.nkey; d++)
        o.decay_key |= ssd_graph_has_axis(l->g, n->arg[3], o.ax.key[d]);
    for (int d = 0; o.decay && d < o.ax.nvalue; d++)
        o.decay_value |= ssd_graph_has_axis(l->g, n->arg[3], o.ax.value[d]);
    o.final = ssd_lower_final(l, r);
    return o;
}

// --- Places -------------------------------------------------------------------------------------

static void rows(Op *o) {
    o->i = ssd_lower_row_axis(o->l, "i", o->l->q);
    o->j = ssd_lower_row_axis(o->l, "j", o->l->q);
}

// The place of the tokens at positions pos (an expression over the tile axis row, or none).
static Ctx *tokens(Op *o, Ctx *up, TBlock *block, Ex pos, u8 row) {
    Lower *l = o->l;
    Ctx *c = ssd_ctx_new(l, up, block);
    Ex tau = pos, len = ssd_lower_len(l);
    if (o->reversed && !l->g->step) {
        tau = fn(o, FN_SUB, fn(o, FN_SUB, len, num(o, 1)), pos);
        if (row) c->valid = fn(o, FN_GE, tau, num(o, 0));
    }
    ssd_ctx_bind_time(l, c, tau, row);
    return c;
}

static Ex chunk_pos(Op *o, Val c) {
    Ex first = fn(o, FN_MUL, val(o, c), num(o, o->l->q));
    return fn(o, FN_ADD, first, ssd_ex_axis(o->l->p, o->j));
}

static Ctx *kernel(Op *o, const char *name, TKernel **out) {
    Ctx *c;
    AxisId batch = o->l->batch;
    *out = ssd_lower_kernel(o->l, name, batch, &o->ax.head, o->ax.head != 0, &c);
    return c;
}

static Ex chunks(Op *o) { return fn(o, FN_CDIV, ssd_lower_len(o->l), num(o, o->l->q)); }

// --- Pieces -------------------------------------------------------------------------------------

static int state_axes(Op *o, u8 out[8]) {
    int n = 0;
    for (int d = 0; d < o->ax.nvalue; d++) out[n++] = ssd_cone_tile_axis(o->l, o->ax.value[d]);
    for (int d = 0; d < o->ax.nkey; d++) out[n++] = ssd_cone_tile_axis(o->l, o->ax.key[d]);
    return n;
}

// The state before the first token; zero where `only` (a condition on grid variables; 0: none) does
// not hold, without a look at memory.
static Ex initial_state(Op *o, Ctx *k, Ex only) {
    u8 ax[8];
    int n = state_axes(o, ax);
    TB b = ssd_ctx_tb(o->l, k);
    Ref h0 = o->n->arg[4];
    if (!h0) return n ? val(o, ssd_tile_fill(&b, "s0", SSD_F32, zero(o), ax, n)) : zero(o);
    Ex s = val(o, ssd_cone_val(o->l, only ? ssd_ctx_only(o->l, k, only) : k, h0));
    if (only && o->l->g->nodes.v[h0].op != OP_IN) s = where(o, only, s, zero(o));
    bool whole = o->l->p->exs.v[s].kind == EX_VAL;
    for (int d = 0; d < n; d++) whole &= ssd_cone_has_tile_axis(o->l, s, ax[d]);
    if (whole) return s;
    if (n) s = fn(o, FN_ADD, val(o, ssd_tile_fill(&b, "z0", SSD_F32, zero(o), ax, n)), s);
    return val(o, ssd_tile_map(&b, "s0", SSD_F32, s));
}

// The features that the decay has.
static int decay_axes(Op *o, u8 out[8]) {
    const AxisId *f = o->decay_key ? o->ax.key : o->ax.value;
    int nf = o->decay_key ? o->ax.nkey : o->decay_value ? o->ax.nvalue : 0, n = 0;
    for (int d = 0; d < nf; d++)
        if (ssd_graph_has_axis(o->l->g, o->n->arg[3], f[d]))
            out[n++] = ssd_cone_tile_axis(o->l, f[d]);
    return n;
}
static Ex decay_fill(Op *o, TB *b, const char *name, double v) {
    u8 ax[8];
    int n = decay_axes(o, ax);
    Ex e = ssd_ex_num(o->l->p, v);
    return n ? val(o, ssd_tile_fill(b, name, SSD_F32, e, ax, n)) : e;
}

// A vector over key rows, seen from query rows.
static Val at_i(Op *o, TB *b, const char *name, Val v) {
    return ssd_tile_rename(b, name, v, o->j, o->i);
}

typedef struct Decays {
    Val r, w, rj, end; // reading side by i, writing side by j, reading side by j, whole chunk
    Val ld;            // the decays themselves, by j
    Val to_end; // from each write to the chunk's end, summed from there: exact where it matters,
                // near 0
} Decays;

static Decays decays(Op *o, Ctx *c) {
    TB b = ssd_ctx_tb(o->l, c);
    Val ld = ssd_cone_rows(o->l, c, o->n->arg[3], "ld");
    Decays d = {.ld = ld};
    Val incl = ssd_tile_scan(&b, "cj", o->j, ld, 0), excl = 0;
    if (o->read_excl || o->write_excl) excl = ssd_tile_scan(&b, "cx", o->j, ld, TF_EXCL);
    d.w = o->write_excl ? excl : incl;
    d.rj = o->read_excl ? excl : incl;
    d.r = at_i(o, &b, o->read_excl ? "xi" : "ci", d.rj);
    d.end = ssd_tile_at(&b, "e", incl, o->j, num(o, o->l->q - 1));
    d.to_end = ssd_tile_scan(&b, "to_end", o->j, ld, o->write_excl ? TF_REV : TF_REV | TF_EXCL);
    return d;
}

static Ex causal(Op *o, Ex gi, Ex gj) {
    Ex m = fn(o, o->strict ? FN_GT : FN_GE, gi, gj);
    if (o->n->k) m = fn(o, FN_AND, m, fn(o, FN_LT, fn(o, FN_SUB, gi, gj), num(o, o->n->k)));
    return m;
}

// cumsum: split. The exponent R_i - W_j inside a chunk without the difference of two long sums:
// with rows cut into blocks u of `sub`, loc the sum inside a block, rem the rest of j's block and
// tot a block's sum,
//     R_i - W_j = loc_i - loc_j in one block, else loc_i + rem_j + sum of tot over the blocks
//     between,
// where all terms have one sign. Returns M over (i j).
static Val split_scores(Op *o, Ctx *c, Val log_decay, Val scores) {
    Lower *l = o->l;
    TB b = ssd_ctx_tb(l, c);
    i64 q = l->q, n = q / o->sub;
    u8 iu = ssd_lower_row_axis(l, "iu", n), ix = ssd_lower_row_axis(l, "ix", o->sub),
       ju = ssd_lower_row_axis(l, "ju", n);
    u8 jy = ssd_lower_row_axis(l, "jy", o->sub), jw = ssd_lower_row_axis(l, "jw", n);
    Val ld = ssd_tile_split(&b, "lv", log_decay, o->j, ju, jy);
    Val incl = ssd_tile_scan(&b, "loc", jy, ld, 0), excl = incl;
    if (o->read_excl || o->write_excl) excl = ssd_tile_scan(&b, "locx", jy, ld, TF_EXCL);
    Val loc_j = o->write_excl ? excl : incl, read = o->read_excl ? excl : incl;
    Val loc_i = ssd_tile_rename(&b, NULL, ssd_tile_rename(&b, NULL, read, ju, iu), jy, ix);
    Val rem = ssd_tile_scan(&b, "rem", jy, ld, o->write_excl ? TF_REV : TF_REV | TF_EXCL);
    Val tot =
        ssd_tile_rename(&b, NULL, ssd_tile_at(&b, "tot", incl, jy, num(o, o->sub - 1)), ju, jw);
    Ex u = ssd_ex_axis(l->p, iu), v = ssd_ex_axis(l->p, ju), w = ssd_ex_axis(l->p, jw);
    Ex between = fn(o, FN_AND, fn(o, FN_LT, v, w), fn(o, FN_LT, w, u));
    Val mid = ssd_tile_reduce(&b, "mid", false, jw, where(o, between, val(o, tot), zero(o)));
    Ex near = fn(o, FN_SUB, val(o, loc_i), val(o, loc_j));
    Ex far = fn(o, FN_ADD, fn(o, FN_ADD, val(o, loc_i), val(o, mid)), val(o, rem));
    Ex expo = where(o, fn(o, FN_EQ, u, v), near, far);
    Ex gi = fn(o, FN_ADD, fn(o, FN_MUL, u, num(o, o->sub)), ssd_ex_axis(l->p, ix));
    Ex gj = fn(o, FN_ADD, fn(o, FN_MUL, v, num(o, o->sub)), ssd_ex_axis(l->p, jy));
    Val s = ssd_tile_split(&b, NULL, ssd_tile_split(&b, NULL, scores, o->i, iu, ix), o->j, ju, jy);
    Ex m = where(o, causal(o, gi, gj), fn(o, FN_MUL, val(o, s), fn1(o, FN_EXP, expo)), zero(o));
    Val m4 = ssd_tile_map(&b, "M", SSD_F32, m);
    return ssd_tile_join(&b, NULL, ssd_tile_join(&b, NULL, m4, iu, ix, o->i), ju, jy, o->j);
}

// The value of a sum over all key features of an expression that is never materialised but for the
// innermost one.
static Val sum_over(Op *o, TB *b, const char *name, const AxisId *ax, int n, Ex e) {
    Val v = 0;
    for (int d = n - 1; d >= 0; d--) {
        u8 t = ssd_cone_tile_axis(o->l, ax[d]);
        if (!ssd_cone_has_tile_axis(o->l, e, t)) {
            i64 size = o->l->p->axes.v[t].size;
            e = fn(o, FN_MUL, e, ssd_ex_num(o->l->p, (double)size));
            continue;
        }
        v = ssd_tile_reduce(b, d ? NULL : name, false, t, e);
        e = val(o, v);
    }
    return v ? v : ssd_tile_map(b, name, SSD_F32, e);
}

// q . k over the key features; an outer product when there are none.
static Val dot(Op *o, TB *b, const char *name, Val x, Val y) {
    if (o->ax.nkey) return ssd_tile_mma(b, name, SSD_F32, x, y, 0, NULL, 0);
    return ssd_tile_map(b, name, SSD_F32, fn(o, FN_MUL, val(o, x), val(o, y)));
}

// y += (q k^T masked and decayed by exp(expo)) v, for one block of queries and one of keys.
static Val scores_times_value(Op *o, TB *b, Val qi, Val kj, Val vj, Ex mask, Ex expo, Val acc) {
    Prog *p = o->l->p;
    if (o->decay_value) { // exp has value features: y_ip = sum_j where(mask, S_ij v_jp exp(..), 0)
        Val s = dot(o, b, "S", qi, kj);
        Ex e = fn(o, FN_MUL, fn(o, FN_MUL, val(o, s), val(o, vj)), fn1(o, FN_EXP, expo));
        Val y = ssd_tile_reduce(b, "yd", false, o->j, where(o, mask, e, zero(o)));
        return acc ? ssd_tile_map(b, "y_", SSD_F32, fn(o, FN_ADD, val(o, y), val(o, acc))) : y;
    }
    Ex m;
    if (o->decay_key) {
        Ex e = fn(o, FN_MUL, fn(o, FN_MUL, val(o, qi), val(o, kj)), fn1(o, FN_EXP, expo));
        m = val(o,
                sum_over(o, b, "M", o->ax.key, o->ax.nkey, mask ? where(o, mask, e, zero(o)) : e));
    } else {
        m = val(o, dot(o, b, "S", qi, kj));
        if (expo) m = fn(o, FN_MUL, m, fn1(o, FN_EXP, expo));
        if (mask) m = where(o, mask, m, zero(o));
    }
    Val mv = p->exs.v[m].kind == EX_VAL ? p->exs.v[m].val : ssd_tile_map(b, "M", SSD_F32, m);
    return ssd_tile_mma(b, "y_", SSD_F32, mv, vj, acc, NULL, 0);
}

// What the rows read from the state: exp(R) (q . s).
static Val read_state(Op *o, TB *b, Val qi, Val s, Val decay_i) {
    Ex q = val(o, qi);
    if (o->decay_key)
        q = val(o,
                ssd_tile_map(b, "qe", SSD_F32, fn(o, FN_MUL, q, fn1(o, FN_EXP, val(o, decay_i)))));
    Val y = dot(o, b, "yi", o->l->p->exs.v[q].val, s);
    if (!decay_i || o->decay_key) return y;
    return ssd_tile_map(b, "ys", SSD_F32,
                        fn(o, FN_MUL, val(o, y), fn1(o, FN_EXP, val(o, decay_i))));
}

// The state after the chunk. *decay, where it is asked for: the factor of the old one in it.
static Val write_state(Op *o, TB *b, Val kj, Val vj, Val s, Decays d, Ex *decay) {
    Val k = kj, v = vj;
    if (!o->decay) return ssd_tile_mma(b, "s1", SSD_F32, v, k, s, NULL, 0);
    Ex w = fn1(o, FN_EXP, val(o, d.to_end));
    if (o->decay_key && o->decay_value)
        SSD_BUG("a decay over key and value features does not factor");
    bool scalar = !o->decay_key && !o->decay_value;
    if (scalar) w = val(o, ssd_tile_map(b, "wj", SSD_F32, w));
    if (o->decay_key)
        k = ssd_tile_map(b, "kw", SSD_F32, fn(o, FN_MUL, val(o, k), w));
    else
        v = ssd_tile_map(b, "vw", SSD_F32, fn(o, FN_MUL, val(o, v), w));
    Ex e = fn1(o, FN_EXP, val(o, d.end));
    if (scalar || decay) e = val(o, ssd_tile_map(b, "ed", SSD_F32, e));
    if (decay) *decay = e;
    Val sd = ssd_tile_map(b, "sd", SSD_F32, fn(o, FN_MUL, val(o, s), e));
    return ssd_tile_mma(b, "s1", SSD_F32, v, k, sd, NULL, 0);
}

// What is known after the last token; `only` as above.
static void finish(Op *o, Ctx *k, Val s, Ex only) {
    Ctx *end = only ? ssd_ctx_only(o->l, k, only) : ssd_ctx_new(o->l, k, k->block);
    end->epilogue = true;
    if (o->final) ssd_cone_set(o->l, end, o->final, s);
    ssd_cone_stores(o->l, end, true);
}

static void set_output(Op *o, Ctx *c, Val y) {
    TB b = ssd_ctx_tb(o->l, c);
    ssd_cone_set(o->l, c, o->r, ssd_tile_rename(&b, "yj", y, o->i, o->j));
    ssd_cone_stores(o->l, c, false);
}

// --- Chunked ------------------------------------------------------------------------------------

// A walk over the chunks lo..hi, which carries the state from `init` on.
typedef struct Walk {
    Ex init, lo, hi;
    bool reads;   // makes the output too
    Ex decay0;    // 1: also the product of the chunks' decays; 0: not wanted
    Val s, decay; // at the end
} Walk;

static Walk whole_walk(Op *o, Ctx *k, bool reads) {
    return (Walk){.init = initial_state(o, k, 0), .lo = num(o, 0), .hi = chunks(o), .reads = reads};
}

static void walk_output(Op *o, Ctx *c, Val s, Val kj, Val vj, Decays d) {
    Lower *l = o->l;
    TB b = ssd_ctx_tb(l, c);
    Val qi = at_i(o, &b, "qi", ssd_cone_rows(l, c, o->n->arg[0], "q"));
    Ex mask = causal(o, ssd_ex_axis(l->p, o->i), ssd_ex_axis(l->p, o->j));
    Ex expo = o->decay ? fn(o, FN_SUB, val(o, d.r), val(o, d.w)) : 0;
    Val ys = read_state(o, &b, qi, s, o->decay ? d.r : 0), y;
    if (o->sub && !o->decay_key && !o->decay_value)
        y = ssd_tile_mma(&b, "y_", SSD_F32, split_scores(o, c, d.ld, dot(o, &b, "S", qi, kj)), vj,
                         ys, NULL, 0);
    else
        y = scores_times_value(o, &b, qi, kj, vj, mask, expo, ys);
    set_output(o, c, y);
}

static void walk(Op *o, Ctx *k, Walk *w) {
    Lower *l = o->l;
    TOp *loop = ssd_ctx_open(l, k, "c", w->lo, w->hi, false);
    TB kb = {l->p, &k->tail};
    w->s = ssd_tile_carry(&kb, loop, "s", w->init);
    if (w->decay0) w->decay = ssd_tile_carry(&kb, loop, "E", w->decay0);
    Ctx *c = tokens(o, k, &loop->body, chunk_pos(o, loop->var), o->j);
    TB b = ssd_ctx_tb(l, c);
    Decays d = {0};
    if (o->decay) d = decays(o, c);
    Val kj = ssd_cone_rows(l, c, o->n->arg[1], "k"), vj = ssd_cone_rows(l, c, o->n->arg[2], "v");
    if (w->reads) walk_output(o, c, w->s, kj, vj, d);
    Ex next[2], decay;
    next[0] = val(o, write_state(o, &b, kj, vj, w->s, d, w->decay0 ? &decay : NULL));
    if (w->decay0) {
        Ex e = fn(o, FN_MUL, val(o, w->decay), decay);
        next[1] = val(o, ssd_tile_map(&b, "E1", SSD_F32, e));
    }
    ssd_tile_yield(&b, next, w->decay0 ? 2 : 1);
    ssd_ctx_close(k);
}

static void chunked(Op *o) {
    TKernel *t;
    rows(o);
    Ctx *k = kernel(o, "scan", &t);
    Walk w = whole_walk(o, k, true);
    walk(o, k, &w);
    finish(o, k, w.s, 0);
}

// Full mask: the whole sequence is written, then read.
static void full(Op *o) {
    TKernel *t;
    rows(o);
    Ctx *k = kernel(o, "scan", &t);
    Lower *l = o->l;
    Walk w = whole_walk(o, k, false);
    walk(o, k, &w);
    TOp *loop = ssd_ctx_open(l, k, "c", num(o, 0), chunks(o), false);
    Ctx *c = tokens(o, k, &loop->body, chunk_pos(o, loop->var), o->j);
    TB b = ssd_ctx_tb(l, c);
    Val qi = at_i(o, &b, "qi", ssd_cone_rows(l, c, o->n->arg[0], "q"));
    set_output(o, c, read_state(o, &b, qi, w.s, 0));
    ssd_ctx_close(k);
    finish(o, k, w.s, 0);
}

// --- Segments -----------------------------------------------------------------------------------
// Time in SEG segments of `per` chunks. A kernel gathers the state of every segment but the last;
// then all segments are walked at once, each from the sum of those before it:
//
//   kernel state grid b h g=SEG-1          slot g+1 = what segment g writes, its decay beside it
//   kernel scan  grid b h g=SEG            for f in 1..g+1: s = s*Eg[f] + Sg[f]; the walk
//
// SEG is an expression over the sizes of a launch. Where it is 1, `state` has no blocks and `scan`
// is the chunked form. No segment is empty but at t = 0, so the last one ends with the final state.
//
// The final state may lie where the initial one lies, and is written by one block of `scan` while
// others start. None of them looks there: segment 0 gathers from the initial state on, and leaves
// a copy of it in slot 0, where its own walk finds it. With one segment, reader and writer are the
// same block, which needs no copy and makes none.

typedef struct Segments {
    Ex count, per;      // over the symbols of a launch
    u16 states, decays; // workspace: states, and factors of what lies before (0: none)
} Segments;

// A slot has three indices before those of the state.
static bool splits(const Op *o) {
    return ssd_schedule_splits(&o->l->u->schedule) &&
           o->ax.nvalue + o->ax.nkey + 3 <= (int)COUNTOF(((TTensor *)0)->dim);
}

static Ex at_least_one(Op *o, Ex e) { return fn(o, FN_MAX, num(o, 1), e); }

// As many as fill the machine, of at least four chunks each: a shorter one is not worth the second
// reading of its keys and values. A multiprocessor has room for several blocks of short chunks.
static Ex segments_of_launch(Op *o) {
    enum { LEAST_CHUNKS = 4, WHOLE_CHUNK = 64, SMALL_BLOCKS = 4 };
    Lower *l = o->l;
    const Schedule *s = &l->u->schedule;
    const Machine *m = l->u->machine;
    int at_once = m->gpu && s->q < WHOLE_CHUNK ? SMALL_BLOCKS * m->blocks : m->blocks;
    i64 heads = o->ax.head ? l->g->axes.v[o->ax.head].size : 1, most = MAX(s->heads, 1);
    Ex blocks = num(o, (heads + most - 1) / most);
    if (l->batch) blocks = fn(o, FN_MUL, ssd_lower_dim(l, l->batch), blocks);
    Ex room = fn(o, FN_FDIV, num(o, at_once), at_least_one(o, blocks));
    Ex long_enough = fn(o, FN_FDIV, chunks(o), num(o, LEAST_CHUNKS));
    return at_least_one(o, fn(o, FN_MIN, room, long_enough));
}

static u16 segment_tensor(Op *o, const char *name, Ex slots, const u8 *ax, int n) {
    Lower *l = o->l;
    Ex dim[8];
    int rank = 0;
    if (l->batch) dim[rank++] = ssd_lower_dim(l, l->batch);
    if (o->ax.head) dim[rank++] = ssd_lower_dim(l, o->ax.head);
    dim[rank++] = slots;
    for (int i = 0; i < n; i++) dim[rank++] = num(o, l->p->axes.v[ax[i]].size);
    while (ssd_prog_find_tensor(l->p, name)) name = ssd_arena_printf(l->a, "%s_", name);
    return ssd_prog_tensor(l->p, T_WS, name, SSD_F32, rank, dim);
}

// Indices of a slot of this block's batch and head.
static int slot_indices(Op *o, const Ctx *k, Ex slot, const u8 *ax, int n, Ex out[8]) {
    int m = 0;
    if (o->l->batch) out[m++] = ssd_ctx_index(o->l, k, o->l->batch);
    if (o->ax.head) out[m++] = ssd_ctx_index(o->l, k, o->ax.head);
    out[m++] = slot;
    for (int i = 0; i < n; i++) out[m++] = ssd_ex_axis(o->l->p, ax[i]);
    return m;
}

static void store_slot(Op *o, Ctx *k, u16 tensor, Ex slot, const u8 *ax, int n, Ex v, Ex when) {
    TB b = ssd_ctx_tb(o->l, k);
    Ex ix[8];
    int m = slot_indices(o, k, slot, ax, n, ix);
    ssd_tile_store(&b, tensor, ix, m, v, when);
}

static Val load_slot(Op *o, TB *b, const Ctx *k, const char *name, u16 tensor, Ex slot,
                     const u8 *ax, int n) {
    Ex ix[8];
    int m = slot_indices(o, k, slot, ax, n, ix);
    return ssd_tile_load(b, name, SSD_F32, tensor, ix, m, 0);
}

static void gather_segment(Op *o, const Segments *sg) {
    Lower *l = o->l;
    TKernel *t;
    Ctx *k = kernel(o, "state", &t);
    Ex last = fn(o, FN_SUB, sg->count, num(o, 1));
    Ex g = val(o, ssd_prog_grid(l->p, t, "g", last));
    TB b = ssd_ctx_tb(l, k);
    Ex per = val(o, ssd_tile_map(&b, "per", SSD_IDX, sg->per)), one = num(o, 1);
    Ex first = fn(o, FN_EQ, g, num(o, 0)), lo = fn(o, FN_MUL, g, per);
    Walk w = {.init = initial_state(o, k, first), .lo = lo, .hi = fn(o, FN_ADD, lo, per)};
    if (o->decay) w.decay0 = decay_fill(o, &b, "E0", 1);
    u8 ax[8], dx[8];
    int n = state_axes(o, ax), nd = decay_axes(o, dx);
    if (o->n->arg[4]) {
        store_slot(o, k, sg->states, num(o, 0), ax, n, w.init, first);
        if (o->decay) store_slot(o, k, sg->decays, num(o, 0), dx, nd, w.decay0, first);
    }
    walk(o, k, &w);
    store_slot(o, k, sg->states, fn(o, FN_ADD, g, one), ax, n, val(o, w.s), 0);
    if (o->decay) store_slot(o, k, sg->decays, fn(o, FN_ADD, g, one), dx, nd, val(o, w.decay), 0);
}

// The state before segment g.
static Ex segment_start(Op *o, Ctx *k, const Segments *sg, Ex g, Ex count) {
    Lower *l = o->l;
    bool given = o->n->arg[4] != 0;
    Ex one = num(o, 1), alone = fn(o, FN_EQ, count, one);
    Ex lo = one, hi = fn(o, FN_ADD, g, one);
    if (given) {
        lo = fn(o, FN_MIN, g, one);
        hi = where(o, alone, num(o, 0), hi);
    }
    Ex init = initial_state(o, k, alone);
    TOp *loop = ssd_ctx_open(l, k, "f", lo, hi, false);
    TB kb = {l->p, &k->tail}, b = {l->p, &loop->body};
    Val s = ssd_tile_carry(&kb, loop, "start", init);
    u8 ax[8], dx[8];
    Ex f = val(o, loop->var), e = val(o, s);
    Val part = load_slot(o, &b, k, "Sf", sg->states, f, ax, state_axes(o, ax));
    if (o->decay) {
        int nd = decay_axes(o, dx);
        e = fn(o, FN_MUL, e, val(o, load_slot(o, &b, k, "Ef", sg->decays, f, dx, nd)));
    }
    Ex next = val(o, ssd_tile_map(&b, "sf", SSD_F32, fn(o, FN_ADD, e, val(o, part))));
    ssd_tile_yield(&b, &next, 1);
    ssd_ctx_close(k);
    return val(o, s);
}

// What else reads the initial state would see the final one in its place: they keep apart then.
static void no_other_reader(Op *o, Ref h0) {
    Prog *p = o->l->p;
    const Node *n = &o->l->g->nodes.v[h0];
    for (int i = 0; i < 5; i++)
        if (n->arg[i]) no_other_reader(o, n->arg[i]);
    if (n->op != OP_IN || o->l->uses[h0] == 1) return;
    const char *name = o->l->g->names.v[n->name];
    for (u32 i = 1; i < p->tensors.n; i++)
        if (p->tensors.v[i].alias && !strcmp(p->tensors.v[i].alias, name))
            p->tensors.v[i].alias = NULL;
}

static void segments(Op *o) {
    Lower *l = o->l;
    int split = l->u->schedule.split;
    rows(o);
    Ex want = split == SPLIT_LAUNCH ? segments_of_launch(o) : num(o, split);
    Segments sg = {.per = at_least_one(o, fn(o, FN_CDIV, chunks(o), want))};
    sg.count = at_least_one(o, fn(o, FN_CDIV, chunks(o), sg.per));
    // None where there is one segment, else at least one each, and short to say.
    Ex slots = fn(o, FN_MUL, num(o, 2), fn(o, FN_SUB, sg.count, num(o, 1)));
    u8 ax[8];
    sg.states = segment_tensor(o, "Sg", slots, ax, state_axes(o, ax));
    if (o->decay) sg.decays = segment_tensor(o, "Eg", slots, ax, decay_axes(o, ax));
    gather_segment(o, &sg);
    if (o->n->arg[4]) no_other_reader(o, o->n->arg[4]);

    TKernel *t;
    Ctx *k = kernel(o, "scan", &t);
    Ex g = val(o, ssd_prog_grid(l->p, t, "g", sg.count));
    TB b = ssd_ctx_tb(l, k);
    Ex per = val(o, ssd_tile_map(&b, "per", SSD_IDX, sg.per));
    Ex count = val(o, ssd_tile_map(&b, "segments", SSD_IDX, sg.count)), one = num(o, 1);
    Ex end = fn(o, FN_MUL, fn(o, FN_ADD, g, one), per);
    Walk w = {.init = segment_start(o, k, &sg, g, count), .reads = true};
    w.lo = fn(o, FN_MUL, g, per);
    w.hi = fn(o, FN_MIN, end, chunks(o));
    walk(o, k, &w);
    finish(o, k, w.s, fn(o, FN_EQ, g, fn(o, FN_SUB, count, one)));
}

// --- Quadratic ----------------------------------------------------------------------------------

// First key chunk that query chunk u can see through a band of width w: floor((u*Q - w + 1) / Q),
// at least 0.
static Ex first_chunk(Op *o, Ex u) {
    if (!o->n->k) return num(o, 0);
    Ex e = fn(o, FN_SUB, fn(o, FN_MUL, u, num(o, o->l->q)), num(o, o->n->k - 1));
    return fn(o, FN_MAX, fn(o, FN_FDIV, e, num(o, o->l->q)), num(o, 0));
}

static void quadratic_rows(Op *o, Ctx *k, Ex u, TBlock *block) {
    Lower *l = o->l;
    bool is_full = o->n->flags & SSD_FULL;
    Ex q = num(o, l->q);
    Ctx *cq =
        tokens(o, k, block, fn(o, FN_ADD, fn(o, FN_MUL, u, q), ssd_ex_axis(l->p, o->j)), o->j);
    TB bq = ssd_ctx_tb(l, cq);
    Val qi = at_i(o, &bq, "qi", ssd_cone_rows(l, cq, o->n->arg[0], "q"));
    Decays dq = {0};
    if (o->decay) dq = decays(o, cq);
    u8 ax[8];
    int nax = 0;
    ax[nax++] = o->i;
    for (int d = 0; d < o->ax.nvalue; d++) ax[nax++] = ssd_cone_tile_axis(l, o->ax.value[d]);
    Val y0 = ssd_tile_fill(&bq, "y0", SSD_F32, zero(o), ax, nax);
    Ex gap0 = o->decay ? decay_fill(o, &bq, "gap0", 0) : 0;
    Ex hi = is_full ? chunks(o) : fn(o, FN_ADD, u, num(o, 1));
    TOp *loop = ssd_ctx_open(l, cq, "v", first_chunk(o, u), hi, true);
    TB lb = {l->p, &cq->tail};
    Val y = ssd_tile_carry(&lb, loop, "y", val(o, y0)), gap = 0;
    if (o->decay) gap = ssd_tile_carry(&lb, loop, "gap", gap0);
    Ex v = val(o, loop->var);
    Ctx *ck = tokens(o, k, &loop->body, chunk_pos(o, loop->var), o->j);
    TB b = ssd_ctx_tb(l, ck);
    Val kj = ssd_cone_rows(l, ck, o->n->arg[1], "k"), vj = ssd_cone_rows(l, ck, o->n->arg[2], "v");
    Ex same = fn(o, FN_EQ, v, u), expo = 0, next[2];
    Ex gi = fn(o, FN_ADD, fn(o, FN_MUL, u, q), ssd_ex_axis(l->p, o->i)),
       gj = chunk_pos(o, loop->var);
    if (o->decay) {
        Decays d = decays(o, ck);
        Ex inside = fn(o, FN_SUB, val(o, dq.r), val(o, d.w));
        Ex across = fn(o, FN_ADD, fn(o, FN_ADD, val(o, dq.r), val(o, gap)), val(o, d.to_end));
        expo = where(o, same, inside, across);
        next[1] = where(o, same, zero(o), fn(o, FN_ADD, val(o, gap), val(o, d.end)));
        Val g1 = ssd_tile_map(&b, "gap1", SSD_F32, next[1]);
        next[1] = val(o, g1);
    }
    next[0] =
        val(o, scores_times_value(o, &b, qi, kj, vj, is_full ? 0 : causal(o, gi, gj), expo, y));
    ssd_tile_yield(&b, next, o->decay ? 2 : 1);
    ssd_ctx_close(cq);
    if (o->n->arg[4]) { // the initial state, through all the decay before this block
        Ex init = initial_state(o, k, 0);
        Val s0 = l->p->exs.v[init].val, di = 0;
        if (o->decay)
            di = ssd_tile_map(&bq, "ri", SSD_F32, fn(o, FN_ADD, val(o, dq.r), val(o, gap)));
        Val yi = read_state(o, &bq, qi, s0, di);
        y = ssd_tile_map(&bq, "yt", SSD_F32, fn(o, FN_ADD, val(o, y), val(o, yi)));
    }
    set_output(o, cq, y);
}

static void quadratic(Op *o) {
    Lower *l = o->l;
    TKernel *t;
    rows(o);
    if (o->final) {
        Ctx *k = kernel(o, "state", &t);
        Walk w = whole_walk(o, k, false);
        walk(o, k, &w);
        finish(o, k, w.s, 0);
    }
    Ctx *k = kernel(o, "quad", &t);
    if (!l->g->packed) {
        Val u = ssd_prog_grid(l->p, t, "u", chunks(o));
        quadratic_rows(o, k, val(o, u), k->block);
        return;
    }
    TOp *loop = ssd_ctx_open(l, k, "u", num(o, 0), chunks(o), false);
    Ctx *c = ssd_ctx_new(l, k, &loop->body);
    quadratic_rows(o, c, val(o, loop->var), c->block);
    ssd_ctx_close(k);
}

// --- Recurrent ----------------------------------------------------------------------------------

// Whether the stage computes each value feature by itself, so that it may be cut into blocks.
static bool features_apart(Op *o, AxisId p) {
    Lower *l = o->l;
    if (l->apart >> p & 1) return true;
    for (Ref r = 1; r < l->g->nodes.n; r++)
        if (ssd_lower_joins(&l->g->nodes.v[r], p)) return false;
    return true;
}

static void read_token(Op *o, Ctx *c, Ex state) {
    TB b = ssd_ctx_tb(o->l, c);
    Ex q = val(o, ssd_cone_named(o->l, c, "q", ssd_cone(o->l, c, o->n->arg[0])));
    Val y = sum_over(o, &b, "yr", o->ax.key, o->ax.nkey, fn(o, FN_MUL, state, q));
    ssd_cone_set(o->l, c, o->r, y);
}

// One token: updates the state and, if asked, reads it. Returns the new state.
static Val one_token(Op *o, Ctx *c, Val s, bool read) {
    Lower *l = o->l;
    TB b = ssd_ctx_tb(l, c);
    Ex k = val(o, ssd_cone_named(l, c, "k", ssd_cone(l, c, o->n->arg[1])));
    Ex v = val(o, ssd_cone_named(l, c, "v", ssd_cone(l, c, o->n->arg[2])));
    Ex kv = fn(o, FN_MUL, v, k), old = val(o, s), decayed = old, seen;
    Ex a = 0;
    if (o->decay) {
        Ex e = fn1(o, FN_EXP, ssd_cone(l, c, o->n->arg[3]));
        a = val(o, ssd_cone_named(l, c, "decay", e));
        decayed = fn(o, FN_MUL, old, a);
    }
    bool late = o->n->time == TIME_REV; // write, read, decay
    Val s1 = ssd_tile_map(&b, "s1", SSD_F32, fn(o, FN_ADD, late ? old : decayed, kv));
    if (late || (o->n->flags & SSD_READ_BEFORE))
        seen = o->strict ? old : val(o, s1);
    else
        seen = o->strict ? decayed : val(o, s1);
    if (read) read_token(o, c, seen);
    if (late && a) s1 = ssd_tile_map(&b, "s2", SSD_F32, fn(o, FN_MUL, val(o, s1), a));
    return s1;
}

// Cuts the first value feature axis into blocks: index = pb*rows + tile index.
static Ctx *blocked(Op *o, Ctx *up, TBlock *block, Ex pb, i64 block_rows) {
    Lower *l = o->l;
    Ctx *c = ssd_ctx_new(l, up, block);
    AxisId p = o->ax.value[0];
    u8 tile = ssd_lower_row_axis(
        l, ssd_arena_printf(l->a, "%s%d", l->g->axes.v[p].name, (int)block_rows), block_rows);
    l->tile_of[p] = tile;
    Ex first = fn(o, FN_MUL, pb, num(o, block_rows));
    ssd_ctx_bind(l, c, p, fn(o, FN_ADD, first, ssd_ex_axis(l->p, tile)));
    return c;
}

// Rows of the state a block holds; 0: all of them.
static i64 block_rows_of(Op *o) {
    i64 cut = o->l->u->schedule.block;
    if (!o->ax.nvalue || cut <= 0) return 0;
    AxisId p = o->ax.value[0];
    return cut < o->l->g->axes.v[p].size && features_apart(o, p) ? cut : 0;
}

static Ex block_count(Op *o, i64 cut) {
    return num(o, (o->l->g->axes.v[o->ax.value[0]].size + cut - 1) / cut);
}

// Does every state that this stage writes in place have the axis? Blocks that share one would read
// what another has written.
static bool states_apart(Op *o, AxisId p) {
    Lower *l = o->l;
    const Stage *s = &l->stages.v[l->stage];
    for (u32 i = 0; i < s->stores.n; i++) {
        StageStore st = s->stores.v[i];
        bool in_place = st.out >= 0 && l->p->tensors.v[l->out_tensor[st.out]].alias;
        if (in_place && !ssd_graph_has_axis(l->g, st.ref, p)) return false;
    }
    return true;
}

// Blocks of rows are units of a GPU's grid, where they may be; on a CPU one after the other.
static void step(Op *o) {
    Lower *l = o->l;
    TKernel *t;
    Ctx *k = kernel(o, "step", &t), *token = tokens(o, k, k->block, num(o, 0), 0), *c = token;
    i64 cut = block_rows_of(o);
    bool gpu = l->u->machine && l->u->machine->gpu;
    if (cut && gpu && !states_apart(o, o->ax.value[0])) cut = 0;
    if (cut && gpu) {
        Ex pb = val(o, ssd_prog_grid(l->p, t, "pb", block_count(o, cut)));
        c = blocked(o, token, token->block, pb, cut);
    } else if (cut) {
        TOp *loop = ssd_ctx_open(l, token, "pb", num(o, 0), block_count(o, cut), false);
        c = blocked(o, token, &loop->body, val(o, loop->var), cut);
    }
    Val s = ssd_cone_named(l, c, "s", initial_state(o, c, 0));
    Val s1 = one_token(o, c, s, true);
    finish(o, c, s1, 0);
    ssd_cone_stores(l, c, false);
    if (cut && !gpu) ssd_ctx_close(token);
}

static void recurrent(Op *o) {
    Lower *l = o->l;
    TKernel *t;
    Ctx *k = kernel(o, "recur", &t), *place = k;
    i64 cut = block_rows_of(o);
    if (cut)
        place =
            blocked(o, k, k->block, val(o, ssd_prog_grid(l->p, t, "pb", block_count(o, cut))), cut);
    bool is_full = o->n->flags & SSD_FULL;
    Ex s0 = initial_state(o, place, 0);
    TOp *loop = ssd_ctx_open(l, place, "i", num(o, 0), ssd_lower_len(l), false);
    TB lb = {l->p, &loop->body};
    Val s = ssd_tile_carry(&lb, loop, "s", s0);
    Ctx *c = tokens(o, place, &loop->body, val(o, loop->var), 0);
    Ex next = val(o, one_token(o, c, s, !is_full));
    if (!is_full) ssd_cone_stores(l, c, false);
    ssd_tile_yield(&lb, &next, 1);
    ssd_ctx_close(place);
    if (is_full) { // written in the first walk, read in the second
        TOp *again = ssd_ctx_open(l, place, "i2", num(o, 0), ssd_lower_len(l), false);
        Ctx *c2 = tokens(o, place, &again->body, val(o, again->var), 0);
        read_token(o, c2, val(o, s));
        ssd_cone_stores(l, c2, false);
        ssd_ctx_close(place);
    }
    finish(o, place, s, 0);
}

void ssd_lower_ssd(Lower *l, Ref r) {
    Op o = op_of(l, r);
    Form f = l->u->schedule.form;
    bool is_full = o.n->flags & SSD_FULL;
    if (l->g->step)
        step(&o);
    else if (f == FORM_RECURRENT)
        recurrent(&o);
    else if (f == FORM_QUADRATIC || o.n->k)
        quadratic(&o);
    else if (is_full)
        full(&o);
    else if (splits(&o))
        segments(&o);
    else
        chunked(&o);
    memset(l->tile_of, 0, sizeof l->tile_of);
}
