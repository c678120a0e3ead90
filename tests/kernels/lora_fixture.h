// What tests of adapters share: adapters of random pairs, batches of segments, gate and up against
// doubles.
#pragma once

#include <list>
#include <string>
#include <utility>
#include <vector>

#include "tests/kernels/kernel_test.h"

namespace lorica::testing {

class LoraFixture : public KernelTest {
 protected:
  static constexpr int kIn = 96, kFfn = 200;

  LoraFixture() : arena_(*backend_, {4, 4, 2, 64, 0.125f, 0, 0}, 1200) {}

  // Of 1 + |value|: tiles are read exactly in every type, so in fp32 it is that of the sums;
  // with bf16 the output is rounded, and u may be.
  double tolerance() const { return Tolerance(5e-6, 1e-2); }

  // `dtype` as the backend stores it.
  LoraPair Pair(LoraModule module, int rank, DType dtype, int64_t in, int64_t out, int layer = 0) {
    dtype = backend_->TileDType(dtype);
    LoraPair pair;
    pair.layer = layer;
    pair.module = module;
    pair.rank = rank;
    pair.scale = 0.5f + 0.25f * Below(4);
    pair.a = RandomMatrix(dtype, rank, in, random_, 0.1f);
    pair.b = RandomMatrix(dtype, out, rank, random_, 0.1f);
    return pair;
  }

  // Touches gate and up, or only up.
  TestAdapter* GateUpAdapter(int rank, DType dtype, bool gate = true) {
    TestAdapter& adapter = adapters_.emplace_back();
    if (gate) adapter.pairs.push_back(Pair(LoraModule::kGate, rank, dtype, kIn, kFfn));
    adapter.pairs.push_back(Pair(LoraModule::kUp, rank, dtype, kIn, kFfn));
    MountPairs(*backend_, arena_, adapter);
    return &adapter;
  }

  using Terms = std::vector<std::pair<const TestAdapter*, float>>;
  struct Segment {
    int rows;
    Terms terms;  // empty: base rows, no segment
  };

  static StepBatch Batch(const std::vector<Segment>& segments, bool keep_empty = true) {
    int rows = 0;
    for (const Segment& s : segments) rows += s.rows;
    StepBatch batch = PlainBatch(rows);
    int row = 0;
    for (const Segment& s : segments) {
      if (!s.terms.empty() && (s.rows > 0 || keep_empty)) {
        const auto begin = static_cast<int32_t>(batch.terms.size());
        batch.segments.push_back({row, s.rows, begin, static_cast<int32_t>(s.terms.size())});
        for (const auto& [adapter, weight] : s.terms) {
          batch.terms.push_back({adapter->mounted.get(), weight});
        }
      }
      row += s.rows;
    }
    return batch;
  }

  // activation(gate) * up for given W x; rows in segment order.
  std::vector<float> RunGlu(const std::vector<Segment>& segments, const std::vector<float>& x,
                            const std::vector<float>& base) {
    const StepBatch batch = Batch(segments);
    const int64_t rows = batch.rows();
    const auto in = Upload(rows, kIn, x);
    const auto gate_up = Upload(rows, 2 * kFfn, base);
    const auto out = Zeros(rows, kFfn);
    backend_->BeginStep(batch);
    backend_->LoraShrink(in.tensor(), 0, LoraGroup::kGateUp);
    backend_->GluPost(out.tensor(), gate_up.tensor(), Activation::kSilu, 0);
    return out.Read();
  }

  void CheckGlu(const std::vector<Segment>& segments) {
    int rows = 0;
    for (const Segment& s : segments) rows += s.rows;
    const auto x = Normals(rows * kIn), base = Normals(rows * 2 * kFfn);
    std::vector<double> want;
    int row = 0;
    for (const Segment& s : segments) {
      for (int i = 0; i < s.rows; ++i, ++row) {
        const auto gate = ReferenceLora(s.terms, 0, LoraModule::kGate, kFfn, &x[row * kIn]);
        const auto up = ReferenceLora(s.terms, 0, LoraModule::kUp, kFfn, &x[row * kIn]);
        for (int o = 0; o < kFfn; ++o) {
          const double g = gate.gain[o] * (base[row * 2 * kFfn + o] + gate.delta[o]);
          const double u = up.gain[o] * (base[row * 2 * kFfn + kFfn + o] + up.delta[o]);
          want.push_back(g / (1 + std::exp(-g)) * u);
        }
      }
    }
    ExpectNear(RunGlu(segments, x, base), want, tolerance());
  }

  // One block with a module of rank 8 and 64 inputs and outputs, its A at the beginning.
  LoraImage OneModule(BlockSlice b) {
    LoraImage image;
    image.block_bytes = arena_.cache().block_bytes;
    image.block_count = 1;
    ModuleTiles tiles;
    tiles.rank = 8;
    tiles.dtype = backend_->TileDType(DType::kF32);
    tiles.in_features = tiles.out_features = 64;
    tiles.a_tiles = {{0, 0}};
    tiles.b_tiles = {b};
    image.modules.push_back(std::move(tiles));
    return image;
  }

  PoisonedArena arena_;
  std::list<TestAdapter> adapters_;
};

}  // namespace lorica::testing
