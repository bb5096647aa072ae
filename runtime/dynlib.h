// SPDX-License-Identifier: Apache-2.0
// Libraries that are opened at run time, so that one build runs where they are and where they are
// not: the CUDA driver and NVRTC. Their functions are tables, a line a symbol (cuda_syms.def).
#ifndef SSD_DYNLIB_H
#define SSD_DYNLIB_H

#include "base.h"

typedef struct DynSym {
    const char *name; // as the library exports it
    size_t at;        // where its pointer goes in the table
    bool optional;    // NULL when the library is too old for it
} DynSym;
// Fills a table of function pointers; false when one that is not optional is missing, *why names
// it.
bool ssd_dynlib_bind(void *lib, const DynSym *syms, int n, void *table, Text *why);

// The file that an open library, which exports `symbol`, was read from; "" when unknown.
enum { DYN_PATH = 1024 };
void ssd_dynlib_path(void *lib, const char *symbol, char out[DYN_PATH]);

// Opens a library of NVIDIA's: as the dynamic linker finds it, else where wheels and toolkits keep
// them. `symbol`: one that it exports. NULL: not there, or it cannot be loaded.
void *ssd_dynlib_open(const char *name, const char *symbol);

// NVRTC, NVIDIA's run-time compiler. Looked for once, and never closed: it cannot be unloaded
// cleanly.
//   SSD_NVRTC (the library or its directory; nothing else is tried then), the names the dynamic
//   linker knows, the wheels of pip and conda (active environment, this user's, the system's),
//   /usr/local/cuda.
// Version 13 before 12, but none newer than the driver when there is a driver: its code would not
// load.
typedef struct Nvrtc {
    void *lib; // for ssd_dynlib_bind
    int major, minor;
    const char *path;    // of the file
    const char *version; // "13.0 65be0db3...": with the build
} Nvrtc;
const Nvrtc *ssd_nvrtc(Text *why); // NULL: not found, *why says what was tried and what to do
// The build id of the file that ssd_nvrtc loads or would load: part of every CUDA kernel's key, and
// told without loading it. A library without one: its size and time. NULL: not found.
const char *ssd_nvrtc_build(void);

#endif
