// SPDX-License-Identifier: Apache-2.0
// What must hold of every layer: properties of DESIGN section 7, on every spec given (all of
// specs/).
//
//     properties SPEC.yaml...
//
// The oracle is the graph interpreter in double. The subsets are fixed, so that a failure repeats:
//   forms      auto, recurrent, quadratic, chunked q in {1, 8, 17, 64, 100, 257}, segments, each at
//              T in {0, 1, Q-1, Q, Q+1, 257} (Q = 64 for forms without chunks); b = 2 up to T = 65
//   layouts    every layout for all tensors at once, three mixtures, three broadcasts, at T = 37
//   reach      T = 2051, and inputs that make decays vanish or stand still at T = 150
//   the rest   auto, recurrent, quadratic and chunked q = 17 at T = 100
// Big layers run with fewer heads (see harness.c); head and state sizes stay as they are.
#include "harness.h"
#include "../../runtime/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static ssd_context *contexts[3]; // 1, 2 and 5 threads, one cache
static const int threads[3] = {1, 2, 5};

static const char *const some_schedules[] = {NULL, "form=recurrent", "form=quadratic",
                                             "form=chunked q=17"};

static const char *shown(const char *schedule) { return schedule ? schedule : "auto"; }

static Sizes sizes(const Layer *l, i64 b, i64 t) {
    return (Sizes){.b = l->packed ? 1 : b, .t = t, .s = l->packed ? 4 : 0};
}

static void set_zero(Array *a) { memset(a->v, 0, sizeof(double) * (size_t)ssd_array_count(a)); }

static void zero_states(const Layer *l, Values in) {
    for (int i = 0; i < l->n_in; i++)
        if (l->in[i].is_state) set_zero(value(in, l->in[i].name));
}

// --- Every form, chunk length and sequence length is the same function --------------------------
typedef struct Known { // one sequence length's inputs and meaning
    i64 t;
    Sizes z;
    Values in, want;
} Known;

typedef struct KnownTable {
    Arena arena;
    const Layer *l;
    Known v[32];
    int n;
} KnownTable;

static const Known *known_at(KnownTable *table, i64 t) {
    for (int i = 0; i < table->n; i++)
        if (table->v[i].t == t) return &table->v[i];
    Known *k = &table->v[table->n++];
    *k = (Known){t, sizes(table->l, t <= 65 ? 2 : 1, t)};
    k->in = draw(&table->arena, table->l, k->z, (u64)t);
    k->want = meaning(&table->arena, table->l, k->in, k->z);
    return k;
}

// f32 sums of decays over a long chunk, and angles summed over all of time, are off by their size
// times 2^-24: DESIGN section 7 allows 1e-4 there.
static double slack_of(const Layer *l, i64 q) {
    bool sums = false;
    for (u32 i = 1; i < l->graph->nodes.n; i++) sums |= l->graph->nodes.v[i].op == OP_SCAN;
    return q > 64 || sums ? 10 : 1;
}

static void test_forms(const Layer *l) {
    static const char *const schedules[] = {NULL,
                                            "form=recurrent",
                                            "form=quadratic",
                                            "form=chunked q=1",
                                            "form=chunked q=8",
                                            "form=chunked q=17",
                                            "form=chunked q=64",
                                            "form=chunked q=100",
                                            "form=chunked q=257",
                                            "form=chunked q=8 split=t3",
                                            "form=chunked q=64 split=t2"};
    KnownTable known = {.l = l};
    int legal = 0;
    for (size_t i = 0; i < COUNTOF(schedules); i++) {
        const char *q_at = schedules[i] ? strstr(schedules[i], "q=") : NULL;
        const i64 q = q_at ? atoi(q_at + 2) : 64, t[6] = {0, 1, q - 1, q, q + 1, 257};
        label("%s forward %s", l->name, shown(schedules[i]));
        ssd_kernel *k = compile(contexts[1], l, schedules[i], NULL, NULL);
        if (!k) {
            check(i > 0, "the compiler's own choice was refused: %s", ssd_last_error());
            continue;
        }
        legal++;
        for (int j = 0; j < 6; j++) {
            bool again = false;
            for (int e = 0; e < j; e++) again |= t[e] == t[j];
            if (again) continue;
            label("%s forward %s T=%ld", l->name, shown(schedules[i]), (long)t[j]);
            const Known *now = known_at(&known, t[j]);
            Arena b = {0};
            near(l, launch(&b, k, l, now->in, now->z, &(How){.own_workspace = true}), now->want,
                 slack_of(l, q));
            ssd_arena_free(&b);
        }
        ssd_kernel_destroy(k);
    }
    label("%s forward", l->name);
    check(legal >= 2, "only %d forms are legal", legal);
    ssd_arena_free(&known.arena);
}

