// `lorica generate`: one prompt, one answer.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/commands/answer_printer.h"
#include "client/commands/command.h"
#include "client/commands/request_flags.h"
#include "client/commands/terminal.h"

namespace lorica {
namespace {

constexpr char kExamples[] = R"(Examples:
  lorica generate "The capital of France is" --max-tokens 8
  lorica generate --chat "Write a haiku about tea." --temperature 0.8 --seed 7
  lorica generate --adapter ticket-triage --chat < ticket.txt
  lorica generate --mix headline=0.7,intent=0.3 "…" --json | jq -r .text
  lorica generate --token-ids 1,2,3 --ignore-eos --max-tokens 16
  lorica generate --chat "Who wrote Faust?" --json-schema author.json
  lorica generate --chat "Is 7 a prime?" --regex "yes|no"

The answer goes to stdout, all else to stderr. --raw (the default) sends the prompt as
it is; --chat sends it as the user's message through the model's chat template.
A prompt from stdin loses its last newline.)";

// The server takes 4 MiB; the surplus makes it say so instead of us.
constexpr size_t kStdinBytesMax = (4 << 20) + 2;

struct GenerateFlags {
  RequestFlags request;
  std::string prompt;
  std::string system;
  std::string token_ids;
  bool chat = false;
  bool raw = false;
  bool stats = false;
  bool has_prompt = false;
};

std::string ReadStdin() {
  std::string text(kStdinBytesMax, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), stdin));
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

void AddMessage(const std::string& role, const std::string& content, v1::GenerateRequest* request) {
  v1::ChatMessage* message = request->add_messages();
  message->set_role(role);
  message->set_content(content);
}

absl::Status SetInput(const GenerateFlags& flags, v1::GenerateRequest* request) {
  if (!flags.token_ids.empty()) {
    auto ids = ParseTokenIds(flags.token_ids);
    if (!ids.ok()) return ids.status();
    request->mutable_token_ids()->Assign(ids->begin(), ids->end());
    return absl::OkStatus();
  }
  if (!flags.has_prompt && IsTerminal(stdin)) {
    return absl::InvalidArgumentError(
        "no prompt: give it as an argument (lorica generate \"Once upon\") or on stdin");
  }
  const std::string prompt = flags.has_prompt ? flags.prompt : ReadStdin();
  if (flags.chat) {
    if (!flags.system.empty()) AddMessage("system", flags.system, request);
    AddMessage("user", prompt, request);
  } else {
    request->set_prompt(prompt);
  }
  return absl::OkStatus();
}

int PrintAsJson(const CommandContext& context, LoricaClient* client,
                const v1::GenerateRequest& request) {
  auto response = client->Generate(request, context.Call());
  if (!response.ok()) return Fail(context, response.status());
  PrintJson(ResultToJson(*response));
  return kExitOk;
}

int Generate(const CommandContext& context, const GenerateFlags& flags) {
  auto request = RequestFromFlags(flags.request);
  if (!request.ok()) return FailUsage(std::string(request.status().message()));
  if (absl::Status status = SetInput(flags, &*request); !status.ok()) {
    return FailUsage(std::string(status.message()));
  }
  auto client = context.MakeClient();
  if (context.json) return PrintAsJson(context, client.get(), *request);
  AnswerPrinter printer;
  absl::Status status = client->GenerateStream(
      *request,
      [&](const v1::GenerateStreamResponse& chunk) {
        printer.Add(chunk);
        return true;
      },
      context.Call());
  if (status.ok() || !printer.response().text().empty()) printer.EndLine();
  if (!status.ok()) return Fail(context, status);
  if (flags.stats || IsTerminal(stderr)) printer.PrintStats();
  return kExitOk;
}

}  // namespace

void AddGenerate(CLI::App* app, const CommandContext* context, Action* action) {
  CLI::App* sub = app->add_subcommand("generate", "Answer one prompt, streaming");
  auto flags = std::make_shared<GenerateFlags>();
  CLI::Option* prompt =
      sub->add_option("prompt", flags->prompt, "The prompt (default: read from stdin)");
  sub->add_flag("--chat", flags->chat, "Send it as a user's message through the chat template");
  sub->add_flag("--raw", flags->raw, "Send it as it is (default)")->excludes("--chat");
  sub->add_option("--system", flags->system, "System message")->needs("--chat");
  sub->add_option("--token-ids", flags->token_ids, "Token ids instead of text: 1,2,3")
      ->excludes(prompt)
      ->excludes("--chat");
  sub->add_flag("--stats", flags->stats, "Counts and times on stderr even without a terminal");
  AddRequestFlags(sub, &flags->request);
  sub->footer(kExamples);
  sub->callback([=] {
    flags->has_prompt = prompt->count() > 0;
    *action = [=] { return Generate(*context, *flags); };
  });
}

}  // namespace lorica
