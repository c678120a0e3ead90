// lorica-grammar: compiles grammars for a server that would not be harmed by one. Started by it.
#include <unistd.h>

#include <cstdio>

#include "absl/strings/numbers.h"
#include "server/grammar/trial.h"

int main(int argc, char** argv) {
  int64_t cpu_ms = 0;
  int64_t bytes = 0;
  if (argc != 3 || !absl::SimpleAtoi(argv[1], &cpu_ms) || !absl::SimpleAtoi(argv[2], &bytes)) {
    std::fprintf(stderr, "lorica-grammar is started by loricad; it is no command by itself\n");
    return 2;
  }
  close_range(4, ~0u, 0);  // what its server had open
  return lorica::ServeTrials(/*socket=*/0, /*vocabulary_file=*/3, absl::Milliseconds(cpu_ms),
                             bytes);
}
