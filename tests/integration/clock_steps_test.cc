// Goal: whatever is done to the wall clock while a server has nothing to do but wait, everything
// that is to happen after a while still happens then: a client that left or whose time is up is let
// go of, the bill is written, watches and pins are looked at, threads end, and gRPC's timers run.
//
// No caller besides, whose traffic would wake what sleeps too long. Row 108; what else of the clock
// there is to try is in hostile_lifecycle_test.cc.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "adapters/hub/steady_now.h"
#include "server/api/pin_book.h"
#include "server/grammar/grammar_constraint.h"
#include "server/http/connection_threads.h"
#include "server/usage_file.h"
#include "tests/fakes/clock_shim.h"
#include "tests/server/http/http_call.h"
#include "tests/server/remote_parts_fixture.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

const absl::Duration kSoon = kInstrumentationFactor * absl::Seconds(4);
// After so long everything sleeps, with a wait under way.
constexpr absl::Duration kAsleep = absl::Milliseconds(700);

class ClockSteps : public RemotePartsTest, public testing::WithParamInterface<absl::Duration> {
 protected:
  ClockSteps() {
    config_.http_address = "127.0.0.1:0";
    config_.http_access_log = data_.path() + "/access.jsonl";
    config_.connection_seconds = 3;
    Restart();
  }
  ~ClockSteps() override {
    clock_.StepTo(absl::ZeroDuration());
    Release();
  }
  int port() { return server_->server().http_port(); }
  void Step() {
    absl::SleepFor(kAsleep);
    clock_.StepTo(GetParam());
  }
  // How long `work` takes; a clock that is right again wakes what slept too long.
  absl::Duration Took(absl::Duration limit, const std::function<void()>& work) {
    std::atomic<bool> over = false;
    const absl::Time began = SteadyNow();
    std::thread worker([&] {
      work();
      over = true;
    });
    while (!over && SteadyNow() - began < limit) absl::SleepFor(absl::Milliseconds(5));
    const absl::Duration took = over ? SteadyNow() - began : absl::InfiniteDuration();
    clock_.StepTo(absl::ZeroDuration());
    worker.join();
    return took;
  }
  static bool Becomes(const std::function<bool()>& condition) {
    const absl::Time end = SteadyNow() + kSoon;
    while (!condition() && SteadyNow() < end) absl::SleepFor(absl::Milliseconds(20));
    return condition();
  }
  // A repository whose files do not come before Release.
  std::string SlowRepo() {
    hub_.AddFault({.target_part = "/blobs/", .before = [this] { go_on_.WaitForNotification(); }});
    return NewRepo();
  }
  void Release() {
    if (!go_on_.HasBeenNotified()) go_on_.Notify();
  }
  // What a POST answers that waits for a slow repository: the clock is stepped meanwhile, and the
  // repository's files come a while after that. Also tells how long it took.
  HttpAnswer PostThatWaits(const std::string& path, const Json& body, absl::Duration* took) {
    HttpAnswer answer;
    std::thread stepping([this] {
      Step();
      absl::SleepFor(kAsleep);
      Release();
    });
    *took = Took(2 * kSoon, [&] { answer = Post(port(), path, body); });
    stepping.join();
    EXPECT_GE(*took, 2 * kAsleep);
    EXPECT_LT(*took, kSoon);
    return answer;
  }
  grpc::Status Pin(const std::string& id) {
    v1::PinAdapterRequest request;
    request.set_adapter_id(id);
    Context context;
    v1::PinAdapterResponse response;
    return server_->admin().PinAdapter(&context, request, &response);
  }

  absl::Notification go_on_;
  fakes::SteppedClock clock_;
};

