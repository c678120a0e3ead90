// Sampling on CUDA against the CPU backend on equal logits: any parameters, histories that
// grow on the device, row counts and captured steps.
#include <gtest/gtest.h>

#include <set>

#include "kernels/cuda/backend_cuda.h"
#include "tests/fakes/cuda_shim.h"
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

constexpr float kLogprobTolerance = 2e-5f;

class CudaSampleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no CUDA device";
    auto cuda = cuda::CudaBackend::Make({.rows_max = 512});
    ASSERT_TRUE(cuda.ok()) << cuda.status();
    cuda_ = *std::move(cuda);
    cpu_ = MakeCpu(2);
  }

  int Below(int bound) { return std::uniform_int_distribution<int>(0, bound - 1)(random_); }
  template <typename T>
  T OneOf(std::initializer_list<T> values) {
    return values.begin()[Below(static_cast<int>(values.size()))];
  }
  std::vector<float> Logits(int64_t count, float scale) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> logits(count);
    for (float& v : logits) v = Rounded(DType::kBF16, normal(random_));
    return logits;
  }

  std::vector<SampleResult> Run(Backend& backend, const std::vector<float>& logits,
                                const std::vector<SampleRow>& rows, int vocabulary) {
    const auto count = static_cast<int>(rows.size());
    StepBatch batch = PlainBatch(count);
    batch.samples = rows;
    for (int i = 0; i < count; ++i) batch.samples[i].row = i;
    const DeviceTensor device(backend, DType::kF32, count, logits.size() / count, logits);
    std::vector<SampleResult> results(count);
    backend.BeginStep(batch);
    backend.Sample(device.tensor(), vocabulary, absl::MakeSpan(results));
    EXPECT_TRUE(backend.Synchronize().ok());
    return results;
  }
  std::vector<SampleResult> OnCuda(const std::vector<float>& logits,
                                   const std::vector<SampleRow>& rows, int vocabulary) {
    return Run(*cuda_, logits, rows, vocabulary);
  }
  std::vector<SampleResult> OnCpu(const std::vector<float>& logits,
                                  const std::vector<SampleRow>& rows, int vocabulary) {
    return Run(*cpu_, logits, rows, vocabulary);
  }

  // Lists that rows borrow.
  struct Lists {
    std::vector<int32_t> prompt, output, mask;
    std::vector<TokenBias> bias;
  };
  SampleRow AnyRow(int index, int vocabulary) {
    SampleRow row;
    row.slot = index;
    row.token_index = Below(1000);
    SampleParams& p = row.params;
    p.temperature = OneOf({0.0f, 0.3f, 0.8f, 1.0f, 2.0f});
    p.top_k = OneOf({0, 0, 1, 5, 50, 1000});
    p.top_p = OneOf({1.0f, 1.0f, 0.5f, 0.9f, 0.999f});
    p.min_p = OneOf({0.0f, 0.0f, 0.02f, 0.3f});
    p.seed = random_();
    p.logprobs = OneOf({-1, -1, 0, 5, 20});
    Lists& lists = lists_.emplace_back();
    if (Below(3) == 0) AddHistory(row, lists, vocabulary);
    if (Below(4) == 0) AddBias(row, lists, vocabulary);
    if (Below(5) == 0) AddMask(row, lists, vocabulary);
    return row;
  }
  void AddHistory(SampleRow& row, Lists& lists, int vocabulary) {
    row.params.repetition_penalty = OneOf({1.0f, 1.2f, 0.8f});
    row.params.presence_penalty = OneOf({0.0f, 0.7f, -0.5f});
    row.params.frequency_penalty = OneOf({0.0f, 0.15f});
    for (int i = Below(300); i >= 0; --i) lists.prompt.push_back(Below(vocabulary + 5) - 2);
    for (int i = Below(300); i > 0; --i) lists.output.push_back(Below(std::min(vocabulary, 90)));
    row.prompt = lists.prompt.data();
    row.prompt_count = static_cast<int32_t>(lists.prompt.size());
    row.output = lists.output.data();
    row.output_count = static_cast<int32_t>(lists.output.size());
  }
  void AddBias(SampleRow& row, Lists& lists, int vocabulary) {
    for (int i = Below(40); i >= 0; --i) {
      lists.bias.push_back({Below(vocabulary + 3) - 1, OneOf({-100.0f, -2.5f, 3.0f, 6.0f})});
    }
    row.bias = lists.bias.data();
    row.bias_count = static_cast<int32_t>(lists.bias.size());
  }
  void AddMask(SampleRow& row, Lists& lists, int vocabulary) {
    lists.mask.resize((vocabulary + 31) / 32);
    for (int32_t& word : lists.mask) word = static_cast<int32_t>(random_() & random_());
    lists.mask[0] |= 1;
    row.allowed_mask = lists.mask.data();
    row.allowed_words = static_cast<int32_t>(lists.mask.size());
  }

  std::unique_ptr<cuda::CudaBackend> cuda_;
  std::unique_ptr<Backend> cpu_;
  std::mt19937_64 random_{20261127};
  std::list<Lists> lists_;
};

