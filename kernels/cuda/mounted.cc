#include "kernels/cuda/mounted.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/element.h"

namespace lorica::cuda {
namespace {

int WideTiles(int64_t width) { return static_cast<int>((width + kTileWidth - 1) / kTileWidth); }

int GroupOf(LoraModule module) {
  const int m = static_cast<int>(module);
  return m < 3 ? 0 : m < 4 ? 1 : m < 6 ? 2 : 3;
}

absl::Status CheckSlice(const LoraImage& image, const BlockSlice& slice, int64_t bytes) {
  if (slice.block_index >= 0 && slice.block_index < image.block_count && slice.offset_bytes >= 0 &&
      slice.offset_bytes % kTileAlignment == 0 && slice.offset_bytes + bytes <= image.block_bytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "a slice of ", bytes, " bytes at ", slice.offset_bytes, " of block ", slice.block_index,
      " does not fit ", image.block_count, " blocks of ", image.block_bytes, " bytes"));
}

// Every tile of a wide dimension lies inside the image's blocks.
absl::Status CheckTiles(const LoraImage& image, const std::vector<BlockSlice>& tiles,
                        int rank_tiles, int64_t width) {
  const int64_t wide_tiles = WideTiles(width);
  if (static_cast<int64_t>(tiles.size()) != rank_tiles * wide_tiles) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", tiles.size(), " tiles, expected ", rank_tiles * wide_tiles));
  }
  for (size_t i = 0; i < tiles.size(); ++i) {
    const int64_t columns =
        std::min<int64_t>(kTileWidth, width - static_cast<int64_t>(i) % wide_tiles * kTileWidth);
    const absl::Status status =
        CheckSlice(image, tiles[i], columns * kTileRanks * sizeof(uint16_t));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckModule(const LoraImage& image, const ModuleTiles& tiles) {
  if (tiles.dtype != kElementDType) {
    return absl::InvalidArgumentError(
        absl::StrCat("this CUDA backend reads ", kElementName, " tiles only"));
  }
  if (tiles.rank < 1 || tiles.rank > kLoraRankMax) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", tiles.rank, " cannot be mounted"));
  }
  absl::Status status = CheckTiles(image, tiles.a_tiles, tiles.rank_tiles(), tiles.in_features);
  if (status.ok()) {
    status = CheckTiles(image, tiles.b_tiles, tiles.rank_tiles(), tiles.out_features);
  }
  if (status.ok() && tiles.has_gain) {
    status = CheckSlice(image, tiles.gain, int64_t{tiles.out_features} * 4);
  }
  if (status.ok() && tiles.has_bias) {
    status = CheckSlice(image, tiles.bias, int64_t{tiles.out_features} * 4);
  }
  return status;
}

// The tables of an adapter under construction: modules of all layers, what is outside of them,
// biases if there are any, references of tiles. Pointers are offsets into the references until the
// place of the whole is known.
class TableBuilder {
 public:
  TableBuilder(int64_t block_bytes, absl::Span<const BlockId> block_ids, int layers)
      : block_bytes_(block_bytes),
        block_ids_(block_ids),
        linears_(layers * kLoraModuleCount),
        modules_(linears_ + kOutsideModules),
        places_(modules_.size()) {}

  void Add(const ModuleTiles& tiles) {
    const int index = IndexOf(tiles.layer, tiles.module);
    modules_[index].scale = tiles.scale;
    modules_[index].rank_tiles = tiles.rank_tiles();
    modules_[index].wide_tiles = WideTiles(tiles.in_features);
    places_[index].a = AddTiles(tiles.a_tiles);
    places_[index].b = AddTiles(tiles.b_tiles);
    modules_[index].a_run = RunOf(tiles.a_tiles, tiles.in_features);
    modules_[index].b_run = RunOf(tiles.b_tiles, tiles.out_features);
    if (tiles.has_gain) places_[index].gain = UnitOf(tiles.gain) * kTileUnitBytes;
    if (tiles.has_bias) places_[index].bias = UnitOf(tiles.bias) * kTileUnitBytes;
    has_biases_ = has_biases_ || (tiles.has_bias && index < linears_);
    places_[index].in_features = tiles.in_features;
    places_[index].out_features = tiles.out_features;
  }

  std::vector<std::byte> Finish(std::byte* memory, const std::byte* arena) {
    auto* references = reinterpret_cast<const uint32_t*>(memory + module_bytes() + bias_bytes());
    for (size_t i = 0; i < modules_.size(); ++i) {
      if (modules_[i].rank_tiles == 0) continue;
      modules_[i].a_tiles = references + places_[i].a;
      modules_[i].b_tiles = references + places_[i].b;
      if (places_[i].gain >= 0) {
        modules_[i].gain = reinterpret_cast<const float*>(arena + places_[i].gain);
      }
    }
    std::vector<std::byte> out(bytes());
    std::byte* to = std::copy_n(reinterpret_cast<const std::byte*>(modules_.data()), module_bytes(),
                                out.data());
    if (has_biases_) {
      std::vector<DeviceBias> biases;
      for (int i = 0; i < linears_; ++i) biases.push_back({BiasOf(i, arena), modules_[i].scale});
      to = std::copy_n(reinterpret_cast<const std::byte*>(biases.data()), bias_bytes(), to);
    }
    std::copy_n(reinterpret_cast<const std::byte*>(units_.data()), units_.size() * 4, to);
    return out;
  }
  // Of the tables that Finish has made for the same places.
  MountedExtras Extras(const std::byte* memory, const std::byte* arena) const {
    const auto outside = [&](LoraModule module) -> OutsideModule {
      const int i = IndexOf(kOutsideLayers, module);
      return {modules_[i], BiasOf(i, arena), places_[i].in_features, places_[i].out_features};
    };
    MountedExtras extras;
    if (has_biases_) extras.biases = reinterpret_cast<const DeviceBias*>(memory + module_bytes());
    extras.embedding = outside(LoraModule::kEmbedding);
    extras.head = outside(LoraModule::kHead);
    return extras;
  }

