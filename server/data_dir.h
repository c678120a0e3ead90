// The folder of a server's own files, held by one server at a time.
//
// Lock makes the folder if it is missing and takes an exclusive lock on a file in it,
// which the kernel lets go of when the process ends, however it ends. Move-only;
// the lock lasts as long as the object.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace lorica {

class DataDir {
 public:
  // FailedPrecondition: another server has it, or it cannot be made or written.
  static absl::StatusOr<std::unique_ptr<DataDir>> Lock(const std::string& path);
  ~DataDir();
  DataDir(const DataDir&) = delete;
  DataDir& operator=(const DataDir&) = delete;

 private:
  explicit DataDir(int lock_fd) : lock_fd_(lock_fd) {}
  const int lock_fd_;
};

}  // namespace lorica
