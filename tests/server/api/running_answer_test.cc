#include "server/api/running_answer.h"

#include <string>

#include "adapters/adapter_fault.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/api/field_error.h"
#include "tests/server/api/fake_tokenizer.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Writes down what the answer asks of the engine.
class FakeControl : public RequestControl {
 public:
  void Cancel(RequestId id) override { Add("cancel", id); }
  void Finish(RequestId id, StopReason reason) override {
    EXPECT_EQ(reason, StopReason::kStopString);
    Add("finish", id);
  }
  void Pause(RequestId id) override { Add("pause", id); }
  void Resume(RequestId id) override { Add("resume", id); }
  std::vector<std::string> calls;

 private:
  void Add(const std::string& what, RequestId id) {
    EXPECT_EQ(id, 7u);
    calls.push_back(what);
  }
};

TokenEvent Tokens(const std::string& text) {
  TokenEvent event;
  for (const char c : text) event.tokens.push_back({static_cast<unsigned char>(c)});
  return event;
}

FinishEvent Finished(StopReason reason, absl::Status status = absl::OkStatus()) {
  FinishEvent event;
  event.status = std::move(status);
  event.reason = reason;
  event.completion_tokens = 99;  // the engine's own count, surplus included
  return event;
}

std::vector<int32_t> Ids(const AnswerChunk& chunk) {
  std::vector<int32_t> ids;
  for (const auto& token : chunk.tokens) ids.push_back(token.id);
  return ids;
}

class RunningAnswerTest : public ::testing::Test {
 protected:
  void Make(std::vector<std::string> stop = {}, bool skip_special = true) {
    AnswerOptions options;
    options.tokenizer = &tokenizer_;
    options.skip_special_tokens = skip_special;
    options.stop = std::move(stop);
    options.end_ids = {FakeTokenizer::kEnd};
    answer_ = std::make_shared<RunningAnswer>(std::move(options), &control_);
    answer_->Admitted(7);
  }
  // One Take; the end, if any, is kept.
  AnswerChunk Take() {
    AnswerChunk chunk;
    answer_->Take(&chunk, &end_);
    return chunk;
  }

  FakeTokenizer tokenizer_;
  FakeControl control_;
  std::shared_ptr<RunningAnswer> answer_;
  std::optional<AnswerEnd> end_;
};

TEST_F(RunningAnswerTest, TokensCoalesceUntilTheyAreTaken) {
  Make();
  answer_->OnTokens(Tokens("a"));
  answer_->OnTokens(Tokens("bc"));
  const AnswerChunk chunk = Take();
  EXPECT_EQ(chunk.text, "abc");
  EXPECT_THAT(Ids(chunk), ElementsAre('a', 'b', 'c'));
  EXPECT_FALSE(end_);
  AnswerChunk none;
  EXPECT_FALSE(answer_->Take(&none, &end_));
}

TEST_F(RunningAnswerTest, TheEndTokenIsDeliveredButIsNoText) {
  Make({}, /*skip_special=*/false);
  TokenEvent event = Tokens("a");
  event.tokens.push_back({FakeTokenizer::kTurn});
  event.tokens.push_back({FakeTokenizer::kEnd});
  answer_->OnTokens(event);
  answer_->OnFinish(Finished(StopReason::kEndToken));
  const AnswerChunk chunk = Take();
  EXPECT_EQ(chunk.text, "a<turn>");
  EXPECT_EQ(chunk.tokens.size(), 3u);
  ASSERT_TRUE(end_);
  EXPECT_EQ(end_->reason, StopReason::kEndToken);
  EXPECT_EQ(end_->completion_tokens, 3);
}

