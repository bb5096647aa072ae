// SPDX-License-Identifier: Apache-2.0
// The text of an artifact, printed and parsed. Parsing trusts nothing: whatever it accepts, the
// rest of the runtime may use without looking again.
#include "internal.h"

#include <stdlib.h>

// --- Print

// Formulas are words of a line: they are printed without blanks.
static void put_formula(Text *out, const char *f) {
    ssd_text_put(out, " ", 1);
    for (; *f; f++)
        if (*f != ' ') ssd_text_put(out, f, 1);
}

static void put_dims(Text *out, const ArtTensor *t) {
    for (int d = 0; d < t->rank; d++) put_formula(out, t->dim[d]);
}

// What a kernel of a CUDA target says besides: the rest of its line, and the next ones.
static void put_cuda(Text *out, const ArtKernel *k, bool modules) {
    if (!k->threads) return;
    ssd_text_printf(out, " %d", k->threads);
    if (modules) ssd_text_printf(out, " in %d", k->module);
    ssd_text_printf(out, "%s\ntakes", k->early ? " early" : "");
    for (int i = 0; i < k->n_takes; i++) ssd_text_printf(out, " %d", k->takes[i]);
    for (int i = 0; i < k->n_maps; i++) {
        const ArtMap *m = &k->maps[i];
        ssd_text_printf(out, "\nmap %d swizzle %d box", m->take, m->swizzle);
        for (int d = 0; d < m->rank; d++) ssd_text_printf(out, " %d", m->box[d]);
    }
}

static void put_plan(Text *out, const ArtPlan *p, bool modules) {
    bool always = !p->when || !strcmp(p->when, "1");
    ssd_text_printf(out, "plan %s%s\n", always ? "always" : "when ", always ? "" : p->when);
    for (int i = 0; i < p->n_ws; i++) {
        ssd_text_printf(out, "ws %s %s", p->ws[i].name, ssd_dtype_name(p->ws[i].dtype));
        put_dims(out, &p->ws[i]);
        ssd_text_put(out, "\n", 1);
    }
    for (int i = 0; i < p->n_kernels; i++) {
        ssd_text_printf(out, "kernel %s", p->kernels[i].symbol);
        put_formula(out, p->kernels[i].blocks);
        ssd_text_printf(out, " %lld", (long long)p->kernels[i].scratch);
        put_cuda(out, &p->kernels[i], modules);
        ssd_text_put(out, "\n", 1);
    }
}

void ssd_artifact_print(const Artifact *art, Text *out) {
    ssd_text_printf(out, "ssdc-artifact 1\nprogram %s %s %s\nschedule %s\n", art->program,
                    art->mode, art->target, art->schedule ? art->schedule : "");
    for (int i = 0; i < art->n_syms; i++) {
        const ArtSym *s = &art->syms[i];
        ssd_text_printf(out, "sym %s %s %d", s->name, s->param, s->dim);
        if (s->minus) ssd_text_printf(out, " minus %d", s->minus);
        ssd_text_put(out, "\n", 1);
    }
    for (int i = 0; i < art->n_params; i++) {
        const ArtTensor *t = &art->params[i];
        ssd_text_printf(out, "param %s %s %s", t->name, t->role == SSD_OUTPUT ? "out" : "in",
                        ssd_dtype_name(t->dtype));
        put_dims(out, t);
        if (t->alias) ssd_text_printf(out, " alias %s", t->alias);
        ssd_text_put(out, "\n", 1);
    }
    if (art->n_modules) ssd_text_printf(out, "modules");
    for (int i = 0; i < art->n_modules; i++)
        ssd_text_printf(out, " %lld", (long long)art->module_bytes[i]);
    if (art->n_modules) ssd_text_printf(out, "\n");
    for (int i = 0; i < art->n_plans; i++) put_plan(out, &art->plans[i], art->n_modules > 0);
}

// --- Parse

enum {
    WORDS_MOST = ART_MAX_TENSORS + 1,
    PLANS_MOST = 64,
    SCRATCH_MOST = 1 << 30,
    THREADS_MOST = 1024
};

typedef struct Reader {
    Arena *a;
    Text *why;
    int line;
    bool bad;
    char *word[WORDS_MOST];
    int n_words;
    const char *rest; // the line after its first word
    bool cuda;        // of a CUDA target
    VEC(ArtSym) syms;
    VEC(ArtTensor) params;
    VEC(i64) modules; // their sizes
    VEC(ArtPlan) plans;
    VEC(ArtTensor) ws;                      // of the plan being read
    VEC(ArtKernel) kernels;                 // likewise
    VEC(ArtMap) maps;                       // of the kernel being read
    const char *sym_name[ART_MAX_SYMS + 1]; // and ART_DENSE
} Reader;

