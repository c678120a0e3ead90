// What few adapters have beside the pairs of their linears, against doubles: biases of lora_B, LoRA
// on the embedding and on the output head. And that rows of other adapters do not notice.
#include <cmath>

#include "tests/kernels/lora_fixture.h"

namespace lorica::testing {
namespace {

constexpr int kRanks[] = {1, 7, 8, 16, 33, 256};
// Of outputs that are fp32 everywhere: only sums differ.
constexpr double kWideTolerance = 2e-5;

class LoraExtrasTest : public LoraFixture {
 protected:
  // With a bias in the module, DoRA's gain too if that is asked for.
  LoraPair Biased(LoraPair pair, bool dora = false) {
    pair.bias = Normals(pair.b.rows);
    for (int64_t i = 0; dora && i < pair.b.rows; ++i) {
      pair.gain.push_back(0.5f + 0.01f * static_cast<float>(Below(100)));
    }
    return pair;
  }
  const TestAdapter* Mount(std::vector<LoraPair> pairs) {
    TestAdapter& adapter = adapters_.emplace_back();
    adapter.pairs = std::move(pairs);
    MountPairs(*backend_, arena_, adapter);
    return &adapter;
  }
  const TestAdapter* BiasedGateUp(int rank, bool dora = false) {
    const DType dtype = TileTypes().back();
    return Mount({Biased(Pair(LoraModule::kGate, rank, dtype, kIn, kFfn), dora),
                  Biased(Pair(LoraModule::kUp, rank, dtype, kIn, kFfn), dora)});
  }

  struct Matrix {
    StoredMatrix stored;
    std::unique_ptr<Weight> weight;
  };
  // As the device holds it.
  Matrix Base(int64_t out, int64_t in) {
    Matrix base{RandomMatrix(compute(), out, in, random_, 0.03f), nullptr};
    const HostMatrix view = base.stored.view();
    base.weight = *backend_->PackWeight({&view, 1});
    return base;
  }
  static double Product(const Matrix& base, int64_t row, const float* x) {
    const StoredMatrix& m = base.stored;
    double sum = 0;
    for (int64_t k = 0; k < m.columns; ++k) sum += double{m.values[row * m.columns + k]} * x[k];
    return sum;
  }

  // The terms of each row.
  static std::vector<Terms> TermsOfRows(const std::vector<Segment>& segments) {
    std::vector<Terms> rows;
    for (const Segment& s : segments) rows.insert(rows.end(), s.rows, s.terms);
    return rows;
  }

  // All of a product: base, shrink, expand and bias.
  void CheckDown(const std::vector<Segment>& segments, int in, int hidden) {
    const std::vector<Terms> terms = TermsOfRows(segments);
    const int64_t rows = std::ssize(terms);
    const Matrix base = Base(hidden, in);
    const auto x = Normals(rows * in, 0.3f), residual = Normals(rows * hidden),
               bias = Normals(hidden);
    const auto input = Upload(rows, in, x);
    const auto projected = Zeros(rows, hidden), out = Zeros(rows, hidden);
    const auto sum = UploadWide(rows, hidden, residual);
    const StepBatch batch = Batch(segments);
    backend_->BeginStep(batch);
    backend_->LoraShrink(input.tensor(), 1, LoraGroup::kDown);
    backend_->Linear(projected.tensor(), input.tensor(), *base.weight);
    backend_->ResidualNorm(out.tensor(), sum.tensor(), projected.tensor(), Floats(bias), 1,
                           LoraGroup::kDown, Floats(std::vector<float>(hidden, 1.0f)), 1e-5f);
    std::vector<double> want;
    for (int64_t row = 0; row < rows; ++row) {
      const float* own = &x[row * in];
      const auto lora = ReferenceLora(terms[row], 1, LoraModule::kDown, hidden, own);
      for (int c = 0; c < hidden; ++c) {
        want.push_back(residual[row * hidden + c] + bias[c] +
                       lora.gain[c] * (Product(base, c, own) + lora.delta[c]));
      }
    }
    ExpectNear(sum.Read(), want, tolerance());
  }

