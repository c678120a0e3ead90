// One absl::Status to what each family of HTTP clients expects of an error.
//
// Texts are cleaned as for gRPC; `status` in every body is the gRPC code's name, the same
// on all faces. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/http/exchange.h"
#include "server/http/json.h"

namespace lorica {

// As nginx logs it: who leaves is no fault of the server's.
inline constexpr int kClientGone = 499;

struct HttpError {
  int status = 500;
  OrderedJson body;
  std::optional<absl::Duration> retry_after;
};

// {"error": text, "error_type": class}, as LoRAX and text-generation-inference say it, with
// the names of its fields.
HttpError LoraxError(const absl::Status& status);
// The same of a body that is no JSON.
HttpError LoraxSyntaxError(const absl::Status& status);
// {"error": {message, type, param, code}}, and the same at the top for what manages
// adapters by vLLM's calls.
HttpError OpenAiError(const absl::Status& status);
// What is said before any route: both shapes in one, but that `error` is an object where `path` is
// OpenAI's, and else a text. Empty: not known.
std::string TransportError(int http_status, std::string_view path);
// The same for a status: what a caller is told before its body is read.
HttpError DoorError(const absl::Status& status, std::string_view path);
// gRPC's name for it.
const char* TransportCode(int http_status);

// One line of the log for a request, about the adapter in its notes.
void LogRefusalOnce(const absl::Status& status, HttpReply& reply);
// Sends it, with Retry-After where it helps, notes the code and logs the refusal.
void SendError(const HttpError& error, const absl::Status& status, HttpReply& reply);

}  // namespace lorica