void ExpectSameLogprobs(const SampleResult& got, const SampleResult& want) {
  EXPECT_NEAR(got.logprob, want.logprob, kLogprobTolerance);
  ASSERT_EQ(got.top.size(), want.top.size());
  for (size_t i = 0; i < got.top.size(); ++i) {
    EXPECT_EQ(got.top[i].token, want.top[i].token) << i;
    EXPECT_NEAR(got.top[i].logprob, want.top[i].logprob, kLogprobTolerance) << i;
  }
}

TEST_F(CudaSampleTest, AnyParametersChooseTheCpusToken) {
  struct Shape {
    int columns, vocabulary, rows, rounds;
  };
  int different = 0, all = 0;
  for (const Shape& shape : {Shape{7, 5, 40, 3},
                             {72, 70, 60, 3},
                             {1000, 1000, 100, 3},
                             {32000, 32000, 64, 3},
                             {50257, 50257, 24, 1},
                             {128256, 128000, 24, 2},
                             {262144, 262144, 6, 1}}) {
    for (int round = 0; round < shape.rounds; ++round) {
      SCOPED_TRACE(shape.vocabulary);
      const auto logits = Logits(int64_t{shape.rows} * shape.columns, OneOf({0.5f, 2.0f, 6.0f}));
      std::vector<SampleRow> rows;
      for (int i = 0; i < shape.rows; ++i) rows.push_back(AnyRow(i, shape.vocabulary));
      const auto got = OnCuda(logits, rows, shape.vocabulary);
      const auto want = OnCpu(logits, rows, shape.vocabulary);
      for (int i = 0; i < shape.rows; ++i) {
        EXPECT_EQ(got[i].finite, want[i].finite);
        const SampleParams& p = rows[i].params;
        const bool same = got[i].token == want[i].token;
        ++all;
        if (!same && p.temperature > 0.0f) {
          ++different;
          continue;
        }
        EXPECT_TRUE(same) << i;
        ExpectSameLogprobs(got[i], want[i]);
      }
    }
  }
  // The last digit of a sum over a flat vocabulary decides now and then.
  EXPECT_LE(different * 200, all) << different << " of " << all;
}

TEST_F(CudaSampleTest, LogitsOfAnySizeAreServed) {
  constexpr int kVocabulary = 4000;
  const auto some = Logits(kVocabulary, 1.0f);
  const float huge = FloatFromBfloat(0x7f7f);
  for (const auto& [scale, shift] : {std::pair{0.0f, 0.0f},
                                     {1e-30f, 0.0f},
                                     {1e-3f, 5.0f},
                                     {1.0f, -1e4f},
                                     {1e30f, 0.0f},
                                     {huge, 0.0f}}) {
    std::vector<float> logits;
    for (const float x : some) {
      const float value = std::clamp(x, -1.0f, 1.0f) * scale + shift;
      logits.push_back(Rounded(DType::kBF16, value));
    }
    for (const int top_k : {0, 3, 2000}) {
      SampleRow row;
      row.params.temperature = 1.0f;
      row.params.top_k = top_k;
      row.params.top_p = 0.7f;
      row.params.logprobs = 4;
      const auto got = OnCuda(logits, {row}, kVocabulary);
      const auto want = OnCpu(logits, {row}, kVocabulary);
      EXPECT_EQ(got[0].token, want[0].token) << scale << " " << top_k;
      for (size_t i = 0; i < 4; ++i) EXPECT_EQ(got[0].top[i].token, want[0].top[i].token);
    }
  }
}

TEST_F(CudaSampleTest, ARowHasTheSameBitsWhateverSharesTheStep) {
  constexpr int kVocabulary = 40000;
  for (int round = 0; round < 6; ++round) {
    const auto logits = Logits(kVocabulary, 3.0f);
    SampleRow row = AnyRow(0, kVocabulary);
    row.params.temperature = 0.9f;
    row.params.logprobs = 20;
    const SampleResult alone = OnCuda(logits, {row}, kVocabulary)[0];
    for (const int count : {3, 9, 40, 130}) {
      std::vector<SampleRow> rows;
      std::vector<float> all;
      for (int i = 0; i < count; ++i) {
        rows.push_back(i == count / 2 ? row : AnyRow(i, kVocabulary));
        rows.back().slot = i;
        all.insert(all.end(), logits.begin(), logits.end());
      }
      const SampleResult beside = OnCuda(all, rows, kVocabulary)[count / 2];
      EXPECT_EQ(beside.token, alone.token);
      EXPECT_EQ(std::memcmp(&beside.logprob, &alone.logprob, 4), 0);
      ASSERT_EQ(beside.top.size(), alone.top.size());
      EXPECT_EQ(std::memcmp(beside.top.data(), alone.top.data(), 20 * sizeof(Logprob)), 0);
    }
  }
}

