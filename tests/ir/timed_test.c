// SPDX-License-Identifier: Apache-2.0
// Kernels of roles (T2), on tests/ir/programs/11_timed_forward.ssd: its text, its sizes, what the
// verifier refuses, its result under many orders of events, and the interpreter as a race detector:
// every way to leave out a synchronisation must be refused by the verifier and, run all the same,
// be reported.
#include "../../ir/timed.h"
#include "../runtime/test.h"

#include <math.h>

// Sums of a few hundred products in another order.
static const double BOUND = 1e-12;

enum { H = 4, P = 64 };

// --- Texts --------------------------------------------------------------------------------------
typedef struct Swap {
    const char *from, *to;
} Swap;

// Replaces every occurrence; one that is not there is a fault of the test.
static char *replace(Arena *a, const char *s, const char *from, const char *to) {
    Text out = {0};
    const char *hit = strstr(s, from);
    if (!CHECK(hit)) printf("no `%s` to replace\n", from);
    for (; hit; s = hit + strlen(from), hit = strstr(s, from)) {
        ssd_text_put(&out, s, (size_t)(hit - s));
        ssd_text_put(&out, to, strlen(to));
    }
    ssd_text_put(&out, s, strlen(s));
    char *text = ssd_arena_dup(a, out.s, out.n);
    ssd_text_free(&out);
    return text;
}

static char *sample(Arena *a) {
    size_t n;
    char *raw = test_read_file(SOURCE_DIR "/tests/ir/programs/11_timed_forward.ssd", &n);
    if (!raw) SSD_BUG("no sample");
    char *text = ssd_arena_dup(a, raw, n);
    free(raw);
    return text;
}

// The same with a state of 16 features, and a ring so short that it is reused: quick to run.
static char *small(Arena *a) {
    static const Swap swaps[] = {{"n=128", "n=16"}, {" 128]", " 16]"}, {"dts x8", "dts x2"}};
    char *text = sample(a);
    for (size_t i = 0; i < COUNTOF(swaps); i++) text = replace(a, text, swaps[i].from, swaps[i].to);
    return text;
}

static Prog *parse(Arena *a, const char *text, Text *why) {
    Diag d = {.arena = a, .file = "p", .source = text, .source_len = strlen(text)};
    Prog *p = ssd_tile_parse(a, text, strlen(text), "p", &d);
    if (!p) ssd_diag_print(&d, why);
    return p;
}

static void test_text(void) {
    Arena a = {0};
    Text once = {0}, twice = {0}, why = {0};
    char *text = sample(&a);
    Prog *p = parse(&a, text, &why);
    if (!CHECK(p)) printf("%s", why.s);
    if (!p) return;
    ssd_tile_print(p, &once);
    CHECK_SAME(once.s, strstr(text, "program ")); // it is written as it is printed
    Prog *q = parse(&a, once.s, &why);
    if (CHECK(q)) ssd_tile_print(q, &twice);
    CHECK_SAME(twice.s, once.s);
    ssd_text_free(&once), ssd_text_free(&twice), ssd_text_free(&why);
    ssd_arena_free(&a);
}

static void noise(double *v, i64 n, u64 *state) {
    for (i64 i = 0; i < n; i++) v[i] = test_random(state) / 0x1p31 - 0.5;
}

// What the sample does not hold.
static void test_more_text(void) {
    static const char text[] = "program more stratum 2\n"
                               "axes i=64 j=64 k=16 r=2\n"
                               "in x f16[64 16]\n"
                               "in z f16[2 64 16]\n"
                               "out y f32[64 64]\n"
                               "out s f32[64]\n"
                               "kernel two\n"
                               "  ring a x2\n"
                               "    slot X : f16[i k] @sw128(i k)\n"
                               "    slot Z : f16[r j k] @sw128(r j k)\n"
                               "  role load warps 1\n"
                               "    acquire a\n"
                               "    fetch X <- x[i, k] when k < 8\n"
                               "    each u in 0..2\n"
                               "      fetch Z at r=1-u <- z[1-u, j, k]\n"
                               "    publish a\n"
                               "  role wait warps 4 regs 64\n"
                               "    R = regs f32 32\n"
                               "    R2 = regs f32 32\n"
                               "    zero = fill 0[i j] : f32[i j] @acc(i j) in R\n"
                               "    await a\n"
                               "    Z0 = at Z r=0 : f16[j k] @sw128(j k)\n"
                               "    Z1 = at Z r=1 : f16[j k] @sw128(j k)\n"
                               "    S = mma async X Z0 + zero : f32[i j] @acc(i j) in R\n"
                               "    S2 = mma async X Z1 + S : f32[i j] @acc(i j) in R\n"
                               "    T = mma X Z1 : f32[i j] @acc(i j) in R2\n"
                               "    wait S2\n"
                               "    release a\n"
                               "    store y[i, j] = S2 + T\n"
                               "kernel sum\n" // of T1, in the same program
                               "  b0 = buf 16640 @mem\n"
                               "  yy = load y[i, j] : f32[i j] @mem(i j) in b0\n"
                               "  total = reduce sum j {yy} : f32[i] @mem(i) in b0+4096\n"
                               "  store s[i] = total\n";
    Arena a = {0};
    Text out = {0}, why = {0};
    Prog *p = parse(&a, text, &why);
    if (!CHECK(p)) printf("%s", why.s);
    if (!p) return;
    ssd_tile_print(p, &out);
    CHECK_SAME(out.s, text);
    u64 state = 5;
    double x[64][16], z[2][64][16], y[64][64], sum[64];
    Array tensor[] = {{0},
                      {.rank = 2, .dims = {64, 16}, .v = x[0]},
                      {.rank = 3, .dims = {2, 64, 16}, .v = z[0][0]},
                      {.rank = 2, .dims = {64, 64}, .v = y[0]},
                      {.rank = 1, .dims = {64}, .v = sum}};
    noise(tensor[1].v, 64 * 16, &state), noise(tensor[2].v, 2 * 64 * 16, &state);
    for (u64 seed = 0; seed < 8; seed++) {
        TileRun run = {.seed = seed, .tensor = tensor};
        if (!CHECK(ssd_tile_interp(p, &a, &run, &why))) printf("%s\n", why.s);
        double worst = 0;
        for (int i = 0; i < 64; i++) {
            double row = 0;
            for (int j = 0; j < 64; j++) {
                double want = 0;
                for (int k = 0; k < 8; k++) want += x[i][k] * (z[0][j][k] + 2 * z[1][j][k]);
                worst = fmax(worst, fabs(y[i][j] - want));
                row += want;
            }
            worst = fmax(worst, fabs(sum[i] - row));
        }
        CHECK(worst < BOUND);
    }
    ssd_text_free(&out), ssd_text_free(&why);
    ssd_arena_free(&a);
}

