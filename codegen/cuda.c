// SPDX-License-Identifier: Apache-2.0
// T1 -> CUDA C++ -> cubin: programs, kernels, control flow.
//
// One `extern "C" __global__` function a kernel, its argument a struct of 8-byte words
// (runtime/artifact.h). The text opens with what it was made of and the command that makes it
// again; then the prelude, then kernels.
#include "cuda.h"
#include "cuda_emit.h"
#include "nvrtc.h"

enum { FEW = 1024, MANY = 4096, BUFFER_ALIGN = 64 }; // elements of a tile; bytes

#define PRELUDE(name)                                                                              \
    extern const unsigned char ssd_cuda_##name[];                                                  \
    extern const size_t ssd_cuda_##name##_size;
PRELUDE(prelude)
PRELUDE(block_prelude)
PRELUDE(dense_prelude)
PRELUDE(timed_prelude)
#undef PRELUDE

static const TVal *val(const Cuda *c, Val v) { return &c->p->vals.v[v]; }

// --- Text ---------------------------------------------------------------------------------------
static void indent(Cuda *c) {
    for (int i = 0; i < c->indent; i++) ssd_text_put(c->out, "    ", 4);
}
void ssd_cuda_line(Cuda *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    indent(c);
    ssd_text_vprintf(c->out, fmt, ap);
    ssd_text_put(c->out, "\n", 1);
    va_end(ap);
}
void ssd_cuda_open(Cuda *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    indent(c);
    ssd_text_vprintf(c->out, fmt, ap);
    ssd_text_put(c->out, " {\n", 3);
    c->indent++;
    va_end(ap);
}
void ssd_cuda_close(Cuda *c) {
    c->indent--;
    indent(c);
    ssd_text_put(c->out, "}\n", 2);
}
void ssd_cuda_comment(Cuda *c, const TOp *o) {
    Text t = {0};
    ssd_tile_op_print(c->p, o, &t);
    indent(c);
    ssd_text_printf(c->out, "// %s\n", t.s);
    ssd_text_free(&t);
}

// --- Control flow -------------------------------------------------------------------------------
static void place_carries(Cuda *c, const TOp *o) {
    for (int i = 0; i < o->ncarry; i++) {
        Val v = o->carry[i];
        const TVal *t = val(c, v);
        if (t->naxes) {
            c->base[v] = c->name[t->lay.buf];
            c->offset[v] = t->lay.offset;
            continue;
        }
        Kind k = ssd_cuda_dtype_kind(t->dtype);
        const char *start =
            k == KIND_FLOAT ? ssd_cuda_float(c, o->init[i]) : ssd_cuda_ex(c, o->init[i]);
        ssd_cuda_line(c, "%s %s = %s;", ssd_cuda_ctype(k), c->name[v], start);
    }
}

// All next values are known before the first carry changes.
static void next_carries(Cuda *c, const TOp *o) {
    const TOp *y = o->body.last;
    for (int last = 0; last < 2; last++)
        for (int i = 0; i < o->ncarry; i++) {
            const TVal *t = val(c, o->carry[i]);
            const char *name = c->name[o->carry[i]];
            Kind k = ssd_cuda_dtype_kind(t->dtype);
            if (t->naxes) continue;
            if (last) {
                ssd_cuda_line(c, "%s = next_%s;", name, name);
                continue;
            }
            const char *next =
                k == KIND_FLOAT ? ssd_cuda_float(c, y->init[i]) : ssd_cuda_ex(c, y->init[i]);
            ssd_cuda_line(c, "const %s next_%s = %s;", ssd_cuda_ctype(k), name, next);
        }
}

// What only moves tiles need not be there many times, nor masks, whose text is long, where that of
// lanes that copy is, too: all roles share one cache of instructions.
static bool unrolled(const Cuda *c, const TOp *o) {
    if (!c->timed || o->op == TOP_FOR) return o->op == TOP_EACH;
    bool moves = true, masks = false;
    for (const TOp *x = o->body.first; x; x = x->next) {
        moves &= x->op == TOP_FETCH || x->op == TOP_SEND;
        masks |= x->op == TOP_INTO && x->tri_row;
        if (x->op == TOP_MMA) return true;
    }
    return !moves && !(masks && ssd_cuda_has_loose(c));
}