// A request as the engine steps it: the host reads a token one step after the next launch.
struct Stream {
  uint64_t id;
  int slot;
  std::vector<int32_t> prompt, read;
  int32_t unread = -1;
};

TEST_F(CudaSampleTest, CountsGrowOnTheDeviceAndFollowTheSlot) {
  constexpr int kVocabulary = 500, kSteps = 40;
  std::vector<Stream> streams;
  uint64_t next_id = 1;
  const auto start = [&](int slot) {
    Stream stream{next_id++, slot, {}, {}, -1};
    for (int i = 0; i < 20; ++i) stream.prompt.push_back(Below(60));
    stream.read.reserve(kSteps);
    return stream;
  };
  for (int slot = 0; slot < 5; ++slot) streams.push_back(start(slot));
  for (int step = 0; step < kSteps; ++step) {
    if (step % 7 == 6) streams[Below(5)] = start(Below(5));  // two may share a slot for a while
    const auto logits = Logits(5 * kVocabulary, 1.0f);
    std::vector<SampleRow> late, whole;
    std::list<std::vector<int32_t>> outputs;
    std::set<int> slots;
    for (Stream& s : streams) {
      const bool skips = Below(6) == 0 || !slots.insert(s.slot).second;
      if (skips && s.unread >= 0) s.read.push_back(std::exchange(s.unread, -1));
      SampleRow row;
      row.slot = s.slot;
      row.history = s.id;
      row.params.frequency_penalty = 0.8f;
      row.params.repetition_penalty = 1.5f;
      row.prompt = s.prompt.data();
      row.prompt_count = static_cast<int32_t>(s.prompt.size());
      row.output = s.read.data();
      row.output_count = static_cast<int32_t>(s.read.size());
      row.output_pending = s.unread >= 0;
      if (skips) row = SampleRow{.slot = 100 + static_cast<int>(late.size())};
      late.push_back(row);
      outputs.push_back(s.read);
      if (s.unread >= 0) outputs.back().push_back(s.unread);
      row.output = outputs.back().data();
      row.output_count = skips ? 0 : static_cast<int32_t>(outputs.back().size());
      row.output_pending = 0;
      whole.push_back(row);
    }
    const auto got = OnCuda(logits, late, kVocabulary);
    const auto want = OnCpu(logits, whole, kVocabulary);
    for (int i = 0; i < 5; ++i) {
      ASSERT_EQ(got[i].token, want[i].token) << "step " << step << " stream " << i;
      if (late[i].history == 0) continue;
      Stream& s = streams[i];
      if (s.unread >= 0) s.read.push_back(s.unread);
      s.unread = got[i].token;
    }
  }
}

TEST_F(CudaSampleTest, AnOutputTokenIsCountedUpToItsLimit) {
  const std::vector<float> logits = {32768.0f, 0.5f};
  std::vector<int32_t> output(cuda::kOutputCountMax + 1, 0);
  for (const int count : {cuda::kOutputCountMax - 1, cuda::kOutputCountMax}) {
    SampleRow row;
    row.params.frequency_penalty = 1.0f;
    row.output = output.data();
    row.output_count = count;
    EXPECT_EQ(OnCuda(logits, {row}, 2)[0].token, 0) << "32768 - " << count << " is above 0.5";
  }
  SampleRow row;
  row.params.frequency_penalty = 1.0f;
  row.output = output.data();
  row.output_count = cuda::kOutputCountMax + 1;
  EXPECT_EQ(OnCpu(logits, {row}, 2)[0].token, 1);
  EXPECT_EQ(OnCuda(logits, {row}, 2)[0].token, 0) << "one more is not counted";
}

TEST_F(CudaSampleTest, MoreSlotsThanRowsOfCountsTakeTurns) {
  cuda_ = *cuda::CudaBackend::Make({.rows_max = 2});
  const std::vector<float> logits = {2.0f, 1.5f, 0.0f};
  const int32_t output[] = {0};
  for (int round = 0; round < 3; ++round) {
    for (int slot = 0; slot < 5; ++slot) {
      SampleRow row;
      row.slot = slot;
      row.history = 10 + slot;
      row.params.presence_penalty = 1.0f;
      row.output = output;
      row.output_count = slot % 2;
      EXPECT_EQ(OnCuda(logits, {row}, 3)[0].token, slot % 2) << round;
    }
  }
}

