// `lorica bench`: a seeded load on a server, and what came of it.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/commands/bench_load.h"
#include "client/commands/bench_report.h"
#include "client/commands/command.h"
#include "client/commands/interrupt.h"
#include "client/commands/request_flags.h"
#include "client/commands/terminal.h"
#include "client/commands/work_queue.h"
#include "client/steady_time.h"

namespace lorica {
namespace {

constexpr char kExamples[] = R"(Examples:
  lorica bench --streams 8 --duration 30                  closed loop: 8 clients, no pause
  lorica bench --rate 2 --duration 60 --pattern zipf      open loop: Poisson arrivals
  lorica bench --streams 8 --pattern identical --json
  lorica bench --streams 8 --requests 64 --plot bench.svg

Patterns: none (base model), identical, distinct (stream i uses adapter i), uniform, zipf,
over --adapters or, without it, all adapters of the server. Prompts are random token ids;
answers are greedy and run past the end token, so every request costs the same. Nothing is
retried: a refusal counts as a failure. Times are the client's and start when a request
was due. Requests that the end of the run cuts give their tokens and first-token time.)";

constexpr int kStreamsMax = 1024;
constexpr absl::Duration kTick = absl::Milliseconds(100);
// A loop of refusals shall not become a load of its own.
constexpr absl::Duration kPauseAfterFailure = absl::Milliseconds(100);

struct BenchFlags {
  int streams = 8;
  double rate = 0;
  double duration_s = 30;
  double warmup_s = 0;
  int64_t requests = 0;
  int in_flight_max = 512;
  std::string adapters;
  std::string pattern = "distinct";
  std::string plot;
  std::string schema;  // name of a file
  LoadOptions load;
};

struct Arrival {
  int number = 0;
  double due_s = 0;
};

class BenchRun {
 public:
  BenchRun(const BenchFlags& flags, LoadPlan plan,
           std::vector<std::unique_ptr<LoricaClient>> clients);

  BenchReport Run();
  // Ends the run now; what was measured stays.
  void Stop() { cancellation_.Cancel(); }

 private:
  double Now() const { return absl::ToDoubleSeconds(SteadyTime() - start_); }
  double end_s() const { return flags_.warmup_s + flags_.duration_s; }
  bool Over() const;
  // False when the budget of --requests is used up.
  bool Claim();
  void ClosedLoop(int stream);
  void OpenLoop();
  void Serve(WorkQueue<Arrival>* arrivals);
  bool SleepUntil(double at_s) const;
  absl::StatusCode Send(int client, const v1::GenerateRequest& request, double due_s);
  void Clock();
  void ShowProgress();

