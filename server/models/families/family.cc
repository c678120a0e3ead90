#include "server/models/families/family.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

absl::Status CheckRange(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("model config: ", field, " is ", value, ", allowed are ", low, " to ", high));
}

absl::Status CheckScaling(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  const bool known = scaling.kind == "default" || scaling.kind == "linear" ||
                     scaling.kind == "llama3" || scaling.kind == "divisors";
  if (!known) {
    return absl::FailedPreconditionError(
        absl::StrCat("model config: rope scaling '", scaling.kind,
                     "' is not supported; default, linear and llama3 are"));
  }
  const bool sane =
      std::isfinite(scaling.factor) && scaling.factor > 0 && scaling.low_freq_factor > 0 &&
      scaling.high_freq_factor > scaling.low_freq_factor && scaling.original_context > 0;
  if (!sane)
    return absl::InvalidArgumentError(
        "model config: rope scaling has impossible or missing factors");
  for (double divisor : scaling.divisors) {
    if (!(std::isfinite(divisor) && divisor > 0)) {
      return absl::InvalidArgumentError("model config: rope_freqs holds an impossible divisor");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // A FIFO would wait for its writer.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open model file ", path));
  }
  struct stat info {};
  const bool regular = ::fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode);
  if (!regular || info.st_size == 0) {
    ::close(descriptor);
    return absl::InvalidArgumentError(absl::StrCat(path, " is empty or not a regular file"));
  }
  void* data = ::mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int error = errno;
  ::close(descriptor);
  if (data == MAP_FAILED) {
    return absl::ErrnoToStatus(error, absl::StrCat("cannot map model file ", path));
  }
  return std::unique_ptr<MappedFile>(
      new MappedFile(static_cast<const std::byte*>(data), static_cast<size_t>(info.st_size)));
}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(data_), size_); }

absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t bytes_max) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat("no file ", path));
  }
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::PermissionDeniedError(absl::StrCat("cannot open ", path));
  const int64_t size = file.tellg();
  if (size < 0 || size > bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", size, " bytes, at most ", bytes_max, " are read"));
  }
  std::string text(size, '\0');
  file.seekg(0);
  if (file.read(text.data(), size)) return text;
  return absl::UnavailableError(
      absl::StrCat(path, " cannot be read: try again, and if it stays so have its disk looked at"));
}

absl::Status CheckConfig(const ModelConfig& config) {
  absl::Status status;
  const auto range = [&status](absl::string_view field, int64_t value, int64_t low, int64_t high) {
    status.Update(CheckRange(field, value, low, high));
  };
  range("layer count", config.layers, 1, kLayersMax);
  range("hidden size", config.hidden, 1, kHiddenMax);
  range("feed-forward size", config.ffn, 1, kHiddenMax * 8);
  range("head count", config.heads, 1, 1024);
  range("key/value head count", config.kv_heads, 1, 1024);
  range("head size", config.head_size, 2, 512);
  range("vocabulary", config.vocabulary, 1, kVocabularyMax);
  range("context", config.context_tokens, 2, int64_t{1} << 24);
  if (!status.ok()) return status;
  if (config.heads % config.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model config: ", config.heads,
                                                   " heads do not divide into ", config.kv_heads,
                                                   " key/value heads"));
  }
  if (config.head_size % 2 != 0) {
    return absl::InvalidArgumentError("model config: the head size is odd");
  }
  if (!(config.norm_epsilon > 0 && config.norm_epsilon <= 1e-2)) {
    return absl::InvalidArgumentError("model config: the norm epsilon is outside (0, 0.01]");
  }
  if (!(std::isfinite(config.rope_theta) && config.rope_theta > 0)) {
    return absl::InvalidArgumentError("model config: rope theta is not a positive number");
  }
  return CheckScaling(config);
}

absl::Status UnknownTensor(const std::string& name) {
  return absl::FailedPreconditionError(absl::StrCat(
      "tensor ", Quoted(name), " is none that is served: without it the answers would be wrong"));
}

absl::Status CheckShape(const HostMatrix& matrix, int64_t rows, int64_t columns,
                        const std::string& name) {
  if (matrix.rows == rows && matrix.columns == columns) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' is [", matrix.rows, ", ",
                                                 matrix.columns, "], the config says [", rows, ", ",
                                                 columns, "]"));
}

}  // namespace lorica
