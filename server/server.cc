#include "server/server.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "adapters/adapter_catalog.h"
#include "adapters/adapter_pool.h"
#include "adapters/content_store.h"
#include "adapters/hub/followed_source.h"
#include "adapters/hub/steady_now.h"
#include "adapters/local_looks.h"
#include "adapters/merged_adapters.h"
#include "adapters/peft_loader.h"
#include "adapters/registry.h"
#include "kernels/backend.h"
#include "kernels/block_arena.h"
#include "kernels/plugin.h"
#include "server/api/change_log.h"
#include "server/api/field_error.h"
#include "server/api/gateway.h"
#include "server/api/grpc_service.h"
#include "server/api/server_tls.h"
#include "server/api/tenants.h"
#include "server/data_dir.h"
#include "server/engine/engine.h"
#include "server/engine/model_executor.h"
#include "server/grammar/grammar_store.h"
#include "server/grammar/trial.h"
#include "server/http/http_service.h"
#include "server/http/metrics.h"
#include "server/models/model.h"
#include "server/remote_parts.h"
#include "server/secret_files.h"
#include "server/tenant_shares.h"
#include "server/text/chat_template.h"
#include "server/text/tokenizer.h"
#include "server/usage_file.h"
#include "server/warm_up.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

// Device memory that is taken after the arena: captured steps, tables of adapters.
constexpr int64_t kLateDeviceBytes = int64_t{512} << 20;
constexpr int kTenantParts = 2;
constexpr double kLinger = 0.7;  // of a decode step
constexpr absl::Duration kDrainPoll = absl::Milliseconds(20);

// Stands for --adapters-dir where there is none.
class NoAdapters final : public Source {
 public:
  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string&,
                                                   const std::string&) override {
    return absl::NotFoundError("this server was started without --adapters-dir");
  }
  absl::StatusOr<std::vector<std::string>> List(int) override { return std::vector<std::string>(); }
};

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const ModelText& text) {
  if (!text.tokenizer_json.empty()) return MakeTokenizerFromJson(text.tokenizer_json);
  if (text.gguf_tokens.empty()) {
    return absl::FailedPreconditionError("the model came without a tokenizer");
  }
  return MakeTokenizerFromGguf(
      {text.gguf_model, text.gguf_pre, text.gguf_tokens, text.gguf_token_types, text.gguf_merges});
}

// What the arena may take: what was asked for, or what the card's share has left.
int64_t ArenaBytes(const Config& config, const DeviceMemory& memory) {
  if (config.arena_bytes > 0) return config.arena_bytes;
  const auto share =
      static_cast<int64_t>(static_cast<double>(memory.total_bytes) * config.gpu_memory_utilization);
  const int64_t used = memory.total_bytes - memory.free_bytes;
  return std::max<int64_t>(0, share - used - kLateDeviceBytes);
}

std::string Gib(int64_t bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
}

absl::Status WritePortFile(const std::string& path, int port, int http_port) {
  const std::string temporary = path + ".new";
  std::ofstream file(temporary, std::ios::trunc);
  file << port << '\n';
  if (http_port != 0) file << http_port << '\n';
  file.close();
  if (file.fail() || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("--port-file ", path, " cannot be written"));
  }
  return absl::OkStatus();
}

}  // namespace

// In order of construction; what comes later uses what came before.
struct Server::Parts {
  absl::Time started = SteadyNow();
  Metrics metrics;
  std::unique_ptr<DataDir> data_dir;
  std::shared_ptr<Tenants> tenants = std::make_shared<Tenants>();
  std::unique_ptr<ServerTls> tls;  // null: plain
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  int32_t vocabulary = 0;  // token ids in use; the model may have padding rows beyond
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
  std::unique_ptr<Buffer> arena_memory;
  std::unique_ptr<BlockArena> arena;
  KvCache cache;
  std::unique_ptr<PeftLoader> loader;
  std::unique_ptr<Registry> registry;
  std::unique_ptr<ContentStore> content;
  std::unique_ptr<RemoteParts> remote;
  std::unique_ptr<AdapterCatalog> catalog;
  std::unique_ptr<LoaderExecutor> merge_thread;
  std::unique_ptr<MergedAdapters> merged;
  std::unique_ptr<LoaderExecutor> look_threads;
  std::unique_ptr<LocalLooks> looks;
  std::unique_ptr<LoaderExecutor> loader_threads;
  std::unique_ptr<AdapterPool> pool;
  std::unique_ptr<ModelExecutor> executor;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<GrammarStore> grammars;  // null: no response formats
  std::unique_ptr<Gateway> gateway;
  std::unique_ptr<UsageFile> usage;  // null: nothing is kept
  std::unique_ptr<GrpcService> grpc;
  std::unique_ptr<HttpService> http;  // null: not asked for
};

