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

// "x bf16[b, t, h=24, p=64]"
static void print_tensor(const SpecTensor *t, Text *out) {
    ssd_text_printf(out, "%s %s[", t->name, ssd_dtype_name(t->dtype));
    for (int d = 0; d < t->naxes; d++) {
        ssd_text_printf(out, "%s%s", d ? ", " : "", t->axis[d]);
        if (t->size[d] >= 0) ssd_text_printf(out, "=%lld", (long long)t->size[d]);
    }
    ssd_text_printf(out, "]");
}

static void print_spec(const Cli *c, const Spec *s, const char *path) {
    static const char *const modes[] = {"forward", "step"};
    const char *doc = ssd_spec_doc(s);
    printf("%s: %sok%s, %s%s%s\n", path, ssd_cli_good(c), ssd_cli_plain(c), ssd_spec_name(s),
           doc && *doc ? ": " : "", doc ? doc : "");
    for (size_t m = 0; m < COUNTOF(modes); m++) {
        if (!ssd_spec_has_mode(s, modes[m])) continue;
        const SpecTensor *in, *out;
        int n_in = ssd_spec_inputs(s, modes[m], &in), n_out = ssd_spec_outputs(s, modes[m], &out);
        Text t = {0};
        for (int i = 0; i < n_in; i++) {
            ssd_text_printf(&t, "%s", i ? ", " : "");
            print_tensor(&in[i], &t);
            if (in[i].optional) ssd_text_printf(&t, "?");
        }
        ssd_text_printf(&t, " -> ");
        for (int i = 0; i < n_out; i++) {
            ssd_text_printf(&t, "%s", i ? ", " : "");
            print_tensor(&out[i], &t);
        }
        printf("  %s%s%s: %s\n", ssd_cli_bold(c), modes[m], ssd_cli_plain(c), t.s);
        ssd_text_free(&t);
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
