// What a disk has left for what is about to be written there: a first look, so that nothing large
// is begun in vain. Who else writes there meanwhile may still fill it. Stateless.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace lorica {

// For who is not root, in bytes. As many as there can be where the file system does not say how
// large it is, as some do. nullopt: errno says why nobody knows.
std::optional<int64_t> DiskBytesLeft(const std::string& folder);

}  // namespace lorica
