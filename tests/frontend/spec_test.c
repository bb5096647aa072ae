// SPDX-License-Identifier: Apache-2.0
// The spec language: every bad_*.yaml here gives exactly the errors its lines name, hostile bytes
// and sizes are refused by name, every example of specs/README.md is a valid spec, and a spec lists
// its tensors as documented.
#include "../../frontend/spec.h"
#include "../runtime/test.h"

#include <glob.h>

typedef struct Parsed {
    Arena arena;
    Diag diag;
    Spec *spec;
} Parsed;

static void parse(Parsed *p, const char *text, size_t n, const char *dims) {
    *p = (Parsed){0};
    p->diag.arena = &p->arena;
    p->spec = ssd_spec_parse(&p->arena, text, n, "spec.yaml", dims, &p->diag);
    CHECK(!p->spec == (p->diag.errors > 0));
}

static void done(Parsed *p) { ssd_arena_free(&p->arena); }

static char *shown(Parsed *p) {
    Text t = {0};
    ssd_diag_print(&p->diag, &t);
    char *s = ssd_arena_dup(&p->arena, t.s ? t.s : "", t.n);
    ssd_text_free(&t);
    return s;
}

// --- Files that say on the wrong line what is wrong ---------------------------------------------

typedef struct Expected {
    int line, col;
    char text[512];
    bool seen;
} Expected;

// `# ERROR: col: message`, any number of them a line.
static int expectations(const char *s, Expected *out, int max) {
    int n = 0;
    for (int line = 1; s; line++) {
        const char *end = strchr(s, '\n'), *at = s;
        size_t len = end ? (size_t)(end - s) : strlen(s);
        while ((at = strstr(at, "# ERROR: ")) && at < s + len && n < max) {
            Expected *e = &out[n++];
            char *rest;
            *e = (Expected){.line = line, .col = (int)strtol(at + 9, &rest, 10)};
            rest += 2;
            const char *stop = strstr(rest, "# ERROR: ");
            size_t size = (size_t)((stop && stop < s + len ? stop : s + len) - rest);
            while (size && rest[size - 1] == ' ') size--;
            CHECK(size < sizeof e->text);
            memcpy(e->text, rest, size);
            at = rest;
        }
        s = end ? end + 1 : NULL;
    }
    return n;
}

static void test_bad_file(const char *path) {
    static Expected want[128];
    size_t n;
    char *text = test_read_file(path, &n);
    int wanted = expectations(text, want, 128);
    if (!CHECK(wanted > 0)) printf("%s: names no error\n", path);
    Parsed p;
    parse(&p, text, n, NULL);
    for (u32 i = 0; i < p.diag.items.n; i++) {
        const DiagItem *it = &p.diag.items.v[i];
        if (it->kind != DIAG_ERROR) continue;
        bool found = false;
        for (int k = 0; k < wanted && !found; k++)
            if (want[k].line == it->at.line && want[k].col == it->at.col &&
                !strcmp(want[k].text, it->text))
                found = want[k].seen = true;
        if (!CHECK(found))
            printf("%s:%d:%d: not expected: %s\n", path, it->at.line, it->at.col, it->text);
    }
    for (int k = 0; k < wanted; k++)
        if (!CHECK(want[k].seen))
            printf("%s:%d:%d: missing: %s\n", path, want[k].line, want[k].col, want[k].text);
    CHECK(strstr(shown(&p), "^"));
    done(&p);
    free(text);
}

static void test_bad_files(void) {
    glob_t g;
    if (!CHECK(glob(SOURCE_DIR "/tests/frontend/bad_*.yaml", 0, NULL, &g) == 0 && g.gl_pathc > 20))
        return;
    for (size_t i = 0; i < g.gl_pathc; i++) test_bad_file(g.gl_pathv[i]);
    globfree(&g);
}

// --- Bytes and sizes ----------------------------------------------------------------------------

#define HEAD "ssdc: 1\nname: a\ndims: {heads: 2, head_dim: 4, state_size: 4}\n"
#define INPUTS                                                                                     \
    "inputs:\n  q: f32[b, t, h, n]\n  k: f32[b, t, h, n]\n  v: f32[b, t, h, p]\n  f: f32[b, t, "   \
    "h]\n"
