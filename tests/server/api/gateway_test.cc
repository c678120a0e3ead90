#include "server/api/gateway.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/api/field_error.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/fake_loader.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/server/api/fake_tokenizer.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

constexpr int32_t kBlocks = 64;
constexpr int kContext = 400;

// Shows the messages' contents only, one after the other.
class FakeTemplate : public ChatTemplate {
 public:
  absl::StatusOr<std::vector<PromptPart>> Render(absl::Span<const ChatTurn> messages,
                                                 bool add_generation_prompt,
                                                 std::string_view) const override {
    EXPECT_TRUE(add_generation_prompt);
    std::vector<PromptPart> parts = {{"<turn>", false}};
    for (const ChatTurn& turn : messages) parts.push_back({turn.content, true});
    return parts;
  }
};

// A gateway over a real engine on a fake device; the test is the engine's thread.
class GatewayTest : public ::testing::Test {
 protected:
  GatewayTest() {
    executor_.keep_log = true;
    limits_.context_tokens = kContext;
    limits_.vocabulary = tokenizer_.size();
    limits_.end_tokens = {FakeTokenizer::kEnd};
    limits_.base_name = "base";
    limits_.clock = [this] { return now_; };
    Make(&tokenizer_, &template_);
  }
  void Make(const Tokenizer* tokenizer, const ChatTemplate* chat_template) {
    gateway_ =
        std::make_unique<Gateway>(limits_, &engine_, &catalog_, &pool_, tokenizer, chat_template);
  }
  static EngineOptions Options() {
    EngineOptions options;
    options.context_tokens = kContext;
    options.vocabulary = 259;
    return options;
  }
  static GenerateCall Call(int max_tokens = 8) {
    GenerateCall call;
    call.prompt = "hi";
    call.max_tokens = max_tokens;
    call.ignore_eos = true;
    call.seed = 1;  // the fake device draws by it, also when greedy
    return call;
  }
  void Steps(int count) {
    for (int i = 0; i < count; ++i) engine_.Step(now_);
  }

  struct Read {
    std::vector<int32_t> ids;
    std::optional<AnswerEnd> end;
  };
  // Steps and takes until the answer has ended.
  Read ReadAll(Answer& answer) {
    Read read;
    for (int i = 0; i < 1000 && !read.end; ++i) {
      engine_.Step(now_);
      AnswerChunk chunk;
      answer.Take(&chunk, &read.end);
      for (const auto& token : chunk.tokens) read.ids.push_back(token.id);
    }
    EXPECT_TRUE(read.end) << "the answer never ended";
    return read;
  }

  absl::Time now_ = absl::UnixEpoch();
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
  Engine engine_{Options(), &executor_, &pool_, &arena_};
  FakeTokenizer tokenizer_;
  FakeTemplate template_;
  GatewayLimits limits_;
  TenantPtr tenant_ = std::make_shared<Tenant>();
  std::unique_ptr<Gateway> gateway_;
};

TEST_F(GatewayTest, ParametersReachTheSampler) {
  GenerateCall call = Call(3);
  call.temperature = 0.5;
  call.top_k = 7;
  call.top_p = 0.75;
  call.min_p = 0.25;
  call.repetition_penalty = 1.5;
  call.presence_penalty = -2.0;
  call.frequency_penalty = 3.0;
  call.seed = 42;
  call.logprobs = 5;
  call.logit_bias = {{3, -50.0}};
  auto answer = gateway_->Generate(call);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(ReadAll(**answer).ids.size(), 3u);
  const StepBatch& first = executor_.log.at(0);
  EXPECT_THAT(first.tokens, ElementsAreArray({'h', 'i'}));
  const SampleParams& params = first.samples.at(0).params;
  EXPECT_EQ(params.temperature, 0.5f);
  EXPECT_EQ(params.top_k, 7);
  EXPECT_EQ(params.top_p, 0.75f);
  EXPECT_EQ(params.min_p, 0.25f);
  EXPECT_EQ(params.repetition_penalty, 1.5f);
  EXPECT_EQ(params.presence_penalty, -2.0f);
  EXPECT_EQ(params.frequency_penalty, 3.0f);
  EXPECT_EQ(params.seed, 42u);
  EXPECT_EQ(params.logprobs, 5);
  EXPECT_EQ(first.samples.at(0).bias_count, 1);
}

