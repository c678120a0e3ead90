// `lorica batch`: a file of requests in, a file of results out, in the same order.
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/commands/line_reader.h"
#include "client/commands/ordered_window.h"
#include "client/commands/terminal.h"
#include "client/commands/work_queue.h"
#include "client/steady_time.h"

namespace lorica {
namespace {

constexpr char kExamples[] =
    R"(One JSON object a line, in the field names of lorica/v1/inference.proto, flat:
  {"adapter_id": "ticket-triage", "prompt": "…", "max_tokens": 32}
  {"adapters": [{"adapter_id": "a", "weight": 0.7}, {"adapter_id": "b"}], "prompt": "…"}
  {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.8, "seed": 7, "stop": ["\n"]}
One result a line on stdout, in the order of the requests:
  {"token_ids": […], "text": "…", "finish_reason": "eos", "adapter": {…}, "usage": {…}, …}
  {"error": {"code": "NOT_FOUND", "message": "…"}}

Examples:
  lorica batch --file in.jsonl --concurrency 32 > out.jsonl
  generate-requests | lorica batch --file - | jq -r .text

Blank lines are skipped. A line that is wrong becomes an error result; the others go on.
The exit code is 0 once every line has its result or error.)";

constexpr int kConcurrencyMax = 1024;
// How far reading may run ahead of the slowest open request.
constexpr int kWindowPerStream = 8;
constexpr int64_t kWindowBytes = 64 << 20;

struct BatchFlags {
  std::string file;
  int concurrency = 8;
};

struct Job {
  int64_t ticket = 0;
  int64_t bytes = 0;
  std::string line;
};

class BatchRun {
 public:
  BatchRun(const CommandContext& context, LoricaClient* client, FILE* input, int concurrency);

  int Run();

 private:
  void Read();
  void Work();
  std::string Answer(const std::string& line);
  std::string Refused(const absl::Status& status);
  void Write(const std::string& result);
  void ShowProgress();
  void Summarize() const;

