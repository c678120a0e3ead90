#include "kernels/plugin.h"

#include <dlfcn.h>

#include <filesystem>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

std::string LastDlError() {
  const char* text = ::dlerror();
  return text != nullptr ? text : "no reason given";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakePluginBackend(const std::string& path,
                                                           const BackendOptions& options) {
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot load the device's library: ", LastDlError(),
                     "; install what it needs, or use "
                     "--device cpu"));
  }
  const auto* interface = static_cast<const char*>(::dlsym(library, kPluginInterfaceName));
  const auto make = reinterpret_cast<MakeBackendFunction>(::dlsym(library, kPluginFunctionName));
  if (interface == nullptr || make == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is no backend of this program"));
  }
  if (std::string_view(interface) != LORICA_BACKEND_INTERFACE) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " belongs to another version (its interface is ", interface,
                     ", this program's is ", LORICA_BACKEND_INTERFACE, "): build both together"));
  }
  absl::Status error;
  std::unique_ptr<Backend> backend(make(&options, &error));
  if (backend == nullptr) return error;
  return backend;
}

std::string FindPlugin(const std::string& device) {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string name = absl::StrCat("liblorica_", device, ".so");
  for (const char* folder : {".", "../lib"}) {
    const auto path = (program.parent_path() / folder / name).lexically_normal();
    if (std::filesystem::exists(path, error)) return path;
  }
  return "";
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const std::string& device,
                                                     const BackendOptions& options) {
  if (device == "cpu") return MakeCpuBackend(options);
  const std::string path = FindPlugin(device);
  if (!path.empty()) return MakePluginBackend(path, options);
  return absl::FailedPreconditionError(
      absl::StrCat("this device needs liblorica_", device,
                   ".so beside loricad or in ../lib, and it is in neither: build with "
                   "deploy/quickstart.sh --",
                   device.substr(0, device.find('_')), ", or use --device cpu"));
}

}  // namespace lorica