// --- Any strides, any offset, nothing written beside --------------------------------------------
static void broadcast(const Layer *l, Values in, int d) {
    for (int i = 0; i < in.n; i++) {
        Array *x = &in.v[i].a;
        if (x->rank < 2 || ssd_array_count(x) == 0) continue;
        int axis = d % x->rank;
        i64 inner = 1;
        for (int k = axis + 1; k < x->rank; k++) inner *= x->dims[k];
        for (i64 e = 0, n = ssd_array_count(x); e < n; e++)
            x->v[e] = x->v[e - e / inner % x->dims[axis] * inner];
    }
    (void)l;
}

static void test_layouts(const Layer *l) {
    Arena a = {0};
    const Sizes z = sizes(l, 2, 37);
    const Values in = draw(&a, l, z, 5), want = meaning(&a, l, in, z);
    Values flat[3], flat_want[3];
    for (int d = 0; d < 3; d++) {
        flat[d] = copy_values(&a, in);
        broadcast(l, flat[d], d);
        flat_want[d] = meaning(&a, l, flat[d], z);
    }
    for (size_t i = 0; i < COUNTOF(some_schedules); i++) {
        ssd_kernel *k = compile(contexts[1], l, some_schedules[i], NULL, NULL);
        for (int j = 0; k && j < LAYOUTS + 3 + 3; j++) {
            How how = {.layout = (Layout)(j % LAYOUTS), .at_start = j & 1};
            how.mixed = j >= LAYOUTS && j < LAYOUTS + 3;
            how.broadcast = j >= LAYOUTS + 3 ? 1 + j - LAYOUTS - 3 : 0;
            label("%s %s layouts %s %s%s broadcast=%d", l->name, l->mode, shown(some_schedules[i]),
                  layout_names[how.layout], how.mixed ? " mixed" : "", how.broadcast);
            Arena b = {0};
            int d = how.broadcast - 1;
            near(l, launch(&b, k, l, d >= 0 ? flat[d] : in, z, &how), d >= 0 ? flat_want[d] : want,
                 1);
            ssd_arena_free(&b);
        }
        ssd_kernel_destroy(k);
    }
    ssd_arena_free(&a);
}

// --- Long sequences, and decays far beyond what exp can hold ------------------------------------
static void test_reach(const Layer *l) {
    static const char *const schedules[] = {NULL, "form=recurrent", "form=chunked q=17",
                                            "form=chunked q=64", "form=quadratic"};
    static const struct {
        const char *what;
        i64 t;
        double add;   // to every dt, or log decay before its activation
        double slack; // a rotary angle sums 150 such steps: its f32 ulp is 5e-4 by then
    } cases[] = {
        {"T=2051", 2051, 0, 10}, {"strong decay", 150, 30, 20}, {"no decay", 150, -60, 10}};
    for (size_t c = 0; c < COUNTOF(cases); c++) {
        Arena a = {0};
        const Sizes z = sizes(l, 1, cases[c].t);
        const Values in = draw(&a, l, z, 14);
        bool changed = cases[c].add == 0;
        for (int i = 0; i < l->n_in; i++) {
            if (!l->in[i].hint || strcmp(l->in[i].hint, "dt")) continue;
            Array *x = value(in, l->in[i].name);
            changed = true;
            for (i64 e = 0; e < ssd_array_count(x); e++) x->v[e] += cases[c].add;
        }
        round_values(l, in);
        const Values want = changed ? meaning(&a, l, in, z) : (Values){0};
        for (size_t i = 0; changed && i < COUNTOF(schedules); i++) {
            bool slow = cases[c].t > 1000 && schedules[i] && strstr(schedules[i], "quadratic");
            label("%s %s %s", l->name, cases[c].what, shown(schedules[i]));
            ssd_kernel *k = slow ? NULL : compile(contexts[1], l, schedules[i], NULL, NULL);
            Arena b = {0};
            if (k) near(l, launch(&b, k, l, in, z, &(How){0}), want, cases[c].slack);
            ssd_kernel_destroy(k);
            ssd_arena_free(&b);
        }
        ssd_arena_free(&a);
    }
}

