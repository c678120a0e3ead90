// adapter_config.json and the patterns in it.
#include <cmath>

#include "adapters/adapter.h"
#include "adapters/module_pattern.h"
#include "kernels/check.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lorica;
  const auto config = ParseAdapterConfig({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) {
    LORICA_CHECK(absl::IsFailedPrecondition(config.status()), config.status().ToString());
    return 0;
  }
  LORICA_CHECK(config->rank > 0 && std::isfinite(config->alpha), config->rank, config->alpha);
  const auto ranks = PatternTable<int>::Compile("rank_pattern", config->rank_pattern);
  const auto alphas = PatternTable<double>::Compile("alpha_pattern", config->alpha_pattern);
  for (const char* name : {"model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj"}) {
    if (ranks.ok()) {
      const int* rank = ranks->Find(name);
      LORICA_CHECK(rank == nullptr || *rank > 0);
    }
    if (alphas.ok()) {
      const double* alpha = alphas->Find(name);
      LORICA_CHECK(alpha == nullptr || std::isfinite(*alpha));
    }
  }
  return 0;
}
