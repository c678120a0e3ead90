// One log line for each call that is refused or fails, at most kRefusalLinesPerSecond of them.
//
//   refused method=Generate code=NOT_FOUND adapter="x" left_out=0 reason="..."
//
// A flood of bad calls must not become a flood of log lines; what was left out is
// counted in the next line. Texts are cleaned as for clients. Thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace lorica {

inline constexpr int kRefusalLinesPerSecond = 10;

void LogRefusal(absl::string_view method, absl::string_view adapter_id, const absl::Status& status,
                absl::Time now);
// "failed": the call had been let in.
void LogFailure(absl::string_view method, absl::string_view adapter_id, const absl::Status& status,
                absl::Time now);
// "stale": a look at what there is now failed, and what is here of the adapter is served on.
void LogStale(absl::string_view adapter_id, const absl::Status& why, absl::Time now);
// "unreached": what a hub, a bucket or a web server failed with, and where it is. The calls that
// waited for it have lines of their own, so these are limited, and counted, apart.
void LogUnreached(const absl::Status& why, absl::Time now);
// "ended": a connection, and why. Its calls may have lines of their own; limited and counted apart.
void LogEnded(const absl::Status& why, absl::Time now);

// Text as a field of such a line: where it ends does not depend on what it says.
std::string QuotedForLog(absl::string_view text);

// How often this process has logged any of the first three, also what was left out.
int64_t RefusalsLogged();

}  // namespace lorica
