#include "server/usage_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/models/families/family.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

// Far beyond what kUsageRowsMax rows take.
constexpr int64_t kBillBytesMax = int64_t{1} << 30;

absl::Status WriteFailed(const std::string& path) {
  return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
}

bool SyncAndClose(int fd) {
  const bool synced = fsync(fd) == 0;
  const int why = errno;
  if (close(fd) != 0) return false;
  errno = why;
  return synced;
}

// A disk that fills up takes a part first, and says why with the next one.
bool WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(fd, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    text.remove_prefix(count);
  }
  return true;
}

absl::Status WriteWhole(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  const int fd = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return WriteFailed(fresh);
  if (!WriteAll(fd, text)) {
    absl::Status failed = WriteFailed(fresh);
    close(fd);
    return failed;
  }
  if (!SyncAndClose(fd)) return WriteFailed(fresh);
  if (std::rename(fresh.c_str(), path.c_str()) != 0) return WriteFailed(path);
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  const int folder_fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd < 0 || !SyncAndClose(folder_fd)) return WriteFailed(folder);
  return absl::OkStatus();
}

std::string ToText(const std::vector<UsageRow>& rows, absl::Time since) {
  Json list = Json::array();
  for (const UsageRow& row : rows) {
    list.push_back({{"tenant", row.tenant},
                    {"generation", row.generation},
                    {"requests", row.usage.requests},
                    {"prompt_tokens", row.usage.prompt_tokens},
                    {"completion_tokens", row.usage.completion_tokens},
                    {"cached_tokens", row.usage.cached_tokens}});
  }
  return Json{{"since_unix_ms", absl::ToUnixMillis(since)}, {"rows", std::move(list)}}.dump(1);
}

// False: not a row.
bool FromJson(const Json& json, UsageRow* row) {
  const auto text = [&](const char* name, std::string* value) {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_string()) return false;
    *value = found->get<std::string>();
    return true;
  };
  const auto count = [&](const char* name, int64_t* value) {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_number_unsigned()) return false;
    *value = found->get<int64_t>();
    return true;
  };
  return json.is_object() && text("tenant", &row->tenant) && text("generation", &row->generation) &&
         count("requests", &row->usage.requests) &&
         count("prompt_tokens", &row->usage.prompt_tokens) &&
         count("completion_tokens", &row->usage.completion_tokens) &&
         count("cached_tokens", &row->usage.cached_tokens);
}

}  // namespace

UsageFile::UsageFile(std::string path, Accounts* accounts, absl::Duration interval)
    : path_(std::move(path)), accounts_(accounts), interval_(interval), since_(absl::Now()) {}

absl::StatusOr<std::unique_ptr<UsageFile>> UsageFile::Open(const std::string& path,
                                                           Accounts* accounts,
                                                           absl::Duration interval) {
  std::unique_ptr<UsageFile> file(new UsageFile(path, accounts, interval));
  if (absl::Status s = file->Restore(); !s.ok()) return s;
  file->thread_ = std::thread([raw = file.get()] { raw->Loop(); });
  return file;
}

UsageFile::~UsageFile() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

absl::Status UsageFile::Restore() {
  absl::StatusOr<std::string> text = ReadTextFile(path_, kBillBytesMax);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  if (!text.ok()) return text.status();
  const Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  bool whole = json.is_object() && json.contains("rows") && json["rows"].is_array() &&
               json.contains("since_unix_ms") && json["since_unix_ms"].is_number_unsigned();
  std::vector<UsageRow> rows;
  for (const Json& one : whole ? json["rows"] : Json::array()) {
    whole = whole && FromJson(one, &rows.emplace_back());
  }
  if (!whole) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the bill ", path_,
        " is damaged: restore it from a backup, or move it away to start counting anew"));
  }
  since_ = absl::FromUnixMillis(json["since_unix_ms"].get<int64_t>());
  for (const UsageRow& row : rows) accounts_->Add(row);
  absl::MutexLock lock(&save_mutex_);
  saved_ = *std::move(text);
  return absl::OkStatus();
}

absl::Status UsageFile::Save() {
  absl::MutexLock lock(&save_mutex_);
  std::string text = ToText(accounts_->Bill(""), since_);
  if (text == saved_) return absl::OkStatus();
  absl::Status status = WriteWhole(path_, text);
  if (status.ok()) saved_ = std::move(text);
  return status;
}

void UsageFile::Loop() {
  for (bool stop = false; !stop;) {
    {
      absl::MutexLock lock(&mutex_);
      stop = mutex_.AwaitWithTimeout(absl::Condition(&stop_), interval_);
    }
    const absl::Status status = Save();
    if (!status.ok()) spdlog::error("the bill was not written: {}", std::string(status.message()));
  }
}

}  // namespace lorica
