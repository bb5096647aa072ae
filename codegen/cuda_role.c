// SPDX-License-Identifier: Apache-2.0
// Kernels of roles (T2, ir/timed.h): who runs what, rings, what fills a slot and what leaves it.
//
//     // role scores warps 4 regs 88
//     } else if (warp < 8) {
//         set_registers_less<88>();
//         Ring<3, 51200> in(slots, barriers);              its own place in the ring
//         u32 C_, B_;                                      tiles of the slot at hand
//         float S0[32];                                    registers
//         for (..) {
//             // await in
//             in.await();
//             C_ = in.at(0), B_ = in.at(16384);
//
// The emitter chooses nothing: warps, slots, registers and the order of everything stand in T2.
// Rules it follows: every lane of a role arrives at a barrier; what threads wrote and an
// asynchronous reader reads passes a proxy fence in every writing lane, or, where their copies land
// later, in every lane that has seen them land; a ring between a role and itself needs no barrier
// but the role's own, unless the role sends from its one slot.
#include "cuda_emit.h"

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }
static const char *number(Cuda *c, i64 n) { return ssd_arena_printf(c->a, "%lld", (long long)n); }

bool ssd_cuda_is_sw128(const Cuda *c, Val v) { return val(c, v)->lay.space == SP_SW128; }
bool ssd_cuda_is_loose(const Cuda *c, Val v) { return val(c, v)->lay.space == SP_LOOSE; }
bool ssd_cuda_has_loose(const Cuda *c) {
    for (const TOp *o = c->k->body.first; o; o = o->next)
        for (const TOp *s = o->op == TOP_RING ? o->body.first : NULL; s; s = s->next)
            if (ssd_cuda_is_loose(c, s->out)) return true;
    return false;
}
static bool has_address(const Cuda *c, Val v) { // not a pointer
    return ssd_cuda_is_sw128(c, v) || ssd_cuda_is_loose(c, v);
}
int ssd_cuda_role_threads(const Cuda *c) { return c->role->warps * 32; }
const char *ssd_cuda_thread(const Cuda *c) { return c->role->warps == 1 ? "lane" : "thread"; }
const char *ssd_cuda_plus(Cuda *c, const char *base, i64 n) {
    return n ? ssd_arena_printf(c->a, "%s + %lld", base, (long long)n) : base;
}

// --- Walking ------------------------------------------------------------------------------------
typedef bool OpTest(Cuda *c, const TOp *o, const void *what);
static bool any_op(Cuda *c, const TBlock *b, OpTest *test, const void *what) {
    for (const TOp *o = b->first; o; o = o->next)
        if (test(c, o, what) || any_op(c, &o->body, test, what)) return true;
    return false;
}

static bool ex_has_base(const Cuda *c, Ex e, Val base) {
    if (!e) return false;
    const Expr *x = &c->p->exs.v[e];
    if (x->kind == EX_VAL) return ssd_timed_base(c->p, c->k, x->val) == base;
    for (int i = 0; x->kind == EX_FN && i < ssd_fns[x->fn].arity; i++)
        if (ex_has_base(c, x->arg[i], base)) return true;
    return false;
}
bool ssd_cuda_uses_tile(const Cuda *c, const TOp *o, Val tile) {
    const Val v[] = {o->a, o->b, o->c};
    for (int i = 0; i < 3; i++)
        if (v[i] && ssd_timed_base(c->p, c->k, v[i]) == tile) return true;
    return ex_has_base(c, o->e, tile) || ex_has_base(c, o->e2, tile) || ex_has_base(c, o->hi, tile);
}
static bool uses_tile(Cuda *c, const TOp *o, const void *what) {
    return ssd_cuda_uses_tile(c, o, *(const Val *)what);
}
static bool is_of_ring(Cuda *c, const TOp *o, const void *what) {
    const TOp *ring = what;
    (void)c;
    return (o->op == TOP_ACQUIRE || o->op == TOP_PUBLISH || o->op == TOP_AWAIT ||
            o->op == TOP_RELEASE) &&
           o->a == ring->out;
}
static bool names_each(Cuda *c, const TOp *o, const void *what) {
    if (!is_of_ring(c, o, what) || !o->e) return false;
    return c->p->exs.v[o->e].kind != EX_VAL || c->p->exs.v[o->e].val != c->role->var;
}
// Does it read or write the tile beside the threads: by wgmma or by a bulk copy?
static bool reads_beside(Cuda *c, const TOp *o, const void *what) {
    Val tile = *(const Val *)what;
    if (o->op == TOP_SEND)
        return ssd_cuda_in_bulk(c, o) && ssd_timed_base(c->p, c->k, o->a) == tile;
    return o->op == TOP_MMA &&
           (ssd_timed_base(c->p, c->k, o->a) == tile || ssd_timed_base(c->p, c->k, o->b) == tile);
}
static bool sends_in_bulk(Cuda *c, const TOp *o, const void *what) {
    const TOp *ring = what; // NULL: any
    if (o->op != TOP_SEND || !ssd_cuda_in_bulk(c, o)) return false;
    return !ring || ssd_timed_slot_ring(c->p, c->k, ssd_timed_base(c->p, c->k, o->a)) == ring;
}
static bool ring_read_beside(Cuda *c, const TOp *ring) {
    for (const TOp *s = ring->body.first; s; s = s->next)
        if (any_op(c, &c->k->body, reads_beside, &s->out)) return true;
    return false;
}

