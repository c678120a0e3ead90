// Who waits, and whose turn it is: virtual token counters, one a tenant.
//
// Each tenant has a lane, first in first out, and a counter of what it was served:
// prompt tokens when a request is first admitted, generated tokens as they come, both
// divided by the tenant's weight. The tenant with the smallest counter goes first. One
// that comes back is lifted to the smallest of those who wait, so that idleness earns no credit;
// where nobody waits, to the largest of all, since then nobody lacks what another got. Work
// done again after a preemption is not counted again. Between two tenants that both have
// requests waiting, what they were served differs by at most twice the larger of the
// longest prompt and what fits into the running batch (Sheng et al., "Fairness in Serving
// Large Language Models", OSDI 2024). With one tenant it is a plain queue. The engine's
// thread owns it.
//
// Where the one whose turn it is finds no room, a small one of a tenant that runs nothing may go
// past it (MayPass), as it would have once that prompt had been charged. So with it no tenant is
// served more ahead of another than by the bound either.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "server/engine/request_state.h"

namespace lorica {

inline constexpr double kPromptTokenCost = 1.0;
inline constexpr double kGeneratedTokenCost = 2.0;
// At most so much more, by weight, than the tenant whose turn it was has the other been served when
// what went past ends.
inline constexpr double kPassLeadMax = 256.0;
// Counters that are remembered of tenants without requests; beyond, the smallest go.
inline constexpr int kIdleLanesMax = 20'000;

struct FairLane {
  std::string tenant;
  double weight = 1.0;  // as its last request said
  double counter = 0.0;
  int requests = 0;  // waiting and running
  absl::btree_map<RequestId, RequestState*> waiting;

  bool runs() const { return requests > static_cast<int>(waiting.size()); }
};

// Who is visited next: the next in order, or that but for this tenant's, or nobody.
enum class FairVisit : uint8_t { kGoOn, kLeaveTenant, kEnd };

class FairQueue {
 public:
  // The request is new: it belongs to a lane from now until Leave.
  void Enter(RequestState& request);
  // For good; it waits no more.
  void Leave(RequestState& request);
  // Between: it waits, or it runs.
  void Wait(RequestState& request);
  void Run(RequestState& request);

  void ChargePrompt(const RequestState& request);
  void ChargeToken(const RequestState& request);

  // Waiting ones in fair order, as `visit` says. Only the one that is visited may change its place
  // meanwhile.
  void Visit(absl::FunctionRef<FairVisit(RequestState&)> visit);
  // Whether `request` may run before `next`, whose turn it is, but for which there is no room: if
  // its tenant runs nothing, the other's does, and whatever it generates, its tenant will have been
  // served no more than the other's with the prompt of `next`. Of that kPassLeadMax count at most,
  // and nothing once it was charged.
  static bool MayPass(const RequestState& request, const RequestState& next);
  RequestState* Find(RequestId id) const;  // waiting; null: it is not
  int waiting() const { return static_cast<int>(waiting_.size()); }
  bool Waits(RequestId id) const { return waiting_.contains(id); }
  // What the tenant was served by its weight; 0 when nothing is remembered of it.
  double counter(const std::string& tenant) const;
  int lanes() const { return static_cast<int>(lanes_.size()); }
  // Who has requests, waiting or running, and the sum of their weights.
  int tenants() const { return tenants_; }
  double weights() const { return weights_; }

 private:
  using RequestMap = absl::btree_map<RequestId, RequestState*>;

  void Lift(FairLane& lane);
  void Charge(FairLane& lane, double cost);
  void ForgetIdle();

  absl::flat_hash_map<std::string, std::unique_ptr<FairLane>> lanes_;
  absl::btree_map<std::string, FairLane*> waiting_lanes_;  // by tenant: the order is fixed
  RequestMap waiting_;
  int tenants_ = 0;
  double weights_ = 0.0;
  double largest_ = 0.0;  // counter that any lane has had
};

}  // namespace lorica