SSD_PRINTF(2, 3) static bool fail(Reader *r, const char *fmt, ...) {
    if (!r->bad) {
        va_list ap;
        va_start(ap, fmt);
        ssd_text_printf(r->why, "artifact line %d: ", r->line);
        ssd_text_vprintf(r->why, fmt, ap);
        va_end(ap);
    }
    r->bad = true;
    return false;
}

// A number without sign, at most `most` (far below 2^63 / 10); -1 when it is none.
static i64 number(const char *s, i64 most) {
    i64 v = 0;
    if (!*s) return -1;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || v > most) return -1;
        v = v * 10 + (*s - '0');
    }
    return v <= most ? v : -1;
}

static bool read_formula_of(Reader *r, const char *f, int syms) {
    i64 unused;
    if (r->bad) return false;
    Text why = {0};
    bool ok = ssd_formula_eval(f, r->sym_name, NULL, syms, &unused, &why);
    if (!ok) fail(r, "%s", why.s ? why.s : "formula");
    ssd_text_free(&why);
    return ok;
}
static bool read_formula(Reader *r, const char *f) { return read_formula_of(r, f, (int)r->syms.n); }

static bool read_dims(Reader *r, ArtTensor *t, int from, int to) {
    if (to - from > SSD_MAX_RANK)
        return fail(r, "'%s' has more than %d dims", t->name, SSD_MAX_RANK);
    t->rank = to - from;
    for (int d = 0; d < t->rank; d++) {
        t->dim[d] = r->word[from + d];
        if (!read_formula(r, t->dim[d])) return false;
    }
    return true;
}

static ssd_dtype read_dtype(Reader *r, const char *s) {
    static const ssd_dtype known[] = {SSD_F32, SSD_BF16, SSD_F16, SSD_I32};
    for (size_t i = 0; i < COUNTOF(known); i++)
        if (!strcmp(s, ssd_dtype_name(known[i]))) return known[i];
    fail(r, "unknown dtype '%s'", s);
    return SSD_NONE;
}

static const ArtTensor *find_param(const Reader *r, const char *name) {
    for (u32 i = 0; i < r->params.n; i++)
        if (!strcmp(r->params.v[i].name, name)) return &r->params.v[i];
    return NULL;
}

static bool read_sym(Reader *r) { // sym NAME PARAM DIM [minus K]
    bool minus = r->n_words == 6 && !strcmp(r->word[4], "minus");
    if (r->n_words != 4 && !minus) return fail(r, "expected 'sym NAME PARAM DIM [minus K]'");
    if (r->params.n) return fail(r, "symbols stand before parameters");
    if (r->syms.n == ART_MAX_SYMS) return fail(r, "more than %d symbols", ART_MAX_SYMS);
    for (u32 i = 0; i < r->syms.n; i++)
        if (!strcmp(r->sym_name[i], r->word[1])) return fail(r, "symbol '%s' again", r->word[1]);
    ArtSym s = {.name = r->word[1], .param = r->word[2]};
    s.dim = (int)number(r->word[3], SSD_MAX_RANK - 1);
    s.minus = minus ? (int)number(r->word[5], 1000) : 0;
    if (s.dim < 0 || s.minus < 0) return fail(r, "symbol '%s' has a bad number", s.name);
    r->sym_name[r->syms.n] = s.name;
    vec_push(r->a, &r->syms, s);
    return true;
}

static bool read_param(Reader *r) { // param NAME in|out DTYPE DIM... [alias NAME]
    int n = r->n_words;
    bool alias = n >= 6 && !strcmp(r->word[n - 2], "alias");
    if (n < 4) return fail(r, "expected 'param NAME in|out DTYPE DIM... [alias NAME]'");
    if (r->plans.n) return fail(r, "parameters stand before plans");
    if (r->params.n == ART_MAX_TENSORS) return fail(r, "more than %d parameters", ART_MAX_TENSORS);
    ArtTensor t = {.name = r->word[1]};
    bool out = !strcmp(r->word[2], "out");
    if (!out && strcmp(r->word[2], "in")) return fail(r, "'%s' is neither in nor out", r->word[2]);
    t.role = out ? SSD_OUTPUT : SSD_INPUT;
    t.dtype = read_dtype(r, r->word[3]);
    if (find_param(r, t.name)) return fail(r, "parameter '%s' again", t.name);
    if (alias) t.alias = r->word[n - 1];
    if (!read_dims(r, &t, 4, n - (alias ? 2 : 0))) return false;
    vec_push(r->a, &r->params, t);
    return !r->bad;
}

