#include "server/api/refusal_log.h"

#include <atomic>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/api/status_map.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

constexpr size_t kLoggedIdBytesMax = 128;

std::atomic<int64_t> g_logged{0};

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

void LogIn(Window& window, const char* event, absl::string_view method,
           absl::string_view adapter_id, const absl::Status& status, absl::Time now) {
  const int64_t left_out = Enter(window, now);
  if (left_out < 0) return;
  spdlog::info("{} method={} code={} adapter={} left_out={} reason={}", event, std::string(method),
               absl::StatusCodeToString(status.code()),
               QuotedForLog(adapter_id.substr(0, kLoggedIdBytesMax)), left_out,
               QuotedForLog(status.message()));
}

void Log(const char* event, absl::string_view method, absl::string_view adapter_id,
         const absl::Status& status, absl::Time now) {
  static Window& window = *new Window;
  LogIn(window, event, method, adapter_id, status, now);
  g_logged.fetch_add(1, std::memory_order_relaxed);  // whoever waits for it finds the line
}

}  // namespace

std::string QuotedForLog(absl::string_view text) {
  return absl::StrCat(
      "\"", absl::StrReplaceAll(CleanErrorText(text), {{"\\", "\\\\"}, {"\"", "\\\""}}), "\"");
}

void LogRefusal(absl::string_view method, absl::string_view adapter_id, const absl::Status& status,
                absl::Time now) {
  Log("refused", method, adapter_id, status, now);
}

void LogFailure(absl::string_view method, absl::string_view adapter_id, const absl::Status& status,
                absl::Time now) {
  Log("failed", method, adapter_id, status, now);
}

void LogStale(absl::string_view adapter_id, const absl::Status& why, absl::Time now) {
  Log("stale", "look", adapter_id, why, now);
}

void LogUnreached(const absl::Status& why, absl::Time now) {
  static Window& window = *new Window;
  LogIn(window, "unreached", "fetch", "", why, now);
}

void LogEnded(const absl::Status& why, absl::Time now) {
  static Window& window = *new Window;
  LogIn(window, "ended", "connection", "", why, now);
}

int64_t RefusalsLogged() { return g_logged.load(std::memory_order_relaxed); }

}  // namespace lorica
