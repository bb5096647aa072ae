// SPDX-License-Identifier: Apache-2.0
// Products of T2, asynchronous by wgmma or by mma.sync, from the same fragments and tiles.
//
//     // y_ = mma async xt M + ys : f32[p i] @acc(p i) in Y0
//     hold<32>(Y0);                                            what touches Y0 stays on its side
//     wgmma_fence();
//     for (int e = 0; e < 4; e++) wgmma_n64_rs(Y0, X0 + 4*e, descriptor(M, 8192) + e * 2, true);
//     wgmma_commit();                                          its registers are not ours until its
//     `wait`
//
// A step contracts 16. ptxas serialises products (C7510 to C7517 in its log, which the tests
// forbid) where registers are short, where an accumulator is touched under way, or where it cannot
// see that it was waited for.
#include "cuda_emit.h"

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }
static i64 size(const Cuda *c, u8 x) { return ssd_cuda_size(c, x); }
static const char *regs(const Cuda *c, Val v) { return c->name[val(c, v)->lay.buf]; }

// --- Which product ------------------------------------------------------------------------------
typedef struct Product {
    u8 r, n, k;
    i64 rows, columns, depth;
    bool shared_a, turned_a,
        turned_b; // turned: the contracted axis is the tile's rows (b), its columns are (a: no)
    u8 dtype;
} Product;

static Product product(const Cuda *c, const TOp *o) {
    const Lay *out = &val(c, o->out)->lay, *a = &val(c, o->a)->lay, *b = &val(c, o->b)->lay;
    Product p = {.r = out->ax[0], .n = out->ax[1], .dtype = val(c, o->a)->dtype};
    p.k = a->ax[a->naxes - 1] == p.r ? a->ax[a->naxes - 2] : a->ax[a->naxes - 1];
    p.rows = size(c, p.r), p.columns = size(c, p.n), p.depth = size(c, p.k);
    p.shared_a = a->space == SP_SW128;
    p.turned_a = p.shared_a && a->ax[a->naxes - 1] == p.r;
    p.turned_b = b->ax[b->naxes - 1] == p.n;
    return p;
}

static const char *wgmma_name(Cuda *c, const Product *p) {
    return ssd_arena_printf(c->a, "wgmma_n%lld_%s%s%s%s", (long long)p->columns,
                            p->shared_a ? "ss" : "rs", p->turned_a ? "_ta" : "",
                            p->turned_b ? "_tb" : "", p->dtype == SSD_F16 ? "_f16" : "");
}

static const char *listed(Cuda *c, int from, int to) {
    const char *s = "";
    for (int i = from; i < to; i++)
        s = ssd_arena_printf(c->a, "%s%s%%%d", s, i > from ? "," : "", i);
    return s;
}

// A wrapper: n/2 accumulators, then what is multiplied, then whether the accumulators are added to.
static void wrapper(Cuda *c, const Product *p) {
    int n = (int)p->columns / 2, a = p->shared_a ? 1 : 4;
    const char *type = p->dtype == SSD_F16 ? "f16" : "bf16", *outs = "";
    for (int i = 0; i < n; i += 4)
        outs = ssd_arena_printf(c->a, "%s%sD4(%d)", outs, i ? ", " : "", i);
    ssd_text_put(c->out, "\n", 1);
    ssd_cuda_open(c, "DEVICE void %s(float *d, %s, u32 b, bool add)", wgmma_name(c, p),
                  p->shared_a ? "u32 a" : "const u32 *a");
    ssd_cuda_line(c,
                  "asm volatile(\"{ .reg .pred add; .reg .b64 %sb; setp.ne.b32 add, %%%d, 0; "
                  "mov.b64 b, {%%%d, 0x40000040};\\n\"",
                  p->shared_a ? "a, " : "", n + a + 1, n + a);
    if (p->shared_a) ssd_cuda_line(c, "             \"mov.b64 a, {%%%d, 0x40000040};\\n\"", n);
    ssd_cuda_line(c, "             \"wgmma.mma_async.sync.aligned.m64n%lldk16.f32.%s.%s\\n\"",
                  (long long)p->columns, type, type);
    ssd_cuda_line(c, "             \"{%s},\\n\"", listed(c, 0, n));
    if (p->shared_a)
        ssd_cuda_line(c, "             \"a, b, add, 1, 1, %d, %d; }\"", p->turned_a, p->turned_b);
    else
        ssd_cuda_line(c, "             \"{%s}, b, add, 1, 1, %d; }\"", listed(c, n, n + 4),
                      p->turned_b);
    ssd_cuda_line(c, "             : %s", outs);
    ssd_cuda_line(c, "             : %s, \"r\"(b), \"r\"((int)add));",
                  p->shared_a ? "\"r\"(a)" : "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3])");
    ssd_cuda_close(c);
}

