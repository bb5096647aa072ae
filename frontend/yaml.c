// SPDX-License-Identifier: Apache-2.0
// libyaml events -> tree. The text is scanned once before libyaml sees it, so that what is wrong
// with its bytes is named by us; the depth, the number of nodes and the size of a scalar are
// bounded while events arrive.
#include "yaml.h"

#include <yaml.h>

typedef struct Reader {
    Arena *arena;
    Diag *diag;
    YamlDoc *doc;
    yaml_parser_t parser;
    u32 nodes;
    bool flow; // inside { } or [ ]
    bool stop; // a limit was passed or the syntax is broken: unwind
} Reader;

// --- Bytes --------------------------------------------------------------------------------------

// Bytes of the line break at s[i], 0 when there is none: the breaks of YAML 1.1, as libyaml counts
// lines.
static size_t line_break(const char *s, size_t i, size_t n) {
    if (s[i] == '\n') return 1;
    if (s[i] == '\r') return i + 1 < n && s[i + 1] == '\n' ? 2 : 1;
    if (i + 1 < n && !memcmp(s + i, "\xc2\x85", 2)) return 2;
    if (i + 2 < n && (!memcmp(s + i, "\xe2\x80\xa8", 3) || !memcmp(s + i, "\xe2\x80\xa9", 3)))
        return 3;
    return 0;
}

static const struct {
    const char *bytes;
    size_t n;
    const char *name;
} foreign_marks[] = {
    {"\xff\xfe\0\0", 4, "UTF-32 (little-endian)"},
    {"\0\0\xfe\xff", 4, "UTF-32 (big-endian)"},
    {"\xff\xfe", 2, "UTF-16 (little-endian)"},
    {"\xfe\xff", 2, "UTF-16 (big-endian)"},
    {"\x2b\x2f\x76", 3, "UTF-7"},
    {"\x84\x31\x95\x33", 4, "GB 18030"},
};

// Reports what is wrong with the bytes (the first of its kind on a line) and records where lines
// start.
static bool scan_bytes(Reader *r) {
    YamlDoc *doc = r->doc;
    const char *s = doc->text;
    VEC(u32) lines = {0};
    vec_push(r->arena, &lines, 0);
    int before = r->diag->errors, col = 1;
    bool indent = true, tab = false;
    Place tab_at = {0};
    for (size_t i = 0; i < doc->len;) {
        Place at = {doc->file, (int)lines.n, col};
        size_t brk = line_break(s, i, doc->len);
        if (brk) {
            i += brk;
            vec_push(r->arena, &lines, (u32)i);
            col = 1, indent = true, tab = false;
            continue;
        }
        u32 c = 0;
        size_t len = ssd_utf8_decode(s + i, doc->len - i, &c);
        if (!len) {
            ssd_diag_add(r->diag, DIAG_ERROR, at, "invalid UTF-8: byte 0x%02x", (u8)s[i]);
            break;
        }
        if (c == 0) {
            ssd_diag_add(r->diag, DIAG_ERROR, at, "NUL byte: the file is not text");
            break;
        }
        if (c == '\t' && indent && !tab) tab = true, tab_at = at;
        if ((c < 0x20 && c != '\t') || (c >= 0x7f && c < 0xa0) || c == 0xfeff || c == 0xfffe ||
            c == 0xffff)
            ssd_diag_add(r->diag, DIAG_ERROR, at, "control character U+%04X", c);
        if (c != ' ' && c != '\t') {
            if (indent && tab)
                ssd_diag_add(r->diag, DIAG_ERROR, tab_at,
                             "tab in indentation: YAML indents with spaces");
            indent = false;
        }
        i += len, col++;
    }
    doc->lines = lines.v;
    doc->nlines = lines.n;
    return r->diag->errors == before;
}

// --- Events -------------------------------------------------------------------------------------

static Place place(const Reader *r, yaml_mark_t m) {
    return (Place){r->doc->file, (int)m.line + 1, (int)m.column + 1};
}

#define ERROR_AT(r, at, ...) ssd_diag_add((r)->diag, DIAG_ERROR, (at), __VA_ARGS__)

