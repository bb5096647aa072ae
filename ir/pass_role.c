// SPDX-License-Identifier: Apache-2.0
// role: a kernel that walks chunks becomes roles and rings (T0 -> T2), where the machine has
// products of 16-bit tiles. What it reads of a kernel is its data flow alone:
//
//     load    tiles of tensors whose address needs only indices    a warp that fetches them
//     vec     one number a token: decays, their sums, weights      a warp a head
//     cook    operands of products that are made of loaded tiles   a warpgroup, a step ahead
//     scores  products free of the carry, what is made of them     a warpgroup, a step ahead
//     heads   what the carry reaches and feeds, what leaves        a warpgroup a head
//
// A value that leaves its cone goes through a ring. Nothing in `heads` contracts the head or the
// rows of the state, so copies of the role take a head each, or 64 values each.
//
// How products lie is a search: every product of `heads` may have either free axis as its rows; a
// choice is possible when accumulators meet their operands in the layout they have, second operands
// lie in shared memory, and the carry meets itself; it costs the tensor clocks of the padded
// product, the loads and the packing of first operands. (The mamba2 program: rows are those of the
// state everywhere, so the state's accumulator, packed, is the operand that reads it.)
//
// Kernels that do not have this shape stay as they are. Needs: T0 after scale. Leaves: T2, products
// not yet asynchronous (`order` does that).
#include "nest.h"
#include "role.h"

static const TVal *val(const Timer *t, Val v) { return &t->p->vals.v[v]; }
static const Expr *ex(const Timer *t, Ex e) { return &t->p->exs.v[e]; }
static Fact *fact(const Timer *t, Val v) { return &t->fact[v]; }
static i64 size(const Timer *t, u8 x) { return t->p->axes.v[x].size; }
static bool has(const TVal *v, u8 x) { return memchr(v->ax, x, v->naxes) != NULL; }

Val ssd_role_origin(const Timer *t, Val v) {
    while (v < t->nfacts && t->fact[v].def && t->fact[v].def->op == TOP_RENAME)
        v = t->fact[v].def->a;
    return v;
}

bool ssd_role_narrow(const Timer *t, const TOp *load) {
    return t->half && t->p->tensors.v[load->tensor].dtype == t->half;
}

Ex ssd_role_shift(Prog *p, const TOp *access) {
    const TTensor *t = &p->tensors.v[access->tensor];
    int dims = ssd_timed_along(p, access->tensor);
    u8 ax[8];
    Ex at = ssd_ex_int(p, 0);
    i64 n = 1;
    if (ssd_dtype_size((ssd_dtype)t->dtype) != 2) return 0;
    for (int d = t->rank - 2; d >= t->rank - 1 - dims; d--) {
        if (ssd_ex_axes(p, access->idx[d], ax)) return 0;
        n *= (i64)p->exs.v[t->dim[d + 1]].num;
        at = ssd_ex_fn(p, FN_ADD, at, ssd_ex_fn(p, FN_MUL, access->idx[d], ssd_ex_int(p, n), 0), 0);
    }
    return dims ? ssd_ex_fn(p, FN_MOD, at, ssd_ex_int(p, PIECE), 0) : 0;
}

// Products take the 16-bit numbers that tiles are made of; of both kinds bf16, which none is too
// large for.
static void find_half(Timer *t) {
    for (const TOp *o = t->loop->body.first; o && t->half != SSD_BF16; o = o->next) {
        if (o->op != TOP_LOAD || val(t, o->out)->naxes != 2) continue;
        u8 d = t->p->tensors.v[o->tensor].dtype;
        if (d == SSD_BF16 || d == SSD_F16) t->half = d;
    }
}

u8 ssd_role_free_axis(const Timer *t, const TOp *o, int which) {
    const TVal *a = val(t, which ? o->b : o->a), *b = val(t, which ? o->a : o->b);
    u8 x = 0;
    for (int i = 0; i < a->naxes; i++) {
        if (has(b, a->ax[i])) continue;
        if (x) return 0;
        x = a->ax[i];
    }
    return x;
}
static u8 contracted(const Timer *t, const TOp *o) {
    const TVal *a = val(t, o->a), *b = val(t, o->b);
    u8 x = 0;
    for (int i = 0; i < a->naxes; i++) {
        if (!has(b, a->ax[i])) continue;
        if (x) return 0;
        x = a->ax[i];
    }
    return x;
}

