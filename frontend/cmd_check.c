// SPDX-License-Identifier: Apache-2.0
// ssdc check SPEC...: parse and type; every error with its place.
#include "cli.h"

#include <stdio.h>

static const char *const kinds[] = {
    [DIAG_ERROR] = "error", [DIAG_WARNING] = "warning", [DIAG_NOTE] = "note"};

static json_t *messages(const Diag *d) {
    json_t *list = json_array();
    for (u32 i = 0; i < d->items.n; i++) {
        const DiagItem *m = &d->items.v[i];
        json_t *text = json_string(m->text);
        json_array_append_new(list, json_pack("{s:s, s:i, s:i, s:o}", "kind", kinds[m->kind],
                                              "line", m->at.line, "col", m->at.col, "text",
                                              text ? text : json_null()));
    }
    return list;
}

// "x bf16[b, t, h=24, p=64]", a question mark behind what may be left out.
static void print_tensor(const SpecTensor *t, Text *out) {
    ssd_text_printf(out, "%s %s[", t->name, ssd_dtype_name(t->dtype));
    for (int d = 0; d < t->naxes; d++) {
        ssd_text_printf(out, "%s%s", d ? ", " : "", t->axis[d]);
        if (t->size[d] >= 0) ssd_text_printf(out, "=%lld", (long long)t->size[d]);
    }
    ssd_text_printf(out, "]");
}

// A list that breaks its lines between tensors.
static void print_list(const char *head, const SpecTensor *v, int n, bool inputs) {
    int indent = (int)strlen(head), column = printf("%s", head);
    for (int i = 0; i < n; i++) {
        Text t = {0};
        print_tensor(&v[i], &t);
        if (inputs && v[i].optional) ssd_text_printf(&t, "?");
        bool wrap = column + 2 + (int)t.n > 100;
        if (i) column += printf(wrap ? ",\n" : ", ");
        if (i && wrap) column = printf("%*s", indent, "");
        column += printf("%s", t.s);
        ssd_text_free(&t);
    }
    printf("\n");
}

static void print_spec(const Cli *c, const Spec *s, const char *path) {
    static const char *const modes[][2] = {{"forward", "  forward: "}, {"step", "  step:    "}};
    const char *doc = ssd_spec_doc(s);
    printf("%s: %sok%s, %s%s%s\n", path, ssd_cli_good(c), ssd_cli_plain(c), ssd_spec_name(s),
           doc && *doc ? ": " : "", doc ? doc : "");
    for (size_t m = 0; m < COUNTOF(modes); m++) {
        if (!ssd_spec_has_mode(s, modes[m][0])) continue;
        const SpecTensor *in, *out;
        int n_in = ssd_spec_inputs(s, modes[m][0], &in),
            n_out = ssd_spec_outputs(s, modes[m][0], &out);
        print_list(modes[m][1], in, n_in, true);
        print_list("        -> ", out, n_out, false);
    }
}

static bool check(Cli *c, const char *path, const char *text, size_t len) {
    Diag d = {.arena = &c->arena, .file = path, .source = text, .source_len = len};
    Spec *s = ssd_spec_parse(&c->arena, text, len, path, c->sizes.dims, &d);
    if (c->json) {
        ssd_cli_json(json_pack("{s:s, s:b, s:o, s:o}", "file", path, "ok", s != NULL, "name",
                               s ? json_string(ssd_spec_name(s)) : json_null(), "messages",
                               messages(&d)));
        return s != NULL;
    }
    Text t = {0};
    ssd_diag_print(&d, &t);
    if (t.n) fputs(t.s, stderr);
    ssd_text_free(&t);
    if (s) print_spec(c, s, path);
    return s != NULL;
}

int ssd_cmd_check(Cli *c) {
    int code = CLI_OK;
    for (int i = 0; i < c->n_args; i++) {
        size_t len = 0;
        char *text = ssd_cli_read(c, c->args[i], &len);
        if (!text)
            code = CLI_USAGE;
        else if (!check(c, c->args[i], text, len) && code == CLI_OK)
            code = CLI_NO;
    }
    return code;
}
