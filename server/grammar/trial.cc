#include "server/grammar/trial.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "server/grammar/trial_wire.h"

namespace lorica {
namespace {

constexpr int kVocabularyFile = 3;  // in the child, whose socket is 0

absl::Status NoChild(const char* what) {
  return absl::UnavailableError(
      absl::StrCat("no grammar can be compiled now: ", what, ": ", std::strerror(errno)));
}

// Signals as in a program that was just started, whatever the thread that starts it blocks.
class SpawnAttributes {
 public:
  SpawnAttributes() {
    posix_spawnattr_init(&attributes_);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnAttributes() { posix_spawnattr_destroy(&attributes_); }
  const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_;
};

int Spawn(const std::string& program, std::vector<std::string> arguments, int socket,
          int vocabulary, pid_t* child) {
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, socket, 0);
  posix_spawn_file_actions_adddup2(&actions, vocabulary, kVocabularyFile);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  const SpawnAttributes attributes;
  const int error =
      posix_spawn(child, program.c_str(), &actions, attributes.get(), argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const SharedVocabulary>> SharedVocabulary::Make(
    const GrammarVocabulary& vocabulary) {
  const int file = memfd_create("vocabulary", MFD_CLOEXEC);
  if (file < 0) return NoChild("cannot share the vocabulary");
  const std::string bytes = ToBytes(vocabulary);
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t wrote = write(file, bytes.data() + done, bytes.size() - done);
    if (wrote <= 0) {
      close(file);
      return NoChild("cannot share the vocabulary");
    }
    done += wrote;
  }
  return std::shared_ptr<const SharedVocabulary>(new SharedVocabulary(file));
}

SharedVocabulary::~SharedVocabulary() { close(file_); }

GrammarTrial::GrammarTrial(std::string program, std::shared_ptr<const SharedVocabulary> vocabulary,
                           TrialBounds bounds)
    : program_(std::move(program)), vocabulary_(std::move(vocabulary)), bounds_(bounds) {}

GrammarTrial::~GrammarTrial() {
  if (child_ != 0) Bury().IgnoreError();
}

absl::Status GrammarTrial::Start() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return NoChild("no socket");
  const std::vector<std::string> arguments = {absl::StrCat(absl::ToInt64Milliseconds(bounds_.cpu)),
                                              absl::StrCat(bounds_.bytes)};
  errno = Spawn(program_, arguments, ends[1], vocabulary_->file(), &child_);
  close(ends[1]);
  if (errno == 0) {
    socket_ = ends[0];
    return absl::OkStatus();
  }
  child_ = 0;
  close(ends[0]);
  return NoChild(program_.c_str());
}

absl::Status GrammarTrial::Try(const ResponseFormat& format) {
  if (child_ == 0) {
    if (absl::Status started = Start(); !started.ok()) return started;
  }
  if (!SendFormat(socket_, format)) return Bury();
  return Answer();
}

absl::Status GrammarTrial::Answer() {
  const absl::Time end = SteadyNow() + bounds_.wall;
  pollfd ready = {socket_, POLLIN, 0};
  int polled = 0;
  do {
    const absl::Duration left = std::max(absl::ZeroDuration(), end - SteadyNow());
    polled = poll(&ready, 1, static_cast<int>(absl::ToInt64Milliseconds(left)));
  } while (polled < 0 && errno == EINTR);
  absl::Status verdict;
  if (polled > 0 && ReceiveVerdict(socket_, &verdict)) return verdict;
  return Bury();
}

// What the child's end says of the format that it had.
absl::Status GrammarTrial::Bury() {
  kill(child_, SIGKILL);  // where it ended by itself, that is what it is remembered for
  int how = 0;
  while (waitpid(child_, &how, 0) < 0 && errno == EINTR) {
  }
  close(std::exchange(socket_, -1));
  child_ = 0;
  if (WIFEXITED(how)) return NoChild("the child ended");
  const bool slow = WTERMSIG(how) == SIGPROF || WTERMSIG(how) == SIGKILL;
  return absl::ResourceExhaustedError(
      slow ? absl::StrCat("takes more than ", absl::FormatDuration(bounds_.cpu),
                          " to compile and try; make it simpler")
           : absl::StrCat("cannot be compiled within ", bounds_.bytes,
                          " bytes of memory; make it simpler"));
}

std::string TrialProgram() {
  char path[PATH_MAX] = {};
  if (readlink("/proc/self/exe", path, sizeof(path) - 1) < 0) return "lorica-grammar";
  const std::string program = path;
  return program.substr(0, program.rfind('/') + 1) + "lorica-grammar";
}

}  // namespace lorica