  int64_t bytes() const { return module_bytes() + bias_bytes() + std::ssize(units_) * 4; }

 private:
  struct Place {
    int64_t a = 0;
    int64_t b = 0;
    int64_t gain = -1;
    int64_t bias = -1;
    int32_t in_features = 0;
    int32_t out_features = 0;
  };
  static constexpr int kOutsideModules = 2;

  int64_t module_bytes() const { return std::ssize(modules_) * sizeof(DeviceModule); }
  int64_t bias_bytes() const { return has_biases_ ? linears_ * sizeof(DeviceBias) : 0; }

  int IndexOf(int layer, LoraModule module) const {
    const int m = static_cast<int>(module);
    if (layer == kOutsideLayers && m >= kLoraModuleCount) return linears_ + m - kLoraModuleCount;
    const int index = layer * kLoraModuleCount + m;
    LORICA_CHECK(layer >= 0 && m < kLoraModuleCount && index < linears_, layer, m);
    return index;
  }

  const float* BiasOf(int index, const std::byte* arena) const {
    const int64_t place = places_[index].bias;
    return place < 0 ? nullptr : reinterpret_cast<const float*>(arena + place);
  }

  int64_t UnitOf(const BlockSlice& slice) const {
    LORICA_CHECK(slice.offset_bytes % kTileUnitBytes == 0, slice.offset_bytes);
    const int64_t bytes = block_ids_[slice.block_index] * block_bytes_ + slice.offset_bytes;
    return bytes / kTileUnitBytes;
  }

  // The first tile's place where every tile lies right behind the one before.
  uint32_t RunOf(const std::vector<BlockSlice>& tiles, int width) const {
    const int64_t rank_bytes = int64_t{width} * kTileRanks * sizeof(uint16_t);
    const int wide_tiles = WideTiles(width);
    if (rank_bytes % kTileUnitBytes != 0) return kScattered;
    const int64_t first = UnitOf(tiles[0]);
    for (size_t i = 1; i < tiles.size(); ++i) {
      const int64_t rank_tile = i / wide_tiles, wide_tile = i % wide_tiles;
      const int64_t place =
          first + rank_tile * (rank_bytes / kTileUnitBytes) + wide_tile * kWideTileUnits;
      if (UnitOf(tiles[i]) != place) return kScattered;
    }
    return static_cast<uint32_t>(first);
  }

  int64_t AddTiles(const std::vector<BlockSlice>& tiles) {
    const int64_t first = units_.size();
    for (const BlockSlice& tile : tiles) units_.push_back(static_cast<uint32_t>(UnitOf(tile)));
    return first;
  }

  int64_t block_bytes_;
  absl::Span<const BlockId> block_ids_;
  int linears_;
  bool has_biases_ = false;  // of linears
  std::vector<DeviceModule> modules_;
  std::vector<Place> places_;
  std::vector<uint32_t> units_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MountedAdapter>> CudaMounted::Make(
    const LoraImage& image, const KvCache& cache, absl::Span<const BlockId> block_ids,
    cudaStream_t stream) {
  LORICA_CHECK(cache.block_bytes % kTileUnitBytes == 0, cache.block_bytes);
  const int layers = cache.shape.layers;  // a table for every layer, whatever it touches
  TableBuilder builder(cache.block_bytes, block_ids, layers);
  std::unique_ptr<CudaMounted> mounted(new CudaMounted);
  std::vector<std::array<int, 4>> ranks(layers);
  for (const ModuleTiles& tiles : image.modules) {
    const absl::Status status = CheckModule(image, tiles);
    if (!status.ok()) return status;
    builder.Add(tiles);
    if (tiles.layer == kOutsideLayers) continue;
    ranks[tiles.layer][GroupOf(tiles.module)] += tiles.padded_rank();
    mounted->wide_tiles_max_ = std::max(mounted->wide_tiles_max_, WideTiles(tiles.in_features));
  }
  for (const auto& layer : ranks) {
    for (const int group : layer) {
      mounted->group_ranks_max_ = std::max(mounted->group_ranks_max_, group);
    }
  }
  mounted->layers_ = layers;
  mounted->arena_ = static_cast<const std::byte*>(cache.arena);
  auto memory = AllocateInStream(builder.bytes(), stream);
  if (!memory.ok()) return memory.status();
  mounted->memory_ = *std::move(memory);
  auto* data = static_cast<std::byte*>(mounted->memory_->data());
  const std::vector<std::byte> table = builder.Finish(data, mounted->arena_);
  mounted->extras_ = builder.Extras(data, mounted->arena_);
  // From pageable memory: read before this returns, written in the stream's order.
  const cudaError_t error =
      cudaMemcpyAsync(data, table.data(), table.size(), cudaMemcpyHostToDevice, stream);
  if (error != cudaSuccess) return ToStatus(error, "cannot upload the tables of an adapter");
  return mounted;
}

}  // namespace lorica::cuda
