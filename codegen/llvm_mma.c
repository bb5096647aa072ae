// SPDX-License-Identifier: Apache-2.0
// Products, register-blocked: out[m, lanes] += a[m, k] * b[k, lanes].
//
// A block is `rows` x `vecs` accumulators: each step of k loads `vecs` vectors of b and one element
// of a for each row, and issues rows*vecs FMAs. Which operand is b follows from the layout: the one
// that holds the lane axis (the layout pass saw to its stride of 1); of the other one single
// elements are read, at any stride. Axes both keep, and further free axes, are loops around. All
// strides are constants.
//
// tri: when a is zero above (or below) a diagonal, each row block stops (starts) its k loop there.
#include "llvm_emit.h"

enum { MAX_OUTER = 8, MAX_K = 6, MAX_ROWS = 14, MAX_VECS = 6, K_UNROLL = 2 };

typedef struct Mma {
    Emit *e;
    const TOp *op;
    Val a, b, c, out; // a: elements, b: vectors
    u8 lane, row, k[MAX_K], outer[MAX_OUTER];
    int nk, nouter, rows, vecs;
    // At the block being emitted: addresses of its first elements, and the row it starts at.
    V pa, pb, pc, po, row_index;
    struct Stream *streams;
    int nstreams;
    V turn; // number of row blocks before those of this pass over the rows
    // A map that makes the accumulator, evaluated where a block starts; NULL: c is read from
    // memory.
    const TOp *map;
    NestRun *run;
    V lane_index;
} Mma;

// A tensor's tile to be prefetched, some of its rows with each row block.
typedef struct Stream {
    V base, step;
    i64 rows;
    int lines;
    bool write;
} Stream;

static bool has_axis(const Emit *e, Val v, u8 x) {
    return memchr(e->p->vals.v[v].ax, x, e->p->vals.v[v].naxes) != NULL;
}
static i64 stride(const Mma *m, Val v, u8 x) { return v ? 4 * ssd_nest_stride(m->e->p, v, x) : 0; }

static void classify(Mma *m) {
    Emit *e = m->e;
    const TOp *o = m->op;
    const TVal *out = &e->p->vals.v[o->out];
    m->lane = out->lay.ax[out->lay.naxes - 1];
    bool swap = has_axis(e, o->a, m->lane);
    m->a = swap ? o->b : o->a;
    m->b = swap ? o->a : o->b;
    m->c = o->c;
    m->out = o->out;
    const TVal *a = &e->p->vals.v[m->a];
    for (int i = 0; i < a->naxes; i++) {
        u8 x = a->ax[i];
        if (has_axis(e, o->out, x)) {
            bool free = !has_axis(e, m->b, x);
            if (free && (!m->row || ssd_emit_size(e, x) > ssd_emit_size(e, m->row))) m->row = x;
        } else {
            m->k[m->nk++] = x;
        }
    }
    for (int i = 0; i < out->naxes; i++) {
        u8 x = out->lay.ax[i];
        if (x != m->lane && x != m->row) m->outer[m->nouter++] = x;
    }
    // The longest contracted axis goes innermost.
    for (int i = 0; i + 1 < m->nk; i++)
        if (ssd_emit_size(e, m->k[i]) > ssd_emit_size(e, m->k[m->nk - 1])) {
            u8 x = m->k[i];
            m->k[i] = m->k[m->nk - 1];
            m->k[m->nk - 1] = x;
        }
}

// --- One block of accumulators ------------------------------------------------------------------
typedef struct Block {
    int rows, vecs;
    V acc[MAX_ROWS * MAX_VECS];
} Block;

static LLVMTypeRef vec_type(const Mma *m) { return ssd_emit_vec(m->e, m->e->f32, m->e->lanes); }
static i64 vec_bytes(const Mma *m) { return 4 * (i64)m->e->lanes; }

// The nest's place: row i and vector j of the block.
static void go(Mma *m, int i, int j) {
    int row = 2 * m->nouter + 1, lane = row + 2;
    if (j == 0) {
        ssd_nest_set(m->run, row, m->row_index);
        ssd_nest_set(m->run, row + 1, ssd_emit_i64(m->e, i));
        ssd_nest_set(m->run, lane, m->lane_index);
    }
    ssd_nest_set(m->run, lane + 1, ssd_emit_i64(m->e, (i64)j * m->e->lanes));
}

static void start(Mma *m, Block *b) {
    for (int i = 0; i < b->rows; i++)
        for (int j = 0; j < b->vecs; j++) {
            if (m->map) {
                go(m, i, j);
                b->acc[i * b->vecs + j] = ssd_nest_vector(m->run, ssd_nest_ex(m->run, m->map->e));
                continue;
            }
            V at = m->c ? ssd_emit_at_const(m->e, m->pc,
                                            i * stride(m, m->c, m->row) + j * vec_bytes(m))
                        : NULL;
            b->acc[i * b->vecs + j] =
                at ? ssd_emit_load(m->e, vec_type(m), at, ALIGN_F32) : LLVMConstNull(vec_type(m));
        }
}

