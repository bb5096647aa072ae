// SPDX-License-Identifier: Apache-2.0
// Generated CUDA C++ as C++ for a CPU. The text is C++ already, but for four things:
// - asm("opcode .." : "=r"(a) : "r"(b)) calls a function of device.hpp: emu_opcode(a, b).
// - extern __shared__ T name[] is a pointer to the block's memory.
// - f(const __grid_constant__ A args) takes its arguments by reference.
// - view.get<2>(i) inside a template needs a word that NVRTC does without: view.template get<2>(i).
#include "rewrite.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

// The first line whose opcode stands in the statement's text counts. Its function takes the
// statement's operands in their order: results, then sources. `never`: instructions of machines
// with wgmma and TMA.
static const struct {
    const char *opcode, *function;
} ops[] = {
    {"wgmma", "never"},
    {"bulk", "never"},
    {"expect_tx", "never"},
    {"stmatrix", "never"},
    {"setmaxnreg", "nothing"},
    {"fence.proxy", "nothing"},
    {"griddepcontrol", "nothing"},
    {"prefetch", "nothing"},
    {"cp.async.wait_all", "copies_wait_all"},
    {"cp.async.wait_group", "copies_wait"},
    {"cp.async.commit", "copies_end"},
    {"cp.async.cg", "copy"},
    {"cp.async.ca", "copy"},
    {"cp.async.mbarrier", "copies_arrive"},
    {"mbarrier.init", "barrier_init"},
    {"mbarrier.arrive", "barrier_arrive"},
    {"mbarrier.test_wait", "barrier_wait"},
    {"mbarrier.try_wait", "barrier_wait"},
    {"bar.sync", "bar_sync"},
    {"ldmatrix.sync.aligned.m8n8.x4.trans", "load_4_turned"},
    {"ldmatrix.sync.aligned.m8n8.x4", "load_4"},
    {"ldmatrix.sync.aligned.m8n8.x2.trans", "load_2_turned"},
    {"ldmatrix.sync.aligned.m8n8.x2", "load_2"},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16", "mma_bf16"},
    {"mma.sync.aligned.m16n8k16.row.col.f32.f16", "mma_f16"},
    {"mma.sync.aligned.m16n8k8.row.col.f32.tf32", "mma_tf32"},
    {"ld.global.nc.v4.f32", "read_4"},
    {"ld.global.v4.f32", "read_4"},
    {"ld.global.nc.v2.u32", "read_2"},
    {"ld.global.v2.u32", "read_2"},
    {"ld.global", "read_1"},
    {"st.global.v4", "write_4"},
    {"st.global.v2.u32", "write_2"},
    {"st.global", "write_1"},
    {"ld.shared.u32", "shared_read"},
    {"st.shared.u32", "shared_write"},
    {"st.shared.u16", "shared_write"},
    {"cvt.f32.f16", "f32_of_f16"},
    {"cvt.rn.f16.f32", "f16_of_f32"},
    {"cvt.rn.f16x2.f32", "two_f16"},
    {"cvt.rn.bf16x2.f32", "two_bf16"},
    {"cvt.rna.tf32.f32", "tf32_of_f32"},
    {"ex2.approx.ftz.f32", "exp2"},
    {"fma.rn.bf16x2 %0, %1, %2, r", "scale_bf16"},
};

// --- Scanning -----------------------------------------------------------------------------------
// Behind what begins at s: a literal, a comment or a character.
static const char *over(const char *s) {
    if (s[0] == '/' && s[1] == '/') return s + strcspn(s, "\n");
    if (*s++ != '"') return s;
    while (*s && *s != '"') s += *s == '\\' && s[1] ? 2 : 1;
    return *s ? s + 1 : s;
}

// The first `sign` of s..end outside all parentheses, or end.
static const char *find(const char *s, const char *end, char sign) {
    for (int depth = 0; s < end; s = over(s)) {
        if (!depth && *s == sign) return s;
        depth += strchr("([{", *s) ? 1 : strchr(")]}", *s) ? -1 : 0;
    }
    return end;
}

static bool is_name(char c) { return isalnum((unsigned char)c) || c == '_'; }

static const char *blanks(const char *s) { return s + strspn(s, " \t\n"); }
static const char *name_end(const char *s) {
    while (is_name(*s)) s++;
    return s;
}

// Where s begins with the word: behind it, else null.
static const char *word(const char *s, const char *w) {
    size_t n = strlen(w);
    return !strncmp(s, w, n) && !is_name(s[n]) ? s + n : NULL;
}