Server::Server(const Config& config) : config_(config), parts_(std::make_unique<Parts>()) {}

Server::~Server() { Stop(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Config& config) {
  std::unique_ptr<Server> server(new Server(config));
  absl::Status status = server->Build();
  if (!status.ok()) return status;
  server->engine_thread_ = std::thread([raw = server.get()] { raw->EngineLoop(); });
  Parts& parts = *server->parts_;
  status = WarmUp(*parts.gateway, parts.model->config().bos_token);
  if (!status.ok()) return status;
  parts.metrics.Start();
  status = server->Listen();
  if (!status.ok()) return status;
  parts.grpc->SetState(ServingState::kServing);
  if (parts.http != nullptr) parts.http->SetServing(true);
  return server;
}

absl::Status Server::Build() {
  if (!config_.data_dir.empty()) {
    auto data_dir = DataDir::Lock(config_.data_dir);
    if (!data_dir.ok()) return data_dir.status();
    parts_->data_dir = *std::move(data_dir);
  }
  absl::Status status = BuildKeys();  // before what takes long
  if (status.ok()) status = BuildModel();
  if (status.ok()) status = BuildText();
  if (status.ok()) status = BuildAdapters();
  if (status.ok()) status = CaptureSteps();
  if (status.ok()) status = BuildEngine();
  return status;
}

absl::Status Server::LoadTenants() {
  if (config_.tenants_file.empty()) return absl::OkStatus();
  const absl::Status status = parts_->tenants->LoadFile(config_.tenants_file);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("--tenants-file ", status.message()));
}

absl::Status Server::BuildKeys() {
  absl::Status status = LoadTenants();
  if (!config_.tls_cert.empty()) {
    auto tls = ServerTls::Read({config_.tls_cert, config_.tls_key, config_.tls_client_ca});
    status = BothOf(status, tls.status());
    if (tls.ok()) parts_->tls = *std::move(tls);
  }
  if (!status.ok()) return status;
  WarnOfOpenSecrets(config_, *parts_->tenants);
  WarnOfKeysInTheClear(config_, *parts_->tenants);
  return absl::OkStatus();
}

absl::Status Server::Reload() {
  const absl::Status tenants = LoadTenants();
  const absl::Status tls = parts_->tls == nullptr ? absl::OkStatus() : parts_->tls->Reload();
  WarnOfOpenSecrets(config_, *parts_->tenants);
  return BothOf(tenants, tls);
}

bool Server::HasFilesToReload() const {
  return !config_.tenants_file.empty() || parts_->tls != nullptr;
}

absl::Status Server::BuildModel() {
  const bool half = config_.dtype == "float16";
  auto backend =
      MakeBackend(absl::StrCat(config_.device, half ? "_f16" : ""), BackendOptionsOf(config_));
  if (!backend.ok()) return backend.status();
  parts_->backend = *std::move(backend);
  Model::Options options;
  options.context_tokens = config_.context_tokens;
  options.rows_max = static_cast<int>(config_.batch_rows);
  options.samples_max = static_cast<int>(config_.running_requests) + kScoredRowsMax;
  options.load_format = config_.load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kAuto;
  options.name = BaseNameOf(config_);
  auto path = BringBaseModel(config_);
  auto model = path.ok() ? Model::Load(*path, parts_->backend.get(), options) : path.status();
  if (!model.ok()) {
    return absl::Status(model.status().code(),
                        absl::StrCat("--model ", config_.model, ": ", model.status().message()));
  }
  parts_->model = *std::move(model);
  return absl::OkStatus();
}

const std::string& Server::base_name() const { return parts_->model->config().name; }

absl::Status Server::BuildText() {
  const Model& model = *parts_->model;
  parts_->vocabulary = static_cast<int32_t>(model.config().vocabulary);
  auto tokenizer = MakeTokenizer(model.text());
  if (!tokenizer.ok()) {
    spdlog::warn("text is refused, token_ids work: {}", tokenizer.status().ToString());
    return absl::OkStatus();
  }
  parts_->tokenizer = *std::move(tokenizer);
  parts_->vocabulary = std::min(parts_->vocabulary, parts_->tokenizer->size());
  if (model.text().chat_template.empty()) return absl::OkStatus();
  auto chat_template = MakeChatTemplate(model.text().chat_template,
                                        {model.text().bos_token, model.text().eos_token});
  if (!chat_template.ok()) {
    spdlog::warn("messages are refused, prompts work: {}",
                 absl::StrReplaceAll(chat_template.status().ToString(), {{"\n", " "}}));
    return absl::OkStatus();
  }
  parts_->chat_template = *std::move(chat_template);
  return absl::OkStatus();
}

