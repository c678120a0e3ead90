#include "tests/server/models/model_runner.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "adapters/hub/source.h"
#include "adapters/peft_loader.h"
#include "kernels/check.h"
#include "kernels/plugin.h"

namespace lorica {
namespace {

constexpr int kRowsMax = 128;
constexpr int kAdapterBlocks = 512;

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Open(const std::string& path, int threads,
                                                               int64_t context_tokens,
                                                               const std::string& device) {
  auto runner = std::make_unique<ModelRunner>();
  BackendOptions backend_options;
  backend_options.threads = threads;
  backend_options.rows_max = kRowsMax;
  auto backend = MakeBackend(device, backend_options);
  if (!backend.ok()) return backend.status();
  runner->backend_ = std::move(*backend);
  Model::Options options;
  options.context_tokens = context_tokens;
  options.rows_max = kRowsMax;
  options.samples_max = kRowsMax;
  auto model = Model::Load(path, runner->backend_.get(), options);
  if (!model.ok()) return model.status();
  runner->model_ = std::move(*model);
  KvCache& cache = runner->cache_;
  cache.shape = runner->model_->config().attention();
  cache.block_bytes = runner->backend_->BlockBytesFor(cache.shape);
  runner->sequence_blocks_ =
      static_cast<int>((runner->model_->context_tokens() + kBlockTokens - 1) / kBlockTokens);
  runner->next_block_ = runner->sequence_blocks_;
  auto arena =
      runner->backend_->Allocate(cache.block_bytes * (runner->sequence_blocks_ + kAdapterBlocks));
  if (!arena.ok()) return arena.status();
  runner->arena_ = std::move(*arena);
  cache.arena = runner->arena_->data();
  return runner;
}

BlockId ModelRunner::ReserveBlocks(int count) {
  const BlockId first = next_block_;
  next_block_ += count;
  LORICA_CHECK(next_block_ <= sequence_blocks_ + kAdapterBlocks);
  return first;
}

absl::StatusOr<std::unique_ptr<MountedAdapter>> ModelRunner::Mount(const LoraImage& image) {
  std::vector<BlockId> blocks;
  std::vector<BlockCopy> copies;
  const BlockId first = ReserveBlocks(image.block_count);
  for (int32_t i = 0; i < image.block_count; ++i) {
    // Out of order, so that block ids and image order cannot be confused.
    blocks.push_back(first + image.block_count - 1 - i);
    copies.push_back({image.block(i), blocks.back()});
  }
  auto ticket = backend_->StartCopy(cache_, copies);
  while (!ticket->Done()) {
  }
  return backend_->Mount(image, cache_, blocks);
}

absl::StatusOr<ModelRunner::Adapter> ModelRunner::Load(const std::string& root,
                                                       const std::string& name) {
  auto source = MakeLocalSource(root);
  if (!source.ok()) return source.status();
  PeftLoader loader(model_->lora_targets(), backend_.get(), cache_.block_bytes);
  const std::shared_ptr<Source> shared = *std::move(source);
  auto generation = loader.Identify(shared, name);
  if (!generation.ok()) return generation.status();
  auto image = loader.LoadImage(**generation);
  if (!image.ok()) return image.status();
  auto mounted = Mount(**image);
  if (!mounted.ok()) return mounted.status();
  return Adapter{*std::move(image), *std::move(mounted)};
}

void ModelRunner::RunChunk(absl::Span<const int32_t> tokens, int begin, int count,
                           absl::Span<const LoraTerm> terms, std::vector<float>* logits) {
  StepBatch batch;
  for (int row = 0; row < count; ++row) {
    batch.tokens.push_back(tokens[begin + row]);
    batch.positions.push_back(begin + row);
    SampleRow sample;
    sample.row = row;
    batch.samples.push_back(sample);
  }
  const int pages = (begin + count + kBlockTokens - 1) / kBlockTokens;
  // Backwards, so that a table that is not looked up shows.
  for (int page = 0; page < pages; ++page) batch.pages.push_back(sequence_blocks_ - 1 - page);
  batch.spans.push_back({0, count, begin, 0, pages});
  if (!terms.empty()) {
    batch.terms.assign(terms.begin(), terms.end());
    batch.segments.push_back({0, count, 0, static_cast<int32_t>(terms.size())});
  }
  model_->Forward(batch, cache_);
  backend_->EndStep();
  const absl::Status ended = backend_->AwaitStep();
  LORICA_CHECK(ended.ok(), ended.ToString());
  const int64_t vocabulary = model_->config().vocabulary;
  std::vector<float> chunk(count * vocabulary);
  backend_->Download(chunk.data(), model_->logits().data,
                     static_cast<int64_t>(chunk.size() * sizeof(float)));
  logits->insert(logits->end(), chunk.begin(), chunk.end());
}

std::vector<float> ModelRunner::Logits(absl::Span<const int32_t> tokens,
                                       absl::Span<const int> chunks,
                                       absl::Span<const LoraTerm> terms) {
  std::vector<float> logits;
  int begin = 0;
  size_t chunk = 0;
  while (begin < static_cast<int>(tokens.size())) {
    const int count = std::min<int>(chunks[chunk], tokens.size() - begin);
    RunChunk(tokens, begin, count, terms, &logits);
    begin += count;
    if (chunk + 1 < chunks.size()) ++chunk;
  }
  return logits;
}

std::vector<float> ReadNpy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  LORICA_CHECK(bytes.size() > 10 && bytes.compare(1, 5, "NUMPY") == 0, path);
  uint16_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data() + 8, 2);
  const size_t begin = 10 + header_bytes;
  LORICA_CHECK(bytes.find("'<f4'") < begin, path);
  std::vector<float> values((bytes.size() - begin) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + begin, values.size() * sizeof(float));
  return values;
}

}  // namespace lorica