bool ssd_cuda_ex_has(const Cuda *c, Ex e, u8 axis) {
    u8 ax[8];
    int n = ssd_ex_axes(c->p, e, ax);
    return memchr(ax, axis, (size_t)n) != NULL;
}

static Ring ring_of(const Cuda *c, Val v) {
    Ring r;
    Text why = {0};
    if (!ssd_timed_ring(c->p, c->k, v, &r, &why)) SSD_BUG("%s", why.s);
    return r;
}

// --- Tiles in shared memory ---------------------------------------------------------------------
static const TOp *definition(const TBlock *b, Val v) {
    for (const TOp *o = b->first; o; o = o->next) {
        if (o->out == v) return o;
        const TOp *in = definition(&o->body, v);
        if (in) return in;
    }
    return NULL;
}

const TOp *ssd_cuda_definition(const Cuda *c, Val v) { return definition(&c->k->body, v); }

static void view_slot(Cuda *c, Val v, CudaView *out) {
    const Lay *l = &val(c, v)->lay;
    i64 element = l->space == SP_ROW ? 1 : 2; // @row: a pointer's
    *out = (CudaView){.base = v, .n = l->naxes, .even = true};
    for (int i = 0; i < l->naxes; i++) {
        out->ax[i] = l->ax[i];
        out->stride[i] = ssd_timed_step(c->p, l, i, element);
    }
}

static const char *shifted(Cuda *c, const char *offset, Ex at, i64 stride) {
    const Expr *x = &c->p->exs.v[at];
    if (x->kind == EX_NUM && x->num == 0) return offset;
    const char *s = x->kind == EX_NUM ? number(c, (i64)x->num * stride) : ssd_cuda_factor(c, at);
    if (x->kind != EX_NUM && stride != 1)
        s = ssd_arena_printf(c->a, "%s*%lld", s, (long long)stride);
    return offset ? ssd_arena_printf(c->a, "%s + %s", offset, s) : s;
}

const CudaView *ssd_cuda_view_of(Cuda *c, Val v) {
    CudaView *w = &c->view[v];
    if (w->base) return w;
    const TOp *o = definition(&c->k->body, v);
    if (!o || !ssd_timed_is_view(c->p, o)) {
        view_slot(c, v, w);
        return w;
    }
    *w = *ssd_cuda_view_of(c, o->a);
    int n = 0;
    for (int i = 0; i < w->n; i++) {
        if (o->op == TOP_AT && w->ax[i] == o->ax[0]) {
            w->offset = shifted(c, w->offset, o->e, w->stride[i]);
            w->even &= w->stride[i] % 2 == 0;
            continue;
        }
        bool renamed = o->op == TOP_RENAME && w->ax[i] == o->ax[0];
        w->ax[n] = renamed ? o->ax[1] : w->ax[i];
        w->stride[n++] = w->stride[i];
    }
    w->n = (u8)n;
    return w;
}