static const ArtTensor *taken(const Reader *r, const ArtKernel *k, int i) {
    u32 t = (u32)k->takes[i];
    return t < r->params.n ? &r->params.v[t] : &r->ws.v[t - r->params.n];
}

// A map fits its tensor, and its box what TMA can copy.
static bool check_map(Reader *r, const ArtKernel *k, int i) {
    const ArtMap *m = &k->maps[i];
    if (m->take >= k->n_takes)
        return fail(r, "map %d of kernel '%s' is of tensor %d of %d", i, k->symbol, m->take,
                    k->n_takes);
    const ArtTensor *t = taken(r, k, m->take);
    if (m->rank != t->rank)
        return fail(r, "map %d of kernel '%s' has a box of rank %d, '%s' has rank %d", i, k->symbol,
                    m->rank, t->name, t->rank);
    i64 row = m->box[0] * (i64)ssd_dtype_size(t->dtype);
    if (row % 16 || (m->swizzle && row > m->swizzle))
        return fail(r, "map %d of kernel '%s' has rows of %lld bytes", i, k->symbol,
                    (long long)row);
    return true;
}

// The tensors of a CUDA kernel's argument: there, once each, and not more than an argument holds.
static bool check_takes(Reader *r, const ArtKernel *k) {
    int rank[ART_MAX_TENSORS], all = (int)(r->params.n + r->ws.n);
    bool seen[2 * ART_MAX_TENSORS] = {0};
    if (!k->threads) return true;
    if (!k->takes) return fail(r, "kernel '%s' has no 'takes'", k->symbol);
    for (int i = 0; i < k->n_takes; i++) {
        int t = k->takes[i];
        if (t >= all) return fail(r, "kernel '%s' takes tensor %d of %d", k->symbol, t, all);
        if (seen[t]) return fail(r, "kernel '%s' takes tensor %d twice", k->symbol, t);
        seen[t] = true;
        rank[i] = taken(r, k, i)->rank;
    }
    for (int i = 0; i < k->n_maps; i++)
        if (!check_map(r, k, i)) return false;
    int bytes = ssd_artifact_arg_bytes(rank, k->n_takes, (int)r->syms.n, k->n_maps);
    if (bytes > CUDA_ARGS_MOST)
        return fail(r, "the argument of kernel '%s' has %d bytes, %d are possible", k->symbol,
                    bytes, CUDA_ARGS_MOST);
    return true;
}

static void end_kernel(Reader *r) {
    if (!r->kernels.n || !r->maps.n) return;
    ArtKernel *k = &r->kernels.v[r->kernels.n - 1];
    k->n_maps = (int)r->maps.n;
    k->maps = r->maps.v;
    memset(&r->maps, 0, sizeof r->maps);
}

static bool end_plan(Reader *r) {
    if (!r->plans.n) return true;
    end_kernel(r);
    ArtPlan *p = &r->plans.v[r->plans.n - 1];
    if (!r->kernels.n) return fail(r, "a plan without kernels");
    for (u32 i = 0; i < r->kernels.n; i++)
        if (!check_takes(r, &r->kernels.v[i])) return false;
    *p = (ArtPlan){p->when, (int)r->ws.n, (int)r->kernels.n, r->ws.v, r->kernels.v};
    memset(&r->ws, 0, sizeof r->ws);
    memset(&r->kernels, 0, sizeof r->kernels);
    return true;
}

static bool read_modules(Reader *r) { // modules BYTES...
    if (!r->cuda) return fail(r, "'modules' belongs to CUDA targets");
    if (r->plans.n) return fail(r, "modules stand before plans");
    if (r->modules.n) return fail(r, "'modules' again");
    if (r->n_words < 2) return fail(r, "expected 'modules BYTES...'");
    if (r->n_words - 1 > ART_MAX_KERNELS) return fail(r, "more than %d modules", ART_MAX_KERNELS);
    for (int i = 1; i < r->n_words; i++) {
        i64 bytes = number(r->word[i], ART_MODULE_MOST);
        if (bytes < 1) return fail(r, "bad size of a module '%s'", r->word[i]);
        vec_push(r->a, &r->modules, bytes);
    }
    return true;
}

static bool read_plan(Reader *r) { // plan always | plan when FORMULA
    if (!end_plan(r)) return false;
    if (r->plans.n == PLANS_MOST) return fail(r, "more than %d plans", PLANS_MOST);
    ArtPlan p = {.when = "1"};
    if (!strncmp(r->rest, "when ", 5))
        p.when = r->rest + 5;
    else if (strcmp(r->rest, "always"))
        return fail(r, "expected 'plan always' or 'plan when FORMULA'");
    vec_push(r->a, &r->plans, p);
    int n = (int)r->syms.n;
    r->sym_name[n] = ART_DENSE;
    return read_formula_of(r, p.when, n + 1);
}

