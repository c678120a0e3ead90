// Which network addresses a download may connect to.
//
// A hub can answer with a redirect to anywhere, and a name can resolve to anything: the
// address is judged when the socket is made, so that nothing changes in between. Pure.
#pragma once

#include <sys/socket.h>

namespace lorica {

// False for private, loopback, link-local, shared, multicast, documentation and
// reserved addresses, also where IPv6 only wraps an IPv4 address; and for other families.
bool IsPublicAddress(const sockaddr* address);

}  // namespace lorica