absl::Status Server::BuildAdapters() {
  Parts& parts = *parts_;
  const AttentionShape shape = parts.model->config().attention();
  const int64_t block_bytes = parts.backend->BlockBytesFor(shape);
  const int64_t arena_bytes = ArenaBytes(config_, parts.backend->memory());
  const int64_t blocks = std::min<int64_t>(arena_bytes / block_bytes, INT32_MAX);
  const char* flag = config_.arena_bytes > 0 ? "--arena-bytes" : "--gpu-memory-utilization";
  if (blocks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " gives the arena ", arena_bytes,
                     " bytes, which do not hold one block of this model (", block_bytes, ")"));
  }
  auto memory = parts.backend->Allocate(blocks * block_bytes);
  if (!memory.ok()) {
    return absl::Status(memory.status().code(),
                        absl::StrCat(flag, ": ", memory.status().message()));
  }
  parts.arena_memory = *std::move(memory);
  parts.arena = std::make_unique<BlockArena>(static_cast<int32_t>(blocks));
  parts.cache = {parts.arena_memory->data(), block_bytes, shape};

  std::shared_ptr<Source> root = std::make_shared<NoAdapters>();
  if (!config_.adapters_dir.empty()) {
    auto local = MakeFollowedSource(config_.adapters_dir);
    if (!local.ok()) {
      return absl::Status(
          local.status().code(),
          absl::StrCat("--adapters-dir ", config_.adapters_dir, ": ", local.status().message()));
    }
    root = *std::move(local);
  }
  const auto adapter_blocks_max = static_cast<int32_t>(blocks - 1);  // one for a request's KV
  parts.loader = std::make_unique<PeftLoader>(parts.model->lora_targets(), parts.backend.get(),
                                              block_bytes, adapter_blocks_max);
  parts.catalog = std::make_unique<AdapterCatalog>(root, parts.loader.get(), base_name(),
                                                   config_.model, CatalogLimitsOf(*parts.tenants));
  parts.catalog->SetScope(
      [tenants = parts.tenants](const std::string& name, const std::string& location) {
        const TenantPtr tenant = tenants->Find(name);
        return tenant != nullptr && tenant->MayUse(location);
      });
  parts.catalog->SetTokens(
      [tenants = parts.tenants](const std::string& name) { return tenants->HubTokenOf(name); });
  parts.catalog->SetOnChange(LogChange);
  parts.catalog->SetOnDamage(LogDamage);
  if (absl::Status s = RestoreNames(); !s.ok()) return s;
  if (root->Open(base_name(), "adapter_config.json").ok()) {
    spdlog::warn("an adapter's folder is called as the base model, {}: nobody can ask for it",
                 base_name());
  }
  if (RemoteParts::Wanted(config_)) {
    auto remote = RemoteParts::Build(config_, parts.loader.get());
    if (!remote.ok()) return remote.status();
    parts.remote = *std::move(remote);
    parts.catalog->SetRemote(parts.remote->adapters());
  }
  parts.merge_thread = MakeLoaderThreads(1);
  parts.merged =
      std::make_unique<MergedAdapters>(MergeLimits(), parts.loader.get(), parts.merge_thread.get());
  parts.catalog->SetMerged(parts.merged.get());
  parts.look_threads = MakeLoaderThreads(kLocalLookThreads);
  parts.looks =
      std::make_unique<LocalLooks>(LookLimitsOf(*parts.tenants), parts.look_threads.get());
  parts.catalog->SetLooks(parts.looks.get());
  parts.loader_threads = MakeLoaderThreads(static_cast<int>(config_.loader_threads));
  PoolOptions pool_options;
  pool_options.host_bytes_max = config_.host_bytes;
  parts.pool =
      std::make_unique<AdapterPool>(pool_options, parts.loader.get(), parts.loader_threads.get(),
                                    parts.backend.get(), parts.cache, parts.arena.get());
  return absl::OkStatus();
}

