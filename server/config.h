// Every flag of loricad, once: name, type, default, bounds, what it is for.
//
// Plain data and pure functions. A new flag is a member and one line in VisitFlags;
// parsing, --help and the start-up line all follow from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/models/model_config.h"

namespace lorica {

// What loricad exits with; --help lists them.
enum ExitCode : int {
  kExitOk = 0,           // stopped by a signal, after draining
  kExitCannotStart = 1,  // the last log line says why
  kExitBadFlags = 2,
  kExitDeviceFailed = 3,  // while serving: start it again
  kExitSecondSignal = 130,
};

struct Config {
  std::string model;
  std::string model_name;  // empty: the model's own
  std::string load_format = "auto";
  std::string adapters_dir;  // empty: the base model alone
  std::string data_dir;      // empty: nothing is kept
  int64_t kept_bytes = int64_t{64} << 30;
  std::string hub_allow;  // empty: nothing is fetched
  std::string hub_endpoint = "https://huggingface.co";
  std::string hub_token_file;
  std::string hub_redirect_hosts;
  std::string hub_ca_file;
  bool hub_offline = false;
  int64_t hub_refresh_seconds = 600;  // 0 = never
  std::string hf_cache;
  std::string s3_allow;     // empty: nothing is fetched from there
  std::string s3_endpoint;  // empty: Amazon's
  std::string s3_region = "us-east-1";
  std::string s3_credentials_file;
  std::string mirror_allow;  // empty: nothing is fetched from there
  int64_t hub_adapter_bytes = int64_t{1} << 30;
  int64_t hub_downloads = 8;
  int64_t disk_bytes = int64_t{16} << 30;
  std::string grpc_address = "127.0.0.1:50051";
  std::string http_address;  // empty: gRPC alone
  int64_t http_generations = 256;
  int64_t http_body_seconds = 60;
  std::string http_access_log;  // empty: none
  std::string http_prefix;      // of all paths; empty: none
  std::string http_origins;     // empty: no CORS
  std::string port_file;
  std::string tenants_file;  // empty: nobody needs a key
  std::string tls_cert;      // empty: plain
  std::string tls_key;
  std::string tls_client_ca;
  bool insecure = false;
  int64_t connection_seconds = 1200;  // 0 = for ever
  bool reflection = true;
  std::string device = "cpu";
  std::string dtype = "bfloat16";
  int64_t threads = 0;         // 0 = one a core
  int64_t context_tokens = 0;  // 0 = the model's own
  int64_t batch_rows = 512;
  int64_t chunk_tokens = 256;
  double step_stretch = 2.5;
  bool batch_invariant = false;
  std::string prefix_cache = "on";
  int64_t running_requests = 64;
  int64_t queue_requests = 1024;
  int64_t queue_tokens = 4 << 20;
  int64_t arena_bytes = int64_t{1} << 30;  // 0 = what gpu_memory_utilization leaves
  double gpu_memory_utilization = 0.90;
  int64_t host_bytes = int64_t{1} << 30;
  int64_t loader_threads = 2;
  int64_t grammar_seconds = 10;
  int64_t drain_notice_seconds = 0;
  int64_t drain_seconds = 60;
  std::string log_level = "info";
};

// Calls visitor.Text, .Choice, .Count, .Number, .Bytes or .Switch for each flag, in --help's
// order.
template <typename Visitor>
void VisitFlags(Config& config, Visitor&& visitor) {
  constexpr int64_t kTiB = int64_t{1} << 40;
  visitor.Text("--model", &config.model, "PATH",
               "Base model: a .gguf file, a Hugging Face folder (config.json, model*.safetensors, "
               "tokenizer.json), or of the hub org/name[@revision] with safetensors or "
               "org/name/file.gguf[@revision], kept beneath --data-dir");
  visitor.Text("--model-name", &config.model_name, "NAME",
               "What requests call the base model; without it, its repository's name or what its "
               "files call it");
  visitor.Choice("--load-format", &config.load_format, {"auto", "dummy"},
                 "auto reads the weights; dummy needs a folder with config.json alone and makes "
                 "random weights of that shape, for benchmarks: token ids only, unless there is a "
                 "tokenizer.json beside it");
  visitor.Text("--adapters-dir", &config.adapters_dir, "DIR",
               "Folder of PEFT adapters; a folder's name is its adapter id");
  visitor.Text("--data-dir", &config.data_dir, "DIR",
               "Folder of this server's own files: registered names and copies of their content. "
               "Made if missing, used by one server at a time; without it names are forgotten");
  visitor.Bytes("--kept-bytes", &config.kept_bytes, 0, 1024 * kTiB,
                "Disk for copies of registered adapters beneath --data-dir");
  visitor.Text("--hub-allow", &config.hub_allow, "LIST",
               "Repositories of the hub that may be named as adapters, e.g. 'org/name,team/*'; "
               "needs --data-dir; without it nothing is fetched");
  visitor.Text("--hub-endpoint", &config.hub_endpoint, "URL",
               "Hugging Face Hub, or a mirror that speaks its protocol");
  visitor.Text("--hub-token-file", &config.hub_token_file, "FILE",
               "Token for the hub, sent to the endpoint alone; read anew for each fetch");
  visitor.Text("--hub-redirect-hosts", &config.hub_redirect_hosts, "LIST",
               "Hosts (or HOST:PORT) with private addresses that the hub may redirect to; public "
               "ones need no mention");
  visitor.Text("--hub-ca-file", &config.hub_ca_file, "FILE",
               "Certificates to trust for the hub, instead of the system's");
  visitor.Switch("--hub-offline", &config.hub_offline,
                 "Connect to no hub: serve what is on disk or in --hf-cache already");
  visitor.Count("--hub-refresh-seconds", &config.hub_refresh_seconds, 0, 1'000'000'000,
                "How often a branch that is in use is looked at again; 0 = it stays where it was");
  visitor.Text("--hf-cache", &config.hf_cache, "DIR",
               "A Hugging Face cache (usually ~/.cache/huggingface/hub) to read from, never "
               "written");
  visitor.Text("--s3-allow", &config.s3_allow, "LIST",
               "Where adapters may be registered from in S3, e.g. 's3://bucket/team/*'; needs "
               "--data-dir");
  visitor.Text("--s3-endpoint", &config.s3_endpoint, "URL",
               "What speaks S3's protocol; without it Amazon's own");
  visitor.Text("--s3-region", &config.s3_region, "NAME", "Region that requests are signed for");
  visitor.Text("--s3-credentials-file", &config.s3_credentials_file, "FILE",
               "Keys for S3, as in ~/.aws/credentials, profile [default]; read anew for each "
               "fetch. Without it requests are not signed");
  visitor.Text("--mirror-allow", &config.mirror_allow, "LIST",
               "Web servers, each named whole, that adapters may be registered from, e.g. "
               "'https://host/adapters/*'; needs --data-dir");
  visitor.Bytes("--hub-adapter-bytes", &config.hub_adapter_bytes, 1, 4 * (kTiB >> 10),
                "Largest weight file that is fetched");
  visitor.Count("--hub-downloads", &config.hub_downloads, 1, 64,
                "Downloads at a time; with --tenants-file at most 2 of one tenant");
  visitor.Bytes("--disk-bytes", &config.disk_bytes, 1, 1024 * kTiB,
                "Disk for fetched adapters beneath --data-dir; the least recently used give way");
  visitor.Text("--grpc-address", &config.grpc_address, "HOST:PORT",
               "Where to listen; port 0 takes a free one");
  visitor.Text("--http-address", &config.http_address, "HOST:PORT",
               "Also serve HTTP here: the routes of LoRAX, OpenAI and vLLM, and health; port 0 "
               "takes a free one");
  visitor.Count("--http-generations", &config.http_generations, 1, 4096,
                "Generations over HTTP at a time; more are refused with 429");
  visitor.Count("--http-body-seconds", &config.http_body_seconds, 1, 3600,
                "A request's body that is not here by then is refused with 408");
  visitor.Text("--http-prefix", &config.http_prefix, "/PATH",
               "Serve all paths beneath this one too, for clients whose base URL has a path");
  visitor.Text("--http-origins", &config.http_origins, "LIST",
               "Pages of these origins may call over HTTP (CORS), e.g. 'https://app.example'; * is "
               "any page; without it none may");
  visitor.Text("--http-access-log", &config.http_access_log, "FILE",
               "A line of JSON for each HTTP request; - is standard output");
  visitor.Text("--port-file", &config.port_file, "FILE",
               "Write the port here once it is listened on; that of HTTP in a second line");
  visitor.Text("--tenants-file", &config.tenants_file, "FILE",
               "Who may call: tenants with the hashes of their keys, their adapters, quotas and "
               "weights, as JSON; `lorica key` makes keys. Read again on SIGHUP");
  visitor.Text("--tls-cert", &config.tls_cert, "FILE",
               "Speak TLS with this certificate chain (PEM), gRPC and HTTP. Read again on SIGHUP");
  visitor.Text("--tls-key", &config.tls_key, "FILE", "Its private key (PEM)");
  visitor.Text("--tls-client-ca", &config.tls_client_ca, "FILE",
               "Take clients with a certificate of these authorities alone (PEM)");
  visitor.Switch("--insecure", &config.insecure,
                 "Allow an address that other machines reach without keys");
  visitor.Count("--connection-seconds", &config.connection_seconds, 0, 86'400,
                "How long a gRPC connection may live before its client is asked to connect anew, "
                "so that balancers can spread clients; streams end first; 0 = for ever");
  visitor.Switch("--reflection", &config.reflection, "Let clients ask which services there are");
  visitor.Choice("--device", &config.device, {"cpu", "cuda"}, "What computes");
  visitor.Choice("--dtype", &config.dtype, {"bfloat16", "float16"},
                 "Type of weights, activations, KV and adapters on cuda; the cpu computes in fp32 "
                 "from the types of the files");
  visitor.Count("--threads", &config.threads, 0, 256, "Compute threads; 0 = one a core");
  visitor.Count("--context-tokens", &config.context_tokens, 0, kContextTokensMax,
                "Most tokens of a request, prompt and answer; 0 = the model's own limit");
  visitor.Count("--batch-rows", &config.batch_rows, 1, 65536,
                "Most tokens of one step; cuda: 2304, with --batch-invariant 128");
  visitor.Count(
      "--chunk-tokens", &config.chunk_tokens, 1, 65536,
      "Most prompt tokens of one step; smaller lets running streams breathe; cuda: 2048 or "
      "--batch-rows");
  visitor.Switch("--batch-invariant", &config.batch_invariant,
                 "Give a request the same tokens and log-probabilities, to the last bit, whatever "
                 "else is served beside it. The cpu does so in any case; cuda takes at most 128 "
                 "tokens a step for it, so that long prompts take longer");
  visitor.Choice("--prefix-cache", &config.prefix_cache, {"on", "off"},
                 "Keep KV of earlier requests while there is room, for later prompts of the same "
                 "tenant and adapters that begin alike");
  visitor.Number("--step-stretch", &config.step_stretch, 1.1, 1000.0,
                 "How many times as long prompts may make a step while other streams decode; "
                 "1000 = as long as --chunk-tokens makes it");
  visitor.Count("--running-requests", &config.running_requests, 1, 4096,
                "Requests decoded at a time; cuda: 256 or --batch-rows");
  visitor.Count("--queue-requests", &config.queue_requests, 1, 1'000'000,
                "Requests that may wait; more are refused as UNAVAILABLE");
  visitor.Count("--queue-tokens", &config.queue_tokens, 1, int64_t{1} << 40,
                "Tokens (prompt + max_tokens) of all that wait");
  visitor.Bytes("--arena-bytes", &config.arena_bytes, 1 << 14, 64 * kTiB,
                "Memory for KV and adapters on the device, e.g. 512MiB or 2GiB; on cuda, without "
                "it, what --gpu-memory-utilization leaves");
  visitor.Number("--gpu-memory-utilization", &config.gpu_memory_utilization, 0.05, 1.0,
                 "Share of the card's memory that weights, workspace and arena may take");
  visitor.Bytes("--host-bytes", &config.host_bytes, 0, 64 * kTiB,
                "Memory for adapters ready to be copied to the device; 0 keeps none");
  visitor.Count("--loader-threads", &config.loader_threads, 1, 64, "Threads that load adapters");
  visitor.Count("--grammar-seconds", &config.grammar_seconds, 1, 60,
                "Computing that a response format may take to compile; long limits of strings and "
                "large vocabularies need some");
  visitor.Count("--drain-notice-seconds", &config.drain_notice_seconds, 0, 600,
                "How long calls are still taken after SIGTERM, while health says that it does not "
                "serve: until every balancer has asked for it");
  visitor.Count("--drain-seconds", &config.drain_seconds, 0, 3600,
                "How long running streams may take to end after that");
  visitor.Choice("--log-level", &config.log_level, {"debug", "info", "warn", "error"},
                 "What is logged to stderr");
}

struct ParsedFlags {
  std::optional<Config> config;  // absent: print `text` and exit with `exit_code`
  int exit_code = kExitOk;
  std::string text;
};
// `arguments` without the program's name.
ParsedFlags ParseFlags(std::vector<std::string> arguments);

// What no single flag can say: InvalidArgument names the flags that do not go together.
absl::Status CheckConfig(const Config& config);

// What the flags ask of a backend.
BackendOptions BackendOptionsOf(const Config& config);

// Whether only this machine reaches "host:port".
bool IsLoopback(const std::string& address);

// "--model x --threads 0 ...": all flags as they came out, for the log.
std::string DescribeConfig(const Config& config);

// "512MiB", "2GiB", "64KiB", "1048576".
absl::StatusOr<int64_t> ParseBytes(const std::string& text);

}  // namespace lorica
