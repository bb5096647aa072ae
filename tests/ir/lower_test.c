// SPDX-License-Identifier: Apache-2.0
// Lowering, apart from any back end: every graph of tests/ir/graphs in every form and many chunk
// lengths, the T0 program run by the tile interpreter against the graph's own meaning, both in
// double. Each runs twice: as it is, and with the blocks of every grid in reverse order and final
// states written where the initial ones lie. Then the same graphs with tiles of 16 bits on machines
// with tensor cores, through the passes that make roles and rings: their programs run in the race
// detector. Steps are placed for a GPU instead, whose threads hold the tiles.
#include "../../ir/nest.h"
#include "../../ir/pass.h"
#include "../../ir/timed.h"

#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int passed, failed, refused, timed, cooked, held;
static u64 seed = 1;
static double draw(void) { // uniform in (0.05, 1.05)
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(seed >> 40) / 16777216.0 + 0.05;
}

static char *slurp(Arena *a, const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "%s: cannot open\n", path);
        exit(2);
    }
    char *s = ssd_arena_alloc(a, 1 << 16);
    *n = fread(s, 1, (1 << 16) - 1, f);
    fclose(f);
    return s;
}

typedef struct Size {
    i64 b, t, s;
} Size;

static i64 size_of(const Graph *g, AxisId x, Size z) {
    const Axis *a = &g->axes.v[x];
    if (a->kind == AX_BATCH) return g->packed ? 1 : z.b;
    if (a->kind == AX_TIME) return z.t;
    return a->kind == AX_SEQ ? z.s : a->size;
}

static Array array(Arena *a, const Graph *g, const AxisId *ax, int n, Size z) {
    Array r = {0};
    for (int i = 0; i < n; i++)
        if (!(g->step && g->axes.v[ax[i]].kind == AX_TIME)) r.dims[r.rank++] = size_of(g, ax[i], z);
    r.v = NEWN(a, double, ssd_array_count(&r) + 1);
    for (i64 i = 0; i < ssd_array_count(&r); i++) r.v[i] = draw();
    return r;
}

static double worst(const Array *x, const Array *y) {
    double err = 0, top = 1e-30;
    for (i64 i = 0; i < ssd_array_count(y); i++) {
        if (!(fabs(x->v[i] - y->v[i]) <= err)) err = fabs(x->v[i] - y->v[i]);
        if (isnan(x->v[i]) || isnan(y->v[i])) return INFINITY;
        top = fmax(top, fabs(y->v[i]));
    }
    return err / top;
}

// Reverses the order of a grid: its variable becomes size - 1 - that of the new one. Expressions
// are shared, so that one place says what the variable is.
static void reverse_grids(Prog *p) {
    for (u32 k = 0; k < p->kernels.n; k++)
        for (int i = 0; i < p->kernels.v[k].ngrid; i++) {
            TGrid *g = &p->kernels.v[k].grid[i];
            Ex old = ssd_ex_val(p, g->var), one = ssd_ex_int(p, 1);
            Ex last = ssd_ex_fn(p, FN_SUB, g->size, one, 0);
            g->var = ssd_prog_val(p, "back", SSD_IDX, NULL, 0);
            Ex back = ssd_ex_fn(p, FN_SUB, last, ssd_ex_val(p, g->var), 0);
            p->exs.v[old] = p->exs.v[back];
        }
}

// States in place: an output lies where the input is that it may share memory with.
static void share_states(const Prog *p, Arena *a, TileRun *r) {
    for (u32 i = 1; i < p->tensors.n; i++) {
        if (!p->tensors.v[i].alias) continue;
        Array *in = &r->tensor[ssd_prog_find_tensor(p, p->tensors.v[i].alias)];
        i64 n = ssd_array_count(in);
        double *both = NEWN(a, double, n + 1);
        memcpy(both, in->v, (size_t)n * sizeof *both);
        in->v = r->tensor[i].v = both;
    }
}

typedef struct Want {
    const NamedArray *out;
    u32 n;
} Want;

static double error(const Prog *p, const TileRun *r, Want want, const char **bad) {
    double err = 0;
    for (u32 i = 1; i < p->tensors.n; i++)
        for (u32 k = 0; k < want.n; k++)
            if (p->tensors.v[i].role == T_OUT && !strcmp(want.out[k].name, p->tensors.v[i].name)) {
                double e = worst(&r->tensor[i], &want.out[k].a);
                if (e > err) err = e, *bad = want.out[k].name;
            }
    return err;
}

