#include "server/models/model_config.h"

#include <cmath>
#include <numbers>

namespace lorica {
namespace {

// The llama3 rule: long wavelengths are divided by `factor`, short ones kept, those
// between blended (https://huggingface.co/docs/transformers, modeling_rope_utils).
double Llama3Frequency(double frequency, const RopeScaling& scaling) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const double original = static_cast<double>(scaling.original_context);
  if (wavelength < original / scaling.high_freq_factor) return frequency;
  if (wavelength > original / scaling.low_freq_factor) return frequency / scaling.factor;
  const double blend = (original / wavelength - scaling.low_freq_factor) /
                       (scaling.high_freq_factor - scaling.low_freq_factor);
  return frequency * ((1.0 - blend) / scaling.factor + blend);
}

double ScaledFrequency(double frequency, int pair, const RopeScaling& scaling) {
  if (scaling.kind == "linear") return frequency / scaling.factor;
  if (scaling.kind == "llama3") return Llama3Frequency(frequency, scaling);
  if (scaling.kind == "divisors") return frequency / scaling.divisors[pair];
  return frequency;
}

}  // namespace

AttentionShape ModelConfig::attention() const {
  AttentionShape shape;
  shape.layers = layers;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_size = head_size;
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_size)));
  return shape;
}

RopeTable MakeRopeTable(const ModelConfig& config, int64_t positions) {
  RopeTable table;
  table.rotary_size = config.head_size;
  table.positions = positions;
  const int pairs = config.head_size / 2;
  table.cos.resize(positions * pairs);
  table.sin.resize(positions * pairs);
  for (int pair = 0; pair < pairs; ++pair) {
    // The reference keeps the frequencies and the angle in fp32; so do we.
    const float frequency = static_cast<float>(ScaledFrequency(
        std::pow(config.rope_theta, -2.0 * pair / config.head_size), pair, config.rope_scaling));
    for (int64_t position = 0; position < positions; ++position) {
      const float angle = static_cast<float>(position) * frequency;
      table.cos[position * pairs + pair] = static_cast<float>(std::cos(double{angle}));
      table.sin[position * pairs + pair] = static_cast<float>(std::sin(double{angle}));
    }
  }
  return table;
}

}  // namespace lorica
