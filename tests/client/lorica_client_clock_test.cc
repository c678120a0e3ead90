// Goal: a wall clock that is set while the client waits makes no wait longer or shorter.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "client/lorica_client.h"
#include "client/steady_time.h"
#include "tests/fakes/clock_shim.h"
#include "tests/fakes/fake_server.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

constexpr absl::Duration kWait = absl::Milliseconds(400);
const absl::Duration kLate = kInstrumentationFactor * absl::Seconds(4);

class LoricaClientClock : public testing::TestWithParam<absl::Duration> {
 protected:
  // While the clock is set soon after the call began. It is cancelled once it is late.
  absl::StatusOr<v1::GenerateResponse> Generate(absl::Duration timeout) {
    LoricaClient client({.server = server_.address()});
    EXPECT_TRUE(client.GetStatus().ok());
    v1::GenerateRequest request;
    request.set_prompt("x");
    std::atomic<bool> over = false;
    Cancellation cancellation;
    const absl::Time began = SteadyTime();
    std::thread setting([&] {
      absl::SleepFor(kWait / 2);
      clock_.StepTo(GetParam());
      while (!over && SteadyTime() - began < kLate) absl::SleepFor(absl::Milliseconds(5));
      clock_.StepTo(absl::ZeroDuration());
      cancellation.Cancel();
    });
    auto response = client.Generate(request, {.timeout = timeout, .cancellation = &cancellation});
    took_ = SteadyTime() - began;
    over = true;
    setting.join();
    return response;
  }

  FakeServer server_;
  fakes::SteppedClock clock_;
  absl::Duration took_;
};

TEST_P(LoricaClientClock, ACallIsRepeatedWhenTheServerAskedForIt) {
  server_.FailNext(2, RetryLaterStatus("busy", kWait));
  const auto response = Generate(absl::Minutes(1));
  EXPECT_TRUE(response.ok()) << response.status();
  EXPECT_GE(took_, 2 * kWait);
  EXPECT_LT(took_, kLate);
}

TEST_P(LoricaClientClock, ACallEndsWhenItsTimeIsUp) {
  server_.FailNext(1, RetryLaterStatus("busy", kWait));  // the next attempt knows what is left
  server_.set_answer([](const v1::GenerateRequest&, grpc::ServerContext* context,
                        v1::GenerateResponse*) {
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    return grpc::Status::OK;
  });
  const auto response = Generate(2 * kWait);
  EXPECT_TRUE(absl::IsDeadlineExceeded(response.status())) << response.status();
  EXPECT_GE(took_, 2 * kWait - absl::Milliseconds(10));
  EXPECT_LT(took_, kLate);
}

INSTANTIATE_TEST_SUITE_P(ADay, LoricaClientClock,
                         testing::Values(absl::Hours(24), -absl::Hours(24)),
                         [](const testing::TestParamInfo<absl::Duration>& info) {
                           return info.param > absl::ZeroDuration() ? "Ahead" : "Back";
                         });

}  // namespace
}  // namespace lorica
