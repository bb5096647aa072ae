// SPDX-License-Identifier: Apache-2.0
// The roles that fill rings from tensors: vec, whose numbers others need, and those that load. Who
// fetches a tile, and whether in bulk or by its lanes, in place or as rows lie in memory.
#include "role_build.h"

// What is handed on, as vec computes it.
static Ex number(Role *r, int i) {
    Build *b = r->b;
    Val v = b->exported[i].v;
    if (v) return (v = ssd_role_get(r, v)) ? ssd_ex_val(b->p, v) : 0;
    Ex e = ssd_role_tx(r, b->exported[i].e);
    if (b->bad || b->exported[i].kind == NUMBER) return e;
    u8 ax[1] = {b->t->j};
    int words = (int)(size(b, b->t->j) / 32);
    if (b->exported[i].kind == BLOCK_END) {
        const Expr *x = ex(b, e);
        Val of = x->kind == EX_VAL ? x->val : 0;
        if (!of) {
            of = ssd_role_tile(b, "c", SSD_F32, ax, 1, SP_LANE, ssd_role_regs(r, SSD_F32, words));
            ssd_role_emit(r, TOP_MAP, of)->e = e;
        }
        Val end = ssd_role_tile(b, "ce", SSD_F32, ax, 1, SP_LANE, ssd_role_regs(r, SSD_F32, words));
        TOp *o = ssd_role_emit(r, TOP_PICK, end);
        Ex first =
            fn(b, FN_MUL, fn(b, FN_FDIV, ssd_ex_axis(b->p, ax[0]), num(b, BLOCK)), num(b, BLOCK));
        o->a = of;
        o->ax[0] = ax[0];
        o->e = fn(b, FN_ADD, first, num(b, BLOCK - 1));
        b->exported[i].lane = end;
        return ssd_ex_val(b->p, end);
    }
    Val end = 0; // BLOCK_WEIGHT; its block's end was asked for before it
    for (int k = 0; k < i; k++)
        if (b->exported[k].kind == BLOCK_END && b->exported[k].e == b->exported[i].e)
            end = b->exported[k].lane;
    Ex w = ssd_ex_fn(b->p, FN_EXP2, fn(b, FN_SUB, ssd_ex_val(b->p, end), e), 0, 0);
    return b->exported[i].f ? fn(b, FN_MUL, w, ssd_role_tx(r, b->exported[i].f)) : w;
}

// Does a load, as blocks of values begin now, start at whole pieces?
static bool starts_whole(const Build *b, const TOp *load) {
    const Expr *last = load->nidx ? ex(b, load->idx[load->nidx - 1]) : NULL;
    return b->t->shift && last && last->kind == EX_AXIS && last->axis == b->t->value &&
           ssd_role_shift(b->p, load) == b->t->shift;
}

static void fetch(Role *r, Val slot_val, const TOp *load, bool own, u8 word) {
    Build *b = r->b;
    TOp *o = ssd_role_access(r, TOP_FETCH, load);
    if (word) { // TMA starts at multiples of 16 bytes
        Ex *last = &o->idx[o->nidx - 1];
        *last = fn(b, FN_ADD, ssd_role_word_start(b, *last, word), ssd_ex_axis(b->p, word));
    }
    o->a = slot_val;
    if (starts_whole(b, load)) o->flags |= TF_LOOSE;
    if (own && !word) {
        o->ax[0] = b->copy_axis;
        o->e = r->rho;
    }
}

// Bulk copies take rows of whole 16-byte pieces, in the order of the tensor; others are copied by
// lanes. Two roles share that where the machine's own role for it is one warp.
static bool by_lanes(const Build *b, const TOp *load) {
    if (!ssd_role_narrow(b->t, load)) return false;
    for (int d = 0; d < load->nidx; d++) {
        i64 coef[256] = {0};
        if (ssd_nest_affine(b->p, load->idx[d], coef) && coef[b->t->j] < 0) return true;
    }
    return ssd_timed_ragged(b->p, load->tensor) && !starts_whole(b, load);
}

