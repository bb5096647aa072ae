// SPDX-License-Identifier: Apache-2.0
#include "gate.h"

#include <stdio.h>
#include <stdlib.h>

// --- The log ------------------------------------------------------------------------------------
// Where a kernel's lines begin, and where the next one's do.
static const char *section(const char *log, const char *kernel, const char **out_end) {
    static const char head[] = "Compiling entry function '";
    size_t n = strlen(kernel);
    for (const char *s = log; (s = strstr(s, head));) {
        s += strlen(head);
        const char *next = strstr(s, head);
        *out_end = next ? next : s + strlen(s);
        if (!strncmp(s, kernel, n) && s[n] == '\'') return s;
    }
    return NULL;
}

bool ssd_gate_facts(const char *log, const char *kernel, GateFacts *out) {
    const char *end, *s = section(log, kernel, &end), *frame = s ? strstr(s, "bytes stack") : NULL;
    *out = (GateFacts){0};
    if (!frame || frame >= end) return false;
    while (frame > s && frame[-1] != '\n') frame--;
    frame += strcspn(frame, "0123456789\n");
    if (sscanf(frame, "%d bytes stack frame, %d bytes spill stores, %d bytes spill loads",
               &out->stack, &out->spill_stores, &out->spill_loads) != 3)
        return false;
    const char *shared = strstr(s, " bytes smem");
    if (!shared || shared >= end) return true;
    while (shared > s && shared[-1] >= '0' && shared[-1] <= '9') shared--;
    out->shared = atoi(shared);
    return true;
}

bool ssd_gate_serialised(const char *log) { return strstr(log, "(C75") != NULL; }

// --- The cubin, an ELF file of 64 bits ----------------------------------------------------------
static u64 word(const u8 *p, int bytes) {
    u64 v = 0;
    for (int i = bytes - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

int ssd_gate_count(const void *cubin, const char *kernel, GateOpcode op) {
    static const char text[] = ".text.";
    const u8 *elf = cubin, *sections = elf + word(elf + 0x28, 8);
    int n = (int)word(elf + 0x3c, 2), names = (int)word(elf + 0x3e, 2), found = 0;
    const u8 *strings = elf + word(sections + names * 64 + 0x18, 8);
    for (int i = 0; i < n; i++) {
        const u8 *s = sections + i * 64;
        const char *name = (const char *)strings + word(s, 4);
        if (strncmp(name, text, strlen(text))) continue;
        if (kernel && strcmp(name + strlen(text), kernel)) continue;
        const u8 *code = elf + word(s + 0x18, 8);
        for (u64 k = 0; k < word(s + 0x20, 8); k += 16) found += (word(code + k, 8) & 0xfff) == op;
    }
    return found;
}
