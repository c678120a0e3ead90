// A device for tests of the engine and the pool: memory, copies, steps, no mathematics.
//
// Blocks hold 16 words. The K and V of a position is one word: a hash of the word before
// it (read through the page table), the token, the position and the content of the
// adapters' blocks as they are in memory at that moment. A sampled token hashes every
// word of its request. So a wrong page, a stale or recycled block, a lost recompute, a
// wrong adapter, weight, history or seed give a wrong token. Steps run when they are
// collected, as late as possible; copies take effect when their ticket ends. TokensAlone
// says what a request must get. One thread, but for the buffers.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adapters/adapter_pool.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "server/engine/executor.h"
#include "server/engine/request_state.h"

namespace lorica::fakes {

inline constexpr int kWordsPerBlock = kBlockTokens;
inline constexpr int64_t kFakeBlockBytes = kWordsPerBlock * sizeof(uint64_t);

inline uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t z = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2))) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 29)) * 0x94d049bb133111ebu;
  return z ^ (z >> 32);
}

inline uint64_t HashText(const std::string& text) {
  uint64_t hash = 7;
  for (unsigned char c : text) hash = Mix(hash, c);
  return hash;
}

inline uint64_t FloatBits(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Word `index` of block `block` of an adapter.
inline uint64_t ImageWord(const std::string& digest, int32_t block, int32_t index) {
  return Mix(Mix(HashText(digest), block), index);
}

inline uint64_t HashAdapter(const std::string& digest, int32_t block_count) {
  uint64_t hash = 1;
  for (int32_t b = 0; b < block_count; ++b) {
    for (int32_t i = 0; i < kWordsPerBlock; ++i) hash = Mix(hash, ImageWord(digest, b, i));
  }
  return hash;
}

inline uint64_t AddTerm(uint64_t terms, uint64_t adapter, float weight) {
  return Mix(Mix(terms, adapter), FloatBits(weight));
}

class FakeBuffer : public Buffer {
 public:
  explicit FakeBuffer(int64_t bytes) : words_((bytes + 7) / 8), bytes_(bytes) {}
  void* data() const override { return const_cast<uint64_t*>(words_.data()); }
  int64_t size_bytes() const override { return bytes_; }

 private:
  std::vector<uint64_t> words_;
  int64_t bytes_;
};

inline std::shared_ptr<const LoraImage> MakeFakeImage(const Generation& generation) {
  auto image = std::make_shared<LoraImage>();
  image->block_bytes = kFakeBlockBytes;
  image->block_count = generation.block_count;
  image->blocks = std::make_unique<FakeBuffer>(kFakeBlockBytes * generation.block_count);
  auto* words = static_cast<uint64_t*>(image->blocks->data());
  for (int32_t b = 0; b < generation.block_count; ++b) {
    for (int32_t i = 0; i < kWordsPerBlock; ++i) *words++ = ImageWord(generation.digest, b, i);
  }
  return image;
}

inline GenerationPtr MakeFakeGeneration(std::string digest, int32_t block_count) {
  auto generation = std::make_shared<Generation>();
  generation->digest = std::move(digest);
  generation->block_count = block_count;
  return generation;
}

struct FakeMounted : MountedAdapter {
  std::vector<BlockId> blocks;
};

// Memory of the device.
struct FakeMemory {
  explicit FakeMemory(int32_t block_count) : blocks(block_count) {}
  std::vector<std::array<uint64_t, kWordsPerBlock>> blocks;

  uint64_t HashMounted(const FakeMounted& mounted) const {
    uint64_t hash = 1;
    for (BlockId block : mounted.blocks) {
      for (uint64_t word : blocks.at(block)) hash = Mix(hash, word);
    }
    return hash;
  }
};

// Copies and mounts; the verbs of a step are not here. A copy ends `copy_ticks` Ticks
// after it began.
class FakeBackend : public Backend {
 public:
  explicit FakeBackend(FakeMemory* memory) : memory_(memory) {}

  int copy_ticks = 0;
  absl::Status next_copy_status;  // of the next copy alone
  absl::Status health;

  absl::Status Health() const override { return health; }
  void Tick() {
    for (const auto& copy : copies_) copy->Advance(*memory_);
    std::erase_if(copies_, [](const auto& copy) { return copy->done; });
  }

  absl::StatusOr<std::unique_ptr<Buffer>> NewHostBuffer(int64_t bytes) override {
    return std::make_unique<FakeBuffer>(bytes);
  }
  std::unique_ptr<CopyTicket> StartCopy(const KvCache&,
                                        absl::Span<const BlockCopy> blocks) override {
    auto copy = std::make_shared<Copy>();
    copy->blocks.assign(blocks.begin(), blocks.end());
    copy->ticks_left = copy_ticks;
    copy->status = std::exchange(next_copy_status, absl::OkStatus());
    if (copy_ticks == 0) copy->Finish(*memory_);
    if (!copy->done) copies_.push_back(copy);
    return std::make_unique<Ticket>(copy);
  }
  absl::StatusOr<std::unique_ptr<MountedAdapter>> Mount(
      const LoraImage& image, const KvCache&, absl::Span<const BlockId> block_ids) override {
    LORICA_CHECK(block_ids.size() == image.block_count, block_ids.size(), image.block_count);
    auto mounted = std::make_unique<FakeMounted>();
    mounted->blocks.assign(block_ids.begin(), block_ids.end());
    return mounted;
  }

  std::string name() const override { return "fake"; }
  int threads() const override { return 1; }
  bool asynchronous() const override { return false; }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) override {
    return std::make_unique<FakeBuffer>(bytes);
  }
  void Upload(void*, const void*, int64_t) override { NotHere(); }
  void Download(void*, const void*, int64_t) override { NotHere(); }
  int64_t TensorBytes(int64_t rows, int64_t columns) const override { return rows * columns * 4; }
  absl::StatusOr<std::unique_ptr<Weight>> PackWeight(absl::Span<const HostMatrix>) override {
    return absl::UnimplementedError("fake");
  }
  absl::StatusOr<std::unique_ptr<Weight>> RandomWeight(int64_t, int64_t, uint64_t, float) override {
    return absl::UnimplementedError("fake");
  }
  int64_t BlockBytesFor(const AttentionShape&) const override { return kFakeBlockBytes; }
  DType TileDType(DType file_dtype) const override { return file_dtype; }
  absl::StatusOr<std::vector<float>> DoraGain(const LoraTarget&, absl::Span<const float>,
                                              absl::Span<const float>, int, float,
                                              absl::Span<const float>) override {
    return absl::UnimplementedError("fake");
  }
  void BeginStep(const StepBatch&) override { NotHere(); }
  void Embed(Tensor, const Weight&) override { NotHere(); }
  void RmsNorm(Tensor, Tensor, const float*, float) override { NotHere(); }
  void Linear(Tensor, Tensor, const Weight&) override { NotHere(); }
  void LoraShrink(Tensor, int, LoraGroup) override { NotHere(); }
  void QkvPost(Tensor, const float*, const RopeTable&, int, const KvCache&) override { NotHere(); }
  void Attend(Tensor, Tensor, int, const KvCache&) override { NotHere(); }
  void ResidualNorm(Tensor, Tensor, Tensor, const float*, int, LoraGroup, const float*,
                    float) override {
    NotHere();
  }
  void GluPost(Tensor, Tensor, Activation, int) override { NotHere(); }
  void GatherRows(Tensor, Tensor) override { NotHere(); }
  void Sample(Tensor, int32_t, absl::Span<SampleResult>) override { NotHere(); }
  void EndStep() override { NotHere(); }
  absl::Status AwaitStep() override { return absl::OkStatus(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  struct Copy {
    std::vector<BlockCopy> blocks;
    int ticks_left = 0;
    bool done = false;
    absl::Status status;

    void Advance(FakeMemory& memory) {
      if (--ticks_left <= 0) Finish(memory);
    }
    void Finish(FakeMemory& memory) {
      for (const BlockCopy& block : blocks) {
        std::memcpy(memory.blocks.at(block.target).data(), block.source, kFakeBlockBytes);
      }
      done = true;
    }
  };
  struct Ticket : CopyTicket {
    explicit Ticket(std::shared_ptr<Copy> copy) : copy(std::move(copy)) {}
    bool Done() const override { return copy->done; }
    absl::Status status() const override { return copy->status; }
    std::shared_ptr<Copy> copy;
  };
  static void NotHere() { LORICA_CHECK(false, "the fake backend runs no steps"); }

  FakeMemory* const memory_;
  std::vector<std::shared_ptr<Copy>> copies_;
};

// Of a token behind the positions whose words make up `kv`.
inline float FakeLogprob(uint64_t kv, int32_t token) {
  return -static_cast<float>(Mix(kv, token) % 4096) / 64.0f;
}

// What the fake draws a token from.
struct FakeSample {
  uint64_t kv = 0;  // all words of the request
  const SampleParams* params = nullptr;
  int64_t token_index = 0;
  absl::Span<const int32_t> prompt;  // history, for penalties
  absl::Span<const int32_t> output;
  absl::Span<const TokenBias> bias;
  absl::Span<const int32_t> mask;  // empty: all are allowed

  int32_t Draw(int32_t vocabulary) const {
    if (bias.size() == 1 && bias[0].bias >= kScoringBias) return bias[0].token;
    uint64_t hash = Mix(Mix(kv, params->seed), token_index);
    hash = Mix(Mix(hash, FloatBits(params->repetition_penalty)), prompt.size());
    for (int32_t token : prompt) hash = Mix(hash, token);
    for (int32_t token : output) hash = Mix(hash, token);
    for (const TokenBias& one : bias) hash = Mix(Mix(hash, one.token), FloatBits(one.bias));
    if (mask.empty()) return static_cast<int32_t>(hash % vocabulary);
    std::vector<int32_t> allowed;
    for (int32_t token = 0; token < vocabulary; ++token) {
      if ((mask[token / 32] >> token % 32 & 1) && !IsBanned(token)) allowed.push_back(token);
    }
    return allowed.empty() ? -1 : allowed[hash % allowed.size()];
  }
  bool IsBanned(int32_t token) const {
    return std::any_of(bias.begin(), bias.end(), [token](const TokenBias& one) {
      return one.token == token && one.bias <= kBanBias;
    });
  }
};

inline uint64_t KvWord(uint64_t before, int32_t token, int32_t position, uint64_t terms) {
  return Mix(Mix(Mix(before, token), position), terms);
}

class FakeExecutor : public Executor {
 public:
  FakeExecutor(FakeMemory* memory, int depth, int32_t vocabulary)
      : memory_(memory), depth_(depth), vocabulary_(vocabulary) {}

  std::set<uint64_t> poisoned;  // adapters (HashAdapter) whose rows are not finite; 0: the base
  bool no_room = false;         // rows with penalties, biases or masks find no memory for them
  absl::Status device;          // not OK: what Collect says from now on
  int64_t rows_max = 1 << 30;
  size_t samples_max = 1 << 30;
  // What a step takes on the device, one after the other; `clock` is moved to its end. Absent: no
  // time.
  std::function<absl::Duration(const StepBatch&)> cost;
  absl::Time* clock = nullptr;
  std::vector<StepBatch> log;  // when keep_log
  bool keep_log = false;

  int depth() const override { return depth_; }
  void Launch(std::unique_ptr<StepBatch> batch) override {
    CheckShape(*batch);
    if (keep_log) log.push_back(*batch);
    if (cost)
      ends_.push_back(std::max(*clock, ends_.empty() ? *clock : ends_.back()) + cost(*batch));
    flights_.push_back({std::move(batch)});
    LORICA_CHECK(static_cast<int>(flights_.size()) <= depth_ + 1, "steps in flight",
                 flights_.size());
  }
  void Sample() override {
    Flight& flight = flights_.back();
    LORICA_CHECK(!std::exchange(flight.sampled, true));
    for (SampleRow& row : flight.batch->samples) {
      if (row.allowed_mask == nullptr) continue;
      flight.masks.emplace_back(row.allowed_mask, row.allowed_mask + row.allowed_words);
      row.allowed_mask = flight.masks.back().data();
    }
  }
  absl::StatusOr<std::vector<SampleResult>> Collect() override {
    LORICA_CHECK(!flights_.empty());
    const Flight flight = std::move(flights_.front());
    flights_.pop_front();
    LORICA_CHECK(flight.sampled);
    if (cost) *clock = std::max(*clock, ends_.at(ends_.size() - 1 - flights_.size()));
    if (!device.ok()) return device;
    return Run(*flight.batch);
  }

 private:
  struct Flight {
    std::unique_ptr<StepBatch> batch;
    bool sampled = false;
    std::deque<std::vector<int32_t>> masks;  // as they were when it sampled
  };

  void CheckShape(const StepBatch& batch) const {
    LORICA_CHECK(batch.rows() > 0 && batch.rows() <= rows_max, "rows", batch.rows());
    LORICA_CHECK(batch.samples.size() <= samples_max, "samples", batch.samples.size());
    int32_t row = 0;
    std::map<BlockId, int> readers;
    std::set<BlockId> written;
    for (const AttendSpan& span : batch.spans) {
      LORICA_CHECK(span.row_begin == row && span.row_count > 0, "row", row);
      row += span.row_count;
      const int32_t tokens = span.position_begin + span.row_count;
      LORICA_CHECK(span.page_count == (tokens + kBlockTokens - 1) / kBlockTokens, "pages",
                   span.page_count);
      for (int32_t i = 0; i < span.page_count; ++i) {
        const BlockId page = batch.pages.at(span.page_begin + i);
        ++readers[page];
        if (i >= span.position_begin / kBlockTokens) written.insert(page);
      }
    }
    for (BlockId page : written) LORICA_CHECK(readers[page] == 1, "a shared page is written", page);
    LORICA_CHECK(row == batch.rows() && batch.positions.size() == batch.tokens.size());
    int32_t segment_row = 0;
    for (const LoraSegment& segment : batch.segments) {
      LORICA_CHECK(segment.row_begin >= segment_row && segment.row_count > 0);
      LORICA_CHECK(segment.term_count > 0 && segment.term_count <= kMixTermsMax);
      segment_row = segment.row_begin + segment.row_count;
    }
    LORICA_CHECK(segment_row <= batch.rows());
    for (size_t i = 1; i < batch.samples.size(); ++i) {
      LORICA_CHECK(batch.samples[i - 1].row < batch.samples[i].row);
    }
  }

  uint64_t& Word(const StepBatch& batch, const AttendSpan& span, int32_t position) {
    const BlockId block = batch.pages.at(span.page_begin + position / kBlockTokens);
    return memory_->blocks.at(block)[position % kBlockTokens];
  }

  uint64_t TermsOf(const StepBatch& batch, int32_t row, bool* finite) const {
    for (const LoraSegment& segment : batch.segments) {
      if (row < segment.row_begin || row >= segment.row_begin + segment.row_count) continue;
      uint64_t terms = 0;
      for (int32_t t = 0; t < segment.term_count; ++t) {
        const LoraTerm& term = batch.terms.at(segment.term_begin + t);
        LORICA_CHECK(term.adapter != nullptr);
        const uint64_t hash = memory_->HashMounted(static_cast<const FakeMounted&>(*term.adapter));
        if (poisoned.contains(hash)) *finite = false;
        terms = AddTerm(terms, hash, term.weight);
      }
      return terms;
    }
    if (poisoned.contains(0)) *finite = false;
    return 0;
  }

  int32_t TokenOf(const StepBatch& batch, int32_t row) const {
    const int32_t token = batch.tokens[row];
    if (token >= 0) return token;
    return slots_.at(-1 - token);
  }

  std::vector<SampleResult> Run(const StepBatch& batch) {
    std::vector<SampleResult> results;
    size_t next_sample = 0;
    for (const AttendSpan& span : batch.spans) {
      bool finite = true;
      const uint64_t terms = TermsOf(batch, span.row_begin, &finite);
      for (int32_t i = 0; i < span.row_count; ++i) {
        const int32_t row = span.row_begin + i;
        const int32_t position = span.position_begin + i;
        LORICA_CHECK(batch.positions[row] == position, row, position);
        const uint64_t before = position == 0 ? 0 : Word(batch, span, position - 1);
        Word(batch, span, position) = KvWord(before, TokenOf(batch, row), position, terms);
        if (next_sample >= batch.samples.size() || batch.samples[next_sample].row != row) continue;
        results.push_back(Sample(batch, span, position, batch.samples[next_sample++], finite));
      }
    }
    LORICA_CHECK(results.size() == batch.samples.size());
    // All rows of a step read the slots as they were before it.
    for (size_t i = 0; i < results.size(); ++i) SetSlot(batch.samples[i].slot, results[i].token);
    return results;
  }

  SampleResult Sample(const StepBatch& batch, const AttendSpan& span, int32_t position,
                      const SampleRow& row, bool finite) {
    SampleResult result;
    result.no_room = no_room && WantsRoom(row);
    result.finite = finite && !result.no_room;
    if (!result.finite) return result;
    FakeSample sample;
    for (int32_t p = 0; p <= position; ++p) sample.kv = Mix(sample.kv, Word(batch, span, p));
    sample.params = &row.params;
    sample.token_index = row.token_index;
    sample.prompt = {row.prompt, static_cast<size_t>(row.prompt_count)};
    std::vector<int32_t> output(row.output, row.output + row.output_count);
    LORICA_CHECK(row.output_pending == 0 || row.output_pending == 1, row.output_pending);
    if (row.output_pending == 1) output.push_back(slots_.at(row.slot));
    sample.output = output;
    sample.bias = {row.bias, static_cast<size_t>(row.bias_count)};
    sample.mask = {row.allowed_mask, static_cast<size_t>(row.allowed_words)};
    result.token = sample.Draw(vocabulary_);
    result.finite = result.token >= 0;
    if (row.params.logprobs >= 0) result.logprob = FakeLogprob(sample.kv, result.token);
    return result;
  }

  static bool WantsRoom(const SampleRow& row) {
    return HasPenalties(row.params) || row.bias_count > 0 || row.allowed_mask != nullptr;
  }

  void SetSlot(int32_t slot, int32_t token) {
    if (slot >= static_cast<int32_t>(slots_.size())) slots_.resize(slot + 1, -1);
    slots_[slot] = token;
  }

  FakeMemory* const memory_;
  const int depth_;
  const int32_t vocabulary_;
  std::deque<Flight> flights_;
  std::vector<absl::Time> ends_;  // of all steps
  std::vector<int32_t> slots_;
};

// What the fake's requests are constrained by: the mask follows from the tokens alone.
class PureConstraint : public TokenConstraint {
 public:
  virtual std::vector<int32_t> MaskAfter(absl::Span<const int32_t> tokens) const = 0;
};

inline uint64_t TermsAlone(const EngineRequest& request) {
  uint64_t terms = 0;
  for (const MixTerm& term : request.mix) {
    const Generation& generation = *term.generation;
    terms = AddTerm(terms, HashAdapter(generation.digest, generation.block_count), term.weight);
  }
  return terms;
}

// Log probabilities of a prompt's tokens but the first.
inline std::vector<float> ScoresAlone(const EngineRequest& request) {
  const uint64_t terms = TermsAlone(request);
  std::vector<float> scores;
  uint64_t word = 0;
  uint64_t all = 0;
  for (int32_t position = 0; position + 1 < std::ssize(request.prompt); ++position) {
    word = KvWord(word, request.prompt[position], position, terms);
    all = Mix(all, word);
    scores.push_back(FakeLogprob(all, request.prompt[position + 1]));
  }
  return scores;
}

// The tokens a request gets when it runs alone, end token included.
inline std::vector<int32_t> TokensAlone(const EngineRequest& request, int32_t vocabulary) {
  const uint64_t terms = TermsAlone(request);
  const auto has = [](const std::vector<int32_t>& ids, int32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  };
  const auto* constraint = static_cast<const PureConstraint*>(request.constraint.get());
  const bool history = HasPenalties(request.params);
  std::vector<int32_t> tokens = request.prompt;
  std::vector<int32_t> output;
  uint64_t word = 0;
  uint64_t all = 0;
  int32_t position = 0;
  while (static_cast<int32_t>(output.size()) < request.max_tokens) {
    for (; position < static_cast<int32_t>(tokens.size()); ++position) {
      word = KvWord(word, tokens[position], position, terms);
      all = Mix(all, word);
    }
    FakeSample sample;
    sample.kv = all;
    sample.params = &request.params;
    sample.token_index = static_cast<int64_t>(output.size());
    if (history) sample.prompt = request.prompt;
    if (history) sample.output = output;
    sample.bias = request.logit_bias;
    std::vector<int32_t> mask;
    if (constraint != nullptr) mask = constraint->MaskAfter(output);
    sample.mask = mask;
    const int32_t token = sample.Draw(vocabulary);
    output.push_back(token);
    tokens.push_back(token);
    if (has(request.stop_token_ids, token)) break;
    if (!request.ignore_end && has(request.end_tokens, token)) break;
  }
  return output;
}

}  // namespace lorica::fakes
