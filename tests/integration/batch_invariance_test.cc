// Goal: with batch_invariant a row's logits and its choice are the same bits alone in a step and
// beside up to 127 others, wherever it stands, however its request is cut into steps, whatever
// pages it has. On the CPU, and on a GPU where there is one.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/plugin.h"
#include "server/models/model.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

constexpr int kRowsMax = kBatchInvariantRowsMax;
constexpr int kLayers = 2;
constexpr int kRequests = 132;
constexpr int kMixes = 11;  // request i has mix i % kMixes

struct Sizes {
  int hidden, ffn, heads, kv_heads, vocabulary;
};
struct Device {
  std::string name;
  Sizes sizes;
};
constexpr Sizes kSmall = {64, 160, 2, 1, 259};
// Layers of Mistral 7B: several tiles of A, products of one part and of several. The vocabulary
// is odd, as that of a model to which a token was added.
constexpr Sizes kWide = {4096, 14336, 32, 8, 32001};

std::vector<Device> Devices() {
  std::vector<Device> devices = {{"cpu", kSmall}};
  for (const char* name : {"cuda", "cuda_f16"}) {
    if (MakeBackend(name, {.rows_max = 1}).ok()) devices.push_back({name, kWide});
  }
  return devices;
}

struct Request {
  std::vector<int32_t> tokens;
  std::vector<LoraTerm> terms;  // empty: the base
};

// Rows [begin, begin + count) of a request.
struct Piece {
  int request, begin, count;
};
using Step = std::vector<Piece>;

struct Outcome {
  size_t logits;  // a hash of their bits
  int32_t token;
  float logprob;
  bool finite;
  bool operator==(const Outcome&) const = default;
};

