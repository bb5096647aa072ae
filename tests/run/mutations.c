// SPDX-License-Identifier: Apache-2.0
// Damaged texts: specs, graphs and tile programs with a few random edits. Whatever a reader makes
// of one, it ends, without a crash and with a message when it refuses; what it accepts prints as it
// parses, and a spec it accepts goes through every pass. Edits repeat by seed:
//
//     mutations [--rounds N] [--seed S] FILE...      a failure names file and seed; --rounds 1
//     --seed S repeats it
#include "harness.h"
#include "../../frontend/compile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_TEXT = 1 << 16, LATE = 20 };

static char *corpus[256];
static const char *corpus_name[256];
static int n_corpus;

static bool load(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f || n_corpus == 256) return false;
    char *s = calloc(1, MAX_TEXT + 1);
    size_t n = fread(s, 1, MAX_TEXT, f);
    fclose(f);
    corpus[n_corpus] = s;
    corpus_name[n_corpus++] = path;
    return n > 0;
}

// --- Edits --------------------------------------------------------------------------------------
typedef struct Edit {
    char text[MAX_TEXT + 512];
    size_t n;
    Rng r;
} Edit;

static size_t below(Edit *e, size_t n) { return n ? (size_t)(ssd_random_u64(&e->r) % n) : 0; }

static void replace(Edit *e, size_t at, size_t len, const char *with, size_t n) {
    if (at > e->n) at = e->n;
    if (len > e->n - at) len = e->n - at;
    if (e->n - len + n > MAX_TEXT) return;
    memmove(e->text + at + n, e->text + at + len, e->n - at - len);
    memcpy(e->text + at, with, n);
    e->n += n - len;
    e->text[e->n] = 0;
}

static bool word_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// A word of a text, at random: its start and length.
static size_t word_of(Edit *e, const char *s, size_t n, size_t *len) {
    size_t at = below(e, n), end;
    while (at < n && !word_char(s[at])) at++;
    while (at > 0 && word_char(s[at - 1])) at--;
    for (end = at; end < n && word_char(s[end]);) end++;
    *len = end - at;
    return at;
}

static size_t line_of(const Edit *e, size_t at, size_t *len) {
    while (at > 0 && e->text[at - 1] != '\n') at--;
    const char *end = memchr(e->text + at, '\n', e->n - at);
    *len = (end ? (size_t)(end - e->text) + 1 : e->n) - at;
    return at;
}

static void edit(Edit *e) {
    static const char *const pieces[] = {
        "0",     "-1",    "1",   "2",  "7",     "4096", "99999999",  "9223372036854775808",
        "1e400", "0x10",  "nan", "[",  "]",     "{",    "}",         "(",
        ")",     ":",     ",",   "\"", "'",     "*",    "&a",        "!!b",
        "- ",    "\t",    "\n",  "  ", "#",     "%",    "\xff",      "\x01",
        "= ",    "none",  "t",   "b",  "h",     "p",    "+",         "**",
        "|",     ">",     "?",   "~",  "---\n", "sum(", "shift(x, ", "where(",
        "@mem",  "carry "};
    size_t len, at, n;
    switch (below(e, 10)) {
    case 0: // a byte
        at = below(e, e->n);
        if (at < e->n) e->text[at] = (char)(1 + below(e, 127));
        break;
    case 1: // a word of another text for a word of this one
        at = word_of(e, e->text, e->n, &len);
        {
            const char *other = corpus[below(e, (size_t)n_corpus)];
            size_t from = word_of(e, other, strlen(other), &n);
            replace(e, at, len, other + from, n);
        }
        break;
    case 2: // a word of this text for another
        at = word_of(e, e->text, e->n, &len);
        {
            char word[64];
            size_t from = word_of(e, e->text, e->n, &n);
            n = MIN(n, sizeof word);
            memcpy(word, e->text + from, n);
            replace(e, at, len, word, n);
        }
        break;
    case 3: // a piece for a word
        at = word_of(e, e->text, e->n, &len);
        n = below(e, COUNTOF(pieces));
        replace(e, at, len, pieces[n], strlen(pieces[n]));
        break;
    case 4: // a piece anywhere
        n = below(e, COUNTOF(pieces));
        replace(e, below(e, e->n), 0, pieces[n], strlen(pieces[n]));
        break;
    case 5: // a line less
        at = line_of(e, below(e, e->n), &len);
        replace(e, at, len, "", 0);
        break;
    case 6: { // a line twice
        char line[400];
        at = line_of(e, below(e, e->n), &len);
        len = MIN(len, sizeof line);
        memcpy(line, e->text + at, len);
        line_of(e, below(e, e->n), &n);
        replace(e, line_of(e, below(e, e->n), &n), 0, line, len);
        break;
    }
    default: // cut short, or a span less
        at = below(e, e->n);
        replace(e, at, below(e, 8) ? below(e, 20) : e->n, "", 0);
    }
}

