// A tokenizer whose text is easy to foresee: one token a byte (its value), and three
// more: kEnd "<end>" and kTurn "<turn>", both special, and kPair, the bytes "\n\n".
#pragma once

#include <string>

#include "server/text/tokenizer.h"

namespace lorica {

class FakeTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kEnd = 256;
  static constexpr int32_t kTurn = 257;
  static constexpr int32_t kPair = 258;

  FakeTokenizer() {
    for (int i = 0; i < 256; ++i) bytes_[i] = static_cast<char>(i);
  }
  absl::Status Encode(std::string_view text, bool parse_special,
                      std::vector<int32_t>* ids) const override {
    while (!text.empty()) {
      int32_t id = static_cast<unsigned char>(text[0]);
      for (const int32_t longer : {kEnd, kTurn, kPair}) {
        const bool special = IsSpecial(longer);
        if (text.starts_with(TokenBytes(longer)) && (parse_special || !special)) id = longer;
      }
      ids->push_back(id);
      text.remove_prefix(TokenBytes(id).size());
    }
    return absl::OkStatus();
  }
  std::string_view TokenBytes(int32_t id) const override {
    if (id == kEnd) return "<end>";
    if (id == kTurn) return "<turn>";
    if (id == kPair) return "\n\n";
    return std::string_view(&bytes_[id], 1);
  }
  bool IsSpecial(int32_t id) const override { return id == kEnd || id == kTurn; }
  int32_t IdOf(std::string_view token) const override {
    for (int32_t id = 0; id < size(); ++id) {
      if (TokenBytes(id) == token) return id;
    }
    return -1;
  }
  int32_t size() const override { return 259; }

 private:
  char bytes_[256];
};

}  // namespace lorica