// Many blocks at once, for schedules that leave the number of segments to the machine.
static const Machine many = {.target = "test", .blocks = 40};

// Machines with tensor cores: products under way while others run, or not.
static const Machine hopper = {
    .target = "test", .blocks = 132, .gpu = true, .wgmma = true, .l1 = 231424};
static const Machine ampere = {.target = "test",
                               .blocks = 108,
                               .gpu = true,
                               .vector_bits = 128,
                               .f32_lanes = 32,
                               .l1 = 165888};

// Tensors of features become bf16: what tensor cores take. (Numbers stay in double.)
static void narrow(Prog *p) {
    for (u32 i = 1; i < p->tensors.n; i++)
        if (p->tensors.v[i].role != T_WS && !p->tensors.v[i].alias && p->tensors.v[i].rank > 2)
            p->tensors.v[i].dtype = SSD_BF16;
}

static int by_roles(const Prog *p) {
    int n = 0;
    for (u32 k = 0; k < p->kernels.n; k++) n += ssd_timed_kernel(p, &p->kernels.v[k]);
    return n;
}

// Has it a role that makes operands of products?
static bool cooks(const Prog *p) {
    for (u32 k = 0; k < p->kernels.n; k++)
        for (const TOp *o = p->kernels.v[k].body.first; o; o = o->next)
            if (o->op == TOP_ROLE && !strcmp(p->vals.v[o->out].name, "cook")) return true;
    return false;
}

static int by_holding(const Prog *p) {
    int n = 0;
    for (u32 k = 0; k < p->kernels.n; k++)
        for (TOp *o = p->kernels.v[k].body.first; o; o = o->next)
            n += ssd_nest_op(p, o) && ssd_nest_held(p, o, ssd_nest_last(p, o));
    return n;
}

// One graph, schedule and size. The bound: sums of up to a few hundred products in double.
static void run(const char *file, const char *text, size_t n, const char *schedule, Size z,
                const Machine *gpu) {
    Arena a = {0};
    Text why = {0};
    Diag d = {.arena = &a, .file = file, .source = text, .source_len = n};
    Graph *g = ssd_graph_parse(&a, text, n, file, &d);
    if (!g) {
        ssd_diag_print(&d, &why);
        printf("%s", why.s);
        failed++;
        goto done;
    }
    int n_in = (int)g->ins.n;
    NamedArray *in = NEWN(&a, NamedArray, n_in + 1), *out = NEWN(&a, NamedArray, g->outs.n);
    for (int i = 0; i < n_in; i++) {
        const Node *node = ssd_graph_node(g, g->ins.v[i]);
        in[i] = (NamedArray){g->names.v[node->name], array(&a, g, node->ax, node->naxes, z)};
    }
    if (g->packed) {
        Array cu = {.rank = 1, .dims = {z.s + 1}, .v = NEWN(&a, double, z.s + 1)};
        for (i64 i = 1; i <= z.s; i++)
            cu.v[i] = i == z.s ? (double)z.t : floor((double)(z.t * (i / 2)) / (double)z.s);
        in[n_in++] = (NamedArray){"cu_seqlens", cu};
    }
    InterpOptions opt = {.meaning = MEAN_RECURRENCE, .b = z.b, .t = z.t};
    if (!ssd_graph_interp(g, &a, in, n_in, &opt, out, &why)) {
        printf("%s: %s\n", file, why.s);
        failed++;
        goto done;
    }
    Unit u = {.arena = &a, .graph = g, .schedule = ssd_schedule_auto, .verify = true};
    if (strstr(schedule, "split=auto")) u.machine = &many;
    if (!ssd_schedule_parse(schedule, &u.schedule, &why)) SSD_BUG("%s", why.s);
    if (gpu) u.machine = gpu;
    bool placed = gpu && g->step, roles = gpu && !g->step;
    bool taken = ssd_pass_run(&u, NULL, placed ? "layout" : roles ? "scale" : "hoist", NULL, NULL);
    if (taken && roles) {
        narrow(u.prog);
        taken = ssd_pass_run(&u, "pad", "order", NULL, NULL);
    }
    if (!taken) {
        refused++;
        ssd_text_free(&u.refusal);
        goto done;
    }
    Prog *p = u.prog;
    if (roles && !by_roles(p)) goto done; // nothing new
    timed += roles;
    cooked += roles && cooks(p);
    held += placed && by_holding(p);
    TileRun r = {.tensor = NEWN(&a, Array, p->tensors.n)};
    for (u32 i = 0; i < p->syms.n; i++) {
        char c = p->syms.v[i][0];
        r.sym[i] = c == 'b' ? z.b : c == 't' ? z.t : z.s;
    }
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *t = &p->tensors.v[i];
        for (int k = 0; k < n_in; k++)
            if (t->role == T_IN && !strcmp(in[k].name, t->name)) r.tensor[i] = in[k].a;
        for (u32 k = 0; k < g->outs.n; k++)
            if (t->role == T_OUT && !strcmp(out[k].name, t->name)) {
                r.tensor[i] = out[k].a;
                i64 c = ssd_array_count(&out[k].a);
                r.tensor[i].v = NEWN(&a, double, c + 1);
                for (i64 e = 0; e < c; e++) r.tensor[i].v[e] = NAN;
            }
    }
    bool ok = ssd_tile_interp(p, &a, &r, &why);
    const char *bad = "";
    Want want = {out, g->outs.n};
    double err = ok ? error(p, &r, want, &bad) : 0;
    bool twice = ok && err < 1e-11;
    if (twice) {
        reverse_grids(p);
        share_states(p, &a, &r);
        ok = ssd_tile_interp(p, &a, &r, &why);
        err = ok ? error(p, &r, want, &bad) : 0;
    }
    if (ok && err < 1e-11) {
        passed++;
    } else {
        failed++;
        printf("%s %s b=%d t=%d%s: %s %s %g\n", file, schedule, (int)z.b, (int)z.t,
               twice ? ", backwards and in place" : "", ok ? "output" : why.s, bad, err);
        if (getenv("LOWER_DUMP")) {
            Text t = {0};
            ssd_tile_print(p, &t);
            puts(t.s);
        }
    }
