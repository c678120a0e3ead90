// Adapter ids and the paths made of them: whatever is opened lies beneath the root.
#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "adapters/adapter.h"
#include "adapters/hub/beneath.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/source.h"
#include "adapters/hub/url.h"
#include "kernels/check.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/fuzz/fuzz.h"

namespace lorica {
namespace {

constexpr char kFile[] = "adapter_config.json";

// A root with adapters in it, a secret beside it, and links that lead there.
struct Disk {
  Disk() {
    folder.Write("root/a/adapter_config.json", "inside");
    folder.Write("root/team/b/adapter_config.json", "inside");
    folder.Write("secret/adapter_config.json", "outside");
    namespace fs = std::filesystem;
    fs::create_symlink("../secret", root() + "/out");
    fs::create_symlink(folder.path() + "/secret", root() + "/absolute");
    fs::create_symlink("a", root() + "/in");
    fs::create_directories(root() + "/linked");
    fs::create_symlink("../../secret/adapter_config.json", root() + "/linked/" + kFile);
    source = *MakeLocalSource(root());
    fd = open(root().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }
  std::string root() const { return folder.path() + "/root"; }

  TemporaryFolder folder;
  std::unique_ptr<Source> source;
  int fd = -1;
};

void CheckInside(int fd, const std::string& asked) {
  const std::string text = std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", fd));
  LORICA_CHECK(text.find("/root") != std::string::npos, asked, text);
  LORICA_CHECK(text.find("/secret") == std::string::npos, asked, text);
}

void Open(const Disk& disk, const std::string& location) {
  const auto file = disk.source->Open(location, kFile);
  if (file.ok()) {
    std::string text((*file)->size_bytes(), '\0');
    const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), text.size());
    LORICA_CHECK((*file)->ReadAt(0, bytes).ok() && text == "inside", location, text);
  }
  for (const BeneathMethod method : {BeneathMethod::kAuto, BeneathMethod::kPortable}) {
    const auto opened = OpenBeneath(disk.fd, location, O_RDONLY, method);
    if (opened.ok()) CheckInside(opened->get(), location);
  }
}

bool IsPlain(std::string_view id) {
  for (const char c : id) {
    if (!absl::ascii_isalnum(c) && std::string_view("._-/@").find(c) == std::string_view::npos) {
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace lorica

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lorica;
  static const Disk* const disk = new Disk();
  const std::string id(reinterpret_cast<const char*>(data), size);
  const absl::Status status = CheckAdapterId(id);
  if (status.ok()) {
    LORICA_CHECK(!id.empty() && std::ssize(id) <= kAdapterIdBytesMax && IsPlain(id), id);
    LORICA_CHECK(id.find("..") == std::string::npos && id[0] != '/' && id.back() != '/', id);
  }
  for (const char c : std::string(status.message())) LORICA_CHECK(c >= 0x20 && c < 0x7f, "text");
  // Also what the grammar would never let through.
  Open(*disk, id);
  if (IsRepoName(id)) LORICA_CHECK(IsPlain(id) && id.find('@') == std::string::npos, id);
  const auto url = ParseUrl(absl::StrCat("http://127.0.0.1/", EscapeSegment(id), "/x"));
  if (url.ok()) LORICA_CHECK(url->host == "127.0.0.1" && url->port == 80, url->text);
  return 0;
}
