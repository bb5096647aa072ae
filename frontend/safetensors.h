// SPDX-License-Identifier: Apache-2.0
// safetensors files: u64 header bytes | JSON header | data. Any byte of a file may be hostile.
#ifndef SSD_SAFETENSORS_H
#define SSD_SAFETENSORS_H

#include "../runtime/base.h"
#include "../runtime/ssd.h"

typedef struct StTensor {
    const char *name;
    ssd_tensor view; // dense, row-major; its data may be unaligned in the file, never in memory
    size_t bytes;
} StTensor;
typedef struct StFile {
    StTensor *v;
    int n;
    void *data; // one allocation that the views point into
} StFile;

// Reads a whole file. dtypes F32 BF16 F16 I32 F64; others are refused by name. False with a message
// in *why that names the file; names and the table live in `a`, the data until
// ssd_safetensors_free.
bool ssd_safetensors_read(Arena *a, const char *path, StFile *out, Text *why);
void ssd_safetensors_free(StFile *f);
// Writes dense tensors to a temporary file beside `path` and renames it: all or nothing.
bool ssd_safetensors_write(const char *path, const StTensor *v, int n, Text *why);

#endif
