// lorica.v1.AdapterService over the catalog and the pool.
//
// Whatever may read an adapter's content runs on the pool for that; moves between tiers are asked
// of the pool and answered from its callbacks, so no thread waits for a load. A wait ends with the
// client's deadline, at most kAdapterWaitMax. Thread-safe; everything given outlives it and its
// calls.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/adapter_catalog.h"
#include "lorica/v1/adapters.pb.h"
#include "server/api/adapter_watch.h"
#include "server/api/call_pump.h"
#include "server/api/pin_book.h"
#include "server/api/reply.h"
#include "server/api/tenants.h"

namespace lorica {

inline constexpr absl::Duration kAdapterWaitMax = absl::Seconds(60);
inline constexpr int kListPageDefault = 100;
inline constexpr int kListPageMax = 1000;

class AdapterService final {
 public:
  AdapterService(Gateway* gateway, CallPools pools, int64_t block_bytes);

  // Ends the watches; new ones are Unavailable.
  void StartDrain();

  grpc::ServerUnaryReactor* RegisterAdapter(grpc::CallbackServerContext* context,
                                            const v1::RegisterAdapterRequest* request,
                                            v1::RegisterAdapterResponse* response);
  grpc::ServerUnaryReactor* MergeAdapters(grpc::CallbackServerContext* context,
                                          const v1::MergeAdaptersRequest* request,
                                          v1::MergeAdaptersResponse* response);
  grpc::ServerUnaryReactor* RollbackAdapter(grpc::CallbackServerContext* context,
                                            const v1::RollbackAdapterRequest* request,
                                            v1::RollbackAdapterResponse* response);
  grpc::ServerUnaryReactor* SetAlias(grpc::CallbackServerContext* context,
                                     const v1::SetAliasRequest* request,
                                     v1::SetAliasResponse* response);
  grpc::ServerUnaryReactor* CheckAdapter(grpc::CallbackServerContext* context,
                                         const v1::CheckAdapterRequest* request,
                                         v1::CheckAdapterResponse* response);
  grpc::ServerUnaryReactor* GetAdapter(grpc::CallbackServerContext* context,
                                       const v1::GetAdapterRequest* request,
                                       v1::GetAdapterResponse* response);
  grpc::ServerUnaryReactor* ListAdapters(grpc::CallbackServerContext* context,
                                         const v1::ListAdaptersRequest* request,
                                         v1::ListAdaptersResponse* response);
  grpc::ServerUnaryReactor* LoadAdapter(grpc::CallbackServerContext* context,
                                        const v1::LoadAdapterRequest* request,
                                        v1::LoadAdapterResponse* response);
  grpc::ServerUnaryReactor* EvictAdapter(grpc::CallbackServerContext* context,
                                         const v1::EvictAdapterRequest* request,
                                         v1::EvictAdapterResponse* response);
  grpc::ServerUnaryReactor* PinAdapter(grpc::CallbackServerContext* context,
                                       const v1::PinAdapterRequest* request,
                                       v1::PinAdapterResponse* response);
  grpc::ServerUnaryReactor* UnpinAdapter(grpc::CallbackServerContext* context,
                                         const v1::UnpinAdapterRequest* request,
                                         v1::UnpinAdapterResponse* response);
  grpc::ServerUnaryReactor* DeleteAdapter(grpc::CallbackServerContext* context,
                                          const v1::DeleteAdapterRequest* request,
                                          v1::DeleteAdapterResponse* response);
  grpc::ServerWriteReactor<v1::WatchAdaptersResponse>* WatchAdapters(
      grpc::CallbackServerContext* context, const v1::WatchAdaptersRequest* request);

 private:
  using Done = std::function<void(absl::Status)>;
  // One call: which, about what, by whom.
  struct Job {
    std::string method;
    std::string adapter_id;
    std::shared_ptr<Reply> reply;
    Credentials credentials;
    TenantRole role = TenantRole::kUser;  // that it takes
    std::string tenant;                   // once it is known,
    bool is_operator = false;             // and whether it may see all tenants' use
    std::string fetch;                    // an adapter that has to be here first, or none
    std::optional<AdapterCatalog::RegisterOptions> source;  // `fetch` is what a name is made of
    std::string hub_token;                                  // to fetch it with; never logged
    std::shared_ptr<const MergeChoice> merge;               // or a merge that has to be made first
    bool is_quick = false;                                  // reads no adapter's content
    bool is_check = false;                                  // of `fetch`, whose head is enough
    GenerationPtr found;                                    // what came before the work,
    absl::Status missed;                                    // or why it did not
  };
  using Work = std::function<absl::Status(const Job& job)>;

  // Finds out who calls and runs `work` on the pool for adapters, or the other one, once `fetch` is
  // here or cannot be; its error is the answer.
  grpc::ServerUnaryReactor* Run(Job job, Work work);
  absl::StatusOr<TenantPtr> Allow(const Credentials& credentials, TenantRole role) const;
  static void Refuse(const Job& job, const absl::Status& status);
  absl::StatusOr<FoundAdapter> FindFirst(const Job& job) const;
  static void DoWork(const Job& job, const Work& work);
  WorkPool* PoolOf(const Job& job) const { return job.is_quick ? pools_.work : pools_.adapters; }
  // Now, or when the adapter is here.
  void DoWorkOnceFound(Job job, const Work& work);
  // What the name stands for, as it was found for the call.
  absl::StatusOr<GenerationPtr> Wanted(const Job& job) const;
  // The adapter as it is by now, whatever its name means by now where `of` says what was done.
  template <typename Response>
  absl::Status AnswerNow(const Job& job, Response* response, const GenerationPtr& of = nullptr);
  // A callback for the pool that answers so.
  template <typename Response>
  Done AnswerWithAdapter(const Job& job, Response* response, const GenerationPtr& of = nullptr);
  // Of what was fetched, on the pool for adapters; no thread of it waits.
  void DeleteOnceEvicted(const Job& job, const std::string& digest);
  void DeleteOnceLetGo(const Job& job, absl::Time end);
  absl::Status AdmitWatch(absl::Duration interval, const std::shared_ptr<AdapterWatch>& watch);

  Gateway* const gateway_;
  AdapterCatalog* const catalog_;
  AdapterPool* const pool_;
  const CallPools pools_;
  const int64_t block_bytes_;
  // The pool may still hold callbacks when the service is gone: they look here first.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::weak_ptr<AdapterWatch>> watches_ ABSL_GUARDED_BY(mutex_);
  PinBook pins_;
};

}  // namespace lorica