TEST_P(ClockSteps, AStreamOverHttpWhoseClientLeftIsLetGoOf) {
  const Json body = {{"model", SlowRepo()}, {"prompt", "hi"}, {"max_tokens", 2}, {"stream", true}};
  HttpSocket client(port());
  client.Send(RequestBytes("POST", "/v1/completions", body.dump()));
  server_->WaitFor([](const v1::GetStatusResponse& status) { return status.waiting() == 1; });
  Step();
  client.Close();
  EXPECT_TRUE(Becomes([this] { return server_->Status().waiting() == 0; }));
}

TEST_P(ClockSteps, ACallWhoseTimeIsUpEnds) {
  v1::GenerateRequest request = TokensRequest(2);
  request.set_adapter_id(SlowRepo());
  grpc::ClientContext context;
  context.set_deadline(gpr_time_from_millis(absl::ToInt64Milliseconds(2 * kAsleep), GPR_TIMESPAN));
  grpc::Status status;
  std::thread stepping([this] { Step(); });
  const absl::Duration took = Took(2 * kSoon, [&] {
    v1::GenerateResponse response;
    status = server_->inference().Generate(&context, request, &response);
  });
  stepping.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
  EXPECT_GE(took, 2 * kAsleep);
  EXPECT_LT(took, kSoon);
  EXPECT_TRUE(Becomes([this] { return server_->Status().waiting() == 0; }));
}

TEST_P(ClockSteps, ALoadOverHttpIsWaitedFor) {
  absl::Duration took;
  const HttpAnswer answer = PostThatWaits(
      "/v1/load_lora_adapter", {{"lora_name", "mine"}, {"lora_path", SlowRepo()}}, &took);
  EXPECT_EQ(answer.status, 200) << answer.body;
  std::string line;
  EXPECT_TRUE(Becomes([this, &line] {
    std::ifstream log(config_.http_access_log);
    return static_cast<bool>(std::getline(log, line));
  }));
  const double logged_ms = Json::parse(line, nullptr, false).value("ms", -1.0);
  EXPECT_GT(logged_ms, absl::ToDoubleMilliseconds(kAsleep));
  EXPECT_LE(logged_ms, absl::ToDoubleMilliseconds(took));
}

TEST_P(ClockSteps, AnOperatorsCallOverHttpIsWaitedFor) {
  absl::Duration took;
  const HttpAnswer answer =
      PostThatWaits("/lorica.v1.AdapterService/RegisterAdapter",
                    {{"adapter_id", "mine"}, {"source", SlowRepo()}}, &took);
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.json()["adapter"].value("adapter_id", ""), "mine") << answer.body;
}

TEST_P(ClockSteps, AThreadOfConnectionsEndsWhenNothingHasComeForAWhile) {
  const absl::Duration kIdleTime = 3 * kAsleep;
  ConnectionThreads threads(1, "full", kIdleTime);
  const absl::Time began = SteadyNow();
  ASSERT_TRUE(threads.TryRun([] {}));
  Step();
  const absl::Duration took = Took(2 * kSoon, [&] {
    while (threads.threads() > 0 && clock_.offset() == GetParam()) {
      absl::SleepFor(absl::Milliseconds(5));
    }
  });
  EXPECT_LT(took, kSoon);
  EXPECT_GE(SteadyNow() - began, kIdleTime);
}

TEST_P(ClockSteps, AMaskIsWaitedForAsLongAsThereIsPatience) {
  const auto explain = [](const absl::Status& status) { return status; };
  GrammarConstraint constraint(
      std::make_shared<MaskThreads>(1), "somebody", /*mask_words=*/1,
      /*mask_cpu=*/absl::Seconds(1), [] {}, explain);
  std::thread stepping([this] { Step(); });
  absl::StatusOr<bool> taken = absl::UnknownError("not yet");
  const absl::Duration took = Took(2 * kSoon, [&] {
    int32_t mask = 0;
    taken = constraint.TakeMask(2 * kAsleep, absl::MakeSpan(&mask, 1));
  });
  stepping.join();
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_FALSE(*taken) << "its grammar never came";
  EXPECT_GE(took, 2 * kAsleep);
  EXPECT_LT(took, kSoon);
}

