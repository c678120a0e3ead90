// The three services of Lorica without a model: answers are echoes, errors and delays
// are scripted by the test. For tests of whatever talks to a server.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "lorica/v1/adapters.grpc.pb.h"
#include "lorica/v1/inference.grpc.pb.h"
#include "lorica/v1/server.grpc.pb.h"

namespace lorica {

// Listens on a free port of 127.0.0.1 from construction to Stop. Thread-safe.
//
// The echo: one token a byte of the prompt (of the last message, or the token ids given),
// at most max_tokens; a generation of token ids repeats them until max_tokens. The stream
// sends one chunk a token.
class FakeServer {
 public:
  // Replaces the echo. A stream sends the response's tokens and text split by bytes.
  using Answer =
      std::function<grpc::Status(const v1::GenerateRequest& request, grpc::ServerContext* context,
                                 v1::GenerateResponse* response)>;

  // `port` 0 picks a free one.
  explicit FakeServer(int port = 0);
  ~FakeServer();

  std::string address() const;
  int port() const { return port_; }
  void Stop();

  void set_answer(Answer answer);
  // Waits between the chunks of a stream.
  void set_chunk_delay(absl::Duration delay);
  // The stream breaks off with `status` after so many chunks; negative: never.
  void set_stream_break(int chunks, grpc::Status status);
  // The next `times` generations fail before their first token.
  void FailNext(int times, grpc::Status status, std::string pushback_ms = "");
  void set_state(v1::ServingState state);

  v1::Adapter AddAdapter(const std::string& id);
  // Of all there are, as an operator is told: never used.
  void TellUse();
  // From then on adapters are listed and looked at with this key alone.
  void WantKey(const std::string& key);
  // What fetches takes so long.
  void set_fetch_delay(absl::Duration delay);

  std::vector<v1::GenerateRequest> requests() const;
  std::vector<std::string> adapter_headers() const;  // one a generation, "" without
  std::vector<v1::GetAdapterRequest> looks() const;
  int cancelled() const;  // streams that ended because the client went away

 private:
  class Inference;
  class Adapters;
  class Status;

  mutable absl::Mutex mutex_;
  Answer answer_ ABSL_GUARDED_BY(mutex_);
  absl::Duration chunk_delay_ ABSL_GUARDED_BY(mutex_);
  int break_after_ ABSL_GUARDED_BY(mutex_) = -1;
  grpc::Status break_status_ ABSL_GUARDED_BY(mutex_);
  int fail_times_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::Status fail_status_ ABSL_GUARDED_BY(mutex_);
  std::string fail_pushback_ ABSL_GUARDED_BY(mutex_);
  v1::ServingState state_ ABSL_GUARDED_BY(mutex_) = v1::SERVING_STATE_SERVING;
  std::map<std::string, v1::Adapter> adapters_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::GenerateRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> headers_ ABSL_GUARDED_BY(mutex_);
  std::string key_ ABSL_GUARDED_BY(mutex_);
  absl::Duration fetch_delay_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::GetAdapterRequest> looks_ ABSL_GUARDED_BY(mutex_);
  int cancelled_ ABSL_GUARDED_BY(mutex_) = 0;

  std::unique_ptr<Inference> inference_;
  std::unique_ptr<Adapters> adapter_service_;
  std::unique_ptr<Status> status_service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

// A status with google.rpc.BadRequest: field -> description.
grpc::Status BadRequestStatus(const std::string& message,
                              const std::map<std::string, std::string>& violations);
// UNAVAILABLE with google.rpc.RetryInfo.
grpc::Status RetryLaterStatus(const std::string& message, absl::Duration delay);

}  // namespace lorica