#define SSD "ssd: {query: q, key: k, value: v, log_decay: -exp(f)}\n"
#define OUTPUTS "outputs:\n  y: f32[b, t, h, p] = ssd\n"
#define GOOD HEAD INPUTS SSD OUTPUTS

static void test_bytes(void) {
    static const struct {
        const char *text;
        size_t n;
        const char *want;
    } cases[] = {
#define CASE(text, want) {text, sizeof(text) - 1, want}
        CASE("", "spec.yaml:1:1: error: the file is empty"),
        CASE("# only a comment\n", "spec.yaml:1:1: error: the file is empty"),
        CASE("ssdc: 1\nna\0me: 3\n", "spec.yaml:2:3: error: NUL byte"),
        CASE("\xff\xfes\0s\0", "the file is UTF-16 (little-endian)"),
        CASE("\xfe\xff\0s\0s", "the file is UTF-16 (big-endian)"),
        CASE("\xff\xfe\0\0s\0\0\0", "the file is UTF-32 (little-endian)"),
        CASE("\0\0\xfe\xff\0\0\0s", "the file is UTF-32 (big-endian)"),
        CASE("ssdc: 1\ndoc: caf\xe9 au lait\n", "spec.yaml:2:9: error: invalid UTF-8: byte 0xe9"),
        CASE("ssdc: 1\ndoc: \xc0\xaf\n", "spec.yaml:2:6: error: invalid UTF-8: byte 0xc0"),
        CASE("ssdc: 1\ndoc: \xed\xa0\x80\n", "spec.yaml:2:6: error: invalid UTF-8: byte 0xed"),
        CASE("ssdc: 1\ndoc: \xf5\x80\x80\x80\n", "spec.yaml:2:6: error: invalid UTF-8: byte 0xf5"),
        CASE("ssdc: 1\ndoc: \xe2\x82", "spec.yaml:2:6: error: invalid UTF-8: byte 0xe2"),
        CASE("ssdc: 1\ndims:\n\theads: 3\n", "spec.yaml:3:1: error: tab in indentation"),
        CASE("ssdc: 1\ndims:\n  \theads: 3\n", "spec.yaml:3:3: error: tab in indentation"),
        CASE("ssdc: 1\ndoc: a\x1b[31m\n", "spec.yaml:2:7: error: control character U+001B"),
        CASE("ssdc: 1\ndoc: a\xef\xbb\xbf\n", "spec.yaml:2:7: error: control character U+FEFF"),
        CASE("ssdc: 1\ndoc: \"a\\0b\"\n", "spec.yaml:2:6: error: NUL character in a text"),
        CASE("ssdc: 1\ndoc: \"open\n", "error: YAML: found unexpected end of stream"),
        CASE("ssdc: 1\n? [a, b]\n: c\n", "spec.yaml:2:3: error: a key must be plain text"),
        CASE("- 1\n- 2\n", "spec.yaml:1:1: error: a spec is a mapping that begins with 'ssdc: 1', "
                           "found a sequence"),
        CASE("hello\n",
             "spec.yaml:1:1: error: a spec is a mapping that begins with 'ssdc: 1', found text"),
        CASE("\xef\xbb\xbfssdc: 2\n", "spec.yaml:1:7: error: language version '2'"),
        // After a character of several bytes, columns still count characters.
        CASE(HEAD "doc: \"\xc3\xa9\xc3\xa9\"   # \xe2\x82\xac\n" INPUTS
                  "  \"\xc3\xa9\": f32[q]\n" SSD OUTPUTS,
             "spec.yaml:10:12: error: unknown axis 'q'"),
#undef CASE
    };
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        Parsed p;
        parse(&p, cases[i].text, cases[i].n, NULL);
        CHECK_HOLDS(shown(&p), cases[i].want);
        done(&p);
    }
    static const char *const good[] = {GOOD, "\xef\xbb\xbf" GOOD, "---\n" GOOD "...\n",
                                       "# caf\xc3\xa9\n" GOOD,
                                       GOOD "modes: [\tforward\t]\t# tabs between words\n"};
    for (size_t i = 0; i < COUNTOF(good); i++) {
        Parsed p;
        parse(&p, good[i], strlen(good[i]), NULL);
        CHECK_SAME(shown(&p), "");
        done(&p);
    }
    Text crlf = {0};
    for (const char *c = GOOD; *c; c++) ssd_text_printf(&crlf, *c == '\n' ? "\r\n" : "%c", *c);
    Parsed p;
    parse(&p, crlf.s, crlf.n, NULL);
    CHECK_SAME(shown(&p), "");
    done(&p);
    ssd_text_free(&crlf);
}