// --- What is made of it -------------------------------------------------------------------------
typedef struct Seen {
    int accepted, refused;
} Seen;
static Seen specs, graphs, programs;

static ssd_context *running;

static bool tame(Values v) {
    for (int i = 0; i < v.n; i++)
        for (i64 k = 0; k < ssd_array_count(&v.v[i].a); k++)
            if (!(fabs(v.v[i].a.v[k]) < 1e4)) return false;
    return true;
}

static void run_spec(const Edit *e, const ssd_compile_options *o) {
    Layer l;
    Arena a = {0};
    layer_open_text(&l, "edited.yaml", e->text, o->mode, NULL);
    const Sizes z = {.b = l.packed ? 1 : 2, .t = 19, .s = l.packed ? 3 : 0};
    i64 elements, dims[SSD_MAX_RANK], all = 0;
    bool ok = true;
    for (int i = 0; i < l.n_in; i++)
        ok &= ssd_host_dims(&l.in[i], &z, dims, &elements), all += elements;
    for (int i = 0; i < l.n_out; i++)
        ok &= ssd_host_dims(&l.out[i], &z, dims, &elements), all += elements;
    if (ok && all < 1000000) {
        const Values in = draw(&a, &l, z, 1), want = meaning(&a, &l, in, z);
        ssd_kernel *k = tame(want) ? compile(running, &l, o->schedule, NULL, NULL) : NULL;
        if (k) near(&l, launch(&a, k, &l, in, z, &(How){.own_workspace = true}), want, 20);
        ssd_kernel_destroy(k);
    }
    ssd_arena_free(&a);
    layer_close(&l);
}

static void read_spec(Arena *a, const Edit *e, u64 seed) {
    static const char *const schedules[] = {NULL, "form=recurrent", "form=quadratic",
                                            "form=chunked q=16"};
    const char *mode = seed % 5 == 0 ? "step" : "forward";
    ssd_compile_options o = {
        .spec = e->text, .spec_name = "edited.yaml", .mode = mode, .schedule = schedules[seed % 4]};
    Compiled c;
    ssd_status s = ssd_compile_spec(a, &o, "layout", NULL, NULL, &c);
    if (s == SSD_OK)
        specs.accepted++;
    else
        specs.refused++;
    check(s == SSD_OK || s == SSD_INVALID_SPEC || s == SSD_UNSUPPORTED, "status %s: %s",
          ssd_status_name(s), ssd_last_error());
    check(s == SSD_OK || ssd_last_error()[0], "refused without a message");
    if (s == SSD_OK && running) run_spec(e, &o);
}

static void fixed_point(const Text *one, const Text *two) {
    check(one->n == two->n && !memcmp(one->s, two->s, one->n),
          "prints, parses and prints otherwise:\n%s\n---\n%s", one->s,
          two->s ? two->s : "(nothing)");
}

