#include "server/config.h"

#include <arpa/inet.h>

#include <algorithm>
#include <limits>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "server/http/origins.h"

namespace lorica {
namespace {

constexpr char kIntroduction[] =
    "loricad serves one base model with any number of LoRA adapters over gRPC and HTTP.\n"
    "Each request names its own adapter; all of them share one continuous batch.\n";

constexpr char kEpilogue[] =
    "Example:\n"
    "  loricad --model SmolLM2-135M-Instruct.Q4_1.gguf --adapters-dir adapters\n"
    "  lorica generate --adapter my-adapter \"Hello\"\n"
    "\n"
    "Signals: SIGTERM and SIGINT drain (no new requests, running streams end within\n"
    "--drain-seconds); a second one stops at once. SIGHUP reads --tenants-file and the TLS\n"
    "files again; what is wrong with one leaves the old one in force.\n"
    "Exit codes: 0 stopped by a signal, 1 could not start (the last line says why), 2 bad\n"
    "flags, 3 the device failed while serving, 130 a second signal.";

constexpr size_t kModelNameBytesMax = 256;

struct Unit {
  const char* suffix;
  int64_t bytes;
};
constexpr Unit kUnits[] = {{"KiB", int64_t{1} << 10},
                           {"MiB", int64_t{1} << 20},
                           {"GiB", int64_t{1} << 30},
                           {"TiB", int64_t{1} << 40}};

std::string FormatBytes(int64_t bytes) {
  for (const Unit* unit = std::end(kUnits) - 1; unit >= kUnits; --unit) {
    if (bytes != 0 && bytes % unit->bytes == 0) {
      return absl::StrCat(bytes / unit->bytes, unit->suffix);
    }
  }
  return absl::StrCat(bytes);
}

std::string CheckBetween(int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return "";
  return absl::StrCat(value, " is out of bounds: give ", low, " to ", high);
}

class Registrar {
 public:
  explicit Registrar(CLI::App* app) : app_(*app) {}

  void Text(const char* name, std::string* value, const char* kind, const char* help) {
    app_.add_option(name, *value, help)->type_name(kind)->capture_default_str();
  }
  void Choice(const char* name, std::string* value, std::vector<std::string> choices,
              const char* help) {
    const std::string list = absl::StrJoin(choices, "|");
    app_.add_option(name, *value, help)
        ->type_name(list)
        ->capture_default_str()
        ->check([choices, list](const std::string& text) {
          const bool known = std::find(choices.begin(), choices.end(), text) != choices.end();
          return known ? "" : absl::StrCat(text, " is none of ", list);
        });
  }
  void Count(const char* name, int64_t* value, int64_t low, int64_t high, const char* help) {
    AddParsed(name, "N", absl::StrCat(*value), help, value, low, high, [](const std::string& text) {
      int64_t number = 0;
      if (absl::SimpleAtoi(text, &number)) return absl::StatusOr<int64_t>(number);
      return absl::StatusOr<int64_t>(
          absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a whole number")));
    });
  }
  void Number(const char* name, double* value, double low, double high, const char* help) {
    app_.add_option(name, *value, help)
        ->type_name("NUMBER")
        ->capture_default_str()
        ->check(CLI::Validator(
            [low, high](const std::string& text) {
              double number = 0;  // of which nan is neither above nor below anything
              return absl::SimpleAtod(text, &number) && number >= low && number <= high
                         ? std::string()
                         : absl::StrCat(text, " is out of bounds: give ", low, " to ", high);
            },
            ""));
  }
  void Bytes(const char* name, int64_t* value, int64_t low, int64_t high, const char* help) {
    AddParsed(name, "BYTES", FormatBytes(*value), help, value, low, high, ParseBytes);
  }
  void Switch(const char* name, bool* value, const char* help) {
    const std::string both = absl::StrCat(name, ",!--no-", name + 2);
    app_.add_flag(*value ? both : name, *value,
                  absl::StrCat(help, *value ? " (on unless switched off)" : ""));
  }

 private:
  template <typename Parse>
  void AddParsed(const char* name, const char* kind, const std::string& shown, const char* help,
                 int64_t* value, int64_t low, int64_t high, Parse parse) {
    const auto take = [=](const std::string& text) {
      const absl::StatusOr<int64_t> parsed = parse(text);
      const std::string wrong =
          parsed.ok() ? CheckBetween(*parsed, low, high) : std::string(parsed.status().message());
      if (!wrong.empty()) throw CLI::ValidationError(name, wrong);
      *value = *parsed;
    };
    app_.add_option_function<std::string>(name, take, help)->type_name(kind)->default_str(shown);
  }

  CLI::App& app_;
};

class Printer {
 public:
  void Text(const char* name, const std::string* value, const char*, const char*) {
    if (!value->empty()) Add(name, *value);
  }
  void Choice(const char* name, const std::string* value, const std::vector<std::string>&,
              const char*) {
    Add(name, *value);
  }
  void Count(const char* name, const int64_t* value, int64_t, int64_t, const char*) {
    Add(name, absl::StrCat(*value));
  }
  void Number(const char* name, const double* value, double, double, const char*) {
    Add(name, absl::StrCat(*value));
  }
  void Bytes(const char* name, const int64_t* value, int64_t, int64_t, const char*) {
    Add(name, FormatBytes(*value));
  }
  void Switch(const char* name, const bool* value, const char*) {
    parts_.push_back(absl::StrCat(name, *value ? "=true" : "=false"));
  }
  std::string text() const { return absl::StrJoin(parts_, " "); }