// --- Same bits from run to run and for any number of threads ------------------------------------
static void test_repeats(const Layer *l) {
    Arena a = {0};
    const Sizes z = sizes(l, 1, 100);
    const Values in = draw(&a, l, z, 6);
    for (size_t i = 0; i < COUNTOF(some_schedules); i++) {
        Values first = {0};
        for (int c = 0; c < 3; c++) {
            label("%s %s repeats %s %d threads", l->name, l->mode, shown(some_schedules[i]),
                  threads[c]);
            ssd_kernel *k = compile(contexts[c], l, some_schedules[i], NULL, NULL);
            if (!k) break;
            check(ssd_context_threads(contexts[c]) == threads[c], "the context has %d threads",
                  ssd_context_threads(contexts[c]));
            for (int r = 0; r < 2; r++) {
                Values got = launch(&a, k, l, in, z, &(How){.layout = DENSE});
                if (first.n)
                    same_bits(got, first);
                else
                    first = got;
            }
            ssd_kernel_destroy(k);
        }
    }
    ssd_arena_free(&a);
}

// --- Future tokens do not move the past, to the bit ---------------------------------------------
static void test_causal(const Layer *l) {
    if (!graph_causal(l->graph) || l->packed) return;
    Arena a = {0};
    const i64 T = 100, now = 57;
    const Sizes z = sizes(l, 1, T);
    const Values in = draw(&a, l, z, 7), other = copy_values(&a, in), fresh = draw(&a, l, z, 70);
    for (int i = 0; i < in.n; i++) {
        const SpecTensor *st = layer_tensor(l, in.v[i].name, false);
        for (i64 e = 0; e < ssd_array_count(&in.v[i].a); e++)
            if (index_along(st, &in.v[i].a, "t", e) >= now)
                other.v[i].a.v[e] = 4 * fresh.v[i].a.v[e];
    }
    for (size_t i = 0; i < COUNTOF(some_schedules); i++) {
        label("%s causal %s", l->name, shown(some_schedules[i]));
        ssd_kernel *k = compile(contexts[1], l, some_schedules[i], NULL, NULL);
        if (!k) continue;
        const Values x = launch(&a, k, l, in, z, &(How){0}),
                     y = launch(&a, k, l, other, z, &(How){0});
        ssd_kernel_destroy(k);
        i64 moved = 0;
        for (int o = 0; o < x.n; o++) {
            const SpecTensor *st = layer_tensor(l, x.v[o].name, true);
            i64 past = 0, bad = 0;
            for (i64 e = 0; e < ssd_array_count(&x.v[o].a); e++) {
                bool differs = memcmp(&x.v[o].a.v[e], &y.v[o].a.v[e], sizeof(double)) != 0;
                i64 t = index_along(st, &x.v[o].a, "t", e);
                if (t >= 0 && t < now)
                    past++, bad += differs;
                else
                    moved += differs;
            }
            if (past)
                check(bad == 0, "%ld of %ld past elements of '%s' moved", (long)bad, (long)past,
                      x.v[o].name);
        }
        check(moved > 0, "nothing moved: the test is blind");
    }
    ssd_arena_free(&a);
}