// Rows of values that lanes copy, where all that reads them are first operands of the values' rows:
// they may lie as they do in memory. Nothing sums over values, so what is beside them does no harm.
typedef struct Readers {
    const Build *b;
    Val slot;
    bool any;
} Readers;
static void is_slot(void *ctx, Val v) {
    Readers *r = ctx;
    r->any |= ssd_timed_base(r->b->p, r->b->out, v) == r->slot;
}
static bool only_first(const Build *b, const TBlock *ops, Val slot) {
    for (const TOp *o = ops->first; o; o = o->next) {
        Readers r = {b, slot, false};
        ssd_nest_operands(b->p, o, is_slot, &r);
        const Lay *to = o->out ? &val(b, o->out)->lay : NULL;
        bool operand =
            o->op == TOP_COPY && to->space == SP_FRAG && to->ax[0] == val(b, o->a)->lay.ax[1];
        if (r.any && !operand && !ssd_timed_is_view(b->p, o)) return false;
        if (!only_first(b, &o->body, slot)) return false;
    }
    return true;
}
static void set_loose(Build *b, const TBlock *ops, Val slot) {
    for (const TOp *o = ops->first; o; o = o->next) {
        if (o->out && ssd_timed_is_view(b->p, o) && ssd_timed_base(b->p, b->out, o->out) == slot)
            b->p->vals.v[o->out].lay.space = SP_LOOSE;
        set_loose(b, &o->body, slot);
    }
}
static bool is_loose(const Build *b, int i) {
    return val(b, b->fetched[i].slot)->lay.space == SP_LOOSE;
}
void ssd_role_loosen(Build *b) {
    for (int i = 0; i < b->nfetched; i++) {
        const Fetch *f = &b->fetched[i];
        const Lay *l = &val(b, f->slot)->lay;
        if (l->space != SP_SW128 || l->ax[l->naxes - 1] != axis(b, b->t->value) ||
            !by_lanes(b, f->load) || !ssd_timed_ragged(b->p, f->load->tensor) ||
            !only_first(b, &b->out->body, f->slot))
            continue;
        set_loose(b, &b->out->body, f->slot);
        b->p->vals.v[f->slot].lay.space = SP_LOOSE;
    }
}

// Where the roles that load have other ragged rows to copy, the lanes of each copy's vec copy what
// that copy of the heads has for itself.
static bool busy(const Build *b) {
    for (int i = 0; i < b->nfetched; i++) {
        const Fetch *f = &b->fetched[i];
        if (f->ring == b->numbers ? ssd_timed_ragged(b->p, f->load->tensor)
                                  : !f->own && by_lanes(b, f->load))
            return true;
    }
    return false;
}
static bool own_rows(const Build *b, int i) {
    const Fetch *f = &b->fetched[i];
    return f->own && !f->word && f->ring == b->in && by_lanes(b, f->load);
}
static bool by_vec(const Build *b, int i) {
    if (b->vecs < 2 || !own_rows(b, i) || !busy(b)) return false;
    for (int k = 0; k < b->nfetched && is_loose(b, i); k++)
        if (own_rows(b, k) && !is_loose(b, k)) return false; // vec has enough of those to do
    return true;
}

Copied ssd_role_copied(const Build *b) {
    Copied c = {0};
    for (int i = 0; i < b->nfetched; i++) {
        const Fetch *f = &b->fetched[i];
        const TTensor *t = &b->p->tensors.v[f->load->tensor];
        if (f->ring != b->in || f->word || !by_lanes(b, f->load)) continue;
        const Expr *row = ex(b, t->dim[t->rank - 1]);
        bool vec = by_vec(b, i);
        c.vec |= vec && !is_loose(b, i);
        c.odd |= !vec && !is_loose(b, i) && row->kind == EX_NUM && (i64)row->num % 2;
    }
    return c;
}

void ssd_role_vec(Build *b) {
    if (!b->nexported) return;
    bool own = false;
    for (int i = 0; i < b->nexported; i++) own |= b->exported[i].own;
    Role *r = ssd_role_new(b, VEC);
    int copies = own ? b->t->copies : 1;
    Val rep = 0;
    if (copies > 1) {
        rep = ssd_prog_val(b->p, "r", SSD_IDX, NULL, 0);
        r->rho = ssd_ex_val(b->p, rep);
    }
    ssd_role_open(r);
    Ex e[EXPORTS];
    for (int i = 0; i < b->nexported && !b->bad; i++) {
        e[i] = number(r, i);
        if (copies > 1 && !b->exported[i].own) b->bad = true; // two would write one slot
    }
    if (b->bad) return;
    if (b->numbers) { // waited for at the top, left as soon as copied (`order`)
        TOp *w = NEW(b->t->a, TOp);
        *w = (TOp){.op = TOP_AWAIT, .a = b->numbers->out, .next = r->loop->body.first};
        r->loop->body.first = w;
        ssd_role_sync(r, TOP_RELEASE, b->numbers);
    }
    ssd_role_sync(r, TOP_ACQUIRE, ssd_role_main_ring(b));
    for (int i = 0; i < b->nexported; i++) {
        TOp *o = ssd_role_emit(r, TOP_INTO, 0);
        o->a = b->exported[i].slot;
        if (b->exported[i].own) {
            o->ax[0] = b->copy_axis;
            o->e = r->rho;
        }
        o->e2 = e[i];
    }
    if (b->t->wgmma) b->vecs = copies;
    for (int i = 0; i < b->nfetched && !b->bad; i++)
        if (by_vec(b, i)) fetch(r, b->fetched[i].slot, b->fetched[i].load, true, 0);
    ssd_role_sync(r, TOP_PUBLISH, ssd_role_main_ring(b));
    ssd_role_close(r, "vec", 1, copies, rep);
}

