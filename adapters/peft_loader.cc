#include "adapters/peft_loader.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/adapter_planner.h"
#include "adapters/catalog_text.h"
#include "adapters/content_digest.h"
#include "adapters/hub/foreign_file.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/safetensors.h"
#include "adapters/image_builder.h"
#include "adapters/sha256.h"
#include "kernels/check.h"

namespace lorica {
namespace {

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kWeightsFile[] = "adapter_model.safetensors";
constexpr int64_t kSliceBytes = 1 << 20;
// Longer than the step of a file system's clock: a write after this age shows.
constexpr absl::Duration kStampSettles = absl::Milliseconds(20);

absl::Status Refuse(absl::string_view what) { return absl::FailedPreconditionError(what); }

// Reads a file from its beginning to its end and hashes all of it on the way, unless told that
// nobody will ask for the hash.
class HashingReader {
 public:
  explicit HashingReader(const SourceFile& file) : file_(file) {}

  void DoNotHash() { hashes_ = false; }

  absl::Status Read(absl::Span<std::byte> out) {
    while (!out.empty()) {
      const absl::Span<std::byte> slice = out.subspan(0, kSliceBytes);
      if (absl::Status s = file_.ReadAt(position_, slice); !s.ok()) return s;
      if (hashes_) hash_.Update(slice);
      position_ += std::ssize(slice);
      out.remove_prefix(slice.size());
    }
    return absl::OkStatus();
  }

  // Hashes what was not read yet. REQUIRES: DoNotHash was not called.
  absl::StatusOr<std::string> Finish() {
    LORICA_CHECK(hashes_);
    if (absl::Status s = HashRest(file_, position_, hash_); !s.ok()) return s;
    return hash_.Finish();
  }