static void loop(Cuda *c, const TOp *o) {
    const char *v = c->name[o->var], *lo = ssd_cuda_ex(c, o->lo), *hi = ssd_cuda_ex(c, o->hi);
    place_carries(c, o);
    if (c->timed) ssd_cuda_behind_begin(c, o);
    if (o->op == TOP_EACH || c->timed) // the loops of roles are long
        ssd_cuda_line(c, unrolled(c, o) ? "#pragma unroll" : "#pragma unroll 1");
    const Expr *from = &c->p->exs.v[o->lo], *to = &c->p->exs.v[o->hi];
    if (from->kind == EX_NUM && from->num >= 0 && to->kind == EX_NUM)
        c->most[o->var] = (i64)to->num - 1;
    if (o->flags & TF_REV)
        ssd_cuda_open(c, "for (int %s = %s - 1, first = %s; %s >= first; %s--)", v, hi, lo, v, v);
    else
        ssd_cuda_open(c, "for (int %s = %s, end = %s; %s < end; %s++)", v, lo, hi, v, v);
    if (c->timed) ssd_cuda_product_turn(c, o);
    ssd_cuda_block(c, &o->body);
    next_carries(c, o);
    ssd_cuda_close(c);
    if (c->timed) ssd_cuda_behind_end(c, o);
}

static void branch(Cuda *c, const TOp *o) {
    ssd_cuda_open(c, "if (%s)", ssd_cuda_ex(c, o->e));
    ssd_cuda_block(c, &o->body);
    ssd_cuda_close(c);
}

// --- Ops ----------------------------------------------------------------------------------------
static void scalar(Cuda *c, const TOp *o) {
    Kind k = ssd_cuda_dtype_kind(val(c, o->out)->dtype);
    const char *v = o->op == TOP_LOAD ? ssd_cuda_access(c, o, NULL)
                    : k == KIND_FLOAT ? ssd_cuda_float(c, o->e)
                                      : ssd_cuda_ex(c, o->e);
    ssd_cuda_line(c, "const %s %s = %s;", ssd_cuda_ctype(k), c->name[o->out],
                  ssd_cuda_round(c, v, val(c, o->out)->dtype));
}

void ssd_cuda_op(Cuda *c, const TOp *o) {
    if (o->op != TOP_FOR && o->op != TOP_EACH && o->op != TOP_IF && o->op != TOP_BUF &&
        o->op != TOP_YIELD && o->op != TOP_PREFETCH)
        ssd_cuda_comment(c, o);
    if (c->timed && ssd_cuda_timed_op(c, o)) return;
    switch ((TOpCode)o->op) {
    case TOP_MMA: ssd_cuda_mma(c, o); break;
    case TOP_SCAN: ssd_cuda_scan(c, o); break;
    case TOP_AT:
    case TOP_RENAME:
    case TOP_SPLIT:
    case TOP_SLICE: ssd_cuda_view(c, o); break;
    case TOP_JOIN: ssd_cuda_join(c, o); break;
    case TOP_CAT: ssd_cuda_cat(c, o); break;
    case TOP_PUT: ssd_cuda_put(c, o); break;
    case TOP_SWAP: ssd_cuda_swap(c, o); break;
    case TOP_INV: ssd_cuda_inv(c, o); break;
    case TOP_PICK: ssd_cuda_pick(c, o); break;
    case TOP_FOR:
    case TOP_EACH: loop(c, o); break;
    case TOP_IF: branch(c, o); break;
    case TOP_STORE:
        ssd_cuda_line(c, "if (threadIdx.x == 0) %s;", ssd_cuda_access(c, o, ssd_cuda_ex(c, o->e)));
        break;
    case TOP_LOAD:
    case TOP_MAP:
    case TOP_FILL:
    case TOP_REDUCE:
    case TOP_COPY: scalar(c, o); break;
    case TOP_BUF:
    case TOP_YIELD:
    case TOP_PREFETCH:
    case TOP_RING:
    case TOP_SLOT:
    case TOP_REGS:
    case TOP_ROLE:
    case TOP_ACQUIRE:
    case TOP_PUBLISH:
    case TOP_AWAIT:
    case TOP_RELEASE:
    case TOP_FETCH:
    case TOP_SEND:
    case TOP_INTO:
    case TOP_WAIT: break; // of roles: ssd_cuda_timed_op
    case TOP__COUNT: SSD_BUG("not an op");
    }
}

