// A server under attack, and a stream of somebody else that must not notice.
//
// Each test has a server on the tiny model and, beside whatever it does, one caller after the
// other who asks for an adapter's tokens: all must be those that came before the test. Calls
// that are refused must be so within kAnswerMax, and leave a line in the log. At the end the server
// holds nothing of the test: no request, no block, no lease of an adapter, so that all can be
// evicted and their tiers are empty, no descriptor, no thread, nothing half beneath --data-dir (a
// temporary file, a copy, a journal), no entry of what is kept of requests, of contents, names,
// tenants and their bills not more than there are (lorica_held_entries), and little more memory
// than before; and no child and no thread of ours outlives the server.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {

inline const absl::Duration kAnswerMax = kInstrumentationFactor * absl::Seconds(5);
// Where hubs are asked or adapters loaded again and again: those threads have the lowest priority
// and give way to whatever else the machine has to do.
inline const absl::Duration kFetchedAnswerMax = kInstrumentationFactor * absl::Seconds(15);
// Of the process at the end of a test: holes that the allocator cannot give back.
inline constexpr int64_t kKeptBytesMax = kInstrumentationFactor * (24 << 20);
inline constexpr int64_t kKeptBytesMaxOfLongTexts = 2 * kKeptBytesMax;
inline constexpr int64_t kGrowthBytesMax = 48 << 20;  // of the process, whoever asked for what

class BystanderTest : public ::testing::Test {
 protected:
  explicit BystanderTest(Config config = {}) : config_(std::move(config)) {}
  void TearDown() override;

  Config& config() { return config_; }  // to change before the server is first used
  void AnswersWithin(absl::Duration limit) { answer_max_ = limit; }  // before the first call
  // In all calls, the bystander's too; of an operator.
  void ShowKey(const std::string& key) { key_ = key; }
  // The test's calls are of the tenant "mallory", an operator, the bystander's of "victim", a user.
  // Before the first call.
  void InTwoTenants();
  // Where folders cannot be looked at meanwhile. Before the first call.
  void LetsTheBystanderAskForTheBase() { bystanders_adapter_.clear(); }
  // So many generations that no name leads to any more, which are kept as long as there is room.
  void LeavesUnnamed(int generations) { unnamed_ = generations; }
  // Millions of small pieces leave many holes.
  void TakesLongTexts() { kept_bytes_max_ = kKeptBytesMaxOfLongTexts; }
  // For --data-dir; beyond the server's life.
  const std::string& data() const { return data_.path(); }
  TinyServer& server() {
    std::call_once(started_, [this] { Start(); });
    return *server_;
  }
  using Headers = std::vector<std::pair<std::string, std::string>>;
  // Each within the limit, kAnswerMax unless told otherwise; refusals are printable and logged.
  grpc::Status Timed(const std::function<grpc::Status()>& call) const;
  grpc::Status Generate(const v1::GenerateRequest& request, const Headers& headers = {},
                        v1::GenerateResponse* response = nullptr);
  // The same of the bystander's tenant.
  grpc::Status GenerateAsBystander(const v1::GenerateRequest& request,
                                   v1::GenerateResponse* response);
  grpc::Status Register(const std::string& id, const std::string& source);
  grpc::Status Raw(const std::string& method, const std::string& message);
  // Of a request for two tokens that `change` has changed.
  grpc::StatusCode CodeOf(const std::function<void(v1::GenerateRequest&)>& change);
  grpc::StatusCode CodeOfAdapter(const std::string& id);
  std::vector<int32_t> TokensOf(const std::string& adapter);
  // For stem0, stem1 and so on, which nobody has, by several callers at once.
  void AskForMany(const std::string& stem, int count, int callers);
  int64_t ResidentBytes();
  // By how much the process was larger than before at any moment of `calls`.
  int64_t PeakGrowthBytes(const std::function<void()>& calls);

 private:
  struct Held {
    int descriptors = 0;
    int threads = 0;
    int children = 0;         // that compile grammars
    int32_t free_blocks = 0;  // or kept as long as there is room
    int32_t kv_blocks = 0;
    int64_t resident_bytes = 0;
  };
  void Start();
  std::vector<std::string> LeftOvers() const;
  static std::vector<int32_t> TokensFrom(v1::InferenceService::Stub& stub,
                                         const std::string& adapter);
  static int CountOf(const std::string& folder);
  static int Children();
  static int Threads();
  Held HeldNow();
  // What lorica_held_entries says, by what it is.
  std::map<std::string, int64_t> EntriesNow();
  bool HoldsMore(const Held& held, const Held& before) const;
  int64_t Contents() const;
  int64_t TenantsNow() const;
  void CheckEntries(absl::Time end);
  v1::ListAdaptersResponse Listed();
  void EvictAll();
  void Watch();

  Config config_;
  absl::Duration answer_max_ = kAnswerMax;
  std::string key_;
  std::string bystanders_key_;  // empty: the test's
  std::string bystanders_adapter_ = "other";
  TemporaryFolder keys_;
  std::unique_ptr<v1::InferenceService::Stub> bystanders_stub_;
  int unnamed_ = 0;
  int64_t kept_bytes_max_ = kKeptBytesMax;
  TemporaryFolder data_;
  std::once_flag started_;
  std::unique_ptr<TinyServer> server_;
  std::vector<int32_t> alone_;
  int threads_alone_ = 0;  // before there was a server
  Held before_;
  std::map<std::string, int64_t> entries_before_;
  std::atomic<bool> stop_{false};
  std::atomic<int> answers_{0};
  std::thread bystander_;
};

}  // namespace lorica