static void test_sizes(void) {
    Arena a = {0};
    Text why = {0};
    Prog *p = parse(&a, sample(&a), &why);
    const TKernel *k = &p->kernels.v[0];
    static const struct {
        i64 slot, offset;
        int producers, consumers;
        bool own, fetches, sends;
        int times;
    } want[] = {
        // C, B, x: 16 kB each; four f32[2 64]: 50 kB
        {51200, 0, 2, 2, false, true, false, 1},
        {1024, 153600, 1, 1, false, true, false, 1},
        {8192, 161792, 1, 1, false, false, false, 1},
        {8192, 194560, 1, 1, true, false, true, 1},
    };
    int i = 0;
    for (const TOp *o = k->body.first; o; o = o->next) {
        Ring r;
        if (o->op != TOP_RING) continue;
        CHECK(ssd_timed_ring(p, k, o->out, &r, &why));
        CHECK(r.op == o && r.nproducers == want[i].producers && r.nconsumers == want[i].consumers);
        CHECK(r.own == want[i].own && r.producer[0].fetches == want[i].fetches);
        CHECK(r.consumer[0].sends == want[i].sends && r.producer[0].times == want[i].times);
        CHECK(ssd_timed_slot_bytes(p, o) == want[i].slot);
        CHECK(ssd_timed_ring_offset(p, k, o) == want[i].offset);
        CHECK(ssd_timed_slot_ring(p, k, o->body.first->out) == o);
        if (i == 0) CHECK(r.producer[1].times == 2 && r.consumer[1].times == 2); // vec, heads
        if (i == 0) CHECK(ssd_timed_slot_offset(p, o, o->body.last->out) == 49152 + 3 * 512);
        i++;
    }
    CHECK(i == 4);
    // 227328 bytes of slots; 3 + 8 + 2*2 + 2*2 of them
    CHECK(ssd_timed_shared_bytes(p, k) == 227328 + 19 * 16);
    CHECK(ssd_timed_warps(k) == 16); // load, ahead, vec: 4; scores 4; heads 2*4
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

// --- Against the recurrence ---------------------------------------------------------------------
typedef struct Bench {
    Arena *a;
    Prog *p;
    TileRun run;
    i64 t, n;
    double *y, *hT; // what must come out
} Bench;

static double *tensor(const Bench *x, const char *name) {
    return x->run.tensor[ssd_prog_find_tensor(x->p, name)].v;
}

static void recurrence(Bench *x) {
    i64 n = x->n;
    const double *in = tensor(x, "x"), *dt = tensor(x, "dt"), *A = tensor(x, "A");
    const double *B = tensor(x, "B"), *C = tensor(x, "C"), *D = tensor(x, "D");
    memcpy(x->hT, tensor(x, "h0"), (size_t)(H * P * n) * sizeof *x->hT);
    for (int h = 0; h < H; h++)
        for (i64 t = 0; t < x->t; t++) {
            double step = dt[t * H + h], keep = exp(A[h] * step);
            const double *b = B + (t * 2 + h / 2) * n, *c = C + (t * 2 + h / 2) * n;
            for (int p = 0; p < P; p++) {
                double *s = x->hT + (h * P + p) * n, v = in[(t * H + h) * P + p], out = D[h] * v;
                for (i64 k = 0; k < n; k++) {
                    s[k] = s[k] * keep + step * v * b[k];
                    out += s[k] * c[k];
                }
                x->y[(t * H + h) * P + p] = out;
            }
        }
}

static void bench(Bench *x, Arena *a, Prog *p, i64 t) {
    u64 state = 11 + (u64)t;
    *x = (Bench){.a = a, .p = p, .t = t, .n = p->axes.v[ssd_prog_find_axis(p, "n")].size};
    for (u32 i = 0; i < p->syms.n; i++) x->run.sym[i] = *p->syms.v[i] == 't' ? t : 1;
    x->run.tensor = NEWN(a, Array, p->tensors.n);
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *tt = &p->tensors.v[i];
        Array *r = &x->run.tensor[i];
        r->rank = tt->rank;
        for (int k = 0; k < tt->rank; k++) r->dims[k] = ssd_ex_eval_sym(p, tt->dim[k], x->run.sym);
        r->v = NEWN(a, double, ssd_array_count(r) + 1);
        noise(r->v, ssd_array_count(r), &state);
    }
    for (int h = 0; h < H; h++) tensor(x, "A")[h] -= 1;
    for (i64 i = 0; i < t * H; i++) tensor(x, "dt")[i] = fabs(tensor(x, "dt")[i]);
    x->y = NEWN(a, double, t *H *P + 1), x->hT = NEWN(a, double, H *P * x->n);
    recurrence(x);
}

static double off_by(const double *got, const double *want, i64 n) {
    double top = 1e-300, worst = 0;
    for (i64 i = 0; i < n; i++) {
        if (!isfinite(got[i])) return INFINITY;
        top = fmax(top, fabs(want[i])), worst = fmax(worst, fabs(got[i] - want[i]));
    }
    return worst / top;
}