TEST_P(ClockSteps, AWatchGoesOn) {
  v1::WatchAdaptersRequest request;
  request.set_interval_ms(400);
  grpc::ClientContext context;
  auto reader = server_->admin().WatchAdapters(&context, request);
  v1::WatchAdaptersResponse event;
  ASSERT_TRUE(reader->Read(&event));
  Step();
  server_->WriteAdapter("fresh", 4, false);
  bool read = false;
  EXPECT_LT(Took(kSoon, [&] { read = reader->Read(&event); }), kSoon);
  ASSERT_TRUE(read);
  ASSERT_EQ(event.adapters_size(), 1);
  EXPECT_EQ(event.adapters(0).adapter_id(), "fresh");
  context.TryCancel();
  reader->Finish();
}

TEST_P(ClockSteps, APinIsLookedAt) {
  ASSERT_TRUE(Register("app", "plain").ok());
  ASSERT_TRUE(Pin("app").ok());
  absl::SleepFor(kPinLookInterval);
  Step();
  ASSERT_TRUE(Delete("app").ok());
  EXPECT_TRUE(Becomes([this] {
    return HttpCall(port(), "GET", "/metrics")
               .body.find("lorica_tier_pinned_bytes{tier=\"device\"} 0\n") != std::string::npos;
  }));
}

TEST_P(ClockSteps, AConnectionsTimeIsUp) {
  const auto channel = ChannelWithKey(server_->server().port(), "");
  ASSERT_TRUE(channel->WaitForConnected(gpr_time_from_seconds(20, GPR_TIMESPAN)));
  Step();
  const absl::Duration limit = absl::Seconds(config_.connection_seconds) + kSoon;
  const absl::Duration took = Took(limit, [&] {
    while (channel->GetState(/*try_to_connect=*/false) == GRPC_CHANNEL_READY &&
           clock_.offset() == GetParam()) {
      absl::SleepFor(absl::Milliseconds(20));
    }
  });
  EXPECT_LT(took, limit);
  EXPECT_GT(took, absl::Seconds(config_.connection_seconds) / 2);
}

TEST_P(ClockSteps, TheServerIsAsOldAsItIs) {
  Step();
  const double seconds = server_->Status().uptime_seconds();
  EXPECT_GE(seconds, absl::ToDoubleSeconds(kAsleep));
  EXPECT_LT(seconds, 60);
}

TEST_P(ClockSteps, TheBillIsWritten) {
  const std::string path = data_.path() + "/bill.json";
  const auto accounts = std::make_shared<Accounts>(absl::Now);
  const auto file = UsageFile::Open(path, accounts.get(), 2 * kAsleep);
  ASSERT_TRUE(file.ok()) << file.status();
  {
    auto charge = *accounts->Enter(std::make_shared<const Tenant>(Tenant{.name = "somebody"}));
    charge->SetGeneration("abc");
    charge->Bill({.requests = 1, .prompt_tokens = 2, .completion_tokens = 3});
  }
  Step();
  EXPECT_TRUE(Becomes([&path] { return std::filesystem::exists(path); }));
  clock_.StepTo(absl::ZeroDuration());  // the thread that writes is waited for
}

// Here they are because tests link them; a program without them would say nothing.
TEST(SteadyWaits, AreInTheProgramsToo) {
  for (const char* program : {LORICAD_PATH, LORICA_BINARY}) {
    std::ifstream file(program, std::ios::binary);
    std::ostringstream bytes;
    bytes << file.rdbuf();
    EXPECT_NE(bytes.view().find("AbslInternalPerThreadSemWait"), std::string::npos) << program;
  }
}

INSTANTIATE_TEST_SUITE_P(ADay, ClockSteps, testing::Values(absl::Hours(24), -absl::Hours(24)),
                         [](const testing::TestParamInfo<absl::Duration>& info) {
                           return info.param > absl::ZeroDuration() ? "Ahead" : "Back";
                         });

}  // namespace
}  // namespace lorica
