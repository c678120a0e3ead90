#include <utility>

#include "adapters/remote_adapters.h"

namespace lorica {

void FetchTicket::WhenDone(Done done) {
  {
    absl::MutexLock lock(&mutex_);
    if (!ended_) {
      waiting_.push_back(std::move(done));
      return;
    }
  }
  // It does not change any more.
  absl::StatusOr<GenerationPtr> result = [this] {
    absl::MutexLock lock(&mutex_);
    return result_;
  }();
  done(result);
}

void FetchTicket::End(const absl::StatusOr<GenerationPtr>& result) {
  std::vector<Done> waiting;
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    result_ = result;
    waiting.swap(waiting_);
  }
  for (const Done& done : waiting) done(result);
}

}  // namespace lorica
