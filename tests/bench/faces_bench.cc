// HTTP beside gRPC: the same streams over both faces of one server, in turns.
//
//   faces_bench LORICAD MODEL [RUNS] [STREAMS] [TOKENS]
//
// Starts a server; each run opens all streams at once, over one face and then over the other.
// Prints time to first token (mean of a run's streams) and tokens a second of each run, and
// the median of the ratios. Ends with 1 where HTTP has more than 5 % more time to first token
// or 3 % less throughput.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/lorica_client.h"
#include "tests/fakes/subprocess.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/server/http/http_call.h"

namespace lorica::bench {
namespace {

constexpr char kPrompt[] =
    "The quick brown fox jumps over the lazy dog, and the dog, who had been dreaming of rabbits, "
    "looks up for a moment before";
constexpr double kFirstTokenMax = 1.05;
constexpr double kThroughputMin = 0.97;

struct Load {
  std::string grpc;
  int http_port = 0;
  int streams = 32;
  int tokens = 32;
};

struct Run {
  double first_token_ms = 0.0;
  double tokens_per_second = 0.0;
};

// Milliseconds to the first token; negative: it failed.
double OverGrpc(const Load& load, absl::Time began) {
  LoricaClient client({.server = load.grpc});
  v1::GenerateRequest request;
  request.set_prompt(kPrompt);
  request.set_max_tokens(load.tokens);
  request.set_ignore_eos(true);
  double first = -1.0;
  const absl::Status status = client.GenerateStream(request, [&](const auto& chunk) {
    if (first < 0 && chunk.token_ids_size() > 0) {
      first = absl::ToDoubleMilliseconds(absl::Now() - began);
    }
    return true;
  });
  return status.ok() ? first : -1.0;
}

double OverHttp(const Load& load, absl::Time began) {
  const nlohmann::json body = {{"model", ""},        {"prompt", kPrompt},
                               {"temperature", 0},   {"max_tokens", load.tokens},
                               {"ignore_eos", true}, {"stream", true}};
  HttpSocket socket(load.http_port);
  socket.Send(RequestBytes("POST", "/v1/completions", body.dump()));
  socket.Read(absl::Seconds(300), "data: ");
  const double first = absl::ToDoubleMilliseconds(absl::Now() - began);
  return socket.Read(absl::Seconds(300), "[DONE]").empty() ? -1.0 : first;
}

Run RunOnce(const Load& load, double (*stream)(const Load&, absl::Time)) {
  std::vector<double> firsts(load.streams);
  std::vector<std::thread> threads;
  const absl::Time began = absl::Now();
  for (double& first : firsts) {
    threads.emplace_back([&load, &first, stream, began] { first = stream(load, began); });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - began);
  Run run;
  for (const double first : firsts) {
    if (first < 0) std::exit(2);
    run.first_token_ms += first / load.streams;
  }
  run.tokens_per_second = load.streams * load.tokens / seconds;
  return run;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Compare(const Load& load, int runs) {
  std::vector<double> firsts;
  std::vector<double> rates;
  RunOnce(load, OverGrpc);
  RunOnce(load, OverHttp);
  for (int i = 0; i < runs; ++i) {
    // Who is first takes turns as well.
    const bool http_first = i % 2 == 1;
    Run http = http_first ? RunOnce(load, OverHttp) : Run();
    const Run grpc = RunOnce(load, OverGrpc);
    if (!http_first) http = RunOnce(load, OverHttp);
    firsts.push_back(http.first_token_ms / grpc.first_token_ms);
    rates.push_back(http.tokens_per_second / grpc.tokens_per_second);
    std::printf("run %2d: first token %7.1f ms gRPC %7.1f ms HTTP; %6.1f and %6.1f tok/s\n", i + 1,
                grpc.first_token_ms, http.first_token_ms, grpc.tokens_per_second,
                http.tokens_per_second);
  }
  const double first = Median(firsts);
  const double rate = Median(rates);
  std::printf(
      "HTTP / gRPC, median of %d: first token %.3f (at most %.2f), tokens %.3f (at least "
      "%.2f)\n",
      runs, first, kFirstTokenMax, rate, kThroughputMin);
  return first <= kFirstTokenMax && rate >= kThroughputMin ? 0 : 1;
}

int Main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("faces_bench LORICAD MODEL [RUNS] [STREAMS] [TOKENS]\n", stderr);
    return 2;
  }
  const auto number = [&](int index, int otherwise) {
    return argc > index ? std::atoi(argv[index]) : otherwise;
  };
  TemporaryFolder folder;
  const std::string port_file = folder.path() + "/port";
  Subprocess server({argv[1], "--model", argv[2], "--grpc-address", "127.0.0.1:0", "--http-address",
                     "127.0.0.1:0", "--port-file", port_file});
  if (!server.WaitForError("serving on port", absl::Seconds(120))) return 2;
  int grpc_port = 0;
  Load load;
  std::ifstream(port_file) >> grpc_port >> load.http_port;
  load.grpc = absl::StrCat("127.0.0.1:", grpc_port);
  load.streams = number(4, load.streams);
  load.tokens = number(5, load.tokens);
  return Compare(load, number(3, 9));
}

}  // namespace
}  // namespace lorica::bench

int main(int argc, char** argv) { return lorica::bench::Main(argc, argv); }
