// Goal: with an arena of eight adapters and a host tier of thirty-two, a thousand adapters
// under Zipf traffic all answer right, no budget is ever exceeded, the counters add up and
// memory stays flat. Method: every answer is compared with the same request's answer on a
// second server that has room for everything and runs one request at a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/integration/server_process.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

constexpr int kAdapters = 1000;
constexpr int kRequests = 4000;
constexpr int kStreams = 8;
constexpr int kAdapterBlocks = 3;  // of one rank-4 adapter of the tiny model
constexpr int kRequestBlocks = 2;  // of 24 + 6 tokens
constexpr int64_t kRoomyBytes = 256 << 20;
constexpr int64_t kBlockBytes = 12288;
constexpr uint64_t kSeed = 11;

std::string TinyLlama() { return std::string(LORICA_TEST_DATA) + "/reference/tiny-llama"; }

void MakeAdapters(const std::string& folder) {
  const std::string command = absl::StrCat(
      "python3 ", LORICA_SOURCE_DIR, "/tests/bench/make_adapters.py ", folder, " --config ",
      TinyLlama(), "/config.json --rank 4 --count ", kAdapters, " > /dev/null");
  ASSERT_EQ(std::system(command.c_str()), 0);
}

std::string AdapterName(int index) {
  char name[16];
  std::snprintf(name, sizeof name, "r%04d", index);
  return name;
}

// Zipf with exponent 1 over a seeded permutation of all adapters.
std::vector<int> ZipfAdapters(std::mt19937_64* random) {
  std::vector<int> order(kAdapters);
  for (int i = 0; i < kAdapters; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), *random);
  std::vector<double> weights(kAdapters);
  for (int i = 0; i < kAdapters; ++i) weights[i] = 1.0 / (i + 1);
  std::discrete_distribution<int> rank(weights.begin(), weights.end());
  std::vector<int> chosen(kRequests);
  for (int& adapter : chosen) adapter = order[rank(*random)];
  return chosen;
}

std::vector<v1::GenerateRequest> MakeRequests() {
  std::mt19937_64 random(kSeed);
  std::vector<v1::GenerateRequest> requests;
  for (const int adapter : ZipfAdapters(&random)) {
    v1::GenerateRequest request;
    request.set_adapter_id(AdapterName(adapter));
    for (int i = 0; i < 24; ++i) request.add_token_ids(random() % 256);
    request.set_max_tokens(6);
    request.set_ignore_eos(true);
    requests.push_back(std::move(request));
  }
  return requests;
}

// Looks at the server's own books while the traffic runs.
class Watcher {
 public:
  explicit Watcher(const ServerProcess& server)
      : thread_([this, &server] {
          const auto client = server.NewClient();
          while (!stop_) {
            auto status = client->GetStatus();
            if (status.ok()) Look(*status);
            absl::SleepFor(absl::Milliseconds(20));
          }
        }) {}
  ~Watcher() {
    stop_ = true;
    thread_.join();
    EXPECT_GT(looks_, 10);
  }

 private:
  void Look(const v1::GetStatusResponse& status) {
    ++looks_;
    EXPECT_LE(status.device_tier().bytes(), status.device_tier().byte_limit());
    EXPECT_LE(status.host_tier().bytes(), status.host_tier().byte_limit());
    EXPECT_EQ(status.free_blocks() + status.kv_blocks() + status.prefix_blocks() +
                  status.adapter_blocks(),
              status.limits().arena_blocks());
  }

  std::atomic<bool> stop_ = false;
  int looks_ = 0;
  std::thread thread_;
};

void ExpectTierAddsUp(const v1::TierCounters& tier) {
  EXPECT_EQ(tier.insertions() - tier.evictions() - tier.removals(), tier.adapters());
  EXPECT_GT(tier.hits(), 0);
  EXPECT_GT(tier.misses(), 0);
  EXPECT_GT(tier.evictions(), 0);
}

