#include "server/http/errors.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/adapter_fault.h"
#include "adapters/hub/steady_now.h"
#include "server/api/field_error.h"
#include "server/api/refusal_log.h"
#include "server/api/status_map.h"
#include "server/http/field_names.h"

namespace lorica {
namespace {

struct Class {
  int status = 500;
  const char* type = "";
  const char* code = "";
};

// LoRAX knows no other code for an adapter that cannot be had, for whatever reason.
Class LoraxClass(const absl::Status& status) {
  if (IsAdapterFault(status)) return {424, "generation"};
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return {kClientGone, "generation"};
    case absl::StatusCode::kInvalidArgument:
      return {422, "validation"};
    case absl::StatusCode::kUnavailable:  // 503 lets a proxy ask another server
    case absl::StatusCode::kResourceExhausted:
      return {MeansElsewhere(status) ? 503 : 429, "overloaded"};
    case absl::StatusCode::kUnauthenticated:
      return {401, "authentication"};
    case absl::StatusCode::kPermissionDenied:
      return {403, "permission"};
    default:
      return {424, "generation"};
  }
}

Class OpenAiClass(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return {400, "invalid_request_error", "invalid_value"};
    case absl::StatusCode::kFailedPrecondition:
      return {400, "invalid_request_error", "failed_precondition"};
    case absl::StatusCode::kNotFound:
      return {404, "invalid_request_error", "model_not_found"};
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return {409, "conflict_error", "conflict"};
    case absl::StatusCode::kUnauthenticated:
      return {401, "authentication_error", "invalid_api_key"};
    case absl::StatusCode::kPermissionDenied:
      return {403, "permission_error", "permission_denied"};
    case absl::StatusCode::kResourceExhausted:
      return {429, "rate_limit_error", "rate_limit_exceeded"};
    case absl::StatusCode::kUnavailable:
      return {503, "server_error", "overloaded"};
    case absl::StatusCode::kCancelled:
      return {kClientGone, "invalid_request_error", "client_closed_request"};
    case absl::StatusCode::kDeadlineExceeded:
      return {504, "server_error", "timeout"};
    case absl::StatusCode::kUnimplemented:
      return {501, "invalid_request_error", "not_implemented"};
    default:
      return {500, "server_error", "internal_error"};
  }
}

std::string LoraxText(const absl::Status& status, const char* type) {
  const std::string text = CleanErrorText(status.message());
  if (absl::IsInvalidArgument(status)) return absl::StrCat("Input validation error: ", text);
  if (std::string_view(type) == "generation") {
    return absl::StrCat("Request failed during generation: Server error: ", text);
  }
  return text;
}

const char* TransportText(int http_status) {
  switch (http_status) {
    case 403:
      return "without keys only pages of localhost and of addresses are served: open the page by "
             "its address, or give the server keys with --tenants-file";
    case 404:
      return "no such path";
    case 405:
      return "this path does not take that method";
    case 408:
      return "the request did not arrive in time";
    case 411:
      return "Content-Length is missing";
    case 413:
      return "the body is too large";
    case 414:
      return "the request line is too long";
    case 415:
      return "send the body as plain JSON, with Content-Type: application/json and no "
             "Content-Encoding";
    case 416:
      return "ranges are not served";
    case 431:
      return "the headers are too large";
    case 501:
      return "this Transfer-Encoding is not served";
    case 503:
      return "the server cannot read this request now; try again";
    default:
      return http_status < 500 ? "this is no well-formed request" : "internal error";
  }
}

// Where `error` is an object: OpenAI's routes, vLLM's for adapters and those for operators.
bool HasErrorObject(std::string_view path) {
  return path.starts_with("/v1/") || path.starts_with("/lorica.v1.") ||
         path.ends_with("load_lora_adapter");
}

}  // namespace

HttpError LoraxError(const absl::Status& status) {
  const Class kind = LoraxClass(status);
  HttpError error{kind.status, {}, RetryDelayOf(status)};
  error.body["error"] = LoraxText(InLoraxWords(status), kind.type);
  error.body["error_type"] = kind.type;
  error.body["status"] = absl::StatusCodeToString(status.code());
  return error;
}

HttpError LoraxSyntaxError(const absl::Status& status) {
  HttpError error = LoraxError(status);
  error.status = 400;
  return error;
}

HttpError OpenAiError(const absl::Status& status) {
  const Class kind = OpenAiClass(status);
  const auto field = FieldOf(status);
  OrderedJson error;
  error["message"] = CleanErrorText(status.message());
  error["type"] = kind.type;
  error["param"] = field ? OrderedJson(CleanErrorText(*field)) : OrderedJson();
  error["code"] = kind.code;
  OrderedJson body = error;
  body["object"] = "error";
  body["status"] = absl::StatusCodeToString(status.code());
  body["error"] = std::move(error);
  return {kind.status, std::move(body), RetryDelayOf(status)};
}

HttpError DoorError(const absl::Status& status, std::string_view path) {
  HttpError error = OpenAiError(status);
  const HttpError lorax = LoraxError(status);
  error.body["error_type"] = lorax.body["error_type"];
  if (HasErrorObject(path)) return error;
  error.status = lorax.status;
  error.body["error"] = lorax.body["error"];
  return error;
}

const char* TransportCode(int http_status) {
  switch (http_status) {
    case 403:
      return "PERMISSION_DENIED";
    case 404:
    case 405:
    case 501:
      return "UNIMPLEMENTED";
    case 408:
      return "DEADLINE_EXCEEDED";
    case kClientGone:
      return "CANCELLED";
    case 413:
    case 431:
      return "RESOURCE_EXHAUSTED";
    case 503:
      return "UNAVAILABLE";
    default:
      return http_status < 500 ? "INVALID_ARGUMENT" : "INTERNAL";
  }
}

std::string TransportError(int http_status, std::string_view path) {
  const bool ours = http_status >= 500;
  OrderedJson error;
  error["message"] = TransportText(http_status);
  error["type"] = ours ? "server_error" : "invalid_request_error";
  error["param"] = nullptr;
  error["code"] = http_status == 503 ? Json("overloaded") : Json(http_status);
  OrderedJson body = error;
  body["error_type"] = http_status == 503 ? "overloaded" : ours ? "generation" : "validation";
  body["error"] = path.starts_with("/v1/") ? error : error["message"];
  body["status"] = TransportCode(http_status);
  return Dump(body);
}

void LogRefusalOnce(const absl::Status& status, HttpReply& reply) {
  if (std::exchange(reply.notes().refusal_logged, true)) return;
  LogRefusal(reply.path(), reply.notes().adapter, status, SteadyNow());
}

void SendError(const HttpError& error, const absl::Status& status, HttpReply& reply) {
  if (error.retry_after) {
    const double seconds = std::ceil(absl::ToDoubleSeconds(*error.retry_after));
    reply.SetHeader("Retry-After", absl::StrCat(std::max(1.0, seconds)));
  }
  if (error.status == 401) reply.SetHeader("WWW-Authenticate", "Bearer");
  reply.notes().code = absl::StatusCodeToString(status.code());
  LogRefusalOnce(status, reply);
  reply.Send(error.status, Dump(error.body));
}

}  // namespace lorica