static void repeat(Text *t, const char *s, int n) {
    for (int i = 0; i < n; i++) ssd_text_printf(t, "%s", s);
}

// A text built as head, n times middle, n times tail; the error it gives.
static void limit(const char *head, const char *middle, int n, const char *tail, const char *rest,
                  const char *want) {
    Text t = {0};
    ssd_text_printf(&t, "%s", head);
    repeat(&t, middle, n);
    repeat(&t, tail, n);
    ssd_text_printf(&t, "%s", rest);
    Parsed p;
    parse(&p, t.s, t.n, NULL);
    if (want)
        CHECK_HOLDS(shown(&p), want);
    else
        CHECK_SAME(shown(&p), "");
    done(&p);
    ssd_text_free(&t);
}

static void test_limits(void) {
    const char *let = HEAD INPUTS "let:\n  a: \"", *end = "\"\n" SSD OUTPUTS;
    limit("ssdc: ", "[", 40, "]", "\n", "nested deeper than 32 levels");
    limit("ssdc: ", "[", 100000, "", "\n", "nested deeper than 32 levels");
    limit("ssdc: [", "1,", 100001, "", "]\n", "more than 100000 values in a file");
    limit("", "# a comment of 30 characters\n", 40000, "", GOOD, "at most 1048576 are allowed");
    limit("doc: \"", "0123456789", 6600, "", "\"\n",
          "a text of 66000 bytes: at most 65536 are allowed");
    limit(let, "(", 150, "", "f", "YAML: found unexpected end of stream");
    limit(let, "(", 250, ")", end, "an expression of more than 200 levels");
    limit(let, "-", 250, "", "f\"\n" SSD OUTPUTS, "an expression of more than 200 levels");
    limit(let, "not ", 250, "", "f\"\n" SSD OUTPUTS, "an expression of more than 200 levels");
    limit(let, "2**", 250, "", "f\"\n" SSD OUTPUTS, "an expression of more than 200 levels");
    limit(let, "f+", 250, "", "f\"\n" SSD OUTPUTS, "an expression of more than 200 levels");
    limit(let, "exp(", 250, ")", end, "an expression of more than 200 levels");
    limit(let, "f+", 150, "", "f", "YAML: found unexpected end of stream");
    limit(let, "f*", 150, "",
          "f\"\nssd: {query: q, key: k, value: a * v, log_decay: -exp(f)}\n" OUTPUTS, NULL);
    limit(let, "f", 80, "", end, "a name of 80 characters: at most 64 are allowed");
    limit(HEAD INPUTS "let: {a: \"clamp(f", ",1", 10, "", ")\"}\n" SSD OUTPUTS,
          "more than 8 arguments");
    Text lets = {0};
    ssd_text_printf(&lets, "%slet:\n  a0: f\n", HEAD INPUTS);
    for (int i = 1; i < 1024; i++) ssd_text_printf(&lets, "  a%d: a%d + a%d\n", i, i - 1, i - 1);
    ssd_text_printf(&lets, "ssd: {query: q, key: k, value: a1023 * v}\n" OUTPUTS);
    Parsed p;
    parse(&p, lets.s, lets.n, NULL); // a chain of lets that doubles each time: linear work
    CHECK_SAME(shown(&p), "");
    if (p.spec) {
        Graph *g = ssd_spec_build(&p.arena, p.spec, "forward", NULL, &p.diag);
        CHECK(g && g->nodes.n < 1100);
    }
    done(&p);
    ssd_text_free(&lets);
}

// --- Examples -----------------------------------------------------------------------------------

