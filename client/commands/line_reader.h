// Lines of a stream, of bounded length, with nothing held beyond the line being read.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace lorica {

// 4 MiB of prompt may be written as \uXXXX escapes, six bytes for one.
inline constexpr size_t kLineBytesMax = 32 << 20;

// Borrows the stream. Not thread-safe.
class LineReader {
 public:
  enum class Result { kLine, kTooLong, kEnd };

  explicit LineReader(FILE* stream, size_t line_bytes_max = kLineBytesMax);

  // The next line without its end ("\n" or "\r\n"); a byte-order mark before the first
  // line is dropped. kTooLong: the line was longer than the bound and has been skipped.
  Result Next(std::string* line);

  int64_t bytes_read() const { return bytes_read_; }

 private:
  FILE* const stream_;
  const size_t line_bytes_max_;
  int64_t bytes_read_ = 0;
};

}  // namespace lorica
