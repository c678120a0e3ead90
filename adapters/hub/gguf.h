// Bounds-checked GGUF v2/v3 reader (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
//
// Reads metadata and the tensor table from bytes in memory (a private mapping or a
// buffer); tensor data stays where it is. Every count, length and offset is checked
// in 64 bits against the bytes that are there before anything is allocated; errors
// name the field. Little-endian only. Immutable once parsed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lorica {

inline constexpr int64_t kGgufKeysMax = 65536;
inline constexpr int64_t kGgufTensorsMax = 65536;
inline constexpr int64_t kGgufArrayMax = 1 << 24;  // items of one array
inline constexpr int64_t kGgufStringBytesMax = 16 << 20;

using GgufValue = std::variant<int64_t, uint64_t, double, bool, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>>;

struct GgufTensor {
  std::string name;
  uint32_t ggml_type = 0;           // ggml's number: 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 8 Q8_0, 30 BF16
  std::vector<int64_t> dimensions;  // fastest first: [in, out] of a linear
  int64_t begin = 0;                // offset in the file
  int64_t bytes = 0;                // 0 for a type whose size we do not know
};

class GgufFile {
 public:
  // `bytes` is the whole file and must outlive the result.
  static absl::StatusOr<GgufFile> Parse(absl::Span<const std::byte> bytes);

  const GgufTensor* FindTensor(std::string_view name) const;  // null if absent
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const std::byte* data(const GgufTensor& tensor) const { return bytes_.data() + tensor.begin; }
  const GgufValue* FindValue(std::string_view key) const;  // null if absent
  // Typed look-ups; integers of any width are accepted. nullopt: absent or of another kind.
  std::optional<int64_t> Int(std::string_view key) const;
  std::optional<double> Number(std::string_view key) const;
  std::optional<std::string> String(std::string_view key) const;
  std::optional<bool> Bool(std::string_view key) const;
  const std::vector<std::string>* Strings(std::string_view key) const;
  const std::vector<int64_t>* Ints(std::string_view key) const;

 private:
  absl::Span<const std::byte> bytes_;
  absl::flat_hash_map<std::string, GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  absl::flat_hash_map<std::string, int> tensor_index_;
};

}  // namespace lorica