absl::StatusOr<std::unique_ptr<ServerProcess>> StartServer(const std::string& adapters,
                                                           int64_t arena_bytes,
                                                           int64_t host_bytes) {
  ServerProcess::Options options;
  options.model = TinyLlama();
  options.adapters_dir = adapters;
  options.flags = {"--arena-bytes", absl::StrCat(arena_bytes), "--host-bytes",
                   absl::StrCat(host_bytes)};
  return ServerProcess::Start(options);
}

v1::CheckAdapterResponse CheckFirst(const ServerProcess& server) {
  v1::CheckAdapterRequest request;
  request.set_source(AdapterName(0));
  auto check = server.NewClient()->CheckAdapter(request);
  EXPECT_TRUE(check.ok()) << check.status();
  EXPECT_TRUE(check->servable()) << check->reason();
  return *check;
}

TEST(Bounded, AThousandAdaptersThroughTheRoomOfEight) {
  TemporaryFolder folder;
  MakeAdapters(folder.path());
  const std::vector<v1::GenerateRequest> requests = MakeRequests();

  std::vector<Generated> expected;
  v1::CheckAdapterResponse size;
  {
    auto roomy = StartServer(folder.path(), kRoomyBytes, kRoomyBytes);
    ASSERT_TRUE(roomy.ok()) << roomy.status();
    size = CheckFirst(**roomy);
    expected = GenerateAll(**roomy, requests, 1);
  }
  // Not a byte more than eight adapters and the KV of all streams; no more than 32 images.
  const int64_t blocks = 8 * size.blocks() + kStreams * kRequestBlocks;
  auto tight = StartServer(folder.path(), blocks * size.block_bytes(),
                           32 * size.blocks() * size.block_bytes());
  ASSERT_TRUE(tight.ok()) << tight.status();

  const size_t warm_up = kRequests / 4;
  const std::vector<v1::GenerateRequest> first(requests.begin(), requests.begin() + warm_up);
  GenerateAll(**tight, first, kStreams);
  const int64_t warm_bytes = (*tight)->ResidentBytes();
  std::vector<Generated> results;
  {
    Watcher watcher(**tight);
    results = GenerateAll(**tight, requests, kStreams);
  }
  int64_t distinct_answers = 0;
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(results[i].status.ok()) << i << ": " << results[i].status;
    ASSERT_TRUE(expected[i].status.ok()) << i << ": " << expected[i].status;
    ASSERT_EQ(results[i].token_ids, expected[i].token_ids) << requests[i].ShortDebugString();
    if (i > 0 && results[i].token_ids != results[i - 1].token_ids) ++distinct_answers;
  }
  EXPECT_GT(distinct_answers, kRequests / 2) << "answers must differ for this test to see anything";
  EXPECT_LE((*tight)->ResidentBytes() - warm_bytes, kInstrumentationFactor * (8 << 20));

  auto status = (*tight)->NewClient()->GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->device_tier().bytes(), status->adapter_blocks() * size.block_bytes());
  ExpectTierAddsUp(status->device_tier());
  ExpectTierAddsUp(status->host_tier());
  EXPECT_EQ(status->running() + status->queued() + status->kv_blocks(), 0);
  EXPECT_EQ(status->counters().requests_finished(), kRequests + static_cast<int64_t>(warm_up));
}

TEST(Bounded, AdapterBytesAreTheExactTilesAndAtMostOneBlockMore) {
  TemporaryFolder folder;
  MakeAdapters(folder.path());
  auto server = StartServer(folder.path(), kRoomyBytes, kRoomyBytes);
  ASSERT_TRUE(server.ok()) << server.status();
  const v1::CheckAdapterResponse check = CheckFirst(**server);
  EXPECT_GT(check.exact_tile_bytes(), 0);
  EXPECT_LE(check.blocks() * check.block_bytes(), check.exact_tile_bytes() + check.block_bytes());
}

}  // namespace
}  // namespace lorica
