#include "server/text/bpe.h"

#include <algorithm>

#include "server/text/utf8.h"

namespace lorica {
namespace {

constexpr int32_t kGone = -1;
constexpr size_t kAlphabetSize = 0x144;  // code points of the alphabet are below this

// Bytes that print stand for themselves; the others follow from U+0100 on, in order.
std::array<int16_t, kAlphabetSize> BuildAlphabet() {
  std::array<int16_t, kAlphabetSize> byte_of;
  byte_of.fill(-1);
  int16_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    byte_of[prints ? byte : next++] = byte;
  }
  return byte_of;
}

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

std::optional<std::string> SpellingToBytes(std::string_view spelling) {
  static const auto byte_of = BuildAlphabet();
  std::string bytes;
  for (size_t at = 0; at < spelling.size();) {
    const Utf8Step step = NextUtf8(spelling.substr(at));
    if (step.code_point >= kAlphabetSize || byte_of[step.code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte_of[step.code_point]));
    at += step.bytes;
  }
  return bytes;
}

std::array<int32_t, 256> BytePairEncoder::EmptyBytes() {
  std::array<int32_t, 256> ids;
  ids.fill(-1);
  return ids;
}

void BytePairEncoder::AddToken(std::string_view bytes, int32_t id) {
  ids_[std::string(bytes)] = id;
  if (bytes.size() == 1) byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
}

absl::Status BytePairEncoder::AddMerge(std::string_view left, std::string_view right) {
  const Merge merge{IdOf(left), IdOf(right), IdOf(std::string(left).append(right))};
  if (merge.left < 0 || merge.right < 0 || merge.whole < 0) {
    return absl::NotFoundError("a part of the merge or its result is not in the vocabulary");
  }
  rank_of_pair_[PairKey(merge.left, merge.right)] = static_cast<int32_t>(merges_.size());
  merges_.push_back(merge);
  return absl::OkStatus();
}

bool BytePairEncoder::has_all_bytes() const {
  return std::none_of(byte_ids_.begin(), byte_ids_.end(), [](int32_t id) { return id < 0; });
}

int32_t BytePairEncoder::IdOf(std::string_view bytes) const {
  const auto found = ids_.find(bytes);
  return found == ids_.end() ? -1 : found->second;
}

void BytePairEncoder::Encode(std::string_view word, BpeScratch* scratch,
                             std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const int32_t id = IdOf(word); id >= 0) return ids->push_back(id);
  }
  FillSymbols(word, scratch);
  MergeAll(scratch);
  for (const auto& symbol : scratch->symbols) {
    if (symbol.id != kGone) ids->push_back(symbol.id);
  }
}

void BytePairEncoder::FillSymbols(std::string_view word, BpeScratch* scratch) const {
  auto& symbols = scratch->symbols;
  symbols.clear();
  bool after_unknown = false;
  for (const char byte : word) {
    const int32_t known = byte_ids_[static_cast<uint8_t>(byte)];
    const int32_t id = known >= 0 ? known : unknown_id_;
    const bool fused = known < 0 && after_unknown && fuse_unknown_;
    after_unknown = known < 0;
    if (id < 0 || fused) continue;
    const int32_t place = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, place - 1, place + 1});
  }
  if (!symbols.empty()) symbols.back().next = -1;
}

void BytePairEncoder::PushPair(int32_t left, BpeScratch* scratch) const {
  const auto& symbols = scratch->symbols;
  if (left < 0 || symbols[left].next < 0) return;
  const auto rank = rank_of_pair_.find(PairKey(symbols[left].id, symbols[symbols[left].next].id));
  if (rank == rank_of_pair_.end()) return;
  scratch->waiting.Push({rank->second, left});
}

void BytePairEncoder::MergeAll(BpeScratch* scratch) const {
  auto& symbols = scratch->symbols;
  for (size_t i = 0; i < symbols.size(); ++i) PushPair(static_cast<int32_t>(i), scratch);
  while (!scratch->waiting.empty()) {
    const auto [rank, place] = scratch->waiting.Pop();
    const Merge& merge = merges_[rank];
    auto& left = symbols[place];
    // An entry whose symbols have changed since it was pushed is void.
    if (left.id != merge.left || left.next < 0 || symbols[left.next].id != merge.right) continue;
    auto& right = symbols[left.next];
    left.id = merge.whole;
    left.next = right.next;
    right.id = kGone;
    if (left.next >= 0) symbols[left.next].previous = place;
    PushPair(left.previous, scratch);
    PushPair(place, scratch);
  }
}

}  // namespace lorica
