// Assertions for bugs: what no request, file or hub can cause.
//
// LORICA_CHECK(condition, "text", values...) prints place, condition and values
// and aborts, in every build type. Conditions that foreign bytes can make false
// are an absl::Status instead.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace lorica::internal {

template <typename... Values>
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const Values&... values) {
  std::ostringstream text;
  ((text << ' ' << values), ...);
  std::fprintf(stderr, "%s:%d: check failed: %s%s\n", file, line, condition, text.str().c_str());
  std::abort();
}

}  // namespace lorica::internal

#define LORICA_CHECK(condition, ...)                                                        \
  do {                                                                                      \
    if (!(condition)) [[unlikely]]                                                          \
      ::lorica::internal::CheckFailed(__FILE__, __LINE__, #condition __VA_OPT__(, )         \
                                          __VA_ARGS__);                                     \
  } while (false)
