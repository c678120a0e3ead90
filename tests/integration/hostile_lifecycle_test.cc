// Goal: what happens to adapters, blocks and clocks while a server runs touches nobody else and
// leaves nothing: names that share content, blocks that change hands, numbers that overflow,
// clocks that jump, a hub with more in it than was asked for.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/fakes/clock_shim.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/safetensors_writer.h"
#include "tests/integration/bystander.h"
#include "tests/integration/server_process.h"
#include "tests/server/http/http_call.h"

namespace {

// The next mapping of so many bytes holds NaN, whatever numbers are read there. A plain number: it
// is read before the runtime of a sanitizer has begun.
int64_t g_poisoned_bytes = 0;
bool g_runtime_begun = false;
__attribute__((constructor)) void NoteRuntime() { g_runtime_begun = true; }

}  // namespace

// A sanitizer's, which has to know of a mapping: memory that comes again is not what it was.
extern "C" __attribute__((weak)) void* __interceptor_mmap(void*, size_t, int, int, int, off_t);

// Takes the place of the C library's own for every library of the process.
extern "C" __attribute__((no_sanitize_thread, no_sanitize_address)) void* mmap(
    void* address, size_t length, int protection, int flags, int fd, off_t offset) noexcept {
  void* const mapped = g_runtime_begun && __interceptor_mmap != nullptr
                           ? __interceptor_mmap(address, length, protection, flags, fd, offset)
                           : reinterpret_cast<void*>(
                                 syscall(SYS_mmap, address, length, protection, flags, fd, offset));
  auto wanted = static_cast<int64_t>(length);
  if (mapped != MAP_FAILED && fd == -1 && length > 0 &&
      __atomic_compare_exchange_n(&g_poisoned_bytes, &wanted, 0, false, __ATOMIC_SEQ_CST,
                                  __ATOMIC_SEQ_CST)) {
    std::memset(mapped, 0xff, length);
  }
  return mapped;
}

namespace lorica {
namespace {

using grpc::StatusCode;

class HostileLifecycle : public BystanderTest {
 protected:
  void TearDown() override {
    clock_.StepTo(absl::ZeroDuration());
    BystanderTest::TearDown();
  }
  grpc::Status Evict(const std::string& id) {
    Context context;
    v1::EvictAdapterRequest request;
    request.set_adapter_id(id);
    request.set_wait(true);
    v1::EvictAdapterResponse response;
    TinyServer& asked = server();
    return Timed([&] { return asked.admin().EvictAdapter(&context, request, &response); });
  }
  // An adapter whose product is beyond what a float holds.
  void WriteOverflowing(const std::string& id) {
    constexpr int kRank = 4, kHidden = 64, kQueries = 96;
    server().WriteAdapter(id, kRank, false);
    const std::string stem = "base_model.model.model.layers.0.self_attn.q_proj.";
    const auto huge = [](int count) { return BytesOf(std::vector<float>(count, 1e30f)); };
    server().adapters().Write(
        id + "/adapter_model.safetensors",
        SafetensorsFile(
            {{stem + "lora_A.weight", "F32", {kRank, kHidden}, huge(kRank * kHidden)},
             {stem + "lora_B.weight", "F32", {kQueries, kRank}, huge(kQueries * kRank)}}));
  }

