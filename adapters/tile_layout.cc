#include "adapters/tile_layout.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace lorica {
namespace {

struct Item {
  int64_t bytes = 0;
  BlockSlice* slice = nullptr;
};

void AddTiles(const ModuleTiles& module, int64_t features, std::vector<BlockSlice>& slices,
              std::vector<Item>& items) {
  const int wide_tiles = WideTiles(features);
  slices.assign(int64_t{module.rank_tiles()} * wide_tiles, BlockSlice{});
  for (size_t i = 0; i < slices.size(); ++i) {
    const int64_t elements = int64_t{kTileRanks} * TileWidth(features, i % wide_tiles);
    items.push_back({TileSpaceBytes(RowBytes(module.dtype, elements)), &slices[i]});
  }
}

std::vector<Item> ItemsOf(std::vector<ModuleTiles>& modules) {
  std::vector<Item> items;
  for (ModuleTiles& module : modules) {
    AddTiles(module, module.in_features, module.a_tiles, items);
    AddTiles(module, module.out_features, module.b_tiles, items);
    if (module.has_gain) {
      items.push_back({TileSpaceBytes(RowBytes(DType::kF32, module.out_features)), &module.gain});
    }
    if (module.has_bias) {
      items.push_back({TileSpaceBytes(RowBytes(DType::kF32, module.out_features)), &module.bias});
    }
  }
  return items;
}

// First fit. Items of one size come in a row and blocks only fill up, so the search
// for the next one begins where the last was put.
int32_t Pack(int64_t block_bytes, absl::Span<const Item> items) {
  std::vector<int64_t> used;
  size_t block = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0 && items[i].bytes != items[i - 1].bytes) block = 0;
    while (block < used.size() && used[block] + items[i].bytes > block_bytes) ++block;
    if (block == used.size()) used.push_back(0);
    items[i].slice->block_index = static_cast<int32_t>(block);
    items[i].slice->offset_bytes = static_cast<int32_t>(used[block]);
    used[block] += items[i].bytes;
  }
  return static_cast<int32_t>(used.size());
}

}  // namespace

int64_t TileSpaceBytes(int64_t bytes) {
  return (bytes + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
}

int WideTiles(int64_t features) {
  return static_cast<int>((features + kTileWidth - 1) / kTileWidth);
}

int TileWidth(int64_t features, int wide_tile) {
  return static_cast<int>(
      std::min<int64_t>(kTileWidth, features - int64_t{kTileWidth} * wide_tile));
}

absl::StatusOr<TileLayout> LayOutTiles(int64_t block_bytes, std::vector<ModuleTiles>& modules) {
  LORICA_CHECK(block_bytes % kTileAlignment == 0 && block_bytes <= INT32_MAX, block_bytes);
  std::vector<Item> items = ItemsOf(modules);
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.bytes > b.bytes; });
  if (!items.empty() && items.front().bytes > block_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("a tile of the adapter has ", items.front().bytes, " bytes, a block of the ",
                     "arena holds ", block_bytes, ": this base model's blocks are too small"));
  }
  TileLayout layout;
  for (const Item& item : items) layout.exact_bytes += item.bytes;
  layout.block_count = Pack(block_bytes, items);
  return layout;
}

}  // namespace lorica