  // Rows of one-block requests at position 0, where nothing turns and each attends to itself alone,
  // so that attention gives v back. k is checked by nobody: it is made as v is.
  void CheckQkv(int rows, int head_size, int rotary_size) {
    const AttentionShape shape = {4, 3, 1, head_size, 0.1f, 0, 0};
    const int q = 3 * head_size, kv = head_size, columns = q + 2 * kv, layer = 2;
    PoisonedArena kv_arena(*backend_, shape, rows);
    const DType dtype = TileTypes().back();
    const Terms terms = {{Mount({Biased(Pair(LoraModule::kQ, 9, dtype, kIn, q, layer), true),
                                 Biased(Pair(LoraModule::kV, 5, dtype, kIn, kv, layer))}),
                          1.5f}};
    StepBatch batch;
    for (int row = 0; row < rows; ++row) AddSpan(batch, 0, 1, kv_arena.Take(1));
    batch.terms.push_back({terms[0].first->mounted.get(), terms[0].second});
    batch.segments.push_back({1, rows - 1, 0, 1});
    static std::list<RopeTable> ropes;  // a backend keeps what it was given by address
    RopeTable& rope = ropes.emplace_back();
    rope.rotary_size = rotary_size;
    rope.positions = 1;
    rope.cos.assign(rotary_size / 2, 1.0f);
    rope.sin.assign(rotary_size / 2, 0.0f);
    const Matrix base = Base(columns, kIn);
    const auto x = Normals(rows * kIn), bias = Normals(columns);
    const auto input = Upload(rows, kIn, x);
    const auto qkv = Zeros(rows, columns), out = Zeros(rows, q);
    backend_->BeginStep(batch);
    backend_->LoraShrink(input.tensor(), layer, LoraGroup::kQkv);
    backend_->Linear(qkv.tensor(), input.tensor(), *base.weight);
    backend_->QkvPost(qkv.tensor(), Floats(bias), rope, layer, kv_arena.cache());
    backend_->Attend(out.tensor(), qkv.tensor(), layer, kv_arena.cache());
    const auto made = qkv.Read(), attended = out.Read();
    for (int row = 0; row < rows; ++row) {
      const float* own = &x[row * kIn];
      const Terms mine = row == 0 ? Terms{} : terms;
      const auto for_q = ReferenceLora(mine, layer, LoraModule::kQ, q, own);
      const auto for_v = ReferenceLora(mine, layer, LoraModule::kV, kv, own);
      for (int c = 0; c < q; ++c) {
        const double want_q = for_q.gain[c] * (Product(base, c, own) + for_q.delta[c]) + bias[c];
        ASSERT_NEAR(made[row * columns + c], want_q, tolerance() * (1 + std::abs(want_q)))
            << "q of row " << row;
        const int v = c % kv, at = q + kv + v;
        const double want_v = Product(base, at, own) + for_v.delta[v] + bias[at];
        ASSERT_NEAR(attended[row * q + c], want_v, tolerance() * (1 + std::abs(want_v)))
            << "v of row " << row;
      }
    }
  }

  // Tokens of rows -> what Embed makes of them.
  std::vector<float> RunEmbed(const std::vector<Segment>& segments,
                              const std::vector<int32_t>& tokens, const Matrix& table) {
    StepBatch batch = Batch(segments);
    batch.tokens = tokens;
    const int64_t hidden = table.stored.columns;
    const auto out = UploadWide(batch.rows(), hidden, Normals(batch.rows() * hidden));
    backend_->BeginStep(batch);
    backend_->Embed(out.tensor(), *table.weight);
    return out.Read();
  }
  void CheckEmbed(const std::vector<Segment>& segments, const Matrix& table) {
    const int64_t vocabulary = table.stored.rows, hidden = table.stored.columns;
    const std::vector<Terms> terms = TermsOfRows(segments);
    std::vector<int32_t> tokens = {static_cast<int32_t>(vocabulary) - 1, 0, 2047, 2048};
    while (tokens.size() < terms.size()) tokens.push_back(Below(static_cast<int>(vocabulary)));
    tokens.resize(terms.size());
    std::vector<double> want;
    for (size_t row = 0; row < terms.size(); ++row) {
      std::vector<float> one(vocabulary, 0.0f);
      one[tokens[row]] = 1.0f;
      const auto lora =
          ReferenceLora(terms[row], kOutsideLayers, LoraModule::kEmbedding, hidden, one.data());
      for (int c = 0; c < hidden; ++c) {
        want.push_back(lora.gain[c] *
                       (table.stored.values[tokens[row] * hidden + c] + lora.delta[c]));
      }
    }
    ExpectNear(RunEmbed(segments, tokens, table), want, kWideTolerance);
  }

