// What a block of attend_decode.cu works through: pieces of rows, for the heads of one KV head
// each.
#pragma once

#include "kernels/cuda/attend.cuh"

namespace lorica::cuda {

inline constexpr int kAttendWarps = 4;
inline constexpr int kAttendThreads = kAttendWarps * 32;  // those that attend

// A row of the step, as all its pieces see it.
struct RowWork {
  int row;
  int keys;
  int page_begin;
  int settled;
  int pieces;
  int piece_keys;
  int slot;  // of its first piece

  // `item` is the row's first.
  __device__ __forceinline__ explicit RowWork(const AttendItem& item)
      : row(item.row),
        keys(item.keys),
        page_begin(item.page_begin),
        settled(item.settled),
        pieces(item.pieces),
        piece_keys(item.key_end),
        slot(item.slot) {}
};

// A piece of a row for one tile of the heads of one KV head: a unit. A block's work is in order:
// all pieces of a row for a unit, then those for the next unit.
struct Work {
  RowWork row;
  int first;  // the row's first item
  int unit, piece;

  // Work `index` of all.
  __device__ __forceinline__ Work(const AttendItem* items, int units, int index)
      : row(items[index / units - items[index / units].piece]),
        first(index / units - items[index / units].piece) {
    const int of_row = index - first * units;
    unit = of_row / row.pieces;
    piece = of_row % row.pieces;
  }
  __device__ __forceinline__ bool EndsRow(int units) const {
    return piece + 1 == row.pieces && unit + 1 == units;
  }
  // To the next work; `next` is the first item of the next row, where this one ends.
  __device__ __forceinline__ void Advance(int units, const RowWork& next) {
    if (EndsRow(units)) {
      first += row.pieces;
      row = next;
      unit = piece = 0;
    } else if (++piece == row.pieces) {
      piece = 0;
      ++unit;
    }
  }
  __device__ __forceinline__ int key_begin() const { return piece * row.piece_keys; }
  __device__ __forceinline__ int key_end() const {
    return min(row.keys, (piece + 1) * row.piece_keys);
  }
};

// The heads of a unit.
struct Unit {
  int kv_head;
  int head_begin;  // of all heads
  int heads;
};

template <int kHeads>
__device__ __forceinline__ int Units(const AttentionShape& shape) {
  const int group = shape.heads / shape.kv_heads;
  return shape.kv_heads * ((group + kHeads - 1) / kHeads);
}

template <int kHeads>
__device__ __forceinline__ Unit UnitOf(const AttentionShape& shape, int unit) {
  const int group = shape.heads / shape.kv_heads, tiles = (group + kHeads - 1) / kHeads;
  const int kv_head = tiles == 1 ? unit : unit / tiles, tile = unit - kv_head * tiles;
  return {kv_head, kv_head * group + tile * kHeads, min(kHeads, group - tile * kHeads)};
}

// A warp's pages of a piece: every kAttendWarps-th, by absolute index.
struct PageRange {
  int page, end;

  __device__ __forceinline__ PageRange(const AttentionShape& shape, const Work& work)
      : end((work.key_end() + kBlockTokens - 1) / kBlockTokens) {
    const int first = max(work.key_begin(), FirstKey(shape, work.row.keys)) / kBlockTokens;
    page = first + (threadIdx.x / 32 - first) % kAttendWarps;
  }
};

}  // namespace lorica::cuda
