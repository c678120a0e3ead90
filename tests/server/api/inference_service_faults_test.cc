// Calls over gRPC that fail once they run, or before they are whole: whose fault it is, and what
// the log says of it.
#include <atomic>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "server/api/field_error.h"
#include "server/api/refusal_log.h"
#include "server/api/status_map.h"
#include "tests/server/api/log_lines.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Until one more refusal is logged than `before`; for so long at most.
bool AwaitRefusalLogged(int64_t before, absl::Duration patience = absl::Seconds(5)) {
  const absl::Time end = absl::Now() + patience;
  while (RefusalsLogged() == before && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
  return RefusalsLogged() > before;
}

// Starts a call without its message. How it ends when `then` has been done.
grpc::Status CallWithoutMessage(const TinyServer& server, const std::string& method,
                                const std::function<void(grpc::ClientContext&)>& then) {
  grpc::GenericStub stub(server.channel());
  grpc::CompletionQueue queue;
  const auto await = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
  };
  Context context;
  const auto call = stub.PrepareCall(&context, "/lorica.v1.InferenceService/" + method, &queue);
  call->StartCall(nullptr);
  await();
  grpc::Status status;
  call->Finish(&status, nullptr);
  then(context);
  await();
  return status;
}

void CancelBeforeMessage(const TinyServer& server, absl::Duration after) {
  const grpc::Status status = CallWithoutMessage(server, "Generate", [&](auto& context) {
    absl::SleepFor(after);
    context.TryCancel();
  });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
}

class FailedCalls : public ::testing::Test {
 protected:
  absl::Status Generate(const v1::GenerateRequest& request) {
    Context context;
    v1::GenerateResponse response;
    return FromGrpcStatus(server_.inference().Generate(&context, request, &response));
  }
  absl::Status Stream(const v1::GenerateRequest& request) {
    Context context;
    auto reader = server_.inference().GenerateStream(&context, request);
    v1::GenerateStreamResponse chunk;
    while (reader->Read(&chunk)) {
    }
    return FromGrpcStatus(reader->Finish());
  }
  // A regex that only "a" fits, with that token banned, under an adapter.
  v1::GenerateRequest BansAll() {
    Context context;
    v1::TokenizeRequest tokenize;
    tokenize.set_prompt("a");
    v1::TokenizeResponse tokens;
    EXPECT_TRUE(server_.inference().Tokenize(&context, tokenize, &tokens).ok());
    v1::GenerateRequest request = TokensRequest(4);
    request.set_ignore_eos(false);
    request.set_adapter_id("plain");
    request.mutable_response_format()->set_regex("a");
    auto* ban = request.add_logit_bias();
    ban->set_token_id(tokens.token_ids(tokens.token_ids_size() - 1));
    ban->set_bias(-100.0f);
    return request;
  }

  TinyServer server_;
};

TEST_F(FailedCalls, BansThatLeaveNoTokenAreTheCallersFault) {
  const absl::Status status = Generate(BansAll());
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(FieldOf(status), "logit_bias");
  EXPECT_THAT(std::string(status.message()), HasSubstr("that response_format leaves"));
  EXPECT_EQ(server_.Status().counters().requests_failed(), 0);
  v1::GenerateRequest good = TokensRequest(4);
  good.set_adapter_id("plain");
  EXPECT_TRUE(Generate(good).ok());
}

TEST_F(FailedCalls, WeightsThatOverflowAreTheAdaptersFaultAndNobodyElses) {
  server_.WriteHugeAdapter("huge");
  v1::GenerateRequest request = TokensRequest(4);
  request.set_adapter_id("huge");
  const absl::Status status = Generate(request);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              StartsWith("adapter 'huge': the output for this request is not finite"));
  EXPECT_TRUE(Generate(TokensRequest(4)).ok());
  v1::GenerateRequest mixed = TokensRequest(4);
  for (const char* id : {"plain", "huge"}) mixed.add_adapters()->set_adapter_id(id);
  const absl::Status of_mix = Generate(mixed);
  EXPECT_TRUE(absl::IsDataLoss(of_mix)) << of_mix;
  EXPECT_THAT(std::string(of_mix.message()), StartsWith("one of the adapters 'plain', 'huge': "));
}

