// SPDX-License-Identifier: Apache-2.0
// Tables that print.c and parse.c share.
#ifndef SSD_GRAPH_TEXT_H
#define SSD_GRAPH_TEXT_H

#include "graph.h"

typedef enum { AT_A0, AT_A1, AT_K, AT_FLAG, AT_TIME, AT_DFLT } AttrField;
typedef enum { AT_ALWAYS, AT_SET } AttrPrinted;
typedef struct Attr {
    const char *name;
    AttrField field;
    AttrPrinted printed;
    u8 bit;
    const char *word[2];
} Attr;
extern const Attr ssd_attrs[];
extern const int ssd_attr_count;

typedef struct OpInfo {
    const char *name;
    u8 least, most;
    const char *attrs; // names of ssd_attrs, space-separated
} OpInfo;
extern const OpInfo ssd_ops[OP__COUNT];
// The next attribute of an op: *at starts as OpInfo.attrs; NULL after the last. "fn" and "value"
// are written as a plain word after the op and are skipped.
const Attr *ssd_attr_next(const char **at);

extern const char *const ssd_axis_kinds[8]; // by AxisKind
extern const char *const ssd_time_names[3]; // by TimeDir
extern const char *const ssd_matmul_names[4];

// A name that text can hold as it is: letters, digits, '_' and '.', no digit first, no word with a
// meaning.
bool ssd_graph_plain_name(const char *s);

// verify.c: one output, one axis against those before it.
bool ssd_graph_verify_out(const Graph *g, const GraphOut *o, Text *why);
bool ssd_graph_verify_axis(const Graph *g, AxisId x, Text *why);

#endif
