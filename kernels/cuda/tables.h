// The step and its adapters as CUDA kernels read them: plain structs in device memory.
//
// Every table lies at an address that never changes, and its counts lie beside it, so
// that one captured graph serves every mixture of adapters. Grids are sized by the
// rows of a step; blocks without work leave at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/step_batch.h"

namespace lorica::cuda {

inline constexpr int kShrinkChunk = 256;    // inputs that a warp takes at once
inline constexpr int kFewRows = 8;          // rows of a tile in a step of few rows
inline constexpr int kManyRows = 32;        // and of many: more than kStreamRowsMax
inline constexpr int kGroupModulesMax = 3;  // modules that share an input: q, k, v
inline constexpr int kTileUnitBytes = 64;   // tile references count in this unit

// One (layer, module) of a mounted adapter. rank_tiles 0: not touched.
struct DeviceModule {
  const uint32_t* a_tiles;  // [rank_tile][wide_tile], units from the arena's base
  const uint32_t* b_tiles;
  const float* gain;  // [out_features], null without DoRA
  float scale;
  int32_t rank_tiles;
  uint32_t a_run;  // first tile, where all follow it without gaps; else kScattered
  uint32_t b_run;
  int32_t wide_tiles;  // of a rank tile of A
  int32_t unused;
};
inline constexpr uint32_t kScattered = ~0u;

struct DeviceTerm {
  const DeviceModule* modules;  // [layers][kLoraModuleCount]
  float weight;
  int32_t segment;
};

struct DeviceSegment {
  int32_t row_begin;
  int32_t row_count;
  int32_t term_begin;
  int32_t term_count;
  int64_t u_begin;  // first float of the segment's u, [row][u_width]
  int32_t u_width;  // floats of u a row, over all its terms and modules
  int32_t unused;
};

// At most kFewRows or kManyRows neighbouring rows with the same terms, or with none.
struct RowTile {
  int32_t row_begin;
  int32_t row_count;
  int32_t term_begin;
  int32_t term_count;
  int64_t u_begin;  // of the first row; the rows that follow are u_width apart
  int32_t u_width;
  int32_t unused;
};

// The bias of lora_B of one (layer, module) of a mounted adapter. Null: none.
struct DeviceBias {
  const float* bias;  // [out_features]
  float scale;        // the adapter's
  int32_t unused;
};

// Those of a term's adapter.
struct BiasTerm {
  const DeviceBias* biases;  // [layers][kLoraModuleCount]; null: none
  float weight;
  int32_t unused;
};

// Those of a step, for a (layer, group).
struct StepBiases {
  const BiasTerm* terms = nullptr;  // as StepTables::terms; null: no adapter of the step has any
  int first = 0;                    // of the group's modules, in BiasTerm::biases
};

// One (term, module) of one (layer, group), written by the plan kernel.
struct PlanEntry {
  const uint32_t* a_tiles;
  const uint32_t* b_tiles;
  const float* gain;
  float scale;  // the adapter's scale times the request's weight
  int32_t rank_tiles;
  int32_t u_column;  // where its ranks begin in a row of u
  int32_t segment;
  uint32_t a_run;  // as in DeviceModule
  uint32_t b_run;
  int32_t wide_tiles;
  int32_t unused;
};

// Where a tile begins, in units. `width` is the whole wide dimension.
inline constexpr int kWideTileUnits = 2048 * 8 * 2 / kTileUnitBytes;
#ifdef __CUDACC__
__device__ __forceinline__ uint32_t TileUnit(const uint32_t* tiles, uint32_t run, int rank_tile,
                                             int wide_tile, int width) {
  if (run != kScattered) {
    return run + rank_tile * (width * 8 * 2 / kTileUnitBytes) + wide_tile * kWideTileUnits;
  }
  return tiles[rank_tile * ((width + 2047) / 2048) + wide_tile];
}
#endif

struct DeviceSpan {
  int32_t row_begin;
  int32_t row_count;
  int32_t position_begin;
  int32_t page_begin;
};

// One piece of work of the decode attention: keys [key_begin, key_end) of one row.
struct alignas(16) AttendItem {
  int32_t row;
  int32_t keys;        // that the row sees: [0, keys), less what its window hides
  int32_t page_begin;  // of the row's page table
  int32_t settled;     // keys below it are in pages that no row of this step writes
  int32_t key_begin;   // a multiple of kBlockTokens
  int32_t key_end;
  int32_t slot;    // scratch that takes the piece's sums, for rows of several pieces
  int16_t piece;   // counts from 0
  int16_t pieces;  // of the row
};

// Of each (tile with adapters, module): pairs of rank tiles that a run of the expand takes, 10 bits
// each, the group's first module lowest; 0 for what is no tile with adapters.
using RunCosts = uint32_t;
inline constexpr int kRunCostBits = 10;
static_assert(kMixTermsMax * kLoraRankMax / 16 < 1 << kRunCostBits);

// Where a block of the shrink begins: everything its first weights need, in one read, since
// the tables are cold by the time a kernel wants them.
struct ShrinkStart {
  int32_t item, last;  // empty when equal
  int32_t entry, entry_begin, entry_end, unused;
  PlanEntry plan;
  DeviceSegment segment;
};

// The same for a row tile of the expand: its first term's modules.
struct TileStart {
  RowTile tile;
  int64_t unused;
  PlanEntry entries[kGroupModulesMax];
};

// One SampleRow. What it points to, the counts apart, lies in pinned host memory.
struct DeviceSample {
  uint64_t seed;
  int64_t token_index;
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  int32_t logprobs;
  const uint16_t* counts;  // [kSampleVocabularyMax] of its history; null: no penalties
  const TokenBias* bias;
  const uint8_t* allowed;  // bit per token, null: all
  int32_t bias_count;
  int32_t no_room;  // 1: there was no memory for its counts or lists
};

// How often a token occurs in a history: bit 15 = in the prompt, the rest = in the output.
inline constexpr int kOutputCountMax = 0x7fff;
inline constexpr uint16_t kInPrompt = 0x8000;
inline constexpr int32_t kSampleVocabularyMax = 1 << 18;

// What a step adds to the counts of one history.
struct HistoryTail {
  uint16_t* counts;
  const int32_t* tokens;  // pinned host memory
  int32_t prompt_count;   // the first of them; the others are output
  int32_t count;
  int32_t pending_slot;  // its token follows; -1: none
  int32_t unused;
};

// What the host reads of a sample row. In pinned host memory, written by the kernel.
struct SampleOutput {
  int32_t token;
  int32_t finite;
  float logprob;      // when asked for
  int32_t top_count;  // written of `top`; -1: log probabilities were not asked for
  Logprob top[kLogprobsMax];
};

struct StepCounts {
  int32_t rows;
  int32_t segments;
  int32_t terms;
  int32_t row_tiles;  // of rows with an adapter; those of other rows follow
  int32_t all_tiles;
  int32_t samples;
  int32_t attend_items;
  int32_t attend_chunks;
  uint32_t u_flag;        // the step's, see FlaggedU; no two steps since u was zero have the same
  int64_t u_part;         // numbers from one part of flagged u to the next; 0: it is whole
  SampleOutput* outputs;  // [samples] of this step
};

// A number of u that says itself that it is there: its low half is the float, its high half the
// step's u_flag plus the pair. Whoever needs it asks until the flag is right, so that nobody
// waits for a number that he does not need.
using FlaggedU = uint64_t;
inline constexpr uint32_t kPairsMax = 1024;  // of a step; its u_flag is a multiple

// Two neighbouring numbers of u, each the sum of two 16-bit values, the first in the low halves.
struct SplitPairU {
  uint32_t high, low;
};

// Pointers to one step's tables, the same for every step.
struct StepTables {
  const StepCounts* counts;
  const int32_t* tokens;
  const int32_t* positions;
  const DeviceSpan* row_spans;  // [rows] the row's span
  const DeviceSegment* segments;
  const DeviceTerm* terms;
  const RowTile* row_tiles;
  const int32_t* tile_of_row;  // [rows] the row's tile, -1 without an adapter
  const int32_t* sample_rows;
  const int32_t* sample_slots;
  const DeviceSample* samples;  // unset in a step of greedy rows
  const int32_t* pages;
  const AttendItem* attend_items;   // of the rows that decode
  const DeviceSpan* attend_chunks;  // spans of many rows: prefill
  int32_t* token_slots;             // last token of each slot
};

// The LoRA plan of a step, one part for each of layers * 4 (layer, group) pairs.
struct LoraPlan {
  PlanEntry* entries;          // a pair's from EntriesBefore: term * modules of the group + module
  int32_t* unit_begin;         // items of the shrink before an entry; a pair has one more
  int32_t* rank_begin;         // ranks before an entry; a pair has one more
  ShrinkStart* shrink_starts;  // [pair][blocks]
  TileStart* tile_starts;      // [pair][tile_stride]; null in a step without adapters
  RunCosts* run_costs;         // [pair][tile_stride], in a step of few rows: kStreamRowsMax of them
  int32_t pairs;               // of the step's layers
  int32_t blocks;              // of the LoRA kernel
  int32_t tile_stride;
  int32_t row_stride;  // of down_parts
  int64_t terms_max;
  FlaggedU* flagged_u;  // [part][segment][row][u_width], a part for each wide tile; see u_part
  SplitPairU* u;        // [segment][row][u_width / 2], scaled: of products that have no LoRA warps
  // The shrink of a down product that GluPostMany does by the way: sums over the inputs of a block,
  // [block of kDownColumns][row_stride][kDownRanks].
  float* down_parts;
  const std::byte* arena;
};
inline constexpr int kDownRanks = 16;     // for tiles of one term with at most so many
inline constexpr int kDownColumns = 256;  // of a block

#ifdef __CUDACC__
// The first of a group's modules.
__host__ __device__ __forceinline__ int ModuleFirst(int group) {
  return group == 0 ? 0 : group == 1 ? 3 : group == 2 ? 4 : 6;
}
// Entries of the pairs ahead of one: each has as many of a term as its group has modules.
__host__ __device__ __forceinline__ int64_t EntriesBefore(const LoraPlan& plan, int pair) {
  return (int64_t{pair / 4} * kLoraModuleCount + ModuleFirst(pair % 4)) * plan.terms_max;
}

// What of a plan's entry concerns the shrink.
struct ShrinkEntry {
  const uint32_t* a_tiles;
  uint32_t a_run;
  int rank_tiles;
  float scale;
};
__device__ __forceinline__ ShrinkEntry ShrinkEntryOf(const PlanEntry& entry) {
  return {entry.a_tiles, entry.a_run, entry.rank_tiles, entry.scale};
}
// Of a tile's down product. rank_tiles 0: its shrink is not done by the way.
__device__ __forceinline__ ShrinkEntry DownEntryOf(const TileStart& start) {
  ShrinkEntry out = ShrinkEntryOf(start.entries[0]);
  if (start.tile.term_count != 1 || out.rank_tiles * kTileRanks > kDownRanks) out.rank_tiles = 0;
  return out;
}
__device__ __forceinline__ ShrinkEntry DownEntryOf(const LoraPlan& plan, int layer, int tile) {
  const int64_t pair = layer * 4 + static_cast<int>(LoraGroup::kDown);
  return DownEntryOf(plan.tile_starts[pair * plan.tile_stride + tile]);
}
#endif

}  // namespace lorica::cuda