absl::Status Server::RestoreNames() {
  if (parts_->data_dir == nullptr) return absl::OkStatus();
  const std::string copies = config_.data_dir + "/registered";
  auto content = ContentStore::Open(copies, config_.kept_bytes);
  if (!content.ok()) return content.status();
  parts_->content = *std::move(content);
  auto registry = Registry::Open(config_.data_dir + "/registry.db",
                                 {.folder = copies, .any = !parts_->content->empty()});
  if (!registry.ok()) return registry.status();
  parts_->registry = *std::move(registry);
  if (const absl::Status first = parts_->registry->at_open(); !first.ok()) {
    spdlog::warn("names are served as they are and none can be changed: {}",
                 std::string(first.message()));
  }
  const absl::Status restored =
      parts_->catalog->Restore(parts_->registry.get(), parts_->content.get());
  if (restored.ok()) LogLostCopies(parts_->catalog->lost_at_restore());
  return restored;
}

absl::Status Server::CaptureSteps() {
  Model& model = *parts_->model;
  const absl::Time began = SteadyNow();
  const absl::Status chosen = model.ChooseProducts();
  if (!chosen.ok()) {
    spdlog::warn("products of many rows are as the library makes them: {}", chosen.ToString());
  }
  const double choosing_seconds = absl::ToDoubleSeconds(SteadyNow() - began);
  const absl::Status status =
      model.CaptureSteps(parts_->cache, static_cast<int>(config_.running_requests));
  if (!status.ok()) return status;
  const DeviceMemory memory = parts_->backend->memory();
  if (memory.total_bytes == 0) return absl::OkStatus();
  spdlog::info("captured {} decode steps in {:.1f} s, {:.1f} of it for choosing products",
               model.captured_steps(), absl::ToDoubleSeconds(SteadyNow() - began),
               choosing_seconds);
  const int64_t arena_bytes = parts_->arena_memory->size_bytes();
  const int64_t used = memory.total_bytes - memory.free_bytes;
  spdlog::info("{} of {} in use on the device: weights {}, arena {}, all else {}", Gib(used),
               Gib(memory.total_bytes), Gib(model.weight_bytes()), Gib(arena_bytes),
               Gib(used - model.weight_bytes() - arena_bytes));
  return absl::OkStatus();
}

absl::Status Server::BuildGrammars() {
  Parts& parts = *parts_;
  const std::string program = TrialProgram();
  std::error_code error;
  const bool tried = std::filesystem::is_regular_file(program, error);
  if (!tried) spdlog::warn("response formats are refused: {} is not there", program);
  GrammarVocabulary vocabulary;
  for (const int32_t id : parts.model->config().end_tokens) {
    if (id >= 0 && id < parts.vocabulary) vocabulary.end_tokens.push_back(id);
  }
  if (!tried || parts.tokenizer == nullptr || vocabulary.end_tokens.empty()) {
    return absl::OkStatus();
  }
  for (int32_t id = 0; id < parts.vocabulary; ++id) {
    const bool special = parts.tokenizer->IsSpecial(id);
    vocabulary.tokens.emplace_back(special ? "" : parts.tokenizer->TokenBytes(id));
  }
  GrammarLimits limits;
  limits.trial.cpu = absl::Seconds(config_.grammar_seconds);
  if (parts.tenants->needs_keys()) limits.tenant_compiles_waiting = kTenantCompilesWaitingMax;
  auto grammars = GrammarStore::Make(vocabulary, program, limits);
  if (!grammars.ok()) return grammars.status();
  parts.grammars = *std::move(grammars);
  return absl::OkStatus();
}

