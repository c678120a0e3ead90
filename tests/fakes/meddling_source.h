// A source whose weight file changes while it is being read.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/fakes/watched_source.h"

namespace lorica {

// Does something to the folder when the weight file is read for the n-th time.
class MeddlingSource : public WatchedSource {
 public:
  MeddlingSource(std::shared_ptr<Source> source, int reads, std::function<void()> meddle)
      : WatchedSource(std::move(source),
                      [reads, meddle = std::move(meddle)](
                          const std::string&, const std::string& file, int64_t) mutable {
                        if (file == "adapter_model.safetensors" && --reads == 0) meddle();
                      }) {}
};

}  // namespace lorica
