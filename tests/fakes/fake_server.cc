#include "tests/fakes/fake_server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace lorica {
namespace {

constexpr int kDefaultTokens = 256;

std::string Header(const grpc::ServerContext& context) {
  const auto found = context.client_metadata().find("x-adapter-id");
  if (found == context.client_metadata().end()) return "";
  return std::string(found->second.data(), found->second.size());
}

void EchoTokens(const v1::GenerateRequest& request, v1::GenerateResponse* response) {
  const int most = request.has_max_tokens() ? request.max_tokens() : kDefaultTokens;
  for (int i = 0; i < most; ++i) {
    response->add_token_ids(request.token_ids(i % request.token_ids_size()));
  }
  response->set_text(std::string(most, 'x'));
  response->set_finish_reason(v1::FINISH_REASON_LENGTH);
}

void EchoText(const v1::GenerateRequest& request, v1::GenerateResponse* response) {
  const std::string& text = request.messages().empty()
                                ? request.prompt()
                                : request.messages(request.messages_size() - 1).content();
  const int most = request.has_max_tokens() ? request.max_tokens() : kDefaultTokens;
  response->set_text(text.substr(0, most));
  for (const unsigned char byte : response->text()) response->add_token_ids(byte);
  const bool whole = response->text().size() == text.size();
  response->set_finish_reason(whole ? v1::FINISH_REASON_EOS : v1::FINISH_REASON_LENGTH);
}

void FillUsed(const std::string& id, double weight, v1::AdapterUsed* used) {
  used->set_adapter_id(id);
  used->set_generation("0123456789abcdef");
  used->set_weight(weight);
}

grpc::Status Echo(const v1::GenerateRequest& request, v1::GenerateResponse* response) {
  request.token_ids().empty() ? EchoText(request, response) : EchoTokens(request, response);
  v1::AdapterUsed* used = response->mutable_adapter();
  if (!request.adapter_id().empty()) FillUsed(request.adapter_id(), 1, used);
  for (const v1::AdapterWeight& part : request.adapters()) {
    FillUsed(part.adapter_id(), part.has_weight() ? part.weight() : 1,
             request.adapters_size() == 1 ? used : used->add_mix());
  }
  response->mutable_usage()->set_prompt_tokens(request.prompt().size() + request.token_ids_size());
  response->mutable_usage()->set_completion_tokens(response->token_ids_size());
  response->mutable_timings()->set_ttft_ms(1.5);
  response->mutable_timings()->set_tokens_per_second(40);
  for (int i = 0; request.has_logprobs() && i < response->token_ids_size(); ++i) {
    v1::TokenLogprob* logprob = response->add_logprobs();
    logprob->set_token_id(response->token_ids(i));
    logprob->set_logprob(-0.5);
  }
  return grpc::Status::OK;
}

v1::GenerateStreamResponse Chunk(const v1::GenerateResponse& response, int i) {
  v1::GenerateStreamResponse chunk;
  chunk.add_token_ids(response.token_ids(i));
  chunk.set_token_count(i + 1);
  if (i < static_cast<int>(response.text().size())) chunk.set_text(response.text().substr(i, 1));
  if (i < response.logprobs_size()) *chunk.add_logprobs() = response.logprobs(i);
  return chunk;
}

v1::GenerateStreamResponse LastChunk(const v1::GenerateResponse& response) {
  v1::GenerateStreamResponse chunk;
  chunk.set_token_count(response.token_ids_size());
  chunk.mutable_finish()->set_finish_reason(response.finish_reason());
  *chunk.mutable_finish()->mutable_adapter() = response.adapter();
  *chunk.mutable_finish()->mutable_usage() = response.usage();
  *chunk.mutable_finish()->mutable_timings() = response.timings();
  return chunk;
}

grpc::Status WithDetail(grpc::StatusCode code, const std::string& message,
                        const google::protobuf::Message& detail) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  status.add_details()->PackFrom(detail);
  return grpc::Status(code, message, status.SerializeAsString());
}

}  // namespace

