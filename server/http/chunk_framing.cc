#include "server/http/chunk_framing.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "server/http/field_lines.h"

namespace lorica {
namespace {

// -1: not a digit.
int HexDigit(char byte) {
  if (byte >= '0' && byte <= '9') return byte - '0';
  const char lower = static_cast<char>(byte | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

}  // namespace

bool ChunkFraming::Take(const char* bytes, size_t size) {
  is_of_trailer_ = false;
  for (size_t i = 0; i < size && part_ != Part::kBroken;) {
    if (part_ == Part::kData) {
      const auto count = static_cast<size_t>(std::min<uint64_t>(size_, size - i));
      size_ -= count;
      i += count;
      if (size_ == 0) part_ = Part::kDataEnd;
    } else {
      TakeByte(bytes[i++]);
    }
  }
  return part_ != Part::kBroken;
}

void ChunkFraming::TakeByte(char byte) {
  const auto go_on = [this, byte](char wanted, Part next) {
    part_ = byte == wanted ? next : Part::kBroken;
  };
  switch (part_) {
    case Part::kSize:
      return TakeSize(byte);
    case Part::kExtension:
      if (byte == '\n') part_ = Part::kBroken;
      if (byte == '\r') part_ = Part::kSizeEnd;
      return;
    case Part::kSizeEnd:
      return go_on('\n', size_ == 0 ? Part::kLast : Part::kData);
    case Part::kDataEnd:
      return go_on('\r', Part::kDataEndLf);
    case Part::kDataEndLf:
      digits_ = 0;
      return go_on('\n', Part::kSize);
    case Part::kLast:
      if (byte != '\r') return TakeTrailer(byte);
      part_ = Part::kLastLf;
      is_of_trailer_ = false;
      return;
    case Part::kLastLf:
      return go_on('\n', Part::kEnded);
    case Part::kTrailerName:
    case Part::kTrailerValue:
    case Part::kTrailerLf:
      return TakeTrailer(byte);
    default:
      part_ = Part::kBroken;
  }
}

void ChunkFraming::TakeTrailer(char byte) {
  is_of_trailer_ = true;
  ++trailer_bytes_;
  if (part_ == Part::kTrailerLf) {
    part_ = byte == '\n' ? Part::kLast : Part::kBroken;
    name_.clear();
  } else if (part_ == Part::kTrailerValue) {
    if (byte == '\r') {
      part_ = Part::kTrailerLf;
    } else if (byte != '\t' && absl::ascii_iscntrl(byte)) {
      part_ = Part::kBroken;
    }
  } else if (byte == ':' && !name_.empty() && !SaysWhatComes(name_)) {
    part_ = Part::kTrailerValue;
  } else if (IsOfFieldName(byte)) {
    name_ += absl::ascii_tolower(byte);
    part_ = Part::kTrailerName;
  } else {
    part_ = Part::kBroken;
  }
}

void ChunkFraming::TakeSize(char byte) {
  const int digit = HexDigit(byte);
  if (digit >= 0 && digits_ < kChunkSizeDigitsMax) {
    size_ = size_ * 16 + static_cast<uint64_t>(digit);
    ++digits_;
  } else if (digits_ > 0 && byte == ';') {
    part_ = Part::kExtension;
  } else if (digits_ > 0 && byte == '\r') {
    part_ = Part::kSizeEnd;
  } else {
    part_ = Part::kBroken;
  }
}

}  // namespace lorica