TEST_F(RunningAnswerTest, AStopStringAcrossTokensEndsTextAndTokens) {
  Make({"xyz"});
  answer_->OnTokens(Tokens("abx"));
  EXPECT_EQ(Take().text, "ab") << "what may become the stop string is held back";
  answer_->OnTokens(Tokens("yzmore"));
  const AnswerChunk chunk = Take();
  EXPECT_EQ(chunk.text, "");
  EXPECT_THAT(Ids(chunk), ElementsAre('y', 'z'));
  EXPECT_THAT(control_.calls, ElementsAre("finish"));
  answer_->OnTokens(Tokens("late"));
  AnswerChunk none;
  EXPECT_FALSE(answer_->Take(&none, &end_));
  answer_->OnFinish(Finished(StopReason::kStopString));
  EXPECT_THAT(Ids(Take()), IsEmpty());
  ASSERT_TRUE(end_);
  EXPECT_EQ(end_->reason, StopReason::kStopString);
  EXPECT_EQ(end_->completion_tokens, 5);
}

TEST_F(RunningAnswerTest, AStopFoundAfterTheEngineEndedStillDecides) {
  Make({"b"});
  answer_->OnTokens(Tokens("abc"));
  answer_->OnFinish(Finished(StopReason::kLength));
  const AnswerChunk chunk = Take();
  EXPECT_EQ(chunk.text, "a");
  EXPECT_THAT(Ids(chunk), ElementsAre('a', 'b'));
  ASSERT_TRUE(end_);
  EXPECT_EQ(end_->reason, StopReason::kStopString);
  EXPECT_EQ(end_->completion_tokens, 2);
}

TEST_F(RunningAnswerTest, HeldBackTextComesWithTheEnd) {
  Make({"xyz"});
  answer_->OnTokens(Tokens("axy\xc3"));
  EXPECT_EQ(Take().text, "a");
  answer_->OnFinish(Finished(StopReason::kLength));
  EXPECT_EQ(Take().text, "xy\xEF\xBF\xBD");
}

TEST_F(RunningAnswerTest, PausesAboveTheLimitAndResumesWhenTaken) {
  Make();
  answer_->OnTokens(Tokens(std::string(kPendingTokensMax, 'a')));
  EXPECT_THAT(control_.calls, IsEmpty());
  answer_->OnTokens(Tokens("a"));
  answer_->OnTokens(Tokens("a"));
  EXPECT_THAT(control_.calls, ElementsAre("pause"));
  EXPECT_EQ(Take().text.size(), kPendingTokensMax + 2u);
  EXPECT_THAT(control_.calls, ElementsAre("pause", "resume"));
}

TEST_F(RunningAnswerTest, AReaderThatStopsReadingIsCancelled) {
  Make();
  int stalled = 0;
  answer_->NotifyWhenStalled([&] { ++stalled; });
  const absl::Time begin = absl::UnixEpoch();
  answer_->CheckStalled(begin);
  answer_->OnTokens(Tokens("a"));
  answer_->CheckStalled(begin + absl::Seconds(1));
  answer_->CheckStalled(begin + absl::Seconds(1) + kSlowReaderLimit - absl::Milliseconds(1));
  EXPECT_THAT(control_.calls, IsEmpty());
  answer_->CheckStalled(begin + absl::Seconds(1) + kSlowReaderLimit);
  answer_->CheckStalled(begin + absl::Hours(1));
  EXPECT_THAT(control_.calls, ElementsAre("cancel"));
  EXPECT_EQ(stalled, 1);
  answer_->OnFinish(Finished(StopReason::kNone, absl::CancelledError("cancelled")));
  Take();
  ASSERT_TRUE(end_);
  EXPECT_TRUE(absl::IsResourceExhausted(end_->status)) << end_->status;
}

TEST_F(RunningAnswerTest, AReaderThatReadsNowAndThenIsFine) {
  Make();
  absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < 10; ++i) {
    answer_->OnTokens(Tokens("a"));
    answer_->CheckStalled(now);
    now += kSlowReaderLimit - absl::Seconds(1);
    answer_->CheckStalled(now);
    Take();
  }
  EXPECT_THAT(control_.calls, IsEmpty());
}

TEST_F(RunningAnswerTest, ReadyIsCalledOnceWhenSomethingIsThere) {
  Make();
  int ready = 0;
  answer_->NotifyWhenReady([&] { ++ready; });
  EXPECT_EQ(ready, 0);
  answer_->OnTokens(Tokens("a"));
  answer_->OnTokens(Tokens("b"));
  EXPECT_EQ(ready, 1);
  answer_->NotifyWhenReady([&] { ++ready; });
  EXPECT_EQ(ready, 2) << "at once where something waits already";
}

