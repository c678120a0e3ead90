#include "server/api/later.h"

#include <chrono>
#include <utility>

#include "grpcpp/alarm.h"

namespace lorica {

void Later::End() {
  absl::MutexLock lock(&state_->mutex);
  state_->ended = true;
}

void Later::Run(absl::Duration wait, std::function<void()> work) {
  auto alarm = std::make_shared<grpc::Alarm>();
  grpc::Alarm& set = *alarm;
  set.Set(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(wait),
          [state = state_, work = std::move(work), alarm = std::move(alarm)](bool) mutable {
            const auto done = std::move(alarm);  // which holds this function
            absl::MutexLock lock(&state->mutex);
            if (!state->ended) work();
          });
}

}  // namespace lorica
