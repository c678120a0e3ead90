// A real loricad as a child process on a free port, and small helpers around it.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/lorica_client.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {

class ServerProcess {
 public:
  struct Options {
    std::string model;
    std::string adapters_dir;
    std::vector<std::string> flags;  // further ones
    std::string data_dir;            // empty = one of its own
    std::string grpc_address = "127.0.0.1:0";
    ClientOptions client;            // keys and TLS that it asks for; the address is filled in
    absl::Duration start_limit = absl::Seconds(60);
  };

  // Starts and waits until it serves. The error holds the end of its log.
  static absl::StatusOr<std::unique_ptr<ServerProcess>> Start(const Options& options);
  // Does not wait, so there is no address yet: for those who end it while it starts.
  static absl::StatusOr<std::unique_ptr<ServerProcess>> Launch(const Options& options);
  // Ends it with SIGTERM; with SIGKILL after a minute.
  ~ServerProcess();

  const std::string& address() const { return address_; }
  int port() const { return port_; }
  int http_port() const { return http_port_; }  // 0: without --http-address
  pid_t pid() const { return pid_; }
  // A client of its own connection.
  std::unique_ptr<LoricaClient> NewClient() const;
  void Signal(int signal) const;
  // Exit status, or 128 + signal; -1 if it is still running after `limit`.
  int WaitForExit(absl::Duration limit);
  std::string Log() const;
  int64_t ResidentBytes() const;

 private:
  ServerProcess() = default;
  absl::Status WaitUntilServing(absl::Duration limit);

  TemporaryFolder folder_;
  ClientOptions client_;
  std::string address_;
  int port_ = 0;
  int http_port_ = 0;
  pid_t pid_ = -1;
  bool exited_ = false;
  int exit_code_ = -1;
};

// Tokens and text of one request, for comparisons.
struct Generated {
  std::vector<int32_t> token_ids;
  std::string text;
  std::vector<double> logprobs;
  absl::Status status;
  v1::GenerateResponse response;
};

// Runs all requests at once over `streams` threads; results in the order of requests.
std::vector<Generated> GenerateAll(const ServerProcess& server,
                                   const std::vector<v1::GenerateRequest>& requests, int streams);

}  // namespace lorica