 private:
  const SourceFile& file_;
  Sha256 hash_;
  bool hashes_ = true;
  int64_t position_ = 0;
};

absl::Span<std::byte> BytesOf(std::string& text) {
  return {reinterpret_cast<std::byte*>(text.data()), text.size()};
}

bool Exists(Source& source, const std::string& location, const std::string& file) {
  return source.Open(location, file).ok();
}

absl::Status WithoutWeights(Source& source, const std::string& location) {
  if (Exists(source, location, "adapter_model.bin") ||
      Exists(source, location, "adapter_model.pt")) {
    return Refuse(
        "only safetensors adapters are served: convert adapter_model.bin with safetensors");
  }
  if (Exists(source, location, "adapter_model.safetensors.index.json")) {
    return Refuse("sharded adapters are not served: save it as one adapter_model.safetensors");
  }
  return Refuse(absl::StrCat(Quoted(location), " has no ", kWeightsFile));
}

absl::StatusOr<std::string> ReadConfig(HashingReader& reader, const SourceFile& file) {
  if (file.size_bytes() > kAdapterConfigBytesMax) {
    return Refuse(absl::StrCat(kConfigFile, " has ", file.size_bytes(), " bytes, at most ",
                               kAdapterConfigBytesMax, " are read"));
  }
  std::string text(file.size_bytes(), '\0');
  if (absl::Status s = reader.Read(BytesOf(text)); !s.ok()) return s;
  return text;
}

// `status` with what the file looks like, if that is known.
absl::Status Explain(const SourceFile& file, const absl::Status& status) {
  std::string head(std::min<int64_t>(kForeignFileHeadBytes, file.size_bytes()), '\0');
  if (absl::Status s = file.ReadAt(0, BytesOf(head)); !s.ok()) return s;
  const std::string kind = DescribeForeignFile(head);
  return kind.empty() ? status
                      : Refuse(absl::StrCat(kWeightsFile, " is not a safetensors file: ", kind));
}

absl::StatusOr<std::string> ReadHeader(HashingReader& reader, const SourceFile& file) {
  if (file.size_bytes() > kAdapterFileBytesMax) {
    return Refuse(absl::StrCat(kWeightsFile, " has ", file.size_bytes(), " bytes, at most ",
                               kAdapterFileBytesMax, " are served"));
  }
  std::string length(std::min<int64_t>(8, file.size_bytes()), '\0');
  if (absl::Status s = reader.Read(BytesOf(length)); !s.ok()) return s;
  absl::StatusOr<int64_t> bytes = SafetensorsHeaderBytes(BytesOf(length), file.size_bytes());
  if (!bytes.ok()) return Explain(file, bytes.status());
  std::string text(*bytes, '\0');
  if (absl::Status s = reader.Read(BytesOf(text)); !s.ok()) return s;
  return text;
}

// A stamp is only worth keeping when a later write would change it.
void WaitUntilSettled(const FileStamp& stamp) {
  const absl::Duration age = absl::Now() - absl::FromUnixNanos(stamp.changed_ns);
  if (age >= absl::ZeroDuration() && age < kStampSettles) absl::SleepFor(kStampSettles - age);
}

// One tensor of the file and where it goes.
struct Part {
  enum class Kind { kA, kB, kMagnitude, kBias, kAside };
  int64_t begin = 0;
  int64_t bytes = 0;
  int index = 0;  // of the module, or among what is put aside
  Kind kind = Kind::kA;
};

std::vector<Part> PartsInFileOrder(const AdapterPlan& plan) {
  std::vector<Part> parts;
  for (int i = 0; i < std::ssize(plan.modules); ++i) {
    const PlannedModule& module = plan.modules[i];
    const int64_t rank = module.rank;
    const int64_t out = module.target->out_features;
    parts.push_back({module.a_begin, RowBytes(module.a_dtype, rank * module.target->in_features), i,
                     Part::Kind::kA});
    parts.push_back({module.b_begin, RowBytes(module.b_dtype, rank * out), i, Part::Kind::kB});
    const auto add_vector = [&](const PlannedVector& vector, Part::Kind kind) {
      if (vector.begin < 0) return;
      parts.push_back({vector.begin, RowBytes(vector.dtype, out), i, kind});
    };
    add_vector(module.magnitude, Part::Kind::kMagnitude);
    add_vector(module.bias, Part::Kind::kBias);
  }
  for (int i = 0; i < std::ssize(plan.asides); ++i) {
    parts.push_back({plan.asides[i].begin, plan.asides[i].bytes, i, Part::Kind::kAside});
  }
  std::sort(parts.begin(), parts.end(),
            [](const Part& a, const Part& b) { return a.begin < b.begin; });
  return parts;
}

absl::Status AddPart(const Part& part, absl::Span<const std::byte> bytes, ImageBuilder& builder) {
  switch (part.kind) {
    case Part::Kind::kA:
      return builder.AddA(part.index, bytes);
    case Part::Kind::kB:
      return builder.AddB(part.index, bytes);
    case Part::Kind::kMagnitude:
      return builder.AddMagnitude(part.index, bytes);
    case Part::Kind::kBias:
      return builder.AddBias(part.index, bytes);
    case Part::Kind::kAside:
      break;
  }
  LORICA_CHECK(false, "a part of another kind");
}

absl::Status Skip(int64_t bytes, HashingReader& reader) {
  std::vector<std::byte> slice(std::min(bytes, kSliceBytes));
  for (int64_t done = 0; done < bytes; done += std::ssize(slice)) {
    slice.resize(std::min(bytes - done, kSliceBytes));
    if (absl::Status s = reader.Read(absl::MakeSpan(slice)); !s.ok()) return s;
  }
  return absl::OkStatus();
}

double Norm(absl::Span<const float> values) {
  double square = 0;
  for (const float value : values) square += double{value} * value;
  return std::sqrt(square);
}

// The base's matrix as the trainer had it: frozen while training, so it is this base's, or the
// adapter was made for another one.
absl::Status CompareWithBase(const PlannedAside& copy, const Backend& backend,
                             HashingReader& reader) {
  const Weight& weight = *copy.target->weight;
  const int64_t columns = weight.in_features();
  std::vector<std::byte> bytes(RowBytes(copy.dtype, columns));
  std::vector<float> row(columns);
  std::vector<float> base(columns);
  for (int64_t i = 0; i < weight.out_features(); ++i) {
    if (absl::Status s = reader.Read(absl::MakeSpan(bytes)); !s.ok()) return s;
    Dequantize(copy.dtype, bytes.data(), columns, row.data());
    absl::StatusOr<float> share = backend.ReadRow(weight, i, absl::MakeSpan(base));
    if (!share.ok()) return share.status();
    const double norm = Norm(row);
    for (int64_t k = 0; k < columns; ++k) base[k] -= row[k];
    // Written so that NaN differs.
    if (Norm(base) <= *share * norm) continue;
    return Refuse(absl::StrCat("the saved copy of ", copy.target->name, " is not this base model's",
                               " (row ", i, " differs): the adapter was trained on another one"));
  }
  return absl::OkStatus();
}

absl::Status ReadAside(const PlannedAside& aside, const Backend& backend, HashingReader& reader) {
  if (aside.target == nullptr) return Skip(aside.bytes, reader);
  return CompareWithBase(aside, backend, reader);
}

// The header was checked to leave no holes, so tensors in file order are the rest of
// the file.
absl::Status ReadTensors(const AdapterPlan& plan, const Backend& backend, HashingReader& reader,
                         ImageBuilder& builder) {
  const std::vector<Part> parts = PartsInFileOrder(plan);
  int64_t bytes_max = 0;
  for (const Part& part : parts) {
    if (part.kind != Part::Kind::kAside) bytes_max = std::max(bytes_max, part.bytes);
  }
  std::vector<std::byte> memory(bytes_max);
  for (const Part& part : parts) {
    if (part.kind == Part::Kind::kAside) {
      absl::Status s = ReadAside(plan.asides[part.index], backend, reader);
      if (!s.ok()) return s;
      continue;
    }
    const absl::Span<std::byte> bytes = absl::MakeSpan(memory).subspan(0, part.bytes);
    if (absl::Status s = reader.Read(bytes); !s.ok()) return s;
    if (absl::Status s = AddPart(part, bytes, builder); !s.ok()) return s;
  }
  return absl::OkStatus();
}

// A mix has several adapters, and tensors of one name in all of them. A copy's folder is called as
// its content is.
absl::Status About(const Generation& generation, const absl::Status& status) {
  const std::string what = generation.location == generation.digest
                               ? absl::StrCat("generation ", ShortDigest(generation.digest))
                               : Quoted(generation.location);
  return absl::Status(status.code(), absl::StrCat(what, ": ", status.message()));
}

}  // namespace

// Both files, read as far as their headers, and what they say.
struct PeftLoader::Opened {
  std::unique_ptr<SourceFile> config_file;
  std::unique_ptr<SourceFile> weights_file;
  std::unique_ptr<HashingReader> config;
  std::unique_ptr<HashingReader> weights;
  std::string config_text;
  std::string header_text;

