#include "server/api/adapter_service.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "grpcpp/alarm.h"
#include "server/api/adapter_info.h"
#include "server/api/field_error.h"
#include "server/api/refusal_log.h"
#include "server/api/request_checks.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

// A reply that gives up by itself.
class WaitReply final : public Reply {
 public:
  void LimitWait() {
    const std::weak_ptr<Reply> weak = weak_from_this();
    alarm_.Set(std::chrono::system_clock::now() + absl::ToChronoSeconds(kAdapterWaitMax),
               [weak](bool expired) {
                 const auto self = weak.lock();
                 if (self == nullptr || !expired) return;
                 self->Fail(absl::DeadlineExceededError(absl::StrCat(
                     "the adapter was not there after ", absl::FormatDuration(kAdapterWaitMax))));
               });
  }
  void OnCancel() override {
    Reply::OnCancel();
    Fail(absl::CancelledError("the client cancelled the call"));
  }

 private:
  grpc::Alarm alarm_;
};

std::shared_ptr<Reply> MakeWaitReply() {
  auto reply = Reply::Make<WaitReply>();
  reply->LimitWait();
  return reply;
}

constexpr absl::Duration kLetGoMax = absl::Seconds(1);
constexpr absl::Duration kLetGoPoll = absl::Milliseconds(5);

absl::Status CheckId(const std::string& id) { return CheckNamed("adapter_id", id); }

// Where Load and Pin may bring an adapter.
absl::StatusOr<AdapterTier> UpperTier(v1::Tier tier) {
  if (tier == v1::TIER_UNSPECIFIED || tier == v1::TIER_DEVICE) return AdapterTier::kDevice;
  if (tier == v1::TIER_HOST) return AdapterTier::kHost;
  return FieldError("tier", "must be TIER_DEVICE or TIER_HOST");
}

absl::StatusOr<AdapterTier> LowerTier(v1::Tier tier) {
  if (tier == v1::TIER_UNSPECIFIED || tier == v1::TIER_SOURCE) return AdapterTier::kSource;
  if (tier == v1::TIER_HOST) return AdapterTier::kHost;
  return FieldError("down_to", "must be TIER_SOURCE or TIER_HOST");
}

// A merge as the message asks for it; what it names is looked at later.
absl::StatusOr<MergeChoice> MergeChoiceOf(const v1::MergeAdaptersRequest& request) {
  MergeChoice choice;
  if (request.method() == v1::MERGE_METHOD_UNSPECIFIED ||
      !v1::MergeMethod_IsValid(request.method())) {
    return FieldError("method", "is missing or unknown");
  }
  if (!v1::MajoritySign_IsValid(request.majority_sign())) {
    return FieldError("majority_sign", "is unknown");
  }
  choice.rule.method = static_cast<MergeMethod>(request.method() - v1::MERGE_METHOD_LINEAR);
  choice.rule.density = request.density();
  choice.rule.seed = request.seed();
  if (request.majority_sign() == v1::MAJORITY_SIGN_FREQUENCY) {
    choice.rule.majority_sign = MajoritySign::kFrequency;
  }
  for (const v1::MergePart& part : request.parts()) {
    const std::string field = absl::StrCat("parts[", choice.parts.size(), "].adapter_id");
    if (absl::Status s = CheckNamed(field, part.adapter_id()); !s.ok()) return s;
    choice.parts.emplace_back(part.adapter_id(), part.weight());
  }
  return choice;
}

void WarnOfPins(const PoolStats& stats) {
  for (const std::string& text :
       {PinsWarning(stats.device, "device"), PinsWarning(stats.host, "host")}) {
    if (!text.empty()) spdlog::warn("{}", text);
  }
}

static_assert(v1::MERGE_METHOD_MAGNITUDE_PRUNE - v1::MERGE_METHOD_LINEAR ==
              static_cast<int>(MergeMethod::kMagnitudePrune));

}  // namespace

AdapterService::AdapterService(Gateway* gateway, CallPools pools, int64_t block_bytes)
    : gateway_(gateway),
      catalog_(gateway->catalog()),
      pool_(gateway->pool()),
      pools_(pools),
      block_bytes_(block_bytes),
      pins_(catalog_, pool_) {}