static bool next(Reader *r, yaml_event_t *ev) {
    if (yaml_parser_parse(&r->parser, ev)) return true;
    memset(ev, 0, sizeof *ev);
    r->stop = true;
    yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR) {
        ERROR_AT(r, ((Place){r->doc->file, 0, 0}), "out of memory");
        return false;
    }
    const char *problem = p->problem ? p->problem : "not YAML";
    const char *hint =
        strstr(problem, "',' or '}'") || strstr(problem, "',' or ']'")
            ? "; inside { } and [ ] a type or an expression with commas stands in quotes"
        : strstr(problem, "mapping values") ? "; is the indentation right, or a quote missing?"
                                            : "";
    const char *context = p->context ? p->context : "";
    ERROR_AT(r, place(r, p->problem_mark), "YAML: %s%s%s%s", problem, *context ? " " : "", context,
             hint);
    return false;
}

static YamlNode *new_node(Reader *r, YamlKind kind, yaml_mark_t at) {
    YamlNode *n = NEW(r->arena, YamlNode);
    n->kind = kind;
    n->at = place(r, at);
    return n;
}

static void no_extras(Reader *r, const yaml_event_t *ev, const yaml_char_t *anchor,
                      const yaml_char_t *tag) {
    Place at = place(r, ev->start_mark);
    if (anchor)
        ERROR_AT(r, at, "anchor '&%.40s': specs have no anchors and aliases", (const char *)anchor);
    if (tag) ERROR_AT(r, at, "tag '%.40s': specs have no tags", (const char *)tag);
}

// Reports keys that occur twice and drops the later ones.
static void unique_keys(Reader *r, YamlNode *map) {
    u32 cap = 16, kept = 0;
    while (cap < map->n * 2) cap *= 2;
    u32 *slot = NEWN(r->arena, u32, cap); // index into pairs + 1
    for (u32 i = 0; i < map->n; i++) {
        const YamlNode *k = map->pairs[i].key;
        u32 at = (u32)ssd_hash(k->text, k->len, 0) & (cap - 1);
        while (slot[at] && strcmp(map->pairs[slot[at] - 1].key->text, k->text))
            at = (at + 1) & (cap - 1);
        if (slot[at]) {
            const YamlNode *first = map->pairs[slot[at] - 1].key;
            ERROR_AT(r, k->at, "key '%.60s' stands here for the second time (first in line %d)",
                     k->text, first->at.line);
            continue;
        }
        map->pairs[kept++] = map->pairs[i];
        slot[at] = kept;
    }
    map->n = kept;
}

static YamlNode *read_node(Reader *r, yaml_event_t *ev, int depth);

static void read_map(Reader *r, YamlNode *map, int depth) {
    VEC(YamlPair) pairs = {0};
    yaml_event_t ev;
    while (next(r, &ev) && ev.type != YAML_MAPPING_END_EVENT) {
        YamlPair p = {.key = read_node(r, &ev, depth + 1)};
        if (r->stop || !next(r, &ev)) return;
        p.value = read_node(r, &ev, depth + 1);
        if (r->stop) return;
        if (p.key->kind == YAML_SCALAR)
            vec_push(r->arena, &pairs, p);
        else if (p.key->kind != YAML_BAD)
            ERROR_AT(r, p.key->at, "a key must be plain text");
    }
    yaml_event_delete(&ev);
    map->pairs = pairs.v;
    map->n = pairs.n;
    unique_keys(r, map);
}

static void read_seq(Reader *r, YamlNode *seq, int depth) {
    VEC(YamlNode *) items = {0};
    yaml_event_t ev;
    while (next(r, &ev) && ev.type != YAML_SEQUENCE_END_EVENT) {
        YamlNode *item = read_node(r, &ev, depth + 1);
        if (r->stop) return;
        vec_push(r->arena, &items, item);
    }
    yaml_event_delete(&ev);
    seq->items = items.v;
    seq->n = items.n;
}

