// SHA-256 of streams and of files, and the digest that names a generation.
//
// A Sha256 belongs to one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "adapters/hub/hasher.h"
#include "adapters/hub/source.h"

namespace lorica {

using Sha256 = Hasher;

// Below this a thread gains too little: so much is hashed in 2 to 3 ms.
inline constexpr int64_t kHashAheadBytes = 4 << 20;

// Adds what `file` holds from `begin` to its end. A rest of kHashAheadBytes and more is hashed on a
// thread that ends with the call, while this one reads what follows: a copy out of the page cache
// takes a tenth to a fifth of the time of its hash. Errors as SourceFile::ReadAt's; the hash is of
// no use then.
absl::Status HashRest(const SourceFile& file, int64_t begin, Sha256& hash);

// Digest of a generation: SHA-256 over "<name> <hex>\n" of both files, by name.
std::string GenerationDigest(std::string_view config_sha256, std::string_view weights_sha256);

}  // namespace lorica