static bool read_ws(Reader *r) { // ws NAME DTYPE DIM...
    if (r->n_words < 3) return fail(r, "expected 'ws NAME DTYPE DIM...'");
    if (!r->plans.n) return fail(r, "'%s' before the first plan", r->word[0]);
    if (r->ws.n == ART_MAX_TENSORS)
        return fail(r, "more than %d workspace tensors", ART_MAX_TENSORS);
    ArtTensor t = {.name = r->word[1], .role = SSD_OUTPUT, .dtype = read_dtype(r, r->word[2])};
    if (!read_dims(r, &t, 3, r->n_words)) return false;
    vec_push(r->a, &r->ws, t);
    return !r->bad;
}

static bool read_kernel(Reader *r) { // kernel SYMBOL BLOCKS SCRATCH [THREADS [in MODULE] [early]]
    const char *form = "kernel SYMBOL BLOCKS SCRATCH";
    int words = 4;
    if (r->cuda) form = "kernel SYMBOL BLOCKS SHARED THREADS", words = 5;
    if (r->modules.n) form = "kernel SYMBOL BLOCKS SHARED THREADS in MODULE", words = 7;
    bool early = r->cuda && r->n_words == words + 1 && !strcmp(r->word[words], "early");
    if (r->n_words != words + early || (r->modules.n && strcmp(r->word[5], "in")))
        return fail(r, "expected '%s'", form);
    if (!r->plans.n) return fail(r, "'%s' before the first plan", r->word[0]);
    if (r->kernels.n == ART_MAX_KERNELS) return fail(r, "more than %d kernels", ART_MAX_KERNELS);
    ArtKernel k = {.symbol = r->word[1],
                   .blocks = r->word[2],
                   .early = early,
                   .scratch = number(r->word[3], SCRATCH_MOST)};
    if (k.scratch < 0) return fail(r, "bad scratch size '%s'", r->word[3]);
    if (r->cuda) {
        k.threads = (int)number(r->word[4], THREADS_MOST);
        if (k.threads < 32 || k.threads % 32)
            return fail(r, "bad number of threads '%s'", r->word[4]);
    }
    if (r->modules.n) k.module = (int)number(r->word[6], r->modules.n - 1);
    if (k.module < 0)
        return fail(r, "kernel '%s' is in module '%s' of %u", k.symbol, r->word[6], r->modules.n);
    end_kernel(r);
    vec_push(r->a, &r->kernels, k);
    return read_formula(r, k.blocks);
}

static bool read_takes(Reader *r) { // takes TENSOR...
    if (!r->cuda) return fail(r, "'takes' belongs to CUDA targets");
    if (!r->kernels.n) return fail(r, "'takes' before the first kernel");
    ArtKernel *k = &r->kernels.v[r->kernels.n - 1];
    if (k->takes) return fail(r, "kernel '%s' takes twice", k->symbol);
    int *takes = NEWN(r->a, int, r->n_words);
    k->n_takes = r->n_words - 1;
    for (int i = 0; i < k->n_takes; i++) {
        takes[i] = (int)number(r->word[i + 1], 2 * ART_MAX_TENSORS - 1);
        if (takes[i] < 0) return fail(r, "bad tensor '%s'", r->word[i + 1]);
    }
    k->takes = takes;
    return true;
}

static bool read_map(Reader *r) { // map TAKE swizzle BYTES box ELEMENTS...
    enum { HEAD = 5, MAPS_MOST = CUDA_ARGS_MOST / CUDA_MAP_BYTES };
    ArtMap m = {.rank = r->n_words - HEAD};
    if (m.rank < 1 || strcmp(r->word[2], "swizzle") || strcmp(r->word[4], "box"))
        return fail(r, "expected 'map TAKE swizzle BYTES box ELEMENTS...'");
    if (!r->kernels.n || !r->kernels.v[r->kernels.n - 1].takes)
        return fail(r, "'map' before the kernel's 'takes'");
    if (r->maps.n == MAPS_MOST) return fail(r, "more than %d maps", MAPS_MOST);
    if (m.rank > ART_MAP_RANK) return fail(r, "a box has at most %d dims", ART_MAP_RANK);
    m.take = (int)number(r->word[1], ART_MAX_TENSORS - 1);
    m.swizzle = (int)number(r->word[3], 128);
    if (m.take < 0) return fail(r, "bad tensor '%s'", r->word[1]);
    if (m.swizzle && m.swizzle != 128) return fail(r, "bad swizzle '%s'", r->word[3]);
    for (int d = 0; d < m.rank; d++) {
        m.box[d] = (int)number(r->word[HEAD + d], ART_BOX_MOST);
        bool along = d > 0 && !m.box[d - (d > 1)]; // 0 only behind the first or another 0
        if (m.box[d] < 0 || (!m.box[d] && d != 1 && !along))
            return fail(r, "bad box size '%s'", r->word[HEAD + d]);
    }
    vec_push(r->a, &r->maps, m);
    return true;
}

