#include "server/engine/event_relay.h"

#include <utility>

namespace lorica {

EventRelay::EventRelay() : thread_([this] { Loop(); }) {}

EventRelay::~EventRelay() {
  HandOver();
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void EventRelay::Add(std::shared_ptr<TokenSink> sink, Event event) {
  gathered_.push_back({std::move(sink), std::move(event)});
}

void EventRelay::HandOver() {
  if (gathered_.empty()) return;
  const size_t count = gathered_.size();
  {
    const auto has_room = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return handed_over_.size() < kRelayHandoversMax;
    };
    absl::MutexLock lock(&mutex_, absl::Condition(&has_room));
    handed_over_.push_back(std::exchange(gathered_, {}));
  }
  gathered_.reserve(count);
}

void EventRelay::Loop() {
  const auto has_work = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !handed_over_.empty() || stopping_;
  };
  while (true) {
    Items items;
    {
      absl::MutexLock lock(&mutex_, absl::Condition(&has_work));
      if (handed_over_.empty()) return;
      items = std::move(handed_over_.front());
      handed_over_.pop_front();
    }
    for (const auto& [sink, event] : items) {
      if (const auto* tokens = std::get_if<TokenEvent>(&event)) {
        sink->OnTokens(*tokens);
      } else {
        sink->OnFinish(std::get<FinishEvent>(event));
      }
    }
  }
}

}  // namespace lorica
