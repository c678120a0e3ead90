// How much of bodies is held at a time, by all connections together and by one tenant: one room
// for those over HTTP, one for gRPC's messages.
//
// Bytes count as they come, whatever was announced, until their request has ended; the first
// kSmallBodyBytes of each body are free, so that ordinary calls always come in. Thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace lorica {

inline constexpr int64_t kBodiesBytesMax = 256 << 20;
inline constexpr int64_t kSmallBodyBytes = 64 << 10;

class BodyRoom {
 public:
  // One tenant's part is `bytes_max` divided by `tenant_parts`. Outlives its bodies.
  explicit BodyRoom(int64_t bytes_max, int tenant_parts = 1)
      : bytes_max_(bytes_max), part_bytes_(bytes_max / std::max(1, tenant_parts)) {}

  // One body's bytes, held while it lives. Belongs to one thread.
  class Body {
   public:
    Body(BodyRoom* room, std::string tenant);
    ~Body();
    Body(const Body&) = delete;
    Body& operator=(const Body&) = delete;
    // False: there is no room for so many more; they are not held.
    bool Take(int64_t bytes);

   private:
    BodyRoom* const room_;
    const std::string tenant_;
    int64_t bytes_ = 0;  // that have come
    int64_t held_bytes_ = 0;
  };
  int64_t held_bytes() const;

 private:
  bool Hold(const std::string& tenant, int64_t bytes);
  void Release(const std::string& tenant, int64_t bytes);

  const int64_t bytes_max_;
  const int64_t part_bytes_;
  mutable absl::Mutex mutex_;
  int64_t held_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int64_t> held_of_ ABSL_GUARDED_BY(mutex_);  // without zeroes
};

}  // namespace lorica