// Runs once; false with the reason when it is stopped or wrong.
static bool run(Bench *x, u64 seed, bool lax, Text *why) {
    Arena a = {0};
    double *y = tensor(x, "y"), *hT = tensor(x, "hT");
    for (i64 i = 0; i < x->t * H * P; i++) y[i] = NAN;
    for (i64 i = 0; i < H * P * x->n; i++) hT[i] = NAN;
    x->run.seed = seed, x->run.lax = lax;
    bool ok = ssd_tile_interp(x->p, &a, &x->run, why);
    ssd_arena_free(&a);
    if (!ok) return false;
    double ey = off_by(y, x->y, x->t * H * P), eh = off_by(hT, x->hT, H * P * x->n);
    if (ey <= BOUND && eh <= BOUND) return true;
    ssd_text_printf(why, "wrong by %g, %g", ey, eh);
    return false;
}

static void test_meaning(bool full, i64 t, int seeds) {
    Arena a = {0};
    Text why = {0};
    Bench x;
    bench(&x, &a, parse(&a, full ? sample(&a) : small(&a), &why), t);
    for (int s = 0; s < seeds; s++)
        if (!CHECK(run(&x, (u64)s * 7919 + 1, false, &why))) {
            printf("t=%d seed %d: %s\n", (int)t, s, why.s);
            break;
        }
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

// --- Synchronisation left out -------------------------------------------------------------------
static bool is_sync(const TOp *o) {
    return o->op == TOP_ACQUIRE || o->op == TOP_PUBLISH || o->op == TOP_AWAIT ||
           o->op == TOP_RELEASE || o->op == TOP_WAIT;
}

// Takes the k-th one out of the text.
static const TOp *drop(TBlock *b, int *k) {
    TOp *before = NULL;
    for (TOp *o = b->first; o; before = o, o = o->next) {
        if (is_sync(o) && !(*k)--) {
            if (before)
                before->next = o->next;
            else
                b->first = o->next;
            if (b->last == o) b->last = before;
            return o;
        }
        const TOp *in = drop(&o->body, k);
        if (in) return in;
    }
    return NULL;
}

static void test_dropped(void) {
    enum { SEEDS = 3 };
    for (int k = 0;; k++) {
        Arena a = {0};
        Text why = {0}, line = {0};
        Prog *p = parse(&a, small(&a), &why);
        Bench x;
        bench(&x, &a, p, 200); // four chunks: every ring wraps around
        int left = k, caught = 0;
        const TOp *o = drop(&p->kernels.v[0].body, &left);
        if (o) {
            ssd_tile_op_print(p, o, &line);
            if (!CHECK(!ssd_tile_verify(p, &why))) printf("without `%s`: accepted\n", line.s);
            for (u64 s = 0; s < SEEDS; s++) caught += !run(&x, s, true, &why);
            if (!CHECK(caught == SEEDS))
                printf("without `%s`: %d of %d runs show it\n", line.s, caught, SEEDS);
        }
        ssd_text_free(&why), ssd_text_free(&line);
        ssd_arena_free(&a);
        if (o) continue;
        CHECK(k == 22); // 5 acquires and publishes, 4 awaits, 5 releases, 3 waits
        break;
    }
}

// Texts that the verifier takes or refuses, and what running them says: NULL, they are right.
static const struct {
    Swap swap[2];
    const char *verify, *found;
} broken[] = {
    // Depth is speed: a ring of one slot is slow and right.
    {{{"ring in x3", "ring in x1"}}, NULL, NULL},
    {{{"ring dts x2", "ring dts x1"}}, NULL, NULL},
    {{{"ring Ms x2", "ring Ms x1"}}, NULL, NULL},
    {{{"ring out x2", "ring out x1"}}, NULL, NULL},
    {{{"wait yi pending 1", "wait yi"}}, NULL, NULL}, // waits for s1 too
    {{{"wait yi pending 1", "wait yi pending 2"}},
     "of 2 products under way, 1 are younger",
     "`yi` is read while"},
    // Two copies of vec in one row; nobody in the other.
    {{{"into cj_ at R=v", "into cj_ at R=0"}}, NULL, "race on `cj_`"},
    {{{"      into w_ at R=v = dl*exp2(to_end)\n", ""}},
     NULL,
     "`wh` is read where nothing was put"},
    {{{"fetch x_ at R=r", "fetch x_ at R=1"}}, NULL, "is read where nothing was put"},
    // A role fills a ring in both ways: different tiles, or one.
    {{{"      each r in 0..2\n        fetch x_ at R=r <- x[b, c*64+j, u*2+r, p]\n", ""},
      {"      into dl_", "      fetch x_ at R=v <- x[b, c2*64+j, u*2+v, p]\n      into dl_"}},
     NULL,
     NULL},
    {{{"into dl_", "fetch dl_ at R=v <- dt[b, c2*64+j, u*2+v]\n      into dl_"}},
     NULL,
     "race on `dl_`"},
    // Ends that do not count alike.
    {{{"for c1 in 0..cdiv(#t, 64)", "for c1 in 1..cdiv(#t, 64)"}}, NULL, "deadlock: scan: role"},
    {{{"for c1 in 0..cdiv(#t, 64)", "for c1 in 0..cdiv(#t, 64)+1"}},
     NULL,
     "slots went in at one end"},
    // Taken in another order: right as well.
    {{{"      await Ms at h\n", ""},
      {"      await in\n      sb", "      await Ms at h\n      await in\n      sb"}},
     NULL,
     NULL},
    {{{"acquire Ms at r3\n", "acquire Ms at 0\n"}, {"publish Ms at r3\n", "publish Ms at 0\n"}},
     "ring `Ms`: role `scores` must name each copy",
     "must name each copy"},
    // Slots given back early.
    {{{"      release Ms at h\n", ""}, {"      y_ = mma", "      release Ms at h\n      y_ = mma"}},
     "`M` is read while ring `Ms` is not awaited",
     "`M`"},
    {{{"      wait y_\n      release Ms at h\n", "      release Ms at h\n      wait y_\n"}},
     "the product `y_`, which reads `M`, is under way",
     "race on `M`"},
    {{{"      publish in\n  role ahead", "  role ahead"},
      {"      each r in 0..2", "      publish in\n      each r in 0..2"}},
     "`x_` is filled while ring `in` is not acquired",
     "`x"},
    {{{"      release dts\n", ""}, {"      dl = copy", "      release dts\n      dl = copy"}},
     "`dtv` is read while ring `dts` is not awaited",
     "`dt"},
    // Registers used twice.
    {{{"@frag(p j) in X1", "@frag(p j) in X0"}},
     "`xi` is read after `vw` took its registers",
     "`xt` was overwritten by `vw`"},
    {{{"@lane(j) in V2", "@lane(j) in V1"}},
     "`ld` is read after `cj` took its registers",
     "`ld` was overwritten by `cj`"},
    {{{"@lane(j) in V1", "@lane(j) in V0"}},
     "`dl` is read after `ld` took its registers",
     "`dl` was overwritten by `ld`"},
};

static void test_broken(void) {
    for (size_t i = 0; i < COUNTOF(broken); i++) {
        Arena a = {0};
        Text verdict = {0}, why = {0};
        char *text = small(&a);
        for (int k = 0; k < 2 && broken[i].swap[k].from; k++)
            text = replace(&a, text, broken[i].swap[k].from, broken[i].swap[k].to);
        Diag d = {.arena = &a, .file = "p", .source = text, .source_len = strlen(text)};
        Prog *p = ssd_tile_read(&a, text, strlen(text), "p", &d);
        if (!p) ssd_diag_print(&d, &why), printf("%s", why.s);
        if (!CHECK(p)) continue;
        bool ok = ssd_tile_verify(p, &verdict);
        if (broken[i].verify)
            CHECK_HOLDS(verdict.s, broken[i].verify);
        else if (!CHECK(ok))
            printf("%s\n", verdict.s);
        Bench x;
        bench(&x, &a, p, 200);
        for (u64 s = 0; s < 4; s++) {
            why.n = 0;
            ok = run(&x, s, true, &why);
            if (broken[i].found)
                CHECK_HOLDS(ok ? "" : why.s, broken[i].found);
            else if (!CHECK(ok))
                printf("%s\n", why.s);
        }
        ssd_text_free(&verdict), ssd_text_free(&why);
        ssd_arena_free(&a);
    }
}

static const struct {
    Swap swap[2];
    const char *want;
} refused[] = {
    {{{"stratum 2", "stratum 1"}}, "an op of stratum 2 in a program of stratum 1"},
    {{{"  role load", "  z = load A[0] : f32 @scalar\n  role load"}},
     "holds rings and roles alone"},
    // Rings.
    {{{"ring in x3", "ring in x0"}}, "ring `in`: has no slots"},
    {{{"slot M : bf16", "slot M : f32"}}, "@sw128 takes elements of 16 bits"},
    {{{"slot yt : bf16[j p] @sw128", "slot yt : bf16[j p] @acc"}},
     "a slot's tile is @sw128, @loose or @row"},
    {{{"slot dt_ : f32[j w] @row(j w)", "slot dt_ : f32[j w] @row(j)"}},
     "has other axes than its type"},
    {{{"      publish out at h\n", "      publish out at h\n      await out at h\n"}},
     "hands it to itself and awaits it"},
    {{{"publish Ms at r3\n", "publish Ms at r3\n        release Ms at r3\n"}},
     "a role hands it to itself, and another one is at its ends"},
    {{{"acquire dts\n", "acquire dts at 0\n"}}, "role `ahead` names a copy, but there is one"},
    {{{"acquire dts\n", "acquire Av\n"}}, "unknown value `Av`"},
    {{{"acquire in\n      fetch", "acquire in\n      acquire in\n      fetch"}},
     "the role already has a slot of ring `in`"},
    {{{"r, p]\n      publish in", "r, p]\n        publish in"}},
     "ring `in` was taken in another block"},
    {{{"into M tri i j", "into M tri i p"}}, "has not the axes of its triangle"},
    {{{"into yt = yj", "into yt = 0.5"}}, "nothing in registers goes into `yt`"},
    {{{"into cj_ at R=v = cj", "into cj_ = cj"}}, "`cj` cannot go into `cj_`"},
    {{{"fetch x_ at R=r <-", "fetch x_ at j=r <-"}},
     "the tile and the indices have different axes"},
    {{{"<- yt", "<- yj"}}, "the tile and the tensor have different dtypes"},
    {{{"      release in\n  role heads",
       "      release in\n      await in\n      S8 = mma async qi B_ : f32[i j] @acc(i j) in S0\n  "
       "    wait S8\n      release in\n  role heads"}},
     "`qi` shows a slot of ring `in` that was given back"},
    // Roles and their registers.
    {{{"role load warps 1", "role load warps 6"}}, "1 to 4 warps, or groups of 4"},
    {{{"role heads warps 4", "role heads warps 8"}}, "@acc is for a role of 4 warps"},
    {{{"role vec warps 1", "role vec warps 2"}}, "@lane is for a role of one warp"},
    {{{"H0 = regs f32 64", "H0 = regs f32 63"}}, "`s0` takes 64 registers, `H0` has 63"},
    {{{"H1 = regs bf16", "H1 = regs f16"}}, "`sb` and its registers `H1` have different dtypes"},
    {{{"D_*xi", "a*xi"}}, "`a` is defined in another block"},
    {{{"@acc(p i) in Y0", "@acc(p i) in S0"}}, "`S0` is defined in another block"},
    {{{"A[u*2+v] : f32 @scalar", "A[u*2+v] : f32 @lane"}}, "`Av` lies in no registers"},
    {{{"s0 = load h0[b, u*2+h, p, n] : f32[p n] @acc(p n) in H0",
       "s0 = load h0[b, u*2+h, p, n] : f32[p n] @row(p n)"}},
     "`s0` is no @acc, @frag, @lane, @cols or @scalar"},
    // Which op reads what.
    {{{"sb = copy s : bf16[p n] @frag(p n)", "sb = copy s : bf16[p n] @frag(n p)"}},
     "no copy goes from the layout of `s` to that of `sb`"},
    {{{"map {s*ed}", "map {s*ed + yi}"}}, "the axes of `sd` are"},
    {{{"map {xt*wh}", "map {xt*xh}"}}, "`xh` cannot be read beside these rows and columns"},
    {{{"mma async xt M", "mma async M xt"}}, "`xt` is no @sw128 of two axes"},
    {{{"y_ = mma async xt M + ys : f32[p i] @acc(p i) in Y0",
       "y_ = mma async xt M + ys : f32[p i] @acc(p i) in H0"}},
     "the accumulator `ys` does not lie where `y_` does"},
    {{{"carry s=s0 : f32[p n] @acc(p n) in H0", "carry s=s0 : f32[p n] @acc(p n) in H2"},
      {"Y0 = regs f32 32", "Y0 = regs f32 32\n    H2 = regs f32 64"}},
     "carry `s` does not lie where `s0` does"},
    {{{"      yield s1", "      q = reduce sum n {s1} : f32[p] @lane(p) in Y0\n      yield s1"}},
     "no op of a role"},
    {{{"each r in 0..2", "each r in 0..u+2"}}, "goes from a number to a number"},
    {{{"      yield s1", "      X = copy xt : f32[p j] @acc(p j) in Y0\n      yield s1"}},
     "no copy goes from"},
    // Products under way.
    {{{"S = mma async", "S = mma"}}, "`S` is no asynchronous product"},
    {{{"wait S\n", "wait S\n      wait S\n"}}, "`S` is not under way"},
    {{{"      wait yi pending 1\n", ""}, {"ys = map {yi*fi + D_*xi} ", "ys = map {D_*xi} "}},
     "overwrites registers of the product `yi`"},
    {{{"sd = map", "vx = map {xt*wh} : bf16[p j] @frag(p j) in H1\n      sd = map"}},
     "`vx` overwrites registers of the product `yi`"},
    {{{"      wait S\n", "      wait S\n      S9 = mma async qi B_ : f32[i j] @acc(i j) in S1\n"},
      {"S0 = regs f32 32", "S0 = regs f32 32\n    S1 = regs f32 32"}},
     "the product `S9`, which reads `C_`, is under way"},
};

// Tiles computed by column and swapped, and what does not fit there.
static const char cooked[] = "program cooked stratum 2\n"
                             "axes j=64 k=16\n"
                             "in x f16[64 16]\n"
                             "in w f32[16]\n"
                             "out y f32[64 16]\n"
                             "kernel turn\n"
                             "  ring a x1\n"
                             "    slot X : f16[j k] @sw128(j k)\n"
                             "    slot W : f32[k] @row(k)\n"
                             "  role load warps 1\n"
                             "    acquire a\n"
                             "    fetch X <- x[j, k]\n"
                             "    fetch W <- w[k]\n"
                             "    publish a\n"
                             "  role cook warps 4 regs 64\n"
                             "    C0 = regs f32 4\n"
                             "    C1 = regs f16 4\n"
                             "    C2 = regs f16 4\n"
                             "    C3 = regs f32 8\n"
                             "    C4 = regs f32 8\n"
                             "    await a\n"
                             "    h = map {0.5*W + k} : f32[k] @cols(k) in C0\n"
                             "    X1 = copy X : f16[j k] @frag(j k) in C1\n"
                             "    X2 = swap X1 k adjacent : f16[j k] @frag(j k) in C2\n"
                             "    v = map {X1*h + X2} : f32[j k] @acc(j k) in C3\n"
                             "    v2 = swap v k halves : f32[j k] @acc(j k) in C4\n"
                             "    store y[j, k] = v2 + h\n"
                             "    release a\n";

static void test_cooked(void) {
    static const struct {
        Swap swap;
        const char *want;
    } bad[] = {
        {{"@frag(j k) in C2", "@frag(j k) in C1"}, "a swap does not go in place"},
        {{"swap v k halves", "swap v j halves"}, "a swap goes along columns"},
        {{"swap X1 k adjacent : f16[j k] @frag(j k) in C2",
          "swap X k adjacent : f16[j k] @frag(j k) in C2"},
         "`X2` lies otherwise than `X`"},
        {{"C0 = regs f32 4", "C0 = regs f32 3"}, "`h` takes 4 registers, `C0` has 3"},
        {{"cook warps 4", "cook warps 1"}, "@cols is for a role of 4 warps"},
        {{"h = map {0.5*W + k}", "h = map {0.5*W + j}"}, "the axes of `h` are [k j]"},
    };
    Arena a = {0};
    Text out = {0}, why = {0};
    Prog *p = parse(&a, cooked, &why);
    if (!CHECK(p)) printf("%s", why.s);
    if (!p) return;
    ssd_tile_print(p, &out);
    CHECK_SAME(out.s, cooked);
    u64 state = 9;
    double x[64][16], w[16], y[64][16], worst = 0;
    Array tensor[] = {{0},
                      {.rank = 2, .dims = {64, 16}, .v = x[0]},
                      {.rank = 1, .dims = {16}, .v = w},
                      {.rank = 2, .dims = {64, 16}, .v = y[0]}};
    noise(x[0], 64 * 16, &state), noise(w, 16, &state);
    TileRun run = {.seed = 3, .tensor = tensor};
    if (!CHECK(ssd_tile_interp(p, &a, &run, &why))) printf("%s\n", why.s);
    for (int j = 0; j < 64; j++)
        for (int k = 0; k < 16; k++) {
            int from = k < 8 ? k + 8 : k - 8;
            double turned = from % 2 ? x[j][from - 1] : -x[j][from + 1],
                   v = x[j][from] * (0.5 * w[from] + from) + turned,
                   want = (k < 8 ? -v : v) + 0.5 * w[k] + k;
            worst = fmax(worst, fabs(y[j][k] - want));
        }
    CHECK(worst < BOUND);
    for (size_t i = 0; i < COUNTOF(bad); i++) {
        char *text = replace(&a, ssd_arena_dup(&a, cooked, strlen(cooked)), bad[i].swap.from,
                             bad[i].swap.to);
        Text found = {0};
        CHECK(!parse(&a, text, &found));
        CHECK_HOLDS(found.s ? found.s : "", bad[i].want);
        ssd_text_free(&found);
    }
    ssd_text_free(&out), ssd_text_free(&why);
    ssd_arena_free(&a);
}

// --- Loose rows ---------------------------------------------------------------------------------
// Heads of 33 numbers: a tile begins with the 16 bytes that a head begins in, and ends somewhere in
// another head.
static const char loose[] = "program loose stratum 2\n"
                            "sym t\n"
                            "axes i=16 j=64 p=64\n"
                            "in x f16[t 8 33]\n"
                            "in w f16[64 16]\n"
                            "out y f32[16 8 33]\n"
                            "out s f32[64 8 16]\n"
                            "kernel turn\n"
                            "  ring a x2\n"
                            "    slot X : f16[j p] @sw128(j p)\n"
                            "    slot W : f16[j i] @sw128(j i)\n"
                            "  role load warps 1\n"
                            "    for h in 0..8\n"
                            "      acquire a\n"
                            "      fetch X <- x[j, h, p-h*33%8] when j < 37 loose\n"
                            "      fetch W <- w[j, i]\n"
                            "      publish a\n"
                            "  role heads warps 4 regs 64\n"
                            "    C0 = regs f32 8\n"
                            "    C1 = regs f16 16\n"
                            "    for h1 in 0..8\n"
                            "      await a\n"
                            "      xt = copy X : f16[p j] @frag(p j) in C1\n"
                            "      Y = mma async xt W : f32[p i] @acc(p i) in C0\n"
                            "      wait Y\n"
                            "      release a\n"
                            "      store y[i, h1, p-h1*33%8] = Y\n";

typedef struct Loose {
    double x[40][8][33], w[64][16], y[16][8][33], s[64][8][16];
} Loose;

// The program with some words replaced; false, and why, where it does not run.
static bool run_loose(Loose *l, const Swap *swap, Text *why) {
    Arena a = {0};
    u64 state = 23;
    char *text = ssd_arena_dup(&a, loose, strlen(loose));
    for (; swap->from; swap++) text = replace(&a, text, swap->from, swap->to);
    Array tensor[] = {{0},
                      {.rank = 3, .dims = {40, 8, 33}, .v = l->x[0][0]},
                      {.rank = 2, .dims = {64, 16}, .v = l->w[0]},
                      {.rank = 3, .dims = {16, 8, 33}, .v = l->y[0][0]},
                      {.rank = 3, .dims = {64, 8, 16}, .v = l->s[0][0]}};
    for (int i = 1; i < 5; i++) noise(tensor[i].v, ssd_array_count(&tensor[i]), &state);
    TileRun run = {.seed = 3, .sym = {40}, .tensor = tensor};
    Prog *p = parse(&a, text, why);
    bool ok = p && ssd_tile_interp(p, &a, &run, why);
    ssd_arena_free(&a);
    return ok;
}

// Every y must be the sum over so many tokens.
static void expect_turned(const Loose *l, int tokens) {
    int wrong = 0;
    for (int i = 0; i < 16; i++)
        for (int h = 0; h < 8; h++)
            for (int p = 0; p < 33; p++) {
                double want = 0;
                for (int j = 0; j < tokens; j++) want += l->x[j][h][p] * l->w[j][i];
                wrong += !(fabs(l->y[i][h][p] - want) < BOUND);
            }
    CHECK(!wrong);
}

// What a tile has beside its rows is no number, wherever it gets to; rows that are not there, or
// not asked for, are zeros.
static void test_loose(void) {
    static const Swap as_it_is[] = {{0}}, no_when[] = {{" when j < 37", ""}, {0}};
    static const Swap unmoved[] = {{"p-h1*33%8", "p"}, {0}};
    static const Swap summed[] = {
        {"xt = copy X : f16[p j] @frag(p j) in C1", "W1 = rename W j->p : f16[p i] @sw128(p i)"},
        {"xt W : f32[p i] @acc(p i)", "X W1 : f32[j i] @acc(j i)"},
        {"y[i, h1, p-h1*33%8]", "s[j, h1, i]"},
        {" when j < 37 loose", " loose"},
        {0}};
    Swap tight[COUNTOF(summed)];
    memcpy(tight, summed, sizeof summed);
    tight[3].to = "";
    static Loose l;
    Text why = {0};
    CHECK(run_loose(&l, as_it_is, &why));
    expect_turned(&l, 37);
    CHECK(run_loose(&l, no_when, &why));
    expect_turned(&l, 40);
    CHECK(run_loose(&l, unmoved, &why));
    for (int h = 0; h < 8; h++) { // as many as it begins too early
        int own = h * 33 % 8;
        for (int p = 0; p < 33; p++) CHECK(isnan(l.y[5][h][p]) == (p < own));
    }
    CHECK(run_loose(&l, summed, &why));
    for (int j = 0; j < 64; j++) CHECK(isnan(l.s[j][3][7]) == (j < 40));
    CHECK(run_loose(&l, tight, &why));
    for (int j = 0; j < 64; j++) {
        double want = 0; // head 3 begins behind 3 others
        for (int p = 0; p < 33 && j < 40; p++) want += l.x[j][3][p] * l.w[p + 3][7];
        CHECK(fabs(l.s[j][3][7] - want) < BOUND);
    }
    if (why.n) printf("%s\n", why.s);
    ssd_text_free(&why);
}

static void test_loose_refused(void) {
    static const struct {
        Swap swap[2];
        const char *want;
    } bad[] = {
        {{{"p-h*33%8", "p-h*33%4"}},
         "a loose fetch of `x` starts 264 bytes into its rows, not at a multiple of 16"},
        {{{"p-h*33%8", "p"}}, "a loose fetch of `x` starts 66 bytes into its rows"},
        {{{"p-h*33%8", "p-h*33%8-7"}}, "a loose fetch of `x` starts -14 bytes into its rows"},
        {{{"x f16[t 8 33]", "x f16[t 8 32]"}}, "rows of `x` cannot be loose"}, // they are whole
        {{{"x f16[t 8 33]", "x f16[t 4 33]"}}, "rows of `x` cannot be loose"},
        {{{"x f16[t 8 33]", "x f16[40 t 33]"}}, "rows of `x` cannot be loose"},
        {{{"x f16[t 8 33]", "x f16[40 8 t]"}}, "rows of `x` cannot be loose"},
        {{{"w[j, i]", "w[j, i] loose"}}, "rows of `w` cannot be loose"},
    };
    static Loose l;
    for (size_t i = 0; i < COUNTOF(bad); i++) {
        Swap swap[2] = {bad[i].swap[0]};
        Text why = {0};
        CHECK(!run_loose(&l, swap, &why));
        CHECK_HOLDS(why.s ? why.s : "", bad[i].want);
        ssd_text_free(&why);
    }
}

// Rows as they lie in memory: what is beside them, and the columns that a head does not have, are
// no numbers either; as a first operand whose rows they are, and stored nowhere, they do no harm.
#define LIES_LOOSE                                                                                 \
    {"X : f16[j p] @sw128(j p)", "X : f16[j p] @loose(j p)"},                                      \
        {"p-h*33%8] when j < 37 loose", "p] when j < 37"}, {                                       \
        "p-h1*33%8", "p"                                                                           \
    }
static void test_loose_tile(void) {
    static const Swap as_it_is[] = {LIES_LOOSE, {0}};
    static const Swap mirrored[] = {LIES_LOOSE, {"y[i, h1, p]", "y[i, h1, 63-p]"}, {0}};
    static Loose l;
    Text why = {0};
    CHECK(run_loose(&l, as_it_is, &why));
    expect_turned(&l, 37);
    CHECK(run_loose(&l, mirrored, &why));
    for (int h = 0; h < 8; h++)
        for (int p = 0; p < 33; p++) CHECK(isnan(l.y[5][h][p]) == (63 - p >= 33));
    if (why.n) printf("%s\n", why.s);
    ssd_text_free(&why);
}

static void test_loose_tile_refused(void) {
    static const struct {
        Swap swap[8];
        const char *want;
    } bad[] = {
        {{LIES_LOOSE, {"f16[p j] @frag(p j)", "f16[j p] @frag(j p)"}},
         "no copy goes from the layout of `X`"},
        {{LIES_LOOSE,
          {"xt = copy X : f16[p j] @frag(p j) in C1", "W1 = rename W j->p : f16[p i] @sw128(p i)"},
          {"xt W : f32[p i] @acc(p i)", "X W1 : f32[j i] @acc(j i)"},
          {"y[i, h1, p]", "s[j, h1, i]"}},
         "`X` is no @frag, nor @sw128"},
        {{LIES_LOOSE,
          {"axes i", "axes R=2 i"},
          {"f16[j p] @loose(j p)", "f16[R j p] @loose(R j p)"},
          {"x[j, h, p]", "x[j, h+R, p]"},
          {"xt = copy X", "X0 = at X R=0 : f16[j p] @loose(j p)\n      xt = copy X0"}},
         "tiles of `X` are @loose: one is fetched at a time"},
        {{LIES_LOOSE, {"x f16[", "x f32["}, {"X : f16[j p] @loose", "X : f32[j p] @loose"}},
         "@loose takes elements of 16 bits"},
        {{LIES_LOOSE, {"store y[i, h1, p] = Y", "into X = xt"}}, "`X` is @loose: it is fetched"},
    };
    static Loose l;
    for (size_t i = 0; i < COUNTOF(bad); i++) {
        Text why = {0};
        CHECK(!run_loose(&l, bad[i].swap, &why));
        CHECK_HOLDS(why.s ? why.s : "", bad[i].want);
        ssd_text_free(&why);
    }
}

static void test_loose_text(void) {
    Arena a = {0};
    Text out = {0}, why = {0};
    Prog *p = parse(&a, loose, &why);
    if (!CHECK(p)) printf("%s", why.s);
    if (p) {
        ssd_tile_print(p, &out);
        CHECK_SAME(out.s, loose);
        CHECK(ssd_timed_along(p, ssd_prog_find_tensor(p, "x")) == 1);
        CHECK(ssd_timed_along(p, ssd_prog_find_tensor(p, "w")) == 0);
    }
    ssd_text_free(&out), ssd_text_free(&why);
    ssd_arena_free(&a);
}

static void test_refused(void) {
    for (size_t i = 0; i < COUNTOF(refused); i++) {
        Arena a = {0};
        Text why = {0};
        char *text = sample(&a);
        for (int k = 0; k < 2 && refused[i].swap[k].from; k++)
            text = replace(&a, text, refused[i].swap[k].from, refused[i].swap[k].to);
        CHECK(!parse(&a, text, &why));
        CHECK_HOLDS(why.s, refused[i].want);
        ssd_text_free(&why);
        ssd_arena_free(&a);
    }
}

// --- Registers ----------------------------------------------------------------------------------
static void find_regs(const TBlock *b, const TOp **out, int *n) {
    for (const TOp *o = b->first; o; o = o->next)
        if (o->op == TOP_REGS) out[(*n)++] = o;
}

static bool defines(const Prog *p, const TKernel *k, const TBlock *b, Val v) {
    for (const TOp *o = b->first; o; o = o->next) {
        if (o->out && ssd_timed_base(p, k, o->out) == v) return true;
        for (int i = 0; o->op == TOP_FOR && i < o->ncarry; i++)
            if (o->carry[i] == v) return true;
        if (defines(p, k, &o->body, v)) return true;
    }
    return false;
}

// Every tile in registers, what shows it along, in every other `regs` of its role: refused, and
// stopped when it runs all the same, or right. A wrong result would be one that nobody sees.
static void test_moved(void) {
    Arena a = {0};
    Text why = {0};
    Prog *p = parse(&a, small(&a), &why);
    const TKernel *k = &p->kernels.v[0];
    Bench x;
    bench(&x, &a, p, 130);
    int stopped = 0, harmless = 0;
    for (const TOp *role = k->body.first; role; role = role->next) {
        const TOp *regs[16];
        int n = 0;
        if (role->op == TOP_ROLE) find_regs(&role->body, regs, &n);
        for (Val v = 1; v < p->vals.n && n; v++)
            for (int r = 0; r < n; r++) {
                Val home = p->vals.v[v].lay.buf;
                if (!home || home == regs[r]->out || ssd_timed_base(p, k, v) != v ||
                    !defines(p, k, &role->body, v))
                    continue;
                for (Val w = 1; w < p->vals.n; w++)
                    if (p->vals.v[w].lay.buf == home && ssd_timed_base(p, k, w) == v)
                        p->vals.v[w].lay.buf = regs[r]->out;
                why.n = 0;
                bool good = ssd_tile_verify(p, &why);
                why.n = 0;
                bool ran = run(&x, v, true, &why);
                ran ? harmless++ : stopped++;
                CHECK(ran || strncmp(why.s, "wrong", 5));
                if (!CHECK(!good || ran))
                    printf("%s in %s: accepted, but %s\n", ssd_tile_val_name(p, v),
                           ssd_tile_val_name(p, regs[r]->out), why.s);
                for (Val w = 1; w < p->vals.n; w++)
                    if (p->vals.v[w].lay.buf == regs[r]->out && ssd_timed_base(p, k, w) == v)
                        p->vals.v[w].lay.buf = home;
            }
    }
    printf("moved: %d stopped, %d harmless\n", stopped, harmless);
    CHECK(stopped > 20 && harmless > 0);
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

// --- Any text -----------------------------------------------------------------------------------
// Lines of the sample left out, doubled, moved and damaged at random: nothing may crash, what is
// read prints as it reads, and a run that nothing stops gives the same bits in every order of
// events.
typedef struct Lines {
    const char *at[256];
    int n;
} Lines;

static Lines split(char *text) {
    Lines l = {0};
    for (char *s = strtok(text, "\n"); s && l.n < (int)COUNTOF(l.at); s = strtok(NULL, "\n"))
        l.at[l.n++] = s;
    return l;
}

static void damage(Arena *a, Lines *l, u64 *state) {
    static const char bytes[] = " @=[]{}+-*<0123acdhijnprstux_SX";
    int i = 15 + (int)(test_random(state) % (u32)(l->n - 15)); // past the declarations
    int k = 15 + (int)(test_random(state) % (u32)(l->n - 15));
    const char *line = l->at[i];
    switch (test_random(state) % 5) {
    case 0: memmove(&l->at[i], &l->at[i + 1], (size_t)(--l->n - i) * sizeof *l->at); break;
    case 1: // twice
        memmove(&l->at[k + 1], &l->at[k], (size_t)(l->n++ - k) * sizeof *l->at);
        l->at[k] = line;
        break;
    case 2: l->at[i] = l->at[k], l->at[k] = line; break;
    default: { // a byte, or a number
        char *copy = ssd_arena_dup(a, line, strlen(line)), *c = copy;
        c += test_random(state) % strlen(copy);
        while (test_random(state) % 2 && *c && !(*c >= '0' && *c <= '9')) c++;
        if (*c) *c = bytes[test_random(state) % (sizeof bytes - 1)];
        l->at[i] = copy;
    }
    }
}

static void same_in_any_order(Bench *x, int *ran) {
    i64 ny = x->t * H * P, nh = H * P * x->n;
    double *first = NEWN(x->a, double, ny + nh);
    for (u64 s = 0; s < 4; s++) {
        Text why = {0};
        run(x, s, false, &why);
        bool stopped = why.s && strncmp(why.s, "wrong", 5);
        ssd_text_free(&why);
        if (stopped) return;
        double *y = tensor(x, "y"), *hT = tensor(x, "hT");
        if (s == 0) {
            memcpy(first, y, (size_t)ny * sizeof *y),
                memcpy(first + ny, hT, (size_t)nh * sizeof *y);
            continue;
        }
        CHECK(!memcmp(first, y, (size_t)ny * sizeof *y) &&
              !memcmp(first + ny, hT, (size_t)nh * sizeof *y));
    }
    ++*ran;
}

static void test_hostile(void) {
    u64 state = 17;
    int parsed = 0, ran = 0;
    for (int i = 0; i < 1500; i++) {
        Arena a = {0};
        Text text = {0}, once = {0}, twice = {0}, why = {0};
        Lines l = split(strstr(small(&a), "program "));
        for (u32 k = 1 + test_random(&state) % 2; k; k--) damage(&a, &l, &state);
        for (int k = 0; k < l.n; k++) ssd_text_printf(&text, "%s\n", l.at[k]);
        Diag d = {.arena = &a, .file = "p", .source = text.s, .source_len = text.n};
        Prog *p = ssd_tile_read(&a, text.s, text.n, "p", &d);
        Bench x;
        if (p) {
            bool good = ssd_tile_verify(p, &why);
            bench(&x, &a, p, 65);
            parsed += good;
            if (good) {
                ssd_tile_print(p, &once);
                Prog *q = parse(&a, once.s, &why);
                if (CHECK(q)) ssd_tile_print(q, &twice);
                CHECK_SAME(twice.s, once.s);
                same_in_any_order(&x, &ran);
            } else {
                run(&x, (u64)i, true, &why);
            }
        }
        ssd_text_free(&text), ssd_text_free(&once), ssd_text_free(&twice), ssd_text_free(&why);
        ssd_arena_free(&a);
    }
    printf("hostile: %d accepted, %d of them ran\n", parsed, ran);
    CHECK(parsed >= 20 && ran >= 10);
}

int main(void) {
    test_text();
    test_more_text();
    test_cooked();
    test_loose_text();
    test_loose();
    test_loose_refused();
    test_loose_tile();
    test_loose_tile_refused();
    test_sizes();
    static const i64 lengths[] = {1, 63, 64, 65, 200};
    for (size_t i = 0; i < COUNTOF(lengths); i++) test_meaning(false, lengths[i], 20);
    test_meaning(true, 65, 2);
    test_dropped();
    test_broken();
    test_refused();
    test_moved();
    test_hostile();
    return test_end();
}