// --- What differs between the copies of a block -------------------------------------------------

// `head // n`, the same for all heads of a block: n heads are of a group, or there is one group.
bool ssd_role_one_group(const Timer *t, Ex e) {
    i64 n = ssd_ex_divisor(t->p, e, t->head);
    bool all = false;
    for (int i = 0; n && i < t->k->ngrid; i++) {
        const Expr *heads = ex(t, t->k->grid[i].size);
        all |= t->k->grid[i].var == t->head && heads->kind == EX_NUM && n >= (i64)heads->num;
    }
    return n && (all || n % t->copies == 0);
}

bool ssd_role_straddles(const Timer *t) { return t->copies > 1 && t->blocks % t->copies; }

bool ssd_role_ex_own(const Timer *t, Ex e) {
    if (!e) return false;
    const Expr *x = ex(t, e);
    switch ((ExKind)x->kind) {
    case EX_VAL: return x->val == t->head ? ssd_role_straddles(t) : fact(t, x->val)->own;
    case EX_AXIS: return x->axis == t->value && t->copies > 1 && t->blocks > 1;
    case EX_LOAD:
        for (int i = 0; i < x->nidx; i++)
            if (ssd_role_ex_own(t, x->idx[i])) return true;
        return false;
    case EX_FN:
        if (ssd_role_one_group(t, e)) return false;
        return ssd_role_ex_own(t, x->arg[0]) || ssd_role_ex_own(t, x->arg[1]) ||
               ssd_role_ex_own(t, x->arg[2]);
    case EX_NUM:
    case EX_SYM: return false;
    }
    return false;
}

typedef struct Sees {
    const Timer *t;
    bool carried, made, own, head;
    bool number;  // one a token, that vec makes
    bool feature; // one a feature
    bool unready; // a cooked tile that is no operand: it would be rounded on its way
} Sees;
static void sees(void *ctx, Val v) {
    Sees *s = ctx;
    if (v >= s->t->nfacts) return;
    s->carried |= fact(s->t, v)->carried;
    s->made |= fact(s->t, v)->made;
    s->own |= v != s->t->head && fact(s->t, v)->own;
    const Fact *f = fact(s->t, v);
    const TVal *x = val(s->t, v);
    s->head |= f->cone == CONE_HEAD && x->naxes > 1;
    s->number |= x->naxes == 1 && f->cone == CONE_VEC && !f->index;
    s->feature |= x->naxes == 1 && f->cone == CONE_HEAD;
    s->unready |= f->cone == CONE_COOK && !f->factor;
}
static void count_use(void *ctx, Val v) {
    Timer *t = ctx;
    if (v < t->nfacts) fact(t, v)->uses++;
}

static bool own_op(const Timer *t, const TOp *o) {
    bool own = ssd_role_ex_own(t, o->e) || ssd_role_ex_own(t, o->e2) || ssd_role_ex_own(t, o->when);
    for (int i = 0; i < o->nidx; i++) own |= ssd_role_ex_own(t, o->idx[i]);
    return own;
}

// --- Cones --------------------------------------------------------------------------------------

// Tiles of the loop over (rows, feature), (i, j), or one axis of rows.
static bool is_row(const Timer *t, u8 x) { return x == t->i || x == t->j; }

// Marks the operands of products, and those among them that only shared memory can give: both of a
// product that no carry reaches, and what meets rows of the state, which come first.
static void find_factors(Timer *t) {
    for (const TOp *o = t->loop->body.first; o; o = o->next) {
        if (o->op != TOP_MMA) continue;
        Fact *of[] = {fact(t, ssd_role_origin(t, o->a)), fact(t, ssd_role_origin(t, o->b))};
        for (int i = 0; i < 2; i++) {
            of[i]->factor = true;
            of[i]->shared |=
                fact(t, o->out)->cone == CONE_AHEAD || !has(val(t, i ? o->b : o->a), t->value);
        }
    }
}

// May what is computed of it be rounded to 16 bits? Not what f32 holds token by token.
static bool coarse(const Timer *t, const TOp *load) {
    const TTensor *x = &t->p->tensors.v[load->tensor];
    for (int d = 0; d < x->rank; d++) {
        const Expr *n = ex(t, x->dim[d]);
        if (n->kind == EX_SYM && !strcmp(t->p->syms.v[n->sym], "t")) return x->dtype != SSD_F32;
    }
    return x->role != T_WS;
}