// --- A sequence in two pieces, the state handed on, is the whole --------------------------------
// Tokens from..to of every tensor that has a time axis.
static Values tokens(Arena *a, const Layer *l, Values v, bool outputs, i64 from, i64 to) {
    Values c = {NEWN(a, NamedArray, v.n + 1), v.n};
    for (int i = 0; i < v.n; i++) {
        const SpecTensor *st = layer_tensor(l, v.v[i].name, outputs);
        const Array *x = &v.v[i].a;
        Array *y = &c.v[i].a;
        c.v[i].name = v.v[i].name;
        *y = *x;
        for (int d = 0; d < x->rank; d++)
            if (!strcmp(st->axis[d], "t")) y->dims[d] = to - from;
        y->v = NEWN(a, double, ssd_array_count(y) + 1);
        for (i64 e = 0, n = 0; e < ssd_array_count(x); e++) {
            i64 t = index_along(st, x, "t", e);
            if (t < 0 || (t >= from && t < to)) y->v[n++] = x->v[e];
        }
    }
    return c;
}

static void hand_on(const Layer *l, Values from, Values to) {
    for (u32 i = 0; i < l->graph->states.n; i++) {
        const GraphState *s = &l->graph->states.v[i];
        Array *x = s->out_name ? value(from, s->out_name) : NULL,
              *y = s->in_name ? value(to, s->in_name) : NULL;
        if (x && y) memcpy(y->v, x->v, sizeof(double) * (size_t)ssd_array_count(y));
    }
}

static void test_split(const Layer *l) {
    if (l->packed || !graph_splits(l)) return;
    Arena a = {0};
    const i64 T = 100, cut = 41;
    const Sizes z = sizes(l, 2, T);
    const Values in = draw(&a, l, z, 8), want = meaning(&a, l, in, z);
    const Values head = tokens(&a, l, in, false, 0, cut), tail = tokens(&a, l, in, false, cut, T);
    const Values want_head = tokens(&a, l, want, true, 0, cut),
                 want_tail = tokens(&a, l, want, true, cut, T);
    for (size_t i = 0; i < COUNTOF(some_schedules); i++) {
        label("%s split %s", l->name, shown(some_schedules[i]));
        ssd_kernel *k = compile(contexts[1], l, some_schedules[i], NULL, NULL);
        if (!k) continue;
        Values first = launch(&a, k, l, head, sizes(l, 2, cut), &(How){0});
        hand_on(l, first, tail);
        round_values(l, tail);
        Values second = launch(&a, k, l, tail, sizes(l, 2, T - cut), &(How){.in_place = true});
        for (u32 s = 0; s < l->graph->states.n; s++)
            drop_value(&first, l->graph->states.v[s].out_name);
        near(l, first, want_head, 1);
        near(l, second, want_tail, 2); // both pieces round
        ssd_kernel_destroy(k);
    }
    ssd_arena_free(&a);
}

// --- Steps are the forward pass -----------------------------------------------------------------
// Token t of forward values as step values (the step's tensors are those of forward less the time
// axis).
static Values token(Arena *a, const Layer *fwd, const Layer *step, Values v, bool outputs, i64 t) {
    Values one = tokens(a, fwd, v, outputs, t, t + 1), c = {NEWN(a, NamedArray, one.n + 1), 0};
    for (int i = 0; i < one.n; i++) {
        const SpecTensor *st = layer_tensor(step, one.v[i].name, outputs);
        const SpecTensor *full = layer_tensor(fwd, one.v[i].name, outputs);
        if (!st) continue;
        c.v[c.n] = one.v[i];
        Array *x = &c.v[c.n++].a;
        x->rank = 0;
        for (int d = 0; d < full->naxes; d++)
            if (strcmp(full->axis[d], "t")) x->dims[x->rank++] = one.v[i].a.dims[d];
    }
    return c;
}

