// Who turns a generation into a device-ready image.
//
// PeftLoader in the product, a faulty one in the simulator. Thread-safe: the pool
// calls it from several loader threads.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "kernels/lora_tiles.h"

namespace lorica {

class ImageLoader {
 public:
  virtual ~ImageLoader() = default;
  // Reads files and may take seconds. An error is the generation's own.
  virtual absl::StatusOr<std::shared_ptr<const LoraImage>> LoadImage(
      const Generation& generation) = 0;
};

}  // namespace lorica