static void test_readme(void) {
    size_t n;
    char *s = test_read_file(SOURCE_DIR "/specs/README.md", &n);
    int count = 0;
    for (char *at = s; at && (at = strstr(at, "```yaml\n")); count++) {
        at += 8;
        char *end = strstr(at, "```");
        if (!CHECK(end)) break;
        Parsed p;
        parse(&p, at, (size_t)(end - at), NULL);
        CHECK_SAME(shown(&p), "");
        static const char *const modes[] = {"forward", "step"};
        for (int m = 0; p.spec && m < 2; m++)
            if (ssd_spec_has_mode(p.spec, modes[m]))
                CHECK(ssd_spec_build(&p.arena, p.spec, modes[m], NULL, &p.diag) != NULL);
        done(&p);
        at = end + 3;
    }
    CHECK(count >= 12);
    free(s);
}

// --- What a spec lists --------------------------------------------------------------------------

static void list(Text *out, const SpecTensor *t, int n) {
    for (int i = 0; i < n; i++) {
        ssd_text_printf(out, "%s %s[", t[i].name, ssd_dtype_name(t[i].dtype));
        for (int k = 0; k < t[i].naxes; k++)
            ssd_text_printf(out, "%s%s=%lld", k ? " " : "", t[i].axis[k], (long long)t[i].size[k]);
        ssd_text_printf(out, "]%s%s%s %s\n", t[i].optional ? " optional" : "",
                        t[i].is_state ? " state" : "", t[i].automatic ? " automatic" : "",
                        t[i].hint ? t[i].hint : "-");
    }
}

static void check_lists(Parsed *p, const char *mode, const char *inputs, const char *outputs) {
    const SpecTensor *t;
    Text out = {0};
    int n = ssd_spec_inputs(p->spec, mode, &t);
    list(&out, t, n);
    CHECK_SAME(out.s, inputs);
    out.n = 0;
    n = ssd_spec_outputs(p->spec, mode, &t);
    list(&out, t, n);
    CHECK_SAME(out.s, outputs);
    ssd_text_free(&out);
}

