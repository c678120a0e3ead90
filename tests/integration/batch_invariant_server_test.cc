// Goal: loricad --batch-invariant answers each request of a crowd with the tokens and the
// log-probabilities that it gives it alone. On the CPU, and on a GPU where there is one.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "kernels/plugin.h"
#include "tests/integration/cuda/gpu.h"
#include "tests/integration/golden_request.h"
#include "tests/integration/server_process.h"
#include "tests/integration/tiny_adapter.h"

namespace lorica {
namespace {

constexpr int kStreams = 64;
constexpr int kRequests = 96;

class BatchInvariantServer : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    for (const int rank : {4, 16, 33}) WriteTinyAdapter(adapters_, absl::StrCat("r", rank), rank);
    WriteTinyAdapter(adapters_, "biased", 8, kTinyAdapterScale, TinyParts::kLinearsWithBiases);
    WriteTinyAdapter(adapters_, "ends", 8, kTinyAdapterScale, TinyParts::kEmbeddingAndHead);
  }

  // Greedy and sampled, base and adapters and a mix, prompts of one step and of several.
  static std::vector<v1::GenerateRequest> Requests() {
    static constexpr const char* kAdapters[] = {"base",   "r4",  "r16", "r33", "mix:r4*1+r33*-0.5",
                                                "biased", "ends"};
    std::vector<v1::GenerateRequest> requests(kRequests);
    int token = 0;
    for (int i = 0; i < kRequests; ++i) {
      v1::GenerateRequest& request = requests[i];
      for (int k = 0; k < 1 + 53 * i % (i % 8 == 0 ? 300 : 40); ++k) {
        request.add_token_ids((token += 7919) % 1000);
      }
      request.set_max_tokens(60 + i % 60);
      request.set_ignore_eos(true);
      request.set_logprobs(1);
      request.set_temperature(i % 4 == 3 ? 0.8 : 0.0);
      request.set_seed(i);
      NameAdapters(kAdapters[i % std::size(kAdapters)], &request);
    }
    return requests;
  }

  std::unique_ptr<ServerProcess> Start(const char* prefix_cache) const {
    ServerProcess::Options options;
    options.model = std::string(LORICA_TEST_DATA) + "/shapes/tiny";
    options.adapters_dir = adapters_.path();
    // Fewer blocks than the streams need: some are preempted, and what they had generated is
    // computed again as a prompt.
    const std::string device = GetParam();
    options.flags = {"--load-format",  "dummy",         "--batch-invariant",
                     "--prefix-cache", prefix_cache,    "--device",
                     device,           "--arena-bytes", device == "cpu" ? "6MiB" : "4MiB"};
    auto server = ServerProcess::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? *std::move(server) : nullptr;
  }

  TemporaryFolder adapters_;
};

TEST_P(BatchInvariantServer, ACrowdGetsTheAnswersOfEachAlone) {
  const std::vector<v1::GenerateRequest> requests = Requests();
  for (const char* prefix_cache : {"off", "on"}) {
    const auto server = Start(prefix_cache);
    ASSERT_NE(server, nullptr);
    const std::vector<Generated> crowd = GenerateAll(*server, requests, kStreams);
    const std::vector<Generated> alone = GenerateAll(*server, requests, 1);
    int preemptions = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      ASSERT_TRUE(crowd[i].status.ok()) << i << ": " << crowd[i].status;
      ASSERT_TRUE(alone[i].status.ok()) << i << ": " << alone[i].status;
      EXPECT_EQ(crowd[i].token_ids, alone[i].token_ids) << i;
      EXPECT_EQ(crowd[i].logprobs, alone[i].logprobs) << i;
      preemptions += crowd[i].response.timings().preemptions();
    }
    EXPECT_GT(preemptions, 0);
  }
}

std::vector<const char*> Devices() {
  const bool cuda = HasGpu() && !FindPlugin("cuda").empty();
  return cuda ? std::vector{"cpu", "cuda"} : std::vector{"cpu"};
}
INSTANTIATE_TEST_SUITE_P(Devices, BatchInvariantServer, ::testing::ValuesIn(Devices()),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace lorica
