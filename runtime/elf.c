// SPDX-License-Identifier: Apache-2.0
// Loads an ELF relocatable object (what LLVM emits) into executable memory, in microseconds and
// without a linker. All allocated sections are laid into one block, grouped by what may be done
// with them:
//     | code  r-x | constants  r-- | data  rw- |        each group starts a page
// Then relocations are applied, then pages are protected. Symbols come from the object alone: an
// undefined one is refused by name. The object may be hostile: every offset, size and index is
// checked.
#include "internal.h"

#include <elf.h>
#include <sys/mman.h>
#include <stdlib.h>
#include <unistd.h>

enum { CODE, CONST, DATA, GROUPS };
enum { SECTIONS_MOST = 4096 };
static const size_t size_most = (size_t)1 << 28;

typedef struct Symbol {
    const char *name;
    void *at;
} Symbol;

struct Module {
    Arena arena;
    u8 *block;
    size_t size;
    int n_symbols;
    Symbol *symbols; // functions
};

typedef struct Loader {
    Module *m;
    const u8 *file;
    size_t size;
    Text *why;
    int n_sections;
    Elf64_Shdr *section; // copies, for the file need not be aligned
    size_t *at;          // offset in the block of each section; SIZE_MAX: not loaded
    size_t end[GROUPS];  // of each group, pages
    const Elf64_Shdr *symtab;
} Loader;

SSD_PRINTF(2, 3) static bool fail(Loader *l, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ssd_text_printf(l->why, "object code: ");
    ssd_text_vprintf(l->why, fmt, ap);
    va_end(ap);
    return false;
}

static bool inside(const Loader *l, u64 offset, u64 size) {
    return offset <= l->size && size <= l->size - offset;
}

// --- Headers ------------------------------------------------------------------------------------

static bool read_header(Loader *l) {
    Elf64_Ehdr h;
    if (l->size < sizeof h) return fail(l, "truncated");
    memcpy(&h, l->file, sizeof h);
    if (memcmp(h.e_ident, ELFMAG, SELFMAG)) return fail(l, "not an ELF file");
    if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB)
        return fail(l, "not 64-bit little-endian");
#if !defined(__x86_64__)
    return fail(l, "this host's machine has no loader");
#endif
    if (h.e_machine != EM_X86_64) return fail(l, "for machine %d, not x86-64", h.e_machine);
    if (h.e_type != ET_REL) return fail(l, "type %d is not relocatable", h.e_type);
    if (h.e_shentsize != sizeof(Elf64_Shdr) || !h.e_shnum || h.e_shnum > SECTIONS_MOST ||
        !inside(l, h.e_shoff, (u64)h.e_shnum * sizeof(Elf64_Shdr)))
        return fail(l, "bad section table");
    l->n_sections = h.e_shnum;
    l->section = NEWN(&l->m->arena, Elf64_Shdr, l->n_sections);
    l->at = NEWN(&l->m->arena, size_t, l->n_sections);
    memcpy(l->section, l->file + h.e_shoff, sizeof(Elf64_Shdr) * h.e_shnum);
    for (int i = 0; i < l->n_sections; i++) {
        const Elf64_Shdr *s = &l->section[i];
        l->at[i] = SIZE_MAX;
        if (s->sh_type != SHT_NOBITS && s->sh_type != SHT_NULL &&
            !inside(l, s->sh_offset, s->sh_size))
            return fail(l, "section %d ends outside the file", i);
        if (s->sh_type != SHT_SYMTAB) continue;
        if (l->symtab || s->sh_entsize != sizeof(Elf64_Sym) || !s->sh_link ||
            s->sh_link >= (u32)l->n_sections)
            return fail(l, "bad symbol table");
        l->symtab = s;
    }
    return l->symtab || fail(l, "no symbol table");
}

// --- Layout -------------------------------------------------------------------------------------

static bool loads(const Elf64_Shdr *s) {
    bool kind = s->sh_type == SHT_PROGBITS || s->sh_type == SHT_NOBITS;
    return kind && (s->sh_flags & SHF_ALLOC) && s->sh_size; // neither unwind tables nor notes
}