void AdapterService::Refuse(const Job& job, const absl::Status& status) {
  LogRefusal(job.method, job.adapter_id, status, SteadyNow());
  job.reply->Fail(status);
}

absl::StatusOr<TenantPtr> AdapterService::Allow(const Credentials& credentials,
                                                TenantRole role) const {
  absl::StatusOr<TenantPtr> tenant = gateway_->Authenticate(credentials);
  if (!tenant.ok()) return tenant;
  if (absl::Status s = CheckRole(**tenant, role); !s.ok()) return s;
  return tenant;
}

grpc::ServerUnaryReactor* AdapterService::Run(Job job, Work work) {
  Reply* const reactor = job.reply.get();
  const absl::StatusOr<TenantPtr> tenant = Allow(job.credentials, job.role);
  if (!tenant.ok()) {
    Refuse(job, tenant.status());
    return reactor;
  }
  job.tenant = (*tenant)->name;
  job.is_operator = (*tenant)->role == TenantRole::kOperator;
  job.credentials = {};
  const bool taken =
      PoolOf(job)->TryRun([this, job, work = std::move(work)] { DoWorkOnceFound(job, work); });
  if (!taken) Refuse(job, TryLater("the server has too many calls to look at; try again"));
  return reactor;
}

void AdapterService::DoWork(const Job& job, const Work& work) {
  const absl::Status status =
      job.reply->cancelled() ? absl::CancelledError("the client cancelled the call") : work(job);
  if (!status.ok()) Refuse(job, status);
}

// What the work needs to be here; neither generation nor ticket where it needs nothing.
absl::StatusOr<FoundAdapter> AdapterService::FindFirst(const Job& job) const {
  if (job.merge != nullptr) return catalog_->FindMerge(job.tenant, *job.merge, job.hub_token);
  if (job.is_check) return catalog_->FindHead(job.tenant, job.fetch, job.hub_token);
  if (job.source) return catalog_->FindSource(job.tenant, job.fetch, *job.source);
  if (job.fetch.empty() || !catalog_->MayFetch(job.tenant, job.fetch)) return FoundAdapter();
  return catalog_->Find(job.tenant, job.fetch, job.hub_token);
}

void AdapterService::DoWorkOnceFound(Job job, const Work& work) {
  const auto found = FindFirst(job);
  if (!found.ok() || found->ticket == nullptr) {
    // Holds it until the work has found it again: nobody else may.
    if (found.ok()) job.found = found->generation;
    return DoWork(job, work);
  }
  found->ticket->WhenDone([this, alive = std::weak_ptr<bool>(alive_), job,
                           work](const absl::StatusOr<GenerationPtr>& fetched) {
    if (alive.expired()) return;
    Job ready = job;
    if (fetched.ok()) ready.found = *fetched;
    ready.missed = fetched.status();
    pools_.adapters->RunAdmitted([ready, work] { DoWork(ready, work); });
  });
}

absl::StatusOr<GenerationPtr> AdapterService::Wanted(const Job& job) const {
  if (job.found != nullptr) return job.found;
  return catalog_->Resolve(job.tenant, job.adapter_id, job.hub_token);
}

// The adapter as it is now; on the pool for adapters.
template <typename Response>
absl::Status AdapterService::AnswerNow(const Job& job, Response* response,
                                       const GenerationPtr& of) {
  auto adapter = DescribeAdapter(job.tenant, job.adapter_id, catalog_, *pool_, SteadyNow(),
                                 job.is_operator, job.hub_token, of);
  if (!adapter.ok()) return adapter.status();
  job.reply->Succeed([&] { *response->mutable_adapter() = *std::move(adapter); });
  return absl::OkStatus();
}

template <typename Response>
AdapterService::Done AdapterService::AnswerWithAdapter(const Job& job, Response* response,
                                                       const GenerationPtr& of) {
  return [this, alive = std::weak_ptr<bool>(alive_), job, response, of](const absl::Status& moved) {
    if (alive.expired()) return;
    pools_.adapters->RunAdmitted([this, job, response, of, moved] {
      const absl::Status status = moved.ok() ? AnswerNow(job, response, of) : moved;
      if (!status.ok()) Refuse(job, status);
    });
  };
}