  fakes::SteppedClock clock_;
};

TEST_F(HostileLifecycle, OneContentUnderTwoNamesIsThereOnce) {
  ASSERT_TRUE(Register("one", "plain").ok());
  ASSERT_TRUE(Register("two", "plain").ok());
  const std::vector<int32_t> tokens = TokensOf("plain");
  const v1::TierCounters before = server().Status().device_tier();
  EXPECT_EQ(TokensOf("one"), tokens);
  EXPECT_EQ(TokensOf("two"), tokens);
  const v1::TierCounters after = server().Status().device_tier();
  EXPECT_EQ(after.adapters(), before.adapters());
  EXPECT_EQ(after.insertions(), before.insertions());
  EXPECT_EQ(after.bytes(), before.bytes());
}

TEST_F(HostileLifecycle, EvictingTwiceAndWhatIsNotThere) {
  TokensOf("plain");
  EXPECT_TRUE(Evict("plain").ok());
  EXPECT_TRUE(Evict("plain").ok()) << "it is where it was asked to be";
  EXPECT_EQ(Evict("nobody").error_code(), StatusCode::NOT_FOUND);
}

// Against a process whose memory nobody has used; here all of the arena holds NaN at first.
TEST_F(HostileLifecycle, BlocksThatChangeHandsHoldNothingOfTheirPast) {
  constexpr int64_t kArenaBytes = 3 << 20;
  config().arena_bytes = kArenaBytes;
  __atomic_store_n(&g_poisoned_bytes, kArenaBytes, __ATOMIC_SEQ_CST);
  const std::string folder = server().adapters().path();
  EXPECT_EQ(__atomic_load_n(&g_poisoned_bytes, __ATOMIC_SEQ_CST), 0)
      << "the arena was not mapped so";
  v1::GenerateRequest request = TokensRequest(24);
  request.set_logprobs(20);
  std::map<std::string, v1::GenerateResponse> fresh;
  {
    const auto process = ServerProcess::Start({.model = TinyModelPath(), .adapters_dir = folder});
    ASSERT_TRUE(process.ok()) << process.status();
    for (const char* id : {"", "plain", "dora"}) {
      request.set_adapter_id(id);
      fresh[id] = GenerateAll(**process, {request}, 1).front().response;
      ASSERT_EQ(fresh[id].logprobs_size(), 24) << id;
    }
  }
  const auto expect_fresh = [&] {
    for (const auto& [id, expected] : fresh) {
      request.set_adapter_id(id);
      v1::GenerateResponse now;
      ASSERT_TRUE(Generate(request, {}, &now).ok()) << id;
      EXPECT_THAT(now.token_ids(), testing::ElementsAreArray(expected.token_ids())) << id;
      ASSERT_EQ(now.logprobs_size(), expected.logprobs_size()) << id;
      for (int i = 0; i < now.logprobs_size(); ++i) {
        EXPECT_EQ(now.logprobs(i).SerializeAsString(), expected.logprobs(i).SerializeAsString())
            << id << " " << i;
      }
    }
  };
  expect_fresh();
  WriteOverflowing("overflow");
  for (int turn = 0; turn < 5; ++turn) {
    ASSERT_TRUE(Evict("plain").ok());
    const StatusCode code = CodeOfAdapter("overflow");
    EXPECT_TRUE(code == StatusCode::DATA_LOSS || code == StatusCode::OK) << code;
    (void)Evict("overflow");
    expect_fresh();
  }
}

TEST_F(HostileLifecycle, NumbersThatOverflowEndTheirOwnStreamAlone) {
  WriteOverflowing("overflow");
  v1::GenerateRequest request = TokensRequest(8);
  request.set_adapter_id("overflow");
  const grpc::Status status = Generate(request);
  EXPECT_EQ(status.error_code(), StatusCode::DATA_LOSS);
  EXPECT_EQ(CodeOfAdapter("plain"), StatusCode::OK);
}

TEST_F(HostileLifecycle, SmallAndLargeRanksInTurnDoNotFragment) {
  config().arena_bytes = 1 << 20;
  for (int i = 0; i < 8; ++i) {
    server().WriteAdapter(absl::StrCat("small-", i), 8, false);
    server().WriteAdapter(absl::StrCat("large-", i), 256, i % 2 == 1);
  }
  const auto turn = [this](int count) {
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(CodeOfAdapter(absl::StrCat(i % 2 == 0 ? "small-" : "large-", i % 8)),
                StatusCode::OK);
    }
  };
  turn(100);
  const int64_t before = ResidentBytes();
  turn(600);
  EXPECT_LT(ResidentBytes() - before, 16 << 20);
}

TEST_F(HostileLifecycle, AJumpOfTheWallClockEndsNothing) {
  int turn = 0;
  for (const int64_t jump_s : {int64_t{86'400}, int64_t{-86'400}, int64_t{0}}) {
    std::atomic<bool> jumped = false;
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i) {
      callers.emplace_back([this, &jumped, jump_s] {
        do {
          EXPECT_EQ(CodeOf([](v1::GenerateRequest& request) { request.set_max_tokens(400); }),
                    StatusCode::OK)
              << jump_s;
        } while (!jumped);
      });
    }
    server().WaitFor([](const v1::GetStatusResponse& status) { return status.running() > 1; });
    clock_.StepTo(absl::Seconds(jump_s));
    jumped = true;
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(CodeOfAdapter("plain"), StatusCode::OK) << jump_s;
    EXPECT_EQ(CodeOfAdapter("nobody"), StatusCode::NOT_FOUND) << jump_s;
    const HttpAnswer loaded =
        Post(server().server().http_port(), "/v1/load_lora_adapter",
             {{"lora_name", absl::StrCat("since-", turn++)}, {"lora_path", "plain"}});
    EXPECT_EQ(loaded.status, 200) << jump_s << ": " << loaded.body;
  }
}

