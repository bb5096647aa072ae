// SPDX-License-Identifier: Apache-2.0
// YAML text -> tree, bounded and with places. Only what a spec needs: one document of mappings,
// sequences and scalars. Anchors, aliases, tags, repeated keys, tabs as indentation, control
// characters and invalid UTF-8 are errors by name. Columns count code points from 1, as libyaml
// counts them.
#ifndef SSD_YAML_H
#define SSD_YAML_H

#include "../runtime/base.h"

enum {
    YAML_MAX_BYTES = 1 << 20,
    YAML_MAX_SCALAR = 1 << 16,
    YAML_MAX_DEPTH = 32,
    YAML_MAX_NODES = 100000
};

typedef enum {
    YAML_BAD, // already reported: readers pass over it
    YAML_SCALAR,
    YAML_MAP,
    YAML_SEQ
} YamlKind;
typedef enum { YAML_PLAIN, YAML_QUOTED, YAML_BLOCK } YamlStyle;

typedef struct YamlNode YamlNode;
typedef struct YamlPair {
    YamlNode *key; // a scalar
    YamlNode *value;
} YamlPair;
struct YamlNode {
    YamlKind kind;
    YamlStyle style;  // of a scalar
    bool in_flow;     // a scalar inside { } or [ ], where a comma ends it unless it is quoted
    Place at;         // first character (of a block scalar: its '|' or '>')
    const char *text; // scalar: NUL-terminated, len bytes, none of them NUL
    u32 len;
    u32 n;
    YamlPair *pairs;  // map: n of them, keys differ
    YamlNode **items; // seq: n of them
};

typedef struct YamlDoc {
    YamlNode *root;
    const char *file, *text; // after a byte order mark
    size_t len;
    u32 *lines; // byte offset of each line
    u32 nlines;
} YamlDoc;

// All errors go to `d`. False when there is any; then *out may still hold a root worth reading.
bool ssd_yaml_parse(Arena *a, const char *text, size_t n, const char *file, Diag *d, YamlDoc *out);

// The value of a key, NULL when absent.
YamlNode *ssd_yaml_get(const YamlNode *map, const char *key);

// Where the bytes of a scalar's text stand in the file. YAML folds lines, drops indentation and
// escapes; the cursor follows the text through its source. Ask for rising offsets; a later offset
// costs the distance.
typedef struct YamlCursor {
    const YamlDoc *doc;
    const YamlNode *node;
    size_t src; // byte in doc->text where text[off] stands
    u32 off;
    int line, col;
} YamlCursor;
YamlCursor ssd_yaml_cursor(const YamlDoc *doc, const YamlNode *scalar);
Place ssd_yaml_place(YamlCursor *c, u32 offset);

#endif
