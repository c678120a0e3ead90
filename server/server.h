// One running server: model, arena, adapters, engine thread and the gRPC face.
//
// Start builds it bottom up and returns once it serves; Wait, Drain and Stop take it
// through its end. Owned by one thread; RequestStop and Reload may be called from any.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/config.h"

namespace lorica {

inline constexpr absl::Duration kTickInterval = absl::Milliseconds(500);
// How late the deadline of a request that waits may be noticed.
inline constexpr absl::Duration kDeadlineInterval = absl::Milliseconds(20);
// After the last answer ended or was cut, for its bytes to leave.
inline constexpr absl::Duration kStopGrace = absl::Seconds(2);

class Server {
 public:
  // Loads, listens, warms up. The error says what to do.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Config& config);
  ~Server();

  int port() const;
  int http_port() const;  // 0: HTTP is not served
  // Reads the tenants' file and the TLS files again. Each that has a mistake stays as it
  // was; the error names the first. Any thread.
  absl::Status Reload();
  // Whether there are any.
  bool HasFilesToReload() const;
  // Makes Wait return.
  void RequestStop();
  // OK: somebody asked to stop. Internal: the device is gone; calls have ended UNAVAILABLE.
  absl::Status Wait();
  // NOT_SERVING; after drain_notice_seconds the gRPC port is closed and new calls are
  // Unavailable; running ones end within drain_seconds or are cut with Unavailable.
  void Drain();
  // Ends transport and engine. Idempotent.
  void Stop();

 private:
  struct Parts;
  explicit Server(const Config& config);

  absl::Status Build();
  absl::Status BuildModel();
  const std::string& base_name() const;
  absl::Status BuildText();
  absl::Status BuildAdapters();
  absl::Status RestoreNames();
  absl::Status LoadTenants();
  absl::Status BuildKeys();
  absl::Status CaptureSteps();
  absl::Status BuildGrammars();
  absl::Status BuildEngine();
  absl::Status Listen();
  absl::Status ListenHttp();
  void EngineLoop();
  void Fail(const absl::Status& device);

  const Config config_;
  std::unique_ptr<Parts> parts_;
  std::thread engine_thread_;
  std::atomic<bool> stop_engine_{false};
  absl::Mutex mutex_;
  bool stop_requested_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
