// SPDX-License-Identifier: Apache-2.0
// The interpreter as a detector of storage bugs: in programs lowered to T1, every tile in turn is
// moved onto the storage of every other. Each such program must be refused, or stopped with a
// message, or still give the right result (the two are never needed at once): a wrong result would
// be a bug of `layout` that no test sees. Also: what the passes print at T1 is read back as the
// same text.
#include "../../ir/pass.h"
#include "../runtime/test.h"

#include <math.h>

static const Machine machine = {.target = "test",
                                .arch = "x86_64",
                                .vector_bits = 512,
                                .vector_regs = 32,
                                .f32_lanes = 16,
                                .fma = true,
                                .l1 = 32768,
                                .l2 = 1 << 20,
                                .mma_rows = 8,
                                .mma_vecs = 2};

typedef struct Lowered {
    Arena a;
    Prog *p;
    TileRun run;
    double **want; // by tensor: what outputs are with the layout as it was made
} Lowered;

static void lower(Lowered *l, const char *file, const char *schedule) {
    size_t n;
    char *path = ssd_arena_printf(&l->a, "%s/tests/ir/graphs/%s.ssd", SOURCE_DIR, file);
    char *text = test_read_file(path, &n);
    Diag d = {.arena = &l->a, .file = path, .source = text, .source_len = n};
    Graph *g = text ? ssd_graph_parse(&l->a, text, n, path, &d) : NULL;
    Text why = {0};
    Unit u = {.arena = &l->a,
              .graph = g,
              .schedule = ssd_schedule_auto,
              .verify = true,
              .machine = &machine};
    CHECK(g && ssd_schedule_parse(schedule, &u.schedule, &why) &&
          ssd_pass_run(&u, NULL, NULL, NULL, NULL));
    l->p = u.prog;
    free(text);
    ssd_text_free(&why);
}

static void tensors(Lowered *l) {
    Prog *p = l->p;
    u64 state = 3;
    l->run.tensor = NEWN(&l->a, Array, p->tensors.n);
    for (u32 i = 0; i < p->syms.n; i++)
        l->run.sym[i] = *p->syms.v[i] == 't' ? 19 : *p->syms.v[i] == 's' ? 2 : 1;
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *t = &p->tensors.v[i];
        Array *x = &l->run.tensor[i];
        if (t->role == T_WS) continue;
        x->rank = t->rank;
        for (int k = 0; k < t->rank; k++) x->dims[k] = ssd_ex_eval_sym(p, t->dim[k], l->run.sym);
        x->v = NEWN(&l->a, double, ssd_array_count(x));
        for (i64 k = 0; k < ssd_array_count(x); k++)
            x->v[k] = t->dtype == SSD_I32 ? (double)(k == 0   ? 0
                                                     : k == 1 ? 7
                                                              : 19)
                                          : test_random(&state) / 0x1p31 - 0.5;
    }
}

static bool run(Lowered *l, Text *why) {
    Arena a = {0};
    for (u32 i = 1; i < l->p->tensors.n; i++)
        for (i64 k = 0; l->p->tensors.v[i].role == T_OUT && k < ssd_array_count(&l->run.tensor[i]);
             k++)
            l->run.tensor[i].v[k] = NAN;
    bool ok = ssd_tile_interp(l->p, &a, &l->run, why);
    ssd_arena_free(&a);
    return ok;
}

static bool right(const Lowered *l) {
    for (u32 i = 1; i < l->p->tensors.n; i++)
        if (l->p->tensors.v[i].role == T_OUT &&
            memcmp(l->run.tensor[i].v, l->want[i],
                   (size_t)ssd_array_count(&l->run.tensor[i]) * sizeof(double)))
            return false;
    return true;
}

static void round_trip(Lowered *l) {
    Text once = {0}, twice = {0};
    ssd_tile_print(l->p, &once);
    Diag d = {.arena = &l->a, .file = "p", .source = once.s, .source_len = once.n};
    Prog *q = ssd_tile_parse(&l->a, once.s, once.n, "p", &d);
    if (q)
        ssd_tile_print(q, &twice);
    else
        ssd_diag_print(&d, &twice);
    CHECK_SAME(twice.s, once.s);
    ssd_text_free(&once);
    ssd_text_free(&twice);
}

static void test(const char *file, const char *schedule) {
    Lowered l = {0};
    Text why = {0};
    lower(&l, file, schedule);
    round_trip(&l);
    tensors(&l);
    Prog *p = l.p;
    if (!CHECK(run(&l, &why))) printf("%s %s: %s\n", file, schedule, why.s);
    l.want = NEWN(&l.a, double *, p->tensors.n);
    for (u32 i = 1; i < p->tensors.n; i++) {
        const Array *x = &l.run.tensor[i];
        if (p->tensors.v[i].role != T_OUT) continue;
        l.want[i] = NEWN(&l.a, double, ssd_array_count(x));
        memcpy(l.want[i], x->v, (size_t)ssd_array_count(x) * sizeof(double));
    }
    int stopped = 0, same = 0;
    for (u32 v = 1; v < p->vals.n; v++)
        for (u32 w = 1; w < p->vals.n; w++) {
            Lay keep = p->vals.v[v].lay, *to = &p->vals.v[w].lay;
            if (!keep.buf || !to->buf || (keep.buf == to->buf && keep.offset == to->offset))
                continue;
            p->vals.v[v].lay.buf = to->buf;
            p->vals.v[v].lay.offset = to->offset;
            why.n = 0;
            if (!run(&l, &why))
                stopped++;
            else if (right(&l))
                same++;
            else if (!CHECK(false))
                printf("%s %s: %s on %s goes unseen\n", file, schedule, ssd_tile_val_name(p, v),
                       ssd_tile_val_name(p, w));
            p->vals.v[v].lay = keep;
        }
    printf("%s %s: %d moves stopped, %d harmless\n", file, schedule, stopped, same);
    CHECK(stopped + same == 0 || stopped > 0);
    ssd_text_free(&why);
    ssd_arena_free(&l.a);
}

int main(void) {
    static const char *const files[] = {"key_decay", "packed", "head_norm"};
    static const char *const schedules[] = {"form=chunked q=8", "form=recurrent block=2",
                                            "form=quadratic q=8"};
    for (size_t f = 0; f < COUNTOF(files); f++)
        for (size_t s = 0; s < COUNTOF(schedules); s++) test(files[f], schedules[s]);
    test("scalar_decay", "form=chunked q=8 split=t2");
    test("key_decay", "form=chunked q=8 split=t2");
    return test_end();
}
