#include "server/engine/queue_room.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/check.h"

namespace lorica {
namespace {

absl::Status Room(const QueueShare& taken, const QueueShare& more, const QueueShare& limit,
                  absl::string_view what) {
  const auto full = [what](int64_t limit, const char* unit) {
    return absl::UnavailableError(
        absl::StrCat(what, " is full: its limit is ", limit, " ", unit, "; try again later"));
  };
  if (taken.requests + more.requests > limit.requests) return full(limit.requests, "requests");
  if (taken.tokens + more.tokens > limit.tokens) return full(limit.tokens, "tokens");
  if (taken.bytes + more.bytes > limit.bytes) return full(limit.bytes, "bytes");
  return absl::OkStatus();
}

void Add(QueueShare& taken, const QueueShare& share, int64_t times) {
  taken.requests += times * share.requests;
  taken.tokens += times * share.tokens;
  taken.bytes += times * share.bytes;
}

}  // namespace

absl::Status QueueRoom::Check(const std::string& tenant, const QueueShare& share) const {
  if (absl::Status s = Room(taken_, share, limit_, "the queue"); !s.ok()) return s;
  const auto own = taken_by_.find(tenant);
  if (own == taken_by_.end()) return absl::OkStatus();
  return Room(own->second, share, part_, "this tenant's part of the queue");
}

absl::Status QueueRoom::Enter(const std::string& tenant, const QueueShare& share) {
  if (absl::Status s = Check(tenant, share); !s.ok()) return s;
  Add(taken_, share, 1);
  Add(taken_by_[tenant], share, 1);
  return absl::OkStatus();
}

void QueueRoom::Leave(const std::string& tenant, const QueueShare& share) {
  Add(taken_, share, -1);
  const auto own = taken_by_.find(tenant);
  LORICA_CHECK(own != taken_by_.end(), "nothing waits of tenant", tenant);
  Add(own->second, share, -1);
  if (own->second.requests == 0) taken_by_.erase(own);
}

}  // namespace lorica