static int load_parts(const Build *b) {
    for (int i = 0; i < b->nfetched && b->t->wgmma; i++) {
        const TOp *ring = b->fetched[i].ring;
        if ((ring == b->in || ring == b->raw) && by_lanes(b, b->fetched[i].load)) return 2;
    }
    return 1;
}

// What a role of several that fill a ring fetches: its share of the tiles, and of those that each
// copy of the heads has for itself one copy's.
static bool each_own(const Build *b, int i) { return b->fetched[i].own && !b->fetched[i].word; }
static bool by_copies(const Build *b, int i, int parts) {
    return each_own(b, i) && b->t->copies == parts;
}
static bool takes(const Build *b, int i, const TOp *ring, int part, int parts) {
    int rank = 0;
    if (b->fetched[i].ring != ring || by_vec(b, i)) return false;
    if (ring == b->numbers || by_copies(b, i, parts)) return true;
    for (int k = 0; k < i; k++) rank += b->fetched[k].ring == ring && !by_copies(b, k, parts);
    return rank % parts == part;
}
static bool fetches(const Build *b, const TOp *ring, int part, int parts) {
    for (int i = 0; i < b->nfetched; i++)
        if (takes(b, i, ring, part, parts)) return true;
    return false;
}

// Tiles of one kind: those of each copy, or those of all of them; copied by lanes, or in bulk.
static void fill_with(Role *r, const TOp *ring, int part, int parts, bool own, bool lanes) {
    Build *b = r->b;
    Role inner = *r;
    bool any = false, shared = ring != b->numbers && parts > 1;
    bool one = shared && b->t->copies == parts;
    for (int i = 0; i < b->nfetched && !b->bad; i++) {
        const TOp *load = b->fetched[i].load;
        if (!takes(b, i, ring, part, parts) || each_own(b, i) != own) continue;
        if ((shared && by_lanes(b, load)) != lanes) continue;
        if (own && !any && one) inner.rho = num(b, part);
        if (own && !any && !one) ssd_role_each(r, &inner);
        any = true;
        fetch(own ? &inner : r, b->fetched[i].slot, load, own, b->fetched[i].word);
    }
    if (own && any) r->before = inner.before;
    if (own && any && one) r->at = inner.at;
}

// What goes in bulk first: it is under way while the lanes copy.
static void fill(Role *r, const TOp *ring, int part, int parts) {
    ssd_role_sync(r, TOP_ACQUIRE, ring);
    for (int lanes = 0; lanes < 2; lanes++)
        for (int own = 0; own < 2; own++) fill_with(r, ring, part, parts, own, lanes);
    ssd_role_sync(r, TOP_PUBLISH, ring);
}

// One role for rings that are filled in turn, and before the loop one that is filled once.
static void loads(Build *b, const char *name, const TOp *once, const TOp *const ring[3], int warps,
                  int part, int parts) {
    bool any[3];
    for (int i = 0; i < 3; i++) any[i] = ring[i] && fetches(b, ring[i], part, parts);
    if (b->bad || !(once || any[0] || any[1] || any[2])) return;
    Role *r = ssd_role_new(b, LOADS);
    if (once) {
        r->at = r->before;
        fill(r, once, 0, 1);
        r->before = r->at;
    }
    ssd_role_open(r);
    for (int i = 0; i < 3; i++)
        if (any[i]) fill(r, ring[i], part, parts);
    if (!b->bad) ssd_role_close(r, name, warps, 1, 0);
}

bool ssd_role_loads(Build *b) {
    int parts = load_parts(b), warps = b->loaders;
    if (b->t->wgmma && parts == 1 && warps > 1) return false;
    loads(b, "load", b->constants, (const TOp *const[]){b->raw, b->in, NULL}, warps, 0, parts);
    loads(b, "ahead", NULL,
          (const TOp *const[]){b->numbers, parts > 1 ? b->raw : NULL, parts > 1 ? b->in : NULL},
          parts > 1 ? warps : 1, parts - 1, parts);
    return true;
}