static bool is_view(const TOp *o) {
    return o->op == TOP_AT || o->op == TOP_RENAME || o->op == TOP_SPLIT || o->op == TOP_SLICE;
}

void ssd_cuda_block(Cuda *c, const TBlock *b) {
    for (TOp *o = b->first; o; o = o->next) {
        bool nest = !c->timed && ssd_nest_op(c->p, o);
        TOp *last = nest ? ssd_nest_last(c->p, o) : o;
        for (TOp *w = o; !c->timed; w = w->next) { // where results go
            const TVal *t = w->out ? val(c, w->out) : NULL;
            if (t && t->lay.space == SP_MEM && t->naxes && !is_view(w)) {
                c->base[w->out] = c->name[t->lay.buf];
                c->offset[w->out] = t->lay.offset;
            }
            if (w == last) break;
        }
        for (u32 i = 0; i < c->barriers.n; i++)
            if (c->barriers.v[i] == o) ssd_cuda_line(c, "__syncthreads();");
        if (nest)
            ssd_cuda_nest(c, o, last);
        else
            ssd_cuda_op(c, o);
        o = last;
    }
}

// --- Kernels ------------------------------------------------------------------------------------
// A tensor of the kernel: what its text speaks of, in the order of the artifact.
typedef struct Used {
    bool *tensor, *sym;
} Used;
static void note_ex(const Cuda *c, Ex e, Used *used) {
    if (!e) return;
    const Expr *x = &c->p->exs.v[e];
    if (x->kind == EX_LOAD) used->tensor[x->tensor] = true;
    if (x->kind == EX_SYM) used->sym[x->sym] = true;
    for (int i = 0; i < x->nidx; i++) note_ex(c, x->idx[i], used);
    for (int i = 0; x->kind == EX_FN && i < ssd_fns[x->fn].arity; i++) note_ex(c, x->arg[i], used);
}
static void note_block(const Cuda *c, const TBlock *b, Used *used) {
    for (const TOp *o = b->first; o; o = o->next) {
        const Ex e[] = {o->e, o->e2, o->when, o->lo, o->hi};
        if (o->op == TOP_PREFETCH) continue;
        if (o->op == TOP_LOAD || o->op == TOP_STORE || o->op == TOP_FETCH || o->op == TOP_SEND)
            used->tensor[o->tensor] = true;
        for (size_t i = 0; i < COUNTOF(e); i++) note_ex(c, e[i], used);
        for (int i = 0; i < o->nidx; i++) note_ex(c, o->idx[i], used);
        for (int i = 0; o->init && i < o->ncarry; i++) note_ex(c, o->init[i], used);
        note_block(c, &o->body, used);
    }
}
static Used used_by(const Cuda *c) {
    Used used = {NEWN(c->a, bool, c->p->tensors.n), NEWN(c->a, bool, c->p->syms.n + 1)};
    for (int i = 1; i < c->k->ngrid; i++) note_ex(c, c->k->grid[i].size, &used);
    note_block(c, &c->k->body, &used);
    return used;
}

// Parameters first, then workspace; out[i] is a tensor's index in the program, place[i] in the
// artifact.
static int taken_tensors(const Cuda *c, u16 *out, int *place) {
    const bool *used = used_by(c).tensor;
    int n = 0, at = 0;
    for (int ws = 0; ws < 2; ws++)
        for (u32 i = 1; i < c->p->tensors.n; i++) {
            if ((c->p->tensors.v[i].role == T_WS) != ws) continue;
            if (used[i]) out[n] = (u16)i, place[n++] = at;
            at++;
        }
    return n;
}

// The last op of the held nest that begins here, or NULL.
static const TOp *held_to(const Prog *p, const TOp *o) {
    if (!ssd_nest_op(p, o)) return NULL;
    const TOp *last = ssd_nest_last(p, (TOp *)o);
    return ssd_nest_held(p, o, last) ? last : NULL;
}

