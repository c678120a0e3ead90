// Writes GGUF files for tests, right ones and wrong ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lorica {

// Writes GGUF piece by piece; nothing it writes is checked.
class GgufWriter {
 public:
  explicit GgufWriter(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    text_ = "GGUF";
    Put(version);
    Put(tensors);
    Put(keys);
  }
  template <typename T>
  GgufWriter& Put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  GgufWriter& String(const std::string& text) {
    Put<uint64_t>(text.size());
    text_ += text;
    return *this;
  }
  template <typename T>
  GgufWriter& Key(const std::string& name, uint32_t type, T value) {
    return String(name).Put(type).Put(value);
  }
  GgufWriter& TensorInfo(const std::string& name, std::vector<uint64_t> dimensions, uint32_t type,
                         uint64_t offset) {
    String(name).Put<uint32_t>(dimensions.size());
    for (uint64_t dimension : dimensions) Put(dimension);
    return Put(type).Put(offset);
  }
  GgufWriter& Data(int64_t bytes, int alignment = 32) {
    text_.resize((text_.size() + alignment - 1) / alignment * alignment);
    text_.append(bytes, 'd');
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace lorica
