// `lorica chat`: a conversation that streams.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "client/commands/answer_printer.h"
#include "client/commands/command.h"
#include "client/commands/interrupt.h"
#include "client/commands/line_reader.h"
#include "client/commands/request_flags.h"
#include "client/commands/terminal.h"

namespace lorica {
namespace {

constexpr char kExamples[] = R"(Examples:
  lorica chat
  lorica chat --adapter ticket-triage --temperature 0.7
  printf 'Hello!\nAnd in French?\n' | lorica chat        one message a line
  lorica chat --json < messages.txt                      one result a line

In the chat: /adapter NAME, /mix a=0.7,b=0.3, /system TEXT, /reset, /help, /quit.
Ctrl-C stops the answer, Ctrl-D leaves. The exit code is 1 when an answer failed and the
messages came from a pipe.)";

constexpr char kHelp[] =
    "  /adapter NAME       let this adapter answer from here on; /adapter alone: the base model\n"
    "  /mix a=0.7,b=0.3    several adapters at once\n"
    "  /system TEXT        set the system message and start over\n"
    "  /reset              forget the conversation\n"
    "  /quit               leave (Ctrl-D does it too)\n"
    "  Ctrl-C              stop the answer; what came so far stays in the conversation\n";

constexpr size_t kMessageBytesMax = 4 << 20;

struct ChatFlags {
  RequestFlags request;
  std::string system;
};

// One conversation. The interrupt thread calls Interrupt; everything else is one thread's.
class ChatSession {
 public:
  ChatSession(const CommandContext& context, v1::GenerateRequest settings, std::string system);

  int Run();
  void Interrupt();

 private:
  bool interactive() const { return IsTerminal(stdin) && !context_.json; }
  void Prompt();
  void Note(const std::string& text);
  // False: leave.
  bool Command(const std::string& line);
  void UseMix(const std::string& text);
  void Reset();
  void Answer(const std::string& message);
  absl::Status Stream(AnswerPrinter* printer, Cancellation* cancellation);
  void Add(const std::string& role, const std::string& content);
  void Report(const AnswerPrinter& printer, const absl::Status& status);

