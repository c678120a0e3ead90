// Drives one Generate call for a reactor: admission on the work pool, then whatever the
// answer has, piece by piece, on the delivery pool.
//
// A reactor derives from it and says what to do with a refusal and with a piece; after
// a piece it calls Continue when it is ready for the next. Everything after Begin runs
// one piece at a time. Cancel may come from any thread at any moment.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/server_context.h"
#include "server/api/gateway.h"
#include "server/api/work_pool.h"

namespace lorica {

// What the services of one server share. All outlive the services.
struct CallPools {
  WorkPool* work = nullptr;      // templates, tokenising, listing folders
  WorkPool* delivery = nullptr;  // short pieces of admitted calls
  WorkPool* adapters = nullptr;  // may take long: hashing, copying and checking adapters
};

class CallPump {
 public:
  CallPump(Gateway* gateway, CallPools pools, std::string method)
      : gateway_(gateway), pools_(pools), method_(std::move(method)) {}
  virtual ~CallPump() = default;

 protected:
  // A share of the object that gRPC and this pump both use.
  virtual std::shared_ptr<CallPump> Share() = 0;
  virtual void OnRefused(const absl::Status& status) = 0;
  virtual void OnPiece(AnswerChunk chunk, std::optional<AnswerEnd> end) = 0;
  virtual void OnStalled() = 0;

  // Once.
  void Begin(GenerateCall call);
  void Continue();
  void CancelCall();

 private:
  void Admit(const GenerateCall& call);
  void Refuse(const absl::Status& status);
  void Pump();
  // Of a call that was cancelled: its deadline passed, or else its client took it back.
  bool IsLate() const;

  Gateway* const gateway_;
  const CallPools pools_;
  const std::string method_;
  std::string adapter_ids_;  // for the log; written by Begin, as is
  absl::Time deadline_;
  absl::Mutex mutex_;
  std::shared_ptr<Answer> answer_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

// What the caller of any method shows. Thread: the handler's.
Credentials CredentialsOf(const grpc::CallbackServerContext& context);

// Headers and deadline of a call. Thread: the handler's.
void FillFromContext(const grpc::CallbackServerContext& context, GenerateCall* call);

}  // namespace lorica
