// A family of models is a mapping: file metadata and tensor names to ModelConfig and
// to the roles that the one decoder pass knows. Private to server/models.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/tensor.h"
#include "server/models/model.h"
#include "server/models/model_config.h"

namespace lorica {

// A read-only private mapping of a whole file. The operator's own model files only:
// a file truncated while it is mapped ends the process.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  absl::Span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_;
  size_t size_;
};

// A whole small file as text. NotFound; InvalidArgument beyond `bytes_max`; Unavailable when its
// disk fails.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t bytes_max);

// The tensors of one layer, by role. data == nullptr: the layer has none. Vectors
// (norms, biases) have rows == 1.
struct LayerTensors {
  HostMatrix q, k, v, o;
  HostMatrix gate, up, down;
  HostMatrix attention_norm, mlp_norm;
  HostMatrix q_bias, k_bias, v_bias;
};

// A model that has been read and checked but not packed. The matrices borrow from
// `files` and `owned`.
struct OpenedModel {
  ModelConfig config;
  ModelText text;
  std::string weight_format;
  HostMatrix embedding;   // [vocabulary, hidden]
  HostMatrix head;        // data == nullptr: tied to the embedding
  HostMatrix final_norm;  // [1, hidden]
  std::vector<LayerTensors> layers;
  std::vector<std::unique_ptr<MappedFile>> files;
  std::vector<std::unique_ptr<std::byte[]>> owned;
};

// Range checks common to all families; InvalidArgument names the field.
absl::Status CheckConfig(const ModelConfig& config);

// InvalidArgument unless `matrix` is [rows, columns]; `name` is its name in the file.
absl::Status CheckShape(const HostMatrix& matrix, int64_t rows, int64_t columns,
                        const std::string& name);

// FailedPrecondition: the file has weights that the decoder pass would leave out.
absl::Status UnknownTensor(const std::string& name);

absl::StatusOr<OpenedModel> OpenGgufLlama(const std::string& path);
absl::StatusOr<OpenedModel> OpenHfLlama(const std::string& folder);
// What config.json says alone: no tensors, no text.
absl::StatusOr<OpenedModel> OpenHfShape(const std::string& folder);

}  // namespace lorica
