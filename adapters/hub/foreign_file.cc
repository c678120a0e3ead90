#include "adapters/hub/foreign_file.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace lorica {

std::string DescribeForeignFile(std::string_view head_bytes) {
  const absl::string_view head(head_bytes.data(), head_bytes.size());
  const absl::string_view text = absl::StripLeadingAsciiWhitespace(head);
  if (absl::StartsWith(head, "version https://git-lfs")) {
    return "it is a Git-LFS pointer, not the weights: run 'git lfs pull' and copy the real file";
  }
  if (absl::StartsWith(head, "PK\x03\x04")) {
    return "it is a zip archive, as torch.save writes: convert it to safetensors";
  }
  if (absl::StartsWith(head, "\x80\x02") && head.size() > 2 && head[2] >= '\x20') {
    return "it is a Python pickle: convert it to safetensors";
  }
  if (absl::StartsWithIgnoreCase(text, "<!doctype") || absl::StartsWithIgnoreCase(text, "<html")) {
    return "it is an HTML page: the download went wrong, fetch the file again";
  }
  if (absl::StartsWith(head, "GGUF")) {
    return "it is a GGUF file: adapters are served from PEFT folders with safetensors";
  }
  return "";
}

}  // namespace lorica
