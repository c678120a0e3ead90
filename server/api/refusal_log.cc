#include "server/api/refusal_log.h"

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/api/status_map.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

constexpr size_t kLoggedIdBytesMax = 128;

// Lines of the running second, and those left out since the last line.
struct Window {
  absl::Mutex mutex;
  absl::Time begin ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
  int lines ABSL_GUARDED_BY(mutex) = 0;
  int64_t left_out ABSL_GUARDED_BY(mutex) = 0;
};

// How many lines were left out before this one; -1: this one is, too.
int64_t Enter(Window& window, absl::Time now) {
  absl::MutexLock lock(&window.mutex);
  if (now - window.begin >= absl::Seconds(1)) {
    window.begin = now;
    window.lines = 0;
  }
  if (window.lines >= kRefusalLinesPerSecond) {
    ++window.left_out;
    return -1;
  }
  ++window.lines;
  const int64_t left_out = window.left_out;
  window.left_out = 0;
  return left_out;
}

}  // namespace

void LogRefusal(absl::string_view method, absl::string_view adapter_id, const absl::Status& status,
                absl::Time now) {
  static Window& window = *new Window;
  const int64_t left_out = Enter(window, now);
  if (left_out < 0) return;
  spdlog::info("refused method={} code={} adapter=\"{}\" left_out={} reason=\"{}\"",
               std::string(method), absl::StatusCodeToString(status.code()),
               CleanErrorText(adapter_id.substr(0, kLoggedIdBytesMax)), left_out,
               CleanErrorText(status.message()));
}

}  // namespace lorica
