#include "adapters/tile_layout.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace lorica {
namespace {

ModuleTiles Module(int rank, int in, int out, DType dtype = DType::kBF16, bool gain = false) {
  ModuleTiles tiles;
  tiles.rank = rank;
  tiles.dtype = dtype;
  tiles.in_features = in;
  tiles.out_features = out;
  tiles.has_gain = gain;
  return tiles;
}

int64_t Aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Every byte range of a layout, by block; fails where two overlap or leave a block.
int64_t CheckPlacement(const std::vector<ModuleTiles>& modules, int64_t block_bytes,
                       const TileLayout& layout) {
  std::map<std::pair<int, int64_t>, int64_t> ranges;
  int64_t total = 0;
  const auto add = [&](const BlockSlice& slice, int64_t bytes) {
    EXPECT_EQ(slice.offset_bytes % kTileAlignment, 0);
    EXPECT_LE(slice.offset_bytes + bytes, block_bytes);
    EXPECT_LT(slice.block_index, layout.block_count);
    EXPECT_TRUE(ranges.emplace(std::pair(slice.block_index, slice.offset_bytes), bytes).second);
    total += Aligned(bytes);
  };
  for (const ModuleTiles& m : modules) {
    const int element = m.dtype == DType::kF32 ? 4 : 2;
    const auto tiles = [&](const std::vector<BlockSlice>& slices, int features) {
      const int wide = (features + kTileWidth - 1) / kTileWidth;
      EXPECT_EQ(slices.size(), m.rank_tiles() * wide);
      for (size_t i = 0; i < slices.size(); ++i) {
        const int width = std::min<int>(kTileWidth, features - (i % wide) * kTileWidth);
        add(slices[i], int64_t{width} * kTileRanks * element);
      }
    };
    tiles(m.a_tiles, m.in_features);
    tiles(m.b_tiles, m.out_features);
    if (m.has_gain) add(m.gain, int64_t{m.out_features} * 4);
  }
  std::pair<int, int64_t> end = {-1, 0};
  for (const auto& [place, bytes] : ranges) {
    if (place.first == end.first) {
      EXPECT_GE(place.second, end.second);
    }
    end = {place.first, place.second + bytes};
  }
  EXPECT_EQ(total, layout.exact_bytes);
  return total;
}

TEST(TileLayoutTest, CountsTilesAlongTheWideDimension) {
  EXPECT_EQ(WideTiles(1), 1);
  EXPECT_EQ(WideTiles(2048), 1);
  EXPECT_EQ(WideTiles(2049), 2);
  EXPECT_EQ(TileWidth(2049, 0), 2048);
  EXPECT_EQ(TileWidth(2049, 1), 1);
}

TEST(TileLayoutTest, PlacesAlignedTilesThatDoNotOverlap) {
  const uint32_t seed = 5;
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<ModuleTiles> modules;
    for (int i = 1 + random() % 20; i > 0; --i) {
      modules.push_back(Module(1 + random() % 70, 1 + random() % 5000, 1 + random() % 5000,
                               random() % 2 ? DType::kF32 : DType::kF16, random() % 2));
    }
    const int64_t block_bytes = 65536 + 64 * (random() % 8192);
    const auto layout = LayOutTiles(block_bytes, modules);
    ASSERT_TRUE(layout.ok()) << "seed " << seed;
    CheckPlacement(modules, block_bytes, *layout);
    // Two neighbours could never be merged: first fit fills more than half of each.
    EXPECT_LT(layout->block_count * block_bytes, 2 * layout->exact_bytes + block_bytes);
  }
}

// The models people serve: blocks of 16 tokens of KV against their own tiles.
TEST(TileLayoutTest, WastesLessThanOneBlockOnRealShapes) {
  struct Shape {
    const char* name;
    int layers, hidden, kv, ffn;
  };
  const Shape shapes[] = {{"SmolLM2-135M", 30, 576, 192, 1536},
                          {"Llama-3.2-1B", 16, 2048, 512, 8192},
                          {"Llama-3.1-8B", 32, 4096, 1024, 14336},
                          {"TinyLlama-1.1B", 22, 2048, 256, 5632},
                          {"Mistral-7B", 32, 4096, 1024, 14336}};
  for (const Shape& s : shapes) {
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      for (const int rank : {1, 8, 16, 40, 64}) {
        for (const bool dora : {false, true}) {
          std::vector<ModuleTiles> modules;
          for (int layer = 0; layer < s.layers; ++layer) {
            modules.push_back(Module(rank, s.hidden, s.hidden, dtype, dora));
            modules.push_back(Module(rank, s.hidden, s.kv, dtype, dora));
            modules.push_back(Module(rank, s.hidden, s.kv, dtype, dora));
            modules.push_back(Module(rank, s.hidden, s.hidden, dtype, dora));
            modules.push_back(Module(rank, s.hidden, s.ffn, dtype, dora));
            modules.push_back(Module(rank, s.hidden, s.ffn, dtype, dora));
            modules.push_back(Module(rank, s.ffn, s.hidden, dtype, dora));
          }
          const int64_t block_bytes = int64_t{2} * s.layers * s.kv * 16 * 4;
          const auto layout = LayOutTiles(block_bytes, modules);
          ASSERT_TRUE(layout.ok());
          EXPECT_LT(layout->block_count * block_bytes - layout->exact_bytes, block_bytes)
              << s.name << " rank " << rank << " " << DTypeName(dtype) << " dora " << dora;
        }
      }
    }
  }
}

TEST(TileLayoutTest, RefusesTilesLargerThanABlock) {
  std::vector<ModuleTiles> modules = {Module(8, 2048, 64)};  // 32 KiB
  EXPECT_TRUE(LayOutTiles(32768, modules).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(LayOutTiles(32768 - 64, modules).status()));
  std::vector<ModuleTiles> gain = {Module(8, 64, 20000, DType::kBF16, true)};  // g: 80,000 bytes
  EXPECT_TRUE(LayOutTiles(80000, gain).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(LayOutTiles(80000 - 64, gain).status()));
}

TEST(TileLayoutTest, IsTheSameEveryTime) {
  std::vector<ModuleTiles> first = {Module(9, 3000, 70), Module(16, 576, 192)};
  std::vector<ModuleTiles> second = first;
  ASSERT_TRUE(LayOutTiles(1 << 16, first).ok());
  ASSERT_TRUE(LayOutTiles(1 << 16, second).ok());
  for (size_t m = 0; m < first.size(); ++m) {
    for (size_t i = 0; i < first[m].a_tiles.size(); ++i) {
      EXPECT_EQ(first[m].a_tiles[i].block_index, second[m].a_tiles[i].block_index);
      EXPECT_EQ(first[m].a_tiles[i].offset_bytes, second[m].a_tiles[i].offset_bytes);
    }
  }
}

}  // namespace
}  // namespace lorica
