// One log line for each refused call, at most kRefusalLinesPerSecond of them.
//
// A flood of bad calls must not become a flood of log lines; what was left out is
// counted in the next line. Texts are cleaned as for clients. Thread-safe.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace lorica {

inline constexpr int kRefusalLinesPerSecond = 10;

void LogRefusal(absl::string_view method, absl::string_view adapter_id, const absl::Status& status,
                absl::Time now);

}  // namespace lorica
