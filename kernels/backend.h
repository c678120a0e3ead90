// A Backend is one device and a short list of verbs: memory, order, and the steps
// of a decoder pass, cut where kernels can fuse.
//
// The CPU backend composes each verb from plain loops in fp32 and is the
// definition of the right answer. On it a row's results are the same bits alone
// or mixed, prefilled or decoded, in any chunking: every output element is one
// chain of operations whose order depends on the weight's shape alone. On CUDA
// BackendOptions::batch_invariant asks for that.
//
// Threads. The verbs from BeginStep to Synchronize belong to one thread, the
// engine's. Health, PackWeight, DoraGain, ReadRow, NewHostBuffer, StartCopy and Mount may
// be called from any thread at any time. Tensors, weights and buffers passed in are borrowed
// until the step has completed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/lora_tiles.h"
#include "kernels/step_batch.h"
#include "kernels/tensor.h"

namespace lorica {

// Most rows of a step on CUDA when it is to be batch-invariant.
inline constexpr int kBatchInvariantRowsMax = 128;

struct BackendOptions {
  int threads = 0;           // 0 = one a core that this process may use
  int rows_max = 512;        // most rows of a step
  int requests_max = 0;      // most requests that share a step; 0 = rows_max
  int terms_max = 0;         // most adapter terms of a step; 0 = rows_max
  int64_t host_bytes = 0;    // for NewHostBuffer, taken at once on CUDA; more is taken singly
  std::string cache_folder;  // for what is measured once on a machine; empty: not kept
  // A row has the same bits whatever shares its step and however its request is cut into steps.
  // The CPU keeps to that in any case. On CUDA rows_max is kBatchInvariantRowsMax at most.
  bool batch_invariant = false;
};

// Memory of a device of its own, shared with whatever else runs there. Zeros on the CPU.
struct DeviceMemory {
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
};

// The shape of attention, the same in every layer of a model.
struct AttentionShape {
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_size = 0;
  float scale = 0.0f;    // usually head_size^-0.5
  int32_t window = 0;    // 0 = full; else keys (p - window, p]
  float softcap = 0.0f;  // 0 = off
};

// Other sizes of a model.
struct ModelSizes {
  int64_t hidden = 0;
  int64_t ffn = 0;
  int64_t vocabulary = 0;
  int64_t pages = 0;  // of a step: as many requests as it may have, each of the whole context
};

// Rotary tables for all positions: cos and sin fp32 [positions, rotary / 2], pairs
// (i, i + rotary / 2) of each head are rotated (Hugging Face order).
struct RopeTable {
  std::vector<float> cos;
  std::vector<float> sin;
  int rotary_size = 0;
  int64_t positions = 0;
};

enum class Activation : uint8_t { kSilu, kGeluTanh };

// Where one layer's K and V lie: in blocks of the arena. A block holds
// kBlockTokens tokens of all layers; the order inside is the backend's own.
struct KvCache {
  void* arena = nullptr;    // base of all blocks
  int64_t block_bytes = 0;  // stride of blocks
  AttentionShape shape;
};

// One block on its way to the device.
struct BlockCopy {
  const std::byte* source = nullptr;  // host memory that outlives the copy
  BlockId target = 0;
};

// Progress of StartCopy. Done() may be polled from any thread; once true, it
// stays true and the blocks may be read by steps launched afterwards.
class CopyTicket {
 public:
  virtual ~CopyTicket() = default;
  virtual bool Done() const = 0;
  // Meaningful once Done. Not OK: the device has failed for good, as AwaitStep would say.
  virtual absl::Status status() const = 0;
};

// Which decode steps a captured one stands for: 1 to `rows` rows, each a span of its own that
// samples, with any non-empty mixture of adapters or with none. Of adapters that touch linears
// alone, and without lora_bias: what few have besides is not captured.
struct DecodeForm {
  int rows = 0;
  bool adapters = false;
};

// The launches of a decode step, kept to be repeated at once. Opaque above kernels/.
class CapturedStep {
 public:
  virtual ~CapturedStep() = default;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  // "cpu (avx2, 2 threads)"
  virtual int threads() const = 0;
  // True where verbs only launch work: then results of a step are read one step
  // later and AwaitStep waits. False: a verb has finished when it returns.
  virtual bool asynchronous() const = 0;
  // Not OK once the device has failed for good. Waits for nothing.
  virtual absl::Status Health() const { return absl::OkStatus(); }

