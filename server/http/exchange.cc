#include "server/http/exchange.h"

namespace lorica {

std::vector<std::string> HttpRequest::Values(std::string_view name) const {
  std::vector<std::string> values;
  for (const auto& [header, value] : headers) {
    if (header == name) values.push_back(value);
  }
  return values;
}

}  // namespace lorica