// A tile that the carry and products have no part in. The role cook computes it when products want
// it in shared memory, or when it takes more than fragments can do.
static bool plain_tile(Timer *t, const TOp *o, Fact *f, const Sees *s) {
    const TVal *v = val(t, o->out);
    bool rows = is_row(t, v->ax[0]) != is_row(t, v->ax[1]), only_cook = s->feature || s->unready;
    f->cone = CONE_HEAD;
    switch ((TOpCode)o->op) {
    case TOP_LOAD:
        f->cone = ssd_role_narrow(t, o) && is_row(t, v->ax[0]) ? CONE_SLOT : CONE_COOK;
        return f->cone == CONE_SLOT || (rows && coarse(t, o));
    case TOP_SWAP: f->cone = CONE_COOK; return rows && !is_row(t, o->ax[0]);
    case TOP_MAP:
        if (f->shared || only_cook) f->cone = CONE_COOK;
        return rows || f->cone == CONE_HEAD;
    default: return false;
    }
}

// Does a cooked tile, which comes in 16 bits, reach the value other than as a term or a factor?
static bool blurred(const Timer *t, Ex e, bool bent) {
    const Expr *x = ex(t, e);
    if (x->kind == EX_VAL) return bent && x->val < t->nfacts && fact(t, x->val)->cone == CONE_COOK;
    if (x->kind != EX_FN) return false;
    bool plain = x->fn == FN_ADD || x->fn == FN_SUB || x->fn == FN_NEG || x->fn == FN_MUL;
    for (int i = 0; i < ssd_fns[x->fn].arity; i++) {
        bool straight = plain || (x->fn == FN_DIV && i == 0) || (x->fn == FN_WHERE && i > 0);
        if (blurred(t, x->arg[i], bent || !straight)) return true;
    }
    return false;
}

static bool classify(Timer *t, TOp *o) {
    if (!o->out) return (o->op == TOP_STORE && !blurred(t, o->e, false)) || o->op == TOP_YIELD;
    Fact *f = fact(t, o->out);
    const TVal *v = val(t, o->out);
    Sees s = {.t = t};
    ssd_nest_operands(t->p, o, sees, &s);
    f->def = o;
    f->inside = true;
    f->carried = s.carried;
    f->made = s.made || o->op == TOP_MMA;
    f->own = s.own || own_op(t, o);
    if (v->naxes == 0) {
        f->cone = CONE_SCALAR;
        return o->op == TOP_LOAD || o->op == TOP_MAP || o->op == TOP_AT;
    }
    if (v->naxes == 1) {
        f->cone = CONE_VEC;
        if (!is_row(t, v->ax[0]) || f->carried || f->made) return false;
        bool plain = !(o->flags & TF_MAX);
        f->index = o->op == TOP_MAP && !s.number;
        return o->op == TOP_LOAD || o->op == TOP_MAP || o->op == TOP_RENAME ||
               (o->op == TOP_SCAN && plain);
    }
    if (v->naxes != 2) return false;
    switch ((TOpCode)o->op) {
    case TOP_RENAME:
        *f = *fact(t, o->a);
        f->def = o;
        f->uses = 0;
        return true;
    case TOP_MMA:
        f->cone = f->carried ? CONE_HEAD : CONE_AHEAD;
        if (!ssd_role_free_axis(t, o, 0) || !ssd_role_free_axis(t, o, 1) || !contracted(t, o) ||
            o->nkeep)
            return false;
        if (o->c && f->cone == CONE_AHEAD)
            f->cone = CONE_HEAD; // a sum with an accumulator: keep it there
        return true;
    case TOP_LOAD:
    case TOP_SWAP:
    case TOP_MAP:
        if (!f->carried && !f->made) return plain_tile(t, o, f, &s);
        f->cone = f->carried || s.head ? CONE_HEAD : CONE_AHEAD;
        return o->op == TOP_MAP && !blurred(t, o->e, false);
    default: return false;
    }
}

