// Who holds more than its share of what runs, and gives way to another tenant's request.
//
// A tenant's share of slots and of blocks is its part, by weight, among the tenants that have
// requests; of slots it is rounded up. Who is above gives, while it runs more than one request: a
// tenant's oldest never gives way here. First the one that has the most by weight, of it the
// youngest; but one in the middle of its prompt, which would have to begin again, only if all are.
//
// A waiting request gets room so if its tenant has no more than its share with it. A tenant that
// runs nothing gets its first slot in any case, from whoever has two. Later ones wait until
// their tenant was served less (FairQueue) than the one that gives by as much as the giver's
// request computes again: so no more is computed twice than is served in between.
//
// Such an exchange gives a tenant without a slot its first, or lowers what is held above the
// shares. Neither makes the other worse. So with the same tenants there are at most as many as
// there are tenants and slots, and what one took another does not take back.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/engine/fair_queue.h"
#include "server/engine/request_state.h"

namespace lorica {

// A request waits so many steps for others to end before one gives way to it.
inline constexpr int kShareWaitSteps = 4;

class FairShares {
 public:
  struct Need {
    bool slot = false;   // there is none
    int32_t blocks = 0;  // so many are to become free,
    int32_t takes = 0;   // so many it would hold
  };

  // `weights` of all tenants that have requests, what there is of `slots`, and the blocks that
  // nobody holds.
  FairShares(double weights, int32_t slots, int32_t free_blocks);
  // Those that run, the oldest first. `blocks`: what it holds, of what it has together with others
  // its part.
  void Add(RequestState& running, double blocks);

  // Who is to give way to this waiting request for its tenant's share. Empty: nobody, or not
  // enough could.
  std::vector<RequestState*> ForShare(const RequestState& waiting, const Need& need) const;
  // Who gives way to an older one that has waited too long: the youngest, if it is of the same
  // tenant or of one that is above its share, or if the older one's tenant runs nothing.
  RequestState* ForSenior(const RequestState& waiting, bool slot) const;
  // Who gives way to an older one that runs and needs another block: the youngest, but not that of
  // a tenant within its share, or with that one request, while another tenant is above its share:
  // then that one's youngest. Null: it waits itself.
  RequestState* ForGrowth(const RequestState& grower) const;

 private:
  struct Running {
    RequestState* request = nullptr;
    int tenant = 0;  // in tenants_
    double blocks = 0.0;
  };
  struct Tenant {
    const FairLane* lane = nullptr;
    int32_t slots = 0;
    double blocks = 0.0;
  };

  Tenant Of(const RequestState& request) const;
  double SlotShare(const Tenant& tenant) const;
  double BlockShare(const Tenant& tenant) const;
  bool MayGive(const Tenant& tenant, bool slot, bool first) const;
  bool IsSpared(const Tenant& tenant) const;
  // In tenants_; -1: nobody.
  int Giver(bool slot, bool first) const;
  // In running_.
  int YoungestOf(int tenant) const;
  int NextOf(int tenant) const;
  void Take(int running);

  const double weights_;
  const int32_t slots_;
  double blocks_;
  std::vector<Running> running_;
  std::vector<Tenant> tenants_;
  absl::flat_hash_map<const FairLane*, int> index_;  // in tenants_
};

}  // namespace lorica