  const CommandContext& context_;
  v1::GenerateRequest request_;  // settings and the conversation so far
  std::string system_;
  std::unique_ptr<LoricaClient> client_;
  bool failed_ = false;
  bool no_server_ = false;
  absl::Mutex mutex_;
  Cancellation* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

ChatSession::ChatSession(const CommandContext& context, v1::GenerateRequest settings,
                         std::string system)
    : context_(context), request_(std::move(settings)), system_(std::move(system)) {
  Reset();
}

void ChatSession::Interrupt() {
  absl::MutexLock lock(&mutex_);
  if (running_ != nullptr) {
    running_->Cancel();
  } else if (interactive()) {
    std::fprintf(stderr, "\n(/quit or Ctrl-D leaves)\n");
    Prompt();
  }
}

void ChatSession::Prompt() {
  if (!interactive()) return;
  const std::string who = request_.adapter_id().empty()
                              ? (request_.adapters().empty() ? "base" : "mix")
                              : request_.adapter_id();
  std::fprintf(stderr, "%s ", Paint(Ink::kCyan, absl::StrCat(who, ">"), stderr).c_str());
}

void ChatSession::Note(const std::string& text) {
  std::fprintf(stderr, "%s\n", Paint(Ink::kDim, text, stderr).c_str());
}

void ChatSession::Add(const std::string& role, const std::string& content) {
  v1::ChatMessage* message = request_.add_messages();
  message->set_role(role);
  message->set_content(content);
}

void ChatSession::Reset() {
  request_.clear_messages();
  if (!system_.empty()) Add("system", system_);
}

void ChatSession::UseMix(const std::string& text) {
  auto mix = ParseMix(text);
  if (!mix.ok()) return Note(std::string(mix.status().message()));
  request_.clear_adapter_id();
  request_.mutable_adapters()->Assign(mix->begin(), mix->end());
  Note(absl::StrCat("a mix of ", text, " answers"));
}

bool ChatSession::Command(const std::string& line) {
  const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(' ', 1));
  const std::string rest =
      parts.size() > 1 ? std::string(absl::StripAsciiWhitespace(parts[1])) : "";
  if (parts[0] == "/quit" || parts[0] == "/exit") return false;
  if (parts[0] == "/reset") {
    Reset();
    Note("conversation forgotten");
  } else if (parts[0] == "/adapter") {
    request_.clear_adapters();
    request_.set_adapter_id(rest);
    Note(rest.empty() ? "the base model answers" : absl::StrCat(rest, " answers"));
  } else if (parts[0] == "/mix") {
    UseMix(rest);
  } else if (parts[0] == "/system") {
    system_ = rest;
    Reset();
  } else if (parts[0] == "/help") {
    std::fprintf(stderr, "%s", kHelp);
  } else {
    Note(absl::StrCat("no command ", parts[0], "; /help lists them"));
  }
  return true;
}

absl::Status ChatSession::Stream(AnswerPrinter* printer, Cancellation* cancellation) {
  {
    absl::MutexLock lock(&mutex_);
    running_ = cancellation;
  }
  absl::Status status = client_->GenerateStream(
      request_,
      [&](const v1::GenerateStreamResponse& chunk) {
        printer->Add(chunk);
        return true;
      },
      context_.Call(cancellation));
  absl::MutexLock lock(&mutex_);
  running_ = nullptr;
  return status;
}

void ChatSession::Report(const AnswerPrinter& printer, const absl::Status& status) {
  if (absl::IsCancelled(status)) return Note("stopped");
  if (status.ok()) {
    if (interactive() && IsTerminal(stderr)) printer.PrintStats();
    return;
  }
  failed_ = true;
  no_server_ = no_server_ || IsNoServer(status);
  CommandContext quiet = context_;
  quiet.json = false;
  Fail(quiet, status);
}

void ChatSession::Answer(const std::string& message) {
  Add("user", message);
  Cancellation cancellation;
  AnswerPrinter printer(/*print=*/!context_.json);
  const absl::Status status = Stream(&printer, &cancellation);
  if (context_.json) {
    std::printf(
        "%s\n",
        ToLine(status.ok() ? ResultToJson(printer.response()) : ErrorToJson(status)).c_str());
    std::fflush(stdout);
  } else if (status.ok() || !printer.response().text().empty()) {
    printer.EndLine();
  }
  Report(printer, status);
  // A question without any answer would confuse the next turn.
  if (printer.response().text().empty() && !status.ok()) {
    request_.mutable_messages()->RemoveLast();
  } else {
    Add("assistant", printer.response().text());
  }
}

int ChatSession::Run() {
  InterruptWatcher watcher([this] { Interrupt(); });
  client_ = context_.MakeClient();
  if (interactive()) Note(absl::StrCat("chat with ", context_.server, "; /help lists commands"));
  LineReader reader(stdin, kMessageBytesMax);
  LineReader::Result read;
  std::string line;
  for (Prompt(); (read = reader.Next(&line)) != LineReader::Result::kEnd; Prompt()) {
    if (read == LineReader::Result::kTooLong) {
      Note(absl::StrCat("a message may have ", HumanBytes(kMessageBytesMax),
                        "; this one is left out"));
      failed_ = true;
      continue;
    }
    const bool blank = absl::StripAsciiWhitespace(line).empty();
    if (absl::StartsWith(line, "/")) {
      if (!Command(line)) break;
    } else if (!blank) {
      Answer(line);
    }
    if (no_server_ && !interactive()) return kExitNoServer;
  }
  if (interactive() && std::feof(stdin)) std::fprintf(stderr, "\n");
  return failed_ && !interactive() ? kExitFailed : kExitOk;
}

int Chat(const CommandContext& context, const ChatFlags& flags) {
  auto settings = RequestFromFlags(flags.request);
  if (!settings.ok()) return FailUsage(std::string(settings.status().message()));
  return ChatSession(context, *std::move(settings), flags.system).Run();
}

}  // namespace

void AddChat(CLI::App* app, const CommandContext* context, Action* action) {
  CLI::App* sub = app->add_subcommand("chat", "Talk to the model or an adapter");
  auto flags = std::make_shared<ChatFlags>();
  sub->add_option("--system", flags->system, "System message");
  AddRequestFlags(sub, &flags->request);
  sub->footer(kExamples);
  sub->callback([=] { *action = [=] { return Chat(*context, *flags); }; });
}

}  // namespace lorica
