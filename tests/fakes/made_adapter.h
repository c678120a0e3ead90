// Small adapters made up for tests, and the little model they fit.
//
// Values are multiples of 1/64 below 2, so that F32, F16 and BF16 hold them exactly.
#pragma once

#include <bit>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/adapter.h"
#include "kernels/lora_tiles.h"
#include "tests/fakes/fake_backend.h"
#include "tests/fakes/safetensors_writer.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {

inline constexpr int kLittleHidden = 40;
inline constexpr int kLittleKv = 16;
inline constexpr int kLittleFfn = 4100;  // two whole tiles and four more
inline constexpr int kLittleLayers = 2;

// The base that little adapters fit, with random fp32 weights.
class LittleModel {
 public:
  LittleModel() {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (int layer = 0; layer < kLittleLayers; ++layer) {
      for (int m = 0; m < kLoraModuleCount; ++m) {
        const auto module = static_cast<LoraModule>(m);
        const auto [out, in] = Shape(module);
        auto weight = std::make_unique<FakeWeight>(out, in);
        for (float& value : weight->values) value = normal(random);
        targets_.push_back({layer, module, Name(layer, module), in, out, weight.get(), 0});
        weights_.push_back(std::move(weight));
      }
    }
  }

  static std::pair<int64_t, int64_t> Shape(LoraModule module) {  // out, in
    switch (module) {
      case LoraModule::kK:
      case LoraModule::kV:
        return {kLittleKv, kLittleHidden};
      case LoraModule::kGate:
      case LoraModule::kUp:
        return {kLittleFfn, kLittleHidden};
      case LoraModule::kDown:
        return {kLittleHidden, kLittleFfn};
      default:
        return {kLittleHidden, kLittleHidden};
    }
  }
  static std::string Name(int layer, LoraModule module) {
    return absl::StrCat("model.layers.", layer, ".", std::string(LoraModuleName(module)));
  }
  const std::vector<LoraTarget>& targets() const { return targets_; }
  FakeWeight& weight(int layer, LoraModule module) {
    return *weights_[layer * kLoraModuleCount + static_cast<int>(module)];
  }

 private:
  std::vector<LoraTarget> targets_;
  std::vector<std::unique_ptr<FakeWeight>> weights_;
};

inline std::vector<float> RandomValues(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = (static_cast<int>(random() % 255) - 127) / 64.0f;
  return values;
}

// fp32 values in a file's dtype; exact for the values of RandomValues.
inline std::string Encoded(const std::string& dtype, const std::vector<float>& values) {
  if (dtype == "F32") return BytesOf(values);
  std::vector<uint16_t> bits;
  for (float value : values) {
    const uint32_t wide = std::bit_cast<uint32_t>(value);
    const uint32_t half = (wide & 0x7fffffff) == 0 ? 0 : ((wide >> 13) & 0x3ffff) - (112 << 10);
    const uint32_t sign = (wide >> 16) & 0x8000;
    bits.push_back(dtype == "BF16" ? wide >> 16 : sign | (half & 0x7fff));
  }
  return BytesOf(bits);
}

// An adapter as PEFT would save it.
struct MadeAdapter {
  std::map<std::string, std::string> config = {
      {"peft_type", "\"LORA\""}, {"r", "4"}, {"lora_alpha", "8"}};
  std::vector<TensorToWrite> tensors;
  std::map<std::string, std::vector<float>> values;  // by tensor name
  uint32_t seed = 1;

  void Add(const std::string& name, const std::string& dtype, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (int64_t dimension : shape) count *= dimension;
    values[name] = RandomValues(count, seed++);
    tensors.push_back({name, dtype, std::move(shape), Encoded(dtype, values[name])});
  }
  void AddPair(int layer, LoraModule module, int rank, const std::string& a_dtype = "F32",
               const std::string& b_dtype = "") {
    const auto [out, in] = LittleModel::Shape(module);
    const std::string base = absl::StrCat("base_model.model.", LittleModel::Name(layer, module));
    Add(base + ".lora_A.weight", a_dtype, {rank, in});
    Add(base + ".lora_B.weight", b_dtype.empty() ? a_dtype : b_dtype, {out, rank});
  }
  void AddMagnitude(int layer, LoraModule module, const std::string& suffix = "") {
    const int64_t out = LittleModel::Shape(module).first;
    const std::string name = absl::StrCat("base_model.model.", LittleModel::Name(layer, module),
                                          ".lora_magnitude_vector", suffix);
    Add(name, "F32", {out});
    for (float& value : values[name]) value = std::abs(value) + 1;
    tensors.back().data = BytesOf(values[name]);
  }

  std::string ConfigText() const {
    std::vector<std::string> fields;
    for (const auto& [key, value] : config) fields.push_back(absl::StrCat("\"", key, "\":", value));
    return absl::StrCat("{", absl::StrJoin(fields, ","), "}");
  }
  std::string WeightsText() const { return SafetensorsFile(tensors); }
  void WriteTo(const TemporaryFolder& folder, const std::string& location) const {
    folder.Write(location + "/adapter_config.json", ConfigText());
    folder.Write(location + "/adapter_model.safetensors", WeightsText());
  }
};

// One pair on layer 0's q_proj: the smallest adapter that serves.
inline MadeAdapter SmallestAdapter(uint32_t seed = 1) {
  MadeAdapter adapter;
  adapter.seed = seed;
  adapter.AddPair(0, LoraModule::kQ, 4);
  return adapter;
}

}  // namespace lorica
