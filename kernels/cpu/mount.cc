// Resolves an adapter image's slices to pointers into arena blocks.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/lora.h"

namespace lorica {
namespace {

int64_t WideTiles(int64_t width) { return (width + kTileWidth - 1) / kTileWidth; }

class SliceResolver {
 public:
  SliceResolver(const LoraImage& image, const KvCache& cache, absl::Span<const BlockId> block_ids)
      : image_(image), cache_(cache), block_ids_(block_ids) {}

  absl::StatusOr<const std::byte*> Resolve(const BlockSlice& slice, int64_t bytes) const {
    if (slice.block_index < 0 || slice.block_index >= image_.block_count ||
        slice.offset_bytes < 0 || slice.offset_bytes % kTileAlignment != 0 ||
        slice.offset_bytes + bytes > image_.block_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a slice of ", bytes, " bytes at ", slice.offset_bytes, " of block ", slice.block_index,
          " does not fit ", image_.block_count, " blocks of ", image_.block_bytes, " bytes"));
    }
    return static_cast<const std::byte*>(cache_.arena) +
           block_ids_[slice.block_index] * cache_.block_bytes + slice.offset_bytes;
  }

  // Tiles of a wide dimension `width`: every rank tile has WideTiles(width) of them.
  absl::StatusOr<std::vector<const std::byte*>> ResolveTiles(const std::vector<BlockSlice>& slices,
                                                             const ModuleTiles& module,
                                                             int64_t width) const {
    const int64_t wide_tiles = WideTiles(width);
    if (static_cast<int64_t>(slices.size()) != module.rank_tiles() * wide_tiles) {
      return absl::InvalidArgumentError(absl::StrCat("has ", slices.size(), " tiles, expected ",
                                                     module.rank_tiles() * wide_tiles));
    }
    std::vector<const std::byte*> tiles;
    for (size_t i = 0; i < slices.size(); ++i) {
      const int64_t first = static_cast<int64_t>(i) % wide_tiles * kTileWidth;
      const int64_t columns = std::min<int64_t>(kTileWidth, width - first);
      auto tile = Resolve(slices[i], columns * kTileRanks * BlockBytes(module.dtype));
      if (!tile.ok()) return tile.status();
      tiles.push_back(*tile);
    }
    return tiles;
  }

  absl::StatusOr<MountedModule> ResolveModule(const ModuleTiles& module) const {
    if (module.rank < 1 || module.rank > kLoraRankMax || BlockElements(module.dtype) != 1) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", module.rank, " in ",
                                                     std::string(DTypeName(module.dtype)),
                                                     " cannot be mounted"));
    }
    MountedModule mounted;
    mounted.rank_tiles = module.rank_tiles();
    mounted.scale = module.scale;
    mounted.dtype = module.dtype;
    mounted.in_features = module.in_features;
    mounted.out_features = module.out_features;
    auto a = ResolveTiles(module.a_tiles, module, module.in_features);
    if (!a.ok()) return a.status();
    auto b = ResolveTiles(module.b_tiles, module, module.out_features);
    if (!b.ok()) return b.status();
    mounted.a_tiles = *std::move(a);
    mounted.b_tiles = *std::move(b);
    if (module.has_gain) {
      auto gain = Resolve(module.gain, int64_t{module.out_features} * 4);
      if (!gain.ok()) return gain.status();
      mounted.gain = reinterpret_cast<const float*>(*gain);
    }
    if (module.has_bias) {
      auto bias = Resolve(module.bias, int64_t{module.out_features} * 4);
      if (!bias.ok()) return bias.status();
      mounted.bias = reinterpret_cast<const float*>(*bias);
    }
    return mounted;
  }

 private:
  const LoraImage& image_;
  const KvCache& cache_;
  absl::Span<const BlockId> block_ids_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MountedAdapter>> CpuMountedAdapter::Make(
    const LoraImage& image, const KvCache& cache, absl::Span<const BlockId> block_ids) {
  if (static_cast<int64_t>(block_ids.size()) != image.block_count ||
      image.block_bytes > cache.block_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("an image of ", image.block_count, " blocks of ",
                                                   image.block_bytes, " bytes cannot lie in ",
                                                   block_ids.size(), " of ", cache.block_bytes));
  }
  auto adapter = std::make_unique<CpuMountedAdapter>();
  const SliceResolver resolver(image, cache, block_ids);
  for (const ModuleTiles& module : image.modules) {
    auto mounted = resolver.ResolveModule(module);
    if (!mounted.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", module.layer, " ", std::string(LoraModuleName(module.module)),
                       ": ", std::string(mounted.status().message())));
    }
    const size_t key = KeyOf(module.layer, module.module);
    if (adapter->index_.size() <= key) adapter->index_.resize(key + 1, -1);
    adapter->index_[key] = static_cast<int32_t>(adapter->modules_.size());
    adapter->modules_.push_back(*std::move(mounted));
  }
  return adapter;
}

}  // namespace lorica
