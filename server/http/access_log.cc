#include "server/http/access_log.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "server/http/json.h"
#include "spdlog/logger.h"
#include "spdlog/sinks/basic_file_sink.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace lorica {
namespace {

constexpr size_t kLoggedPathBytesMax = 256;

double Milliseconds(absl::Duration duration) {
  return static_cast<double>(absl::ToInt64Microseconds(duration)) / 1000.0;
}

}  // namespace

std::string AccessLine(const AccessEntry& entry) {
  OrderedJson line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", entry.began, absl::UTCTimeZone());
  line["request_id"] = entry.request_id;
  line["peer"] = entry.peer;
  line["method"] = entry.method;
  line["path"] = entry.path.substr(0, kLoggedPathBytesMax);
  line["status"] = entry.status;
  line["ms"] = Milliseconds(entry.took);
  line["bytes"] = entry.bytes;
  const AccessNotes& notes = entry.notes;
  if (!notes.tenant.empty()) line["tenant"] = notes.tenant;
  if (!notes.adapter.empty()) line["adapter"] = notes.adapter;
  if (!notes.code.empty()) line["code"] = notes.code;
  if (notes.prompt_tokens > 0) line["prompt_tokens"] = notes.prompt_tokens;
  if (notes.completion_tokens > 0) line["completion_tokens"] = notes.completion_tokens;
  if (notes.first_token_ms > 0.0) line["ttft_ms"] = notes.first_token_ms;
  return Dump(line, /*ascii=*/true);
}

absl::StatusOr<std::unique_ptr<AccessLog>> AccessLog::Open(const std::string& path) {
  auto log = std::make_unique<AccessLog>();
  spdlog::sink_ptr sink;
  if (path == "-") {
    sink = std::make_shared<spdlog::sinks::stdout_sink_mt>();
  } else {
    std::FILE* file = std::fopen(path.c_str(), "a");  // spdlog would throw
    if (file == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("--http-access-log ", path, " cannot be written"));
    }
    std::fclose(file);
    sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
  }
  log->logger_ = std::make_shared<spdlog::logger>("access", std::move(sink));
  log->logger_->set_pattern("%v");
  log->logger_->flush_on(spdlog::level::info);
  return log;
}

void AccessLog::Write(const AccessEntry& entry) {
  logger_->log(spdlog::level::info, spdlog::string_view_t(AccessLine(entry)));
}

}  // namespace lorica