// --- the services ------------------------------------------------------------------

class FakeServer::Inference : public v1::InferenceService::Service {
 public:
  explicit Inference(FakeServer* fake) : fake_(fake) {}

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        v1::GenerateResponse* response) override {
    return Prepare(context, *request, response);
  }

  grpc::Status GenerateStream(grpc::ServerContext* context, const v1::GenerateRequest* request,
                              grpc::ServerWriter<v1::GenerateStreamResponse>* writer) override {
    v1::GenerateResponse response;
    grpc::Status status = Prepare(context, *request, &response);
    if (!status.ok()) return status;
    absl::ReleasableMutexLock lock(&fake_->mutex_);
    const absl::Duration delay = fake_->chunk_delay_;
    const int break_after = fake_->break_after_;
    const grpc::Status break_status = fake_->break_status_;
    lock.Release();
    for (int i = 0; i < response.token_ids_size(); ++i) {
      if (i == break_after) return break_status;
      if (context->IsCancelled() || !writer->Write(Chunk(response, i))) return Cancelled();
      absl::SleepFor(delay);
    }
    writer->Write(LastChunk(response));
    return grpc::Status::OK;
  }

  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    for (const unsigned char byte : request->prompt()) {
      response->add_token_ids(byte);
      response->add_tokens(std::string(1, byte));
    }
    return grpc::Status::OK;
  }

 private:
  grpc::Status Cancelled() {
    absl::MutexLock lock(&fake_->mutex_);
    ++fake_->cancelled_;
    return grpc::Status::CANCELLED;
  }

  grpc::Status Prepare(grpc::ServerContext* context, const v1::GenerateRequest& request,
                       v1::GenerateResponse* response) {
    absl::ReleasableMutexLock lock(&fake_->mutex_);
    fake_->requests_.push_back(request);
    fake_->headers_.push_back(Header(*context));
    if (fake_->fail_times_ > 0) {
      --fake_->fail_times_;
      if (!fake_->fail_pushback_.empty()) {
        context->AddTrailingMetadata("grpc-retry-pushback-ms", fake_->fail_pushback_);
      }
      return fake_->fail_status_;
    }
    const Answer answer = fake_->answer_;
    lock.Release();
    return answer ? answer(request, context, response) : Echo(request, response);
  }

  FakeServer* const fake_;
};

class FakeServer::Adapters : public v1::AdapterService::Service {
 public:
  explicit Adapters(FakeServer* fake) : fake_(fake) {}

  grpc::Status RegisterAdapter(grpc::ServerContext*, const v1::RegisterAdapterRequest* request,
                               v1::RegisterAdapterResponse* response) override {
    Fetch();
    const std::string& id = request->adapter_id();
    absl::ReleasableMutexLock lock(&fake_->mutex_);
    const auto found = fake_->adapters_.find(id);
    const bool known = found != fake_->adapters_.end() && found->second.registered();
    lock.Release();
    if (known && !request->replace()) {
      return grpc::Status(grpc::ALREADY_EXISTS, absl::StrCat(id, " has other content"));
    }
    fake_->AddAdapter(id);
    response->set_created(!known);
    if (known && request->source() != "same") response->set_replaced(std::string(64, '7'));
    return Change(
        id,
        [&](v1::Adapter* a) {
          a->set_registered(true);
          if (!request->source().empty()) a->set_source(request->source());
        },
        response->mutable_adapter());
  }

  grpc::Status MergeAdapters(grpc::ServerContext*, const v1::MergeAdaptersRequest* request,
                             v1::MergeAdaptersResponse* response) override {
    Fetch();
    *response->mutable_adapter() = fake_->AddAdapter(request->adapter_id());
    std::vector<std::string> parts;
    for (const v1::MergePart& part : request->parts()) {
      parts.push_back(absl::StrCat(part.adapter_id(), "=", part.weight()));
    }
    response->mutable_adapter()->set_source(
        absl::StrCat(v1::MergeMethod_Name(request->method()), " ", request->density(), " ",
                     v1::MajoritySign_Name(request->majority_sign()), " ", request->seed(), " ",
                     absl::StrJoin(parts, " ")));
    response->mutable_adapter()->set_commit(request->hub_token());
    response->set_created(true);
    return grpc::Status::OK;
  }

