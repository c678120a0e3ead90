#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "server/grammar/grammar.h"
#include "server/grammar/trial.h"
#include "server/grammar/trial_wire.h"

namespace lorica {
namespace {

// SIGPROF, which ends the process, once it has computed for so long. 0: no more.
void SetTimer(absl::Duration cpu) {
  itimerval timer = {};
  timer.it_value = absl::ToTimeval(cpu);
  setitimer(ITIMER_PROF, &timer, nullptr);
}

// Address space of the program and its libraries, which differs with how they were linked.
int64_t MappedBytes() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

void SetLimits(int64_t bytes) {
  signal(SIGINT, SIG_IGN);  // it ends when its socket does
  signal(SIGTERM, SIG_IGN);
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  // Sanitizers map far more than they use.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const auto all = static_cast<rlim_t>(MappedBytes() + bytes);
  const rlimit memory = {all, all};
  setrlimit(RLIMIT_AS, &memory);
#endif
}

absl::StatusOr<GrammarVocabulary> ReadVocabulary(int file) {
  struct stat about = {};
  if (fstat(file, &about) != 0) return absl::DataLossError("no vocabulary");
  void* bytes = mmap(nullptr, about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (bytes == MAP_FAILED) return absl::DataLossError("no vocabulary");
  auto vocabulary =
      VocabularyFromBytes({static_cast<const char*>(bytes), static_cast<size_t>(about.st_size)});
  munmap(bytes, about.st_size);
  return vocabulary;
}

}  // namespace

int ServeTrials(int socket, int vocabulary_file, absl::Duration cpu, int64_t bytes) {
  SetLimits(bytes);
  const absl::StatusOr<GrammarVocabulary> vocabulary = ReadVocabulary(vocabulary_file);
  if (!vocabulary.ok()) return 1;
  const GrammarMaker maker(*vocabulary);
  ResponseFormat format;
  while (ReceiveFormat(socket, &format)) {
    SetTimer(cpu);
    const auto made = maker.Make(format);
    if (made.ok()) maker.Rehearse(*made);
    SetTimer(absl::ZeroDuration());
    if (!SendVerdict(socket, made.status())) break;
  }
  return 0;
}

}  // namespace lorica
