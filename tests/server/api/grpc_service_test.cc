// Goal: who is gone is let go though his connection says nothing of it; and a service that cannot
// start says why and leaves nothing behind. Over a gateway whose engine takes no step but those of
// a test.
#include "server/api/grpc_service.h"

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "adapters/hub/steady_now.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/fake_loader.h"
#include "tests/fakes/no_descriptors.h"
#include "tests/fakes/raw_http2.h"
#include "tests/fakes/thread_shim.h"
#include "tests/server/api/fake_tokenizer.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kBlocks = 64;
constexpr int kAll = 1000;                                // threads
constexpr absl::Duration kTick = absl::Milliseconds(10);  // of the library's clock, at most

class GrpcServiceTest : public ::testing::Test {
 protected:
  using Service = absl::StatusOr<std::unique_ptr<GrpcService>>;

  GrpcServiceTest() {
    options_.address = "127.0.0.1:0";
    limits_.context_tokens = 400;
    limits_.vocabulary = tokenizer_.size();
    limits_.end_tokens = {FakeTokenizer::kEnd};
    limits_.base_name = "base";
    gateway_ =
        std::make_unique<Gateway>(limits_, &engine_, &catalog_, &pool_, &tokenizer_, nullptr);
  }
  Service Start() { return GrpcService::Start(options_, {}, gateway_.get()); }
  std::string Refusal(const Service& service) const {
    EXPECT_TRUE(absl::IsUnavailable(service.status())) << service.status();
    return std::string(service.status().message());
  }

  GrpcOptions options_;
  TemporaryFolder folder_;
  fakes::FakeMemory memory_{kBlocks};
  fakes::FakeBackend backend_{&memory_};
  fakes::FakeExecutor executor_{&memory_, 0, 259};
  BlockArena arena_{kBlocks};
  KvCache cache_{nullptr, fakes::kFakeBlockBytes, {}};
  PeftLoader loader_{{}, &backend_, fakes::kFakeBlockBytes};
  AdapterCatalog catalog_{*MakeLocalSource(folder_.path()), &loader_, "base"};
  fakes::HeldExecutor loads_;
  AdapterPool pool_{{}, &loader_, &loads_, &backend_, cache_, &arena_};
  Engine engine_{{}, &executor_, &pool_, &arena_};
  FakeTokenizer tokenizer_;
  GatewayLimits limits_;
  std::unique_ptr<Gateway> gateway_;
};

// Row 34: with a call of his and without, and beside one who answers.
TEST_F(GrpcServiceTest, WhoNeitherReadsNorAnswersIsLetGo) {
  options_.keepalive_time = absl::Milliseconds(400);
  options_.keepalive_timeout = absl::Milliseconds(300);
  const Service service = Start();
  ASSERT_TRUE(service.ok()) << service.status();
  Context context;
  const auto health = grpc::health::v1::Health::NewStub(ChannelWithKey((*service)->port(), ""));
  const auto watch = health->Watch(&context, {});
  grpc::health::v1::HealthCheckResponse state;
  ASSERT_TRUE(watch->Read(&state));
  const absl::Time began = SteadyNow();
  RawConnection idle((*service)->port());
  RawConnection watching((*service)->port());
  idle.Send(Preface() + Frame(FrameType::kSettings, 1, 0, ""));
  watching.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
                CallHeaders(1, "/grpc.health.v1.Health/Watch") + MessageData(1, ""));
  for (RawConnection* gone : {&idle, &watching}) {
    EXPECT_TRUE(gone->EndsUnreadWithin(kInstrumentationFactor * absl::Seconds(3)));
    EXPECT_GE(SteadyNow() - began + kTick, options_.keepalive_time + options_.keepalive_timeout);
  }
  (*service)->SetState(ServingState::kServing);
  EXPECT_TRUE(watch->Read(&state)) << "who answers stays";
  EXPECT_EQ(state.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  context.TryCancel();
}

// Of each the first 64 KiB are free, and a call holds its message until it ends.
TEST_F(GrpcServiceTest, MessagesOfOpenCallsHaveABoundTogether) {
  constexpr int64_t kRoom = 1000;
  options_.messages_bytes = kRoom;
  const Service service = Start();
  ASSERT_TRUE(service.ok()) << service.status();
  const auto channel = ChannelWithKey((*service)->port(), "");
  const auto code = [&](int64_t bytes, Context* context, int tokens) {
    v1::GenerateRequest request = TokensRequest(tokens);
    auto* const padding = request.GetReflection()->MutableUnknownFields(&request);
    const int64_t head = TokensRequest(tokens).ByteSizeLong() + 5;  // of field 100: tag, length
    padding->AddLengthDelimited(100, std::string(bytes - head, 'x'));
    EXPECT_EQ(static_cast<int64_t>(request.ByteSizeLong()), bytes);
    v1::GenerateResponse response;
    return v1::InferenceService::NewStub(channel)
        ->Generate(context, request, &response)
        .error_code();
  };
  const auto refused = [&](int64_t bytes) {  // also where there is room, for its tokens
    Context context;
    return code(bytes, &context, -1);
  };
  EXPECT_EQ(refused(kSmallBodyBytes + kRoom + 1), grpc::StatusCode::UNAVAILABLE);
  Context open;
  std::atomic<bool> ended = false;
  std::thread first([&] {
    EXPECT_EQ(code(kSmallBodyBytes + kRoom, &open, 4), grpc::StatusCode::CANCELLED);
    ended = true;
  });
  const absl::Time end = SteadyNow() + kInstrumentationFactor * absl::Seconds(10);
  while (gateway_->open_answers() == 0 && SteadyNow() < end) absl::SleepFor(kTick);
  EXPECT_EQ(refused(kSmallBodyBytes), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refused(kSmallBodyBytes + 1), grpc::StatusCode::UNAVAILABLE);
  open.TryCancel();
  while (gateway_->open_answers() > 0 || !ended) {
    engine_.Step(SteadyNow());
    absl::SleepFor(kTick);
  }
  first.join();
  grpc::StatusCode last = grpc::StatusCode::UNAVAILABLE;  // until the call is gone, too
  while (last == grpc::StatusCode::UNAVAILABLE && SteadyNow() < end) {
    last = refused(kSmallBodyBytes + kRoom);
  }
  EXPECT_EQ(last, grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GrpcServiceTest, APortThatIsTakenIsToldWithItsFlag) {
  const Service first = Start();
  ASSERT_TRUE(first.ok()) << first.status();
  options_.address = absl::StrCat("127.0.0.1:", (*first)->port());
  EXPECT_THAT(Refusal(Start()), HasSubstr("choose another with --grpc-address"));
}

TEST_F(GrpcServiceTest, WithoutADescriptorForItsPortItDoesNotStart) {
  for (const int left : {0, 1}) {
    const NoDescriptors none(left);
    EXPECT_NE(Refusal(Start()), "");
  }
  EXPECT_TRUE(Start().ok()) << "afterwards";
}

#ifndef __SANITIZE_THREAD__
TEST_F(GrpcServiceTest, WithoutAThreadForItsPortOrItsEndItDoesNotStart) {
  int needed = 0;
  {
    const fakes::FewThreads all(kAll);
    EXPECT_TRUE(Start().ok());
    needed = all.begun();
  }
  for (const int missing : {1, 2}) {
    const fakes::FewThreads few(needed - missing);
    EXPECT_THAT(Refusal(Start()), HasSubstr("the process may have no thread more"));
    EXPECT_EQ(few.begun(), needed - missing);
  }
  EXPECT_TRUE(Start().ok()) << "afterwards";
}
#endif

}  // namespace
}  // namespace lorica