static int group_of(const Elf64_Shdr *s) {
    return s->sh_flags & SHF_EXECINSTR ? CODE : s->sh_flags & SHF_WRITE ? DATA : CONST;
}

static bool lay_out(Loader *l) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), at = 0;
    for (int g = 0; g < GROUPS; g++) {
        for (int i = 0; i < l->n_sections; i++) {
            const Elf64_Shdr *s = &l->section[i];
            if (!loads(s) || group_of(s) != g) continue;
            size_t align = s->sh_addralign ? s->sh_addralign : 1;
            if (align & (align - 1) || align > page)
                return fail(l, "section %d has a bad alignment", i);
            if (s->sh_flags & SHF_TLS) return fail(l, "thread-local data");
            if ((s->sh_flags & SHF_EXECINSTR) && (s->sh_flags & SHF_WRITE))
                return fail(l, "section %d is writable code", i);
            at = (at + align - 1) & ~(align - 1);
            if (s->sh_size > size_most - at) return fail(l, "too large");
            l->at[i] = at;
            at += s->sh_size;
        }
        l->end[g] = at = (at + page - 1) & ~(page - 1);
    }
    if (!l->end[CODE]) return fail(l, "no code");
    void *block = mmap(NULL, at, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return fail(l, "no memory");
    l->m->block = block;
    l->m->size = at;
    for (int i = 0; i < l->n_sections; i++)
        if (l->at[i] != SIZE_MAX && l->section[i].sh_type != SHT_NOBITS)
            memcpy(l->m->block + l->at[i], l->file + l->section[i].sh_offset,
                   l->section[i].sh_size);
    return true;
}

// --- Symbols and relocations --------------------------------------------------------------------

static u64 symbol_count(const Loader *l) { return l->symtab->sh_size / sizeof(Elf64_Sym); }

static const char *symbol_name(const Loader *l, const Elf64_Sym *s) {
    const Elf64_Shdr *str = &l->section[l->symtab->sh_link];
    if (str->sh_type != SHT_STRTAB || s->st_name >= str->sh_size) return "?";
    const char *name = (const char *)l->file + str->sh_offset + s->st_name;
    return memchr(name, 0, str->sh_size - s->st_name) ? name : "?";
}

static Elf64_Sym symbol_at(const Loader *l, u64 i) {
    Elf64_Sym s;
    memcpy(&s, l->file + l->symtab->sh_offset + i * sizeof s, sizeof s);
    return s;
}

// Offset of a symbol in the block; false when it lies outside of what was loaded.
static bool resolve(Loader *l, const Elf64_Sym *s, size_t *out) {
    if (s->st_shndx == SHN_UNDEF) return fail(l, "undefined symbol '%.100s'", symbol_name(l, s));
    if (s->st_shndx >= l->n_sections || l->at[s->st_shndx] == SIZE_MAX ||
        s->st_value > l->section[s->st_shndx].sh_size)
        return fail(l, "symbol '%.100s' lies nowhere", symbol_name(l, s));
    *out = l->at[s->st_shndx] + s->st_value;
    return true;
}

static bool relocate_one(Loader *l, const Elf64_Shdr *target, size_t base, const Elf64_Rela *r) {
    u64 index = ELF64_R_SYM(r->r_info), type = ELF64_R_TYPE(r->r_info);
    size_t width = type == R_X86_64_64 || type == R_X86_64_PC64 ? 8 : 4, sym;
    if (type == R_X86_64_NONE) return true;
    if (index >= symbol_count(l))
        return fail(l, "relocation by symbol %llu of none", (long long)index);
    if (r->r_offset > target->sh_size || width > target->sh_size - r->r_offset)
        return fail(l, "relocation outside its section");
    Elf64_Sym s = symbol_at(l, index);
    if (!resolve(l, &s, &sym)) return false;

    u8 *place = l->m->block + base + r->r_offset;
    u64 value = (u64)(uintptr_t)l->m->block + sym + (u64)r->r_addend;
    bool fits = true;
    switch (type) {
    case R_X86_64_64: break;
    case R_X86_64_PC64: value -= (u64)(uintptr_t)place; break;
    case R_X86_64_PC32:
    case R_X86_64_PLT32:
        value -= (u64)(uintptr_t)place;
        fits = (i64)value == (i32)value;
        break;
    case R_X86_64_32: fits = value == (u32)value; break;
    case R_X86_64_32S: fits = (i64)value == (i32)value; break;
    default: return fail(l, "unknown relocation type %llu", (long long)type);
    }
    if (!fits) return fail(l, "relocation to '%.100s' out of range", symbol_name(l, &s));
    memcpy(place, &value, width);
    return true;
}

