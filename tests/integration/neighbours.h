// Well-behaved clients beside a fault, and what the fault must have left behind.
//
// One gRPC client, by streams, and one HTTP client ask the same again and again, from an answer
// before the fault until Check, which fails the test if any was late, other than that first, or
// missing. Told that there are too many connections (503), the HTTP client asks again after
// `Retry-After`.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tests/integration/server_process.h"

namespace lorica {

class Neighbours {
 public:
  // `server` runs the tiny model with HTTP, and outlives this. `key`: for HTTP, of the tenant
  // that the server's own client is; empty: there are no keys.
  explicit Neighbours(const ServerProcess* server, std::string key = "");
  ~Neighbours();

  // Ends them. Every call was answered, as ever, and none took longer than `limit`.
  void Check(absl::Duration limit);
  // Waits until the server has nothing running and as many open files and blocks as at the
  // start; fails the test after `limit`.
  void ExpectNothingLeft(absl::Duration limit = absl::Seconds(10));
  // The longest that one of them has waited until now.
  absl::Duration Longest() const { return absl::Milliseconds(longest_ms_.load()); }
  // Processor time of the server since the start.
  absl::Duration ProcessorTime() const;

 private:
  struct Footprint {
    int open_files = 0;
    int64_t kv_blocks = 0;
    int64_t open_calls = 0;
  };
  Footprint Look() const;
  absl::Duration UsedSoFar() const;
  // `client` null: over HTTP.
  void Ask(LoricaClient* client, const absl::StatusOr<std::string>& first);
  absl::StatusOr<std::string> Answer(LoricaClient* client) const;
  absl::StatusOr<std::string> AnswerOverHttp() const;

  const ServerProcess& server_;
  const std::string key_;
  const Footprint before_;
  const absl::Duration used_before_;
  std::atomic<bool> stop_{false};
  std::atomic<int> answers_{0};
  absl::Mutex mutex_;
  std::string wrong_ ABSL_GUARDED_BY(mutex_);  // the last wrong answer
  std::atomic<int64_t> longest_ms_{0};
  std::vector<std::thread> threads_;
};

}  // namespace lorica
