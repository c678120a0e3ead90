#include "kernels/cuda/mounted.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/element.h"
#include "kernels/cuda/served_sizes.h"

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
  LORICA_CHECK(CheckServedModule(tiles).ok(), static_cast<int>(tiles.module));
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
  return status;
}

// The tables of an adapter under construction. Pointers are offsets into the references
// until the place of the whole is known.
class TableBuilder {
 public:
  TableBuilder(int64_t block_bytes, absl::Span<const BlockId> block_ids, int layers)
      : block_bytes_(block_bytes),
        block_ids_(block_ids),
        modules_(layers * kLoraModuleCount),
        places_(layers * kLoraModuleCount) {}

  void Add(const ModuleTiles& tiles) {
    const int index = tiles.layer * kLoraModuleCount + static_cast<int>(tiles.module);
    LORICA_CHECK(index < modules_.size(), tiles.layer);
    modules_[index].scale = tiles.scale;
    modules_[index].rank_tiles = tiles.rank_tiles();
    modules_[index].wide_tiles = WideTiles(tiles.in_features);
    places_[index].a = AddTiles(tiles.a_tiles);
    places_[index].b = AddTiles(tiles.b_tiles);
    modules_[index].a_run = RunOf(tiles.a_tiles, tiles.in_features);
    modules_[index].b_run = RunOf(tiles.b_tiles, tiles.out_features);
    if (tiles.has_gain) places_[index].gain = UnitOf(tiles.gain) * kTileUnitBytes;
  }

  std::vector<std::byte> Finish(std::byte* memory, const std::byte* arena) {
    const int64_t module_bytes = modules_.size() * sizeof(DeviceModule);
    auto* references = reinterpret_cast<const uint32_t*>(memory + module_bytes);
    for (size_t i = 0; i < modules_.size(); ++i) {
      if (modules_[i].rank_tiles == 0) continue;
      modules_[i].a_tiles = references + places_[i].a;
      modules_[i].b_tiles = references + places_[i].b;
      if (places_[i].gain >= 0) {
        modules_[i].gain = reinterpret_cast<const float*>(arena + places_[i].gain);
      }
    }
    std::vector<std::byte> out(bytes());
    std::copy_n(reinterpret_cast<const std::byte*>(modules_.data()), module_bytes, out.data());
    std::copy_n(reinterpret_cast<const std::byte*>(units_.data()), units_.size() * 4,
                out.data() + module_bytes);
    return out;
  }

  int64_t bytes() const { return modules_.size() * sizeof(DeviceModule) + units_.size() * 4; }

 private:
  struct Place {
    int64_t a = 0;
    int64_t b = 0;
    int64_t gain = -1;
  };

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
  const std::vector<std::byte> table =
      builder.Finish(data, static_cast<const std::byte*>(cache.arena));
  // From pageable memory: read before this returns, written in the stream's order.
  const cudaError_t error =
      cudaMemcpyAsync(data, table.data(), table.size(), cudaMemcpyHostToDevice, stream);
  if (error != cudaSuccess) return ToStatus(error, "cannot upload the tables of an adapter");
  return mounted;
}

}  // namespace lorica::cuda
