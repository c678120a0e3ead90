// Functions of the program that stand before the library's own.
//
// Calls within a shared library go to a function of the program first where it has one of that
// name. Such a function asks the library's own (OfLibrary) and changes what that says. Names and
// layouts are those of one version of gRPC, and where its library is another one nobody would call
// ours: so a server asks first (StandsBefore) and does not start then. They stand in
// grpc_internals.h.
#pragma once

#include <dlfcn.h>

#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace lorica {

// Whether `ours` is what the library calls by this name: it has one of its own, and looks up who
// has the first.
bool StandsBefore(const char* name, const void* ours);
template <typename Function>
bool StandsBefore(const char* name, Function* ours) {
  return StandsBefore(name, reinterpret_cast<const void*>(ours));
}

// FailedPrecondition for a library of which that is not so, and which "cannot be kept from" `what`.
absl::Status CannotBeKeptFrom(absl::string_view what);

// REQUIRES: StandsBefore.
template <typename Function>
Function OfLibrary(const char* name) {
  void* const function = ::dlsym(RTLD_NEXT, name);
  if (function == nullptr) std::abort();
  return reinterpret_cast<Function>(function);
}

}  // namespace lorica