static const struct {
    const char *word;
    bool (*read)(Reader *r);
} lines[] = {{"sym", read_sym},     {"param", read_param}, {"modules", read_modules},
             {"plan", read_plan},   {"ws", read_ws},       {"kernel", read_kernel},
             {"takes", read_takes}, {"map", read_map}};

// Cuts the line into words in place; `rest` keeps it uncut.
static bool split(Reader *r, char *line) {
    char *space = strchr(line, ' ');
    r->rest = space ? ssd_arena_dup(r->a, space + 1, strlen(space + 1)) : "";
    r->n_words = 0;
    for (char *save, *w = strtok_r(line, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        if (r->n_words == WORDS_MOST) return fail(r, "too many words");
        if (strlen(w) > 200) return fail(r, "a word is too long");
        r->word[r->n_words++] = w;
    }
    return r->n_words > 0 || fail(r, "an empty line");
}

static bool read_line(Reader *r, char *line, Artifact *out) {
    switch (++r->line) {
    case 1: return !strcmp(line, "ssdc-artifact 1") || fail(r, "not an artifact of version 1");
    case 2:
        if (!split(r, line)) return false;
        if (r->n_words != 4 || strcmp(r->word[0], "program"))
            return fail(r, "expected 'program NAME MODE TARGET'");
        out->program = r->word[1];
        out->mode = r->word[2];
        out->target = r->word[3];
        r->cuda = ssd_target_is_cuda(out->target);
        return true;
    case 3:
        if (strncmp(line, "schedule ", 9)) return fail(r, "expected 'schedule ...'");
        out->schedule = line + 9;
        return true;
    }
    if (!split(r, line)) return false;
    for (size_t i = 0; i < COUNTOF(lines); i++)
        if (!strcmp(r->word[0], lines[i].word)) return lines[i].read(r);
    return fail(r, "unknown line '%.40s'", r->word[0]);
}

// What can only be said when all lines are known.
static bool check_whole(Reader *r) {
    if (!r->plans.n) return fail(r, "no plan");
    for (u32 i = 0; i < r->syms.n; i++) {
        const ArtSym *s = &r->syms.v[i];
        const ArtTensor *t = find_param(r, s->param);
        if (!t || s->dim >= t->rank)
            return fail(r, "symbol '%s' names no dim of '%s'", s->name, s->param);
    }
    for (u32 i = 0; i < r->params.n; i++) {
        const ArtTensor *t = &r->params.v[i], *other = t->alias ? find_param(r, t->alias) : NULL;
        if (!t->alias) continue;
        bool ok = other && t->role == SSD_OUTPUT && other->role == SSD_INPUT &&
                  t->dtype == other->dtype && t->rank == other->rank;
        for (int d = 0; ok && d < t->rank; d++) ok = !strcmp(t->dim[d], other->dim[d]);
        if (!ok) return fail(r, "'%s' cannot be alias of '%s'", t->name, t->alias);
    }
    return true;
}

bool ssd_artifact_parse(Arena *a, const char *text, size_t n, Artifact *out, Text *why) {
    Reader r = {.a = a, .why = why};
    *out = (Artifact){0};
    for (size_t i = 0; i < n; i++)
        if (text[i] != '\n' && (text[i] < ' ' || text[i] > '~'))
            return fail(&r, "an odd character");
    char *at = ssd_arena_dup(a, text, n), *end = at + n;
    while (at < end && !r.bad) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) return fail(&r, "the last line has no end");
        *stop = 0;
        read_line(&r, at, out);
        at = stop + 1;
    }
    if (r.bad || !end_plan(&r) || !check_whole(&r)) return false;
    out->n_syms = (int)r.syms.n;
    out->n_params = (int)r.params.n;
    out->n_modules = (int)r.modules.n;
    out->n_plans = (int)r.plans.n;
    out->syms = r.syms.v;
    out->params = r.params.v;
    out->module_bytes = r.modules.v;
    out->plans = r.plans.v;
    return true;
}