static void test_lists(void) {
    static const char text[] =
        "ssdc: 1\nname: lists-it.2\ndims: {heads: 4, groups: 2, head_dim: 8, state_size: "
        "6}\nsequences: packed\n"
        "doc: A sentence.\nchunk_length: [16, 32]\nmodes: [forward, step, backward]\n"
        "inputs:\n  C: bf16[b, t, g, n]\n  k: f16[b, h, t, n]\n  v: f32[b, t, h, p]\n  dt: f32[b, "
        "t, h]\n"
        "  bias: f32[h] = -1.5\n  A_log: f32[h]\n  z: f32[b, t, h] = none\n"
        "let:\n  delta: softplus(dt + bias)\n  kc: shift(k, 3) + shift(k, 1) + cumsum(dt)\n  pos: "
        "index(t)\n  again: shift(k, 3)\n"
        "ssd:\n  a: {query: C, key: kc, value: 'shift(v, 1)', log_decay: -exp(A_log) * delta, "
        "final_state: last}\n"
        "  b: {query: C, key: kc * pos * again, value: 1}\n"
        "outputs:\n  y: bf16[b, t, h, p] = silu(z) * (a + b)\n  w: f32[b, h, t] = shift(dt, 2)\n";
    Parsed p;
    parse(&p, text, sizeof text - 1, NULL);
    CHECK_SAME(shown(&p), "");
    if (!p.spec) {
        done(&p);
        return;
    }
    CHECK_SAME(ssd_spec_name(p.spec), "lists-it.2");
    CHECK_SAME(ssd_spec_doc(p.spec), "A sentence.");
    CHECK_SAME(ssd_spec_chunk(p.spec), "16 32");
    CHECK(ssd_spec_has_mode(p.spec, "backward") && !ssd_spec_has_mode(p.spec, "sideways"));
    check_lists(&p, "forward",
                "C bf16[b=-1 t=-1 g=2 n=6] small\nk f16[b=-1 h=4 t=-1 n=6] normal\nv f32[b=-1 t=-1 "
                "h=4 p=8] normal\n"
                "dt f32[b=-1 t=-1 h=4] dt\nbias f32[h=4] optional dt\nA_log f32[h=4] A_log\n"
                "z f32[b=-1 t=-1 h=4] optional normal\n"
                "a_h0 f32[s=-1 h=4 p=8 n=6] optional state state\nb_h0 f32[s=-1 h=4 n=6] optional "
                "state automatic state\n"
                "kc_0 f32[s=-1 w3=3 h=4 n=6] optional state automatic state\n"
                "kc2_0 f32[s=-1 w1=1 h=4 n=6] optional state automatic state\n"
                "kc3_0 f32[s=-1 h=4] optional state automatic state\nt_0 f32[s=-1] optional state "
                "automatic state\n"
                "a_value_0 f32[s=-1 w1=1 h=4 p=8] optional state automatic state\n"
                "w_0 f32[s=-1 w2=2 h=4] optional state automatic state\n"
                "cu_seqlens i32[s+1=-1] cu_seqlens\n",
                "y bf16[b=-1 t=-1 h=4 p=8] optional -\nw f32[b=-1 h=4 t=-1] optional -\n"
                "last f32[s=-1 h=4 p=8 n=6] optional state state\nb_hT f32[s=-1 h=4 n=6] optional "
                "state automatic state\n"
                "kc_T f32[s=-1 w3=3 h=4 n=6] optional state automatic state\n"
                "kc2_T f32[s=-1 w1=1 h=4 n=6] optional state automatic state\n"
                "kc3_T f32[s=-1 h=4] optional state automatic state\nt_T f32[s=-1] optional state "
                "automatic state\n"
                "a_value_T f32[s=-1 w1=1 h=4 p=8] optional state automatic state\n"
                "w_T f32[s=-1 w2=2 h=4] optional state automatic state\n");
    check_lists(
        &p, "step",
        "C bf16[b=-1 g=2 n=6] small\nk f16[b=-1 h=4 n=6] normal\nv f32[b=-1 h=4 p=8] normal\n"
        "dt f32[b=-1 h=4] dt\nbias f32[h=4] optional dt\nA_log f32[h=4] A_log\nz f32[b=-1 h=4] "
        "optional normal\n"
        "a_h0 f32[b=-1 h=4 p=8 n=6] state state\nb_h0 f32[b=-1 h=4 n=6] state automatic state\n"
        "kc_0 f32[b=-1 w3=3 h=4 n=6] state automatic state\nkc2_0 f32[b=-1 w1=1 h=4 n=6] state "
        "automatic state\n"
        "kc3_0 f32[b=-1 h=4] state automatic state\nt_0 f32[b=-1] state automatic state\n"
        "a_value_0 f32[b=-1 w1=1 h=4 p=8] state automatic state\nw_0 f32[b=-1 w2=2 h=4] state "
        "automatic state\n",
        "y bf16[b=-1 h=4 p=8] optional -\nw f32[b=-1 h=4] optional -\n"
        "last f32[b=-1 h=4 p=8 n=6] state state\nb_hT f32[b=-1 h=4 n=6] state automatic state\n"
        "kc_T f32[b=-1 w3=3 h=4 n=6] state automatic state\nkc2_T f32[b=-1 w1=1 h=4 n=6] state "
        "automatic state\n"
        "kc3_T f32[b=-1 h=4] state automatic state\nt_T f32[b=-1] state automatic state\n"
        "a_value_T f32[b=-1 w1=1 h=4 p=8] state automatic state\nw_T f32[b=-1 w2=2 h=4] state "
        "automatic state\n");
    done(&p);
}

