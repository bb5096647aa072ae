// SPDX-License-Identifier: Apache-2.0
// A spec's tensors in this machine's memory: sizes from `--set`, allocation, elements as doubles.
#ifndef SSD_HOST_H
#define SSD_HOST_H

#include "spec.h"

// Run-time sizes and overrides of dims, from "b=1,t=4096,heads=24" (commas or spaces). b t s: -1
// when not given. dims: the other settings as ssd_spec_parse wants them ("heads=24"), NULL when
// there are none.
typedef struct Sizes {
    i64 b, t, s;
    const char *dims;
} Sizes;
bool ssd_sizes_parse(Arena *a, const char *text, Sizes *out, Text *why);

// A dense row-major tensor that owns its memory (64-aligned, not initialised by ssd_host_make).
typedef struct HostTensor {
    const char *name;
    ssd_tensor view;
    i64 count; // elements
    size_t bytes;
} HostTensor;
typedef struct HostSet {
    HostTensor *v;
    int n;
} HostSet;

// Whether these tensors are those of a packed spec (they hold cu_seqlens).
bool ssd_host_packed(const SpecTensor *ts, int n);
// Extents of a tensor under run-time sizes; false on overflow or more than 2^40 elements.
bool ssd_host_dims(const SpecTensor *t, const Sizes *z, i64 *dims, i64 *out_count);
// One HostTensor for every SpecTensor whose name is not in `absent` (space-separated, may be NULL).
bool ssd_host_make(Arena *a, const SpecTensor *ts, int n, const Sizes *z, const char *absent,
                   HostSet *out, Text *why);
void ssd_host_drop(HostSet *set);
const HostTensor *ssd_host_find(const HostSet *set, const char *name);
bool ssd_host_listed(const char *list, const char *name); // is name a word of list?

// Elements as doubles; a store rounds to nearest even.
double ssd_host_load(const void *p, ssd_dtype d, i64 i);
void ssd_host_store(void *p, ssd_dtype d, i64 i, double v);
// Every element NaN (integers: the least value), so that one never written shows.
void ssd_host_poison(HostTensor *t);
void ssd_host_array(Arena *a, const HostTensor *t, Array *out);

// "[2, 200, 24, 64]"
void ssd_host_print_dims(const ssd_tensor *t, Text *out);

#endif
