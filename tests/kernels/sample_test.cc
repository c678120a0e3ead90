// Sample: properties of each parameter, distributions by chi-square with fixed seeds.
#include <map>
#include <set>

#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

class SampleTest : public KernelTest {
 protected:
  // One step that samples every row of logits [rows.size(), vocabulary].
  std::vector<SampleResult> Sample(const std::vector<float>& logits, std::vector<SampleRow> rows,
                                   int used = 0) {
    const auto count = static_cast<int>(rows.size());
    const auto vocabulary = static_cast<int64_t>(logits.size()) / count;
    batch_ = PlainBatch(count);
    for (int i = 0; i < count; ++i) rows[i].row = rows[i].slot = i;
    batch_.samples = std::move(rows);
    for (SampleRow& row : batch_.samples) {
      if (row.allowed_mask) row.allowed_words = static_cast<int32_t>((vocabulary + 31) / 32);
    }
    const auto device = UploadWide(count, vocabulary, logits);
    std::vector<SampleResult> results(count);
    backend_->BeginStep(batch_);
    backend_->Sample(device.tensor(), used > 0 ? used : vocabulary, absl::MakeSpan(results));
    EXPECT_TRUE(backend_->Synchronize().ok());
    return results;
  }
  SampleResult One(const std::vector<float>& logits, const SampleRow& row = {}) {
    return Sample(logits, {row})[0];
  }
  // How often each token is chosen over `draws` token indices.
  std::map<int, int> Draw(const std::vector<float>& logits, const SampleParams& params, int draws) {
    std::map<int, int> counts;
    for (int done = 0; done < draws;) {
      const int some = std::min(500, draws - done);
      std::vector<float> repeated;
      std::vector<SampleRow> rows(some);
      for (int i = 0; i < some; ++i) {
        repeated.insert(repeated.end(), logits.begin(), logits.end());
        rows[i].params = params;
        rows[i].token_index = done + i;
      }
      for (const SampleResult& r : Sample(repeated, rows)) ++counts[r.token];
      done += some;
    }
    return counts;
  }
  static std::set<int> Tokens(const std::map<int, int>& counts) {
    std::set<int> tokens;
    for (const auto& [token, count] : counts) tokens.insert(token);
    return tokens;
  }

  StepBatch batch_;
};

SampleParams At(float temperature) {
  SampleParams params;
  params.temperature = temperature;
  params.seed = 99;
  return params;
}

TEST_P(SampleTest, GreedyTakesTheLargestAndTheLowestIdOnTies) {
  auto logits = Normals(49152);
  logits[777] = logits[40000] = 50.0f;
  EXPECT_EQ(One(logits).token, 777);
  logits[49151] = 51.0f;
  EXPECT_EQ(One(logits).token, 49151);
}

TEST_P(SampleTest, PaddingIdsAreNeverChosen) {
  auto logits = Normals(100);
  logits[60] = 9.0f;
  logits[90] = std::nanf("");
  EXPECT_EQ(Sample(logits, {SampleRow{}}, 80)[0].token, 60);
}

TEST_P(SampleTest, NotANumberIsReported) {
  for (const int at : {0, 17, 99}) {
    auto logits = Normals(100);
    logits[at] = std::nanf("");
    const SampleResult result = One(logits);
    EXPECT_FALSE(result.finite);
    EXPECT_EQ(result.token, -1);
  }
}

TEST_P(SampleTest, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f, 0.5f};
  constexpr int kDraws = 20000;
  for (const float temperature : {1.0f, 0.7f}) {
    const auto counts = Draw(logits, At(temperature), kDraws);
    double total = 0, chi = 0;
    for (const float l : logits) total += std::exp(l / temperature);
    for (int i = 0; i < 5; ++i) {
      const double expected = kDraws * std::exp(logits[i] / temperature) / total;
      const double difference = (counts.count(i) ? counts.at(i) : 0) - expected;
      chi += difference * difference / expected;
    }
    EXPECT_LT(chi, 18.5) << "4 degrees of freedom, p = 0.001";
  }
}

