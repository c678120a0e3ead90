// Weight files: what a header says lies within the file, and maps to the model or is refused.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "adapters/adapter_planner.h"
#include "adapters/hub/safetensors.h"
#include "kernels/check.h"
#include "tests/fakes/made_adapter.h"
#include "tests/fuzz/fuzz.h"

namespace lorica {
namespace {

constexpr int64_t kBlockBytes = 1 << 20;

struct Base {
  Base() {
    for (const LoraTarget& target : model.targets()) by_name[target.name] = &target;
  }
  LittleModel model;
  FakeBackend backend;
  absl::flat_hash_map<std::string, const LoraTarget*> by_name;
};

void CheckEntries(const SafetensorsHeader& header, int64_t header_end, int64_t file_bytes) {
  int64_t sum = 0;
  for (size_t i = 0; i < header.entries.size(); ++i) {
    const SafetensorsEntry& entry = header.entries[i];
    LORICA_CHECK(entry.begin >= header_end && entry.begin <= entry.end, entry.begin, entry.end);
    LORICA_CHECK(entry.end <= file_bytes, entry.end, file_bytes);
    LORICA_CHECK(std::ssize(entry.name) <= kSafetensorsNameBytesMax);
    LORICA_CHECK(i == 0 || header.entries[i - 1].name < entry.name, entry.name);
    LORICA_CHECK(header.Find(entry.name) == &entry);
    sum += entry.end - entry.begin;
  }
  LORICA_CHECK(header_end + sum == file_bytes, "holes or overlaps", sum, file_bytes);
}

void CheckPlan(const AdapterPlan& plan, int64_t file_bytes) {
  LORICA_CHECK(!plan.modules.empty() && plan.modules.size() == plan.layout.size());
  for (const PlannedModule& module : plan.modules) {
    LORICA_CHECK(module.rank >= 1 && module.rank <= plan.rank_max, module.rank);
    LORICA_CHECK(module.a_begin < file_bytes && module.b_begin < file_bytes);
  }
}

}  // namespace
}  // namespace lorica

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lorica;
  static const Base* const base = new Base();
  const absl::Span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto length =
      SafetensorsHeaderBytes(bytes.subspan(0, std::min<size_t>(8, size)), std::ssize(bytes));
  if (!length.ok()) return 0;
  LORICA_CHECK(*length >= 0 && 8 + *length <= std::ssize(bytes), *length);
  const std::string_view json(reinterpret_cast<const char*>(data) + 8, *length);
  const auto header = ParseSafetensorsHeader(json, std::ssize(bytes));
  if (!header.ok()) return 0;
  CheckEntries(*header, 8 + *length, std::ssize(bytes));
  AdapterConfig config;
  config.rank = 4;
  const PlanTargets targets{base->by_name, base->backend, kBlockBytes};
  const auto plan = PlanAdapter(targets, config, *header, std::ssize(bytes));
  if (plan.ok()) CheckPlan(*plan, std::ssize(bytes));
  return 0;
}
