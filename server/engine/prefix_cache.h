// KV that may serve again: whole blocks of what was computed, found by their tokens.
//
// A tree for each (tenant, list of tiles with their weights): a node is one block of the
// arena with the K and V of kBlockTokens tokens behind all the tokens of its parents. Tokens
// are compared, not hashes of them, so nothing is shared across tenants, generations or
// mixes. A request holds nodes from the root down without a gap, and lets go of the deepest
// first; what nobody holds is idle in the arena, which evicts leaves before their parents as it
// needs blocks. Nodes never change, so holders only read them. The engine's thread owns it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/block_arena.h"

namespace lorica {

using BlockTokenIds = std::array<int32_t, kBlockTokens>;

struct PrefixNode {
  PrefixNode* parent = nullptr;  // null: a root, which has no block
  BlockTokenIds tokens = {};
  BlockId block = -1;
  UnitId unit = 0;
  int32_t holders = 0;
  int32_t children = 0;
  std::pair<std::string, std::string> root_key;  // of a root: tenant, tile list
};

// From the root down; empty: no use is made of the cache.
using PrefixChain = std::vector<PrefixNode*>;

// A holder's part of a chain's blocks: each is divided among those who hold it.
double PartOf(const PrefixChain& chain);

class PrefixCache {
 public:
  explicit PrefixCache(BlockArena* arena);
  ~PrefixCache();  // REQUIRES: nothing is held

  // A chain of the root alone, held.
  PrefixChain Begin(const std::string& tenant, const std::string& tile_key);
  // What continues `parent` with these tokens; null: not here.
  PrefixNode* Find(const PrefixNode* parent, const BlockTokenIds& tokens) const;
  void Hold(PrefixNode* node);
  // Makes a node, held once, of the first block of `owner`, a unit with one lease, and puts
  // it at the end of the chain. REQUIRES: Find does not find it.
  void Add(PrefixChain& chain, const BlockTokenIds& tokens, UnitId owner);
  // Lets go of all of it; the chain is empty then.
  void Release(PrefixChain& chain);

  int32_t held_blocks() const { return held_blocks_; }
  int32_t idle_blocks() const { return static_cast<int32_t>(nodes_.size()) - held_blocks_; }
  // `chains` are all there are.
  void CheckInvariants(const std::vector<const PrefixChain*>& chains) const;

 private:
  using Key = std::pair<const PrefixNode*, BlockTokenIds>;

  void Forget(PrefixNode* node);
  void DropRoot(PrefixNode* root);

  BlockArena* const arena_;
  absl::flat_hash_map<Key, std::unique_ptr<PrefixNode>> nodes_;
  absl::flat_hash_map<std::pair<std::string, std::string>, std::unique_ptr<PrefixNode>> roots_;
  int32_t held_blocks_ = 0;
};

}  // namespace lorica