  const BenchFlags& flags_;
  const LoadPlan plan_;
  const std::vector<std::unique_ptr<LoricaClient>> clients_;
  BenchRecorder recorder_;
  Cancellation cancellation_;
  ProgressBar progress_{"bench"};
  absl::Time start_;
  std::atomic<int64_t> claimed_ = 0;
  std::atomic<int> in_flight_ = 0;
  std::atomic<bool> done_ = false;
};

BenchRun::BenchRun(const BenchFlags& flags, LoadPlan plan,
                   std::vector<std::unique_ptr<LoricaClient>> clients)
    : flags_(flags),
      plan_(std::move(plan)),
      clients_(std::move(clients)),
      recorder_(flags.warmup_s) {}

bool BenchRun::Over() const {
  return cancellation_.cancelled() || (flags_.requests == 0 && Now() >= end_s());
}

bool BenchRun::Claim() { return flags_.requests == 0 || claimed_++ < flags_.requests; }

absl::StatusCode BenchRun::Send(int client, const v1::GenerateRequest& request, double due_s) {
  BenchSample sample;
  sample.start_s = due_s;
  sample.prompt_tokens = request.token_ids_size();
  double first_s = 0;
  double last_s = 0;
  CallOptions call;
  call.cancellation = &cancellation_;
  absl::Status status = clients_[client % clients_.size()]->GenerateStream(
      request,
      [&](const v1::GenerateStreamResponse& chunk) {
        if (chunk.token_ids().empty()) return true;
        const double now = Now();
        if (sample.output_tokens == 0) first_s = now;
        if (sample.output_tokens > 0) sample.gaps_ms.push_back((now - last_s) * 1000);
        last_s = now;
        sample.output_tokens += chunk.token_ids_size();
        recorder_.AddTokens(now, chunk.token_ids_size());
        return true;
      },
      call);
  if (sample.output_tokens > 0) sample.ttft_ms = (first_s - due_s) * 1000;
  if (sample.output_tokens > 1) {
    sample.tpot_ms = (last_s - first_s) * 1000 / (sample.output_tokens - 1);
  }
  sample.total_ms = (Now() - due_s) * 1000;
  sample.code = status.code();
  sample.message = std::string(status.message());
  sample.cut = absl::IsCancelled(status) && cancellation_.cancelled();
  recorder_.AddSample(std::move(sample));
  return status.code();
}

void BenchRun::ClosedLoop(int stream) {
  for (int64_t number = 0; !Over() && Claim(); ++number) {
    const v1::GenerateRequest request = plan_.Request(stream, number);
    const absl::StatusCode code = Send(stream, request, Now());
    if (code != absl::StatusCode::kOk && !Over()) absl::SleepFor(kPauseAfterFailure);
  }
}

bool BenchRun::SleepUntil(double at_s) const {
  while (!Over() && Now() < at_s) {
    absl::SleepFor(std::min(kTick, absl::Seconds(std::max(0.0, at_s - Now()))));
  }
  return !Over();
}

void BenchRun::Serve(WorkQueue<Arrival>* arrivals) {
  while (std::optional<Arrival> arrival = arrivals->Pop()) {
    Send(arrival->number, plan_.Request(arrival->number, 0), arrival->due_s);
    --in_flight_;
  }
}

// Threads are made as the load needs them: as many as were ever in flight.
void BenchRun::OpenLoop() {
  WorkQueue<Arrival> arrivals;
  std::vector<std::thread> threads;
  double due_s = 0;
  for (int number = 0; Claim(); ++number) {
    due_s += plan_.ArrivalGap(number, flags_.rate);
    if (!SleepUntil(due_s)) break;
    if (in_flight_ >= flags_.in_flight_max) {
      recorder_.AddNotSent();
      continue;
    }
    if (++in_flight_ > static_cast<int>(threads.size())) {
      threads.emplace_back([this, &arrivals] { Serve(&arrivals); });
    }
    arrivals.Push(Arrival{number, due_s});
  }
  arrivals.End();
  for (std::thread& thread : threads) thread.join();
}

void BenchRun::ShowProgress() {
  const double now = Now();
  const double fraction = flags_.requests > 0
                              ? static_cast<double>(recorder_.requests()) / flags_.requests
                              : now / end_s();
  const double measured = std::max(0.001, now - flags_.warmup_s);
  progress_.Update(fraction, now < flags_.warmup_s
                                 ? "warming up"
                                 : absl::StrCat(recorder_.requests(), " requests, ",
                                                Fixed(recorder_.tokens() / measured, 1), " tok/s"));
}

void BenchRun::Clock() {
  while (!done_) {
    absl::SleepFor(kTick);
    ShowProgress();
    if (flags_.requests == 0 && Now() >= end_s()) Stop();
  }
}

BenchReport BenchRun::Run() {
  start_ = SteadyTime();
  std::thread clock([this] { Clock(); });
  if (flags_.rate > 0) {
    OpenLoop();
  } else {
    std::vector<std::thread> threads;
    for (int i = 0; i < flags_.streams; ++i) threads.emplace_back([this, i] { ClosedLoop(i); });
    for (std::thread& thread : threads) thread.join();
  }
  const double ended = flags_.requests > 0 ? Now() : std::min(Now(), end_s());
  done_ = true;
  clock.join();
  progress_.Clear();
  return BenchReport::From(recorder_, ended);
}

// --- around a run ------------------------------------------------------------------

absl::StatusOr<std::vector<std::string>> Adapters(const BenchFlags& flags, LoricaClient* client) {
  std::vector<std::string> ids;
  if (flags.load.pattern == Pattern::kNone) return ids;
  if (!flags.adapters.empty()) {
    ids = absl::StrSplit(flags.adapters, ',', absl::SkipWhitespace());
    return ids;
  }
  auto adapters = client->AllAdapters();
  if (!adapters.ok()) return adapters.status();
  for (const v1::Adapter& adapter : *adapters) {
    if (adapter.state() != v1::ADAPTER_STATE_FAILED) ids.push_back(adapter.adapter_id());
  }
  if (ids.empty()) {
    return absl::FailedPreconditionError(
        "the server has no adapters to bench: put some under its --adapters-dir, or bench the "
        "base model with --pattern none");
  }
  return ids;
}

absl::Status Plan(BenchFlags* flags, LoricaClient* client, int* streams_a_connection) {
  auto status = client->GetStatus();
  if (!status.ok()) return status.status();
  auto ids = Adapters(*flags, client);
  if (!ids.ok()) return ids.status();
  flags->load.adapters = *std::move(ids);
  flags->load.vocabulary = status->model().vocabulary();
  *streams_a_connection = std::max(1, status->limits().concurrent_streams());
  if (flags->load.vocabulary > 0) return absl::OkStatus();
  return absl::FailedPreconditionError("the server's status names no vocabulary");
}

Json ConfigToJson(const CommandContext& context, const BenchFlags& flags) {
  Json config = {{"server", context.server},
                 {"loop", flags.rate > 0 ? "open" : "closed"},
                 {"pattern", flags.pattern},
                 {"adapters", flags.load.adapters},
                 {"prompt_tokens", flags.load.prompt_tokens},
                 {"output_tokens", flags.load.output_tokens},
                 {"warmup_seconds", flags.warmup_s},
                 {"json_schema", flags.schema},
                 {"seed", flags.load.seed}};
  if (flags.rate > 0) {
    config["rate"] = flags.rate;
  } else {
    config["streams"] = flags.streams;
  }
  if (flags.pattern == "zipf") config["zipf_exponent"] = flags.load.zipf_exponent;
  return config;
}

std::string Title(const BenchFlags& flags) {
  const std::string loop = flags.rate > 0 ? absl::StrCat(flags.rate, " requests/s (Poisson)")
                                          : absl::StrCat(flags.streams, " streams");
  const std::string over =
      flags.load.adapters.empty()
          ? "base model"
          : absl::StrCat(flags.pattern, " over ", flags.load.adapters.size(), " adapters");
  return absl::StrCat(
      loop, ", ", over, ", ", flags.load.prompt_tokens, " + ", flags.load.output_tokens, " tokens",
      flags.schema.empty() ? "" : ", half of it held to a schema", ", seed ", flags.load.seed);
}

int Print(const CommandContext& context, const BenchFlags& flags, const BenchReport& report) {
  if (context.json) {
    Json json = ReportToJson(report);
    json["config"] = ConfigToJson(context, flags);
    PrintJson(json);
  } else {
    std::printf("%s\n%s", Title(flags).c_str(), ReportToText(report, stdout).c_str());
  }
  if (!flags.plot.empty()) {
    std::ofstream file(flags.plot);
    file << ReportToSvg(report, Title(flags));
    if (!file.flush()) return FailUsage(absl::StrCat("cannot write ", flags.plot));
    std::fprintf(stderr, "plot written to %s\n", flags.plot.c_str());
  }
  return report.finished + report.cut > 0 ? kExitOk : kExitFailed;
}

int Bench(const CommandContext& context, BenchFlags flags) {
  if (!flags.plot.empty() && !absl::EndsWith(flags.plot, ".svg")) {
    return FailUsage(absl::StrCat("--plot writes SVG: name it ", flags.plot, ".svg"));
  }
  if (!flags.plot.empty() && !std::ofstream(flags.plot, std::ios::app)) {
    return FailUsage(absl::StrCat("cannot write ", flags.plot));
  }
  auto pattern = ParsePattern(flags.pattern);
  if (!pattern.ok()) return FailUsage(std::string(pattern.status().message()));
  flags.load.pattern = *pattern;
  auto schema = flags.schema.empty() ? std::string() : ReadFormatFile(flags.schema);
  if (!schema.ok()) return FailUsage(std::string(schema.status().message()));
  flags.load.json_schema = *std::move(schema);
  BenchRun* running = nullptr;
  std::atomic<bool> interrupted = false;
  CommandContext once = context;
  once.retries = 0;
  absl::Mutex mutex;
  InterruptWatcher watcher([&] {
    absl::MutexLock lock(&mutex);
    interrupted = true;
    if (running != nullptr) running->Stop();
  });
  std::vector<std::unique_ptr<LoricaClient>> clients;
  clients.push_back(once.MakeClient());
  int streams_a_connection = 1;
  absl::Status status = Plan(&flags, clients.front().get(), &streams_a_connection);
  if (!status.ok()) return Fail(context, status);
  const int streams = flags.rate > 0 ? flags.in_flight_max : flags.streams;
  while (clients.size() * streams_a_connection < streams) clients.push_back(once.MakeClient());
  BenchRun run(flags, LoadPlan(flags.load), std::move(clients));
  {
    absl::MutexLock lock(&mutex);
    running = &run;
    if (interrupted) run.Stop();
  }
  const BenchReport report = run.Run();
  {
    absl::MutexLock lock(&mutex);
    running = nullptr;
  }
  return Print(context, flags, report);
}

void AddLoadFlags(CLI::App* sub, BenchFlags* flags) {
  sub->add_option("--adapters", flags->adapters, "Ids with commas (default: all of the server)");
  sub->add_option("--pattern", flags->pattern, "How requests spread over them")
      ->check(CLI::IsMember(PatternNames()))
      ->capture_default_str();
  sub->add_option("--zipf-exponent", flags->load.zipf_exponent, "Steepness of zipf")
      ->check(NumberBetween(0.0, 10.0))
      ->capture_default_str();
  sub->add_option("--prompt-tokens", flags->load.prompt_tokens, "Tokens a prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--max-tokens", flags->load.output_tokens, "Tokens an answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--json-schema", flags->schema,
                  "Every second stream's answers fit the schema in this file, and end when it "
                  "is fulfilled")
      ->type_name("FILE");
  sub->add_option("--seed", flags->load.seed, "Of prompts, adapters and arrivals")
      ->check(WholeNumber())
      ->capture_default_str();
}

}  // namespace