// A band's states: forward gives them, step takes and gives them. Two bands of one width share the
// state of a key; a value and a decay that are the same for every token have none, and a band of 1
// has none at all.
static void test_band_lists(void) {
    static const char text[] =
        "ssdc: 1\nname: bands\ndims: {heads: 4, groups: 2, head_dim: 8, state_size: 6}\n"
        "inputs:\n  q: bf16[b, t, h, n]\n  k: bf16[b, t, g, n]\n  v: bf16[b, t, h, p]\n"
        "  f: f32[b, t, h]\n  c: f32[h]\n"
        "ssd:\n  num: {query: q, key: 'shift(k, 1)', value: v, log_decay: -f, mask: {band: 3}}\n"
        "  den: {query: q, key: 'shift(k, 1)', value: 1, log_decay: -c, mask: {band: 3}}\n"
        "  self: {query: q, key: k, value: v, mask: {band: 1}}\n"
        "outputs:\n  y: f32[b, t, h, p] = num / den + self\n";
#define DECLARED(b_t)                                                                              \
    "q bf16[" b_t " h=4 n=6] small\nk bf16[" b_t " g=2 n=6] normal\nv bf16[" b_t                   \
    " h=4 p=8] normal\nf f32[" b_t " h=4] decay\nc f32[h=4] decay\n"
    Parsed p;
    parse(&p, text, sizeof text - 1, NULL);
    CHECK_SAME(shown(&p), "");
    if (p.spec) {
        check_lists(
            &p, "forward",
            DECLARED(
                "b=-1 t=-1") "num_key2_0 f32[b=-1 w1=1 g=2 n=6] optional state automatic state\n",
            "y f32[b=-1 t=-1 h=4 p=8] optional -\n"
            "num_key_T f32[b=-1 w2=2 g=2 n=6] optional state automatic state\n"
            "num_key2_T f32[b=-1 w1=1 g=2 n=6] optional state automatic state\n"
            "num_value_T f32[b=-1 w2=2 h=4 p=8] optional state automatic state\n"
            "num_log_decay_T f32[b=-1 w2=2 h=4] optional state automatic decay\n");
        check_lists(&p, "step",
                    DECLARED("b=-1") "num_key_0 f32[b=-1 w2=2 g=2 n=6] state automatic state\n"
                                     "num_key2_0 f32[b=-1 w1=1 g=2 n=6] state automatic state\n"
                                     "num_value_0 f32[b=-1 w2=2 h=4 p=8] state automatic state\n"
                                     "num_log_decay_0 f32[b=-1 w2=2 h=4] state automatic decay\n",
                    "y f32[b=-1 h=4 p=8] optional -\n"
                    "num_key_T f32[b=-1 w2=2 g=2 n=6] state automatic state\n"
                    "num_key2_T f32[b=-1 w1=1 g=2 n=6] state automatic state\n"
                    "num_value_T f32[b=-1 w2=2 h=4 p=8] state automatic state\n"
                    "num_log_decay_T f32[b=-1 w2=2 h=4] state automatic decay\n");
    }
#undef DECLARED
    done(&p);
}

static void test_dims(void) {
    static const struct {
        const char *dims, *want;
    } cases[] = {
        {"heads=6 p=8", ""},
        {"h=6,n=3", ""},
        {"head=6", "error: dims: the spec has no dim 'head'; did you mean 'heads'?"},
        {"groups=1", "error: dims: the spec has no dim 'groups'"},
        {"b=2", "error: dims: 'b' is a run-time size"},
        {"h=0", "error: dims: h is a number from 1 to 1048576, found '0'"},
        {"h=9999999999999999999999", "error: dims: h is a number"},
        {"h", "error: dims 'h': expected name=size"},
    };
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        Parsed p;
        parse(&p, GOOD, strlen(GOOD), cases[i].dims);
        if (*cases[i].want)
            CHECK_HOLDS(shown(&p), cases[i].want);
        else
            CHECK_SAME(shown(&p), "");
        const SpecTensor *t;
        if (p.spec && ssd_spec_inputs(p.spec, "forward", &t) > 0) CHECK(t[0].size[2] == 6);
        done(&p);
    }
    Parsed p;
    const char *groups = "ssdc: 1\nname: a\ndims: {heads: 8, groups: 4}\n";
    parse(&p, groups, strlen(groups), "groups=3");
    CHECK_HOLDS(shown(&p), "groups (3) must divide heads (8)");
    done(&p);
}

static void test_warnings(void) {
    const char *text = HEAD INPUTS "  u: f32[h] = 1\nlet:\n  w: f + 1\n" SSD OUTPUTS;
    Parsed p;
    parse(&p, text, strlen(text), NULL);
    CHECK(p.spec && p.diag.items.n == 2);
    CHECK_HOLDS(shown(&p), "spec.yaml:9:3: warning: input 'u' is not used");
    CHECK_HOLDS(shown(&p), "spec.yaml:11:3: warning: let 'w' is not used");
    done(&p);
}

// --- Building -----------------------------------------------------------------------------------

