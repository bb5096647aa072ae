// SPDX-License-Identifier: Apache-2.0
// The object loader: a real object runs; whatever is wrong with one is refused with a reason.
#include "test.h"

#include <elf.h>

static char *object;
static size_t object_size;

static void runs(void) {
    Text why = {0};
    Module *m = ssd_module_load(object, object_size, &why);
    if (!CHECK(m != NULL)) {
        printf("  %s\n", why.s);
        return;
    }
    CHECK(ssd_module_symbol(m, "first") && ssd_module_symbol(m, "second"));
    CHECK(!ssd_module_symbol(m, "third") && !ssd_module_symbol(m, "") &&
          !ssd_module_symbol(m, "weight"));
    float x[6] = {1, 2, 3, 4, 5, 6}, w[6] = {0}, y[6] = {0}, row[16];
    void *ptr[] = {x, NULL, y, NULL, w};
    i64 stride[5 * SSD_MAX_RANK] = {0}, dim[5 * SSD_MAX_RANK] = {0};
    for (int i = 0; i < 5; i++) {
        stride[i * SSD_MAX_RANK] = 6, stride[i * SSD_MAX_RANK + 1] = 6,
                   stride[i * SSD_MAX_RANK + 2] = 1;
        dim[i * SSD_MAX_RANK] = 1, dim[i * SSD_MAX_RANK + 1] = 1, dim[i * SSD_MAX_RANK + 2] = 6;
    }
    CpuArgs args = {ptr, stride, dim, NULL};
    CpuKernel *first, *second;
    void *at = ssd_module_symbol(m, "first");
    memcpy(&first, &at, sizeof at);
    at = ssd_module_symbol(m, "second");
    memcpy(&second, &at, sizeof at);
    first(&args, 0, row);
    second(&args, 0, NULL);
    CHECK(y[0] == 1.5f && y[1] == 4.5f && y[2] == 9.5f && y[3] == 16.5f && y[4] == 5.5f &&
          y[5] == 12.5f);
    ssd_module_free(m);
}

static bool loads(const void *code, size_t n, Text *why) {
    ssd_text_free(why);
    char *exact = malloc(n ? n : 1); // so that a sanitizer sees a read past the end
    memcpy(exact, code, n);
    Module *m = ssd_module_load(exact, n, why);
    free(exact);
    bool ok = m != NULL;
    CHECK(ok == !why->s);
    ssd_module_free(m);
    return ok;
}

static void damaged(void) {
    Text why = {0};
    for (size_t n = 0; n < object_size; n++) {
        // Cut anywhere before the section table, which ends the file, there is nothing to load.
        bool ok = loads(object, n, &why);
        CHECK(!ok);
    }
    char *copy = malloc(object_size);
    for (size_t i = 0; i < object_size; i++)
        for (int k = 0; k < 3; k++) {
            memcpy(copy, object, object_size);
            copy[i] = (char)(k == 0 ? copy[i] ^ 0xff : k == 1 ? copy[i] ^ 1 : 0x80);
            loads(copy, object_size, &why); // a constant may change, nothing may crash
        }
    u64 seed = 5;
    for (int i = 0; i < 2000; i++) {
        memcpy(copy, object, object_size);
        for (int k = 0; k < 8; k++)
            copy[test_random(&seed) % object_size] = (char)test_random(&seed);
        loads(copy, object_size, &why);
    }
    free(copy);
    ssd_text_free(&why);
}

typedef struct Parts {
    char *copy;
    Elf64_Ehdr *head;
    Elf64_Shdr *section, *symtab, *rela; // rela: of the code
    Elf64_Sym *sym;
    Elf64_Rela *reloc;
} Parts;

static Parts take_apart(void) {
    Parts p = {.copy = aligned_alloc(64, (object_size + 63) & ~(size_t)63)};
    memcpy(p.copy, object, object_size);
    p.head = (Elf64_Ehdr *)p.copy;
    p.section = (Elf64_Shdr *)(p.copy + p.head->e_shoff);
    for (int i = 0; i < p.head->e_shnum; i++) {
        Elf64_Shdr *s = &p.section[i];
        if (s->sh_type == SHT_SYMTAB) p.symtab = s;
        if (s->sh_type == SHT_RELA && (p.section[s->sh_info].sh_flags & SHF_EXECINSTR) && !p.rela)
            p.rela = s;
    }
    p.sym = (Elf64_Sym *)(p.copy + p.symtab->sh_offset);
    p.reloc = (Elf64_Rela *)(p.copy + p.rela->sh_offset);
    return p;
}

