// What PEFT writes against what PEFT computes from it: tests/data/peft.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "adapters/hub/source.h"
#include "adapters/peft_loader.h"
#include "tests/fakes/test_paths.h"
#include "tests/server/models/model_runner.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

constexpr float kTolerance = 2e-4f;  // that of tiny models against fp32 references
constexpr int kServedMin = 60;
const std::string kPeft = std::string(LORICA_TEST_DATA) + "/peft";

struct Case {
  std::string name;
  std::string model;
  std::string refused;  // words of the refusal; empty: it is served
  int64_t logits = -1;  // which of the references
  float base_distance = 0;
};

const nlohmann::json& Document() {
  static const auto* const document = new nlohmann::json([] {
    std::ifstream file(kPeft + "/cases.json");
    return nlohmann::json::parse(file);
  }());
  return *document;
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const auto& entry : Document().at("cases")) {
    cases.push_back({entry.at("name"), entry.at("model"), entry.value("refused", ""),
                     entry.value("logits", int64_t{-1}), entry.value("base_distance", 0.0f)});
  }
  return cases;
}

std::vector<Case> Some(bool served) {
  std::vector<Case> some = Cases();
  std::erase_if(some, [&](const Case& c) { return c.refused.empty() != served; });
  return some;
}

std::string TestName(const ::testing::TestParamInfo<Case>& info) {
  std::string name = info.param.name;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

// One runner a model, kept for all cases.
ModelRunner& Runner(const std::string& model) {
  static auto* const runners = new std::map<std::string, std::unique_ptr<ModelRunner>>();
  std::unique_ptr<ModelRunner>& runner = (*runners)[model];
  if (runner == nullptr) {
    auto opened = ModelRunner::Open(kPeft + "/models/" + model, 2, 128);
    EXPECT_TRUE(opened.ok()) << opened.status();
    runner = *std::move(opened);
  }
  runner->ForgetAdapters();
  return *runner;
}

absl::StatusOr<std::shared_ptr<const LoraImage>> Load(ModelRunner& runner,
                                                      const std::string& name) {
  auto source = MakeLocalSource(kPeft + "/adapters");
  if (!source.ok()) return source.status();
  PeftLoader loader(runner.model().lora_targets(), &runner.backend(), runner.cache().block_bytes);
  auto generation = loader.Identify(std::shared_ptr<Source>(*std::move(source)), name);
  if (!generation.ok()) return generation.status();
  return loader.LoadImage(**generation);
}

float LargestDifference(absl::Span<const float> a, absl::Span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    // Written so that NaN counts as large.
    if (!(std::abs(a[i] - b[i]) <= largest)) largest = std::abs(a[i] - b[i]);
  }
  return largest;
}

std::vector<int32_t> Prompt() { return Document().at("prompt_ids"); }

// The last positions of the prompt, as many as the reference has.
std::vector<float> Reference(int64_t index, int64_t* floats) {
  static const auto* const all = new std::vector<float>(ReadNpy(kPeft + "/logits.npy"));
  *floats = std::ssize(*all) / static_cast<int64_t>(Document().at("references"));
  return std::vector<float>(all->begin() + index * *floats, all->begin() + (index + 1) * *floats);
}

class PeftWrites : public ::testing::TestWithParam<Case> {};

TEST_P(PeftWrites, AndItsLogitsAreServed) {
  const Case& c = GetParam();
  ModelRunner& runner = Runner(c.model);
  const auto image = Load(runner, c.name);
  ASSERT_TRUE(image.ok()) << image.status();
  const auto mounted = runner.Mount(**image);
  ASSERT_TRUE(mounted.ok()) << mounted.status();
  int64_t floats = 0;
  const std::vector<float> expected = Reference(c.logits, &floats);
  const LoraTerm term{mounted->get(), 1.0f};
  for (const int chunk : {64, 5}) {
    const std::vector<float> logits = runner.Logits(Prompt(), {chunk}, {term});
    EXPECT_LE(LargestDifference(absl::MakeSpan(logits).last(floats), expected), kTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PeftWrites, ::testing::ValuesIn(Some(true)), TestName);

class PeftRefusals : public ::testing::TestWithParam<Case> {};

TEST_P(PeftRefusals, SayWhatIsNotServed) {
  const Case& c = GetParam();
  const auto image = Load(Runner(c.model == "biased" ? "untied" : c.model), c.name);
  EXPECT_EQ(image.status().code(), absl::StatusCode::kFailedPrecondition) << image.status();
  EXPECT_THAT(std::string(image.status().message()), HasSubstr(c.refused));
}

INSTANTIATE_TEST_SUITE_P(All, PeftRefusals, ::testing::ValuesIn(Some(false)), TestName);

TEST(PeftMatrix, HasCasesEnoughAndNearlyAllOfThemMatter) {
  EXPECT_GE(std::ssize(Some(true)), kServedMin);
  for (const Case& c : Some(true)) {
    if (c.name == "alpha-zero") continue;
    EXPECT_GE(c.base_distance, 0.5f) << c.name;
  }
}

}  // namespace
}  // namespace lorica