TEST_P(SampleTest, DrawsOverManyGroupsFollowTheSoftmax) {
  std::vector<float> logits(1000, -20.0f);
  const int tokens[] = {3, 63, 64, 500, 999};
  for (const int token : tokens) logits[token] = 0.0f;
  constexpr int kDraws = 5000;
  double chi = 0;
  for (const auto& [token, count] : Draw(logits, At(1.0f), kDraws)) {
    ASSERT_EQ(logits[token], 0.0f) << token;
    chi += std::pow(count - kDraws / 5.0, 2) / (kDraws / 5.0);
  }
  EXPECT_LT(chi, 18.5) << "4 degrees of freedom, p = 0.001";
}

TEST_P(SampleTest, TheChoiceDependsOnSeedAndIndexAlone) {
  const auto a = Normals(1000), b = Normals(1000);
  SampleRow row;
  row.params = At(1.0f);
  row.token_index = 5;
  std::vector<float> both = b;
  both.insert(both.end(), a.begin(), a.end());
  const int alone = One(a, row).token;
  EXPECT_EQ(Sample(both, {row, row})[1].token, alone);
  std::set<int> others;
  for (int i = 0; i < 20; ++i) {
    row.params.seed = 1000 + i;
    others.insert(One(a, row).token);
  }
  EXPECT_GT(others.size(), 10u);
}

TEST_P(SampleTest, TopKKeepsTheBestK) {
  const auto logits = Normals(3000);
  std::vector<int> order(3000);
  for (int i = 0; i < 3000; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](int x, int y) { return logits[x] > logits[y]; });
  for (const int k : {1, 4}) {
    SampleParams params = At(3.0f);
    params.top_k = k;
    std::set<int> kept(order.begin(), order.begin() + k);
    for (int i = k; logits[order[i]] == logits[order[k - 1]]; ++i) kept.insert(order[i]);
    EXPECT_EQ(Tokens(Draw(logits, params, 500)), kept);
  }
  SampleParams params = At(3.0f);
  params.top_k = 2000;  // more than there are groups of tokens
  const float least = logits[order[1999]];
  for (const auto& [token, count] : Draw(logits, params, 500)) EXPECT_GE(logits[token], least);
}

TEST_P(SampleTest, TopPKeepsTheSmallestSetThatReachesP) {
  std::vector<float> logits(200, -30.0f);
  const float probabilities[] = {0.5f, 0.3f, 0.15f, 0.05f};
  for (int i = 0; i < 4; ++i) logits[20 * i] = std::log(probabilities[i]);
  SampleParams params = At(1.0f);
  params.top_p = 0.6f;
  EXPECT_EQ(Tokens(Draw(logits, params, 500)), (std::set<int>{0, 20}));
  params.top_p = 0.9f;
  EXPECT_EQ(Tokens(Draw(logits, params, 1000)), (std::set<int>{0, 20, 40}));
  params.top_p = 1e-6f;
  EXPECT_EQ(Tokens(Draw(logits, params, 100)), (std::set<int>{0}));
  // Top-p counts within what top-k left.
  params.top_p = 0.6f;
  params.top_k = 2;
  EXPECT_EQ(Tokens(Draw(logits, params, 500)), (std::set<int>{0}));
}

TEST_P(SampleTest, TopPWorksOnFlatLogits) {
  const std::vector<float> logits(640, 0.0f);
  SampleParams params = At(1.0f);
  params.top_p = 0.5f;
  for (const auto& [token, count] : Draw(logits, params, 500)) EXPECT_LT(token, 320);
}

TEST_P(SampleTest, MinPDropsWhatIsFarBelowTheBest) {
  const std::vector<float> logits = {std::log(0.6f), std::log(0.3f), std::log(0.07f),
                                     std::log(0.03f)};
  SampleParams params = At(1.0f);
  params.min_p = 0.1f;
  EXPECT_EQ(Tokens(Draw(logits, params, 1000)), (std::set<int>{0, 1, 2}));
}

