#include "tests/kernels/kernel_test.h"

#include <algorithm>

namespace lorica::testing {
namespace {

// Lays slices into blocks one after another; a slice that does not fit starts a new block.
class ImageWriter {
 public:
  ImageWriter(LoraImage& image, int64_t block_bytes) : image_(image) {
    image_.block_bytes = block_bytes;
  }

  BlockSlice Put(const std::vector<std::byte>& bytes) {
    EXPECT_LE(static_cast<int64_t>(bytes.size()), image_.block_bytes);
    if (blocks_.empty() || offset_ + static_cast<int64_t>(bytes.size()) > image_.block_bytes) {
      blocks_.emplace_back(image_.block_bytes);
      offset_ = 0;
    }
    std::copy(bytes.begin(), bytes.end(), blocks_.back().begin() + offset_);
    const BlockSlice slice{static_cast<int32_t>(blocks_.size()) - 1, static_cast<int32_t>(offset_)};
    offset_ += (bytes.size() + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
    return slice;
  }

  void Finish(Backend& backend) {
    image_.block_count = static_cast<int32_t>(blocks_.size());
    image_.blocks = *backend.NewHostBuffer(image_.block_count * image_.block_bytes);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      std::memcpy(static_cast<std::byte*>(image_.blocks->data()) + i * image_.block_bytes,
                  blocks_[i].data(), image_.block_bytes);
    }
  }

 private:
  LoraImage& image_;
  std::vector<std::vector<std::byte>> blocks_;
  int64_t offset_ = 0;
};

// Element (row, column) of a stored matrix, zeros outside.
void CopyElement(const StoredMatrix& m, int64_t row, int64_t column, std::byte* to) {
  const int64_t bytes = BlockBytes(m.dtype);
  if (row >= m.rows || column >= m.columns) return;
  std::memcpy(to, &m.bytes[(row * m.columns + column) * bytes], bytes);
}

std::vector<std::byte> Tile(const LoraPair& pair, bool is_a, int rank_tile, int64_t first,
                            int64_t width) {
  const int64_t bytes = BlockBytes(pair.a.dtype);
  std::vector<std::byte> tile(kTileRanks * width * bytes);
  for (int64_t w = 0; w < width; ++w) {
    for (int r = 0; r < kTileRanks; ++r) {
      const int rank = rank_tile * kTileRanks + r;
      if (is_a) CopyElement(pair.a, rank, first + w, &tile[(w * kTileRanks + r) * bytes]);
      if (!is_a) CopyElement(pair.b, first + w, rank, &tile[(r * width + w) * bytes]);
    }
  }
  return tile;
}

std::vector<BlockSlice> PutTiles(ImageWriter& writer, const LoraPair& pair, bool is_a) {
  std::vector<BlockSlice> slices;
  const int64_t wide = is_a ? pair.a.columns : pair.b.rows;
  for (int tile = 0; tile * kTileRanks < pair.rank; ++tile) {
    for (int64_t first = 0; first < wide; first += kTileWidth) {
      const int64_t width = std::min<int64_t>(kTileWidth, wide - first);
      slices.push_back(writer.Put(Tile(pair, is_a, tile, first, width)));
    }
  }
  return slices;
}

}  // namespace

void MountPairs(Backend& backend, PoisonedArena& arena, TestAdapter& adapter) {
  LoraImage image;
  ImageWriter writer(image, arena.cache().block_bytes);
  for (const LoraPair& pair : adapter.pairs) {
    ModuleTiles tiles;
    tiles.layer = pair.layer;
    tiles.module = pair.module;
    tiles.rank = pair.rank;
    tiles.scale = pair.scale;
    tiles.dtype = pair.a.dtype;
    tiles.in_features = static_cast<int32_t>(pair.a.columns);
    tiles.out_features = static_cast<int32_t>(pair.b.rows);
    tiles.a_tiles = PutTiles(writer, pair, true);
    tiles.b_tiles = PutTiles(writer, pair, false);
    tiles.has_gain = !pair.gain.empty();
    if (tiles.has_gain) {
      std::vector<std::byte> gain(pair.gain.size() * 4);
      std::memcpy(gain.data(), pair.gain.data(), gain.size());
      tiles.gain = writer.Put(gain);
    }
    tiles.has_bias = !pair.bias.empty();
    if (tiles.has_bias) {
      std::vector<std::byte> bias(pair.bias.size() * 4);
      std::memcpy(bias.data(), pair.bias.data(), bias.size());
      tiles.bias = writer.Put(bias);
    }
    image.modules.push_back(std::move(tiles));
  }
  writer.Finish(backend);
  const std::vector<BlockId> blocks = arena.Take(image.block_count);
  std::vector<BlockCopy> copies;
  for (int32_t i = 0; i < image.block_count; ++i) copies.push_back({image.block(i), blocks[i]});
  const auto ticket = backend.StartCopy(arena.cache(), copies);
  while (!ticket->Done()) std::this_thread::yield();
  ASSERT_TRUE(ticket->status().ok());
  auto mounted = backend.Mount(image, arena.cache(), blocks);
  ASSERT_TRUE(mounted.ok()) << mounted.status();
  adapter.mounted = *std::move(mounted);
}

LoraReference ReferenceLora(const std::vector<std::pair<const TestAdapter*, float>>& terms,
                            int layer, LoraModule module, int64_t out, const float* x) {
  LoraReference result{std::vector<double>(out, 0.0), std::vector<double>(out, 1.0)};
  for (const auto& [adapter, weight] : terms) {
    for (const LoraPair& pair : adapter->pairs) {
      if (pair.layer != layer || pair.module != module) continue;
      for (int r = 0; r < pair.rank; ++r) {
        double u = 0;
        for (int64_t k = 0; k < pair.a.columns; ++k) {
          u += double{pair.a.values[r * pair.a.columns + k]} * x[k];
        }
        for (int64_t o = 0; o < out; ++o) {
          result.delta[o] += double{pair.scale} * weight * u * pair.b.values[o * pair.rank + r];
        }
      }
      for (size_t o = 0; o < pair.bias.size(); ++o) {
        result.delta[o] += double{pair.scale} * weight * pair.bias[o];
      }
      for (size_t o = 0; o < pair.gain.size(); ++o) result.gain[o] *= pair.gain[o];
    }
  }
  return result;
}

}  // namespace lorica::testing