  grpc::Status RollbackAdapter(grpc::ServerContext*, const v1::RollbackAdapterRequest* request,
                               v1::RollbackAdapterResponse* response) override {
    return Change(
        request->adapter_id(),
        [&](v1::Adapter* a) {
          if (!request->generation().empty()) a->set_generation(request->generation());
        },
        response->mutable_adapter());
  }

  grpc::Status SetAlias(grpc::ServerContext*, const v1::SetAliasRequest* request,
                        v1::SetAliasResponse* response) override {
    fake_->AddAdapter(request->alias());
    return Change(
        request->alias(),
        [&](v1::Adapter* a) {
          a->set_alias_of(request->adapter_id());
          a->set_source(absl::StrCat(request->hub_token(), " ", request->expected_generation()));
        },
        response->mutable_adapter());
  }

  grpc::Status CheckAdapter(grpc::ServerContext*, const v1::CheckAdapterRequest* request,
                            v1::CheckAdapterResponse* response) override {
    Fetch();
    response->set_servable(!absl::StrContains(request->source(), "bad"));
    if (!response->servable()) response->set_reason("rank 512 is above 256");
    v1::CheckedModule* module = response->add_modules();
    module->set_name("self_attn.q_proj");
    module->set_layers(30);
    module->set_rank_min(8);
    module->set_rank_max(16);
    module->set_scale_min(2);
    module->set_scale_max(2);
    module->set_alpha_min(16);
    module->set_alpha_max(32);
    return grpc::Status::OK;
  }

  // Of what is being fetched a quarter is there.
  grpc::Status GetAdapter(grpc::ServerContext* context, const v1::GetAdapterRequest* request,
                          v1::GetAdapterResponse* response) override {
    {
      absl::MutexLock lock(&fake_->mutex_);
      if (!HasKey(*context)) return Unauthenticated();
      fake_->looks_.push_back(*request);
      if (fake_->fetch_delay_ > absl::ZeroDuration()) {
        response->mutable_adapter()->set_fetched_bytes(1 << 20);
        response->mutable_adapter()->set_fetch_bytes_total(4 << 20);
        return grpc::Status::OK;
      }
    }
    v1::RegisteredGeneration* one = response->add_history();
    one->set_number(3);
    one->set_generation("0123456789abcdef");
    one->set_source("folder");
    one->set_current(true);
    return Change(
        request->adapter_id(), [](v1::Adapter*) {}, response->mutable_adapter());
  }

  // Pages of two, so that a client that forgets the second page is found out.
  grpc::Status ListAdapters(grpc::ServerContext* context, const v1::ListAdaptersRequest* request,
                            v1::ListAdaptersResponse* response) override {
    absl::MutexLock lock(&fake_->mutex_);
    if (!HasKey(*context)) return Unauthenticated();
    auto it = fake_->adapters_.lower_bound(request->page_token());
    for (; it != fake_->adapters_.end() && response->adapters_size() < 2; ++it) {
      const bool shown = !it->second.deleted() || request->show_deleted();
      if (shown && absl::StartsWith(it->first, request->prefix())) {
        *response->add_adapters() = it->second;
      }
    }
    if (it != fake_->adapters_.end()) response->set_next_page_token(it->first);
    return grpc::Status::OK;
  }

  grpc::Status LoadAdapter(grpc::ServerContext*, const v1::LoadAdapterRequest* request,
                           v1::LoadAdapterResponse* response) override {
    Fetch();
    return Change(
        request->adapter_id(), [&](v1::Adapter* a) { a->set_tier(request->tier()); },
        response->mutable_adapter());
  }

