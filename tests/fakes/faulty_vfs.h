// SQLite's file layer with faults: the k-th write or sync from now on fails.
//
// Made the default layer by its constructor, put back by its destructor; one at a time. Faults may
// be set while another thread writes.
#pragma once

#include <sqlite3.h>

#include <cstring>
#include <mutex>

namespace lorica::fakes {

class FaultyVfs {
 public:
  FaultyVfs() : real_(sqlite3_vfs_find(nullptr)) {
    instance_ = this;
    vfs_ = *real_;
    vfs_.zName = "faulty";
    vfs_.szOsFile = static_cast<int>(sizeof(File)) + real_->szOsFile;
    vfs_.xOpen = Open;
    sqlite3_vfs_register(&vfs_, /*makeDflt=*/1);
  }
  ~FaultyVfs() {
    sqlite3_vfs_register(real_, /*makeDflt=*/1);
    sqlite3_vfs_unregister(&vfs_);
    instance_ = nullptr;
  }
  FaultyVfs(const FaultyVfs&) = delete;

  // The k-th (from 1) of these operations answers `code`, and so do all after it when
  // `lasting`. 0 = none fails.
  void FailWrites(int k, int code, bool lasting = false) { writes_.Set(k, code, lasting); }
  void FailSyncs(int k, int code) { syncs_.Set(k, code, false); }

 private:
  class Fault {
   public:
    void Set(int k, int code, bool lasting) {
      const std::lock_guard lock(mutex_);
      left_ = k;
      code_ = code;
      lasting_ = lasting;
    }
    int Next() {
      const std::lock_guard lock(mutex_);
      if (left_ == 0 || --left_ > 0) return SQLITE_OK;
      left_ = lasting_ ? 1 : 0;
      return code_;
    }

   private:
    std::mutex mutex_;
    int left_ = 0;
    int code_ = SQLITE_OK;
    bool lasting_ = false;
  };
  struct File {
    sqlite3_file base;
    sqlite3_io_methods methods;
    sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
  };

  static sqlite3_file* Real(sqlite3_file* file) { return reinterpret_cast<File*>(file)->real(); }

  static int Open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out) {
    auto* mine = reinterpret_cast<File*>(file);
    std::memset(mine, 0, sizeof *mine);
    sqlite3_file* real = mine->real();
    const int code = instance_->real_->xOpen(instance_->real_, name, real, flags, out);
    if (real->pMethods == nullptr) return code;
    sqlite3_io_methods& to = mine->methods;
    to.iVersion = 1;
    to.xClose = [](sqlite3_file* f) { return Real(f)->pMethods->xClose(Real(f)); };
    to.xRead = [](sqlite3_file* f, void* data, int count, sqlite3_int64 at) {
      return Real(f)->pMethods->xRead(Real(f), data, count, at);
    };
    to.xWrite = [](sqlite3_file* f, const void* data, int count, sqlite3_int64 at) {
      if (const int fault = instance_->writes_.Next(); fault != SQLITE_OK) return fault;
      return Real(f)->pMethods->xWrite(Real(f), data, count, at);
    };
    to.xTruncate = [](sqlite3_file* f, sqlite3_int64 size) {
      return Real(f)->pMethods->xTruncate(Real(f), size);
    };
    to.xSync = [](sqlite3_file* f, int how) {
      if (const int fault = instance_->syncs_.Next(); fault != SQLITE_OK) return fault;
      return Real(f)->pMethods->xSync(Real(f), how);
    };
    to.xFileSize = [](sqlite3_file* f, sqlite3_int64* size) {
      return Real(f)->pMethods->xFileSize(Real(f), size);
    };
    to.xLock = [](sqlite3_file* f, int how) { return Real(f)->pMethods->xLock(Real(f), how); };
    to.xUnlock = [](sqlite3_file* f, int how) { return Real(f)->pMethods->xUnlock(Real(f), how); };
    to.xCheckReservedLock = [](sqlite3_file* f, int* held) {
      return Real(f)->pMethods->xCheckReservedLock(Real(f), held);
    };
    to.xFileControl = [](sqlite3_file* f, int what, void* argument) {
      return Real(f)->pMethods->xFileControl(Real(f), what, argument);
    };
    to.xSectorSize = [](sqlite3_file* f) { return Real(f)->pMethods->xSectorSize(Real(f)); };
    to.xDeviceCharacteristics = [](sqlite3_file* f) {
      return Real(f)->pMethods->xDeviceCharacteristics(Real(f));
    };
    mine->base.pMethods = &to;
    return code;
  }

  static inline FaultyVfs* instance_ = nullptr;
  sqlite3_vfs* const real_;
  sqlite3_vfs vfs_;
  Fault writes_;
  Fault syncs_;
};

}  // namespace lorica::fakes