static void test_step(const Layer *fwd, const char *path) {
    Layer step;
    if (fwd->packed || !graph_causal(fwd->graph) || !layer_open(&step, path, "step", fwd->dims))
        return;
    Arena a = {0};
    const i64 T = 19;
    const Sizes z = sizes(fwd, 2, T);
    const Values in = draw(&a, fwd, z, 9);
    zero_states(fwd, in);
    const Values want = meaning(&a, fwd, in, z);
    for (int place = 0; place < 2; place++) {
        label("%s step %s", fwd->name, place ? "in place" : "out of place");
        ssd_kernel *k = compile(contexts[1], &step, NULL, NULL, NULL);
        if (!check(k != NULL, "refused: %s", ssd_last_error())) break;
        Values state = draw(&a, &step, sizes(&step, 2, 1), 9); // its states, made zero, go round
        zero_states(&step, state);
        for (i64 t = 0; t < T; t++) {
            label("%s step %s, token %ld", fwd->name, place ? "in place" : "out of place", (long)t);
            Values now = token(&a, fwd, &step, in, false, t);
            for (int i = 0; i < state.n; i++) {
                Array *x = value(now, state.v[i].name);
                if (x && !layer_tensor(&step, state.v[i].name, false)->is_state)
                    memcpy(state.v[i].a.v, x->v, sizeof(double) * (size_t)ssd_array_count(x));
            }
            Values got = launch(&a, k, &step, state, sizes(&step, 2, 1), &(How){.in_place = place});
            if (!got.n) break;
            hand_on(&step, got, state);
            round_values(&step, state);
            for (u32 s = 0; s < step.graph->states.n; s++)
                if (t < T - 1 || !value(want, step.graph->states.v[s].out_name))
                    drop_value(&got, step.graph->states.v[s].out_name);
            near(&step, got, token(&a, fwd, &step, want, true, t), 2);
        }
        ssd_kernel_destroy(k);
    }
    ssd_arena_free(&a);
    layer_close(&step);
}

// --- Linear in value: doubling is exact, and two inputs on disjoint tokens add up ---------------
static void test_linear_in(const Layer *l, const char *input, const char *output) {
    Arena a = {0};
    const Sizes z = sizes(l, 1, 100);
    const Values in = draw(&a, l, z, 10);
    zero_states(l, in);
    const SpecTensor *st = layer_tensor(l, input, false);
    Values part[3]; // twice the input, its even elements, its odd elements
    for (int p = 0; p < 3; p++) {
        part[p] = copy_values(&a, in);
        Array *x = value(part[p], input);
        for (i64 e = 0; e < ssd_array_count(x); e++) {
            i64 t = index_along(st, x, "t", e);
            bool even = (t < 0 ? e : t) % 2 == 0;
            x->v[e] *= p == 0 ? 2 : (p == 1) == even;
        }
    }
    for (size_t i = 0; i < COUNTOF(some_schedules); i++) {
        label("%s linear in %s %s", l->name, input, shown(some_schedules[i]));
        ssd_kernel *k = compile(contexts[1], l, some_schedules[i], NULL, NULL);
        if (!k) continue;
        Values y = launch(&a, k, l, in, z, &(How){0}), of[3];
        for (int p = 0; p < 3; p++) of[p] = launch(&a, k, l, part[p], z, &(How){0});
        ssd_kernel_destroy(k);
        const Array *whole = value(y, output), *twice = value(of[0], output);
        if (!whole || !twice) continue;
        const Array *u = value(of[1], output), *v = value(of[2], output);
        const bool half = layer_tensor(l, output, true)->dtype == SSD_F16;
        i64 bad = 0, n = ssd_array_count(whole);
        Values sum = {&(NamedArray){output, {0}}, 1}, alone = {&(NamedArray){output, *whole}, 1};
        sum.v[0].a = *whole;
        sum.v[0].a.v = NEWN(&a, double, n + 1);
        for (i64 e = 0; e < n; e++) {
            bool coarse = half && fabs(whole->v[e]) < 0x1p-13; // f16 below its normal numbers
            bad += twice->v[e] != 2 * whole->v[e] && !coarse;
            sum.v[0].a.v[e] = u->v[e] + v->v[e];
        }
        check(bad == 0, "%ld of %ld elements did not double", (long)bad, (long)n);
        near(l, sum, alone, 2);
    }
    ssd_arena_free(&a);
}

