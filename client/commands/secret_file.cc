#include "client/commands/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

void WarnOfOthers(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return;
  if ((info.st_mode & (S_IRGRP | S_IROTH)) == 0) return;
  std::fprintf(stderr, "warning: %s can be read by others than you: chmod 600 %s\n", path.c_str(),
               path.c_str());
}

}  // namespace

absl::StatusOr<std::string> ReadSecretFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kSecretFileBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.empty() || text.size() > kSecretFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(path, " cannot be read, is empty or too large"));
  }
  WarnOfOthers(path);
  return text;
}

absl::StatusOr<std::string> ReadSecretWord(const std::string& path) {
  absl::StatusOr<std::string> word = ReadSecretFile(path);
  if (!word.ok()) return word;
  while (!word->empty() && (word->back() == '\n' || word->back() == '\r')) word->pop_back();
  const bool plain = !word->empty() && std::all_of(word->begin(), word->end(), [](unsigned char c) {
    return c > 0x20 && c < 0x7f;
  });
  if (plain) return word;
  return absl::InvalidArgumentError(
      absl::StrCat(path, " does not hold one word: printable characters without blanks"));
}

absl::Status WriteSecretFile(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  const bool written = fd >= 0 && write(fd, text.data(), text.size()) == std::ssize(text);
  const int error = errno;
  const bool closed = fd >= 0 && close(fd) == 0;
  if (written && closed) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", std::strerror(error)));
}

}  // namespace lorica