typedef VEC(Product) Products;
static bool is_among(Cuda *c, const Products *all, const Product *p) {
    for (u32 i = 0; i < all->n; i++)
        if (!strcmp(wgmma_name(c, &all->v[i]), wgmma_name(c, p))) return true;
    return false;
}

static void collect(Cuda *c, const TBlock *b, Products *all) {
    for (const TOp *o = b->first; o; o = o->next) {
        collect(c, &o->body, all);
        if (o->op != TOP_MMA) continue;
        Product p = product(c, o);
        if (!is_among(c, all, &p)) vec_push(c->a, all, p);
    }
}

// In the order of the whole program, whichever of its kernels are written.
void ssd_cuda_products(Cuda *c) {
    const TKernel *kernels = c->p->kernels.v;
    Products all = {0}, called = {0};
    for (const TKernel *k = kernels; c->m->wgmma && k < kernels + c->p->kernels.n; k++) {
        if (!ssd_timed_kernel(c->p, k)) continue;
        collect(c, &k->body, &all);
        if (k >= c->first && k < c->end) collect(c, &k->body, &called);
    }
    if (!called.n) return;
    ssd_text_put(c->out, "\n", 1);
    ssd_cuda_line(c, "// d[64, n] (+)= a[64, 16] * b[16, n] by a warpgroup. a: a fragment (rs) or "
                     "a tile (ss); b: a tile, given by descriptors.");
    ssd_cuda_line(c, "// ta, tb: the contracted axis runs down the rows of the tile.");
    ssd_cuda_line(
        c, "#define D4(i) \"+f\"(d[i]), \"+f\"(d[i + 1]), \"+f\"(d[i + 2]), \"+f\"(d[i + 3])");
    for (u32 i = 0; i < all.n; i++)
        if (is_among(c, &called, &all.v[i])) wrapper(c, &all.v[i]);
}

// --- One product --------------------------------------------------------------------------------
static const char *descriptor(Cuda *c, Val v) {
    const CudaView *w = ssd_cuda_view_of(c, v);
    return ssd_arena_printf(c->a, "descriptor(%s, %lld)", ssd_cuda_tile(c, w, 0, 0),
                            (long long)size(c, w->ax[w->n - 2]) * 128);
}
// From a step of 16 contracted elements to the next: down the rows, or along them and then to the
// next panel.
static const char *stepped(Cuda *c, Val v, bool turned, i64 depth) {
    const CudaView *w = ssd_cuda_view_of(c, v);
    if (turned) return "e * 128";
    if (depth <= 64) return "e * 2";
    return ssd_arena_printf(c->a, "e / 4 * %lld + e %% 4 * 2",
                            (long long)size(c, w->ax[w->n - 2]) * 8);
}

static const char *at_block(Cuda *c, const char *base, i64 n, bool many) {
    return many ? ssd_arena_printf(c->a, "%s + block * %lld", base, (long long)n) : base;
}

static void hold(Cuda *c, const TOp *o) {
    ssd_cuda_line(c, "hold<%lld>(%s);",
                  (long long)(size(c, val(c, o->out)->lay.ax[0]) / 64 *
                              size(c, val(c, o->out)->lay.ax[1]) / 2),
                  regs(c, o->out));
}

// Is the op in a loop that is unrolled?
static bool repeated(const TBlock *b, const TOp *o, bool each) {
    for (const TOp *x = b->first; x; x = x->next)
        if ((x == o && each) || repeated(&x->body, o, each || x->op == TOP_EACH)) return true;
    return false;
}

static void wgmma(Cuda *c, const TOp *o, const Product *p) {
    enum { PART = 8 };
    bool many = p->rows > 64;
    const char *d = at_block(c, regs(c, o->out), p->columns / 2, many), *a;
    if (p->shared_a) {
        // blocks of 64 rows: further down, or, where rows lie along the tile's, the next panel
        const CudaView *w = ssd_cuda_view_of(c, o->a);
        a = at_block(c, descriptor(c, o->a), p->turned_a ? size(c, w->ax[w->n - 2]) * 8 : 512,
                     many);
        a = ssd_arena_printf(c->a, "%s + %s", a, stepped(c, o->a, p->turned_a, p->depth));
    } else {
        a = ssd_arena_printf(c->a, "%s + 4*e", at_block(c, regs(c, o->a), p->depth / 4, many));
    }
    const char *b = ssd_arena_printf(c->a, "%s + %s", descriptor(c, o->b),
                                     stepped(c, o->b, p->turned_b, p->depth));
    // A synchronous product with a long first operand in registers goes in parts: what is packed
    // for a later one need not have its registers yet. All at once, ptxas would serialise every
    // step.
    i64 steps = p->depth / 16, part = o->flags & TF_ASYNC || p->shared_a ? steps : PART;
    // One step that begins a sum anew, twice over: for ptxas the first sum lives on (C7511).
    if (steps == 1 && !o->c && repeated(&c->role->body, o, false))
        ssd_cuda_line(c, "clear<%lld>(%s);", (long long)p->rows / 64 * p->columns / 2,
                      regs(c, o->out));
    for (i64 from = 0; from < steps; from += part) {
        if (from) ssd_cuda_line(c, "wgmma_wait<0>();");
        hold(c, o);
        ssd_cuda_line(c, "wgmma_fence();");
        ssd_cuda_line(c, "#pragma unroll");
        if (many) {
            ssd_cuda_open(c, "for (int block = 0; block < %lld; block++)", (long long)p->rows / 64);
            ssd_cuda_line(c, "#pragma unroll");
        }
        ssd_cuda_line(c, "for (int e = %lld; e < %lld; e++) %s(%s, %s, %s, %s);", (long long)from,
                      (long long)MIN(from + part, steps), wgmma_name(c, p), d, a, b,
                      o->c || from ? "true" : "e > 0");
        if (many) ssd_cuda_close(c);
        ssd_cuda_line(c, "wgmma_commit();");
    }
    vec_push(c->a, &c->flying, o);
}

