// Lines of names and values, as heads and trailers have them (RFC 9110, section 5).
#pragma once

#include <string_view>

namespace lorica {

// Whether a field's name may have it: what is else read differently by servers behind each other.
bool IsOfFieldName(char byte);

// Whether the field that is called so, in lower case, says where a body ends or whose it is.
bool SaysWhatComes(std::string_view name);

}  // namespace lorica
