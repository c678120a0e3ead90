#include "server/text/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

struct Lead {
  int bytes;           // of the whole character; 0: never starts one
  uint8_t second_low;  // bounds of the byte that follows
  uint8_t second_high;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

size_t AsciiPrefix(std::string_view text) {
  size_t i = 0;
  for (uint64_t word; i + 8 <= text.size(); i += 8) {
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (i < text.size() && static_cast<uint8_t>(text[i]) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Step NextUtf8(std::string_view text) {
  const auto at = [&](int i) { return static_cast<uint8_t>(text[i]); };
  if (at(0) < 0x80) return {Utf8Kind::kCharacter, 1, at(0)};
  const Lead lead = LeadOf(at(0));
  if (lead.bytes == 0) return {};
  char32_t code_point = at(0) & (0x7F >> lead.bytes);
  for (int i = 1; i < lead.bytes; ++i) {
    if (i == static_cast<int>(text.size())) return {Utf8Kind::kIncomplete, i};
    const bool second = i == 1;
    if (at(i) < (second ? lead.second_low : 0x80) || at(i) > (second ? lead.second_high : 0xBF)) {
      return {Utf8Kind::kInvalid, i};
    }
    code_point = code_point << 6 | (at(i) & 0x3F);
  }
  return {Utf8Kind::kCharacter, lead.bytes, code_point};
}

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), BeginsCharacter);
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto put = [&](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  const auto tail = [&](int shift) { put(0x80 | ((code_point >> shift) & 0x3F)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6), tail(0);
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12), tail(6), tail(0);
  } else {
    put(0xF0 | code_point >> 18), tail(12), tail(6), tail(0);
  }
}

absl::Status CheckUtf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    at += AsciiPrefix(text.substr(at));
    if (at == text.size()) break;
    const Utf8Step step = NextUtf8(text.substr(at));
    if (step.kind != Utf8Kind::kCharacter) {
      return absl::InvalidArgumentError(
          absl::StrCat("the text is not valid UTF-8 at byte ", at, ": send UTF-8"));
    }
    at += step.bytes;
  }
  return absl::OkStatus();
}

}  // namespace lorica