  static absl::StatusOr<Opened> Open(Source& source, const std::string& location);
  absl::Status ReadHeads();
  // Whether both files are, to their stamps, those that were hashed for the generation.
  bool AreThoseOf(const Generation& generation) const;
};

absl::StatusOr<PeftLoader::Opened> PeftLoader::Opened::Open(Source& source,
                                                            const std::string& location) {
  Opened opened;
  auto config_file = source.Open(location, kConfigFile);
  if (absl::IsNotFound(config_file.status()) && source.HasFolder(location)) {
    return Refuse(absl::StrCat("the folder ", Quoted(location), " has no ", kConfigFile));
  }
  if (!config_file.ok()) return config_file.status();
  opened.config_file = *std::move(config_file);
  auto weights_file = source.Open(location, kWeightsFile);
  if (absl::IsNotFound(weights_file.status())) return WithoutWeights(source, location);
  if (!weights_file.ok()) return weights_file.status();
  opened.weights_file = *std::move(weights_file);
  opened.config = std::make_unique<HashingReader>(*opened.config_file);
  opened.weights = std::make_unique<HashingReader>(*opened.weights_file);
  return opened;
}

absl::Status PeftLoader::Opened::ReadHeads() {
  absl::StatusOr<std::string> config = ReadConfig(*this->config, *config_file);
  if (!config.ok()) return config.status();
  config_text = *std::move(config);
  absl::StatusOr<std::string> header = ReadHeader(*weights, *weights_file);
  if (!header.ok()) return header.status();
  header_text = *std::move(header);
  return absl::OkStatus();
}

bool PeftLoader::Opened::AreThoseOf(const Generation& generation) const {
  return generation.weights_stamp != FileStamp{} &&
         config_file->stamp() == generation.config_stamp &&
         weights_file->stamp() == generation.weights_stamp;
}

PeftLoader::PeftLoader(std::vector<LoraTarget> targets, Backend* backend, int64_t block_bytes,
                       int32_t blocks_max)
    : targets_(std::move(targets)),
      backend_(backend),
      block_bytes_(block_bytes),
      blocks_max_(blocks_max) {
  for (const LoraTarget& target : targets_) by_name_[target.name] = &target;
}

absl::StatusOr<AdapterPlan> PeftLoader::PlanOpened(const Opened& opened) const {
  absl::StatusOr<AdapterConfig> config = ParseAdapterConfig(opened.config_text);
  if (!config.ok()) return config.status();
  const SourceFile& file = *opened.weights_file;
  absl::StatusOr<SafetensorsHeader> header =
      ParseSafetensorsHeader(opened.header_text, file.size_bytes());
  if (!header.ok()) return Explain(file, header.status());
  const PlanTargets targets = {by_name_, *backend_, block_bytes_};
  auto plan = PlanAdapter(targets, *std::move(config), *header, file.size_bytes());
  if (!plan.ok() || plan->block_count <= blocks_max_) return plan;
  return Refuse(absl::StrCat("its weights take ", plan->block_count * block_bytes_,
                             " bytes of the device, and the arena has room for ",
                             blocks_max_ * block_bytes_,
                             " of one adapter: serve it with a larger --arena-bytes"));
}

absl::StatusOr<AdapterPlan> PeftLoader::Plan(Source& source, const std::string& location) const {
  absl::StatusOr<Opened> opened = Opened::Open(source, location);
  if (!opened.ok()) return opened.status();
  if (absl::Status s = opened->ReadHeads(); !s.ok()) return s;
  return PlanOpened(*opened);
}

absl::StatusOr<GenerationPtr> PeftLoader::Identify(std::shared_ptr<Source> source,
                                                   const std::string& location) const {
  absl::StatusOr<Opened> opened = Opened::Open(*source, location);
  if (!opened.ok()) return opened.status();
  auto generation = std::make_shared<Generation>();
  generation->config_stamp = opened->config_file->stamp();
  generation->weights_stamp = opened->weights_file->stamp();
  WaitUntilSettled(generation->config_stamp);
  WaitUntilSettled(generation->weights_stamp);

  if (absl::Status s = opened->ReadHeads(); !s.ok()) return s;
  absl::StatusOr<AdapterPlan> plan = PlanOpened(*opened);
  if (!plan.ok()) return plan.status();
  absl::StatusOr<std::string> config_sha256 = opened->config->Finish();
  if (!config_sha256.ok()) return config_sha256.status();
  absl::StatusOr<std::string> weights_sha256 = opened->weights->Finish();
  if (!weights_sha256.ok()) return weights_sha256.status();
  if (opened->config_file->stamp() != generation->config_stamp ||
      opened->weights_file->stamp() != generation->weights_stamp) {
    return ContentChanged(location);
  }

  generation->config_sha256 = *std::move(config_sha256);
  generation->weights_sha256 = *std::move(weights_sha256);
  generation->digest = GenerationDigest(generation->config_sha256, generation->weights_sha256);
  generation->source = std::move(source);
  generation->location = location;
  generation->file_bytes = plan->file_bytes;
  generation->exact_tile_bytes = plan->exact_tile_bytes;
  generation->block_count = plan->block_count;
  generation->rank_max = plan->rank_max;
  generation->module_count = static_cast<int>(plan->modules.size());
  generation->config = std::move(plan->config);
  // Large at worst, and only the plan needs them.
  generation->config.rank_pattern = {};
  generation->config.alpha_pattern = {};
  return generation;
}

absl::StatusOr<std::shared_ptr<const LoraImage>> PeftLoader::LoadImage(
    const Generation& generation) {
  return Read(generation, /*dry=*/false);
}

absl::Status PeftLoader::CheckWeights(const Generation& generation) const {
  return Read(generation, /*dry=*/true).status();
}

absl::StatusOr<std::shared_ptr<const LoraImage>> PeftLoader::Read(const Generation& generation,
                                                                  bool dry) const {
  absl::StatusOr<Opened> opened = Opened::Open(*generation.source, generation.location);
  if (!opened.ok()) return opened.status();
  if (opened->weights_file->size_bytes() != generation.file_bytes) {
    return ContentChanged(generation.location);
  }
  // The stamps had settled when the files were hashed, so as long as they are the same nothing was
  // written since.
  const bool known = opened->AreThoseOf(generation);
  const auto about = [&](const absl::Status& status) {
    return dry ? status : About(generation, status);  // who checks names it
  };
  if (known) {
    opened->config->DoNotHash();
    opened->weights->DoNotHash();
  }
  // The content was servable when it was identified: whatever is wrong now is a change.
  if (absl::Status s = opened->ReadHeads(); !s.ok()) {
    return absl::IsFailedPrecondition(s) ? ContentChanged(generation.location) : s;
  }
  absl::StatusOr<AdapterPlan> plan = PlanOpened(*opened);
  if (!plan.ok() || plan->block_count != generation.block_count) {
    return ContentChanged(generation.location);
  }

  absl::StatusOr<ImageBuilder> builder = dry ? ImageBuilder::MakeDry(*plan, backend_)
                                             : ImageBuilder::Make(*plan, block_bytes_, backend_);
  if (!builder.ok()) return builder.status();
  if (absl::Status s = ReadTensors(*plan, *backend_, *opened->weights, *builder); !s.ok()) {
    return about(s);
  }
  const auto finish = [&]() -> absl::StatusOr<std::shared_ptr<const LoraImage>> {
    auto image = builder->Finish();
    if (!image.ok()) return about(image.status());
    return image;
  };
  if (known) {
    if (!opened->AreThoseOf(generation)) return ContentChanged(generation.location);
    return finish();
  }
  absl::StatusOr<std::string> config_sha256 = opened->config->Finish();
  if (!config_sha256.ok()) return config_sha256.status();
  absl::StatusOr<std::string> weights_sha256 = opened->weights->Finish();
  if (!weights_sha256.ok()) return weights_sha256.status();
  if (GenerationDigest(*config_sha256, *weights_sha256) != generation.digest) {
    return ContentChanged(generation.location);
  }
  return finish();
}

}  // namespace lorica