// Threads for the largest held nest: with HELD points a thread, 64 bytes of a tile are under way at
// once.
static i64 held_threads(const Prog *p, const TBlock *b) {
    enum { HELD = 16, LEAST = 64, MOST = 512 };
    i64 most = 0;
    for (const TOp *o = b->first; o; o = o->next) {
        NestHeld h;
        const TOp *last = held_to(p, o);
        most = MAX(most, held_threads(p, &o->body));
        if (!last || !ssd_nest_hold(p, o, last, &h)) continue;
        i64 points = p->axes.v[h.lane].size * (h.row ? p->axes.v[h.row].size : 1), n = LEAST;
        while (n < MOST && n * HELD < points) n *= 2;
        most = MAX(most, n);
        o = last;
    }
    return most;
}

// Elements of the largest tile: of all, or of those in memory; held ones are not counted.
static i64 largest(const Prog *p, const TBlock *b, bool in_memory) {
    i64 most = 0;
    for (const TOp *o = b->first; o; o = o->next) {
        const TOp *held = held_to(p, o);
        if (held) {
            o = held;
            continue;
        }
        const TVal *v = o->out ? &p->vals.v[o->out] : NULL;
        i64 n = 1;
        for (int i = 0; v && i < v->naxes; i++) n *= p->axes.v[v->ax[i]].size;
        if (in_memory && v && v->lay.space != SP_MEM) n = 1;
        most = MAX(most, MAX(n, largest(p, &o->body, in_memory)));
    }
    return most;
}

// Blocks that share a multiprocessor, as far as shared memory lets them: what registers are shared
// by. The addresses of many tensors take registers, too.
static int neighbours(const Cuda *c, int tensors) {
    enum { SOME_TENSORS = 8, MANY_TENSORS = 16 };
    i64 bytes = 0;
    for (const TOp *o = c->k->body.first; o; o = o->next) bytes += o->op == TOP_BUF ? o->bytes : 0;
    if (2 * bytes > c->m->l1 || c->threads > 256 || tensors > MANY_TENSORS) return 1;
    return 8 * bytes > c->m->l1 || tensors > SOME_TENSORS ? 2 : 4;
}

static i64 buffers(Cuda *c) {
    i64 bytes = 0;
    bool any = false;
    for (const TOp *o = c->k->body.first; o; o = o->next) {
        if (o->op != TOP_BUF) continue;
        if (!any) ssd_cuda_line(c, "extern __shared__ __align__(16) float shared[];");
        ssd_cuda_line(c, "float *const %s = shared + %lld;  // %lld bytes", c->name[o->out],
                      (long long)bytes / 4, (long long)o->bytes);
        bytes += (o->bytes + BUFFER_ALIGN - 1) / BUFFER_ALIGN * BUFFER_ALIGN;
        any = true;
    }
    return bytes;
}

static void arguments(Cuda *c, const u16 *tensors, int n) {
    ssd_cuda_open(c, "struct %s_args",
                  c->k->name); // of each tensor its address, strides and dims, in elements
    if (c->maps.n) {
        ssd_cuda_line(c, "TensorMap map[%u];", c->maps.n);
        ssd_cuda_line(c, "u64 maps_made; // a bit each: bulk copies can use it");
    }
    if (n) ssd_cuda_line(c, "void *data[%d];", n);
    for (u32 i = 0; i < c->p->syms.n; i++) ssd_cuda_line(c, "i64 %s;", c->sym[i]);
    for (int i = 0; i < n; i++) {
        const TTensor *t = &c->p->tensors.v[tensors[i]];
        if (t->rank) ssd_cuda_line(c, "i64 %s[2][%d];", c->tensor[tensors[i]], t->rank);
    }
    c->indent--;
    ssd_cuda_line(c, "};");
}

