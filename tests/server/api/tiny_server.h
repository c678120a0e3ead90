// A whole server in this process on the tiny reference model, and small helpers to call it.
//
// Adapters beneath it: "plain" and "other" (rank 4 and 8, q_proj), "dora", and "broken",
// whose weight file is missing.
#pragma once

#include <memory>
#include <string>

#include "adapters/hub/steady_now.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "lorica/v1/adapters.grpc.pb.h"
#include "lorica/v1/inference.grpc.pb.h"
#include "lorica/v1/server.grpc.pb.h"
#include "server/server.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {

inline constexpr int kTinyContext = 512;
inline constexpr int kTinyVocabulary = 259;  // of the tokenizer; the model has 272 rows

// Writes a PEFT folder that fits the tiny model; another `seed` gives other weights.
void WriteTinyAdapter(const TemporaryFolder& folder, const std::string& id, int rank, bool dora,
                      int seed = 0);
std::string TinyModelPath();

// A connection of its own, whose calls show `key` unless it is empty.
std::shared_ptr<grpc::Channel> ChannelWithKey(int port, const std::string& key);

class TinyServer {
 public:
  // Changes to the flags before it starts; `model` may name another one. Every call of its stubs
  // shows `key`, unless it is empty.
  explicit TinyServer(Config config = {}, const std::string& key = "");
  ~TinyServer();

  Server& server() { return *server_; }
  const TemporaryFolder& adapters() const { return adapters_; }
  std::shared_ptr<grpc::Channel> channel() const { return channel_; }
  v1::InferenceService::Stub& inference() { return *inference_; }
  v1::AdapterService::Stub& admin() { return *admin_; }
  v1::GetStatusResponse Status();
  // Until `condition` holds of the status; fails the test after ten seconds.
  template <typename Condition>
  void WaitFor(Condition condition);
  // Writes a PEFT folder that fits the tiny model.
  void WriteAdapter(const std::string& id, int rank, bool dora) const;
  // One of finite weights that are so large that no output of theirs is finite.
  void WriteHugeAdapter(const std::string& id) const;
  // So many further names for "plain": a hundred links, and links to the folder that holds them.
  void LinkAdapters(const std::string& prefix, int count) const;

 private:
  TemporaryFolder adapters_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::AdapterService::Stub> admin_;
  std::unique_ptr<v1::ServerService::Stub> status_;
};

// A unary call by name, without generated code. `request` is the message's bytes.
struct RawAnswer {
  grpc::Status status;
  std::string bytes;
};
RawAnswer RawCall(const TinyServer& server, const std::string& method, const std::string& request);

// A call that may take long without failing the test by hanging, whatever the wall clock does.
class Context : public grpc::ClientContext {
 public:
  Context() { set_deadline(gpr_time_from_seconds(kInstrumentationFactor * 20, GPR_TIMESPAN)); }
};

// Token ids that run to `tokens` tokens, whatever the model says.
v1::GenerateRequest TokensRequest(int tokens);

template <typename Condition>
void TinyServer::WaitFor(Condition condition) {
  const absl::Time end = SteadyNow() + kInstrumentationFactor * absl::Seconds(10);
  while (!condition(Status())) {
    ASSERT_LT(SteadyNow(), end) << Status().DebugString();
    absl::SleepFor(absl::Milliseconds(5));
  }
}

}  // namespace lorica
