// What fuzz targets share: the entry that the fuzzer calls, and bytes read as a script.
//
// A target defines LLVMFuzzerTestOneInput, which returns for every input; where what it calls
// breaks a promise it aborts. libFuzzer drives it in the preset `fuzz`; everywhere else
// replay.cc does, over the seeds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lorica {

// Takes numbers from the front of an input; zeros when it is used up.
class FuzzScript {
 public:
  FuzzScript(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return rest_.empty(); }
  uint8_t Byte() {
    if (rest_.empty()) return 0;
    const char c = rest_.front();
    rest_.remove_prefix(1);
    return static_cast<uint8_t>(c);
  }
  // From 0 up to `count` - 1.
  int Below(int count) { return Byte() % count; }
  // Up to the next `end`, which is taken too; all of the rest when there is none.
  std::string_view Until(std::string_view end) {
    const size_t at = rest_.find(end);
    const std::string_view part = rest_.substr(0, at);
    rest_ = at == std::string_view::npos ? std::string_view() : rest_.substr(at + end.size());
    return part;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

}  // namespace lorica