const char *ssd_cuda_tile(Cuda *c, const CudaView *v, u8 ax, Ex at) {
    const char *offset = v->offset;
    for (int i = 0; ax && i < v->n; i++)
        if (v->ax[i] == ax) offset = shifted(c, offset, at, v->stride[i]);
    return offset ? ssd_arena_printf(c->a, "%s + %s", c->name[v->base], offset) : c->name[v->base];
}

// --- Rings of a role ----------------------------------------------------------------------------
// The copy of a ring that an `each` is at; NULL: there is one, or one is the role's.
static const char *each_of(Cuda *c, const TOp *o) {
    const Expr *x = &c->p->exs.v[o->e];
    if (!o->e || (x->kind == EX_VAL && x->val == c->role->var)) return NULL;
    return ssd_cuda_ex(c, o->e);
}
// `in` or, where the copy runs in an `each`, `Ms[r]`.
static const char *place(Cuda *c, const TOp *o) {
    const char *each = each_of(c, o);
    return each ? ssd_arena_printf(c->a, "%s[%s]", c->name[o->a], each) : c->name[o->a];
}
static void next_of_all(Cuda *c, const TOp *o) {
    const char *each = each_of(c, o);
    int last = ssd_cuda_definition(c, o->a)->copies - 1;
    if (each) ssd_cuda_line(c, "if (%s == %d) %s.next();", each, last, c->name[o->a]);
}

static i64 barriers_before(const Cuda *c, const TOp *ring) {
    i64 n = 0;
    for (const TOp *o = c->k->body.first; o != ring; o = o->next)
        if (o->op == TOP_RING) n += o->depth * o->copies;
    return 16 * n;
}

static void declare_ring(Cuda *c, const TOp *ring) {
    i64 bytes = ssd_timed_slot_bytes(c->p, ring);
    const char *first = ssd_cuda_plus(c, "slots", ssd_timed_ring_offset(c->p, c->k, ring)),
               *barriers = ssd_cuda_plus(c, "barriers", barriers_before(c, ring)),
               *name = c->name[ring->out];
    if (any_op(c, &c->role->body, names_each, ring)) {
        ssd_cuda_line(c, "Rings<%d, %lld> %s(%s, %s);", ring->depth, (long long)bytes, name, first,
                      barriers);
        return;
    }
    if (ring->copies > 1) {
        const char *w = c->name[c->role->var];
        first = ssd_arena_printf(c->a, "%s + %s*%lld", first, w, (long long)bytes * ring->depth);
        barriers = ssd_arena_printf(c->a, "%s + %s*%d", barriers, w, 16 * ring->depth);
    }
    ssd_cuda_line(c, "Ring<%d, %lld> %s(%s, %s);", ring->depth, (long long)bytes, name, first,
                  barriers);
}

static const char *row_type(const Cuda *c, Val v) { return ssd_cuda_type(val(c, v)->dtype); }

// `u32 C_, B_;` `float *cj_, *dl_;`
static void declare_tiles(Cuda *c, const TOp *ring) {
    const char *line = NULL, *before = "";
    for (const TOp *s = ring->body.first; s; s = s->next) {
        if (!any_op(c, &c->role->body, uses_tile, &s->out)) continue;
        const char *type = has_address(c, s->out) ? "u32" : row_type(c, s->out),
                   *star = has_address(c, s->out) ? "" : "*";
        bool same = line && !strcmp(type, before);
        if (line && !same) ssd_cuda_line(c, "%s;", line);
        line = same ? ssd_arena_printf(c->a, "%s, %s%s", line, star, c->name[s->out])
                    : ssd_arena_printf(c->a, "%s %s%s", type, star, c->name[s->out]);
        before = type;
    }
    if (line) ssd_cuda_line(c, "%s;", line);
}

