// Downloaded adapters on disk: content-addressed, bounded in bytes, kept across restarts.
//
//   FOLDER/content/DIGEST/   the two files of a generation, and origins.json: which
//                            repository and commit had them, under which revisions
//   FOLDER/tmp/              what is being written or deleted; emptied at start
//
// A folder gets its name by one rename, after its files have reached the disk: what is
// there is whole. Its content is checked against its name whenever it is loaded. A lease
// keeps a folder; the least recently used of the others make room. Thread-safe; calls may
// block on the disk, except that leases may be destroyed anywhere. One server at a time has
// the folder.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/adapter_pool.h"
#include "adapters/disk_origins.h"
#include "adapters/hub/remote_source.h"
#include "adapters/hub/source.h"
#include "adapters/hub/steady_now.h"

namespace lorica {

inline constexpr int kDiskAdaptersMax = 100'000;

class DiskIndex;

// Keeps one content on the disk while a copy of it lives, also beyond the tier's end.
class DiskLease {
 public:
  const std::string& digest() const { return digest_; }
  const std::string& commit() const { return commit_; }
  // Reads it, whatever the location is called, and holds the lease.
  std::shared_ptr<Source> source() const;

 private:
  friend class DiskTier;
  DiskLease(std::shared_ptr<Source> content, std::shared_ptr<void> hold, std::string digest,
            std::string commit)
      : content_(std::move(content)),
        hold_(std::move(hold)),
        digest_(std::move(digest)),
        commit_(std::move(commit)) {}

  std::shared_ptr<Source> content_;
  std::shared_ptr<void> hold_;
  std::string digest_;
  std::string commit_;
};

class DiskTier {
 public:
  // Takes over what an earlier server left, and deletes what is not whole.
  // FailedPrecondition: the folder cannot be made or read. `clock` says when something is used.
  static absl::StatusOr<std::unique_ptr<DiskTier>> Open(
      const std::string& folder, int64_t bytes_max, std::function<absl::Time()> clock = SteadyNow,
      int adapters_max = kDiskAdaptersMax);
  ~DiskTier();

  // A folder to write into. Gives its room back and is deleted unless it is published; the
  // tier outlives it.
  class Staging {
   public:
    ~Staging();
    // What it appends is counted: DataLoss beyond the bytes that were staged for,
    // Unavailable when the disk does not take them. The staging outlives it.
    absl::StatusOr<std::unique_ptr<DownloadSink>> Create(const std::string& file);

   private:
    friend class DiskTier;
    class File;
    Staging(DiskTier* tier, std::string path, int64_t bytes)
        : tier_(tier), path_(std::move(path)), bytes_max_(bytes) {}

    DiskTier* const tier_;
    const std::string path_;
    const int64_t bytes_max_;
    int64_t bytes_ = 0;
  };

  // Room for `bytes`, evicting what nobody leases. FailedPrecondition: more than the whole
  // tier. ResourceExhausted: more than the disk has left. Unavailable: the rest is in use, or the
  // disk fails.
  absl::StatusOr<std::unique_ptr<Staging>> Stage(int64_t bytes);
  // Gives a complete folder its name; content that is there already is kept. The origin
  // leads to it from now on, unless it is known to have led elsewhere later.
  absl::StatusOr<DiskLease> Publish(std::unique_ptr<Staging> staging, const std::string& digest,
                                    const DatedOrigin& origin);
  // Where the origin's revision led last.
  std::optional<DiskLease> Find(const RemoteOrigin& origin);
  // Content of this commit, whatever revision it was fetched under; the origin leads to it
  // from now on, as for Publish.
  std::optional<DiskLease> Adopt(const DatedOrigin& origin);
  // Content by its own name, whatever origin led to it.
  std::optional<DiskLease> Hold(const std::string& digest);
  // As Find, for those who only look: digest and commit. Counts nothing, and is no use of it.
  std::optional<std::pair<std::string, std::string>> Peek(const RemoteOrigin& origin) const;
  // Where all that is here came from, in no order.
  std::vector<RemoteOrigin> Origins() const;
  bool Has(const std::string& digest) const;
  // For content that is not what its name says. Not found any more; leases read nothing.
  void Drop(const std::string& digest);
  // No origin of that access leads to it any more; with its last origin the content is dropped.
  // FailedPrecondition: that is leased, and nothing has changed. Unavailable: the disk did not take
  // the change, so a later server may find it again. OK when it is not there, and once that is on
  // the disk.
  absl::Status Forget(const std::string& digest, const std::string& access);

  TierStats stats() const;

 private:
  DiskTier(std::string folder, std::shared_ptr<Source> content, std::unique_ptr<DiskIndex> index,
           std::function<absl::Time()> clock, int adapters_max);
  std::string ContentPath(const std::string& digest) const;
  std::string NewTemporary();
  DiskLease LeaseOf(const std::string& digest, const std::string& commit);
  absl::Status Reconcile();
  absl::Status ForgetOrigins(const std::string& digest, const std::string& access);
  absl::Status WriteOrigins(const std::string& digest);
  // For so many more.
  absl::Status MakeRoom(int64_t bytes, int adapters, std::vector<std::string>* doomed);
  void WriteDownUse(const std::string& digest);
  void Touch(const std::string& digest);
  absl::StatusOr<std::string> TakeName(const std::string& digest);
  void GiveBack(int64_t bytes);

  const std::string folder_;
  const std::shared_ptr<Source> content_;
  const std::function<absl::Time()> clock_;
  const int adapters_max_;
  mutable absl::Mutex mutex_;
  const std::unique_ptr<DiskIndex> index_ ABSL_PT_GUARDED_BY(mutex_);
  int staged_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t staged_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t temporaries_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace lorica
