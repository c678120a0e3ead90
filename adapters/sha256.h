// SHA-256 of streams and the digest that names a generation.
//
// A Sha256 belongs to one thread.
#pragma once

#include <string>
#include <string_view>

#include "adapters/hub/hasher.h"

namespace lorica {

using Sha256 = Hasher;

// Digest of a generation: SHA-256 over "<name> <hex>\n" of both files, by name.
std::string GenerationDigest(std::string_view config_sha256, std::string_view weights_sha256);

}  // namespace lorica
