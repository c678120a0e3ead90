// A source some of whose folders hang: reads of their files wait until they are let go.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tests/fakes/watched_source.h"

namespace lorica {

// Thread-safe.
class HeldSource : public WatchedSource {
 public:
  // Folders whose names begin so hang from now on.
  HeldSource(std::shared_ptr<Source> source, std::string prefix)
      : WatchedSource(std::move(source),
                      [this, prefix = std::move(prefix)](const std::string& location,
                                                         const std::string&, int64_t) {
                        if (absl::StartsWith(location, prefix)) Hang();
                      }) {}

  void LetGo() {
    absl::MutexLock lock(&mutex_);
    held_ = false;
  }
  // False: fewer than `count` reads hang after ten seconds.
  bool AwaitHeld(int count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&] { return waiting_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(10));
  }

 private:
  void Hang() {
    absl::MutexLock lock(&mutex_);
    ++waiting_;
    mutex_.Await(absl::Condition(
        +[](bool* held) { return !*held; }, &held_));
    --waiting_;
  }

  absl::Mutex mutex_;
  bool held_ = true;
  int waiting_ = 0;
};

}  // namespace lorica
