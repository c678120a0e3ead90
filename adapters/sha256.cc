#include "adapters/sha256.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

namespace lorica {
namespace {

constexpr int64_t kPieceBytes = 256 << 10;  // so that all pieces stay in a second-level cache

// Hashes pieces in turn on a thread of its own, so that the next can be read meanwhile.
class PieceHasher {
 public:
  // Without `ahead` the thread that reads hashes.
  PieceHasher(Sha256& hash, bool ahead) : hash_(hash) {
    if (!ahead) return;
    try {
      thread_ = std::thread([this] { Work(); });
    } catch (const std::system_error&) {  // no room for a thread
    }
  }
  // Waits until all that was given is hashed.
  ~PieceHasher() {
    if (!thread_.joinable()) return;
    {
      absl::MutexLock lock(&mutex_);
      ended_ = true;
    }
    thread_.join();
  }
  PieceHasher(const PieceHasher&) = delete;
  PieceHasher& operator=(const PieceHasher&) = delete;

  // Where the next piece goes.
  std::vector<std::byte>& Free() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &PieceHasher::HasFree));
    return pieces_[given_ % pieces_.size()];
  }
  // Hashes what was put there.
  void Give() {
    if (!thread_.joinable()) return hash_.Update(pieces_[0]);
    absl::MutexLock lock(&mutex_);
    ++given_;
  }

 private:
  bool HasFree() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return given_ - hashed_ < std::ssize(pieces_);
  }
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ended_ || hashed_ < given_; }

  void Work() {
    absl::MutexLock lock(&mutex_);
    while (true) {
      mutex_.Await(absl::Condition(this, &PieceHasher::HasWork));
      if (hashed_ == given_) return;
      const std::vector<std::byte>& piece = pieces_[hashed_ % pieces_.size()];
      mutex_.Unlock();
      hash_.Update(piece);
      mutex_.Lock();
      ++hashed_;
    }
  }

  Sha256& hash_;
  absl::Mutex mutex_;
  std::array<std::vector<std::byte>, 4> pieces_;  // a piece belongs to one thread at a time
  int64_t given_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t hashed_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace

absl::Status HashRest(const SourceFile& file, int64_t begin, Sha256& hash) {
  PieceHasher hasher(hash, file.size_bytes() - begin >= kHashAheadBytes);
  for (int64_t at = begin; at < file.size_bytes(); at += kPieceBytes) {
    std::vector<std::byte>& piece = hasher.Free();
    piece.resize(std::min(kPieceBytes, file.size_bytes() - at));
    if (absl::Status s = file.ReadAt(at, absl::MakeSpan(piece)); !s.ok()) return s;
    hasher.Give();
  }
  return absl::OkStatus();
}

std::string GenerationDigest(std::string_view config_sha256, std::string_view weights_sha256) {
  Sha256 hash;
  hash.Update("adapter_config.json ");
  hash.Update(config_sha256);
  hash.Update("\nadapter_model.safetensors ");
  hash.Update(weights_sha256);
  hash.Update("\n");
  return hash.Finish();
}

}  // namespace lorica
