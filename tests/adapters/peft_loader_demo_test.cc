// The trained adapters of the demo, and those of LORICA_FIXTURES where that is set.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "adapters/hub/safetensors.h"
#include "adapters/peft_loader.h"
#include "tests/fakes/fake_backend.h"
#include "tests/fakes/image_reader.h"
#include "tests/fakes/test_paths.h"

namespace lorica {
namespace {

constexpr int kLayers = 30;
constexpr int kHidden = 576;
constexpr int kKv = 192;
constexpr int kFfn = 1536;
constexpr int64_t kBlockBytes = int64_t{2} * kLayers * kKv * 16 * 4;  // 16 tokens of fp32 K and V

// Gives the magnitudes back as gains, so that the image can be compared with the file.
class MagnitudeBackend : public FakeBackend {
 public:
  absl::StatusOr<std::vector<float>> DoraGain(const LoraTarget&, absl::Span<const float>,
                                              absl::Span<const float>, int, float,
                                              absl::Span<const float> magnitude) override {
    return std::vector<float>(magnitude.begin(), magnitude.end());
  }
};

std::vector<LoraTarget> SmolLmTargets() {
  const std::pair<int, int> shapes[] = {{kHidden, kHidden}, {kHidden, kKv},  {kHidden, kKv},
                                        {kHidden, kHidden}, {kHidden, kFfn}, {kHidden, kFfn},
                                        {kFfn, kHidden}};
  std::vector<LoraTarget> targets;
  for (int layer = 0; layer < kLayers; ++layer) {
    for (int m = 0; m < kLoraModuleCount; ++m) {
      const auto module = static_cast<LoraModule>(m);
      targets.push_back(
          {layer, module,
           absl::StrCat("model.layers.", layer, ".", std::string(LoraModuleName(module))),
           shapes[m].first, shapes[m].second});
    }
  }
  return targets;
}

// A weight file read whole.
struct WeightFile {
  std::string text;
  SafetensorsHeader header;

  std::vector<float> Values(const std::string& name) const {
    const SafetensorsEntry* entry = header.Find(name);
    EXPECT_NE(entry, nullptr) << name;
    if (entry == nullptr) return {};
    const DType dtype = entry->dtype == "F32"   ? DType::kF32
                        : entry->dtype == "F16" ? DType::kF16
                                                : DType::kBF16;
    std::vector<float> values((entry->end - entry->begin) / BlockBytes(dtype));
    Dequantize(dtype, text.data() + entry->begin, std::ssize(values), values.data());
    return values;
  }
};

WeightFile ReadWeights(Source& source, const std::string& location) {
  WeightFile weights;
  const auto file = *source.Open(location, "adapter_model.safetensors");
  weights.text.resize(file->size_bytes());
  auto* bytes = reinterpret_cast<std::byte*>(weights.text.data());
  EXPECT_TRUE(file->ReadAt(0, {bytes, weights.text.size()}).ok());
  const int64_t length = *SafetensorsHeaderBytes({bytes, 8}, file->size_bytes());
  weights.header =
      *ParseSafetensorsHeader(std::string_view(weights.text).substr(8, length), file->size_bytes());
  return weights;
}

void ExpectSame(const LoraImage& image, const WeightFile& weights) {
  for (const ModuleTiles& module : image.modules) {
    const std::string name = absl::StrCat("base_model.model.model.layers.", module.layer, ".",
                                          std::string(LoraModuleName(module.module)));
    std::vector<float> a = weights.Values(name + ".lora_A.weight");
    a.resize(int64_t{module.padded_rank()} * module.in_features);
    EXPECT_EQ(ReadA(image, module), a) << name;
    const std::vector<float> b = weights.Values(name + ".lora_B.weight");
    const std::vector<float> image_b = ReadB(image, module);
    for (int64_t i = 0; i < std::ssize(image_b); ++i) {
      const int64_t rank = i % module.padded_rank();
      const int64_t out = i / module.padded_rank();
      ASSERT_EQ(image_b[i], rank < module.rank ? b[out * module.rank + rank] : 0.0f) << name;
    }
    if (module.has_gain) {
      EXPECT_EQ(ReadGain(image, module), weights.Values(name + ".lora_magnitude_vector")) << name;
    }
  }
}

struct Trained {
  const char* name;
  int modules;
  DType dtype;
  bool dora;
  std::map<std::pair<int, float>, int> ranks_and_scales;  // how many modules have them
};

// From the notes of the training run.
const Trained kTrained[] = {
    {"ticket-triage", 210, DType::kBF16, false, {{{16, 2.0f}, 210}}},
    {"ticket-triage-dora", 210, DType::kF16, true, {{{8, 2.0f}, 210}}},
    {"ner-json", 210, DType::kBF16, false, {{{32, 5.6568542f}, 210}}},
    {"text-to-sql", 60, DType::kF16, false, {{{8, 2.0f}, 60}}},
    {"intent", 120, DType::kF32, false, {{{4, 2.0f}, 120}}},
    // Layers 15 to 29; down_proj r4 a12, v_proj a8, one q_proj r12.
    {"headline",
     105,
     DType::kBF16,
     false,
     {{{4, 3.0f}, 15}, {{8, 1.0f}, 15}, {{8, 2.0f}, 74}, {{12, 16.0f / 12}, 1}}},
};

class DemoAdaptersTest : public ::testing::TestWithParam<Trained> {};

TEST_P(DemoAdaptersTest, LoadsBitForBit) {
  const Trained& trained = GetParam();
  std::shared_ptr<Source> source = *MakeLocalSource(DemoAdaptersPath());
  if (!source->Open(trained.name, "adapter_config.json").ok()) {
    if (FixtureAdaptersPath().empty()) GTEST_SKIP() << "LORICA_FIXTURES is unset";
    source = *MakeLocalSource(FixtureAdaptersPath());
  }
  MagnitudeBackend backend;
  PeftLoader loader(SmolLmTargets(), &backend, kBlockBytes);
  const auto generation = loader.Identify(source, trained.name);
  ASSERT_TRUE(generation.ok()) << generation.status();
  EXPECT_TRUE((*generation)->config.warnings.empty());
  const auto image = loader.LoadImage(**generation);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->dora, trained.dora);
  EXPECT_EQ((*image)->layer_count, kLayers);
  EXPECT_EQ((*generation)->module_count, trained.modules);
  std::map<std::pair<int, float>, int> counts;
  for (const ModuleTiles& module : (*image)->modules) {
    EXPECT_EQ(module.dtype, trained.dtype);
    EXPECT_EQ(module.has_gain, trained.dora);
    ++counts[{module.rank, module.scale}];
  }
  EXPECT_EQ(counts, trained.ranks_and_scales);
  ExpectSame(**image, ReadWeights(*source, trained.name));
  EXPECT_LT((*image)->block_count * kBlockBytes - (*image)->exact_tile_bytes, kBlockBytes);
}

INSTANTIATE_TEST_SUITE_P(Trained, DemoAdaptersTest, ::testing::ValuesIn(kTrained),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace lorica
