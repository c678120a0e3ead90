// One WatchAdapters stream: a snapshot, then what changed since the last look.
//
// An alarm starts each look; the look itself reads the catalog on the work pool. Uses
// and hits alone are no change. Shared by gRPC and our own threads like Reply. Ends when
// the client goes or with End.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/adapter_catalog.h"
#include "adapters/adapter_pool.h"
#include "grpcpp/alarm.h"
#include "grpcpp/support/server_callback.h"
#include "lorica/v1/adapters.pb.h"
#include "server/api/call_pump.h"

namespace lorica {

inline constexpr int kWatchersMax = 64;
inline constexpr int kWatchedAdaptersMax = 20'000;
inline constexpr int kWatchMessageAdapters = 500;  // of one message
inline constexpr absl::Duration kWatchIntervalDefault = absl::Milliseconds(500);
inline constexpr absl::Duration kWatchIntervalMin = absl::Milliseconds(50);
inline constexpr absl::Duration kWatchIntervalMax = absl::Minutes(10);

class AdapterWatch final : public grpc::ServerWriteReactor<v1::WatchAdaptersResponse>,
                           public std::enable_shared_from_this<AdapterWatch> {
 public:
  AdapterWatch(const Tenant& tenant, AdapterCatalog* catalog, AdapterPool* pool, CallPools pools,
               absl::Duration interval);

  void Start();
  // Instead of Start.
  void Refuse(const absl::Status& status);
  // Ends the stream with `status` as soon as no write is under way.
  void End(const absl::Status& status);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Look();
  absl::Status Compare();
  void Next();  // write, wait or finish
  void FinishOnce(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string tenant_;
  const bool with_use_;
  AdapterCatalog* const catalog_;
  AdapterPool* const pool_;
  const CallPools pools_;
  const absl::Duration interval_;

  // Looks and writes take turns, so these need no lock.
  std::map<std::string, std::string> seen_;  // id -> what was sent, without uses and hits
  std::deque<v1::WatchAdaptersResponse> outbox_;
  v1::WatchAdaptersResponse writing_;
  bool first_look_ = true;

  absl::Mutex mutex_;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Alarm alarm_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<AdapterWatch> self_;
};

}  // namespace lorica