// The slot at hand gives its tiles their places.
static void enter(Cuda *c, const TOp *o) {
    const TOp *ring = definition(&c->k->body, o->a);
    const char *at = place(c, o), *all = "";
    for (const TOp *s = ring->body.first; s; s = s->next) {
        if (!any_op(c, &c->role->body, uses_tile, &s->out)) continue;
        long long offset = ssd_timed_slot_offset(c->p, ring, s->out);
        const char *name = c->name[s->out];
        const char *one = has_address(c, s->out)
                              ? ssd_arena_printf(c->a, "%s = %s.at(%lld)", name, at, offset)
                              : ssd_arena_printf(c->a, "%s = %s.rows<%s>(%lld)", name, at,
                                                 row_type(c, s->out), offset);
        all = ssd_arena_printf(c->a, "%s%s%s", all, *all ? ", " : "", one);
    }
    if (*all) ssd_cuda_line(c, "%s;", all);
}

// --- Arrivals -----------------------------------------------------------------------------------

// Named barriers are numbered over the copies of roles that need one; 0 is __syncthreads.
static bool needs_barrier(const Cuda *c, const TOp *role) {
    for (const TOp *o = c->k->body.first; o; o = o->next) {
        if (o->op != TOP_RING) continue;
        Ring r = ring_of(c, o->out);
        if (r.own && r.producer[0].role == role) return true;
    }
    return false;
}
// A role that stages in one slot waits at its barrier for those of its threads that still send.
static bool one_staged(const Ring *r) {
    return r->own && r->op->depth == 1 && r->consumer[0].sends;
}
static const char *role_barrier(Cuda *c) {
    int n = 1;
    for (const TOp *o = c->k->body.first; o != c->role; o = o->next)
        if (o->op == TOP_ROLE && needs_barrier(c, o)) n += o->copies;
    if (c->role->copies == 1) return number(c, n);
    return ssd_arena_printf(c->a, "%d + %s", n, c->name[c->role->var]);
}

static void publish(Cuda *c, const TOp *o) {
    Ring r = ring_of(c, o->a);
    RingEnd end = {0};
    for (int i = 0; i < r.nproducers; i++)
        if (r.producer[i].role == c->role) end = r.producer[i];
    if (r.own) {
        if (any_op(c, &c->role->body, sends_in_bulk, r.op))
            ssd_cuda_line(c, "if (%s == 0) bulk_wait_read();", ssd_cuda_thread(c));
        if (c->m->wgmma && ring_read_beside(c, r.op)) ssd_cuda_line(c, "fence_async();");
        if (ssd_cuda_sends_own(c, r.op))
            ssd_cuda_line(c, "__syncwarp();");
        else
            ssd_cuda_line(c, "role_sync(%s, %d);", role_barrier(c), ssd_cuda_role_threads(c));
        return;
    }
    const char *copied = end.fetches ? ssd_cuda_copied(c, r.op, false) : NULL;
    if (end.fills && c->m->wgmma && ring_read_beside(c, r.op)) ssd_cuda_line(c, "fence_async();");
    if (ssd_cuda_behind_publish(c, o)) return;
    ssd_cuda_line(c, "%s.publish(%s);", place(c, o), copied ? copied : "");
    next_of_all(c, o);
}

static void wait_for_loads(Cuda *c, const Ring *r) {
    bool fetched = false;
    for (int i = 0; i < r->nproducers; i++) fetched |= r->producer[i].fetches;
    if (!c->m->wgmma || !fetched || !ssd_cuda_loads_open(c, r->op->out)) return;
    ssd_cuda_line(c, "fence_async();  // what was loaded is here");
    ssd_cuda_loads_settle(c);
}

static void release(Cuda *c, const TOp *o) {
    Ring r = ring_of(c, o->a);
    bool sends = false;
    for (int i = 0; i < r.nconsumers; i++)
        if (r.consumer[i].role == c->role) sends = r.consumer[i].sends;
    if (r.own && !one_staged(&r)) {
        if (!each_of(c, o)) ssd_cuda_line(c, "%s.next();", place(c, o));
        next_of_all(c, o);
        return;
    }
    if (sends && any_op(c, &c->role->body, sends_in_bulk, r.op))
        ssd_cuda_line(c, "if (%s == 0) bulk_wait_read();", ssd_cuda_thread(c));
    wait_for_loads(c, &r);
    ssd_cuda_line(c, "%s.release();", place(c, o));
    next_of_all(c, o);
}