static void finish(Mma *m, const Block *b) {
    u8 dtype = m->e->p->vals.v[m->out].dtype;
    for (int i = 0; i < b->rows; i++)
        for (int j = 0; j < b->vecs; j++) {
            V at = ssd_emit_at_const(m->e, m->po, i * stride(m, m->out, m->row) + j * vec_bytes(m));
            ssd_emit_store(m->e, ssd_emit_round(m->e, b->acc[i * b->vecs + j], dtype), at,
                           ALIGN_F32);
        }
}

// One step of k, at constant distances from pa and pb.
static void rank_one(Mma *m, Block *b, V pa, V pb, i64 da, i64 db) {
    Emit *e = m->e;
    V row[MAX_VECS];
    for (int j = 0; j < b->vecs; j++)
        row[j] = ssd_emit_load(e, vec_type(m), ssd_emit_at_const(e, pb, db + j * vec_bytes(m)),
                               ALIGN_F32);
    for (int i = 0; i < b->rows; i++) {
        V at = ssd_emit_at_const(e, pa, da + i * stride(m, m->a, m->row));
        V x = ssd_emit_splat(e, ssd_emit_load(e, e->f32, at, ALIGN_F32), e->lanes);
        for (int j = 0; j < b->vecs; j++) {
            V *acc = &b->acc[i * b->vecs + j];
            *acc = ssd_emit_fma(e, x, row[j], *acc);
        }
    }
}

// The k loop over [from, to), both multiples of `unroll` (constants or not; from < to must hold).
static void k_loop(Mma *m, Block *b, V pa, V pb, V from, V to, int unroll) {
    Emit *e = m->e;
    u8 x = m->k[m->nk - 1];
    i64 sa = stride(m, m->a, x), sb = stride(m, m->b, x), lo, hi;
    if (ssd_emit_is_int(from, &lo) && ssd_emit_is_int(to, &hi) && hi - lo <= unroll) {
        for (i64 k = lo; k < hi; k++) rank_one(m, b, pa, pb, k * sa, k * sb);
        return;
    }
    V end = ssd_emit_at(e, pb, ssd_emit_mul(e, to, ssd_emit_i64(e, sb)));
    pa = ssd_emit_at(e, pa, ssd_emit_mul(e, from, ssd_emit_i64(e, sa)));
    pb = ssd_emit_at(e, pb, ssd_emit_mul(e, from, ssd_emit_i64(e, sb)));
    LLVMBasicBlockRef pre = LLVMGetInsertBlock(e->b), head = ssd_emit_block(e, "k");
    LLVMBuildBr(e->b, head);
    LLVMPositionBuilderAtEnd(e->b, head);
    V a = ssd_emit_phi(e, pa, pre), p = ssd_emit_phi(e, pb, pre), phi[MAX_ROWS * MAX_VECS];
    int n = b->rows * b->vecs;
    for (int i = 0; i < n; i++) phi[i] = b->acc[i] = ssd_emit_phi(e, b->acc[i], pre);
    for (int k = 0; k < unroll; k++) rank_one(m, b, a, p, k * sa, k * sb);
    V next_a = ssd_emit_at_const(e, a, unroll * sa), next_b = ssd_emit_at_const(e, p, unroll * sb);
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(e->b), exit = ssd_emit_block(e, "k_done");
    LLVMBuildCondBr(e->b, LLVMBuildICmp(e->b, LLVMIntNE, next_b, end, ""), head, exit);
    ssd_emit_phi_add(a, next_a, latch);
    ssd_emit_phi_add(p, next_b, latch);
    for (int i = 0; i < n; i++) ssd_emit_phi_add(phi[i], b->acc[i], latch);
    LLVMPositionBuilderAtEnd(e->b, exit);
}

// Bounds of the innermost k for this row block; whole steps of `unroll`, so that no remainder
// depends on them.
static void k_bounds(Mma *m, const Block *b, int unroll, V *from, V *to) {
    Emit *e = m->e;
    u8 x = m->k[m->nk - 1];
    i64 size = ssd_emit_size(e, x), whole = size / unroll * unroll;
    *from = ssd_emit_i64(e, 0);
    *to = ssd_emit_i64(e, whole);
    if (m->a != m->op->a || !m->op->tri_row || whole <= unroll) return;
    V mask = ssd_emit_i64(e, -(i64)unroll);
    if (m->op->tri_row == m->row && m->op->tri_col == x) { // zero beyond the block's last row
        V end = ssd_emit_add(e, m->row_index, ssd_emit_i64(e, b->rows + unroll - 1));
        end = LLVMBuildAnd(e->b, end, mask, "");
        *to = ssd_emit_fn(e, FN_MIN, end, *to, NULL);
    } else if (m->op->tri_row == x &&
               m->op->tri_col == m->row) { // zero before the block's first row
        V first = LLVMBuildAnd(e->b, m->row_index, mask, "");
        *from = ssd_emit_fn(e, FN_MIN, first, ssd_emit_i64(e, whole - unroll), NULL);
    }
}