TEST_P(SampleTest, PenaltiesFollowTheHistory) {
  std::vector<float> logits = {2.0f, 1.9f, -1.0f, 0.0f};
  const int32_t prompt[] = {0, 0, 12345, -3}, output[] = {0, 0, 1};
  SampleRow row;
  row.prompt = prompt;
  row.prompt_count = 4;
  EXPECT_EQ(One(logits, row).token, 0);
  row.params.repetition_penalty = 1.2f;  // 2.0 / 1.2 < 1.9
  EXPECT_EQ(One(logits, row).token, 1);
  row.params.repetition_penalty = 1.0f;
  row.params.frequency_penalty = 0.1f;  // counts output only: nothing there yet
  EXPECT_EQ(One(logits, row).token, 0);
  row.output = output;
  row.output_count = 3;                 // 2.0 - 0.2 < 1.9 - 0.1 is a tie but for rounding
  row.params.frequency_penalty = 0.2f;  // 1.6 against 1.7
  EXPECT_EQ(One(logits, row).token, 1);
  row.params.frequency_penalty = 0.0f;
  row.params.presence_penalty = 3.0f;  // both by the same: -1.0, -1.1, -1.0, 0.0
  EXPECT_EQ(One(logits, row).token, 3);
  // A negative logit is multiplied.
  std::vector<float> negative = {-1.0f, -1.1f};
  row.params = {};
  row.params.repetition_penalty = 2.0f;
  row.output_count = 0;
  EXPECT_EQ(One(negative, row).token, 1);
}

TEST_P(SampleTest, TheTokenInTheSlotCountsWhereTheHostHasNotReadItYet) {
  const std::vector<float> logits = {2.0f, 1.5f, 1.0f, 0.0f};
  SampleRow row;
  row.history = 7;
  row.params.presence_penalty = 1.25f;
  std::vector<int32_t> output, want = {0, 1, 2, 0};  // 2 1.5 1 | .75 1.5 1 | .75 .25 1 | ...
  for (int step = 0; step < 4; ++step) {
    row.token_index = step;
    row.output_pending = step > 0;
    row.output = output.data();
    row.output_count = static_cast<int32_t>(output.size());
    EXPECT_EQ(One(logits, row).token, want[step]) << step;
    if (step > 0) output.push_back(want[step - 1]);  // read one step late
  }
  row.history = 8;  // the slot is another's now
  row.output_pending = 0;
  row.output = want.data();
  row.output_count = 1;
  EXPECT_EQ(One(logits, row).token, 1);
  row.history = 0;
  row.output_count = 0;
  EXPECT_EQ(One(logits, row).token, 0);
}

TEST_P(SampleTest, RowsThatAreNotFiniteEndAlone) {
  std::vector<float> logits = Normals(4 * 600);
  logits[1 * 600 + 300] = std::nanf("");
  for (int i = 0; i < 600; ++i) logits[2 * 600 + i] = -HUGE_VALF;
  for (const float temperature : {0.0f, 0.9f}) {
    std::vector<SampleRow> rows(4);
    for (SampleRow& row : rows) row.params = At(temperature);
    const auto results = Sample(logits, rows);
    for (const int i : {0, 1, 2, 3}) {
      EXPECT_EQ(results[i].finite, i == 0 || i == 3) << i;
      EXPECT_EQ(results[i].token >= 0, i == 0 || i == 3) << i;
    }
  }
}

TEST_P(SampleTest, BiasMovesAndBans) {
  const std::vector<float> logits = {1.0f, 0.0f, -1.0f};
  const TokenBias raise[] = {{2, 2.5f}}, ban[] = {{0, -100.0f}, {7, 1.0f}};
  SampleRow row;
  row.bias = raise;
  row.bias_count = 1;
  EXPECT_EQ(One(logits, row).token, 2);
  row.bias = ban;
  row.bias_count = 2;
  EXPECT_EQ(One(logits, row).token, 1);
  row.params = At(5.0f);
  for (int i = 0; i < 50; ++i) {
    row.token_index = i;
    EXPECT_NE(One(logits, row).token, 0);
  }
  const TokenBias all[] = {{0, -100.0f}, {1, -101.0f}, {2, -1000.0f}};
  row.bias = all;
  row.bias_count = 3;
  const SampleResult banned = One(logits, row);
  EXPECT_FALSE(banned.finite);
  EXPECT_EQ(banned.token, -1);
}

TEST_P(SampleTest, OnlyAllowedTokensAreChosen) {
  const auto logits = Normals(70);
  std::vector<int32_t> mask(3, 0);
  mask[1] = 1 << 8;  // token 40
  mask[2] = 1 << 3;  // token 67
  SampleRow row;
  row.allowed_mask = mask.data();
  EXPECT_EQ(One(logits, row).token, logits[40] >= logits[67] ? 40 : 67);
}

