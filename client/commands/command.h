// What all commands of `lorica` share: where the server is, how a failure is told, and
// the exit codes. A command is a function Add…(app, context, action) that declares its
// flags and, when it is the one on the command line, puts its work into `action`.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/commands/json_mapping.h"
#include "client/lorica_client.h"

namespace lorica {

enum ExitCode {
  kExitOk = 0,
  kExitFailed = 1,      // the server refused or failed, or a file or stdout cannot be used
  kExitUsage = 2,       // the command line is wrong; nothing was sent
  kExitNoServer = 3,    // nobody answers at the address
  kExitNotServing = 4,  // `status`: it answers, but it is not SERVING
};

// Filled from the command line before any command runs; const afterwards.
struct CommandContext {
  std::string server = kDefaultServer;
  std::string api_key;
  std::string tenant;
  ClientTls tls;
  bool json = false;
  double timeout_s = 0;  // 0 = the server's own limit
  double wait_s = 0;     // how long to wait for a server that is still starting
  int retries = 4;       // after an Unavailable before the first token; 0 = none

  std::unique_ptr<LoricaClient> MakeClient() const;
  CallOptions Call(Cancellation* cancellation = nullptr) const;
};

using Action = std::function<int()>;

// Says on stderr what went wrong, with --json also on stdout as {"error": …}; returns
// the exit code for it.
int Fail(const CommandContext& context, const absl::Status& status);

// The same for a command line that makes no sense.
int FailUsage(const std::string& message);

// Both ends included; what is no number is not between.
CLI::Validator NumberBetween(double low, double high);
// Accepts `least` to eleven days.
CLI::Validator Seconds(double least);
// Digits alone that fit into 64 bits: CLI11 by itself lets -1 and what is too large go round.
CLI::Validator WholeNumber();
// With or without a sign, 32 bits.
CLI::Validator SmallWholeNumber();

// One pretty-printed JSON document on stdout.
void PrintJson(const Json& json);

void AddGenerate(CLI::App* app, const CommandContext* context, Action* action);
void AddChat(CLI::App* app, const CommandContext* context, Action* action);
void AddBatch(CLI::App* app, const CommandContext* context, Action* action);
void AddAdapters(CLI::App* app, const CommandContext* context, Action* action);
void AddStatus(CLI::App* app, const CommandContext* context, Action* action);
void AddUsage(CLI::App* app, const CommandContext* context, Action* action);
void AddKey(CLI::App* app, const CommandContext* context, Action* action);
void AddTokenize(CLI::App* app, const CommandContext* context, Action* action);
void AddBench(CLI::App* app, const CommandContext* context, Action* action);

}  // namespace lorica
