// What a decoder is, as data: one forward pass runs every family whose variations
// are in this struct. Filled from config.json or GGUF metadata by server/models/families.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace lorica {

inline constexpr int kLayersMax = 512;
inline constexpr int64_t kHiddenMax = 65536;
inline constexpr int64_t kVocabularyMax = 1 << 20;
inline constexpr int64_t kContextTokensMax = 1 << 20;  // served; each takes a row of rotations

// Frequency scaling of rotary embeddings (kind: "default", "linear", "llama3",
// "divisors").
struct RopeScaling {
  std::string kind = "default";
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_context = 8192;
  std::vector<double> divisors;  // kind "divisors": frequency i is divided by divisors[i]
};

struct ModelConfig {
  std::string name;          // folder or file name, or general.name
  std::string architecture;  // "llama"
  int layers = 0;
  int64_t hidden = 0;
  int64_t ffn = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_size = 0;
  int64_t vocabulary = 0;      // rows of the embedding, padding included
  int64_t context_tokens = 0;  // max_position_embeddings
  float norm_epsilon = 1e-5f;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tied_embedding = false;
  bool qkv_bias = false;
  Activation activation = Activation::kSilu;
  std::vector<int32_t> end_tokens;  // any of them ends an answer
  int32_t bos_token = -1;
  int32_t eos_token = -1;

  AttentionShape attention() const;
};

// cos and sin for `positions` positions; the angle is rounded to fp32 first, as the
// reference does.
RopeTable MakeRopeTable(const ModelConfig& config, int64_t positions);

}  // namespace lorica
