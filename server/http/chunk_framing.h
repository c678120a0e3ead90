// The framing of a chunked body, looked at beside whoever decodes it (RFC 9112, section 7.1).
//
// A decoder that forgives what others do not would find another end of the body than a proxy
// before it, and take the rest for a request of its own. So sizes are hexadecimal digits alone,
// every line and every chunk ends with CR LF, and trailers, which nobody reads, are refused.
// Extensions are skipped. Belongs to one body.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lorica {

inline constexpr int kChunkSizeDigitsMax = 8;

class ChunkFraming {
 public:
  // Takes the next bytes of the body. False from the first byte on that is none of it.
  bool Take(const char* bytes, size_t size);

 private:
  enum class Part : uint8_t {
    kSize,
    kExtension,
    kSizeEnd,  // a CR was there, an LF must follow
    kData,
    kDataEnd,
    kDataEndLf,
    kLast,  // the line that ends the body
    kLastLf,
    kEnded,
    kBroken,
  };
  void TakeByte(char byte);
  void TakeSize(char byte);

  Part part_ = Part::kSize;
  int digits_ = 0;
  uint64_t size_ = 0;  // of this chunk; then what is still to come of it
};

}  // namespace lorica
