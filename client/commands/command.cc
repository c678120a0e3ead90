#include "client/commands/command.h"

#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands/terminal.h"

namespace lorica {

std::unique_ptr<LoricaClient> CommandContext::MakeClient() const {
  ClientOptions options;
  options.server = server;
  options.api_key = api_key;
  options.tenant = tenant;
  options.tls = tls;
  options.connect_wait = absl::Seconds(wait_s);
  options.retry.attempts_max = retries + 1;
  return std::make_unique<LoricaClient>(options);
}

CallOptions CommandContext::Call(Cancellation* cancellation) const {
  CallOptions options;
  if (timeout_s > 0) options.timeout = absl::Seconds(timeout_s);
  options.cancellation = cancellation;
  return options;
}

int Fail(const CommandContext& context, const absl::Status& status) {
  const std::string code = absl::StatusCodeToString(status.code());
  const std::string message = IsNoServer(status) ? std::string(status.message())
                                                 : absl::StrCat(code, ": ", status.message());
  std::fprintf(stderr, "%s %s\n", Paint(Ink::kRed, "lorica:", stderr).c_str(),
               Printable(message).c_str());
  if (context.json) PrintJson(ErrorToJson(status));
  return IsNoServer(status) ? kExitNoServer : kExitFailed;
}

int FailUsage(const std::string& message) {
  std::fprintf(stderr, "%s %s\n", Paint(Ink::kRed, "lorica:", stderr).c_str(), message.c_str());
  return kExitUsage;
}

CLI::Validator WholeNumber() {
  return CLI::Validator(
      [](const std::string& text) {
        uint64_t number = 0;
        const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
        return digits && absl::SimpleAtoi(text, &number)
                   ? std::string()
                   : absl::StrCat("'", text, "' is not a whole number from 0 to ", UINT64_MAX);
      },
      "");
}

CLI::Validator SmallWholeNumber() {
  return CLI::Validator(
      [](const std::string& text) {
        int32_t number = 0;
        return absl::SimpleAtoi(text, &number)
                   ? std::string()
                   : absl::StrCat("'", text, "' is not a whole number from ", INT32_MIN, " to ",
                                  INT32_MAX);
      },
      "");
}

CLI::Validator NumberBetween(double low, double high) {
  return CLI::Validator(
      [low, high](const std::string& text) {
        double number = 0;  // of which nan is neither above nor below anything
        return absl::SimpleAtod(text, &number) && number >= low && number <= high
                   ? std::string()
                   : absl::StrFormat("'%s' is not a number from %.9g to %.9g", text, low, high);
      },
      absl::StrFormat("FLOAT in [%.9g - %.9g]", low, high));
}

CLI::Validator Seconds(double least) { return NumberBetween(least, 1e6).description(""); }

void PrintJson(const Json& json) {
  std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
  std::fflush(stdout);
}

}  // namespace lorica