static void acquire(Cuda *c, const TOp *o) {
    c->place[o->a] = place(c, o);
    Ring r = ring_of(c, o->a);
    if (!r.own || one_staged(&r))
        ssd_cuda_line(c, "%s.acquire();", place(c, o));
    else if (r.op->depth == 1) // all have read what was there
        ssd_cuda_line(c, "role_sync(%s, %d);", role_barrier(c), ssd_cuda_role_threads(c));
    enter(c, o);
}
static void await(Cuda *c, const TOp *o) {
    Ring r = ring_of(c, o->a);
    ssd_cuda_line(c, "%s.await();", place(c, o));
    for (const TOp *s = c->m->wgmma ? r.op->body.first : NULL; s; s = s->next) {
        if (!any_op(c, &c->role->body, reads_beside, &s->out)) continue;
        const char *copied = ssd_cuda_copied(c, r.op, true);
        if (copied) ssd_cuda_line(c, "if (%s) fence_async();", copied);
        break;
    }
    enter(c, o);
}

// --- Ops ----------------------------------------------------------------------------------------
static bool in_registers(const Cuda *c, Val v) {
    u8 s = val(c, v)->lay.space;
    return s == SP_ACC || s == SP_FRAG || s == SP_LANE || s == SP_COLS;
}

// A store whose value has no axes is one thread's.
static bool store(Cuda *c, const TOp *o) {
    u8 ax[8];
    if (ssd_ex_axes(c->p, o->e, ax))
        ssd_cuda_frag_elements(c, o);
    else
        ssd_cuda_line(c, "if (%s == 0) %s;", ssd_cuda_thread(c),
                      ssd_cuda_access(c, o, ssd_cuda_ex(c, o->e)));
    return true;
}

static void at(Cuda *c, const TOp *o) {
    if (val(c, o->a)->lay.space == SP_LANE) {
        ssd_cuda_lane_at(c, o);
        return;
    }
    const CudaView *v = ssd_cuda_view_of(c, o->a); // @row -> @scalar
    const char *at = shifted(c, v->offset, o->e, v->stride[0]);
    ssd_cuda_line(c, "const float %s = decode(%s[%s]);", c->name[o->out], c->name[v->base],
                  at ? at : "0");
}

bool ssd_cuda_timed_op(Cuda *c, const TOp *o) {
    ssd_cuda_loads_note(c, o);
    switch ((TOpCode)o->op) {
    case TOP_ACQUIRE: acquire(c, o); return true;
    case TOP_PUBLISH: publish(c, o); return true;
    case TOP_AWAIT: await(c, o); return true;
    case TOP_RELEASE: release(c, o); return true;
    case TOP_FETCH:
    case TOP_SEND: ssd_cuda_move(c, o); return true;
    case TOP_REGS:
        ssd_cuda_line(c, "%s %s[%d];", val(c, o->out)->dtype == SSD_F32 ? "float" : "u32",
                      c->name[o->out], o->depth);
        return true;
    case TOP_MMA: ssd_cuda_product(c, o); return true;
    case TOP_WAIT: ssd_cuda_product_wait(c, o); return true;
    case TOP_SCAN: ssd_cuda_lane_scan(c, o); return true;
    case TOP_PICK: ssd_cuda_lane_pick(c, o); return true;
    case TOP_COPY: ssd_cuda_frag_copy(c, o); return true;
    case TOP_SWAP: ssd_cuda_frag_swap(c, o); return true;
    case TOP_INTO: ssd_cuda_frag_elements(c, o); return true;
    case TOP_STORE: return store(c, o);
    case TOP_RENAME: return true;
    case TOP_AT:
        if (!ssd_timed_is_view(c->p, o)) at(c, o);
        return true;
    case TOP_MAP:
    case TOP_FILL:
    case TOP_LOAD:
        if (!in_registers(c, o->out)) return false;
        if (ssd_cuda_late(c, o->out)) return true;
        if (c->rows[o->out]) {
            ssd_cuda_wait_rows(c, o);
            return true;
        }
        ssd_cuda_frag_elements(c, o);
        return true;
    default: return false;
    }
}

