#include "server/engine/prefix_cache.h"

#include <algorithm>

#include "kernels/check.h"

namespace lorica {

// Towards the root a node has at least as many holders.
double PartOf(const PrefixChain& chain) {
  double part = 0.0;
  for (auto begin = chain.begin() + !chain.empty(); begin != chain.end();) {
    const int32_t holders = (*begin)->holders;
    const auto end = std::partition_point(
        begin, chain.end(), [&](const PrefixNode* node) { return node->holders == holders; });
    part += static_cast<double>(end - begin) / holders;
    begin = end;
  }
  return part;
}

PrefixCache::PrefixCache(BlockArena* arena) : arena_(arena) {}

PrefixCache::~PrefixCache() {
  LORICA_CHECK(held_blocks_ == 0, "held blocks", held_blocks_);
  for (const auto& [key, node] : nodes_) arena_->Free(node->unit);
}

PrefixChain PrefixCache::Begin(const std::string& tenant, const std::string& tile_key) {
  std::unique_ptr<PrefixNode>& root = roots_[{tenant, tile_key}];
  if (root == nullptr) {
    root = std::make_unique<PrefixNode>();
    root->root_key = {tenant, tile_key};
  }
  ++root->holders;
  return {root.get()};
}

PrefixNode* PrefixCache::Find(const PrefixNode* parent, const BlockTokenIds& tokens) const {
  if (parent->children == 0) return nullptr;
  const auto found = nodes_.find(Key{parent, tokens});
  return found == nodes_.end() ? nullptr : found->second.get();
}

void PrefixCache::Hold(PrefixNode* node) {
  if (node->holders++ == 0) ++held_blocks_;
  arena_->Lease(node->unit);
}

void PrefixCache::Add(PrefixChain& chain, const BlockTokenIds& tokens, UnitId owner) {
  auto node = std::make_unique<PrefixNode>();
  PrefixNode* const made = node.get();
  made->parent = chain.back();
  made->tokens = tokens;
  made->holders = 1;
  made->unit = arena_->SplitFirst(owner, UnitKind::kPrefix, [this, made](UnitId) { Forget(made); });
  made->block = arena_->blocks(made->unit).front();
  ++made->parent->children;
  ++held_blocks_;
  const bool is_new = nodes_.emplace(Key{made->parent, tokens}, std::move(node)).second;
  LORICA_CHECK(is_new, "the block is here already, unit", made->unit);
  chain.push_back(made);
}

void PrefixCache::Release(PrefixChain& chain) {
  for (; !chain.empty(); chain.pop_back()) {
    PrefixNode* const node = chain.back();
    LORICA_CHECK(node->holders > 0, "nobody holds unit", node->unit);
    --node->holders;
    if (node->parent == nullptr) {
      DropRoot(node);
      continue;
    }
    if (node->holders == 0) --held_blocks_;
    arena_->Unlease(node->unit, arena_->NextTick());
  }
}

// Evicted: its unit is gone.
void PrefixCache::Forget(PrefixNode* node) {
  LORICA_CHECK(node->holders == 0 && node->children == 0, "holders", node->holders, "children",
               node->children);
  PrefixNode* const parent = node->parent;
  --parent->children;
  nodes_.erase(Key{parent, node->tokens});
  if (parent->parent == nullptr) DropRoot(parent);
}

void PrefixCache::DropRoot(PrefixNode* root) {
  if (root->holders > 0 || root->children > 0) return;
  roots_.erase(roots_.find(root->root_key));
}

void PrefixCache::CheckInvariants(const std::vector<const PrefixChain*>& chains) const {
  absl::flat_hash_map<const PrefixNode*, int32_t> holders;
  for (const PrefixChain* chain : chains) {
    for (size_t i = 0; i < chain->size(); ++i) {
      const PrefixNode* above = i == 0 ? nullptr : (*chain)[i - 1];
      LORICA_CHECK((*chain)[i]->parent == above, "a chain has a gap at", i);
      ++holders[(*chain)[i]];
    }
  }
  absl::flat_hash_map<const PrefixNode*, int32_t> children;
  int32_t held = 0;
  for (const auto& [key, node] : nodes_) {
    LORICA_CHECK(key == Key(node->parent, node->tokens), "unit", node->unit);
    LORICA_CHECK(node->holders == holders[node.get()], "unit", node->unit, "holders", node->holders,
                 "counted", holders[node.get()]);
    LORICA_CHECK(node->holders == arena_->lease_count(node->unit), "unit", node->unit);
    LORICA_CHECK(node->holders <= node->parent->holders, "unit", node->unit, "is held alone");
    held += node->holders > 0;
    ++children[node->parent];
  }
  for (const auto& [key, root] : roots_) {
    LORICA_CHECK(root->holders == holders[root.get()], "root of", key.first);
    LORICA_CHECK(root->holders + root->children > 0, "an empty root of", key.first);
    LORICA_CHECK(root->children == children[root.get()], "root of", key.first);
  }
  for (const auto& [key, node] : nodes_) {
    LORICA_CHECK(node->children == children[node.get()], "unit", node->unit);
  }
  LORICA_CHECK(held == held_blocks_, held, held_blocks_);
  LORICA_CHECK(static_cast<int32_t>(nodes_.size()) == arena_->blocks_of(UnitKind::kPrefix),
               nodes_.size());
}

}  // namespace lorica
