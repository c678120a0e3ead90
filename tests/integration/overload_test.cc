// Goal: ten times more calls than the server can serve cost the ones it serves little: at least
// 80 % of the tokens that it makes when it is just full, memory that stays where it was, and ten
// seconds later a call that comes alone is served as ever.
//
//   overload_test                                       three bursts of some seconds
//   overload_test --overload-seconds=N                  more
//   overload_test --overload-seconds=N --one-burst      N seconds on end
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "lorica/v1/inference.grpc.pb.h"
#include "tests/fakes/test_paths.h"
#include "tests/integration/server_process.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

constexpr int kRunning = 8;
constexpr int kQueue = 16 / kInstrumentationFactor;  // slow servers see fewer calls, too
constexpr int kAnswerTokens = 12;
constexpr int kChannels = 4;
constexpr int kCallers = 160;
constexpr int kCallersNiceness = 10;
constexpr double kOverload = 10.0;
const absl::Duration kCallDeadline = kInstrumentationFactor * absl::Seconds(20);
const absl::Duration kPeakTime = kInstrumentationFactor * absl::Seconds(4);
// Peak and overload in turns: what else the machine does in one of them is not the overload's cost.
constexpr int kBursts = 3;
constexpr int kPeakShare = 15;  // a long burst is compared with a peak of so many times less time
const absl::Duration kRecoveryMax = kInstrumentationFactor * absl::Seconds(10);
constexpr double kGoodputShareMin = 0.8;
constexpr int64_t kGrowthBytesMax = kInstrumentationFactor * (32 << 20);

int g_overload_seconds = kInstrumentationFactor * 12;
int g_bursts = kBursts;

struct Tally {
  std::atomic<int64_t> tokens = 0;  // of answers that were complete
  std::atomic<int64_t> served = 0;
  std::atomic<int64_t> refused = 0;  // as UNAVAILABLE
  std::atomic<int64_t> late = 0;
  std::atomic<int64_t> other = 0;
};

class Overload : public ::testing::Test {
 protected:
  void SetUp() override {
    ServerProcess::Options options;
    options.model = SmolLmPath();
    options.adapters_dir = DemoAdaptersPath();
    options.flags = {"--running-requests", std::to_string(kRunning), "--queue-requests",
                     std::to_string(kQueue)};
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    // Callers have machines of their own; here they share the server's, and are not to be measured.
    ASSERT_EQ(::setpriority(PRIO_PROCESS, 0, kCallersNiceness), 0);
    for (int i = 0; i < kChannels; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      stubs_.push_back(v1::InferenceService::NewStub(grpc::CreateCustomChannel(
          server_->address(), grpc::InsecureChannelCredentials(), arguments)));
    }
  }
  void Call(int number, Tally* tally) {
    static const char* const kAdapters[] = {"", "intent", "headline", "text-to-sql"};
    v1::GenerateRequest request;
    request.set_prompt("The city council voted on Tuesday");
    request.set_adapter_id(kAdapters[number % 4]);
    request.set_max_tokens(kAnswerTokens);
    request.set_ignore_eos(true);
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kCallDeadline));
    v1::GenerateResponse response;
    const grpc::Status status = stubs_[number % kChannels]->Generate(&context, request, &response);
    if (status.ok()) {
      ++tally->served;
      tally->tokens += response.usage().completion_tokens();
    } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      ++tally->refused;
    } else if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
      ++tally->late;
    } else {
      ++tally->other;
    }
  }
  // `callers` of them, one call after the other each.
  void CloseLoop(int callers, absl::Duration time, Tally* tally) {
    const absl::Time end = absl::Now() + time;
    std::atomic<int> next = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < callers; ++i) {
      threads.emplace_back([&] {
        while (absl::Now() < end) Call(next++, tally);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  // Calls come at their rate whatever becomes of those before.
  void OpenLoop(double calls_per_second, absl::Duration time, Tally* tally) {
    const absl::Time begun = absl::Now();
    const auto count = static_cast<int>(calls_per_second * absl::ToDoubleSeconds(time));
    std::atomic<int> next = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < kCallers; ++i) {
      threads.emplace_back([&] {
        for (int number = next++; number < count; number = next++) {
          absl::SleepFor(begun + absl::Seconds(number / calls_per_second) - absl::Now());
          Call(number, tally);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  // Of the tokens of a server that is just full.
  double ShareUnderOverload(absl::Duration time);

  std::unique_ptr<ServerProcess> server_;
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs_;
};

TEST_F(Overload, TenTimesTheCallsCostFewOfTheTokens) {
  Tally warm;
  CloseLoop(kRunning, absl::Seconds(2), &warm);
  std::vector<double> shares;
  for (int burst = 0; burst < g_bursts; ++burst) {
    shares.push_back(ShareUnderOverload(absl::Seconds(g_overload_seconds) / g_bursts));
  }
  std::sort(shares.begin(), shares.end());
  EXPECT_GE(shares[g_bursts / 2], kGoodputShareMin);
}

double Overload::ShareUnderOverload(absl::Duration time) {
  Tally peak;
  const absl::Time peak_begun = absl::Now();
  CloseLoop(kRunning, std::max(kPeakTime, time / kPeakShare), &peak);
  const double peak_seconds = absl::ToDoubleSeconds(absl::Now() - peak_begun);
  const double peak_rate = static_cast<double>(peak.tokens) / peak_seconds;
  EXPECT_GT(peak.served, 0);
  const double calls_per_second = kOverload * static_cast<double>(peak.served) / peak_seconds;

  Tally settle;
  OpenLoop(calls_per_second, absl::Seconds(2), &settle);
  const int64_t bytes_before = server_->ResidentBytes();
  Tally over;
  const absl::Time over_begun = absl::Now();
  OpenLoop(calls_per_second, time, &over);
  const double over_rate =
      static_cast<double>(over.tokens) / absl::ToDoubleSeconds(absl::Now() - over_begun);
  const int64_t growth = server_->ResidentBytes() - bytes_before;

  const absl::Time ended = absl::Now();
  Tally after;
  while (after.served == 0 && absl::Now() - ended < kRecoveryMax) Call(0, &after);
  const double recovery_seconds = absl::ToDoubleSeconds(absl::Now() - ended);
  std::printf(
      "peak %.1f tok/s; at %.1f calls/s %.1f tok/s (%.0f %%): %ld served, %ld refused, %ld late, "
      "%ld other; memory %+.1f MiB; recovered in %.2f s\n",
      peak_rate, calls_per_second, over_rate, 100 * over_rate / peak_rate, over.served.load(),
      over.refused.load(), over.late.load(), over.other.load(),
      static_cast<double>(growth) / (1 << 20), recovery_seconds);
  EXPECT_GT(over.refused, over.served) << "it was none";
  EXPECT_EQ(over.other, 0);
  EXPECT_LT(growth, kGrowthBytesMax);
  EXPECT_EQ(after.served, 1);
  EXPECT_LT(recovery_seconds, absl::ToDoubleSeconds(kRecoveryMax));
  return over_rate / peak_rate;
}

}  // namespace
}  // namespace lorica

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (absl::StartsWith(argument, "--overload-seconds=")) {
      lorica::g_overload_seconds = std::atoi(argument.c_str() + argument.find('=') + 1);
    }
    if (argument == "--one-burst") lorica::g_bursts = 1;
  }
  return RUN_ALL_TESTS();
}