static void test_linear(const Layer *l) {
    const char *input, *output;
    for (u32 i = 0; i < l->graph->ins.n; i++)
        if (graph_linear(l, (int)i, &input, &output) && !layer_tensor(l, input, false)->is_state)
            test_linear_in(l, input, output);
}

// --- Packed sequences are separate ones ---------------------------------------------------------
// Sequence s of packed values: its tokens, its row of the states, cu_seqlens = {0, length}.
static Values sequence(Arena *a, const Layer *l, Values v, bool outputs, const i64 *cu, int s) {
    Values c = tokens(a, l, v, outputs, cu[s], cu[s + 1]);
    for (int i = 0; i < c.n; i++) {
        const SpecTensor *st = layer_tensor(l, c.v[i].name, outputs);
        Array *x = &c.v[i].a;
        if (!strcmp(c.v[i].name, "cu_seqlens")) {
            x->dims[0] = 2;
            x->v[0] = 0, x->v[1] = (double)(cu[s + 1] - cu[s]);
        } else if (st->naxes && !strcmp(st->axis[0], "s")) {
            i64 row = ssd_array_count(x) / x->dims[0];
            x->dims[0] = 1;
            x->v += s * row;
        }
    }
    return c;
}

static void test_packed(const Layer *l) {
    if (!l->packed) return;
    Arena a = {0};
    enum { S = 5 };
    static const i64 cu[S + 1] = {0, 0, 29, 29, 82, 120}; // two empty ones, none a multiple of 17
    const Sizes z = {.b = 1, .t = cu[S], .s = S};
    Values in = draw(&a, l, z, 11);
    for (int i = 0; i <= S; i++) value(in, "cu_seqlens")->v[i] = (double)cu[i];
    const Values want = meaning(&a, l, in, z), sick = copy_values(&a, in);
    const int ill = 3; // this sequence is all NaN
    for (int i = 0; i < sick.n; i++) {
        const SpecTensor *st = layer_tensor(l, sick.v[i].name, false);
        for (i64 e = 0; e < ssd_array_count(&sick.v[i].a); e++) {
            i64 t = index_along(st, &sick.v[i].a, "t", e),
                s = index_along(st, &sick.v[i].a, "s", e);
            if ((t >= cu[ill] && t < cu[ill + 1]) || (s == ill && st->is_state))
                sick.v[i].a.v[e] = (double)NAN;
        }
    }
    for (size_t i = 0; i < COUNTOF(some_schedules); i++) {
        label("%s packed %s", l->name, shown(some_schedules[i]));
        ssd_kernel *k = compile(contexts[1], l, some_schedules[i], NULL, NULL);
        if (!k) continue;
        Values all = launch(&a, k, l, in, z, &(How){.own_workspace = true});
        near(l, all, want, 1);
        Values with_nan = launch(&a, k, l, sick, z, &(How){0});
        for (int s = 0; s < S; s++) {
            label("%s packed %s, sequence %d", l->name, shown(some_schedules[i]), s);
            Values alone = launch(&a, k, l, sequence(&a, l, in, false, cu, s),
                                  (Sizes){.b = 1, .t = cu[s + 1] - cu[s], .s = 1}, &(How){0});
            near(l, alone, sequence(&a, l, want, true, cu, s), 1);
            if (s != ill && with_nan.n)
                same_bits(sequence(&a, l, with_nan, true, cu, s),
                          sequence(&a, l, all, true, cu, s));
        }
        ssd_kernel_destroy(k);
    }
    ssd_arena_free(&a);
}

