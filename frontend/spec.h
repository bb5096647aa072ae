// SPDX-License-Identifier: Apache-2.0
// A checked layer spec. specs/README.md is the language.
#ifndef SSD_SPEC_H
#define SSD_SPEC_H

#include "../ir/graph.h"

typedef struct Spec Spec; // opaque: spec.c

// Parses and checks YAML text. All errors go to `d` with places; NULL when there is any. `dims`
// overrides dim values ("h=24 groups=1", NULL for none) before anything is checked.
Spec *ssd_spec_parse(Arena *a, const char *text, size_t n, const char *file, const char *dims,
                     Diag *d);

const char *ssd_spec_name(const Spec *s);
const char *ssd_spec_doc(const Spec *s);
// Modes the spec lists: "forward", "step" ("backward" is accepted and named as coming later where
// asked for).
bool ssd_spec_has_mode(const Spec *s, const char *mode);
const char *ssd_spec_chunk(const Spec *s); // "auto" or numbers

typedef struct SpecTensor {
    const char *name;
    ssd_dtype dtype;
    int naxes;
    const char *axis[8]; // names, storage order as declared
    i64 size[8];         // -1: run time
    bool optional;       // has a default, or is a state
    bool is_state;
    bool none; // default none: its uses vanish when absent
    double dflt;
    const char *hint; // what realistic random values look like: see ssd_spec_inputs
    bool automatic;   // a state that the spec does not name
} SpecTensor;
// Inputs in order (declared, then initial states, then cu_seqlens when packed); outputs likewise
// (declared, then final states). `mode` "forward" | "step": step tensors have no t axis and every
// state is listed both ways. hint: "normal" | "dt" | "A_log" | "rate" | "step" | "decay" | "state"
// | "cu_seqlens" | "small": from the role the input plays, so that --random draws what layers see:
// dt stands under log_decay's softplus, A_log under its exp, rate and step are a layer's A times a
// token's dt in it, decay is another factor or term of log_decay itself (draw it negative), small
// goes into a query.
int ssd_spec_inputs(const Spec *s, const char *mode, const SpecTensor **out);
int ssd_spec_outputs(const Spec *s, const char *mode, const SpecTensor **out);

// Spec -> graph of one mode. absent: names (space-separated, may be NULL) of optional inputs left
// out, whose defaults are folded in, and of outputs not wanted. NULL with errors in `d` for a bad
// name.
Graph *ssd_spec_build(Arena *a, const Spec *s, const char *mode, const char *absent, Diag *d);

#endif
