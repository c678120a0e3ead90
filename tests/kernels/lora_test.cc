// LoraShrink and the expanding post verbs against doubles, over popularity patterns,
// ranks and dtypes; and their bits against themselves.
#include "tests/kernels/lora_fixture.h"

namespace lorica::testing {
namespace {

class LoraTest : public LoraFixture {
 protected:
  // A down adapter of some rows, the residual and the norm behind it.
  void CheckResidualNorm(int hidden) {
    constexpr int kWide = 2504, kRows = 5;
    TestAdapter& adapter = adapters_.emplace_back();
    adapter.pairs.push_back(Pair(LoraModule::kDown, 12, TileTypes().back(), kWide, hidden, 3));
    MountPairs(*backend_, arena_, adapter);
    const Terms terms = {{&adapter, 0.7f}};
    const StepBatch batch = Batch({{1, {}}, {3, terms}, {1, {}}});
    const auto x = Normals(kRows * kWide, 0.3f), projection = Normals(kRows * hidden);
    const auto residual = Normals(kRows * hidden), weight = Normals(hidden);
    const auto bias = Normals(hidden);
    const auto in = Upload(kRows, kWide, x);
    const auto projected = Upload(kRows, hidden, projection);
    const auto sum = UploadWide(kRows, hidden, residual);
    const auto out = Zeros(kRows, hidden);
    backend_->BeginStep(batch);
    backend_->LoraShrink(in.tensor(), 3, LoraGroup::kDown);
    backend_->ResidualNorm(out.tensor(), sum.tensor(), projected.tensor(), Floats(bias), 3,
                           LoraGroup::kDown, Floats(weight), 1e-5f);
    std::vector<double> want_sum(kRows * hidden), want(kRows * hidden);
    for (int row = 0; row < kRows; ++row) {
      const bool adapted = row >= 1 && row <= 3;
      const auto lora =
          ReferenceLora(adapted ? terms : Terms{}, 3, LoraModule::kDown, hidden, &x[row * kWide]);
      double square = 0;
      for (int c = 0; c < hidden; ++c) {
        const int i = row * hidden + c;
        want_sum[i] = double{residual[i]} + projection[i] + lora.delta[c] + bias[c];
        square += want_sum[i] * want_sum[i];
      }
      for (int c = 0; c < hidden; ++c) {
        const int i = row * hidden + c;
        want[i] = want_sum[i] / std::sqrt(square / hidden + 1e-5) * weight[c];
      }
    }
    ExpectNear(sum.Read(), want_sum, tolerance());
    ExpectNear(out.Read(), want, tolerance());
  }
};

constexpr int kRanks[] = {1, 7, 8, 16, 33, 64, 128, 256};

TEST_P(LoraTest, EveryRankAndTypeEqualsDoubles) {
  for (const int rank : kRanks) {
    for (const DType dtype : TileTypes()) {
      SCOPED_TRACE(std::to_string(rank) + std::string(DTypeName(dtype)));
      CheckGlu({{2, {}}, {3, {{GateUpAdapter(rank, dtype), 1.0f}}}, {1, {}}});
    }
  }
}

TEST_P(LoraTest, EveryPopularityPatternOverEveryRankEqualsDoubles) {
  for (const DType dtype : TileTypes()) {
    SCOPED_TRACE(std::string(DTypeName(dtype)));
    std::vector<const TestAdapter*> pool;
    for (const int rank : kRanks) {
      pool.push_back(GateUpAdapter(rank, dtype, pool.size() % 3 != 0));
    }
    const auto one = [&](int adapter, int rows) { return Segment{rows, {{pool[adapter], 1.0f}}}; };
    std::vector<Segment> distinct, uniform, zipf;
    for (int i = 0; i < 8; ++i) {
      distinct.push_back(one(i, 1));
      uniform.push_back(one(Below(8), 2));
      zipf.push_back(one(i, 16 / (i + 1)));
    }
    CheckGlu(distinct);
    CheckGlu(uniform);
    CheckGlu(zipf);
    CheckGlu({one(7, 40)});                                                        // identical
    CheckGlu({one(2, 1), one(5, 70), one(1, 1)});                                  // skewed
    CheckGlu({{3, {}}, one(2, 1), one(5, 133), {40, {}}, one(7, 65), one(1, 1)});  // many rows
    for (const int single : {20, 40, 70}) {  // many rows, of ever more tiles
      std::vector<Segment> tiles = {one(5, 133)};
      for (int i = 0; i < single; ++i) tiles.push_back(one(i % 8, 1));
      CheckGlu(tiles);
    }
    CheckGlu({one(4, 0), one(5, 2), {3, {}}, one(6, 0), one(7, 1), one(1, 0)});
  }
}

TEST_P(LoraTest, EqualPlansGiveEqualBits) {
  std::vector<Segment> segments = {{3, {}}};
  for (const int rank : kRanks) {
    segments.push_back({1 + rank % 5, {{GateUpAdapter(rank, DType::kF32), 1.0f}}});
  }
  int rows = 0;
  for (const Segment& s : segments) rows += s.rows;
  const auto x = Normals(rows * kIn), base = Normals(rows * 2 * kFfn);
  const auto first = RunGlu(segments, x, base);
  const int other = segments[8].rows + segments[2].rows;  // leaves other values behind
  RunGlu({segments[8], segments[2]}, Normals(other * kIn), Normals(other * 2 * kFfn));
  const auto again = RunGlu(segments, x, base);
  EXPECT_TRUE(SameBits(first.data(), again.data(), first.size()));
}

TEST_P(LoraTest, AMixIsTheWeightedSumOfItsTerms) {
  Terms terms;
  for (int i = 0; i < kMixTermsMax; ++i) {
    terms.push_back({GateUpAdapter(4 + 9 * i, DType::kF32, i != 2), 0.3f * (i - 3)});
  }
  CheckGlu({{2, terms}, {1, {}}, {5, {terms[1], terms[0]}}});
  CheckGlu({{90, terms}, {1, {}}, {50, {terms[1], terms[0]}}});
}

TEST_P(LoraTest, DoraGainMultipliesAfterTheExpand) {
  TestAdapter& adapter = adapters_.emplace_back();
  adapter.pairs.push_back(Pair(LoraModule::kGate, 5, DType::kF32, kIn, kFfn));
  adapter.pairs.push_back(Pair(LoraModule::kUp, 9, DType::kF16, kIn, kFfn));
  for (LoraPair& pair : adapter.pairs) pair.gain = Normals(kFfn);
  MountPairs(*backend_, arena_, adapter);
  CheckGlu({{1, {}}, {6, {{&adapter, 1.0f}}}, {2, {}}});
}

TEST_P(LoraTest, RowsKeepTheirBitsWhateverSharesTheBatch) {
  if (!GetParam().bit_equal_rows) GTEST_SKIP();
  const TestAdapter* a = GateUpAdapter(16, DType::kF16);
  const TestAdapter* b = GateUpAdapter(33, DType::kF32, false);
  constexpr int kRows = 37;
  const auto x = Normals(kRows * kIn), base = Normals(kRows * 2 * kFfn);
  const auto together = RunGlu({{kRows, {{a, 1.0f}}}}, x, base);
  const auto alone_x = Normals(kIn), alone_base = Normals(2 * kFfn);
  for (int row = 0; row < kRows; ++row) {
    std::vector<float> mixed_x = alone_x, mixed_base = alone_base;
    mixed_x.insert(mixed_x.end(), &x[row * kIn], &x[row * kIn] + kIn);
    mixed_base.insert(mixed_base.end(), &base[row * 2 * kFfn], &base[row * 2 * kFfn] + 2 * kFfn);
    const auto mixed = RunGlu({{1, {{b, 2.0f}}}, {1, {{a, 1.0f}}}}, mixed_x, mixed_base);
    ASSERT_TRUE(SameBits(&mixed[kFfn], &together[row * kFfn], kFfn)) << row;
  }
}

TEST_P(LoraTest, BaseRowsAreUntouchedByNeighbours) {
  const TestAdapter* a = GateUpAdapter(16, DType::kF16);
  const auto x = Normals(3 * kIn), base = Normals(3 * 2 * kFfn);
  const auto plain = RunGlu({{3, {}}}, x, base);
  const auto mixed = RunGlu({{1, {}}, {1, {{a, 1.0f}}}, {1, {}}}, x, base);
  EXPECT_TRUE(SameBits(&plain[0], &mixed[0], kFfn));
  EXPECT_FALSE(SameBits(&plain[kFfn], &mixed[kFfn], kFfn));
  EXPECT_TRUE(SameBits(&plain[2 * kFfn], &mixed[2 * kFfn], kFfn));
}

TEST_P(LoraTest, WidthsBeyondOneTileAndResidualNorm) {
  CheckResidualNorm(2104);
  CheckResidualNorm(5000);  // beyond what one multiprocessor holds
}

// The kernel that makes the rows may shrink them by the way: for ranks that it takes and for
// others, of one term and of two, in tiles that are full and not.
TEST_P(LoraTest, TheRowsThatTheGateMakesAreShrunk) {
  constexpr int kHidden = 72;
  const auto down = [&](int rank) {
    TestAdapter& adapter = adapters_.emplace_back();
    adapter.pairs.push_back(Pair(LoraModule::kDown, rank, TileTypes().back(), kFfn, kHidden));
    MountPairs(*backend_, arena_, adapter);
    return &adapter;
  };
  const TestAdapter *a = down(5), *b = down(16), *c = down(17);
  const TestAdapter* none = GateUpAdapter(8, TileTypes().back());
  const std::vector<Segment> segments = {
      {1, {{a, 0.7f}}}, {141, {{b, 1.0f}}},  {2, {}},
      {9, {{c, 1.0f}}}, {3, {{none, 1.0f}}}, {10, {{a, 1.0f}, {b, 0.5f}}}};
  const StepBatch batch = Batch(segments);
  const int64_t rows = batch.rows();
  const auto in = Upload(rows, kIn, Normals(rows * kIn));
  const auto gate_up = Upload(rows, 2 * kFfn, Normals(rows * 2 * kFfn));
  const auto activated = Zeros(rows, kFfn);
  const auto projection = Normals(rows * kHidden);
  const auto projected = Upload(rows, kHidden, projection);
  const auto sum = UploadWide(rows, kHidden, std::vector<float>(rows * kHidden));
  const auto out = Zeros(rows, kHidden);
  backend_->BeginStep(batch);
  backend_->LoraShrink(in.tensor(), 0, LoraGroup::kGateUp);
  backend_->GluPost(activated.tensor(), gate_up.tensor(), Activation::kSilu, 0);
  backend_->LoraShrink(activated.tensor(), 0, LoraGroup::kDown);
  backend_->ResidualNorm(out.tensor(), sum.tensor(), projected.tensor(), nullptr, 0,
                         LoraGroup::kDown, Floats(std::vector<float>(kHidden, 1.0f)), 1e-5f);
  const auto x = activated.Read();
  std::vector<double> want;
  int row = 0;
  for (const Segment& s : segments) {
    for (int i = 0; i < s.rows; ++i, ++row) {
      const auto lora = ReferenceLora(s.terms, 0, LoraModule::kDown, kHidden, &x[row * kFfn]);
      for (int o = 0; o < kHidden; ++o)
        want.push_back(projection[row * kHidden + o] + lora.delta[o]);
    }
  }
  ExpectNear(sum.Read(), want, tolerance());
}

TEST_P(LoraTest, QkvPostExpandsEachHeadOfEachModule) {
  const AttentionShape shape = {4, 3, 1, 80, 0.1f, 0, 0};
  const int q = 240, kv = 80, columns = q + 2 * kv;
  PoisonedArena kv_arena(*backend_, shape, 4);
  TestAdapter& adapter = adapters_.emplace_back();
  adapter.pairs.push_back(Pair(LoraModule::kQ, 8, DType::kF32, kIn, q, 2));
  adapter.pairs.push_back(Pair(LoraModule::kV, 3, DType::kF32, kIn, kv, 2));
  MountPairs(*backend_, arena_, adapter);
  StepBatch batch;
  AddSpan(batch, 0, 3, kv_arena.Take(1));
  batch.terms.push_back({adapter.mounted.get(), 1.5f});
  batch.segments.push_back({0, 3, 0, 1});
  const auto x = Normals(3 * kIn), base = Normals(3 * columns);
  const auto in = Upload(3, kIn, x);
  const auto qkv = Upload(3, columns, base);
  const auto out = Zeros(3, q);
  static const RopeTable none;
  backend_->BeginStep(batch);
  backend_->LoraShrink(in.tensor(), 2, LoraGroup::kQkv);
  backend_->QkvPost(qkv.tensor(), nullptr, none, 2, kv_arena.cache());
  backend_->Attend(out.tensor(), qkv.tensor(), 2, kv_arena.cache());
  const Terms terms = {{&adapter, 1.5f}};
  const double near = Tolerance(1e-4, 2e-2);
  const auto rows = qkv.Read();
  for (int row = 0; row < 3; ++row) {
    const auto lora = ReferenceLora(terms, 2, LoraModule::kQ, q, &x[row * kIn]);
    for (int c = 0; c < q; ++c) {
      ASSERT_NEAR(rows[row * columns + c], base[row * columns + c] + lora.delta[c], near);
    }
  }
  // The first row attends to itself alone: its output is its v.
  const auto lora = ReferenceLora(terms, 2, LoraModule::kV, kv, &x[0]);
  const auto attended = out.Read();
  for (int c = 0; c < q; ++c) {
    ASSERT_NEAR(attended[c], base[q + kv + c % kv] + lora.delta[c % kv], near);
  }
}

TEST_P(LoraTest, MountRefusesTilesThatDoNotFit) {
  LoraImage image = OneModule({1, 0});
  const std::vector<BlockId> blocks = {0};
  EXPECT_EQ(backend_->Mount(image, arena_.cache(), blocks).status().code(),
            absl::StatusCode::kInvalidArgument);
  image.modules[0].b_tiles = {{0, static_cast<int32_t>(image.block_bytes) - 64}};
  EXPECT_FALSE(backend_->Mount(image, arena_.cache(), blocks).ok());
  image.modules[0].b_tiles = {{0, 4096}};
  EXPECT_TRUE(backend_->Mount(image, arena_.cache(), blocks).ok());
}

TEST_P(LoraTest, DoraGainIsTheNormOfTheMergedRows) {
  constexpr int kOut = 40, kRank = 6;
  for (const DType dtype : {DType::kQ4_1, DType::kF32}) {
    const StoredMatrix parts[] = {RandomMatrix(dtype, 24, kIn, random_),
                                  RandomMatrix(dtype, kOut, kIn, random_)};
    const HostMatrix views[] = {parts[0].view(), parts[1].view()};
    const auto weight = *backend_->PackWeight(views);
    LoraTarget target;
    target.in_features = kIn;
    target.out_features = kOut;
    target.weight = weight.get();
    target.weight_row_begin = 24;
    const auto a = Normals(kRank * kIn, 0.2f), b = Normals(kOut * kRank, 0.2f);
    const auto magnitude = Normals(kOut);
    const auto gain = backend_->DoraGain(target, a, b, kRank, 0.8f, magnitude);
    ASSERT_TRUE(gain.ok()) << gain.status();
    for (int o = 0; o < kOut; ++o) {
      double square = 0;
      for (int k = 0; k < kIn; ++k) {
        double value = parts[1].values[o * kIn + k];
        for (int r = 0; r < kRank; ++r) value += 0.8 * b[o * kRank + r] * a[r * kIn + k];
        square += value * value;
      }
      EXPECT_NEAR((*gain)[o], magnitude[o] / std::sqrt(square), Tolerance(1e-5, 4e-3));
    }
  }
}

TEST_P(LoraTest, DoraRefusesAZeroNormAndSurvivesCancellation) {
  const std::vector<float> a = Normals(kIn), ones(1, 1.0f), minus(1, -1.0f);
  std::vector<float> w(kIn, 0.0f);
  LoraTarget target;
  target.in_features = kIn;
  target.out_features = 1;
  const HostMatrix matrix = {DType::kF32, 1, kIn, reinterpret_cast<const std::byte*>(w.data())};
  auto weight = *backend_->PackWeight({&matrix, 1});
  target.weight = weight.get();
  const std::vector<float> zeros(kIn, 0.0f);
  EXPECT_EQ(backend_->DoraGain(target, zeros, ones, 1, 1.0f, ones).status().code(),
            absl::StatusCode::kDataLoss);
  double square = 0;
  const auto apart = static_cast<float>(Tolerance(1e-4, 0x1p-7));
  for (int k = 0; k < kIn; ++k) w[k] = a[k] * (1.0f + apart * (k % 3));
  std::ranges::copy(Rounded(w), w.begin());  // where `matrix` looks
  for (int k = 0; k < kIn; ++k) square += std::pow(double{w[k]} - a[k], 2);
  weight = *backend_->PackWeight({&matrix, 1});
  target.weight = weight.get();
  const auto gain = backend_->DoraGain(target, a, minus, 1, 1.0f, ones);
  ASSERT_TRUE(gain.ok()) << gain.status();
  EXPECT_NEAR((*gain)[0] * std::sqrt(square), 1.0, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Backends, LoraTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::testing