static int length(const char *s, const char *end) { return (int)(end - s); }

// --- Rewriting ----------------------------------------------------------------------------------
static const char *function_of(const char *template, const char *end) {
    char *text = strndup(template, (size_t)(end - template));
    const char *function = NULL;
    for (size_t i = 0; text && !function && i < sizeof ops / sizeof *ops; i++)
        if (strstr(text, ops[i].opcode)) function = ops[i].function;
    free(text);
    return function;
}

// An operand is "constraint"(expression), or a macro of the same shape.
static void operands(FILE *out, const char *s, const char *end, const char **comma) {
    while (s < end) {
        const char *next = find(s, end, ','), *open = find(s, next, '(');
        if (open < next) {
            const char *close = find(open + 1, next, ')');
            fprintf(out, "%s%.*s", *comma, length(open + 1, close), open + 1);
            *comma = ", ";
        }
        s = next < end ? next + 1 : end;
    }
}

// The asm statement whose operands stand in s..end; a call in its place.
static bool call(FILE *out, const char *s, const char *end, FILE *log) {
    const char *results = find(s, end, ':');
    const char *template = blanks(s);
    if (!strncmp(template, "\"\"", 2))
        return fputs("(void)0", out), true; // holds a value in a register
    const char *function = function_of(template, results);
    if (!function) {
        fprintf(log, "no function for asm(%.*s)\n", length(template, results), template);
        return false;
    }
    fprintf(out, "emu_%s(", function);
    if (strcmp(function, "never") && results < end) {
        const char *sources = find(results + 1, end, ':'), *comma = "";
        operands(out, results + 1, sources, &comma);
        if (sources < end) operands(out, sources + 1, find(sources + 1, end, ':'), &comma);
    }
    fputc(')', out);
    return true;
}

// extern __shared__ __align__(16) T name[]; behind the first two words.
static const char *shared(FILE *out, const char *s) {
    const char *end = strchr(s, ';'), *name = strchr(s, '[');
    const char *type = strchr(s, ')');
    if (!end || !name || !type) return s;
    type = blanks(type + 1);
    while (name > type && is_name(name[-1])) name--;
    int n = length(type, name);
    fprintf(out, "%.*s*%.*s = (%.*s*)emu_shared", n, type, length(name, name_end(name)), name, n,
            type);
    return end;
}

// A kernel's arguments, behind `name(const __grid_constant__`; its name and their size are told at
// the end.
static const char *arguments(FILE *out, FILE *kernels, const char *source, const char *s) {
    const char *type = blanks(s), *behind = name_end(type);
    const char *name = s;
    while (name > source && *name != '(') name--;
    const char *end = name;
    while (name > source && is_name(name[-1])) name--;
    fprintf(kernels, "EMU_KERNEL(%.*s, %.*s)\n", length(name, end), name, length(type, behind),
            type);
    fprintf(out, "%.*s &", length(type, behind), type);
    return behind;
}

bool emu_rewrite(const char *source, FILE *out, FILE *log) {
    const char *end = source + strlen(source), *to;
    char *kernels_text = NULL;
    size_t n;
    FILE *kernels = open_memstream(&kernels_text, &n);
    bool ok = kernels != NULL;
    fputs("#include \"device.hpp\"\n", out);
    for (const char *s = source; s < end && ok;) {
        bool first = s == source || !is_name(s[-1]);
        if (first && (to = word(s, "asm"))) {
            to = blanks(to);
            if (word(to, "volatile")) to = blanks(word(to, "volatile"));
            const char *close = find(to + 1, end, ')');
            ok = call(out, to + 1, close, log);
            s = close < end ? close + 1 : end;
        } else if (first && (to = word(s, "extern __shared__"))) {
            s = shared(out, to);
        } else if (first && (to = word(s, "__grid_constant__"))) {
            s = arguments(out, kernels, source, to);
        } else if (*s == '.' && (to = name_end(s + 1)) > s + 1 && to[0] == '<' &&
                   isdigit((unsigned char)to[1])) {
            fprintf(out, ".template %.*s", length(s + 1, to), s + 1);
            s = to;
        } else {
            to = over(s);
            fwrite(s, 1, (size_t)(to - s), out);
            s = to;
        }
    }
    if (kernels) fclose(kernels);
    if (ok) fprintf(out, "\n%s", kernels_text);
    free(kernels_text);
    return ok;
}
