// Numbers for the tile keys of the requests that are there: what a step's order compares in
// place of long strings. One thread.
#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace lorica {

class TileKeys {
 public:
  // The same number for the same key as long as anybody has it; never one that another key had.
  // 0 is the base's, whose key is empty.
  uint64_t Take(const std::string& key);
  void GiveBack(const std::string& key);
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint64_t number = 0;
    int64_t holders = 0;
  };
  absl::flat_hash_map<std::string, Entry> entries_;
  uint64_t last_ = 0;
};

}  // namespace lorica
