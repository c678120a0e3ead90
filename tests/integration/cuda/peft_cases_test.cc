// Goal: what PEFT writes is served on a GPU as well as on the CPU. The model is small and its
// weights are large, so 16 bits are felt: how much is seen from adapters of linears alone, and
// those with biases of lora_B, on the embedding or on the head are to be no worse.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/lora_tiles.h"
#include "tests/adapters/peft_matrix.h"
#include "tests/integration/cuda/gpu.h"

namespace lorica::peft {
namespace {

constexpr double kErrorRatioMax = 2.0;  // to the worst of linears alone
constexpr int kExtrasMin = 20;

double Size(absl::Span<const float> values) {
  double sum = 0;
  for (const float v : values) sum += double{v} * v;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

bool HasExtras(const LoraImage& image) {
  return std::ranges::any_of(image.modules, [](const ModuleTiles& tiles) {
    return tiles.has_bias || tiles.layer == kOutsideLayers;
  });
}

class PeftCases : public ::testing::TestWithParam<std::string> {
 protected:
  // || logits - reference || / || reference ||, the largest over chunks of a prompt.
  double Error(ModelRunner& runner, const MountedAdapter& mounted, int64_t reference) {
    const std::vector<int32_t> prompt = Document().at("prompt_ids");
    const absl::Span<const float> expected = Reference(reference);
    double largest = 0;
    for (const int chunk : {64, 5, 1}) {
      std::vector<float> logits = runner.Logits(prompt, {chunk}, {{&mounted, 1.0f}});
      const absl::Span<float> last = absl::MakeSpan(logits).last(expected.size());
      for (size_t i = 0; i < last.size(); ++i) last[i] -= expected[i];
      const double error = Size(last) / Size(expected);
      if (!(error <= largest)) largest = error;  // NaN is large
    }
    return largest;
  }
};

TEST_P(PeftCases, AreNoWorseWithWhatFewAdaptersHave) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  double linears = 0;
  std::vector<std::pair<std::string, double>> extras;
  for (const auto& entry : Document().at("cases")) {
    if (entry.contains("refused")) continue;
    const std::string name = entry.at("name");
    ModelRunner& runner = Runner(entry.at("model"), GetParam());
    const auto adapter = runner.Load(kFolder + "/adapters", name);
    ASSERT_TRUE(adapter.ok()) << name << ": " << adapter.status();
    const double error = Error(runner, *adapter->mounted, entry.at("logits"));
    ASSERT_TRUE(std::isfinite(error)) << name;
    if (HasExtras(*adapter->image)) {
      extras.emplace_back(name, error);
    } else {
      linears = std::max(linears, error);
    }
  }
  ASSERT_GE(std::ssize(extras), kExtrasMin);
  std::cout << "linears alone: " << linears << "\n";
  for (const auto& [name, error] : extras) {
    std::cout << name << ": " << error << "\n";
    EXPECT_LE(error, kErrorRatioMax * linears) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, PeftCases, ::testing::Values("cuda", "cuda_f16"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorica::peft
