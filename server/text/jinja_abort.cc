// The one symbol that the Jinja engine takes from a library we do not link.
#include <cstdio>
#include <cstdlib>

extern "C" [[noreturn]] void ggml_abort(const char* file, int line, const char* message, ...) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, message);
  std::abort();
}