  grpc::Status EvictAdapter(grpc::ServerContext*, const v1::EvictAdapterRequest* request,
                            v1::EvictAdapterResponse* response) override {
    return Change(
        request->adapter_id(), [&](v1::Adapter* a) { a->set_tier(request->down_to()); },
        response->mutable_adapter());
  }

  grpc::Status PinAdapter(grpc::ServerContext*, const v1::PinAdapterRequest* request,
                          v1::PinAdapterResponse* response) override {
    return Change(
        request->adapter_id(),
        [&](v1::Adapter* a) {
          a->set_pinned(request->tier());
          if (!request->hub_token().empty()) a->set_source("by " + request->hub_token());
        },
        response->mutable_adapter());
  }

  grpc::Status UnpinAdapter(grpc::ServerContext*, const v1::UnpinAdapterRequest* request,
                            v1::UnpinAdapterResponse* response) override {
    return Change(
        request->adapter_id(), [](v1::Adapter* a) { a->clear_pinned(); },
        response->mutable_adapter());
  }

  grpc::Status DeleteAdapter(grpc::ServerContext*, const v1::DeleteAdapterRequest* request,
                             v1::DeleteAdapterResponse*) override {
    absl::MutexLock lock(&fake_->mutex_);
    const auto found = fake_->adapters_.find(request->adapter_id());
    if (found == fake_->adapters_.end()) return Unknown(request->adapter_id());
    if (found->second.source() == found->first) {  // a folder
      found->second.set_deleted(true);
    } else {
      fake_->adapters_.erase(found);
    }
    return grpc::Status::OK;
  }

  grpc::Status WatchAdapters(grpc::ServerContext* context, const v1::WatchAdaptersRequest*,
                             grpc::ServerWriter<v1::WatchAdaptersResponse>* writer) override {
    v1::WatchAdaptersResponse event;
    {
      absl::MutexLock lock(&fake_->mutex_);
      for (const auto& [id, adapter] : fake_->adapters_) *event.add_adapters() = adapter;
    }
    writer->Write(event);
    event.Clear();
    event.add_removed_ids("gone");
    writer->Write(event);
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    return grpc::Status::CANCELLED;
  }

 private:
  static grpc::Status Unauthenticated() {
    return grpc::Status(grpc::UNAUTHENTICATED, "the key is not known");
  }
  bool HasKey(const grpc::ServerContext& context) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(fake_->mutex_) {
    const auto found = context.client_metadata().find("authorization");
    return fake_->key_.empty() || (found != context.client_metadata().end() &&
                                   found->second == absl::StrCat("Bearer ", fake_->key_));
  }
  void Fetch() const {
    absl::ReleasableMutexLock lock(&fake_->mutex_);
    const absl::Duration delay = fake_->fetch_delay_;
    lock.Release();
    absl::SleepFor(delay);
  }

  static grpc::Status Unknown(const std::string& id) {
    return grpc::Status(grpc::NOT_FOUND, absl::StrCat("no adapter ", id));
  }

  grpc::Status Change(const std::string& id, const std::function<void(v1::Adapter*)>& change,
                      v1::Adapter* result) {
    absl::MutexLock lock(&fake_->mutex_);
    const auto found = fake_->adapters_.find(id);
    if (found == fake_->adapters_.end() || found->second.deleted()) return Unknown(id);
    change(&found->second);
    *result = found->second;
    return grpc::Status::OK;
  }

  FakeServer* const fake_;
};

class FakeServer::Status : public v1::ServerService::Service {
 public:
  explicit Status(FakeServer* fake) : fake_(fake) {}

  grpc::Status GetUsage(grpc::ServerContext*, const v1::GetUsageRequest*,
                        v1::GetUsageResponse* response) override {
    response->add_rows()->set_tenant("default");
    return grpc::Status::OK;
  }
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                         v1::GetStatusResponse* response) override {
    absl::MutexLock lock(&fake_->mutex_);
    response->set_state(fake_->state_);
    response->set_version("fake");
    response->set_device("cpu");
    response->mutable_model()->set_name("echo");
    response->mutable_model()->set_vocabulary(1000);
    response->mutable_limits()->set_concurrent_streams(4);
    response->mutable_limits()->set_arena_bytes(int64_t{1} << 40);
    return grpc::Status::OK;
  }

 private:
  FakeServer* const fake_;
};

