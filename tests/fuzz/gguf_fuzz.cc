// GGUF files: tensors lie within the file, and a model opens or is refused.
#include <sys/mman.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "adapters/hub/gguf.h"
#include "kernels/check.h"
#include "server/models/families/family.h"
#include "tests/fuzz/fuzz.h"

namespace lorica {
namespace {

void CheckTensors(const GgufFile& file, int64_t size) {
  for (const GgufTensor& tensor : file.tensors()) {
    LORICA_CHECK(tensor.begin >= 0 && tensor.bytes >= 0, tensor.begin, tensor.bytes);
    LORICA_CHECK(tensor.bytes <= size && tensor.begin <= size - tensor.bytes, tensor.begin);
    LORICA_CHECK(file.FindTensor(tensor.name) != nullptr);
  }
}

// As the server would open it, from a file that exists in memory alone.
void Open(const uint8_t* data, size_t size) {
  const int fd = memfd_create("gguf", MFD_CLOEXEC);
  LORICA_CHECK(fd >= 0 && write(fd, data, size) == static_cast<ssize_t>(size));
  const auto opened = OpenGgufLlama(absl::StrCat("/proc/self/fd/", fd));
  (void)opened.ok();
  close(fd);
}

}  // namespace
}  // namespace lorica

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lorica;
  const auto file = GgufFile::Parse({reinterpret_cast<const std::byte*>(data), size});
  if (!file.ok()) return 0;
  CheckTensors(*file, static_cast<int64_t>(size));
  Open(data, size);
  return 0;
}
