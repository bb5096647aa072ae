// SPDX-License-Identifier: Apache-2.0
// Names and sizes of the element types, and the dense view of a tensor.
#include "ssd.h"
#include "base.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [SSD_NONE] = {"none", 0}, [SSD_F32] = {"f32", 4}, [SSD_BF16] = {"bf16", 2},
    [SSD_F16] = {"f16", 2},   [SSD_I32] = {"i32", 4}, [SSD_F64] = {"f64", 8},
    [SSD_BOOL] = {"bool", 1}, [SSD_IDX] = {"idx", 8},
};

size_t ssd_dtype_size(ssd_dtype d) { return (unsigned)d < COUNTOF(dtypes) ? dtypes[d].size : 0; }

const char *ssd_dtype_name(ssd_dtype d) {
    return (unsigned)d < COUNTOF(dtypes) ? dtypes[d].name : "unknown";
}

ssd_tensor ssd_tensor_dense(void *data, ssd_dtype dtype, int rank, const int64_t *dims) {
    ssd_tensor t = {.data = data, .dtype = dtype, .rank = rank};
    if (rank < 0 || rank > SSD_MAX_RANK || (rank && !dims))
        return t;   // a launch refuses it by its rank
    u64 stride = 1; // unsigned: sizes that overflow are for the launch to refuse
    for (int i = rank - 1; i >= 0; i--) {
        t.dims[i] = dims[i];
        t.strides[i] = (i64)stride;
        stride *= (u64)MAX(dims[i], 1);
    }
    return t;
}
