// Packs the tiles of an adapter into blocks.
//
// Tiles come in few sizes and never straddle blocks, so the largest go first and
// smaller ones fill what is left. Pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/lora_tiles.h"

namespace lorica {

struct TileLayout {
  int64_t exact_bytes = 0;  // of tiles, gains and biases, each rounded up to kTileAlignment
  int32_t block_count = 0;
};

// Number of tiles along a wide dimension, and the width of one of them.
int WideTiles(int64_t features);
int TileWidth(int64_t features, int wide_tile);

// What a tile, gain or bias of `bytes` takes of its block.
int64_t TileSpaceBytes(int64_t bytes);

// Fills a_tiles, b_tiles, gain and bias of every module; the same input gives the same
// layout. FailedPrecondition: a tile is larger than a block.
absl::StatusOr<TileLayout> LayOutTiles(int64_t block_bytes, std::vector<ModuleTiles>& modules);

}  // namespace lorica