absl::Status Server::BuildEngine() {
  Parts& parts = *parts_;
  const Model& model = *parts.model;
  parts.executor = std::make_unique<ModelExecutor>(parts.model.get(), parts.backend.get(),
                                                   parts.cache, parts.vocabulary);
  EngineOptions options;
  options.rows_max = static_cast<int>(config_.batch_rows);
  options.chunk_tokens = static_cast<int>(config_.chunk_tokens);
  options.prefix_cache = config_.prefix_cache == "on";
  options.stretch = config_.step_stretch;
  options.linger = kLinger;
  options.relay_events = parts.backend->asynchronous();
  options.running_max = static_cast<int>(config_.running_requests);
  options.queue_requests_max = static_cast<int>(config_.queue_requests);
  options.queue_tokens_max = config_.queue_tokens;
  options.queue_tenant_parts = parts.tenants->needs_keys() ? kTenantParts : 1;
  options.context_tokens = model.context_tokens();
  options.vocabulary = parts.vocabulary;
  options.on_end = [&metrics = parts.metrics](const FinishEvent& event) {
    metrics.ObserveEnd(event);
  };
  parts.engine =
      std::make_unique<Engine>(options, parts.executor.get(), parts.pool.get(), parts.arena.get());
  const absl::Status grammars = BuildGrammars();
  if (!grammars.ok()) return grammars;
  GatewayLimits limits;
  limits.context_tokens = model.context_tokens();
  limits.vocabulary = parts.vocabulary;
  limits.end_tokens = model.config().end_tokens;
  limits.base_name = base_name();
  limits.tenants = parts.tenants;
  limits.waiting = {config_.queue_requests, config_.queue_tokens, options.queue_tenant_parts};
  parts.gateway = std::make_unique<Gateway>(limits, parts.engine.get(), parts.catalog.get(),
                                            parts.pool.get(), parts.tokenizer.get(),
                                            parts.chat_template.get(), parts.grammars.get());
  if (parts.data_dir == nullptr) return absl::OkStatus();
  auto usage = UsageFile::Open(config_.data_dir + "/usage.json", &parts.gateway->accounts());
  if (!usage.ok()) return usage.status();
  parts.usage = *std::move(usage);
  return absl::OkStatus();
}

absl::Status Server::Listen() {
  Parts& parts = *parts_;
  const ModelConfig& model = parts.model->config();
  ServerFacts facts;
  facts.version = LORICA_VERSION;
  facts.device = parts.backend->name();
  facts.started = parts.started;
  facts.counting_since = parts.usage == nullptr ? parts.started : parts.usage->since();
  facts.model.set_name(base_name());
  facts.model.set_architecture(model.architecture);
  facts.model.set_weight_format(parts.model->weight_format());
  facts.model.set_layers(model.layers);
  facts.model.set_hidden_size(static_cast<int32_t>(model.hidden));
  facts.model.set_vocabulary(parts.vocabulary);
  facts.model.set_context_tokens(static_cast<int32_t>(parts.model->context_tokens()));
  facts.model.set_weight_bytes(parts.model->weight_bytes());
  facts.model.set_has_tokenizer(parts.tokenizer != nullptr);
  facts.model.set_has_chat_template(parts.chat_template != nullptr);
  facts.limits.set_context_tokens(static_cast<int32_t>(parts.model->context_tokens()));
  facts.limits.set_batch_rows(static_cast<int32_t>(config_.batch_rows));
  facts.limits.set_running_requests(static_cast<int32_t>(config_.running_requests));
  facts.limits.set_queue_requests(static_cast<int32_t>(config_.queue_requests));
  facts.limits.set_queue_tokens(config_.queue_tokens);
  facts.limits.set_arena_bytes(parts.arena_memory->size_bytes());
  facts.limits.set_block_bytes(parts.cache.block_bytes);
  facts.limits.set_arena_blocks(parts.arena->block_count());
  facts.limits.set_host_bytes(config_.host_bytes);
  facts.limits.set_message_bytes(kMessageBytesMax);
  facts.limits.set_adapter_rank(kLoraRankMax);
  facts.limits.set_mix_adapters(kMixTermsMax);
  facts.limits.set_threads(parts.backend->threads());
  facts.limits.set_concurrent_streams(kStreamsPerConnectionMax);

  GrpcOptions options;
  options.address = config_.grpc_address;
  options.tls = parts.tls.get();
  options.reflection = config_.reflection;
  if (config_.connection_seconds > 0) {
    options.connection_age = absl::Seconds(config_.connection_seconds);
  }
  options.block_bytes = parts.cache.block_bytes;
  options.tenant_parts = parts.tenants->needs_keys() ? kTenantParts : 1;
  auto grpc = GrpcService::Start(options, std::move(facts), parts.gateway.get());
  if (!grpc.ok()) return grpc.status();
  parts.grpc = *std::move(grpc);
  const absl::Status http = ListenHttp();
  if (!http.ok() || config_.port_file.empty()) return http;
  return WritePortFile(config_.port_file, port(), http_port());
}