static void contract(Mma *m, Block *b, int depth, V pa, V pb) {
    Emit *e = m->e;
    u8 x = m->k[depth];
    i64 size = ssd_emit_size(e, x);
    if (depth == m->nk - 1) {
        int unroll = (int)MIN(size, K_UNROLL);
        V from, to;
        k_bounds(m, b, unroll, &from, &to);
        k_loop(m, b, pa, pb, from, to, unroll);
        for (i64 k = size / unroll * unroll; k < size; k++)
            rank_one(m, b, pa, pb, k * stride(m, m->a, x), k * stride(m, m->b, x));
        return;
    }
    LLVMBasicBlockRef pre = LLVMGetInsertBlock(e->b), head = ssd_emit_block(e, "k_outer");
    LLVMBuildBr(e->b, head);
    LLVMPositionBuilderAtEnd(e->b, head);
    V iv = ssd_emit_phi(e, ssd_emit_i64(e, 0), pre), phi[MAX_ROWS * MAX_VECS];
    int n = b->rows * b->vecs;
    for (int i = 0; i < n; i++) phi[i] = b->acc[i] = ssd_emit_phi(e, b->acc[i], pre);
    V a = ssd_emit_at(e, pa, ssd_emit_mul(e, iv, ssd_emit_i64(e, stride(m, m->a, x))));
    V p = ssd_emit_at(e, pb, ssd_emit_mul(e, iv, ssd_emit_i64(e, stride(m, m->b, x))));
    contract(m, b, depth + 1, a, p);
    V next = LLVMBuildAdd(e->b, iv, ssd_emit_i64(e, 1), "");
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(e->b), exit = ssd_emit_block(e, "k_done");
    LLVMBuildCondBr(e->b, LLVMBuildICmp(e->b, LLVMIntSLT, next, ssd_emit_i64(e, size), ""), head,
                    exit);
    ssd_emit_phi_add(iv, next, latch);
    for (int i = 0; i < n; i++) ssd_emit_phi_add(phi[i], b->acc[i], latch);
    LLVMPositionBuilderAtEnd(e->b, exit);
}

static void block(Mma *m, int rows, int vecs) {
    Block b = {.rows = rows, .vecs = vecs};
    start(m, &b);
    contract(m, &b, 0, m->pa, m->pb);
    finish(m, &b);
}

// --- Blocks over rows and lanes -----------------------------------------------------------------
static void advance(Mma *m, u8 axis, V index) {
    Emit *e = m->e;
    m->pa = ssd_emit_at(e, m->pa, ssd_emit_mul(e, index, ssd_emit_i64(e, stride(m, m->a, axis))));
    m->pb = ssd_emit_at(e, m->pb, ssd_emit_mul(e, index, ssd_emit_i64(e, stride(m, m->b, axis))));
    m->po = ssd_emit_at(e, m->po, ssd_emit_mul(e, index, ssd_emit_i64(e, stride(m, m->out, axis))));
    if (m->c)
        m->pc =
            ssd_emit_at(e, m->pc, ssd_emit_mul(e, index, ssd_emit_i64(e, stride(m, m->c, axis))));
}

// --- Prefetching beside it ----------------------------------------------------------------------
static bool open_stream(Emit *e, const TOp *o, Stream *out) {
    NestRun r;
    Access a;
    ssd_nest_begin(&r, e);
    r.plan.n = ssd_nest_axes(e->p, o, r.plan.ax);
    ssd_access_init(&r, &a, o);
    u8 along = ssd_nest_contiguous(e->p, o);
    i64 element = (i64)ssd_dtype_size((ssd_dtype)a.dtype);
    *out = (Stream){.base = a.base,
                    .step = ssd_emit_i64(e, 0),
                    .rows = 1,
                    .lines = 1,
                    .write = e->p->tensors.v[o->tensor].role == T_OUT};
    for (int i = 0; i < r.plan.n; i++) {
        i64 size = ssd_emit_size(e, r.plan.ax[i]);
        if (r.plan.ax[i] == along) {
            out->lines = (int)((size * element + 63) / 64);
        } else if (out->rows == 1) {
            out->rows = size;
            out->step = a.step[i];
        } else {
            return false;
        }
    }
    return !a.general && out->lines <= 64;
}

