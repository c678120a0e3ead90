// loricad: flags, log, signals; everything else is Server.
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "grpc/support/log.h"
#include "server/config.h"
#include "server/server.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

constexpr rlim_t kDescriptorsWanted = 65536;

void SetUpLog(const Config& config) {
  auto logger = spdlog::stderr_logger_mt("loricad");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  logger->set_level(spdlog::level::from_str(config.log_level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

// Shells give 1,024 by habit; each connection takes one.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::max(limit.rlim_cur, std::min(limit.rlim_max, kDescriptorsWanted));
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// All threads inherit the block, so that signals wait for the thread that takes them.
sigset_t BlockSignals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of that write
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// The first signal stops the server, or the process while there is none; the second
// ends the process. SIGHUP is none of those: it reads files again.
class Signals {
 public:
  Signals() : signals_(BlockSignals()) {
    std::thread([this] { Loop(); }).detach();
  }
  void StopThis(Server* server) {
    std::lock_guard<std::mutex> lock(mutex_);
    server_ = server;
    if (std::exchange(hung_up_, false)) ReadFilesAgain();
  }

 private:
  void Loop() {
    Take();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (server_ == nullptr) ::_exit(kExitOk);
      server_->RequestStop();
    }
    Take();
    ::_exit(kExitSecondSignal);
  }
  void Take() {
    int signal = 0;
    for (;;) {
      sigwait(&signals_, &signal);
      if (signal != SIGHUP) break;
      Reload();
    }
    spdlog::info("got {}", signal == SIGTERM ? "SIGTERM" : "SIGINT");
  }
  void Reload() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (server_ != nullptr) return ReadFilesAgain();
    // Some may have been read by now.
    spdlog::info("got SIGHUP while starting: files are read again once it has started");
    hung_up_ = true;
  }
  void ReadFilesAgain() {
    if (!server_->HasFilesToReload()) return spdlog::info("got SIGHUP: there are no files to read");
    const absl::Status status = server_->Reload();
    if (status.ok()) return spdlog::info("got SIGHUP: read the files again");
    spdlog::error("got SIGHUP: kept the old file, since {}", std::string(status.message()));
  }

  const sigset_t signals_;
  std::mutex mutex_;
  Server* server_ = nullptr;
  bool hung_up_ = false;  // while there was no server
};

int Run(const Config& config) {
  SetUpLog(config);  // before the thread that logs signals
  static Signals& signals = *new Signals;
  spdlog::info("starting: {}", DescribeConfig(config));
  auto server = Server::Start(config);
  if (!server.ok()) {
    spdlog::error("cannot start: {}", std::string(server.status().message()));
    return kExitCannotStart;
  }
  signals.StopThis(server->get());
  spdlog::info("serving on port {}", (*server)->port());
  const absl::Status ended = (*server)->Wait();
  if (ended.ok()) {
    spdlog::info("draining for at most {} s", config.drain_seconds);
    (*server)->Drain();
  }
  (*server)->Stop();
  spdlog::info("stopped");
  return ended.ok() ? kExitOk : kExitDeviceFailed;
}

// What matters of calls is in our own log. That an assertion of the library's fails, by which the
// process ends, it says nowhere else.
void LogOfGrpc(gpr_log_func_args* args) {
  const bool is_end = absl::StrContains(args->message, "assertion failed");
  if (is_end) spdlog::critical("gRPC: {}:{}: {}", args->file, args->line, args->message);
}

}  // namespace
}  // namespace lorica

int main(int argc, char** argv) {
  // Debian's absl looks for cycles at every lock, under one lock of the process.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  ::setenv("GRPC_VERBOSITY", "ERROR", /*overwrite=*/0);
  ::gpr_set_log_function(lorica::LogOfGrpc);
  const lorica::ParsedFlags flags =
      lorica::ParseFlags(std::vector<std::string>(argv + 1, argv + argc));
  if (!flags.config) {
    std::fputs(flags.text.c_str(), flags.exit_code == lorica::kExitOk ? stdout : stderr);
    return flags.exit_code;
  }
  lorica::RaiseDescriptorLimit();
  return lorica::Run(*flags.config);
}
