// Byte-pair encoding of one word: bytes to tokens by merging the best pair until none is left.
//
// The pair with the lowest rank goes first, the leftmost on ties. A queue of pairs over a
// linked list of symbols makes that O(n log n). Immutable once built: thread-safe, with one
// BpeScratch per call at a time. Tokens are plain bytes here; the printable alphabet of
// vocabularies is undone by SpellingToBytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "server/text/merge_queue.h"
#include "server/text/string_map.h"

namespace lorica {

// GPT-2's printable alphabet back to bytes; nullopt if a character is not of it.
std::optional<std::string> SpellingToBytes(std::string_view spelling);

struct BpeScratch {
  struct Symbol {
    int32_t id;
    int32_t previous;  // -1: none
    int32_t next;      // -1: none
  };
  std::vector<Symbol> symbols;
  MergeQueue waiting;
};

class BytePairEncoder {
 public:
  // Later additions win over earlier ones. `bytes` not empty.
  void AddToken(std::string_view bytes, int32_t id);
  // Ranks count up with each call. NotFound: a part or the whole is no token.
  absl::Status AddMerge(std::string_view left, std::string_view right);
  // Words that are a token as a whole are not cut.
  void set_ignore_merges(bool on) { ignore_merges_ = on; }
  // What a byte without a token becomes; by default it vanishes.
  void set_unknown(int32_t id, bool fuse) { unknown_id_ = id, fuse_unknown_ = fuse; }

  bool has_all_bytes() const;
  int32_t IdOf(std::string_view bytes) const;  // -1: none
  void Encode(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    int32_t left;
    int32_t right;
    int32_t whole;
  };
  void FillSymbols(std::string_view word, BpeScratch* scratch) const;
  void PushPair(int32_t left, BpeScratch* scratch) const;
  void MergeAll(BpeScratch* scratch) const;

  StringMap<int32_t> ids_;
  std::array<int32_t, 256> byte_ids_ = EmptyBytes();
  absl::flat_hash_map<uint64_t, int32_t> rank_of_pair_;  // left << 32 | right -> into merges_
  std::vector<Merge> merges_;
  bool ignore_merges_ = false;
  int32_t unknown_id_ = -1;
  bool fuse_unknown_ = false;

  static std::array<int32_t, 256> EmptyBytes();
};

}  // namespace lorica