// --- Roles --------------------------------------------------------------------------------------
enum { GROUP = 4, REGISTERS = 65536, REGISTERS_STEP = 8 };

static bool has_fragments(Cuda *c, const TOp *o, const void *what) {
    (void)what;
    if (o->op == TOP_INTO) return true;
    return o->out && (val(c, o->out)->lay.space == SP_ACC || val(c, o->out)->lay.space == SP_FRAG);
}

// Whose text speaks of the thread's number in its role?
static bool names_thread(Cuda *c, const TOp *o, const void *what) {
    u8 ax[8];
    (void)what;
    return o->op == TOP_FETCH || o->op == TOP_SEND ||
           (o->op == TOP_STORE && !ssd_ex_axes(c->p, o->e, ax));
}

static void role(Cuda *c, const TOp *o) {
    int first = ssd_timed_first_warp(c->k, o);
    c->role = o;
    if (o->copies > 1) {
        const char *v = first ? ssd_arena_printf(c->a, "(warp - %d)", first) : "warp";
        c->most[o->var] = o->copies - 1;
        if (o->warps == 1)
            ssd_cuda_line(c, "const int %s = warp - %d;", c->name[o->var], first);
        else
            ssd_cuda_line(c, "const int %s = %s / %d;", c->name[o->var], v, o->warps);
    }
    if (o->warps > 1 && any_op(c, &o->body, names_thread, NULL)) {
        if (first % o->warps == 0)
            ssd_cuda_line(c, "const int thread = threadIdx.x %% %d;", ssd_cuda_role_threads(c));
        else
            ssd_cuda_line(c, "const int thread = (threadIdx.x - %d) %% %d;", first * 32,
                          ssd_cuda_role_threads(c));
    }
    if (o->warps == GROUP && any_op(c, &o->body, has_fragments, NULL))
        ssd_cuda_line(c, "const int row = warp %% 4 * 16 + lane / 4, col = lane %% 4 * 2;  // of "
                         "its first elements in 64 rows");
    for (const TOp *r = c->k->body.first; r; r = r->next)
        if (r->op == TOP_RING && any_op(c, &o->body, is_of_ring, r)) {
            declare_ring(c, r);
            declare_tiles(c, r);
        }
    ssd_cuda_waits_begin(c);
    c->flying.n = 0;
    c->nloads = 0;
    c->settled = 0;
    ssd_cuda_block(c, &o->body);
    if (any_op(c, &o->body, sends_in_bulk, NULL))
        ssd_cuda_line(c, "if (%s == 0) bulk_wait();", ssd_cuda_thread(c));
}

static int end_warp(const Cuda *c, const TOp *o) {
    const TOp *next = o->next;
    while (next && next->op != TOP_ROLE) next = next->next;
    return o->warps < GROUP ? ssd_timed_first_warp(c->k, o) + o->warps * o->copies
           : next           ? ssd_timed_first_warp(c->k, next)
                            : ssd_timed_warps(c->k);
}
static const TOp *next_role(const TOp *o) {
    for (o = o->next; o && o->op != TOP_ROLE;) o = o->next;
    return o;
}

// Roles that share warpgroups: the same registers a thread, told by all of them at once.
static void set_registers(Cuda *c, const TOp *first, const TOp *end) {
    int most = 0,
        start = REGISTERS / (ssd_timed_warps(c->k) * 32) / REGISTERS_STEP * REGISTERS_STEP;
    for (const TOp *o = first; o != end; o = next_role(o)) most = MAX(most, o->regs);
    if (!c->m->wgmma || !most || most == start) return;
    ssd_cuda_line(c, "set_registers_%s<%d>();", most < start ? "less" : "more", most);
}

static void open_if(Cuda *c, bool again, int end) {
    if (again) c->indent--;
    ssd_cuda_open(c, again ? "} else if (warp < %d)" : "if (warp < %d)", end);
}