  // --- memory and weights -------------------------------------------------
  // Device memory, zeroed. ResourceExhausted names the bytes.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) = 0;
  // Host memory that copies to the device at full speed (pinned on CUDA). It holds anything.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> NewHostBuffer(int64_t bytes) = 0;
  virtual void Upload(void* device, const void* host, int64_t bytes) = 0;
  virtual void Download(void* host, const void* device, int64_t bytes) = 0;
  virtual DeviceMemory memory() const { return {}; }
  // Bytes of a Tensor of this shape. The residual and the logits are fp32 on every device,
  // wherever verbs take them: WideBytes.
  virtual int64_t TensorBytes(int64_t rows, int64_t columns) const = 0;
  static int64_t WideBytes(int64_t rows, int64_t columns) { return rows * columns * 4; }

  // Packs matrices stacked along their rows into one weight. `parts` are read
  // before it returns. REQUIRES: equal columns; rows > 0.
  virtual absl::StatusOr<std::unique_ptr<Weight>> PackWeight(
      absl::Span<const HostMatrix> parts) = 0;
  // A weight of random values, uniform in (-bound, bound) and bf16, which depend on the seed
  // and their place alone (kernels/noise.h): the same on every backend.
  virtual absl::StatusOr<std::unique_ptr<Weight>> RandomWeight(int64_t rows, int64_t columns,
                                                               uint64_t seed, float bound) = 0;
  // InvalidArgument: what of these sizes the verbs do not serve.
  virtual absl::Status CheckSizes(const AttentionShape&, const ModelSizes&) const {
    return absl::OkStatus();
  }

  // Chooses how products with weights of these shapes are made, for up to rows_max rows; a
  // second or two where it has to be measured. ResourceExhausted: there was no memory for that,
  // and all goes on as before. REQUIRES: no step is in flight.
  virtual absl::Status ChooseProducts(absl::Span<const Weight* const>) { return absl::OkStatus(); }

  // --- KV blocks and adapters ---------------------------------------------
  // Bytes of one block for this shape: kBlockTokens of K and V in all layers,
  // rounded up to kTileAlignment.
  virtual int64_t BlockBytesFor(const AttentionShape& shape) const = 0;
  // The dtype that tiles of a file of `file_dtype` are stored in.
  virtual DType TileDType(DType file_dtype) const = 0;
  // Writes a row of a weight as fp32. Returns how far packing may have moved it, as a share of
  // its norm (PackingShare). As it is here: for a backend whose weights nobody reads.
  virtual absl::StatusOr<float> ReadRow(const Weight&, int64_t /*row*/,
                                        absl::Span<float> /*out*/) const {
    return absl::UnimplementedError("this device does not give weights back");
  }
  // DoRA's g for rows [target.weight_row_begin, + out_features) of the base:
  //   g_i = m_i / || W_i + s (B A)_i ||
  // A is fp32 [rank, in], B fp32 [out, rank], magnitude [out]. One thread, low
  // priority, no engine resources. DataLoss when a norm is zero or not finite.
  virtual absl::StatusOr<std::vector<float>> DoraGain(const LoraTarget& target,
                                                      absl::Span<const float> a,
                                                      absl::Span<const float> b, int rank,
                                                      float scale,
                                                      absl::Span<const float> magnitude) = 0;
  // Copies whole blocks on a stream of their own, beside running steps.
  virtual std::unique_ptr<CopyTicket> StartCopy(const KvCache& cache,
                                                absl::Span<const BlockCopy> copies) = 0;
  // Resolves an image's slices against the blocks that now hold it. block_ids[i]
  // is where image block i went. REQUIRES: the copy is done.
  virtual absl::StatusOr<std::unique_ptr<MountedAdapter>> Mount(
      const LoraImage& image, const KvCache& cache, absl::Span<const BlockId> block_ids) = 0;