// --- Where values begin -------------------------------------------------------------------------
// Is the value an index and nothing else, of tiles whose rows it runs along?
static bool only_index(const Timer *t, const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next) {
        int axes = o->out ? val(t, o->out)->naxes : 2;
        if (ssd_ex_names(t->p, o->e, t->value) || ssd_ex_names(t->p, o->e2, t->value) ||
            ssd_ex_names(t->p, o->when, t->value) || memchr(o->ax, t->value, sizeof o->ax))
            return false;
        for (int d = 0; d < o->nidx; d++)
            if (ssd_ex_names(t->p, o->idx[d], t->value) &&
                (ex(t, o->idx[d])->kind != EX_AXIS || axes != 2))
                return false;
        if (!only_index(t, &o->body)) return false;
    }
    return true;
}

// Bulk copies start at multiples of 16 bytes. Rows that begin elsewhere are taken from the piece on
// that they begin in: a block's first values are the ones before the head's own, which nothing
// contracts and nothing keeps. The first head has none, so nothing in front of the tensor is read.
static void find_shift(Timer *t) {
    if (!t->wgmma || !only_index(t, &t->k->body)) return;
    for (const TOp *o = t->loop->body.first; o && !t->shift; o = o->next) {
        if (o->op == TOP_LOAD && ssd_role_narrow(t, o) && val(t, o->out)->naxes == 2 &&
            ssd_ex_names(t->p, o->idx[o->nidx - 1], t->value))
            t->shift = ssd_role_shift(t->p, o);
    }
}

int ssd_role_blocks(i64 values, bool shifted) {
    i64 step = PIECE; // heads begin at multiples of it
    while (shifted && values % step) step /= 2;
    return (int)((values + PIECE - step + VALUES - 1) / VALUES);
}

// The products that join a carry-free operand to the carry's cone keep their output there.
static bool classify_all(Timer *t) {
    for (TOp *o = t->loop->body.first; o; o = o->next)
        if (!classify(t, o)) return false;
    return true;
}

static TOp *find_loop(const TKernel *k) {
    TOp *loop = NULL;
    for (TOp *o = k->body.first; o; o = o->next) {
        if (o->op == TOP_IF || o->op == TOP_EACH || o->op == TOP_REDUCE || o->op == TOP_MMA)
            return NULL;
        if (o->op != TOP_FOR) continue;
        bool products = false;
        for (TOp *q = o->body.first; q; q = q->next) products |= q->op == TOP_MMA;
        if (!products) continue;
        if (loop || o->flags) return NULL;
        loop = o;
    }
    return loop;
}

static Val yielded(const Timer *t, int i) {
    const Expr *x = ex(t, t->loop->body.last->init[i]);
    return x->kind == EX_VAL ? x->val : 0;
}

// The state, its rows of the chunk, and the axis that heads may be cut along.
static bool find_shape(Timer *t) {
    int tiles = 0;
    Val next = 0;
    for (int i = 0; i < t->loop->ncarry; i++) {
        if (!val(t, t->loop->carry[i])->naxes) continue;
        tiles++;
        t->carry = t->loop->carry[i];
        next = yielded(t, i);
    }
    if (tiles != 1 || !next || val(t, t->carry)->naxes != 2) return false;
    TOp *s1 = NULL;
    for (TOp *o = t->loop->body.first; o; o = o->next)
        if (o->out == next) s1 = o;
    if (!s1 || s1->op != TOP_MMA) return false;
    t->j = contracted(t, s1);
    t->value = val(t, t->carry)->ax[0];
    for (TOp *o = t->loop->body.first; o; o = o->next) {
        if (o->op != TOP_RENAME || o->ax[0] != t->j) continue;
        if (o->ax[2] || (t->i && t->i != o->ax[1])) return false;
        t->i = o->ax[1];
    }
    return t->j != 0;
}

static void find_head(Timer *t) {
    for (int i = 0; i < t->k->ngrid; i++)
        if (ex(t, t->k->grid[i].size)->kind == EX_NUM && !t->head) t->head = t->k->grid[i].var;
}

// --- Layouts of products ------------------------------------------------------------------------

static int mma_of(const Timer *t, Val v) {
    for (u32 m = 0; m < t->mma.n; m++)
        if (t->mma.v[m]->out == v) return (int)m;
    return -1;
}

typedef struct Orient {
    const Timer *t;
    u32 turned;
    u8 rows, cols;
    bool ok;
} Orient;

static void lay_of(Orient *o, Val v);
static void lay_of_leaf(void *ctx, Val v) {
    Orient *o = ctx;
    if (v < o->t->nfacts && val(o->t, v)->naxes == 2 && fact(o->t, v)->cone == CONE_HEAD)
        lay_of(o, v);
}