class BatchInvariance : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    BackendOptions options;
    options.rows_max = kRowsMax;
    options.terms_max = kRowsMax * kMixTermsMax;
    options.batch_invariant = true;
    auto backend = MakeBackend(GetParam().name, options);
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    folder_.Write("config.json", ConfigText());
    auto model = Model::Load(
        folder_.path(), backend_.get(),
        {.rows_max = kRowsMax, .samples_max = kRowsMax, .load_format = LoadFormat::kDummy});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    arena_ = std::make_unique<PoisonedArena>(*backend_, model_->config().attention(), kBlocks);
    // On a GPU steps of one row a request are replayed from here on, others are not.
    ASSERT_TRUE(model_->CaptureSteps(arena_->cache(), kRowsMax).ok());
    MakeAdapters();
    MakeRequests();
    blocks_ = arena_->Take(kRequestBlocks);
  }

  static std::string ConfigText() {
    const Sizes& sizes = GetParam().sizes;
    return absl::StrCat(
        R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",)",
        R"("torch_dtype": "bfloat16", "tie_word_embeddings": false, "rms_norm_eps": 1e-5,)",
        R"("rope_theta": 1e4, "max_position_embeddings": 2048, "bos_token_id": 1,)",
        R"("eos_token_id": 2, "num_hidden_layers": )", kLayers, R"(, "hidden_size": )",
        sizes.hidden, R"(, "intermediate_size": )", sizes.ffn, R"(, "num_attention_heads": )",
        sizes.heads, R"(, "num_key_value_heads": )", sizes.kv_heads, R"(, "vocab_size": )",
        sizes.vocabulary, "}");
  }

  // Ranks that fill no tile among them, one on q and v alone, one with DoRA's gains, one with
  // biases and gains, one on the embedding and the head.
  void MakeAdapters() {
    const auto all = [](LoraModule m) { return m < LoraModule::kEmbedding; };
    const auto few = [](LoraModule m) { return m == LoraModule::kQ || m == LoraModule::kV; };
    const auto outside = [](LoraModule m) { return m >= LoraModule::kEmbedding; };
    AddAdapter(4, all);
    AddAdapter(16, all);
    AddAdapter(33, all);
    AddAdapter(8, few);
    AddAdapter(8, all, true);
    AddAdapter(5, all, true, true);
    AddAdapter(12, all, false, true);
    AddAdapter(11, outside);
  }
  void AddAdapter(int rank, bool (*touches)(LoraModule), bool gains = false, bool biases = false) {
    TestAdapter& adapter = adapters_.emplace_back();
    const DType dtype = backend_->TileDType(DType::kBF16);
    for (const LoraTarget& target : model_->lora_targets()) {
      if (!touches(target.module)) continue;
      LoraPair& pair = adapter.pairs.emplace_back(RandomPair(target, rank, dtype, random_));
      pair.scale = 0.5f;
      for (int64_t i = 0; gains && i < target.out_features; ++i) {
        pair.gain.push_back(1.0f + 0.001f * static_cast<float>(Below(100)));
      }
      for (int64_t i = 0; biases && i < target.out_features; ++i) {
        pair.bias.push_back(0.01f * static_cast<float>(Below(100)));
      }
    }
    MountPairs(*backend_, *arena_, adapter);
  }

  // One context of several pieces of attention, one as long as a step, one longer, many short.
  void MakeRequests() {
    const std::vector<std::vector<std::pair<int, float>>> mixes = {
        {},
        {{0, 1.0f}},
        {{1, 1.0f}},
        {{2, 1.0f}},
        {{3, 1.0f}},
        {{4, 1.0f}},
        {{1, -0.5f}, {0, 1.0f}},
        {{2, 0.5f}, {3, 1.0f}, {1, 0.25f}},
        {{5, 1.0f}},
        {{7, 1.0f}},
        {{6, -1.0f}, {1, 0.5f}, {7, 0.5f}}};
    ASSERT_EQ(mixes.size(), kMixes);
    for (int i = 0; i < kRequests; ++i) {
      Request request;
      for (const auto& [adapter, weight] : mixes[i % mixes.size()]) {
        request.terms.push_back({std::next(adapters_.begin(), adapter)->mounted.get(), weight});
      }
      const int length = i < 3 ? std::vector{700, kRowsMax, kRowsMax + 9}[i] : 1 + Below(20);
      for (int k = 0; k < length; ++k) request.tokens.push_back(Below(GetParam().sizes.vocabulary));
      requests_.push_back(std::move(request));
    }
    // The same tokens under another adapter.
    requests_[4].tokens = requests_[3].tokens;
  }

  int Below(int bound) { return std::uniform_int_distribution<int>(0, bound - 1)(random_); }

  // Pages of a whole request, in an order of their own.
  void DealPages() {
    std::shuffle(blocks_.begin(), blocks_.end(), random_);
    pages_.clear();
    auto from = blocks_.begin();
    for (const Request& request : requests_) {
      const auto count =
          static_cast<int>((request.tokens.size() + kBlockTokens - 1) / kBlockTokens);
      ASSERT_LE(count, blocks_.end() - from);
      pages_.emplace_back(from, from + count);
      from += count;
    }
  }

  SampleRow Sampled(int row, int request, int position) const {
    SampleRow sample;
    sample.row = sample.slot = row;
    sample.token_index = position;
    sample.params.logprobs = 0;
    if (request % 3 == 0) return sample;  // greedy
    sample.params.temperature = 0.9f;
    sample.params.top_p = 0.95f;
    sample.params.seed = 1000 + request;
    return sample;
  }

  StepBatch BatchOf(const Step& step) const {
    StepBatch batch;
    const Request* before = nullptr;
    for (const Piece& piece : step) {
      const Request& request = requests_[piece.request];
      const auto row = static_cast<int32_t>(batch.rows());
      AddSpan(batch, piece.begin, piece.count, pages_[piece.request]);
      for (int i = 0; i < piece.count; ++i) {
        batch.tokens[row + i] = request.tokens[piece.begin + i];
        batch.samples.push_back(Sampled(row + i, piece.request, piece.begin + i));
      }
      // Neighbours with the same terms share a segment, as in the scheduler's plans.
      if (before && SameTerms(*before, request) && !request.terms.empty()) {
        batch.segments.back().row_count += piece.count;
      } else if (!request.terms.empty()) {
        batch.segments.push_back({row, piece.count, static_cast<int32_t>(batch.terms.size()),
                                  static_cast<int32_t>(request.terms.size())});
        batch.terms.insert(batch.terms.end(), request.terms.begin(), request.terms.end());
      }
      before = &request;
    }
    return batch;
  }
  static bool SameTerms(const Request& a, const Request& b) {
    return std::equal(a.terms.begin(), a.terms.end(), b.terms.begin(), b.terms.end(),
                      [](const LoraTerm& x, const LoraTerm& y) {
                        return x.adapter == y.adapter && x.weight == y.weight;
                      });
  }

  // Of each row.
  std::vector<Outcome> Run(const Step& step) {
    const StepBatch batch = BatchOf(step);
    const int64_t rows = batch.rows(), vocabulary = model_->config().vocabulary;
    model_->Forward(batch, arena_->cache());
    std::vector<SampleResult> results(rows);
    backend_->Sample(model_->logits(), static_cast<int32_t>(vocabulary), absl::MakeSpan(results));
    backend_->EndStep();
    EXPECT_TRUE(backend_->AwaitStep().ok());
    std::vector<float> logits(rows * vocabulary);
    backend_->Download(logits.data(), model_->logits().data,
                       static_cast<int64_t>(logits.size() * sizeof(float)));
    std::vector<Outcome> outcomes;
    for (int64_t row = 0; row < rows; ++row) {
      const std::string_view bits(reinterpret_cast<const char*>(&logits[row * vocabulary]),
                                  vocabulary * sizeof(float));
      const SampleResult& result = results[row];
      outcomes.push_back(
          {std::hash<std::string_view>()(bits), result.token, result.logprob, result.finite});
    }
    return outcomes;
  }

  // Every row of every request in a step of its own.
  void RunAlone() {
    DealPages();
    alone_.clear();
    for (int r = 0; r < kRequests; ++r) {
      std::vector<Outcome>& outcomes = alone_.emplace_back();
      for (int i = 0; i < std::ssize(requests_[r].tokens); ++i) {
        outcomes.push_back(Run({{r, i, 1}})[0]);
        ASSERT_TRUE(outcomes.back().finite) << r << " " << i;
      }
    }
  }

  // All requests to their ends, in steps of up to `rows_max` rows, pieces of up to `chunk_max`.
  void ExpectTheSameTogether(int rows_max, int chunk_max) {
    SCOPED_TRACE(absl::StrCat("steps of ", rows_max, ", chunks of ", chunk_max));
    DealPages();
    std::vector<int> done(kRequests), order(kRequests);
    std::iota(order.begin(), order.end(), 0);
    while (!order.empty()) {
      std::shuffle(order.begin(), order.end(), random_);
      if (Below(2) == 0) {  // as the scheduler does, by adapters
        std::stable_sort(order.begin(), order.end(),
                         [](int a, int b) { return a % kMixes < b % kMixes; });
      }
      Step step;
      int room = rows_max;
      for (const int r : order) {
        const int left = static_cast<int>(requests_[r].tokens.size()) - done[r];
        const int count = std::min({room, left, 1 + Below(chunk_max)});
        if (count == 0) break;
        step.push_back({r, done[r], count});
        room -= count;
      }
      const std::vector<Outcome> outcomes = Run(step);
      size_t row = 0;
      for (const Piece& piece : step) {
        for (int i = piece.begin; i < piece.begin + piece.count; ++i, ++row) {
          ASSERT_TRUE(outcomes[row] == alone_[piece.request][i])
              << "request " << piece.request << ", position " << i << ", row " << row << " of "
              << outcomes.size();
        }
        done[piece.request] += piece.count;
      }
      std::erase_if(order, [&](int r) { return done[r] == std::ssize(requests_[r].tokens); });
    }
  }

  static constexpr int kRequestBlocks = 320, kBlocks = 1200;

  TemporaryFolder folder_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<PoisonedArena> arena_;
  std::list<TestAdapter> adapters_;
  std::vector<Request> requests_;
  std::vector<BlockId> blocks_;
  std::vector<std::vector<BlockId>> pages_;
  std::vector<std::vector<Outcome>> alone_;
  std::mt19937_64 random_{20261127};
};

TEST_P(BatchInvariance, ARowKeepsItsBitsInAnyStep) {
  RunAlone();
  if (HasFatalFailure()) return;
  EXPECT_NE(alone_[3][0].logits, alone_[4][0].logits) << "adapters change nothing";
  for (const int rows_max : {3, 40, kRowsMax}) ExpectTheSameTogether(rows_max, 1);
  for (const int chunk_max : {7, 40, kRowsMax}) ExpectTheSameTogether(kRowsMax, chunk_max);
}

TEST(BatchInvarianceLimit, OnlyADeviceThatNeedsItBoundsTheRows) {
  for (const Device& device : Devices()) {
    const bool bounded = device.name != "cpu";
    for (const int more : {0, 1}) {
      const auto backend = MakeBackend(
          device.name, {.rows_max = kBatchInvariantRowsMax + more, .batch_invariant = true});
      EXPECT_EQ(backend.ok(), !bounded || more == 0) << device.name << " " << backend.status();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, BatchInvariance, ::testing::ValuesIn(Devices()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::testing
