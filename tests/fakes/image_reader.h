// Takes an image apart again, from the words of kernels/lora_tiles.h alone.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/lora_tiles.h"
#include "kernels/tensor.h"

namespace lorica {

inline std::vector<float> TileOf(const LoraImage& image, const ModuleTiles& module,
                                 const BlockSlice& slice, int width) {
  std::vector<float> tile(int64_t{kTileRanks} * width);
  Dequantize(module.dtype, image.block(slice.block_index) + slice.offset_bytes, std::ssize(tile),
             tile.data());
  return tile;
}

// A [padded rank, in].
inline std::vector<float> ReadA(const LoraImage& image, const ModuleTiles& module) {
  const int wide_tiles = (module.in_features + kTileWidth - 1) / kTileWidth;
  std::vector<float> a(int64_t{module.padded_rank()} * module.in_features, -1000);
  for (int rank = 0; rank < module.padded_rank(); ++rank) {
    for (int wide = 0; wide < wide_tiles; ++wide) {
      const int width = std::min(kTileWidth, module.in_features - wide * kTileWidth);
      const BlockSlice& slice = module.a_tiles[rank / kTileRanks * wide_tiles + wide];
      const std::vector<float> tile = TileOf(image, module, slice, width);
      for (int i = 0; i < width; ++i) {
        a[int64_t{rank} * module.in_features + wide * kTileWidth + i] =
            tile[i * kTileRanks + rank % kTileRanks];
      }
    }
  }
  return a;
}

// B [out, padded rank].
inline std::vector<float> ReadB(const LoraImage& image, const ModuleTiles& module) {
  const int wide_tiles = (module.out_features + kTileWidth - 1) / kTileWidth;
  std::vector<float> b(int64_t{module.out_features} * module.padded_rank(), -1000);
  for (int rank = 0; rank < module.padded_rank(); ++rank) {
    for (int wide = 0; wide < wide_tiles; ++wide) {
      const int width = std::min(kTileWidth, module.out_features - wide * kTileWidth);
      const BlockSlice& slice = module.b_tiles[rank / kTileRanks * wide_tiles + wide];
      const std::vector<float> tile = TileOf(image, module, slice, width);
      for (int i = 0; i < width; ++i) {
        b[int64_t{wide * kTileWidth + i} * module.padded_rank() + rank] =
            tile[rank % kTileRanks * width + i];
      }
    }
  }
  return b;
}

inline std::vector<float> ReadGain(const LoraImage& image, const ModuleTiles& module) {
  std::vector<float> gain(module.out_features);
  std::memcpy(gain.data(), image.block(module.gain.block_index) + module.gain.offset_bytes,
              gain.size() * sizeof(float));
  return gain;
}

}  // namespace lorica
