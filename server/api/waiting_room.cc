#include "server/api/waiting_room.h"

#include <limits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/synchronization/mutex.h"
#include "server/api/field_error.h"
#include "server/engine/queue_room.h"

namespace lorica {
namespace {

struct Waiting {
  WaitingCall call;
  std::vector<GenerationPtr> generations;
  int missing = 0;
};

constexpr int64_t kAnyBytes = std::numeric_limits<int64_t>::max();  // tokens bound them

QueueShare ShareOf(const WaitingCall& call) { return {.requests = 1, .tokens = call.tokens}; }

}  // namespace

struct WaitingRoom::State {
  State(WaitingLimits limits, Refused refused)
      : refused(std::move(refused)),
        room({limits.requests_max, limits.tokens_max, kAnyBytes}, limits.tenant_parts) {}

  void Arrived(int64_t id, size_t index, const absl::StatusOr<GenerationPtr>& result);
  std::optional<Waiting> Take(int64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void End(const Waiting& waiting, const absl::Status& status) const;

  const Refused refused;
  mutable absl::Mutex mutex;
  absl::btree_map<int64_t, Waiting> waiting ABSL_GUARDED_BY(mutex);
  int64_t next_id ABSL_GUARDED_BY(mutex) = 0;
  QueueRoom room ABSL_GUARDED_BY(mutex);
  absl::Status closed ABSL_GUARDED_BY(mutex);
};

std::optional<Waiting> WaitingRoom::State::Take(int64_t id) {
  auto found = waiting.extract(id);
  if (found.empty()) return std::nullopt;
  room.Leave(found.mapped().call.tenant, ShareOf(found.mapped().call));
  return std::move(found.mapped());
}

void WaitingRoom::State::End(const Waiting& waiting, const absl::Status& status) const {
  if (!waiting.call.answer->Refuse(status)) return;  // its client has left
  refused(status);
}

void WaitingRoom::State::Arrived(int64_t id, size_t index,
                                 const absl::StatusOr<GenerationPtr>& result) {
  std::optional<Waiting> ready;
  {
    absl::MutexLock lock(&mutex);
    const auto found = waiting.find(id);
    if (found == waiting.end()) return;
    if (result.ok()) {
      found->second.generations[index] = *result;
      if (--found->second.missing > 0) return;
    }
    ready = Take(id);
  }
  if (!result.ok()) return End(*ready, result.status());
  const absl::Status status = ready->call.go_on(ready->generations);
  if (!status.ok()) End(*ready, status);
}

WaitingRoom::WaitingRoom(WaitingLimits limits, Refused refused)
    : state_(std::make_shared<State>(limits, std::move(refused))) {}

WaitingRoom::~WaitingRoom() { Close(absl::UnavailableError("the server has stopped")); }

absl::Status WaitingRoom::Enter(WaitingCall call) {
  const std::vector<FoundAdapter> adapters = call.adapters;
  int64_t id = 0;
  {
    absl::MutexLock lock(&state_->mutex);
    if (!state_->closed.ok()) return state_->closed;
    if (!state_->room.Enter(call.tenant, ShareOf(call)).ok()) {
      return TryLater("too many calls wait for adapters that are not here yet");
    }
    Waiting waiting;
    for (const FoundAdapter& adapter : adapters) {
      waiting.generations.push_back(adapter.generation);
      if (adapter.ticket != nullptr) ++waiting.missing;
    }
    waiting.call = std::move(call);
    id = state_->next_id++;
    state_->waiting.emplace(id, std::move(waiting));
  }
  for (size_t i = 0; i < adapters.size(); ++i) {
    if (adapters[i].ticket == nullptr) continue;
    adapters[i].ticket->WhenDone(
        [state = state_, id, i](const absl::StatusOr<GenerationPtr>& result) {
          state->Arrived(id, i, result);
        });
  }
  return absl::OkStatus();
}

void WaitingRoom::Tick(absl::Time now) {
  std::vector<Waiting> late;
  {
    absl::MutexLock lock(&state_->mutex);
    std::vector<int64_t> ids;
    for (const auto& [id, waiting] : state_->waiting) {
      if (waiting.call.deadline <= now || waiting.call.answer->finished()) ids.push_back(id);
    }
    for (const int64_t id : ids) late.push_back(*state_->Take(id));
  }
  const absl::Status status =
      absl::DeadlineExceededError("the deadline passed while an adapter was on its way");
  for (const Waiting& waiting : late) state_->End(waiting, status);
}

void WaitingRoom::Close(const absl::Status& status) {
  std::vector<Waiting> all;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->closed = status;
    while (!state_->waiting.empty()) all.push_back(*state_->Take(state_->waiting.begin()->first));
  }
  for (const Waiting& waiting : all) state_->End(waiting, status);
}

int64_t WaitingRoom::size() const {
  absl::MutexLock lock(&state_->mutex);
  return std::ssize(state_->waiting);
}

}  // namespace lorica
