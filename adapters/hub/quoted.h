// Foreign text made fit for an error message.
//
// Names out of files and requests may hold control characters or be very long; an
// error message is one short line of ASCII. Stateless.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lorica {

inline constexpr int kQuotedBytesMax = 80;  // of one text, once escaped
inline constexpr int kQuotedNamesMax = 10;  // of a list

// 'text' in quotes, escaped, cut after kQuotedBytesMax bytes.
std::string Quoted(std::string_view text);

// 'a', 'b' and 7 more.
std::string QuotedList(const std::vector<std::string>& texts);

}  // namespace lorica
