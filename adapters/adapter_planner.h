// Maps the tensors of a weight file to places in the base model and checks them.
//
// Needs the header of the file alone. Every refusal is FailedPrecondition with its
// own sentence and at most kQuotedNamesMax names. Stateless.
#pragma once

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "adapters/hub/safetensors.h"
#include "adapters/peft_loader.h"
#include "kernels/backend.h"

namespace lorica {

inline constexpr double kLoraScaleUsual = 1e4;  // beyond it the plan has a warning

struct PlanTargets {
  const absl::flat_hash_map<std::string, const LoraTarget*>& by_name;
  const Backend& backend;  // says which dtype tiles are stored in
  int64_t block_bytes = 0;
};

absl::StatusOr<AdapterPlan> PlanAdapter(const PlanTargets& targets, AdapterConfig config,
                                        const SafetensorsHeader& header, int64_t file_bytes);

}  // namespace lorica