grpc::ServerUnaryReactor* AdapterService::RegisterAdapter(grpc::CallbackServerContext* context,
                                                          const v1::RegisterAdapterRequest* request,
                                                          v1::RegisterAdapterResponse* response) {
  Job call{"RegisterAdapter", request->adapter_id(), MakeWaitReply(), CredentialsOf(*context),
           TenantRole::kManager};
  call.fetch = request->source().empty() ? request->adapter_id() : request->source();
  call.source = AdapterCatalog::RegisterOptions{
      request->source(), request->replace(), request->expected_generation(), request->hub_token()};
  return Run(call, [this, response](const Job& job) {
    AdapterCatalog::RegisterOptions options = *job.source;
    options.found = job.found;
    absl::Status status = CheckId(job.adapter_id);
    if (status.ok() && !options.location.empty()) status = CheckSource("source", options.location);
    status.Update(CheckExpectedGeneration(options.expected_generation));
    if (!status.ok()) return status;
    const auto registered = catalog_->Register(job.tenant, job.adapter_id, options);
    if (!registered.ok()) return registered.status();
    auto adapter = DescribeAdapter(job.tenant, job.adapter_id, catalog_, *pool_, SteadyNow(),
                                   job.is_operator, "", registered->generation);
    if (!adapter.ok()) return adapter.status();
    job.reply->Succeed([&] {
      *response->mutable_adapter() = *std::move(adapter);
      response->set_created(registered->created);
      response->set_replaced(registered->replaced);
    });
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterService::MergeAdapters(grpc::CallbackServerContext* context,
                                                        const v1::MergeAdaptersRequest* request,
                                                        v1::MergeAdaptersResponse* response) {
  Job call{"MergeAdapters", request->adapter_id(), MakeWaitReply(), CredentialsOf(*context),
           TenantRole::kManager};
  call.hub_token = request->hub_token();
  const absl::StatusOr<MergeChoice> choice = MergeChoiceOf(*request);
  if (choice.ok()) call.merge = std::make_shared<const MergeChoice>(*choice);
  return Run(call, [this, response, wrong = choice.status(),
                    options = AdapterCatalog::RegisterOptions{
                        "", request->replace(), request->expected_generation(),
                        request->hub_token()}](const Job& job) {
    absl::Status status = CheckId(job.adapter_id);
    status.Update(wrong);
    status.Update(CheckExpectedGeneration(options.expected_generation));
    // Looked for again, a part that cannot be read would only begin another look.
    status.Update(job.missed);
    if (!status.ok()) return status;
    const auto merged = catalog_->RegisterMerge(job.tenant, job.adapter_id, *job.merge, options);
    if (!merged.ok()) return merged.status();
    auto adapter = DescribeAdapter(job.tenant, job.adapter_id, catalog_, *pool_, SteadyNow(),
                                   job.is_operator, "", merged->generation);
    if (!adapter.ok()) return adapter.status();
    job.reply->Succeed([&] {
      *response->mutable_adapter() = *std::move(adapter);
      response->set_created(merged->created);
      response->set_replaced(merged->replaced);
    });
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterService::RollbackAdapter(grpc::CallbackServerContext* context,
                                                          const v1::RollbackAdapterRequest* request,
                                                          v1::RollbackAdapterResponse* response) {
  const Job call{"RollbackAdapter", request->adapter_id(), Reply::Make(), CredentialsOf(*context),
                 TenantRole::kManager};
  return Run(call, [this, response, to = request->generation(),
                    expected = request->expected_generation()](const Job& job) {
    absl::Status status = CheckId(job.adapter_id);
    status.Update(CheckExpectedGeneration(expected));
    if (!status.ok()) return status;
    const auto moved = catalog_->Rollback(job.tenant, job.adapter_id, to, expected);
    return moved.ok() ? AnswerNow(job, response, *moved) : moved.status();
  });
}

grpc::ServerUnaryReactor* AdapterService::SetAlias(grpc::CallbackServerContext* context,
                                                   const v1::SetAliasRequest* request,
                                                   v1::SetAliasResponse* response) {
  Job call{"SetAlias", request->alias(), MakeWaitReply(), CredentialsOf(*context),
           TenantRole::kManager};
  call.fetch = request->adapter_id();
  call.hub_token = request->hub_token();
  return Run(call, [this, response, target = request->adapter_id(),
                    options = AdapterCatalog::RegisterOptions{
                        "", request->replace(), request->expected_generation(),
                        request->hub_token()}](const Job& job) {
    AdapterCatalog::RegisterOptions found = options;
    found.found = job.found;
    absl::Status status = CheckId(target);
    if (status.ok()) status = CheckNamed("alias", job.adapter_id);
    status.Update(CheckExpectedGeneration(found.expected_generation));
    if (status.ok()) status = catalog_->SetAlias(job.tenant, job.adapter_id, target, found);
    return status.ok() ? AnswerNow(job, response) : status;
  });
}

grpc::ServerUnaryReactor* AdapterService::CheckAdapter(grpc::CallbackServerContext* context,
                                                       const v1::CheckAdapterRequest* request,
                                                       v1::CheckAdapterResponse* response) {
  Job call{"CheckAdapter", request->source(), MakeWaitReply(), CredentialsOf(*context),
           TenantRole::kUser};
  call.fetch = request->source();
  call.hub_token = request->hub_token();
  call.is_check = true;
  return Run(call, [this, response](const Job& job) {
    const absl::Status status = CheckSource("source", job.adapter_id);
    if (!status.ok()) return status;
    const auto plan = catalog_->Check(job.tenant, job.adapter_id, job.hub_token, job.found);
    auto explained = ExplainAdapter(job.adapter_id, plan, block_bytes_);
    if (!explained.ok()) return explained.status();
    job.reply->Succeed([&] { *response = *std::move(explained); });
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterService::GetAdapter(grpc::CallbackServerContext* context,
                                                     const v1::GetAdapterRequest* request,
                                                     v1::GetAdapterResponse* response) {
  Job call{"GetAdapter", request->adapter_id(), Reply::Make(), CredentialsOf(*context),
           TenantRole::kUser};
  call.hub_token = request->hub_token();
  return Run(call, [this, response](const Job& job) {
    // Whoever registers from a place asks there how far it is.
    const bool is_place = CheckSource("adapter_id", job.adapter_id).ok();
    const absl::Status status = is_place ? absl::OkStatus() : CheckId(job.adapter_id);
    if (!status.ok()) return status;
    auto adapter = DescribeAdapter(job.tenant, job.adapter_id, catalog_, *pool_, SteadyNow(),
                                   job.is_operator, job.hub_token);
    if (!adapter.ok()) return adapter.status();
    const auto history = catalog_->History(job.tenant, job.adapter_id);
    job.reply->Succeed([&] {
      *response->mutable_adapter() = *std::move(adapter);
      if (history.ok()) FillHistory(*history, response);
    });
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterService::ListAdapters(grpc::CallbackServerContext* context,
                                                       const v1::ListAdaptersRequest* request,
                                                       v1::ListAdaptersResponse* response) {
  Job call{"ListAdapters", "", Reply::Make(), CredentialsOf(*context), TenantRole::kUser};
  call.is_quick = true;
  return Run(call, [this, response, request = *request](const Job& job) {
    if (request.page_size() < 0 || request.page_size() > kListPageMax) {
      return FieldError("page_size", absl::StrCat("must be from 0 to ", kListPageMax));
    }
    if (request.prefix().size() > kAdapterIdBytesMax) {
      return FieldError("prefix", "is longer than an adapter id can be");
    }
    if (request.page_token().size() > kAdapterIdBytesMax) {
      return FieldError("page_token", "is none that this server gave out");
    }
    const size_t page = request.page_size() == 0 ? kListPageDefault : request.page_size();
    const auto entries = catalog_->List(job.tenant, request.prefix(), request.page_token(),
                                        static_cast<int>(page) + 1, request.show_deleted());
    if (!entries.ok()) return entries.status();
    job.reply->Succeed([&] {
      for (size_t i = 0; i < entries->size() && i < page; ++i) {
        *response->add_adapters() =
            DescribeEntry((*entries)[i], *pool_, SteadyNow(), job.is_operator);
      }
      if (entries->size() > page) {
        response->set_next_page_token((*entries)[page - 1].adapter_id);
      }
    });
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterService::LoadAdapter(grpc::CallbackServerContext* context,
                                                      const v1::LoadAdapterRequest* request,
                                                      v1::LoadAdapterResponse* response) {
  Job call{"LoadAdapter", request->adapter_id(), MakeWaitReply(), CredentialsOf(*context),
           TenantRole::kManager};
  call.fetch = request->adapter_id();
  call.hub_token = request->hub_token();
  return Run(call, [this, response, wanted = request->tier()](const Job& job) {
    const absl::Status status = CheckId(job.adapter_id);
    if (!status.ok()) return status;
    const auto tier = UpperTier(wanted);
    if (!tier.ok()) return tier.status();
    const auto generation = Wanted(job);
    if (!generation.ok()) return generation.status();
    pool_->Load(*generation, *tier, AnswerWithAdapter(job, response, *generation));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterService::PinAdapter(grpc::CallbackServerContext* context,
                                                     const v1::PinAdapterRequest* request,
                                                     v1::PinAdapterResponse* response) {
  Job call{"PinAdapter", request->adapter_id(), MakeWaitReply(), CredentialsOf(*context),
           TenantRole::kOperator};
  call.fetch = request->adapter_id();
  call.hub_token = request->hub_token();
  return Run(call, [this, response, wanted = request->tier()](const Job& job) {
    const absl::Status status = CheckId(job.adapter_id);
    if (!status.ok()) return status;
    const auto tier = UpperTier(wanted);
    if (!tier.ok()) return tier.status();
    const auto generation = Wanted(job);
    if (!generation.ok()) return generation.status();
    Done done = AnswerWithAdapter(job, response, *generation);
    pins_.Pin({job.tenant, job.adapter_id, job.hub_token}, *generation, *tier,
              [pool = pool_, done = std::move(done)](const absl::Status& s) {
                if (s.ok()) WarnOfPins(pool->stats());
                done(s);
              });
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterService::EvictAdapter(grpc::CallbackServerContext* context,
                                                       const v1::EvictAdapterRequest* request,
                                                       v1::EvictAdapterResponse* response) {
  Job call{"EvictAdapter", request->adapter_id(), MakeWaitReply(), CredentialsOf(*context),
           TenantRole::kOperator};
  call.hub_token = request->hub_token();
  return Run(call,
             [this, response, wanted = request->down_to(), wait = request->wait()](const Job& job) {
               const absl::Status status = CheckId(job.adapter_id);
               if (!status.ok()) return status;
               const auto tier = LowerTier(wanted);
               if (!tier.ok()) return tier.status();
               const auto entry = catalog_->Get(job.tenant, job.adapter_id, job.hub_token);
               if (!entry.ok()) return entry.status();
               Done done = AnswerWithAdapter(job, response);
               const std::string digest = DigestOf(*entry);
               if (digest.empty()) {
                 done(absl::OkStatus());  // nobody has looked at it, so it is nowhere
               } else {
                 pool_->Evict(digest, *tier, wait, std::move(done));
               }
               return absl::OkStatus();
             });
}

grpc::ServerUnaryReactor* AdapterService::UnpinAdapter(grpc::CallbackServerContext* context,
                                                       const v1::UnpinAdapterRequest* request,
                                                       v1::UnpinAdapterResponse* response) {
  Job call{"UnpinAdapter", request->adapter_id(), MakeWaitReply(), CredentialsOf(*context),
           TenantRole::kOperator};
  call.hub_token = request->hub_token();
  return Run(call, [this, response](const Job& job) {
    const absl::Status status = CheckId(job.adapter_id);
    if (!status.ok()) return status;
    const auto entry = catalog_->Get(job.tenant, job.adapter_id, job.hub_token);
    if (!entry.ok()) return entry.status();
    Done done = AnswerWithAdapter(job, response);
    pins_.Unpin({job.tenant, job.adapter_id, job.hub_token}, DigestOf(*entry), std::move(done));
    return absl::OkStatus();
  });
}

// Threads whose call has just been answered may hold the adapter for a moment longer.
void AdapterService::DeleteOnceLetGo(const Job& job, absl::Time end) {
  const absl::Status status =
      catalog_->Delete(job.tenant, job.adapter_id, job.hub_token, job.is_operator);
  if (status.ok()) return job.reply->Succeed([] {});
  if (!absl::IsFailedPrecondition(status) || SteadyNow() >= end) return Refuse(job, status);
  pools_.adapters->RunAdmittedAfter(kLetGoPoll, [this, job, end] { DeleteOnceLetGo(job, end); });
}

// A copy in memory that nobody uses holds it on the disk.
void AdapterService::DeleteOnceEvicted(const Job& job, const std::string& digest) {
  pool_->Evict(digest, AdapterTier::kSource, /*wait=*/false,
               [this, alive = std::weak_ptr<bool>(alive_), job](const absl::Status& evicted) {
                 if (alive.expired()) return;
                 pools_.adapters->RunAdmitted([this, job, evicted] {
                   if (!evicted.ok()) return Refuse(job, evicted);
                   DeleteOnceLetGo(job, SteadyNow() + kLetGoMax);
                 });
               });
}

grpc::ServerUnaryReactor* AdapterService::DeleteAdapter(grpc::CallbackServerContext* context,
                                                        const v1::DeleteAdapterRequest* request,
                                                        v1::DeleteAdapterResponse*) {
  Job call{"DeleteAdapter", request->adapter_id(), MakeWaitReply(), CredentialsOf(*context),
           TenantRole::kManager};
  call.hub_token = request->hub_token();
  return Run(call, [this](const Job& job) {
    if (absl::Status s = CheckId(job.adapter_id); !s.ok()) return s;
    const std::string fetched = catalog_->FetchedDigest(job.tenant, job.adapter_id, job.hub_token);
    const absl::Status status =
        catalog_->Delete(job.tenant, job.adapter_id, job.hub_token, job.is_operator);
    if (status.ok()) {
      job.reply->Succeed([] {});
    } else if (absl::IsFailedPrecondition(status) && !fetched.empty()) {
      DeleteOnceEvicted(job, fetched);
      return absl::OkStatus();
    }
    return status;
  });
}

absl::Status AdapterService::AdmitWatch(absl::Duration interval,
                                        const std::shared_ptr<AdapterWatch>& watch) {
  if (interval < kWatchIntervalMin || interval > kWatchIntervalMax) {
    return FieldError(
        "interval_ms",
        absl::StrCat("must be 0 or from ", absl::ToInt64Milliseconds(kWatchIntervalMin), " to ",
                     absl::ToInt64Milliseconds(kWatchIntervalMax)));
  }
  absl::MutexLock lock(&mutex_);
  if (draining_) return TryLater("the server is shutting down; watch another one");
  std::erase_if(watches_, [](const auto& weak) { return weak.expired(); });
  if (watches_.size() >= kWatchersMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", kWatchersMax, " watches already; end one first"));
  }
  watches_.push_back(watch);
  return absl::OkStatus();
}

grpc::ServerWriteReactor<v1::WatchAdaptersResponse>* AdapterService::WatchAdapters(
    grpc::CallbackServerContext* context, const v1::WatchAdaptersRequest* request) {
  const absl::Duration interval = request->interval_ms() == 0
                                      ? kWatchIntervalDefault
                                      : absl::Milliseconds(request->interval_ms());
  const absl::StatusOr<TenantPtr> tenant = Allow(CredentialsOf(*context), TenantRole::kUser);
  auto watch = std::make_shared<AdapterWatch>(tenant.ok() ? **tenant : Tenant(), catalog_, pool_,
                                              pools_, interval);
  const absl::Status status = tenant.ok() ? AdmitWatch(interval, watch) : tenant.status();
  if (!status.ok()) {
    LogRefusal("WatchAdapters", "", status, SteadyNow());
    watch->Refuse(status);
    return watch.get();
  }
  watch->Start();
  return watch.get();
}

void AdapterService::StartDrain() {
  std::vector<std::weak_ptr<AdapterWatch>> watches;
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    watches.swap(watches_);
  }
  for (const auto& weak : watches) {
    if (const auto watch = weak.lock()) watch->End(TryLater("the server is shutting down"));
  }
}

}  // namespace lorica
