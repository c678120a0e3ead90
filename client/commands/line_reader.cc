#include "client/commands/line_reader.h"

#include "absl/strings/match.h"

namespace lorica {
namespace {

constexpr char kByteOrderMark[] = "\xEF\xBB\xBF";

}  // namespace

LineReader::LineReader(FILE* stream, size_t line_bytes_max)
    : stream_(stream), line_bytes_max_(line_bytes_max) {}

LineReader::Result LineReader::Next(std::string* line) {
  line->clear();
  const bool first = bytes_read_ == 0;
  bool too_long = false;
  int c = 0;
  while ((c = getc_unlocked(stream_)) != EOF && c != '\n') {
    ++bytes_read_;
    too_long = too_long || line->size() >= line_bytes_max_;
    if (!too_long) line->push_back(static_cast<char>(c));
  }
  if (c == EOF && line->empty()) return Result::kEnd;
  bytes_read_ += c == '\n' ? 1 : 0;
  if (too_long) return Result::kTooLong;
  if (first && absl::StartsWith(*line, kByteOrderMark)) line->erase(0, 3);
  if (!line->empty() && line->back() == '\r') line->pop_back();
  return Result::kLine;
}

}  // namespace lorica