// --- the server --------------------------------------------------------------------

FakeServer::FakeServer(int port)
    : inference_(std::make_unique<Inference>(this)),
      adapter_service_(std::make_unique<Adapters>(this)),
      status_service_(std::make_unique<Status>(this)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                           &port_);
  builder.RegisterService(inference_.get());
  builder.RegisterService(adapter_service_.get());
  builder.RegisterService(status_service_.get());
  server_ = builder.BuildAndStart();
}

FakeServer::~FakeServer() { Stop(); }

std::string FakeServer::address() const { return absl::StrCat("127.0.0.1:", port_); }

void FakeServer::Stop() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

void FakeServer::set_answer(Answer answer) {
  absl::MutexLock lock(&mutex_);
  answer_ = std::move(answer);
}

void FakeServer::set_chunk_delay(absl::Duration delay) {
  absl::MutexLock lock(&mutex_);
  chunk_delay_ = delay;
}

void FakeServer::set_stream_break(int chunks, grpc::Status status) {
  absl::MutexLock lock(&mutex_);
  break_after_ = chunks;
  break_status_ = std::move(status);
}

void FakeServer::FailNext(int times, grpc::Status status, std::string pushback_ms) {
  absl::MutexLock lock(&mutex_);
  fail_times_ = times;
  fail_status_ = std::move(status);
  fail_pushback_ = std::move(pushback_ms);
}

void FakeServer::set_state(v1::ServingState state) {
  absl::MutexLock lock(&mutex_);
  state_ = state;
}

v1::Adapter FakeServer::AddAdapter(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  v1::Adapter& adapter = adapters_[id];
  adapter.set_adapter_id(id);
  adapter.set_source(id);
  adapter.set_deleted(false);
  adapter.set_generation("0123456789abcdef");
  adapter.set_state(v1::ADAPTER_STATE_AVAILABLE);
  adapter.set_tier(v1::TIER_SOURCE);
  adapter.set_rank_max(16);
  adapter.set_device_bytes(int64_t{3} << 32);
  return adapter;
}

void FakeServer::TellUse() {
  absl::MutexLock lock(&mutex_);
  for (auto& [id, adapter] : adapters_) {
    adapter.set_hit_count(0);
    adapter.set_load_count(0);
    adapter.set_lease_count(0);
    adapter.set_last_used_seconds_ago(-1);
    adapter.set_last_load_ms(0);
  }
}

void FakeServer::WantKey(const std::string& key) {
  absl::MutexLock lock(&mutex_);
  key_ = key;
}

void FakeServer::set_fetch_delay(absl::Duration delay) {
  absl::MutexLock lock(&mutex_);
  fetch_delay_ = delay;
}

std::vector<v1::GetAdapterRequest> FakeServer::looks() const {
  absl::MutexLock lock(&mutex_);
  return looks_;
}

std::vector<v1::GenerateRequest> FakeServer::requests() const {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

std::vector<std::string> FakeServer::adapter_headers() const {
  absl::MutexLock lock(&mutex_);
  return headers_;
}

int FakeServer::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

grpc::Status BadRequestStatus(const std::string& message,
                              const std::map<std::string, std::string>& violations) {
  google::rpc::BadRequest detail;
  for (const auto& [field, description] : violations) {
    auto* violation = detail.add_field_violations();
    violation->set_field(field);
    violation->set_description(description);
  }
  return WithDetail(grpc::INVALID_ARGUMENT, message, detail);
}

grpc::Status RetryLaterStatus(const std::string& message, absl::Duration delay) {
  google::rpc::RetryInfo detail;
  detail.mutable_retry_delay()->set_nanos(absl::ToInt64Nanoseconds(delay));
  return WithDetail(grpc::UNAVAILABLE, message, detail);
}

}  // namespace lorica
