// A program run by a test, with its three streams in the test's hands.
#pragma once

#include <sys/types.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorica {

// Starts in the constructor. Not thread-safe; the destructor kills what still runs.
class Subprocess {
 public:
  // `argv[0]` is the program's path. Environment: the test's, without LORICA_SERVER.
  explicit Subprocess(const std::vector<std::string>& argv);
  ~Subprocess();

  void Write(const std::string& text);
  void CloseInput();
  void Signal(int signal);
  // Waits until the stream holds `text`; false when time is up.
  bool WaitForOutput(const std::string& text, absl::Duration timeout = absl::Seconds(20));
  bool WaitForError(const std::string& text, absl::Duration timeout = absl::Seconds(20));
  // The exit code, or 128 + the signal that ended it.
  int Wait();

  std::string output() const;
  std::string error() const;

 private:
  struct Stream {
    int fd = -1;
    std::string text;
    std::thread reader;
  };

  void Collect(Stream* stream);
  bool WaitFor(const Stream& stream, const std::string& text, absl::Duration timeout);

  mutable absl::Mutex mutex_;  // guards the texts
  pid_t pid_ = -1;
  int input_ = -1;
  Stream output_;
  Stream error_;
};

struct RunResult {
  int code = 0;
  std::string output;
  std::string error;
};

// Runs to the end with `input` on stdin.
RunResult RunToEnd(const std::vector<std::string>& argv, const std::string& input = "");

}  // namespace lorica
