// Merges that wait to be done: the best rank first, the leftmost place on ties.
//
// Places of one rank mostly arrive in ascending order, so each rank keeps a plain line of
// them, and a heap for the few that come late; a second heap orders the ranks. That keeps
// memory access sequential on words of millions of bytes. Reuse one for many words: it is
// empty when the last merge is taken. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace lorica {

struct WaitingMerge {
  int32_t rank = 0;
  int32_t place = 0;  // of the left symbol
};

class MergeQueue {
 public:
  bool empty() const { return ranks_.empty(); }

  void Push(WaitingMerge merge) {
    const auto [found, added] = line_of_rank_.try_emplace(merge.rank, lines_.size());
    if (added) lines_.emplace_back();
    Line& line = lines_[found->second];
    if (line.empty()) {
      ranks_.push_back(static_cast<uint64_t>(merge.rank) << 32 | found->second);
      std::push_heap(ranks_.begin(), ranks_.end(), std::greater<>());
    }
    line.Push(merge.place);
  }

  // REQUIRES: not empty.
  WaitingMerge Pop() {
    const uint64_t best = ranks_.front();
    Line& line = lines_[best & 0xFFFFFFFF];
    const WaitingMerge merge{static_cast<int32_t>(best >> 32), line.Pop()};
    if (line.empty()) {
      std::pop_heap(ranks_.begin(), ranks_.end(), std::greater<>());
      ranks_.pop_back();
    }
    return merge;
  }

 private:
  struct Line {
    bool empty() const { return head == in_order.size() && late.empty(); }

    void Push(int32_t place) {
      if (head == in_order.size()) {
        in_order.clear();
        head = 0;
      }
      if (in_order.empty() || place >= in_order.back()) return in_order.push_back(place);
      late.push_back(place);
      std::push_heap(late.begin(), late.end(), std::greater<>());
    }

    int32_t Pop() {
      const bool late_first =
          !late.empty() && (head == in_order.size() || late.front() < in_order[head]);
      if (!late_first) return in_order[head++];
      std::pop_heap(late.begin(), late.end(), std::greater<>());
      const int32_t place = late.back();
      late.pop_back();
      return place;
    }

    std::vector<int32_t> in_order;
    size_t head = 0;            // of in_order: what is before it is done
    std::vector<int32_t> late;  // a heap, the least on top
  };

  absl::flat_hash_map<int32_t, uint32_t> line_of_rank_;
  std::vector<Line> lines_;
  std::vector<uint64_t> ranks_;  // a heap of rank << 32 | line, the least on top
};

}  // namespace lorica