// Rows and columns of a register tile of `heads` under a choice; 0 where it has none of its own.
static void lay_of(Orient *o, Val v) {
    const Timer *t = o->t;
    u8 from = 0, to = 0;
    Fact *f = fact(t, v);
    if (v == t->carry) {
        for (int i = 0; i < t->loop->ncarry; i++)
            if (t->loop->carry[i] == v) lay_of(o, yielded(t, i));
        return;
    }
    if (!f->def) return;
    if (f->def->op == TOP_RENAME) {
        from = f->def->ax[0];
        to = f->def->ax[1];
        Orient in = {t, o->turned, 0, 0, true};
        lay_of(&in, f->def->a);
        if (!in.rows) return;
        in.rows = in.rows == from ? to : in.rows;
        in.cols = in.cols == from ? to : in.cols;
        o->ok &= in.ok && (!o->rows || (o->rows == in.rows && o->cols == in.cols));
        o->rows = in.rows;
        o->cols = in.cols;
        return;
    }
    int m = mma_of(t, v);
    if (m < 0) {
        ssd_nest_operands(t->p, f->def, lay_of_leaf, o);
        return;
    }
    int first = o->turned >> m & 1;
    u8 rows = ssd_role_free_axis(t, t->mma.v[m], first),
       cols = ssd_role_free_axis(t, t->mma.v[m], !first);
    o->ok &= !o->rows || (o->rows == rows && o->cols == cols);
    o->rows = rows;
    o->cols = cols;
}

static i64 padded(const Timer *t, u8 x, i64 to) {
    i64 n = x == t->value ? 64 : size(t, x);
    return (n + to - 1) / to * to;
}

// Clocks of a choice in one pass of the loop, -1: impossible. 64 x 8 x 16 multiply-adds take 4
// clocks; a shared-memory byte a 128th; packing or mapping two elements of 128 threads one, twice.
static double price(const Timer *t, u32 turned) {
    double clocks = 0;
    for (u32 m = 0; m < t->mma.n; m++) {
        const TOp *o = t->mma.v[m];
        int first = turned >> m & 1;
        Val a = first ? o->b : o->a, b = first ? o->a : o->b;
        u8 rows = ssd_role_free_axis(t, o, first), cols = ssd_role_free_axis(t, o, !first),
           k = contracted(t, o);
        Fact *fa = fact(t, ssd_role_origin(t, a)), *fb = fact(t, ssd_role_origin(t, b));
        if (fb->cone == CONE_HEAD) return -1; // not in shared memory
        double tile = (double)padded(t, rows, 64) * (double)padded(t, k, 16);
        clocks += tile * (double)padded(t, cols, 8) / (64 * 8 * 16) * 4;
        if (fa->cone == CONE_HEAD) {
            Orient at = {t, turned, 0, 0, true};
            lay_of(&at, a);
            if (!at.ok || (at.rows && (at.rows != rows || at.cols != k))) return -1;
            clocks += tile / 128;
        }
        if (fa->cone != CONE_HEAD || fa->def) clocks += tile * 2 / 128;
        if (o->c) {
            Orient at = {t, turned, 0, 0, true};
            lay_of(&at, o->c);
            if (!at.ok || (at.rows && (at.rows != rows || at.cols != cols))) return -1;
        }
    }
    return clocks;
}

static bool orient(Timer *t) {
    double best = -1;
    if (t->mma.n > 8) return false;
    for (u32 turned = 0; turned < 1u << t->mma.n; turned++) {
        double c = price(t, turned);
        if (c < 0 || (best >= 0 && c >= best)) continue;
        best = c;
        t->turned = turned;
    }
    return best >= 0;
}

static bool note_layouts(Timer *t) {
    for (TOp *o = t->loop->body.first; o; o = o->next) {
        if (!o->out || val(t, o->out)->naxes != 2) continue;
        Fact *f = fact(t, o->out);
        if (f->cone == CONE_AHEAD) {
            if (val(t, o->out)->ax[0] != t->i || val(t, o->out)->ax[1] != t->j) return false;
            f->rows = t->i;
            f->cols = t->j;
        } else if (f->cone == CONE_HEAD) {
            Orient at = {t, t->turned, 0, 0, true};
            lay_of(&at, o->out);
            if (!at.ok) return false;
            f->rows = at.rows;
            f->cols = at.cols;
        }
    }
    Orient at = {t, t->turned, 0, 0, true};
    lay_of(&at, t->carry);
    fact(t, t->carry)->rows = at.rows;
    fact(t, t->carry)->cols = at.cols;
    return at.ok && at.rows;
}

