// Goal: memory that a GPU or its host does not have ends the call that wants it and no other,
// whichever allocation it is, and the next call gets it; what a block held before is never seen.
#include <atomic>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/cuda_shim.h"
#include "tests/fakes/safetensors_writer.h"
#include "tests/integration/cuda/gpu.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using ::testing::AnyOf;
using ::testing::ElementsAreArray;

constexpr int kTokens = 24;
// What could not be loaded is tried again after at most so long.
constexpr absl::Duration kFailureRemembered = absl::Seconds(13);

class DeviceMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }
  void TearDown() override {
    fakes::FailAllocation(0);
    fakes::PoisonMemory(0);
  }

  static Config OnCuda() {
    Config config;
    config.device = "cuda";
    config.host_bytes = 0;  // every load allocates
    return config;
  }
  static grpc::Status Ask(TinyServer& server, const v1::GenerateRequest& request,
                          v1::GenerateResponse* response) {
    Context context;
    return server.inference().Generate(&context, request, response);
  }
  // Penalised, so that its counts take device memory; with log-probabilities.
  static v1::GenerateRequest Penalised(const std::string& adapter) {
    v1::GenerateRequest request = TokensRequest(kTokens);
    request.set_adapter_id(adapter);
    request.set_repetition_penalty(1.2);
    request.set_logprobs(20);
    return request;
  }
  static void ExpectTheSame(const v1::GenerateResponse& got, const v1::GenerateResponse& want,
                            const std::string& of) {
    EXPECT_THAT(got.token_ids(), ElementsAreArray(want.token_ids())) << of;
    ASSERT_EQ(got.logprobs_size(), want.logprobs_size()) << of;
    for (int i = 0; i < got.logprobs_size(); ++i) {
      EXPECT_EQ(got.logprobs(i).SerializeAsString(), want.logprobs(i).SerializeAsString())
          << of << " " << i;
    }
  }
};

// Row 95.
TEST_F(DeviceMemoryTest, AnyAllocationThatFailsEndsItsCallAlone) {
  constexpr int kAllocationsMax = 200;
  TinyServer server(OnCuda());
  v1::GenerateResponse base;
  ASSERT_TRUE(Ask(server, TokensRequest(kTokens), &base).ok());
  std::atomic<bool> over = false;
  std::thread beside([&] {
    while (!over) {
      v1::GenerateResponse now;
      const grpc::Status status = Ask(server, TokensRequest(kTokens), &now);
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_THAT(now.token_ids(), ElementsAreArray(base.token_ids()));
    }
  });
  int k = 1;
  for (bool failed = true; failed && k <= kAllocationsMax; ++k) {
    const std::string id = absl::StrCat("dora-", k);
    WriteTinyAdapter(server.adapters(), id, 4, true, k);
    fakes::FailAllocation(k);
    v1::GenerateResponse response;
    const grpc::Status status = Ask(server, Penalised(id), &response);
    failed = fakes::CountedAllocations() >= k;
    fakes::FailAllocation(0);
    EXPECT_EQ(status.ok(), !failed) << id << ": " << status.error_message();
    if (failed) {
      EXPECT_THAT(status.error_code(), AnyOf(StatusCode::RESOURCE_EXHAUSTED, StatusCode::INTERNAL))
          << id << ": " << status.error_message();
    }
  }
  std::cout << k - 2 << " allocations failed in turn\n";
  EXPECT_GT(k - 2, 3) << "an image, gains, tables, counts";
  absl::SleepFor(kFailureRemembered);
  for (int i = 1; i < k; ++i) {
    v1::GenerateResponse response;
    const grpc::Status status = Ask(server, Penalised(absl::StrCat("dora-", i)), &response);
    EXPECT_TRUE(status.ok()) << i << ": " << status.error_message();
  }
  over = true;
  beside.join();
  EXPECT_EQ(server.Status().state(), v1::SERVING_STATE_SERVING);
}

// Row 99, against a server whose memory held zeros; here all of the arena holds NaN at first.
TEST_F(DeviceMemoryTest, BlocksThatChangeHandsHoldNothingOfTheirPast) {
  constexpr int64_t kArenaBytes = 3 << 20;
  Config config = OnCuda();
  config.arena_bytes = kArenaBytes;
  std::map<std::string, v1::GenerateResponse> fresh;
  {
    TinyServer server(config);
    for (const char* id : {"", "plain", "dora"}) {
      ASSERT_TRUE(Ask(server, Penalised(id), &fresh[id]).ok()) << id;
      ASSERT_EQ(fresh[id].logprobs_size(), kTokens) << id;
    }
  }
  fakes::PoisonMemory(kArenaBytes);
  TinyServer server(config);
  ASSERT_TRUE(fakes::WasPoisoned()) << "the arena was not cleared so";
  // Its product is beyond what an element holds, and so are K and V of its blocks.
  constexpr int kRank = 4, kHidden = 64, kQueries = 96;
  WriteTinyAdapter(server.adapters(), "overflow", kRank, false);
  const std::string stem = "base_model.model.model.layers.0.self_attn.q_proj.";
  const auto huge = [](int count) { return BytesOf(std::vector<float>(count, 1e30f)); };
  server.adapters().Write(
      "overflow/adapter_model.safetensors",
      SafetensorsFile(
          {{stem + "lora_A.weight", "F32", {kRank, kHidden}, huge(kRank * kHidden)},
           {stem + "lora_B.weight", "F32", {kQueries, kRank}, huge(kQueries * kRank)}}));
  const auto evict = [&](const std::string& id) {
    Context context;
    v1::EvictAdapterRequest request;
    request.set_adapter_id(id);
    request.set_wait(true);
    v1::EvictAdapterResponse response;
    (void)server.admin().EvictAdapter(&context, request, &response);
  };
  for (int turn = 0; turn < 5; ++turn) {
    for (const auto& [id, want] : fresh) {
      v1::GenerateResponse now;
      const grpc::Status status = Ask(server, Penalised(id), &now);
      ASSERT_TRUE(status.ok()) << id << ": " << status.error_message();
      ExpectTheSame(now, want, absl::StrCat("'", id, "', turn ", turn));
    }
    evict("plain");
    v1::GenerateResponse none;
    EXPECT_EQ(Ask(server, Penalised("overflow"), &none).error_code(), StatusCode::DATA_LOSS);
    evict("overflow");
  }
}

}  // namespace
}  // namespace lorica
