// QkvPost and Attend against doubles: rotation, paged storage, masks, window, softcap.
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

struct ShapeCase {
  int heads, kv_heads, head_size;
  int window;
  float softcap;
};

// The backend keeps what it made of a table.
const RopeTable& MakeRope(int rotary, int64_t positions) {
  static std::list<RopeTable> kept;
  RopeTable& rope = kept.emplace_back();
  rope.rotary_size = rotary;
  rope.positions = positions;
  for (int64_t p = 0; p < positions; ++p) {
    for (int i = 0; i < rotary / 2; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / rotary);
      rope.cos.push_back(static_cast<float>(std::cos(angle)));
      rope.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return rope;
}

class AttendTest : public KernelTest {
 protected:
  static constexpr int kLayers = 2, kLayer = 1;

  // Of 1 + |value|. With bf16 probabilities and outputs are rounded; K and V are in the
  // reference as well.
  double tolerance() const { return Tolerance(4e-6, 1e-2); }

  AttentionShape Shape(const ShapeCase& c) {
    return {kLayers,  c.heads,  c.kv_heads, c.head_size, 1.0f / std::sqrt(float(c.head_size)),
            c.window, c.softcap};
  }
  int Columns(const AttentionShape& s) { return (s.heads + 2 * s.kv_heads) * s.head_size; }

  // One request: qkv of all positions [tokens, columns].
  struct Request {
    int tokens;
    std::vector<float> qkv;
    std::vector<BlockId> pages;
  };

  Request MakeRequest(const AttentionShape& shape, PoisonedArena& arena, int tokens) {
    return {tokens, Normals(int64_t{tokens} * Columns(shape)),
            arena.Take((tokens + kBlockTokens - 1) / kBlockTokens)};
  }

  // Runs rows [begin, end) of each request in one step; returns the attended rows of each.
  std::vector<std::vector<float>> Run(const AttentionShape& shape, PoisonedArena& arena,
                                      const RopeTable& rope, const float* bias,
                                      const std::vector<const Request*>& requests,
                                      const std::vector<std::pair<int, int>>& ranges) {
    const int columns = Columns(shape);
    StepBatch batch;
    std::vector<float> rows;
    for (size_t i = 0; i < requests.size(); ++i) {
      const auto [begin, end] = ranges[i];
      AddSpan(batch, begin, end - begin, requests[i]->pages);
      rows.insert(rows.end(), requests[i]->qkv.begin() + int64_t{begin} * columns,
                  requests[i]->qkv.begin() + int64_t{end} * columns);
    }
    const auto qkv = Upload(batch.rows(), columns, rows);
    const auto out = Zeros(batch.rows(), shape.heads * shape.head_size);
    backend_->BeginStep(batch);
    backend_->LoraShrink(qkv.tensor(), kLayer, LoraGroup::kQkv);
    backend_->QkvPost(qkv.tensor(), bias, rope, kLayer, arena.cache());
    backend_->Attend(out.tensor(), qkv.tensor(), kLayer, arena.cache());
    const auto all = out.Read();
    std::vector<std::vector<float>> results;
    int64_t at = 0;
    for (const auto& [begin, end] : ranges) {
      const int64_t count = int64_t{end - begin} * shape.heads * shape.head_size;
      results.emplace_back(all.begin() + at, all.begin() + at + count);
      at += count;
    }
    return results;
  }

  void Store(std::vector<double>& row) const {
    if (compute() == DType::kF32) return;
    for (double& v : row) v = testing::Rounded(compute(), static_cast<float>(v));
  }

  static void RotateReference(std::vector<double>& row, int64_t at, const RopeTable& rope,
                              int position) {
    const int half = rope.rotary_size / 2;
    for (int i = 0; i < half; ++i) {
      const double c = rope.cos[position * half + i], s = rope.sin[position * half + i];
      const double low = row[at + i], high = row[at + half + i];
      row[at + i] = low * c - high * s;
      row[at + half + i] = high * c + low * s;
    }
  }

  std::vector<double> Reference(const AttentionShape& shape, const RopeTable& rope,
                                const float* bias, const Request& request) {
    const int columns = Columns(shape), d = shape.head_size;
    std::vector<std::vector<double>> rows;
    for (int t = 0; t < request.tokens; ++t) {
      std::vector<double> row(request.qkv.begin() + int64_t{t} * columns,
                              request.qkv.begin() + int64_t{t + 1} * columns);
      for (int c = 0; c < columns && bias != nullptr; ++c) row[c] += bias[c];
      for (int h = 0; h < shape.heads + shape.kv_heads; ++h) RotateReference(row, h * d, rope, t);
      Store(row);
      rows.push_back(row);
    }
    std::vector<double> out(int64_t{request.tokens} * shape.heads * d);
    for (int t = 0; t < request.tokens; ++t) {
      for (int h = 0; h < shape.heads; ++h) {
        const int kv = h / (shape.heads / shape.kv_heads);
        const int first = shape.window > 0 ? std::max(0, t - shape.window + 1) : 0;
        std::vector<double> p;
        double max = -1e300, total = 0;
        for (int s = first; s <= t; ++s) {
          double dot = 0;
          for (int i = 0; i < d; ++i)
            dot += rows[t][h * d + i] * rows[s][(shape.heads + kv) * d + i];
          dot *= shape.scale;
          if (shape.softcap > 0) dot = shape.softcap * std::tanh(dot / shape.softcap);
          p.push_back(dot);
          max = std::max(max, dot);
        }
        for (double& value : p) total += value = std::exp(value - max);
        for (int i = 0; i < d; ++i) {
          double sum = 0;
          for (int s = first; s <= t; ++s) {
            sum += p[s - first] / total * rows[s][(shape.heads + shape.kv_heads + kv) * d + i];
          }
          out[(int64_t{t} * shape.heads + h) * d + i] = sum;
        }
      }
    }
    return out;
  }
};

TEST_P(AttendTest, EqualsSoftmaxInDoublesForEveryShape) {
  const ShapeCase cases[] = {{9, 3, 64, 0, 0},  {4, 4, 80, 0, 0},   {8, 1, 96, 20, 0},
                             {2, 1, 128, 7, 0}, {4, 2, 256, 0, 30}, {3, 1, 36, 33, 5}};
  for (const ShapeCase& c : cases) {
    if (!Serves(c.head_size)) continue;
    SCOPED_TRACE(c.head_size);
    const AttentionShape shape = Shape(c);
    PoisonedArena arena(*backend_, shape, 12);
    const RopeTable& rope = MakeRope(c.head_size / 4 * 2, 64);
    const auto bias = Normals(Columns(shape), 0.1f);
    const Request request = MakeRequest(shape, arena, 53);
    const auto got = Run(shape, arena, rope, Floats(bias), {&request}, {{0, 53}});
    ExpectNear(got[0], Reference(shape, rope, bias.data(), request), tolerance());
  }
}

TEST_P(AttendTest, ChunksAndNeighboursDoNotChangeBits) {
  if (!GetParam().bit_equal_forward) GTEST_SKIP();
  for (const int window : {0, 19}) {
    const AttentionShape shape = Shape({6, 2, 64, window, 0});
    const RopeTable& rope = MakeRope(64, 256);
    PoisonedArena arena(*backend_, shape, 64);
    Request a = MakeRequest(shape, arena, 70);
    const Request b = MakeRequest(shape, arena, 41);
    const auto whole = Run(shape, arena, rope, nullptr, {&a}, {{0, 70}})[0];
    for (const std::vector<int>& chunks :
         {std::vector<int>{70}, {1, 69}, {33, 37}, {16, 16, 16, 16, 6}, std::vector<int>(70, 1)}) {
      a.pages = arena.Take(5);
      std::vector<float> joined;
      int at = 0, other = 0;
      for (const int chunk : chunks) {
        const int more = std::min(41, other + 5);
        std::vector<const Request*> requests = {&a};
        std::vector<std::pair<int, int>> ranges = {{at, at + chunk}};
        if (more > other) {
          requests.insert(requests.begin(), &b);
          ranges.insert(ranges.begin(), {other, more});
        }
        const auto rows = Run(shape, arena, rope, nullptr, requests, ranges).back();
        joined.insert(joined.end(), rows.begin(), rows.end());
        at += chunk;
        other = more;
      }
      ASSERT_EQ(joined.size(), whole.size());
      EXPECT_TRUE(SameBits(joined.data(), whole.data(), whole.size())) << chunks.size();
    }
  }
}

TEST_P(AttendTest, SeveralSpansOfOneRequestInAStepSeeEachOther) {
  const AttentionShape shape = Shape({4, 2, 64, 0, 0});
  const RopeTable& rope = MakeRope(64, 64);
  PoisonedArena arena(*backend_, shape, 8);
  const Request request = MakeRequest(shape, arena, 40);
  const auto parts = Run(shape, arena, rope, nullptr, {&request, &request}, {{0, 25}, {25, 40}});
  auto joined = parts[0];
  joined.insert(joined.end(), parts[1].begin(), parts[1].end());
  ExpectNear(joined, Reference(shape, rope, nullptr, request), tolerance());
}

TEST_P(AttendTest, HugeScoresDoNotOverflow) {
  AttentionShape shape = Shape({2, 1, 64, 0, 0});
  shape.scale = 20.0f;
  const RopeTable& rope = MakeRope(64, 64);
  PoisonedArena arena(*backend_, shape, 8);
  const Request request = MakeRequest(shape, arena, 40);
  const auto got = Run(shape, arena, rope, nullptr, {&request}, {{0, 40}});
  // A step of bf16 in q moves a score by a tenth here.
  ExpectNear(got[0], Reference(shape, rope, nullptr, request), Tolerance(2e-4, 0.15));
}

TEST_P(AttendTest, ABlockHasTheBytesThatTheHeaderSays) {
  const AttentionShape shape = Shape({9, 3, 64, 0, 0});
  EXPECT_EQ(backend_->BlockBytesFor(shape), 16 * kLayers * 2 * 3 * RowBytes(compute(), 64));
}

INSTANTIATE_TEST_SUITE_P(Backends, AttendTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::testing
