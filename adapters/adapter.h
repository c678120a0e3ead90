// Adapters as values: ids, parsed PEFT configuration, generations.
//
// A generation is an immutable set of weights named by its content digest: SHA-256
// over the sorted (file name, SHA-256) pairs of adapter_config.json and the weight
// file, written as one line each: the name, a blank, 64 lower-case hex digits and a
// line feed. Requests, leases, KV and metrics use the generation, never the name.
// All types here are plain or immutable and shared by shared_ptr.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/hub/source.h"

namespace lorica {

inline constexpr int kAdapterIdBytesMax = 128;
inline constexpr int64_t kAdapterConfigBytesMax = 1 << 20;
inline constexpr int64_t kAdapterFileBytesMax = int64_t{4} << 30;

// Grammar of adapter ids, the same everywhere:
//   [A-Za-z0-9][A-Za-z0-9._-]* ( / the same )? ( @ [A-Za-z0-9._-]+ )?
// 1 to 128 bytes, no "--", no "..", no part ending in ".git".
// InvalidArgument says which rule was broken, without echoing control characters.
absl::Status CheckAdapterId(std::string_view id);

// The fields of adapter_config.json that change the mathematics.
struct AdapterConfig {
  int rank = 8;
  double alpha = 8.0;
  bool use_rslora = false;
  bool use_dora = false;
  bool lora_bias = false;
  // In file order: PEFT takes the first key that matches (.*\.)?(KEY)$.
  std::vector<std::pair<std::string, int>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  std::vector<std::string> target_modules;  // informational; empty unless it is a list
  std::vector<int> layers_to_transform;     // informational; empty = all
  std::string base_model;                   // informational
  std::vector<std::string> warnings;        // what was accepted and ignored
};

// Parses and refuses: FailedPrecondition with a sentence for what PEFT can write and
// we do not serve; InvalidArgument never (the bytes are not the caller's request).
absl::StatusOr<AdapterConfig> ParseAdapterConfig(std::string_view json);

struct Generation {
  std::string digest;  // 64 lower-case hex digits
  std::shared_ptr<Source> source;
  std::string location;  // in the source
  FileStamp config_stamp;
  FileStamp weights_stamp;
  std::string config_sha256;  // hex
  std::string weights_sha256;
  AdapterConfig config;          // without its patterns
  int64_t file_bytes = 0;        // of the weight file
  int64_t exact_tile_bytes = 0;  // tiles and gains as they will lie in blocks
  int32_t block_count = 0;       // whole blocks it will take
  int rank_max = 0;
  int module_count = 0;  // (layer, module) pairs
};

using GenerationPtr = std::shared_ptr<const Generation>;

}  // namespace lorica
