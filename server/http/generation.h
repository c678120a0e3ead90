// From a GenerateCall to its answers, on the thread of the connection that waits for them.
//
// Admission runs on the work pool; the connection's thread waits, takes pieces as they
// come and looks now and then whether its client is still there. A client that has gone
// is noticed within kGoneInterval and its answers are cancelled. Thread-safe but for
// AnswerSet, which one thread uses.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/api/gateway.h"
#include "server/api/work_pool.h"
#include "server/http/exchange.h"

namespace lorica {

inline constexpr absl::Duration kGoneInterval = absl::Milliseconds(500);
inline constexpr int kHttpWorkThreads = 2;
inline constexpr int kHttpWorkQueue = 1024;
inline constexpr absl::Duration kKeepAliveInterval = absl::Seconds(10);

// How many generations may run at a time, and of one tenant: where there are several, one alone
// fills its part at most, so that others still come in. Outlives its slots.
class GenerationRoom {
 public:
  // One tenant's part is `limit` divided by `tenant_parts`, at least one.
  GenerationRoom(int limit, int tenant_parts)
      : limit_(limit), part_(std::max(1, limit / tenant_parts)) {}

  // One of them, while it lives.
  class Slot {
   public:
    Slot(GenerationRoom* room, std::string tenant) : room_(room), tenant_(std::move(tenant)) {}
    Slot(Slot&& other) noexcept
        : room_(std::exchange(other.room_, nullptr)), tenant_(std::move(other.tenant_)) {}
    Slot& operator=(Slot&&) = delete;
    ~Slot() {
      if (room_ != nullptr) room_->Leave(tenant_);
    }

   private:
    GenerationRoom* room_;
    std::string tenant_;
  };
  // ResourceExhausted: so many run already.
  absl::StatusOr<Slot> Enter(const std::string& tenant);
  int64_t tenants() const;  // of whom some run

 private:
  void Leave(const std::string& tenant);

  const int limit_;
  const int part_;
  mutable absl::Mutex mutex_;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int> running_of_ ABSL_GUARDED_BY(mutex_);  // without zeroes
};

// The answers to one request; what has not ended when it is destroyed is cancelled.
class AnswerSet {
 public:
  AnswerSet(std::vector<std::shared_ptr<Answer>> answers, GenerationRoom::Slot slot);
  ~AnswerSet();

  size_t size() const { return answers_.size(); }

  struct Piece {
    size_t index = 0;  // of the answer
    AnswerChunk chunk;
    std::optional<AnswerEnd> end;
  };
  // Calls `on_piece` for each piece until all answers have ended, and `on_idle` where none
  // came for kGoneInterval. False: one of the two returned false, or the peer has gone.
  bool Run(Peer& peer, const std::function<bool(Piece)>& on_piece,
           const std::function<bool()>& on_idle = nullptr);

 private:
  struct Signal;
  bool TakeSome(const std::function<bool(Piece)>& on_piece, bool* any);
  // Until an answer has something, at most kGoneInterval.
  bool WaitForSome();

  const std::vector<std::shared_ptr<Answer>> answers_;
  const GenerationRoom::Slot slot_;
  const std::shared_ptr<Signal> signal_;
  std::vector<bool> ended_;
  std::vector<bool> asked_;  // its next piece will signal
  size_t open_;
};

// What does not change while the server runs.
struct HttpFacts {
  std::string version;
  std::string model;          // the base model's name
  std::string device;         // as the backend names it: "cpu (avx2, 2 threads)"
  std::string weight_format;  // "Q4_1", "bf16", ...
  std::string adapters_dir;   // resolved; empty: none
  absl::Time started;
  int64_t batch_tokens = 0;  // of a step
  int64_t queue_requests = 0;
  int64_t block_bytes = 0;
  int32_t arena_blocks = 0;
  int32_t running_max = 0;
  int generations_max = 256;
  int generation_parts = 1;  // one tenant's may be one of so many parts of these
};

// What the routes of all families share.
class HttpContext {
 public:
  // `serving`: whether new work is taken. All outlive it.
  HttpContext(HttpFacts facts, Gateway* gateway, WorkPool* work, WorkPool* adapter_work,
              const std::atomic<bool>* serving)
      : facts_(std::move(facts)),
        gateway_(gateway),
        work_(work),
        adapter_work_(adapter_work),
        serving_(serving),
        generations_(facts_.generations_max, facts_.generation_parts) {}

  const HttpFacts& facts() const { return facts_; }
  Gateway* gateway() const { return gateway_; }
  bool serving() const { return serving_->load(); }
  int64_t generation_tenants() const { return generations_.tenants(); }
  // Runs `work` on the work pool and waits. Unavailable: the pool's queue is full.
  absl::Status RunWork(const std::function<absl::Status()>& work) const;
  // The same for what may read an adapter's content, on the pool for that.
  absl::Status RunAdapterWork(const std::function<absl::Status()>& work) const;
  // Who calls. Notes the tenant.
  absl::StatusOr<TenantPtr> Authenticate(const HttpRequest& request, HttpReply& reply) const;
  // `count` answers to each of the calls, one call's after the other's; all or none.
  // ResourceExhausted: HttpFacts::generations_max run already, or the tenant's part of them.
  absl::StatusOr<std::shared_ptr<AnswerSet>> Generate(const HttpRequest& request,
                                                      absl::Span<const GenerateCall> calls,
                                                      int count, HttpReply& reply) const;

 private:
  absl::Status Admit(const TenantPtr& tenant, absl::Span<const GenerateCall> calls, int count,
                     std::vector<std::shared_ptr<Answer>>* answers) const;

  const HttpFacts facts_;
  Gateway* const gateway_;
  WorkPool* const work_;
  WorkPool* const adapter_work_;
  const std::atomic<bool>* const serving_;
  mutable GenerationRoom generations_;
};

// Adds an ended answer to the line of the access log; where it failed, and nothing of the request
// has been logged yet, the server's own log has a line for `path`.
void NoteEnd(const AnswerEnd& end, const std::string& path, AccessNotes& notes);

}  // namespace lorica
