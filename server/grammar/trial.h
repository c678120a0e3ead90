// Tries grammars out where they do no harm: in a child process with bounds of time and memory.
//
// Compiling cannot be interrupted, and a few bytes can ask for hours or for all memory. So a
// grammar is compiled there first; what compiles there compiles here within about the same
// bounds. A child that dies or has to be killed is replaced for the next one. Its program is
// lorica-grammar, beside the one that runs. One thread at a time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/grammar/response_format.h"
#include "server/grammar/vocabulary.h"

namespace lorica {

inline constexpr absl::Duration kCompileCpuMax = absl::Seconds(10);  // of computing
inline constexpr absl::Duration kCompileWallMax = absl::Minutes(1);
inline constexpr int64_t kCompileBytesMax = int64_t{1} << 30;  // beside the child's program

struct TrialBounds {
  absl::Duration cpu = kCompileCpuMax;
  absl::Duration wall = kCompileWallMax;
  int64_t bytes = kCompileBytesMax;
};

// A vocabulary in memory that all children read.
class SharedVocabulary {
 public:
  static absl::StatusOr<std::shared_ptr<const SharedVocabulary>> Make(
      const GrammarVocabulary& vocabulary);
  ~SharedVocabulary();
  int file() const { return file_; }

 private:
  explicit SharedVocabulary(int file) : file_(file) {}
  const int file_;
};

class GrammarTrial {
 public:
  // No child is started before the first Try.
  GrammarTrial(std::string program, std::shared_ptr<const SharedVocabulary> vocabulary,
               TrialBounds bounds = {});
  ~GrammarTrial();

  // OK: it compiles. InvalidArgument says why not. ResourceExhausted: not within the bounds.
  // Unavailable: there is no child to try it.
  absl::Status Try(const ResponseFormat& format);

 private:
  absl::Status Start();
  absl::Status Answer();
  absl::Status Bury();

  const std::string program_;
  const std::shared_ptr<const SharedVocabulary> vocabulary_;
  const TrialBounds bounds_;
  pid_t child_ = 0;
  int socket_ = -1;
};

// The child's life: compiles what comes from `socket` until that ends. Returns its exit code.
int ServeTrials(int socket, int vocabulary_file, absl::Duration cpu, int64_t bytes);

// Where lorica-grammar is for the program that runs.
std::string TrialProgram();

}  // namespace lorica
