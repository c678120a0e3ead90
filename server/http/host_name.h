// What the header Host says: the name or address that a client has for this server.
#pragma once

#include <string_view>

namespace lorica {

// uri-host [ ":" port ] of RFC 9110: a name, which may be empty, an IPv4 address, or an IPv6 one in
// brackets, also with a zone; a port up to 65535, or none behind the colon.
bool IsHost(std::string_view text);

}  // namespace lorica