// What failed is remembered for some seconds, which a jump makes neither longer nor shorter.
TEST_F(HostileLifecycle, AJumpOfTheWallClockEndsNoBackOff) {
  AnswersWithin(kFetchedAnswerMax);
  FakeHub hub;
  config().hub_allow = "org/*";
  config().hub_endpoint = hub.endpoint();
  config().data_dir = data();
  for (const int64_t jump_s : {int64_t{0}, int64_t{86'400}, int64_t{-86'400}}) {
    clock_.StepTo(absl::Seconds(jump_s));
    EXPECT_EQ(CodeOfAdapter("org/nobody"), StatusCode::NOT_FOUND) << jump_s;
  }
  EXPECT_EQ(hub.requests().size(), 1u);
}

// Row 94, whatever the wall clock says meanwhile.
TEST_F(HostileLifecycle, WhoWasUsedLongestAgoGoesFirst) {
  constexpr int kAdapters = 6, kRoomFor = 3, kRank = 256, kBlocksOfEach = 11, kBlocksBeside = 6;
  config().arena_bytes = int64_t{kRoomFor * kBlocksOfEach + kBlocksBeside} * 16384;
  std::vector<std::string> by_use;  // the last one first
  std::map<std::string, std::vector<int32_t>> alone;
  for (int i = 0; i < kAdapters; ++i) {
    by_use.push_back(absl::StrCat("wide-", i));
    WriteTinyAdapter(server().adapters(), by_use.back(), kRank, false, i);
  }
  const auto look = [this] {
    Context context;
    v1::ListAdaptersRequest request;
    request.set_prefix("wide-");
    v1::ListAdaptersResponse response;
    EXPECT_TRUE(server().admin().ListAdapters(&context, request, &response).ok());
    std::map<std::string, v1::Adapter> seen;
    for (const v1::Adapter& adapter : response.adapters()) seen[adapter.adapter_id()] = adapter;
    return seen;
  };
  std::mt19937 random(94);
  for (int turn = 0; turn < 40; ++turn) {
    clock_.StepTo((turn % 3 - 1) * absl::Hours(24));
    const auto used = by_use.begin() + static_cast<int>(random() % kAdapters);
    std::rotate(by_use.begin(), used, used + 1);
    const std::vector<int32_t> tokens = TokensOf(by_use.front());
    EXPECT_EQ(tokens, alone.try_emplace(by_use.front(), tokens).first->second);
    std::map<std::string, v1::Adapter> seen = look();
    EXPECT_EQ(seen[by_use.front()].tier(), v1::TIER_DEVICE);
    EXPECT_GE(seen[by_use.front()].last_used_seconds_ago(), 0);
    EXPECT_LT(seen[by_use.front()].last_used_seconds_ago(), 60);
    bool gone = false;
    for (const std::string& id : by_use) {
      const bool here = seen[id].tier() == v1::TIER_DEVICE;
      EXPECT_FALSE(gone && here) << id << " was used before one that is gone, turn " << turn;
      gone = gone || !here;
    }
    EXPECT_TRUE(gone) << "not all fit";
  }
  EXPECT_GT(server().Status().device_tier().evictions(), kAdapters);
}

TEST_F(HostileLifecycle, AHubIsNeverListed) {
  AnswersWithin(kFetchedAnswerMax);
  FakeHub hub;
  FakeHub::Files files = FakeHub::FilesOf(TinyServer().adapters().path() + "/plain");
  for (int i = 0; i < 2000; ++i) files[absl::StrCat("junk-", i, ".txt")] = "x";
  hub.Commit("org/crowded", files);
  config().hub_allow = "org/*";
  config().hub_endpoint = hub.endpoint();
  config().hub_redirect_hosts = hub.cdn_place();
  config().data_dir = data();
  EXPECT_EQ(CodeOfAdapter("org/crowded"), StatusCode::OK);
  EXPECT_EQ(hub.CountOf("/api/"), 0);
  EXPECT_EQ(hub.CountOf("junk"), 0);
  EXPECT_LE(hub.requests().size(), 6u);
}

}  // namespace
}  // namespace lorica
