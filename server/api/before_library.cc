#include "server/api/before_library.h"

#include <elf.h>
#include <link.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

// Whether `library` looks a function of this name up, its own one too. One that was linked with
// -Bsymbolic-functions does not: it calls its own, whatever the program has.
bool LooksUp(const link_map& library, const char* name) {
  const ElfW(Sym)* symbols = nullptr;
  const char* names = nullptr;
  const ElfW(Rela) * tables[2] = {};  // of calls, and of pointers
  size_t bytes[2] = {};
  for (const ElfW(Dyn)* entry = library.l_ld; entry->d_tag != DT_NULL; ++entry) {
    const auto& at = entry->d_un;
    if (entry->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(at.d_ptr);
    if (entry->d_tag == DT_STRTAB) names = reinterpret_cast<const char*>(at.d_ptr);
    if (entry->d_tag == DT_JMPREL) tables[0] = reinterpret_cast<const ElfW(Rela)*>(at.d_ptr);
    if (entry->d_tag == DT_PLTRELSZ) bytes[0] = at.d_val;
    if (entry->d_tag == DT_RELA) tables[1] = reinterpret_cast<const ElfW(Rela)*>(at.d_ptr);
    if (entry->d_tag == DT_RELASZ) bytes[1] = at.d_val;
  }
  for (int table = 0; table < 2; ++table) {
    for (size_t i = 0; i < bytes[table] / sizeof(ElfW(Rela)); ++i) {
      const ElfW(Sym)& symbol = symbols[ELF64_R_SYM(tables[table][i].r_info)];
      if (std::strcmp(names + symbol.st_name, name) == 0) return true;
    }
  }
  return false;
}

}  // namespace

bool StandsBefore(const char* name, const void* ours) {
  const void* const librarys = ::dlsym(RTLD_NEXT, name);
  if (librarys == nullptr || ::dlsym(RTLD_DEFAULT, name) != ours) return false;
  Dl_info ignored{};
  link_map* library = nullptr;
  ::dladdr1(librarys, &ignored, reinterpret_cast<void**>(&library), RTLD_DL_LINKMAP);
  return library != nullptr && LooksUp(*library, name);
}

absl::Status CannotBeKeptFrom(absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("this libgrpc.so cannot be kept from ", what,
                   ": use the one that the server was built with"));
}

}  // namespace lorica
