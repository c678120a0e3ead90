// Writes safetensors files for tests, right ones and wrong ones.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lorica {

struct TensorToWrite {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};

// length, header, data; the length need not be true.
inline std::string SafetensorsFile(const std::string& header, const std::string& data = "",
                                   int64_t length = -1) {
  const uint64_t bytes = length < 0 ? header.size() : static_cast<uint64_t>(length);
  std::string file(8, '\0');
  std::memcpy(file.data(), &bytes, sizeof(bytes));
  return file + header + data;
}

// Tensors one behind the other, in the order given.
inline std::string SafetensorsFile(const std::vector<TensorToWrite>& tensors) {
  std::vector<std::string> entries = {R"("__metadata__":{"format":"pt"})"};
  std::string data;
  for (const TensorToWrite& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.data;
    entries.push_back(absl::StrCat("\"", tensor.name, R"(":{"dtype":")", tensor.dtype,
                                   R"(","shape":[)", absl::StrJoin(tensor.shape, ","),
                                   R"(],"data_offsets":[)", begin, ",", data.size(), "]}"));
  }
  return SafetensorsFile(absl::StrCat("{", absl::StrJoin(entries, ","), "}"), data);
}

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

}  // namespace lorica
