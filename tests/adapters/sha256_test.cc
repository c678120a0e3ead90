// Goal: a file's hash is the same whether it is hashed ahead or not and wherever the rest begins,
// and a read that fails says so and leaves no thread behind.
#include "adapters/sha256.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "absl/status/status.h"

namespace lorica {
namespace {

class BytesFile : public SourceFile {
 public:
  BytesFile(const std::vector<std::byte>& bytes, int64_t size) : bytes_(bytes), size_(size) {}
  int64_t size_bytes() const override { return size_; }
  FileStamp stamp() const override { return {}; }
  absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out) const override {
    if (offset + std::ssize(out) > readable) return absl::DataLossError("the file ends early");
    std::copy_n(bytes_.begin() + offset, out.size(), out.begin());
    return absl::OkStatus();
  }

  int64_t readable = INT64_MAX;

 private:
  const std::vector<std::byte>& bytes_;
  const int64_t size_;
};

std::vector<std::byte> RandomBytes(int64_t count) {
  std::mt19937 random(11);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

TEST(HashRest, IsTheHashOfTheBytesAheadOrNot) {
  const std::vector<std::byte> bytes = RandomBytes(3 * kHashAheadBytes);
  for (const int64_t begin : {int64_t{0}, int64_t{1}, int64_t{70'001}}) {
    for (const int64_t rest :
         {int64_t{0}, int64_t{1}, int64_t{256 << 10}, kHashAheadBytes - 1, kHashAheadBytes,
          kHashAheadBytes + 1, 2 * kHashAheadBytes + 12'345}) {
      Sha256 whole;
      whole.Update(absl::MakeSpan(bytes).subspan(0, begin + rest));
      Sha256 hash;
      hash.Update(absl::MakeSpan(bytes).subspan(0, begin));
      EXPECT_TRUE(HashRest(BytesFile(bytes, begin + rest), begin, hash).ok());
      EXPECT_EQ(hash.Finish(), whole.Finish()) << begin << " " << rest;
    }
  }
}

TEST(HashRest, SaysWhatAReadSays) {
  const std::vector<std::byte> bytes = RandomBytes(2 * kHashAheadBytes);
  BytesFile file(bytes, 2 * kHashAheadBytes);
  for (const int64_t readable : {int64_t{0}, kHashAheadBytes + 1, 2 * kHashAheadBytes - 1}) {
    file.readable = readable;
    Sha256 hash;
    EXPECT_EQ(HashRest(file, 0, hash), absl::DataLossError("the file ends early")) << readable;
  }
}

}  // namespace
}  // namespace lorica
