// A source whose weight file changes while it is being read.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/hub/source.h"

namespace lorica {

// Does something to the folder when the weight file is read for the n-th time.
class MeddlingSource : public Source {
 public:
  MeddlingSource(std::shared_ptr<Source> source, int reads, std::function<void()> meddle)
      : source_(std::move(source)), reads_(reads), meddle_(std::move(meddle)) {}

  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string& location,
                                                   const std::string& file) override {
    auto opened = source_->Open(location, file);
    if (!opened.ok() || file != "adapter_model.safetensors") return opened;
    return std::make_unique<File>(*this, *std::move(opened));
  }
  absl::StatusOr<std::vector<std::string>> List(int limit) override { return source_->List(limit); }

 private:
  class File : public SourceFile {
   public:
    File(MeddlingSource& owner, std::unique_ptr<SourceFile> file)
        : owner_(owner), file_(std::move(file)) {}
    int64_t size_bytes() const override { return file_->size_bytes(); }
    FileStamp stamp() const override { return file_->stamp(); }
    absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out) const override {
      if (--owner_.reads_ == 0) owner_.meddle_();
      return file_->ReadAt(offset, out);
    }

   private:
    MeddlingSource& owner_;
    const std::unique_ptr<SourceFile> file_;
  };

  const std::shared_ptr<Source> source_;
  int reads_;
  const std::function<void()> meddle_;
};

}  // namespace lorica