// One each, with the method that was called, also where the call had been let in.
TEST_F(FailedCalls, HaveOneLineWithTheirMethodInTheLog) {
  server_.WriteHugeAdapter("huge");
  v1::GenerateRequest huge = TokensRequest(2), broken = huge, no_regex = huge;
  huge.set_adapter_id("huge");
  broken.set_adapter_id("broken");
  no_regex.set_ignore_eos(false);
  no_regex.mutable_response_format()->set_regex("(");
  v1::GenerateRequest mix = huge;
  mix.clear_adapter_id();
  for (const char* id : {"plain", "huge"}) mix.add_adapters()->set_adapter_id(id);
  absl::SleepFor(absl::Seconds(1));  // other tests have used up their lines
  for (const auto& [request, event, rest] :
       std::vector<std::tuple<v1::GenerateRequest, std::string, std::string>>{
           {huge, "failed", " code=DATA_LOSS adapter=\"huge\""},
           {mix, "failed", " code=DATA_LOSS adapter=\"plain,huge\""},
           {broken, "refused", " code=FAILED_PRECONDITION adapter=\"broken\""},
           {no_regex, "failed", " code=INVALID_ARGUMENT adapter=\"\""}}) {
    const auto line = [&, event = event, rest = rest](const char* method) {
      return ElementsAre(StartsWith(absl::StrCat(event, " method=", method, rest)));
    };
    const auto lines = LinesOf([&, request = request] { EXPECT_FALSE(Generate(request).ok()); });
    EXPECT_THAT(lines, line("Generate"));
    const auto of_stream = LinesOf([&, request = request] { EXPECT_FALSE(Stream(request).ok()); });
    EXPECT_THAT(of_stream, line("GenerateStream"));
  }
}

// Nobody is listened to whom the queue has no room for.
TEST(FullQueue, CallsAreRefusedBeforeTheirMessageComes) {
  Config config;
  config.running_requests = config.queue_requests = 1;
  TinyServer server(config);
  std::atomic<bool> stop = false;
  std::vector<std::thread> others;  // more than find room, so the queue is never empty for long
  for (int i = 0; i < 4; ++i) {
    others.emplace_back([&] {
      while (!stop) {
        Context context;
        v1::GenerateResponse response;
        (void)server.inference().Generate(&context, TokensRequest(480), &response);
      }
    });
  }
  server.WaitFor([](const auto& status) { return status.queued() == 1; });
  for (const char* method : {"Generate", "GenerateStream"}) {
    grpc::Status status;
    for (int i = 0; i < 10 && status.error_code() != grpc::StatusCode::UNAVAILABLE; ++i) {
      status = CallWithoutMessage(server, method, [](auto& context) {
        absl::SleepFor(kInstrumentationFactor * absl::Milliseconds(200));
        context.TryCancel();  // one that found room waits for its message
      });
    }
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << method;
    EXPECT_THAT(status.error_message(), StartsWith("the queue is full: its limit is 1 requests"));
  }
  EXPECT_GE(server.Status().counters().requests_refused(), 2);
  Context context;
  v1::TokenizeRequest tokenize;
  tokenize.set_prompt("a");
  v1::TokenizeResponse tokens;
  EXPECT_TRUE(server.inference().Tokenize(&context, tokenize, &tokens).ok()) << "needs no room";
  stop = true;
  for (std::thread& other : others) other.join();
  EXPECT_EQ(server.Status().queued(), 0);
}

// Nobody's mistake, and no line that says so.
TEST_F(FailedCalls, ACallThatEndsBeforeItsMessageIsLoggedAsCancelled) {
  absl::SleepFor(absl::Seconds(1));  // other tests have used up their lines
  const int64_t before = RefusalsLogged();
  const std::vector<std::string> lines = LinesOf([&] {
    // A call whose head was not there yet is nobody's, and has no line.
    for (absl::Duration after = absl::Milliseconds(50); after < absl::Seconds(5); after *= 2) {
      CancelBeforeMessage(server_, after);
      if (AwaitRefusalLogged(before, absl::Seconds(1))) break;
    }
  });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr("method=Generate code=CANCELLED"));
  EXPECT_THAT(lines[0], HasSubstr("before its message was here"));
  const std::vector<std::string> others = LinesOf([&] {
    const int64_t logged = RefusalsLogged();
    RawCall(server_, "/lorica.v1.InferenceService/Generate", "\x1A\x05hi");
    AwaitRefusalLogged(logged);
  });
  ASSERT_EQ(others.size(), 1u);
  EXPECT_THAT(others[0], HasSubstr("method=Generate code=INVALID_ARGUMENT"));
}

}  // namespace
}  // namespace lorica
