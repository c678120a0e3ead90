#include "tests/integration/server_process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/check.h"

namespace lorica {
namespace {

constexpr size_t kLogTailBytes = 2000;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

int ExitCode(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Replaces the child by the program; its output goes to the log.
[[noreturn]] void Become(std::vector<std::string> arguments, const std::string& log_path) {
  const int log = ::open(log_path.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0644);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

Generated RunOne(LoricaClient& client, const v1::GenerateRequest& request) {
  Generated result;
  auto response = client.Generate(request);
  result.status = response.status();
  if (!response.ok()) return result;
  result.token_ids.assign(response->token_ids().begin(), response->token_ids().end());
  result.text = response->text();
  for (const auto& logprob : response->logprobs()) result.logprobs.push_back(logprob.logprob());
  result.response = std::move(*response);
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerProcess>> ServerProcess::Start(const Options& options) {
  auto server = Launch(options);
  if (!server.ok()) return server;
  absl::Status status = (*server)->WaitUntilServing(options.start_limit);
  if (!status.ok()) return status;
  return server;
}

absl::StatusOr<std::unique_ptr<ServerProcess>> ServerProcess::Launch(const Options& options) {
  std::unique_ptr<ServerProcess> server(new ServerProcess());
  const std::string& folder = server->folder_.path();
  std::vector<std::string> arguments = {
      LORICAD_PATH,
      "--model",
      options.model,
      "--adapters-dir",
      options.adapters_dir,
      "--data-dir",
      options.data_dir.empty() ? folder + "/data" : options.data_dir,
      "--grpc-address",
      options.grpc_address,
      "--port-file",
      folder + "/port"};
  arguments.insert(arguments.end(), options.flags.begin(), options.flags.end());
  const pid_t pid = ::fork();
  if (pid < 0) return absl::InternalError("fork failed");
  if (pid == 0) Become(arguments, folder + "/log");
  server->pid_ = pid;
  server->client_ = options.client;
  return server;
}

absl::Status ServerProcess::WaitUntilServing(absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (absl::Now() < end) {
    if (WaitForExit(absl::ZeroDuration()) >= 0) break;
    const std::string port = ReadAll(folder_.path() + "/port");
    if (!port.empty() && port.back() == '\n') {
      port_ = std::atoi(port.c_str());
      address_ = absl::StrCat("127.0.0.1:", port_);
      http_port_ = std::atoi(port.c_str() + port.find('\n') + 1);
      auto state = NewClient()->GetStatus();
      if (state.ok() && state->state() == v1::SERVING_STATE_SERVING) return absl::OkStatus();
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
  return absl::UnavailableError(
      absl::StrCat("loricad does not serve (exit ", exit_code_, "): ", Log()));
}

ServerProcess::~ServerProcess() {
  if (pid_ < 0) return;
  if (!exited_) Signal(SIGTERM);
  if (WaitForExit(absl::Seconds(60)) < 0) {
    Signal(SIGKILL);
    WaitForExit(absl::Seconds(10));
  }
  // What a sanitizer has reported stands in the log, which goes with its folder.
  const std::string log = ReadAll(folder_.path() + "/log");
  const bool reported =
      absl::StrContains(log, "Sanitizer: ") || absl::StrContains(log, ": runtime error: ");
  LORICA_CHECK(!reported, log);
}

std::unique_ptr<LoricaClient> ServerProcess::NewClient() const {
  ClientOptions options = client_;
  options.server = address_;
  return std::make_unique<LoricaClient>(options);
}

void ServerProcess::Signal(int signal) const { ::kill(pid_, signal); }

int ServerProcess::WaitForExit(absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (!exited_) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      exited_ = true;
      exit_code_ = ExitCode(status);
      break;
    }
    if (absl::Now() >= end) return -1;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return exit_code_;
}

std::string ServerProcess::Log() const {
  const std::string log = ReadAll(folder_.path() + "/log");
  return log.size() > kLogTailBytes ? log.substr(log.size() - kLogTailBytes) : log;
}

int64_t ServerProcess::ResidentBytes() const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/statm"));
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  file >> total_pages >> resident_pages;
  return resident_pages * ::sysconf(_SC_PAGESIZE);
}

std::vector<Generated> GenerateAll(const ServerProcess& server,
                                   const std::vector<v1::GenerateRequest>& requests, int streams) {
  std::vector<Generated> results(requests.size());
  std::atomic<size_t> next = 0;
  const auto client = server.NewClient();
  const auto work = [&] {
    for (size_t i = next++; i < requests.size(); i = next++) {
      results[i] = RunOne(*client, requests[i]);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < std::min<int>(streams, requests.size()); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  return results;
}

}  // namespace lorica
