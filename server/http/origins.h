// Which pages of other origins may call over HTTP (CORS): browsers ask, other clients do not.
//
// Immutable.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lorica {

class AllowedOrigins {
 public:
  AllowedOrigins() = default;  // none
  // "https://app.example,http://localhost:3000", "*" for all, "" for none. InvalidArgument: an
  // entry is no origin.
  static absl::StatusOr<AllowedOrigins> Parse(std::string_view list);

  bool none() const { return !any_ && origins_.empty(); }
  bool Allows(std::string_view origin) const;

 private:
  bool any_ = false;
  std::vector<std::string> origins_;  // in lower case
};

}  // namespace lorica
