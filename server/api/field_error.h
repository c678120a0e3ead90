// Errors that carry more than a code and a text, without knowing any transport.
//
// A refused field and a time to wait ride on absl::Status as payloads; each transport
// turns them into its own form (gRPC: google.rpc.BadRequest and RetryInfo). Free
// functions: share them freely.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace lorica {

// InvalidArgument "<field> <what>", e.g. FieldError("top_p", "must be above 0").
absl::Status FieldError(absl::string_view field, absl::string_view what);
// What of such an error: "must be from <low> to <high>, not <value>", all digits of each.
std::string OutOfRange(double value, double low, double high);
// A number as its writer would: whole ones without an exponent, others with all digits they have.
std::string PlainNumber(double number);
// Makes it one about `field`, whose text is there already.
void SetField(absl::Status* status, absl::string_view field);
// The field of a FieldError.
std::optional<std::string> FieldOf(const absl::Status& status);

// Unavailable: this server cannot now; the same call may be tried again after `delay`.
absl::Status TryLater(absl::string_view what, absl::Duration delay = absl::Seconds(1));
// ResourceExhausted: the caller's share of this server is used up until then.
absl::Status TooMuch(absl::string_view what, absl::Duration delay = absl::Seconds(1));
// As TryLater, of a server that ends: another one takes the call, and this one never will.
absl::Status GoElsewhere(absl::string_view what);
bool MeansElsewhere(const absl::Status& status);
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

}  // namespace lorica
