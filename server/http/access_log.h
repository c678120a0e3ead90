// One JSON object a line for every HTTP request that has ended.
//
//   {"time":"2026-01-31T12:00:00.123Z","request_id":"...","peer":"127.0.0.1","method":"POST",
//    "path":"/generate","status":200,"ms":41.2,"bytes":512,"adapter":"intent",...}
//
// Never holds prompts, answers, keys or header values. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/http/exchange.h"

namespace spdlog {
class logger;
}

namespace lorica {

struct AccessEntry {
  std::string request_id;
  std::string peer;
  std::string method;
  std::string path;
  int status = 0;
  absl::Time began;
  absl::Duration took;
  int64_t bytes = 0;  // sent, headers included
  AccessNotes notes;
};

// The line without its end.
std::string AccessLine(const AccessEntry& entry);

class AccessLog {
 public:
  // "-" is standard output; a file is appended to. FailedPrecondition: it cannot be opened.
  static absl::StatusOr<std::unique_ptr<AccessLog>> Open(const std::string& path);
  void Write(const AccessEntry& entry);

 private:
  std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace lorica