void AddBench(CLI::App* app, const CommandContext* context, Action* action) {
  CLI::App* sub = app->add_subcommand("bench", "Measure a server under a seeded load");
  auto flags = std::make_shared<BenchFlags>();
  CLI::Option* streams = sub->add_option("--streams", flags->streams, "Closed loop: clients")
                             ->check(CLI::Range(1, kStreamsMax))
                             ->capture_default_str();
  sub->add_option("--rate", flags->rate, "Open loop: requests a second, Poisson")
      ->check(NumberBetween(0.001, 1e5))
      ->excludes(streams);
  sub->add_option("--in-flight-max", flags->in_flight_max,
                  "Open loop: beyond it arrivals are not sent, and counted")
      ->check(CLI::Range(1, kStreamsMax))
      ->capture_default_str();
  CLI::Option* duration = sub->add_option("--duration", flags->duration_s, "How long to measure")
                              ->check(Seconds(0.1))
                              ->type_name("SECONDS")
                              ->capture_default_str();
  sub->add_option("--requests", flags->requests, "Stop after so many instead")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->excludes(duration);
  sub->add_option("--warmup", flags->warmup_s, "How long before measuring starts")
      ->check(Seconds(0.0))
      ->type_name("SECONDS")
      ->capture_default_str();
  AddLoadFlags(sub, flags.get());
  sub->add_option("--plot", flags->plot, "Write a picture to this .svg file");
  sub->footer(kExamples);
  sub->callback([=] { *action = [=] { return Bench(*context, *flags); }; });
}

}  // namespace lorica