// --- Inputs left out, outputs not wanted, other targets -----------------------------------------
static void test_absent(const Layer *l) {
    Arena a = {0};
    Text out_of = {0}, in_of = {0};
    const Sizes z = sizes(l, 2, 37);
    Values in = draw(&a, l, z, 12), less = in;
    const Values want_all = meaning(&a, l, in, z);
    less.v = NEWN(&a, NamedArray, in.n + 1);
    memcpy(less.v, in.v, sizeof *in.v * (size_t)in.n);
    for (int i = 0; i < l->n_in; i++)
        if (l->in[i].optional) {
            ssd_text_printf(&in_of, "%s%s", in_of.n ? " " : "", l->in[i].name);
            drop_value(&less, l->in[i].name);
        }
    for (int i = 0; i < l->n_out; i++)
        if (l->out[i].is_state && strcmp(l->mode, "step")) // a step's states are its purpose
            ssd_text_printf(&out_of, "%s%s", out_of.n ? " " : "", l->out[i].name);
    if (in_of.n) {
        label("%s %s absent %s", l->name, l->mode, in_of.s);
        Diag d = {.arena = &a};
        Layer m = *l;
        m.graph = ssd_spec_build(&a, l->spec, l->mode, in_of.s, &d);
        ssd_kernel *k = compile(contexts[1], l, NULL, NULL, in_of.s);
        if (check(m.graph && k, "not built: %s", ssd_last_error()))
            near(l, launch(&a, k, l, less, z, &(How){0}), meaning(&a, &m, less, z), 1);
        ssd_kernel_destroy(k);
    }
    if (out_of.n) {
        label("%s %s absent %s", l->name, l->mode, out_of.s);
        ssd_kernel *k = compile(contexts[1], l, NULL, NULL, out_of.s);
        if (check(k != NULL, "not built: %s", ssd_last_error())) {
            Values got = launch(&a, k, l, in, z, &(How){0});
            for (int i = 0; i < l->n_out; i++)
                check(!value(got, l->out[i].name) == l->out[i].is_state, "output '%s'",
                      l->out[i].name);
            near(l, got, want_all, 1);
        }
        ssd_kernel_destroy(k);
    }
    ssd_text_free(&in_of);
    ssd_text_free(&out_of);
    ssd_arena_free(&a);
}

static void test_targets(const Layer *l) {
    static const char *const targets[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4"};
    Arena a = {0};
    const Sizes z = sizes(l, 1, 37);
    const Values in = draw(&a, l, z, 13), want = meaning(&a, l, in, z);
    for (size_t t = 0; t < COUNTOF(targets); t++) {
        bool runs = false;
        if (!ssd_cpu_target(targets[t], &runs) || !runs) continue;
        for (size_t i = 0; i < COUNTOF(some_schedules); i++) {
            label("%s %s on %s %s", l->name, l->mode, targets[t], shown(some_schedules[i]));
            ssd_kernel *k = compile(contexts[1], l, some_schedules[i], targets[t], NULL);
            if (!k) continue;
            for (int start = 0; start < 2; start++)
                near(l, launch(&a, k, l, in, z, &(How){.at_start = start, .own_workspace = true}),
                     want, 1);
            ssd_kernel_destroy(k);
        }
    }
    ssd_arena_free(&a);
}

int main(int argc, char **argv) {
    label("start");
    const char *tmp = getenv("SSD_CACHE_DIR");
    for (int i = 0; i < 3; i++) {
        ssd_context_options o = {.threads = threads[i], .cache_dir = tmp ? tmp : ""};
        if (ssd_context_create(&o, &contexts[i]) != SSD_OK) return 2;
    }
    for (int i = 1; i < argc; i++) {
        Layer l;
        label("%s", argv[i]);
        if (!layer_open(&l, argv[i], "forward", "shrink")) {
            check(false, "no forward mode");
            continue;
        }
        test_forms(&l);
        test_layouts(&l);
        test_reach(&l);
        test_repeats(&l);
        test_causal(&l);
        test_split(&l);
        test_step(&l, argv[i]);
        test_linear(&l);
        test_packed(&l);
        test_absent(&l);
        test_targets(&l);
        Layer step;
        if (layer_open(&step, argv[i], "step", l.dims)) {
            test_layouts(&step);
            test_repeats(&step);
            test_absent(&step);
            test_targets(&step);
            layer_close(&step);
        }
        layer_close(&l);
    }
    for (int i = 0; i < 3; i++) ssd_context_destroy(contexts[i]);
    return closing_line();
}