static YamlNode *read_scalar(Reader *r, const yaml_event_t *ev) {
    YamlNode *n = new_node(r, YAML_SCALAR, ev->start_mark);
    const char *text = (const char *)ev->data.scalar.value;
    size_t len = ev->data.scalar.length;
    if (len > YAML_MAX_SCALAR) {
        ERROR_AT(r, n->at, "a text of %zu bytes: at most %d are allowed", len, YAML_MAX_SCALAR);
        n->kind = YAML_BAD;
        return n;
    }
    if (memchr(text, 0, len)) { // "\0" in double quotes
        ERROR_AT(r, n->at, "NUL character in a text");
        n->kind = YAML_BAD;
        return n;
    }
    n->in_flow = r->flow;
    n->text = ssd_arena_dup(r->arena, text, len);
    n->len = (u32)len;
    switch (ev->data.scalar.style) {
    case YAML_SINGLE_QUOTED_SCALAR_STYLE:
    case YAML_DOUBLE_QUOTED_SCALAR_STYLE: n->style = YAML_QUOTED; break;
    case YAML_LITERAL_SCALAR_STYLE:
    case YAML_FOLDED_SCALAR_STYLE: n->style = YAML_BLOCK; break;
    default: n->style = YAML_PLAIN; break;
    }
    return n;
}

// Reads the node that *ev opens, and deletes *ev. Never NULL.
static YamlNode *read_node(Reader *r, yaml_event_t *ev, int depth) {
    YamlNode *n = new_node(r, YAML_BAD, ev->start_mark);
    bool flow = r->flow;
    if (++r->nodes > YAML_MAX_NODES) {
        ERROR_AT(r, n->at, "more than %d values in a file", YAML_MAX_NODES);
        r->stop = true;
    } else if (depth > YAML_MAX_DEPTH) {
        ERROR_AT(r, n->at, "nested deeper than %d levels", YAML_MAX_DEPTH);
        r->stop = true;
    }
    if (r->stop) {
        yaml_event_delete(ev);
        return n;
    }
    switch (ev->type) {
    case YAML_ALIAS_EVENT:
        ERROR_AT(
            r, n->at,
            "alias '*%.40s': specs have no anchors and aliases; an expression that begins with '*' "
            "is no expression",
            (const char *)ev->data.alias.anchor);
        yaml_event_delete(ev);
        break;
    case YAML_SCALAR_EVENT:
        no_extras(r, ev, ev->data.scalar.anchor, ev->data.scalar.tag);
        n = read_scalar(r, ev);
        yaml_event_delete(ev);
        break;
    case YAML_MAPPING_START_EVENT:
        no_extras(r, ev, ev->data.mapping_start.anchor, ev->data.mapping_start.tag);
        n->kind = YAML_MAP;
        r->flow = flow || ev->data.mapping_start.style == YAML_FLOW_MAPPING_STYLE;
        yaml_event_delete(ev);
        read_map(r, n, depth);
        break;
    case YAML_SEQUENCE_START_EVENT:
        no_extras(r, ev, ev->data.sequence_start.anchor, ev->data.sequence_start.tag);
        n->kind = YAML_SEQ;
        r->flow = flow || ev->data.sequence_start.style == YAML_FLOW_SEQUENCE_STYLE;
        yaml_event_delete(ev);
        read_seq(r, n, depth);
        break;
    default: SSD_BUG("unexpected YAML event %d", (int)ev->type);
    }
    r->flow = flow;
    return n;
}

static void read_stream(Reader *r) {
    yaml_event_t ev;
    while (next(r, &ev)) {
        yaml_event_type_t type = ev.type;
        Place at = place(r, ev.start_mark);
        if (type == YAML_STREAM_END_EVENT) {
            yaml_event_delete(&ev);
            break;
        }
        if (type == YAML_STREAM_START_EVENT || type == YAML_DOCUMENT_END_EVENT) {
            yaml_event_delete(&ev);
            continue;
        }
        if (type == YAML_DOCUMENT_START_EVENT) {
            yaml_event_delete(&ev);
            if (!r->doc->root) continue;
            ERROR_AT(r, at, "a second YAML document: a file holds one spec");
            break;
        }
        r->doc->root = read_node(r, &ev, 1);
        if (r->stop) break;
    }
}

// Reads the text and lets go of libyaml's own memory, also when the arena gives up half way.
static void run_parser(Arena *a, Reader *r) {
    jmp_buf oom, *outer = a->oom;
    if (outer && setjmp(oom)) {
        yaml_parser_delete(&r->parser);
        a->oom = outer;
        longjmp(*outer, 1);
    }
    if (outer) a->oom = &oom;
    yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)r->doc->text, r->doc->len);
    read_stream(r);
    yaml_parser_delete(&r->parser);
    a->oom = outer;
}