TEST_F(GatewayTest, MessagesGoThroughTheTemplate) {
  GenerateCall call = Call(1);
  call.prompt.reset();
  call.messages = {{"user", "a<end>"}};
  auto answer = gateway_->Generate(call);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(ReadAll(**answer).end->prompt_tokens, 7);
  EXPECT_THAT(executor_.log.at(0).tokens,
              ElementsAreArray({int{FakeTokenizer::kTurn}, int{'a'}, int{'<'}, int{'e'}, int{'n'},
                                int{'d'}, int{'>'}}))
      << "a special token written by a user is text";
}

// The tiny model's byte-level tokenizer, with two more added tokens: one that is not special
// is still none of a user's business.
std::unique_ptr<Tokenizer> TokenizerWithTools() {
  std::ifstream file(LORICA_TEST_DATA "/reference/tiny-llama/tokenizer.json");
  auto document = nlohmann::json::parse(file);
  for (const bool normalized : {false, true}) {
    document["added_tokens"].push_back({{"id", 259 + normalized},
                                        {"content", normalized ? "<tool>" : "<turn>"},
                                        {"special", false},
                                        {"normalized", normalized}});
  }
  auto tokenizer = MakeTokenizerFromJson(document.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST_F(GatewayTest, NoAddedTokenIsReadOutOfAMessage) {
  const auto tokenizer = TokenizerWithTools();
  Make(tokenizer.get(), &template_);
  for (const std::string added : {"<turn>", "<tool>", "<|end|>", "</s>"}) {
    auto tokens = gateway_->Tokenize("a" + added, {});
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    EXPECT_THAT(tokens->tokens, ElementsAre("a", added)) << "a prompt is taken raw";
    tokens = gateway_->Tokenize(std::nullopt, {{"user", "a" + added}});
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    EXPECT_EQ(tokens->tokens.at(0), "<turn>") << "the template's own";
    EXPECT_EQ(tokens->tokens.size(), 2 + added.size()) << added;
    tokens =
        gateway_->Tokenize(std::nullopt, {{"user", added.substr(0, 3)}, {"user", added.substr(3)}});
    EXPECT_EQ(tokens->tokens.size(), 1 + added.size()) << "pieced together: " << added;
  }
}

TEST_F(GatewayTest, PromptsRecogniseSpecialTokens) {
  GenerateCall call = Call(1);
  call.prompt = "a<end>";
  auto answer = gateway_->Generate(call);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(ReadAll(**answer).end->prompt_tokens, 2);
}

TEST_F(GatewayTest, AbsentMaxTokensIsTheDefaultCutToTheRoom) {
  GenerateCall call = Call();
  call.max_tokens.reset();
  auto answer = gateway_->Generate(call);
  EXPECT_EQ(ReadAll(**answer).ids.size(), kMaxTokensDefault);
  call.prompt = std::string(kContext - 5, 'a');
  answer = gateway_->Generate(call);
  EXPECT_EQ(ReadAll(**answer).ids.size(), 5u);
  call.prompt = std::string(kContext, 'a');
  EXPECT_TRUE(absl::IsInvalidArgument(gateway_->Generate(call).status()));
  EXPECT_EQ(gateway_->refused_count(), 1);
}

TEST_F(GatewayTest, StopStringsAreFoundAndTheRestIsNotCounted) {
  const std::vector<int32_t> whole = ReadAll(**gateway_->Generate(Call(40))).ids;
  GenerateCall call = Call(40);
  size_t at = 10;
  while (at < whole.size() && (whole[at] <= ' ' || whole[at] >= 0x7f)) ++at;
  ASSERT_LT(at, whole.size()) << "no printable byte to stop at";
  call.stop = {std::string(1, static_cast<char>(whole[at]))};
  const Read read = ReadAll(**gateway_->Generate(call));
  EXPECT_EQ(read.end->reason, StopReason::kStopString);
  EXPECT_LE(read.ids.size(), at + 1);
  EXPECT_EQ(read.ids.back(), whole[at]);
  EXPECT_EQ(read.end->completion_tokens, read.ids.size());
}

TEST_F(GatewayTest, AStopStringCanBePartOfTheText) {
  const std::vector<int32_t> whole = ReadAll(**gateway_->Generate(Call(40))).ids;
  const auto at =
      std::find_if(whole.begin(), whole.end(), [](int32_t id) { return id > ' ' && id < 0x7f; });
  ASSERT_NE(at, whole.end()) << "no printable byte to stop at";
  GenerateCall call = Call(40);
  call.stop = {"never", std::string(1, static_cast<char>(*at))};
  for (const bool included : {false, true}) {
    call.include_stop = included;
    auto answer = gateway_->Generate(call);
    ASSERT_TRUE(answer.ok()) << answer.status();
    AnswerChunk all;
    std::optional<AnswerEnd> end;
    for (int i = 0; i < 1000 && !end; ++i) {
      engine_.Step(now_);
      (*answer)->Take(&all, &end);
    }
    EXPECT_EQ(end->reason, StopReason::kStopString);
    EXPECT_EQ(all.text.ends_with(call.stop[1]), included) << all.text;
  }
}

TEST_F(GatewayTest, TheLastTokenIsKnownWhenItComes) {
  GenerateCall call = Call(3);
  auto answer = gateway_->Generate(call);
  for (int token = 1; token <= 3; ++token) {
    Steps(1);
    AnswerChunk chunk;
    std::optional<AnswerEnd> end;
    ASSERT_TRUE((*answer)->Take(&chunk, &end));
    EXPECT_EQ(chunk.last, token == 3);
  }
}

TEST_F(GatewayTest, TruncationKeepsTheEndOfThePrompt) {
  GenerateCall call = Call(1);
  call.prompt = "abcdef";
  call.truncate = 2;
  EXPECT_EQ(ReadAll(**gateway_->Generate(call)).end->prompt_tokens, 2);
  EXPECT_THAT(executor_.log.at(0).tokens, ElementsAreArray({'e', 'f'}));
  call.truncate = 7;
  EXPECT_EQ(ReadAll(**gateway_->Generate(call)).end->prompt_tokens, 6);
  call.truncate = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(gateway_->Generate(call).status()));
}

TEST_F(GatewayTest, SamplesOfOneCallAreThoseOfItsSeedsOneAfterTheOther) {
  auto answers = gateway_->GenerateSamples(tenant_, Call(12), 3);
  ASSERT_TRUE(answers.ok()) << answers.status();
  ASSERT_EQ(answers->size(), 3u);
  for (int i = 0; i < 3; ++i) {
    GenerateCall alone = Call(12);
    alone.seed = 1 + i;
    EXPECT_EQ(ReadAll(*(*answers)[i]).ids, ReadAll(**gateway_->Generate(alone)).ids) << i;
  }
}

TEST_F(GatewayTest, SamplesAreBoundedAndComeAllOrNone) {
  EXPECT_TRUE(absl::IsInvalidArgument(gateway_->GenerateSamples(tenant_, Call(), 0).status()));
  EXPECT_TRUE(gateway_->GenerateSamples(tenant_, Call(), kSamplesMax).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(
      gateway_->GenerateSamples(tenant_, Call(), kSamplesMax + 1).status()));
  EXPECT_EQ(gateway_->refused_count(), 2);
  const int room = EngineOptions().queue_requests_max - kSamplesMax;
  for (int i = 0; i < room - 1; ++i) ASSERT_TRUE(gateway_->Generate(Call()).ok()) << i;
  EXPECT_TRUE(absl::IsUnavailable(gateway_->GenerateSamples(tenant_, Call(), 2).status()));
  Steps(1);
  EXPECT_EQ(engine_.stats().cancelled, 1) << "the one that had been taken";
}

// Who comes to a server that ends should not come back to it.
TEST_F(GatewayTest, AFullQueueIsToldBeforeACallIsPreparedAndADrainBeforeThat) {
  EXPECT_TRUE(gateway_->CheckRoom(*tenant_).ok());
  while (gateway_->Generate(Call()).ok()) continue;
  const int64_t refused = gateway_->refused_count();
  const absl::Status full = gateway_->CheckRoom(*tenant_);
  EXPECT_TRUE(absl::IsUnavailable(full)) << full;
  EXPECT_THAT(std::string(full.message()), ::testing::HasSubstr("the queue is full"));
  gateway_->StartDrain();
  const absl::Status drains = gateway_->CheckRoom(*tenant_);
  EXPECT_TRUE(MeansElsewhere(drains)) << drains;
  EXPECT_EQ(gateway_->refused_count(), refused + 2);
}

TEST_F(GatewayTest, AnUnreadAnswerIsPausedThenCancelled) {
  auto answer = gateway_->Generate(Call(300));
  ASSERT_TRUE(answer.ok()) << answer.status();
  bool stalled = false;
  (*answer)->NotifyWhenStalled([&] { stalled = true; });
  Steps(200);
  EXPECT_LE(engine_.stats().generated_tokens, kPendingTokensMax + 2);
  EXPECT_EQ(engine_.stats().paused, 1);
  gateway_->Tick(now_);
  gateway_->Tick(now_ + kSlowReaderLimit - absl::Milliseconds(1));
  Steps(1);
  EXPECT_FALSE(stalled);
  EXPECT_EQ(gateway_->open_answers(), 1);
  gateway_->Tick(now_ + kSlowReaderLimit);
  EXPECT_TRUE(stalled);
  Steps(1);
  EXPECT_EQ(engine_.stats().kv_blocks, 0);
  const Read read = ReadAll(**answer);
  EXPECT_TRUE(absl::IsResourceExhausted(read.end->status)) << read.end->status;
  EXPECT_EQ(gateway_->open_answers(), 0);
}

TEST_F(GatewayTest, APausedAnswerGoesOnWhenItIsRead) {
  const std::vector<int32_t> alone = ReadAll(**gateway_->Generate(Call(300))).ids;
  auto answer = gateway_->Generate(Call(300));
  Steps(200);
  EXPECT_EQ(ReadAll(**answer).ids, alone);
}

TEST_F(GatewayTest, CancelFreesByTheNextStep) {
  auto answer = gateway_->Generate(Call(300));
  Steps(5);
  EXPECT_GT(engine_.stats().kv_blocks, 0);
  (*answer)->Cancel();
  Steps(1);
  EXPECT_EQ(engine_.stats().kv_blocks, 0);
  EXPECT_TRUE(absl::IsCancelled(ReadAll(**answer).end->status));
}

TEST_F(GatewayTest, DeadlinesEndRequestsAndThePastIsRefused) {
  GenerateCall call = Call(300);
  call.deadline = now_ + absl::Seconds(1);
  auto answer = gateway_->Generate(call);
  ASSERT_TRUE(answer.ok()) << answer.status();
  Steps(3);
  now_ += absl::Seconds(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(ReadAll(**answer).end->status));
  EXPECT_TRUE(absl::IsDeadlineExceeded(gateway_->Generate(call).status()));
  call.deadline = absl::InfiniteFuture();
  answer = gateway_->Generate(call);
  Steps(3);
  now_ += kGenerateDeadlineMax;
  EXPECT_TRUE(absl::IsDeadlineExceeded(ReadAll(**answer).end->status)) << "the server's own limit";
}

TEST_F(GatewayTest, DrainRefusesNewCallsAndEndsOldOnes) {
  auto answer = gateway_->Generate(Call(20));
  gateway_->StartDrain();
  EXPECT_TRUE(absl::IsUnavailable(gateway_->Generate(Call()).status()));
  EXPECT_EQ(ReadAll(**answer).ids.size(), 20u);
}

TEST_F(GatewayTest, WithoutATokenizerTokenIdsStillWork) {
  Make(nullptr, nullptr);
  EXPECT_TRUE(absl::IsFailedPrecondition(gateway_->Generate(Call()).status()));
  GenerateCall call = Call(4);
  call.prompt.reset();
  call.token_ids = {1, 2};
  auto answer = gateway_->Generate(call);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(ReadAll(**answer).ids.size(), 4u);
  call.stop = {"x"};
  EXPECT_TRUE(absl::IsFailedPrecondition(gateway_->Generate(call).status()));
  Make(&tokenizer_, nullptr);
  GenerateCall chat = Call();
  chat.prompt.reset();
  chat.messages = {{"user", "hi"}};
  EXPECT_TRUE(absl::IsFailedPrecondition(gateway_->Generate(chat).status()));
}

TEST_F(GatewayTest, UnknownAdaptersAreNotFoundAndHoldNothing) {
  for (int i = 0; i < 1000; ++i) {
    GenerateCall call = Call();
    call.adapter_id = "unknown-" + std::to_string(i);
    EXPECT_TRUE(absl::IsNotFound(gateway_->Generate(call).status()));
  }
  EXPECT_EQ(gateway_->refused_count(), 1000);
  EXPECT_EQ(gateway_->open_answers(), 0);
  EXPECT_EQ(engine_.stats().accepted, 0);
}

}  // namespace
}  // namespace lorica