static void fetch(Mma *m, i64 blocks, i64 rows) {
    Emit *e = m->e;
    V k = LLVMBuildUDiv(e->b, m->row_index, ssd_emit_i64(e, rows), "");
    k = ssd_emit_add(e, k, m->turn);
    for (int i = 0; i < m->nstreams; i++) {
        const Stream *s = &m->streams[i];
        i64 each = (s->rows + blocks - 1) / blocks;
        V first = ssd_emit_mul(e, k, ssd_emit_i64(e, each));
        V at = ssd_emit_at(e, s->base, ssd_emit_mul(e, first, s->step));
        for (i64 r = 0; r < each; r++) {
            for (int l = 0; l < s->lines; l++)
                ssd_emit_prefetch(e, ssd_emit_at_const(e, at, 64 * l), s->write);
            at = ssd_emit_at(e, at, s->step);
        }
    }
}

// Rows are cut evenly into blocks of at most what registers hold beside `vecs` vectors of b.
static void row_blocks(Mma *m, int vecs) {
    Emit *e = m->e;
    int regs = e->m->mma_rows * e->m->mma_vecs + e->m->mma_vecs - vecs;
    int most = MAX(1, MIN(MAX_ROWS, regs / vecs));
    i64 size = ssd_emit_size(e, m->row), blocks = (size + most - 1) / most,
        rows = (size + blocks - 1) / blocks;
    i64 whole = size / rows * rows;
    Mma at = *m;
    Count loop;
    m->row_index = ssd_emit_open(e, &loop, whole, rows);
    if (m->nstreams) fetch(m, whole / rows, rows);
    advance(m, m->row, m->row_index);
    block(m, (int)rows, vecs);
    ssd_emit_close(e, &loop);
    *m = at;
    if (whole == size) return;
    m->row_index = ssd_emit_i64(e, whole);
    advance(m, m->row, m->row_index);
    block(m, (int)(size - whole), vecs);
    *m = at;
}

static void lane_blocks(Mma *m) {
    Emit *e = m->e;
    i64 vecs = (ssd_emit_size(e, m->lane) + e->lanes - 1) / e->lanes;
    i64 most = MIN(e->m->mma_vecs, MAX_VECS), blocks = (vecs + most - 1) / most,
        each = (vecs + blocks - 1) / blocks;
    i64 whole = vecs / each * each;
    Mma at = *m;
    Count loop;
    V index = m->lane_index = ssd_emit_open(e, &loop, whole * e->lanes, each * e->lanes);
    advance(m, m->lane, index);
    row_blocks(m, (int)each);
    ssd_emit_close(e, &loop);
    *m = at;
    if (whole == vecs) return;
    m->lane_index = ssd_emit_i64(e, whole * e->lanes);
    advance(m, m->lane, m->lane_index);
    row_blocks(m, (int)(vecs - whole));
    *m = at;
}

static void outer(Mma *m, int depth) {
    if (depth == m->nouter) {
        lane_blocks(m);
        return;
    }
    Mma at = *m;
    Count loop;
    V index = ssd_emit_open(m->e, &loop, ssd_emit_size(m->e, m->outer[depth]), 1);
    if (m->map) {
        ssd_nest_set(m->run, 2 * depth + 1, index);
        ssd_nest_set(m->run, 2 * depth + 2, ssd_emit_i64(m->e, 0));
    }
    advance(m, m->outer[depth], index);
    outer(m, depth + 1);
    ssd_emit_close(m->e, &loop);
    *m = at;
}

static void start_map(Mma *m, const TOp *map, NestRun *run) {
    Emit *e = m->e;
    m->map = map;
    m->run = run;
    ssd_nest_begin(run, e);
    for (int i = 0; i < m->nouter; i++) run->plan.ax[run->plan.n++] = m->outer[i];
    run->plan.ax[run->plan.n++] = m->row;
    run->plan.lane = run->plan.n;
    run->plan.ax[run->plan.n++] = m->lane;
    run->lanes = e->lanes;
    run->live[run->plan.lane] = e->lanes;
}

void ssd_emit_mma(Emit *e, const TOp *first, const TOp *o) {
    Mma m = {.e = e, .op = o};
    NestRun run;
    classify(&m);
    if (first != o) {
        start_map(&m, first, &run);
        m.c = 0;
    }
    m.pa = e->val[m.a];
    m.pb = e->val[m.b];
    m.po = e->val[m.out];
    m.pc = m.c ? e->val[m.c] : NULL;
    Stream streams[MAX_PREFETCH];
    m.streams = streams;
    m.turn = ssd_emit_i64(e, 0);
    for (int i = 0; i < e->nprefetch; i++)
        m.nstreams += open_stream(e, e->prefetch[i], &streams[m.nstreams]);
    e->nprefetch = 0;
    outer(&m, 0);
}
