#include "adapters/hub/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

constexpr int kShapeRankMax = 8;
constexpr size_t kMetadataBytesMax = 64 << 10;
constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max();

absl::Status Bad(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("safetensors ", what));
}

absl::Status BadTensor(std::string_view name, absl::string_view what) {
  return Bad(absl::StrCat("tensor ", Quoted(name), ": ", what));
}

// 0 = not a safetensors dtype.
int DTypeBits(std::string_view dtype) {
  struct Size {
    std::string_view name;
    int bits;
  };
  static constexpr Size kSizes[] = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"I64", 64},    {"U64", 64},
      {"F64", 64},        {"C64", 64}};
  for (const Size& size : kSizes) {
    if (size.name == dtype) return size.bits;
  }
  return 0;
}

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

// Builds entries while the parser walks, so that nothing is kept that was not checked.
// A callback that returns false stops the parser; status() says why.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  const absl::Status& status() const { return status_; }
  SafetensorsHeader& header() { return header_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Unexpected("a number that is not a 64-bit integer");
  }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) return Unexpected("a number");
    if (value > static_cast<uint64_t>(kInt64Max)) {
      return FailTensor(absl::StrCat("the number ", value, " is too large"));
    }
    std::vector<int64_t>& list = place_ == Place::kShape ? entry_.shape : offsets_;
    const size_t size_max = place_ == Place::kShape ? kShapeRankMax : 2;
    if (list.size() == size_max) {
      return FailTensor(absl::StrCat(field_, " has more than ", size_max, " numbers"));
    }
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) return AddMetadata(value);
    if (place_ != Place::kTensor || field_ != "dtype") return Unexpected("a string");
    if (DTypeBits(value) == 0) {
      return FailTensor(absl::StrCat("dtype ", Quoted(value), " is unknown"));
    }
    entry_.dtype = value;
    return true;
  }

  bool key(string_t& value) override {
    if (place_ == Place::kTop) return BeginTop(value);
    if (place_ == Place::kMetadata) {
      metadata_key_ = value;
      return true;
    }
    field_ = value;
    if (value != "dtype" && value != "shape" && value != "data_offsets") {
      return FailTensor(absl::StrCat("unknown field ", Quoted(value)));
    }
    bool& seen = value == "dtype" ? seen_dtype_ : value == "shape" ? seen_shape_ : seen_offsets_;
    if (std::exchange(seen, true)) return FailTensor(absl::StrCat(value, " appears twice"));
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kBefore) {
      place_ = Place::kTop;
      return true;
    }
    if (place_ != Place::kTop) return Unexpected("an object");
    place_ = entry_.name == "__metadata__" ? Place::kMetadata : Place::kTensor;
    return true;
  }

  bool end_object() override {
    const Place ended = std::exchange(place_, Place::kTop);
    if (ended == Place::kTensor) return EndTensor();
    if (ended == Place::kTop) place_ = Place::kAfter;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") return Unexpected("an array");
    place_ = field_ == "shape" ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(Bad(absl::StrCat("header: not valid JSON at byte ", position)));
  }

 private:
  enum class Place { kBefore, kTop, kMetadata, kTensor, kShape, kOffsets, kAfter };

  bool Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
    return false;
  }
  bool FailTensor(absl::string_view what) { return Fail(BadTensor(entry_.name, what)); }
  bool Unexpected(absl::string_view what) {
    if (place_ == Place::kBefore) return Fail(Bad("header: not a JSON object"));
    if (place_ == Place::kMetadata) {
      return Fail(Bad(absl::StrCat("__metadata__: ", what, " where a string belongs")));
    }
    return FailTensor(absl::StrCat("unexpected ", what));
  }

  bool BeginTop(const std::string& name) {
    entry_ = SafetensorsEntry{name};
    offsets_.clear();
    seen_dtype_ = seen_shape_ = seen_offsets_ = false;
    if (name.size() > kSafetensorsNameBytesMax) {
      return FailTensor(absl::StrCat("its name is over ", kSafetensorsNameBytesMax, " bytes"));
    }
    if (name.empty() || HasControlCharacter(name)) {
      return FailTensor("its name is empty or holds control characters");
    }
    if (!names_.insert(name).second) return FailTensor("appears twice");
    if (header_.entries.size() == kSafetensorsTensorsMax && name != "__metadata__") {
      return Fail(Bad(absl::StrCat("header: more than ", kSafetensorsTensorsMax, " tensors")));
    }
    return true;
  }

  bool AddMetadata(const std::string& value) {
    metadata_bytes_ += metadata_key_.size() + value.size();
    if (metadata_bytes_ > kMetadataBytesMax) {
      return Fail(Bad(absl::StrCat("__metadata__: over ", kMetadataBytesMax, " bytes")));
    }
    if (!header_.metadata.emplace(metadata_key_, value).second) {
      return Fail(Bad(absl::StrCat("__metadata__: ", Quoted(metadata_key_), " appears twice")));
    }
    return true;
  }

  bool EndTensor() {
    if (!seen_dtype_) return FailTensor("dtype is missing");
    if (!seen_shape_) return FailTensor("shape is missing");
    if (offsets_.size() != 2) return FailTensor("data_offsets is not two numbers");
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    header_.entries.push_back(std::move(entry_));
    return true;
  }

  SafetensorsHeader header_;
  absl::Status status_;
  Place place_ = Place::kBefore;
  SafetensorsEntry entry_;
  std::string field_;
  std::string metadata_key_;
  size_t metadata_bytes_ = 0;
  std::vector<int64_t> offsets_;
  bool seen_dtype_ = false;
  bool seen_shape_ = false;
  bool seen_offsets_ = false;
  absl::flat_hash_set<std::string> names_;
};