static void tensor(Cuda *c, u16 i, int place) {
    const TTensor *t = &c->p->tensors.v[i];
    const char *type = ssd_cuda_type(t->dtype), *name = c->tensor[i];
    // Reads of const tensors might move to before the wait.
    const char *only = c->early || ssd_nest_writes(c->p, &c->k->body, t) ? "" : "const ";
    if (t->rank && c->dense) {
        const char *dims = "";
        for (int d = 1; d < t->rank; d++)
            dims = ssd_arena_printf(c->a, "%s, %lld", dims, (long long)c->p->exs.v[t->dim[d]].num);
        ssd_cuda_line(c, "const View<dense, %s%s%s> %s(args.data[%d], args.%s[0], args.%s[1]);",
                      only, type, dims, name, place, name, name);
    } else if (t->rank)
        ssd_cuda_line(c, "const Tensor<%s%s, %d> %s(args.data[%d], args.%s[0], args.%s[1]);", only,
                      type, t->rank, name, place, name, name);
    else
        ssd_cuda_line(c, "const Tensor<%s%s, 0> %s(args.data[%d], nullptr, nullptr);", only, type,
                      name, place);
}

// Grid variables from the block's number: the last one runs fastest.
static void grid(Cuda *c) {
    const TKernel *k = c->k;
    if (k->ngrid > 1) ssd_cuda_line(c, "u32 block = blockIdx.x;");
    for (int i = k->ngrid - 1; i >= 0; i--) {
        const char *v = c->name[k->grid[i].var], *size = ssd_cuda_factor(c, k->grid[i].size);
        if (k->ngrid == 1)
            ssd_cuda_line(c, "const int %s = blockIdx.x;", v);
        else if (i)
            ssd_cuda_line(c, "const int %s = block %% %s;", v, size);
        else
            ssd_cuda_line(c, "const int %s = block;", v);
        if (i) ssd_cuda_line(c, "block /= %s;", size);
    }
}

// What the program says it was made by; text written by hand may say nothing, or nonsense.
static Schedule schedule_of(const Prog *p) {
    Schedule s = ssd_schedule_auto;
    Text why = {0};
    if (!ssd_schedule_parse(p->schedule, &s, &why)) s = ssd_schedule_auto;
    ssd_text_free(&why);
    return s;
}

// Kernels of roles are long: what a launch costs is little of them.
bool ssd_cuda_early(const Prog *p, const Machine *m, const TKernel *k) {
    return m->early && schedule_of(p).early && !ssd_timed_kernel(p, k);
}

static void wait_for_stream(Cuda *c) {
    ssd_cuda_line(c, "// Launched early: from here on there is what kernels in front of it wrote.");
    ssd_cuda_line(c, "asm volatile(\"griddepcontrol.wait;\" ::: \"memory\");");
    ssd_cuda_line(c, "asm volatile(\"griddepcontrol.launch_dependents;\");");
}

static void begin_kernel(Cuda *c, const TKernel *k) {
    c->k = k;
    c->threads = ssd_cuda_threads(c->p, k);
    c->timed = ssd_timed_kernel(c->p, k);
    c->early = ssd_cuda_early(c->p, c->m, k);
    c->nest = 0;
    c->maps.n = 0;
    memset(c->held, 0, sizeof c->held);
    memset(c->base, 0, c->p->vals.n * sizeof *c->base);
    memset(c->local, 0, c->p->vals.n * sizeof *c->local);
    ssd_cuda_names(c);
    for (u32 i = 0; i < c->p->vals.n; i++) c->most[i] = -1;
    if (c->timed)
        ssd_cuda_timed_begin(c);
    else
        ssd_cuda_barriers(c);
}

static void open_entry(Cuda *c, const char *name, int tensors) {
    const char *threads = c->timed ? ssd_arena_printf(c->a, "%d", c->threads) : "THREADS";
    ssd_cuda_open(c,
                  "extern \"C\" __global__ void __launch_bounds__(%s, %d) %s(const "
                  "__grid_constant__ %s_args args)",
                  threads, c->timed ? 1 : neighbours(c, tensors), name, c->k->name);
}