TEST_F(RunningAnswerTest, AFailureKeepsItsStatusAndWhatCameBefore) {
  Make({"zz"});
  answer_->OnTokens(Tokens("abz"));
  answer_->OnFinish(Finished(StopReason::kNone, absl::UnavailableError("gone")));
  const AnswerChunk chunk = Take();
  EXPECT_EQ(chunk.text, "ab");
  ASSERT_TRUE(end_);
  EXPECT_TRUE(absl::IsUnavailable(end_->status));
  EXPECT_EQ(end_->completion_tokens, 3);
}

TEST_F(RunningAnswerTest, AFaultNamesTheAdapterOnceAndTheFieldThatIsToBlame) {
  const auto end_of = [this](const absl::Status& status, std::vector<AdapterUse> adapters) {
    AnswerOptions options;
    options.tokenizer = &tokenizer_;
    answer_ = std::make_shared<RunningAnswer>(std::move(options), &control_);
    answer_->SetAdapters(std::move(adapters));
    answer_->Admitted(7);
    answer_->OnFinish(Finished(StopReason::kNone, status));
    end_.reset();
    Take();
    return end_->status;
  };
  const absl::Status damaged = AdapterFault(absl::DataLossError("the output is not finite"));
  EXPECT_EQ(end_of(damaged, {{"a"}}).message(), "adapter 'a': the output is not finite");
  EXPECT_TRUE(IsAdapterFault(end_of(damaged, {{"a"}})));
  EXPECT_EQ(end_of(damaged, {{"a"}, {"b"}}).message(),
            "one of the adapters 'a', 'b': the output is not finite");
  EXPECT_EQ(end_of(AdapterFault(absl::DataLossError("'a': changed")), {{"a"}}).message(),
            "'a': changed");
  EXPECT_EQ(end_of(absl::InternalError("the base"), {{"a"}}).message(), "the base");
  EXPECT_EQ(FieldOf(end_of(absl::InvalidArgumentError("logit_bias bans all"), {})), "logit_bias");
  EXPECT_EQ(FieldOf(end_of(FieldError("stop", "is long"), {})), "stop");
}

TEST_F(RunningAnswerTest, CancelAfterTheEndAsksForNothing) {
  Make();
  answer_->Cancel();
  EXPECT_THAT(control_.calls, ElementsAre("cancel"));
  answer_->OnFinish(Finished(StopReason::kNone, absl::CancelledError("cancelled")));
  answer_->Cancel();
  EXPECT_THAT(control_.calls, ElementsAre("cancel"));
  Take();
  EXPECT_TRUE(answer_->ended());
}

TEST_F(RunningAnswerTest, ItsEndSaysWhetherItWasRefusedOrFailedBeforeItsAdmissionWasKnown) {
  for (const bool refused : {false, true}) {
    AnswerOptions options;
    options.tokenizer = &tokenizer_;
    answer_ = std::make_shared<RunningAnswer>(std::move(options), &control_);
    if (refused) {
      answer_->Refuse(absl::DataLossError("it holds NaN"));
    } else {
      answer_->OnFinish(Finished(StopReason::kNone, absl::DataLossError("it holds NaN")));
    }
    answer_->Admitted(7);
    Take();
    EXPECT_TRUE(absl::IsDataLoss(end_->status));
    EXPECT_EQ(end_->refused, refused);
  }
}

TEST_F(RunningAnswerTest, TokensBeforeAdmissionCountTowardsThePause) {
  AnswerOptions options;
  options.tokenizer = &tokenizer_;
  answer_ = std::make_shared<RunningAnswer>(std::move(options), &control_);
  answer_->OnTokens(Tokens(std::string(kPendingTokensMax + 1, 'a')));
  EXPECT_THAT(control_.calls, IsEmpty());
  answer_->Admitted(7);
  EXPECT_THAT(control_.calls, ElementsAre("pause"));
}

}  // namespace
}  // namespace lorica
