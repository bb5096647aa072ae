// SPDX-License-Identifier: Apache-2.0
// Names in generated CUDA: tensors, axes, symbols and values keep theirs from the spec and the tile
// text; one that C++, CUDA, the prelude or an earlier name of the kernel has already gets
// underscores or a number.
#include "cuda_emit.h"

static const char *const reserved[] = {
    // C++ words that a spec may well use as names
    "and", "asm", "auto", "bool", "break", "case", "char", "class", "const", "continue", "default",
    "delete", "do", "double", "else", "enum", "explicit", "export", "extern", "false", "final",
    "float", "for", "friend", "goto", "if", "inline", "int", "long", "mutable", "namespace", "new",
    "not", "operator", "or", "private", "protected", "public", "register", "return", "short",
    "signed", "sizeof", "static", "struct", "switch", "template", "this", "throw", "true", "try",
    "typedef", "union", "unsigned", "using", "virtual", "void", "volatile", "while", "xor",
    // what the generated text itself says
    "args", "at", "block", "e", "from", "lane", "part", "shared", "sum", "to", "u16", "u32", "u64",
    "i64", "bf16", "f16", "min", "max", "get", "put", "decode", "encode", "clamp", "divide",
    "reciprocal", "relu", "elu", "silu", "gelu", "sigmoid", "softplus", "logsigmoid", "sine",
    "cosine", "exponential", "ex2", "modulo", "rounded", "combine", "neutral", "quarter",
    "threadIdx", "blockIdx", "blockDim", "gridDim", "warpSize", "THREADS", "WARPS", "FAST", "INF",
    "REV", "EXCL", "MAX", "DEVICE", "Tile", "Dims", "Zero", "Tensor", "Round", "Bound", "Bf16",
    "Tf32", "abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "expm1",
    "fabs", "floor", "fma", "fmax", "fmin", "fmod", "gamma", "j0", "j1", "jn", "y0", "y1", "yn",
    "log", "log1p", "log2", "pow", "round", "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh", "time",
    "clock",
    // what the text of roles says besides
    "warp", "thread", "row", "col", "barriers", "slots", "words", "value", "Ring", "TensorMap",
    "WGMMA", "HOPPER", "MANY", "pair", "select", "unpack", "hold", "clear", "mma", "first", "last",
    "next"};

static bool is_taken(const Cuda *c, const char *s) {
    for (size_t i = 0; i < COUNTOF(reserved); i++)
        if (!strcmp(reserved[i], s)) return true;
    for (u32 i = 0; i < c->taken.n; i++)
        if (!strcmp(c->taken.v[i], s)) return true;
    return false;
}

const char *ssd_cuda_name(Cuda *c, const char *want) {
    const char *s = want;
    if (is_taken(c, s)) s = ssd_arena_printf(c->a, "%s_", want);
    for (int i = 2; is_taken(c, s); i++) s = ssd_arena_printf(c->a, "%s_%d", want, i);
    vec_push(c->a, &c->taken, s);
    return s;
}

static void claim_value(Cuda *c, Val v) {
    if (v && !c->name[v]) c->name[v] = ssd_cuda_name(c, ssd_tile_val_name(c->p, v));
}

static void claim_values(Cuda *c, const TBlock *b) {
    for (const TOp *o = b->first; o; o = o->next) {
        claim_value(c, o->var);
        for (int i = 0; o->carry && i < o->ncarry; i++) claim_value(c, o->carry[i]);
        claim_value(c, o->out);
        claim_values(c, &o->body);
    }
}

void ssd_cuda_names(Cuda *c) {
    const Prog *p = c->p;
    c->taken.n = 0;
    memset(c->name, 0, p->vals.n * sizeof *c->name);
    for (u32 i = 1; i < p->tensors.n; i++) c->tensor[i] = ssd_cuda_name(c, p->tensors.v[i].name);
    for (u32 i = 0; i < p->syms.n; i++)
        c->sym[i] = ssd_cuda_name(c, ssd_arena_printf(c->a, "len_%s", p->syms.v[i]));
    for (int i = 0; i < c->k->ngrid; i++) claim_value(c, c->k->grid[i].var);
    for (u32 i = 1; i < p->axes.n; i++) c->axis[i] = ssd_cuda_name(c, p->axes.v[i].name);
    claim_values(c, &c->k->body);
    c->quad = ssd_cuda_name(c, "k");
}

const char *ssd_cuda_type(u8 dtype) {
    switch (dtype) {
    case SSD_F32: return "float";
    case SSD_BF16: return "bf16";
    case SSD_F16: return "f16";
    case SSD_I32: return "int";
    default: SSD_BUG("no tensor has dtype %s", ssd_dtype_name((ssd_dtype)dtype));
    }
}