static void wrong_machine(Parts *p) { p->head->e_machine = EM_AARCH64; }
static void wrong_class(Parts *p) { p->head->e_ident[EI_CLASS] = ELFCLASS32; }
static void executable(Parts *p) { p->head->e_type = ET_EXEC; }
static void no_sections(Parts *p) { p->head->e_shnum = 0; }
static void far_sections(Parts *p) { p->head->e_shoff = UINT64_MAX - 8; }
static void undefined(Parts *p) { p->sym[ELF64_R_SYM(p->reloc->r_info)].st_shndx = SHN_UNDEF; }
static void absolute(Parts *p) { p->sym[ELF64_R_SYM(p->reloc->r_info)].st_shndx = SHN_ABS; }
static void far_symbol(Parts *p) { p->sym[ELF64_R_SYM(p->reloc->r_info)].st_value = 1 << 20; }
static void tls_relocation(Parts *p) {
    p->reloc->r_info = ELF64_R_INFO(ELF64_R_SYM(p->reloc->r_info), R_X86_64_GOTTPOFF);
}
static void far_relocation(Parts *p) { p->reloc->r_offset = UINT64_MAX - 2; }
static void far_addend(Parts *p) { p->reloc->r_addend = (i64)1 << 40; }
static void narrow(Parts *p) {
    p->reloc->r_info = ELF64_R_INFO(ELF64_R_SYM(p->reloc->r_info), R_X86_64_32);
    p->reloc->r_addend = (i64)1 << 40; // wherever the block lies, even where 32 bits would do
}
static void far_index(Parts *p) { p->reloc->r_info = ELF64_R_INFO((u64)1 << 30, R_X86_64_PC32); }
static void far_target(Parts *p) { p->rela->sh_info = 9999; }
static void far_strings(Parts *p) { p->symtab->sh_link = 9999; }
static void huge_bss(Parts *p) {
    for (int i = 0; i < p->head->e_shnum; i++)
        if (p->section[i].sh_flags & SHF_WRITE) {
            p->section[i].sh_type = SHT_NOBITS;
            p->section[i].sh_size = (u64)1 << 60;
        }
}
static void odd_alignment(Parts *p) {
    for (int i = 0; i < p->head->e_shnum; i++)
        if (p->section[i].sh_flags & SHF_EXECINSTR) p->section[i].sh_addralign = 3;
}
static void writable_code(Parts *p) {
    for (int i = 0; i < p->head->e_shnum; i++)
        if (p->section[i].sh_flags & SHF_EXECINSTR) p->section[i].sh_flags |= SHF_WRITE;
}

static void refused(void) {
    static const struct {
        void (*spoil)(Parts *p);
        const char *message;
    } cases[] = {{wrong_machine, "for machine 183, not x86-64"},
                 {wrong_class, "not 64-bit"},
                 {executable, "not relocatable"},
                 {no_sections, "bad section table"},
                 {far_sections, "bad section table"},
                 {undefined, "undefined symbol '"},
                 {absolute, "lies nowhere"},
                 {far_symbol, "lies nowhere"},
                 {tls_relocation, "unknown relocation type 22"},
                 {far_relocation, "outside its section"},
                 {far_addend, "out of range"},
                 {narrow, "out of range"},
                 {far_index, "of none"},
                 {far_target, "of none"},
                 {far_strings, "bad symbol table"},
                 {huge_bss, "too large"},
                 {odd_alignment, "bad alignment"},
                 {writable_code, "writable code"}};
    Text why = {0};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        Parts p = take_apart();
        cases[i].spoil(&p);
        CHECK(!loads(p.copy, object_size, &why));
        CHECK_HOLDS(why.s, cases[i].message);
        free(p.copy);
    }
    CHECK(!loads("", 0, &why));
    CHECK_HOLDS(why.s, "truncated");
    ssd_text_free(&why);
}

int main(void) {
    object = test_read_file(FIXTURE_OBJECT, &object_size);
    if (!CHECK(object != NULL)) return test_end();
    runs();
    refused();
    damaged();
    free(object);
    return test_end();
}