bool ssd_yaml_parse(Arena *a, const char *text, size_t n, const char *file, Diag *d, YamlDoc *out) {
    *out = (YamlDoc){.file = file, .text = text, .len = n};
    Place top = {file, 1, 1};
    int before = d->errors;
    if (n > YAML_MAX_BYTES) {
        ssd_diag_add(d, DIAG_ERROR, (Place){file, 0, 0},
                     "the file has %zu bytes: at most %d are allowed", n, YAML_MAX_BYTES);
        return false;
    }
    for (size_t i = 0; i < COUNTOF(foreign_marks); i++)
        if (n >= foreign_marks[i].n && !memcmp(text, foreign_marks[i].bytes, foreign_marks[i].n)) {
            ssd_diag_add(d, DIAG_ERROR, top, "the file is %s: save it as UTF-8",
                         foreign_marks[i].name);
            return false;
        }
    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) out->text += 3, out->len -= 3;

    Reader *r = NEW(a, Reader);
    *r = (Reader){.arena = a, .diag = d, .doc = out};
    if (!scan_bytes(r)) return false;
    if (!yaml_parser_initialize(&r->parser)) {
        ssd_diag_add(d, DIAG_ERROR, (Place){file, 0, 0}, "out of memory");
        return false;
    }
    run_parser(a, r);
    if (r->stop)
        out->root = NULL;
    else if (!out->root)
        ssd_diag_add(d, DIAG_ERROR, top, "the file is empty: a spec begins with 'ssdc: 1'");
    return d->errors == before;
}

YamlNode *ssd_yaml_get(const YamlNode *map, const char *key) {
    for (u32 i = 0; i < map->n; i++)
        if (!strcmp(map->pairs[i].key->text, key)) return map->pairs[i].value;
    return NULL;
}

// --- From a scalar's text back to its source ----------------------------------------------------

static bool blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// One code point or line break of the source forward.
static void step(YamlCursor *c) {
    const char *s = c->doc->text;
    size_t brk = line_break(s, c->src, c->doc->len);
    if (brk) {
        c->src += brk, c->line++, c->col = 1;
        return;
    }
    do c->src++;
    while (c->src < c->doc->len && ((u8)s[c->src] & 0xc0) == 0x80);
    c->col++;
}

// Moves to the source of text[off]: blanks differ between the two, all else comes in the same
// order. What has been escaped in quotes is not found as itself; the search then ends at the line's
// end, near enough.
static void settle(YamlCursor *c) {
    if (c->off >= c->node->len || blank(c->node->text[c->off])) return;
    YamlCursor from = *c;
    while (c->src < c->doc->len && c->doc->text[c->src] != c->node->text[c->off]) {
        if (c->node->style == YAML_PLAIN && !blank(c->doc->text[c->src])) break;
        step(c);
        if (c->node->style == YAML_QUOTED && c->line > from.line + 1) break;
    }
    if (c->src >= c->doc->len || c->doc->text[c->src] != c->node->text[c->off]) *c = from;
}

YamlCursor ssd_yaml_cursor(const YamlDoc *doc, const YamlNode *n) {
    YamlCursor c = {.doc = doc, .node = n, .line = n->at.line, .col = 1};
    c.src = n->at.line <= (int)doc->nlines ? doc->lines[n->at.line - 1] : doc->len;
    while (c.col < n->at.col && c.src < doc->len) step(&c);
    if (n->style == YAML_QUOTED && c.src < doc->len) step(&c);
    if (n->style == YAML_BLOCK)
        for (int line = c.line; c.line == line && c.src < doc->len;) step(&c);
    settle(&c);
    return c;
}

Place ssd_yaml_place(YamlCursor *c, u32 offset) {
    const char *text = c->node->text;
    while (c->off < offset && c->off < c->node->len) {
        bool was_blank = blank(text[c->off]);
        do c->off++;
        while (c->off < c->node->len && ((u8)text[c->off] & 0xc0) == 0x80);
        if (!was_blank && c->src < c->doc->len) step(c);
        settle(c);
    }
    return (Place){c->doc->file, c->line, c->col};
}