 private:
  void Add(const char* name, const std::string& value) {
    parts_.push_back(absl::StrCat(name, " ", value));
  }
  std::vector<std::string> parts_;
};

// A GPU has more memory, and needs more rows to be busy. What was given stays.
void SetCudaDefaults(const CLI::App& app, Config& config) {
  const auto set = [&app](const char* flag, int64_t& value, int64_t cuda) {
    if (app.count(flag) == 0) value = cuda;
  };
  set("--arena-bytes", config.arena_bytes, 0);
  set("--batch-rows", config.batch_rows, config.batch_invariant ? kBatchInvariantRowsMax : 2304);
  set("--chunk-tokens", config.chunk_tokens, std::min<int64_t>(2048, config.batch_rows));
  set("--running-requests", config.running_requests, std::min<int64_t>(256, config.batch_rows));
}

// Host of "host:port" or "[host]:port"; empty if it is neither.
std::string HostOf(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) return "";
  int port = -1;
  if (!absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) return "";
  const std::string host = address.substr(0, colon);
  const bool bracketed = host.front() == '[' && host.back() == ']';
  if (bracketed) return host.substr(1, host.size() - 2);
  return absl::StrContains(host, ':') ? "" : host;
}

absl::Status CheckAddress(const Config& config, const char* flag, const std::string& address) {
  if (HostOf(address).empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " ", address, " is not HOST:PORT, e.g. 127.0.0.1:50051 or [::1]:50051"));
  }
  if (IsLoopback(address) || config.insecure || !config.tenants_file.empty()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      flag, " ", address,
      " can be reached from other machines, and this server has no keys: give it a --tenants-file, "
      "put a proxy in front of 127.0.0.1, or add --insecure if the network is yours"));
}

absl::Status CheckTls(const Config& config) {
  if (config.tls_cert.empty() != config.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  if (!config.tls_client_ca.empty() && config.tls_cert.empty()) {
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  }
  return absl::OkStatus();
}

}  // namespace

bool IsLoopback(const std::string& address) {
  const std::string host = HostOf(address);
  in_addr v4{};
  const bool numeric = ::inet_pton(AF_INET, host.c_str(), &v4) == 1;  // no name that begins so
  return host == "localhost" || host == "::1" || (numeric && absl::StartsWith(host, "127."));
}

absl::StatusOr<int64_t> ParseBytes(const std::string& text) {
  absl::string_view digits = text;
  int64_t unit_bytes = 1;
  for (const Unit& unit : kUnits) {
    if (absl::ConsumeSuffix(&digits, unit.suffix)) {
      unit_bytes = unit.bytes;
      break;
    }
  }
  int64_t count = 0;
  const bool number = !digits.empty() && std::all_of(digits.begin(), digits.end(), [](char c) {
    return c >= '0' && c <= '9';
  }) && absl::SimpleAtoi(digits, &count);
  if (!number || count > std::numeric_limits<int64_t>::max() / unit_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text,
                     "' is not a size: give bytes, or a number with KiB, MiB, GiB or "
                     "TiB, e.g. 512MiB"));
  }
  return count * unit_bytes;
}