  std::vector<float> RunHead(const StepBatch& batch, const std::vector<float>& x,
                             const std::vector<float>& base, int vocabulary) {
    const int64_t samples = std::ssize(batch.samples);
    const auto in = Upload(samples, kIn, x);
    const auto logits = UploadWide(samples, vocabulary, base);
    backend_->BeginStep(batch);
    backend_->HeadPost(logits.tensor(), in.tensor());
    return logits.Read();
  }
  // Every row samples but each fifth.
  void CheckHead(const std::vector<Segment>& segments, int vocabulary) {
    const std::vector<Terms> terms = TermsOfRows(segments);
    StepBatch batch = Batch(segments);
    for (int row = 0; row < std::ssize(terms); ++row) {
      if (row % 5 != 3) batch.samples.push_back({.row = row});
    }
    const int64_t samples = std::ssize(batch.samples);
    const auto x = Normals(samples * kIn), base = Normals(samples * vocabulary);
    std::vector<double> want;
    for (int j = 0; j < samples; ++j) {
      const auto lora = ReferenceLora(terms[batch.samples[j].row], kOutsideLayers,
                                      LoraModule::kHead, vocabulary, &x[j * kIn]);
      for (int c = 0; c < vocabulary; ++c) {
        want.push_back(lora.gain[c] * (base[j * vocabulary + c] + lora.delta[c]));
      }
    }
    ExpectNear(RunHead(batch, x, base, vocabulary), want, kWideTolerance);
  }

