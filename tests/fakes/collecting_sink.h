// Keeps what a download brings.
#pragma once

#include <string>
#include <string_view>

#include "adapters/hub/remote_source.h"

namespace lorica {

class CollectingSink : public DownloadSink {
 public:
  absl::Status Append(std::string_view bytes) override {
    text.append(bytes);
    return absl::OkStatus();
  }
  absl::Status Restart() override {
    text.clear();
    ++restarts;
    return absl::OkStatus();
  }
  std::string text;
  int restarts = 0;
};

}  // namespace lorica