static void read_graph(Arena *a, const Edit *e) {
    Diag d = {.arena = a, .file = "edited.ssd", .source = e->text, .source_len = e->n};
    Graph *g = ssd_graph_parse(a, e->text, e->n, "edited.ssd", &d);
    check(g || d.errors, "refused without a message");
    if (!g) {
        graphs.refused++;
        return;
    }
    Text one = {0}, two = {0}, why = {0};
    graphs.accepted++;
    ssd_graph_print(g, &one);
    check(ssd_graph_verify(g, &why) || why.n, "refused without a reason");
    Graph *again = ssd_graph_parse(a, one.s, one.n, "printed.ssd", &d);
    if (again) ssd_graph_print(again, &two);
    fixed_point(&one, &two);
    ssd_text_free(&one), ssd_text_free(&two), ssd_text_free(&why);
}

static void read_program(Arena *a, const Edit *e) {
    Diag d = {.arena = a, .file = "edited.ssd", .source = e->text, .source_len = e->n};
    Prog *p = ssd_tile_parse(a, e->text, e->n, "edited.ssd", &d);
    check(p || d.errors, "refused without a message");
    if (!p) {
        programs.refused++;
        return;
    }
    Text one = {0}, two = {0}, why = {0};
    programs.accepted++;
    ssd_tile_print(p, &one);
    check(ssd_tile_verify(p, &why) || why.n, "refused without a reason");
    Prog *again = ssd_tile_parse(a, one.s, one.n, "printed.ssd", &d);
    if (again) ssd_tile_print(again, &two);
    fixed_point(&one, &two);
    ssd_text_free(&one), ssd_text_free(&two), ssd_text_free(&why);
}

static bool ends_in(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static void try_one(int file, u64 seed) {
    static Edit e;
    Arena a = {0};
    label("mutations --rounds 1 --seed %llu %s", (unsigned long long)seed, corpus_name[file]);
    e.n = strlen(corpus[file]);
    memcpy(e.text, corpus[file], e.n + 1);
    e.r = ssd_random_new(seed, "edit");
    for (size_t i = 0, n = 1 + below(&e, 3); i < n; i++) edit(&e);
    if (getenv("SSD_TEST_SHOW")) fprintf(stderr, "%s\n", e.text);
    alarm(LATE);
    if (ends_in(corpus_name[file], ".yaml"))
        read_spec(&a, &e, seed);
    else if (strstr(corpus[file], "\nprogram ") || !strncmp(corpus[file], "program ", 8))
        read_program(&a, &e);
    else
        read_graph(&a, &e);
    alarm(0);
    ssd_arena_free(&a);
}

int main(int argc, char **argv) {
    int rounds = 50, run = 0, i = 1;
    u64 seed = 1;
    label("start");
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        if (!strcmp(argv[i], "--rounds"))
            rounds = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--seed"))
            seed = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--run"))
            run = atoi(argv[i + 1]);
        else
            return 2;
    }
    if (run && ssd_context_create(&(ssd_context_options){2, ""}, &running) != SSD_OK) return 2;
    for (; i < argc; i++)
        if (!load(argv[i])) return 2;
    for (int f = 0; f < n_corpus; f++)
        for (int r = 0; r < rounds; r++) try_one(f, seed + (u64)r);
    ssd_context_destroy(running);
    label("mutations");
    const struct {
        const char *what;
        Seen s;
    } all[] = {{"specs", specs}, {"graphs", graphs}, {"programs", programs}};
    for (int k = 0; k < 3; k++) {
        printf("%s: %d accepted, %d refused\n", all[k].what, all[k].s.accepted, all[k].s.refused);
        // both must occur, or the edits are too strong or too weak to say anything
        if (all[k].s.accepted + all[k].s.refused > 100)
            check(all[k].s.accepted && all[k].s.refused, "the edits of %s are one-sided",
                  all[k].what);
    }
    return closing_line();
}