static i64 kernel(Cuda *c, const TKernel *k) {
    u16 *tensors = NEWN(c->a, u16, c->p->tensors.n);
    int *place = NEWN(c->a, int, c->p->tensors.n);
    begin_kernel(c, k);
    int n = taken_tensors(c, tensors, place);
    ssd_text_put(c->out, "\n", 1);
    arguments(c, tensors, n);
    if (c->dense)
        ssd_cuda_open(c, "template <bool dense> DEVICE void %s_block(const %s_args &args)", k->name,
                      k->name);
    else
        open_entry(c, k->name, n);
    for (int i = 0; i < n; i++) tensor(c, tensors[i], i);
    const bool *syms = used_by(c).sym;
    for (u32 i = 0; i < c->p->syms.n; i++)
        if (syms[i]) ssd_cuda_line(c, "const int %s = (int)args.%s;", c->sym[i], c->sym[i]);
    i64 bytes = c->timed ? ssd_timed_shared_bytes(c->p, k) : buffers(c);
    grid(c);
    if (c->early) wait_for_stream(c);
    if (c->timed)
        ssd_cuda_roles(c);
    else
        ssd_cuda_block(c, &k->body);
    ssd_cuda_close(c);
    for (int dense = 1; c->dense && dense >= 0; dense--) {
        open_entry(c, dense ? ssd_cuda_dense_name(c->a, k) : k->name, n);
        ssd_cuda_line(c, "%s_block<%s>(args);", k->name, dense ? "true" : "false");
        ssd_cuda_close(c);
    }
    return bytes;
}

// --- Programs -----------------------------------------------------------------------------------
// A kernel of roles says how many warps it has. For all others of the program one block size, as
// large as their largest tile is worth: the prelude's loops are written in it.
int ssd_cuda_threads(const Prog *p, const TKernel *k) {
    i64 all = 0, memory = 0, held = 0;
    if (k && ssd_timed_kernel(p, k)) return ssd_timed_warps(k) * 32;
    for (u32 i = 0; i < p->kernels.n; i++) {
        if (ssd_timed_kernel(p, &p->kernels.v[i])) continue;
        held = MAX(held, held_threads(p, &p->kernels.v[i].body));
        all = MAX(all, largest(p, &p->kernels.v[i].body, false));
        memory = MAX(memory, largest(p, &p->kernels.v[i].body, true));
    }
    int rest = memory > MANY ? 512 : all > FEW ? 256 : all > 1 || !held ? 128 : 0;
    return MAX(rest, (int)held);
}

// Where all dims but the first are known, kernels are compiled twice: for any strides, and for
// tensors without gaps, where the addresses of a short kernel are not longer than its arithmetic.
bool ssd_cuda_dense(const Prog *p) {
    for (u32 i = 0; i < p->kernels.n; i++)
        if (ssd_timed_kernel(p, &p->kernels.v[i])) return false;
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *t = &p->tensors.v[i];
        double span = 1;
        for (int d = 1; d < t->rank; d++) {
            const Expr *dim = &p->exs.v[t->dim[d]];
            if (dim->kind != EX_NUM || dim->num < 1) return false;
            span *= dim->num;
        }
        if (span > INT32_MAX) return false;
    }
    return true;
}
const char *ssd_cuda_dense_name(Arena *a, const TKernel *k) {
    return ssd_arena_printf(a, "%s_dense", k->name);
}

int ssd_cuda_takes(Arena *a, const Prog *p, const TKernel *k, int **out) {
    Cuda c = {.p = p, .a = a, .k = k};
    *out = NEWN(a, int, p->tensors.n);
    return taken_tensors(&c, NEWN(a, u16, p->tensors.n), *out);
}

static Cuda start(Arena *a, const Prog *p, const Machine *m, Text *out) {
    const Schedule s = schedule_of(p);
    Cuda c = {.p = p, .m = ssd_schedule_machine(a, &s, m), .a = a, .out = out};
    c.name = NEWN(a, const char *, p->vals.n);
    c.base = NEWN(a, const char *, p->vals.n);
    c.offset = NEWN(a, i64, p->vals.n);
    c.local = NEWN(a, u32, p->vals.n);
    c.elem = NEWN(a, const char *, p->vals.n);
    c.rows = NEWN(a, const char *, p->vals.n);
    c.late = NEWN(a, const TOp *, p->vals.n);
    c.place = NEWN(a, const char *, p->vals.n);
    c.most = NEWN(a, i64, p->vals.n);
    c.loads_of = NEWN(a, u64, p->vals.n);
    c.view = NEWN(a, CudaView, p->vals.n);
    c.tensor = NEWN(a, const char *, p->tensors.n);
    c.axis = NEWN(a, const char *, p->axes.n);
    c.sym = NEWN(a, const char *, p->syms.n + 1);
    return c;
}

