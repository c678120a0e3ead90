// A source some of whose folders hang: reads of their files wait until they are let go.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/hub/source.h"

namespace lorica {

// Thread-safe.
class HeldSource : public Source {
 public:
  // Folders whose names begin so hang from now on.
  HeldSource(std::shared_ptr<Source> source, std::string prefix)
      : source_(std::move(source)), prefix_(std::move(prefix)) {}

  void LetGo() {
    absl::MutexLock lock(&mutex_);
    held_ = false;
  }
  // False: fewer than `count` reads hang after ten seconds.
  bool AwaitHeld(int count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&] { return waiting_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(10));
  }

  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string& location,
                                                   const std::string& file) override {
    auto opened = source_->Open(location, file);
    if (!opened.ok() || !absl::StartsWith(location, prefix_)) return opened;
    return std::make_unique<File>(*this, *std::move(opened));
  }
  absl::StatusOr<std::vector<std::string>> List(int limit) override { return source_->List(limit); }

 private:
  class File : public SourceFile {
   public:
    File(HeldSource& owner, std::unique_ptr<SourceFile> file)
        : owner_(owner), file_(std::move(file)) {}
    int64_t size_bytes() const override { return file_->size_bytes(); }
    FileStamp stamp() const override { return file_->stamp(); }
    absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out) const override {
      owner_.Hang();
      return file_->ReadAt(offset, out);
    }

   private:
    HeldSource& owner_;
    const std::unique_ptr<SourceFile> file_;
  };

  void Hang() {
    absl::MutexLock lock(&mutex_);
    ++waiting_;
    mutex_.Await(absl::Condition(
        +[](bool* held) { return !*held; }, &held_));
    --waiting_;
  }

  const std::shared_ptr<Source> source_;
  const std::string prefix_;
  absl::Mutex mutex_;
  bool held_ = true;
  int waiting_ = 0;
};

}  // namespace lorica
