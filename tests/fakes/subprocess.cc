#include "tests/fakes/subprocess.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"

extern char** environ;

namespace lorica {
namespace {

std::array<int, 2> Pipe() {
  std::array<int, 2> ends = {-1, -1};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
  return ends;
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Environment() {
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!absl::StartsWith(*entry, "LORICA_SERVER=")) variables.emplace_back(*entry);
  }
  return variables;
}

}  // namespace

Subprocess::Subprocess(const std::vector<std::string>& argv) {
  signal(SIGPIPE, SIG_IGN);  // a program may end before it has read its input
  const auto in = Pipe();
  const auto out = Pipe();
  const auto err = Pipe();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
  const std::vector<std::string> environment = Environment();
  if (posix_spawn(&pid_, argv[0].c_str(), &actions, nullptr, Pointers(argv).data(),
                  Pointers(environment).data()) != 0) {
    std::abort();
  }
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  close(err[1]);
  input_ = in[1];
  output_.fd = out[0];
  error_.fd = err[0];
  output_.reader = std::thread([this] { Collect(&output_); });
  error_.reader = std::thread([this] { Collect(&error_); });
}

Subprocess::~Subprocess() {
  if (pid_ > 0) kill(pid_, SIGKILL);
  Wait();
}

void Subprocess::Collect(Stream* stream) {
  std::array<char, 4096> buffer;
  ssize_t count = 0;
  while ((count = read(stream->fd, buffer.data(), buffer.size())) > 0) {
    absl::MutexLock lock(&mutex_);
    stream->text.append(buffer.data(), count);
  }
  close(stream->fd);
}

void Subprocess::Write(const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = write(input_, text.data() + done, text.size() - done);
    if (count <= 0) return;
    done += count;
  }
}

void Subprocess::CloseInput() {
  if (input_ >= 0) close(std::exchange(input_, -1));
}

void Subprocess::Signal(int signal) { kill(pid_, signal); }

bool Subprocess::WaitFor(const Stream& stream, const std::string& text, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto there = [&] { return absl::StrContains(stream.text, text); };
  return mutex_.AwaitWithTimeout(absl::Condition(&there), timeout);
}

bool Subprocess::WaitForOutput(const std::string& text, absl::Duration timeout) {
  return WaitFor(output_, text, timeout);
}

bool Subprocess::WaitForError(const std::string& text, absl::Duration timeout) {
  return WaitFor(error_, text, timeout);
}

int Subprocess::Wait() {
  if (pid_ < 0) return 0;
  CloseInput();
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  output_.reader.join();
  error_.reader.join();
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string Subprocess::output() const {
  absl::MutexLock lock(&mutex_);
  return output_.text;
}

std::string Subprocess::error() const {
  absl::MutexLock lock(&mutex_);
  return error_.text;
}

RunResult RunToEnd(const std::vector<std::string>& argv, const std::string& input) {
  Subprocess process(argv);
  process.Write(input);
  RunResult result;
  result.code = process.Wait();
  result.output = process.output();
  result.error = process.error();
  return result;
}

}  // namespace lorica