  const CommandContext& context_;
  LoricaClient* const client_;
  FILE* const input_;
  const int concurrency_;
  const absl::Time start_ = SteadyTime();
  int64_t input_bytes_ = 0;  // 0 = not known: a pipe
  LineReader reader_;
  OrderedWindow window_;
  WorkQueue<Job> queue_;  // the window bounds it
  // Results on the same terminal would tear the bar to pieces.
  ProgressBar progress_{"batch", !IsTerminal(stdout)};
  std::atomic<int64_t> errors_ = 0;
  std::atomic<int64_t> tokens_ = 0;
  std::atomic<int64_t> done_bytes_ = 0;
  int64_t written_ = 0;  // guarded by the window's lock: only Write touches it
  bool write_failed_ = false;
};

BatchRun::BatchRun(const CommandContext& context, LoricaClient* client, FILE* input,
                   int concurrency)
    : context_(context),
      client_(client),
      input_(input),
      concurrency_(concurrency),
      reader_(input),
      window_(int64_t{concurrency} * kWindowPerStream, kWindowBytes,
              [this](const std::string& result) { Write(result); }) {
  struct stat info;
  if (fstat(fileno(input_), &info) == 0 && S_ISREG(info.st_mode)) input_bytes_ = info.st_size;
}

std::string BatchRun::Refused(const absl::Status& status) {
  ++errors_;
  return ToLine(ErrorToJson(status));
}

std::string BatchRun::Answer(const std::string& line) {
  auto request = RequestFromJson(line);
  if (!request.ok()) return Refused(request.status());
  auto response = client_->Generate(*request, context_.Call());
  if (!response.ok()) return Refused(response.status());
  tokens_ += response->token_ids_size();
  return ToLine(ResultToJson(*response));
}

void BatchRun::Write(const std::string& result) {
  const bool whole = std::fwrite(result.data(), 1, result.size(), stdout) == result.size() &&
                     std::fputc('\n', stdout) != EOF && std::fflush(stdout) == 0;
  write_failed_ = write_failed_ || !whole;
  ++written_;
  ShowProgress();
}

void BatchRun::ShowProgress() {
  const double seconds = absl::ToDoubleSeconds(SteadyTime() - start_);
  const double fraction = input_bytes_ > 0 ? static_cast<double>(done_bytes_) / input_bytes_ : -1.0;
  std::string note = absl::StrCat(HumanCount(written_), " done");
  if (errors_ > 0) absl::StrAppend(&note, ", ", HumanCount(errors_), " errors");
  absl::StrAppend(&note, ", ", Fixed(tokens_ / seconds, 1), " tok/s");
  progress_.Update(fraction, note);
}

void BatchRun::Read() {
  std::string line;
  for (;;) {
    const LineReader::Result result = reader_.Next(&line);
    if (result == LineReader::Result::kEnd) return;
    if (result == LineReader::Result::kTooLong) {
      const int64_t ticket = window_.Open(0);
      window_.Close(ticket, 0,
                    Refused(absl::InvalidArgumentError(
                        absl::StrCat("the line is longer than ", HumanBytes(kLineBytesMax)))));
    } else if (!absl::StripAsciiWhitespace(line).empty()) {
      const int64_t bytes = line.size();
      queue_.Push(Job{window_.Open(bytes), bytes, std::move(line)});
    }
  }
}

void BatchRun::Work() {
  while (std::optional<Job> job = queue_.Pop()) {
    std::string result = Answer(job->line);
    done_bytes_ += job->bytes + 1;
    window_.Close(job->ticket, job->bytes, std::move(result));
  }
}

void BatchRun::Summarize() const {
  const double seconds = absl::ToDoubleSeconds(SteadyTime() - start_);
  std::fprintf(stderr, "%s answers, %s errors, %s tokens in %s (%.1f tok/s)\n",
               HumanCount(written_ - errors_).c_str(), HumanCount(errors_).c_str(),
               HumanCount(tokens_).c_str(), HumanDuration(seconds).c_str(), tokens_ / seconds);
}

int BatchRun::Run() {
  std::vector<std::thread> workers;
  for (int i = 0; i < concurrency_; ++i) workers.emplace_back([this] { Work(); });
  Read();
  queue_.End();
  for (std::thread& worker : workers) worker.join();
  progress_.Clear();
  Summarize();
  if (std::ferror(input_)) return Fail(context_, absl::DataLossError("reading the input failed"));
  if (write_failed_) return Fail(context_, absl::DataLossError("writing to stdout failed"));
  return kExitOk;
}

int Batch(const CommandContext& context, const BatchFlags& flags) {
  const bool from_stdin = flags.file == "-";
  std::error_code unknown;
  if (!from_stdin && std::filesystem::is_directory(flags.file, unknown)) {
    return FailUsage(absl::StrCat("cannot read ", flags.file, ": it is a folder"));
  }
  FILE* input = from_stdin ? stdin : std::fopen(flags.file.c_str(), "r");
  if (input == nullptr) {
    return FailUsage(absl::StrCat("cannot read ", flags.file, ": ", std::strerror(errno)));
  }
  auto client = context.MakeClient();
  absl::Status connected = client->Connect(absl::Seconds(context.wait_s));
  const int code = connected.ok() ? BatchRun(context, client.get(), input, flags.concurrency).Run()
                                  : Fail(context, connected);
  if (!from_stdin) std::fclose(input);
  return code;
}

}  // namespace

void AddBatch(CLI::App* app, const CommandContext* context, Action* action) {
  CLI::App* sub = app->add_subcommand("batch", "Answer a file of requests, in order");
  auto flags = std::make_shared<BatchFlags>();
  sub->add_option("-f,--file", flags->file, "JSON lines; - reads stdin")->required();
  sub->add_option("-c,--concurrency", flags->concurrency, "Requests in flight")
      ->check(CLI::Range(1, kConcurrencyMax))
      ->capture_default_str();
  sub->footer(kExamples);
  sub->callback([=] { *action = [=] { return Batch(*context, *flags); }; });
}

}  // namespace lorica