  LoraPair Outside(LoraModule module, int rank, DType dtype, int64_t in, int64_t out) {
    return Pair(module, rank, dtype, in, out, kOutsideLayers);
  }
};

TEST_P(LoraExtrasTest, BiasesOfLoraBAreScaledWithTheirTerm) {
  const TestAdapter* with = BiasedGateUp(9);
  const TestAdapter* without = GateUpAdapter(8, DType::kF16);
  for (const int rows : {3, 17, 133}) {
    CheckGlu({{1, {}}, {rows, {{with, 1.0f}}}});
    CheckGlu({{2, {{without, -0.5f}, {with, 0.3f}}},
              {0, {{with, 1.0f}}},
              {rows, {{with, -2.0f}}},
              {1, {{without, 1.0f}}},
              {3, {}}});
  }
}

TEST_P(LoraExtrasTest, AGainMultipliesTheBiasToo) {
  const TestAdapter* dora = BiasedGateUp(7, true);
  const TestAdapter* plain = GateUpAdapter(16, DType::kF16);
  for (const int rows : {2, 140}) {
    CheckGlu({{1, {{plain, 1.0f}}}, {rows, {{dora, 1.0f}}}, {2, {}}});
  }
}

TEST_P(LoraExtrasTest, BiasesOfEveryRankComeWithTheProduct) {
  constexpr int kHidden = 72;
  const TestAdapter* plain =
      Mount({Pair(LoraModule::kDown, 8, TileTypes().back(), kIn, kHidden, 1)});
  for (const int rank : kRanks) {
    SCOPED_TRACE(rank);
    const TestAdapter* with =
        Mount({Biased(Pair(LoraModule::kDown, rank, TileTypes().back(), kIn, kHidden, 1))});
    for (const int rows : {1, 11, 150}) {
      CheckDown({{1, {}},
                 {rows, {{with, 0.7f}}},
                 {2, {{plain, 1.0f}, {with, -1.0f}}},
                 {1, {{plain, 1.0f}}}},
                kIn, kHidden);
    }
  }
}

// A product of few rows is left in parts, whose number depends on the shape, or whole.
TEST_P(LoraExtrasTest, BiasesComeWithProductsOfAnyShape) {
  for (const auto& [in, hidden] : {std::pair{64, 72}, {2504, 136}, {64, 2104}}) {
    SCOPED_TRACE(in);
    const DType dtype = TileTypes().back();
    const TestAdapter* dora =
        Mount({Biased(Pair(LoraModule::kDown, 12, dtype, in, hidden, 1), true)});
    CheckDown({{2, {}}, {9, {{dora, 1.0f}}}}, in, hidden);
  }
}

TEST_P(LoraExtrasTest, QkvPostAddsBiasesBeforeItTurnsHeads) {
  for (const auto& [head_size, rotary_size] :
       {std::pair{64, 64}, {80, 80}, {128, 128}, {128, 64}, {256, 256}}) {
    for (const int rows : {3, 140}) {
      SCOPED_TRACE(std::to_string(head_size) + " " + std::to_string(rows));
      CheckQkv(rows, head_size, rotary_size);
    }
  }
}

TEST_P(LoraExtrasTest, EmbedAddsTheColumnsOfItsTokens) {
  constexpr int kVocabulary = 4099;
  for (const int hidden : {104, 2056}) {
    const Matrix table = Base(kVocabulary, hidden);
    const auto adapter = [&](int rank, DType dtype) {
      return Mount({Outside(LoraModule::kEmbedding, rank, dtype, kVocabulary, hidden)});
    };
    const TestAdapter* fixed = adapter(8, TileTypes().front());
    const TestAdapter* linears = GateUpAdapter(8, DType::kF16);
    for (const DType dtype : TileTypes()) {
      for (const int rank : kRanks) {
        if (hidden > 104 && rank != 33) continue;
        SCOPED_TRACE(std::to_string(rank) + std::string(DTypeName(dtype)));
        const TestAdapter* own = adapter(rank, dtype);
        CheckEmbed({{1, {}},
                    {2, {{own, 0.5f}, {linears, 1.0f}, {fixed, -1.5f}}},
                    {0, {{own, 1.0f}}},
                    {1, {{fixed, 1.0f}}},
                    {2, {{linears, 1.0f}}},
                    {19, {{own, 1.0f}}},
                    {1, {}}},
                   table);
      }
    }
    LoraPair dora =
        Biased(Outside(LoraModule::kEmbedding, 11, TileTypes().back(), kVocabulary, hidden), true);
    CheckEmbed({{3, {{Mount({dora}), 1.0f}}}, {1, {{fixed, 1.0f}}}}, table);
  }
}

TEST_P(LoraExtrasTest, EmbedKnowsTokensThatAreInTheirSlots) {
  constexpr int kVocabulary = 2100, kHidden = 104, kSlot = 3, kToken = 2049;
  const Matrix table = Base(kVocabulary, kHidden);
  const Terms terms = {
      {Mount({Outside(LoraModule::kEmbedding, 9, TileTypes().back(), kVocabulary, kHidden)}),
       1.0f}};
  StepBatch choose = PlainBatch(1);
  choose.samples.push_back({.row = 0, .slot = kSlot});
  std::vector<float> row(kVocabulary, 0.0f);
  row[kToken] = 1.0f;
  const auto logits = UploadWide(1, kVocabulary, row);
  SampleResult result;
  backend_->BeginStep(choose);
  backend_->Sample(logits.tensor(), kVocabulary, {&result, 1});
  ASSERT_TRUE(backend_->Synchronize().ok());
  ASSERT_EQ(result.token, kToken);
  const std::vector<Segment> segments = {{1, {}}, {2, terms}};
  const auto named = RunEmbed(segments, {kToken, 7, kToken}, table);
  const auto taken = RunEmbed(segments, {-1 - kSlot, 7, -1 - kSlot}, table);
  EXPECT_TRUE(SameBits(named.data(), taken.data(), std::ssize(named)));
}

TEST_P(LoraExtrasTest, HeadPostAddsToTheRowsThatSample) {
  for (const int vocabulary : {2100, 4099}) {
    const auto adapter = [&](int rank, DType dtype) {
      return Mount({Outside(LoraModule::kHead, rank, dtype, kIn, vocabulary)});
    };
    const TestAdapter* fixed = adapter(8, TileTypes().front());
    const TestAdapter* linears = GateUpAdapter(8, DType::kF16);
    const TestAdapter* dora =
        Mount({Biased(Outside(LoraModule::kHead, 4, TileTypes().back(), kIn, vocabulary), true)});
    for (const DType dtype : TileTypes()) {
      for (const int rank : kRanks) {
        SCOPED_TRACE(std::to_string(rank) + std::string(DTypeName(dtype)));
        const TestAdapter* own = adapter(rank, dtype);
        CheckHead({{2, {{own, 0.5f}}},
                   {1, {}},
                   {1, {{own, 1.0f}}},  // does not sample
                   {14, {{fixed, -0.5f}, {linears, 1.0f}, {own, 1.0f}}},
                   {0, {{own, 1.0f}}},
                   {2, {{dora, 1.0f}}},
                   {1, {{linears, 1.0f}}},
                   {1, {{own, 2.0f}}}},
                  vocabulary);
      }
    }
    CheckHead({{1, {{linears, 1.0f}}}, {2, {}}}, vocabulary);
  }
}

TEST_P(LoraExtrasTest, ARowOutsideTheLayersKeepsItsBitsWhateverSharesTheStep) {
  constexpr int kVocabulary = 2101, kHidden = 104, kRows = 21;
  const DType dtype = TileTypes().back();
  const Terms terms = {{Mount({Outside(LoraModule::kHead, 19, dtype, kIn, kVocabulary),
                               Outside(LoraModule::kEmbedding, 19, dtype, kVocabulary, kHidden)}),
                        0.7f}};
  const Terms other = {{Mount({Outside(LoraModule::kHead, 33, dtype, kIn, kVocabulary),
                               Outside(LoraModule::kEmbedding, 3, dtype, kVocabulary, kHidden)}),
                        1.0f}};
  const auto x = Normals(kRows * kIn), base = Normals(kRows * kVocabulary);
  const auto row_of = [](const std::vector<float>& all, int row, int columns) {
    return std::vector<float>(&all[row * columns], &all[row * columns] + columns);
  };
  const auto all_sample = [](StepBatch batch) {
    for (int row = 0; row < batch.rows(); ++row) batch.samples.push_back({.row = row});
    return batch;
  };
  const Matrix table = Base(kVocabulary, kHidden);
  std::vector<int32_t> tokens(kRows);
  for (int32_t& token : tokens) token = Below(kVocabulary);
  const auto logits = RunHead(all_sample(Batch({{kRows, terms}})), x, base, kVocabulary);
  const auto embedded = RunEmbed({{kRows, terms}}, tokens, table);
  for (int row = 0; row < kRows; ++row) {
    auto two_x = Normals(kIn), two_base = Normals(kVocabulary);
    for (const float v : row_of(x, row, kIn)) two_x.push_back(v);
    for (const float v : row_of(base, row, kVocabulary)) two_base.push_back(v);
    const std::vector<Segment> pair = {{1, other}, {1, terms}};
    const auto two = RunHead(all_sample(Batch(pair)), two_x, two_base, kVocabulary);
    ASSERT_TRUE(SameBits(&two[kVocabulary], &logits[row * kVocabulary], kVocabulary)) << row;
    const auto two_embedded = RunEmbed(pair, {5, tokens[row]}, table);
    ASSERT_TRUE(SameBits(&two_embedded[kHidden], &embedded[row * kHidden], kHidden)) << row;
  }
}

TEST_P(LoraExtrasTest, OtherRowsDoNotNotice) {
  const TestAdapter* plain = GateUpAdapter(16, DType::kF16);
  const TestAdapter* other = GateUpAdapter(9, DType::kF16);
  const TestAdapter* with = BiasedGateUp(9);
  for (const int rows : {5, 140}) {
    const int all = rows + 3;
    const auto x = Normals(all * kIn), base = Normals(all * 2 * kFfn);
    const auto run = [&](const TestAdapter* last) {
      return RunGlu({{1, {}}, {rows, {{plain, 0.5f}}}, {2, {{last, 1.0f}}}}, x, base);
    };
    const auto beside_none = run(other), beside_one = run(with), again = run(other);
    EXPECT_TRUE(SameBits(beside_none.data(), beside_one.data(), (rows + 1) * kFfn)) << rows;
    EXPECT_FALSE(SameBits(&beside_none[(rows + 1) * kFfn], &beside_one[(rows + 1) * kFfn], kFfn));
    EXPECT_TRUE(SameBits(beside_none.data(), again.data(), all * kFfn)) << rows;
  }
}

TEST_P(LoraExtrasTest, MountRefusesABiasThatDoesNotFit) {
  LoraImage image = OneModule({0, 4096});
  image.modules[0].has_bias = true;
  image.modules[0].bias = {0, static_cast<int32_t>(image.block_bytes) - 192};
  const std::vector<BlockId> blocks = {0};
  EXPECT_EQ(backend_->Mount(image, arena_.cache(), blocks).status().code(),
            absl::StatusCode::kInvalidArgument);
  image.modules[0].bias.offset_bytes -= 64;
  EXPECT_TRUE(backend_->Mount(image, arena_.cache(), blocks).ok());
}

INSTANTIATE_TEST_SUITE_P(Backends, LoraExtrasTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::testing