  // --- one step, in this order --------------------------------------------
  // Takes the step's tables. The batch is borrowed until the step has completed.
  virtual void BeginStep(const StepBatch& batch) = 0;
  // out[i] = table[token of row i], and what adapters on the embedding add.
  //                                                        out [rows, hidden], fp32
  virtual void Embed(Tensor out, const Weight& table) = 0;
  // out = norm(x) with fp32 weights:  x / rms(x) * w.      [rows, hidden], x fp32
  virtual void RmsNorm(Tensor out, Tensor x, const float* weight, float epsilon) = 0;
  // y = W x, no bias.                    y [rows, out_features], x [rows, in_features]
  virtual void Linear(Tensor y, Tensor x, const Weight& weight) = 0;
  // u = A x for all terms of all segments that touch (layer, group); kept inside
  // the backend until the matching post verb has used it.
  virtual void LoraShrink(Tensor x, int layer, LoraGroup group) = 0;
  // qkv [rows, (heads + 2 kv_heads) head_size] is W x for q, k, v stacked: adds the
  // LoRA expand (and gain), the optional bias [same columns], rotates q and k, and
  // stores K and V of `layer` in the cache. q stays in the first columns of qkv. `rope`
  // outlives the backend: a device keeps a copy of it.
  virtual void QkvPost(Tensor qkv, const float* bias, const RopeTable& rope, int layer,
                       const KvCache& cache) = 0;
  // out [rows, heads head_size] = attention of q (first columns of qkv) over pages.
  virtual void Attend(Tensor out, Tensor qkv, int layer, const KvCache& cache) = 0;
  // projection [rows, hidden] = W x of o or down: adds expand, gain and bias, then
  //   residual += projection;  out = norm(residual) with next_weight.     residual fp32
  // next_weight null: no norm, out unused.
  virtual void ResidualNorm(Tensor out, Tensor residual, Tensor projection, const float* bias,
                            int layer, LoraGroup group, const float* next_weight,
                            float epsilon) = 0;
  // gate_up [rows, 2 ffn] = W x of gate and up stacked: adds expand and gain, then
  //   out [rows, ffn] = activation(gate) * up.
  virtual void GluPost(Tensor out, Tensor gate_up, Activation activation, int layer) = 0;
  // out[j] = x[samples[j].row].                             out [samples, columns]
  virtual void GatherRows(Tensor out, Tensor x) = 0;
  // As Linear for the output weight, y fp32 [samples, vocabulary]. As it is here: for a backend
  // whose tensors are all fp32.
  virtual void Logits(Tensor y, Tensor x, const Weight& weight) { Linear(y, x, weight); }
  // logits [samples, vocabulary] is W x of the head for x [samples, hidden]: adds what
  // adapters on the head make of x (and gain).
  virtual void HeadPost(Tensor /*logits*/, Tensor /*x*/) {}
  // Chooses one token for each sample row from logits [samples, vocabulary], puts it
  // into its token slot and writes results[j] (on an asynchronous device: by the time
  // AwaitStep for this step, or Synchronize, returns). `vocabulary_used` <= columns: ids
  // beyond it are padding.
  virtual void Sample(Tensor logits, int32_t vocabulary_used, absl::Span<SampleResult> results) = 0;
  // The step's last verb: marks where its work ends.
  virtual void EndStep() = 0;
  // Runs `verbs`, all that a decode step calls between BeginStep and Sample for tensors of
  // form.rows rows, and keeps what they launch. Replay then stands for them after the
  // BeginStep of any such step; false, and it does nothing, where the step's adapters have what
  // is not captured. What the verbs name outlives the capture. Null: this device has
  // no use for it. Writes to the cache's first block. REQUIRES: no step is in flight.
  virtual absl::StatusOr<std::unique_ptr<CapturedStep>> Capture(
      const DecodeForm&, const KvCache&, absl::FunctionRef<void()> /*verbs*/) {
    return nullptr;
  }
  virtual bool Replay(const CapturedStep&) { return false; }
  // Waits for the oldest step that has ended and was not awaited, and for no later one. Its
  // results are written then. A sticky device error is Internal. REQUIRES: there is one.
  virtual absl::Status AwaitStep() = 0;
  // Waits for everything launched; no step is left to await. Errors as AwaitStep.
  virtual absl::Status Synchronize() = 0;
};

// The CPU backend. InvalidArgument for options that cannot be met.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const BackendOptions& options);

}  // namespace lorica
