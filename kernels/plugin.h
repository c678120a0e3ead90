// Backends that live in shared objects of their own, so that one program runs where their
// libraries are and where they are not.
//
// A plugin is liblorica_<device>.so, or liblorica_<device>_<variant>.so of a device with several.
// It exports a string, the digest of the interface headers
// that it was built from, which must be the program's own, and a function that makes the
// backend or says why not.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace lorica {

// What a plugin exports: const char[] and MakeBackendFunction, both extern "C".
inline constexpr char kPluginInterfaceName[] = "LoricaBackendInterface";
inline constexpr char kPluginFunctionName[] = "LoricaMakeBackend";

// The caller owns what comes back; null: *error says why.
using MakeBackendFunction = Backend* (*)(const BackendOptions* options, absl::Status* error);

// Opens `path` for good and makes its backend. FailedPrecondition: it is missing, needs
// libraries that are not here, or was built with another version. Other errors: the
// plugin's own.
absl::StatusOr<std::unique_ptr<Backend>> MakePluginBackend(const std::string& path,
                                                           const BackendOptions& options);

// liblorica_<device>.so beside this program or in ../lib, in that order; empty: in neither.
std::string FindPlugin(const std::string& device);

// The backend of `device`, "cpu" or a plugin's: "cuda" or "cuda_f16". FailedPrecondition says what
// to do.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const std::string& device,
                                                     const BackendOptions& options);

}  // namespace lorica