// Product of shape and dtype, with every step checked for overflow.
absl::StatusOr<int64_t> DataBytes(const SafetensorsEntry& entry) {
  const int64_t bits_each = DTypeBits(entry.dtype);
  int64_t elements = 1;
  for (int64_t dimension : entry.shape) {
    if (dimension != 0 && elements > kInt64Max / bits_each / dimension) {
      return BadTensor(entry.name, "its shape overflows 64 bits");
    }
    elements *= dimension;
  }
  if (elements * bits_each % 8 != 0) return BadTensor(entry.name, "is not a whole number of bytes");
  return elements * bits_each / 8;
}

// Data must be used exactly once: no overlap, no hole, nothing before or behind it.
absl::Status CheckOffsets(std::vector<SafetensorsEntry>& entries, int64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t position = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.end < entry.begin) return BadTensor(entry.name, "data_offsets end before they begin");
    if (entry.end > data_bytes) {
      return BadTensor(entry.name,
                       absl::StrCat("data ends at ", entry.end, ", file has ", data_bytes,
                                    " bytes of data: it was cut, copy it again"));
    }
    if (entry.begin != position) {
      return BadTensor(entry.name, absl::StrCat("data begins at ", entry.begin, ", expected ",
                                                position, " (no overlaps or holes)"));
    }
    absl::StatusOr<int64_t> bytes = DataBytes(entry);
    if (!bytes.ok()) return bytes.status();
    if (*bytes != entry.end - entry.begin) {
      return BadTensor(entry.name,
                       absl::StrCat("shape and dtype need ", *bytes, " bytes, data_offsets give ",
                                    entry.end - entry.begin));
    }
    position = entry.end;
  }
  if (position == data_bytes) return absl::OkStatus();
  return Bad(
      absl::StrCat("data: tensors end at ", position, ", file has ", data_bytes, " bytes of data"));
}

absl::Status CheckText(std::string_view json) {
  if (json.empty() || json.front() != '{') return Bad("header: does not begin with '{'");
  // The JSON parser would take a NUL for the end of the text and ignore the rest.
  if (json.find('\0') != std::string_view::npos) return Bad("header: holds a NUL byte");
  const size_t last = json.find_last_not_of(' ');
  if (json[last] != '}') return Bad("header: does not end with '}' and blanks");
  return absl::OkStatus();
}

}  // namespace

const SafetensorsEntry* SafetensorsHeader::Find(std::string_view name) const {
  const auto found = std::lower_bound(
      entries.begin(), entries.end(), name,
      [](const SafetensorsEntry& entry, std::string_view wanted) { return entry.name < wanted; });
  return found == entries.end() || found->name != name ? nullptr : &*found;
}

absl::StatusOr<int64_t> SafetensorsHeaderBytes(absl::Span<const std::byte> first_eight,
                                               int64_t file_bytes) {
  if (file_bytes < 8 || first_eight.size() < 8) {
    return Bad(absl::StrCat("file: ", file_bytes, " bytes are too few for a header length"));
  }
  uint64_t length = 0;
  std::memcpy(&length, first_eight.data(), sizeof(length));
  if (length > static_cast<uint64_t>(kSafetensorsHeaderBytesMax)) {
    return Bad(absl::StrCat("header length: ", length, " is over the limit of ",
                            kSafetensorsHeaderBytesMax));
  }
  if (static_cast<int64_t>(length) > file_bytes - 8) {
    return Bad(absl::StrCat("header length: ", length, " bytes, file has ", file_bytes,
                            ": it was cut, copy it again"));
  }
  return static_cast<int64_t>(length);
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json,
                                                         int64_t file_bytes) {
  if (absl::Status s = CheckText(json); !s.ok()) return s;
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &handler)) {
    return handler.status().ok() ? Bad("header: not valid JSON") : handler.status();
  }
  SafetensorsHeader header = std::move(handler.header());
  const int64_t data_begin = 8 + static_cast<int64_t>(json.size());
  if (file_bytes < data_begin) return Bad("header: longer than the file");
  if (absl::Status s = CheckOffsets(header.entries, file_bytes - data_begin); !s.ok()) return s;
  for (SafetensorsEntry& entry : header.entries) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  std::sort(header.entries.begin(), header.entries.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return header;
}

}  // namespace lorica
