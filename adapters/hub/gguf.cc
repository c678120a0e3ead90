#include "adapters/hub/gguf.h"

#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

constexpr int64_t kKeyBytesMax = 65535;
constexpr int64_t kTensorNameBytesMax = 512;
constexpr uint32_t kDimensionsMax = 4;
constexpr int64_t kAlignmentMax = 1 << 20;
constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max();

enum class ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

absl::Status Bad(absl::string_view field, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("GGUF ", field, ": ", what));
}

// Reads forward over the file; every read is checked against what is left.
class Cursor {
 public:
  explicit Cursor(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  int64_t position() const { return position_; }
  int64_t left() const { return static_cast<int64_t>(bytes_.size()) - position_; }

  template <typename T>
  absl::Status Read(absl::string_view field, T* out) {
    if (left() < static_cast<int64_t>(sizeof(T))) return Short(field, sizeof(T));
    std::memcpy(out, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return absl::OkStatus();
  }

  // A view into the file: a length and that many bytes.
  absl::Status ReadString(absl::string_view field, int64_t bytes_max, std::string_view* out) {
    uint64_t length = 0;
    if (absl::Status s = Read(field, &length); !s.ok()) return s;
    if (length > static_cast<uint64_t>(bytes_max)) {
      return Bad(field, absl::StrCat("its length ", length, " is over the limit of ", bytes_max));
    }
    if (static_cast<int64_t>(length) > left()) return Short(field, length);
    *out = {reinterpret_cast<const char*>(bytes_.data()) + position_, length};
    position_ += length;
    return absl::OkStatus();
  }

 private:
  absl::Status Short(absl::string_view field, uint64_t wanted) const {
    return Bad(field, absl::StrCat("needs ", wanted, " bytes at ", position_, ", the file has ",
                                   bytes_.size(), " bytes"));
  }

  absl::Span<const std::byte> bytes_;
  int64_t position_ = 0;
};

template <typename T, typename Out>
absl::Status ReadAs(Cursor& cursor, absl::string_view field, Out* out) {
  T value{};
  if (absl::Status s = cursor.Read(field, &value); !s.ok()) return s;
  if constexpr (std::is_same_v<T, uint64_t> && std::is_same_v<Out, int64_t>) {
    if (value > static_cast<uint64_t>(kInt64Max)) {
      return Bad(field, absl::StrCat("the number ", value, " is too large"));
    }
  }
  *out = static_cast<Out>(value);
  return absl::OkStatus();
}

// `count` fixed-size items. The count was checked against the bytes left.
template <typename T, typename Out>
absl::StatusOr<GgufValue> ReadItems(Cursor& cursor, absl::string_view field, uint64_t count) {
  if (count * sizeof(T) > static_cast<uint64_t>(cursor.left())) {
    return Bad(field, absl::StrCat("an array of ", count, " items of ", sizeof(T),
                                   " bytes, but only ", cursor.left(), " bytes are left"));
  }
  std::vector<Out> items(count);
  for (Out& item : items) {
    if (absl::Status s = ReadAs<T>(cursor, field, &item); !s.ok()) return s;
  }
  return GgufValue(std::move(items));
}

absl::StatusOr<GgufValue> ReadStrings(Cursor& cursor, absl::string_view field, uint64_t count) {
  if (count * sizeof(uint64_t) > static_cast<uint64_t>(cursor.left())) {
    return Bad(field, absl::StrCat("an array of ", count, " strings, but only ", cursor.left(),
                                   " bytes are left"));
  }
  std::vector<std::string> items;
  items.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    std::string_view item;
    if (absl::Status s = cursor.ReadString(field, kGgufStringBytesMax, &item); !s.ok()) return s;
    items.emplace_back(item);
  }
  return GgufValue(std::move(items));
}

absl::StatusOr<GgufValue> ReadArray(Cursor& cursor, absl::string_view field) {
  uint32_t type = 0;
  uint64_t count = 0;
  if (absl::Status s = cursor.Read(field, &type); !s.ok()) return s;
  if (absl::Status s = cursor.Read(field, &count); !s.ok()) return s;
  if (count > static_cast<uint64_t>(kGgufArrayMax)) {
    return Bad(field,
               absl::StrCat("an array of ", count, " items is over the limit of ", kGgufArrayMax));
  }
  switch (static_cast<ValueType>(type)) {
    case ValueType::kU8:
    case ValueType::kBool:
      return ReadItems<uint8_t, int64_t>(cursor, field, count);
    case ValueType::kI8:
      return ReadItems<int8_t, int64_t>(cursor, field, count);
    case ValueType::kU16:
      return ReadItems<uint16_t, int64_t>(cursor, field, count);
    case ValueType::kI16:
      return ReadItems<int16_t, int64_t>(cursor, field, count);
    case ValueType::kU32:
      return ReadItems<uint32_t, int64_t>(cursor, field, count);
    case ValueType::kI32:
      return ReadItems<int32_t, int64_t>(cursor, field, count);
    case ValueType::kU64:
      return ReadItems<uint64_t, int64_t>(cursor, field, count);
    case ValueType::kI64:
      return ReadItems<int64_t, int64_t>(cursor, field, count);
    case ValueType::kF32:
      return ReadItems<float, double>(cursor, field, count);
    case ValueType::kF64:
      return ReadItems<double, double>(cursor, field, count);
    case ValueType::kString:
      return ReadStrings(cursor, field, count);
    case ValueType::kArray:
      break;
  }
  return Bad(field, absl::StrCat("arrays of type ", type, " are not supported"));
}

template <typename T, typename Out>
absl::StatusOr<GgufValue> ReadScalar(Cursor& cursor, absl::string_view field) {
  Out value{};
  if (absl::Status s = ReadAs<T>(cursor, field, &value); !s.ok()) return s;
  return GgufValue(value);
}

absl::StatusOr<GgufValue> ReadValue(Cursor& cursor, absl::string_view field) {
  uint32_t type = 0;
  if (absl::Status s = cursor.Read(field, &type); !s.ok()) return s;
  switch (static_cast<ValueType>(type)) {
    case ValueType::kU8:
      return ReadScalar<uint8_t, int64_t>(cursor, field);
    case ValueType::kI8:
      return ReadScalar<int8_t, int64_t>(cursor, field);
    case ValueType::kU16:
      return ReadScalar<uint16_t, int64_t>(cursor, field);
    case ValueType::kI16:
      return ReadScalar<int16_t, int64_t>(cursor, field);
    case ValueType::kU32:
      return ReadScalar<uint32_t, int64_t>(cursor, field);
    case ValueType::kI32:
      return ReadScalar<int32_t, int64_t>(cursor, field);
    case ValueType::kI64:
      return ReadScalar<int64_t, int64_t>(cursor, field);
    case ValueType::kU64:
      return ReadScalar<uint64_t, uint64_t>(cursor, field);
    case ValueType::kF32:
      return ReadScalar<float, double>(cursor, field);
    case ValueType::kF64:
      return ReadScalar<double, double>(cursor, field);
    case ValueType::kBool: {
      uint8_t value = 0;
      if (absl::Status s = cursor.Read(field, &value); !s.ok()) return s;
      return GgufValue(value != 0);
    }
    case ValueType::kString: {
      std::string_view value;
      if (absl::Status s = cursor.ReadString(field, kGgufStringBytesMax, &value); !s.ok()) return s;
      return GgufValue(std::string(value));
    }
    case ValueType::kArray:
      return ReadArray(cursor, field);
  }
  return Bad(field, absl::StrCat("value type ", type, " is unknown"));
}

struct FileCounts {
  int64_t tensors = 0;
  int64_t keys = 0;
};

absl::Status CheckVersion(uint32_t version) {
  if (version == 2 || version == 3) return absl::OkStatus();
  if (version == 1) return Bad("version", "1 is not supported: convert the file to version 3");
  if (version != 0 && (version & 0xffff) == 0) {
    return Bad("version", "this is a big-endian file: convert it to little-endian");
  }
  return Bad("version", absl::StrCat(version, " is not supported: 2 and 3 are"));
}

absl::StatusOr<FileCounts> ReadHead(Cursor& cursor) {
  char magic[4] = {};
  uint32_t version = 0;
  uint64_t tensors = 0;
  uint64_t keys = 0;
  if (absl::Status s = cursor.Read("magic", &magic); !s.ok()) return s;
  if (std::memcmp(magic, "GGUF", 4) != 0) return Bad("magic", "the file does not begin with GGUF");
  if (absl::Status s = cursor.Read("version", &version); !s.ok()) return s;
  if (absl::Status s = CheckVersion(version); !s.ok()) return s;
  if (absl::Status s = cursor.Read("tensor_count", &tensors); !s.ok()) return s;
  if (absl::Status s = cursor.Read("metadata_kv_count", &keys); !s.ok()) return s;
  if (tensors > static_cast<uint64_t>(kGgufTensorsMax)) {
    return Bad("tensor_count", absl::StrCat(tensors, " is over the limit of ", kGgufTensorsMax));
  }
  if (keys > static_cast<uint64_t>(kGgufKeysMax)) {
    return Bad("metadata_kv_count", absl::StrCat(keys, " is over the limit of ", kGgufKeysMax));
  }
  return FileCounts{static_cast<int64_t>(tensors), static_cast<int64_t>(keys)};
}

struct BlockSize {
  int64_t elements = 0;  // 0 = unknown type
  int64_t bytes = 0;
};

BlockSize BlockSizeOf(uint32_t ggml_type) {
  switch (ggml_type) {
    case 0:
      return {1, 4};  // F32
    case 1:
      return {1, 2};  // F16
    case 2:
      return {32, 18};  // Q4_0
    case 3:
      return {32, 20};  // Q4_1
    case 8:
      return {32, 34};  // Q8_0
    case 30:
      return {1, 2};  // BF16
    default:
      return {};
  }
}

// Sets tensor.bytes; the product is checked for overflow before it is used.
absl::Status SizeTensor(absl::string_view field, GgufTensor& tensor) {
  int64_t elements = 1;
  for (int64_t dimension : tensor.dimensions) {
    if (elements > kInt64Max / 4 / dimension) return Bad(field, "its dimensions overflow 64 bits");
    elements *= dimension;
  }
  const BlockSize block = BlockSizeOf(tensor.ggml_type);
  if (block.elements == 0) return absl::OkStatus();
  if (tensor.dimensions[0] % block.elements != 0) {
    return Bad(field, absl::StrCat("rows of ", tensor.dimensions[0],
                                   " are not a multiple of its blocks of ", block.elements));
  }
  tensor.bytes = elements / block.elements * block.bytes;
  return absl::OkStatus();
}

absl::StatusOr<GgufTensor> ReadTensorInfo(Cursor& cursor, int64_t index) {
  GgufTensor tensor;
  std::string_view name;
  const std::string number = absl::StrCat("tensor ", index);
  if (absl::Status s = cursor.ReadString(number, kTensorNameBytesMax, &name); !s.ok()) return s;
  tensor.name = std::string(name);
  const std::string field = absl::StrCat("tensor ", Quoted(name));
  uint32_t dimension_count = 0;
  if (absl::Status s = cursor.Read(field, &dimension_count); !s.ok()) return s;
  if (dimension_count < 1 || dimension_count > kDimensionsMax) {
    return Bad(field, absl::StrCat("has ", dimension_count, " dimensions: 1 to 4 are allowed"));
  }
  tensor.dimensions.resize(dimension_count);
  for (int64_t& dimension : tensor.dimensions) {
    if (absl::Status s = ReadAs<uint64_t>(cursor, field, &dimension); !s.ok()) return s;
    if (dimension == 0) return Bad(field, "has a dimension of 0");
  }
  if (absl::Status s = cursor.Read(field, &tensor.ggml_type); !s.ok()) return s;
  if (absl::Status s = ReadAs<uint64_t>(cursor, field, &tensor.begin); !s.ok()) return s;
  if (absl::Status s = SizeTensor(field, tensor); !s.ok()) return s;
  return tensor;
}

// Turns the offset in the data section into one in the file, and checks it.
absl::Status PlaceTensor(int64_t data_begin, int64_t alignment, int64_t file_bytes,
                         GgufTensor& tensor) {
  const std::string field = absl::StrCat("tensor ", Quoted(tensor.name));
  if (tensor.begin % alignment != 0) {
    return Bad(field, absl::StrCat("offset ", tensor.begin, " is not a multiple of ", alignment));
  }
  if (tensor.begin > kInt64Max - data_begin ||
      tensor.bytes > kInt64Max - data_begin - tensor.begin) {
    return Bad(field, absl::StrCat("offset ", tensor.begin, " overflows 64 bits"));
  }
  tensor.begin += data_begin;
  const int64_t end = tensor.begin + tensor.bytes;
  if (end > file_bytes) {
    return Bad(field, absl::StrCat("data ends at ", end, ", file has ", file_bytes, " bytes"));
  }
  return absl::OkStatus();
}

template <typename T>
const T* Held(const GgufValue* value) {
  return value == nullptr ? nullptr : std::get_if<T>(value);
}

}  // namespace