done:
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

int main(int argc, char **argv) { // files, or every graph beside this test
    static const char *const schedules[] = {"",
                                            "form=recurrent",
                                            "form=recurrent block=2",
                                            "form=chunked q=1",
                                            "form=chunked q=8 hoist=0",
                                            "form=chunked q=17",
                                            "form=chunked q=64",
                                            "form=chunked q=8 split=t2",
                                            "form=chunked q=4 split=t3 hoist=0",
                                            "form=chunked q=3 split=t5",
                                            "form=chunked q=2 split=auto",
                                            "form=quadratic q=8",
                                            "form=quadratic q=64"};
    static const Size sizes[] = {{2, 0, 3},  {1, 1, 1},  {2, 7, 3},
                                 {1, 16, 2}, {2, 17, 4}, {1, 53, 5}};
    static const char *const steps[] = {"", "block=1", "block=2", "block=4"};
    static const char *const by_role[] = {
        "form=chunked q=64 split=t1", "form=chunked q=64 split=t3",
        "form=chunked q=64 split=t3 roles=2", "form=chunked q=64 split=t2 roles=2 stages=1"};
    static const Size lengths[] = {{2, 0, 3}, {1, 1, 1}, {2, 65, 3}, {1, 200, 2}};
    glob_t all = {0};
    if (argc < 2 && glob(SOURCE_DIR "/tests/ir/graphs/*.ssd", 0, NULL, &all)) return 2;
    char **files = argc < 2 ? all.gl_pathv : argv + 1;
    for (; *files; files++) {
        Arena a = {0};
        size_t n;
        char *text = slurp(&a, *files, &n);
        for (size_t s = 0; s < COUNTOF(schedules); s++)
            for (size_t z = 0; z < COUNTOF(sizes); z++)
                run(*files, text, n, schedules[s], sizes[z], NULL);
        for (size_t s = 0; s < COUNTOF(by_role); s++)
            for (size_t z = 0; z < COUNTOF(lengths); z++) {
                run(*files, text, n, by_role[s], lengths[z], &hopper);
                run(*files, text, n, by_role[s], lengths[z], &ampere);
            }
        for (size_t s = 0; strstr(text, "\nstep\n") && s < COUNTOF(steps); s++)
            run(*files, text, n, steps[s], sizes[0], &ampere);
        ssd_arena_free(&a);
    }
    globfree(&all);
    printf("%d schedules refused with a reason\n%d programs of roles, %d of them cook\n"
           "%d held in registers\n%d passed, %d failed\n",
           refused, timed, cooked, held, passed, failed);
    return failed != 0 || (argc < 2 && (!timed || !cooked || !held));
}