static void test_build_errors(void) {
    static const struct {
        const char *mode, *absent, *want;
    } cases[] = {
        {"forward", "q", "absent: input 'q' has no default, it cannot be left out"},
        {"forward", "yy", "absent: the spec has no input, output or state 'yy'; did you mean 'y'?"},
        {"forward", "y hT", "absent: no output is left"},
        {"step", "h0", "absent: state 'h0' cannot be left out of a step"},
        {"backward", NULL, "mode 'backward' comes with a later version of ssdc"},
        {"forwards", NULL, "unknown mode 'forwards'; did you mean 'forward'?"},
    };
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        Parsed p;
        parse(&p, GOOD, strlen(GOOD), NULL);
        CHECK(p.spec && !ssd_spec_build(&p.arena, p.spec, cases[i].mode, cases[i].absent, &p.diag));
        CHECK_HOLDS(shown(&p), cases[i].want);
        done(&p);
    }
    Parsed p;
    const char *full = HEAD INPUTS "ssd: {query: q, key: k, value: v * f, mask: full}\n" OUTPUTS;
    parse(&p, full, strlen(full), NULL);
    CHECK(p.spec && !ssd_spec_has_mode(p.spec, "step"));
    CHECK(p.spec && !ssd_spec_build(&p.arena, p.spec, "step", NULL, &p.diag));
    CHECK_HOLDS(shown(&p), "no mode step: operator 'ssd' has mask full, which reads the future");
    done(&p);
    const char *lost = HEAD INPUTS
        "  w: f32[h, p] = 1\nssd: {query: q, key: k, value: 'f * w + sum(v, p)'}\n" OUTPUTS;
    parse(&p, lost, strlen(lost), NULL);
    CHECK(p.spec && !ssd_spec_build(&p.arena, p.spec, "forward", "w", &p.diag));
    CHECK_HOLDS(shown(&p), "with these inputs absent, operator 'ssd' has no axis p any more");
    done(&p);
}

// The graph of `with`, without `absent`, is the graph of `plain`.
static void same_graph(const char *with, const char *absent, const char *plain) {
    static const char head[] =
        HEAD INPUTS "  z: f32[b, t, h, p] = none\n  D: f32[h] = 2\n"
                    "ssd: {query: q, key: k, value: v, log_decay: -exp(f)}\n"
                    "outputs:\n  u: f32[b, t, h, p] = z * D * v + v\n  y: f32[b, t, h, p] = ";
    char *text[2];
    const char *const e[] = {with, plain};
    Parsed p[2];
    for (int i = 0; i < 2; i++) {
        Text t = {0}, out = {0};
        ssd_text_printf(&t, "%s%s\n", head, e[i]);
        parse(&p[i], t.s, t.n, NULL);
        CHECK_SAME(shown(&p[i]), "");
        Graph *g = p[i].spec ? ssd_spec_build(&p[i].arena, p[i].spec, "forward",
                                              ssd_arena_printf(&p[i].arena, "%s u h0 hT", absent),
                                              &p[i].diag)
                             : NULL;
        CHECK_SAME(shown(&p[i]), "");
        if (g) ssd_graph_print(g, &out);
        text[i] = out.s;
        ssd_text_free(&t);
    }
    if (text[0] && text[1]) CHECK_SAME(text[0], text[1]);
    for (int i = 0; i < 2; i++) free(text[i]), done(&p[i]);
}

static void test_none(void) {
    same_graph("ssd * silu(z)", "z", "ssd");
    same_graph("silu(z) * ssd", "z", "ssd");
    same_graph("ssd / z", "z", "ssd");
    same_graph("z / ssd", "z", "1 / ssd");
    same_graph("ssd + z", "z", "ssd");
    same_graph("ssd - z", "z", "ssd");
    same_graph("z - ssd", "z", "-ssd");
    same_graph("ssd * (z + -z)", "z", "ssd");
    same_graph("ssd * sum(z, p)", "z", "ssd");
    same_graph("ssd * clamp(z, 0, 1) * rmsnorm(-z, p)", "z", "ssd");
    same_graph("rotary(ssd, z, halves)", "z", "ssd");
    same_graph("ssd * D", "z D", "ssd * 2");
}

int main(void) {
    test_bad_files();
    test_bytes();
    test_limits();
    test_readme();
    test_lists();
    test_band_lists();
    test_dims();
    test_warnings();
    test_build_errors();
    test_none();
    return test_end();
}
