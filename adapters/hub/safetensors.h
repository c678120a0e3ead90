// Bounds-checked safetensors header (https://github.com/huggingface/safetensors).
//
// The file is u64 little-endian N, N bytes of JSON, data. Parsing reads the header
// alone; every size and offset is checked in 64 bits before anything is allocated,
// and errors name the field that lies. Strict rules of the reference reader plus our
// caps; duplicates are refused. A parsed header is immutable and may be shared.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lorica {

inline constexpr int64_t kSafetensorsHeaderBytesMax = 16 << 20;
inline constexpr int kSafetensorsTensorsMax = 65536;
inline constexpr int kSafetensorsNameBytesMax = 512;

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // "F32", "F16", "BF16", "I64", ... as in the file
  std::vector<int64_t> shape;
  int64_t begin = 0;  // from the start of the file, checked
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;                      // by name
  std::map<std::string, std::string> metadata;                // "__metadata__"
  const SafetensorsEntry* Find(std::string_view name) const;  // null if absent
};

// First 8 bytes -> header length, checked against the file size and the cap.
absl::StatusOr<int64_t> SafetensorsHeaderBytes(absl::Span<const std::byte> first_eight,
                                               int64_t file_bytes);

// `json` is the header's text; file_bytes the size of the whole file.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, int64_t file_bytes);

}  // namespace lorica
