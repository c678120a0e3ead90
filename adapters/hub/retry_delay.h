// "Not now": Unavailable with a time after which trying again makes sense.
//
// The time rides on the status as a payload, so that whoever passes it on to a client can
// say it. Pure functions.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace lorica {

absl::Status UnavailableFor(absl::string_view what, absl::Duration delay);
// The same on an error of another code.
void SetRetryDelay(absl::Status* status, absl::Duration delay);
// What either was given.
std::optional<absl::Duration> RetryDelayIn(const absl::Status& status);
// The same time on another text.
absl::Status WithText(const absl::Status& status, absl::string_view text);

}  // namespace lorica