int ssd_cuda_maps(Arena *a, const Prog *p, const Machine *m, const TKernel *k, const ArtMap **out) {
    *out = NULL;
    if (!ssd_timed_kernel(p, k)) return 0;
    Cuda c = start(a, p, m, NULL);
    u16 *tensors = NEWN(a, u16, p->tensors.n);
    begin_kernel(&c, k);
    int n = taken_tensors(&c, tensors, NEWN(a, int, p->tensors.n));
    for (u32 i = 0; i < c.maps.n; i++)
        for (int t = 0; t < n; t++)
            if (tensors[t] == c.maps.v[i].take) {
                c.maps.v[i].take = t;
                break;
            }
    *out = c.maps.v;
    return (int)c.maps.n;
}

// Narrow tensors allow the hardware's own functions.
static bool is_fast(const Prog *p) {
    for (u32 i = 1; i < p->tensors.n; i++)
        if (p->tensors.v[i].dtype == SSD_BF16 || p->tensors.v[i].dtype == SSD_F16) return true;
    return false;
}

static bool is_step(const Prog *p) {
    for (u32 i = 0; i < p->syms.n; i++)
        if (!strcmp(p->syms.v[i], "t")) return false;
    return true;
}

static void header(Cuda *c) {
    const Prog *p = c->p;
    const char *arch = c->m->target + strlen("cuda-"), *schedule = p->schedule ? p->schedule : "";
    ssd_text_printf(c->out, "// %s for %s, %s\n", p->name, arch,
                    *schedule ? schedule : "no schedule");
    ssd_text_printf(c->out, "// made by: ssdc show SPEC --at source --target %s%s%s%s%s\n", arch,
                    is_step(p) ? " --mode step" : "", *schedule ? " --schedule '" : "", schedule,
                    *schedule ? "'" : "");
    ssd_text_printf(c->out, "//\n");
    for (u32 i = 1; i < p->tensors.n; i++) {
        static const char *const role[] = {"in ", "out", "ws "};
        const TTensor *t = &p->tensors.v[i];
        ssd_text_printf(c->out, "//   %s %s %s[", role[t->role], t->name,
                        ssd_dtype_name((ssd_dtype)t->dtype));
        for (int d = 0; d < t->rank; d++) {
            if (d) ssd_text_put(c->out, ", ", 2);
            ssd_ex_print(p, t->dim[d], c->out);
        }
        ssd_text_printf(c->out, t->alias ? "], may be %s\n" : "]\n", t->alias);
    }
}

// What the kernels call, and no more.
static void prelude(Cuda *c) {
    bool timed = false, plain = false;
    for (const TKernel *k = c->first; k < c->end; k++) {
        bool roles = ssd_timed_kernel(c->p, k);
        timed |= roles, plain |= !roles;
    }
    ssd_text_printf(c->out, "#define FAST %d\n", is_fast(c->p));
    if (plain) ssd_text_printf(c->out, "#define THREADS %d\n", ssd_cuda_threads(c->p, NULL));
    if (timed) ssd_text_printf(c->out, "#define WGMMA %d\n", c->m->wgmma);
    ssd_text_printf(c->out, "\n");
    ssd_text_put(c->out, (const char *)ssd_cuda_prelude, ssd_cuda_prelude_size);
    if (plain)
        ssd_text_put(c->out, (const char *)ssd_cuda_block_prelude, ssd_cuda_block_prelude_size);
    if (c->dense)
        ssd_text_put(c->out, (const char *)ssd_cuda_dense_prelude, ssd_cuda_dense_prelude_size);
    if (timed)
        ssd_text_put(c->out, (const char *)ssd_cuda_timed_prelude, ssd_cuda_timed_prelude_size);
    if (timed) ssd_cuda_products(c);
}

