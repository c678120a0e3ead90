// How the library is to multiply: the algorithm that was fastest for a shape, kept in a file
// from one start to the next.
//
// An algorithm is 64 bytes that mean something to one version of cuBLASLt on one kind of device
// alone, so the file names both and is ignored where they differ. Lines that make no sense are
// skipped: the library checks an algorithm before it is used. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "absl/status/status.h"

namespace lorica::cuda {

class ProductChoices {
 public:
  using Shape = std::tuple<int64_t, int64_t, int64_t>;  // rows, out_features, in_features
  using Algorithm = std::array<uint64_t, 8>;

  // `maker`: device and version, one line. What `path` keeps for it is there from the start; an
  // empty path keeps nothing.
  ProductChoices(std::string path, std::string maker);

  const Algorithm* Find(const Shape& shape) const;
  void Set(const Shape& shape, const Algorithm& algorithm) { choices_[shape] = algorithm; }
  // Replaces the file as a whole.
  absl::Status Save() const;
  int64_t size() const { return static_cast<int64_t>(choices_.size()); }

 private:
  void Load();

  std::string path_;
  std::string maker_;
  std::map<Shape, Algorithm> choices_;
};

}  // namespace lorica::cuda
