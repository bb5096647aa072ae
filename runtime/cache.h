// SPDX-License-Identifier: Apache-2.0
// The cache: one file an entry, read whole or not at all. A fault here is never an error of the caller:
// a damaged, foreign-owned or unreadable entry is a miss with one warning, an unwritable directory means
// compile in memory. Entries are written to a temporary file and renamed, so two processes may race.
//
// File: "SSDC" u32 schema | u64 meta bytes | u64 code bytes | XXH3-128 of the key text | XXH3-128 of meta and code |
// meta text (artifact.h) | key text | code. Name: <xxh3-128 of the key, hex>.ssda
// SSD_CACHE_MAX (bytes, default 512 MiB) bounds the directory: the least recently used entries go first.
#ifndef SSD_CACHE_H
#define SSD_CACHE_H

#include "artifact.h"

typedef struct Cache {
    const char *dir;  // NULL: off
    char warning[512];
} Cache;
// Opens (and creates) the directory; dir NULL or "" means off. `a` holds the path.
void ssd_cache_open(Cache *c, Arena *a, const char *dir_or_null_for_default);
// Looks an entry up by its key text; fills *out (strings, code in `a`; code is 64-aligned). False = miss.
bool ssd_cache_get(Cache *c, Arena *a, const char *key, size_t key_len, Artifact *out);
void ssd_cache_put(Cache *c, const char *key, size_t key_len, const Artifact *art);
// Reads one entry file by path (ssd_kernel_load, cache ls).
bool ssd_cache_read(Arena *a, const char *path, Artifact *out, const char **out_key, Text *why);

typedef struct CacheEntry {
    char name[40];
    i64 bytes, mtime;
    bool ok;
    const char *program, *mode, *target, *schedule;
} CacheEntry;
// Lists entries, newest first, checking each; ls, verify, gc and clear of the command are made of these.
int ssd_cache_list(Cache *c, Arena *a, CacheEntry **out);
bool ssd_cache_remove(Cache *c, const char *name);
void ssd_cache_gc(Cache *c, i64 max_bytes);

#endif