// --- Does the machine have it? ------------------------------------------------------------------

// Rows of accumulators are 64 a role; columns come in eights, contracted axes in sixteens.
static bool sizes_fit(Timer *t) {
    i64 q = size(t, t->j);
    if (q != 64 || (t->i && size(t, t->i) != q)) return false;
    u8 n = val(t, t->carry)->ax[1];
    if (size(t, n) > 256 || (size(t, n) > 128 && t->copies > 1)) return false; // registers
    Fact *s = fact(t, t->carry);
    if (s->rows != t->value) return false;
    t->to_axis[t->j] = t->j;
    if (t->i) t->to_axis[t->i] = t->i;
    for (u32 m = 0; m < t->mma.n; m++) {
        const TOp *o = t->mma.v[m];
        u8 rows = ssd_role_free_axis(t, o, t->turned >> m & 1);
        if (rows != t->value && !is_row(t, rows)) return false;
        if (contracted(t, o) == t->value) return false;
    }
    return true;
}

static u8 axis_of_size(Timer *t, u8 x, i64 want) {
    if (size(t, x) == want) return x;
    const char *name = ssd_arena_printf(t->a, "%s%lld", t->p->axes.v[x].name, (long long)want);
    return ssd_prog_axis(t->p, name, want);
}

static bool other_axes(Timer *t) {
    for (TOp *o = t->loop->body.first; o; o = o->next) {
        if (!o->out) continue;
        const TVal v = *val(t, o->out);
        for (int i = 0; i < v.naxes; i++) {
            u8 x = v.ax[i];
            if (t->to_axis[x]) continue;
            i64 want = x == t->value ? 64 : padded(t, x, 16);
            if (want > 256) return false;
            t->to_axis[x] = axis_of_size(t, x, want);
        }
    }
    return true;
}

// Maps that a product takes, or that more than one op reads, are written down.
static void stays(void *ctx, Val v) {
    Timer *t = ctx;
    if (v < t->nfacts) fact(t, v)->stays = true;
}
static void find_stays(Timer *t) {
    for (TOp *o = t->loop->body.first; o; o = o->next) {
        ssd_nest_operands(t->p, o, count_use, t);
        if (o->op == TOP_MMA || o->op == TOP_YIELD || o->op == TOP_RENAME)
            ssd_nest_operands(t->p, o, stays, t);
    }
    for (u32 v = 1; v < t->nfacts; v++)
        if (t->fact[v].uses > 1) t->fact[v].stays = true;
}

static void outside(Timer *t) {
    for (TOp *o = t->k->body.first; o; o = o->next) {
        if (!o->out) continue;
        Sees s = {.t = t};
        ssd_nest_operands(t->p, o, sees, &s);
        Fact *f = fact(t, o->out);
        f->def = o;
        f->own = s.own || own_op(t, o);
        f->cone = val(t, o->out)->naxes ? CONE_HEAD : CONE_SCALAR;
    }
}

static bool has_power(const Timer *t, Ex e) {
    const Expr *x = ex(t, e);
    if (x->kind != EX_FN) return false;
    if (x->fn == FN_EXP || x->fn == FN_EXP2 || x->fn == FN_EXPM1 || x->fn == FN_POW) return true;
    for (int i = 0; i < ssd_fns[x->fn].arity; i++)
        if (has_power(t, x->arg[i])) return true;
    return false;
}

// f16 ends at 65504: a state that nothing makes smaller, and powers, may pass that.
static bool in_range(const Timer *t) {
    if (t->half != SSD_F16) return true;
    for (const TOp *o = t->loop->body.first; o; o = o->next) {
        if (o->op == TOP_MMA && o->c && ssd_role_origin(t, o->c) == t->carry) return false;
        if (o->op == TOP_MAP && t->fact[o->out].cone == CONE_COOK && has_power(t, o->e))
            return false;
    }
    return true;
}

// Do all heads of a block read the same tiles, but for those with values?
static bool shares(const Timer *t) {
    for (const TOp *o = t->loop->body.first; o; o = o->next)
        if (o->op == TOP_LOAD && val(t, o->out)->naxes == 2 && !has(val(t, o->out), t->value) &&
            t->fact[o->out].own)
            return false;
    return true;
}

