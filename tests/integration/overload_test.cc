// Goal: ten times more calls than the server can serve cost the ones it serves little: at least
// 80 % of the tokens that it makes when it is just full, memory that stays where it was, and within
// ten seconds of the last of them a call that comes alone is served as fast as before.
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
#include "grpcpp/completion_queue.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/async_unary_call.h"
#include "lorica/v1/inference.grpc.pb.h"
#include "tests/fakes/test_paths.h"
#include "tests/integration/server_process.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

constexpr int kRunning = 8;
constexpr int kQueue = 16 / kInstrumentationFactor;  // slow servers see fewer calls, too
constexpr int kPeakCallers = kRunning + kQueue / 2;  // some wait: it is full while others ask anew
constexpr int kAnswerTokens = 12;
constexpr int kChannels = 4;
constexpr int kCallersNiceness = 10;
constexpr double kOverload = 10.0;
const absl::Duration kCallDeadline = kInstrumentationFactor * absl::Seconds(20);
const absl::Duration kPeakTime = kInstrumentationFactor * absl::Seconds(4);
// Peak and overload in turns: what else the machine does in one of them is not the overload's cost.
constexpr int kBursts = 3;
constexpr int kPeakShare = 15;  // a long burst is compared with a peak of so many times less time
const absl::Duration kRecoveryMax = kInstrumentationFactor * absl::Seconds(10);
const absl::Duration kRecoveryPause = absl::Milliseconds(20);  // between calls that are too early
constexpr double kLoneLatencyFactorMax = 2.0;                  // of what it took before
constexpr int kLoneCalls = 5;
constexpr double kRefusedShareMin = 5.0;  // of those served; at ten times the calls nine are
constexpr double kOfferedTimeFactorMax = 1.1;
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
  struct Asked {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    v1::GenerateResponse response;
    grpc::Status status;
    std::unique_ptr<grpc::ClientAsyncResponseReader<v1::GenerateResponse>> reader;
  };
  static std::unique_ptr<Asked> Ask(int number) {
    static const char* const kAdapters[] = {"", "intent", "headline", "text-to-sql"};
    auto asked = std::make_unique<Asked>();
    asked->request.set_prompt("The city council voted on Tuesday");
    asked->request.set_adapter_id(kAdapters[number % 4]);
    asked->request.set_max_tokens(kAnswerTokens);
    asked->request.set_ignore_eos(true);
    asked->context.set_deadline(absl::ToChronoTime(absl::Now() + kCallDeadline));
    return asked;
  }
  static void Count(const Asked& asked, Tally* tally) {
    if (asked.status.ok()) {
      ++tally->served;
      tally->tokens += asked.response.usage().completion_tokens();
    } else if (asked.status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      ++tally->refused;
    } else if (asked.status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
      ++tally->late;
    } else {
      ++tally->other;
    }
  }
  void Call(int number, Tally* tally) {
    const auto asked = Ask(number);
    asked->status =
        stubs_[number % kChannels]->Generate(&asked->context, asked->request, &asked->response);
    Count(*asked, tally);
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
  struct Offered {
    absl::Duration time;      // until the last call was made
    absl::Duration answered;  // until all had ended
    absl::Duration recovery;  // from the last call until a lone one took at most `lone_max`
  };
  // Calls come at their rate whatever becomes of those before. Behind the last of them, while
  // what was taken is still served, one caller tries again and again. One thread makes all calls:
  // a thread for each takes as much of the processor as the server takes to refuse one.
  Offered OpenLoop(double calls_per_second, absl::Duration time, absl::Duration lone_max,
                   Tally* tally) {
    const absl::Time begun = absl::Now();
    const auto count = static_cast<int>(calls_per_second * absl::ToDoubleSeconds(time));
    const auto due = [&](int number) { return begun + absl::Seconds(number / calls_per_second); };
    grpc::CompletionQueue answers;
    Offered offered;
    std::thread lone;
    int made = 0;
    for (int open = 0; made < count || open > 0;) {
      for (; made < count && due(made) <= absl::Now(); ++open) Begin(made++, &answers);
      if (made == count && !lone.joinable()) {
        offered.time = absl::Now() - begun;
        lone = std::thread([&] { offered.recovery = TimeToRecover(lone_max); });
      }
      const absl::Time until = made < count ? due(made) : absl::InfiniteFuture();
      void* tag = nullptr;
      bool is_ok = false;
      if (answers.AsyncNext(&tag, &is_ok, absl::ToChronoTime(until)) !=
          grpc::CompletionQueue::GOT_EVENT) {
        continue;
      }
      const std::unique_ptr<Asked> ended(static_cast<Asked*>(tag));
      Count(*ended, tally);
      --open;
    }
    offered.answered = absl::Now() - begun;
    if (lone.joinable()) lone.join();
    return offered;
  }
  void Begin(int number, grpc::CompletionQueue* answers) {
    Asked* const asked = Ask(number).release();  // comes back as its tag
    asked->reader =
        stubs_[number % kChannels]->AsyncGenerate(&asked->context, asked->request, answers);
    asked->reader->Finish(&asked->response, &asked->status, asked);
  }
  absl::Duration TimeToRecover(absl::Duration lone_max) {
    const absl::Time begun = absl::Now();
    while (absl::Now() - begun < kRecoveryMax && LoneLatency() > lone_max) {
      absl::SleepFor(kRecoveryPause);
    }
    return absl::Now() - begun;
  }
  // Endless when it was refused.
  absl::Duration LoneLatency() {
    Tally tally;
    const absl::Time begun = absl::Now();
    Call(0, &tally);
    return tally.served == 1 ? absl::Now() - begun : absl::InfiniteDuration();
  }

  struct Burst {
    double goodput_share = 0.0;  // of the tokens of a server that is just full
    double refused_share = 0.0;  // refused ones for each that was served
  };
  Burst MeasureBurst(absl::Duration time);

  std::unique_ptr<ServerProcess> server_;
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs_;
};

