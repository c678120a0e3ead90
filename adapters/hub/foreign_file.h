// Recognising what is not a safetensors file by its first bytes.
//
// Downloads go wrong in a few well-known ways; naming them saves an hour. Stateless.
#pragma once

#include <string>
#include <string_view>

namespace lorica {

inline constexpr int kForeignFileHeadBytes = 64;

// A sentence that says what the file is and what to do, or "" when nothing is known
// about it. `head`: the first bytes of the file, kForeignFileHeadBytes if it has them.
std::string DescribeForeignFile(std::string_view head);

}  // namespace lorica
