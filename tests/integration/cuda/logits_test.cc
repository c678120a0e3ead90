// Goal: in 16 bits a GPU's logits are about as near to the fp32 reference as Hugging Face's are
// in the same type. The measures of both: root mean square over the vocabulary at the last
// prompt position, for the base model and every adapter (tests/data/logits/half_errors.json).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/fakes/test_paths.h"
#include "tests/integration/cuda/gpu.h"
#include "tests/server/models/model_runner.h"

namespace lorica {
namespace {

constexpr double kErrorRatioMax = 1.5;
const std::string kData = LORICA_TEST_DATA;

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

double MeanSquare(absl::Span<const float> a, absl::Span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < b.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum / b.size();
}

struct Device {
  const char* name;
  const char* type;  // of half_errors.json
};

class Logits : public ::testing::TestWithParam<Device> {};

TEST_P(Logits, AreAsNearToTheReferenceAsHuggingFaceIs) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  if (!std::ifstream(SmolLmPath())) GTEST_SKIP() << "no " << SmolLmPath();
  auto runner = ModelRunner::Open(SmolLmPath(), 1, 1024, GetParam().name);
  ASSERT_TRUE(runner.ok()) << runner.status();
  const auto vocabulary = static_cast<size_t>((*runner)->model().config().vocabulary);
  const std::string fixtures = FixtureAdaptersPath();
  const nlohmann::json errors = ReadJson(kData + "/logits/half_errors.json");
  double ours = 0, theirs = 0;
  int models = 0;
  for (const nlohmann::json& golden : ReadJson(kData + "/goldens.json")) {
    if (!golden.contains("logits_file")) continue;
    const std::string name = golden.at("adapter");
    if (fixtures.empty() && name == "ner-json") continue;
    std::vector<LoraTerm> terms;
    ModelRunner::Adapter adapter;
    if (name != "base") {
      auto loaded = (*runner)->Load(fixtures.empty() ? DemoAdaptersPath() : fixtures, name);
      ASSERT_TRUE(loaded.ok()) << name << ": " << loaded.status();
      adapter = *std::move(loaded);
      terms.push_back({adapter.mounted.get(), 1.0f});
    }
    const auto prompt = golden.at("prompt_ids").get<std::vector<int32_t>>();
    const std::vector<float> all = (*runner)->Logits(prompt, {100}, terms);
    const double own = MeanSquare(absl::MakeSpan(all).last(vocabulary),
                                  ReadNpy(kData + "/logits/logits_" + name + "_0.npy"));
    const double other = std::pow(errors.at(GetParam().type).at(name).get<double>(), 2);
    std::cout << name << ": " << std::sqrt(own) << ", Hugging Face " << std::sqrt(other) << "\n";
    ours += own;
    theirs += other;
    ++models;
    (*runner)->ForgetAdapters();
  }
  ASSERT_GE(models, 6);
  const double ratio = std::sqrt(ours / theirs);
  std::cout << "all: " << ratio << " of Hugging Face's\n";
  EXPECT_LE(ratio, kErrorRatioMax);
}

INSTANTIATE_TEST_SUITE_P(Types, Logits,
                         ::testing::Values(Device{"cuda", "bfloat16"},
                                           Device{"cuda_f16", "float16"}),
                         [](const auto& info) { return std::string(info.param.type); });

}  // namespace
}  // namespace lorica
