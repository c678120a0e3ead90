// Calls whose adapters are on their way to this machine.
//
// A call that has passed every other check waits here, outside the engine, until all its
// adapters are here, one of them failed, its deadline passed or its client left; then it
// goes on or ends. Bounded in calls and tokens, also of one tenant. Thread-safe; what waits may
// outlive the room's owner as far as the fetches do, and then only ends.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "adapters/remote_adapters.h"
#include "server/api/gateway.h"
#include "server/api/running_answer.h"

namespace lorica {

struct WaitingCall {
  std::string tenant;
  std::vector<FoundAdapter> adapters;  // those without a ticket are here
  std::shared_ptr<RunningAnswer> answer;
  int64_t tokens = 0;
  absl::Time deadline = absl::InfiniteFuture();
  // Goes on with the adapters in their order; an error ends the answer. Must not block.
  std::function<absl::Status(const std::vector<GenerationPtr>& generations)> go_on;
};

class WaitingRoom {
 public:
  // `refused` hears of every call that ends here with an error. Who takes its end logs it.
  using Refused = std::function<void(const absl::Status& status)>;
  WaitingRoom(WaitingLimits limits, Refused refused);
  ~WaitingRoom();

  // Unavailable: it is full, altogether or of this tenant, or closed.
  absl::Status Enter(WaitingCall call);
  // Ends those whose deadline has passed, forgets those whose client has left.
  void Tick(absl::Time now);
  // Ends all that wait with `status`, and lets nobody in any more.
  void Close(const absl::Status& status);
  int64_t size() const;

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace lorica
