// Log-probabilities of prompts on a whole server, against those of generated tokens.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

constexpr int kBest = 3;

// Chunks and blocks end at odd places of the prompts here.
TinyServer& Shared() {
  static auto& server = *new TinyServer([] {
    Config config;
    config.chunk_tokens = 23;
    return config;
  }());
  return server;
}

v1::GenerateResponse Generate(const v1::GenerateRequest& request) {
  Context context;
  v1::GenerateResponse response;
  const grpc::Status status = Shared().inference().Generate(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

v1::GenerateRequest Scored(const std::vector<int32_t>& prompt, const v1::GenerateRequest& like) {
  v1::GenerateRequest request = like;
  request.mutable_token_ids()->Assign(prompt.begin(), prompt.end());
  request.set_max_tokens(1);
  request.clear_logprobs();
  request.set_prompt_logprobs(kBest);
  return request;
}

void ExpectSame(const v1::TokenLogprob& scored, const v1::TokenLogprob& generated) {
  EXPECT_EQ(scored.SerializeAsString(), generated.SerializeAsString())
      << scored.ShortDebugString() << " is not " << generated.ShortDebugString();
}

// The base, adapters and a mix.
std::vector<v1::GenerateRequest> Models() {
  std::vector<v1::GenerateRequest> models(4);
  models[1].set_adapter_id("plain");
  models[2].set_adapter_id("dora");
  for (const char* id : {"plain", "other"}) {
    v1::AdapterWeight* term = models[3].add_adapters();
    term->set_adapter_id(id);
    term->set_weight(0.75);
  }
  return models;
}

TEST(PromptLogprobs, MayBeAllThatIsAskedFor) {
  for (const v1::GenerateRequest& model : Models()) {
    const std::vector<int32_t> prompt = {5, 6, 7, 8};
    v1::GenerateRequest request = Scored(prompt, model);
    const v1::GenerateResponse with_answer = Generate(request);
    request.set_max_tokens(0);
    const v1::GenerateResponse scored = Generate(request);
    ASSERT_EQ(scored.prompt_logprobs_size(), 3);
    for (int i = 0; i < 3; ++i) {
      ExpectSame(scored.prompt_logprobs(i), with_answer.prompt_logprobs(i));
    }
    EXPECT_EQ(scored.token_ids_size(), 0);
    EXPECT_EQ(scored.text(), "");
    EXPECT_EQ(scored.finish_reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(scored.usage().prompt_tokens(), 4);
    EXPECT_EQ(scored.usage().completion_tokens(), 0);
    Context context;
    auto reader = Shared().inference().GenerateStream(&context, request);
    v1::GenerateStreamResponse chunk;
    int scores = 0;
    while (reader->Read(&chunk)) scores += chunk.prompt_logprobs_size();
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(scores, 3);
  }
}

// What a model said with some likelihood is as likely when it is said to it.
TEST(PromptLogprobs, OfAnAnswerAreThoseItWasMadeWith) {
  for (v1::GenerateRequest request : Models()) {
    *request.mutable_token_ids() = TokensRequest(1).token_ids();
    request.set_max_tokens(90);
    request.set_ignore_eos(true);
    request.set_temperature(1.5);
    request.set_seed(11);
    request.set_logprobs(kBest);
    const v1::GenerateResponse made = Generate(request);
    ASSERT_EQ(made.logprobs_size(), 90);
    std::vector<int32_t> prompt(request.token_ids().begin(), request.token_ids().end());
    const int begin = static_cast<int>(prompt.size());
    prompt.insert(prompt.end(), made.token_ids().begin(), made.token_ids().end());
    const v1::GenerateResponse scored = Generate(Scored(prompt, request));
    ASSERT_EQ(scored.prompt_logprobs_size(), std::ssize(prompt) - 1);
    EXPECT_EQ(scored.logprobs_size(), 0);
    EXPECT_EQ(scored.usage().cached_tokens(), 0);
    for (int i = 0; i < 90; ++i) {
      ExpectSame(scored.prompt_logprobs(begin - 1 + i), made.logprobs(i));
    }
  }
}

// Any token: each is forced upon the model behind the tokens before it.
TEST(PromptLogprobs, OfUnlikelyTokensAreThoseOfForcedOnes) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < 60; ++i) prompt.push_back((i * 37 + 5) % 256);
  for (const v1::GenerateRequest& model : Models()) {
    const v1::GenerateResponse scored = Generate(Scored(prompt, model));
    ASSERT_EQ(scored.prompt_logprobs_size(), 59);
    for (int i = 1; i < 60; ++i) {
      v1::GenerateRequest forced = model;
      forced.mutable_token_ids()->Assign(prompt.begin(), prompt.begin() + i);
      forced.set_max_tokens(1);
      forced.set_logprobs(kBest);
      v1::LogitBias* bias = forced.add_logit_bias();
      bias->set_token_id(prompt[i]);
      bias->set_bias(100);
      ExpectSame(scored.prompt_logprobs(i - 1), Generate(forced).logprobs(0));
    }
  }
}

TEST(PromptLogprobs, ComeOnceInAStream) {
  v1::GenerateRequest request = TokensRequest(20);
  request.set_prompt_logprobs(0);
  Context context;
  auto reader = Shared().inference().GenerateStream(&context, request);
  v1::GenerateStreamResponse chunk;
  std::vector<int32_t> scored;
  while (reader->Read(&chunk)) {
    for (const v1::TokenLogprob& token : chunk.prompt_logprobs()) {
      scored.push_back(token.token_id());
    }
    EXPECT_EQ(chunk.logprobs_size(), 0);
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_THAT(scored, ::testing::ElementsAreArray(request.token_ids().begin() + 1,
                                                  request.token_ids().end()));
}

TEST(PromptLogprobs, OfOneTokenAreNone) {
  v1::GenerateRequest request = TokensRequest(1);
  request.mutable_token_ids()->Truncate(1);
  request.set_prompt_logprobs(5);
  const v1::GenerateResponse response = Generate(request);
  EXPECT_EQ(response.token_ids_size(), 1);
  EXPECT_EQ(response.prompt_logprobs_size(), 0);
}

}  // namespace
}  // namespace lorica
