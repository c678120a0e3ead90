// The `lorica` command: flags all commands share, then the command's own file.
#include <google/protobuf/stubs/logging.h>
#include <stdlib.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>

#include "CLI/CLI.hpp"
#include "client/commands/command.h"
#include "client/commands/secret_file.h"

namespace {

constexpr char kFooter[] = R"(First steps:
  lorica status
  lorica adapters list
  lorica generate --adapter NAME "Hello"
  lorica COMMAND --help          each with examples

Exit codes: 0 done · 1 the server refused or failed · 2 the command line is wrong ·
3 nobody answers at the address · 4 `status`: the server is not SERVING.
Results go to stdout, all else to stderr. NO_COLOR=1 switches colours off.)";

using Reader = absl::StatusOr<std::string> (*)(const std::string& path);

absl::StatusOr<std::string> ReadPublicFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content(lorica::kSecretFileBytesMax + 1, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<size_t>(file.gcount()));
  if (!content.empty() && content.size() <= lorica::kSecretFileBytesMax) return content;
  return absl::InvalidArgumentError(path + " cannot be read, is empty or too large");
}

// An option that names a file and keeps its text.
void AddFile(CLI::App* app, const char* name, const char* environment, std::string* text,
             const char* help, Reader reader = ReadPublicFile) {
  const auto read = [name, text, reader](const std::string& path) {
    absl::StatusOr<std::string> content = reader(path);
    if (!content.ok()) throw CLI::ValidationError(name, std::string(content.status().message()));
    *text = *std::move(content);
  };
  app->add_option_function<std::string>(name, read, help)->type_name("FILE")->envname(environment);
}

void AddSecurity(CLI::App* app, lorica::CommandContext* context) {
  AddFile(app, "--api-key-file", "LORICA_API_KEY_FILE", &context->api_key, "Key to show the server",
          lorica::ReadSecretWord);
  app->add_option("--tenant", context->tenant, "Operators, with their key: act for this tenant");
  AddFile(app, "--tls-ca", "LORICA_TLS_CA", &context->tls.ca,
          "Speak TLS; who may have signed the server's certificate (PEM)");
  AddFile(app, "--tls-cert", "LORICA_TLS_CERT", &context->tls.cert, "Own certificate (PEM)");
  AddFile(app, "--tls-key", "LORICA_TLS_KEY", &context->tls.key, "Its private key (PEM)",
          lorica::ReadSecretFile);
  app->add_flag("--tls", context->tls.use, "Speak TLS with the system's authorities");
}

void AddGlobals(CLI::App* app, lorica::CommandContext* context) {
  app->add_option("--server", context->server, "Where the server is")
      ->type_name("HOST:PORT")
      ->envname("LORICA_SERVER")
      ->capture_default_str();
  app->add_flag("--json", context->json, "Machine-readable output");
  app->add_option("--timeout", context->timeout_s,
                  "A call may take so long in all; 0 = the server's limit")
      ->check(lorica::Seconds(0.0))
      ->type_name("SECONDS");
  app->add_option("--wait", context->wait_s, "Wait so long for a server that is starting")
      ->check(lorica::Seconds(0.0))
      ->type_name("SECONDS");
  app->add_option("--retries", context->retries,
                  "Repetitions after UNAVAILABLE before the first token")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
}

int Main(int argc, char** argv) {
  CLI::App app("Talk to a Lorica server: many LoRA adapters on one base model.", "lorica");
  lorica::CommandContext context;
  lorica::Action action;
  app.set_version_flag("--version", "lorica " LORICA_VERSION);
  AddGlobals(&app, &context);
  AddSecurity(&app, &context);
  app.footer(kFooter);
  app.get_formatter()->column_width(34);
  lorica::AddGenerate(&app, &context, &action);
  lorica::AddChat(&app, &context, &action);
  lorica::AddBatch(&app, &context, &action);
  lorica::AddAdapters(&app, &context, &action);
  lorica::AddStatus(&app, &context, &action);
  lorica::AddUsage(&app, &context, &action);
  lorica::AddKey(&app, &context, &action);
  lorica::AddTokenize(&app, &context, &action);
  lorica::AddBench(&app, &context, &action);
  for (CLI::App* sub : app.get_subcommands({})) sub->fallthrough();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? lorica::kExitOk : lorica::kExitUsage;
  }
  if (!context.tenant.empty() && context.api_key.empty()) {
    return lorica::FailUsage(
        "--tenant counts from operators alone: show an operator's key, --api-key-file FILE");
  }
  // Not require_subcommand: it would hide that a word is none of the commands.
  if (!action) return lorica::FailUsage("a command is missing: lorica --help lists them");
  return action();
}

// Whoever reads results has to be told that some are missing.
int WithOutputWritten(int code) {
  const bool written = std::cout.flush() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (written) return code;
  std::fprintf(stderr, "error: the results could not be written to stdout\n");
  return code == lorica::kExitOk ? lorica::kExitFailed : code;
}

}  // namespace

int main(int argc, char** argv) {
  // What matters of both is in the errors of calls.
  ::setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  google::protobuf::SetLogHandler(nullptr);
  try {
    return WithOutputWritten(Main(argc, argv));
  } catch (const std::exception& error) {
    return lorica::FailUsage(error.what());
  }
}
