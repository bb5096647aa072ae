// SPDX-License-Identifier: Apache-2.0
#include "bench.h"

#include <math.h>
#include <stdlib.h>

const char ssd_bench_shapes[] = "8x2048x80,1x4096x80,1x16384x80,1x65536x80,4x8192x128g8,"
                                "step1x80,step16x80,step128x80,step512x80";

// --- Shapes -------------------------------------------------------------------------------------
// A whole number from 1, behind which *s then stands.
static bool take_number(const char **s, i64 *out) {
    char *end;
    if (**s < '1' || **s > '9') return false;
    *out = strtoll(*s, &end, 10);
    *s = end;
    return *out <= (i64)1 << 31;
}

static bool parse_shape(Arena *a, const char *s, const char *dims, BenchShape *out) {
    static const struct {
        char letter;
        const char *dim;
    } suffixes[] = {{'g', "groups"}, {'p', "head_dim"}, {'n', "state_size"}};
    Text t = {0};
    i64 v;
    bool ok = true;
    *out =
        (BenchShape){.label = s, .step = !strncmp(s, "step", 4), .z = {.b = -1, .t = 1, .s = -1}};
    if (dims) ssd_text_printf(&t, "%s", dims);
    s += out->step ? 4 : 0;
    ok = take_number(&s, &out->z.b);
    if (!out->step) ok = ok && *s++ == 'x' && take_number(&s, &out->z.t);
    if (ok && *s == 'x') {
        s++;
        ok = take_number(&s, &v);
        if (ok) ssd_text_printf(&t, "%sheads=%lld", t.n ? " " : "", (long long)v);
    }
    while (ok && *s) {
        const char letter = *s++;
        ok = false;
        for (size_t i = 0; i < COUNTOF(suffixes); i++)
            if (suffixes[i].letter == letter && (ok = take_number(&s, &v)))
                ssd_text_printf(&t, "%s%s=%lld", t.n ? " " : "", suffixes[i].dim, (long long)v);
    }
    if (t.n) out->z.dims = ssd_arena_dup(a, t.s, t.n);
    ssd_text_free(&t);
    return ok;
}

int ssd_bench_parse(Cli *c, const char *list, BenchShape **out) {
    static const char sep[] = ", \t";
    int n = 0;
    *out = NEWN(&c->arena, BenchShape, strlen(list) + 1);
    for (const char *s = list + strspn(list, sep); *s; s += strspn(s, sep)) {
        size_t len = strcspn(s, sep);
        const char *one = ssd_arena_dup(&c->arena, s, len);
        if (!parse_shape(&c->arena, one, c->sizes.dims, &(*out)[n++])) {
            ssd_cli_error("bench: --shapes: '%s' is no shape; expected BATCHxTOKENSxHEADS as in "
                          "4x8192x128g8, or stepBATCHxHEADS",
                          one);
            return -1;
        }
        s += len;
    }
    if (!n) ssd_cli_error("bench: --shapes names none");
    return n ? n : -1;
}

// --- Peers --------------------------------------------------------------------------------------
// P = 64, N = 128; their inputs and outputs as peers.def says.
typedef struct Published {
    Peer peer;
    i64 b, t, h, g; // t 0: a step
    ssd_dtype state;
} Published;
static const Published published[] = {
#define FORWARD(who, b, t, h, g, ms) {{who, ms, 0}, b, t, h, g, SSD_F32},
#define STEP(who, b, h, g, state, gbs) {{who, 0, gbs}, b, 0, h, g, state},
#include "../bench/peers.def"
};

// Another layer of the same size would be other work: it shows in the bytes.
static bool same_work(const BenchRun *r, const Published *p) {
    enum { P = 64, N = 128 };
    bool step = p->t == 0;
    if (r->b != p->b || r->h != p->h || r->g != p->g || r->p != P || r->n != N ||
        r->state != p->state || step != !strcmp(r->mode, "step") || (!step && r->t != p->t))
        return false;
    double tokens = (double)(p->b * MAX(p->t, 1)), state = (double)(p->b * p->h * P * N),
           bytes = tokens * (double)(2 * 2 * p->h * P + 4 * p->h + 2 * 2 * p->g * N) +
                   state * (step ? 2 : 1) * (double)ssd_dtype_size(p->state);
    return fabs(r->bytes / bytes - 1) < 0.01;
}

int ssd_bench_peers(const BenchRun *r, Peer *out, int most) {
    int n = 0;
    for (size_t i = 0; i < COUNTOF(published) && n < most; i++)
        if (same_work(r, &published[i])) out[n++] = published[i].peer;
    return n;
}