TEST_F(CudaSampleTest, WithoutMemoryForListsTheRowsThatNeedThemEndAlone) {
  constexpr int kVocabulary = 32000, kRows = 12, kBiases = 4000;
  std::vector<SampleRow> rows(kRows);
  const auto wants_lists = [](int row) { return row % 3 == 2; };
  for (int i = 0; i < kRows; ++i) {
    rows[i].slot = i;
    rows[i].params.temperature = i % 3 == 0 ? 0.0f : 0.8f;
    rows[i].params.top_k = 1;  // drawn, and surely the largest
    if (!wants_lists(i)) continue;
    Lists& lists = lists_.emplace_back();
    for (int k = 0; k < kBiases; ++k) lists.bias.push_back({8 * k, -100.0f});
    rows[i].bias = lists.bias.data();
    rows[i].bias_count = kBiases;
  }
  const auto logits = Logits(int64_t{kRows} * kVocabulary, 2.0f);
  const auto want = OnCpu(logits, rows, kVocabulary);
  for (const bool fails : {true, false}) {
    fakes::FailAllocation(fails ? 2 : 0);  // the first is for the logits
    const auto got = OnCuda(logits, rows, kVocabulary);
    EXPECT_EQ(fakes::CountedAllocations(), 2);
    for (int i = 0; i < kRows; ++i) {
      EXPECT_EQ(got[i].finite, !(fails && wants_lists(i))) << i;
      EXPECT_EQ(got[i].no_room, fails && wants_lists(i)) << i;
      if (got[i].finite) {
        EXPECT_EQ(got[i].token, want[i].token) << i;
      }
    }
  }
  fakes::FailAllocation(0);
}

// A step captured for eight rows serves fewer, with other parameters.
TEST_F(CudaSampleTest, ACapturedStepServesAnyRowsAndParameters) {
  constexpr int kVocabulary = 1000, kRows = 8;
  StoredMatrix table{DType::kF32, kVocabulary, 8, {}, {}};
  for (int token = 0; token < kVocabulary; ++token) {
    for (int c = 0; c < 8; ++c) table.values.push_back(c == 0 ? token / 32 : token % 32);
  }
  table.bytes.resize(table.values.size() * 4);
  std::memcpy(table.bytes.data(), table.values.data(), table.bytes.size());
  const HostMatrix view = table.view();
  const auto packed = *cuda_->PackWeight({&view, 1});
  DeviceTensor logits(*cuda_, DType::kF32, kRows, kVocabulary);
  const DeviceTensor chosen(*cuda_, DType::kF32, kRows, 8);
  for (const bool greedy : {true, false}) {
    cudaGraphExec_t exec = nullptr;
    for (int round = 0; round < 5; ++round) {
      const int count = round == 0 ? kRows : 1 + Below(kRows);
      const auto values = Logits(kRows * kVocabulary, 2.0f);
      logits.Write(values);
      StepBatch batch = PlainBatch(count);
      for (int i = 0; i < count; ++i) {
        SampleRow row = greedy ? SampleRow{.slot = i} : AnyRow(i, kVocabulary);
        row.row = i;
        if (!greedy) row.params.temperature = 0.7f;
        // Masks are copied by Sample itself, which is not called for a captured one.
        row.allowed_mask = nullptr;
        row.allowed_words = 0;
        batch.samples.push_back(row);
      }
      cuda_->BeginStep(batch);
      if (round == 0) {
        std::vector<SampleResult> results(kRows);
        cuda_->Sample(logits.tensor(), kVocabulary, absl::MakeSpan(results));
        ASSERT_TRUE(cuda_->Synchronize().ok());
        cudaGraph_t graph;
        cudaStreamBeginCapture(cuda_->stream(), cudaStreamCaptureModeThreadLocal);
        cuda_->Sample(logits.tensor(), kVocabulary, absl::MakeSpan(results));
        ASSERT_EQ(cudaStreamEndCapture(cuda_->stream(), &graph), cudaSuccess);
        ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
        cudaGraphDestroy(graph);
        ASSERT_TRUE(cuda_->Synchronize().ok());
        continue;
      }
      ASSERT_EQ(cudaGraphLaunch(exec, cuda_->stream()), cudaSuccess);
      StepBatch next = PlainBatch(count);
      for (int i = 0; i < count; ++i) next.tokens[i] = -1 - i;
      cuda_->BeginStep(next);
      cuda_->Embed(Tensor{chosen.tensor().data, count, 8}, *packed);
      const auto read = chosen.Read();
      const auto want =
          OnCpu({values.begin(), values.begin() + count * kVocabulary}, batch.samples, kVocabulary);
      for (int i = 0; i < count; ++i) {
        EXPECT_EQ(read[i * 8] * 32 + read[i * 8 + 1], std::max(0, want[i].token)) << round;
      }
    }
    cudaGraphExecDestroy(exec);
  }
}

}  // namespace
}  // namespace lorica::testing