TEST_P(SampleTest, AMaskIsReadWhenTheStepSamples) {
  const auto logits = Normals(3 * 70);
  std::vector<int32_t> masks[2] = {std::vector<int32_t>(3, 0), std::vector<int32_t>(3, -1)};
  batch_ = PlainBatch(3);
  for (int i = 0; i < 3; ++i) batch_.samples.push_back({.row = i, .slot = i});
  for (int i = 0; i < 2; ++i) {
    batch_.samples[i].allowed_mask = masks[i].data();
    batch_.samples[i].allowed_words = 3;
  }
  const auto device = UploadWide(3, 70, logits);
  std::vector<SampleResult> results(3);
  backend_->BeginStep(batch_);
  masks[0][2] = 1 << 1;  // token 65
  masks[1] = {1 << 30, 0, 0};
  backend_->Sample(device.tensor(), 70, absl::MakeSpan(results));
  EXPECT_TRUE(backend_->Synchronize().ok());
  EXPECT_EQ(results[0].token, 65);
  EXPECT_EQ(results[1].token, 30);
  const auto row = logits.begin() + 2 * 70;
  EXPECT_EQ(results[2].token, std::max_element(row, row + 70) - row);
}

// So prompts are scored.
TEST_P(SampleTest, ABiasAboveAllLogitsTellsTheLogprobOfItsToken) {
  constexpr int kVocabulary = 5000;
  const auto logits = Normals(3 * kVocabulary, 30.0f);
  const TokenBias given[] = {{17, 1e30f}, {4999, 1e30f}, {0, 1e30f}};
  std::vector<SampleRow> rows(3);
  for (int i = 0; i < 3; ++i) {
    rows[i].params.logprobs = 2;
    rows[i].bias = &given[i];
    rows[i].bias_count = 1;
  }
  const auto results = Sample(logits, rows);
  for (int i = 0; i < 3; ++i) {
    const auto begin = logits.begin() + i * kVocabulary;
    const double max = *std::max_element(begin, begin + kVocabulary);
    double total = 0;
    for (int t = 0; t < kVocabulary; ++t) total += std::exp(begin[t] - max);
    EXPECT_EQ(results[i].token, given[i].token);
    EXPECT_NEAR(results[i].logprob, begin[given[i].token] - max - std::log(total), 1e-4);
    ASSERT_EQ(results[i].top.size(), 2u);
    EXPECT_NEAR(results[i].top[0].logprob, -std::log(total), 1e-4);
  }
}

TEST_P(SampleTest, LogprobsComeFromTheRawLogits) {
  const auto logits = Normals(5000);
  SampleRow row;
  row.params.logprobs = 3;
  const TokenBias push[] = {{1234, 50.0f}};
  row.bias = push;
  row.bias_count = 1;
  const SampleResult result = One(logits, row);
  ASSERT_EQ(result.token, 1234);
  double total = 0;
  for (const float l : logits) total += std::exp(double{l});
  EXPECT_NEAR(result.logprob, logits[1234] - std::log(total), 1e-5);
  ASSERT_EQ(result.top.size(), 3u);
  const auto best = std::max_element(logits.begin(), logits.end());
  EXPECT_EQ(result.top[0].token, best - logits.begin());
  EXPECT_NEAR(result.top[0].logprob, *best - std::log(total), 1e-5);
  EXPECT_GE(result.top[1].logprob, result.top[2].logprob);
  row.params.logprobs = 0;
  EXPECT_TRUE(One(logits, row).top.empty());
  row.params.logprobs = 1000;
  EXPECT_EQ(One(logits, row).top.size(), size_t{kLogprobsMax});
}

TEST_P(SampleTest, TheChoiceLandsInItsTokenSlot) {
  const StoredMatrix table = RandomMatrix(DType::kF32, 70, 16, random_);
  const HostMatrix part = table.view();
  const auto packed = *backend_->PackWeight({&part, 1});
  auto logits = Normals(70);
  logits[33] = 20.0f;
  One(logits);
  StepBatch batch = PlainBatch(1);
  batch.tokens[0] = -1 - 0;
  const auto out = UploadWide(1, 16, {});
  backend_->BeginStep(batch);
  backend_->Embed(out.tensor(), *packed);
  EXPECT_TRUE(SameBits(out.Read().data(), &Rounded(table.values)[33 * 16], 16));
}

INSTANTIATE_TEST_SUITE_P(Backends, SampleTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::testing
