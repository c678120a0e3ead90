// What lies in tests/data/peft: adapters as PEFT wrote them, and the logits that PEFT computed.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "adapters/hub/source.h"
#include "adapters/peft_loader.h"
#include "tests/fakes/test_paths.h"
#include "tests/server/models/model_runner.h"

namespace lorica::peft {

inline constexpr float kTolerance = 2e-4f;  // that of tiny models against fp32 references
inline const std::string kFolder = std::string(LORICA_TEST_DATA) + "/peft";

inline const nlohmann::json& Document() {
  static const auto* const document = new nlohmann::json([] {
    std::ifstream file(kFolder + "/cases.json");
    return nlohmann::json::parse(file);
  }());
  return *document;
}

// One runner a model and device, kept for all cases.
inline ModelRunner& Runner(const std::string& model, const std::string& device = "cpu") {
  static auto* const runners =
      new std::map<std::pair<std::string, std::string>, std::unique_ptr<ModelRunner>>();
  std::unique_ptr<ModelRunner>& runner = (*runners)[{model, device}];
  if (runner == nullptr) {
    auto opened = ModelRunner::Open(kFolder + "/models/" + model, 2, 128, device);
    EXPECT_TRUE(opened.ok()) << opened.status();
    runner = *std::move(opened);
  }
  runner->ForgetAdapters();
  return *runner;
}

inline std::unique_ptr<PeftLoader> MakeLoader(ModelRunner& runner) {
  return std::make_unique<PeftLoader>(runner.model().lora_targets(), &runner.backend(),
                                      runner.cache().block_bytes);
}

inline std::shared_ptr<Source> Adapters() { return *MakeLocalSource(kFolder + "/adapters"); }

inline float LargestDifference(absl::Span<const float> a, absl::Span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    // Written so that NaN counts as large.
    if (!(std::abs(a[i] - b[i]) <= largest)) largest = std::abs(a[i] - b[i]);
  }
  return largest;
}

// The logits of the reference with that index, of the last positions alone.
inline absl::Span<const float> Reference(int64_t index) {
  static const auto* const all = new std::vector<float>(ReadNpy(kFolder + "/logits.npy"));
  const int64_t floats = std::ssize(*all) / static_cast<int64_t>(Document().at("references"));
  return absl::MakeSpan(*all).subspan(index * floats, floats);
}

// The image gives the logits of the reference with that index, in any chunks.
inline void ExpectLogits(ModelRunner& runner, const LoraImage& image, int64_t index) {
  const absl::Span<const float> expected = Reference(index);
  const auto mounted = runner.Mount(image);
  ASSERT_TRUE(mounted.ok()) << mounted.status();
  const std::vector<int32_t> prompt = Document().at("prompt_ids");
  for (const int chunk : {64, 5}) {
    const std::vector<float> logits = runner.Logits(prompt, {chunk}, {{mounted->get(), 1.0f}});
    EXPECT_LE(LargestDifference(absl::MakeSpan(logits).last(expected.size()), expected),
              kTolerance);
  }
}

inline std::string TestName(std::string name) {
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

}  // namespace lorica::peft
