// A source that tells of each read before it is done: what other sources for tests are made of.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/hub/source.h"

namespace lorica {

class WatchedSource : public Source {
 public:
  // On the thread that reads, which waits for it.
  using OnRead =
      std::function<void(const std::string& location, const std::string& file, int64_t bytes)>;
  WatchedSource(std::shared_ptr<Source> source, OnRead on_read)
      : source_(std::move(source)), on_read_(std::move(on_read)) {}

  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string& location,
                                                   const std::string& file) override {
    auto opened = source_->Open(location, file);
    if (!opened.ok()) return opened;
    return std::make_unique<File>(on_read_, location, file, *std::move(opened));
  }
  absl::StatusOr<std::vector<std::string>> List(int limit) override { return source_->List(limit); }

 private:
  class File : public SourceFile {
   public:
    File(const OnRead& on_read, std::string location, std::string name,
         std::unique_ptr<SourceFile> file)
        : on_read_(on_read),
          location_(std::move(location)),
          name_(std::move(name)),
          file_(std::move(file)) {}
    int64_t size_bytes() const override { return file_->size_bytes(); }
    FileStamp stamp() const override { return file_->stamp(); }
    absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out) const override {
      on_read_(location_, name_, std::ssize(out));
      return file_->ReadAt(offset, out);
    }

   private:
    const OnRead& on_read_;
    const std::string location_;
    const std::string name_;
    const std::unique_ptr<SourceFile> file_;
  };

  const std::shared_ptr<Source> source_;
  const OnRead on_read_;
};

}  // namespace lorica