absl::Status Server::ListenHttp() {
  if (config_.http_address.empty()) return absl::OkStatus();
  Parts& parts = *parts_;
  HttpOptions options;
  options.address = config_.http_address;
  options.access_log = config_.http_access_log;
  options.prefix = config_.http_prefix;
  options.origins = config_.http_origins;
  options.body_time = absl::Seconds(config_.http_body_seconds);
  options.keyless = !parts.tenants->needs_keys();
  HttpFacts& facts = options.facts;
  facts.version = LORICA_VERSION;
  facts.model = base_name();
  facts.device = parts.backend->name();
  facts.weight_format = parts.model->weight_format();
  if (!config_.adapters_dir.empty()) {
    std::error_code error;
    facts.adapters_dir = std::filesystem::canonical(config_.adapters_dir, error).string();
  }
  facts.started = parts.started;
  facts.batch_tokens = config_.batch_rows;
  facts.queue_requests = config_.queue_requests;
  facts.block_bytes = parts.cache.block_bytes;
  facts.arena_blocks = parts.arena->block_count();
  facts.running_max = static_cast<int32_t>(config_.running_requests);
  facts.generations_max = static_cast<int>(config_.http_generations);
  facts.generation_parts = parts.tenants->needs_keys() ? kTenantParts : 1;
  options.metrics = &parts.metrics;
  options.services = parts.grpc->InProcess();
  options.tls = parts.tls.get();
  auto http = HttpService::Start(std::move(options), parts.gateway.get());
  if (!http.ok()) return http.status();
  parts.http = *std::move(http);
  return absl::OkStatus();
}

void Server::EngineLoop() {
  absl::Time last_tick = absl::InfinitePast();
  while (!stop_engine_.load()) {
    const absl::Time now = SteadyNow();
    const StepReport report = parts_->engine->Step(now);
    if (report.plan.rows > 0) parts_->metrics.ObserveStep(now, SteadyNow() - now, report.plan.rows);
    if (!report.device.ok()) return Fail(report.device);
    if (now - last_tick >= kTickInterval) {
      parts_->gateway->Tick(now);
      last_tick = now;
    }
    if (!report.worked) {
      parts_->engine->WaitForWork(parts_->engine->idle() ? kTickInterval : kDeadlineInterval);
    }
  }
}

void Server::Fail(const absl::Status& device) {
  spdlog::critical("the device failed, nothing more can be served: {}", device.ToString());
  absl::MutexLock lock(&mutex_);
  failure_ = absl::InternalError(device.message());
}

int Server::port() const { return parts_->grpc->port(); }

int Server::http_port() const { return parts_->http == nullptr ? 0 : parts_->http->port(); }

void Server::RequestStop() {
  absl::MutexLock lock(&mutex_);
  stop_requested_ = true;
}

absl::Status Server::Wait() {
  absl::MutexLock lock(&mutex_);
  const auto over = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return stop_requested_ || !failure_.ok();
  };
  mutex_.Await(absl::Condition(&over));
  if (!failure_.ok()) {
    parts_->grpc->SetState(ServingState::kFailed);
    if (parts_->http != nullptr) parts_->http->SetServing(false);
  }
  return failure_;
}

void Server::Drain() {
  Parts& parts = *parts_;
  parts.grpc->StartDrain();
  if (parts.http != nullptr) parts.http->StartDrain();
  absl::SleepFor(absl::Seconds(config_.drain_notice_seconds));
  parts.gateway->StartDrain();
  parts.grpc->CloseDoor();
  const absl::Time end = SteadyNow() + absl::Seconds(config_.drain_seconds);
  while (parts.gateway->open_answers() > 0 && SteadyNow() < end) absl::SleepFor(kDrainPoll);
  const int64_t cut = parts.gateway->open_answers();
  if (cut > 0) spdlog::warn("cutting {} answers that did not end in time", cut);
  parts.engine->Abort(GoElsewhere("the server is shutting down"));
}

void Server::Stop() {
  if (parts_->http != nullptr) parts_->http->Stop(kStopGrace);
  if (parts_->grpc != nullptr) parts_->grpc->Stop(kStopGrace);
  if (parts_->gateway != nullptr) parts_->gateway->StartDrain();
  if (parts_->remote != nullptr) parts_->remote->Stop();  // before what waits for it goes
  if (parts_->looks != nullptr) parts_->looks->Stop();
  if (parts_->merged != nullptr) parts_->merged->Stop();  // after what it waits for
  stop_engine_.store(true);
  if (parts_->engine != nullptr) parts_->engine->StartDrain();  // wakes it
  if (!engine_thread_.joinable()) return;
  engine_thread_.join();
  parts_->usage.reset();
  if (!parts_->backend->asynchronous()) return;
  const EngineStats stats = parts_->engine->stats();
  spdlog::info(
      "{} steps; medians of the last: {:.3f} ms, {:.3f} of them the host's, {:.3f} for launching",
      stats.steps, stats.step_ms_p50, stats.host_ms_p50, stats.launch_ms_p50);
}

}  // namespace lorica