TEST_F(Overload, TenTimesTheCallsCostFewOfTheTokens) {
  Tally warm;
  CloseLoop(kPeakCallers, absl::Seconds(2), &warm);
  std::vector<double> goodput, refused;
  for (int i = 0; i < g_bursts; ++i) {
    const Burst burst = MeasureBurst(absl::Seconds(g_overload_seconds) / g_bursts);
    goodput.push_back(burst.goodput_share);
    refused.push_back(burst.refused_share);
  }
  std::sort(goodput.begin(), goodput.end());
  std::sort(refused.begin(), refused.end());
  EXPECT_GE(goodput[g_bursts / 2], kGoodputShareMin);
  EXPECT_GE(refused[g_bursts / 2], kRefusedShareMin) << "it was not ten times as much";
}

Overload::Burst Overload::MeasureBurst(absl::Duration time) {
  Tally peak;
  const absl::Time peak_begun = absl::Now();
  CloseLoop(kPeakCallers, std::max(kPeakTime, time / kPeakShare), &peak);
  const double peak_seconds = absl::ToDoubleSeconds(absl::Now() - peak_begun);
  const double peak_rate = static_cast<double>(peak.tokens) / peak_seconds;
  EXPECT_GT(peak.served, 0);
  const double calls_per_second = kOverload * static_cast<double>(peak.served) / peak_seconds;

  std::vector<absl::Duration> lone;
  for (int i = 0; i < kLoneCalls; ++i) lone.push_back(LoneLatency());
  std::sort(lone.begin(), lone.end());
  const absl::Duration lone_before = lone[kLoneCalls / 2];
  EXPECT_LT(lone_before, absl::InfiniteDuration()) << "refused by a server with nothing to do";
  const absl::Duration lone_max = kLoneLatencyFactorMax * lone_before;

  Tally settle;
  OpenLoop(calls_per_second, absl::Seconds(2), lone_max, &settle);
  const int64_t bytes_before = server_->ResidentBytes();
  Tally over;
  const Offered offered = OpenLoop(calls_per_second, time, lone_max, &over);
  const double over_rate =
      static_cast<double>(over.tokens) / absl::ToDoubleSeconds(offered.answered);
  const int64_t growth = server_->ResidentBytes() - bytes_before;
  std::printf(
      "peak %.1f tok/s; at %.1f calls/s for %.2f s %.1f tok/s (%.0f %%): %ld served, %ld refused, "
      "%ld late, %ld other; memory %+.1f MiB; %.2f s behind the last call a lone one took %.0f ms "
      "at most, %.0f before\n",
      peak_rate, calls_per_second, absl::ToDoubleSeconds(offered.time), over_rate,
      100 * over_rate / peak_rate, over.served.load(), over.refused.load(), over.late.load(),
      over.other.load(), static_cast<double>(growth) / (1 << 20),
      absl::ToDoubleSeconds(offered.recovery), absl::ToDoubleMilliseconds(lone_max),
      absl::ToDoubleMilliseconds(lone_before));
  EXPECT_GT(over.refused, over.served) << "it was none";
  EXPECT_LE(offered.time, kOfferedTimeFactorMax * time) << "calls came late";
  EXPECT_EQ(over.other, 0);
  EXPECT_LT(growth, kGrowthBytesMax);
  EXPECT_LT(offered.recovery, kRecoveryMax);
  return {over_rate / peak_rate,
          static_cast<double>(over.refused) / static_cast<double>(over.served)};
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
