// Tells sinks what became of their requests on a thread of its own, so that a step's host work
// does not grow by what every listener does with its token.
//
// The engine's thread adds and hands over; one wake-up takes a whole step across. Each sink
// hears its events in the order in which they were added.
#pragma once

#include <deque>
#include <memory>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/engine/request.h"

namespace lorica {

// Handed over and not yet told. A relay that is so far behind holds up the engine.
inline constexpr int kRelayHandoversMax = 64;

class EventRelay {
 public:
  EventRelay();
  // Tells all that was handed over.
  ~EventRelay();
  EventRelay(const EventRelay&) = delete;

  // The engine's thread.
  using Event = std::variant<TokenEvent, FinishEvent>;
  void Add(std::shared_ptr<TokenSink> sink, Event event);
  void HandOver();

 private:
  struct Item {
    std::shared_ptr<TokenSink> sink;
    Event event;
  };
  using Items = std::vector<Item>;

  void Loop();

  Items gathered_;
  absl::Mutex mutex_;
  std::deque<Items> handed_over_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace lorica
