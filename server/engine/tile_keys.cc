#include "server/engine/tile_keys.h"

#include "kernels/check.h"

namespace lorica {

uint64_t TileKeys::Take(const std::string& key) {
  if (key.empty()) return 0;
  Entry& entry = entries_[key];
  if (entry.holders++ == 0) entry.number = ++last_;
  return entry.number;
}

void TileKeys::GiveBack(const std::string& key) {
  if (key.empty()) return;
  const auto found = entries_.find(key);
  LORICA_CHECK(found != entries_.end(), key);
  if (--found->second.holders == 0) entries_.erase(found);
}

}  // namespace lorica
