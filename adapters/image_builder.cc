#include "adapters/image_builder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/element_convert.h"
#include "adapters/tile_layout.h"
#include "adapters/transpose.h"

namespace lorica {
namespace {

// Which elements of a matrix a tile holds.
struct TileRange {
  int rank_begin = 0;
  int rank_count = 0;
  int64_t wide_begin = 0;
  int width = 0;
};

TileRange RangeOf(const ModuleTiles& tiles, int64_t features, int tile) {
  const int wide_tiles = WideTiles(features);
  TileRange range;
  range.rank_begin = tile / wide_tiles * kTileRanks;
  range.rank_count = std::min(kTileRanks, tiles.rank - range.rank_begin);
  range.wide_begin = int64_t{kTileWidth} * (tile % wide_tiles);
  range.width = TileWidth(features, tile % wide_tiles);
  return range;
}

// Whether all of a tile can be packed in squares of 8 by 8.
template <int element_bytes>
bool IsSquares(const TileRange& range) {
  return element_bytes == 2 && range.rank_count == kTileRanks && range.width % kTileRanks == 0;
}
static_assert(kTileRanks == 8);

// A [rank, in] in the file, [width][kTileRanks] in a tile.
template <int element_bytes>
void PackA(const std::byte* a, int64_t in_features, const TileRange& range, std::byte* tile) {
  if (IsSquares<element_bytes>(range)) {
    const std::byte* rows = a + (range.rank_begin * in_features + range.wide_begin) * 2;
    TransposeSquares(rows, {in_features, 8}, tile, {kTileRanks, 8 * kTileRanks}, range.width / 8);
    return;
  }
  for (int rank = 0; rank < range.rank_count; ++rank) {
    const std::byte* row =
        a + ((range.rank_begin + rank) * in_features + range.wide_begin) * element_bytes;
    for (int i = 0; i < range.width; ++i) {
      std::memcpy(tile + (i * kTileRanks + rank) * element_bytes, row + i * element_bytes,
                  element_bytes);
    }
  }
}

// B [out, rank] in the file, [kTileRanks][width] in a tile.
template <int element_bytes>
void PackB(const std::byte* b, int rank_total, const TileRange& range, std::byte* tile) {
  if (IsSquares<element_bytes>(range)) {
    const std::byte* rows = b + (range.wide_begin * rank_total + range.rank_begin) * 2;
    TransposeSquares(rows, {rank_total, int64_t{8} * rank_total}, tile, {range.width, 8},
                     range.width / 8);
    return;
  }
  for (int i = 0; i < range.width; ++i) {
    const std::byte* row =
        b + ((range.wide_begin + i) * rank_total + range.rank_begin) * element_bytes;
    for (int rank = 0; rank < range.rank_count; ++rank) {
      std::memcpy(tile + (rank * range.width + i) * element_bytes, row + rank * element_bytes,
                  element_bytes);
    }
  }
}

// The elements in the type of the tiles, in `storage` where they had to be converted.
absl::StatusOr<const std::byte*> InTileType(const std::string& name, DType from, DType to,
                                            absl::Span<const std::byte> elements,
                                            std::vector<std::byte>& storage) {
  if (!AllFinite(from, elements)) {
    return absl::DataLossError(absl::StrCat(name, kNotFinite));
  }
  if (from == to) return elements.data();
  storage = ConvertElements(from, to, elements);
  if (!AllFinite(to, storage)) {
    return absl::FailedPreconditionError(absl::StrCat(name, " holds a value that is too large for ",
                                                      std::string(DTypeName(to)),
                                                      ", which this device computes in"));
  }
  return storage.data();
}

// DoRA's g of an embedding, whose norms are those of the table's columns:
//   g_i = m_i / || W_:i + s (B A)_i ||        A [rank, vocabulary], B [hidden, rank]
absl::StatusOr<std::vector<float>> EmbeddingGain(const LoraTarget& target,
                                                 const std::vector<float>& a,
                                                 const std::vector<float>& b, float scale,
                                                 const std::vector<float>& magnitude,
                                                 const Backend& backend) {
  const int64_t tokens = target.in_features;
  const int64_t hidden = target.out_features;
  const int64_t rank = std::ssize(b) / hidden;
  std::vector<double> squares(hidden, 0.0);
  std::vector<float> row(hidden);
  std::vector<float> u(rank);
  for (int64_t token = 0; token < tokens; ++token) {
    const absl::StatusOr<float> read = backend.ReadRow(*target.weight, token, absl::MakeSpan(row));
    if (!read.ok()) return read.status();
    for (int64_t r = 0; r < rank; ++r) u[r] = scale * a[r * tokens + token];
    for (int64_t i = 0; i < hidden; ++i) {
      float value = row[i];
      for (int64_t r = 0; r < rank; ++r) value += u[r] * b[i * rank + r];
      squares[i] += double{value} * value;
    }
  }
  std::vector<float> gain(hidden);
  for (int64_t i = 0; i < hidden; ++i) {
    gain[i] = static_cast<float>(magnitude[i] / std::sqrt(squares[i]));
    if (std::isfinite(gain[i])) continue;
    return absl::DataLossError(absl::StrCat("the DoRA norm of column ", i, " of the embedding ",
                                            "is zero or not finite: its weights are damaged"));
  }
  return gain;
}

std::vector<float> Floats(const ModuleTiles& tiles, const std::byte* elements, int64_t features) {
  std::vector<float> values(int64_t{tiles.rank} * features);
  Dequantize(tiles.dtype, elements, std::ssize(values), values.data());
  return values;
}

absl::Status ToFloats(const std::string& name, DType from, absl::Span<const std::byte> elements,
                      float* out) {
  if (!AllFinite(from, elements)) {
    return absl::DataLossError(absl::StrCat(name, kNotFinite));
  }
  Dequantize(from, elements.data(), std::ssize(elements) / BlockBytes(from), out);
  return absl::OkStatus();
}

// Zeros where nothing will be written: tiles of fewer ranks, what follows a tile up to the next,
// and the ends of blocks. To clear all would be one more pass over memory for every load.
void ClearUnwritten(LoraImage& image) {
  auto* const blocks = static_cast<std::byte*>(image.blocks->data());
  std::vector<int64_t> ends(image.block_count, 0);
  const auto take = [&](const BlockSlice& slice, int64_t bytes, bool whole) {
    const int64_t taken = TileSpaceBytes(bytes);
    std::byte* const begin = blocks + slice.block_index * image.block_bytes + slice.offset_bytes;
    if (!whole || taken != bytes) std::memset(begin, 0, taken);
    int64_t& end = ends[slice.block_index];
    end = std::max(end, slice.offset_bytes + taken);
  };
  for (const ModuleTiles& tiles : image.modules) {
    const auto take_tiles = [&](const std::vector<BlockSlice>& slices, int64_t features) {
      for (int i = 0; i < std::ssize(slices); ++i) {
        const TileRange range = RangeOf(tiles, features, i);
        take(slices[i], RowBytes(tiles.dtype, int64_t{kTileRanks} * range.width),
             range.rank_count == kTileRanks);
      }
    };
    take_tiles(tiles.a_tiles, tiles.in_features);
    take_tiles(tiles.b_tiles, tiles.out_features);
    const int64_t row_bytes = RowBytes(DType::kF32, tiles.out_features);
    if (tiles.has_gain) take(tiles.gain, row_bytes, true);
    if (tiles.has_bias) take(tiles.bias, row_bytes, true);
  }
  for (int32_t i = 0; i < image.block_count; ++i) {
    std::memset(blocks + i * image.block_bytes + ends[i], 0, image.block_bytes - ends[i]);
  }
}

}  // namespace

absl::StatusOr<ImageBuilder> ImageBuilder::Make(const AdapterPlan& plan, int64_t block_bytes,
                                                Backend* backend) {
  ImageBuilder builder(plan, backend);
  builder.image_ = std::make_shared<LoraImage>();
  LoraImage& image = *builder.image_;
  auto blocks = backend->NewHostBuffer(plan.block_count * block_bytes);
  if (!blocks.ok()) return blocks.status();
  image.blocks = *std::move(blocks);
  image.modules = plan.layout;
  image.block_bytes = block_bytes;
  image.block_count = plan.block_count;
  image.exact_tile_bytes = plan.exact_tile_bytes;
  image.dora = plan.config.use_dora;
  for (const ModuleTiles& tiles : plan.layout) {
    image.layer_count = std::max(image.layer_count, tiles.layer + 1);
  }
  ClearUnwritten(image);
  builder.magnitudes_.resize(plan.modules.size());
  return builder;
}

ImageBuilder ImageBuilder::MakeDry(const AdapterPlan& plan, Backend* backend) {
  ImageBuilder builder(plan, backend);
  builder.magnitudes_.resize(plan.modules.size());
  builder.pairs_.resize(plan.modules.size());
  return builder;
}

std::byte* ImageBuilder::At(const BlockSlice& slice) const {
  return static_cast<std::byte*>(image_->blocks->data()) + slice.block_index * image_->block_bytes +
         slice.offset_bytes;
}

absl::Status ImageBuilder::AddA(int index, absl::Span<const std::byte> elements) {
  const PlannedModule& module = plan_->modules[index];
  const ModuleTiles& tiles = plan_->layout[index];
  std::vector<std::byte> storage;
  absl::StatusOr<const std::byte*> a = InTileType(absl::StrCat(module.target->name, ".lora_A"),
                                                  module.a_dtype, tiles.dtype, elements, storage);
  if (!a.ok()) return a.status();
  if (image_ == nullptr) {
    if (tiles.has_gain) pairs_[index].a = Floats(tiles, *a, tiles.in_features);
    return TryGain(index);
  }
  const auto pack = BlockBytes(tiles.dtype) == 4 ? PackA<4> : PackA<2>;
  for (int tile = 0; tile < std::ssize(tiles.a_tiles); ++tile) {
    pack(*a, tiles.in_features, RangeOf(tiles, tiles.in_features, tile), At(tiles.a_tiles[tile]));
  }
  return absl::OkStatus();
}

absl::Status ImageBuilder::AddB(int index, absl::Span<const std::byte> elements) {
  const PlannedModule& module = plan_->modules[index];
  const ModuleTiles& tiles = plan_->layout[index];
  std::vector<std::byte> storage;
  absl::StatusOr<const std::byte*> b = InTileType(absl::StrCat(module.target->name, ".lora_B"),
                                                  module.b_dtype, tiles.dtype, elements, storage);
  if (!b.ok()) return b.status();
  if (image_ == nullptr) {
    if (tiles.has_gain) pairs_[index].b = Floats(tiles, *b, tiles.out_features);
    return TryGain(index);
  }
  const auto pack = BlockBytes(tiles.dtype) == 4 ? PackB<4> : PackB<2>;
  for (int tile = 0; tile < std::ssize(tiles.b_tiles); ++tile) {
    pack(*b, tiles.rank, RangeOf(tiles, tiles.out_features, tile), At(tiles.b_tiles[tile]));
  }
  return absl::OkStatus();
}

absl::Status ImageBuilder::AddMagnitude(int index, absl::Span<const std::byte> elements) {
  const PlannedModule& module = plan_->modules[index];
  magnitudes_[index].resize(module.target->out_features);
  const absl::Status status = ToFloats(absl::StrCat(module.target->name, ".lora_magnitude_vector"),
                                       module.magnitude.dtype, elements, magnitudes_[index].data());
  return status.ok() && image_ == nullptr ? TryGain(index) : status;
}

absl::Status ImageBuilder::AddBias(int index, absl::Span<const std::byte> elements) {
  const PlannedModule& module = plan_->modules[index];
  std::vector<float> nowhere(image_ == nullptr ? module.target->out_features : 0);
  float* const out =
      image_ == nullptr ? nowhere.data() : reinterpret_cast<float*>(At(plan_->layout[index].bias));
  return ToFloats(absl::StrCat(module.target->name, ".lora_B.bias"), module.bias.dtype, elements,
                  out);
}

std::vector<float> ImageBuilder::UnpackA(const ModuleTiles& tiles) const {
  std::vector<float> a(int64_t{tiles.rank} * tiles.in_features);
  std::vector<float> tile(int64_t{kTileRanks} * kTileWidth);
  for (int t = 0; t < std::ssize(tiles.a_tiles); ++t) {
    const TileRange range = RangeOf(tiles, tiles.in_features, t);
    Dequantize(tiles.dtype, At(tiles.a_tiles[t]), int64_t{kTileRanks} * range.width, tile.data());
    for (int rank = 0; rank < range.rank_count; ++rank) {
      float* row = &a[int64_t{range.rank_begin + rank} * tiles.in_features + range.wide_begin];
      for (int i = 0; i < range.width; ++i) row[i] = tile[i * kTileRanks + rank];
    }
  }
  return a;
}

std::vector<float> ImageBuilder::UnpackB(const ModuleTiles& tiles) const {
  std::vector<float> b(int64_t{tiles.out_features} * tiles.rank);
  std::vector<float> tile(int64_t{kTileRanks} * kTileWidth);
  for (int t = 0; t < std::ssize(tiles.b_tiles); ++t) {
    const TileRange range = RangeOf(tiles, tiles.out_features, t);
    Dequantize(tiles.dtype, At(tiles.b_tiles[t]), int64_t{kTileRanks} * range.width, tile.data());
    for (int i = 0; i < range.width; ++i) {
      float* row = &b[(range.wide_begin + i) * tiles.rank + range.rank_begin];
      for (int rank = 0; rank < range.rank_count; ++rank) row[rank] = tile[rank * range.width + i];
    }
  }
  return b;
}

absl::StatusOr<std::vector<float>> ImageBuilder::Gain(int index, const std::vector<float>& a,
                                                      const std::vector<float>& b) const {
  const ModuleTiles& tiles = plan_->layout[index];
  const LoraTarget& target = *plan_->modules[index].target;
  return target.module == LoraModule::kEmbedding
             ? EmbeddingGain(target, a, b, tiles.scale, magnitudes_[index], *backend_)
             : backend_->DoraGain(target, a, b, tiles.rank, tiles.scale, magnitudes_[index]);
}

// From the tiles, so that g fits the weights as they are served.
absl::Status ImageBuilder::WriteGain(int index) {
  const ModuleTiles& tiles = plan_->layout[index];
  absl::StatusOr<std::vector<float>> gain = Gain(index, UnpackA(tiles), UnpackB(tiles));
  if (!gain.ok()) return gain.status();
  std::memcpy(At(tiles.gain), gain->data(), gain->size() * sizeof(float));
  return absl::OkStatus();
}

// Once all of the module has come; what it took is free again afterwards.
absl::Status ImageBuilder::TryGain(int index) {
  Pair& pair = pairs_[index];
  if (pair.a.empty() || pair.b.empty() || magnitudes_[index].empty()) return absl::OkStatus();
  const absl::Status status = Gain(index, pair.a, pair.b).status();
  pair = {};
  magnitudes_[index] = {};
  return status;
}

absl::StatusOr<std::shared_ptr<const LoraImage>> ImageBuilder::Finish() {
  if (image_ == nullptr) return image_;
  for (int i = 0; i < std::ssize(plan_->layout); ++i) {
    if (!plan_->layout[i].has_gain) continue;
    if (absl::Status s = WriteGain(i); !s.ok()) return s;
  }
  return image_;
}

}  // namespace lorica
