// A base model on a backend: weights, LoRA targets and the one decoder pass.
//
// Immutable after Load apart from its activation buffers, which belong to the
// engine's thread. Weights come from a GGUF file or a Hugging Face folder
// (config.json, model*.safetensors, tokenizer.json).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "server/models/model_config.h"

namespace lorica {

// Text resources that come with the weights. Empty strings: not there.
struct ModelText {
  std::string tokenizer_json;  // Hugging Face folder
  std::string chat_template;
  std::string bos_token;
  std::string eos_token;
  std::string gguf_model;  // GGUF: tokenizer.ggml.*
  std::string gguf_pre;
  std::vector<std::string> gguf_tokens;
  std::vector<int64_t> gguf_token_types;
  std::vector<std::string> gguf_merges;
};

// kAuto reads what is in the file or folder. kDummy reads config.json, for the shape, and the
// tokenizer if there is one, and makes random weights, seeded and the same on every device: for
// benchmarks.
enum class LoadFormat : uint8_t { kAuto, kDummy };

class DecodeSteps;

class Model {
 public:
  struct Weights;  // private to server/models
  struct Buffers;

  struct Options {
    int64_t context_tokens = 0;  // 0 = the model's own, at most kContextTokensMax
    int rows_max = 512;          // most rows of a Forward
    int samples_max = 64;        // most sample rows of a Forward
    LoadFormat load_format = LoadFormat::kAuto;
    std::string name;  // of the config; empty: what the files call it
  };

  // InvalidArgument / FailedPrecondition name the field that is wrong.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& path, Backend* backend,
                                                     const Options& options);
  ~Model();

  const ModelConfig& config() const { return config_; }
  const ModelText& text() const { return text_; }
  const std::vector<LoraTarget>& lora_targets() const { return targets_; }
  int64_t context_tokens() const { return context_tokens_; }
  int64_t weight_bytes() const { return weight_bytes_; }
  const std::string& weight_format() const { return weight_format_; }  // "GGUF Q4_1", ...

  // See Backend::ChooseProducts. Before CaptureSteps.
  absl::Status ChooseProducts();
  // Where the device keeps captured steps: captures those of up to `rows` rows, so that Forward
  // replays them. Before the first Forward; `cache` is that of every Forward.
  // REQUIRES: rows <= rows_max and samples_max.
  absl::Status CaptureSteps(const KvCache& cache, int rows);
  int captured_steps() const;

  // The decoder pass over a batch. Afterwards logits() has a row for each sample.
  // REQUIRES: batch.rows() <= rows_max, samples <= samples_max; cache has this shape.
  void Forward(const StepBatch& batch, const KvCache& cache);
  // [samples of the last Forward, vocabulary], on the device.
  Tensor logits() const;

 private:
  Model();
  void RunVerbs(int64_t rows, int64_t samples, const KvCache& cache);

  ModelConfig config_;
  ModelText text_;
  std::vector<LoraTarget> targets_;
  int64_t context_tokens_ = 0;
  int64_t weight_bytes_ = 0;
  std::string weight_format_;
  Backend* backend_ = nullptr;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<Buffers> buffers_;
  std::unique_ptr<DecodeSteps> captured_;
};

}  // namespace lorica