static bool analyse(Timer *t) {
    t->loop = find_loop(t->k);
    if (!t->loop || !find_shape(t)) return false;
    find_half(t);
    find_head(t);
    find_shift(t);
    t->blocks = ssd_role_blocks(size(t, t->value), false);
    if (t->shift && ssd_role_blocks(size(t, t->value), true) > t->blocks)
        t->shift = 0; // better that lanes copy values than a block more
    bool odd = t->blocks > 1 && ssd_role_straddles(t);
    if (t->even && !odd) return false; // the same again
    if (odd && (t->even || !t->head)) t->blocks += t->copies - t->blocks % t->copies;
    if (!t->head && t->copies > 1 && t->blocks == 1) t->copies = 1;
    outside(t);
    for (int i = 0; i < t->loop->ncarry; i++) {
        Fact *f = fact(t, t->loop->carry[i]);
        *f = (Fact){.cone = val(t, t->loop->carry[i])->naxes ? CONE_HEAD : CONE_SCALAR,
                    .carried = true,
                    .inside = true,
                    .own = true};
    }
    fact(t, t->loop->var)->inside = true;
    if (!classify_all(t)) return false;
    find_factors(t);
    if (!classify_all(t)) return false; // again, knowing what products take
    for (TOp *o = t->loop->body.first; o; o = o->next)
        if (o->op == TOP_MMA && fact(t, o->out)->cone == CONE_HEAD) vec_push(t->a, &t->mma, o);
    find_stays(t);
    if (t->blocks > 1 && ssd_role_straddles(t) && !shares(t)) return false;
    return in_range(t) && orient(t) && note_layouts(t) && sizes_fit(t) && other_axes(t);
}

static Timer timer(Unit *u, const TKernel *k, int copies, bool joined) {
    Timer t = {.u = u,
               .p = u->prog,
               .a = u->arena,
               .k = k,
               .copies = copies,
               .joined = joined,
               .wgmma = u->machine->wgmma};
    t.nfacts = u->prog->vals.n;
    t.fact = NEWN(u->arena, Fact, t.nfacts);
    return t;
}

// Two warpgroups of heads are what registers allow; without wgmma, one.
static int most_copies(const Unit *u) {
    int most = u->machine->wgmma ? 2 : 1;
    return u->schedule.heads > 0 ? MIN(u->schedule.heads, most) : most;
}

// Tries a kernel with as many heads a block as there is room for; with a role for the scores alone
// where registers allow it or it was asked for, else with those in `heads`, which is slower. Where
// nothing fits, a few tiles in local memory are better than all of them in shared memory, as
// kernels without roles have them. out NULL: only whether it has the shape.
static bool role_kernel(Unit *u, const TKernel *k, TKernel *out, RoleValues *out_values) {
    static const int lack[] = {0, 32, 64};
    int asked = u->schedule.roles;
    for (u32 i = 0; i < (out ? COUNTOF(lack) : 1); i++)
        for (int joined = asked == 2; joined <= (asked != 1); joined++)
            for (int copies = joined ? 1 : most_copies(u); copies > 0; copies--)
                for (int even = 0; even < copies; even++) {
                    Timer t = timer(u, k, copies, joined);
                    t.lack = lack[i];
                    t.even = even;
                    if (!analyse(&t) || (out && !ssd_role_build(&t, out))) continue;
                    if (out_values) *out_values = (RoleValues){t.value, t.shift != 0};
                    return true;
                }
    return false;
}

bool ssd_role_takes(Unit *u, const TKernel *k, RoleValues *out) {
    if (!u->machine->gpu || u->prog->matmul || u->schedule.roles == 0) return false;
    return role_kernel(u, k, NULL, out);
}

bool ssd_pass_role(Unit *u) {
    Prog *p = u->prog;
    bool changed = false;
    if (!u->machine->gpu || p->matmul || u->schedule.roles == 0) return false;
    for (u32 k = 0; k < p->kernels.n; k++) {
        TKernel made, from = p->kernels.v[k];
        if (!role_kernel(u, &from, &made, NULL)) continue;
        p->kernels.v[k] = made;
        p->stratum = 2;
        changed = true;
    }
    return changed;
}