ParsedFlags ParseFlags(std::vector<std::string> arguments) {
  ParsedFlags result;
  Config config;
  CLI::App app(kIntroduction, "loricad");
  app.footer(kEpilogue);
  app.set_version_flag("--version", "loricad " LORICA_VERSION);
  VisitFlags(config, Registrar(&app));
  std::ostringstream out;
  try {
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    const bool asked = app.exit(error, out, out) == 0;
    result.exit_code = asked ? kExitOk : kExitBadFlags;
    result.text = out.str();
    return result;
  }
  if (config.device == "cuda") SetCudaDefaults(app, config);
  absl::Status status = CheckConfig(config);
  if (config.device == "cpu" && app.count("--gpu-memory-utilization") > 0) {
    status = absl::InvalidArgumentError(
        "--gpu-memory-utilization means nothing with --device cpu: give --arena-bytes");
  }
  if (config.device == "cpu" && app.count("--dtype") > 0) {
    status = absl::InvalidArgumentError(
        "--dtype means nothing with --device cpu, which computes in fp32");
  }
  if (!status.ok()) {
    result.exit_code = kExitBadFlags;
    result.text = absl::StrCat(status.message(), "\n");
    return result;
  }
  result.config = std::move(config);
  return result;
}

absl::Status CheckConfig(const Config& config) {
  if (config.model.empty()) {
    return absl::InvalidArgumentError(
        "--model is missing: give a .gguf file or a Hugging Face folder, see --help");
  }
  const auto breaks_lines = [](char c) { return absl::ascii_iscntrl(c); };
  if (config.model_name.size() > kModelNameBytesMax ||
      std::any_of(config.model_name.begin(), config.model_name.end(), breaks_lines)) {
    return absl::InvalidArgumentError(absl::StrCat("--model-name must have at most ",
                                                   kModelNameBytesMax,
                                                   " bytes, and no control characters"));
  }
  if (config.context_tokens == 1) {
    return absl::InvalidArgumentError(
        "--context-tokens must be 2 or more, a token of prompt and one of answer; 0 = the model's");
  }
  if (config.http_address.empty() && !config.http_access_log.empty()) {
    return absl::InvalidArgumentError("--http-access-log means nothing without --http-address");
  }
  if (const auto origins = AllowedOrigins::Parse(config.http_origins); !origins.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--http-origins ", origins.status().message()));
  }
  const bool fetches =
      !config.hub_allow.empty() || !config.s3_allow.empty() || !config.mirror_allow.empty();
  if (fetches && config.data_dir.empty()) {
    return absl::InvalidArgumentError(
        "--hub-allow, --s3-allow and --mirror-allow need --data-dir: fetched adapters are kept "
        "there");
  }
  if (!config.hf_cache.empty() && config.hub_allow.empty()) {
    return absl::InvalidArgumentError(
        "--hf-cache is read for what --hub-allow lets be named, and that is nothing: give both");
  }
  if (config.running_requests > config.batch_rows) {
    return absl::InvalidArgumentError(absl::StrCat("--running-requests ", config.running_requests,
                                                   " needs a row each in a "
                                                   "step: raise --batch-rows (",
                                                   config.batch_rows, ") to at least that"));
  }
  if (config.batch_invariant && config.device == "cuda" &&
      config.batch_rows > kBatchInvariantRowsMax) {
    return absl::InvalidArgumentError(absl::StrCat("--batch-rows ", config.batch_rows,
                                                   " is more than the ", kBatchInvariantRowsMax,
                                                   " of a step with --batch-invariant on cuda"));
  }
  if (config.chunk_tokens > config.batch_rows) {
    return absl::InvalidArgumentError(absl::StrCat("--chunk-tokens ", config.chunk_tokens,
                                                   " is more than --batch-rows ", config.batch_rows,
                                                   " of a step"));
  }
  if (absl::Status s = CheckTls(config); !s.ok()) return s;
  const absl::Status grpc = CheckAddress(config, "--grpc-address", config.grpc_address);
  if (!grpc.ok() || config.http_address.empty()) return grpc;
  if (const std::string& prefix = config.http_prefix;
      !prefix.empty() && (!prefix.starts_with('/') || prefix.ends_with('/'))) {
    return absl::InvalidArgumentError(
        absl::StrCat("--http-prefix '", prefix, "' must begin with / and not end with one"));
  }
  return CheckAddress(config, "--http-address", config.http_address);
}

BackendOptions BackendOptionsOf(const Config& config) {
  BackendOptions options;
  options.threads = static_cast<int>(config.threads);
  options.rows_max = static_cast<int>(config.batch_rows);
  options.requests_max = static_cast<int>(config.running_requests);
  options.terms_max = static_cast<int>(config.running_requests * kMixTermsMax);
  options.host_bytes = config.host_bytes;
  options.cache_folder = config.data_dir;
  options.batch_invariant = config.batch_invariant;
  return options;
}

std::string DescribeConfig(const Config& config) {
  Config copy = config;
  Printer printer;
  VisitFlags(copy, printer);
  return printer.text();
}

}  // namespace lorica
