#include "server/text/unicode.h"

#include <algorithm>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/text/unicode_tables.h"
#include "server/text/utf8.h"

namespace lorica::unicode {
namespace {

constexpr char32_t kCodePoints = 0x110000;
constexpr char32_t kFirstNotAlwaysNfc = 0x300;  // everything below is its own normal form

void MarkRuns(const int32_t* runs, int size, uint8_t classes, std::vector<uint8_t>* out) {
  size_t at = 0;
  for (int i = 0; i < size; i += 2) {
    at += runs[i];
    for (int32_t n = 0; n < runs[i + 1]; ++n) (*out)[at++] |= classes;
  }
}

std::vector<uint8_t> BuildClasses() {
  std::vector<uint8_t> classes(kCodePoints);
  MarkRuns(kLetterRuns, kLetterRunsSize, kLetter | kWord, &classes);
  MarkRuns(kNumberRuns, kNumberRunsSize, kNumber | kWord, &classes);
  MarkRuns(kSpaceRuns, kSpaceRunsSize, kSpace, &classes);
  MarkRuns(kWordMarkRuns, kWordMarkRunsSize, kWord, &classes);
  return classes;
}

// Hangul syllables are composed by arithmetic: Unicode chapter 3.12.
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28;

struct Pair {
  char32_t first = 0;
  char32_t second = 0;
};

struct Normalization {
  std::vector<uint8_t> combining_class = std::vector<uint8_t>(kCodePoints);
  absl::flat_hash_map<char32_t, Pair> parts;
  absl::flat_hash_map<uint64_t, char32_t> composed;  // key: first << 32 | second
};

Normalization BuildNormalization() {
  Normalization data;
  char32_t at = 0;
  for (int i = 0; i < kCombiningRunsSize; i += 3) {
    at += kCombiningRuns[i];
    for (int32_t n = 0; n < kCombiningRuns[i + 1]; ++n) {
      data.combining_class[at++] = kCombiningRuns[i + 2];
    }
  }
  at = 0;
  for (int i = 0; i < kDecompositionsSize; i += 3) {
    at += kDecompositions[i];
    const char32_t first = kDecompositions[i + 1];
    const int32_t second = kDecompositions[i + 2];
    data.parts[at] = {first, static_cast<char32_t>(second < 0 ? -second : second)};
    if (second > 0) data.composed[uint64_t{first} << 32 | second] = at;
  }
  return data;
}

const Normalization& Data() {
  static const auto* const data = new Normalization(BuildNormalization());
  return *data;
}

uint8_t CombiningClass(char32_t c) { return Data().combining_class[c]; }

void Decompose(char32_t c, std::u32string* out) {
  if (c - kSyllable < kLeads * kVowels * kTails) {
    const char32_t index = c - kSyllable;
    out->push_back(kLead + index / (kVowels * kTails));
    out->push_back(kVowel + index / kTails % kVowels);
    if (index % kTails != 0) out->push_back(kTail + index % kTails);
    return;
  }
  const auto found = Data().parts.find(c);
  if (found == Data().parts.end()) {
    out->push_back(c);
    return;
  }
  Decompose(found->second.first, out);
  if (found->second.second != 0) Decompose(found->second.second, out);
}

char32_t Compose(char32_t first, char32_t second) {
  if (first - kLead < kLeads && second - kVowel < kVowels) {
    return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kTails;
  }
  const bool open_syllable =
      first - kSyllable < kLeads * kVowels * kTails && (first - kSyllable) % kTails == 0;
  if (open_syllable && second > kTail && second - kTail < kTails) return first + second - kTail;
  const auto found = Data().composed.find(uint64_t{first} << 32 | second);
  return found == Data().composed.end() ? 0 : found->second;
}

// Sorts every run of marks by combining class, equal ones staying in order.
void OrderMarks(std::u32string* text) {
  for (size_t i = 0; i < text->size();) {
    if (CombiningClass((*text)[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < text->size() && CombiningClass((*text)[end]) != 0) ++end;
    std::stable_sort(text->begin() + i, text->begin() + end,
                     [](char32_t a, char32_t b) { return CombiningClass(a) < CombiningClass(b); });
    i = end;
  }
}

void ComposeAll(std::u32string* text) {
  size_t out = 0, starter = std::u32string::npos;
  int last_class = -1;  // of what was kept after the starter; -1: nothing
  for (size_t i = 0; i < text->size(); ++i) {
    const char32_t c = (*text)[i];
    const int combining = CombiningClass(c);
    const bool reachable = starter != std::u32string::npos && last_class < combining;
    if (const char32_t joined = reachable ? Compose((*text)[starter], c) : 0; joined != 0) {
      (*text)[starter] = joined;
      continue;
    }
    if (combining == 0) starter = out;
    last_class = combining == 0 ? -1 : combining;
    (*text)[out++] = c;
  }
  text->resize(out);
}

}  // namespace

uint8_t ClassesOf(char32_t code_point) {
  static const auto* const classes = new std::vector<uint8_t>(BuildClasses());
  return (*classes)[code_point];
}

std::string NormalizeNfc(std::string_view text) {
  std::u32string points;
  bool unchanged = true;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    unchanged = unchanged && step.code_point < kFirstNotAlwaysNfc;
    points.push_back(step.code_point);
    at += step.bytes;
  }
  if (unchanged) return std::string(text);
  std::u32string parts;
  for (const char32_t c : points) Decompose(c, &parts);
  OrderMarks(&parts);
  ComposeAll(&parts);
  std::string out;
  for (const char32_t c : parts) AppendUtf8(c, &out);
  return out;
}

}  // namespace lorica::unicode
