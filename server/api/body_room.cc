#include "server/api/body_room.h"

#include <utility>

namespace lorica {

BodyRoom::Body::Body(BodyRoom* room, std::string tenant)
    : room_(room), tenant_(std::move(tenant)) {}

BodyRoom::Body::~Body() {
  if (held_bytes_ > 0) room_->Release(tenant_, held_bytes_);
}

bool BodyRoom::Body::Take(int64_t bytes) {
  bytes_ += bytes;
  const int64_t more = std::max<int64_t>(bytes_ - kSmallBodyBytes, 0) - held_bytes_;
  if (more == 0) return true;
  if (!room_->Hold(tenant_, more)) return false;
  held_bytes_ += more;
  return true;
}

int64_t BodyRoom::held_bytes() const {
  absl::MutexLock lock(&mutex_);
  return held_bytes_;
}

bool BodyRoom::Hold(const std::string& tenant, int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const auto found = held_of_.find(tenant);
  const int64_t of_tenant = found == held_of_.end() ? 0 : found->second;
  if (held_bytes_ + bytes > bytes_max_ || of_tenant + bytes > part_bytes_) return false;
  held_bytes_ += bytes;
  held_of_[tenant] += bytes;
  return true;
}

void BodyRoom::Release(const std::string& tenant, int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  held_bytes_ -= bytes;
  const auto found = held_of_.find(tenant);
  if ((found->second -= bytes) == 0) held_of_.erase(found);
}

}  // namespace lorica