absl::StatusOr<GgufFile> GgufFile::Parse(absl::Span<const std::byte> bytes) {
  GgufFile file;
  file.bytes_ = bytes;
  Cursor cursor(bytes);
  absl::StatusOr<FileCounts> counts = ReadHead(cursor);
  if (!counts.ok()) return counts.status();

  for (int64_t i = 0; i < counts->keys; ++i) {
    std::string_view key;
    absl::Status s = cursor.ReadString(absl::StrCat("key ", i), kKeyBytesMax, &key);
    if (!s.ok()) return s;
    absl::StatusOr<GgufValue> value = ReadValue(cursor, absl::StrCat("key ", Quoted(key)));
    if (!value.ok()) return value.status();
    if (!file.values_.emplace(std::string(key), *std::move(value)).second) {
      return Bad(absl::StrCat("key ", Quoted(key)), "appears twice");
    }
  }

  for (int64_t i = 0; i < counts->tensors; ++i) {
    absl::StatusOr<GgufTensor> tensor = ReadTensorInfo(cursor, i);
    if (!tensor.ok()) return tensor.status();
    if (!file.tensor_index_.emplace(tensor->name, static_cast<int>(i)).second) {
      return Bad(absl::StrCat("tensor ", Quoted(tensor->name)), "appears twice");
    }
    file.tensors_.push_back(*std::move(tensor));
  }

  const GgufValue* alignment_value = file.FindValue("general.alignment");
  const int64_t alignment = file.Int("general.alignment").value_or(alignment_value ? 0 : 32);
  if (alignment < 1 || alignment > kAlignmentMax || (alignment & (alignment - 1)) != 0) {
    return Bad("key 'general.alignment'", "is not a power of two up to 1048576");
  }
  const int64_t data_begin = (cursor.position() + alignment - 1) / alignment * alignment;
  for (GgufTensor& tensor : file.tensors_) {
    absl::Status s = PlaceTensor(data_begin, alignment, bytes.size(), tensor);
    if (!s.ok()) return s;
  }
  return file;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = tensor_index_.find(absl::string_view(name.data(), name.size()));
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

const GgufValue* GgufFile::FindValue(std::string_view key) const {
  const auto found = values_.find(absl::string_view(key.data(), key.size()));
  return found == values_.end() ? nullptr : &found->second;
}

std::optional<int64_t> GgufFile::Int(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (const auto* number = Held<int64_t>(value)) return *number;
  const auto* wide = Held<uint64_t>(value);
  if (wide == nullptr || *wide > static_cast<uint64_t>(kInt64Max)) return std::nullopt;
  return static_cast<int64_t>(*wide);
}

std::optional<double> GgufFile::Number(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (const auto* number = Held<double>(value)) return *number;
  if (const auto* number = Held<int64_t>(value)) return static_cast<double>(*number);
  if (const auto* number = Held<uint64_t>(value)) return static_cast<double>(*number);
  return std::nullopt;
}

std::optional<std::string> GgufFile::String(std::string_view key) const {
  const auto* text = Held<std::string>(FindValue(key));
  return text == nullptr ? std::nullopt : std::optional<std::string>(*text);
}

std::optional<bool> GgufFile::Bool(std::string_view key) const {
  const auto* flag = Held<bool>(FindValue(key));
  return flag == nullptr ? std::nullopt : std::optional<bool>(*flag);
}

const std::vector<std::string>* GgufFile::Strings(std::string_view key) const {
  return Held<std::vector<std::string>>(FindValue(key));
}

const std::vector<int64_t>* GgufFile::Ints(std::string_view key) const {
  return Held<std::vector<int64_t>>(FindValue(key));
}

}  // namespace lorica
