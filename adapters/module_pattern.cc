#include "adapters/module_pattern.h"

#include <re2/re2.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

constexpr int64_t kPatternMemoryMax = 1 << 20;  // RE2's, for one key

absl::StatusOr<std::shared_ptr<const re2::RE2>> CompileKey(const std::string& field,
                                                           const std::string& key) {
  const auto bad = [&](absl::string_view why) {
    return absl::FailedPreconditionError(
        absl::StrCat("adapter_config.json: ", field, " key ", Quoted(key), " ", why));
  };
  if (key.size() > kPatternBytesMax) {
    return bad(absl::StrCat("is over ", kPatternBytesMax, " bytes"));
  }
  re2::RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(kPatternMemoryMax);
  options.set_never_capture(true);
  auto pattern = std::make_shared<const re2::RE2>(absl::StrCat("(.*\\.)?(", key, ")"), options);
  if (!pattern->ok()) return bad(absl::StrCat("is not a usable pattern: ", pattern->error()));
  if (pattern->ProgramSize() > kPatternProgramMax) return bad("is too complex");
  return pattern;
}

}  // namespace

template <typename Value>
absl::StatusOr<PatternTable<Value>> PatternTable<Value>::Compile(
    const std::string& field, const std::vector<std::pair<std::string, Value>>& entries) {
  if (entries.size() > kPatternEntriesMax) {
    return absl::FailedPreconditionError(
        absl::StrCat("adapter_config.json: ", field, " has over ", kPatternEntriesMax, " entries"));
  }
  PatternTable table;
  int64_t program_size = 0;
  for (const auto& [key, value] : entries) {
    absl::StatusOr<std::shared_ptr<const re2::RE2>> pattern = CompileKey(field, key);
    if (!pattern.ok()) return pattern.status();
    program_size += (*pattern)->ProgramSize();
    if (program_size > kPatternTableProgramMax) {
      return absl::FailedPreconditionError(
          absl::StrCat("adapter_config.json: the patterns of ", field, " are too complex"));
    }
    table.entries_.emplace_back(*std::move(pattern), value);
  }
  return table;
}

template <typename Value>
const Value* PatternTable<Value>::Find(const std::string& module_name) const {
  for (const auto& [pattern, value] : entries_) {
    if (re2::RE2::FullMatch(module_name, *pattern)) return &value;
  }
  return nullptr;
}

template class PatternTable<int>;
template class PatternTable<double>;

}  // namespace lorica