static void roles(Cuda *c) {
    const TOp *o = c->k->body.first;
    bool again = false;
    while (o && o->op != TOP_ROLE) o = o->next;
    while (o) {
        const TOp *end = next_role(o);
        while (o->warps < GROUP && end && end->warps < GROUP) end = next_role(end);
        open_if(c, again, end ? ssd_timed_first_warp(c->k, end) : ssd_timed_warps(c->k));
        set_registers(c, o, end);
        bool alone = next_role(o) == end && o->warps >= GROUP;
        for (bool inner = false; o != end; o = next_role(o), inner = true) {
            if (!alone) open_if(c, inner, end_warp(c, o));
            ssd_cuda_comment(c, o);
            role(c, o);
        }
        if (!alone) ssd_cuda_close(c);
        again = true;
    }
    ssd_cuda_close(c);
}

// --- Kernels ------------------------------------------------------------------------------------
static int arrivals(const RingEnd *end, int n) {
    int all = 0;
    for (int i = 0; i < n; i++) all += end[i].times * end[i].role->warps;
    return all;
}

static void init_rings(Cuda *c) {
    ssd_cuda_open(c, "if (threadIdx.x == 0)");
    for (const TOp *o = c->k->body.first; o; o = o->next) {
        if (o->op != TOP_RING) continue;
        Ring r = ring_of(c, o->out);
        if (r.own && !one_staged(&r)) continue;
        ssd_cuda_comment(c, o);
        for (const TOp *slot = o->body.first; slot; slot = slot->next) ssd_cuda_comment(c, slot);
        ssd_cuda_line(c, "ring_init<%d>(%s, %d, %d);", o->depth * o->copies,
                      ssd_cuda_plus(c, "barriers", barriers_before(c, o)),
                      arrivals(r.producer, r.nproducers), arrivals(r.consumer, r.nconsumers));
    }
    if (c->m->wgmma) ssd_cuda_line(c, "fence_async();");
    ssd_cuda_close(c);
}

// What nothing writes later: above the diagonal of a tile that only `into .. tri` writes, and
// behind the columns that threads copy.
static bool clear_tiles(Cuda *c) {
    bool any = false;
    for (const TOp *o = c->k->body.first; o; o = o->next)
        for (const TOp *s = o->op == TOP_RING ? o->body.first : NULL; s; s = s->next) {
            bool tri = ssd_cuda_tri_tile(c, s->out);
            if (!tri && !ssd_cuda_narrow(c, s->out)) continue;
            i64 at = ssd_timed_ring_offset(c->p, c->k, o) + ssd_timed_slot_offset(c->p, o, s->out);
            ssd_cuda_line(c, "clear_tiles<%d, %lld>(%s, %lld);  // %s %s", o->depth * o->copies,
                          (long long)ssd_timed_slot_bytes(c->p, o),
                          ssd_cuda_plus(c, "ring_memory", at),
                          (long long)ssd_timed_tile_bytes(c->p, s->out), c->name[s->out],
                          tri ? "above its diagonal" : "behind its columns");
            any = true;
        }
    return any;
}

void ssd_cuda_timed_begin(Cuda *c) {
    c->maps.n = 0;
    c->role = NULL;
    memset(c->view, 0, c->p->vals.n * sizeof *c->view);
    ssd_cuda_note_maps(c);
}

void ssd_cuda_roles(Cuda *c) {
    ssd_cuda_line(c, "extern __shared__ __align__(1024) unsigned char ring_memory[];");
    ssd_cuda_line(c, "const u32 slots = shared_address(ring_memory), barriers = slots + %lld;",
                  (long long)ssd_timed_ring_offset(c->p, c->k, NULL));
    ssd_cuda_line(c, "const int warp = warp_number(), lane = threadIdx.x %% 32;");
    bool cleared = clear_tiles(c);
    if (cleared && c->m->wgmma) ssd_cuda_line(c, "fence_async();");
    init_rings(c);
    ssd_cuda_line(c, "__syncthreads();");
    roles(c);
}
