// The bill on disk: read at the start, written once a minute and at the end.
//
// The file holds sums, so writing it twice changes nothing; it is replaced as a whole,
// after its bytes have reached the disk. A kill loses what was used since the last
// writing, never more, and never counts anything twice. Owns a thread; one file has one
// owner.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/api/accounts.h"

namespace lorica {

inline constexpr absl::Duration kUsageInterval = absl::Minutes(1);

class UsageFile {
 public:
  // Adds what the file says to `accounts`, which is empty and outlives this. No file is an
  // empty one. FailedPrecondition: it is damaged; the text says what to do. Otherwise as
  // ReadTextFile.
  static absl::StatusOr<std::unique_ptr<UsageFile>> Open(const std::string& path,
                                                         Accounts* accounts,
                                                         absl::Duration interval = kUsageInterval);
  // Writes once more.
  ~UsageFile();

  // Nothing to do when nothing has changed. Any thread.
  absl::Status Save();
  // When the first of these servers began to count.
  absl::Time since() const { return since_; }

 private:
  UsageFile(std::string path, Accounts* accounts, absl::Duration interval);
  absl::Status Restore();
  void Loop();

  const std::string path_;
  Accounts* const accounts_;
  const absl::Duration interval_;
  absl::Time since_;
  absl::Mutex save_mutex_;  // taken before mutex_
  std::string saved_ ABSL_GUARDED_BY(save_mutex_);
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace lorica
