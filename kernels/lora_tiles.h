// What the LoRA kernels read: targets, tiles, images and segments.
//
// A LoRA pair of one (layer, module) is A [rank, in] and B [out, rank] with a
// scale s; a row x of a segment gets
//
//   y = g * (W x + sum over terms t of s_t w_t (B_t (A_t x) + b_t)) + bias
//
// where w_t is the request's weight for that adapter, g = 1 without DoRA, and b_t is the
// bias of lora_B, which few adapters have. On the embedding x is a token: A x is the
// token's column of A, and W x its row of the table.
//
// Weights are cut into tiles: kTileRanks ranks by at most kTileWidth of the wide
// dimension (in for A, out for B). Ranks are rounded up to kTileRanks and filled
// with zeros. Within a tile
//   A is [width][kTileRanks]: for each input, its 8 ranks together;
//   B is [kTileRanks][width]: for each rank, its outputs together.
// Tile order depends on the shape alone, so the order of summation never changes.
//
// An image is an adapter cut into equal blocks, ready to be copied to the device
// block by block; tiles never straddle blocks. Everything here is plain data:
// immutable once built, shared freely.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"

namespace lorica {

inline constexpr int kTileRanks = 8;
inline constexpr int kTileWidth = 2048;
inline constexpr int kTileAlignment = 64;  // bytes, of every tile inside its block
inline constexpr int kLoraRankMax = 256;
inline constexpr int kMixTermsMax = 8;

// What an adapter may touch: the linears of a layer in the order the decoder meets them,
// then what is there once and has kOutsideLayers for its layer.
// Modules that share an input form a group and one shrink: {q, k, v}, {o},
// {gate, up}, {down}, {embedding}, {head}.
enum class LoraModule : uint8_t { kQ, kK, kV, kO, kGate, kUp, kDown, kEmbedding, kHead };
inline constexpr int kLoraModuleCount = 7;  // of a layer
inline constexpr int kOutsideLayers = -1;

enum class LoraGroup : uint8_t { kQkv, kO, kGateUp, kDown, kEmbedding, kHead };

// First module of a group and how many it has.
struct LoraGroupModules {
  int first = 0;
  int count = 0;
};
LoraGroupModules ModulesOf(LoraGroup group);

// "self_attn.q_proj", "mlp.down_proj", "model.embed_tokens", "lm_head", ...
std::string_view LoraModuleName(LoraModule module);

// One place in the base model where LoRA may attach. The model publishes all of
// them; loaders map tensor names to targets and check shapes against them.
struct LoraTarget {
  int layer = 0;  // or kOutsideLayers
  LoraModule module = LoraModule::kQ;
  std::string name;              // path in the Hugging Face model: "model.layers.7.mlp.up_proj"
  int64_t in_features = 0;  // of the embedding: the vocabulary
  int64_t out_features = 0;
  const Weight* weight = nullptr;  // the base matrix that holds it, maybe stacked with others
  int64_t weight_row_begin = 0;    // its first row there
};

// Where bytes lie in an image: which of its blocks, and the offset inside.
struct BlockSlice {
  int32_t block_index = 0;
  int32_t offset_bytes = 0;
};

// The tiles of one (layer, module). A tile list is ordered rank-major:
// tile (rank_tile, wide_tile) is at rank_tile * wide_tiles + wide_tile.
struct ModuleTiles {
  int layer = 0;
  LoraModule module = LoraModule::kQ;
  int rank = 0;                 // as in the file; padded_rank() is what is stored
  float scale = 1.0f;           // alpha / r or alpha / sqrt(r)
  DType dtype = DType::kF32;    // F32, F16 or BF16: as in the file on the CPU
  int32_t in_features = 0;
  int32_t out_features = 0;
  std::vector<BlockSlice> a_tiles;
  std::vector<BlockSlice> b_tiles;
  bool has_gain = false;        // DoRA
  BlockSlice gain;              // g: fp32 [out_features]
  bool has_bias = false;  // lora_bias
  BlockSlice bias;        // of lora_B, without the scale: fp32 [out_features]

  int rank_tiles() const { return (rank + kTileRanks - 1) / kTileRanks; }
  int padded_rank() const { return rank_tiles() * kTileRanks; }
};

// An adapter in device-ready form, in host memory. `blocks` is block_count whole
// blocks of block_bytes each (pinned memory on CUDA).
struct LoraImage {
  std::vector<ModuleTiles> modules;  // at most one per (layer, module)
  int64_t block_bytes = 0;
  int32_t block_count = 0;
  int64_t exact_tile_bytes = 0;      // tiles and gains, without the unused tails of blocks
  std::unique_ptr<Buffer> blocks;  // host memory, from Backend::NewHostBuffer
  bool dora = false;
  int layer_count = 0;

  const std::byte* block(int32_t index) const {
    return static_cast<const std::byte*>(blocks->data()) + index * block_bytes;
  }
};

// An adapter whose blocks are on the device: what segments point to. Made by
// Backend::Mount; opaque above kernels/. Its blocks outlive it.
class MountedAdapter {
 public:
  virtual ~MountedAdapter() = default;
};

// One entry of a request's mix.
struct LoraTerm {
  const MountedAdapter* adapter = nullptr;
  float weight = 1.0f;
};

// A run of rows with the same ordered list of terms. Rows without an adapter
// belong to no segment. Segments are in row order and do not overlap.
struct LoraSegment {
  int32_t row_begin = 0;
  int32_t row_count = 0;
  int32_t term_begin = 0;  // into StepBatch::terms
  int32_t term_count = 0;  // 1 to kMixTermsMax
};

}  // namespace lorica
