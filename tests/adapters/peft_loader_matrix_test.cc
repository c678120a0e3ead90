// What PEFT writes against what PEFT computes from it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/adapters/peft_matrix.h"

namespace lorica::peft {
namespace {

using ::testing::HasSubstr;

constexpr int kServedMin = 60;

struct Case {
  std::string name;
  std::string model;
  std::string refused;  // words of the refusal; empty: it is served
  int64_t logits = -1;  // which of the references
  float base_distance = 0;
};

std::vector<Case> Cases(bool served) {
  std::vector<Case> cases;
  for (const auto& entry : Document().at("cases")) {
    if (entry.contains("refused") == served) continue;
    cases.push_back({entry.at("name"), entry.at("model"), entry.value("refused", ""),
                     entry.value("logits", int64_t{-1}), entry.value("base_distance", 0.0f)});
  }
  return cases;
}

std::string NameOf(const ::testing::TestParamInfo<Case>& info) { return TestName(info.param.name); }

absl::StatusOr<std::shared_ptr<const LoraImage>> Load(ModelRunner& runner,
                                                      const std::string& name) {
  const auto loader = MakeLoader(runner);
  const auto generation = loader->Identify(Adapters(), name);
  if (!generation.ok()) return generation.status();
  return loader->LoadImage(**generation);
}

class PeftWrites : public ::testing::TestWithParam<Case> {};

TEST_P(PeftWrites, AndItsLogitsAreServed) {
  ModelRunner& runner = Runner(GetParam().model);
  const auto image = Load(runner, GetParam().name);
  ASSERT_TRUE(image.ok()) << image.status();
  ExpectLogits(runner, **image, GetParam().logits);
}

INSTANTIATE_TEST_SUITE_P(All, PeftWrites, ::testing::ValuesIn(Cases(true)), NameOf);

class PeftRefusals : public ::testing::TestWithParam<Case> {};

TEST_P(PeftRefusals, SayWhatIsNotServed) {
  const Case& c = GetParam();
  const auto image = Load(Runner(c.model == "biased" ? "untied" : c.model), c.name);
  EXPECT_EQ(image.status().code(), absl::StatusCode::kFailedPrecondition) << image.status();
  EXPECT_THAT(std::string(image.status().message()), HasSubstr(c.refused));
}

INSTANTIATE_TEST_SUITE_P(All, PeftRefusals, ::testing::ValuesIn(Cases(false)), NameOf);

TEST(PeftMatrix, HasCasesEnoughAndNearlyAllOfThemMatter) {
  EXPECT_GE(std::ssize(Cases(true)), kServedMin);
  for (const Case& c : Cases(true)) {
    if (c.name == "alpha-zero") continue;
    EXPECT_GE(c.base_distance, 0.5f) << c.name;
  }
}

}  // namespace
}  // namespace lorica::peft
