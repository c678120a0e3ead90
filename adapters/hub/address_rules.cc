#include "adapters/hub/address_rules.h"

#include <netinet/in.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace lorica {
namespace {

struct Range {
  uint32_t first;
  int bits;
};

// IANA's special-purpose registry: what is not reachable from everywhere.
constexpr Range kSpecialV4[] = {
    {0x00000000, 8},   // this network
    {0x0a000000, 8},   // private
    {0x64400000, 10},  // shared by carriers
    {0x7f000000, 8},   // loopback
    {0xa9fe0000, 16},  // link-local, and the metadata services of clouds
    {0xac100000, 12},  // private
    {0xc0000000, 24},  // protocol assignments
    {0xc0000200, 24},  // documentation
    {0xc0586300, 24},  // old 6to4 relays
    {0xc0a80000, 16},  // private
    {0xc6120000, 15},  // benchmarks
    {0xc6336400, 24},  // documentation
    {0xcb007100, 24},  // documentation
    {0xe0000000, 4},   // multicast
    {0xf0000000, 4},   // reserved, broadcast
};

bool IsPublicV4(uint32_t address) {
  for (const Range& range : kSpecialV4) {
    if ((address ^ range.first) >> (32 - range.bits) == 0) return false;
  }
  return true;
}

uint32_t V4At(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

bool StartsWith(const uint8_t* address, std::initializer_list<uint8_t> prefix) {
  return std::memcmp(address, prefix.begin(), prefix.size()) == 0;
}

bool IsPublicV6(const uint8_t* address) {
  if (StartsWith(address, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}) ||
      StartsWith(address, {0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0})) {
    return IsPublicV4(V4At(address + 12));  // mapped; NAT64
  }
  if (StartsWith(address, {0x20, 0x02})) return IsPublicV4(V4At(address + 2));  // 6to4
  if ((address[0] & 0xe0) != 0x20) return false;  // only 2000::/3 is global unicast
  if (StartsWith(address, {0x20, 0x01}) && address[2] < 2) return false;     // Teredo and others
  if (StartsWith(address, {0x3f, 0xff}) && address[2] < 0x10) return false;  // documentation
  return !StartsWith(address, {0x20, 0x01, 0x0d, 0xb8});                     // documentation
}

}  // namespace

bool IsPublicAddress(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, address, sizeof(v4));
    return IsPublicV4(ntohl(v4.sin_addr.s_addr));
  }
  if (address->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, address, sizeof(v6));
    return IsPublicV6(v6.sin6_addr.s6_addr);
  }
  return false;
}

}  // namespace lorica