void ssd_cuda_source_of(const Prog *p, const Machine *m, u32 first, u32 n, i64 *out_scratch,
                        Text *out) {
    Arena scratch = {0};
    Cuda c = start(&scratch, p, m, out);
    c.first = &p->kernels.v[first];
    c.end = c.first + n;
    c.dense = ssd_cuda_dense(p);
    ssd_cuda_sources(&c);
    header(&c);
    prelude(&c);
    for (const TKernel *k = c.first; k < c.end; k++) {
        i64 bytes = kernel(&c, k);
        if (out_scratch) out_scratch[k - p->kernels.v] = bytes;
    }
    ssd_arena_free(&scratch);
}

void ssd_cuda_source(const Prog *p, const Machine *m, i64 *out_scratch, Text *out) {
    ssd_cuda_source_of(p, m, 0, p->kernels.n, out_scratch, out);
}

// Rings are as deep as the program says: none of the smaller machines may have room for them.
static bool fits(const Prog *p, const Machine *m, Text *why) {
    for (u32 i = 0; i < p->kernels.n; i++) {
        const TKernel *k = &p->kernels.v[i];
        i64 bytes = ssd_timed_kernel(p, k) ? ssd_timed_shared_bytes(p, k) : 0;
        if (bytes <= m->l1) continue;
        ssd_text_printf(
            why, "SCRATCH: kernel %s needs %lld bytes of shared memory, a block of %s has %lld",
            k->name, (long long)bytes, m->arch, (long long)m->l1);
        return false;
    }
    return true;
}

bool ssd_cuda_compile(Arena *a, const Prog *p, const Machine *m, i64 *out_scratch, NvrtcResult *out,
                      Text *why) {
    if (!fits(p, m, why)) return false;
    NvrtcSource *source = NEWN(a, NvrtcSource, p->kernels.n);
    for (u32 i = 0; i < p->kernels.n; i++) {
        Text text = {0};
        ssd_cuda_source_of(p, m, i, 1, out_scratch, &text);
        source[i].text = ssd_arena_dup(a, text.s, text.n);
        source[i].name = ssd_arena_printf(a, "%s.%s", p->name, p->kernels.v[i].name);
        ssd_text_free(&text);
    }
    return ssd_nvrtc_compile_all(a, source, (int)p->kernels.n, m->target + strlen("cuda-"), out,
                                 why);
}

bool ssd_cuda_emit(Arena *a, const Prog *p, const Machine *m, TargetCode *out, Text *why) {
    int n = (int)p->kernels.n;
    NvrtcResult *r = NEWN(a, NvrtcResult, n);
    *out = (TargetCode){.scratch = NEWN(a, i64, n), .module_bytes = NEWN(a, i64, n)};
    if (!ssd_cuda_compile(a, p, m, out->scratch, r, why)) return false;
    i64 room = 0, end = 0;
    for (int i = 0; i < n; i++) room = ssd_artifact_module_at(room) + (i64)r[i].cubin_size;
    char *bytes = ssd_arena_alloc(a, (size_t)room);
    for (int i = 0; i < n; i++) {
        i64 at = ssd_artifact_module_at(end);
        memcpy(bytes + at, r[i].cubin, r[i].cubin_size);
        out->module_bytes[i] = (i64)r[i].cubin_size;
        end = at + out->module_bytes[i];
    }
    out->bytes = bytes;
    out->size = (size_t)end;
    out->n_modules = n > 1 ? n : 0;
    return true;
}

bool ssd_cuda_text(const Prog *p, const Machine *m, bool assembly, Text *out, Text *why) {
    if (!assembly) {
        ssd_cuda_source(p, m, NULL, out);
        return true;
    }
    Arena scratch = {0};
    NvrtcResult *r = NEWN(&scratch, NvrtcResult, p->kernels.n);
    bool ok = ssd_cuda_compile(&scratch, p, m, NULL, r, why);
    for (u32 i = 0; ok && i < p->kernels.n; i++)
        if (r[i].ptx) ssd_text_printf(out, "%s", r[i].ptx);
    ssd_arena_free(&scratch);
    return ok;
}