static bool relocate(Loader *l) {
    for (int i = 0; i < l->n_sections; i++) {
        const Elf64_Shdr *s = &l->section[i];
        if (s->sh_type != SHT_RELA && s->sh_type != SHT_REL) continue;
        if (s->sh_info >= (u32)l->n_sections)
            return fail(l, "relocations for section %u of none", s->sh_info);
        const Elf64_Shdr *target = &l->section[s->sh_info];
        size_t base = l->at[s->sh_info];
        if (base == SIZE_MAX) continue;
        if (s->sh_type == SHT_REL || s->sh_entsize != sizeof(Elf64_Rela) ||
            target->sh_type == SHT_NOBITS)
            return fail(l, "bad relocation table");
        for (u64 k = 0; k < s->sh_size / sizeof(Elf64_Rela); k++) {
            Elf64_Rela r;
            memcpy(&r, l->file + s->sh_offset + k * sizeof r, sizeof r);
            if (!relocate_one(l, target, base, &r)) return false;
        }
    }
    return true;
}

static bool collect(Loader *l) {
    Module *m = l->m;
    VEC(Symbol) found = {0};
    for (u64 i = 1; i < symbol_count(l); i++) {
        Elf64_Sym s = symbol_at(l, i);
        size_t at;
        if (ELF64_ST_TYPE(s.st_info) != STT_FUNC || s.st_shndx == SHN_UNDEF) continue;
        if (!resolve(l, &s, &at)) return false;
        const Elf64_Shdr *home = &l->section[s.st_shndx];
        if (group_of(home) != CODE || s.st_value >= home->sh_size)
            return fail(l, "function '%.100s' is not code", symbol_name(l, &s));
        const char *name = symbol_name(l, &s);
        Symbol sym = {ssd_arena_dup(&m->arena, name, strlen(name)), m->block + at};
        vec_push(&m->arena, &found, sym);
    }
    m->symbols = found.v;
    m->n_symbols = (int)found.n;
    return true;
}

static bool protect(Loader *l) {
    static const int how[GROUPS] = {PROT_READ | PROT_EXEC, PROT_READ, PROT_READ | PROT_WRITE};
    size_t from = 0;
    for (int g = 0; g < GROUPS; from = l->end[g++]) {
        size_t n = l->end[g] - from;
        if (n && mprotect(l->m->block + from, n, how[g]))
            return fail(l, "the system refuses executable memory");
    }
    __builtin___clear_cache((char *)l->m->block, (char *)l->m->block + l->end[CODE]);
    return true;
}

static bool load(Loader *l) {
    jmp_buf oom;
    l->m->arena.oom = &oom;
    if (setjmp(oom)) return fail(l, "no memory");
    bool ok = read_header(l) && lay_out(l) && relocate(l) && collect(l) && protect(l);
    l->m->arena.oom = NULL;
    return ok;
}

Module *ssd_module_load(const void *code, size_t size, Text *why) {
    Loader l = {.m = calloc(1, sizeof(Module)), .file = code, .size = size, .why = why};
    if (!l.m) return (void)fail(&l, "no memory"), NULL;
    if (load(&l)) return l.m;
    ssd_module_free(l.m);
    return NULL;
}

void *ssd_module_symbol(const Module *m, const char *name) {
    for (int i = 0; i < m->n_symbols; i++)
        if (!strcmp(m->symbols[i].name, name)) return m->symbols[i].at;
    return NULL;
}

void ssd_module_free(Module *m) {
    if (!m) return;
    if (m->block) munmap(m->block, m->size);
    ssd_arena_free(&m->arena);
    free(m);
}
