#include "adapters/disk_index.h"

#include <algorithm>

#include "kernels/check.h"

namespace lorica {

void DiskIndex::Add(const std::string& digest, int64_t bytes) {
  LORICA_CHECK(!Has(digest), "content is there already", digest);
  Content& content = contents_[digest];
  content.bytes = bytes;
  content.place = by_use_.insert(by_use_.end(), digest);
  stats_.bytes += bytes;
  ++stats_.generations;
}

void DiskIndex::AddOrigin(const std::string& digest, const DatedOrigin& dated) {
  const std::string key = OriginKey(dated.origin);
  if (const auto found = by_origin_.find(key); found != by_origin_.end()) {
    std::vector<DatedOrigin>& there = contents_.at(found->second).origins;
    const auto same = std::find_if(there.begin(), there.end(), [&key](const DatedOrigin& other) {
      return OriginKey(other.origin) == key;
    });
    if (same->found > dated.found) return;
    there.erase(same);
  }
  by_origin_[key] = digest;
  std::vector<DatedOrigin>& origins = contents_.at(digest).origins;
  origins.push_back(dated);
  if (origins.size() <= kOriginsMax) return;
  by_origin_.erase(OriginKey(origins.front().origin));
  origins.erase(origins.begin());
}

const std::vector<DatedOrigin>& DiskIndex::Origins(const std::string& digest) const {
  return contents_.at(digest).origins;
}

bool DiskIndex::HasOtherAccess(const std::string& digest, const std::string& access) const {
  const std::vector<DatedOrigin>& origins = Origins(digest);
  return std::any_of(origins.begin(), origins.end(),
                     [&access](const DatedOrigin& dated) { return dated.origin.access != access; });
}

void DiskIndex::RemoveOrigins(const std::string& digest, const std::string& access) {
  std::erase_if(contents_.at(digest).origins, [this, &access](const DatedOrigin& dated) {
    if (dated.origin.access != access) return false;
    by_origin_.erase(OriginKey(dated.origin));
    return true;
  });
}

std::optional<std::pair<std::string, std::string>> DiskIndex::Find(
    const RemoteOrigin& origin) const {
  const std::string key = OriginKey(origin);
  const auto found = by_origin_.find(key);
  if (found == by_origin_.end()) return std::nullopt;
  for (const DatedOrigin& dated : contents_.at(found->second).origins) {
    if (OriginKey(dated.origin) == key) return std::pair(found->second, dated.origin.commit);
  }
  return std::nullopt;
}

std::vector<std::pair<std::string, DatedOrigin>> DiskIndex::AllOrigins() const {
  std::vector<std::pair<std::string, DatedOrigin>> all;
  for (const auto& [digest, content] : contents_) {
    for (const DatedOrigin& dated : content.origins) all.emplace_back(digest, dated);
  }
  return all;
}

void DiskIndex::Use(const std::string& digest) {
  by_use_.splice(by_use_.end(), by_use_, contents_.at(digest).place);
}

std::shared_ptr<void> DiskIndex::Hold(const std::string& digest) const {
  return contents_.at(digest).hold;
}

bool DiskIndex::IsHeld(const std::string& digest) const {
  return contents_.at(digest).hold.use_count() > 1;
}

std::optional<std::string> DiskIndex::Evictable() const {
  for (const std::string& digest : by_use_) {
    if (!IsHeld(digest)) return digest;
  }
  return std::nullopt;
}

void DiskIndex::Remove(const std::string& digest, Reason reason) {
  const auto found = contents_.find(digest);
  if (found == contents_.end()) return;
  for (const DatedOrigin& dated : found->second.origins) by_origin_.erase(OriginKey(dated.origin));
  by_use_.erase(found->second.place);
  stats_.bytes -= found->second.bytes;
  --stats_.generations;
  ++(reason == Reason::kEvicted ? stats_.evictions : stats_.removals);
  contents_.erase(found);
}

}  // namespace lorica
