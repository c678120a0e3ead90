// The framing of a chunked body, looked at beside whoever decodes it (RFC 9112, section 7.1).
//
// A decoder that forgives what others do not would find another end of the body than a proxy
// before it, and take the rest for a request of its own. So sizes are hexadecimal digits alone,
// every line and every chunk ends with CR LF. Extensions and trailers (7.1.2) are skipped: nobody
// reads them, but each trailer is a field line, none goes on the one before, and none is of those
// that say where a body ends or whose it is, which may not be there. Belongs to one body.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lorica {

inline constexpr int kChunkSizeDigitsMax = 8;

class ChunkFraming {
 public:
  // Takes the next bytes of the body. False from the first byte on that is none of it.
  bool Take(const char* bytes, size_t size);
  // Whether the last byte was one of a trailer; whoever decodes need not see it.
  bool is_of_trailer() const { return is_of_trailer_; }
  int64_t trailer_bytes() const { return trailer_bytes_; }

 private:
  enum class Part : uint8_t {
    kSize,
    kExtension,
    kSizeEnd,  // a CR was there, an LF must follow
    kData,
    kDataEnd,
    kDataEndLf,
    kLast,  // a trailer, or the line that ends the body
    kLastLf,
    kTrailerName,
    kTrailerValue,
    kTrailerLf,
    kEnded,
    kBroken,
  };
  void TakeByte(char byte);
  void TakeSize(char byte);
  void TakeTrailer(char byte);

  Part part_ = Part::kSize;
  int digits_ = 0;
  uint64_t size_ = 0;  // of this chunk; then what is still to come of it
  std::string name_;   // of the trailer, lower-case
  bool is_of_trailer_ = false;
  int64_t trailer_bytes_ = 0;
};

}  // namespace lorica