static void mma_sync(Cuda *c, const TOp *o, const Product *p) {
    bool many = p->rows > 64;
    const CudaView *b = ssd_cuda_view_of(c, o->b);
    const char *d = at_block(c, regs(c, o->out), p->columns / 2, many), *a = "words";
    if (!o->c)
        ssd_cuda_line(c, "clear<%lld>(%s);", (long long)(p->rows / 64 * p->columns / 2),
                      regs(c, o->out));
    ssd_cuda_line(c, "#pragma unroll");
    if (many) {
        ssd_cuda_open(c, "for (int block = 0; block < %lld; block++)", (long long)p->rows / 64);
        ssd_cuda_line(c, "#pragma unroll");
    }
    ssd_cuda_open(c, "for (int e = 0; e < %lld; e++)", (long long)p->depth / 16);
    if (p->shared_a) {
        const CudaView *w = ssd_cuda_view_of(c, o->a);
        const char *at =
            p->turned_a
                ? ssd_arena_printf(c->a, "e * 16, %swarp %% 4 * 2", many ? "block * 8 + " : "")
                : ssd_arena_printf(c->a, "%swarp %% 4 * 16, e * 2", many ? "block * 64 + " : "");
        ssd_cuda_line(c, "u32 words[4];");
        ssd_cuda_line(c, "load_fragment<%lld, %s>(words, %s, %s);",
                      (long long)size(c, w->ax[w->n - 2]), p->turned_a ? "true" : "false",
                      ssd_cuda_tile(c, w, 0, 0), at);
    } else {
        const TOp *copy = ssd_cuda_late(c, o->a);
        const char *step =
            many ? ssd_arena_printf(c->a, "(block * %lld + e)", (long long)p->depth / 16) : "e";
        if (copy) ssd_cuda_line(c, "%s", ssd_cuda_fragment_step(c, copy, step));
        a = ssd_arena_printf(c->a, "%s + 4*e", at_block(c, regs(c, o->a), p->depth / 4, many));
    }
    ssd_cuda_line(c, "mma_step<%lld, %lld, %s>(%s, %s, %s, e, %s());", (long long)p->columns,
                  (long long)size(c, b->ax[b->n - 2]), p->turned_b ? "false" : "true", d, a,
                  ssd_cuda_tile(c, b, 0, 0), ssd_cuda_type(p->dtype));
    ssd_cuda_close(c);
    if (many) ssd_cuda_close(c);
}

// The products of the role up to the given one are there, `pending` younger ones perhaps not.
static void landed(Cuda *c, int pending) {
    int n = (int)c->flying.n - pending;
    ssd_cuda_line(c, "wgmma_wait<%d>();", pending);
    for (int i = 0; i < n; i++) hold(c, c->flying.v[i]);
    for (u32 i = (u32)MAX(n, 0); i < c->flying.n; i++) c->flying.v[i - (u32)n] = c->flying.v[i];
    c->flying.n -= (u32)MAX(n, 0);
}

void ssd_cuda_product(Cuda *c, const TOp *o) {
    Product p = product(c, o);
    if (!c->m->wgmma) {
        mma_sync(c, o, &p);
        return;
    }
    wgmma(c, o, &p);
    if (!(o->flags & TF_ASYNC)) landed(c, 0);
}

void ssd_cuda_product_wait(Cuda *c, const TOp *o) {
    if (c->m->wgmma) landed(c, o->pending);
}

// No product is under way at the end of a body, but ptxas forgets over the back edge that it
// waited: it would wait for a younger one where an accumulator of the turn before is used (C7517).
void ssd_cuda_product_turn(Cuda *c, const TOp *o) {
    bool any = false;
    if (!c->m->wgmma || o->op != TOP_FOR) return;
    for (const TOp *x = o->body.first; x; x = x->next) any |= x->op == TOP_MMA;
    if (any)
        ssd_cuda_line(c,
                      "wgmma_wait<0>();  // nothing is under way: for ptxas, which has forgotten");
}
